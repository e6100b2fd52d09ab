//! How a scan opens cells: what their footers say, page indexes included, is read once and kept.
//!
//! DataFusion's reader asks for the footer alone and, where a filter may use it, reads the page index again with every
//! piece of a file: another request, and the parsing of the whole file's index, for each.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::DataFusionError;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetRowSelection};
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerPlanRewriteHandler};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::Type;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::schema::types::Type as ParquetType;

use super::deleted::{file_columns, noted_files};
use super::distribution::file_scan;
use super::shared_scan::SharedScanExec;
use super::watched_files::watched;
use crate::Error;
use crate::storage::file_columns::FileColumns;
use crate::storage::ledger::ROOT_URL;

/// Makes readers of cells; see the module.
#[derive(Debug)]
pub(crate) struct CellReaderFactory {
    readers: CachedParquetFileReaderFactory,
    columns: SchemaRef,
    file_columns: Option<Arc<FileColumns>>,
}

impl CellReaderFactory {
    /// Reads the meadow of `runtime`, cells that must have the columns of `table`.
    pub(crate) fn new(runtime: &RuntimeEnv, table: &TableSchema) -> Result<Arc<Self>, DataFusionError> {
        let store = runtime.object_store(&ObjectStoreUrl::parse(ROOT_URL)?)?;
        let footers = runtime.cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(store, footers);
        let file_columns = file_columns(table)?.map(Arc::new);
        Ok(Arc::new(Self { readers, columns: Arc::clone(table.file_schema()), file_columns }))
    }
}

/// Makes a task's plan, which travelled without it, read cells this way.
pub struct ReadCells(pub Arc<RuntimeEnv>);

impl WorkerPlanRewriteHandler for ReadCells {
    fn rewrite_worker_plan(
        &self,
        event: WorkerPlanRewriteEvent<'_>,
    ) -> Result<WorkerPlanRewriteEventResponse, DataFusionError> {
        let plan = event.plan.transform_up(|node| {
            let reading = match node.downcast_ref::<SharedScanExec>() {
                Some(shared) => reading(shared.scan(), &self.0)?.map(|scan| Arc::new(shared.over(scan)) as _),
                None => reading(&node, &self.0)?,
            };
            Ok(reading.map_or_else(|| Transformed::no(node), Transformed::yes))
        })?;
        Ok(WorkerPlanRewriteEventResponse::new(plan.data))
    }
}

/// `plan` as it was before it travelled: with readers of its own, and without the rows that do not count, if it scans cells.
fn reading(
    plan: &Arc<dyn ExecutionPlan>,
    runtime: &RuntimeEnv,
) -> Result<Option<Arc<dyn ExecutionPlan>>, DataFusionError> {
    if let Some(watched) = watched(plan) {
        return Ok(Some(watched));
    }
    let Some(scan) = file_scan(plan).filter(|scan| scan.object_store_url.as_str() == ROOT_URL) else { return Ok(None) };
    let Some(source) = scan.file_source.downcast_ref::<ParquetSource>() else { return Ok(None) };
    let factory = CellReaderFactory::new(runtime, scan.file_source.table_schema())?;
    let source = source.clone().with_parquet_file_reader_factory(factory);
    let mut reading = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source));
    if let Some(files) = noted_files(scan)? {
        reading = reading.with_file_groups(files);
    }
    Ok(Some(DataSourceExec::from_data_source(reading.build())))
}

impl ParquetFileReaderFactory for CellReaderFactory {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let rows = file.statistics.as_ref().and_then(|s| match s.num_rows {
            Precision::Exact(rows) => Some(rows),
            _ => None,
        });
        // Where rows are deleted, those that are left were counted.
        let is_marked = file.extensions.get::<ParquetRowSelection>().is_some();
        let (path, expected) = (file.object_meta.location.clone(), rows.filter(|_| !is_marked));
        let (columns, file_columns) = (Arc::clone(&self.columns), self.file_columns.clone());
        let reader = self.readers.create_reader(partition, file, metadata_size_hint, metrics)?;
        Ok(Box::new(CellReader { reader, path, expected, columns, file_columns }))
    }
}

/// A footer that says nothing of the bounds of floats. Parquet leaves NaN out of them, which is greater than all numbers
/// here: `x > 3` would not find it. The ledger's bounds, by which cells are left out, have it.
fn without_float_bounds(footer: Arc<ParquetMetaData>) -> Arc<ParquetMetaData> {
    let is_float = |column: &ColumnChunkMetaData| {
        matches!(column.column_type(), Type::FLOAT | Type::DOUBLE) && column.statistics().is_some()
    };
    if !footer.row_groups().iter().any(|group| group.columns().iter().any(is_float)) {
        return footer;
    }
    let mut stripped = footer.as_ref().clone().into_builder();
    let mut index = stripped.take_column_index();
    for (at, mut group) in stripped.take_row_groups().into_iter().map(RowGroupMetaData::into_builder).enumerate() {
        let columns = group.take_columns().into_iter().enumerate().map(|(number, column)| {
            if !is_float(&column) {
                return column;
            }
            if let Some(page) = index.as_mut().and_then(|index| index.get_mut(at)?.get_mut(number)) {
                *page = ColumnIndexMetaData::NONE;
            }
            // Clearing changes nothing else: what was whole before can be built again.
            column.clone().into_builder().clear_statistics().build().unwrap_or(column)
        });
        let columns = columns.collect();
        if let Ok(group) = group.set_column_metadata(columns).build() {
            stripped = stripped.add_row_group(group);
        }
    }
    Arc::new(stripped.set_column_index(index).build())
}

