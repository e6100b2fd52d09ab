//! Keeps ranges of cells from remote storage on this machine's disk: a second scan costs no request.
//!
//! Cells never change once they are written, so what was read once stays right for ever and nothing is ever asked
//! whether it is still fresh. Only cells are kept; ledgers, records and everything else pass through.
//!
//! ```text
//!   reader ──ranges──▶ Cached ──blocks──▶ CellCache ──here───────▶ read from disk and checked
//!                                                   ├─on its way──▶ awaited: another reader fetches it
//!                                                   └─missing─────▶ claimed, fetched from the inner store, written
//! ```
//!
//! What must hold: the disk can only make a read faster. A file that is damaged, cut short, foreign or gone, a full disk
//! and a refused write all cost a fetch and a debug line. A fetch runs as a task of its own: a reader that is dropped or
//! not polled for a while never holds up those who wait for the same block.
//!
//! The folder holds `lock`, `half-written/` and the blocks: `<hash's first byte>/<hash of the cell>-<block number>`.

mod block;
mod index;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error as StoreError, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::debug;

pub(super) use block::checksum;
use block::{BLOCK, Block, BlockId, CellKey, CellMeta, HEAD, decode, encode_head};
use index::{Index, take_over};

use crate::Error;
use crate::sync::lock;

/// End of the ranges that are looked at: no object is as large, and sums of block numbers cannot overflow below it.
const MAX_END: u64 = 1 << 60;
/// Most blocks that one request may span: they are held in memory while the answer is cut. Larger ones pass through.
const MAX_BLOCKS: usize = 1024;
/// Blocks that one blocking task reads: enough to pay for the task, few enough that a disk gets several at once.
const BLOCKS_PER_TASK: usize = 8;
/// Looks at what is missing before a request passes through: one learns the size, one reads and fetches, and two more
/// are for files that turn out damaged and for fetches of others that failed.
const ROUNDS: usize = 4;
/// Folder of files that are being written; a rename makes them count.
const HALF_WRITTEN: &str = "half-written";

/// What a [`CellCache`] holds and has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Bytes asked for that cost no request of their own: on disk, or on their way for somebody else.
    pub hits_bytes: u64,
    /// Bytes asked for that had to be fetched.
    pub missed_bytes: u64,
    /// Bytes of the files on disk.
    pub bytes: u64,
    /// Blocks on disk.
    pub entries: u64,
    /// Bytes written to disk.
    pub bytes_written: u64,
}

/// A folder with blocks of cells, shared by every [`Cached`] of this process and by no other process.
#[derive(Debug)]
pub struct CellCache {
    folder: PathBuf,
    capacity: u64,
    state: Mutex<State>,
    hits_bytes: AtomicU64,
    missed_bytes: AtomicU64,
    bytes_written: AtomicU64,
    paused: AtomicBool,
    /// Tells half-written files apart.
    writes: AtomicU64,
    /// Held locked while the folder is this cache's.
    lock: Mutex<Option<File>>,
}

impl CellCache {
    /// Opens `folder`, making it when it is missing, and takes over the blocks that are there; the least recently
    /// written go first until they fit `capacity` bytes. Capacity counts whole files and is exceeded only by blocks
    /// that are being written. Blocks the thread while it lists the folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when another cache has the folder; what the file system says otherwise.
    pub fn open(folder: PathBuf, capacity: u64) -> crate::Result<Arc<Self>> {
        let refused =
            |e: std::io::Error| Error::from(e).context(format!("cannot open the cache folder {}", folder.display()));
        if folder.is_file() {
            return Err(Error::storage(format!("{} is a file: give a folder as cache", folder.display())));
        }
        std::fs::create_dir_all(&folder).map_err(refused)?;
        let lock = take_lock(&folder)?;
        drop_half_written(&folder).map_err(refused)?;
        let index = take_over(&folder).map_err(refused)?;
        let cache = Arc::new(Self {
            folder,
            capacity,
            state: Mutex::new(State { index, flights: HashMap::new() }),
            hits_bytes: AtomicU64::new(0),
            missed_bytes: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
        });
        cache.shrink();
        Ok(cache)
    }

