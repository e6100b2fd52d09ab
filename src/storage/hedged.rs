//! Asks a second time for what takes unusually long: of two answers the first counts, the other request is given up.
//!
//! A bucket answers nearly all reads in much the same time, and a few many times later; a scan waits for its last one.
//! Whoever asks again then has the answer about as soon as usual. What "unusually long" is comes from the place itself:
//! longer than all but one in a hundred of the latest reads of about the same size.
//!
//! What must hold: second requests are at most 2% of all reads, however slow the place is; only plain reads are asked
//! twice, never writes, removals, listings, looks at metadata, or reads under a condition, whose two answers may differ.
//!
//! A range of up to 8 MiB is read to its end before it counts as answered, so that a body which trickles is overtaken,
//! too: who asks for such a range holds all of it anyway. Of whole objects and longer ranges the body is handed on as it
//! comes, and only the time to its beginning counts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{BoxStream, StreamExt, once};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, coalesce_ranges,
};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::metered::Meter;
use crate::sync::lock;

/// Reads that earn one second request: 2%.
const READS_PER_HEDGE: u32 = 50;
/// Second requests that may be saved up: a scan's reads are on their way at the same moment, and so are the slow ones.
const SAVED: u32 = 4;
/// Reads of one size that are remembered: enough for the slowest in a hundred to be several, few enough to follow a
/// network that changes.
const REMEMBERED: usize = 400;
/// Reads of one size before any of them is asked twice: the slowest in a hundred of fewer is only the slowest.
const LEAST: usize = 100;
/// Reads between two looks at what is unusual.
const RELEARN: usize = 20;
/// Least wait before a second request: that takes a round trip itself, and a bucket's is some tens of milliseconds.
const FLOOR: Duration = Duration::from_millis(50);
/// Longest ranges of each size of reads: about a footer's, a column's of a row group, and several such together.
const SIZES: [u64; 3] = [64 << 10, 1 << 20, 8 << 20];

/// What the reads of one place took lately, and how many of them may be asked twice.
#[derive(Debug)]
pub struct Hedges {
    on: bool,
    /// Whose timers are used: a store may be asked on threads that have none.
    io: Handle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By [`SIZES`], then what is answered when it begins.
    sizes: [Recent; SIZES.len() + 1],
    /// Reads that have earned second requests which were not sent.
    saved: u32,
}

/// The latest reads of one size.
#[derive(Debug, Default)]
struct Recent {
    took: VecDeque<Duration>,
    /// Reads since `usual` was found.
    since: usize,
    /// What nearly all of them took.
    usual: Option<Duration>,
}

impl Hedges {
    /// Knows nothing yet, and sends no second requests unless `on`.
    pub fn new(on: bool, io: Handle) -> Self {
        Self { on, io, state: Mutex::default() }
    }

    /// The answer to a request of that size that `get` sends: twice, if need be.
    async fn answer<T, F: Future<Output = Result<T>>>(
        &self,
        size: usize,
        meter: &Meter,
        get: impl Fn() -> F,
    ) -> Result<T> {
        let started = Instant::now();
        let answer = match self.patience(size) {
            None => get().await,
            Some(patience) => self.answer_within(patience, meter, &get).await,
        };
        if answer.is_ok() {
            self.learn(size, started.elapsed());
        }
        answer
    }

