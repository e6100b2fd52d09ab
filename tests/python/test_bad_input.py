"""What Apiary says to bad input, word for word, and that nothing is lost by it.

Each case is one call that must fail: what is asked, the class of the error, and its whole text, in which ``{meadow}``
and ``{tmp}`` stand for the folders of the test. Damage, where a case has some, is done to a copy of a small meadow.
After each case no object is new, gone or changed, the frames that were not damaged read as before, and once the damage
is mended by hand, so does the damaged one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import apiary
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apiary import (
    AlreadyExistsError,
    Apiary,
    ApiaryError,
    CorruptError,
    InvalidInputError,
    LimitReachedError,
    MemoryExceededError,
    NotFoundError,
    SchemaError,
    StorageError,
    UnsupportedError,
)
from support import node_binary, output, rows, s3_options, script

HERE = Path(__file__).parent
SECONDS = 5
MEMORY = 512 << 20
FRAME = "lab.raw.readings"
FRAMES = (FRAME, "lab.raw.other", "lab.raw.long")
SETTINGS: dict[str, Any] = {"bees": 1, "memory": "64MB", "housekeeping": False}
READINGS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("region", pa.string()),
        pa.field("celsius", pa.float64()),
        pa.field("seen", pa.timestamp("us", tz="UTC")),
    ]
)


class NodeFailed(Exception):
    """``apiary-node`` ended with another exit code than 0."""


@dataclass
class World:
    """What a case works with."""

    meadow: Path
    tmp: Path
    s3: Callable[[], str]
    apiary: Apiary | None = None

    @property
    def ap(self) -> Apiary:
        if self.apiary is None:
            self.apiary = Apiary("test", storage=self.meadow, **SETTINGS)
        return self.apiary

    @property
    def frame(self) -> apiary.Frame:
        return self.ap.frame(FRAME)

    def close(self) -> None:
        if self.apiary is not None:
            self.apiary.close()

    def sql(self, text: str, params: Any = None) -> list[tuple[Any, ...]]:
        return self.ap.sql(self.filled(text), params).fetchall()

    def read(self, name: str = FRAME) -> list[tuple[Any, ...]]:
        return self.ap.frame(name).read().fetchall()

    def open(self, storage: object = None, options: Any = None, **settings: Any) -> None:
        storage = self.meadow if storage is None else storage
        settings = {"storage_options": options, **settings}
        Apiary("test", **{"storage": storage, **SETTINGS, **settings}).close()

    def node(self, *words: str) -> None:
        """Runs ``apiary-node``."""
        words = tuple(map(self.filled, words))
        command = [node_binary(), "--storage", str(self.meadow), "--bees", "1", "--memory", "64MB", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise NodeFailed(f"{done.returncode}: {done.stdout}{done.stderr}".rstrip())

    def write(self, name: str, content: bytes | str) -> Path:
        """A file beside the meadow."""
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def filled(self, text: str) -> str:
        return text.replace("{meadow}", str(self.meadow)).replace("{tmp}", str(self.tmp))

    # --- what damage is done to ---

    def folder(self, frame: str = FRAME) -> Path:
        return self.meadow.joinpath(*frame.split("."))

    def entry(self, version: int, frame: str = FRAME) -> Path:
        return self.folder(frame) / "_delta_log" / f"{version:020}.json"

    def record(self, frame: str = FRAME) -> Path:
        return self.meadow / "_registry" / f"{frame.replace('.', '/')}.json"

    def checkpoint(self) -> Path:
        return self.folder("lab.raw.long") / "_delta_log" / "00000000000000000010.checkpoint.parquet"

    def hint(self) -> Path:
        return self.folder("lab.raw.long") / "_delta_log" / "_last_checkpoint"

    def cell(self, region: str = "north") -> Path:
        return min((self.folder() / f"region={region}").iterdir())

    def edit(self, version: int, change: Callable[[str, dict[str, Any]], None]) -> None:
        """Changes each action of a log entry in place."""
        actions = [json.loads(line) for line in self.entry(version).read_text().splitlines()]
        for action in actions:
            for kind, body in action.items():
                change(kind, body)
        self.entry(version).write_text("\n".join(map(json.dumps, actions)))

    def add(self, **facts: Any) -> None:
        """Changes what version 1 says of the cells that it adds."""
        self.edit(1, lambda kind, body: body.update(facts) if kind == "add" else None)

    def stats(self, **facts: Any) -> None:
        """Changes the statistics of these cells."""

        def change(kind: str, body: dict[str, Any]) -> None:
            if kind == "add":
                body["stats"] = json.dumps({**json.loads(body["stats"]), **facts})

        self.edit(1, change)

    def without(self, version: int, gone: str) -> None:
        """Takes actions of one kind out of a log entry."""
        lines = [line for line in self.entry(version).read_text().splitlines() if gone not in json.loads(line)]
        self.entry(version).write_text("\n".join(lines))

    def protocol(self, **facts: Any) -> None:
        self.edit(0, lambda kind, body: body.update(facts) if kind == "protocol" else None)

    def metadata(self, **facts: Any) -> None:
        self.edit(0, lambda kind, body: body.update(facts) if kind == "metaData" else None)

    def append(self, version: int, *lines: Any) -> None:
        """Adds actions to a log entry."""
        with self.entry(version).open("a") as entry:
            entry.writelines("\n" + json.dumps(line) for line in lines)


@dataclass(frozen=True)
class Case:
    """One call that must fail; ``None`` for an error means that it must not."""

    name: str
    do: Callable[[World], object]
    error: type[Exception] | None
    says: str
    damage: Callable[[World], object] | None = None


def read(world: World) -> object:
    return world.read()


def sql(text: str, params: Any = None) -> Callable[[World], object]:
    return lambda world: world.sql(text, params)


def write(**columns: Any) -> Callable[[World], object]:
    return lambda world: world.frame.write({"id": [9], "region": ["north"], **columns})


def table(**columns: Any) -> Callable[[World], object]:
    return lambda world: world.frame.write(pa.table(columns))


def named(name: str) -> Callable[[World], object]:
    return lambda world: world.ap.create_frame(name, READINGS)


def created(columns: list[Any], partition_by: Any = None) -> Callable[[World], object]:
    return lambda world: world.ap.create_frame("x", pa.schema(columns), partition_by)


def opened(**settings: Any) -> Callable[[World], object]:
    return lambda world: world.open(**settings)


def nested(levels: int) -> pa.DataType:
    kind = pa.int8()
    for _ in range(levels):
        kind = pa.list_(kind)
    return kind


def levels(number: int) -> Any:
    value: Any = 1
    for _ in range(number):
        value = [value]
    return value


def schema_5000_levels_deep(world: World) -> None:
    code = """
    import sys, pyarrow as pa
    sys.path.append(sys.argv[2])
    from apiary import Apiary, ApiaryError
    from test_bad_input import SETTINGS, nested
    with Apiary("test", storage=sys.argv[1], **SETTINGS) as ap:
        try:
            ap.create_frame("x", pa.schema([("a", nested(5000))]))
        except ApiaryError:
            print("refused")
    """
    assert output(script(code, world.meadow, HERE), SECONDS) == "refused\n"


def limited(world: World) -> object:
    with Apiary("test", storage=world.meadow, **SETTINGS) as ap:
        ap.sql("SET max_bytes = '1B'").fetchall()
        return ap.sql("SELECT * FROM lab.raw.readings").fetchall()


def limited_read(world: World) -> object:
    with Apiary("test", storage=world.meadow, **SETTINGS) as ap:
        ap.sql("SET max_bytes = '1B'").fetchall()
        return ap.frame(FRAME).read().fetchall()


SQL_AND_SCHEMA = [
    Case(
        "text for a number",
        write(celsius=["warm"]),
        SchemaError,
        ("column 'celsius' does not fit the frame: Could not convert 'warm' with type str: tried to convert to double"),
    ),
    Case(
        "number for text",
        table(id=pa.array([1]), region=pa.array([5])),
        SchemaError,
        "column 'region' is Int64 and the frame has Utf8: cast it",
    ),
    Case(
        "fraction for an integer",
        write(id=[1.5]),
        SchemaError,
        "column 'id' holds whole numbers (int64), and 1.5 is none: round it",
    ),
    Case(
        "text in an integer column of a table",
        table(id=pa.array(["x"]), region=pa.array(["n"])),
        SchemaError,
        "column 'id' is Utf8 and the frame has Int64: cast it",
    ),
    Case(
        "number beyond an integer",
        write(id=[1 << 63]),
        SchemaError,
        "column 'id' does not fit the frame: Python int too large to convert to C long",
    ),
    Case(
        "moment without a zone",
        table(id=[1], region=["n"], seen=pa.array([datetime(2026, 1, 1)])),
        SchemaError,
        "column 'seen' is Timestamp(µs) and the frame has Timestamp(µs, \"UTC\"): cast it",
    ),
    Case(
        "struct for a number",
        table(id=[1], region=["n"], celsius=pa.array([{"a": 1}])),
        SchemaError,
        "column 'celsius' is Struct(\"a\": Int64) and the frame has Float64: cast it",
    ),
    Case(
        "missing non-null column",
        lambda w: w.frame.write({"region": ["n"]}),
        SchemaError,
        "column 'id' is missing and takes no nulls: add it to the data",
    ),
    Case(
        "null in a non-null column", write(id=[None]), SchemaError, "column 'id' takes no nulls and the data has some"
    ),
    Case(
        "null in a partition",
        write(region=[None]),
        SchemaError,
        "partition column 'region' has nulls: fill or filter them, a partition needs a value",
    ),
    Case(
        "missing partition column",
        lambda w: w.frame.write({"id": [9]}),
        SchemaError,
        "partition column 'region' is missing: add it to the data",
    ),
    Case(
        "empty text in a partition",
        write(region=[""]),
        SchemaError,
        ("partition column 'region' has an empty string, which Delta cannot tell from null: fill or filter it"),
    ),
    Case(
        "unknown column",
        write(humidity=[1.0]),
        SchemaError,
        ("column 'humidity' is not in the frame, which has id, region, celsius, seen: drop or rename it"),
    ),
    Case(
        "columns of two lengths",
        write(celsius=[1.0, 2.0]),
        SchemaError,
        "column 'celsius' has 2 values and 'id' has 1: give every column as many",
    ),
    Case(
        "column twice in a table",
        lambda w: w.frame.write(pa.table([[9], [8], ["n"]], names=["id", "id", "region"])),
        SchemaError,
        "column 'id' is there twice in the data (case does not tell columns apart): drop or rename one",
    ),
    Case(
        "column in two cases",
        table(id=[1], ID=[2], region=["n"]),
        SchemaError,
        "column 'ID' is there twice in the data (case does not tell columns apart): drop or rename one",
    ),
    Case(
        "no columns",
        lambda w: w.frame.write({}),
        SchemaError,
        "the data has no columns, and the frame has id, region, celsius, seen",
    ),
    Case(
        "a number as data",
        lambda w: w.frame.write(7),
        InvalidInputError,
        (
            "cannot write a builtins.int: use a table of pyarrow, polars, pandas or DuckDB, an iterator of "
            "batches, a dict of lists, or dicts of rows"
        ),
    ),
    Case(
        "a text as data",
        lambda w: w.frame.write("id"),
        InvalidInputError,
        (
            "cannot write a builtins.str: use a table of pyarrow, polars, pandas or DuckDB, an iterator of "
            "batches, a dict of lists, or dicts of rows"
        ),
    ),
    Case(
        "a list of numbers as data",
        lambda w: w.frame.write([1, 2]),
        InvalidInputError,
        (
            "cannot write an iterator of a builtins.int: use a table of pyarrow, polars, pandas or DuckDB, "
            "an iterator of batches, a dict of lists, or dicts of rows"
        ),
    ),
    Case(
        "batches of different columns",
        lambda w: w.frame.write(iter([pa.record_batch({"id": [1], "region": ["n"]}), pa.record_batch({"id": [2]})])),
        SchemaError,
        "item 2 of the iterator has columns ['id'], and the first has ['id', 'region']",
    ),
    Case(
        "bad backpressure",
        lambda w: w.frame.write({"id": [1]}, backpressure="maybe"),
        InvalidInputError,
        'backpressure cannot be "maybe": use block, error or ignore',
    ),
    Case(
        "write to no frame",
        lambda w: w.ap.frame("lab.raw.none").write({"id": [1]}),
        NotFoundError,
        (
            "frame lab.raw.none does not exist: SHOW FRAMES lists those that do; to make the frame "
            'first: create_frame("lab.raw.none", schema)'
        ),
    ),
    Case(
        "unknown column read",
        lambda w: w.frame.read(columns=["nope"]).fetchall(),
        NotFoundError,
        "frame lab.raw.readings has no column 'nope': it has id, region, celsius, seen",
    ),
    Case(
        "column read twice",
        lambda w: w.frame.read(columns=["id", "id"]).fetchall(),
        InvalidInputError,
        "column 'id' is asked for twice: name it once",
    ),
    Case(
        "version that is not there",
        lambda w: w.frame.read(version=99).fetchall(),
        NotFoundError,
        "frame lab.raw.readings has no version 99 any more or yet: its history lists them",
    ),
    Case(
        "negative version",
        lambda w: w.frame.read(version=-1).fetchall(),
        InvalidInputError,
        "version is -1: use 0 or more",
    ),
    Case(
        "version beyond numbers",
        lambda w: w.frame.read(version=1 << 70).fetchall(),
        InvalidInputError,
        "version is 1180591620717411303424: use at most 9223372036854775807",
    ),
    Case(
        "version as text",
        lambda w: w.frame.read(version="1").fetchall(),
        InvalidInputError,
        "version is '1': use a whole number",
    ),
    Case(
        "moment that is none",
        lambda w: w.frame.read(timestamp="yesterday").fetchall(),
        InvalidInputError,
        "timestamp is 'yesterday': use ISO 8601, like 2025-12-31T23:59:59Z",
    ),
    Case(
        "version and moment",
        lambda w: w.frame.read(version=1, timestamp="2026-01-01").fetchall(),
        InvalidInputError,
        "both version and timestamp were given: give one of them",
    ),
    Case(
        "param missing",
        sql("SELECT $x", {"y": 1}),
        InvalidInputError,
        "there is a value for $y, and the statement has $x: leave it out, or correct its name",
    ),
    Case(
        "params missing",
        sql("SELECT $x + $y"),
        InvalidInputError,
        "$x has no value: give it one in params",
    ),
    Case(
        "param in a list missing",
        sql("SELECT $1, $2", [1]),
        InvalidInputError,
        "$2 has no value: give it one in params",
    ),
    Case(
        "param too many",
        sql("SELECT $x", {"x": 1, "y": 2}),
        InvalidInputError,
        "there is a value for $y, and the statement has $x: leave it out, or correct its name",
    ),
    Case(
        "param in a list too many",
        sql("SELECT $1", [1, 2]),
        InvalidInputError,
        "there is a value for $2, and the statement has $1: leave it out, or correct its name",
    ),
    Case(
        "param of an unknown type",
        sql("SELECT $x", {"x": object}),
        InvalidInputError,
        (
            "this value of type type cannot be a query parameter: use None, bool, int, float, str, "
            "bytes, Decimal, date, time, datetime, timedelta, UUID, or a list of one of these"
        ),
    ),
    Case(
        "param that is a set",
        sql("SELECT $x", {"x": {1, 2}}),
        InvalidInputError,
        (
            "this value of type set cannot be a query parameter: use None, bool, int, float, str, bytes, "
            "Decimal, date, time, datetime, timedelta, UUID, or a list of one of these"
        ),
    ),
    Case(
        "params that are text",
        sql("SELECT $x", "x"),
        InvalidInputError,
        "params is 'x': use a dict for $name, or a list for $1, $2, …",
    ),
    Case(
        "params by number for names",
        sql("SELECT $x", [1]),
        InvalidInputError,
        "there is a value for $1, and the statement has $x: leave it out, or correct its name",
    ),
    Case("empty statement", sql(""), InvalidInputError, "the SQL is empty: write a statement"),
    Case("only semicolons", sql(";;"), InvalidInputError, "the SQL is empty: write a statement"),
    Case(
        "two statements",
        sql("SELECT 1; SELECT 2"),
        InvalidInputError,
        "2 statements in one text: send them one at a time",
    ),
    Case(
        "statement with a NUL",
        sql("SELECT 1 \x00 2"),
        InvalidInputError,
        "the SQL was not understood: Expected: end of statement, found: \u0000 at Line: 1, Column: 10",
    ),
    Case(
        ("statement that is not text"),
        lambda w: w.ap.sql(7),
        InvalidInputError,
        "query is of type int: give the SQL as text",
    ),  # type: ignore[arg-type]
    Case(
        "condition that is two",
        lambda w: w.frame.delete("id = 1; DROP FRAME x"),
        InvalidInputError,
        "the SQL was not understood: expected the end of the expression, found: ;",
    ),
    Case(
        "condition that closes the parenthesis",
        lambda w: w.frame.delete("id = 1) OR (true"),
        InvalidInputError,
        "the SQL was not understood: expected the end of the expression, found: )",
    ),
    Case(
        "empty condition",
        lambda w: w.frame.delete(""),
        InvalidInputError,
        "the SQL was not understood: Expected: an expression, found: EOF",
    ),
    Case(
        "nothing to update",
        lambda w: w.frame.update({}),
        InvalidInputError,
        "there is nothing to set: give columns and their values",
    ),
    Case(
        "update of no column",
        lambda w: w.frame.update({"nope": "1"}),
        NotFoundError,
        "there is no column 'nope': the frame has id, region, celsius, seen",
    ),
    Case(
        "clustering by no column",
        lambda w: w.frame.optimize("nope"),
        NotFoundError,
        "lab.raw.readings has no column 'nope': it has id, region, celsius, seen",
    ),
    Case(
        "column added twice",
        lambda w: w.frame.add_column("id", "INT"),
        SchemaError,
        "column 'id' is there already (case does not tell columns apart)",
    ),
    Case(
        "column of an unknown type",
        lambda w: w.frame.add_column("x", "TEMPERATURE"),
        InvalidInputError,
        ("there is no type TEMPERATURE: use INT, BIGINT, DOUBLE, DECIMAL(p, s), TEXT, BOOLEAN, DATE, TIMESTAMP, …"),
    ),
    Case(
        "partition column dropped",
        lambda w: w.frame.drop_column("region"),
        SchemaError,
        "column 'region' partitions the frame: it cannot be dropped",
    ),
    Case(
        "constraint that rows break",
        lambda w: w.frame.add_constraint("cold", "celsius < 0"),
        SchemaError,
        "lab.raw.readings has rows that fail CHECK (celsius < 0) (1 of them): change or delete them first",
    ),
    Case(
        "NOT NULL over nulls",
        lambda w: w.frame.set_nullable("celsius", False),
        SchemaError,
        "lab.raw.readings has rows whose 'celsius' is null (1 of them): change or delete them first",
    ),
    Case(
        "restore to nothing", lambda w: w.frame.restore(), InvalidInputError, "restore takes a version or a timestamp"
    ),
    Case(
        "restore to the future",
        lambda w: w.frame.restore(77),
        NotFoundError,
        "frame lab.raw.readings has no version 77 any more or yet: its history lists them",
    ),
    Case(
        "negative retention",
        lambda w: w.frame.vacuum(retain_hours=-1),
        InvalidInputError,
        "retain_hours is -1: use 0 or more",
    ),
    Case(
        "retention beyond numbers",
        lambda w: w.frame.vacuum(retain_hours=1 << 70),
        InvalidInputError,
        ("retain_hours is 1180591620717411303424: use at most 9223372036854775807"),
    ),
    Case(
        "SET of an unknown",
        sql("SET no_such_setting = 1"),
        InvalidInputError,
        "there is no setting no_such_setting: SHOW ALL lists those that there are",
    ),
    Case(
        "SET of bad bytes",
        sql("SET max_bytes = 'some'"),
        InvalidInputError,
        "max_bytes cannot be \"some\": use a number, like 500 or '2GB', or none",
    ),
    Case(
        "schema with a name twice",
        created([("a", "i8"), ("a", "i8")]),
        SchemaError,
        "column 'a' is there twice (case does not tell columns apart)",
    ),
    Case("schema without columns", created([]), SchemaError, "the schema has no columns: a frame needs at least one"),
    Case(
        "schema of an unknown type",
        created([("a", pa.month_day_nano_interval())]),
        SchemaError,
        (
            "column 'a' is Interval(MonthDayNano), which a frame cannot hold: there is no interval type; "
            "cast it to an integer"
        ),
    ),
    Case(
        "column with a bad name",
        created([("a b;", "i8")]),
        SchemaError,
        (
            "column 'a b;' has a space or one of , ; { } ( ) = in its name, which tables cannot have: "
            "give it another name, with AS or by renaming it in the data"
        ),
    ),
    Case("column without a name", created([("", "i8")]), SchemaError, "a column has no name: give every column one"),
    Case(
        "only partition columns",
        created([("a", "i8")], "a"),
        SchemaError,
        "every column is a partition column: leave at least one for the cells",
    ),
    Case(
        "partition column twice",
        created([("a", "i8"), ("b", "i8")], ["a", "a"]),
        SchemaError,
        "partition column 'a' is there twice",
    ),
    Case(
        "partition by a list",
        created([("a", pa.list_(pa.int8())), ("b", "i8")], "a"),
        SchemaError,
        (
            "column 'a' of type List(Int8, field: 'element') cannot partition a frame: use an integer, "
            "string, date, timestamp, decimal or boolean"
        ),
    ),
    Case(
        "schema 300 levels deep",
        created([("a", nested(300))]),
        SchemaError,
        "column 'a' is nested more than 50 levels deep",
    ),
    Case("schema 5000 levels deep", schema_5000_levels_deep, None, ""),
    Case(
        "param 900 levels deep",
        sql("SELECT $x", {"x": levels(900)}),
        InvalidInputError,
        "a list that is a query parameter has lists within lists, more than 50 levels of them: use fewer",
    ),
    Case(
        "partition of 5000 letters",
        write(region=["x" * 5000]),
        InvalidInputError,
        (
            "a name is longer than the 255 bytes that files and folders take (partitions are folders): "
            "local folder error: File name too long (os error 36)"
        ),
    ),
    Case(
        "limit of bytes",
        limited,
        LimitReachedError,
        ("the query needs more than 1 bytes, which max_bytes allows: SET max_bytes higher, or ask for less"),
    ),
    Case(
        "limit of bytes for a read",
        limited_read,
        LimitReachedError,
        "the query needs more than 1 bytes, which max_bytes allows: SET max_bytes higher, or ask for less",
    ),
    Case(
        "no time at all",
        lambda w: w.ap.sql("SELECT 1", time_limit=0),
        InvalidInputError,
        "time_limit is 0: use a number of seconds above 0",
    ),
    Case(
        "negative time",
        lambda w: w.ap.sql("SELECT 1", time_limit=-1),
        InvalidInputError,
        "time_limit is -1: use a number of seconds above 0",
    ),
    Case(
        "endless time",
        lambda w: w.ap.sql("SELECT 1", time_limit=float("inf")),
        InvalidInputError,
        "time_limit is inf: use a number of seconds above 0",
    ),
    Case(
        "time as text",
        lambda w: w.ap.sql("SELECT 1", time_limit="soon"),
        InvalidInputError,
        "time_limit is 'soon': use seconds or a timedelta",
    ),  # type: ignore[arg-type]
]

NAMES = [
    Case(
        "name empty",
        named(""),
        InvalidInputError,
        '"" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter',
    ),
    Case(
        "name too long",
        named("x" * 65),
        InvalidInputError,
        (
            '"xxxxxxxxxxxxxxxx…" of 65 characters is not a frame name: use 1 to 64 letters, digits and '
            "underscores, starting with a letter"
        ),
    ),
    Case(
        "name with a slash",
        named("a/b"),
        InvalidInputError,
        ('"a/b" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name of two dots",
        named(".."),
        InvalidInputError,
        "'..' is not a frame: write hive.box.frame, box.frame or frame",
    ),
    Case(
        "name that leaves",
        named("../../etc/passwd"),
        InvalidInputError,
        "'../../etc/passwd' is not a frame: write hive.box.frame, box.frame or frame",
    ),
    Case(
        "name of four parts",
        named("a.b.c.d"),
        InvalidInputError,
        "'a.b.c.d' is not a frame: write hive.box.frame, box.frame or frame",
    ),
    Case(
        "name with an empty part",
        named("a..c"),
        InvalidInputError,
        "'a..c' is not a frame: write hive.box.frame, box.frame or frame",
    ),
    Case(
        "name in unicode",
        named("größe"),
        InvalidInputError,
        ('"größe" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name with a NUL",
        named("a\x00b"),
        InvalidInputError,
        ('"a\\0b" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name with a digit first",
        named("1st"),
        InvalidInputError,
        ('"1st" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name with an underscore first",
        named("_registry"),
        InvalidInputError,
        ('"_registry" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name with a quote",
        named('a"b'),
        InvalidInputError,
        ('"a\\"b" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name with a space",
        named("a b"),
        InvalidInputError,
        ('"a b" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name in right-to-left",
        named("\u202egnp"),
        InvalidInputError,
        ('"\\u{202e}gnp" is not a frame name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "name of a frame that is not text",
        lambda w: w.ap.frame(7),
        InvalidInputError,
        "name is of type int: give it as text",
    ),  # type: ignore[arg-type]
    Case(
        "hive with dots",
        lambda w: w.ap.create_hive("a.b"),
        InvalidInputError,
        ('"a.b" is not a hive name: use 1 to 64 letters, digits and underscores, starting with a letter'),
    ),
    Case(
        "box of three parts",
        lambda w: w.ap.create_box("a.b.c"),
        InvalidInputError,
        '"a.b.c" is not a box: write hive.box or box',
    ),
    Case(
        "box of the engine",
        lambda w: w.ap.create_box("lab.system"),
        InvalidInputError,
        "every hive has a box system of the engine's own: choose another name",
    ),
    Case(
        "frame in a box of the engine",
        lambda w: w.ap.create_frame("lab.system.x", READINGS),
        InvalidInputError,
        "every hive has a box system of the engine's own: choose another name",
    ),
    Case(
        "frame in another case",
        lambda w: w.ap.create_frame("LAB.Raw.READINGS", READINGS),
        AlreadyExistsError,
        "frame lab.raw.readings exists: choose another name or use IF NOT EXISTS",
    ),
    Case(
        "hive that has boxes",
        lambda w: w.ap.drop_hive("lab"),
        InvalidInputError,
        "hive lab has 1 boxes: drop them first or use CASCADE",
    ),
    Case(
        "box that has frames",
        lambda w: w.ap.drop_box("lab.raw"),
        InvalidInputError,
        "box lab.raw has 3 frames: drop them first or use CASCADE",
    ),
    Case(
        "drop of no frame",
        lambda w: w.ap.drop_frame("lab.raw.none"),
        NotFoundError,
        "frame lab.raw.none does not exist: use IF EXISTS to allow that",
    ),
    Case(
        "drop of no box",
        lambda w: w.ap.drop_box("lab.none"),
        NotFoundError,
        "box lab.none does not exist: use IF EXISTS to allow that",
    ),
    Case(
        "drop of no hive",
        lambda w: w.ap.drop_hive("none"),
        NotFoundError,
        "hive none does not exist: use IF EXISTS to allow that",
    ),
    Case(
        "boxes of no hive",
        lambda w: w.ap.boxes("none"),
        NotFoundError,
        "hive none does not exist: CREATE HIVE none makes it",
    ),
    Case(
        "read of no frame",
        lambda w: w.read("lab.raw.none"),
        NotFoundError,
        "frame lab.raw.none does not exist: SHOW FRAMES lists those that do",
    ),
    Case(
        "history of no frame",
        lambda w: w.ap.frame("lab.raw.none").history(),
        NotFoundError,
        "frame lab.raw.none does not exist: SHOW FRAMES lists those that do",
    ),
    Case(
        "stream into no frame",
        lambda w: w.ap.frame("lab.raw.none").stream(buffer=w.tmp),
        NotFoundError,
        "frame lab.raw.none does not exist: SHOW FRAMES lists those that do",
    ),
    Case("USE of no hive", sql("USE HIVE none"), NotFoundError, "hive none does not exist: CREATE HIVE none makes it"),
    Case(
        "SQL over a name that leaves",
        sql('SELECT * FROM "../../etc/passwd"'),
        InvalidInputError,
        ("'../../etc/passwd' is not a data file: its name must end in .parquet, .csv, .tsv, .json, .ndjson or .jsonl"),
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def s3_opened(url: str, **options: Any) -> Callable[[World], object]:
    return lambda w: w.open(url, storage_options={**s3_options(w.s3()), **options})


def s3_place(world: World, prefix: str = "bad_input") -> tuple[str, dict[str, object]]:
    return f"s3://bucket/{prefix}", s3_options(world.s3())


def meadow_record(content: str | tuple[str, str]) -> Callable[[World], object]:
    """Gives the meadow another record, or puts one text for another in it."""

    def damage(world: World) -> None:
        path = world.meadow / "_apiary.json"
        path.write_text(content if isinstance(content, str) else path.read_text().replace(*content))

    return damage


def record(content: bytes | str | None = None, **facts: Any) -> Callable[[World], object]:
    """Gives a frame another record, or changes what is in it."""

    def damage(world: World) -> None:
        text = json.dumps({**json.loads(world.record().read_text()), **facts}) if content is None else content
        world.record().write_bytes(text.encode() if isinstance(text, str) else text)

    return damage


def record_that_leaves(world: World) -> None:
    world.record().with_name("..%2F..%2Fescape.json").write_bytes(world.record().read_bytes())


def without_record(name: str) -> Callable[[World], object]:
    return lambda world: (world.meadow / "_registry" / f"{name}.json").unlink()


PLACES = [
    Case(
        "scheme unknown",
        opened(storage="ftp://host/folder"),
        InvalidInputError,
        (
            'storage "ftp://host/folder" cannot be opened: it starts with none of file://, s3://, gs://, '
            "az://, memory://; use a folder, file:///folder, s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix"
        ),
    ),
    Case(
        "bucket missing",
        opened(storage="s3://"),
        InvalidInputError,
        'storage "s3" names no bucket: write s3://bucket/prefix',
    ),
    Case(
        "account of Azure missing",
        opened(storage="az://container/x"),
        InvalidInputError,
        "az://container/x needs an account: give the storage option account_name",
    ),
    Case(
        "bucket that cannot be",
        s3_opened("s3://not a bucket/x"),
        InvalidInputError,
        (
            'storage "s3://not a bucket/x" cannot be opened: invalid domain character; use a folder, '
            "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        ),
    ),
    Case(
        "file URL with a host",
        opened(storage="file://host/folder"),
        InvalidInputError,
        (
            'storage "file://host/folder" cannot be opened: a file URL is file:///absolute/path; use a '
            "folder, file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        ),
    ),
    Case(
        "secret in a bad URL",
        opened(storage="ftp://user:secret@host/x"),
        InvalidInputError,
        (
            'storage "ftp://host/x" cannot be opened: it starts with none of file://, s3://, gs://, '
            "az://, memory://; use a folder, file:///folder, s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix"
        ),
    ),
    Case(
        "storage empty",
        opened(storage=""),
        InvalidInputError,
        (
            'storage "" cannot be opened: it is empty; use a folder, file:///folder, s3://bucket/prefix, '
            "gs://bucket/prefix or az://container/prefix"
        ),
    ),
    Case(
        "storage with a NUL",
        opened(storage="/tmp/a\x00b"),
        InvalidInputError,
        (
            'storage "/tmp/a\\0b" cannot be opened: it has a NUL character; use a folder, file:///folder, '
            "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        ),
    ),
    Case(
        "option unknown",
        opened(storage="s3://b", storage_options={"colour": "red"}),
        InvalidInputError,
        (
            "storage option 'colour' is unknown: use endpoint, region, path_style, allow_http, "
            "access_key_id, secret_access_key or a key of object_store"
        ),
    ),
    Case(
        "option for a folder",
        opened(storage_options={"region": "eu"}),
        InvalidInputError,
        "storage option 'region' has no meaning for a local place: remove it",
    ),
    Case(
        "option with a bad flag",
        s3_opened("s3://bucket/x", path_style="perhaps"),
        InvalidInputError,
        "storage option 'path_style' is 'perhaps': use true or false",
    ),
    Case(
        "option with a bad address",
        s3_opened("s3://bucket/x", endpoint="no address"),
        InvalidInputError,
        "endpoint cannot be 'no address': write an address like https://s3.example.org:9000",
    ),
    Case(
        "http not allowed",
        s3_opened("s3://bucket/x", allow_http=False),
        InvalidInputError,
        "{s3} is http and not https: give the storage option allow_http=true",
    ),
    Case(
        "bucket that is not there",
        s3_opened("s3://missing/meadow"),
        NotFoundError,
        (
            "cannot open storage s3://missing/meadow: there is no such bucket: make it, or check its name "
            "and the endpoint"
        ),
    ),
    Case(
        "file for a folder",
        lambda w: w.open(w.write("file", "x")),
        StorageError,
        "{tmp}/file is a file: give a folder as storage",
    ),
    Case(
        "folder below a file",
        lambda w: w.open(w.write("file", "x") / "sub"),
        StorageError,
        "cannot make the storage folder {tmp}/file/sub: Not a directory (os error 20)",
    ),
    Case(
        "nothing at the port",
        s3_opened("s3://bucket/x", endpoint="http://127.0.0.1:9"),
        StorageError,
        (
            "cannot open storage s3://bucket/x: nothing answers at http://127.0.0.1:9 (7 tries): check the "
            "endpoint and the network"
        ),
    ),
    Case(
        "cache in a file",
        lambda w: w.open(*s3_place(w), cache=w.write("file", "x")),
        StorageError,
        "{tmp}/file is a file: give a folder as cache",
    ),
    Case(
        "format newer and other",
        opened(),
        UnsupportedError,
        "cannot open storage file://{meadow}/: the meadow has format 2 and this version knows 1: upgrade apiary",
        meadow_record('{"format": 2}'),
    ),
    Case(
        "format newer",
        opened(),
        UnsupportedError,
        ("cannot open storage file://{meadow}/: the meadow has format 99 and this version knows 1: upgrade apiary"),
        meadow_record(('"format": 1', '"format": 99')),
    ),
    Case(
        "meadow that lets several win",
        write(),
        UnsupportedError,
        (
            "file://{meadow}/ lets several writers win one conditional create, so commits could be lost: "
            "it is open for reading only; use a store that honours If-None-Match, or set the storage "
            "option single_writer=true when only this process writes"
        ),
        meadow_record(("true", "false")),
    ),
    Case(
        "record of the meadow: garbage",
        opened(),
        CorruptError,
        (
            "cannot open storage file://{meadow}/: _apiary.json, which says that this is a meadow, is damaged "
            "(expected value at line 1 column 1): put it back from a copy; if there is none, remove it, and it "
            "is made anew"
        ),
        meadow_record("\0garbage"),
    ),
    Case(
        "record of the meadow: empty",
        opened(),
        CorruptError,
        (
            "cannot open storage file://{meadow}/: _apiary.json, which says that this is a meadow, is damaged "
            "(EOF while parsing a value at line 1 column 0): put it back from a copy; if there is none, remove "
            "it, and it is made anew"
        ),
        meadow_record(""),
    ),
    Case(
        "record of the meadow: an array",
        opened(),
        CorruptError,
        (
            "cannot open storage file://{meadow}/: _apiary.json, which says that this is a meadow, is damaged "
            "(invalid length 1, expected struct MeadowRecord with 3 elements at line 1 column 3): put it back "
            "from a copy; if there is none, remove it, and it is made anew"
        ),
        meadow_record("[1]"),
    ),
    Case(
        "record of the meadow: deep",
        opened(),
        CorruptError,
        (
            "cannot open storage file://{meadow}/: _apiary.json, which says that this is a meadow, is damaged "
            "(invalid type: sequence, expected u32 at line 1 column 1): put it back from a copy; if there is "
            "none, remove it, and it is made anew"
        ),
        meadow_record("[" * 100_000),
    ),
    Case(
        "record of a frame: garbage",
        read,
        CorruptError,
        (
            "the registry record of lab.raw.readings is damaged (expected value at line 1 column 1): put "
            "_registry/lab/raw/readings.json back from a copy, or DROP FRAME"
        ),
        record(b"\xff\x00\x01" * 9),
    ),
    Case(
        "record of a frame: truncated",
        read,
        CorruptError,
        (
            "the registry record of lab.raw.readings is damaged (EOF while parsing a string at line 1 column "
            "40): put _registry/lab/raw/readings.json back from a copy, or DROP FRAME"
        ),
        lambda w: os.truncate(w.record(), 40),
    ),
    Case(
        "record of a frame: empty",
        read,
        CorruptError,
        (
            "the registry record of lab.raw.readings is damaged (EOF while parsing a value at line 1 column 0): "
            "put _registry/lab/raw/readings.json back from a copy, or DROP FRAME"
        ),
        record(""),
    ),
    Case(
        "record of a frame: without an id",
        read,
        CorruptError,
        (
            "the registry record of lab.raw.readings is damaged (missing field `id` at line 1 column 31): put "
            "_registry/lab/raw/readings.json back from a copy, or DROP FRAME"
        ),
        record('{"schema":"","partition_by":[]}'),
    ),
    Case(
        "record of a frame: id a number",
        read,
        CorruptError,
        (
            "the registry record of lab.raw.readings is damaged (invalid type: integer `7`, expected a string at "
            "line 1 column 7): put _registry/lab/raw/readings.json back from a copy, or DROP FRAME"
        ),
        record('{"id":7}'),
    ),
    Case(
        "record of a frame: 512 MB",
        read,
        CorruptError,
        "_registry/lab/raw/readings.json has 536870912 bytes, more than the 67108864 it can have",
        lambda w: os.truncate(w.record(), 512 << 20),
    ),
    Case("record of a frame: a path that leaves", read, None, "", record(path="../../etc")),
    Case(
        "record of a name that leaves",
        lambda w: w.read("escape"),
        NotFoundError,
        "frame default.default.escape does not exist: SHOW FRAMES lists those that do",
        record_that_leaves,
    ),
    Case(
        "record of a box: gone",
        sql("SHOW FRAMES IN lab.raw"),
        NotFoundError,
        "box lab.raw does not exist: CREATE BOX lab.raw makes it",
        without_record("lab/raw"),
    ),
    Case(
        "record of a hive: gone",
        lambda w: w.ap.boxes("lab"),
        NotFoundError,
        "hive lab does not exist: CREATE HIVE lab makes it",
        without_record("lab"),
    ),
]

APIARY_SETTINGS = [
    Case(
        "memory in parsecs",
        opened(memory="12 parsecs"),
        InvalidInputError,
        'memory: "12 parsecs" is not a size: write bytes or a number with KB, MB, GB or TB, like 512MB',
    ),
    Case(
        "memory negative as text",
        opened(memory="-1GB"),
        InvalidInputError,
        'memory: "-1GB" is not a size: write bytes or a number with KB, MB, GB or TB, like 512MB',
    ),
    Case(
        "memory zero",
        opened(memory="0"),
        InvalidInputError,
        "memory of 0 B for 1 bee is 0 B a bee: give at least 32.0 MB a bee, or use fewer bees",
    ),
    Case(
        "memory too small",
        opened(memory="1MB"),
        InvalidInputError,
        "memory of 1.0 MB for 1 bee is 1.0 MB a bee: give at least 32.0 MB a bee, or use fewer bees",
    ),
    Case(
        "memory huge",
        opened(memory="9999999999TB"),
        InvalidInputError,
        'memory: "9999999999TB" is more than there can be: use at most 8388607TB',
    ),
    Case(
        "memory beyond the machine",
        opened(memory="900TB"),
        InvalidInputError,
        "memory of 900.0 TB is more than the 23.5 GB of this machine: give less",
    ),
    Case(
        "memory a fraction",
        opened(memory=1.5),
        InvalidInputError,
        ("memory is 1.5: use whole bytes, or text like '512MB'"),
    ),
    Case("bees zero", opened(bees=0), InvalidInputError, "bees is 0: use 1 or more"),
    Case("bees negative", opened(bees=-3), InvalidInputError, "bees is -3: use 1 or more"),
    Case("bees huge", opened(bees=1_000_000), InvalidInputError, "bees is 1000000: use 1 to 1024"),
    Case("bees true", opened(bees=True), InvalidInputError, "bees is True: use 1 or more"),
    Case("bees as text", opened(bees="two"), InvalidInputError, "bees is 'two': use a whole number"),
    Case(
        "time limit of zero",
        opened(time_limit=0),
        InvalidInputError,
        "time_limit is 0: use a number of seconds above 0",
    ),
    Case(
        "time limit huge",
        opened(time_limit=1e300),
        InvalidInputError,
        "time_limit is 1e300: use at most 10000000000 seconds",
    ),
    Case(
        "cache limit too small",
        lambda w: w.open(cache=w.tmp / "c", cache_limit="1KB"),
        InvalidInputError,
        "cache_limit of 1.0 KB is too little: give at least 16.0 MB, or no cache",
    ),
    Case(
        "cache limit without a cache",
        opened(cache_limit="1GB"),
        InvalidInputError,
        "cache_limit without a cache has no meaning: give a folder as cache",
    ),
    Case(
        "scratch in a file",
        lambda w: w.open(scratch=w.write("file", "x")),
        InvalidInputError,
        "scratch folder {tmp}/file is not a folder: make it or choose another",
    ),
    Case("spill to tape", opened(spill="tape"), InvalidInputError, 'spill cannot be "tape": use disk or none'),
    Case(
        "distribute sometimes",
        opened(distribute="sometimes"),
        InvalidInputError,
        'distribute cannot be "sometimes": use auto, always or never',
    ),
    Case(
        "disk writes in words",
        opened(disk_writes_per_day="few"),
        InvalidInputError,
        ('disk_writes_per_day: "few" is not a size: write bytes or a number with KB, MB, GB or TB, like 512MB'),
    ),
    Case(
        "node: no such command",
        lambda w: w.node("fly"),
        NodeFailed,
        (
            "2: error: unrecognized subcommand 'fly'\n\nUsage: apiary-node [OPTIONS] <COMMAND>\n\nFor more "
            "information, try '--help'."
        ),
    ),
    Case(
        "node: option without a value",
        lambda w: w.node("--storage-option", "region", "frames"),
        NodeFailed,
        "2: apiary-node: a --storage-option is not KEY=VALUE: write it like region=eu-central-1",
    ),
    Case(
        "node: empty statement",
        lambda w: w.node("sql", ""),
        NodeFailed,
        "2: apiary-node: there is no SQL: give a statement, or - and write it to stdin",
    ),
    Case(
        "node: description of no frame",
        lambda w: w.node("describe", "lab.raw.none"),
        NodeFailed,
        ("1: apiary-node: not found: frame lab.raw.none does not exist: SHOW FRAMES lists those that do"),
    ),
]


def parquet_bytes(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="none")
    return sink.getvalue().to_pybytes()


GOOD = parquet_bytes(id=list(range(1000)), region=["n"] * 1000)
HUGE_FOOTER = b"\xff\xff\xff\x7fPAR1"
DEEP_JSON = '{"a":' * 10_000 + "1" + "}" * 10_000
BAD_FILES: dict[str, bytes | str] = {
    "empty.parquet": b"",
    "none.parquet": "this is no Parquet file, but long enough to be one",
    "half.parquet": GOOD[: len(GOOD) // 2],
    "footer.parquet": GOOD[:-60] + b"\xff" * 52 + GOOD[-8:],
    "huge.parquet": GOOD[:-8] + HUGE_FOOTER,
    "flipped.parquet": GOOD[:4] + bytes(byte ^ 0xFF for byte in GOOD[4:600]) + GOOD[600:],
    "empty.csv": "",
    "ragged.csv": "id,region\n1,n\n2\n3,s,extra\n",
    "quote.csv": 'id,region\n1,"n\n2,s\n',
    "latin.csv": b"id,region\n1,gr\xfc\xdfe\n",
    "twice.csv": "id,id\n1,2\n",
    "turns.csv": "id,region\n" + "1,n\n" * 300_000 + "x,n\n",
    "broken.json": '{"id": 1, "region": "n"}\n{"id": 2, "reg',
    "types.json": '{"id": 1}\n{"id": {"a": 1}}\n',
    "array.json": '[{"id": 1}]',
    "scalar.json": "17\n",
    "deep.json": DEEP_JSON,
    "empty.json": "",
    "columns.csv": "id,nope\n1,2\n",
    "words.csv": "id,region,celsius\n1,n,warm\n",
    "less.csv": "region\nn\n",
    "good.csv": "id,region\n7,n\n",
    "other.csv": "id,region\nx,n\n",
    "sheet.xlsx": "x",
}


def with_files(world: World, *names: str) -> None:
    for name in names:
        world.write(name, BAD_FILES[name])


def selected(*names: str, where: str = "") -> Callable[[World], object]:
    def ask(world: World) -> object:
        with_files(world, *names)
        return world.sql(f"SELECT * FROM '{{tmp}}/{where or names[0]}'")

    return ask


def ingested(*names: str, into: str = FRAME, options: tuple[str, ...] = ()) -> Callable[[World], object]:
    def ingest(world: World) -> object:
        with_files(world, *(name for name in names if name in BAD_FILES))
        return world.node("ingest", *(f"{{tmp}}/{name}" for name in names), "--into", into, *options)

    return ingest


def selected_from_a_folder(world: World) -> object:
    (world.tmp / "folder").mkdir()
    return world.sql("SELECT * FROM '{tmp}/folder'")


def selected_from_a_folder_with_a_files_name(world: World) -> object:
    (world.tmp / "folder.csv").mkdir()
    return world.sql("SELECT * FROM '{tmp}/folder.csv'")


def lines_in_quotes(rows_: int) -> Callable[[World], object]:
    def ask(world: World) -> None:
        lines = (f'{number},"one line\nanother"\n' for number in range(rows_))
        world.write("lines.csv", "id,note\n" + "".join(lines))
        assert world.sql("SELECT count(*), max(id) FROM '{tmp}/lines.csv'") == [(rows_, rows_ - 1)]

    return ask


def inserted(world: World) -> object:
    with_files(world, "none.parquet")
    return world.sql("INSERT INTO lab.raw.readings SELECT * FROM '{tmp}/none.parquet'")


FILES = [
    Case(
        "SELECT from a missing file",
        sql("SELECT * FROM '{tmp}/gone.parquet'"),
        NotFoundError,
        "no file matches '{tmp}/gone.parquet'",
    ),
    Case(
        "SELECT from a missing folder",
        sql("SELECT * FROM '{tmp}/gone/*.csv'"),
        NotFoundError,
        "no file matches '{tmp}/gone/*.csv'",
    ),
    Case(
        "SELECT from a glob without match",
        sql("SELECT * FROM '{tmp}/*.tsv'"),
        NotFoundError,
        "no file matches '{tmp}/*.tsv'",
    ),
    Case(
        "SELECT from a bad glob",
        sql("SELECT * FROM '{tmp}/[.csv'"),
        InvalidInputError,
        "'{tmp}/[.csv' is no pattern of paths: Pattern syntax error near position 0: invalid range pattern",
    ),
    Case(
        "SELECT from a folder",
        selected_from_a_folder,
        InvalidInputError,
        ("'{tmp}/folder' is not a data file: its name must end in .parquet, .csv, .tsv, .json, .ndjson or .jsonl"),
    ),
    Case(
        "SELECT from a folder.csv",
        selected_from_a_folder_with_a_files_name,
        NotFoundError,
        "no file matches '{tmp}/folder.csv': it is a folder, write '{tmp}/folder.csv/*.csv'",
    ),
    Case(
        "SELECT from an unknown kind",
        selected("sheet.xlsx"),
        InvalidInputError,
        ("'{tmp}/sheet.xlsx' is not a data file: its name must end in .parquet, .csv, .tsv, .json, .ndjson or .jsonl"),
    ),
    Case(
        "SELECT from the web",
        sql("SELECT * FROM 'https://example.org/x.csv'"),
        UnsupportedError,
        "files of https:// cannot be read or written in place: use local files, or point --storage there",
    ),
    Case(
        "SELECT from a bucket",
        sql("SELECT * FROM 's3://bucket/x.csv'"),
        UnsupportedError,
        "files of s3:// cannot be read or written in place: use local files, or point --storage there",
    ),
    Case(
        "SELECT from empty Parquet",
        selected("empty.parquet"),
        CorruptError,
        "{tmp}/empty.parquet is empty: it is no Parquet file",
    ),
    Case(
        "SELECT from what is no Parquet",
        selected("none.parquet"),
        CorruptError,
        "{tmp}/none.parquet: Invalid Parquet file. Corrupt footer",
    ),
    Case(
        "SELECT from half a Parquet",
        selected("half.parquet"),
        CorruptError,
        "{tmp}/half.parquet: Invalid Parquet file. Corrupt footer",
    ),
    Case(
        "SELECT from Parquet with a bad footer",
        selected("footer.parquet"),
        CorruptError,
        "{tmp}/footer.parquet: External: invalid utf-8 sequence of 1 bytes from index 228",
    ),
    Case(
        "SELECT from Parquet with a huge footer",
        selected("huge.parquet"),
        CorruptError,
        "{tmp}/huge.parquet: its footer has impossible lengths",
    ),
    Case(
        "SELECT from Parquet with flipped pages",
        selected("flipped.parquet"),
        CorruptError,
        "a Parquet file is damaged (External: failed to fill whole buffer): VERIFY names the cell, if a frame has it",
    ),
    Case("SELECT from empty CSV", selected("empty.csv"), InvalidInputError, "'{tmp}/empty.csv' is empty"),
    Case(
        "SELECT from ragged CSV",
        selected("ragged.csv"),
        InvalidInputError,
        (
            "{tmp}/ragged.csv: Encountered unequal lengths between records on CSV file. Expected 2 records, "
            "found 1 records at line 3"
        ),
    ),
    Case(
        "SELECT from CSV with an open quote",
        selected("quote.csv"),
        InvalidInputError,
        "line 2 of {tmp}/quote.csv has a quote that is never closed: close it, or double it where it is text",
    ),
    Case("SELECT from CSV with lines in quotes", lines_in_quotes(2), None, ""),
    Case("SELECT from CSV with many lines in quotes", lines_in_quotes(1000), None, ""),
    Case(
        "SELECT from CSV that is not UTF-8",
        selected("latin.csv"),
        InvalidInputError,
        (
            "{tmp}/latin.csv: Encountered UTF-8 error while reading CSV file: invalid utf-8: invalid UTF-8 "
            "in field 1 near byte index 2 at line 2"
        ),
    ),
    Case(
        "SELECT from CSV with a name twice",
        selected("twice.csv"),
        InvalidInputError,
        'Schema contains duplicate qualified field name "{tmp}/twice.csv".id',
    ),
    Case(
        "SELECT from CSV that turns to text",
        selected("turns.csv"),
        InvalidInputError,
        ("Error while parsing value 'x' as type 'Int64' for column 0 at line 300001. Row data: '[x,n]'"),
    ),
    Case(
        "SELECT from broken JSON",
        selected("broken.json"),
        InvalidInputError,
        "{tmp}/broken.json: Not valid JSON: EOF while parsing a string at line 1 column 14",
    ),
    Case(
        "SELECT from JSON of two types",
        selected("types.json"),
        InvalidInputError,
        "{tmp}/types.json: Expected object json type, found: Scalar({Int64})",
    ),
    Case(
        "SELECT from a JSON array",
        selected("array.json"),
        UnsupportedError,
        "'{tmp}/array.json' is an array, and files of JSON are read that have an object on each line: "
        "jq -c '.[]' makes one of it",
    ),
    Case(
        "SELECT from a JSON number",
        selected("scalar.json"),
        InvalidInputError,
        "{tmp}/scalar.json: Expected JSON record to be an object, found Number(17)",
    ),
    Case(
        "SELECT from deep JSON",
        selected("deep.json"),
        InvalidInputError,
        "{tmp}/deep.json: Not valid JSON: recursion limit exceeded at line 1 column 636",
    ),
    Case("SELECT from empty JSON", selected("empty.json"), InvalidInputError, "'{tmp}/empty.json' is empty"),
    Case(
        "SELECT from two schemas",
        selected("good.csv", "other.csv", where="*.csv"),
        None,
        "",
    ),
    Case(
        "INSERT from what is no Parquet",
        inserted,
        CorruptError,
        "{tmp}/none.parquet: Invalid Parquet file. Corrupt footer",
    ),
    Case(
        "ingest of a missing file",
        ingested("gone.csv"),
        NodeFailed,
        "2: apiary-node: cannot read {tmp}/gone.csv: No such file or directory (os error 2)",
    ),
    Case(
        "ingest of a folder",
        ingested("."),
        NodeFailed,
        "2: apiary-node: {tmp}/. is a folder: name its files, like '{tmp}/./*.parquet'",
    ),
    Case(
        "ingest of a glob without match",
        ingested("*.csv"),
        NodeFailed,
        "1: apiary-node: not found: no file matches '{tmp}/*.csv'",
    ),
    Case(
        "ingest of an unknown kind",
        ingested("sheet.xlsx"),
        NodeFailed,
        (
            "2: apiary-node: cannot tell from its name what {tmp}/sheet.xlsx is: it must end in "
            ".parquet, .csv, .tsv, .json, .ndjson, .jsonl"
        ),
    ),
    Case(
        "ingest of empty Parquet",
        ingested("empty.parquet"),
        NodeFailed,
        ("1: apiary-node: corrupt data: {tmp}/empty.parquet is empty: it is no Parquet file"),
    ),
    Case(
        "ingest of half a Parquet",
        ingested("half.parquet"),
        NodeFailed,
        ("1: apiary-node: corrupt data: {tmp}/half.parquet: Invalid Parquet file. Corrupt footer"),
    ),
    Case(
        "ingest of Parquet with a bad footer",
        ingested("footer.parquet"),
        NodeFailed,
        (
            "1: apiary-node: corrupt data: {tmp}/footer.parquet: External: invalid utf-8 sequence of 1 "
            "bytes from index 228"
        ),
    ),
    Case(
        "ingest of Parquet with flipped pages",
        ingested("flipped.parquet"),
        NodeFailed,
        (
            "1: apiary-node: corrupt data: {tmp}/flipped.parquet: a Parquet file is damaged (External: "
            "failed to fill whole buffer): VERIFY names the cell, if a frame has it"
        ),
    ),
    Case(
        "ingest of empty CSV",
        ingested("empty.csv"),
        NodeFailed,
        ("1: apiary-node: invalid input: '{tmp}/empty.csv' is empty"),
    ),
    Case(
        "ingest of ragged CSV",
        ingested("ragged.csv"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/ragged.csv: Encountered unequal lengths between records "
            "on CSV file. Expected 2 records, found 1 records at line 3"
        ),
    ),
    Case(
        "ingest of CSV with an open quote",
        ingested("quote.csv"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/quote.csv: line 2 of {tmp}/quote.csv has a quote that is "
            "never closed: close it, or double it where it is text"
        ),
    ),
    Case(
        "ingest of CSV that is not UTF-8",
        ingested("latin.csv"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/latin.csv: Encountered UTF-8 error while reading CSV "
            "file: invalid utf-8: invalid UTF-8 in field 1 near byte index 2 at line 2"
        ),
    ),
    Case(
        "ingest of CSV that turns to text",
        ingested("turns.csv"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/turns.csv: Error while parsing value 'x' as type 'Int64' "
            "for column 0 at line 300001. Row data: '[x,n]'"
        ),
    ),
    Case(
        "ingest of broken JSON",
        ingested("broken.json"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/broken.json: Not valid JSON: EOF while parsing a string "
            "at line 1 column 14"
        ),
    ),
    Case(
        "ingest of a JSON array",
        ingested("array.json"),
        NodeFailed,
        (
            "1: apiary-node: unsupported: '{tmp}/array.json' is an array, and files of JSON are read that have an "
            "object on each line: jq -c '.[]' makes one of it"
        ),
    ),
    Case(
        "ingest of deep JSON",
        ingested("deep.json"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/deep.json: Not valid JSON: recursion limit exceeded at "
            "line 1 column 636"
        ),
    ),
    Case(
        "ingest of other columns",
        ingested("columns.csv"),
        NodeFailed,
        (
            "1: apiary-node: schema mismatch: column 'nope' is not in the frame, which has id, region, "
            "celsius, seen: drop or rename it"
        ),
    ),
    Case(
        "ingest of words for numbers",
        ingested("words.csv"),
        NodeFailed,
        (
            "1: apiary-node: schema mismatch: {tmp}/words.csv: row 1 has 'warm' in column celsius, which is "
            "Float64 in the frame: correct it, or ingest into another frame"
        ),
    ),
    Case(
        "ingest without a needed column",
        ingested("less.csv"),
        NodeFailed,
        ("1: apiary-node: schema mismatch: column 'id' is missing and takes no nulls: add it to the data"),
    ),
    Case(
        "ingest of a good and a bad file",
        ingested("good.csv", "ragged.csv"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/ragged.csv: Encountered unequal lengths between records "
            "on CSV file. Expected 2 records, found 1 records at line 3"
        ),
    ),
    Case(
        "ingest into a bad name",
        ingested("good.csv", into="../x"),
        NodeFailed,
        (
            "2: error: invalid value '../x' for '--into <HIVE.BOX.FRAME>': invalid input: '../x' is not a "
            "frame: write hive.box.frame, box.frame or frame\n\nFor more information, try '--help'."
        ),
    ),
    Case(
        "ingest by another partition",
        ingested("good.csv", options=("--partition-by", "id")),
        NodeFailed,
        (
            "2: apiary-node: --partition-by id is not how lab.raw.readings is partitioned (region): "
            "leave the option out, or ingest into a new frame"
        ),
    ),
    Case(
        "ingest by no column",
        ingested("good.csv", into="new", options=("--partition-by", "nope")),
        NodeFailed,
        "1: apiary-node: schema mismatch: partition column 'nope' is not a column of the frame",
    ),
    Case(
        "ingest of a bad file as a new frame",
        ingested("none.parquet", into="lab.fresh.new"),
        NodeFailed,
        ("1: apiary-node: corrupt data: {tmp}/none.parquet: Invalid Parquet file. Corrupt footer"),
    ),
    Case(
        "ingest that breaks, as a new frame",
        ingested("turns.csv", into="lab.fresh.new"),
        NodeFailed,
        (
            "1: apiary-node: invalid input: {tmp}/turns.csv: Error while parsing value 'x' as type 'Int64' "
            "for column 0 at line 300001. Row data: '[x,n]'"
        ),
    ),
]


def flip(path: Path, start: int, end: int | None) -> None:
    data = bytearray(path.read_bytes())
    part = slice(start, len(data) if end is None else end)
    data[part] = bytes(byte ^ 0xFF for byte in data[part])
    path.write_bytes(data)


def flipped(start: int, end: int | None) -> Callable[[World], object]:
    return lambda world: flip(world.cell(), start, end)


def cut(size: int) -> Callable[[World], object]:
    return lambda world: os.truncate(world.cell(), size)


def gone(world: World) -> None:
    world.cell().unlink()


def replaced(**columns: Any) -> Callable[[World], object]:
    """Puts other rows in a cell's place; the ledger has their size."""

    def damage(world: World) -> None:
        pq.write_table(pa.table(columns), world.cell())
        world.add(size=world.cell().stat().st_size)

    return damage


