"""Wear: what goes to the local disk, whose flash wears out by what is written to it; and whether the day's limit holds.

Measured, by run:

- ``idle``: a node (``apiary-node run``), and a Python process that joined, each alone on a folder with one small frame,
  once they are as quiet as they get.
- ``tpch``: the 22 TPC-H queries on a meadow in a folder, in a process whose memory is too small for some of them.
- ``cache``: a frame on an S3 server, larger than the cache, that is scanned again and again; then the same with
  ``disk_writes_per_day``, in queries that each read a part of the frame, and in queries that each read all of it.

Each is a process of its own. "counted" is what ``status()["disk_written"]`` says; "written" and "dropped" are
write_bytes and cancelled_write_bytes of ``/proc/PID/io``: pages that the process has changed, and those of them that
were removed before they got to the disk; "calls" is wchar, what it handed to write calls. The file system's own writes,
for its journal, are in neither. A machine with little memory to spare drops less. A MB has 1,048,576 bytes.
Peer: none.
How to read it: what is not counted the limit does not know of, so "counted" must be what "calls" says, give or take a
twentieth. ``disk_writes_per_day`` stops spills at once and the cache within a fifth of a second: above it may be what
the cache wrote in that time, at most as much as a query reads. What is otherwise is printed below the tables and makes
the exit code 1.

    python benches/wear.py --meadow /data/sf10 --memory 800MB
    python benches/wear.py --runs idle,cache
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support import answer, need, node_binary, print_conditions, print_table, run_node, s3_server, start_child, stop
from tpch import numbers, query

HEADER = ["counted", "spill", "cache", "meadow", "written", "dropped", "calls"]
KB, MB = 1 << 10, 1 << 20
DAY = 86_400
# Seconds after which a node that has just started is as quiet as it gets: STAYS_QUICK of src/actors/pace.rs and a beat.
SETTLED = 25
SMALL = "CREATE FRAME small AS SELECT value AS x FROM generate_series(1, 1000)"
# Parts of the cache's frame: a query over one of them reads one cell.
PARTS = 16
PART = """
INSERT INTO wear SELECT value AS k, md5(CAST(value AS VARCHAR)) || md5(CAST(-value AS VARCHAR)) AS t
FROM generate_series({0} * {1} + 1, ({0} + 1) * {1})"""
SCAN = "SELECT count(*) AS n, sum(k) AS k, max(t) AS t FROM wear"
# A block's head, and what of a cell is read beside the columns.
PER_BLOCK = 1.02
# Of what is written, what must be counted; the rest may be logs and locks.
COUNTED = 0.95


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow")
    if args.child:
        spec = json.loads(args.child)
        print(json.dumps(CHILDREN[spec["run"]](spec)))
        return
    print_conditions("apiary", bees=args.bees, memory=args.memory)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="apiary-wear-", dir=args.place) as name:
        for run in args.runs:
            wrong += RUNS[run](args, Path(name))
    for message in wrong:
        print(f"- {message}")
    sys.exit(1 if wrong else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=lambda text: text.split(","), help="some of idle,tpch,cache (default all)")
    parser.add_argument("--place", type=Path, help="a folder on the disk, for what is temporary (default the system's)")
    parser.add_argument("--bees", type=int, default=2, help="bees (default 2)")
    parser.add_argument("--memory", default="800MB", help="memory of all bees (default 800MB)")
    parser.add_argument("--idle-seconds", type=float, default=120, help="how long nobody asks (default 120)")
    parser.add_argument("--meadow", type=Path, help="tpch: a meadow with TPC-H's frames")
    parser.add_argument("--box", default="sf10", help="tpch: their box in the hive tpch (default sf10)")
    parser.add_argument("--scale", type=float, default=10, help="tpch: their scale (default 10)")
    parser.add_argument("--queries", type=numbers, default=range(1, 23), help="tpch: some of them, like 1,6")
    parser.add_argument("--part-rows", type=int, default=100_000, help="cache: rows of a 16th of it (default 100000)")
    parser.add_argument("--passes", type=int, default=10, help="cache: scans of all (default 10)")
    parser.add_argument("--cache-limit", default="32MB", help="cache: of its folder (default 32MB)")
    parser.add_argument("--limit", type=int, default=48, help="cache: disk_writes_per_day in MB (default 48)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.runs = args.runs or [run for run in RUNS if run != "tpch" or args.meadow]
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"there is no run {', '.join(sorted(unknown))}")
    if "tpch" in args.runs and not args.meadow and not args.child:
        parser.error("the run tpch wants --meadow")
    return args


# --- The runs ---


def idle(args: argparse.Namespace, place: Path) -> list[str]:
    """A node that nobody asks anything, and a Python process that joined, at the same time on folders of their own."""
    for meadow in ("node", "python"):
        run_node("--storage", place / meadow, "sql", SMALL)
    joined = child("joined", args, storage=str(place / "python"), seconds=args.idle_seconds)
    node = subprocess.Popen([node_binary(), "--storage", place / "node", "run"], stderr=subprocess.DEVNULL)
    try:
        time.sleep(SETTLED)
        before = io(node.pid)
        time.sleep(args.idle_seconds)
        by_node = {name: now - before[name] for name, now in io(node.pid).items()}
    finally:
        stop(node)
    rows = []
    for name, facts in (("apiary-node run", by_node), ("Apiary(join=True)", answer(joined))):
        a_day = (facts["written"] - facts["dropped"]) * DAY / args.idle_seconds
        rows.append([name, *columns(facts, KB), f"{a_day / MB:,.0f} MB"])
    print_table([f"KB of {args.idle_seconds:g} idle seconds", *HEADER, "written a day, at that rate"], rows)
    return []


def tpch(args: argparse.Namespace, place: Path) -> list[str]:
    """The 22 queries, once each: those that wrote something, and all together."""
    scratch = place / "scratch"
    scratch.mkdir()
    places = {"storage": str(args.meadow), "scratch": str(scratch)}
    facts = answer(child("queries", args, **places, queries=list(args.queries)))
    header = [f"MB of TPC-H at scale {args.scale:g}, in {facts['seconds']:.0f} s", *HEADER]
    spilling = {name: asked for name, asked in facts["queries"].items() if asked["calls"] > MB}
    print_table(header, [[name, *columns(asked)] for name, asked in [*spilling.items(), ("all", facts)]])
    return facts["failed"] + [line for name, asked in spilling.items() for line in uncounted(name, asked)]


def cache(args: argparse.Namespace, place: Path) -> list[str]:
    """Scans of a frame that does not fit into the cache: without a limit, then with one."""
    (place / "s3").mkdir()
    with s3_server(place / "s3") as options:
        spec = {"storage": "s3://bench/meadow", "options": options, "passes": args.passes, "part_rows": args.part_rows}
        size = answer(child("fill", args, **spec))["bytes"]
        spec["cache_limit"] = args.cache_limit
        runs = {"no limit, a part a query": (PARTS, None), "limit, a part a query": (PARTS, args.limit * MB)}
        runs["limit, all in a query"] = (1, args.limit * MB)
        rows, wrong = [], []
        for name, (parts, limit) in runs.items():
            folder = place / name
            facts = answer(child("scans", args, **spec, cache=str(folder), parts=parts, limit=limit))
            most = limit and limit + size / parts * PER_BLOCK
            rows.append([name, *columns(facts), mb(facts["missed"]), mb(most) if most else "-"])
            wrong += facts["wrong"] + uncounted(name, facts)
            if most and max(facts["cache"], facts["written"]) > most:
                wrong.append(f"{name}: more than {mb(most)} MB were written")
    what = f"MB of {args.passes} scans of {mb(size)} MB, cache of {args.cache_limit}, limit {args.limit} MB a day"
    print_table([what, *HEADER, "fetched", "may be written"], rows)
    return wrong


def columns(facts: dict[str, float], unit: int = MB) -> list[str]:
    """Those of ``HEADER``; a node does not tell what it counted."""
    return [f"{facts[name] / unit:,.1f}" if name in facts else "-" for name in HEADER]


def uncounted(what: str, facts: dict[str, float]) -> list[str]:
    """What is to be said when bytes went to the disk that are in no count."""
    if facts["counted"] >= facts["calls"] * COUNTED:
        return []
    return [f"{what}: {mb(facts['calls'])} MB went to write calls, {mb(facts['counted'])} MB were counted"]


def mb(size: float) -> str:
    return f"{size / MB:,.1f}"


# --- What the processes do ---


def child(run: str, args: argparse.Namespace, **spec: Any) -> subprocess.Popen[str]:
    """A process that does one of ``CHILDREN``."""
    shared = {"run": run, "bees": args.bees, "memory": args.memory, "box": args.box, "scale": args.scale}
    return start_child(json.dumps(shared | spec))


def joined(spec: dict[str, Any]) -> dict[str, Any]:
    """A node within Python."""
    from apiary import Apiary

    with Apiary("wear", spec["storage"], join=True) as ap:
        time.sleep(SETTLED)
        before = now(ap)
        time.sleep(spec["seconds"])
        return since(before, ap)


def queries(spec: dict[str, Any]) -> dict[str, Any]:
    """TPC-H: each query, and all together."""
    from apiary import Apiary, ApiaryError

    settings = {"bees": spec["bees"], "memory": spec["memory"], "scratch": spec["scratch"], "housekeeping": False}
    queries, failed, begun = {}, [], time.monotonic()
    with Apiary("wear", spec["storage"], **settings) as ap:
        ap.sql("USE HIVE tpch")
        ap.sql(f"USE BOX {spec['box']}")
        for number in spec["queries"]:
            before = now(ap)
            try:
                ap.sql(query(number, spec["scale"])).to_arrow()
            except ApiaryError as error:
                failed.append(f"Q{number}: {error}")
            queries[f"Q{number}"] = since(before, ap)
        return now(ap) | {"queries": queries, "failed": failed, "seconds": time.monotonic() - begun}


def fill(spec: dict[str, Any]) -> dict[str, Any]:
    """Makes the frame that is scanned: its size."""
    from apiary import Apiary

    with Apiary("wear", spec["storage"], storage_options=spec["options"], housekeeping=False) as ap:
        ap.sql("CREATE FRAME wear (k BIGINT, t VARCHAR)")
        for part in range(PARTS):
            ap.sql(PART.format(part, spec["part_rows"]))
        return {"bytes": ap.frame("wear").describe().bytes}


def scans(spec: dict[str, Any]) -> dict[str, Any]:
    """Reads all of the frame several times, in so many queries each time."""
    from apiary import Apiary

    rows = PARTS * spec["part_rows"]
    step, wrong = rows // spec["parts"], []
    settings = {"cache": spec["cache"], "cache_limit": spec["cache_limit"], "disk_writes_per_day": spec["limit"]}
    # The day's count is kept there: each run has its own.
    settings["scratch"] = spec["cache"]
    settings |= {"storage_options": spec["options"], "bees": spec["bees"], "memory": spec["memory"]}
    with Apiary("wear", spec["storage"], **settings, housekeeping=False) as ap:
        for _ in range(spec["passes"]):
            begins = range(0, rows, step)
            found = [ap.sql(f"{SCAN} WHERE k > {begin} AND k <= {begin + step}").fetchone() for begin in begins]
            if [sum(n for n, _, _ in found), sum(k for _, k, _ in found)] != [rows, rows * (rows + 1) // 2]:
                wrong.append("a scan did not find all rows")
        return now(ap) | {"missed": ap.status()["cache"]["missed_bytes"], "wrong": wrong}


def now(ap: Any) -> dict[str, int]:
    """What has gone to the disk since the start, by the process's own count and by the system's."""
    parts = {name: ap.status()["disk_written"][name] for name in ("spill", "cache", "meadow")}
    return parts | {"counted": sum(parts.values())} | io(os.getpid())


def since(before: dict[str, int], ap: Any) -> dict[str, int]:
    """The same since then."""
    return {name: value - before[name] for name, value in now(ap).items()}


def io(pid: int) -> dict[str, int]:
    """What the system counts of a process."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    counts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return {"written": counts["write_bytes"], "dropped": counts["cancelled_write_bytes"], "calls": counts["wchar"]}


RUNS = {run.__name__: run for run in (idle, tpch, cache)}
CHILDREN = {work.__name__: work for work in (joined, queries, fill, scans)}


if __name__ == "__main__":
    main()
