//! The actor that keeps the bees alive, and stops them.
//!
//! A bee catches the panics of its work, so its actor should never die; should it all the same, it is started again on a
//! new arbiter, at most [`RESTARTS`] times within [`WINDOW`]: beyond that the bee is left out and work goes to the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use actix_rt::Arbiter;

use super::bee::Bee;
use super::colony::Core;
use super::scout::Scout;

/// How often bees are looked at: a caller of a dead bee has an error at once; this only brings the bee back.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Restarts of one bee within the window.
const RESTARTS: usize = 5;
/// The window of the restart budget.
const WINDOW: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct ColonyActor {
    core: Arc<Core>,
    arbiters: Vec<Arbiter>,
    restarts: Vec<VecDeque<Instant>>,
    stopping: bool,
}

impl ColonyActor {
    /// Starts every bee; runs on a thread with a System.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        // The last is the scout's.
        let restarts = (0..=core.slots.len()).map(|_| VecDeque::new()).collect();
        let mut actor = Self { core, arbiters: Vec::new(), restarts, stopping: false };
        for index in 0..actor.core.slots.len() {
            actor.start_bee(index);
        }
        actor.start_scout();
        actor
    }

    fn start_scout(&mut self) {
        let (arbiter, addr) = Scout::start();
        self.core.scout.install(Some(addr));
        self.arbiters.push(arbiter);
    }

    fn start_bee(&mut self, index: usize) {
        let slot = &self.core.slots[index];
        let (arbiter, addr) = Bee::start(Arc::clone(&slot.core));
        slot.install(addr);
        self.arbiters.push(arbiter);
    }

    fn look_after(&mut self) {
        if self.stopping {
            return;
        }
        self.core.spare_disk();
        for index in 0..self.core.slots.len() {
            if !self.core.slots[index].is_alive() && self.may_restart(index) {
                tracing::warn!(bee = index, "a bee stopped and is started again");
                self.start_bee(index);
            }
        }
        let scout = self.core.slots.len();
        if !self.core.scout.is_alive() && self.may_restart(scout) {
            tracing::warn!("the scout stopped and is started again");
            self.start_scout();
        }
    }

    fn may_restart(&mut self, index: usize) -> bool {
        let recent = &mut self.restarts[index];
        recent.retain(|at| at.elapsed() < WINDOW);
        if recent.len() >= RESTARTS {
            return false;
        }
        recent.push_back(Instant::now());
        true
    }
}

impl Actor for ColonyActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(LOOK_EVERY, |actor, _| actor.look_after());
    }
}

/// Stops every bee and waits for their threads.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopBees;

impl Handler<StopBees> for ColonyActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopBees, _: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        for slot in &self.core.slots {
            slot.remove();
        }
        self.core.scout.install(None);
        let arbiters = std::mem::take(&mut self.arbiters);
        for arbiter in &arbiters {
            arbiter.stop();
        }
        let joined = self.core.io().spawn_blocking(move || {
            for arbiter in arbiters {
                // A bee's thread that panicked is gone all the same.
                let _ = arbiter.join();
            }
        });
        Box::pin(async move {
            let _ = joined.await;
        })
    }
}
