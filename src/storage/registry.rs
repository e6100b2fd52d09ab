//! Which hives, boxes and frames exist: one small object per name, created conditionally.
//!
//! ```text
//! _registry/<hive>.json
//! _registry/<hive>/<box>.json
//! _registry/<hive>/<box>/<frame>.json      or a view's
//! ```
//! Whoever creates the object has created the name; everybody else is told that it exists. A frame's record carries its
//! schema, so that a crash between record and ledger is healed by the next reader. Dropping a frame first marks its
//! record as `dropping`, then removes the data, then the record: a crash in between leaves a name that the next
//! `CREATE` or `DROP` finishes off.
//!
//! A view's record stands where a frame's would, so that a name is one or the other; it is dropped in the same way. It can be read as a frame's, whose schema
//! is none: a version that knows no views says so when it meets one, and makes no frame of it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::backend::StorageBackend;
use super::names::{BoxName, FrameName, FrameRef, HiveName};
use crate::{Error, ErrorKind, Result};

const ROOT: &str = "_registry";
/// Boxes that statements find without a registry.
const RESERVED: [&str; 2] = ["system", "information_schema"];

/// Largest record that is parsed: a schema of thousands of columns fits; a hostile object does not fill memory.
const MAX_RECORD: u64 = 4 << 20;

/// Longest text of a view: it is read and planned whenever the view is named.
pub const MAX_VIEW: usize = 64 << 10;
/// Records that are read at the same time.
const READS: usize = 16;
/// What a version that knows no views shows when it takes one for a frame.
const NO_SCHEMA: &str = "\"a view, which this version does not know: upgrade apiary\"";

/// What a frame's object holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// Unique id of this creation, so that two creators' records are never the same bytes.
    pub id: String,
    /// The frame's schema in Delta's JSON form.
    pub schema: String,
    /// Partition columns.
    pub partition_by: Vec<String>,
    /// Columns that it is clustered by at first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_by: Vec<String>,
    /// Properties of its table at first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<(String, String)>,
    /// Being removed.
    #[serde(default)]
    pub dropping: bool,
    /// What it stands for when it is no frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewRecord>,
}

/// A query under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewRecord {
    /// The hive of what the query names without one.
    pub hive: HiveName,
    /// The box of what the query names without one.
    #[serde(rename = "box")]
    pub box_: BoxName,
    /// Names of its columns; the query's own when there are none.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The query as it was written.
    pub query: String,
}

impl FrameRecord {
    /// What stands for one that is damaged, when its frame is dropped.
    pub(super) fn unreadable() -> Self {
        Self { schema: String::new(), dropping: true, ..Self::of(None) }
    }

    fn of(view: Option<ViewRecord>) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        let (partition_by, cluster_by, properties) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, schema: NO_SCHEMA.into(), partition_by, cluster_by, properties, dropping: false, view }
    }
}

/// A record as it was read.
struct Seen {
    record: FrameRecord,
    version: UpdateVersion,
}

#[derive(Serialize, Deserialize)]
struct NameRecord {
    id: String,
}

/// The names of one meadow.
#[derive(Debug, Clone)]
pub struct Registry {
    backend: Arc<dyn StorageBackend>,
}

impl Registry {
    /// The names kept in `backend`.
    pub fn new(backend: Arc<dyn StorageBackend>) -> Self {
        Self { backend }
    }

    /// Creates a hive.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], unless `if_not_exists`.
    pub async fn create_hive(&self, hive: &HiveName, if_not_exists: bool) -> Result<()> {
        self.create_name(hive_path(hive), if_not_exists, &format!("hive {hive}")).await
    }

    /// Creates a box in an existing hive.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the hive; [`ErrorKind::AlreadyExists`], unless `if_not_exists`.
    pub async fn create_box(&self, hive: &HiveName, box_: &BoxName, if_not_exists: bool) -> Result<()> {
        if RESERVED.contains(&box_.as_str()) {
            return Err(Error::invalid(format!(
                "every hive has a box {box_} of the engine's own: choose another name"
            )));
        }
        self.require_hive(hive).await?;
        self.create_name(box_path(hive, box_), if_not_exists, &format!("box {hive}.{box_}")).await
    }

