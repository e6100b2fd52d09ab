//! Data in: anything with `__arrow_c_stream__` or `__arrow_c_array__` as the stream of batches that a write consumes.
//!
//! A Python reader is blocking code that may call back into Python, so it is pulled on a plain thread, never on one of
//! the colony's, and a small channel carries the batches over. The thread starts when the write asks for the first
//! batch: a write that is refused leaves the reader untouched. The end of the data is said, not inferred from a closed
//! channel, so a reader that dies can never commit the part that it had read.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::record_batch::RecordBatchReader;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use pyo3::prelude::*;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::imported;
use super::wait::call_out;
use crate::sync::lock;
use crate::{Error, Result};

/// Batches between the reader and the writer: one in hand and one on its way keep both busy.
const AHEAD: usize = 2;

/// A reader of Python data.
pub(super) type Reader = Box<dyn RecordBatchReader + Send>;

/// The threads that pull readers. One that is still inside Python while the interpreter ends takes the process with it,
/// so who closes an Apiary waits for them: they end soon after their write has.
#[derive(Debug, Default)]
pub(super) struct Readers {
    running: Mutex<usize>,
    ended: Condvar,
}

impl Readers {
    /// Waits until none runs, at most for `limit`: a reader may be inside Python code that never returns.
    pub(super) fn wait(&self, limit: Duration) {
        let running = lock(&self.running);
        // Whether it was in time or not, there is nothing more to do.
        drop(self.ended.wait_timeout_while(running, limit, |running| *running > 0));
    }

    fn begin(self: &Arc<Self>) -> Reading {
        *lock(&self.running) += 1;
        Reading(Arc::clone(self))
    }
}

/// A thread that pulls a reader, counted while it lives.
struct Reading(Arc<Readers>);

impl Drop for Reading {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.ended.notify_all();
    }
}

/// Takes the Arrow stream of `data`.
pub(super) fn reader_of(data: &Bound<'_, PyAny>) -> PyResult<Reader> {
    call_out(|| imported::reader(data))
}

/// The batches of `reader`, until its end, its first error, or `stop`; the latter two are errors of the stream.
pub(super) fn stream_of(reader: Reader, stop: CancellationToken, readers: Arc<Readers>) -> SendableRecordBatchStream {
    let schema = reader.schema();
    let batches = stream::unfold(Pull::Unstarted(reader, readers), move |pull| pull.step(stop.clone()));
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

enum Pull {
    Unstarted(Reader, Arc<Readers>),
    Running(Receiver<Message>),
    Done,
}

enum Message {
    Batch(RecordBatch),
    Failed(Error),
    End,
}

impl Pull {
    async fn step(self, stop: CancellationToken) -> Option<(Result<RecordBatch, DataFusionError>, Self)> {
        let mut inbox = match self {
            Self::Unstarted(reader, readers) => match start(reader, &readers) {
                Ok(inbox) => inbox,
                Err(error) => return Some(failed(error)),
            },
            Self::Running(inbox) => inbox,
            Self::Done => return None,
        };
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => Some(Message::Failed(Error::cancelled("the write was cancelled"))),
            message = inbox.recv() => message,
        };
        match message {
            Some(Message::Batch(batch)) => Some((Ok(batch), Self::Running(inbox))),
            Some(Message::Failed(error)) => Some(failed(error)),
            Some(Message::End) => None,
            None => Some(failed(Error::internal("the reader of the data ended before its end"))),
        }
    }
}

fn failed(error: Error) -> (Result<RecordBatch, DataFusionError>, Pull) {
    (Err(DataFusionError::External(Box::new(error))), Pull::Done)
}

fn start(reader: Reader, readers: &Arc<Readers>) -> Result<Receiver<Message>> {
    let (sender, inbox) = mpsc::channel(AHEAD);
    let reading = readers.begin();
    thread::Builder::new()
        .name("apiary-reader".into())
        .spawn(move || {
            let _reading = reading;
            read(reader, &sender);
        })
        .map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
    Ok(inbox)
}

fn read(reader: Reader, sender: &Sender<Message>) {
    let ended = catch_unwind(AssertUnwindSafe(|| read_batches(reader, sender)));
    let last = ended.unwrap_or_else(|panic| Message::Failed(panicked(&*panic)));
    // An error here says that the write has ended and nobody listens.
    drop(sender.blocking_send(last));
}

fn read_batches(reader: Reader, sender: &Sender<Message>) -> Message {
    for batch in reader {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Message::Failed(unreadable(error)),
        };
        if sender.blocking_send(Message::Batch(batch)).is_err() {
            break;
        }
    }
    Message::End
}

fn unreadable(error: arrow::error::ArrowError) -> Error {
    Error::invalid(format!("the data to write cannot be read: {error}")).with_source(error)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::invalid(format!("the data to write cannot be read: {}", text.unwrap_or("its reader panicked")))
}
