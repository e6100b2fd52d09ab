//! Aggregates of which a join wants a few groups: the others are not made.
//!
//! A correlated query for one value becomes an aggregate over all its rows, joined on the groups. Where the join's other
//! side takes the same key from a filtered frame, the rows below the aggregate are first reduced to the keys that pass the
//! filter: a semi-join reduction (Bernstein and Chiu, Journal of the ACM 28(1), 1981).
//!
//! ```text
//!  Join(p.k = a.k)                             Join(p.k = a.k)
//!    … Join(l.k = p.k, l, Filter(p)) …    ▶      … Join(l.k = p.k, l, Filter(p)) …
//!    Aggregate(a.k, l)                           Aggregate(a.k, LeftSemi(l.k = w.k, l, Filter(p) as w))
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, JoinType, NullEquality};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Aggregate, Expr, Join, LogicalPlan, LogicalPlanBuilder, SubqueryAlias, TableScan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::frame_table::FrameTable;

/// How many times the rows of the filtered frame there must be to reduce.
const WORTH_REDUCING: u64 = 4;
/// Most rows of the filtered frame: should its filter keep all of them, every bee holds a key of each.
const MAX_WANTED: u64 = 2 << 20;
/// How the keys are named in a plan.
const WANTED: &str = "__wanted";

/// The rule; see the module.
#[derive(Debug)]
pub(super) struct GroupReduction;

impl OptimizerRule for GroupReduction {
    fn name(&self) -> &str {
        "group_reduction"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
        if join.null_equality != NullEquality::NullEqualsNothing {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        // Groups that no row of the other side finds are not seen.
        let right = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::LeftSemi);
        let left = matches!(join.join_type, JoinType::Inner | JoinType::Right | JoinType::RightSemi);
        for (l, r) in pairs(&join) {
            if right && let Some(reduced) = reduced(&join.left, l, &join.right, r, config)? {
                return Ok(Transformed::yes(LogicalPlan::Join(Join { right: Arc::new(reduced), ..join.clone() })));
            }
            if left && let Some(reduced) = reduced(&join.right, r, &join.left, l, config)? {
                return Ok(Transformed::yes(LogicalPlan::Join(Join { left: Arc::new(reduced), ..join.clone() })));
            }
        }
        Ok(Transformed::no(LogicalPlan::Join(join)))
    }
}

/// The columns that a join finds equal.
fn pairs(join: &Join) -> impl Iterator<Item = (&Column, &Column)> {
    join.on.iter().filter_map(|(l, r)| match (l, r) {
        (Expr::Column(l), Expr::Column(r)) => Some((l, r)),
        _ => None,
    })
}

/// `groups` with its rows reduced to those whose `group` may be found in the column `key` of `keys`.
fn reduced(
    keys: &LogicalPlan,
    key: &Column,
    groups: &LogicalPlan,
    group: &Column,
    config: &dyn OptimizerConfig,
) -> Result<Option<LogicalPlan>, DataFusionError> {
    // Few joins have groups; what their keys come from is looked for then only.
    if !is_a_group(groups, group) {
        return Ok(None);
    }
    let Some(wanted) = wanted(keys, key).filter(|wanted| wanted.rows <= MAX_WANTED) else { return Ok(None) };
    let (Some(of), Some(in_)) = (groups.schema().maybe_index_of_column(group), wanted.index()) else { return Ok(None) };
    let data_type = groups.schema().field(of).data_type();
    // Of floats two can be equal that are not the same; of texts nobody knows how long they are.
    let is_long = data_type.primitive_width().is_none() && wanted.rows > MAX_WANTED / 16;
    if data_type != wanted.plan.schema().field(in_).data_type() || data_type.is_floating() || is_long {
        return Ok(None);
    }
    let alias = config.alias_generator().next(WANTED);
    above_the_aggregate(groups, group, &|scan, column| wanted.reduce(scan, column, &alias))
}

/// A filtered frame with a column whose values are all that a key can be.
struct Wanted {
    plan: LogicalPlan,
    column: Column,
    /// Rows of the frame.
    rows: u64,
}

impl Wanted {
    fn index(&self) -> Option<usize> {
        self.plan.schema().maybe_index_of_column(&self.column)
    }

    /// The rows of `scan` whose `column` is wanted; `None` where there are too few for that.
    fn reduce(&self, scan: &LogicalPlan, column: &Column, alias: &str) -> Result<Option<LogicalPlan>, DataFusionError> {
        let LogicalPlan::TableScan(table) = scan else { return Ok(None) };
        if rows(table).is_none_or(|rows| rows / WORTH_REDUCING < self.rows) {
            return Ok(None);
        }
        let keys = LogicalPlanBuilder::from(self.plan.clone()).project([Expr::Column(self.column.clone())])?;
        let keys = keys.alias(alias)?.build()?;
        let key = Column::new(Some(alias), self.column.name.clone());
        let on = (vec![column.clone()], vec![key]);
        LogicalPlanBuilder::from(scan.clone()).join(keys, JoinType::LeftSemi, on, None)?.build().map(Some)
    }
}

/// The smallest filtered frame that `column` of `plan` must be in.
fn wanted(plan: &LogicalPlan, column: &Column) -> Option<Wanted> {
    if let Some((rows, true)) = filtered(plan) {
        return Some(Wanted { plan: plan.clone(), column: column.clone(), rows });
    }
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            let (input, column) = below(plan, column)?;
            wanted(input, &column)
        }
        LogicalPlan::Join(join) => {
            let is_left = join.left.schema().has_column(column);
            let (keeps_left, keeps_right) = kept(join.join_type);
            let own = match is_left {
                true if keeps_left => wanted(&join.left, column),
                false if keeps_right => wanted(&join.right, column),
                _ => None,
            };
            // What is equal to it where both sides must be there.
            let both = matches!(join.join_type, JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi);
            let plain = join.null_equality == NullEquality::NullEqualsNothing;
            let others = pairs(join).filter(|_| both && plain).filter_map(|(l, r)| match is_left {
                true if l == column => wanted(&join.right, r),
                false if r == column => wanted(&join.left, l),
                _ => None,
            });
            own.into_iter().chain(others).min_by_key(|wanted| wanted.rows)
        }
        _ => None,
    }
}

