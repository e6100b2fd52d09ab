//! From what object_store, delta_kernel, arrow and parquet say to what the caller can do.

use delta_kernel::KernelError;
use object_store::Error as StoreError;

use super::names::FrameRef;
use crate::{Error, ErrorKind};

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let (kind, message) = of_store(&error);
        Self::new(kind, message).with_source(error)
    }
}

/// As the conversion, of an error that somebody else holds.
pub(crate) fn store_error(error: &StoreError) -> Error {
    let (kind, message) = of_store(error);
    Error::new(kind, message)
}

/// What a store's error means, and what is said of it.
fn of_store(error: &StoreError) -> (ErrorKind, String) {
    if let Some(ours) = causes(error).find_map(|cause| cause.downcast_ref::<Error>()) {
        return (ours.kind(), ours.message().to_string());
    }
    let text = error.to_string();
    if let Some(said) = clock_refusal(&text) {
        return (ErrorKind::PermissionDenied, said);
    }
    if let Some(said) = no_answer(&text) {
        return (ErrorKind::Storage, said);
    }
    if text.contains("<Code>NoSuchBucket</Code>") {
        return (ErrorKind::NotFound, "there is no such bucket: make it, or check its name and the endpoint".into());
    }
    let kind = match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        StoreError::Precondition { .. } => ErrorKind::Conflict,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => ErrorKind::Unsupported,
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
        _ => io_error(error).map_or(ErrorKind::Storage, |io| of_io(io).0),
    };
    (kind, format!("{}{}", io_error(error).map_or("", advice), root_message(error)))
}

/// What an error of the system means, and what is said of it.
fn of_io(error: &std::io::Error) -> (ErrorKind, String) {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        std::io::ErrorKind::InvalidFilename => ErrorKind::InvalidInput,
        _ => ErrorKind::Storage,
    };
    (kind, format!("{}{error}", advice(error)))
}

fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => {
            "the disk is full: free space or point --storage elsewhere; nothing was committed: "
        }
        Kind::FileTooLarge => {
            "a file would be longer than the system lets this process write (ulimit -f); nothing was committed: "
        }
        Kind::ReadOnlyFilesystem => {
            "the storage is mounted for reading only: mount it for writing, or point --storage elsewhere; nothing was \
             committed: "
        }
        Kind::InvalidFilename => {
            "a name is longer than the 255 bytes that files and folders take (partitions are folders): "
        }
        _ => "",
    }
}

/// What the kernel says of features that it leaves to who calls it, and which they are.
const FEATURES: [(&str, &str); 4] = [
    (
        "loading a catalog-managed table",
        "catalogManaged: a catalog decides what its versions are, and none is known here",
    ),
    ("ack_row_tracking_preservation", "rowTracking: rows that are changed or moved would lose their numbers"),
    ("ack_column_defaults", "allowColumnDefaults: columns that are left out would not get their defaults"),
    (
        "Cannot add and remove data in the same transaction",
        "changeDataFeed (delta.enableChangeDataFeed): changed rows would not be in it",
    ),
];

/// What the kernel says of an entry without the moment that all entries of its table have.
const NO_MOMENT: &str = "In-Commit Timestamp not found";

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        if let KernelError::ObjectStore(_) = &error {
            let KernelError::ObjectStore(inner) = error else { unreachable!("matched above") };
            return inner.into();
        }
        if let KernelError::Backtraced { source, .. } = error {
            return (*source).into();
        }
        if let KernelError::GenericError { source } = &error
            && let Some(ours) = source.downcast_ref::<Self>()
        {
            return ours.clone();
        }
        let kind = match &error {
            KernelError::FileNotFound(_) => ErrorKind::NotFound,
            KernelError::FileAlreadyExists(_) | KernelError::TableAlreadyExistsAtPath(_) => ErrorKind::AlreadyExists,
            KernelError::Unsupported(_) => ErrorKind::Unsupported,
            KernelError::MalformedJson(_) | KernelError::Parquet(_) | KernelError::Arrow(_) => ErrorKind::Corrupt,
            KernelError::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Storage,
        };
        let text = match &error {
            KernelError::Unsupported(text) => text.clone(),
            other => other.to_string(),
        };
        if text.contains(NO_MOMENT) {
            return Self::corrupt(
                "an entry of its ledger has no inCommitTimestamp, and all must have one (delta.enableInCommitTimestamps): put \
                 the entry back from a copy",
            )
            .with_source(error);
        }
        match FEATURES.iter().find(|(said, _)| text.contains(said)) {
            Some((_, feature)) => Self::unsupported(format!("the table has the feature {feature}")).with_source(error),
            None => Self::new(kind, text).with_source(error),
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::new(ErrorKind::Schema, error.to_string()).with_source(error)
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        let found = causes(&error).find_map(|cause| {
            let of_place = || cause.downcast_ref().map(of_store).or_else(|| system_error(cause).map(of_io));
            cause.downcast_ref::<Self>().cloned().map(Ok).or_else(|| of_place().map(Err))
        });
        let (kind, message) = match found {
            Some(Ok(ours)) => return ours,
            Some(Err(of_place)) => of_place,
            None => (ErrorKind::Corrupt, error.to_string()),
        };
        Self::new(kind, message).with_source(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let (kind, message) = of_io(&error);
        Self::new(kind, message).with_source(error)
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        if error.is_cancelled() {
            return Self::closed("the colony stopped while this was running");
        }
        Self::internal(format!("a task panicked: {error}"))
    }
}

