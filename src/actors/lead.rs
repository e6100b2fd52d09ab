//! One statement: plan it, have a bee run the part that is not split, hand the batches out.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};

use super::admission::Ticket;
use super::alter::alter;
use super::bee::{BeeCore, caught, on_bee, with_room};
use super::change::{Replacing, replace};
use super::colony::Core;
use super::housekeeper;
use super::query::{Asked, QueryRecord, is_stop};
use super::share::{Place, Shared};
use super::verify::verify;
use super::write::write_frame;
use crate::memory::lend;
use crate::sql::distribution::{SwarmBees, lean_options, node_url, staged_options};
use crate::sql::{
    Ask, Backpressure, Distribute, Facts, Layout, Output, Params, PhysicalQuery, Planned, Spread, SqlSession, altered,
    changed, verified, written,
};
use crate::storage::{AsOf, FrameRef, FrameState, Placement, WriteMode};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// How long a bee may take to notice that its query is to stop.
const LETTING_GO: Duration = Duration::from_secs(1);
/// How long a commit may take that has begun: who asked for it is told what came of it.
const COMMITTING: Duration = Duration::from_secs(30);

/// What is to be done.
pub(crate) enum Job {
    /// One SQL statement.
    Sql { sql: String, params: Params, session: Arc<SqlSession> },
    /// One version of a frame.
    Read { frame: FrameRef, columns: Option<Vec<String>>, as_of: AsOf, session: Arc<SqlSession> },
    /// The small cells of a frame merged, where there are at least so many of a partition.
    Merge { frame: FrameRef, least: usize },
}

impl Job {
    /// The text to be planned.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Sql { sql, .. } => sql,
            Self::Read { .. } | Self::Merge { .. } => "",
        }
    }

    /// Whose it is; housekeeping is nobody's.
    fn session(&self) -> Option<&SqlSession> {
        match self {
            Self::Sql { session, .. } | Self::Read { session, .. } => Some(session),
            Self::Merge { .. } => None,
        }
    }

    /// What is shown of it.
    pub(crate) fn asked(&self) -> Asked {
        match self {
            Self::Sql { sql, .. } => Asked::user(sql),
            Self::Read { frame, .. } => Asked::user(&format!("read of {frame}")),
            Self::Merge { frame, .. } => housekeeper::asked("merge cells of", frame),
        }
    }
}

/// A job and the ends of its channels.
pub(crate) struct Lead {
    pub(crate) core: Arc<Core>,
    pub(crate) job: Arc<Job>,
    pub(crate) query: Arc<QueryRecord>,
    /// Told the columns once the plan is there, or why there is none.
    pub(crate) started: oneshot::Sender<Result<SchemaRef>>,
    pub(crate) batches: mpsc::Sender<Result<RecordBatch>>,
    /// Its stay among the statements: over when the last batch is on its way, read or not.
    pub(crate) ticket: Ticket,
}

/// The answer of a job: its columns and where its batches come from.
enum Answer {
    Ready(RecordBatch),
    Rows(SendableRecordBatchStream, PhysicalQuery, Option<Shared>),
}

impl Lead {
    /// Runs the job to its end; every outcome goes to the channels. The calling thread plans, and runs what is short; a bee
    /// runs what is long.
    pub(crate) async fn run(self) {
        let Self { core, job, query, started, batches, ticket } = self;
        let mut attempt =
            Attempt { core: Arc::clone(&core), job, query: Arc::clone(&query), way: Way::Streamed, now: Utc::now() };
        let asker = Asker { started: Arc::new(Mutex::new(Some(started))), batches };
        let mut outcome = attempt.clone().run(&ticket, &asker).await;
        for way in [Way::Staged, Way::Lean] {
            let did_not_fit = matches!(&outcome, Err(error) if error.kind() == ErrorKind::MemoryExceeded);
            let cannot = way == Way::Staged && !attempt.may_be_staged();
            if !did_not_fit || cannot || !query.begin_again().await {
                continue;
            }
            tracing::info!(query = %query.id, ?way, "over the memory budget: the query is tried again another way");
            attempt.way = way;
            let next = attempt.clone().run(&ticket, &asker).await;
            if let Err(error) = &next {
                tracing::info!(query = %query.id, ?way, %error, "that failed, too");
            }
            outcome = match (next, outcome) {
                (Err(error), _) if is_stop(&error) => Err(error),
                (Err(error), Err(before)) => Err(before_and(before, way, &error)),
                (next, _) => next,
            };
        }
        query.ended(core.temperature());
        core.spare_disk();
        // Who sees the end finds its place free.
        drop(ticket);
        if let Err(error) = outcome {
            // A caller that has gone away needs no answer.
            match asker.begin() {
                Some(started) => drop(started.send(Err(error))),
                None => drop(asker.batches.send(Err(error)).await),
            }
        }
    }
}

