"""Every two operations on one frame at once, from two processes: what comes of it is what one order of them gives.

A round makes a small frame, has both processes wait for one moment, and compares what is there afterwards with a plain
list of rows to which the operations that succeeded are applied one after the other. Whoever is refused has left nothing
and was told of a conflict, or of what is wrong in that order (a column that the other renamed). The rules are in
``docs/conflicts.md``. ``APIARY_CONFLICT_ROUNDS`` is the number of rounds of each pair; ``-s`` prints the figures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement, count, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apiary import Apiary, ApiaryError, Frame
from deltalake import DeltaTable
from support import folder, rows, s3_options, script

ROUNDS = int(os.environ.get("APIARY_CONFLICT_ROUNDS", "1"))
SCHEMA = pa.schema([("id", pa.int64()), ("k", pa.int64()), ("v", pa.int64())])
#: What constraints allow of ``v``; a loud row has more.
LIMIT = 900
#: Of files that a vacuum may remove: beyond the seven days that it keeps everything.
OLD = 10 * 24 * 3600
#: How late an operation may begin, in milliseconds: many take no more than two.
DELAYS = (0, 0, 2, 5, 20)
#: What history calls an operation; a vacuum is in no history.
COMMITS = {
    "append": "WRITE",
    "overwrite": "WRITE",
    "delete": "DELETE",
    "update": "UPDATE",
    "merge": "MERGE",
    "optimize": "OPTIMIZE",
    "add column": "ADD COLUMNS",
    "rename column": "RENAME COLUMN",
    "add constraint": "ADD CONSTRAINT",
    "restore": "RESTORE",
    "stream": "STREAMING UPDATE",
}
OPERATIONS = [*list(COMMITS)[:6], "vacuum", *list(COMMITS)[6:]]
PAIRS = list(combinations_with_replacement(OPERATIONS, 2))
#: Rows that one of these adds come after what one of those does, also where they are first in the ledger.
ADDS, DECIDES = {"append", "stream"}, {"overwrite", "delete", "update", "merge"}

#: Whom another operation may cause to be refused with a conflict; all others run again by themselves.
CHANGES_TABLE = {"add column", "rename column", "add constraint", "restore"}
MAY_BE_REFUSED = {
    "append": CHANGES_TABLE,
    "overwrite": CHANGES_TABLE | DECIDES,
    "rename column": {"add constraint"},
}

PLAYER = """
import json, shutil, sys, time
import pyarrow as pa
from apiary import Apiary, ApiaryError

def table(rows):
    return pa.table({name: [row[name] for row in rows] for name in ("id", "k", "v")})

def where(job):
    return f"id IN ({', '.join(map(str, job['ids']))}) AND v >= 0"

def merge(ap, frame, job):
    values = ", ".join(f"({row['id']}, {row['k']}, {row['v']})" for row in job["rows"])
    matched = "" if job["only_inserts"] else "WHEN MATCHED THEN UPDATE SET v = t.v + s.v "
    merged = ap.sql(
        f"MERGE INTO {frame.name} AS t "
        f"USING (SELECT column1 AS id, column2 AS k, column3 AS v FROM (VALUES {values})) AS s ON t.id = s.id "
        f"{matched}WHEN NOT MATCHED THEN INSERT (id, k, v) VALUES (s.id, s.k, s.v)"
    )
    return merged.to_arrow().to_pylist()[0]

