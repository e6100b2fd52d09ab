"""VERIFY finds what is not as the ledger says."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apiary import Apiary, CorruptError, Frame, InvalidInputError
from support import folder

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("x", pa.float64()),
        ("seen", pa.timestamp("us", tz="UTC")),
        ("l", pa.list_(pa.int32())),
    ]
)


def part(start: int) -> dict[str, list[object]]:
    ids = range(start, start + 10)
    names = [None if i % 4 == 0 else "n" * 50 + str(i) for i in ids]
    return {
        "id": list(ids),
        "name": names,
        "x": [float(i) for i in ids],
        "seen": [i * 1001 for i in ids],
        "l": [[i] for i in ids],
    }


@pytest.fixture
def frame(ap: Apiary) -> Frame:
    frame = ap.create_frame("lab.t.f", SCHEMA)
    for start in (0, 10, 20):
        frame.write(part(start))
    return frame


@pytest.fixture
def cells(frame: Frame, storage: Path) -> list[Path]:
    log = Path(folder(storage, "lab.t.f"), "_delta_log")
    names = []
    for version in (1, 2, 3):
        lines = map(json.loads, (log / f"{version:020}.json").read_text().splitlines())
        names += [line["add"]["path"] for line in lines if "add" in line]
    return [log.parent / name for name in names]


def found(frame: Frame) -> list[tuple[str, str]]:
    return sorted((Path(finding.cell).name, finding.problem) for finding in frame.verify())


def test_a_sound_frame_has_no_findings(ap: Apiary, frame: Frame) -> None:
    assert frame.verify() == []
    frame.update({"x": "-0.0"}, "id = 3")
    frame.update({"x": "'NaN'::DOUBLE"}, "id = 13")
    frame.delete("id > 15 AND id < 18")
    frame.rename_column("x", "y")
    frame.add_column("late", "INT")
    frame.optimize("name")
    assert frame.verify() == []
    assert ap.create_frame("lab.t.empty", SCHEMA).verify() == []
    by = ap.create_frame("lab.t.parted", SCHEMA, partition_by="id")
    by.write(part(100))
    assert by.verify() == []


def test_cells_that_are_gone_or_cut_or_damaged_are_named(frame: Frame, cells: list[Path]) -> None:
    whole = cells[1].read_bytes()
    cells[0].unlink()
    cells[1].write_bytes(whole[:-7])
    assert found(frame) == sorted([(cells[0].name, "missing"), (cells[1].name, "size")])
    middle = len(whole) // 4
    cells[1].write_bytes(whole[:4] + bytes(b ^ 0xFF for b in whole[4:middle]) + whole[middle:])
    assert found(frame) == sorted([(cells[0].name, "missing"), (cells[1].name, "unreadable")])
    advice = frame.verify()[0].advice
    assert "RESTORE" in advice


def test_files_of_no_version_are_orphans_and_removed_ones_are_not(frame: Frame, cells: list[Path]) -> None:
    frame.update({"x": "x + 1"}, "id = 1")
    assert frame.verify() == []
    orphan = cells[0].with_name("cell-of-nobody.parquet")
    orphan.write_bytes(cells[0].read_bytes())
    assert found(frame) == [(orphan.name, "orphaned")]


def test_statistics_that_lie_are_told(ap: Apiary, frame: Frame, cells: list[Path], storage: Path) -> None:
    table = pa.table({**part(10), "id": [*range(10, 19), 1000], "name": ["zz"] * 9 + [None]}, schema=SCHEMA)
    size = cells[1].stat().st_size
    pq.write_table(table, cells[1])
    log = Path(folder(storage, "lab.t.f"), "_delta_log", f"{2:020}.json")
    log.write_text(log.read_text().replace(f'"size":{size}', f'"size":{cells[1].stat().st_size}'))
    with Apiary("other", storage=storage, bees=2, memory="256MB") as other:
        findings = other.frame("lab.t.f").verify()
    assert {finding.problem for finding in findings} == {"statistics"}
    details = [finding.detail.partition(", and there ")[::2] for finding in findings]
    assert sorted(details)[0] == ("column 'id': the ledger says that 19 is the greatest value", "is 1000")
    assert {(said.partition(":")[0], found) for said, found in details} == {
        ("column 'id'", "is 1000"),
        ("column 'name'", "is zz"),
        ("column 'name'", "are 1"),
    }


def test_a_gap_in_the_log_is_told(frame: Frame, storage: Path) -> None:
    for start in range(30, 130, 10):
        frame.write(part(start))
    Path(folder(storage, "lab.t.f"), "_delta_log", f"{4:020}.json").unlink()
    assert found(frame) == [(f"{4:020}.json", "gap")]


def test_a_damaged_cell_can_be_left_out_and_only_when_it_is_named(ap: Apiary, frame: Frame, cells: list[Path]) -> None:
    cells[1].write_bytes(cells[1].read_bytes()[:200])
    with pytest.raises(CorruptError, match=f"{cells[1].name} is damaged.*leave_out_cells"):
        ap.sql("SELECT sum(id) FROM lab.t.f").fetchall()
    ap.sql(f"SET leave_out_cells = 'lab/t/f/{cells[1].name}'")
    assert ap.sql("SELECT count(*), min(id), sum(x) FROM lab.t.f").fetchall() == [(20, 0, 290.0)]
    assert frame.read().to_arrow().num_rows == 20
    told = str(ap.sql("EXPLAIN SELECT id FROM lab.t.f").fetchall())
    assert "2 of 2 cells read" in told and "1 left out by leave_out_cells" in told
    # What rewrites cells must not lose their rows.
    for change in ("UPDATE lab.t.f SET x = x + 1", "OPTIMIZE lab.t.f"):
        with pytest.raises(CorruptError):
            ap.sql(change)
    ap.sql("SET leave_out_cells = none")
    with pytest.raises(CorruptError):
        frame.read().to_arrow()
    with pytest.raises(InvalidInputError, match="leave_out_cells cannot be 'cell'|leave_out_cells cannot be \"cell\""):
        ap.sql("SET leave_out_cells = 'cell'")