def huge_footer(world: World) -> None:
    world.cell().write_bytes(world.cell().read_bytes()[:-8] + HUGE_FOOTER)


def longer(world: World) -> None:
    world.cell().write_bytes(world.cell().read_bytes() + b"more")


def read_file(name: str, *bad: str) -> Callable[[World], object]:
    return lambda world: world.node("sql", f"SELECT * FROM {name}", *bad)


def delete(world: World) -> object:
    return world.frame.delete("celsius = 4.5")


def update(world: World) -> object:
    return world.frame.update({"celsius": "0"})


def cluster(world: World) -> object:
    return world.frame.optimize(["id"])


CELLS = [
    Case(
        "cell truncated",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Object Store error: Generic "
            "LocalFileSystem error: Requested range was invalid): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        cut(300),
    ),
    Case(
        "cell empty",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Object Store error: Generic "
            "LocalFileSystem error: Requested range was invalid): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        cut(0),
    ),
    Case("cell with more behind its end", read, None, "", longer),
    Case(
        "cell missing",
        read,
        NotFoundError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is not there, though the ledger lists it: put "
            "the file back from a copy, RESTORE a version without it, or SET leave_out_cells to its name and "
            "read the rest"
        ),
        gone,
    ),
    Case(
        "cell with flipped pages",
        read,
        CorruptError,
        "a Parquet file is damaged (integer overflow decoding thrift value): VERIFY names the cell, if a frame has it",
        flipped(4, 60),
    ),
    Case(
        "cell with a flipped footer",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Parquet error: Parquet error: "
            "Unexpected struct field type 15): put the file back from a copy, RESTORE a version without it, "
            "or SET leave_out_cells to its name and read the rest"
        ),
        flipped(-120, -8),
    ),
    Case(
        "cell with a flipped magic",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Parquet error: Parquet error: "
            "Invalid Parquet file. Corrupt footer): put the file back from a copy, RESTORE a version without "
            "it, or SET leave_out_cells to its name and read the rest"
        ),
        flipped(-4, None),
    ),
    Case(
        "cell with a huge footer",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: its footer has "
            "impossible lengths): put the file back from a copy, RESTORE a version without it, or SET "
            "leave_out_cells to its name and read the rest"
        ),
        huge_footer,
    ),
    Case(
        "cell of other columns",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet has no column 'id', which takes no nulls: it "
            "is not the file that was written; put the file back from a copy, RESTORE a version without it, "
            "or SET leave_out_cells to its name and read the rest"
        ),
        replaced(other=[1]),
    ),
    Case(
        "cell of other types",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet has BYTE_ARRAY in column 'id', and the frame "
            "has Int64: it is not the file that was written; put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        replaced(id=["x"], celsius=["y"], seen=["z"]),
    ),
    Case(
        "cell of more rows",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet has 50 rows, and the ledger says 1: it is not "
            "the file that was written; put the file back from a copy, RESTORE a version without it, or SET "
            "leave_out_cells to its name and read the rest"
        ),
        replaced(id=list(range(50))),
    ),
    Case(
        "cell missing for DELETE",
        delete,
        NotFoundError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is not there, though the ledger lists it: put "
            "the file back from a copy, RESTORE a version without it, or SET leave_out_cells to its name and "
            "read the rest"
        ),
        gone,
    ),
    Case(
        "cell truncated for UPDATE",
        update,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Object Store error: Generic "
            "LocalFileSystem error: Requested range was invalid): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        cut(80),
    ),
    Case(
        "cell with flipped pages for OPTIMIZE",
        cluster,
        CorruptError,
        "a Parquet file is damaged (integer overflow decoding thrift value): VERIFY names the cell, if a frame has it",
        flipped(4, 60),
    ),
    Case(
        "node: cell missing",
        lambda w: w.node("sql", f"SELECT * FROM {FRAME}"),
        NodeFailed,
        (
            "1: apiary-node: not found: cell lab/raw/readings/region=north/{cell}.parquet is not there, "
            "though the ledger lists it: put the file back from a copy, RESTORE a version without it, or SET "
            "leave_out_cells to its name and read the rest"
        ),
        gone,
    ),
]