/// The error of a query that failed `before`, and then another way. What that way cannot do says less than what did not fit.
fn before_and(before: Error, way: Way, error: &Error) -> Error {
    let is_news = !before.message().contains(error.message());
    match error.kind() {
        ErrorKind::MemoryExceeded | ErrorKind::Storage if is_news => {
            Error::new(before.kind(), format!("{}; {way}: {}", before.message(), error.message()))
        }
        _ => before,
    }
}

/// Who waits for the columns, then for the batches.
#[derive(Clone)]
struct Asker {
    started: Arc<Mutex<Option<oneshot::Sender<Result<SchemaRef>>>>>,
    batches: mpsc::Sender<Result<RecordBatch>>,
}

impl Asker {
    /// The way to who waits for the columns, until they are told.
    fn begin(&self) -> Option<oneshot::Sender<Result<SchemaRef>>> {
        lock(&self.started).take()
    }
}

/// How a try goes about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All stages at once; rows go from bee to bee, of this node or of the swarm.
    Streamed,
    /// A stage after the other, in so many tasks that what each must hold fits; rows wait on disk between them.
    Staged,
    /// Joins sort and spill instead of holding one side.
    Lean,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streamed => "all at once",
            Self::Staged => "tried again in stages",
            Self::Lean => "tried again with joins that sort",
        })
    }
}

/// One try at a job.
#[derive(Clone)]
struct Attempt {
    core: Arc<Core>,
    job: Arc<Job>,
    query: Arc<QueryRecord>,
    way: Way,
    /// What `now()` is in all tries.
    now: DateTime<Utc>,
}

impl Attempt {
    async fn run(self, ticket: &Ticket, asker: &Asker) -> Result<()> {
        let (core, query) = (Arc::clone(&self.core), Arc::clone(&self.query));
        let slot = core.least_busy_bee()?;
        let bee = Arc::clone(&slot.core);
        let _chosen = bee.choose();
        query.worked_on_by(bee.index);
        let planned = {
            let _in_hand = core.scout.in_hand();
            caught(with_room(self.plan(&bee))).await??
        };
        if planned.is_short() {
            let _in_hand = core.scout.in_hand();
            return caught(self.finish(planned, &bee, asker)).await?;
        }
        if !query.is_housekeeping() {
            if planned.writes() {
                until_stopped(&query, core.hold_back(self.backpressure())).await?;
            }
            until_stopped(&query, core.turn(ticket)).await?;
        }
        let work = {
            let asker = asker.clone();
            async move { caught(self.finish(planned, &bee, &asker)).await.and_then(|outcome| outcome) }
        };
        let work = on_bee(slot.addr()?, work);
        tokio::pin!(work);
        tokio::select! {
            // A bee that is stopped ends its work without a word.
            outcome = &mut work => outcome.unwrap_or_else(|gone| Err(query.stop_reason().unwrap_or(gone))),
            reason = query.stopped() => match tokio::time::timeout(letting_go(&query), work).await {
                Ok(outcome) => outcome?,
                // It computes without a pause: the caller is told all the same, and the bee goes on when that ends.
                Err(_) => {
                    // There is a reason already.
                    let _ = query.stay();
                    Err(reason)
                }
            }
        }
    }

    /// Whether there is another plan for it, whose rows this node's disk may take.
    fn may_be_staged(&self) -> bool {
        matches!(self.job.as_ref(), Job::Sql { .. }) && !self.query.is_shared() && self.core.scratch_folder().is_some()
    }

    /// What becomes of its writes while the node is hot.
    fn backpressure(&self) -> Backpressure {
        let asked = self.job.session().and_then(SqlSession::backpressure);
        asked.unwrap_or(self.core.settings.backpressure)
    }

