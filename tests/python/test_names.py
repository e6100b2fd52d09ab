"""Hives, boxes and frames: making, finding and dropping them."""

from __future__ import annotations

from typing import Any

import apiary
import polars as pl
import pyarrow as pa
import pytest
from apiary import Apiary

SCHEMA = pa.schema([("x", pa.int64())])


def test_objects_and_flat_names_are_two_ways_to_one_thing(ap: Apiary) -> None:
    hive = ap.create_hive("shop")
    box = hive.create_box("raw")
    frame = box.create_frame("sales", SCHEMA)
    assert (hive.name, box.name, frame.name) == ("shop", "shop.raw", "shop.raw.sales")
    assert frame == ap.frame("shop.raw.sales") == ap.hive("shop").box("raw").frame("sales")
    assert (box, hive) == (ap.box("shop.raw"), ap.hive("shop"))
    assert ap.hives() == ["default", "shop"]
    assert ap.boxes("shop") == hive.boxes() == ["shop.raw"]
    assert set(ap.boxes()) == {"default.default", "shop.raw"}
    assert ap.frames() == ap.frames("shop") == ap.frames("shop.raw") == box.frames() == ["shop.raw.sales"]
    assert ap.frames("default") == []
    assert frame.exists() and box.exists() and hive.exists()
    assert not ap.frame("shop.raw.other").exists()
    assert repr(frame) == "Frame('shop.raw.sales')"


def test_parents_of_a_frame_are_made(ap: Apiary) -> None:
    ap.create_frame("analytics.sensors.temperature", SCHEMA, partition_by=None)
    assert ap.frames() == ["analytics.sensors.temperature"]
    ap.create_box("other.box")
    assert "other" in ap.hives()


def test_sql_words_are_aliases(ap: Apiary) -> None:
    ap.create_database("d")
    ap.create_schema("d.s")
    ap.create_table("d.s.t", SCHEMA)
    ap.drop_table("d.s.t")
    ap.drop_schema("d.s")
    ap.drop_database("d")
    assert ap.hives() == ["default"]


def test_a_name_is_taken_once(ap: Apiary) -> None:
    ap.create_hive("h")
    ap.create_box("h.b")
    ap.create_frame("h.b.f", SCHEMA)
    with pytest.raises(apiary.AlreadyExistsError):
        ap.create_hive("h")
    with pytest.raises(apiary.AlreadyExistsError):
        ap.create_box("h.b")
    with pytest.raises(apiary.AlreadyExistsError):
        ap.create_frame("h.b.f", SCHEMA)
    ap.create_hive("h", if_not_exists=True)
    ap.create_box("h.b", if_not_exists=True)
    ap.create_frame("h.b.f", SCHEMA, if_not_exists=True)


def test_what_is_not_empty_is_dropped_with_cascade_only(ap: Apiary) -> None:
    frame = ap.create_frame("h.b.f", SCHEMA)
    frame.write({"x": [1]})
    with pytest.raises(apiary.InvalidInputError, match="(?i)cascade"):
        ap.drop_box("h.b")
    with pytest.raises(apiary.InvalidInputError, match="(?i)cascade"):
        ap.hive("h").drop()
    ap.drop_hive("h", cascade=True)
    assert (ap.hives(), ap.frames()) == (["default"], [])
    with pytest.raises(apiary.NotFoundError):
        frame.read()


def test_dropping_what_is_not_there(ap: Apiary) -> None:
    for drop in (lambda **o: ap.drop_hive("h", **o), lambda **o: ap.drop_frame("f", **o), ap.frame("g").drop):
        with pytest.raises(apiary.NotFoundError):
            drop()
        drop(if_exists=True)


def test_a_frame_made_again_is_empty(ap: Apiary) -> None:
    frame = ap.create_frame("f", SCHEMA)
    frame.write({"x": [1]})
    frame.drop()
    frame.create(pa.schema([("y", pa.string())]))
    assert (frame.schema.names, frame.read().fetchall()) == (["y"], [])


@pytest.mark.parametrize("name", ["", "1x", "a-b", "../x", "a.b.c.d", "_x", "a/b", "x" * 65, "é"])
def test_what_is_no_name_is_refused(ap: Apiary, name: str) -> None:
    with pytest.raises(apiary.InvalidInputError):
        ap.frame(name)
    with pytest.raises(apiary.InvalidInputError):
        ap.create_frame(name, SCHEMA)


def test_case_is_folded(ap: Apiary) -> None:
    ap.create_frame("Lab.Raw.Sensors", SCHEMA)
    assert ap.frames("LAB") == ["lab.raw.sensors"]
    assert ap.sql("SELECT count(*) FROM LAB.raw.SENSORS").fetchone() == (0,)


@pytest.mark.parametrize(
    "schema",
    [SCHEMA, pa.table({"x": pa.array([1], pa.int64())}), pl.DataFrame({"x": [1]}), pl.DataFrame({"x": [1]}).to_arrow()],
    ids=["schema", "table", "polars", "arrow of polars"],
)
def test_a_schema_is_taken_from_what_has_one(ap: Apiary, schema: Any) -> None:
    assert ap.create_frame("f", schema).schema == SCHEMA


@pytest.mark.parametrize("schema", [{"x": "int"}, None, "x INT"])
def test_what_is_no_schema_is_refused(ap: Apiary, schema: Any) -> None:
    with pytest.raises(apiary.InvalidInputError, match="pyarrow.Schema"):
        ap.create_frame("f", schema)


def test_a_partition_column_must_exist(ap: Apiary) -> None:
    with pytest.raises(apiary.SchemaError, match="'region'"):
        ap.create_frame("f", SCHEMA, partition_by="region")
    assert ap.frames() == []


def test_views_are_names_beside_frames(ap: Apiary) -> None:
    frame = ap.create_frame("lab.raw.f", pa.schema([("a", pa.int64())]))
    frame.write({"a": [1, 2, 3]})
    ap.sql("CREATE VIEW lab.raw.v (b) AS SELECT a FROM lab.raw.f WHERE a > 1").fetchall()
    box = ap.box("lab.raw")
    assert ap.views() == ap.views("lab") == box.views() == ["lab.raw.v"]
    assert ap.frames() == ["lab.raw.f", "lab.raw.v"]
    assert ap.sql("SELECT sum(b) FROM lab.raw.v").fetchone() == (5,)
    assert sorted(ap.frame("lab.raw.v").read(["b"]).to_arrow()["b"].to_pylist()) == [2, 3]
    info = ap.frame("lab.raw.v").describe()
    assert (info.name, info.schema.names, info.rows) == ("lab.raw.v", ["b"], None)
    assert info.view == 'CREATE VIEW lab.raw.v ("b") AS SELECT a FROM lab.raw.f WHERE a > 1'
    assert (ap.frame("lab.raw.v").schema.names, frame.describe().view) == (["b"], None)
    with pytest.raises(apiary.InvalidInputError, match="lab.raw.v is a view, which has no rows of its own"):
        ap.frame("lab.raw.v").write({"b": [4]})
    with pytest.raises(apiary.InvalidInputError, match="DROP VIEW lab.raw.v removes it"):
        ap.drop_frame("lab.raw.v")
    box.drop(cascade=True)
    assert ap.views() == []
