//! `_apiary.Stream`: a result. The Python class `Result` is built on it.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3_arrow::{PyRecordBatch, PySchema};

use super::errors::{OrRaise, raise};
use super::export;
use super::feed::Feed;
use super::preview::{Preview, preview};
use super::records::to_dict;
use super::wait::{Ended, wait};
use crate::{Error, Result};

/// Rows of one query, on their way.
#[pyclass(name = "Stream", module = "apiary._apiary", frozen)]
pub(super) struct PyStream {
    feed: Arc<Feed>,
}

impl PyStream {
    /// The Python object over `feed`.
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self { feed }
    }

    /// Waits for work on the feed; an interrupt cancels the query.
    fn run<T, F>(&self, py: Python<'_>, work: F) -> PyResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let colony = self.feed.link().colony().or_raise(py)?;
        wait(py, colony, work).map_err(|ended| {
            if matches!(ended, Ended::Interrupted(_)) {
                self.feed.cancel();
            }
            ended.into_exception(py)
        })
    }
}

#[pymethods]
impl PyStream {
    #[getter]
    fn schema(&self) -> PySchema {
        PySchema::new(Arc::clone(self.feed.schema()))
    }

    /// Whether rows have been given out for good.
    #[getter]
    fn begun(&self) -> bool {
        self.feed.has_begun()
    }

    /// Whether the whole result is in memory, to be read as often as wanted.
    #[getter]
    fn kept(&self) -> bool {
        self.feed.kept().is_some()
    }

    /// Whether the query has given its last row.
    #[getter]
    fn ended(&self) -> bool {
        self.feed.is_complete()
    }

    fn next_batch(&self, py: Python<'_>) -> PyResult<Option<PyRecordBatch>> {
        let batch = self.run(py, Arc::clone(&self.feed).next())?;
        Ok(batch.map(PyRecordBatch::new))
    }

    /// Reads everything into memory.
    fn keep(&self, py: Python<'_>) -> PyResult<()> {
        if self.feed.kept().is_some() {
            return Ok(());
        }
        self.run(py, Arc::clone(&self.feed).keep())
    }

    /// The batches of a kept result.
    fn batches(&self) -> Vec<PyRecordBatch> {
        self.feed.kept().into_iter().flatten().cloned().map(PyRecordBatch::new).collect()
    }

    /// The first `limit` rows as text; they stay to be read.
    fn preview(&self, py: Python<'_>, limit: usize) -> PyResult<Preview> {
        let batches = match self.feed.kept() {
            Some(batches) => batches.clone(),
            // One row more, to know whether there are more.
            None => self.run(py, Arc::clone(&self.feed).peek(limit.saturating_add(1)))?,
        };
        preview(self.feed.schema(), &batches, limit)
            .map_err(|error| raise(py, &Error::unsupported(format!("cannot show this result: {error}"))))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.feed.final_stats() {
            Some(stats) => to_dict(py, stats),
            None => to_dict(py, &self.run(py, Arc::clone(&self.feed).current_stats())?),
        }
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        if self.feed.final_stats().is_some() {
            return Ok(());
        }
        self.feed.link().parts().or_raise(py)?;
        py.detach(|| self.feed.cancel());
        Ok(())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Ok(pyo3_arrow::ffi::to_schema_pycapsule(py, &**self.feed.schema())?)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        export::capsule(py, &self.feed, requested_schema)
    }
}
