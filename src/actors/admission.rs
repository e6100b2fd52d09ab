//! How many statements may be in a colony and how many long ones may run: bounded before any mailbox, because a mailbox
//! is no bound.
//!
//! Everybody who enters gets a ticket, and is planned at once. What turns out to be short runs at once, too; what is long
//! waits for one of a few places, so that short ones are not kept waiting by long ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// When to try again where there was no room: the time of a few queries.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Places for long statements that run, and a bounded number of those that wait.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    running_limit: usize,
    waiting_limit: usize,
    inside: AtomicUsize,
    waiting: AtomicUsize,
    closed: AtomicBool,
}

/// A statement's stay; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    place: OnceCell<OwnedSemaphorePermit>,
}

impl Admission {
    pub(crate) fn new(running: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(running)),
            running_limit: running,
            waiting_limit: waiting,
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// Lets a statement in.
    ///
    /// # Errors
    /// `Busy` when too many are in; `Closed` when the colony stops.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Ticket> {
        self.require_open()?;
        let before = self.inside.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { admission: Arc::clone(self), place: OnceCell::new() };
        if before < self.running_limit + self.waiting_limit {
            return Ok(ticket);
        }
        Err(Error::busy(format!(
            "{} queries run and {} wait: try again in a moment, or raise max_queries or queue",
            self.running(),
            self.waiting()
        ))
        .with_retry_after(RETRY_AFTER))
    }

    /// Refuses everybody from now on, those who wait included.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.places.close();
    }

    pub(crate) fn require_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Statements that are in and do not wait.
    pub(crate) fn running(&self) -> usize {
        self.inside.load(Ordering::Relaxed).saturating_sub(self.waiting())
    }

    /// Statements that have a place.
    pub(crate) fn placed(&self) -> usize {
        self.running_limit.saturating_sub(self.places.available_permits())
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How full the queue is, 0..=1.
    pub(crate) fn pressure(&self) -> f64 {
        self.waiting() as f64 / self.waiting_limit.max(1) as f64
    }
}

impl Ticket {
    /// Waits for a place; a statement that has one keeps it.
    ///
    /// # Errors
    /// `Closed` when the colony stops.
    pub(crate) async fn place(&self) -> Result<()> {
        let wait = || async {
            let _waiting = Waiting::of(&self.admission.waiting);
            Arc::clone(&self.admission.places).acquire_owned().await.map_err(|_| closed())
        };
        self.place.get_or_try_init(wait).await.map(|_| ())
    }

    /// Counts this statement among those that wait, while the guard lives.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        Waiting::of(&self.admission.waiting)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One who waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn closed() -> Error {
    Error::closed("the colony is stopped: start a new one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn places_then_queue_then_busy() {
        let admission = Admission::new(1, 1);
        let first = admission.enter().unwrap();
        first.place().await.unwrap();
        let second = admission.enter().unwrap();
        {
            let place = second.place();
            tokio::pin!(place);
            assert!(futures::poll!(&mut place).is_pending());
            assert_eq!((admission.running(), admission.waiting(), admission.placed()), (1, 1, 1));
            let error = admission.enter().unwrap_err();
            assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Busy, Some(RETRY_AFTER)));
            drop(first);
            place.await.unwrap();
        }
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(second);
        assert_eq!((admission.running(), admission.placed()), (0, 0));
    }

    #[tokio::test]
    async fn what_needs_no_place_passes_by_those_who_wait() {
        let admission = Admission::new(1, 2);
        let long = admission.enter().unwrap();
        long.place().await.unwrap();
        let waiting = admission.enter().unwrap();
        let place = waiting.place();
        tokio::pin!(place);
        assert!(futures::poll!(&mut place).is_pending());
        let _short = admission.enter().unwrap();
        assert_eq!(admission.running(), 2);
    }

    #[tokio::test]
    async fn waiting_ends_at_the_close() {
        let admission = Admission::new(1, 4);
        let first = admission.enter().unwrap();
        first.place().await.unwrap();
        let second = admission.enter().unwrap();
        let waiting = second.place();
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        admission.close();
        assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Closed);
    }
}
