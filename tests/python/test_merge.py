"""Merges of Python's data, the rows that versions changed, and columns that writes bring along."""

from __future__ import annotations

import random

import apiary
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from apiary import Apiary, Frame
from support import rows

SCHEMA = pa.schema([("id", pa.int64()), ("Odd Name", pa.string()), ("v", pa.float64())])


@pytest.fixture
def frame(ap: Apiary) -> Frame:
    frame = ap.create_frame("lab.t.f", pa.schema([("id", pa.int64()), ("name", pa.string()), ("v", pa.float64())]))
    frame.write({"id": [1, 2, 3], "name": ["a", "b", "c"], "v": [1.0, 2.0, 3.0]})
    return frame


ON = "target.id = source.id"


def test_rows_are_updated_and_inserted_from_any_data(frame: Frame) -> None:
    for number, data in enumerate(
        (
            {"id": [3, 4], "name": ["C", "d"], "v": [30.0, 40.0]},
            [{"id": 3, "name": "C", "v": 30.0}, {"id": 4, "name": "d", "v": 40.0}],
            pa.table({"id": [3, 4], "name": ["C", "d"], "v": [30.0, 40.0]}),
            pl.DataFrame({"id": [3, 4], "name": ["C", "d"], "v": [30.0, 40.0]}),
            pd.DataFrame({"id": [3, 4], "name": ["C", "d"], "v": [30.0, 40.0]}),
            iter(
                [
                    pa.record_batch({"id": [3], "name": ["C"], "v": [30.0]}),
                    pa.record_batch({"id": [4], "name": ["d"], "v": [40.0]}),
                ]
            ),
        )
    ):
        done = frame.merge(data, ON).when_matched_update().when_not_matched_insert().execute()
        assert (done.rows_updated, done.rows_inserted) == (1, 1), number
        assert rows(frame.read()) == [(1, "a", 1.0), (2, "b", 2.0), (3, "C", 30.0), (4, "d", 40.0)]
        frame.restore(1)


def test_clauses_are_tried_in_order(frame: Frame) -> None:
    done = (
        frame.merge({"id": [1, 2, 9], "v": [0.5, 0.25, 9.0]}, ON)
        .when_matched_delete("source.v < $least")
        .when_matched_update({"v": "target.v + source.v", "name": "upper(target.name)"})
        .when_not_matched_insert({"id": "source.id", "name": "'it''s new'"}, "source.v > 5")
        .when_not_matched_by_source_update({"name": "'alone'"}, "target.id = 3")
        .when_not_matched_by_source_delete()
        .execute({"least": 0.3})
    )
    assert (done.rows_deleted, done.rows_updated, done.rows_inserted) == (1, 2, 1)
    assert rows(frame.read()) == [(1, "A", 1.5), (3, "alone", 3.0), (9, "it's new", None)]


def test_a_merge_is_executed_once(frame: Frame) -> None:
    merge = frame.merge(iter([pa.record_batch({"id": [1], "v": [5.0]})]), ON).when_not_matched_by_source_delete()
    assert merge.execute().rows_deleted == 2
    with pytest.raises(apiary.InvalidInputError, match="executed already"):
        merge.execute()
    assert rows(frame.read()) == [(1, "a", 1.0)]


def test_what_cannot_be_merged_says_why_and_changes_nothing(frame: Frame) -> None:
    class Boom(Exception):
        pass

    def failing():
        yield pa.record_batch({"id": [1], "v": [5.0]})
        raise Boom

    twice = {"id": [1, 1], "v": [5.0, 6.0]}
    for wrong, kind, text in (
        (lambda: frame.merge(twice, ON).execute(), apiary.InvalidInputError, "when_matched_update"),
        (lambda: frame.merge(twice, ON).when_matched_update().execute(), apiary.InvalidInputError, "several rows"),
        (lambda: frame.merge(twice, "target.id = source.id) OR (true"), apiary.InvalidInputError, "not understood"),
        (lambda: frame.merge(twice, ON).when_matched_update({}), apiary.InvalidInputError, "give columns"),
        (lambda: frame.merge(failing(), ON).when_matched_update().execute(), Boom, None),
        (lambda: frame.merge(5, ON), apiary.InvalidInputError, "cannot write"),
        (
            lambda: frame.merge({"id": [7], "new": [1]}, ON).when_not_matched_insert().execute(),
            apiary.NotFoundError,
            "no column 'new'",
        ),
    ):
        with pytest.raises(kind, match=text):
            wrong()
    assert frame.describe().version == 1


