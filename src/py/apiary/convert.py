"""Small values on their way to the native module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .errors import InvalidInputError

if TYPE_CHECKING:
    from .types import Params, Seconds, Timestamp


def seconds(limit: Seconds | None) -> float | None:
    """A time limit in seconds."""
    if limit is None:
        return None
    try:
        return limit.total_seconds() if isinstance(limit, timedelta) else float(limit)
    except (TypeError, ValueError):
        raise InvalidInputError(f"time_limit is {limit!r}: use seconds or a timedelta") from None


def query_params(params: Params | None) -> dict[str, Any] | list[Any] | None:
    """Parameters as the native module takes them."""
    if params is None:
        return None
    if isinstance(params, Mapping):
        return {str(name): value for name, value in params.items()}
    if isinstance(params, Iterable) and not isinstance(params, (str, bytes)):
        return list(params)
    raise InvalidInputError(f"params is {params!r}: use a dict for $name, or a list for $1, $2, …")


def names(columns: str | Iterable[str] | None) -> list[str] | None:
    """Column names; one may be given alone."""
    if columns is None:
        return None
    return [columns] if isinstance(columns, str) else list(columns)


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL takes it."""
    return "'" + value.replace("'", "''") + "'"


def milliseconds(timestamp: Timestamp | None) -> int | None:
    """A moment in milliseconds since the epoch. Without a time zone it is local time, as everywhere in Python."""
    if isinstance(timestamp, int) and abs(timestamp) > _MOST:
        raise InvalidInputError(f"timestamp is {timestamp}: use milliseconds since 1970, or a datetime")
    if timestamp is None or isinstance(timestamp, int):
        return timestamp
    moment = _parse(timestamp) if isinstance(timestamp, str) else timestamp
    if not isinstance(moment, datetime):
        kind = type(moment).__name__
        raise InvalidInputError(f"timestamp is of type {kind}: use a datetime, ISO 8601, or milliseconds since 1970")
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    try:
        return (moment.astimezone(timezone.utc) - epoch) // timedelta(milliseconds=1)
    except (OverflowError, ValueError):
        raise InvalidInputError(f"timestamp is {moment}, which no time zone can hold") from None


def moment(milliseconds_: int) -> datetime:
    """Milliseconds since the epoch as a datetime in UTC."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds_)


def _parse(text: str) -> datetime:
    try:
        # Python 3.10 does not know the letter Z.
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise InvalidInputError(f"timestamp is {text!r}: use ISO 8601, like 2025-12-31T23:59:59Z") from None


_MOST = 2**63 - 1


def text(name: str, value: str, what: str = "it") -> str:
    """Refuses what is no text."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is of type {type(value).__qualname__}: give {what} as text")
    return value


def positive(name: str, value: Any) -> None:
    """Refuses a number that the native module could not even take."""
    _number(name, value, 1)


def not_negative(name: str, value: Any) -> None:
    """As :func:`positive`, with 0."""
    _number(name, value, 0)


def size(name: str, value: Any) -> None:
    """Refuses what is neither bytes nor text like ``"512MB"``."""
    if isinstance(value, float):
        raise InvalidInputError(f"{name} is {value!r}: use whole bytes, or text like '512MB'")
    if not isinstance(value, str):
        _number(name, value, 1)


def _number(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, (str, float)):
        raise InvalidInputError(f"{name} is {value!r}: use a whole number")
    if isinstance(value, bool) or (isinstance(value, int) and value < least):
        raise InvalidInputError(f"{name} is {value!r}: use {least} or more")
    if isinstance(value, int) and value > _MOST:
        raise InvalidInputError(f"{name} is {value!r}: use at most {_MOST}")
