//! Views: a query under a name, planned anew whenever the name is used.
//!
//! ```text
//!  a statement ─names─▶ frames, views ─names in the views' queries─▶ frames, views ─▶ … until none is new
//!                                                                                       │
//!  a view's plan stands where the statement names it ◀── the innermost are planned first ┘
//! ```
//! The text is kept with the hive and the box in which it was written: what it names without them is meant there, whoever
//! asks. Each frame is looked up once, so a statement sees one version of it, named by itself or by views.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::{Column, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as Ast;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::alter::byte_at;
use super::answer;
use super::catalog::{Sources, frame_name};
use super::files::is_path;
use super::frame_table::ScanNotes;
use super::limits::{check_statement, survey};
use super::order_by_all::by_found_columns;
use super::planner::{Ask, Planner};
use super::refused;
use super::session::SqlSession;
use super::statement::{Statement, names, parse, query_of, skip, syntax, take_words, word};
use crate::storage::{FrameRef, MAX_VIEW, ViewRecord};
use crate::{Error, Result};

/// Views that may stand on one another.
const MAX_DEEP: usize = 16;

/// `CREATE VIEW`, as it was written.
#[derive(Debug)]
pub(crate) struct CreateView {
    name: Vec<String>,
    columns: Vec<String>,
    query: String,
    or_replace: bool,
    if_not_exists: bool,
}

/// Whether a statement begins with `CREATE [OR REPLACE] VIEW`.
pub(super) fn is_create_view(parser: &Parser<'_>) -> bool {
    let at = if word(parser, 1) == "OR" && word(parser, 2) == "REPLACE" { 3 } else { 1 };
    word(parser, at) == "VIEW"
}

/// Parses `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [(columns)] AS query`.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] with the place of what was not understood.
pub(super) fn create_view(parser: &mut Parser<'_>, sql: &str) -> Result<CreateView> {
    skip(parser, 1);
    let or_replace = take_words(parser, &["OR", "REPLACE"]);
    skip(parser, 1);
    let if_not_exists = take_words(parser, &["IF", "NOT", "EXISTS"]);
    if or_replace && if_not_exists {
        return Err(Error::invalid("OR REPLACE and IF NOT EXISTS exclude each other: leave one of them out"));
    }
    let name = names(parser.parse_object_name(false).map_err(syntax)?);
    let columns = column_names(parser).map_err(syntax)?;
    if !take_words(parser, &["AS"]) {
        return Err(Error::invalid("the SQL was not understood: write CREATE VIEW name [(column, …)] AS SELECT …"));
    }
    let start = byte_at(sql, parser.peek_token_ref().span.start);
    let query = sql.get(start..).unwrap_or_default().trim().trim_end_matches(';').trim_end().to_string();
    if query.len() > MAX_VIEW {
        return Err(Error::invalid(format!(
            "the query of a view has {MAX_VIEW} bytes at most, and this one {}: put parts of it into views of their own",
            query.len()
        )));
    }
    query_in(&query)?;
    Ok(CreateView { name, columns, query, or_replace, if_not_exists })
}

fn column_names(parser: &mut Parser<'_>) -> Result<Vec<String>, ParserError> {
    if !parser.consume_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    let columns = parser.parse_comma_separated(|parser| parser.parse_object_name(false))?;
    parser.expect_token(&Token::RParen)?;
    Ok(columns.into_iter().map(|column| names(column).join(".")).collect())
}

/// The query that a view's text is.
fn query_in(text: &str) -> Result<DfStatement> {
    let wanted = || Error::invalid("a view stands for a query: write CREATE VIEW name AS SELECT …");
    let Statement::Other(statement) = parse(text)? else { return Err(wanted()) };
    match statement.as_ref() {
        DfStatement::Statement(ast) if matches!(ast.as_ref(), Ast::Query(_)) => Ok(*statement),
        _ => Err(wanted()),
    }
}

/// A view's query, and what it names.
#[derive(Debug)]
pub(super) struct Opened {
    statement: DfStatement,
    /// The tables that it names.
    pub(super) references: Vec<TableReference>,
    /// Where it was written.
    pub(super) home: SqlSession,
}

impl Opened {
    /// Reads a view's text, which anybody may have written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] for what no view can be.
    pub(super) fn of(view: &ViewRecord, state: &SessionState) -> Result<Self> {
        let statement = query_in(&view.query)?;
        check_statement(&statement)?;
        let mut references = state.resolve_table_references(&statement)?;
        refused::in_references(&references)?;
        references.retain(|r| r.schema().is_some() || !state.table_functions().contains_key(r.table()));
        if let Some(file) = references.iter().find(|r| r.schema().is_none() && is_path(r.table())) {
            return Err(Error::unsupported(format!(
                "a view reads frames, which every node has, and '{}' is a file of one machine: ingest it, or CREATE FRAME … AS \
                 SELECT … FROM '{}'",
                file.table(),
                file.table()
            )));
        }
        if references.iter().any(|r| r.schema() == Some("information_schema")) {
            return Err(Error::unsupported(
                "a view cannot read information_schema, which has the view in it: ask it in the statement itself",
            ));
        }
        let home = SqlSession::new()?;
        home.use_box(view.hive.clone(), view.box_.clone());
        Ok(Self { statement, references, home })
    }
}