    /// What the statement is planned with; `fresh` is the session of one that has none.
    fn ask<'a>(&'a self, fresh: &'a SqlSession, bee: &Arc<BeeCore>) -> Result<Ask<'a>> {
        let session = self.job.session().unwrap_or(fresh);
        let params = match self.job.as_ref() {
            Job::Sql { params, .. } => params,
            Job::Read { .. } | Job::Merge { .. } => &Params::None,
        };
        let mut options = session.options();
        let (lean, budget) = (self.way == Way::Lean, self.core.settings.bee_memory());
        match self.way {
            Way::Streamed => {}
            Way::Staged => options.extend(staged_options(budget)),
            Way::Lean => options.extend(lean_options(budget)),
        }
        self.query.set_options(options.clone());
        self.query.set_limits(session.limits());
        let (now, spread) = (self.now, Spread::Colony);
        let (runtime, headers) = (bee.combs.chamber(&self.query)?, self.query.headers()?);
        Ok(Ask { params, session, lean, options, runtime, headers, spread, scans: Arc::clone(&self.query.scans), now })
    }

    async fn plan(&self, bee: &Arc<BeeCore>) -> Result<Planned> {
        let fresh = SqlSession::new()?;
        let ask = self.ask(&fresh, bee)?;
        match self.job.as_ref() {
            Job::Read { frame, columns, as_of, .. } => {
                let plan = self.core.planner.plan_read(frame, columns.as_deref(), *as_of, &ask);
                until_stopped(&self.query, plan).await.map(Planned::Rows)
            }
            Job::Merge { frame, .. } => Ok(Planned::Optimize { frame: frame.clone(), layout: Layout::Any }),
            Job::Sql { sql, .. } => until_stopped(&self.query, plan(&self.core, sql, ask, self.way)).await,
        }
    }

    /// Does what was planned, to the last batch.
    async fn finish(&self, planned: Planned, bee: &Arc<BeeCore>, asker: &Asker) -> Result<()> {
        let (core, query) = (&self.core, &self.query);
        let answer = self.answer(planned, bee).await?;
        if let Some(started) = asker.begin()
            && started.send(Ok(answer.schema())).is_err()
        {
            return Ok(());
        }
        until_stopped(query, answer.deliver(core, query, &asker.batches)).await
    }

    async fn answer(&self, planned: Planned, bee: &Arc<BeeCore>) -> Result<Answer> {
        let (core, query) = (&self.core, &self.query);
        let fresh = SqlSession::new()?;
        let ask = self.ask(&fresh, bee)?;
        match planned {
            Planned::Answer(batch) => Ok(Answer::Ready(batch)),
            Planned::Rows(physical) => {
                let (stream, shared) = start(core, &physical, query).await?;
                Ok(Answer::Rows(stream, physical, shared))
            }
            Planned::Change { frame, change } => {
                let result = replace(core, &frame, &Replacing::Rows(&change), &ask, query).await?;
                changed(&frame, &result).map(Answer::Ready)
            }
            Planned::Alter { frame, alteration } => {
                let version = alter(core, &frame, &alteration, &ask, query).await?;
                altered(&frame, version).map(Answer::Ready)
            }
            Planned::Copy { query: physical, output } => copy(core, physical, output, query).await,
            Planned::Verify { frame } => verified(&verify(core, &frame, &ask, query).await?).map(Answer::Ready),
            Planned::Optimize { frame, layout } => {
                let replacing = match self.job.as_ref() {
                    Job::Merge { least, .. } => Replacing::Tier(*least),
                    _ => Replacing::Cells(&layout),
                };
                let result = replace(core, &frame, &replacing, &ask, query).await?;
                changed(&frame, &result).map(Answer::Ready)
            }
            Planned::Insert { into, mode, query: physical } => insert(core, &into, mode, physical, query).await,
            Planned::CreateAs { frame, placement, if_not_exists, query: physical } => {
                create_as(core, &frame, &placement, if_not_exists, physical, query).await
            }
        }
    }
}

impl Answer {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::Ready(batch) => batch.schema(),
            Self::Rows(stream, ..) => plain_schema(&stream.schema()),
        }
    }

    async fn deliver(
        self,
        core: &Core,
        query: &QueryRecord,
        batches: &mpsc::Sender<Result<RecordBatch>>,
    ) -> Result<()> {
        let (mut stream, physical, _shared) = match self {
            Self::Ready(batch) => return give(query, batches, batch).await,
            Self::Rows(stream, physical, shared) => (stream, physical, shared),
        };
        let schema = plain_schema(&stream.schema());
        while let Some(batch) = stream.next().await {
            give(query, batches, plain_batch(&batch?, &schema)?).await?;
        }
        if physical.analyze {
            let facts = facts(core, query);
            give(query, batches, facts.to_batch(&physical.notes)?.with_schema(schema)?).await?;
        }
        Ok(())
    }
}

