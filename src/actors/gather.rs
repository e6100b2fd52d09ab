//! Small appends to one frame that meet share a cell and a commit.
//!
//! A cell costs a flush of the disk or a round trip to the storage, and so does a commit, however little they hold. While
//! one turn's rows are being written, the appends that come are gathered; the next turn writes them all, or none of them.
//! Larger appends write cells of their own, and share at most a commit ([`crate::storage::Ledger::commit`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tokio::sync::{Notify, OwnedMutexGuard, oneshot};

use super::colony::Core;
use super::write::{bytes_of, write_batch};
use crate::storage::{FrameRef, FrameState, WriteResult};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Bytes of one turn: one bee encodes them.
const TOGETHER: usize = 16 << 20;
/// Longest that a turn waits for the appends that are expected.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// The small appends of a colony.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    lines: Mutex<HashMap<FrameRef, Arc<Line>>>,
}

/// Those of one frame.
#[derive(Debug, Default)]
struct Line {
    turn: Arc<tokio::sync::Mutex<Turn>>,
    waiting: Mutex<Vec<Append>>,
    came: Notify,
}

/// What the last turn tells of the next.
#[derive(Debug, Default)]
struct Turn {
    /// Appends that it wrote, and those that came meanwhile: so many callers there are.
    expected: usize,
    took: Duration,
}

/// An append that waits; its rows are as the frame has them.
#[derive(Debug)]
struct Append {
    base: Arc<FrameState>,
    rows: RecordBatch,
    bytes: usize,
    settled: oneshot::Sender<Outcome>,
}

/// What became of an append.
#[derive(Debug)]
enum Outcome {
    /// It was written, or not for a reason that others have nothing to do with.
    Settled(Result<WriteResult>),
    /// The turn failed and wrote nothing: whose fault it was shows when each is written by itself.
    Alone(RecordBatch),
}

impl Gathering {
    /// Has rows written that are as the frame of `base` has them, by whoever has the turn next. An append whose future goes
    /// away while it waits is left out.
    ///
    /// # Errors
    /// What writing them says; [`ErrorKind::Closed`] when nobody knows.
    pub(super) async fn append(
        &self,
        core: &Arc<Core>,
        base: &Arc<FrameState>,
        rows: RecordBatch,
    ) -> Result<WriteResult> {
        let line = Arc::clone(lock(&self.lines).entry(base.frame.clone()).or_default());
        let (settled, mut outcome) = oneshot::channel();
        let bytes = bytes_of(&rows);
        lock(&line.waiting).push(Append { base: Arc::clone(base), rows, bytes, settled });
        line.came.notify_one();
        loop {
            tokio::select! {
                biased;
                outcome = &mut outcome => return match outcome {
                    Ok(Outcome::Settled(written)) => written,
                    Ok(Outcome::Alone(rows)) => write_batch(core, base, rows).await,
                    Err(_) => Err(lost()),
                },
                turn = Arc::clone(&line.turn).lock_owned() => {
                    if outcome.is_empty() {
                        // Others have a part in it: it goes on when this caller goes away.
                        core.io().spawn(Arc::clone(&line).write(Arc::clone(core), Arc::clone(base), turn));
                    }
                }
            }
        }
    }
}

impl Line {
    async fn write(self: Arc<Self>, core: Arc<Core>, base: Arc<FrameState>, mut turn: OwnedMutexGuard<Turn>) {
        self.wait_for_others(&turn).await;
        let appends = self.take(&base);
        let (count, begun) = (appends.len(), Instant::now());
        settle(&core, appends).await;
        *turn = Turn { expected: count + lock(&self.waiting).len(), took: begun.elapsed() };
    }

    /// Callers that wait for each append come again as soon as they are told. A turn that began at once would have those alone
    /// that came during the last, and the two halves would take turns for ever.
    async fn wait_for_others(&self, last: &Turn) {
        let until = tokio::time::Instant::now() + (last.took / 4).min(LONGEST_WAIT);
        while lock(&self.waiting).len() < last.expected {
            if tokio::time::timeout_at(until, self.came.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Takes those out of the line that wait with the same columns and settings.
    fn take(&self, base: &Arc<FrameState>) -> Vec<Append> {
        let mut waiting = lock(&self.waiting);
        let (mut together, mut bytes) = (Vec::new(), 0);
        for append in std::mem::take(&mut *waiting) {
            if append.settled.is_closed() {
                continue;
            }
            if bytes + append.bytes <= TOGETHER && append.base.is_table_of(base) {
                bytes += append.bytes;
                together.push(append);
            } else {
                waiting.push(append);
            }
        }
        together
    }
}

/// Writes the rows of all, and tells everybody.
async fn settle(core: &Arc<Core>, appends: Vec<Append>) {
    let Some(base) = appends.iter().map(|append| &append.base).max_by_key(|base| base.version()).cloned() else {
        return;
    };
    let together = concat_batches(&base.schema, appends.iter().map(|append| &append.rows));
    let written = match together {
        Ok(rows) => write_batch(core, &base, rows).await,
        Err(error) => Err(error.into()),
    };
    let is_alone = appends.len() == 1;
    for Append { rows, settled, .. } in appends {
        let outcome = match &written {
            Ok(written) => Outcome::Settled(Ok(share(written, &rows))),
            Err(error) if is_alone || may_have_landed(error) => Outcome::Settled(Err(error.clone())),
            Err(_) => Outcome::Alone(rows),
        };
        // Who has gone away meanwhile need not know.
        let _ = settled.send(outcome);
    }
}

/// What one of those who wrote together is told: its rows, and its share of the bytes.
fn share(written: &WriteResult, rows: &RecordBatch) -> WriteResult {
    let own = rows.num_rows() as u64;
    WriteResult { rows: own, bytes: written.bytes * own / written.rows.max(1), ..written.clone() }
}

/// Whether nobody knows what became of a commit that ended so.
pub(super) fn may_have_landed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Storage)
}

fn lost() -> Error {
    Error::closed("the write ended without a word: look at the frame's history to see whether it landed")
}
