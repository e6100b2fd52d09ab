//! The actor that owns commits: a thin shell around [`crate::storage::Ledger`].

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};

use super::bee::caught;
use crate::storage::cells::CellFile;
use crate::storage::{Change, FrameState, Ledger};
use crate::{Error, Result};

/// Puts cells into a frame; answers the version that holds them.
#[derive(Message)]
#[rtype(result = "Result<Arc<FrameState>>")]
struct Commit {
    base: Arc<FrameState>,
    cells: Vec<CellFile>,
    change: Change,
}

/// The actor; see the module.
pub(crate) struct LedgerActor {
    ledger: Ledger,
}

impl Actor for LedgerActor {
    type Context = Context<Self>;
}

impl Handler<Commit> for LedgerActor {
    type Result = ResponseFuture<Result<Arc<FrameState>>>;

    fn handle(&mut self, message: Commit, _: &mut Self::Context) -> Self::Result {
        let ledger = self.ledger.clone();
        Box::pin(async move { caught(ledger.commit(&message.base, message.cells, message.change)).await? })
    }
}

/// The way to the ledger actor.
#[derive(Clone)]
pub(crate) struct LedgerHandle {
    addr: Addr<LedgerActor>,
}

impl LedgerHandle {
    /// Starts the actor on the calling thread's arbiter.
    pub(crate) fn start(ledger: Ledger) -> Self {
        Self { addr: LedgerActor { ledger }.start() }
    }

    /// Commits `cells`.
    ///
    /// # Errors
    /// As [`Ledger::commit`]; `Closed` when the actor stopped, and then the commit may or may not have landed.
    pub(crate) async fn commit(
        &self,
        base: &Arc<FrameState>,
        cells: Vec<CellFile>,
        change: Change,
    ) -> Result<Arc<FrameState>> {
        let commit = Commit { base: Arc::clone(base), cells, change };
        self.addr.send(commit).await.map_err(|_| {
            Error::closed(format!(
                "the colony stopped during a commit of {}: look at its history to see whether it landed",
                base.frame
            ))
        })?
    }
}
