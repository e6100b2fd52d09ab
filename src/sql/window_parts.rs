//! Windows over one partition at a time.
//!
//! The engine's step for windows that look at all rows of a partition takes in its whole input before it gives a row, and
//! tells nobody what it holds. Here the rows of a partition are given out as soon as the next one begins, and what is held is
//! told to the memory pool. The rows of a partition that does not fit wait on the disk: only the columns that the windows look
//! at stay, or, where a window is the same in all of a partition's rows, an aggregate over them.
//!
//! ```text
//! input ──▶ Rows: partitions that have not ended ──▶ windows over those that have ──▶ Given: batches
//!               └──▶ Beginning: on the disk what does not fit ──────┘
//! ```

mod given;
mod rows;
mod windows;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, concat};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::Transformed;
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, SpillFile, TaskContext};
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, RecordOutput, SpillMetrics};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{ExecutionPlan, SpillManager};
use futures::{StreamExt, stream};

use self::given::{Behind, Given};
use self::rows::{Rows, copied, copied_rows};
use self::windows::{Sums, Windows};
use super::compact::{compact, compacted};
use super::passing::{Passes, Passing};

type Result<T> = std::result::Result<T, DataFusionError>;

/// Puts [`WindowPartsExec`] above every such window.
pub(super) fn window_parts(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    match node.is::<WindowAggExec>() {
        true => Ok(Transformed::yes(Arc::new(WindowPartsExec::new(node)))),
        false => Ok(Transformed::no(node)),
    }
}

/// Does what the engine's window below it says, in its place. See the module.
pub(crate) type WindowPartsExec = Passes<WindowParts>;

#[derive(Debug)]
pub(crate) struct WindowParts;

impl Passing for WindowParts {
    const NAME: &'static str = "WindowPartsExec";

    fn pass(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        rows
    }

