//! Where bees spill, and what goes to the local disk: flash wears out by what is written to it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind as ErrorNumber;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde::{Deserialize, Serialize};

use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// How folders of colonies begin; each is held by the process that has its file locked.
const PREFIX: &str = "apiary-scratch-";
const LOCK: &str = "lock";
/// What a query is told that may not hand more rows on.
pub(crate) const SCRATCH_FULL: &str = "what its stages hand on is more than scratch_limit allows: set it higher";
/// What a day is divided into.
const HOUR: Duration = Duration::from_secs(3600);
const DAY: u64 = 24;

/// Where operators put what does not fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spill {
    /// Into the scratch folder.
    #[default]
    Disk,
    /// Nowhere: a query that does not fit ends with `memory exceeded`.
    None,
}

impl FromStr for Spill {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "disk" => Ok(Self::Disk),
            "none" => Ok(Self::None),
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
}

impl StageFolder {
    /// Makes a folder in `scratch`, as long as `left` has bytes.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(scratch: &Path, name: &str, left: &Arc<AtomicI64>) -> Result<Arc<Self>> {
        let path = scratch.join(name);
        std::fs::create_dir(&path)?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(&path)?);
        Ok(Arc::new(Self { path, store, left: Arc::clone(left), taken: AtomicI64::new(0) }))
    }

    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::<LocalFileSystem>::clone(&self.store)
    }

    /// Counts bytes that were written.
    ///
    /// # Errors
    /// `MemoryExceeded` when they are more than may be.
    pub(crate) fn wrote(&self, bytes: u64) -> Result<()> {
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

/// Bytes that went to the local disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskWritten {
    /// Spilled by operators.
    pub spill: u64,
    /// Blocks of remote cells that were kept.
    pub cache: u64,
    /// Cells and ledgers of a meadow in a folder.
    pub meadow: u64,
    /// Of spills and kept blocks, those of the last 24 hours.
    pub last_day: u64,
}

/// Counts what is written to the local disk for the runtime's own sake.
#[derive(Debug, Default)]
pub(crate) struct Wear {
    spill: AtomicU64,
    cache: AtomicU64,
    /// Bytes by hour since the start, the newest last.
    hours: Mutex<VecDeque<(u64, u64)>>,
}

impl Wear {
    pub(crate) fn spilled(&self, bytes: u64, born: Instant) {
        self.spill.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes, born.elapsed());
    }

    /// Takes over what the cache says that it wrote since it was opened.
    pub(crate) fn kept(&self, bytes: u64, born: Instant) {
        let before = self.cache.fetch_max(bytes, Ordering::Relaxed);
        self.add(bytes.saturating_sub(before), born.elapsed());
    }

    /// The counts, a meadow in a folder aside.
    pub(crate) fn read(&self, born: Instant) -> DiskWritten {
        DiskWritten {
            spill: self.spill.load(Ordering::Relaxed),
            cache: self.cache.load(Ordering::Relaxed),
            meadow: 0,
            last_day: self.last_day(born.elapsed()),
        }
    }

    fn add(&self, bytes: u64, age: Duration) {
        if bytes == 0 {
            return;
        }
        let hour = age.as_secs() / HOUR.as_secs();
        let mut hours = lock(&self.hours);
        match hours.back_mut() {
            Some((newest, sum)) if *newest == hour => *sum += bytes,
            _ => hours.push_back((hour, bytes)),
        }
        while hours.front().is_some_and(|(oldest, _)| oldest + DAY < hour) {
            hours.pop_front();
        }
    }

    fn last_day(&self, age: Duration) -> u64 {
        let hour = age.as_secs() / HOUR.as_secs();
        lock(&self.hours).iter().filter(|(of, _)| of + DAY >= hour).map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

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

    #[test]
    fn a_day_is_the_last_24_hours() {
        let wear = Wear::default();
        let after = |hours: u64| HOUR * hours as u32;
        wear.add(1, after(0));
        wear.add(10, after(0));
        wear.add(100, after(20));
        assert_eq!(wear.last_day(after(20)), 111);
        assert_eq!(wear.last_day(after(30)), 100);
        wear.add(1000, after(50));
        assert_eq!(wear.last_day(after(50)), 1000);
    }
}
