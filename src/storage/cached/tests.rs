use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::block::checksum;
use super::*;
use crate::storage::faulty::{Faults, Faulty};
use crate::storage::metered::{Meter, Metered};

const CELL: &str = "hives/h/boxes/b/frames/f/cell-01.parquet";
const PLENTY: u64 = 1 << 30;

/// A remote place, its meter, and a folder on this machine.
struct Place {
    remote: Arc<dyn ObjectStore>,
    meter: Arc<Meter>,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with(Arc::new(InMemory::new()))
    }

    fn with(store: Arc<dyn ObjectStore>) -> Self {
        let meter = Arc::new(Meter::default());
        let remote = Arc::new(Metered::new(store, Arc::clone(&meter)));
        Self { remote, meter, folder: tempfile::tempdir().unwrap() }
    }

    fn open(&self, capacity: u64) -> Cached {
        let cache = CellCache::open(self.folder.path().to_path_buf(), capacity).unwrap();
        Cached::new(Arc::clone(&self.remote), cache, "memory://")
    }

    async fn put(&self, path: &str, size: u64) -> Vec<u8> {
        let bytes = content(path, size);
        self.remote.put(&path.into(), bytes.clone().into()).await.unwrap();
        bytes
    }

    fn gets(&self) -> u64 {
        self.meter.read().gets
    }

    /// Every file that holds a block.
    fn files(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().path());
        let folders = folders.filter(|f| f.is_dir() && !f.ends_with(HALF_WRITTEN));
        let mut files: Vec<PathBuf> = folders
            .flat_map(|f| std::fs::read_dir(f).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>())
            .collect();
        files.sort();
        files
    }
}

fn content(path: &str, size: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(checksum(size, path.as_bytes()));
    let mut bytes = vec![0; size as usize];
    random.fill(&mut bytes);
    bytes
}

fn part(bytes: &[u8], range: &Range<u64>) -> Bytes {
    Bytes::copy_from_slice(&bytes[range.start as usize..range.end.min(bytes.len() as u64) as usize])
}

async fn check(store: &Cached, path: &str, bytes: &[u8], range: Range<u64>) {
    assert_eq!(store.get_range(&path.into(), range.clone()).await.unwrap(), part(bytes, &range), "{range:?}");
}

#[tokio::test]
async fn a_second_read_costs_no_request() {
    let place = Place::new();
    let bytes = place.put(CELL, 3 * BLOCK + 17).await;
    let store = place.open(PLENTY);
    check(&store, CELL, &bytes, 10..2 * BLOCK).await;
    assert_eq!(place.gets(), 1);
    check(&store, CELL, &bytes, 5..2 * BLOCK - 1).await;
    assert_eq!(place.gets(), 1);
    let stats = store.cache.stats();
    assert_eq!((stats.missed_bytes, stats.hits_bytes), (2 * BLOCK - 10, 2 * BLOCK - 6));
    assert_eq!((stats.entries, stats.bytes), (2, 2 * (BLOCK + HEAD as u64)));
    assert_eq!(stats.bytes_written, stats.bytes);
    assert_eq!(store.share_of(&CELL.into()), 2 * BLOCK);
}

#[tokio::test]
async fn only_missing_blocks_are_fetched_in_one_call() {
    let place = Place::new();
    let bytes = place.put(CELL, 6 * BLOCK).await;
    let store = place.open(PLENTY);
    check(&store, CELL, &bytes, 2 * BLOCK..3 * BLOCK).await;
    let before = place.meter.read();
    check(&store, CELL, &bytes, 0..6 * BLOCK).await;
    let after = place.meter.read();
    assert_eq!((after.gets - before.gets, after.bytes_read - before.bytes_read), (1, 5 * BLOCK));
}

