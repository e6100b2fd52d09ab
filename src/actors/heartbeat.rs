//! The actor that keeps this node's beat, and what it knows of the swarm.
//!
//! How often it asks follows what goes on. A node that neither takes tasks of others nor leads a shared query asks
//! nothing at all; one that takes tasks but is alone looks at the doorbell once a minute; company makes it beat; work
//! makes it quick.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore};
use serde::Serialize;
use tokio::sync::Notify;

use super::colony::Core;
use super::foreign;
use super::pace::{LOCAL, Mood, NEVER, Pace, REMOTE, STAYS_QUICK};
use super::settings::Settings;
use crate::Result;
use crate::sql::distribution::engine;
use crate::storage::Meadow;
use crate::storage::cached::{CacheStats, CellCache};
use crate::storage::swarm::beat::{Beat, MAX_BEAT, PROTOCOL, Running};
use crate::storage::swarm::board::Candidate;
use crate::storage::swarm::names::{self, NodeId, QueryId};
use crate::storage::swarm::record::get_bounded;
use crate::storage::swarm::view::{Life, Seen, Sighting, SwarmView};
use crate::sync::lock;

/// Time that a beat must have been watched without a change before anybody removes it.
const SWEEP_AFTER: Duration = Duration::from_secs(180);
/// What this node's clock shows when it starts: beats that are older than the node still have an age.
const EPOCH: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Least time between two rings for nodes that doze.
const RING_GAP: Duration = Duration::from_secs(20);
/// Bees of one node that are believed.
const MAX_BEES: usize = 1024;
/// Beats that are read at the same time.
const READS: usize = 16;
/// Least time between two beats, however much changes.
const BEAT_GAP: Duration = Duration::from_millis(100);

/// One node as `swarm` and `system.nodes` show it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeInfo {
    /// This run of the node.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `alive`, `dozing` (alone so far: it comes when it is rung for), `suspect` or `dead`.
    pub state: String,
    /// Whether it is the node that tells this.
    pub here: bool,
    /// Bees that take tasks of others.
    pub bees: usize,
    /// Memory of one bee, in bytes.
    pub bee_memory: u64,
    /// How loaded it is, 0..=1.
    pub temperature: f64,
    /// Attempts it works on.
    pub tasks: usize,
    /// Queries it leads.
    pub leading: usize,
    /// Requests to storage since it started.
    pub requests: u64,
    /// Bytes that it keeps of remote cells.
    pub cached: u64,
    /// Its version of Apiary.
    pub version: String,
    /// Milliseconds since its beat was seen to change.
    pub silent_ms: u64,
}

/// What this node tells and knows of the swarm.
#[derive(Debug)]
pub(crate) struct Heart {
    pub(crate) id: NodeId,
    pub(crate) engine: String,
    name: String,
    joined: bool,
    bees: usize,
    bee_memory: u64,
    pace: Pace,
    meadow: Meadow,
    cache: Option<Arc<CellCache>>,
    born: Instant,
    state: Mutex<State>,
    /// Held while the beat is written or removed.
    writing: tokio::sync::Mutex<()>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    view: SwarmView,
    running: HashSet<Running>,
    waiting: HashSet<Running>,
    leading: HashSet<QueryId>,
    sequence: u64,
    beaten: Option<Duration>,
    /// What is running or led has changed since the last beat.
    stale: bool,
    /// The node has said goodbye.
    left: bool,
    listed: Option<Duration>,
    looked: Option<Duration>,
    bell: Option<String>,
    rung: Option<Duration>,
    swept: Option<Duration>,
    /// Query folders without a record at the last sweep.
    without_record: HashSet<QueryId>,
    busy: Option<Duration>,
    latency: Duration,
    temperature: f64,
}

