//! Deletion vectors that are written: which rows of a cell do not count from a commit on.
//!
//! The format is Delta's, encoded by delta_kernel. Small vectors stand in the ledger's entry itself; larger ones of one
//! commit share files in the frame's folder, which are there before the commit and are removed when it fails.

use std::collections::{BTreeMap, HashMap};
use std::iter::once;

use delta_kernel::actions::deletion_vector::{DeletionVectorDescriptor, DeletionVectorStorageType};
use delta_kernel::actions::deletion_vector_writer::{
    DeletionVector, KernelDeletionVector, StreamingDeletionVectorWriter,
};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use url::Url;

use super::deleted_rows::DeletedRows;
use super::ledger::Inner;
use super::listing::Cells;
use super::names::FrameRef;
use crate::{Error, Result};

/// How the files of deletion vectors begin and end, by Delta's protocol.
const FILE_NAME: (&str, &str) = ("deletion_vector_", ".bin");
/// Bytes of a vector that stands in the ledger: as many as its cell's statistics take there, and no request to read it.
const INLINE_BYTES: usize = 1024;
/// Bytes after which the next vector begins another file: readers get a file whole for each vector in it.
const FILE_BYTES: usize = 64 << 10;
/// What a file begins with: the format's version.
const VERSION: u8 = 1;
/// Bytes of a vector's length before it, and of its checksum behind it, in a file.
const FRAMING: usize = 4;

/// Rows that a statement marks as deleted, by the number of their cell.
#[derive(Debug, Default)]
pub struct Marks(BTreeMap<usize, KernelDeletionVector>);

impl Marks {
    /// Adds rows, each by its cell and its place in it.
    pub fn add(&mut self, cells: &[u64], mut rows: &[u64]) {
        for run in cells.chunk_by(|a, b| a == b) {
            let Some((these, others)) = rows.split_at_checked(run.len()) else { return };
            self.0.entry(run[0] as usize).or_default().add_deleted_row_indexes(these);
            rows = others;
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.0.values().map(KernelDeletionVector::cardinality).sum()
    }

    /// All deleted rows of the cells, by their names: these and those that were before.
    ///
    /// # Errors
    /// Never in practice: a vector's rows rise.
    pub fn with_former(self, cells: &Cells) -> Result<HashMap<String, DeletedRows>> {
        let all = |(cell, mut rows): (usize, KernelDeletionVector)| {
            if let Some(former) = cells.deleted(cell) {
                rows.add_deleted_row_indexes(former.rows());
            }
            Ok((cells.name(cell).to_string(), DeletedRows::new(rows.into_iter())?))
        };
        self.0.into_iter().map(all).collect()
    }
}

/// Vectors that a commit brings in.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    /// By the ledger's name of their cell.
    pub(super) of: HashMap<String, DeletionVectorDescriptor>,
    files: Vec<Path>,
}

/// Vectors that will share a file.
struct Shared {
    name: uuid::Uuid,
    bytes: Vec<u8>,
}

impl Inner {
    /// Writes the vectors of cells down, as far as they do not stand in the ledger.
    ///
    /// # Errors
    /// What the store says; no file is left behind then, as far as it lets them be removed.
    pub(super) fn write_vectors(&self, frame: &FrameRef, marked: &HashMap<String, DeletedRows>) -> Result<Vectors> {
        let mut vectors = Vectors::default();
        match self.write_each(frame, marked, &mut vectors) {
            Ok(()) => Ok(vectors),
            Err(error) => {
                self.remove_vectors(&vectors);
                Err(error)
            }
        }
    }

    fn write_each(&self, frame: &FrameRef, marked: &HashMap<String, DeletedRows>, vectors: &mut Vectors) -> Result<()> {
        let mut shared = Shared::new();
        for (cell, rows) in marked {
            let alone = encoded(rows)?;
            let descriptor = match alone.bitmap()? {
                bitmap if bitmap.len() <= INLINE_BYTES => inline(bitmap, alone.size, rows)?,
                _ => shared.add(&alone, rows)?,
            };
            vectors.of.insert(cell.clone(), descriptor);
            if shared.bytes.len() > FILE_BYTES {
                self.put_vectors(frame, std::mem::replace(&mut shared, Shared::new()), vectors)?;
            }
        }
        if shared.bytes.len() > 1 { self.put_vectors(frame, shared, vectors) } else { Ok(()) }
    }

