//! Rows into a frame: batches go to all bees, each encodes cells of its own, and one commit makes them visible.

use std::ops::RangeInclusive;
use std::sync::Arc;

use actix::Message;
use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use futures::future::join_all;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::colony::Core;
use super::gather::may_have_landed;
use super::query::QueryRecord;
use crate::sql::Backpressure;
use crate::sql::row_check::RowCheck;
use crate::storage::cells::{CellFile, CellPlan, CellWriter};
use crate::storage::leafcutter::Cut;
use crate::storage::schema::{Coercion, frame_schema};
use crate::storage::{Alteration, AsOf, Change, FrameState, WriteMode, WriteResult, leafcutter};
use crate::{Error, Result};

/// Rows of a batch that one bee takes at a time: large enough that the queue costs nothing, small enough to share one
/// caller's huge batch between bees.
const ROWS_AT_A_TIME: usize = 65_536;
/// Bytes of an append that shares cells with others: encoding them takes no longer than a commit.
const SMALL: usize = 1 << 20;

/// One bee's share of a write: it takes batches until there are no more.
#[derive(Clone, Message)]
#[rtype(result = "Result<Vec<CellFile>>")]
pub(crate) struct EncodeCells {
    plan: CellPlan,
    coercion: Coercion,
    checks: Vec<RowCheck>,
    input: Arc<Mutex<mpsc::Receiver<RecordBatch>>>,
    token: CancellationToken,
}

impl EncodeCells {
    /// Encodes until the input ends; cells of a failed share are removed again.
    pub(crate) async fn run(self) -> Result<Vec<CellFile>> {
        let mut writer = CellWriter::new(self.plan.clone(), self.coercion.schema())?;
        match self.fill(&mut writer).await {
            Ok(()) => writer.finish().await,
            Err(error) => {
                self.token.cancel();
                writer.abandon().await;
                Err(error)
            }
        }
    }

    async fn fill(&self, writer: &mut CellWriter) -> Result<()> {
        while let Some(batch) = self.next().await? {
            let batch = self.coercion.apply(&batch)?;
            self.checks.iter().try_for_each(|check| check.check(&batch))?;
            writer.write(&batch).await?;
        }
        Ok(())
    }

    async fn next(&self) -> Result<Option<RecordBatch>> {
        let take = async { self.input.lock().await.recv().await };
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Error::cancelled("the write was cancelled: nothing was committed")),
            batch = take => Ok(batch),
        }
    }
}

/// How this colony's bees cut cells of rows of `schema`.
pub(crate) fn cell_cut(core: &Core, schema: &SchemaRef) -> Cut {
    leafcutter::cut(core.settings.bee_memory(), row_width(schema))
}

/// What a write does beside adding rows.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// Whether the rows that are there stay.
    pub mode: WriteMode,
    /// What becomes of the write while the node is hot.
    pub backpressure: Backpressure,
    /// Whether columns that the frame does not have are added to it first, null in the rows that are there; by a commit of
    /// their own.
    pub evolve: bool,
}

/// The frame with the columns of `schema` that it did not have.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] for types that it cannot have, and for other columns that do not fit; nothing is added then.
pub(crate) async fn evolved(core: &Core, state: Arc<FrameState>, schema: &SchemaRef) -> Result<Arc<FrameState>> {
    let is_new = |field: &&Arc<Field>| state.schema.field_with_name(field.name()).is_err();
    let new = schema.fields().iter().filter(is_new).map(|field| field.as_ref().clone().with_nullable(true));
    let new: Vec<Field> = new.collect();
    if new.is_empty() {
        return Ok(state);
    }
    core.meadow.require_writable()?;
    let new = frame_schema(&Schema::new(new))?;
    let fields = state.schema.fields().iter().chain(new.fields()).cloned();
    Coercion::plan(schema, &Arc::new(Schema::new(fields.collect::<Vec<_>>())))?;
    let columns = new.fields().iter().map(|field| field.as_ref().clone()).collect();
    let alteration = Alteration::AddColumns { columns, if_not_exists: true };
    core.meadow.ledger().alter(&state.frame, alteration, &state).await?;
    core.meadow.state(&state.frame, AsOf::Latest).await
}

/// How rows are written.
pub(crate) struct Writing {
    /// What becomes of the cells that are there.
    pub(crate) change: Change,
    /// Bees that write at most; all when it is `None`.
    pub(crate) writers: Option<usize>,
    /// How the names of its cells end.
    pub(crate) run: String,
    /// How many rows there must be: with others nothing is committed.
    pub(crate) rows: RangeInclusive<u64>,
}

