"""A frame's folder is a Delta table: other programs read it in place, at every version, and may write it."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa
import pytest
from apiary import AlreadyExistsError, Apiary, Frame, NotFoundError
from support import folder, rows

SCHEMA = pa.schema(
    [
        pa.field("region", pa.string()),
        pa.field("day", pa.date32()),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("small", pa.int16()),
        pa.field("value", pa.float64()),
        pa.field("price", pa.decimal128(12, 2)),
        pa.field("seen", pa.timestamp("us", tz="UTC")),
        pa.field("ok", pa.bool_()),
        pa.field("raw", pa.binary()),
    ]
)


def part(number: int, count: int = 7) -> pa.Table:
    """Rows that differ from those of every other part, with nulls and awkward partition values."""
    ids = range(number * count, (number + 1) * count)
    return pa.table(
        {
            "region": [("eu", "us/west", "ü %=&", "a b")[i % 4] for i in ids],
            "day": [date(2024, 1 + i % 2, 28) for i in ids],
            "id": list(ids),
            "small": [None if i % 5 == 0 else i % 100 for i in ids],
            "value": [None if i % 3 == 0 else i / 8 for i in ids],
            "price": [Decimal(i).scaleb(-2) for i in ids],
            "seen": [datetime(2024, 1, 1, i % 24, tzinfo=timezone.utc) for i in ids],
            "ok": [None if i % 7 == 0 else i % 2 == 0 for i in ids],
            "raw": [bytes([i % 256]) for i in ids],
        },
        schema=SCHEMA,
    )


@pytest.fixture(params=[[], ["region"], ["region", "day"]], ids=["plain", "one partition", "two partitions"])
def frame(ap: Apiary, request: pytest.FixtureRequest) -> Frame:
    return ap.create_frame("shared.delta.data", SCHEMA, partition_by=request.param)


def theirs(path: str, version: int | None = None) -> list[tuple[object, ...]]:
    table = deltalake.DeltaTable(path, version=version).to_pyarrow_table()
    return rows(pa.table(table).select(SCHEMA.names))


def test_others_read_what_we_wrote_at_every_version(frame: Frame, storage: Path) -> None:
    path = folder(storage, frame.name)
    expected: list[list[tuple[object, ...]]] = [[]]
    for number in range(27):
        if number in (9, 20):
            frame.overwrite(part(number))
            expected.append(rows(part(number)))
        else:
            frame.write(part(number))
            expected.append(rows(pa.concat_tables([part(n) for n in kept(number)])))
    assert json.loads(Path(path, "_delta_log", "_last_checkpoint").read_text())["version"] >= 10
    assert rows(frame.read()) == theirs(path) == expected[27]
    assert rows(pl.read_delta(path).select(SCHEMA.names)) == expected[27]
    for version in (0, 1, 8, 9, 10, 11, 20, 21, 26):
        assert rows(frame.read(version=version)) == expected[version], version
        assert theirs(path, version) == expected[version], version
        if version % 10 == 1:
            assert rows(pl.read_delta(path, version=version).select(SCHEMA.names)) == expected[version], version


def kept(number: int) -> range:
    """Parts that are there after part ``number`` was appended."""
    start = max((overwrite for overwrite in (0, 9, 20) if overwrite <= number), default=0)
    return range(start, number + 1)


def test_others_see_our_schema_partitions_and_history(frame: Frame, storage: Path) -> None:
    frame.write(part(0))
    table = deltalake.DeltaTable(folder(storage, frame.name))
    info = frame.describe()
    assert table.version() == info.version == 1
    assert list(table.metadata().partition_columns) == info.partition_by
    assert [field.name for field in table.schema().fields] == SCHEMA.names
    assert {field.name for field in table.schema().fields if not field.nullable} == {"id"}
    assert len(table.file_uris()) == info.cells
    assert [entry["version"] for entry in table.history()] == [1, 0]
    ours = [int(entry.timestamp.timestamp() * 1000) for entry in frame.history()]
    assert all(abs(entry["timestamp"] - our) < 5000 for entry, our in zip(table.history(), ours))


def test_others_find_our_statistics(frame: Frame, storage: Path) -> None:
    frame.write(part(0, count=40))
    actions = pa.table(deltalake.DeltaTable(folder(storage, frame.name)).get_add_actions(flatten=True))
    assert sum(actions["num_records"].to_pylist()) == 40
    assert min(actions["min.id"].to_pylist()) == 0
    assert max(actions["max.id"].to_pylist()) == 39
    assert sum(actions["null_count.small"].to_pylist()) == 8


def test_statistics_skip_files_for_others_without_losing_rows(frame: Frame, storage: Path) -> None:
    frame.write(part(0, count=60))
    dataset = deltalake.DeltaTable(folder(storage, frame.name)).to_pyarrow_dataset()
    import pyarrow.compute as pc

    for condition, query in (
        (pc.field("id") >= 50, "id >= 50"),
        (pc.field("price") < pa.scalar(Decimal("0.05"), pa.decimal128(12, 2)), "price < 0.05"),
        (pc.field("region") == "ü %=&", "region = 'ü %=&'"),
        (pc.field("seen") > datetime(2024, 1, 1, 20, tzinfo=timezone.utc), "seen > TIMESTAMP '2024-01-01T20:00:00Z'"),
        (pc.field("value").is_null(), "value IS NULL"),
    ):
        found = rows(dataset.to_table(columns=["id"], filter=condition))
        assert found and found == rows(frame._apiary.sql(f"SELECT id FROM shared.delta.data WHERE {query}")), query


def test_we_read_what_others_wrote(frame: Frame, storage: Path) -> None:
    path = folder(storage, frame.name)
    frame.write(part(0))
    deltalake.write_deltalake(path, part(1), mode="append")
    assert rows(frame.read()) == rows(pa.concat_tables([part(0), part(1)]))
    frame.write(part(2))
    assert theirs(path) == rows(frame.read()) == rows(pa.concat_tables([part(0), part(1), part(2)]))
    deltalake.DeltaTable(path).delete("id < 10")
    assert (
        rows(frame.read())
        == theirs(path)
        == [row for row in rows(pa.concat_tables([part(1), part(2)])) if row[2] >= 10]
    )
    deltalake.write_deltalake(path, part(3), mode="overwrite")
    assert rows(frame.read()) == rows(part(3))
    assert [entry.version for entry in frame.history()] == [5, 4, 3, 2, 1, 0]


def test_others_read_what_we_changed_and_we_what_they_changed(frame: Frame, storage: Path) -> None:
    path = folder(storage, frame.name)
    for number in range(4):
        frame.write(part(number))
    versions = [rows(frame.read())]

    def same() -> None:
        versions.append(rows(frame.read()))
        assert versions[-1] == theirs(path) == rows(pl.read_delta(path).select(SCHEMA.names))

    assert frame.delete("id % 9 = 4").rows_deleted == 3
    same()
    assert frame.update({"small": "small + 1", "price": "price * 2"}, "ok AND region <> 'eu'").rows_updated > 0
    same()
    table = deltalake.DeltaTable(path)
    table.update(predicate="id = 20", updates={"value": "-1.0"})
    same()
    frame._apiary.sql(
        f"""MERGE INTO {frame.name} AS t USING (SELECT value AS id FROM generate_series(24, 33)) AS s ON t.id = s.id
        WHEN MATCHED THEN UPDATE SET value = 0.25
        WHEN NOT MATCHED THEN INSERT (id, region, day) VALUES (s.id, 'eu', DATE '2024-01-28')"""
    )
    same()
    assert frame.optimize().cells_added < frame.describe().version * 4
    same()
    assert versions[-1] == versions[-2]
    deltalake.DeltaTable(path).delete("id > 30")
    same()
    assert frame.optimize("id").rows_deleted == 0
    same()
    assert [entry.operation for entry in frame.history(7)] == [
        "OPTIMIZE",
        "DELETE",
        "OPTIMIZE",
        "MERGE",
        "UPDATE",
        "UPDATE",
        "DELETE",
    ]
    for version, expected in enumerate(versions, start=4):
        assert rows(frame.read(version=version)) == expected == theirs(path, version), version


def test_a_table_of_others_is_attached_and_detached(ap: Apiary, storage: Path) -> None:
    ap.create_box("ext.d")
    path = storage / "ext/d/t"
    with pytest.raises(NotFoundError, match="no Delta table in .*ext/d/t"):
        ap.attach_frame("ext.d.t")
    table = pa.table({"site": ["a", None, "a"], "Temp (C)": [1.5, 2.5, None]})
    deltalake.write_deltalake(path, table, partition_by=["site"], configuration={"delta.columnMapping.mode": "none"})
    with pytest.raises(NotFoundError, match="ATTACH FRAME ext.d.t makes it one"):
        ap.frame("ext.d.t").read()
    frame = ap.attach_frame("ext.d.t")
    assert ap.frames("ext.d") == ["ext.d.t"]
    assert rows(frame.read().to_arrow()) == rows(table)
    deltalake.write_deltalake(path, table, mode="append")
    frame.write(table.slice(0, 1))
    assert frame.read().to_arrow().num_rows == deltalake.DeltaTable(path).to_pyarrow_table().num_rows == 7
    with pytest.raises(AlreadyExistsError):
        ap.attach_frame("ext.d.t")
    ap.detach_frame("ext.d.t")
    with pytest.raises(NotFoundError):
        frame.read()
    assert deltalake.DeltaTable(path).to_pyarrow_table().num_rows == 7
    assert ap.attach_frame("ext.d.t").history()[0].version == 2


def test_of_a_wide_frame_the_columns_that_filters_are_on_have_statistics(ap: Apiary, storage: Path) -> None:
    measured = [pa.field(f"m{i}", pa.float64()) for i in range(60)]
    schema = pa.schema([*measured, pa.field("sensor", pa.int32()), pa.field("seen", pa.timestamp("us"))])
    frame = ap.create_frame("shared.delta.wide", schema)

    def write(start: int) -> None:
        data = {f"m{i}": [float(start)] for i in range(60)} | {"seen": [datetime(2024, 1, start)]}
        frame.write(data | {frame.schema.names[60]: [start]})

    def bounds(version: int) -> dict[str, object]:
        log = Path(folder(storage, "shared.delta.wide"), "_delta_log", f"{version:020}.json")
        adds = [json.loads(line)["add"] for line in log.read_text().splitlines() if '"add"' in line]
        return json.loads(adds[0]["stats"])["minValues"]

    write(1)
    assert set(bounds(1)) == {"sensor", "seen", *(f"m{i}" for i in range(30))}
    ap.sql("ALTER FRAME shared.delta.wide RENAME COLUMN sensor TO device")
    write(2)
    assert set(bounds(3)) == set(bounds(1))
    told = str(ap.sql("EXPLAIN SELECT m50 FROM shared.delta.wide WHERE device = 2").fetchall())
    assert "1 of 2 cells read" in told
    ap.sql("ALTER FRAME shared.delta.wide DROP COLUMN m7")
    assert ap.sql("SELECT count(*), max(device) FROM shared.delta.wide WHERE seen > '2024-01-01'").fetchall() == [
        (1, 2)
    ]


def test_rows_are_marked_where_asked_for_and_who_cannot_read_them_says_so(ap: Apiary, storage: Path):
    cells = Path(folder(storage, "default.default.marked"))
    frame = ap.create_frame("marked", pa.schema({"id": pa.int64(), "n": pa.int64()}))
    frame.write({"id": list(range(60_000)), "n": [0] * 60_000})
    frame.set_properties({"delta.enableDeletionVectors": "true"})
    before = set(cells.glob("*.parquet"))
    frame.delete("id = 59999")
    assert set(cells.glob("*.parquet")) == before
    frame.update({"n": "1"}, "id < 5")
    assert before < set(cells.glob("*.parquet"))
    assert ap.sql("SELECT count(*), max(id), sum(n) FROM marked").fetchall() == [(59_999, 59_998, 5)]
    with pytest.raises(Exception, match="(?i)deletion.?vectors"):
        deltalake.DeltaTable(str(cells)).to_pyarrow_table()
    frame.optimize()
    assert ap.sql("SELECT count(*), max(id), sum(n) FROM marked").fetchall() == [(59_999, 59_998, 5)]
