"""Streams: rows that come a few at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from ._apiary import Appender
    from .frame import Frame
    from .types import Data


class FrameStream:
    """Rows on their way into a frame; made by :meth:`Frame.stream`.

    >>> with frame.stream(seconds=5) as s:
    ...     for reading in sensor:
    ...         s.append([{"region": "north", "celsius": reading}])
    """

    __slots__ = ("_appender", "_frame")

    def __init__(self, frame: Frame, appender: Appender) -> None:
        self._frame = frame
        self._appender = appender

    def append(self, data: Data) -> None:
        """Appends rows, given as to :meth:`Frame.write`. When this returns they are written to the local buffer, and
        survive the end of this process. Queries of this Apiary see them at once, other readers once they are
        committed. Waits while too many rows wait to be committed."""
        source = self._frame._input(data)
        try:
            self._appender.append(source.stream)
        except Exception as error:
            if source.failure is not None:
                raise source.failure from error
            raise

    def flush(self) -> int:
        """Commits all rows that were appended, and returns the version that has them."""
        return self._appender.flush()

    def close(self) -> int:
        """Commits all rows, ends the stream, and returns the version that has them. Rows that cannot be committed stay
        in the buffer, for the next stream into the frame. Again is no error."""
        return self._appender.close()

    @property
    def waiting(self) -> int:
        """Rows that are not committed yet."""
        return self._appender.waiting()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{self._frame!r}.stream() with {self.waiting} rows that are not committed yet"