    /// What it holds and has done.
    pub fn stats(&self) -> CacheStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.state();
        CacheStats {
            hits_bytes: load(&self.hits_bytes),
            missed_bytes: load(&self.missed_bytes),
            bytes: state.index.bytes,
            entries: state.index.order.len() as u64,
            bytes_written: load(&self.bytes_written),
        }
    }

    /// Bytes of the cell at `path` of the meadow `namespace` that are here; no disk is touched.
    pub fn share_of(&self, namespace: &str, path: &Path) -> u64 {
        let hash = CellKey::new(namespace, path).hash;
        self.state().index.share_of(hash)
    }
}

/// A store whose cells are read through a [`CellCache`]. Reads and removals must be polled inside a tokio runtime.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn ObjectStore>,
    cache: Arc<CellCache>,
    namespace: Arc<str>,
}

impl Cached {
    /// Reads cells of `inner` through `cache`. `namespace` tells meadows that share a cache apart, their location for
    /// example; it must be the same after a restart and must hold no secret, for it is written to disk.
    pub fn new(inner: Arc<dyn ObjectStore>, cache: Arc<CellCache>, namespace: impl Into<Arc<str>>) -> Self {
        Self { inner, cache, namespace: namespace.into() }
    }

    /// Bytes of the cell at `path` that are on this machine's disk.
    pub fn share_of(&self, path: &Path) -> u64 {
        self.cache.share_of(&self.namespace, path)
    }

    /// The bytes of `ranges`, or `None` when the request is one that only the inner store answers properly.
    async fn read(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Option<(CellMeta, Vec<Bytes>)>> {
        let Some(asked) = blocks_of(ranges) else { return Ok(None) };
        let cell = Cell { key: CellKey::new(&self.namespace, location), path: location.clone() };
        let mut found = Found::default();
        for _ in 0..ROUNDS {
            let missing = found.missing(&asked);
            if missing.is_empty() {
                break;
            }
            self.round(&cell, &missing, &mut found).await?;
        }
        let Some(meta) = found.meta.filter(|_| found.missing(&asked).is_empty()) else { return Ok(None) };
        if ranges.iter().any(|r| r.start >= meta.size) {
            return Ok(None);
        }
        let parts = ranges.iter().map(|r| found.cut(r.start..r.end.min(meta.size), &self.cache)).collect();
        Ok(Some((meta, parts)))
    }

    /// Fetches what is missing while it reads what is here, then waits for what others fetch. The own fetch comes
    /// before the waiting, so that two readers never wait for each other.
    async fn round(&self, cell: &Cell, missing: &[u64], found: &mut Found) -> Result<()> {
        let plan = self.cache.plan(&cell.key, found.meta, missing);
        let fetch = self.start_fetch(cell, plan.meta, plan.claims);
        found.add(self.cache.read_blocks(&cell.key, plan.meta, plan.here).await, Source::Here);
        if let Some(fetch) = fetch {
            found.add(fetch.await??, Source::Fetched);
        }
        for (number, mut flight) in plan.flights {
            // A failed or abandoned fetch closes the channel: the next round claims the block itself.
            if let Ok(landed) = flight.wait_for(Option::is_some).await {
                found.add(landed.iter().map(|block| (number, block.clone())), Source::Here);
            }
        }
        Ok(())
    }

    /// A task of its own, because a reader may be dropped or not be polled while others wait for its blocks.
    fn start_fetch(&self, cell: &Cell, meta: Option<CellMeta>, claims: Vec<Claim>) -> Option<JoinHandle<Fetched>> {
        if claims.is_empty() {
            return None;
        }
        let (inner, cell) = (Arc::clone(&self.inner), cell.clone());
        Some(tokio::spawn(async move {
            let numbers: Vec<u64> = claims.iter().map(|claim| claim.number).collect();
            let blocks = fetch(inner.as_ref(), &cell.path, meta, &numbers).await?;
            land(claims, &blocks).await;
            Ok(blocks)
        }))
    }
}

impl std::fmt::Display for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Cached {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(range) = plain_range(location, &options)
            && let Some((meta, parts)) = self.read(location, std::slice::from_ref(&range)).await?
        {
            return Ok(answer(location, meta, range, parts));
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if is_cell(location)
            && let Some((_, parts)) = self.read(location, ranges).await?
        {
            return Ok(parts);
        }
        self.inner.get_ranges(location, ranges).await
    }

