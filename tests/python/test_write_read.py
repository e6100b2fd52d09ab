"""Data in, data out: every kind of input, every type, all versions."""

from __future__ import annotations

import decimal
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

import apiary
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from apiary import Apiary, Frame
from support import rows

AT = datetime(2025, 6, 1, 12, 30, 15, 123456, tzinfo=timezone.utc)

TABLE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "name": pa.array(["a", None, "ü🐝"], pa.string()),
        "value": pa.array([0.5, -1.0, None], pa.float64()),
        "seen": pa.array([AT, AT + timedelta(days=1), None], pa.timestamp("us", tz="UTC")),
    }
)


class OnlyStream:
    """The least that can be written."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return TABLE.__arrow_c_stream__(requested_schema)


class OnlyArray:
    """As above, for one batch."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> object:
        return TABLE.to_batches()[0].__arrow_c_array__(requested_schema)


def relation() -> duckdb.DuckDBPyRelation:
    connection = duckdb.connect()
    connection.execute("SET timezone = 'UTC'")
    connection.register("source", TABLE)
    return connection.sql("SELECT * FROM source")


INPUTS: dict[str, Callable[[], Any]] = {
    "pyarrow table": lambda: TABLE,
    "pyarrow batch": lambda: TABLE.to_batches()[0],
    "pyarrow reader": lambda: TABLE.to_reader(max_chunksize=2),
    "polars": lambda: pl.DataFrame(TABLE),
    "pandas": lambda: TABLE.to_pandas(),
    "pandas of pyarrow": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "duckdb": relation,
    "generator of batches": lambda: iter(TABLE.to_batches(max_chunksize=1)),
    "list of batches": lambda: TABLE.to_batches(max_chunksize=1),
    "generator of polars": lambda: (pl.DataFrame(TABLE.slice(at, 1)) for at in range(3)),
    "generator of pandas": lambda: (TABLE.slice(at, 1).to_pandas(types_mapper=pd.ArrowDtype) for at in range(3)),
    "dict of lists": lambda: TABLE.to_pydict(),
    "list of dicts": lambda: TABLE.to_pylist(),
    "stream": OnlyStream,
    "array": OnlyArray,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_input_is_written_and_read_back(sensors: Frame, kind: str) -> None:
    written = sensors.write(INPUTS[kind]())
    assert (written.rows, written.version) == (3, 1)
    assert rows(sensors.read()) == rows(TABLE)


def test_a_result_is_an_input(ap: Apiary, sensors: Frame) -> None:
    sensors.write(TABLE)
    sensors.write(ap.sql("SELECT id + 10 AS id, name FROM lab.raw.sensors WHERE id > 1"))
    assert rows(sensors.read(["id", "name"])) == [(1, "a"), (2, None), (3, "ü🐝"), (12, None), (13, "ü🐝")]


def test_a_relation_over_a_running_result_is_an_input(ap: Apiary, sensors: Frame) -> None:
    sensors.write(TABLE)
    running = ap.sql("SELECT id + 10 AS id, name FROM lab.raw.sensors")
    connection = duckdb.connect()
    connection.register("running", running)
    sensors.write(connection.sql("SELECT * FROM running WHERE id > 11"))
    assert rows(sensors.read("id")) == [(1,), (2,), (3,), (12,), (13,)]


def test_every_type_survives(ap: Apiary) -> None:
    table = pa.table(
        {
            "bool": pa.array([True, None]),
            "int8": pa.array([-128, 127], pa.int8()),
            "int16": pa.array([-(2**15), None], pa.int16()),
            "int32": pa.array([2**31 - 1, None], pa.int32()),
            "int64": pa.array([-(2**63), None], pa.int64()),
            "float32": pa.array([1.5, float("inf")], pa.float32()),
            "float64": pa.array([1e300, None], pa.float64()),
            "string": pa.array(["", None], pa.string()),
            "binary": pa.array([b"\x00\xff", None], pa.binary()),
            "date": pa.array([date(1, 1, 1), date(9999, 12, 31)], pa.date32()),
            "utc": pa.array([AT, None], pa.timestamp("us", tz="UTC")),
            "local": pa.array([AT.replace(tzinfo=None), None], pa.timestamp("us")),
            "decimal": pa.array([decimal.Decimal("-12345678.90"), None], pa.decimal128(12, 2)),
            "wide": pa.array([decimal.Decimal("9" * 38), None], pa.decimal128(38, 0)),
            "list": pa.array([[1, None], []], pa.list_(pa.int64())),
            "struct": pa.array([{"a": 1, "b": "x"}, None], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        }
    )
    frame = ap.create_frame("types", table.schema)
    frame.write(table)
    for column in table.schema.names:
        assert frame.read(column).to_arrow()[column].to_pylist() == table[column].to_pylist(), column


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (pa.array([2**64 - 1], pa.uint64()), decimal.Decimal(2**64 - 1)),
        (pa.array([255], pa.uint8()), 255),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array([5_000], pa.timestamp("ns")), datetime(1970, 1, 1, 0, 0, 0, 5)),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_types_that_the_format_lacks_are_mapped_without_loss(ap: Apiary, given: pa.Array, kept: object) -> None:
    table = pa.table({"c": given})
    frame = ap.create_frame("mapped", table.schema)
    frame.write(table)
    assert frame.read().fetchall() == [(kept,)]


def test_a_type_without_a_lossless_place_is_refused(ap: Apiary) -> None:
    with pytest.raises(apiary.SchemaError, match="'t'"):
        ap.create_frame("refused", pa.schema([("t", pa.time64("us"))]))
    assert ap.frames() == []


def test_large_data_streams_through(ap: Apiary) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, 1_000_000, 20_000):
            yield pa.record_batch({"x": pa.array(range(start, start + 20_000), pa.int64())})

    frame = ap.create_frame("large", pa.schema([("x", pa.int64())]))
    assert frame.write(batches()).rows == 1_000_000
    assert ap.sql("SELECT count(*), sum(x), count(DISTINCT x) FROM large").fetchone() == (
        1_000_000,
        499_999_500_000,
        1_000_000,
    )