    /// Claims a frame's name in an existing box; `false` when it is taken and `if_not_exists`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the box; [`ErrorKind::AlreadyExists`] when taken.
    pub async fn create_frame(&self, frame: &FrameRef, record: &FrameRecord, if_not_exists: bool) -> Result<bool> {
        self.require_box(&frame.hive, &frame.box_).await?;
        if self.backend.put_if_not_exists(&frame_path(frame), encode(record)?).await? {
            return Ok(true);
        }
        match if_not_exists {
            true => Ok(false),
            false => {
                Err(Error::already_exists(format!("frame {frame} exists: choose another name or use IF NOT EXISTS")))
            }
        }
    }

    /// Claims a view's name in an existing box; `false` when it is taken.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the box.
    pub(super) async fn create_view(&self, name: &FrameRef, view: ViewRecord) -> Result<bool> {
        self.require_box(&name.hive, &name.box_).await?;
        self.backend.put_if_not_exists(&frame_path(name), encode(&FrameRecord::of(Some(view)))?).await
    }

    /// Puts a view in the place of one; `false` when that is not there any more, or is another by now.
    pub(super) async fn replace_view(&self, name: &FrameRef, view: ViewRecord) -> Result<bool> {
        match self.seen_view(name).await? {
            Some(seen) if !seen.record.dropping => self.swap(name, seen, &FrameRecord::of(Some(view))).await,
            _ => Ok(false),
        }
    }

    /// Removes a view, as a frame is dropped: what has taken its place meanwhile stays. `false` when that is so, or when
    /// there is none.
    pub(super) async fn drop_view(&self, name: &FrameRef) -> Result<bool> {
        let Some(seen) = self.seen_view(name).await? else { return Ok(false) };
        let dropping = FrameRecord { dropping: true, ..FrameRecord::of(seen.record.view.clone()) };
        match self.swap(name, seen, &dropping).await? {
            true => self.remove_frame(name).await.map(|()| true),
            false => Ok(false),
        }
    }

