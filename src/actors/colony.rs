//! The handle of a colony: start it, ask it, write through it, stop it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use actix_rt::ArbiterHandle;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::cache::cache_manager::{CacheManager, CacheManagerConfig};
use datafusion::logical_expr::ScalarUDF;
use serde::Serialize;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::bee::BeeCore;
use super::chamber::{CellSource, Combs};
use super::channel::{BeeChannels, BeeSlot};
use super::foreign::Following;
use super::gather::Gathering;
use super::guard::{Budget, guard};
use super::heartbeat::{Heart, HeartbeatActor, NodeInfo};
use super::housekeeper::{House, HousekeeperActor};
use super::lead::until_stopped;
use super::ledger::LedgerHandle;
use super::query::{Asked, Queries, QueryStream};
use super::scout::ScoutSlot;
use super::scratch::{Scratch, Spill};
use super::session::Session;
use super::settings::{Settings, state_folder};
use super::stream::{FrameStream, StreamSettings, Streams};
use super::supervisor::{ColonyActor, StopBees};
use super::temperature::{Band, Thermometer};
use super::wear::{DiskWritten, Wear};
use super::world::NodeWorld;
use super::write::{WriteOptions, evolved, write_frame};
use crate::sql::{Backpressure, Planner, Split, bounded, long_list, rewrites, z_order};
use crate::storage::cached::{CacheStats, CellCache};
use crate::storage::cells::CellFile;
use crate::storage::ledger::LEDGER_THREADS;
use crate::storage::{
    AsOf, BoxName, FrameInfo, FrameRef, HistoryEntry, HiveName, Meadow, Placement, WriteMode, WriteResult,
};
use crate::sync::lock;
use crate::{Error, Result};

/// Threads of the runtime that talks to storage: requests wait, they do not compute.
const IO_THREADS: usize = 2;
/// Threads for blocking ledger work, and as many for the local files that it waits for.
const IO_BLOCKING_THREADS: usize = 2 * LEDGER_THREADS;
/// Encoded bytes that one bee scans and works on in a second: what TPC-H's queries take on a small core.
const SCAN_RATE: f64 = 100e6;
/// What sharing a query costs beside its requests: encoding plans, waiting for looks.
const SHARING: Duration = Duration::from_millis(500);
/// Requests of a shared query that wait for each other.
const SHARING_REQUESTS: u32 = 12;
/// How long a stopping colony waits for running queries after it has cancelled them.
const DRAIN: Duration = Duration::from_secs(5);

/// A node: its bees, its meadow, its limits. Cheap to clone; the colony stops when the last handle is dropped.
#[derive(Clone)]
pub struct Colony {
    core: Arc<Core>,
    life: Arc<Life>,
}

/// What `Colony::status` tells.
#[derive(Debug, Clone, Serialize)]
pub struct ColonyStatus {
    /// The node's name.
    pub name: String,
    /// Where the meadow is.
    pub storage: String,
    /// Its bees.
    pub bees: usize,
    /// Bees that have work.
    pub bees_busy: usize,
    /// Bytes for all bees together.
    pub memory: u64,
    /// Bytes that operators hold now.
    pub memory_used: u64,
    /// How loaded it is, smoothed, 0..=1.
    pub temperature: f64,
    /// What it does at that temperature.
    pub band: Band,
    /// Queries that run.
    pub queries_running: usize,
    /// Queries that wait.
    pub queries_waiting: usize,
    /// Queries that have ended.
    pub queries_done: u64,
    /// How often each bee has been started.
    pub generation: Vec<u64>,
    /// Requests to storage so far.
    pub requests: u64,
    /// Those of them that were second requests for what took long.
    pub hedges: u64,
    /// Bytes asked from storage so far.
    pub bytes_read: u64,
    /// Bytes handed to storage so far.
    pub bytes_written: u64,
    /// What it keeps of remote cells, and how often that answered.
    pub cache: CacheStats,
    /// Bytes written to the local disk since the start.
    pub disk_written: DiskWritten,
}