def test_changes_tell_what_versions_added_and_removed(ap: Apiary, frame: Frame) -> None:
    frame.write({"id": [4, 4], "name": [None, None], "v": [4.0, 4.0]})
    frame.update({"v": "v * 10"}, "id = 2")
    frame.delete("id = 4")
    frame.optimize()
    changes = frame.changes(since=1)
    assert changes.columns == ["id", "name", "v", "_change_type", "_commit_version", "_commit_timestamp"]
    assert rows(changes.to_arrow().drop(["_commit_timestamp"])) == rows(
        pa.table(
            {
                "id": [4, 4, 2, 2, 4, 4],
                "name": [None, None, "b", "b", None, None],
                "v": [4.0, 4.0, 2.0, 20.0, 4.0, 4.0],
                "_change_type": ["insert", "insert", "delete", "insert", "delete", "delete"],
                "_commit_version": [2, 2, 3, 3, 4, 4],
            }
        )
    )
    assert frame.changes(since=1, until=2).to_arrow().num_rows == 2
    newest = frame.describe().version
    assert frame.changes(since=newest).fetchall() == []
    moments = {entry.version: entry.timestamp for entry in frame.history()}
    found = frame.changes(2, 3).to_arrow()["_commit_timestamp"].to_pylist()
    assert set(found) == {moments[3]}
    with pytest.raises(apiary.NotFoundError, match="nothing above version 99"):
        frame.changes(99)
    with pytest.raises(apiary.NotFoundError):
        frame.changes(1, 99)


def test_changes_keep_a_copy_up_to_date(ap: Apiary, frame: Frame) -> None:
    """Random statements: what the changes say, applied to an old version, gives the new one, from any version on."""
    random.seed(7)
    for step in range(25):
        some = f"id % 5 = {random.randrange(5)}"
        match random.randrange(6):
            case 0 | 1:
                ids = [random.randrange(100) for _ in range(4)]
                frame.write({"id": ids, "name": [random.choice(["x", None]) for _ in ids], "v": [float(step)] * 4})
            case 2:
                frame.update({"v": "v + 1"}, some)
            case 3:
                frame.delete(some)
            case 4:
                frame.optimize()
            case 5:
                frame.restore(random.randrange(frame.describe().version + 1))
    newest = frame.describe().version
    for since in range(0, newest, 3):
        copy = [tuple(row.values()) for row in frame.read(version=since).to_pylist()]
        changes = sorted(frame.changes(since).to_pylist(), key=lambda r: (r["_commit_version"], r["_change_type"]))
        for change in changes:
            row = (change["id"], change["name"], change["v"])
            if change["_change_type"] == "insert":
                copy.append(row)
            else:
                copy.remove(row)
        assert sorted(copy, key=repr) == sorted((tuple(r.values()) for r in frame.read().to_pylist()), key=repr)


def test_changes_have_the_newest_columns(frame: Frame) -> None:
    frame.rename_column("v", "value")
    frame.add_column("extra", "INT")
    frame.drop_column("name")
    frame.write({"id": [5], "value": [5.0], "extra": [5]})
    changes = frame.changes(0).to_arrow().drop(["_commit_timestamp", "_change_type", "_commit_version"])
    assert rows(changes) == [(1, 1.0, None), (2, 2.0, None), (3, 3.0, None), (5, 5.0, 5)]


def test_changes_of_one_frame_go_into_another(ap: Apiary, frame: Frame) -> None:
    copy = ap.create_frame("lab.t.copy", frame.schema)
    copy.write(frame.read(version=1))
    frame.update({"v": "v + 1"}, "id < 3")
    frame.write({"id": [9], "name": ["i"], "v": [9.0]})
    done = ap.sql(
        "MERGE INTO lab.t.copy AS c"
        " USING (SELECT * FROM lab.t.f CHANGES SINCE VERSION 1 WHERE _change_type = 'insert') AS n"
        " ON c.id = n.id WHEN MATCHED THEN UPDATE SET v = n.v"
        " WHEN NOT MATCHED THEN INSERT (id, name, v) VALUES (n.id, n.name, n.v)"
    ).to_pylist()[0]
    assert (done["rows_updated"], done["rows_inserted"]) == (2, 1)
    assert rows(copy.read()) == rows(frame.read())


