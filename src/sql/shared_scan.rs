//! Scans whose cells are shared out while they run: a bee that is done early takes what no other bee has begun.
//!
//! Cells do not cost the same: one is pruned, another's rows all pass. Cut up front, the bee with the cheap half waits
//! for the other. The bees of one colony share memory, so the scan's pieces stay in one queue here, and each task's plan
//! carries only the scan's number. Tasks for other nodes carry their files, as before.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::datasource::source::{DataSource, OpenArgs};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, StatisticsArgs,
};
use datafusion_distributed::{
    DistributedLeafExec, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse, ScaleUpLeafNodeHandler,
};

use super::distribution::file_scan;
use crate::storage::leafcutter::ROW_GROUP_ROWS;
use crate::sync::lock;
use crate::{Error, Result};

/// Bytes of a row group of a file that does not say how many rows it has.
const ROW_GROUP_BYTES: u64 = 4 << 20;

/// What the tasks of one scan have not begun yet.
type Queue = Arc<dyn Any + Send + Sync>;

/// The shared scans of one query, by number. Every session that works for the query holds them.
#[derive(Debug, Default)]
pub struct SharedScans(Mutex<Vec<Queue>>);

impl SharedScans {
    fn add(&self, queue: Queue) -> u64 {
        let mut all = lock(&self.0);
        all.push(queue);
        all.len() as u64 - 1
    }

    fn get(&self, number: u64) -> Option<Queue> {
        lock(&self.0).get(usize::try_from(number).ok()?).cloned()
    }
}

/// Splits a scan over tasks by sharing it.
pub(crate) struct ShareScans(pub(crate) Arc<SharedScans>);

impl ScaleUpLeafNodeHandler for ShareScans {
    fn handle(&self, event: ScaleUpLeafNodeEvent) -> Option<Result<ScaleUpLeafNodeEventResponse, DataFusionError>> {
        if event.task_count < 2 {
            return None;
        }
        self.share(event.plan, event.task_count).map(|leaf| {
            let leaf: Arc<dyn ExecutionPlan> = Arc::new(leaf?);
            Ok(ScaleUpLeafNodeEventResponse::new(leaf))
        })
    }
}

impl ShareScans {
    fn share(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        tasks: usize,
    ) -> Option<Result<DistributedLeafExec, DataFusionError>> {
        let scan = file_scan(plan)?;
        // An order that the files have would be lost.
        if !scan.output_ordering.is_empty() {
            return None;
        }
        let partitions = plan.output_partitioning().partition_count();
        let files: Vec<&PartitionedFile> = scan.file_groups.iter().flat_map(FileGroup::iter).collect();
        let mut all = scan.clone();
        // A CSV file is not cut where a line ends: that may be within quotes.
        all.file_groups = vec![FileGroup::new(match scan.file_source.supports_repartitioning() {
            true => pieces(&files, tasks * partitions),
            false => files.into_iter().cloned().collect(),
        })];
        // None where files belong to partitions or have an order.
        let queue = all.create_sibling_state(&ConfigOptions::default())?;
        let mut none = scan.clone();
        none.file_groups = vec![FileGroup::default(); partitions];
        let number = self.0.add(queue);
        let (scan, begun) = (DataSourceExec::from_data_source(none), Arc::default());
        let shared: Arc<dyn ExecutionPlan> = Arc::new(SharedScanExec { number, scan, arrived: false, begun });
        Some(DistributedLeafExec::try_new(Arc::clone(plan), vec![shared; tasks]))
    }
}

/// Cuts files where row groups are about to end: a reader takes the row groups that begin within its range. Opening a
/// piece costs something, waiting for a large last one costs more: each piece is a fixed part of what is left (guided
/// self-scheduling, Polychronopoulos and Kuck 1987), down to one row group.
fn pieces(files: &[&PartitionedFile], readers: usize) -> Vec<PartitionedFile> {
    let edges: Vec<Vec<i64>> = files.iter().map(|file| edges(file)).collect();
    let mut left: u64 = edges.iter().map(|edges| edges.len() as u64 - 1).sum();
    let mut pieces = Vec::new();
    for (file, edges) in files.iter().zip(&edges) {
        let mut from = 0;
        while from + 1 < edges.len() {
            let wanted = (left / (2 * readers.max(1) as u64)).max(1) as usize;
            let to = (from + wanted).min(edges.len() - 1);
            let range = FileRange { start: edges[from], end: edges[to] };
            pieces.push(PartitionedFile { range: Some(range), ..(*file).clone() });
            left -= (to - from) as u64;
            from = to;
        }
    }
    pieces
}