def entry(content: bytes | str, version: int = 1) -> Callable[[World], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda world: world.entry(version).write_bytes(content)


def entry_cut(version: int, size: int) -> Callable[[World], object]:
    return lambda world: os.truncate(world.entry(version), size)


def entries_gone(*versions: int) -> Callable[[World], object]:
    return lambda world: [world.entry(version).unlink() for version in versions]


def entry_a_folder(world: World) -> None:
    world.entry(2).unlink()
    world.entry(2).mkdir()


def entry_copied(version: int) -> Callable[[World], object]:
    return lambda world: shutil.copy(world.entry(2), world.entry(version))


def no_ledger(world: World) -> None:
    shutil.rmtree(world.entry(0).parent)


def adds(**facts: Any) -> Callable[[World], object]:
    return lambda world: world.add(**facts)


def add_of_another_frame(world: World) -> None:
    other = next(world.folder("lab.raw.other").rglob("*.parquet"))
    world.add(path=f"../other/{other.parent.name}/{other.name}", size=other.stat().st_size)


def stats(**facts: Any) -> Callable[[World], object]:
    return lambda world: world.stats(**facts)


def protocol(**facts: Any) -> Callable[[World], object]:
    return lambda world: world.protocol(**facts)


def metadata(**facts: Any) -> Callable[[World], object]:
    return lambda world: world.metadata(**facts)


def without(version: int, kind: str) -> Callable[[World], object]:
    return lambda world: world.without(version, kind)


def schema_string(**facts: Any) -> dict[str, str]:
    field = {"name": "id", "type": "long", "nullable": True, "metadata": {}, **facts}
    return {"schemaString": json.dumps({"type": "struct", "fields": [field, {**field, "name": "region"}]})}


DEEP_SCHEMA = schema_string(type="LEVELS")["schemaString"].replace(
    '"LEVELS"', '{"type":"array","containsNull":true,"elementType":' * 10_000 + '"long"' + "}" * 10_000
)


def properties(*features: str, **table: str) -> Callable[[World], object]:
    """A frame with these writer features and these properties."""

    def damage(world: World) -> None:
        world.protocol(writerFeatures=list(features))
        world.metadata(configuration={f"delta.{key.replace('__', '.')}": value for key, value in table.items()})

    return damage


def vector(**facts: Any) -> Callable[[World], object]:
    """A frame whose cells have a deletion vector."""

    def damage(world: World) -> None:
        world.protocol(readerFeatures=["deletionVectors"], writerFeatures=["deletionVectors"])
        world.add(deletionVector={"offset": 4, "sizeInBytes": 40, "cardinality": 1, **facts})

    return damage


VECTOR = "ab^-aqEH.-t@S}K{vb[*k^"


def added_twice(world: World) -> None:
    world.append(2, *(json.loads(line) for line in world.entry(1).read_text().splitlines() if '"add"' in line))


def removed(path: str) -> Callable[[World], object]:
    return lambda w: w.append(2, {"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True}})


def day_that_is_none(world: World) -> None:
    path = world.entry(1, "lab.raw.other")
    path.write_text(path.read_text().replace('{"day":"2026-01-01"}', '{"day":"someday"}'))


def hint(content: bytes | str) -> Callable[[World], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda world: world.hint().write_bytes(content)


def checkpoint(content: bytes) -> Callable[[World], object]:
    return lambda world: world.checkpoint().write_bytes(content)


def checkpoint_gone(*versions: int) -> Callable[[World], object]:
    def damage(world: World) -> None:
        world.checkpoint().unlink()
        for version in versions:
            world.entry(version, "lab.raw.long").unlink()

    return damage


def long(world: World) -> object:
    return world.read("lab.raw.long")


def count(world: World) -> object:
    return world.sql("SELECT count(*) FROM lab.raw.readings")


def vacuum(world: World) -> object:
    return world.frame.vacuum(retain_hours=0, force=True)


def history(world: World) -> object:
    return world.frame.history()


MAX = (1 << 63) - 1
UNKNOWN = ["timeMachine"]
LEDGER = [
    Case(
        "entry truncated",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: Truncated record whilst reading "
            "string; put the damaged file of its _delta_log back from a copy"
        ),
        entry_cut(1, 500),
    ),
    Case(
        "entry garbage",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: Encountered unexpected '\u0000' whilst "
            "parsing value; put the damaged file of its _delta_log back from a copy"
        ),
        entry(b"\x00\xff" * 500),
    ),
    Case(
        "entry of text",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: Encountered unexpected 'o' whilst "
            "parsing literal; put the damaged file of its _delta_log back from a copy"
        ),
        entry("not json\n"),
    ),
    Case(
        "entry empty",
        read,
        CorruptError,
        (
            "version 1 of the ledger of lab.raw.readings has 0 bytes, which no commit has: put "
            "lab/raw/readings/_delta_log/00000000000000000001.json back from a copy"
        ),
        entry(""),
    ),
    Case(
        "entry of line ends",
        read,
        CorruptError,
        (
            "version 1 of the ledger of lab.raw.readings has 2 bytes, which no commit has: put "
            "lab/raw/readings/_delta_log/00000000000000000001.json back from a copy"
        ),
        entry("\n\n"),
    ),
    Case(
        "last entry empty",
        read,
        CorruptError,
        (
            "version 2 of the ledger of lab.raw.readings has 0 bytes, which no commit has: put "
            "lab/raw/readings/_delta_log/00000000000000000002.json back from a copy"
        ),
        entry("", 2),
    ),
    Case(
        "last entry empty, written to",
        write(),
        CorruptError,
        (
            "version 2 of the ledger of lab.raw.readings has 0 bytes, which no commit has: put "
            "lab/raw/readings/_delta_log/00000000000000000002.json back from a copy"
        ),
        entry("", 2),
    ),
    Case(
        "entry empty, vacuumed",
        vacuum,
        CorruptError,
        (
            "version 1 of the ledger of lab.raw.readings has 0 bytes, which no commit has: put "
            "lab/raw/readings/_delta_log/00000000000000000001.json back from a copy"
        ),
        entry(""),
    ),
    Case(
        "first entry empty",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: No table metadata or protocol found in delta log.; "
            "put the damaged file of its _delta_log back from a copy"
        ),
        entry("", 0),
    ),
    Case(
        "entry an array",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: expected { got [1, 2]; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        entry("[1, 2]\n"),
    ),
    Case(
        "add that is a number",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': "
            "expected { got 7; put the damaged file of its _delta_log back from a copy"
        ),
        entry('{"add":7}\n'),
    ),
    Case(
        "add without a path",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': "
            'Encountered unmasked nulls in non-nullable StructArray child: Field { "path": Utf8 }; put the '
            "damaged file of its _delta_log back from a copy"
        ),
        entry('{"add":{"size":1}}\n'),
    ),
    Case(
        "entry in the middle missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Table version 1 is missing or unavailable for this "
            "log operation.; put the damaged file of its _delta_log back from a copy"
        ),
        entries_gone(1),
    ),
    Case(
        "first entry missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: No table metadata or protocol found in delta log.; "
            "put the damaged file of its _delta_log back from a copy"
        ),
        entries_gone(0),
    ),
    Case(
        "ledger missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings is gone, and its folder holds "
            "lab/raw/readings/region=north/{cell}.parquet: put lab/raw/readings/_delta_log back from a copy, or "
            "DROP FRAME"
        ),
        no_ledger,
    ),
    Case(
        "ledger missing, written to",
        write(),
        CorruptError,
        (
            "the ledger of lab.raw.readings is gone, and its folder holds "
            "lab/raw/readings/region=north/{cell}.parquet: put lab/raw/readings/_delta_log back from a copy, or "
            "DROP FRAME"
        ),
        no_ledger,
    ),
    Case(
        "ledger missing, vacuumed",
        vacuum,
        CorruptError,
        (
            "the ledger of lab.raw.readings is gone, and its folder holds "
            "lab/raw/readings/region=north/{cell}.parquet: put lab/raw/readings/_delta_log back from a copy, or "
            "DROP FRAME"
        ),
        no_ledger,
    ),
    Case(
        "ledger missing, history",
        history,
        CorruptError,
        (
            "the ledger of lab.raw.readings has no entries: put lab/raw/readings/_delta_log back from a copy, or "
            "DROP FRAME"
        ),
        no_ledger,
    ),
    Case(
        "entry a folder",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: "
            "lab/raw/readings/_delta_log/00000000000000000002.json is a folder and no file; put the damaged "
            "file of its _delta_log back from a copy"
        ),
        entry_a_folder,
    ),
    Case(
        "entry of 512 MB",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: Encountered unexpected '\u0000' whilst "
            "parsing value; put the damaged file of its _delta_log back from a copy"
        ),
        lambda w: os.truncate(w.entry(2), 512 << 20),
    ),
    Case(
        "path leaves the frame",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"../../etc/passwd"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="../../etc/passwd"),
    ),
    Case(
        "path leaves by escapes",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"%2e%2e/%2e%2e/etc/passwd"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="%2e%2e/%2e%2e/etc/passwd"),
    ),
    Case(
        "path leaves by double escapes",
        read,
        NotFoundError,
        (
            "cell lab/raw/readings/%2e%2e/x.parquet is not there, though the ledger lists it: put the file "
            "back from a copy, RESTORE a version without it, or SET leave_out_cells to its name and read the "
            "rest"
        ),
        adds(path="%252e%252e/x.parquet"),
    ),
    Case(
        "path leaves by backslashes",
        read,
        NotFoundError,
        (
            "cell lab/raw/readings/..\\..\\etc\\passwd is not there, though the ledger lists it: put the "
            "file back from a copy, RESTORE a version without it, or SET leave_out_cells to its name and "
            "read the rest"
        ),
        adds(path="..\\..\\etc\\passwd"),
    ),
    Case(
        "path into another frame",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"../other/day=2026-01-01/{cell}.parquet"; put the damaged file of its _delta_log back from a '
            "copy"
        ),
        add_of_another_frame,
    ),
    Case(
        "path into a longer name",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"../readings2/x.parquet"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="../readings2/x.parquet"),
    ),
    Case(
        "path absolute",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"/etc/passwd"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="/etc/passwd"),
    ),
    Case(
        "path a URL of a file",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"file:///etc/passwd"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="file:///etc/passwd"),
    ),
    Case(
        "path a URL of a bucket",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"s3://other/x.parquet"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="s3://other/x.parquet"),
    ),
    Case(
        "path a URL of the meadow",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"apiary://meadow/lab/raw/other/x"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="apiary://meadow/lab/raw/other/x"),
    ),
    Case(
        "path of a host",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"//host/x.parquet"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="//host/x.parquet"),
    ),
    Case(
        "path empty",
        read,
        StorageError,
        (
            "cell lab/raw/readings: Parquet error: Failed to fetch metadata for file lab/raw/readings: Object "
            "Store error: Generic LocalFileSystem error: Unable to read data from file "
            "{meadow}/lab/raw/readings: Is a directory (os error 21)"
        ),
        adds(path=""),
    ),
    Case(
        "path with a NUL",
        read,
        CorruptError,
        (
            'the ledger of lab.raw.readings cannot be read: it names a cell "a%00b.parquet", which cannot '
            "be; put the damaged file of its _delta_log back from a copy"
        ),
        adds(path="a%00b.parquet"),
    ),
    Case(
        "path into the log",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/_delta_log/00000000000000000000.json is damaged (Parquet error: Failed to "
            "fetch metadata for file lab/raw/readings/_delta_log/00000000000000000000.json: Parquet error: "
            "Parquet error: Invalid Parquet file. Corrupt footer): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(path="_delta_log/00000000000000000000.json"),
    ),
    Case(
        "path null",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': "
            'Encountered unmasked nulls in non-nullable StructArray child: Field { "path": Utf8 }; put the '
            "damaged file of its _delta_log back from a copy"
        ),
        adds(path=None),
    ),
    Case(
        "path leaves, overwritten",
        lambda w: w.frame.overwrite({"id": [1], "region": ["n"]}),
        CorruptError,
        (
            'the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "../../x"; '
            "put the damaged file of its _delta_log back from a copy"
        ),
        adds(path="../../x"),
    ),
    Case(
        "path leaves, vacuumed",
        vacuum,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"../other/x.parquet"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="../other/x.parquet"),
    ),
    Case(
        "path leaves, restored",
        lambda w: w.frame.restore(1),
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it names a cell outside its frame: "
            '"../other/x.parquet"; put the damaged file of its _delta_log back from a copy'
        ),
        adds(path="../other/x.parquet"),
    ),
    Case("remove of another frame's cell, read", read, None, "", removed("../other/x.parquet")),
    Case(
        "size negative",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Parquet error: Parquet error: "
            "Parquet files are at least 8 bytes long, but file length is 0): put the file back from a copy, "
            "RESTORE a version without it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(size=-1),
    ),
    Case(
        "size huge",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Object Store error: Generic "
            "LocalFileSystem error: Requested range was invalid): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(size=MAX),
    ),
    Case(
        "size beyond numbers",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': whilst "
            "decoding field 'size': failed to parse 1180591620717411303424 as Int64; put the damaged file "
            "of its _delta_log back from a copy"
        ),
        adds(size=1 << 70),
    ),
    Case(
        "size zero",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Parquet error: Parquet error: "
            "Parquet files are at least 8 bytes long, but file length is 0): put the file back from a copy, "
            "RESTORE a version without it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(size=0),
    ),
    Case(
        "size too small",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Parquet error: Parquet error: "
            "Invalid Parquet file. Corrupt footer): put the file back from a copy, RESTORE a version without "
            "it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(size=100),
    ),
    Case(
        "size too large",
        read,
        CorruptError,
        (
            "cell lab/raw/readings/region=north/{cell}.parquet is damaged (Parquet error: Failed to fetch "
            "metadata for file lab/raw/readings/region=north/{cell}.parquet: Object Store error: Generic "
            "LocalFileSystem error: Requested range was invalid): put the file back from a copy, RESTORE a "
            "version without it, or SET leave_out_cells to its name and read the rest"
        ),
        adds(size=100_000),
    ),
    Case(
        "size text",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': whilst "
            "decoding field 'size': failed to parse \"big\" as Int64; put the damaged file of its _delta_log "
            "back from a copy"
        ),
        adds(size="big"),
    ),
    Case("moment negative", read, None, "", adds(modificationTime=-1)),
    Case("moment huge", read, None, "", adds(modificationTime=MAX)),
    Case("statistics garbage", read, None, "", adds(stats="not json")),
    Case("statistics of a wrong type", read, None, "", stats(minValues={"id": "x"}, maxValues={"id": {}})),
    Case("statistics a list", read, None, "", adds(stats="[1]")),
    Case(
        "statistics of negative rows",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it says that a cell has -5 rows; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        stats(numRecords=-5),
    ),
    Case(
        "statistics of negative rows, counted",
        count,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: it says that a cell has -5 rows; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        stats(numRecords=-5),
    ),
    Case("statistics of negative nulls", read, None, "", stats(nullCount={"celsius": -1})),
    Case(
        "reader feature unknown",
        read,
        UnsupportedError,
        (
            "the ledger of lab.raw.readings cannot be read: Feature 'timeMachine' is not supported; use a "
            "newer version of Apiary, or the engine that asked for it"
        ),
        protocol(readerFeatures=UNKNOWN, writerFeatures=UNKNOWN),
    ),
    Case(
        "writer feature unknown",
        write(),
        UnsupportedError,
        (
            "lab.raw.readings cannot be written: Feature 'timeMachine' is not supported; use a newer "
            "version of Apiary, or the engine that asked for it"
        ),
        protocol(writerFeatures=UNKNOWN),
    ),
    Case(
        "reader version unknown",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Invalid protocol action in the delta log: Reader "
            "features must not be present when minimum reader version != 3; put the damaged file of its "
            "_delta_log back from a copy"
        ),
        protocol(minReaderVersion=99),
    ),
    Case(
        "reader version negative",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Invalid protocol action in the delta log: "
            "min_reader_version must be >= 1, got -1; put the damaged file of its _delta_log back from a copy"
        ),
        protocol(minReaderVersion=-1),
    ),
    Case(
        "reader features missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Invalid protocol action in the delta log: Reader "
            "features must be present when minimum reader version = 3; put the damaged file of its _delta_log "
            "back from a copy"
        ),
        protocol(readerFeatures=None),
    ),
    Case(
        "protocol missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: No protocol found in delta log.; put the damaged "
            "file of its _delta_log back from a copy"
        ),
        without(0, "protocol"),
    ),
    Case(
        "metadata missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: No table metadata found in delta log.; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        without(0, "metaData"),
    ),
    Case(
        "schema garbage",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: expected ident at line 1 column 2; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        metadata(schemaString="nonsense"),
    ),
    Case(
        "schema empty",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: EOF while parsing a value at line 1 column 0; "
            "put the damaged file of its _delta_log back from a copy"
        ),
        metadata(schemaString=""),
    ),
    Case(
        "ledger's schema of an unknown type",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Schema error: Unsupported Delta table type: "
            "'quaternion' at line 1 column 65; put the damaged file of its _delta_log back from a copy"
        ),
        metadata(**schema_string(type="quaternion")),
    ),
    Case(
        "schema of a decimal too wide",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Invalid decimal: precision must be in range "
            "1..38 inclusive, found: 99. at line 1 column 68; put the damaged file of its _delta_log back "
            "from a copy"
        ),
        metadata(**schema_string(type="decimal(99,2)")),
    ),
    Case(
        "ledger's schema 10,000 levels deep",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Schema error: Table schema is too deeply nested: "
            "decoding metaData.schemaString exceeded serde_json's recursion limit: recursion limit exceeded at "
            "line 1 column 6254; put the damaged file of its _delta_log back from a copy"
        ),
        metadata(schemaString=DEEP_SCHEMA),
    ),
    Case(
        "ledger's schema with a name twice",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Schema error: Duplicate field name "
            "(case-insensitive): 'region'; put the damaged file of its _delta_log back from a copy"
        ),
        metadata(**schema_string(name="region")),
    ),
    Case(
        "schema without the partition column",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Generic delta kernel error: Partition column 'nope' "
            "not found in schema; put the damaged file of its _delta_log back from a copy"
        ),
        metadata(partitionColumns=["nope"]),
    ),
    Case(
        "format of ORC",
        read,
        UnsupportedError,
        (
            'frame lab.raw.readings has its rows in files of the format "orc", and only Parquet can be '
            "read: write them as Parquet with the engine that made it"
        ),
        metadata(format={"provider": "orc", "options": {}}),
    ),
    Case(
        "constraint of others",
        write(),
        UnsupportedError,
        (
            "lab.raw.readings cannot be written: Feature 'checkConstraints' is not supported; use a newer "
            "version of Apiary, or the engine that asked for it"
        ),
        properties("checkConstraints", constraints__odd="id <"),
    ),
    Case(
        "retention that is no time",
        vacuum,
        CorruptError,
        "delta.deletedFileRetentionDuration of lab.raw.readings is 'often': set it to one like 'interval 7 days'",
        properties(deletedFileRetentionDuration="often"),
    ),
    Case("add twice", read, None, "", added_twice),
    Case("remove of an unknown file", read, None, "", removed("region=north/none.parquet")),
    Case(
        "partition values missing",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: the entry of "
            "lab/raw/readings/region=north/{cell}.parquet has no value for partition column 'region'; put "
            "the damaged file of its _delta_log back from a copy"
        ),
        adds(partitionValues={}),
    ),
    Case(
        "partition values null",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': "
            'Encountered unmasked nulls in non-nullable StructArray child: Field { "partitionValues": '
            'Map("key_value": non-null Struct("key": non-null Utf8, "value": Utf8), unsorted) }; put the '
            "damaged file of its _delta_log back from a copy"
        ),
        adds(partitionValues=None),
    ),
    Case(
        "partition values a list",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: whilst decoding field 'add': whilst "
            "decoding field 'partitionValues': expected { got [\"north\"]; put the damaged file of its "
            "_delta_log back from a copy"
        ),
        adds(partitionValues=["north"]),
    ),
    Case(
        "partition value that is no day",
        lambda w: w.read("lab.raw.other"),
        CorruptError,
        (
            "the ledger of lab.raw.other cannot be read: partition column 'day': 'someday' is no Date32; put the "
            "damaged file of its _delta_log back from a copy"
        ),
        day_that_is_none,
    ),
    Case(
        "vector of an unknown kind",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: the deletion vector of "
            "region=north/{cell}.parquet: Internal error Unsupported deletion vector format option: q. This "
            "is a kernel bug, please report.; put the damaged file of its _delta_log back from a copy"
        ),
        vector(storageType="q", pathOrInlineDv="x"),
    ),
    Case(
        "vector missing",
        read,
        NotFoundError,
        (
            "the ledger of lab.raw.readings cannot be read: the deletion vector of "
            "region=north/{cell}.parquet: File not found: "
            "{meadow}/lab/raw/readings/ab/deletion_vector_{id}.bin"
        ),
        vector(storageType="u", pathOrInlineDv=VECTOR),
    ),
    Case(
        "vector that leaves",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: the deletion vector of "
            "region=north/{cell}.parquet: it names a deletion vector outside its frame: "
            '"../../xab^-aqEH.-t@S}K{vb[*k^"; put the damaged file of its _delta_log back from a copy'
        ),
        vector(storageType="u", pathOrInlineDv=f"../../x{VECTOR}"),
    ),
    Case(
        "vector elsewhere",
        read,
        UnsupportedError,
        (
            "the ledger of lab.raw.readings cannot be read: the deletion vector of "
            "region=north/{cell}.parquet: a deletion vector lies outside the frame's folder: copy the table "
            "with its files"
        ),
        vector(storageType="p", pathOrInlineDv="file:///etc/x"),
    ),
    Case(
        "vector of a negative size",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: the deletion vector of "
            "region=north/{cell}.parquet: Deletion Vector error: size_in_bytes must be non-negative; put "
            "the damaged file of its _delta_log back from a copy"
        ),
        vector(storageType="i", pathOrInlineDv="x", sizeInBytes=-4),
    ),
    Case(
        "checkpoint garbage",
        long,
        CorruptError,
        (
            "the ledger of lab.raw.long cannot be read: Arrow error: Parquet error: Invalid Parquet file. "
            "Corrupt footer; put the damaged file of its _delta_log back from a copy"
        ),
        checkpoint(b"\xff\x01" * 4000),
    ),
    Case(
        "checkpoint empty",
        long,
        None,
        "",
        checkpoint(b""),
    ),
    Case(
        "checkpoint of other columns",
        long,
        CorruptError,
        (
            "the ledger of lab.raw.long cannot be read: No table metadata or protocol found in delta log.; put "
            "the damaged file of its _delta_log back from a copy"
        ),
        checkpoint(parquet_bytes(x=[1])),
    ),
    Case("checkpoint missing and its entries there", long, None, "", checkpoint_gone()),
    Case(
        "checkpoint missing and an entry too",
        long,
        CorruptError,
        (
            "the ledger of lab.raw.long cannot be read: Table version 3 is missing or unavailable for this "
            "log operation.; put the damaged file of its _delta_log back from a copy"
        ),
        checkpoint_gone(3),
    ),
    Case("hint garbage", long, None, "", hint(b"\xff\x00garbage")),
    Case("hint of a version without a checkpoint", long, None, "", hint('{"version":11,"size":5}')),
    Case("hint of a version beyond all", long, None, "", hint(f'{{"version":{MAX},"size":5}}')),
    Case("hint of a negative version", long, None, "", hint('{"version":-3,"size":-5}')),
    Case("hint of 2 billion parts", long, None, "", hint('{"version":10,"size":5,"parts":2000000000}')),
    Case(
        "entry of version i64::MAX",
        read,
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Table version 3 is missing or unavailable for this "
            "log operation.; put the damaged file of its _delta_log back from a copy"
        ),
        entry_copied(MAX),
    ),
    Case(
        "entry of version i64::MAX, written to",
        write(),
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Table version 3 is missing or unavailable for this "
            "log operation.; put the damaged file of its _delta_log back from a copy"
        ),
        entry_copied(MAX),
    ),
    Case("entry of a version beyond u64", read, None, "", entry_copied(10**20 - 1)),
    Case(
        "history of a truncated entry",
        history,
        CorruptError,
        (
            "version 1 of the ledger is damaged (EOF while parsing a string at line 1 column 219): put "
            "lab/raw/readings/_delta_log/00000000000000000001.json back from a copy"
        ),
        entry_cut(1, 500),
    ),
    Case(
        "write over a truncated entry",
        write(),
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Json error: Truncated record whilst reading "
            "string; put the damaged file of its _delta_log back from a copy"
        ),
        entry_cut(2, 300),
    ),
    Case(
        "write over a gap",
        write(),
        CorruptError,
        (
            "the ledger of lab.raw.readings cannot be read: Table version 1 is missing or unavailable for this "
            "log operation.; put the damaged file of its _delta_log back from a copy"
        ),
        entries_gone(1),
    ),
    Case(
        "node: entry truncated",
        lambda w: w.node("describe", FRAME),
        NodeFailed,
        (
            "1: apiary-node: corrupt data: the ledger of lab.raw.readings cannot be read: Json error: "
            "Truncated record whilst reading string; put the damaged file of its _delta_log back from a copy"
        ),
        entry_cut(1, 500),
    ),
]


