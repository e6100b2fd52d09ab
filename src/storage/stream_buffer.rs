//! A local folder in which rows ripen: written down as they come, and there again after a crash.
//!
//! Rows are kept in segments that are numbered from 1. One segment becomes one commit, which carries the buffer's id and the
//! segment's number as the Delta log's application transaction: a segment that was committed just before a crash is
//! recognized, and not committed again.
//!
//! ```text
//! <buffers>/<frame's id>/<slot>/lock            held by the process that writes here
//!                               id              of this buffer, in the ledger; a new one when there are no segments
//!                               segment-…       Arrow IPC stream, in frames: length, its checksum and that of both
//!                                               (8 bytes each), payload
//!                               ….damaged       a copy of a segment of which not all could be read
//! ```

use std::fs::{File, TryLockError};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::cached::checksum;
use crate::{Error, Result};

/// How segments are called.
const SEGMENT: &str = "segment-";
const DAMAGED: &str = "damaged";
/// Rows up to which batches are put together.
const FEW_ROWS: usize = 1024;
/// Bytes before the payload of a frame.
const HEAD: usize = 24;
/// Buffers of one frame that are open on one machine at a time.
const MAX_SLOTS: usize = 1000;

/// Rows of one commit to come.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its number.
    pub number: i64,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
}

impl Segment {
    /// Adds rows. Few are put together with those before them: a batch of its own costs more than a row.
    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        match self.batches.last_mut() {
            Some(last) if last.num_rows() + batch.num_rows() <= FEW_ROWS => {
                *last = concat_batches(&batch.schema(), [&*last, &batch])?;
            }
            _ => self.batches.push(batch),
        }
        Ok(())
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }
}

/// The folder, held.
pub struct StreamBuffer {
    folder: PathBuf,
    id: String,
    schema: SchemaRef,
    open: Option<OpenSegment>,
    next: i64,
    _held: File,
}

struct OpenSegment {
    file: File,
    /// Bytes of whole batches in the file.
    written: u64,
    encoder: StreamWriter<Vec<u8>>,
    segment: Segment,
}

impl StreamBuffer {
    /// Opens a buffer of the frame with this id below `buffers`, and those that dead processes left, with the segments that
    /// are in them; the first one is empty or was left, too. A batch that a process did not write to its end is left out: it
    /// was not acknowledged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] for a segment that is damaged, and what the system says.
    pub fn open(buffers: &Path, frame_id: &str, schema: SchemaRef) -> Result<Vec<(Self, Vec<Segment>)>> {
        let frame = buffers.join(frame_id);
        let opened = Self::open_all(&frame, &schema);
        opened.map_err(|error| error.context(format!("the stream's buffer {} cannot be opened", frame.display())))
    }

    fn open_all(frame: &Path, schema: &SchemaRef) -> Result<Vec<(Self, Vec<Segment>)>> {
        std::fs::create_dir_all(frame)?;
        let mut opened: Vec<(Self, Vec<Segment>)> = Vec::new();
        for slot in 0..MAX_SLOTS {
            let folder = frame.join(slot.to_string());
            if !opened.is_empty() && !folder.exists() {
                break;
            }
            std::fs::create_dir_all(&folder)?;
            let held = File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
            match held.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            if opened.is_empty() || !segment_files(&folder)?.is_empty() {
                opened.push(Self::take(folder, Arc::clone(schema), held)?);
            }
        }
        match opened.is_empty() {
            true => {
                Err(Error::invalid(format!("{MAX_SLOTS} streams into one frame are open on this machine: close some")))
            }
            false => Ok(opened),
        }
    }

