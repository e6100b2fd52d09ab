//! One version of a frame: its columns, its settings, and what its cells call the columns.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::StructType;
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::table_features::ColumnMappingMode;

use super::alter::{Check, checks, properties_to_set};
use super::clustering::Clustering;
use super::file_columns::{FileColumns, physical_name};
use super::history;
use super::listing::Cells;
use super::log_cleanup::LOG_RETENTION;
use super::names::FrameRef;
use super::vacuum::RETENTION;
use crate::{Error, Result};

/// One version of a frame. Cheap to share; its cells are listed on first use.
#[derive(Debug)]
pub struct FrameState {
    /// The frame.
    pub frame: FrameRef,
    /// Its columns in order, partition columns included.
    pub schema: SchemaRef,
    /// Its partition columns.
    pub partition_by: Vec<String>,
    /// The order that its rows are kept in, if in one.
    pub clustering: Option<Clustering>,
    /// The conditions that its rows must not fail.
    pub checks: Vec<Check>,
    /// What its cells call its columns, where that is something else.
    physical: HashMap<String, String>,
    file_columns: Option<FileColumns>,
    pub(super) snapshot: SnapshotRef,
    pub(super) cells: OnceLock<Arc<Cells>>,
}

impl FrameState {
    pub(super) fn new(frame: &FrameRef, snapshot: SnapshotRef) -> Result<Self> {
        check_entries(frame, &snapshot)?;
        let schema: Schema = snapshot.schema().as_ref().try_into_arrow()?;
        let table = snapshot.table_configuration();
        let format = table.metadata().format_provider();
        if !format.eq_ignore_ascii_case("parquet") {
            return Err(Error::unsupported(format!(
                "frame {frame} has its rows in files of the format {format:?}, and only Parquet can be read: write them as \
                 Parquet with the engine that made it"
            )));
        }
        let partition_by = table.logical_partition_columns().to_vec();
        let checks = checks(table.metadata().configuration());
        let physical = match table.column_mapping_mode() {
            ColumnMappingMode::None => HashMap::new(),
            ColumnMappingMode::Name | ColumnMappingMode::Id => physical_names(&snapshot.schema()),
        };
        let file_columns = FileColumns::of(&snapshot.schema(), table.column_mapping_mode());
        let schema = Arc::new(bare_schema(&schema));
        let clustering = Clustering::of(table.metadata().configuration(), &schema);
        let (frame, cells) = (frame.clone(), OnceLock::new());
        Ok(Self { frame, schema, partition_by, clustering, checks, physical, file_columns, snapshot, cells })
    }

    /// What its cells and their statistics call a column.
    pub fn name_in_cells<'a>(&'a self, column: &'a str) -> &'a str {
        self.physical.get(column).map_or(column, String::as_str)
    }

    /// Whether its cells call columns something else.
    pub fn has_other_names(&self) -> bool {
        !self.physical.is_empty()
    }

    /// What is set of it, as Delta's table properties, by their names.
    pub fn properties(&self) -> Vec<(String, String)> {
        let settings = self.snapshot.table_configuration().metadata().configuration();
        let mut properties: Vec<_> = settings.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        properties.sort();
        properties
    }

    /// How its columns are found in files, where their physical names do not say it.
    pub fn file_columns(&self) -> Option<&FileColumns> {
        self.file_columns.as_ref()
    }

    /// Those of its properties that CREATE FRAME and ALTER FRAME set.
    pub fn properties_set(&self) -> Vec<(String, String)> {
        self.properties()
            .into_iter()
            .filter(|property| properties_to_set(std::slice::from_ref(property)).is_ok())
            .collect()
    }

    /// What its table properties say of how long removed cells and log entries are kept; `None` for log entries that
    /// are never to be cleaned up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for what is no time.
    pub fn retention(&self) -> Result<(Duration, Option<Duration>)> {
        let properties = self.snapshot.table_properties();
        let settings = self.snapshot.table_configuration().metadata().configuration();
        for (key, read) in [
            ("delta.deletedFileRetentionDuration", properties.deleted_file_retention_duration),
            ("delta.logRetentionDuration", properties.log_retention_duration),
        ] {
            if let Some(text) = settings.get(key).filter(|_| read.is_none()) {
                let frame = &self.frame;
                return Err(Error::corrupt(format!(
                    "{key} of {frame} is '{text}': set it to one like 'interval 7 days'"
                )));
            }
        }
        let cells = properties.deleted_file_retention_duration.unwrap_or(RETENTION);
        let cleans = properties.enable_expired_log_cleanup != Some(false);
        Ok((cells, cleans.then(|| properties.log_retention_duration.unwrap_or(LOG_RETENTION))))
    }

    /// Whether statements may mark rows of its cells as deleted instead of writing the cells anew.
    pub fn marks_rows(&self) -> bool {
        let properties = self.snapshot.table_properties();
        // An entry is written again with its statistics, which must then be there as they were written.
        properties.enable_deletion_vectors == Some(true) && properties.checkpoint_write_stats_as_json != Some(false)
    }

    /// What the table is known by, whatever its name: another id is another table.
    pub fn id(&self) -> &str {
        self.snapshot.table_configuration().metadata().id()
    }

    /// Whether it has the same columns and settings as another version of the frame.
    pub(crate) fn is_table_of(&self, other: &Self) -> bool {
        is_same_table(&self.snapshot, &other.snapshot)
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }
}

/// Least bytes of an entry: that of one action without anything in it.
const LEAST_ENTRY: u64 = 10;
/// Most bytes of an entry: some hundred thousand cells.
const MOST_ENTRY: u64 = 256 << 20;

/// Says so when an entry of the log cannot be whole: the kernel takes an empty one for a version without changes.
fn check_entries(frame: &FrameRef, snapshot: &SnapshotRef) -> Result<()> {
    for entry in &snapshot.log_segment().listed.ascending_commit_files {
        let (bytes, version) = (entry.location.size, entry.version);
        if (LEAST_ENTRY..=MOST_ENTRY).contains(&bytes) {
            continue;
        }
        return Err(Error::corrupt(format!(
            "version {version} of the ledger of {frame} has {bytes} bytes, which no commit has: put \
             {} back from a copy",
            history::commit_path(frame, version)
        )));
    }
    Ok(())
}

/// Whether two versions are of one table, with the same columns and settings.
pub(super) fn is_same_table(a: &SnapshotRef, b: &SnapshotRef) -> bool {
    let id = |snapshot: &SnapshotRef| snapshot.table_configuration().metadata().id().to_string();
    id(a) == id(b) && a.schema() == b.schema() && a.metadata_configuration() == b.metadata_configuration()
}

/// What the cells call the columns, where that is something else.
fn physical_names(schema: &StructType) -> HashMap<String, String> {
    let names = schema.fields().map(|field| (field.name().to_string(), physical_name(field).to_string()));
    names.filter(|(name, physical)| name != physical).collect()
}

/// Without what delta_kernel notes of columns: batches of others do not have it.
fn bare_schema(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(|field| bare(field)).collect::<Vec<_>>())
}

fn bare(field: &Field) -> Field {
    let within = |field: &Arc<Field>| Arc::new(bare(field));
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(within).collect()),
        DataType::List(item) => DataType::List(within(item)),
        DataType::Map(entries, sorted) => DataType::Map(within(entries), *sorted),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, field.is_nullable())
}
