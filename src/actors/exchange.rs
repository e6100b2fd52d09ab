//! How one query's tasks on different nodes get at each other's rows: what is done, by whom, and where the rows are.
//!
//! Every node that works for the query has one. The leader's monitor or the follower's loop feeds it from listings;
//! consumers wait on it and read ranges of their producers' objects.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use tokio::sync::Notify;

use super::scratch::StageFolder;
use crate::storage::swarm::board::Extra;
use crate::storage::swarm::names::{self, Entry, NodeId, QueryId, TaskId};
use crate::storage::swarm::output::read_partition;
use crate::storage::swarm::record::{DoneRecord, MAX_DONE, get_bounded};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Completions that are read at the same time.
const READS: usize = 8;

/// See the module.
pub(crate) struct Exchange {
    pub(crate) query: QueryId,
    pub(crate) me: NodeId,
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Where the rows are when no other node takes part.
    folder: Option<Weak<StageFolder>>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    done: HashMap<TaskId, Arc<DoneRecord>>,
    abandoned: Option<Error>,
    extra: Extra,
}

/// What a look at the query's folder showed.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Whether the query lives.
    pub(crate) alive: bool,
    /// Attempts given to this node.
    pub(crate) given: Vec<(TaskId, u32)>,
    /// Attempts that failed.
    pub(crate) failed: Vec<(TaskId, u32)>,
    /// Every task that is done, read or not.
    pub(crate) finished: HashSet<TaskId>,
}

/// What the other nodes' tasks cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) nodes: usize,
    pub(crate) exchanged: u64,
    pub(crate) extra: Extra,
    pub(crate) memory_peak: u64,
    pub(crate) spilled: u64,
    pub(crate) requests: u64,
    pub(crate) hedges: u64,
    pub(crate) bytes_read: u64,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("query", &self.query).finish_non_exhaustive()
    }
}

impl Exchange {
    /// An exchange through the meadow.
    pub(crate) fn new(query: QueryId, me: NodeId, store: Arc<dyn ObjectStore>) -> Self {
        Self { query, me, store, folder: None, state: Mutex::default(), changed: Notify::new() }
    }

    /// An exchange of a node with itself; nothing of it is told through objects but the rows.
    pub(crate) fn within(query: QueryId, me: NodeId, folder: &Arc<StageFolder>) -> Self {
        let (store, folder) = (folder.store(), Some(Arc::downgrade(folder)));
        Self { query, me, store, folder, state: Mutex::default(), changed: Notify::new() }
    }

    /// Whether no other node takes part.
    pub(crate) fn is_alone(&self) -> bool {
        self.folder.is_some()
    }

