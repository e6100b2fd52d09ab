//! A running query: what was asked, its record that all bees share, its statistics and its stream of batches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion_distributed::Worker;
use futures::{Stream, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::exchange::Exchange;
use super::share::Share;
use crate::sql::shared_scan::SharedScans;
use crate::sql::{Params, ScanNotes};
use crate::storage::metered::{Limits, Meter};
use crate::storage::swarm::names::QueryId;
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Header that carries a query's id with its tasks.
const QUERY_HEADER: &str = "apiary-query";

/// Longest wait for the tasks of a failed try to end: they stop at their next batch.
const LETTING_GO: Duration = Duration::from_secs(2);

/// What is asked of a session.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// One SQL statement.
    pub sql: String,
    /// Values for its parameters.
    pub params: Params,
    /// Longest run; `None` is the colony's setting.
    pub time_limit: Option<Duration>,
}

impl Query {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), ..Self::default() }
    }

    /// Sets the values for its parameters.
    #[must_use]
    pub fn with_params(mut self, params: Params) -> Self {
        self.params = params;
        self
    }

    /// Sets its longest run.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }
}

/// What a query cost. Complete when its stream has ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QueryStats {
    /// Rows given back.
    pub rows: u64,
    /// Milliseconds of planning.
    pub planning_ms: f64,
    /// Milliseconds from asking to the end.
    pub elapsed_ms: f64,
    /// Bees that took part.
    pub bees: usize,
    /// Tasks of all stages.
    pub tasks: usize,
    /// Nodes that did them; 1 when none was asked but this one.
    pub nodes: usize,
    /// Bytes that went between tasks through the meadow.
    pub exchanged: u64,
    /// Attempts that failures of earlier ones caused.
    pub retries: usize,
    /// Attempts beside slow ones.
    pub speculations: usize,
    /// Tasks that moved to a node with nothing to do.
    pub moves: usize,
    /// Most memory that operators held on one bee, in bytes.
    pub memory_peak: u64,
    /// Bytes spilled to scratch files.
    pub spilled: u64,
    /// Requests to storage.
    pub requests: u64,
    /// Those of them that were second requests for what took long.
    pub hedges: u64,
    /// Bytes asked from storage.
    pub bytes_read: u64,
    /// Bytes of the cells that are to be read, whole: what is not asked for of them is never read.
    pub bytes_to_read: u64,
    /// Cells that were read.
    pub cells_read: u64,
    /// Cells that the ledger's statistics left out.
    pub cells_pruned: u64,
    /// The node's temperature at the end.
    pub temperature: f64,
}

/// What was asked for, as `system.queries` shows it.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// A statement or a write of a user; its text, or what stands for it.
    User(String),
    /// A task of a query that another node leads.
    Swarm,
    /// Upkeep that the node does by itself.
    Housekeeping(String),
}

impl Asked {
    /// Characters that are shown of a text.
    const SHOWN: usize = 200;

    /// What a user asked for.
    pub(crate) fn user(text: &str) -> Self {
        Self::User(text.chars().take(Self::SHOWN).collect())
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(text) | Self::Housekeeping(text) => f.write_str(text),
            Self::Swarm => f.write_str("tasks of another node's query"),
        }
    }
}

/// One try at a query.
#[derive(Debug)]
struct Try {
    /// Ends with the query, or alone when the node gives this try up.
    token: CancellationToken,
    /// Why the node gave it up.
    abandoned: Option<Error>,
    /// It commits, or cannot be stopped: nothing may be done again.
    stays: bool,
}