impl From<WriteMode> for Writing {
    fn from(mode: WriteMode) -> Self {
        Self { change: mode.into(), writers: None, run: String::new(), rows: 0..=u64::MAX }
    }
}

/// Writes `rows` into the frame that `base` is a version of.
///
/// # Errors
/// The rows' own error, a schema mismatch, a conflict, or what the storage says; nothing is committed then.
pub(crate) async fn write_frame(
    core: &Arc<Core>,
    base: &Arc<FrameState>,
    rows: SendableRecordBatchStream,
    writing: Writing,
    query: &QueryRecord,
) -> Result<WriteResult> {
    let Writing { change, writers, run, rows: expected } = writing;
    core.meadow.require_writable()?;
    let given = rows.schema();
    let coercion = Coercion::plan(&given, &base.schema)?;
    let is_given = |column: &str| given.fields().iter().any(|field| field.name().eq_ignore_ascii_case(column));
    if let Some(missing) = base.partition_by.iter().find(|column| !is_given(column)) {
        return Err(Error::schema(format!("partition column '{missing}' is missing: add it to the data")));
    }
    let token = query.attempt().child_token();
    let _stops_with_us = token.clone().drop_guard();
    let rows = match change {
        Change::Append => match few(rows, &token).await? {
            Rows::All(rows) => {
                let rows = coercion.apply(&rows)?;
                core.planner.row_checks(base, &base.schema)?.iter().try_for_each(|check| check.check(&rows))?;
                stopped(query)?;
                return core.gathering.append(core, base, rows).await;
            }
            Rows::Many(rows) => rows,
        },
        _ => rows,
    };
    let coercion = coercion.keeping_views(&given, &base.partition_by);
    // Rows that others wrote against a condition stay where they are, and may be moved.
    let checks = match change.makes_rows() {
        true => core.planner.row_checks(base, coercion.schema())?,
        false => Vec::new(),
    };
    let mut plan = core.meadow.ledger().cell_plan(base, cell_cut(core, &base.schema)).await?;
    plan.run = run;
    plan.null_partitions =
        matches!(change, Change::Replace(..)) && core.meadow.ledger().has_null_partitions(base).await?;
    let encoding = |input| EncodeCells { plan, coercion, checks, input, token: token.clone() };
    let cells = encode(core, encoding, rows, writers, &token).await?;
    let rows = cells.iter().map(|cell| cell.rows).sum();
    if !expected.contains(&rows) {
        core.remove_cells(&cells).await;
        return Err(Error::invalid(format!(
            "the statement made {rows} rows of {}: what it compares with or sets gives something else each time, or more than \
             one row; nothing was changed",
            expected.start()
        )));
    }
    if let Err(reason) = stopped(query) {
        core.remove_cells(&cells).await;
        return Err(reason);
    }
    let written = commit(core, base, cells, change).await?;
    if !query.is_housekeeping() {
        core.house.touched(&base.frame, 1);
    }
    Ok(written)
}

/// Writes rows that are as the frame has them, and that passed its checks; one bee does.
pub(super) async fn write_batch(core: &Arc<Core>, base: &Arc<FrameState>, rows: RecordBatch) -> Result<WriteResult> {
    let plan = core.meadow.ledger().cell_plan(base, cell_cut(core, &base.schema)).await?;
    let coercion = Coercion::plan(&base.schema, &base.schema)?;
    let token = core.token.child_token();
    let encoding = |input| EncodeCells { plan, coercion, checks: Vec::new(), input, token: token.clone() };
    let rows = futures::stream::iter([Ok(rows)]);
    let rows = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&base.schema), rows));
    let cells = encode(core, encoding, rows, Some(1), &token).await?;
    let written = commit(core, base, cells, Change::Append).await?;
    core.house.touched(&base.frame, 1);
    Ok(written)
}

/// Makes cells visible, or removes them again.
async fn commit(core: &Core, base: &Arc<FrameState>, cells: Vec<CellFile>, change: Change) -> Result<WriteResult> {
    let (rows, bytes, count) = (cells.iter().map(|c| c.rows).sum(), cells.iter().map(|c| c.bytes).sum(), cells.len());
    let result = |version| WriteResult { version, rows, cells: count, bytes, temperature: core.temperature() };
    if count == 0 && !change.removes() {
        return Ok(result(base.version()));
    }
    let committed = match core.ledger()?.commit(base, cells.clone(), change).await {
        Ok(committed) => committed,
        Err(error) => {
            // Cells of one that may have landed stay.
            if !may_have_landed(&error) {
                core.remove_cells(&cells).await;
            }
            return Err(error);
        }
    };
    Ok(result(committed.version()))
}

