//! What the parser takes otherwise than it is meant.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Query, Select, SelectFlavor, SelectItem, SetExpr, UnaryOperator, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::order_by_all::by_written_columns;
use super::statement::{RECURSION_LIMIT, places, syntax, word_of};
use crate::Result;

/// Stands in `UPDATE SET *` for the columns: the parser knows no star there.
pub(super) const EVERY: &str = "every column";

/// Puts a statement right: `FROM f` stands for all columns of `f`, ORDER BY ALL for those that are written, and `IS DISTINCT FROM` binds more than AND and OR.
pub(super) fn put_right(statement: &mut DfStatement) {
    // It never breaks off.
    let _ = match statement {
        DfStatement::Statement(ast) => ast.visit(&mut Spelling),
        DfStatement::Explain(explain) => return put_right(&mut explain.statement),
        DfStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(&mut Spelling),
            CopyToSource::Relation(_) => return,
        },
        _ => return,
    };
}

/// As [`put_right`], of an expression; the text as it is, unless something had to be put right.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for what is no expression.
pub(super) fn right_expression(sql: &str) -> Result<String> {
    if !sql.to_ascii_uppercase().contains("DISTINCT") {
        return Ok(sql.to_string());
    }
    let mut parser = Parser::new(&GenericDialect {}).with_recursion_limit(RECURSION_LIMIT);
    parser = parser.try_with_sql(sql).map_err(syntax)?;
    let mut expression = parser.parse_expr().map_err(syntax)?;
    let _ = expression.visit(&mut Spelling);
    Ok(expression.to_string())
}

/// Writes `UPDATE SET *` and `INSERT *` of a MERGE as the parser takes them.
pub(super) fn write_out_stars(tokens: &mut Vec<TokenWithSpan>) {
    let words = places(tokens);
    let is = |at: usize, text: &str| words.get(at).and_then(|at| word_of(&tokens[*at].token)).as_deref() == Some(text);
    let explains = |at: &usize| ["EXPLAIN", "ANALYZE", "VERBOSE"].iter().any(|word| is(*at, word));
    if !is((0..words.len()).take_while(explains).count(), "MERGE") {
        return;
    }
    let is_star = |at: &usize| words.get(*at).is_some_and(|at| tokens[*at].token == Token::Mul);
    let ends = |at: usize| match words.get(at + 1).map(|at| &tokens[*at].token) {
        None | Some(Token::SemiColon | Token::EOF) => true,
        Some(next) => word_of(next).as_deref() == Some("WHEN"),
    };
    let update = |at: usize| at >= 3 && is(at - 3, "THEN") && is(at - 2, "UPDATE") && is(at - 1, "SET");
    let insert = |at: usize| at >= 2 && is(at - 2, "THEN") && is(at - 1, "INSERT");
    let found = (0..words.len()).filter(is_star).filter(|at| ends(*at) && (update(*at) || insert(*at)));
    let found: Vec<(usize, bool)> = found.map(|at| (words[at], update(at))).collect();
    // From the end on: what stands before keeps its place.
    for (at, is_update) in found.into_iter().rev() {
        let span = tokens[at].span;
        let every = || Token::make_word(EVERY, Some('"'));
        let written = if is_update { vec![every(), Token::Eq, every()] } else { vec![Token::make_keyword("ROW")] };
        tokens.splice(at..=at, written.into_iter().map(|token| TokenWithSpan { token, span }));
    }
}

/// Writes `SET TIME ZONE x` as the parser's `SET timezone = x`, which is checked.
pub(super) fn write_out_time_zone(tokens: &mut [TokenWithSpan]) {
    let words = places(tokens);
    let is = |at: usize, text: &str| words.get(at).and_then(|at| word_of(&tokens[*at].token)).as_deref() == Some(text);
    if is(0, "SET") && is(1, "TIME") && is(2, "ZONE") {
        let (time, zone) = (words[1], words[2]);
        tokens[time].token = Token::make_word("timezone", None);
        tokens[zone].token = Token::Eq;
    }
}

struct Spelling;

impl VisitorMut for Spelling {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        select_all(&mut query.body);
        by_written_columns(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        let is_chain = matches!(
            expression,
            Expr::IsDistinctFrom(..)
                | Expr::IsNotDistinctFrom(..)
                | Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. }
                | Expr::UnaryOp { op: UnaryOperator::Not, .. }
        );
        if is_chain && takes_too_much(expression) {
            let whole = std::mem::replace(expression, Expr::Identifier(Ident::new("")));
            let (first, rest) = links(whole);
            *expression = chained(first, rest);
        }
        ControlFlow::Continue(())
    }
}

