//! Counts every request that passes: what a query, a node or an idle hour costs.
//!
//! Meters form a chain: a query's meter adds to its colony's. A request is counted when it is sent, bytes when they are
//! asked for (reads) or handed over (writes).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use serde::Serialize;

/// Running totals of requests and bytes.
#[derive(Debug, Default)]
pub struct Meter {
    gets: AtomicU64,
    hedges: AtomicU64,
    puts: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    parent: Option<Arc<Meter>>,
    limit: OnceLock<Limit>,
}

/// What one query may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests to storage.
    pub requests: Option<u64>,
    /// Bytes asked from storage.
    pub bytes: Option<u64>,
}

impl Limits {
    /// Which of them so many requests and bytes are over, and what it is.
    pub fn exceeded(&self, requests: u64, bytes: u64) -> Option<(&'static str, u64)> {
        let over = |what, spent, limit: Option<u64>| Some((what, limit.filter(|limit| spent > *limit)?));
        over("requests", requests, self.requests).or_else(|| over("bytes", bytes, self.bytes))
    }
}

struct Limit {
    limits: Limits,
    reached: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.limits.fmt(f)
    }
}

/// A meter's totals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MeterReading {
    /// Reads of objects, ranges and metadata.
    pub gets: u64,
    /// Those of them that were second requests for what took long; see [`super::hedged`].
    pub hedges: u64,
    /// Writes of objects and of parts of objects.
    pub puts: u64,
    /// Listings; one that needs several pages counts once.
    pub lists: u64,
    /// Removals.
    pub deletes: u64,
    /// Bytes asked for.
    pub bytes_read: u64,
    /// Bytes handed over.
    pub bytes_written: u64,
}

impl MeterReading {
    /// Requests of every kind.
    pub fn requests(&self) -> u64 {
        self.gets + self.puts + self.lists + self.deletes
    }
}

impl Meter {
    /// A meter that also adds to `parent`.
    pub fn within(parent: &Arc<Meter>) -> Arc<Self> {
        Arc::new(Self { parent: Some(Arc::clone(parent)), ..Self::default() })
    }

    /// Calls `reached` with everything that is counted beyond `limits`; set once.
    pub fn limit(&self, limits: Limits, reached: impl Fn() + Send + Sync + 'static) {
        // A query's limits are known before its first request, and stay.
        let _ = self.limit.set(Limit { limits, reached: Box::new(reached) });
    }

    /// The totals now.
    pub fn read(&self) -> MeterReading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MeterReading {
            gets: load(&self.gets),
            hedges: load(&self.hedges),
            puts: load(&self.puts),
            lists: load(&self.lists),
            deletes: load(&self.deletes),
            bytes_read: load(&self.bytes_read),
            bytes_written: load(&self.bytes_written),
        }
    }

    fn add(&self, counter: fn(&Meter) -> &AtomicU64, amount: u64) {
        counter(self).fetch_add(amount, Ordering::Relaxed);
        if let Some(limit) = self.limit.get() {
            let now = self.read();
            if limit.limits.exceeded(now.requests(), now.bytes_read).is_some() {
                (limit.reached)();
            }
        }
        if let Some(parent) = &self.parent {
            parent.add(counter, amount);
        }
    }

    /// A request that was counted is a second one.
    pub(super) fn hedged(&self) {
        self.add(|m| &m.hedges, 1);
    }

    fn put(&self, bytes: usize) {
        self.add(|m| &m.puts, 1);
        self.add(|m| &m.bytes_written, bytes as u64);
    }
}

/// A store whose requests are counted.
#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn ObjectStore>,
    meter: Arc<Meter>,
}

impl Metered {
    /// Counts what passes to `inner` in `meter`.
    pub fn new(inner: Arc<dyn ObjectStore>, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl std::fmt::Display for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.meter.put(payload.content_length());
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.meter.put(0);
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(MeteredUpload { inner, meter: Arc::clone(&self.meter) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        // One that is given up was sent, too.
        self.meter.add(|m| &m.gets, 1);
        let result = self.inner.get_opts(location, options).await;
        let bytes = result.as_ref().map_or(0, |r| if head { 0 } else { r.range.end - r.range.start });
        self.meter.add(|m| &m.bytes_read, bytes);
        result
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.meter.add(|m| &m.gets, 1);
        self.meter.add(|m| &m.bytes_read, ranges.iter().map(|r| r.end - r.start).sum());
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let meter = Arc::clone(&self.meter);
        self.inner.delete_stream(locations.inspect(move |_| meter.add(|m| &m.deletes, 1)).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.meter.add(|m| &m.lists, 1);
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.meter.add(|m| &m.lists, 1);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.meter.add(|m| &m.lists, 1);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.meter.put(0);
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    meter: Arc<Meter>,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.meter.put(data.content_length());
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.meter.put(0);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.meter.add(|m| &m.deletes, 1);
        self.inner.abort().await
    }
}
