"""Going back, and changing columns and constraints."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from apiary import InvalidInputError, NotFoundError, SchemaError
from deltalake import DeltaTable


@pytest.fixture
def frame(ap):
    frame = ap.create_frame("readings", pa.schema({"id": pa.int64(), "celsius": pa.float64()}))
    frame.write({"id": [1, 2], "celsius": [4.5, 21.0]})
    frame.write({"id": [3], "celsius": [9.5]})
    return frame


def ids(frame) -> list[int]:
    return sorted(frame.read().to_arrow()["id"].to_pylist())


def test_a_version_comes_back(ap, frame):
    frame.delete("id = 1")
    result = frame.restore(2)
    assert (result.restored, result.version, result.cells_added) == (2, 4, 1)
    assert ids(frame) == [1, 2, 3]
    moment = next(entry.timestamp for entry in frame.history() if entry.version == 1)
    assert frame.restore(timestamp=moment).restored == 1
    assert ids(frame) == [1, 2]
    assert frame.restore(1).version == 5
    with pytest.raises(NotFoundError):
        frame.restore(99)
    with pytest.raises(InvalidInputError, match="a version or a timestamp"):
        frame.restore()


def test_delta_rs_reads_what_came_back_and_new_columns(ap, frame, tmp_path):
    frame.delete("id = 1")
    frame.restore(2)
    frame.add_column("humidity", "DOUBLE")
    frame.add_column("humidity", "DOUBLE", if_not_exists=True)
    frame.write({"id": [4], "celsius": [1.0], "humidity": [0.5]})
    table = DeltaTable(frame.describe().location.removeprefix("file://")).to_pyarrow_table()
    assert table.sort_by("id").to_pydict() == {
        "id": [1, 2, 3, 4],
        "celsius": [4.5, 21.0, 9.5, 1.0],
        "humidity": [None, None, None, 0.5],
    }


def test_columns_are_renamed_and_dropped(ap, frame):
    frame.rename_column("celsius", "degrees")
    frame.write({"id": [4], "degrees": [1.0]})
    assert frame.schema.names == ["id", "degrees"]
    assert ap.sql("SELECT id FROM readings WHERE degrees > 9 ORDER BY id").fetchall() == [(2,), (3,)]
    frame.drop_column("degrees")
    frame.drop_column("degrees", if_exists=True)
    assert frame.schema.names == ["id"]
    assert frame.as_of(2).schema.names == ["id", "celsius"]
    with pytest.raises(NotFoundError, match="no column 'degrees'"):
        frame.drop_column("degrees")


def test_constraints_hold_for_rows_from_now_on(ap, frame):
    with pytest.raises(SchemaError, match="rows that fail .*2 of them"):
        frame.add_constraint("warm", "celsius > 10")
    frame.add_constraint("plausible", "celsius BETWEEN -90 AND 60 -- on earth")
    with pytest.raises(SchemaError, match="constraint 'plausible' fails"):
        frame.write({"id": [4], "celsius": [100.0]})
    with pytest.raises(SchemaError, match="plausible"):
        frame.update({"celsius": "celsius * 100"}, "id = 2")
    frame.write({"id": [4], "celsius": [None]})
    frame.drop_constraint("plausible")
    frame.set_nullable("id", False)
    with pytest.raises(SchemaError, match="takes no nulls"):
        frame.write({"id": pa.array([None], pa.int64()), "celsius": [100.0]})
    frame.set_nullable("id", True)
    with pytest.raises(SchemaError, match="whose 'celsius' is null"):
        frame.set_nullable("celsius", False)
    assert ids(frame) == [1, 2, 3, 4]


DAY = datetime.date(1969, 7, 20)
# A type, one that it can become, a value before, a greater one after, and what the first is then.
WIDENINGS = [
    (pa.int8(), "SMALLINT", -3, 300, -3),
    (pa.int8(), "BIGINT", -3, 2**40, -3),
    (pa.int16(), "INT", 7, 70_000, 7),
    (pa.int32(), "BIGINT", -(2**31), 2**40, -(2**31)),
    (pa.int32(), "DOUBLE", 2**31 - 1, 1e300, float(2**31 - 1)),
    (pa.int32(), "DECIMAL(12, 2)", 5, Decimal("9999999999.25"), Decimal("5.00")),
    (pa.int64(), "DECIMAL(38, 2)", 2**63 - 1, Decimal("1e35"), Decimal(2**63 - 1)),
    # Nearer to 0.1 than a double that has all digits of it.
    (pa.float32(), "DOUBLE", 0.1, 1e300, 0.10000000149011612),
    (pa.decimal128(5, 2), "DECIMAL(10, 4)", Decimal("-1.25"), Decimal("99999.0625"), Decimal("-1.25")),
    (pa.date32(), "TIMESTAMP", DAY, datetime.datetime(2500, 1, 1, 1, 2, 3, 4), datetime.datetime(1969, 7, 20)),
]


@pytest.mark.parametrize("old, new, before, after, widened", WIDENINGS, ids=lambda x: str(x).replace(" ", ""))
def test_a_type_is_widened(ap, old, new, before, after, widened):
    frame = ap.create_frame("f", pa.schema({"k": pa.int64(), "x": old}))
    frame.write(pa.table({"k": [1, 2], "x": pa.array([before, None], old)}))
    frame.set_type("X", new)
    frame.set_type("x", new)  # nothing is left to do
    assert [entry.operation for entry in frame.history()] == ["CHANGE COLUMN", "WRITE", "CREATE TABLE"]
    frame.write(pa.table({"k": [3], "x": pa.array([after], frame.schema.field("x").type)}))

    def rows(where: str = "true", **params) -> list:
        return ap.sql(f"SELECT k, x FROM f WHERE {where} ORDER BY k", params=params).fetchall()

    everything = [(1, widened), (2, None), (3, after)]
    for _ in range(2):
        assert rows() == everything
        assert rows("x = $x", x=widened) == [(1, widened)]
        assert rows("x < $x", x=after) == [(1, widened)]
        assert rows("x > $x", x=widened) == [(3, after)]
        assert ap.sql("SELECT min(x), max(x), count(x) FROM f").fetchall() == [(widened, after, 2)]
        assert frame.verify() == []
        frame.optimize()
    assert frame.as_of(1).schema.field("x").type == old
    changed = ap.sql("SELECT k, x FROM f CHANGES SINCE VERSION 0 ORDER BY k").fetchall()
    assert changed == everything
    frame.update({"x": "x"}, "k = 1")
    frame.delete("k = 3")
    assert rows() == everything[:2]
    frame.restore(1)
    assert frame.schema.field("x").type == old
    assert rows() == [(1, before if old != pa.float32() else rows()[0][1]), (2, None)]


def test_a_type_is_widened_over_checkpoints_and_beside_others(ap):
    frame = ap.create_frame("f", pa.schema({"p": pa.int32(), "x": pa.int32(), "y": pa.float32()}), partition_by=["p"])
    for number in range(25):
        frame.write(pa.table({"p": pa.array([number % 3], pa.int32()), "x": pa.array([number], pa.int32())}))
    frame.set_type("x", "BIGINT")
    frame.set_type("y", "DOUBLE")
    for number in range(25, 50):
        frame.write(pa.table({"p": pa.array([number % 3], pa.int32()), "x": pa.array([number + 2**40])}))
    assert ap.sql("SELECT count(*), sum(x) FROM f WHERE x >= 20").fetchall() == [(30, sum(range(20, 50)) + 25 * 2**40)]
    frame.set_type("x", "DECIMAL(25, 0)")
    assert ap.sql("SELECT max(x) - min(x) FROM f").fetchall() == [(2**40 + 49,)]
    with pytest.raises(SchemaError, match="'p' partitions the frame: its type stays"):
        frame.set_type("p", "BIGINT")
    with pytest.raises(SchemaError, match="'x' is of type decimal.25,0. and cannot become integer"):
        frame.set_type("x", "INT")
    with pytest.raises(SchemaError, match="cannot become string"):
        frame.set_type("y", "TEXT")
    with pytest.raises(NotFoundError, match="no column 'z'"):
        frame.set_type("z", "TEXT")
    frame.add_constraint("positive", "y > 0")
    with pytest.raises(SchemaError, match="constraint 'positive' says something of column 'y'"):
        frame.set_type("y", "DOUBLE")
