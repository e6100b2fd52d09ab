//! One version of a frame as a DataFusion table.
//!
//! A scan names the cells that the filters may match, with their row counts, bounds and null counts from the ledger, so
//! that planning opens no cell: joins are ordered, `count(*)` is answered and limits are cut from the ledger alone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, DataFusionError, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use object_store::ObjectMeta;
use parquet::arrow::RowNumber;

use super::cell_reader::CellReaderFactory;
use super::deleted::{mark, marks, noted};
use super::pruning::matching_cells;
use crate::Error;
use crate::storage::Cells;
use crate::storage::FrameState;
use crate::storage::ledger::ROOT_URL;
use crate::sync::lock;

/// A frame's version with its cells listed.
#[derive(Debug)]
pub(crate) struct FrameTable {
    state: Arc<FrameState>,
    cells: Arc<Cells>,
    schema: SchemaRef,
    /// Columns that a scan's files do not hold: one value for a whole cell.
    parts: Vec<String>,
    /// The cells that are there for it, in order; all when it is `None`.
    only: Option<Arc<Vec<usize>>>,
    /// Whether the last column numbers the rows of each cell.
    rows_numbered: bool,
    /// How many are not because a session said so.
    left_out: usize,
    notes: Arc<ScanNotes>,
}

/// What one scan left out and why.
#[derive(Debug, Clone)]
pub struct ScanNote {
    /// The frame, `hive.box.frame`.
    pub frame: String,
    /// The version that is read.
    pub version: u64,
    /// Cells of that version.
    pub cells: usize,
    /// Cells that are read.
    pub read: usize,
    /// Cells that `leave_out_cells` keeps out.
    pub left_out: usize,
    /// Bytes of the cells that are read, whole.
    pub bytes: u64,
    /// The filters that were checked against the ledger's statistics.
    pub filter: Option<String>,
}

/// Bytes in memory of a text or another value without a fixed width: its view and, now and then, what is behind it.
pub(super) const TEXT_WIDTH: usize = 24;

/// Most cells whose bounds are looked at to choose between plans.
const MAX_ESTIMATED: usize = 256;

/// The notes of all scans of one query.
#[derive(Debug, Default)]
pub struct ScanNotes(Mutex<Vec<ScanNote>>);

impl ScanNotes {
    /// The notes so far.
    pub fn all(&self) -> Vec<ScanNote> {
        lock(&self.0).clone()
    }

    /// Forgets them: the query is planned again.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    fn add(&self, note: ScanNote) {
        lock(&self.0).push(note);
    }
}

impl fmt::Display for ScanNotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in self.all() {
            write!(
                f,
                "{} version {}: {} of {} cells read, {} bytes",
                note.frame, note.version, note.read, note.cells, note.bytes
            )?;
            if note.left_out > 0 {
                write!(f, "; {} left out by leave_out_cells", note.left_out)?;
            }
            match &note.filter {
                Some(filter) => {
                    writeln!(f, "; {} pruned by the ledger's statistics for {filter}", note.cells - note.read)?
                }
                None => writeln!(f, "; no filter reaches the scan")?,
            }
        }
        Ok(())
    }
}

impl FrameTable {
    pub(crate) fn new(state: Arc<FrameState>, cells: Arc<Cells>, notes: Arc<ScanNotes>) -> Self {
        let (schema, parts) = (view_schema(&state.schema), state.partition_by.clone());
        Self { state, cells, schema, parts, only: None, rows_numbered: false, left_out: 0, notes }
    }

    /// Without the cells whose files have these names.
    pub(crate) fn without(mut self, names: &BTreeSet<String>) -> Self {
        let is_kept = |index: &usize| !self.cells.path(*index).filename().is_some_and(|name| names.contains(name));
        if !names.is_empty() {
            let kept: Vec<usize> = (0..self.cells.len()).filter(is_kept).collect();
            self.left_out = self.cells.len() - kept.len();
            self.only = Some(Arc::new(kept));
        }
        self
    }

    /// Only these cells, with one more column, `name`, that says which of the version's cells a row is in.
    pub(crate) fn numbered(mut self, name: &str, only: Option<Arc<Vec<usize>>>) -> Self {
        let number = Arc::new(Field::new(name, DataType::Int64, false));
        self.schema = Arc::new(Schema::new(self.schema.fields().iter().cloned().chain([number]).collect::<Vec<_>>()));
        self.parts.push(name.to_string());
        self.only = only;
        self
    }