#[tokio::test]
async fn a_plain_get_says_what_the_inner_store_says() {
    let place = Place::new();
    place.put(CELL, 100).await;
    let store = place.open(PLENTY);
    let options = || GetOptions { range: Some(GetRange::Bounded(90..200)), ..GetOptions::default() };
    for _ in 0..2 {
        let want = place.remote.get_opts(&CELL.into(), options()).await.unwrap();
        let got = store.get_opts(&CELL.into(), options()).await.unwrap();
        assert_eq!((&got.range, got.meta.size, &got.meta.location), (&want.range, want.meta.size, &want.meta.location));
        assert_eq!(got.meta.last_modified.timestamp_micros(), want.meta.last_modified.timestamp_micros());
        assert_eq!(got.bytes().await.unwrap(), want.bytes().await.unwrap());
    }
}

#[tokio::test]
async fn random_ranges_are_right_whatever_is_here() {
    let mut random = fastrand::Rng::with_seed(7);
    for size in [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 4 * BLOCK + 4711] {
        let place = Place::new();
        let bytes = place.put(CELL, size).await;
        // Room for two blocks, so that reads meet every mixture of what is here and what is not.
        let mut store = place.open(2 * (BLOCK + HEAD as u64));
        for turn in 0..60 {
            let ranges: Vec<Range<u64>> = (0..random.usize(1..5)).map(|_| random_range(&mut random, size)).collect();
            let got = store.get_ranges(&CELL.into(), &ranges).await.unwrap();
            assert_eq!(got, ranges.iter().map(|r| part(&bytes, r)).collect::<Vec<_>>(), "{ranges:?} of {size}");
            check(&store, CELL, &bytes, random_range(&mut random, size)).await;
            if turn % 10 == 9 {
                drop(store);
                store = place.open(2 * (BLOCK + HEAD as u64));
            }
        }
    }
}

/// Now and then past the end, which stores answer with what there is.
fn random_range(random: &mut fastrand::Rng, size: u64) -> Range<u64> {
    let start = random.u64(0..size);
    start..start + random.u64(1..=size + BLOCK)
}