    async fn answer_within<T, F: Future<Output = Result<T>>>(
        &self,
        patience: Duration,
        meter: &Meter,
        get: &impl Fn() -> F,
    ) -> Result<T> {
        let first = Box::pin(get());
        match select(first, Box::pin(self.timer(patience))).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, first)) if !self.spend() => first.await,
            Either::Right((_, first)) => {
                meter.hedged();
                first_good(first, Box::pin(get())).await
            }
        }
    }

    fn timer(&self, wait: Duration) -> Sleep {
        let _inside = self.io.enter();
        tokio::time::sleep(wait)
    }

    /// How long to wait for a read of that size before it is asked again, if ever; every read earns a part of that.
    fn patience(&self, size: usize) -> Option<Duration> {
        let mut state = self.on.then(|| lock(&self.state))?;
        state.saved = (state.saved + 1).min(SAVED * READS_PER_HEDGE);
        state.sizes.get(size)?.usual.map(|usual| usual.max(FLOOR))
    }

    /// Takes a second request from what was earned.
    fn spend(&self) -> bool {
        let mut state = lock(&self.state);
        let left = state.saved.checked_sub(READS_PER_HEDGE);
        state.saved = left.unwrap_or(state.saved);
        left.is_some()
    }

    /// A read that was asked twice took as long as both together: the place was no faster than that.
    fn learn(&self, size: usize, took: Duration) {
        if self.on
            && let Some(recent) = lock(&self.state).sizes.get_mut(size)
        {
            recent.add(took);
        }
    }
}

impl Recent {
    fn add(&mut self, took: Duration) {
        self.took.push_back(took);
        if self.took.len() > REMEMBERED {
            self.took.pop_front();
        }
        self.since += 1;
        if self.took.len() >= LEAST && self.since >= RELEARN {
            self.since = 0;
            let mut took: Vec<Duration> = self.took.iter().copied().collect();
            let rank = took.len() * 99 / 100;
            self.usual = Some(*took.select_nth_unstable(rank).1);
        }
    }
}

/// The answer that comes first and is none of an error; of two errors that of the first request.
async fn first_good<T, F>(first: F, second: F) -> Result<T>
where
    F: Future<Output = Result<T>> + Unpin,
{
    match select(first, second).await {
        Either::Left((Ok(answer), _)) | Either::Right((Ok(answer), _)) => Ok(answer),
        Either::Left((Err(error), second)) => second.await.or(Err(error)),
        Either::Right((Err(_), first)) => first.await,
    }
}

/// A store whose slow reads are asked a second time.
#[derive(Debug)]
pub struct Hedged {
    inner: Arc<dyn ObjectStore>,
    hedges: Arc<Hedges>,
    meter: Arc<Meter>,
}

impl Hedged {
    /// Reads from `inner`, which counts its requests in `meter`.
    pub fn new(inner: Arc<dyn ObjectStore>, hedges: Arc<Hedges>, meter: Arc<Meter>) -> Self {
        Self { inner, hedges, meter }
    }
}

impl std::fmt::Display for Hedged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Hedged {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(size) = size_of(&options) else { return self.inner.get_opts(location, options).await };
        let get = || async {
            let found = self.inner.get_opts(location, options.clone()).await?;
            if size < SIZES.len() { read_whole(found).await } else { Ok(found) }
        };
        self.hedges.answer(size, &self.meter, get).await
    }

    /// As the place would join and read them, but each request by itself.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.get_range(location, range), OBJECT_STORE_COALESCE_DEFAULT).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
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

/// Which reads one is compared with; `None` for what is never asked twice.
fn size_of(options: &GetOptions) -> Option<usize> {
    let conditional = options.if_match.is_some()
        || options.if_none_match.is_some()
        || options.if_modified_since.is_some()
        || options.if_unmodified_since.is_some();
    if conditional || options.head {
        return None;
    }
    let bytes = match &options.range {
        Some(GetRange::Bounded(range)) => range.end.saturating_sub(range.start),
        Some(GetRange::Suffix(bytes)) => *bytes,
        Some(GetRange::Offset(_)) | None => u64::MAX,
    };
    Some(SIZES.iter().position(|longest| bytes <= *longest).unwrap_or(SIZES.len()))
}

/// The same with its body at hand.
async fn read_whole(found: GetResult) -> Result<GetResult> {
    let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
    let bytes = found.bytes().await?;
    let payload = GetResultPayload::Stream(once(async { Ok(bytes) }).boxed());
    Ok(GetResult { payload, meta, range, attributes })
}

#[cfg(test)]
mod tests;
