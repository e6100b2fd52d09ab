//! What goes to the local disk: flash wears out by what is written to it.
//!
//! With a limit for a day the count outlives the process, in a small file of the folder that is written to. All processes
//! that write there share it: each adds what it wrote, under a lock, and takes over what the others did.
//!
//! | what happens | what becomes of the count |
//! |---|---|
//! | a process is killed | it lacks at most [`GRAIN`], a hundredth of the limit, of that process |
//! | the power goes | as well, and what the system had not put on the disk yet: the file is not forced there, that would be wear, too |
//! | two processes write at once | each knows the other's part but for its last hundredth: together they may go that far beyond |
//! | the clock is set forward | processes that begin later forget sooner what was written before; this one goes by a clock that nobody sets |
//! | the clock is set back | hours that seem to come are taken for this one: they count for a day from now on |
//! | the file is damaged, or cannot be written | this process counts for itself, and says so once |

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sync::lock;
use crate::{Error, Result};

/// The file, and the one that is locked for it: the file itself is another after each change.
const COUNT: &str = "apiary-disk-writes.json";
const LOCK: &str = "apiary-disk-writes.lock";
/// Largest file that is read: a day has 25 hours here, begun ones included.
const MOST_BYTES: u64 = 16 << 10;
/// The part of the limit that is written before the file is: a hundred writes of it a day, of one block each.
pub(crate) const GRAIN: u64 = 100;
/// What a day is divided into.
const HOUR: Duration = Duration::from_secs(3600);
const DAY: i64 = 24;

/// Bytes that went to the local disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskWritten {
    /// Spilled by operators.
    pub spill: u64,
    /// Blocks of remote cells that were kept.
    pub cache: u64,
    /// Cells and ledgers of a meadow in a folder.
    pub meadow: u64,
    /// Of spills and kept blocks, those of the last 24 hours; with a limit also those of other processes, and of earlier ones.
    pub last_day: u64,
}

/// Counts what is written to the local disk for the runtime's own sake.
#[derive(Debug)]
pub(crate) struct Wear {
    born: Instant,
    /// Most bytes in 24 hours.
    limit: Option<u64>,
    spill: AtomicU64,
    cache: AtomicU64,
    /// Bytes by hour, this process's first being 0; the newest last.
    hours: Mutex<VecDeque<(i64, u64)>>,
    file: Option<DayFile>,
}

/// The count of a folder, as this process knows it.
#[derive(Debug)]
struct DayFile {
    folder: PathBuf,
    /// Bytes that are not in the file yet.
    unsaved: AtomicU64,
    seen: Mutex<Hours>,
    is_told: AtomicBool,
}

/// What the file says: bytes by hours since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Hours {
    hours: BTreeMap<i64, u64>,
}

impl Wear {
    /// A count that ends with the process where there is no limit, and is kept in `folder` where there is one.
    pub(crate) fn new(limit: Option<u64>, folder: Option<PathBuf>) -> Self {
        if let Some(folder) = folder.as_ref().filter(|_| limit.is_some()) {
            // Whoever writes there first says what is wrong.
            let _ = std::fs::create_dir_all(folder);
        }
        let file = folder.filter(|_| limit.is_some()).map(|folder| DayFile {
            folder,
            unsaved: AtomicU64::new(0),
            seen: Mutex::default(),
            is_told: AtomicBool::new(false),
        });
        let (spill, cache) = (AtomicU64::new(0), AtomicU64::new(0));
        let wear = Self { born: Instant::now(), limit, spill, cache, hours: Mutex::default(), file };
        wear.save();
        wear
    }

    pub(super) fn spilled(&self, bytes: u64) {
        self.spill.fetch_add(bytes, Ordering::Relaxed);
        self.wrote(bytes);
    }

    /// Takes over what the cache says that it wrote since it was opened.
    pub(crate) fn kept(&self, bytes: u64) {
        let before = self.cache.fetch_max(bytes, Ordering::Relaxed);
        self.wrote(bytes.saturating_sub(before));
    }

    /// Whether as much was written as may be.
    pub(crate) fn is_worn(&self) -> bool {
        self.limit.is_some_and(|limit| self.last_day(self.born.elapsed()) >= limit)
    }

