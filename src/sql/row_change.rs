//! DELETE, UPDATE and MERGE as queries over the frame they change.
//!
//! Cells are never changed: those with rows to change are replaced. One query finds them and counts what will change,
//! another gives the rows that stand in their place. Both read the frame by the name [`TARGET`], with a column [`CELL`]
//! that numbers its cells.

use std::fmt::Write;
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Ident, Merge, MergeAction, MergeClause, MergeClauseKind,
    MergeInsertKind, ObjectName, Statement as Ast, TableFactor, TableWithJoins, Update, visit_expressions,
};

use super::statement::names;
use crate::storage::Rewrite;
use crate::{Error, Result};

/// The frame that is changed, as its queries name it: no frame can be called so.
pub(crate) const TARGET: &str = "the target";
/// Its column that says which cell a row is in.
pub(crate) const CELL: &str = "the cell";
const IN_TARGET: &str = "\"in the target\"";
const IN_SOURCE: &str = "\"in the source\"";

/// A statement that changes rows.
#[derive(Debug, Clone)]
pub struct RowChange {
    /// The frame's name as it was written.
    pub(crate) name: Vec<String>,
    /// What the frame is called within the statement, quoted.
    alias: String,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Delete { predicate: String },
    Update { assignments: Vec<(String, String)>, predicate: String, asks: bool },
    Merge { source: String, source_alias: String, on: String, clauses: Vec<Clause> },
}

/// One WHEN of a MERGE.
#[derive(Debug, Clone)]
struct Clause {
    kind: When,
    predicate: String,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Matched,
    NotInTarget,
    NotInSource,
}

#[derive(Debug, Clone)]
enum Action {
    Delete,
    Update(Vec<(String, String)>),
    Insert(Vec<(String, String)>),
    /// The source's columns of the same names.
    InsertRow,
}

impl RowChange {
    /// The change that a statement asks for, if it is one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] for clauses that are not kept.
    pub(crate) fn of(statement: &DfStatement) -> Result<Option<Self>> {
        let DfStatement::Statement(ast) = statement else { return Ok(None) };
        match ast.as_ref() {
            Ast::Delete(delete) => Self::delete(delete).map(Some),
            Ast::Update(update) => Self::update(update).map(Some),
            Ast::Merge(merge) => Self::merge(merge).map(Some),
            _ => Ok(None),
        }
    }

    /// Why its cells are replaced.
    pub fn rewrite(&self) -> Rewrite {
        match &self.body {
            Body::Delete { .. } => Rewrite::Delete,
            Body::Update { .. } => Rewrite::Update,
            Body::Merge { .. } => Rewrite::Merge,
        }
    }

    /// Whether it may add rows although it changes none.
    pub fn may_insert(&self) -> bool {
        self.clauses().iter().any(|clause| clause.kind == When::NotInTarget)
    }

    /// Whether it leaves every row as it is: then it reads the whole frame and replaces no cell.
    pub fn only_inserts(&self) -> bool {
        matches!(self.body, Body::Merge { .. }) && self.clauses().iter().all(|clause| clause.kind == When::NotInTarget)
    }

