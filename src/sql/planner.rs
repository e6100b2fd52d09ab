//! Statement → answer, or a physical plan that bees can run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, DmlStatement, Explain, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
    Statement as PlanStatement, WriteOp,
};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion_distributed::{
    DistributedExec, DistributedExt, DistributedLeafExec, NetworkBoundaryExt, display_plan_ascii,
};

use super::answer;
use super::catalog::{Target, catalogs, frame_behind, frame_of, frame_table};
use super::distribution::{Split, SwarmBees, apply_options, distributed, file_scan, session_config};
use super::frame_table::ScanNotes;
use super::limits::{check_statement, survey};
use super::row_change::RowChange;
use super::session::SqlSession;
use super::shared_scan::SharedScans;
use super::statement::{Kind, Statement, parse};
use super::stop_points::StopPoints;
use super::world::World;
use crate::storage::leafcutter::ROW_GROUP_ROWS;
use crate::storage::ledger::ROOT_URL;
use crate::storage::vacuum::RETENTION;
use crate::storage::{AsOf, BoxName, FrameRef, FrameState, HiveName, Meadow, WriteMode};
use crate::{Error, Result};

/// Encoded bytes of cells that a short query reads at most: some milliseconds of a small core.
const SHORT_BYTES: u64 = 1 << 20;
/// What a row counts at least: encoded, many can be next to nothing.
const SHORT_ROW: u64 = 8;
/// What rows in memory count.
const SHORT_MEMORY: u64 = 8 << 10;
/// What a byte counts below a join.
const SHORT_JOIN: u64 = 100;

/// Values for `$1` or `$name` in a query.
#[derive(Debug, Clone, Default)]
pub enum Params {
    /// None are given.
    #[default]
    None,
    /// For `$1`, `$2`, …
    Positional(Vec<ScalarValue>),
    /// For `$name`.
    Named(HashMap<String, ScalarValue>),
}

/// Where a plan may run.
#[derive(Debug, Clone, Default)]
pub enum Spread {
    /// On the bees of this colony.
    #[default]
    Colony,
    /// On these bees, a task at a time, however small it is.
    Swarm(Arc<SwarmBees>),
}

/// What a statement is planned with.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Values of its parameters.
    pub params: &'a Params,
    /// What `USE` and `SET` changed.
    pub session: &'a SqlSession,
    /// Whether it did not fit before: a join that begins its inputs anew needs scans of its own.
    pub lean: bool,
    /// Options of the engine, as every task of the query gets them.
    pub options: BTreeMap<String, String>,
    /// Memory, scratch and storage of the query.
    pub runtime: Arc<RuntimeEnv>,
    /// What goes with every task, so that bees know whose it is.
    pub headers: http::HeaderMap,
    /// Where it may run.
    pub spread: Spread,
    /// Scans that its tasks share.
    pub scans: Arc<SharedScans>,
    /// What `now()` is, however often the statement is planned.
    pub now: DateTime<Utc>,
}

/// A physical plan with what it needs to run.
#[derive(Debug, Clone)]
pub struct PhysicalQuery {
    /// The plan; one partition when it is distributed.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Its session, memory and storage.
    pub context: Arc<TaskContext>,
    /// What its scans left out.
    pub notes: Arc<ScanNotes>,
    /// Whether facts about the run are to follow its rows.
    pub analyze: bool,
    /// Whether its tasks are addressed to other nodes.
    swarm: bool,
}

impl PhysicalQuery {
    /// The part of the plan whose tasks are addressed to the swarm, if it is split at all.
    pub fn for_the_swarm(&self) -> Option<&DistributedExec> {
        // EXPLAIN ANALYZE stands above it.
        fn find(plan: &Arc<dyn ExecutionPlan>) -> Option<&DistributedExec> {
            plan.downcast_ref().or_else(|| plan.children().into_iter().find_map(find))
        }
        if self.swarm { find(&self.plan) } else { None }
    }

    /// Bytes of the files that it scans.
    pub fn scan_bytes(&self) -> u64 {
        let mut bytes = 0;
        with_stages(&self.plan, &mut |plan| bytes += file_bytes(plan));
        bytes
    }

