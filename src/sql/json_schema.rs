//! What types the columns of JSON files have, told from all their lines.
//!
//! Arrow's own look refuses a null beside a list or an object within a list, which its reader takes. And what its reader
//! takes for another character is found here, where each line is looked at before any is read.

use std::io::{BufRead, BufReader};

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::reader::infer_json_schema_from_iterator;
use bytes::Buf;
use datafusion::common::DataFusionError;
use datafusion::datasource::file_format::json::JsonFormat;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::Value;

use crate::Result;

/// The columns of `files`; `None` when they are not plain lines.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for lines that are no objects, whose types do not go together, or that have escapes which
/// would be read as other characters.
pub(super) async fn json_schema(
    files: &[ObjectMeta],
    format: &JsonFormat,
    store: &dyn ObjectStore,
) -> Result<Option<Schema>> {
    let options = format.options();
    if options.compression.is_compressed() || !options.newline_delimited {
        return Ok(None);
    }
    let (mut schemas, mut left) = (Vec::new(), options.schema_infer_max_rec.unwrap_or(usize::MAX));
    for file in files.iter().filter(|file| file.size > 0) {
        let found = store.get(&file.location).await?;
        let reader: Box<dyn BufRead + Send> = match found.payload {
            GetResultPayload::File(file, _) => Box::new(BufReader::new(file)),
            GetResultPayload::Stream(_) => Box::new(found.bytes().await?.reader()),
        };
        let mut lines = Lines { reader, number: 0, line: String::new() };
        let counted = lines.by_ref().take(left).inspect(|_| left -= 1);
        schemas.push(infer_json_schema_from_iterator(counted).map_err(DataFusionError::from)?);
        // Beyond those that tell the types, escapes are still looked for.
        lines.try_for_each(|line| line.map(drop)).map_err(DataFusionError::from)?;
    }
    Ok(Some(Schema::try_merge(schemas).map_err(DataFusionError::from)?))
}

/// The values of a file's lines, without nulls in lists that have more.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
    line: String,
}

impl Iterator for Lines {
    type Item = Result<Value, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line.clear();
            self.number += 1;
            match self.reader.read_line(&mut self.line) {
                Ok(0) => return None,
                Err(error) => return Some(Err(ArrowError::JsonError(format!("Failed to read JSON record: {error}")))),
                Ok(_) if self.line.trim().is_empty() => {}
                Ok(_) => return Some(value(self.line.trim(), self.number)),
            }
        }
    }
}

fn value(line: &str, number: u64) -> Result<Value, ArrowError> {
    let mut value = serde_json::from_str(line).map_err(|e| ArrowError::JsonError(format!("Not valid JSON: {e}")))?;
    if let Some(escape) = misread_escape(line) {
        return Err(ArrowError::JsonError(format!(
            "line {number} has {escape}, and escapes of characters beyond U+1FFFF would be read as other characters: write \
             the character itself, as jq -c . does"
        )));
    }
    leave_nulls_out(&mut value);
    Ok(value)
}

/// Leaves nulls out of lists that have something else, which says their type.
fn leave_nulls_out(value: &mut Value) {
    match value {
        Value::Array(items) => {
            if items.iter().any(|item| !item.is_null()) {
                items.retain(|item| !item.is_null());
            }
            items.iter_mut().for_each(leave_nulls_out);
        }
        Value::Object(fields) => fields.values_mut().for_each(leave_nulls_out),
        _ => {}
    }
}

/// An escape that Arrow's reader takes for another character. It brings the two parts of one together by OR where they are to
/// be added, and so loses a bit of each second plane.
fn misread_escape(line: &str) -> Option<&str> {
    let mut at = 0;
    while let Some(found) = line.get(at..)?.find('\\') {
        at += found;
        let unit = line.get(at..at + 6).and_then(|escape| escape.strip_prefix("\\u"));
        if let Some(0xD800..0xDC00) = unit.and_then(|unit| u16::from_str_radix(unit, 16).ok()).filter(|u| u & 0x40 != 0)
        {
            return line.get(at..at + 12);
        }
        at += 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_are_misread_are_found() {
        assert_eq!(misread_escape(r#"{"a": "\ud83d\udc1d \u0041 \\ud842\\udfb7"}"#), None);
        assert_eq!(misread_escape(r#"{"a": "\\\ud842\udfb7"}"#), Some(r"\ud842\udfb7"));
        assert_eq!(misread_escape(r#"{"\uDBFF\uDFFF": 1}"#), Some(r"\uDBFF\uDFFF"));
    }

    #[test]
    fn nulls_say_nothing_of_types() {
        let mut value: Value = serde_json::from_str(r#"{"a": [null, [1, null], null], "b": [null]}"#).unwrap();
        leave_nulls_out(&mut value);
        assert_eq!(value.to_string(), r#"{"a":[[1]],"b":[null]}"#);
    }
}
