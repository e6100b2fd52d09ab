//! Going back: the newest version becomes what an older one was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use delta_kernel::scan::StatsOptions;
use delta_kernel::snapshot::SnapshotRef;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::unreadable;
use super::frame_state::FrameState;
use super::ledger::{AsOf, Inner, Ledger, frame_root, require_removable};
use super::listing::{cell_path, each_batch};
use super::log_entry::{LogEntry, check_table};
use super::names::FrameRef;
use super::vectors::vector_file_of;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Cells that are looked for at the same time.
const LOOKUPS: usize = 16;

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreResult {
    /// The version it made; the newest when that was the same already.
    pub version: u64,
    /// The version that it is like.
    pub restored: u64,
    /// Cells that came back.
    pub cells_added: usize,
    /// Cells that went.
    pub cells_removed: usize,
}

impl Ledger {
    /// Makes the newest version what another one was, with its columns and settings. Rows that came later stay in the
    /// versions between. One commit; no cell is written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a version that is not there, or whose cells a vacuum removed.
    pub(super) async fn restore(&self, frame: &FrameRef, to: AsOf) -> Result<RestoreResult> {
        let target = self.state(frame, to).await?;
        let restored = target.version();
        let counts = Arc::new(Mutex::new((0, 0)));
        let counted = Arc::clone(&counts);
        let version = self
            .amend(frame, move |ledger, newest| {
                let (entry, added, removed) = ledger.restoring(&target, newest)?;
                *lock(&counted) = (added, removed);
                Ok(entry)
            })
            .await?;
        let (cells_added, cells_removed) = *lock(&counts);
        Ok(RestoreResult { version, restored, cells_added, cells_removed })
    }
}

impl Inner {
    fn restoring(&self, target: &FrameState, newest: &FrameState) -> Result<(Option<LogEntry>, usize, usize)> {
        let (old, new) = (self.entries(&target.snapshot)?, self.entries(&newest.snapshot)?);
        let root = frame_root(&target.frame)?;
        old.keys().try_for_each(|name| cell_path(&root, name).map(drop)).map_err(|e| unreadable(&target.frame, e))?;
        let (coming, going) = (missing_in(&new, &old), missing_in(&old, &new));
        self.require_there(&target.frame, target.version(), &coming)?;
        let mut entry = LogEntry::new("RESTORE", &[("version", target.version().to_string())]);
        let (then, now) = (target.snapshot.table_configuration(), newest.snapshot.table_configuration());
        let metadata_differs = then.metadata() != now.metadata();
        if metadata_differs {
            // Features are never taken back: cells of the versions between have them.
            check_table(&newest.snapshot, then.metadata(), now.protocol())?;
            entry.push("metaData", then.metadata())?;
        }
        let moment = chrono::Utc::now().timestamp_millis();
        for cell in &going {
            entry.push("remove", &removal(cell, moment))?;
        }
        for cell in &coming {
            entry.push("add", cell)?;
        }
        if !going.is_empty() {
            require_removable(&newest.snapshot)?;
        }
        let nothing = coming.is_empty() && going.is_empty() && !metadata_differs;
        Ok(((!nothing).then_some(entry), coming.len(), going.len()))
    }

    /// The `add` of every cell of a version, by its name.
    fn entries(&self, snapshot: &SnapshotRef) -> Result<HashMap<String, Value>> {
        let mut entries = HashMap::new();
        each_batch(snapshot, self.engine.as_ref(), StatsOptions::default(), |batch| {
            for row in rows(&batch)? {
                let entry = addition(row)?;
                let name = entry["path"].as_str().unwrap_or_default().to_string();
                entries.insert(name, entry);
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn require_there(&self, frame: &FrameRef, version: u64, cells: &[&Value]) -> Result<()> {
        let root = frame_root(frame)?;
        let path = |cell: &&Value| cell_path(&root, cell["path"].as_str().unwrap_or_default());
        let vectors = cells.iter().filter_map(|cell| vector_file_of(&root, cell).transpose());
        let paths = cells.iter().map(path).chain(vectors).collect::<Result<Vec<_>>>();
        let paths = paths.map_err(|error| unreadable(frame, error))?;
        let looked = futures::stream::iter(paths).map(|path| async move {
            self.store.head(&path).await.map_err(Error::from).map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::not_found(format!(
                    "version {version} of {frame} cannot come back: its file {path} was removed by a vacuum"
                )),
                _ => error,
            })
        });
        self.io.block_on(looked.buffer_unordered(LOOKUPS).try_for_each(|_| std::future::ready(Ok(()))))
    }
}

/// The cells of `there` that are not in `other` with the same rows. How statistics are written down does not matter.
fn missing_in<'a>(other: &HashMap<String, Value>, there: &'a HashMap<String, Value>) -> Vec<&'a Value> {
    let rows = |cell: &Value| cell.get("deletionVector").cloned();
    let is_missing = |(name, cell): &(&String, &Value)| other.get(*name).map(rows) != Some(rows(cell));
    there.iter().filter(is_missing).map(|(_, cell)| cell).collect()
}

fn rows(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    // A partition value that is null is said to be so.
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let lines = writer.into_inner();
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|e| Error::internal(e.to_string()))).collect()
}

/// A scan's row about a cell as the action that brings it in.
fn addition(mut row: Map<String, Value>) -> Result<Value> {
    let constants = row.remove("fileConstantValues").and_then(|values| values.as_object().cloned());
    let mut constants = constants.ok_or_else(|| Error::internal("a cell without partition values"))?;
    row.append(&mut constants);
    row.retain(|name, value| {
        let known = [
            "path",
            "size",
            "modificationTime",
            "stats",
            "deletionVector",
            "partitionValues",
            "tags",
            "baseRowId",
            "defaultRowCommitVersion",
            "clusteringProvider",
        ];
        known.contains(&name.as_str()) && !value.is_null()
    });
    row.entry("partitionValues").or_insert_with(|| json!({}));
    row.insert("dataChange".into(), json!(true));
    Ok(Value::Object(row))
}

/// The action that takes a cell out.
fn removal(added: &Value, moment: i64) -> Value {
    let mut remove = Map::new();
    for name in ["path", "size", "deletionVector", "partitionValues", "tags", "dataChange"] {
        if let Some(value) = added.get(name) {
            remove.insert(name.into(), value.clone());
        }
    }
    remove.insert("deletionTimestamp".into(), json!(moment));
    remove.insert("extendedFileMetadata".into(), json!(true));
    Value::Object(remove)
}