    /// Whether every file that it scans is in the meadow, so that other nodes can run it.
    pub fn is_shareable(&self) -> bool {
        let mut shareable = true;
        with_stages(&self.plan, &mut |plan| shareable &= scans_the_meadow(plan));
        shareable
    }

    /// Requests that it will need, as far as the plan tells: a footer and each row group of the cells that are read, and for
    /// the swarm a task, an output and a completion for every task, which each task above reads. Filters may leave row
    /// groups out, what is cached costs none, and looking for news comes on top.
    pub fn forecast(&self) -> Forecast {
        let mut cells = 0;
        with_stages(&self.plan, &mut |plan| cells += cell_requests(plan));
        let exchange = if self.swarm { exchange_requests(&self.plan, 1) } else { 0 };
        Forecast { cells, exchange }
    }

    /// Whether it is so small that a thread which must not be held for long may run it: it is not split, reads hardly
    /// anything, and makes no more rows than it reads.
    pub fn is_short(&self) -> bool {
        !self.swarm && self.tasks() == 1 && short_bytes(&self.plan).is_some_and(|bytes| bytes <= SHORT_BYTES)
    }

    /// Tasks of all its stages, and 1 for the part that the leading bee runs.
    pub fn tasks(&self) -> usize {
        fn below(plan: &Arc<dyn ExecutionPlan>) -> usize {
            let own = plan.as_network_boundary().map_or(0, |b| b.input_stage().task_count());
            own + plan.children().into_iter().map(below).sum::<usize>()
        }
        1 + below(&self.plan)
    }
}

/// Requests to storage that a query will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// To read cells.
    pub cells: u64,
    /// To hand tasks and rows between nodes.
    pub exchange: u64,
}

impl std::fmt::Display for Forecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "about {} for cells, {} between nodes", self.cells, self.exchange)
    }
}

/// What planning gave.
#[derive(Debug)]
pub enum Planned {
    /// The answer is there already.
    Answer(RecordBatch),
    /// Rows to be computed.
    Rows(PhysicalQuery),
    /// Rows to be written into a frame that exists.
    Insert {
        /// The frame as it was when the statement was planned.
        into: Arc<FrameState>,
        /// Whether the rows that are there stay.
        mode: WriteMode,
        /// Computes the rows.
        query: PhysicalQuery,
    },
    /// Rows to be written into a frame that does not exist yet.
    CreateAs {
        /// The frame.
        frame: FrameRef,
        /// Its partition columns.
        partition_by: Vec<String>,
        /// Whether an existing frame is left as it is.
        if_not_exists: bool,
        /// Computes the rows.
        query: PhysicalQuery,
    },
    /// Rows of a frame to be changed.
    Change {
        /// The frame.
        frame: FrameRef,
        /// What is to be done.
        change: Box<RowChange>,
    },
    /// A frame's cells to be written anew with the same rows.
    Optimize {
        /// The frame.
        frame: FrameRef,
        /// Columns that the rows are sorted by; when there are none, only small cells are written anew.
        cluster_by: Vec<String>,
    },
}

impl Planned {
    /// Whether it is done in a moment, or is already.
    pub fn is_short(&self) -> bool {
        match self {
            Self::Answer(_) => true,
            Self::Rows(query) => query.is_short(),
            Self::Change { .. } | Self::Optimize { .. } | Self::Insert { .. } | Self::CreateAs { .. } => false,
        }
    }

    /// Whether it is to change a frame.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Answer(_) | Self::Rows(_))
    }

    /// What is to be computed.
    pub fn query(&self) -> Option<&PhysicalQuery> {
        match self {
            Self::Answer(_) | Self::Change { .. } | Self::Optimize { .. } => None,
            Self::Rows(query) | Self::Insert { query, .. } | Self::CreateAs { query, .. } => Some(query),
        }
    }
}

/// Plans statements over one meadow.
#[derive(Clone)]
pub struct Planner {
    meadow: Meadow,
    split: Split,
    base: SessionState,
    world: Arc<dyn World>,
}

impl Planner {
    /// A planner for `split`, with `functions` beside DataFusion's own.
    ///
    /// # Errors
    /// Never in practice: the options exist.
    pub fn new(meadow: Meadow, split: Split, functions: Vec<Arc<ScalarUDF>>, world: Arc<dyn World>) -> Result<Self> {
        let mut builder = SessionStateBuilder::new()
            .with_default_features()
            .with_config(session_config(&split))
            .with_physical_optimizer_rule(Arc::new(StopPoints));
        builder.scalar_functions().get_or_insert_default().extend(functions);
        let base = builder.build();
        Ok(Self { meadow, split, base, world })
    }

