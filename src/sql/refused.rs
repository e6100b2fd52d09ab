//! What the engine would leave out without a word, answer otherwise than SQL does, or refuse with words of its own: an error
//! that says what to do is better than that.

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    CreateTable, CreateTableOptions, Expr, JoinConstraint, JoinOperator, Query, SetExpr, SetOperator, SetQuantifier,
    Statement, TableConstraint, TableFactor, TableWithJoins, WindowType,
};

use crate::{Error, Result};

/// Functions by which other engines read files.
const READERS: [&str; 7] =
    ["read_csv", "read_csv_auto", "read_parquet", "parquet_scan", "read_json", "read_json_auto", "read_ndjson"];

/// Looks at a statement, but not at the queries within it.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] with what can be used instead.
pub(super) fn in_statement(statement: &DfStatement) -> Result<()> {
    let not = |what: &str, instead: &str| Err(Error::unsupported(format!("{what} is not available: {instead}")));
    let statement = match statement {
        DfStatement::Statement(statement) => statement.as_ref(),
        DfStatement::CreateExternalTable(_) => {
            return not(
                "CREATE EXTERNAL TABLE",
                "read files by name, FROM 'x.parquet', or CREATE FRAME … AS SELECT … FROM them",
            );
        }
        DfStatement::Reset(_) => {
            return not("RESET", "SET it to what it was, which SHOW ALL tells; 'none' takes a limit away");
        }
        _ => return Ok(()),
    };
    match statement {
        Statement::CreateView(_) => {
            not("a temporary or materialized view", "use WITH, CREATE VIEW, or CREATE FRAME … AS for its rows")
        }
        Statement::CreateTable(table) if table.or_replace => {
            not("CREATE OR REPLACE", "use INSERT OVERWRITE, or DROP FRAME IF EXISTS before")
        }
        Statement::CreateTable(table) if table.temporary => {
            not("a temporary table", "use WITH, or a frame that is dropped")
        }
        Statement::CreateIndex(_) => {
            not("CREATE INDEX", "OPTIMIZE … CLUSTER BY puts rows together that are asked for together")
        }
        Statement::CreateSequence { .. } => not("CREATE SEQUENCE", "number rows with row_number(), or with uuid()"),
        Statement::Truncate(_) => not("TRUNCATE", "use DELETE FROM without WHERE"),
        Statement::StartTransaction { .. } | Statement::Commit { .. } | Statement::Rollback { .. } => {
            not("a transaction of several statements", "each statement is one; RESTORE goes back to an earlier version")
        }
        Statement::Prepare { .. } | Statement::Execute { .. } | Statement::Deallocate { .. } => {
            not("a prepared statement", "send it with parameters, like $1 or $name")
        }
        Statement::Comment { .. } => not("COMMENT", "keep words about columns in a frame"),
        Statement::CreateTable(table) if table.location.is_some() || has_location(table) => not(
            "a place of its own for a frame",
            "leave LOCATION out, or ATTACH FRAME a Delta table that lies in the meadow",
        ),
        Statement::CreateTable(table) if table.like.is_some() => {
            not("CREATE FRAME … LIKE", "use CREATE FRAME a AS SELECT * FROM b WHERE false")
        }
        Statement::CreateTable(table) if table.comment.is_some() => {
            not("COMMENT", "keep words about frames in a frame")
        }
        Statement::CreateTable(table) if table.constraints.iter().any(|c| matches!(c, TableConstraint::Check(_))) => {
            not("CHECK in CREATE FRAME", "use ALTER FRAME … ADD CONSTRAINT name CHECK (…) behind it")
        }
        Statement::CreateTable(table) => match &table.table_options {
            CreateTableOptions::None => Ok(()),
            _ => not("WITH or OPTIONS of CREATE FRAME", "leave them out: frames have PARTITIONED BY and CLUSTER BY"),
        },
        Statement::AlterView { .. } => not("ALTER VIEW", "use CREATE OR REPLACE VIEW"),
        Statement::Insert(insert) if insert.returning.is_some() => not("RETURNING", "ask for the rows with SELECT"),
        Statement::Insert(insert) if insert.on.is_some() || insert.or.is_some() || insert.replace_into => {
            not("INSERT that replaces rows", "use MERGE INTO … WHEN MATCHED … WHEN NOT MATCHED …")
        }
        Statement::Insert(insert) if insert.partitioned.is_some() => {
            not("INSERT … PARTITION", "give the partition's column a value like any other")
        }
        Statement::AlterSchema(_) => not("ALTER SCHEMA", "create a box, and its frames with CREATE FRAME … AS SELECT"),
        Statement::CreateFunction(_) | Statement::CreateMacro { .. } => {
            not("a function of one's own", "write the expression, in a view where it is used often")
        }
        Statement::CreateType { .. } => not("CREATE TYPE", "use TEXT, and ADD CONSTRAINT … CHECK (c IN (…))"),
        Statement::Grant(_) | Statement::Revoke(_) => {
            not("GRANT or REVOKE", "who may read or write the storage is for the storage to say")
        }
        Statement::Pragma { .. } | Statement::Call(_) => {
            not("PRAGMA or CALL", "use SET, SHOW, DESCRIBE and the tables of information_schema and system")
        }
        Statement::Install { .. } | Statement::Load { .. } => not("an extension", "leave it out: nothing is loaded"),
        Statement::Analyze(_) => {
            not("ANALYZE", "leave it out: every write keeps statistics; EXPLAIN ANALYZE runs a query")
        }
        _ => Ok(()),
    }
}

