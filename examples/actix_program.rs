//! An actix program with an actor of its own that asks a colony questions. Both live in the one System that the program
//! runs; the colony starts no second one and does not stop this one.
//!
//! Run it with `cargo run --release --example actix_program`.

use std::error::Error;
use std::io::Write;

use actix::{Actor, Arbiter, Context, Handler, Message, ResponseFuture, System};
use apiary::{Colony, Settings};
use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;

/// The program's own actor: it knows which questions its users have, and leaves the answers to the colony.
struct Weather {
    colony: Colony,
}

impl Actor for Weather {
    type Context = Context<Self>;
}

/// Notes a reading of a station.
struct Note {
    station: &'static str,
    celsius: f64,
}

impl Message for Note {
    type Result = apiary::Result<()>;
}

/// Asks for the warmest reading of every station.
struct Warmest;

impl Message for Warmest {
    type Result = apiary::Result<Vec<RecordBatch>>;
}

impl Handler<Note> for Weather {
    type Result = ResponseFuture<apiary::Result<()>>;

    fn handle(&mut self, note: Note, _: &mut Self::Context) -> Self::Result {
        // The handle is cheap to clone, so the future owns one and the actor is free for its next message.
        let colony = self.colony.clone();
        Box::pin(async move {
            // The program's own words. What users write goes into parameters of a `Query` instead.
            let sql = format!("INSERT INTO weather VALUES ('{}', {})", note.station, note.celsius);
            colony.sql(&sql).await?.collect().await?;
            Ok(())
        })
    }
}

impl Handler<Warmest> for Weather {
    type Result = ResponseFuture<apiary::Result<Vec<RecordBatch>>>;

    fn handle(&mut self, _: Warmest, _: &mut Self::Context) -> Self::Result {
        let colony = self.colony.clone();
        Box::pin(async move {
            let sql = "SELECT station, max(celsius) AS warmest FROM weather GROUP BY station ORDER BY station";
            colony.sql(sql).await?.collect().await
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    System::new().block_on(program())
}

async fn program() -> Result<(), Box<dyn Error>> {
    let settings = Settings::new("memory://").with_name("example").with_bees(2).with_memory(512 << 20);
    let colony = Colony::start_in(&Arbiter::current(), settings).await?;
    colony.sql("CREATE FRAME weather (station VARCHAR, celsius DOUBLE)").await?.collect().await?;

    let weather = Weather { colony: colony.clone() }.start();
    for (station, celsius) in [("attic", 24.5), ("cellar", 12.0), ("attic", 26.0), ("garden", 18.5)] {
        weather.send(Note { station, celsius }).await??;
    }
    let rows = weather.send(Warmest).await??;
    writeln!(std::io::stdout(), "{}", pretty_format_batches(&rows)?)?;

    // Shutting down waits for actors that run on this very thread, so it must wait on another one.
    actix_rt::task::spawn_blocking(move || colony.shutdown()).await??;
    Ok(())
}
