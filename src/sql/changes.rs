//! The rows that commits added and removed, as a view over the cells that they added and removed.
//!
//! Cells are replaced whole, so most rows of a removed cell are in an added one, too: of a commit that did both, the rows
//! that are more often on one side are what changed. Of a cell that stays, with other rows marked as deleted, those are
//! looked at alone. No engine has to have written Delta's change data for it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, cast, ident, lit, when};

use super::frame_table::{FrameTable, ScanNotes, view_schema};
use super::row_change::CELL;
use crate::storage::{AsOf, Cells, Commit, FrameState, Meadow};
use crate::{Error, Result};

/// `insert` or `delete`; an updated row is one of each. Delta's names.
const TYPE: &str = "_change_type";
/// The version that made the change.
const VERSION: &str = "_commit_version";
/// When that was.
const TIMESTAMP: &str = "_commit_timestamp";
/// Names that no column of a frame has.
const NUMBER: &str = "the number";
const MADE_BY: &str = "the version";
const MADE_AT: &str = "the moment";
const SIGN: &str = "the sign";
const NET: &str = "the net";
const EACH: &str = "the each";
/// Commits that remove cells which one view stands for: each is two scans, and a statement has at most 256.
const MOST_PARTS: usize = 100;

/// What the versions above `since` changed, up to `newest`, whose columns it has.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] for versions that there are not, or not any more.
pub(super) async fn changes_table(
    meadow: &Meadow,
    newest: &Arc<FrameState>,
    since: u64,
    session: &dyn Session,
    notes: &Arc<ScanNotes>,
) -> Result<Arc<dyn TableProvider>> {
    let (frame, until) = (&newest.frame, newest.version());
    if since > until {
        return Err(Error::not_found(format!(
            "there is nothing above version {since} up to version {until} of {frame}: ask for the changes since an older one"
        )));
    }
    let taken = newest.schema.fields().iter().find(|f| [TYPE, VERSION, TIMESTAMP].contains(&f.name().as_str()));
    if let Some(taken) = taken {
        return Err(Error::unsupported(format!(
            "{frame} has a column '{}', which CHANGES SINCE adds: rename the column first",
            taken.name()
        )));
    }
    let commits = meadow.ledger().commits(frame, since, until).await?;
    let parts = parts(&commits);
    if parts.len() > MOST_PARTS {
        return Err(Error::limit_reached(format!(
            "more than {MOST_PARTS} of the versions {} to {until} of {frame} removed cells: ask for fewer at a time, with \
             CHANGES SINCE VERSION {since} TO VERSION …",
            since + 1
        )));
    }
    let feed = Feed { meadow, newest, session, notes };
    let mut plans = Vec::new();
    for part in parts {
        plans.push(Arc::new(feed.plan(part).await?));
    }
    match plans.len() {
        0 => Ok(Arc::new(MemTable::try_new(Arc::new(feed.schema()), vec![Vec::new()])?)),
        1 => Ok(Arc::new(ViewTable::new(plans.swap_remove(0).as_ref().clone(), None))),
        _ => Ok(Arc::new(ViewTable::new(LogicalPlan::Union(Union::try_new_with_loose_types(plans)?), None))),
    }
}

/// Commits that are looked at together.
enum Part<'a> {
    /// They only added cells.
    Appends(Vec<&'a Commit>),
    /// It removed some.
    Replaces(&'a Commit),
}

fn parts(commits: &[Commit]) -> Vec<Part<'_>> {
    let (mut parts, mut appends) = (Vec::new(), Vec::new());
    for commit in commits {
        if commit.removed.is_empty() {
            if !commit.added.is_empty() && commit.changes_rows {
                appends.push(commit);
            }
            continue;
        }
        // The cells of those before may be gone in the versions after it.
        if !appends.is_empty() {
            parts.push(Part::Appends(std::mem::take(&mut appends)));
        }
        if commit.changes_rows {
            parts.push(Part::Replaces(commit));
        }
    }
    if !appends.is_empty() {
        parts.push(Part::Appends(appends));
    }
    parts
}

