//! How many rows a plan is expected to give, by what the ledgers say of its frames.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;

use datafusion::common::{Column, DFSchema, JoinType, Statistics};
use datafusion::datasource::source_as_provider;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, FetchType, Join, LogicalPlan, TableScan};
use datafusion::physical_expr::expressions::Column as Position;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{conjunction, create_physical_expr};

use super::catalog::frame_behind;
use super::group_reduction::below;
use super::selectivity::{OTHER, distinct, selectivity};

/// Least that an anti-join keeps.
const LEFT_OVER: f64 = 0.2;
/// What a further condition of a semi-join keeps.
const FURTHER: f64 = 0.5;
/// Rows in a group of which nothing is known.
const GROUPED: f64 = 10.0;

/// What was reckoned of plans, by their address: they must live as long.
#[derive(Debug, Default)]
pub(super) struct Cardinality(RefCell<HashMap<*const LogicalPlan, Option<f64>>>);

impl Cardinality {
    /// Rows that `plan` gives, where all of its inputs are frames or values.
    pub(super) fn rows(&self, plan: &LogicalPlan) -> Option<f64> {
        if let Some(rows) = self.0.borrow().get(&ptr::from_ref(plan)) {
            return *rows;
        }
        let rows = self.reckoned(plan);
        self.0.borrow_mut().insert(ptr::from_ref(plan), rows);
        rows
    }

