//! A result as a table in Markdown, written while it arrives.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::table::{formatters, visible};

/// Writes batches of one schema as rows of a Markdown table.
pub(crate) struct Markdown<W: Write> {
    writer: W,
    schema: SchemaRef,
    begun: bool,
}

impl<W: Write> Markdown<W> {
    /// A table of `schema` on `writer`.
    pub(crate) fn new(writer: W, schema: SchemaRef) -> Self {
        Self { writer, schema, begun: false }
    }

    /// Writes rows, the first ones below the names of the columns.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        if self.schema.fields().is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.begun, true) {
            let names: Vec<String> = self.schema.fields().iter().map(|field| escaped(field.name())).collect();
            let numeric = |field: &arrow::datatypes::FieldRef| field.data_type().is_numeric();
            let rules = self.schema.fields().iter().map(|f| if numeric(f) { "---:" } else { "---" });
            writeln!(self.writer, "| {} |", names.join(" | "))?;
            writeln!(self.writer, "| {} |", rules.collect::<Vec<_>>().join(" | "))?;
        }
        let formatters = formatters(batch)?;
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = formatters.iter().map(|f| escaped(&f.value(row).to_string())).collect();
            writeln!(self.writer, "| {} |", cells.join(" | "))?;
        }
        Ok(self.writer.flush()?)
    }
}

/// A value that stays in its cell.
fn escaped(text: &str) -> String {
    visible(text).replace('\\', "\\\\").replace('|', "\\|").replace('\n', "<br>")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn values_stay_in_their_cells() {
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("a|b", Arc::new(StringArray::from(vec!["x\ny", "p|q"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let mut table = Markdown::new(&mut bytes, batch.schema());
        table.write(&batch).unwrap();
        let expected = "| n | a\\|b |\n| ---: | --- |\n| 1 | x<br>y |\n| NULL | p\\|q |\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
