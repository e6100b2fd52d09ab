"""The package itself: light to import, typed, and its stubs true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import apiary
import pytest
from apiary import _apiary, errors
from support import output, script

FOLDER = Path(apiary.__file__).parent


def test_import_loads_no_other_package() -> None:
    code = "import sys; import apiary; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = ast.literal_eval(output(script(code)))
    assert not {"pyarrow", "pandas", "polars", "numpy", "duckdb"} & set(loaded)


def test_import_is_quick() -> None:
    def fastest(code: str) -> float:
        def once() -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return time.perf_counter() - start

        return min(once() for _ in range(7))

    assert fastest("import apiary") - fastest("import pyarrow") < 0.060


def test_the_package_is_typed() -> None:
    assert (FOLDER / "py.typed").is_file()


@pytest.mark.parametrize("name", ["Colony", "Stream"])
def test_the_stub_says_what_the_native_class_has(name: str) -> None:
    tree = ast.parse((FOLDER / "_apiary.pyi").read_text())
    (stub,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    promised = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)} - {"__init__"}
    native = {
        member for member in vars(getattr(_apiary, name)) if not member.startswith("__") or member.startswith("__arrow")
    }
    assert promised == native


def test_public_names_have_a_docstring() -> None:
    for name in set(apiary.__all__) - {"__version__"}:
        public = getattr(apiary, name)
        members = [
            m for key, m in vars(public).items() if not key.startswith("_") and (callable(m) or type(m) is property)
        ]
        assert all(member.__doc__ for member in [public, *members]), name


def test_every_kind_of_error_has_its_exception() -> None:
    source = Path(__file__).parents[2].joinpath("src", "error.rs").read_text()
    kinds = re.findall(r'Self::\w+ => "([^"]+)"', source)
    assert len(kinds) >= 15
    for kind in kinds:
        error = errors.from_kind(kind, "text")
        assert type(error) is not apiary.ApiaryError, kind
        assert (error.kind, str(error)) == (kind, "text")
    assert type(errors.from_kind("something new", "text")) is apiary.ApiaryError


def test_the_version_is_that_of_the_crate() -> None:
    manifest = Path(__file__).parents[2].joinpath("Cargo.toml").read_text()
    assert f'version = "{apiary.__version__}"' in manifest
