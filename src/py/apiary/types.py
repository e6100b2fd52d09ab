"""Types of what the package takes; for annotations only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, Union


class ArrowStream(Protocol):
    """Tables of pyarrow, polars, pandas, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class ArrowArray(Protocol):
    """Record batches of pyarrow and others."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


class ArrowSchema(Protocol):
    """Schemas of pyarrow, polars and others."""

    def __arrow_c_schema__(self) -> object: ...


Data: TypeAlias = (
    ArrowStream | ArrowArray | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Iterable[ArrowStream | ArrowArray]
)
"""What can be written to a frame."""

Schema: TypeAlias = ArrowSchema | ArrowStream
"""What says a frame's columns."""

Params: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""Values of ``$name``, or of ``$1``, ``$2``, …"""

Timestamp: TypeAlias = datetime | str | int
"""A moment: a datetime, ISO 8601 text, or milliseconds since the epoch."""

Seconds: TypeAlias = float | timedelta
"""A time limit."""

Distribute: TypeAlias = Literal["auto", "always", "never"]
"""Whether a query may use other nodes."""

Backpressure: TypeAlias = Literal["block", "error", "ignore"]
"""What becomes of a write while the node is hot."""

Spill: TypeAlias = Literal["disk", "none"]
"""Where queries put what does not fit into memory."""

Storage: TypeAlias = Union[str, "PathLike[str]"]
"""URL or path of a meadow."""