/// Plans a statement for this colony, or, in its first try, for the swarm where that is asked for or expected to be faster.
fn plan<'a>(core: &'a Arc<Core>, sql: &'a str, ask: Ask<'a>, way: Way) -> BoxFuture<'a, Result<Planned>> {
    match way {
        Way::Streamed => plan_first(core, sql, ask).boxed(),
        Way::Staged => plan_staged(core, sql, ask).boxed(),
        Way::Lean => async move { core.planner.plan(sql, &ask).await }.boxed(),
    }
}

/// A plan for the swarm whose only node is this one.
async fn plan_staged(core: &Core, sql: &str, mut ask: Ask<'_>) -> Result<Planned> {
    let url = node_url(&core.heart.id)?;
    let urls = vec![url; core.settings.bee_count()];
    ask.spread = Spread::Staged(Arc::new(SwarmBees { urls, least_memory: core.settings.bee_memory() }));
    let planned = core.planner.plan(sql, &ask).await?;
    match planned.query().and_then(PhysicalQuery::exchanging) {
        Some(_) => Ok(planned),
        None => Err(Error::unsupported("it has no stages")),
    }
}

async fn plan_first(core: &Arc<Core>, sql: &str, mut ask: Ask<'_>) -> Result<Planned> {
    let distribute = ask.session.distribute().unwrap_or(core.settings.distribute);
    if distribute == Distribute::Always && core.shareable {
        ask.spread = spread(core).await?;
    }
    let planned = core.planner.plan(sql, &ask).await?;
    let Some(physical) = planned.query() else { return Ok(planned) };
    match ask.spread {
        Spread::Swarm(_) if !physical.is_shareable() => ask.spread = Spread::Colony,
        Spread::Swarm(_) | Spread::Staged(_) => return Ok(planned),
        Spread::Colony if distribute != Distribute::Auto || !core.shareable => return Ok(planned),
        Spread::Colony if !physical.is_shareable() || !core.may_be_faster_shared(physical.scan_bytes()) => {
            return Ok(planned);
        }
        Spread::Colony => match spread(core).await? {
            Spread::Colony => return Ok(planned),
            swarm => ask.spread = swarm,
        },
    }
    core.planner.plan(sql, &ask).await
}

/// Addresses of every bee that can be reached, those of different nodes in turn; this colony alone when it is.
async fn spread(core: &Core) -> Result<Spread> {
    let mut nodes: Vec<_> = core.heart.workers().await?.into_iter().filter(|n| n.fit && n.bees > 0).collect();
    // The same nodes get the same tasks again, whoever asks: their caches hold the cells.
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    if nodes.len() < 2 {
        return Ok(Spread::Colony);
    }
    let most = nodes.iter().map(|n| n.bees).max().unwrap_or(0);
    let turns = (0..most).flat_map(|turn| nodes.iter().filter(move |n| n.bees > turn));
    let urls = turns.map(|n| node_url(&n.id)).collect::<Result<Vec<_>>>()?;
    let least_memory = nodes.iter().map(|n| n.bee_memory).min().unwrap_or(0);
    Ok(Spread::Swarm(Arc::new(SwarmBees { urls, least_memory })))
}

/// Starts a plan; tasks that exchange rows through a store are looked after until the guard is dropped.
async fn start(
    core: &Arc<Core>,
    physical: &PhysicalQuery,
    query: &Arc<QueryRecord>,
) -> Result<(SendableRecordBatchStream, Option<Shared>)> {
    query.planned(&physical.notes, physical.tasks());
    let shared = match physical.exchanging() {
        Some(plan) => {
            let place = if physical.is_for_the_swarm() { Place::Meadow } else { Place::Scratch };
            Some(Shared::begin(core, query, place, plan, &physical.context).await?)
        }
        None => None,
    };
    Ok((execute_stream(Arc::clone(&physical.plan), Arc::clone(&physical.context))?, shared))
}

