//! `_apiary.Colony`: a running colony and one session in it. The Python class `Apiary` is built on it.
//!
//! Names arrive as text and are resolved in the session, so `USE HIVE` and `USE BOX` hold for the methods as for SQL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use pyo3::prelude::*;
use pyo3_arrow::PySchema;
use tokio_util::sync::CancellationToken;

use super::appender::PyAppender;
use super::errors::OrRaise;
use super::feed::Feed;
use super::link::Link;
use super::records::{Described, Entry, to_dict};
use super::stream::PyStream;
use super::wait::wait;
use super::{input, params, spool};
use crate::actors::WriteOptions;
use crate::size::parse_size;
use crate::sql::{Backpressure, Distribute};
use crate::{
    AsOf, BoxName, Colony, Error, FrameRef, HiveName, Placement, Query, Result, Settings, StreamSettings, WriteMode,
};

/// A colony and the session of one `Apiary` object.
#[pyclass(name = "Colony", module = "apiary._apiary", frozen)]
pub(super) struct PyColony {
    link: Arc<Link>,
}

/// The rows of `batches`, each an object.
fn rows(batches: &[RecordBatch]) -> Result<serde_json::Value> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let text = writer.into_inner();
    // Without rows nothing is written.
    let text = if text.is_empty() { b"[]".to_vec() } else { text };
    serde_json::from_slice(&text).map_err(|error| Error::internal(format!("facts cannot be read back: {error}")))
}

/// A size as Python gives it: bytes, or text like `1GB`.
#[derive(FromPyObject)]
enum Size {
    Bytes(u64),
    Text(String),
}

#[pymethods]
impl PyColony {
    #[allow(clippy::too_many_arguments, reason = "the keywords of the Python class, each as it was given")]
    #[new]
    #[pyo3(signature = (name, storage, bees, memory, storage_options, time_limit, join, distribute, cache, cache_limit, housekeeping, scratch, scratch_limit, spill, disk_writes_per_day))]
    fn new(
        py: Python<'_>,
        name: String,
        storage: Option<String>,
        bees: Option<usize>,
        memory: Option<Size>,
        storage_options: BTreeMap<String, String>,
        time_limit: Option<f64>,
        join: bool,
        distribute: &str,
        cache: Option<PathBuf>,
        cache_limit: Option<Size>,
        housekeeping: bool,
        scratch: Option<PathBuf>,
        scratch_limit: Option<Size>,
        spill: &str,
        disk_writes_per_day: Option<Size>,
    ) -> PyResult<Self> {
        let distribute = distribute.parse::<Distribute>().or_raise(py)?;
        let settings = storage.map_or_else(Settings::default, Settings::new).with_name(name);
        let mut settings = settings.with_join(join).with_distribute(distribute).with_housekeeping(housekeeping);
        settings.bees = bees;
        settings.memory = memory.map(|size| size.bytes("memory")).transpose().or_raise(py)?;
        settings.storage_options = storage_options;
        settings.cache = cache;
        settings.scratch = scratch;
        settings.spill = spill.parse().or_raise(py)?;
        settings.disk_writes_per_day =
            disk_writes_per_day.map(|size| size.bytes("disk_writes_per_day")).transpose().or_raise(py)?;
        if let Some(limit) = scratch_limit {
            settings.scratch_limit = limit.bytes("scratch_limit").or_raise(py)?;
        }
        if let Some(limit) = cache_limit {
            settings.cache_limit = limit.bytes("cache_limit").or_raise(py)?;
        }
        settings.time_limit = time_limit.map(|limit| duration("time_limit", limit)).transpose().or_raise(py)?;
        let link = Link::start(py, settings).map_err(|ended| ended.into_exception(py))?;
        Ok(Self { link })
    }

    /// Runs one SQL statement.
    #[pyo3(signature = (query, params=None, time_limit=None))]
    fn sql(
        &self,
        py: Python<'_>,
        query: &str,
        params: Option<&Bound<'_, PyAny>>,
        time_limit: Option<f64>,
    ) -> PyResult<PyStream> {
        let (_, session) = self.link.parts().or_raise(py)?;
        let session = session.clone();
        let mut request = Query::new(query);
        request.params = params::params_of(params)?;
        request.time_limit = time_limit.map(|limit| duration("time_limit", limit)).transpose().or_raise(py)?;
        let stream = self.run(py, |_| async move { session.query(request).await })?;
        Ok(PyStream::new(Feed::new(Arc::clone(&self.link), stream)))
    }