/// What all parts of a colony share.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) meadow: Meadow,
    pub(crate) planner: Planner,
    /// Whether other nodes can run its plans: they do not have an embedder's functions.
    pub(crate) shareable: bool,
    pub(crate) slots: Vec<Arc<BeeSlot>>,
    pub(crate) queries: Arc<Queries>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) scout: ScoutSlot,
    pub(crate) house: Arc<House>,
    pub(crate) gathering: Gathering,
    _budget: Budget,
    /// What was written to the local disk.
    pub(crate) wear: Arc<Wear>,
    scratch: Mutex<Option<Scratch>>,
    /// Bytes that stages may still hand on through it.
    pub(crate) for_stages: Arc<AtomicI64>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) thermometer: Thermometer,
    pub(crate) token: CancellationToken,
    /// What this node tells and knows of the swarm.
    pub(crate) heart: Arc<Heart>,
    /// Queries of other nodes that have work here.
    pub(crate) following: Following,
    /// Places for tasks of shared queries: one on each bee.
    pub(crate) places: Semaphore,
    /// Attempts that each bee has.
    attempts: Mutex<Vec<usize>>,
    /// Clearing up that goes on after a query.
    leftovers: Mutex<JoinSet<()>>,
    ledger: OnceLock<LedgerHandle>,
    io: IoRuntime,
}

/// A runtime that may be dropped anywhere, also inside another runtime.
struct IoRuntime(Option<Runtime>, Handle);

impl Drop for IoRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl IoRuntime {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .max_blocking_threads(IO_BLOCKING_THREADS)
            .thread_name("apiary-io")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }
}

/// An attempt's place on a bee, while it lives.
pub(crate) struct AttemptPlace<'a> {
    core: &'a Core,
    bee: usize,
}

impl Drop for AttemptPlace<'_> {
    fn drop(&mut self) {
        lock(&self.core.attempts)[self.bee] -= 1;
    }
}

impl Core {
    async fn open(settings: Settings, functions: Vec<Arc<ScalarUDF>>, io: IoRuntime) -> Result<Arc<Self>> {
        let meadow = Meadow::open(&settings.storage, &settings.storage_options, io.1.clone()).await?;
        let queries = Arc::new(Queries::default());
        let (house, budget) = (House::new(&meadow), Budget::of(settings.node_memory()));
        let shareable = functions.is_empty();
        let bounded = bounded::functions(settings.bee_memory() / 4);
        let ours = bounded.into_iter().chain(rewrites::functions()).chain([long_list::function(), z_order::function()]);
        let functions = ours.chain(functions).collect::<Vec<_>>();
        let channels = Arc::new(BeeChannels::new(Arc::clone(&queries)));
        let cells = cell_source(&settings, &meadow).await?;
        let cache = cells.cache.as_ref().map(|(cache, _)| Arc::clone(cache));
        let for_stages = Arc::new(AtomicI64::new(i64::try_from(settings.scratch_limit).unwrap_or(i64::MAX)));
        let scratch = match settings.spill {
            Spill::None => None,
            Spill::Disk => Some(Scratch::new(&settings.scratch.clone().unwrap_or_else(std::env::temp_dir))?),
        };
        let wear = Arc::new(Wear::new(settings.disk_writes_per_day, settings.scratch.clone().or_else(state_folder)));
        let slots =
            bees(&settings, scratch.as_ref().map(Scratch::path), &wear, cells, &queries, &channels, &functions)?;
        channels.install(slots.clone());
        let split = Split {
            bees: settings.bee_count(),
            partitions: settings.partitions,
            partition_bytes: settings.partition_bytes,
            channels,
        };
        let heart = Arc::new(Heart::new(&settings, &meadow, cache)?);
        let streams = Arc::new(Streams::default());
        let world = Arc::new(NodeWorld::new(
            Arc::clone(&heart),
            Arc::clone(&queries),
            Arc::clone(&streams),
            slots.clone(),
            // As the place names itself: without what may be secret.
            Settings { storage: meadow.backend().location(), ..settings.clone() },
        ));
        let planner = Planner::new(meadow.clone(), split, functions, world)?;
        let running = settings.max_queries.unwrap_or(4 * settings.bee_count());
        let admission = Admission::new(running, settings.queue);
        Ok(Arc::new(Self {
            places: Semaphore::new(settings.bee_count()),
            attempts: Mutex::new(vec![0; settings.bee_count()]),
            settings,
            meadow,
            planner,
            shareable,
            slots,
            queries,
            streams,
            admission,
            scout: ScoutSlot::default(),
            house: Arc::new(house),
            gathering: Gathering::default(),
            _budget: budget,
            wear,
            scratch: Mutex::new(scratch),
            for_stages,
            thermometer: Thermometer::new(),
            token: CancellationToken::new(),
            heart,
            following: Following::default(),
            leftovers: Mutex::default(),
            ledger: OnceLock::new(),
            io,
        }))
    }

