//! The actor that keeps the house while the node is cold: many small cells become few, rows of clustered frames are put in
//! order, what no version needs goes away.
//!
//! It knows which frames this node wrote to; a node that joined the swarm also looks at all others now and then. A job is
//! done by the one node that claims it (see [`crate::storage::claim`]), as a query like any other, which gives way to
//! users' queries between batches and is given up when the node gets warm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::sync::Notify;

use super::change::due_cells;
use super::colony::Core;
use super::lead::Job;
use super::query::Asked;
use super::session::run;
use super::temperature::Band;
use super::write::cell_cut;
use crate::storage::claim::Claims;
use crate::storage::log_cleanup::LOG_RETENTION;
use crate::storage::vacuum::RETENTION;
use crate::storage::{AsOf, FrameRef, Meadow, housekeeping};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Commits to a frame since it was looked at, for it to be looked at while they still come.
const BUSY_COMMITS: usize = 32;
/// Time without a commit after which a frame is looked at, however few they were.
const QUIET: Duration = Duration::from_secs(20);
/// Cells of a partition that are worth a job while commits still come.
pub(crate) const BUSY_CELLS: usize = 32;
/// The same when they do not.
const QUIET_CELLS: usize = 8;
/// Commits since the last look that make a job urgent: it is done though the node has work.
const URGENT_COMMITS: usize = 256;
/// Between looks at what is due.
const LOOK: Duration = Duration::from_millis(500);
/// Without a change for so long, a claim is of a node that died.
const STALE: Duration = Duration::from_secs(120);
/// Between two removals of what no version of a frame needs.
const TIDY_EVERY: chrono::Duration = chrono::Duration::days(1);
/// Between two looks at the frames of others: in a folder they cost nothing, in a bucket a request for each frame.
const SWEEP: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(5)];

/// What this node knows of the frames that may need upkeep.
#[derive(Debug)]
pub(crate) struct House {
    claims: Claims,
    touched: Mutex<HashMap<FrameRef, Touched>>,
    /// Versions of frames at the last sweep.
    versions: Mutex<HashMap<FrameRef, u64>>,
    /// When this node last saw to it that a frame is tidied.
    tidied: Mutex<HashMap<FrameRef, Instant>>,
    wake: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Touched {
    commits: usize,
    last: Instant,
    looked: Instant,
}

impl House {
    pub(crate) fn new(meadow: &Meadow) -> Self {
        let claims = Claims::new(Arc::clone(meadow.backend()), STALE);
        Self {
            claims,
            touched: Mutex::default(),
            versions: Mutex::default(),
            tidied: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// A frame has new commits.
    pub(crate) fn touched(&self, frame: &FrameRef, commits: usize) {
        let now = Instant::now();
        let mut touched = lock(&self.touched);
        let known = touched.entry(frame.clone()).or_insert(Touched { commits: 0, last: now, looked: now });
        (known.commits, known.last) = (known.commits + commits, now);
        drop(touched);
        self.wake.notify_one();
    }

    /// Frames to be looked at in that band, with the commits that are known and whether more still come.
    fn due(&self, band: Band) -> Vec<(FrameRef, usize, bool)> {
        let touched = lock(&self.touched);
        let due = touched.iter().filter_map(|(frame, t)| {
            let quiet = t.last.elapsed() >= QUIET;
            let busy = t.commits >= BUSY_COMMITS && t.looked.elapsed() >= LOOK;
            let allowed = match band {
                Band::Cold => true,
                Band::Ideal => t.commits >= URGENT_COMMITS,
                Band::Warm | Band::Hot | Band::Critical => false,
            };
            (allowed && (quiet || busy)).then(|| (frame.clone(), t.commits, !quiet))
        });
        due.collect()
    }

    /// A frame was looked at after so many `commits`; one that is quiet is forgotten until it changes again.
    fn looked(&self, frame: &FrameRef, commits: usize, busy: bool) {
        let mut touched = lock(&self.touched);
        match touched.get_mut(frame) {
            // Those that came meanwhile are to be looked at, too.
            Some(known) if busy => {
                (known.commits, known.looked) = (known.commits.saturating_sub(commits), Instant::now())
            }
            Some(known) if known.last.elapsed() >= QUIET => drop(touched.remove(frame)),
            _ => {}
        }
    }

    fn is_idle(&self) -> bool {
        lock(&self.touched).is_empty()
    }
}

/// The actor; see the module.
pub(crate) struct HousekeeperActor {
    core: Weak<Core>,
}

impl HousekeeperActor {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core) }
    }
}

