//! The guard over the process's memory: what the allocator gave out must stay within the node's budget and a fixed
//! overhead, also where operators do not tell what they take.
//!
//! While queries run, it looks a hundred times a second; a query is abandoned when the process holds too much.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::colony::Core;
use super::query::{Queries, QueryRecord};
use super::settings::machine_memory;
use crate::memory::{held, lent, resident_without_files, trim};
use crate::size::format_size;
use crate::{Error, ErrorKind};

/// Bytes over the budget that the process may hold: plans, footers, buffers on their way, and what was there before.
pub(crate) const OVERHEAD: u64 = 100 << 20;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Time in which an abandoned query is expected to let go of what it holds.
const LETTING_GO: Duration = Duration::from_millis(500);
/// Bytes that were given back since memory was trimmed, for another time to be worth it.
const WORTH_TRIMMING: u64 = 64 << 20;
/// Time without a query after which there will be none for a while.
const REST: Duration = Duration::from_secs(1);
/// Younger queries are not suspected: what they took is next to nothing.
const SUSPECT: Duration = Duration::from_millis(20);

/// Budgets of all colonies of the process: what they hold cannot be told apart.
static BUDGETS: AtomicU64 = AtomicU64::new(0);

/// A colony's budget, which counts while this lives.
#[derive(Debug)]
pub(crate) struct Budget(u64);

impl Budget {
    pub(crate) fn of(bytes: u64) -> Self {
        BUDGETS.fetch_add(bytes, Ordering::Relaxed);
        Self(bytes)
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        BUDGETS.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Looks after the memory of the colony behind `core` until it stops.
pub(crate) async fn guard(core: Weak<Core>) {
    // Without a count there is nothing to go by.
    if held().is_none() {
        return;
    }
    let Some((queries, token)) = core.upgrade().map(|core| (Arc::clone(&core.queries), core.token.clone())) else {
        return;
    };
    let mut abandoned: Option<(Instant, u64, Arc<QueryRecord>)> = None;
    let (mut most, mut resting, mut was_over) = (0, 0, false);
    let mut trimming: Option<JoinHandle<()>> = None;
    while !token.is_cancelled() {
        if queries.is_empty() {
            resting = held().unwrap_or(0).saturating_sub(lent());
            tokio::select! {
                () = next_query(&core, &queries) => {}
                () = token.cancelled() => return,
            }
        }
        tokio::time::sleep(LOOK).await;
        let Some(core) = core.upgrade() else { return };
        let held = held().unwrap_or(0);
        resting = resting.min(held.saturating_sub(lent()));
        // What was there before the queries, and what their askers keep, is not theirs.
        let limit = BUDGETS.load(Ordering::Relaxed) + lent() + OVERHEAD.max(resting + OVERHEAD / 2);
        let machine = machine_limit(held, limit).max(lent() + resting + OVERHEAD / 2);
        // Where only the machine is short, what is free and kept goes first.
        let may_wait = held <= limit && !was_over;
        let limit = limit.min(machine);
        was_over = held > limit;
        most = held.max(most);
        // What is free and kept for the next piece is in memory, too: where that is short, nothing is kept.
        let is_short = held > BUDGETS.load(Ordering::Relaxed) / 2;
        if (is_short || most - held > WORTH_TRIMMING) && trimming.as_ref().is_none_or(JoinHandle::is_finished) {
            most = held;
            // It takes the allocator's locks for milliseconds.
            trimming = Some(core.io().spawn_blocking(trim));
        }
        match &abandoned {
            Some((at, before, query)) if at.elapsed() > LETTING_GO => {
                // Nothing works for it any more, on no bee, and it is not less: this is not what queries hold.
                let gone = Arc::strong_count(query) == 1;
                resting = if gone && held > limit && held >= *before { held.saturating_sub(lent()) } else { resting };
                abandoned = None;
            }
            None if held > limit && !may_wait => {
                if let Some(query) = heaviest(&core) {
                    tracing::warn!(query = %query.id, held, limit, "the process holds too much memory: a query is abandoned");
                    query.abandon(too_much(held, limit));
                    abandoned = Some((Instant::now(), held, query));
                }
            }
            _ => {}
        }
    }
}

/// Bytes that may be held without what else the process has coming near to all that the machine, or the cgroup, has: close
/// to it, the system takes the pages of the program itself away, and everything stands still before the process is killed.
fn machine_limit(held: u64, limit: u64) -> u64 {
    let machine = machine_memory();
    // It is asked only where it may be less than the limit.
    if limit < machine / 2 {
        return u64::MAX;
    }
    let uncounted = resident_without_files().map_or(0, |resident| resident.saturating_sub(held));
    (machine - machine / 8).saturating_sub(uncounted)
}

/// Waits for a query. In the meantime nothing that is free is kept.
async fn next_query(core: &Weak<Core>, queries: &Queries) {
    if tokio::time::timeout(REST, queries.begun()).await.is_ok() {
        return;
    }
    if let Some(core) = core.upgrade() {
        core.io().spawn_blocking(trim);
    }
    queries.begun().await;
}

/// The query that most likely holds it: the one whose operators say that they hold most, when that explains anything; else
/// the one that began last, because before it there was room.
fn heaviest(core: &Core) -> Option<Arc<QueryRecord>> {
    let mut running = core.queries.running();
    running.retain(|query| query.age() > SUSPECT && query.may_be_abandoned());
    let told: u64 = running.iter().map(|query| query.holds()).sum();
    let most = running.iter().max_by_key(|query| query.holds()).cloned();
    if told > core.settings.node_memory() / 2 { most } else { running.pop() }
}

fn too_much(held: u64, limit: u64) -> Error {
    Error::new(
        ErrorKind::MemoryExceeded,
        format!(
            "the process held {} where {} are the most (its budget and {} or more over it, and what the machine's {} have room for), \
             and this query was the likeliest cause: ask for less at a time, or give the colony more memory",
            format_size(held),
            format_size(limit),
            format_size(OVERHEAD),
            format_size(machine_memory())
        ),
    )
}