    /// The folder that rows are written to, where it is not the meadow; it stays while somebody has it.
    ///
    /// # Errors
    /// `Cancelled` when the query has ended.
    pub(crate) fn folder(&self) -> Result<Option<Arc<StageFolder>>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        folder.upgrade().map(Some).ok_or_else(|| Error::cancelled("the query has ended"))
    }

    /// Looks at the query's folder, and reads the completions of tasks that are `wanted`.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn poll<'a>(&'a self, wanted: &'a (dyn Fn(TaskId) -> bool + Sync)) -> BoxFuture<'a, Result<Listing>> {
        async move {
            let (listing, fresh) = self.list(wanted).await?;
            let reads = fresh.into_iter().map(|task| self.read_done(task));
            for read in futures::stream::iter(reads).buffer_unordered(READS).collect::<Vec<_>>().await {
                match read {
                    Ok(Some((task, record))) => self.learned(task, record),
                    Ok(None) => {}
                    // It will not get better, and nobody may write another.
                    Err(error) if error.kind() == ErrorKind::Corrupt => self.abandon(error),
                    Err(error) => tracing::debug!(%error, "a completion could not be read; tried again"),
                }
            }
            Ok(listing)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        wanted: &'a (dyn Fn(TaskId) -> bool + Sync),
    ) -> BoxFuture<'a, Result<(Listing, Vec<TaskId>)>> {
        async move {
            let folder = names::query(self.query);
            let (mut listing, mut fresh) = (Listing::default(), Vec::new());
            let mut objects = self.store.list(Some(&folder));
            while let Some(object) = objects.next().await {
                match Entry::parse(&object?.location).map(|(_, entry)| entry) {
                    Some(Entry::Manifest) => listing.alive = true,
                    Some(Entry::Task(task, attempt, node)) if node == self.me => listing.given.push((task, attempt)),
                    Some(Entry::Failed(task, attempt)) => listing.failed.push((task, attempt)),
                    Some(Entry::Done(task)) => {
                        listing.finished.insert(task);
                        if wanted(task) && self.done(task).is_none() {
                            fresh.push(task);
                        }
                    }
                    _ => {}
                }
            }
            Ok((listing, fresh))
        }
        .boxed()
    }

    fn read_done(&self, task: TaskId) -> BoxFuture<'_, Result<Option<(TaskId, DoneRecord)>>> {
        async move {
            let path = Entry::Done(task).path(self.query);
            let bytes = get_bounded(self.store.as_ref(), &path, MAX_DONE).await?;
            bytes.map(|bytes| Ok((task, DoneRecord::parse(&bytes)?))).transpose()
        }
        .boxed()
    }

    /// A task is done.
    pub(crate) fn learned(&self, task: TaskId, record: DoneRecord) {
        let header = &record.header;
        tracing::debug!(%task, attempt = header.attempt, node = %header.node, ms = header.cost.elapsed_ms, "a task is done");
        self.lock().done.entry(task).or_insert_with(|| Arc::new(record));
        self.changed.notify_waiters();
    }

    /// The query is given up: everybody who waits gets `error`.
    pub(crate) fn abandon(&self, error: Error) {
        self.lock().abandoned.get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// Notes the attempts beyond the first.
    pub(crate) fn count_attempts(&self, extra: Extra) {
        self.lock().extra = extra;
    }

    /// The completion of `task`, if it is known.
    pub(crate) fn done(&self, task: TaskId) -> Option<Arc<DoneRecord>> {
        self.lock().done.get(&task).cloned()
    }

    /// Whether every task of these stages is known to be done.
    pub(crate) fn has_all(&self, inputs: &[(u32, u32)]) -> bool {
        let state = self.lock();
        let mut tasks = inputs.iter().flat_map(|(stage, tasks)| (0..*tasks).map(|task| TaskId { stage: *stage, task }));
        tasks.all(|task| state.done.contains_key(&task))
    }

    /// Waits until every task of these stages is done.
    ///
    /// # Errors
    /// Why the query was given up.
    pub(crate) async fn wait_for_all(&self, inputs: &[(u32, u32)]) -> Result<()> {
        self.wait(|| self.has_all(inputs).then_some(())).await
    }

    /// The batches of one partition of a task, once it is done.
    pub(crate) fn read(self: &Arc<Self>, task: TaskId, partition: usize) -> BoxStream<'static, Result<RecordBatch>> {
        let exchange = Arc::clone(self);
        let opened = async move {
            let done = exchange.wait(|| exchange.done(task)).await?;
            let path = Entry::Output(task, done.header.attempt, done.header.salt).path(exchange.query);
            Ok::<_, Error>(read_partition(Arc::clone(&exchange.store), path, &done, partition))
        };
        futures::stream::once(opened).try_flatten().boxed()
    }

    /// What the tasks of other nodes cost, and all of them exchanged.
    pub(crate) fn totals(&self) -> Totals {
        let state = self.lock();
        let nodes: HashSet<&NodeId> = state.done.values().map(|d| &d.header.node).chain([&self.me]).collect();
        let mut totals = Totals { nodes: nodes.len(), extra: state.extra, ..Totals::default() };
        for record in state.done.values().map(|d| &d.header) {
            totals.exchanged += if self.is_alone() { 0 } else { record.cost.bytes_written };
            if record.node == self.me {
                continue;
            }
            totals.memory_peak = totals.memory_peak.max(record.cost.memory_peak);
            totals.spilled += record.cost.spilled;
            totals.requests += record.cost.requests;
            totals.hedges += record.cost.hedges;
            totals.bytes_read += record.cost.bytes_read;
        }
        totals
    }

    async fn wait<T>(&self, found: impl Fn() -> Option<T>) -> Result<T> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = found() {
                return Ok(found);
            }
            if let Some(error) = self.lock().abandoned.clone() {
                return Err(error);
            }
            changed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}
