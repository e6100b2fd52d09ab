//! The runtime: a colony of bees, and the handles through which programs use it.
//!
//! ```text
//!  Colony (handle) ──admission──▶ Scout            one thread: plans statements, runs the short ones
//!        │                          │ hands on
//!        │                          ▼
//!        │                         Bee 0..n-1       one arbiter = one OS thread each; runs tasks in chambers
//!        │                          ▲ respawns
//!        └──messages──▶ ColonyActor ┘              supervises, measures temperature, shuts down
//!                       LedgerActor                commits
//!                       HeartbeatActor             this node's beat, its view of the swarm, news of shared queries
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `colony` | the handle: start, ask, write, stop |
//! | `session` | the handle of one user's session |
//! | `settings` | plain values |
//! | `supervisor` | the actor that keeps the bees alive |
//! | `bee` | the actor that runs tasks |
//! | `chamber` | the sealed place where a bee runs one query's tasks |
//! | `channel` | how a plan's tasks reach bees, and their batches come back |
//! | `ledger` | the actor that owns commits |
//! | `scout` | the actor that plans statements and runs the short ones |
//! | `lead` | one statement from its plan to its last row |
//! | `change` | DELETE, UPDATE, MERGE and OPTIMIZE |
//! | `alter` | changes of a frame that its rows must allow |
//! | `verify` | the bees read all of a version, to compare it with its ledger |
//! | `housekeeper` | the actor that merges cells and removes what is not needed |
//! | `heartbeat` | this node's beat and its view of the swarm |
//! | `pace` | how often this node asks what is new |
//! | `share` | a query whose tasks this node gives to the swarm, or to itself a stage at a time |
//! | `foreign` | queries of other nodes that have work for this one |
//! | `attempt` | one attempt on this node at a task of a shared or staged query |
//! | `exchange` | how tasks on different nodes, or in different stages, get at each other's rows |
//! | `world` | the tables of the box `system` |
//! | `write` | cells encoded by all bees, one commit |
//! | `gather` | small appends that share a cell and a commit |
//! | `stream` | rows that come a few at a time |
//! | `query` | a running query: record, limits, statistics, stream |
//! | `admission` | how much may run and wait |
//! | `temperature` | how loaded the node is |
//! | `regulation` | what it does about it |
//! | `scratch` | where bees spill and stages hand rows on |
//! | `wear` | what is written to the local disk, in this process and those before |
//! | `guard` | what the process holds, and who must go when it is too much |

mod admission;
mod alter;
mod attempt;
mod bee;
mod chamber;
mod change;
mod channel;
mod colony;
mod exchange;
mod foreign;
mod gather;
mod guard;
mod heartbeat;
mod housekeeper;
mod lead;
mod ledger;
mod pace;
mod query;
mod regulation;
mod scout;
mod scratch;
mod session;
pub mod settings;
mod share;
mod stream;
mod supervisor;
pub mod temperature;
mod verify;
mod wear;
mod world;
mod write;

pub use crate::sql::{Backpressure, Params};
pub use colony::{Colony, ColonyStatus};
pub use heartbeat::NodeInfo;
pub use query::{Canceller, Query, QueryStats, QueryStream, StatsHandle};
pub use scratch::Spill;
pub use session::Session;
pub use settings::Settings;
pub use stream::{FrameStream, StreamSettings};
pub use wear::DiskWritten;
pub use write::WriteOptions;
