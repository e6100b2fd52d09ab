//! What a frame's ledger tells of its commits.

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::names::FrameRef;
use crate::{Error, Result};

/// Commits that are read at the same time.
const READS: usize = 8;

/// One commit of a frame.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// The version it made.
    pub version: u64,
    /// When, in milliseconds since the epoch, by the store's clock.
    pub timestamp_ms: i64,
    /// What it was, as Delta names it: `WRITE`, `CREATE TABLE`, …
    pub operation: String,
    /// Rows it added, when the writer said so.
    pub rows: Option<u64>,
    /// Cells it added.
    pub cells_added: usize,
    /// Cells it removed.
    pub cells_removed: usize,
    /// The engine that wrote it.
    pub engine: String,
}

/// The objects of a frame's commits with their versions, newest first; checkpoints are none.
pub(super) async fn commits(store: &dyn ObjectStore, frame: &FrameRef) -> Result<Vec<(u64, ObjectMeta)>> {
    let listed: Vec<_> = store.list(Some(&folder(frame))).try_collect().await?;
    let versions = listed.into_iter().filter_map(|object| Some((commit_version(&object.location)?, object)));
    let mut commits: Vec<_> = versions.collect();
    commits.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    Ok(commits)
}

pub(super) async fn read(store: &dyn ObjectStore, frame: &FrameRef, limit: Option<usize>) -> Result<Vec<HistoryEntry>> {
    let mut commits = commits(store, frame).await?;
    if commits.is_empty() {
        return Err(Error::corrupt(format!(
            "the ledger of {frame} has no entries: put {} back from a copy, or DROP FRAME",
            folder(frame)
        )));
    }
    commits.truncate(limit.unwrap_or(usize::MAX));
    let commits: Vec<_> = read_all(store, commits).try_collect().await?;
    Ok(commits.into_iter().map(|commit| commit.entry).collect())
}

/// The commits of the versions above `since`, up to `until`, oldest first.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] when the log does not go back so far any more.
pub(super) async fn between(store: &dyn ObjectStore, frame: &FrameRef, since: u64, until: u64) -> Result<Vec<Commit>> {
    let mut listed = commits(store, frame).await?;
    listed.retain(|(version, _)| (since + 1..=until).contains(version));
    listed.reverse();
    if listed.len() as u64 != until.saturating_sub(since) {
        let found = listed.iter().map(|(version, _)| *version);
        let gone = (since + 1..=until).zip(found.map(Some).chain(std::iter::repeat(None)));
        let gone =
            gone.into_iter().find(|(wanted, found)| *found != Some(*wanted)).map_or(since + 1, |(wanted, _)| wanted);
        return Err(Error::not_found(format!(
            "the entry of version {gone} is not in the ledger of {frame} any more: log clean-up removes old ones; ask for the \
             changes since a later version"
        )));
    }
    read_all(store, listed).try_collect().await
}

fn read_all(
    store: &dyn ObjectStore,
    commits: Vec<(u64, ObjectMeta)>,
) -> impl futures::Stream<Item = Result<Commit>> + use<'_> {
    let read = move |(version, object): (u64, ObjectMeta)| async move { Commit::listed(store, version, &object).await };
    futures::stream::iter(commits).map(read).buffered(READS)
}

/// One commit as it was written.
#[derive(Debug)]
pub struct Commit {
    /// What history shows of it.
    pub entry: HistoryEntry,
    /// The ledger's names of the cells that it added.
    pub added: Vec<String>,
    /// The ledger's names of the cells that it removed.
    pub removed: Vec<String>,
    /// The actions that removed cells with rows that were marked as deleted.
    pub(super) unmarked: Vec<serde_json::Value>,
    /// Whether it changed rows: one that does not only lays them out anew.
    pub changes_rows: bool,
    /// Whether its rows stand for all that were there, also when there were none.
    pub overwrites: bool,
}

impl Commit {
    /// One that was listed: time travel goes by the listed moments, which can be finer than those of its own request.
    pub(super) async fn listed(store: &dyn ObjectStore, version: u64, object: &ObjectMeta) -> Result<Self> {
        let bytes = store.get(&object.location).await?.bytes().await?;
        Self::parse(version, object.last_modified.timestamp_millis(), &object.location, &bytes)
    }