    async fn seen_view(&self, name: &FrameRef) -> Result<Option<Seen>> {
        let there = match self.backend.store().get(&frame_path(name)).await {
            Ok(there) => there,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let version = UpdateVersion { e_tag: there.meta.e_tag.clone(), version: there.meta.version.clone() };
        let record = decode(&there.bytes().await?, &name.to_string())?;
        Ok(record.view.is_some().then_some(Seen { record, version }))
    }

    /// Puts a record in the place of that which was seen; `false` when it is another by now.
    async fn swap(&self, name: &FrameRef, seen: Seen, record: &FrameRecord) -> Result<bool> {
        let (path, bytes) = (frame_path(name), encode(record)?);
        let put =
            self.backend.store().put_opts(&path, bytes.clone().into(), PutMode::Update(seen.version).into()).await;
        match put {
            Ok(_) => Ok(true),
            // Where the first try's acknowledgement was lost, it is there.
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => {
                Ok(self.backend.get(&path).await.is_ok_and(|there| there == bytes))
            }
            // Such a store has one writer.
            Err(object_store::Error::NotImplemented { .. }) => self.backend.put(&path, bytes).await.map(|()| true),
            Err(error) => Err(error.into()),
        }
    }

    /// The views among these names, in order.
    ///
    /// # Errors
    /// What the place says.
    pub async fn views(&self, names: Vec<FrameRef>) -> Result<Vec<(FrameRef, ViewRecord)>> {
        let records = stream::iter(names).map(|name| async move { (self.record_of(&name).await, name) });
        let mut views = Vec::new();
        let mut records = records.buffered(READS);
        while let Some((record, name)) = records.next().await {
            match record {
                Ok(record) => {
                    let view = record.filter(|record| !record.dropping).and_then(|record| record.view);
                    views.extend(view.map(|view| (name, view)));
                }
                // One that cannot be read does not keep the others from being listed.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(%error, %name, "no view is seen here")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// A frame's record.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such frame or it is being dropped; [`ErrorKind::InvalidInput`] for a view.
    pub async fn frame(&self, frame: &FrameRef) -> Result<FrameRecord> {
        let record = self.frame_or_view(frame).await?;
        match record.view {
            None => Ok(record),
            Some(_) => Err(no_frame(frame)),
        }
    }

    /// The record of a frame or a view.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is neither, or the frame is being dropped.
    pub async fn frame_or_view(&self, frame: &FrameRef) -> Result<FrameRecord> {
        match self.record_of(frame).await? {
            Some(record) if !record.dropping => Ok(record),
            _ => Err(Error::not_found(format!("frame {frame} does not exist: SHOW FRAMES lists those that do"))),
        }
    }

    /// A frame's record, also while it is being dropped.
    pub async fn record_of(&self, frame: &FrameRef) -> Result<Option<FrameRecord>> {
        match self.backend.get(&frame_path(frame)).await {
            Ok(bytes) => decode(&bytes, &frame.to_string()).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks a frame as being dropped.
    pub async fn mark_dropping(&self, frame: &FrameRef, record: &FrameRecord) -> Result<()> {
        let record = FrameRecord { dropping: true, ..record.clone() };
        self.backend.put(&frame_path(frame), encode(&record)?).await
    }

    /// Forgets a frame's name.
    pub async fn remove_frame(&self, frame: &FrameRef) -> Result<()> {
        self.backend.delete(&frame_path(frame)).await
    }

    /// Forgets an empty box.
    pub async fn remove_box(&self, hive: &HiveName, box_: &BoxName) -> Result<()> {
        self.backend.delete(&box_path(hive, box_)).await
    }

    /// Forgets an empty hive.
    pub async fn remove_hive(&self, hive: &HiveName) -> Result<()> {
        self.backend.delete(&hive_path(hive)).await
    }

    /// All hives, sorted.
    pub async fn hives(&self) -> Result<Vec<HiveName>> {
        self.names_in(Path::from(ROOT)).await
    }

    /// The boxes of a hive, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the hive.
    pub async fn boxes(&self, hive: &HiveName) -> Result<Vec<BoxName>> {
        self.require_hive(hive).await?;
        self.names_in(Path::from(ROOT).join(hive.as_str())).await
    }

    /// The frames and views of a box, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the box.
    pub async fn frames_of(&self, hive: &HiveName, box_: &BoxName) -> Result<Vec<FrameRef>> {
        self.require_box(hive, box_).await?;
        let names: Vec<FrameName> = self.names_in(Path::from(ROOT).join(hive.as_str()).join(box_.as_str())).await?;
        let full = |frame| FrameRef { hive: hive.clone(), box_: box_.clone(), frame };
        Ok(names.into_iter().map(full).collect())
    }

    /// Every frame and view of the meadow, sorted, with one listing.
    pub async fn frames(&self) -> Result<Vec<FrameRef>> {
        let objects = self.backend.list(&Path::from(ROOT)).await?;
        let mut frames: Vec<_> = objects.iter().filter_map(|o| frame_of_path(&o.location)).collect();
        frames.sort();
        Ok(frames)
    }

    async fn require_hive(&self, hive: &HiveName) -> Result<()> {
        self.require(hive_path(hive), || format!("hive {hive} does not exist: CREATE HIVE {hive} makes it")).await
    }

    async fn require_box(&self, hive: &HiveName, box_: &BoxName) -> Result<()> {
        let missing = || format!("box {hive}.{box_} does not exist: CREATE BOX {hive}.{box_} makes it");
        self.require(box_path(hive, box_), missing).await
    }

    async fn require(&self, path: Path, missing: impl FnOnce() -> String) -> Result<()> {
        match self.backend.get(&path).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::not_found(missing())),
            Err(error) => Err(error),
        }
    }

    async fn create_name(&self, path: Path, if_not_exists: bool, what: &str) -> Result<()> {
        let record = NameRecord { id: uuid::Uuid::new_v4().to_string() };
        if self.backend.put_if_not_exists(&path, encode(&record)?).await? || if_not_exists {
            return Ok(());
        }
        Err(Error::already_exists(format!("{what} exists: choose another name or use IF NOT EXISTS")))
    }

    /// Names of the `.json` objects right inside `folder`; what is no name is not ours and is left out.
    async fn names_in<N: std::str::FromStr + Ord>(&self, folder: Path) -> Result<Vec<N>> {
        let listing = self.backend.store().list_with_delimiter(Some(&folder)).await?;
        let files = listing.objects.iter().filter_map(|o| o.location.filename()?.strip_suffix(".json"));
        let mut names: Vec<N> = files.filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }
}

fn hive_path(hive: &HiveName) -> Path {
    Path::from(ROOT).join(format!("{hive}.json"))
}

fn box_path(hive: &HiveName, box_: &BoxName) -> Path {
    Path::from(ROOT).join(hive.as_str()).join(format!("{box_}.json"))
}

fn frame_path(frame: &FrameRef) -> Path {
    Path::from(ROOT).join(frame.hive.as_str()).join(frame.box_.as_str()).join(format!("{}.json", frame.frame))
}

fn frame_of_path(path: &Path) -> Option<FrameRef> {
    let parts: Vec<_> = path.parts().collect();
    let [_, hive, box_, file] = &parts[..] else { return None };
    FrameRef::new(hive.as_ref(), box_.as_ref(), file.as_ref().strip_suffix(".json")?).ok()
}

/// What is said where a view stands in a frame's place.
pub(super) fn no_frame(name: &FrameRef) -> Error {
    Error::invalid(format!(
        "{name} is a view, which has no rows of its own: name the frame that it reads, as SHOW VIEWS tells; CREATE OR REPLACE \
         VIEW changes it, DROP VIEW removes it"
    ))
}

fn encode(record: &impl Serialize) -> Result<Bytes> {
    let bytes = serde_json::to_vec(record).map_err(|e| Error::internal(format!("a registry record: {e}")))?;
    Ok(bytes.into())
}

fn decode(bytes: &Bytes, name: &str) -> Result<FrameRecord> {
    if bytes.len() as u64 > MAX_RECORD {
        return Err(Error::corrupt(format!("the registry record of {name} is larger than {MAX_RECORD} bytes")));
    }
    let record: FrameRecord = serde_json::from_slice(bytes).map_err(|error| {
        Error::corrupt(format!(
            "the registry record of {name} is damaged ({error}): put _registry/{}.json back from a copy, or DROP FRAME",
            name.replace('.', "/")
        ))
    })?;
    match &record.view {
        Some(view) if view.query.len() > MAX_VIEW => Err(Error::corrupt(format!(
            "the query of the view {name} is longer than {MAX_VIEW} bytes: DROP FRAME {name} removes it"
        ))),
        _ => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryBackend;

    proptest::proptest! {
        #[test]
        fn whatever_a_record_holds_is_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            // It must not panic.
            drop(decode(&Bytes::from(bytes), "a.b.c"));
        }

        #[test]
        fn a_record_is_read_as_it_was_written(id in ".{0,20}", schema in ".{0,40}", columns in proptest::collection::vec(".{0,9}", 0..4)) {
            let record = FrameRecord { id, schema, partition_by: columns, ..FrameRecord::of(None) };
            proptest::prop_assert_eq!(decode(&encode(&record).unwrap(), "a.b.c").unwrap(), record);
        }

        #[test]
        fn a_view_is_read_as_it_was_written(query in ".{0,40}", columns in proptest::collection::vec(".{0,9}", 0..4)) {
            let (hive, box_) = (HiveName::new("h").unwrap(), BoxName::new("b").unwrap());
            let record = FrameRecord::of(Some(ViewRecord { hive, box_, columns, query }));
            proptest::prop_assert_eq!(decode(&encode(&record).unwrap(), "a.b.c").unwrap(), record);
        }
    }

    #[tokio::test]
    async fn a_view_is_put_in_the_place_of_one_alone() {
        let registry = Registry::new(Arc::new(MemoryBackend::default()));
        let (hive, box_) = (HiveName::new("h").unwrap(), BoxName::new("b").unwrap());
        registry.create_hive(&hive, false).await.unwrap();
        registry.create_box(&hive, &box_, false).await.unwrap();
        let view = |query: String| ViewRecord { hive: hive.clone(), box_: box_.clone(), columns: Vec::new(), query };
        let (one, frame): (FrameRef, FrameRef) = ("h.b.v".parse().unwrap(), "h.b.f".parse().unwrap());
        assert!(!registry.replace_view(&one, view("SELECT 1".into())).await.unwrap());
        assert!(registry.record_of(&one).await.unwrap().is_none());
        let record = FrameRecord::of(None);
        registry.create_frame(&frame, &record, false).await.unwrap();
        assert!(!registry.replace_view(&frame, view("SELECT 1".into())).await.unwrap());
        assert_eq!(registry.record_of(&frame).await.unwrap(), Some(record));
        assert!(registry.create_view(&one, view("SELECT 1".into())).await.unwrap());
        let at_once = (2..9).map(|n| registry.replace_view(&one, view(format!("SELECT {n}"))));
        let done: Vec<bool> = futures::future::try_join_all(at_once).await.unwrap();
        let query = registry.record_of(&one).await.unwrap().unwrap().view.unwrap().query;
        assert!(done.iter().zip(2..9).any(|(done, n)| *done && query == format!("SELECT {n}")), "{query}: {done:?}");
    }

    #[tokio::test]
    async fn what_took_a_views_place_is_not_dropped_for_it() {
        let registry = Registry::new(Arc::new(MemoryBackend::default()));
        let (hive, box_) = (HiveName::new("h").unwrap(), BoxName::new("b").unwrap());
        registry.create_hive(&hive, false).await.unwrap();
        registry.create_box(&hive, &box_, false).await.unwrap();
        let view = |query: &str| ViewRecord {
            hive: hive.clone(),
            box_: box_.clone(),
            columns: Vec::new(),
            query: query.into(),
        };
        let name: FrameRef = "h.b.v".parse().unwrap();
        assert!(!registry.drop_view(&name).await.unwrap());
        registry.create_view(&name, view("SELECT 1")).await.unwrap();
        let seen = registry.seen_view(&name).await.unwrap().unwrap();
        assert!(registry.replace_view(&name, view("SELECT 2")).await.unwrap());
        let dropping = FrameRecord { dropping: true, ..FrameRecord::of(None) };
        assert!(!registry.swap(&name, seen, &dropping).await.unwrap());
        assert_eq!(registry.frame_or_view(&name).await.unwrap().view, Some(view("SELECT 2")));
        // One who broke off between the mark and the end.
        let seen = registry.seen_view(&name).await.unwrap().unwrap();
        let dropping = FrameRecord { dropping: true, ..seen.record.clone() };
        assert!(registry.swap(&name, seen, &dropping).await.unwrap());
        assert!(registry.views(vec![name.clone()]).await.unwrap().is_empty());
        assert!(!registry.replace_view(&name, view("SELECT 3")).await.unwrap());
        assert!(registry.drop_view(&name).await.unwrap());
        assert!(registry.record_of(&name).await.unwrap().is_none());
    }

    #[test]
    fn a_view_is_a_frame_without_a_schema_to_those_who_know_none() {
        let view = r#"{"hive":"h","box":"b","query":"SELECT 1"}"#;
        let record = |view: &str| format!(r#"{{"id":"x","schema":"s","partition_by":[],"view":{view}}}"#);
        assert!(decode(&record(view).into(), "a.b.c").unwrap().view.is_some());
        for bad in [view.replace("\"h\"", "\"../h\""), view.replace("SELECT 1", &"x".repeat(MAX_VIEW + 1))] {
            assert_eq!(decode(&record(&bad).into(), "a.b.c").unwrap_err().kind(), ErrorKind::Corrupt);
        }
        #[derive(Deserialize)]
        struct Before {
            schema: String,
            partition_by: Vec<String>,
        }
        let view = serde_json::from_str(view).unwrap();
        let before: Before = serde_json::from_slice(&encode(&FrameRecord::of(Some(view))).unwrap()).unwrap();
        assert!(before.partition_by.is_empty());
        let error = serde_json::from_str::<delta_kernel::schema::StructType>(&before.schema).unwrap_err();
        assert!(error.to_string().contains("upgrade apiary"), "{error}");
    }
}
