"""Open: what a long history costs the first query of a node.

Measured: time of planning (``stats["planning_ms"]``) and requests to storage of the first query of a fresh Apiary, on a
frame with few commits and on one with many. Every commit overwrites one small cell, so that both frames hold one cell
of one row and differ in nothing but their history.
Peer: the frame with few commits; what is asked of the long one is that its checkpoint makes it as quick to open.
How to read it: the frames take turns; "ratio" is the long frame's figure over the short one's, in pairs, with the
smallest and the largest. "all requests" are those of the node from its start to the end of the query.

    python benches/open.py --commits 10 5000
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import need, print_conditions, print_table, ratios, spread

QUERY = "SELECT max(x) FROM bench.open.{} WHERE x >= 0"
BEES = 2


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow")
    print_conditions("apiary", bees=BEES, rounds=args.rounds)
    with place(args.data) as meadow:
        print_table(["commits", "commits/s while writing", "cells", "checkpoint"], build_all(meadow, args.commits))
        runs = measure(meadow, args.commits, args.rounds)
    report(runs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, nargs=2, default=[10, 5000], help="of the two frames (10 5000)")
    parser.add_argument("--rounds", type=int, default=15, help="fresh Apiaries for each frame (default 15)")
    parser.add_argument("--data", type=Path, help="folder to keep the frames in, for the next run")
    return parser.parse_args()


@contextlib.contextmanager
def place(kept: Path | None) -> Iterator[Path]:
    """The meadow's folder: the one given, else one for this run."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="apiary-open-") as name:
        yield Path(name)


def frame_name(commits: int) -> str:
    return f"after_{commits}"


def build_all(meadow: Path, sizes: list[int]) -> Iterator[tuple[str, ...]]:
    """Makes the frames, and says what each has become."""
    for commits in sizes:
        speed = build(meadow, commits)
        log = meadow / "bench" / "open" / frame_name(commits) / "_delta_log"
        cells = facts(meadow, commits).cells
        yield f"{commits:,}", speed, str(cells), checkpoint(log)


def build(meadow: Path, commits: int) -> str:
    """Overwrites a frame of one row until it has had its commits, creation not counted."""
    import pyarrow as pa
    from apiary import Apiary

    with Apiary("builder", storage=meadow, bees=BEES) as apiary:
        schema = pa.schema([("x", pa.int64())])
        frame = apiary.create_frame(f"bench.open.{frame_name(commits)}", schema, if_not_exists=True)
        first = frame.describe().version
        begin = time.perf_counter()
        for number in range(first, commits):
            frame.overwrite({"x": [number]})
            if number % 500 == 499:
                print(f"{number + 1} of {commits} commits", file=sys.stderr)
        seconds = time.perf_counter() - begin
    return f"{(commits - first) / seconds:,.0f}" if first < commits else "were there"


def facts(meadow: Path, commits: int) -> Any:
    from apiary import Apiary

    with Apiary("facts", storage=meadow, bees=BEES) as apiary:
        return apiary.frame(f"bench.open.{frame_name(commits)}").describe()


def checkpoint(log: Path) -> str:
    """Version of the newest checkpoint."""
    files = sorted(log.glob("*.checkpoint*.parquet"))
    return str(int(files[-1].name.split(".")[0])) if files else "none"


def measure(meadow: Path, sizes: list[int], rounds: int) -> dict[int, list[dict[str, float]]]:
    """What the first query took, by frame and round; one round before them warms up."""
    for commits in sizes:
        first_query(meadow, commits)
    runs: dict[int, list[dict[str, float]]] = {commits: [] for commits in sizes}
    for turn in range(rounds):
        for commits in sizes if turn % 2 == 0 else reversed(sizes):
            runs[commits].append(first_query(meadow, commits))
    return runs


def first_query(meadow: Path, commits: int) -> dict[str, float]:
    """Starts an Apiary and asks it one question."""
    from apiary import Apiary

    with Apiary("fresh", storage=meadow, bees=BEES) as apiary:
        result = apiary.sql(QUERY.format(frame_name(commits)))
        if result.fetchall() != [(commits - 1,)]:
            sys.exit(f"the frame of {commits} commits gave a wrong answer: {result!r}")
        return {**result.stats, "all_requests": apiary.status()["requests"]}


def report(runs: dict[int, list[dict[str, float]]]) -> None:
    print_table(
        ["commits", "planning ms", "query ms", "requests", "all requests"],
        [
            (
                f"{commits:,}",
                spread(of(found, "planning_ms"), 1),
                spread(of(found, "elapsed_ms"), 1),
                f"{statistics.median(of(found, 'requests')):g}",
                f"{statistics.median(of(found, 'all_requests')):g}",
            )
            for commits, found in runs.items()
        ],
    )
    few, many = runs.values()
    kinds = ("planning_ms", "elapsed_ms", "requests", "all_requests")
    print_table(["many/few", "ratio"], [(kind, spread(ratios(of(many, kind), of(few, kind)))) for kind in kinds])


def of(found: list[dict[str, float]], kind: str) -> list[float]:
    return [run[kind] for run in found]


if __name__ == "__main__":
    main()
