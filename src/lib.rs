//! Apiary: a lakehouse for small compute.
//!
//! ACID tables over Parquet in a folder or an object store, SQL over them, and a runtime of actors in which every CPU
//! core is a *bee* with a hard memory budget. A [`Colony`] is one node: it is the public API of this crate, of the
//! `apiary-node` binary and of the Python package alike.
//!
//! ```
//! use apiary::{Colony, Settings};
//!
//! # fn main() -> apiary::Result<()> {
//! let colony = Colony::start(Settings::new("memory://").with_bees(2))?;
//! let rows = colony.block_on(async {
//!     colony.sql("CREATE FRAME readings (sensor INT, celsius DOUBLE)").await?.collect().await?;
//!     colony.sql("INSERT INTO readings VALUES (1, 20.5), (2, 19.0)").await?.collect().await?;
//!     colony.sql("SELECT max(celsius) FROM readings").await?.collect().await
//! })?;
//! assert_eq!(rows[0].num_rows(), 1);
//! colony.shutdown()
//! # }
//! ```
//!
//! The layers depend one way: `py, bin → actors → sql → storage`.

pub mod actors;
mod error;
pub mod memory;
#[cfg(feature = "python")]
mod py;
pub mod size;
pub mod sql;
pub mod storage;
mod sync;

// The Python module is a program of its own.
#[cfg(feature = "python")]
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

pub use actors::{
    Colony, ColonyStatus, FrameStream, Query, QueryStats, QueryStream, Session, Settings, StreamSettings,
};
pub use error::{Error, ErrorKind, Result};
pub use storage::{AsOf, BoxName, FrameInfo, FrameRef, HistoryEntry, HiveName, Placement, WriteMode, WriteResult};