/// Where the row groups of a file, or of the part of it that is given, are about to begin and to end.
fn edges(file: &PartitionedFile) -> Vec<i64> {
    let rows = file.statistics.as_ref().and_then(|s| s.num_rows.get_value().copied());
    let size = file.object_meta.size;
    let count = rows.map_or(size.div_ceil(ROW_GROUP_BYTES), |rows| rows.div_ceil(ROW_GROUP_ROWS) as u64).max(1);
    let (start, end) = file.range.as_ref().map_or((0, size as i64), |range| (range.start, range.end));
    let edge = |n: u64| (u128::from(size) * u128::from(n) / u128::from(count)) as i64;
    let inner = (1..count).map(edge).filter(|edge| (start + 1..end).contains(edge));
    std::iter::once(start).chain(inner).chain(std::iter::once(end)).collect()
}

/// One task's part in a shared scan: whatever it gets hold of.
#[derive(Debug)]
pub(crate) struct SharedScanExec {
    number: u64,
    /// How to read a file; it names none.
    scan: Arc<dyn ExecutionPlan>,
    /// Whether it is in a task's plan, where it counts as one step: the library matches metrics with steps by number.
    arrived: bool,
    /// Partitions that were started: a second start would find nothing and be taken for an empty scan.
    begun: Arc<Mutex<HashSet<usize>>>,
}

impl SharedScanExec {
    /// The part that number `number` has in a task's plan, read by `scan`.
    pub(crate) fn arrived(number: u64, scan: Arc<dyn ExecutionPlan>) -> Self {
        Self { number, scan, arrived: true, begun: Arc::default() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn scan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.scan
    }

    /// The same part, read by `scan`.
    pub(crate) fn over(&self, scan: Arc<dyn ExecutionPlan>) -> Self {
        Self { number: self.number, scan, arrived: self.arrived, begun: Arc::clone(&self.begun) }
    }
}

impl DisplayAs for SharedScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedScanExec: number={}, ", self.number)?;
        self.scan.fmt_as(format, f)
    }
}

impl ExecutionPlan for SharedScanExec {
    fn name(&self) -> &str {
        "SharedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        if self.arrived { Vec::new() } else { vec![&self.scan] }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        match (children.pop(), children.pop()) {
            (None, None) => Ok(self),
            (Some(scan), None) => Ok(Arc::new(self.over(scan))),
            _ => Err(Error::internal("a shared scan has one child").into()),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        if !lock(&self.begun).insert(partition) {
            // A nested loop join does so when its first input does not fit.
            let text = "a shared scan cannot begin anew for a join whose inputs do not fit";
            return Err(DataFusionError::ResourcesExhausted(text.into()));
        }
        let scans = context.session_config().get_extension::<SharedScans>();
        let queue = scans.and_then(|scans| scans.get(self.number));
        let queue = queue.ok_or_else(|| Error::internal(format!("shared scan {} is not known here", self.number)))?;
        let source = self.scan.downcast_ref::<DataSourceExec>();
        let source = source.ok_or_else(|| Error::internal("a shared scan reads no files"))?.data_source();
        source.open_with_args(OpenArgs::new(partition, context).with_shared_state(Some(queue)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.scan.metrics()
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>, DataFusionError> {
        match inputs {
            [scan] => Ok(Arc::clone(scan)),
            _ => self.scan.statistics_from_inputs(&[], args),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::stats::Precision;

    use super::*;

    fn file(row_groups: usize, size: u64) -> PartitionedFile {
        let rows = Statistics { num_rows: Precision::Exact(row_groups * ROW_GROUP_ROWS), ..Statistics::default() };
        PartitionedFile::new("cell.parquet", size).with_statistics(Arc::new(rows))
    }

    fn ranges(files: &[&PartitionedFile], readers: usize) -> Vec<(i64, i64)> {
        pieces(files, readers).iter().map(|p| p.range.as_ref().map_or((0, 0), |r| (r.start, r.end))).collect()
    }

    #[test]
    fn pieces_cover_files_once_and_become_smaller() {
        let (large, small) = (file(20, 2000), file(1, 50));
        let found = ranges(&[&large, &small], 2);
        assert_eq!(found[0], (0, 500));
        assert!(found.windows(2).all(|w| w[0].1 == w[1].0 || w[1].0 == 0), "{found:?}");
        assert!(found.windows(2).all(|w| w[0].1 - w[0].0 >= w[1].1 - w[1].0), "{found:?}");
        assert_eq!(found[found.len() - 2..], [(1900, 2000), (0, 50)]);
    }

    #[test]
    fn part_of_a_file_stays_that_part() {
        let part = |start, end| ranges(&[&file(3, 1000).with_range(start, end)], 8);
        assert_eq!(part(400, 1000), [(400, 666), (666, 1000)]);
        assert_eq!(part(340, 350), [(340, 350)]);
        assert_eq!(ranges(&[&PartitionedFile::new("file.parquet", 1000)], 8), [(0, 1000)]);
    }
}
