"""Housekeeping under load: a frame that gets one row a commit, and what merging its cells costs queries.

Measured: how many cells the fed frame has, at every version and when it has come to rest, and how many merges that
took; and the times of two steady streams of queries, one over the fed frame, one over a frame that does not change. A
query's time counts from when it was due: one that holds others up is felt by them.
Peer: the same process with another fed frame, whose housekeeping is off. In each round both get the same number of
commits, one frame after the other; "quiet" is before the first, when nothing is fed.
How to read it: the ratio is that of the 95th percentiles over the unchanged frame, where the work is the same, with
housekeeping to without it. The frame without it is a new one in each round, so that it stays small, and queries over
fed frames are few, so that they leave the machine to the others; it has more cells all the same, which is to the good
of housekeeping. What is not as it must be is printed below the tables and makes the exit code 1.

    python benches/housekeeping.py
    python benches/housekeeping.py --commits 1250 --rounds 2      # a short one
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, chain
from typing import NamedTuple

import pyarrow as pa
from apiary import Apiary, Frame
from support import need, print_conditions, print_table, ratios, spread

ROW = pa.table({"sensor": [7], "celsius": [20.5]})
UNCHANGED = """CREATE FRAME unchanged AS
SELECT value % 50 AS sensor, CAST(value * 7919 % 1000 AS DOUBLE) / 20 AS celsius FROM generate_series(1, {})"""
QUERY = "SELECT sensor, avg(celsius) AS mean FROM {} GROUP BY sensor"
HOUSEKEEPING = "SELECT count(*) FROM system.queries WHERE statement LIKE 'housekeeping:%'"
MOST_CELLS = 50
MOST_DISTURBED = 1.3
# Longer than the housekeeper's LOOK of src/actors/housekeeper.rs, and than its QUIET.
AT_REST = 1.5
SETTLED = 30.0
PATIENCE = 180.0


class Segment(NamedTuple):
    """One frame's turn in a round: milliseconds of the queries, and how fast the commits came."""

    unchanged: list[float]
    fed: list[float]
    seconds: float


class Round(NamedTuple):
    """Both frames' turns."""

    off: Segment
    on: Segment
    merged: int
    """Merges of the other frame while the one without housekeeping had its turn."""


class Kept(NamedTuple):
    """What the ledger says of the frame whose house was kept."""

    cells: list[int]
    """At each version."""
    at_last_row: int
    seconds: float
    """From the last row to the last merge."""
    merges: int


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow")
    print_conditions("apiary", commits=args.commits, rounds=args.rounds, bees=args.bees, memory=args.memory)
    with tempfile.TemporaryDirectory() as folder, Apiary("bench", folder, bees=args.bees, memory=args.memory) as ap:
        ap.sql(UNCHANGED.format(args.rows))
        fed = ap.create_frame("fed", ROW.schema)
        quiet = segment(ap, fed, lambda: time.sleep(args.quiet), args)
        rounds = [one_round(ap, fed, number, args) for number in range(args.rounds)]
        settle(fed)
        kept, info = ledger(fed), fed.describe()
        rows = ap.sql("SELECT count(celsius) FROM fed").fetchone()[0]
    print_times({"quiet": [quiet], "off": [turn.off for turn in rounds], "on": [turn.on for turn in rounds]}, args)
    ratio, merged = print_ratio(rounds), sum(turn.merged for turn in rounds)
    print_cells(kept, info.cells, args)
    wrong = [
        (rows != args.commits, f"{rows} rows are there of {args.commits}"),
        (info.cells > MOST_CELLS, f"{info.cells} cells are left, more than {MOST_CELLS}"),
        (ratio > MOST_DISTURBED, f"the 95th percentile is {ratio:.2f} times that without housekeeping"),
        (merged > 0, f"{merged} merges fell into turns without housekeeping: take more rounds"),
    ]
    messages = [message for is_wrong, message in wrong if is_wrong]
    for message in messages:
        print(f"- {message}")
    sys.exit(1 if messages else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=10_000, help="commits to each kind of frame (default 10000)")
    parser.add_argument("--rounds", type=int, default=16, help="rounds that share them (default 16)")
    parser.add_argument("--quiet", type=float, default=10, help="seconds in which nothing is fed (default 10)")
    parser.add_argument("--rate", type=float, default=20, help="queries a second, unchanged frame (default 20)")
    parser.add_argument("--fed-rate", type=float, default=1, help="queries a second, fed frame (default 1)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the unchanged frame (default 1 million)")
    parser.add_argument("--bees", type=int, default=2, help="bees (default 2)")
    parser.add_argument("--memory", default="1GB", help="memory of all bees (default 1GB)")
    args = parser.parse_args()
    if args.rounds < 1 or args.commits % args.rounds:
        parser.error("the rounds must share the commits evenly")
    return args


