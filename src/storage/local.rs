//! A folder as an object store whose writes survive a crash: a reader never sees half an object, and an acknowledged
//! object is on disk.
//!
//! object_store's own local store renames a finished file into place but never syncs it, so a power cut can leave an
//! empty object that was acknowledged. Here every write is: temporary file, fsync, link or rename, fsync of the folder.
//! Reads and listings are object_store's. Temporary names end in `#<digits>`, which its listings leave out.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::history::commit_version;

const STORE: &str = "local folder";
/// Tries at making a folder while others remove empty ones: to lose once takes two within microseconds.
const FOLDER_TRIES: u32 = 100;

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalStore {
    root: PathBuf,
    reader: LocalFileSystem,
}

impl LocalStore {
    pub(crate) fn new(root: &FsPath) -> Result<Self> {
        // Object stores have no folders: none is left behind when the last object in it goes.
        let reader = LocalFileSystem::new_with_prefix(root)?.with_automatic_cleanup(true);
        Ok(Self { root: root.to_path_buf(), reader })
    }

    fn file_of(&self, location: &Path) -> Result<PathBuf> {
        self.reader.path_to_filesystem(location)
    }

    /// Compare-and-swap by e-tag, under a lock file that other processes of this machine respect.
    async fn update(&self, location: &Path, payload: PutPayload, expected: Option<String>) -> Result<PutResult> {
        let (root, target) = (self.root.clone(), self.file_of(location)?);
        let lock = blocking(move || lock_folder(&root)).await?;
        let current = self.reader.head(location).await.map_err(|e| precondition(location, e))?;
        if current.e_tag != expected {
            return Err(precondition(location, "the object has changed"));
        }
        blocking(move || write_whole(&target, &payload, Place::Replace)).await?;
        drop(lock);
        self.stat(location).await
    }

