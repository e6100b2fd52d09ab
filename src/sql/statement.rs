//! A parsed statement: DataFusion's SQL plus hives, boxes and frames.
//!
//! The text is tokenized once. Statements about hives, boxes and frames are parsed here from the tokens; in all others
//! the word FRAME becomes TABLE where a statement begins with CREATE, and `PARTITIONED BY (…)`, `CLUSTER BY (…)` and
//! `TBLPROPERTIES (…)` are taken out, because DataFusion's grammar knows none of them; everything else is DataFusion's own parser.

use std::time::Duration;

use datafusion::sql::parser::{DFParserBuilder, ParserInput, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{ColumnDef, DataType, ObjectName, ObjectNamePart};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::alter::{alter, take_properties};
use super::chains::check_chains;
use super::copy::{copy_from, write_out_options};
use super::file_options::take_options;
use super::layout::Layout;
use super::order_by_all::write_out_order_by_all;
use super::same_frames::check_frames;
use super::same_names::tell_apart;
use super::show::{Shown, show};
use super::spelling::{put_right, write_out_stars, write_out_time_zone};
use super::time_travel::{moment, name_versions, take_versions};
use super::view::{CreateView, create_view, is_create_view};
use crate::storage::{Alteration, AsOf, Placement};
use crate::{Error, Result};

/// Depth of nested expressions that the parser takes: deeper ones could exhaust a thread's stack.
pub(super) const RECURSION_LIMIT: usize = 64;

/// What a user asked for.
#[derive(Debug)]
pub(crate) enum Statement {
    CreateHive {
        name: Vec<String>,
        if_not_exists: bool,
    },
    CreateBox {
        name: Vec<String>,
        if_not_exists: bool,
    },
    CreateFrame {
        statement: Box<DfStatement>,
        placement: Placement,
    },
    CreateView(CreateView),
    DropView {
        name: Vec<String>,
        if_exists: bool,
    },
    /// Names that there are.
    Show(Shown),
    /// The statement that makes a frame or a view.
    ShowCreate {
        name: Vec<String>,
    },
    /// What is set of a frame.
    ShowProperties {
        name: Vec<String>,
    },
    Drop {
        kind: Kind,
        name: Vec<String>,
        if_exists: bool,
        cascade: bool,
    },
    Use {
        kind: Kind,
        name: Vec<String>,
    },
    Describe {
        name: Vec<String>,
    },
    /// The columns that a query gives.
    DescribeQuery(Box<DfStatement>),
    /// A frame's place, size and settings.
    Detail {
        name: Vec<String>,
    },
    History {
        name: Vec<String>,
        limit: Option<usize>,
    },
    Restore {
        name: Vec<String>,
        to: AsOf,
    },
    Alter {
        name: Vec<String>,
        change: Altering,
    },
    Optimize {
        name: Vec<String>,
        layout: Layout,
    },
    /// Rows of files into a frame.
    CopyFrom {
        name: Vec<String>,
        path: String,
        options: Vec<(String, String)>,
    },
    /// A Delta table in the frame's folder becomes a frame.
    Attach {
        name: Vec<String>,
    },
    /// A frame's folder becomes a Delta table of nobody's.
    Detach {
        name: Vec<String>,
    },
    /// Whether the files are those that the ledger says.
    Verify {
        name: Vec<String>,
    },
    /// Whether nodes keep the frame's house by themselves.
    Housekeeping {
        name: Vec<String>,
        on: bool,
    },
    Vacuum {
        name: Vec<String>,
        retain: Option<Duration>,
        force: bool,
        dry_run: bool,
    },
    Other(Box<DfStatement>),
}

/// What ALTER FRAME changes.
#[derive(Debug)]
pub(crate) enum Altering {
    AddColumns {
        columns: Vec<ColumnDef>,
        if_not_exists: bool,
    },
    SetType {
        column: String,
        data_type: DataType,
    },
    /// What needs no types.
    Other(Alteration),
}

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hive,
    Box,
    Frame,
}

