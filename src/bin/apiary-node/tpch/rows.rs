//! The rows of a table, made on all cores and delivered in order.
//!
//! ```text
//!  thread 0: parts 0, n, 2n …   ─▶ ┐
//!  thread 1: parts 1, n+1 …     ─▶ ├─ taken part by part, round robin ─▶ one stream
//!  thread n-1: parts n-1, …     ─▶ ┘
//! ```
//! Order matters: neighbouring rows have neighbouring keys, which is what makes the statistics of a cell worth having.
//! Each thread may be a few batches ahead; dropping the stream ends the threads.

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use futures::{Stream, stream};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::failure::{Failure, Outcome};
use crate::tpch::tables::Table;

/// Batches that a thread may be ahead: about two parts, so that no thread waits for the others' turn.
const AHEAD: usize = 16;

enum Message {
    Rows(RecordBatch),
    PartDone,
}

/// The rows of `table` at `scale`.
///
/// # Errors
/// When the system gives no thread. The stream fails if a thread ends before its time.
pub(crate) fn stream(
    table: Table,
    scale: f64,
) -> Outcome<impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static> {
    let parts = table.parts(scale);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(parts.unsigned_abs() as usize);
    let receivers = (0..threads).map(|first| start_thread(table, scale, parts, first, threads));
    let rows = Rows { receivers: receivers.collect::<Outcome<_>>()?, parts: parts.unsigned_abs() as usize, part: 0 };
    Ok(stream::unfold(rows, |mut rows| async move { rows.next().await.map(|batch| (batch, rows)) }))
}

fn start_thread(table: Table, scale: f64, parts: i32, first: usize, step: usize) -> Outcome<Receiver<Message>> {
    let (sender, receiver) = channel(AHEAD);
    std::thread::Builder::new()
        .name(format!("tpch-{}-{first}", table.name()))
        .spawn(move || make(table, scale, parts, first, step, &sender))
        .map_err(|e| Failure::local("cannot start a thread to generate data", e))?;
    Ok(receiver)
}

/// Makes every `step`th part from the part `first` on, until nobody wants it.
fn make(table: Table, scale: f64, parts: i32, first: usize, step: usize, sender: &Sender<Message>) {
    for part in (1..=parts).skip(first).step_by(step) {
        let batches = table.part(scale, part, parts).map(Message::Rows);
        for message in batches.chain(std::iter::once(Message::PartDone)) {
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    }
}

/// Takes the parts in order from the threads that make them.
struct Rows {
    receivers: Vec<Receiver<Message>>,
    parts: usize,
    /// The part that is being taken.
    part: usize,
}

impl Rows {
    async fn next(&mut self) -> Option<Result<RecordBatch, DataFusionError>> {
        while self.part < self.parts {
            let thread = self.part % self.receivers.len();
            match self.receivers[thread].recv().await {
                Some(Message::Rows(batch)) => return Some(Ok(batch)),
                Some(Message::PartDone) => self.part += 1,
                None => {
                    let lost = self.part;
                    self.part = self.parts;
                    return Some(Err(died(lost)));
                }
            }
        }
        None
    }
}

fn died(part: usize) -> DataFusionError {
    DataFusionError::Execution(format!("the generator died in part {part}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use futures::{StreamExt, TryStreamExt};

    use super::*;

    #[tokio::test]
    async fn rows_come_in_order_and_all() {
        // Five parts of orders, on however many threads there are.
        let scale = 0.03;
        let batches: Vec<RecordBatch> = stream(Table::Orders, scale).unwrap().try_collect().await.unwrap();
        let keys: Vec<i64> =
            batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(keys.len() as u64, Table::Orders.rows(scale));
        assert!(keys.is_sorted());
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_an_error_and_not_the_end() {
        let (sender, receiver) = channel(1);
        drop(sender);
        let mut rows = Rows { receivers: vec![receiver], parts: 1, part: 0 };
        assert!(rows.next().await.unwrap().is_err());
        assert!(rows.next().await.is_none());
    }

    #[tokio::test]
    async fn dropping_the_stream_ends_the_threads() {
        let (sender, receiver) = channel(1);
        let thread = std::thread::spawn(move || make(Table::Supplier, 1.0, 4, 0, 1, &sender));
        drop(receiver);
        thread.join().unwrap();
        let mut rows = Box::pin(stream(Table::Nation, 1.0).unwrap());
        assert_eq!(rows.next().await.unwrap().unwrap().num_rows(), 25);
    }
}
