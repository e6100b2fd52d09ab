//! Statement → answer, or a physical plan that bees can run.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, DmlStatement, Explain, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
    Statement as PlanStatement, WriteOp,
};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion_distributed::{DistributedExec, DistributedExt, NetworkBoundaryExt, display_plan_ascii};

use super::answer;
use super::catalog::{catalogs, frame_behind, frame_of, frame_table};
use super::distribution::{Split, distributed, session_config};
use super::frame_table::ScanNotes;
use super::session::SqlSession;
use super::statement::{Kind, Statement, parse};
use super::stop_points::StopPoints;
use crate::storage::{AsOf, BoxName, FrameRef, FrameState, HiveName, Meadow, WriteMode};
use crate::{Error, Result};

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
}

impl PhysicalQuery {
    /// Tasks of all its stages, and 1 for the part that the leading bee runs.
    pub fn tasks(&self) -> usize {
        fn below(plan: &Arc<dyn ExecutionPlan>) -> usize {
            let own = plan.as_network_boundary().map_or(0, |b| b.input_stage().task_count());
            own + plan.children().into_iter().map(below).sum::<usize>()
        }
        1 + below(&self.plan)
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
}

/// Plans statements over one meadow.
#[derive(Clone)]
pub struct Planner {
    meadow: Meadow,
    split: Split,
    base: SessionState,
}

impl Planner {
    /// A planner for `split`, with `functions` beside DataFusion's own.
    ///
    /// # Errors
    /// Never in practice: the options exist.
    pub fn new(meadow: Meadow, split: Split, functions: Vec<Arc<ScalarUDF>>) -> Result<Self> {
        let mut builder = SessionStateBuilder::new()
            .with_default_features()
            .with_config(session_config(&split))
            .with_physical_optimizer_rule(Arc::new(StopPoints));
        builder.scalar_functions().get_or_insert_default().extend(functions);
        let base = builder.build();
        Ok(Self { meadow, split, base })
    }

