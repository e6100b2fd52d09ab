//! `ORDER BY ALL`: by all columns of a query, from the first on.
//!
//! The parser does not know it: a name stands for ALL there, until the columns are counted. Those of a query without a star
//! are counted as they are written; a star's are known when all else of the query is planned.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::parser::{CopyToSource, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, SelectItem, SetExpr, SetQuantifier,
    Statement as Ast, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::statement::{places, word_of};
use crate::{Error, Result};

/// Stands for ALL.
const ALL: &str = "all columns";

/// Writes `ORDER BY ALL` as the parser takes it.
pub(super) fn write_out_order_by_all(tokens: &mut [TokenWithSpan]) {
    let words = places(tokens);
    let is = |at: usize, text: &str| words.get(at).and_then(|at| word_of(&tokens[*at].token)).as_deref() == Some(text);
    let found = (2..words.len()).filter(|at| is(*at, "ALL") && is(at - 1, "BY") && is(at - 2, "ORDER"));
    let found: Vec<usize> = found.map(|at| words[at]).collect();
    for at in found {
        tokens[at].token = Token::make_word(ALL, Some('"'));
    }
}

/// Orders by the columns of a query that are written out.
pub(super) fn by_written_columns(query: &mut Query) {
    if let (Some(options), Some(count)) = (all(query), written(&query.body)) {
        query.order_by = Some(by_number(count, options));
    }
}

/// A statement whose query, if it has a star, is ordered by the columns that this is.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] where that is left to be done within another query; what is wrong with the query.
pub(super) async fn by_found_columns(mut statement: DfStatement, state: &SessionState) -> Result<DfStatement> {
    if let Some(query) = query_of(&mut statement)
        && let Some(options) = all(query)
    {
        let bare = Query { order_by: None, limit_clause: None, fetch: None, ..query.clone() };
        let bare = DfStatement::Statement(Box::new(Ast::Query(Box::new(bare))));
        let plan = state.statement_to_plan(bare).await?;
        query.order_by = Some(by_number(plan.schema().fields().len(), options));
    }
    let is_left = match query_of(&mut statement) {
        Some(query) => query.visit(&mut Left).is_break(),
        None => matches!(&statement, DfStatement::Statement(ast) if ast.visit(&mut Left).is_break()),
    };
    match is_left {
        true => Err(Error::unsupported(
            "ORDER BY ALL stands alone, at the end of a query, or within one that has no star: name the columns to order by",
        )),
        false => Ok(statement),
    }
}

fn query_of(statement: &mut DfStatement) -> Option<&mut Query> {
    match statement {
        DfStatement::Statement(ast) => match ast.as_mut() {
            Ast::Query(query) => Some(query),
            _ => None,
        },
        DfStatement::Explain(explain) => query_of(&mut explain.statement),
        DfStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => Some(query),
            CopyToSource::Relation(_) => None,
        },
        _ => None,
    }
}

/// How a query is to be ordered by all of its columns, if it is.
fn all(query: &Query) -> Option<OrderByOptions> {
    match &query.order_by.as_ref()?.kind {
        OrderByKind::Expressions(by) => match by.as_slice() {
            [by] if is_all(&by.expr) => Some(by.options),
            _ => None,
        },
        OrderByKind::All(options) => Some(*options),
    }
}

fn is_all(expression: &Expr) -> bool {
    matches!(expression, Expr::Identifier(Ident { value, .. }) if value == ALL)
}

/// How many columns are written.
fn written(body: &SetExpr) -> Option<usize> {
    match body {
        SetExpr::Select(select) => {
            let is_one =
                |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
            select.projection.iter().all(is_one).then_some(select.projection.len())
        }
        SetExpr::Query(query) => written(&query.body),
        SetExpr::SetOperation { set_quantifier: by, left, .. } => match by {
            SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => None,
            _ => written(left),
        },
        SetExpr::Values(values) => values.rows.first().map(|row| row.len()),
        _ => None,
    }
}

fn by_number(count: usize, options: OrderByOptions) -> OrderBy {
    let by = |number: usize| OrderByExpr {
        expr: Expr::value(Value::Number(number.to_string(), false)),
        options,
        with_fill: None,
    };
    OrderBy { kind: OrderByKind::Expressions((1..=count).map(by).collect()), interpolate: None }
}

/// Looks for what is left.
struct Left;

impl Visitor for Left {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if is_all(expression) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
