//! `apiary-node frames`: what is in the meadow.

use std::sync::Arc;

use apiary::size::format_size;
use apiary::{Colony, ErrorKind, FrameInfo, FrameRef};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;
use futures::{StreamExt, TryStreamExt, stream};

use crate::cli::FramesArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};
use crate::progress;

/// Frames described at a time: hides the latency of a remote meadow without flooding it.
const AT_ONCE: usize = 8;

/// A name, and what is told of it where it is a frame's.
type Listed = (FrameRef, Option<FrameInfo>);

/// Lists every frame and view.
pub(crate) async fn run(colony: &Colony, args: &FramesArgs) -> Outcome {
    let infos = describe_all(colony).await?;
    let batch = rows(&infos, args.format).map_err(|e| Failure::local("cannot show the frames", e))?;
    output::print_batch(&batch, args.format)?;
    if infos.is_empty() {
        progress::say("no frames yet: try `apiary-node demo`, `ingest`, or `sql 'CREATE FRAME …'`");
    }
    Ok(())
}

async fn describe_all(colony: &Colony) -> apiary::Result<Vec<Listed>> {
    stream::iter(colony.frames().await?)
        .map(|frame| async move { (colony.describe(&frame).await, frame) })
        .buffered(AT_ONCE)
        .filter_map(|(info, frame)| std::future::ready(unless_dropped(info, frame)))
        .try_collect()
        .await
}

/// A frame may be dropped while the list is made: then it is not there. A view cannot be described as one.
fn unless_dropped(info: apiary::Result<FrameInfo>, name: FrameRef) -> Option<apiary::Result<Listed>> {
    match info {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) if error.kind() == ErrorKind::InvalidInput => Some(Ok((name, None))),
        info => Some(info.map(|info| (name, Some(info)))),
    }
}

fn rows(listed: &[Listed], format: Format) -> Result<RecordBatch, ArrowError> {
    let kind = |info: &Option<FrameInfo>| if info.is_some() { "frame" } else { "view" };
    let numbers = |number: fn(&FrameInfo) -> Option<u64>| -> ArrayRef {
        Arc::new(listed.iter().map(|(_, info)| info.as_ref().and_then(number)).collect::<UInt64Array>())
    };
    let columns: [(&str, ArrayRef); 6] = [
        ("frame", Arc::new(StringArray::from_iter_values(listed.iter().map(|(name, _)| name.to_string())))),
        ("version", numbers(|i| Some(i.version))),
        ("cells", numbers(|i| Some(i.cells as u64))),
        ("rows", numbers(|i| i.rows)),
        ("bytes", sizes(listed, format)),
        ("kind", Arc::new(StringArray::from_iter_values(listed.iter().map(|(_, info)| kind(info))))),
    ];
    RecordBatch::try_from_iter(columns)
}

/// Sizes as people read them in a table, and as numbers for programs.
fn sizes(listed: &[Listed], format: Format) -> ArrayRef {
    let bytes = listed.iter().map(|(_, info)| info.as_ref().map(|info| info.bytes));
    match format {
        Format::Table | Format::Markdown => {
            Arc::new(bytes.map(|bytes| bytes.map(format_size)).collect::<StringArray>())
        }
        Format::Csv | Format::Json => Arc::new(bytes.collect::<UInt64Array>()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Schema, UInt64Type};

    use super::*;

    fn view() -> Listed {
        ("a.b.v".parse().unwrap(), None)
    }

    fn listed() -> Listed {
        let info = FrameInfo {
            name: "a.b.c".parse().unwrap(),
            location: "memory:///a/b/c".into(),
            schema: Arc::new(Schema::empty()),
            partition_by: vec![],
            cluster_by: vec![],
            version: 3,
            cells: 2,
            rows: None,
            bytes: 3 << 20,
        };
        (info.name.clone(), Some(info))
    }

    #[test]
    fn people_get_sizes_and_programs_get_numbers() {
        let table = rows(&[listed(), view()], Format::Table).unwrap();
        assert_eq!(table.column(4).as_string::<i32>().value(0), "3.0 MB");
        let json = rows(&[listed(), view()], Format::Json).unwrap();
        assert_eq!(json.column(4).as_primitive::<UInt64Type>().value(0), 3 << 20);
        assert!(json.column(3).is_null(0) && json.column(4).is_null(1));
        assert_eq!(json.column(5).as_string::<i32>().value(1), "view");
    }

    #[test]
    fn a_frame_that_was_dropped_meanwhile_is_left_out() {
        let name = || view().0;
        assert!(unless_dropped(Err(apiary::Error::not_found("gone")), name()).is_none());
        assert!(unless_dropped(Err(apiary::Error::storage("down")), name()).is_some_and(|listed| listed.is_err()));
        assert!(unless_dropped(Err(apiary::Error::invalid("a view")), name()).is_some_and(|listed| listed.is_ok()));
    }
}
