//! A file or a glob of files as a table: `SELECT … FROM 'readings/*.parquet'`.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::csv::{CsvFormat, CsvFormatFactory};
use datafusion::datasource::file_format::json::{JsonFormat, JsonFormatFactory};
use datafusion::datasource::file_format::parquet::{ParquetFormat, ParquetFormatFactory};
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::{coalesce, nullif};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};
use futures::future::ready;
use futures::{FutureExt, TryStreamExt};
use glob::MatchOptions;
use object_store::ObjectMeta;
use url::Url;

use super::csv_sample::csv_schema;
use super::file_options::{FileOptions, split};
use super::json_schema::json_schema;
use crate::{Error, Result};

/// Whether a table name is meant as a path: it has a slash or ends like a data file.
pub(crate) fn is_path(name: &str) -> bool {
    let (path, _) = split(name);
    path.contains('/') || format_of(path).is_some() || packed(path).is_some()
}

/// The files that a path matches, read as the options in `name` say, as a table with their inferred schema.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for an ending that is not known; [`crate::ErrorKind::NotFound`] without a match.
pub(crate) async fn file_table(name: &str, state: &dyn Session) -> Result<Arc<dyn TableProvider>> {
    let (path, options) = split(name);
    let (format, ending) = format_of(path).ok_or_else(|| unknown(path))?;
    if options.is_empty() {
        return listing(path, format, ending, state, |schema| schema).await;
    }
    let csv = format.downcast_ref::<CsvFormat>().map(|csv| csv.options().clone());
    let csv =
        csv.ok_or_else(|| Error::invalid(format!("'{path}' is read without OPTIONS: they are for .csv and .tsv")))?;
    let format = Arc::new(CsvFormat::default().with_options(read_as(csv, &options)));
    match options.get("null") {
        None => listing(path, format, ending, state, |schema| schema).await,
        Some(null) => read_with_null(path, format, ending, state, null).await,
    }
}

fn read_as(mut csv: CsvOptions, options: &FileOptions) -> CsvOptions {
    for (key, value) in options {
        let byte = value.bytes().next();
        match key.as_str() {
            "delimiter" => csv.delimiter = byte.unwrap_or(csv.delimiter),
            "quote" => csv.quote = byte.unwrap_or(csv.quote),
            "escape" => csv.escape = byte,
            "header" => csv.has_header = Some(value == "true"),
            // Of what is looked at for the types.
            "null" => csv.null_regex = Some(exactly(value)),
            _ => {}
        }
    }
    csv
}

/// The regular expression that only this text matches, or none at all.
fn exactly(text: &str) -> String {
    let literal: String = text.chars().map(|c| format!("\\x{{{:x}}}", c as u32)).collect();
    format!("^({literal})?$")
}

/// CSV files in which `null` stands for nothing. The engine's reader knows that of the types alone: it reads texts here, which
/// become values then.
async fn read_with_null(
    path: &str,
    format: Arc<dyn FileFormat>,
    ending: &'static str,
    state: &dyn Session,
    null: &str,
) -> Result<Arc<dyn TableProvider>> {
    let mut found = Arc::new(Schema::empty());
    let texts = |schema: SchemaRef| -> SchemaRef {
        let text =
            |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8).with_nullable(true));
        let texts = Arc::new(Schema::new(schema.fields().iter().map(text).collect::<Vec<_>>()));
        found = schema;
        texts
    };
    let table = listing(path, format, ending, state, texts).await?;
    let rows = LogicalPlanBuilder::scan("file", provider_as_source(table), None)?;
    let value = |field: &Arc<Field>| {
        let data_type = if field.data_type().is_null() { &DataType::Utf8 } else { field.data_type() };
        read_but(null, field.name(), data_type)
    };
    let values: Vec<Expr> = found.fields().iter().map(value).collect();
    Ok(Arc::new(ViewTable::new(rows.project(values)?.build()?, None)))
}

/// The value of a column of texts, but nothing for `null`. The engine's reader takes an empty text for nothing: where another
/// text stands for that, it is what it is among texts.
fn read_but(null: &str, name: &str, data_type: &DataType) -> Expr {
    let text = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => coalesce(vec![ident(name), lit("")]),
        _ => ident(name),
    };
    cast(nullif(text, lit(null)), data_type.clone()).alias(name)
}

