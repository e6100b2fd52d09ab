//! Ctrl-C and termination: the first signal asks the running work to stop, the second ends the process at once.
//!
//! The work is a future on the main thread. When the first signal comes it is dropped, which cancels queries and
//! writes in the colony; the caller then shuts the colony down in order. A colony that does not come to rest can
//! always be left by a second signal, which is why the signals are awaited on another thread.

use std::io;

use tokio_util::sync::CancellationToken;

use crate::exit_codes::ExitCode;
use crate::failure::{Failure, Outcome};
use crate::progress;

/// Tells running work that the user wants it to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(CancellationToken);

impl Interrupt {
    /// Takes over the process's signals. Must be called with a tokio runtime entered.
    ///
    /// # Errors
    /// When the system does not let us handle signals.
    pub(crate) fn watch() -> Outcome<Self> {
        let signals = Signals::register().map_err(|e| Failure::local("cannot handle signals", e))?;
        let interrupt = Self(CancellationToken::new());
        drop(tokio::spawn(obey(signals, interrupt.0.clone())));
        Ok(interrupt)
    }

    /// Returns once a signal has come.
    pub(crate) async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Runs `work` unless and until a signal comes; then it is dropped.
    ///
    /// # Errors
    /// [`Failure::Cancelled`] after a signal, otherwise what `work` fails with.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.0.run_until_cancelled(work).await.unwrap_or(Err(Failure::Cancelled))
    }
}

async fn obey(mut signals: Signals, token: CancellationToken) {
    signals.next().await;
    progress::say("stopping; once more to abort");
    token.cancel();
    signals.next().await;
    std::process::exit(ExitCode::Cancelled.number().into());
}

/// Takes over Ctrl-C, from now on and not when it is first waited for. Must be called with a tokio runtime entered.
#[cfg(unix)]
pub(crate) fn ctrl_c() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
}

#[cfg(windows)]
pub(crate) use tokio::signal::windows::ctrl_c;

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn register() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: ctrl_c()?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self(ctrl_c()?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_by_itself_or_by_the_signal() {
        let interrupt = Interrupt(CancellationToken::new());
        assert_eq!(interrupt.guard(async { Ok(7) }).await.unwrap(), 7);
        interrupt.0.cancel();
        let stopped = interrupt.guard(std::future::pending::<Outcome<()>>()).await;
        assert!(matches!(stopped, Err(Failure::Cancelled)));
    }
}
