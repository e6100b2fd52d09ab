"""Rows that come a few at a time."""

from __future__ import annotations

import pyarrow as pa
import pytest
from apiary import Apiary, ClosedError, InvalidInputError, SchemaError


def test_rows_are_seen_at_once_and_committed_at_the_end(ap, tmp_path):
    frame = ap.create_frame("readings", pa.schema({"region": pa.string(), "celsius": pa.float64()}))
    with frame.stream(seconds=3600, buffer=tmp_path / "buffer") as stream:
        stream.append([{"region": "north", "celsius": 4.5}])
        stream.append(pa.table({"region": ["south", "east"], "celsius": [21.0, 9.5]}))
        assert stream.waiting == 3 and "3 rows" in repr(stream)
        assert frame.describe().version == 0
        assert sorted(frame.read().to_arrow()["region"].to_pylist()) == ["east", "north", "south"]
        assert ap.sql("SELECT max(celsius) AS m FROM readings").fetchall() == [(21.0,)]
        assert stream.flush() == 1
        stream.append({"region": ["west"], "celsius": [1.0]})
    assert (frame.describe().version, frame.describe().rows) == (2, 4)
    assert frame.history()[0].operation == "STREAMING UPDATE"
    assert stream.close() == 2
    with pytest.raises(ClosedError, match="open another one"):
        stream.append({"region": ["late"], "celsius": [1.0]})


def test_what_an_earlier_process_left_is_committed_by_the_next_stream(storage, tmp_path):
    with Apiary("first", storage=storage, bees=1, memory="64MB") as ap:
        frame = ap.create_frame("t", pa.schema({"x": pa.int64()}))
        stream = frame.stream(seconds=3600, buffer=tmp_path)
        stream.append({"x": [1, 2]})
    with Apiary("second", storage=storage, bees=1, memory="64MB") as ap:
        frame = ap.frame("t")
        assert frame.describe().rows == 0
        frame.stream(buffer=tmp_path).close()
        assert sorted(frame.read().to_arrow()["x"].to_pylist()) == [1, 2]


def test_rows_that_do_not_fit_are_refused(ap, tmp_path):
    frame = ap.create_frame("t", pa.schema({"x": pa.int64()}))
    with frame.stream(buffer=tmp_path) as stream:
        with pytest.raises(SchemaError, match="not in the frame"):
            stream.append({"y": [1]})
        stream.append({"x": [1]})
    assert frame.describe().rows == 1
    for wrong in ({"rows": 0}, {"seconds": 0}, {"size": "much"}):
        with pytest.raises(InvalidInputError):
            frame.stream(buffer=tmp_path, **wrong)
