//! A place that holds objects: a local folder, a bucket behind the S3 API, GCS, Azure, or memory.
//!
//! Everything above works through the same [`ObjectStore`], so decorators see every request; this trait adds the
//! handful of whole-object verbs that the registry and the swarm use, and what differs between places.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;
use url::Url;

use super::cloud;
use super::local::LocalStore;
use crate::{Error, Result};

/// Most bytes of an object that is read whole: who can write the place must not fill the memory of those who read it.
const MAX_WHOLE: u64 = 64 << 20;

/// A place that holds objects. Paths are relative to the meadow's root.
#[async_trait]
pub trait StorageBackend: Debug + Send + Sync {
    /// Where it is, for people; never holds a secret.
    fn location(&self) -> String;

    /// Whether reads come from this machine's own disk or memory, so that no cache and no heavy compression pays.
    fn is_local(&self) -> bool;

    /// The store that DataFusion and the ledger read through.
    fn store(&self) -> Arc<dyn ObjectStore>;

    /// Writes or replaces one object.
    async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        self.store().put(path, PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Writes one object if no object is there; `false` means that one was.
    ///
    /// A lost acknowledgement is settled by reading back, so `bytes` must be unlike any other writer's.
    async fn put_if_not_exists(&self, path: &Path, bytes: Bytes) -> Result<bool> {
        create(self.store().as_ref(), path, bytes).await
    }

    /// The whole object; not for cells.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none; [`crate::ErrorKind::Corrupt`] for one that is larger than any that
    /// is read whole.
    async fn get(&self, path: &Path) -> Result<Bytes> {
        let found = self.store().get(path).await?;
        match found.meta.size {
            0..=MAX_WHOLE => Ok(found.bytes().await?),
            size => Err(Error::corrupt(format!("{path} has {size} bytes, more than the {MAX_WHOLE} it can have"))),
        }
    }

    /// The bytes of `range`.
    async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        Ok(self.store().get_range(path, range).await?)
    }

    /// The bytes of several ranges, in their order; near ones may share a request.
    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        Ok(self.store().get_ranges(path, ranges).await?)
    }

    /// Every object below `prefix`, in no promised order.
    async fn list(&self, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        Ok(self.store().list(Some(prefix)).try_collect().await?)
    }

    /// Removes one object; one that is not there is no error.
    async fn delete(&self, path: &Path) -> Result<()> {
        match self.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes everything below `prefix`.
    async fn delete_below(&self, prefix: &Path) -> Result<()> {
        let store = self.store();
        let paths = store.list(Some(prefix)).map_ok(|meta| meta.location).boxed();
        let deleted = store.delete_stream(paths);
        let gone = |r: &object_store::Result<Path>| !matches!(r, Err(object_store::Error::NotFound { .. }));
        deleted.filter(|r| std::future::ready(gone(r))).try_for_each(|_| std::future::ready(Ok(()))).await?;
        Ok(())
    }
}

