//! From DataFusion's errors to what the caller can do, and back through DataFusion's plans.

use datafusion::common::DataFusionError;

use crate::storage::store_error;
use crate::{Error, ErrorKind};

/// What datafusion-distributed says of a join that begins its input anew, because its other one did not fit.
const BEGUN_ANEW: &str = "WorkerConnections stream for partition";

/// What the folders are called that queries spill into.
const SCRATCH: &str = "apiary-scratch-";
/// What DataFusion says, as an internal error, of functions that are called with what they do not take.
const BAD_CALL: &str = "Function '";
/// What it says of functions that there are not.
const NO_FUNCTION: &str = "Invalid function '";
/// What it says before the place where a regular expression cannot be understood.
const BAD_PATTERN: &str = "regex parse error:";
/// What DataFusion's internal errors end with.
const REPORT: &str = "This issue was likely caused by a bug in DataFusion's code";
/// How DataFusion's sentences begin.
const PREFIXES: [&str; 9] = [
    "Error during planning",
    "External error",
    "Execution error",
    "Internal error",
    "Schema error",
    "This feature is not implemented",
    "Invalid or Unsupported Configuration",
    "Arrow error",
    "Parquet error",
];

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        classify(&error)
            .or_else(|| bad_pattern(&error))
            .unwrap_or_else(|| Error::internal(error.strip_backtrace()).with_source(error))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

fn classify(error: &DataFusionError) -> Option<Error> {
    let simple = |kind| {
        let text = message_of(error);
        Some(reworded(&text).unwrap_or_else(|| Error::new(kind, text)))
    };
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Internal(text) if text.contains(BAD_CALL) => Some(Error::invalid(bare(text))),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => all.first().and_then(classify),
        DataFusionError::External(inner) => from_external(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => Some(from_arrow(inner)),
        DataFusionError::ParquetError(inner) => Some(from_parquet(inner, error)),
        DataFusionError::ObjectStore(inner) => Some(store_error(inner)),
        DataFusionError::IoError(io) if io.to_string().contains(SCRATCH) => {
            Some(Error::storage(format!("the scratch folder cannot be used ({io}): make it anew, and start again")))
        }
        DataFusionError::IoError(io) => Some(Error::new(io_kind(io), io.to_string())),
        DataFusionError::ResourcesExhausted(text) => Some(exhausted(text)),
        DataFusionError::SQL(parser, _) => {
            let text = parser.to_string();
            let bare = text.strip_prefix("sql parser error: ").unwrap_or(&text);
            Some(Error::invalid(format!("the SQL was not understood: {bare}")))
        }
        DataFusionError::Plan(text) if text.contains(NO_FUNCTION) => Some(no_function(text)),
        DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_) => simple(ErrorKind::InvalidInput),
        DataFusionError::NotImplemented(text) => {
            let text = bare(text);
            Some(reworded(&text).unwrap_or_else(|| Error::unsupported(without_tree(&text))))
        }
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

/// A sentence of what DataFusion named.
type Said = fn(&str) -> String;

/// What DataFusion says between two texts, the first of them at the beginning, and what is said here of that.
const REWORDED: [(&str, &str, Said); 9] = [
    ("Placeholder '", "' was not provided a value for execution", no_value),
    ("No value found for placeholder with id ", "", no_value),
    ("No value found for placeholder with name ", "", no_value),
    ("Error decoding expr as protobuf: failed to decode Protobuf message", "recursion limit reached", |_| {
        "the query's plan has too many steps one within the other: write a part of it into a frame (CREATE FRAME … AS \
         SELECT …) and go on from there"
            .into()
    }),
    ("could not find config namespace for key \"", "\"", |key| {
        format!("there is no setting {key}: SHOW ALL lists those that there are")
    }),
    ("Config value \"", "\" not found on CsvOptions", |key| {
        format!("a CSV file has no option {key}: there are delimiter, escape, header, null, quote and compression")
    }),
    ("Source table contains ", " names given as column alias", |counts| {
        let counts = counts.replace(" columns but only ", " columns, and there are names for ");
        format!("it has {counts} of them: leave columns out, or name them all")
    }),
    ("Unsupported SQL type (precision/scale not supported) ", "", |name| {
        format!("{name} is no type: use DECIMAL(p, s), or it without digits")
    }),
    ("Unsupported SQL type ", "", |name| {
        format!("there is no type {name}: use INT, BIGINT, DOUBLE, DECIMAL(p, s), TEXT, BOOLEAN, DATE, TIMESTAMP, …")
    }),
];

fn no_value(placeholder: &str) -> String {
    format!("{placeholder} has no value: give it one in params")
}

fn reworded(text: &str) -> Option<Error> {
    let said = |(begin, end, said): &(&str, &str, Said)| {
        let rest = text.strip_prefix(begin)?;
        let what = if end.is_empty() { rest } else { rest.split_once(end)?.0 };
        Some(said(what))
    };
    REWORDED.iter().find_map(said).map(Error::invalid)
}

fn bad_pattern(error: &DataFusionError) -> Option<Error> {
    let text = error.to_string();
    let (_, why) = text.split_once(BAD_PATTERN)?;
    Some(Error::invalid(format!("the regular expression cannot be understood:\n{}", why.trim_end())))
}

/// What is used here in place of functions of other engines.
const INSTEAD: [(&str, &str); 25] = [
    ("year", "date_part('year', t), and so on"),
    ("month", "date_part('month', t)"),
    ("day", "date_part('day', t)"),
    ("hour", "date_part('hour', t)"),
    ("minute", "date_part('minute', t)"),
    ("second", "date_part('second', t)"),
    ("epoch", "date_part('epoch', t)"),
    ("dayofweek", "date_part('dow', t)"),
    ("age", "the difference a - b"),
    ("date_diff", "the difference a - b"),
    ("datediff", "the difference a - b"),
    ("date_add", "t + INTERVAL '1 day'"),
    ("dateadd", "t + INTERVAL '1 day'"),
    ("time_bucket", "date_bin(INTERVAL '15 minutes', t)"),
    ("strftime", "to_char(t, '%Y-%m')"),
    ("strptime", "to_timestamp(text, '%Y-%m-%d')"),
    ("mod", "a % b"),
    ("sign", "signum(x)"),
    ("if", "CASE WHEN … THEN … ELSE … END"),
    ("iif", "CASE WHEN … THEN … ELSE … END"),
    ("isnull", "x IS NULL"),
    ("max_by", "last_value(a ORDER BY b)"),
    ("min_by", "first_value(a ORDER BY b)"),
    ("group_concat", "string_agg(text, ',')"),
    ("regexp_extract", "regexp_match(text, pattern)[1]"),
];

/// Functions that are only known with a window.
const WINDOWED: [&str; 9] =
    ["rank", "dense_rank", "percent_rank", "cume_dist", "row_number", "ntile", "lag", "lead", "nth_value"];

/// A function that is not there. What DataFusion proposes is the one of the most similar letters, often by chance.
fn no_function(text: &str) -> Error {
    let mut quoted = text.split('\'').skip(1).step_by(2);
    let (name, similar) = (quoted.next().unwrap_or_default(), quoted.next().unwrap_or_default());
    if WINDOWED.contains(&name) {
        return Error::invalid(format!("{name} looks at other rows: write {name}(…) OVER (…)"));
    }
    let typo = name.chars().next() == similar.chars().next() && name.len().abs_diff(similar.len()) <= 1;
    let instead = INSTEAD.iter().find(|(known, _)| *known == name).map(|(_, instead)| format!("use {instead}"));
    let typo = typo.then(|| format!("did you mean {similar}?"));
    let advice = instead.or(typo).unwrap_or_else(|| "SHOW FUNCTIONS lists those that there are".into());
    Error::invalid(format!("there is no function {name}: {advice}"))
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
        ArrowError::IoError(text, _) if text.contains(SPILLED_TOO_MUCH) || text.contains(WORN_OUT) => exhausted(text),
        ArrowError::ParquetError(text) => Error::corrupt(format!(
            "a Parquet file is damaged ({}): VERIFY names the cell, if a frame has it",
            bare(text)
        )),
        ArrowError::CsvError(text) | ArrowError::JsonError(text) | ArrowError::ParseError(text) => Error::invalid(text),
        other => Error::new(ErrorKind::InvalidInput, other.to_string()),
    }
}

