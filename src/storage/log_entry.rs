//! Commits that delta_kernel does not write: of a frame's metadata, and of cells that come back.
//!
//! What such a commit holds is decided by the newest version. When another takes the next version first, it is decided
//! again, so that it is as if it had come later.

use delta_kernel::actions::{Metadata, Protocol};
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::table_configuration::TableConfiguration;
use delta_kernel::table_features::Operation;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::backend::create;
use super::frame_state::FrameState;
use super::history;
use super::ledger::{ENGINE, Inner, Ledger, MAX_TRIES, backoff, pause};
use super::names::FrameRef;
use crate::{Error, ErrorKind, Result};

/// One commit's actions.
#[derive(Debug)]
pub(super) struct LogEntry {
    operation: &'static str,
    parameters: Map<String, Value>,
    actions: Vec<Value>,
}

impl LogEntry {
    /// An entry that history calls `operation`, with its parameters.
    pub(super) fn new(operation: &'static str, parameters: &[(&str, String)]) -> Self {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_string(), json!(value))).collect();
        Self { operation, parameters, actions: Vec::new() }
    }

    /// Adds an action, `{name: body}`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] for a body that is no JSON.
    pub(super) fn push(&mut self, name: &str, body: &impl Serialize) -> Result<()> {
        let body = serde_json::to_value(body).map_err(|e| Error::internal(e.to_string()))?;
        self.actions.push(json!({ name: body }));
        Ok(())
    }

    /// Its bytes, unlike those of any other entry.
    fn bytes(&self) -> Vec<u8> {
        let info = json!({ "commitInfo": {
            "timestamp": chrono::Utc::now().timestamp_millis(),
            "operation": self.operation,
            "operationParameters": self.parameters,
            "isBlindAppend": false,
            "engineInfo": ENGINE,
            "txnId": uuid::Uuid::new_v4().to_string(),
        }});
        let lines = std::iter::once(&info).chain(&self.actions).map(Value::to_string);
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    }
}

impl Ledger {
    /// Commits what `decide` makes of the newest version, and gives the version that this made; where that is nothing
    /// (`None`), the newest.
    ///
    /// # Errors
    /// Those of `decide`; [`ErrorKind::Unsupported`] for a table that keeps books which only delta_kernel keeps;
    /// [`ErrorKind::Busy`] when others were faster every time.
    pub(super) async fn amend<D>(&self, frame: &FrameRef, decide: D) -> Result<u64>
    where
        D: Fn(&Inner, &Arc<FrameState>) -> Result<Option<LogEntry>> + Send + 'static,
    {
        let line = self.line(frame);
        let _only_one_of_this_colony = line.turn().await;
        let frame = frame.clone();
        self.blocking(move |ledger| ledger.amend_blocking(&frame, decide)).await
    }
}

impl Inner {
    fn amend_blocking(
        &self,
        frame: &FrameRef,
        decide: impl Fn(&Self, &Arc<FrameState>) -> Result<Option<LogEntry>>,
    ) -> Result<u64> {
        for attempt in 0..MAX_TRIES {
            let newest = self.latest(frame)?;
            require_plain(&newest.snapshot)?;
            let Some(entry) = decide(self, &newest)? else {
                return Ok(newest.version());
            };
            let version = newest.version() + 1;
            let path = history::commit_path(frame, version);
            if self.io.block_on(create(self.store.as_ref(), &path, entry.bytes().into()))? {
                return Ok(version);
            }
            pause(backoff(attempt));
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "frame {frame} took {MAX_TRIES} other commits while this one tried: try again when less is written"
            ),
        ))
    }
}

/// Refuses tables whose every commit must say more than ours do.
fn require_plain(snapshot: &SnapshotRef) -> Result<()> {
    let table = snapshot.table_configuration();
    table.ensure_operation_supported(Operation::Write)?;
    let properties = table.table_properties();
    let refused = [
        ("delta.enableInCommitTimestamps", properties.enable_in_commit_timestamps),
        ("delta.enableRowTracking", properties.enable_row_tracking),
    ];
    match refused.iter().find(|(_, on)| *on == Some(true)) {
        Some((name, _)) => Err(Error::unsupported(format!(
            "the frame has {name}, which this statement does not keep: use the engine that set it"
        ))),
        None => Ok(()),
    }
}

/// Checks that a table with this metadata can be read and written here.
///
/// # Errors
/// What delta_kernel says is wrong with it.
pub(super) fn check_table(snapshot: &SnapshotRef, metadata: &Metadata, protocol: &Protocol) -> Result<()> {
    let (root, version) = (snapshot.table_root().clone(), snapshot.version());
    let table = TableConfiguration::try_new(metadata.clone(), protocol.clone(), root, version)?;
    table.ensure_operation_supported(Operation::Scan)?;
    Ok(table.ensure_operation_supported(Operation::Write)?)
}
