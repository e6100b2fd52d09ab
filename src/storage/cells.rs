//! Cells being written: batches in, Parquet files and their ledger entries out.
//!
//! A [`CellWriter`] belongs to one bee. It splits rows by partition values, keeps one open file per value, closes a
//! file when it reaches its cut, and hands back what the ledger needs to name it. Nothing is visible to readers until
//! the ledger commits; a writer that is dropped leaves at most unnamed files, never half a frame.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use delta_kernel::FileMeta;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::expressions::Scalar;
use delta_kernel::transaction::{BoundWriteContext, WriteState};
use delta_kernel_default_engine::build_add_file_metadata;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::cell_stats::CellStats;
use super::file_columns::{in_file, with_names_of};
use super::leafcutter::Cut;
use crate::{Error, Result};

/// How the files of this engine's cells begin.
pub(super) const CELL_PREFIX: &str = "cell-";
/// Bytes of one part of an upload: the least that S3 takes, because every open cell holds one and a bee writes several.
const PART_BYTES: usize = 5 << 20;
/// Parts of one cell that are on their way to a bucket at a time: one is sent while the next fills.
const UPLOADS_IN_FLIGHT: usize = 2;

/// One finished cell, not yet in the ledger.
#[derive(Debug, Clone)]
pub struct CellFile {
    /// Where it is, relative to the meadow's root.
    pub path: Path,
    /// Its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The ledger's row about it (path, partition values, size, statistics).
    pub(crate) entry: RecordBatch,
}

/// Where and how cells are written.
#[derive(Debug, Clone)]
pub struct CellPlan {
    pub(crate) state: Arc<WriteState>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) partition_by: Vec<String>,
    pub(crate) local: bool,
    pub(crate) cut: Cut,
    /// Whether a partition column may be null: where rows are written again that others wrote so.
    pub(crate) null_partitions: bool,
    /// How the names of its cells end, of rows that come sorted; see [`super::clustering`].
    pub(crate) run: String,
}

/// Writes batches of a frame's schema into cells.
pub struct CellWriter {
    plan: CellPlan,
    partitions: Partitioner,
    open: HashMap<Option<OwnedRow>, OpenCell>,
    done: Vec<CellFile>,
}

impl CellWriter {
    /// A writer for batches of `schema`, the frame's own.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] when a partition column cannot be split by.
    pub fn new(plan: CellPlan, schema: &arrow::datatypes::Schema) -> Result<Self> {
        let partitions = Partitioner::new(schema, &plan)?;
        Ok(Self { plan, partitions, open: HashMap::new(), done: Vec::new() })
    }

    /// Adds the rows of `batch`, which has the frame's schema.
    ///
    /// # Errors
    /// What the storage or the encoder says; [`crate::ErrorKind::Schema`] for a null in a partition column.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for part in self.partitions.split(batch)? {
            let cell = match self.open.entry(part.key) {
                std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(OpenCell::open(&self.plan, &part.rows, part.values)?)
                }
            };
            cell.write(&part.rows).await?;
        }
        self.close_full().await
    }

    /// Closes every open cell and gives back all that were written.
    pub async fn finish(mut self) -> Result<Vec<CellFile>> {
        for (_, cell) in std::mem::take(&mut self.open) {
            self.done.push(cell.close().await?);
        }
        Ok(self.done)
    }

    /// Removes what was written; what cannot be removed is left for vacuum, unnamed by any ledger.
    pub async fn abandon(self) {
        for (_, cell) in self.open {
            let mut sink = cell.writer.into_inner();
            if let Err(error) = sink.abort().await {
                tracing::debug!(%error, path = %cell.path, "an open cell could not be taken back");
            }
        }
        for cell in self.done {
            if let Err(error) = self.plan.store.delete(&cell.path).await {
                tracing::warn!(%error, path = %cell.path, "a cell of a failed write is left behind");
            }
        }
    }

    /// Closes the cells that reached their cut, and the largest ones while too much is open.
    async fn close_full(&mut self) -> Result<()> {
        let full = |cell: &OpenCell| cell.bytes() >= self.plan.cut.cell_bytes;
        let keys: Vec<_> = self.open.iter().filter(|(_, c)| full(c)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.close_one(&key).await?;
        }
        while self.open.len() > super::leafcutter::MAX_OPEN_CELLS || self.buffered() > self.plan.cut.open_bytes {
            let Some(key) = self.open.iter().max_by_key(|(_, c)| c.buffered()).map(|(k, _)| k.clone()) else { break };
            self.close_one(&key).await?;
        }
        Ok(())
    }

    async fn close_one(&mut self, key: &Option<OwnedRow>) -> Result<()> {
        if let Some(cell) = self.open.remove(key) {
            self.done.push(cell.close().await?);
        }
        Ok(())
    }

    fn buffered(&self) -> u64 {
        self.open.values().map(OpenCell::buffered).sum()
    }
}

