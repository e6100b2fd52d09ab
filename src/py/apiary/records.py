"""Facts about frames and nodes, as named tuples."""

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


class ChangeResult(NamedTuple):
    """What a change of rows did."""

    frame: str
    """``hive.box.frame``."""
    version: int
    """Version of the frame that it made; the latest when there was nothing to change."""
    rows_inserted: int
    """Rows that are new."""
    rows_updated: int
    """Rows with other values."""
    rows_deleted: int
    """Rows that are gone."""
    cells_added: int
    """Data files written."""
    cells_removed: int
    """Data files that they stand for; older versions still have them."""
    bytes: int
    """Size of the data files written."""
    temperature: float
    """How loaded the colony was, 0 to 1."""


class Finding(NamedTuple):
    """Something that is wrong with a frame."""

    cell: str
    """The file, from the storage's root on."""
    problem: str
    """``missing``, ``size``, ``unreadable``, ``statistics``, ``orphaned`` or ``gap``."""
    detail: str
    """In which way."""
    advice: str
    """What to do about it."""


class RestoreResult(NamedTuple):
    """What a restore did."""

    frame: str
    """``hive.box.frame``."""
    version: int
    """The version it made; the latest when that was the same already."""
    restored: int
    """The version that it is like."""
    cells_added: int
    """Data files that came back."""
    cells_removed: int
    """Data files that went."""


class Leftover(NamedTuple):
    """A data file that no version needs any more."""

    cell: str
    """Where it is, or was, within the storage."""
    bytes: int
    """Its size."""
    removed: bool
    """Whether it has been removed."""


class FrameInfo(NamedTuple):
    """What a frame or a view is."""

    name: str
    """``hive.box.frame``."""
    location: str
    """URL of its folder, which any Delta Lake reader opens."""
    schema: Any
    """Its columns: a ``pyarrow.Schema`` where pyarrow is installed, else an object with ``__arrow_c_schema__``."""
    partition_by: list[str]
    """Columns that its cells are partitioned by."""
    cluster_by: list[str]
    """Columns that its rows are kept in the order of."""
    version: int
    """Its latest version."""
    cells: int
    """Data files of that version."""
    rows: int | None
    """Rows of that version, where every cell's statistics say so."""
    bytes: int
    """Size of its data files."""
    view: str | None = None
    """The statement that makes it, when it is a view: it has no place, version and size then."""


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


class Node(NamedTuple):
    """One node of the swarm, as it looks from here."""

    id: str
    """This run of the node."""
    name: str
    """Its name."""
    state: str
    """``alive``, ``suspect`` or ``dead``."""
    here: bool
    """Whether it is this process."""
    bees: int
    """Bees that take tasks of others."""
    bee_memory: int
    """Memory of one bee, in bytes."""
    temperature: float
    """How loaded it is, 0 to 1."""
    tasks: int
    """Tasks that it works on."""
    leading: int
    """Shared queries that it leads."""
    requests: int
    """Requests to storage since it started."""
    cached: int
    """Bytes that it keeps of remote cells."""
    version: str
    """Its version of Apiary."""
    silent_ms: int
    """Milliseconds since its heartbeat was seen to change."""

    def __repr__(self) -> str:
        """What tells nodes apart, and what they do."""
        return (
            f"Node({self.name!r}, id={self.id!r}, state={self.state!r}, here={self.here}, bees={self.bees}, "
            f"tasks={self.tasks}, leading={self.leading})"
        )
