//! What several tests need: colonies that clean up after themselves, rows in and out, and patience.

use std::ops::{Deref, Range};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiary::storage::StorageBackend;
use apiary::{AsOf, Colony, ColonyStatus, ErrorKind, FrameRef, QueryStats, Settings, WriteMode, WriteResult};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use object_store::ObjectStore;
use tempfile::TempDir;

/// Longest wait for something that is bound to happen: far above what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that is removed when it is dropped.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A small node on `folder`.
pub(crate) fn settings(folder: &TempDir) -> Settings {
    small(Settings::new(folder.path().to_string_lossy()))
}

/// `settings` with two bees of 128 MB each, which commit nothing by themselves.
pub(crate) fn small(settings: Settings) -> Settings {
    settings.with_bees(2).with_memory(256 << 20).with_housekeeping(false)
}

/// A colony that is shut down when it is dropped, and that fails a test which leaves work on its bees.
pub(crate) struct Running(Colony);

impl Deref for Running {
    type Target = Colony;

    fn deref(&self) -> &Colony {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let rested = std::thread::panicking() || comes_to_rest(&self.0);
        self.0.shutdown().unwrap();
        assert!(rested, "the test left work on the bees");
    }
}

/// Starts a colony.
pub(crate) fn start(settings: Settings) -> Running {
    start_with(settings, Vec::new())
}

/// Starts a colony whose SQL has `functions`.
pub(crate) fn start_with(settings: Settings, functions: Vec<Arc<ScalarUDF>>) -> Running {
    Running(Colony::start_with(settings, functions).unwrap())
}

/// How a colony is now.
pub(crate) fn status(colony: &Colony) -> ColonyStatus {
    futures::executor::block_on(colony.status()).unwrap()
}

/// Whether the colony has nothing to do.
pub(crate) fn is_idle(colony: &Colony) -> bool {
    let status = status(colony);
    status.bees_busy == 0 && status.queries_running == 0
}

fn comes_to_rest(colony: &Colony) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_idle(colony) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    is_idle(colony)
}

/// Waits for `condition`, which is bound to become true.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does the same on two colonies at once.
pub(crate) fn both<T: Send>(a: &Colony, b: &Colony, work: impl Fn(&Colony) -> T + Sync) -> [T; 2] {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(b));
        let first = work(a);
        [first, other.join().unwrap()]
    })
}

/// The answer to a statement.
pub(crate) fn ask(colony: &Colony, sql: &str) -> apiary::Result<Vec<RecordBatch>> {
    colony.block_on(async { colony.sql(sql).await?.collect().await })
}

/// The answer to a statement that must succeed.
pub(crate) fn run(colony: &Colony, sql: &str) -> Vec<RecordBatch> {
    ask(colony, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// The answer to a statement, and what it cost.
pub(crate) fn answer(colony: &Colony, sql: &str) -> (Vec<RecordBatch>, QueryStats) {
    colony.block_on(async {
        let mut stream = colony.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.unwrap_or_else(|error| panic!("{sql}: {error}")));
        }
        (batches, stream.stats())
    })
}

/// The kind of an error that was wanted.
pub(crate) fn refusal<T>(result: apiary::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded and should have failed"),
        Err(error) => error.kind(),
    }
}

/// A frame by its name, in `default.default` unless it says otherwise.
pub(crate) fn name(frame: &str) -> FrameRef {
    frame.parse().unwrap()
}

/// Writes one batch with one commit.
pub(crate) fn write(colony: &Colony, frame: &str, batch: RecordBatch, mode: WriteMode) -> apiary::Result<WriteResult> {
    colony.block_on(colony.write(&name(frame), rows(vec![batch]), mode))
}

/// The sorted integers in the first column of a frame's version.
pub(crate) fn read(colony: &Colony, frame: &str, as_of: AsOf) -> apiary::Result<Vec<i64>> {
    let frame = name(frame);
    let batches = colony.block_on(async { colony.read(&frame, None, as_of).await?.collect().await })?;
    let mut values = integers(&batches, 0);
    values.sort_unstable();
    Ok(values)
}

/// The integers in the first column of a frame now, sorted.
pub(crate) fn values(colony: &Colony, frame: &str) -> Vec<i64> {
    read(colony, frame, AsOf::Latest).unwrap()
}

/// Batches as a writer takes them.
pub(crate) fn rows(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let schema = batches[0].schema();
    let stream = futures::stream::iter(batches.into_iter().map(Ok::<RecordBatch, DataFusionError>));
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// One nullable column `x` of integers.
pub(crate) fn numbers(range: Range<i64>) -> RecordBatch {
    batch(vec![("x", Arc::new(Int64Array::from_iter_values(range)) as ArrayRef)])
}

/// A batch of nullable columns.
pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

/// The values of a column without nulls that holds some kind of integers.
pub(crate) fn integers(batches: &[RecordBatch], index: usize) -> Vec<i64> {
    let of_batch = |batch: &RecordBatch| {
        let column = cast(batch.column(index), &DataType::Int64).unwrap();
        column.as_primitive::<Int64Type>().values().to_vec()
    };
    batches.iter().flat_map(of_batch).collect()
}

/// How many files below `folder` have `part` in their names.
pub(crate) fn files(folder: &Path, part: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files(&entry.path(), part),
        false => usize::from(entry.file_name().to_string_lossy().contains(part)),
    };
    entries.map(|entry| count(entry.unwrap())).sum()
}

/// A store as a place.
#[derive(Debug)]
pub(crate) struct Place(pub(crate) Arc<dyn ObjectStore>);

impl StorageBackend for Place {
    fn location(&self) -> String {
        "test".into()
    }

    fn is_local(&self) -> bool {
        true
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0)
    }
}

/// Runs `test`, the body of the test called `name`, in a process of its own: for tests that look at the whole process.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "APIARY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{complaint}");
}
