//! Statements that replace cells: DELETE, UPDATE, MERGE and OPTIMIZE.
//!
//! Each is tried on one version. When another commit was in the way, it is run again on the new one, so that it does
//! what it would have done had it come later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::Statement as DfStatement;
use futures::future::ready;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::bee::with_room;
use super::colony::Core;
use super::lead::{until_committed, until_stopped};
use super::query::QueryRecord;
use super::scratch::Spill;
use super::write::{Writing, cell_cut, write_frame};
use crate::sql::row_change::{TARGET, quoted};
use crate::sql::statement::query_of;
use crate::sql::z_order::{Sample, sampling};
use crate::sql::{Ask, Layout, Params, PhysicalQuery, RowChange, Target};
use crate::storage::clustering::Chosen;
use crate::storage::deleted_rows::DeletedRows;
use crate::storage::leafcutter::{Cut, worth_marking, worth_merging};
use crate::storage::{AsOf, Cells, Change, ChangeResult, FrameRef, FrameState, Marks, Replaced, Rewrite, Worth};
use crate::{Error, ErrorKind, Result};

/// Runs of one statement before its conflict is the caller's.
const TRIES: u32 = 20;
/// Longest pause before the second run; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest time that housekeeping gives way after a batch.
const LONGEST_WAY: Duration = Duration::from_millis(500);
/// Cells' worth of bytes that housekeeping sorts at a time: a job that users stop is begun anew, and what it sorts is spilled.
const SORTED_CELLS: u64 = 32;
/// The part of a bee's memory that it sorts where nothing may be spilled: cells are several times as large in memory.
const SORTED_SHARE: u64 = 8;
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What a statement does to the rows of the cells that it replaces.
pub(crate) enum Replacing<'a> {
    /// Changes some.
    Rows(&'a RowChange),
    /// Keeps them all, in this order, or in the one that the frame is kept in.
    Cells(&'a Layout),
    /// Keeps them all: what housekeeping does where there are so many cells of a partition to be written anew.
    Tier(usize),
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
    let (mut run, mut done, mut more) = (0, ChangeResult::default(), None);
    loop {
        run += 1;
        let this = Run { core, frame, ask, query };
        let outcome = match what {
            Replacing::Rows(change) => this.change(change).await.map(|result| (result, 0)),
            Replacing::Cells(layout) => this.optimize(layout, None).await,
            Replacing::Tier(least) => this.optimize(&Layout::Any, Some(*least)).await.map(|(result, _)| (result, 0)),
        };
        match outcome {
            Err(error) if may_run_again(&error, run) => {
                tracing::debug!(%error, %frame, run, "a statement is run again on the new version");
                pause_before_next(run, query).await?;
            }
            Ok((result, left)) => {
                done = done.and(result);
                // What others wrote meanwhile is not waited for: there is an end.
                let left = more.map_or(left, |more: usize| left.min(more - 1));
                if left == 0 {
                    return Ok(done);
                }
                (run, more) = (0, Some(left));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a statement whose run number `run` ended so is run once more.
pub(super) fn may_run_again(error: &Error, run: u32) -> bool {
    error.kind() == ErrorKind::Conflict && run < TRIES
}

/// Waits until the next run: longer each time, and not as long as others do.
pub(super) async fn pause_before_next(run: u32, query: &QueryRecord) -> Result<()> {
    let longest = (FIRST_PAUSE * 2u32.pow(run.min(8) - 1)).min(LAST_PAUSE);
    let pause = tokio::time::sleep(longest.mul_f64(fastrand::f64()));
    until_stopped(query, pause.map(Ok)).await
}

/// One run.
pub(super) struct Run<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) frame: &'a FrameRef,
    pub(super) ask: &'a Ask<'a>,
    pub(super) query: &'a QueryRecord,
}

/// What the first query found.
#[derive(Default)]
struct Found {
    cells: Vec<FoundCell>,
    matches: u64,
    rows: u64,
}

/// A cell with rows that match.
struct FoundCell {
    index: usize,
    updated: u64,
    deleted: u64,
}

impl Found {
    fn updated(&self) -> u64 {
        self.cells.iter().map(|cell| cell.updated).sum()
    }

    fn deleted(&self) -> u64 {
        self.cells.iter().map(|cell| cell.deleted).sum()
    }

    /// Those cells whose rows are better marked, and the others.
    fn parted(self, target: &Target) -> (Vec<FoundCell>, Vec<FoundCell>) {
        let marks_rows = target.state.marks_rows();
        self.cells.into_iter().partition(|cell| {
            let former = target.cells.deleted(cell.index).map_or(0, DeletedRows::count);
            let rows = target.cells.rows_written(cell.index).filter(|_| marks_rows);
            let gone = former + cell.updated + cell.deleted;
            rows.is_some_and(|rows| worth_marking(target.cells.bytes(cell.index), rows, gone))
        })
    }
}

impl Run<'_> {
    /// The version that this run sees.
    pub(super) async fn target(&self) -> Result<Target> {
        let version = self.core.meadow.version(self.frame, AsOf::Latest);
        let (state, cells) = until_stopped(self.query, version).await?;
        Ok(Target::new(state, cells))
    }

    /// How many rows of a version a condition holds for.
    pub(super) async fn count(&self, target: &Target, condition: &str) -> Result<u64> {
        let counting = "SELECT 0 AS cell, 0 AS matches, count(*) AS rows, 0 AS updated, 0 AS deleted FROM";
        let counting = format!("{counting} {} WHERE {condition}", quoted(TARGET));
        Ok(self.found(&self.plan(query_of(&counting)?, target, false).await?).await?.rows)
    }

    async fn change(&self, change: &RowChange) -> Result<ChangeResult> {
        let mut target = self.target().await?;
        let spelled_out = until_stopped(self.query, self.core.planner.spelled_out(change, &target, self.ask));
        let spelled_out = with_room(spelled_out).await?;
        let change = spelled_out.as_ref().unwrap_or(change);
        // Says what is wrong with the statement before anything is read.
        change.replacement(&target.state.schema, None)?;
        let mut found = Found::default();
        if !change.only_inserts() {
            let once = self.has_each_key_once(change, &target).await?;
            found = self.found(&self.plan(change.filled(&change.find(once))?, &target, true).await?).await?;
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
            target.only = Some(Arc::new(found.cells.iter().map(|cell| cell.index).collect()));
        }
        let (updated, deleted) = (found.updated(), found.deleted());
        let (marked, rewritten) = found.parted(&target);
        let marks = self.marks(change, &target, &marked).await?;
        let cells: Vec<usize> = rewritten.iter().map(|cell| cell.index).collect();
        let before = self.rows_before(&target, &cells).await?;
        let kept = before
            .checked_sub(rewritten.iter().map(|cell| cell.deleted).sum())
            .ok_or_else(|| Error::internal("more rows deleted than there are"))?;
        let kept = kept + marked.iter().map(|cell| cell.updated).sum::<u64>();
        // What both queries say must agree: a row too few or too many is never committed.
        let rows = kept..=if change.may_insert() { u64::MAX } else { kept };
        // The replacement of a MERGE holds conditions that the first query does not have.
        let stable = change.rewrite() == Rewrite::Merge;
        let mut queries = Vec::new();
        for query in change.replacement(&target.state.schema, (!marked.is_empty()).then_some(&cells))? {
            queries.push(self.plan(change.filled(&query)?, &target, stable).await?);
        }
        let mut replaced = whole(&target, &cells);
        replaced.marked = marks.with_former(&target.cells)?;
        let change = Change::Replace(change.rewrite(), Arc::new(replaced));
        let mut result = self
            .write(queries, Writing { change, writers: None, run: String::new(), rows }, &target, cells.len())
            .await?;
        (result.rows_updated, result.rows_deleted) = (updated, deleted);
        // Until here it holds all rows that were written.
        result.rows_inserted -= kept;
        Ok(result)
    }

    /// The rows of these cells that a statement takes away.
    async fn marks(&self, change: &RowChange, target: &Target, cells: &[FoundCell]) -> Result<Marks> {
        let mut marks = Marks::default();
        let wanted: Vec<_> = cells.iter().filter(|cell| cell.updated + cell.deleted > 0).collect();
        if wanted.is_empty() {
            return Ok(marks);
        }
        let target = target.with_row_numbers(wanted.iter().map(|cell| cell.index).collect());
        let physical = self.plan(change.filled(&change.marks())?, &target, true).await?;
        let mut batches = execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?;
        let gathered = async {
            while let Some(batch) = batches.try_next().await? {
                marks.add(&numbers(&batch, "cell")?, &numbers(&batch, "row")?);
            }
            Ok(())
        };
        until_stopped(self.query, gathered).await?;
        let (found, expected) = (marks.count(), wanted.iter().map(|cell| cell.updated + cell.deleted).sum::<u64>());
        match found == expected {
            true => Ok(marks),
            false => Err(Error::invalid(format!(
                "the statement changes {expected} rows and then {found}: what it compares with gives something else each \
                 time; nothing was changed"
            ))),
        }
    }

    /// Whether a MERGE's source can match no row twice, as far as is easily told.
    async fn has_each_key_once(&self, change: &RowChange, target: &Target) -> Result<bool> {
        let Some(sql) = change.doubled_keys(&target.state.schema) else { return Ok(false) };
        let doubled = async { self.found(&self.plan(change.filled(&sql)?, target, true).await?).await };
        match doubled.await {
            Ok(found) => Ok(found.rows == 0),
            // Keys that have no value of the frame's type are compared in another way.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes cells anew, and says how often there is as much to do afterwards at most.
    async fn optimize(&self, layout: &Layout, tier: Option<usize>) -> Result<(ChangeResult, usize)> {
        let mut target = self.target().await?;
        layout.check(&target.state)?;
        let cut = cell_cut(self.core, &target.state.schema);
        let Chosen { cells: chosen, left } = match (layout, tier) {
            (Layout::Any, Some(least)) => due_cells(self.core, &target.state, &target.cells, least)?,
            (Layout::Any, None) => match &target.state.clustering {
                Some(clustering) => clustering.choose(&target.state, &target.cells, &cut, Worth::All)?,
                None => small_or_marked_cells(&target.cells, &cut).into(),
            },
            _ => Chosen::from((0..target.cells.len()).collect::<Vec<_>>()),
        };
        if chosen.is_empty() {
            return Ok((self.nothing(&target), 0));
        }
        let (layout, name) = match &target.state.clustering {
            Some(clustering) => (&Layout::Sorted(clustering.columns.clone()), clustering.new_run()),
            None => (layout, String::new()),
        };
        let (sql, is_sorted) = layout.query(&target.state);
        let bytes: u64 = chosen.iter().map(|index| target.cells.bytes(*index)).sum();
        // Sorted rows stay together only in one writer's cells; few rows make few cells only there, too.
        let writers = if is_sorted { 1 } else { bytes.div_ceil(cut.cell_bytes).max(1) as usize };
        target.only = Some(Arc::new(chosen.clone()));
        let rows = self.rows_before(&target, &chosen).await?;
        let writing = Writing {
            change: Change::Replace(Rewrite::Compact, Arc::new(whole(&target, &chosen))),
            writers: Some(writers),
            run: name,
            rows: rows..=rows,
        };
        let params = match layout {
            Layout::ZOrdered(columns) => self.z_bounds(columns, &target, rows).await?,
            Layout::Any | Layout::Sorted(_) => Params::None,
        };
        let run = Run { ask: &Ask { params: &params, ..self.ask.clone() }, ..*self };
        let query = run.plan(query_of(&sql)?, &target, false).await?;
        let mut result = self.write(vec![query], writing, &target, chosen.len()).await?;
        result.rows_inserted = 0;
        Ok((result, left))
    }

    /// The bounds of a Z-curve through these columns, from a sample of the rows.
    async fn z_bounds(&self, columns: &[String], target: &Target, rows: u64) -> Result<Params> {
        let physical = self.plan(query_of(&sampling(columns, rows))?, target, false).await?;
        let mut batches = execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?;
        let mut sample = Sample::new(columns.len());
        let sampled = async {
            while let Some(batch) = batches.try_next().await? {
                sample.add(&batch)?;
            }
            Ok(())
        };
        until_stopped(self.query, sampled).await?;
        Ok(sample.bounds())
    }

    /// Writes the rows of queries, one after the other; the result's `rows_inserted` are all of them.
    async fn write(
        &self,
        queries: Vec<PhysicalQuery>,
        writing: Writing,
        target: &Target,
        removed: usize,
    ) -> Result<ChangeResult> {
        let rows = one_after_the_other(queries)?;
        let rows = if self.query.is_housekeeping() { give_way(self.core, rows) } else { rows };
        let write = write_frame(self.core, &target.state, rows, writing, self.query);
        let written = until_committed(self.query, write).await?;
        Ok(ChangeResult {
            version: written.version,
            rows_inserted: written.rows,
            cells_added: written.cells,
            cells_removed: removed,
            bytes: written.bytes,
            temperature: written.temperature,
            ..ChangeResult::default()
        })
    }

    pub(super) async fn plan(&self, statement: DfStatement, target: &Target, stable: bool) -> Result<PhysicalQuery> {
        let physical =
            with_room(until_stopped(self.query, self.core.planner.plan_on(statement, target, stable, self.ask)))
                .await?;
        self.query.planned(&physical.notes, physical.tasks());
        Ok(physical)
    }

    /// All rows of a query.
    pub(super) async fn rows(&self, physical: &PhysicalQuery) -> Result<Vec<RecordBatch>> {
        let rows = execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?;
        until_stopped(self.query, async { Ok(rows.try_collect().await?) }).await
    }

    async fn found(&self, physical: &PhysicalQuery) -> Result<Found> {
        let mut found = Found::default();
        for batch in self.rows(physical).await? {
            let (updated, deleted) = (numbers(&batch, "updated")?, numbers(&batch, "deleted")?);
            let changed = updated.into_iter().zip(deleted).zip(numbers(&batch, "cell")?);
            found.cells.extend(changed.map(|((updated, deleted), cell)| FoundCell {
                index: cell as usize,
                updated,
                deleted,
            }));
            found.matches += numbers(&batch, "matches")?.iter().sum::<u64>();
            found.rows += numbers(&batch, "rows")?.iter().sum::<u64>();
        }
        found.cells.sort_unstable_by_key(|cell| cell.index);
        Ok(found)
    }

    /// Rows of the cells that are to be replaced; counted where the ledger does not say.
    async fn rows_before(&self, target: &Target, cells: &[usize]) -> Result<u64> {
        match target.cells.rows_of(cells.iter().copied()) {
            Some(rows) => Ok(rows),
            None => {
                let mut replaced = target.clone();
                replaced.only = Some(Arc::new(cells.to_vec()));
                self.count(&replaced, "true").await
            }
        }
    }

    fn nothing(&self, target: &Target) -> ChangeResult {
        ChangeResult {
            version: target.state.version(),
            temperature: self.core.temperature(),
            ..ChangeResult::default()
        }
    }
}

/// The rows of all queries, with the types that those of the first have: each reads texts as it likes.
fn one_after_the_other(queries: Vec<PhysicalQuery>) -> Result<SendableRecordBatchStream> {
    let [first, others @ ..] = queries.as_slice() else { return Err(Error::internal("a change without rows")) };
    let start = |query: &PhysicalQuery| execute_stream(Arc::clone(&query.plan), Arc::clone(&query.context));
    if others.is_empty() {
        return Ok(start(first)?);
    }
    // What one never gives, another may: what is written says whether there are nulls.
    let field = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
    let schema = Arc::new(Schema::new(first.plan.schema().fields().iter().map(field).collect::<Vec<_>>()));
    let typed = Arc::clone(&schema);
    let as_first = move |batch: RecordBatch| {
        let columns = batch.columns().iter().zip(typed.fields()).map(|(column, field)| cast(column, field.data_type()));
        Ok(RecordBatch::try_new(Arc::clone(&typed), columns.collect::<std::result::Result<_, _>>()?)?)
    };
    let rows = stream::iter(queries).map(move |query| execute_stream(query.plan, query.context)).try_flatten();
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.and_then(move |batch| ready(as_first(batch))))))
}

/// Cells that go as a whole.
fn whole(target: &Target, cells: &[usize]) -> Replaced {
    let removed = cells.iter().map(|index| target.cells.name(*index).to_string()).collect();
    Replaced { removed, ..Replaced::default() }
}

/// A column of a query's answer, all of whose numbers are positive.
fn numbers(batch: &RecordBatch, name: &str) -> Result<Vec<u64>> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::internal(format!("no column {name}")))?;
    let numbers = cast(column, &DataType::Int64)?;
    Ok(numbers.as_primitive::<Int64Type>().iter().map(|n| n.unwrap_or(0).max(0) as u64).collect())
}