def test_appends_add_and_overwrites_replace(sensors: Frame) -> None:
    first = sensors.write(TABLE)
    second = sensors.write({"id": [4]})
    third = sensors.overwrite({"id": [5], "name": ["e"]})
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert rows(sensors.read(["id", "name"])) == [(5, "e")]


def test_old_versions_stay_readable(sensors: Frame) -> None:
    for number in range(1, 4):
        time.sleep(0.01)  # commits are told apart by milliseconds
        sensors.overwrite({"id": [number]})
    for version in range(1, 4):
        assert sensors.as_of(version).read("id").fetchall() == [(version,)]
        assert sensors.read("id", version=version).fetchall() == [(version,)]
    for entry in sensors.history():
        expected = [(entry.version,)] if entry.version else []
        assert sensors.as_of(timestamp=entry.timestamp).read("id").fetchall() == expected
        assert sensors.read("id", timestamp=entry.timestamp.isoformat()).fetchall() == expected
        assert rows(sensors.as_of(entry.version).to_arrow().select(["id"])) == expected
    assert sensors.as_of(version=2).to_pandas()["id"].tolist() == [2]
    assert sensors.as_of(version=2).to_polars()["id"].to_list() == [2]


def test_versions_and_times_that_never_were_are_not_found(sensors: Frame) -> None:
    with pytest.raises(apiary.NotFoundError):
        sensors.read(version=99).to_arrow()
    with pytest.raises(apiary.NotFoundError):
        sensors.read(timestamp="2001-01-01T00:00:00Z").to_arrow()
    with pytest.raises(apiary.InvalidInputError):
        sensors.as_of()
    with pytest.raises(apiary.InvalidInputError):
        sensors.read(version=1, timestamp=AT)
    with pytest.raises(apiary.InvalidInputError):
        sensors.read(timestamp="yesterday")
    with pytest.raises(apiary.InvalidInputError):
        sensors.read(version=-1)


