//! COPY: rows of a frame or a query into files, and rows of files into a frame.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::datasource::file_format::file_type_to_format;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileOutputMode, FileSinkConfig};
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::{CopyTo, InsertOp};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::sql::parser::CopyToStatement;
use datafusion::sql::sqlparser::ast::Value;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use url::Url;

use super::file_options::of_format;
use super::files::{absolute, kind_of};
use super::statement::{Statement, end, names, places, skip, take_words, word, word_of};
use crate::{Error, Result};

/// Where the rows of a COPY go: what is half-written is elsewhere until all of them are there, and goes with this value.
#[derive(Debug)]
pub struct Output {
    half: PathBuf,
    whole: PathBuf,
}

impl Output {
    /// A place beside `target`; a folder that is there already takes files as they come.
    fn beside(target: &str) -> Self {
        let whole = PathBuf::from(target.trim_end_matches('/'));
        let half = match whole.is_dir() {
            true => whole.clone(),
            false => whole.with_file_name(format!(".copy-{}", uuid::Uuid::new_v4().simple())),
        };
        Self { half, whole }
    }

    /// All rows are written.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(self) -> Result<()> {
        match self.half == self.whole {
            true => Ok(()),
            false => Ok(std::fs::rename(&self.half, &self.whole)?),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.half == self.whole {
            return;
        }
        let removed =
            if self.half.is_dir() { std::fs::remove_dir_all(&self.half) } else { std::fs::remove_file(&self.half) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.half.display(), "what a COPY had written is left behind");
            }
            _ => {}
        }
    }
}

/// `COPY f FROM 'file' [[WITH] [OPTIONS] (key value, …)]`; `None` where it is a COPY … TO.
pub(super) fn copy_from(parser: &mut Parser<'_>) -> Result<Option<Statement>, ParserError> {
    skip(parser, 1);
    if matches!(parser.peek_token_ref().token, Token::LParen) {
        return Ok(None);
    }
    let name = names(parser.parse_object_name(false)?);
    if !take_words(parser, &["FROM"]) {
        return Ok(None);
    }
    let path = parser.parse_literal_string()?;
    take_words(parser, &["WITH"]);
    let mut options = Vec::new();
    if take_words(parser, &["OPTIONS"]) || matches!(parser.peek_token_ref().token, Token::LParen) {
        parser.expect_token(&Token::LParen)?;
        options = parser.parse_comma_separated(option)?;
        parser.expect_token(&Token::RParen)?;
    }
    end(parser)?;
    Ok(Some(Statement::CopyFrom { name, path, options }))
}

/// `key value`; one without a value is true.
fn option(parser: &mut Parser<'_>) -> Result<(String, String), ParserError> {
    let key = text_or_word(parser)?;
    let value = match parser.peek_token_ref().token {
        Token::Comma | Token::RParen => "true".to_string(),
        Token::Number(..) => parser.parse_number_value()?.to_string(),
        _ => text_or_word(parser)?,
    };
    Ok((key, value))
}

fn text_or_word(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let bare = word(parser, 0);
    match bare.is_empty() {
        true => parser.parse_literal_string(),
        false => {
            skip(parser, 1);
            Ok(bare.to_ascii_lowercase())
        }
    }
}

/// Writes the options of a `COPY … TO 'file' [WITH] (key value, …)` as the parser takes them.
pub(super) fn write_out_options(tokens: &mut Vec<TokenWithSpan>) {
    let words = places(tokens);
    let token = |at: usize| words.get(at).map(|at| &tokens[*at].token);
    let is = |at: usize, text: &str| token(at).and_then(word_of).as_deref() == Some(text);
    let is_target = |at: &usize| is(*at, "TO") && matches!(token(at + 1), Some(Token::SingleQuotedString(_)));
    let Some(to) = (0..words.len()).rev().find(is_target).filter(|_| is(0, "COPY")) else { return };
    let with = usize::from(is(to + 2, "WITH"));
    let open = to + 2 + with;
    if token(open) != Some(&Token::LParen) {
        return;
    }
    let ends = |at: usize| matches!(token(at), Some(Token::Comma | Token::RParen));
    let begins = |at: usize| matches!(token(at), Some(Token::Comma | Token::LParen));
    let bare = (open + 1..words.len()).filter(|at| begins(at - 1) && ends(at + 1)).map(|at| words[at]);
    let mut added: Vec<(usize, Token)> = bare.map(|at| (at + 1, Token::SingleQuotedString("true".into()))).collect();
    added.insert(0, (words[open], Token::make_keyword("OPTIONS")));
    // From the end on: what stands before keeps its place.
    for (at, token) in added.into_iter().rev() {
        let span = tokens[words[to]].span;
        tokens.insert(at, TokenWithSpan { token, span });
    }
    if with == 1 {
        tokens.remove(words[to + 2]);
    }
}