/// Parses one statement; a `;` may follow it.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] with the place of what was not understood.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| syntax(e.into()))?;
    check_chains(&tokens)?;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.clone());
    let (first, second) = (word(&parser, 0), word(&parser, 1));
    match (first.as_str(), Kind::of(&second)) {
        ("", _) if sql.trim().is_empty() => Err(Error::invalid("the SQL is empty: write a statement")),
        ("CREATE", Some(Kind::Hive)) => create_name(&mut parser, Kind::Hive).map_err(syntax),
        ("CREATE", Some(Kind::Box)) => create_name(&mut parser, Kind::Box).map_err(syntax),
        ("CREATE", Some(Kind::Frame)) => create_frame(tokens),
        ("CREATE", None) if is_create_view(&parser) => create_view(&mut parser, sql).map(Statement::CreateView),
        ("DROP", None) if second == "VIEW" => drop_view(&mut parser).map_err(syntax),
        ("DROP", Some(kind)) => drop_name(&mut parser, kind).map_err(syntax),
        ("USE", kind) => use_name(&mut parser, kind).map_err(syntax),
        ("SHOW", _) => show(&mut parser).map_err(syntax)?.map_or_else(|| other(tokens), Ok),
        ("DESCRIBE" | "DESC", _) if is_query(&parser, 1) => {
            let query = places(&tokens).get(1).map_or(Vec::new(), |start| tokens[*start..].to_vec());
            Ok(Statement::DescribeQuery(Box::new(df_statement(query)?)))
        }
        ("DESCRIBE" | "DESC", _) => describe(&mut parser).map_err(syntax),
        ("RESTORE", kind) => restore(&mut parser, kind),
        ("OPTIMIZE", kind) => optimize(&mut parser, kind).map_err(syntax),
        ("ALTER", Some(Kind::Frame)) => alter(&mut parser, sql),
        ("VACUUM", kind) => vacuum(&mut parser, kind).map_err(syntax),
        ("ATTACH", Some(Kind::Frame)) => Ok(Statement::Attach { name: only_name(&mut parser, 2).map_err(syntax)? }),
        ("DETACH", Some(Kind::Frame)) => Ok(Statement::Detach { name: only_name(&mut parser, 2).map_err(syntax)? }),
        ("VERIFY", kind) => {
            let words = if kind == Some(Kind::Frame) { 2 } else { 1 };
            Ok(Statement::Verify { name: only_name(&mut parser, words).map_err(syntax)? })
        }
        ("COPY", _) => copy_from(&mut parser).map_err(syntax)?.map_or_else(|| other(tokens), Ok),
        _ => other(tokens),
    }
}

/// The query of a text that was written here, not by a user.
pub(crate) fn query_of(sql: &str) -> Result<DfStatement> {
    match parse(sql)? {
        Statement::Other(statement) => Ok(*statement),
        _ => Err(Error::internal(format!("not a query: {sql}"))),
    }
}

/// Whether `text` is one expression, to its end.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] with the place of what was not understood.
pub fn check_expression(text: &str) -> Result<()> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|e| syntax(e.into()))?;
    check_chains(&tokens)?;
    let mut parser = Parser::new(&dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens);
    parser.parse_expr().map_err(syntax)?;
    match parser.peek_token().token {
        Token::EOF => Ok(()),
        more => Err(syntax(ParserError::ParserError(format!("expected the end of the expression, found: {more}")))),
    }
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        match word {
            "HIVE" | "DATABASE" | "CATALOG" => Some(Self::Hive),
            "BOX" | "SCHEMA" => Some(Self::Box),
            "FRAME" | "TABLE" => Some(Self::Frame),
            _ => None,
        }
    }

    pub(super) fn of_plural(word: &str) -> Option<Self> {
        match word {
            "HIVES" | "DATABASES" | "CATALOGS" => Some(Self::Hive),
            "BOXES" | "SCHEMAS" => Some(Self::Box),
            "FRAMES" | "TABLES" => Some(Self::Frame),
            _ => None,
        }
    }
}

fn create_name(parser: &mut Parser<'_>, kind: Kind) -> Result<Statement, ParserError> {
    skip(parser, 2);
    let if_not_exists = take_words(parser, &["IF", "NOT", "EXISTS"]);
    let name = names(parser.parse_object_name(false)?);
    end(parser)?;
    Ok(match kind {
        Kind::Hive => Statement::CreateHive { name, if_not_exists },
        _ => Statement::CreateBox { name, if_not_exists },
    })
}