def prepared(ap, job):
    frame, do = ap.frame(job["frame"]), job["do"]
    frame.describe()
    if do in ("append", "overwrite"):
        rows = table(job["rows"])
        return (lambda: frame.write(rows)) if do == "append" else (lambda: frame.overwrite(rows))
    if do == "stream":
        stream = frame.stream(seconds=3600, buffer=job["buffer"])
        stream.append(table(job["rows"]))
        return stream.flush
    return {
        "delete": lambda: frame.delete(where(job)),
        "update": lambda: frame.update({"v": f"v * 3 + {job['plus']}"}, where(job)),
        "merge": lambda: merge(ap, frame, job),
        "optimize": lambda: frame.optimize(job["cluster_by"]),
        "vacuum": lambda: frame.vacuum(),
        "add column": lambda: frame.add_column(job["column"], "BIGINT"),
        "rename column": lambda: frame.rename_column(job["column"], job["to"]),
        "add constraint": lambda: frame.add_constraint(job["name"], f"v < {job['limit']}"),
        "restore": lambda: frame.restore(job["version"]),
        "read": lambda: frame.read().to_arrow().to_pylist(),
    }[do]

def result(done):
    if isinstance(done, int):
        return {"version": done, "changed": True}
    done = done._asdict() if hasattr(done, "_asdict") else done
    if not isinstance(done, dict):
        return {"rows": done if isinstance(done, list) and done and isinstance(done[0], dict) else []}
    cells = [done.get(name, 0) for name in ("cells", "cells_added", "cells_removed")]
    # A restore may have changed the columns only, an overwrite may have put nothing in the place of rows.
    unknown = "restored" in done or "cells" in done
    return {"version": done["version"], "changed": True if any(cells) else None if unknown else False}

def say(**facts):
    print(json.dumps(facts), flush=True)

with Apiary(sys.argv[1], storage=sys.argv[2], storage_options=json.loads(sys.argv[3]), bees=1, memory="64MB",
            housekeeping=False) as ap:
    say()
    for line in sys.stdin:
        job = json.loads(line)
        operation = prepared(ap, job)
        say()
        start = int(sys.stdin.readline())
        time.sleep(max(0, start - time.monotonic_ns() - 1_000_000) / 1e9)
        while time.monotonic_ns() < start:
            pass
        began, wall = time.monotonic_ns(), time.time_ns()
        try:
            outcome = result(operation())
        except ApiaryError as error:
            outcome = {"error": type(error).__name__, "message": str(error)}
        say(began=began, ended=time.monotonic_ns(), wall=wall, **outcome)
"""


class Refused(Exception):
    """An operation cannot be done on a table: any of these errors says so."""

    def __init__(self, *errors: str) -> None:
        super().__init__(*errors)
        self.errors = errors


@dataclass(frozen=True)
class Table:
    """What a frame should be: rows by the names of columns, and the largest value of a column, by constraint."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...] = ()
    checks: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: Whether cells that only older versions have are gone.
    swept: bool = False

    def need(self, columns: Iterable[str], *errors: str) -> None:
        if not set(columns) <= set(self.columns):
            raise Refused(*errors)

    def with_rows(self, made: list[dict[str, Any]]) -> Table:
        for column, limit in self.checks.values():
            if any(row[column] >= limit for row in made):
                raise Refused("SchemaError")
        return replace(self, rows=tuple(made))

    def listed(self, *, with_checks: bool) -> tuple[tuple[str, ...], list[tuple[Any, ...]], dict[str, str]]:
        """Its columns, rows and conditions, to be compared."""
        columns = {name: pa.array([row.get(name) for row in self.rows], pa.int64()) for name in self.columns}
        checks = {name: f"{column} < {limit}" for name, (column, limit) in self.checks.items()}
        return self.columns, rows(pa.table(columns)), checks if with_checks else {}


@dataclass(frozen=True)
class Round:
    """One round of two operations."""

    jobs: tuple[dict[str, Any], dict[str, Any]]
    #: What the versions of the frame are before it.
    versions: tuple[Table, ...]
    delays: tuple[float, float]

    def only_adds(self, version: int) -> bool:
        """Whether going back to a version brings rows back and takes none away."""
        return all(row in self.versions[version].rows for row in self.versions[-1].rows)

    def applied(self, side: int, table: Table) -> Table:
        job = self.jobs[side]
        return MODEL[job["do"]](table, job, self)


