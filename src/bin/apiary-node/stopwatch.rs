//! The one place where this binary reads a clock: how long the user has waited.

use std::time::{Duration, Instant};

/// Measures wall time from its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Milliseconds since the start.
    pub(crate) fn millis(self) -> f64 {
        self.elapsed().as_secs_f64() * 1000.0
    }
}