/// Whether the rows that such a join gives are, as far as their left and right columns go, rows of its inputs: not filled
/// with nulls.
fn kept(join_type: JoinType) -> (bool, bool) {
    match join_type {
        JoinType::Inner => (true, true),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => (true, false),
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (false, true),
        JoinType::Full => (false, false),
    }
}

/// Rows of the one frame that `plan` scans, and whether a filter is over it; `None` when it is more than that, or may give
/// something else the next time.
fn filtered(plan: &LogicalPlan) -> Option<(u64, bool)> {
    match plan {
        LogicalPlan::TableScan(table) => {
            let rows = rows(table).filter(|_| table.filters.iter().all(lasts))?;
            // What is left of a condition may be that it is true.
            Some((rows, table.filters.iter().any(|filter| !filter.column_refs().is_empty())))
        }
        LogicalPlan::Filter(filter) if lasts(&filter.predicate) => {
            filtered(&filter.input).map(|(rows, _)| (rows, true))
        }
        LogicalPlan::Projection(projection) if projection.expr.iter().all(lasts) => filtered(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => filtered(&alias.input),
        _ => None,
    }
}

/// Whether an expression depends on its row alone.
pub(super) fn lasts(expression: &Expr) -> bool {
    let passing = |part: &Expr| {
        let is_query = matches!(
            part,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        );
        Ok(is_query || part.is_volatile_node())
    };
    // Visiting cannot fail: the closure never does.
    !expression.exists(passing).unwrap_or(true)
}

/// Rows of a frame that is scanned whole.
fn rows(table: &TableScan) -> Option<u64> {
    let provider = source_as_provider(&table.source).ok()?;
    provider.downcast_ref::<FrameTable>().filter(|_| table.fetch.is_none())?.rows()
}

/// What gives `column` below a plan of one input, if it is passed on as it is.
pub(super) fn below<'a>(plan: &'a LogicalPlan, column: &Column) -> Option<(&'a LogicalPlan, Column)> {
    match plan {
        LogicalPlan::Filter(filter) => Some((&filter.input, column.clone())),
        LogicalPlan::Projection(projection) => {
            let index = projection.schema.maybe_index_of_column(column)?;
            match projection.expr[index].clone().unalias() {
                Expr::Column(column) => Some((&projection.input, column)),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, schema, .. }) => {
            let index = schema.maybe_index_of_column(column)?;
            Some((input, Column::from(input.schema().qualified_field(index))))
        }
        LogicalPlan::Aggregate(Aggregate { input, group_expr, schema, .. }) => {
            match group_expr.get(schema.maybe_index_of_column(column)?)? {
                Expr::Column(column) => Some((input, column.clone())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether `column` is what an aggregate groups by.
fn is_a_group(plan: &LogicalPlan, column: &Column) -> bool {
    let Some((input, column)) = below(plan, column) else { return false };
    matches!(plan, LogicalPlan::Aggregate(_)) || is_a_group(input, &column)
}

/// Reduces a scan that gives a column.
type Reduce<'a> = &'a dyn Fn(&LogicalPlan, &Column) -> Result<Option<LogicalPlan>, DataFusionError>;

fn above_the_aggregate(
    plan: &LogicalPlan,
    column: &Column,
    reduce: Reduce<'_>,
) -> Result<Option<LogicalPlan>, DataFusionError> {
    let Some((input, column)) = below(plan, column) else { return Ok(None) };
    let reduced = match plan {
        LogicalPlan::Aggregate(_) => below_the_aggregate(input, &column, reduce)?,
        _ => above_the_aggregate(input, &column, reduce)?,
    };
    reduced.map(|input| plan.with_new_exprs(plan.expressions(), vec![input])).transpose()
}

fn below_the_aggregate(
    plan: &LogicalPlan,
    column: &Column,
    reduce: Reduce<'_>,
) -> Result<Option<LogicalPlan>, DataFusionError> {
    match plan {
        LogicalPlan::TableScan(_) => reduce(plan, column),
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            if !plan.expressions().iter().all(lasts) {
                return Ok(None);
            }
            let Some((input, column)) = below(plan, column) else { return Ok(None) };
            let reduced = below_the_aggregate(input, &column, reduce)?;
            reduced.map(|input| plan.with_new_exprs(plan.expressions(), vec![input])).transpose()
        }
        LogicalPlan::Join(join) if !is_reduction(join) => {
            let is_left = join.left.schema().has_column(column);
            match (is_left, kept(join.join_type)) {
                (true, (true, _)) => {
                    let reduced = below_the_aggregate(&join.left, column, reduce)?;
                    Ok(reduced.map(|left| LogicalPlan::Join(Join { left: Arc::new(left), ..join.clone() })))
                }
                (false, (_, true)) => {
                    let reduced = below_the_aggregate(&join.right, column, reduce)?;
                    Ok(reduced.map(|right| LogicalPlan::Join(Join { right: Arc::new(right), ..join.clone() })))
                }
                _ => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// Whether the rule made it.
fn is_reduction(join: &Join) -> bool {
    matches!(join.right.as_ref(), LogicalPlan::SubqueryAlias(alias) if alias.alias.table().starts_with(WANTED))
}
