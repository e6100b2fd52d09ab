//! The one error type of the public edge.
//!
//! Inside a layer errors are enums of that layer; what leaves the crate is an [`Error`] whose [`ErrorKind`] says what
//! the caller can do about it: fix the request, wait and try again, give the query more room, or look at the storage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Result of the public API.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be carried out as it is: SQL, a name, a setting or a value must change.
    InvalidInput,
    /// A hive, box, frame, file or version that was named does not exist.
    NotFound,
    /// A name is taken.
    AlreadyExists,
    /// Another commit touched the same cells; read again and redo the work on the new version.
    Conflict,
    /// Data does not fit the frame's schema.
    Schema,
    /// The storage failed: unreachable, full, or answering what it must not.
    Storage,
    /// The storage refused the credentials or the operation.
    PermissionDenied,
    /// A task needed more memory than its bee's budget.
    MemoryExceeded,
    /// A time limit passed.
    TimedOut,
    /// A query asked for more requests or bytes than it may.
    LimitReached,
    /// The caller cancelled.
    Cancelled,
    /// The colony has no room for more work now; try again later.
    Busy,
    /// The colony is stopped or stopping.
    Closed,
    /// Data in the meadow is damaged.
    Corrupt,
    /// A feature that this version does not have.
    Unsupported,
    /// A defect of Apiary.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::InvalidInput,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Schema,
        Self::Storage,
        Self::PermissionDenied,
        Self::MemoryExceeded,
        Self::TimedOut,
        Self::LimitReached,
        Self::Cancelled,
        Self::Busy,
        Self::Closed,
        Self::Corrupt,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The kind as one lower-case word, for messages and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid input",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "conflict",
            Self::Schema => "schema mismatch",
            Self::Storage => "storage",
            Self::PermissionDenied => "permission denied",
            Self::MemoryExceeded => "memory exceeded",
            Self::TimedOut => "timed out",
            Self::LimitReached => "limit reached",
            Self::Cancelled => "cancelled",
            Self::Busy => "busy",
            Self::Closed => "closed",
            Self::Corrupt => "corrupt data",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal error",
        }
    }
}

/// What went wrong: its kind, a sentence with what was wanted, what was there and what to do, and the cause.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, retry_after: None }
    }

    /// The same error with `source` as its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error with the time after which to try again.
    #[must_use]
    pub fn with_retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// When to try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence alone, without the kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error with `context` before its sentence.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}: {}", self.kind.as_str(), self.message)?;
        match &self.source {
            Some(source) => write!(f, "; cause: {source})"),
            None => write!(f, ")"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Shorthand constructors, one per kind that code raises often.
macro_rules! shorthand {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $(#[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            })*
        }
    };
}
shorthand! {
    invalid => InvalidInput, not_found => NotFound, already_exists => AlreadyExists, conflict => Conflict, schema => Schema,
    storage => Storage, corrupt => Corrupt, unsupported => Unsupported, internal => Internal, closed => Closed, busy => Busy,
    timed_out => TimedOut, limit_reached => LimitReached, cancelled => Cancelled,
}