fn has_location(table: &CreateTable) -> bool {
    table.hive_formats.as_ref().is_some_and(|formats| formats.location.is_some())
}

/// Looks at the names that a statement reads.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for functions of other engines that read files.
pub(super) fn in_references(references: &[TableReference]) -> Result<()> {
    match references.iter().find(|r| r.schema().is_none() && READERS.contains(&r.table())) {
        Some(reader) => Err(Error::unsupported(format!(
            "there is no function {}: a file is read by its name, like FROM 'readings/*.csv'",
            reader.table()
        ))),
        None => Ok(()),
    }
}

/// Looks at a query, but not at those within it.
pub(super) fn in_query(query: &Query) -> ControlFlow<Error> {
    if !query.locks.is_empty() {
        return refused("FOR UPDATE", "a query sees one version, and writers that meet conflict");
    }
    in_set(&query.body)
}

fn in_set(set: &SetExpr) -> ControlFlow<Error> {
    match set {
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            in_set(left)?;
            in_set(right)?;
            match (op, set_quantifier) {
                // Equal rows would not be counted against each other.
                (SetOperator::Except | SetOperator::Intersect, SetQuantifier::All) => {
                    refused("ALL behind EXCEPT or INTERSECT", "without it, or number equal rows with row_number()")
                }
                _ => ControlFlow::Continue(()),
            }
        }
        SetExpr::Select(select) => select.from.iter().try_for_each(in_joins),
        _ => ControlFlow::Continue(()),
    }
}

fn in_joins(table: &TableWithJoins) -> ControlFlow<Error> {
    let is_merged =
        |constraint: &JoinConstraint| matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural);
    let outer = table.joins.iter().any(|join| match &join.join_operator {
        JoinOperator::FullOuter(by) | JoinOperator::Right(by) | JoinOperator::RightOuter(by) => is_merged(by),
        _ => false,
    });
    if table.joins.iter().any(|join| matches!(join.join_operator, JoinOperator::Semi(_) | JoinOperator::Anti(_))) {
        return refused("SEMI JOIN or ANTI JOIN", "write LEFT SEMI JOIN or LEFT ANTI JOIN");
    }
    match outer {
        // The merged column would be null for rows of the right side alone.
        true => refused("USING or NATURAL of a RIGHT or FULL JOIN", "use ON, and coalesce() of both columns"),
        false => ControlFlow::Continue(()),
    }
}

/// Looks at one source of a query.
pub(super) fn in_source(source: &TableFactor) -> ControlFlow<Error> {
    match source {
        TableFactor::Pivot { .. } => refused("PIVOT", "use sum(x) FILTER (WHERE …) once for each column, and GROUP BY"),
        TableFactor::Unpivot { .. } => refused("UNPIVOT", "use UNION ALL of one SELECT for each column"),
        TableFactor::Table { sample: Some(_), .. } => refused("TABLESAMPLE", "filter with random() < 0.1"),
        _ => ControlFlow::Continue(()),
    }
}

/// Looks at an expression, but not at those within it.
pub(super) fn in_expression(expression: &Expr) -> ControlFlow<Error> {
    match expression {
        Expr::Collate { .. } => refused("COLLATE", "compare lower(x)"),
        // It would be taken for a regular expression that may match anywhere.
        Expr::SimilarTo { .. } => refused("SIMILAR TO", "use LIKE, or ~ with a regular expression"),
        Expr::Function(function) => match &function.over {
            // The named window's own PARTITION BY would be lost.
            Some(WindowType::WindowSpec(window)) if window.window_name.is_some() => {
                refused("a window that begins with another one's name", "write PARTITION BY and ORDER BY out")
            }
            _ => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

fn refused(what: &str, instead: &str) -> ControlFlow<Error> {
    ControlFlow::Break(Error::unsupported(format!("{what} is not available: {instead}")))
}