    fn take(folder: PathBuf, schema: SchemaRef, held: File) -> Result<(Self, Vec<Segment>)> {
        let files = segment_files(&folder)?;
        // Numbers of a copied disk must not be taken for those of the other copy.
        let id = identity(&folder, files.is_empty())?;
        let mut segments = Vec::new();
        for (number, path) in files {
            let batches = read(&path)?;
            match batches.is_empty() {
                true => std::fs::remove_file(&path)?,
                false => segments.push(Segment { number, batches }),
            }
        }
        let next = segments.last().map_or(1, |last| last.number + 1);
        Ok((Self { folder, id, schema, open: None, next, _held: held }, segments))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the ledger calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Numbers new segments from above what is committed.
    pub fn begin_above(&mut self, committed: i64) {
        self.next = self.next.max(committed + 1);
    }

    /// The segment that rows go to now.
    pub fn open_segment(&self) -> Option<&Segment> {
        self.open.as_ref().map(|open| &open.segment)
    }

    /// Writes rows down. They survive the end of the process; with `sync`, also that of the machine.
    ///
    /// # Errors
    /// What the system says; the rows are not there then, and the segment is to be sealed.
    pub fn append(&mut self, batch: RecordBatch, sync: bool) -> Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            closed => {
                let open = OpenSegment::create(self.folder.join(file_name(self.next)), self.next, &self.schema)?;
                if sync {
                    File::open(&self.folder)?.sync_all()?;
                }
                self.next += 1;
                closed.insert(open)
            }
        };
        open.append(batch, sync)
    }

    /// Ends the open segment, if it has rows, and gives it back.
    pub fn seal(&mut self) -> Option<Segment> {
        self.open.take().map(|open| open.segment)
    }

    /// Removes a segment that is committed.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, number: i64) -> Result<()> {
        match std::fs::remove_file(self.path(number)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn path(&self, number: i64) -> PathBuf {
        self.folder.join(file_name(number))
    }
}

impl std::fmt::Debug for StreamBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBuffer").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl OpenSegment {
    fn create(path: PathBuf, number: i64, schema: &SchemaRef) -> Result<Self> {
        let encoder = StreamWriter::try_new(Vec::new(), schema)?;
        Ok(Self { file: File::create(path)?, written: 0, encoder, segment: Segment { number, batches: Vec::new() } })
    }

    fn append(&mut self, batch: RecordBatch, sync: bool) -> Result<()> {
        self.encoder.write(&batch)?;
        let bytes = framed(&std::mem::take(self.encoder.get_mut()));
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| if sync { self.file.sync_data() } else { Ok(()) })
        {
            // A piece of a batch at the end is left out when it is read; a whole one would come back.
            self.file.set_len(self.written)?;
            return Err(Error::from(error).context("the stream's buffer cannot be written: these rows are not in it"));
        }
        self.written += bytes.len() as u64;
        self.segment.push(batch)
    }
}

fn file_name(number: i64) -> String {
    format!("{SEGMENT}{number:020}")
}

/// The segments in a folder, by number.
fn segment_files(folder: &Path) -> Result<Vec<(i64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(number) = name.strip_prefix(SEGMENT) else { continue };
        match number.parse() {
            Ok(number) if number > 0 && path.is_dir() => {
                return Err(Error::storage(format!("{} is a folder: move it away to go on", path.display())));
            }
            Ok(number) if number > 0 => segments.push((number, path)),
            _ if path.extension().is_some_and(|ending| ending == DAMAGED) => {}
            _ => {
                return Err(Error::corrupt(format!(
                    "{} is no segment of a buffer: move it away to go on",
                    path.display()
                )));
            }
        }
    }
    segments.sort();
    Ok(segments)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let (length, sum) = ((payload.len() as u64).to_le_bytes(), checksum(0, payload).to_le_bytes());
    let head = [length, sum].concat();
    [&head, &checksum(0, &head).to_le_bytes()[..], payload].concat()
}

/// The whole batches of a segment.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] when something is damaged that was written to its end.
fn read(path: &Path) -> Result<Vec<RecordBatch>> {
    let bytes = std::fs::read(path)?;
    let damaged = |why: &str| Error::corrupt(format!("{} is damaged ({why}): move it away to go on", path.display()));
    let (mut rest, mut stream) = (bytes.as_slice(), Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let field = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if checksum(0, &head[..16]) != field(16) {
            // The file had its length, and the system did not write this page of it before the power went.
            if head.iter().all(|byte| *byte == 0) {
                keep_copy(path)?;
                break;
            }
            return Err(damaged("the head of a batch is wrong"));
        }
        // Not written to its end.
        let Some(payload) = usize::try_from(field(0)).ok().and_then(|length| after.get(..length)) else { break };
        let is_last = payload.len() == after.len();
        if checksum(0, payload) != field(8) {
            match is_last {
                // The system may have written its pages in another order before the power went; or the disk is bad.
                true => {
                    keep_copy(path)?;
                    break;
                }
                false => return Err(damaged("a checksum is wrong")),
            }
        }
        stream.extend_from_slice(payload);
        rest = &after[payload.len()..];
    }
    if stream.is_empty() {
        return Ok(Vec::new());
    }
    let reader = StreamReader::try_new(Cursor::new(stream), None).map_err(|error| damaged(&error.to_string()))?;
    reader.map(|batch| batch.map_err(|error| damaged(&error.to_string()))).collect()
}

