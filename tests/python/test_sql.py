"""SQL through Python: parameters, statements, and errors by kind."""

from __future__ import annotations

import decimal
import uuid
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import apiary
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apiary import Apiary, Frame

UTC = timezone.utc
BERLIN = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("given", "back"),
    [
        (None, None),
        (True, True),
        (-5, -5),
        (2**63 - 1, 2**63 - 1),
        (2**64 - 1, 2**64 - 1),
        (2**100, decimal.Decimal(2**100)),
        (0.1, 0.1),
        ("it's $x; -- ü🐝", "it's $x; -- ü🐝"),
        (b"\x00\xff", b"\x00\xff"),
        (decimal.Decimal("-12.340"), decimal.Decimal("-12.340")),
        (decimal.Decimal("1E+3"), decimal.Decimal(1000)),
        (date(2024, 2, 29), date(2024, 2, 29)),
        (time(23, 59, 59, 999999), time(23, 59, 59, 999999)),
        (datetime(2024, 2, 29, 1, 2, 3, 4), datetime(2024, 2, 29, 1, 2, 3, 4)),
        (datetime(2024, 2, 29, 1, 2, 3, 4, BERLIN), datetime(2024, 2, 28, 23, 2, 3, 4, UTC)),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ([1, 2, None], [1, 2, None]),
        ([1, 2.5], [1.0, 2.5]),
        (np.int32(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.datetime64("2024-02-29T01:02:03", "us"), datetime(2024, 2, 29, 1, 2, 3)),
        (pa.scalar(7, pa.int16()), 7),
    ],
    ids=repr,
)
def test_values_go_in_and_come_back(ap: Apiary, given: Any, back: Any) -> None:
    assert ap.sql("SELECT $v AS v", params={"v": given}).fetchone() == (back,)
    assert ap.sql("SELECT $1 AS v", params=[given]).fetchone() == (back,)


def test_an_interval_is_added_to_a_time(ap: Apiary) -> None:
    moment, gap = datetime(2024, 2, 28, 12), timedelta(days=1, hours=1, microseconds=5)
    query = "SELECT CAST($at AS TIMESTAMP) + CAST($gap AS INTERVAL) AS v"
    assert ap.sql(query, params={"at": moment, "gap": gap}).fetchone() == (moment + gap,)


def test_parameters_filter_and_are_never_text(ap: Apiary, sensors: Frame) -> None:
    sensors.write({"id": [1, 2, 3], "name": ["a", "b", "' OR 1=1 --"]})
    query = "SELECT id FROM lab.raw.sensors WHERE name = $name AND id >= $least"
    assert ap.sql(query, params={"name": "' OR 1=1 --", "least": 0}).fetchall() == [(3,)]
    assert ap.sql("SELECT id FROM lab.raw.sensors WHERE name = $1 AND id < $2", ("b", 5)).fetchall() == [(2,)]
    query = "SELECT count(*) FROM lab.raw.sensors WHERE array_has(CAST($ids AS BIGINT[]), id)"
    assert ap.sql(query, {"ids": [1, 3]}).fetchone() == (2,)


@pytest.mark.parametrize("params", [None, {}, {"y": 1}, []])
def test_a_parameter_that_is_not_given_is_an_error(ap: Apiary, params: Any) -> None:
    with pytest.raises(apiary.InvalidInputError):
        ap.sql("SELECT $x + 1 AS v", params=params).fetchall()


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, [1, "a"], decimal.Decimal("NaN"), 1j], ids=lambda value: type(value).__name__
)
def test_what_is_no_parameter_is_refused(ap: Apiary, value: Any) -> None:
    with pytest.raises(apiary.InvalidInputError, match="parameter"):
        ap.sql("SELECT $v AS v", params={"v": value})