def clocks(*days: float) -> Callable[[World], None]:
    """Sets when the log entries were written, in days from now."""

    def change(world: World) -> None:
        for version, day in enumerate(days):
            moment = time.time() + day * 86400
            os.utime(world.entry(version), (moment, moment))

    return change


def as_of(moment: str) -> Callable[[World], object]:
    return sql(f"SELECT id FROM lab.raw.readings TIMESTAMP AS OF {moment}")


def python_as_of(moment: Any) -> Callable[[World], object]:
    return lambda world: world.frame.as_of(timestamp=moment).to_arrow()


def version_as_of(version: str) -> Callable[[World], object]:
    return sql(f"SELECT id FROM lab.raw.readings VERSION AS OF {version}")


in_commit_moments = properties("inCommitTimestamp", enableInCommitTimestamps="true")
CLOCKS = [
    Case(
        "moment before the first version",
        as_of("'1999-12-31'"),
        NotFoundError,
        ("frame lab.raw.readings has no version at 1999-12-31 00:00:00 UTC: its history begins later"),
    ),
    Case(
        "moment without seconds",
        as_of("'1999-12-31 12:00'"),
        NotFoundError,
        "frame lab.raw.readings has no version at 1999-12-31 12:00:00 UTC: its history begins later",
    ),
    Case("moment in the far future", as_of("'2999-01-01'"), None, ""),
    Case(
        "moment in words",
        as_of("'yesterday'"),
        InvalidInputError,
        ("'yesterday' is no moment: write '2026-01-31', '2026-01-31 12:00' (UTC) or '2026-01-31T12:00:00+01:00'"),
    ),
    Case(
        "moment empty",
        as_of("''"),
        InvalidInputError,
        ("'' is no moment: write '2026-01-31', '2026-01-31 12:00' (UTC) or '2026-01-31T12:00:00+01:00'"),
    ),
    Case(
        "moment a number",
        as_of("17"),
        InvalidInputError,
        "TIMESTAMP AS OF wants a text, like TIMESTAMP AS OF '2026-01-31 12:00:00'",
    ),
    Case(
        "moment of a day that is not",
        as_of("'2026-02-30'"),
        InvalidInputError,
        ("'2026-02-30' is no moment: write '2026-01-31', '2026-01-31 12:00' (UTC) or '2026-01-31T12:00:00+01:00'"),
    ),
    Case(
        "moment with a zone that is not",
        as_of("'2026-01-01T00:00:00+99:00'"),
        InvalidInputError,
        (
            "'2026-01-01T00:00:00+99:00' is no moment: write '2026-01-31', '2026-01-31 12:00' (UTC) or "
            "'2026-01-31T12:00:00+01:00'"
        ),
    ),
    Case(
        "Python moment before the first",
        python_as_of(datetime(1999, 1, 1, tzinfo=timezone.utc)),
        NotFoundError,
        ("frame lab.raw.readings has no version at 1999-01-01 00:00:00 UTC: its history begins later"),
    ),
    Case(
        "Python moment beyond numbers",
        python_as_of(1 << 70),
        InvalidInputError,
        "timestamp is 1180591620717411303424: use milliseconds since 1970, or a datetime",
    ),
    Case(
        "Python moment a list",
        python_as_of([1]),
        InvalidInputError,
        "timestamp is of type list: use a datetime, ISO 8601, or milliseconds since 1970",
    ),
    Case(
        "Python moment at the edge",
        python_as_of(datetime.min),
        InvalidInputError,
        "timestamp is 0001-01-01 00:00:00, which no time zone can hold",
    ),
    Case(
        "version in words",
        version_as_of("'two'"),
        InvalidInputError,
        "VERSION AS OF wants the number of a version, like VERSION AS OF 3",
    ),
    Case(
        "version negative",
        version_as_of("-1"),
        InvalidInputError,
        "VERSION AS OF wants the number of a version, like VERSION AS OF 3",
    ),
    Case("version with a fraction", version_as_of("1.5"), InvalidInputError, "1.5 is no version of a frame"),
    Case(
        "version beyond u64",
        version_as_of("99999999999999999999"),
        InvalidInputError,
        "99999999999999999999 is no version of a frame",
    ),
    Case("entries from the future", read, None, "", clocks(400, 401, 402)),
    Case("entries in the wrong order", read, None, "", clocks(-1, -20, -10)),
    Case("entries before 1970", read, None, "", clocks(-30000, -30000, -30000)),
    Case(
        "entries all later than now",
        as_of("'2026-06-01'"),
        NotFoundError,
        ("frame lab.raw.readings has no version at 2026-06-01 00:00:00 UTC: its history begins later"),
        clocks(36500, 36501, 36502),
    ),
    Case(
        "moment in the commit missing",
        as_of("'2999-01-01'"),
        CorruptError,
        (
            "frame lab.raw.readings: an entry of its ledger has no inCommitTimestamp, and all must have one "
            "(delta.enableInCommitTimestamps): put the entry back from a copy"
        ),
        in_commit_moments,
    ),
    Case(
        "moment in the commit missing, written to",
        write(),
        CorruptError,
        (
            "frame lab.raw.readings: an entry of its ledger has no inCommitTimestamp, and all must have one "
            "(delta.enableInCommitTimestamps): put the entry back from a copy"
        ),
        in_commit_moments,
    ),
]


