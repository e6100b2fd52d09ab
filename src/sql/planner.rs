//! Statement → answer, or a physical plan that bees can run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::{TableType, provider_as_source, source_as_provider};
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::dml::{CopyTo, InsertOp};
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, DmlStatement, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
    Statement as PlanStatement, WriteOp,
};
use datafusion::physical_plan::displayable;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as Ast;
use datafusion_distributed::{DistributedExec, DistributedExt, display_plan_ascii};

use super::alter::{columns_of, refuse_unkept_options, require_column, require_unchecked, type_of};
use super::answer;
use super::catalog::{Found, Target, catalogs, frame_behind, frame_name, frame_of, frame_table};
use super::copy::{Output, aim, sink};
use super::distribution::{Split, SwarmBees, apply_options, distributed, session_config};
use super::file_options::of_format;
use super::files::rows_for;
use super::frame_table::ScanNotes;
use super::layout::Layout;
use super::limits::{check_statement, survey};
use super::nulls::with_nulls;
use super::one_value::{one_value, with_one_value};
use super::order_by_all::by_found_columns;
use super::physical_query::{PhysicalQuery, is_shallow};
use super::refused;
use super::rewrites::AsSql;
use super::row_change::RowChange;
use super::row_check::RowCheck;
use super::rules::{in_own_order, with_rules};
use super::session::SqlSession;
use super::shared_scan::SharedScans;
use super::statement::{Altering, Statement, parse};
use super::time_travel::{Sight, split};
use super::view::{plain, rows_of_view};
use super::windows::lose_something;
use super::world::World;
use crate::storage::{Alteration, AsOf, FrameRef, FrameState, Meadow, Placement, Rewrite, WriteMode};
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

/// Where a plan may run.
#[derive(Debug, Clone, Default)]
pub enum Spread {
    /// On the bees of this colony.
    #[default]
    Colony,
    /// On these bees, a task at a time, however small it is.
    Swarm(Arc<SwarmBees>),
    /// As [`Spread::Swarm`] on this node's bees alone.
    Staged(Arc<SwarmBees>),
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

/// What planning gave.
#[derive(Debug)]
pub enum Planned {
    /// The answer is there already.
    Answer(RecordBatch),
    /// Rows to be computed.
    Rows(PhysicalQuery),
    /// Rows to be written into files.
    Copy {
        /// Writes them, and gives their number.
        query: PhysicalQuery,
        /// Where they go.
        output: Output,
    },
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
        /// Which of its rows lie together.
        placement: Placement,
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
    /// A frame's columns or conditions to be changed, if its rows allow it.
    Alter {
        /// The frame.
        frame: FrameRef,
        /// What is to be changed.
        alteration: Alteration,
    },
    /// A frame's cells to be compared with what its ledger says of them.
    Verify {
        /// The frame.
        frame: FrameRef,
    },
    /// A frame's cells to be written anew with the same rows.
    Optimize {
        /// The frame.
        frame: FrameRef,
        /// The order that they get.
        layout: Layout,
    },
}

impl Planned {
    /// Whether it is done in a moment, or is already.
    pub fn is_short(&self) -> bool {
        match self {
            Self::Answer(_) => true,
            Self::Rows(query) => query.is_short(),
            Self::Change { .. }
            | Self::Alter { .. }
            | Self::Optimize { .. }
            | Self::Verify { .. }
            | Self::Copy { .. }
            | Self::Insert { .. }
            | Self::CreateAs { .. } => false,
        }
    }

    /// Whether it is to change a frame.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Answer(_) | Self::Rows(_) | Self::Verify { .. } | Self::Copy { .. })
    }

    /// What is to be computed.
    pub fn query(&self) -> Option<&PhysicalQuery> {
        match self {
            Self::Answer(_)
            | Self::Change { .. }
            | Self::Alter { .. }
            | Self::Optimize { .. }
            | Self::Verify { .. } => None,
            Self::Rows(query)
            | Self::Copy { query, .. }
            | Self::Insert { query, .. }
            | Self::CreateAs { query, .. } => Some(query),
        }
    }
}

/// Plans statements over one meadow.
#[derive(Clone)]
pub struct Planner {
    pub(super) meadow: Meadow,
    split: Split,
    base: SessionState,
    pub(super) world: Arc<dyn World>,
}