/// What OPTIMIZE writes anew: small cells that go together, and those with rows that are marked as deleted.
fn small_or_marked_cells(cells: &Cells, cut: &Cut) -> Vec<usize> {
    let mut chosen = small_cells(cells, cut, |cells| cells.len());
    chosen.extend((0..cells.len()).filter(|index| cells.deleted(*index).is_some()));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Of a partition's cells that are below half their cut, smallest first, as many as `worth` says; one alone stays.
fn small_cells(cells: &Cells, cut: &Cut, worth: impl Fn(&[usize]) -> usize) -> Vec<usize> {
    let small = |index: &usize| cells.bytes(*index) < cut.cell_bytes / 2;
    let mut by_partition: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for index in (0..cells.len()).filter(small) {
        by_partition.entry(cells.partition(index)).or_default().push(index);
    }
    let mut chosen = Vec::new();
    for mut partition in by_partition.into_values() {
        partition.sort_by_key(|index| cells.bytes(*index));
        partition.truncate(worth(&partition));
        if partition.len() > 1 {
            chosen.append(&mut partition);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// The cells that housekeeping writes anew next, where there are so many of a partition: small ones that at least double by
/// it, and where the frame is clustered those that overlap.
pub(crate) fn due_cells(core: &Core, state: &FrameState, cells: &Cells, least: usize) -> Result<Chosen> {
    let cut = cell_cut(core, &state.schema);
    if let Some(clustering) = &state.clustering {
        let most = match core.settings.spill {
            Spill::None => core.settings.bee_memory() / SORTED_SHARE,
            Spill::Disk => cut.cell_bytes * SORTED_CELLS,
        };
        return clustering.choose(state, cells, &cut, Worth::Doubling { least, most });
    }
    let tier = small_cells(cells, &cut, |partition| {
        let count = worth_merging(partition.iter().map(|index| cells.bytes(*index)));
        if count >= least { count } else { 0 }
    });
    Ok(tier.into())
}

/// Rows that are handed on only now and then while users have work: after each batch three times as long as it took.
fn give_way(core: &Arc<Core>, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let (core, schema) = (Arc::clone(core), rows.schema());
    let mut last = Instant::now();
    let rows = rows.then(move |batch| {
        let pause = (last.elapsed() * 3).min(LONGEST_WAY);
        let users = core.queries.of_users() > 0;
        last = Instant::now() + if users { pause } else { Duration::ZERO };
        async move {
            if users {
                tokio::time::sleep(pause).await;
            }
            batch
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}
