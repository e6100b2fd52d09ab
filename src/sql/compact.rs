//! Sorted rows that hold on to no more memory than they need.
//!
//! A batch that a sort merged from many has views into the texts of them all, and keeps every one of those: what merges
//! such batches again counts, and holds, many times what they are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::Transformed;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

use super::passing::{Passes, Passing};

/// How many times what it shows a batch may hold before it is copied.
const WASTE: usize = 2;
/// Bytes that are not worth it.
const LITTLE: usize = 64 << 10;

/// Puts [`CompactExec`] above every sort of texts.
pub(super) fn compact_sorts(
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>, DataFusionError> {
    let has_views = || plan.schema().fields().iter().any(|field| is_view(field.data_type()));
    match plan.is::<SortExec>() && has_views() {
        true => Ok(Transformed::yes(Arc::new(CompactExec::new(plan)) as _)),
        false => Ok(Transformed::no(plan)),
    }
}

fn is_view(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8View | DataType::BinaryView)
}

/// See the module.
pub(crate) type CompactExec = Passes<Compact>;

#[derive(Debug)]
pub(crate) struct Compact;

impl Passing for Compact {
    const NAME: &'static str = "CompactExec";

    fn pass(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let compact = rows.and_then(|batch| std::future::ready(compacted(&batch)));
        Box::pin(RecordBatchStreamAdapter::new(schema, compact))
    }
}

/// The same rows; texts of which little is seen are copied.
pub(super) fn compacted(batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let columns = batch.columns().iter().map(compact).collect();
    // There may be no column to count them by.
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &rows)?)
}

/// The same values; texts of which little is seen are copied.
pub(super) fn compact(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => own(column.as_byte_view::<StringViewType>(), column),
        DataType::BinaryView => own(column.as_byte_view::<BinaryViewType>(), column),
        _ => Arc::clone(column),
    }
}

fn own<T: ByteViewType>(views: &GenericByteViewArray<T>, column: &ArrayRef) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.capacity()).sum();
    match held > views.total_buffer_bytes_used() * WASTE + LITTLE {
        true => Arc::new(views.gc()),
        false => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::compute::interleave_record_batch;

    use super::*;

    #[test]
    fn a_batch_that_was_merged_from_many_holds_its_own_texts_only() {
        let part = |of: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1000).map(|i| i * 100 + of)));
            let texts =
                (0..1000).map(|i| (i % 7 != 0).then(|| format!("{of} is the number of this part, and {i} of this")));
            let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts));
            RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
        };
        let parts: Vec<RecordBatch> = (0..50).map(part).collect();
        let rows: Vec<(usize, usize)> = (0..1000).map(|i| (i % 50, i / 50)).collect();
        let merged = interleave_record_batch(&parts.iter().collect::<Vec<_>>(), &rows).unwrap();
        let compact = compacted(&merged).unwrap();
        assert_eq!(compact, merged);
        let (before, after) = (merged.get_array_memory_size(), compact.get_array_memory_size());
        assert!(after * 10 < before, "{before} became {after}");
        // What holds little more than it shows is left alone.
        let same = compacted(&compact).unwrap();
        let buffer = |batch: &RecordBatch| batch.column(1).as_string_view().data_buffers()[0].as_ptr();
        assert_eq!(buffer(&same), buffer(&compact));
    }
}
