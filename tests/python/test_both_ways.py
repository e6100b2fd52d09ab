"""Both ways with Delta: tables that Apiary and ``deltalake`` change in turn, and tables as Spark writes them.

``APIARY_BOTH_WAYS_ROUNDS=100`` plays that many random rounds, ``APIARY_BOTH_WAYS_SEED=17`` begins with that of seed 17.

Values are kept and compared in a plain form, which no reader's classes come near: dates are days, times are
microseconds since 1970, structs are dicts, maps are lists of pairs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from itertools import combinations, count, permutations
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support
from apiary import Apiary, ApiaryError, Frame, UnsupportedError
from deltalake import (
    BloomFilterProperties,
    ColumnProperties,
    DeltaTable,
    QueryBuilder,
    WriterProperties,
    write_deltalake,
)
from support import folder, output, script, start_together

KNOWN: dict[str, str] = {}
"""Cases that fail: what happens, and what should. One that does not fail any more fails until it is taken out."""

case = partial(support.case, KNOWN)

ROUNDS = int(os.environ.get("APIARY_BOTH_WAYS_ROUNDS", "3"))
FIRST_SEED = int(os.environ.get("APIARY_BOTH_WAYS_SEED", "0"))
OPERATIONS = 12

Row = dict[str, Any]

# --- columns -------------------------------------------------------------------------------------------------------

EPOCH = datetime(1970, 1, 1)
UTC, NTZ = pa.timestamp("us", tz="UTC"), pa.timestamp("us")
DAY = 86_400_000_000
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
TEXTS = ["a", "b", "a/b", "100%", "k=v", " lead", "trail ", "two\nlines", 'it\'s "so"', "ü🐝é日", "\\", "%2F", "null"]
TEXTS += ["..", ".", "#?&+:*~|^`<", "__HIVE_DEFAULT_PARTITION__", "\x7f\t", "A", "true", "1", "NaN"]
# delta-rs and Polars take the name of the folder of nulls for null; delta-rs cannot OPTIMIZE where a path has %7E.
FOLDERS = [text for text in TEXTS if "HIVE" not in text and "~" not in text]
LONG = [
    "z" * 40,
    "z" * 32 + "🐝",
    "a" * 31 + "ÿ" * 9,
    "\U0010ffff" * 40,
    "ÿ" * 33,
    "z" * 31 + "\ud7ff\U0010ffff",
    "m" * 3000,
]


@dataclass(frozen=True)
class Column:
    """A column, what SQL calls its type, and how its values are drawn and written in SQL."""

    name: str
    type: pa.DataType
    sql: str
    draw: Callable[[Random], Any]
    literal: Callable[[Any], str] | None = None

    def value(self, random: Random, nulls: float = 0.2) -> Any:
        return None if random.random() < nulls else self.draw(random)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def day_literal(days: int) -> str:
    return f"DATE '{(EPOCH + timedelta(days=days)).date().isoformat()}'"


def moment_literal(micros: int) -> str:
    return f"arrow_cast({micros}, 'Timestamp(Microsecond, None)')"


def instant_literal(micros: int) -> str:
    return f"""arrow_cast({micros}, 'Timestamp(Microsecond, Some("UTC"))')"""


def float_literal(value: float) -> str:
    return f"CAST('{value!r}' AS DOUBLE)"


def integers(bits: int) -> Callable[[Random], int]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return lambda random: random.choice([low, high, 0, 1, random.randint(low, high), *[random.randint(-9, 9)] * 3])


def texts(random: Random) -> str:
    return random.choice([random.choice(TEXTS), "", random.choice(LONG), random.choice(TEXTS) + random.choice(LONG)])


def days(random: Random) -> int:
    return random.choice([0, -1, FIRST_DAY, LAST_DAY, random.randint(-40_000, 40_000), random.randint(-40_000, 40_000)])


def moments(random: Random) -> int:
    far = random.choice([FIRST_DAY * DAY, LAST_DAY * DAY + DAY - 1, random.randint(FIRST_DAY * DAY, LAST_DAY * DAY)])
    return random.choice([0, -1, 1, -999, 999_999, 1_700_000_000_123_456, far, random.randint(-DAY, DAY)])


def floats(random: Random) -> float:
    special = random.choice([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.7e308, -5e-324])
    return random.choice([special, random.randint(-100, 100) / 4, random.randint(-100, 100) / 4])


def single_floats(random: Random) -> float:
    return struct.unpack("f", struct.pack("f", random.choice([math.nan, math.inf, -0.0, 0.0, 3e38, random.random()])))[
        0
    ]


def decimals(precision: int, scale: int) -> Callable[[Random], Decimal]:
    greatest = 10**precision - 1

    def draw(random: Random) -> Decimal:
        unscaled = random.choice([0, 1, -1, greatest, -greatest, random.randint(-greatest, greatest)])
        return Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), -scale))

    return draw


def decimal_column(name: str, precision: int, scale: int) -> Column:
    sql = f"DECIMAL({precision}, {scale})"
    draw = decimals(precision, scale)
    return Column(name, pa.decimal128(precision, scale), sql, draw, lambda value: f"CAST('{value:f}' AS {sql})")


def number_column(name: str, bits: int, sql: str) -> Column:
    kind = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]
    return Column(name, kind, sql, integers(bits), lambda value: f"CAST('{value}' AS {sql})")


def raw(random: Random) -> bytes:
    return random.choice([b"", b"\0", b"\xff" * 40, b"'", random.randbytes(5)])


ID = Column("id", pa.int64(), "BIGINT", lambda _: 0, str)
GROUP = Column("grp", pa.int32(), "INT", lambda random: random.randint(0, 4), str)
FLAT = [
    Column("s", pa.string(), "TEXT", texts, quoted),
    Column("s2", pa.string(), "TEXT", lambda random: random.choice(LONG), quoted),
    Column("f", pa.float64(), "DOUBLE", floats, float_literal),
    Column("g", pa.float32(), "FLOAT", single_floats, float_literal),
    number_column("i8", 8, "TINYINT"),
    number_column("i16", 16, "SMALLINT"),
    number_column("i64", 64, "BIGINT"),
    Column("d", pa.date32(), "DATE", days, day_literal),
    Column("t", UTC, "TIMESTAMPTZ", moments, instant_literal),
    Column("u", NTZ, "TIMESTAMP", moments, moment_literal),
    decimal_column("m5", 5, 2),
    decimal_column("m18", 18, 6),
    decimal_column("m38", 38, 10),
    decimal_column("m20", 20, 0),
    Column("ok", pa.bool_(), "BOOLEAN", lambda random: random.random() < 0.5, str),
    Column("raw", pa.binary(), "BYTEA", raw),
]
NESTED = [
    Column("l", pa.list_(pa.int32()), "", lambda r: [r.choice([None, 1, 2]) for _ in range(r.randint(0, 3))]),
    Column(
        "st", pa.struct([("a", pa.int64()), ("b", pa.string())]), "", lambda r: {"a": r.choice([None, 1, 7]), "b": "x"}
    ),
    Column(
        "mp",
        pa.map_(pa.string(), pa.int32()),
        "",
        lambda r: [(k, r.choice([None, 1])) for k in "ab"[: r.randint(0, 2)]],
    ),
]
PARTITIONS = [
    Column("ps", pa.string(), "TEXT", lambda random: random.choice(FOLDERS), quoted),
    number_column("p8", 8, "TINYINT"),
    number_column("p16", 16, "SMALLINT"),
    number_column("p32", 32, "INT"),
    number_column("p64", 64, "BIGINT"),
    Column("pd", pa.date32(), "DATE", days, day_literal),
    Column("pt", UTC, "TIMESTAMPTZ", moments, instant_literal),
    Column("pn", NTZ, "TIMESTAMP", moments, moment_literal),
    Column("pb", pa.bool_(), "BOOLEAN", lambda random: random.random() < 0.5, str),
    # delta-rs writes negative ones so that nobody can read them ("-1.-5").
    replace(decimal_column("pm", 9, 3), draw=lambda random: decimals(9, 3)(random).copy_abs()),
    replace(decimal_column("pm38", 38, 10), draw=lambda random: decimals(38, 10)(random).copy_abs()),
]


def array(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """An array of plain values."""
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if pa.types.is_date32(kind):
        return pa.array(values, pa.int32()).cast(kind)
    return pa.array(values, kind)


def arrow(columns: list[Column], rows: list[Row]) -> pa.Table:
    fields = [pa.field(column.name, column.type, column is not ID) for column in columns]
    return pa.table([array(c.type, [row[c.name] for row in rows]) for c in columns], schema=pa.schema(fields))


def plain(value: Any) -> Any:
    """A value in the form that is compared: zeros with their sign, NaN equal to itself, maps as pairs."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict) and set(value) == {"key", "value"}:
        return (value["key"], value["value"])
    if isinstance(value, dict):
        return tuple((name, plain(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, Decimal):
        return str(value)
    return value


def plain_column(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        assert column.type.unit == "us"
        column = column.cast(pa.int64())
    elif pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return [plain(value) for value in column.to_pylist()]


def listed(data: Any, names: list[str]) -> list[tuple[Any, ...]]:
    """The rows of anything with ``__arrow_c_stream__``, in order of the first column."""
    table = data if isinstance(data, pa.Table) else pa.table(data)
    found = zip(*(plain_column(table[name]) for name in names))
    return sorted(found, key=lambda row: (row[0] is not None, row[0]))


ZEROS = {"-0.0": "0.0"}


def without_signs(row: Iterable[Any]) -> tuple[Any, ...]:
    """Plain values with one zero."""
    return tuple(ZEROS.get(value, value) if isinstance(value, str) else value for value in row)


# --- the model -----------------------------------------------------------------------------------------------------


@dataclass
class State:
    """What a version of the table has."""

    columns: list[Column]
    rows: list[Row]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def listed(self) -> list[tuple[Any, ...]]:
        found = [tuple(plain(row.get(name)) for name in self.names) for row in self.rows]
        return sorted(found, key=lambda row: row[0])


def order(value: Any) -> Any:
    """What values are compared by: NaN is above all numbers, zeros are equal, texts are in the order of their bytes."""
    if isinstance(value, float):
        return (math.isnan(value), 0.0 if math.isnan(value) else value)
    return value.encode() if isinstance(value, str) else value


Test = tuple[str, Callable[[Row], bool]]


def comparison(column: Column, random: Random, values: list[Any]) -> Test:
    """A random condition on a column in SQL, and the same in Python."""
    name = column.name
    kinds = ["null", "not null"] + ["=", "<", "<=", ">", ">=", "<>", "in", "between"] * bool(column.literal)
    kind = random.choice(kinds)
    if kind == "null":
        return f"{name} IS NULL", lambda row: row[name] is None
    if kind == "not null":
        return f"{name} IS NOT NULL", lambda row: row[name] is not None
    there = [value for value in values if value is not None] or [column.draw(random)]
    first, second = random.choice(there), random.choice([random.choice(there), column.draw(random)])
    assert column.literal
    one, two = column.literal(first), column.literal(second)
    a, b = order(first), order(second)

    def of(test: Callable[[Any], bool]) -> Callable[[Row], bool]:
        return lambda row: row[name] is not None and test(order(row[name]))

    tests: dict[str, Test] = {
        "=": (f"{name} = {one}", of(lambda x: x == a)),
        "<": (f"{name} < {one}", of(lambda x: x < a)),
        "<=": (f"{name} <= {one}", of(lambda x: x <= a)),
        ">": (f"{name} > {one}", of(lambda x: x > a)),
        ">=": (f"{name} >= {one}", of(lambda x: x >= a)),
        "<>": (f"{name} <> {one}", of(lambda x: x != a)),
        "in": (f"{name} IN ({one}, {two})", of(lambda x: x in (a, b))),
        "between": (f"{name} BETWEEN {one} AND {two}", of(lambda x: a <= x <= b)),
    }
    return tests[kind]


# --- a round -------------------------------------------------------------------------------------------------------


class Meadow:
    """An Apiary, and how tables of others become frames of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.numbers = root, count()
        self.apiary = self.started()
        self.apiary.create_frame("lab.both.first", pa.schema([("x", pa.int64())]))

    def started(self) -> Apiary:
        return Apiary("test", storage=self.root, bees=2, memory="512MB", housekeeping=False)

    def frame(self) -> tuple[Frame, Path]:
        """A frame without a ledger yet: its name is known, and whoever writes a table into its folder makes it."""
        name = f"t{next(self.numbers)}"
        registry = self.root / "_registry" / "lab" / "both"
        shutil.copy(registry / "first.json", registry / f"{name}.json")
        return self.apiary.frame(f"lab.both.{name}"), self.root / "lab" / "both" / name

    def sql(self, query: str) -> pa.Table:
        return self.apiary.sql(query).to_arrow()


@pytest.fixture(scope="module")
def meadow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meadow]:
    meadow = Meadow(tmp_path_factory.mktemp("meadow"))
    yield meadow
    meadow.apiary.close()


def by_deltalake(path: Path, query: str) -> pa.Table:
    builder = QueryBuilder().register("t", DeltaTable(str(path)))
    return pa.table(builder.execute(query).read_all())


class Round:
    """One table, its model, and who changes it."""

    def __init__(self, meadow: Meadow, seed: int) -> None:
        self.meadow, self.seed, self.random = meadow, seed, Random(seed)
        random = self.random
        self.partitions = random.sample(PARTITIONS, random.choice([0, 0, 1, 1, 1, 2]))
        columns = random.sample(FLAT, random.randint(2, 6)) + random.sample(NESTED, random.choice([0, 0, 1]))
        self.spare = [column for column in FLAT if column not in columns]
        columns = [ID, GROUP, *columns, *self.partitions]
        self.state = State(columns, [])
        self.ids, self.done, self.versions = count(), list[str](), dict[int, State]()
        names = [column.name for column in self.partitions]
        if random.random() < 0.5:
            schema = arrow(columns, []).schema
            self.frame = meadow.apiary.create_frame(f"lab.both.r{seed}_{next(meadow.numbers)}", schema, names)
            self.path = Path(folder(meadow.root, self.frame.name))
        else:
            self.frame, self.path = meadow.frame()
            DeltaTable.create(str(self.path), arrow(columns, []).schema, partition_by=names)
        self.versions[0] = self.snapshot()

    def snapshot(self) -> State:
        return State(list(self.state.columns), [dict(row) for row in self.state.rows])

    def drawn_rows(self, nulls_in_partitions: bool, size: int | None = None) -> list[Row]:
        few = {c.name: [c.draw(self.random) for _ in range(2)] for c in self.partitions}
        if nulls_in_partitions:
            few = {name: [*values, None] for name, values in few.items()}
        nulls = {column.name: self.random.choice([0, 0.2, 0.2, 1.0]) for column in self.state.columns}

        def row() -> Row:
            drawn = {c.name: c.value(self.random, nulls[c.name]) for c in self.state.columns}
            parts = {name: self.random.choice(values) for name, values in few.items()}
            return {**drawn, **parts, "id": next(self.ids)}

        return [row() for _ in range(self.random.choice([1, 3, 8, 25]) if size is None else size)]

    def condition(self) -> Test:
        k, m = self.random.randint(0, 60), self.random.randint(2, 5)
        found: list[Test] = [
            (f"id % {m} = {k % m}", lambda row: row["id"] % m == k % m),
            (f"id < {k}", lambda row: row["id"] < k),
            (f"grp = {k % 5}", lambda row: row["grp"] == k % 5),
        ]
        for column in self.partitions:
            found.append(comparison(column, self.random, [row[column.name] for row in self.state.rows]))
        return self.random.choice(found)

    def properties(self) -> WriterProperties:
        """How delta-rs writes its files: with what readers skip row groups and pages by."""
        bloom = BloomFilterProperties(set_bloom_filter_enabled=self.random.random() < 0.5)
        column = ColumnProperties(bloom_filter_properties=bloom, dictionary_enabled=self.random.random() < 0.5)
        rows = self.random.choice([2, 1000])
        return WriterProperties(
            max_row_group_size=rows,
            data_page_row_count_limit=2,
            write_batch_size=2,
            statistics_truncate_length=self.random.choice([8, None]),
            default_column_properties=column,
        )

    # Each operation changes the table and gives the rows that it should have; None when these are the same.

    def append(self, ours: bool) -> list[Row]:
        new = self.drawn_rows(not ours)
        table = arrow(self.state.columns, new)
        if ours:
            self.frame.write(table)
        else:
            write_deltalake(str(self.path), table, mode="append", writer_properties=self.properties())
        return self.state.rows + new

    def overwrite(self, ours: bool) -> list[Row]:
        new = self.drawn_rows(not ours)
        table = arrow(self.state.columns, new)
        if ours:
            self.frame.overwrite(table)
        else:
            write_deltalake(str(self.path), table, mode="overwrite", writer_properties=self.properties())
        return new

    def delete(self, ours: bool) -> list[Row]:
        sql, holds = self.condition()
        self.note(sql)
        self.frame.delete(sql) if ours else DeltaTable(str(self.path)).delete(sql)
        return [row for row in self.state.rows if not holds(row)]

    def update(self, ours: bool) -> list[Row]:
        sql, holds = self.condition()
        target = self.random.choice([c for c in self.state.columns if c is not ID and c.literal])
        value = target.draw(self.random)
        assert target.literal
        self.note(f"{target.name} = {value!r} where {sql}")
        new = {target.name: target.literal(value)}
        self.frame.update(new, sql) if ours else DeltaTable(str(self.path)).update(updates=new, predicate=sql)
        return [{**row, target.name: value} if holds(row) else row for row in self.state.rows]

    def merge(self, ours: bool) -> list[Row]:
        there = [row["id"] for row in self.state.rows]
        new = self.drawn_rows(not ours, 6)
        for row, known in zip(new, self.random.sample(there, min(3, len(there)))):
            row["id"] = known
        table = arrow(self.state.columns, new)
        if ours:
            merge = self.frame.merge(table, "target.id = source.id")
            merge.when_matched_update().when_not_matched_insert().execute()
        else:
            merge = DeltaTable(str(self.path)).merge(
                table, "target.id = source.id", source_alias="source", target_alias="target"
            )
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
        replaced = {row["id"] for row in new}
        return [row for row in self.state.rows if row["id"] not in replaced] + new

    def optimize(self, ours: bool) -> None:
        by = [c.name for c in self.state.columns if c.literal and c not in self.partitions]
        chosen = self.random.sample(by, self.random.choice([0, 1, 2]))
        self.note(str(chosen))
        if ours and len(chosen) > 1:
            self.frame.optimize(zorder_by=chosen)
        elif ours:
            self.frame.optimize(chosen)
        elif chosen:
            DeltaTable(str(self.path)).optimize.z_order(chosen)
        else:
            DeltaTable(str(self.path)).optimize.compact()

    def checkpoint(self, ours: bool) -> None:
        # delta-rs cleans up then, too.
        DeltaTable(str(self.path)).create_checkpoint()

    def compact_log(self, ours: bool) -> None:
        table = DeltaTable(str(self.path))
        first = next(version for version in count() if (self.path / f"_delta_log/{version:020}.json").exists())
        if first == 0 and table.version() > 1:
            table.compact_logs(self.random.randint(0, table.version() - 1), table.version())

    def clean_log(self, ours: bool) -> None:
        """Removes entries of the log, all of which have become old."""
        then = time.time() - 40 * 86_400
        for path in (self.path / "_delta_log").iterdir():
            os.utime(path, (then, then))
        self.frame.vacuum() if ours else DeltaTable(str(self.path)).cleanup_metadata()
        self.versions = {version: state for version, state in self.versions.items() if self.is_there(version)}

    def is_there(self, version: int) -> bool:
        """Whether the log still has all that makes up a version."""
        names = [path.name for path in (self.path / "_delta_log").iterdir()]
        commits = {int(name[:20]) for name in names if len(name) == 25 and name.endswith(".json")}
        checkpoints = [int(name[:20]) for name in names if ".checkpoint." in name]
        starts = [at for at in checkpoints if at <= version] + [-1]
        return any(all(at in commits for at in range(start + 1, version + 1)) for start in starts)

    def vacuum(self, ours: bool) -> None:
        if ours:
            self.frame.vacuum(retain_hours=200)
        else:
            DeltaTable(str(self.path)).vacuum(200, dry_run=False)

    def restore(self, ours: bool) -> list[Row] | None:
        # delta-rs does not restore what is there.
        older = [version for version in self.versions if version < max(self.versions) and self.is_there(version)]
        if not older:
            return None
        version = self.random.choice(older)
        self.note(f"to {version}")
        self.frame.restore(version) if ours else DeltaTable(str(self.path)).restore(version)
        target = self.versions[version]
        named = {column.name: column for column in [*self.state.columns, *target.columns]}
        # Its schema comes back with ours, and stays as it is with theirs.
        there = [field.name for field in DeltaTable(str(self.path)).schema().fields]
        assert not ours or there == target.names
        self.state.columns = [named[name] for name in there]
        return [{name: row.get(name) for name in there} for row in target.rows]

    def add_column(self, ours: bool) -> list[Row] | None:
        ready = [column for column in self.spare if column.name not in self.state.names and column.sql != "BYTEA"]
        if not ready:
            return None
        column = self.random.choice(ready)
        self.note(column.name)
        before = [{**row, column.name: None} for row in self.state.rows]
        self.state.columns = [*self.state.columns, column]
        how = self.random.random()
        if how < 0.5 or (column.type == NTZ and not ours):
            if ours:
                self.frame.add_column(column.name, column.sql)
            else:
                field = deltalake.Schema.from_arrow(pa.schema([(column.name, column.type)])).fields
                try:
                    DeltaTable(str(self.path)).alter.add_columns(field)
                except deltalake.exceptions.DeltaError:
                    self.state.columns = self.state.columns[:-1]
                    return None
            return before
        new = self.drawn_rows(not ours)
        table = arrow(self.state.columns, new)
        if ours:
            self.frame.write(table, evolve=True)
        else:
            write_deltalake(str(self.path), table, mode="append", schema_mode="merge")
        self.state.columns = [
            next(c for c in self.state.columns if c.name == f.name) for f in DeltaTable(str(self.path)).schema().fields
        ]
        return before + new

    def note(self, text: str) -> None:
        self.done[-1] += f" {text}"

    def step(self) -> None:
        weights = {
            "append": 6, "overwrite": 1, "delete": 3, "update": 3, "merge": 3, "optimize": 2, "checkpoint": 1,
            "compact_log": 1, "clean_log": 1, "vacuum": 1, "restore": 2, "add_column": 2,
        }  # fmt: skip
        name = self.random.choices(list(weights), list(weights.values()))[0]
        ours = self.random.random() < 0.5
        self.done.append(f"{'apiary' if ours else 'deltalake'} {name}")
        before = DeltaTable(str(self.path)).version()
        columns = self.state.columns
        try:
            rows = getattr(self, name)(ours)
        except ApiaryError as error:
            # A frame takes no partition without a value; nothing must have happened then.
            if not ours or "has nulls" not in str(error):
                raise
            self.done[-1] += " refused"
            rows, self.state.columns = None, columns
        if rows is not None:
            self.state.rows = rows
        after = DeltaTable(str(self.path)).version()
        for version in range(before + 1, after + 1):
            if version == after or rows is None:
                self.versions[version] = self.snapshot()
        self.check()

    def check(self) -> None:
        expected, names = self.state.listed(), self.state.names
        every_reader_finds(self.meadow, self.frame, self.path, names, expected)
        for column in self.random.sample(self.state.columns, 2):
            self.check_column(column)

    def check_column(self, column: Column) -> None:
        values = [row[column.name] for row in self.state.rows]
        sql, holds = comparison(column, self.random, values)
        expected = sorted(row["id"] for row in self.state.rows if holds(row))
        found = self.meadow.sql(f"SELECT id FROM {self.frame.name} WHERE {sql}")["id"].to_pylist()
        assert sorted(found) == expected, f"WHERE {sql}"
        counts = f"SELECT count(*) AS n, count({column.name}) AS c FROM "
        there = [value for value in values if value is not None]
        if column.literal:
            self.check_order_and_groups(column)
        assert self.meadow.sql(counts + self.frame.name).to_pylist() == [{"n": len(values), "c": len(there)}], column
        if column.literal:
            bounds = self.meadow.sql(f"SELECT min({column.name}) AS a, max({column.name}) AS b FROM {self.frame.name}")
            low, high = plain_column(bounds["a"])[0], plain_column(bounds["b"])[0]
            wanted = (min(there, key=order), max(there, key=order)) if there else (None, None)
            assert without_signs((low, high)) == without_signs(map(plain, wanted)), column

    def check_order_and_groups(self, column: Column) -> None:
        name, rows, table = column.name, self.state.rows, self.frame.name
        descending, nulls_first = self.random.random() < 0.5, self.random.random() < 0.5
        there = sorted((row[name] for row in rows if row[name] is not None), key=order, reverse=descending)
        nulls = [None] * (len(rows) - len(there))
        wanted = [*nulls, *there] if nulls_first else [*there, *nulls]
        sql = f"ORDER BY {name} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if nulls_first else 'LAST'} LIMIT 3"
        found = self.meadow.sql(f"SELECT {name} FROM {table} {sql}")[name]
        assert without_signs(plain_column(found)) == without_signs(map(plain, wanted[:3])), sql
        groups = self.meadow.sql(f"SELECT {name}, count(*) AS n FROM {table} GROUP BY {name}")
        keys = without_signs(plain(row[name]) for row in rows)
        found = without_signs(plain_column(groups[name]))
        assert len(found) == len(set(found)) and dict(zip(found, groups["n"].to_pylist())) == Counter(keys), (
            f"GROUP BY {name}"
        )
        limit = self.random.randint(0, 60)
        join = f"SELECT a.id AS a, b.id AS b FROM {table} a JOIN {table} b ON a.{name} = b.{name} WHERE b.id < {limit}"
        keyed = [(row["id"], key) for row, key in zip(rows, keys) if key is not None]
        pairs = [(a, b) for a, key in keyed for b, other in keyed if b < limit and key == other]
        joined = self.meadow.sql(join)
        assert sorted(zip(joined["a"].to_pylist(), joined["b"].to_pylist())) == sorted(pairs), join

    def check_changes(self) -> None:
        """What versions changed is what lies between them."""
        there = [version for version in sorted(self.versions) if self.is_there(version)]
        for since, until in combinations(there, 2):
            between = [self.versions.get(version) for version in range(since, until + 1)]
            commits = [self.path / f"_delta_log/{version:020}.json" for version in range(since + 1, until + 1)]
            plainly = all(state and state.names == between[0].names for state in between) and between[0]
            if not plainly or not all(commit.exists() for commit in commits) or self.random.random() < 0.9:
                continue
            names = plainly.names
            changes = self.frame.changes(since, until).to_arrow()
            kinds = [1 if kind == "insert" else -1 for kind in changes["_change_type"].to_pylist()]
            # A zero that only changed its sign is none of the changes.
            found = Counter(map(without_signs, self.versions[since].listed()))
            for kind, row in zip(kinds, zip(*(plain_column(changes[name]) for name in names))):
                found[without_signs(row)] += kind
            found.subtract(map(without_signs, self.versions[until].listed()))
            wrong = {row: number for row, number in found.items() if number}
            assert not wrong, f"changes since {since} until {until}: {wrong}"

    def play(self) -> None:
        try:
            for _ in range(OPERATIONS):
                self.step()
            for column in self.state.columns:
                self.check_column(column)
            for version, state in self.versions.items():
                if not self.is_there(version):
                    # delta-rs also cleans up after its checkpoints.
                    continue
                theirs = DeltaTable(str(self.path), version=version).to_pyarrow_table()
                same(self.frame.read(version=version), state.names, state.listed(), f"apiary, version {version}")
                same(theirs, state.names, state.listed(), f"deltalake, version {version}")
            self.check_changes()
            assert self.frame.describe().rows == len(self.state.rows)
            # What a version had that is not in the log any more belongs to nobody.
            assert not [finding for finding in self.frame.verify() if finding.problem != "orphaned"]
        except Exception as error:
            error.add_note(f"seed {self.seed}, partitioned by {[c.name for c in self.partitions]}, {self.path}")
            error.add_note("\n".join(self.done))
            raise


def every_reader_finds(
    meadow: Meadow, frame: Frame, path: Path, names: list[str], expected: list[tuple[Any, ...]]
) -> None:
    """Asserts that all read these rows."""
    columns = ", ".join(f'"{name}"' for name in names)
    same(frame.read(), names, expected, "apiary, read")
    same(meadow.sql(f"SELECT {columns} FROM {frame.name}"), names, expected, "apiary, SQL")
    same(DeltaTable(str(path)).to_pyarrow_table(), names, expected, "deltalake, pyarrow")
    same(by_deltalake(path, f"SELECT {columns} FROM t"), names, expected, "deltalake, SQL")
    if not {"pt", "pn"} & set(names):
        # Polars cannot parse moments of partitions that have microseconds.
        same(pl.scan_delta(str(path)).collect().to_arrow(), names, expected, "polars")


def same(found: Any, names: list[str], expected: list[tuple[Any, ...]], who: str) -> None:
    """Asserts that the rows are the expected ones, and says in which column they are not."""
    rows = listed(found, names)
    assert [row[0] for row in rows] == [row[0] for row in expected], f"{who}: other rows"
    for at, name in enumerate(names):
        assert [row[at] for row in rows] == [row[at] for row in expected], f"{who}: {name}"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
def test_whoever_changes_a_table_all_read_the_same(meadow: Meadow, seed: int) -> None:
    Round(meadow, seed).play()


# --- two at once ---------------------------------------------------------------------------------------------------


def at_once(meadow: Meadow, what: str, partitions: list[str], theirs: str, ours: str) -> tuple[Frame, Path]:
    """A new frame after two programs, one of delta-rs and one of ours, worked on it at once."""
    columns = pa.schema([("id", pa.int64()), ("p", pa.string())])
    frame = meadow.apiary.create_frame(f"lab.both.{what}{len(partitions)}", columns, partitions)
    path = Path(folder(meadow.root, frame.name))
    processes = [script(theirs, path), script(ours, meadow.root, frame.name)]
    start_together(processes)
    for process in processes:
        output(process)
    return frame, path


THEIRS_APPENDS = """
    import sys
    import pyarrow as pa
    from deltalake import write_deltalake
    print("ready", flush=True)
    sys.stdin.readline()
    for at in range(20):
        table = pa.table({"id": pa.array([100 + at], pa.int64()), "p": [f"p{at % 3}"]})
        write_deltalake(sys.argv[1], table, mode="append")
"""
OUR_APPENDS = """
    import sys
    from apiary import Apiary
    with Apiary("second", storage=sys.argv[1], bees=1, memory="64MB", housekeeping=False) as apiary:
        frame = apiary.frame(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for at in range(20):
            frame.write({"id": [at], "p": [f"p{at % 3}"]})
"""


@pytest.mark.parametrize("partitions", [[], ["p"]], ids=["plain", "partitioned"])
def test_appends_of_both_at_once_all_land_once(meadow: Meadow, partitions: list[str]) -> None:
    frame, path = at_once(meadow, "appends", partitions, THEIRS_APPENDS, OUR_APPENDS)
    ids = [*range(20), *range(100, 120)]
    every_reader_finds(meadow, frame, path, ["id", "p"], [(at, f"p{at % 100 % 3}") for at in ids])
    assert frame.describe().version == 40


# No OPTIMIZE of delta-rs: it lands beside one that has replaced the same files, and all rows are there twice.
THEIR_CHANGES = """
    import sys
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake
    from deltalake.exceptions import CommitFailedError

    def until_done(work):
        while True:
            try:
                return work()
            except CommitFailedError:
                pass

    path = sys.argv[1]
    print("ready", flush=True)
    sys.stdin.readline()
    for at in range(100, 112):
        table = pa.table({"id": pa.array([at], pa.int64()), "p": [f"p{at % 3}"]})
        until_done(lambda: write_deltalake(path, table, mode="append"))
        if at % 2:
            until_done(lambda: DeltaTable(path).delete(f"id = {at - 1}"))
"""
OUR_CHANGES = """
    import sys
    from apiary import Apiary, ConflictError

    with Apiary("second", storage=sys.argv[1], bees=1, memory="64MB", housekeeping=False) as apiary:
        frame = apiary.frame(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for at in range(12):
            frame.write({"id": [at], "p": [f"p{at % 3}"]})
            if at % 2:
                frame.delete(f"id = {at - 1}")
            if at % 4 == 0:
                frame.optimize()
            if at % 4 == 1:
                frame.update({"id": "id + 1000"}, f"id = {at}")
"""


@pytest.mark.parametrize("partitions", [[], ["p"]], ids=["plain", "partitioned"])
def test_changes_of_both_at_once_lose_nothing(meadow: Meadow, partitions: list[str]) -> None:
    frame, path = at_once(meadow, "changes", partitions, THEIR_CHANGES, OUR_CHANGES)
    ours = [(at + 1000 if at % 4 == 1 else at, f"p{at % 3}") for at in range(1, 12, 2)]
    theirs = [(at, f"p{at % 3}") for at in range(101, 112, 2)]
    every_reader_finds(meadow, frame, path, ["id", "p"], sorted(ours + theirs))


# --- tables as Spark writes them -----------------------------------------------------------------------------------

PRIMITIVES = {
    pa.int8(): "byte", pa.int16(): "short", pa.int32(): "integer", pa.int64(): "long", pa.string(): "string",
    pa.float32(): "float", pa.float64(): "double", pa.bool_(): "boolean", pa.binary(): "binary", pa.date32(): "date",
    UTC: "timestamp", NTZ: "timestamp_ntz",
}  # fmt: skip


def delta_type(kind: pa.DataType) -> Any:
    """A type as Delta's JSON has it."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [delta_field(field.name, field.type) for field in kind]}
    if pa.types.is_map(kind):
        ends = {"keyType": delta_type(kind.key_type), "valueType": delta_type(kind.item_type)}
        return {"type": "map", **ends, "valueContainsNull": True}
    if pa.types.is_list(kind):
        return {"type": "array", "elementType": delta_type(kind.value_type), "containsNull": True}
    return PRIMITIVES[kind]


def delta_field(name: str, kind: Any, nullable: bool = True, **metadata: Any) -> dict[str, Any]:
    kind = delta_type(kind) if isinstance(kind, pa.DataType) else kind
    return {"name": name, "type": kind, "nullable": nullable, "metadata": metadata}


X = pa.schema([("x", pa.int64())])
FILE_SCHEMA = pa.struct(
    [
        ("path", pa.string()),
        ("partitionValues", pa.map_(pa.string(), pa.string())),
        ("size", pa.int64()),
        ("modificationTime", pa.int64()),
        ("dataChange", pa.bool_()),
        ("stats", pa.string()),
    ]
)
REMOVE_SCHEMA = pa.struct(
    [
        ("path", pa.string()),
        ("deletionTimestamp", pa.int64()),
        ("dataChange", pa.bool_()),
        ("extendedFileMetadata", pa.bool_()),
        ("partitionValues", pa.map_(pa.string(), pa.string())),
        ("size", pa.int64()),
    ]
)
METADATA_SCHEMA = pa.struct(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("format", pa.struct([("provider", pa.string()), ("options", pa.map_(pa.string(), pa.string()))])),
        ("schemaString", pa.string()),
        ("partitionColumns", pa.list_(pa.string())),
        ("configuration", pa.map_(pa.string(), pa.string())),
        ("createdTime", pa.int64()),
    ]
)
PROTOCOL_SCHEMA = pa.struct(
    [
        ("minReaderVersion", pa.int32()),
        ("minWriterVersion", pa.int32()),
        ("readerFeatures", pa.list_(pa.string())),
        ("writerFeatures", pa.list_(pa.string())),
    ]
)
TXN_SCHEMA = pa.struct([("appId", pa.string()), ("version", pa.int64()), ("lastUpdated", pa.int64())])
SIDECAR_SCHEMA = pa.struct([("path", pa.string()), ("sizeInBytes", pa.int64()), ("modificationTime", pa.int64())])
CHECKPOINT_SCHEMA = {
    "txn": TXN_SCHEMA,
    "add": FILE_SCHEMA,
    "remove": REMOVE_SCHEMA,
    "metaData": METADATA_SCHEMA,
    "protocol": PROTOCOL_SCHEMA,
    "sidecar": SIDECAR_SCHEMA,
    "checkpointMetadata": pa.struct([("version", pa.int64())]),
}
CREATED = 1_700_000_000_000


class Forge:
    """A table whose log and files are written by hand."""

    def __init__(self, meadow: Meadow) -> None:
        self.meadow = meadow
        self.frame, self.path = meadow.frame()
        self.log = self.path / "_delta_log"
        self.log.mkdir(parents=True)
        self.version = -1
        self.protocol: dict[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 2}
        self.metadata: dict[str, Any] = {}

    def create(
        self,
        fields: list[dict[str, Any]] | None = None,
        *,
        partitions: list[str] | None = None,
        settings: dict[str, str] | None = None,
        reader: list[str] | None = None,
        writer: list[str] | None = None,
        protocol: tuple[int, int] | None = None,
        more: list[dict[str, Any]] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        """Version 0: ``reader`` features are those of writers, too."""
        if reader is not None or writer is not None:
            readers = {"readerFeatures": reader} if reader else {}
            versions = {"minReaderVersion": 3 if reader else 1, "minWriterVersion": 7}
            self.protocol = {**versions, **readers, "writerFeatures": [*(reader or []), *(writer or [])]}
        if protocol is not None:
            self.protocol = {"minReaderVersion": protocol[0], "minWriterVersion": protocol[1]}
            if protocol[0] == 3:
                self.protocol["readerFeatures"] = []
            if protocol[1] == 7:
                self.protocol["writerFeatures"] = []
        fields = fields or [delta_field("x", pa.int64())]
        self.metadata = {
            "id": str(uuid.UUID(int=1)),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "partitionColumns": partitions or [],
            "configuration": settings or {},
            "createdTime": CREATED,
        }
        self.commit(
            {"protocol": self.protocol},
            {"metaData": self.metadata},
            *(more or []),
            operation="CREATE TABLE",
            **(info or {}),
        )

    def create_with(self, feature: Feature, settings: dict[str, str], info: dict[str, Any]) -> None:
        """Version 0 of a table with a feature."""
        lists = (
            {"reader": list(feature.reader), "writer": list(feature.writer)} if feature.reader or feature.writer else {}
        )
        fields = [delta_field("x", pa.int64(), **dict(feature.field))]
        self.create(fields, settings=settings, protocol=feature.protocol, more=list(feature.more), info=info, **lists)

    def books_are_kept(self, feature: Feature, may_repeat: bool = False) -> None:
        """Asserts that every commit has what the table's features ask for."""
        logs = [path.read_text().splitlines() for path in sorted(self.log.glob("*.json"))]
        commits = [[json.loads(line) for line in lines] for lines in logs]
        if "inCommitTimestamp" in feature.writer:
            clocks = [lines[0]["commitInfo"]["inCommitTimestamp"] for lines in commits]
            assert clocks == sorted(set(clocks))
        if "rowTracking" in feature.writer:
            adds = [line["add"] for lines in commits for line in lines if "add" in line]
            starts = [add["baseRowId"] for add in adds]
            assert may_repeat or len(set(starts)) == len(starts)
            assert all(add["defaultRowCommitVersion"] >= 1 for add in adds)
        for lines in commits[2:]:
            assert "domainMetadata" not in str(lines) or "rowTracking" in str(lines)

    def commit(self, *actions: dict[str, Any], operation: str = "WRITE", **info: Any) -> None:
        self.version += 1
        self.entry(f"{self.version:020}.json", *actions, operation=operation, **info)

    def entry(self, name: str, *actions: dict[str, Any], operation: str = "WRITE", **info: Any) -> None:
        facts = {"timestamp": CREATED + self.version, "operation": operation, "operationParameters": {}, **info}
        lines = [{"commitInfo": {**facts, "engineInfo": "Apache-Spark/4.0.0 Delta-Lake/4.0.0"}}, *actions]
        (self.log / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def file(self, table: pa.Table, name: str | None = None, **options: Any) -> str:
        """Writes a data file; its name."""
        name = name or f"part-00000-{uuid.uuid4()}-c000.snappy.parquet"
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place, **options)
        return name

    def add(self, name: str, *, stats: Any = None, path: str | None = None, **more: Any) -> dict[str, Any]:
        """The action for a file; ``path`` is what the log calls it."""
        size = (self.path / name).stat().st_size
        add = {"path": path or name, "partitionValues": {}, "size": size, "modificationTime": CREATED}
        add |= {"dataChange": True, **more}
        if stats is not None:
            add["stats"] = stats if isinstance(stats, str) else json.dumps(stats)
        return {"add": add}

    def xs(self, *values: Any, stats: bool = True, **more: Any) -> dict[str, Any]:
        """A file of a column ``x`` and its action."""
        name = self.file(pa.table({"x": pa.array(values, pa.int64())}))
        there = [value for value in values if value is not None]
        facts = {"numRecords": len(values), "nullCount": {"x": len(values) - len(there)}}
        if there:
            facts |= {"minValues": {"x": min(there)}, "maxValues": {"x": max(there)}}
        return self.add(name, stats=facts if stats else None, **more)

    def vector(self, rows: list[int], storage: str = "u", prefix: str = "") -> dict[str, Any]:
        """A deletion vector: within the log (``i``), by an identifier (``u``) or by its address (``p``)."""
        bitmap = roaring(rows)
        size = len(bitmap)
        if storage == "i":
            return {"storageType": "i", "pathOrInlineDv": z85(bitmap + bytes(-size % 4)), "sizeInBytes": size,
                    "cardinality": len(rows)}  # fmt: skip
        identifier = uuid.uuid4()
        place = self.path / prefix / f"deletion_vector_{identifier}.bin"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"\1" + struct.pack(">i", size) + bitmap + struct.pack(">I", zlib.crc32(bitmap)))
        named = prefix + z85(identifier.bytes) if storage == "u" else place.as_uri()
        facts = {"offset": 1, "sizeInBytes": size, "cardinality": len(rows)}
        return {"storageType": storage, "pathOrInlineDv": named, **facts}

    def checkpoint_row(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        def converted(field: pa.Field, value: Any) -> Any:
            if value is not None and pa.types.is_map(field.type):
                return list(value.items())
            if value is not None and pa.types.is_struct(field.type):
                return {part.name: converted(part, value.get(part.name)) for part in field.type}
            return value

        return {kind: converted(pa.field(kind, CHECKPOINT_SCHEMA[kind]), body)}

    def checkpoint_file(
        self, name: str, actions: list[dict[str, Any]], more: dict[str, pa.DataType] | None = None
    ) -> int:
        """Writes actions into a Parquet file of the log; its size."""
        kinds = {**CHECKPOINT_SCHEMA, **(more or {})}
        rows = [self.checkpoint_row(*next(iter(action.items()))) if not more else action for action in actions]
        place = self.log / name
        place.parent.mkdir(exist_ok=True)
        pq.write_table(
            pa.table({kind: pa.array([row.get(kind) for row in rows], kinds[kind]) for kind in kinds}), place
        )
        return place.stat().st_size

    def hint(self, **facts: Any) -> None:
        (self.log / "_last_checkpoint").write_text(json.dumps({"version": self.version, "size": 3, **facts}))

    def forget(self, until: int | None = None) -> None:
        """Removes the log's entries up to the newest, as a clean-up does."""
        for version in range((self.version if until is None else until) + 1):
            (self.log / f"{version:020}.json").unlink()

    # What is read.

    def rows(self) -> list[tuple[Any, ...]]:
        return listed(self.frame.read(), self.frame.schema.names)

    def reads(self, *expected: Any, column: str = "x", deltalake: bool = True, polars: bool = True) -> None:
        """Asserts that all who can find these values of a column, in order; and what else is asked of them."""
        wanted = sorted(expected, key=lambda value: (value is not None, value))
        assert [row[0] for row in listed(self.frame.read([column]), [column])] == wanted
        name, there = self.frame.name, [value for value in wanted if value is not None]
        query = f'SELECT count(*) AS n, count("{column}") AS c, min("{column}") AS a FROM {name}'
        facts = (len(wanted), len(there), min(there, default=None))
        assert tuple(self.meadow.sql(query).to_pylist()[0].values()) == facts
        for value in set(there):
            found = self.meadow.sql(f'SELECT "{column}" FROM {name} WHERE "{column}" = {sql_literal(value)}')
            assert found.num_rows == wanted.count(value), value
        if deltalake:
            found = DeltaTable(str(self.path)).to_pyarrow_table() if deltalake != "sql" else None
            found = found if found is not None else by_deltalake(self.path, "SELECT * FROM t")
            assert [row[0] for row in listed(found, [column])] == wanted, "deltalake"
        if polars:
            found = pl.scan_delta(str(self.path)).select(column).collect().to_arrow()
            assert [row[0] for row in listed(found, [column])] == wanted, "polars"

    def refuses(self, pattern: str, work: Callable[[], Any]) -> None:
        """Asserts that something is refused in these words, and that nothing has happened."""
        before = sorted(path.name for path in self.log.iterdir())
        with pytest.raises(UnsupportedError, match=pattern):
            work()
        assert sorted(path.name for path in self.log.iterdir()) == before

    def writes(self) -> dict[str, Callable[[], Any]]:
        """Every change, of a table whose only column is ``x``."""
        frame = self.frame
        return {
            "append": lambda: frame.write({"x": [50]}),
            "overwrite": lambda: frame.overwrite({"x": [50]}),
            "delete": lambda: frame.delete("x = 1"),
            "update": lambda: frame.update({"x": "50"}, "x = 1"),
            "merge": lambda: frame.merge({"x": [1]}, "target.x = source.x").when_matched_delete().execute(),
            "optimize": lambda: frame.optimize("x"),
            "restore": lambda: frame.restore(0),
            "add column": lambda: frame.add_column("y", "INT"),
        }


def sql_literal(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85(data: bytes) -> str:
    words = struct.unpack(f">{len(data) // 4}I", data)
    return "".join(Z85[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))


def roaring(rows: list[int]) -> bytes:
    """Row numbers as Delta has them: a 64 bit Roaring bitmap of containers that are lists."""
    keys = sorted({row >> 32 for row in rows})
    found = struct.pack("<IQ", 1_681_511_377, len(keys))
    for key in keys:
        low = sorted(row & 0xFFFFFFFF for row in rows if row >> 32 == key)
        parts = {
            high: [row & 0xFFFF for row in low if row >> 16 == high] for high in sorted({row >> 16 for row in low})
        }
        found += struct.pack("<III", key, 12_346, len(parts))
        found += b"".join(struct.pack("<HH", high, len(part) - 1) for high, part in parts.items())
        at = 8 + 8 * len(parts)
        for part in parts.values():
            found += struct.pack("<I", at)
            at += 2 * len(part)
        found += b"".join(struct.pack(f"<{len(part)}H", *part) for part in parts.values())
    return found


@pytest.fixture
def forge(meadow: Meadow) -> Forge:
    return Forge(meadow)


@contextmanager
def or_refused(pattern: str) -> Iterator[None]:
    """What is done may as well be refused in these words."""
    try:
        yield
    except ApiaryError as error:
        if not re.search(pattern, str(error)):
            raise


# Checkpoints.


def with_history(forge: Forge, **features: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Versions 0 to 4 with rows 1 to 6, of which 3 and 4 went; the actions that are left, and those of files."""
    forge.create(**features)
    adds = [forge.xs(1, 2), forge.xs(3, 4), forge.xs(5, 6)]
    for add in adds:
        forge.commit(add)
    gone = adds[1]["add"]
    remove = {"path": gone["path"], "deletionTimestamp": CREATED, "dataChange": True, "extendedFileMetadata": True,
              "partitionValues": {}, "size": gone["size"]}  # fmt: skip
    forge.commit({"remove": remove}, operation="DELETE")
    kept = [{"protocol": forge.protocol}, {"metaData": forge.metadata}]
    return kept, [adds[0], adds[2], {"remove": remove}]


def goes_on(forge: Forge, *, deltalake: bool = True, polars: bool = True) -> None:
    """Reads, changes by both, with checkpoints of our own."""
    readers = {"deltalake": deltalake, "polars": polars}
    forge.reads(1, 2, 5, 6, **readers)
    forge.frame.write({"x": [7, 8]})
    forge.reads(1, 2, 5, 6, 7, 8, **readers)
    forge.frame.delete("x IN (2, 7)")
    forge.reads(1, 5, 6, 8, **readers)
    for value in range(10, 21):
        forge.frame.write({"x": [value]})
    forge.reads(1, 5, 6, 8, *range(10, 21), **readers)
    forge.frame.optimize()
    forge.reads(1, 5, 6, 8, *range(10, 21), **readers)
    assert forge.frame.verify() == []


def test_checkpoints_in_parts_are_read(forge: Forge) -> None:
    kept, files = with_history(forge)
    for part, actions in enumerate(([*kept, files[0]], files[1:]), start=1):
        forge.checkpoint_file(f"{forge.version:020}.checkpoint.{part:010}.{2:010}.parquet", actions)
    forge.hint(parts=2)
    forge.forget(forge.version - 1)
    goes_on(forge)


def test_a_checkpoint_that_lacks_a_part_is_left_alone(forge: Forge) -> None:
    kept, files = with_history(forge)
    forge.checkpoint_file(f"{forge.version:020}.checkpoint.{1:010}.{2:010}.parquet", [*kept, files[0]])
    goes_on(forge)


def test_a_file_that_is_added_again_is_one_file(forge: Forge) -> None:
    forge.create()
    added = forge.xs(1, 2)
    forge.commit(added)
    forge.commit({"add": {**added["add"], "stats": None, "dataChange": False}}, operation="COMPUTE STATS")
    forge.reads(1, 2)
    assert forge.frame.changes(since=1).fetchall() == []
    forge.frame.delete("x = 1")
    forge.reads(2)


def test_the_log_knows_better_than_the_file_what_the_partition_is(forge: Forge) -> None:
    forge.create([delta_field("x", pa.int64()), delta_field("p", pa.string())], partitions=["p"])
    file = forge.file(pa.table({"x": pa.array([1], pa.int64()), "p": ["other"]}))
    forge.commit(forge.add(file, partitionValues={"p": "log"}))
    assert listed(forge.frame.read(), ["x", "p"]) == [(1, "log")]
    assert forge.meadow.sql(f"SELECT x FROM {forge.frame.name} WHERE p = 'other'").num_rows == 0


V2 = [
    ("json", 0, True),
    ("json", 1, False),
    ("json", 2, True),
    ("parquet", 0, False),
    ("parquet", 1, True),
    ("parquet", 2, False),
]


@pytest.mark.parametrize(("form", "sidecars", "hinted"), V2)
def test_checkpoints_of_version_2_are_read(forge: Forge, form: str, sidecars: int, hinted: bool) -> None:
    kept, files = with_history(forge, reader=["v2Checkpoint"], settings={"delta.checkpointPolicy": "v2"})
    actions = [{"checkpointMetadata": {"version": forge.version}}, *kept]
    for number in range(sidecars):
        name = f"{uuid.uuid4()}.parquet"
        size = forge.checkpoint_file(f"_sidecars/{name}", files[number::sidecars])
        actions.append({"sidecar": {"path": name, "sizeInBytes": size, "modificationTime": CREATED}})
    actions += files if not sidecars else []
    name = f"{forge.version:020}.checkpoint.{uuid.uuid4()}.{form}"
    if form == "json":
        (forge.log / name).write_text("".join(json.dumps(action) + "\n" for action in actions))
    else:
        forge.checkpoint_file(name, actions)
    if hinted:
        forge.hint(
            v2Checkpoint={"path": name, "sizeInBytes": (forge.log / name).stat().st_size, "modificationTime": CREATED}
        )
    forge.forget(forge.version - 1)
    goes_on(forge, deltalake=False, polars=False)


@pytest.mark.parametrize("sidecars", [False, True])
def test_checkpoints_of_version_2_with_a_plain_name_are_read(forge: Forge, sidecars: bool) -> None:
    kept, files = with_history(forge, reader=["v2Checkpoint"])
    actions = [{"checkpointMetadata": {"version": forge.version}}, *kept]
    if sidecars:
        size = forge.checkpoint_file("_sidecars/all.parquet", files)
        actions.append({"sidecar": {"path": "all.parquet", "sizeInBytes": size, "modificationTime": CREATED}})
    forge.checkpoint_file(f"{forge.version:020}.checkpoint.parquet", actions + ([] if sidecars else files))
    forge.forget(forge.version - 1)
    goes_on(forge, deltalake=False, polars=False)


@pytest.mark.parametrize("struct_stats", [False, True])
def test_checkpoints_without_statistics_as_text_are_read(forge: Forge, struct_stats: bool) -> None:
    kept, files = with_history(forge, settings={"delta.checkpoint.writeStatsAsJson": "false"})
    bounds = pa.struct([("x", pa.int64())])
    stats = pa.struct([("numRecords", pa.int64()), ("minValues", bounds), ("maxValues", bounds), ("nullCount", bounds)])
    schema = [field for field in FILE_SCHEMA if field.name != "stats"]
    add_schema = pa.struct([*schema, pa.field("stats_parsed", stats)] if struct_stats else schema)
    rows = [forge.checkpoint_row(*next(iter(action.items()))) for action in [*kept, *files]]
    for row in rows:
        if "add" in row:
            parsed = json.loads(row["add"].pop("stats"))
            if struct_stats:
                row["add"]["stats_parsed"] = parsed
    forge.checkpoint_file(f"{forge.version:020}.checkpoint.parquet", rows, {"add": add_schema})
    forge.hint()
    forge.forget(forge.version - 1)
    goes_on(forge)
    # What is copied from the checkpoint keeps what it says.
    assert forge.meadow.sql(f"SELECT x FROM {forge.frame.name} WHERE x > 1000").num_rows == 0


@pytest.mark.parametrize("bounds", [(0, 3), (1, 4), (3, 4)])
def test_compacted_logs_are_read(forge: Forge, bounds: tuple[int, int]) -> None:
    kept, files = with_history(forge)
    of_version = {0: kept, 1: [files[0]], 2: [], 3: [files[1]], 4: [files[2]]}
    actions = [action for version in range(bounds[0], bounds[1] + 1) for action in of_version[version]]
    if bounds[1] < 4:
        second = json.loads((forge.log / f"{2:020}.json").read_text().splitlines()[1])
        actions += [second] if bounds[0] <= 2 else []
    lines = "".join(json.dumps(action) + "\n" for action in actions)
    (forge.log / f"{bounds[0]:020}.{bounds[1]:020}.compacted.json").write_text(lines)
    goes_on(forge)
    assert sorted(forge.frame.read(version=2).to_arrow()["x"].to_pylist()) == [1, 2, 3, 4]
    assert sorted(forge.frame.read(version=3).to_arrow()["x"].to_pylist()) == [1, 2, 3, 4, 5, 6]


# Statistics.

STATS: dict[str, Any] = {
    "none": None,
    "empty text": "",
    "nothing": {},
    "rows only": {"numRecords": 3},
    "least only": {"numRecords": 3, "minValues": {"x": 1}},
    "no nulls": {"numRecords": 3, "minValues": {"x": 1}, "maxValues": {"x": 2}},
    "no rows": {"minValues": {"x": 1}, "maxValues": {"x": 2}, "nullCount": {"x": 1}},
    "null bounds": {"numRecords": 3, "minValues": {"x": None}, "maxValues": {"x": None}, "nullCount": {"x": None}},
    "null structs": {"numRecords": 3, "minValues": None, "maxValues": None, "nullCount": None},
    "another column": {"numRecords": 3, "minValues": {"y": 1}, "maxValues": {"y": 1}, "nullCount": {"y": 0}},
    "loose bounds": {"numRecords": 3, "tightBounds": False, "minValues": {"x": -9}, "maxValues": {"x": 99},
                     "nullCount": {"x": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", [case(f"statistics: {name}", name) for name in STATS])
def test_statistics_of_every_kind_do_no_harm(forge: Forge, name: str) -> None:
    forge.create()
    file = forge.file(pa.table({"x": pa.array([1, None, 2], pa.int64())}))
    forge.commit(forge.add(file, stats=STATS[name]), forge.xs(5, 6))
    forge.reads(1, None, 2, 5, 6)
    forge.frame.delete("x = 5")
    forge.reads(1, None, 2, 6)
    forge.frame.optimize()
    forge.reads(1, None, 2, 6)


CUT = {
    "long text": ("string", pa.string(), ["a" * 40, "z" * 31 + "🐝🐝"], "a" * 32, "z" * 31 + "🐝\U0010ffff"),
    "moments in milliseconds": ("timestamp", UTC, [1_700_000_000_123_456, 1_700_000_000_123_999],
                                "2023-11-14T22:13:20.123Z", "2023-11-14T22:13:20.123Z"),
    "moments with a zone": ("timestamp", UTC, [1_700_000_000_123_456, 1_700_000_000_123_999],
                            "2023-11-14T14:13:20.123-08:00", "2023-11-14T14:13:20.124-08:00"),
    "moments without a zone": ("timestamp_ntz", NTZ, [1_700_000_000_123_456, 1_700_000_000_123_999],
                               "2023-11-14T22:13:20.123", "2023-11-14T22:13:20.123"),
    "days": ("date", pa.date32(), [-719_162, 2_932_896], "0001-01-01", "9999-12-31"),
    "bytes as numbers": ("byte", pa.int8(), [-128, 127], -128, 127),
    "decimals": ("decimal(20,2)", pa.decimal128(20, 2), [Decimal("-1.50"), Decimal("3.25")], -1.5, 3.25),
    "NaN as text": ("double", pa.float64(), [1.0, math.nan], 1.0, "NaN"),
    "infinity as text": ("double", pa.float64(), [-math.inf, math.inf], "-Infinity", "Infinity"),
    "NaN left out": ("double", pa.float64(), [1.0, math.nan], 1.0, 1.0),
    "zeros of one sign": ("double", pa.float64(), [-0.0, 0.0], 0.0, 0.0),
    "booleans": ("boolean", pa.bool_(), [False, True], False, True),
}  # fmt: skip


@pytest.mark.parametrize("name", [case(f"bounds: {name}", name) for name in CUT])
def test_bounds_as_spark_writes_them_lose_nothing(forge: Forge, name: str) -> None:
    spark, kind, values, least, greatest = CUT[name]
    ntz = ["timestampNtz"] if spark == "timestamp_ntz" else []
    forge.create([delta_field("c", spark)], reader=ntz or None)
    file = forge.file(pa.table({"c": array(kind, values)}))
    stats = {"numRecords": 2, "minValues": {"c": least}, "maxValues": {"c": greatest}, "nullCount": {"c": 0}}
    forge.commit(forge.add(file, stats=stats))
    found = plain_column(forge.frame.read().to_arrow()["c"])
    assert found == [plain(value) for value in values]
    frame, column = forge.frame.name, Column("c", kind, "", lambda _: values[0], LITERALS[name])
    for seed in range(40):
        sql, holds = comparison(column, Random(seed), values)
        if "IN (" in sql and 0.0 in values:
            continue
        wanted = sum(holds({"c": value}) for value in values)
        assert forge.meadow.sql(f"SELECT c FROM {frame} WHERE {sql}").num_rows == wanted, sql
    for which in ("min", "max"):
        bound = forge.meadow.sql(f"SELECT {which}(c) AS c FROM {frame}")["c"]
        wanted = min(values, key=order) if which == "min" else max(values, key=order)
        assert bound.to_pylist() in ([0.0], [-0.0]) if wanted == 0.0 else plain_column(bound) == [plain(wanted)]


LITERALS: dict[str, Callable[[Any], str]] = {
    "long text": quoted,
    "moments in milliseconds": instant_literal,
    "moments with a zone": instant_literal,
    "moments without a zone": moment_literal,
    "days": day_literal,
    "bytes as numbers": str,
    "decimals": lambda value: f"CAST('{value:f}' AS DECIMAL(20, 2))",
    **dict.fromkeys(["NaN as text", "infinity as text", "NaN left out", "zeros of one sign"], float_literal),
    "booleans": str,
}


@pytest.mark.parametrize("many", [["999999999999.999999", "1"], ["1234567890123456.78", "1234567890123456.79"]])
@pytest.mark.parametrize("name", [case("bounds of decimals", "decimals")])
def test_decimals_of_deltalake_are_what_they_are(meadow: Meadow, name: str, many: list[str]) -> None:
    values = [Decimal(text) for text in many]
    frame = meadow.apiary.create_frame(f"lab.both.d{next(meadow.numbers)}", pa.schema([("m", pa.decimal128(38, 6))]))
    for value in values:
        write_deltalake(
            folder(meadow.root, frame.name), pa.table({"m": pa.array([value], pa.decimal128(38, 6))}), mode="append"
        )
    assert sorted(frame.read().to_arrow()["m"].to_pylist()) == sorted(
        value.quantize(Decimal("1e-6")) for value in values
    )
    for text in many:
        query = f"SELECT m FROM {frame.name} WHERE m = CAST('{text}' AS DECIMAL(38, 6))"
        assert meadow.sql(query).num_rows == 1, text


@pytest.mark.parametrize("name", [case("nulls in partitions", "p")])
def test_partitions_without_a_value_are_not_counted(meadow: Meadow, name: str) -> None:
    schema = pa.schema([("id", pa.int64()), (name, pa.string())])
    frame = meadow.apiary.create_frame("lab.both.nulls", schema, name)
    write_deltalake(folder(meadow.root, frame.name), pa.table({"id": [1, 2], name: ["a", None]}, schema), mode="append")
    assert meadow.sql(f"SELECT count(*) AS a, count({name}) AS b FROM {frame.name}").to_pylist() == [{"a": 2, "b": 1}]


@pytest.mark.parametrize("name", [case("changes in partitions without a value", "p")])
def test_rows_of_a_partition_without_a_value_are_changed(meadow: Meadow, name: str) -> None:
    schema = pa.schema([("id", pa.int64()), (name, pa.string())])
    frame = meadow.apiary.create_frame("lab.both.nulls2", schema, name)
    write_deltalake(
        folder(meadow.root, frame.name), pa.table({"id": [1, 2, 3], name: ["a", None, None]}, schema), mode="append"
    )
    frame.delete("id = 2")
    assert listed(frame.read(), ["id"]) == [(1,), (3,)]


@pytest.mark.parametrize("columns", ["min(x)", "max(x)", case("least and greatest at once", "min(x), max(x)")])
def test_least_and_greatest_are_found_beside_cells_of_nulls(meadow: Meadow, columns: str) -> None:
    cells: list[tuple[list[int | None], int]] = [([None], 500), ([4], 1), ([None], 500), ([2, 4], 1)]
    schema = pa.schema([("x", pa.int32()), ("s", pa.string())])
    wanted = [{"min(x)": 2, "max(x)": 4}[column] for column in columns.split(", ")]
    for turn in permutations(cells):
        frame = meadow.apiary.create_frame(f"lab.both.m{next(meadow.numbers)}", schema)
        for values, length in turn:
            frame.write(pa.table({"x": values, "s": ["a" * length] * len(values)}, schema))
        for _ in range(10):
            assert list(meadow.apiary.sql(f"SELECT {columns} FROM {frame.name}").fetchone()) == wanted


@pytest.mark.parametrize("words", ["x = 0.0", case("zeros in lists", "x IN (0.0, 5, 6, 7, 8)")])
def test_a_list_with_zero_finds_zeros_of_both_signs(meadow: Meadow, words: str) -> None:
    frame = meadow.apiary.create_frame(f"lab.both.z{next(meadow.numbers)}", pa.schema([("x", pa.float64())]))
    frame.write({"x": [0.0, -0.0, 1.0]})
    assert meadow.sql(f"SELECT x FROM {frame.name} WHERE {words}").num_rows == 2


@pytest.mark.parametrize("bloom", [False, case("zeros and Bloom filters", True)])
def test_zeros_are_found_where_there_are_bloom_filters(meadow: Meadow, bloom: bool) -> None:
    frame = meadow.apiary.create_frame(f"lab.both.z{next(meadow.numbers)}", pa.schema([("x", pa.float64())]))
    column = ColumnProperties(bloom_filter_properties=BloomFilterProperties(set_bloom_filter_enabled=bloom))
    properties = WriterProperties(default_column_properties=column)
    path = folder(meadow.root, frame.name)
    write_deltalake(path, pa.table({"x": [-0.0, -1.0, 1.0]}), mode="append", writer_properties=properties)
    assert meadow.sql(f"SELECT x FROM {frame.name} WHERE x = 0.0").num_rows == 1


# Paths.

NAMES = ["a b.parquet", "ü🐝.parquet", "100%.parquet", "a#b?.parquet", "a+b&c.parquet", "p=x y%2Fz/a.parquet",
         "a:b.parquet",
         "x/../y.parquet", "[1]{2}|^`'\".parquet", "deep/er/a.parquet"]  # fmt: skip


@pytest.mark.parametrize("name", [case(f"path: {name}", name) for name in NAMES])
def test_paths_are_what_the_log_says_percent_encoded(forge: Forge, name: str) -> None:
    forge.create()
    if ".." in name:
        (forge.path / "x").mkdir()
    file = forge.file(pa.table({"x": pa.array([1, 2], pa.int64())}), name)
    path = quote(file, safe="/=:")
    if path.startswith("a:"):
        path = "./" + path
    forge.commit(forge.add(file, path=path))
    forge.reads(1, 2, polars=False, deltalake=False)
    leftovers = forge.frame.vacuum(retain_hours=0, force=True)
    assert not leftovers
    forge.reads(1, 2, polars=False, deltalake=False)
    forge.frame.delete("x = 1")
    forge.reads(2, polars=False, deltalake=False)


def test_absolute_paths_are_read_or_refused_by_name(forge: Forge) -> None:
    forge.create()
    file = forge.file(pa.table({"x": pa.array([1, 2], pa.int64())}))
    forge.commit(forge.add(file, path=(forge.path / file).as_uri()))
    with or_refused(re.escape(file)):
        forge.reads(1, 2, deltalake=False, polars=False)


# Deletion vectors.

MARKED: dict[str, Any] = {
    "named": ("u", ""), "named in a folder": ("u", "ab"), "in the log": ("i", ""), "at an address": ("p", "")
}  # fmt: skip


def marked(forge: Forge, storage: str, prefix: str) -> None:
    forge.create(reader=["deletionVectors"], settings={"delta.enableDeletionVectors": "true"})
    first, other = forge.xs(*range(10)), forge.xs(20, 21)
    forge.commit(first, other)
    vector = forge.vector([1, 3, 9], storage, prefix)
    changed = {"add": {**first["add"], "deletionVector": vector}}
    stats = json.loads(changed["add"]["stats"]) | {"tightBounds": False}
    changed["add"]["stats"] = json.dumps(stats)
    remove = {"path": first["add"]["path"], "deletionTimestamp": CREATED, "dataChange": True}
    forge.commit({"remove": remove}, changed, operation="DELETE")


@pytest.mark.parametrize(("storage", "prefix"), [case(f"deletion vectors: {name}", *MARKED[name]) for name in MARKED])
def test_deletion_vectors_are_read_and_kept_to(forge: Forge, storage: str, prefix: str) -> None:
    marked(forge, storage, prefix)
    left = [0, 2, 4, 5, 6, 7, 8]
    if storage == "p":
        forge.refuses("deletion vector", forge.rows)
        return
    readers = {"deltalake": "sql", "polars": True}
    forge.reads(*left, 20, 21, **readers)
    assert len(forge.frame.read(version=1).fetchall()) == 12
    forge.frame.write({"x": [30]})
    forge.reads(*left, 20, 21, 30, **readers)
    forge.frame.delete("x = 2")
    forge.reads(0, *left[2:], 20, 21, 30, **readers)
    forge.frame.restore(2)
    forge.reads(*left, 20, 21, **readers)
    forge.frame.restore(1)
    forge.reads(*range(10), 20, 21, **readers)
    forge.frame.restore(2)
    forge.frame.optimize()
    forge.reads(*left, 20, 21, **readers)
    for at in range(40, 52):
        forge.frame.write({"x": [at]})
    forge.reads(*left, 20, 21, *range(40, 52), **readers)
    assert forge.frame.verify() == []
    changes = forge.frame.changes(since=1, until=2).to_arrow()
    assert sorted(changes["x"].to_pylist()) == [1, 3, 9]
    assert set(changes["_change_type"].to_pylist()) == {"delete"}


@pytest.mark.parametrize("name", [case("restore without its deletion vector", "u")])
def test_a_version_whose_deletion_vector_is_gone_does_not_come_back(forge: Forge, name: str) -> None:
    marked(forge, name, "")
    forge.frame.overwrite({"x": [77]})
    for vector in forge.path.glob("deletion_vector_*.bin"):
        vector.unlink()
    with pytest.raises(ApiaryError):
        forge.frame.restore(2)
    forge.reads(77, deltalake=False, polars=False)


def test_a_vacuum_leaves_deletion_vectors_that_are_needed(forge: Forge) -> None:
    marked(forge, "u", "")
    forge.frame.vacuum(retain_hours=0, force=True)
    forge.reads(0, 2, 4, 5, 6, 7, 8, 20, 21, deltalake="sql")


# Files as Spark writes them.


def test_old_moments_of_spark_are_read(forge: Forge) -> None:
    values = [FIRST_DAY * DAY, -1, 0, 1_700_000_000_123_456, LAST_DAY * DAY + DAY - 1, None]
    forge.create([delta_field("c", "timestamp")])
    table = pa.table({"c": array(UTC, values)})
    file = forge.file(table, use_deprecated_int96_timestamps=True)
    forge.commit(forge.add(file, stats={"numRecords": 6}))
    assert plain_column(forge.frame.read().to_arrow()["c"]) == values
    for value in values[:-1]:
        query = f"SELECT c FROM {forge.frame.name} WHERE c = {instant_literal(value)}"
        assert plain_column(forge.meadow.sql(query)["c"]) == [value]
    forge.frame.optimize("c")
    assert sorted(map(str, plain_column(forge.frame.read().to_arrow()["c"]))) == sorted(map(str, values))


PRICES = pa.array([Decimal("1.50"), None], pa.decimal128(9, 2))
FORMS: dict[str, tuple[Any, pa.Array, list[Any]]] = {
    "decimals as integers": ("decimal(9,2)", PRICES, [Decimal("1.50"), None]),
    "narrower decimals": ("decimal(20,2)", PRICES, [Decimal("1.50"), None]),
    "binary for text": ("string", pa.array([b"a", b"\xc3\xbc"]), ["a", "ü"]),
    "text for binary": ("binary", pa.array(["a", "ü"]), [b"a", "ü".encode()]),
    "moments in nanoseconds": ("timestamp", pa.array([1_500, None], pa.timestamp("ns", "UTC")), [1, None]),
    "moments in milliseconds": ("timestamp", pa.array([1, None], pa.timestamp("ms", "UTC")), [1000, None]),
    "moments without a zone": ("timestamp", pa.array([1, None], pa.timestamp("us")), [1, None]),
    "a dictionary": ("string", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "large text": ("string", pa.array(["a", None], pa.large_string()), ["a", None]),
    "a list": ({"type": "array", "elementType": "long", "containsNull": True}, pa.array([[1, None], None, []]),
               [(1, None), None, ()]),
    "a map": ({"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True},
              pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [(("a", 1),), None]),
}  # fmt: skip


@pytest.mark.parametrize("name", [case(f"form: {name}", name) for name in FORMS])
@pytest.mark.parametrize("options", [{}, {"store_decimal_as_integer": True}, {"use_compliant_nested_type": False}])
def test_values_are_read_in_every_form_that_writers_have(forge: Forge, name: str, options: dict[str, bool]) -> None:
    kind, values, expected = FORMS[name]
    forge.create([delta_field("c", kind)])
    file = forge.file(pa.table({"c": values}), **options)
    forge.commit(forge.add(file))
    assert plain_column(forge.frame.read().to_arrow()["c"]) == [plain(value) for value in expected]
    assert forge.meadow.sql(f"SELECT count(c) AS n FROM {forge.frame.name}")["n"].to_pylist() == [
        len(expected) - expected.count(None)
    ]
    forge.frame.optimize()
    forge.frame.delete("false")
    assert plain_column(forge.frame.read().to_arrow()["c"]) == [plain(value) for value in expected]


def test_columns_are_found_by_name_wherever_they_are(forge: Forge) -> None:
    forge.create([delta_field(name, pa.int64()) for name in ("x", "y", "z")])
    ints = pa.array([1, 2], pa.int64())
    forge.commit(forge.add(forge.file(pa.table({"z": ints, "more": ["a", "b"], "x": ints}))))
    forge.commit(forge.add(forge.file(pa.table({"y": ints}))))
    forge.commit(forge.add(forge.file(pa.table({"more": ints}))))
    found = sorted(map(str, forge.meadow.sql(f"SELECT x, y, z FROM {forge.frame.name}").to_pylist()))
    rows = [{"x": i, "y": None, "z": i} for i in (1, 2)] + [{"x": None, "y": i, "z": None} for i in (1, 2)]
    assert found == sorted(map(str, [*rows, *[dict.fromkeys("xyz")] * 2]))
    assert forge.meadow.sql(f"SELECT x FROM {forge.frame.name} WHERE y IS NULL AND x IS NULL").num_rows == 2
    assert forge.meadow.sql(f"SELECT count(*) AS n FROM {forge.frame.name} WHERE z = 2")["n"].to_pylist() == [1]


# Columns that files call something else.


def mapped(name: str, kind: Any, number: int, physical: str | None = None) -> dict[str, Any]:
    more = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": physical or f"col-{number}"}
    return delta_field(name, kind, **more)


def in_file(name: str, kind: pa.DataType, number: int) -> pa.Field:
    return pa.field(name, kind, metadata={"PARQUET:field_id": str(number)})


MAPPING = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "9"}
BY_NUMBER = {**MAPPING, "delta.columnMapping.mode": "id"}


@pytest.mark.parametrize("protocol", [None, (2, 5)], ids=["features", "versions"])
def test_columns_by_other_names_are_read_and_written(forge: Forge, protocol: tuple[int, int] | None) -> None:
    fields = [mapped("a b", pa.string(), 1), mapped("x", pa.int64(), 2, "a b"), mapped("p", pa.int32(), 3)]
    features = {"protocol": protocol} if protocol else {"reader": ["columnMapping"]}
    forge.create(fields, settings=MAPPING, partitions=["p"], **features)
    table = pa.table(
        [["u", "v"], [1, 2]], schema=pa.schema([in_file("col-1", pa.string(), 1), in_file("a b", pa.int64(), 2)])
    )
    stats = {"numRecords": 2, "minValues": {"col-1": "u", "a b": 1}, "maxValues": {"col-1": "v", "a b": 2}}
    stats["nullCount"] = {"col-1": 0, "a b": 0}
    forge.commit(forge.add(forge.file(table), stats=stats, partitionValues={"col-3": "7"}))
    readers = {"deltalake": False, "polars": False}
    forge.reads(1, 2, **readers)
    forge.reads("u", "v", column="a b", **readers)
    forge.reads(7, 7, column="p", **readers)
    if protocol:
        # Writers of version 5 keep to everything that came before, which is more than we do.
        forge.refuses(
            "checkConstraints|generatedColumns", lambda: forge.frame.write({"a b": ["w"], "x": [3], "p": [8]})
        )
        return
    forge.frame.write({"a b": ["w"], "x": [3], "p": [8]})
    forge.frame.delete("x = 1")
    forge.reads(2, 3, **readers)
    forge.reads(7, 8, column="p", **readers)
    forge.reads("v", "w", column="a b", **readers)
    last = json.loads((forge.log / f"{2:020}.json").read_text().splitlines()[-1])["add"]
    assert last["partitionValues"] == {"col-3": "8"}
    assert pq.read_schema(forge.path / last["path"]).names == ["col-1", "a b"]


@pytest.mark.parametrize("mode", ["name", "id"])
def test_columns_within_columns_by_other_names_are_read_and_written(forge: Forge, mode: str) -> None:
    inner = {"type": "struct", "fields": [mapped("a", pa.int64(), 2), mapped("b", pa.int64(), 3)]}
    items = {"type": "array", "containsNull": True,
             "elementType": {"type": "struct", "fields": [mapped("d", pa.string(), 5)]}}  # fmt: skip
    values = {"type": "map", "keyType": "string", "valueContainsNull": True,
              "valueType": {"type": "struct", "fields": [mapped("e", pa.int64(), 7)]}}  # fmt: skip
    fields = [mapped("s", inner, 1), mapped("l", items, 4), mapped("m", values, 6), mapped("n", pa.int64(), 8)]
    settings = {**MAPPING, "delta.columnMapping.mode": mode}
    forge.create(fields, settings=settings, reader=["columnMapping"])
    # "a" is what one that is gone was called, and an id tells more than a name.
    name = str if mode == "name" else "x-{}".format
    parts = [in_file("a", pa.int64(), 30), in_file(name("col-3"), pa.int64(), 3), in_file(name("col-2"), pa.int64(), 2)]
    schema = pa.schema([
        in_file("n", pa.int64(), 31),
        in_file(name("col-1"), pa.struct(parts), 1),
        in_file(name("col-4"), pa.list_(pa.struct([in_file(name("col-5"), pa.string(), 5)])), 4),
        in_file(name("col-6"), pa.map_(pa.string(), pa.struct([in_file(name("col-7"), pa.int64(), 7)])), 6),
        in_file(name("col-8"), pa.int64(), 8),
    ])  # fmt: skip
    first, second, third = (part.name for part in parts)
    row = [[7], [{first: 9, second: 2, third: 1}], [[{name("col-5"): "d"}, None]], [[("k", {name("col-7"): 5})]], [1]]
    stats = {"numRecords": 1, "nullCount": {"col-1": {"col-2": 0, "col-3": 0}, "col-8": 0}}
    stats["minValues"] = stats["maxValues"] = {"col-1": {"col-2": 1, "col-3": 2}, "col-8": 1}
    forge.commit(forge.add(forge.file(pa.table(row, schema=schema)), stats=stats))
    there = {"s": {"a": 1, "b": 2}, "l": [{"d": "d"}, None], "m": [("k", {"e": 5})], "n": 1}
    more = {"s": {"a": 3, "b": None}, "l": [], "m": [("k", {"e": 6}), ("j", None)], "n": 2}
    last = {"s": None, "l": None, "m": None, "n": 3}

    def found(condition: str = "true") -> list[Any]:
        return forge.meadow.sql(f"SELECT * FROM {forge.frame.name} WHERE {condition} ORDER BY n").to_pylist()

    assert found() == [there]
    forge.frame.write([more, last])
    assert found() == [there, more, last]
    assert found("s['a'] = 3") == found("m['k']['e'] = 6") == found("n = 2") == [more]
    assert forge.meadow.sql(f"SELECT s['b'] AS b FROM {forge.frame.name} WHERE n = 1").to_pylist() == [{"b": 2}]
    written = json.loads((forge.log / f"{forge.version + 1:020}.json").read_text().splitlines()[-1])["add"]
    file = pq.ParquetFile(forge.path / written["path"]).schema_arrow
    number = b"PARQUET:field_id"
    assert [(field.name, field.metadata[number]) for field in file] == [
        (f"col-{at}", str(at).encode()) for at in (1, 4, 6, 8)
    ]
    inner_fields = [file.field("col-1").type.field(at) for at in (0, 1)]
    inner_fields += [file.field("col-4").type.value_type.field(0), file.field("col-6").type.item_type.field(0)]
    assert [(field.name, field.metadata[number]) for field in inner_fields] == [
        (f"col-{at}", str(at).encode()) for at in (2, 3, 5, 7)
    ]
    assert json.loads(written["stats"])["minValues"]["col-1"] == {"col-2": 3}
    forge.frame.delete("n = 3")
    forge.frame.update({"n": "n + 10"}, "n = 2")
    assert forge.meadow.sql(f"VERIFY {forge.frame.name}").num_rows == 0
    forge.frame.optimize("n")
    assert found() == [there, {**more, "n": 12}]
    assert found("n > 11") == [{**more, "n": 12}]


def test_columns_by_number_are_read_and_written(forge: Forge) -> None:
    fields = [
        mapped("x", pa.int64(), 1),
        mapped("y", pa.int64(), 2),
        mapped("z", pa.int64(), 3),
        mapped("p", pa.int64(), 4),
    ]
    forge.create(fields, settings=BY_NUMBER, reader=["columnMapping"], partitions=["p"])
    schema = pa.schema(
        [in_file("col-1", pa.int64(), 2), in_file("col-2", pa.int64(), 1), in_file("col-3", pa.int64(), 9)]
    )
    stats = {"numRecords": 1, "minValues": {"col-1": 2, "col-2": 1}, "maxValues": {"col-1": 2, "col-2": 1}}
    forge.commit(
        forge.add(forge.file(pa.table([[1], [2], [3]], schema=schema)), stats=stats, partitionValues={"col-4": "7"})
    )
    readers = {"deltalake": False, "polars": False}
    assert forge.frame.read().to_arrow().to_pylist() == [{"x": 2, "y": 1, "z": None, "p": 7}]
    forge.frame.write({"x": [3], "y": [4], "z": [5], "p": [8]})
    forge.reads(2, 3, **readers)
    forge.reads(1, 4, column="y", **readers)
    forge.reads(None, 5, column="z", **readers)
    forge.reads(7, 8, column="p", **readers)
    forge.meadow.sql(f"ALTER FRAME {forge.frame.name} RENAME COLUMN y TO w")
    forge.meadow.sql(f"ALTER FRAME {forge.frame.name} ADD COLUMN v BIGINT")
    forge.frame.update({"v": "w"}, "x = 3")
    forge.frame.optimize("x")
    forge.reads(None, 4, column="v", **readers)
    forge.reads(1, 4, column="w", **readers)
    assert forge.meadow.sql(f"VERIFY {forge.frame.name}").num_rows == 0


def test_a_file_without_numbers_is_refused_where_columns_are_told_apart_by_them(forge: Forge) -> None:
    forge.create([mapped("x", pa.int64(), 1)], settings=BY_NUMBER, reader=["columnMapping"])
    forge.commit(forge.add(forge.file(pa.table({"col-1": [1]}))))
    with pytest.raises(UnsupportedError, match="its columns have no numbers"):
        forge.frame.read().to_arrow()


# Types that were made wider.

WIDER: dict[str, tuple[pa.DataType, pa.DataType, list[Any], list[Any]]] = {
    "byte to short": (pa.int8(), pa.int16(), [-128, None, 127], [-128, None, 127]),
    "byte to int": (pa.int8(), pa.int32(), [-128, 127], [-128, 127]),
    "int to long": (pa.int32(), pa.int64(), [1, None, -(2**31)], [1, None, -(2**31)]),
    "float to double": (pa.float32(), pa.float64(), [0.5, None, math.nan], [0.5, None, math.nan]),
    "int to double": (pa.int32(), pa.float64(), [1, None, 2**31 - 1], [1.0, None, 2.0**31 - 1]),
    "int to decimal": (pa.int32(), pa.decimal128(12, 2), [1, None], [Decimal("1.00"), None]),
    "long to decimal": (pa.int64(), pa.decimal128(20, 0), [1, 2**62], [Decimal(1), Decimal(2**62)]),
    "decimal, digits": (pa.decimal128(5, 2), pa.decimal128(20, 2), [Decimal("1.25")], [Decimal("1.25")]),
    "decimal, scale": (pa.decimal128(5, 2), pa.decimal128(20, 6), [Decimal("1.25")], [Decimal("1.250000")]),
    "date to timestamp_ntz": (pa.date32(), NTZ, [-1, 0, 19_000], [-DAY, 0, 19_000 * DAY]),
}


KINDS = {"wider": False, "wider partition": True}


@pytest.mark.parametrize(
    ("name", "partitioned"), [case(f"{kind}: {name}", name, KINDS[kind]) for kind in KINDS for name in WIDER]
)
def test_values_of_a_narrower_type_are_read_as_the_wider(forge: Forge, name: str, partitioned: bool) -> None:
    narrow, wide, values, expected = WIDER[name]
    change = {"toType": delta_type(wide), "fromType": delta_type(narrow), "tableVersion": 1}
    field = delta_field("c", wide, **{"delta.typeChanges": [change]})
    features = ["typeWidening", *(["timestampNtz"] if wide == NTZ else [])]
    partitions = ["c"] if partitioned else []
    forge.create([delta_field("n", pa.int64()), field], reader=features, partitions=partitions,
                 settings={"delta.enableTypeWidening": "true"})  # fmt: skip
    for at, value in enumerate(values):
        columns = {"n": pa.array([at], pa.int64())} | ({} if partitioned else {"c": array(narrow, [value])})
        text = None if value is None else str(value)
        if pa.types.is_date32(narrow) and value is not None:
            text = (EPOCH + timedelta(days=value)).date().isoformat()
        stats = {"numRecords": 1, "nullCount": {"c": int(value is None)}}
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            bound = float(value) if isinstance(value, Decimal) else text if pa.types.is_date32(narrow) else value
            stats |= {"minValues": {"c": bound}, "maxValues": {"c": bound}}
        given = {"partitionValues": {"c": text}} if partitioned else {"stats": stats}
        forge.commit(forge.add(forge.file(pa.table(columns)), **given))
    wanted = [(at, plain(value)) for at, value in enumerate(expected)]
    assert listed(forge.frame.read(), ["n", "c"]) == wanted
    literal = {NTZ: moment_literal, pa.float64(): float_literal}.get(wide, str)
    column = Column("c", wide, "", lambda _: expected[0], literal)
    for seed in range(12):
        sql, holds = comparison(column, Random(seed), expected)
        found = forge.meadow.sql(f"SELECT n FROM {forge.frame.name} WHERE {sql}")
        assert sorted(found["n"].to_pylist()) == [at for at, value in enumerate(expected) if holds({"c": value})], sql
    forge.frame.write(pa.table({"n": pa.array([9], pa.int64()), "c": array(wide, expected[:1])}))
    forge.frame.delete("n = 9")
    assert forge.meadow.sql(f"VERIFY {forge.frame.name}").num_rows == 0
    forge.frame.optimize("n")
    assert listed(forge.frame.read(), ["n", "c"]) == wanted


# Features.


@dataclass(frozen=True)
class Feature:
    """A feature of tables, and what is to come of changes: the rows, or an error that says ``refuses``."""

    reader: tuple[str, ...] = ()
    writer: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    field: tuple[tuple[str, Any], ...] = ()
    protocol: tuple[int, int] | None = None
    more: tuple[dict[str, Any], ...] = ()
    reads: str = ""
    refuses: tuple[tuple[str, str], ...] = ()
    #: Whether what is refused may as well be done.
    may_work: bool = False

    def of(self, operation: str) -> str | None:
        return {**dict.fromkeys(CHANGES, dict(self.refuses).get("all")), **dict(self.refuses)}.get(operation)


CHANGES: dict[str, list[int]] = {
    "append": [1, 2, 3, 50],
    "overwrite": [50],
    "delete": [2, 3],
    "update": [2, 3, 50],
    "merge": [2, 3],
    "optimize": [1, 2, 3],
    "restore": [],
    "add column": [1, 2, 3],
}
REPLACING = ("overwrite", "delete", "update", "merge", "restore")


def on(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"delta.{name}", "true") for name in names)


def each_of(changes: Iterable[str], text: str) -> tuple[tuple[str, str], ...]:
    return tuple((change, text) for change in changes)


def all_of(text: str) -> tuple[tuple[str, str], ...]:
    return (("all", text),)


ROWS = {"configuration": '{"rowIdHighWaterMark":2}', "domain": "delta.rowTracking", "removed": False}
CLUSTERS = {"configuration": '{"clusteringColumns":[["x"]]}', "domain": "delta.clustering", "removed": False}
INVARIANT = ("delta.invariants", '{"expression":{"expression":"x < 10"}}')
IDENTITY = (("delta.identity.start", 1), ("delta.identity.step", 1), ("delta.identity.allowExplicitInsert", False))
TRACKED = (
    ("delta.rowTracking.materializedRowIdColumnName", "_row_id"),
    ("delta.rowTracking.materializedRowCommitVersionColumnName", "_row_version"),
)
FEATURES: dict[str, Feature] = {
    "append only": Feature(writer=("appendOnly",), settings=on("appendOnly"),
                           refuses=each_of(REPLACING, "delta.appendOnly")),
    "append only, legacy": Feature(settings=on("appendOnly"), refuses=each_of(REPLACING, "delta.appendOnly")),
    "append only, off": Feature(writer=("appendOnly",)),
    "invariants": Feature(writer=("invariants",), field=(INVARIANT,),
                          refuses=all_of("(?i)invariant")),
    "invariants, legacy": Feature(field=(INVARIANT,),
                                  refuses=all_of("(?i)invariant")),
    "invariants, none": Feature(writer=("invariants",)),
    "check constraints": Feature(writer=("checkConstraints",), settings=(("delta.constraints.c", "x < 10"),),
                                 refuses=all_of("(?i)checkConstraints")),
    "check constraints, legacy": Feature(protocol=(1, 3), settings=(("delta.constraints.c", "x < 10"),),
                                         refuses=all_of("(?i)checkConstraints")),
    "generated columns": Feature(writer=("generatedColumns",), field=(("delta.generationExpression", "1 + 1"),),
                                 refuses=all_of("(?i)generatedColumns")),
    "generated columns, legacy": Feature(protocol=(1, 4), field=(("delta.generationExpression", "1 + 1"),),
                                         refuses=all_of("(?i)generatedColumns|checkConstraints|changeDataFeed")),
    "identity columns": Feature(writer=("identityColumns",), refuses=all_of("(?i)identityColumns"),
                                field=IDENTITY),
    "identity columns, legacy": Feature(protocol=(1, 6), field=IDENTITY,
                                        refuses=all_of("(?i)identityColumns|checkConstraints|generatedColumns")),
    "change data feed": Feature(writer=("changeDataFeed",), settings=on("enableChangeDataFeed"),
                                refuses=each_of(("overwrite", "delete", "update", "merge"), "(?i)change ?data ?feed"),
                                may_work=True),
    "change data feed, off": Feature(writer=("changeDataFeed",)),
    "row tracking": Feature(writer=("rowTracking", "domainMetadata"), settings=on("enableRowTracking") + TRACKED,
                            more=({"domainMetadata": ROWS},),
                            refuses=each_of([name for name in CHANGES if name != "append"], "(?i)row ?tracking"),
                            may_work=True),
    "row tracking, off": Feature(writer=("rowTracking", "domainMetadata"), more=({"domainMetadata": ROWS},)),
    "domain metadata": Feature(writer=("domainMetadata",), more=({"domainMetadata": {**CLUSTERS, "domain": "mine"}},)),
    "clustering": Feature(writer=("clustering", "domainMetadata"), more=({"domainMetadata": CLUSTERS},)),
    "commit timestamps": Feature(writer=("inCommitTimestamp",), settings=on("enableInCommitTimestamps"),
                                 refuses=tuple((n, "enableInCommitTimestamps") for n in ("restore", "add column"))),
    "default columns": Feature(writer=("allowColumnDefaults",), field=(("CURRENT_DEFAULT", "7"),),
                               refuses=each_of(list(CHANGES)[:6], "allowColumnDefaults"), may_work=True),
    "materialized partitions": Feature(writer=("materializePartitionColumns",)),
    "iceberg 1": Feature(reader=("columnMapping",), writer=("icebergCompatV1",),
                         settings=(*on("enableIcebergCompatV1"), *MAPPING.items()),
                         refuses=all_of("(?i)icebergCompatV1"),
                         field=(("delta.columnMapping.id", 1), ("delta.columnMapping.physicalName", "x"))),
    "type widening, unused": Feature(reader=("typeWidening",), settings=on("enableTypeWidening")),
    "deletion vectors, unused": Feature(reader=("deletionVectors",), settings=on("enableDeletionVectors")),
    "vacuum protocol check": Feature(reader=("vacuumProtocolCheck",)),
    "timestamps without a zone, unused": Feature(reader=("timestampNtz",)),
    "variants, unused": Feature(reader=("variantType",)),
    "checkpoints of version 2, unused": Feature(reader=("v2Checkpoint",)),
    "unknown to readers": Feature(reader=("timeTravelToTheFuture",), reads="timeTravelToTheFuture"),
    "unknown to writers": Feature(writer=("timeTravelToTheFuture",), refuses=all_of("timeTravelToTheFuture")),
    "unknown version of readers": Feature(protocol=(4, 7), reads="(?i)reader version|minReaderVersion|version 4"),
    "unknown version of writers": Feature(protocol=(1, 8), refuses=all_of("(?i)writer ?version|version 8")),
    "managed by a catalog": Feature(reader=("catalogManaged",), writer=("inCommitTimestamp",),
                                    settings=on("enableInCommitTimestamps"), reads="(?i)catalog"),
    "checkpoint protection": Feature(writer=("checkpointProtection",), refuses=all_of("checkpointProtection")),
    **{
        f"versions {reader} and {writer}": Feature(protocol=(reader, writer))
        for reader, writer in [(1, 1), (1, 2), (1, 7), (3, 7)]
    },
    **{
        f"versions {reader} and {writer}": Feature(protocol=(reader, writer), refuses=all_of("checkConstraints"))
        for reader, writer in [(1, 3), (1, 4), (2, 5), (2, 6)]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [case(name, name) for name in FEATURES])
def test_features_are_kept_to_or_refused_by_name(meadow: Meadow, name: str) -> None:
    feature = FEATURES[name]
    forge = with_feature(meadow, feature)
    if feature.reads:
        forge.refuses(feature.reads, forge.rows)
    for change in CHANGES:
        work = forge.writes()[change]
        if text := feature.reads or feature.of(change):
            if not feature.may_work:
                forge.refuses(text, work)
                continue
            try:
                work()
            except UnsupportedError as error:
                if not re.search(text, str(error)):
                    raise
                continue
        else:
            work()
        forge.reads(*CHANGES[change], deltalake=False, polars=False)
        forge.books_are_kept(feature)
        if change == "append":
            # Enough for a checkpoint.
            for value in range(60, 70):
                forge.frame.write({"x": [value]})
            forge.reads(*CHANGES[change], *range(60, 70), deltalake=False, polars=False)
            forge.books_are_kept(feature)
        forge = with_feature(meadow, feature)


def with_feature(meadow: Meadow, feature: Feature) -> Forge:
    """A table of three rows."""
    forge = Forge(meadow)
    clock = [{"inCommitTimestamp": CREATED + at} if "inCommitTimestamp" in feature.writer else {} for at in range(2)]
    tracked = {"baseRowId": 0, "defaultRowCommitVersion": 1} if "rowTracking" in feature.writer else {}
    forge.create_with(feature, dict(feature.settings), clock[0])
    forge.commit(forge.xs(1, 2, 3, **tracked), **clock[1])
    if not feature.reads:
        assert [row[0] for row in forge.rows()] == [1, 2, 3]
    return forge


@pytest.mark.parametrize("name", [case("restore where rows are tracked", "row tracking, off")])
def test_rows_that_come_back_are_numbered_where_rows_are_tracked(meadow: Meadow, name: str) -> None:
    feature = FEATURES[name]
    forge = with_feature(meadow, feature)
    forge.frame.delete("x = 1")
    with or_refused("rowTracking"):
        forge.frame.restore(1)
    forge.books_are_kept(feature, may_repeat=True)


def test_moments_of_versions_are_those_of_their_commits(forge: Forge) -> None:
    feature = FEATURES["commit timestamps"]
    forge.create_with(feature, dict(feature.settings), {"inCommitTimestamp": CREATED})
    hour = 3_600_000
    forge.commit(forge.xs(1), inCommitTimestamp=CREATED + hour)
    forge.commit(forge.xs(2), inCommitTimestamp=CREATED + 2 * hour)
    for ours, expected in ((1.5, [1]), (1.0, [1]), (2.0, [1, 2]), (0.5, [])):
        moment = EPOCH.replace(tzinfo=timezone.utc) + timedelta(milliseconds=CREATED + ours * hour)
        assert sorted(row[0] for row in forge.frame.read(timestamp=moment).fetchall()) == expected
    assert [entry.timestamp.timestamp() * 1000 for entry in forge.frame.history()] == [
        CREATED + 2 * hour, CREATED + hour, CREATED
    ]  # fmt: skip


def test_a_missing_value_is_the_default_or_refused_by_name(forge: Forge) -> None:
    fields = [delta_field("x", pa.int64()), delta_field("y", pa.int64(), CURRENT_DEFAULT="7")]
    forge.create(fields, writer=["allowColumnDefaults"])
    with or_refused("default"):
        forge.frame.write({"x": [1]})
        assert listed(forge.frame.read(), ["x", "y"]) == [(1, 7)]


ODD = ["variant", "void", "geometry(OGC:CRS84)", "timestamp_ns", "char"]


@pytest.mark.parametrize("kind", [case(f"type: {kind}", kind) for kind in ODD])
def test_types_that_cannot_be_read_are_refused_by_name(forge: Forge, kind: str) -> None:
    forge.create([delta_field("x", pa.int64()), delta_field("odd", kind)], reader=["variantType"])
    forge.commit(forge.xs(1, 2))
    with or_refused(kind.partition("(")[0]):
        found = forge.frame.read().to_arrow()
        assert kind in ("void", "variant") and found["x"].to_pylist() == [1, 2]


# Partitions as Spark writes them.

SPARK_PARTITIONS: dict[str, tuple[str, list[tuple[str | None, Any]]]] = {
    "text": ("string", [("a b", "a b"), ("ü/%=", "ü/%="), (None, None), (" ", " "), ("null", "null")]),
    "numbers": ("long", [("-9223372036854775808", -(2**63)), ("7", 7), (None, None), ("", None)]),
    "bytes": ("byte", [("-128", -128), ("127", 127), (None, None)]),
    "days": ("date", [("0001-01-01", FIRST_DAY), ("9999-12-31", LAST_DAY), ("1969-12-31", -1), ("", None)]),
    "moments": ("timestamp", [("2023-11-14 22:13:20", 1_700_000_000_000_000),
                              ("2023-11-14 22:13:20.123456", 1_700_000_000_123_456),
                              ("2023-11-14T22:13:20.123456Z", 1_700_000_000_123_456),
                              ("1969-12-31 23:59:59.9", -100_000),
                              ("0001-01-01 00:00:00", FIRST_DAY * DAY), (None, None)]),
    "moments without a zone": ("timestamp_ntz", [("2023-11-14 22:13:20.123456", 1_700_000_000_123_456),
                                                 ("2023-11-14 22:13:20", 1_700_000_000_000_000), (None, None)]),
    "truth": ("boolean", [("true", True), ("false", False), (None, None)]),
    "decimals": ("decimal(9,3)", [("-1.500", Decimal("-1.500")), ("1.500", Decimal("1.500")),
                                  ("0.000", Decimal("0.000")), (None, None)]),
    "short decimals": ("decimal(9,3)", [("1.5", Decimal("1.500")), ("0", Decimal("0.000"))]),
    "decimals with an exponent": ("decimal(38,10)", [("0E-10", Decimal("0E-10")), ("1E-10", Decimal("1E-10"))]),
    "empty text": ("string", [("", None), ("a", "a")]),
    "fractions": ("double", [("1.5", 1.5), ("-1.0E10", -1e10), ("NaN", math.nan), ("Infinity", math.inf),
                             (None, None)]),
    "singles": ("float", [("1.5", 1.5), ("-0.0", -0.0)]),
    "raw": ("binary", [("abc", b"abc"), (None, None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", [case(f"partitions: {name}", name) for name in SPARK_PARTITIONS])
def test_partitions_as_spark_writes_them_are_read(forge: Forge, name: str) -> None:
    kind, values = SPARK_PARTITIONS[name]
    forge.create([delta_field("n", pa.int64()), delta_field("p", kind)], partitions=["p"],
                 reader=["timestampNtz"] if kind == "timestamp_ntz" else None)  # fmt: skip
    for at, (text, _) in enumerate(values):
        forge.commit(forge.add(forge.file(pa.table({"n": pa.array([at], pa.int64())})), partitionValues={"p": text}))
    expected = [value for _, value in values]
    wanted = [(at, plain(value)) for at, value in enumerate(expected)]
    assert listed(forge.frame.read(), ["n", "p"]) == wanted
    literals = {"string": quoted, "date": day_literal, "timestamp": instant_literal, "timestamp_ntz": moment_literal,
                "double": float_literal, "float": float_literal}  # fmt: skip
    full = [at for at, value in enumerate(expected) if value is not None]
    literal = None if kind == "binary" else literals.get(kind, str)
    column = Column("p", pa.int64(), "", lambda _: expected[full[0]], literal)
    for seed in range(30):
        sql, holds = comparison(column, Random(seed), expected)
        found = forge.meadow.sql(f"SELECT n FROM {forge.frame.name} WHERE {sql}")
        assert sorted(found["n"].to_pylist()) == [at for at, value in enumerate(expected) if holds({"p": value})], sql
    for at in full[1:]:
        forge.frame.delete(f"n = {at}")
    assert listed(forge.frame.read(), ["n", "p"]) == [row for row in wanted if row[0] == full[0] or row[0] not in full]


# Log clean-up.


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("form", ["one file", "parts", "version 2"])
def test_a_log_that_was_cleaned_up_is_whole(forge: Forge, form: str, ours: bool) -> None:
    features = {"reader": ["v2Checkpoint"]} if form == "version 2" else {}
    kept, files = with_history(forge, **features)
    if form == "one file":
        forge.checkpoint_file(f"{forge.version:020}.checkpoint.parquet", [*kept, *files])
    elif form == "parts":
        forge.checkpoint_file(f"{forge.version:020}.checkpoint.{1:010}.{2:010}.parquet", kept)
        forge.checkpoint_file(f"{forge.version:020}.checkpoint.{2:010}.{2:010}.parquet", files)
    else:
        size = forge.checkpoint_file("_sidecars/all.parquet", files)
        sidecar = {"sidecar": {"path": "all.parquet", "sizeInBytes": size, "modificationTime": CREATED}}
        actions = [{"checkpointMetadata": {"version": forge.version}}, *kept, sidecar]
        forge.checkpoint_file(f"{forge.version:020}.checkpoint.{uuid.uuid4()}.parquet", actions)
    forge.frame.write({"x": [7]})
    then = time.time() - 40 * 86_400
    for path in forge.log.rglob("*.*"):
        os.utime(path, (then, then))
    forge.frame.write({"x": [8]})
    if ours:
        forge.frame.vacuum()
    elif form != "version 2":
        DeltaTable(str(forge.path)).cleanup_metadata()
    forge.reads(1, 2, 5, 6, 7, 8, deltalake=form != "version 2", polars=form != "version 2")
    assert sorted(forge.frame.read(version=5).to_arrow()["x"].to_pylist()) == [1, 2, 5, 6, 7]
    assert sorted(forge.frame.read(version=4).to_arrow()["x"].to_pylist()) == [1, 2, 5, 6]
    with Apiary("cold", storage=forge.meadow.root, bees=1, memory="64MB", housekeeping=False) as apiary:
        found = apiary.frame(forge.frame.name).read().to_arrow()
    assert sorted(found["x"].to_pylist()) == [1, 2, 5, 6, 7, 8]


@pytest.mark.parametrize("by", [case("a log that is cleaned up meanwhile", "deltalake")])
def test_a_log_may_be_cleaned_up_under_a_running_process(meadow: Meadow, by: str) -> None:
    frame = meadow.apiary.create_frame(f"lab.both.c{next(meadow.numbers)}", X)
    path = Path(folder(meadow.root, frame.name))
    frame.write({"x": [1]})
    write_deltalake(str(path), pa.table({"x": [2]}), mode="append")
    assert frame.read().to_arrow().num_rows == 2
    DeltaTable(str(path)).create_checkpoint()
    then = time.time() - 40 * 86_400
    for entry in path.glob("_delta_log/*"):
        os.utime(entry, (then, then))
    DeltaTable(str(path)).cleanup_metadata()
    assert frame.read().to_arrow().num_rows == 2
    frame.write({"x": [3]})
    assert listed(frame.read(), ["x"]) == [(1,), (2,), (3,)]
    frame.delete("x = 1")
    assert listed(frame.read(), ["x"]) == [(2,), (3,)]
