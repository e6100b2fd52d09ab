//! A join's input in pieces so small that the join lets go of its thread between them.
//!
//! A nested loop join holds its thread until it has compared a whole batch of one input with all rows of the other: with
//! millions of those, minutes. The pieces that it gets instead follow the time it takes for one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};

use super::passing::{Passes, Passing};

/// Time that a piece should take: above it others wait noticeably, below it the pieces cost more than they are.
const WANTED: Duration = Duration::from_millis(10);
/// Rows of the first piece.
const FIRST: usize = 4;

/// See the module.
pub(crate) type PiecesExec = Passes<InPieces>;

#[derive(Debug)]
pub(crate) struct InPieces;

impl Passing for InPieces {
    const NAME: &'static str = "PiecesExec";

    fn pass(input: SendableRecordBatchStream) -> SendableRecordBatchStream {
        Box::pin(Pieces { input, batch: None, rows: FIRST, given: None, let_go: false })
    }
}

struct Pieces {
    input: SendableRecordBatchStream,
    /// What is left of the last batch.
    batch: Option<RecordBatch>,
    rows: usize,
    given: Option<Instant>,
    let_go: bool,
}

impl Pieces {
    /// Follows the time that the last piece took.
    fn follow(&mut self, given: Instant) {
        let took = given.elapsed();
        if took > WANTED * 2 {
            self.rows = (self.rows / 2).max(1);
        } else if took < WANTED / 2 {
            self.rows = self.rows.saturating_mul(2).min(1 << 20);
        }
    }
}

impl Stream for Pieces {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(given) = this.given.take() {
            this.follow(given);
            // Once between two pieces, where others may be waiting for this thread.
            this.let_go = true;
        }
        if std::mem::take(&mut this.let_go) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let batch = match this.batch.take() {
            Some(batch) => batch,
            None => match ready!(this.input.poll_next_unpin(context)) {
                Some(Ok(batch)) => batch,
                end => return Poll::Ready(end),
            },
        };
        let rows = this.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            this.batch = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        this.given = Some(Instant::now());
        Poll::Ready(Some(Ok(batch.slice(0, rows))))
    }
}

impl RecordBatchStream for Pieces {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::catalog::memory::MemorySourceConfig;
    use datafusion::physical_plan::ExecutionPlan;

    use super::*;

    #[tokio::test]
    async fn pieces_are_the_same_rows_in_the_same_order() {
        let numbers = Arc::new(Int64Array::from_iter_values(0..5000)) as _;
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let batches = vec![batch.slice(0, 3000), batch.slice(3000, 0), batch.slice(3000, 2000)];
        let input = MemorySourceConfig::try_new_exec(&[batches], batch.schema(), None).unwrap();
        let stream = PiecesExec::new(input).execute(0, Arc::default()).unwrap();
        let pieces: Vec<RecordBatch> = stream.map(Result::unwrap).collect().await;
        assert!(pieces.len() > 8 && pieces[0].num_rows() == FIRST, "{}", pieces.len());
        let all = pieces.iter().flat_map(|p| p.column(0).as_primitive::<Int64Type>().values().to_vec());
        assert!(all.eq(0..5000));
    }

    #[test]
    fn pieces_follow_the_time_they_take() {
        let empty = datafusion::physical_plan::EmptyRecordBatchStream::new(Arc::new(arrow::datatypes::Schema::empty()));
        let mut pieces = Pieces { input: Box::pin(empty), batch: None, rows: 256, given: None, let_go: false };
        pieces.follow(Instant::now() - WANTED * 3);
        assert_eq!(pieces.rows, 128);
        pieces.follow(Instant::now());
        assert_eq!(pieces.rows, 256);
    }
}
