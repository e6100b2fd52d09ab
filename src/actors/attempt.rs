//! One attempt of a shared query's task on this node: wait for its inputs, run it on a bee, say how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Handler, Message, ResponseFuture};
use datafusion_distributed::{ExecuteTaskRequest, MaybeEncoded, ProducerHead, SetPlanRequest, TaskKey, Worker};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::{ObjectStoreExt, PutPayload};
use tokio_util::sync::CancellationToken;

use super::bee::{Bee, BeeCore, caught, nobodys_url};
use super::channel::spilled_in;
use super::colony::Core;
use super::exchange::{Exchange, Listing};
use super::query::QueryRecord;
use super::scratch::StageFolder;
use crate::storage::backend::create;
use crate::storage::swarm::beat::Running;
use crate::storage::swarm::names::{Entry, TaskId};
use crate::storage::swarm::output::{OutputWriter, Written};
use crate::storage::swarm::record::{Cost, DoneHeader, DoneRecord, Failure, Head, TaskHeader, TaskRecord};
use crate::{Error, Result};

/// Between tries at saying how an attempt ended.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// An attempt that this node was given.
pub(crate) struct Attempt {
    pub(crate) query: Arc<QueryRecord>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) task: Arc<TaskRecord>,
    pub(crate) number: u32,
    /// Ends it: the query's own end, or that nobody needs its rows any more.
    pub(crate) token: CancellationToken,
}

/// What ends the attempts of one query on this node when another node's was faster.
#[derive(Debug, Default)]
pub(crate) struct Beatable(Vec<(TaskId, CancellationToken)>);

impl Beatable {
    /// What ends a new attempt at `task`, which also ends with `parent`.
    pub(crate) fn enter(&mut self, task: TaskId, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        self.0.push((task, token.clone()));
        token
    }

    /// Ends attempts at tasks that are done: nobody needs their rows.
    pub(crate) fn stop_beaten(&mut self, listing: &Listing) {
        self.0.extract_if(.., |(task, _)| listing.finished.contains(task)).for_each(|(_, token)| token.cancel());
    }
}

impl Attempt {
    /// Runs it to its end, whatever that is; stops at once when the query does.
    pub(crate) fn run(self, core: Arc<Core>) -> BoxFuture<'static, ()> {
        let token = self.token.clone();
        let run = async move { self.run_to_the_end(&core).await }.boxed();
        async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = run => {}
            }
        }
        .boxed()
    }

    async fn run_to_the_end(self, core: &Arc<Core>) {
        let header = &self.task.header;
        let attempt = Running { query: self.query.id, task: header.task, attempt: self.number };
        // Where no other node takes part, nobody else need know.
        let alone = self.exchange.is_alone();
        let _stays = (!alone).then(|| core.heart.takes(attempt));
        // One that waits for its inputs takes no place: it could be the place that they wait for.
        if self.exchange.wait_for_all(&header.inputs).await.is_err() {
            return;
        }
        let Ok(_place) = core.places.acquire().await else { return };
        if self.exchange.done(header.task).is_some() {
            return;
        }
        if !alone {
            core.heart.runs(attempt);
        }
        let outcome = self.on_a_bee(core).await;
        if alone {
            // Another attempt would find the same memory and the same disk.
            return match outcome {
                Ok(done) => self.exchange.learned(header.task, done),
                Err(error) => self.exchange.abandon(error),
            };
        }
        // A leader that never hears of it would wait; a store that is out of reach may come back.
        loop {
            let told = match &outcome {
                Ok(done) => self.tell_done(done).await,
                Err(error) => self.tell_failed(error).await,
            };
            let Err(error) = told else { return };
            tracing::warn!(%error, task = %self.task.header.task, "how an attempt ended could not be told; tried again");
            tokio::time::sleep(TELL_AGAIN).await;
        }
    }

    async fn on_a_bee(&self, core: &Arc<Core>) -> Result<DoneRecord> {
        let (bee, _place) = core.bee_for_attempt()?;
        let message = RunAttempt {
            query: Arc::clone(&self.query),
            exchange: Arc::clone(&self.exchange),
            task: Arc::clone(&self.task),
            number: self.number,
            token: self.token.clone(),
            folder: self.exchange.folder()?,
        };
        bee.addr()?.send(message).await.map_err(|_| Error::closed("the bee stopped in the middle of a task"))?
    }

    /// The first to create this object has done the task.
    async fn tell_done(&self, done: &DoneRecord) -> Result<()> {
        let path = Entry::Done(self.task.header.task).path(self.query.id);
        if create(self.exchange.store.as_ref(), &path, done.to_bytes()?).await? {
            self.exchange.learned(self.task.header.task, done.clone());
        }
        Ok(())
    }

    async fn tell_failed(&self, error: &Error) -> Result<()> {
        tracing::debug!(%error, task = %self.task.header.task, "an attempt failed");
        let failure = Failure::of(&self.exchange.me, error);
        let path = Entry::Failed(self.task.header.task, self.number).path(self.query.id);
        self.exchange.store.put(&path, PutPayload::from_bytes(failure.to_bytes()?)).await?;
        Ok(())
    }
}

/// Has a bee run one attempt and write its output.
#[derive(Message)]
#[rtype(result = "Result<DoneRecord>")]
pub(crate) struct RunAttempt {
    query: Arc<QueryRecord>,
    exchange: Arc<Exchange>,
    task: Arc<TaskRecord>,
    number: u32,
    token: CancellationToken,
    /// Where it writes to, if it is not the meadow.
    folder: Option<Arc<StageFolder>>,
}

