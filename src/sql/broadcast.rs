//! Joins of which every bee gets one side whole.
//!
//! The engine's own rule looks at that side alone: what a core's cache holds. Where the other side is many times as large, to
//! send each of its rows to the bee that has its keys costs more than slower look-ups do.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, JoinType};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::frame_table::TEXT_WIDTH;

/// How many times as large the other side must be.
const OTHER_SIDE: usize = 64;
/// How many times what the engine broadcasts one side may be then.
const LARGER: usize = 8;

/// Chooses them among the joins that the engine would have both sides sent of.
#[derive(Debug)]
pub(super) struct BroadcastsBesideMany;

impl PhysicalOptimizerRule for BroadcastsBesideMany {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let optimizer = &options.optimizer;
        let most = LARGER * optimizer.hash_join_single_partition_threshold;
        let most_rows = LARGER * optimizer.hash_join_single_partition_threshold_rows;
        let change = |node: Arc<dyn ExecutionPlan>| {
            let Some(join) = node.downcast_ref::<HashJoinExec>().filter(|join| may_broadcast(join)) else {
                return Ok(Transformed::no(node));
            };
            match (size(join.left()), size(join.right())) {
                (Some((rows, bytes)), Some((_, other)))
                    if rows < most_rows && bytes < most && bytes.saturating_mul(OTHER_SIDE) < other =>
                {
                    let join = join.builder().with_partition_mode(PartitionMode::CollectLeft).build()?;
                    Ok(Transformed::yes(Arc::new(join) as _))
                }
                _ => Ok(Transformed::no(node)),
            }
        };
        plan.transform_up(change).data()
    }

    fn name(&self) -> &str {
        "broadcasts_beside_many"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether no row of its left side is given out for itself: each bee would.
fn may_broadcast(join: &HashJoinExec) -> bool {
    use JoinType as J;
    let is_right = matches!(join.join_type(), J::Inner | J::Right | J::RightSemi | J::RightAnti | J::RightMark);
    is_right && *join.partition_mode() == PartitionMode::Partitioned
}

/// Rows and bytes that a step is expected to give.
fn size(step: &Arc<dyn ExecutionPlan>) -> Option<(usize, usize)> {
    let statistics = StatisticsContext::new().compute(step.as_ref(), &StatisticsArgs::new()).ok()?;
    let rows = *statistics.num_rows.get_value()?;
    let schema = step.schema();
    let width: usize =
        schema.fields().iter().map(|field| field.data_type().primitive_width().unwrap_or(TEXT_WIDTH)).sum();
    Some((rows, rows.saturating_mul(width)))
}
