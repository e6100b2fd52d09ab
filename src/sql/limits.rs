//! How large a statement may be: planning one takes the node's time and memory before any budget is asked.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Expr, GroupingSet, LogicalPlan};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr as Ast, Query, SetExpr, TableFactor, Visit, Visitor, With, visit_relations,
};

use super::refused;
use crate::{Error, Result};

/// Steps of a logical plan at most: the optimizer's rules go over each of them many times.
const MAX_NODES: u64 = 20_000;
/// Scans of one statement at most: each holds buffers while it runs, and many of them run at once.
const MAX_SCANS: u64 = 256;
/// Columns of one step at most: planning takes time with their square.
const MAX_COLUMNS: u64 = 4096;
/// Grouping sets of one aggregate at most: every row is looked at once for each, a batch at a time.
const MAX_GROUPINGS: u64 = 4096;

/// Refuses a statement that is too large to be planned at all, and what is [`refused`].
///
/// # Errors
/// `InvalidInput` with what there is too much of; `Unsupported`.
pub(crate) fn check_statement(statement: &DfStatement) -> Result<()> {
    refused::in_statement(statement)?;
    let statement = match statement {
        DfStatement::Statement(statement) => statement,
        DfStatement::Explain(explain) => return check_statement(&explain.statement),
        _ => return Ok(()),
    };
    match statement.visit(&mut Check) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Check;

impl Visitor for Check {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        if let SetExpr::Select(select) = query.body.as_ref() {
            refuse(select.projection.len() as u64, MAX_COLUMNS, "columns in one step")?;
        }
        refused::in_query(query)?;
        match &query.with {
            Some(with) => refuse(expanded(with), MAX_NODES, "copies of what WITH names"),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        refused::in_source(factor)
    }

    fn pre_visit_expr(&mut self, expression: &Ast) -> ControlFlow<Error> {
        refused::in_expression(expression)
    }
}

fn refuse(count: u64, limit: u64, what: &str) -> ControlFlow<Error> {
    if count > limit { ControlFlow::Break(too_many_of(count, limit, what)) } else { ControlFlow::Continue(()) }
}

fn too_many_of(count: u64, limit: u64, what: &str) -> Error {
    Error::invalid(format!(
        "the statement has {count} {what} or more, and {limit} are the most: split it, or write what lies between into a frame"
    ))
}

/// Copies of the largest of the queries that `with` names: whoever mentions one is given a copy of it.
fn expanded(with: &With) -> u64 {
    let mut copies: HashMap<String, u64> = HashMap::new();
    for cte in &with.cte_tables {
        let mut sum = 1u64;
        let _ = visit_relations(&cte.query, |name| {
            sum = sum.saturating_add(copies.get(&name.to_string().to_lowercase()).copied().unwrap_or(0));
            ControlFlow::<()>::Continue(())
        });
        copies.insert(cte.alias.name.value.to_lowercase(), sum);
    }
    copies.into_values().max().unwrap_or(0)
}

/// What of a plan decides how it is planned further.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// A part of it runs again and again.
    pub(crate) recursive: bool,
    /// Two inputs are compared row by row.
    pub(crate) join_without_keys: bool,
    /// It reads the engine's own tables of facts.
    pub(crate) facts: bool,
}

/// Looks a plan over before it is optimized.
///
/// # Errors
/// `InvalidInput` for one so large that planning it would take the node's time and memory.
pub(crate) fn survey(plan: &LogicalPlan) -> Result<Survey> {
    let mut found = Survey::default();
    let (mut nodes, mut scans, mut columns, mut groupings) = (0u64, 0u64, 0usize, 0u64);
    plan.apply_with_subqueries(|node| {
        nodes += 1;
        match node {
            LogicalPlan::Projection(projection) => columns = columns.max(projection.expr.len()),
            LogicalPlan::Window(window) => columns = columns.max(window.window_expr.len()),
            LogicalPlan::TableScan(scan) => {
                scans += 1;
                found.facts |= scan.table_name.schema() == Some("information_schema");
            }
            LogicalPlan::RecursiveQuery(_) => found.recursive = true,
            LogicalPlan::Join(join) => found.join_without_keys |= join.on.is_empty(),
            LogicalPlan::Aggregate(aggregate) => {
                columns = columns.max(aggregate.aggr_expr.len());
                groupings = groupings.max(grouping_sets(&aggregate.group_expr));
            }
            _ => {}
        }
        // What is mentioned twice is one plan here, and two for the optimizer: there may be more than can be counted.
        Ok(if nodes > MAX_NODES { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    let too_many = [
        (nodes, MAX_NODES, "steps"),
        (scans, MAX_SCANS, "scans"),
        (columns as u64, MAX_COLUMNS, "columns in one step"),
        (groupings, MAX_GROUPINGS, "grouping sets"),
    ];
    match too_many.into_iter().find(|(count, limit, _)| count > limit) {
        Some((count, limit, what)) => Err(too_many_of(count, limit, what)),
        None => Ok(found),
    }
}

fn grouping_sets(groups: &[Expr]) -> u64 {
    let sets = |group: &Expr| match group {
        Expr::GroupingSet(GroupingSet::Cube(of)) => 1u64.checked_shl(of.len() as u32).unwrap_or(u64::MAX),
        Expr::GroupingSet(GroupingSet::Rollup(of)) => of.len() as u64 + 1,
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => sets.len() as u64,
        _ => 1,
    };
    groups.iter().map(sets).fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::super::statement::query_of;
    use super::*;

    async fn surveyed(sql: &str) -> Result<Survey> {
        let statement = query_of(sql)?;
        check_statement(&statement)?;
        let state = SessionContext::new().state();
        survey(&state.statement_to_plan(statement).await?)
    }

    #[tokio::test]
    async fn what_is_too_large_says_so_before_it_is_planned() {
        let doubled =
            (1..30).map(|i| format!(", c{i} AS (SELECT * FROM c{} UNION ALL SELECT * FROM C{})", i - 1, i - 1));
        let ctes = format!("WITH c0 AS (SELECT 1){} SELECT * FROM c29", doubled.collect::<String>());
        let columns = format!("SELECT {}", vec!["1"; 5000].join(", "));
        let nested = format!("SELECT * FROM ({columns})");
        for (sql, what) in [(ctes, "copies"), (columns, "columns"), (cube(13), "grouping sets"), (nested, "columns")] {
            let error = surveyed(&sql).await.unwrap_err();
            assert!(error.message().contains(what), "{what}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_not_is_looked_over() {
        let found = |recursive, join_without_keys| Survey { recursive, join_without_keys, facts: false };
        for (sql, wanted) in [
            (cube(6).as_str(), found(false, false)),
            ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r", found(true, false)),
            ("SELECT * FROM (SELECT 1 AS a) x JOIN (SELECT 2 AS b) y ON a < b", found(false, true)),
        ] {
            assert_eq!(surveyed(sql).await.unwrap(), wanted, "{sql}");
        }
    }

    /// A query with so many columns that is grouped by every set of them.
    fn cube(columns: u8) -> String {
        let names: Vec<_> = (b'a'..b'a' + columns).map(|c| char::from(c).to_string()).collect();
        let rows: Vec<_> = names.iter().map(|name| format!("1 AS {name}")).collect();
        format!("SELECT 1 FROM (SELECT {}) GROUP BY CUBE ({})", rows.join(", "), names.join(", "))
    }
}
