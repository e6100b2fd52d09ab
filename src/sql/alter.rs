//! ALTER FRAME: what it says, and what it means for a frame's columns.

use arrow::datatypes::{DataType, Field};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::{DFParser, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{ColumnDef, ColumnOption, DataType as SqlType, Ident, Statement as Ast};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::spelling::right_expression;
use super::statement::{
    Altering, Statement, columns_in_parentheses, end, folded, names, places, skip, syntax, take_words, word, word_of,
};
use crate::storage::{Alteration, Check, FrameState, schema};
use crate::{Error, Result};

/// What can be said of a frame.
const FORMS: &str = "ADD COLUMN c TYPE, DROP COLUMN c, RENAME COLUMN a TO b, ALTER COLUMN c TYPE t, \
                     ALTER COLUMN c SET NOT NULL or DROP NOT NULL, ADD CONSTRAINT n CHECK (…), DROP CONSTRAINT n, \
                     CLUSTER BY (a, b) or NONE, SET TBLPROPERTIES ('key' = 'value', …), SET HOUSEKEEPING ON or OFF";

/// Parses ALTER FRAME.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] with the place of what was not understood.
pub(super) fn alter(parser: &mut Parser<'_>, sql: &str) -> Result<Statement> {
    skip(parser, 2);
    let name = names(parser.parse_object_name(false).map_err(syntax)?);
    if take_words(parser, &["SET", "HOUSEKEEPING"]) {
        let on = on_or_off(parser)?;
        end(parser).map_err(syntax)?;
        return Ok(Statement::Housekeeping { name, on });
    }
    let change = change(parser, sql).map_err(syntax)?;
    let change = change.ok_or_else(|| Error::unsupported(format!("ALTER FRAME takes {FORMS}")))?;
    end(parser).map_err(syntax)?;
    Ok(Statement::Alter { name, change })
}

fn on_or_off(parser: &mut Parser<'_>) -> Result<bool> {
    let on = match word(parser, 0).as_str() {
        "ON" => true,
        "OFF" => false,
        _ => return Err(Error::invalid("the SQL was not understood: SET HOUSEKEEPING wants ON or OFF")),
    };
    skip(parser, 1);
    Ok(on)
}

fn change(parser: &mut Parser<'_>, sql: &str) -> Result<Option<Altering>, ParserError> {
    if take_words(parser, &["ADD", "CONSTRAINT"]) {
        return constraint(parser, sql).map(Some);
    }
    if take_words(parser, &["ADD"]) {
        return new_columns(parser).map(Some);
    }
    let other = if take_words(parser, &["SET", "TBLPROPERTIES"]) {
        Alteration::SetProperties(properties(parser)?)
    } else if take_words(parser, &["DROP", "CONSTRAINT"]) {
        let if_exists = take_words(parser, &["IF", "EXISTS"]);
        Alteration::DropCheck { name: identifier(parser)?, if_exists }
    } else if take_words(parser, &["DROP", "COLUMN"]) {
        let if_exists = take_words(parser, &["IF", "EXISTS"]);
        Alteration::DropColumn { name: identifier(parser)?, if_exists }
    } else if take_words(parser, &["CLUSTER", "BY"]) {
        let none = take_words(parser, &["NONE"]);
        Alteration::ClusterBy(if none { Vec::new() } else { columns_in_parentheses(parser)? })
    } else if take_words(parser, &["RENAME", "COLUMN"]) {
        let from = identifier(parser)?;
        if !take_words(parser, &["TO"]) {
            return Err(ParserError::ParserError("RENAME COLUMN wants TO and the new name".into()));
        }
        Alteration::RenameColumn { from, to: identifier(parser)? }
    } else if take_words(parser, &["ALTER"]) {
        take_words(parser, &["COLUMN"]);
        let column = identifier(parser)?;
        if take_words(parser, &["SET", "DATA", "TYPE"]) || take_words(parser, &["TYPE"]) {
            return Ok(Some(Altering::SetType { column, data_type: parser.parse_data_type()? }));
        }
        if take_words(parser, &["SET", "NOT", "NULL"]) {
            Alteration::SetNotNull(column)
        } else if take_words(parser, &["DROP", "NOT", "NULL"]) {
            Alteration::DropNotNull(column)
        } else {
            return Ok(None);
        }
    } else {
        return Ok(None);
    };
    Ok(Some(Altering::Other(other)))
}

/// Takes `TBLPROPERTIES ('key' = 'value', …)` out of the tokens of CREATE FRAME.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for what is not written so.
pub(super) fn take_properties(tokens: &mut Vec<TokenWithSpan>) -> Result<Vec<(String, String)>> {
    let words = places(tokens);
    let is = |at: usize, text: &str| words.get(at).and_then(|at| word_of(&tokens[*at].token)).as_deref() == Some(text);
    let opens = |at: usize| words.get(at).is_some_and(|at| tokens[*at].token == Token::LParen);
    let mut deep = 0;
    let mut found = None;
    for at in (0..words.len()).take_while(|at| !is(*at, "AS")) {
        // A frame or a column may be called so.
        let is_name = deep > 0 || at > 0 && ["FRAME", "TABLE", "EXISTS"].iter().any(|word| is(at - 1, word));
        if !is_name && is(at, "TBLPROPERTIES") && opens(at + 1) {
            found = Some(words[at]);
            break;
        }
        match tokens[words[at]].token {
            Token::LParen => deep += 1,
            Token::RParen => deep -= 1,
            _ => {}
        }
    }
    let Some(start) = found else { return Ok(Vec::new()) };
    let length = tokens[start..].iter().position(|token| token.token == Token::RParen);
    let taken: Vec<_> = tokens.drain(start..length.map_or(tokens.len(), |length| start + length + 1)).collect();
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(taken);
    skip(&mut parser, 1);
    properties(&mut parser).map_err(syntax)
}

/// `('key' = 'value', …)`
fn properties(parser: &mut Parser<'_>) -> Result<Vec<(String, String)>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let properties = parser.parse_comma_separated(|parser| {
        let key = parser.parse_literal_string()?;
        parser.expect_token(&Token::Eq)?;
        Ok((key, parser.parse_literal_string()?))
    })?;
    parser.expect_token(&Token::RParen)?;
    Ok(properties)
}