    /// Plans `sql`; DDL, USE, SET, SHOW and DESCRIBE are carried out at once.
    ///
    /// # Errors
    /// What is wrong with the statement, or what the meadow says.
    pub async fn plan(&self, sql: &str, ask: &Ask<'_>) -> Result<Planned> {
        match parse(sql)? {
            Statement::Other(statement) => match RowChange::of(&statement)? {
                Some(change) => {
                    Ok(Planned::Change { frame: frame_name(&change.name, ask.session)?, change: Box::new(change) })
                }
                None => self.plan_query(*statement, ask).await,
            },
            Statement::Optimize { name, cluster_by } => {
                Ok(Planned::Optimize { frame: frame_name(&name, ask.session)?, cluster_by })
            }
            Statement::CreateFrame { statement, partition_by } => {
                self.create_frame(*statement, partition_by, ask).await
            }
            other => self.carry_out(other, ask.session).await.map(Planned::Answer),
        }
    }

    /// Plans the reading of one version of a frame.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a frame, version or column that does not exist.
    pub async fn plan_read(
        &self,
        frame: &FrameRef,
        columns: Option<&[String]>,
        as_of: AsOf,
        ask: &Ask<'_>,
    ) -> Result<PhysicalQuery> {
        let draft = Draft { state: self.state(ask)?, notes: Arc::default(), swarm: false };
        let table = frame_table(&self.meadow, frame, as_of, &draft.notes).await?;
        let table: Arc<dyn TableProvider> = Arc::new(table);
        let projection = columns.map(|names| projection(&table, frame, names)).transpose()?;
        let name = TableReference::full(frame.hive.as_str(), frame.box_.as_str(), frame.frame.as_str());
        let scan = LogicalPlanBuilder::scan(name, provider_as_source(table), projection)?.build()?;
        draft.physical(&scan, false).await
    }

    /// Plans one of the queries of a statement that changes `target`; they run on this colony alone. Where more than one
    /// must see the same rows, they must be `stable`; frames are read as they were for the first.
    ///
    /// # Errors
    /// What is wrong with the query; [`crate::ErrorKind::Unsupported`] for what may give other rows the next time.
    pub async fn plan_on(
        &self,
        statement: DfStatement,
        target: &Target,
        stable: bool,
        ask: &Ask<'_>,
    ) -> Result<PhysicalQuery> {
        let (draft, plan) = self.logical(statement, ask, Some(target)).await?;
        if stable && !is_stable(&plan)? {
            return Err(Error::unsupported(
                "what is compared here is evaluated more than once, and random(), LIMIT and window functions may give \
                 something else each time: write the rows that are meant into a frame, and compare with that",
            ));
        }
        draft.physical(&plan, false).await
    }

