"""The examples of the README and of the docstrings run."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary, Frame
from support import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def without_numbers_that_vary(text: str) -> str:
    return re.sub(r"(bytes|temperature)=[\d.]+", r"\1=…", text)


def test_the_readmes_program_prints_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *_ = blocks("python")
    shown = README.partition(program)[2].partition("```text\n")[2].partition("```")[0]
    exec(program.replace("file:///tmp/meadow", f"file://{tmp_path}/meadow"), {})
    assert without_numbers_that_vary(capsys.readouterr().out) == without_numbers_that_vary(shown)


@pytest.fixture
def frame(ap: Apiary) -> Frame:
    """What the examples are about: five versions of some readings."""
    columns = {
        "id": pa.int64(),
        "sensor": pa.int32(),
        "region": pa.string(),
        "celsius": pa.float64(),
        "note": pa.string(),
    }
    frame = ap.create_frame("analytics.sensors.temperature", pa.schema(columns))
    for number in range(5):
        frame.write({"id": [number], "sensor": [7], "region": ["north"], "celsius": [20.0 + number]})
    return frame


def test_the_readmes_other_python_runs(ap: Apiary, frame: Frame) -> None:
    _, *others = blocks("python")
    assert others
    for program in others:
        names: dict[str, Any] = {"ap": ap, "frame": frame, "sensor": [1.5, 2.5], "table": frame.read().to_arrow()}
        code = compile(program, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, names)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)


def test_the_readmes_sql_runs(ap: Apiary, frame: Frame, tmp_path: Path) -> None:
    ap.sql("USE BOX analytics.sensors")
    ap.sql("CREATE FRAME readings (region TEXT, celsius DOUBLE)")
    for number in range(4):
        ap.sql(f"INSERT INTO readings VALUES ('north', {number})")
    (tmp_path / "readings.csv").write_text("region,degrees\nsouth,1\n")
    statements = [part for block in blocks("sql") for part in re.sub(r"--.*", "", block).split(";") if part.strip()]
    assert len(statements) > 5
    for statement in statements:
        moment = "TIMESTAMP AS OF '2026-01-31 12:00'"
        ap.sql(statement.replace(moment, "VERSION AS OF 0").replace("'/tmp/", f"'{tmp_path}/")).fetchall()


def docstrings() -> Iterator[tuple[str, str]]:
    for module in [
        apiary,
        *(importlib.import_module(f"apiary.{m.name}") for m in pkgutil.iter_modules(apiary.__path__)),
    ]:
        yield module.__name__, module.__doc__ or ""
        for name, thing in vars(module).items():
            if inspect.isclass(thing) and thing.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", thing.__doc__ or ""
                own = {member: method for member, method in vars(thing).items() if not hasattr(method, "__wrapped__")}
                for member, method in own.items():
                    yield f"{module.__name__}.{name}.{member}", getattr(method, "__doc__", None) or ""


EXAMPLES = {name: doctest.DocTestParser().get_examples(text) for name, text in docstrings() if ">>>" in text}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstrings_run(name: str, ap: Apiary, frame: Frame, tmp_path: Path) -> None:
    names: dict[str, Any] = {
        "Apiary": Apiary,
        "ap": ap,
        "frame": frame,
        "schema": frame.schema,
        "sensor": [1.5, 2.5],
        "table": frame.read().to_arrow(),
    }
    for example in EXAMPLES[name]:
        source = example.source.replace("s3://bucket/meadow", str(tmp_path / "other"))
        code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            exec(compile("from apiary.aio import AsyncApiary", name, "exec"), names)
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
