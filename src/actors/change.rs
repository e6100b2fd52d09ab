//! Statements that replace cells: DELETE, UPDATE, MERGE and OPTIMIZE.
//!
//! Each is tried on one version. When another commit was in the way, it is run again on the new one, so that it does
//! what it would have done had it come later.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use super::colony::Core;
use super::lead::{spilled_bytes, until_stopped};
use super::query::QueryRecord;
use super::write::{cell_cut, write_frame};
use crate::sql::row_change::{TARGET, quoted};
use crate::sql::{Ask, PhysicalQuery, RowChange, Target};
use crate::storage::leafcutter::Cut;
use crate::storage::{AsOf, Change, ChangeResult, FrameRef, Rewrite};
use crate::{Error, ErrorKind, Result};

/// Runs of one statement before its conflict is the caller's.
const TRIES: u32 = 8;
/// Longest pause before the second run; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// What a statement does to the rows of the cells that it replaces.
pub(crate) enum Replacing<'a> {
    /// Changes some.
    Rows(&'a RowChange),
    /// Keeps them all, sorted by these columns.
    Cells(&'a [String]),
}

/// Carries a statement out, as often as others are in its way.
///
/// # Errors
/// What is wrong with the statement, `Conflict` when others were in the way every time, or what the storage says; nothing
/// is changed then.
pub(crate) async fn replace(
    core: &Arc<Core>,
    frame: &FrameRef,
    what: &Replacing<'_>,
    ask: &Ask<'_>,
    query: &QueryRecord,
) -> Result<ChangeResult> {
    core.meadow.require_writable()?;
    let mut run = 0;
    loop {
        run += 1;
        let statement = Statement { core, frame, ask, query };
        let outcome = match what {
            Replacing::Rows(change) => statement.change(change).await,
            Replacing::Cells(cluster_by) => statement.optimize(cluster_by).await,
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::Conflict && run < TRIES => {
                tracing::debug!(%error, %frame, run, "a statement is run again on the new version");
                let longest = FIRST_PAUSE * 2u32.pow(run);
                until_stopped(query, async { Ok(tokio::time::sleep(longest.mul_f64(fastrand::f64())).await) }).await?;
            }
            outcome => return outcome,
        }
    }
}

/// One run.
struct Statement<'a> {
    core: &'a Arc<Core>,
    frame: &'a FrameRef,
    ask: &'a Ask<'a>,
    query: &'a QueryRecord,
}

/// What the first query found.
#[derive(Default)]
struct Found {
    cells: Vec<usize>,
    matches: u64,
    rows: u64,
    updated: u64,
    deleted: u64,
}

