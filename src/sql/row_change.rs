//! DELETE, UPDATE and MERGE as queries over the frame they change.
//!
//! Cells are never changed: those with rows to change are replaced. One query finds them and counts what will change,
//! another gives the rows that stand in their place. Both read the frame by the name [`TARGET`], with a column [`CELL`]
//! that numbers its cells. Where a cell stays, and its changed rows are only marked as deleted, a third gives those, by a
//! column [`ROW`] that numbers the rows of each cell.
//!
//! The queries are written as texts in which the user's expressions stand as names, `"part 0"` and so on; after parsing,
//! the expressions themselves are put there. They are never printed: what was quoted once could come out as something else.

mod every_column;

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Delete, Expr, FromTable, Ident, Merge, MergeAction, MergeClause,
    MergeClauseKind, MergeInsertKind, ObjectName, Statement as Ast, TableAlias, TableFactor, TableWithJoins, Update,
    VisitMut, VisitorMut, visit_expressions,
};

use super::spelling::EVERY;
use super::statement::{folded, names, query_of};
use crate::storage::Rewrite;
use crate::{Error, Result};

/// The frame that is changed, as its queries name it: no frame can be called so.
pub(crate) const TARGET: &str = "the target";
/// Its column that says which cell a row is in.
pub(crate) const CELL: &str = "the cell";
/// Its column that says which row of its cell a row is.
pub(crate) const ROW: &str = "the row";
/// The source of a MERGE in a query's text.
const SOURCE: &str = "the source";
/// What an expression of the user is called in a query's text, with its number.
const PART: &str = "part ";
const IS_CHANGED: &str = "\"is changed\"";
const IN_SOURCE: &str = "\"in the source\"";
const IN_TARGET: &str = "\"in the target\"";

/// A statement that changes rows.
#[derive(Debug, Clone)]
pub struct RowChange {
    /// The frame's name as it was written.
    pub(crate) name: Vec<String>,
    /// What the frame is called within the statement, quoted.
    alias: String,
    body: Body,
    parts: Parts,
}

/// What the user wrote, by the names that stand for it.
#[derive(Debug, Clone, Default)]
struct Parts {
    expressions: Vec<Expr>,
    source: Option<TableFactor>,
}

/// Columns and the expressions that are their values.
type Values = Vec<(String, String)>;

#[derive(Debug, Clone)]
enum Body {
    Delete { predicate: String },
    Update { values: Values, predicate: String, asks: bool },
    Merge(Merging),
}

#[derive(Debug, Clone)]
struct Merging {
    /// What the source is called within the statement, quoted.
    source: String,
    on: String,
    keys: Vec<Key>,
    clauses: Vec<Clause>,
}

