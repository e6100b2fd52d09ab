//! The windows of a step, over whole partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, NullArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::{Accumulator, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::{PlainAggregateWindowExpr, StandardWindowExpr, WindowAggExec, WindowExpr};

use super::given::{Columns, Values};
use super::{Result, compact};

/// Partitions whose results are joined before the next are computed: a text takes kilobytes as long as it is alone.
const AT_ONCE: usize = 256;

/// The windows of a step.
pub(super) struct Windows {
    windows: Vec<Arc<dyn WindowExpr>>,
    /// The columns of the input that they look at.
    wanted: BTreeSet<usize>,
    /// The columns of the input, and theirs.
    schema: SchemaRef,
    /// Whether each is the same in all rows of a partition.
    pub(super) is_constant: bool,
}

impl Windows {
    pub(super) fn new(window: &WindowAggExec) -> Self {
        let windows = window.window_expr().to_vec();
        let columns = 0..window.input().schema().fields().len();
        let wanted = match windows.iter().all(has_no_filter) {
            true => windows.iter().flat_map(looks_at).collect(),
            false => columns.collect(),
        };
        let is_constant = windows.iter().all(is_constant);
        Self { windows, wanted, schema: window.schema(), is_constant }
    }

    /// Whether there is less to hold when the rows are on the disk.
    pub(super) fn leave_columns(&self) -> bool {
        self.is_constant || self.wanted.len() + self.windows.len() < self.schema.fields().len()
    }

    pub(super) fn count(&self) -> usize {
        self.windows.len()
    }

    /// Aggregates for the value of each in a partition, where it has one.
    pub(super) fn sums(&self, memory: &MemoryReservation) -> Result<Sums> {
        let aggregate = |window: &Arc<dyn WindowExpr>| match window.as_any().downcast_ref::<PlainAggregateWindowExpr>()
        {
            Some(window) => window.get_aggregate_expr().create_accumulator(),
            None => Err(DataFusionError::Internal(format!("{} is no aggregate", window.name()))),
        };
        Ok(Sums { sums: self.windows.iter().map(aggregate).collect::<Result<_>>()?, memory: memory.new_empty() })
    }

