//! `_apiary.Appender`: a stream into a frame. The Python class `FrameStream` is built on it.

use std::sync::Arc;

use pyo3::prelude::*;
use tokio_util::sync::CancellationToken;

use super::errors::OrRaise;
use super::input;
use super::link::Link;
use super::wait::wait;
use crate::{FrameStream, Result};

/// Rows on their way into a frame.
#[pyclass(name = "Appender", module = "apiary._apiary", frozen)]
pub(super) struct PyAppender {
    link: Arc<Link>,
    stream: Arc<FrameStream>,
}

impl PyAppender {
    pub(super) fn new(link: Arc<Link>, stream: FrameStream) -> Self {
        Self { link, stream: Arc::new(stream) }
    }

    fn run<T, F>(&self, py: Python<'_>, work: impl FnOnce(Arc<FrameStream>) -> F) -> PyResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let colony = self.link.colony().or_raise(py)?;
        wait(py, colony, work(Arc::clone(&self.stream))).map_err(|ended| ended.into_exception(py))
    }
}

#[pymethods]
impl PyAppender {
    fn append(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let stop = CancellationToken::new();
        let data = input::stream_of(input::reader_of(data)?, stop.clone(), Arc::clone(self.link.readers()));
        let _stop = stop.drop_guard();
        self.run(py, |stream| async move { stream.append_all(data).await })
    }

    fn flush(&self, py: Python<'_>) -> PyResult<u64> {
        self.run(py, |stream| async move { stream.flush().await })
    }

    fn close(&self, py: Python<'_>) -> PyResult<u64> {
        self.run(py, |stream| async move { stream.close().await })
    }

    fn waiting(&self) -> u64 {
        self.stream.waiting()
    }
}