fn constraint(parser: &mut Parser<'_>, sql: &str) -> Result<Altering, ParserError> {
    let name = identifier(parser)?;
    if !take_words(parser, &["CHECK"]) {
        return Err(ParserError::ParserError("ADD CONSTRAINT wants a name and CHECK (…): keys are not kept".into()));
    }
    let open = parser.expect_token(&Token::LParen)?.span.end;
    parser.parse_expr()?;
    let close = parser.expect_token(&Token::RParen)?.span.start;
    // As it was written: printed anew, a text that was quoted could come out as something else.
    let condition = sql[byte_at(sql, open)..byte_at(sql, close)].trim().to_string();
    Ok(Altering::Other(Alteration::AddCheck(Check { name, condition })))
}

fn new_columns(parser: &mut Parser<'_>) -> Result<Altering, ParserError> {
    if !take_words(parser, &["COLUMN"]) {
        take_words(parser, &["COLUMNS"]);
    }
    let if_not_exists = take_words(parser, &["IF", "NOT", "EXISTS"]);
    let columns = match parser.consume_token(&Token::LParen) {
        true => {
            let columns = parser.parse_comma_separated(Parser::parse_column_def)?;
            parser.expect_token(&Token::RParen)?;
            columns
        }
        false => vec![parser.parse_column_def()?],
    };
    Ok(Altering::AddColumns { columns, if_not_exists })
}

fn identifier(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    parser.parse_identifier().map(|name| folded(&name.value, name.quote_style))
}

