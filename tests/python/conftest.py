"""Fixtures: an Apiary on a folder of its own, and an S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = tmp_path_factory.mktemp("s3")
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(place / "data"),
        "STATE_DIR": str(place / "state"),
        "LOG_LEVEL": "WARNING",
    }
    program = Path(sys.executable).with_name("ministack")
    with (place / "log").open("wb") as log:
        server = subprocess.Popen([program], env={**os.environ, **settings}, stdout=log, stderr=log, cwd=place)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/_ministack/health", server)
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=10).close()
        yield address
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail("the S3 server did not start")
