//! `apiary-node sql`: one statement, its rows on stdout.

use std::io::Read;

use apiary::{Colony, Session};

use crate::cli::SqlArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};
use crate::progress;
use crate::stopwatch::Stopwatch;

/// Replaces a `-` by the statement that stands in `input`.
///
/// # Errors
/// [`Failure::Usage`] when there is no statement, [`Failure::Local`] when `input` cannot be read.
pub(crate) fn read_statement(args: &mut SqlArgs, mut input: impl Read) -> Outcome {
    if args.statement == "-" {
        args.statement.clear();
        input
            .read_to_string(&mut args.statement)
            .map_err(|e| Failure::local("cannot read the statement from stdin", e))?;
    }
    if args.statement.trim().is_empty() {
        return Err(Failure::Usage("there is no SQL: give a statement, or - and write it to stdin".into()));
    }
    Ok(())
}

/// Runs the statement.
pub(crate) async fn run(colony: &Colony, args: &SqlArgs) -> Outcome {
    show(&colony.session(), &args.statement, args.format, true).await
}

/// Runs a statement and writes its rows to stdout; a table's number of rows and time to stderr, where `timing` is wanted.
pub(crate) async fn show(session: &Session, statement: &str, format: Format, timing: bool) -> Outcome {
    let watch = Stopwatch::start();
    let rows = output::print(session.sql(statement), format).await?;
    if timing && format == Format::Table {
        progress::say(footer(rows, watch.millis()));
    }
    Ok(())
}

fn footer(rows: u64, millis: f64) -> String {
    let noun = if rows == 1 { "row" } else { "rows" };
    format!("{rows} {noun} in {millis:.0} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(statement: &str) -> SqlArgs {
        SqlArgs::new(statement)
    }

    #[test]
    fn a_dash_reads_stdin_and_nothing_else_does() {
        let mut dash = args("-");
        read_statement(&mut dash, "SELECT 1;\n".as_bytes()).unwrap();
        assert_eq!(dash.statement, "SELECT 1;\n");
        let mut text = args("SELECT 2");
        read_statement(&mut text, "SELECT 1".as_bytes()).unwrap();
        assert_eq!(text.statement, "SELECT 2");
    }

    #[test]
    fn no_statement_is_a_usage_error() {
        for (statement, input) in [("  ", ""), ("-", ""), ("-", " \n")] {
            let failure = read_statement(&mut args(statement), input.as_bytes()).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)), "{failure}");
        }
    }

    #[test]
    fn the_footer_counts() {
        assert_eq!(footer(1, 12.4), "1 row in 12 ms");
        assert_eq!(footer(0, 0.6), "0 rows in 1 ms");
    }
}
