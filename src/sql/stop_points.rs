//! Places where a plan lets go of its thread, so that a cancelled or late query stops.
//!
//! A bee has one thread: a query that never yields cannot be stopped, and starves the others. DataFusion yields at the
//! leaves, by batches read; a join can make millions of batches of one that was read. So every operator that multiplies
//! rows is put under a [`CooperativeExec`], which yields by batches given.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;

/// The rule; see the module.
#[derive(Debug)]
pub(crate) struct StopPoints;

impl PhysicalOptimizerRule for StopPoints {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let guard = |node: Arc<dyn ExecutionPlan>| match multiplies(&node) {
            true => Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as _)),
            false => Ok(Transformed::no(node)),
        };
        plan.transform_up(guard).data()
    }

    fn name(&self) -> &str {
        "stop_points"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn multiplies(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<CrossJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<UnnestExec>()
}
