//! Whether a place keeps the promise that commits rest on: of several writers that create one key, exactly one wins.
//!
//! Some servers accept the condition and ignore it; two commits of one version would then both be acknowledged and one
//! lost. The first opening of a meadow tries it out and records the answer there.

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::backend::StorageBackend;
use crate::Result;

/// Writers that race for one key in a round.
const WRITERS: usize = 8;
/// Rounds: a server that locks coarsely by accident must be lucky this often to pass.
const ROUNDS: usize = 4;

/// What the probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Exactly one of several racing creators won, in every round.
    pub exclusive_create: bool,
    /// Exactly one of several racing compare-and-swaps won; `false` where the place has none.
    pub compare_and_swap: bool,
}

/// Races writers for keys below `_probe/` and removes them again. Costs about 90 small requests.
///
/// # Errors
/// What the place answers when it cannot be written at all.
pub async fn probe(backend: &dyn StorageBackend) -> Result<ProbeResult> {
    let folder = Path::from(format!("_probe/{}", uuid::Uuid::new_v4().simple()));
    let store = backend.store();
    // One plain write first: no permission and no bucket are errors, not a failed probe.
    store.put(&folder.clone().join("first"), PutPayload::from_static(b"probe")).await?;
    let mut result = ProbeResult { exclusive_create: true, compare_and_swap: true };
    for round in 0..ROUNDS {
        let key = folder.clone().join(format!("create-{round}"));
        result.exclusive_create &= race(|_| PutMode::Create, store.as_ref(), &key).await == 1;
        result.compare_and_swap &= swaps_once(store.as_ref(), &folder.clone().join(format!("swap-{round}"))).await;
    }
    backend.delete_below(&folder).await?;
    Ok(result)
}

async fn swaps_once(store: &dyn ObjectStore, key: &Path) -> bool {
    let Ok(put) = store.put(key, PutPayload::from_static(b"start")).await else { return false };
    let version = UpdateVersion { e_tag: put.e_tag, version: put.version };
    version.e_tag.is_some() && race(|_| PutMode::Update(version.clone()), store, key).await == 1
}

/// How many of the racing writers were told that they won.
async fn race(mode: impl Fn(usize) -> PutMode, store: &dyn ObjectStore, key: &Path) -> usize {
    let writes = (0..WRITERS).map(|writer| {
        let payload = PutPayload::from_bytes(Bytes::from(format!("writer {writer}")));
        store.put_opts(key, payload, mode(writer).into())
    });
    join_all(writes).await.into_iter().filter(Result::is_ok).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{LocalBackend, MemoryBackend};
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
        PutResult,
    };
    use std::sync::Arc;

    /// A server that accepts the condition and ignores it.
    #[derive(Debug, Default)]
    struct Careless(object_store::memory::InMemory);

    impl std::fmt::Display for Careless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, at: &Path, payload: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
            self.0.put(at, payload).await
        }
        async fn put_multipart_opts(
            &self,
            at: &Path,
            opts: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(at, opts).await
        }
        async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            self.0.get_opts(at, options).await
        }
        fn delete_stream(
            &self,
            at: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            self.0.delete_stream(at)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    #[derive(Debug)]
    struct CarelessBackend(Arc<Careless>);

    impl StorageBackend for CarelessBackend {
        fn location(&self) -> String {
            "careless".into()
        }
        fn is_local(&self) -> bool {
            false
        }
        fn store(&self) -> Arc<dyn ObjectStore> {
            Arc::clone(&self.0) as _
        }
    }

    #[tokio::test]
    async fn honest_places_pass_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalBackend::open(folder.path()).unwrap();
        let passed = ProbeResult { exclusive_create: true, compare_and_swap: true };
        assert_eq!(probe(&local).await.unwrap(), passed);
        assert!(local.list(&Path::from("_probe")).await.unwrap().is_empty());
        assert_eq!(probe(&MemoryBackend::default()).await.unwrap(), passed);
    }

    #[tokio::test]
    async fn a_place_that_ignores_the_condition_is_found_out() {
        let backend = CarelessBackend(Arc::default());
        let result = probe(&backend).await.unwrap();
        assert_eq!(result, ProbeResult { exclusive_create: false, compare_and_swap: false });
    }
}
