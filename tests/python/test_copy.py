"""COPY: rows into files and files into frames."""

from __future__ import annotations

import json
from pathlib import Path

import apiary
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from apiary import Apiary, Frame
from support import rows

SCHEMA = pa.schema(
    [
        ("id", pa.int32()),
        ("name", pa.string()),
        ("price", pa.decimal128(8, 2)),
        ("day", pa.date32()),
        ("l", pa.list_(pa.int64())),
    ]
)


@pytest.fixture
def frame(ap: Apiary) -> Frame:
    frame = ap.create_frame("lab.t.f", SCHEMA)
    ap.sql(
        "INSERT INTO lab.t.f VALUES (1, 'a', 1.50, '2026-01-02', [1, 2]), (2, NULL, NULL, NULL, NULL),"
        " (3, 'c, \"d\"', -0.01, '1999-12-31', [])"
    )
    return frame


def test_rows_go_into_files_of_every_kind_and_come_back(ap: Apiary, frame: Frame, tmp_path: Path) -> None:
    for ending in ("parquet", "json", "ndjson", "jsonl", "csv", "tsv"):
        path = tmp_path / f"out.{ending}"
        columns = "id, name, price, day" + (", l" if ending not in ("csv", "tsv") else "")
        assert ap.sql(f"COPY (SELECT {columns} FROM lab.t.f) TO '{path}'").fetchall() == [(3,)]
        assert path.is_file()
        copy = ap.create_frame(f"lab.t.{ending}", SCHEMA)
        assert ap.sql(f"COPY lab.t.{ending} FROM '{path}'").to_pylist()[0]["rows"] == 3
        expected = (
            rows(frame.read()) if "l" in columns.split(", ") else [(*row[:4], None) for row in rows(frame.read())]
        )
        assert rows(copy.read()) == expected, ending
    assert (
        tmp_path / "out.csv"
    ).read_text() == 'id,name,price,day\n1,a,1.50,2026-01-02\n2,,,\n3,"c, ""d""",-0.01,1999-12-31\n'
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3
    assert [json.loads(line)["id"] for line in (tmp_path / "out.json").read_text().splitlines()] == [1, 2, 3]