struct Feed<'a> {
    meadow: &'a Meadow,
    newest: &'a Arc<FrameState>,
    session: &'a dyn Session,
    notes: &'a Arc<ScanNotes>,
}

impl Feed<'_> {
    fn schema(&self) -> Schema {
        let moment = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let ours = [(TYPE, DataType::Utf8), (VERSION, DataType::Int64), (TIMESTAMP, moment)];
        let ours = ours.map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
        Schema::new(self.newest.schema.fields().iter().cloned().chain(ours).collect::<Vec<_>>())
    }

    async fn plan(&self, part: Part<'_>) -> Result<LogicalPlan> {
        match part {
            Part::Appends(commits) => self.appended(&commits).await,
            Part::Replaces(commit) => self.replaced(commit).await,
        }
    }

    /// Rows of all cells that some commits added, which the last of these versions still has.
    async fn appended(&self, commits: &[&Commit]) -> Result<LogicalPlan> {
        let last = commits.last().map_or(0, |commit| commit.entry.version);
        let version = self.version(last).await?;
        let by_name: HashMap<&str, &Commit> =
            commits.iter().flat_map(|commit| commit.added.iter().map(|name| (name.as_str(), *commit))).collect();
        let (mut only, mut made) = (Vec::new(), Vec::new());
        for index in 0..version.1.len() {
            if let Some(commit) = by_name.get(version.1.name(index)) {
                only.push(index);
                made.push(*commit);
            }
        }
        let columns: [(&str, ArrayRef); 3] = [
            (NUMBER, Arc::new(Int64Array::from_iter_values(only.iter().map(|index| *index as i64)))),
            (MADE_BY, Arc::new(Int64Array::from_iter_values(made.iter().map(|c| c.entry.version as i64)))),
            (MADE_AT, moments(made.iter().map(|c| c.entry.timestamp_ms))),
        ];
        let made = RecordBatch::try_from_iter(columns)?;
        let made = MemTable::try_new(made.schema(), vec![vec![made]])?;
        let made = LogicalPlanBuilder::scan("made", provider_as_source(Arc::new(made)), None)?.build()?;
        let on = (vec![Column::from_name(CELL)], vec![Column::from_name(NUMBER)]);
        let ours = [lit("insert").alias(TYPE), ident(MADE_BY).alias(VERSION), ident(MADE_AT).alias(TIMESTAMP)];
        let rows = self.scan(&version, only)?.join(made, JoinType::Inner, on, None)?;
        Ok(rows.project(self.columns(&version.0)?.into_iter().chain(ours))?.build()?)
    }

    /// What a commit that removed cells changed.
    async fn replaced(&self, commit: &Commit) -> Result<LogicalPlan> {
        let (number, moment) = (commit.entry.version as i64, commit.entry.timestamp_ms);
        let moment = lit(ScalarValue::TimestampMillisecond(Some(moment), Some("UTC".into())));
        let ours = |kind: Expr| [kind.alias(TYPE), lit(number).alias(VERSION), moment.clone().alias(TIMESTAMP)];
        let before = self.version(commit.entry.version.saturating_sub(1)).await?;
        if commit.added.is_empty() {
            let gone = self.scan(&before, named(&before.1, &commit.removed))?;
            let columns = self.columns(&before.0)?.into_iter().chain(ours(lit("delete")));
            return Ok(gone.project(columns)?.build()?);
        }
        let after = self.version(commit.entry.version).await?;
        let gone = self.scan(&only_new(&before, &after.1, &commit.removed)?, named(&before.1, &commit.removed))?;
        let come = self.scan(&only_new(&after, &before.1, &commit.added)?, named(&after.1, &commit.added))?;
        let signed = |rows: LogicalPlanBuilder, state: &FrameState, sign: i64| {
            let columns = self.columns(state)?.into_iter().chain([lit(sign).alias(SIGN)]);
            Ok::<_, Error>(rows.project(columns)?.build()?)
        };
        let both = signed(come, &after.0, 1)?;
        let names: Vec<Expr> = self.newest.schema.fields().iter().map(|field| ident(field.name())).collect();
        let net = || ident(NET);
        let times = when(net().lt(lit(0_i64)), -net()).otherwise(net())?;
        let range = self.session.scalar_functions().get("range").cloned();
        let range = range.ok_or_else(|| Error::internal("there is no function range"))?;
        let each = range.call(vec![lit(0_i64), times]).alias(EACH);
        let kind = when(net().gt(lit(0_i64)), lit("insert")).otherwise(lit("delete"))?;
        let rows = LogicalPlanBuilder::from(both)
            .union(signed(gone, &before.0, -1)?)?
            .aggregate(names.clone(), [sum(ident(SIGN)).alias(NET)])?
            .filter(net().not_eq(lit(0_i64)))?
            .project(names.iter().cloned().chain([net(), each]))?
            .unnest_column(Column::from_name(EACH))?;
        Ok(rows.project(names.into_iter().chain(ours(kind)))?.build()?)
    }

    async fn version(&self, version: u64) -> Result<(Arc<FrameState>, Arc<Cells>)> {
        self.meadow.version(&self.newest.frame, AsOf::Version(version)).await
    }

    fn scan(&self, version: &(Arc<FrameState>, Arc<Cells>), only: Vec<usize>) -> Result<LogicalPlanBuilder> {
        let table = FrameTable::new(Arc::clone(&version.0), Arc::clone(&version.1), Arc::clone(self.notes));
        let table = Arc::new(table.numbered(CELL, Some(Arc::new(only))));
        Ok(LogicalPlanBuilder::scan("cells", provider_as_source(table), None)?)
    }

    /// The newest version's columns out of another's: the same column whatever it was called then, null before there was
    /// one.
    fn columns(&self, state: &FrameState) -> Result<Vec<Expr>> {
        let column = |field: &Arc<Field>| {
            let name = self.newest.name_in_cells(field.name());
            let theirs = view_schema(&state.schema);
            let there = theirs.fields().iter().find(|other| state.name_in_cells(other.name()) == name);
            let value = match there {
                Some(there) if there.data_type() == field.data_type() => ident(there.name()),
                Some(there) if there.data_type().is_nested() && state.file_columns() != self.newest.file_columns() => {
                    return Err(Error::unsupported(format!(
                        "what is within column '{}' was renamed or changed meanwhile: ask for the changes since then",
                        field.name()
                    )));
                }
                Some(there) => cast(ident(there.name()), field.data_type().clone()),
                None => lit(ScalarValue::try_from(field.data_type())?),
            };
            Ok(value.alias(field.name()))
        };
        view_schema(&self.newest.schema).fields().iter().map(column).collect()
    }
}

/// The cells with these names, in order.
fn named(cells: &Cells, names: &[String]) -> Vec<usize> {
    let names: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
    (0..cells.len()).filter(|index| names.contains(cells.name(*index))).collect()
}

/// A version in which those of its cells with these names that the other version has, too, have only the rows that are
/// deleted there: a commit that marks rows removes a cell and adds it again.
fn only_new(
    version: &(Arc<FrameState>, Arc<Cells>),
    other: &Cells,
    names: &[String],
) -> Result<(Arc<FrameState>, Arc<Cells>)> {
    let there: HashMap<&str, usize> = (0..other.len()).map(|index| (other.name(index), index)).collect();
    let both = |here: usize| Some((here, *there.get(version.1.name(here))?));
    let both: Vec<_> = named(&version.1, names).into_iter().filter_map(both).collect();
    let cells = version.1.with_only_deleted_in(other, &both)?;
    Ok((Arc::clone(&version.0), Arc::new(cells)))
}

fn moments(milliseconds: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(milliseconds).with_timezone("UTC"))
}
