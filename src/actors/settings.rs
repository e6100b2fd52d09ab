//! Settings of a colony: plain values, validated, serializable, and never mixed with running parts.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `name` | host name | name of this node in messages |
//! | `storage` | `file://$HOME/apiary` | URL of the meadow: `file://`, `s3://`, `gs://`, `az://`, `memory://`, or a path |
//! | `storage_options` | none | `endpoint`, `region`, `path_style`, `allow_http`, object_store's own keys; `hedge=false`: no second requests for slow reads |
//! | `bees` | CPU cores | worker threads |
//! | `memory` | half of RAM or of the cgroup limit | bytes for all bees together |
//! | `scratch` | the system's temporary folder | where bees spill |
//! | `scratch_limit` | 10 GiB | most bytes that operators may spill at a time, and as many that stages may hand on |
//! | `spill` | disk | where operators put what does not fit: `disk`, `none` |
//! | `disk_writes_per_day` | none | most bytes a day that spills and the cache write to the disk, counted in `scratch` (or the user's state folder) for all processes that write there; then nothing is spilled or kept |
//! | `cache` | none | folder that keeps what was read of cells in a bucket; never used for a local meadow |
//! | `cache_limit` | 4 GiB | most bytes in that folder |
//! | `max_queries` | 4 × bees | long queries that run at once; the rest wait, short ones never |
//! | `queue` | 64 | queries beyond these that may be in; more are answered `busy` |
//! | `time_limit` | none | longest run of one query |
//! | `housekeeping` | yes | whether it merges small cells and removes what is not needed while it is cold |
//! | `backpressure` | block | writes while the node is hot: `block` (at most 30 s), `error`, `ignore` |
//! | `partitions` | 2 | partitions of a plan on each bee |
//! | `join` | no | whether this node takes tasks of other nodes' queries; `apiary-node run` does |
//! | `distribute` | auto | whether queries of this node may use other nodes: `auto`, `always`, `never` |
//! | `partition_bytes` | 8 MiB | bytes of cells that a partition scans before another bee joins in |

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System};

use super::scratch::Spill;
use crate::size::format_size;
use crate::sql::{Backpressure, Distribute};
use crate::{Error, Result};

/// Least memory of one bee: below it not even one row group of the smallest cell decodes.
pub const MIN_BEE_MEMORY: u64 = 32 << 20;

/// Least room of a cache: below it the blocks of one scan push each other out.
const MIN_CACHE: u64 = 16 << 20;
/// Room of a cache of which nothing is said.
const CACHE_LIMIT: u64 = 4 << 30;

/// Settings of a [`crate::Colony`]; see the module for the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of this node.
    pub name: String,
    /// URL of the meadow.
    pub storage: String,
    /// Options of the storage; values can be secrets and are never printed.
    #[serde(skip_serializing)]
    pub storage_options: BTreeMap<String, String>,
    /// Worker threads; `None` is one per CPU core.
    pub bees: Option<usize>,
    /// Bytes for all bees together; `None` is half of what the machine or the cgroup has.
    pub memory: Option<u64>,
    /// Folder for spilled data; `None` is the system's temporary folder.
    pub scratch: Option<PathBuf>,
    /// Most bytes at a time that operators spill, all bees together, and as many that stages hand on through the disk.
    pub scratch_limit: u64,
    /// Where operators put what does not fit into memory.
    pub spill: Spill,
    /// Most bytes that spills and the cache write to the local disk in 24 hours: flash wears out. The count is kept in the folder
    /// `scratch` where one is given, else in the user's state folder, and shared by the processes that have the same.
    pub disk_writes_per_day: Option<u64>,
    /// Folder that keeps what was read of cells in a bucket; `None` keeps nothing.
    pub cache: Option<PathBuf>,
    /// Most bytes in that folder.
    pub cache_limit: u64,
    /// Long queries that run at once; `None` is four per bee. Those that read next to nothing do not count.
    pub max_queries: Option<usize>,
    /// Queries beyond these that may be in.
    pub queue: usize,
    /// Longest run of one query.
    pub time_limit: Option<Duration>,
    /// Whether the node keeps the house of frames while it is cold.
    pub housekeeping: bool,
    /// What becomes of writes while the node is hot.
    pub backpressure: Backpressure,
    /// Partitions of a plan on each bee; at least 2 (see `sql::distribution`).
    pub partitions: usize,
    /// Bytes of cells that one partition of a task scans before another bee is worth its overhead.
    pub partition_bytes: u64,
    /// Whether this node takes tasks of other nodes' queries.
    pub join: bool,
    /// Whether queries of this node may use other nodes.
    pub distribute: Distribute,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: default_name(),
            storage: default_storage(),
            storage_options: BTreeMap::new(),
            bees: None,
            memory: None,
            scratch: None,
            scratch_limit: 10 << 30,
            spill: Spill::Disk,
            disk_writes_per_day: None,
            cache: None,
            cache_limit: CACHE_LIMIT,
            max_queries: None,
            queue: 64,
            time_limit: None,
            housekeeping: true,
            backpressure: Backpressure::Block,
            partitions: 2,
            partition_bytes: 8 << 20,
            join: false,
            distribute: Distribute::Auto,
        }
    }
}