/// The sentence for a request that was refused because this machine's clock is wrong: S3 and its like take signatures of
/// the last 15 minutes only, and say in the answer what time it is for them.
fn clock_refusal(text: &str) -> Option<String> {
    if !text.contains("RequestTimeTooSkewed") {
        return None;
    }
    let between = |start: &str, end: &str| text.split_once(start)?.1.split_once(end).map(|(found, _)| found);
    let stores =
        between("<ServerTime>", "</ServerTime>").map_or_else(String::new, |time| format!(", the store has {time}"));
    let ours = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ");
    Some(format!(
        "the store refuses requests because this machine's clock is wrong (it shows {ours}{stores}): set it, for example \
         with `timedatectl set-ntp true`, and try again"
    ))
}

/// The sentence for a request that nobody took.
fn no_answer(text: &str) -> Option<String> {
    let (request, why) = text.split_once("Error performing ")?.1.split_once(" in ")?;
    why.ends_with("HTTP error: error sending request").then_some(())?;
    let address = url::Url::parse(request.split_once(' ')?.1).ok()?.origin().ascii_serialization();
    let retries = why.split_once("after ").and_then(|(_, rest)| rest.split_once(" retries")?.0.parse().ok());
    let tries = 1 + retries.unwrap_or(0u32);
    Some(format!("nothing answers at {address} ({tries} tries): check the endpoint and the network"))
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// An error, what caused it, what caused that, and so on: one that is wrapped as an error of the system, too.
fn causes<'a>(error: Cause<'a>) -> impl Iterator<Item = Cause<'a>> {
    std::iter::successors(Some(error), |error| {
        let wrapped = error.downcast_ref().and_then(std::io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as Cause<'a>).or_else(|| error.source())
    })
}

/// An error of the system that wraps no other.
fn system_error(error: Cause<'_>) -> Option<&std::io::Error> {
    error.downcast_ref().filter(|io: &&std::io::Error| io.get_ref().is_none_or(|wrapped| !wrapped.is::<StoreError>()))
}

fn io_error(error: &StoreError) -> Option<&std::io::Error> {
    causes(error).find_map(system_error)
}

/// Whether the place, or the system, caused an error.
fn is_of_the_place(error: &Error) -> bool {
    causes(error).any(|cause| cause.is::<StoreError>() || cause.is::<std::io::Error>())
}

/// What the kernel says when `_last_checkpoint` names a checkpoint that is not there.
pub(super) const LOST_HINT: &str = "_last_checkpoint hint";

/// How what is said of features ends that are not known.
const UNKNOWN: &str = "is not supported";
const UPGRADE: &str = "; use a newer version of Apiary, or the engine that asked for it";

/// The error of a table that cannot be written.
pub(super) fn unwritable(frame: &FrameRef, error: Error) -> Error {
    let advice = if error.message().ends_with(UNKNOWN) { UPGRADE } else { "" };
    Error::new(error.kind(), format!("{frame} cannot be written: {}{advice}", error.message())).with_source(error)
}

/// Whether a file of the log is gone.
pub(super) fn is_cleaned_up(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.message().contains("_delta_log/")
}

/// The error of a ledger that cannot be read, with the frame's name and what can be done.
pub(super) fn unreadable(frame: &FrameRef, error: Error) -> Error {
    // What the place answers is no damage.
    let damaged = matches!(error.kind(), ErrorKind::Storage | ErrorKind::Corrupt) && !is_of_the_place(&error);
    let kind = if damaged { ErrorKind::Corrupt } else { error.kind() };
    let advice = match kind {
        ErrorKind::Corrupt if error.message().contains(LOST_HINT) => {
            "; remove its _delta_log/_last_checkpoint, which only saves a listing, if all else is there"
        }
        ErrorKind::Corrupt => "; put the damaged file of its _delta_log back from a copy",
        ErrorKind::Unsupported if error.message().ends_with(UNKNOWN) => UPGRADE,
        _ => "",
    };
    Error::new(kind, format!("the ledger of {frame} cannot be read: {}{advice}", error.message())).with_source(error)
}

/// The store's own sentence without the wrapping that repeats it.
fn root_message(error: &StoreError) -> String {
    let text = error.to_string();
    text.strip_prefix("Generic ").unwrap_or(&text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_told_with_both_times() {
        let body = "403 Forbidden: <Error><Code>RequestTimeTooSkewed</Code><RequestTime>20200101T000000Z</RequestTime>\
                    <ServerTime>2026-01-02T03:04:05Z</ServerTime></Error>";
        let source = std::io::Error::other(body);
        let error: Error = StoreError::Generic { store: "S3", source: Box::new(source) }.into();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let said = error.to_string();
        assert!(said.contains("the store has 2026-01-02T03:04:05Z") && said.contains("timedatectl"), "{said}");
    }
}
