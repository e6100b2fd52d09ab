//! Data on stdout: as a table for people, as CSV or JSON lines for programs.
//!
//! Rows are written as they arrive and never collected. When the reader closes the pipe, as `head` does, the command
//! ends at once and successfully. Nothing but data is written here; everything else goes to stderr (see
//! [`crate::progress`]).

use std::cell::Cell;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use apiary::actors::{QueryStats, QueryStream};
use apiary::size::format_size;
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;
use futures::StreamExt;

use crate::failure::{Failure, Outcome};
use crate::markdown::Markdown;
use crate::progress::{Progress, Unit};
use crate::table::Table;

/// Bytes gathered before the system is asked to write them.
const BUFFER: usize = 64 << 10;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    #[default]
    Table,
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object per line.
    Json,
    /// A table in Markdown.
    Markdown,
}

/// Writes all rows that `asked` gives to stdout and returns their number; until the first are there, a terminal shows how
/// far the work is.
///
/// # Errors
/// Those of the query, and [`Failure::PipeClosed`] when the reader has seen enough.
pub(crate) async fn print(asked: impl Future<Output = apiary::Result<QueryStream>>, format: Format) -> Outcome<u64> {
    let mut waiting = Waiting::default();
    let mut stream = waiting.over(asked, || None).await?;
    let mut output = Output::new(io::stdout().lock(), format, stream.schema());
    let mut rows = 0;
    loop {
        let stats = stream.query_stats();
        let Some(batch) = waiting.over(stream.next(), || Some(stats.now())).await else { break };
        let batch = batch?;
        rows += batch.num_rows() as u64;
        waiting.suspend(|| output.write(&batch))?;
        // A query that is always ahead of the terminal would never let a signal be noticed.
        tokio::task::yield_now().await;
    }
    drop(waiting);
    output.finish()?;
    Ok(rows)
}

/// Time until a terminal is told what goes on: shorter work needs no words.
const QUIET: Duration = Duration::from_millis(700);
/// Time between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// What a terminal shows of work that goes on.
#[derive(Default)]
struct Waiting(Option<Progress>);