impl Settings {
    /// Defaults, with the meadow at `storage`.
    pub fn new(storage: impl Into<String>) -> Self {
        Self { storage: storage.into(), ..Self::default() }
    }

    /// Names the node.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the number of bees.
    #[must_use]
    pub fn with_bees(mut self, bees: usize) -> Self {
        self.bees = Some(bees);
        self
    }

    /// Sets the memory of all bees together, in bytes.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Sets one option of the storage.
    #[must_use]
    pub fn with_storage_option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.storage_options.insert(key.into(), value.into());
        self
    }

    /// Sets the longest run of one query.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Keeps what is read of cells in a bucket below `folder`.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Takes tasks of other nodes' queries, or not.
    #[must_use]
    pub fn with_join(mut self, join: bool) -> Self {
        self.join = join;
        self
    }

    /// Keeps the house of frames while it is cold, or not.
    #[must_use]
    pub fn with_housekeeping(mut self, housekeeping: bool) -> Self {
        self.housekeeping = housekeeping;
        self
    }

    /// Says whether queries may use other nodes.
    #[must_use]
    pub fn with_distribute(mut self, distribute: Distribute) -> Self {
        self.distribute = distribute;
        self
    }

    /// The number of bees these settings give on this machine.
    pub fn bee_count(&self) -> usize {
        self.bees.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// The memory of all bees together, in bytes, that these settings give on this machine.
    pub fn node_memory(&self) -> u64 {
        self.memory.unwrap_or_else(|| machine_memory() / 2)
    }

    /// The memory of one bee, in bytes.
    pub fn bee_memory(&self) -> u64 {
        self.node_memory() / self.bee_count().max(1) as u64
    }

    /// Checks what can be checked without touching storage.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] with the setting, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        let bees = self.bee_count();
        if !(1..=1024).contains(&bees) {
            return Err(Error::invalid(format!("bees is {bees}: use 1 to 1024")));
        }
        if self.bee_memory() < MIN_BEE_MEMORY {
            return Err(Error::invalid(format!(
                "memory of {} for {bees} bee{} is {} a bee: give at least {} a bee, or use fewer bees",
                format_size(self.node_memory()),
                if bees == 1 { "" } else { "s" },
                format_size(self.bee_memory()),
                format_size(MIN_BEE_MEMORY)
            )));
        }
        if let (Some(memory), Some(machine)) = (self.memory, self.memory.and_then(|_| physical_memory()))
            && memory > machine
        {
            return Err(Error::invalid(format!(
                "memory of {} is more than the {} of this machine: give less",
                format_size(memory),
                format_size(machine)
            )));
        }
        if self.partitions < 2 {
            return Err(Error::invalid("partitions is below 2: a split plan needs at least 2 to be right"));
        }
        if self.cache.is_none() && self.cache_limit != CACHE_LIMIT {
            return Err(Error::invalid("cache_limit without a cache has no meaning: give a folder as cache"));
        }
        if self.cache.is_some() && self.cache_limit < MIN_CACHE {
            return Err(Error::invalid(format!(
                "cache_limit of {} is too little: give at least {}, or no cache",
                format_size(self.cache_limit),
                format_size(MIN_CACHE)
            )));
        }
        if self.max_queries == Some(0) {
            return Err(Error::invalid("max_queries is 0: use at least 1"));
        }
        Ok(())
    }
}

fn default_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "apiary".into())
}

/// Where this user's programs keep what is of this machine alone: below `XDG_STATE_HOME`, else in the home folder; `None`
/// when there is neither.
pub fn state_folder() -> Option<PathBuf> {
    let state = || std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state().or_else(home).map(|state| state.join("apiary"))
}

fn default_storage() -> String {
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("."));
    home.join("apiary").to_string_lossy().into_owned()
}

/// Memory taken to be there where the system does not tell.
const UNKNOWN_MACHINE: u64 = 1 << 30;

/// Bytes of RAM, or of the limit of this process's cgroup or of one above it, where that is less.
pub(crate) fn machine_memory() -> u64 {
    static MEMORY: LazyLock<u64> = LazyLock::new(|| system().map_or(UNKNOWN_MACHINE, |system| memory_of(&system)));
    *MEMORY
}

/// Bytes of memory and swap that this process can have; `None` where the system does not tell.
fn physical_memory() -> Option<u64> {
    system().map(|system| memory_of(&system) + system.total_swap()).filter(|bytes| *bytes > 0)
}

fn memory_of(system: &System) -> u64 {
    let process = sysinfo::get_current_pid().ok().and_then(|pid| system.process(pid));
    // Only a process's own group tells of a limit that a service was given; in a container that is the root.
    let limits = process.and_then(Process::cgroup_limits).or_else(|| system.cgroup_limits());
    limits.map_or(u64::MAX, |limits| limits.total_memory.max(1)).min(system.total_memory())
}

fn system() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    if let Ok(pid) = sysinfo::get_current_pid() {
        let only = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(only, false, ProcessRefreshKind::nothing());
    }
    Some(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_with_advice() {
        let error = Settings::new("memory://").with_bees(4).with_memory(64 << 20).validate().unwrap_err();
        assert!(error.message().contains("use fewer bees"), "{error}");
    }
}
