"""The 22 TPC-H queries, through Python and through the command line, against DuckDB on the same cells."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import math
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import deltalake
import duckdb
import pyarrow as pa
import pytest
from apiary import Apiary
from support import ROOT, folder, node_binary

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
BOX = "tpch.sf001"
SCALE = os.environ.get("APIARY_SCALE", "0.01")


class Bench(NamedTuple):
    """The data and who answers questions about it."""

    storage: Path
    node: str
    apiary: Apiary
    duckdb: duckdb.DuckDBPyConnection


def run(node: str, storage: Path, *args: str) -> str:
    command = [node, "--storage", str(storage), "--bees", "2", "--memory", "512MB", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{args}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    storage = tmp_path_factory.mktemp("tpch")
    node = node_binary()
    run(node, storage, "generate", "tpch", "--scale", SCALE, "--into", BOX)
    connection = duckdb.connect()
    for table in TABLES:
        cells = deltalake.DeltaTable(folder(storage, f"{BOX}.{table}")).file_uris()
        connection.from_parquet(cells).create_view(table)
    with Apiary("tpch", storage=storage, bees=2, memory="512MB") as ap:
        ap.sql("USE HIVE tpch")
        ap.sql("USE BOX sf001")
        yield Bench(storage, node, ap, connection)


def query(number: int) -> str:
    return (ROOT / "src" / "bin" / "apiary-node" / "tpch" / f"q{number}.sql").read_text()


def with_full_names(sql: str) -> str:
    """The query for a session that is somewhere else: every table of a FROM gets its three names."""
    bare = re.sub(r"--.*", "", sql)
    return re.sub(rf"(?i)(\bfrom\s+|\bjoin\s+|,\s*)({'|'.join(TABLES)})\b(?!\.)", rf"\1{BOX}.\2", bare)


def from_csv(text: str, schema: pa.Schema) -> list[tuple[Any, ...]]:
    header, *lines = csv.reader(io.StringIO(text))
    assert header == schema.names
    return [tuple(parsed(cell, field.type) for cell, field in zip(line, schema)) for line in lines]


def parsed(cell: str, kind: pa.DataType) -> Any:
    if cell == "":
        return None
    if pa.types.is_integer(kind):
        return int(cell)
    if pa.types.is_decimal(kind):
        return decimal.Decimal(cell)
    if pa.types.is_floating(kind):
        return float(cell)
    return datetime.date.fromisoformat(cell) if pa.types.is_date(kind) else cell


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, decimal.Decimal))


def equal(ours: Any, theirs: Any) -> bool:
    """Floats to 1e-9 relative. DuckDB divides decimals as floats: where only we have a decimal, its last digit may be
    the result of rounding."""
    if not (is_number(ours) and is_number(theirs)):
        return bool(ours == theirs)
    if isinstance(ours, decimal.Decimal) and isinstance(theirs, float):
        last_digit = float(decimal.Decimal(1).scaleb(int(ours.as_tuple().exponent)))
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=last_digit)
    return math.isclose(ours, theirs, rel_tol=1e-9)


def in_one_order(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows sorted by what is exact in them first."""

    def key(row: tuple[Any, ...]) -> tuple[list[str], list[float]]:
        inexact = (float, decimal.Decimal)
        return [str(v) for v in row if not isinstance(v, inexact)], [float(v) for v in row if isinstance(v, inexact)]

    return sorted(rows, key=key)


def assert_same(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]], order: list[int]) -> None:
    """The same rows, and in the same order as far as the query's ORDER BY says: rows that tie may swap places."""
    assert len(ours) == len(theirs)
    for our, their in zip(in_one_order(ours), in_one_order(theirs)):
        assert len(our) == len(their) and all(map(equal, our, their)), (our, their)
    for our, their in zip(ours, theirs):
        assert all(equal(our[column], their[column]) for column in order), (our, their)


def order_by(sql: str, names: list[str]) -> list[int]:
    """Positions of the columns in the query's last ORDER BY."""
    found = re.findall(r"(?is)order\s+by\s+(.*?)(?:limit\s+\d+\s*)?;?\s*$", re.sub(r"--.*", "", sql))
    columns = re.split(r"\s*,\s*", found[-1].strip()) if found else []
    return [names.index(column.split()[0].lower()) for column in columns]


@pytest.mark.parametrize("number", range(1, 23))
def test_a_query_gives_what_duckdb_gives(bench: Bench, number: int) -> None:
    sql = query(number)
    result = bench.apiary.sql(sql).to_arrow()
    theirs = bench.duckdb.execute(sql).fetchall()
    order = order_by(sql, result.schema.names)
    assert_same(list(zip(*(column.to_pylist() for column in result.columns))), theirs, order)
    printed = run(bench.node, bench.storage, "sql", with_full_names(sql), "--format", "csv")
    assert_same(from_csv(printed, result.schema), theirs, order)


def test_the_data_is_that_of_the_benchmark(bench: Bench) -> None:
    counts = {table: bench.apiary.sql(f"SELECT count(*) FROM {table}").fetchone() for table in TABLES}
    assert counts == {
        "customer": (1500,),
        "lineitem": (60175,),
        "nation": (25,),
        "orders": (15000,),
        "part": (2000,),
        "partsupp": (8000,),
        "region": (5,),
        "supplier": (100,),
    }
    for table in TABLES:
        assert bench.duckdb.execute(f"SELECT count(*) FROM {table}").fetchone() == counts[table]
