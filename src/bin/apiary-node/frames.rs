//! `apiary-node frames`: what is in the meadow.

use std::sync::Arc;

use apiary::size::format_size;
use apiary::{Colony, ErrorKind, FrameInfo};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt, stream};

use crate::cli::FramesArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};
use crate::progress;

/// Frames described at a time: hides the latency of a remote meadow without flooding it.
const AT_ONCE: usize = 8;

/// Lists every frame.
pub(crate) async fn run(colony: &Colony, args: &FramesArgs) -> Outcome {
    let infos = describe_all(colony).await?;
    let batch = rows(&infos, args.format).map_err(|e| Failure::local("cannot show the frames", e))?;
    output::print_batch(&batch, args.format)?;
    if infos.is_empty() {
        progress::say("no frames yet: try `apiary-node demo`, `ingest`, or `sql 'CREATE FRAME …'`");
    }
    Ok(())
}

async fn describe_all(colony: &Colony) -> apiary::Result<Vec<FrameInfo>> {
    stream::iter(colony.frames().await?)
        .map(|frame| async move { colony.describe(&frame).await })
        .buffered(AT_ONCE)
        .filter_map(|info| std::future::ready(unless_dropped(info)))
        .try_collect()
        .await
}

/// A frame may be dropped while the list is made: then it is not there. A view is none.
fn unless_dropped(info: apiary::Result<FrameInfo>) -> Option<apiary::Result<FrameInfo>> {
    match info {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => None,
        other => Some(other),
    }
}

fn rows(infos: &[FrameInfo], format: Format) -> Result<RecordBatch, ArrowError> {
    let columns: [(&str, ArrayRef); 5] = [
        ("frame", Arc::new(StringArray::from_iter_values(infos.iter().map(|i| i.name.to_string())))),
        ("version", Arc::new(UInt64Array::from_iter_values(infos.iter().map(|i| i.version)))),
        ("cells", Arc::new(UInt64Array::from_iter_values(infos.iter().map(|i| i.cells as u64)))),
        ("rows", Arc::new(infos.iter().map(|i| i.rows).collect::<UInt64Array>())),
        ("bytes", sizes(infos, format)),
    ];
    RecordBatch::try_from_iter(columns)
}

/// Sizes as people read them in a table, and as numbers for programs.
fn sizes(infos: &[FrameInfo], format: Format) -> ArrayRef {
    match format {
        Format::Table | Format::Markdown => {
            Arc::new(StringArray::from_iter_values(infos.iter().map(|i| format_size(i.bytes))))
        }
        Format::Csv | Format::Json => Arc::new(UInt64Array::from_iter_values(infos.iter().map(|i| i.bytes))),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Schema, UInt64Type};

    use super::*;

    fn info() -> FrameInfo {
        FrameInfo {
            name: "a.b.c".parse().unwrap(),
            location: "memory:///a/b/c".into(),
            schema: Arc::new(Schema::empty()),
            partition_by: vec![],
            cluster_by: vec![],
            version: 3,
            cells: 2,
            rows: None,
            bytes: 3 << 20,
        }
    }

    #[test]
    fn people_get_sizes_and_programs_get_numbers() {
        let table = rows(&[info()], Format::Table).unwrap();
        assert_eq!(table.column(4).as_string::<i32>().value(0), "3.0 MB");
        let json = rows(&[info()], Format::Json).unwrap();
        assert_eq!(json.column(4).as_primitive::<UInt64Type>().value(0), 3 << 20);
        assert!(json.column(3).is_null(0));
    }

    #[test]
    fn a_frame_that_was_dropped_meanwhile_is_left_out() {
        assert!(unless_dropped(Err(apiary::Error::not_found("gone"))).is_none());
        assert!(unless_dropped(Err(apiary::Error::storage("down"))).is_some());
    }
}
