//! One result as Python objects share it: rows that a preview has pulled are kept for the real reader, and a result that
//! failed or was cancelled keeps saying so, so that a part of it never looks like the whole.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;

use super::link::Link;
use crate::actors::Canceller;
use crate::{Error, QueryStats, QueryStream, Result};

/// A result in one of three states: streaming (each batch is given out once), kept (all of it in memory, given out as
/// often as wanted), or ended.
pub(super) struct Feed {
    link: Arc<Link>,
    schema: SchemaRef,
    source: tokio::sync::Mutex<Source>,
    kept: OnceLock<Vec<RecordBatch>>,
    stats: OnceLock<QueryStats>,
    begun: AtomicBool,
    cancelled: AtomicBool,
    failed: AtomicBool,
    /// `None` only while it is dropped.
    canceller: Option<Canceller>,
}

struct Source {
    /// `None` once it has ended.
    stream: Option<QueryStream>,
    /// Pulled and not yet given out.
    head: VecDeque<RecordBatch>,
    failure: Option<Error>,
}

impl Feed {
    /// Shares `stream`.
    pub(super) fn new(link: Arc<Link>, stream: QueryStream) -> Arc<Self> {
        Arc::new(Self {
            link,
            schema: stream.schema(),
            canceller: Some(stream.canceller()),
            source: tokio::sync::Mutex::new(Source { stream: Some(stream), head: VecDeque::new(), failure: None }),
            kept: OnceLock::new(),
            stats: OnceLock::new(),
            begun: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    /// The colony that runs the query.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Columns of the result.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// All batches, once [`Feed::keep`] has succeeded.
    pub(super) fn kept(&self) -> Option<&Vec<RecordBatch>> {
        self.kept.get()
    }

    /// Whether rows have been given out for good.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Facts of the run, once it has ended.
    pub(super) fn final_stats(&self) -> Option<&QueryStats> {
        self.stats.get()
    }

    /// Whether the last row has been pulled; a result that failed has no last row.
    pub(super) fn is_complete(&self) -> bool {
        self.stats.get().is_some() && !self.failed.load(Ordering::Acquire)
    }

    /// Gives the whole stream to one reader.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when some of it is gone.
    pub(super) fn claim(&self) -> Result<()> {
        if self.begun.swap(true, Ordering::AcqRel) { Err(already_read()) } else { Ok(()) }
    }

    /// The next batch, given out for good; `None` at the end.
    pub(super) async fn next(self: Arc<Self>) -> Result<Option<RecordBatch>> {
        let mut source = self.source.lock().await;
        self.begun.store(true, Ordering::Release);
        match source.head.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None => self.pull(&mut source).await,
        }
    }

    /// The first batches, of at least `rows` rows where there are so many; they stay to be read.
    pub(super) async fn peek(self: Arc<Self>, rows: usize) -> Result<Vec<RecordBatch>> {
        let mut source = self.source.lock().await;
        while source.rows_ahead() < rows {
            match self.pull(&mut source).await? {
                Some(batch) => source.head.push_back(batch),
                None => break,
            }
        }
        Ok(source.head.iter().cloned().collect())
    }

    /// Reads the result to its end and keeps all of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidInput`] when some of it is gone; else those of the query.
    pub(super) async fn keep(self: Arc<Self>) -> Result<()> {
        let mut source = self.source.lock().await;
        if self.kept.get().is_some() {
            return Ok(());
        }
        if self.has_begun() {
            return Err(already_read());
        }
        while let Some(batch) = self.pull(&mut source).await? {
            source.head.push_back(batch);
        }
        self.kept.get_or_init(|| std::mem::take(&mut source.head).into());
        Ok(())
    }

    /// Facts of the run so far.
    pub(super) async fn current_stats(self: Arc<Self>) -> Result<QueryStats> {
        let source = self.source.lock().await;
        let running = source.stream.as_ref().map(QueryStream::stats);
        Ok(running.or_else(|| self.stats.get().cloned()).unwrap_or_default())
    }

    /// Stops the query; what has not been read yet cannot be read any more.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(canceller) = &self.canceller {
            canceller.cancel();
        }
    }

    async fn pull(&self, source: &mut Source) -> Result<Option<RecordBatch>> {
        if let Some(failure) = &source.failure {
            return Err(failure.clone());
        }
        let Some(stream) = source.stream.as_mut() else { return Ok(None) };
        let item = stream.next().await.transpose();
        // Whatever a cancelled stream says, an end that it did not reach must not look like one.
        let item = if self.cancelled.load(Ordering::Acquire) { Err(cancelled()) } else { item };
        if !matches!(item, Ok(Some(_))) {
            self.end(source, item.as_ref().err());
        }
        item
    }

    fn end(&self, source: &mut Source, failure: Option<&Error>) {
        source.failure = failure.cloned();
        self.failed.store(failure.is_some(), Ordering::Release);
        if let Some(stream) = source.stream.take() {
            self.stats.get_or_init(|| stream.stats());
        }
    }
}

impl Source {
    fn rows_ahead(&self) -> usize {
        self.head.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.link.is_forked() {
            // Cancelling talks to threads that this process does not have.
            std::mem::forget((self.source.get_mut().stream.take(), self.canceller.take()));
        }
    }
}

fn already_read() -> Error {
    Error::invalid(
        "rows of this result have already been read: run the query again, or call to_arrow() before streaming it",
    )
}

fn cancelled() -> Error {
    Error::cancelled("the query was cancelled before its last row")
}
