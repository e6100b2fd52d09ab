"""Apiary on asyncio."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pyarrow as pa
import pytest
from apiary import CancelledError, InvalidInputError, NotFoundError
from apiary.aio import AsyncApiary


def run(storage: Path, work) -> None:
    async def main() -> None:
        async with AsyncApiary("async", storage=storage, bees=2, memory="256MB") as ap:
            await work(ap)

    asyncio.run(main())


def test_frames_are_written_changed_and_read(storage: Path) -> None:
    async def work(ap: AsyncApiary) -> None:
        frame = await ap.create_frame("lab.t.f", pa.schema([("id", pa.int64()), ("v", pa.string())]))
        assert (await frame.write({"id": [1, 2], "v": ["a", "b"]})).rows == 2
        assert await ap.frames() == ["lab.t.f"]
        await asyncio.gather(*(frame.write({"id": [i]}) for i in range(10, 20)))
        assert (await frame.update({"v": "'x'"}, "id = $id", {"id": 1})).rows_updated == 1
        done = (
            await frame.merge({"id": [2, 3], "v": ["B", "C"]}, "target.id = source.id")
            .when_matched_update()
            .when_not_matched_insert()
            .execute()
        )
        assert (done.rows_updated, done.rows_inserted) == (1, 1)
        result = await ap.sql("SELECT id, v FROM lab.t.f WHERE id < $most ORDER BY id", {"most": 10})
        assert result.columns == ["id", "v"]
        assert await result.fetchall() == [(1, "x"), (2, "B"), (3, "C")]
        total = 0
        async for batch in await frame.read():
            total += batch.num_rows
        assert total == 13
        assert (await (await frame.changes(0, 1)).to_arrow()).num_rows == 2
        assert await frame.verify() == []
        assert (await ap.status())["bees"] == 2
        with pytest.raises(NotFoundError):
            await ap.sql("SELECT * FROM nowhere")
        with pytest.raises(InvalidInputError):
            await frame.update({})

    run(storage, work)


def test_the_loop_goes_on_while_a_query_runs_and_a_cancelled_task_ends_it(storage: Path) -> None:
    async def work(ap: AsyncApiary) -> None:
        frame = await ap.create_frame("big", pa.schema([("x", pa.int64())]))
        await frame.write(pa.table({"x": pa.array(range(1_000_000), pa.int64())}))
        result = await ap.sql("SELECT count(*) FROM big AS a, big AS b WHERE a.x + b.x = -1")
        counting = asyncio.create_task(result.fetchall())
        for _ in range(20):
            before = time.monotonic()
            await asyncio.sleep(0.01)
            assert time.monotonic() - before < 1
        assert not counting.done()
        counting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await counting
        while (await ap.status())["queries_running"]:
            await asyncio.sleep(0.01)
        with pytest.raises(CancelledError):
            await result.fetchall()

    run(storage, work)


def test_it_must_be_started_and_can_be_closed_twice(storage: Path) -> None:
    async def main() -> None:
        ap = AsyncApiary(storage=storage, bees=1, memory="128MB")
        with pytest.raises(RuntimeError, match="async with"):
            ap.frame("f")
        assert await ap.frames() == []
        assert ap.frame("f").name == "default.default.f"
        await ap.close()

    asyncio.run(main())
