//! An opened meadow: the place, what is known of it, its names and its ledgers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use delta_kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use delta_kernel::schema::StructType;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::alter::properties_to_set;
use super::backend::{StorageBackend, open_backend};
use super::claim::Claims;
use super::cloud::flag;
use super::clustering::{Placement, cluster_columns};
use super::frame_state::FrameState;
use super::hedged::{Hedged, Hedges};
use super::ledger::{AsOf, FrameInfo, Ledger, backoff};
use super::listing::Cells;
use super::metered::{Meter, Metered};
use super::names::{BoxName, FrameRef, HiveName};
use super::probe::{ProbeResult, probe};
use super::registry::{FrameRecord, Registry, ViewRecord, no_frame};
use super::restore::RestoreResult;
use super::schema;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// The layout that this version reads and writes.
const FORMAT: u32 = 1;
const RECORD: &str = "_apiary.json";
/// After that time without a sign of who removes or brings back cells, it is taken for dead.
const STALE: Duration = Duration::from_secs(30);
/// How long another is waited for who removes or brings back cells: longer than a dead one is believed to live.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often a view is tried to be put where others make and drop it.
const VIEW_TRIES: u32 = 20;
/// Between two looks whether it is done.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize, Deserialize)]
struct MeadowRecord {
    format: u32,
    id: String,
    probe: ProbeResult,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Meadow {
    backend: Arc<dyn StorageBackend>,
    registry: Registry,
    ledger: Ledger,
    meter: Arc<Meter>,
    place: Requests,
    writable: bool,
    claims: Arc<Claims>,
    /// The record ids of the frames that were read; views have none.
    known: Arc<Mutex<HashMap<FrameRef, Option<String>>>>,
}

/// What a name stands for.
#[derive(Debug)]
pub enum Named {
    /// A version of a frame.
    Frame(Arc<FrameState>),
    /// A query.
    View(ViewRecord),
}

impl Meadow {
    /// Opens the meadow at `url`, making it when the place is empty; its requests run on `io`.
    ///
    /// A place that lets several writers win one conditional create is opened for reading only, unless the storage
    /// option `single_writer = true` promises that nobody else writes. With `hedge = false` no read of a remote place is
    /// asked a second time when it takes long; see [`super::hedged`].
    ///
    /// # Errors
    /// What the place says; [`ErrorKind::Unsupported`] for a meadow of a newer format.
    pub async fn open(url: &str, options: &BTreeMap<String, String>, io: Handle) -> Result<Self> {
        let mut options = options.clone();
        let single_writer = options.remove("single_writer").is_some_and(|v| v == "true");
        let hedge = options.remove("hedge").map(|value| flag("hedge", &value)).transpose()?.unwrap_or(true);
        let place = open_backend(url, &options, &io)?;
        Self::over(place, single_writer, hedge, io).await
    }

    /// As [`Meadow::open`], over a place that is open already.
    pub async fn open_backend(place: Arc<dyn StorageBackend>, single_writer: bool, io: Handle) -> Result<Self> {
        Self::over(place, single_writer, true, io).await
    }

    async fn over(place: Arc<dyn StorageBackend>, single_writer: bool, hedge: bool, io: Handle) -> Result<Self> {
        let meter = Arc::new(Meter::default());
        let hedges = (!place.is_local()).then(|| Arc::new(Hedges::new(hedge, io.clone())));
        let requests = Requests { store: place.store(), hedges };
        let backend: Arc<dyn StorageBackend> = Arc::new(MeteredBackend { store: requests.counted(&meter), place });
        let record = read_or_make_record(backend.as_ref()).await.map_err(|e| {
            let at = backend.location();
            e.context(format!("cannot open storage {at}"))
        })?;
        let writable = record.probe.exclusive_create || single_writer;
        if !writable {
            tracing::warn!("{}", unsafe_store(&backend.location()));
        }
        let ledger = Ledger::new(backend.store(), backend.is_local(), io);
        Ok(Self {
            registry: Registry::new(Arc::clone(&backend)),
            claims: Arc::new(Claims::new(Arc::clone(&backend), STALE)),
            backend,
            ledger,
            meter,
            place: requests,
            writable,
            known: Arc::default(),
        })
    }

    /// The place.
    pub fn backend(&self) -> &Arc<dyn StorageBackend> {
        &self.backend
    }