/// Creates `path` with `bytes` unless it exists; see [`StorageBackend::put_if_not_exists`].
pub(crate) async fn create(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<bool> {
    let put = store.put_opts(path, PutPayload::from_bytes(bytes.clone()), PutMode::Create.into()).await;
    match put {
        Ok(_) => Ok(true),
        // The first try's acknowledgement may have been lost and a retry met our own object: read back.
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
            Ok(read_back(store, path).await?.is_some_and(|there| there == bytes))
        }
        Err(error @ object_store::Error::Generic { .. }) => match read_back(store, path).await {
            Ok(Some(there)) => Ok(there == bytes),
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

async fn read_back(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>> {
    match store.get(path).await {
        Ok(object) => Ok(Some(object.bytes().await?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Tries at removing a folder in which somebody who does not know yet that it is going still puts files.
const REMOVE_TRIES: usize = 8;

/// A folder of this machine.
#[derive(Debug)]
pub struct LocalBackend {
    root: std::path::PathBuf,
    store: Arc<LocalStore>,
}

impl LocalBackend {
    /// Opens `root`, creating the folder when it is missing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::PermissionDenied`] or [`crate::ErrorKind::Storage`] when the folder cannot be made or is a file.
    pub fn open(root: impl Into<std::path::PathBuf>) -> Result<Self> {
        let root = root.into();
        if root.is_file() {
            return Err(Error::storage(format!("{} is a file: give a folder as storage", root.display())));
        }
        std::fs::create_dir_all(&root)
            .map_err(|e| Error::from(e).context(format!("cannot make the storage folder {}", root.display())))?;
        let root = root.canonicalize()?;
        let store = Arc::new(LocalStore::new(&root)?);
        Ok(Self { root, store })
    }
}

#[async_trait]
impl StorageBackend for LocalBackend {
    fn location(&self) -> String {
        Url::from_directory_path(&self.root).map_or_else(|()| self.root.display().to_string(), String::from)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as _
    }

    /// Folders too: object stores have none, so the general way would leave empty ones.
    async fn delete_below(&self, prefix: &Path) -> Result<()> {
        let (root, folder) = (self.root.clone(), self.root.join(prefix.as_ref()));
        let remove = move || {
            remove_whole(&folder)?;
            let above = folder.ancestors().skip(1).take_while(|above| above.starts_with(&root) && **above != root);
            // The first that is not empty stays, and so do those above it.
            let _ = above.map(std::fs::remove_dir).find(std::io::Result::is_err);
            Ok::<_, std::io::Error>(())
        };
        Ok(tokio::task::spawn_blocking(remove).await??)
    }
}

fn remove_whole(folder: &std::path::Path) -> std::io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    std::fs::remove_dir_all(folder)
}

/// Objects in this process's memory: for tests and doc examples; gone with the colony.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    store: Arc<object_store::memory::InMemory>,
}

impl StorageBackend for MemoryBackend {
    fn location(&self) -> String {
        "memory://".into()
    }

    fn is_local(&self) -> bool {
        true
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as _
    }
}

/// Opens the place that `url` names. Requests of remote places run on `io`.
///
/// # Errors
/// [`crate::ErrorKind::InvalidInput`] for a URL or an option that is not understood; what the place says otherwise.
pub fn open_backend(url: &str, options: &BTreeMap<String, String>, io: &Handle) -> Result<Arc<dyn StorageBackend>> {
    let Some((scheme, _)) = url.split_once("://") else {
        return local(url, options);
    };
    let parsed = Url::parse(url).map_err(|e| bad_url(url, &e.to_string()))?;
    match scheme {
        "file" => {
            let path = parsed.to_file_path().map_err(|()| bad_url(url, "a file URL is file:///absolute/path"))?;
            local(&path.to_string_lossy(), options)
        }
        "memory" => no_options(options).map(|()| Arc::new(MemoryBackend::default()) as _),
        "s3" | "s3a" => Ok(Arc::new(cloud::S3Backend::open(&parsed, options, io)?)),
        "gs" | "az" | "azure" | "abfs" | "abfss" => Ok(Arc::new(cloud::CloudBackend::open(&parsed, options, io)?)),
        _ => Err(bad_url(url, "it starts with none of file://, s3://, gs://, az://, memory://")),
    }
}

fn local(path: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn StorageBackend>> {
    no_options(options)?;
    if path.is_empty() {
        return Err(bad_url(path, "it is empty"));
    }
    if path.contains('\0') {
        return Err(bad_url(path, "it has a NUL character"));
    }
    Ok(Arc::new(LocalBackend::open(path)?))
}

fn no_options(options: &BTreeMap<String, String>) -> Result<()> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => Err(Error::invalid(format!("storage option '{key}' has no meaning for a local place: remove it"))),
    }
}

fn bad_url(url: &str, why: &str) -> Error {
    Error::invalid(format!(
        "storage {:?} cannot be opened: {why}; use a folder, file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        cloud::without_secrets(url)
    ))
}