/// A column of the source that must equal a column of the frame for two rows to match.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    source: String,
    target: String,
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
    Update(Values),
    /// To the source's columns of the same names.
    UpdateRow,
    Insert(Values),
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
            Body::Merge(_) => Rewrite::Merge,
        }
    }

    /// Whether it may add rows although it changes none.
    pub fn may_insert(&self) -> bool {
        matches!(&self.body, Body::Merge(merging) if merging.of(When::NotInTarget).next().is_some())
    }

    /// Whether it leaves every row as it is: then it reads the whole frame and replaces no cell.
    pub fn only_inserts(&self) -> bool {
        matches!(&self.body, Body::Merge(merging) if merging.clauses.iter().all(|c| c.kind == When::NotInTarget))
    }

    /// A query whose `rows` are the keys that the source has more than once; there is none where it has no keys. When
    /// there are no such keys, no row can be matched twice.
    pub fn doubled_keys(&self, schema: &SchemaRef) -> Option<String> {
        let Body::Merge(Merging { source: s, keys, .. }) = &self.body else { return None };
        // As the frame's type: '1' and '01' are one number.
        let key = |key: &Key| Some(cast(&key.source, schema.field_with_name(&key.target).ok()?.data_type()));
        let keys = keys.iter().map(key).collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty())?.join(", ");
        Some(format!(
            "SELECT 0 AS cell, 0 AS matches, count(*) AS rows, 0 AS updated, 0 AS deleted FROM \
             (SELECT 1 FROM {} AS {s} GROUP BY {keys} HAVING count(*) > 1)",
            quoted(SOURCE)
        ))
    }

    /// The query that finds the cells to replace: `cell`, `matches` and `rows` (pairs of a row and what changes it, and
    /// rows that are changed: more matches than rows are an error), `updated`, `deleted`; one row a cell. Where no row can
    /// be matched twice, `once`, rows are not counted by themselves.
    pub fn find(&self, once: bool) -> String {
        let t = &self.alias;
        let counted = |updated: &str, deleted: &str, predicate: &str| {
            format!(
                "SELECT {t}.{} AS cell, count(*) AS matches, count(*) AS rows, {updated} AS updated, {deleted} AS deleted \
                 FROM {} AS {t} WHERE {predicate} GROUP BY 1",
                quoted(CELL),
                quoted(TARGET)
            )
        };
        match &self.body {
            Body::Delete { predicate } => counted("0", "count(*)", predicate),
            Body::Update { predicate, .. } => counted("count(*)", "0", predicate),
            Body::Merge(merging) => merging.find(t, once),
        }
    }

    /// The query that gives the rows to mark as deleted: their `cell`, and their `row` in it.
    pub fn marks(&self) -> String {
        let t = &self.alias;
        let (row, target) = (format!("{t}.{} AS cell, {t}.{} AS row", quoted(CELL), quoted(ROW)), quoted(TARGET));
        match &self.body {
            Body::Delete { predicate } | Body::Update { predicate, .. } => {
                format!("SELECT {row} FROM {target} AS {t} WHERE {predicate}")
            }
            Body::Merge(merging) => merging.marks(t, &row),
        }
    }

    /// The queries that give the rows in place of those of the cells that were found, and the new ones. Where cells are
    /// `rewritten`, of the others only rows that have other values are given: their old ones are marked as deleted.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a column that the frame does not have.
    pub fn replacement(&self, schema: &SchemaRef, rewritten: Option<&[usize]>) -> Result<Vec<String>> {
        let (target, t) = (quoted(TARGET), &self.alias);
        let anew = &is_rewritten(t, rewritten);
        match &self.body {
            Body::Delete { predicate } => {
                let all = columns(schema, |field| quoted(field.name()));
                Ok(vec![format!("SELECT {all} FROM {target} AS {t} WHERE ({predicate}) IS NOT TRUE AND {anew}")])
            }
            Body::Update { values, predicate, asks } => {
                check_columns(values, schema)?;
                Ok(vec![updated((t, anew), values, predicate, *asks, schema)])
            }
            Body::Merge(merging) => {
                merging.check(schema)?;
                Ok(match merging.gives_whole_rows(schema, &self.parts) {
                    true => merging.whole_rows(t, anew, schema),
                    false => merging.replacement(t, anew, schema),
                })
            }
        }
    }

    /// One of its queries with what the user wrote.
    ///
    /// # Errors
    /// Never in practice: the texts are built to be understood.
    pub(crate) fn filled(&self, query: &str) -> Result<DfStatement> {
        let mut statement = query_of(query)?;
        if let DfStatement::Statement(ast) = &mut statement {
            // It never breaks off.
            let _ = ast.visit(&mut Fill(&self.parts));
        }
        Ok(statement)
    }

    fn delete(delete: &Delete) -> Result<Self> {
        let FromTable::WithFromKeyword(from) = &delete.from else {
            return Err(Error::invalid("the SQL was not understood: write DELETE FROM frame [WHERE …]"));
        };
        let plain = delete.tables.is_empty() && delete.using.is_none() && delete.order_by.is_empty();
        let bare = delete.returning.is_none() && delete.output.is_none() && delete.limit.is_none();
        let ([table], true, true) = (from.as_slice(), plain, bare) else {
            return Err(Error::unsupported("write DELETE FROM frame [WHERE …]; to compare with other rows, use MERGE"));
        };
        let (name, alias) = target_of(table)?;
        let mut parts = Parts::default();
        let predicate = parts.condition(delete.selection.as_ref())?;
        Ok(Self { name, alias, body: Body::Delete { predicate }, parts })
    }

    fn update(update: &Update) -> Result<Self> {
        let plain = update.from.is_none() && update.or.is_none() && update.order_by.is_empty();
        if !plain || update.returning.is_some() || update.output.is_some() || update.limit.is_some() {
            return Err(Error::unsupported(
                "write UPDATE frame SET column = value, … [WHERE …]; to take values from other rows, use MERGE",
            ));
        }
        let (name, alias) = target_of(&update.table)?;
        let mut parts = Parts::default();
        let values = parts.values(&update.assignments, &alias)?;
        let predicate = parts.condition(update.selection.as_ref())?;
        let asks = update.selection.as_ref().is_some_and(has_query);
        Ok(Self { name, alias, body: Body::Update { values, predicate, asks }, parts })
    }

    fn merge(merge: &Merge) -> Result<Self> {
        if merge.output.is_some() {
            return Err(Error::unsupported("MERGE … OUTPUT is not available: ask for the rows with SELECT"));
        }
        if merge.clauses.iter().any(|clause| action_values(&clause.action).any(has_query)) {
            return Err(Error::unsupported(
                "WHEN of MERGE cannot contain queries: let the source give the values, as a column of a query in parentheses",
            ));
        }
        let (name, alias) = named(&merge.table)?;
        let source = source_name(&merge.source)?;
        if alias == source {
            return Err(Error::invalid(format!(
                "the frame and the source of MERGE are both called {alias}: give one of them another name with AS"
            )));
        }
        let mut parts = Parts { source: Some(merge.source.clone()), ..Parts::default() };
        let keys = keys_of(&merge.on, &alias, &source);
        let on = parts.condition(Some(&merge.on))?;
        let clauses = merge.clauses.iter().map(|c| parts.clause(c, &alias)).collect::<Result<Vec<_>>>()?;
        Ok(Self { name, alias, body: Body::Merge(Merging { source, on, keys, clauses }), parts })
    }
}

