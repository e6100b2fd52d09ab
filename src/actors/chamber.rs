//! The sealed place where a bee runs one query's tasks: memory pool, scratch folder, storage behind the query's meter.
//!
//! Chambers of one bee share the bee's budget; each counts its own use, so that a query's peak can be told and a query
//! over the budget loses its task alone.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::DataFusionError;
use datafusion::execution::cache::cache_manager::CacheManager;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use url::Url;

use super::query::QueryRecord;
use super::scratch::Spills;
use super::wear::Wear;
use crate::storage::Meadow;
use crate::storage::cached::{Cached, CellCache};
use crate::storage::ledger::ROOT_URL;
use crate::storage::metered::Meter;
use crate::{Error, Result};

/// Consumers that an out-of-memory error names.
const NAMED_CONSUMERS: usize = 3;

/// Least that is set aside for operators that begin, in bytes.
const LEAST_FOR_STARTS: u64 = 16 << 20;

/// What a bee's chambers share.
#[derive(Debug)]
pub(crate) struct Combs {
    budget: u64,
    pool: Arc<dyn MemoryPool>,
    /// Where operators may spill, if they may.
    disk: Option<Arc<DiskManager>>,
    wear: Arc<Wear>,
    cache: Arc<CacheManager>,
    cells: CellSource,
}

/// Where a node's chambers read cells from.
#[derive(Debug, Clone)]
pub(crate) struct CellSource {
    pub(crate) meadow: Meadow,
    /// What this node keeps of it, and the meadow's name there.
    pub(crate) cache: Option<(Arc<CellCache>, Arc<str>)>,
}

impl CellSource {
    /// The store for one query: what the cache answers is no request.
    fn metered(&self, meter: &Arc<Meter>) -> Arc<dyn ObjectStore> {
        let store = self.meadow.counted_store(meter);
        match &self.cache {
            Some((cache, namespace)) => Arc::new(Cached::new(store, Arc::clone(cache), Arc::clone(namespace))),
            None => store,
        }
    }
}

impl Combs {
    /// Room of `budget` bytes, spilling at most `scratch_limit` bytes into `scratch`, or nothing without it.
    pub(crate) fn new(
        budget: u64,
        scratch: Option<&Path>,
        scratch_limit: u64,
        wear: Arc<Wear>,
        cache: Arc<CacheManager>,
        cells: CellSource,
    ) -> Result<Self> {
        let disk = scratch.map(|folder| {
            let folders = DiskManagerMode::Directories(vec![folder.to_path_buf()]);
            let builder = DiskManagerBuilder::default().with_mode(folders);
            builder.with_max_temp_directory_size(scratch_limit).build().map(Arc::new)
        });
        let disk = disk.transpose()?;
        let named = NonZeroUsize::new(NAMED_CONSUMERS).unwrap_or(NonZeroUsize::MIN);
        let pool = Arc::new(TrackConsumersPool::new(FairSpillPool::new(divided(budget) as usize), named));
        Ok(Self { budget, pool, disk, wear, cache, cells })
    }

    /// Bytes that operators may hold together, but for those that begin.
    pub(crate) fn room(&self) -> u64 {
        divided(self.budget)
    }

    /// Bytes that operators hold now.
    pub(crate) fn used(&self) -> u64 {
        self.pool.reserved() as u64
    }

    /// A chamber for one query.
    pub(crate) fn chamber(&self, query: &Arc<QueryRecord>) -> Result<Arc<RuntimeEnv>> {
        let registry = DefaultObjectStoreRegistry::new();
        let url = Url::parse(ROOT_URL).map_err(|e| Error::internal(e.to_string()))?;
        registry.register_store(&url, self.cells.metered(&query.meter));
        let pool = ChamberPool {
            budget: self.budget as usize,
            bee: Arc::clone(&self.pool),
            used: AtomicU64::new(0),
            query: Arc::clone(query),
        };
        Ok(Arc::new(RuntimeEnv {
            memory_pool: Arc::new(pool),
            disk_manager: match &self.disk {
                Some(disk) => Spills::manager(disk, query, &self.wear)?,
                None => Arc::new(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled).build()?),
            },
            cache_manager: Arc::clone(&self.cache),
            object_store_registry: Arc::new(registry),
        }))
    }
}

/// What of a budget is for operators that begin: see `ChamberPool::is_a_start`. A sort holds a few batches before it can
/// spill any, and those of wide rows are as large for a small bee as for a large one.
fn for_starts(budget: u64) -> u64 {
    (budget / 8).max(LEAST_FOR_STARTS).min(budget / 4)
}

/// What of a budget is divided among operators.
fn divided(budget: u64) -> u64 {
    budget - for_starts(budget)
}

/// A bee's pool as one query sees it.
struct ChamberPool {
    budget: usize,
    bee: Arc<dyn MemoryPool>,
    used: AtomicU64,
    query: Arc<QueryRecord>,
}

impl ChamberPool {
    /// Whether an operator only asks for what it needs to begin, and there is room. The fair pool divides among all that
    /// might spill, most of which hold nothing: a share can be too small for one batch, and who holds nothing cannot spill.
    fn is_a_start(&self, reservation: &MemoryReservation, additional: usize) -> bool {
        reservation.size() + additional <= for_starts(self.budget as u64) as usize / 2
            && self.bee.reserved() + additional <= self.budget
    }

    fn grown(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.query.memory_peak.fetch_max(used, Ordering::Relaxed);
        self.query.memory_held.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for ChamberPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChamberPool({} bytes of {})", self.used.load(Ordering::Relaxed), self.bee)
    }
}

impl fmt::Display for ChamberPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl MemoryPool for ChamberPool {
    fn name(&self) -> &str {
        "chamber"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.bee.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.bee.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.bee.grow(reservation, additional);
        self.grown(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.bee.shrink(reservation, shrink);
        self.used.fetch_sub(shrink as u64, Ordering::Relaxed);
        self.query.memory_held.fetch_sub(shrink as u64, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        match self.bee.try_grow(reservation, additional) {
            Ok(()) => {}
            Err(_) if self.is_a_start(reservation, additional) => self.bee.grow(reservation, additional),
            Err(error) => return Err(error),
        }
        self.grown(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed) as usize
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.bee.memory_limit()
    }
}
