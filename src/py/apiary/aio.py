"""Apiary for programs that run on asyncio.

The calls are those of :class:`apiary.Apiary`, each awaited; they wait on threads of their own, never on the event loop.

>>> async with AsyncApiary("production", storage="s3://bucket/meadow") as ap:
...     frame = await ap.create_frame("analytics.sensors.temperature", schema, if_not_exists=True)
...     await frame.write(table)
...     async for batch in await ap.sql("SELECT * FROM analytics.sensors.temperature"):
...         print(batch.num_rows)

A task that is cancelled while it waits for rows cancels the query. A statement that changes something, and whose task
is cancelled, may still be carried out.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from .apiary import Apiary
from .frame import Frame
from .merge import Merge
from .result import Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    import pyarrow as pa

    from .types import Data, Params, Seconds

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")

_THREADS = 64
"""Calls that can wait at the same time."""


class _Threaded(Generic[S]):
    """An object whose calls wait on threads."""

    def __init__(self, sync: S, threads: ThreadPoolExecutor) -> None:
        self._sync = sync
        self._threads = threads

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _awaited(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[_Threaded[S], P], Awaitable[T]]:
    """The method, waited for on a thread."""

    @functools.wraps(method)
    async def call(self: _Threaded[S], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(functools.partial(method, self._sync, *args, **kwargs))

    return call


class AsyncResult(_Threaded[Result]):
    """Rows of a query: a :class:`apiary.Result` that is awaited."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result."""
        return self._sync.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._sync.columns

    @property
    def stats(self) -> dict[str, Any]:
        """Facts of the run, complete once the last row has been read."""
        return self._sync.stats

    def cancel(self) -> None:
        """Stops the query."""
        self._sync.cancel()

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await super()._run(call)
        except asyncio.CancelledError:
            # The thread that waits for rows comes back at once.
            self._sync.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        batches = iter(self._sync)
        while (batch := await self._run(lambda: next(batches, None))) is not None:
            yield batch

    to_arrow = _awaited(Result.to_arrow)
    to_pandas = _awaited(Result.to_pandas)
    to_polars = _awaited(Result.to_polars)
    to_pylist = _awaited(Result.to_pylist)
    fetchone = _awaited(Result.fetchone)
    fetchall = _awaited(Result.fetchall)


