"""Rows that change, and the upkeep of cells, through the methods of a frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary, Frame
from support import folder, rows


@pytest.fixture
def frame(ap: Apiary) -> Frame:
    frame = ap.create_frame("lab.t.f", pa.schema([("id", pa.int64()), ('odd"Name', pa.string()), ("v", pa.int32())]))
    for start in (0, 10, 20):
        ids = range(start, start + 10)
        frame.write({"id": list(ids), 'odd"Name': [f"n{i}" for i in ids], "v": [i % 3 for i in ids]})
    return frame


def test_values_are_expressions_and_parameters_never_text(frame: Frame) -> None:
    done = frame.update({"v": "v * 10", 'odd"Name': "$who"}, "id = $id -- the one", {"who": "'; DROP", "id": 11})
    assert (done.frame, done.version, done.rows_updated, done.cells_removed) == ("lab.t.f", 4, 1, 1)
    assert rows(frame.read())[11] == (11, "'; DROP", 20)
    assert frame.update({"v": "id + 1 -- all", 'odd"Name': r"'it''''s \' || v"}).rows_updated == 30
    assert rows(frame.read())[11][1] == r"it''s \20"
    assert [row[2] for row in rows(frame.read())] == list(range(1, 31))


def test_deletes_tell_what_they_did(frame: Frame) -> None:
    done = frame.delete("id >= $from", {"from": 15})
    assert (done.rows_deleted, done.rows_inserted, done.cells_added, done.cells_removed) == (15, 0, 1, 2)
    assert frame.delete("id > 100") == done._replace(
        rows_deleted=0, cells_added=0, cells_removed=0, bytes=0, temperature=pytest.approx(0.2, abs=0.8)
    )
    assert (frame.delete().rows_deleted, rows(frame.read())) == (15, [])
    assert len(rows(frame.read(version=3))) == 30


def test_what_cannot_be_changed_says_why(frame: Frame) -> None:
    for wrong, kind, text in (
        (lambda: frame.update({}), apiary.InvalidInputError, "give columns"),
        (lambda: frame.update({"nope": "1"}), apiary.NotFoundError, "no column 'nope'"),
        (lambda: frame.update({"v": "'x'"}), apiary.InvalidInputError, "x"),
        (lambda: frame.update({"v": "1, id = 2"}), apiary.InvalidInputError, "end of the expression"),
        (lambda: frame.delete("id = 1) OR (true"), apiary.InvalidInputError, "not understood"),
        (lambda: frame.delete("id = 1; DROP FRAME lab.t.f"), apiary.InvalidInputError, "not understood"),
        (lambda: frame.vacuum(retain_hours=1), apiary.InvalidInputError, "FORCE"),
        (lambda: frame.vacuum(retain_hours=-1), apiary.InvalidInputError, "0 or more"),
        (lambda: frame.optimize("nope"), apiary.NotFoundError, "no column 'nope'"),
        (lambda: frame.optimize(zorder_by=["id", "nope"]), apiary.NotFoundError, "no column 'nope'"),
        (lambda: frame.optimize(zorder_by=[]), apiary.InvalidInputError, "names no columns"),
        (lambda: frame.optimize("id", zorder_by="v"), apiary.InvalidInputError, "give one of them"),
    ):
        with pytest.raises(kind, match=text):
            wrong()
    assert (frame.describe().version, frame.describe().rows) == (3, 30)


def test_cells_are_merged_sorted_and_left_over_ones_removed(frame: Frame, storage: Path) -> None:
    expected = rows(frame.read())
    assert (frame.optimize().cells_removed, frame.describe().cells) == (3, 1)
    frame.optimize(cluster_by=['odd"Name', "id"])
    names = frame.read('odd"Name').to_arrow().column(0).to_pylist()
    assert names == sorted(names)
    assert frame.vacuum() == []
    left = frame.vacuum(retain_hours=0, dry_run=True)
    assert len(left) == 4 and not any(leftover.removed for leftover in left)
    assert all(leftover.removed for leftover in frame.vacuum(retain_hours=0, force=True))
    there = [name for name in os.listdir(folder(storage, frame.name)) if name.endswith(".parquet")]
    assert (len(there), rows(frame.read())) == (1, expected)


def test_cells_along_a_z_curve_have_the_same_rows(frame: Frame) -> None:
    expected = rows(frame.read())
    done = frame.optimize(zorder_by=["v", 'odd"Name'])
    assert (done.cells_removed, done.cells_added, done.rows_inserted) == (3, 1, 0)
    assert (rows(frame.read()), frame.history(1)[0].operation) == (expected, "OPTIMIZE")
    assert frame.optimize(zorder_by="id").cells_removed == 1
    assert frame.read("id").to_arrow().column(0).to_pylist() == list(range(30))


def test_threads_that_count_in_one_row_count_right(frame: Frame) -> None:
    def count() -> None:
        for _ in range(5):
            frame.update({"v": "v + 1"}, "id = 7")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(frame.read())[7][2] == 1 + 20


def test_an_overwrite_is_not_in_the_way_of_cells_that_are_merged_meanwhile(ap: Apiary) -> None:
    frame = ap.create_frame("f", pa.schema([("x", pa.int64())]))
    for x in range(5):
        frame.write({"x": [x]})

    def rows() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"x": [100]})
        frame.write({"x": [5]})
        assert frame.optimize().cells_removed == 6
        yield pa.record_batch({"x": [101]})

    frame.overwrite(rows())
    assert sorted(ap.sql("SELECT x FROM f").to_arrow()["x"].to_pylist()) == [100, 101]
    assert [entry.operation for entry in frame.history()[:2]] == ["WRITE", "OPTIMIZE"]


def test_a_frame_is_kept_in_the_order_of_columns(ap: Apiary) -> None:
    schema = pa.schema([("id", pa.int64()), ('odd"Name', pa.string())])
    frame = ap.create_frame("lab.t.kept", schema, cluster_by=['odd"Name', "id"])
    for n in range(3):
        frame.write({"id": [n, 9 - n], 'odd"Name': [str(n), "z"]})
    assert frame.describe().cluster_by == ['odd"Name', "id"]
    assert (frame.optimize().cells_removed, frame.optimize().cells_removed) == (3, 0)
    assert frame.read().to_arrow()["id"].to_pylist() == [0, 1, 2, 7, 8, 9]
    with pytest.raises(apiary.InvalidInputError, match="is kept clustered by"):
        frame.optimize(zorder_by="id")
    frame.cluster_by("id")
    assert ap.sql("DESCRIBE DETAIL lab.t.kept").to_pylist()[0]["cluster_by"] == "id"
    frame.cluster_by(None)
    assert frame.describe().cluster_by == []