/// Keeps a segment of which the end cannot be read: what can be is committed, and the segment removed then.
fn keep_copy(path: &Path) -> Result<()> {
    let copy = path.with_extension(DAMAGED);
    std::fs::copy(path, &copy)?;
    tracing::error!("the end of {} is damaged and left out: {} keeps it", path.display(), copy.display());
    Ok(())
}

/// The buffer's id, made when there is none or it is to be a new one.
fn identity(folder: &Path, new: bool) -> Result<String> {
    let path = folder.join("id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !new && uuid::Uuid::try_parse(&id).is_ok() => return Ok(id),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Error::corrupt(format!(
                "{} is damaged (it is no text): move the folder that it is in away to go on",
                path.display()
            )));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Whole or not there: segments are numbered within it.
    let id = uuid::Uuid::new_v4().to_string();
    let half = folder.join("id.half");
    let mut file = File::create(&half)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(half, path)?;
    File::open(folder)?.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(range: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from_iter_values(range)) as ArrayRef)]).unwrap()
    }

    fn open(folder: &Path) -> Vec<(StreamBuffer, Vec<Segment>)> {
        StreamBuffer::open(folder, "frame", batch(0..0).schema()).unwrap()
    }

    fn one(folder: &Path) -> (StreamBuffer, Vec<Segment>) {
        let mut opened = open(folder);
        assert_eq!(opened.len(), 1);
        opened.remove(0)
    }

    #[test]
    fn what_was_written_is_there_again_but_for_a_piece_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (mut buffer, found) = one(folder.path());
        assert!(found.is_empty());
        let id = buffer.id().to_string();
        buffer.append(batch(0..3), false).unwrap();
        buffer.append(batch(3..5), true).unwrap();
        assert_eq!(buffer.seal().unwrap().batches, [batch(0..5)]);
        buffer.append(batch(5..8), false).unwrap();
        buffer.append(batch(8..9), false).unwrap();
        drop(buffer);
        let last = folder.path().join("frame/0").join(file_name(2));
        let bytes = std::fs::read(&last).unwrap();
        let mut zeros = bytes.clone();
        let end = zeros.len() - 8;
        zeros[end..].fill(0x55);
        for (written, rows) in [(bytes.clone(), 4), (bytes[..bytes.len() - 1].to_vec(), 3), (zeros, 3)] {
            std::fs::write(&last, written).unwrap();
            let (buffer, found) = one(folder.path());
            assert_eq!(buffer.id(), id);
            let there: Vec<_> = found.iter().map(|segment| (segment.number, segment.rows())).collect();
            assert_eq!(there, [(1, 5), (2, rows)]);
        }
        let mut damaged = bytes;
        damaged[HEAD + 9] ^= 1;
        std::fs::write(&last, damaged).unwrap();
        let error = StreamBuffer::open(folder.path(), "frame", batch(0..0).schema()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        assert!(last.exists());
    }

    #[test]
    fn a_buffer_that_somebody_holds_is_left_to_him_and_those_of_the_dead_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (mut first, _) = one(folder.path());
        let (mut second, found) = one(folder.path());
        assert!(found.is_empty() && first.id() != second.id());
        first.append(batch(0..3), false).unwrap();
        second.append(batch(3..4), false).unwrap();
        let (left, third) = (second.id().to_string(), one(folder.path()));
        drop((second, third));
        assert_eq!(open(folder.path())[0].0.id(), left);
        let gone = first.id().to_string();
        drop(first);
        let ids: Vec<_> =
            open(folder.path()).iter().map(|(buffer, found)| (buffer.id().to_string(), found.len())).collect();
        assert_eq!(ids, [(gone, 1), (left, 1)]);
    }

    #[test]
    fn numbers_begin_anew_only_with_a_new_id() {
        let folder = tempfile::tempdir().unwrap();
        let (mut buffer, _) = one(folder.path());
        buffer.begin_above(7);
        buffer.append(batch(0..3), false).unwrap();
        let segment = buffer.seal().unwrap();
        assert_eq!(segment.number, 8);
        let id = buffer.id().to_string();
        drop(buffer);
        let (buffer, found) = one(folder.path());
        assert_eq!((buffer.id(), found[0].number), (id.as_str(), 8));
        buffer.remove(8).unwrap();
        drop(buffer);
        assert_ne!(one(folder.path()).0.id(), id);
    }
}
