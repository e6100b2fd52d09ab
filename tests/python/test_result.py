"""Results: streaming, conversions, and how they show themselves."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import apiary
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from apiary import Apiary, Frame, Result
from support import rows

QUERY = "SELECT id, name FROM lab.raw.sensors"
ENDLESS = "SELECT a.x + b.x AS s FROM big a, big b"


@pytest.fixture
def filled(sensors: Frame) -> Frame:
    sensors.write({"id": list(range(20)), "name": [f"n{number}" for number in range(20)]})
    return sensors


CONVERSIONS: dict[str, Callable[[Result], Any]] = {
    "to_arrow": Result.to_arrow,
    "to_pandas": lambda result: pa.table(result.to_pandas()),
    "to_polars": Result.to_polars,
    "to_pylist": lambda result: pa.Table.from_pylist(result.to_pylist()),
    "iteration": lambda result: pa.Table.from_batches(list(result), result.schema),
    "pyarrow": pa.table,
    "polars": pl.DataFrame,
    "duckdb": lambda result: duckdb.sql("FROM result").to_arrow_table(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("way", CONVERSIONS)
def test_every_way_out_gives_the_same_rows(ap: Apiary, filled: Frame, way: str) -> None:
    assert rows(CONVERSIONS[way](ap.sql(QUERY))) == sorted((number, f"n{number}") for number in range(20))


@pytest.mark.parametrize("way", CONVERSIONS)
def test_every_way_out_takes_an_empty_result(ap: Apiary, filled: Frame, way: str) -> None:
    assert rows(CONVERSIONS[way](ap.sql(f"{QUERY} WHERE id < 0"))) == []


@pytest.mark.parametrize("first", ["to_arrow", "to_pandas", "to_polars", "to_pylist"])
def test_a_conversion_keeps_the_rows(ap: Apiary, filled: Frame, first: str) -> None:
    result = ap.sql(QUERY)
    CONVERSIONS[first](result)
    for way in [*CONVERSIONS, *CONVERSIONS]:
        assert len(rows(CONVERSIONS[way](result))) == 20, way


def test_columns_and_schema_are_known_before_any_row(ap: Apiary, filled: Frame) -> None:
    result = ap.sql("SELECT id, value, seen FROM lab.raw.sensors")
    assert result.columns == ["id", "value", "seen"]
    assert result.schema.types == [pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")]


def test_batches_come_while_the_query_runs(ap: Apiary, big: Frame) -> None:
    result = ap.sql(ENDLESS)
    batches = iter(result)
    first, second = next(batches), next(batches)
    assert isinstance(first, pa.RecordBatch)
    assert first.num_rows > 0 and second.num_rows > 0
    result.cancel()
    with pytest.raises(apiary.CancelledError):
        for _ in batches:
            pass
    with pytest.raises(apiary.CancelledError):
        next(iter(result))


def test_streaming_gives_every_row_once(ap: Apiary, big: Frame) -> None:
    result = ap.sql("SELECT x FROM big")
    total = count = 0
    for batch in result:
        total += sum(batch.column(0).to_pylist())
        count += batch.num_rows
    assert (count, total) == (1_000_000, 499_999_500_000)
    for again in (result.to_arrow, lambda: list(result), lambda: pa.table(result)):
        with pytest.raises(apiary.InvalidInputError, match="read"):
            again()


def test_a_stream_that_was_begun_goes_on_where_it_stopped_and_never_looks_whole(ap: Apiary, big: Frame) -> None:
    result = ap.sql("SELECT x FROM big")
    begun = next(iter(result)).num_rows
    with pytest.raises(apiary.InvalidInputError):
        result.to_arrow()
    assert begun + sum(batch.num_rows for batch in result) == 1_000_000


def test_rows_are_fetched_as_tuples(ap: Apiary, filled: Frame) -> None:
    result = ap.sql(f"{QUERY} ORDER BY id")
    assert result.fetchone() == (0, "n0")
    assert result.fetchone() == (1, "n1")
    assert result.fetchall() == [(number, f"n{number}") for number in range(2, 20)]
    assert (result.fetchone(), result.fetchall()) == (None, [])
    at = datetime(2024, 1, 1, tzinfo=timezone.utc)
    assert ap.sql("SELECT $at AS seen, NULL AS n, 'x' AS s", {"at": at}).fetchall() == [(at, None, "x")]


FAILING = "SELECT x, 10 / (x - 900000) AS q FROM big"


@pytest.mark.parametrize("way", CONVERSIONS)
def test_an_error_in_the_middle_is_raised_on_every_way_out(ap: Apiary, big: Frame, way: str) -> None:
    with pytest.raises(Exception, match="(?i)divide by zero"):
        CONVERSIONS[way](ap.sql(FAILING))


def test_a_failed_result_keeps_saying_so(ap: Apiary, big: Frame) -> None:
    result = ap.sql(FAILING)
    for _ in range(2):
        with pytest.raises(apiary.ApiaryError, match="(?i)divide by zero"):
            list(result)


def test_repr_shows_the_first_rows_and_loses_none(ap: Apiary, filled: Frame) -> None:
    result = ap.sql(f"{QUERY} ORDER BY id")
    shown = repr(result)
    assert shown == repr(result)
    lines = shown.splitlines()
    assert lines[0].split() == ["id", "│", "name"]
    assert lines[2].split() == ["0", "│", "n0"]
    assert lines[-1] == "(first 10 rows)"
    assert len(lines) == 13
    assert result.fetchall() == [(number, f"n{number}") for number in range(20)]
    assert "have been read" in repr(result)


def test_repr_of_a_kept_result_stays(ap: Apiary, filled: Frame) -> None:
    result = ap.sql(f"{QUERY} WHERE id < 2 ORDER BY id")
    result.to_arrow()
    assert repr(result) == "id │ name\n───┼─────\n0  │ n0\n1  │ n1\n(2 rows)"


def test_repr_of_unusual_cells(ap: Apiary) -> None:
    shown = repr(ap.sql("SELECT NULL AS n, $long AS l, $nasty AS e", {"long": "x" * 99, "nasty": "a\x1b[31mb\nc"}))
    row = shown.splitlines()[2]
    assert row.split(" │ ")[0].strip() == "NULL"
    assert "x" * 39 + "…" in row and "x" * 40 not in row
    assert "\x1b" not in shown and len(shown.splitlines()) == 4


def test_repr_of_many_columns_fits_a_screen(ap: Apiary) -> None:
    shown = repr(ap.sql("SELECT " + ", ".join(f"'{'v' * 20}' AS column_{number}" for number in range(30))))
    assert "column_0" in shown and "column_29" in shown and "…" in shown
    assert max(map(len, shown.splitlines())) <= 180


def test_repr_of_a_failing_query_does_not_raise(ap: Apiary, big: Frame) -> None:
    assert "ivide by zero" in repr(ap.sql("SELECT 10 / (x - x) AS q FROM big"))


def test_html_escapes_what_the_data_says(ap: Apiary) -> None:
    script = "<script>alert('x')</script>"
    result = ap.sql('SELECT $s AS "<b>", NULL AS n', {"s": script})
    html = result._repr_html_()
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;" in html and "&lt;b&gt;" in html
    assert "NULL" in html and "1 row" in html
    assert result.fetchall() == [(script, None)]


def test_stats_tell_about_the_run(ap: Apiary, big: Frame) -> None:
    result = ap.sql("SELECT x FROM big WHERE x >= 10")
    result.to_arrow()
    stats = result.stats
    assert stats["rows"] == 999_990
    assert stats["elapsed_ms"] > 0
    assert stats["bees"] >= 1 and stats["tasks"] >= 1
    assert stats["cells_read"] >= 1
    assert 0 <= stats["temperature"] <= 1
    assert isinstance(ap.sql(ENDLESS).stats["elapsed_ms"], float)


def running(ap: Apiary) -> int:
    count: int = ap.status()["queries_running"]
    return count


def wait_until_idle(ap: Apiary) -> float:
    start = time.monotonic()
    while running(ap) and time.monotonic() - start < 10:
        time.sleep(0.005)
    return time.monotonic() - start


def test_a_dropped_result_stops_its_query(ap: Apiary, big: Frame) -> None:
    result = ap.sql(ENDLESS)
    next(iter(result))
    assert running(ap) == 1
    del result
    gc.collect()
    assert wait_until_idle(ap) < 1


def test_a_cancelled_result_stops_its_query(ap: Apiary, big: Frame) -> None:
    result = ap.sql("SELECT sum((a.x + b.x) % 7) FROM big a, big b")
    assert running(ap) == 1
    result.cancel()
    assert wait_until_idle(ap) < 1
    with pytest.raises(apiary.CancelledError):
        result.to_arrow()
    result.cancel()


def test_many_results_can_be_open_at_once(ap: Apiary, filled: Frame) -> None:
    results = [ap.sql(f"{QUERY} WHERE id = $id", {"id": number % 20}, time_limit=20) for number in range(40)]
    assert [result.fetchall() for result in results] == [[(number % 20, f"n{number % 20}")] for number in range(40)]


def test_a_kept_result_outlives_its_apiary(storage: Any) -> None:
    with Apiary("short", storage=storage, bees=1, memory="128MB") as ap:
        kept, left = ap.sql("SELECT 1 AS a"), ap.sql("SELECT 2 AS b")
        kept.to_arrow()
    assert kept.to_pylist() == [{"a": 1}]
    assert "1" in repr(kept)
    assert kept.stats["rows"] == 1
    with pytest.raises(apiary.ClosedError):
        left.to_arrow()