#[tokio::test]
async fn odd_ranges_are_answered_by_the_inner_store() {
    let place = Place::new();
    place.put(CELL, BLOCK + 5).await;
    let store = place.open(PLENTY);
    let path = Path::from(CELL);
    for _ in 0..2 {
        for range in [BLOCK + 5..BLOCK + 6, 9 * BLOCK..9 * BLOCK + 1, u64::MAX - 1..u64::MAX] {
            assert!(store.get_range(&path, range.clone()).await.is_err(), "{range:?}");
            assert!(store.get_ranges(&path, &[0..1, range.clone()]).await.is_err(), "{range:?}");
        }
        assert!(store.get_range(&path, 3..3).await.is_err());
        assert_eq!(store.get_range(&path, 1..u64::MAX).await.unwrap().len() as u64, BLOCK + 4);
        assert!(store.get_ranges(&path, &[]).await.unwrap().is_empty());
        // The second time with the blocks here.
        store.get_range(&path, 0..BLOCK + 5).await.unwrap();
    }
    let missing = store.get_range(&"cell-none.parquet".into(), 0..1).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn blocks_survive_reopening() {
    let place = Place::new();
    let bytes = place.put(CELL, 2 * BLOCK + 9).await;
    let store = place.open(PLENTY);
    check(&store, CELL, &bytes, 0..2 * BLOCK + 9).await;
    let held = store.cache.stats().bytes;
    drop(store);
    let store = place.open(PLENTY);
    assert_eq!(store.cache.stats(), CacheStats { bytes: held, entries: 3, ..CacheStats::default() });
    assert_eq!(store.share_of(&CELL.into()), 2 * BLOCK + 9);
    check(&store, CELL, &bytes, 0..5 * BLOCK).await;
    assert_eq!(place.gets(), 1);
}

#[tokio::test]
async fn damaged_files_cost_one_fetch_and_nothing_else() {
    let size = BLOCK + 99;
    let damages: [fn(&FilePath); 7] = [
        |file| flip(file, HEAD + 5),
        |file| flip(file, 2),
        |file| flip(file, 9),
        |file| flip(file, 25),
        |file| File::options().write(true).open(file).unwrap().set_len(50).unwrap(),
        |file| File::options().write(true).open(file).unwrap().set_len(HEAD as u64 + 50).unwrap(),
        |file| std::fs::remove_file(file).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        for reopened in [false, true] {
            let place = Place::new();
            let bytes = place.put(CELL, size).await;
            let mut store = place.open(PLENTY);
            check(&store, CELL, &bytes, 0..size).await;
            if reopened {
                drop(store);
                store = place.open(PLENTY);
            }
            place.files().iter().for_each(|file| damage(file));
            check(&store, CELL, &bytes, 3..size).await;
            assert_eq!(place.gets(), 2, "damage {number}, reopened {reopened}");
            check(&store, CELL, &bytes, 3..size).await;
            assert_eq!(place.gets(), 2, "damage {number}, reopened {reopened}");
            assert_eq!(store.cache.stats().entries, 2);
        }
    }
}

fn flip(file: &FilePath, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_file_of_another_block_is_not_believed() {
    let place = Place::new();
    let bytes = place.put(CELL, 2 * BLOCK).await;
    let store = place.open(PLENTY);
    check(&store, CELL, &bytes, 0..2 * BLOCK).await;
    let files = place.files();
    std::fs::copy(&files[0], &files[1]).unwrap();
    check(&store, CELL, &bytes, 0..2 * BLOCK).await;
    assert_eq!(place.gets(), 2);
}

#[tokio::test]
async fn a_disk_that_refuses_costs_fetches_only() {
    let place = Place::new();
    let bytes = place.put(CELL, 2 * BLOCK).await;
    let store = place.open(PLENTY);
    // A file where a folder must be refuses everybody, root included.
    std::fs::write(place.folder.path().join(HALF_WRITTEN), "").unwrap();
    for fetches in 1..3 {
        check(&store, CELL, &bytes, 0..2 * BLOCK).await;
        assert_eq!(place.gets(), fetches);
    }
    assert_eq!(store.cache.stats().entries, 0);
}

#[tokio::test]
async fn a_name_that_does_not_fit_a_head_is_read_but_not_kept() {
    let place = Place::new();
    let path = format!("{}/cell-1.parquet", "x".repeat(HEAD));
    let bytes = place.put(&path, 10).await;
    let store = place.open(PLENTY);
    check(&store, &path, &bytes, 0..10).await;
    assert_eq!(store.cache.stats().entries, 0);
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let place = Place::new();
    let bytes = place.put(CELL, 4 * BLOCK).await;
    let capacity = 2 * (BLOCK + HEAD as u64);
    let store = place.open(capacity);
    let block = |n: u64| n * BLOCK..(n + 1) * BLOCK;
    for n in [0, 1, 0, 2] {
        check(&store, CELL, &bytes, block(n)).await;
        assert!(store.cache.stats().bytes <= capacity);
    }
    assert_eq!((place.gets(), place.files().len()), (3, 2));
    check(&store, CELL, &bytes, block(0)).await;
    check(&store, CELL, &bytes, block(2)).await;
    assert_eq!(place.gets(), 3);
    check(&store, CELL, &bytes, block(1)).await;
    assert_eq!((place.gets(), place.files().len()), (4, 2));
}

#[tokio::test]
async fn a_smaller_capacity_drops_the_oldest_files_on_opening() {
    let place = Place::new();
    let bytes = place.put(CELL, 3 * BLOCK).await;
    let store = place.open(PLENTY);
    check(&store, CELL, &bytes, 0..3 * BLOCK).await;
    drop(store);
    for (age, file) in place.files().iter().enumerate() {
        let written = SystemTime::now() - Duration::from_secs(100 * age as u64);
        File::options().write(true).open(file).unwrap().set_modified(written).unwrap();
    }
    let store = place.open(BLOCK + HEAD as u64);
    assert_eq!(place.files().len(), 1);
    check(&store, CELL, &bytes, 0..BLOCK).await;
    assert_eq!(place.gets(), 1);
}

#[tokio::test]
async fn what_is_no_cell_passes_through() {
    let place = Place::new();
    let store = place.open(PLENTY);
    for path in ["a/_delta_log/0.json", "a/part-1.parquet", "a/cell-1.json", "a/cell-1.parquet/x"] {
        let bytes = place.put(path, 50).await;
        let before = place.gets();
        check(&store, path, &bytes, 0..9).await;
        check(&store, path, &bytes, 0..9).await;
        assert_eq!(place.gets() - before, 2, "{path}");
    }
    place.put(CELL, 50).await;
    let suffix = GetOptions { range: Some(GetRange::Suffix(8)), ..GetOptions::default() };
    assert_eq!(store.get_opts(&CELL.into(), suffix).await.unwrap().range, 42..50);
    assert_eq!(store.head(&CELL.into()).await.unwrap().size, 50);
    let never = GetOptions { if_match: Some("no".into()), ..GetOptions::default() };
    assert!(store.get_opts(&CELL.into(), never.with_range(Some(0..1))).await.is_err());
    assert_eq!(store.cache.stats(), CacheStats::default());
}

#[tokio::test]
async fn removing_a_cell_drops_its_blocks() {
    let place = Place::new();
    let other = "cell-02.parquet";
    for path in [CELL, other] {
        let bytes = place.put(path, 2 * BLOCK).await;
        check(&place.open(PLENTY), path, &bytes, 0..2 * BLOCK).await;
    }
    let store = place.open(PLENTY);
    store.delete(&CELL.into()).await.unwrap();
    assert_eq!((store.share_of(&CELL.into()), store.share_of(&other.into())), (0, 2 * BLOCK));
    assert!(store.get_range(&CELL.into(), 0..1).await.is_err());
    while place.files().len() > 2 {
        tokio::task::yield_now().await;
    }
    let left: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn meadows_that_share_a_folder_do_not_mix() {
    let (one, two) = (Place::new(), Place::new());
    one.remote.put(&CELL.into(), "one".into()).await.unwrap();
    two.remote.put(&CELL.into(), "two".into()).await.unwrap();
    let first = one.open(PLENTY);
    let second = Cached::new(Arc::clone(&two.remote), Arc::clone(&first.cache), "other://");
    for _ in 0..2 {
        assert_eq!(first.get_range(&CELL.into(), 0..3).await.unwrap(), "one");
        assert_eq!(second.get_range(&CELL.into(), 0..3).await.unwrap(), "two");
    }
    assert_eq!((one.gets(), two.gets()), (1, 1));
}

fn slow(error: f64) -> Place {
    let faults = Faults { error, delay: Duration::from_millis(20), ..Faults::default() };
    Place::with(Arc::new(Faulty::new(Arc::new(InMemory::new()), faults, 1)))
}

#[tokio::test]
async fn concurrent_readers_of_one_block_fetch_once() {
    let place = slow(0.0);
    let bytes = place.put(CELL, 3 * BLOCK).await;
    let store = place.open(PLENTY);
    join_all((0..20).map(|n| check(&store, CELL, &bytes, n..n + 1000))).await;
    assert_eq!(place.gets(), 1);
    // Overlapping in both directions: each fetches what is its own and waits for the rest.
    let ranges = [BLOCK - 1..2 * BLOCK + 1, 0..2 * BLOCK, BLOCK..3 * BLOCK];
    let before = place.meter.read().bytes_read;
    join_all(ranges.map(|range| check(&store, CELL, &bytes, range))).await;
    assert_eq!(place.meter.read().bytes_read - before, 2 * BLOCK);
}

#[tokio::test]
async fn a_reader_that_is_not_polled_or_dropped_holds_nobody_up() {
    let place = slow(0.0);
    let bytes = place.put(CELL, 2 * BLOCK).await;
    let store = place.open(PLENTY);
    let mut idle = Box::pin(check(&store, CELL, &bytes, 0..BLOCK));
    assert!(futures::poll!(idle.as_mut()).is_pending());
    check(&store, CELL, &bytes, 5..9).await;
    let mut dropped = Box::pin(check(&store, CELL, &bytes, BLOCK..BLOCK + 1));
    assert!(futures::poll!(dropped.as_mut()).is_pending());
    drop(dropped);
    check(&store, CELL, &bytes, BLOCK..BLOCK + 9).await;
    idle.await;
    assert_eq!(place.gets(), 2);
}

#[tokio::test]
async fn a_failed_fetch_fails_its_reader_and_leaves_no_claim() {
    let place = slow(1.0);
    let store = place.open(PLENTY);
    let path = Path::from(CELL);
    let failed = join_all((0..5).map(|n| store.get_range(&path, n..n + 1))).await;
    assert!(failed.iter().all(|r| matches!(r, Err(StoreError::Generic { .. }))), "{failed:?}");
    assert!(store.cache.state().flights.is_empty());
}

#[tokio::test]
async fn a_fetch_that_failed_for_one_is_tried_by_the_next() {
    let place = slow(0.5);
    while place.remote.put(&CELL.into(), content(CELL, BLOCK).into()).await.is_err() {}
    let store = place.open(PLENTY);
    let path = Path::from(CELL);
    let results = join_all((0..12).map(|_| store.get_range(&path, 0..BLOCK))).await;
    let good: Vec<_> = results.into_iter().flatten().collect();
    assert!(!good.is_empty() && good.iter().all(|bytes| *bytes == content(CELL, BLOCK)));
    assert_eq!(store.cache.stats().entries, 1);
}

#[tokio::test]
async fn a_taken_folder_is_refused() {
    let place = Place::new();
    let store = place.open(PLENTY);
    let error = CellCache::open(place.folder.path().to_path_buf(), PLENTY).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
    assert!(error.message().contains(&place.folder.path().display().to_string()), "{error}");
    drop(store);
    place.open(PLENTY);
}

#[tokio::test]
async fn opening_removes_half_written_files_and_leaves_strange_ones() {
    let place = Place::new();
    let half = place.folder.path().join(HALF_WRITTEN);
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("0-0.1"), "half").unwrap();
    let strange = place.folder.path().join("ab");
    std::fs::create_dir_all(&strange).unwrap();
    std::fs::write(strange.join("notes-1.txt"), "mine").unwrap();
    let store = place.open(0);
    assert!(!half.exists());
    assert!(strange.join("notes-1.txt").exists());
    assert_eq!(store.cache.stats().entries, 0);
}

#[test]
fn names_parse_to_what_they_print() {
    for id in [BlockId { cell: 0, number: 0 }, BlockId { cell: u64::MAX, number: 1023 }] {
        assert_eq!(BlockId::parse(&id.file_name()), Some(id));
    }
    for name in ["", "-", "1-1", "+000000000000001-1", "0000000000000001-01", "000000000000000A-1"] {
        assert_eq!(BlockId::parse(name), None, "{name}");
    }
}

#[test]
fn the_checksum_stays_what_it_is() {
    // Files of earlier versions are read with it.
    let sums = [checksum(0, b""), checksum(0, b"cells"), checksum(1, b"cells"), checksum(0, &[0; 16])];
    assert_eq!(sums, [0xd44f_3541_83b6_d328, 0x0759_54d6_52a2_8e0d, 0x58c7_9be9_00e7_9d18, 0xb923_00be_ce55_d10d]);
}

#[test]
fn a_closed_cache_gives_its_folder_back() {
    let folder = tempfile::tempdir().unwrap();
    let first = CellCache::open(folder.path().into(), PLENTY).unwrap();
    assert!(CellCache::open(folder.path().into(), PLENTY).is_err());
    first.close();
    CellCache::open(folder.path().into(), PLENTY).unwrap();
}
