//! How many queries may run and how many may wait: bounded before any mailbox, because a mailbox is no bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// Places for running queries, and a bounded queue before them.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    running_limit: usize,
    waiting: AtomicUsize,
    waiting_limit: usize,
    closed: AtomicBool,
}

/// One query's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(running: usize, waiting: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(running)),
            running_limit: running,
            waiting: AtomicUsize::new(0),
            waiting_limit: waiting,
            closed: AtomicBool::new(false),
        }
    }

    /// Waits for a place, at most until `limit`.
    ///
    /// # Errors
    /// `Busy` when too many wait already; `TimedOut` when the limit passes; `Closed` when the colony stops.
    pub(crate) async fn enter(&self, limit: Option<Duration>) -> Result<Permit> {
        self.require_open()?;
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Permit { _place: place });
        }
        let _waiting = self.queue()?;
        let place = Arc::clone(&self.places).acquire_owned();
        let place = match limit {
            None => place.await,
            Some(limit) => tokio::time::timeout(limit, place).await.map_err(|_| {
                Error::timed_out("the query waited for its turn until its time limit: run fewer at once")
            })?,
        };
        match place {
            Ok(place) => Ok(Permit { _place: place }),
            Err(_) => Err(closed()),
        }
    }

    /// Refuses everybody from now on, those who wait included.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.places.close();
    }

    pub(crate) fn require_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    pub(crate) fn running(&self) -> usize {
        self.running_limit - self.places.available_permits().min(self.running_limit)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How full the queue is, 0..=1.
    pub(crate) fn pressure(&self) -> f64 {
        self.waiting() as f64 / self.waiting_limit.max(1) as f64
    }

    fn queue(&self) -> Result<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        if before < self.waiting_limit {
            return Ok(waiting);
        }
        Err(Error::busy(format!(
            "{} queries run and {before} wait: try again in a moment, or raise max_queries or queue",
            self.running_limit
        )))
    }
}

struct Waiting<'a>(&'a AtomicUsize);

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
        let first = admission.enter(None).await.unwrap();
        let second = admission.enter(Some(Duration::from_secs(5)));
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(admission.enter(None).await.unwrap_err().kind(), ErrorKind::Busy);
        drop(first);
        second.await.unwrap();
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn waiting_ends_at_the_limit_and_at_the_close() {
        let admission = Admission::new(1, 4);
        let _first = admission.enter(None).await.unwrap();
        let limited = admission.enter(Some(Duration::from_millis(10))).await;
        assert_eq!(limited.unwrap_err().kind(), ErrorKind::TimedOut);
        let waiting = admission.enter(None);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        admission.close();
        assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Closed);
    }
}