impl Planner {
    /// A planner for `split`, with `functions` beside DataFusion's own.
    ///
    /// # Errors
    /// Never in practice: the options exist.
    pub fn new(meadow: Meadow, split: Split, functions: Vec<Arc<ScalarUDF>>, world: Arc<dyn World>) -> Result<Self> {
        let builder = SessionStateBuilder::new().with_default_features().with_config(session_config(&split));
        let mut builder = with_rules(builder);
        builder.scalar_functions().get_or_insert_default().extend(functions);
        builder.aggregate_functions().get_or_insert_default().push(one_value());
        let mut base = builder.build();
        base.register_function_rewrite(Arc::new(AsSql))?;
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
                None => match explained_change(&statement)? {
                    Some((change, verbose)) => self.explain_change(change, verbose, ask).await.map(Planned::Answer),
                    None => self.plan_query(*statement, ask).await,
                },
            },
            Statement::Optimize { name, layout } => {
                Ok(Planned::Optimize { frame: frame_name(&name, ask.session)?, layout })
            }
            Statement::Verify { name } => Ok(Planned::Verify { frame: frame_name(&name, ask.session)? }),
            Statement::CopyFrom { name, path, options } => {
                self.copy_from(&frame_name(&name, ask.session)?, &path, of_format(options)?, ask).await
            }
            Statement::CreateFrame { statement, placement } => self.create_frame(*statement, placement, ask).await,
            Statement::CreateView(create) => self.create_view(create, ask).await.map(Planned::Answer),
            Statement::Describe { name } => {
                self.describe(&frame_name(&name, ask.session)?, ask).await.map(Planned::Answer)
            }
            Statement::DescribeQuery(query) => {
                let (_, plan) = self.logical(*query, ask, None).await?;
                answer::described(&plain(plan.schema().as_arrow()), &[]).map(Planned::Answer)
            }
            Statement::Alter { name, change } => self.alter(&frame_name(&name, ask.session)?, change, ask).await,
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
        let draft = Draft { state: self.state(ask)?, notes: Arc::default(), spread: Spread::Colony };
        let (notes, left_out) = (&draft.notes, ask.session.left_out());
        let table = match frame_table(&self.meadow, frame, as_of, notes, self.world.as_ref(), &left_out).await? {
            Found::Table(table) => table,
            Found::View(_) => {
                let (draft, plan) = self.logical(rows_of_view(frame, columns)?, ask, None).await?;
                return draft.physical(&plan, false).await;
            }
        };
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

    async fn copy_from(
        &self,
        frame: &FrameRef,
        path: &str,
        options: HashMap<String, String>,
        ask: &Ask<'_>,
    ) -> Result<Planned> {
        self.meadow.require_writable()?;
        let into = self.meadow.state(frame, AsOf::Latest).await?;
        let draft = Draft { state: self.state(ask)?, notes: Arc::default(), spread: Spread::Colony };
        let rows = rows_for(path, options, &into.schema, &draft.state).await?;
        let query = draft.physical(&rows, false).await?;
        Ok(Planned::Insert { into, mode: WriteMode::Append, query })
    }

