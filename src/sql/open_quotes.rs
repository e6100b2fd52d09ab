//! CSV files in which a quote is never closed: the reader takes all that is behind it for one value, without a word.
//!
//! What is read of such a file is looked at on its way to the reader, and its end is an error when it lies within quotes.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::physical_plan::{CsvSource, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use super::distribution::file_scan;
use crate::Error;

/// Bytes that are read of a file at a time.
const PIECE: usize = 1 << 20;

/// The rule; see the module.
pub(super) fn open_quotes(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    Ok(watched(&node).map_or_else(|| Transformed::no(node), Transformed::yes))
}

/// `plan` with a look at the quotes, if it scans CSV files whole, and there are no other ways to write a quote in them.
pub(super) fn watched(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = file_scan(plan).filter(|scan| !scan.file_compression_type.is_compressed())?;
    let csv = scan.file_source.downcast_ref::<CsvSource>()?;
    let plain = csv.escape().is_none() && csv.comment().is_none() && csv.terminator().is_none();
    if !plain || !csv.newlines_in_values() {
        return None;
    }
    let quotes = Quotes::new(csv.delimiter(), csv.quote());
    let source = WatchedCsv { csv: Arc::clone(&scan.file_source), quotes };
    let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(scan))
}

/// A source of CSV whose files are read through a [`WatchedStore`]. It travels as what it stands for.
struct WatchedCsv {
    csv: Arc<dyn FileSource>,
    quotes: Quotes,
}

impl WatchedCsv {
    fn over(&self, csv: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { csv, quotes: self.quotes })
    }
}

impl FileSource for WatchedCsv {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let store = Arc::new(WatchedStore { store, quotes: self.quotes });
        self.csv.create_file_opener(store, scan, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.csv.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        self.over(self.csv.with_batch_size(rows))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.csv.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.csv.metrics()
    }

    fn file_type(&self) -> &str {
        self.csv.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.csv.fmt_extra(format, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.csv.supports_repartitioning()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.csv.try_pushdown_projection(projection)?.map(|csv| self.over(csv)))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.csv.apply_expressions(visit)
    }

    fn try_to_proto(
        &self,
        scan: &FileScanConfig,
        context: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<PhysicalPlanNode>> {
        self.csv.try_to_proto(scan, context)
    }
}

/// A store that looks at the quotes of what is read whole.
#[derive(Debug)]
struct WatchedStore {
    store: Arc<dyn ObjectStore>,
    quotes: Quotes,
}

impl fmt::Display for WatchedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let is_part = options.range.is_some();
        let mut found = self.store.get_opts(location, options).await?;
        if !is_part {
            let bytes = match found.payload {
                GetResultPayload::File(file, _) => stream::iter(pieces(file)).boxed(),
                GetResultPayload::Stream(bytes) => bytes,
            };
            found.payload = GetResultPayload::Stream(closed(bytes, location.clone(), self.quotes));
        }
        Ok(found)
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.store.copy_opts(from, to, options).await
    }
}

fn pieces(mut file: File) -> impl Iterator<Item = StoreResult<Bytes>> {
    std::iter::from_fn(move || {
        let mut piece = Vec::with_capacity(PIECE);
        match (&mut file).take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece.into())),
            Err(error) => Some(Err(failed(error))),
        }
    })
}

/// `bytes`, with an error behind them where they end within quotes.
fn closed(
    bytes: BoxStream<'static, StoreResult<Bytes>>,
    location: Path,
    quotes: Quotes,
) -> BoxStream<'static, StoreResult<Bytes>> {
    let end = bytes.map(Some).chain(stream::iter([None]));
    let watched = end.scan(quotes, move |quotes, piece| {
        let passed = match piece {
            Some(piece) => {
                piece.iter().flatten().for_each(|byte| quotes.pass(*byte));
                Some(piece)
            }
            None => quotes.open_since().map(|line| {
                Err(failed(Error::invalid(format!(
                    "line {line} of /{location} has a quote that is never closed: close it, or double it where it is text"
                ))))
            }),
        };
        future::ready(passed)
    });
    watched.boxed()
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "CSV", source: Box::new(source) }
}

/// Where in a file the reader is. Quotes open where a value begins; two of them within quotes are one that is text.
#[derive(Debug, Clone, Copy)]
struct Quotes {
    delimiter: u8,
    quote: u8,
    at: At,
    /// The line, and that in which a quote opened last.
    line: u64,
    opened: u64,
    /// What of the mark of UTF-8 is still to come, if the file begins with it.
    mark: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Beginning,
    Value,
    Quoted,
    /// Behind a quote that closes the value, unless another one follows.
    Closed,
}

impl Quotes {
    fn new(delimiter: u8, quote: u8) -> Self {
        Self { delimiter, quote, at: At::Beginning, line: 1, opened: 1, mark: b"\xef\xbb\xbf" }
    }

    fn pass(&mut self, byte: u8) {
        let mark = self.mark.split_first().filter(|(first, _)| **first == byte).map_or(&[][..], |(_, rest)| rest);
        self.at = match self.at {
            At::Quoted if byte == self.quote => At::Closed,
            At::Quoted => At::Quoted,
            At::Closed if byte == self.quote => At::Quoted,
            At::Beginning if byte == self.quote => {
                self.opened = self.line;
                At::Quoted
            }
            // The mark of UTF-8 stands before the first value.
            At::Beginning if self.mark.first() == Some(&byte) => At::Beginning,
            _ if byte == self.delimiter || matches!(byte, b'\n' | b'\r') => At::Beginning,
            _ => At::Value,
        };
        self.mark = mark;
        self.line += u64::from(byte == b'\n');
    }

    /// The line of a quote that is open.
    fn open_since(&self) -> Option<u64> {
        (self.at == At::Quoted).then_some(self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_open_or_closed() {
        let open = |text: &[u8]| {
            let mut quotes = Quotes::new(b',', b'"');
            text.iter().for_each(|byte| quotes.pass(*byte));
            quotes.open_since()
        };
        for closed in [
            &b"a,b\n1,\"x\ny \"\"z\"\"\n\"\n2,w"[..],
            b"\xef\xbb\xbf\"a\n\",b\n5\" pipe,1\n2,\"\"\n",
            b"a\n\"b\"",
            // The same bytes within the file are a character's.
            b"a\n\xef\xbb\xbb\"b\n",
            b"a\r\"b\"x\"\n",
            b"",
        ] {
            assert_eq!(open(closed), None, "{}", closed.escape_ascii());
        }
        assert_eq!(open(b"a\n\"never closed\n1\n"), Some(2));
        assert_eq!(open(b"a,b\n1,\"x\"\n2,\"x\"\"\n3,y\n"), Some(3));
    }
}
