"""Exceptions, by what the caller can do about them.

Each is an :class:`ApiaryError`, has its ``kind``, and where Python has a built-in exception of that meaning is one of
those too, so ``except TimeoutError`` and ``except ValueError`` do what they say.
"""

from __future__ import annotations


class ApiaryError(Exception):
    """Base of all errors that Apiary raises."""

    #: What went wrong, in the words that the command line and the Rust API use too.
    kind: str = "error"


class InvalidInputError(ApiaryError, ValueError):
    """The request cannot be carried out as it is: SQL, a name, a setting or a value must change."""

    kind = "invalid input"


class NotFoundError(ApiaryError, LookupError):
    """A hive, box, frame, file or version that was named does not exist."""

    kind = "not found"


class AlreadyExistsError(ApiaryError):
    """A name is taken."""

    kind = "already exists"


class ConflictError(ApiaryError):
    """Another commit touched the same cells: read again and redo the work on the new version."""

    kind = "conflict"


class SchemaError(ApiaryError, ValueError):
    """Data does not fit the frame's schema."""

    kind = "schema mismatch"


class StorageError(ApiaryError, OSError):
    """The storage failed: unreachable, full, or answering what it must not."""

    kind = "storage"


class PermissionDeniedError(StorageError, PermissionError):
    """The storage refused the credentials or the operation."""

    kind = "permission denied"


class MemoryExceededError(ApiaryError, MemoryError):
    """A task needed more memory than its bee's budget."""

    kind = "memory exceeded"


class QueryTimeoutError(ApiaryError, TimeoutError):
    """A time limit passed."""

    kind = "timed out"


class LimitReachedError(ApiaryError):
    """A query asked for more requests or bytes than ``SET max_requests`` or ``SET max_bytes`` allows."""

    kind = "limit reached"


class CancelledError(ApiaryError):
    """The query was cancelled."""

    kind = "cancelled"


class BusyError(ApiaryError):
    """The colony has no room for more work now: try again later."""

    kind = "busy"
    #: Seconds after which to try again, where that is known.
    retry_after: float | None = None


class ClosedError(ApiaryError):
    """The Apiary is closed, or belongs to the process that this one was forked from."""

    kind = "closed"


class CorruptError(ApiaryError):
    """Data in the storage is damaged."""

    kind = "corrupt data"


class UnsupportedError(ApiaryError, NotImplementedError):
    """A feature that this version does not have."""

    kind = "unsupported"


class InternalError(ApiaryError):
    """A defect of Apiary."""

    kind = "internal error"


_BY_KIND: dict[str, type[ApiaryError]] = {
    error.kind: error
    for error in (
        InvalidInputError,
        NotFoundError,
        AlreadyExistsError,
        ConflictError,
        SchemaError,
        StorageError,
        PermissionDeniedError,
        MemoryExceededError,
        QueryTimeoutError,
        LimitReachedError,
        CancelledError,
        BusyError,
        ClosedError,
        CorruptError,
        UnsupportedError,
        InternalError,
    )
}


def from_kind(kind: str, message: str, retry_after: float | None = None) -> ApiaryError:
    """The exception of ``kind``; called by the native module."""
    error = _BY_KIND.get(kind, ApiaryError)(message)
    error.kind = kind
    if isinstance(error, BusyError):
        error.retry_after = retry_after
    return error