async fn copy(core: &Arc<Core>, physical: PhysicalQuery, output: Output, query: &Arc<QueryRecord>) -> Result<Answer> {
    let (rows, _shared) = start(core, &physical, query).await?;
    let counts: Vec<RecordBatch> = until_stopped(query, async { Ok(rows.try_collect().await?) }).await?;
    let count = counts.into_iter().next().ok_or_else(|| Error::internal("COPY gave no number of rows"))?;
    output.keep()?;
    Ok(Answer::Ready(count))
}

async fn insert(
    core: &Arc<Core>,
    into: &Arc<FrameState>,
    mode: WriteMode,
    physical: PhysicalQuery,
    query: &Arc<QueryRecord>,
) -> Result<Answer> {
    let (rows, _shared) = start(core, &physical, query).await?;
    let result = until_committed(query, write_frame(core, into, rows, mode.into(), query)).await?;
    written(&into.frame, &result).map(Answer::Ready)
}

async fn create_as(
    core: &Arc<Core>,
    frame: &FrameRef,
    placement: &Placement,
    if_not_exists: bool,
    physical: PhysicalQuery,
    query: &Arc<QueryRecord>,
) -> Result<Answer> {
    // That a value of a query is never null says nothing of the rows to come.
    let schema = physical.plan.schema();
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let made = core.meadow.create_frame(frame, &schema, placement, if_not_exists).await?;
    let record = core.meadow.registry().record_of(frame).await?;
    let state = core.meadow.state(frame, AsOf::Latest).await?;
    if !made {
        let nothing = crate::storage::WriteResult {
            version: state.version(),
            rows: 0,
            cells: 0,
            bytes: 0,
            temperature: core.temperature(),
        };
        return written(frame, &nothing).map(Answer::Ready);
    }
    match insert(core, &state, WriteMode::Append, physical, query).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            // A statement that failed leaves no empty frame behind; nor does it take one that another made since.
            if core.meadow.registry().record_of(frame).await.is_ok_and(|now| now != record) {
                return Err(error);
            }
            match core.meadow.drop_frame(frame, true).await {
                Ok(_) => Err(error),
                // Not to be tried again: the frame would be found there.
                Err(left) => {
                    Err(left.context(format!("{frame} could not be removed after CREATE … AS failed ({error})")))
                }
            }
        }
    }
}

async fn give(query: &QueryRecord, batches: &mpsc::Sender<Result<RecordBatch>>, batch: RecordBatch) -> Result<()> {
    query.gave(&batch);
    batches.send(Ok(lend(&batch)?)).await.map_err(|_| Error::cancelled("nobody reads the answer any more"))
}

/// Awaits `work`, unless the query is cancelled or late first. A panic becomes an error.
pub(crate) async fn until_stopped<T>(query: &QueryRecord, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        reason = query.stopped() => Err(reason),
        result = caught(work) => result?,
    }
}

/// How long a statement that is to stop is waited for.
fn letting_go(query: &QueryRecord) -> Duration {
    if query.stays() { COMMITTING } else { LETTING_GO }
}

/// As [`until_stopped`], but for a write: one that commits is waited for, so that who asked is told what came of it.
pub(crate) async fn until_committed<T>(query: &QueryRecord, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(caught(work));
    tokio::select! {
        biased;
        reason = query.stopped() => match query.stays() {
            true => work.await?.map_err(|error| if is_stop(&error) { reason } else { error }),
            false => Err(reason),
        },
        result = &mut work => result?,
    }
}

fn facts(core: &Core, query: &QueryRecord) -> Facts {
    let stats = query.stats();
    Facts {
        bees: stats.bees,
        tasks: stats.tasks,
        nodes: stats.nodes,
        exchanged: stats.exchanged,
        retries: stats.retries,
        speculations: stats.speculations,
        moves: stats.moves,
        memory_peak: stats.memory_peak,
        spilled: stats.spilled,
        requests: stats.requests,
        hedges: stats.hedges,
        bytes_read: stats.bytes_read,
        temperature: core.temperature(),
    }
}

/// Views are the engine's inside: every consumer of Arrow takes plain strings and binaries.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let plain = |field: &Field| match field.data_type() {
        DataType::Utf8View => field.clone().with_data_type(DataType::Utf8),
        DataType::BinaryView => field.clone().with_data_type(DataType::Binary),
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(|f| plain(f)).collect::<Vec<_>>()))
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let plain = |(column, field): (&ArrayRef, &Arc<Field>)| match column.data_type() == field.data_type() {
        true => Ok(Arc::clone(column)),
        false => arrow::compute::cast(column, field.data_type()),
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(plain).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
