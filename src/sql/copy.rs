//! COPY: rows of a frame or a query into files, and rows of files into a frame.

use std::collections::HashMap;
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
use datafusion::sql::sqlparser::tokenizer::Token;
use url::Url;

use super::files::{absolute, kind_of};
use super::statement::{Statement, end, names, skip, take_words, word};
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

/// `COPY f FROM 'file' [OPTIONS ('key' 'value', …)]`; `None` where it is a COPY … TO.
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
    let mut options = HashMap::new();
    if take_words(parser, &["OPTIONS"]) {
        parser.expect_token(&Token::LParen)?;
        loop {
            let key = option_key(parser)?;
            let value = match parser.parse_value()?.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text,
                Value::Boolean(value) => value.to_string(),
                other => return Err(ParserError::ParserError(format!("{other} is no value of an option"))),
            };
            options.insert(key, value);
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        parser.expect_token(&Token::RParen)?;
    }
    end(parser)?;
    Ok(Some(Statement::CopyFrom { name, path, options }))
}

/// What an option is called: DataFusion wants to be told that it is one of a format.
fn option_key(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let key = match word(parser, 0) {
        bare if !bare.is_empty() => {
            skip(parser, 1);
            bare
        }
        _ => parser.parse_literal_string()?,
    };
    let key = key.to_ascii_lowercase();
    let key = if key == "header" { "has_header".to_string() } else { key };
    Ok(if key.contains('.') { key } else { format!("format.{key}") })
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
    if copy.stored_as.is_none() {
        let (kind, delimiter) = kind_of(&target).ok_or_else(|| {
            Error::invalid(format!(
                "'{target}' does not say its format: end it in .parquet, .csv, .tsv, .json, .ndjson or .jsonl, or add \
                 STORED AS PARQUET, CSV or JSON"
            ))
        })?;
        copy.stored_as = Some(kind.to_string());
        if let Some(delimiter) = delimiter {
            copy.options.push(("format.delimiter".into(), Value::SingleQuotedString(delimiter.into())));
        }
    }
    let path = path.to_str().ok_or_else(|| Error::invalid(format!("'{target}' is no text")))?;
    copy.target = format!("{}{}", path.trim_end_matches('/'), if is_folder { "/" } else { "" });
    Ok(())
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
