"""Results: rows on their way, as whatever the caller works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import display
from .arrow import batch_of, need_pyarrow, schema_of
from .errors import ApiaryError, InvalidInputError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

    from ._apiary import Stream

_PREVIEW_ROWS = 10

T = TypeVar("T")


class Result:
    """Rows of a query.

    The rows come while the query runs. Iterate over a result to get them in record batches, hand it to anything that
    reads ``__arrow_c_stream__`` (``pyarrow.table(result)``, ``polars.DataFrame(result)``, DuckDB's
    ``"FROM result"``), or convert it. Streaming gives every row once; a conversion (``to_…``) keeps the rows, after
    which the result can be read as often as wanted. Looking at a result (``repr``, a notebook) loses no rows.

    A result that is dropped or cancelled stops its query.
    """

    __slots__ = ("__weakref__", "_rows", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rows: Iterator[tuple[Any, ...]] | None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result."""
        return schema_of(self._stream.schema)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._stream.schema.names

    @property
    def stats(self) -> dict[str, Any]:
        """Facts of the run: rows, times, bees, memory, requests, bytes, cells read and pruned; and of the swarm: the
        ``nodes`` that did its tasks, the bytes ``exchanged`` between them, and the ``retries`` of tasks.

        They are complete once the last row has been read.
        """
        return self._stream.stats()

    def cancel(self) -> None:
        """Stops the query; reading on raises :class:`~apiary.CancelledError`."""
        self._stream.cancel()

    def to_arrow(self) -> pa.Table:
        """All rows as a pyarrow table."""
        pa = need_pyarrow("to_arrow()")
        self._stream.keep()
        return pa.table(self._stream)

    def to_pandas(self, **options: Any) -> pandas.DataFrame:
        """All rows as a pandas data frame; ``options`` are those of ``pyarrow.Table.to_pandas``."""
        return self.to_arrow().to_pandas(**options)

    def to_polars(self) -> polars.DataFrame:
        """All rows as a polars data frame."""
        import polars

        self._stream.keep()
        return polars.DataFrame(self._stream)

    def to_pylist(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row as a tuple; ``None`` after the last."""
        return self._fetched(lambda rows: next(rows, None))

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that ``fetchone`` has not given yet, as tuples."""
        return self._fetched(list)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The batches: of pyarrow, or where it is not installed, objects with ``__arrow_c_array__``."""
        if self._stream.kept:
            return map(batch_of, self._stream.batches())
        if self._stream.begun and self._stream.ended:
            raise InvalidInputError(
                "this result has been read to its end: run the query again, or call to_arrow() before streaming it"
            )
        return _drain(self._stream)

    def __arrow_c_schema__(self) -> object:
        return self._stream.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._stream.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return self._shown(display.as_text)

    def _repr_html_(self) -> str:
        return self._shown(display.as_html)

    def _shown(self, style: display.Style) -> str:
        if self._stream.begun and not self._stream.kept:
            return style(None, "its rows have been read")
        try:
            names, types, rows, more = self._stream.preview(_PREVIEW_ROWS)
        except ApiaryError as error:
            return style(None, f"{error.kind}: {error}")
        count = f"first {len(rows)} rows" if more else f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
        return style(display.Table(names, types, rows), count)

    def _fetched(self, fetch: Callable[[Iterator[tuple[Any, ...]]], T]) -> T:
        try:
            return fetch(self._cursor())
        except BaseException:
            # A cursor that has failed would look like one at its end.
            self._rows = None
            raise

    def _cursor(self) -> Iterator[tuple[Any, ...]]:
        if self._rows is None:
            need_pyarrow("fetching rows as tuples")
            self._rows = (row for batch in self for row in _tuples(batch))
        return self._rows


def _drain(stream: Stream) -> Iterator[Any]:
    while (batch := stream.next_batch()) is not None:
        yield batch_of(batch)


def _tuples(batch: Any) -> Iterator[tuple[Any, ...]]:
    if batch.num_columns == 0:
        return iter([()] * batch.num_rows)
    return zip(*(column.to_pylist() for column in batch.columns))
