//! Which cells a filter can leave out, by the statistics in the ledger and the partition values. No cell is opened.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

use crate::storage::{Cells, FrameState};

/// The cells that `predicate` may match, in order; all of them when the filter says nothing about them.
pub(crate) fn matching_cells(
    frame: &FrameState,
    cells: &Cells,
    schema: &SchemaRef,
    predicate: &Arc<dyn PhysicalExpr>,
) -> Vec<usize> {
    let all = || (0..cells.len()).collect();
    // A filter that cannot be turned into bounds prunes nothing: it is evaluated on the rows all the same.
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
    let Ok(pruning) = builder.try_build(Arc::clone(predicate)) else { return all() };
    match pruning.prune(&CellStatistics { frame, cells }) {
        Ok(keep) => keep.iter().enumerate().filter_map(|(index, keep)| keep.then_some(index)).collect(),
        Err(error) => {
            tracing::debug!(%error, "a filter could not be checked against the cells' statistics");
            all()
        }
    }
}

struct CellStatistics<'a> {
    frame: &'a FrameState,
    cells: &'a Cells,
}

impl CellStatistics<'_> {
    fn bound(&self, which: &str, column: &Column) -> Option<ArrayRef> {
        let name = self.frame.name_in_cells(&column.name);
        match self.frame.partition_by.contains(&column.name) {
            true => self.cells.partition_values(name),
            false => self.cells.statistic(which, name),
        }
    }
}

impl PruningStatistics for CellStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound("minValues", column)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound("maxValues", column)
    }

    fn num_containers(&self) -> usize {
        self.cells.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        if self.frame.partition_by.contains(&column.name) {
            let values = self.bound("minValues", column)?;
            // Without a count of rows, one is as good as any.
            let nulls = |cell: usize| if values.is_null(cell) { self.cells.rows_written(cell).unwrap_or(1) } else { 0 };
            return Some(Arc::new(UInt64Array::from_iter_values((0..self.cells.len()).map(nulls))));
        }
        let counts = self.cells.statistic("nullCount", self.frame.name_in_cells(&column.name))?;
        arrow::compute::cast(&counts, &arrow::datatypes::DataType::UInt64).ok()
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        // Null counts are of all rows that were written, and "all are null" is told from both.
        let counts = (0..self.cells.len()).map(|index| self.cells.rows_written(index));
        Some(Arc::new(UInt64Array::from_iter(counts)))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
