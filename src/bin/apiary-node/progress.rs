//! What the user sees on stderr while work runs: a bar on a terminal, now and then a plain line elsewhere.
//!
//! Data never comes here, so a command's output can be piped while its progress stays in sight. A stderr that cannot be
//! written to is ignored: nobody reads it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apiary::size::format_size;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::stopwatch::Stopwatch;

/// Seconds between two plain lines: often enough to see that it lives, seldom enough for a log.
const LINE_SECONDS: u64 = 5;

/// How often a bar moves by itself: what the eye takes for steady.
const TICK: Duration = Duration::from_millis(120);

/// Writes one line on stderr.
pub(crate) fn say(line: impl fmt::Display) {
    // A stderr that is closed or full has no reader to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Rows of data.
    Rows,
    /// Bytes of input.
    Bytes,
    /// Queries of a series.
    Queries,
}

impl Unit {
    fn show(self, count: u64) -> String {
        match self {
            Self::Rows => format!("{} rows", HumanCount(count)),
            Self::Bytes => format_size(count),
            Self::Queries => format!("{count} queries"),
        }
    }

    /// The template of a bar with a known end.
    fn template(self) -> &'static str {
        match self {
            Self::Rows => "{prefix:<12} {wide_bar} {human_pos}/{human_len} rows, {eta} left {msg}",
            Self::Bytes => "{prefix:<12} {wide_bar} {binary_bytes}/{binary_total_bytes}, {eta} left {msg}",
            Self::Queries => "{prefix:<12} {wide_bar} {pos}/{len} queries {msg}",
        }
    }

    /// The template of a bar whose end is unknown.
    fn open_template(self) -> &'static str {
        match self {
            Self::Bytes => "{prefix:<12} {spinner} {binary_bytes}, {elapsed} {msg}",
            Self::Rows | Self::Queries => "{prefix:<12} {spinner} {human_pos}, {elapsed} {msg}",
        }
    }
}

/// Shows how far some work is; cheap to clone, usable from any thread, and gone from the screen when the last clone is.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Shown>);

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
}

impl Progress {
    /// Starts showing `label`, up to `total` where that is known.
    pub(crate) fn start(label: &str, total: Option<u64>, unit: Unit) -> Self {
        let shown = if io::stderr().is_terminal() {
            Shown::Bar(bar(label, total, unit))
        } else {
            Shown::Lines(Lines::new(label, total, unit))
        };
        Self(Arc::new(shown))
    }

    /// Counts `more` as done.
    pub(crate) fn add(&self, more: u64) {
        match &*self.0 {
            Shown::Bar(bar) => bar.inc(more),
            Shown::Lines(lines) => lines.at(lines.position.fetch_add(more, Ordering::Relaxed) + more),
        }
    }

    /// Sets what is done to `position`.
    pub(crate) fn set(&self, position: u64) {
        match &*self.0 {
            Shown::Bar(bar) => bar.set_position(position),
            Shown::Lines(lines) => {
                lines.position.store(position, Ordering::Relaxed);
                lines.at(position);
            }
        }
    }

    /// Puts `text` beside the bar.
    pub(crate) fn note(&self, text: String) {
        if let Shown::Bar(bar) = &*self.0 {
            bar.set_message(text);
        }
    }

    /// Takes the bar off the screen for good, whatever other clones do.
    pub(crate) fn clear(&self) {
        if let Shown::Bar(bar) = &*self.0 {
            bar.finish_and_clear();
        }
    }

    /// Runs `f`, which writes to the terminal, with the bar out of its way.
    pub(crate) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        match &*self.0 {
            Shown::Bar(bar) => bar.suspend(f),
            Shown::Lines(_) => f(),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), unit.template()),
        None => (ProgressBar::no_length(), unit.open_template()),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(label.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Progress where no bar can be drawn.
#[derive(Debug)]
struct Lines {
    label: String,
    total: Option<u64>,
    unit: Unit,
    position: AtomicU64,
    watch: Stopwatch,
    /// Second of the last line.
    said: AtomicU64,
}

impl Lines {
    fn new(label: &str, total: Option<u64>, unit: Unit) -> Self {
        Self {
            label: label.to_owned(),
            total,
            unit,
            position: AtomicU64::new(0),
            watch: Stopwatch::start(),
            said: AtomicU64::new(0),
        }
    }

    /// Writes a line if the last one is old enough. Of several threads that find so, one writes.
    fn at(&self, position: u64) {
        let now = self.watch.elapsed().as_secs();
        let said = self.said.load(Ordering::Relaxed);
        let due = now >= said + LINE_SECONDS;
        if due && self.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            say(self.line(position, now));
        }
    }

    fn line(&self, position: u64, seconds: u64) -> String {
        let done = self.unit.show(position);
        match self.total {
            Some(total) if total > 0 => {
                let percent = (position.min(total) as f64 * 100.0 / total as f64) as u64;
                format!("{}: {done} of {} ({percent} %), {seconds} s", self.label, self.unit.show(total))
            }
            _ => format!("{}: {done}, {seconds} s", self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_it_is() {
        let known = Lines::new("lineitem", Some(6_001_215), Unit::Rows);
        assert_eq!(known.line(3_000_000, 12), "lineitem: 3,000,000 rows of 6,001,215 rows (49 %), 12 s");
        let open = Lines::new("ingest", None, Unit::Bytes);
        assert_eq!(open.line(2048, 5), "ingest: 2.0 KB, 5 s");
        let empty = Lines::new("ingest", Some(0), Unit::Rows);
        assert_eq!(empty.line(0, 0), "ingest: 0 rows, 0 s");
    }

    #[test]
    fn every_template_parses() {
        for unit in [Unit::Rows, Unit::Bytes, Unit::Queries] {
            for template in [unit.template(), unit.open_template()] {
                assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
            }
        }
    }
}
