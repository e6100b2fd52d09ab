//! Facts of the colony as the dictionaries that Python gets.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3_arrow::PySchema;
use serde::Serialize;

use super::errors::raise;
use crate::{Error, FrameInfo, HistoryEntry};

/// What `describe` returns.
#[derive(IntoPyObject)]
pub(super) struct Described {
    name: String,
    location: String,
    schema: PySchema,
    partition_by: Vec<String>,
    cluster_by: Vec<String>,
    version: u64,
    cells: usize,
    rows: Option<u64>,
    bytes: u64,
}

impl From<FrameInfo> for Described {
    fn from(info: FrameInfo) -> Self {
        Self {
            name: info.name.to_string(),
            location: info.location,
            schema: PySchema::new(info.schema),
            partition_by: info.partition_by,
            cluster_by: info.cluster_by,
            version: info.version,
            cells: info.cells,
            rows: info.rows,
            bytes: info.bytes,
        }
    }
}

/// One element of what `history` returns.
#[derive(IntoPyObject)]
pub(super) struct Entry {
    version: u64,
    timestamp_ms: i64,
    operation: String,
    rows: Option<u64>,
    cells_added: usize,
    cells_removed: usize,
    engine: String,
}

impl From<HistoryEntry> for Entry {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            version: entry.version,
            timestamp_ms: entry.timestamp_ms,
            operation: entry.operation,
            rows: entry.rows,
            cells_added: entry.cells_added,
            cells_removed: entry.cells_removed,
            engine: entry.engine,
        }
    }
}

/// A serializable record as a dictionary: a fact that the colony learns to report reaches Python by itself.
pub(super) fn to_dict<'py>(py: Python<'py>, record: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(record)
        .map_err(|error| raise(py, &Error::internal(format!("cannot write a record as JSON: {error}"))))?;
    py.import(intern!(py, "json"))?.call_method1(intern!(py, "loads"), (text,))
}