    /// Entries go when the removal is asked for: one that fails costs a fetch, one whose answer is lost leaves nothing.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (cache, namespace) = (Arc::clone(&self.cache), Arc::clone(&self.namespace));
        let drop_entries = move |location: &Result<Path>| {
            if let Some(path) = location.as_ref().ok().filter(|path| is_cell(path)) {
                cache.drop_cell(CellKey::new(&namespace, path).hash);
            }
        };
        self.inner.delete_stream(locations.inspect(drop_entries).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Blocks that one fetch brought, by number.
type Fetched = Result<Vec<(u64, Block)>>;
/// A block that somebody fetches; closed without a block when that fails.
type Flight = watch::Receiver<Option<Block>>;

#[derive(Debug, Clone)]
struct Cell {
    key: CellKey,
    path: Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Here,
    Fetched,
}

/// The blocks of one request as they come in.
#[derive(Debug, Default)]
struct Found {
    meta: Option<CellMeta>,
    blocks: HashMap<u64, (Bytes, Source)>,
}

impl Found {
    fn add(&mut self, blocks: impl IntoIterator<Item = (u64, Block)>, source: Source) {
        for (number, block) in blocks {
            self.meta = Some(block.meta);
            self.blocks.insert(number, (block.bytes, source));
        }
    }

    /// Those of `asked` that are not there yet; once the size is known, none past the end.
    fn missing(&self, asked: &[u64]) -> Vec<u64> {
        let end = self.meta.map_or(u64::MAX, CellMeta::blocks);
        asked.iter().copied().filter(|number| *number < end && !self.blocks.contains_key(number)).collect()
    }

    /// The bytes of `range`, all of whose blocks are there. A small part is copied: a slice would keep its block alive.
    fn cut(&self, range: Range<u64>, cache: &CellCache) -> Bytes {
        let mut parts = self.parts(&range, cache);
        match parts.as_mut_slice() {
            [part] if (part.len() as u64) * 2 >= BLOCK => std::mem::take(part),
            parts => {
                let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                whole.freeze()
            }
        }
    }

    fn parts(&self, range: &Range<u64>, cache: &CellCache) -> Vec<Bytes> {
        let part = |number: u64| {
            let (bytes, source) = self.blocks.get(&number)?;
            let start = range.start.max(number * BLOCK) - number * BLOCK;
            let end = range.end.min((number + 1) * BLOCK) - number * BLOCK;
            cache.count(*source, end - start);
            Some(bytes.slice(start as usize..end as usize))
        };
        (range.start / BLOCK..range.end.div_ceil(BLOCK)).filter_map(part).collect()
    }
}

/// What is to be done for the missing blocks of one request.
#[derive(Debug)]
struct Plan {
    meta: Option<CellMeta>,
    here: Vec<u64>,
    flights: Vec<(u64, Flight)>,
    claims: Vec<Claim>,
}

/// The right and the duty to fetch one block. Dropping it ends the wait of others, with the block or without.
#[derive(Debug)]
struct Claim {
    cache: Arc<CellCache>,
    key: CellKey,
    number: u64,
    landed: watch::Sender<Option<Block>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cache.state().flights.remove(&(Arc::clone(&self.key.text), self.number));
    }
}

#[derive(Debug)]
struct State {
    index: Index,
    /// By the key's text: a waiter gets bytes unchecked, so a collision of hashes must not matter.
    flights: HashMap<(Arc<str>, u64), Flight>,
}

/// What happens to blocks. Functions that touch the disk block the thread; those that are `async` do it elsewhere.
impl CellCache {
    /// Gives the folder back: another process may open it. Nothing is written or removed from now on.
    pub fn close(&self) {
        drop(lock(&self.lock).take());
    }

