"""Merges: rows of other data into a frame, matched by a condition."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import convert
from .errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .frame import Frame
    from .records import ChangeResult
    from .types import Data, Params


class Merge:
    """A merge that is being put together; made by :meth:`Frame.merge`.

    Clauses of a kind are tried in the order in which they were given; the first whose condition holds is taken.
    Conditions and values are SQL expressions over ``target.…`` and ``source.…``.
    """

    __slots__ = ("_clauses", "_executed", "_frame", "_on", "_source")

    def __init__(self, frame: Frame, source: Data, on: str) -> None:
        self._frame = frame
        self._source = frame._input(source)
        self._on = frame._expression(on)
        self._executed = False
        self._clauses: list[Callable[[list[str]], str]] = []

    def when_matched_update(self, values: Mapping[str, str] | None = None, condition: str | None = None) -> Merge:
        """Sets columns of a row that matches to ``values``; without them, all columns of the data to its values."""
        return self._when("MATCHED", condition, _update(self._quoted(values)))

    def when_matched_delete(self, condition: str | None = None) -> Merge:
        """Deletes a row that matches."""
        return self._when("MATCHED", condition, _delete)

    def when_not_matched_insert(self, values: Mapping[str, str] | None = None, condition: str | None = None) -> Merge:
        """Inserts a row of the data that matches none: ``values``, or all of its columns. Others are null."""
        return self._when("NOT MATCHED", condition, _insert(self._quoted(values)))

    def when_not_matched_by_source_update(self, values: Mapping[str, str], condition: str | None = None) -> Merge:
        """Sets columns of a row that no row of the data matches."""
        return self._when("NOT MATCHED BY SOURCE", condition, _update(self._quoted(values)))

    def when_not_matched_by_source_delete(self, condition: str | None = None) -> Merge:
        """Deletes a row that no row of the data matches."""
        return self._when("NOT MATCHED BY SOURCE", condition, _delete)

    def execute(self, params: Params | None = None) -> ChangeResult:
        """Carries the merge out, in one commit; ``params`` as in :meth:`Apiary.sql`. The data is put into a file first,
        in the system's temporary folder, because it is read more than once. A row of the frame that several rows of
        the data would change is an error."""
        if self._executed:
            # The data may be an iterator: it would be empty now, and every row one that nothing matches.
            raise InvalidInputError("the merge was executed already: start another one with frame.merge(…)")
        if not self._clauses:
            raise InvalidInputError(
                "the merge does nothing: say what becomes of rows, with when_matched_update() and so on"
            )
        self._executed = True
        frame = self._frame
        with tempfile.TemporaryDirectory(prefix="apiary-merge-") as folder:
            path = Path(folder) / "source.parquet"
            data, native = self._source, frame._apiary._native
            frame._send(data.stream, data, lambda: native.spool(data.stream, str(path)))
            quoted = str(path).replace("'", "''")
            columns = frame._apiary.sql(f"SELECT * FROM '{quoted}' LIMIT 0").columns
            clauses = " ".join(clause(columns) for clause in self._clauses)
            sql = f"MERGE INTO {frame._quoted()} AS target USING '{quoted}' AS source ON {self._on} {clauses}"
            return frame._change(sql, params)

    def _when(self, kind: str, condition: str | None, action: Callable[[list[str]], str]) -> Merge:
        extra = "" if condition is None else f" AND {self._frame._expression(condition)}"
        self._clauses.append(lambda columns: f"WHEN {kind}{extra} THEN {action(columns)}")
        return self

    def _quoted(self, values: Mapping[str, str] | None) -> dict[str, str] | None:
        if values is None:
            return None
        if not values:
            raise InvalidInputError("there is nothing to set: give columns and their values")
        return {convert.quoted(column): self._frame._expression(value) for column, value in values.items()}


def _delete(_: list[str]) -> str:
    return "DELETE"


def _update(values: dict[str, str] | None) -> Callable[[list[str]], str]:
    def update(columns: list[str]) -> str:
        return "UPDATE SET " + ", ".join(f"{name} = {value}" for name, value in _all(values, columns).items())

    return update


def _insert(values: dict[str, str] | None) -> Callable[[list[str]], str]:
    def insert(columns: list[str]) -> str:
        all_values = _all(values, columns)
        return f"INSERT ({', '.join(all_values)}) VALUES ({', '.join(all_values.values())})"

    return insert


def _all(values: dict[str, str] | None, columns: list[str]) -> dict[str, str]:
    """The values of columns; where none are given, those of the data."""
    if values is not None:
        return values
    return {quoted: f"source.{quoted}" for quoted in map(convert.quoted, columns)}
