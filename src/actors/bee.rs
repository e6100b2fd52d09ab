//! A bee: one CPU core's worker, an actor on its own thread with a current-thread runtime and a hard memory budget.
//!
//! A bee leads queries, runs the tasks of distributed plans, and encodes cells. Each piece of work is a future of its
//! own on the bee's thread; a panic in it is caught at this edge and becomes that piece's error.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};
use actix_rt::Arbiter;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::ScalarUDF;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, DistributedExt, ExecuteTaskRequest, SetPlanRequest, Worker,
    WorkerQueryContext, WorkerSessionBuilder, WorkerToCoordinatorMsg,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::chamber::Combs;
use super::query::{Queries, QueryRecord, query_of};
use super::scout::LeadQuery;
use super::write::EncodeCells;
use crate::sql::cell_reader::ReadCells;
use crate::sql::codec::StepCodec;
use crate::sql::distribution::{apply_options, read_own_files};
use crate::sql::one_value::one_value;
use crate::storage::cells::CellFile;
use crate::{Error, Result};

/// Batches that a task may be ahead of its consumer, per partition: enough to keep both busy, small enough that a slow
/// consumer holds little memory.
const BATCHES_AHEAD: usize = 2;
/// Bytes of stack for planning; pages that are not used cost nothing.
const ROOM: usize = 64 << 20;
/// Turns of tasks after which a bee's thread looks for messages, timers and I/O.
const TURNS: u32 = 4;
/// Blocking threads of a bee's runtime: local reads and spills; object_store's remote requests run elsewhere.
const BLOCKING_THREADS: usize = 4;

