//! Streams: rows that come a few at a time, and are committed when there are enough of them, or when it is time.
//!
//! Rows ripen in a buffer on the local disk ([`StreamBuffer`]) and in memory. Whoever appends is answered when they are
//! written down; a task commits what is ripe, each segment exactly once. Queries of this colony see them before.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::colony::Core;
use super::lead::until_committed;
use super::query::Asked;
use super::settings::state_folder;
use super::write::{Writing, write_frame};
use crate::sql::row_check::RowCheck;
use crate::sql::{Backpressure, Ripening};
use crate::storage::cells::require_partition_values;
use crate::storage::schema::Coercion;
use crate::storage::stream_buffer::{Segment, StreamBuffer};
use crate::storage::{AsOf, Change, FrameRef, Transaction};
use crate::sync::lock;
use crate::{Error, ErrorKind, Result};

/// Times the rows of one commit that may wait in memory: one that is committed, one that fills, and some patience with a
/// storage that does not answer.
const SEGMENTS_AHEAD: u64 = 4;
/// First pause after a commit that failed; it doubles with each, up to the last one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Longest that rows may wait: moments far beyond cannot be reckoned with.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How rows ripen.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Rows of one commit.
    pub rows: u64,
    /// Bytes of rows in memory for one commit.
    pub bytes: u64,
    /// How old the oldest row is when it is committed.
    pub every: Duration,
    /// Folder of the buffer; when there is none, one of the user's state folder.
    pub buffer: Option<PathBuf>,
    /// Whether rows are on the disk, and not just written to it, before an append is answered: then they survive a power cut,
    /// and not only the end of the process.
    pub sync: bool,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { rows: 1_000_000, bytes: 64 << 20, every: Duration::from_secs(10), buffer: None, sync: false }
    }
}

impl StreamSettings {
    fn validate(&self) -> Result<()> {
        if self.rows == 0 || self.bytes == 0 || self.every.is_zero() {
            return Err(Error::invalid("rows, bytes and seconds of a stream must be above 0"));
        }
        if self.every > LONGEST {
            return Err(Error::invalid("rows of a stream are committed within a year: give fewer seconds"));
        }
        Ok(())
    }

    fn buffers(&self) -> Result<PathBuf> {
        let usual = || state_folder().map(|state| state.join("streams"));
        self.buffer
            .clone()
            .or_else(usual)
            .ok_or_else(|| Error::invalid("there is no HOME for the stream's buffer: give it a folder of its own"))
    }
}

/// Rows on their way into a frame. When it is dropped, what is not committed stays in the buffer, and is committed by the
/// next stream into the frame on this machine; [`FrameStream::close`] waits for it.
#[derive(Debug)]
pub struct FrameStream {
    stream: Arc<Stream>,
    /// Held by who closes the stream, until it is closed.
    committer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

struct Stream {
    core: Arc<Core>,
    frame: FrameRef,
    /// What the frame is known by: another one may have its name one day.
    table: String,
    settings: StreamSettings,
    schema: SchemaRef,
    partition_by: Vec<String>,
    checks: Vec<RowCheck>,
    state: Mutex<State>,
    /// Told when there may be something to commit.
    ripe: Notify,
    /// Told when something was committed, or could not be.
    settled: Notify,
    token: CancellationToken,
}

struct State {
    /// Its own, and those that dead processes left; none once it is closed.
    buffers: Vec<StreamBuffer>,
    /// How rows like the last ones become the frame's.
    coercion: Option<(SchemaRef, Coercion)>,
    /// When the oldest row of the open segment came.
    since: Option<Instant>,
    open: Size,
    sealed: VecDeque<Sealed>,
    /// Why nothing can be committed any more.
    failure: Option<Error>,
    version: u64,
}

/// A segment that is to be committed.
#[derive(Debug, Clone)]
struct Sealed {
    segment: Segment,
    size: Size,
    /// Which of the buffers it is in.
    buffer: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    rows: u64,
    bytes: u64,
}

impl Size {
    fn of(batches: &[RecordBatch]) -> Self {
        let columns = batches.iter().flat_map(RecordBatch::columns);
        // Of a column that cannot tell, nothing is known.
        let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0) as u64).sum();
        Self { rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(), bytes }
    }

    fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }
}

