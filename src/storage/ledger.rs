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

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arrow::datatypes::SchemaRef;
use delta_kernel::committer::{CommitMetadata, CommitResponse, Committer, PublishMetadata};
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::history_manager::{HistoryCommitType, latest_version_as_of};
use delta_kernel::path::ParsedLogPath;
use delta_kernel::schema::StructType;
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{Engine, FileMeta, FilteredEngineData, KernelError, KernelResult, KernelResultIterator};
use delta_kernel_default_engine::DefaultEngine;
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use url::Url;

use super::cells::{CellFile, CellPlan};
use super::change::{Change, keeps_rows};
use super::clustering::{Clustering, Placement};
use super::commit_line::{CommitLine, Group};
use super::error::{LOST_HINT, is_cleaned_up, unreadable, unwritable};
use super::frame_state::{FrameState, is_same_table};
use super::history::{self, Commit, HistoryEntry};
use super::leafcutter::Cut;
use super::listing::{Cells, files_to_mark, files_to_remove, list_cells, live_paths};
use super::names::FrameRef;
use super::stats_columns::{STATS_COLUMNS, stats_columns, with_columns};
use super::vectors::Vectors;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Written into every commit as the engine's name.
pub const ENGINE: &str = concat!("apiary/", env!("CARGO_PKG_VERSION"));
/// URL that stands for the meadow's root inside the kernel and DataFusion; paths below it are the meadow's.
pub const ROOT_URL: &str = "apiary://meadow/";
/// Threads for blocking work that ledgers take at a time. What they wait for needs such threads, too: a runtime for ledgers
/// of a local folder must have more, or all wait for each other.
pub const LEDGER_THREADS: usize = 8;
/// Least commits between checkpoints: Delta's own default.
const CHECKPOINT_EVERY: u64 = 10;
/// Most commits between checkpoints, however large those are: they bound what a cold reader replays.
const CHECKPOINT_AT_LAST: u64 = 20;
/// What the entries since a checkpoint are of it at least, in bytes, before there is another one: frames of many cells
/// would spend more on checkpoints than on commits.
const CHECKPOINT_SHARE: f64 = 0.1;
/// Time after which a log is listed again, and not only asked for its next entry.
const LISTED_AGAIN: Duration = Duration::from_secs(600);
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
    /// The columns that its rows are kept in the order of.
    pub cluster_by: Vec<String>,
    /// Its newest version.
    pub version: u64,
    /// Its cells.
    pub cells: usize,
    /// Its rows, when every cell says how many it has.
    pub rows: Option<u64>,
    /// Bytes of its cells.
    pub bytes: u64,
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
    latest: Mutex<HashMap<FrameRef, Known>>,
    lines: Mutex<HashMap<FrameRef, Arc<CommitLine>>>,
    room: Arc<Semaphore>,
}

/// The newest version that is known of a frame.
struct Known {
    state: Arc<FrameState>,
    /// When the log was listed, or this version was made here; by both clocks, because one stands still while the machine
    /// sleeps, and the other may be set.
    seen: (Instant, SystemTime),
}

impl Known {
    /// Whether a look at the next entry tells whether there is one. Entries that are old are cleaned up: of a version that was
    /// seen long ago, the next one may be gone, too.
    fn is_fresh(&self) -> bool {
        let slept = self.seen.1.elapsed().unwrap_or(Duration::MAX);
        self.seen.0.elapsed().max(slept) < LISTED_AGAIN
    }
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
    pub async fn create(&self, frame: &FrameRef, schema: SchemaRef, placement: Placement) -> Result<()> {
        let frame = frame.clone();
        self.blocking(move |ledger| ledger.create_blocking(&frame, &schema, &placement)).await
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
        let list = |state: &Arc<FrameState>| {
            let listed = Arc::clone(state);
            self.blocking(move |ledger| list_cells(&listed, ledger.engine.as_ref()))
        };
        let cells = match list(state).await {
            Err(error) if is_cleaned_up(&error) => list(&self.again(state).await?).await?,
            cells => cells?,
        };
        Ok(Arc::clone(state.cells.get_or_init(|| Arc::new(cells))))
    }

    /// Whether others wrote rows without a value in a partition column.
    pub async fn has_null_partitions(&self, state: &Arc<FrameState>) -> Result<bool> {
        let cells = self.cells(state).await?;
        let values = |column: &String| cells.partition_values(state.name_in_cells(column));
        Ok(state.partition_by.iter().filter_map(values).any(|values| values.null_count() > 0))
    }

