//! A frame's ledger: its Delta log, read and advanced.
//!
//! delta_kernel replays the log, checks the protocol and writes checkpoints; what is here is the commit discipline:
//!
//! - Readers see one version: a [`FrameState`] never changes.
//! - A commit is one conditional create of `_delta_log/<version>.json`. Whoever loses the race takes the newer version,
//!   checks whether what happened in between touches its own work, and tries again with jittered backoff.
//! - Two appends both land. An overwrite lands beside appends (whose rows then come after it), and conflicts with a
//!   commit that removed one of the cells it removes, or that changed the schema.
//! - A lost acknowledgement is settled by reading back: every commit holds ids that no other has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use delta_kernel::committer::{CommitMetadata, CommitResponse, Committer, PublishMetadata};
use delta_kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::history_manager::{HistoryCommitType, latest_version_as_of};
use delta_kernel::schema::{ArrayType, DataType as KernelType, MapType, MetadataValue, StructField, StructType};
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use delta_kernel::table_features::ColumnMappingMode;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{Engine, FileMeta, FilteredEngineData, KernelError, KernelResult, KernelResultIterator};
use delta_kernel_default_engine::DefaultEngine;
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use url::Url;

use super::alter::{Check, PHYSICAL_NAME, checks};
use super::cells::{CellFile, CellPlan};
use super::change::{Change, keeps_rows};
use super::commit_line::{CommitLine, Group};
use super::history::{self, Commit, HistoryEntry};
use super::leafcutter::Cut;
use super::listing::{Cells, files_to_remove, list_cells, live_paths};
use super::log_cleanup::LOG_RETENTION;
use super::names::FrameRef;
use super::vacuum::RETENTION;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Written into every commit as the engine's name.
pub const ENGINE: &str = concat!("apiary/", env!("CARGO_PKG_VERSION"));
/// URL that stands for the meadow's root inside the kernel and DataFusion; paths below it are the meadow's.
pub const ROOT_URL: &str = "apiary://meadow/";
/// Threads for blocking work that ledgers take at a time. What they wait for needs such threads, too: a runtime for ledgers
/// of a local folder must have more, or all wait for each other.
pub const LEDGER_THREADS: usize = 8;
/// Commits between checkpoints: Delta's own default, which bounds what a cold reader replays.
const CHECKPOINT_EVERY: u64 = 10;
/// Tries at one commit: eight writers that never pause need a few dozen; beyond it something else is wrong.
pub(super) const MAX_TRIES: u32 = 100;
/// Longest pause between tries: a few commits long, so that a writer who lost often is not kept waiting by those who won.
const MAX_BACKOFF: Duration = Duration::from_millis(64);

/// Which version of a frame is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AsOf {
    /// The newest when the query is planned.
    #[default]
    Latest,
    /// That version.
    Version(u64),
    /// The newest at that time, in milliseconds since the epoch.
    Timestamp(i64),
}

/// What a write does with the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Keeps them.
    Append,
    /// Replaces them all.
    Overwrite,
}

/// What a write did.
#[derive(Debug, Clone, Serialize)]
pub struct WriteResult {
    /// The version it made.
    pub version: u64,
    /// Rows written.
    pub rows: u64,
    /// Cells written.
    pub cells: usize,
    /// Bytes of those cells.
    pub bytes: u64,
    /// The node's temperature, 0..=1, when it ended.
    pub temperature: f64,
}

/// A frame as `DESCRIBE` shows it.
#[derive(Debug, Clone)]
pub struct FrameInfo {
    /// Its name.
    pub name: FrameRef,
    /// Where its cells and ledger are.
    pub location: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its partition columns.
    pub partition_by: Vec<String>,
    /// Its newest version.
    pub version: u64,
    /// Its cells.
    pub cells: usize,
    /// Its rows, when every cell says how many it has.
    pub rows: Option<u64>,
    /// Bytes of its cells.
    pub bytes: u64,
}

/// One version of a frame. Cheap to share; its cells are listed on first use.
#[derive(Debug)]
pub struct FrameState {
    /// The frame.
    pub frame: FrameRef,
    /// Its columns in order, partition columns included.
    pub schema: SchemaRef,
    /// Its partition columns.
    pub partition_by: Vec<String>,
    /// The conditions that its rows must not fail.
    pub checks: Vec<Check>,
    /// What its cells call its columns, where that is something else.
    physical: HashMap<String, String>,
    pub(super) snapshot: SnapshotRef,
    cells: OnceLock<Arc<Cells>>,
}