    /// The names.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The ledgers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What has been asked of the place.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The place's store, whose requests are counted in `meter` alone.
    pub fn counted_store(&self, meter: &Arc<Meter>) -> Arc<dyn ObjectStore> {
        self.place.counted(meter)
    }

    /// Does what removes cells of a frame from the place, or lists removed ones again, while nobody else does either: what one
    /// of them sees must hold until it is done.
    ///
    /// # Errors
    /// Those of `work`; [`ErrorKind::Conflict`] when another goes on for long; what the place says.
    pub(super) async fn alone<T>(&self, frame: &FrameRef, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (path, asked) = (housekeeping(frame).join("cells"), Instant::now());
        tokio::pin!(work);
        loop {
            match self.claims.hold(&path, &mut work).await? {
                Some(done) => return Ok(done),
                None if asked.elapsed() > PATIENCE => {
                    return Err(Error::conflict(format!(
                        "another VACUUM or RESTORE of {frame} goes on: try again when it is done"
                    )));
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Makes the newest version what another one was; see [`Ledger::restore`].
    ///
    /// # Errors
    /// As [`Ledger::restore`], and [`ErrorKind::Conflict`] when a vacuum goes on for long.
    pub async fn restore(&self, frame: &FrameRef, to: AsOf) -> Result<RestoreResult> {
        self.require_writable()?;
        // Forgets what is remembered of another frame of that name.
        self.state(frame, AsOf::Latest).await?;
        self.alone(frame, self.ledger.restore(frame, to)).await
    }

    /// Says why not, when commits would not be safe here.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub fn require_writable(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Error::unsupported(unsafe_store(&self.backend.location()))) }
    }

    /// Creates a frame; `false` when it exists and `if_not_exists`.
    ///
    /// # Errors
    /// As [`Registry::create_frame`], and [`ErrorKind::Schema`] for a schema that a frame cannot have.
    pub async fn create_frame(
        &self,
        frame: &FrameRef,
        schema: &Schema,
        placement: &Placement,
        if_not_exists: bool,
    ) -> Result<bool> {
        self.require_writable()?;
        let schema = schema::frame_schema(schema)?;
        let partition_by = schema::partition_columns(&schema, &placement.partition_by)?;
        let cluster_by = cluster_columns(&schema, &partition_by, &placement.cluster_by)?;
        let properties = properties_to_set(&placement.properties)?;
        let placement = Placement { partition_by, cluster_by, properties };
        let record = record(&schema, &placement)?;
        self.make_room(frame).await?;
        self.require_no_table(frame).await?;
        if !self.registry.create_frame(frame, &record, if_not_exists).await? {
            return Ok(false);
        }
        self.create_ledger(frame, schema, placement).await?;
        Ok(true)
    }

    /// Makes a frame of the Delta table that others wrote into its folder, and gives the version that it has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a table there, or without the box; [`ErrorKind::AlreadyExists`] when it is a frame;
    /// [`ErrorKind::Unsupported`] for a table with features that are not known.
    pub async fn attach(&self, frame: &FrameRef) -> Result<u64> {
        self.require_writable()?;
        self.make_room(frame).await?;
        self.ledger.forget(frame);
        let state = self.ledger.state(frame, AsOf::Latest).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::not_found(format!(
                "there is no Delta table in {}: a table is attached where it lies, so put its folder there first",
                self.location(frame)
            )),
            _ => error,
        })?;
        let record = record(state.schema.as_ref(), &state.partition_by.clone().into())?;
        self.registry.create_frame(frame, &record, false).await?;
        Ok(state.version())
    }

    /// Takes a frame's name away and leaves its table where it is; gives its place.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn detach(&self, frame: &FrameRef) -> Result<String> {
        self.require_writable()?;
        self.registry.frame(frame).await?;
        self.backend.delete_below(&housekeeping(frame)).await?;
        self.registry.remove_frame(frame).await?;
        self.ledger.forget(frame);
        Ok(self.location(frame))
    }

    fn location(&self, frame: &FrameRef) -> String {
        format!("{}/{}", self.backend.location().trim_end_matches('/'), frame.folder())
    }