/// The rows of the files that `path` matches, for columns like those of `columns`: text is read as their types, or as one that
/// loses nothing on the way to them. Options are DataFusion's, `format.delimiter` and so on. Columns of a file without a header
/// are those of `columns`, in order.
///
/// # Errors
/// As [`file_table`], and [`crate::ErrorKind::InvalidInput`] for options that there are not, and for several CSV files.
pub(super) async fn rows_for(
    path: &str,
    mut options: HashMap<String, String>,
    columns: &Schema,
    state: &dyn Session,
) -> Result<LogicalPlan> {
    let (mut format, ending) = format_of(path).ok_or_else(|| unknown(path))?;
    let (kind, delimiter) = kind_of(path).ok_or_else(|| unknown(path))?;
    let null = options.remove("format.null");
    if options.remove("format.format").is_some_and(|format| format != kind) || null.is_some() && kind != "csv" {
        return Err(Error::invalid(format!("'{path}' is no CSV file: leave out the options that are for one")));
    }
    let bare = options.get("format.has_header").is_some_and(|value| value == "false");
    if !options.is_empty() {
        let defaults = if kind == "json" {
            vec![("schema_infer_max_rec", "18446744073709551615")]
        } else if kind == "csv" {
            vec![("has_header", "true"), ("newlines_in_values", "true"), ("delimiter", delimiter.unwrap_or(","))]
        } else {
            Vec::new()
        };
        for (key, value) in defaults {
            options.entry(format!("format.{key}")).or_insert_with(|| value.to_string());
        }
        let factory: Arc<dyn FileFormatFactory> = match kind {
            "csv" => Arc::new(CsvFormatFactory::new()),
            "json" => Arc::new(JsonFormatFactory::new()),
            _ => Arc::new(ParquetFormatFactory::new()),
        };
        format = factory.create(state, &options)?;
    }
    let mut found_columns = 0;
    let typed = |found: SchemaRef| -> SchemaRef {
        if kind == "parquet" {
            return found;
        }
        found_columns = found.fields().len();
        let field = |(at, field): (usize, &Arc<Field>)| {
            let like = if bare { columns.fields().get(at) } else { columns.fields().find(field.name()).map(|f| f.1) };
            let Some(like) = like else { return Arc::clone(field) };
            let read = match null {
                Some(_) => DataType::Utf8,
                None => readable(kind, field.data_type(), like.data_type()),
            };
            Arc::new(Field::new(like.name(), read, true))
        };
        Arc::new(Schema::new(found.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
    };
    if kind == "csv" {
        require_one(path, ending, state).await?;
    }
    let table = listing(path, format, ending, state, typed).await?;
    if bare && found_columns > columns.fields().len() {
        return Err(Error::schema(format!(
            "'{path}' has {found_columns} columns without names, and the frame has {}: leave columns out of the file, or give \
             it a header",
            columns.fields().len()
        )));
    }
    let scan = LogicalPlanBuilder::scan("file", provider_as_source(table), None)?;
    // Decimals come as texts, or with more digits: what there is no place for is rounded, as elsewhere in SQL.
    let fitted = |field: &Arc<Field>| match columns.field_with_name(field.name()).map(Field::data_type) {
        Ok(decimal @ DataType::Decimal128(..)) if kind != "parquet" && field.data_type() != decimal => {
            cast(ident(field.name()), decimal.clone()).alias(field.name())
        }
        _ => ident(field.name()),
    };
    let fitted = |field: &Arc<Field>| match (&null, columns.field_with_name(field.name())) {
        (Some(null), Ok(like)) => read_but(null, field.name(), like.data_type()),
        _ => fitted(field),
    };
    let fitted: Vec<Expr> = scan.schema().fields().iter().map(fitted).collect();
    Ok(scan.project(fitted)?.build()?)
}

/// Says so when there are several files: columns of CSV are taken by their place, whatever the headers say.
async fn require_one(path: &str, ending: &str, state: &dyn Session) -> Result<()> {
    match matching(path, &url_of(path)?, ending, state).await?.len() {
        0 | 1 => Ok(()),
        _ => Err(Error::invalid(format!("several files match '{path}': COPY one CSV file at a time, or ingest them"))),
    }
}

/// Digits of a number in JSON beyond those that a decimal keeps: by them it is rounded.
const SPARE: i8 = 6;

/// As what a column is read that will be `wanted`. The readers cut digits of decimals and moments off without a word, and that
/// of JSON takes any number for a day: what is found then is left to the write, which refuses what does not fit.
fn readable(kind: &str, found: &DataType, wanted: &DataType) -> DataType {
    let is_time = matches!(wanted, DataType::Date32 | DataType::Timestamp(..));
    match wanted {
        DataType::Decimal128(..) if kind == "csv" || found.is_string() => DataType::Utf8,
        DataType::Decimal128(_, scale) if found.is_numeric() => DataType::Decimal128(38, (*scale + SPARE).min(38)),
        DataType::Decimal128(..) => found.clone(),
        // Whole numbers that are too large are told, and there are no fractions among them.
        _ if kind == "json" && found.is_integer() && wanted.is_numeric() => wanted.clone(),
        _ if kind == "json" && found.is_floating() && wanted.is_floating() => wanted.clone(),
        _ if kind == "json" && !(found.is_string() && is_time || found.is_null() || found.is_nested()) => found.clone(),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        _ => wanted.clone(),
    }
}

fn unknown(path: &str) -> Error {
    match packed(path) {
        Some(by) => Error::unsupported(format!("'{path}' is compressed: unpack it first, with {by}")),
        None => Error::invalid(format!(
            "'{path}' is not a data file: its name must end in .parquet, .csv, .tsv, .json, .ndjson or .jsonl"
        )),
    }
}

/// By what a compressed data file is unpacked.
fn packed(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    let known = [(".gz", "gunzip -k"), (".zst", "unzstd"), (".bz2", "bunzip2 -k"), (".xz", "unxz -k")];
    known.into_iter().find_map(|(ending, by)| format_of(lower.strip_suffix(ending)?).map(|_| by))
}

async fn listing(
    path: &str,
    format: Arc<dyn FileFormat>,
    ending: &'static str,
    state: &dyn Session,
    typed: impl FnOnce(SchemaRef) -> SchemaRef,
) -> Result<Arc<dyn TableProvider>> {
    let url = url_of(path)?;
    let files = matching(path, &url, ending, state).await?;
    let store = state.runtime_env().object_store(&url)?;
    let options = ListingOptions::new(Arc::clone(&format)).with_file_extension(ending);
    let inferred = async {
        let sampled = match (format.downcast_ref::<CsvFormat>(), format.downcast_ref::<JsonFormat>()) {
            (Some(csv), _) => csv_schema(&files, csv, store.as_ref()).await?,
            (_, Some(json)) => json_schema(&files, json, store.as_ref()).await?,
            _ => None,
        };
        match sampled {
            Some(schema) => Ok(Arc::new(schema)),
            None => {
                let filled: Vec<ObjectMeta> = files.iter().filter(|file| file.size > 0).cloned().collect();
                Ok(format.infer_schema(state, &store, &filled).await?)
            }
        }
    };
    // Lengths in a damaged footer can be such that reading by them panics.
    let inferred = AssertUnwindSafe(inferred).catch_unwind().await;
    let inferred = inferred.unwrap_or_else(|_| Err(Error::corrupt("its footer has impossible lengths")));
    let inferred = inferred.map_err(|error| match error.message().contains("to be an object, found Array") {
        true => Error::unsupported(format!(
            "'{path}' is an array, and files of JSON are read that have an object on each line: jq -c '.[]' makes one of it"
        )),
        false => error.context(path),
    });
    let schema = typed(inferred?);
    let urls = if is_over_folders(&url) { files.iter().map(url_to).collect::<Result<_>>()? } else { vec![url] };
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}

fn url_of(path: &str) -> Result<ListingTableUrl> {
    ListingTableUrl::parse(absolute(path)?).map_err(|error| match error {
        DataFusionError::External(pattern) => Error::invalid(format!("'{path}' is no pattern of paths: {pattern}")),
        other => other.into(),
    })
}

/// Whether a pattern goes on behind a folder of which it is one, like `*/x.csv` or `**/*.csv`: the engine does not look there.
fn is_over_folders(url: &ListingTableUrl) -> bool {
    url.get_glob().as_ref().is_some_and(|glob| glob.as_str().contains('/'))
}

/// A file by itself, whatever its name has in it.
fn url_to(file: &ObjectMeta) -> Result<ListingTableUrl> {
    let url = Url::from_file_path(format!("/{}", file.location));
    let url = url.map_err(|()| Error::invalid(format!("/{} is no file of this machine", file.location)))?;
    Ok(ListingTableUrl::try_new(url, None)?)
}

/// The files that match; says so when there are none, or nothing is in them: an empty table would look like an answer.
async fn matching(path: &str, url: &ListingTableUrl, ending: &str, state: &dyn Session) -> Result<Vec<ObjectMeta>> {
    let store = state.runtime_env().object_store(url)?;
    let found: Vec<ObjectMeta> = match url.get_glob() {
        Some(glob) if is_over_folders(url) => {
            // `*` ends with a folder, `**` does not.
            let how = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
            let below = |file: &ObjectMeta| -> Option<String> {
                let parts: Vec<&str> = url.strip_prefix(&file.location)?.collect();
                Some(parts.join("/"))
            };
            let matches = |file: &ObjectMeta| below(file).is_some_and(|path| glob.matches_with(&path, how));
            let all = store.list(Some(url.prefix()));
            let found = all.try_filter(|file| ready(matches(file))).try_collect().await;
            let mut found: Vec<ObjectMeta> = found.map_err(|error| unless_loop(path, error))?;
            found.retain(|file| file.location.as_ref().ends_with(ending));
            found.sort_by(|a, b| a.location.cmp(&b.location));
            found
        }
        _ => url.list_all_files(state, store.as_ref(), ending).await?.try_collect().await?,
    };
    if found.is_empty() {
        let folder = if std::path::Path::new(path).is_dir() {
            format!(": it is a folder, write '{path}/*{ending}'")
        } else {
            String::new()
        };
        return Err(Error::not_found(format!("no file matches '{path}'{folder}")));
    }
    if let Some(empty) = found.iter().find(|file| file.size == 0 && ending == ".parquet") {
        return Err(Error::corrupt(format!("/{} is empty: it is no Parquet file", empty.location)));
    }
    match found.iter().all(|file| file.size == 0) {
        true => Err(Error::invalid(format!("'{path}' is empty"))),
        false => Ok(found),
    }
}

/// The listing of a folder ends where a link leads back to one around it: what comes behind would be missing.
fn unless_loop(path: &str, error: object_store::Error) -> Error {
    match error.to_string().split_once("File system loop found: ") {
        Some((_, which)) => Error::invalid(format!(
            "'{path}' has no end ({which}): remove the link, or name the folders without it, like 'a/*/*.csv' for 'a/**/*.csv'"
        )),
        None => error.into(),
    }
}

fn format_of(path: &str) -> Option<(Arc<dyn FileFormat>, &'static str)> {
    let lower = path.to_ascii_lowercase();
    let csv = |delimiter: u8| {
        // A line may end within quotes: files are not cut there.
        let format = CsvFormat::default().with_has_header(true).with_newlines_in_values(true);
        Arc::new(format.with_delimiter(delimiter)) as _
    };
    // Columns and fractions that come late would be lost.
    let json = || Arc::new(JsonFormat::default().with_schema_infer_max_rec(usize::MAX)) as _;
    let known: [(&'static str, Arc<dyn FileFormat>); 6] = [
        (".parquet", Arc::new(ParquetFormat::default())),
        (".csv", csv(b',')),
        (".tsv", csv(b'\t')),
        (".ndjson", json()),
        (".jsonl", json()),
        (".json", json()),
    ];
    known.into_iter().find(|(ending, _)| lower.ends_with(ending)).map(|(ending, format)| (format, ending))
}

/// DataFusion's name for the format of a file, and the delimiter where it is another than usual.
pub(super) fn kind_of(path: &str) -> Option<(&'static str, Option<&'static str>)> {
    let (_, ending) = format_of(path)?;
    Some(match ending {
        ".parquet" => ("parquet", None),
        ".csv" => ("csv", None),
        ".tsv" => ("csv", Some("\t")),
        _ => ("json", None),
    })
}

/// Relative paths are taken from the working folder; URLs stay as they are.
pub(super) fn absolute(path: &str) -> Result<String> {
    if path.contains("://") {
        let url = Url::parse(path).map_err(|e| Error::invalid(format!("'{path}' is not a URL: {e}")))?;
        return match url.scheme() {
            "file" => Ok(path.to_string()),
            other => Err(Error::unsupported(format!(
                "files of {other}:// cannot be read or written in place: use local files, or point --storage there"
            ))),
        };
    }
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_leads_to_itself_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.csv"), "a\n1\n").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("back")).unwrap();
        let state = datafusion::prelude::SessionContext::new().state();
        let error = file_table(&format!("{}/**/*.csv", folder.path().display()), &state).await.unwrap_err();
        assert!(error.message().contains("has no end"), "{error}");
    }

    #[test]
    fn paths_are_told_from_frames() {
        for path in ["a.parquet", "/x/y", "data/*.csv", "A.JSON"] {
            assert!(is_path(path), "{path}");
        }
        for frame in ["lineitem", "parquet", "readings_csv"] {
            assert!(!is_path(frame), "{frame}");
        }
    }
}
