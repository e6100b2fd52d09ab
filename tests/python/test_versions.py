"""Going back, and changing columns and constraints."""

from __future__ import annotations

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
    with pytest.raises(SchemaError, match="2 rows that fail"):
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