/// One Parquet file being written.
struct OpenCell {
    path: Path,
    location: url::Url,
    context: BoundWriteContext,
    writer: AsyncArrowWriter<BufWriter>,
    /// What the file calls its columns, which may not be what the frame does.
    schema: SchemaRef,
    stats: CellStats,
    rows: u64,
}

impl OpenCell {
    fn open(plan: &CellPlan, first: &RecordBatch, values: HashMap<String, Scalar>) -> Result<Self> {
        let mut context = plan.state.write_context_builder();
        if !values.is_empty() {
            context = context.with_partition_values(values);
        }
        let context = context.build()?;
        let name = format!("{CELL_PREFIX}{}{}.parquet", uuid::Uuid::now_v7().simple(), plan.run);
        let location = context.write_dir().join(&name).map_err(|e| Error::internal(format!("a cell's path: {e}")))?;
        let path = Path::from_url_path(location.path()).map_err(object_store::Error::from)?;
        let physical: Schema = context.physical_data_schema().as_ref().try_into_arrow()?;
        if physical.fields().len() != first.num_columns() {
            return Err(Error::unsupported("frames with generated columns cannot be written by this version"));
        }
        let schema = file_schema(&first.schema(), &physical);
        let stats = CellStats::new(context.stats_columns(), context.physical_data_schema(), Arc::clone(&schema));
        let sink = BufWriter::with_capacity(Arc::clone(&plan.store), path.clone(), PART_BYTES)
            .with_max_concurrency(if plan.local { 1 } else { UPLOADS_IN_FLIGHT });
        // The ledger has the types; how this engine held them in memory is nobody's business.
        let options = ArrowWriterOptions::new().with_properties(properties(plan)).with_skip_arrow_metadata(true);
        let writer = AsyncArrowWriter::try_new_with_options(sink, Arc::clone(&schema), options)?;
        Ok(Self { path, location, context, writer, schema, stats, rows: 0 })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| with_names_of(column, field.data_type()));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_>>()?)?;
        self.stats.merge(&batch)?;
        self.writer.write(&batch).await?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    fn buffered(&self) -> u64 {
        self.writer.memory_size() as u64
    }

    async fn close(mut self) -> Result<CellFile> {
        let footer = self.writer.finish().await?;
        let bytes = self.writer.bytes_written() as u64;
        let stats = self.stats.finish(&footer)?;
        let modified = chrono::Utc::now().timestamp_millis();
        let meta = DataFileMetadata::new(FileMeta::new(self.location, modified, bytes), stats);
        let entry = ArrowEngineData::try_from_engine_data(build_add_file_metadata(meta, &self.context)?)?;
        Ok(CellFile { path: self.path, rows: self.rows, bytes, entry: entry.record_batch().clone() })
    }
}

