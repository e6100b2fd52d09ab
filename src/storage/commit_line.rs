//! Commits of one frame wait for each other here, and appends that wait land together.
//!
//! A commit costs a round trip to the storage or a flush of the disk, however little it holds. While one is under way, the
//! appends that come are gathered; the next commit holds them all. Each caller is told of the version that has its rows.

use std::sync::{Arc, Mutex};

use tokio::sync::{MutexGuard, oneshot};

use super::cells::CellFile;
use super::frame_state::FrameState;
use crate::sync::lock;
use crate::{Error, Result};

/// Cells of one commit at most, but for those of one append: an entry of the log is read as a whole.
const MAX_CELLS: usize = 1000;

/// What an append led to.
type Landed = Result<Arc<FrameState>>;

/// The line of one frame.
#[derive(Debug, Default)]
pub(super) struct CommitLine {
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<Append>>,
}

/// An append that waits.
#[derive(Debug)]
struct Append {
    base: Arc<FrameState>,
    cells: Vec<CellFile>,
    landed: oneshot::Sender<Landed>,
}

/// Appends that land together or not at all.
#[derive(Debug)]
pub(super) struct Group {
    base: Arc<FrameState>,
    appends: Vec<Append>,
}

impl CommitLine {
    /// Waits until nobody else of this colony commits to the frame.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Has an append committed: by whoever has the turn next, or, if that is the caller, by `commit`, which settles a group.
    /// One whose future goes away while it waits is left out.
    ///
    /// # Errors
    /// What the commit says; [`crate::ErrorKind::Closed`] when nobody knows.
    pub(super) async fn append<F>(
        &self,
        base: &Arc<FrameState>,
        cells: Vec<CellFile>,
        commit: impl Fn(Group) -> F,
    ) -> Landed
    where
        F: Future<Output = ()>,
    {
        let (landed, mut outcome) = oneshot::channel();
        lock(&self.waiting).push(Append { base: Arc::clone(base), cells, landed });
        loop {
            tokio::select! {
                biased;
                landed = &mut outcome => return landed.unwrap_or_else(|_| Err(lost())),
                _turn = self.turn.lock() => {
                    if outcome.is_empty() {
                        commit(self.group(base)).await;
                    }
                }
            }
        }
    }

    /// Takes those out of the line that wait with the same columns and settings.
    fn group(&self, base: &Arc<FrameState>) -> Group {
        let mut waiting = lock(&self.waiting);
        let (mut group, mut cells) = (Group { base: Arc::clone(base), appends: Vec::new() }, 0);
        for append in std::mem::take(&mut *waiting) {
            if append.landed.is_closed() {
                continue;
            }
            let fits = group.appends.is_empty() || cells + append.cells.len() <= MAX_CELLS;
            if !fits || !append.base.is_table_of(base) {
                waiting.push(append);
                continue;
            }
            cells += append.cells.len();
            if append.base.version() > group.base.version() {
                group.base = Arc::clone(&append.base);
            }
            group.appends.push(append);
        }
        group
    }
}

impl Group {
    /// Commits the cells of all, and tells everybody.
    pub(super) fn settle(mut self, commit: impl FnOnce(&Arc<FrameState>, &[CellFile]) -> Landed) {
        if self.appends.is_empty() {
            return;
        }
        let cells: Vec<CellFile> =
            self.appends.iter_mut().flat_map(|append| std::mem::take(&mut append.cells)).collect();
        let landed = commit(&self.base, &cells);
        for append in self.appends {
            // Who has gone away meanwhile need not know.
            let _ = append.landed.send(landed.clone());
        }
    }
}

fn lost() -> Error {
    Error::closed("the commit ended without a word: look at the frame's history to see whether it landed")
}
