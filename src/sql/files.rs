//! A file or a glob of files as a table: `SELECT … FROM 'readings/*.parquet'`.

use std::sync::Arc;

use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use futures::StreamExt;
use url::Url;

use crate::{Error, Result};

/// Whether a table name is meant as a path: it has a slash or ends like a data file.
pub(crate) fn is_path(name: &str) -> bool {
    name.contains('/') || format_of(name).is_some()
}

/// The files that `path` matches, as a table with their inferred schema.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for an ending that is not known; [`crate::ErrorKind::NotFound`] without a match.
pub(crate) async fn file_table(path: &str, state: &dyn Session) -> Result<Arc<dyn TableProvider>> {
    let (format, ending) = format_of(path).ok_or_else(|| {
        Error::invalid(format!(
            "'{path}' is not a data file: its name must end in .parquet, .csv, .tsv, .json, .ndjson or .jsonl"
        ))
    })?;
    let url = ListingTableUrl::parse(absolute(path)?)?;
    let options = ListingOptions::new(format).with_file_extension(ending);
    require_match(path, &url, ending, state).await?;
    let schema = options.infer_schema(state, &url).await?;
    let config = ListingTableConfig::new(url).with_listing_options(options).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}

/// Says so when nothing matches: an empty table would look like an answer.
async fn require_match(path: &str, url: &ListingTableUrl, ending: &str, state: &dyn Session) -> Result<()> {
    let store = state.runtime_env().object_store(url)?;
    let mut found = url.list_all_files(state, store.as_ref(), ending).await?;
    match found.next().await.transpose()? {
        Some(_) => Ok(()),
        None => Err(Error::not_found(format!("no file matches '{path}'"))),
    }
}

fn format_of(path: &str) -> Option<(Arc<dyn FileFormat>, &'static str)> {
    let lower = path.to_ascii_lowercase();
    let csv = |delimiter: u8| Arc::new(CsvFormat::default().with_has_header(true).with_delimiter(delimiter)) as _;
    let known: [(&'static str, Arc<dyn FileFormat>); 6] = [
        (".parquet", Arc::new(ParquetFormat::default())),
        (".csv", csv(b',')),
        (".tsv", csv(b'\t')),
        (".ndjson", Arc::new(JsonFormat::default())),
        (".jsonl", Arc::new(JsonFormat::default())),
        (".json", Arc::new(JsonFormat::default())),
    ];
    known.into_iter().find(|(ending, _)| lower.ends_with(ending)).map(|(ending, format)| (format, ending))
}

/// Relative paths are taken from the working folder; URLs stay as they are.
fn absolute(path: &str) -> Result<String> {
    if path.contains("://") {
        let url = Url::parse(path).map_err(|e| Error::invalid(format!("'{path}' is not a URL: {e}")))?;
        return match url.scheme() {
            "file" => Ok(path.to_string()),
            other => Err(Error::unsupported(format!(
                "files of {other}:// cannot be read in place: ingest them, or point --storage there"
            ))),
        };
    }
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
