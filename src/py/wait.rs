//! Waiting, from a Python thread, for work that runs on the colony's own threads.
//!
//! The work is spawned and its answer comes back through a channel, so the waiting thread holds neither the GIL nor a
//! runtime. It wakes up every [`SLICE`] to let Python run its signal handlers: when one raises (Ctrl-C), the work is
//! aborted, which drops what it held and so cancels the query.

use std::cell::Cell;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::task::JoinHandle;

use super::errors::raise;
use crate::{Colony, Error, Result};

/// Longest time between two looks at pending signals: short for a person at the keyboard, long for a processor.
const SLICE: Duration = Duration::from_millis(50);

thread_local! {
    static CALLING_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Calls Python code that is not ours, with the GIL held.
///
/// That code may release the GIL behind PyO3's back and come back to us on this thread (DuckDB does, when it is asked
/// for rows that it computes from one of our results). PyO3 would then believe that the thread is attached.
/// [`is_calling_out`] is how to know better.
pub(super) fn call_out<T>(call: impl FnOnce() -> T) -> T {
    let before = CALLING_OUT.replace(true);
    let value = call();
    CALLING_OUT.set(before);
    value
}

/// Whether this thread is inside [`call_out`], where `Python::attach` must not be used.
pub(super) fn is_calling_out() -> bool {
    CALLING_OUT.get()
}

/// Why a wait ended without a value.
pub(super) enum Ended {
    /// The work failed.
    Failed(Error),
    /// A Python signal handler raised; the work was told to stop.
    Interrupted(PyErr),
}

impl Ended {
    /// What Python raises for it.
    pub(super) fn into_exception(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Failed(error) => raise(py, &error),
            Self::Interrupted(signal) => signal,
        }
    }
}

/// Runs `work` on the colony and waits for it with the GIL released, honouring Ctrl-C.
pub(super) fn wait<T, F>(py: Python<'_>, colony: &Colony, work: F) -> Result<T, Ended>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (answer, task) = spawn(colony, work);
    let outcome = py.detach(move || receive(&answer));
    if matches!(outcome, Err(Ended::Interrupted(_))) {
        task.abort();
    }
    outcome
}

/// Runs `work` on the colony and waits for it without touching Python: for threads that may not be Python's.
pub(super) fn wait_outside<T, F>(colony: &Colony, work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (answer, _task) = spawn(colony, work);
    answer.recv().unwrap_or_else(|_| Err(lost()))
}

/// Receives an answer, looking at pending signals meanwhile; the caller has released the GIL.
pub(super) fn receive<T>(answer: &Receiver<Result<T>>) -> Result<T, Ended> {
    loop {
        match answer.recv_timeout(SLICE) {
            Ok(outcome) => return outcome.map_err(Ended::Failed),
            Err(RecvTimeoutError::Disconnected) => return Err(Ended::Failed(lost())),
            Err(RecvTimeoutError::Timeout) => {
                Python::attach(|py| call_out(|| py.check_signals())).map_err(Ended::Interrupted)?;
            }
        }
    }
}

fn spawn<T, F>(colony: &Colony, work: F) -> (Receiver<Result<T>>, JoinHandle<()>)
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    // Room for the one answer: the task never blocks a thread of the runtime.
    let (done, answer) = mpsc::sync_channel(1);
    let task = colony.spawn(async move {
        // An error here says that the waiter was interrupted and left: the answer is dropped, as it must be.
        drop(done.send(work.await));
    });
    (answer, task)
}

fn lost() -> Error {
    Error::closed("the colony stopped before it answered: the outcome of this call is unknown")
}