    /// Removes a frame, its ledger and its cells; `false` when there is none and `if_exists`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::InvalidInput`] for a view.
    pub async fn drop_frame(&self, frame: &FrameRef, if_exists: bool) -> Result<bool> {
        self.require_writable()?;
        let record = match self.registry.record_of(frame).await {
            // It says nothing that is needed to drop the frame.
            Err(error) if error.kind() == ErrorKind::Corrupt => Some(FrameRecord::unreadable()),
            record => record?,
        };
        match record {
            Some(FrameRecord { view: Some(_), .. }) => {
                Err(Error::invalid(format!("{frame} is a view: DROP VIEW {frame} removes it")))
            }
            Some(record) => self.remove(frame, &record).await.map(|()| true),
            None if if_exists => Ok(false),
            None => Err(missing(&format!("frame {frame}"))),
        }
    }

    /// Puts a query under a name, or, with `or_replace`, in the place of another one; `false` when there is one and
    /// `if_not_exists`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the box; [`ErrorKind::AlreadyExists`] when the name is taken, by a frame in any case.
    pub async fn create_view(
        &self,
        name: &FrameRef,
        view: ViewRecord,
        or_replace: bool,
        if_not_exists: bool,
    ) -> Result<bool> {
        self.require_writable()?;
        for attempt in 0..VIEW_TRIES {
            if self.registry.create_view(name, view.clone()).await? {
                return Ok(true);
            }
            match self.registry.record_of(name).await? {
                Some(record) if record.dropping => self.remove(name, &record).await?,
                Some(FrameRecord { view: Some(_), .. }) if or_replace => {
                    let replaced = self.registry.replace_view(name, view.clone()).await?;
                    if replaced {
                        return Ok(true);
                    }
                }
                Some(FrameRecord { view: Some(_), .. }) if if_not_exists => return Ok(false),
                Some(FrameRecord { view: Some(_), .. }) => {
                    return Err(Error::already_exists(format!(
                        "view {name} exists: choose another name, or use CREATE OR REPLACE VIEW or IF NOT EXISTS"
                    )));
                }
                Some(_) => {
                    return Err(Error::already_exists(format!(
                        "{name} is a frame: choose another name, or DROP FRAME {name} first"
                    )));
                }
                // It was dropped meanwhile.
                None => {}
            }
            tokio::time::sleep(backoff(attempt)).await;
        }
        Err(replaced_always(name))
    }

    /// Removes a view; `false` when there is none and `if_exists`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::InvalidInput`] for a frame.
    pub async fn drop_view(&self, name: &FrameRef, if_exists: bool) -> Result<bool> {
        self.require_writable()?;
        for attempt in 0..VIEW_TRIES {
            if self.registry.drop_view(name).await? {
                return Ok(true);
            }
            match self.registry.record_of(name).await? {
                // It was replaced meanwhile.
                Some(FrameRecord { view: Some(_), .. }) => {}
                Some(_) => return Err(Error::invalid(format!("{name} is a frame: DROP FRAME {name} removes it"))),
                None if if_exists => return Ok(false),
                None => return Err(missing(&format!("view {name}"))),
            }
            tokio::time::sleep(backoff(attempt)).await;
        }
        Err(replaced_always(name))
    }

    /// Removes a box and, with `cascade`, its frames and views.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none (unless `if_exists`); [`ErrorKind::InvalidInput`] when it is not empty.
    pub async fn drop_box(&self, hive: &HiveName, box_: &BoxName, if_exists: bool, cascade: bool) -> Result<bool> {
        self.require_writable()?;
        let frames = match self.registry.frames_of(hive, box_).await {
            Err(error) if error.kind() == ErrorKind::NotFound && if_exists => return Ok(false),
            frames => frames.map_err(|error| or_missing(error, &format!("box {hive}.{box_}")))?,
        };
        if !frames.is_empty() && !cascade {
            return Err(not_empty(&format!("box {hive}.{box_}"), frames.len(), "frames"));
        }
        for frame in &frames {
            match self.drop_frame(frame, true).await {
                Err(error) if error.kind() == ErrorKind::InvalidInput => self.drop_view(frame, true).await?,
                dropped => dropped?,
            };
        }
        self.registry.remove_box(hive, box_).await.map(|()| true)
    }

