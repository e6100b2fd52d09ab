//! Queries that other nodes lead: finding those that have work for this node, and following each to its end.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;

use super::attempt::{Attempt, Beatable};
use super::colony::Core;
use super::exchange::{Exchange, Listing};
use super::query::{Asked, QueryEntry};
use crate::storage::StorageBackend;
use crate::storage::swarm::beat::PROTOCOL;
use crate::storage::swarm::names::{self, Entry, QueryId, TaskId};
use crate::storage::swarm::record::{MAX_FAILURE, MAX_TASK, Manifest, TaskRecord, get_bounded};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Looks without work for this node after which it stops looking; the doorbell brings it back.
const IDLE_LOOKS: u32 = 20;
/// Between looks at first; a query that runs long is looked at less often.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// Between looks at most.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// The queries of other nodes that this one follows.
#[derive(Debug, Default)]
pub(crate) struct Following(Mutex<HashSet<QueryId>>);

impl Following {
    /// Starts to follow; `false` when somebody does already.
    fn begin(&self, query: QueryId) -> bool {
        lock(&self.0).insert(query)
    }

    fn end(&self, query: QueryId) {
        lock(&self.0).remove(&query);
    }
}

/// Looks for queries of other nodes and follows those that are new.
///
/// # Errors
/// What the store says.
pub(crate) fn scan(core: &Arc<Core>) -> BoxFuture<'_, Result<()>> {
    async move {
        for query in open_queries(core).await? {
            let ours = core.queries.find(&query).is_ok();
            if !ours && core.following.begin(query) {
                core.io().spawn(follow_to_the_end(Arc::clone(core), query));
            }
        }
        Ok(())
    }
    .boxed()
}

/// Clears away what dead leaders left: folders whose leader is dead, and folders that nobody leads and that were there at
/// the last sweep too (a leader removes its record first, and a late request may bring an object back).
pub(crate) fn sweep<'a>(core: &'a Arc<Core>, without: &'a mut HashSet<QueryId>) -> BoxFuture<'a, Result<()>> {
    async move {
        let mut now_without = HashSet::new();
        for query in open_queries(core).await? {
            if core.queries.find(&query).is_ok() {
                continue;
            }
            let manifest = match manifest(core, query).await {
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                read => read.ok().flatten(),
            };
            let dead = match manifest {
                Some(manifest) if core.heart.is_surely_dead(&manifest.leader).await => true,
                Some(manifest) if core.heart.may_lead(&manifest.leader, query) => false,
                // Its record came after its end, or before a beat that was not seen yet: the next sweep knows.
                Some(_) | None => !now_without.insert(query) || without.contains(&query),
            };
            if dead {
                tracing::info!(%query, "what a dead query left is cleared away");
                clear_away(core.meadow.backend().as_ref(), query).await?;
            }
        }
        *without = now_without;
        Ok(())
    }
    .boxed()
}

async fn open_queries(core: &Core) -> Result<Vec<QueryId>> {
    let store = core.meadow.backend().store();
    let listed = store.list_with_delimiter(Some(&Path::from(names::QUERIES))).await?;
    Ok(listed.common_prefixes.iter().filter_map(names::query_of).collect())
}

async fn manifest(core: &Core, query: QueryId) -> Result<Option<Manifest>> {
    let store = core.meadow.backend().store();
    let bytes = get_bounded(store.as_ref(), &Entry::Manifest.path(query), MAX_FAILURE).await?;
    bytes.map(|bytes| Manifest::parse(query, &bytes)).transpose()
}

fn follow_to_the_end(core: Arc<Core>, query: QueryId) -> BoxFuture<'static, ()> {
    async move {
        if let Err(error) = follow(&core, query).await {
            tracing::warn!(%error, %query, "a query of another node is not followed any more");
        }
        core.following.end(query);
    }
    .boxed()
}

/// The time until the next look at a query that has run for `elapsed`.
pub(crate) fn next_look(elapsed: Duration) -> Duration {
    (elapsed / 20).clamp(FIRST_LOOK, LAST_LOOK)
}

fn follow(core: &Arc<Core>, query: QueryId) -> BoxFuture<'_, Result<()>> {
    follow_now(core, query).boxed()
}

async fn follow_now(core: &Arc<Core>, query: QueryId) -> Result<()> {
    let Some(manifest) = manifest(core, query).await? else { return Ok(()) };
    if manifest.protocol != PROTOCOL || manifest.engine != core.heart.engine {
        return Ok(());
    }
    Follower::new(core, query, manifest).run().boxed().await
}