impl Heart {
    pub(crate) fn new(settings: &Settings, meadow: &Meadow, cache: Option<Arc<CellCache>>) -> Result<Self> {
        Ok(Self {
            id: NodeId::new_for(&settings.name),
            engine: engine()?,
            name: settings.name.clone(),
            joined: settings.join,
            bees: settings.bee_count(),
            bee_memory: settings.bee_memory(),
            pace: if meadow.backend().is_local() { LOCAL } else { REMOTE },
            meadow: meadow.clone(),
            cache,
            born: Instant::now(),
            // Nodes are often started together: each is quick to notice the others.
            state: Mutex::new(State { busy: Some(EPOCH), ..State::default() }),
            writing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// This node's monotonic clock.
    pub(crate) fn now(&self) -> Duration {
        EPOCH + self.born.elapsed()
    }

    /// What this node keeps of remote cells.
    pub(crate) fn cache(&self) -> CacheStats {
        self.cache.as_ref().map(|cache| cache.stats()).unwrap_or_default()
    }

    /// Keeps nothing more of remote cells, or again.
    pub(crate) fn pause_cache(&self, pause: bool) {
        if let Some(cache) = &self.cache {
            cache.pause_writes(pause);
        }
    }

    /// Gives the cache's folder back.
    pub(crate) fn close_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.close();
        }
    }

    /// How long one request takes, by the last listing.
    pub(crate) fn latency(&self) -> Duration {
        self.state().latency
    }

    /// This node has taken an attempt, and has it until the guard is dropped.
    pub(crate) fn takes(self: &Arc<Self>, attempt: Running) -> Stays {
        self.change(|s| s.waiting.insert(attempt));
        let heart = Arc::clone(self);
        Stays(Some(Box::new(move || heart.change(|s| s.waiting.remove(&attempt) | s.running.remove(&attempt)))))
    }

    /// This node begins to work on an attempt that it has taken.
    pub(crate) fn runs(&self, attempt: Running) {
        self.change(|s| s.waiting.remove(&attempt) | s.running.insert(attempt));
    }

    /// This node leads a query until the guard is dropped; its beat says so before this returns.
    pub(crate) async fn leads(self: &Arc<Self>, query: QueryId) -> Result<Stays> {
        self.change(|s| s.leading.insert(query));
        let heart = Arc::clone(self);
        let stays = Stays(Some(Box::new(move || heart.change(|s| s.leading.remove(&query)))));
        self.beat().await?;
        Ok(stays)
    }

    /// Tells the others that there is news.
    pub(crate) async fn ring(&self) -> Result<()> {
        self.meadow.backend().put(&names::doorbell(), uuid::Uuid::new_v4().to_string().into()).await
    }

    /// The nodes that tasks may be given to, this one among them, as they look now.
    pub(crate) async fn workers(&self) -> Result<Vec<Candidate>> {
        self.list().await?;
        self.wake_dozing().await?;
        Ok(self.candidates())
    }

    /// As [`Heart::workers`], by what is known already.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let state = self.state();
        let mut all: Vec<Candidate> = Vec::new();
        for (id, seen, life) in self.others(&state) {
            let Some(beat) = &seen.beat else { continue };
            let fits = beat.protocol == PROTOCOL && beat.engine == self.engine;
            all.push(Candidate {
                id: id.clone(),
                bees: beat.bees.min(MAX_BEES),
                bee_memory: beat.bee_memory,
                look: beat.look(),
                fit: fits && life == Life::Alive,
                dead: life == Life::Dead,
            });
        }
        all.push(Candidate {
            id: self.id.clone(),
            bees: self.bees,
            bee_memory: self.bee_memory,
            look: NEVER,
            fit: true,
            dead: false,
        });
        all
    }

    /// Attempts of `query` that nodes say they work on, and those that they say wait.
    pub(crate) fn attempts(&self, query: QueryId) -> (Vec<Running>, Vec<Running>) {
        let state = self.state();
        let of_query = |all: &mut dyn Iterator<Item = &Running>| all.filter(|r| r.query == query).copied().collect();
        let others = || self.others(&state).filter_map(|(_, seen, _)| seen.beat.as_ref());
        let running = of_query(&mut others().flat_map(|b| &b.running).chain(&state.running));
        let waiting = of_query(&mut others().flat_map(|b| &b.waiting).chain(&state.waiting));
        (running, waiting)
    }

    /// Whether `node` may lead `query`, by its last beat.
    pub(crate) fn may_lead(&self, node: &NodeId, query: QueryId) -> bool {
        self.state().view.may_lead(node, query)
    }