    /// Removes a hive and, with `cascade`, its boxes and frames.
    ///
    /// # Errors
    /// As [`Meadow::drop_box`].
    pub async fn drop_hive(&self, hive: &HiveName, if_exists: bool, cascade: bool) -> Result<bool> {
        self.require_writable()?;
        let boxes = match self.registry.boxes(hive).await {
            Err(error) if error.kind() == ErrorKind::NotFound && if_exists => return Ok(false),
            boxes => boxes.map_err(|error| or_missing(error, &format!("hive {hive}")))?,
        };
        if !boxes.is_empty() && !cascade {
            return Err(not_empty(&format!("hive {hive}"), boxes.len(), "boxes"));
        }
        for box_ in &boxes {
            self.drop_box(hive, box_, true, true).await?;
        }
        self.registry.remove_hive(hive).await.map(|()| true)
    }

    /// One version of a frame.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a frame or version that does not exist; [`ErrorKind::InvalidInput`] for a view.
    pub async fn state(&self, frame: &FrameRef, as_of: AsOf) -> Result<Arc<FrameState>> {
        match self.named(frame, as_of).await? {
            Named::Frame(state) => Ok(state),
            Named::View(_) => Err(no_frame(frame)),
        }
    }

    /// What a name stands for: one version of a frame, or a view, which has no versions.
    ///
    /// # Errors
    /// As [`Meadow::state`].
    pub async fn named(&self, frame: &FrameRef, as_of: AsOf) -> Result<Named> {
        // Nothing is to be found where a view's ledger would be.
        if self.was_view(frame)
            && let Ok(FrameRecord { view: Some(view), .. }) = self.registry.frame_or_view(frame).await
        {
            return Ok(Named::View(view));
        }
        let (record, state) = futures::join!(self.registry.frame_or_view(frame), self.ledger.state(frame, as_of));
        if let Ok(FrameRecord { view: Some(view), .. }) = record {
            self.ledger.forget(frame);
            lock(&self.known).insert(frame.clone(), None);
            return Ok(Named::View(view));
        }
        self.frame_state(frame, as_of, record, state).await.map(Named::Frame)
    }

    /// Whether it was a view when it was last looked up.
    pub fn was_view(&self, name: &FrameRef) -> bool {
        lock(&self.known).get(name).is_some_and(Option::is_none)
    }