    fn execute(
        input: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<SendableRecordBatchStream> {
        let Some(window) = input.downcast_ref::<WindowAggExec>() else {
            return input.execute(partition, context);
        };
        let keys = window.partition_by_sort_keys()?;
        let partition_by = window.window_expr().first().map_or(0, |window| window.partition_by().len());
        if keys.len() != partition_by {
            // The engine's own step says what is wrong with it.
            return input.execute(partition, context);
        }
        let rows = window.input().execute(partition, Arc::clone(&context))?;
        let parts = Parts::new(window, keys, rows, partition, &context, metrics);
        let batches = stream::try_unfold(parts, |mut parts| async move {
            let batch = parts.next().await?;
            Ok(batch.map(|batch| (batch, parts)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(window.schema(), batches)))
    }
}

/// The rows of a partition that did not fit.
struct Beginning {
    /// Where they are, and how many in each.
    files: Vec<(Arc<dyn SpillFile>, usize)>,
    known: Known,
}

/// What is known of them without the disk.
enum Known {
    Sums(Sums),
    /// What the windows look at.
    Columns(Rows),
}

/// What is done with the rows of one input.
struct Parts {
    windows: Arc<Windows>,
    keys: Vec<PhysicalSortExpr>,
    input: SendableRecordBatchStream,
    has_ended: bool,
    /// The partition of the last row, and those before it that are too small to be worth it.
    open: Rows,
    /// What the first partition of them began with.
    beginning: Option<Beginning>,
    /// The columns of PARTITION BY in the last row.
    last: Option<Vec<SortColumn>>,
    given: Given,
    batch_size: usize,
    disk: SpillManager,
    may_spill: bool,
    metrics: BaselineMetrics,
}

impl Parts {
    fn new(
        window: &WindowAggExec,
        keys: Vec<PhysicalSortExpr>,
        input: SendableRecordBatchStream,
        partition: usize,
        context: &TaskContext,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Self {
        let (windows, runtime) = (Arc::new(Windows::new(window)), context.runtime_env());
        let may_spill = windows.leave_columns() && runtime.disk_manager.tmp_files_enabled();
        let consumer = MemoryConsumer::new(format!("WindowParts[{partition}]"));
        let memory = consumer.register(&runtime.memory_pool);
        let spilled = SpillMetrics::new(metrics, partition);
        let disk = SpillManager::new(runtime, spilled, input.schema())
            .with_compression_type(context.session_config().spill_compression());
        Self {
            given: Given::new(Arc::clone(&windows)),
            windows,
            keys,
            input,
            has_ended: false,
            open: Rows::new(memory),
            beginning: None,
            last: None,
            batch_size: context.session_config().batch_size(),
            disk,
            may_spill,
            metrics: BaselineMetrics::new(metrics, partition),
        }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.given.next().await? {
                return Ok(Some(batch.record_output(&self.metrics)));
            }
            if self.has_ended {
                return Ok(None);
            }
            match self.input.next().await.transpose()? {
                Some(batch) if batch.num_rows() > 0 => self.take(&batch).await?,
                Some(_) => {}
                None => self.end().await?,
            }
        }
    }

    async fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let time = self.metrics.elapsed_compute().clone();
        let _timer = time.timer();
        let starts = self.starts(batch)?;
        if let Err(too_much) = self.open.push(compacted(batch)?, starts) {
            self.make_room(too_much).await?;
        }
        if self.beginning.is_some() && self.open.partitions() > 1 {
            let rest = self.open.split(1)?;
            self.give(rest).await?;
        }
        if self.open.ended() >= self.batch_size {
            let ended = self.open.split(self.open.partitions() - 1)?;
            self.give(ended).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.has_ended = true;
        // What is below has no use for what it holds any more.
        self.input = Box::pin(EmptyRecordBatchStream::new(self.input.schema()));
        let rest = self.open.split(self.open.partitions())?;
        if rest.partitions() > 0 { self.give(rest).await } else { Ok(()) }
    }

    /// Where in `batch` partitions begin.
    fn starts(&mut self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let keys = self.keys.iter().map(|key| key.evaluate_to_sort_column(batch)).collect::<Result<Vec<_>>>()?;
        let parts = evaluate_partition_ranges(batch.num_rows(), &keys)?;
        let goes_on = match &self.last {
            Some(last) => is_same(last, &keys)?,
            None => false,
        };
        let at = batch.num_rows() - 1;
        self.last = Some(keys.iter().map(|key| row(key, at)).collect::<Result<_>>()?);
        Ok(parts.into_iter().map(|part| part.start).skip(usize::from(goes_on)).collect())
    }

    /// Puts the rows of the last partition on the disk, where that helps.
    async fn make_room(&mut self, too_much: DataFusionError) -> Result<()> {
        if !self.may_spill {
            return Err(too_much);
        }
        if self.beginning.is_some() && self.open.partitions() > 1 {
            let rest = self.open.split(1)?;
            self.give(rest).await?;
        }
        if self.open.partitions() > 1 {
            let ended = self.open.split(self.open.partitions() - 1)?;
            self.give(ended).await?;
        }
        let pieces = self.open.clear();
        let mut beginning = match self.beginning.take() {
            Some(beginning) => beginning,
            None => Beginning { files: Vec::new(), known: self.nothing_known()? },
        };
        self.put_away(pieces, &mut beginning).await?;
        self.beginning = Some(beginning);
        Ok(())
    }

    async fn put_away(&mut self, pieces: Vec<RecordBatch>, beginning: &mut Beginning) -> Result<()> {
        let rows = pieces.iter().map(RecordBatch::num_rows).sum();
        let file = self.disk.spill_record_batch_and_finish(&pieces, "the rows of a window")?;
        beginning.files.extend(file.map(|file| (file, rows)));
        for piece in pieces {
            match &mut beginning.known {
                Known::Sums(sums) => sums.add(&self.windows, &piece).await?,
                Known::Columns(columns) => columns.push(copied_rows(&self.windows.batch(&[piece])?)?, [])?,
            }
        }
        Ok(())
    }

    fn nothing_known(&self) -> Result<Known> {
        let memory = self.open.memory();
        Ok(match self.windows.is_constant {
            true => Known::Sums(self.windows.sums(memory)?),
            false => Known::Columns(Rows::new(memory.new_empty())),
        })
    }

    /// Has these partitions given out. Where the first did not fit, it is the only one.
    async fn give(&mut self, rows: Rows) -> Result<()> {
        if let Some(beginning) = self.beginning.take() {
            return self.give_all_of(beginning, rows, &[0]).await;
        }
        // A copy of little is nothing, and tiny batches would cost all that follows.
        let rows = if rows.rows() <= 2 * self.batch_size { rows.merged() } else { rows };
        if self.windows.is_constant && (rows.pieces().len() > 1 || !self.windows.are_small()) {
            return self.give_constants(rows).await;
        }
        match self.room_for_windows(rows.pieces(), rows.starts()) {
            Ok(room) => {
                let columns = self.windows.columns(rows.pieces(), rows.starts(), room).await?;
                self.given.columns(rows, columns);
                Ok(())
            }
            Err(_) if self.windows.is_constant => self.give_constants(rows).await,
            Err(too_much) if !self.may_spill => Err(too_much),
            Err(_) => {
                let (starts, none) = (rows.starts().to_vec(), self.nothing_known()?);
                self.give_all_of(Beginning { files: Vec::new(), known: none }, rows, &starts).await
            }
        }
    }

    /// Gives out partitions that begin at `starts`, and are on the disk but for the `rest`.
    async fn give_all_of(&mut self, mut beginning: Beginning, mut rest: Rows, starts: &[usize]) -> Result<()> {
        let memory = rest.memory().new_empty();
        if matches!(beginning.known, Known::Columns(_)) {
            // The windows have a use for the memory.
            self.put_away(rest.clear(), &mut beginning).await?;
        }
        match beginning.known {
            Known::Sums(mut sums) => {
                for piece in rest.pieces() {
                    sums.add(&self.windows, piece).await?;
                }
                let values = sums.values()?;
                for (file, _) in beginning.files {
                    let rows = self.disk.read_spill_as_stream_unbuffered(file, None)?;
                    self.given.spilled(rows, Behind::Values(Arc::clone(&values)), memory.new_empty());
                }
                let count = rest.rows();
                self.given.constants(rest, vec![(count, values)]);
            }
            Known::Columns(known) => {
                let room = self.room_for_windows(known.pieces(), starts)?;
                let columns = self.windows.columns(known.pieces(), starts, room).await?;
                drop(known);
                let mut at = 0;
                for (file, rows) in beginning.files {
                    let batches = self.disk.read_spill_as_stream_unbuffered(file, None)?;
                    self.given.spilled(batches, Behind::Columns(Arc::clone(&columns), at), memory.new_empty());
                    at += rows;
                }
            }
        }
        Ok(())
    }

    async fn give_constants(&mut self, rows: Rows) -> Result<()> {
        let mut values = Vec::new();
        for part in rows.parts() {
            let mut sums = self.windows.sums(rows.memory())?;
            let mut count = 0;
            for piece in &part {
                sums.add(&self.windows, piece).await?;
                count += piece.num_rows();
            }
            values.push((count, sums.values()?));
        }
        self.given.constants(rows, values);
        Ok(())
    }

    /// Memory for the windows over `pieces`, whose partitions begin at `starts`.
    fn room_for_windows(&self, pieces: &[RecordBatch], starts: &[usize]) -> Result<MemoryReservation> {
        let memory = self.open.memory().new_empty();
        memory.try_grow(self.windows.needs(pieces, starts)?)?;
        Ok(memory)
    }
}

/// Whether the first of these rows is of the partition of `last`.
fn is_same(last: &[SortColumn], first: &[SortColumn]) -> Result<bool> {
    let pair = |(last, first): (&SortColumn, &SortColumn)| {
        let values = concat(&[last.values.as_ref(), first.values.slice(0, 1).as_ref()])?;
        Ok(SortColumn { values, options: last.options })
    };
    let pairs = last.iter().zip(first).map(pair).collect::<Result<Vec<_>>>()?;
    Ok(evaluate_partition_ranges(2, &pairs)?.len() == 1)
}

/// A copy of one row.
fn row(key: &SortColumn, at: usize) -> Result<SortColumn> {
    Ok(SortColumn { values: copied(&key.values.slice(at, 1))?, options: key.options })
}

#[cfg(test)]
mod tests;