def in_namespace(world: World, mount: str, *words: str) -> None:
    """Runs ``apiary-node`` where ``mount`` has been done, and keeps what it left of the meadow in ``{tmp}/after``."""
    code = f'{mount}; shift; "$@"; code=$?; cp -a "$PLACE" "$AFTER"; exit $code'
    node = [node_binary(), "--bees", "1", "--memory", "64MB", *map(world.filled, words)]
    place, after = world.tmp / "place", world.tmp / "after"
    place.mkdir()
    places = {"MEADOW": str(world.meadow), "PLACE": str(place), "AFTER": str(after), "APIARY_STORAGE": str(place)}
    command = ["unshare", "-m", "sh", "-c", code, "sh", "x", *node]
    environment = {**os.environ, **places, "APIARY_SCRATCH": str(world.tmp)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert objects(after) == objects(world.meadow)
    if done.returncode:
        raise NodeFailed(f"{done.returncode}: {done.stdout}{done.stderr}".rstrip())


def can_mount() -> bool:
    """Whether this user may mount in a namespace of his own."""
    try:
        return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).returncode == 0
    except OSError:
        return False


READ_ONLY = 'mount --bind "$MEADOW" "$PLACE" && mount -o remount,bind,ro "$PLACE"'
SMALL_DISK = 'mount -t tmpfs -o size=2m tmpfs "$PLACE" && cp -a "$MEADOW"/. "$PLACE"'
FULL_DISK = SMALL_DISK + '; head -c 4000000 /dev/zero > "$PLACE"/_fill 2> /dev/null'