    /// What they look at of `pieces`, as one batch; other columns are there in name only.
    pub(super) fn batch(&self, pieces: &[RecordBatch]) -> Result<RecordBatch> {
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

    /// Whether no value is larger than a number, or the view of a text.
    pub(super) fn are_small(&self) -> bool {
        let fields = self.schema.fields().iter();
        fields.rev().take(self.windows.len()).all(|field| is_small(field.data_type()))
    }

    /// Bytes that it takes to have all of them over `pieces`, whose partitions begin at `starts`, beside those.
    pub(super) fn needs(&self, pieces: &[RecordBatch], starts: &[usize]) -> Result<usize> {
        let rows: usize = pieces.iter().map(RecordBatch::num_rows).sum();
        let any_by_row = self.windows.iter().any(is_by_row);
        let (mut looked_at, mut texts) = (0, 0);
        for (piece, at) in pieces.iter().flat_map(|piece| self.wanted.iter().map(move |at| (piece, *at))) {
            looked_at += piece.column(at).to_data().get_slice_memory_size()?;
            texts += if any_by_row { text_bytes(piece.column(at)) } else { 0 };
        }
        let (mut widths, mut gathered) = (0, 0);
        for window in &self.windows {
            let field = window.field()?;
            widths += width(field.data_type());
            if is_by_row(window) && gathers(window) {
                let ends = starts.iter().skip(1).copied().chain([rows]);
                gathered += starts.iter().zip(ends).map(|(from, to)| in_frames(window, to - from)).sum::<usize>();
            }
        }
        let scalars = if any_by_row { rows * size_of::<ScalarValue>() + looked_at + texts } else { 0 };
        let copied = if pieces.len() > 1 { looked_at } else { 0 };
        let lists = (gathered as f64 * (looked_at + texts) as f64 / rows.max(1) as f64) as usize;
        Ok(copied + rows * widths + scalars + lists)
    }

    /// All of them over `pieces`, whose partitions begin at `starts`, with `room` for them.
    pub(super) async fn columns(
        &self,
        pieces: &[RecordBatch],
        starts: &[usize],
        room: MemoryReservation,
    ) -> Result<Arc<Columns>> {
        let batch = self.batch(pieces)?;
        let ends = starts.iter().skip(1).copied().chain([batch.num_rows()]);
        let parts: Vec<RecordBatch> = starts.iter().zip(ends).map(|(from, to)| batch.slice(*from, to - from)).collect();
        let mut columns = Vec::with_capacity(self.windows.len());
        // What they are larger than they were thought to be.
        let more = room.new_empty();
        for window in &self.windows {
            let of_part = |part: &RecordBatch| {
                let values = window.evaluate(part)?;
                if !is_small(values.data_type()) {
                    more.try_grow(values.get_buffer_memory_size())?;
                }
                Ok(values)
            };
            let some = |parts: &[RecordBatch]| joined(parts.iter().map(of_part));
            columns.push(joined(parts.chunks(AT_ONCE).map(some))?);
            if pieces.len() > 1 {
                // That can have taken long.
                tokio::task::yield_now().await;
            }
        }
        drop(parts);
        drop(batch);
        more.free();
        resize(&room, columns.iter().map(|column| column.get_buffer_memory_size()).sum(), 64 << 10)?;
        Ok(Arc::new(Columns { columns, _memory: room }))
    }

    /// `rows` with the columns of the windows behind them.
    pub(super) fn with(&self, rows: &RecordBatch, windows: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = rows.columns().iter().cloned().chain(windows).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Tells the pool of `bytes`, and asks it where they are more than before and more than `little`: by so much no query fails.
fn resize(memory: &MemoryReservation, bytes: usize, little: usize) -> Result<()> {
    if bytes <= memory.size().max(little) {
        memory.resize(bytes);
        return Ok(());
    }
    memory.try_resize(bytes)
}

/// One array of many, which holds no more texts than it shows.
fn joined(arrays: impl Iterator<Item = Result<ArrayRef>>) -> Result<ArrayRef> {
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    Ok(compact(&concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())?))
}

/// Whether it is known to have no FILTER, which only the text of its structure tells.
pub(super) fn has_no_filter(window: &Arc<dyn WindowExpr>) -> bool {
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

/// Whether its value has all values of its frame.
fn gathers(window: &Arc<dyn WindowExpr>) -> bool {
    let aggregate = window.as_any().downcast_ref::<PlainAggregateWindowExpr>();
    aggregate.is_some_and(|window| matches!(window.get_aggregate_expr().fun().name(), "array_agg" | "string_agg"))
}

/// Rows in the frames of all rows of a partition of `rows`.
fn in_frames(window: &Arc<dyn WindowExpr>, rows: usize) -> usize {
    let frame = window.get_window_frame();
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(n))) => usize::try_from(*n).unwrap_or(rows),
        WindowFrameBound::Following(ScalarValue::UInt64(Some(n))) => usize::try_from(*n).unwrap_or(rows),
        WindowFrameBound::CurrentRow => 0,
        // From one end of the partition, which is half of it in the mean.
        _ => rows / 2,
    };
    let span = match frame.units {
        WindowFrameUnits::Rows => bound(&frame.start_bound).saturating_add(bound(&frame.end_bound)).saturating_add(1),
        _ => rows,
    };
    rows.saturating_mul(span.min(rows))
}

/// Whether a value is no larger than a number, or the view of a text.
fn is_small(data_type: &DataType) -> bool {
    let is_view = matches!(data_type, DataType::Utf8View | DataType::BinaryView);
    is_view || data_type.is_primitive() || matches!(data_type, DataType::Boolean | DataType::Null)
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
pub(super) struct Sums {
    sums: Vec<Box<dyn Accumulator>>,
    memory: MemoryReservation,
}

impl Sums {
    pub(super) async fn add(&mut self, windows: &Windows, rows: &RecordBatch) -> Result<()> {
        for (sum, window) in self.sums.iter_mut().zip(&windows.windows) {
            sum.update_batch(&window.evaluate_args(rows)?)?;
        }
        self.memory.try_resize(self.sums.iter().map(|sum| sum.size()).sum())?;
        // There can be many of these without a look at the input.
        tokio::task::yield_now().await;
        Ok(())
    }

    pub(super) fn values(mut self) -> Result<Arc<Values>> {
        let values = self.sums.iter_mut().map(|sum| sum.evaluate()).collect::<Result<Vec<_>>>()?;
        drop(self.sums);
        resize(&self.memory, values.iter().map(ScalarValue::size).sum(), 4 << 10)?;
        Ok(Arc::new(Values { values, _memory: self.memory }))
    }
}
