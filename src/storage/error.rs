//! From what object_store, delta_kernel, arrow and parquet say to what the caller can do.

use delta_kernel::KernelError;
use object_store::Error as StoreError;

use crate::{Error, ErrorKind};

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if let Some(said) = clock_refusal(&error.to_string()) {
            return Self::new(ErrorKind::PermissionDenied, said).with_source(error);
        }
        let kind = match &error {
            StoreError::NotFound { .. } => ErrorKind::NotFound,
            StoreError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            StoreError::Precondition { .. } => ErrorKind::Conflict,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => ErrorKind::Unsupported,
            StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
            _ => match io_kind(&error) {
                Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
                    ErrorKind::PermissionDenied
                }
                _ => ErrorKind::Storage,
            },
        };
        let advice = match io_kind(&error) {
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                "the disk is full: free space or point --storage elsewhere; nothing was committed: "
            }
            _ => "",
        };
        Self::new(kind, format!("{advice}{}", root_message(&error))).with_source(error)
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        if let KernelError::ObjectStore(_) = &error {
            let KernelError::ObjectStore(inner) = error else { unreachable!("matched above") };
            return inner.into();
        }
        if let KernelError::Backtraced { source, .. } = error {
            return (*source).into();
        }
        let kind = match &error {
            KernelError::FileNotFound(_) => ErrorKind::NotFound,
            KernelError::FileAlreadyExists(_) | KernelError::TableAlreadyExistsAtPath(_) => ErrorKind::AlreadyExists,
            KernelError::Unsupported(_) => ErrorKind::Unsupported,
            KernelError::MalformedJson(_) | KernelError::Parquet(_) | KernelError::Arrow(_) => ErrorKind::Corrupt,
            KernelError::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Storage,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::new(ErrorKind::Schema, error.to_string()).with_source(error)
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        let store = std::error::Error::source(&error).and_then(|s| s.downcast_ref::<std::io::Error>());
        let kind = if store.is_some() { ErrorKind::Storage } else { ErrorKind::Corrupt };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::PermissionDenied
            }
            _ => ErrorKind::Storage,
        };
        Self::new(kind, error.to_string()).with_source(error)
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

fn io_kind(error: &StoreError) -> Option<std::io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
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
