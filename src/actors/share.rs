//! A query whose tasks this node gives to the swarm: publishing them, watching them, clearing up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{DistributedExec, NetworkBoundaryExt, ProducerHead, SetPlanRequest};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderMap;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Beatable, task_of};
use super::colony::Core;
use super::exchange::Exchange;
use super::foreign::{clear_away, next_look};
use super::heartbeat::Stays;
use super::query::QueryRecord;
use super::scratch::StageFolder;
use crate::storage::swarm::beat::PROTOCOL;
use crate::storage::swarm::board::{Action, Board};
use crate::storage::swarm::names::{Entry, NodeId, TaskId};
use crate::storage::swarm::record::{
    Failure, FailureKind, Head, MAX_FAILURE, Manifest, TaskHeader, TaskRecord, get_bounded,
};
use crate::sync::lock;
use crate::{Error, Result};

/// What a stage's output must be for its consumer.
struct Shape {
    head: Head,
    partitioning: Vec<u8>,
    partitions: u32,
    inputs: Vec<(u32, u32)>,
}

/// The tasks of one query, as their leader sees them.
pub(crate) struct Share {
    core: Arc<Core>,
    query: Arc<QueryRecord>,
    exchange: Arc<Exchange>,
    shapes: HashMap<u32, Shape>,
    board: Mutex<Board>,
    records: Mutex<HashMap<TaskId, Arc<TaskRecord>>>,
    news: AtomicBool,
    wake: Notify,
    /// Ends the watching and the attempts on this node.
    token: CancellationToken,
    /// Attempts on this node.
    attempts: Mutex<JoinSet<()>>,
    /// What ends them when somebody else was faster.
    beatable: Mutex<Beatable>,
}

/// Where the tasks of a query exchange their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where other nodes find them.
    Meadow,
    /// On this node's disk.
    Scratch,
}

/// A shared query's life: when it is dropped, the watching ends and what is left in the meadow is cleared away.
pub(crate) struct Shared {
    share: Arc<Share>,
    _stays: Option<Stays>,
    _folder: Option<Arc<StageFolder>>,
}

impl Shared {
    /// Begins to look after the tasks of `plan`; tells the swarm of them if they go through the meadow.
    ///
    /// # Errors
    /// What the storage says; `Unsupported` where nothing may be written to this node's disk.
    pub(crate) async fn begin(
        core: &Arc<Core>,
        query: &Arc<QueryRecord>,
        place: Place,
        plan: &DistributedExec,
        context: &Arc<TaskContext>,
    ) -> Result<Self> {
        let mut shapes = HashMap::new();
        for head in plan.children() {
            add_shapes(head, 1, context, &mut shapes)?;
        }
        let me = core.heart.id.clone();
        let folder = match place {
            Place::Meadow => None,
            Place::Scratch => {
                let scratch = core.scratch_folder().ok_or_else(|| Error::unsupported("nothing may go to the disk"))?;
                Some(StageFolder::new(&scratch, &format!("stages-{}", query.id), &core.for_stages, &core.wear)?)
            }
        };
        let exchange = Arc::new(match &folder {
            None => Exchange::new(query.id, me.clone(), core.meadow.counted_store(&query.meter)),
            Some(folder) => Exchange::within(query.id, me.clone(), folder),
        });
        query.set_exchange(Arc::clone(&exchange));
        let stays = match place {
            Place::Scratch => None,
            Place::Meadow => {
                let stays = core.heart.leads(query.id).await?;
                let manifest = Manifest { protocol: PROTOCOL, engine: core.heart.engine.clone(), leader: me };
                let record = PutPayload::from_bytes(manifest.to_bytes()?);
                exchange.store.put(&Entry::Manifest.path(query.id), record).await?;
                Some(stays)
            }
        };
        let share = Arc::new(Share {
            core: Arc::clone(core),
            query: Arc::clone(query),
            exchange,
            shapes,
            board: Mutex::default(),
            records: Mutex::default(),
            news: AtomicBool::new(false),
            wake: Notify::new(),
            token: query.attempt().child_token(),
            attempts: Mutex::default(),
            beatable: Mutex::default(),
        });
        query.set_share(&share);
        core.io().spawn(Arc::clone(&share).watch().boxed());
        Ok(Self { share, _stays: stays, _folder: folder })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Attempts that still run have nobody to run for; what they write must not come after the clearing up.
        self.share.exchange.abandon(Error::cancelled("the query has ended"));
        self.share.token.cancel();
        let attempts = std::mem::take(&mut *lock(&self.share.attempts));
        let (core, exchange) = (Arc::clone(&self.share.core), Arc::clone(&self.share.exchange));
        self.share.core.later(async move {
            attempts.join_all().await;
            let query = exchange.query;
            if !exchange.is_alone()
                && let Err(error) = clear_away(core.meadow.backend().as_ref(), query).await
            {
                tracing::warn!(%error, %query, "a query's objects are left behind: another node will clear them away");
            }
        });
    }
}

