"""What several test files need."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

ROOT = Path(__file__).parents[2]


def rows(data: Any) -> list[tuple[Any, ...]]:
    """Rows of anything with ``__arrow_c_stream__``, in a fixed order; nulls first."""
    table = data if isinstance(data, pa.Table) else pa.table(data)
    found = zip(*(column.to_pylist() for column in table.columns))
    return sorted(found, key=lambda row: [(value is not None, str(type(value)), value) for value in row])


def case(known: Mapping[str, str], name: str, *values: Any) -> Any:
    """A case of a parametrized test, expected to fail where it is ``known`` to."""
    marks = [pytest.mark.xfail(strict=True, reason=known[name])] if name in known else []
    return pytest.param(*values, id=name, marks=marks)


def folder(storage: Path, frame: str) -> str:
    """Where a frame lies: a Delta table that other programs open."""
    return str(storage.joinpath(*frame.split(".")))


def script(code: str, *args: object) -> subprocess.Popen[str]:
    """Starts a program of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def start_together(processes: list[subprocess.Popen[str]]) -> None:
    """Lets programs go on that printed "ready" and wait for a line."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def output(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """What a program printed; it must have succeeded."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def node_binary() -> str:
    """The program ``apiary-node``: that of ``APIARY_NODE``, else the release build of this tree."""
    return os.environ.get("APIARY_NODE") or str(ROOT / "target" / "release" / "apiary-node")


def s3_options(address: str) -> dict[str, object]:
    """Settings of a storage on the S3 server at ``address``."""
    keys = {"access_key_id": "key", "secret_access_key": "very-secret", "region": "us-east-1"}
    return {"endpoint": address, "allow_http": True, "path_style": True, **keys}


def until(condition: Callable[[], bool], what: str, timeout: float = 10) -> None:
    """Waits for something that other programs bring about."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.05)
