use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;
use object_store::{Error, PutMode};

use super::*;
use crate::storage::metered::Metered;

/// Longer than any of these tests may take.
const FOR_EVER: Duration = Duration::from_secs(600);
const BODY: &[u8] = b"0123456789";

/// What becomes of a read.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// An answer after so long.
    After(Duration),
    /// An error after so long, which says that number.
    Fails(Duration, u32),
    /// The headers at once, and no body.
    NoBody,
}

/// A place whose next reads have a known fate; all others are quick.
#[derive(Debug, Default)]
struct Moody {
    inner: InMemory,
    fates: Mutex<VecDeque<Fate>>,
    waiting: AtomicU64,
}

struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Moody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("moody")
    }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = lock(&self.fates).pop_front();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let found = self.inner.get_opts(at, options).await?;
        match fate {
            None => Ok(found),
            Some(Fate::After(wait)) => {
                tokio::time::sleep(wait).await;
                Ok(found)
            }
            Some(Fate::Fails(wait, number)) => {
                tokio::time::sleep(wait).await;
                Err(Error::Generic { store: "moody", source: number.to_string().into() })
            }
            Some(Fate::NoBody) => {
                let payload = GetResultPayload::Stream(futures::stream::pending().boxed());
                Ok(GetResult { payload, ..found })
            }
        }
    }
    async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, opts).await
    }
    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A moody place behind a meter and the second requests.
struct Place {
    moody: Arc<Moody>,
    meter: Arc<Meter>,
    store: Hedged,
    path: Path,
}

impl Place {
    /// With one object, of which enough was read to know what is usual, and to have a second request to spare.
    async fn known(on: bool) -> Self {
        let (moody, meter, path) = (Arc::<Moody>::default(), Arc::<Meter>::default(), Path::from("object"));
        let metered = Arc::new(Metered::new(Arc::clone(&moody) as _, Arc::clone(&meter)));
        let hedges = Arc::new(Hedges::new(on, Handle::current()));
        let store = Hedged::new(metered, hedges, Arc::clone(&meter));
        store.put_opts(&path, PutPayload::from_static(BODY), PutMode::Create.into()).await.unwrap();
        for _ in 0..3 * LEAST {
            store.get_range(&path, 0..2).await.unwrap();
            store.get(&path).await.unwrap();
        }
        Self { moody, meter, store, path }
    }

    fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.moody.fates).extend(fates);
    }

    fn hedges(&self) -> u64 {
        self.meter.read().hedges
    }
}

fn stuck() -> Fate {
    Fate::After(FOR_EVER)
}

#[tokio::test]
async fn a_slow_read_is_overtaken_and_the_second_request_is_counted() {
    let place = Place::known(true).await;
    let before = place.meter.read();
    place.next([stuck()]);
    assert_eq!(place.store.get_range(&place.path, 2..4).await.unwrap(), "23");
    let after = place.meter.read();
    assert_eq!((after.gets - before.gets, after.hedges), (2, 1));
    assert_eq!(place.moody.waiting.load(Ordering::Relaxed), 0, "the first request is given up");
}

#[tokio::test]
async fn each_request_of_several_ranges_and_whole_objects_are_overtaken() {
    let place = Place::known(true).await;
    place.next([stuck()]);
    assert_eq!(place.store.get_ranges(&place.path, &[0..1, 8..10]).await.unwrap(), ["0", "89"]);
    place.next([stuck()]);
    assert_eq!(place.store.get(&place.path).await.unwrap().bytes().await.unwrap(), BODY);
    assert_eq!(place.hedges(), 2);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_overtaken() {
    let place = Place::known(true).await;
    place.next([Fate::NoBody]);
    assert_eq!(place.store.get_range(&place.path, 5..6).await.unwrap(), "5");
}

#[tokio::test]
async fn the_first_request_counts_when_it_comes_first_after_all() {
    let place = Place::known(true).await;
    place.next([Fate::After(FLOOR * 2), stuck()]);
    assert_eq!(place.store.get_range(&place.path, 0..1).await.unwrap(), "0");
    assert_eq!((place.hedges(), place.moody.waiting.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn at_most_two_percent_are_asked_twice_however_slow_the_place_is() {
    let place = Place::known(true).await;
    place.next((0..100).map(|_| Fate::After(FLOOR + Duration::from_millis(20))));
    for _ in 0..30 {
        let read = || place.store.get_range(&place.path, 0..1);
        futures::future::try_join_all([read(), read()]).await.unwrap();
    }
    let read = place.meter.read();
    assert!(place.hedges() >= 4, "{}", place.hedges());
    assert!(place.hedges() * 50 <= read.gets - place.hedges(), "{read:?}");
}

#[tokio::test]
async fn off_means_off() {
    let place = Place::known(false).await;
    place.next([Fate::After(FLOOR * 4)]);
    assert_eq!(place.store.get_range(&place.path, 0..1).await.unwrap(), "0");
    assert_eq!(place.hedges(), 0);
}

#[tokio::test]
async fn nothing_is_asked_twice_before_it_is_known_what_is_usual() {
    let place = Place::known(true).await;
    place.next([Fate::After(FLOOR * 4)]);
    place.store.get_range(&place.path, 0..1 << 20).await.unwrap();
    assert_eq!(place.hedges(), 0);
}

#[tokio::test]
async fn looks_and_reads_under_a_condition_are_asked_once() {
    let place = Place::known(true).await;
    place.next([Fate::After(FLOOR * 4), Fate::After(FLOOR * 4)]);
    place.store.head(&place.path).await.unwrap();
    let unless = GetOptions { if_none_match: Some("other".into()), ..GetOptions::default() };
    place.store.get_opts(&place.path, unless).await.unwrap();
    assert_eq!(place.hedges(), 0);
}

#[tokio::test]
async fn who_does_not_wait_any_more_ends_both() {
    let place = Place::known(true).await;
    place.next([stuck(), stuck()]);
    let read = place.store.get_range(&place.path, 0..1);
    assert!(tokio::time::timeout(FLOOR * 4, read).await.is_err());
    assert_eq!((place.hedges(), place.moody.waiting.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn an_error_of_one_waits_for_the_other_and_of_two_the_firsts_is_told() {
    let place = Place::known(true).await;
    let (soon, later) = (FLOOR * 2, FLOOR * 4);
    for (first, second) in [(Fate::Fails(soon, 1), Fate::After(soon)), (Fate::After(later), Fate::Fails(FLOOR, 2))] {
        place.next([first, second]);
        assert_eq!(place.store.get_range(&place.path, 0..1).await.unwrap(), "0");
    }
    for (first, second) in [(soon, later), (later, Duration::ZERO)] {
        place.next([Fate::Fails(first, 1), Fate::Fails(second, 2)]);
        let error = place.store.get_range(&place.path, 0..1).await.unwrap_err().to_string();
        assert!(error.contains('1') && !error.contains('2'), "{error}");
    }
    assert_eq!(place.hedges(), 4);
}
