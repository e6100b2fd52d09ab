"""Fixtures: an Apiary on a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from apiary import Apiary, Frame


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The folder of the meadow."""
    return tmp_path / "meadow"


@pytest.fixture
def ap(storage: Path) -> Iterator[Apiary]:
    """A small Apiary."""
    with Apiary("test", storage=storage, bees=2, memory="512MB") as apiary:
        yield apiary


SENSORS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("seen", pa.timestamp("us", tz="UTC")),
    ]
)


@pytest.fixture
def sensors(ap: Apiary) -> Frame:
    """An empty frame of plain columns."""
    return ap.create_frame("lab.raw.sensors", SENSORS)


@pytest.fixture
def big(ap: Apiary) -> Frame:
    """A million numbers, 0 to 999,999, in one column ``x``: two of them joined without a condition never end."""
    frame = ap.create_frame("big", pa.schema([("x", pa.int64())]))
    frame.write(pa.table({"x": pa.array(range(1_000_000), pa.int64())}))
    return frame