impl FrameStream {
    /// Opens a stream, and takes over what an earlier one on this machine could not commit.
    ///
    /// # Errors
    /// `NotFound` without the frame; `InvalidInput` for settings that cannot be; what the system says of the buffer.
    pub(crate) async fn open(core: &Arc<Core>, frame: &FrameRef, settings: StreamSettings) -> Result<Self> {
        settings.validate()?;
        core.meadow.require_writable()?;
        let state = core.meadow.state(frame, AsOf::Latest).await?;
        let (id, buffers) = (core.meadow.registry().frame(frame).await?.id, settings.buffers()?);
        let schema = Arc::clone(&state.schema);
        let opening = {
            let schema = Arc::clone(&schema);
            core.io().spawn_blocking(move || StreamBuffer::open(&buffers, &id, schema))
        };
        let (mut buffers, mut sealed) = (Vec::new(), VecDeque::new());
        for (buffer, (mut opened, left)) in opening.await??.into_iter().enumerate() {
            opened.begin_above(core.meadow.ledger().transaction(&state, opened.id()).await?);
            buffers.push(opened);
            let left = left.into_iter().map(|segment| Sealed { size: Size::of(&segment.batches), segment, buffer });
            sealed.extend(left);
        }
        let stream = Arc::new(Stream {
            core: Arc::clone(core),
            frame: frame.clone(),
            table: state.id().to_string(),
            settings,
            checks: core.planner.row_checks(&state, &schema)?,
            partition_by: state.partition_by.clone(),
            schema,
            state: Mutex::new(State {
                buffers,
                coercion: None,
                since: None,
                open: Size::default(),
                sealed,
                failure: None,
                version: state.version(),
            }),
            ripe: Notify::new(),
            settled: Notify::new(),
            token: core.token.child_token(),
        });
        core.streams.add(&stream);
        stream.ripe.notify_one();
        let committer = core.io().spawn(Arc::clone(&stream).commit_what_is_ripe());
        Ok(Self { stream, committer: tokio::sync::Mutex::new(Some(committer)) })
    }

    /// Appends rows; they are written down when this returns. Waits while too much waits to be committed.
    ///
    /// # Errors
    /// `Schema` when the rows do not fit; `Closed` after [`FrameStream::close`]; why earlier rows could not be committed:
    /// they stay in the buffer. The rows are not in it then.
    pub async fn append(&self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.stream.fitted(&batch)?;
        let size = Size::of(std::slice::from_ref(&batch));
        self.stream
            .settled(|state| {
                state.waiting().rows <= SEGMENTS_AHEAD * self.stream.settings.rows
                    && state.waiting().bytes <= SEGMENTS_AHEAD * self.stream.settings.bytes
            })
            .await?;
        let stream = Arc::clone(&self.stream);
        self.stream.core.io().spawn_blocking(move || stream.write(batch, size)).await?
    }

    /// Appends all rows of `data`.
    ///
    /// # Errors
    /// As [`FrameStream::append`], and the data's own; the batches before it are in the buffer then.
    pub async fn append_all(&self, mut data: SendableRecordBatchStream) -> Result<()> {
        while let Some(batch) = data.next().await {
            self.append(batch?).await?;
        }
        Ok(())
    }

    /// Commits all rows that were appended, and gives back the version that has them.
    ///
    /// # Errors
    /// Why they could not be committed.
    pub async fn flush(&self) -> Result<u64> {
        self.stream.seal();
        self.stream.settled(|state| state.sealed.is_empty()).await?;
        Ok(lock(&self.stream.state).version)
    }

    /// Rows that are not committed yet.
    pub fn waiting(&self) -> u64 {
        lock(&self.stream.state).waiting().rows
    }

    /// Commits all rows and ends. Again is no error.
    ///
    /// # Errors
    /// Why rows could not be committed: they stay in the buffer.
    pub async fn close(&self) -> Result<u64> {
        // Whoever is given up while it waits leaves the stream as it was.
        let mut committer = self.committer.lock().await;
        if committer.is_none() {
            return Ok(lock(&self.stream.state).version);
        }
        let flushed = self.flush().await;
        self.stream.token.cancel();
        if let Some(committer) = committer.take() {
            committer.await?;
        }
        flushed
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        self.stream.token.cancel();
    }
}

