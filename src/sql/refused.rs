//! What the engine would leave out without a word, or answer otherwise than SQL does: an error is better than that.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, JoinConstraint, JoinOperator, Query, SetExpr, SetOperator, SetQuantifier, TableFactor, TableWithJoins,
    WindowType,
};

use crate::Error;

/// Looks at a query, but not at those within it.
pub(super) fn in_query(query: &Query) -> ControlFlow<Error> {
    if !query.locks.is_empty() {
        return refused("FOR UPDATE", "a query sees one version, and writers that meet conflict");
    }
    in_set(&query.body)
}

fn in_set(set: &SetExpr) -> ControlFlow<Error> {
    match set {
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            in_set(left)?;
            in_set(right)?;
            match (op, set_quantifier) {
                // Equal rows would not be counted against each other.
                (SetOperator::Except | SetOperator::Intersect, SetQuantifier::All) => {
                    refused("ALL behind EXCEPT or INTERSECT", "without it, or number equal rows with row_number()")
                }
                _ => ControlFlow::Continue(()),
            }
        }
        SetExpr::Select(select) => select.from.iter().try_for_each(in_joins),
        _ => ControlFlow::Continue(()),
    }
}

fn in_joins(table: &TableWithJoins) -> ControlFlow<Error> {
    let is_merged =
        |constraint: &JoinConstraint| matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural);
    let outer = table.joins.iter().any(|join| match &join.join_operator {
        JoinOperator::FullOuter(by) | JoinOperator::Right(by) | JoinOperator::RightOuter(by) => is_merged(by),
        _ => false,
    });
    match outer {
        // The merged column would be null for rows of the right side alone.
        true => refused("USING or NATURAL of a RIGHT or FULL JOIN", "use ON, and coalesce() of both columns"),
        false => ControlFlow::Continue(()),
    }
}

/// Looks at one source of a query.
pub(super) fn in_source(source: &TableFactor) -> ControlFlow<Error> {
    match source {
        TableFactor::Table { sample: Some(_), .. } => refused("TABLESAMPLE", "filter with random() < 0.1"),
        _ => ControlFlow::Continue(()),
    }
}

/// Looks at an expression, but not at those within it.
pub(super) fn in_expression(expression: &Expr) -> ControlFlow<Error> {
    match expression {
        // It would be taken for a regular expression that may match anywhere.
        Expr::SimilarTo { .. } => refused("SIMILAR TO", "use LIKE, or ~ with a regular expression"),
        Expr::Function(function) => match &function.over {
            // The named window's own PARTITION BY would be lost.
            Some(WindowType::WindowSpec(window)) if window.window_name.is_some() => {
                refused("a window that begins with another one's name", "write PARTITION BY and ORDER BY out")
            }
            _ => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

fn refused(what: &str, instead: &str) -> ControlFlow<Error> {
    ControlFlow::Break(Error::unsupported(format!("{what} is not available: {instead}")))
}
