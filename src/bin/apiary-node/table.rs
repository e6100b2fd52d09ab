//! A result as a table of text, written while it arrives.
//!
//! Column widths come from the first rows and then stay: a result of any length is printed in bounded memory, and a
//! later value that is wider than its column pushes its line out rather than being cut. Numbers stand on the right. A
//! value of several lines, as EXPLAIN gives, takes several lines; other control characters are shown escaped, so that
//! data cannot play tricks with the terminal.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Rows that are looked at for the widths: more than a screen, few enough to hold whatever they contain.
const SAMPLE_ROWS: usize = 1_000;

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("NULL");

/// Writes batches of one schema as a table.
pub(crate) struct Table<W: Write> {
    writer: W,
    schema: SchemaRef,
    /// Batches that wait for the widths.
    held: Vec<RecordBatch>,
    /// One per column, once known.
    widths: Option<Vec<usize>>,
}

impl<W: Write> Table<W> {
    /// A table of `schema` on `writer`.
    pub(crate) fn new(writer: W, schema: SchemaRef) -> Self {
        Self { writer, schema, held: Vec::new(), widths: None }
    }

    /// Adds rows; they are written as soon as the widths are known.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        if self.widths.is_some() {
            return self.rows(batch);
        }
        self.held.push(batch.clone());
        if self.held.iter().map(RecordBatch::num_rows).sum::<usize>() >= SAMPLE_ROWS {
            self.begin()?;
        }
        Ok(())
    }

    /// Writes what is held back, and the last line.
    pub(crate) fn finish(&mut self) -> Result<(), ArrowError> {
        if self.widths.is_none() {
            self.begin()?;
        }
        self.rule()?;
        Ok(self.writer.flush()?)
    }

    fn begin(&mut self) -> Result<(), ArrowError> {
        let held = std::mem::take(&mut self.held);
        self.widths = Some(measure(&self.schema, &held)?);
        self.rule()?;
        let names: Vec<String> = self.schema.fields().iter().map(|field| visible(field.name())).collect();
        self.row(&names, false)?;
        self.rule()?;
        held.iter().try_for_each(|batch| self.rows(batch))
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let formatters = formatters(batch)?;
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = formatters.iter().map(|f| visible(&f.value(row).to_string())).collect();
            self.row(&cells, true)?;
        }
        Ok(self.writer.flush()?)
    }

    /// Writes one row, which is as many lines high as its highest cell.
    fn row(&mut self, cells: &[String], is_data: bool) -> Result<(), ArrowError> {
        let Some(widths) = self.widths.as_ref().filter(|widths| !widths.is_empty()) else { return Ok(()) };
        let cells: Vec<Vec<&str>> = cells.iter().map(|cell| cell.split('\n').collect()).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let mut text = String::new();
        for line in 0..height {
            for ((cell, &width), field) in cells.iter().zip(widths).zip(self.schema.fields()) {
                let part = cell.get(line).copied().unwrap_or("");
                let right = is_data && field.data_type().is_numeric();
                text.push_str("| ");
                pad(&mut text, part, width, right);
                text.push(' ');
            }
            text.push_str("|\n");
        }
        Ok(self.writer.write_all(text.as_bytes())?)
    }

    fn rule(&mut self) -> Result<(), ArrowError> {
        let Some(widths) = self.widths.as_ref().filter(|widths| !widths.is_empty()) else { return Ok(()) };
        let mut text = String::new();
        for width in widths {
            text.push('+');
            text.push_str(&"-".repeat(width + 2));
        }
        text.push_str("+\n");
        Ok(self.writer.write_all(text.as_bytes())?)
    }
}

/// The first row of `batch` in one line, for summaries.
pub(crate) fn first_row(batch: &RecordBatch) -> Result<String, ArrowError> {
    let formatters = formatters(batch)?;
    let cells: Vec<String> = formatters.iter().map(|f| visible(&f.value(0).to_string()).replace('\n', " ")).collect();
    Ok(cells.join(" | "))
}

pub(crate) fn formatters(batch: &RecordBatch) -> Result<Vec<ArrayFormatter<'_>>, ArrowError> {
    batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &OPTIONS)).collect()
}

fn measure(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<usize>, ArrowError> {
    let mut widths: Vec<usize> = schema.fields().iter().map(|field| width(&visible(field.name()))).collect();
    for batch in batches {
        for (formatter, widest) in formatters(batch)?.iter().zip(&mut widths) {
            for row in 0..batch.num_rows() {
                *widest = (*widest).max(width(&visible(&formatter.value(row).to_string())));
            }
        }
    }
    Ok(widths)
}

fn width(text: &str) -> usize {
    text.split('\n').map(|line| line.chars().count()).max().unwrap_or(0)
}

fn pad(line: &mut String, text: &str, width: usize, right: bool) {
    let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
    if right {
        line.push_str(&blanks);
    }
    line.push_str(text);
    if !right {
        line.push_str(&blanks);
    }
}

/// `text` with its control characters, other than line ends, escaped.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(numbers: Vec<Option<i64>>, texts: Vec<Option<&str>>) -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from(numbers))), ("text", Arc::new(StringArray::from(texts)))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn print(schema: SchemaRef, batches: &[RecordBatch]) -> String {
        let mut bytes = Vec::new();
        let mut table = Table::new(&mut bytes, schema);
        for batch in batches {
            table.write(batch).unwrap();
        }
        table.finish().unwrap();
        drop(table);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn widths_fit_all_rows_of_a_short_result() {
        let first = batch(vec![Some(1)], vec![Some("a")]);
        let second = batch(vec![Some(200), None], vec![Some("longer"), None]);
        let expected = "\
+------+--------+
| n    | text   |
+------+--------+
|    1 | a      |
|  200 | longer |
| NULL | NULL   |
+------+--------+
";
        assert_eq!(print(first.schema(), &[first, second]), expected);
    }

    #[test]
    fn lines_within_a_value_are_lines_of_the_table() {
        let plan = batch(vec![Some(1)], vec![Some("Scan\n  Filter")]);
        let text = print(plan.schema(), &[plan]);
        assert!(text.contains("| 1 | Scan     |\n|   |   Filter |\n"), "{text}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(visible("a\u{1b}[31mb\tc\nd"), "a\\u{1b}[31mb\\tc\nd");
    }

    #[test]
    fn an_empty_result_shows_its_columns() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
        assert_eq!(print(schema, &[]), "+---+\n| a |\n+---+\n+---+\n");
    }

    #[test]
    fn a_result_without_columns_prints_nothing() {
        assert_eq!(print(Arc::new(Schema::empty()), &[]), "");
    }

    #[test]
    fn a_late_wide_value_is_not_cut() {
        let many = batch(vec![Some(1); SAMPLE_ROWS], vec![Some("x"); SAMPLE_ROWS]);
        let late = batch(vec![Some(2)], vec![Some("much wider than the column")]);
        assert!(print(many.schema(), &[many, late]).contains("much wider than the column"));
    }

    #[test]
    fn a_first_row_is_one_line() {
        assert_eq!(first_row(&batch(vec![Some(1)], vec![Some("a\nb")])).unwrap(), "1 | a b");
    }
}
