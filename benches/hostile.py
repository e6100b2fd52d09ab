"""Hostile queries beside a steady stream of small ones, in one process.

Measured: how each of more than forty queries that were made to hurt ends (an answer, or an error of which kind), the
process's peak of resident memory over the node budget, and how long small queries take beside them: their median and
95th percentile, as a ratio to the same process without hostile company.

Peer: the quiet process itself. How to read it: ``died`` or ``hung`` is a defect, as is a small query that failed. A
hostile query ends after ``--limit`` seconds with the error ``timed out``; that is an answer of the runtime, too.

    python benches/hostile.py --meadow /tmp/apiary-swarm/sf1/meadow
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import threading
import time

import apiary

WORDS = ", ".join(f"'{i:x}'" for i in range(200_000))
NUMBERS = ", ".join(str(i * 7) for i in range(300_000))
COLUMNS = (
    "l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, l_returnflag, "
    "l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment"
)

HOSTILE = {
    "cross join": "SELECT count(*) FROM lineitem a CROSS JOIN lineitem b",
    "cross join, computed": "SELECT sum(a.l_tax * b.l_tax) FROM lineitem a CROSS JOIN lineitem b",
    "cross join of three": "SELECT max(a.o_comment || b.o_comment || c.o_comment) FROM orders a, orders b, orders c",
    "join by inequality": "SELECT count(*) FROM orders a JOIN orders b ON a.o_totalprice < b.o_totalprice",
    "join by text": "SELECT count(*) FROM orders a JOIN orders b ON a.o_comment LIKE '%' || b.o_clerk || '%'",
    "join of few keys": "SELECT count(*) FROM lineitem a JOIN lineitem b ON a.l_linenumber = b.l_linenumber",
    "join of few keys, rows": "SELECT a.*, b.l_comment FROM lineitem a JOIN lineitem b USING (l_linenumber)",
    "outer join of few keys": "SELECT count(a.o_comment || b.o_comment) FROM orders a FULL JOIN orders b "
    "ON a.o_orderstatus = b.o_orderstatus",
    "anti join": "SELECT count(*) FROM orders WHERE o_orderkey NOT IN "
    "(SELECT l_orderkey + 0 * l_partkey FROM lineitem)",
    "array_agg": "SELECT array_agg(l_comment) FROM lineitem",
    "array_agg, ordered": "SELECT array_agg(l_comment ORDER BY l_extendedprice) FROM lineitem",
    "array_agg, distinct": "SELECT array_agg(DISTINCT l_comment) FROM lineitem",
    "array_agg of rows": f"SELECT array_agg(struct({COLUMNS})) FROM lineitem",
    "string_agg": "SELECT length(string_agg(l_comment, ',')) FROM lineitem",
    "group by everything": f"SELECT {COLUMNS}, count(*) FROM lineitem GROUP BY ALL",
    "many groups, many sums": "SELECT l_comment, sum(l_tax), avg(l_discount), min(l_shipdate), max(l_shipinstruct), "
    "stddev(l_quantity) FROM lineitem GROUP BY 1",
    "cube": f"SELECT {COLUMNS}, count(*) FROM lineitem GROUP BY CUBE ({COLUMNS})",
    "distinct of all": "SELECT count(*) FROM (SELECT DISTINCT * FROM lineitem JOIN orders ON l_orderkey = o_orderkey)",
    "distinct counts": "SELECT count(DISTINCT l_comment), count(DISTINCT l_partkey), count(DISTINCT l_orderkey) "
    "FROM lineitem",
    "median": "SELECT median(l_extendedprice), median(l_partkey), median(l_orderkey) FROM lineitem",
    "percentile by group": "SELECT l_suppkey, percentile_cont(0.9) WITHIN GROUP (ORDER BY l_extendedprice) "
    "FROM lineitem GROUP BY 1",
    "window over all": "SELECT sum(l_tax) OVER (ORDER BY l_comment, l_partkey) FROM lineitem",
    "window, one partition": "SELECT max(l_comment) OVER (), l_comment FROM lineitem",
    "window, sliding": "SELECT max(l_comment) OVER (ORDER BY l_orderkey ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW) "
    "FROM lineitem",
    "windows in many orders": "SELECT "
    + ", ".join(f"rank() OVER (ORDER BY {c})" for c in COLUMNS.split(", "))
    + " FROM lineitem",
    "sort of all": "SELECT * FROM lineitem ORDER BY random()",
    "huge strings": "SELECT sum(length(repeat(l_comment, 100000))) FROM lineitem",
    "one huge string": "SELECT length(repeat('x', 2000000000))",
    "padded": "SELECT length(lpad('x', 2147483647, 'ab'))",
    "padded rows": "SELECT max(lpad(l_comment, 10000000, 'ab')) FROM lineitem",
    "doubling strings": "WITH a AS (SELECT repeat('x', 100000000) AS s), b AS (SELECT s || s || s || s AS s FROM a), "
    "c AS (SELECT s || s || s || s AS s FROM b) SELECT length(s || s || s || s) FROM c",
    "replaced": "SELECT max(replace(repeat(l_comment, 1000), 'a', repeat('b', 1000))) FROM lineitem",
    "levenshtein": "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
    "giant IN list, numbers": f"SELECT count(*) FROM lineitem WHERE l_partkey IN ({NUMBERS})",
    "giant IN list, texts": f"SELECT count(*) FROM lineitem WHERE l_comment IN ({WORDS})",
    "giant VALUES": f"SELECT count(*) FROM (VALUES {', '.join(f'({i})' for i in range(200_000))})",
    "long OR": "SELECT count(*) FROM lineitem WHERE "
    + " OR ".join(f"l_partkey = {i} AND l_tax > 0.0{i % 9}" for i in range(5000)),
    "deep parentheses": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "deep sum": "SELECT " + "1+" * 50_000 + "1",
    "deep CASE": "SELECT " + "CASE WHEN l_tax > 0 THEN 1 ELSE " * 500 + "0" + " END" * 500 + " FROM lineitem",
    "deep functions": "SELECT " + "abs(" * 2000 + "1" + ")" * 2000,
    "deep NOT": "SELECT " + "NOT " * 20_000 + "true",
    "deep subqueries": "SELECT * FROM (" * 500 + "SELECT 1" + ")" * 500,
    "many unions": " UNION ALL ".join(["SELECT l_comment FROM lineitem"] * 1000),
    "many joins": "SELECT count(*) FROM nation n0 "
    + " ".join(f"JOIN nation n{i} ON n0.n_nationkey = n{i}.n_nationkey" for i in range(1, 150)),
    "many CTEs": "WITH "
    + ", ".join(
        f"c{i} AS (SELECT * FROM {'nation' if i == 0 else f'c{i - 1} UNION ALL SELECT * FROM c{i - 1}'})"
        for i in range(24)
    )
    + " SELECT count(*) FROM c23",
    "many columns": "SELECT " + ", ".join(f"l_tax + {i}" for i in range(20_000)) + " FROM lineitem",
    "regex, backtracking": "SELECT count(*) FROM lineitem WHERE l_comment ~ '^(([a-z ])+.)+[A-Z]([a-z ])+$'",
    "regex, exploding": "SELECT count(*) FROM lineitem WHERE l_comment ~ '(.{1,1000}){1,1000}'",
    "regex, wide": "SELECT count(*) FROM lineitem WHERE l_comment ~ '(?i)(\\w{0,200}\\s){0,40}x'",
    "regex replaced": "SELECT max(regexp_replace(l_comment, '(.)', '\\1\\1\\1\\1\\1\\1\\1\\1', 'g')) FROM lineitem",
    "recursion without end": "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    "recursion that doubles": "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT r.n FROM r, (VALUES (1), (2)) v(x)) "
    "SELECT count(*) FROM r",
    "endless series": "SELECT count(*) FROM generate_series(1, 1000000000000)",
    "huge range": "SELECT sum(x) FROM (SELECT unnest(range(0, 3000000000)) AS x)",
    "ranges": "SELECT count(*) FROM (SELECT unnest(range(0, l_partkey)) FROM lineitem)",
    "array_repeat": "SELECT array_length(array_repeat(1, 2000000000))",
    "split of huge": "SELECT array_length(string_to_array(repeat('a,', 200000000), ','))",
    "correlated": "SELECT count(*) FROM orders o WHERE o_totalprice > (SELECT avg(o_totalprice) FROM orders i "
    "WHERE i.o_custkey < o.o_custkey)",
    "all rows, nobody reads": "SELECT * FROM lineitem",
}


def main() -> None:
    """Runs the quiet part, then the hostile one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meadow", required=True, help="a meadow with TPC-H's frames")
    parser.add_argument("--use", default="USE HIVE tpch; USE BOX sf1", help="statements that find its frames")
    parser.add_argument("--memory", default="512MB")
    parser.add_argument("--bees", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that a hostile query may take")
    parser.add_argument("--at-once", type=int, default=3, help="hostile queries at the same time")
    parser.add_argument("--only", default="", help="part of the names of those to run")
    args = parser.parse_args()
    ap = apiary.Apiary("hostile", args.meadow, bees=args.bees, memory=args.memory)
    for statement in args.use.split(";"):
        ap.sql(statement)
    quiet = small_queries(ap, until=time.monotonic() + 5)
    print(f"quiet: {described(quiet)}; {resident() >> 20} MB resident")
    names = [name for name in HOSTILE if args.only in name]
    queue, outcomes, lock = iter(names), {}, threading.Lock()

    def attack() -> None:
        while True:
            with lock:
                name = next(queue, None)
            if name is None:
                return
            begun = time.monotonic()
            running.add(name)
            outcome = hurt(ap, HOSTILE[name], args.limit)
            running.discard(name)
            outcomes[name] = (outcome, time.monotonic() - begun, resident())
            took, held = outcomes[name][1:]
            print(f"{name:26} {took:6.1f} s {held >> 20:5} MB  {outcome}", flush=True)

    running: set[str] = set()

    def watch() -> None:
        while resident() < 4 << 30:
            time.sleep(0.02)
        print(f"GAVE UP at {resident() >> 20} MB: one of {sorted(running)} takes what it likes", flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    attackers = [threading.Thread(target=attack, daemon=True) for _ in range(args.at_once)]
    for attacker in attackers:
        attacker.start()
    beside = small_queries(ap, alive=lambda: any(a.is_alive() for a in attackers))
    print(f"beside: {described(beside)}; {p95(beside) / p95(quiet):.1f}x the quiet 95th percentile")
    late = [n for n in names if n not in outcomes or outcomes[n][1] > args.limit + 5]
    print(f"{len(outcomes)} of {len(names)} ended; peak {peak() >> 20} MB; later than their limit: {late or 'none'}")
    ap.close()


def hurt(ap: apiary.Apiary, sql: str, limit: float) -> str:
    """Runs one hostile query to its end, without keeping its rows."""
    try:
        rows = sum(batch.num_rows for batch in ap.sql(sql, time_limit=limit))
    except apiary.ApiaryError as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return f"{rows} rows"


def small_queries(ap: apiary.Apiary, until: float | None = None, alive=None) -> list[float]:
    """Asks small questions at a steady pace; the seconds of each."""
    times = []
    for key in itertools.count(1):
        if (until and time.monotonic() > until) or (alive and not alive()):
            return times
        begun = time.monotonic()
        rows = ap.sql("SELECT n_name FROM nation WHERE n_nationkey = $1", [key % 25]).to_pylist()
        assert len(rows) == 1, rows
        times.append(time.monotonic() - begun)
        time.sleep(0.05)
    return times


def p95(times: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(times, n=20)[-1]


def described(times: list[float]) -> str:
    """Median, 95th percentile and the longest."""
    return (
        f"{len(times)} small queries, median {statistics.median(times) * 1e3:.1f} ms, "
        f"p95 {p95(times) * 1e3:.1f} ms, longest {max(times) * 1e3:.0f} ms"
    )


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """The most that it ever had."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