    pub(crate) fn io(&self) -> &Handle {
        &self.io.1
    }

    /// Does something that nobody waits for but the end of the colony.
    pub(crate) fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut leftovers = lock(&self.leftovers);
        while leftovers.try_join_next().is_some() {}
        leftovers.spawn_on(work, self.io());
    }

    pub(crate) fn ledger(&self) -> Result<&LedgerHandle> {
        self.ledger.get().ok_or_else(|| Error::closed("the colony is not started"))
    }

    /// The bee with the fewest pieces of work; the first of several.
    pub(crate) fn least_busy_bee(&self) -> Result<&Arc<BeeSlot>> {
        self.least_loaded(|core| core.expected())
    }

    fn least_loaded<Load: Ord>(&self, load: impl Fn(&BeeCore) -> Load) -> Result<&Arc<BeeSlot>> {
        let alive = self.slots.iter().filter(|slot| slot.is_alive());
        let slot = alive.min_by_key(|slot| load(&slot.core));
        slot.ok_or_else(|| Error::closed("no bee is running: start a new colony"))
    }

    /// A bee for an attempt at a task, which counts until the guard is dropped: the bee with the fewest attempts, and of
    /// several the one with the least other work. Leading the query is such, and next to none.
    pub(crate) fn bee_for_attempt(&self) -> Result<(&Arc<BeeSlot>, AttemptPlace<'_>)> {
        let mut attempts = lock(&self.attempts);
        let slot = self.least_loaded(|core| (attempts[core.index], core.expected()))?;
        attempts[slot.core.index] += 1;
        Ok((slot, AttemptPlace { core: self, bee: slot.core.index }))
    }

    /// Whether a scan of this many bytes is so long here that it may pay to ask other nodes.
    pub(crate) fn may_be_faster_shared(&self, bytes: u64) -> bool {
        let alone = Duration::from_secs_f64(bytes as f64 / (SCAN_RATE * self.slots.len().max(1) as f64));
        alone > SHARING + self.heart.latency() * SHARING_REQUESTS
    }

    /// Beyond the day's limit nothing more goes to the disk: what spills looks itself.
    pub(crate) fn spare_disk(&self) {
        self.wear.kept(self.heart.cache().bytes_written);
        self.heart.pause_cache(self.wear.is_worn());
    }

    /// Where this node may write what does not fit into memory, if anywhere.
    pub(crate) fn scratch_folder(&self) -> Option<PathBuf> {
        let folder = lock(&self.scratch).as_ref().map(|scratch| scratch.path().to_path_buf());
        folder.filter(|_| !self.wear.is_worn())
    }

    /// What was written to the local disk since the start.
    pub(crate) fn disk_written(&self) -> DiskWritten {
        self.wear.kept(self.heart.cache().bytes_written);
        let backend = self.meadow.backend();
        let meadow = if backend.is_local() { self.meadow.meter().read().bytes_written } else { 0 };
        DiskWritten { meadow, ..self.wear.read() }
    }

    /// Removes cells that no commit names; what cannot be removed is left for vacuum.
    pub(crate) async fn remove_cells(&self, cells: &[CellFile]) {
        for cell in cells {
            if let Err(error) = self.meadow.backend().delete(&cell.path).await {
                tracing::warn!(%error, path = %cell.path, "a cell of a failed write is left behind");
            }
        }
    }
}

