//! From the command line to the exit code: one colony, one command, one orderly end.

use apiary::Colony;
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Command, Dataset};
use crate::exit_codes::ExitCode;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::{demo, describe, frames, generate, ingest, progress, run, shell, sql, swarm, tpch};

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => conclude(execute(cli)),
        Err(error) => explain(&error),
    }
}

/// Prints clap's answer, which is help and a success, or a complaint.
fn explain(error: &clap::Error) -> ExitCode {
    // Nothing can be done for a terminal that does not take the text.
    let _ = error.print();
    if error.use_stderr() { ExitCode::Usage } else { ExitCode::Success }
}

fn conclude(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::Success,
        Err(failure) => {
            if failure.is_worth_saying() {
                progress::say(format_args!("apiary-node: {failure}"));
            }
            failure.exit_code()
        }
    }
}

fn execute(mut cli: Cli) -> Outcome {
    log_to_stderr();
    if let Some(outcome) = without_colony(&mut cli.command) {
        return outcome;
    }
    let colony = Colony::start(cli.settings()?).map_err(Failure::of_settings)?;
    let outcome = match &cli.command {
        // It waits for lines on this thread, and has its own way with Ctrl-C.
        Command::Shell(args) => shell::run(&colony, args),
        command => colony.block_on(with_colony(&colony, command)),
    };
    let stopped = colony.shutdown();
    outcome.and(stopped.map_err(Failure::from))
}

/// Carries out what needs no colony, and prepares what must be done before one takes over the signals.
fn without_colony(command: &mut Command) -> Option<Outcome> {
    match command {
        // While we wait for stdin, Ctrl-C must simply end the process.
        Command::Sql(args) => sql::read_statement(args, std::io::stdin()).err().map(Err),
        Command::Generate(Dataset::Tpch(args)) => generate::only_files(args),
        Command::TpchQuery(args) => Some(tpch::queries::print(args.number)),
        _ => None,
    }
}

async fn with_colony(colony: &Colony, command: &Command) -> Outcome {
    let interrupt = Interrupt::watch()?;
    match command {
        // It ends by a signal, which is therefore no failure.
        Command::Run(_) => run::run(colony, &interrupt).await,
        other => interrupt.guard(once(colony, other)).await,
    }
}

/// Runs a command that ends by itself.
async fn once(colony: &Colony, command: &Command) -> Outcome {
    match command {
        Command::Sql(args) => sql::run(colony, args).await,
        Command::Ingest(args) => ingest::run(colony, args).await,
        Command::Swarm(args) => swarm::run(colony, args).await,
        Command::Frames(args) => frames::run(colony, args).await,
        Command::Describe(args) => describe::run(colony, args).await,
        Command::Generate(Dataset::Tpch(args)) => generate::run(colony, args).await,
        Command::Demo(args) => demo::run(colony, args).await,
        // Taken care of by the callers.
        Command::Run(_) | Command::Shell(_) | Command::TpchQuery(_) => Ok(()),
    }
}

/// Warnings and errors; not the Delta kernel's, which logs every error that it also returns.
const DEFAULT_LOG: &str = "warn,delta_kernel=off";

/// Log events go to stderr, from warnings up unless `APIARY_LOG` says otherwise.
fn log_to_stderr() {
    let chosen = std::env::var("APIARY_LOG").unwrap_or_else(|_| DEFAULT_LOG.into());
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).parse_lossy(chosen);
    // It fails only when somebody has set a subscriber before, and then there is one.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_a_success_and_a_typo_is_not() {
        for (line, code) in [
            (vec!["apiary-node", "--help"], ExitCode::Success),
            (vec!["apiary-node", "--version"], ExitCode::Success),
            (vec!["apiary-node", "frmaes"], ExitCode::Usage),
            (vec!["apiary-node"], ExitCode::Usage),
        ] {
            let Err(error) = Cli::try_parse_from(&line) else { unreachable!() };
            assert_eq!(explain(&error), code, "{line:?}");
        }
    }
}
