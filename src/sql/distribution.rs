//! How a plan is split over bees.
//!
//! `datafusion-distributed` cuts a physical plan into stages and stages into tasks; each bee runs its share of a stage's
//! partitions on its one thread. Two rules come from trials that gave wrong answers silently:
//!
//! - a session plans with at least 2 partitions: with 1, single-phase aggregates are put over a scan that is split
//!   between tasks;
//! - a plan is encoded before it is delivered, so that no two bees share a plan's state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use async_trait::async_trait;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::DataFusionError;
use datafusion::common::config::{ConfigOptions, SpillCompression};
use datafusion::common::hash_utils::create_hashes;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    ChannelResolver, DesiredTaskCountEvent, DesiredTaskCountEventResponse, DesiredTaskCountHandler, DistributedExt,
    DistributedLeafExec, RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler, SessionStateBuilderExt,
    WorkerResolver,
};
use url::Url;

use super::codec::StepCodec;
use super::planner::Spread;
use super::shared_scan::{ShareScans, SharedScans};
use crate::storage::leafcutter::{MAX_TASKS_PER_BEE, tasks};
use crate::storage::swarm::names::NodeId;
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
    // Without it, TIMESTAMP WITH TIME ZONE would be one without.
    options.execution.time_zone = Some("UTC".into());
    // Less for flash to bear, and mostly faster: what is spilled repeats itself.
    options.execution.spill_compression = SpillCompression::Lz4Frame;
    // One column's half of such a filter is taken for the whole where the other one knows nothing yet: rows would be missed.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // They know 0.0 and -0.0 as two, which are equal here.
    options.execution.parquet.bloom_filter_on_read = false;
    read_own_files(options);
    config
}

/// Partitions of one task share a thread: taking each other's files gains nothing, and a scan that a join begins anew,
/// because its input did not fit, would find them taken and be empty.
pub fn read_own_files(options: &mut ConfigOptions) {
    options.execution.enable_file_stream_work_stealing = false;
}

/// The address of any bee of another node.
pub fn node_url(node: &NodeId) -> Result<Url> {
    Url::parse(&format!("swarm://{node}/")).map_err(|e| Error::internal(format!("a node's address: {e}")))
}

/// The node that `url` names.
pub fn node_of(url: &Url) -> Option<NodeId> {
    (url.scheme() == "swarm").then(|| url.host_str()?.parse().ok()).flatten()
}

/// Counts the changes of [`StepCodec`], and of what a plan means: deleted rows travel as values of a column, names in files
/// beside it.
const PLAN_FORMAT: u32 = 6;

/// A fingerprint of what nodes must agree on to share a query: the plan's encoding, and where hashes send rows.
///
/// # Errors
/// Never in practice: integers have hashes.
pub fn engine() -> Result<String> {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![1, -7, 1 << 40]));
    let text: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "bee", "a longer text than fits into a view"]));
    let mut hashes = vec![0; 3];
    create_hashes([&array, &text], REPARTITION_RANDOM_STATE.random_state(), &mut hashes)?;
    let mixed = hashes.into_iter().fold(0u64, |all, hash| all.rotate_left(7) ^ hash);
    Ok(format!("datafusion-{}-{mixed:x}-{PLAN_FORMAT}", datafusion::DATAFUSION_VERSION))
}

/// Sets what a session's `SET` statements said.
///
/// # Errors
/// `InvalidInput` for an option that does not exist.
pub fn apply_options(config: &mut SessionConfig, options: &BTreeMap<String, String>) -> Result<()> {
    options.iter().try_for_each(|(key, value)| Ok(config.options_mut().set(key, value)?))
}

