"""Threads, processes and signals."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary, Frame
from support import output, rows, script

ENDLESS = "SELECT sum((a.x + b.x) % 7) FROM big a, big b"


def test_eight_threads_query_and_write_at_once(ap: Apiary) -> None:
    frame = ap.create_frame("shared", pa.schema([("thread", pa.int64()), ("turn", pa.int64())]))

    def work(thread: int) -> list[int]:
        counts = []
        for turn in range(5):
            frame.write({"thread": [thread], "turn": [turn]})
            query = "SELECT count(*) FROM shared WHERE thread = $thread"
            counts.append(ap.sql(query, {"thread": thread}).fetchone()[0])  # type: ignore[index]
        return counts

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[1, 2, 3, 4, 5]] * 8
    assert rows(frame.read()) == [(thread, turn) for thread in range(8) for turn in range(5)]
    # Appends that waited for each other landed together.
    assert frame.describe().version <= 40


def test_one_result_is_shared_by_threads(ap: Apiary, big: Frame) -> None:
    result = ap.sql("SELECT x FROM big")
    readers = [iter(result) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda reader: sum(sum(batch.column(0).to_pylist()) for batch in reader), readers))
    assert sum(sums) == 499_999_500_000


def test_other_threads_run_while_a_query_runs(ap: Apiary, big: Frame) -> None:
    counted = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = counted
        with pytest.raises(apiary.QueryTimeoutError):
            ap.sql(ENDLESS, time_limit=0.5).fetchall()
        during = counted - before
    finally:
        stop.set()
        thread.join()
    assert during > 20_000, "the query held the GIL"


def test_two_apiaries_live_in_one_process(ap: Apiary, storage: Path) -> None:
    with Apiary("second", storage=storage, bees=1, memory="128MB") as second:
        second.create_frame("f", pa.schema([("x", pa.int64())])).write({"x": [1]})
        assert ap.sql("SELECT x FROM f").fetchall() == [(1,)]
        ap.frame("f").write({"x": [2]})
        assert rows(second.sql("SELECT x FROM f")) == [(1,), (2,)]
    assert ap.sql("SELECT count(*) FROM f").fetchone() == (2,)


def test_a_closed_apiary_says_so(storage: Path) -> None:
    closed = Apiary("short", storage=storage, bees=1, memory="128MB")
    frame = closed.create_frame("f", pa.schema([("x", pa.int64())]))
    closed.close()
    closed.close()
    calls = (
        lambda: closed.sql("SELECT 1 AS a"),
        lambda: closed.frame("f"),
        lambda: frame.write({"x": [1]}),
        lambda: frame.write(pa.table({"x": [1]})),
        frame.read,
        frame.history,
        closed.frames,
        closed.status,
    )
    for call in calls:
        with pytest.raises(apiary.ClosedError, match="closed"):
            call()


def test_closing_ends_what_runs(storage: Path, big: Frame) -> None:
    closing = Apiary("closing", storage=storage, bees=1, memory="256MB")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: closing.sql(ENDLESS).fetchall())
        while not closing.status()["queries_running"]:
            time.sleep(0.01)
        start = time.monotonic()
        closing.close()
        with pytest.raises((apiary.CancelledError, apiary.ClosedError)):
            running.result(timeout=10)
    assert time.monotonic() - start < 5


def test_a_forked_child_is_told_to_be_spawned(storage: Path) -> None:
    told = output(
        script(
            """
            import json, os, sys, warnings
            from apiary import Apiary, ApiaryError
            warnings.simplefilter("ignore", DeprecationWarning)
            ap = Apiary("parent", storage=sys.argv[1], bees=2, memory="128MB")
            ap.sql("CREATE FRAME f AS SELECT 1 AS a")
            frame, result, stream = ap.frame("f"), ap.sql("SELECT 2 AS a"), iter(ap.sql("SELECT 3 AS a"))
            reader, writer = os.pipe()
            if os.fork() == 0:
                def told(call):
                    try:
                        return ["no error", str(call())]
                    except ApiaryError as error:
                        return [type(error).__name__, str(error)]
                calls = [lambda: ap.sql("SELECT 1 AS a"), ap.frames, ap.status, frame.read, frame.describe,
                         lambda: frame.write({"a": [1]}), result.to_arrow, lambda: next(stream), lambda: ap.frame("f")]
                answers = [told(call) for call in calls]
                del result, stream
                ap.close()
                answers.append(told(lambda: Apiary("child", storage=sys.argv[1], bees=1, memory="128MB")))
                os.write(writer, json.dumps(answers).encode())
                os._exit(0)
            os.close(writer)
            text = b""
            while chunk := os.read(reader, 65536):
                text += chunk
            os.wait()
            print(json.dumps([json.loads(text), ap.sql("SELECT a + 1 AS a FROM f").fetchone(), result.fetchone(),
                              next(stream).to_pylist()]))
            ap.close()
            """,
            storage,
        )
    )
    child, parent, result, stream = json.loads(told)
    for kind, message in child:
        assert kind == "ClosedError" and "'spawn'" in message
    assert (parent, result, stream) == ([2], [2], [{"a": 3}])


WAITS = {
    "rows": "ap.sql(ENDLESS).fetchall()",
    "all rows": "ap.sql(ENDLESS).to_arrow()",
    "a preview": "repr(ap.sql(ENDLESS))",
    "rows by pyarrow": "foreign(pyarrow.table, ap.sql(ENDLESS))",
    "rows by polars": "foreign(polars.DataFrame, ap.sql(ENDLESS))",
    "a statement": 'ap.sql(f"CREATE FRAME never AS {ENDLESS}")',
    "a write of a result": "ap.frame('sums').write(ap.sql(ENDLESS))",
    "a write of a generator": "ap.frame('sums').write(endless_batches())",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait_and_its_work(storage: Path, wait: str) -> None:
    process = script(
        f"""
        import sys, time
        import polars, pyarrow
        from apiary import Apiary
        ENDLESS = "SELECT sum((a.x + b.x) % 7) AS s FROM big a, big b"
        def endless_batches():
            while True:
                time.sleep(0.01)
                yield pyarrow.record_batch({{"s": pyarrow.array([1], pyarrow.int64())}})
        def foreign(read, result):
            try:
                read(result)
            except Exception:
                # Their error comes first; the signal follows as soon as Python code runs.
                for _ in range(1000):
                    time.sleep(0.01)
        with Apiary("interrupted", storage=sys.argv[1], bees=2, memory="512MB") as ap:
            frame = ap.create_frame("big", pyarrow.schema([("x", pyarrow.int64())]))
            frame.write(pyarrow.table({{"x": pyarrow.array(range(1_000_000), pyarrow.int64())}}))
            ap.create_frame("sums", pyarrow.schema([("s", pyarrow.int64())]))
            print("ready", flush=True)
            try:
                {WAITS[wait]}
                print("no interrupt")
            except KeyboardInterrupt:
                print(time.time(), flush=True)
            end = time.monotonic() + 1
            while ap.status()["queries_running"] and time.monotonic() < end:
                time.sleep(0.01)
            print(ap.status()["queries_running"])
            print(ap.frame("sums").describe().version, ap.frames())
            print(ap.sql("SELECT count(*) FROM big").fetchone()[0])
        """,
        storage,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.7)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    interrupted, still_running, frames, count = output(process, timeout=20).splitlines()
    assert float(interrupted) - sent < 1
    assert still_running == "0"
    assert frames == "0 ['default.default.big', 'default.default.sums']"
    assert count == "1000000"


def test_a_program_that_forgets_to_close_ends(storage: Path) -> None:
    process = script(
        """
        import sys
        from apiary import Apiary
        ap = Apiary("forgetful", storage=sys.argv[1], bees=2, memory="128MB")
        left = ap.sql("SELECT 1 AS a")
        print(ap.sql("SELECT 2 AS a").fetchone()[0])
        """,
        storage,
    )
    try:
        assert output(process, timeout=15) == "2\n"
    except subprocess.TimeoutExpired:
        process.kill()
        raise
