"""Results as text and as HTML, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

_WIDEST_CELL = 40
_WIDEST_TABLE = 160
_GAP = "…"


class Table(NamedTuple):
    """Text of the first rows; ``None`` is null."""

    names: list[str]
    types: list[str]
    rows: list[list[str | None]]


Style: TypeAlias = "Callable[[Table | None, str], str]"


def as_text(table: Table | None, note: str) -> str:
    """Lines with a rule below the names; long cells are cut, and so are the middle columns of a wide table."""
    if table is None:
        return f"<apiary.Result: {note}>"
    lines = [table.names, *([_text(cell) for cell in row] for row in table.rows)]
    columns = _fit([[_cut(line[index]) for line in lines] for index in range(len(table.names))])
    widths = [max(map(len, column)) for column in columns]
    padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths)]
    printed = [" │ ".join(line).rstrip() for line in zip(*padded)]
    rule = "─┼─".join("─" * width for width in widths)
    return "\n".join([*printed[:1], rule, *printed[1:], f"({note})"])


def as_html(table: Table | None, note: str) -> str:
    """A table of HTML in which every text from the data is escaped."""
    from html import escape

    if table is None:
        return f"<p>apiary.Result: {escape(note)}</p>"
    heads = "".join(f'<th title="{escape(kind)}">{escape(name)}</th>' for name, kind in zip(table.names, table.types))
    rows = "".join(
        f"<tr>{''.join('<td><i>NULL</i></td>' if cell is None else f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table><p>{escape(note)}</p>"


def _text(cell: str | None) -> str:
    return "NULL" if cell is None else cell


def _cut(cell: str) -> str:
    """One line, no control characters (a cell must not steer the terminal), and not too long."""
    line = "".join(char if char.isprintable() else " " for char in cell)
    return line if len(line) <= _WIDEST_CELL else line[: _WIDEST_CELL - 1] + _GAP


def _fit(columns: list[list[str]]) -> list[list[str]]:
    """Takes columns out of the middle until the rest fits a screen."""
    if sum(max(map(len, column)) + 3 for column in columns) <= _WIDEST_TABLE:
        return columns
    kept = list(columns)
    while len(kept) > 2 and sum(max(map(len, column)) + 3 for column in kept) > _WIDEST_TABLE:
        del kept[len(kept) // 2]
    kept.insert((len(kept) + 1) // 2, [_GAP] * len(columns[0]))
    return kept