def test_lines_within_quotes_stay_together_on_two_bees(ap: Apiary, tmp_path: Path) -> None:
    path, count = tmp_path / "lines.csv", 120_000
    lines = "one\n" * 40
    path.write_text("id,note\n" + "".join(f'{number},"{lines}"\n' for number in range(count)))
    asked = f"SELECT count(*), sum(id), count(DISTINCT note) FROM '{path}'"
    assert ap.sql(asked).fetchall() == [(count, count * (count - 1) // 2, 1)]


def test_a_frame_goes_whole_into_files_and_folders(ap: Apiary, frame: Frame, tmp_path: Path) -> None:
    ap.sql(f"COPY lab.t.f TO '{tmp_path}/parts/' STORED AS PARQUET")
    assert sum(pq.read_table(part).num_rows for part in (tmp_path / "parts").iterdir()) == 3
    odd = tmp_path / "odd [1] %20 ü*.csv"
    ap.sql(f"COPY (SELECT id FROM lab.t.f) TO '{odd}'")
    assert odd.read_text() == "id\n1\n2\n3\n"
    ap.sql(f"COPY (SELECT id FROM lab.t.f) TO '{odd.as_uri()}'")
    assert sorted(path.name for path in tmp_path.iterdir() if "odd" in path.name) == [odd.name]
    ap.sql(f"COPY lab.t.f TO '{tmp_path}/one.parquet' OPTIONS (compression 'zstd(3)')")
    assert pq.read_metadata(tmp_path / "one.parquet").row_group(0).column(0).compression == "ZSTD"
    ap.sql(f"COPY lab.t.f TO '{tmp_path}/one.parquet'")
    assert pq.read_table(tmp_path / "one.parquet").num_rows == 3


def test_options_say_how_files_are_read(ap: Apiary, frame: Frame, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("4;x;2,5\n5;;\n".replace("2,5", "2.5"))
    done = ap.sql(f"COPY lab.t.f FROM '{path}' OPTIONS (header false, 'delimiter' ';')").to_pylist()[0]
    assert done["rows"] == 2
    assert ap.sql("SELECT id, name, price FROM lab.t.f WHERE id > 3 ORDER BY id").fetchall()[0][:2] == (4, "x")
    ap.sql(f"COPY (SELECT id, name FROM lab.t.f WHERE id < 3) TO '{path}' OPTIONS (delimiter ';', 'has_header' false)")
    assert path.read_text() == "1;a\n2;\n"


def test_texts_become_what_the_columns_are(ap: Apiary, tmp_path: Path) -> None:
    moment = pa.timestamp("us", tz="UTC")
    kinds = {"n": pa.int32(), "x": pa.float32(), "d": pa.decimal128(8, 2), "t": moment, "s": pa.string()}
    frame = ap.create_frame("lab.t.kinds", pa.schema(kinds))
    (tmp_path / "k.csv").write_text("n,x,d,t,s\n1,2,1.239,2026-01-02T03:04:05.123456Z,007\n")
    (tmp_path / "k.json").write_text('{"n": 1, "x": 2, "d": "1.239", "t": "2026-01-02T03:04:05.123456Z", "s": "007"}\n')
    for name in ("k.csv", "k.json"):
        ap.sql(f"COPY lab.t.kinds FROM '{tmp_path}/{name}'")
    [one, other] = frame.read().to_pylist()
    assert one == other
    assert (one["n"], one["x"], str(one["d"]), one["t"].microsecond, one["s"]) == (1, 2.0, "1.24", 123456, "007")
    (tmp_path / "fine.csv").write_text("t\n2026-01-02T03:04:05.123456789Z\n")
    with pytest.raises(apiary.SchemaError, match="finer than a microsecond"):
        ap.sql(f"COPY lab.t.kinds FROM '{tmp_path}/fine.csv'")


def test_many_rows_are_copied_within_the_memory(ap: Apiary, big: Frame, tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    assert ap.sql(f"COPY (SELECT x, x * 2 AS y FROM big) TO '{path}'").fetchall() == [(1_000_000,)]
    assert ap.sql(f"SELECT count(*), sum(y) FROM '{path}'").fetchall() == [(1_000_000, 999_999_000_000)]


def test_what_cannot_be_copied_says_why_and_leaves_nothing(
    ap: Apiary, frame: Frame, tmp_path: Path, storage: Path
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("id,name\n1,a\nx,b\n")
    unknown = tmp_path / "unknown.csv"
    unknown.write_text("id,nope\n1,a\n")
    day = tmp_path / "day.json"
    day.write_text('{"id": 1, "day": 20260131}\n')
    (tmp_path / "link").symlink_to(storage)
    for sql, kind, text in (
        (f"COPY lab.t.f TO '{tmp_path}/out.xyz'", apiary.InvalidInputError, "does not say its format"),
        (f"COPY lab.t.f TO '{tmp_path}'", apiary.InvalidInputError, "is a folder"),
        (f"COPY lab.t.f TO '{storage}/lab/t/f/x.parquet'", apiary.InvalidInputError, "inside the meadow"),
        (f"COPY lab.t.f TO '{storage}/../meadow/x.parquet'", apiary.InvalidInputError, "inside the meadow"),
        ("COPY lab.t.f TO 's3://bucket/x.parquet'", apiary.UnsupportedError, "s3://"),
        (f"COPY lab.t.nope TO '{tmp_path}/out.csv'", apiary.NotFoundError, "lab.t.nope"),
        (f"COPY (SELECT 1/0 AS a FROM lab.t.f) TO '{tmp_path}/out.csv'", apiary.ApiaryError, "ivide by zero"),
        (f"COPY lab.t.f TO '{tmp_path}/p/' STORED AS CSV PARTITIONED BY (id)", apiary.UnsupportedError, "PARTITIONED"),
        (f"COPY lab.t.f TO '{tmp_path}/link/x.csv'", apiary.InvalidInputError, "inside the meadow"),
        ("COPY lab.t.f TO '/dev/null' STORED AS CSV", apiary.InvalidInputError, "no file"),
        (f"COPY lab.t.f FROM '{tmp_path}/*.csv'", apiary.InvalidInputError, "one CSV file at a time"),
        (f"COPY lab.t.f FROM '{day}'", apiary.SchemaError, "day"),
        (f"COPY lab.t.f TO '{tmp_path}/out.csv' OPTIONS (nonsense 1)", apiary.InvalidInputError, "nonsense"),
        (f"COPY lab.t.f FROM '{tmp_path}/missing.csv'", apiary.NotFoundError, "missing.csv"),
        (f"COPY lab.t.f FROM '{bad}'", apiary.ApiaryError, "x"),
        (f"COPY lab.t.f FROM '{unknown}'", apiary.SchemaError, "nope"),
        (f"COPY lab.t.nope FROM '{bad}'", apiary.NotFoundError, "lab.t.nope"),
        (f"COPY lab.t.f FROM '{bad}' OPTIONS (nonsense 1)", apiary.InvalidInputError, "nonsense"),
        (f"EXPLAIN ANALYZE COPY lab.t.f TO '{tmp_path}/out.csv'", apiary.UnsupportedError, "COPY"),
    ):
        with pytest.raises(kind, match=text):
            ap.sql(sql).fetchall()
        assert not (tmp_path / "out.csv").exists(), sql
    assert frame.describe().version == 1
    assert "COPY" not in ap.sql(f"EXPLAIN COPY lab.t.f TO '{tmp_path}/out.csv'").fetchall()[0][1]
    assert not (tmp_path / "out.csv").exists()