    /// The query that finds the cells to replace: `cell`, `matches` and `rows` (pairs of a row and what changes it, and
    /// rows that are changed: more matches than rows are an error), `updated`, `deleted`; one row a cell.
    pub fn find(&self) -> String {
        let (target, t) = (quoted(TARGET), &self.alias);
        let cell = format!("{t}.{}", quoted(CELL));
        let counted = |updated: &str, deleted: &str, predicate: &str| {
            format!(
                "SELECT {cell} AS cell, count(*) AS matches, count(*) AS rows, {updated} AS updated, {deleted} AS deleted \
                 FROM {target} AS {t} WHERE {predicate} GROUP BY 1"
            )
        };
        match &self.body {
            Body::Delete { predicate } => counted("0", "count(*)", predicate),
            Body::Update { predicate, .. } => counted("count(*)", "0", predicate),
            Body::Merge { source, source_alias: s, on, clauses } => {
                let of = |kind: When| clauses.iter().filter(move |clause| clause.kind == kind);
                let any = |kind: When| any_of(of(kind).map(|clause| clause.predicate.as_str()));
                let is = |kind: When, wanted: fn(&Action) -> bool| {
                    let when = |clause: &Clause| {
                        format!(" WHEN {} THEN {}", clause.predicate, u8::from(wanted(&clause.action)))
                    };
                    let whens: String = of(kind).map(when).collect();
                    if whens.is_empty() { "0".to_string() } else { format!("CASE{whens} ELSE 0 END") }
                };
                let updates: fn(&Action) -> bool = |action| matches!(action, Action::Update(_));
                let deletes: fn(&Action) -> bool = |action| matches!(action, Action::Delete);
                let (matched, alone) = (any(When::Matched), any(When::NotInSource));
                // A row that a source row matches must be seen, changed or not: else that source row would be inserted.
                let seen = if self.may_insert() { "true" } else { &matched };
                let mut all = format!(
                    "SELECT {cell} AS cell, CASE WHEN {matched} THEN 1 ELSE 0 END AS matches, 0 AS rows, \
                     {} AS updated, {} AS deleted FROM {target} AS {t} JOIN {source} AS {s} ON {on} WHERE {seen} \
                     UNION ALL SELECT {cell}, 0, 1, 0, 0 FROM {target} AS {t} \
                     LEFT SEMI JOIN {source} AS {s} ON ({on}) AND ({matched})",
                    is(When::Matched, updates),
                    is(When::Matched, deletes),
                );
                if of(When::NotInSource).next().is_some() {
                    let (updated, deleted) = (is(When::NotInSource, updates), is(When::NotInSource, deletes));
                    // Writing to a text cannot fail.
                    let _ = write!(
                        all,
                        " UNION ALL SELECT {cell}, 0, 0, {updated}, {deleted} FROM {target} AS {t} \
                         LEFT ANTI JOIN {source} AS {s} ON {on} WHERE {alone}"
                    );
                }
                format!(
                    "SELECT cell, sum(matches) AS matches, sum(rows) AS rows, sum(updated) AS updated, \
                     sum(deleted) AS deleted FROM ({all}) GROUP BY cell"
                )
            }
        }
    }

