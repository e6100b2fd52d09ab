//! What types the columns of CSV files have, told from their beginnings.
//!
//! DataFusion's own look takes a file in the pieces in which the store gives it and cuts them at ends of lines, also at one
//! within quotes: texts of several lines are then no rows. Here only whole rows are looked at.

use std::sync::Arc;

use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, FieldRef, Schema};
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::csv::CsvFormat;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::{Error, Result};

/// Bytes of the files together from which types are told: some ten thousand rows.
const SAMPLE: u64 = 1 << 20;
/// Bytes of each file beyond them that are looked at for its names.
const HEADER: u64 = 16 << 10;

/// The columns of `files`, by their places; `None` when there are options by which the end of a row is another.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] with the line for rows that differ in length or are not UTF-8, and for files whose
/// columns are others: they are taken by their places.
pub(super) async fn csv_schema(
    files: &[ObjectMeta],
    format: &CsvFormat,
    store: &dyn ObjectStore,
) -> Result<Option<Schema>> {
    let options = format.options();
    let plain = options.escape.is_none()
        && options.terminator.is_none()
        && options.comment.is_none()
        && options.truncated_rows != Some(true)
        && options.null_regex.is_none()
        && options.schema_infer_max_rec.is_none()
        && !options.compression.is_compressed();
    if !plain {
        return Ok(None);
    }
    let has_header = options.has_header != Some(false);
    let reader = Format::default().with_header(has_header).with_delimiter(options.delimiter).with_quote(options.quote);
    let (mut sample, mut left, mut names) = (Vec::new(), SAMPLE, None);
    for file in files.iter().filter(|file| file.size > 0) {
        let bytes = beginning(file, left, options, store).await?;
        let is_whole = bytes.len() as u64 == file.size;
        let mut ends = RowEnds::of(&bytes, options);
        let header = if has_header { ends.next().unwrap_or(bytes.len()) } else { 0 };
        if has_header {
            let found = reader.infer_schema(&bytes[..header], Some(0)).map_err(DataFusionError::from)?.0;
            require_same(names.get_or_insert_with(|| found.clone()), &found, file)?;
        }
        let end = if is_whole { bytes.len() } else { ends.last().unwrap_or(header) };
        if left > 0 {
            // The names of the first file count.
            let start = if sample.is_empty() { 0 } else { header };
            if end <= header && !is_whole && sample.is_empty() {
                return Ok(None);
            }
            sample.extend_from_slice(bytes.get(start..end).unwrap_or_default());
            if is_whole && !sample.ends_with(b"\n") {
                sample.push(b'\n');
            }
        }
        left = left.saturating_sub(bytes.len() as u64);
    }
    let (found, _) = reader.infer_schema(sample.as_slice(), None).map_err(DataFusionError::from)?;
    // Of a column without values nothing is known; as one of nulls, values that come later would be read as null.
    let text = |field: &FieldRef| match field.data_type() {
        DataType::Null => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => Arc::clone(field),
    };
    Ok(Some(Schema::new(found.fields().iter().map(text).collect::<Vec<_>>())))
}

/// The beginning of a file: `wanted` bytes, or as many as its first row needs.
async fn beginning(file: &ObjectMeta, wanted: u64, options: &CsvOptions, store: &dyn ObjectStore) -> Result<Bytes> {
    let mut asked = wanted.max(HEADER);
    loop {
        let bytes = store.get_range(&file.location, 0..asked.min(file.size)).await?;
        if asked >= file.size || asked >= SAMPLE || RowEnds::of(&bytes, options).next().is_some() {
            return Ok(bytes);
        }
        asked *= 8;
    }
}

fn require_same(first: &Schema, other: &Schema, file: &ObjectMeta) -> Result<()> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let (first, other) = (names(first), names(other));
    if first == other {
        return Ok(());
    }
    let at = (0..first.len().max(other.len())).find(|at| first.get(*at) != other.get(*at)).unwrap_or_default();
    let said = |names: &[String]| names.get(at).map_or("none".to_string(), |name| format!("'{name}'"));
    Err(Error::invalid(format!(
        "its files have different columns, which are taken by their places: column {} is {} in the first and {} in /{}; ingest \
         them, which goes by the names",
        at + 1,
        said(&first),
        said(&other),
        file.location
    )))
}

/// Where rows end: behind each end of a line that is not within quotes. They open where a field begins.
struct RowEnds<'a> {
    bytes: &'a [u8],
    delimiter: u8,
    quote: u8,
    at: usize,
}

impl<'a> RowEnds<'a> {
    fn of(bytes: &'a [u8], options: &CsvOptions) -> Self {
        let mark = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { bytes, delimiter: options.delimiter, quote: options.quote, at: mark }
    }

    /// Goes behind the quote that closes a field.
    fn close(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            if *byte == self.quote {
                if self.bytes.get(self.at) != Some(&self.quote) {
                    return;
                }
                self.at += 1;
            }
        }
    }
}

impl Iterator for RowEnds<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut begins = true;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            if begins && *byte == self.quote {
                self.close();
            }
            begins = *byte == self.delimiter;
            if *byte == b'\n' || *byte == b'\r' && self.bytes.get(self.at).is_some_and(|next| *next != b'\n') {
                return Some(self.at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_end_outside_of_quotes() {
        let ends = |bytes: &[u8]| RowEnds::of(bytes, &CsvOptions::default()).collect::<Vec<_>>();
        assert_eq!(ends(b"a,b\n1,\"x\ny \"\"z\"\"\n\"\n2,w"), [4, 19]);
        assert_eq!(ends(b"\xef\xbb\xbf\"a\n\",b\r\n5\" pipe,1\r2,\"\"\n"), [11, 21, 26]);
        assert_eq!(ends(b"a\n\"never closed\n1\n"), [2]);
    }
}
