//! Log entries that no version within the retention needs: a checkpoint stands for them.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::history::{commit_version, folder};
use super::meadow::Meadow;
use super::names::FrameRef;
use super::vacuum::Leftover;
use crate::Result;

/// How long log entries are kept, and with them the versions that they make readable: Delta's own default.
pub const LOG_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

impl Meadow {
    /// Finds the log entries that are older than `retain` and than a checkpoint that is older than that, too; removes them
    /// unless it is a `dry_run`. Every version that was the newest within `retain` stays readable.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] without the frame, and what the store says.
    pub async fn clean_log(&self, frame: &FrameRef, retain: Duration, dry_run: bool) -> Result<Vec<Leftover>> {
        self.require_writable()?;
        self.registry().frame(frame).await?;
        let store = self.backend().store();
        let now = self.store_time(frame).await?;
        let retain = chrono::Duration::from_std(retain).ok();
        let before = retain.and_then(|retain| now.checked_sub_signed(retain)).unwrap_or(chrono::DateTime::UNIX_EPOCH);
        let entries: Vec<ObjectMeta> = store.list(Some(&folder(frame))).try_collect().await?;
        let old = |entry: &ObjectMeta| entry.last_modified < before;
        let checkpoints = entries.iter().filter(|entry| old(entry)).filter_map(checkpoint_version);
        let Some(kept_from) = checkpoints.max() else { return Ok(Vec::new()) };
        let is_needless = |entry: &ObjectMeta| {
            let version = commit_version(&entry.location).or_else(|| checkpoint_version(entry));
            old(entry) && version.is_some_and(|version| version < kept_from)
        };
        let leftovers: Vec<_> = entries
            .into_iter()
            .filter(is_needless)
            .map(|entry| Leftover { path: entry.location, bytes: entry.size })
            .collect();
        if !dry_run {
            remove(store.as_ref(), &leftovers).await?;
        }
        Ok(leftovers)
    }
}

/// Removes objects; those that are gone already are no error.
pub(super) async fn remove(store: &dyn ObjectStore, leftovers: &[Leftover]) -> Result<()> {
    let paths: Vec<_> = leftovers.iter().map(|leftover| Ok(leftover.path.clone())).collect();
    let removed = store.delete_stream(futures::stream::iter(paths).boxed());
    let gone = |error: &object_store::Error| matches!(error, object_store::Error::NotFound { .. });
    removed.filter(|r| std::future::ready(!r.as_ref().is_err_and(gone))).try_collect::<Vec<_>>().await?;
    Ok(())
}

/// The version of a checkpoint in one file; others make such in several, which are left alone.
fn checkpoint_version(entry: &ObjectMeta) -> Option<u64> {
    entry.location.filename()?.strip_suffix(".checkpoint.parquet")?.parse().ok()
}