    /// Runs a statement whose answer is a few facts, and gives them back as dictionaries.
    #[pyo3(signature = (query, params=None))]
    fn facts<'py>(
        &self,
        py: Python<'py>,
        query: &str,
        params: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (_, session) = self.link.parts().or_raise(py)?;
        let session = session.clone();
        let mut request = Query::new(query);
        request.params = params::params_of(params)?;
        let facts = self.run(py, |_| async move { rows(&session.query(request).await?.collect().await?) })?;
        to_dict(py, &facts)
    }

    /// Refuses what is not one SQL expression to its end.
    #[staticmethod]
    fn check_expression(py: Python<'_>, text: &str) -> PyResult<()> {
        crate::sql::check_expression(text).or_raise(py)
    }

    fn create_hive(&self, py: Python<'_>, hive: &str, if_not_exists: bool) -> PyResult<()> {
        let hive = HiveName::new(hive).or_raise(py)?;
        self.run(py, |colony| async move { colony.create_hive(&hive, if_not_exists).await })
    }

    fn create_box(&self, py: Python<'_>, name: &str, if_not_exists: bool) -> PyResult<()> {
        let (hive, name) = self.box_named(name).or_raise(py)?;
        self.run(py, |colony| async move { colony.create_box(&hive, &name, if_not_exists).await })
    }

    fn create_frame(
        &self,
        py: Python<'_>,
        frame: &str,
        schema: PySchema,
        partition_by: Vec<String>,
        cluster_by: Vec<String>,
        if_not_exists: bool,
    ) -> PyResult<()> {
        let frame = self.frame_named(frame).or_raise(py)?;
        let schema = schema.into_inner();
        let placement = Placement { partition_by, cluster_by, ..Placement::default() };
        self.run(py, |colony| async move { colony.create_frame(&frame, schema, placement, if_not_exists).await })
    }

    fn drop_hive(&self, py: Python<'_>, hive: &str, if_exists: bool, cascade: bool) -> PyResult<()> {
        let hive = HiveName::new(hive).or_raise(py)?;
        self.run(py, |colony| async move { colony.drop_hive(&hive, if_exists, cascade).await })
    }

    fn drop_box(&self, py: Python<'_>, name: &str, if_exists: bool, cascade: bool) -> PyResult<()> {
        let (hive, name) = self.box_named(name).or_raise(py)?;
        self.run(py, |colony| async move { colony.drop_box(&hive, &name, if_exists, cascade).await })
    }

    fn drop_frame(&self, py: Python<'_>, frame: &str, if_exists: bool) -> PyResult<()> {
        let frame = self.frame_named(frame).or_raise(py)?;
        self.run(py, |colony| async move { colony.drop_frame(&frame, if_exists).await })
    }

    fn hives(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let hives = self.run(py, |colony| async move { colony.hives().await })?;
        Ok(texts(&hives))
    }

    fn boxes(&self, py: Python<'_>, hive: &str) -> PyResult<Vec<String>> {
        let hive = HiveName::new(hive).or_raise(py)?;
        let boxes = self.run(py, |colony| async move { colony.boxes(&hive).await })?;
        Ok(texts(&boxes))
    }

    fn frames(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let frames = self.run(py, |colony| async move { colony.frames().await })?;
        Ok(texts(&frames))
    }

    /// The full name of a hive: checked and in lower case.
    fn resolve_hive(&self, py: Python<'_>, name: &str) -> PyResult<String> {
        self.link.parts().or_raise(py)?;
        HiveName::new(name).map(|hive| hive.to_string()).or_raise(py)
    }

    /// The full name of a box: `hive.box`.
    fn resolve_box(&self, py: Python<'_>, name: &str) -> PyResult<String> {
        self.box_named(name).map(|(hive, name)| format!("{hive}.{name}")).or_raise(py)
    }

    /// The full name of a frame: `hive.box.frame`.
    fn resolve_frame(&self, py: Python<'_>, name: &str) -> PyResult<String> {
        self.frame_named(name).map(|frame| frame.to_string()).or_raise(py)
    }

    fn describe(&self, py: Python<'_>, frame: &str) -> PyResult<Described> {
        let frame = self.frame_named(frame).or_raise(py)?;
        let info = self.run(py, |colony| async move { colony.describe(&frame).await })?;
        Ok(info.into())
    }

    #[pyo3(signature = (frame, limit=None))]
    fn history(&self, py: Python<'_>, frame: &str, limit: Option<usize>) -> PyResult<Vec<Entry>> {
        let frame = self.frame_named(frame).or_raise(py)?;
        let entries = self.run(py, |colony| async move { colony.history(&frame, limit).await })?;
        Ok(entries.into_iter().map(Entry::from).collect())
    }

    /// Appends `data`, or puts it in the place of what the frame holds.
    fn write<'py>(
        &self,
        py: Python<'py>,
        frame: &str,
        data: &Bound<'py, PyAny>,
        overwrite: bool,
        evolve: bool,
        backpressure: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let backpressure = backpressure.parse::<Backpressure>().or_raise(py)?;
        let frame = self.frame_named(frame).or_raise(py)?;
        let mode = if overwrite { WriteMode::Overwrite } else { WriteMode::Append };
        let stop = CancellationToken::new();
        let data = input::stream_of(input::reader_of(data)?, stop.clone(), Arc::clone(self.link.readers()));
        // However this call ends, nothing it started may go on to commit.
        let _stop = stop.drop_guard();
        let options = WriteOptions { mode, backpressure, evolve };
        let written = self.run(py, |colony| async move { colony.write_with(&frame, data, options).await })?;
        to_dict(py, &written)
    }

    /// Writes `data` into a Parquet file, for a statement that reads it.
    fn spool(&self, py: Python<'_>, data: &Bound<'_, PyAny>, path: PathBuf) -> PyResult<()> {
        let stop = CancellationToken::new();
        let data = input::stream_of(input::reader_of(data)?, stop.clone(), Arc::clone(self.link.readers()));
        let _stop = stop.drop_guard();
        self.run(py, |_| spool::write(data, path))
    }

    #[pyo3(signature = (frame, columns=None, version=None, timestamp_ms=None))]
    fn read(
        &self,
        py: Python<'_>,
        frame: &str,
        columns: Option<Vec<String>>,
        version: Option<u64>,
        timestamp_ms: Option<i64>,
    ) -> PyResult<PyStream> {
        let frame = self.frame_named(frame).or_raise(py)?;
        let as_of = as_of(version, timestamp_ms).or_raise(py)?;
        let (_, session) = self.link.parts().or_raise(py)?;
        let session = session.clone();
        let stream = self.run(py, |_| async move { session.read(&frame, columns, as_of).await })?;
        Ok(PyStream::new(Feed::new(Arc::clone(&self.link), stream)))
    }

    /// Opens a stream into a frame.
    #[allow(clippy::too_many_arguments, reason = "the keywords of the Python method, each as it was given")]
    fn stream(
        &self,
        py: Python<'_>,
        frame: &str,
        rows: u64,
        size: Size,
        seconds: f64,
        buffer: Option<PathBuf>,
        sync: bool,
    ) -> PyResult<PyAppender> {
        let frame = self.frame_named(frame).or_raise(py)?;
        let (bytes, every) = (size.bytes("size").or_raise(py)?, duration("seconds", seconds).or_raise(py)?);
        let settings = StreamSettings { rows, bytes, every, buffer, sync };
        let stream = self.run(py, |colony| async move { colony.stream(&frame, settings).await })?;
        Ok(PyAppender::new(Arc::clone(&self.link), stream))
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let status = self.run(py, |colony| async move { colony.status().await })?;
        to_dict(py, &status)
    }

    /// The nodes that share the meadow.
    fn swarm<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let nodes = self.run(py, |colony| async move { colony.swarm().await })?;
        nodes.iter().map(|node| to_dict(py, node)).collect()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.link.close()).or_raise(py)
    }
}