/// The meadow's cells, behind this node's cache when it has one and they are far away.
async fn cell_source(settings: &Settings, meadow: &Meadow) -> Result<CellSource> {
    let cache = match settings.cache.clone().filter(|_| !meadow.backend().is_local()) {
        None => None,
        Some(folder) => {
            let limit = settings.cache_limit;
            let cache = tokio::task::spawn_blocking(move || CellCache::open(folder, limit)).await??;
            Some((cache, meadow.backend().location().into()))
        }
    };
    Ok(CellSource { meadow: meadow.clone(), cache })
}

fn bees(
    settings: &Settings,
    scratch: Option<&Path>,
    wear: &Arc<Wear>,
    cells: CellSource,
    queries: &Arc<Queries>,
    channels: &Arc<BeeChannels>,
    functions: &[Arc<ScalarUDF>],
) -> Result<Vec<Arc<BeeSlot>>> {
    let share = settings.scratch_limit / settings.bee_count() as u64;
    // Footers of cells are parsed once for the whole node.
    let cache = CacheManager::try_new(&CacheManagerConfig::default())?;
    let bee = |index| {
        let (wear, cache) = (Arc::clone(wear), Arc::clone(&cache));
        let combs = Combs::new(settings.bee_memory(), scratch, share, wear, cache, cells.clone())?;
        let core = BeeCore::new(index, combs, Arc::clone(queries), Arc::clone(channels) as _, functions.to_vec());
        Ok(Arc::new(BeeSlot::new(core)))
    };
    (0..settings.bee_count()).map(bee).collect()
}

/// Stops the colony when its last handle goes.
struct Life {
    supervisor: Addr<ColonyActor>,
    core: std::sync::Weak<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Ends the System that this colony made; `None` in a System of the embedder.
    system: Option<actix_rt::System>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.admission.close();
            core.token.cancel();
        }
        let (supervisor, system) = (self.supervisor.clone(), self.system.clone());
        // The thread ends by itself: a destructor does not wait.
        #[expect(clippy::disallowed_methods, reason = "the last message of all must not wait for room")]
        supervisor.do_send(StopBees);
        if let Some(system) = system {
            system.stop();
        }
    }
}

impl Colony {
    /// Starts a colony with a thread and an actix System of its own, for programs that have none.
    ///
    /// The meadow is opened first, and made when the place is empty.
    ///
    /// # Errors
    /// `InvalidInput` for a setting that cannot be; what the storage says.
    pub fn start(settings: Settings) -> Result<Self> {
        Self::start_with(settings, Vec::new())
    }

    /// As [`Colony::start`], with scalar functions of the program's own for its SQL.
    ///
    /// # Errors
    /// As [`Colony::start`].
    pub fn start_with(settings: Settings, functions: Vec<Arc<ScalarUDF>>) -> Result<Self> {
        settings.validate()?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let own = std::thread::Builder::new().name("apiary-colony".into());
        let thread = own.spawn(move || {
            let runner = actix_rt::System::new();
            let started = runner.block_on(async {
                let core = open_on_io(settings, functions).await?;
                Ok::<_, Error>(start_actors(&core, Some(actix_rt::System::current())))
            });
            let running = started.is_ok();
            // The receiver waits for exactly this.
            let _ = sender.send(started);
            if running && let Err(error) = runner.run() {
                tracing::error!(%error, "the colony's system ended with an error");
            }
        })?;
        let colony = receiver.recv().map_err(|_| Error::internal("the colony's thread ended while it started"))??;
        *lock(&colony.life.thread) = Some(thread);
        Ok(colony)
    }