/// Why the statement must not go on.
fn stopped(query: &QueryRecord) -> Result<()> {
    query.stop_reason().map_or_else(|| query.stay(), Err)
}

/// The rows of a write.
enum Rows {
    /// All of them: they are few.
    All(RecordBatch),
    /// They are many.
    Many(SendableRecordBatchStream),
}

/// Reads rows until there are no more, or too many.
async fn few(mut rows: SendableRecordBatchStream, token: &CancellationToken) -> Result<Rows> {
    let schema = rows.schema();
    let (mut first, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = next(&mut rows, token).await? {
        bytes += bytes_of(&batch);
        first.push(batch);
        if bytes > SMALL {
            let rows = futures::stream::iter(first.into_iter().map(Ok)).chain(rows);
            return Ok(Rows::Many(Box::pin(RecordBatchStreamAdapter::new(schema, rows))));
        }
    }
    Ok(Rows::All(concat_batches(&schema, &first)?))
}

/// Bytes of a batch's own rows, whatever larger one they are a part of.
pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &dyn Array| column.to_data().get_slice_memory_size();
    batch.columns().iter().map(|column| bytes(column).unwrap_or(SMALL)).sum()
}

/// The next rows of a write that may be cancelled.
async fn next(rows: &mut SendableRecordBatchStream, token: &CancellationToken) -> Result<Option<RecordBatch>> {
    tokio::select! {
        biased;
        () = token.cancelled() => Err(Error::cancelled("the write was cancelled: nothing was committed")),
        next = rows.next() => Ok(next.transpose()?),
    }
}

async fn encode(
    core: &Arc<Core>,
    encoding: impl FnOnce(Arc<Mutex<mpsc::Receiver<RecordBatch>>>) -> EncodeCells,
    rows: SendableRecordBatchStream,
    writers: Option<usize>,
    token: &CancellationToken,
) -> Result<Vec<CellFile>> {
    let (sender, receiver) = mpsc::channel(2);
    let encoding = encoding(Arc::new(Mutex::new(receiver)));
    let share = |slot: &Arc<super::channel::BeeSlot>| {
        let (message, addr) = (encoding.clone(), slot.addr());
        async move {
            addr?.send(message).await.map_err(|_| Error::internal("a bee stopped while it wrote cells: write again"))?
        }
    };
    let mut bees: Vec<_> = core.slots.iter().collect();
    bees.sort_by_key(|slot| slot.core.expected());
    let shares = join_all(bees.into_iter().take(writers.unwrap_or(usize::MAX)).map(share));
    let (fed, shares) = tokio::join!(feed(rows, sender, token), shares);
    let failed = fed.is_err() || shares.iter().any(Result::is_err);
    if !failed {
        return Ok(shares.into_iter().flatten().flatten().collect());
    }
    let written: Vec<_> = shares.iter().flatten().flatten().cloned().collect();
    core.remove_cells(&written).await;
    // The first cause, not the cancellations that followed from it.
    let errors = fed.err().into_iter().chain(shares.into_iter().filter_map(Result::err));
    let mut errors: Vec<_> = errors.collect();
    let cause = errors.iter().position(|e| !super::query::is_stop(e)).unwrap_or(0);
    Err(errors.swap_remove(cause))
}

/// Hands the rows out in pieces; on an error everybody stops.
async fn feed(
    mut rows: SendableRecordBatchStream,
    sender: mpsc::Sender<RecordBatch>,
    token: &CancellationToken,
) -> Result<()> {
    while let Some(batch) = next(&mut rows, token).await.inspect_err(|_| token.cancel())? {
        for start in (0..batch.num_rows()).step_by(ROWS_AT_A_TIME) {
            let piece = batch.slice(start, ROWS_AT_A_TIME.min(batch.num_rows() - start));
            if sender.send(piece).await.is_err() {
                return Err(Error::cancelled("the write was cancelled: nothing was committed"));
            }
        }
    }
    Ok(())
}

/// Bytes of a row in memory, as far as types tell; 32 for what has no fixed width.
fn row_width(schema: &SchemaRef) -> u64 {
    schema.fields().iter().map(|f| f.data_type().primitive_width().unwrap_or(32) as u64).sum()
}
