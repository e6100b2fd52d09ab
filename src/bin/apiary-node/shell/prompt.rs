//! The line at the terminal: edited, remembered between runs, completed, and read on until a statement ends.

use std::path::PathBuf;

use apiary::actors::settings::state_folder;
use apiary::sql::{is_blank, split_statements};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::names::{Names, is_part};
use crate::failure::{Failure, Outcome};
use crate::progress;

/// Statements that are remembered.
const REMEMBERED: usize = 10_000;

/// What somebody typed.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: the line is given up.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// The terminal's line editor.
pub(super) struct Prompt {
    editor: Editor<Typing, FileHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    pub(super) fn open(names: Names) -> Outcome<Self> {
        let config = Config::builder()
            .max_history_size(REMEMBERED)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(terminal)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config).map_err(terminal)?;
        editor.set_helper(Some(Typing(names)));
        let history = history();
        if let Some(history) = &history {
            // There is none before the first statement.
            let _ = editor.load_history(history);
        }
        Ok(Self { editor, history })
    }

    pub(super) fn read(&mut self, prompt: &str) -> Outcome<Line> {
        match self.editor.readline(prompt) {
            Ok(text) => {
                self.remember(&text);
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(terminal(error)),
        }
    }

    fn remember(&mut self, text: &str) {
        if text.trim().is_empty() || !matches!(self.editor.add_history_entry(text), Ok(true)) {
            return;
        }
        let Some(history) = &self.history else { return };
        if let Err(error) = self.editor.append_history(history) {
            progress::say(format_args!("statements are not remembered: {}: {error}", history.display()));
            self.history = None;
        }
    }
}

/// Where statements are remembered; the folder is made, for its owner alone.
fn history() -> Option<PathBuf> {
    let folder = state_folder()?;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder).ok()?;
    Some(folder.join("history"))
}

fn terminal(error: ReadlineError) -> Failure {
    Failure::local("the terminal", error)
}

/// What helps while a line is typed.
struct Typing(Names);

impl Helper for Typing {}
impl Highlighter for Typing {}

impl Hinter for Typing {
    type Hint = String;
}

impl Completer for Typing {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..at).unwrap_or(line);
        let start = before
            .rfind(|c: char| !is_part(c))
            .map_or(0, |last| last + before.get(last..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
        Ok((start, self.0.completions(line, &before[start..])))
    }
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// The command of the shell that a text is: one that begins with a dot, or what other shells have for it.
pub(super) fn command(text: &str) -> Option<&str> {
    let text = text.trim();
    match text.trim_end_matches(';').to_ascii_lowercase().as_str() {
        "quit" | "exit" | "\\q" => Some("quit"),
        "help" | "\\?" | "\\h" => Some("help"),
        "\\d" | "\\dt" => Some("frames"),
        _ => text.strip_prefix('.'),
    }
}

/// Whether a text can be run as it is.
fn is_whole(text: &str) -> bool {
    text.trim().is_empty() || command(text).is_some() || {
        let (statements, rest) = split_statements(text);
        !statements.is_empty() && is_blank(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_goes_on_until_its_semicolon() {
        for whole in ["", " ", ".help", "SELECT 1;", "SELECT 1;  -- done\n", "SELECT 1; SELECT 2;"] {
            assert!(is_whole(whole), "{whole:?}");
        }
        for part in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "-- a"] {
            assert!(!is_whole(part), "{part:?}");
        }
    }
}