impl Merging {
    fn of(&self, kind: When) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(move |clause| clause.kind == kind)
    }

    /// True when a clause of `kind` applies.
    fn any(&self, kind: When) -> String {
        let all: Vec<_> = self.of(kind).map(|clause| clause.predicate.as_str()).collect();
        if all.is_empty() { "false".into() } else { format!("({})", all.join(" OR ")) }
    }

    /// 1 when the first clause of `kind` that applies does what is `wanted`.
    fn counts(&self, kind: When, wanted: fn(&Action) -> bool) -> String {
        self.first(kind, "", |clause| u8::from(wanted(&clause.action)).to_string(), "0")
    }

    /// What `then` gives for the first clause of `kind` that applies where `also` holds, or `otherwise`.
    fn first(&self, kind: When, also: &str, then: impl Fn(&Clause) -> String, otherwise: &str) -> String {
        let when = |clause: &Clause| format!(" WHEN {also}{} THEN {}", clause.predicate, then(clause));
        let whens: String = self.of(kind).map(when).collect();
        if whens.is_empty() { otherwise.to_string() } else { format!("CASE{whens} ELSE {otherwise} END") }
    }

    fn find(&self, t: &str, once: bool) -> String {
        let (target, source, s, on) = (quoted(TARGET), quoted(SOURCE), &self.source, &self.on);
        let cell = format!("{t}.{}", quoted(CELL));
        let updates: fn(&Action) -> bool = |action| matches!(action, Action::Update(_) | Action::UpdateRow);
        let deletes: fn(&Action) -> bool = |action| matches!(action, Action::Delete);
        let matched = self.any(When::Matched);
        // A row that a source row matches must be seen, changed or not: else that source row would be inserted.
        let seen = if self.of(When::NotInTarget).next().is_some() { "true" } else { matched.as_str() };
        let matches = format!("CASE WHEN {matched} THEN 1 ELSE 0 END");
        let mut all = vec![format!(
            "SELECT {cell} AS cell, {matches} AS matches, {} AS rows, {} AS updated, {} AS deleted \
             FROM {target} AS {t} JOIN {source} AS {s} ON {on} WHERE {seen}",
            if once { &matches } else { "0" },
            self.counts(When::Matched, updates),
            self.counts(When::Matched, deletes),
        )];
        if !once {
            all.push(format!(
                "SELECT {cell}, 0, 1, 0, 0 FROM {target} AS {t} LEFT SEMI JOIN {source} AS {s} ON ({on}) AND ({matched})"
            ));
        }
        if self.of(When::NotInSource).next().is_some() {
            all.push(format!(
                "SELECT {cell}, 0, 0, {}, {} FROM {target} AS {t} LEFT ANTI JOIN {source} AS {s} ON {on} WHERE {}",
                self.counts(When::NotInSource, updates),
                self.counts(When::NotInSource, deletes),
                self.any(When::NotInSource)
            ));
        }
        format!(
            "SELECT cell, sum(matches) AS matches, sum(rows) AS rows, sum(updated) AS updated, sum(deleted) AS deleted \
             FROM ({}) GROUP BY cell",
            all.join(" UNION ALL ")
        )
    }

    fn marks(&self, t: &str, row: &str) -> String {
        let (target, source, s, on) = (quoted(TARGET), quoted(SOURCE), &self.source, &self.on);
        format!(
            "SELECT {row} FROM {target} AS {t} LEFT SEMI JOIN {source} AS {s} ON ({on}) AND {} UNION ALL \
             SELECT {row} FROM {target} AS {t} LEFT ANTI JOIN {source} AS {s} ON {on} WHERE {}",
            self.any(When::Matched),
            self.any(When::NotInSource),
        )
    }

    fn check(&self, schema: &SchemaRef) -> Result<()> {
        self.clauses.iter().try_for_each(|clause| match &clause.action {
            Action::Update(values) | Action::Insert(values) => check_columns(values, schema),
            _ => Ok(()),
        })
    }

    /// Whether a changed row is the source's alone: nothing is kept of the frame's.
    fn gives_whole_rows(&self, schema: &SchemaRef, parts: &Parts) -> bool {
        let given = |values: &Values| {
            let value = |field: &FieldRef| value_of(values, field.name());
            schema.fields().iter().all(|field| value(field).is_some_and(|value| self.is_of_source(value, parts)))
        };
        let is_whole = |clause: &Clause| match (&clause.kind, &clause.action) {
            (When::Matched, Action::Update(values)) => given(values),
            (kind, _) => *kind != When::NotInSource,
        };
        // Of nested values the types are brought together where all rows are of one query.
        let is_flat = schema.fields().iter().all(|field| !field.data_type().is_nested());
        is_flat && self.of(When::Matched).next().is_some() && self.clauses.iter().all(is_whole)
    }

    /// Whether a value is a column of the source.
    fn is_of_source(&self, value: &str, parts: &Parts) -> bool {
        match parts.expression(value.trim_matches('"')) {
            Some(Expr::CompoundIdentifier(names)) => names.first().is_some_and(|n| quoted(&name_of(n)) == self.source),
            Some(_) => false,
            None => value.starts_with(&format!("{}.", self.source)),
        }
    }

    /// The rows that nothing changes, which are most and are not sent about: the keys of the source are enough to know them.
    /// Then the changed ones and the new ones, of which the frame has the keys alone.
    fn whole_rows(&self, t: &str, anew: &str, schema: &SchemaRef) -> Vec<String> {
        let (target, source, s, on) = (quoted(TARGET), quoted(SOURCE), &self.source, &self.on);
        let matched = self.any(When::Matched);
        let old = columns(schema, |field| format!("{t}.{}", quoted(field.name())));
        let kept = format!("SELECT {old} FROM {target} AS {t} LEFT ANTI JOIN {source} AS {s} ON ({on}) AND {matched}");
        let is_updated = self.first(When::Matched, "", Clause::is_kept, "false");
        let values = |kind: When, field: &FieldRef| self.first(kind, "", |clause| clause.value(field, t, s), "NULL");
        let only = |kind: When| columns(schema, |field| format!("{} AS {}", values(kind, field), quoted(field.name())));
        let updates = self.of(When::Matched).any(|clause| !matches!(clause.action, Action::Delete));
        let inserts = self.of(When::NotInTarget).next().is_some();
        let changed = match (updates, inserts) {
            (false, false) => None,
            (true, false) => Some(format!(
                "SELECT {} FROM {source} AS {s} JOIN {target} AS {t} ON {on} WHERE {is_updated}",
                only(When::Matched)
            )),
            (false, true) => Some(self.inserted(t, schema)),
            (true, true) => {
                let either = columns(schema, |field| {
                    let (new, name) = (values(When::NotInTarget, field), quoted(field.name()));
                    match values(When::Matched, field) {
                        changed if changed == new => format!("{new} AS {name}"),
                        changed => format!("CASE WHEN {t}.{IN_TARGET} THEN {changed} ELSE {new} END AS {name}"),
                    }
                });
                Some(format!(
                    "SELECT {either} FROM {source} AS {s} LEFT JOIN (SELECT *, true AS {IN_TARGET} FROM {target} AS {t}) AS {t} \
                     ON {on} WHERE CASE WHEN {t}.{IN_TARGET} THEN {is_updated} ELSE {} END",
                    self.any(When::NotInTarget)
                ))
            }
        };
        [format!("{kept} WHERE {anew}")].into_iter().chain(changed).collect()
    }

    /// The query that gives the new rows.
    fn inserted(&self, t: &str, schema: &SchemaRef) -> String {
        let (target, source, s, on) = (quoted(TARGET), quoted(SOURCE), &self.source, &self.on);
        let new = columns(schema, |field| {
            let value = self.first(When::NotInTarget, "", |clause| clause.value(field, t, s), "NULL");
            format!("{value} AS {}", quoted(field.name()))
        });
        format!(
            "SELECT {new} FROM {source} AS {s} LEFT ANTI JOIN {target} AS {t} ON {on} WHERE {}",
            self.any(When::NotInTarget)
        )
    }

    /// Rows that a source row changes or matches without changing; rows that no source row matches, where that matters;
    /// new rows.
    fn replacement(&self, t: &str, anew: &str, schema: &SchemaRef) -> Vec<String> {
        let (target, source, s, on) = (quoted(TARGET), quoted(SOURCE), &self.source, &self.on);
        let changed = |kind: When, also: &str| {
            columns(schema, |field| {
                let name = quoted(field.name());
                let old = format!("{t}.{name}");
                format!("{} AS {name}", self.first(kind, also, |clause| clause.value(field, t, s), &old))
            })
        };
        let mut all = Vec::new();
        if self.clauses.iter().any(|clause| clause.kind != When::NotInTarget) {
            let apart = self.of(When::NotInSource).next().is_some();
            let rows = match apart {
                true => format!("(SELECT {t}.* FROM {target} AS {t} LEFT SEMI JOIN {source} AS {s} ON {on})"),
                false => target.clone(),
            };
            // Only a source row that changes something may join: beside it, others would double the row.
            let also = format!("{s}.{IN_SOURCE} AND ");
            all.push(format!(
                "SELECT {} FROM {rows} AS {t} LEFT JOIN (SELECT *, true AS {IN_SOURCE} FROM {source} AS {s}) AS {s} \
                 ON ({on}) AND {} WHERE {} AND ({s}.{IN_SOURCE} OR {anew})",
                changed(When::Matched, &also),
                self.any(When::Matched),
                self.first(When::Matched, &also, Clause::is_kept, "true"),
            ));
            if apart {
                all.push(format!(
                    "SELECT {} FROM {target} AS {t} LEFT ANTI JOIN {source} AS {s} ON {on} WHERE {} AND ({} OR {anew})",
                    changed(When::NotInSource, ""),
                    self.first(When::NotInSource, "", Clause::is_kept, "true"),
                    self.any(When::NotInSource),
                ));
            }
        }
        if self.of(When::NotInTarget).next().is_some() {
            all.push(self.inserted(t, schema));
        }
        vec![all.join(" UNION ALL ")]
    }
}

