//! The first rows of a result as text, for `repr` and notebooks.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Names of the columns, their types, the rows (`None` is null), and whether there are more.
pub(super) type Preview = (Vec<String>, Vec<String>, Vec<Row>, bool);

/// The cells of one row.
pub(super) type Row = Vec<Option<String>>;

/// The first `limit` rows of `batches`.
///
/// # Errors
/// When a column's type has no text form.
pub(super) fn preview(schema: &Schema, batches: &[RecordBatch], limit: usize) -> Result<Preview, ArrowError> {
    let mut rows = Vec::new();
    for batch in batches {
        rows.extend(rows_of(&batch.slice(0, batch.num_rows().min(limit - rows.len())))?);
        if rows.len() == limit {
            break;
        }
    }
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let names = schema.fields().iter().map(|field| field.name().clone()).collect();
    let types = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
    Ok((names, types, rows, total > limit))
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let options = FormatOptions::default();
    let columns = batch.columns().iter().map(|array| Column::new(array, &options)).collect::<Result<Vec<_>, _>>()?;
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.cell(row)).collect()).collect()
}

struct Column<'a> {
    values: ArrayFormatter<'a>,
    nulls: Option<NullBuffer>,
}

impl<'a> Column<'a> {
    fn new(array: &'a ArrayRef, options: &FormatOptions<'a>) -> Result<Self, ArrowError> {
        Ok(Self { values: ArrayFormatter::try_new(array.as_ref(), options)?, nulls: array.logical_nulls() })
    }

    fn cell(&self, row: usize) -> Result<Option<String>, ArrowError> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(None);
        }
        self.values.value(row).try_to_string().map(Some)
    }
}