    /// The query that gives the rows in place of those of the cells that were found, and the new ones.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a column that the frame does not have.
    pub fn replacement(&self, schema: &SchemaRef) -> Result<String> {
        let (target, t) = (quoted(TARGET), &self.alias);
        let all = || schema.fields().iter().map(|field| quoted(field.name())).collect::<Vec<_>>().join(", ");
        match &self.body {
            Body::Delete { predicate } => {
                Ok(format!("SELECT {} FROM {target} AS {t} WHERE ({predicate}) IS NOT TRUE", all()))
            }
            Body::Update { assignments, predicate, asks: true } => {
                check_columns(assignments, schema)?;
                // A condition with a query in it can only stand in WHERE.
                let column = |field: &arrow::datatypes::FieldRef| {
                    let name = quoted(field.name());
                    let value = value_of(assignments, field.name()).map(|value| cast(value, field.data_type()));
                    format!("{} AS {name}", value.unwrap_or_else(|| format!("{t}.{name}")))
                };
                let columns: Vec<_> = schema.fields().iter().map(column).collect();
                Ok(format!(
                    "SELECT {} FROM {target} AS {t} WHERE {predicate} \
                     UNION ALL SELECT {} FROM {target} AS {t} WHERE ({predicate}) IS NOT TRUE",
                    columns.join(", "),
                    all()
                ))
            }
            Body::Update { assignments, predicate, asks: false } => {
                check_columns(assignments, schema)?;
                let column = |field: &arrow::datatypes::FieldRef| {
                    let name = quoted(field.name());
                    match value_of(assignments, field.name()) {
                        // Asked once for a row, however many columns it sets.
                        Some(value) => format!(
                            "CASE WHEN {t}.\"is changed\" THEN {} ELSE {t}.{name} END AS {name}",
                            cast(value, field.data_type())
                        ),
                        None => format!("{t}.{name}"),
                    }
                };
                let columns: Vec<_> = schema.fields().iter().map(column).collect();
                Ok(format!(
                    "SELECT {} FROM (SELECT *, {predicate} AS \"is changed\" FROM {target} AS {t}) AS {t}",
                    columns.join(", ")
                ))
            }
            Body::Merge { source, source_alias: s, on, clauses } => {
                for clause in clauses {
                    match &clause.action {
                        Action::Update(values) | Action::Insert(values) => check_columns(values, schema)?,
                        Action::Delete | Action::InsertRow => {}
                    }
                }
                let value = |action: &Action, field: &arrow::datatypes::FieldRef| {
                    let name = quoted(field.name());
                    let given = |values| value_of(values, field.name()).map(|value| cast(value, field.data_type()));
                    match action {
                        Action::Delete => "NULL".into(),
                        Action::Update(values) => given(values).unwrap_or_else(|| format!("{t}.{name}")),
                        Action::Insert(values) => given(values).unwrap_or_else(|| "NULL".into()),
                        Action::InsertRow => cast(&format!("{s}.{name}"), field.data_type()),
                    }
                };
                if self.only_inserts() {
                    let columns = schema.fields().iter().map(|field| {
                        let when = |c: &Clause| format!(" WHEN {} THEN {}", c.predicate, value(&c.action, field));
                        let whens: String = clauses.iter().map(when).collect();
                        format!("CASE{whens} END AS {}", quoted(field.name()))
                    });
                    return Ok(format!(
                        "SELECT {} FROM {source} AS {s} LEFT ANTI JOIN {target} AS {t} ON {on} WHERE {}",
                        columns.collect::<Vec<_>>().join(", "),
                        any_of(clauses.iter().map(|clause| clause.predicate.as_str()))
                    ));
                }
                let condition = |clause: &Clause| match clause.kind {
                    When::Matched => format!("{t}.{IN_TARGET} AND {s}.{IN_SOURCE} AND ({})", clause.predicate),
                    When::NotInTarget => format!("{t}.{IN_TARGET} IS NULL AND ({})", clause.predicate),
                    When::NotInSource => format!("{s}.{IN_SOURCE} IS NULL AND ({})", clause.predicate),
                };
                let columns = schema.fields().iter().map(|field| {
                    let when = |c: &Clause| format!(" WHEN {} THEN {}", condition(c), value(&c.action, field));
                    let whens: String = clauses.iter().map(when).collect();
                    let name = quoted(field.name());
                    format!("CASE{whens} ELSE {t}.{name} END AS {name}")
                });
                let keep = |c: &Clause| format!(" WHEN {} THEN {}", condition(c), !matches!(c.action, Action::Delete));
                let kept: String = clauses.iter().map(keep).collect();
                Ok(format!(
                    "SELECT {} FROM (SELECT *, true AS {IN_TARGET} FROM {target}) AS {t} \
                     FULL JOIN (SELECT *, true AS {IN_SOURCE} FROM {source} AS {s}) AS {s} ON {on} \
                     WHERE CASE{kept} ELSE {t}.{IN_TARGET} IS NOT NULL END",
                    columns.collect::<Vec<_>>().join(", ")
                ))
            }
        }
    }

    fn clauses(&self) -> &[Clause] {
        match &self.body {
            Body::Merge { clauses, .. } => clauses,
            _ => &[],
        }
    }

    fn delete(delete: &Delete) -> Result<Self> {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let plain = delete.tables.is_empty() && delete.using.is_none() && delete.order_by.is_empty();
        let bare = delete.returning.is_none() && delete.output.is_none() && delete.limit.is_none();
        let ([table], true, true) = (from.as_slice(), plain, bare) else {
            return Err(Error::unsupported("write DELETE FROM frame [WHERE …]; to compare with other rows, use MERGE"));
        };
        let (name, alias) = target_of(table)?;
        Ok(Self { name, alias, body: Body::Delete { predicate: predicate_of(delete.selection.as_ref()) } })
    }