    /// A frame's version, by its record and what its ledger says.
    async fn frame_state(
        &self,
        frame: &FrameRef,
        as_of: AsOf,
        record: Result<FrameRecord>,
        state: Result<Arc<FrameState>>,
    ) -> Result<Arc<FrameState>> {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                self.ledger.forget(frame);
                let attachable = error.kind() == ErrorKind::NotFound && state.is_ok();
                return Err(match attachable && self.registry.record_of(frame).await?.is_none() {
                    true => Error::not_found(format!(
                        "frame {frame} does not exist, but a Delta table is in {}: ATTACH FRAME {frame} makes it one",
                        self.location(frame)
                    )),
                    false => error,
                });
            }
        };
        let state = match self.is_another(frame, &record.id) {
            true => {
                self.ledger.forget(frame);
                self.ledger.state(frame, as_of).await
            }
            false => state,
        };
        match state {
            // Its creator died between the name and the ledger, or somebody took the ledger away.
            Err(error) if error.kind() == ErrorKind::NotFound && as_of == AsOf::Latest => {
                if let Err(touched) = self.require_untouched(frame).await {
                    // Its creator may be writing it just now.
                    return self.ledger.state(frame, as_of).await.map_err(|error| match error.kind() {
                        ErrorKind::NotFound => touched,
                        _ => error,
                    });
                }
                self.heal(frame, &record).await?;
                self.ledger.state(frame, as_of).await
            }
            other => other,
        }
    }

    /// One version of a frame with its cells.
    ///
    /// # Errors
    /// As [`Meadow::state`].
    pub async fn version(&self, frame: &FrameRef, as_of: AsOf) -> Result<(Arc<FrameState>, Arc<Cells>)> {
        let state = self.state(frame, as_of).await?;
        let cells = self.ledger.cells(&state).await?;
        Ok((state, cells))
    }

    /// Whether the name now means another frame than when it was last read: dropped and made again, maybe elsewhere.
    fn is_another(&self, frame: &FrameRef, id: &str) -> bool {
        let mut known = lock(&self.known);
        known.insert(frame.clone(), Some(id.to_string())).is_some_and(|before| before.as_deref() != Some(id))
    }

    /// What `DESCRIBE` shows.
    pub async fn describe(&self, frame: &FrameRef) -> Result<FrameInfo> {
        let (state, cells) = self.version(frame, AsOf::Latest).await?;
        Ok(FrameInfo {
            name: frame.clone(),
            location: self.location(frame),
            schema: Arc::clone(&state.schema),
            partition_by: state.partition_by.clone(),
            cluster_by: state.clustering.as_ref().map(|clustering| clustering.columns.clone()).unwrap_or_default(),
            version: state.version(),
            cells: cells.len(),
            rows: cells.rows_of(0..cells.len()),
            bytes: (0..cells.len()).map(|i| cells.bytes(i)).sum(),
        })
    }

    /// Says whether nodes keep a frame's house by themselves.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the frame.
    pub async fn set_housekeeping(&self, frame: &FrameRef, on: bool) -> Result<()> {
        self.require_writable()?;
        self.registry.frame(frame).await?;
        match on {
            true => self.backend.delete(&off_mark(frame)).await,
            false => self.backend.put(&off_mark(frame), Bytes::new()).await,
        }
    }

    /// Whether nodes keep a frame's house by themselves.
    pub async fn keeps_house(&self, frame: &FrameRef) -> Result<bool> {
        match self.backend.get(&off_mark(frame)).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Says so when the folder of a frame without a ledger holds something: an empty ledger would make it garbage.
    async fn require_untouched(&self, frame: &FrameRef) -> Result<()> {
        let store = self.backend.store();
        let left = store.list(Some(&Path::from(frame.folder()))).try_next().await?;
        match left {
            None => Ok(()),
            Some(left) => Err(Error::corrupt(format!(
                "the ledger of {frame} is gone, and its folder holds {}: put {}/_delta_log back from a copy, or DROP FRAME",
                left.location,
                frame.folder()
            ))),
        }
    }

    async fn heal(&self, frame: &FrameRef, record: &FrameRecord) -> Result<()> {
        let kernel: StructType = serde_json::from_str(&record.schema)
            .map_err(|e| Error::corrupt(format!("the registry record of {frame}: {e}")))?;
        let schema: arrow::datatypes::Schema = (&kernel).try_into_arrow()?;
        let schema: SchemaRef = Arc::new(schema);
        let placement = Placement {
            partition_by: record.partition_by.clone(),
            cluster_by: record.cluster_by.clone(),
            properties: record.properties.clone(),
        };
        self.create_ledger(frame, schema, placement).await
    }

    /// Writes version 0. Whoever wins the name and whoever finds it without a ledger write the same one, so a ledger
    /// that is there already is as good.
    async fn create_ledger(&self, frame: &FrameRef, schema: SchemaRef, placement: Placement) -> Result<()> {
        match self.ledger.create(frame, schema, placement).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Says so when a Delta table is where a new frame would be, which would take it for its own.
    async fn require_no_table(&self, frame: &FrameRef) -> Result<()> {
        let (store, log) = (self.backend.store(), Path::from(frame.folder()).join("_delta_log"));
        let is_there = store.list(Some(&log)).try_next().await?.is_some();
        // The name is taken before the log is made.
        if is_there && self.registry.record_of(frame).await?.is_none() {
            return Err(Error::already_exists(format!(
                "a Delta table is in {}: ATTACH FRAME {frame} makes it a frame, or take its folder away",
                self.location(frame)
            )));
        }
        Ok(())
    }

    /// Finishes an interrupted drop before a new frame is made; says so when a view has the name.
    async fn make_room(&self, frame: &FrameRef) -> Result<()> {
        match self.registry.record_of(frame).await? {
            Some(record) if record.dropping => self.remove(frame, &record).await,
            Some(FrameRecord { view: Some(_), .. }) => Err(Error::already_exists(format!(
                "{frame} is a view: choose another name, or DROP VIEW {frame} first"
            ))),
            _ => Ok(()),
        }
    }

    async fn remove(&self, frame: &FrameRef, record: &FrameRecord) -> Result<()> {
        self.registry.mark_dropping(frame, record).await?;
        self.backend.delete_below(&Path::from(frame.folder())).await?;
        self.backend.delete_below(&housekeeping(frame)).await?;
        self.registry.remove_frame(frame).await?;
        self.ledger.forget(frame);
        Ok(())
    }
}

fn replaced_always(name: &FrameRef) -> Error {
    Error::conflict(format!("others make and drop {name} all the time: try again when they are done"))
}

fn record(schema: &Schema, placement: &Placement) -> Result<FrameRecord> {
    let kernel: StructType = schema.try_into_kernel()?;
    Ok(FrameRecord {
        id: uuid::Uuid::new_v4().to_string(),
        schema: serde_json::to_string(&kernel).map_err(|e| Error::internal(e.to_string()))?,
        partition_by: placement.partition_by.clone(),
        cluster_by: placement.cluster_by.clone(),
        properties: placement.properties.clone(),
        dropping: false,
        view: None,
    })
}

/// Where nodes agree on who keeps a frame's house.
pub(crate) fn housekeeping(frame: &FrameRef) -> Path {
    Path::from("_housekeeping").join(frame.hive.as_str()).join(frame.box_.as_str()).join(frame.frame.as_str())
}

fn off_mark(frame: &FrameRef) -> Path {
    housekeeping(frame).join("off")
}

async fn read_or_make_record(backend: &dyn StorageBackend) -> Result<MeadowRecord> {
    let path = Path::from(RECORD);
    match backend.get(&path).await {
        Ok(bytes) => return parse_record(&bytes),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let record = MeadowRecord { format: FORMAT, id: uuid::Uuid::new_v4().to_string(), probe: probe(backend).await? };
    let registry = Registry::new(Arc::new(Borrowed(backend.store())));
    let (hive, box_) = (HiveName::new("default")?, BoxName::new("default")?);
    registry.create_hive(&hive, true).await?;
    registry.create_box(&hive, &box_, true).await?;
    let bytes = serde_json::to_vec_pretty(&record).map_err(|e| Error::internal(e.to_string()))?;
    if backend.put_if_not_exists(&path, bytes.into()).await? {
        return Ok(record);
    }
    parse_record(&backend.get(&path).await?)
}

fn parse_record(bytes: &Bytes) -> Result<MeadowRecord> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::corrupt(format!(
            "{RECORD}, which says that this is a meadow, is damaged ({error}): put it back from a copy; if there is none, \
             remove it, and it is made anew"
        ))
    };
    let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(Error::unsupported(format!(
            "the meadow has format {format} and this version knows {FORMAT}: upgrade apiary"
        )));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn missing(what: &str) -> Error {
    Error::not_found(format!("{what} does not exist: use IF EXISTS to allow that"))
}

/// The error of looking for what is to be dropped.
fn or_missing(error: Error, what: &str) -> Error {
    if error.kind() == ErrorKind::NotFound { missing(what) } else { error }
}

fn not_empty(what: &str, count: usize, of: &str) -> Error {
    Error::invalid(format!("{what} has {count} {of}: drop them first or use CASCADE"))
}

fn unsafe_store(location: &str) -> String {
    format!(
        "{location} lets several writers win one conditional create, so commits could be lost: it is open for reading only; \
         use a store that honours If-None-Match, or set the storage option single_writer=true when only this process writes"
    )
}

/// How requests go to the place.
#[derive(Debug, Clone)]
struct Requests {
    store: Arc<dyn ObjectStore>,
    /// For a remote place.
    hedges: Option<Arc<Hedges>>,
}

impl Requests {
    fn counted(&self, meter: &Arc<Meter>) -> Arc<dyn ObjectStore> {
        let metered = Arc::new(Metered::new(Arc::clone(&self.store), Arc::clone(meter)));
        match &self.hedges {
            Some(hedges) => Arc::new(Hedged::new(metered, Arc::clone(hedges), Arc::clone(meter))),
            None => metered,
        }
    }
}

/// A place behind a meter.
#[derive(Debug)]
struct MeteredBackend {
    place: Arc<dyn StorageBackend>,
    store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl StorageBackend for MeteredBackend {
    fn location(&self) -> String {
        self.place.location()
    }

    fn is_local(&self) -> bool {
        self.place.is_local()
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    async fn delete_below(&self, prefix: &Path) -> Result<()> {
        // The place may know a better way than one request an object.
        self.place.delete_below(prefix).await
    }
}

/// A store as a backend, for the moment before a meadow is open.
#[derive(Debug)]
struct Borrowed(Arc<dyn ObjectStore>);

impl StorageBackend for Borrowed {
    fn location(&self) -> String {
        self.0.to_string()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0)
    }
}