impl FrameState {
    fn new(frame: &FrameRef, snapshot: SnapshotRef) -> Result<Self> {
        let schema: Schema = snapshot.schema().as_ref().try_into_arrow()?;
        let table = snapshot.table_configuration();
        let partition_by = table.logical_partition_columns().to_vec();
        let checks = checks(table.metadata().configuration());
        let physical = match table.column_mapping_mode() {
            ColumnMappingMode::None => HashMap::new(),
            ColumnMappingMode::Name => physical_names(&snapshot.schema())?,
            ColumnMappingMode::Id => {
                return Err(Error::unsupported(format!(
                    "frame {frame} tells columns apart by number (column mapping mode 'id'), which this version cannot read"
                )));
            }
        };
        let schema = Arc::new(bare_schema(&schema));
        Ok(Self { frame: frame.clone(), schema, partition_by, checks, physical, snapshot, cells: OnceLock::new() })
    }

    /// What its cells and their statistics call a column.
    pub fn name_in_cells<'a>(&'a self, column: &'a str) -> &'a str {
        self.physical.get(column).map_or(column, String::as_str)
    }

    /// Whether its cells call columns something else.
    pub fn has_other_names(&self) -> bool {
        !self.physical.is_empty()
    }

    /// What its table properties say of how long removed cells and log entries are kept; `None` for log entries that
    /// are never to be cleaned up.
    pub fn retention(&self) -> (Duration, Option<Duration>) {
        let properties = self.snapshot.table_properties();
        let cells = properties.deleted_file_retention_duration.unwrap_or(RETENTION);
        let cleans = properties.enable_expired_log_cleanup != Some(false);
        (cells, cleans.then(|| properties.log_retention_duration.unwrap_or(LOG_RETENTION)))
    }

    /// What the table is known by, whatever its name: another id is another table.
    pub fn id(&self) -> &str {
        self.snapshot.table_configuration().metadata().id()
    }

    /// Whether it has the same columns and settings as another version of the frame.
    pub(super) fn is_table_of(&self, other: &Self) -> bool {
        is_same_table(&self.snapshot, &other.snapshot)
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }
}

type KernelEngine = DefaultEngine<TokioMultiThreadExecutor>;

/// The ledgers of one meadow.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) engine: Arc<KernelEngine>,
    pub(super) io: Handle,
    local: bool,
    latest: Mutex<HashMap<FrameRef, Arc<FrameState>>>,
    lines: Mutex<HashMap<FrameRef, Arc<CommitLine>>>,
    room: Arc<Semaphore>,
}

