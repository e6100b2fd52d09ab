//! Rows of partitions that a window holds, and what it tells the memory pool of them.

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::compute::concat_batches;
use datafusion::common::DataFusionError;
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::execution::memory_pool::MemoryReservation;

use super::{Result, compacted};

/// Whole partitions, one behind the other; the last may go on.
pub(super) struct Rows {
    pieces: Vec<RecordBatch>,
    rows: usize,
    /// The row that each partition begins with.
    starts: Vec<usize>,
    counter: RecordBatchMemoryCounter,
    memory: MemoryReservation,
}

impl Rows {
    pub(super) fn new(memory: MemoryReservation) -> Self {
        Self { pieces: Vec::new(), rows: 0, starts: Vec::new(), counter: RecordBatchMemoryCounter::new(), memory }
    }

    pub(super) fn memory(&self) -> &MemoryReservation {
        &self.memory
    }

    pub(super) fn pieces(&self) -> &[RecordBatch] {
        &self.pieces
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    pub(super) fn partitions(&self) -> usize {
        self.starts.len()
    }

    /// Rows of the partitions that do not go on.
    pub(super) fn ended(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Holds `piece` as well, where partitions begin at `starts`.
    ///
    /// # Errors
    /// When the pool has no room; the piece is held all the same.
    pub(super) fn push(&mut self, piece: RecordBatch, starts: impl IntoIterator<Item = usize>) -> Result<()> {
        self.starts.extend(starts.into_iter().map(|start| self.rows + start));
        self.rows += piece.num_rows();
        let bytes = self.counter.count_batch(&piece);
        self.pieces.push(piece);
        self.memory.try_grow(bytes)
    }

    /// Lets go of the pieces: the partition that they were of goes on.
    pub(super) fn clear(&mut self) -> Vec<RecordBatch> {
        self.starts = vec![0];
        (self.rows, self.counter) = (0, RecordBatchMemoryCounter::new());
        self.memory.free();
        std::mem::take(&mut self.pieces)
    }

    /// Takes the first `count` partitions away. What is told to the pool stays the same.
    ///
    /// # Errors
    /// Never in practice: rows are copied as they are, also those of no columns.
    pub(super) fn split(&mut self, count: usize) -> Result<Self> {
        let behind = self.starts.split_off(count.min(self.starts.len()));
        let at = behind.first().copied().unwrap_or(self.rows);
        let mut first = std::mem::replace(self, Self::new(self.memory.new_empty()));
        let mut begin = 0;
        for piece in std::mem::take(&mut first.pieces) {
            let rows = piece.num_rows();
            match at.saturating_sub(begin).min(rows) {
                0 => self.pieces.push(piece),
                all if all == rows => first.pieces.push(piece),
                // A part keeps the whole in memory.
                cut => {
                    self.pieces.push(copied_rows(&piece.slice(cut, rows - cut))?);
                    first.pieces.push(piece.slice(0, cut));
                }
            }
            begin += rows;
        }
        let bytes = self.pieces.iter().map(|piece| self.counter.count_batch(piece)).sum::<usize>();
        self.memory = first.memory.split(bytes.min(first.memory.size()));
        (self.rows, first.rows) = (first.rows - at, at);
        self.starts = behind.into_iter().map(|start| start - at).collect();
        Ok(first)
    }

    /// The same rows in one piece, where there is room for that.
    pub(super) fn merged(self) -> Self {
        let [first, _, ..] = self.pieces.as_slice() else {
            return self;
        };
        let mut one = Self::new(self.memory.new_empty());
        let merged = concat_batches(&first.schema(), &self.pieces).map_err(DataFusionError::from);
        match merged.and_then(|merged| one.push(merged, self.starts.clone())) {
            Ok(()) => one,
            Err(_) => self,
        }
    }

    /// The pieces of each partition.
    pub(super) fn parts(&self) -> impl Iterator<Item = Vec<RecordBatch>> {
        let (mut at, mut within) = (0, 0);
        let ends = self.starts.iter().skip(1).copied().chain([self.rows]);
        self.starts.iter().zip(ends).map(move |(from, to)| {
            let (mut left, mut part) = (to - from, Vec::new());
            while let Some(piece) = self.pieces.get(at).filter(|_| left > 0) {
                let rows = left.min(piece.num_rows() - within);
                part.push(piece.slice(within, rows));
                (left, within) = (left - rows, within + rows);
                if within == piece.num_rows() {
                    (at, within) = (at + 1, 0);
                }
            }
            part
        })
    }

    /// Each piece, with the memory that ends with it.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = (RecordBatch, MemoryReservation)> {
        let mut counter = RecordBatchMemoryCounter::new();
        self.pieces.into_iter().map(move |piece| {
            let bytes = counter.count_batch(&piece).min(self.memory.size());
            let memory = self.memory.split(bytes);
            (piece, memory)
        })
    }
}

/// A copy of a few rows.
pub(super) fn copied_rows(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(copied).collect::<Result<_>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    compacted(&RecordBatch::try_new_with_options(batch.schema(), columns, &rows)?)
}

/// The same values in memory of their own, but for texts.
pub(super) fn copied(values: &ArrayRef) -> Result<ArrayRef> {
    let data = values.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len())?;
    Ok(make_array(copy.freeze()))
}
