//! VERIFY: the bees read every cell of a version, and what they find is compared with the ledger.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::change::Run;
use super::colony::Core;
use super::lead::until_stopped;
use super::query::QueryRecord;
use crate::sql::statement::query_of;
use crate::sql::{Ask, Inspection, Target};
use crate::storage::{Finding, FrameRef, Problem};
use crate::{Error, ErrorKind, Result};

/// Everything that is wrong with the newest version of a frame.
///
/// # Errors
/// What keeps it from being looked at: the frame is not there, or its ledger cannot be read; time or memory ran out.
pub(crate) async fn verify(
    core: &Arc<Core>,
    frame: &FrameRef,
    ask: &Ask<'_>,
    query: &QueryRecord,
) -> Result<Vec<Finding>> {
    let run = Run { core, frame, ask, query };
    let target = run.target().await?;
    let local = core.meadow.backend().is_local();
    let (state, cells) = (Arc::clone(&target.state), Arc::clone(&target.cells));
    let mut findings = until_stopped(query, core.meadow.verify_files(&state, &cells)).await?;
    let broken = findings.iter().filter(|f| matches!(f.problem, Problem::Missing | Problem::Size));
    let broken: HashSet<_> = broken.map(|f| f.path.clone()).collect();
    let mut readable: Vec<usize> = (0..cells.len()).filter(|index| !broken.contains(cells.path(*index))).collect();
    for inspection in Inspection::all(&state, &cells) {
        if readable.is_empty() {
            break;
        }
        match read(&run, &target, &inspection, &readable).await {
            Ok(answer) => findings.extend(inspection.compare(&readable, &answer)?),
            Err(error) if !says_of_cells(&error, local) => return Err(error),
            // One of them cannot be read: each is looked at alone.
            Err(_) => {
                let mut still = Vec::new();
                for index in readable {
                    match read(&run, &target, &inspection, &[index]).await {
                        Ok(answer) => {
                            findings.extend(inspection.compare(&[index], &answer)?);
                            still.push(index);
                        }
                        Err(error) if !says_of_cells(&error, local) => {
                            return Err(error);
                        }
                        Err(error) => {
                            findings.push(Finding::new(cells.path(index), Problem::Unreadable, error.message()));
                        }
                    }
                }
                readable = still;
            }
        }
    }
    Ok(findings)
}

/// Whether an error is about what is in a cell, and not about the way to it. A disk can be bad in places.
fn says_of_cells(error: &Error, local: bool) -> bool {
    use ErrorKind::{Corrupt, Internal, InvalidInput, NotFound, Schema, Storage, Unsupported};
    let about_cells = [Corrupt, NotFound, Unsupported, InvalidInput, Schema, Internal];
    about_cells.contains(&error.kind()) || local && error.kind() == Storage
}

async fn read(
    run: &Run<'_>,
    target: &Target,
    inspection: &Inspection<'_>,
    cells: &[usize],
) -> Result<Vec<RecordBatch>> {
    let mut target = target.clone();
    target.only = Some(Arc::new(cells.to_vec()));
    let physical = run.plan(query_of(&inspection.sql())?, &target, false).await?;
    run.rows(&physical).await
}