/// One foreign query on this node.
struct Follower<'a> {
    core: &'a Arc<Core>,
    manifest: Manifest,
    /// Its record here; dropping it stops every attempt.
    entry: QueryEntry,
    exchange: Arc<Exchange>,
    taken: HashSet<(TaskId, u32)>,
    /// Stages whose completions somebody here waits for.
    wanted: BTreeSet<u32>,
    attempts: tokio::task::JoinSet<()>,
    /// What ends them when somebody else was faster.
    beatable: Beatable,
}

impl<'a> Follower<'a> {
    fn new(core: &'a Arc<Core>, query: QueryId, manifest: Manifest) -> Self {
        let entry = core.queries.begin_as(query, Asked::Swarm, &core.token, None, core.meadow.meter());
        let store = core.meadow.counted_store(&entry.record.meter);
        let exchange = Arc::new(Exchange::new(query, core.heart.id.clone(), store));
        Self {
            core,
            manifest,
            entry,
            exchange,
            taken: HashSet::new(),
            wanted: BTreeSet::new(),
            attempts: tokio::task::JoinSet::new(),
            beatable: Beatable::default(),
        }
    }

    async fn run(mut self) -> Result<()> {
        let started = self.core.heart.now();
        let mut idle = 0;
        while idle < IDLE_LOOKS && !self.core.token.is_cancelled() {
            let wanted = self.wanted.clone();
            match self.exchange.poll(&|task| wanted.contains(&task.stage)).await {
                Ok(listing) if !listing.alive => return Ok(()),
                Ok(listing) => {
                    self.beatable.stop_beaten(&listing);
                    self.take(&listing).await;
                }
                // The store may be out of reach for a while: the attempts go on.
                Err(error) => tracing::debug!(%error, "a shared query could not be looked at"),
            }
            if self.core.heart.is_surely_dead(&self.manifest.leader).await {
                return self.clear_away().await;
            }
            while self.attempts.try_join_next().is_some() {}
            idle = if self.attempts.is_empty() { idle + 1 } else { 0 };
            if idle == IDLE_LOOKS {
                break;
            }
            tokio::time::sleep(next_look(self.core.heart.now().saturating_sub(started))).await;
        }
        Ok(())
    }

    fn take<'b>(&'b mut self, listing: &'b Listing) -> BoxFuture<'b, ()> {
        self.take_now(listing).boxed()
    }

    async fn take_now(&mut self, listing: &Listing) {
        let mut given: Vec<_> = listing.given.iter().filter(|given| !self.taken.contains(given)).copied().collect();
        // As the leader gave them: it takes the last back first. A listing has them by their names.
        given.sort_unstable();
        for (task, number) in given {
            if listing.failed.contains(&(task, number)) || listing.finished.contains(&task) {
                continue;
            }
            match self.read(task, number).await {
                Ok(Some(record)) => self.start(record, number),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, %task, "a task cannot be taken"),
            }
        }
    }

    async fn read(&mut self, task: TaskId, number: u32) -> Result<Option<TaskRecord>> {
        let path = Entry::Task(task, number, self.core.heart.id.clone()).path(self.exchange.query);
        let Some(bytes) = get_bounded(self.exchange.store.as_ref(), &path, MAX_TASK).await? else { return Ok(None) };
        // Even one that cannot be read is not read again.
        self.taken.insert((task, number));
        let record = TaskRecord::parse(&bytes)?;
        match record.header.task == task {
            true => Ok(Some(record)),
            false => Err(Error::corrupt(format!("{path} holds task {}", record.header.task))),
        }
    }

    fn start(&mut self, record: TaskRecord, number: u32) {
        let query = Arc::clone(&self.entry.record);
        query.set_options(record.header.options.clone());
        query.set_exchange(Arc::clone(&self.exchange));
        self.wanted.extend(record.header.inputs.iter().map(|(stage, _)| *stage));
        let token = self.beatable.enter(record.header.task, &query.token);
        let attempt = Attempt { query, exchange: Arc::clone(&self.exchange), task: Arc::new(record), number, token };
        self.attempts.spawn(attempt.run(Arc::clone(self.core)));
    }

    /// The leader is dead and so is its query: whoever notices clears it away.
    async fn clear_away(self) -> Result<()> {
        tracing::info!(query = %self.exchange.query, leader = %self.manifest.leader, "a dead node's query is cleared away");
        clear_away(self.core.meadow.backend().as_ref(), self.exchange.query).await
    }
}

/// Removes what a query left in the meadow; its record first, so that nobody takes more of its tasks.
///
/// # Errors
/// What the store says.
pub(crate) fn clear_away(place: &dyn StorageBackend, query: QueryId) -> BoxFuture<'_, Result<()>> {
    async move {
        place.delete(&Entry::Manifest.path(query)).await?;
        place.delete_below(&names::query(query)).await
    }
    .boxed()
}
