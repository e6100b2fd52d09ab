//! Where bees spill, and where stages hand rows on through the local disk.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind as ErrorNumber, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder};
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::stream::Stream;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde::{Deserialize, Serialize};

use super::query::QueryRecord;
use super::wear::Wear;
use crate::sql::WORN_OUT;
use crate::{Error, ErrorKind, Result};

/// How folders of colonies begin; each is held by the process that has its file locked.
const PREFIX: &str = "apiary-scratch-";
const LOCK: &str = "lock";
/// What a query is told that may not hand more rows on.
const SCRATCH_FULL: &str = "what its stages hand on is more than scratch_limit allows: set it higher";
/// Age of a folder without a lock that nobody is making any more.
const HOUR: Duration = Duration::from_secs(3600);

/// Where operators put what does not fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spill {
    /// Into the scratch folder.
    #[default]
    Disk,
    /// Nowhere: a query that does not fit ends with `memory exceeded`, is not tried in stages on this node, and no scratch folder is
    /// made. A cache writes to its folder all the same, and so do streams, to their buffers.
    None,
}

impl FromStr for Spill {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "disk" => Ok(Self::Disk),
            "none" => Ok(Self::None),
            // The engine reads what it spills between operators while it still writes it; an object is there when it is whole.
            "meadow" => Err(Error::unsupported(
                "spill cannot be meadow: operators read a file that is still written, and an object can be read only when it \
                 is whole; use disk or none, or share the query with other nodes (distribute), whose stages hand rows on \
                 through the meadow",
            )),
            _ => Err(Error::invalid(format!("spill cannot be {text:?}: use disk or none"))),
        }
    }
}

/// A colony's own folder, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _held: File,
}

impl Scratch {
    /// Makes a folder below `parent`, and removes those of processes that died.
    ///
    /// # Errors
    /// `InvalidInput` when `parent` is no folder, and what the system says.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        if !parent.is_dir() {
            return Err(Error::invalid(format!(
                "scratch folder {} is not a folder: make it or choose another",
                parent.display()
            )));
        }
        wipe(parent);
        let path = parent.join(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        // It gets its name when it is locked: nobody finds it free in between.
        let unnamed = path.join("unlocked");
        let held = File::create(&unnamed)?;
        held.lock()?;
        std::fs::rename(unnamed, path.join(LOCK))?;
        Ok(Self { path, _held: held })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever comes next here tries again.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// What the stages of one query hand on to each other; gone when the last who reads or writes it lets go.
#[derive(Debug)]
pub(crate) struct StageFolder {
    path: PathBuf,
    store: Arc<LocalFileSystem>,
    /// Bytes that the queries of this node may still write; below zero when they were not enough.
    left: Arc<AtomicI64>,
    taken: AtomicI64,
    wear: Arc<Wear>,
}

impl StageFolder {
    /// Makes a folder in `scratch`, as long as `left` has bytes.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(scratch: &Path, name: &str, left: &Arc<AtomicI64>, wear: &Arc<Wear>) -> Result<Arc<Self>> {
        let path = scratch.join(name);
        std::fs::create_dir(&path)?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(&path)?);
        let (left, wear) = (Arc::clone(left), Arc::clone(wear));
        Ok(Arc::new(Self { path, store, left, taken: AtomicI64::new(0), wear }))
    }

    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::<LocalFileSystem>::clone(&self.store)
    }

    /// Counts bytes that were written.
    ///
    /// # Errors
    /// `MemoryExceeded` when they are more than may be.
    pub(crate) fn wrote(&self, bytes: u64) -> Result<()> {
        self.wear.spilled(bytes);
        if self.wear.is_worn() {
            return Err(Error::new(ErrorKind::MemoryExceeded, WORN_OUT));
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        match self.left.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            true => Err(Error::new(ErrorKind::MemoryExceeded, SCRATCH_FULL)),
            false => Ok(()),
        }
    }
}