    /// Starts a colony in the actix System that `arbiter` belongs to; that System is never stopped by it.
    ///
    /// # Errors
    /// As [`Colony::start`]; `Closed` when the arbiter does not run.
    pub async fn start_in(arbiter: &ArbiterHandle, settings: Settings) -> Result<Self> {
        settings.validate()?;
        let core = open_on_io(settings, Vec::new()).await?;
        let (sender, receiver) = oneshot::channel();
        let sent = arbiter.spawn_fn(move || {
            // A caller that has gone away drops the colony again.
            let _ = sender.send(start_actors(&core, None));
        });
        let stopped = || Error::closed("the arbiter is stopped: give one that runs");
        if !sent {
            return Err(stopped());
        }
        receiver.await.map_err(|_| stopped())
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// A session with its own `USE` and `SET`.
    ///
    /// # Errors
    /// Never in practice.
    pub fn session(&self) -> Session {
        Session::new(self.clone()).expect("the default hive and box are names")
    }

    /// Runs one SQL statement in a fresh session.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn sql(&self, sql: &str) -> Result<QueryStream> {
        self.session().sql(sql).await
    }

    /// Creates a hive.
    ///
    /// # Errors
    /// `AlreadyExists`, unless `if_not_exists`.
    pub async fn create_hive(&self, hive: &HiveName, if_not_exists: bool) -> Result<()> {
        self.on_io({
            let hive = hive.clone();
            move |core| async move {
                core.meadow.require_writable()?;
                core.meadow.registry().create_hive(&hive, if_not_exists).await
            }
        })
        .await
    }

    /// Creates a box in a hive.
    ///
    /// # Errors
    /// `NotFound` without the hive; `AlreadyExists`, unless `if_not_exists`.
    pub async fn create_box(&self, hive: &HiveName, box_: &BoxName, if_not_exists: bool) -> Result<()> {
        let (hive, box_) = (hive.clone(), box_.clone());
        self.on_io(move |core| async move {
            core.meadow.require_writable()?;
            core.meadow.registry().create_box(&hive, &box_, if_not_exists).await
        })
        .await
    }

    /// Creates a frame with `schema`, and with its rows placed as said: a list of columns partitions it.
    ///
    /// # Errors
    /// `Schema` for a type that a frame cannot hold; `NotFound` without the box; `AlreadyExists`, unless `if_not_exists`.
    pub async fn create_frame(
        &self,
        frame: &FrameRef,
        schema: SchemaRef,
        placement: impl Into<Placement>,
        if_not_exists: bool,
    ) -> Result<()> {
        let (frame, placement) = (frame.clone(), placement.into());
        self.on_io(move |core| async move {
            core.meadow.create_frame(&frame, &schema, &placement, if_not_exists).await.map(|_| ())
        })
        .await
    }

    /// Removes a hive and, with `cascade`, what is in it.
    ///
    /// # Errors
    /// `NotFound`, unless `if_exists`; `InvalidInput` when it is not empty and `cascade` is not given.
    pub async fn drop_hive(&self, hive: &HiveName, if_exists: bool, cascade: bool) -> Result<()> {
        let hive = hive.clone();
        self.on_io(move |core| async move { core.meadow.drop_hive(&hive, if_exists, cascade).await.map(|_| ()) }).await
    }

    /// Removes a box and, with `cascade`, its frames.
    ///
    /// # Errors
    /// As [`Colony::drop_hive`].
    pub async fn drop_box(&self, hive: &HiveName, box_: &BoxName, if_exists: bool, cascade: bool) -> Result<()> {
        let (hive, box_) = (hive.clone(), box_.clone());
        self.on_io(move |core| async move { core.meadow.drop_box(&hive, &box_, if_exists, cascade).await.map(|_| ()) })
            .await
    }

    /// Removes a frame with its cells and its history.
    ///
    /// # Errors
    /// `NotFound`, unless `if_exists`.
    pub async fn drop_frame(&self, frame: &FrameRef, if_exists: bool) -> Result<()> {
        let frame = frame.clone();
        self.on_io(move |core| async move { core.meadow.drop_frame(&frame, if_exists).await.map(|_| ()) }).await
    }