    /// Plans `sql`; DDL, USE, SET, SHOW and DESCRIBE are carried out at once.
    ///
    /// `headers` go with every task, so that bees know whose it is.
    ///
    /// # Errors
    /// What is wrong with the statement, or what the meadow says.
    pub async fn plan(
        &self,
        sql: &str,
        params: &Params,
        session: &SqlSession,
        runtime: Arc<RuntimeEnv>,
        headers: http::HeaderMap,
    ) -> Result<Planned> {
        match parse(sql)? {
            Statement::Other(statement) => self.plan_query(*statement, params, session, runtime, headers).await,
            Statement::CreateFrame { statement, partition_by } => {
                self.create_frame(*statement, partition_by, params, session, runtime, headers).await
            }
            other => self.carry_out(other, session).await.map(Planned::Answer),
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
        runtime: Arc<RuntimeEnv>,
        headers: http::HeaderMap,
    ) -> Result<PhysicalQuery> {
        let notes = Arc::new(ScanNotes::default());
        let session = SqlSession::new()?;
        let state = self.state(&session, runtime, headers)?;
        let table: Arc<dyn TableProvider> = Arc::new(frame_table(&self.meadow, frame, as_of, &notes).await?);
        let projection = columns.map(|names| projection(&table, frame, names)).transpose()?;
        let name = TableReference::full(frame.hive.as_str(), frame.box_.as_str(), frame.frame.as_str());
        let scan = LogicalPlanBuilder::scan(name, provider_as_source(table), projection)?.build()?;
        physical(&state, &scan, notes, false).await
    }

    async fn plan_query(
        &self,
        statement: DfStatement,
        params: &Params,
        session: &SqlSession,
        runtime: Arc<RuntimeEnv>,
        headers: http::HeaderMap,
    ) -> Result<Planned> {
        let notes = Arc::new(ScanNotes::default());
        let (state, plan) = self.logical(statement, params, session, runtime, headers, &notes).await?;
        match plan {
            LogicalPlan::Statement(PlanStatement::SetVariable(set)) => {
                check_option(&self.base, &set.variable, &set.value)?;
                session.set_option(set.variable.clone(), set.value.clone());
                answer::done(format!("{} is {}", set.variable, set.value)).map(Planned::Answer)
            }
            LogicalPlan::Dml(dml) => plan_insert(&state, dml, notes).await,
            LogicalPlan::Explain(explain) => explained(&state, explain, notes).await.map(Planned::Answer),
            LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => Err(Error::unsupported(format!(
                "{} is no statement of this version: use CREATE/DROP HIVE, BOX, FRAME, INSERT, SELECT, SHOW, DESCRIBE, USE, SET or EXPLAIN",
                plan.display()
            ))),
            plan => {
                let analyze = matches!(plan, LogicalPlan::Analyze(_));
                physical(&state, &plan, notes, analyze).await.map(Planned::Rows)
            }
        }
    }

    async fn create_frame(
        &self,
        statement: DfStatement,
        partition_by: Vec<String>,
        params: &Params,
        session: &SqlSession,
        runtime: Arc<RuntimeEnv>,
        headers: http::HeaderMap,
    ) -> Result<Planned> {
        let notes = Arc::new(ScanNotes::default());
        let (state, plan) = self.logical(statement, params, session, runtime, headers, &notes).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = plan else {
            return Err(Error::unsupported(
                "write CREATE FRAME name (column TYPE, …) or CREATE FRAME name AS SELECT …",
            ));
        };
        refuse_unkept(&create)?;
        let frame = frame_of(&create.name, session)?;
        if let LogicalPlan::EmptyRelation(columns) = create.input.as_ref() {
            let made = self
                .meadow
                .create_frame(&frame, columns.schema.as_arrow(), &partition_by, create.if_not_exists)
                .await?;
            return answer::done(created("frame", &frame.to_string(), made)).map(Planned::Answer);
        }
        let query = physical(&state, &create.input, notes, false).await?;
        Ok(Planned::CreateAs { frame, partition_by, if_not_exists: create.if_not_exists, query })
    }

    async fn logical(
        &self,
        statement: DfStatement,
        params: &Params,
        session: &SqlSession,
        runtime: Arc<RuntimeEnv>,
        headers: http::HeaderMap,
        notes: &Arc<ScanNotes>,
    ) -> Result<(SessionState, LogicalPlan)> {
        let mut state = self.state(session, runtime, headers)?;
        let mut references = state.resolve_table_references(&statement)?;
        if let Some(target) = created_name(&statement) {
            references.retain(|r| r.to_string() != target);
        }
        // A table function stands where a table could; `generate_series(1, 9)` is no frame.
        references.retain(|r| r.schema().is_some() || !state.table_functions().contains_key(r.table()));
        let catalogs = catalogs(&self.meadow, session, &references, &state, notes).await?;
        state.register_catalog_list(catalogs);
        let plan = state.statement_to_plan(statement).await?;
        let plan = match params {
            Params::None => plan,
            Params::Positional(values) => plan.with_param_values(ParamValues::from(values.clone()))?,
            Params::Named(values) => {
                let pairs: Vec<(String, ScalarValue)> = values.clone().into_iter().collect();
                plan.with_param_values(ParamValues::from(pairs))?
            }
        };
        Ok((state, plan))
    }

    fn state(&self, session: &SqlSession, runtime: Arc<RuntimeEnv>, headers: http::HeaderMap) -> Result<SessionState> {
        let mut config = self
            .base
            .config()
            .clone()
            .with_default_catalog_and_schema(session.hive().to_string(), session.box_name().to_string());
        for (key, value) in session.options() {
            config.options_mut().set(&key, &value)?;
        }
        let builder =
            SessionStateBuilder::new_from_existing(self.base.clone()).with_config(config).with_runtime_env(runtime);
        let mut builder = distributed(builder, &self.split)?;
        builder.set_distributed_passthrough_headers(headers)?;
        Ok(builder.build())
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
            Statement::CreateFrame { .. } | Statement::Other(_) => {
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

async fn physical(
    state: &SessionState,
    plan: &LogicalPlan,
    notes: Arc<ScanNotes>,
    analyze: bool,
) -> Result<PhysicalQuery> {
    let plan = state.create_physical_plan(plan).await?;
    Ok(PhysicalQuery { plan, context: state.task_ctx(), notes, analyze })
}

async fn plan_insert(state: &SessionState, dml: DmlStatement, notes: Arc<ScanNotes>) -> Result<Planned> {
    let mode = match &dml.op {
        WriteOp::Insert(InsertOp::Append) => WriteMode::Append,
        WriteOp::Insert(InsertOp::Overwrite) => WriteMode::Overwrite,
        other => {
            return Err(Error::unsupported(format!("{} is not available in this version: use INSERT", other.name())));
        }
    };
    let table = source_as_provider(&dml.target)?;
    let into = frame_behind(&table).map(|frame| Arc::clone(frame.state()));
    let into = into.ok_or_else(|| Error::invalid("INSERT INTO takes a frame, not a file"))?;
    let query = physical(state, &dml.input, notes, false).await?;
    Ok(Planned::Insert { into, mode, query })
}

async fn explained(state: &SessionState, explain: Explain, notes: Arc<ScanNotes>) -> Result<RecordBatch> {
    let logical = state.optimize(&explain.plan)?;
    let inner = match explain.plan.as_ref() {
        LogicalPlan::Dml(dml) => Arc::clone(&dml.input),
        _ => Arc::clone(&explain.plan),
    };
    let query = physical(state, &inner, notes, false).await?;
    let shown = match query.plan.is::<DistributedExec>() {
        true => display_plan_ascii(query.plan.as_ref(), false),
        false => displayable(query.plan.as_ref()).indent(explain.verbose).to_string(),
    };
    answer::plans(&[
        ("logical_plan", logical.display_indent().to_string()),
        ("physical_plan", shown),
        ("bees", format!("{} tasks", query.tasks())),
        ("cells", query.notes.to_string()),
    ])
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

fn check_option(base: &SessionState, key: &str, value: &str) -> Result<()> {
    if key == "datafusion.execution.target_partitions" && value.parse::<usize>().is_ok_and(|n| n < 2) {
        return Err(Error::invalid(
            "datafusion.execution.target_partitions must be at least 2: a split plan is wrong below",
        ));
    }
    let mut options = base.config().options().as_ref().clone();
    Ok(options.set(key, value)?)
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

fn created(what: &str, name: &str, made: bool) -> String {
    format!("{what} {name} {}", if made { "is created" } else { "was there already" })
}
