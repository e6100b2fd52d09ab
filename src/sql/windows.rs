//! Windows that would be others on the bees they are sent to.
//!
//! A task's plan says nothing of what is true of the rows that come from other tasks, and of a window neither its FILTER nor
//! IGNORE NULLS. Where a column is the same in all rows, or in each row the same as another, the planner leaves it out of the
//! order of the rows, and a bee that does not know why finds its window without an order.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

use crate::Result;

/// Whether a part of a window would be lost on the way to another bee.
///
/// # Errors
/// Never in practice: nothing in it fails.
pub(super) fn lose_something(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Window(window) = node {
            found |= window.window_expr.iter().any(loses);
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn loses(expression: &Expr) -> bool {
    match expression {
        Expr::Alias(alias) => loses(&alias.expr),
        Expr::WindowFunction(window) => {
            let is_own = matches!(window.fun, WindowFunctionDefinition::WindowUDF(_));
            window.params.filter.is_some() || is_own && window.params.null_treatment == Some(NullTreatment::IgnoreNulls)
        }
        _ => false,
    }
}

type Step = Arc<dyn ExecutionPlan>;

/// Sorts by all columns of PARTITION BY where the planner sorts by fewer.
pub(super) fn sorted_partitions(node: Step) -> Result<Transformed<Step>, DataFusionError> {
    let (Some((partition_by, input)), Some(order)) = (window(&node), order_of(&node)) else {
        return Ok(Transformed::no(node));
    };
    if !leaves_out(input.equivalence_properties(), partition_by) || is_sorted(input, &order) {
        return Ok(Transformed::no(node));
    }
    let sort = match input.downcast_ref::<SortExec>() {
        Some(sort) => SortExec::new(order, Arc::clone(sort.input()))
            .with_preserve_partitioning(sort.preserve_partitioning())
            .with_fetch(sort.fetch()),
        None => SortExec::new(order, Arc::clone(input)).with_preserve_partitioning(true),
    };
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    node.replace_children(vec![Arc::new(sort)], options).map(Transformed::yes)
}

/// What a window parts its rows by, and its input.
type Parted<'a> = (&'a [Arc<dyn PhysicalExpr>], &'a Arc<dyn ExecutionPlan>);

fn window(node: &Arc<dyn ExecutionPlan>) -> Option<Parted<'_>> {
    let (windows, input) = match node.downcast_ref::<WindowAggExec>() {
        Some(window) => (window.window_expr(), window.input()),
        None => node.downcast_ref::<BoundedWindowAggExec>().map(|window| (window.window_expr(), window.input()))?,
    };
    Some((windows.first()?.partition_by(), input))
}

/// The order that a window wants of its rows.
fn order_of(window: &Arc<dyn ExecutionPlan>) -> Option<LexOrdering> {
    let wanted = window.required_input_ordering().into_iter().next()??;
    Some(LexOrdering::from(wanted.first().clone()))
}

/// Whether an order of rows says nothing of some of these, as it is known of others or of all rows.
fn leaves_out(known: &EquivalenceProperties, partition_by: &[Arc<dyn PhysicalExpr>]) -> bool {
    let same = |expression: &Arc<dyn PhysicalExpr>| known.eq_group().normalize_expr(Arc::clone(expression));
    partition_by.iter().enumerate().any(|(at, expression)| {
        let is_doubled = || partition_by.iter().take(at).any(|before| same(before).eq(&same(expression)));
        known.is_expr_constant(expression).is_some() || is_doubled()
    })
}

/// Whether it is sorted by just that, or a window above what is.
fn is_sorted(input: &Arc<dyn ExecutionPlan>, order: &LexOrdering) -> bool {
    match (window(input), input.downcast_ref::<SortExec>()) {
        (Some((_, below)), _) => is_sorted(below, order),
        (None, Some(sort)) => sort.expr().starts_with(order),
        _ => false,
    }
}