def test_history_tells_what_happened(sensors: Frame) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=60)
    sensors.write(TABLE)
    sensors.overwrite({"id": [1]})
    history = sensors.history()
    assert [entry.version for entry in history] == [2, 1, 0]
    assert [entry.rows for entry in history[:2]] == [1, 3]
    assert history[0].cells_removed == history[1].cells_added == 1
    assert all(before < entry.timestamp < datetime.now(timezone.utc) + timedelta(seconds=60) for entry in history)
    assert history[0].engine.startswith("apiary/")
    assert sensors.history(limit=1) == history[:1]


def test_a_frame_describes_itself(ap: Apiary, sensors: Frame) -> None:
    sensors.write(TABLE)
    info = sensors.describe()
    assert (info.name, info.version, info.rows, info.cells) == ("lab.raw.sensors", 1, 3, 1)
    assert info.partition_by == []
    assert info.bytes > 0
    assert info.location.rstrip("/").endswith("lab/raw/sensors")
    assert info.schema.names == sensors.schema.names == TABLE.schema.names
    assert sensors.schema.field("seen").type == pa.timestamp("us", tz="UTC")
    assert not sensors.schema.field("id").nullable


def test_partitions_lie_in_folders_and_null_is_refused(ap: Apiary) -> None:
    frame = ap.create_frame("parts", pa.schema([("region", pa.string()), ("x", pa.int64())]), partition_by=["region"])
    frame.write({"region": ["eu", "us", "eu"], "x": [1, 2, 3]})
    assert frame.describe().partition_by == ["region"]
    assert rows(frame.read()) == [("eu", 1), ("eu", 3), ("us", 2)]
    assert ap.sql("SELECT sum(x) FROM parts WHERE region = 'eu'").fetchone() == (4,)
    with pytest.raises(apiary.SchemaError, match="region"):
        frame.write({"region": ["eu", None], "x": [4, 5]})
    assert frame.describe().version == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pa.table({"id": pa.array([1], pa.int64()), "other": [1]}), "other"),
        (pa.table({"name": ["x"]}), "id"),
        (pa.table({"id": pa.array([None], pa.int64())}), "id"),
        (pa.table({"id": ["one"]}), "id"),
        (pa.table({"id": pa.array([1], pa.int64()), "seen": ["2025"]}), "seen"),
        ({"id": [1], "other": [1]}, "other"),
        ({"id": ["one"]}, "one"),
        ([{"id": 1, "value": "much"}], "much"),
    ],
)
def test_data_that_does_not_fit_is_refused_whole(sensors: Frame, data: Any, message: str) -> None:
    with pytest.raises(apiary.SchemaError, match=message):
        sensors.write(data)
    assert (sensors.describe().version, rows(sensors.read())) == (0, [])


def test_narrower_data_is_widened_and_missing_columns_are_null(sensors: Frame) -> None:
    sensors.write(pa.table({"value": pa.array([1.5], pa.float32()), "ID": pa.array([7], pa.int8())}))
    assert rows(sensors.read()) == [(7, None, 1.5, None)]


def test_an_unnamed_pandas_index_is_no_column_and_a_named_one_is(sensors: Frame) -> None:
    data = pd.DataFrame({"id": [1, 2, 3], "value": [1.0, 2.0, 3.0]})
    sensors.write(data[data["value"] > 1])
    sensors.write(data.groupby("id").agg({"value": "sum"}))
    assert rows(sensors.read("id")) == [(1,), (2,), (2,), (3,), (3,)]


class Broken(Exception):
    """Raised by the caller's own code."""


def failing() -> Iterator[pa.RecordBatch]:
    yield from TABLE.to_batches()
    yield from TABLE.to_batches()
    raise Broken("out of coffee")


def test_an_error_of_the_callers_iterator_comes_back_and_nothing_is_committed(sensors: Frame) -> None:
    with pytest.raises(Broken, match="out of coffee"):
        sensors.write(failing())
    assert (sensors.describe().version, rows(sensors.read())) == (0, [])


def test_an_error_of_a_reader_ends_the_write_and_nothing_is_committed(sensors: Frame) -> None:
    with pytest.raises(apiary.ApiaryError, match="out of coffee"):
        sensors.overwrite(pa.RecordBatchReader.from_batches(TABLE.schema, failing()))
    assert (sensors.describe().version, rows(sensors.read())) == (0, [])


