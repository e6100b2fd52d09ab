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
    commits.truncate(limit.unwrap_or(usize::MAX));
    let read = |(version, object): (u64, ObjectMeta)| async move {
        Commit::listed(store, version, &object).await.map(|commit| commit.entry)
    };
    futures::stream::iter(commits).map(read).buffered(READS).try_collect().await
}

/// One commit as it was written.
pub(super) struct Commit {
    pub(super) entry: HistoryEntry,
    /// The ledger's names of the cells that it removed.
    pub(super) removed: Vec<String>,
}

impl Commit {
    /// One that was listed: time travel goes by the listed moments, which can be finer than those of its own request.
    pub(super) async fn listed(store: &dyn ObjectStore, version: u64, object: &ObjectMeta) -> Result<Self> {
        let bytes = store.get(&object.location).await?.bytes().await?;
        Self::parse(version, object.last_modified.timestamp_millis(), &bytes)
    }

    /// The commit of one version.
    pub(super) async fn read(store: &dyn ObjectStore, frame: &FrameRef, version: u64) -> Result<Self> {
        let found = store.get(&commit_path(frame, version)).await?;
        let modified_ms = found.meta.last_modified.timestamp_millis();
        Self::parse(version, modified_ms, &found.bytes().await?)
    }

    /// Its moment is that of its object, as for time travel, unless the table keeps moments in its commits.
    fn parse(version: u64, modified_ms: i64, bytes: &[u8]) -> Result<Self> {
        let mut removed = Vec::new();
        let mut entry = HistoryEntry {
            version,
            timestamp_ms: modified_ms,
            operation: "UNKNOWN".into(),
            rows: None,
            cells_added: 0,
            cells_removed: 0,
            engine: String::new(),
        };
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line)
                .map_err(|e| Error::corrupt(format!("version {version} of the ledger is not JSON: {e}")))?;
            entry.cells_added += usize::from(action.get("add").is_some());
            if let Some(remove) = action.get("remove") {
                removed.extend(remove.get("path").and_then(serde_json::Value::as_str).map(String::from));
            }
            if let Some(info) = action.get("commitInfo") {
                read_commit_info(&mut entry, info);
            }
        }
        entry.cells_removed = removed.len();
        Ok(Self { entry, removed })
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