impl Drop for StageFolder {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            // The colony that ended has removed it, or does.
            Err(error) if error.kind() != ErrorNumber::NotFound => {
                tracing::warn!(%error, folder = %self.path.display(), "what a query's stages wrote is left behind");
            }
            _ => {}
        }
        self.left.fetch_add(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Removes the folders that nobody holds: of processes that were killed.
fn wipe(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for folder in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let is_left = match File::options().write(true).open(folder.path().join(LOCK)) {
            Ok(file) => file.try_lock().is_ok(),
            // One without a file is being made just now, or was almost removed.
            Err(_) => age(&folder.path()).is_some_and(|age| age > HOUR),
        };
        if is_left
            && let Err(error) = std::fs::remove_dir_all(folder.path())
            && error.kind() != ErrorNumber::NotFound
        {
            tracing::warn!(%error, folder = %folder.path().display(), "what a dead process spilled is left behind");
        }
    }
}

fn age(folder: &Path) -> Option<Duration> {
    folder.metadata().ok()?.modified().ok()?.elapsed().ok()
}

/// The files that operators of one query spill into. What goes into them is counted as it is written, however the query
/// ends, and refused when the day's limit is reached.
pub(crate) struct Spills {
    disk: Arc<DiskManager>,
    query: Arc<QueryRecord>,
    wear: Arc<Wear>,
}

impl Spills {
    /// A query's way to `disk`.
    ///
    /// # Errors
    /// Never in practice: no folder is made.
    pub(crate) fn manager(
        disk: &Arc<DiskManager>,
        query: &Arc<QueryRecord>,
        wear: &Arc<Wear>,
    ) -> Result<Arc<DiskManager>> {
        let spills = Self { disk: Arc::clone(disk), query: Arc::clone(query), wear: Arc::clone(wear) };
        Ok(Arc::new(DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spills)).build()?))
    }
}

impl TempFileFactory for Spills {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>, DataFusionError> {
        if self.wear.is_worn() {
            return Err(DataFusionError::ResourcesExhausted(WORN_OUT.into()));
        }
        let file = self.disk.create_tmp_file(description)?;
        Ok(Arc::new(Spilled { file, query: Arc::clone(&self.query), wear: Arc::clone(&self.wear) }))
    }
}

/// A file of [`Spills`].
struct Spilled<File> {
    file: File,
    query: Arc<QueryRecord>,
    wear: Arc<Wear>,
}

impl SpillFile for Spilled<Arc<dyn SpillFile>> {
    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn size(&self) -> Option<u64> {
        self.file.size()
    }

    fn read_stream(
        &self,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes, DataFusionError>> + Send>>, DataFusionError> {
        self.file.read_stream()
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>, DataFusionError> {
        let (query, wear) = (Arc::clone(&self.query), Arc::clone(&self.wear));
        Ok(Box::new(Spilled { file: self.file.open_writer()?, query, wear }))
    }
}

impl Write for Spilled<Box<dyn SpillWriter>> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.wear.is_worn() {
            return Err(std::io::Error::other(WORN_OUT));
        }
        let written = self.file.write(bytes)?;
        self.query.spilled.fetch_add(written as u64, Ordering::Relaxed);
        self.wear.spilled(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl SpillWriter for Spilled<Box<dyn SpillWriter>> {
    fn finish(&mut self) -> Result<(), DataFusionError> {
        self.file.finish()
    }
}

impl fmt::Debug for Spills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spills({:?})", self.query.id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn rows_are_spilled_to_the_disk_or_nowhere() {
        assert_eq!(["Disk", "none"].map(|text| text.parse::<Spill>().unwrap()), [Spill::Disk, Spill::None]);
        let error = "meadow".parse::<Spill>().unwrap_err();
        assert!(error.message().contains("use disk or none"), "{error}");
        assert_eq!("tape".parse::<Spill>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_a_dead_process_left_is_wiped_and_what_a_living_one_has_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(dead.join("spilled"), "rows").unwrap();
        let almost_removed = parent.path().join(format!("{PREFIX}almost-removed"));
        std::fs::create_dir(&almost_removed).unwrap();
        File::open(&almost_removed).unwrap().set_modified(SystemTime::now() - HOUR * 2).unwrap();
        let other = parent.path().join("somebody-elses");
        std::fs::create_dir(&other).unwrap();
        let next = Scratch::new(parent.path()).unwrap();
        assert!(living.path().is_dir() && next.path().is_dir() && other.is_dir());
        assert!(!dead.exists() && !almost_removed.exists());
        let path = living.path().to_path_buf();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn colonies_that_start_at_once_leave_each_other_their_folders() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let scratch = Scratch::new(parent.path()).unwrap();
                        assert!(scratch.path().join(LOCK).is_file());
                    }
                });
            }
        });
    }
}
