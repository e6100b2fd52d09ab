"""What a process does with its machine: memory, disk, temperature, housekeeping."""

from __future__ import annotations

import time
from pathlib import Path

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary
from deltalake import DeltaTable
from support import output, script

WIDE = "SELECT value AS k, repeat(md5(CAST(value AS VARCHAR)), 8) AS t FROM generate_series(1, 800000)"
SORT = "SELECT k FROM wide ORDER BY t, k"


def until(condition, what: str, patience: float = 30) -> None:
    """Waits for what is bound to happen."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.fixture
def wide(storage: Path) -> Path:
    """A meadow with rows that do not fit into 256 MB."""
    with Apiary("wide", storage, bees=2, housekeeping=False) as ap:
        ap.sql(f"CREATE FRAME wide AS {WIDE}")
    return storage


def test_what_is_spilled_is_counted_bounded_and_removed(wide: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Apiary("s", wide, bees=1, memory="256MB", scratch=scratch) as ap:
        assert list(scratch.iterdir())
        assert len(ap.sql(SORT).fetchall()) == 800_000
        written = ap.status()["disk_written"]
        assert written["spill"] > 1 << 20
        assert written["last_day"] == written["spill"]
    assert not list(scratch.iterdir())
    with Apiary("s", wide, bees=1, memory="256MB", scratch=scratch, disk_writes_per_day="1MB") as ap:
        for _ in range(2):
            with pytest.raises(apiary.MemoryExceededError, match="disk_writes_per_day"):
                ap.sql(SORT).fetchall()
            # One block at most is written beyond it.
            assert 1 << 20 <= ap.status()["disk_written"]["last_day"] < 4 << 20
    with Apiary("s", wide, bees=1, memory="256MB", scratch=scratch, disk_writes_per_day="1MB") as ap:
        # The day is not over because the process is.
        assert 1 << 20 <= ap.status()["disk_written"]["last_day"] < 4 << 20
        with pytest.raises(apiary.MemoryExceededError, match="disk_writes_per_day"):
            ap.sql(SORT).fetchall()
    with Apiary("s", wide, bees=1, memory="256MB", scratch=scratch) as ap:
        rows = ap.sql(SORT)
        assert rows.fetchone() is not None
        rows.cancel()
        assert ap.status()["disk_written"]["spill"] > 1 << 20
    with Apiary("s", wide, bees=1, memory="256MB", spill="none") as ap:
        with pytest.raises(apiary.MemoryExceededError):
            ap.sql(SORT).fetchall()
        assert ap.sql("SELECT count(*) FROM wide").fetchone() == (800_000,)


def test_a_query_that_counts_nothing_is_given_up_when_the_process_holds_too_much(storage: Path) -> None:
    # In a process of its own: what others let go of meanwhile is to the good of the query.
    code = """
    import sys
    from apiary import Apiary, MemoryExceededError
    with Apiary("s", sys.argv[1], bees=1, memory="32MB") as ap:
        # Rows that nobody keeps make no room, though their query goes on.
        reading = iter(ap.sql("SELECT value, repeat('x', 400) AS t FROM generate_series(1, 800000)"))
        assert sum(next(reading).num_rows for _ in range(60)) > 400_000
        values = ", ".join(f"({n}, '{n:040}')" for n in range(100_000))
        try:
            ap.sql(f"SELECT count(*) FROM (VALUES {values})").fetchone()
        except MemoryExceededError as error:
            print("process held" in str(error), ap.sql("SELECT 1").fetchone())
    """
    assert output(script(code, storage), 60) == "True (1,)\n"


def test_what_a_caller_keeps_is_not_held_against_queries(storage: Path) -> None:
    with Apiary("s", storage, bees=1, memory="64MB") as ap:
        kept = ap.sql("SELECT value, repeat('x', 400) AS t FROM generate_series(1, 800000)").to_arrow()
        assert kept.nbytes > 300 << 20
        for _ in range(5):
            assert ap.sql("SELECT sum(value) FROM generate_series(1, 3000000)").fetchone() == (4_500_001_500_000,)


def test_words_that_are_none_are_refused(ap: Apiary, storage: Path) -> None:
    frame = ap.create_frame("f", pa.schema([("x", pa.int64())]))
    with pytest.raises(apiary.InvalidInputError, match="block, error or ignore"):
        frame.write({"x": [1]}, backpressure="never")
    with pytest.raises(apiary.InvalidInputError, match="disk or none"):
        Apiary("s", storage, spill="tape")
    with pytest.raises(apiary.UnsupportedError, match="use disk or none"):
        Apiary("s", storage, spill="meadow")
    assert frame.write({"x": [1]}, backpressure="error").rows == 1
    assert ap.status()["band"] == "cold"


def test_a_process_merges_the_small_cells_that_it_wrote(storage: Path) -> None:
    with Apiary("s", storage, bees=1) as ap:
        frame = ap.create_frame("f", pa.schema([("x", pa.int64())]))
        for x in range(100):
            frame.write({"x": [x]})
        until(lambda: frame.describe().cells < 40, "the cells are merged")
        table = DeltaTable(str(storage / "default" / "default" / "f"))
        assert sorted(table.to_pyarrow_table()["x"].to_pylist()) == list(range(100))
        assert "OPTIMIZE" in {entry.operation for entry in frame.history()}


def test_a_table_that_says_how_long_it_keeps_cells_is_obeyed(storage: Path) -> None:
    with Apiary("s", storage, bees=1, housekeeping=False) as ap:
        frame = ap.create_frame("f", pa.schema([("x", pa.int64())]))
        frame.write({"x": [1]})
        path = storage / "default" / "default" / "f"
        properties = {"delta.deletedFileRetentionDuration": "interval 0 hours"}
        DeltaTable(str(path)).alter.set_table_properties(properties)
        frame.overwrite({"x": [2]})
        time.sleep(1.1)
        assert len(ap.sql("VACUUM f DRY RUN").fetchall()) == 1
        properties = {"delta.deletedFileRetentionDuration": "interval 90 days"}
        DeltaTable(str(path)).alter.set_table_properties(properties)
        assert ap.sql("VACUUM f DRY RUN").fetchall() == []
