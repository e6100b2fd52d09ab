"""Frames: the tables of Apiary."""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Any, TypeVar

from . import convert
from .arrow import schema_of
from .errors import ApiaryError, InvalidInputError, NotFoundError
from .inputs import Input, input_of
from .merge import Merge
from .records import ChangeResult, Finding, FrameInfo, HistoryEntry, Leftover, RestoreResult, WriteResult
from .result import Result
from .stream import FrameStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    import pandas
    import polars
    import pyarrow as pa

    from .apiary import Apiary
    from .types import Backpressure, Data, Params, Schema, Seconds, Timestamp


T = TypeVar("T")


class Frame:
    """One frame, by its name; it need not exist yet.

    >>> frame = ap.frame("analytics.sensors.temperature")
    >>> frame.write(table)
    >>> frame.read(columns=["region", "celsius"]).to_pandas()
    >>> frame.as_of(version=3).to_polars()
    """

    __slots__ = ("_apiary", "_name")

    def __init__(self, apiary: Apiary, name: str) -> None:
        self._apiary = apiary
        self._name = name

    @property
    def name(self) -> str:
        """``hive.box.frame``."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self.describe().schema

    def create(
        self,
        schema: Schema,
        partition_by: str | Iterable[str] | None = None,
        *,
        if_not_exists: bool = False,
        cluster_by: str | Iterable[str] | None = None,
    ) -> Frame:
        """Creates it, as :meth:`Apiary.create_frame` does."""
        return self._apiary.create_frame(
            self._name, schema, partition_by, if_not_exists=if_not_exists, cluster_by=cluster_by
        )

    def drop(self, *, if_exists: bool = False) -> None:
        """Drops it and its data."""
        self._apiary.drop_frame(self._name, if_exists=if_exists)

    def exists(self) -> bool:
        """Whether there is such a frame."""
        return self._name in self._apiary.frames()

    def write(self, data: Data, *, evolve: bool = False, backpressure: Backpressure = "block") -> WriteResult:
        """Appends ``data`` in one commit: all of it or, when anything fails, nothing.

        ``data`` is a table of pyarrow, polars, pandas or DuckDB, a :class:`Result`, anything with
        ``__arrow_c_stream__``, an iterator of record batches, a dict of lists, or a list or an iterator of dicts.
        Columns are matched by name; a nullable column may be missing, an unknown one is refused, or with ``evolve``
        added to the frame first, null in the rows that are there: by a commit of its own, which stays when the write
        itself fails.

        While the node is hot (see :meth:`Apiary.status`), ``backpressure`` decides: ``"block"`` waits until it is
        cooler, at most 30 seconds, ``"error"`` raises :class:`BusyError` at once, ``"ignore"`` writes all the same.
        """
        return self._write(data, overwrite=False, evolve=evolve, backpressure=backpressure)

    def overwrite(self, data: Data, *, evolve: bool = False, backpressure: Backpressure = "block") -> WriteResult:
        """Puts ``data`` in the place of all rows, in one commit; older versions stay readable. The arguments are those
        of :meth:`write`."""
        return self._write(data, overwrite=True, evolve=evolve, backpressure=backpressure)

    def stream(
        self,
        *,
        rows: int = 1_000_000,
        size: int | str = "64MB",
        seconds: Seconds = 10,
        buffer: str | PathLike[str] | None = None,
        sync: bool = False,
    ) -> FrameStream:
        """Opens a stream, for rows that come a few at a time. They are committed every ``rows`` rows, every ``size`` of
        them in memory, or when the oldest is ``seconds`` old, each exactly once.

        Until then they are in a buffer on the local disk: in the folder ``buffer``, or below the user's state folder.
        What a process that died left there is committed by the next stream into the frame on this machine. With
        ``sync``, rows are on the disk before :meth:`FrameStream.append` returns: they survive a power cut, too.
        """
        convert.positive("rows", rows)
        limit = convert.seconds(seconds) or 0.0
        folder = None if buffer is None else fspath(buffer)
        return FrameStream(self, self._apiary._native.stream(self._name, rows, size, limit, folder, sync))

    def delete(self, where: str | None = None, params: Params | None = None) -> ChangeResult:
        """Deletes the rows for which the SQL expression ``where`` is true, or all; ``params`` as in :meth:`Apiary.sql`.

        >>> frame.delete("celsius > $limit", {"limit": 60})
        """
        return self._change(f"DELETE FROM {self._quoted()}{self._where(where)}", params)

    def update(self, values: Mapping[str, str], where: str | None = None, params: Params | None = None) -> ChangeResult:
        """Sets columns to SQL expressions in the rows for which ``where`` is true, or in all.

        >>> frame.update({"celsius": "celsius - 0.5", "note": "$note"}, "sensor = 7", {"note": "calibrated"})
        """
        if not values:
            raise InvalidInputError("there is nothing to set: give columns and their values")
        assignments = ", ".join(f"{convert.quoted(column)} = {self._expression(v)}" for column, v in values.items())
        return self._change(f"UPDATE {self._quoted()} SET {assignments}{self._where(where)}", params)

    def merge(self, source: Data, on: str) -> Merge:
        """Starts a merge of the rows of ``source``, which is given as to :meth:`write`. What becomes of rows that
        match, and of those that do not, is said by its methods; ``execute`` carries it out, in one commit. In the SQL
        condition ``on``, columns of the frame are ``target.…`` and those of the data ``source.…``.

        >>> frame.merge(table, "target.id = source.id").when_matched_update().when_not_matched_insert().execute()
        """
        return Merge(self, source, on)

    def changes(self, since: int, until: int | None = None) -> Result:
        """The rows that the versions above ``since`` added and removed, up to ``until`` or the latest: the frame's
        columns, and ``_change_type`` (``insert`` or ``delete``; an updated row is one of each), ``_commit_version``,
        ``_commit_timestamp``.

        >>> frame.changes(since=3).to_pandas()
        """
        convert.not_negative("since", since)
        convert.not_negative("until", until)
        end = "" if until is None else f" TO VERSION {until}"
        return self._apiary.sql(f"SELECT * FROM {self._quoted()} CHANGES SINCE VERSION {since}{end}")

    def verify(self) -> list[Finding]:
        """Reads every cell and compares it with what the ledger says: what is missing, cannot be read, has other rows
        or values than it should, or belongs to no version. An empty list means that all is well."""
        return [Finding(**row) for row in self._facts(f"VERIFY {self._quoted()}")]

    def optimize(
        self, cluster_by: str | Iterable[str] | None = None, *, zorder_by: str | Iterable[str] | None = None
    ) -> ChangeResult:
        """Writes small cells together into larger ones; of a clustered frame also those whose rows are not in order
        with each other. With ``cluster_by``, all cells, with their rows sorted by these columns: filters on the first
        leave most cells out. With ``zorder_by``, all cells, with those rows together that are near each other in all of
        these columns, at most eight: filters on any of them leave many cells out. Readers of older versions are not
        disturbed.

        >>> frame.optimize(zorder_by=["sensor", "celsius"])
        """
        if cluster_by is not None and zorder_by is not None:
            raise InvalidInputError("both cluster_by and zorder_by were given: give one of them")
        columns = convert.names(cluster_by if zorder_by is None else zorder_by) or []
        if zorder_by is not None and not columns:
            raise InvalidInputError("zorder_by names no columns: give one to eight")
        word = "CLUSTER" if zorder_by is None else "ZORDER"
        layout = f" {word} BY ({', '.join(map(convert.quoted, columns))})" if columns else ""
        return self._change(f"OPTIMIZE {self._quoted()}{layout}", None)

    def restore(self, version: int | None = None, *, timestamp: Timestamp | None = None) -> RestoreResult:
        """Makes the latest version what ``version`` was, or what was the latest at ``timestamp``: rows, columns and
        constraints. One commit that writes no data; the versions between stay in the history."""
        if (version is None) == (timestamp is None):
            raise InvalidInputError("restore takes a version or a timestamp")
        if version is not None:
            convert.not_negative("version", version)
            moment = f"VERSION AS OF {version}"
        else:
            at = convert.moment(convert.milliseconds(timestamp) or 0)
            moment = f"TIMESTAMP AS OF '{at.isoformat()}'"
        return RestoreResult(**self._facts(f"RESTORE {self._quoted()} TO {moment}")[0])

    def add_column(self, name: str, sql_type: str, *, if_not_exists: bool = False) -> None:
        """Adds a column, null in all rows that are there. No data is written.

        >>> frame.add_column("humidity", "DOUBLE")
        """
        words = "IF NOT EXISTS " if if_not_exists else ""
        self._facts(f"ALTER FRAME {self._quoted()} ADD COLUMN {words}{convert.quoted(name)} {sql_type}")

    def rename_column(self, name: str, to: str) -> None:
        """Gives a column another name. No data is written; readers need Delta's column mapping from then on."""
        self._facts(f"ALTER FRAME {self._quoted()} RENAME COLUMN {convert.quoted(name)} TO {convert.quoted(to)}")

    def drop_column(self, name: str, *, if_exists: bool = False) -> None:
        """Drops a column; older versions keep it. No data is written; readers need Delta's column mapping from then
        on."""
        words = "IF EXISTS " if if_exists else ""
        self._facts(f"ALTER FRAME {self._quoted()} DROP COLUMN {words}{convert.quoted(name)}")

    def set_nullable(self, name: str, nullable: bool) -> None:
        """Says whether a column takes nulls; one that has some must take them."""
        word = "DROP" if nullable else "SET"
        self._facts(f"ALTER FRAME {self._quoted()} ALTER COLUMN {convert.quoted(name)} {word} NOT NULL")

    def set_type(self, name: str, sql_type: str) -> None:
        """Widens a column's type: integers become wider ones, ``DOUBLE`` or decimals with room for them, ``REAL``
        becomes ``DOUBLE``, decimals wider ones, and ``DATE`` a ``TIMESTAMP``. No data is written; readers need Delta's
        type widening from then on.

        >>> frame.set_type("id", "BIGINT")
        """
        self._facts(f"ALTER FRAME {self._quoted()} ALTER COLUMN {convert.quoted(name)} TYPE {sql_type}")

    def add_constraint(self, name: str, check: str) -> None:
        """Refuses, from now on, rows for which the SQL expression ``check`` is false; there must be none yet.

        >>> frame.add_constraint("plausible", "celsius BETWEEN -90 AND 60")
        """
        self._apiary._native.check_expression(check)
        condition = f"CHECK (\n{check}\n)"
        self._facts(f"ALTER FRAME {self._quoted()} ADD CONSTRAINT {convert.quoted(name)} {condition}")

    def drop_constraint(self, name: str, *, if_exists: bool = False) -> None:
        """Drops a constraint."""
        words = "IF EXISTS " if if_exists else ""
        self._facts(f"ALTER FRAME {self._quoted()} DROP CONSTRAINT {words}{convert.quoted(name)}")

    def set_properties(self, properties: Mapping[str, str | bool]) -> None:
        """Sets properties of the Delta table. ``delta.enableDeletionVectors`` has rows marked as deleted where writing
        their cell anew would cost much more; readers need Delta's deletion vectors from then on.

        >>> frame.set_properties({"delta.enableDeletionVectors": True})
        """
        texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in properties.items()}
        words = ", ".join(f"{convert.literal(key)} = {convert.literal(value)}" for key, value in texts.items())
        self._facts(f"ALTER FRAME {self._quoted()} SET TBLPROPERTIES ({words})")

    def cluster_by(self, columns: str | Iterable[str] | None) -> None:
        """Keeps rows in the order of these columns from now on, or with ``None`` as they come. No data is written: the
        cells that are there follow by :meth:`optimize`, or by and by through housekeeping.

        >>> frame.cluster_by(["region", "sensor"])
        """
        names = ", ".join(map(convert.quoted, convert.names(columns) or []))
        self._facts(f"ALTER FRAME {self._quoted()} CLUSTER BY {f'({names})' if names else 'NONE'}")

    def vacuum(self, *, retain_hours: int = 168, force: bool = False, dry_run: bool = False) -> list[Leftover]:
        """Removes data files that neither the latest version needs nor one that was the latest within ``retain_hours``.

        Fewer than 168 hours need ``force``: readers of older versions and writes that go on lose their cells.
        """
        convert.not_negative("retain_hours", retain_hours)
        words = (" FORCE" if force else "") + (" DRY RUN" if dry_run else "")
        return [Leftover(**row) for row in self._facts(f"VACUUM {self._quoted()} RETAIN {retain_hours} HOURS{words}")]

    def read(
        self,
        columns: str | Iterable[str] | None = None,
        *,
        version: int | None = None,
        timestamp: Timestamp | None = None,
    ) -> Result:
        """The rows of the latest version, of ``version``, or of what was the latest at ``timestamp``.

        A datetime without a time zone is local time.
        """
        if version is not None and timestamp is not None:
            raise InvalidInputError("both version and timestamp were given: give one of them")
        if version is not None:
            convert.not_negative("version", version)
        stream = self._apiary._native.read(self._name, convert.names(columns), version, convert.milliseconds(timestamp))
        return Result(stream)

    def as_of(self, version: int | None = None, *, timestamp: Timestamp | None = None) -> FrameAsOf:
        """The frame as it was at ``version``, or at ``timestamp``."""
        if (version is None) == (timestamp is None):
            raise InvalidInputError("as_of takes a version or a timestamp")
        return FrameAsOf(self, version, timestamp)

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """The commits, newest first."""
        convert.not_negative("limit", limit)
        return [_entry(**entry) for entry in self._apiary._native.history(self._name, limit)]

    def describe(self) -> FrameInfo:
        """Columns, partitions, version, place and size; of a view its columns, and the statement that makes it."""
        try:
            facts = self._apiary._native.describe(self._name)
        except InvalidInputError as error:
            return self._described_view(error)
        facts["schema"] = schema_of(facts["schema"])
        return FrameInfo(**facts)

    def _described_view(self, error: InvalidInputError) -> FrameInfo:
        made = self._facts(f"SHOW CREATE FRAME {self._quoted()}")[0]["statement"]
        if not made.startswith("CREATE VIEW"):
            raise error
        schema = self._apiary.sql(f"SELECT * FROM {self._quoted()} LIMIT 0").schema
        return FrameInfo(self._name, "", schema, [], [], 0, 0, None, 0, made)

    def _change(self, sql: str, params: Params | None) -> ChangeResult:
        return ChangeResult(**self._facts(sql, params)[0])

    def _facts(self, sql: str, params: Params | None = None) -> list[dict[str, Any]]:
        return self._apiary._native.facts(sql, convert.query_params(params))

    def _expression(self, text: str) -> str:
        self._apiary._native.check_expression(text)
        # On lines of its own: a comment at its end ends with it.
        return f"(\n{text}\n)"

    def _where(self, predicate: str | None) -> str:
        return "" if predicate is None else f" WHERE {self._expression(predicate)}"

    def _quoted(self) -> str:
        return ".".join(map(convert.quoted, self._name.split(".")))

    def _write(self, data: Data, *, overwrite: bool, evolve: bool, backpressure: Backpressure) -> WriteResult:
        try:
            source = self._input(data)
            native = self._apiary._native
            return WriteResult(
                **self._send(
                    data, source, lambda: native.write(self._name, source.stream, overwrite, evolve, backpressure)
                )
            )
        except NotFoundError as error:
            raise self._missing(error) from error

    def _input(self, data: Data) -> Input:
        return input_of(data, lambda: self._apiary._native.describe(self._name)["schema"])

    def _send(self, data: Data, source: Input, send: Callable[[], T]) -> T:
        """Lets ``send`` read ``source``, which is made of ``data``; an exception of a Python iterator comes back as it
        was."""
        try:
            return send()
        except KeyboardInterrupt:
            if isinstance(data, Result):
                # Nobody will read the rest: the query that computes it must not run on.
                data.cancel()
            raise
        except ApiaryError as error:
            if source.failure is not None:
                raise source.failure from error
            raise

    def _missing(self, error: NotFoundError) -> NotFoundError:
        if "create_frame" in str(error):
            return error
        return NotFoundError(f'{error}; to make the frame first: create_frame("{self._name}", schema)')

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and (self._apiary, self._name) == (other._apiary, other._name)

    def __hash__(self) -> int:
        return hash((self._apiary, self._name))

    def __repr__(self) -> str:
        return f"Frame({self._name!r})"


class FrameAsOf:
    """A frame as it was at one version or moment; made by :meth:`Frame.as_of`."""

    __slots__ = ("_frame", "_timestamp", "_version")

    def __init__(self, frame: Frame, version: int | None, timestamp: Timestamp | None) -> None:
        self._frame = frame
        self._version = version
        self._timestamp = timestamp

    def read(self, columns: str | Iterable[str] | None = None) -> Result:
        """Its rows."""
        return self._frame.read(columns, version=self._version, timestamp=self._timestamp)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self.read().schema

    def to_arrow(self) -> pa.Table:
        """Its rows as a pyarrow table."""
        return self.read().to_arrow()

    def to_pandas(self, **options: Any) -> pandas.DataFrame:
        """Its rows as a pandas data frame."""
        return self.read().to_pandas(**options)

    def to_polars(self) -> polars.DataFrame:
        """Its rows as a polars data frame."""
        return self.read().to_polars()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.read().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        moment = f"version={self._version}" if self._version is not None else f"timestamp={self._timestamp!r}"
        return f"{self._frame!r}.as_of({moment})"


def _entry(timestamp_ms: int, **facts: Any) -> HistoryEntry:
    return HistoryEntry(timestamp=convert.moment(timestamp_ms), **facts)
