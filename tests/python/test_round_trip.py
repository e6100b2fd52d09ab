"""Random tables of every Arrow type come back equal: from this engine, from delta-rs and from Polars.

``APIARY_TABLES=1000`` makes that many tables, ``APIARY_ROUND_TRIP_SEED=17`` only that of seed 17, alone.

Values are written and compared in a plain form, which no reader's classes come near: dates are days, times are
microseconds since 1970, structs are dicts, maps are lists of pairs. Every array is built from its buffers' parts, so
that there are offsets that do not begin at zero, values under nulls, and dictionaries with more than is used.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import apiary
import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import support
from apiary import Apiary, Frame
from support import folder, node_binary

KNOWN: dict[str, str] = {
    "required fields in lists": "what is not null in a struct that is null in a list cannot be sorted or unnested",
}
"""Cases that fail, and why; one that does not fail any more fails the test until it is taken out."""


case = partial(support.case, KNOWN)


def seeds() -> list[int]:
    """The tables that are made."""
    if alone := os.environ.get("APIARY_ROUND_TRIP_SEED"):
        return [int(alone)]
    return list(range(int(os.environ.get("APIARY_TABLES", "40"))))


# What a column of each type becomes in a frame. Types with parameters are in `kept`.
US, UTC = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
ZONES = ["UTC", "+00:00", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "-03:30"]
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}
KEPT: dict[pa.DataType, pa.DataType] = {
    pa.bool_(): pa.bool_(),
    pa.int8(): pa.int8(),
    pa.int16(): pa.int16(),
    pa.int32(): pa.int32(),
    pa.int64(): pa.int64(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.float32(): pa.float32(),
    pa.float64(): pa.float64(),
    pa.string(): pa.string(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.binary(): pa.binary(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.binary(1): pa.binary(),
    pa.binary(5): pa.binary(),
    pa.date32(): pa.date32(),
    pa.date64(): US,
    **{pa.timestamp(unit): US for unit in UNITS},
    **{pa.timestamp(unit, tz=zone): UTC for unit in UNITS for zone in ZONES},
    pa.uuid(): pa.binary(),
    pa.json_(): pa.string(),
    pa.bool8(): pa.int8(),
    pa.opaque(pa.int32(), "thing", "somebody"): pa.int32(),
}
DECIMALS = {pa.decimal32: 9, pa.decimal64: 18, pa.decimal128: 38, pa.decimal256: 38}
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, pa.list_]


def kept(given: pa.DataType) -> pa.DataType:
    """The type that a frame has for ``given``."""
    if given in KEPT:
        return KEPT[given]
    if pa.types.is_decimal(given):
        return pa.decimal128(given.precision, given.scale)
    if pa.types.is_dictionary(given):
        return kept(given.value_type)
    if pa.types.is_struct(given):
        return pa.struct([pa.field(f.name, kept(f.type), f.nullable) for f in given])
    if pa.types.is_map(given):
        item = pa.field("value", kept(given.item_type), given.item_field.nullable)
        return pa.map_(pa.field("key", kept(given.key_type), nullable=False), item)
    return pa.list_(pa.field("element", kept(given.value_type), given.value_field.nullable))


# --- types ---------------------------------------------------------------------------------------------------------


def leaf(random: Random) -> pa.DataType:
    """A type without parts."""
    if random.random() < 0.2:
        make, digits = random.choice(list(DECIMALS.items()))
        precision = random.choice([1, digits, random.randint(1, digits)])
        return make(precision, random.choice([0, precision, random.randint(0, precision)]))
    found = random.choice(list(KEPT))
    # The zones would be half of all otherwise.
    return random.choice(list(KEPT)) if pa.types.is_timestamp(found) else found


def drawn_type(random: Random, depth: int = 3, *, top: bool = True) -> pa.DataType:
    """A type of at most ``depth`` levels."""
    shape = random.choice(["list", "struct", "map"] + ["leaf"] * (9 if top else 3)) if depth > 0 else "leaf"
    if shape == "list":
        item = pa.field(random.choice(["item", "element", "x"]), inner(random, depth), random.random() < 0.7)
        at = random.randrange(len(LISTS))
        return LISTS[at](item, random.randint(1, 3)) if at == len(LISTS) - 1 else LISTS[at](item)
    if shape == "struct":
        parts = [(name, inner(random, depth)) for name in random.sample(NESTED_NAMES, random.randint(1, 3))]
        known = "required fields in lists" in KNOWN
        free = [random.random() < 0.7 or (known and pa.types.is_struct(part)) for _, part in parts]
        return pa.struct([pa.field(name, part, nullable) for (name, part), nullable in zip(parts, free)])
    if shape == "map":
        return pa.map_(inner(random, 0), pa.field("value", inner(random, depth), random.random() < 0.7))
    found = leaf(random)
    if random.random() < 0.2 and not isinstance(found, pa.BaseExtensionType):
        # The values in lists may be more than a byte counts.
        return pa.dictionary(random.choice([kind for kind in INTEGERS if top or kind.bit_width > 8]), found)
    return found


def inner(random: Random, depth: int) -> pa.DataType:
    """A type within another; a frame takes no nanoseconds there, because it does not look at each of them."""
    while True:
        found = drawn_type(random, depth - 1, top=False)
        value = found.value_type if pa.types.is_dictionary(found) else found
        if not (pa.types.is_timestamp(value) and value.unit == "ns"):
            return found


def other_spelling(random: Random, given: pa.DataType) -> pa.DataType:
    """Another type that becomes the same in a frame, where there is one."""
    same = [found for found, becomes in KEPT.items() if becomes == kept(given)]
    return random.choice(same) if same and random.random() < 0.5 else given


def can_partition(given: pa.DataType) -> bool:
    """Whether values of this type may be folders."""
    test = pa.types
    becomes = kept(given)
    return not (test.is_nested(becomes) or test.is_floating(becomes) or test.is_binary(becomes))


# --- values in the plain form --------------------------------------------------------------------------------------

MARKS = "/%='\"\\\n\t\x7f\u0001#?&+:*~|^`<ü🐝é日"
WORDS = [
    "a",
    "a/b",
    "%2F",
    "a=b",
    "  x ",
    "..",
    ".",
    "null",
    "NaN",
    "true",
    "1",
    "e\u0301",
    "__HIVE_DEFAULT_PARTITION__",
]
LONG = ["a" * 60, "z" * 32 + "🐝", "\U0010ffff" * 40, "ÿ" * 33]
TEXTS = [" ", *MARKS, *WORDS, *LONG]
NAMES = ["a", "B", "_x", "9", "[0]", "a.b", "a/b", "x:y", "$1", "@", "a-b", "%41", "select", "count", "null", "_change"]
NAMES += ["__index_level_0__", "e\u0301", "x" * 120, *"'\"\\`*#?&ü🐝é日"]
NESTED_NAMES = ["a", "b", "C", "x.y", "key", "element", "ü", "select", "'", "\\"]
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
DAY = 86_400_000_000


def drawn(random: Random, given: pa.DataType) -> Any:
    """A value of this type, not null, in the plain form."""
    test = pa.types
    if isinstance(given, pa.BaseExtensionType):
        if given == pa.json_():
            return json.dumps({"a": random.randint(0, 9)})
        return int(random.random() < 0.5) if given == pa.bool8() else drawn(random, given.storage_type)
    if test.is_dictionary(given):
        return drawn(random, given.value_type)
    if test.is_nested(given):
        return nested(random, given)
    if test.is_boolean(given):
        return random.random() < 0.5
    if test.is_integer(given):
        return integer(random, given)
    if test.is_floating(given):
        return floating(random, given)
    if test.is_decimal(given):
        greatest = 10**given.precision - 1
        unscaled = random.choice([0, 1, -1, greatest, -greatest, random.randint(-greatest, greatest)])
        return decimal_of(unscaled, given.scale)
    if test.is_fixed_size_binary(given):
        return random.randbytes(given.byte_width)
    if test.is_date32(given):
        return random.choice([0, -1, FIRST_DAY, LAST_DAY, random.randint(FIRST_DAY, LAST_DAY)])
    if test.is_temporal(given):
        return moment(random, given)
    return (
        text(random) if "string" in str(given) else random.choice([b"", b"\0", b"\xff" * 40, b"'", random.randbytes(9)])
    )


def nested(random: Random, given: pa.DataType) -> Any:
    test = pa.types
    if test.is_struct(given):
        return {field.name: drawn_or_null(random, field, 0.2) for field in given}
    if test.is_map(given):
        # No key twice: Polars keeps one of equal keys.
        keys = {comparable(key): key for key in (drawn(random, given.key_type) for _ in range(random.randint(0, 3)))}
        return [(key, drawn_or_null(random, given.item_field, 0.2)) for key in keys.values()]
    size = given.list_size if test.is_fixed_size_list(given) else random.choice([0, 1, 2, 5])
    return [drawn_or_null(random, given.value_field, 0.2) for _ in range(size)]


def drawn_or_null(random: Random, field: pa.Field, nulls: float) -> Any:
    return None if field.nullable and random.random() < nulls else drawn(random, field.type)


def text(random: Random) -> str:
    letters = "ab'\"\\ \n%_üß🐝\u0301𝄞"
    return random.choice(["", random.choice(TEXTS), "".join(random.choices(letters, k=random.randint(1, 40)))])


def integer(random: Random, given: pa.DataType) -> int:
    signed = not str(given).startswith("u")
    low, high = (
        (-(1 << given.bit_width - 1), (1 << given.bit_width - 1) - 1) if signed else (0, (1 << given.bit_width) - 1)
    )
    return random.choice([low, high, 0, 1, random.randint(low, high), random.randint(max(low, -9), 9)])


def floating(random: Random, given: pa.DataType) -> float:
    found = any_float(random, {16: "e", 32: "f", 64: "d"}[given.bit_width])
    return math.nan if "NaN with a sign" in KNOWN and math.isnan(found) else found


def any_float(random: Random, code: str) -> float:
    if random.random() < 0.4:
        return random.choice([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0])
    if random.random() < 0.4:
        return random.randint(-100, 100) / 4
    return struct.unpack(code, random.randbytes(struct.calcsize(code)))[0]


def decimal_of(unscaled: int, scale: int) -> Decimal:
    return Decimal((unscaled < 0, tuple(map(int, str(abs(unscaled)))), -scale))


def moment(random: Random, given: pa.DataType) -> int:
    if pa.types.is_date64(given):
        return random.randint(FIRST_DAY, LAST_DAY) * DAY
    first, last = FIRST_DAY * DAY, (LAST_DAY + 1) * DAY - 1
    if given.unit == "ns":
        first, last = -(2**63) // 1000 + 1, (2**63 - 1) // 1000
    found = random.choice([0, -1, 1, first, last, random.randint(first, last), random.randint(first, last)])
    unit = UNITS[given.unit]
    return max(found // unit * unit, -(-first // unit) * unit)


# --- arrays --------------------------------------------------------------------------------------------------------


def built(random: Random, given: pa.DataType, values: list[Any], *, nulls_are_allowed: bool = True) -> pa.Array:
    """An array of plain values that begins somewhere within its buffers."""
    before, after = random.choice([(0, 0), (1, 0), (3, 2), (8, 1)])
    field = pa.field("", given, nulls_are_allowed)
    junk = [drawn_or_null(random, field, 0.3) for _ in range(before + after)]
    whole = laid_out(random, given, junk[:before] + values + junk[before:])
    whole.validate(full=True)
    return whole.slice(before, len(values))


def laid_out(random: Random, given: pa.DataType, values: list[Any]) -> pa.Array:
    test = pa.types
    if isinstance(given, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(given, laid_out(random, given.storage_type, values))
    if test.is_dictionary(given):
        return dictionary(random, given, values)
    if test.is_struct(given):
        return structs(random, given, values)
    if test.is_map(given):
        offsets, pairs = offsets_of(values)
        keys = built(random, given.key_type, [key for key, _ in pairs], nulls_are_allowed=False)
        items = of_field(random, given.item_field, [item for _, item in pairs])
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=given)
    if test.is_fixed_size_list(given):
        # Nulls have values all the same.
        full = [drawn(random, given) if value is None else value for value in values]
        items = of_field(random, given.value_field, [item for value in full for item in value])
        return pa.FixedSizeListArray.from_arrays(items, type=given, mask=nulls_of(values))
    if test.is_nested(given):
        return lists(random, given, values)
    if test.is_date64(given):
        return pa.array([None if v is None else v // 1000 for v in values], pa.int64()).view(given)
    if test.is_timestamp(given):
        unit = UNITS[given.unit]
        nanos = 1000 if given.unit == "ns" else 1
        return pa.array([None if v is None else v // unit * nanos for v in values], pa.int64()).view(given)
    return pa.array(values, given)


def of_field(random: Random, field: pa.Field, values: list[Any]) -> pa.Array:
    """The array of a part; a part without nulls has some value where the whole is null."""
    if not field.nullable:
        values = [drawn(random, field.type) if value is None else value for value in values]
    return built(random, field.type, values, nulls_are_allowed=field.nullable)


def nulls_of(values: list[Any]) -> pa.Array | None:
    return pa.array([value is None for value in values], pa.bool_()) if None in values else None


def dictionary(random: Random, given: pa.DataType, values: list[Any]) -> pa.Array:
    """Nulls are in the indices or in the dictionary, which may have a value twice and values that are not used."""
    words = [drawn(random, given.value_type), *values]
    at = {repr(word): index for index, word in enumerate(words)}
    in_words = random.random() < 0.5
    indices = [None if value is None and not in_words else at[repr(value)] for value in values]
    return pa.DictionaryArray.from_arrays(
        pa.array(indices, given.index_type), laid_out(random, given.value_type, words)
    )


def structs(random: Random, given: pa.StructType, values: list[Any]) -> pa.Array:
    """Nulls have values below them."""
    full = [drawn(random, given) if value is None else value for value in values]
    parts = [of_field(random, field, [value[field.name] for value in full]) for field in given]
    return pa.StructArray.from_arrays(parts, fields=list(given), mask=nulls_of(values))


def lists(random: Random, given: pa.DataType, values: list[Any]) -> pa.Array:
    kind = str(given).partition("<")[0]
    size = pa.int64() if kind.startswith("large") else pa.int32()
    if kind.endswith("view"):
        # Views may lie in any order, and nulls may have a place.
        order = random.sample(range(len(values)), len(values))
        full = [drawn(random, given) if value is None and random.random() < 0.5 else value or [] for value in values]
        starts, items = [0] * len(values), []
        for index in order:
            starts[index] = len(items)
            items += full[index]
        make = pa.LargeListViewArray if kind.startswith("large") else pa.ListViewArray
        sizes = pa.array([len(value) for value in full], size)
        parts = of_field(random, given.value_field, items)
        return make.from_arrays(pa.array(starts, size), sizes, parts, type=given, mask=nulls_of(values))
    make = pa.LargeListArray if kind.startswith("large") else pa.ListArray
    offsets, items = offsets_of(values)
    return make.from_arrays(pa.array(offsets, size), of_field(random, given.value_field, items), type=given)


def offsets_of(values: list[Any]) -> tuple[list[int | None], list[Any]]:
    """Where lists begin, null for those that are null, and what is in them."""
    offsets: list[int | None] = []
    items: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(items))
        items += value or []
    return [*offsets, len(items)], items


def plain(column: pa.ChunkedArray) -> list[Any]:
    """A column's values in the plain form, in which NaN equals itself."""
    numbers = as_numbers(column.type)
    return [comparable(value) for chunk in column.chunks for value in chunk.cast(numbers).to_pylist()]