/// What every bee that works for a query knows of it.
pub(crate) struct QueryRecord {
    pub(crate) id: QueryId,
    /// What was asked.
    pub(crate) asked: Asked,
    pub(crate) token: CancellationToken,
    /// The try at it that goes on.
    attempt: Mutex<Try>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) memory_peak: AtomicU64,
    /// Bytes that its operators hold now, on all bees of this node.
    pub(crate) memory_held: AtomicU64,
    pub(crate) spilled: AtomicU64,
    pub(crate) tasks: AtomicUsize,
    bees: Mutex<BTreeSet<usize>>,
    /// What each bee keeps for its tasks; `None` once the query has ended.
    workers: Mutex<Option<HashMap<usize, Worker>>>,
    started: Instant,
    planned: Mutex<Option<Duration>>,
    ended: Mutex<Option<(Duration, f64)>>,
    rows: AtomicU64,
    notes: Mutex<Arc<ScanNotes>>,
    /// What `SET` said of the engine, for every bee that works for it.
    options: Mutex<BTreeMap<String, String>>,
    /// Scans that its tasks on this node share.
    pub(crate) scans: Arc<SharedScans>,
    /// What it may cost.
    limits: OnceLock<Limits>,
    /// Its exchange with other nodes, if it has one.
    exchange: OnceLock<Arc<Exchange>>,
    /// Where the tasks that its leader gives to the swarm go; weak, because it holds this record.
    share: OnceLock<Weak<Share>>,
}

impl std::fmt::Debug for QueryRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryRecord").field("id", &self.id).finish_non_exhaustive()
    }
}

impl QueryRecord {
    fn new(id: QueryId, asked: Asked, parent: &CancellationToken, limit: Option<Duration>, meter: &Arc<Meter>) -> Self {
        let token = parent.child_token();
        Self {
            id,
            asked,
            attempt: Mutex::new(Try { token: token.child_token(), abandoned: None, stays: false }),
            token,
            deadline: limit.map(|limit| Instant::now() + limit),
            meter: Meter::within(meter),
            memory_peak: AtomicU64::new(0),
            memory_held: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            tasks: AtomicUsize::new(0),
            bees: Mutex::default(),
            workers: Mutex::new(Some(HashMap::new())),
            started: Instant::now(),
            planned: Mutex::default(),
            ended: Mutex::default(),
            rows: AtomicU64::new(0),
            notes: Mutex::default(),
            options: Mutex::default(),
            scans: Arc::default(),
            limits: OnceLock::new(),
            exchange: OnceLock::new(),
            share: OnceLock::new(),
        }
    }

    /// Whether nobody asked for it.
    pub(crate) fn is_housekeeping(&self) -> bool {
        matches!(self.asked, Asked::Housekeeping(_))
    }

    /// Sets the engine's options for all of its tasks.
    pub(crate) fn set_options(&self, options: BTreeMap<String, String>) {
        *lock(&self.options) = options;
    }

    /// What `SET` said of the engine.
    pub(crate) fn options(&self) -> BTreeMap<String, String> {
        lock(&self.options).clone()
    }

    /// Says how it exchanges rows with other nodes, once.
    pub(crate) fn set_exchange(&self, exchange: Arc<Exchange>) {
        // A query has one exchange, made where it starts.
        let _ = self.exchange.set(exchange);
    }

    /// Says where tasks for the swarm go, once.
    pub(crate) fn set_share(&self, share: &Arc<Share>) {
        // A query is shared once, by the bee that leads it.
        let _ = self.share.set(Arc::downgrade(share));
    }

    /// Where tasks for the swarm go.
    pub(crate) fn share(&self) -> Result<Arc<Share>> {
        let share = self.share.get().and_then(Weak::upgrade);
        share.ok_or_else(|| Error::cancelled("the query is not shared, or not any more"))
    }

    /// Whether its tasks have exchanged rows through the meadow.
    pub(crate) fn is_shared(&self) -> bool {
        self.exchange.get().is_some()
    }

    /// Its exchange with other nodes.
    pub(crate) fn exchange(&self) -> Result<&Arc<Exchange>> {
        self.exchange.get().ok_or_else(|| Error::internal("a query of one node has a task for another"))
    }

    /// Sets what it may cost, once, before it asks for anything.
    pub(crate) fn set_limits(&self, limits: Limits) {
        if limits == Limits::default() || self.limits.set(limits).is_err() {
            return;
        }
        let token = self.token.clone();
        self.meter.limit(limits, move || token.cancel());
    }

