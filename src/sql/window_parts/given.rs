//! What a window has done and nobody has taken yet.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::rows::{Rows, copied};
use super::windows::Windows;
use super::{Result, compacted};

/// Bytes of values that one batch repeats, at most: a long text in each row of a partition would be very many of them.
const REPEATED: usize = 4 << 20;

/// The value of each window in a partition, and their memory.
pub(super) struct Values {
    pub(super) values: Vec<ScalarValue>,
    pub(super) _memory: MemoryReservation,
}

/// How many rows there are of a partition, and what all of them have.
type Run = (usize, Arc<Values>);

/// Batches in their order, made when they are asked for.
pub(super) struct Given {
    windows: Arc<Windows>,
    batches: VecDeque<Next>,
}

enum Next {
    /// Rows, their memory, and the windows' columns, from the row at which theirs begin.
    Columns(RecordBatch, MemoryReservation, Arc<Columns>, usize),
    /// Rows, their memory, and the values of so many of them.
    Constants(RecordBatch, MemoryReservation, VecDeque<Run>),
    /// Rows on the disk, what is behind them, and its memory.
    Spilled(SendableRecordBatchStream, Behind, MemoryReservation),
}

/// What is behind the rows of a file.
pub(super) enum Behind {
    /// Columns, from the row at which theirs begin.
    Columns(Arc<Columns>, usize),
    /// The same in all of them.
    Values(Arc<Values>),
}

/// The columns of windows, and their memory.
pub(super) struct Columns {
    pub(super) columns: Vec<ArrayRef>,
    pub(super) _memory: MemoryReservation,
}

impl Given {
    pub(super) fn new(windows: Arc<Windows>) -> Self {
        Self { windows, batches: VecDeque::new() }
    }

    /// All these rows, with `columns`.
    pub(super) fn columns(&mut self, rows: Rows, columns: Arc<Columns>) {
        let mut at = 0;
        for (piece, memory) in rows.into_pieces() {
            let rows = piece.num_rows();
            self.batches.push_back(Next::Columns(piece, memory, Arc::clone(&columns), at));
            at += rows;
        }
    }

    /// All these rows, so many of which have the same values.
    pub(super) fn constants(&mut self, rows: Rows, values: Vec<Run>) {
        let mut values = values.into_iter();
        let mut next = values.next();
        for (piece, memory) in rows.into_pieces() {
            let (mut left, mut of_piece) = (piece.num_rows(), VecDeque::new());
            while let Some((count, values_of)) = next.as_mut().filter(|_| left > 0) {
                let rows = left.min(*count);
                of_piece.push_back((rows, Arc::clone(values_of)));
                (left, *count) = (left - rows, *count - rows);
                if *count == 0 {
                    next = values.next();
                }
            }
            self.batches.push_back(Next::Constants(piece, memory, of_piece));
        }
    }

    /// All rows of a file.
    pub(super) fn spilled(&mut self, rows: SendableRecordBatchStream, behind: Behind, memory: MemoryReservation) {
        self.batches.push_back(Next::Spilled(rows, behind, memory));
    }

    /// The next batch.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(next) = self.batches.pop_front() {
            match next {
                Next::Columns(rows, _memory, columns, at) => {
                    return self.with_columns(&rows, &columns.columns, at).map(Some);
                }
                Next::Constants(mut rows, memory, mut runs) => {
                    let (first, repeated) = first_of(&mut runs);
                    let copies = memory.new_empty();
                    copies.try_grow(repeated)?;
                    let count = first.iter().map(|(count, _)| count).sum();
                    let with_values = self.with_values(&rows.slice(0, count), &first)?;
                    if !runs.is_empty() {
                        rows = rows.slice(count, rows.num_rows() - count);
                        self.batches.push_front(Next::Constants(rows, memory, runs));
                    }
                    return Ok(Some(with_values));
                }
                Next::Spilled(mut rows, mut behind, memory) => {
                    let Some(batch) = rows.next().await.transpose()? else { continue };
                    let next = match &mut behind {
                        Behind::Values(values) => {
                            let runs = VecDeque::from([(batch.num_rows(), Arc::clone(values))]);
                            Next::Constants(batch, memory.new_empty(), runs)
                        }
                        Behind::Columns(columns, at) => {
                            let from = std::mem::replace(at, *at + batch.num_rows());
                            Next::Columns(batch, memory.new_empty(), Arc::clone(columns), from)
                        }
                    };
                    self.batches.push_front(Next::Spilled(rows, behind, memory));
                    self.batches.push_front(next);
                }
            }
        }
        Ok(None)
    }

    fn with_columns(&self, rows: &RecordBatch, columns: &[ArrayRef], at: usize) -> Result<RecordBatch> {
        let is_all = |column: &ArrayRef| at == 0 && column.len() == rows.num_rows();
        if columns.iter().all(is_all) {
            return self.windows.with(rows, columns.to_vec());
        }
        // A part of a column would keep all of it in memory.
        let part = |column: &ArrayRef| copied(&column.slice(at, rows.num_rows()));
        let columns = columns.iter().map(part).collect::<Result<_>>()?;
        compacted(&self.windows.with(rows, columns)?)
    }

    fn with_values(&self, rows: &RecordBatch, runs: &[Run]) -> Result<RecordBatch> {
        let numbers = runs.iter().zip(0u32..).flat_map(|((count, _), at)| std::iter::repeat_n(at, *count));
        let numbers = UInt32Array::from_iter_values(numbers);
        let column = |window: usize| {
            let of_parts = runs.iter().filter_map(|(_, of)| of.values.get(window)).cloned();
            Ok(take(&ScalarValue::iter_to_array(of_parts)?, &numbers, None)?)
        };
        self.windows.with(rows, (0..self.windows.count()).map(column).collect::<Result<_>>()?)
    }
}

/// Takes away as many rows as one batch is to have, at least one, and the bytes of what they repeat.
fn first_of(runs: &mut VecDeque<Run>) -> (Vec<Run>, usize) {
    let (mut first, mut repeated) = (Vec::new(), 0);
    while let Some((count, values)) = runs.pop_front() {
        let bytes = values.values.iter().map(copy_of).sum::<usize>();
        let room = REPEATED.saturating_sub(repeated).checked_div(bytes).unwrap_or(count);
        let rows = count.min(if first.is_empty() { room.max(1) } else { room });
        repeated += rows * bytes;
        if rows > 0 {
            first.push((rows, Arc::clone(&values)));
        }
        if rows < count {
            runs.push_front((count - rows, values));
            break;
        }
    }
    (first, repeated)
}

/// Bytes that a value takes in each row, beside what any row does.
fn copy_of(value: &ScalarValue) -> usize {
    match value.data_type() {
        DataType::Utf8View | DataType::BinaryView => 0,
        _ => value.size().saturating_sub(size_of::<ScalarValue>()),
    }
}