    fn put_vectors(&self, frame: &FrameRef, shared: Shared, vectors: &mut Vectors) -> Result<()> {
        let path = Path::from(frame.folder()).join(format!("{}{}{}", FILE_NAME.0, shared.name, FILE_NAME.1));
        vectors.files.push(path.clone());
        self.io.block_on(self.store.put(&path, shared.bytes.into()))?;
        Ok(())
    }

    /// Takes the files of a commit back that did not land; what cannot be removed is left for vacuum.
    pub(super) fn remove_vectors(&self, vectors: &Vectors) {
        for path in &vectors.files {
            match self.io.block_on(self.store.delete(path)) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, %path, "a deletion vector of a failed commit is left behind"),
            }
        }
    }
}

impl Shared {
    fn new() -> Self {
        Self { name: uuid::Uuid::new_v4(), bytes: vec![VERSION] }
    }

    fn add(&mut self, alone: &Alone, rows: &DeletedRows) -> Result<DeletionVectorDescriptor> {
        let too_large = |_| Error::internal("a file of deletion vectors is beyond what the format allows");
        let offset = i32::try_from(self.bytes.len()).map_err(too_large)?;
        self.bytes.extend_from_slice(alone.bytes.get(1..).unwrap_or_default());
        let (kind, name) = (DeletionVectorStorageType::PersistedRelative, z85::encode(self.name.as_bytes()));
        Ok(DeletionVectorDescriptor::try_new(kind, name, Some(offset), alone.size, rows.count() as i64)?)
    }
}

/// A file with one vector.
struct Alone {
    bytes: Vec<u8>,
    /// Of the vector, with the number that its format begins with.
    size: i32,
}

impl Alone {
    fn bitmap(&self) -> Result<&[u8]> {
        let end = self.bytes.len().saturating_sub(FRAMING);
        self.bytes.get(1 + FRAMING..end).ok_or_else(|| Error::internal("a deletion vector was written as nothing"))
    }
}

fn encoded(rows: &DeletedRows) -> Result<Alone> {
    let mut bytes = Vec::new();
    let mut writer = StreamingDeletionVectorWriter::new(&mut bytes);
    let size = writer.write_deletion_vector(Listed(rows))?.size_in_bytes;
    writer.finalize()?;
    Ok(Alone { bytes, size })
}

fn inline(bitmap: &[u8], size: i32, rows: &DeletedRows) -> Result<DeletionVectorDescriptor> {
    // The text has five letters for four bytes; readers go by the size.
    let padding = bitmap.len().next_multiple_of(4) - bitmap.len();
    let text = z85::encode([bitmap, &[0; 3][..padding]].concat());
    Ok(DeletionVectorDescriptor::try_new(DeletionVectorStorageType::Inline, text, None, size, rows.count() as i64)?)
}

/// Deleted rows as delta_kernel writes them.
struct Listed<'a>(&'a DeletedRows);

impl<'a> DeletionVector for Listed<'a> {
    type IndexIterator = Box<dyn Iterator<Item = u64> + 'a>;

    fn into_iter(self) -> Self::IndexIterator {
        Box::new(self.0.rows())
    }

    fn cardinality(&self) -> u64 {
        self.0.count()
    }
}

/// The file that a vector is in, if it is in one.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] for a place that cannot be.
pub(super) fn vector_file(root: &Url, vector: &DeletionVectorDescriptor) -> Result<Option<Path>> {
    let damaged = |e: &dyn std::fmt::Display| Error::corrupt(format!("a deletion vector: {e}"));
    let url = vector.absolute_path(root).map_err(|e| damaged(&e))?;
    url.map(|url| Path::from_url_path(url.path()).map_err(|e| damaged(&e))).transpose()
}

