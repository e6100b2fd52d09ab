//! `apiary-node describe`: one frame, its columns, its size and its last commits.

use std::sync::Arc;

use apiary::size::format_size;
use apiary::{Colony, ErrorKind, FrameInfo, FrameRef, HistoryEntry};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt64Array};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use indicatif::HumanCount;

use crate::cli::DescribeArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};

/// Commits that are shown: enough to see what happened last.
const COMMITS: usize = 5;

/// Describes the frame.
pub(crate) async fn run(colony: &Colony, args: &DescribeArgs) -> Outcome {
    let info = match colony.describe(&args.frame).await {
        // What can be said of a view is what its query gives.
        Err(error) if error.kind() == ErrorKind::InvalidInput => return view(colony, &args.frame).await,
        info => info?,
    };
    let history = colony.history(&args.frame, Some(COMMITS)).await?;
    for (name, value) in facts(&info) {
        output::print_line(&format!("{name:<13} {value}"))?;
    }
    show("columns", columns(&info))?;
    show("last commits", commits(&history))
}

/// The columns of a view, and the statement that makes it.
async fn view(colony: &Colony, name: &FrameRef) -> Outcome {
    let session = colony.session();
    let quoted = format!("\"{}\".\"{}\".\"{}\"", name.hive, name.box_, name.frame);
    output::print(session.sql(&format!("SHOW CREATE VIEW {quoted}")), Format::Table).await?;
    output::print_line("\ncolumns")?;
    output::print(session.sql(&format!("DESCRIBE {quoted}")), Format::Table).await.map(drop)
}

fn show(title: &str, rows: Result<RecordBatch, ArrowError>) -> Outcome {
    let rows = rows.map_err(|e| Failure::local(format_args!("cannot show the {title}"), e))?;
    output::print_line(&format!("\n{title}"))?;
    output::print_batch(&rows, Format::Table)
}

fn facts(info: &FrameInfo) -> Vec<(&'static str, String)> {
    let rows = info.rows.map_or_else(|| "unknown".to_owned(), |rows| HumanCount(rows).to_string());
    let named = |columns: &[String]| if columns.is_empty() { "nothing".to_owned() } else { columns.join(", ") };
    vec![
        ("frame", info.name.to_string()),
        ("location", info.location.clone()),
        ("version", info.version.to_string()),
        ("rows", rows),
        ("cells", info.cells.to_string()),
        ("bytes", format_size(info.bytes)),
        ("partitioned", named(&info.partition_by)),
        ("clustered", named(&info.cluster_by)),
    ]
}

fn columns(info: &FrameInfo) -> Result<RecordBatch, ArrowError> {
    let fields = info.schema.fields();
    let partition = fields.iter().map(|field| Some(info.partition_by.contains(field.name())));
    let columns: [(&str, ArrayRef); 4] = [
        ("column", Arc::new(StringArray::from_iter_values(fields.iter().map(|field| field.name())))),
        ("type", Arc::new(StringArray::from_iter_values(fields.iter().map(|field| field.data_type().to_string())))),
        ("nullable", Arc::new(fields.iter().map(|field| Some(field.is_nullable())).collect::<BooleanArray>())),
        ("partition", Arc::new(partition.collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter(columns)
}

fn commits(history: &[HistoryEntry]) -> Result<RecordBatch, ArrowError> {
    let counts = |count: fn(&HistoryEntry) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(history.iter().map(count)))
    };
    let texts = |text: fn(&HistoryEntry) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(history.iter().map(text)))
    };
    let columns: [(&str, ArrayRef); 7] = [
        ("version", counts(|entry| entry.version)),
        ("time", texts(|entry| time(entry.timestamp_ms))),
        ("operation", texts(|entry| entry.operation.clone())),
        ("rows", Arc::new(history.iter().map(|entry| entry.rows).collect::<UInt64Array>())),
        ("cells added", counts(|entry| entry.cells_added as u64)),
        ("cells removed", counts(|entry| entry.cells_removed as u64)),
        ("by", texts(|entry| entry.engine.clone())),
    ];
    RecordBatch::try_from_iter(columns)
}

/// A commit's time, which another machine's clock gave and may be nonsense.
fn time(millis: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(millis)
        .map_or_else(|| format!("{millis} ms"), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn columns_tell_types_and_partitions() {
        let schema = Schema::new(vec![
            Field::new("region", DataType::Utf8, false),
            Field::new("price", DataType::Decimal128(15, 2), true),
        ]);
        let info = FrameInfo {
            name: "a.b.c".parse().unwrap(),
            location: "memory:///a/b/c".into(),
            schema: Arc::new(schema),
            partition_by: vec!["region".into()],
            cluster_by: vec!["price".into()],
            version: 0,
            cells: 0,
            rows: Some(1_234_567),
            bytes: 0,
        };
        let rows = columns(&info).unwrap();
        assert_eq!(rows.column(1).as_string::<i32>().value(1), "Decimal128(15, 2)");
        assert!(rows.column(3).as_boolean().value(0));
        assert!(!rows.column(3).as_boolean().value(1));
        assert!(facts(&info).contains(&("rows", "1,234,567".to_owned())));
        assert!(facts(&info).contains(&("clustered", "price".to_owned())));
    }

    #[test]
    fn times_are_readable_and_nonsense_is_shown() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(time(i64::MAX), format!("{} ms", i64::MAX));
    }

    #[test]
    fn commits_are_rows() {
        let entry = HistoryEntry {
            version: 7,
            timestamp_ms: 0,
            operation: "WRITE".into(),
            rows: None,
            cells_added: 2,
            cells_removed: 1,
            engine: "apiary".into(),
        };
        let rows = commits(&[entry]).unwrap();
        assert_eq!((rows.num_rows(), rows.num_columns()), (1, 7));
    }
}
