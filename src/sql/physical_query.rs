//! A physical plan with what it needs to run, and what it will cost.

use std::sync::Arc;

use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion_distributed::{DistributedExec, DistributedLeafExec, NetworkBoundaryExt};

use super::distribution::file_scan;
use super::frame_table::ScanNotes;
use super::planner::Spread;
use crate::storage::leafcutter::ROW_GROUP_ROWS;
use crate::storage::ledger::ROOT_URL;

/// Encoded bytes of cells that a short query reads at most: some milliseconds of a small core.
const SHORT_BYTES: u64 = 1 << 20;
/// What a row counts at least: encoded, many can be next to nothing.
const SHORT_ROW: u64 = 8;
/// What rows in memory count.
const SHORT_MEMORY: u64 = 8 << 10;
/// What a byte counts below a join.
const SHORT_JOIN: u64 = 100;

/// Most steps of a stage, one below the other.
const MAX_STEPS: usize = 40;

/// A physical plan with what it needs to run.
#[derive(Debug, Clone)]
pub struct PhysicalQuery {
    /// The plan; one partition when it is distributed.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Its session, memory and storage.
    pub context: Arc<TaskContext>,
    /// What its scans left out.
    pub notes: Arc<ScanNotes>,
    /// Whether facts about the run are to follow its rows.
    pub analyze: bool,
    /// Where it runs.
    pub(super) spread: Spread,
}

impl PhysicalQuery {
    /// The part of the plan whose tasks exchange rows through a store, if it has such.
    pub fn exchanging(&self) -> Option<&DistributedExec> {
        // EXPLAIN ANALYZE stands above it.
        fn find(plan: &Arc<dyn ExecutionPlan>) -> Option<&DistributedExec> {
            plan.downcast_ref().or_else(|| plan.children().into_iter().find_map(find))
        }
        if matches!(self.spread, Spread::Colony) { None } else { find(&self.plan) }
    }

    /// Whether other nodes take part.
    pub fn is_for_the_swarm(&self) -> bool {
        matches!(self.spread, Spread::Swarm(_))
    }

    /// Bytes of the files that it scans.
    pub fn scan_bytes(&self) -> u64 {
        let mut bytes = 0;
        with_stages(&self.plan, &mut |plan| bytes += file_bytes(plan));
        bytes
    }

    /// Whether every file that it scans is in the meadow, so that other nodes can run it.
    pub fn is_shareable(&self) -> bool {
        let mut shareable = true;
        with_stages(&self.plan, &mut |plan| shareable &= scans_the_meadow(plan));
        shareable
    }

    /// Requests that it will need, as far as the plan tells: a footer and each row group of the cells that are read, and for
    /// the swarm a task, an output and a completion for every task, which each task above reads. Filters may leave row
    /// groups out, what is cached costs none, and looking for news comes on top.
    pub fn forecast(&self) -> Forecast {
        let mut cells = 0;
        with_stages(&self.plan, &mut |plan| cells += cell_requests(plan));
        let exchange = if self.is_for_the_swarm() { exchange_requests(&self.plan, 1) } else { 0 };
        Forecast { cells, exchange }
    }

    /// Whether it is so small that a thread which must not be held for long may run it: it is not split, reads hardly
    /// anything, and makes no more rows than it reads.
    pub fn is_short(&self) -> bool {
        matches!(self.spread, Spread::Colony)
            && self.tasks() == 1
            && short_bytes(&self.plan).is_some_and(|bytes| bytes <= SHORT_BYTES)
    }

    /// Tasks of all its stages, and 1 for the part that the leading bee runs.
    pub fn tasks(&self) -> usize {
        fn below(plan: &Arc<dyn ExecutionPlan>) -> usize {
            let own = plan.as_network_boundary().map_or(0, |b| b.input_stage().task_count());
            own + plan.children().into_iter().map(below).sum::<usize>()
        }
        1 + below(&self.plan)
    }
}

/// Requests to storage that a query will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// To read cells.
    pub cells: u64,
    /// To hand tasks and rows between nodes.
    pub exchange: u64,
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "about {} for cells, {} between nodes", self.cells, self.exchange)
    }
}