    async fn stat(&self, location: &Path) -> Result<PutResult> {
        let meta = self.reader.head(location).await?;
        Ok(PutResult { e_tag: meta.e_tag, version: None })
    }
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalStore({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let target = self.file_of(location)?;
        let place = match opts.mode {
            PutMode::Overwrite => Place::Replace,
            PutMode::Create => Place::Create,
            PutMode::Update(version) => return self.update(location, payload, version.e_tag).await,
        };
        blocking(move || write_whole(&target, &payload, place)).await?;
        self.stat(location).await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let target = self.file_of(location)?;
        let upload = blocking(move || Staged::open(&target)).await?;
        Ok(Box::new(LocalUpload { staged: Arc::new(upload), offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reader.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        self.reader.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.reader.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.reader.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (root, prefix, offset) = (self.root.clone(), prefix.cloned().unwrap_or_default(), offset.clone());
        let listed = async move {
            let found = blocking(move || list_after(&root, &prefix, &offset)).await?;
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        listed.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reader.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.reader.get(from).await?.bytes().await?;
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, bytes.into(), mode.into()).await.map(|_| ())
    }
}

/// Listings in the order of their names, as every remote store gives them and the Delta log reader expects.
fn sorted(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let ordered = async move {
        let mut all: Vec<ObjectMeta> = listing.try_collect().await?;
        all.sort_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, Error>(futures::stream::iter(all.into_iter().map(Ok)))
    };
    ordered.try_flatten_stream().boxed()
}

/// The objects below `prefix` whose names come after `offset`, in order. A ledger's reader asks for the few entries after
/// the version it knows, among thousands: names are compared before anything is looked up on disk.
fn list_after(root: &FsPath, prefix: &Path, offset: &Path) -> Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    let mut folders = vec![prefix.clone()];
    while let Some(folder) = folders.pop() {
        let passed = offset.as_ref().strip_prefix(folder.as_ref()).and_then(|rest| rest.strip_prefix('/'));
        let entries = match fs::read_dir(root.join(folder.as_ref())) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(generic(e)),
        };
        for entry in entries {
            let entry = entry.map_err(generic)?;
            let name = entry.file_name();
            let is_folder = entry.file_type().map_err(generic)?.is_dir();
            if !is_folder && passed.is_some_and(|passed| name.as_encoded_bytes() <= passed.as_bytes()) {
                continue;
            }
            let Some(location) =
                name.to_str().and_then(|name| Path::parse(format!("{folder}/{name}").trim_start_matches('/')).ok())
            else {
                continue;
            };
            if is_folder {
                // Left out, it would be as if there were no such version.
                if location > *offset && commit_version(&location).is_some() {
                    return Err(generic(crate::Error::corrupt(format!("{location} is a folder and no file"))));
                }
                folders.push(location);
            } else if location > *offset && !is_temporary(&location) {
                found.extend(describe(&entry, location)?);
            }
        }
    }
    found.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(found)
}

/// `None` when it has been removed since it was listed.
fn describe(entry: &fs::DirEntry, location: Path) -> Result<Option<ObjectMeta>> {
    let meta = match entry.metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(generic(e)),
    };
    let last_modified = meta.modified().map_err(generic)?.into();
    Ok(Some(ObjectMeta { location, last_modified, size: meta.len(), e_tag: None, version: None }))
}

/// Whether the name is one that [`temporary_name`] gives.
fn is_temporary(location: &Path) -> bool {
    let digits = location.filename().and_then(|name| name.rsplit_once('#')).map(|(_, digits)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// How a finished temporary file takes its place.
#[derive(Clone, Copy)]
enum Place {
    Replace,
    Create,
}

/// A temporary file beside its target; removed again unless placed.
#[derive(Debug)]
struct Staged {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    fn open(target: &FsPath) -> Result<Self> {
        let folder = target.parent().ok_or_else(|| generic("the path has no folder"))?;
        let mut tries = 0;
        loop {
            let temporary = temporary_name(target);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { file, temporary, target: target.to_path_buf() }),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => match fs::create_dir_all(folder) {
                    // Somebody removed the folder above it, which was empty.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && tries < FOLDER_TRIES => tries += 1,
                    made => made.map_err(generic)?,
                },
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(generic(e)),
            }
        }
    }

    fn place(&self, place: Place) -> Result<()> {
        self.file.sync_all().map_err(generic)?;
        match place {
            Place::Replace => fs::rename(&self.temporary, &self.target).map_err(generic)?,
            Place::Create => self.link()?,
        }
        sync_folder(&self.target)
    }

    fn link(&self) -> Result<()> {
        fs::hard_link(&self.temporary, &self.target).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::AlreadyExists { path: self.target.display().to_string(), source: e.into() }
            }
            std::io::ErrorKind::Unsupported => Error::NotSupported {
                source: "this file system has no hard links (FAT, exFAT): commits need them; use ext4, btrfs, xfs, APFS or NTFS".into(),
            },
            _ => generic(e),
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Parts are written at their offsets, in any order; `complete` syncs and renames.
#[derive(Debug)]
struct LocalUpload {
    staged: Arc<Staged>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (staged, mut at) = (Arc::clone(&self.staged), self.offset);
        self.offset += data.content_length() as u64;
        let write = move || {
            use std::os::unix::fs::FileExt;
            for chunk in &data {
                staged.file.write_all_at(chunk, at).map_err(generic)?;
                at += chunk.len() as u64;
            }
            Ok(())
        };
        blocking(write).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = Arc::clone(&self.staged);
        blocking(move || staged.place(Place::Replace)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = Arc::clone(&self.staged);
        blocking(move || fs::remove_file(&staged.temporary).map_err(generic)).await
    }
}

fn write_whole(target: &FsPath, payload: &PutPayload, place: Place) -> Result<()> {
    let mut staged = Staged::open(target)?;
    for chunk in payload {
        staged.file.write_all(chunk).map_err(generic)?;
    }
    staged.place(place)
}

/// `<target>#<digits>`, unlike any other process's or thread's.
fn temporary_name(target: &FsPath) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{unique}"));
    name.into()
}

fn sync_folder(target: &FsPath) -> Result<()> {
    let folder = target.parent().ok_or_else(|| generic("the path has no folder"))?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(generic)
}

fn lock_folder(root: &FsPath) -> Result<File> {
    let lock = OpenOptions::new().create(true).append(true).open(root.join("_apiary.lock#0")).map_err(generic)?;
    lock.lock().map_err(generic)?;
    Ok(lock)
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: STORE, source: source.into() }
}

fn precondition(location: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Precondition { path: location.to_string(), source: source.into() }
}

/// Runs file work where blocking is allowed; in place when no runtime is there.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}
