//! Changes of a frame that its rows must allow: they are counted first.

use std::sync::Arc;

use super::change::{Run, may_run_again, pause_before_next};
use super::colony::Core;
use super::query::QueryRecord;
use crate::sql::Ask;
use crate::sql::row_change::quoted;
use crate::storage::{Alteration, FrameRef, FrameState};
use crate::{Error, Result};

/// Changes a frame, as often as others write to it meanwhile; gives the version that this made.
///
/// # Errors
/// `Schema` when there are rows that do not allow it; what [`crate::storage::Ledger::alter`] says.
pub(crate) async fn alter(
    core: &Arc<Core>,
    frame: &FrameRef,
    alteration: &Alteration,
    ask: &Ask<'_>,
    query: &QueryRecord,
) -> Result<u64> {
    let mut run = 0;
    loop {
        run += 1;
        let this = Run { core, frame, ask, query };
        let target = this.target().await?;
        if let Some((failing, what)) = failing(alteration, &target.state) {
            let rows = this.count(&target, &failing).await?;
            if rows > 0 {
                return Err(Error::schema(format!("{frame} has {what} ({rows} of them): change or delete them first")));
            }
        }
        match core.meadow.ledger().alter(frame, alteration.clone(), &target.state).await {
            Err(error) if may_run_again(&error, run) => pause_before_next(run, query).await?,
            outcome => return outcome,
        }
    }
}

/// The condition of rows that stand in the way, and what is said of them.
fn failing(alteration: &Alteration, state: &FrameState) -> Option<(String, String)> {
    match alteration {
        Alteration::SetNotNull(column) => {
            let fields = state.schema.fields().iter();
            let column = fields.map(|f| f.name()).find(|name| name.eq_ignore_ascii_case(column)).unwrap_or(column);
            Some((format!("{} IS NULL", quoted(column)), format!("rows whose '{column}' is null")))
        }
        // On lines of its own: a comment at its end ends with it.
        Alteration::AddCheck(check) => {
            Some((format!("(\n{}\n) IS FALSE", check.condition), format!("rows that fail CHECK ({})", check.condition)))
        }
        _ => None,
    }
}
