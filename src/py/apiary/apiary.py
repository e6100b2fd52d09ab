"""The door: one running Apiary."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, Any

from . import convert
from ._apiary import Colony
from .errors import InvalidInputError, NotFoundError
from .frame import Frame
from .names import Box, Hive
from .records import Node
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from .types import Distribute, Params, Schema, Seconds, Spill, Storage

_open: weakref.WeakSet[Apiary] = weakref.WeakSet()


class Apiary:
    """A node: SQL and frames over one storage.

    >>> with Apiary("production", storage="s3://bucket/meadow", memory="4GB") as ap:
    ...     ap.create_frame("analytics.sensors.temperature", schema, partition_by=["region"])
    ...     ap.frame("analytics.sensors.temperature").write(table)
    ...     ap.sql("SELECT * FROM analytics.sensors.temperature WHERE celsius > $x", params={"x": 30}).to_pandas()

    One object serves any number of threads; what ``USE HIVE`` and ``USE BOX`` set holds for all of them. After
    ``fork`` a child process is refused: start it with the ``spawn`` method instead.

    Args:
        name: name of this node in messages.
        storage: URL or path of the meadow: a folder, ``s3://``, ``gs://``, ``az://`` or ``memory://``. Without it, the
            environment's ``APIARY_STORAGE``, else a folder in the home directory.
        bees: worker threads; one per CPU core without it.
        memory: of all bees together: bytes, or text like ``"1GB"``; half of the machine's without it.
        storage_options: ``endpoint``, ``region``, ``path_style``, ``allow_http``, credentials, and what else the store
            needs; ``hedge`` of false: no second requests for reads that take long.
        time_limit: longest run of one query, in seconds or as a ``timedelta``.
        join: whether this process takes tasks of queries that other nodes ask over the same storage.
        distribute: whether queries of this process may use other nodes: ``"auto"`` when that is expected to be faster,
            ``"always"`` whenever there is another node, ``"never"``. ``SET distribute = 'always'`` changes it.
        cache: folder on this machine that keeps what was read of cells in a bucket: the next scan reads it from there.
            One process at a time uses a folder.
        cache_limit: most bytes in that folder, or text like ``"20GB"``; 4 GB without it.
        housekeeping: whether this process merges the small cells of frames that it wrote to, while it has little else
            to do. ``ALTER FRAME name SET HOUSEKEEPING OFF`` leaves a frame alone.
        scratch: folder where queries put what does not fit into memory; the system's temporary folder without it.
        scratch_limit: most bytes that operators spill there at a time, and as many that stages of a query hand on;
            10 GB without it.
        spill: ``"disk"``, or ``"none"``: a query that does not fit raises :class:`MemoryExceededError`, and nothing is
            put into ``scratch``.
        disk_writes_per_day: most bytes that queries and the cache write to this machine's disk in 24 hours, because
            flash wears out; after that nothing is put into ``scratch`` and ``cache``. The count is kept in ``scratch``,
            else in the user's state folder, for all processes that have the same. ``status()["disk_written"]`` counts.
    """

    def __init__(
        self,
        name: str = "apiary",
        storage: Storage | None = None,
        *,
        bees: int | None = None,
        memory: str | int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        time_limit: Seconds | None = None,
        join: bool = False,
        distribute: Distribute = "auto",
        cache: str | os.PathLike[str] | None = None,
        cache_limit: str | int | None = None,
        housekeeping: bool = True,
        scratch: str | os.PathLike[str] | None = None,
        scratch_limit: str | int | None = None,
        spill: Spill = "disk",
        disk_writes_per_day: str | int | None = None,
    ) -> None:
        convert.positive("bees", bees)
        convert.size("memory", memory)
        convert.size("cache_limit", cache_limit)
        convert.size("scratch_limit", scratch_limit)
        convert.size("disk_writes_per_day", disk_writes_per_day)
        self._name = name
        self._native = Colony(
            name,
            _location(storage),
            bees,
            memory,
            {key: _option(value) for key, value in (storage_options or {}).items()},
            convert.seconds(time_limit),
            join,
            distribute,
            None if cache is None else os.fspath(cache),
            cache_limit,
            housekeeping,
            None if scratch is None else os.fspath(scratch),
            scratch_limit,
            spill,
            disk_writes_per_day,
        )
        _open.add(self)

    @property
    def name(self) -> str:
        """Name of this node."""
        return self._name

    def sql(self, query: str, params: Params | None = None, *, time_limit: Seconds | None = None) -> Result:
        """Runs one SQL statement.

        ``params`` fills ``$name`` from a dict, or ``$1``, ``$2``, … from a list: values never become part of the text.
        A query starts at once and its rows come while it runs; a statement that changes something has done so when this
        returns.
        """
        query = convert.text("query", query, "the SQL")
        return Result(self._native.sql(query, convert.query_params(params), convert.seconds(time_limit)))

    def hive(self, name: str) -> Hive:
        """The hive ``name``."""
        return Hive(self, self._native.resolve_hive(convert.text("name", name)))

    def box(self, name: str) -> Box:
        """The box ``hive.box``, or ``box`` of the current hive."""
        return Box(self, self._native.resolve_box(convert.text("name", name)))

    def frame(self, name: str) -> Frame:
        """The frame ``hive.box.frame``; what is missing at the front is the current hive and box."""
        return Frame(self, self._native.resolve_frame(convert.text("name", name)))

    def create_hive(self, name: str, *, if_not_exists: bool = False) -> Hive:
        """Creates a hive."""
        hive = self.hive(name)
        self._native.create_hive(hive.name, if_not_exists)
        return hive

    def create_box(self, name: str, *, if_not_exists: bool = False) -> Box:
        """Creates a box, and its hive where that is missing."""
        box = self.box(name)
        try:
            self._native.create_box(box.name, if_not_exists)
        except NotFoundError:
            self.create_hive(box.name.partition(".")[0], if_not_exists=True)
            self._native.create_box(box.name, if_not_exists)
        return box

    def create_frame(
        self,
        name: str,
        schema: Schema,
        partition_by: str | Iterable[str] | None = None,
        if_not_exists: bool = False,
        *,
        cluster_by: str | Iterable[str] | None = None,
    ) -> Frame:
        """Creates a frame, and its hive and box where they are missing.

        ``schema`` is a ``pyarrow.Schema``, anything else with ``__arrow_c_schema__``, or a table that has the columns.
        Rows with different values of the ``partition_by`` columns lie in different cells. With ``cluster_by``, rows are
        kept in the order of these columns, by housekeeping and :meth:`Frame.optimize`: filters on the first then leave
        most cells out.
        """
        frame = self.frame(name)
        columns = _schema(schema)
        partitions, clusters = convert.names(partition_by) or [], convert.names(cluster_by) or []
        try:
            self._native.create_frame(frame.name, columns, partitions, clusters, if_not_exists)
        except NotFoundError:
            self.create_box(frame.name.rpartition(".")[0], if_not_exists=True)
            self._native.create_frame(frame.name, columns, partitions, clusters, if_not_exists)
        return frame

    def drop_hive(self, name: str, *, if_exists: bool = False, cascade: bool = False) -> None:
        """Drops a hive; with ``cascade`` also what is in it."""
        self._native.drop_hive(convert.text("name", name), if_exists, cascade)

    def drop_box(self, name: str, *, if_exists: bool = False, cascade: bool = False) -> None:
        """Drops a box; with ``cascade`` also what is in it."""
        self._native.drop_box(convert.text("name", name), if_exists, cascade)

    def drop_frame(self, name: str, *, if_exists: bool = False) -> None:
        """Drops a frame and its data."""
        self._native.drop_frame(convert.text("name", name), if_exists)

    def attach_frame(self, name: str) -> Frame:
        """Makes a frame of the Delta table that others wrote into the folder ``hive/box/frame`` of the storage.
        Nothing is copied; who writes it goes on to."""
        frame = self.frame(name)
        frame._facts(f"ATTACH FRAME {frame._quoted()}")
        return frame

    def detach_frame(self, name: str) -> None:
        """Takes a frame's name away; its Delta table stays where it is."""
        frame = self.frame(name)
        frame._facts(f"DETACH FRAME {frame._quoted()}")

    create_database = create_hive
    create_schema = create_box
    create_table = create_frame
    drop_database = drop_hive
    drop_schema = drop_box
    drop_table = drop_frame

    def hives(self) -> list[str]:
        """Names of all hives."""
        return self._native.hives()

    def boxes(self, hive: str | None = None) -> list[str]:
        """Full names (``hive.box``) of all boxes, or of those of one hive."""
        hives = self.hives() if hive is None else [self.hive(hive).name]
        return [f"{name}.{box}" for name in hives for box in self._native.boxes(name)]

    def frames(self, within: str | None = None) -> list[str]:
        """Full names (``hive.box.frame``) of all frames and views, or of those in one hive or one ``hive.box``."""
        prefix = "" if within is None else f"{within.lower()}."
        return [name for name in self._native.frames() if name.startswith(prefix)]

    def views(self, within: str | None = None) -> list[str]:
        """Full names of the views (``CREATE VIEW``) among :meth:`frames`."""
        prefix = "" if within is None else f"{within.lower()}."
        names = [str(row["view"]) for row in self._native.facts("SHOW VIEWS", None)]
        return [name for name in names if name.startswith(prefix)]

    def status(self) -> dict[str, Any]:
        """The node now: its bees, memory, temperature, queries and requests."""
        return self._native.status()

    def swarm(self) -> list[Node]:
        """The nodes that share the storage, as they look from here now: those that take tasks (``apiary-node run``, or
        ``join=True``), and those that lead a shared query."""
        return [Node(**node) for node in self._native.swarm()]

    def close(self) -> None:
        """Stops the node: cancels its queries and waits for its threads. Closing twice is closing once; in a forked
        process there is nothing to close."""
        _open.discard(self)
        self._native.close()

    def __enter__(self) -> Apiary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Apiary({self._name!r})"


def _location(storage: Storage | None) -> str | None:
    return os.environ.get("APIARY_STORAGE") or None if storage is None else os.fspath(storage)


def _option(value: Any) -> str:
    """Storage options are text; Python's own words for truth are not what stores expect."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema(schema: Any) -> Any:
    for candidate in (schema, getattr(schema, "schema", None)):
        if hasattr(candidate, "__arrow_c_schema__"):
            return candidate
    if hasattr(schema, "__arrow_c_stream__"):
        from .arrow import need_pyarrow

        return need_pyarrow("taking the schema of a table").RecordBatchReader.from_stream(schema).schema
    raise InvalidInputError(
        f"schema is of type {type(schema).__qualname__}: use a pyarrow.Schema, or anything with __arrow_c_schema__"
    )


@atexit.register
def _close_all() -> None:
    """Threads of a colony must be gone before the interpreter is."""
    for apiary in list(_open):
        apiary.close()