impl Clause {
    /// Whether the row is there afterwards, as SQL.
    fn is_kept(&self) -> String {
        (!matches!(self.action, Action::Delete)).to_string()
    }

    /// What it makes of a column.
    fn value(&self, field: &FieldRef, t: &str, s: &str) -> String {
        let name = quoted(field.name());
        let given = |values: &Values| value_of(values, field.name()).map(|value| cast(value, field.data_type()));
        match &self.action {
            Action::Delete => "NULL".into(),
            Action::Update(values) => given(values).unwrap_or_else(|| format!("{t}.{name}")),
            Action::Insert(values) => given(values).unwrap_or_else(|| "NULL".into()),
            // They are spelled out before.
            Action::UpdateRow | Action::InsertRow => format!("{s}.{name}"),
        }
    }
}

impl Parts {
    /// The expression that a name stands for.
    fn expression(&self, name: &str) -> Option<&Expr> {
        self.expressions.get(name.strip_prefix(PART)?.parse::<usize>().ok()?)
    }

    /// The name that stands for `expression`.
    fn put(&mut self, expression: &Expr) -> String {
        self.expressions.push(expression.clone());
        quoted(&format!("{PART}{}", self.expressions.len() - 1))
    }

    fn condition(&mut self, condition: Option<&Expr>) -> Result<String> {
        let Some(condition) = condition else { return Ok("true".into()) };
        if !is_two_valued(condition) {
            return Err(Error::unsupported(
                "a condition that changes rows can use IN (SELECT …) only within AND and OR: write NOT EXISTS (SELECT … \
                 WHERE …) instead of NOT IN, which is never true beside a NULL",
            ));
        }
        Ok(self.put(condition))
    }