    async fn plan_query(&self, statement: DfStatement, ask: &Ask<'_>) -> Result<Planned> {
        let (draft, plan) = self.logical(statement, ask, None).await?;
        match plan {
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                if !ask.session.set(&set.variable, &set.value)? {
                    check_option(&self.base, &set.variable, &set.value)?;
                    ask.session.set_option(set.variable.clone(), set.value.clone());
                }
                answer::done(format!("{} is {}", set.variable, set.value)).map(Planned::Answer)
            }
            LogicalPlan::Dml(dml) => draft.insert(dml).await,
            LogicalPlan::Explain(explain) => draft.explained(explain).await.map(Planned::Answer),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => Err(Error::unsupported(format!(
                "{} is no statement of this version: use CREATE/DROP HIVE, BOX, FRAME, INSERT, SELECT, SHOW, DESCRIBE, USE, SET or EXPLAIN",
                plan.display()
            ))),
            plan => {
                let analyze = matches!(plan, LogicalPlan::Analyze(_));
                draft.physical(&plan, analyze).await.map(Planned::Rows)
            }
        }
    }

    async fn create_frame(&self, statement: DfStatement, partition_by: Vec<String>, ask: &Ask<'_>) -> Result<Planned> {
        let (draft, plan) = self.logical(statement, ask, None).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = plan else {
            return Err(Error::unsupported(
                "write CREATE FRAME name (column TYPE, …) or CREATE FRAME name AS SELECT …",
            ));
        };
        refuse_unkept(&create)?;
        let frame = frame_of(&create.name, ask.session)?;
        if let LogicalPlan::EmptyRelation(columns) = create.input.as_ref() {
            let made = self
                .meadow
                .create_frame(&frame, columns.schema.as_arrow(), &partition_by, create.if_not_exists)
                .await?;
            return answer::done(created("frame", &frame.to_string(), made)).map(Planned::Answer);
        }
        let query = draft.physical(&create.input, false).await?;
        Ok(Planned::CreateAs { frame, partition_by, if_not_exists: create.if_not_exists, query })
    }

    async fn logical(
        &self,
        statement: DfStatement,
        ask: &Ask<'_>,
        target: Option<&Target>,
    ) -> Result<(Draft, LogicalPlan)> {
        let (mut state, notes) = (self.state(ask)?, Arc::new(ScanNotes::default()));
        check_statement(&statement)?;
        let mut references = state.resolve_table_references(&statement)?;
        if let Some(target) = created_name(&statement) {
            references.retain(|r| r.to_string() != target);
        }
        // A table function stands where a table could; `generate_series(1, 9)` is no frame.
        references.retain(|r| r.schema().is_some() || !state.table_functions().contains_key(r.table()));
        let world = self.world.as_ref();
        let catalogs = catalogs(&self.meadow, ask.session, &references, &state, &notes, world, target).await?;
        state.register_catalog_list(catalogs);
        let plan = state.statement_to_plan(statement).await?;
        let plan = match ask.params {
            Params::None => plan,
            Params::Positional(values) => plan.with_param_values(ParamValues::from(values.clone()))?,
            Params::Named(values) => {
                let pairs: Vec<(String, ScalarValue)> = values.clone().into_iter().collect();
                plan.with_param_values(ParamValues::from(pairs))?
            }
        };
        let swarm = matches!(ask.spread, Spread::Swarm(_));
        let found = survey(&plan)?;
        // A recursive term runs again and again, and so does one input of such a join when the other does not fit; tasks
        // run once.
        let state = match found.recursive || ask.lean && found.join_without_keys {
            true => begun(self.undivided(ask)?.build(), ask.now),
            false => state,
        };
        Ok((Draft { state, notes, swarm }, plan))
    }

    /// A session whose plans are split.
    fn state(&self, ask: &Ask<'_>) -> Result<SessionState> {
        let scans = (!ask.lean).then_some(&ask.scans);
        let mut builder = distributed(self.undivided(ask)?, &self.split, &ask.spread, scans)?;
        builder.set_distributed_passthrough_headers(ask.headers.clone())?;
        Ok(begun(builder.build(), ask.now))
    }

    /// A session whose plans run on the leading bee alone.
    fn undivided(&self, ask: &Ask<'_>) -> Result<SessionStateBuilder> {
        let (hive, box_) = (ask.session.hive().to_string(), ask.session.box_name().to_string());
        let mut config = self.base.config().clone().with_default_catalog_and_schema(hive, box_);
        apply_options(&mut config, &ask.options)?;
        let builder = SessionStateBuilder::new_from_existing(self.base.clone());
        Ok(builder.with_config(config).with_runtime_env(Arc::clone(&ask.runtime)))
    }

    async fn carry_out(&self, statement: Statement, session: &SqlSession) -> Result<RecordBatch> {
        match statement {
            Statement::CreateHive { name, if_not_exists } => {
                let hive = hive_name(&name)?;
                self.meadow.require_writable()?;
                self.meadow.registry().create_hive(&hive, if_not_exists).await?;
                answer::done(format!("hive {hive} is there"))
            }
            Statement::CreateBox { name, if_not_exists } => {
                let (hive, box_) = box_names(&name, session)?;
                self.meadow.require_writable()?;
                self.meadow.registry().create_box(&hive, &box_, if_not_exists).await?;
                answer::done(format!("box {hive}.{box_} is there"))
            }
            Statement::Drop { kind, name, if_exists, cascade } => {
                self.drop(kind, &name, if_exists, cascade, session).await
            }
            Statement::Use { kind, name } => self.use_(kind, &name, session).await,
            Statement::Show { kind, within } => self.show(kind, &within, session).await,
            Statement::Describe { name } => {
                answer::described(&self.meadow.describe(&frame_name(&name, session)?).await?)
            }
            Statement::Housekeeping { name, on } => {
                let frame = frame_name(&name, session)?;
                self.meadow.set_housekeeping(&frame, on).await?;
                answer::done(format!("housekeeping of {frame} is {}", if on { "on" } else { "off" }))
            }
            Statement::Vacuum { name, retain, force, dry_run } => {
                let frame = frame_name(&name, session)?;
                let (cells, log) = self.meadow.state(&frame, AsOf::Latest).await?.retention();
                let retain = retention(retain, dry_run || force)?.unwrap_or(cells);
                let mut leftovers = self.meadow.vacuum(&frame, retain, dry_run).await?;
                if let Some(log) = log {
                    leftovers.extend(self.meadow.clean_log(&frame, log.max(retain), dry_run).await?);
                }
                answer::vacuumed(&leftovers, !dry_run)
            }
            Statement::CreateFrame { .. } | Statement::Optimize { .. } | Statement::Other(_) => {
                Err(Error::internal("a query was carried out as DDL"))
            }
        }
    }

    async fn drop(
        &self,
        kind: Kind,
        name: &[String],
        if_exists: bool,
        cascade: bool,
        session: &SqlSession,
    ) -> Result<RecordBatch> {
        let gone = match kind {
            Kind::Hive => self.meadow.drop_hive(&hive_name(name)?, if_exists, cascade).await?,
            Kind::Box => {
                let (hive, box_) = box_names(name, session)?;
                self.meadow.drop_box(&hive, &box_, if_exists, cascade).await?
            }
            Kind::Frame => self.meadow.drop_frame(&frame_name(name, session)?, if_exists).await?,
        };
        answer::done(format!("{} {}", name.join("."), if gone { "is dropped" } else { "was not there" }))
    }

    async fn use_(&self, kind: Kind, name: &[String], session: &SqlSession) -> Result<RecordBatch> {
        match kind {
            Kind::Hive => {
                let hive = hive_name(name)?;
                self.meadow.registry().boxes(&hive).await?;
                session.use_hive(hive);
            }
            Kind::Box => {
                let (hive, box_) = box_names(name, session)?;
                self.meadow.registry().frames_of(&hive, &box_).await?;
                session.use_box(hive, box_);
            }
            Kind::Frame => return Err(Error::invalid("USE takes a hive or a box")),
        }
        answer::done(format!("using {}.{}", session.hive(), session.box_name()))
    }

    async fn show(&self, kind: Kind, within: &[String], session: &SqlSession) -> Result<RecordBatch> {
        let registry = self.meadow.registry();
        match kind {
            Kind::Hive => answer::texts("hive", registry.hives().await?.into_iter().map(String::from)),
            Kind::Box => {
                let hive = if within.is_empty() { session.hive() } else { hive_name(within)? };
                answer::texts("box", registry.boxes(&hive).await?.into_iter().map(String::from))
            }
            Kind::Frame if within.is_empty() => {
                answer::texts("frame", registry.frames().await?.into_iter().map(|f| f.to_string()))
            }
            Kind::Frame => {
                let (hive, box_) = box_names(within, session)?;
                answer::texts("frame", registry.frames_of(&hive, &box_).await?.into_iter().map(|f| f.to_string()))
            }
        }
    }
}

