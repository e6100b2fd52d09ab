"""A hard limit: the 22 TPC-H queries at scale 10 in a process that the system lets have 1 GB, or 512 MB.

Measured: wall time of each query, each in a process of its own, in a cgroup whose memory controller counts all of it,
the page cache included; the process's peak of resident memory; whether the answer is that of DuckDB without a limit.
Peer: DuckDB in the same cgroup on the same cells, with a ``memory_limit`` of 70 % of it and as many threads as bees.
How to read it: "total" are the seconds of the queries that both finished. A query that failed or was wrong makes the
exit code 1. Needs a cgroup v1 memory controller that can be written.

    python benches/budget.py --meadow /data/sf10 --limit 1GB --memory 800MB
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

from support import need, print_conditions, print_table
from tpch import TABLES, query, same

CGROUPS = Path("/sys/fs/cgroup/memory")
PEER = """
import duckdb, json, sys, time
spec = json.loads(sys.argv[1])
db = duckdb.connect(config={"threads": spec["threads"]} | ({"memory_limit": spec["memory"]} if spec["memory"] else {}))
db.execute("SET enable_progress_bar = false")
db.execute(f"SET temp_directory = '{spec['scratch']}'")
for table, files in spec["tables"].items():
    db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files!r})")
begun = time.monotonic()
rows = db.execute(spec["sql"]).to_arrow_table()
import pyarrow.feather as feather
feather.write_feather(rows, spec["answer"])
peak = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.monotonic() - begun, "peak": peak}))
"""
OURS = """
import apiary, json, sys, time
spec = json.loads(sys.argv[1])
begun = time.monotonic()
with apiary.Apiary("budget", spec["meadow"], bees=spec["threads"], memory=spec["memory"], housekeeping=False) as ap:
    ap.sql("USE HIVE tpch")
    ap.sql(f"USE BOX {spec['box']}")
    rows = ap.sql(spec["sql"]).to_arrow()
    import pyarrow.feather as feather
    feather.write_feather(rows, spec["answer"])
peak = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.monotonic() - begun, "peak": peak}))
"""


def main() -> None:
    """Runs every query three times: by the peer without a limit, by it in the cgroup, by ours in the cgroup."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meadow", type=Path, required=True, help="a meadow with TPC-H's frames")
    parser.add_argument("--box", default="sf10")
    parser.add_argument("--scale", type=float, default=10)
    parser.add_argument("--limit", default="1GB", choices=["1GB", "512MB"])
    parser.add_argument("--memory", default="800MB", help="the node's budget")
    parser.add_argument("--bees", type=int, default=2)
    parser.add_argument("--queries", type=lambda text: [int(n) for n in text.split(",")], default=range(1, 23))
    args = parser.parse_args()
    need("apiary", "pyarrow", "deltalake", duckdb="==2.*")
    limit = {"1GB": 1 << 30, "512MB": 512 << 20}[args.limit]
    print_conditions("apiary", "duckdb", scale=f"{args.scale:g}", limit=args.limit, memory=args.memory, bees=args.bees)
    rows, bad, totals = [], [], [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        spec = {"scratch": folder, "threads": args.bees, "tables": cells(args.meadow, args.box)}
        for number in args.queries:
            spec["sql"] = query(number, args.scale)
            right = run(PEER, spec | {"memory": None, "answer": f"{folder}/right"}, None)
            peer = run(PEER, spec | {"memory": f"{limit * 7 // 10 >> 20}MB", "answer": f"{folder}/peer"}, limit)
            ours = spec | {
                "memory": args.memory,
                "meadow": str(args.meadow),
                "box": args.box,
                "answer": f"{folder}/ours",
            }
            got = run(OURS, ours, limit)
            verdict = got.get("error") or ("right" if equal(f"{folder}/ours", f"{folder}/right") else "WRONG")
            bad += [number] if verdict != "right" or "error" in right else []
            if "seconds" in got and "seconds" in peer:
                totals = [totals[0] + got["seconds"], totals[1] + peer["seconds"]]
            shown = [
                f"{r['seconds']:.1f} s, {r['peak'] >> 20} MB" if "seconds" in r else r["error"] for r in (got, peer)
            ]
            rows.append([f"Q{number}", *shown, verdict])
            print(*rows[-1], sep=" | ", flush=True)
    print_table(["query", "apiary", "duckdb", "answer"], rows)
    print(
        f"total: {totals[0]:.1f} s, duckdb {totals[1]:.1f} s: {totals[0] / max(totals[1], 0.1):.2f}x; "
        f"not right: {bad or 'none'}"
    )
    sys.exit(bool(bad))


def cells(meadow: Path, box: str) -> dict[str, list[str]]:
    """The files of each table, by its ledger."""
    import deltalake

    tables = {name: deltalake.DeltaTable(str(meadow / "tpch" / box / name)) for name in TABLES}
    return {name: [uri.removeprefix("file://") for uri in table.file_uris()] for name, table in tables.items()}


def run(program: str, spec: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Runs ``program`` in a cgroup of so many bytes; its facts, or its error."""
    group = CGROUPS / f"apiary-budget-{os.getpid()}"
    command = [sys.executable, "-c", program, json.dumps(spec)]
    try:
        if limit:
            group.mkdir()
            (group / "memory.limit_in_bytes").write_text(str(limit))
            command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    finally:
        if group.exists():
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return {"error": f"killed ({-done.returncode})" if done.returncode < 0 or done.returncode == 137 else last[:100]}


def equal(ours: str, theirs: str) -> bool:
    """Whether two answers are the same rows."""
    from pyarrow import feather

    return same(feather.read_table(ours), feather.read_table(theirs))


if __name__ == "__main__":
    main()
