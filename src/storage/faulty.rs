//! A store that fails on purpose, seeded: what tests put between the engine and a real place.
//!
//! Faults are drawn from one seeded generator in the order of the requests, so one client's run is repeatable.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::sync::lock;

/// How often each fault strikes, as chances in 0..=1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A request fails and had no effect.
    pub error: f64,
    /// A write takes effect and its acknowledgement is lost: the caller sees an error.
    pub lost_ack: f64,
    /// Time added to every request.
    pub delay: Duration,
}

/// A store with faults in front of it.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
    random: Mutex<fastrand::Rng>,
}

impl Faulty {
    /// Puts `faults` in front of `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    fn strikes(&self, chance: f64) -> bool {
        lock(&self.random).f64() < chance
    }

    async fn before(&self) -> Result<()> {
        if !self.faults.delay.is_zero() {
            tokio::time::sleep(self.faults.delay).await;
        }
        if self.strikes(self.faults.error) { Err(fault("request refused")) } else { Ok(()) }
    }
}

fn fault(what: &str) -> Error {
    Error::Generic { store: "faulty", source: format!("injected fault: {what}").into() }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.before().await?;
        let result = self.inner.put_opts(location, payload, opts).await?;
        if self.strikes(self.faults.lost_ack) { Err(fault("acknowledgement lost")) } else { Ok(result) }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.before().await?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before().await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before().await?;
        self.inner.copy_opts(from, to, options).await
    }
}
