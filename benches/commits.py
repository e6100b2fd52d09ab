"""Concurrent commits: many processes append to one frame at once.

Measured: commits per second from the moment all processes may start to the end of the last one, and how long one append
takes for its caller, retries included. Each append is one row and one commit.
Peer: with ``--peer``, the Python package ``deltalake`` doing the same in a local folder of the same disk, before and
after.
How to read it: commits/s counts the appends that succeeded; "slowest append" shows how unfair waiting is. Every row
must be there exactly once and no append may fail: what breaks that is printed and, for Apiary, makes the exit code 1.

    python benches/commits.py                       # a local folder
    python benches/commits.py --s3                  # an S3 server of its own on the loopback
    python benches/commits.py --storage s3://bucket/meadow --storage-option region=eu-central-1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support import (
    answer,
    let_go,
    need,
    pairs,
    print_conditions,
    print_table,
    s3_server,
    start_child,
    wait_for_go,
)

FRAME = "bench.commits.{}"
HEADER = ["storage", "commits/s", "seconds", "median append ms", "slowest append ms", "exactly once"]


class Run(NamedTuple):
    """What one run of all processes gave."""

    label: str
    seconds: float
    answers: list[dict[str, Any]]
    wrong: list[str]
    ours: bool = True


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow", *(["deltalake"] if args.peer else []))
    if args.child:
        print(json.dumps(work(args)))
        return
    print_conditions("apiary", processes=args.processes, appends=args.appends)
    runs = list(all_runs(args))
    print_table(HEADER, map(line, runs))
    for run in runs:
        for message in run.wrong:
            print(f"- {run.label}: {message}")
    sys.exit(1 if any(run.wrong for run in runs if run.ours) else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", action="append", default=[], help="URL of a meadow; may be repeated")
    parser.add_argument("--storage-option", action="append", default=[], metavar="KEY=VALUE", help="of its storage")
    parser.add_argument("--s3", action="store_true", help="an S3 server (ministack) that this script starts")
    parser.add_argument("--peer", action="store_true", help="also deltalake, in a local folder")
    parser.add_argument("--processes", type=int, default=8, help="writers (default 8)")
    parser.add_argument("--appends", type=int, default=50, help="appends of each (default 50)")
    parser.add_argument("--child", nargs=3, metavar=("ENGINE", "TARGET", "WRITER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def all_runs(args: argparse.Namespace) -> Iterator[Run]:
    """A run for every storage that was asked for; a local folder when none was."""
    options = pairs(args.storage_option)
    for url in args.storage:
        yield frame_run(url, url, options, args)
    with tempfile.TemporaryDirectory(prefix="apiary-commits-") as name:
        place = Path(name)
        if args.s3:
            with s3_server(place) as settings:
                yield frame_run("S3 (ministack)", "s3://bench/meadow", settings, args)
        if args.peer:
            yield table_run(place / "before", args)
        if args.peer or not (args.s3 or args.storage):
            yield frame_run("local folder", str(place / "meadow"), {}, args)
        if args.peer:
            yield table_run(place / "after", args)


def frame_run(label: str, storage: str, options: dict[str, str], args: argparse.Namespace) -> Run:
    """One frame of its own, all processes, and what is in the frame then."""
    import pyarrow as pa
    from apiary import Apiary

    name = FRAME.format("f" + uuid.uuid4().hex[:12])
    with Apiary("judge", storage=storage, bees=1, memory="256MB", storage_options=options) as apiary:
        frame = apiary.create_frame(name, pa.schema([("writer", pa.int64()), ("append", pa.int64())]))
        seconds, answers = all_together("apiary", f"{storage} {name}", options, args)
        wrong = check(frame.read().fetchall(), frame.describe().version, answers, args)
        frame.drop()
    return Run(label, seconds, answers, wrong)


def table_run(folder: Path, args: argparse.Namespace) -> Run:
    """The same with deltalake."""
    import pyarrow as pa
    from deltalake import DeltaTable

    table = DeltaTable.create(str(folder), pa.schema([("writer", pa.int64()), ("append", pa.int64())]))
    seconds, answers = all_together("deltalake", str(folder), {}, args)
    table.update_incremental()
    data = pa.table(table.to_pyarrow_table())
    found = list(zip(*(data.column(name).to_pylist() for name in ("writer", "append"))))
    wrong = check(found, table.version(), answers, args)
    return Run(f"deltalake, local folder, {folder.name}", seconds, answers, wrong, ours=False)


def all_together(
    engine: str, target: str, options: dict[str, str], args: argparse.Namespace
) -> tuple[float, list[dict[str, Any]]]:
    """Starts the processes, lets them go at one moment and waits for all: seconds, and what each says."""
    shared = [f"--storage-option={key}={value}" for key, value in options.items()]
    writers = range(args.processes)
    children = [start_child(engine, target, writer, "--appends", args.appends, *shared) for writer in writers]
    begin = let_go(children)
    answers = [answer(child) for child in children]
    return max(found["end"] for found in answers) - begin, answers


def work(args: argparse.Namespace) -> dict[str, Any]:
    """The child: one writer's appends."""
    engine, target, writer = args.child
    open_target = {"apiary": frame_appender, "deltalake": table_appender}[engine]
    with open_target(target, pairs(args.storage_option)) as append:
        wait_for_go()
        return appends(append, int(writer), args.appends)