    /// The commit of one version.
    pub(super) async fn read(store: &dyn ObjectStore, frame: &FrameRef, version: u64) -> Result<Self> {
        let path = commit_path(frame, version);
        let found = store.get(&path).await?;
        let modified_ms = found.meta.last_modified.timestamp_millis();
        Self::parse(version, modified_ms, &path, &found.bytes().await?)
    }

    /// Its moment is that of its object, as for time travel, unless the table keeps moments in its commits.
    fn parse(version: u64, modified_ms: i64, path: &Path, bytes: &[u8]) -> Result<Self> {
        let (mut added, mut removed, mut changes_rows, mut overwrites) = (Vec::new(), Vec::new(), false, false);
        let mut entry = HistoryEntry {
            version,
            timestamp_ms: modified_ms,
            operation: "UNKNOWN".into(),
            rows: None,
            cells_added: 0,
            cells_removed: 0,
            engine: String::new(),
        };
        let mut unmarked = Vec::new();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line).map_err(|e| {
                Error::corrupt(format!("version {version} of the ledger is damaged ({e}): put {path} back from a copy"))
            })?;
            for (kind, paths) in [("add", &mut added), ("remove", &mut removed)] {
                let Some(file) = action.get(kind) else { continue };
                paths.extend(file.get("path").and_then(serde_json::Value::as_str).map(String::from));
                changes_rows |= file.get("dataChange").and_then(serde_json::Value::as_bool) != Some(false);
            }
            let remove = action.get("remove");
            unmarked.extend(remove.filter(|remove| remove.get("deletionVector").is_some()).cloned());
            if let Some(info) = action.get("commitInfo") {
                read_commit_info(&mut entry, info);
                let mode = info.get("operationParameters").and_then(|p| p.get("mode")?.as_str());
                overwrites = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("overwrite"));
            }
        }
        (entry.cells_added, entry.cells_removed) = (added.len(), removed.len());
        Ok(Self { entry, added, removed, unmarked, changes_rows, overwrites })
    }
}

pub(super) fn folder(frame: &FrameRef) -> Path {
    Path::from(frame.folder()).join("_delta_log")
}

/// Where the commit of one version is.
pub(super) fn commit_path(frame: &FrameRef, version: u64) -> Path {
    folder(frame).join(format!("{version:020}.json"))
}

pub(super) fn commit_version(path: &Path) -> Option<u64> {
    let digits = path.filename()?.strip_suffix(".json")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn read_commit_info(entry: &mut HistoryEntry, info: &serde_json::Value) {
    let text = |key: &str| info.get(key).and_then(|v| v.as_str());
    entry.timestamp_ms =
        info.get("inCommitTimestamp").and_then(serde_json::Value::as_i64).unwrap_or(entry.timestamp_ms);
    entry.operation = text("operation").unwrap_or("UNKNOWN").to_string();
    entry.engine = text("engineInfo").unwrap_or_default().to_string();
    let metrics = info.get("operationMetrics");
    let rows = metrics.and_then(|m| m.get("numOutputRows").or_else(|| m.get("num_added_rows")));
    entry.rows = rows.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines that are nearly entries of a log.
    fn entry() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            "add",
            "remove",
            "commitInfo",
            "path",
            "dataChange",
            "operationParameters",
            "mode",
            "[a-z]{0,3}"
        ];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,6}".prop_map(serde_json::Value::from),
        ];
        let value = leaf.prop_recursive(4, 16, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
                prop::collection::btree_map(word.clone(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        });
        let lines = prop::collection::vec(value, 0..4)
            .prop_map(|lines| lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into_bytes());
        prop_oneof![lines, prop::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn whatever_an_entry_holds_is_read_or_refused(bytes in entry()) {
            let parsed = Commit::parse(7, 0, &Path::default(), &bytes);
            if let Ok(commit) = parsed {
                prop_assert_eq!(commit.entry.cells_added, commit.added.len());
                prop_assert_eq!(commit.entry.cells_removed, commit.removed.len());
            }
        }
    }
}