/// Options for a second try at a query that did not fit into a bee's `budget`, whose stages run one after the other: what
/// every task holds whole is less by far, for the estimate of it may be what was wrong.
pub fn staged_options(budget: u64) -> BTreeMap<String, String> {
    let share = |most: usize| (budget as usize / 64).min(most);
    let options = [
        ("datafusion.optimizer.hash_join_single_partition_threshold", share(BROADCAST_BYTES)),
        ("datafusion.optimizer.hash_join_single_partition_threshold_rows", share(BROADCAST_BYTES) / 16),
    ];
    options.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Options for a third try: joins that sort and spill instead of
/// holding one side in memory, smaller batches, less set aside for merging.
pub fn lean_options(budget: u64) -> BTreeMap<String, String> {
    let reserved = (budget / 64).clamp(512 << 10, 10 << 20);
    let options = [
        ("datafusion.optimizer.prefer_hash_join", "false".to_string()),
        ("datafusion.optimizer.hash_join_single_partition_threshold", "0".into()),
        ("datafusion.optimizer.hash_join_single_partition_threshold_rows", "0".into()),
        ("datafusion.execution.batch_size", "2048".into()),
        ("datafusion.execution.sort_spill_reservation_bytes", reserved.to_string()),
    ];
    options.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Adds the distributed planner. Within a colony, tasks share the scans of `scans`, if there is one.
///
/// # Errors
/// Never in practice: the options exist.
pub(crate) fn distributed(
    builder: SessionStateBuilder,
    split: &Split,
    spread: &Spread,
    scans: Option<&Arc<SharedScans>>,
) -> Result<SessionStateBuilder> {
    let builder = builder
        .with_distributed_planner()
        .with_distributed_channel_resolver(Arc::clone(&split.channels))
        .with_distributed_user_codec(StepCodec)
        .with_distributed_file_scan_config_bytes_per_partition(split.partition_bytes.max(1) as usize)?;
    let colony = |builder: SessionStateBuilder| {
        Ok::<_, Error>(builder.with_distributed_worker_resolver(Workers(colony_urls(split.bees)?)))
    };
    match (spread, scans) {
        (Spread::Colony, None) => colony(builder),
        (Spread::Colony, Some(scans)) => {
            Ok(colony(builder)?.with_distributed_scale_up_leaf_node_handler(ShareScans(Arc::clone(scans))))
        }
        (Spread::Swarm(bees) | Spread::Staged(bees), _) => Ok(builder
            // As many as a stage may have tasks.
            .with_distributed_worker_resolver(Workers(vec![bees.urls.clone(); MAX_TASKS_PER_BEE].concat()))
            .with_distributed_desired_task_count_handler(CutScans(Arc::clone(bees)))
            .with_distributed_route_tasks_handler(InTurn {
                bees: Arc::clone(bees),
                next: AtomicUsize::new(fastrand::usize(..1024)),
            })
            // Below such a union a task cannot be told how many siblings its consumer has.
            .with_distributed_children_isolator_unions(false)?),
    }
}

fn colony_urls(bees: usize) -> Result<Vec<Url>> {
    (0..bees).map(bee_url).collect()
}

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}

/// Bees of all nodes that a plan may be spread over.
#[derive(Debug)]
pub struct SwarmBees {
    /// Their addresses, those of different nodes in turn.
    pub urls: Vec<Url>,
    /// Memory of the smallest, in bytes.
    pub least_memory: u64,
}

/// Cuts scans into tasks for the bees of the swarm.
struct CutScans(Arc<SwarmBees>);

#[async_trait]
impl DesiredTaskCountHandler for CutScans {
    async fn handle(
        &self,
        event: DesiredTaskCountEvent<'_>,
    ) -> Option<Result<DesiredTaskCountEventResponse, DataFusionError>> {
        let scan = file_scan(event.plan)?;
        let bytes = scan.file_groups.iter().flat_map(|group| group.files()).map(|file| file.effective_size()).sum();
        let tasks = tasks(bytes, self.0.urls.len(), self.0.least_memory);
        Some(Ok(DesiredTaskCountEventResponse::desired(tasks)))
    }
}

/// Gives tasks to workers in turn, and each stage where the one before it ended: small stages do not all meet on the
/// same bee. A stage that scans starts where its first cell says, so that the same scan meets the same caches again.
struct InTurn {
    bees: Arc<SwarmBees>,
    next: AtomicUsize,
}

impl RouteTasksHandler for InTurn {
    fn handle(&self, event: RouteTasksEvent<'_>) -> Option<Result<RouteTasksEventResponse, DataFusionError>> {
        let next = self.next.fetch_add(event.task_count, Ordering::Relaxed);
        let start = first_cell(event.plan).unwrap_or(next);
        let urls = &self.bees.urls;
        let urls = urls.iter().cycle().skip(start % urls.len()).take(event.task_count);
        Some(Ok(RouteTasksEventResponse::new(urls.cloned().collect())))
    }
}

/// A number that stands for the first cell that `plan` scans.
fn first_cell(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let scan = scanned(plan)?;
    let file = scan.file_groups.iter().flat_map(|group| group.files()).min_by_key(|file| file.path())?;
    let bytes = file.path().as_ref().bytes();
    Some(bytes.fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte))))
}

fn scanned(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let leaf = plan.downcast_ref::<DistributedLeafExec>().map_or(plan, |leaf| leaf.original());
    file_scan(leaf).or_else(|| plan.children().into_iter().find_map(scanned))
}

/// The files that `plan` itself reads, if it does.
pub(crate) fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
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
