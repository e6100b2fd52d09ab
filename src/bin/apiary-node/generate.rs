//! `apiary-node generate tpch`: the benchmark's tables as frames, as plain Parquet files, or as both.

use std::path::Path;

use apiary::{Colony, ErrorKind, FrameRef, WriteMode, WriteResult};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use indicatif::HumanCount;

use crate::cli::{BoxRef, TpchArgs};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::{self, Progress, Unit};
use crate::stopwatch::Stopwatch;
use crate::tpch::parquet_files;
use crate::tpch::rows;
use crate::tpch::tables::Table;

/// Writes the files, when no frames are wanted: then no colony is started and no meadow touched.
pub(crate) fn only_files(args: &TpchArgs) -> Option<Outcome> {
    match (args.target(), &args.parquet) {
        (Ok(None), Some(folder)) => Some(files(folder, args.scale)),
        _ => None,
    }
}

/// Generates the frames, and the files if they are wanted too.
pub(crate) async fn run(colony: &Colony, args: &TpchArgs) -> Outcome {
    if let Some(target) = args.target()? {
        into_meadow(colony, args.scale, &target).await?;
    }
    match &args.parquet {
        Some(folder) => parquet_files::write_all(folder, args.scale).await,
        None => Ok(()),
    }
}

/// Brings every table that `target` lacks into it, one commit each.
///
/// # Errors
/// When a frame of a table's name holds other than the table's number of rows.
pub(crate) async fn into_meadow(colony: &Colony, scale: f64, target: &BoxRef) -> Outcome {
    colony.create_hive(&target.hive, true).await?;
    colony.create_box(&target.hive, &target.box_, true).await?;
    for table in Table::ALL {
        let frame = FrameRef::new(target.hive.as_str(), target.box_.as_str(), table.name())?;
        let rows = table.rows(scale);
        if is_there(colony, &frame, rows).await? {
            progress::say(format_args!("{frame} has its {} rows already", HumanCount(rows)));
        } else {
            write(colony, &frame, table, scale, rows).await?;
        }
    }
    Ok(())
}

fn files(folder: &Path, scale: f64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::local("cannot start a runtime", e))?;
    runtime.block_on(async {
        let interrupt = Interrupt::watch()?;
        interrupt.guard(parquet_files::write_all(folder, scale)).await
    })
}

/// Whether `frame` is complete. A table is one commit: it is there with all its rows or it is empty.
async fn is_there(colony: &Colony, frame: &FrameRef, rows: u64) -> Outcome<bool> {
    match colony.describe(frame).await {
        Ok(info) => is_complete(frame, info.rows, rows),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_complete(frame: &FrameRef, found: Option<u64>, wanted: u64) -> Outcome<bool> {
    match found {
        Some(0) => Ok(false),
        Some(rows) if rows == wanted => Ok(true),
        other => {
            let there = other.map_or_else(|| "an unknown number of".to_owned(), |rows| HumanCount(rows).to_string());
            Err(Failure::Usage(format!(
                "{frame} holds {there} rows, and this scale has {}: drop it, or choose another box with --into",
                HumanCount(wanted)
            )))
        }
    }
}

async fn write(colony: &Colony, frame: &FrameRef, table: Table, scale: f64, rows: u64) -> Outcome {
    let watch = Stopwatch::start();
    let progress = Progress::start(table.name(), Some(rows), Unit::Rows);
    let schema = table.schema();
    colony.create_frame(frame, schema.clone(), Vec::new(), true).await?;
    let counter = progress.clone();
    let batches = rows::stream(table, scale)?.inspect(move |batch| {
        counter.add(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
    });
    let data = Box::pin(RecordBatchStreamAdapter::new(schema, batches));
    let written = colony.write(frame, data, WriteMode::Append).await;
    progress.clear();
    progress::say(summary(frame, &written?, watch.millis()));
    Ok(())
}

fn summary(frame: &FrameRef, written: &WriteResult, millis: f64) -> String {
    format!("{frame}: {} rows in {} cells, {millis:.0} ms", HumanCount(written.rows), written.cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_complete_empty_or_somebody_elses() {
        let frame: FrameRef = "tpch.sf1.orders".parse().unwrap();
        assert!(is_complete(&frame, Some(1_500_000), 1_500_000).unwrap());
        assert!(!is_complete(&frame, Some(0), 1_500_000).unwrap());
        let failure = is_complete(&frame, Some(15_000), 1_500_000).unwrap_err();
        assert!(failure.to_string().contains("holds 15,000 rows"), "{failure}");
        assert!(is_complete(&frame, None, 1).is_err());
    }

    #[test]
    fn frames_need_a_colony() {
        let target = BoxRef::for_tpch(0.001).ok();
        assert!(only_files(&TpchArgs { scale: 0.001, into: None, parquet: None }).is_none());
        assert!(only_files(&TpchArgs { scale: 0.001, into: target, parquet: Some("/tmp".into()) }).is_none());
    }
}
