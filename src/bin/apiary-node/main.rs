//! `apiary-node`: one node of Apiary on the command line.

mod app;
mod cli;
mod demo;
mod describe;
mod exit_codes;
mod failure;
mod frames;
mod generate;
mod ingest;
mod interrupt;
mod markdown;
mod output;
mod progress;
mod run;
mod shell;
mod sql;
mod stopwatch;
mod swarm;
mod table;
mod tpch;

#[cfg(not(feature = "python"))]
#[global_allocator]
static ALLOCATOR: apiary::memory::Counting = apiary::memory::Counting;

fn main() -> std::process::ExitCode {
    app::run().into()
}
