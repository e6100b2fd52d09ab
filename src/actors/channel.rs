//! How the tasks of a distributed plan reach bees of the same colony, and how their batches come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use actix::Addr;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    MaybeEncoded, SetPlanRequest, TaskMetrics, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::HeaderMap;
use url::Url;

use super::attempt::task_of;
use super::bee::{Bee, BeeCore, DeliverTask, RunTask, TaskBatches};
use super::query::{Queries, query_of};
use crate::sql::distribution::{bee_of, node_of};
use crate::storage::swarm::names::NodeId;
use crate::sync::lock;
use crate::{Error, Result};

/// One bee's place in the colony: its actor may be replaced, its core stays.
pub(crate) struct BeeSlot {
    pub(crate) core: Arc<BeeCore>,
    addr: Mutex<Option<Addr<Bee>>>,
    generation: AtomicU64,
}

impl BeeSlot {
    pub(crate) fn new(core: Arc<BeeCore>) -> Self {
        Self { core, addr: Mutex::new(None), generation: AtomicU64::new(0) }
    }

    /// The living actor.
    ///
    /// # Errors
    /// `Closed` when it is not started, stopped, or just being replaced.
    pub(crate) fn addr(&self) -> Result<Addr<Bee>> {
        let addr = lock(&self.addr).clone();
        addr.filter(Addr::connected).ok_or_else(|| Error::closed(format!("bee {} is not running", self.core.index)))
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.addr().is_ok()
    }

    pub(crate) fn install(&self, addr: Addr<Bee>) {
        *lock(&self.addr) = Some(addr);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        *lock(&self.addr) = None;
    }

    /// How often an actor has been started here.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// Finds bees by their addresses. The bees are put in once they exist: they need this to exist first.
pub(crate) struct BeeChannels {
    slots: std::sync::OnceLock<Vec<Arc<BeeSlot>>>,
    queries: Arc<Queries>,
}

impl BeeChannels {
    pub(crate) fn new(queries: Arc<Queries>) -> Self {
        Self { slots: std::sync::OnceLock::new(), queries }
    }

    pub(crate) fn install(&self, slots: Vec<Arc<BeeSlot>>) {
        // Set once, by the colony that made this.
        let _ = self.slots.set(slots);
    }
}

#[async_trait]
impl ChannelResolver for BeeChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        if let Some(node) = node_of(url) {
            return Ok(Box::new(MeadowChannel { node, queries: Arc::clone(&self.queries) }));
        }
        let slots = self.slots.get().map(Vec::as_slice).unwrap_or_default();
        let slot = bee_of(url).and_then(|index| slots.get(index));
        let slot = slot.ok_or_else(|| Error::internal(format!("no bee has the address {url}")))?;
        Ok(Box::new(BeeChannel { slot: Arc::clone(slot) }))
    }
}

struct BeeChannel {
    slot: Arc<BeeSlot>,
}

#[async_trait]
impl WorkerChannel for BeeChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        mut request: SetPlanRequest,
        feed: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg, DataFusionError>>, DataFusionError> {
        // Chambers share nothing: each task decodes a plan of its own.
        request.plan = MaybeEncoded::Encoded(request.plan.encode(context)?);
        let query = self.slot.core.query_of(&headers)?;
        // However the query ends, its feeds end with it, and with them what the bee keeps for the task.
        let feed = feed.take_until(query.attempt().cancelled_owned()).boxed();
        let delivered = self.slot.addr()?.send(DeliverTask { headers, request, feed }).await;
        let messages = delivered.map_err(|_| lost(&self.slot))??;
        Ok(messages.boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        _context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch, DataFusionError>>>, DataFusionError> {
        if self.slot.core.is_here() {
            let query = self.slot.core.query_of(&headers)?;
            return self.slot.core.open_streams(&query, request).await;
        }
        let receivers = self.slot.addr()?.send(RunTask { headers, request }).await.map_err(|_| lost(&self.slot))??;
        Ok(receivers.into_iter().map(TaskBatches::into_stream).collect())
    }

    async fn get_worker_info(&mut self, _: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse, DataFusionError> {
        Ok(GetWorkerInfoResponse { version: env!("CARGO_PKG_VERSION").into() })
    }
}

/// The way to a task of a shared query, wherever it runs: through the meadow.
struct MeadowChannel {
    node: NodeId,
    queries: Arc<Queries>,
}

#[async_trait]
impl WorkerChannel for MeadowChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        request: SetPlanRequest,
        _feed: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg, DataFusionError>>, DataFusionError> {
        let query = query_of(&self.queries, &headers)?;
        let metrics = no_metrics(&request);
        if let Err(error) = query.share()?.publish(self.node.clone(), &headers, request, context).await {
            // The planner tells this only when the rows have ended, and they wait for this task.
            query.exchange()?.abandon(error.clone());
            return Err(error.into());
        }
        // What a task cost is in its completion; EXPLAIN ANALYZE waits for this message of every task all the same.
        Ok(futures::stream::iter([Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics))]).boxed())
    }

    async fn execute_task(
        &mut self,
        headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        _context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch, DataFusionError>>>, DataFusionError> {
        let exchange = Arc::clone(query_of(&self.queries, &headers)?.exchange()?);
        let task = task_of(&request.task_key);
        let partitions = request.target_partition_start..request.target_partition_end;
        Ok(partitions.map(|p| exchange.read(task, p).map_err(DataFusionError::from).boxed()).collect())
    }

    async fn get_worker_info(&mut self, _: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse, DataFusionError> {
        Ok(GetWorkerInfoResponse { version: env!("CARGO_PKG_VERSION").into() })
    }
}

/// Empty metrics for every operator of a task.
fn no_metrics(request: &SetPlanRequest) -> TaskMetrics {
    fn operators(plan: &Arc<dyn ExecutionPlan>) -> usize {
        1 + plan.children().into_iter().map(operators).sum::<usize>()
    }
    let count = match &request.plan {
        MaybeEncoded::Decoded(plan) => operators(plan),
        MaybeEncoded::Encoded(_) => 0,
    };
    TaskMetrics { pre_order_plan_metrics: vec![MetricsSet::new(); count], task_metrics: MetricsSet::new() }
}

/// What a task's operators spilled, in bytes, if this is the message that tells it.
pub(super) fn spilled_in(message: &Result<WorkerToCoordinatorMsg, DataFusionError>) -> u64 {
    match message {
        Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics)) => {
            metrics.pre_order_plan_metrics.iter().filter_map(|m| m.spilled_bytes()).sum::<usize>() as u64
        }
        _ => 0,
    }
}

fn lost(slot: &BeeSlot) -> DataFusionError {
    Error::internal(format!("bee {} stopped while it had work; it is started again: ask again", slot.core.index)).into()
}