def test_new_columns_come_with_rows_where_that_is_asked_for(frame: Frame) -> None:
    wider = {"id": [4], "humidity": [0.5], "tags": [["x"]]}
    with pytest.raises(apiary.SchemaError, match="humidity"):
        frame.write(wider)
    assert frame.write(wider, evolve=True).version == 3
    assert frame.schema.names == ["id", "name", "v", "humidity", "tags"]
    [new] = [row for row in frame.read().to_pylist() if row["id"] == 4]
    assert new == {"id": 4, "name": None, "v": None, "humidity": 0.5, "tags": ["x"]}
    assert frame.write(wider, evolve=True).version == 4
    with pytest.raises(apiary.SchemaError, match="id"):
        frame.write(pa.table({"id": ["text"], "another": [1]}), evolve=True)
    assert (frame.describe().version, "another" in frame.schema.names) == (4, False)
    assert frame.overwrite({"id": [1], "fresh": [True]}, evolve=True).rows == 1
    assert frame.read(["id", "fresh"]).fetchall() == [(1, True)]


CLAUSES = (
    # When the row is updated, when it is deleted (asked first), when a new one is inserted.
    ("true", None, "true"),
    ("true", None, None),
    ("source.v > 0", None, "source.v < 1"),
    ("true", "source.v < target.v", "true"),
    (None, "source.v > 0", "source.v > 0"),
    (None, "true", None),
)


def merged(old: list[tuple], new: list[tuple], clauses: tuple[str | None, ...]) -> list[tuple]:
    """What MERGE makes of rows by a key and a value, clause by clause."""
    update, delete, insert = clauses

    def holds(clause: str | None, source: tuple, target: tuple | None = None) -> bool:
        if clause in (None, "true"):
            return clause == "true"
        names = {"source.v": source[2], "target.v": target[2] if target else None}
        left, comparison, right = clause.split()
        a, b = (names[side] if side in names else float(side) for side in (left, right))
        return a is not None and b is not None and (a > b if comparison == ">" else a < b)

    found = []
    for row in old:
        source = next((s for s in new if s[0] is not None and s[0] == row[0]), None)
        if source and holds(delete, source, row):
            continue
        found.append(source if source and holds(update, source, row) else row)
    keys = {row[0] for row in old if row[0] is not None}
    return found + [s for s in new if s[0] not in keys and holds(insert, s)]


@pytest.mark.parametrize("seed", range(6))
def test_whole_rows_are_merged_as_said(ap: Apiary, seed: int) -> None:
    """Rows that the source gives whole, against a model: keys that the frame has twice, or are null on either side."""
    rng = random.Random(seed)
    value = [None, -1.0, 0.5, 2.0]
    keys = [None, *range(40)]
    old = [(rng.choice(keys), f"old {n}", rng.choice(value)) for n in range(60)]
    distinct = rng.sample(range(60), 30) + [None]
    new = [(key, rng.choice([None, f"new {key}"]), rng.choice(value)) for key in distinct]
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("v", pa.float64())])

    def table(data: list[tuple]) -> pa.Table:
        return pa.table([pa.array(column, field.type) for column, field in zip(zip(*data), schema)], schema=schema)

    for marks in (False, True):
        for number, clauses in enumerate(CLAUSES):
            update, delete, insert = clauses
            frame = ap.create_frame(f"lab.t.m{seed}_{marks}_{number}", schema)
            if marks:
                ap.sql(
                    f"ALTER FRAME {frame.name} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
                ).fetchall()
            for part in (old[:25], old[25:]):
                frame.write(table(part))
            merge = frame.merge(table(new), ON)
            merge = merge.when_matched_delete(delete) if delete else merge
            merge = merge.when_matched_update(None, update) if update else merge
            merge = merge.when_not_matched_insert(None, insert) if insert else merge
            done = merge.execute()
            wanted = merged(old, new, clauses)
            assert sorted(map(repr, rows(frame.read()))) == sorted(map(repr, wanted)), clauses
            assert len(old) - done.rows_deleted + done.rows_inserted == len(wanted), clauses