thread_local! {
    static THIS_BEE: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// What a bee's work shares; the same through respawns.
pub(crate) struct BeeCore {
    pub(crate) index: usize,
    pub(crate) combs: Combs,
    pub(crate) queries: Arc<Queries>,
    sessions: ChamberSessions,
    active: AtomicUsize,
    chosen: AtomicUsize,
}

impl BeeCore {
    pub(crate) fn new(
        index: usize,
        combs: Combs,
        queries: Arc<Queries>,
        channels: Arc<dyn ChannelResolver + Send + Sync>,
        functions: Vec<Arc<ScalarUDF>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|core| {
            let sessions = ChamberSessions { core: core.clone(), channels, functions, nobody: Worker::default() };
            Self { index, combs, queries, sessions, active: AtomicUsize::new(0), chosen: AtomicUsize::new(0) }
        })
    }

    /// Pieces of work it has.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Pieces of work it has or is meant to get.
    pub(crate) fn expected(&self) -> usize {
        self.active() + self.chosen.load(Ordering::Relaxed)
    }

    /// Counts a statement that is meant for it, while the guard lives.
    pub(crate) fn choose(self: &Arc<Self>) -> Chosen {
        self.chosen.fetch_add(1, Ordering::Relaxed);
        Chosen(Arc::clone(self))
    }

    /// Whether the calling thread is this bee's.
    pub(crate) fn is_here(self: &Arc<Self>) -> bool {
        THIS_BEE.get() == Some((Arc::as_ptr(self) as usize, self.index))
    }

    /// The record of the query that `headers` name.
    pub(crate) fn query_of(&self, headers: &HeaderMap) -> Result<Arc<QueryRecord>> {
        query_of(&self.queries, headers)
    }

    /// The worker that keeps this query's tasks on this bee. Each query has its own: what it keeps goes with the query,
    /// not with the library's cache of all tasks, which lets go late.
    fn worker(&self, query: &QueryRecord) -> Result<Worker> {
        query.worker(self.index, || self.new_worker())
    }

    /// A worker that shares its tasks with nobody.
    pub(crate) fn new_worker(&self) -> Worker {
        Worker::from_session_builder(self.sessions.clone())
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.active.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// Opens the streams of a task's partitions, to be polled on this bee's thread.
    pub(crate) async fn open_streams(
        &self,
        query: &QueryRecord,
        request: ExecuteTaskRequest,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch, DataFusionError>>>, DataFusionError> {
        let (streams, _) = self.worker(query)?.execute_task(request).await?;
        Ok(streams.into_iter().map(|stream| stream.boxed()).collect())
    }
}

/// A piece of work, counted while it lives.
pub(crate) struct Working(Arc<BeeCore>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`BeeCore::choose`].
pub(crate) struct Chosen(Arc<BeeCore>);

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.chosen.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Builds the session in which a task runs: its query's chamber.
#[derive(Clone)]
struct ChamberSessions {
    core: std::sync::Weak<BeeCore>,
    channels: Arc<dyn ChannelResolver + Send + Sync>,
    functions: Vec<Arc<ScalarUDF>>,
    nobody: Worker,
}

/// An address that no bee has.
pub(crate) fn nobodys_url() -> Result<Url> {
    Url::parse("bee://nobody/").map_err(|e| Error::internal(e.to_string()))
}

#[async_trait]
impl WorkerSessionBuilder for ChamberSessions {
    async fn build_session_state(&self, context: WorkerQueryContext) -> Result<SessionState, DataFusionError> {
        let core = self.core.upgrade().ok_or_else(|| Error::closed("the bee is gone"))?;
        let query = core.query_of(&context.headers)?;
        query.worked_on_by(core.index);
        let mut builder = context.builder;
        if let Some(config) = builder.config() {
            read_own_files(config.options_mut());
            apply_options(config, &query.options())?;
            config.set_extension(Arc::clone(&query.scans));
        }
        let chamber = core.combs.chamber(&query)?;
        let mut builder = builder
            .with_runtime_env(Arc::clone(&chamber))
            .with_distributed_channel_resolver(Arc::clone(&self.channels))
            .with_distributed_user_codec(StepCodec)
            .with_distributed_worker_plan_rewrite_handler(ReadCells(chamber))
            // The library puts the task's own worker here, and the worker keeps the task: neither would ever be freed.
            .with_distributed_local_worker_context(self.nobody.to_local_worker_context(nobodys_url()?))
            .with_distributed_passthrough_headers(query.headers()?)?;
        builder.aggregate_functions().get_or_insert_default().push(one_value());
        if !self.functions.is_empty() {
            builder.scalar_functions().get_or_insert_default().extend(self.functions.iter().cloned());
        }
        Ok(builder.build())
    }
}

/// The actor; see the module.
pub(crate) struct Bee {
    core: Arc<BeeCore>,
}

impl Bee {
    pub(crate) fn core(&self) -> &Arc<BeeCore> {
        &self.core
    }

    /// Starts a bee on an arbiter of its own.
    pub(crate) fn start(core: Arc<BeeCore>) -> (Arbiter, Addr<Self>) {
        let index = core.index;
        let arbiter = Arbiter::with_tokio_rt(move || runtime(format!("apiary-bee-{index}")));
        let addr = Self::start_in_arbiter(&arbiter.handle(), move |_| {
            THIS_BEE.set(Some((Arc::as_ptr(&core) as usize, core.index)));
            Self { core }
        });
        (arbiter, addr)
    }
}

impl Actor for Bee {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        // Admission bounds what reaches a bee; the mailbox is only a backstop, sized not to refuse a large plan.
        context.set_mailbox_capacity(1024);
    }
}

/// Gives a bee the plan of one task.
#[derive(Message)]
#[rtype(result = "Result<BoxStream<'static, Result<WorkerToCoordinatorMsg, DataFusionError>>, DataFusionError>")]
pub(crate) struct DeliverTask {
    pub(crate) headers: HeaderMap,
    pub(crate) request: SetPlanRequest,
    pub(crate) feed: BoxStream<'static, CoordinatorToWorkerMsg>,
}

impl Handler<DeliverTask> for Bee {
    type Result =
        ResponseFuture<Result<BoxStream<'static, Result<WorkerToCoordinatorMsg, DataFusionError>>, DataFusionError>>;

    fn handle(&mut self, message: DeliverTask, _: &mut Self::Context) -> Self::Result {
        let core = Arc::clone(&self.core);
        let deliver = async move {
            let DeliverTask { headers, request, feed } = message;
            let worker = core.worker(core.query_of(&headers)?.as_ref())?;
            worker.coordinator_channel(headers, request, feed.map(Ok).boxed()).await
        };
        Box::pin(async move { caught(deliver).await? })
    }
}

/// Runs some partitions of a task that was delivered; the batches come through bounded channels.
#[derive(Message)]
#[rtype(result = "Result<Vec<TaskBatches>, DataFusionError>")]
pub(crate) struct RunTask {
    pub(crate) headers: HeaderMap,
    pub(crate) request: ExecuteTaskRequest,
}

impl Handler<RunTask> for Bee {
    type Result = ResponseFuture<Result<Vec<TaskBatches>, DataFusionError>>;

    fn handle(&mut self, message: RunTask, _: &mut Self::Context) -> Self::Result {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let query = core.query_of(&message.headers)?;
            let streams = caught(core.open_streams(&query, message.request)).await??;
            Ok(streams.into_iter().map(|stream| forward(stream, core.begin(), Arc::clone(&query))).collect())
        })
    }
}

