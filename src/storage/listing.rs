//! The cells of one version, as its ledger lists them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{filter_record_batch, nullif};
use arrow::datatypes::{DataType, Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use delta_kernel::actions::deletion_vector::{DeletionVectorDescriptor, DeletionVectorStorageType};
use delta_kernel::engine::arrow_data::{ArrowEngineData, EngineDataArrowExt};
use delta_kernel::scan::StatsOptions;
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::{Engine, FilteredEngineData};
use object_store::path::Path;
use url::Url;

use super::alter::former_floats;
use super::cells::CELL_PREFIX;
use super::deleted_rows::DeletedRows;
use super::error::unreadable;
use super::frame_state::FrameState;
use super::ledger::frame_root;
use super::partition_values::{partition_values, texts};
use super::vectors::{vector_file, with_wide_bounds};
use crate::{Error, Result};

/// Microseconds that Delta's statistics can have cut off a moment.
const CUT_OFF: i64 = 999;

/// The cells of one version, column by column.
#[derive(Debug)]
pub struct Cells {
    paths: Vec<Path>,
    batch: RecordBatch,
    /// The values of the partition columns.
    partitions: StructArray,
    /// Of the cells that have some.
    deleted: HashMap<usize, Deleted>,
}

/// What a cell's deletion vector says.
#[derive(Debug, Clone)]
struct Deleted {
    rows: DeletedRows,
    /// Where it is, unless it is in the ledger itself.
    file: Option<Path>,
}

impl Cells {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Where cell `index` is, relative to the meadow's root.
    pub fn path(&self, index: usize) -> &Path {
        &self.paths[index]
    }

    /// What the ledger calls cell `index`.
    pub fn name(&self, index: usize) -> &str {
        let names = self.batch.column_by_name("path").and_then(|c| c.as_string_opt::<i32>());
        names.map_or("", |names| names.value(index))
    }

    /// Size of cell `index` in bytes.
    pub fn bytes(&self, index: usize) -> u64 {
        self.integers("size").map_or(0, |sizes| sizes.value(index).max(0) as u64)
    }

    /// When cell `index` was written, in milliseconds since the epoch.
    pub fn modified_ms(&self, index: usize) -> i64 {
        self.integers("modificationTime").map_or(0, |times| times.value(index))
    }

    /// Rows of cell `index` that are not deleted, when its entry says so.
    pub fn rows(&self, index: usize) -> Option<u64> {
        let deleted = self.deleted(index).map_or(0, DeletedRows::count);
        self.rows_written(index).map(|rows| rows.saturating_sub(deleted))
    }

    /// Rows of these cells together, when the entries of all say so and the sum is a number.
    pub fn rows_of(&self, cells: impl IntoIterator<Item = usize>) -> Option<u64> {
        cells.into_iter().try_fold(0u64, |sum, index| sum.checked_add(self.rows(index)?))
    }

    /// Rows of the file of cell `index`, deleted ones included, when its entry says so.
    pub fn rows_written(&self, index: usize) -> Option<u64> {
        let counts = self.stats()?.column_by_name("numRecords")?.as_primitive_opt::<Int64Type>()?;
        counts.is_valid(index).then(|| u64::try_from(counts.value(index)).ok())?
    }

    /// The rows of cell `index` that are marked as deleted.
    pub fn deleted(&self, index: usize) -> Option<&DeletedRows> {
        self.deleted.get(&index).map(|deleted| &deleted.rows)
    }

    /// The files that say which rows are deleted.
    pub fn vector_files(&self) -> impl Iterator<Item = &Path> {
        self.deleted.values().filter_map(|deleted| deleted.file.as_ref())
    }

    /// The same cells; of those that are named, by their numbers here and in another version, only the rows that are deleted
    /// there and not here.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for deleted rows that are not there.
    pub fn with_only_deleted_in(&self, other: &Self, cells: &[(usize, usize)]) -> Result<Self> {
        let mut deleted = self.deleted.clone();
        for (here, there) in cells {
            let (ours, theirs) = (self.deleted(*here), other.deleted(*there));
            let Some(rows) = self.rows_written(*here).or_else(|| other.rows_written(*there)) else { continue };
            let none = DeletedRows::new([])?;
            let rows = theirs.unwrap_or(&none).only_here(ours, rows)?;
            deleted.insert(*here, Deleted { rows, file: None });
        }
        Ok(Self { paths: self.paths.clone(), batch: self.batch.clone(), partitions: self.partitions.clone(), deleted })
    }

    /// Whether rows of any cell are marked as deleted.
    pub fn has_deleted_rows(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// `minValues`, `maxValues` or `nullCount` of a column, by its name in the cells, over all cells, one entry a cell.
    /// Deleted rows are among them. No value is above the greatest.
    pub fn statistic(&self, which: &str, column: &str) -> Option<Arc<dyn Array>> {
        self.stats()?.column_by_name(which)?.as_struct_opt()?.column_by_name(column).cloned()
    }

    /// Whether the bounds of cell `index` are values that it has, and its counts of nulls are right.
    pub fn is_tight(&self, index: usize) -> bool {
        let tight = self.stats().and_then(|stats| stats.column_by_name("tightBounds")?.as_boolean_opt());
        tight.is_none_or(|tight| tight.is_null(index) || tight.value(index))
    }

    /// Values of a partition column, by its name in the cells, one entry a cell.
    pub fn partition_values(&self, column: &str) -> Option<Arc<dyn Array>> {
        self.partitions.column_by_name(column).cloned()
    }

    /// The partition that cell `index` is in: the same text for all of its cells, and only for those.
    pub fn partition(&self, index: usize) -> String {
        array_value_to_string(&self.partitions, index).unwrap_or_default()
    }

    fn stats(&self) -> Option<&StructArray> {
        self.batch.column_by_name("stats_parsed")?.as_struct_opt()
    }

    fn integers(&self, name: &str) -> Option<&Int64Array> {
        self.batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()
    }
}

/// Lists the cells of a version, with what deletion vectors say of them.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] for entries that cannot be, and what the store says.
pub(super) fn list_cells(state: &FrameState, engine: &dyn Engine) -> Result<Cells> {
    listed(state, engine).map_err(|error| unreadable(&state.frame, error))
}

fn listed(state: &FrameState, engine: &dyn Engine) -> Result<Cells> {
    let mut batches = Vec::new();
    each_batch(&state.snapshot, engine, StatsOptions::all_struct(), |batch| {
        batches.push(batch);
        Ok(())
    })?;
    let Some(first) = batches.first() else {
        let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let partitions = StructArray::new_empty_fields(0, None);
        return Ok(Cells { paths: Vec::new(), batch, partitions, deleted: HashMap::new() });
    };
    let batch = arrow::compute::concat_batches(&first.schema(), &batches)?;
    let root = frame_root(&state.frame)?;
    let paths: Vec<_> =
        names(&batch)?.iter().map(|name| cell_path(&root, name.unwrap_or_default())).collect::<Result<_>>()?;
    require_partitions(&batch, &paths, state)?;
    let batch = with_true_bounds(batch, &paths, &former_floats(&state.snapshot.schema()))?;
    let partitions = partition_values(&batch, state)?;
    let mut cells = Cells { paths, batch, partitions, deleted: HashMap::new() };
    let counts = cells.stats().and_then(|stats| stats.column_by_name("numRecords")?.as_primitive_opt::<Int64Type>());
    if let Some(impossible) = counts.and_then(|counts| counts.iter().flatten().find(|count| *count < 0)) {
        return Err(Error::corrupt(format!("it says that a cell has {impossible} rows")));
    }
    cells.deleted = deleted_rows(&cells, &root, engine)?;
    Ok(cells)
}

/// Goes over the ledger's rows of the cells of a version, with so much of their statistics.
///
/// # Errors
/// Those of `look`, and what the kernel and the store say.
pub(super) fn each_batch(
    snapshot: &SnapshotRef,
    engine: &dyn Engine,
    stats: StatsOptions,
    mut look: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let scan = Arc::clone(snapshot).scan_builder().with_stats(stats).without_row_transforms().build()?;
    for metadata in scan.scan_metadata(engine)? {
        look(metadata?.scan_files.apply_selection_vector().try_into_record_batch()?)?;
    }
    Ok(())
}

fn names(batch: &RecordBatch) -> Result<&StringArray> {
    let names = batch.column_by_name("path").and_then(|c| c.as_string_opt::<i32>());
    names.ok_or_else(|| Error::corrupt("it lists no paths"))
}

fn is_ours(path: &Path) -> bool {
    path.filename().is_some_and(|name| name.starts_with(CELL_PREFIX))
}

/// Refuses entries of our cells that do not say in which partition they are: a null would be read. Others may leave nulls out.
fn require_partitions(batch: &RecordBatch, paths: &[Path], state: &FrameState) -> Result<()> {
    let Some(values) = texts(batch) else { return Ok(()) };
    for (index, path) in paths.iter().enumerate().filter(|(_, path)| is_ours(path)) {
        let entries = values.value(index);
        let names = entries.column(0).as_string_opt::<i32>();
        let has = |column: &String| {
            let wanted = state.name_in_cells(column);
            names.is_none_or(|names| names.iter().flatten().any(|name| name == wanted))
        };
        if let Some(missing) = state.partition_by.iter().find(|column| !has(column)) {
            return Err(Error::corrupt(format!("the entry of {path} has no value for partition column '{missing}'")));
        }
    }
    Ok(())
}

/// The ledger's rows with bounds that nothing is beyond, and without those of the columns `unbounded`.
fn with_true_bounds(batch: RecordBatch, paths: &[Path], unbounded: &HashSet<String>) -> Result<RecordBatch> {
    let others: BooleanArray = paths.iter().map(|path| Some(!is_ours(path))).collect();
    let mut columns = batch.columns().to_vec();
    if let Some((at, _)) = batch.schema_ref().column_with_name("stats_parsed") {
        for (bounds, column) in
            ["minValues", "maxValues"].into_iter().flat_map(|b| unbounded.iter().map(move |c| (b, c)))
        {
            columns[at] = with_child(&columns[at], bounds, |bounds| {
                with_child(bounds, column, |values| Ok(new_null_array(values.data_type(), values.len())))
            })?;
        }
        columns[at] = with_child(&columns[at], "minValues", |least| each(least, |values| certain(values, &others)))?;
        columns[at] = with_child(&columns[at], "maxValues", |greatest| {
            each(greatest, |values| true_bounds(&certain(values, &others)?, &others))
        })?;
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// A struct with another child of that name, if it has one.
fn with_child(array: &ArrayRef, name: &str, change: impl FnOnce(&ArrayRef) -> Result<ArrayRef>) -> Result<ArrayRef> {
    let Some(parent) = array.as_struct_opt() else { return Ok(Arc::clone(array)) };
    let (fields, mut children, nulls) = parent.clone().into_parts();
    if let Some((at, _)) = fields.find(name) {
        children[at] = change(&children[at])?;
    }
    Ok(Arc::new(StructArray::try_new(fields, children, nulls)?))
}

/// A struct whose children are changed.
fn each(array: &ArrayRef, change: impl Fn(&ArrayRef) -> Result<ArrayRef>) -> Result<ArrayRef> {
    let Some(parent) = array.as_struct_opt() else { return Ok(Arc::clone(array)) };
    let (fields, children, nulls) = parent.clone().into_parts();
    let children = children.iter().map(change).collect::<Result<_>>()?;
    Ok(Arc::new(StructArray::try_new(fields, children, nulls)?))
}

/// Digits that a double keeps, by way of which others write the bounds of decimals.
const DOUBLE_DIGITS: u8 = 15;

/// Bounds without those of others that can be rounded.
fn certain(bounds: &ArrayRef, others: &BooleanArray) -> Result<ArrayRef> {
    match bounds.data_type() {
        DataType::Decimal128(precision, _) if *precision > DOUBLE_DIGITS => Ok(nullif(bounds, others)?),
        _ => Ok(Arc::clone(bounds)),
    }
}

/// Moments are cut to milliseconds; floats of cells that are not our own may leave out NaN, which is greater than all
/// numbers.
fn true_bounds(greatest: &ArrayRef, others: &BooleanArray) -> Result<ArrayRef> {
    if let Some(cut) = greatest.as_primitive_opt::<TimestampMicrosecondType>() {
        let above: TimestampMicrosecondArray = cut.unary(|micros| micros.saturating_add(CUT_OFF));
        return Ok(Arc::new(above.with_timezone_opt(cut.timezone())));
    }
    match greatest.data_type().is_floating() {
        true => Ok(nullif(greatest, others)?),
        false => Ok(Arc::clone(greatest)),
    }
}

fn deleted_rows(cells: &Cells, root: &Url, engine: &dyn Engine) -> Result<HashMap<usize, Deleted>> {
    let Some(vectors) = cells.batch.column_by_name("deletionVector").and_then(|c| c.as_struct_opt()) else {
        return Ok(HashMap::new());
    };
    let mut deleted = HashMap::new();
    for index in (0..vectors.len()).filter(|index| vectors.is_valid(*index)) {
        let written = cells.rows_written(index).ok_or_else(|| {
            Error::corrupt(format!(
                "the entry of {} has deleted rows and does not say how many there are",
                cells.name(index)
            ))
        })?;
        let read = || -> Result<_> {
            let vector = descriptor(vectors, index)?;
            Ok((vector.read(engine.storage_handler(), root)?, vector_file(root, &vector)?))
        };
        let (rows, file) =
            read().map_err(|error| error.context(format!("the deletion vector of {}", cells.name(index))))?;
        // A few bytes can stand for more rows than there is memory for.
        if rows.max().is_some_and(|last| last >= written) {
            return Err(Error::corrupt(format!(
                "of {} more rows are deleted than the {written} there are",
                cells.name(index)
            )));
        }
        deleted.insert(index, Deleted { rows: DeletedRows::new(rows)?, file });
    }
    Ok(deleted)
}

/// Where the deleted rows of a cell are listed: within the frame's folder, or in its ledger itself.
fn descriptor(vectors: &StructArray, index: usize) -> Result<DeletionVectorDescriptor> {
    let text = |name: &str| Some(vectors.column_by_name(name)?.as_string_opt::<i32>()?.value(index));
    let number = |name: &str| {
        let numbers = vectors.column_by_name(name)?.as_primitive_opt::<Int32Type>()?;
        numbers.is_valid(index).then(|| numbers.value(index))
    };
    let rows = vectors.column_by_name("cardinality").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let missing = || Error::corrupt("the entry of a deletion vector is not whole");
    let storage: DeletionVectorStorageType = text("storageType").ok_or_else(missing)?.parse()?;
    if storage == DeletionVectorStorageType::PersistedAbsolute {
        return Err(Error::unsupported(
            "a deletion vector lies outside the frame's folder: copy the table with its files",
        ));
    }
    let path = text("pathOrInlineDv").unwrap_or_default();
    if storage == DeletionVectorStorageType::PersistedRelative && is_outside(path) {
        return Err(Error::corrupt(format!("it names a deletion vector outside its frame: {path:?}")));
    }
    Ok(DeletionVectorDescriptor::try_new(
        storage,
        text("pathOrInlineDv").ok_or_else(missing)?,
        number("offset"),
        number("sizeInBytes").ok_or_else(missing)?,
        rows.ok_or_else(missing)?.value(index),
    )?)
}

/// Whether the random prefix before the 20 characters of a vector's id leads out of the folder; the id's alphabet has
/// dots and slashes.
fn is_outside(path: &str) -> bool {
    const ID: usize = 20;
    let prefix = path.len().checked_sub(ID).and_then(|end| path.get(..end)).unwrap_or(path);
    prefix.starts_with(['/', '\\']) || prefix.contains("://") || prefix.split(['/', '\\']).any(|part| part == "..")
}

/// A ledger's relative, percent-encoded path as a path of the meadow. Paths that leave the frame's folder are refused:
/// who can write the ledger must not read the rest of the store through us.
pub(super) fn cell_path(root: &Url, name: &str) -> Result<Path> {
    let outside = || Error::corrupt(format!("it names a cell outside its frame: {name:?}"));
    let location = root.join(name).map_err(|_| outside())?;
    if !location.as_str().starts_with(root.as_str()) {
        return Err(outside());
    }
    Path::from_url_path(location.path())
        .map_err(|_| Error::corrupt(format!("it names a cell {name:?}, which cannot be")))
}

/// The ledger's names of the cells of a version.
pub(super) fn live_paths(snapshot: &SnapshotRef, engine: &dyn Engine) -> Result<HashSet<String>> {
    let mut paths = HashSet::new();
    each_batch(snapshot, engine, StatsOptions::none(), |batch| {
        paths.extend(names(&batch)?.iter().flatten().map(str::to_string));
        Ok(())
    })?;
    Ok(paths)
}

/// The ledger rows of the cells to remove, as the kernel wants them back.
pub(super) fn files_to_remove(
    snapshot: &SnapshotRef,
    engine: &dyn Engine,
    removed: &HashSet<String>,
) -> Result<Vec<FilteredEngineData>> {
    let mut files = Vec::new();
    each_batch(snapshot, engine, StatsOptions::default(), |batch| {
        let selected = names(&batch)?.iter().map(|name| name.is_some_and(|n| removed.contains(n))).collect();
        files.push(FilteredEngineData::try_new(Box::new(ArrowEngineData::new(batch)), selected)?);
        Ok(())
    })?;
    Ok(files)
}

/// The ledger rows of the cells that deletion vectors are put beside, as the kernel wants them back: what their entries
/// say of bounds is then true of fewer rows.
pub(super) fn files_to_mark(
    snapshot: &SnapshotRef,
    engine: &dyn Engine,
    is_marked: impl Fn(&str) -> bool,
) -> Result<Vec<FilteredEngineData>> {
    let mut files = Vec::new();
    each_batch(snapshot, engine, StatsOptions::default(), |batch| {
        let marked: BooleanArray = names(&batch)?.iter().map(|name| Some(name.is_some_and(&is_marked))).collect();
        let batch = filter_record_batch(&batch, &marked)?;
        let mut columns = batch.columns().to_vec();
        if let Some((at, _)) = batch.schema_ref().column_with_name("stats")
            && let Some(stats) = columns[at].as_string_opt::<i32>()
        {
            let wide = stats.iter().map(|stats| stats.map(with_wide_bounds).transpose());
            columns[at] = Arc::new(wide.collect::<Result<StringArray>>()?);
        }
        let batch = RecordBatch::try_new(batch.schema(), columns)?;
        files.push(FilteredEngineData::with_all_rows_selected(Box::new(ArrowEngineData::new(batch))));
        Ok(())
    })?;
    Ok(files)
}