impl PyColony {
    /// Waits for `work` on the colony.
    fn run<T, F>(&self, py: Python<'_>, work: impl FnOnce(Colony) -> F) -> PyResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let colony = self.link.colony().or_raise(py)?;
        wait(py, colony, work(colony.clone())).map_err(|ended| ended.into_exception(py))
    }

    fn frame_named(&self, name: &str) -> Result<FrameRef> {
        let (_, session) = self.link.parts()?;
        session.frame_ref(name)
    }

    fn box_named(&self, name: &str) -> Result<(HiveName, BoxName)> {
        let (_, session) = self.link.parts()?;
        match name.split('.').collect::<Vec<_>>()[..] {
            [name] => Ok((session.hive(), BoxName::new(name)?)),
            [hive, name] => Ok((HiveName::new(hive)?, BoxName::new(name)?)),
            _ => Err(Error::invalid(format!("{name:?} is not a box: write hive.box or box"))),
        }
    }
}

impl Size {
    /// The bytes that the argument `name` says.
    fn bytes(self, name: &str) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => parse_size(&text).map_err(|error| error.context(name)),
        }
    }
}

fn as_of(version: Option<u64>, timestamp_ms: Option<i64>) -> Result<AsOf> {
    match (version, timestamp_ms) {
        (None, None) => Ok(AsOf::Latest),
        (Some(version), None) => Ok(AsOf::Version(version)),
        (None, Some(timestamp)) => Ok(AsOf::Timestamp(timestamp)),
        (Some(_), Some(_)) => Err(Error::invalid("both a version and a timestamp were given: give one of them")),
    }
}

/// Longest time that may be asked for, in seconds: clocks can still add it to what they show.
const MOST_SECONDS: f64 = 1e10;

/// The time that the argument `name` says.
fn duration(name: &str, seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        _ if seconds.is_finite() && seconds > MOST_SECONDS => {
            Err(Error::invalid(format!("{name} is {seconds:e}: use at most {MOST_SECONDS} seconds")))
        }
        Ok(limit) if !limit.is_zero() => Ok(limit),
        _ => Err(Error::invalid(format!("{name} is {seconds}: use a number of seconds above 0"))),
    }
}

fn texts(names: &[impl ToString]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}