def test_parameters_are_a_dict_or_a_list(ap: Apiary) -> None:
    for params in ("text", 7):
        with pytest.raises(apiary.InvalidInputError, match="use a dict"):
            ap.sql("SELECT $1 AS v", params=params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "error", "builtin"),
    [
        ("SELEC 1", apiary.InvalidInputError, ValueError),
        ("", apiary.InvalidInputError, ValueError),
        ("SELECT 1; SELECT 2", apiary.InvalidInputError, ValueError),
        ("SELECT nope FROM lab.raw.sensors", apiary.InvalidInputError, ValueError),
        ("SELECT no_such_function(1)", apiary.InvalidInputError, ValueError),
        ("SELECT * FROM nowhere", apiary.NotFoundError, LookupError),
        ("SELECT * FROM '/no/such/file.parquet'", apiary.NotFoundError, LookupError),
        ("USE HIVE nowhere", apiary.NotFoundError, LookupError),
        ("DROP FRAME nowhere", apiary.NotFoundError, LookupError),
        ("DESCRIBE nowhere", apiary.NotFoundError, LookupError),
        ("CREATE FRAME lab.raw.sensors (a INT)", apiary.AlreadyExistsError, Exception),
        ("CREATE HIVE default", apiary.AlreadyExistsError, Exception),
        ('CREATE HIVE "a-b"', apiary.InvalidInputError, ValueError),
    ],
)
def test_errors_have_their_kind(
    ap: Apiary, sensors: Frame, query: str, error: type[apiary.ApiaryError], builtin: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        ap.sql(query).fetchall()
    assert isinstance(caught.value, builtin)
    assert isinstance(caught.value, apiary.ApiaryError)
    assert caught.value.kind == error.kind
    assert str(caught.value)


def test_long_lists_find_what_duckdb_finds(ap: Apiary) -> None:
    count = 1000
    rows = pa.table(
        {
            "id": pa.array(range(count), pa.int32()),
            "big": pa.array([None if i % 7 == 0 else i for i in range(count)], pa.int64()),
            "text": pa.array([None if i % 11 == 0 else f"t{i % 300}" for i in range(count)], pa.string()),
            "day": pa.array([date(2020, 1, 1) + timedelta(days=i) for i in range(count)]),
            "price": pa.array([decimal.Decimal(i) / 4 for i in range(count)], pa.decimal128(12, 2)),
            "share": pa.array([(i - 500) / 8 for i in range(count)]),
        }
    )
    frame = ap.create_frame("listed", rows.schema)
    for first in range(0, count, 250):
        frame.write(rows.slice(first, 250))
    numbers = [*range(0, 900, 3), 5_000_000_000]
    lists = {
        "id": ", ".join(map(str, numbers)),
        "big": ", ".join(map(str, numbers)),
        "id + 1": ", ".join(map(str, numbers)),
        "text": ", ".join(f"'t{i}'" for i in numbers),
        "day": ", ".join(f"'{date(2020, 1, 1) + timedelta(days=i)}'" for i in numbers[:-1]),
        "price": ", ".join(str(i / 2) for i in numbers),
        "share": ", ".join(str(i - 100) for i in numbers),
    }
    peer = duckdb.connect()
    peer.register("listed", rows)
    for expression, values in lists.items():
        for condition in (
            f"{expression} IN ({values})",
            f"{expression} NOT IN ({values})",
            f"{expression} IN ({values}, NULL)",
            f"({expression} NOT IN ({values}, NULL)) IS NULL",
            f"NOT (id < 300 OR {expression} IN ({values}))",
            f"CASE WHEN {expression} IN ({values}) THEN id > 100 ELSE id < 50 END",
        ):
            query = f"SELECT id FROM listed WHERE {condition} ORDER BY id"
            assert ap.sql(query).fetchall() == peer.execute(query).fetchall(), condition[:60]
    ids = lists["id"]
    kept = ap.sql(f"SELECT count(*) FILTER (WHERE id IN ({ids})) AS n, NULL IN ({ids}) AS u FROM listed")
    assert kept.fetchall() == [(300, None)]
    # Bounds of the list leave cells out.
    plan = str(ap.sql(f"EXPLAIN SELECT id FROM listed WHERE id IN ({', '.join(map(str, range(300, 450)))})").to_arrow())
    assert "1 of 4" in plan, plan


def test_a_time_limit_ends_a_query(ap: Apiary, big: Frame) -> None:
    with pytest.raises(apiary.QueryTimeoutError) as caught:
        ap.sql("SELECT sum((a.x + b.x) % 7) FROM big a, big b", time_limit=0.2).fetchall()
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(TimeoutError):
        ap.sql("SELECT sum((a.x + b.x) % 7) FROM big a, big b", time_limit=timedelta(milliseconds=200)).to_arrow()
    assert ap.sql("SELECT count(*) FROM big", time_limit=60).fetchone() == (1_000_000,)


def test_an_apiary_has_a_time_limit_for_all_its_queries(storage: Path, big: Frame) -> None:
    with Apiary("hasty", storage=storage, bees=1, memory="256MB", time_limit=0.2) as hasty:
        with pytest.raises(apiary.QueryTimeoutError):
            hasty.sql("SELECT sum((a.x + b.x) % 7) FROM big a, big b").fetchall()
        assert hasty.sql("SELECT 1 AS a").fetchone() == (1,)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_is_above_zero(ap: Apiary, limit: float) -> None:
    with pytest.raises(apiary.InvalidInputError, match="time_limit"):
        ap.sql("SELECT 1 AS a", time_limit=limit)


def test_a_query_that_needs_more_memory_than_its_bee_has_fails_alone(storage: Path, big: Frame) -> None:
    with Apiary("small", storage=storage, bees=1, memory="64MB") as small:
        with pytest.raises(apiary.MemoryExceededError) as caught:
            small.sql(
                "WITH wide AS (SELECT x, repeat('x', 200) || CAST(x AS VARCHAR) AS s FROM big) "
                "SELECT sum(length(a.s || b.s)) AS s FROM wide a CROSS JOIN wide b"
            ).to_arrow()
        assert isinstance(caught.value, MemoryError)
        assert small.sql("SELECT count(*) FROM big").fetchone() == (1_000_000,)


def test_bee_words_work_in_sql(ap: Apiary) -> None:
    ap.sql("CREATE HIVE shop")
    ap.sql("CREATE BOX shop.raw")
    ap.sql("CREATE FRAME shop.raw.sales (region VARCHAR, amount DOUBLE) PARTITIONED BY (region)")
    ap.sql("INSERT INTO shop.raw.sales VALUES ('eu', 1.5), ('us', 2.5)")
    assert ap.sql("SELECT sum(amount) FROM shop.raw.sales").fetchone() == (4.0,)
    assert ap.frame("shop.raw.sales").describe().partition_by == ["region"]
    described = ap.sql("DESCRIBE shop.raw.sales").to_pylist()
    assert [(row["column_name"], row["is_partition"]) for row in described] == [("region", True), ("amount", False)]
    assert ap.sql("SHOW HIVES").fetchall() == ap.sql("SHOW DATABASES").fetchall() == [("default",), ("shop",)]
    assert ap.sql("SHOW FRAMES").fetchall() == [("shop.raw.sales",)]
    with pytest.raises(apiary.InvalidInputError, match="(?i)cascade"):
        ap.sql("DROP HIVE shop")
    ap.sql("DROP HIVE shop CASCADE")
    assert ap.frames() == []


def test_a_statement_that_changes_something_has_done_so_when_it_returns(ap: Apiary) -> None:
    ap.sql("CREATE FRAME f AS SELECT 1 AS a, 'x' AS b")
    result = ap.sql("INSERT INTO f VALUES (2, 'y'), (3, 'z')")
    assert ap.sql("SELECT count(*) FROM f").fetchone() == (3,)
    (row,) = result.to_pylist()
    assert (row["frame"], row["rows"], row["version"]) == ("default.default.f", 2, ap.frame("f").describe().version)


def test_use_holds_for_sql_and_for_names(ap: Apiary) -> None:
    ap.create_frame("lab.raw.f", pa.schema([("x", pa.int64())]))
    ap.sql("USE HIVE lab")
    ap.sql("USE BOX raw")
    assert ap.sql("SELECT count(*) FROM f").fetchone() == (0,)
    assert ap.frame("f").name == "lab.raw.f"
    assert ap.box("raw").name == "lab.raw"
    assert ap.create_frame("g", pa.schema([("x", pa.int64())])).name == "lab.raw.g"


def test_frames_of_different_hives_are_joined(ap: Apiary) -> None:
    ap.create_frame("a.b.c", pa.schema([("k", pa.int64()), ("v", pa.string())])).write({"k": [1, 2], "v": ["x", "y"]})
    ap.create_frame("d.e.f", pa.schema([("k", pa.int64()), ("w", pa.string())])).write({"k": [2, 3], "w": ["p", "q"]})
    assert ap.sql("SELECT v, w FROM a.b.c JOIN d.e.f ON c.k = f.k").fetchall() == [("y", "p")]


def test_files_are_tables(ap: Apiary, tmp_path: Path) -> None:
    for number in range(3):
        pq.write_table(pa.table({"x": [number, number]}), tmp_path / f"part{number}.parquet")
    assert ap.sql(f"SELECT count(*), sum(x) FROM '{tmp_path}/part1.parquet'").fetchone() == (2, 2)
    assert ap.sql(f"SELECT count(*), sum(x) FROM '{tmp_path}/*.parquet'").fetchone() == (6, 6)


def test_explain_and_information_schema(ap: Apiary, sensors: Frame) -> None:
    sensors.write({"id": [1, 2]})
    plan = "\n".join(
        str(row) for row in ap.sql("EXPLAIN ANALYZE SELECT * FROM lab.raw.sensors WHERE id > 1").fetchall()
    )
    assert "bees" in plan and "cells" in plan
    query = "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'lab' AND table_schema = 'raw'"
    assert ap.sql(query).fetchall() == [("sensors",)]
