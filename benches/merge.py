"""MERGE of many rows into a large frame.

Measured: seconds and peak memory of an upsert into a copy of TPC-H's lineitem: nine tenths of the source's rows have
the keys of rows spread over the whole frame, a tenth is new. Ours under a budget, on so many bees.
Peer: the Python package ``deltalake`` doing the same on a copy of the same table, without any limit.
How to read it: one after the other, each in a process of its own; what both have made is compared. Below 1 ours is
faster.

    python benches/merge.py --meadow MEADOW_WITH_TPCH_SF10
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from apiary import Apiary
from support import need, print_conditions, print_table

PEAK = """
peak = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.monotonic() - begun, "peak": peak}))
"""
OURS = f"""
import apiary, json, sys, time
spec = json.loads(sys.argv[1])
with apiary.Apiary("merge", spec["meadow"], bees=spec["bees"], memory=spec["memory"], housekeeping=False) as ap:
    begun = time.monotonic()
    ap.sql("MERGE INTO ours AS t USING source AS s ON t.l_orderkey = s.l_orderkey AND t.l_linenumber = s.l_linenumber "
           "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *").fetchall()
{PEAK}"""
PEER = f"""
import json, sys, time
from deltalake import DeltaTable
spec = json.loads(sys.argv[1])
source = DeltaTable(spec["source"]).to_pyarrow_table()
begun = time.monotonic()
on = "t.l_orderkey = s.l_orderkey AND t.l_linenumber = s.l_linenumber"
merge = DeltaTable(spec["theirs"]).merge(source, predicate=on, source_alias="s", target_alias="t")
merge.when_matched_update_all().when_not_matched_insert_all().execute()
{PEAK}"""
# Larger than the key of any order: keys of which it is a part are new.
FAR = 10**12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meadow", type=Path, required=True, help="a meadow with TPC-H's frames")
    parser.add_argument("--box", default="sf10", help="their box in the hive tpch (default sf10)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the source (default 1 million)")
    parser.add_argument("--memory", default="1GB", help="the node's budget (default 1GB)")
    parser.add_argument("--bees", type=int, default=2)
    args = parser.parse_args()
    need("apiary", "deltalake", "pyarrow", duckdb="==2.*")
    print_conditions("apiary", "deltalake", rows=args.rows, memory=args.memory, bees=args.bees)
    with tempfile.TemporaryDirectory() as folder:
        meadow = Path(folder, "meadow")
        prepare(args, meadow)
        tables = meadow / "default" / "default"
        spec = {"meadow": str(meadow), "memory": args.memory, "bees": args.bees}
        ours = run(OURS, spec)
        theirs = run(PEER, {"source": str(tables / "source"), "theirs": str(tables / "theirs")})
        rows = [
            [name, f"{facts['seconds']:.1f}", f"{facts['peak'] / 1e6:,.0f}"]
            for name, facts in (("apiary", ours), ("deltalake", theirs))
        ]
        print_table(["merge", "s", "peak MB"], [*rows, ["ratio", f"{ours['seconds'] / theirs['seconds']:.2f}", ""]])
        found = [sums(tables / name) for name in ("ours", "theirs")]
    if found[0] != found[1]:
        sys.exit(f"the tables differ: {found[0]} and {found[1]}")


def prepare(args: argparse.Namespace, meadow: Path) -> None:
    """Makes two equal tables and the source."""
    import deltalake

    table = deltalake.DeltaTable(str(args.meadow / "tpch" / args.box / "lineitem"))
    cells = [uri.removeprefix("file://") for uri in table.file_uris()]
    with Apiary("prepare", meadow, bees=args.bees, memory="2GB", housekeeping=False) as ap:
        for name in ("ours", "theirs"):
            ap.sql(f"CREATE FRAME {name} AS SELECT * FROM '{Path(cells[0]).parent}/*.parquet'").fetchall()
        each = ap.sql("SELECT greatest(count(*) / $1, 1) FROM ours", [args.rows]).fetchone()[0]
        named = (column for column in ap.frame("ours").schema.names if column not in ("l_orderkey", "l_quantity"))
        ap.sql(
            f"CREATE FRAME source AS SELECT l_orderkey + CASE WHEN l_orderkey / 32 % 10 = 0 THEN {FAR} ELSE 0 END "
            f"AS l_orderkey, l_quantity + 1 AS l_quantity, {', '.join(named)} FROM ours "
            f"WHERE (l_orderkey * 7 + l_linenumber) % {each} = 0"
        ).fetchall()


def run(program: str, spec: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-c", program, json.dumps(spec)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def sums(table: Path) -> tuple[Any, ...]:
    """Facts of a table's newest version that both must agree in."""
    import deltalake
    import duckdb

    cells = [uri.removeprefix("file://") for uri in deltalake.DeltaTable(str(table)).file_uris()]
    asked = "count(*), sum(l_orderkey), sum(l_quantity), sum(l_orderkey % 1000003 * l_linenumber), max(l_comment)"
    return duckdb.read_parquet(cells).aggregate(asked).fetchall()[0]


if __name__ == "__main__":
    main()
