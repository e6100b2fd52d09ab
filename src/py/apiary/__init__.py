"""Apiary: a lakehouse for small compute.

Tables (*frames*) are Parquet files and a Delta Lake log in a folder or an object store; SQL runs on every core of this
machine, each a *bee* with a hard memory budget, and on those of every machine that shares the storage.

>>> from apiary import Apiary
>>> with Apiary("readme", storage="memory://", bees=2, memory="256MB") as ap:
...     ap.sql("CREATE FRAME readings (sensor INT, celsius DOUBLE)")
...     ap.frame("readings").write({"sensor": [1, 2], "celsius": [20.5, 19.0]})
...     ap.sql("SELECT max(celsius) FROM readings").fetchone()

Everything that fails raises an :class:`ApiaryError`; its subclass says what can be done about it.
"""

from ._apiary import __version__
from .apiary import Apiary
from .errors import (
    AlreadyExistsError,
    ApiaryError,
    BusyError,
    CancelledError,
    ClosedError,
    ConflictError,
    CorruptError,
    InternalError,
    InvalidInputError,
    LimitReachedError,
    MemoryExceededError,
    NotFoundError,
    PermissionDeniedError,
    QueryTimeoutError,
    SchemaError,
    StorageError,
    UnsupportedError,
)
from .frame import Frame, FrameAsOf
from .merge import Merge
from .names import Box, Hive
from .records import ChangeResult, Finding, FrameInfo, HistoryEntry, Leftover, Node, RestoreResult, WriteResult
from .result import Result
from .stream import FrameStream

__all__ = [
    "AlreadyExistsError",
    "Apiary",
    "ApiaryError",
    "Box",
    "BusyError",
    "CancelledError",
    "ChangeResult",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "Finding",
    "Frame",
    "FrameAsOf",
    "FrameInfo",
    "FrameStream",
    "HistoryEntry",
    "Hive",
    "InternalError",
    "InvalidInputError",
    "Leftover",
    "LimitReachedError",
    "MemoryExceededError",
    "Merge",
    "Node",
    "NotFoundError",
    "PermissionDeniedError",
    "QueryTimeoutError",
    "RestoreResult",
    "Result",
    "SchemaError",
    "StorageError",
    "UnsupportedError",
    "WriteResult",
    "__version__",
]
