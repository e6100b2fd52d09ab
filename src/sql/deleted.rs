//! Cells some of whose rows do not count, or whose columns have other names, in plans.
//!
//! The engine takes which rows of a file to read as a note beside the file, and notes do not travel with a plan. Values of
//! partition columns do: so each file has its marks as the value of one more such column, which no query sees, and whoever
//! receives a plan makes notes of them. How the columns are found in the files is noted beside that column.

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::table_schema::TableSchema;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};

use crate::Error;
use crate::storage::deleted_rows::DeletedRows;
use crate::storage::file_columns::FileColumns;

/// The column that holds the marks: no frame's column can be called so.
const DELETED: &str = "the deleted rows";
/// Bytes before the marks: how many rows the file has.
const ROWS: usize = 8;

/// Under which that column has how the others are found in files.
const FILE_COLUMNS: &str = "apiary.file_columns";

/// The column of marks for files whose columns are found so.
///
/// # Errors
/// Never in practice.
pub(super) fn marks(columns: Option<&FileColumns>) -> Result<Field, DataFusionError> {
    let note = columns.map(FileColumns::to_text).transpose()?;
    let note = note.map(|text| (FILE_COLUMNS.to_string(), text));
    Ok(Field::new(DELETED, DataType::Binary, true).with_metadata(note.into_iter().collect()))
}

/// How the columns of a scan are found in its files, where their names do not say it.
///
/// # Errors
/// `Corrupt` for what does not say it either.
pub(super) fn file_columns(table: &TableSchema) -> Result<Option<FileColumns>, DataFusionError> {
    let marks = table.table_partition_cols().iter().find(|column| column.name() == DELETED);
    let note = marks.and_then(|marks| marks.metadata().get(FILE_COLUMNS));
    Ok(note.map(|text| FileColumns::parse(text)).transpose()?)
}

/// The marks of a file of so many `rows`, as a value of that column.
pub(super) fn mark(deleted: Option<&DeletedRows>, rows: u64) -> ScalarValue {
    ScalarValue::Binary(deleted.map(|deleted| [&rows.to_le_bytes(), deleted.as_bytes()].concat()))
}

/// A file with the note that its marks ask for.
///
/// # Errors
/// `Corrupt` for marks that do not fit the file.
pub(super) fn noted(file: PartitionedFile, mark: &ScalarValue) -> Result<PartitionedFile, DataFusionError> {
    let ScalarValue::Binary(mark) = mark else {
        return Err(Error::corrupt("the deleted rows of a cell are no bytes").into());
    };
    let Some(mark) = mark else { return Ok(file) };
    let (rows, marks) = mark.split_first_chunk::<ROWS>().ok_or_else(|| Error::corrupt("a cell's marks are cut off"))?;
    let runs = DeletedRows::parse(marks)?.runs(u64::from_le_bytes(*rows))?;
    let selectors = runs.into_iter().map(|run| match run.kept {
        true => RowSelector::select(run.rows as usize),
        false => RowSelector::skip(run.rows as usize),
    });
    let selection = RowSelection::from(selectors.collect::<Vec<_>>());
    Ok(file.with_extension(ParquetRowSelection::new(selection)))
}

/// The files of a scan with their notes; `None` where none is marked.
///
/// # Errors
/// As [`noted`].
pub(super) fn noted_files(scan: &FileScanConfig) -> Result<Option<Vec<FileGroup>>, DataFusionError> {
    let columns = scan.file_source.table_schema().table_partition_cols();
    let Some(column) = columns.iter().position(|column| column.name() == DELETED) else { return Ok(None) };
    let one = |file: &PartitionedFile| {
        let mark = file.partition_values.get(column).ok_or_else(|| Error::corrupt("a cell without its marks"))?;
        noted(file.clone(), mark)
    };
    let group = |group: &FileGroup| group.iter().map(one).collect::<Result<Vec<_>, _>>().map(FileGroup::new);
    scan.file_groups.iter().map(group).collect::<Result<Vec<_>, _>>().map(Some)
}
