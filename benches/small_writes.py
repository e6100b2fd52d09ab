"""Small writes: one row at a time from several threads, and a stream.

Measured: rows per second of one-row appends from threads of one process, each waiting for its own commit; and rows per
second that a stream takes, from its first append to the end of its ``close``, in batches of a row with ten columns.
Peer: the Python package ``deltalake`` doing the same one-row appends from as many threads on the same disk, each tried
again until it lands.
How to read it: the appends take turns with the peer's; every row must be there once. The ratio is rows/s of Apiary over
the peer's, median of the rounds with the smallest and the largest.

    python benches/small_writes.py
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from apiary import Apiary
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from support import print_conditions, print_table, ratios, spread

ROW = pa.table({"sensor": [7], "celsius": [20.5]})


def main() -> None:
    args = arguments()
    print_conditions("apiary", "deltalake", "pyarrow", threads=args.threads, appends=args.appends, rounds=args.rounds)
    ours, theirs, streamed = [], [], []
    for _ in range(args.rounds):
        ours.append(appends(args, apiary_appends))
        theirs.append(appends(args, delta_appends))
        streamed.append(stream(args))
    rows = [
        ["apiary, one row a commit", spread(ours, 0)],
        ["deltalake, one row a commit", spread(theirs, 0)],
        ["ratio", spread(ratios(ours, theirs))],
        ["apiary, stream", spread(streamed, 0)],
    ]
    print_table(["rows/s", "median (least to most)"], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=4, help="threads that append (default 4)")
    parser.add_argument("--appends", type=int, default=1000, help="appends of all threads (default 1000)")
    parser.add_argument("--stream-rows", type=int, default=2_000_000, help="rows of the stream (default 2 million)")
    parser.add_argument("--batch", type=int, default=1000, help="rows of one append to the stream (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    return parser.parse_args()


def appends(args: argparse.Namespace, run: Callable[[Path, argparse.Namespace], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return args.appends / run(Path(folder), args)


def in_threads(args: argparse.Namespace, append: Callable[[int], object]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as threads:
        list(threads.map(append, range(args.appends)))
    return time.perf_counter() - started


def apiary_appends(folder: Path, args: argparse.Namespace) -> float:
    with Apiary("bench", storage=folder, housekeeping=False) as ap:
        frame = ap.create_frame("t", ROW.schema)
        seconds = in_threads(args, lambda _: frame.write(ROW))
        assert frame.describe().rows == args.appends
        return seconds


def delta_appends(folder: Path, args: argparse.Namespace) -> float:
    write_deltalake(folder, ROW.slice(0, 0))

    def append(_: int) -> None:
        # It gives up after some tries: others were faster each time.
        while True:
            with contextlib.suppress(CommitFailedError):
                return write_deltalake(folder, ROW, mode="append")

    seconds = in_threads(args, append)
    assert DeltaTable(folder).to_pyarrow_table().num_rows == args.appends
    return seconds


def stream(args: argparse.Namespace) -> float:
    columns = {f"c{n}": pa.array(range(args.batch), pa.int64()) for n in range(8)}
    columns |= {"text": pa.array([f"sensor {n % 50}" for n in range(args.batch)])}
    batch = pa.table(columns | {"value": pa.array([n / 7 for n in range(args.batch)])})
    with tempfile.TemporaryDirectory() as folder, Apiary("bench", storage=Path(folder, "meadow")) as ap:
        frame = ap.create_frame("t", batch.schema)
        started = time.perf_counter()
        with frame.stream(buffer=Path(folder, "buffer")) as writer:
            for _ in range(args.stream_rows // args.batch):
                writer.append(batch)
        seconds = time.perf_counter() - started
        rows = args.stream_rows // args.batch * args.batch
        assert frame.describe().rows == rows
        return rows / seconds


if __name__ == "__main__":
    main()
