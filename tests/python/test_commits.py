"""Processes that write one frame at once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from apiary import Apiary
from support import output, rows, script, start_together

WRITERS, APPENDS, ROWS = 4, 15, 10

WRITER = """
import sys
import pyarrow as pa
from apiary import Apiary
storage, writer, appends, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with Apiary(f"writer{writer}", storage=storage, bees=1, memory="64MB") as ap:
    frame = ap.frame("lab.raw.events")
    print("ready", flush=True)
    sys.stdin.readline()
    for append in range(appends):
        frame.write(pa.table({"writer": [writer] * rows, "append": [append] * rows, "row": list(range(rows))}))
"""


def test_appends_of_many_processes_are_there_exactly_once(ap: Apiary, storage: Path) -> None:
    schema = pa.schema([("writer", pa.int64()), ("append", pa.int64()), ("row", pa.int64())])
    frame = ap.create_frame("lab.raw.events", schema)
    writers = [script(WRITER, storage, writer, APPENDS, ROWS) for writer in range(WRITERS)]
    start_together(writers)
    for writer in writers:
        output(writer)
    wanted = [(w, a, r) for w in range(WRITERS) for a in range(APPENDS) for r in range(ROWS)]
    assert rows(frame.read()) == wanted
    assert frame.describe().version == WRITERS * APPENDS
    history = frame.history()
    assert [entry.version for entry in history] == list(range(WRITERS * APPENDS, -1, -1))
    assert sum(entry.rows or 0 for entry in history) == len(wanted)


def test_two_processes_create_one_frame_and_one_wins(storage: Path) -> None:
    with Apiary("first", storage=storage, bees=1, memory="64MB"):
        pass
    code = """
    import sys
    import pyarrow as pa
    from apiary import AlreadyExistsError, Apiary
    with Apiary("racer", storage=sys.argv[1], bees=1, memory="64MB") as ap:
        print("ready", flush=True)
        sys.stdin.readline()
        won = 0
        for number in range(20):
            try:
                ap.create_frame(f"lab.raw.f{number}", pa.schema([("x", pa.int64())]))
                won += 1
            except AlreadyExistsError:
                ap.frame(f"lab.raw.f{number}").write({"x": [1]})
        print(won)
    """
    racers = [script(code, storage) for _ in range(3)]
    start_together(racers)
    assert sum(int(output(racer)) for racer in racers) == 20
    with Apiary("judge", storage=storage, bees=1, memory="64MB") as ap:
        assert [ap.sql(f"SELECT count(*) FROM lab.raw.f{number}").fetchone() for number in range(20)] == [(2,)] * 20