    async fn plan_query(&self, mut statement: DfStatement, ask: &Ask<'_>) -> Result<Planned> {
        if let DfStatement::CopyTo(copy) = &mut statement {
            aim(copy, folder_of(&self.meadow.backend().location()).as_deref())?;
        }
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
            LogicalPlan::Copy(copy) => draft.copy(&copy).await,
            LogicalPlan::Explain(explain) => draft.explained(&explain.plan, explain.verbose).await.map(Planned::Answer),
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => Err(Error::unsupported(format!(
                "{} is no statement of this version: use CREATE, ALTER and DROP FRAME, INSERT, COPY, DELETE, UPDATE, MERGE, SELECT, SHOW, DESCRIBE, USE, SET or EXPLAIN",
                plan.display().to_string().split(':').next().unwrap_or_default()
            ))),
            LogicalPlan::Analyze(analyze) if matches!(analyze.input.as_ref(), LogicalPlan::Copy(_)) => {
                Err(Error::unsupported("EXPLAIN ANALYZE does not carry out COPY: analyze its query"))
            }
            plan => {
                let analyze = matches!(plan, LogicalPlan::Analyze(_));
                draft.physical(&plan, analyze).await.map(Planned::Rows)
            }
        }
    }

    /// The change with its stars written out, if it has any.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] for a column that the source lacks; what is wrong with the source.
    pub async fn spelled_out(&self, change: &RowChange, target: &Target, ask: &Ask<'_>) -> Result<Option<RowChange>> {
        let Some(sql) = change.source_of_rows() else { return Ok(None) };
        let (_, source) = self.logical(change.filled(&sql)?, ask, Some(target)).await?;
        change.clone().spelled_out(&target.state.schema, source.schema().inner()).map(Some)
    }

    /// How the rows of a MERGE come about.
    async fn explain_change(&self, change: RowChange, verbose: bool, ask: &Ask<'_>) -> Result<RecordBatch> {
        let (state, cells) = self.meadow.version(&frame_name(&change.name, ask.session)?, AsOf::Latest).await?;
        let target = Target::new(state, cells);
        let change = self.spelled_out(&change, &target, ask).await?.unwrap_or(change);
        let query = change.filled(&change.replacement(&target.state.schema, None)?.join(" UNION ALL "))?;
        let (draft, plan) = self.logical(query, ask, Some(&target)).await?;
        draft.explained(&plan, verbose).await
    }

    async fn create_frame(&self, statement: DfStatement, placement: Placement, ask: &Ask<'_>) -> Result<Planned> {
        if let DfStatement::Statement(ast) = &statement
            && let Ast::CreateTable(create) = ast.as_ref()
        {
            refuse_unkept_options(&create.columns)?;
        }
        let (draft, plan) = self.logical(statement, ask, None).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = plan else {
            return Err(Error::unsupported(
                "write CREATE FRAME name (column TYPE, …) or CREATE FRAME name AS SELECT …",
            ));
        };
        refuse_unkept(&create)?;
        let frame = frame_of(&create.name, ask.session)?;
        if let LogicalPlan::EmptyRelation(columns) = create.input.as_ref() {
            let made =
                self.meadow.create_frame(&frame, columns.schema.as_arrow(), &placement, create.if_not_exists).await?;
            return answer::done(created("frame", &frame.to_string(), made)).map(Planned::Answer);
        }
        let query = draft.physical(&create.input, false).await?;
        Ok(Planned::CreateAs { frame, placement, if_not_exists: create.if_not_exists, query })
    }

    async fn alter(&self, frame: &FrameRef, change: Altering, ask: &Ask<'_>) -> Result<Planned> {
        self.meadow.require_writable()?;
        let (state, seen) = (self.undivided(ask)?.build(), self.meadow.state(frame, AsOf::Latest).await?);
        let alteration = match change {
            Altering::AddColumns { columns, if_not_exists } => {
                Alteration::AddColumns { columns: columns_of(&state, &columns).await?, if_not_exists }
            }
            Altering::SetType { column: name, data_type } => {
                require_column(&seen, &name)?;
                Alteration::SetType { name, data_type: type_of(&state, data_type).await? }
            }
            Altering::Other(alteration) => alteration,
        };
        if let Some(name) = alteration.unchecked() {
            require_unchecked(&state, &seen, name)?;
        }
        match &alteration {
            Alteration::SetNotNull(name) | Alteration::DropNotNull(name) => require_column(&seen, name)?,
            Alteration::AddCheck(check) => drop(RowCheck::new(&state, check, &seen.schema)?),
            _ => {}
        }
        if alteration.depends_on_rows() {
            return Ok(Planned::Alter { frame: frame.clone(), alteration });
        }
        let version = self.meadow.ledger().alter(frame, alteration, &seen).await?;
        answer::altered(frame, version).map(Planned::Answer)
    }

    /// The conditions of a version, ready for batches of `schema`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when one is none: another engine may have written it.
    pub fn row_checks(&self, frame: &FrameState, schema: &SchemaRef) -> Result<Vec<RowCheck>> {
        frame.checks.iter().map(|check| RowCheck::new(&self.base, check, schema)).collect()
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
        refused::in_references(&references)?;
        if let Some(target) = created_name(&statement) {
            references.retain(|r| r.to_string() != target);
        }
        // A table function stands where a table could; `generate_series(1, 9)` is no frame.
        references.retain(|r| r.schema().is_some() || !state.table_functions().contains_key(r.table()));
        let world = self.world.as_ref();
        let catalogs = catalogs(&self.meadow, ask.session, &references, &state, &notes, world, target).await?;
        state.register_catalog_list(catalogs);
        let plan = state.statement_to_plan(by_found_columns(statement, &state).await?).await?;
        // Of a statement that changes rows, each query has a part of the parameters.
        if target.is_none() {
            require_wanted(&plan, ask.params)?;
        }
        let plan = match ask.params {
            Params::None => plan,
            Params::Positional(values) => {
                let values: Vec<ScalarValue> = values.iter().cloned().map(with_one_nan).collect();
                plan.with_param_values(ParamValues::from(values))?
            }
            Params::Named(values) => {
                let named = values.iter().map(|(name, value)| (name.clone(), with_one_nan(value.clone())));
                let pairs: Vec<(String, ScalarValue)> = named.collect();
                plan.with_param_values(ParamValues::from(pairs))?
            }
        };
        // Before anything else looks at all of it: there may be more than can be gone through.
        let found = survey(&plan)?;
        let plan = with_one_value(with_nulls(plan)?)?;
        // A recursive term runs again and again, and so does one input of such a join when the other does not fit; tasks
        // run once. The engine's tables of facts are not sent, nor are numbers of rows, nor all of what a window says.
        let is_whole = found.recursive
            || found.facts
            || target.is_some_and(|target| target.rows_numbered)
            || lose_something(&plan)?;
        let state = match is_whole || ask.lean && found.join_without_keys {
            true => begun(self.undivided(ask)?.build(), ask.now),
            false => state,
        };
        Ok((Draft { state, notes, spread: ask.spread.clone() }, plan))
    }

    /// A session whose plans are split.
    fn state(&self, ask: &Ask<'_>) -> Result<SessionState> {
        let scans = (!ask.lean).then_some(&ask.scans);
        let mut builder = distributed(self.undivided(ask)?, &self.split, &ask.spread, scans)?;
        builder.set_distributed_passthrough_headers(ask.headers.clone())?;
        Ok(begun(builder.build(), ask.now))
    }

    /// A session whose plans run on the leading bee alone.
    pub(super) fn undivided(&self, ask: &Ask<'_>) -> Result<SessionStateBuilder> {
        let (hive, box_) = (ask.session.hive().to_string(), ask.session.box_name().to_string());
        let mut config = self.base.config().clone().with_default_catalog_and_schema(hive, box_);
        apply_options(&mut config, &ask.options)?;
        let builder = SessionStateBuilder::new_from_existing(self.base.clone());
        Ok(builder.with_config(config).with_runtime_env(Arc::clone(&ask.runtime)))
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
    spread: Spread,
}

