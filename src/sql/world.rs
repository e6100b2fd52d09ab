//! The tables of the box `system`: what the swarm and this node are doing, as rows.

use std::fmt::Debug;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::ripening::Ripening;
use crate::Result;
use crate::storage::FrameRef;

/// The box whose frames are these tables, in every hive.
pub(super) const SYSTEM: &str = "system";

/// Somebody who knows what goes on.
#[async_trait]
pub trait World: Debug + Send + Sync {
    /// The names of the tables.
    fn tables(&self) -> &'static [&'static str];

    /// The rows of table `name` now; `None` when there is no such table.
    ///
    /// # Errors
    /// What the storage says.
    async fn rows(&self, name: &str) -> Result<Option<RecordBatch>>;

    /// What the node was started with: names and values.
    fn settings(&self) -> Vec<(&'static str, String)>;

    /// Rows of a frame that were appended here and are not committed, as far as is known.
    fn ripening(&self, frame: &FrameRef) -> Vec<Ripening>;
}
