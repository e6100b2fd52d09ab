//! `apiary-node shell`: statements typed one after the other, or read from a file or a pipe.
//!
//! At a terminal, lines are edited, remembered and completed, and Ctrl-C cancels the statement that runs, not the shell. From
//! a pipe, statements run until one fails, and nothing but their rows is on stdout.

mod names;
mod prompt;

use std::io::{IsTerminal, Read, stdin};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiary::sql::{is_blank, split_statements};
use apiary::{Colony, Session};
use clap::ValueEnum;
use tokio::sync::Notify;

use self::names::Names;
use self::prompt::{Line, Prompt, command};
use crate::cli::ShellArgs;
use crate::exit_codes::ExitCode;
use crate::failure::{Failure, Outcome};
use crate::interrupt::ctrl_c;
use crate::output::{Format, print_line};
use crate::{progress, sql};

const HELP: &str = "\
Statements end with a semicolon and may go over several lines. Ctrl-C cancels the one that runs; Ctrl-D leaves.
  .format table|csv|json|markdown   how rows are written
  .timing on|off                    whether the time of each statement is shown
  .read FILE                        runs the statements of a file
  .frames                           what there is
  .help                             this
  .quit                             leaves";

/// Runs statements until there are no more.
pub(crate) fn run(colony: &Colony, args: &ShellArgs) -> Outcome {
    let mut script = (!stdin().is_terminal()).then(String::new);
    if let Some(text) = &mut script {
        stdin().read_to_string(text).map_err(|e| Failure::local("cannot read statements from stdin", e))?;
    }
    // While we wait for stdin, Ctrl-C must simply end the process.
    let interrupts = Interrupts::watch(colony)?;
    let mut shell = Shell { colony, session: colony.session(), format: args.format, timing: true, interrupts };
    match script {
        Some(text) => shell.script(&text),
        None => shell.interact(),
    }
}

struct Shell<'a> {
    colony: &'a Colony,
    session: Session,
    format: Format,
    timing: bool,
    interrupts: Arc<Interrupts>,
}

/// What Ctrl-C means while a statement runs: the first cancels it, another one ends the process, whatever it waits for.
#[derive(Default)]
struct Interrupts {
    seen: AtomicBool,
    asked: Notify,
}

impl Interrupts {
    /// Takes over Ctrl-C. The line editor puts back what it finds when a line begins, so this comes before the first.
    fn watch(colony: &Colony) -> Outcome<Arc<Self>> {
        let this = Arc::<Self>::default();
        let interrupts = Arc::clone(&this);
        let mut signals =
            colony.block_on(async { ctrl_c() }).map_err(|e| Failure::local("cannot handle signals", e))?;
        drop(colony.spawn(async move {
            while signals.recv().await.is_some() {
                if interrupts.seen.swap(true, Ordering::Relaxed) {
                    std::process::exit(ExitCode::Cancelled.number().into());
                }
                interrupts.asked.notify_waiters();
            }
        }));
        Ok(this)
    }

    async fn next(&self) {
        let asked = self.asked.notified();
        self.seen.store(false, Ordering::Relaxed);
        asked.await;
    }
}

/// Whether more is to be read.
#[derive(PartialEq, Eq)]
enum Next {
    Goes,
    Ends,
}

impl Shell<'_> {
    fn interact(&mut self) -> Outcome {
        let names = Names::new(self.colony);
        let mut prompt = Prompt::open(names.clone())?;
        progress::say(format_args!(
            "apiary {} on {}. Statements end with ; and .help shows more.",
            env!("CARGO_PKG_VERSION"),
            self.colony.settings().storage
        ));
        loop {
            let text = match prompt.read(&format!("{}.{}> ", self.session.hive(), self.session.box_name()))? {
                Line::Text(text) => text,
                Line::Interrupted => continue,
                Line::End => return Ok(()),
            };
            match self.entered(&text) {
                Ok(Next::Goes) => {}
                Ok(Next::Ends) => return Ok(()),
                Err(Failure::PipeClosed) => return Err(Failure::PipeClosed),
                Err(failure) => progress::say(failure),
            }
            names.forget();
        }
    }

    /// Does what was typed: a command of the shell, or statements.
    fn entered(&mut self, text: &str) -> Outcome<Next> {
        match command(text) {
            Some(command) => self.command(command),
            None => self.script(text).map(|()| Next::Goes),
        }
    }

    /// Runs statements until one fails.
    fn script(&mut self, text: &str) -> Outcome {
        let (statements, rest) = split_statements(text);
        let last = Some(rest).filter(|rest| !is_blank(rest));
        for statement in statements.into_iter().chain(last) {
            self.statement(statement)?;
        }
        Ok(())
    }

    fn statement(&self, statement: &str) -> Outcome {
        let work = sql::show(&self.session, statement, self.format, self.timing);
        self.colony.block_on(async {
            // Dropping the work cancels it.
            tokio::select! {
                biased;
                () = self.interrupts.next() => Err(Failure::Cancelled),
                outcome = work => outcome,
            }
        })
    }

    fn command(&mut self, command: &str) -> Outcome<Next> {
        let mut words = command.split_whitespace();
        let (name, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
        match (name, &rest[..]) {
            ("quit" | "exit" | "q", []) => return Ok(Next::Ends),
            ("help" | "h", []) => print_line(HELP)?,
            ("frames", []) => self.statement("SHOW FRAMES")?,
            ("timing", ["on"]) => self.timing = true,
            ("timing", ["off"]) => self.timing = false,
            ("format", [format]) => {
                self.format = Format::from_str(format, true).map_err(|_| {
                    Failure::Usage(format!("there is no format '{format}': use table, csv, json or markdown"))
                })?;
            }
            ("read", [file]) => {
                let text = std::fs::read_to_string(Path::new(file))
                    .map_err(|e| Failure::local(format_args!("cannot read {file}"), e))?;
                self.script(&text)?;
            }
            _ => return Err(Failure::Usage(format!("'.{command}' is no command of the shell:\n{HELP}"))),
        }
        Ok(Next::Goes)
    }
}