    /// With a column called `name` behind the others that numbers the rows of each cell, deleted ones included. A plan that
    /// reads it cannot travel: such columns are left out of what is sent.
    pub(crate) fn with_row_numbers(mut self, name: &str) -> Self {
        let number = Field::new(name, DataType::Int64, false).with_extension_type(RowNumber);
        let fields = self.schema.fields().iter().cloned().chain([Arc::new(number)]);
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self.rows_numbered = true;
        self
    }

    /// The column that numbers the rows of each cell, if it has one.
    fn row_number(&self) -> Option<usize> {
        self.rows_numbered.then(|| self.schema.fields().len() - 1)
    }

    /// Rows of all cells, if the ledger says of all.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.cells.rows_of(self.all())
    }

    /// What the ledger says of the rows and of these columns, by their place in the schema; nothing of the others. Of many
    /// cells the bounds are those of some: they serve to choose between plans.
    pub(crate) fn estimates(&self, columns: &[usize]) -> Option<Statistics> {
        let mut all = Statistics::new_unknown(&self.schema);
        all.num_rows = Precision::Inexact(usize::try_from(self.rows()?).ok()?);
        if columns.is_empty() {
            return Some(all);
        }
        let (cells, part) = (self.all(), self.schema.project(columns).ok()?);
        let some = cells.iter().step_by(cells.len() / MAX_ESTIMATED + 1);
        let some: Vec<Statistics> = some.map(|index| self.cell_statistics(*index, columns)).collect();
        let merged = Statistics::try_merge_iter(&some, &part).ok()?;
        for (column, statistics) in columns.iter().zip(merged.column_statistics) {
            all.column_statistics[*column] = statistics;
        }
        Some(all)
    }

    /// The cells that a scan may read.
    fn all(&self) -> Vec<usize> {
        (0..self.cells.len()).filter(|index| self.may_read(*index)).collect()
    }

    fn may_read(&self, index: usize) -> bool {
        // One whose rows are all deleted would still have a partition's value among those of the rest.
        let is_empty = self.cells.deleted(index).is_some() && self.cells.rows(index) == Some(0);
        !is_empty && self.only.as_ref().is_none_or(|only| only.binary_search(&index).is_ok())
    }

    /// The frame's version.
    pub(crate) fn state(&self) -> &Arc<FrameState> {
        &self.state
    }

    /// The order in which a scan's files give columns: those in the cells, then the partition columns. Numbers of rows come
    /// last of all.
    fn file_order(&self) -> Vec<usize> {
        let partition = |index: &usize| self.parts.contains(self.schema.field(*index).name());
        let all = 0..self.row_number().unwrap_or(self.schema.fields().len());
        let (parts, data): (Vec<_>, Vec<_>) = all.partition(partition);
        // Partition columns in the order the ledger lists their values.
        let ordered = self.parts.iter().filter_map(|name| self.schema.index_of(name).ok());
        debug_assert_eq!(parts.len(), self.parts.len());
        data.into_iter().chain(ordered).collect()
    }

    /// A scan's columns, as the cells call them; behind those of `order` come the marks of deleted rows, if there are any.
    fn table_schema(&self, order: &[usize]) -> Result<TableSchema, DataFusionError> {
        let (data, parts) = order.split_at(order.len() - self.parts.len());
        let field = |index: &usize| {
            let field = self.schema.field(*index);
            Arc::new(field.clone().with_name(self.state.name_in_cells(field.name())))
        };
        let marks = self.has_marks().then(|| marks(self.state.file_columns()).map(Arc::new)).transpose()?;
        Ok(TableSchema::builder(Arc::new(Schema::new(data.iter().map(field).collect::<Vec<_>>())))
            .with_table_partition_cols(parts.iter().map(field).chain(marks).collect::<Vec<_>>())
            .with_virtual_columns(self.row_number().iter().map(field).collect::<Vec<_>>())
            .build())
    }

    /// Whether its files have one more column of marks.
    fn has_marks(&self) -> bool {
        self.cells.has_deleted_rows() || self.state.file_columns().is_some()
    }

    fn file(&self, index: usize, order: &[usize]) -> Result<PartitionedFile, DataFusionError> {
        let modified = chrono::DateTime::from_timestamp_millis(self.cells.modified_ms(index)).unwrap_or_default();
        let meta = ObjectMeta {
            location: self.cells.path(index).clone(),
            last_modified: modified,
            size: self.cells.bytes(index),
            e_tag: None,
            version: None,
        };
        let values = self.parts.iter().map(|column| self.partition_value(column, index));
        let mut values = values.collect::<Result<Vec<_>, _>>()?;
        let mut file = PartitionedFile::new_from_meta(meta);
        if self.has_marks() {
            let mark = mark(self.cells.deleted(index), self.cells.rows_written(index).unwrap_or(0));
            file = noted(file, &mark)?;
            values.push(mark);
        }
        let data = &order[..order.len() - self.parts.len()];
        let statistics = self.cell_statistics(index, data);
        let nulls: Vec<bool> = values.iter().map(ScalarValue::is_null).collect();
        let mut file = file.with_partition_values(values).with_statistics(Arc::new(statistics));
        // The engine counts no nulls there.
        if let Some(statistics) = file.statistics.as_mut().map(Arc::make_mut).filter(|_| nulls.contains(&true)) {
            for (column, _) in nulls.iter().enumerate().filter(|(_, is_null)| **is_null) {
                statistics.column_statistics[data.len() + column] =
                    ColumnStatistics { null_count: statistics.num_rows, ..ColumnStatistics::new_unknown() };
            }
        }
        if let Some(statistics) = file.statistics.as_mut().map(Arc::make_mut).filter(|_| self.rows_numbered) {
            statistics.column_statistics.push(ColumnStatistics::new_unknown());
        }
        Ok(file)
    }

    fn partition_value(&self, column: &str, index: usize) -> Result<ScalarValue, DataFusionError> {
        if !self.state.partition_by.iter().any(|name| name == column) {
            return Ok(ScalarValue::Int64(Some(index as i64)));
        }
        let wanted = self.schema.field_with_name(column)?.data_type();
        let values = self.cells.partition_values(self.state.name_in_cells(column)).ok_or_else(|| {
            Error::corrupt(format!("the ledger of {} gives no value for partition column '{column}'", self.state.frame))
        })?;
        ScalarValue::try_from_array(&values, index)?.cast_to(wanted)
    }

    fn cell_statistics(&self, index: usize, data: &[usize]) -> Statistics {
        let rows = self.cells.rows(index).map_or(Precision::Absent, |n| Precision::Exact(n as usize));
        let columns = data.iter().map(|column| self.column_statistics(index, self.schema.field(*column), &rows));
        Statistics {
            num_rows: rows,
            total_byte_size: Precision::Inexact(self.cells.bytes(index) as usize),
            column_statistics: columns.collect(),
        }
    }

    fn column_statistics(&self, index: usize, field: &Field, rows: &Precision<usize>) -> ColumnStatistics {
        let name = self.state.name_in_cells(field.name());
        let is_whole = self.cells.deleted(index).is_none() && self.cells.is_tight(index);
        let bound = |which: &str| {
            // Columns within others have other names there.
            let known = !(field.data_type().is_nested() && self.state.file_columns().is_some());
            let value = self.cells.statistic(which, name).filter(|array| known && array.is_valid(index));
            let value = value
                .and_then(|array| ScalarValue::try_from_array(&array, index).ok()?.cast_to(field.data_type()).ok());
            match value {
                Some(value) if is_whole && is_exact(field.data_type()) => Precision::Exact(value),
                Some(value) => Precision::Inexact(value),
                None => Precision::Absent,
            }
        };
        let width = field.data_type().primitive_width();
        ColumnStatistics {
            null_count: if is_whole { self.null_count(index, name) } else { Precision::Absent },
            min_value: bound("minValues"),
            max_value: bound("maxValues"),
            byte_size: width.map_or(Precision::Absent, |width| rows.multiply(&Precision::Exact(width))),
            ..ColumnStatistics::new_unknown()
        }
    }

    fn null_count(&self, index: usize, column: &str) -> Precision<usize> {
        let counts = self.cells.statistic("nullCount", column);
        let count = counts.as_ref().and_then(|c| c.as_primitive_opt::<Int64Type>()).filter(|c| c.is_valid(index));
        count.map_or(Precision::Absent, |c| Precision::Exact(c.value(index).max(0) as usize))
    }

    fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>, DataFusionError> {
        let Some(filter) = conjunction(filters.to_vec()) else { return Ok(None) };
        let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
        state.create_physical_expr(filter, &schema).map(Some)
    }

    /// Bytes in memory of these columns. Of the whole cells' bytes the planner would think a few columns of a wide frame
    /// too large for a hash table on every bee.
    fn bytes_of(&self, columns: &[usize], rows: &Precision<usize>) -> Precision<usize> {
        let width = |column: &usize| self.schema.field(*column).data_type().primitive_width().unwrap_or(TEXT_WIDTH);
        rows.multiply(&Precision::Inexact(columns.iter().map(width).sum()))
    }

    /// The cells to read: those the filter may match, and no more than a bare limit needs.
    fn choose(&self, predicate: Option<&Arc<dyn PhysicalExpr>>, limit: Option<usize>) -> Vec<usize> {
        if let Some(predicate) = predicate {
            let mut matching = matching_cells(&self.state, &self.cells, &self.schema, predicate);
            matching.retain(|index| self.may_read(*index));
            return matching;
        }
        let mut wanted = limit.map_or(u64::MAX, |n| n as u64);
        let more = |index: &usize| {
            let needed = wanted > 0;
            wanted = wanted.saturating_sub(self.cells.rows(*index).unwrap_or(0));
            needed
        };
        self.all().into_iter().take_while(more).collect()
    }

    /// The rows of a scan with the frame's names for its columns.
    fn renamed(
        &self,
        scan: Arc<dyn ExecutionPlan>,
        wanted: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        if !self.state.has_other_names() {
            return Ok(scan);
        }
        let named = wanted.iter().enumerate().map(|(at, column)| {
            let name = self.schema.field(*column).name();
            let value = Arc::new(Column::new(self.state.name_in_cells(name), at)) as Arc<dyn PhysicalExpr>;
            ProjectionExpr::new(value, name)
        });
        Ok(Arc::new(ProjectionExec::try_new(named.collect::<Vec<_>>(), scan)?))
    }

    fn note(&self, chosen: &[usize], predicate: Option<&Arc<dyn PhysicalExpr>>) {
        self.notes.add(ScanNote {
            frame: self.state.frame.to_string(),
            version: self.state.version(),
            cells: self.cells.len() - self.left_out,
            read: chosen.len(),
            left_out: self.left_out,
            bytes: chosen.iter().map(|index| self.cells.bytes(*index)).sum(),
            filter: predicate.map(ToString::to_string),
        });
    }
}

