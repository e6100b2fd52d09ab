"""The tables of the box ``system``."""

from __future__ import annotations

import pyarrow as pa
import pytest
from apiary import Apiary, Frame, NotFoundError


def test_bees_and_settings_are_shown(ap: Apiary) -> None:
    bees = ap.sql("SELECT * FROM system.bees ORDER BY bee").to_pylist()
    assert [bee["bee"] for bee in bees] == [0, 1]
    assert all(bee["alive"] and bee["memory"] > 100 << 20 and bee["generation"] == 1 for bee in bees)
    settings = {
        row["name"]: (row["value"], row["set_by"]) for row in ap.sql("SELECT * FROM system.settings").to_pylist()
    }
    assert settings["bees"] == ("2", "node")
    assert settings["memory"] == ("512.0 MB", "node")
    assert settings["distribute"] == ("auto", "node")
    ap.sql("SET distribute = 'never'")
    ap.sql("SET max_bytes = '2GB'")
    ap.sql("SET datafusion.execution.batch_size = 1000")
    settings = {
        row["name"]: (row["value"], row["set_by"]) for row in ap.sql("SELECT * FROM system.settings").to_pylist()
    }
    assert settings["distribute"] == ("never", "session")
    assert settings["max_bytes"] == (str(2 << 30), "session")
    assert settings["datafusion.execution.batch_size"] == ("1000", "session")
    assert len(settings) == len(ap.sql("SELECT DISTINCT name FROM system.settings").fetchall())


def test_storage_options_are_not_shown(s3: str) -> None:
    from support import s3_options

    with Apiary(
        "secret", storage="s3://bucket/system-settings", storage_options=s3_options(s3), bees=1, memory="128MB"
    ) as ap:
        text = str(ap.sql("SELECT * FROM system.settings").fetchall())
        assert "s3://bucket/system-settings" in text
        assert "secret_access_key" not in text


def test_cells_and_history_of_all_frames_or_one(ap: Apiary, sensors: Frame) -> None:
    other = ap.create_frame("lab.raw.parted", pa.schema([("k", pa.string()), ("v", pa.int64())]), partition_by="k")
    other.write({"k": ["x", "y"], "v": [1, 2]})
    sensors.write({"id": [1, 2, 3], "value": [1.0, None, 3.0]})
    sensors.delete("id = 1")
    cells = ap.sql("SELECT frame, version, rows, rows_deleted FROM system.cells ORDER BY frame, cell").fetchall()
    assert cells == [("lab.raw.parted", 1, 1, 0)] * 2 + [("lab.raw.sensors", 2, 2, 0)]
    assert ap.sql("SELECT count(*) FROM system.cells WHERE partition LIKE '%y%'").fetchone() == (1,)
    history = "SELECT version, operation FROM system.history WHERE frame = 'lab.raw.sensors' ORDER BY 1"
    assert ap.sql(history).fetchall() == [(e.version, e.operation) for e in reversed(sensors.history())]
    requests = [
        ap.sql(f"SELECT count(*) FROM system.cells {where}") for where in ("WHERE frame IN ('lab.raw.parted')", "")
    ]
    assert [result.fetchone() for result in requests] == [(2,), (3,)]
    assert ap.sql("SELECT * FROM system.cells WHERE frame = 'no.such.frame'").fetchall() == []
    joined = (
        "SELECT c.frame, sum(c.bytes) > 0 FROM system.cells c JOIN system.history h USING (frame) GROUP BY 1 ORDER BY 1"
    )
    assert ap.sql(joined).fetchall() == [("lab.raw.parted", True), ("lab.raw.sensors", True)]
    with pytest.raises(NotFoundError, match="bees, cells, history, nodes, queries, settings, tasks"):
        ap.sql("SELECT * FROM system.nonsense")