fn drop_name(parser: &mut Parser<'_>, kind: Kind) -> Result<Statement, ParserError> {
    skip(parser, 2);
    let if_exists = take_words(parser, &["IF", "EXISTS"]);
    let name = names(parser.parse_object_name(false)?);
    let cascade = take_words(parser, &["CASCADE"]);
    if !cascade {
        take_words(parser, &["RESTRICT"]);
    }
    end(parser)?;
    Ok(Statement::Drop { kind, name, if_exists, cascade })
}

fn drop_view(parser: &mut Parser<'_>) -> Result<Statement, ParserError> {
    skip(parser, 2);
    let if_exists = take_words(parser, &["IF", "EXISTS"]);
    Ok(Statement::DropView { name: only_name(parser, 0)?, if_exists })
}

fn use_name(parser: &mut Parser<'_>, kind: Option<Kind>) -> Result<Statement, ParserError> {
    skip(parser, if kind.is_some() { 2 } else { 1 });
    let name = names(parser.parse_object_name(false)?);
    end(parser)?;
    Ok(Statement::Use { kind: kind.unwrap_or(Kind::Box), name })
}

/// Whether a query begins here.
fn is_query(parser: &Parser<'_>, at: usize) -> bool {
    let is_word = matches!(word(parser, at).as_str(), "SELECT" | "WITH" | "FROM" | "VALUES");
    is_word && !matches!(parser.peek_nth_token_ref(at + 1).token, Token::EOF | Token::SemiColon | Token::Period)
        || parser.peek_nth_token_ref(at).token == Token::LParen
}

fn describe(parser: &mut Parser<'_>) -> Result<Statement, ParserError> {
    // A frame may be called history, detail or view.
    let before_name = matches!(parser.peek_nth_token_ref(2).token, Token::Word(_));
    let (history, detail) = (word(parser, 1) == "HISTORY" && before_name, word(parser, 1) == "DETAIL" && before_name);
    let view = matches!(word(parser, 1).as_str(), "VIEW" | "EXTENDED" | "FORMATTED") && before_name;
    let is_noun = history || detail || view || Kind::of(&word(parser, 1)) == Some(Kind::Frame);
    skip(parser, if is_noun { 2 } else { 1 });
    let name = names(parser.parse_object_name(false)?);
    let limit = match history && take_words(parser, &["LIMIT"]) {
        true => Some(parser.parse_literal_uint()? as usize),
        false => None,
    };
    end(parser)?;
    Ok(match (history, detail) {
        (true, _) => Statement::History { name, limit },
        (_, true) => Statement::Detail { name },
        _ => Statement::Describe { name },
    })
}

fn restore(parser: &mut Parser<'_>, kind: Option<Kind>) -> Result<Statement> {
    skip(parser, if kind == Some(Kind::Frame) { 2 } else { 1 });
    let name = names(parser.parse_object_name(false).map_err(syntax)?);
    take_words(parser, &["TO"]);
    let wanted = || Error::invalid("RESTORE wants VERSION AS OF and a number, or TIMESTAMP AS OF and a text");
    let kind = parser.next_token().token;
    if !take_words(parser, &["AS", "OF"]) || !matches!(word_of(&kind).as_deref(), Some("VERSION" | "TIMESTAMP")) {
        return Err(wanted());
    }
    let to = moment(&kind, Some(&parser.next_token().token))?.ok_or_else(wanted)?;
    end(parser).map_err(syntax)?;
    Ok(Statement::Restore { name, to })
}

fn optimize(parser: &mut Parser<'_>, kind: Option<Kind>) -> Result<Statement, ParserError> {
    skip(parser, if kind == Some(Kind::Frame) { 2 } else { 1 });
    let name = names(parser.parse_object_name(false)?);
    let layout = match layout_word(parser) {
        Some(layout) => layout(columns_in_parentheses(parser)?),
        None => Layout::Any,
    };
    if layout_word(parser).is_some() {
        return Err(ParserError::ParserError("OPTIMIZE takes one of CLUSTER BY and ZORDER BY, once".into()));
    }
    end(parser)?;
    Ok(Statement::Optimize { name, layout })
}

/// What the next words say of the columns behind them.
fn layout_word(parser: &mut Parser<'_>) -> Option<fn(Vec<String>) -> Layout> {
    match take_words(parser, &["CLUSTER", "BY"]) {
        true => Some(Layout::Sorted),
        false => take_words(parser, &["ZORDER", "BY"]).then_some(Layout::ZOrdered),
    }
}

