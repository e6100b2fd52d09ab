//! A task's batches as one object with a part for each partition, and back.
//!
//! Every partition is a sequence of pieces, each a whole Arrow IPC stream with LZ4 buffers. A writer holds at most
//! [`PIECE_BYTES`] of encoded rows and then sends one piece of every partition, so that its memory does not grow with
//! the output. An output that never gets that far and is small rides in the completion record.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{CompressionType, MetadataVersion};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::record::DoneRecord;
use crate::{Error, Result};

/// Encoded bytes that are held before they are sent: a multipart part must have at least 5 MiB.
const PIECE_BYTES: usize = 16 << 20;
/// Outputs up to this size ride in the completion record: it is read in one request anyway.
const INLINE_BYTES: usize = 128 << 10;
/// Pieces that are fetched ahead of the one that is decoded.
const PIECES_AHEAD: usize = 2;

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The output itself when it is small; otherwise it is at the writer's path.
    pub inline: Option<Bytes>,
    /// Where each partition's pieces are.
    pub pieces: Vec<Vec<Range<u64>>>,
    /// Rows of all partitions.
    pub rows: u64,
    /// Bytes of the output.
    pub bytes: u64,
}

/// Takes the batches of all partitions of one task.
pub struct OutputWriter {
    store: Arc<dyn ObjectStore>,
    path: Path,
    schema: SchemaRef,
    open: Vec<Option<StreamWriter<Vec<u8>>>>,
    pieces: Vec<Vec<Range<u64>>>,
    sent: u64,
    rows: u64,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl OutputWriter {
    /// A writer of `partitions` partitions to `path`.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, schema: SchemaRef, partitions: usize) -> Self {
        let open = (0..partitions).map(|_| None).collect();
        Self { store, path, schema, open, pieces: vec![Vec::new(); partitions], sent: 0, rows: 0, upload: None }
    }

    /// Adds a batch to a partition; waits for the store when enough has gathered.
    ///
    /// # Errors
    /// What the store says.
    pub async fn write(&mut self, partition: usize, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let batch = compact(batch)?;
        let open = &mut self.open[partition];
        if open.is_none() {
            *open = Some(StreamWriter::try_new_with_options(Vec::new(), &self.schema, lz4()?)?);
        }
        if let Some(writer) = open {
            writer.write(&batch)?;
        }
        if self.held() >= PIECE_BYTES {
            let part = self.close_pieces()?;
            self.send(part).await?;
        }
        Ok(())
    }

    /// Writes what is held and says where everything is.
    ///
    /// # Errors
    /// What the store says; nothing is left behind then.
    pub async fn finish(mut self) -> Result<Written> {
        let last = Bytes::from(self.close_pieces()?);
        let inline = match &mut self.upload {
            None if last.len() <= INLINE_BYTES => Some(last),
            None => {
                self.store.put(&self.path, PutPayload::from_bytes(last)).await?;
                None
            }
            Some(upload) => {
                if let Err(error) = complete(upload.as_mut(), last).await {
                    self.abort().await;
                    return Err(error);
                }
                None
            }
        };
        Ok(Written { inline, pieces: self.pieces, rows: self.rows, bytes: self.sent })
    }

    /// Gives up: an unfinished upload would be stored, and paid for, for ever.
    pub async fn abort(self) {
        if let Some(mut upload) = self.upload
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, path = %self.path, "an unfinished upload could not be given up");
        }
    }

    /// Bytes that went to the store.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn held(&self) -> usize {
        self.open.iter().flatten().map(|w| w.get_ref().len()).sum()
    }

    fn close_pieces(&mut self) -> Result<Vec<u8>> {
        let mut part = Vec::with_capacity(self.held() + 64 * self.open.len());
        for (open, pieces) in self.open.iter_mut().zip(&mut self.pieces) {
            let Some(writer) = open.take() else { continue };
            let bytes = writer.into_inner()?;
            let start = self.sent + part.len() as u64;
            pieces.push(start..start + bytes.len() as u64);
            part.extend_from_slice(&bytes);
        }
        self.sent += part.len() as u64;
        Ok(part)
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<()> {
        if self.upload.is_none() {
            self.upload = Some(self.store.put_multipart(&self.path).await?);
        }
        if let Some(upload) = &mut self.upload {
            upload.put_part(PutPayload::from(part)).await?;
        }
        Ok(())
    }
}

/// The batches of `partition` of a task that is done; `path` is where its output is, unless it is inline.
pub fn read_partition(
    store: Arc<dyn ObjectStore>,
    path: Path,
    done: &DoneRecord,
    partition: usize,
) -> BoxStream<'static, Result<RecordBatch>> {
    let pieces = done.header.pieces.get(partition).cloned().unwrap_or_default();
    let inline = done.header.inline.then(|| done.rows.clone());
    let fetch = move |range: Range<u64>| {
        let (store, path, inline) = (Arc::clone(&store), path.clone(), inline.clone());
        async move {
            match inline {
                Some(rows) => Ok(rows.slice(range.start as usize..range.end as usize)),
                None => Ok::<_, Error>(store.get_range(&path, range).await?),
            }
        }
    };
    let fetched = futures::stream::iter(pieces).map(fetch).buffered(PIECES_AHEAD);
    fetched.map_ok(decoded).try_flatten().boxed()
}