/// The columns of `rows` as the file calls them; with the numbers of a frame whose columns have some.
fn file_schema(rows: &SchemaRef, physical: &Schema) -> SchemaRef {
    let fields = rows.fields().iter().zip(physical.fields()).map(|(given, file)| in_file(given, file));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Light on local disk, where decoding costs more than reading; dense where bytes cross a network.
fn properties(plan: &CellPlan) -> WriterProperties {
    let compression = match plan.local {
        true => Compression::UNCOMPRESSED,
        false => Compression::ZSTD(ZstdLevel::default()),
    };
    WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(plan.cut.row_group_rows))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(format!("apiary {}", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Splits batches by the values of the partition columns, which do not go into the cells.
#[derive(Debug)]
struct Partitioner {
    columns: Vec<usize>,
    rest: Vec<usize>,
    names: Vec<String>,
    converter: Option<RowConverter>,
    nulls: bool,
}

/// The rows of one partition within a batch.
struct Part {
    key: Option<OwnedRow>,
    values: HashMap<String, Scalar>,
    rows: RecordBatch,
}

impl Partitioner {
    fn new(schema: &arrow::datatypes::Schema, plan: &CellPlan) -> Result<Self> {
        let partition_by = &plan.partition_by;
        let columns = partition_by.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let rest = (0..schema.fields().len()).filter(|i| !columns.contains(i)).collect();
        let sort = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
        let converter = if columns.is_empty() { None } else { Some(RowConverter::new(sort)?) };
        Ok(Self { columns, rest, names: partition_by.clone(), converter, nulls: plan.null_partitions })
    }

    fn split(&self, batch: &RecordBatch) -> Result<Vec<Part>> {
        let Some(converter) = &self.converter else {
            return Ok(vec![Part { key: None, values: HashMap::new(), rows: batch.clone() }]);
        };
        let keys: Vec<ArrayRef> = self.columns.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        if !self.nulls {
            require_partition_values(batch, &self.names)?;
        }
        let encoded = converter.convert_columns(&keys)?;
        let mut groups: HashMap<_, Vec<u32>> = HashMap::new();
        for (index, row) in encoded.iter().enumerate() {
            groups.entry(row).or_default().push(index as u32);
        }
        let data = batch.project(&self.rest)?;
        groups.into_iter().map(|(row, indices)| self.part(row.owned(), indices, &keys, &data)).collect()
    }

    fn part(&self, key: OwnedRow, indices: Vec<u32>, keys: &[ArrayRef], data: &RecordBatch) -> Result<Part> {
        let first = indices[0] as usize;
        let mut values = HashMap::new();
        for (name, key) in self.names.iter().zip(keys) {
            let scalar = delta_kernel::engine::arrow_conversion::scalar::extract_primitive_scalar(key, first)?;
            if matches!(&scalar, Scalar::String(text) if text.is_empty()) {
                return Err(Error::schema(format!(
                    "partition column '{name}' has an empty string, which Delta cannot tell from null: fill or filter it"
                )));
            }
            if is_beyond_calendars(&scalar) {
                return Err(Error::schema(format!(
                    "partition column '{name}' has a day or moment outside the years 1 to 9999, which cannot be read back from \
                     the ledger: leave it out, or do not partition by it"
                )));
            }
            values.insert(name.clone(), scalar);
        }
        let rows = match indices.len() == data.num_rows() {
            true => data.clone(),
            false => take_record_batch(data, &UInt32Array::from(indices))?,
        };
        Ok(Part { key: Some(key), values, rows })
    }
}

/// Whether its text in a ledger would have a year of other than four digits.
fn is_beyond_calendars(value: &Scalar) -> bool {
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    match value {
        Scalar::Timestamp(micros) | Scalar::TimestampNtz(micros) => !SECONDS.contains(&micros.div_euclid(1_000_000)),
        Scalar::Date(days) => !SECONDS.contains(&(i64::from(*days) * 86_400)),
        _ => false,
    }
}

/// Says so when a row has no value in one of the columns.
///
/// # Errors
/// [`crate::ErrorKind::Schema`] naming the column.
pub(crate) fn require_partition_values(batch: &RecordBatch, partition_by: &[String]) -> Result<()> {
    let null = |name: &&String| batch.column_by_name(name).is_some_and(|column| column.null_count() > 0);
    match partition_by.iter().find(null) {
        None => Ok(()),
        Some(name) => Err(Error::schema(format!(
            "partition column '{name}' has nulls: fill or filter them, a partition needs a value"
        ))),
    }
}