struct CellReader {
    reader: Box<dyn AsyncFileReader + Send>,
    path: Path,
    /// How many rows the ledger says it has.
    expected: Option<usize>,
    /// Those of the frame that are in cells.
    columns: SchemaRef,
    /// How they are found in it.
    file_columns: Option<Arc<FileColumns>>,
}

/// How DataFusion names, in a text, what the store said.
const OF_STORE: &str = "Object Store error";
/// What the store says of a file that ends before what is asked for.
const TOO_SHORT: &str = "Requested range was invalid";
/// What can be done about a cell that is not as it was written.
const REMEDY: &str =
    "put the file back from a copy, RESTORE a version without it, or SET leave_out_cells to its name and read the rest";

impl CellReader {
    /// A footer that agrees with the ledger, whose numbers queries rely on.
    fn checked(&self, footer: Arc<ParquetMetaData>) -> ParquetResult<Arc<ParquetMetaData>> {
        let footer = match &self.file_columns {
            Some(columns) => {
                let renamed = columns.renamed(&footer).map_err(|error| error.context(format!("cell {}", self.path)));
                Arc::new(renamed.map_err(|error| ParquetError::External(Box::new(error)))?)
            }
            None => footer,
        };
        match self.unlike(footer.file_metadata()) {
            Some(what) => Err(ParquetError::External(Box::new(Error::corrupt(format!(
                "cell {} {what}: it is not the file that was written; {REMEDY}",
                self.path
            ))))),
            None => Ok(without_float_bounds(footer)),
        }
    }

    /// What shows that it is another file than the ledger lists. Columns may have been added since it was written, which are null
    /// in its rows, and types may have become wider.
    fn unlike(&self, found: &FileMetaData) -> Option<String> {
        let (rows, expected) = (found.num_rows(), self.expected?);
        if i64::try_from(expected).ok() != Some(rows) {
            return Some(format!("has {rows} rows, and the ledger says {expected}"));
        }
        let columns = found.schema_descr().root_schema().get_fields().iter();
        let columns: HashMap<_, _> = columns.map(|column| (column.name(), column)).collect();
        self.columns.fields().iter().filter(|_| rows > 0).find_map(|wanted| {
            let (name, data_type) = (wanted.name(), wanted.data_type());
            match columns.get(name.as_str()) {
                None if !wanted.is_nullable() => Some(format!("has no column '{name}', which takes no nulls")),
                Some(column) if !may_be(column, data_type) => {
                    let kind =
                        if column.is_group() { "rows".into() } else { format!("{:?}", column.get_physical_type()) };
                    Some(format!("has {kind} in column '{name}', and the frame has {data_type}"))
                }
                _ => None,
            }
        })
    }

    /// The error with the cell's name, unless it is about the way to it.
    fn named(&self, error: ParquetError) -> ParquetError {
        let text = error.to_string();
        let of_store = text.contains(OF_STORE) || matches!(&error, ParquetError::External(_));
        let said = if of_store && text.contains("not found") {
            Error::not_found(format!("cell {} is not there, though the ledger lists it: {REMEDY}", self.path))
        } else if of_store && !text.contains(TOO_SHORT) {
            match error {
                ParquetError::External(_) => return error,
                other => Error::storage(format!("cell {}: {other}", self.path)),
            }
        } else {
            Error::corrupt(format!("cell {} is damaged ({text}): {REMEDY}", self.path))
        };
        ParquetError::External(Box::new(said))
    }
}

/// Whether a column of a cell can hold values of a type, or such that widen to it.
fn may_be(column: &ParquetType, wanted: &DataType) -> bool {
    if column.is_group() || wanted.is_nested() {
        return wanted.is_nested();
    }
    let is_bytes = wanted.is_string() || wanted.is_binary();
    match column.get_physical_type() {
        Type::BOOLEAN => *wanted == DataType::Boolean,
        Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => is_bytes || wanted.is_decimal(),
        _ => !is_bytes && *wanted != DataType::Boolean,
    }
}

impl AsyncFileReader for CellReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        // Without options the page index comes with the footer, and both are kept.
        async {
            // Lengths in a damaged footer can be such that reading by them panics.
            let read = AssertUnwindSafe(self.reader.get_metadata(None)).catch_unwind().await;
            let footer =
                read.unwrap_or_else(|_| Err(ParquetError::General("its footer has impossible lengths".into())));
            self.checked(footer.map_err(|error| self.named(error))?)
        }
        .boxed()
    }
}
