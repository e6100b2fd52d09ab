//! Windows over one partition at a time.
//!
//! The engine's step for windows that look at all rows of a partition takes in its whole input before it gives a row, and
//! tells nobody what it holds. Here the rows of a partition are given out as soon as the next one begins, and what is held is
//! told to the memory pool. Where a window is the same in all rows of a partition, one that does not fit waits on the disk.
//!
//! ```text
//! input ──▶ Rows: partitions that have not ended ──▶ windows over those that have ──▶ batches
//!               └──▶ Beginning: on the disk what does not fit, with aggregates over it ──┘
//! ```

mod given;
mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, NullArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{SortColumn, concat};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, SpillFile, TaskContext};
use datafusion::logical_expr::{Accumulator, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, RecordOutput, SpillMetrics};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::windows::{PlainAggregateWindowExpr, StandardWindowExpr, WindowAggExec, WindowExpr};
use datafusion::physical_plan::{ExecutionPlan, SpillManager};
use futures::{StreamExt, stream};

use self::given::{Given, Values};
use self::rows::{Rows, copied};
use super::compact::compacted;
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

/// The windows of a step.
pub(super) struct Windows {
    windows: Vec<Arc<dyn WindowExpr>>,
    /// The columns of the input that they look at.
    wanted: BTreeSet<usize>,
    /// The columns of the input, and theirs.
    schema: SchemaRef,
    /// Whether each is the same in all rows of a partition.
    is_constant: bool,
}

impl Windows {
    fn new(window: &WindowAggExec) -> Self {
        let windows = window.window_expr().to_vec();
        let columns = 0..window.input().schema().fields().len();
        let wanted = match windows.iter().all(has_no_filter) {
            true => windows.iter().flat_map(looks_at).collect(),
            false => columns.collect(),
        };
        let is_constant = windows.iter().all(is_constant);
        Self { windows, wanted, schema: window.schema(), is_constant }
    }

    fn count(&self) -> usize {
        self.windows.len()
    }

    /// Aggregates for the value of each in a partition, where it has one.
    fn sums(&self, memory: &MemoryReservation) -> Result<Sums> {
        let aggregate = |window: &Arc<dyn WindowExpr>| match window.as_any().downcast_ref::<PlainAggregateWindowExpr>()
        {
            Some(window) => window.get_aggregate_expr().create_accumulator(),
            None => Err(DataFusionError::Internal(format!("{} is no aggregate", window.name()))),
        };
        Ok(Sums { sums: self.windows.iter().map(aggregate).collect::<Result<_>>()?, memory: memory.new_empty() })
    }

    /// What they look at of `pieces`, as one batch; other columns are there in name only.
    fn batch(&self, pieces: &[RecordBatch]) -> Result<RecordBatch> {
        let [first, ..] = pieces else {
            return Err(DataFusionError::Internal(String::from("a partition has rows")));
        };
        let rows = pieces.iter().map(RecordBatch::num_rows).sum();
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (at, field) in first.schema().fields().iter().enumerate() {
            if self.wanted.contains(&at) {
                let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece.column(at).as_ref()).collect();
                columns.push(concat(&parts)?);
                fields.push(Arc::clone(field));
            } else {
                columns.push(Arc::new(NullArray::new(rows)) as ArrayRef);
                fields.push(Arc::new(Field::new(field.name(), DataType::Null, true)));
            }
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &rows)?)
    }

    /// Bytes that it takes to have all of them over `pieces`, beside those.
    fn needs(&self, pieces: &[RecordBatch]) -> Result<usize> {
        let rows: usize = pieces.iter().map(RecordBatch::num_rows).sum();
        let is_by_row = self.windows.iter().any(is_by_row);
        let (mut looked_at, mut texts) = (0, 0);
        for (piece, at) in pieces.iter().flat_map(|piece| self.wanted.iter().map(move |at| (piece, *at))) {
            looked_at += piece.column(at).to_data().get_slice_memory_size()?;
            texts += if is_by_row { text_bytes(piece.column(at)) } else { 0 };
        }
        let widths =
            self.windows.iter().map(|window| Ok(width(window.field()?.data_type()))).collect::<Result<Vec<_>>>();
        let scalars = if is_by_row { rows * size_of::<ScalarValue>() + looked_at + texts } else { 0 };
        let copied = if pieces.len() > 1 { looked_at } else { 0 };
        Ok(copied + rows * widths?.iter().sum::<usize>() + scalars)
    }

    /// The column of each over `batch`, whose partitions begin at `starts`.
    async fn columns(&self, batch: &RecordBatch, starts: &[usize], pause: bool) -> Result<Vec<ArrayRef>> {
        let ends = starts.iter().skip(1).copied().chain([batch.num_rows()]);
        let parts: Vec<RecordBatch> = starts.iter().zip(ends).map(|(from, to)| batch.slice(*from, to - from)).collect();
        let mut columns = Vec::with_capacity(self.windows.len());
        for window in &self.windows {
            let column = parts.iter().map(|part| window.evaluate(part)).collect::<Result<Vec<_>>>()?;
            columns.push(concat(&column.iter().map(AsRef::as_ref).collect::<Vec<_>>())?);
            if pause {
                tokio::task::yield_now().await;
            }
        }
        Ok(columns)
    }

    /// `rows` with the columns of the windows behind them.
    fn with(&self, rows: &RecordBatch, windows: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = rows.columns().iter().cloned().chain(windows).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Whether it is known to have no FILTER, which only the text of its structure tells.
fn has_no_filter(window: &Arc<dyn WindowExpr>) -> bool {
    window.as_any().is::<StandardWindowExpr>() || format!("{window:?}").ends_with(" filter: None }")
}

fn looks_at(window: &Arc<dyn WindowExpr>) -> Vec<usize> {
    let looked_at = window.all_expressions();
    let all = looked_at.args.iter().chain(&looked_at.order_by_exprs);
    all.flat_map(collect_columns).map(|column| column.index()).collect()
}

/// Whether it is the same in all rows of a partition, and only has to be told the rows.
fn is_constant(window: &Arc<dyn WindowExpr>) -> bool {
    let frame = window.get_window_frame();
    let is_all = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => frame.units == WindowFrameUnits::Range && window.order_by().is_empty(),
        _ => bound.is_unbounded(),
    };
    let is_aggregate = window.as_any().is::<PlainAggregateWindowExpr>();
    is_aggregate && has_no_filter(window) && is_all(&frame.start_bound) && is_all(&frame.end_bound)
}

