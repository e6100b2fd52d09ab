//! Files whose bytes are looked at on their way to the engine's readers, where those take them for something else:
//! quotes of CSV that are never closed, and escapes of JSON.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, JsonSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use super::distribution::file_scan;
use super::json_escapes::mended;
use super::open_quotes::{Quotes, closed};

/// Bytes that are read of a file at a time.
const PIECE: usize = 1 << 20;

/// The rule; see the module.
pub(super) fn watched_files(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    Ok(watched(&node).map_or_else(|| Transformed::no(node), Transformed::yes))
}

/// `plan` with a look at the bytes, if it scans files of which some would be taken for something else.
pub(super) fn watched(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = file_scan(plan).filter(|scan| !scan.file_compression_type.is_compressed())?;
    let watch = match scan.file_source.downcast_ref::<CsvSource>() {
        Some(csv) => Watch::Quotes(quotes_of(csv)?),
        None => scan.file_source.downcast_ref::<JsonSource>().map(|_| Watch::Escapes)?,
    };
    let source = WatchedSource { source: Arc::clone(&scan.file_source), watch };
    let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(scan))
}

/// Of files that are read whole, and in which there are no other ways to write a quote.
fn quotes_of(csv: &CsvSource) -> Option<Quotes> {
    let plain = csv.escape().is_none() && csv.comment().is_none() && csv.terminator().is_none();
    (plain && csv.newlines_in_values()).then(|| Quotes::new(csv.delimiter(), csv.quote()))
}

/// What is done with the bytes of a file.
#[derive(Debug, Clone, Copy)]
enum Watch {
    Quotes(Quotes),
    Escapes,
}

/// A source whose files are read through a [`WatchedStore`]. It travels as what it stands for.
struct WatchedSource {
    source: Arc<dyn FileSource>,
    watch: Watch,
}

impl WatchedSource {
    fn over(&self, source: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { source, watch: self.watch })
    }
}

impl FileSource for WatchedSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let store = Arc::new(WatchedStore { store, watch: self.watch });
        self.source.create_file_opener(store, scan, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.source.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        self.over(self.source.with_batch_size(rows))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.source.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.source.metrics()
    }

    fn file_type(&self) -> &str {
        self.source.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt_extra(format, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.source.supports_repartitioning()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.source.try_pushdown_projection(projection)?.map(|source| self.over(source)))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.source.apply_expressions(visit)
    }

    fn try_to_proto(
        &self,
        scan: &FileScanConfig,
        context: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<PhysicalPlanNode>> {
        self.source.try_to_proto(scan, context)
    }
}

/// A store that looks at what is read of files.
#[derive(Debug)]
struct WatchedStore {
    store: Arc<dyn ObjectStore>,
    watch: Watch,
}

impl fmt::Display for WatchedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        match self.watch {
            Watch::Quotes(_) if options.range.is_some() => self.store.get_opts(location, options).await,
            Watch::Quotes(quotes) => {
                let found = self.store.get_opts(location, options).await?;
                Ok(through(found, |bytes| closed(bytes, location.clone(), quotes)))
            }
            Watch::Escapes => {
                let found = self.store.get_opts(location, to_the_end(options)).await?;
                Ok(through(found, mended))
            }
        }
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

/// All from where a part begins: lines are mended as a whole, and the reader takes no more than it needs.
fn to_the_end(options: GetOptions) -> GetOptions {
    let range = options.range.map(|range| match range {
        GetRange::Bounded(part) => GetRange::Offset(part.start),
        other => other,
    });
    GetOptions { range, ..options }
}

type Pieces = BoxStream<'static, StoreResult<Bytes>>;

fn through(mut found: GetResult, watch: impl FnOnce(Pieces) -> Pieces) -> GetResult {
    let bytes = match found.payload {
        GetResultPayload::File(file, _) => stream::iter(pieces(file, found.range.start)).boxed(),
        GetResultPayload::Stream(bytes) => bytes,
    };
    found.payload = GetResultPayload::Stream(watch(bytes));
    found
}

fn pieces(mut file: File, start: u64) -> impl Iterator<Item = StoreResult<Bytes>> {
    let mut unmoved = Some(SeekFrom::Start(start));
    std::iter::from_fn(move || match next_piece(&mut file, unmoved.take()) {
        Ok(piece) if piece.is_empty() => None,
        Ok(piece) => Some(Ok(piece.into())),
        Err(error) => Some(Err(failed(error))),
    })
}

fn next_piece(file: &mut File, from: Option<SeekFrom>) -> std::io::Result<Vec<u8>> {
    if let Some(from) = from {
        file.seek(from)?;
    }
    let mut piece = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

/// What goes wrong on the way.
pub(super) fn failed(source: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "file", source: Box::new(source) }
}