    fn values(&mut self, assignments: &[Assignment], alias: &str) -> Result<Values> {
        let mut one = |assignment: &Assignment| match &assignment.target {
            AssignmentTarget::ColumnName(name) => Ok((column_name(name, alias)?, self.put(&assignment.value))),
            AssignmentTarget::Tuple(_) => Err(Error::unsupported("set columns one by one: SET a = …, b = …")),
        };
        assignments.iter().map(&mut one).collect()
    }

    fn clause(&mut self, clause: &MergeClause, alias: &str) -> Result<Clause> {
        let kind = match clause.clause_kind {
            MergeClauseKind::Matched => When::Matched,
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => When::NotInTarget,
            MergeClauseKind::NotMatchedBySource => When::NotInSource,
        };
        let action = match &clause.action {
            MergeAction::Delete { .. } => Action::Delete,
            MergeAction::Update(update) if update.update_predicate.is_none() && update.delete_predicate.is_none() => {
                match update.assignments.as_slice() {
                    [Assignment { target: AssignmentTarget::ColumnName(name), .. }]
                        if names(name.clone()) == [EVERY] =>
                    {
                        Action::UpdateRow
                    }
                    assignments => Action::Update(self.values(assignments, alias)?),
                }
            }
            MergeAction::Insert(insert) if insert.insert_predicate.is_none() => match &insert.kind {
                MergeInsertKind::Row if insert.columns.is_empty() => Action::InsertRow,
                MergeInsertKind::Row => return Err(Error::invalid("INSERT ROW of MERGE takes no column names")),
                MergeInsertKind::Values(values) => {
                    let [row] = values.rows.as_slice() else {
                        return Err(Error::invalid("INSERT in MERGE takes one row of values"));
                    };
                    if insert.columns.len() != row.content.len() {
                        return Err(Error::invalid(format!(
                            "INSERT in MERGE names {} columns and gives {} values: name each column, or write INSERT ROW",
                            insert.columns.len(),
                            row.content.len()
                        )));
                    }
                    let pair = |(name, value)| Ok((column_name(name, alias)?, self.put(value)));
                    Action::Insert(insert.columns.iter().zip(&row.content).map(pair).collect::<Result<_>>()?)
                }
            },
            _ => return Err(Error::unsupported("conditions of MERGE go after WHEN [NOT] MATCHED, as AND …")),
        };
        let fits = match kind {
            When::NotInTarget => matches!(action, Action::Insert(_) | Action::InsertRow),
            When::Matched => matches!(action, Action::Update(_) | Action::UpdateRow | Action::Delete),
            When::NotInSource => matches!(action, Action::Update(_) | Action::Delete),
        };
        if !fits {
            return Err(Error::invalid(format!("MERGE cannot {} rows WHEN {}", clause.action, clause.clause_kind)));
        }
        Ok(Clause { kind, predicate: self.condition(clause.predicate.as_ref())?, action })
    }
}

