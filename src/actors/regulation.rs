//! What a node does at its temperature (see [`super::temperature`]): who comes in, who waits, who is held back.

use std::time::{Duration, Instant};

use super::admission::Ticket;
use super::colony::Core;
use super::temperature::{Band, Load};
use crate::sql::Backpressure;
use crate::{Error, Result};

/// Longest time that a write is held back: a client that waits longer takes the node for dead.
const HELD_BACK: Duration = Duration::from_secs(30);
/// Longest time that a query waits for the node to cool down: one that stays hot by a reader that stands still must not
/// keep everybody waiting for ever.
const COOLING: Duration = Duration::from_secs(30);
/// Between two looks at the thermometer.
const LOOK: Duration = Duration::from_millis(50);
/// When to try again at a node that refuses: it cools down within a few seconds once work ends.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Core {
    /// What the node's temperature is made of now.
    pub(crate) fn load(&self) -> Load {
        let busy = self.slots.iter().filter(|slot| slot.core.active() > 0).count();
        let used: u64 = self.slots.iter().map(|slot| slot.core.combs.used()).sum();
        let room: u64 = self.slots.iter().map(|slot| slot.core.combs.room()).sum();
        Load {
            bees: busy as f64 / self.slots.len().max(1) as f64,
            memory: used as f64 / room.max(1) as f64,
            queue: self.admission.pressure(),
        }
    }

    /// How loaded the node is, smoothed, 0..=1.
    pub(crate) fn temperature(&self) -> f64 {
        self.thermometer.read(&self.load()).0
    }

    /// What the node does at its temperature.
    pub(crate) fn band(&self) -> Band {
        self.thermometer.read(&self.load()).1
    }

    /// Lets a statement in.
    ///
    /// # Errors
    /// `Busy`, with the time after which to try again, when the node is critical or too many are in; `Closed` when it stops.
    pub(crate) fn admit(&self) -> Result<Ticket> {
        match self.band() {
            Band::Critical => Err(self.too_hot("refuses new work")),
            _ => self.admission.enter(),
        }
    }

    /// Waits for a place among the long statements, and for a hot node to cool down while others work.
    ///
    /// # Errors
    /// `Closed` when the colony stops.
    pub(crate) async fn turn(&self, ticket: &Ticket) -> Result<()> {
        ticket.place().await?;
        let alone = || self.admission.placed() < 2;
        let _waiting = (self.band() >= Band::Hot && !alone()).then(|| ticket.waits());
        until(COOLING, || self.band() < Band::Hot || alone()).await;
        self.admission.require_open()
    }

    /// Holds a write back while the node is hot.
    ///
    /// # Errors
    /// `Busy`, with the time after which to try again, when it is still hot, or at once where that is asked for.
    pub(crate) async fn hold_back(&self, backpressure: Backpressure) -> Result<()> {
        let cool = || self.band() < Band::Hot;
        let goes_on = match backpressure {
            Backpressure::Ignore => true,
            Backpressure::Error => cool(),
            Backpressure::Block => until(HELD_BACK, cool).await,
        };
        if goes_on { Ok(()) } else { Err(self.too_hot("holds writes back")) }
    }

    fn too_hot(&self, what: &str) -> Error {
        let (temperature, band) = self.thermometer.read(&self.load());
        let load = self.load();
        Error::busy(format!(
            "the node is {} and {what}: temperature {temperature:.2} (bees {:.2}, memory {:.2}, queue {:.2}): try again in {} s, \
             or give it less at once",
            band.as_str(),
            load.bees,
            load.memory,
            load.queue,
            RETRY_AFTER.as_secs()
        ))
        .with_retry_after(RETRY_AFTER)
    }
}

/// Waits until `ready`, at most `longest`; whether it is.
async fn until(longest: Duration, ready: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !ready() {
        if begun.elapsed() >= longest {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
