//! Whether what the ledger says of cells is so: one query over them, and a look at its answer.

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;

use super::row_change::{CELL, TARGET, quoted};
use crate::storage::{Cells, Finding, FrameState, Problem};
use crate::{Error, Result};

/// Columns that one query looks at: their batches are in memory together.
const COLUMNS: usize = 64;

/// What is looked at by one query: some columns of a version.
pub struct Inspection<'a> {
    state: &'a FrameState,
    cells: &'a Cells,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    /// Whether the ledger has bounds of it.
    bounded: bool,
}

impl<'a> Inspection<'a> {
    /// Inspections that together look at every value of a version.
    pub fn all(state: &'a FrameState, cells: &'a Cells) -> Vec<Self> {
        let column = |field: &arrow::datatypes::FieldRef| {
            let in_cells = state.name_in_cells(field.name());
            let bounded = !field.data_type().is_nested() && *field.data_type() != DataType::Boolean;
            Column { name: field.name().clone(), bounded: bounded && cells.statistic("minValues", in_cells).is_some() }
        };
        let mut columns: Vec<Column> = state.schema.fields().iter().map(column).collect();
        let mut inspections = Vec::new();
        while !columns.is_empty() {
            let rest = columns.split_off(COLUMNS.min(columns.len()));
            inspections.push(Self { state, cells, columns: std::mem::replace(&mut columns, rest) });
        }
        inspections
    }

    /// The query: a row for each cell that has rows.
    pub fn sql(&self) -> String {
        let aggregates = self.columns.iter().enumerate().map(|(at, column)| {
            let name = quoted(&column.name);
            let bounds =
                if column.bounded { format!(", min({name}) AS a{at}, max({name}) AS b{at}") } else { String::new() };
            format!(", count({name}) AS n{at}{bounds}")
        });
        let cell = quoted(CELL);
        let aggregates: String = aggregates.collect();
        format!("SELECT {cell} AS cell, count(*) AS rows{aggregates} FROM {} GROUP BY {cell}", quoted(TARGET))
    }

    /// Compares the answer with the ledger, for the cells that were read.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when it is not the answer of [`Inspection::sql`].
    pub fn compare(&self, read: &[usize], answer: &[RecordBatch]) -> Result<Vec<Finding>> {
        let (mut findings, mut seen) = (Vec::new(), vec![false; self.cells.len()]);
        for batch in answer {
            let (cells, rows) = (numbers(batch, "cell")?, numbers(batch, "rows")?);
            let counts = (0..self.columns.len()).map(|at| numbers(batch, &format!("n{at}")));
            let counts = counts.collect::<Result<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                let cell = usize::try_from(cells[row]).ok().filter(|cell| *cell < seen.len());
                let cell = cell.ok_or_else(|| Error::internal(format!("there is no cell {}", cells[row])))?;
                seen[cell] = true;
                self.compare_rows(cell, rows[row], &mut findings);
                for (at, column) in self.columns.iter().enumerate() {
                    self.compare_nulls(cell, column, rows[row] - counts[at][row], &mut findings);
                    if column.bounded {
                        self.compare_bounds(cell, column, (batch, at, row), &mut findings)?;
                    }
                }
            }
        }
        for cell in read.iter().filter(|cell| !seen[**cell]) {
            self.compare_rows(*cell, 0, &mut findings);
        }
        Ok(findings)
    }

    fn compare_rows(&self, cell: usize, rows: i64, findings: &mut Vec<Finding>) {
        if let Some(said) = self.cells.rows(cell).filter(|said| *said != rows as u64) {
            let detail = format!("the ledger says {said} rows, and there are {rows}");
            findings.push(Finding::new(self.cells.path(cell), Problem::Statistics, detail));
        }
    }

    fn compare_nulls(&self, cell: usize, column: &Column, nulls: i64, findings: &mut Vec<Finding>) {
        // Of a cell with deleted rows, the ledger counts those, too.
        if self.cells.deleted(cell).is_some() {
            return;
        }
        let counts = self.cells.statistic("nullCount", self.state.name_in_cells(&column.name));
        let counts = counts.as_ref().and_then(|counts| counts.as_primitive_opt::<Int64Type>());
        let said = counts.filter(|counts| counts.is_valid(cell)).map(|counts| counts.value(cell));
        if let Some(said) = said.filter(|said| *said != nulls) {
            let detail = format!("column '{}': the ledger says {said} nulls, and there are {nulls}", column.name);
            findings.push(Finding::new(self.cells.path(cell), Problem::Statistics, detail));
        }
    }

    fn compare_bounds(
        &self,
        cell: usize,
        column: &Column,
        (batch, at, row): (&RecordBatch, usize, usize),
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        for (which, found, wrong, word) in [
            ("minValues", format!("a{at}"), Ordering::Less, "least"),
            ("maxValues", format!("b{at}"), Ordering::Greater, "greatest"),
        ] {
            let said = self.cells.statistic(which, self.state.name_in_cells(&column.name));
            let Some(said) = said.filter(|said| said.is_valid(cell)) else { continue };
            let found = batch.column_by_name(&found).ok_or_else(|| Error::internal(format!("no column {found}")))?;
            if found.is_null(row) {
                continue;
            }
            let found = cast(&found.slice(row, 1), said.data_type())?;
            let order = ScalarValue::try_from_array(&found, 0)?.partial_cmp(&ScalarValue::try_from_array(&said, cell)?);
            if order == Some(wrong) {
                let detail = format!(
                    "column '{}': the ledger says that {} is the {word} value, and there is {}",
                    column.name,
                    array_value_to_string(&said, cell)?,
                    array_value_to_string(&found, 0)?
                );
                findings.push(Finding::new(self.cells.path(cell), Problem::Statistics, detail));
            }
        }
        Ok(())
    }
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::internal(format!("no column {name}")))?;
    let column = cast(column, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().values().to_vec())
}
