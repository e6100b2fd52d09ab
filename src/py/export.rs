//! Results out: a [`Feed`] as the Arrow C stream that pyarrow, polars, pandas and DuckDB read.
//!
//! Who pulls such a stream, from which thread, and whether that thread holds the GIL, is the reader's choice. So Python
//! is touched on one thread only, the one that asked for the stream: attaching there cannot wait for itself, and it is
//! where Ctrl-C has to be noticed. Any other thread just waits.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use arrow::array::{ArrayRef, RecordBatch, StructArray};
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::ffi::{ArrayIterator, to_stream_pycapsule};

use super::errors::OrRaise;
use super::feed::Feed;
use super::wait::{Ended, is_calling_out, wait, wait_outside};
use crate::{Error, ErrorKind, Result};

/// The result as a capsule: a kept one as often as asked, a streaming one once.
pub(super) fn capsule<'py>(
    py: Python<'py>,
    feed: &Arc<Feed>,
    requested_schema: Option<Bound<'py, PyCapsule>>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = feed.schema();
    if let Some(batches) = feed.kept() {
        return to_capsule(py, schema, batches.clone().into_iter().map(Ok), requested_schema);
    }
    feed.link().parts().or_raise(py)?;
    feed.claim().or_raise(py)?;
    let live = Live { feed: Arc::clone(feed), owner: thread::current().id() };
    to_capsule(py, schema, live, requested_schema)
}

fn to_capsule<'py>(
    py: Python<'py>,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send + 'static,
    requested_schema: Option<Bound<'py, PyCapsule>>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let field = Field::new_struct("", schema.fields().clone(), false).with_metadata(schema.metadata().clone());
    let arrays = batches.map(|batch| batch.map(|batch| Arc::new(StructArray::from(batch)) as ArrayRef));
    Ok(to_stream_pycapsule(py, Box::new(ArrayIterator::new(arrays, Arc::new(field))), requested_schema)?)
}

/// Batches of a running query, pulled by whoever holds the C stream.
struct Live {
    feed: Arc<Feed>,
    owner: ThreadId,
}

impl Iterator for Live {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pull().map_err(|error| to_arrow_error(&error)).transpose()
    }
}

impl Live {
    fn pull(&self) -> Result<Option<RecordBatch>> {
        let may_attach = thread::current().id() == self.owner && !is_calling_out();
        if may_attach { self.pull_attached() } else { self.pull_outside() }
    }

    fn pull_outside(&self) -> Result<Option<RecordBatch>> {
        wait_outside(self.feed.link().colony()?, Arc::clone(&self.feed).next())
    }

    fn pull_attached(&self) -> Result<Option<RecordBatch>> {
        let colony = self.feed.link().colony()?;
        let next = Arc::clone(&self.feed).next();
        Python::try_attach(|py| wait(py, colony, next).map_err(|ended| self.give_up(py, ended)))
            .unwrap_or_else(|| Err(Error::closed("the Python interpreter is shutting down")))
    }

    /// A C stream has no way to raise Ctrl-C, so the query is cancelled here and the signal raised again for the
    /// interpreter to find when the reader returns to it.
    fn give_up(&self, py: Python<'_>, ended: Ended) -> Error {
        match ended {
            Ended::Failed(error) => error,
            Ended::Interrupted(signal) => {
                self.feed.cancel();
                let error = Error::cancelled(format!("interrupted: {signal}"));
                // Last of all: any Python code after it, a formatted exception too, would swallow the signal.
                if signal.is_instance_of::<PyKeyboardInterrupt>(py) {
                    raise_again(py);
                }
                error
            }
        }
    }
}

fn raise_again(py: Python<'_>) {
    let raised = py.import(intern!(py, "_thread")).and_then(|m| m.call_method0(intern!(py, "interrupt_main")));
    // Without the signal the reader still gets the error of a cancelled query.
    drop(raised);
}

fn to_arrow_error(error: &Error) -> ArrowError {
    // The text becomes a C string, which ends at its first zero byte.
    let text = error.to_string().replace('\0', "\\0");
    match error.kind() {
        ErrorKind::MemoryExceeded => ArrowError::MemoryError(text),
        _ => ArrowError::ExternalError(text.into()),
    }
}
