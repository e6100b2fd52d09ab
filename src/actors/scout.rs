//! The scout: a thread beside the bees that plans every statement and runs the short ones.
//!
//! A bee is one thread, and an operator of a long query may hold it for seconds. A statement that reads a few rows would
//! wait for it, and so would every plan. The scout's thread is the operating system's to interleave with the bees'; it
//! does nothing else, and what it runs counts in the chamber of the bee that it was meant for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, Addr, Context, Handler, Message};
use actix_rt::Arbiter;

use super::bee::runtime;
use super::lead::Lead;
use crate::sync::lock;
use crate::{Error, Result};

/// SQL texts above this length are planned by a bee: they may take long.
const LONG_TEXT: usize = 16 << 10;
/// Statements that the scout has in hand before bees plan, too.
const IN_HAND: usize = 8;

/// The actor; see the module.
pub(crate) struct Scout;

impl Scout {
    /// Starts it on an arbiter of its own.
    pub(crate) fn start() -> (Arbiter, Addr<Self>) {
        let arbiter = Arbiter::with_tokio_rt(|| runtime("apiary-scout".into()));
        let addr = Self::start_in_arbiter(&arbiter.handle(), |_| Self);
        (arbiter, addr)
    }
}

impl Actor for Scout {
    type Context = Context<Self>;
}

/// Plans a statement and sees to its work; see [`Lead`].
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LeadQuery(pub(crate) Lead);

impl Handler<LeadQuery> for Scout {
    type Result = ();

    fn handle(&mut self, LeadQuery(lead): LeadQuery, _: &mut Self::Context) {
        tokio::spawn(lead.run());
    }
}

/// The scout's place in the colony: its actor may be replaced.
#[derive(Default)]
pub(crate) struct ScoutSlot {
    addr: Mutex<Option<Addr<Scout>>>,
    in_hand: AtomicUsize,
}

impl ScoutSlot {
    pub(crate) fn install(&self, addr: Option<Addr<Scout>>) {
        *lock(&self.addr) = addr;
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.addr().is_ok()
    }

    /// The living actor.
    ///
    /// # Errors
    /// `Closed` when it is stopped, or just being replaced.
    pub(crate) fn addr(&self) -> Result<Addr<Scout>> {
        let addr = lock(&self.addr).clone();
        addr.filter(Addr::connected).ok_or_else(|| Error::closed("the scout is not running"))
    }

    /// Whether it should plan a statement of that length.
    pub(crate) fn takes(&self, text: usize) -> bool {
        text <= LONG_TEXT && self.in_hand.load(Ordering::Relaxed) < IN_HAND && self.is_alive()
    }

    /// Counts a statement that it has in hand, while the guard lives.
    pub(crate) fn in_hand(&self) -> InHand<'_> {
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        InHand(&self.in_hand)
    }
}

/// See [`ScoutSlot::in_hand`].
pub(crate) struct InHand<'a>(&'a AtomicUsize);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
