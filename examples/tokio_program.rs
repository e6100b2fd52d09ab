//! A plain tokio program that keeps a frame of readings: it creates the frame, writes batches, and streams a query.
//!
//! Run it with `cargo run --release --example tokio_program`.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use apiary::actors::Params;
use apiary::{Colony, FrameRef, Query, Settings, WriteMode};
use arrow::array::{Float64Array, Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // Opening a meadow and closing a colony wait for storage and threads, so they stay off the runtime's workers.
    let settings = Settings::new("memory://").with_name("example").with_bees(2).with_memory(512 << 20);
    let colony = tokio::task::spawn_blocking(move || Colony::start(settings)).await??;
    let outcome = work(&colony).await;
    let closing = colony.clone();
    tokio::task::spawn_blocking(move || closing.shutdown()).await??;
    outcome
}

async fn work(colony: &Colony) -> Result<(), Box<dyn Error + Send + Sync>> {
    let frame: FrameRef = "default.default.readings".parse()?;
    colony.create_frame(&frame, schema(), Vec::new(), true).await?;

    let written = colony.write(&frame, readings(1_000, 100), WriteMode::Append).await?;
    writeln!(std::io::stdout(), "{} rows are version {} of {frame}", written.rows, written.version)?;

    let query = Query::new(
        "SELECT sensor, count(*) AS readings, avg(celsius) AS mean
         FROM readings WHERE celsius > $least GROUP BY sensor ORDER BY sensor",
    );
    let least = [("least".to_owned(), ScalarValue::from(20.0))];
    let mut rows = colony.session().query(query.with_params(Params::Named(least.into()))).await?;
    while let Some(batch) = rows.next().await {
        writeln!(std::io::stdout(), "{}", pretty_format_batches(&[batch?])?)?;
    }
    let stats = rows.stats();
    writeln!(std::io::stdout(), "{} rows in {:.1} ms on {} bees", stats.rows, stats.elapsed_ms, stats.bees)?;
    Ok(())
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("sensor", DataType::Int32, false),
        Field::new("celsius", DataType::Float64, true),
    ]))
}

/// Batches that are made one at a time, as the writer asks for them: a stream of any length is written in little
/// memory.
fn readings(batches: i32, rows: i32) -> SendableRecordBatchStream {
    let stream = futures::stream::iter((0..batches).map(move |batch| one_batch(batch, rows)));
    Box::pin(RecordBatchStreamAdapter::new(schema(), stream))
}

fn one_batch(batch: i32, rows: i32) -> Result<RecordBatch, DataFusionError> {
    let sensors = Int32Array::from_iter_values((0..rows).map(|row| row % 5));
    let celsius = Float64Array::from_iter_values((0..rows).map(|row| 15.0 + f64::from((batch + row) % 100) / 10.0));
    Ok(RecordBatch::try_new(schema(), vec![Arc::new(sensors), Arc::new(celsius)])?)
}