def as_numbers(kind: pa.DataType) -> pa.DataType:
    """The type with dates and times, wherever they are in it, as integers; with nulls, which casts keep to."""
    test = pa.types
    if test.is_temporal(kind):
        return pa.int32() if test.is_date32(kind) else pa.int64()
    if test.is_struct(kind):
        return pa.struct([(field.name, as_numbers(field.type)) for field in kind])
    if test.is_map(kind):
        return pa.map_(as_numbers(kind.key_type), as_numbers(kind.item_type))
    if test.is_list(kind) or test.is_large_list(kind):
        return pa.list_(as_numbers(kind.value_type))
    return kind


NAN = object()
"""Stands for every NaN."""


def comparable(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return NAN
    if isinstance(value, dict):
        return {name: comparable(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [comparable(part) for part in value]
    return value


# --- tables --------------------------------------------------------------------------------------------------------


class Sample:
    """A random frame and what should be in it: columns of random types beside ``n``, which numbers the rows."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.name = f"lab.random.t{seed}"
        names = [name for name in random.sample(NAMES, random.randint(1, 8)) if name.lower() != "n"]
        self.given = pa.schema([pa.field(name, drawn_type(random), random.random() < 0.8) for name in names])
        partitions = [field.name for field in self.given if can_partition(field.type)]
        self.partition_by = random.sample(partitions, min(len(partitions), random.choice([0, 0, 1, 1, 2])))
        self.nulls = {name: random.choice([0.0, 0.2, 0.2, 0.6, 1.0]) for name in names}
        self.given = self.given.insert(random.randint(0, len(names)), pa.field("n", pa.int64(), nullable=False))
        self.kept = pa.schema([pa.field(f.name, kept(f.type), f.nullable) for f in self.given])
        self.values: dict[str, list[Any]] = {name: [] for name in self.given.names}
        self.rows = 0

    def batch(self) -> pa.Table:
        """Rows to write; they are among the expected ones from then on."""
        count = self.random.choice([0, 1, 2, 7, 25, 60])
        chunks = sorted(self.random.choices(range(count + 1), k=self.random.choice([0, 0, 1, 3])))
        columns = [self.column(field, count, chunks) for field in self.given]
        self.rows += count
        fields = [field.with_type(column.type) for field, column in zip(self.given, columns)]
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    def column(self, field: pa.Field, count: int, chunks: list[int]) -> pa.ChunkedArray:
        given = field.type if self.rows == 0 else other_spelling(self.random, field.type)
        values = self.drawn(field.with_type(given), count)
        self.values[field.name] += values
        bounds = [0, *chunks, count]
        parts = [values[start:end] for start, end in pairwise(bounds)]
        arrays = [built(self.random, given, part, nulls_are_allowed=field.nullable) for part in parts]
        return pa.chunked_array(arrays, given)

    def drawn(self, field: pa.Field, count: int) -> list[Any]:
        if field.name == "n":
            return list(range(self.rows, self.rows + count))
        if field.name in self.partition_by:
            few = [value for value in (drawn(self.random, field.type) for _ in range(3)) if value != ""] or ["x"]
            return [self.random.choice(few) for _ in range(count)]
        return [drawn_or_null(self.random, field, self.nulls[field.name]) for _ in range(count)]

    def expected(self) -> pa.Table:
        """The rows as the frame should have them."""
        return pa.table({f.name: pa.array(self.values[f.name], f.type) for f in self.kept}, schema=self.kept)


def in_order(table: pa.Table) -> dict[str, list[Any]]:
    """A table's columns in the plain form, in the order of ``n``."""
    order = sorted(range(table.num_rows), key=plain(table["n"]).__getitem__)
    columns = {name: plain(table[name]) for name in table.schema.names}
    return {name: [values[at] for at in order] for name, values in columns.items()}


def same(found: pa.Table, expected: pa.Table, who: str) -> None:
    """Asserts that the tables have equal rows, and says which column does not."""
    assert found.schema.names == expected.schema.names, who
    ours, theirs = in_order(expected), in_order(found)
    for name in expected.schema.names:
        assert theirs[name] == ours[name], f"{who}: {name!r} of {expected.schema.field(name).type}"


# --- the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meadow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meadow")


@pytest.fixture(scope="module")
def lab(meadow: Path) -> Iterator[Apiary]:
    """One Apiary for all tables."""
    with Apiary("test", storage=meadow, bees=2, memory="512MB", housekeeping=False) as apiary:
        yield apiary


@pytest.mark.parametrize("seed", seeds())
def test_a_random_table_comes_back_equal(lab: Apiary, meadow: Path, tmp_path: Path, seed: int) -> None:
    sample = Sample(seed)
    frame = lab.create_frame(sample.name, sample.given, partition_by=sample.partition_by)
    assert frame.schema == sample.kept
    for _ in range(sample.random.choice([1, 1, 2, 3])):
        write(frame, sample.batch(), sample.random, tmp_path)
    expected = sample.expected()
    every_reader_agrees(lab, frame, folder(meadow, sample.name), expected)
    filters_find_the_rows(lab, frame, sample, expected)
    aggregates_agree(lab, frame, expected)
    if sample.random.random() < 0.5:
        frame, expected = sample.random.choice(CHANGES)(lab, frame, expected)
        every_reader_agrees(lab, frame, folder(meadow, frame.name), expected)


def write(frame: Frame, table: pa.Table, random: Random, buffer: Path) -> None:
    """Writes the table, in some form or through a stream."""
    if random.random() < 0.2:
        with frame.stream(buffer=buffer) as stream:
            stream.append(table)
        return
    forms = [lambda: table, table.to_reader, table.to_batches, lambda: iter(table.to_batches())]
    assert frame.write(random.choice(forms)()).rows == table.num_rows


def gathered(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    frame.optimize()
    return frame, expected


def sorted_anew(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    frame.optimize("n")
    return frame, expected


def updated(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    frame.update({"n": "-n"}, "n % 2 = 1")
    signs = pc.if_else(pc.equal(pc.bit_wise_and(expected["n"], 1), 1), -1, 1)
    at = expected.schema.get_field_index("n")
    return frame, expected.set_column(at, expected.schema.field("n"), pc.multiply(expected["n"], signs))


def deleted(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    frame.delete("n % 2 = 1")
    return frame, expected.filter(pc.equal(pc.bit_wise_and(expected["n"], 1), 0))


def inserted(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    """Into a frame like it, which gets the rows in their order."""
    copy = lab.create_frame(f"{frame.name}_copy", frame.schema, frame.describe().partition_by)
    lab.sql(f"INSERT INTO {copy.name} SELECT * FROM {frame.name} ORDER BY n")
    return copy, expected


def created(lab: Apiary, frame: Frame, expected: pa.Table) -> tuple[Frame, pa.Table]:
    lab.sql(f"CREATE FRAME {frame.name}_copy AS SELECT * FROM {frame.name}")
    nullable = pa.schema([field.with_nullable(True) for field in expected.schema])
    return lab.frame(f"{frame.name}_copy"), pa.table(expected.columns, schema=nullable)


CHANGES = [gathered, sorted_anew, updated, deleted, inserted, created]
"""What writes all rows anew: the frame with them, and what should be in it."""


def every_reader_agrees(lab: Apiary, frame: Frame, path: str, expected: pa.Table) -> None:
    found = frame.read().to_arrow()
    assert found.schema == expected.schema
    same(found, expected, "frame.read")
    names = expected.schema.names
    query = f"SELECT {', '.join(map(quoted, names))} FROM {frame.name} ORDER BY n"
    same(lab.sql(query).to_arrow(), expected, "sql")
    partitions = {name: expected[name] for name in frame.describe().partition_by}
    if delta_rs_reads(partitions):
        same(pa.table(deltalake.DeltaTable(path).to_pyarrow_table()).select(names), expected, "deltalake")
    if polars_reads(path, partitions):
        same(pl.read_delta(path).to_arrow().select(names), expected, "polars")


def delta_rs_reads(partitions: dict[str, pa.ChunkedArray]) -> bool:
    """It writes the partition value -1.50 as -1.-50 when it hands it to pyarrow, and fails."""
    fractions = [values for values in partitions.values() if pa.types.is_decimal(values.type) and values.type.scale > 0]
    return not any(value < 0 for values in fractions for value in values.to_pylist())


def polars_reads(path: str, partitions: dict[str, pa.ChunkedArray]) -> bool:
    """It takes the names and values of partitions from the folders' names: escaped names are unknown to it, and one
    value is null."""
    folders = {
        part.partition("=")[0] for file in Path(path).rglob("*.parquet") for part in file.relative_to(path).parts
    }
    texts = [values for values in partitions.values() if pa.types.is_string(values.type)]
    return partitions.keys() <= folders and not any("__HIVE_DEFAULT_PARTITION__" in t.to_pylist() for t in texts)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


COMPARISONS: dict[str, Callable[..., Any]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def filters_find_the_rows(lab: Apiary, frame: Frame, sample: Sample, expected: pa.Table) -> None:
    random = sample.random
    field = random.choice(list(expected.schema))
    missing = lab.sql(f"SELECT n FROM {frame.name} WHERE {quoted(field.name)} IS NULL ORDER BY n").to_arrow()["n"]
    assert missing.to_pylist() == expected["n"].filter(expected[field.name].is_null()).to_pylist(), f"{field} IS NULL"
    flat = [field for field in expected.schema if not pa.types.is_nested(field.type)]
    for field in random.sample(flat, min(3, len(flat))):
        there = [value for value in sample.values[field.name] if value is not None]
        if there:
            value, sign = random.choice(there), random.choice(list(COMPARISONS))
            text, params = condition(random, field.type, value)
            query = f"SELECT n FROM {frame.name} WHERE {quoted(field.name)} {sign} {text} ORDER BY n"
            matching = COMPARISONS[sign](*ordered(expected[field.name], pa.scalar(value, field.type)))
            wanted = expected["n"].filter(matching).to_pylist()
            assert lab.sql(query, params).to_arrow()["n"].to_pylist() == wanted, f"{field} {sign} {value!r}"


def ordered(column: pa.ChunkedArray, value: pa.Scalar) -> tuple[pa.ChunkedArray, pa.Scalar]:
    """Operands as SQL compares them: NaN equals itself and is greater than all others, as in Spark and PostgreSQL."""
    if not pa.types.is_floating(column.type):
        return column, value
    there = sorted({number for number in column.to_pylist() if number is not None and not math.isnan(number)})
    ranks = {number: rank for rank, number in enumerate(there)}
    rank = [None if n is None else ranks.get(n, len(there)) for n in column.to_pylist()]
    return pa.chunked_array([rank], pa.int64()), pa.scalar(ranks.get(value.as_py(), len(there)), pa.int64())


def condition(random: Random, kind: pa.DataType, value: Any) -> tuple[str, dict[str, Any] | None]:
    """A value as SQL: written out, or a parameter."""
    if pa.types.is_timestamp(kind):
        zone = timezone.utc if kind.tz else None
        return "$x", {"x": datetime(1970, 1, 1, tzinfo=zone) + timedelta(microseconds=value)}
    if pa.types.is_date32(kind):
        day = date(1970, 1, 1) + timedelta(value)
        return ("$x", {"x": day}) if random.random() < 0.5 else (f"DATE '{day.isoformat()}'", None)
    if random.random() < 0.5:
        return "$x", {"x": value}
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'", None
    if isinstance(value, bytes):
        return f"X'{value.hex()}'", None
    if isinstance(value, Decimal):
        return f"CAST('{value:f}' AS DECIMAL({kind.precision}, {kind.scale}))", None
    return (f"CAST('{value!r}' AS DOUBLE)" if isinstance(value, float) else str(value)), None


def aggregates_agree(lab: Apiary, frame: Frame, expected: pa.Table) -> None:
    asked: list[str] = []
    wanted: list[Any] = []
    for field in expected.schema:
        column, name = expected[field.name], quoted(field.name)
        asked.append(f"count({name})")
        wanted.append(expected.num_rows - column.null_count)
        if not pa.types.is_nested(field.type):
            asked += [f"min({name})", f"max({name})"]
            there = plain(column.drop_null())
            wanted += extremes(there)
            asked.append(f"count(DISTINCT {name})")
            wanted.append(len(set(there)))
    found = lab.sql(f"SELECT {', '.join(asked)} FROM {frame.name}").to_arrow()
    for at, (what, value) in enumerate(zip(asked, wanted)):
        assert plain(found.column(at)) == [value], what


def extremes(values: list[Any]) -> tuple[Any, Any]:
    """The least and the greatest value; NaN is the greatest of all."""
    order = sorted(value for value in values if value is not NAN)
    order += [NAN] * (len(order) < len(values))
    return (order[0], order[-1]) if order else (None, None)


# --- what is refused -----------------------------------------------------------------------------------------------

SCHEMA, INVALID = apiary.SchemaError, apiary.InvalidInputError
WITHOUT_A_PLACE = [
    (pa.null(), "holds only nulls"),
    (pa.time32("s"), "no time-of-day type"),
    (pa.time32("ms"), "no time-of-day type"),
    (pa.time64("us"), "no time-of-day type"),
    (pa.time64("ns"), "no time-of-day type"),
    *[(pa.duration(unit), "no interval type") for unit in UNITS],
    (pa.month_day_nano_interval(), "no interval type"),
    (pa.run_end_encoded(pa.int32(), pa.string()), "plain type"),
    (pa.dense_union([pa.field("a", pa.int64()), pa.field("b", pa.string())]), "plain type"),
    (pa.sparse_union([pa.field("a", pa.int64())]), "plain type"),
    (pa.decimal256(39, 2), "at most 38 digits"),
    (pa.decimal256(76, 76), "at most 38 digits"),
    (pa.decimal128(5, -2), "no negative scale"),
    (pa.decimal256(5, -1), "no negative scale|at most 38 digits"),
]
WRAPPERS: list[Callable[[pa.DataType], pa.DataType]] = [
    lambda kind: kind,
    pa.list_,
    pa.list_view,
    lambda kind: pa.list_(kind, 2),
    lambda kind: pa.struct([("a", pa.int64()), ("b", kind)]),
    lambda kind: pa.map_(pa.string(), kind),
    lambda kind: pa.list_(pa.struct([("a", pa.map_(pa.int8(), kind))])),
]


@pytest.mark.parametrize("wrapper", range(len(WRAPPERS)))
@pytest.mark.parametrize(("kind", "why"), WITHOUT_A_PLACE, ids=[str(kind) for kind, _ in WITHOUT_A_PLACE])
def test_a_type_without_a_place_is_refused_wherever_it_is(lab: Apiary, kind: Any, why: str, wrapper: int) -> None:
    schema = pa.schema([("n", pa.int64()), ("odd one", WRAPPERS[wrapper](kind))])
    schema = schema.set(1, schema.field(1).with_name("odd"))
    before = lab.frames()
    with pytest.raises(SCHEMA, match=f"column '(odd|b|a)' is .*({why})"):
        lab.create_frame("lab.random.refused", schema)
    assert lab.frames() == before


def struct_of(*names: str) -> pa.DataType:
    return pa.struct([pa.field(name, pa.int64()) for name in names])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        case("no columns", pa.schema([]), "at least one"),
        case("no name", pa.schema([("", pa.int64())]), "no name"),
        case("same name twice", pa.schema([("c", pa.int64()), ("c", pa.int64())]), "'c' is there twice"),
        case("same name but for case", pa.schema([("c", pa.int64()), ("C", pa.int64())]), "'C' is there twice"),
        case(
            "same name twice in a struct",
            pa.schema([("c", struct_of("x", "x"))]),
            r"\A[^\n]*'c'[^\n]*a name of its own[^\n]*\Z",
        ),
        case("struct without fields", pa.schema([("c", pa.struct([]))]), "'c'"),
        case("part without a name", pa.schema([("c", struct_of(""))]), "'c'"),
        *[
            case(f"{mark!r} in a name", pa.schema([(f"a{mark}b", pa.int64())]), "cannot have")
            for mark in " ,;{}()\n\t="
        ],
        case("space in a part's name", pa.schema([("c", struct_of("a b"))]), "'a b'.*cannot have"),
    ],
)
def test_names_without_a_place_are_refused(lab: Apiary, schema: pa.Schema, message: str) -> None:
    before = lab.frames()
    with pytest.raises(SCHEMA, match=message):
        lab.create_frame("lab.random.refused", schema)
    assert lab.frames() == before


def refused_values() -> Iterator[Any]:
    """Arrays, the types of the frames that get them, and what is said then."""
    nanos = pa.array([1_000, 2_001], pa.int64()).view(pa.timestamp("ns"))
    indices = pa.array([0, 1], pa.int8())
    yield case("nanoseconds", nanos, US, "finer than a microsecond")
    yield case("dictionary of nanoseconds", pa.DictionaryArray.from_arrays(indices, nanos), US, "microsecond")
    yield case("nanoseconds in a list", pa.ListArray.from_arrays([0, 2], nanos), pa.list_(US), "cast it")
    yield case("seconds too far", pa.array([2**62], pa.timestamp("s")), US, "does not fit")
    yield case("milliseconds too far", pa.array([-(2**62)], pa.timestamp("ms", "UTC")), UTC, "does not fit")
    yield case("date64 too far", pa.array([2**62], pa.int64()).view(pa.date64()), US, "further off")
    required = pa.struct([pa.field("a", pa.int64(), nullable=False)])
    yield case("null in a struct", pa.array([{"a": None}], struct_of("a")), required, "'c' does not fit")
    element = pa.list_(pa.field("element", pa.int64(), nullable=False))
    yield case("null in a list", pa.array([[1, None]], pa.list_(pa.int64())), element, "'c' does not fit")
    yield case("time for a number", pa.array([1], pa.time32("s")), pa.int64(), "'c' is .* cast it")
    yield case("text for bytes", pa.array(["x"]), pa.binary(), "'c' is .* cast it")
    yield case("bytes for text", pa.array([b"x"]), pa.string(), "'c' is .* cast it")
    yield case("too many digits", pa.array([Decimal("1.23")]), pa.decimal128(3, 1), "'c' is .* cast it")
    yield case("zone for none", pa.array([1], UTC), US, "'c' is .* cast it")
    yield case("other fields", pa.array([{"a": 1, "b": 2}]), struct_of("a"), "'c' is .* cast it")


@pytest.mark.parametrize(("given", "held", "message"), list(refused_values()))
def test_a_value_without_a_place_is_refused_and_nothing_written(
    ap: Apiary, given: pa.Array, held: pa.DataType, message: str
) -> None:
    frame = ap.create_frame("refused", pa.schema([("c", held)]))
    with pytest.raises(SCHEMA, match=message):
        frame.write(pa.table({"c": given}))
    assert (frame.describe().version, frame.read().to_arrow().num_rows) == (0, 0)


@pytest.mark.parametrize("value", ["", None])
def test_a_partition_without_a_value_is_refused(ap: Apiary, value: str | None) -> None:
    frame = ap.create_frame("refused", pa.schema([("p", pa.string()), ("x", pa.int64())]), partition_by=["p"])
    with pytest.raises(SCHEMA, match="'p'"):
        frame.write({"p": ["a", value], "x": [1, 2]})
    assert (frame.describe().version, frame.read().to_arrow().num_rows) == (0, 0)


@pytest.mark.parametrize("kind", [pa.float32(), pa.binary(), pa.list_(pa.int8()), struct_of("a"), pa.uuid()], ids=str)
def test_types_that_are_no_folders_do_not_partition(ap: Apiary, kind: pa.DataType) -> None:
    with pytest.raises(SCHEMA, match="'p' .* cannot partition"):
        ap.create_frame("refused", pa.schema([("p", kind), ("x", pa.int64())]), partition_by=["p"])
    assert ap.frames() == []


# --- cases that random tables found --------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [case("two columns for one", ["a", "A"])])
def test_no_column_of_the_data_is_dropped_without_a_word(ap: Apiary, names: list[str]) -> None:
    frame = ap.create_frame("one", pa.schema([("a", pa.int64())]))
    with pytest.raises(SCHEMA, match="'A'"):
        frame.write(pa.table([[1], [2]], names=names))


SLICED = {
    "views": (pa.struct([("a", pa.struct([("x", pa.string_view())]))]), [{"a": {"x": f"{at}"}} for at in range(10)]),
    "deep": (pa.list_(pa.struct([("a", struct_of("x"))])), [[{"a": {"x": at}}] * (at % 3) for at in range(10)]),
    "struct": (pa.struct([("a", struct_of("x"))]), [{"a": {"x": at}} for at in range(10)]),
    "list": (pa.list_(struct_of("x"), 1), [[{"x": at}] for at in range(10)]),
}


@pytest.mark.parametrize("form", SLICED)
def test_slices_of_structs_in_others_are_written(ap: Apiary, form: str) -> None:
    kind, values = SLICED[form]
    table = pa.table({"c": pa.array(values, kind)})
    frame = ap.create_frame("sliced", table.schema)
    frame.write(table.slice(1, 2))
    frame.write(table.to_reader(max_chunksize=3))
    found = frame.read().to_arrow()["c"].to_pylist()
    assert sorted(found, key=str) == sorted(values[1:3] + values, key=str)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary()], ids=str)
def test_lists_of_an_empty_slice_are_written(ap: Apiary, kind: pa.DataType) -> None:
    lists = pa.ListArray.from_arrays([0, 0, 0], pa.array(["abc"], kind).slice(1))
    table = pa.table({"c": lists, "p": [1, 2]})
    frame = ap.create_frame("sliced", table.schema, partition_by=["p"])
    frame.write(table)
    assert frame.read("c").to_arrow()["c"].to_pylist() == [[], []]


@pytest.mark.parametrize("query", ["SELECT n, c FROM f ORDER BY n", "SELECT n, unnest(c) AS c FROM f"])
@pytest.mark.parametrize("free", [True, case("required fields in lists", False)])
def test_required_fields_of_what_is_null_do_no_harm(ap: Apiary, query: str, free: bool) -> None:
    required = pa.struct([pa.field("b", pa.int64(), nullable=False)])
    kind = pa.list_(pa.struct([pa.field("a", required, nullable=free)]))
    frame = ap.create_frame("f", pa.schema([("n", pa.int64()), ("c", kind)]))
    values = [[{"a": {"b": 1}}, None], [None]]
    for n, value in enumerate(values):
        frame.write({"n": [n], "c": [value]})
    found = ap.sql(query).to_arrow().sort_by("n")["c"].to_pylist()
    assert found == (values if "ORDER" in query else [item for value in values for item in value])


@pytest.mark.parametrize(
    "micros",
    [
        FIRST_DAY * DAY,
        (LAST_DAY + 1) * DAY - 1,
        case("partitions of far times", (LAST_DAY + 1) * DAY),
        case("partitions of far times", -400_000_000_000_000_000),
        2**63 - 1,
    ],
)
def test_a_time_that_is_no_partition_is_refused(ap: Apiary, micros: int) -> None:
    frame = ap.create_frame("times", pa.schema([("t", US), ("x", pa.int64())]), partition_by=["t"])
    frame.write(pa.table({"t": pa.array([0], US), "x": [0]}))
    try:
        frame.write(pa.table({"t": pa.array([micros], US), "x": [1]}))
    except apiary.ApiaryError:
        assert not FIRST_DAY * DAY <= micros < (LAST_DAY + 1) * DAY
    found = plain(frame.read().to_arrow()["t"])
    assert sorted(found) in ([0], sorted([0, micros]))


@pytest.mark.parametrize("name", ["a", "a..", case("partition column called ..", "..")])
def test_partition_columns_have_any_name_or_are_refused_at_once(ap: Apiary, name: str) -> None:
    schema = pa.schema([(name, pa.string()), ("x", pa.int64())])
    try:
        frame = ap.create_frame("named", schema, partition_by=[name])
    except apiary.SchemaError:
        return
    frame.write({name: ["p"], "x": [1]})
    assert frame.read().fetchall() == [("p", 1)]


@pytest.mark.parametrize("sign", [1.0, case("NaN with a sign", -1.0)])
def test_a_nan_of_either_sign_is_the_greatest_and_one_with_the_other(ap: Apiary, sign: float) -> None:
    frame = ap.create_frame("numbers", pa.schema([("x", pa.float64())]))
    frame.write({"x": [math.copysign(math.nan, sign), math.nan, 1.0]})
    asked = "count(*) FILTER (WHERE x > 1), count(*) FILTER (WHERE x < 1), (SELECT count(*) FROM numbers WHERE x > 1)"
    assert ap.sql(f"SELECT {asked} FROM numbers").fetchone() == (2, 0, 2)
    assert ap.sql("SELECT count(*) FROM (SELECT x FROM numbers GROUP BY x)").fetchone() == (2,)


@pytest.mark.parametrize("beside", ["", ", count(DISTINCT x + 1)"])
def test_zeros_of_both_signs_are_one_value(ap: Apiary, beside: str) -> None:
    frame = ap.create_frame("numbers", pa.schema([("x", pa.float64())]))
    frame.write({"x": [0.0, -0.0, 1.0]})
    assert ap.sql(f"SELECT count(DISTINCT x){beside} FROM numbers").to_arrow().column(0).to_pylist() == [2]


# --- JSON ----------------------------------------------------------------------------------------------------------


class Documents:
    """Random objects of one shape. The first has all parts, so that their types can be told."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.shape = self.object(3)
        first = self.value(self.shape, 0.0)
        self.all = [first, *[self.value(self.shape, 0.3) for _ in range(self.random.choice([0, 1, 5, 40]))]]

    def object(self, depth: int) -> Any:
        names = self.random.sample(NESTED_NAMES, self.random.randint(1, 4))
        return {name: self.part(depth - 1) for name in names}

    def part(self, depth: int) -> Any:
        kind = self.random.choice(["list", "object", "leaf"]) if depth > 0 else "leaf"
        if kind == "list":
            return [self.part(depth - 1)]
        return self.object(depth) if kind == "object" else self.random.choice(["integer", "number", "text", "flag"])

    def value(self, shape: Any, missing: float) -> Any:
        random = self.random
        if isinstance(shape, dict):
            return {name: self.value(part, missing) for name, part in shape.items() if random.random() >= missing}
        if random.random() < missing:
            return None
        if isinstance(shape, list):
            return [self.value(shape[0], missing) for _ in range(random.randint(0 if missing else 1, 3))]
        return {
            "integer": lambda: integer(random, pa.int64()),
            "number": lambda: random.choice([0.5, -1e300, 2.0**60 + 0.5, random.randint(-9, 9) + 0.25]),
            "text": lambda: text(random),
            "flag": lambda: random.random() < 0.5,
        }[shape]()

    def read(self, shape: Any, value: Any) -> Any:
        """A value as it is read: what is missing is null."""
        if value is None:
            return None
        if isinstance(shape, dict):
            return {name: self.read(part, value.get(name)) for name, part in shape.items()}
        return [self.read(shape[0], item) for item in value] if isinstance(shape, list) else value


@pytest.mark.parametrize("seed", seeds()[::5])
def test_random_json_is_read_back_equal(storage: Path, tmp_path: Path, seed: int) -> None:
    documents = Documents(seed)
    file = tmp_path / "random.json"
    file.write_text("".join(json_line(documents.random, document) + "\n" for document in documents.all))
    assert ingest(storage, file) == ""
    found = contents(storage)
    expected = [documents.read(documents.shape, document) for document in documents.all]
    assert sorted(map(by_text, found)) == sorted(map(by_text, expected))


def json_line(random: Random, document: Any) -> str:
    return json.dumps(document, ensure_ascii=random.random() < 0.5)


def ingest(storage: Path, file: Path) -> str:
    """Ingests a file; what was said when that failed."""
    command = [node_binary(), "ingest", file, "--into", "lab.json.documents", "--storage", storage, "--bees", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stderr if done.returncode else ""


def contents(storage: Path) -> list[dict[str, Any]]:
    with Apiary("test", storage=storage, bees=1, memory="256MB") as apiary:
        return apiary.frame("lab.json.documents").read().to_arrow().to_pylist()


def by_text(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


@pytest.mark.parametrize(
    "late",
    [
        case("JSON beyond a thousand lines", {"a": 1, "b": 2}),
        case("JSON fractions beyond a thousand lines", {"a": 1.5}),
    ],
)
def test_late_json_is_read_or_refused_but_not_cut(storage: Path, tmp_path: Path, late: dict[str, Any]) -> None:
    file = tmp_path / "late.json"
    file.write_text('{"a": 1}\n' * 2000 + json.dumps(late))
    refused = ingest(storage, file)
    assert "line" in refused or late in contents(storage)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        case("JSON null beside a list in a list", '{"a": [[1], null]}', [[1], None]),
        case("JSON escapes of U+1F41D", '{"a": "\\ud83d\\udc1d"}', "\U0001f41d"),
        case("JSON escapes of characters beyond U+1FFFF", '{"a": "\\ud842\\udfb7"}', "\U00020bb7"),
    ],
)
def test_a_json_value_is_read_as_it_is(storage: Path, tmp_path: Path, line: str, value: Any) -> None:
    file = tmp_path / "one.json"
    file.write_text(line)
    assert ingest(storage, file) == ""
    assert contents(storage) == [{"a": value}]


def test_json_escapes_are_read_wherever_the_file_is_cut(storage: Path, tmp_path: Path) -> None:
    file = tmp_path / "escaped.json"
    with file.open("w") as lines:
        for number in range(200):
            # Lines are longer than what is read of one at a time.
            text = "\\ud842\\udfb7" * 6000
            lines.write(f'{{"n": {number}, "a": "{text}"}}\n')
    with Apiary("test", storage=storage, bees=2, memory="1GB") as apiary:
        asked = f"SELECT count(*), sum(n), count(DISTINCT a), min(a) FROM '{file}'"
        assert apiary.sql(asked).fetchone() == (200, 19900, 1, "\U00020bb7" * 6000)


def test_json_in_one_array_is_refused_with_a_sentence(storage: Path, tmp_path: Path) -> None:
    file = tmp_path / "array.json"
    file.write_text('[{"a": 1}, {"a": 2}]')
    assert "is an array, and files of JSON are read that have an object on each line" in ingest(storage, file)
