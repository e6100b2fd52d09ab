//! Filters that sink towards the scans, where columns have the same name.
//!
//! The engine finds a filter's column in the input of a step by its name, and takes the first that is called so. Inputs that
//! were joined may have several: a filter would be on another table's column, and rows would be missed. Its rules that let
//! filters sink are kept from taking one into a step where the name stands for more than one column.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, JoinType};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::passing::{Passes, Passing};

/// A rule of the engine that lets filters sink, with barriers where a name is not enough.
#[derive(Debug)]
pub(super) struct WhereNamesDiffer(pub(super) Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for WhereNamesDiffer {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let plan = self.0.optimize(with_barriers(&plan, &BTreeSet::new())?, config)?;
        let without = |plan: Arc<dyn ExecutionPlan>| match plan.downcast_ref::<Barrier>() {
            Some(barrier) => Ok(Transformed::yes(Arc::clone(barrier.input()))),
            None => Ok(Transformed::no(plan)),
        };
        plan.transform_up(without).data()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Names of columns that filters on their way may have.
type Names = BTreeSet<String>;

/// `plan` with barriers above the steps that filters with these names must not reach.
fn with_barriers(plan: &Arc<dyn ExecutionPlan>, names: &Names) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let mut changed = false;
    let children = plan.children().into_iter().enumerate().map(|(at, child)| {
        let names = names_below(plan, at, names);
        let stops = is_ambiguous(&child.schema(), &names) || finds_another(plan, at, &child.schema(), &names);
        let below = with_barriers(child, if stops { const { &Names::new() } } else { &names })?;
        changed |= stops || !Arc::ptr_eq(&below, child);
        Ok::<_, DataFusionError>(if stops { Arc::new(Barrier::new(below)) as _ } else { below })
    });
    let children: Vec<Arc<dyn ExecutionPlan>> = children.collect::<Result<_, _>>()?;
    match changed {
        true => {
            Arc::clone(plan).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
        }
        false => Ok(Arc::clone(plan)),
    }
}

/// The names that filters may have which `plan` lets pass, or makes itself, into one of its inputs.
fn names_below(plan: &Arc<dyn ExecutionPlan>, child: usize, names: &Names) -> Names {
    let mut below = names.clone();
    let mut add = |expression: &Arc<dyn PhysicalExpr>| {
        below.extend(collect_columns(expression).iter().map(|column| column.name().to_string()));
    };
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        add(filter.predicate());
    } else if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        join.on().iter().for_each(|(left, right)| add(if child == 0 { left } else { right }));
    } else if let Some(sort) = plan.downcast_ref::<SortExec>() {
        sort.expr().iter().for_each(|by| add(&by.expr));
    } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        projection.expr().iter().filter(|one| names.contains(&one.alias)).for_each(|one| add(&one.expr));
    }
    below
}

/// Whether one of these names stands for more than one column.
fn is_ambiguous(schema: &Schema, names: &Names) -> bool {
    let mut seen = HashSet::new();
    schema.fields().iter().any(|field| names.contains(field.name()) && !seen.insert(field.name()))
}

/// Whether filters on the keys of a semi-join would be taken for filters on other columns of the side that only decides.
fn finds_another(plan: &Arc<dyn ExecutionPlan>, child: usize, schema: &Schema, names: &Names) -> bool {
    let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return false };
    let decides = match join.join_type() {
        JoinType::LeftSemi => 1,
        JoinType::RightSemi => 0,
        _ => return false,
    };
    let name =
        |key: &Arc<dyn PhysicalExpr>| collect_columns(key).iter().map(|column| column.name().to_string()).collect();
    let other = |(left, right): &(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)| {
        let (kept, deciding): (Names, Names) =
            if decides == 1 { (name(left), name(right)) } else { (name(right), name(left)) };
        kept != deciding && kept.iter().any(|name| names.contains(name) && schema.index_of(name).is_ok())
    };
    child == decides && join.on().iter().any(other)
}

/// It is there for one rule only: no filter sinks through it.
type Barrier = Passes<NoFilters>;

#[derive(Debug)]
struct NoFilters;

impl Passing for NoFilters {
    const NAME: &'static str = "Barrier";

    fn pass(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        rows
    }
}
