//! Everything that touches the meadow: objects, names, ledgers and cells. No actor framework is known here.
//!
//! | file | noun |
//! |---|---|
//! | `backend` | a place that holds objects, chosen by URL: `local`, `cloud`, memory |
//! | `metered`, `faulty` | decorators: count requests; inject faults (for tests) |
//! | `hedged` | decorator: asks a second time for what takes unusually long |
//! | `cached` | decorator: keeps ranges of remote cells on local disk |
//! | `probe` | whether a place keeps the promises that commits rest on |
//! | `meadow` | an opened place: its format record, its registry, its ledgers |
//! | `names` | hive, box and frame names |
//! | `registry` | which names exist |
//! | `schema` | types and columns: what a frame takes, what is refused |
//! | `leafcutter` | how large cells and row groups are cut |
//! | `cells`, `cell_stats`, `stats_columns` | Parquet files being written, and what the ledger says of which of their columns |
//! | `frame_state` | one version of a frame: columns, settings, names within cells |
//! | `file_columns` | how columns are found in files that call them something else |
//! | `ledger`, `change`, `history` | a frame's Delta log: snapshots, commits and what conflicts, the past |
//! | `commit_line` | commits of one frame that wait for each other |
//! | `listing`, `partition_values`, `deleted_rows` | the cells of one version, and which of their rows do not count |
//! | `vectors` | deletion vectors that commits write |
//! | `alter`, `restore`, `log_entry` | commits of metadata, and of versions that come back |
//! | `stream_buffer` | rows on the local disk that are not committed yet |
//! | `vacuum`, `log_cleanup` | cells and log entries that no version needs |
//! | `verify` | whether the files of a frame are those that its ledger says |
//! | `clustering` | the order that a frame's rows are kept in, and which cells that wants anew |
//! | `claim` | jobs that one node at a time does |
//! | `swarm` | what nodes tell each other through the meadow |

pub mod alter;
pub mod backend;
pub mod cached;
mod cell_stats;
pub mod cells;
pub mod change;
pub mod claim;
mod cloud;
pub mod clustering;
mod commit_line;
pub mod deleted_rows;
mod error;
pub mod faulty;
pub mod file_columns;
mod frame_state;
pub mod hedged;
mod history;
pub mod leafcutter;
pub mod ledger;
pub mod listing;
mod local;
pub mod log_cleanup;
mod log_entry;
mod meadow;
pub mod metered;
mod names;
mod partition_values;
pub mod probe;
pub mod registry;
mod restore;
pub mod schema;
mod stats_columns;
pub mod stream_buffer;
pub mod swarm;
pub mod vacuum;
mod vectors;
mod verify;

pub use alter::{Alteration, Check};
pub use backend::{LocalBackend, MemoryBackend, StorageBackend, open_backend};
pub use change::{Change, ChangeResult, Replaced, Rewrite, Transaction};
pub use cloud::S3Backend;
pub use clustering::{Clustering, Placement, Worth};
pub(crate) use error::store_error;
pub use frame_state::FrameState;
pub use history::{Commit, HistoryEntry};
pub use ledger::{AsOf, FrameInfo, Ledger, WriteMode, WriteResult};
pub use listing::Cells;
pub(crate) use meadow::housekeeping;
pub use meadow::{Meadow, Named};
pub use names::{BoxName, FrameName, FrameRef, HiveName, MAX_NAME};
pub use registry::{MAX_VIEW, ViewRecord};
pub use restore::RestoreResult;
pub use vectors::Marks;
pub use verify::{Finding, Problem};
