//! Cells that no version within the retention needs: what removed cells, failed writes and beaten attempts left behind.

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};

use super::error::unreadable;
use super::history::{self, Commit};
use super::ledger::{AsOf, frame_root};
use super::listing::cell_path;
use super::log_cleanup::remove;
use super::meadow::Meadow;
use super::names::FrameRef;
use super::vectors::{is_vector_file, vector_file_of};
use crate::Result;

/// How long removed cells are kept for readers of older versions, unless a statement says otherwise: Delta's own default.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Commits that are read at the same time.
const READS: usize = 8;

/// A cell that nobody needs.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// Where it is, relative to the meadow's root.
    pub path: Path,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Meadow {
    /// Finds the cells in a frame's folder that neither its newest version nor one that was the newest within `retain`
    /// has, and that are older than that; removes them unless it is a `dry_run`. Ages are by the store's own clock.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] without the frame, and what the store says.
    pub async fn vacuum(&self, frame: &FrameRef, retain: Duration, dry_run: bool) -> Result<Vec<Leftover>> {
        self.require_writable()?;
        // Nothing is left in a place where there is no frame.
        self.registry().frame(frame).await?;
        match dry_run {
            true => self.unneeded(frame, retain).await,
            false => {
                self.alone(frame, async {
                    let leftovers = self.unneeded(frame, retain).await?;
                    remove(self.backend().store().as_ref(), &leftovers).await?;
                    Ok(leftovers)
                })
                .await
            }
        }
    }

    async fn unneeded(&self, frame: &FrameRef, retain: Duration) -> Result<Vec<Leftover>> {
        let store = self.backend().store();
        let now = self.store_time(frame).await?;
        let retain = chrono::Duration::from_std(retain).ok();
        let before = retain.and_then(|retain| now.checked_sub_signed(retain)).unwrap_or(chrono::DateTime::UNIX_EPOCH);
        let old = |object: &ObjectMeta| object.last_modified < before;
        // Before the ledger is read: what is committed meanwhile is younger than any retention, or listed as live.
        let objects: Vec<_> = store.list(Some(&Path::from(frame.folder()))).try_collect().await?;
        let needed = self.needed(frame, |commit| commit.last_modified >= before).await?;
        let leftovers = objects.into_iter().filter(|object| old(object) && is_cell(frame, &object.location));
        Ok(leftovers
            .filter(|object| !needed.contains(&object.location))
            .map(|object| Leftover { path: object.location, bytes: object.size })
            .collect())
    }

    /// Cells of the newest version, and those that `recent` commits removed, with the files that say which of their rows are
    /// deleted.
    pub(super) async fn needed(&self, frame: &FrameRef, recent: impl Fn(&ObjectMeta) -> bool) -> Result<HashSet<Path>> {
        let (_, cells) = self.version(frame, AsOf::Latest).await?;
        let mut needed: HashSet<Path> = (0..cells.len()).map(|index| cells.path(index).clone()).collect();
        needed.extend(cells.vector_files().cloned());
        let (store, root) = (self.backend().store(), frame_root(frame)?);
        let commits = history::commits(store.as_ref(), frame).await?;
        let read = |(version, object): (u64, ObjectMeta)| {
            let store = store.clone();
            async move { Commit::listed(store.as_ref(), version, &object).await }
        };
        let commits = commits.into_iter().filter(|(_, object)| recent(object)).collect::<Vec<_>>();
        let mut commits = futures::stream::iter(commits).map(read).buffer_unordered(READS);
        while let Some(commit) = commits.try_next().await? {
            for name in commit.removed {
                needed.insert(cell_path(&root, &name).map_err(|error| unreadable(frame, error))?);
            }
            for action in commit.unmarked {
                needed.extend(vector_file_of(&root, &action).map_err(|error| unreadable(frame, error))?);
            }
        }
        Ok(needed)
    }

    /// What the store's clock shows: this node's own may be years off.
    pub(crate) async fn store_time(&self, frame: &FrameRef) -> Result<chrono::DateTime<chrono::Utc>> {
        let store = self.backend().store();
        let mark = Path::from(frame.folder()).join(format!("_vacuum-{}", uuid::Uuid::new_v4().simple()));
        store.put(&mark, PutPayload::new()).await?;
        let seen = store.head(&mark).await;
        store.delete(&mark).await?;
        Ok(seen?.last_modified)
    }
}

/// Whether it is named as a cell, or as a deletion vector: not in the ledger's folder, nor hidden as other engines hide what
/// is theirs.
pub(super) fn is_cell(frame: &FrameRef, path: &Path) -> bool {
    let Some(parts) = path.prefix_match(&Path::from(frame.folder())) else { return false };
    let hidden = |part: &str| part.starts_with(['_', '.']) && !part.contains('=');
    (path.extension() == Some("parquet") || is_vector_file(path))
        && !parts.into_iter().any(|part| hidden(part.as_ref()))
}
