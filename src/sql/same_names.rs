//! Columns of one SELECT that would have the same name: the engine refuses them, and people write `SELECT a, a` and
//! `INSERT … SELECT 1, NULL, NULL` every day. The second is called `a:1`, as DuckDB has it.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, VisitMut, VisitorMut};

use super::statement::folded;

/// Gives names of their own to columns that have none and would be called like another one.
pub(super) fn tell_apart(statement: &mut DfStatement) {
    match statement {
        DfStatement::Statement(ast) => {
            // It never breaks off.
            let _ = ast.visit(&mut Names);
        }
        DfStatement::Explain(explain) => tell_apart(&mut explain.statement),
        _ => {}
    }
}

struct Names;

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        name(&mut query.body);
        ControlFlow::Continue(())
    }
}

fn name(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { left, right, .. } => {
            name(left);
            return name(right);
        }
        _ => return,
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expression) = item else { continue };
        let text = column_name(called(expression));
        let before = seen.entry(text.clone()).or_default();
        if *before > 0 {
            let alias = Ident::with_quote('"', format!("{text}:{before}"));
            *item = SelectItem::ExprWithAlias { expr: expression.clone(), alias };
        }
        *before += 1;
    }
}

/// The name of the column that a value becomes.
fn column_name(expression: &Expr) -> String {
    let folded = |name: &Ident| folded(&name.value, name.quote_style);
    match expression {
        Expr::Identifier(name) => folded(name),
        Expr::CompoundIdentifier(names) => names.iter().map(folded).collect::<Vec<_>>().join("."),
        other => other.to_string(),
    }
}

/// What the engine calls a value by: a cast has the name of what it casts.
fn called(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast { expr, .. } => called(expr),
        Expr::Nested(inner) => called(inner),
        other => other,
    }
}