    /// Every attempt that living nodes say they work on.
    pub(crate) async fn tasks(&self) -> Result<Vec<(NodeId, Running)>> {
        self.list().await?;
        let state = self.state();
        let living = self.others(&state).filter(|(.., life)| *life != Life::Dead);
        let beats = living.filter_map(|(id, seen, _)| Some((id, seen.beat.as_ref()?)));
        let theirs = beats.flat_map(|(id, beat)| beat.running.iter().map(move |r| (id.clone(), *r)));
        let ours = state.running.iter().map(|r| (self.id.clone(), *r));
        Ok(theirs.chain(ours).collect())
    }

    /// Whether `node` is dead by a listing made after the question: a beat comes before anything else that a node writes,
    /// so one that is not known yet is only new.
    pub(crate) async fn is_surely_dead(&self, node: &NodeId) -> bool {
        let dead = || self.state().view.life(node) == Life::Dead;
        dead() && self.list().await.is_ok() && dead()
    }

    /// Every node, as it looks now.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        self.list().await?;
        let (now, state) = (self.now(), self.state());
        let info = |(id, seen, life): (&NodeId, &Seen, Life)| {
            let beat = seen.beat.as_ref()?;
            Some(NodeInfo {
                id: id.to_string(),
                name: beat.name.clone(),
                state: life.as_str().into(),
                here: *id == self.id,
                bees: beat.bees,
                bee_memory: beat.bee_memory,
                temperature: beat.temperature,
                tasks: beat.running.len(),
                leading: beat.leading.len(),
                requests: beat.requests,
                cached: beat.cached,
                version: beat.version.clone(),
                silent_ms: seen.silent(now).as_millis() as u64,
            })
        };
        Ok(state.view.nodes().filter_map(info).collect())
    }

    /// Takes the beat away: the others know at their next listing.
    pub(crate) async fn leave(&self) {
        // Not beside a beat that is being written: it would stay.
        let _alone = self.writing.lock().await;
        let beaten = {
            let mut state = self.state();
            state.left = true;
            state.beaten.take().is_some()
        };
        if beaten && let Err(error) = self.meadow.backend().delete(&names::beat(&self.id)).await {
            tracing::warn!(%error, "this node's beat is left behind: the others will notice that it stopped");
        }
    }

    /// Rings for nodes that doze: they will be there for the next query.
    async fn wake_dozing(&self) -> Result<()> {
        let now = self.now();
        let due = {
            let mut state = self.state();
            let dozing = self.others(&state).any(|(_, _, life)| life == Life::Dozing);
            let due = dozing && state.rung.is_none_or(|at| now > at + RING_GAP);
            state.rung = if due { Some(now) } else { state.rung };
            due
        };
        if due { self.ring().await } else { Ok(()) }
    }

    /// Does what is due, and says when something will be.
    async fn tick(&self, core: &Arc<Core>) -> Duration {
        self.state().temperature = core.temperature();
        let due = self.due();
        if due.beat {
            warn("the heartbeat could not be written", self.beat().await);
        }
        if due.list {
            warn("the heartbeats could not be listed", self.list().await);
        }
        if due.sweep {
            let mut without = std::mem::take(&mut self.state().without_record);
            warn("dead queries could not be swept", foreign::sweep(core, &mut without).await);
            let now = self.now();
            let mut state = self.state();
            (state.without_record, state.swept) = (without, Some(now));
        }
        if due.look {
            match self.look().await {
                Ok(true) => {
                    warn("the heartbeats could not be listed", self.list().await);
                    let scanned = foreign::scan(core).await;
                    if scanned.is_err() {
                        // As if it had not been heard: the next look hears it again.
                        self.state().bell = None;
                    }
                    warn("the shared queries could not be listed", scanned);
                }
                other => warn("the doorbell could not be read", other.map(|_| ())),
            }
        }
        self.due().wait
    }

    fn due(&self) -> Due {
        let now = self.now();
        let state = self.state();
        if !self.joined && state.leading.is_empty() {
            return Due { beat: false, list: false, look: false, sweep: false, wait: NEVER };
        }
        let mood = self.mood(&state, now);
        let (beat, look) = self.pace.intervals(mood);
        let alone = mood == Mood::Alone;
        // Who works for a leader must see soon that it died, and a leader that its workers did.
        let list = if state.is_busy() { self.pace.busy_beat } else { self.pace.list };
        let left =
            |last: Option<Duration>, every: Duration| last.map_or(Duration::ZERO, |l| (l + every).saturating_sub(now));
        let beat_in = left(state.beaten, if state.stale { BEAT_GAP } else { beat });
        let list_in = left(state.listed, if alone { list.max(self.pace.alone_beat) } else { list });
        let look_in = if self.joined { left(state.looked, look) } else { NEVER };
        // Leftovers harm nobody: a node that is alone looks for them when it starts, one with company now and then.
        let sweep_in = match self.joined && state.beaten.is_some() {
            true => left(state.swept, if alone { self.pace.sweep.max(self.pace.alone_beat) } else { self.pace.sweep }),
            false => NEVER,
        };
        Due {
            sweep: sweep_in.is_zero(),
            beat: beat_in.is_zero(),
            list: list_in.is_zero(),
            look: look_in.is_zero(),
            wait: beat_in.min(list_in).min(look_in).min(sweep_in).max(Duration::from_millis(5)),
        }
    }

    fn mood(&self, state: &State, now: Duration) -> Mood {
        if state.is_busy() || state.busy.is_some_and(|at| now < at + STAYS_QUICK) {
            return Mood::Quick;
        }
        if self.others(state).all(|(_, _, life)| life == Life::Dead) { Mood::Alone } else { Mood::Company }
    }

    fn others<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (&'a NodeId, &'a Seen, Life)> {
        state.view.nodes().filter(|(id, ..)| **id != self.id)
    }

    fn beat(&self) -> BoxFuture<'_, Result<()>> {
        self.beat_now().boxed()
    }

    async fn beat_now(&self) -> Result<()> {
        let _alone = self.writing.lock().await;
        if self.state().left {
            return Ok(());
        }
        let (beat, first) = {
            let now = self.now();
            let mut state = self.state();
            let mood = self.mood(&state, now);
            let (interval, look) = self.pace.intervals(mood);
            state.sequence += 1;
            state.stale = false;
            let first = state.beaten.replace(now).is_none();
            let beat = Beat {
                protocol: PROTOCOL,
                engine: self.engine.clone(),
                id: self.id.clone(),
                name: self.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                sequence: state.sequence,
                interval_ms: interval.as_millis() as u64,
                look_ms: look.as_millis() as u64,
                dozes: mood == Mood::Alone && self.pace.alone_beat == NEVER,
                bees: if self.joined { self.bees } else { 0 },
                bee_memory: self.bee_memory,
                temperature: state.temperature,
                requests: self.meadow.meter().read().requests(),
                cached: self.cache().bytes,
                running: state.running.iter().copied().collect(),
                waiting: state.waiting.iter().copied().collect(),
                leading: state.leading.iter().copied().collect(),
            };
            (beat, first)
        };
        self.meadow.backend().put(&names::beat(&self.id), beat.to_bytes()?).await?;
        if first && self.joined {
            self.ring().await?;
        }
        Ok(())
    }

    fn list(&self) -> BoxFuture<'_, Result<()>> {
        self.list_now().boxed()
    }

    async fn list_now(&self) -> Result<()> {
        let store = self.meadow.backend().store();
        let stranger = {
            let state = self.state();
            state.beaten.is_none() && state.listed.is_none()
        };
        // A beat is old only beside something new: who has no beat of its own leaves a mark first.
        if stranger && let Err(error) = self.meadow.backend().put(&names::mark(), Bytes::new()).await {
            tracing::debug!(%error, "the ages of heartbeats are not known");
        }
        let asked = Instant::now();
        let objects: Vec<ObjectMeta> = store.list(Some(&Path::from(names::HEARTBEATS))).try_collect().await?;
        let newest = objects.iter().map(|o| o.last_modified).max();
        let sighting = |object: &ObjectMeta| {
            let node = names::beat_of(&object.location)?;
            let age = newest.and_then(|n| (n - object.last_modified).to_std().ok()).unwrap_or_default();
            Some(Sighting { node, tag: tag_of(object), age })
        };
        let sightings: Vec<Sighting> = objects.iter().filter_map(sighting).collect();
        let news = {
            let now = self.now();
            let mut state = self.state();
            state.latency = asked.elapsed();
            state.listed = Some(now);
            // Somebody who took it for dead removed it: it is not.
            state.stale |= state.beaten.is_some() && !sightings.iter().any(|s| s.node == self.id);
            state.view.observe(now, sightings)
        };
        let reads = news.into_iter().map(|node| self.read_beat(node));
        for beat in futures::stream::iter(reads).buffer_unordered(READS).collect::<Vec<_>>().await {
            match beat {
                Ok(Some(beat)) => self.state().view.learned(beat),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a beat is passed over"),
            }
        }
        self.sweep().await;
        Ok(())
    }

    fn read_beat(&self, node: NodeId) -> BoxFuture<'_, Result<Option<Beat>>> {
        async move {
            let bytes = get_bounded(self.meadow.backend().store().as_ref(), &names::beat(&node), MAX_BEAT).await?;
            bytes.map(|bytes| Beat::parse(&node, &bytes)).transpose()
        }
        .boxed()
    }

    /// Removes the beats of nodes that are dead for everybody by now.
    async fn sweep(&self) {
        let dead: Vec<NodeId> = {
            let state = self.state();
            // One that dozes and did not come when it was rung for is dead too, only later.
            let gone = |id: &NodeId, life: Life| match life {
                Life::Dead => state.view.watched(id) > SWEEP_AFTER,
                Life::Dozing => *id != self.id && state.view.watched(id) > SWEEP_AFTER * 5,
                Life::Alive | Life::Suspect => false,
            };
            state.view.nodes().filter(|(id, _, life)| gone(id, *life)).map(|(id, ..)| id.clone()).collect()
        };
        for node in dead {
            if let Err(error) = self.meadow.backend().delete(&names::beat(&node)).await {
                tracing::debug!(%error, %node, "a dead node's beat could not be removed");
            }
        }
    }

    /// Whether the doorbell has changed since the last look.
    async fn look(&self) -> Result<bool> {
        let known = {
            let mut state = self.state();
            state.looked = Some(self.now());
            state.bell.clone()
        };
        let options = GetOptions { if_none_match: known.clone(), ..GetOptions::default() };
        match self.meadow.backend().store().get_opts(&names::doorbell(), options).await {
            Ok(got) => {
                let bell = tag_of(&got.meta);
                self.state().bell = Some(bell.clone());
                Ok(known.is_none_or(|known| known != bell))
            }
            Err(object_store::Error::NotModified { .. } | object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn change(&self, f: impl FnOnce(&mut State) -> bool) {
        let now = self.now();
        let mut state = self.state();
        state.stale |= f(&mut state);
        state.busy = Some(now);
        drop(state);
        self.wake.notify_one();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty() || !self.leading.is_empty()
    }
}

struct Due {
    beat: bool,
    list: bool,
    look: bool,
    sweep: bool,
    wait: Duration,
}

/// Undoes something when it is dropped.
pub(crate) struct Stays(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Stays {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// The actor; see the module.
pub(crate) struct HeartbeatActor {
    core: Weak<Core>,
}

impl HeartbeatActor {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core) }
    }
}

impl Actor for HeartbeatActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let core = self.core.clone();
        let beating = async move {
            loop {
                // Held only while something is done: the colony ends when its handles do.
                let Some((heart, token, wait)) = tick(&core).await else { return };
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                    () = heart.wake.notified() => {}
                }
            }
        };
        context.spawn(beating.into_actor(self));
    }
}

async fn tick(core: &Weak<Core>) -> Option<(Arc<Heart>, tokio_util::sync::CancellationToken, Duration)> {
    let core = core.upgrade()?;
    let heart = Arc::clone(&core.heart);
    let wait = heart.tick(&core).await;
    Some((heart, core.token.clone(), wait))
}

fn warn(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}; it is tried again");
    }
}

/// What differs whenever an object does.
fn tag_of(object: &ObjectMeta) -> String {
    object.e_tag.clone().unwrap_or_else(|| format!("{}-{}", object.last_modified.timestamp_micros(), object.size))
}