impl State {
    fn waiting(&self) -> Size {
        self.sealed.iter().fold(self.open, |sum, sealed| sum.and(sealed.size))
    }

    fn seal(&mut self) {
        if let Some(segment) = self.buffers.first_mut().and_then(StreamBuffer::seal)
            && segment.rows() > 0
        {
            self.sealed.push_back(Sealed { segment, size: self.open, buffer: 0 });
        }
        (self.open, self.since) = (Size::default(), None);
    }
}

impl Stream {
    fn fitted(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let known = lock(&self.state).coercion.clone().filter(|(schema, _)| *schema == batch.schema());
        let coercion = match known {
            Some((_, coercion)) => coercion,
            None => {
                let coercion = Coercion::plan(&batch.schema(), &self.schema).map_err(|error| {
                    error.context("a stream takes the columns that the frame had when it was opened")
                })?;
                lock(&self.state).coercion = Some((batch.schema(), coercion.clone()));
                coercion
            }
        };
        let batch = coercion.apply(batch)?;
        // Who appends is told: a segment with such a row could never be committed.
        require_partition_values(&batch, &self.partition_by)?;
        self.checks.iter().try_for_each(|check| check.check(&batch))?;
        Ok(batch)
    }

    fn write(&self, batch: RecordBatch, size: Size) -> Result<()> {
        let mut state = lock(&self.state);
        let closed = || Error::closed("the stream is closed: open another one");
        let written = state.buffers.first_mut().ok_or_else(closed)?.append(batch, self.settings.sync);
        if written.is_ok() {
            state.open = state.open.and(size);
            state.since.get_or_insert_with(Instant::now);
        }
        if written.is_err() || state.open.rows >= self.settings.rows || state.open.bytes >= self.settings.bytes {
            state.seal();
        }
        drop(state);
        self.ripe.notify_one();
        written
    }

    fn seal(&self) {
        lock(&self.state).seal();
        self.ripe.notify_one();
    }

    /// Waits until the state is as wanted.
    async fn settled(&self, wanted: impl Fn(&State) -> bool) -> Result<()> {
        loop {
            let told = self.settled.notified();
            tokio::pin!(told);
            // From here on nothing is missed.
            told.as_mut().enable();
            {
                let state = lock(&self.state);
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if wanted(&state) {
                    return Ok(());
                }
            }
            tokio::select! {
                () = told => {}
                () = self.token.cancelled() => {
                    return Err(Error::closed("the stream ended: rows that are not committed stay in its buffer"));
                }
            }
        }
    }