def read_only(statement: str) -> Callable[[World], object]:
    return lambda world: in_namespace(world, READ_ONLY, "sql", statement)


def full(statement: str) -> Callable[[World], object]:
    return lambda world: in_namespace(world, FULL_DISK, "sql", statement)


def ingested_on_a_small_disk(into: str) -> Callable[[World], object]:
    def ingest(world: World) -> None:
        world.write("much.csv", "id,region\n" + "".join(f"{number},north\n" for number in range(400_000)))
        in_namespace(world, SMALL_DISK, "ingest", "{tmp}/much.csv", "--into", into)

    return ingest


def written_to_small_files(world: World) -> None:
    code = """
    import resource, sys, pyarrow as pa
    sys.path.append(sys.argv[2])
    from apiary import Apiary, ApiaryError
    from test_bad_input import FRAME, SETTINGS
    with Apiary("test", storage=sys.argv[1], **SETTINGS) as ap:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        ids = pa.array(range(100_000), pa.int64())
        try:
            ap.frame(FRAME).write(pa.table({"id": ids, "region": ["north"] * 100_000}))
        except ApiaryError as error:
            print(f"{type(error).__name__}: {error}", end="")
    """
    raise NodeFailed(output(script(code, world.meadow, HERE), SECONDS))


INSERT = f"INSERT INTO {FRAME} VALUES (9, 'north', 1, now())"
DISKS = [
    Case(
        "read-only: INSERT",
        read_only(INSERT),
        NodeFailed,
        (
            "3: apiary-node: permission denied: the storage is mounted for reading only: mount it for "
            "writing, or point --storage elsewhere; nothing was committed: local folder error: Read-only "
            "file system (os error 30)"
        ),
    ),
    Case(
        "read-only: CREATE",
        read_only("CREATE FRAME x (a INT)"),
        NodeFailed,
        (
            "3: apiary-node: permission denied: the storage is mounted for reading only: mount it for "
            "writing, or point --storage elsewhere; nothing was committed: local folder error: Read-only "
            "file system (os error 30)"
        ),
    ),
    Case(
        "read-only: DROP",
        read_only(f"DROP FRAME {FRAME}"),
        NodeFailed,
        (
            "3: apiary-node: permission denied: the storage is mounted for reading only: mount it for "
            "writing, or point --storage elsewhere; nothing was committed: local folder error: Read-only "
            "file system (os error 30)"
        ),
    ),
    Case(
        "read-only: DELETE",
        read_only(f"DELETE FROM {FRAME} WHERE id = 1"),
        NodeFailed,
        (
            "3: apiary-node: permission denied: the storage is mounted for reading only: mount it for "
            "writing, or point --storage elsewhere; nothing was committed: local folder error: Read-only "
            "file system (os error 30)"
        ),
    ),
    Case("read-only: SELECT", read_only(f"SELECT count(*) FROM {FRAME}"), None, ""),
    Case(
        "disk full: INSERT",
        full(INSERT),
        NodeFailed,
        (
            "3: apiary-node: storage: the disk is full: free space or point --storage elsewhere; nothing "
            "was committed: local folder error: No space left on device (os error 28)"
        ),
    ),
    Case(
        "disk full: UPDATE",
        full(f"UPDATE {FRAME} SET celsius = 0"),
        NodeFailed,
        (
            "3: apiary-node: storage: the disk is full: free space or point --storage elsewhere; nothing "
            "was committed: local folder error: No space left on device (os error 28)"
        ),
    ),
    Case(
        "disk full: CREATE",
        full("CREATE FRAME lab.raw.x (a INT)"),
        NodeFailed,
        (
            "3: apiary-node: storage: the disk is full: free space or point --storage elsewhere; nothing "
            "was committed: local folder error: No space left on device (os error 28)"
        ),
    ),
    Case(
        "disk that fills",
        ingested_on_a_small_disk(FRAME),
        NodeFailed,
        (
            "3: apiary-node: storage: the disk is full: free space or point --storage elsewhere; nothing "
            "was committed: local folder error: No space left on device (os error 28)"
        ),
    ),
    Case(
        "disk that fills with a new frame",
        ingested_on_a_small_disk("lab.raw.much"),
        NodeFailed,
        (
            "3: apiary-node: storage: the disk is full: free space or point --storage elsewhere; nothing "
            "was committed: local folder error: No space left on device (os error 28)"
        ),
    ),
    Case(
        "files of 4 KB at most",
        written_to_small_files,
        NodeFailed,
        (
            "StorageError: a file would be longer than the system lets this process write (ulimit -f); "
            "nothing was committed: local folder error: File too large (os error 27)"
        ),
    ),
]