    fn update(update: &Update) -> Result<Self> {
        let plain = update.from.is_none() && update.or.is_none() && update.order_by.is_empty();
        if !plain || update.returning.is_some() || update.output.is_some() || update.limit.is_some() {
            return Err(Error::unsupported(
                "write UPDATE frame SET column = value, … [WHERE …]; to take values from other rows, use MERGE",
            ));
        }
        let (name, alias) = target_of(&update.table)?;
        let assignments = assignments_of(&update.assignments)?;
        let predicate = predicate_of(update.selection.as_ref());
        let asks = update.selection.as_ref().is_some_and(has_query);
        Ok(Self { name, alias, body: Body::Update { assignments, predicate, asks } })
    }

    fn merge(merge: &Merge) -> Result<Self> {
        if merge.output.is_some() {
            return Err(Error::unsupported("MERGE … OUTPUT is not available: ask for the rows with SELECT"));
        }
        let (name, alias) = named(&merge.table)?;
        let (source, source_alias) = source_of(&merge.source)?;
        let clauses = merge.clauses.iter().map(clause_of).collect::<Result<Vec<_>>>()?;
        if alias == source_alias {
            return Err(Error::invalid(format!(
                "the frame and the source of MERGE are both called {alias}: give one of them another name with AS"
            )));
        }
        Ok(Self { name, alias, body: Body::Merge { source, source_alias, on: merge.on.to_string(), clauses } })
    }
}

fn has_query(expression: &Expr) -> bool {
    let found = visit_expressions(expression, |part: &Expr| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn clause_of(clause: &MergeClause) -> Result<Clause> {
    let kind = match clause.clause_kind {
        MergeClauseKind::Matched => When::Matched,
        MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => When::NotInTarget,
        MergeClauseKind::NotMatchedBySource => When::NotInSource,
    };
    let action = match &clause.action {
        MergeAction::Delete { .. } => Action::Delete,
        MergeAction::Update(update) if update.update_predicate.is_none() && update.delete_predicate.is_none() => {
            Action::Update(assignments_of(&update.assignments)?)
        }
        MergeAction::Insert(insert) if insert.insert_predicate.is_none() => match &insert.kind {
            MergeInsertKind::Row => Action::InsertRow,
            MergeInsertKind::Values(values) => {
                let columns: Vec<_> = insert.columns.iter().map(last_name).collect::<Result<_>>()?;
                let [row] = values.rows.as_slice() else {
                    return Err(Error::invalid("INSERT in MERGE takes one row of values"));
                };
                if columns.len() != row.content.len() {
                    return Err(Error::invalid(format!(
                        "INSERT in MERGE names {} columns and gives {} values: name each column, or write INSERT ROW",
                        columns.len(),
                        row.content.len()
                    )));
                }
                Action::Insert(columns.into_iter().zip(row.content.iter().map(Expr::to_string)).collect())
            }
        },
        _ => return Err(Error::unsupported("conditions of MERGE go after WHEN [NOT] MATCHED, as AND …")),
    };
    let fits = match kind {
        When::NotInTarget => matches!(action, Action::Insert(_) | Action::InsertRow),
        When::Matched | When::NotInSource => matches!(action, Action::Update(_) | Action::Delete),
    };
    if !fits {
        return Err(Error::invalid(format!("MERGE cannot {} rows WHEN {}", clause.action, clause.clause_kind)));
    }
    Ok(Clause { kind, predicate: predicate_of(clause.predicate.as_ref()), action })
}

fn target_of(table: &TableWithJoins) -> Result<(Vec<String>, String)> {
    match table.joins.is_empty() {
        true => named(&table.relation),
        false => Err(Error::unsupported("only one frame can be changed at a time: use MERGE to compare with others")),
    }
}

/// A table's name and what it is called in the statement.
fn named(table: &TableFactor) -> Result<(Vec<String>, String)> {
    let TableFactor::Table { name, alias, .. } = table else {
        return Err(Error::invalid("only a frame can be changed: write its name"));
    };
    let parts = names(name.clone());
    let called = match alias {
        Some(alias) => name_of(&alias.name),
        None => parts.last().cloned().unwrap_or_default(),
    };
    Ok((parts, quoted(&called)))
}

fn source_of(source: &TableFactor) -> Result<(String, String)> {
    match source {
        TableFactor::Table { name, .. } => Ok((name.to_string(), named(source)?.1)),
        TableFactor::Derived { subquery, alias: Some(alias), lateral: false, .. } if alias.columns.is_empty() => {
            Ok((format!("({subquery})"), quoted(&name_of(&alias.name))))
        }
        _ => Err(Error::invalid("the source of MERGE is a frame, a file or a query in parentheses with AS name")),
    }
}

fn assignments_of(assignments: &[Assignment]) -> Result<Vec<(String, String)>> {
    let one = |assignment: &Assignment| match &assignment.target {
        AssignmentTarget::ColumnName(name) => Ok((last_name(name)?, assignment.value.to_string())),
        AssignmentTarget::Tuple(_) => Err(Error::unsupported("set columns one by one: SET a = …, b = …")),
    };
    assignments.iter().map(one).collect()
}

fn last_name(name: &ObjectName) -> Result<String> {
    names(name.clone()).pop().ok_or_else(|| Error::invalid("a column has no name"))
}

fn name_of(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn predicate_of(predicate: Option<&Expr>) -> String {
    predicate.map_or_else(|| "true".into(), |predicate| format!("({predicate})"))
}

/// True when one of them is.
fn any_of<'a>(predicates: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<_> = predicates.collect();
    if all.is_empty() { "false".into() } else { format!("({})", all.join(" OR ")) }
}

fn value_of<'a>(values: &'a [(String, String)], column: &str) -> Option<&'a str> {
    values.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str())
}