    /// All hives, sorted.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn hives(&self) -> Result<Vec<HiveName>> {
        self.on_io(|core| async move { core.meadow.registry().hives().await }).await
    }

    /// The boxes of a hive, sorted.
    ///
    /// # Errors
    /// `NotFound` without the hive.
    pub async fn boxes(&self, hive: &HiveName) -> Result<Vec<BoxName>> {
        let hive = hive.clone();
        self.on_io(move |core| async move { core.meadow.registry().boxes(&hive).await }).await
    }

    /// Every frame of the meadow, sorted.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn frames(&self) -> Result<Vec<FrameRef>> {
        self.on_io(|core| async move { core.meadow.registry().frames().await }).await
    }

    /// A frame's columns, partitioning, version and size.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn describe(&self, frame: &FrameRef) -> Result<FrameInfo> {
        let frame = frame.clone();
        self.on_io(move |core| async move { core.meadow.describe(&frame).await }).await
    }

    /// A frame's newest `limit` commits, newest first.
    ///
    /// # Errors
    /// `NotFound` when there is no such frame.
    pub async fn history(&self, frame: &FrameRef, limit: Option<usize>) -> Result<Vec<HistoryEntry>> {
        let frame = frame.clone();
        self.on_io(move |core| async move {
            core.meadow.registry().frame(&frame).await?;
            core.meadow.ledger().history(&frame, limit).await
        })
        .await
    }

    /// Writes rows into a frame with one commit. While the node is hot, it is held back as the settings say.
    ///
    /// # Errors
    /// `NotFound` without the frame; `Schema` when the rows do not fit; `Conflict` when another commit is in the way; the
    /// rows' own error; `Busy` when the node is too hot. Nothing is committed then.
    pub async fn write(
        &self,
        frame: &FrameRef,
        data: SendableRecordBatchStream,
        mode: WriteMode,
    ) -> Result<WriteResult> {
        let options = WriteOptions { mode, backpressure: self.core.settings.backpressure, evolve: false };
        self.write_with(frame, data, options).await
    }

    /// As [`Colony::write`], with options.
    ///
    /// # Errors
    /// As [`Colony::write`].
    pub async fn write_with(
        &self,
        frame: &FrameRef,
        data: SendableRecordBatchStream,
        options: WriteOptions,
    ) -> Result<WriteResult> {
        let (frame, WriteOptions { mode, backpressure, evolve }) = (frame.clone(), options);
        self.on_io(move |core| async move {
            let ticket = core.admit()?;
            core.hold_back(backpressure).await?;
            let entry = core.queries.begin(
                Asked::user(&format!("write to {frame}")),
                &core.token,
                core.settings.time_limit,
                core.meadow.meter(),
            );
            // What goes on however hot the node is does not wait for long queries either.
            if backpressure != Backpressure::Ignore {
                until_stopped(&entry.record, ticket.place()).await?;
            }
            let mut state = core.meadow.state(&frame, AsOf::Latest).await?;
            if evolve {
                state = evolved(&core, state, &data.schema()).await?;
            }
            let result = write_frame(&core, &state, data, mode.into(), &entry.record).await;
            match (result, entry.record.stop_reason()) {
                (Err(error), Some(reason)) if super::query::is_stop(&error) => Err(reason),
                (result, _) => result,
            }
        })
        .await
    }

    /// Opens a stream into a frame, for rows that come a few at a time.
    ///
    /// # Errors
    /// `NotFound` without the frame; `InvalidInput` for settings that cannot be; what the system says of the buffer.
    pub async fn stream(&self, frame: &FrameRef, settings: StreamSettings) -> Result<FrameStream> {
        let frame = frame.clone();
        self.on_io(move |core| async move { FrameStream::open(&core, &frame, settings).await }).await
    }

    /// Reads one version of a frame; `columns` of `None` is all of them.
    ///
    /// # Errors
    /// `NotFound` for a frame, version or column that does not exist.
    pub async fn read(&self, frame: &FrameRef, columns: Option<Vec<String>>, as_of: AsOf) -> Result<QueryStream> {
        self.session().read(frame, columns, as_of).await
    }

    /// How the colony is now.
    ///
    /// # Errors
    /// Never so far; asking may need the actors one day.
    pub async fn status(&self) -> Result<ColonyStatus> {
        let core = &self.core;
        let storage = core.meadow.meter().read();
        Ok(ColonyStatus {
            name: core.settings.name.clone(),
            storage: core.meadow.backend().location(),
            bees: core.slots.len(),
            bees_busy: core.slots.iter().filter(|s| s.core.active() > 0).count(),
            memory: core.settings.node_memory(),
            memory_used: core.slots.iter().map(|s| s.core.combs.used()).sum(),
            temperature: core.temperature(),
            band: core.band(),
            queries_running: core.admission.running(),
            queries_waiting: core.admission.waiting(),
            queries_done: core.queries.done(),
            generation: core.slots.iter().map(|s| s.generation()).collect(),
            requests: storage.requests(),
            hedges: storage.hedges,
            bytes_read: storage.bytes_read,
            bytes_written: storage.bytes_written,
            cache: core.heart.cache(),
            disk_written: core.disk_written(),
        })
    }

    /// The nodes of the swarm, as they look from here now.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn swarm(&self) -> Result<Vec<NodeInfo>> {
        self.on_io(|core| async move { core.heart.nodes().await }).await
    }

    /// Runs `future` on the calling thread, for programs without a runtime. Panics inside one, as every `block_on` does.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.core.io().block_on(future)
    }

    /// Runs `future` on the colony's I/O runtime: for waiting, not for computing.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.core.io().spawn(future)
    }

    /// Refuses new work, cancels what runs, stops the bees and waits for their threads. Again is no error.
    ///
    /// # Errors
    /// Never so far.
    pub fn shutdown(&self) -> Result<()> {
        self.core.admission.close();
        self.core.token.cancel();
        let started = Instant::now();
        while self.core.slots.iter().any(|s| s.core.active() > 0) && started.elapsed() < DRAIN {
            #[expect(clippy::disallowed_methods, reason = "shutdown is a blocking call on the caller's own thread")]
            std::thread::sleep(Duration::from_millis(2));
        }
        let (done, stopped) = std::sync::mpsc::channel();
        let (supervisor, core) = (self.life.supervisor.clone(), Arc::clone(&self.core));
        self.core.io().spawn(async move {
            let leftovers = std::mem::take(&mut *lock(&core.leftovers));
            tokio::join!(leftovers.join_all(), core.heart.leave());
            // An actor that is gone has nothing left to stop.
            let _ = supervisor.send(StopBees).await;
            core.heart.close_cache();
            let _ = done.send(());
        });
        let _ = stopped.recv_timeout(DRAIN);
        if let Some(system) = &self.life.system {
            system.stop();
        }
        if let Some(thread) = lock(&self.life.thread).take() {
            // A thread that panicked has stopped too.
            let _ = thread.join();
        }
        drop(lock(&self.core.scratch).take());
        self.core.wear.close();
        Ok(())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Runs meadow work on the I/O runtime, whatever runtime the caller has; dropping the future stops it.
    async fn on_io<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Core>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.core.admission.require_open()?;
        let mut task = tokio::task::JoinSet::new();
        task.spawn_on(work(Arc::clone(&self.core)), self.core.io());
        task.join_next().await.ok_or_else(|| Error::internal("a task that was started is not there"))??
    }
}

impl std::fmt::Debug for Colony {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Colony").field("settings", &self.core.settings).finish_non_exhaustive()
    }
}

async fn open_on_io(settings: Settings, functions: Vec<Arc<ScalarUDF>>) -> Result<Arc<Core>> {
    let io = IoRuntime::new()?;
    let handle = io.1.clone();
    handle.spawn(Core::open(settings, functions, io)).await?
}

/// Starts the actors on the calling thread, which has a System.
fn start_actors(core: &Arc<Core>, system: Option<actix_rt::System>) -> Colony {
    // Set once: the core is new.
    let _ = core.ledger.set(LedgerHandle::start(core.meadow.ledger().clone()));
    let supervisor = ColonyActor::new(Arc::clone(core)).start();
    HeartbeatActor::new(core).start();
    if core.settings.housekeeping && core.meadow.require_writable().is_ok() {
        HousekeeperActor::new(core).start();
    }
    core.io().spawn(guard(Arc::downgrade(core)));
    let life = Life { supervisor, core: Arc::downgrade(core), thread: Mutex::new(None), system };
    Colony { core: Arc::clone(core), life: Arc::new(life) }
}