impl Statement<'_> {
    async fn target(&self) -> Result<Target> {
        let state = self.core.meadow.state(self.frame, AsOf::Latest).await?;
        let cells = self.core.meadow.ledger().cells(&state).await?;
        Ok(Target { state, cells, only: None })
    }

    async fn change(&self, change: &RowChange) -> Result<ChangeResult> {
        let mut target = until_stopped(self.query, self.target()).await?;
        // Says what is wrong with the statement before anything is read.
        let replacement = change.replacement(&target.state.schema)?;
        let mut found = Found::default();
        if !change.only_inserts() {
            found = self.found(&self.plan(&change.find(), &target, true).await?).await?;
            if found.matches > found.rows {
                return Err(Error::invalid(format!(
                    "some rows of {} are matched by several rows of the source ({} matches of {} rows), and it is not said \
                     which should count: let the source give one row for each",
                    self.frame, found.matches, found.rows
                )));
            }
            if found.cells.is_empty() && !change.may_insert() {
                return Ok(self.nothing(&target));
            }
            target.only = Some(Arc::new(found.cells.clone()));
        }
        let before = self.rows_before(&target, &found.cells).await?;
        let mut result = self.write(change.rewrite(), &replacement, &target, &found.cells, None).await?;
        (result.rows_updated, result.rows_deleted) = (found.updated, found.deleted);
        // Until here it holds all rows that were written.
        result.rows_inserted = (result.rows_inserted + found.deleted).saturating_sub(before);
        Ok(result)
    }

    async fn optimize(&self, cluster_by: &[String]) -> Result<ChangeResult> {
        let mut target = until_stopped(self.query, self.target()).await?;
        let schema = &target.state.schema;
        for column in cluster_by {
            schema
                .index_of(column)
                .map_err(|_| Error::not_found(format!("{} has no column '{column}'", self.frame)))?;
        }
        let cut = cell_cut(self.core, schema);
        let chosen = match cluster_by.is_empty() {
            true => small_cells(&target, &cut),
            false => (0..target.cells.len()).collect(),
        };
        if chosen.is_empty() {
            return Ok(self.nothing(&target));
        }
        let columns: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let order: Vec<_> = cluster_by.iter().map(|name| quoted(name)).collect();
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        let sql = format!("SELECT {} FROM {}{order}", columns.join(", "), quoted(TARGET));
        let bytes: u64 = chosen.iter().map(|index| target.cells.bytes(*index)).sum();
        // Sorted rows stay together only in one writer's cells; few rows make few cells only there, too.
        let writers = if cluster_by.is_empty() { bytes.div_ceil(cut.cell_bytes) as usize } else { 1 };
        target.only = Some(Arc::new(chosen.clone()));
        let mut result = self.write(Rewrite::Compact, &sql, &target, &chosen, Some(writers)).await?;
        result.rows_inserted = 0;
        Ok(result)
    }

    /// Writes the rows of `sql` in place of `removed` cells; the result's `rows_inserted` are all of them.
    async fn write(
        &self,
        rewrite: Rewrite,
        sql: &str,
        target: &Target,
        removed: &[usize],
        writers: Option<usize>,
    ) -> Result<ChangeResult> {
        let names: HashSet<String> = removed.iter().map(|index| target.cells.name(*index).to_string()).collect();
        let change = Change::Replace(rewrite, Arc::new(names));
        let physical = self.plan(sql, target, false).await?;
        let rows = execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?;
        let write = write_frame(self.core, &target.state, rows, change, writers, self.query);
        let written = until_stopped(self.query, write).await?;
        self.query.spilled.fetch_add(spilled_bytes(&physical.plan), Ordering::Relaxed);
        Ok(ChangeResult {
            version: written.version,
            rows_inserted: written.rows,
            cells_added: written.cells,
            cells_removed: removed.len(),
            bytes: written.bytes,
            temperature: written.temperature,
            ..ChangeResult::default()
        })
    }

    async fn plan(&self, sql: &str, target: &Target, stable: bool) -> Result<PhysicalQuery> {
        let physical = until_stopped(self.query, self.core.planner.plan_on(sql, target, stable, self.ask)).await?;
        self.query.planned(&physical.notes, physical.tasks());
        Ok(physical)
    }

    async fn found(&self, physical: &PhysicalQuery) -> Result<Found> {
        let rows = execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?;
        let batches: Vec<RecordBatch> =
            until_stopped(self.query, async { Ok(rows.try_collect::<Vec<_>>().await?) }).await?;
        let mut found = Found::default();
        for batch in batches {
            let column = |name: &str| -> Result<Vec<u64>> {
                let column = batch.column_by_name(name).ok_or_else(|| Error::internal(format!("no column {name}")))?;
                let numbers = cast(column, &DataType::Int64)?;
                Ok(numbers.as_primitive::<Int64Type>().iter().map(|n| n.unwrap_or(0).max(0) as u64).collect())
            };
            found.cells.extend(column("cell")?.into_iter().map(|cell| cell as usize));
            found.matches += column("matches")?.iter().sum::<u64>();
            found.rows += column("rows")?.iter().sum::<u64>();
            found.updated += column("updated")?.iter().sum::<u64>();
            found.deleted += column("deleted")?.iter().sum::<u64>();
        }
        found.cells.sort_unstable();
        Ok(found)
    }

    /// Rows of the cells that are to be replaced; counted where the ledger does not say.
    async fn rows_before(&self, target: &Target, cells: &[usize]) -> Result<u64> {
        let known: Option<u64> = cells.iter().map(|index| target.cells.rows(*index)).sum();
        if let Some(rows) = known {
            return Ok(rows);
        }
        let counting = "SELECT 0 AS cell, 0 AS matches, count(*) AS rows, 0 AS updated, 0 AS deleted FROM";
        let counting = format!("{counting} {}", quoted(TARGET));
        Ok(self.found(&self.plan(&counting, target, false).await?).await?.rows)
    }

    fn nothing(&self, target: &Target) -> ChangeResult {
        ChangeResult {
            version: target.state.version(),
            temperature: self.core.temperature(),
            ..ChangeResult::default()
        }
    }
}

/// Cells below half their cut, where a partition has more than one.
fn small_cells(target: &Target, cut: &Cut) -> Vec<usize> {
    let small = |index: &usize| target.cells.bytes(*index) < cut.cell_bytes / 2;
    let mut by_partition: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for index in (0..target.cells.len()).filter(small) {
        by_partition.entry(target.cells.partition(index)).or_default().push(index);
    }
    let mut chosen: Vec<_> = by_partition.into_values().filter(|cells| cells.len() > 1).flatten().collect();
    chosen.sort_unstable();
    chosen
}