impl Handler<RunAttempt> for Bee {
    type Result = ResponseFuture<Result<DoneRecord>>;

    fn handle(&mut self, message: RunAttempt, _: &mut Self::Context) -> Self::Result {
        let core = Arc::clone(self.core());
        Box::pin(async move {
            let _working = core.begin();
            message.query.worked_on_by(core.index);
            let token = message.token.clone();
            // Nobody waits for a cancelled query's attempt, so it has to stop by itself.
            caught(message.run(&core, &token)).await?
        })
    }
}

impl RunAttempt {
    async fn run(self, core: &Arc<BeeCore>, token: &CancellationToken) -> Result<DoneRecord> {
        let (started, before) = (Instant::now(), self.query.meter.read());
        let header = &self.task.header;
        // Another attempt of this task may be on this bee: they share nothing.
        let worker = core.new_worker();
        let (feed_ends, feed) = tokio::sync::oneshot::channel::<()>();
        let feed = futures::stream::once(feed).filter_map(|_| std::future::ready(None)).boxed();
        let mut messages = worker.coordinator_channel(headers(header)?, self.plan()?, feed).await?;
        let salt = fastrand::u64(..);
        let written = self.write(&worker, salt, token).await?;
        drop(feed_ends);
        let mut spilled = 0;
        while let Some(message) = messages.next().await {
            spilled += spilled_in(&message);
        }
        let after = self.query.meter.read();
        let cost = Cost {
            elapsed_ms: started.elapsed().as_millis() as u64,
            memory_peak: self.query.memory_peak.load(Ordering::Relaxed),
            spilled,
            requests: after.requests() - before.requests(),
            hedges: after.hedges - before.hedges,
            bytes_read: after.bytes_read - before.bytes_read,
            bytes_written: written.bytes,
        };
        let header = DoneHeader {
            attempt: self.number,
            salt,
            node: self.exchange.me.clone(),
            inline: written.inline.is_some(),
            pieces: written.pieces,
            rows: written.rows,
            cost,
        };
        Ok(DoneRecord { header, rows: written.inline.unwrap_or_default() })
    }

    async fn write(&self, worker: &Worker, salt: u64, token: &CancellationToken) -> Result<Written> {
        let header = &self.task.header;
        let request = ExecuteTaskRequest {
            task_key: key(header),
            target_partition_start: 0,
            target_partition_end: header.partitions as usize,
            producer_head: head(&self.task),
        };
        let (streams, _) = worker.execute_task(request).await?;
        let schema = streams.first().map(|s| s.schema()).ok_or_else(|| Error::corrupt("a task has no partitions"))?;
        let path = Entry::Output(header.task, self.number, salt).path(self.query.id);
        let mut writer = OutputWriter::new(Arc::clone(&self.exchange.store), path, schema, streams.len());
        let numbered = streams.into_iter().enumerate().map(|(i, s)| s.map(move |batch| (i, batch)));
        // All at once: a repartitioning holds every partition back that nobody takes.
        let mut batches = futures::stream::select_all(numbered);
        loop {
            let next = tokio::select! {
                biased;
                () = token.cancelled() => Some((0, Err(Error::cancelled("the query was cancelled").into()))),
                next = batches.next() => next,
            };
            let Some((partition, batch)) = next else { break };
            let before = writer.sent();
            let wrote = match batch {
                Ok(batch) if batch.num_rows() == 0 => Ok(()),
                Ok(batch) => writer.write(partition, &batch).await.and_then(|()| self.wrote(writer.sent() - before)),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = wrote {
                writer.abort().await;
                return Err(error);
            }
        }
        let before = writer.sent();
        let written = writer.finish().await?;
        self.wrote(written.bytes - before)?;
        Ok(written)
    }

    /// Counts bytes of its output that went to this node's disk.
    fn wrote(&self, bytes: u64) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        self.query.spilled.fetch_add(bytes, Ordering::Relaxed);
        folder.wrote(bytes)
    }

    fn plan(&self) -> Result<SetPlanRequest> {
        let header = &self.task.header;
        Ok(SetPlanRequest {
            task_key: key(header),
            task_count: header.task_count as usize,
            plan: MaybeEncoded::Encoded(self.task.plan.to_vec()),
            work_unit_feed_declarations: Vec::new(),
            target_worker_url: nobodys_url()?,
            query_start_time_ns: 0,
        })
    }
}

/// The task that the engine means by `key`.
pub(super) fn task_of(key: &TaskKey) -> TaskId {
    TaskId { stage: key.stage_id as u32, task: key.task_number as u32 }
}

fn key(header: &TaskHeader) -> TaskKey {
    TaskKey {
        query_id: header.plan_query.uuid(),
        stage_id: header.task.stage as usize,
        task_number: header.task.task as usize,
    }
}

fn head(task: &TaskRecord) -> ProducerHead {
    match task.header.head {
        Head::Plain => ProducerHead::None,
        Head::Broadcast => ProducerHead::BroadcastExec { output_partitions: task.header.partitions as usize },
        Head::Hash => ProducerHead::RepartitionExec { partitioning: MaybeEncoded::Encoded(task.partitioning.to_vec()) },
    }
}

fn headers(header: &TaskHeader) -> Result<HeaderMap> {
    let damaged = || Error::corrupt("a task has a header that is none");
    let mut headers = HeaderMap::new();
    for (name, value) in &header.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| damaged())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| damaged())?);
    }
    Ok(headers)
}