pub(super) fn columns_in_parentheses(parser: &mut Parser<'_>) -> Result<Vec<String>, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let columns = parser.parse_comma_separated(|parser| parser.parse_object_name(false))?;
    parser.expect_token(&Token::RParen)?;
    Ok(columns.into_iter().map(|column| names(column).join(".")).collect())
}

fn vacuum(parser: &mut Parser<'_>, kind: Option<Kind>) -> Result<Statement, ParserError> {
    skip(parser, if kind == Some(Kind::Frame) { 2 } else { 1 });
    let name = names(parser.parse_object_name(false)?);
    let mut retain = None;
    if take_words(parser, &["RETAIN"]) {
        let count = parser.parse_literal_uint()?;
        let unit = word(parser, 0);
        let seconds = match unit.as_str() {
            "HOUR" | "HOURS" => 3600,
            "DAY" | "DAYS" => 24 * 3600,
            _ => return Err(ParserError::ParserError("RETAIN wants a number of HOURS or DAYS".into())),
        };
        skip(parser, 1);
        retain = Some(Duration::from_secs(count.saturating_mul(seconds)));
    }
    let force = take_words(parser, &["FORCE"]);
    let dry_run = take_words(parser, &["DRY", "RUN"]);
    end(parser)?;
    Ok(Statement::Vacuum { name, retain, force, dry_run })
}

/// The name behind the first `words` words, which is all that follows.
fn only_name(parser: &mut Parser<'_>, words: usize) -> Result<Vec<String>, ParserError> {
    skip(parser, words);
    let name = names(parser.parse_object_name(false)?);
    end(parser)?;
    Ok(name)
}

fn create_frame(mut tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let partition_by = take_columns(&mut tokens, "PARTITIONED")?;
    let cluster_by = take_columns(&mut tokens, "CLUSTER")?;
    let properties = take_properties(&mut tokens)?;
    take_using_delta(&mut tokens);
    if let Some(frame) = tokens.iter_mut().find(|t| word_of(&t.token).as_deref() == Some("FRAME")) {
        frame.token = Token::make_keyword("TABLE");
    }
    let statement = Box::new(df_statement(tokens)?);
    Ok(Statement::CreateFrame { statement, placement: Placement { partition_by, cluster_by, properties } })
}

/// Takes out Spark's `USING DELTA`, which every frame is.
fn take_using_delta(tokens: &mut Vec<TokenWithSpan>) {
    let words = places(tokens);
    let is = |at: usize, text: &str| words.get(at).and_then(|at| word_of(&tokens[*at].token)).as_deref() == Some(text);
    let before_query = (0..words.len()).take_while(|at| !is(*at, "AS"));
    if let Some(at) = before_query.into_iter().find(|at| is(*at, "USING") && is(at + 1, "DELTA")) {
        tokens.drain(words[at]..=words[at + 1]);
    }
}

fn other(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    Ok(Statement::Other(Box::new(df_statement(tokens)?)))
}

fn df_statement(mut tokens: Vec<TokenWithSpan>) -> Result<DfStatement> {
    take_versions(&mut tokens)?;
    take_options(&mut tokens)?;
    write_out_stars(&mut tokens);
    write_out_time_zone(&mut tokens);
    write_out_order_by_all(&mut tokens);
    write_out_options(&mut tokens);
    if tokens.iter().any(|token| is_long(&token.token)) {
        tokens = tokens.into_iter().flat_map(exact).collect();
    }
    let mut parser = DFParserBuilder::new(ParserInput::Tokens(tokens))
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(RECURSION_LIMIT)
        .build()?;
    let mut statements = parser.parse_statements()?;
    match (statements.pop_front(), statements.len()) {
        (Some(mut statement), 0) => {
            check_frames(&statement)?;
            name_versions(&mut statement);
            put_right(&mut statement);
            tell_apart(&mut statement);
            Ok(statement)
        }
        (None, _) => Err(Error::invalid("the SQL is empty: write a statement")),
        (_, more) => Err(Error::invalid(format!("{} statements in one text: send them one at a time", more + 1))),
    }
}

/// Digits that every float keeps.
const FLOAT_DIGITS: usize = 15;
/// Digits of the longest decimal.
const DECIMAL_DIGITS: usize = 38;

