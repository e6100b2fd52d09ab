//! Places where a plan lets go of its thread, so that a cancelled or late query stops.
//!
//! A bee has one thread: a query that never yields cannot be stopped, and starves the others. DataFusion yields at the
//! leaves, by batches read; a join can make millions of batches of one that was read. So every operator that multiplies
//! rows is put under a [`CooperativeExec`], which yields by batches given.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::Transformed;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::pieces::PiecesExec;

/// The rule; see the module.
pub(super) fn stop_points(
    node: Arc<dyn ExecutionPlan>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>, DataFusionError> {
    if !multiplies(&node) {
        return Ok(Transformed::no(node));
    }
    let node = if node.is::<NestedLoopJoinExec>() { in_pieces(node)? } else { node };
    Ok(Transformed::yes(Arc::new(CooperativeExec::new(node))))
}

/// Between two batches that it gives, a nested loop join compares whole batches of its second input with all of its first.
fn in_pieces(join: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let mut inputs: Vec<_> = join.children().into_iter().cloned().collect();
    if let Some(streamed) = inputs.pop() {
        inputs.push(Arc::new(PiecesExec::new(streamed)));
    }
    join.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

fn multiplies(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<CrossJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<UnnestExec>()
}