/// Puts the user's expressions and source where their names stand.
struct Fill<'a>(&'a Parts);

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expression
            && let Some(part) = self.0.expression(&name.value)
        {
            *expression = Expr::Nested(Box::new(part.clone()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: given, .. } = factor
            && names(name.clone()) == [SOURCE]
            && let Some(source) = &self.0.source
        {
            let given = given.take();
            *factor = source.clone();
            if let TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } = factor {
                *alias = given;
            }
        }
        ControlFlow::Continue(())
    }
}

/// The query of an UPDATE's rows; a condition that `asks` has a query in it and can only stand in WHERE.
fn updated((t, anew): (&str, &str), values: &Values, predicate: &str, asks: bool, schema: &SchemaRef) -> String {
    let target = quoted(TARGET);
    let new = |field: &FieldRef| value_of(values, field.name()).map(|value| cast(value, field.data_type()));
    if asks {
        let changed = columns(schema, |field| {
            let name = quoted(field.name());
            format!("{} AS {name}", new(field).unwrap_or_else(|| format!("{t}.{name}")))
        });
        let all = columns(schema, |field| quoted(field.name()));
        return format!(
            "SELECT {changed} FROM {target} AS {t} WHERE {predicate} \
             UNION ALL SELECT {all} FROM {target} AS {t} WHERE ({predicate}) IS NOT TRUE AND {anew}"
        );
    }
    let either = columns(schema, |field| {
        let name = quoted(field.name());
        match new(field) {
            Some(value) => format!("CASE WHEN {t}.{IS_CHANGED} THEN {value} ELSE {t}.{name} END AS {name}"),
            None => format!("{t}.{name}"),
        }
    });
    // Asked once for a row, however many columns it sets.
    format!(
        "SELECT {either} FROM (SELECT *, {predicate} AS {IS_CHANGED} FROM {target} AS {t}) AS {t} \
         WHERE {t}.{IS_CHANGED} OR {anew}"
    )
}

