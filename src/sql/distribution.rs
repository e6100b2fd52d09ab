//! How a plan is split over bees.
//!
//! `datafusion-distributed` cuts a physical plan into stages and stages into tasks; each bee runs its share of a stage's
//! partitions on its one thread. Two rules come from trials that gave wrong answers silently:
//!
//! - a session plans with at least 2 partitions: with 1, single-phase aggregates are put over a scan that is split
//!   between tasks;
//! - a plan is encoded before it is delivered, so that no two bees share a plan's state.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{ChannelResolver, DistributedExt, SessionStateBuilderExt, WorkerResolver};
use url::Url;

use crate::{Error, Result};

/// Largest build side, by the planner's estimate, that every bee gets whole: a hash table of it fits a core's cache.
const BROADCAST_BYTES: usize = 4 << 20;
/// The same in rows, where bytes are not known.
const BROADCAST_ROWS: usize = 256 << 10;

/// The bees a plan may be split over, and how finely.
#[derive(Clone)]
pub struct Split {
    /// How many bees there are.
    pub bees: usize,
    /// Partitions of a plan on each bee; at least 2.
    pub partitions: usize,
    /// Bytes of cells that one partition of a task should scan before another bee is worth its overhead.
    pub partition_bytes: u64,
    /// How to reach a bee: the only thing this layer knows about the one above.
    pub channels: Arc<dyn ChannelResolver + Send + Sync>,
}

/// The address of bee `index` within its colony.
pub fn bee_url(index: usize) -> Result<Url> {
    Url::parse(&format!("bee://{index}/")).map_err(|e| Error::internal(format!("a bee's address: {e}")))
}

/// The bee that `url` names.
pub fn bee_of(url: &Url) -> Option<usize> {
    (url.scheme() == "bee").then(|| url.host_str()?.parse().ok()).flatten()
}

/// Options that planning needs, whoever runs the plan.
pub(crate) fn session_config(split: &Split) -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(split.partitions.max(2)).with_information_schema(true);
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = true;
    // Sending both sides of a join between bees costs more than each bee building one small side of its own.
    options.optimizer.hash_join_single_partition_threshold = BROADCAST_BYTES;
    options.optimizer.hash_join_single_partition_threshold_rows = BROADCAST_ROWS;
    options.catalog.create_default_catalog_and_schema = false;
    config
}

/// Adds the distributed planner.
///
/// # Errors
/// Never in practice: the options exist.
pub(crate) fn distributed(builder: SessionStateBuilder, split: &Split) -> Result<SessionStateBuilder> {
    let builder = builder
        .with_distributed_planner()
        .with_distributed_worker_resolver(Bees { count: split.bees })
        .with_distributed_channel_resolver(Arc::clone(&split.channels))
        .with_distributed_file_scan_config_bytes_per_partition(split.partition_bytes.max(1) as usize)?;
    Ok(builder)
}

struct Bees {
    count: usize,
}

impl WorkerResolver for Bees {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        (0..self.count).map(|index| bee_url(index).map_err(DataFusionError::from)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bees_address_reads_back() {
        assert_eq!(bee_of(&bee_url(17).unwrap()), Some(17));
        assert_eq!(bee_of(&Url::parse("http://17/").unwrap()), None);
    }
}