/// Whether it is a number with more digits than floats keep, and would become one.
fn is_long(token: &Token) -> bool {
    let Token::Number(number, _) = token else { return false };
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (FLOAT_DIGITS + 1..=DECIMAL_DIGITS).contains(&digits) && is_plain && number.parse::<u64>().is_err()
}

/// A number with more digits than floats keep as the decimal that it is: the engine reads it as a float.
fn exact(token: TokenWithSpan) -> Vec<TokenWithSpan> {
    let number = match &token.token {
        Token::Number(number, _) if is_long(&token.token) => number,
        _ => return vec![token],
    };
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let scale = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let (word, count) = (Token::make_keyword, |count: usize| Token::Number(count.to_string(), false));
    let text = Token::SingleQuotedString(number.clone());
    let decimal = [word("DECIMAL"), Token::LParen, count(digits), Token::Comma, count(scale), Token::RParen];
    let cast = [word("CAST"), Token::LParen, text, word("AS")].into_iter().chain(decimal).chain([Token::RParen]);
    cast.map(|part| TokenWithSpan { token: part, span: token.span }).collect()
}

/// Where the tokens are that say something.
pub(super) fn places(tokens: &[TokenWithSpan]) -> Vec<usize> {
    (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect()
}

/// Takes `word BY ( a, b )` out of the tokens and gives back the names.
fn take_columns(tokens: &mut Vec<TokenWithSpan>, word: &str) -> Result<Vec<String>> {
    let significant = places(tokens);
    let is = |at: usize, text: &str| {
        significant.get(at).is_some_and(|i| word_of(&tokens[*i].token).as_deref() == Some(text))
    };
    let Some(start) = (0..significant.len()).find(|at| is(*at, word) && is(at + 1, "BY")) else {
        return Ok(Vec::new());
    };
    let wanted = || Error::invalid(format!("{word} BY wants column names in parentheses, like {word} BY (region)"));
    let mut columns = Vec::new();
    let mut at = start + 2;
    let token = |at: usize| significant.get(at).map(|i| &tokens[*i].token);
    if token(at) != Some(&Token::LParen) {
        return Err(wanted());
    }
    loop {
        let Some(Token::Word(column)) = token(at + 1) else { return Err(wanted()) };
        columns.push(folded(&column.value, column.quote_style));
        at += 2;
        match token(at) {
            Some(Token::Comma) => {}
            Some(Token::RParen) => break,
            _ => return Err(wanted()),
        }
    }
    let (from, to) = (significant[start], significant[at]);
    tokens.drain(from..=to);
    Ok(columns)
}

pub(super) fn word(parser: &Parser<'_>, at: usize) -> String {
    word_of(&parser.peek_nth_token_ref(at).token).unwrap_or_default()
}

pub(super) fn word_of(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_ascii_uppercase()),
        _ => None,
    }
}

pub(super) fn skip(parser: &mut Parser<'_>, count: usize) {
    for _ in 0..count {
        parser.next_token();
    }
}

pub(super) fn take_words(parser: &mut Parser<'_>, words: &[&str]) -> bool {
    let there = words.iter().enumerate().all(|(at, wanted)| word(parser, at) == *wanted);
    if there {
        skip(parser, words.len());
    }
    there
}

pub(super) fn end(parser: &mut Parser<'_>) -> Result<(), ParserError> {
    while parser.consume_token(&Token::SemiColon) {}
    match parser.peek_token().token {
        Token::EOF => Ok(()),
        more => Err(ParserError::ParserError(format!("expected the end of the statement, found: {more}"))),
    }
}

/// A name as it is looked up: in lower case, unless it is quoted.
pub(super) fn folded(name: &str, quote: Option<char>) -> String {
    if quote.is_some() { name.to_string() } else { name.to_lowercase() }
}