def test_items_of_an_iterator_must_fit_the_first(sensors: Frame) -> None:
    with pytest.raises(apiary.SchemaError, match="item 2"):
        sensors.write(iter([pa.table({"id": [1]}), pa.table({"id": [2], "name": ["b"]})]))
    with pytest.raises(apiary.SchemaError, match="item 2"):
        sensors.write(iter([pa.table({"id": [1]}), pa.table({"id": ["b"]})]))
    sensors.write(iter([pa.table({"id": [1], "value": [1.0]}), pa.table({"value": [2.0], "id": [2]})]))
    assert rows(sensors.read(["id", "value"])) == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("nothing", [[], {"id": []}, iter(()), TABLE[:0]], ids=["list", "dict", "iter", "table"])
def test_nothing_can_be_written_too(sensors: Frame, nothing: Any) -> None:
    sensors.write(TABLE)
    assert sensors.write(nothing).rows == 0
    assert rows(sensors.read()) == rows(TABLE)
    assert sensors.overwrite({"id": []}).rows == 0
    assert rows(sensors.read()) == []


@pytest.mark.parametrize("data", [42, "text", b"bytes", None, iter([1]), object()])
def test_what_is_no_data_is_refused_with_advice(sensors: Frame, data: Any) -> None:
    with pytest.raises(apiary.InvalidInputError, match="use a table of pyarrow"):
        sensors.write(data)


def test_writing_to_a_frame_that_does_not_exist_says_how_to_make_it(ap: Apiary) -> None:
    for data in (TABLE, TABLE.to_pylist()):
        with pytest.raises(apiary.NotFoundError, match=r'create_frame\("default.default.nowhere", schema\)'):
            ap.frame("nowhere").write(data)
    with pytest.raises(apiary.NotFoundError):
        ap.frame("nowhere").read()


def test_columns_are_chosen_by_name(sensors: Frame) -> None:
    sensors.write(TABLE)
    assert sensors.read(["value", "id"]).to_arrow().schema.names == ["value", "id"]
    with pytest.raises(apiary.NotFoundError, match="'nope'"):
        sensors.read(["nope"])


def test_fractions_do_not_become_whole_numbers(ap: Apiary) -> None:
    frame = ap.create_frame("whole", pa.schema([("i", pa.int64())]))
    for values in ([1.5], [decimal.Decimal("1.5")], np.array([1.5], "float32"), pd.Series([1.5]), (x / 2 for x in [3])):
        with pytest.raises(apiary.SchemaError, match="i"):
            frame.write({"i": values})
    for values in ([1.0], [decimal.Decimal(2)], np.array([3.0], "float32"), pd.Series([4.0, None]), [5, None]):
        frame.write({"i": values})
    assert [row for row in rows(frame.read()) if row[0] is not None] == [(1,), (2,), (3,), (4,), (5,)]


def test_whole_numbers_beside_missing_ones_come_from_pandas(ap: Apiary) -> None:
    frame = ap.create_frame("counts", pa.schema([("n", pa.int64()), ("x", pa.float64())]))
    frame.write(pd.DataFrame({"n": [1, None], "x": [0.5, None]}))
    assert sorted(frame.read().fetchall(), key=str) == [(1, 0.5), (None, None)]
    with pytest.raises(apiary.SchemaError, match="column 'n' holds whole numbers .int64., and not all are"):
        frame.write(pd.DataFrame({"n": [1.5, None], "x": [0.5, None]}))


def test_rows_come_one_by_one(ap: Apiary) -> None:
    frame = ap.create_frame("rows", pa.schema([("n", pa.int64()), ("t", pa.string())]))
    frame.write({"n": number} if number < 15_000 else {"n": number, "t": str(number)} for number in range(25_000))
    assert ap.sql("SELECT count(*), sum(n), max(t) FROM rows").fetchall() == [(25_000, 312_487_500, "24999")]
    with pytest.raises(apiary.InvalidInputError, match="gives dicts, and then a builtins.int"):
        frame.write(iter([{"n": 1}, 2]))
    with pytest.raises(apiary.SchemaError, match="column 'n' is a builtins.int: give a list"):
        frame.write({"n": 1})