    /// The counts, a meadow in a folder aside.
    pub(crate) fn read(&self) -> DiskWritten {
        DiskWritten {
            spill: self.spill.load(Ordering::Relaxed),
            cache: self.cache.load(Ordering::Relaxed),
            meadow: 0,
            last_day: self.last_day(self.born.elapsed()),
        }
    }

    fn wrote(&self, bytes: u64) {
        self.add(bytes, self.born.elapsed());
        let Some(file) = &self.file else { return };
        let unsaved = file.unsaved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsaved > 0 && unsaved >= self.limit.unwrap_or(0) / GRAIN {
            self.save();
        }
    }

    /// Keeps what was counted, for the process may end now.
    pub(crate) fn close(&self) {
        if self.file.as_ref().is_some_and(|file| file.unsaved.load(Ordering::Relaxed) > 0) {
            self.save();
        }
    }

    /// Adds to the file what is not in it, and takes over what others added. Where another has it just now, later.
    fn save(&self) {
        let Some(file) = &self.file else { return };
        let now = chrono::Utc::now().timestamp().div_euclid(HOUR.as_secs() as i64);
        match file.exchange(now) {
            Ok(others) => {
                let this = hour_of(self.born.elapsed());
                others.into_iter().for_each(|(hour, bytes)| self.add_to(this - (now - hour), bytes));
            }
            Err(error) if !file.is_told.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, folder = %file.folder.display(), "disk_writes_per_day counts this process alone");
            }
            Err(_) => {}
        }
    }

    fn add(&self, bytes: u64, age: Duration) {
        self.add_to(hour_of(age), bytes);
    }

    fn add_to(&self, hour: i64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut hours = lock(&self.hours);
        let at = hours.partition_point(|(of, _)| *of < hour);
        match hours.get_mut(at) {
            Some((of, sum)) if *of == hour => *sum += bytes,
            _ => hours.insert(at, (hour, bytes)),
        }
        let newest = hours.back().map_or(hour, |(of, _)| *of);
        while hours.front().is_some_and(|(oldest, _)| oldest + DAY < newest) {
            hours.pop_front();
        }
    }

    fn last_day(&self, age: Duration) -> u64 {
        let hour = hour_of(age);
        let hours = lock(&self.hours);
        hours.iter().filter(|(of, _)| of + DAY >= hour).fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Drop for Wear {
    fn drop(&mut self) {
        self.close();
    }
}

impl DayFile {
    /// Adds what is not in the file to its hour `now`; gives what others added since this process looked last.
    fn exchange(&self, now: i64) -> Result<Vec<(i64, u64)>> {
        let held = File::options().create(true).append(true).open(self.folder.join(LOCK))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut seen = lock(&self.seen);
        let mut there = Hours::read(&self.folder)?.within_a_day_of(now);
        let before = seen.clone().within_a_day_of(now);
        let new = |(hour, bytes): (&i64, &u64)| {
            let known = before.hours.get(hour).copied().unwrap_or(0);
            (*bytes > known).then(|| (*hour, bytes - known))
        };
        let others = there.hours.iter().filter_map(new).collect();
        let unsaved = self.unsaved.swap(0, Ordering::Relaxed);
        if unsaved > 0 {
            let sum = there.hours.entry(now).or_default();
            *sum = sum.saturating_add(unsaved);
            if let Err(error) = there.write(&self.folder) {
                self.unsaved.fetch_add(unsaved, Ordering::Relaxed);
                return Err(error);
            }
        }
        *seen = there;
        Ok(others)
    }
}

impl Hours {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(COUNT);
        match path.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(file) if file.len() > MOST_BYTES => return Ok(Self::damaged(&path)),
            found => found?,
        };
        Ok(serde_json::from_slice(&std::fs::read(&path)?).unwrap_or_else(|_| Self::damaged(&path)))
    }

    /// Whoever reads it sees the old count or the new one.
    fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::internal(e.to_string()))?;
        let new = folder.join(format!("{COUNT}.new"));
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, folder.join(COUNT))?)
    }

    fn damaged(path: &Path) -> Self {
        tracing::warn!(file = %path.display(), "the day's count of disk writes is damaged and begins anew");
        Self::default()
    }

    /// Without what is older; what seems to come is of now.
    fn within_a_day_of(self, now: i64) -> Self {
        let mut hours = BTreeMap::new();
        for (hour, bytes) in self.hours.into_iter().filter(|(hour, _)| hour.saturating_add(DAY) >= now) {
            let sum: &mut u64 = hours.entry(hour.min(now)).or_default();
            *sum = sum.saturating_add(bytes);
        }
        Self { hours }
    }
}