    fn is_open(&self) -> bool {
        lock(&self.lock).is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn count(&self, source: Source, bytes: u64) {
        let counter = if source == Source::Here { &self.hits_bytes } else { &self.missed_bytes };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sorts `missing`, which ascends, into what is here, on its way, and now claimed: under one lock, so that a block
    /// that is here or on its way is never claimed.
    fn plan(self: &Arc<Self>, key: &CellKey, meta: Option<CellMeta>, missing: &[u64]) -> Plan {
        let mut state = self.state();
        let meta = meta.or_else(|| state.index.meta(key));
        let mut plan = Plan { meta, here: Vec::new(), flights: Vec::new(), claims: Vec::new() };
        for number in state.worth_asking(key, meta, missing) {
            let flight = (Arc::clone(&key.text), number);
            if state.index.contains(key.block(number)) {
                state.index.touch(key.block(number));
                plan.here.push(number);
            } else if let Some(landing) = state.flights.get(&flight) {
                plan.flights.push((number, landing.clone()));
            } else {
                let (landed, landing) = watch::channel(None);
                state.flights.insert(flight, landing);
                plan.claims.push(Claim { cache: Arc::clone(self), key: key.clone(), number, landed });
            }
        }
        plan
    }

    /// The blocks of `here` that turn out to be sound; the others are forgotten.
    async fn read_blocks(self: &Arc<Self>, key: &CellKey, meta: Option<CellMeta>, here: Vec<u64>) -> Vec<(u64, Block)> {
        let tasks = here.chunks(BLOCKS_PER_TASK).map(|numbers| {
            let (cache, key, numbers) = (Arc::clone(self), key.clone(), numbers.to_vec());
            let read = move |number| Some((number, cache.read_block(&key, meta, number)?));
            spawn_blocking(move || numbers.into_iter().filter_map(read).collect::<Vec<_>>())
        });
        // A task that did not come back read nothing: its blocks are still missing.
        join_all(tasks).await.into_iter().flatten().flatten().collect()
    }

    fn read_block(&self, key: &CellKey, meta: Option<CellMeta>, number: u64) -> Option<Block> {
        let id = key.block(number);
        let damaged = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let read = std::fs::read(id.file(&self.folder)).and_then(|f| decode(key, number, f).ok_or_else(damaged));
        match read {
            Ok(block) if meta.is_none_or(|meta| meta == block.meta) => {
                self.state().index.learn(key, block.meta);
                Some(block)
            }
            other => {
                debug!(file = %id.file(&self.folder).display(), error = ?other.err(), "cached block dropped");
                self.state().index.remove(id);
                self.unlink(&[id]);
                None
            }
        }
    }

    /// Keeps nothing more, or again, on disk; what is there is read on.
    pub fn pause_writes(&self, pause: bool) {
        self.paused.store(pause, Ordering::Relaxed);
    }

    fn keep(&self, key: &CellKey, number: u64, block: &Block) {
        if !self.is_open() || self.paused.load(Ordering::Relaxed) {
            return;
        }
        let id = key.block(number);
        match self.write_block(key, number, block) {
            Ok(file_bytes) => {
                let mut state = self.state();
                state.index.insert(id, file_bytes);
                state.index.learn(key, block.meta);
                drop(state);
                self.bytes_written.fetch_add(file_bytes, Ordering::Relaxed);
                self.shrink();
            }
            Err(error) => debug!(file = %id.file(&self.folder).display(), %error, "block not cached"),
        }
    }

    /// Nothing is synced: a file that a crash cut short fails its checksum.
    fn write_block(&self, key: &CellKey, number: u64, block: &Block) -> std::io::Result<u64> {
        let Some(head) = encode_head(key, number, block) else {
            return Err(std::io::ErrorKind::InvalidFilename.into());
        };
        let id = key.block(number);
        let (half, file) = (self.folder.join(HALF_WRITTEN), id.file(&self.folder));
        std::fs::create_dir_all(&half)?;
        file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let half = half.join(format!("{}.{}", id.file_name(), self.writes.fetch_add(1, Ordering::Relaxed)));
        let written = write_parts(&half, &[&head, &block.bytes]).and_then(|()| std::fs::rename(&half, &file));
        if let Err(error) = written {
            // Best effort: opening the cache anew removes it otherwise.
            std::fs::remove_file(&half).ok();
            return Err(error);
        }
        Ok((HEAD + block.bytes.len()) as u64)
    }

    fn shrink(&self) {
        let out = self.state().index.shrink_to(self.capacity);
        self.unlink(&out);
    }

    fn drop_cell(self: &Arc<Self>, cell: u64) {
        let ids = self.state().index.remove_cell(cell);
        if !ids.is_empty() {
            let cache = Arc::clone(self);
            // Nobody waits for it: a file left behind by a crash is taken over and ages like any other.
            drop(spawn_blocking(move || cache.unlink(&ids)));
        }
    }

    /// Removes files that the index no longer has. One that is fetched again meanwhile may lose its file: reading it
    /// then costs a fetch.
    fn unlink(&self, ids: &[BlockId]) {
        if !self.is_open() {
            return;
        }
        for id in ids {
            let file = id.file(&self.folder);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    debug!(file = %file.display(), %error, "cached block not removed");
                }
                _ => {}
            }
        }
    }
}

impl State {
    /// Asking the store for blocks past the end fails. While the size is unknown and the first block need not be
    /// fetched, only blocks that need not be either are asked for, because they tell the size; otherwise the fetch of
    /// the first block does.
    fn worth_asking(&self, key: &CellKey, meta: Option<CellMeta>, missing: &[u64]) -> Vec<u64> {
        let soon = |number: &u64| {
            self.index.contains(key.block(*number)) || self.flights.contains_key(&(Arc::clone(&key.text), *number))
        };
        let numbers = missing.iter().copied();
        match meta {
            Some(meta) => numbers.filter(|number| *number < meta.blocks()).collect(),
            None if missing.first().is_some_and(soon) => numbers.filter(soon).collect(),
            None => numbers.collect(),
        }
    }
}

fn is_cell(path: &Path) -> bool {
    path.filename().is_some_and(|name| name.starts_with("cell-") && name.ends_with(".parquet"))
}

/// The range of a request that asks for a cell's bytes and nothing else.
fn plain_range(location: &Path, options: &GetOptions) -> Option<Range<u64>> {
    let conditional = options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some();
    match &options.range {
        Some(GetRange::Bounded(range)) if !conditional && !options.head && options.version.is_none() => {
            is_cell(location).then(|| range.clone())
        }
        _ => None,
    }
}

/// The numbers of the blocks that `ranges` touch, ascending; `None` when a range is odd or they are too many.
fn blocks_of(ranges: &[Range<u64>]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    for range in ranges {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        if range.is_empty() || range.end > MAX_END || blocks.end - blocks.start > MAX_BLOCKS as u64 {
            return None;
        }
        numbers.extend(blocks);
    }
    numbers.sort_unstable();
    numbers.dedup();
    (1..=MAX_BLOCKS).contains(&numbers.len()).then_some(numbers)
}

fn answer(location: &Path, meta: CellMeta, range: Range<u64>, parts: Vec<Bytes>) -> GetResult {
    let last_modified = DateTime::from_timestamp_micros(meta.modified_micros).unwrap_or_default();
    GetResult {
        payload: GetResultPayload::Stream(stream::iter(parts.into_iter().map(Ok)).boxed()),
        meta: ObjectMeta { location: location.clone(), last_modified, size: meta.size, e_tag: None, version: None },
        range: range.start..range.end.min(meta.size),
        attributes: Attributes::default(),
    }
}

/// Fetches the blocks `numbers`, which ascend, leaving out those past the end.
async fn fetch(inner: &dyn ObjectStore, path: &Path, meta: Option<CellMeta>, numbers: &[u64]) -> Fetched {
    let mut runs = runs(numbers);
    let mut blocks = Vec::with_capacity(numbers.len());
    let meta = match meta {
        Some(meta) => meta,
        None => {
            let first = runs.remove(0);
            let (meta, bytes) = fetch_first(inner, path, first.clone()).await?;
            blocks.extend(split(meta, first, bytes)?);
            meta
        }
    };
    let rest: Vec<Range<u64>> = runs.iter().map(|r| r.start..r.end.min(meta.size)).filter(|r| !r.is_empty()).collect();
    if !rest.is_empty() {
        let fetched = inner.get_ranges(path, &rest).await?;
        for (run, bytes) in rest.into_iter().zip(fetched) {
            blocks.extend(split(meta, run, bytes)?);
        }
    }
    Ok(blocks)
}

/// A plain get says the object's size, which ranges do not.
async fn fetch_first(inner: &dyn ObjectStore, path: &Path, run: Range<u64>) -> Result<(CellMeta, Bytes)> {
    let options = GetOptions { range: Some(GetRange::Bounded(run)), ..GetOptions::default() };
    let result = inner.get_opts(path, options).await?;
    Ok((CellMeta::of(&result.meta), result.bytes().await?))
}

/// The byte ranges of adjacent blocks.
fn runs(numbers: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        let block = number * BLOCK..(number + 1) * BLOCK;
        match runs.last_mut() {
            Some(run) if run.end == block.start => run.end = block.end,
            _ => runs.push(block),
        }
    }
    runs
}

/// Cuts a run into its blocks; a store that answered with fewer bytes is not believed.
fn split(meta: CellMeta, run: Range<u64>, bytes: Bytes) -> Fetched {
    if run.start + bytes.len() as u64 != run.end.min(meta.size) {
        let source = format!("asked for bytes {run:?} of {} of a cell, got {}", meta.size, bytes.len()).into();
        return Err(StoreError::Generic { store: "cached", source });
    }
    let block = |number: u64| {
        let start = number * BLOCK - run.start;
        let bytes = bytes.slice(start as usize..(start + meta.block_len(number)) as usize);
        (number, Block { meta, bytes })
    };
    Ok((run.start / BLOCK..run.end.min(meta.size).div_ceil(BLOCK)).map(block).collect())
}

/// Gives blocks to those who wait, then writes them. The reader waits for the writing: a disk that is slower than the
/// network then slows the reads, where a queue would fill the memory.
async fn land(claims: Vec<Claim>, blocks: &[(u64, Block)]) {
    let mut landed = Vec::with_capacity(claims.len());
    for claim in claims {
        if let Some((_, block)) = blocks.iter().find(|(number, _)| *number == claim.number) {
            claim.landed.send_replace(Some(block.clone()));
            landed.push((claim, block.clone()));
        }
    }
    // Each claim ends after its block is in the index, so that nobody finds it in neither place.
    let write =
        move || landed.into_iter().for_each(|(claim, block)| claim.cache.keep(&claim.key, claim.number, &block));
    if let Err(error) = spawn_blocking(write).await {
        debug!(%error, "blocks not cached");
    }
}

fn write_parts(file: &FilePath, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut file = File::create(file)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

fn take_lock(folder: &FilePath) -> crate::Result<File> {
    let path = folder.join("lock");
    let refused =
        |e: std::io::Error| Error::from(e).context(format!("cannot lock the cache folder {}", folder.display()));
    let lock = File::options().create(true).write(true).truncate(false).open(&path).map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::Error(e)) => Err(refused(e)),
        Err(TryLockError::WouldBlock) => Err(Error::invalid(format!(
            "the cache folder {} is in use by another process: give each its own folder, or stop the other",
            folder.display()
        ))),
    }
}

fn drop_half_written(folder: &FilePath) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder.join(HALF_WRITTEN)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
