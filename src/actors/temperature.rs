//! How loaded a node is: 0 is idle, 1 is at every limit at once; and what the node does about it.
//!
//! | band | temperature | what it means |
//! |---|---|---|
//! | cold | below 0.3 | the node keeps house |
//! | ideal | up to 0.7 | housekeeping goes on only where it is urgent |
//! | warm | up to 0.85 | housekeeping waits |
//! | hot | up to 0.95 | writes are held back, long queries wait for their turn |
//! | critical | above | new work is refused, with the time after which to try again |

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::lock;

/// Time in which a reading follows a change of load by two thirds: a burst shorter than that is no heat.
const SMOOTHING: Duration = Duration::from_secs(2);
/// How far a reading must fall below a band's lower edge to leave it: a load at the edge does not flap.
const HYSTERESIS: f64 = 0.05;

/// What a temperature is made of, each as a share of its limit in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Load {
    /// Bees that have work.
    pub bees: f64,
    /// Memory in use.
    pub memory: f64,
    /// Queries that wait.
    pub queue: f64,
}

impl Load {
    /// `0.4·bees + 0.4·memory + 0.2·queue`, in 0..=1.
    ///
    /// ```
    /// use apiary::actors::temperature::Load;
    /// assert_eq!(Load { bees: 1.0, memory: 1.0, queue: 1.0 }.temperature(), 1.0);
    /// assert_eq!(Load { bees: 0.5, memory: 0.0, queue: 0.0 }.temperature(), 0.2);
    /// ```
    pub fn temperature(&self) -> f64 {
        let share = |value: f64| value.clamp(0.0, 1.0);
        0.4 * share(self.bees) + 0.4 * share(self.memory) + 0.2 * share(self.queue)
    }
}

/// What a node does at its temperature; see the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// Below 0.3.
    #[default]
    Cold,
    /// Up to 0.7.
    Ideal,
    /// Up to 0.85.
    Warm,
    /// Up to 0.95.
    Hot,
    /// Above.
    Critical,
}

impl Band {
    const ALL: [Self; 5] = [Self::Cold, Self::Ideal, Self::Warm, Self::Hot, Self::Critical];

    /// The band that a temperature is in.
    pub fn of(temperature: f64) -> Self {
        Self::ALL.into_iter().rev().find(|band| temperature > band.edge()).unwrap_or_default()
    }

    /// As a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Ideal => "ideal",
            Self::Warm => "warm",
            Self::Hot => "hot",
            Self::Critical => "critical",
        }
    }

    /// The temperature above which it begins.
    fn edge(self) -> f64 {
        match self {
            Self::Cold => f64::NEG_INFINITY,
            Self::Ideal => 0.3,
            Self::Warm => 0.7,
            Self::Hot => 0.85,
            Self::Critical => 0.95,
        }
    }

    /// The band after this one when the temperature is now `temperature`.
    fn next(self, temperature: f64) -> Self {
        Self::of(temperature).max(self.min(Self::of(temperature + HYSTERESIS)))
    }
}

/// A node's thermometer. It has no clock of its own that ticks: a reading moves towards the load at the time it is read,
/// by the time since the last.
#[derive(Debug)]
pub(crate) struct Thermometer(Mutex<Reading>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    temperature: f64,
    band: Band,
}

impl Thermometer {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Reading { at: Instant::now(), temperature: 0.0, band: Band::Cold }))
    }

    /// The temperature and its band, when the load is now `load`.
    pub(crate) fn read(&self, load: &Load) -> (f64, Band) {
        self.read_at(load, Instant::now())
    }

    fn read_at(&self, load: &Load, now: Instant) -> (f64, Band) {
        let mut reading = lock(&self.0);
        let passed = now.saturating_duration_since(reading.at).as_secs_f64();
        let weight = 1.0 - (-passed / SMOOTHING.as_secs_f64()).exp();
        let temperature = reading.temperature + weight * (load.temperature() - reading.temperature);
        *reading = Reading { at: now.max(reading.at), temperature, band: reading.band.next(temperature) };
        // Thousandths: more is noise.
        ((reading.temperature * 1e3).round() / 1e3, reading.band)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Load = Load { bees: 1.0, memory: 1.0, queue: 1.0 };
    const IDLE: Load = Load { bees: 0.0, memory: 0.0, queue: 0.0 };

    #[test]
    fn the_edges_are_those_of_the_table() {
        let bands = [0.0, 0.3, 0.31, 0.7, 0.71, 0.85, 0.86, 0.95, 0.96, 1.0].map(|t| Band::of(t).as_str());
        let wanted = ["cold", "cold", "ideal", "ideal", "warm", "warm", "hot", "hot", "critical", "critical"];
        assert_eq!(bands, wanted);
    }

    #[test]
    fn a_burst_is_no_heat_and_a_load_that_stays_is() {
        let (thermometer, start) = (Thermometer::new(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        thermometer.read_at(&IDLE, after(0));
        assert!(thermometer.read_at(&FULL, after(100)).0 < 0.1);
        assert_eq!(thermometer.read_at(&FULL, after(10_000)).1, Band::Critical);
        assert_eq!(thermometer.read_at(&IDLE, after(30_000)).1, Band::Cold);
    }

    #[test]
    fn a_load_at_an_edge_does_not_flap() {
        let mut band = Band::Cold;
        let mut changes = 0;
        for step in 0..100 {
            let next = band.next(if step % 2 == 0 { 0.86 } else { 0.84 });
            changes += usize::from(next != band);
            band = next;
        }
        assert_eq!((changes, band), (1, Band::Hot));
        assert_eq!(band.next(0.79), Band::Warm);
        assert_eq!(Band::Critical.next(0.1), Band::Cold);
    }
}