/// Where a place of a text is, in bytes; lines and columns count from 1.
pub(super) fn byte_at(text: &str, place: Location) -> usize {
    let line = text.split_inclusive('\n').take(place.line.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let rest = text.get(line..).unwrap_or_default();
    line + rest.chars().take(place.column.saturating_sub(1) as usize).map(char::len_utf8).sum::<usize>()
}

/// The columns that definitions stand for, as a frame can hold them.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] for types that it cannot; [`crate::ErrorKind::Unsupported`] for defaults and keys.
pub(super) async fn columns_of(state: &SessionState, columns: &[ColumnDef]) -> Result<Vec<Field>> {
    refuse_unkept_options(columns)?;
    let mut statement = DFParser::parse_sql("CREATE TABLE columns (a INT)")?
        .pop_front()
        .ok_or_else(|| Error::internal("a statement of our own is none"))?;
    if let DfStatement::Statement(ast) = &mut statement
        && let Ast::CreateTable(create) = ast.as_mut()
    {
        create.columns = columns.to_vec();
    }
    let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = state.statement_to_plan(statement).await? else {
        return Err(Error::internal("columns were not planned as a table's"));
    };
    if !create.constraints.is_empty() || !create.column_defaults.is_empty() {
        return Err(Error::unsupported("keys and defaults are not kept by this version: leave them out"));
    }
    let frame = schema::frame_schema(create.input.schema().as_arrow())?;
    Ok(frame.fields().iter().map(|field| field.as_ref().clone()).collect())
}

/// The type that a frame has for one of SQL.
///
/// # Errors
/// As [`columns_of`].
pub(super) async fn type_of(state: &SessionState, data_type: SqlType) -> Result<DataType> {
    let column = ColumnDef { name: Ident::new("column"), data_type, options: Vec::new() };
    let fields = columns_of(state, &[column]).await?;
    let field = fields.first().ok_or_else(|| Error::internal("a column was planned as none"))?;
    Ok(field.data_type().clone())
}

/// Refuses what the engine would leave out of a column's definition without a word.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] naming it.
pub(super) fn refuse_unkept_options(columns: &[ColumnDef]) -> Result<()> {
    let options = columns.iter().flat_map(|column| column.options.iter().map(move |option| (column, &option.option)));
    for (column, option) in options {
        // Defaults and keys are refused with a sentence of their own.
        let known = matches!(
            option,
            ColumnOption::Null
                | ColumnOption::NotNull
                | ColumnOption::Default(_)
                | ColumnOption::Unique(_)
                | ColumnOption::PrimaryKey(_)
        );
        if !known {
            return Err(Error::unsupported(format!(
                "column {} {option} is not kept by this version: leave it out",
                column.name
            )));
        }
    }
    Ok(())
}

/// Refuses to change a column that is not there.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] with those that are.
pub(super) fn require_column(frame: &FrameState, column: &str) -> Result<()> {
    let names: Vec<_> = frame.schema.fields().iter().map(|field| field.name().as_str()).collect();
    match names.iter().any(|name| name.eq_ignore_ascii_case(column)) {
        true => Ok(()),
        false => Err(Error::not_found(format!("there is no column '{column}': the frame has {}", names.join(", ")))),
    }
}

/// Refuses to take a column's name from under a condition.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] naming the condition.
pub(super) fn require_unchecked(state: &SessionState, frame: &FrameState, column: &str) -> Result<()> {
    let columns = DFSchema::try_from(frame.schema.clone())?;
    for check in &frame.checks {
        let condition = state.create_logical_expr(&right_expression(&check.condition)?, &columns)?;
        if condition.column_refs().iter().any(|used| used.name.eq_ignore_ascii_case(column)) {
            return Err(Error::schema(format!(
                "constraint '{}' says something of column '{column}': drop the constraint first",
                check.name
            )));
        }
    }
    Ok(())
}