/// Plans a view's query. `within` are the views that are being planned, this one last.
///
/// # Errors
/// What is wrong with the query, or has become wrong since.
pub(super) async fn view_plan(sources: &Sources<'_>, view: &ViewRecord, within: &[FrameRef]) -> Result<LogicalPlan> {
    if within.len() > MAX_DEEP {
        return Err(Error::invalid(format!(
            "more than {MAX_DEEP} views stand on one another: write what one of them gives into a frame"
        )));
    }
    let opened = Opened::of(view, sources.state)?;
    let catalogs = sources.list(&opened.references, &opened.home, within).await?;
    let mut state = sources.state.clone();
    let catalog = &mut state.config_mut().options_mut().catalog;
    (catalog.default_catalog, catalog.default_schema) = (view.hive.to_string(), view.box_.to_string());
    state.register_catalog_list(catalogs);
    let plan = state.statement_to_plan(by_found_columns(opened.statement, &state).await?).await?;
    // Views on views may double with each step what there is to be gone through.
    survey(&plan)?;
    let plan = called(plan, &view.columns)?;
    if let Some(parameter) = plan.get_parameter_names()?.iter().min() {
        return Err(Error::invalid(format!(
            "a view has no parameters, and its query has {parameter}: write the value, or filter the view by it"
        )));
    }
    Ok(plan)
}

/// The plan with its columns called by these names, if there are any.
fn called(plan: LogicalPlan, columns: &[String]) -> Result<LogicalPlan> {
    let fields = plan.schema().fields();
    if !columns.is_empty() && columns.len() != fields.len() {
        return Err(Error::invalid(format!(
            "the view names {} columns, and its query gives {}: name each of them, or none",
            columns.len(),
            fields.len()
        )));
    }
    let name = |at: usize| columns.get(at).map_or(fields[at].name().as_str(), String::as_str);
    let mut seen = HashSet::new();
    if let Some(twice) = (0..fields.len()).map(name).find(|name| !seen.insert(name.to_string())) {
        return Err(Error::invalid(format!(
            "the view would have two columns '{twice}': give one of them another name with AS, or name them all, like \
             CREATE VIEW name (a, b) AS …"
        )));
    }
    if columns.is_empty() {
        return Ok(plan);
    }
    let column = |at: usize| Expr::Column(Column::from(plan.schema().qualified_field(at))).alias(name(at));
    let named: Vec<Expr> = (0..fields.len()).map(column).collect();
    Ok(LogicalPlanBuilder::from(plan.clone()).project(named)?.build()?)
}

/// The query that reads a view, or some of its columns.
///
/// # Errors
/// Never in practice: what stands in it is quoted.
pub(super) fn rows_of_view(name: &FrameRef, columns: Option<&[String]>) -> Result<DfStatement> {
    let columns = columns.map_or("*".to_string(), quoted);
    query_of(&format!("SELECT {columns} FROM \"{}\".\"{}\".\"{}\"", name.hive, name.box_, name.frame))
}

fn quoted(columns: &[String]) -> String {
    columns.iter().map(|column| format!("\"{}\"", column.replace('"', "\"\""))).collect::<Vec<_>>().join(", ")
}

/// The statement that makes a view.
pub(super) fn definition(name: &FrameRef, view: &ViewRecord) -> String {
    let columns = if view.columns.is_empty() { String::new() } else { format!(" ({})", quoted(&view.columns)) };
    format!("CREATE VIEW {name}{columns} AS {}", view.query)
}

impl Planner {
    pub(super) async fn create_view(&self, create: CreateView, ask: &Ask<'_>) -> Result<RecordBatch> {
        self.meadow.require_writable()?;
        let CreateView { name, columns, query, or_replace, if_not_exists } = create;
        let name = frame_name(&name, ask.session)?;
        let view = ViewRecord { hive: ask.session.hive(), box_: ask.session.box_name(), columns, query };
        self.plan_of_view(&name, &view, ask).await?;
        let made = self.meadow.create_view(&name, view, or_replace, if_not_exists).await?;
        answer::done(format!("view {name} {}", if made { "is created" } else { "was there already" }))
    }

    /// A view's plan, as of now.
    pub(super) async fn plan_of_view(&self, name: &FrameRef, view: &ViewRecord, ask: &Ask<'_>) -> Result<LogicalPlan> {
        let (state, notes) = (self.undivided(ask)?.build(), Arc::new(ScanNotes::default()));
        let opened = Opened::of(view, &state)?;
        let mut sources = Sources::new(&self.meadow, ask.session, &state, &notes, self.world.as_ref(), None);
        sources.look_up(&opened.references, &opened.home).await?;
        view_plan(&sources, view, std::slice::from_ref(name)).await
    }

    pub(super) async fn describe(&self, name: &FrameRef, ask: &Ask<'_>) -> Result<RecordBatch> {
        match self.meadow.describe(name).await {
            Err(_) if self.meadow.was_view(name) => {
                let views = self.meadow.registry().views(vec![name.clone()]).await?;
                let (_, view) = views.first().ok_or_else(|| Error::not_found(format!("view {name} is gone")))?;
                let plan = self.plan_of_view(name, view, ask).await.map_err(|e| e.context(format!("view {name}")))?;
                answer::described(&plain(plan.schema().as_arrow()), &[])
            }
            info => info.and_then(|info| answer::described(&info.schema, &info.partition_by)),
        }
    }
}

/// The schema as its rows are given out.
pub(super) fn plain(schema: &Schema) -> Schema {
    let plain = |field: &FieldRef| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        DataType::BinaryView => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
        _ => Arc::clone(field),
    };
    Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>())
}

/// What stands in the lists of names for a view that cannot be planned any more.
pub(super) fn broken(name: &FrameRef, view: &ViewRecord, error: &Error) -> Result<Arc<dyn TableProvider>> {
    tracing::warn!(%error, %name, "a view is without columns in information_schema");
    let nothing = LogicalPlanBuilder::empty(false).build()?;
    Ok(Arc::new(ViewTable::new(nothing, Some(definition(name, view)))))
}