fn check_columns(values: &[(String, String)], schema: &SchemaRef) -> Result<()> {
    for (index, (name, _)) in values.iter().enumerate() {
        if schema.index_of(name).is_err() {
            let there: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::not_found(format!("there is no column '{name}': the frame has {}", there.join(", "))));
        }
        if values[..index].iter().any(|(other, _)| other == name) {
            return Err(Error::invalid(format!("column '{name}' is set twice")));
        }
    }
    Ok(())
}

/// A value in the column's own type: 5 is 64 bits wide as it is written.
fn cast(value: &str, wanted: &DataType) -> String {
    match wanted.is_nested() {
        true => value.to_string(),
        false => format!("arrow_cast({value}, '{}')", wanted.to_string().replace('\'', "''")),
    }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::statement::{Statement, parse};
    use super::*;

    fn change(sql: &str) -> Result<RowChange> {
        let Statement::Other(statement) = parse(sql)? else { panic!("{sql}") };
        RowChange::of(&statement).map(|change| change.expect("a change"))
    }

    #[test]
    fn names_and_aliases_are_kept() {
        let deleted = change("DELETE FROM h.b.F AS t WHERE t.x > 1").unwrap();
        assert_eq!((deleted.name.join("."), deleted.alias.as_str()), ("h.b.f".into(), "\"t\""));
        let updated = change("UPDATE f SET X = 1").unwrap();
        assert_eq!((updated.name.join("."), updated.alias.as_str()), ("f".into(), "\"f\""));
    }

    #[test]
    fn what_is_not_kept_is_refused() {
        for sql in [
            "DELETE FROM f USING g WHERE f.x = g.x",
            "DELETE FROM f RETURNING x",
            "UPDATE f SET x = g.x FROM g",
            "UPDATE f SET (x, y) = (1, 2)",
            "MERGE INTO f USING f ON true WHEN MATCHED THEN DELETE",
            "MERGE INTO f USING g ON f.x = g.x WHEN NOT MATCHED THEN DELETE",
            "MERGE INTO f USING g ON f.x = g.x WHEN MATCHED THEN INSERT (x) VALUES (1)",
            "MERGE INTO f USING g ON f.x = g.x WHEN NOT MATCHED THEN INSERT (x, y) VALUES (1)",
        ] {
            assert!(change(sql).is_err(), "{sql}");
        }
    }
}
