"""Solo speed: the 22 TPC-H queries on one machine.

Measured: wall time of one query, from its text to a pyarrow table, with everything warm, in one process.
Peers: the same query on plain DataFusion 55 (``target_partitions`` = bees) and on DuckDB 2.0 (``threads`` = bees), both
on the generator's own Snappy Parquet files; Apiary reads the frames that ``generate tpch`` makes of the same rows.
How to read it: every round runs a query on all three engines one after the other, in an order that rotates, and gives
one ratio per peer; the table shows each query's median time and its median ratio with the smallest and the largest.
A ratio below 1 means that Apiary is faster. "geometric mean" is taken over the queries of a round, so that its spread
is that of the rounds. The process is held to as many cores as there are bees. Answers are compared once: where they
differ, the query is named and the exit code is 1.

    python benches/tpch.py --scale 1 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from support import (
    ROOT,
    generate_tpch,
    need,
    print_conditions,
    print_table,
    ratios,
    run_node,
    spread,
    tpch_folder,
)

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
PEERS = ("datafusion", "duckdb")
ENGINES = ("apiary", *PEERS)

Ask = Callable[[str], Any]
Times = dict[int, dict[str, list[float]]]


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow", datafusion="==55.*", duckdb="==2.*")
    folder = args.data or tpch_folder(args.scale)
    make_data(folder, args.scale)
    hold_to_cores(args.bees)
    print_conditions(
        "apiary", *PEERS, scale=f"{args.scale:g}", bees=args.bees, memory=args.memory or "default", rounds=args.rounds
    )
    texts = {number: query(number, args.scale) for number in args.queries}
    with contextlib.ExitStack() as stack:
        apiary = stack.enter_context(open_apiary(folder, args))
        engines = {"apiary": apiary.ask, "datafusion": datafusion(folder, args.bees), "duckdb": duckdb(folder, args)}
        texts, wrong = warm_up(engines, texts)
        times = measure(engines, texts, args.rounds)
        print_table(HEADER, [*(line(number, times[number], apiary.facts(texts[number])) for number in texts)])
    print_summary(times)
    for message in wrong:
        print(f"- {message}")
    sys.exit(1 if wrong else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1, help="scale factor (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one warm-up (default 5)")
    parser.add_argument("--queries", type=numbers, default=list(range(1, 23)), help="some of them, like 1,6")
    parser.add_argument("--data", type=Path, help="folder of the data, made where it is missing")
    parser.add_argument("--bees", type=int, default=2, help="bees, and the peers' threads (default 2)")
    parser.add_argument("--memory", help="memory of all bees, like 2GB (default: the package's own default)")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """Query numbers, separated by commas."""
    chosen = [int(number) for number in text.split(",")]
    if not all(1 <= number <= 22 for number in chosen):
        raise argparse.ArgumentTypeError("queries are 1 to 22")
    return chosen


def make_data(folder: Path, scale: float) -> None:
    """The plain files, and the frames of the same rows; what is there is left."""
    generate_tpch(folder, scale)
    run_node("--storage", folder / "meadow", "generate", "tpch", "--scale", f"{scale:g}", "--into", box(scale))


def box(scale: float) -> str:
    """Where the frames of a scale are."""
    return "tpch.sf" + f"{scale:g}".replace(".", "_")


def hold_to_cores(count: int) -> None:
    """No engine gets more cores than another, whatever threads it starts."""
    os.environ["TOKIO_WORKER_THREADS"] = str(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def query(number: int, scale: float) -> str:
    """Text of a query; the fraction of query 11 depends on the scale."""
    text = (ROOT / "src" / "bin" / "apiary-node" / "tpch" / f"q{number}.sql").read_text()
    return re.sub(r"\* 0\.0001\b", f"* {0.0001 / scale:.10f}", text) if number == 11 else text


class Ours:
    """Apiary on its frames."""

    def __init__(self, apiary: Any) -> None:
        self._apiary = apiary

    def ask(self, text: str) -> Any:
        return self._apiary.sql(text).to_arrow()

    def facts(self, text: str) -> dict[str, Any]:
        """What Apiary itself says of one run."""
        result = self._apiary.sql(text)
        result.to_arrow()
        return dict(result.stats)


@contextlib.contextmanager
def open_apiary(folder: Path, args: argparse.Namespace) -> Iterator[Ours]:
    from apiary import Apiary

    with Apiary("tpch", storage=folder / "meadow", bees=args.bees, memory=args.memory) as apiary:
        hive, _, name = box(args.scale).partition(".")
        apiary.sql(f"USE HIVE {hive}")
        apiary.sql(f"USE BOX {name}")
        yield Ours(apiary)


def datafusion(folder: Path, partitions: int) -> Ask:
    """Plain DataFusion on the plain files."""
    from datafusion import SessionConfig, SessionContext

    context = SessionContext(SessionConfig().with_target_partitions(partitions))
    for table in TABLES:
        context.register_parquet(table, str(folder / f"{table}.parquet"))
    return lambda text: context.sql(text).to_arrow_table()


def duckdb(folder: Path, args: argparse.Namespace) -> Ask:
    """DuckDB on the plain files."""
    import duckdb

    connection = duckdb.connect(config={"threads": args.bees})
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{folder / table}.parquet')")
    return lambda text: connection.execute(text).to_arrow_table()


def warm_up(engines: dict[str, Ask], texts: dict[int, str]) -> tuple[dict[int, str], list[str]]:
    """Runs every query once on each engine: the queries that ran, and what was wrong with answers and the others."""
    ran, wrong = {}, []
    for number, text in texts.items():
        try:
            answers = {engine: ask(text) for engine, ask in engines.items()}
        except Exception as error:  # every engine has errors of its own, and one query must not end the bench
            wrong.append(f"Q{number} failed: {type(error).__name__}: {error}")
            continue
        ran[number] = text
        wrong += [f"Q{number} differs from {peer}" for peer in PEERS if not same(answers["apiary"], answers[peer])]
    return ran, wrong


def same(ours: Any, theirs: Any) -> bool:
    """Whether two tables hold the same values, column by column in any order; the tests compare rows."""
    if (ours.num_rows, ours.num_columns) != (theirs.num_rows, theirs.num_columns):
        return False
    columns = zip(ours.columns, theirs.columns)
    return all(all(map(equal, values(our), values(their))) for our, their in columns)


def values(column: Any) -> list[Any]:
    return sorted(column.to_pylist(), key=lambda value: (value is None, value))


def equal(ours: Any, theirs: Any) -> bool:
    """A mean of decimals is a decimal here and a float there."""
    if isinstance(ours, (float, Decimal)) and isinstance(theirs, (float, Decimal)):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-5)
    return bool(ours == theirs)


def measure(engines: dict[str, Ask], texts: dict[int, str], rounds: int) -> Times:
    """Milliseconds by query, engine and round."""
    times: Times = {number: defaultdict(list) for number in texts}
    for turn in range(rounds):
        order = [*ENGINES[turn % 3 :], *ENGINES[: turn % 3]]
        for number, text in texts.items():
            for engine in order:
                begin = time.perf_counter()
                engines[engine](text)
                times[number][engine].append((time.perf_counter() - begin) * 1000)
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr)
    return times


HEADER = ["query", *(f"{engine} ms" for engine in ENGINES), *(f"apiary/{peer}" for peer in PEERS)]
HEADER += ["planning ms", "bees", "tasks", "requests", "MB read"]


def line(number: int, times: dict[str, list[float]], facts: dict[str, Any]) -> list[str]:
    medians = [f"{statistics.median(times[engine]):,.1f}" for engine in ENGINES]
    paired = [spread(ratios(times["apiary"], times[peer])) for peer in PEERS]
    told = [f"{facts['planning_ms']:.1f}", facts["bees"], facts["tasks"], facts["requests"]]
    return [f"Q{number}", *medians, *paired, *map(str, told), f"{facts['bytes_read'] / 1e6:.1f}"]


def print_summary(times: Times) -> None:
    if times:
        header = ["apiary to", "geometric mean", "all queries' time", "worst query"]
        print_table(header, [summary(peer, times) for peer in PEERS])


def summary(peer: str, times: Times) -> list[str]:
    """One peer's ratios: geometric mean and total of each round, and the query where Apiary does worst."""
    by_round = list(zip(*(ratios(query["apiary"], query[peer]) for query in times.values())))
    totals = [[sum(turn) for turn in zip(*(query[engine] for query in times.values()))] for engine in ("apiary", peer)]
    worst = max(times, key=lambda number: statistics.median(ratios(times[number]["apiary"], times[number][peer])))
    worst_ratio = statistics.median(ratios(times[worst]["apiary"], times[worst][peer]))
    means = [statistics.geometric_mean(turn) for turn in by_round]
    return [peer, spread(means), spread(ratios(*totals)), f"Q{worst}: {worst_ratio:.2f}"]


if __name__ == "__main__":
    main()