def append(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("kv", "SchemaError")
    return table.with_rows([*table.rows, *job["rows"]])


def stream(table: Table, job: dict[str, Any], round_: Round) -> Table:
    # It writes the columns that there were when it was opened.
    table.need(round_.versions[-1].columns, "SchemaError")
    return append(table, job, round_)


def overwrite(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("kv", "SchemaError")
    return table.with_rows(job["rows"])


def delete(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("v", "InvalidInputError")
    return replace(table, rows=tuple(row for row in table.rows if row["id"] not in job["ids"]))


def update(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("v", "NotFoundError", "InvalidInputError")
    return table.with_rows(
        [{**row, "v": row["v"] * 3 + job["plus"]} if row["id"] in job["ids"] else row for row in table.rows]
    )


def merge(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("kv", "NotFoundError", "InvalidInputError")
    source = {row["id"]: row for row in job["rows"]}
    there = {row["id"] for row in table.rows}
    new = [row for row in job["rows"] if row["id"] not in there]
    if job["only_inserts"]:
        return table.with_rows([*table.rows, *new])
    changed = [{**row, "v": row["v"] + source[row["id"]]["v"]} if row["id"] in source else row for row in table.rows]
    return table.with_rows([*changed, *new])


def optimize(table: Table, job: dict[str, Any], _: Round) -> Table:
    return table


def vacuum(table: Table, job: dict[str, Any], _: Round) -> Table:
    return replace(table, swept=job["old"])


def add_column(table: Table, job: dict[str, Any], _: Round) -> Table:
    if job["column"] in table.columns:
        raise Refused("SchemaError")
    return replace(table, columns=(*table.columns, job["column"]))


def rename_column(table: Table, job: dict[str, Any], _: Round) -> Table:
    column, to = job["column"], job["to"]
    if column not in table.columns:
        raise Refused("NotFoundError")
    if to in table.columns or any(column == checked for checked, _ in table.checks.values()):
        raise Refused("SchemaError")
    name = {column: to}
    return replace(
        table,
        columns=tuple(name.get(column, column) for column in table.columns),
        rows=tuple({name.get(column, column): value for column, value in row.items()} for row in table.rows),
    )


def add_constraint(table: Table, job: dict[str, Any], _: Round) -> Table:
    table.need("v", "InvalidInputError")
    if any(row["v"] >= job["limit"] for row in table.rows):
        raise Refused("SchemaError")
    if job["name"] in table.checks:
        raise Refused("AlreadyExistsError")
    return replace(table, checks={**table.checks, job["name"]: ("v", job["limit"])})


def restore(table: Table, job: dict[str, Any], round_: Round) -> Table:
    if table.swept and job["brings_back"]:
        raise Refused("NotFoundError")
    return replace(round_.versions[job["version"]], swept=table.swept)


MODEL: dict[str, Callable[[Table, dict[str, Any], Round], Table]] = {
    "append": append,
    "overwrite": overwrite,
    "delete": delete,
    "update": update,
    "merge": merge,
    "optimize": optimize,
    "vacuum": vacuum,
    "add column": add_column,
    "rename column": rename_column,
    "add constraint": add_constraint,
    "restore": restore,
    "stream": stream,
}


def cell(first: int) -> list[dict[str, Any]]:
    return [{"id": i, "k": i % 2, "v": i + 1} for i in range(first, first + 4)]


#: What is done to a new frame before a round, each one commit: a cell of four rows from an id on, the deletion of all
#: rows of the cell before (``None``), or a new column. Then versions to go back to, and whether that brings cells back.
SHAPES: dict[str, tuple[tuple[int | str | None, ...], tuple[tuple[int, bool], ...]]] = {
    "plain": ((0, 4, 8, None, 12), ((3, True), (2, False))),
    "gap": ((0, 4, 8, None), ((3, True), (1, False))),
    "empty": ((0, None), ((1, True),)),
    "wide": ((0, 4, "extra", 8), ((2, False), (1, False))),
}


def versions_of(shape: str) -> tuple[Table, ...]:
    versions = [Table(tuple(SCHEMA.names))]
    for step in SHAPES[shape][0]:
        last = versions[-1]
        if isinstance(step, str):
            versions.append(replace(last, columns=(*last.columns, step)))
        else:
            versions.append(replace(last, rows=last.rows[:-4] if step is None else (*last.rows, *cell(step))))
    return tuple(versions)


def job_of(do: str, side: int, meet: str, random_: random.Random) -> dict[str, Any]:
    """What one side does: to the ``same`` rows as the other, to others of the same ``cell``, or to ``others``."""
    targets = [(0, 1), {"same": (0, 1), "cell": (2, 3), "others": (4, 5)}[meet]]
    loud, other = random_.random() < 0.25, 1 - side

    def made(*ids: int) -> list[dict[str, Any]]:
        return [{"id": i, "k": 7, "v": (1000 if loud else 50) + side} for i in ids]

    column, to = {"same": ("v", f"w{side}"), "cell": ("kv"[side], "w"), "others": ("kv"[side], f"w{side}")}[meet]
    own = "" if meet == "same" else str(side)
    specifics: dict[str, dict[str, Any]] = {
        "append": {"rows": made(targets[other][0], 100 + side)},
        "stream": {"rows": made(targets[other][0], 100 + side)},
        "overwrite": {"rows": made(targets[other][0], 200 + side)},
        "delete": {"ids": targets[side]},
        "update": {"ids": targets[side], "plus": side + 1},
        "merge": {
            "rows": made(*targets[side], 100 + other, 200 + other, 300),
            "only_inserts": random_.random() < 0.5,
        },
        "optimize": {"cluster_by": random_.choice([None, "id"])},
        "add column": {"column": f"extra{own}"},
        "rename column": {"column": column, "to": to},
        "add constraint": {"name": f"c{own}", "limit": LIMIT},
    }
    return {"do": do, **specifics.get(do, {})}


def round_of(pair: tuple[str, str], number: int) -> tuple[str, Round]:
    """The shape of the frame and the round; the same for the same number."""
    random_ = random.Random(f"{pair} {number}")
    shape = random_.choice(["plain", "plain", "gap", "wide", "wide", "empty"])
    meet = random_.choice(["same", "cell", "others"])
    jobs = [job_of(do, side, meet, random_) for side, do in enumerate(pair)]
    for job in jobs:
        if job["do"] == "restore":
            job["version"], job["brings_back"] = random_.choice(SHAPES[shape][1])
    delays = tuple(random_.uniform(0, random_.choice(DELAYS)) for _ in jobs)
    return shape, Round((jobs[0], jobs[1]), versions_of(shape), (delays[0], delays[1]))


class Player:
    """A process that does one operation at a time."""

    def __init__(self, name: str, storage: object, options: dict[str, object]) -> None:
        self.process = script(PLAYER, name, storage, json.dumps(options))
        self.hear()

    def tell(self, word: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"the process ended\n{self.process.stderr.read()}")
        return json.loads(line)

    def end(self) -> None:
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err


@dataclass
class Told:
    """What one side was told."""

    facts: dict[str, Any]

    @property
    def error(self) -> str | None:
        return self.facts.get("error")

    @property
    def is_conflict(self) -> bool:
        return self.error == "ConflictError"


@dataclass
class Log:
    """What the files of a frame's ledger say."""

    operations: list[str]
    cells: set[str]
    checks: dict[str, str]
    is_mapped: bool
    #: When the file of each version was there, in nanoseconds since the epoch.
    moments: list[int]

    @classmethod
    def of(cls, place: Path) -> Log:
        log = cls([], set(), {}, False, [])
        for path in sorted(place.glob("_delta_log/*.json")):
            log.moments.append(path.stat().st_mtime_ns)
            for action in map(json.loads, path.read_text().splitlines()):
                if "commitInfo" in action:
                    log.operations.append(action["commitInfo"]["operation"])
                if "add" in action:
                    log.cells.add(action["add"]["path"])
                if "protocol" in action:
                    log.is_mapped = action["protocol"]["minReaderVersion"] > 1
                if "metaData" in action:
                    settings = action["metaData"].get("configuration", {}).items()
                    named = {
                        key.removeprefix("apiary.check."): value for key, value in settings if "apiary.check." in key
                    }
                    log.checks = named
        return log


class Arena:
    """Two players, and who looks at what they did."""

    def __init__(self, storage: object, options: dict[str, object], buffers: Path) -> None:
        self.storage, self.buffers, self.numbers = storage, buffers, count()
        self.shapes: dict[str, Frame] = {}
        self.judge = Apiary(
            "judge", storage=str(storage), storage_options=options, bees=1, memory="64MB", housekeeping=False
        )
        self.players = [Player(f"player{side}", storage, options) for side in range(2)]
        self.seen: dict[tuple[str, str], Counter[str]] = {}

    def close(self) -> None:
        for player in self.players:
            player.end()
        self.judge.close()

    def place(self, frame: Frame) -> Path | None:
        """The frame's folder, where it is one."""
        return Path(folder(self.storage, frame.name)) if isinstance(self.storage, Path) else None

    def frame(self, shape: str) -> Frame:
        """A frame of a shape: in a folder, a copy of the files of one, which takes a tenth of the time."""
        if not isinstance(self.storage, Path):
            return self.made(shape)
        if shape not in self.shapes:
            self.shapes[shape] = self.made(shape)
        like, frame = self.shapes[shape].name, self.judge.frame(f"lab.raw.f{next(self.numbers)}")
        shutil.copytree(folder(self.storage, like), folder(self.storage, frame.name))
        registry = self.storage / "_registry"
        shutil.copy(f"{folder(registry, like)}.json", f"{folder(registry, frame.name)}.json")
        return frame

    def made(self, shape: str) -> Frame:
        frame = self.judge.create_frame(f"lab.raw.f{next(self.numbers)}", SCHEMA)
        there: list[int] = []
        for step in SHAPES[shape][0]:
            if step is None:
                frame.delete(f"id >= {there.pop()}")
            elif isinstance(step, str):
                frame.add_column(step, "BIGINT")
            else:
                there.append(step)
                frame.write(cell(step))
        return frame

    def grow_old(self, frame: Frame) -> bool:
        """Makes the files of a frame so old that a vacuum removes what only older versions need."""
        place, then = self.place(frame), time.time() - OLD
        for path in place.rglob("*") if place else ():
            os.utime(path, (then, then))
        return place is not None

    def do(self, frame: Frame, jobs: list[dict[str, Any]], delays: tuple[float, float]) -> list[Told]:
        """Has both players do something at once."""
        for player, job in zip(self.players, jobs):
            player.tell(json.dumps({**job, "frame": frame.name, "buffer": str(self.buffers / f"{next(self.numbers)}")}))
        for player in self.players:
            player.hear()
        start = time.monotonic_ns() + 1_000_000
        for player, delay in zip(self.players, delays):
            player.tell(start + int(delay * 1e6))
        return [Told(player.hear()) for player in self.players]

    def play(self, pair: tuple[str, str], number: int) -> None:
        """One round; what is wrong with its outcome fails."""
        shape, round_ = round_of(pair, number)
        frame = self.frame(shape)
        if "vacuum" in pair:
            old = self.grow_old(frame)
            for job in round_.jobs:
                job["old"] = old
        told = self.do(frame, list(round_.jobs), round_.delays)
        self.count(pair, round_, frame, told)
        try:
            self.seen[pair]["not in the ledger's order"] += not self.check(frame, round_, told)
        except (AssertionError, ApiaryError) as error:
            facts = [told.facts for told in told]
            what = f"round {number} of {' and '.join(pair)}, a {shape} frame {frame.name}"
            raise AssertionError(f"{what}\n{round_.jobs}\n{facts}\n{error}") from error

    def count(self, pair: tuple[str, str], round_: Round, frame: Frame, told: list[Told]) -> None:
        """Counts how close the two were, and what they were told."""
        seen, errors = self.seen.setdefault(pair, Counter()), [t.error for t in told if t.error]
        seen["rounds"] += 1
        seen["overlapped"] += max(t.facts["began"] for t in told) < min(t.facts["ended"] for t in told)
        place, base = self.place(frame), len(round_.versions) - 1
        moments = Log.of(place).moments[base + 1 :] if place else []
        both_began_before_either_landed = len(moments) == 2 and max(t.facts["wall"] for t in told) < moments[0]
        seen["overtaken"] += both_began_before_either_landed or "ConflictError" in errors
        kind = "both" if not errors else "conflict" if "ConflictError" in errors else "error"
        seen[kind] += 1

    def check(self, frame: Frame, round_: Round, told: list[Told]) -> bool:
        """Whether the ledger has the order that the rows are of."""
        for side, one in enumerate(told):
            who, other = (round_.jobs[at]["do"] for at in (side, 1 - side))
            if one.is_conflict:
                assert other in MAY_BE_REFUSED.get(who, ()), f"{who} should run again"
                assert told[1 - side].error is None, "nobody was in the way"
                assert one.facts["ended"] > told[1 - side].facts["began"], "the other had not begun"
                assert one.facts["began"] < told[1 - side].facts["ended"], "the other had landed before"
        base, history = len(round_.versions) - 1, frame.history()[::-1]
        assert [entry.version for entry in history] == list(range(len(history)))
        ledger = [entry.operation for entry in history[base + 1 :]]
        found, place = frame.read().to_arrow(), self.place(frame)
        log = Log.of(place) if place else None
        there = (tuple(found.schema.names), rows(found), log.checks if log else {})
        orders = serial_orders(round_, told)
        assert orders, "no order of the two explains which of them succeeded"
        wanted = [(order, table.listed(with_checks=log is not None)) for order, table in orders]
        fitting = [order for order, listed in wanted if listed == there]
        assert fitting, f"there is\n{there}\nand orders give\n{wanted}"
        landed = ledger_orders(round_, told, ledger, base)
        assert landed, f"the ledger has {ledger}"
        agrees = any(tuple(side for side in o if side in commits) == commits for o in fitting for commits in landed)
        may_be = agrees or any(may_disagree(round_, commits) for commits in landed)
        assert may_be, f"the ledger has {landed}, but the rows are those of {fitting}"
        self.check_readers(frame, there[1], len(history))
        if place and log:
            check_files(place, log, there[1])
        return agrees

    def check_readers(self, frame: Frame, found: list[tuple[Any, ...]], versions: int) -> None:
        for told in self.do(frame, [{"do": "read"}] * 2, (0, 0)):
            assert told.error is None, told.facts
            assert sorted(map(str, found)) == sorted(str(tuple(row.values())) for row in told.facts["rows"])
        info = frame.describe()
        assert (info.version, info.rows) == (versions - 1, len(found))

    def report(self) -> str:
        """The figures, as a table: rounds of a pair where both succeeded, where one met a conflict (c), and where one
        met what is an error in that order (e)."""
        kinds = (("both", ""), ("conflict", "c"), ("error", "e"))

        def figures(pair: tuple[str, str]) -> str:
            seen = self.seen.get(pair, Counter())
            return " ".join(f"{seen[kind]}{mark}" for kind, mark in kinds if seen[kind])

        lines = [[name, *(figures((other, name)) for other in OPERATIONS)] for name in OPERATIONS]
        table = [["", *OPERATIONS], ["---"] * (len(OPERATIONS) + 1), *lines]
        total: Counter[str] = sum(self.seen.values(), Counter())
        return "\n".join(["", *("| " + " | ".join(line) + " |" for line in table), str(dict(total))])


def check_files(place: Path, log: Log, found: list[tuple[Any, ...]]) -> None:
    """Nothing is left of tries that did not land, and others read the same rows."""
    others = {path.name for path in place.iterdir() if path.is_file()} - log.cells
    assert not others, f"left behind: {others}"
    assert not [path for path in place.glob("_delta_log/*") if "#" in path.name]
    if not log.is_mapped:
        assert rows(DeltaTable(str(place)).to_pyarrow_table()) == found


def serial_orders(round_: Round, told: list[Told]) -> list[tuple[tuple[int, int], Table]]:
    """Orders in which those succeed that did, and the table that each gives. Whoever met a conflict did nothing."""
    found = []
    for order in ((0, 1), (1, 0)):
        table, fits = round_.versions[-1], True
        for side in order:
            if told[side].is_conflict:
                continue
            try:
                table = round_.applied(side, table)
                fits = fits and told[side].error is None
            except Refused as refused:
                fits = fits and told[side].error in refused.errors
        if fits:
            found.append((order, table))
    return found


def ledger_orders(round_: Round, told: list[Told], ledger: list[str], base: int) -> list[tuple[int, ...]]:
    """Which side can have made which of the commits since the version ``base``."""

    def made(side: int, at: int) -> bool:
        facts = told[side].facts
        is_named = COMMITS.get(round_.jobs[side]["do"]) == ledger[at] and told[side].error is None
        return is_named and facts.get("changed") is not False and facts.get("version", base + 1 + at) == base + 1 + at

    def may_be_left_out(side: int) -> bool:
        nothing = round_.jobs[side]["do"] == "vacuum" or told[side].error is not None
        return nothing or not told[side].facts.get("changed", True)

    def fits(order: tuple[int, ...]) -> bool:
        others = {0, 1} - set(order)
        return all(made(side, at) for at, side in enumerate(order)) and all(map(may_be_left_out, others))

    return [order for order in permutations(range(2), len(ledger)) if fits(order)]


def may_disagree(round_: Round, commits: tuple[int, ...]) -> bool:
    """Whether the rows may be those of the other order: what was added first can come after what did not see it."""
    names = [round_.jobs[side]["do"] for side in commits]
    return len(names) == 2 and names[0] in ADDS and names[1] in DECIDES


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    place = tmp_path_factory.mktemp("conflicts")
    arena = Arena(place / "meadow", {}, place / "buffers")
    yield arena
    arena.close()
    print(arena.report())


@pytest.fixture(scope="module")
def bucket(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    arena = Arena("s3://bucket/conflicts", s3_options(s3), tmp_path_factory.mktemp("buffers"))
    yield arena
    arena.close()
    print(arena.report())


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_at_once_are_as_one_after_the_other(arena: Arena, pair: tuple[str, str]) -> None:
    for number in range(ROUNDS):
        arena.play(pair, number)


def test_the_two_really_overlap(arena: Arena) -> None:
    pair = ("append", "update")
    began = [arena.seen.get(pair, Counter())[kind] for kind in ("rounds", "overlapped")]
    for number in range(6):
        arena.play(pair, number)
    played, overlapped = (arena.seen[pair][kind] - then for kind, then in zip(("rounds", "overlapped"), began))
    assert played == 6 and overlapped >= 3


@pytest.mark.parametrize(
    "pair",
    [
        ("append", "delete"),
        ("overwrite", "update"),
        ("update", "merge"),
        ("optimize", "restore"),
        ("add column", "stream"),
    ],
    ids=" and ".join,
)
def test_two_at_once_in_a_bucket(bucket: Arena, pair: tuple[str, str]) -> None:
    for number in range(ROUNDS):
        bucket.play(pair, number)