fn select_all(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            let Select { flavor, projection, .. } = select.as_mut();
            if *flavor == SelectFlavor::FromFirstNoSelect {
                *flavor = SelectFlavor::Standard;
                *projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            select_all(left);
            select_all(right);
        }
        _ => {}
    }
}

/// Whether an `IS DISTINCT FROM` of a chain of AND, OR and NOT has more of the chain for its right side.
fn takes_too_much(expression: &Expr) -> bool {
    match expression {
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            takes_too_much(left) || takes_too_much(right)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => takes_too_much(expr),
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
            matches!(right.as_ref(), Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. })
                || takes_too_much(right)
        }
        _ => false,
    }
}

type Links = Vec<(BinaryOperator, Expr)>;

/// The links of a chain, in the order of the text; what is in parentheses is one, and gets them where it could be taken
/// otherwise again.
fn links(expression: Expr) -> (Expr, Links) {
    let with_first = |inner: Expr, wrap: &dyn Fn(Box<Expr>) -> Expr| {
        let (first, rest) = links(inner);
        (wrap(Box::new(first)), rest)
    };
    match expression {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            let (first, mut rest) = links(*left);
            let (next, more) = links(*right);
            rest.push((op, next));
            rest.extend(more);
            (first, rest)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            with_first(*expr, &|expr| Expr::UnaryOp { op: UnaryOperator::Not, expr })
        }
        Expr::IsDistinctFrom(left, right) => {
            with_first(*right, &|right| Expr::Nested(Box::new(Expr::IsDistinctFrom(left.clone(), right))))
        }
        Expr::IsNotDistinctFrom(left, right) => {
            with_first(*right, &|right| Expr::Nested(Box::new(Expr::IsNotDistinctFrom(left.clone(), right))))
        }
        other => (other, Vec::new()),
    }
}

/// The chain of these links: AND binds more than OR, and both to the left.
fn chained(first: Expr, rest: Links) -> Expr {
    let joined = |left: Option<Expr>, op: BinaryOperator, right: Expr| match left {
        Some(left) => Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) },
        None => right,
    };
    let (mut whole, mut part) = (None, first);
    for (op, next) in rest {
        part = match op {
            BinaryOperator::And => joined(Some(part), op, next),
            _ => {
                whole = Some(joined(whole.take(), BinaryOperator::Or, part));
                next
            }
        };
    }
    joined(whole, BinaryOperator::Or, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_distinct_ends_before_and_and_or() {
        let tree = |sql: &str| {
            let mut parser = Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap();
            parser.parse_expr().unwrap()
        };
        for (given, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a is not distinct from b + 1 or c", "(a IS NOT DISTINCT FROM b + 1) OR c"),
            ("x AND a IS DISTINCT FROM b OR c AND d", "(x AND (a IS DISTINCT FROM b)) OR (c AND d)"),
            ("x OR a IS DISTINCT FROM b BETWEEN 1 AND 2 AND c", "x OR ((a IS DISTINCT FROM b BETWEEN 1 AND 2) AND c)"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT a IS DISTINCT FROM b) AND c"),
            (
                "a IS DISTINCT FROM b AND c IS DISTINCT FROM d OR e",
                "((a IS DISTINCT FROM b) AND (c IS DISTINCT FROM d)) OR e",
            ),
            ("a IS DISTINCT FROM b = c", "a IS DISTINCT FROM b = c"),
            ("a IS DISTINCT FROM (b AND c) OR d", "(a IS DISTINCT FROM (b AND c)) OR d"),
            (
                "f(CASE WHEN a IS DISTINCT FROM b AND c THEN 1 END)",
                "f(CASE WHEN (a IS DISTINCT FROM b) AND c THEN 1 END)",
            ),
        ] {
            assert_eq!(shape(&tree(&right_expression(given).unwrap())), shape(&tree(meant)), "{given}");
        }
    }

    /// The tree with all of its chains in parentheses.
    fn shape(expression: &Expr) -> String {
        match expression {
            Expr::Nested(inner) => shape(inner),
            Expr::BinaryOp { left, op, right } => format!("({} {op} {})", shape(left), shape(right)),
            Expr::UnaryOp { op, expr } => format!("({op} {})", shape(expr)),
            Expr::IsDistinctFrom(left, right) => format!("({} IDF {})", shape(left), shape(right)),
            Expr::IsNotDistinctFrom(left, right) => format!("({} INDF {})", shape(left), shape(right)),
            other => other.to_string().replace(['(', ')'], ""),
        }
    }
}