def one_round(ap: Apiary, fed: Frame, number: int, args: argparse.Namespace) -> Round:
    """The frame without housekeeping, then the one with it, which comes to rest before the next round."""
    commits = args.commits // args.rounds
    other = ap.create_frame(f"fed_{number}", ROW.schema)
    ap.sql(f"ALTER FRAME {other.name} SET HOUSEKEEPING OFF")
    before = fed.describe().version
    off = segment(ap, other, lambda: feed(other, commits), args)
    merged = fed.describe().version - before
    other.drop()
    on = segment(ap, fed, lambda: feed(fed, commits), args)
    at_rest(ap)
    return Round(off, on, merged)


def feed(frame: Frame, commits: int) -> None:
    """One row a commit, as fast as they go."""
    for _ in range(commits):
        frame.write(ROW)


def segment(ap: Apiary, frame: Frame, work: Callable[[], None], args: argparse.Namespace) -> Segment:
    """Times both streams of queries while ``work`` is done."""
    with (
        asked(ap, QUERY.format("unchanged"), args.rate) as unchanged,
        asked(ap, QUERY.format(frame.name), args.fed_rate) as fed,
    ):
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
    return Segment(unchanged, fed, seconds)


@contextmanager
def asked(ap: Apiary, sql: str, rate: float) -> Iterator[list[float]]:
    """Asks so often a second from a thread; the list has the milliseconds when the block has ended."""
    times: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        due = time.perf_counter()
        while not ended.wait(max(0.0, due - time.perf_counter())):
            ap.sql(sql).fetchall()
            times.append((time.perf_counter() - due) * 1000)
            due += 1 / rate

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield times
        finally:
            ended.set()
        asking.result()


def at_rest(ap: Apiary) -> None:
    """Waits until no merge runs, nor is about to."""
    quiet_since, end = time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() - quiet_since < AT_REST:
        if ap.sql(HOUSEKEEPING).fetchone()[0]:
            quiet_since = time.monotonic()
        if time.monotonic() > end:
            sys.exit("housekeeping does not come to an end")
        time.sleep(0.1)


def settle(frame: Frame) -> None:
    """Waits until the frame's versions stay as they are."""
    begin = changed = time.monotonic()
    version = frame.describe().version
    while time.monotonic() - changed < SETTLED and time.monotonic() - begin < PATIENCE:
        time.sleep(0.25)
        if (now := frame.describe().version) != version:
            version, changed = now, time.monotonic()


def ledger(frame: Frame) -> Kept:
    """How the cells became more and fewer."""
    entries = frame.history()[::-1]
    cells = [*accumulate(entry.cells_added - entry.cells_removed for entry in entries)]
    last = max(n for n, entry in enumerate(entries) if entry.operation == "WRITE")
    seconds = (entries[-1].timestamp - entries[last].timestamp).total_seconds()
    return Kept(cells, cells[last], seconds, sum(entry.operation == "OPTIMIZE" for entry in entries))


def print_times(modes: dict[str, list[Segment]], args: argparse.Namespace) -> None:
    """How fast the commits came, and how long the queries took."""
    lines = []
    for mode, turns in modes.items():
        unchanged = [time for turn in turns for time in turn.unchanged]
        fed = [time for turn in turns for time in turn.fed]
        commits = "-" if mode == "quiet" else f"{args.commits / sum(turn.seconds for turn in turns):.0f}"
        lines.append([mode, commits, len(unchanged), *percentiles(unchanged), len(fed), *percentiles(fed)])
    columns = ["commits/s", "unchanged: queries", "p50 ms", "p95 ms", "fed: queries", "p50 ms", "p95 ms"]
    print_table(["housekeeping", *columns], lines)


def print_ratio(rounds: Sequence[Round]) -> float:
    """The ratio of the 95th percentiles over the unchanged frame, of all rounds together and of each."""
    on, off = [turn.on.unchanged for turn in rounds], [turn.off.unchanged for turn in rounds]
    ratio = p95([*chain(*on)]) / p95([*chain(*off)])
    each = spread(ratios([*map(p95, on)], [*map(p95, off)]))
    print_table(["unchanged frame, on to off", "ratio"], [["p95", f"{ratio:.2f}"], ["p95 of each round", each]])
    return ratio


def print_cells(kept: Kept, at_rest: int, args: argparse.Namespace) -> None:
    """How many cells the fed frame had."""
    rows = [
        ["at most", max(kept.cells)],
        ["median of its versions", f"{statistics.median(kept.cells):.0f}"],
        ["with the last row", kept.at_last_row],
        [f"at rest, {kept.seconds:.1f} s later", at_rest],
        [f"without the {kept.merges} merges", args.commits],
    ]
    print_table(["the fed frame", "cells"], rows)


def percentiles(times: Sequence[float]) -> list[str]:
    return [f"{statistics.median(times):.1f}", f"{p95(times):.1f}"]


def p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()