impl Share {
    /// Gives a task to `node`.
    ///
    /// # Errors
    /// What the storage says.
    pub(crate) async fn publish(
        &self,
        node: NodeId,
        headers: &HeaderMap,
        request: SetPlanRequest,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        let task = task_of(&request.task_key);
        let shape = self.shapes.get(&task.stage);
        let shape = shape.ok_or_else(|| Error::internal(format!("stage {} has no consumer", task.stage)))?;
        let plan = request.plan.encode(context)?;
        let text = |v: &http::HeaderValue| v.to_str().map(String::from).ok();
        let header = TaskHeader {
            plan_query: request.task_key.query_id.into(),
            task,
            task_count: request.task_count as u32,
            partitions: shape.partitions,
            head: shape.head,
            plan_bytes: plan.len() as u64,
            inputs: shape.inputs.clone(),
            options: self.query.options(),
            headers: headers.iter().filter_map(|(n, v)| Some((n.to_string(), text(v)?))).collect::<BTreeMap<_, _>>(),
        };
        let record = TaskRecord { header, plan: plan.into(), partitioning: shape.partitioning.clone().into() };
        lock(&self.records).insert(task, Arc::new(record));
        lock(&self.board).add(task, node.clone(), self.core.heart.now());
        self.give(task, 0, node).await
    }