impl Waiting {
    /// Awaits `work`, and shows how far it is.
    async fn over<T>(&mut self, work: impl Future<Output = T>, stats: impl Fn() -> Option<QueryStats>) -> T {
        tokio::pin!(work);
        let mut pause = if self.0.is_some() { LOOK } else { QUIET };
        loop {
            match tokio::time::timeout(pause, &mut work).await {
                Ok(done) => return done,
                Err(_) if io::stderr().is_terminal() => {
                    pause = LOOK;
                    let bar = self.0.get_or_insert_with(|| Progress::start("working", None, Unit::Rows));
                    if let Some(stats) = stats() {
                        bar.set(stats.rows);
                        bar.note(reading(&stats));
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn suspend<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

/// How much was read, and how long the rest can take: columns that are not asked for are never read.
fn reading(stats: &QueryStats) -> String {
    let (read, all) = (stats.bytes_read, stats.bytes_to_read);
    let left = match read {
        1.. if all > read => {
            let seconds = stats.elapsed_ms / 1e3 * (all - read) as f64 / read as f64;
            format!(" of at most {}, at most {seconds:.0} s left", format_size(all))
        }
        _ => String::new(),
    };
    format!("rows, {} read{left}", format_size(read))
}

/// Writes one batch to stdout.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_batch(batch: &RecordBatch, format: Format) -> Outcome {
    let mut output = Output::new(io::stdout().lock(), format, batch.schema());
    output.write(batch)?;
    output.finish()
}

/// Writes one line of text to stdout.
///
/// # Errors
/// [`Failure::PipeClosed`] when nobody reads it any more.
pub(crate) fn print_line(line: &str) -> Outcome {
    writeln!(io::stdout(), "{line}").map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::PipeClosed,
        _ => Failure::local("cannot write the output", error),
    })
}

/// One result on its way to `W`.
struct Output<W: Write> {
    sink: Sink<BufWriter<Pipe<W>>>,
    schema: SchemaRef,
    closed: Rc<Cell<bool>>,
    is_empty: bool,
}

enum Sink<W: Write> {
    Table(Table<W>),
    Csv(Box<arrow::csv::Writer<W>>),
    Json(arrow::json::LineDelimitedWriter<W>),
    Markdown(Markdown<W>),
}

impl<W: Write> Output<W> {
    fn new(writer: W, format: Format, schema: SchemaRef) -> Self {
        let closed = Rc::new(Cell::new(false));
        let writer = BufWriter::with_capacity(BUFFER, Pipe { inner: writer, closed: Rc::clone(&closed) });
        Self { sink: Sink::new(writer, format, &schema), schema, closed, is_empty: true }
    }

    fn write(&mut self, batch: &RecordBatch) -> Outcome {
        self.is_empty = false;
        let written = self.sink.write(batch);
        self.judge(written)
    }

    fn finish(&mut self) -> Outcome {
        if self.is_empty {
            // A CSV header belongs to an empty result too, and the writer gives it with the first batch.
            self.write(&RecordBatch::new_empty(Arc::clone(&self.schema)))?;
        }
        let finished = self.sink.finish();
        self.judge(finished)
    }

    /// Tells a reader that went away from a real failure.
    fn judge(&self, result: Result<(), ArrowError>) -> Outcome {
        match result {
            _ if self.closed.get() => Err(Failure::PipeClosed),
            Err(error) => Err(Failure::local("cannot write the result", error)),
            Ok(()) => Ok(()),
        }
    }
}

impl<W: Write> Sink<W> {
    fn new(writer: W, format: Format, schema: &SchemaRef) -> Self {
        match format {
            Format::Table => Self::Table(Table::new(writer, Arc::clone(schema))),
            Format::Markdown => Self::Markdown(Markdown::new(writer, Arc::clone(schema))),
            Format::Csv => Self::Csv(Box::new(arrow::csv::Writer::new(writer))),
            Format::Json => Self::Json(arrow::json::WriterBuilder::new().with_explicit_nulls(true).build(writer)),
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => table.write(batch),
            Self::Markdown(table) => table.write(batch),
            Self::Csv(csv) => csv.write(&flat(batch)?),
            Self::Json(json) => {
                json.write(batch)?;
                Ok(json.get_mut().flush()?)
            }
        }
    }

    fn finish(&mut self) -> Result<(), ArrowError> {
        match self {
            Self::Table(table) => table.finish(),
            // They flush with every batch.
            Self::Csv(_) | Self::Markdown(_) => Ok(()),
            Self::Json(json) => json.finish(),
        }
    }
}

/// Notes when the reader has gone, which the writers above it report as one error among many.
struct Pipe<W> {
    inner: W,
    closed: Rc<Cell<bool>>,
}

impl<W> Pipe<W> {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            self.closed.set(true);
        }
        result
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        self.note(flushed)
    }
}

/// `batch` with lists, structs and maps as text, since CSV has no shape for them.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !batch.schema().fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(Arc::new(as_text(column)?));
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn as_text(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    Ok((0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string())).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch() -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("text", Arc::new(StringArray::from(vec![Some("a,b"), Some("")]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn written(format: Format, schema: SchemaRef, batches: &[RecordBatch]) -> String {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, format, schema);
        batches.iter().for_each(|batch| output.write(batch).unwrap());
        output.finish().unwrap();
        drop(output);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn csv_has_a_header_even_without_rows() {
        assert_eq!(written(Format::Csv, batch().schema(), &[batch()]), "n,text\n1,\"a,b\"\n,\n");
        assert_eq!(written(Format::Csv, batch().schema(), &[]), "n,text\n");
    }

    #[test]
    fn json_is_one_object_per_line_with_its_nulls() {
        let expected = "{\"n\":1,\"text\":\"a,b\"}\n{\"n\":null,\"text\":\"\"}\n";
        assert_eq!(written(Format::Json, batch().schema(), &[batch()]), expected);
        assert_eq!(written(Format::Json, batch().schema(), &[]), "");
    }

    #[test]
    fn a_list_is_text_in_csv() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), Some(2)]), None]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap();
        assert_eq!(written(Format::Csv, batch.schema(), &[batch]), "l\n\"[1, 2]\"\n\"\"\n");
    }

    /// A reader that has gone away.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_the_output_in_every_format() {
        for format in [Format::Table, Format::Csv, Format::Json] {
            let mut output = Output::new(Gone, format, batch().schema());
            let ended = output.write(&batch()).and_then(|()| output.finish());
            assert!(matches!(ended, Err(Failure::PipeClosed)), "{format:?}: {ended:?}");
        }
    }
}