/// Parts of a dotted name, as they are looked up.
pub(crate) fn names(name: ObjectName) -> Vec<String> {
    name.0
        .into_iter()
        .filter_map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(folded(&ident.value, ident.quote_style)),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

pub(super) fn syntax(error: ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_string(),
    };
    Error::invalid(format!("the SQL was not understood: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bee_words_and_their_aliases_parse_alike() {
        for sql in ["CREATE HIVE IF NOT EXISTS h", "create database if not exists h;"] {
            assert!(
                matches!(parse(sql), Ok(Statement::CreateHive { name, if_not_exists: true }) if name == ["h"]),
                "{sql}"
            );
        }
        for sql in ["DROP BOX h.b CASCADE", "DROP SCHEMA H.B cascade"] {
            let parsed = parse(sql).unwrap();
            assert!(
                matches!(parsed, Statement::Drop { kind: Kind::Box, name, cascade: true, .. } if name == ["h", "b"]),
                "{sql}"
            );
        }
        for sql in ["SHOW FRAMES", "SHOW TABLES;"] {
            assert!(matches!(parse(sql), Ok(Statement::Show(Shown { kind: Some(Kind::Frame), .. }))), "{sql}");
        }
    }

    #[test]
    fn partitioned_by_is_taken_out_wherever_it_stands() {
        for sql in [
            "CREATE FRAME f (a INT, b TEXT) PARTITIONED BY (b)",
            "CREATE TABLE f PARTITIONED BY (b) AS SELECT 1 AS a, 'x' AS b",
            "create frame f (a int, b text)\n  partitioned\n by ( B );",
        ] {
            let Statement::CreateFrame { placement, .. } = parse(sql).unwrap() else { unreachable!("{sql}") };
            assert_eq!(placement.partition_by, ["b"], "{sql}");
        }
        let sql = "CREATE FRAME f (a INT, b TEXT, \"C\" INT) CLUSTER BY (A, \"C\") PARTITIONED BY (b)";
        let Statement::CreateFrame { placement, .. } = parse(sql).unwrap() else { unreachable!("{sql}") };
        assert_eq!((placement.partition_by.len(), placement.cluster_by.join(",")), (1, "a,C".into()));
        assert!(parse("CREATE FRAME f (a INT) PARTITIONED BY a").is_err());
    }

    #[test]
    fn upkeep_parses() {
        let columns = || vec!["x".to_string(), "y".to_string()];
        for (sql, wanted) in [
            ("OPTIMIZE b.f", Layout::Any),
            ("OPTIMIZE b.f CLUSTER BY (x, Y)", Layout::Sorted(columns())),
            ("optimize frame b.F cluster by (X, y);", Layout::Sorted(columns())),
            ("OPTIMIZE b.f ZORDER BY (x, Y)", Layout::ZOrdered(columns())),
            ("optimize table b.F zorder by (X, y);", Layout::ZOrdered(columns())),
        ] {
            let Statement::Optimize { name, layout } = parse(sql).unwrap() else { unreachable!("{sql}") };
            assert_eq!((name.join("."), layout), ("b.f".into(), wanted), "{sql}");
        }
        let Statement::Vacuum { retain, dry_run, .. } = parse("VACUUM f RETAIN 2 DAYS DRY RUN").unwrap() else {
            unreachable!("a vacuum")
        };
        assert_eq!((retain, dry_run), (Some(Duration::from_secs(2 * 86_400)), true));
        for sql in [
            "OPTIMIZE",
            "OPTIMIZE f CLUSTER BY x",
            "OPTIMIZE f ZORDER BY ()",
            "OPTIMIZE f CLUSTER BY (x) ZORDER BY (y)",
            "VACUUM f RETAIN 3",
            "VACUUM f RETAIN 3 MILES",
        ] {
            assert!(parse(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn an_expression_ends_with_its_text() {
        for good in ["a = 1", "a IN (SELECT 1) -- why", "'; DROP' || b"] {
            assert!(check_expression(good).is_ok(), "{good}");
        }
        for bad in ["", "a = 1) OR (true", "a = 1; DROP FRAME f", "a, b", "1 AS x", "'"] {
            assert!(check_expression(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_inside_strings_and_quotes_are_left_alone() {
        assert!(matches!(parse("SELECT 'DROP HIVE x' AS \"create frame\""), Ok(Statement::Other(_))));
    }

    #[test]
    fn what_is_not_sql_says_where() {
        for sql in ["", "  ", "SELEC 1", "SELECT 1; SELECT 2", "DROP HIVE", "USE", "CREATE HIVE h x", "SELECT 'a"] {
            assert!(parse(sql).is_err(), "{sql:?}");
        }
        let deep = format!("SELECT {}1{}", "(".repeat(2000), ")".repeat(2000));
        assert!(parse(&deep).is_err());
    }
}