def buffered(damage: Callable[[Path], object]) -> Callable[[World], object]:
    """Leaves rows in a stream's buffer, as a process that dies does, damages it, and opens the stream again."""

    def ask(world: World) -> object:
        buffer = world.tmp / "buffer"
        with Apiary("dying", storage=world.meadow, **SETTINGS) as dying:
            stream = dying.frame(FRAME).stream(seconds=3600, buffer=buffer)
            stream.append([{"id": 101, "region": "north"}])
            stream.append([{"id": 102, "region": "north"}])
        (segment,) = buffer.glob("*/*/segment-*")
        damage(segment)
        size = segment.stat().st_size if segment.is_file() else 0
        try:
            return world.frame.stream(seconds=3600, buffer=buffer).close()
        finally:
            assert not size or segment.stat().st_size == size, "what was damaged must be there to be looked at"

    return ask


def a_folder_instead(segment: Path) -> None:
    segment.unlink()
    segment.mkdir()


def streamed(**settings: Any) -> Callable[[World], object]:
    return lambda w: w.frame.stream(**{"seconds": 3600, "buffer": w.tmp / "buffer", **settings}).close()


def appended(data: Any) -> Callable[[World], object]:
    """A row that must be refused when it is appended: later it would be in the way of others."""

    def ask(world: World) -> None:
        stream = world.frame.stream(seconds=3600, buffer=world.tmp / "buffer")
        try:
            stream.append(data)
        finally:
            waiting = stream.waiting
            with suppress(ApiaryError):
                stream.close()
        assert waiting == 0

    return ask