    fn give(&self, task: TaskId, number: u32, node: NodeId) -> BoxFuture<'_, Result<()>> {
        async move {
            let record = lock(&self.records).get(&task).cloned();
            let record = record.ok_or_else(|| Error::internal(format!("task {task} was never made")))?;
            if node == self.core.heart.id {
                let (query, exchange) = (Arc::clone(&self.query), Arc::clone(&self.exchange));
                let token = lock(&self.beatable).enter(task, &self.token);
                let attempt = Attempt { query, exchange, task: record, number, token };
                let run = attempt.run(Arc::clone(&self.core));
                lock(&self.attempts).spawn_on(run, self.core.io());
                return Ok(());
            }
            let path = Entry::Task(task, number, node).path(self.query.id);
            self.exchange.store.put(&path, PutPayload::from_bytes(record.to_bytes()?)).await?;
            self.news.store(true, Ordering::Release);
            self.wake.notify_one();
            Ok(())
        }
        .boxed()
    }

    /// Looks after the tasks until the query ends.
    async fn watch(self: Arc<Self>) {
        let started = self.core.heart.now();
        let token = self.token.clone();
        let mut failures = HashSet::new();
        loop {
            if self.news.swap(false, Ordering::AcqRel)
                && let Err(error) = self.core.heart.ring().await
            {
                tracing::warn!(%error, "the doorbell could not be rung: idle nodes will be late");
            }
            if let Err(error) = self.look(&mut failures).await {
                tracing::debug!(%error, "a shared query could not be looked at");
            }
            let elapsed = self.core.heart.now().saturating_sub(started);
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(next_look(elapsed)) => {}
                () = self.wake.notified() => {
                    // Siblings are published at the same moment: one ring is enough for all.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    fn look<'a>(&'a self, known: &'a mut HashSet<(TaskId, u32)>) -> BoxFuture<'a, Result<()>> {
        self.look_now(known).boxed()
    }

    async fn look_now(&self, known: &mut HashSet<(TaskId, u32)>) -> Result<()> {
        if let Some(error) = self.query.over_limit() {
            self.exchange.abandon(error);
            return Ok(());
        }
        // Attempts of a node that is alone say by themselves how they ended.
        if self.exchange.is_alone() {
            return Ok(());
        }
        let listing = self.exchange.poll(&|_| true).await?;
        if !listing.alive {
            self.exchange.abandon(Error::storage(
                "another node took this one for dead and cleared its query away: it was held up for long; ask again",
            ));
            return Ok(());
        }
        lock(&self.beatable).stop_beaten(&listing);
        let now = self.core.heart.now();
        let (running, waiting) = self.core.heart.attempts(self.query.id);
        running.iter().for_each(|r| lock(&self.board).started(r.task, r.attempt, now));
        waiting.iter().for_each(|r| lock(&self.board).held(r.task, r.attempt, now));
        for (task, attempt) in listing.failed.into_iter().filter(|f| !known.contains(f)).collect::<Vec<_>>() {
            let failure = self.failure(task, attempt).await?;
            known.insert((task, attempt));
            lock(&self.board).failed(task, attempt, failure);
        }
        for action in self.decide(now) {
            match action {
                Action::Assign { task, attempt, node } => {
                    tracing::info!(%task, attempt, %node, "a task gets another attempt");
                    if let Err(error) = self.give(task, attempt, node.clone()).await {
                        lock(&self.board).failed(task, attempt, Failure::of(&node, &error));
                    }
                }
                Action::Abandon { failure, history } => self.exchange.abandon(failure.to_error(&history)),
            }
        }
        Ok(())
    }

    fn decide(&self, now: Duration) -> Vec<Action> {
        let (nodes, exchange) = (self.core.heart.candidates(), &self.exchange);
        let (records, mut board) = (lock(&self.records), lock(&self.board));
        for task in records.keys() {
            if let Some(done) = exchange.done(*task) {
                board.done(*task, &done.header.node, Duration::from_millis(done.header.cost.elapsed_ms), now);
            }
        }
        let ready = |task: TaskId| records.get(&task).is_some_and(|r| exchange.has_all(&r.header.inputs));
        let actions = board.decide(now, &nodes, ready);
        exchange.count_attempts(board.extra_attempts());
        actions
    }

    async fn failure(&self, task: TaskId, attempt: u32) -> Result<Failure> {
        let path = Entry::Failed(task, attempt).path(self.query.id);
        let bytes = get_bounded(self.exchange.store.as_ref(), &path, MAX_FAILURE).await?;
        let parsed = bytes.and_then(|bytes| Failure::parse(&bytes));
        Ok(parsed.unwrap_or_else(|| Failure {
            node: self.core.heart.id.clone(),
            kind: FailureKind::Passing,
            error: String::new(),
            message: "its error could not be read".into(),
        }))
    }
}

/// Notes what every stage below `plan` must give to the `consumers` tasks that `plan` is run by.
fn add_shapes(
    plan: &Arc<dyn ExecutionPlan>,
    consumers: usize,
    context: &Arc<TaskContext>,
    shapes: &mut HashMap<u32, Shape>,
) -> Result<()> {
    let Some(boundary) = plan.as_network_boundary() else {
        return plan.children().into_iter().try_for_each(|child| add_shapes(child, consumers, context, shapes));
    };
    let stage = boundary.input_stage();
    let Some(below) = stage.local_plan() else { return Ok(()) };
    let (head, partitioning, partitions) = match boundary.producer_head(consumers)? {
        ProducerHead::None => (Head::Plain, Vec::new(), below.output_partitioning().partition_count()),
        ProducerHead::BroadcastExec { output_partitions } => (Head::Broadcast, Vec::new(), output_partitions),
        ProducerHead::RepartitionExec { partitioning } => {
            let count = partitioning.clone().decode(below.schema(), context)?.partition_count();
            (Head::Hash, partitioning.encode(context)?, count)
        }
    };
    let mut inputs = Vec::new();
    add_inputs(below, &mut inputs);
    let shape = Shape { head, partitioning, partitions: partitions as u32, inputs };
    shapes.insert(stage.num() as u32, shape);
    add_shapes(below, stage.task_count(), context, shapes)
}

/// The stages that `plan` reads directly, with their numbers of tasks.
fn add_inputs(plan: &Arc<dyn ExecutionPlan>, inputs: &mut Vec<(u32, u32)>) {
    match plan.as_network_boundary() {
        Some(boundary) => {
            let stage = boundary.input_stage();
            inputs.push((stage.num() as u32, stage.task_count() as u32));
        }
        None => plan.children().into_iter().for_each(|child| add_inputs(child, inputs)),
    }
}
