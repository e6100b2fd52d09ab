//! What types the columns of JSON files have, told from all their lines.
//!
//! Arrow's own look refuses a null beside a list or an object within a list, which its reader takes.

use std::io::{BufRead, BufReader};

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::reader::infer_json_schema_from_iterator;
use bytes::Buf;
use datafusion::common::DataFusionError;
use datafusion::datasource::file_format::json::JsonFormat;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::Result;

/// The columns of `files`; `None` when they are not plain lines.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for lines that are no objects, or whose types do not go together.
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
        // A look at gigabytes keeps nobody else waiting, and ends when nobody waits for it.
        let ended = CancellationToken::new();
        let _guard = ended.clone().drop_guard();
        let lines = Lines { reader, line: String::new(), ended };
        let work = move || {
            let mut taken = 0;
            let counted = lines.take(left).inspect(|_| taken += 1);
            infer_json_schema_from_iterator(counted).map(|schema| (schema, taken))
        };
        let (schema, taken) = spawn_blocking(work).await?.map_err(DataFusionError::from)?;
        schemas.push(schema);
        left -= taken;
    }
    Ok(Some(Schema::try_merge(schemas).map_err(DataFusionError::from)?))
}

/// The values of a file's lines, without nulls in lists that have more.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    line: String,
    ended: CancellationToken,
}

impl Iterator for Lines {
    type Item = Result<Value, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line.clear();
            if self.ended.is_cancelled() {
                return None;
            }
            match self.reader.read_line(&mut self.line) {
                Ok(0) => return None,
                Err(error) => return Some(Err(ArrowError::JsonError(format!("Failed to read JSON record: {error}")))),
                Ok(_) if self.line.trim().is_empty() => {}
                Ok(_) => return Some(value(self.line.trim())),
            }
        }
    }
}

fn value(line: &str) -> Result<Value, ArrowError> {
    let mut value = serde_json::from_str(line).map_err(|e| ArrowError::JsonError(format!("Not valid JSON: {e}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_say_nothing_of_types() {
        let mut value: Value = serde_json::from_str(r#"{"a": [null, [1, null], null], "b": [null]}"#).unwrap();
        leave_nulls_out(&mut value);
        assert_eq!(value.to_string(), r#"{"a":[[1]],"b":[null]}"#);
    }
}