    /// Says so when it, or what other nodes did for it, cost more than it may.
    pub(crate) fn over_limit(&self) -> Option<Error> {
        let limits = self.limits.get()?;
        let storage = self.meter.read();
        let swarm = self.exchange.get().map(|e| e.totals()).unwrap_or_default();
        let (requests, bytes) = (storage.requests() + swarm.requests, storage.bytes_read + swarm.bytes_read);
        let (what, limit) = limits.exceeded(requests, bytes)?;
        Some(Error::limit_reached(format!(
            "the query needs more than {limit} {what}, which max_{what} allows: SET max_{what} higher, or ask for less"
        )))
    }

    /// Gives the current try at it up, with `reason` as its error; not one that commits.
    pub(crate) fn abandon(&self, reason: Error) {
        let mut attempt = lock(&self.attempt);
        if !attempt.stays {
            // The first reason is the one that is told.
            attempt.abandoned.get_or_insert(reason);
            attempt.token.cancel();
        }
    }

    /// Ends with the current try at it.
    pub(crate) fn attempt(&self) -> CancellationToken {
        lock(&self.attempt).token.clone()
    }

    /// This try is the last: it commits, or cannot be stopped. From now on it is not given up, and there is no other.
    ///
    /// # Errors
    /// Why it was given up before.
    pub(crate) fn stay(&self) -> Result<()> {
        let mut attempt = lock(&self.attempt);
        attempt.stays = true;
        match &attempt.abandoned {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Whether this try is the last.
    pub(crate) fn stays(&self) -> bool {
        lock(&self.attempt).stays
    }

    /// Whether it can be given up.
    pub(crate) fn may_be_abandoned(&self) -> bool {
        // Other nodes' leaders decide about their tasks.
        !lock(&self.attempt).stays && !matches!(self.asked, Asked::Swarm) && self.stop_reason().is_none()
    }

    /// Bytes that its operators say they hold.
    pub(crate) fn holds(&self) -> u64 {
        self.memory_held.load(Ordering::Relaxed)
    }

    /// Time since it was asked.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Why the query must stop now, if it must.
    pub(crate) fn stop_reason(&self) -> Option<Error> {
        let abandoned = lock(&self.attempt).abandoned.clone();
        if abandoned.is_some() && !self.token.is_cancelled() {
            return abandoned;
        }
        if let Some(error) = self.over_limit() {
            return Some(error);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Some(Error::timed_out("the query's time limit passed: raise it or ask for less"));
        }
        self.attempt().is_cancelled().then(|| Error::cancelled("the query was cancelled"))
    }

    /// Waits until the query must stop.
    pub(crate) async fn stopped(&self) -> Error {
        let attempt = self.attempt();
        match self.deadline {
            None => attempt.cancelled().await,
            Some(deadline) => {
                tokio::select! {
                    () = attempt.cancelled() => {}
                    () = tokio::time::sleep_until(deadline.into()) => {}
                }
            }
        }
        let reason = self.stop_reason().unwrap_or_else(|| Error::cancelled("the query was cancelled"));
        attempt.cancel();
        reason
    }

    /// What goes with each of its tasks, so that a bee knows whose it is.
    pub(crate) fn headers(&self) -> Result<HeaderMap> {
        let id = HeaderValue::from_str(&self.id.to_string()).map_err(|e| Error::internal(e.to_string()))?;
        Ok(HeaderMap::from_iter([(HeaderName::from_static(QUERY_HEADER), id)]))
    }

    pub(crate) fn worked_on_by(&self, bee: usize) {
        lock(&self.bees).insert(bee);
    }

    /// The worker of bee `index` for this query, made by `new` the first time.
    ///
    /// # Errors
    /// `Cancelled` when the query has ended.
    pub(crate) fn worker(&self, index: usize, new: impl FnOnce() -> Worker) -> Result<Worker> {
        let mut workers = lock(&self.workers);
        let workers = workers.as_mut().ok_or_else(|| Error::cancelled("the query has ended"))?;
        Ok(workers.entry(index).or_insert_with(new).clone())
    }

    /// Lets go of what bees keep for its tasks, for another try, and waits until they have; `false` when it is too late for
    /// one: rows were given, or it is to stop.
    pub(crate) async fn begin_again(&self) -> bool {
        if self.rows.load(Ordering::Relaxed) > 0 || self.token.is_cancelled() {
            return false;
        }
        {
            let mut attempt = lock(&self.attempt);
            if attempt.stays {
                return false;
            }
            attempt.token.cancel();
            *attempt = Try { token: self.token.child_token(), abandoned: None, stays: false };
        }
        if let Some(workers) = lock(&self.workers).as_mut() {
            workers.clear();
        }
        let begun = Instant::now();
        let holds = || self.memory_held.load(Ordering::Relaxed) > 0 && !self.token.is_cancelled();
        while holds() && begun.elapsed() < LETTING_GO {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.memory_held.load(Ordering::Relaxed) == 0 && self.stop_reason().is_none()
    }

    pub(crate) fn planned(&self, notes: &Arc<ScanNotes>, tasks: usize) {
        *lock(&self.planned) = Some(self.started.elapsed());
        *lock(&self.notes) = Arc::clone(notes);
        self.tasks.store(tasks, Ordering::Relaxed);
    }

    pub(crate) fn gave(&self, batch: &RecordBatch) {
        self.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, temperature: f64) {
        lock(&self.ended).get_or_insert((self.started.elapsed(), temperature));
    }

    fn has_ended(&self) -> bool {
        lock(&self.ended).is_some()
    }

    pub(crate) fn stats(&self) -> QueryStats {
        let (elapsed, temperature) = lock(&self.ended).unwrap_or((self.started.elapsed(), 0.0));
        let planning = lock(&self.planned).unwrap_or(elapsed);
        let notes = lock(&self.notes).all();
        let storage = self.meter.read();
        let swarm = self.exchange.get().map(|e| e.totals()).unwrap_or_default();
        QueryStats {
            rows: self.rows.load(Ordering::Relaxed),
            planning_ms: planning.as_secs_f64() * 1e3,
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
            bees: lock(&self.bees).len(),
            tasks: self.tasks.load(Ordering::Relaxed),
            nodes: swarm.nodes.max(1),
            exchanged: swarm.exchanged,
            retries: swarm.extra.retries,
            speculations: swarm.extra.speculations,
            moves: swarm.extra.moves,
            memory_peak: self.memory_peak.load(Ordering::Relaxed).max(swarm.memory_peak),
            spilled: self.spilled.load(Ordering::Relaxed) + swarm.spilled,
            requests: storage.requests() + swarm.requests,
            hedges: storage.hedges + swarm.hedges,
            bytes_read: storage.bytes_read + swarm.bytes_read,
            bytes_to_read: notes.iter().map(|n| n.bytes).sum(),
            cells_read: notes.iter().map(|n| n.read as u64).sum(),
            cells_pruned: notes.iter().map(|n| (n.cells - n.read) as u64).sum(),
            temperature,
        }
    }
}

/// The queries that run now, by id: how a bee finds the record of the task it is given.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    running: Mutex<HashMap<QueryId, Arc<QueryRecord>>>,
    begun: Notify,
    done: AtomicU64,
}

impl Queries {
    /// Starts a record; it is found until the entry is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        asked: Asked,
        parent: &CancellationToken,
        limit: Option<Duration>,
        meter: &Arc<Meter>,
    ) -> QueryEntry {
        self.begin_as(QueryId::new(), asked, parent, limit, meter)
    }

    /// Starts the record of a query that another node leads.
    pub(crate) fn begin_as(
        self: &Arc<Self>,
        id: QueryId,
        asked: Asked,
        parent: &CancellationToken,
        limit: Option<Duration>,
        meter: &Arc<Meter>,
    ) -> QueryEntry {
        let record = Arc::new(QueryRecord::new(id, asked, parent, limit, meter));
        lock(&self.running).insert(record.id, Arc::clone(&record));
        self.begun.notify_one();
        QueryEntry { record, queries: Arc::clone(self) }
    }

    pub(crate) fn find(&self, id: &QueryId) -> Result<Arc<QueryRecord>> {
        lock(&self.running).get(id).cloned().ok_or_else(|| Error::cancelled("the query has ended"))
    }

    /// Waits until a query begins, or returns at once when one has since the last time.
    pub(crate) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Whether none runs.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.running).is_empty()
    }

    /// How many are not housekeeping.
    pub(crate) fn of_users(&self) -> usize {
        lock(&self.running).values().filter(|query| !query.is_housekeeping()).count()
    }

    /// Every record, oldest first.
    pub(crate) fn running(&self) -> Vec<Arc<QueryRecord>> {
        let mut all: Vec<_> = lock(&self.running).values().cloned().collect();
        all.sort_by_key(|record| record.id);
        all
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// The record of the query that `headers` name.
///
/// # Errors
/// `Cancelled` when it has ended.
pub(crate) fn query_of(queries: &Queries, headers: &HeaderMap) -> Result<Arc<QueryRecord>> {
    let id = headers.get(QUERY_HEADER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<QueryId>().ok());
    queries.find(&id.ok_or_else(|| Error::internal("a task names no query"))?)
}

/// A record's stay among the running queries.
#[derive(Debug)]
pub(crate) struct QueryEntry {
    pub(crate) record: Arc<QueryRecord>,
    queries: Arc<Queries>,
}

impl Drop for QueryEntry {
    fn drop(&mut self) {
        self.record.token.cancel();
        // Its tasks' plans hold memory, and the record: let go of them here, or nobody would.
        drop(lock(&self.record.workers).take());
        lock(&self.queries.running).remove(&self.record.id);
        self.queries.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Cancels a query from anywhere.
#[derive(Debug, Clone)]
pub struct Canceller(CancellationToken);

impl Canceller {
    /// Asks the query to stop; its stream ends with [`ErrorKind::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// Tells what a query has cost, from anywhere.
#[derive(Debug, Clone)]
pub struct StatsHandle(Arc<QueryRecord>);

impl StatsHandle {
    /// What it has cost so far; complete when its stream has ended.
    pub fn now(&self) -> QueryStats {
        self.0.stats()
    }
}

/// The batches of a query's answer, as they are computed. Dropping it stops the query.
#[derive(Debug)]
pub struct QueryStream {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch>>,
    entry: QueryEntry,
    ended: bool,
}

impl QueryStream {
    pub(crate) fn new(schema: SchemaRef, batches: mpsc::Receiver<Result<RecordBatch>>, entry: QueryEntry) -> Self {
        Self { schema, batches, entry, ended: false }
    }

    /// The columns of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Every batch.
    ///
    /// # Errors
    /// The query's error; what it gave before is dropped.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.try_collect().await
    }

    /// What the query has cost so far; complete when the stream has ended.
    pub fn stats(&self) -> QueryStats {
        self.entry.record.stats()
    }

    /// A handle that tells what the query has cost while the stream is elsewhere.
    pub fn query_stats(&self) -> StatsHandle {
        StatsHandle(Arc::clone(&self.entry.record))
    }

    /// Stops the query; the stream ends with [`ErrorKind::Cancelled`].
    pub fn cancel(&self) {
        self.entry.record.token.cancel();
    }

    /// A handle that can stop the query while the stream is elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.entry.record.token.clone())
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.batches.poll_recv(cx));
        self.ended = !matches!(item, Some(Ok(_)));
        if item.is_none() && !self.entry.record.has_ended() {
            // The leading bee went away in the middle: what came so far is not the answer.
            return Poll::Ready(Some(Err(Error::internal("the leading bee stopped before the end: ask again"))));
        }
        Poll::Ready(item)
    }
}

/// Whether an error only says that somebody asked to stop.
pub(crate) fn is_stop(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::TimedOut | ErrorKind::LimitReached)
}
