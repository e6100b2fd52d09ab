"""Ingest: TPC-H lineitem from an Arrow stream into a frame.

Measured: rows per second and peak memory (``ru_maxrss``) of one write from a ``pyarrow.RecordBatchReader`` over the
generator's Parquet file, frame creation included and the opening of the Apiary not.
Peer: ``deltalake.write_deltalake`` with the same reader into a new table on the same disk. "reader alone" drains the
reader: what both pay before they do anything.
How to read it: each write is a process of its own, the writers take turns, and the first row of ratios is rows/s of
Apiary over the peer's (above 1: Apiary is faster), the second its peak memory over the peer's (below 1: Apiary is
leaner); median of the rounds with the smallest and the largest.

    python benches/ingest.py --scale 1
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import (
    answer,
    generate_tpch,
    need,
    print_conditions,
    print_table,
    ratios,
    spread,
    start_child,
    tpch_folder,
)

APIARY, PEER, READER = "apiary", "deltalake", "reader alone"


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow", "deltalake")
    if args.child:
        print(json.dumps(write(args)))
        return
    folder = args.data or tpch_folder(args.scale)
    generate_tpch(folder, args.scale)
    conditions = {"scale": f"{args.scale:g}", "bees": args.bees, "memory": args.memory or "default"}
    print_conditions("apiary", "deltalake", "pyarrow", **conditions, rounds=args.rounds)
    report(measure(folder, args))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1, help="scale factor (default 1: 6 million rows)")
    parser.add_argument("--rounds", type=int, default=3, help="writes of each (default 3)")
    parser.add_argument("--data", type=Path, help="folder of the generator's Parquet, made where it is missing")
    parser.add_argument("--bees", type=int, default=2, help="bees (default 2)")
    parser.add_argument("--memory", help="memory of all bees, like 1GB (default: the package's own default)")
    parser.add_argument("--child", nargs=3, metavar=("WRITER", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(folder: Path, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What each writer took in each round."""
    found: dict[str, list[dict[str, float]]] = {APIARY: [], PEER: [], READER: []}
    for _ in range(args.rounds):
        for writer, runs in found.items():
            runs.append(one_write(writer, folder / "lineitem.parquet", args))
            print(f"{writer}: {runs[-1]}", file=sys.stderr)
    return found


def one_write(writer: str, source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One write in a process of its own, on the disk of the data."""
    target = Path(tempfile.mkdtemp(prefix="ingest-", dir=source.parent))
    memory = ["--memory", args.memory] if args.memory else []
    try:
        return dict(answer(start_child(writer, source, target, "--bees", args.bees, *memory)))
    finally:
        shutil.rmtree(target)


def write(args: argparse.Namespace) -> dict[str, float]:
    """The child: one write, its seconds, rows and peak memory."""
    name, source, target = args.child
    run = {APIARY: into_frame, PEER: into_delta_table, READER: into_nothing}[name]
    seconds, count = run(source, target, args)
    # The parent imports nothing large: ru_maxrss would count what a parent had at the fork.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wanted = rows(source)
    found = count()
    if found != wanted:
        sys.exit(f"{name} wrote {wanted} rows and reads {found}")
    return {"rows": wanted, "seconds": seconds, "peak_mb": peak / 1024}


def stream(source: str) -> Any:
    """The file as a stream of record batches; read ahead as little as pyarrow can, so that the peak is the writer's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 16)
    return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(use_threads=False))


def rows(source: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(source).num_rows)


Written = tuple[float, Callable[[], int]]


def into_frame(source: str, target: str, args: argparse.Namespace) -> Written:
    from apiary import Apiary

    apiary = Apiary("ingest", storage=target, bees=args.bees, memory=args.memory)
    reader = stream(source)
    begin = time.perf_counter()
    frame = apiary.create_frame("tpch.bench.lineitem", reader.schema)
    frame.write(reader)
    seconds = time.perf_counter() - begin
    return seconds, lambda: int(apiary.sql("SELECT count(*) FROM tpch.bench.lineitem").fetchall()[0][0])


def into_delta_table(source: str, target: str, _: argparse.Namespace) -> Written:
    from deltalake import DeltaTable, write_deltalake

    reader = stream(source)
    begin = time.perf_counter()
    write_deltalake(target, reader)
    seconds = time.perf_counter() - begin
    return seconds, lambda: DeltaTable(target).count()


def into_nothing(source: str, *_: Any) -> Written:
    begin = time.perf_counter()
    count = sum(batch.num_rows for batch in stream(source))
    return time.perf_counter() - begin, lambda: count


def report(found: dict[str, list[dict[str, float]]]) -> None:
    speed = {writer: [run["rows"] / run["seconds"] for run in runs] for writer, runs in found.items()}
    peak = {writer: [run["peak_mb"] for run in runs] for writer, runs in found.items()}
    print_table(
        ["writer", "rows/s", "peak memory MB"],
        [(writer, spread(speed[writer], 0), spread(peak[writer], 0)) for writer in found],
    )
    print_table(
        [f"{APIARY}/{PEER}", "ratio"],
        [("rows/s", spread(ratios(speed[APIARY], speed[PEER]))), ("memory", spread(ratios(peak[APIARY], peak[PEER])))],
    )


if __name__ == "__main__":
    main()