impl Draft {
    async fn physical(&self, plan: &LogicalPlan, analyze: bool) -> Result<PhysicalQuery> {
        let plan = match self.state.create_physical_plan(plan).await {
            Ok(plan) if is_shallow(&plan) => plan,
            // What is too much for the engine with its joins in another order may not be in the query's own.
            _ => {
                self.notes.clear();
                in_own_order(&self.state).create_physical_plan(plan).await?
            }
        };
        let (context, notes) = (self.state.task_ctx(), Arc::clone(&self.notes));
        Ok(PhysicalQuery { plan, context, notes, analyze, spread: self.spread.clone() })
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
        let into = into.ok_or_else(|| match table.table_type() {
            TableType::View => Error::invalid(format!(
                "{} is a view, which has no rows of its own: INSERT INTO takes the frame that it reads",
                dml.table_name
            )),
            _ => Error::invalid("INSERT INTO takes a frame, not a file"),
        })?;
        if split(dml.table_name.table()).1 != Sight::LATEST {
            return Err(Error::invalid(
                "versions do not change: INSERT INTO takes the frame itself, RESTORE goes back",
            ));
        }
        let query = self.physical(&dml.input, false).await?;
        Ok(Planned::Insert { into, mode, query })
    }

    /// Rows into files; the statement gives their number.
    async fn copy(&self, copy: &CopyTo) -> Result<Planned> {
        let mut query = self.physical(&copy.input, false).await?;
        let (plan, output) = sink(copy, query.plan, &self.state).await?;
        query.plan = plan;
        Ok(Planned::Copy { query, output })
    }

