//! Errors on their way to Python: the kind of an [`Error`] picks the exception class, its sentence is the message.
//!
//! The classes are Python (`apiary/errors.py`), so that programs can import, subclass and read them there.

use pyo3::intern;
use pyo3::prelude::*;

use crate::{Error, Result};

/// The exception for `error`.
pub(super) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).map_or_else(|failure| failure, PyErr::from_value)
}

fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let retry_after = error.retry_after().map(|time| time.as_secs_f64());
    py.import(intern!(py, "apiary.errors"))?
        .call_method1(intern!(py, "from_kind"), (error.kind().as_str(), error.message(), retry_after))
}

/// Turns results of the crate into results of PyO3.
pub(super) trait OrRaise<T> {
    /// The value, or the exception of the error's kind.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raise(py, &error))
    }
}
