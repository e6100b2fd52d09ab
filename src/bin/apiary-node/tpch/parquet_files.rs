//! The tables as plain Parquet files, as the generator gives them: the common ground on which engines are compared.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::failure::{Failure, Outcome};
use crate::progress::{self, Progress, Unit};
use crate::tpch::rows;
use crate::tpch::tables::Table;

/// Writes `<folder>/<table>.parquet` for every table that is not there with all its rows.
///
/// # Errors
/// [`Failure::Local`] when a file cannot be written. A file is there under its name only once it is complete.
pub(crate) async fn write_all(folder: &Path, scale: f64) -> Outcome {
    fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
    for table in Table::ALL {
        let path = folder.join(format!("{}.parquet", table.name()));
        let rows = table.rows(scale);
        if rows_in(&path) == Some(rows) {
            progress::say(format_args!("{} has its rows already", path.display()));
            continue;
        }
        write(table, scale, rows, &path).await?;
    }
    Ok(())
}

async fn write(table: Table, scale: f64, rows: u64, path: &Path) -> Outcome {
    let progress = Progress::start(table.name(), Some(rows), Unit::Rows);
    let partial = partial(path);
    write_rows(table, scale, &partial, &progress).await?;
    fs::rename(&partial, path).map_err(|e| cannot_write(path, e))?;
    progress.clear();
    progress::say(format_args!("{}: {rows} rows", path.display()));
    Ok(())
}

async fn write_rows(table: Table, scale: f64, path: &Path, progress: &Progress) -> Outcome {
    let file = File::create(path).map_err(|e| cannot_write(path, e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties)).map_err(|e| cannot_write(path, e))?;
    let mut batches = std::pin::pin!(rows::stream(table, scale)?);
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|e| Failure::local("cannot generate the data", e))?;
        writer.write(&batch).map_err(|e| cannot_write(path, e))?;
        progress.add(batch.num_rows() as u64);
        // Writing never waits, and a signal must be noticed between two batches.
        tokio::task::yield_now().await;
    }
    writer.close().map_err(|e| cannot_write(path, e))?;
    Ok(())
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("parquet.partial")
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::local(format_args!("cannot write {}", path.display()), error)
}

/// The number of rows of a Parquet file; `None` when it is not there or is not one.
fn rows_in(path: &Path) -> Option<u64> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    u64::try_from(reader.metadata().file_metadata().num_rows()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_complete_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nation.parquet");
        fs::write(&path, "not Parquet").unwrap();
        assert_eq!(rows_in(&path), None);
        write(Table::Nation, 1.0, 25, &path).await.unwrap();
        assert_eq!(rows_in(&path), Some(25));
        assert!(!partial(&path).exists());
    }

    #[tokio::test]
    async fn every_table_gets_its_file_once() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path(), 0.001).await.unwrap();
        let path = folder.path().join("lineitem.parquet");
        assert_eq!(rows_in(&path), Some(Table::LineItem.rows(0.001)));
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        write_all(folder.path(), 0.001).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), Table::ALL.len());
    }
}