/// What travels between bees: a batch, an error, or the end, which is said and never only implied, so that a bee that
/// goes away in the middle is not taken for one that is done.
type TaskItem = Result<Option<RecordBatch>, DataFusionError>;

/// The batches of one partition of a task on another bee.
pub(crate) struct TaskBatches(mpsc::Receiver<TaskItem>);

impl TaskBatches {
    /// The batches until the end that the other bee says.
    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<RecordBatch, DataFusionError>> {
        futures::stream::unfold(Some(self.0), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Ok(None)) => None,
                Some(Ok(Some(batch))) => Some((Ok(batch), Some(receiver))),
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Err(Error::internal("a bee stopped in the middle of a task: ask again").into()), None)),
            }
        })
        .boxed()
    }
}

/// Pulls a stream on this thread into a bounded channel, until it ends, fails, or nobody listens.
fn forward(
    mut stream: BoxStream<'static, Result<RecordBatch, DataFusionError>>,
    working: Working,
    query: Arc<QueryRecord>,
) -> TaskBatches {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let token = query.attempt();
    // Not on the actors' own queue: see `runtime`.
    tokio::spawn(async move {
        let _working = working;
        loop {
            let item = tokio::select! {
                biased;
                () = sender.closed() => break,
                () = token.cancelled() => Err(Error::cancelled("the query was cancelled").into()),
                next = caught(stream.next()) => match next {
                    Ok(next) => next.transpose(),
                    Err(panic) => Err(panic.into()),
                },
            };
            let last = !matches!(item, Ok(Some(_)));
            if sender.send(item).await.is_err() || last {
                break;
            }
        }
    });
    TaskBatches(receiver)
}

/// Has a bee do a piece of work on its thread.
#[derive(Message)]
#[rtype(result = "()")]
struct Work(BoxFuture<'static, ()>);

impl Handler<Work> for Bee {
    type Result = ();

    fn handle(&mut self, Work(work): Work, _: &mut Self::Context) {
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            let _working = core.begin();
            work.await;
        });
    }
}

/// Runs `work` on the thread of the bee behind `addr`.
///
/// # Errors
/// `Internal` when the bee stops meanwhile.
pub(crate) async fn on_bee<T: Send + 'static>(
    addr: Addr<Bee>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    let work = work.map(|value| drop(done.send(value))).boxed();
    let gone = || Error::internal("the leading bee stopped; it is started again: ask again");
    addr.send(Work(work)).await.map_err(|_| gone())?;
    result.await.map_err(|_| gone())
}

/// Plans a statement and sees to its work, where the scout does not.
impl Handler<LeadQuery> for Bee {
    type Result = ();

    fn handle(&mut self, LeadQuery(lead): LeadQuery, _: &mut Self::Context) {
        tokio::spawn(lead.run());
    }
}

impl Handler<EncodeCells> for Bee {
    type Result = ResponseFuture<Result<Vec<CellFile>>>;

    fn handle(&mut self, message: EncodeCells, _: &mut Self::Context) -> Self::Result {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let _working = core.begin();
            caught(message.run()).await?
        })
    }
}

/// Awaits `work`; a panic in it becomes an error.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let text = panic_text(panic.as_ref());
        tracing::error!(panic = %text, "a task panicked; the bee goes on");
        Error::internal(format!("a task panicked: {text}"))
    })
}

/// Polls `work` with room on the stack for statements that are nested deeply: a thread's own is too small.
pub(crate) fn with_room<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut work = Box::pin(work);
    futures::future::poll_fn(move |context| stacker::maybe_grow(ROOM, ROOM, || work.as_mut().poll(context)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// A bee's thread computes for milliseconds at a time. Left to itself the runtime would look for what other threads ask
/// of it, the next task's plan say, only after dozens of such turns, and tasks of the actors' own queue later still:
/// half of a query waited for that. So work is spawned on the runtime and not beside the actors, and every few turns
/// the runtime looks around.
pub(crate) fn runtime(thread: String) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .global_queue_interval(2)
        .event_interval(TURNS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(thread)
        .build()
        .expect("the system gives a thread its event queue and timer, or nothing of a colony can run")
}