/// The file of the vector that an action of the log has for its cell.
///
/// # Errors
/// As [`vector_file`].
pub(super) fn vector_file_of(root: &Url, action: &serde_json::Value) -> Result<Option<Path>> {
    let vector = action.get("deletionVector").filter(|vector| !vector.is_null());
    let read = |vector: &serde_json::Value| {
        serde_json::from_value(vector.clone()).map_err(|e| Error::corrupt(format!("a deletion vector: {e}")))
    };
    vector.map(read).transpose()?.map_or(Ok(None), |vector| vector_file(root, &vector))
}

/// Whether a file is named as those of deletion vectors are.
pub(super) fn is_vector_file(path: &Path) -> bool {
    path.filename().is_some_and(|name| name.starts_with(FILE_NAME.0) && name.ends_with(FILE_NAME.1))
}

/// Statistics that say of their bounds that no row is beyond them, and no more; as they were written else: a number that
/// is read and written again can become another.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] for what is none.
pub(super) fn with_wide_bounds(stats: &str) -> Result<String> {
    const TIGHT: &str = "\"tightBounds\":true}";
    const WIDE: &str = "\"tightBounds\":false";
    let stats = stats.trim();
    // What ends so is said of the whole: within another object, that one's brace would follow.
    if let Some(rest) = stats.strip_suffix(TIGHT) {
        return Ok(format!("{rest}{WIDE}}}"));
    }
    let damaged = |e: serde_json::Error| Error::corrupt(format!("the statistics of a cell: {e}"));
    let mut parsed: serde_json::Map<_, _> = serde_json::from_str(stats).map_err(damaged)?;
    match parsed.get("tightBounds") {
        Some(serde_json::Value::Bool(false)) => Ok(stats.to_string()),
        None => {
            let rest = stats.strip_prefix('{').unwrap_or_default().trim_start();
            Ok(once("{").chain([WIDE, if rest == "}" { "" } else { "," }, rest]).collect())
        }
        Some(_) => {
            // Bounds that are left out are wide, too.
            parsed.retain(|name, _| matches!(name.as_str(), "numRecords" | "nullCount"));
            parsed.insert("tightBounds".into(), false.into());
            Ok(serde_json::Value::Object(parsed).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_bounds_changes_and_no_number_does() {
        let wide = |stats: &str| with_wide_bounds(stats).unwrap();
        let bounds = "\"minValues\":{\"d\":12345678901234567890.123456789,\"x\":0.1}";
        assert_eq!(
            wide(&format!("{{\"numRecords\":3,{bounds},\"tightBounds\":true}}")),
            format!("{{\"numRecords\":3,{bounds},\"tightBounds\":false}}")
        );
        assert_eq!(
            wide(&format!("{{\"numRecords\":3,{bounds}}}")),
            format!("{{\"tightBounds\":false,\"numRecords\":3,{bounds}}}")
        );
        let already = format!("{{\"numRecords\":3,\"tightBounds\":false,{bounds}}}");
        assert_eq!(wide(&already), already);
        let before = format!("{{\"tightBounds\":true,\"numRecords\":3,{bounds}}}");
        assert_eq!(wide(&before), "{\"numRecords\":3,\"tightBounds\":false}");
        let nested = "{\"numRecords\":3,\"minValues\":{\"tightBounds\":true}}";
        assert_eq!(wide(nested), format!("{{\"tightBounds\":false,{}", &nested[1..]));
        assert!(with_wide_bounds("[1]").is_err());
    }

    #[test]
    fn marks_are_gathered_by_their_cells() {
        let mut marks = Marks::default();
        marks.add(&[3, 3, 1, 3], &[7, 5, 0, 7]);
        assert_eq!(marks.count(), 3);
        let rows = |cell| marks.0[&cell].clone().into_iter().collect::<Vec<_>>();
        assert_eq!((rows(1), rows(3)), (vec![0], vec![5, 7]));
    }
}