STREAMS = [
    Case(
        "buffer with a flipped batch",
        buffered(lambda s: flip(s, 20, 30)),
        CorruptError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: "
            "{tmp}/buffer/{id}/0/segment-00000000000000000001 is damaged (the head of a batch is wrong): move it "
            "away to go on"
        ),
    ),
    Case(
        "buffer with a flipped length",
        buffered(lambda s: flip(s, 0, 8)),
        CorruptError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: "
            "{tmp}/buffer/{id}/0/segment-00000000000000000001 is damaged (the head of a batch is wrong): move it "
            "away to go on"
        ),
    ),
    Case(
        "buffer of garbage",
        buffered(lambda s: s.write_bytes(b"\xff\x00" * 400)),
        CorruptError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: "
            "{tmp}/buffer/{id}/0/segment-00000000000000000001 is damaged (the head of a batch is wrong): move it "
            "away to go on"
        ),
    ),
    Case(
        "buffer that is a folder",
        buffered(a_folder_instead),
        StorageError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: "
            "{tmp}/buffer/{id}/0/segment-00000000000000000001 is a folder: move it away to go on"
        ),
    ),
    Case(
        "buffer with a garbage id",
        buffered(lambda s: s.with_name("id").write_bytes(b"\xff")),
        CorruptError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: {tmp}/buffer/{id}/0/id is damaged (it "
            "is no text): move the folder that it is in away to go on"
        ),
    ),
    Case(
        "buffer of number -5",
        buffered(lambda s: s.rename(s.with_name("segment--5"))),
        CorruptError,
        (
            "the stream's buffer {tmp}/buffer/{id} cannot be opened: {tmp}/buffer/{id}/0/segment--5 is no "
            "segment of a buffer: move it away to go on"
        ),
    ),
    Case(
        "buffer in a file",
        lambda w: w.frame.stream(buffer=w.write("file", "x")),
        StorageError,
        "the stream's buffer {tmp}/file/{id} cannot be opened: Not a directory (os error 20)",
    ),
    Case("stream of no rows", streamed(rows=0), InvalidInputError, "rows is 0: use 1 or more"),
    Case(
        "stream of rows beyond numbers",
        streamed(rows=1 << 70),
        InvalidInputError,
        "rows is 1180591620717411303424: use at most 9223372036854775807",
    ),
    Case(
        "stream of no seconds",
        streamed(seconds=0),
        InvalidInputError,
        "seconds is 0: use a number of seconds above 0",
    ),
    Case(
        "stream of endless seconds",
        streamed(seconds=float("inf")),
        InvalidInputError,
        "seconds is inf: use a number of seconds above 0",
    ),
    Case(
        "stream of a size in words",
        streamed(size="much"),
        InvalidInputError,
        'size: "much" is not a size: write bytes or a number with KB, MB, GB or TB, like 512MB',
    ),
    Case(
        "stream of a size of none",
        streamed(size=0),
        InvalidInputError,
        "rows, bytes and seconds of a stream must be above 0",
    ),
    Case(
        "row with an unknown column",
        appended([{"id": 1, "region": "n", "nope": 1}]),
        SchemaError,
        (
            "a stream takes the columns that the frame had when it was opened: column 'nope' is not in "
            "the frame, which has id, region, celsius, seen: drop or rename it"
        ),
    ),
    Case(
        "row of a wrong type",
        appended([{"id": "x", "region": "n"}]),
        SchemaError,
        ("column 'id' does not fit the frame: Could not convert 'x' with type str: tried to convert to int64"),
    ),
    Case(
        "row without a needed value",
        appended([{"region": "n"}]),
        SchemaError,
        (
            "a stream takes the columns that the frame had when it was opened: column 'id' is missing "
            "and takes no nulls: add it to the data"
        ),
    ),
    Case(
        "row without a partition",
        appended([{"id": 1}]),
        SchemaError,
        "partition column 'region' has nulls: fill or filter them, a partition needs a value",
    ),
    Case(
        "row that is text",
        appended("id"),
        InvalidInputError,
        (
            "cannot write a builtins.str: use a table of pyarrow, polars, pandas or DuckDB, an iterator of "
            "batches, a dict of lists, or dicts of rows"
        ),
    ),
]


def cached(world: World) -> None:
    """Reads a bucket's frame through a cache, damages the cache in two ways, and reads it again."""
    url, options = s3_place(world)
    for damage in (flip_all, fill_all, None):
        with Apiary("test", storage=url, storage_options=options, cache=world.tmp / "cache", **SETTINGS) as ap:
            ap.sql("CREATE FRAME IF NOT EXISTS f AS SELECT value FROM generate_series(1, 20000)").fetchall()
            assert ap.sql("SELECT sum(value) FROM f WHERE value % 2 = 1").fetchall() == [(100_000_000,)]
        for path in [path for path in (world.tmp / "cache").rglob("*") if damage and path.is_file()]:
            damage(path)


def flip_all(path: Path) -> None:
    flip(path, 0, None)


def fill_all(path: Path) -> None:
    path.write_bytes(b"garbage" * 99)


def strange_scratch(world: World) -> None:
    other = world.write("scratch/other", "x")
    world.write("scratch/apiary-scratch-x/file", b"?")
    world.open(scratch=world.tmp / "scratch")
    assert other.read_text() == "x"


def sorted_much(scratch_gone: bool = False, **settings: Any) -> Callable[[World], object]:
    def ask(world: World) -> None:
        scratch = world.tmp / "scratch"
        scratch.mkdir()
        settings_ = {**SETTINGS, "memory": "32MB", "scratch": scratch, **settings}
        with Apiary("test", storage=world.meadow, **settings_) as ap:
            if scratch_gone:
                shutil.rmtree(scratch)
                scratch.write_text("in the way")
            ap.sql("SELECT value, md5(value::TEXT) AS h FROM generate_series(1, 600000) ORDER BY h").to_arrow()

    return ask


SCRATCH = [
    Case("cache damaged", cached, None, ""),
    Case("scratch with strange files", strange_scratch, None, ""),
    Case(
        "scratch gone while it is used",
        sorted_much(scratch_gone=True),
        StorageError,
        (
            "the scratch folder cannot be used (Not a directory (os error 20) at path "
            '"{tmp}/scratch/apiary-scratch-{id}/{id}"): make it anew, and start again'
        ),
    ),
    Case(
        "more than memory without scratch",
        sorted_much(spill="none"),
        MemoryExceededError,
        (
            "a query needs more memory than its bee has, and may not spill (spill is none, or "
            "disk_writes_per_day is used up): give the colony more memory, use fewer bees, or ask for less "
            "at a time"
        ),
    ),
    Case(
        "more than the scratch limit",
        sorted_much(scratch_limit="1MB"),
        MemoryExceededError,
        ("what it spills is more than scratch_limit allows each bee: set it higher, or ask for less at a time"),
    ),
]

MOUNTS = can_mount()
NEEDS_S3 = {
    "bucket that cannot be",
    "option with a bad flag",
    "option with a bad address",
    "http not allowed",
    "bucket that is not there",
    "nothing at the port",
    "cache in a file",
    "cache damaged",
}
CASES = [
    *SQL_AND_SCHEMA,
    *NAMES,
    *PLACES,
    *APIARY_SETTINGS,
    *FILES,
    *CELLS,
    *LEDGER,
    *CLOCKS,
    *DISKS,
    *STREAMS,
    *SCRATCH,
]


# --- what holds for each ---


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A meadow that is copied."""
    folder = tmp_path_factory.mktemp("template") / "meadow"
    with Apiary("test", storage=folder, **SETTINGS) as ap:
        frame = ap.create_frame(FRAME, READINGS, partition_by="region")
        seen = [datetime(2026, 1, 1, tzinfo=timezone.utc)]
        frame.write({"id": [1], "region": ["north"], "celsius": [4.5], "seen": seen})
        frame.write({"id": [2], "region": ["south"]})
        other = ap.create_frame("lab.raw.other", pa.schema([("id", pa.int64()), ("day", pa.date32())]), "day")
        other.write({"id": [1, 2], "day": [date(2026, 1, 1)] * 2})
        many = ap.create_frame("lab.raw.long", pa.schema([("id", pa.int64())]))
        for number in range(12):
            many.write({"id": [number]})
    return folder


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One running Apiary for the cases that damage nothing."""
    folder = tmp_path_factory.mktemp("shared") / "meadow"
    shutil.copytree(template, folder)
    world = World(folder, folder.parent, str)
    yield world
    world.close()


def objects(folder: Path) -> dict[str, bytes | int]:
    """The files of a meadow, but for locks and hints, with what is in them, and its empty folders."""
    found: dict[str, bytes | int] = {}
    for place, folders, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            if not name.startswith(("_apiary.lock", "_fill", "_last_checkpoint")):
                size = path.stat().st_size
                found[str(path.relative_to(folder))] = path.read_bytes() if size < 1 << 20 else size
        if not folders and not files and "_housekeeping" not in place:
            found[str(Path(place).relative_to(folder))] = -1
    return found


def expected(name: str) -> list[tuple[Any, ...]]:
    """The rows of a frame that is whole."""
    if name == FRAME:
        seen = datetime(2026, 1, 1, tzinfo=timezone.utc)
        return [(1, "north", 4.5, seen), (2, "south", None, None)]
    return [(1, date(2026, 1, 1)), (2, date(2026, 1, 1))] if name == "lab.raw.other" else [(i,) for i in range(12)]


def mend(meadow: Path, template: Path, damaged: dict[str, bytes | int]) -> None:
    """Puts back by hand what a case damaged; what it made goes."""
    whole = objects(template)
    for name in damaged.keys() - whole.keys():
        path = meadow / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in whole:
        if damaged.get(name) != whole[name]:
            path = meadow / name
            shutil.rmtree(path, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(template / name, path)


def said(error: BaseException, world: World) -> str:
    """What an error says, with stand-ins for what is different each time."""
    places = {str(world.meadow): "{meadow}", str(world.tmp): "{tmp}"}
    if world.s3 is not str:
        places[world.s3()] = "{s3}"
    text = str(error)
    for place, name in places.items():
        text = text.replace(place, name)
    text = re.sub(r"cell-[0-9a-f]{32}", "{cell}", text)
    text = re.sub(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|datafusion-\w{6}/\.tmp\w{6}", "{id}", text)
    return re.sub(r" in [0-9.]+(µs|ms|s)\b", " in {time}", text)


@contextmanager
def within_bounds() -> Iterator[None]:
    """Fails what takes too long or too much memory; what hangs is ended with the whole program."""
    faulthandler.dump_traceback_later(60, exit=True)
    before, start = peak_memory(reset=True), time.monotonic()
    try:
        yield
        took, grown = time.monotonic() - start, peak_memory() - before
        assert took < SECONDS, f"it took {took:.1f} s"
        assert grown < MEMORY, f"it took {grown >> 20} MB"
    finally:
        faulthandler.cancel_dump_traceback_later()


def peak_memory(*, reset: bool = False) -> int:
    """The most memory that this process has had, where the system says so."""
    status = Path("/proc/self/status")
    if reset and status.exists():
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else 0


def test_there_are_cases_enough_and_each_has_a_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 80


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input(case: Case, template: Path, shared: World, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    world = world_for(case, template, shared, tmp_path, request)
    if case in DISKS and case.do is not written_to_small_files and not MOUNTS:
        pytest.skip("this user may not mount")
    if case.damage is not None:
        case.damage(world)
    before = objects(world.meadow)
    try:
        error = None
        with within_bounds():
            try:
                case.do(world)
            except (ApiaryError, NodeFailed) as caught:
                error = caught
        assert type(error) is (case.error or type(None)), error
        if error is not None:
            assert said(error, world) == case.says
        check_nothing_changed(case, world, template, before)
    finally:
        if world is not shared:
            world.close()


def world_for(case: Case, template: Path, shared: World, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """A meadow for a case: the common one where it cannot come to harm."""
    s3 = (lambda: request.getfixturevalue("s3")) if case.name in NEEDS_S3 else str
    if case.damage is None:
        shared.tmp, shared.s3 = tmp_path, s3
        return shared
    meadow = tmp_path / "meadow"
    shutil.copytree(template, meadow)
    return World(meadow, tmp_path, s3)


def check_nothing_changed(case: Case, world: World, template: Path, before: dict[str, bytes | int]) -> None:
    after = objects(world.meadow)
    assert after == before, sorted(name for name in after.keys() | before.keys() if after.get(name) != before.get(name))
    if case.damage is None:
        assert rows(world.frame.read().to_arrow()) == expected(FRAME)
        return
    if case in LEDGER or case in CELLS or case in CLOCKS:
        damaged = changes(after, template)
        for name in FRAMES:
            if any(change.startswith(name.replace(".", "/")) for change in damaged):
                continue
            assert rows(world.ap.frame(name).read().to_arrow()) == expected(name)
    mend(world.meadow, template, after)
    with Apiary("test", storage=world.meadow, **SETTINGS) as ap:
        for name in FRAMES:
            assert rows(ap.frame(name).read().to_arrow()) == expected(name)


def changes(found: dict[str, bytes | int], template: Path) -> set[str]:
    """The names of what is not as it was made."""
    whole = objects(template)
    return {name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)}