/// Visits a plan with the stages below its network boundaries.
fn with_stages(plan: &Arc<dyn ExecutionPlan>, visit: &mut impl FnMut(&Arc<dyn ExecutionPlan>)) {
    match plan.downcast_ref::<DistributedLeafExec>() {
        Some(leaf) => visit(leaf.original()),
        None => visit(plan),
    }
    plan.children().into_iter().for_each(|child| with_stages(child, visit));
}

fn file_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    files.map(|file| file.effective_size()).sum()
}

/// What `plan` costs, as bytes that are read, if it makes no more rows than it reads. Joins can, even of few rows: they are
/// only taken to be short over a hundredth of that; aggregates work on every row once for each of their grouping sets.
fn short_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let children = plan.children();
    let below = children.iter().map(|child| short_bytes(child)).sum::<Option<u64>>()?;
    match plan.name() {
        "DataSourceExec" if file_scan(plan).is_some() => Some(file_bytes(plan).max(file_rows(plan)? * SHORT_ROW)),
        // Rows in memory: of `system`, `information_schema`, VALUES of a short text, or such that ripen.
        "DataSourceExec" => Some(memory_bytes(plan).max(SHORT_MEMORY)),
        "EmptyExec" | "PlaceholderRowExec" => Some(0),
        "HashJoinExec" | "SortMergeJoinExec" => Some(below * SHORT_JOIN),
        "NestedLoopJoinExec"
        | "CrossJoinExec"
        | "UnnestExec"
        | "RecursiveQueryExec"
        | "DataSinkExec"
        | "WindowAggExec"
        | "BoundedWindowAggExec" => None,
        _ if children.is_empty() => None,
        _ => Some(
            below * plan.downcast_ref::<AggregateExec>().map_or(1, |a| a.group_expr().groups().len().max(1) as u64),
        ),
    }
}

fn memory_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let source = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    let memory = source.and_then(|source| source.downcast_ref::<MemorySourceConfig>());
    let batches = memory.into_iter().flat_map(|memory| memory.partitions().iter().flatten());
    batches.map(|batch| batch.get_array_memory_size() as u64).sum()
}

/// Rows of the files that it scans, when all of them say.
fn file_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    files.map(|file| Some(*file.statistics.as_ref()?.num_rows.get_value()? as u64)).sum()
}

fn cell_requests(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    let rows = |file: &PartitionedFile| file.statistics.as_ref().and_then(|s| s.num_rows.get_value().copied());
    let row_groups = |file: &PartitionedFile| rows(file).unwrap_or(0).div_ceil(ROW_GROUP_ROWS).max(1) as u64;
    files.map(|file| 1 + row_groups(file)).sum()
}

/// Requests of the stages below `plan`, which is run by so many `consumers`.
fn exchange_requests(plan: &Arc<dyn ExecutionPlan>, consumers: u64) -> u64 {
    let Some(boundary) = plan.as_network_boundary() else {
        return plan.children().into_iter().map(|child| exchange_requests(child, consumers)).sum();
    };
    let tasks = boundary.input_stage().task_count() as u64;
    let below = boundary.input_stage().local_plan().map_or(0, |plan| exchange_requests(plan, tasks));
    3 * tasks + consumers * tasks + below
}

fn scans_the_meadow(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match (plan.is::<DataSourceExec>(), file_scan(plan)) {
        (true, Some(scan)) => scan.object_store_url.as_str() == ROOT_URL,
        // Rows in memory travel with the plan.
        _ => true,
    }
}

/// Whether every stage of a plan can be read again by the bee that gets it: an encoded message has at most a hundred within
/// each other, of which a step takes two, and its expressions the rest.
pub(super) fn is_shallow(plan: &Arc<dyn ExecutionPlan>) -> bool {
    fn goes_on(plan: &Arc<dyn ExecutionPlan>, steps: usize) -> bool {
        let steps = if plan.as_network_boundary().is_some() { 0 } else { steps + 1 };
        steps <= MAX_STEPS && plan.children().into_iter().all(|child| goes_on(child, steps))
    }
    goes_on(plan, 0)
}