    fn reckoned(&self, plan: &LogicalPlan) -> Option<f64> {
        match plan {
            LogicalPlan::TableScan(scan) => kept(scan, &scan.filters),
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                // Its conditions are those that reached the scan, and more.
                LogicalPlan::TableScan(scan) => kept(scan, std::slice::from_ref(&filter.predicate)),
                input => Some(self.rows(input)? * OTHER),
            },
            LogicalPlan::Projection(projection) => self.rows(&projection.input),
            LogicalPlan::SubqueryAlias(alias) => self.rows(&alias.input),
            LogicalPlan::Window(window) => self.rows(&window.input),
            LogicalPlan::Repartition(repartition) => self.rows(&repartition.input),
            LogicalPlan::Sort(sort) => {
                self.rows(&sort.input).map(|rows| sort.fetch.map_or(rows, |fetch| rows.min(fetch as f64)))
            }
            LogicalPlan::Limit(limit) => match limit.get_fetch_type().ok()? {
                FetchType::Literal(Some(fetch)) => Some(self.rows(&limit.input)?.min(fetch as f64)),
                _ => self.rows(&limit.input),
            },
            LogicalPlan::Distinct(distinct) => self.rows(distinct.input()),
            LogicalPlan::Aggregate(aggregate) => {
                let input = self.rows(&aggregate.input)?;
                let groups = aggregate.group_expr.iter().map(|group| match group {
                    Expr::Column(column) => self.domain(&aggregate.input, column),
                    _ => None,
                });
                let groups: Option<f64> = groups.product();
                let most = if aggregate.group_expr.is_empty() { 1.0 } else { input.max(1.0) };
                Some(groups.unwrap_or(input / GROUPED).min(most))
            }
            LogicalPlan::Join(join) => self.joined(join),
            LogicalPlan::Union(union) => union.inputs.iter().map(|input| self.rows(input)).sum(),
            LogicalPlan::Values(values) => Some(values.values.len() as f64),
            LogicalPlan::EmptyRelation(empty) => Some(f64::from(u8::from(empty.produce_one_row))),
            _ => None,
        }
    }

    /// How many values a column can have, whatever filters leave of its rows: at most.
    fn domain(&self, plan: &LogicalPlan, column: &Column) -> Option<f64> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let (all, index) = (self.unfiltered(plan)?, scan.source.schema().index_of(&column.name).ok()?);
                let column = &statistics(scan, &[index])?.column_statistics[index];
                Some(distinct(column).map_or(all, |values| values.min(all)))
            }
            LogicalPlan::Join(join) if join.left.schema().has_column(column) => self.domain(&join.left, column),
            LogicalPlan::Join(join) => self.domain(&join.right, column),
            _ => match below(plan, column) {
                Some((input, column)) => self.domain(input, &column),
                None => self.rows(plan),
            },
        }
    }

    /// Rows of the frame that `plan` filters, or what it gives where it is more than that.
    fn unfiltered(&self, plan: &LogicalPlan) -> Option<f64> {
        match plan {
            LogicalPlan::TableScan(scan) => all_rows(&statistics(scan, &[])?),
            LogicalPlan::Filter(filter) => self.unfiltered(&filter.input),
            LogicalPlan::Projection(projection) => self.unfiltered(&projection.input),
            LogicalPlan::SubqueryAlias(alias) => self.unfiltered(&alias.input),
            _ => self.rows(plan),
        }
    }

    /// How many pairs of columns' values there are, of which rows of two inputs may have equal ones: what the product of their
    /// rows is divided by. Values of the one with fewer are taken to be among those of the other.
    pub(super) fn shared_domain(&self, left: &LogicalPlan, right: &LogicalPlan, pairs: &[(Expr, Expr)]) -> Option<f64> {
        let of = |plan: &LogicalPlan, expression: &Expr| match expression {
            Expr::Column(column) => self.domain(plan, column),
            _ => self.unfiltered(plan),
        };
        let each = pairs.iter().map(|(l, r)| Some(of(left, l)?.min(of(right, r)?)));
        let all: f64 = each.product::<Option<f64>>()?;
        Some(all.min(self.unfiltered(left)?.min(self.unfiltered(right)?)).max(1.0))
    }

    /// The share of its left side's rows that a semi- or an anti-join keeps.
    pub(super) fn keeps(&self, join: &Join) -> Option<f64> {
        let domain = self.shared_domain(&join.left, &join.right, &join.on)?;
        let share = (self.rows(&join.right)? / domain).min(1.0);
        let found = if join.filter.is_some() { share * FURTHER } else { share };
        Some(if join.join_type == JoinType::LeftSemi { found } else { (1.0 - found).max(LEFT_OVER) })
    }

    fn joined(&self, join: &Join) -> Option<f64> {
        let (left, right) = (self.rows(&join.left)?, self.rows(&join.right)?);
        let inner = || {
            let all = left * right / self.shared_domain(&join.left, &join.right, &join.on)?;
            Some(if join.filter.is_some() { all * OTHER } else { all })
        };
        match join.join_type {
            JoinType::Inner => inner(),
            JoinType::Left => Some(inner()?.max(left)),
            JoinType::Right => Some(inner()?.max(right)),
            JoinType::Full => Some(inner()?.max(left + right)),
            JoinType::LeftSemi | JoinType::LeftAnti => Some(left * self.keeps(join)?),
            JoinType::LeftMark => Some(left),
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => Some(right),
        }
    }
}

/// Rows of a scan that conditions keep.
fn kept(scan: &TableScan, filters: &[Expr]) -> Option<f64> {
    // The scan's own columns are fewer than those of its conditions.
    let schema = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema()).ok()?;
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let parts: Vec<&Expr> = filters.iter().flat_map(split_conjunction).collect();
    let known = parts.iter().filter_map(|part| create_physical_expr(part, &schema, &props, &context).ok());
    let known: Vec<_> = known.collect();
    // Of what only running tells nothing is known.
    let unknown = parts.len() - known.len();
    let predicate = conjunction(known);
    let columns: Vec<usize> = collect_columns(&predicate).iter().map(Position::index).collect();
    let statistics = statistics(scan, &columns)?;
    Some(all_rows(&statistics)? * selectivity(&predicate, &statistics) * OTHER.powi(unknown as i32))
}

/// What the ledger says of a frame that is scanned, and of some of its columns.
fn statistics(scan: &TableScan, columns: &[usize]) -> Option<Statistics> {
    frame_behind(&source_as_provider(&scan.source).ok()?)?.estimates(columns)
}

fn all_rows(statistics: &Statistics) -> Option<f64> {
    statistics.num_rows.get_value().map(|rows| *rows as f64)
}
