//! `apiary-node ingest`: the rows of some files become one commit of a frame.
//!
//! ```text
//!  file 1 ─┐
//!  file 2 ─┼─ SELECT * one after another ─▶ conform to one schema ─▶ one write, one commit
//!  file 3 ─┘
//! ```
//! Nothing is collected on the way: the next file is opened when the one before it has been read, and a batch is read
//! when the writer has room for it. If any file fails there is no commit.

mod conform;
mod input;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiary::size::format_size;
use apiary::{Colony, ErrorKind, FrameRef, Session, WriteMode, WriteResult};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use indicatif::HumanCount;

use crate::cli::IngestArgs;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Progress, Unit};
use crate::stopwatch::Stopwatch;
use input::Input;

/// Ingests the files.
pub(crate) async fn run(colony: &Colony, args: &IngestArgs) -> Outcome {
    let watch = Stopwatch::start();
    let columns = if args.csv.no_header { columns_of(colony, &args.into).await? } else { Vec::new() };
    let inputs = args.files.iter().map(|file| Input::open(file, &args.csv, &columns)).collect::<Outcome<Vec<_>>>()?;
    let session = colony.session();
    let found = conform::unite(&schemas(&session, &inputs).await?)?;
    let mut made = Made::default();
    let written = match target(colony, args, found, &mut made).await {
        Ok(target) => write(colony, args, session, inputs, target).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    if written.is_err() {
        made.take_back(colony, &args.into).await;
    }
    progress::say(summary(&args.into, &written?, watch.millis()));
    Ok(())
}

/// The columns of the frame, if there is one.
async fn columns_of(colony: &Colony, frame: &FrameRef) -> Outcome<Vec<String>> {
    match colony.describe(frame).await {
        Ok(info) => Ok(info.schema.fields().iter().map(|field| field.name().clone()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

async fn write(
    colony: &Colony,
    args: &IngestArgs,
    session: Session,
    inputs: Vec<Input>,
    target: SchemaRef,
) -> apiary::Result<WriteResult> {
    let meter = Arc::new(Meter::start(&inputs));
    let mode = if args.overwrite { WriteMode::Overwrite } else { WriteMode::Append };
    let written = colony.write(&args.into, chain(session, inputs, target, Arc::clone(&meter)), mode).await;
    meter.progress.clear();
    written
}

/// The schema of every file, with the file's name for messages.
async fn schemas(session: &Session, inputs: &[Input]) -> Outcome<Vec<(String, SchemaRef)>> {
    let mut schemas = Vec::with_capacity(inputs.len());
    for input in inputs {
        let select = format!("{} LIMIT 0", input.select());
        let stream = session.sql(&select).await?;
        schemas.push((input.name.clone(), stream.schema()));
    }
    Ok(schemas)
}

/// What was made for the rows.
#[derive(Default)]
struct Made {
    hive: bool,
    box_: bool,
    frame: bool,
}

impl Made {
    /// Makes the frame, and its hive and box where they are missing.
    async fn make(&mut self, colony: &Colony, args: &IngestArgs, schema: SchemaRef) -> apiary::Result<()> {
        let frame = &args.into;
        self.hive = is_new(colony.create_hive(&frame.hive, false).await)?;
        self.box_ = is_new(colony.create_box(&frame.hive, &frame.box_, false).await)?;
        self.frame = is_new(colony.create_frame(frame, schema, args.partition_by.clone(), false).await)?;
        Ok(())
    }

    /// Takes away what was made for rows that could not be written, unless somebody else put something into it.
    async fn take_back(&self, colony: &Colony, frame: &FrameRef) {
        let empty = self.frame && colony.describe(frame).await.is_ok_and(|info| info.version == 0);
        if empty && let Err(error) = colony.drop_frame(frame, true).await {
            progress::say(format_args!("{frame} was made and is empty; it could not be dropped: {error}"));
        }
        // Those that are in use by now say so, and stay.
        if self.box_ {
            drop(colony.drop_box(&frame.hive, &frame.box_, true, false).await);
        }
        if self.hive {
            drop(colony.drop_hive(&frame.hive, true, false).await);
        }
    }
}

/// Whether a name was made, and not there before.
fn is_new(made: apiary::Result<()>) -> apiary::Result<bool> {
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The schema the rows are brought to: the frame's types where it has the column. A missing frame is made.
async fn target(colony: &Colony, args: &IngestArgs, found: SchemaRef, made: &mut Made) -> Outcome<SchemaRef> {
    match colony.describe(&args.into).await {
        Ok(info) => {
            same_partitions(args, &info.partition_by)?;
            Ok(conform::typed_as(&found, &info.schema))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            made.make(colony, args, Arc::clone(&found)).await?;
            Ok(found)
        }
        Err(error) => Err(error.into()),
    }
}

/// A frame keeps the partitions it was made with: asking for others is a mistake to point out.
fn same_partitions(args: &IngestArgs, partition_by: &[String]) -> Outcome {
    if args.partition_by.is_empty() || args.partition_by == partition_by {
        return Ok(());
    }
    let existing = if partition_by.is_empty() { "not partitioned".into() } else { partition_by.join(",") };
    Err(Failure::Usage(format!(
        "--partition-by {} is not how {} is partitioned ({existing}): leave the option out, or ingest into a new frame",
        args.partition_by.join(","),
        args.into
    )))
}

/// The rows of all files, one file after another, as one stream of `target`.
fn chain(session: Session, inputs: Vec<Input>, target: SchemaRef, meter: Arc<Meter>) -> SendableRecordBatchStream {
    let schema = Arc::clone(&target);
    let rows = stream::iter(with_starts(inputs))
        .then(move |(start, input)| read(session.clone(), start, input, Arc::clone(&schema), Arc::clone(&meter)))
        .try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(target, rows))
}

/// Every file with the number of bytes that are in the files before it.
fn with_starts(inputs: Vec<Input>) -> Vec<(u64, Input)> {
    let mut before = 0;
    let with_start = |input: Input| {
        let start = before;
        before += input.bytes.unwrap_or(0);
        (start, input)
    };
    inputs.into_iter().map(with_start).collect()
}

async fn read(
    session: Session,
    start: u64,
    input: Input,
    target: SchemaRef,
    meter: Arc<Meter>,
) -> Result<impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send, DataFusionError> {
    let batches = session.sql(&input.select()).await.map_err(external)?;
    let mut rows = 0;
    Ok(batches.map(move |batch| {
        let batch = batch.and_then(|batch| conform::conform(&batch, rows, &target));
        if let Ok(batch) = &batch {
            rows += batch.num_rows() as u64;
            meter.show(start + input.position(rows), batch.num_rows() as u64);
        }
        batch.map_err(|e| external(e.context(&input.name)))
    }))
}

fn external(error: apiary::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Shows how far into the files the rows are.
struct Meter {
    progress: Progress,
    rows: AtomicU64,
    /// Whether the files have sizes, so that the bar counts their bytes; otherwise it counts rows.
    by_bytes: bool,
}

impl Meter {
    fn start(inputs: &[Input]) -> Self {
        let total = inputs.iter().map(|input| input.bytes).sum::<Option<u64>>();
        let unit = if total.is_some() { Unit::Bytes } else { Unit::Rows };
        Self { progress: Progress::start("ingest", total, unit), rows: AtomicU64::new(0), by_bytes: total.is_some() }
    }

    fn show(&self, position: u64, more_rows: u64) {
        let rows = self.rows.fetch_add(more_rows, Ordering::Relaxed) + more_rows;
        self.progress.set(if self.by_bytes { position } else { rows });
        self.progress.note(format!("{} rows", HumanCount(rows)));
    }
}

fn summary(frame: &FrameRef, written: &WriteResult, millis: f64) -> String {
    format!(
        "{} rows in {} cells, {}, are version {} of {frame}; took {millis:.0} ms",
        HumanCount(written.rows),
        written.cells,
        format_size(written.bytes),
        written.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::CsvArgs;

    fn args(partition_by: &[&str]) -> IngestArgs {
        IngestArgs {
            files: vec!["a.csv".into()],
            into: "a.b.c".parse().unwrap(),
            partition_by: partition_by.iter().map(|name| (*name).to_owned()).collect(),
            overwrite: false,
            csv: CsvArgs::default(),
        }
    }

    #[test]
    fn other_partitions_than_the_frame_has_are_pointed_out() {
        let existing = ["region".to_owned()];
        assert!(same_partitions(&args(&[]), &existing).is_ok());
        assert!(same_partitions(&args(&["region"]), &existing).is_ok());
        let failure = same_partitions(&args(&["day"]), &existing).unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)));
        assert!(same_partitions(&args(&["day"]), &[]).unwrap_err().to_string().contains("not partitioned"));
    }

    #[test]
    fn the_bar_goes_on_where_the_last_file_ended() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = ["a.csv", "b.csv"].map(|name| {
            let path = folder.path().join(name);
            std::fs::write(&path, "x\n1\n").unwrap();
            Input::open(path.to_str().unwrap(), &CsvArgs::default(), &[]).unwrap()
        });
        let starts: Vec<u64> = with_starts(inputs.to_vec()).into_iter().map(|(start, _)| start).collect();
        assert_eq!(starts, [0, 4]);
    }

    #[test]
    fn the_summary_says_what_became_of_the_files() {
        let written = WriteResult { version: 4, rows: 12_000, cells: 2, bytes: 3 << 20, temperature: 0.1 };
        assert_eq!(
            summary(&"a.b.c".parse().unwrap(), &written, 81.2),
            "12,000 rows in 2 cells, 3.0 MB, are version 4 of a.b.c; took 81 ms"
        );
    }
}