    async fn commit_what_is_ripe(self: Arc<Self>) {
        loop {
            let due = lock(&self.state).since.map(|since| since + self.settings.every);
            let due = due.unwrap_or_else(|| Instant::now() + LAST_PAUSE);
            tokio::select! {
                () = self.token.cancelled() => break,
                () = self.ripe.notified() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if lock(&self.state).since.is_some_and(|since| since.elapsed() >= self.settings.every) {
                lock(&self.state).seal();
            }
            self.commit_sealed().await;
        }
        // Whoever opens the next stream may have them.
        lock(&self.state).buffers.clear();
    }

    async fn commit_sealed(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let first = {
                let state = lock(&self.state);
                if state.failure.is_some() { None } else { state.sealed.front().cloned() }
            };
            let Some(sealed) = first else { break };
            match self.commit(&sealed).await {
                Ok(version) => {
                    pause = FIRST_PAUSE;
                    self.landed(&sealed, version);
                }
                Err(_) if self.token.is_cancelled() => return,
                Err(error) if may_pass(&error) => {
                    tracing::warn!(%error, frame = %self.frame, "rows of a stream are committed later");
                    tokio::select! {
                        () = self.token.cancelled() => return,
                        () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
                    }
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(error) => self.fail(&sealed, error),
            }
            self.settled.notify_waiters();
        }
        self.settled.notify_waiters();
    }

    fn fail(&self, sealed: &Sealed, error: Error) {
        let mut state = lock(&self.state);
        let folder = state.buffers.get(sealed.buffer).map(|buffer| buffer.folder().display().to_string());
        state.failure = Some(error.context(format!(
            "rows of a stream into {} cannot be committed; they stay in {} (let the frame take them, or move the folder away, \
             and open another stream)",
            self.frame,
            folder.unwrap_or_default()
        )));
    }

    fn landed(&self, sealed: &Sealed, version: u64) {
        let mut state = lock(&self.state);
        state.sealed.pop_front();
        state.version = version;
        let buffer = state.buffers.get(sealed.buffer);
        if let Some(Err(error)) = buffer.map(|buffer| buffer.remove(sealed.segment.number)) {
            // It is known by its number when it is found again.
            tracing::warn!(%error, frame = %self.frame, "a committed segment of a buffer is left behind");
        }
    }

    /// Commits a segment, unless it is committed already.
    async fn commit(&self, sealed: &Sealed) -> Result<u64> {
        let (core, segment) = (&self.core, &sealed.segment);
        let _ticket = core.admit()?;
        let base = core.meadow.state(&self.frame, AsOf::Latest).await?;
        if base.id() != self.table {
            return Err(Error::not_found(format!("{} was dropped, and another frame has its name", self.frame)));
        }
        let app = lock(&self.state).buffers.get(sealed.buffer).map(|buffer| buffer.id().to_string());
        let app = app.ok_or_else(|| Error::closed("the stream is closed"))?;
        if core.meadow.ledger().transaction(&base, &app).await? >= segment.number {
            return Ok(base.version());
        }
        core.hold_back(Backpressure::Block).await?;
        let asked = Asked::user(&format!("stream into {}", self.frame));
        let entry = core.queries.begin(asked, &self.token, None, core.meadow.meter());
        // The columns that it was written with: the frame may have others since.
        let schema = segment.batches.first().map_or_else(|| Arc::clone(&self.schema), RecordBatch::schema);
        let rows = futures::stream::iter(segment.batches.clone().into_iter().map(Ok));
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let count = segment.rows();
        let change = Change::Once(Transaction { app, number: segment.number });
        let writing = Writing { change, writers: Some(1), run: String::new(), rows: count..=count };
        match until_committed(&entry.record, write_frame(core, &base, rows, writing, &entry.record)).await {
            Ok(written) => Ok(written.version),
            // An earlier try, of which nobody heard, was there first.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(core.meadow.state(&self.frame, AsOf::Latest).await?.version())
            }
            Err(error) => Err(error),
        }
    }

    fn ripening(&self) -> Vec<Ripening> {
        let state = lock(&self.state);
        // What can never be committed is not shown as if it would be.
        if state.failure.is_some() {
            return Vec::new();
        }
        let open = state.buffers.first().and_then(StreamBuffer::open_segment).map(|segment| (0, segment));
        let segments = state.sealed.iter().map(|sealed| (sealed.buffer, &sealed.segment)).chain(open);
        let ripening = segments.filter_map(|(buffer, segment)| {
            let app = state.buffers.get(buffer)?.id().to_string();
            let transaction = Transaction { app, number: segment.number };
            Some(Ripening { table: self.table.clone(), transaction, batches: segment.batches.clone() })
        });
        ripening.collect()
    }
}

/// Whether a commit that failed so may succeed another time: not when it is the rows, or the frame.
fn may_pass(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::Schema
            | ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::Unsupported
            | ErrorKind::Corrupt
            | ErrorKind::MemoryExceeded
    )
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("frame", &self.frame).finish_non_exhaustive()
    }
}

/// The streams of a colony, by frame.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<FrameRef, Vec<Weak<Stream>>>>);

impl Streams {
    fn add(&self, stream: &Arc<Stream>) {
        let mut streams = lock(&self.0);
        let of_frame = streams.entry(stream.frame.clone()).or_default();
        of_frame.retain(|other| other.strong_count() > 0);
        of_frame.push(Arc::downgrade(stream));
    }

    /// Rows of a frame that are not committed, as far as is known.
    pub(crate) fn ripening(&self, frame: &FrameRef) -> Vec<Ripening> {
        let streams: Vec<_> = lock(&self.0).get(frame).into_iter().flatten().filter_map(Weak::upgrade).collect();
        streams.iter().flat_map(|stream| stream.ripening()).collect()
    }
}