impl Ledger {
    /// Ledgers in `store`; their work runs on `io`.
    pub fn new(store: Arc<dyn ObjectStore>, local: bool, io: Handle) -> Self {
        let executor = Arc::new(TokioMultiThreadExecutor::new(io.clone()));
        let engine = DefaultEngineBuilder::new(Arc::clone(&store)).with_task_executor(executor).build();
        let room = Arc::new(Semaphore::new(LEDGER_THREADS));
        let inner = Inner {
            store,
            engine: Arc::new(engine),
            io,
            local,
            latest: Mutex::default(),
            lines: Mutex::default(),
            room,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes version 0 of a frame.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the folder has a ledger.
    pub async fn create(&self, frame: &FrameRef, schema: SchemaRef, partition_by: Vec<String>) -> Result<()> {
        let frame = frame.clone();
        self.blocking(move |ledger| ledger.create_blocking(&frame, &schema, &partition_by)).await
    }

    /// One version of a frame.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the frame has no ledger or not that version;
    /// [`ErrorKind::Unsupported`] when it uses a Delta feature that cannot be read, by name.
    pub async fn state(&self, frame: &FrameRef, as_of: AsOf) -> Result<Arc<FrameState>> {
        let frame = frame.clone();
        self.blocking(move |ledger| match as_of {
            AsOf::Latest => ledger.latest(&frame),
            AsOf::Version(version) => ledger.at_version(&frame, version),
            AsOf::Timestamp(time) => ledger.at_time(&frame, time),
        })
        .await
    }

    /// The cells of a version.
    pub async fn cells(&self, state: &Arc<FrameState>) -> Result<Arc<Cells>> {
        if let Some(cells) = state.cells.get() {
            return Ok(Arc::clone(cells));
        }
        let listed = Arc::clone(state);
        let cells = self.blocking(move |ledger| list_cells(&listed, ledger.engine.as_ref())).await?;
        Ok(Arc::clone(state.cells.get_or_init(|| Arc::new(cells))))
    }

    /// Where and how cells of a frame are to be written.
    pub async fn cell_plan(&self, state: &Arc<FrameState>, cut: Cut) -> Result<CellPlan> {
        let planned = Arc::clone(state);
        self.blocking(move |ledger| {
            let transaction = planned
                .snapshot
                .clone()
                .update_table(UpdateTableOperation::Write, ENGINE, true)
                .build(ledger.engine.as_ref(), ledger.committer())?;
            Ok(CellPlan {
                state: transaction.write_state()?,
                store: Arc::clone(&ledger.store),
                partition_by: planned.partition_by.clone(),
                local: ledger.local,
                cut,
            })
        })
        .await
    }

    /// Puts `cells` into the frame and gives back the new version.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another commit is in the way, by the table of [`super::change`];
    /// [`ErrorKind::AlreadyExists`] for a [`Change::Once`] that has landed.
    pub async fn commit(
        &self,
        base: &Arc<FrameState>,
        cells: Vec<CellFile>,
        change: Change,
    ) -> Result<Arc<FrameState>> {
        let line = self.line(&base.frame);
        if matches!(change, Change::Append) {
            return line.append(base, cells, |group| self.settle(group)).await;
        }
        let _only_one_of_this_colony = line.turn().await;
        let base = Arc::clone(base);
        self.blocking(move |ledger| ledger.commit_blocking(&base, &cells, &change)).await
    }

    async fn settle(&self, group: Group) {
        let settled = self.blocking(move |ledger| {
            group.settle(|base, cells| ledger.commit_blocking(base, cells, &Change::Append));
            Ok(())
        });
        if let Err(error) = settled.await {
            // Who waits is told that nobody knows.
            tracing::error!(%error, "a commit's thread ended");
        }
    }

    /// The number of the last commit of a writer that a version has; 0 when it has none.
    pub async fn transaction(&self, state: &Arc<FrameState>, app: &str) -> Result<i64> {
        let (state, app) = (Arc::clone(state), app.to_string());
        self.blocking(move |ledger| ledger.transaction(&state.snapshot, &app)).await
    }

    /// The newest `limit` commits, newest first.
    pub async fn history(&self, frame: &FrameRef, limit: Option<usize>) -> Result<Vec<HistoryEntry>> {
        history::read(self.inner.store.as_ref(), frame, limit).await
    }

    /// Forgets what is remembered of a frame that was dropped.
    pub fn forget(&self, frame: &FrameRef) {
        lock(&self.inner.latest).remove(frame);
    }

    pub(super) fn line(&self, frame: &FrameRef) -> Arc<CommitLine> {
        Arc::clone(lock(&self.inner.lines).entry(frame.clone()).or_default())
    }

    /// The kernel's engine is synchronous: its work goes to the I/O runtime's blocking threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let room = Arc::clone(&inner.room).acquire_owned().await.map_err(|e| Error::internal(e.to_string()))?;
        let work = move || {
            // Whoever waits for it may go away; the thread stays taken.
            let _room = room;
            work(&inner)
        };
        self.inner.io.spawn_blocking(work).await?
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("store", &self.inner.store).finish_non_exhaustive()
    }
}

impl Inner {
    fn create_blocking(&self, frame: &FrameRef, schema: &SchemaRef, partition_by: &[String]) -> Result<()> {
        let kernel_schema: StructType = schema.as_ref().try_into_kernel()?;
        let mut builder = create_table(table_url(frame)?, Arc::new(kernel_schema), ENGINE, false);
        if !partition_by.is_empty() {
            builder = builder.with_data_layout(DataLayout::partitioned(partition_by.to_vec()));
        }
        match builder.build(self.engine.as_ref(), self.committer())?.commit(self.engine.as_ref())? {
            CommitResult::Committed(_) => Ok(()),
            CommitResult::Conflicted(_) => Err(Error::already_exists(format!("frame {frame} has a ledger already"))),
            CommitResult::Retryable(failed) => Err(failed.error.into()),
        }
    }

    fn transaction(&self, snapshot: &SnapshotRef, app: &str) -> Result<i64> {
        Ok(snapshot.get_app_id_version(app, self.engine.as_ref())?.unwrap_or(0))
    }

