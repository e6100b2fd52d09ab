//! The one hold that Python objects have on a colony.
//!
//! Threads do not survive `fork`, so in a child process the colony is a corpse: using it would wait for ever, and even
//! dropping it could. [`Link`] remembers the process it was made in, refuses work in any other, and leaks the corpse there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, SendError};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use super::input::Readers;
use super::wait::{Ended, receive};
use crate::{Colony, Error, Result, Session, Settings};

/// A colony, the session of one `Apiary` object, and the process they live in.
pub(super) struct Link {
    /// `None` only while it is dropped.
    parts: Option<(Colony, Session)>,
    process: u32,
    closed: AtomicBool,
    readers: Arc<Readers>,
}

/// Longest wait for readers of Python data when an Apiary is closed.
const READERS_END: Duration = Duration::from_secs(1);

/// The process in which a colony was first started; 0 before that.
static FIRST_PROCESS: AtomicU32 = AtomicU32::new(0);

fn forked() -> Error {
    Error::closed(
        "this process was forked from one that uses Apiary, and its threads did not come along: start child processes \
         with multiprocessing's 'spawn' method, or fork before the first Apiary",
    )
}

impl Link {
    /// Starts a colony, with the GIL released and Ctrl-C honoured.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`] in a process that was forked from one with a colony: what its threads held when they
    /// vanished, locks among it, is in an unknown state, and a new colony would crash on it now and then.
    pub(super) fn start(py: Python<'_>, settings: Settings) -> Result<Arc<Self>, Ended> {
        let here = std::process::id();
        let first =
            FIRST_PROCESS.compare_exchange(0, here, Ordering::AcqRel, Ordering::Acquire).unwrap_or_else(|pid| pid);
        if first != 0 && first != here {
            return Err(Ended::Failed(forked()));
        }
        let colony = start_on_thread(py, settings)?;
        let session = colony.session();
        let parts = Some((colony, session));
        Ok(Arc::new(Self {
            parts,
            process: std::process::id(),
            closed: AtomicBool::new(false),
            readers: Arc::default(),
        }))
    }

    /// The colony and its session.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`] after [`Link::close`] and in a forked process.
    pub(super) fn parts(&self) -> Result<&(Colony, Session)> {
        if self.is_forked() {
            return Err(forked());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("this Apiary is closed: create a new one"));
        }
        self.parts.as_ref().ok_or_else(|| Error::closed("this Apiary is closed"))
    }

    /// The colony alone; errors as [`Link::parts`].
    pub(super) fn colony(&self) -> Result<&Colony> {
        self.parts().map(|(colony, _)| colony)
    }

    /// The threads that pull this Apiary's readers of Python data.
    pub(super) fn readers(&self) -> &Arc<Readers> {
        &self.readers
    }

    /// Whether this process is not the one that started the colony.
    pub(super) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// Stops the colony and waits for its threads; does nothing when it is stopped, or in a forked process, where
    /// there is nothing to stop. The caller has released the GIL.
    pub(super) fn close(&self) -> Result<()> {
        if self.is_forked() || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let stopped = self.parts.as_ref().map_or(Ok(()), |(colony, _)| colony.shutdown());
        self.readers.wait(READERS_END);
        stopped
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        if self.is_forked() {
            std::mem::forget(parts);
        } else if !self.closed.load(Ordering::Acquire) {
            // On a thread of its own: Python's collector may run anywhere, with the GIL held, and must not wait.
            drop(thread::Builder::new().name("apiary-stop".into()).spawn(move || parts.0.shutdown()));
        }
    }
}

/// Opening a meadow talks to storage, so it can take long and must be interruptible.
fn start_on_thread(py: Python<'_>, settings: Settings) -> Result<Colony, Ended> {
    // No buffer: a colony that nobody waits for any more comes back to its thread and is stopped there.
    let (done, answer) = mpsc::sync_channel(0);
    let starter = move || {
        if let Err(SendError(Ok(colony))) = done.send(Colony::start(settings)) {
            drop(colony.shutdown());
        }
    };
    thread::Builder::new()
        .name("apiary-start".into())
        .spawn(starter)
        .map_err(|error| Ended::Failed(Error::internal(format!("cannot start a thread: {error}"))))?;
    py.detach(move || receive(&answer))
}
