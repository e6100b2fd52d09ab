//! What nodes tell each other through the meadow: they share nothing else, and no port is open between them.
//!
//! ```text
//! _heartbeats/<node>.json                         a node lives while this object changes
//! _heartbeats/_doorbell                           changes when there is news for others: what an idle node looks at
//! _heartbeats/_mark                               written by who only looks: beats are old beside it
//! _queries/<query>/query.json                     the query lives while this object is there
//! _queries/<query>/<stage>/<task>/<n>.<node>.task attempt n of a task, given to one node
//! _queries/<query>/<stage>/<task>/<n>.<r>.out     its output, unless it is small; r is random, written once
//! _queries/<query>/<stage>/<task>/<n>.failed      why it failed
//! _queries/<query>/<stage>/<task>.done            the one attempt that counts: created once, by whoever is first
//! ```
//! Retries, stragglers and zombies are all settled by the conditional create of `.done`. Everything read here was
//! written by another machine and is parsed as hostile: sizes are bounded, names are checked, nothing panics.
//!
//! | file | noun |
//! |---|---|
//! | `names` | ids and paths of the objects above |
//! | `beat` | what a node says of itself |
//! | `view` | which nodes live, by what was seen to change |
//! | `record` | tasks, completions and failures as objects |
//! | `output` | a task's batches as one object, and back |
//! | `board` | the leader's decisions: who gets which attempt, and when to give up |

pub mod beat;
pub mod board;
pub mod names;
pub mod output;
pub mod record;
pub mod view;