class AsyncMerge(_Threaded[Merge]):
    """A :class:`apiary.Merge` whose ``execute`` is awaited; its clauses are said as there."""

    def __getattr__(self, name: str) -> Callable[..., AsyncMerge]:
        if not name.startswith("when_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        clause = getattr(self._sync, name)

        @functools.wraps(clause)
        def add(*args: Any, **kwargs: Any) -> AsyncMerge:
            clause(*args, **kwargs)
            return self

        return add

    execute = _awaited(Merge.execute)


class AsyncFrame(_Threaded[Frame]):
    """A :class:`apiary.Frame` whose calls are awaited."""

    @property
    def name(self) -> str:
        """``hive.box.frame``."""
        return self._sync.name

    def merge(self, source: Data, on: str) -> AsyncMerge:
        """As :meth:`apiary.Frame.merge`."""
        return AsyncMerge(self._sync.merge(source, on), self._threads)

    async def read(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """As :meth:`apiary.Frame.read`."""
        return AsyncResult(await self._run(functools.partial(self._sync.read, *args, **kwargs)), self._threads)

    async def changes(self, since: int, until: int | None = None) -> AsyncResult:
        """As :meth:`apiary.Frame.changes`."""
        return AsyncResult(await self._run(functools.partial(self._sync.changes, since, until)), self._threads)

    write = _awaited(Frame.write)
    overwrite = _awaited(Frame.overwrite)
    delete = _awaited(Frame.delete)
    update = _awaited(Frame.update)
    optimize = _awaited(Frame.optimize)
    cluster_by = _awaited(Frame.cluster_by)
    vacuum = _awaited(Frame.vacuum)
    verify = _awaited(Frame.verify)
    restore = _awaited(Frame.restore)
    history = _awaited(Frame.history)
    describe = _awaited(Frame.describe)
    exists = _awaited(Frame.exists)
    drop = _awaited(Frame.drop)
    add_column = _awaited(Frame.add_column)
    rename_column = _awaited(Frame.rename_column)
    drop_column = _awaited(Frame.drop_column)
    set_nullable = _awaited(Frame.set_nullable)
    set_type = _awaited(Frame.set_type)
    add_constraint = _awaited(Frame.add_constraint)
    drop_constraint = _awaited(Frame.drop_constraint)
    set_properties = _awaited(Frame.set_properties)

    def __repr__(self) -> str:
        return f"AsyncFrame({self.name!r})"


class AsyncApiary:
    """A node: an :class:`apiary.Apiary`, with the same arguments, whose calls are awaited. It starts with
    ``async with``, or at the first call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._make = functools.partial(Apiary, *args, **kwargs)
        self._threads = ThreadPoolExecutor(_THREADS, "apiary-async")
        self._started: asyncio.Task[Apiary] | None = None

    async def sql(self, query: str, params: Params | None = None, *, time_limit: Seconds | None = None) -> AsyncResult:
        """As :meth:`apiary.Apiary.sql`."""
        result = await self._call(Apiary.sql, query, params, time_limit=time_limit)
        return AsyncResult(result, self._threads)

    def frame(self, name: str) -> AsyncFrame:
        """The frame ``hive.box.frame``. The node must have been started."""
        return AsyncFrame(self._running().frame(name), self._threads)

    async def create_frame(self, *args: Any, **kwargs: Any) -> AsyncFrame:
        """As :meth:`apiary.Apiary.create_frame`."""
        return AsyncFrame(await self._call(Apiary.create_frame, *args, **kwargs), self._threads)

    async def drop_frame(self, name: str, *, if_exists: bool = False) -> None:
        """As :meth:`apiary.Apiary.drop_frame`."""
        await self._call(Apiary.drop_frame, name, if_exists=if_exists)

    async def attach_frame(self, name: str) -> AsyncFrame:
        """As :meth:`apiary.Apiary.attach_frame`."""
        return AsyncFrame(await self._call(Apiary.attach_frame, name), self._threads)

    async def detach_frame(self, name: str) -> None:
        """As :meth:`apiary.Apiary.detach_frame`."""
        await self._call(Apiary.detach_frame, name)

    async def frames(self, within: str | None = None) -> list[str]:
        """As :meth:`apiary.Apiary.frames`."""
        return await self._call(Apiary.frames, within)

    async def views(self, within: str | None = None) -> list[str]:
        """As :meth:`apiary.Apiary.views`."""
        return await self._call(Apiary.views, within)

    async def status(self) -> dict[str, Any]:
        """As :meth:`apiary.Apiary.status`."""
        return await self._call(Apiary.status)

    async def close(self) -> None:
        """Stops the node: cancels its queries and waits for its threads."""
        started, self._started = self._started, None
        try:
            if started is not None:
                # On another thread: those of the calls may all wait for queries that this is to end.
                await asyncio.to_thread((await started).close)
        finally:
            self._threads.shutdown(wait=False)

    async def _call(self, method: Callable[Concatenate[Apiary, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        apiary = await self._start()
        call = functools.partial(method, apiary, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _start(self) -> Apiary:
        if self._started is None:

            async def start() -> Apiary:
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._make)

            self._started = asyncio.create_task(start())
        started = self._started
        try:
            # Whose task is cancelled does not keep others from it.
            return await asyncio.shield(started)
        except Exception:
            # The next call tries again.
            if self._started is started:
                self._started = None
            raise

    def _running(self) -> Apiary:
        if self._started is None or not self._started.done():
            raise RuntimeError("the Apiary is not started: use it with `async with`")
        return self._started.result()

    async def __aenter__(self) -> AsyncApiary:
        try:
            await self._start()
        except asyncio.CancelledError:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
