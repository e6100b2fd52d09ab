"""Facts about frames, as named tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime


class WriteResult(NamedTuple):
    """What a write did."""

    version: int
    """Version of the frame that holds the data."""
    rows: int
    """Rows written."""
    cells: int
    """Data files written."""
    bytes: int
    """Their size."""
    temperature: float
    """How loaded the colony was, 0 to 1."""


class FrameInfo(NamedTuple):
    """What a frame is."""

    name: str
    """``hive.box.frame``."""
    location: str
    """URL of its folder, which any Delta Lake reader opens."""
    schema: Any
    """Its columns: a ``pyarrow.Schema`` where pyarrow is installed, else an object with ``__arrow_c_schema__``."""
    partition_by: list[str]
    """Columns that its cells are partitioned by."""
    version: int
    """Its latest version."""
    cells: int
    """Data files of that version."""
    rows: int | None
    """Rows of that version, where every cell's statistics say so."""
    bytes: int
    """Size of its data files."""


class HistoryEntry(NamedTuple):
    """One commit of a frame."""

    version: int
    """Version that it made."""
    timestamp: datetime
    """When, in UTC."""
    operation: str
    """What it did."""
    rows: int | None
    """Rows that it wrote, where they are known."""
    cells_added: int
    """Data files added."""
    cells_removed: int
    """Data files removed."""
    engine: str
    """The program that did it."""
