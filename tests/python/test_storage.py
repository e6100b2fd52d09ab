"""Where a meadow can be, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary, InvalidInputError, LimitReachedError
from support import s3_options


def use(ap: Apiary) -> None:
    frame = ap.create_frame("a.b.c", pa.schema([("x", pa.int64())]), if_not_exists=True)
    frame.overwrite({"x": [1, 2]})
    assert ap.sql("SELECT sum(x) FROM a.b.c").fetchone() == (3,)


def test_a_folder_is_given_in_four_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my meadow"
    for storage in (folder, str(folder), folder.as_uri()):
        with Apiary("test", storage=storage, bees=1, memory="64MB") as ap:
            use(ap)
    monkeypatch.setenv("APIARY_STORAGE", str(folder))
    with Apiary(bees=1, memory="64MB") as ap:
        assert ap.frames() == ["a.b.c"]
        assert ap.name == "apiary"


def test_without_a_storage_it_is_a_folder_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APIARY_STORAGE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Apiary(bees=1, memory="64MB") as ap:
        use(ap)
    assert (tmp_path / "apiary" / "a" / "b" / "c" / "_delta_log").is_dir()


def test_memory_is_a_storage() -> None:
    with Apiary("test", storage="memory://", bees=1, memory="64MB") as ap:
        use(ap)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"storage": "ftp://host/folder"}, "ftp"),
        ({"memory": "lots"}, "lots"),
        ({"memory": "1MB"}, "memory"),
        ({"memory": 0}, "memory"),
        ({"memory": -5}, "memory"),
        ({"bees": 0}, "bees"),
        ({"bees": -1}, "bees"),
        ({"time_limit": 0}, "time_limit"),
        ({"storage": "s3://bucket", "storage_options": {"no_such_option": "1"}}, "no_such_option"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(apiary.InvalidInputError, match=message):
        Apiary("test", **{"storage": tmp_path, "bees": 1, "memory": "64MB", **settings})  # type: ignore[arg-type]


def test_memory_is_bytes_or_text(tmp_path: Path) -> None:
    for memory in ("128MB", 128 << 20):
        with Apiary("test", storage=tmp_path, bees=2, memory=memory) as ap:
            status = ap.status()
            assert (status["bees"], status["memory"], status["name"]) == (2, 128 << 20, "test")
            assert 0 <= status["temperature"] <= 1


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(apiary.ApiaryError) as caught:
        Apiary("test", storage=file, bees=1, memory="64MB")
    assert isinstance(caught.value, (OSError, ValueError))


def test_a_bucket_is_a_storage(s3: str) -> None:
    for node in ("first", "second"):
        with Apiary(node, storage="s3://bucket/meadow", bees=1, memory="64MB", storage_options=s3_options(s3)) as ap:
            use(ap)
            assert ap.frame("a.b.c").read(version=1).fetchall() == [(1,), (2,)]
            assert "very-secret" not in repr(ap) + str(ap.status()) + str(ap.frame("a.b.c").describe())


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(apiary.ApiaryError) as caught:
        Apiary("test", storage="s3://missing/meadow", bees=1, memory="64MB", storage_options=s3_options(s3))
    assert caught.value.kind in ("not found", "storage")
    assert "very-secret" not in str(caught.value)


def test_a_cache_answers_the_second_scan(s3: str, tmp_path: Path) -> None:
    place = {"storage": "s3://bucket/cached", "bees": 1, "memory": "64MB", "storage_options": s3_options(s3)}
    spent = []
    for _ in range(2):
        with Apiary("test", cache=tmp_path / "cells", cache_limit="100MB", **place) as ap:
            ap.sql("CREATE FRAME IF NOT EXISTS numbers AS SELECT value FROM generate_series(1, 100000)").to_arrow()
            result = ap.sql("SELECT sum(value) AS total FROM numbers WHERE value % 2 = 1")
            assert result.to_arrow().to_pylist() == [{"total": 2_500_000_000}]
            spent.append(result.stats["bytes_read"])
    assert spent[0] > 100_000
    assert spent[1] == 0
    with pytest.raises(InvalidInputError, match="cache_limit"):
        Apiary("test", cache=tmp_path / "small", cache_limit="1KB", **place)


def test_a_query_over_its_limit_is_stopped(tmp_path: Path) -> None:
    with Apiary("test", storage=tmp_path, bees=1, memory="64MB") as ap:
        ap.sql("CREATE FRAME numbers AS SELECT value FROM generate_series(1, 100000)").to_arrow()
        ap.sql("SET max_bytes = '1KB'").to_arrow()
        with pytest.raises(LimitReachedError, match="max_bytes"):
            ap.sql("SELECT sum(value) FROM numbers").to_arrow()
        ap.sql("SET max_bytes = 'none'").to_arrow()
        assert ap.sql("SELECT count(value) AS n FROM numbers").to_arrow().to_pylist() == [{"n": 100_000}]


def test_a_frame_whose_record_is_damaged_can_be_dropped(ap: Apiary, storage: Path) -> None:
    for name in ("lab.raw.one", "lab.raw.two"):
        ap.create_frame(name, pa.schema([("x", pa.int64())])).write({"x": [1]})
    (storage / "_registry" / "lab" / "raw" / "one.json").write_text("garbage")
    with pytest.raises(apiary.CorruptError, match="or DROP FRAME"):
        ap.frame("lab.raw.one").read()
    ap.drop_frame("lab.raw.one")
    assert ap.frames() == ["lab.raw.two"]
    (storage / "_registry" / "lab" / "raw" / "two.json").write_text("garbage")
    ap.drop_hive("lab", cascade=True)
    assert (ap.frames(), list((storage / "lab").rglob("*.parquet"))) == ([], [])
