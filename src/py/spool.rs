//! Data of Python's as a file that statements can read, as often as they have to.

use std::fs::File;
use std::path::PathBuf;

use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;

use crate::Result;

/// Rows that are encoded together: few enough to be in memory whatever they are.
const ROW_GROUP_ROWS: usize = 65_536;

/// Writes all rows.
///
/// # Errors
/// The rows' own error, and what the system says.
pub(super) async fn write(mut rows: SendableRecordBatchStream, path: PathBuf) -> Result<()> {
    let properties =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
    let mut writer = ArrowWriter::try_new(File::create(path)?, rows.schema(), Some(properties.build()))?;
    while let Some(batch) = rows.try_next().await? {
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(())
}