def appends(append: Callable[[Any], Any], writer: int, count: int) -> dict[str, Any]:
    """All appends of one writer; an error is counted, and the writer goes on."""
    import pyarrow as pa

    latencies, errors = [], []
    for number in range(count):
        begin = time.perf_counter()
        try:
            append(pa.table({"writer": [writer], "append": [number]}))
        except Exception as error:  # no error may reach a caller: whatever it is, it belongs in the report
            errors.append(f"{type(error).__name__}: {error}")
        latencies.append((time.perf_counter() - begin) * 1000)
    # perf_counter is one clock for all processes of a machine.
    return {"latencies": latencies, "errors": errors, "end": time.perf_counter()}


@contextlib.contextmanager
def frame_appender(target: str, options: dict[str, str]) -> Iterator[Callable[[Any], Any]]:
    from apiary import Apiary

    storage, name = target.rsplit(" ", 1)
    with Apiary("writer", storage=storage, bees=1, memory="64MB", storage_options=options) as apiary:
        yield apiary.frame(name).write


@contextlib.contextmanager
def table_appender(target: str, _: dict[str, str]) -> Iterator[Callable[[Any], Any]]:
    from deltalake import DeltaTable, write_deltalake

    table = DeltaTable(target)
    yield lambda data: write_deltalake(table, data, mode="append")


def check(
    rows: list[tuple[Any, ...]], version: int, answers: list[dict[str, Any]], args: argparse.Namespace
) -> list[str]:
    """What is not as it must be."""
    wanted = [(writer, number) for writer in range(args.processes) for number in range(args.appends)]
    found = Counter(rows)
    missing = [row for row in wanted if row not in found]
    more = {row: times for row, times in found.items() if times != 1}
    wrong = [f"append failed: {error} ({times} times)" for error, times in errors_of(answers).items()]
    if missing:
        wrong.append(f"{len(missing)} rows are missing, like (writer, append) {missing[0]}")
    if more:
        wrong.append(f"{len(more)} rows are there more than once: {dict(list(more.items())[:3])}")
    if version != len(wanted):
        wrong.append(f"the frame is at version {version}, not {len(wanted)}")
    return wrong


def errors_of(answers: list[dict[str, Any]]) -> Counter[str]:
    return Counter(error for found in answers for error in found["errors"])


def line(run: Run) -> list[str]:
    latencies = [taken for found in run.answers for taken in found["latencies"]]
    speed = f"{(len(latencies) - errors_of(run.answers).total()) / run.seconds:,.1f}"
    median, slowest = statistics.median(latencies), max(latencies)
    right = "no" if run.wrong else "yes"
    return [run.label, speed, f"{run.seconds:.2f}", f"{median:,.0f}", f"{slowest:,.0f}", right]


if __name__ == "__main__":
    main()