    pub(super) fn latest(&self, frame: &FrameRef) -> Result<Arc<FrameState>> {
        let known = lock(&self.latest).get(frame).cloned();
        let snapshot = match &known {
            Some(state) => Snapshot::builder_from(Arc::clone(&state.snapshot)).build(self.engine.as_ref()),
            None => Snapshot::builder_for(table_url(frame)?).build(self.engine.as_ref()),
        };
        let snapshot = snapshot.map_err(|e| self.explain(frame, e))?;
        if let Some(state) = known.filter(|state| state.version() == snapshot.version()) {
            return Ok(state);
        }
        let state = Arc::new(FrameState::new(frame, snapshot)?);
        self.remember(&state);
        Ok(state)
    }

    pub(super) fn at_version(&self, frame: &FrameRef, version: u64) -> Result<Arc<FrameState>> {
        let snapshot = Snapshot::builder_for(table_url(frame)?).at_version(version).build(self.engine.as_ref());
        let snapshot = snapshot.map_err(|e| {
            Error::not_found(format!("frame {frame} has no version {version} any more or yet: its history lists them"))
                .with_source(e)
        })?;
        Ok(Arc::new(FrameState::new(frame, snapshot)?))
    }

    pub(super) fn at_time(&self, frame: &FrameRef, time: i64) -> Result<Arc<FrameState>> {
        let latest = self.latest(frame)?;
        let at = latest_version_as_of(&latest.snapshot, self.engine.as_ref(), time, HistoryCommitType::Recreatable);
        let at = at.map_err(|e| {
            Error::not_found(format!(
                "frame {frame} has no version at {time} ms since the epoch: its history begins later"
            ))
            .with_source(e)
        })?;
        self.at_version(frame, at.version)
    }