    async fn explained(&self, plan: &LogicalPlan, verbose: bool) -> Result<RecordBatch> {
        let logical = self.state.optimize(plan)?;
        let inner = match plan {
            LogicalPlan::Dml(dml) => dml.input.as_ref(),
            LogicalPlan::Copy(copy) => copy.input.as_ref(),
            _ => plan,
        };
        let query = self.physical(inner, false).await?;
        let shown = match query.plan.is::<DistributedExec>() {
            true => display_plan_ascii(query.plan.as_ref(), false),
            false => displayable(query.plan.as_ref()).indent(verbose).to_string(),
        };
        answer::plans(&[
            ("logical_plan", logical.display_indent().to_string()),
            ("physical_plan", shown),
            (
                "bees",
                format!(
                    "{} tasks on {}",
                    query.tasks(),
                    if query.is_for_the_swarm() { "the swarm" } else { "this node" }
                ),
            ),
            ("requests", query.forecast().to_string()),
            ("cells", query.notes.to_string()),
        ])
    }
}

/// The MERGE that an EXPLAIN is of, and whether it is verbose: the engine's own plan of one is not how it is done here.
fn explained_change(statement: &DfStatement) -> Result<Option<(RowChange, bool)>> {
    let DfStatement::Explain(explain) = statement else { return Ok(None) };
    let change = RowChange::of(&explain.statement)?;
    match change {
        Some(_) if explain.options.analyze => {
            Err(Error::unsupported("EXPLAIN ANALYZE does not carry out changes: EXPLAIN shows how they are planned"))
        }
        change => Ok(change
            .filter(|change| change.rewrite() == Rewrite::Merge)
            .map(|change| (change, explain.options.verbose))),
    }
}

/// The name that a CREATE TABLE makes: it is no table to be looked up.
fn created_name(statement: &DfStatement) -> Option<String> {
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

/// NaN with a sign would sort below all numbers, and frames hold none: the one that they hold is meant.
fn with_one_nan(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Float64(Some(x)) if x.is_nan() => ScalarValue::Float64(Some(f64::NAN)),
        ScalarValue::Float32(Some(x)) if x.is_nan() => ScalarValue::Float32(Some(f32::NAN)),
        value => value,
    }
}

/// Says so when values are given that the statement has no place for: a name may be mistyped.
fn require_wanted(plan: &LogicalPlan, params: &Params) -> Result<()> {
    let given: Vec<String> = match params {
        Params::None => return Ok(()),
        Params::Positional(values) => (1..=values.len()).map(|number| format!("${number}")).collect(),
        Params::Named(values) => values.keys().map(|name| format!("${name}")).collect(),
    };
    let wanted = plan.get_parameter_names()?;
    let Some(unwanted) = given.iter().filter(|name| !wanted.contains(*name)).min() else { return Ok(()) };
    let mut wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    let there = if wanted.is_empty() { "none".to_string() } else { wanted.join(", ") };
    Err(Error::invalid(format!(
        "there is a value for {unwanted}, and the statement has {there}: leave it out, or correct its name"
    )))
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
    if key == "datafusion.execution.time_zone"
        && !["utc", "etc/utc", "gmt", "z", "+00:00"].contains(&value.to_ascii_lowercase().as_str())
    {
        // Literals would be understood in it, and texts that become values of a column would not.
        return Err(Error::unsupported(format!(
            "moments are kept, understood and shown in UTC, so timezone cannot be '{value}': write the offset, like \
             '2026-01-31 12:00:00+01:00', or AT TIME ZONE '{value}'"
        )));
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

/// The folder of a meadow on this machine.
fn folder_of(location: &str) -> Option<std::path::PathBuf> {
    url::Url::parse(location).ok()?.to_file_path().ok()
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

fn created(what: &str, name: &str, made: bool) -> String {
    format!("{what} {name} {}", if made { "is created" } else { "was there already" })
}