/// Makes out where a COPY … TO goes, and in which format.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for what is no local file, or has no format.
pub(super) fn aim(copy: &mut CopyToStatement, meadow: Option<&Path>) -> Result<()> {
    let target = copy.target.clone();
    if !copy.partitioned_by.is_empty() {
        return Err(Error::unsupported(
            "COPY … PARTITIONED BY is not available: copy a part at a time, or CREATE FRAME … PARTITIONED BY … AS",
        ));
    }
    let path = local_path(&target)?;
    if meadow.is_some_and(|meadow| real(&path).starts_with(real(meadow))) {
        return Err(Error::invalid(format!(
            "'{target}' is inside the meadow, where only frames are: use INSERT or CREATE FRAME … AS, or another folder"
        )));
    }
    let is_folder = target.ends_with('/');
    match std::fs::metadata(&path) {
        Ok(there) if there.is_dir() && !is_folder => {
            return Err(Error::invalid(format!(
                "'{target}' is a folder: name a file, or write '{target}/' with STORED AS"
            )));
        }
        Ok(there) if !there.is_dir() && (is_folder || !there.is_file()) => {
            return Err(Error::invalid(format!(
                "'{target}' is there, and is no {}",
                if is_folder { "folder" } else { "file" }
            )));
        }
        _ => {}
    }
    let options = std::mem::take(&mut copy.options).into_iter().map(|(key, value)| (key, plain(value)));
    let mut options = of_format(options)?;
    if let (Some(format), None) = (options.remove("format.format"), &copy.stored_as) {
        copy.stored_as = Some(format);
    }
    if let Some(null) = options.remove("format.null") {
        options.insert("format.null_value".into(), null);
    }
    if copy.stored_as.is_none() {
        let (kind, delimiter) = kind_of(&target).ok_or_else(|| {
            Error::invalid(format!(
                "'{target}' does not say its format: end it in .parquet, .csv, .tsv, .json, .ndjson or .jsonl, or add \
                 STORED AS PARQUET, CSV or JSON"
            ))
        })?;
        copy.stored_as = Some(kind.to_string());
        if let Some(delimiter) = delimiter {
            options.entry("format.delimiter".into()).or_insert_with(|| delimiter.into());
        }
    }
    copy.options = options.into_iter().map(|(key, value)| (key, Value::SingleQuotedString(value))).collect();
    let path = path.to_str().ok_or_else(|| Error::invalid(format!("'{target}' is no text")))?;
    copy.target = format!("{}{}", path.trim_end_matches('/'), if is_folder { "/" } else { "" });
    Ok(())
}

fn plain(value: Value) -> String {
    match value {
        Value::SingleQuotedString(text) => text,
        other => other.to_string(),
    }
}

/// The path of a target, which may be a URL.
fn local_path(target: &str) -> Result<PathBuf> {
    let path = absolute(target)?;
    match path.contains("://") {
        false => Ok(PathBuf::from(path)),
        true => Url::parse(&path)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| Error::invalid(format!("'{target}' is no file of this machine"))),
    }
}

/// Where a path leads: links are followed as far as there is something.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    match there {
        Some((part, real)) => real.join(path.strip_prefix(part).unwrap_or(Path::new(""))),
        None => path.to_path_buf(),
    }
}

/// A plan that writes the rows of `rows` into files and gives their number, and where it puts them meanwhile.
///
/// # Errors
/// What is wrong with the options.
pub(super) async fn sink(
    copy: &CopyTo,
    rows: Arc<dyn ExecutionPlan>,
    state: &SessionState,
) -> Result<(Arc<dyn ExecutionPlan>, Output)> {
    let one = rows.output_partitioning().partition_count() == 1;
    let rows = if one { rows } else { Arc::new(CoalescePartitionsExec::new(rows)) };
    let format = file_type_to_format(&copy.file_type)?.create(state, &copy.options)?;
    let file_extension = match format.compression_type() {
        Some(compression) => format.get_ext_with_compression(&compression)?,
        None => format.get_ext(),
    };
    let output = Output::beside(&copy.output_url);
    let is_folder = copy.output_url.ends_with('/');
    // Not parsed from a text, in which brackets and the like would be patterns.
    let url = if is_folder { Url::from_directory_path(&output.half) } else { Url::from_file_path(&output.half) };
    let url = url.map_err(|()| Error::invalid(format!("'{}' is no file of this machine", copy.output_url)))?;
    let url = ListingTableUrl::try_new(url, None)?;
    let ordering = rows.output_ordering().cloned();
    let config = FileSinkConfig {
        original_url: copy.output_url.clone(),
        object_store_url: url.object_store(),
        table_paths: vec![url],
        file_group: FileGroup::default(),
        output_schema: Arc::clone(copy.input.schema().inner()),
        table_partition_cols: Vec::new(),
        insert_op: InsertOp::Append,
        keep_partition_by_columns: false,
        file_extension,
        file_output_mode: if is_folder { FileOutputMode::Directory } else { FileOutputMode::SingleFile },
    };
    Ok((format.create_writer_physical_plan(rows, state, config, ordering.map(Into::into)).await?, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_into_the_meadow() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("meadow")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(root.join("meadow"), root.join("link")).unwrap();
        assert_eq!(real(&root.join("link/a/b.csv")), root.join("meadow/a/b.csv"));
        assert_eq!(real(&root.join("meadow/../other/x.csv")), root.join("other/x.csv"));
    }
}