impl Actor for HousekeeperActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Some((house, token)) = self.core.upgrade().map(|c| (Arc::clone(&c.house), c.token.clone())) else { return };
        let core = self.core.clone();
        let keeping = async move {
            let mut swept: Option<Instant> = None;
            while let Some(core) = core.upgrade() {
                let every = core.settings.join.then(|| SWEEP[usize::from(core.meadow.backend().is_local())]);
                if let Some(every) = every
                    && core.band() == Band::Cold
                    && swept.is_none_or(|at| at.elapsed() >= every)
                {
                    swept = Some(Instant::now());
                    told("the frames could not be looked at", sweep(&core).await);
                }
                for (frame, commits, busy) in house.due(core.band()) {
                    match keep(&core, &frame, busy).await {
                        Ok(true) => house.looked(&frame, commits, busy),
                        // It would not fit in a moment either: it waits for the next commit.
                        Err(error) if error.kind() == ErrorKind::MemoryExceeded => {
                            tracing::warn!(%error, %frame, "a frame's cells could not be written anew");
                            house.looked(&frame, commits, busy);
                        }
                        kept => told("a frame's house could not be kept", kept.map(drop)),
                    }
                }
                drop(core);
                let rest = if house.is_idle() { every.unwrap_or(super::pace::NEVER) } else { LOOK };
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(rest) => {}
                    () = house.wake.notified(), if house.is_idle() => {}
                }
            }
        };
        context.spawn(keeping.into_actor(self));
    }
}

/// Finds the frames that others wrote to since the last time, and those that were not tidied for long.
async fn sweep(core: &Arc<Core>) -> Result<()> {
    for frame in core.meadow.registry().frames().await? {
        let Ok(state) = core.meadow.state(&frame, AsOf::Latest).await else { continue };
        let before = lock(&core.house.versions).insert(frame.clone(), state.version());
        let commits = state.version().saturating_sub(before.unwrap_or(0)) as usize;
        if commits > 0 {
            core.house.touched(&frame, commits);
        }
        let tidied = lock(&core.house.tidied).get(&frame).copied();
        if tidied.is_none_or(|at| at.elapsed() > TIDY_EVERY.to_std().unwrap_or_default()) {
            match tidy(core, &frame).await {
                Ok(true) => drop(lock(&core.house.tidied).insert(frame, Instant::now())),
                tidied => told("a frame could not be tidied", tidied.map(drop)),
            }
        }
    }
    Ok(())
}

/// Writes a frame's cells anew when there are enough to be; `false` when another node does so, or when there may be more.
async fn keep(core: &Arc<Core>, frame: &FrameRef, busy: bool) -> Result<bool> {
    let (state, cells) = match core.meadow.version(frame, AsOf::Latest).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        found => found?,
    };
    let least = if busy { BUSY_CELLS } else { QUIET_CELLS };
    if due_cells(core, &state, &cells, least)?.cells.is_empty() || !core.meadow.keeps_house(frame).await? {
        return Ok(true);
    }
    let merge = async {
        let job = Job::Merge { frame: frame.clone(), least };
        // Its answer is of no interest: what was done is in the frame's history.
        run(core, job, None).await?.try_collect::<Vec<_>>().await.map(|_| ())
    };
    let done = claimed(core, &housekeeping(frame).join("merge"), while_not_warm(core, merge)).await?;
    Ok(done && state.clustering.is_none())
}

/// Removes what no version of a frame needs, once a day, as its table properties say; `false` when another node does so.
async fn tidy(core: &Arc<Core>, frame: &FrameRef) -> Result<bool> {
    let (meadow, mark) = (&core.meadow, housekeeping(frame).join("tidied"));
    let tidied = match meadow.backend().store().head(&mark).await {
        Ok(object) => Some(object.last_modified),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(tidied) = tidied
        && meadow.store_time(frame).await? - tidied < TIDY_EVERY
    {
        return Ok(true);
    }
    if !meadow.keeps_house(frame).await? {
        return Ok(true);
    }
    let state = meadow.state(frame, AsOf::Latest).await?;
    // Refuses a table with features that its writers must know and we do not.
    meadow.ledger().cell_plan(&state, cell_cut(core, &state.schema)).await?;
    let (cells, log) = state.retention()?;
    let work = async {
        let _entry = core.queries.begin(asked("tidy", frame), &core.token, None, meadow.meter());
        meadow.vacuum(frame, cells.max(RETENTION), false).await?;
        if let Some(log) = log {
            meadow.clean_log(frame, log.max(LOG_RETENTION), false).await?;
        }
        meadow.backend().put(&mark, bytes::Bytes::new()).await
    };
    claimed(core, &housekeeping(frame).join("tidy"), while_not_warm(core, work)).await
}

/// How a job is shown.
pub(crate) fn asked(job: &str, frame: &FrameRef) -> Asked {
    Asked::Housekeeping(format!("housekeeping: {job} {frame}"))
}

/// Does a job if this node gets it; `false` when another node has it.
async fn claimed(core: &Arc<Core>, path: &Path, work: impl Future<Output = Result<()>>) -> Result<bool> {
    Ok(core.house.claims.hold(path, work).await?.is_some())
}

/// Does `work` unless the node gets warm by what users ask of it.
async fn while_not_warm(core: &Arc<Core>, work: impl Future<Output = Result<()>>) -> Result<()> {
    let warm = async {
        while core.admission.waiting() == 0 && (core.band() < Band::Warm || core.queries.of_users() == 0) {
            tokio::time::sleep(LOOK / 5).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = warm => Err(Error::cancelled("the node has got warm: its housekeeping waits")),
    }
}

fn told(what: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Closed) => {
            tracing::debug!(%error, "{what}");
        }
        Err(error) => tracing::warn!(%error, "{what}; it is tried again"),
    }
}