#[async_trait]
impl TableProvider for FrameTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn statistics(&self) -> Option<Statistics> {
        let order: Vec<usize> = (0..self.schema.fields().len()).collect();
        let merged: Vec<Statistics> = self.all().iter().map(|index| self.cell_statistics(*index, &order)).collect();
        Statistics::try_merge_iter(&merged, &self.schema).ok()
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let predicate = self.predicate(state, filters)?;
        let limit = if filters.is_empty() { limit } else { None };
        let chosen = self.choose(predicate.as_ref(), limit);
        self.note(&chosen, predicate.as_ref());
        let order = self.file_order();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        if chosen.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&wanted)?))));
        }
        let files = chosen.iter().map(|index| self.file(*index, &order)).collect::<Result<Vec<_>, _>>()?;
        let table_schema = self.table_schema(&order)?;
        let statistics = files.iter().filter_map(|f| f.statistics.as_deref());
        let mut statistics = Statistics::try_merge_iter(statistics, table_schema.table_schema())?;
        statistics.total_byte_size = self.bytes_of(&wanted, &statistics.num_rows);
        let url = ObjectStoreUrl::parse(ROOT_URL)?;
        let reader = CellReaderFactory::new(state.runtime_env(), &table_schema)?;
        let source = ParquetSource::new(table_schema.clone())
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_parquet_file_reader_factory(reader);
        // The scan numbers columns as the files give them.
        let last = table_schema.table_schema().fields().len() - 1;
        let position = |column: &usize| order.iter().position(|c| c == column).unwrap_or(last);
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups(files, state.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(Some(wanted.iter().map(position).collect()))?
            .with_limit(limit)
            .build();
        self.renamed(DataSourceExec::from_data_source(config), &wanted)
    }
}

/// Spreads files over at most `count` groups, largest first, each to the group with the fewest bytes.
fn groups(mut files: Vec<PartitionedFile>, count: usize) -> Vec<FileGroup> {
    let count = count.clamp(1, files.len().max(1));
    files.sort_by_key(|file| std::cmp::Reverse(file.object_meta.size));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); count];
    for file in files {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            smallest.0 += file.object_meta.size;
            smallest.1.push(file);
        }
    }
    groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}

/// Whether the ledger's bounds are the column's true extremes: strings are cut, times are rounded to milliseconds.
fn is_exact(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Date32 | DataType::Decimal128(..) | DataType::Boolean)
}

/// Strings and binaries as views: scans then hand out slices of what they read instead of copies.
pub(super) fn view_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 => DataType::Utf8View,
            DataType::Binary => DataType::BinaryView,
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