fn from_parquet(error: &parquet::errors::ParquetError, whole: &DataFusionError) -> Error {
    if let parquet::errors::ParquetError::External(inner) = error {
        if let Some(ours) = from_external(inner.as_ref()) {
            return ours;
        }
        if let Some(store) = inner.downcast_ref::<object_store::Error>() {
            return store_error(store);
        }
    }
    Error::new(ErrorKind::Corrupt, message_of(whole))
}

fn io_kind(io: &std::io::Error) -> ErrorKind {
    match io.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Storage,
    }
}

/// What an operator is told that may not spill at all.
const NO_SPILLS: &str = "DiskManager is disabled";
/// What one is told that may not spill any more today.
pub(crate) const WORN_OUT: &str = "disk_writes_per_day is used up";
/// What an operator is told that may not spill more.
const SPILLED_TOO_MUCH: &str = "disk space during the spilling process has exceeded";

fn exhausted(text: &str) -> Error {
    if text.contains(SPILLED_TOO_MUCH) {
        let advice =
            "what it spills is more than scratch_limit allows each bee: set it higher, or ask for less at a time";
        return Error::new(ErrorKind::MemoryExceeded, advice);
    }
    if text.contains(NO_SPILLS) || text.contains(WORN_OUT) {
        let advice = "a query needs more memory than its bee has, and may not spill (spill is none, or disk_writes_per_day is used \
                      up): give the colony more memory, use fewer bees, or ask for less at a time";
        return Error::new(ErrorKind::MemoryExceeded, advice);
    }
    // The list of consumers is for developers; the line that says what was wanted and what was left is for everybody.
    let wanted = text.lines().find(|line| line.contains("Failed to allocate")).or(text.lines().next());
    let wanted = wanted.unwrap_or_default().trim().trim_start_matches("Error: ").trim_end_matches('.');
    Error::new(
        ErrorKind::MemoryExceeded,
        format!("{wanted}; give the colony more memory, use fewer bees, or ask for less at a time"),
    )
}

/// A sentence that ends where it goes on with the parser's own view of the statement.
fn without_tree(text: &str) -> String {
    match text.find("Span(") {
        Some(_) => {
            let end = text.find(['{', '(']).unwrap_or(text.len());
            format!("{}: write it in another way", text[..end].trim())
        }
        None => text.to_string(),
    }
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