fn hour_of(age: Duration) -> i64 {
    i64::try_from(age.as_secs() / HOUR.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<u64> = Some(10_000);

    fn at(folder: &tempfile::TempDir) -> Wear {
        Wear::new(LIMIT, Some(folder.path().to_path_buf()))
    }

    #[test]
    fn a_day_is_the_last_24_hours() {
        let wear = Wear::new(Some(1000), None);
        let after = |hours: u64| HOUR * hours as u32;
        wear.add(1, after(0));
        wear.add(10, after(0));
        wear.add(100, after(20));
        assert_eq!(wear.last_day(after(20)), 111);
        assert_eq!(wear.last_day(after(30)), 100);
        assert!(!wear.is_worn());
        wear.add(1000, after(50));
        assert_eq!(wear.last_day(after(50)), 1000);
        assert!(wear.is_worn());
    }

    #[test]
    fn the_count_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let first = at(&folder);
        first.spilled(6_000);
        first.kept(30);
        drop(first);
        let second = at(&folder);
        assert_eq!((second.read().last_day, second.read().spill, second.is_worn()), (6_030, 0, false));
        second.spilled(4_000);
        assert!(second.is_worn());
        drop(second);
        assert!(at(&folder).is_worn());
        // Without a limit nothing is kept.
        assert_eq!(Wear::new(None, Some(folder.path().to_path_buf())).read().last_day, 0);
    }

    #[test]
    fn a_count_that_is_closed_is_kept_whole_however_small() {
        let folder = tempfile::tempdir().unwrap();
        let open = at(&folder);
        open.spilled(7);
        assert_eq!(at(&folder).read().last_day, 0);
        open.close();
        assert_eq!(at(&folder).read().last_day, 7);
    }

    #[test]
    fn a_process_that_is_killed_takes_a_hundredth_with_it_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let killed = at(&folder);
        for _ in 0..777 {
            killed.spilled(9);
        }
        std::mem::forget(killed);
        let lost = 777 * 9 - at(&folder).read().last_day;
        assert!(lost < 100, "{lost}");
    }

    #[test]
    fn processes_that_share_a_folder_share_the_count() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (at(&folder), at(&folder));
        std::thread::scope(|scope| {
            for wear in [&here, &there] {
                scope.spawn(|| (0..500).for_each(|_| wear.spilled(10)));
            }
        });
        // Each has told but its last hundredth, and hears of the other when it tells.
        [&here, &there, &here].iter().for_each(|wear| wear.save());
        assert_eq!([here.read().last_day, there.read().last_day], [10_000; 2]);
        drop((here, there));
        assert_eq!(at(&folder).read().last_day, 10_000);
    }

    #[test]
    fn hours_to_come_are_of_now_and_old_ones_are_gone() {
        let hours = Hours { hours: BTreeMap::from([(10, 1), (76, 2), (99, 4), (100, 8), (1 << 40, 16)]) };
        assert_eq!(hours.within_a_day_of(100).hours, BTreeMap::from([(76, 2), (99, 4), (100, 24)]));
    }

    #[test]
    fn a_damaged_count_begins_anew_and_a_folder_that_is_gone_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        for damaged in [vec![0; 40], vec![b' '; MOST_BYTES as usize + 1], b"{\"hours\": 3}".to_vec()] {
            std::fs::write(folder.path().join(COUNT), damaged).unwrap();
            assert_eq!(at(&folder).read().last_day, 0);
        }
        let wear = at(&folder);
        drop(folder);
        wear.spilled(10_000);
        assert!(wear.is_worn());
    }
}