/// Whether the engine has a [`ScalarValue`] for each row while it computes it.
fn is_by_row(window: &Arc<dyn WindowExpr>) -> bool {
    match window.as_any().downcast_ref::<StandardWindowExpr>() {
        Some(window) => {
            window.get_standard_func_expr().create_evaluator().is_ok_and(|evaluator| evaluator.uses_window_frame())
        }
        None => !is_constant(window),
    }
}

/// Bytes of texts behind their views.
fn text_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    }
}

/// Bytes of a value in a column, without what a text has beside its view.
fn width(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or(size_of::<u128>())
}

/// Aggregates over the rows of one partition.
struct Sums {
    sums: Vec<Box<dyn Accumulator>>,
    memory: MemoryReservation,
}

impl Sums {
    async fn add(&mut self, windows: &Windows, rows: &RecordBatch) -> Result<()> {
        for (sum, window) in self.sums.iter_mut().zip(&windows.windows) {
            sum.update_batch(&window.evaluate_args(rows)?)?;
        }
        self.memory.try_resize(self.sums.iter().map(|sum| sum.size()).sum())?;
        // There can be many of these without a look at the input.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn values(mut self) -> Result<Values> {
        self.sums.iter_mut().map(|sum| sum.evaluate()).collect()
    }
}

/// The rows of a partition that did not fit.
struct Beginning {
    files: Vec<Arc<dyn SpillFile>>,
    sums: Sums,
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
        let may_spill = windows.is_constant && runtime.disk_manager.tmp_files_enabled();
        let consumer = MemoryConsumer::new(format!("WindowParts[{partition}]")).with_can_spill(may_spill);
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
        if self.open.partitions() > 1 {
            let ended = self.open.split(self.open.partitions() - 1)?;
            self.give(ended).await?;
        }
        let pieces = self.open.clear();
        if self.beginning.is_none() {
            self.beginning = Some(Beginning { files: Vec::new(), sums: self.windows.sums(self.open.memory())? });
        }
        if let Some(beginning) = &mut self.beginning {
            for piece in &pieces {
                beginning.sums.add(&self.windows, piece).await?;
            }
            beginning.files.extend(self.disk.spill_record_batch_and_finish(&pieces, "the rows of a window")?);
        }
        Ok(())
    }

    /// Has these partitions given out, the first of them with what it began with.
    async fn give(&mut self, rows: Rows) -> Result<()> {
        if let Some(beginning) = self.beginning.take() {
            let Beginning { files, sums } = beginning;
            return self.give_constants(rows, Some(sums), files).await;
        }
        // A copy of little is nothing, and tiny batches would cost all that follows.
        let rows = if rows.rows() <= 2 * self.batch_size { rows.merged() } else { rows };
        match self.windows.is_constant && rows.pieces().len() > 1 {
            true => self.give_constants(rows, None, Vec::new()).await,
            false => self.give_columns(rows).await,
        }
    }

    async fn give_constants(
        &mut self,
        rows: Rows,
        mut begun: Option<Sums>,
        files: Vec<Arc<dyn SpillFile>>,
    ) -> Result<()> {
        let windows = Arc::clone(&self.windows);
        let mut values = Vec::new();
        for part in rows.parts() {
            let mut sums = match begun.take() {
                Some(begun) => begun,
                None => windows.sums(self.open.memory())?,
            };
            let mut count = 0;
            for piece in &part {
                sums.add(&windows, piece).await?;
                count += piece.num_rows();
            }
            values.push((count, sums.values()?));
        }
        if let Some((_, values)) = values.first() {
            for file in files {
                self.given.spilled(
                    self.disk.read_spill_as_stream(file, None)?,
                    Arc::clone(values),
                    self.open.memory().new_empty(),
                );
            }
        }
        self.given.constants(rows, values);
        Ok(())
    }

    async fn give_columns(&mut self, rows: Rows) -> Result<()> {
        let working = self.open.memory().new_empty();
        working.try_grow(self.windows.needs(rows.pieces())?)?;
        let is_one = rows.pieces().len() == 1;
        let columns = {
            let batch = self.windows.batch(rows.pieces())?;
            self.windows.columns(&batch, rows.starts(), !is_one).await?
        };
        working.try_resize(columns.iter().map(|column| column.get_buffer_memory_size()).sum())?;
        self.given.columns(rows, columns, working);
        Ok(())
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
