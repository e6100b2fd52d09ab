//! Frames of one FROM whose names the engine would take for each other: a part that a name does not have is like any other
//! to it, so that `b.f.x` of `FROM f, b.f` would be a column of the first.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Select, TableFactor, TableWithJoins, Visit, Visitor};

use super::statement::names as parts;
use crate::{Error, Result};

/// Looks at every FROM, together with those around it, whose columns it may name.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] naming two frames of which one needs an alias.
pub(super) fn check_frames(statement: &DfStatement) -> Result<()> {
    match statement {
        DfStatement::Statement(ast) => match ast.visit(&mut Frames::default()) {
            ControlFlow::Break((one, other)) => Err(Error::invalid(format!(
                "'{one}' and '{other}' in one FROM cannot be told apart by their columns' names: give one of them an alias"
            ))),
            ControlFlow::Continue(()) => Ok(()),
        },
        DfStatement::Explain(explain) => check_frames(&explain.statement),
        _ => Ok(()),
    }
}

/// The names without an alias, of each SELECT that is around.
#[derive(Default)]
struct Frames(Vec<Vec<Vec<String>>>);

impl Visitor for Frames {
    type Break = (String, String);

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let mut names = Vec::new();
        select.from.iter().for_each(|from| collect(from, &mut names));
        let all: Vec<&Vec<String>> = self.0.iter().flatten().chain(&names).collect();
        for (at, one) in all.iter().enumerate() {
            let alike =
                |other: &&&Vec<String>| one.len() != other.len() && (one.ends_with(other) || other.ends_with(one));
            if let Some(other) = all.iter().take(at).find(alike) {
                return ControlFlow::Break((other.join("."), one.join(".")));
            }
        }
        self.0.push(names);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<Self::Break> {
        self.0.pop();
        ControlFlow::Continue(())
    }
}

fn collect(from: &TableWithJoins, names: &mut Vec<Vec<String>>) {
    let factors = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
    for factor in factors {
        match factor {
            TableFactor::Table { name, alias: None, args: None, .. } => names.push(parts(name.clone())),
            TableFactor::NestedJoin { table_with_joins, .. } => collect(table_with_joins, names),
            _ => {}
        }
    }
}