/// A session at the moment that `now()` stands for.
fn begun(mut state: SessionState, now: DateTime<Utc>) -> SessionState {
    state.mark_start_execution();
    state.execution_props_mut().query_execution_start_time = Some(now);
    state
}

/// A statement between its logical and its physical plan.
struct Draft {
    state: SessionState,
    notes: Arc<ScanNotes>,
    swarm: bool,
}

impl Draft {
    async fn physical(&self, plan: &LogicalPlan, analyze: bool) -> Result<PhysicalQuery> {
        let plan = self.state.create_physical_plan(plan).await?;
        let (context, notes) = (self.state.task_ctx(), Arc::clone(&self.notes));
        Ok(PhysicalQuery { plan, context, notes, analyze, swarm: self.swarm })
    }

    async fn insert(&self, dml: DmlStatement) -> Result<Planned> {
        let mode = match &dml.op {
            WriteOp::Insert(InsertOp::Append) => WriteMode::Append,
            WriteOp::Insert(InsertOp::Overwrite) => WriteMode::Overwrite,
            other => {
                let name = other.name();
                return Err(Error::unsupported(format!("{name} is not available in this version: use INSERT")));
            }
        };
        let table = source_as_provider(&dml.target)?;
        let into = frame_behind(&table).map(|frame| Arc::clone(frame.state()));
        let into = into.ok_or_else(|| Error::invalid("INSERT INTO takes a frame, not a file"))?;
        let query = self.physical(&dml.input, false).await?;
        Ok(Planned::Insert { into, mode, query })
    }

