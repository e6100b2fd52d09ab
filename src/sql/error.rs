//! From DataFusion's errors to what the caller can do, and back through DataFusion's plans.

use datafusion::common::DataFusionError;

use crate::{Error, ErrorKind};

/// What datafusion-distributed says of a join that begins its input anew, because its other one did not fit.
const BEGUN_ANEW: &str = "WorkerConnections stream for partition";

/// What DataFusion says, as an internal error, of functions that are called with what they do not take.
const BAD_CALL: &str = "Function '";
/// What DataFusion's internal errors end with.
const REPORT: &str = "This issue was likely caused by a bug in DataFusion's code";
/// How DataFusion's sentences begin.
const PREFIXES: [&str; 8] = [
    "Error during planning",
    "External error",
    "Execution error",
    "Internal error",
    "Schema error",
    "This feature is not implemented",
    "Invalid or Unsupported Configuration",
    "Arrow error",
];

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        classify(&error).unwrap_or_else(|| Error::internal(error.strip_backtrace()).with_source(error))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

fn classify(error: &DataFusionError) -> Option<Error> {
    let simple = |kind| Some(Error::new(kind, message_of(error)));
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Internal(text) if text.contains(BAD_CALL) => Some(Error::invalid(bare(text))),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => all.first().and_then(classify),
        DataFusionError::External(inner) => from_external(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => Some(from_arrow(inner)),
        DataFusionError::ParquetError(inner) => Some(from_parquet(inner, error)),
        DataFusionError::ObjectStore(_) => simple(ErrorKind::Storage).map(|e| refine_store(error, e)),
        DataFusionError::IoError(io) => Some(Error::new(io_kind(io), io.to_string())),
        DataFusionError::ResourcesExhausted(text) => Some(exhausted(text)),
        DataFusionError::SQL(parser, _) => {
            let text = parser.to_string();
            let bare = text.strip_prefix("sql parser error: ").unwrap_or(&text);
            Some(Error::invalid(format!("the SQL was not understood: {bare}")))
        }
        DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_) => simple(ErrorKind::InvalidInput),
        DataFusionError::NotImplemented(_) => simple(ErrorKind::Unsupported),
        DataFusionError::Internal(text) if text.contains("Regular expression did not compile") => {
            Some(Error::invalid("the regular expression does not compile, or is too large: write a simpler one"))
        }
        DataFusionError::Internal(text) if text.contains(BEGUN_ANEW) => Some(Error::new(
            ErrorKind::MemoryExceeded,
            "a join did not fit into memory, and its input cannot be read again on several bees",
        )),
        _ => None,
    }
}

fn from_external(inner: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<Error> {
    if let Some(ours) = inner.downcast_ref::<Error>() {
        return Some(ours.clone());
    }
    inner.downcast_ref::<DataFusionError>().and_then(classify)
}

fn from_arrow(error: &arrow::error::ArrowError) -> Error {
    use arrow::error::ArrowError;
    match error {
        ArrowError::ExternalError(inner) => {
            from_external(inner.as_ref()).unwrap_or_else(|| Error::new(ErrorKind::InvalidInput, inner.to_string()))
        }
        ArrowError::MemoryError(text) => exhausted(text),
        other => Error::new(ErrorKind::InvalidInput, other.to_string()),
    }
}

fn from_parquet(error: &parquet::errors::ParquetError, whole: &DataFusionError) -> Error {
    if let parquet::errors::ParquetError::External(inner) = error {
        if let Some(ours) = from_external(inner.as_ref()) {
            return ours;
        }
        if inner.downcast_ref::<object_store::Error>().is_some() {
            return Error::new(ErrorKind::Storage, inner.to_string());
        }
    }
    Error::new(ErrorKind::Corrupt, message_of(whole))
}

fn refine_store(error: &DataFusionError, fallback: Error) -> Error {
    let DataFusionError::ObjectStore(inner) = error else { return fallback };
    let kind = match inner.as_ref() {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Storage,
    };
    Error::new(kind, fallback.message())
}

fn io_kind(io: &std::io::Error) -> ErrorKind {
    match io.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Storage,
    }
}

fn exhausted(text: &str) -> Error {
    // The list of consumers is for developers; the line that says what was wanted and what was left is for everybody.
    let wanted = text.lines().find(|line| line.contains("Failed to allocate")).or(text.lines().next());
    let wanted = wanted.unwrap_or_default().trim().trim_start_matches("Error: ").trim_end_matches('.');
    Error::new(
        ErrorKind::MemoryExceeded,
        format!("{wanted}; give the colony more memory, use fewer bees, or ask for less at a time"),
    )
}

/// DataFusion's sentence without its prefixes and backtrace.
fn message_of(error: &DataFusionError) -> String {
    bare(&error.strip_backtrace())
}

/// A sentence without what DataFusion puts before and behind it: which of its errors it is, and where to report it.
fn bare(text: &str) -> String {
    let mut text = text.split(REPORT).next().unwrap_or(text).trim();
    while let Some((prefix, rest)) = text.split_once(": ")
        && PREFIXES.iter().any(|known| prefix.ends_with(known))
    {
        text = rest.trim();
    }
    text.to_string()
}