/// Whether a row is of a cell that is rewritten: all are when it is not said which.
fn is_rewritten(t: &str, rewritten: Option<&[usize]>) -> String {
    match rewritten {
        None => "true".into(),
        Some([]) => "false".into(),
        Some(cells) => {
            let cells = cells.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("{t}.{} IN ({cells})", quoted(CELL))
        }
    }
}

/// What a SELECT gives for every column of a frame.
pub(crate) fn columns(schema: &SchemaRef, column: impl Fn(&FieldRef) -> String) -> String {
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

fn keys_of(on: &Expr, target: &str, source: &str) -> Vec<Key> {
    let column = |side: &Expr, alias: &str| match side {
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] if quoted(&name_of(table)) == alias => Some(name_of(column)),
            _ => None,
        },
        _ => None,
    };
    let key = |source_side: &Expr, target_side: &Expr| {
        let name = quoted(&column(source_side, source)?);
        Some(Key { source: format!("{source}.{name}"), target: column(target_side, target)? })
    };
    match on {
        Expr::Nested(inner) => keys_of(inner, target, source),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            [keys_of(left, target, source), keys_of(right, target, source)].concat()
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            key(left, right).or_else(|| key(right, left)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The values that a clause of MERGE gives to columns.
fn action_values(action: &MergeAction) -> Box<dyn Iterator<Item = &Expr> + '_> {
    match action {
        MergeAction::Update(update) => Box::new(update.assignments.iter().map(|assignment| &assignment.value)),
        MergeAction::Insert(insert) => match &insert.kind {
            MergeInsertKind::Values(values) => Box::new(values.rows.iter().flat_map(|row| row.content.iter())),
            MergeInsertKind::Row => Box::new(std::iter::empty()),
        },
        MergeAction::Delete { .. } => Box::new(std::iter::empty()),
    }
}

fn has_query(expression: &Expr) -> bool {
    let found = visit_expressions(expression, |part: &Expr| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        Expr::AnyOp { .. } | Expr::AllOp { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Whether it is all the same for the rows that a condition holds for whether a comparison with a query's rows is false or
/// unknown: the engine tells them apart in some places only.
fn is_two_valued(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) => is_two_valued(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            is_two_valued(left) && is_two_valued(right)
        }
        Expr::InSubquery { negated: false, expr, .. } => !compares_with_rows(expr),
        other => !compares_with_rows(other),
    }
}

fn compares_with_rows(expression: &Expr) -> bool {
    let found = visit_expressions(expression, |part: &Expr| match part {
        Expr::InSubquery { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn target_of(table: &TableWithJoins) -> Result<(Vec<String>, String)> {
    match table.joins.is_empty() {
        true => named(&table.relation),
        false => Err(Error::unsupported("only one frame can be changed at a time: use MERGE to compare with others")),
    }
}

/// The frame's name and what it is called in the statement.
fn named(table: &TableFactor) -> Result<(Vec<String>, String)> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = table
    else {
        return Err(Error::invalid("only a frame can be changed, as a whole: write its name"));
    };
    if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
        return Err(Error::unsupported("a frame is changed as a whole: say which rows are meant with WHERE"));
    }
    let parts = names(name.clone());
    let called = called(alias.as_ref())?.or_else(|| parts.last().cloned());
    Ok((parts, quoted(&called.unwrap_or_default())))
}

/// What the source of a MERGE is called in the statement.
fn source_name(source: &TableFactor) -> Result<String> {
    let wanted = || Error::invalid("the source of MERGE is a frame, a file or a query in parentheses with AS name");
    let called = match source {
        TableFactor::Table { name, alias, .. } => called(alias.as_ref())?.or_else(|| names(name.clone()).pop()),
        TableFactor::Derived { alias, lateral: false, .. } => called(alias.as_ref())?,
        _ => None,
    };
    called.map(|called| quoted(&called)).ok_or_else(wanted)
}

fn called(alias: Option<&TableAlias>) -> Result<Option<String>> {
    match alias {
        Some(alias) if !alias.columns.is_empty() || alias.at.is_some() => {
            Err(Error::unsupported("columns cannot be given other names here: use a query in parentheses"))
        }
        alias => Ok(alias.map(|alias| name_of(&alias.name))),
    }
}

/// A column of the frame, by its name or after what the frame is called.
fn column_name(name: &ObjectName, alias: &str) -> Result<String> {
    match names(name.clone()).as_slice() {
        [column] => Ok(column.clone()),
        [table, column] if quoted(table) == alias => Ok(column.clone()),
        _ => Err(Error::invalid(format!("{name} is no column of the frame: fields of a column cannot be set alone"))),
    }
}

fn name_of(ident: &Ident) -> String {
    folded(&ident.value, ident.quote_style)
}

fn value_of<'a>(values: &'a Values, column: &str) -> Option<&'a str> {
    values.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str())
}

fn check_columns(values: &Values, schema: &SchemaRef) -> Result<()> {
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

/// A value in the column's own type, as INSERT converts it: 5 is 64 bits wide as it is written.
fn cast(value: &str, wanted: &DataType) -> String {
    match wanted.is_nested() {
        true => value.to_string(),
        false => format!("arrow_cast({value}, '{}')", wanted.to_string().replace('\'', "''")),
    }
}

/// A name as SQL takes it, whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