    async fn explained(&self, explain: Explain) -> Result<RecordBatch> {
        let logical = self.state.optimize(&explain.plan)?;
        let inner = match explain.plan.as_ref() {
            LogicalPlan::Dml(dml) => Arc::clone(&dml.input),
            _ => Arc::clone(&explain.plan),
        };
        let query = self.physical(&inner, false).await?;
        let shown = match query.plan.is::<DistributedExec>() {
            true => display_plan_ascii(query.plan.as_ref(), false),
            false => displayable(query.plan.as_ref()).indent(explain.verbose).to_string(),
        };
        answer::plans(&[
            ("logical_plan", logical.display_indent().to_string()),
            ("physical_plan", shown),
            ("bees", format!("{} tasks on {}", query.tasks(), if query.swarm { "the swarm" } else { "this node" })),
            ("requests", query.forecast().to_string()),
            ("cells", query.notes.to_string()),
        ])
    }
}

/// Visits a plan with the stages below its network boundaries.
fn with_stages(plan: &Arc<dyn ExecutionPlan>, visit: &mut impl FnMut(&Arc<dyn ExecutionPlan>)) {
    match plan.downcast_ref::<DistributedLeafExec>() {
        Some(leaf) => visit(leaf.original()),
        None => visit(plan),
    }
    plan.children().into_iter().for_each(|child| with_stages(child, visit));
}

fn file_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    files.map(|file| file.effective_size()).sum()
}

/// What `plan` costs, as bytes that are read, if it makes no more rows than it reads. Joins can, even of few rows: they are
/// only taken to be short over a hundredth of that; aggregates work on every row once for each of their grouping sets.
fn short_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let children = plan.children();
    let below = children.iter().map(|child| short_bytes(child)).sum::<Option<u64>>()?;
    match plan.name() {
        "DataSourceExec" if file_scan(plan).is_some() => Some(file_bytes(plan).max(file_rows(plan)? * SHORT_ROW)),
        // Rows in memory: of `system`, `information_schema`, VALUES of a short text.
        "DataSourceExec" => Some(SHORT_MEMORY),
        "EmptyExec" | "PlaceholderRowExec" => Some(0),
        "HashJoinExec" | "SortMergeJoinExec" => Some(below * SHORT_JOIN),
        "NestedLoopJoinExec"
        | "CrossJoinExec"
        | "UnnestExec"
        | "RecursiveQueryExec"
        | "WindowAggExec"
        | "BoundedWindowAggExec" => None,
        _ if children.is_empty() => None,
        _ => Some(
            below * plan.downcast_ref::<AggregateExec>().map_or(1, |a| a.group_expr().groups().len().max(1) as u64),
        ),
    }
}

/// Rows of the files that it scans, when all of them say.
fn file_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    files.map(|file| Some(*file.statistics.as_ref()?.num_rows.get_value()? as u64)).sum()
}

fn cell_requests(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let files = file_scan(plan).into_iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.files());
    let rows = |file: &PartitionedFile| file.statistics.as_ref().and_then(|s| s.num_rows.get_value().copied());
    let row_groups = |file: &PartitionedFile| rows(file).unwrap_or(0).div_ceil(ROW_GROUP_ROWS).max(1) as u64;
    files.map(|file| 1 + row_groups(file)).sum()
}