fn decoded(bytes: Bytes) -> impl futures::Stream<Item = Result<RecordBatch>> {
    let state = Some((StreamDecoder::new(), Buffer::from(bytes)));
    futures::stream::unfold(state, |state| async move {
        let (mut decoder, mut buffer) = state?;
        let damaged = |error: ArrowError| Error::corrupt(format!("a task's output cannot be read: {error}"));
        match decoder.decode(&mut buffer) {
            Ok(Some(batch)) => Some((Ok(batch), Some((decoder, buffer)))),
            // A piece that ends in the middle of a batch must not look like one that is complete.
            Ok(None) => decoder.finish().err().map(|error| (Err(damaged(error)), None)),
            Err(error) => Some((Err(damaged(error)), None)),
        }
    })
}

fn lz4() -> Result<IpcWriteOptions> {
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)?;
    Ok(options.try_with_compression(Some(CompressionType::LZ4_FRAME))?)
}

async fn complete(upload: &mut dyn MultipartUpload, last: Bytes) -> Result<()> {
    if !last.is_empty() {
        upload.put_part(PutPayload::from_bytes(last)).await?;
    }
    upload.complete().await?;
    Ok(())
}

/// A batch whose views hold only the bytes they show: a repartitioned batch shares the buffers of the whole input, and
/// IPC writes every buffer.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let views = |f: &Arc<arrow::datatypes::Field>| matches!(f.data_type(), DataType::Utf8View | DataType::BinaryView);
    if !batch.schema_ref().fields().iter().any(views) {
        return Ok(batch.clone());
    }
    let compacted = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    };
    let columns = batch.columns().iter().map(compacted).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};
    use object_store::memory::InMemory;

    use super::super::record::{Cost, DoneHeader};
    use super::*;

    fn batch(from: i64, rows: i64) -> RecordBatch {
        let numbers = Int64Array::from_iter_values(from..from + rows);
        let texts =
            StringViewArray::from_iter_values((from..from + rows).map(|n| format!("a text that is not short {n}")));
        let schema =
            Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8View, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(texts)]).unwrap()
    }

    async fn round_trip(batches: &[(usize, RecordBatch)], partitions: usize) -> (bool, Vec<Vec<i64>>) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from("out");
        let mut writer = OutputWriter::new(Arc::clone(&store), path.clone(), batch(0, 0).schema(), partitions);
        for (partition, batch) in batches {
            writer.write(*partition, batch).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        let inline = written.inline.is_some();
        let header = DoneHeader {
            attempt: 0,
            salt: 0,
            node: "a-1".parse().unwrap(),
            inline,
            pieces: written.pieces,
            rows: written.rows,
            cost: Cost::default(),
        };
        let done = DoneRecord { header, rows: written.inline.unwrap_or_default() };
        let mut read = Vec::new();
        for partition in 0..partitions {
            let batches: Vec<_> =
                read_partition(Arc::clone(&store), path.clone(), &done, partition).try_collect().await.unwrap();
            let numbers = |b: &RecordBatch| b.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
            read.push(batches.iter().flat_map(numbers).collect());
        }
        (inline, read)
    }

    #[tokio::test]
    async fn small_outputs_are_inline_and_partitions_stay_apart() {
        let (inline, read) = round_trip(&[(0, batch(0, 3)), (2, batch(10, 2)), (0, batch(3, 1))], 3).await;
        assert!(inline);
        assert_eq!(read, [vec![0, 1, 2, 3], vec![], vec![10, 11]]);
    }

    #[tokio::test]
    async fn large_outputs_are_sent_in_pieces() {
        let batches: Vec<_> = (0..60).map(|i| (i % 2, batch(i as i64 * 100_000, 100_000))).collect();
        let (inline, read) = round_trip(&batches, 2).await;
        assert!(!inline);
        assert_eq!(read.iter().map(Vec::len).sum::<usize>(), 6_000_000);
        assert_eq!(read[1][..2], [100_000, 100_001]);
    }

    #[tokio::test]
    async fn a_piece_that_is_cut_short_is_an_error_and_not_an_end() {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch(0, 1).schema()).unwrap();
        (0..3).for_each(|i| writer.write(&batch(i * 100, 100)).unwrap());
        let whole = Bytes::from(writer.into_inner().unwrap());
        assert_eq!(decoded(whole.clone()).collect::<Vec<_>>().await.into_iter().filter(Result::is_ok).count(), 3);
        for cut in [whole.len() / 3, whole.len() / 2, whole.len() - 300] {
            let read: Vec<_> = decoded(whole.slice(..cut)).collect().await;
            assert!(read.last().is_some_and(Result::is_err), "cut at {cut} of {}", whole.len());
        }
    }

    #[test]
    fn a_slice_is_written_without_what_it_does_not_show() {
        let slice = compact(&batch(0, 100_000).slice(0, 10)).unwrap();
        let texts = slice.column(1).get_array_memory_size();
        assert!(texts < 4096, "{texts} bytes of views");
    }
}