    fn commit_blocking(&self, base: &Arc<FrameState>, cells: &[CellFile], change: &Change) -> Result<Arc<FrameState>> {
        let mut removed = match change {
            Change::Append | Change::Once(_) => Arc::default(),
            Change::Overwrite => Arc::new(live_paths(&base.snapshot, self.engine.as_ref())?),
            Change::Replace(_, removed) => Arc::clone(removed),
        };
        let mut snapshot = Arc::clone(&base.snapshot);
        if change.changes_rows() && !removed.is_empty() {
            require_removable(&snapshot)?;
        }
        for attempt in 0..MAX_TRIES {
            if let Change::Once(transaction) = change
                && self.transaction(&snapshot, &transaction.app)? >= transaction.number
            {
                // An earlier try of somebody who did not hear of it.
                return Err(Error::already_exists(format!(
                    "commit {} of this writer into {} has landed already",
                    transaction.number, base.frame
                )));
            }
            match self.try_commit(&snapshot, cells, change, &removed)? {
                Some(committed) => return self.committed(base, committed),
                None => pause(backoff(attempt)),
            }
            let newer = Snapshot::builder_from(Arc::clone(&snapshot)).build(self.engine.as_ref())?;
            match self.check_conflict(base, &newer, change, &removed) {
                // All rows go: those that were only written together meanwhile go with the others.
                Err(error) if error.kind() == ErrorKind::Conflict && self.only_compacted(base, &newer, change)? => {
                    removed = Arc::new(live_paths(&newer, self.engine.as_ref())?);
                }
                checked => checked?,
            }
            snapshot = newer;
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "frame {} took {MAX_TRIES} other commits while this one tried: write less often or in larger batches",
                base.frame
            ),
        ))
    }

    /// One try; `None` when another commit took the version.
    fn try_commit(
        &self,
        snapshot: &SnapshotRef,
        cells: &[CellFile],
        change: &Change,
        removed: &HashSet<String>,
    ) -> Result<Option<delta_kernel::transaction::CommittedTransaction>> {
        let rows: u64 = cells.iter().map(|c| c.rows).sum();
        let mut builder = Arc::clone(snapshot)
            .update_table(change.operation(), ENGINE, change.changes_rows())
            .with_operation_parameters(change.parameters())
            .with_operation_metrics([
                ("numOutputRows", Some(rows.to_string())),
                ("numFiles", Some(cells.len().to_string())),
            ]);
        if change.only_adds() {
            builder = builder.with_blind_append();
        }
        if let Change::Once(transaction) = change {
            builder = builder.with_transaction_id(&transaction.app, transaction.number);
        }
        let mut transaction = builder.build(self.engine.as_ref(), self.committer())?;
        for cell in cells {
            transaction.add_files(Box::new(ArrowEngineData::new(cell.entry.clone())));
        }
        if !removed.is_empty() {
            for files in files_to_remove(snapshot, self.engine.as_ref(), removed)? {
                transaction.remove_files(files);
            }
        }
        match transaction.commit(self.engine.as_ref())? {
            CommitResult::Committed(committed) => Ok(Some(committed)),
            CommitResult::Conflicted(_) => Ok(None),
            CommitResult::Retryable(failed) => {
                tracing::debug!(error = %failed.error, "a commit is tried again");
                Ok(None)
            }
        }
    }

    fn committed(
        &self,
        base: &FrameState,
        committed: delta_kernel::transaction::CommittedTransaction,
    ) -> Result<Arc<FrameState>> {
        let snapshot = match committed.post_commit_snapshot() {
            Some(snapshot) => Arc::clone(snapshot),
            None => Snapshot::builder_for(table_url(&base.frame)?).build(self.engine.as_ref())?,
        };
        let snapshot = self.checkpoint_when_due(snapshot, committed.post_commit_stats().commits_since_checkpoint);
        let state = Arc::new(FrameState::new(&base.frame, snapshot)?);
        self.remember(&state);
        Ok(state)
    }

    /// A checkpoint only makes later reads cheaper: one that fails is tried again by a later commit.
    fn checkpoint_when_due(&self, snapshot: SnapshotRef, commits_since: u64) -> SnapshotRef {
        if commits_since < CHECKPOINT_EVERY {
            return snapshot;
        }
        match snapshot.checkpoint(self.engine.as_ref(), None) {
            Ok((_, snapshot)) => snapshot,
            Err(error) => {
                tracing::warn!(%error, table = %snapshot.table_root(), "a checkpoint was not written");
                snapshot
            }
        }
    }

    fn check_conflict(
        &self,
        base: &FrameState,
        newer: &SnapshotRef,
        change: &Change,
        removed: &HashSet<String>,
    ) -> Result<()> {
        let frame = &base.frame;
        if !is_same_table(newer, &base.snapshot) {
            return Err(Error::conflict(format!(
                "the schema or settings of {frame} changed during this write: write again"
            )));
        }
        if removed.is_empty() && !change.decided_by_rows() {
            return Ok(());
        }
        for version in base.version() + 1..=newer.version() {
            let commit = self.io.block_on(Commit::read(self.store.as_ref(), frame, version))?;
            if change.decided_by_rows() && !keeps_rows(&commit.entry) {
                return Err(Error::conflict(format!(
                    "version {version} of {frame} changed rows that this statement decided by: run it again"
                )));
            }
            // Even one that is there again: others mark rows as deleted so.
            if commit.removed.iter().any(|path| removed.contains(path)) {
                return Err(Error::conflict(format!(
                    "version {version} of {frame} removed cells that this write replaces: read it and write again"
                )));
            }
        }
        Ok(())
    }

    /// Whether an overwrite is only in the way of compactions and appends.
    fn only_compacted(&self, base: &FrameState, newer: &SnapshotRef, change: &Change) -> Result<bool> {
        if !matches!(change, Change::Overwrite) || !is_same_table(newer, &base.snapshot) {
            return Ok(false);
        }
        for version in base.version() + 1..=newer.version() {
            let commit = self.io.block_on(Commit::read(self.store.as_ref(), &base.frame, version))?;
            if !keeps_rows(&commit.entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remember(&self, state: &Arc<FrameState>) {
        let mut latest = lock(&self.latest);
        let newer = latest.get(&state.frame).is_none_or(|known| known.version() < state.version());
        if newer {
            latest.insert(state.frame.clone(), Arc::clone(state));
        }
    }

    fn explain(&self, frame: &FrameRef, error: KernelError) -> Error {
        lock(&self.latest).remove(frame);
        let text = error.to_string();
        let missing =
            matches!(error, KernelError::FileNotFound(_) | KernelError::EmptyLog) || text.contains("No files in log");
        if missing {
            return Error::not_found(format!("frame {frame} has no ledger")).with_source(error);
        }
        Error::from(error).context(format!("the ledger of {frame} cannot be read"))
    }

    fn committer(&self) -> Box<dyn Committer> {
        Box::new(MeadowCommitter { store: Arc::clone(&self.store), io: self.io.clone() })
    }
}

/// Puts a commit's bytes into the log with one conditional create.
struct MeadowCommitter {
    store: Arc<dyn ObjectStore>,
    io: Handle,
}

impl Committer for MeadowCommitter {
    fn commit(
        &self,
        _engine: &dyn Engine,
        actions: KernelResultIterator<'_, FilteredEngineData>,
        metadata: CommitMetadata,
    ) -> KernelResult<CommitResponse> {
        let bytes = delta_kernel::engine::to_json_bytes(actions)?;
        let location = metadata.published_commit_path()?;
        let path = Path::from_url_path(location.path())?;
        let size = bytes.len() as u64;
        let created = self.io.block_on(super::backend::create(self.store.as_ref(), &path, bytes.into()));
        match created {
            Ok(true) => Ok(CommitResponse::Committed {
                file_meta: FileMeta::new(location, metadata.in_commit_timestamp(), size),
            }),
            Ok(false) => Ok(CommitResponse::Conflict { version: metadata.version() }),
            Err(error) => Err(KernelError::generic_err(error)),
        }
    }

    fn is_catalog_committer(&self) -> bool {
        false
    }

    fn publish(&self, _engine: &dyn Engine, _metadata: PublishMetadata) -> KernelResult<()> {
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "commits run on the I/O runtime's threads for blocking work")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Exponential from 2 ms with full jitter, so that losers of one race do not meet again.
pub(super) fn backoff(attempt: u32) -> Duration {
    let ceiling = Duration::from_millis(2u64 << attempt.min(8)).min(MAX_BACKOFF);
    ceiling.mul_f64(fastrand::f64())
}

/// Whether two versions are of one table, with the same columns and settings.
fn is_same_table(a: &SnapshotRef, b: &SnapshotRef) -> bool {
    let id = |snapshot: &SnapshotRef| snapshot.table_configuration().metadata().id().to_string();
    id(a) == id(b) && a.schema() == b.schema() && a.metadata_configuration() == b.metadata_configuration()
}

/// Refuses to take rows out of a table that only takes more.
///
/// # Errors
/// [`ErrorKind::Unsupported`].
pub(super) fn require_removable(snapshot: &SnapshotRef) -> Result<()> {
    match snapshot.table_properties().append_only {
        Some(true) => Err(Error::unsupported("the frame only takes new rows (delta.appendOnly): nothing was changed")),
        _ => Ok(()),
    }
}

/// What the cells call the columns, where that is something else.
fn physical_names(schema: &StructType) -> Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    for field in schema.fields() {
        let physical = physical_name(field);
        if physical != field.name() {
            names.insert(field.name().to_string(), physical.to_string());
        }
        if has_other_names(field.data_type()) {
            return Err(Error::unsupported(format!(
                "column '{}' has fields that its cells call something else (column mapping), which this version cannot read",
                field.name()
            )));
        }
    }
    Ok(names)
}

fn physical_name(field: &StructField) -> &str {
    match field.metadata().get(PHYSICAL_NAME) {
        Some(MetadataValue::String(name)) => name,
        _ => field.name(),
    }
}

fn has_other_names(data_type: &KernelType) -> bool {
    match data_type {
        KernelType::Struct(fields) => {
            fields.fields().any(|field| physical_name(field) != field.name() || has_other_names(field.data_type()))
        }
        KernelType::Array(array) => has_other_names(ArrayType::element_type(array)),
        KernelType::Map(map) => has_other_names(MapType::key_type(map)) || has_other_names(MapType::value_type(map)),
        _ => false,
    }
}

/// Without what delta_kernel notes of columns: batches of others do not have it.
fn bare_schema(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| bare(field)).collect::<Vec<_>>())
}

fn bare(field: &Field) -> Field {
    let within = |field: &Arc<Field>| Arc::new(bare(field));
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(within).collect()),
        DataType::List(item) => DataType::List(within(item)),
        DataType::Map(entries, sorted) => DataType::Map(within(entries), *sorted),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}

/// What the ledger's names of a frame's cells are relative to.
pub(super) fn frame_root(frame: &FrameRef) -> Result<Url> {
    Url::parse(&table_url(frame)?).map_err(|e| Error::internal(e.to_string()))
}

fn table_url(frame: &FrameRef) -> Result<String> {
    Ok(format!("{ROOT_URL}{}/", frame.folder()))
}