/// Requests of the stages below `plan`, which is run by so many `consumers`.
fn exchange_requests(plan: &Arc<dyn ExecutionPlan>, consumers: u64) -> u64 {
    let Some(boundary) = plan.as_network_boundary() else {
        return plan.children().into_iter().map(|child| exchange_requests(child, consumers)).sum();
    };
    let tasks = boundary.input_stage().task_count() as u64;
    let below = boundary.input_stage().local_plan().map_or(0, |plan| exchange_requests(plan, tasks));
    3 * tasks + consumers * tasks + below
}

fn scans_the_meadow(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match (plan.is::<DataSourceExec>(), file_scan(plan)) {
        (true, Some(scan)) => scan.object_store_url.as_str() == ROOT_URL,
        // Rows in memory travel with the plan.
        _ => true,
    }
}

/// The name that a CREATE TABLE makes: it is no table to be looked up.
fn created_name(statement: &DfStatement) -> Option<String> {
    use datafusion::sql::sqlparser::ast::Statement as Ast;
    let DfStatement::Statement(ast) = statement else { return None };
    let Ast::CreateTable(create) = ast.as_ref() else { return None };
    Some(super::statement::names(create.name.clone()).join("."))
}

fn refuse_unkept(create: &CreateMemoryTable) -> Result<()> {
    if create.or_replace {
        return Err(Error::unsupported("CREATE OR REPLACE is not available: DROP FRAME IF EXISTS first"));
    }
    if create.temporary {
        return Err(Error::unsupported("temporary frames are not available: create and drop a frame"));
    }
    if !create.constraints.is_empty() || !create.column_defaults.is_empty() {
        return Err(Error::unsupported("keys and defaults are not kept by this version: leave them out"));
    }
    Ok(())
}

/// Whether it gives the same rows again.
fn is_stable(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Limit(_) | LogicalPlan::Window(_));
        node.apply_expressions(|expression| {
            found |= expression.is_volatile();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(!found)
}

fn check_option(base: &SessionState, key: &str, value: &str) -> Result<()> {
    if key == "datafusion.execution.target_partitions" && value.parse::<usize>().is_ok_and(|n| n < 2) {
        return Err(Error::invalid(
            "datafusion.execution.target_partitions must be at least 2: a split plan is wrong below",
        ));
    }
    let mut options = base.config().options().as_ref().clone();
    options.set(key, value)?;
    if options.execution.enable_file_stream_work_stealing {
        return Err(Error::unsupported(
            "datafusion.execution.enable_file_stream_work_stealing stays off: a scan that a join begins anew would be empty",
        ));
    }
    Ok(())
}

fn projection(table: &Arc<dyn TableProvider>, frame: &FrameRef, names: &[String]) -> Result<Vec<usize>> {
    let schema = table.schema();
    let index = |name: &String| {
        schema.index_of(name).map_err(|_| {
            let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            Error::not_found(format!("frame {frame} has no column '{name}': it has {}", there.join(", ")))
        })
    };
    names.iter().map(index).collect()
}

fn hive_name(name: &[String]) -> Result<HiveName> {
    match name {
        [hive] => HiveName::new(hive),
        _ => Err(Error::invalid(format!("'{}' is not a hive: write one name", name.join(".")))),
    }
}

fn box_names(name: &[String], session: &SqlSession) -> Result<(HiveName, BoxName)> {
    match name {
        [box_] => Ok((session.hive(), BoxName::new(box_)?)),
        [hive, box_] => Ok((HiveName::new(hive)?, BoxName::new(box_)?)),
        _ => Err(Error::invalid(format!("'{}' is not a box: write hive.box or box", name.join(".")))),
    }
}

fn frame_name(name: &[String], session: &SqlSession) -> Result<FrameRef> {
    session.frame_ref(&name.join("."))
}

/// How long a vacuum keeps cells; less than the usual time only on demand.
fn retention(asked: Option<Duration>, allowed: bool) -> Result<Option<Duration>> {
    match asked {
        Some(asked) if asked < RETENTION && !allowed => Err(Error::invalid(format!(
            "cells removed within {} hours may still be read, and younger ones may be of a write that goes on: keep them, \
             or add FORCE when nobody else uses the frame",
            RETENTION.as_secs() / 3600
        ))),
        asked => Ok(asked),
    }
}

fn created(what: &str, name: &str, made: bool) -> String {
    format!("{what} {name} {}", if made { "is created" } else { "was there already" })
}