    /// The same version, by the files that its log has now: others may have cleaned up those by which it was read.
    async fn again(&self, state: &FrameState) -> Result<Arc<FrameState>> {
        self.forget(&state.frame);
        self.state(&state.frame, AsOf::Version(state.version())).await
    }

    /// Where and how cells of a frame are to be written.
    pub async fn cell_plan(&self, state: &Arc<FrameState>, cut: Cut) -> Result<CellPlan> {
        let planned = Arc::clone(state);
        self.blocking(move |ledger| {
            let transaction = planned
                .snapshot
                .clone()
                .update_table(UpdateTableOperation::Write, ENGINE, true)
                .build(ledger.engine.as_ref(), ledger.committer())
                .map_err(|error| unwritable(&planned.frame, error.into()))?;
            Ok(CellPlan {
                state: transaction.write_state()?,
                store: Arc::clone(&ledger.store),
                partition_by: planned.partition_by.clone(),
                local: ledger.local,
                cut,
                null_partitions: false,
                run: String::new(),
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

    /// The commits of the versions above `since`, up to `until`, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the log does not go back so far any more.
    pub async fn commits(&self, frame: &FrameRef, since: u64, until: u64) -> Result<Vec<Commit>> {
        history::between(self.inner.store.as_ref(), frame, since, until).await
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
    fn create_blocking(&self, frame: &FrameRef, schema: &SchemaRef, placement: &Placement) -> Result<()> {
        let Placement { partition_by, cluster_by, properties } = placement;
        let kernel_schema: StructType = schema.as_ref().try_into_kernel()?;
        let mut builder = create_table(table_url(frame)?, Arc::new(kernel_schema), ENGINE, false);
        if !partition_by.is_empty() {
            builder = builder.with_data_layout(DataLayout::partitioned(partition_by.to_vec()));
        }
        if let Some(columns) = stats_columns(schema, partition_by) {
            let columns = with_columns(&columns, cluster_by).unwrap_or(columns);
            builder = builder.with_table_properties([(STATS_COLUMNS, columns)]);
        }
        if !cluster_by.is_empty() {
            builder = builder.with_table_properties(Clustering::first(cluster_by));
        }
        builder = builder.with_table_properties(properties.iter().cloned());
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
        let (known, is_fresh) = match lock(&self.latest).get(frame) {
            Some(known) => (Some(Arc::clone(&known.state)), known.is_fresh()),
            None => (None, false),
        };
        if let Some(state) = known.as_ref().filter(|_| is_fresh)
            && self.is_newest(state)?
        {
            return Ok(Arc::clone(state));
        }
        let url = table_url(frame)?;
        let read = || match &known {
            Some(state) => Snapshot::builder_from(Arc::clone(&state.snapshot)).build(self.engine.as_ref()),
            None => Snapshot::builder_for(url.clone()).build(self.engine.as_ref()),
        };
        let snapshot = self.without_hint(frame, read).map_err(|e| self.explain(frame, e))?;
        let state = match known.filter(|state| state.version() == snapshot.version()) {
            Some(state) => state,
            None => Arc::new(FrameState::new(frame, snapshot)?),
        };
        self.remember(&state);
        Ok(state)
    }

    /// Reads a log again without a hint that names a checkpoint which is not there: it only saves a listing.
    fn without_hint(
        &self,
        frame: &FrameRef,
        read: impl Fn() -> KernelResult<SnapshotRef>,
    ) -> KernelResult<SnapshotRef> {
        let error = match read() {
            Err(error) if error.to_string().contains(LOST_HINT) => error,
            snapshot => return snapshot,
        };
        let hint = Path::from(frame.folder()).join("_delta_log").join("_last_checkpoint");
        let dropped = self.io.block_on(self.store.delete(&hint));
        tracing::warn!(%frame, ?dropped, "the last checkpoint is not where _last_checkpoint says, which is removed");
        match dropped {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => read(),
            Err(_) => Err(error),
        }
    }

    /// Whether there is no version after this one, and this one is still what it was: two looks cost less than a listing. A
    /// log that somebody made anew, or cleaned up, has another entry there, or none.
    fn is_newest(&self, state: &FrameState) -> Result<bool> {
        let files = &state.snapshot.log_segment().listed;
        let entry = files.ascending_commit_files.last().or(files.latest_commit_file.as_ref());
        let Some(size) = entry.filter(|entry| entry.version == state.version()).map(|entry| entry.location.size) else {
            return Ok(false);
        };
        let (this, next) = (state.version(), state.version() + 1);
        let [this, next] = [this, next].map(|version| history::commit_path(&state.frame, version));
        let (this, next) = self.io.block_on(async { futures::join!(self.store.head(&this), self.store.head(&next)) });
        match (this, next) {
            (Ok(this), Err(object_store::Error::NotFound { .. })) => Ok(this.size == size),
            (Ok(_), Err(error)) => Err(error.into()),
            _ => Ok(false),
        }
    }

    pub(super) fn at_version(&self, frame: &FrameRef, version: u64) -> Result<Arc<FrameState>> {
        let url = table_url(frame)?;
        let read = || Snapshot::builder_for(url.clone()).at_version(version).build(self.engine.as_ref());
        let snapshot = self.without_hint(frame, read).map_err(|e| {
            Error::not_found(format!("frame {frame} has no version {version} any more or yet: its history lists them"))
                .with_source(e)
        })?;
        Ok(Arc::new(FrameState::new(frame, snapshot)?))
    }

    pub(super) fn at_time(&self, frame: &FrameRef, time: i64) -> Result<Arc<FrameState>> {
        let latest = self.latest(frame)?;
        let at = latest_version_as_of(&latest.snapshot, self.engine.as_ref(), time, HistoryCommitType::Recreatable);
        let at = at.map_err(|e| {
            let e = Error::from(e);
            if e.kind() == ErrorKind::Corrupt {
                return e.context(format_args!("frame {frame}"));
            }
            let moment = chrono::DateTime::from_timestamp_millis(time);
            let moment = moment.map_or_else(|| format!("{time} ms since 1970"), |m| m.format("%F %T UTC").to_string());
            Error::not_found(format!("frame {frame} has no version at {moment}: its history begins later"))
                .with_source(e)
        })?;
        self.at_version(frame, at.version)
    }

    fn commit_blocking(&self, base: &Arc<FrameState>, cells: &[CellFile], change: &Change) -> Result<Arc<FrameState>> {
        let Some(marked) = change.marked().filter(|marked| !marked.is_empty()) else {
            return self.commit_with(base, cells, change, &Vectors::default());
        };
        let vectors = self.write_vectors(&base.frame, marked)?;
        let committed = self.commit_with(base, cells, change, &vectors);
        // One whose outcome is unknown may have landed: its files stay.
        if committed.as_ref().is_err_and(|e| !matches!(e.kind(), ErrorKind::Closed | ErrorKind::Storage)) {
            self.remove_vectors(&vectors);
        }
        committed
    }

    fn commit_with(
        &self,
        base: &Arc<FrameState>,
        cells: &[CellFile],
        change: &Change,
        vectors: &Vectors,
    ) -> Result<Arc<FrameState>> {
        let mut removed = match change {
            Change::Append | Change::Once(_) => Cow::default(),
            Change::Overwrite => {
                let live = live_paths(&base.snapshot, self.engine.as_ref());
                Cow::Owned(live.map_err(|error| self.unless_cleaned_up(&base.frame, error))?)
            }
            Change::Replace(_, replaced) => Cow::Borrowed(&replaced.removed),
        };
        let mut snapshot = Arc::clone(&base.snapshot);
        if change.changes_rows() && !(removed.is_empty() && vectors.of.is_empty()) {
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
            match self.try_commit(&base.frame, &snapshot, cells, change, (&removed, vectors))? {
                Some(committed) => return self.committed(base, committed),
                None => pause(backoff(attempt)),
            }
            let newer = Snapshot::builder_from(Arc::clone(&snapshot)).build(self.engine.as_ref())?;
            let touches = |cell: &String| removed.contains(cell) || vectors.of.contains_key(cell);
            if self.check_conflict(base, snapshot.version(), &newer, change, touches)? {
                // All rows go: those that were only written together meanwhile go with the others.
                removed = Cow::Owned(live_paths(&newer, self.engine.as_ref())?);
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
        frame: &FrameRef,
        snapshot: &SnapshotRef,
        cells: &[CellFile],
        change: &Change,
        (removed, vectors): (&HashSet<String>, &Vectors),
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
            let files = files_to_remove(snapshot, self.engine.as_ref(), removed);
            for files in files.map_err(|error| self.unless_cleaned_up(frame, error))? {
                transaction.remove_files(files);
            }
        }
        if !vectors.of.is_empty() {
            let files = files_to_mark(snapshot, self.engine.as_ref(), |cell| vectors.of.contains_key(cell));
            let files = files.map_err(|error| self.unless_cleaned_up(frame, error))?;
            transaction.update_deletion_vectors(vectors.of.clone(), files.into_iter().map(Ok))?;
        }
        let damaged = |error: Error| match error.kind() {
            ErrorKind::Corrupt => error.context(format_args!("frame {frame}")),
            _ => error,
        };
        match transaction.commit(self.engine.as_ref()).map_err(|error| damaged(error.into()))? {
            CommitResult::Committed(committed) => Ok(Some(committed)),
            CommitResult::Conflicted(_) => Ok(None),
            CommitResult::Retryable(failed) => {
                tracing::debug!(error = %failed.error, "a commit is tried again");
                Ok(None)
            }
        }
    }

    /// The error of reading a log before a commit; nothing is lost when it was cleaned up under us.
    fn unless_cleaned_up(&self, frame: &FrameRef, error: Error) -> Error {
        if !is_cleaned_up(&error) {
            return error;
        }
        lock(&self.latest).remove(frame);
        Error::conflict(format!(
            "old entries of {frame} were cleaned up meanwhile, and nothing was committed: try again"
        ))
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
        let files = &snapshot.log_segment().listed;
        let bytes = |paths: &[ParsedLogPath]| paths.iter().map(|path| path.location.size).sum::<u64>() as f64;
        let (entries, checkpoint) = (bytes(&files.ascending_commit_files), bytes(&files.checkpoint_parts));
        let is_due = commits_since >= CHECKPOINT_EVERY && entries >= checkpoint * CHECKPOINT_SHARE;
        if !is_due && commits_since < CHECKPOINT_AT_LAST {
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

    /// Looks at the commits after version `seen`, to which the change has been found to fit already; whether an overwrite has
    /// to find out anew which cells there are.
    fn check_conflict(
        &self,
        base: &FrameState,
        seen: u64,
        newer: &SnapshotRef,
        change: &Change,
        touches: impl Fn(&String) -> bool,
    ) -> Result<bool> {
        let frame = &base.frame;
        if !is_same_table(newer, &base.snapshot) {
            return Err(Error::conflict(format!(
                "the schema or settings of {frame} changed during this write: write again"
            )));
        }
        let overwrites = matches!(change, Change::Overwrite);
        if !change.removes() && !change.decided_by_rows() {
            return Ok(false);
        }
        let mut compacted = false;
        for version in seen + 1..=newer.version() {
            let commit = self.io.block_on(Commit::read(self.store.as_ref(), frame, version))?;
            if change.decided_by_rows() && !keeps_rows(&commit) {
                return Err(Error::conflict(format!(
                    "version {version} of {frame} changed rows that this statement decided by: run it again"
                )));
            }
            // Even one that is there again: others mark rows as deleted so.
            let replaced = commit.removed.iter().any(&touches);
            if overwrites && keeps_rows(&commit) {
                compacted |= replaced;
            } else if replaced || overwrites {
                return Err(Error::conflict(format!(
                    "version {version} of {frame} changed rows that this write replaces: read it and write again"
                )));
            }
        }
        Ok(compacted)
    }

    fn remember(&self, state: &Arc<FrameState>) {
        let mut latest = lock(&self.latest);
        let is_older = latest.get(&state.frame).is_some_and(|known| known.state.version() > state.version());
        if !is_older {
            let seen = (Instant::now(), SystemTime::now());
            latest.insert(state.frame.clone(), Known { state: Arc::clone(state), seen });
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
        unreadable(frame, error.into())
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

/// What the ledger's names of a frame's cells are relative to.
pub(super) fn frame_root(frame: &FrameRef) -> Result<Url> {
    Url::parse(&table_url(frame)?).map_err(|e| Error::internal(e.to_string()))
}

fn table_url(frame: &FrameRef) -> Result<String> {
    Ok(format!("{ROOT_URL}{}/", frame.folder()))
}
