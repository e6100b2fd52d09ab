"""The swarm: nodes of one machine, each a process of its own, that share queries over one meadow.

Measured, by subcommand:

- ``answers``: the 22 TPC-H queries on swarms of several sizes: each must be split and give what one node alone gives.
- ``random``: random queries, on four nodes: each must be split and give what one node alone gives.
- ``scaling``: a scan with an aggregate and a partitioned join on 1, 2 and 4 nodes with half a core each.
- ``exchange``: bytes and requests of one shuffle between 2, 4 and 8 nodes, next to what a formula expects.
- ``idle``: requests of a swarm that nobody asks anything, and what they cost at S3's list price.
- ``kills``: a worker is killed (SIGKILL) at a random moment of a query; the answer must be right all the same.
- ``leader``: the process that asks is killed at a random moment; how long until nothing is left of its query.
- ``stragglers``: one node gets a fifth of the others' processor.
- ``cutoff``: a worker cannot reach the S3 server for a while in the middle of a query.
- ``clocks``: nodes whose wall clocks are hours and a year off (needs the program ``faketime``).
- ``unlike``: a node with 256 MB and one with 2 GB share a join that the small one could not hold.
- ``cache``: the second scan of a bucket that is 80 ms away.

Every node has one bee. The process that asks (``apiary-node sql``) leads its query and works for it too: "nodes" counts
it in ``scaling``, ``exchange`` and ``stragglers``; in the others it comes on top. Times are wall times of that
process, from its start to its end, the reading of its rows included. Moments of kills come from ``--seed``.
Peer: one node alone (``--distribute never``).
How to read it: what is not as it must be is printed below the tables and makes the exit code 1. Shares of a core are
those of the cgroup v1 controller ``cpu``; where it cannot be written, processes are only pinned to cores, which is
said, and speed-ups mean little. All nodes, and the S3 server of ``--s3``, share one machine: with more nodes than cores
only ``scaling`` says something about speed, and only while cores are left over.

    python benches/swarm.py answers --scale 1
    python benches/swarm.py scaling --scale 10 --data /data
    python benches/swarm.py idle --s3                       # an S3 server of its own on the loopback
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import io
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from random_queries import queries
from support import delayed, node_binary, print_conditions, print_table, run_node, s3_server, spread
from tpch import TABLES, box

QUERIES = range(1, 23)
# Several stages, joins and shuffles; none is over at once.
KILLED_QUERIES = (3, 5, 9, 10, 18, 21)
JOIN = """
SELECT o_orderpriority, l_shipmode, count(*) AS lines, sum(l_extendedprice * (1 - l_discount)) AS revenue
FROM {0}.lineitem JOIN {0}.orders ON l_orderkey = o_orderkey GROUP BY 1, 2 ORDER BY 1, 2"""
SHUFFLE = """
SELECT count(*) AS groups, sum(quantity) AS quantity FROM
(SELECT l_partkey, l_suppkey, sum(l_quantity) AS quantity FROM {0}.lineitem GROUP BY l_partkey, l_suppkey)"""
# Many bytes a row on both sides: the build side of one task is larger than a small node's memory.
WIDE_JOIN = """
SELECT count(*) AS n, sum(length(a.l_comment) + length(o_comment)) AS text, max(o_clerk) AS clerk
FROM {0}.lineitem a JOIN {0}.orders ON a.l_orderkey = o_orderkey"""
# A piece of an output larger than this is an object of its own; see src/storage/swarm/output.rs.
INLINE_BYTES = 128 << 10
HALF_A_CORE = 0.5
# Seconds between two requests of one node with idle company, of src/actors/pace.rs: REMOTE and LOCAL.
REMOTE = {"beat": 30.0, "look": 5.0, "list": 120.0, "sweep": 600.0}
LOCAL = {"beat": 2.0, "look": 0.25, "list": 5.0, "sweep": 10.0}
PRICE_PUT_OR_LIST = 0.005 / 1000
PRICE_GET = 0.0004 / 1000
STARTS_WITHIN = 60.0
# Seconds after which a node that has just started is as quiet as it gets with idle company: STAYS_QUICK and a beat.
SETTLED = 60.0
# Nodes log which queries they clear away: while no leader dies, there is none to clear away.
NODE_LOG = "warn,delta_kernel=off,apiary=info"


class Wrong(Exception):
    """Something that the bench exists to find."""


class Answer(NamedTuple):
    """What a process that asked printed, and how long it took."""

    seconds: float
    text: str


class Table(NamedTuple):
    """Rows of CSV."""

    names: list[str]
    rows: list[list[str]]


class Facts(NamedTuple):
    """What EXPLAIN ANALYZE says of a query."""

    seconds: float
    tasks: int
    nodes: int
    exchanged: int
    retries: int
    requests: int
    bytes_read: int


def main() -> None:
    args = arguments()
    INTERRUPTS.install()
    with tempfile.TemporaryDirectory(prefix="apiary-swarm-") as name, opened(args, Path(name)) as bench:
        wrong = [*args.run(bench), *bench.found]
    for message in wrong:
        print(f"- {message}")
    sys.exit(1 if wrong else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(run: Callable[[Bench], list[str]], scale: float, rounds: int | None) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.rstrip("_"), help=(run.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=run)
        sub.add_argument("--s3", action="store_true", help="an S3 server (ministack) that this script starts")
        sub.add_argument("--data", type=Path, help="folder of the data, made where it is missing (default: temporary)")
        sub.add_argument("--scale", type=float, default=scale, help=f"scale factor of TPC-H (default {scale:g})")
        sub.add_argument("--memory", default="1GB", help="memory of each node (default 1GB)")
        sub.add_argument("--limit", type=float, default=600, help="seconds that a query may take (default 600)")
        if rounds is not None:
            sub.add_argument("--rounds", type=int, default=rounds, help=f"rounds (default {rounds})")
        sub.add_argument("--seed", type=int, default=1, help="of all random choices (default 1)")
        return sub

    command(answers, 1, None).add_argument("--nodes", type=counts, default=[1, 2, 4, 8], help="like 1,2,4,8")
    some = command(random_, 0.1, None)
    some.add_argument("--count", type=int, default=200, help="queries (default 200)")
    command(scaling, 10, 3).add_argument("--nodes", type=counts, default=[1, 2, 4], help="like 1,2,4")
    command(exchange, 1, 3).add_argument("--nodes", type=counts, default=[2, 4, 8], help="like 2,4,8")
    quiet = command(idle, 0.01, None)
    quiet.add_argument("--nodes", type=int, default=4, help="nodes (default 4)")
    quiet.add_argument("--seconds", type=float, default=120, help="how long they are left alone (default 120)")
    command(kills, 1, 50).add_argument("--nodes", type=int, default=4, help="workers (default 4)")
    leading = command(leader, 1, 20)
    leading.add_argument("--nodes", type=int, default=4, help="workers (default 4)")
    leading.add_argument("--patience", type=float, help="seconds until all must be clean (default 60; 900 with --s3)")
    cut = command(cutoff, 1, 3)
    cut.add_argument("--seconds", type=float, default=30, help="how long the worker is cut off (default 30)")
    command(clocks, 0.1, None)
    command(unlike, 1, 3)
    far = command(cache, 1, 3)
    far.add_argument("--latency", type=float, default=0.08, help="seconds added to every request (default 0.08)")
    command(stragglers, 10, 3).add_argument("--nodes", type=int, default=4, help="nodes (default 4)")
    args = parser.parse_args()
    if hasattr(args, "rounds") and args.rounds < 1:
        parser.error("there is nothing to do in less than one round")
    return args


def counts(text: str) -> list[int]:
    """Numbers of nodes, separated by commas."""
    chosen = [int(number) for number in text.split(",")]
    if not all(number >= 1 for number in chosen):
        raise argparse.ArgumentTypeError("a swarm has at least one node")
    return chosen


# --- What is measured ---


def answers(bench: Bench) -> list[str]:
    """The 22 TPC-H queries on swarms of several sizes, against one node alone."""
    bench.print_conditions()
    wrong: list[str] = []
    alone: dict[int, tuple[Table, float]] = {}
    for number in QUERIES:
        with noting(wrong, f"Q{number} on one node alone"):
            answer = bench.ask(bench.tpch(number), "never")
            alone[number] = (table(answer), answer.seconds)
    lines = [answers_line(bench, nodes, alone, wrong) for nodes in bench.args.nodes]
    print_table(["nodes", "equal", "split", "tasks", "alone s", "swarm s", "slowest s"], lines)
    return wrong


def answers_line(bench: Bench, nodes: int, alone: dict[int, tuple[Table, float]], wrong: list[str]) -> list[str]:
    times, tasks, equal, before = [], [], 0, bench.beats()
    with bench.swarm(nodes):
        for number, (expected, _) in alone.items():
            with noting(wrong, f"Q{number} on {nodes} nodes"):
                split = bench.tasks(bench.tpch(number))
                tasks.append(split)
                answer = bench.ask(bench.tpch(number), "always")
                times.append(answer.seconds)
                compare(expected, table(answer), bench.tpch(number))
                equal += 1
                if split <= 1:
                    raise Wrong("it is not split")
        bench.check_left(wrong, f"{nodes} nodes")
    with noting(wrong, f"{nodes} nodes"):
        # Whoever is killed at its time limit cannot take its beat away; everybody else can.
        if (beats := bench.beats() - before) and len(times) == len(alone):
            raise Wrong(f"beats were left behind: {some(sorted(beats))}")
    took = [seconds for _, seconds in alone.values()]
    of = f"of {len(alone)}"
    split = f"{sum(number > 1 for number in tasks)} {of}"
    sizes = f"{min(tasks)} to {max(tasks)}" if tasks else "–"
    slowest = f"{max(times):.2f}" if times else "–"
    return [str(nodes), f"{equal} {of}", split, sizes, f"{sum(took):.2f}", f"{sum(times):.2f}", slowest]


def random_(bench: Bench) -> list[str]:
    """Random queries on four nodes and on one."""
    count, seed = bench.args.count, bench.args.seed
    bench.print_conditions(nodes=4, queries=count, seed=seed)
    wrong: list[str] = []
    split = 0
    with bench.swarm(3):
        for sql in queries(bench.box, count, seed):
            with noting(wrong, sql):
                compare(table(bench.ask(sql, "never")), table(bench.ask(sql, "always")), sql)
                split += bench.tasks(sql) > 1
        bench.check_left(wrong, "after all queries")
    print_table(["queries", "equal", "split over the swarm"], [[str(count), str(count - len(wrong)), str(split)]])
    return wrong


def scaling(bench: Bench) -> list[str]:
    """Speed-up of a scan and of a join on 1, 2 and 4 nodes with half a core each."""
    bench.print_conditions(cores=bench.cpu.facts(HALF_A_CORE), rounds=bench.args.rounds)
    if max(bench.args.nodes) * HALF_A_CORE > (os.cpu_count() or 1):
        print(f"{max(bench.args.nodes)} halves of a core are more than there are: the last speed-ups are too low.\n")
    wrong: list[str] = []
    queries = {"scan (Q1)": bench.tpch(1), "join": JOIN.format(bench.box)}
    times: dict[tuple[str, int], list[float]] = {}
    spent: dict[tuple[str, int], list[float]] = {}
    expected: dict[str, Table] = {}
    for nodes in sorted({1, *bench.args.nodes}):
        with bench.swarm(nodes - 1, HALF_A_CORE):
            for name, sql in queries.items():
                with noting(wrong, f"{name} on {nodes} nodes"):
                    scaling_rounds(bench, name, nodes, sql, times, spent, expected)
    header = ["query", "nodes", "wall s", "speed-up", "of the ideal", "overhead s", "processor s"]
    print_table(header, scaling_lines(queries, times, spent))
    print("overhead: wall time beyond that of one node divided by the nodes. processor: of all nodes together.\n")
    return wrong


def scaling_rounds(
    bench: Bench,
    name: str,
    nodes: int,
    sql: str,
    times: dict[tuple[str, int], list[float]],
    spent: dict[tuple[str, int], list[float]],
    expected: dict[str, Table],
) -> None:
    distribute = "never" if nodes == 1 else "always"
    for turn in range(bench.args.rounds + 1):
        before = bench.processor_seconds()
        answer = bench.ask(sql, distribute, HALF_A_CORE)
        compare(expected.setdefault(name, table(answer)), table(answer), sql)
        if turn > 0:
            times.setdefault((name, nodes), []).append(answer.seconds)
            spent.setdefault((name, nodes), []).append(bench.processor_seconds() - before)


def scaling_lines(
    queries: dict[str, str], times: dict[tuple[str, int], list[float]], spent: dict[tuple[str, int], list[float]]
) -> Iterator[list[str]]:
    for name, nodes in sorted(times, key=lambda key: (list(queries).index(key[0]), key[1])):
        taken = times[name, nodes]
        if (name, 1) not in times:
            continue
        alone, wall = statistics.median(times[name, 1]), statistics.median(taken)
        gain = f"{alone / wall:.2f}×"
        share, more = f"{alone / wall / nodes:.0%}", f"{wall - alone / nodes:.2f}"
        yield [name, str(nodes), spread(taken), gain, share, more, f"{statistics.median(spent[name, nodes]):.2f}"]


def exchange(bench: Bench) -> list[str]:
    """Bytes and requests of one shuffle between 2, 4 and 8 nodes, next to a formula."""
    bench.print_conditions(rounds=bench.args.rounds, query="group by of two keys")
    wrong: list[str] = []
    sql = SHUFFLE.format(bench.box)
    bench.ask(sql, "never")
    alone = [bench.ask(sql, "never") for _ in range(bench.args.rounds)]
    baseline = bench.facts(sql, "never")
    lines = []
    for nodes in bench.args.nodes:
        with bench.swarm(nodes - 1), noting(wrong, f"{nodes}x{nodes}"):
            lines.append(exchange_line(bench, nodes, sql, alone, baseline, wrong))
    header = ["shuffle", "tasks", "bytes", "requests", "formula", "its listings", "wall s", "alone s", "more attempts"]
    print_table(header, lines)
    print(
        "bytes, requests: of EXPLAIN ANALYZE; the requests without those of a query on one node alone, which are\n"
        "those of the scan. formula: tasks × (1 task put + 1 output put + 1 done put) + consumers × producers range\n"
        "gets + listings. It is an upper bound of what is written: tasks of the leader need no task put, outputs to\n"
        f"{INLINE_BYTES >> 10} KiB no output put. The listings follow from the wall time; the measurement misses most\n"
        "of those of the workers, who count only while an attempt runs.\n"
    )
    return wrong


def exchange_line(
    bench: Bench, nodes: int, sql: str, alone: list[Answer], baseline: Facts, wrong: list[str]
) -> list[str]:
    bench.ask(sql, "always")
    taken = []
    for _ in range(bench.args.rounds):
        answer = bench.ask(sql, "always")
        compare(table(alone[0]), table(answer), sql)
        taken.append(answer.seconds)
    wall = statistics.median(taken)
    listings = nodes * looks(wall)
    facts, tasks = None, bench.tasks(sql)
    with noting(wrong, f"{nodes}x{nodes}: EXPLAIN ANALYZE"):
        facts = bench.facts(sql, "always")
    formula = tasks * 3 + nodes * nodes + listings
    found = ("–", "–", "–")
    if facts:
        found = (f"{facts.exchanged:,}", f"{facts.requests - baseline.requests:,}", str(facts.retries))
    times = [f"{formula:,}", f"{listings:,}", spread(taken), spread([answer.seconds for answer in alone])]
    return [f"{nodes}x{nodes}", str(tasks), found[0], found[1], *times, found[2]]


def looks(seconds: float) -> int:
    """How often one node lists a query that runs that long: see ``next_look`` of src/actors/foreign.rs."""
    elapsed, count = 0.0, 0
    while elapsed < seconds:
        elapsed += min(max(elapsed / 20, 0.05), 0.5)
        count += 1
    return count


def idle(bench: Bench) -> list[str]:
    """Requests of a swarm that is left alone, and their price."""
    nodes, seconds = bench.args.nodes, bench.args.seconds
    bench.print_conditions(nodes=nodes, seconds=f"{seconds:g}")
    with bench.swarm(nodes):
        # Nodes that have just started look often, to find each other.
        time.sleep(SETTLED)
        rates = request_rates(bench, seconds)
    pace = REMOTE if bench.args.s3 else LOCAL
    # Each listing is followed by a read of every beat that changed meanwhile, its own among them.
    assumed = {
        "PUT (beat)": 3600 / pace["beat"],
        "LIST (beats)": 3600 / pace["list"],
        "LIST (sweep)": 3600 / pace["sweep"],
        "GET (doorbell)": 3600 / pace["look"],
        "GET (beats)": 3600 / pace["list"] * nodes,
    }
    total = sum(assumed.values())
    dear = sum(rate for kind, rate in assumed.items() if not kind.startswith("GET")) / total
    print_table(["of one node, by the code's intervals", "an hour"], [[k, f"{r:,.0f}"] for k, r in assumed.items()])
    measured = sum(rates)
    price = measured * (dear * PRICE_PUT_OR_LIST + (1 - dear) * PRICE_GET)
    hourly, monthly = (f"{price:.6f}", f"{price * 730:.2f}") if bench.args.s3 else ("0", "0")
    header = ["nodes", "requests/h measured", "assumed", "PUT and LIST of them", "$/h", "$/month"]
    row = [str(nodes), f"{measured:,.0f}", f"{total * nodes:,.0f}", f"{dear:.0%}", hourly, monthly]
    print_table(header, [row])
    if not bench.args.s3:
        print("A folder's requests cost nothing. In a bucket nodes ask less often: see --s3.\n")
    silent = sum(rate == 0 for rate in rates)
    return [f"{silent} nodes did not beat within {seconds:g} s: their requests are not known"] if silent else []


def request_rates(bench: Bench, seconds: float) -> list[float]:
    """Requests per hour of every node. A beat tells the count of its own time, so time runs from a beat to a beat."""
    first: dict[str, tuple[float, int]] = {}
    last: dict[str, tuple[float, int]] = {}
    changes: dict[str, int] = {}
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for node in bench.seen():
            name, requests = node["name"], node["requests"]
            if name not in last:
                last[name] = (now, requests)
            elif last[name][1] != requests:
                last[name] = (now, requests)
                first.setdefault(name, last[name])
                changes[name] = changes.get(name, 0) + 1
        time.sleep(1)
    rates = []
    for name in last:
        (begin, less), (until, more) = first.get(name, last[name]), last[name]
        rates.append((more - less) / (until - begin) * 3600 if until > begin else 0.0)
    return rates


def kills(bench: Bench) -> list[str]:
    """A random worker is killed at a random moment of a query, and replaced."""
    workers, rounds = bench.args.nodes, bench.args.rounds
    bench.print_conditions(workers=workers, rounds=rounds, seed=bench.args.seed)
    wrong: list[str] = []
    chance = random.Random(bench.args.seed)
    waits: list[tuple[float, str]] = []
    ratios, in_time = [], 0
    with bench.swarm(workers):
        expected = {number: table(bench.ask(bench.tpch(number), "never")) for number in KILLED_QUERIES}
        usual = {number: usual_seconds(bench, number) for number in KILLED_QUERIES}
        for turn in range(1, rounds + 1):
            number, victim = chance.choice(KILLED_QUERIES), chance.choice(bench.alive())
            moment = chance.uniform(0, usual[number])
            what = f"round {turn}: Q{number}, {victim} killed after {moment:.2f} s"
            with noting(wrong, what):
                question = bench.start(bench.tpch(number), "always")
                time.sleep(moment)
                in_time += question.runs()
                bench.kill(victim)
                answer = question.answer(bench.args.limit)
                waits.append((answer.seconds, what))
                ratios.append(answer.seconds / usual[number])
                compare(expected[number], table(answer), bench.tpch(number))
            bench.replace(victim)
        bench.check_left(wrong, "after all rounds")
    if waits:
        longest, what = max(waits)
        right = f"{rounds - len([w for w in wrong if w.startswith('round ')])} of {rounds}"
        header = ["rounds", "right", "killed while it ran", "wait s", "wait ÷ undisturbed", "longest s"]
        row = [str(rounds), right, str(in_time), spread([w for w, _ in waits]), spread(ratios), f"{longest:.2f}"]
        print_table(header, [row])
        print(f"longest wait: {longest:.2f} s in {what}\n")
    return wrong


def usual_seconds(bench: Bench, number: int) -> float:
    """How long a query takes that nobody disturbs."""
    return min(bench.ask(bench.tpch(number), "always").seconds for _ in range(2))


def leader(bench: Bench) -> list[str]:
    """The process that asks is killed at a random moment: what is left, and for how long."""
    workers, rounds = bench.args.nodes, bench.args.rounds
    patience = bench.args.patience or (900 if bench.args.s3 else 60)
    bench.print_conditions(workers=workers, rounds=rounds, seed=bench.args.seed, patience=f"{patience:g} s")
    wrong: list[str] = []
    chance = random.Random(bench.args.seed)
    no_objects, no_tasks, left, in_time = [], [], [], 0
    with bench.swarm(workers):
        usual = {number: usual_seconds(bench, number) for number in KILLED_QUERIES}
        for turn in range(1, rounds + 1):
            number = chance.choice(KILLED_QUERIES)
            moment = chance.uniform(0, usual[number])
            question = bench.start(bench.tpch(number), "always")
            time.sleep(moment)
            in_time += question.runs()
            question.kill()
            begin = time.monotonic()
            left.append(len(bench.left()))
            with noting(wrong, f"round {turn}: leader of Q{number} killed after {moment:.2f} s"):
                until(lambda: not bench.left(), patience, lambda: f"still there: {some(bench.left())}")
                no_objects.append(time.monotonic() - begin)
                until(lambda: not bench.tasks_now(), patience, lambda: f"still running: {some(bench.tasks_now())}")
                no_tasks.append(time.monotonic() - begin)
                # Who worked on late may write after it was cleared.
                time.sleep(1)
                until(lambda: not bench.left(), patience, lambda: f"came back: {some(bench.left())}")
    times = [spread(values) if values else "–" for values in (no_objects, no_tasks)]
    header = ["rounds", "clean", "killed while it ran", "objects at the kill", "no objects after s", "no tasks after s"]
    clean = f"{rounds - len(wrong)} of {rounds}"
    print_table(header, [[str(rounds), clean, str(in_time), spread(left, 0), *times]])
    return wrong


def stragglers(bench: Bench) -> list[str]:
    """One node at a fifth of the others' processor."""
    nodes, rounds = bench.args.nodes, bench.args.rounds
    bench.print_conditions(nodes=nodes, cores=bench.cpu.facts(HALF_A_CORE), rounds=rounds)
    wrong: list[str] = []
    queries = {"scan (Q1)": bench.tpch(1), "join": JOIN.format(bench.box)}
    lines: dict[str, dict[str, tuple[list[float], str]]] = {name: {} for name in queries}
    expected: dict[str, Table] = {}
    for kind, share in (("equal", HALF_A_CORE), ("one slow", HALF_A_CORE / 5)):
        with bench.swarm(nodes - 2, HALF_A_CORE):
            bench.add(share)
            for name, sql in queries.items():
                with noting(wrong, f"{name}, {kind}"):
                    bench.ask(sql, "always", HALF_A_CORE)
                    taken = []
                    for _ in range(rounds):
                        answer = bench.ask(sql, "always", HALF_A_CORE)
                        compare(expected.setdefault(name, table(answer)), table(answer), sql)
                        taken.append(answer.seconds)
                    lines[name][kind] = (taken, "–")
                    facts = bench.facts(sql, "always", HALF_A_CORE)
                    lines[name][kind] = (taken, str(facts.retries))
    header = ["query", "all equal s", "one slow s", "slower", "more attempts, equal", "one slow"]
    print_table(header, [straggler_line(name, found) for name, found in lines.items() if len(found) == 2])
    return wrong


def straggler_line(name: str, found: dict[str, tuple[list[float], str]]) -> list[str]:
    (equal, few), (slow, more) = found["equal"], found["one slow"]
    ratio = f"{statistics.median(slow) / statistics.median(equal):.2f}×"
    return [name, spread(equal), spread(slow), ratio, few, more]


def cutoff(bench: Bench) -> list[str]:
    """One of three workers is cut off from the S3 server in the middle of a query, and comes back."""
    seconds, rounds = bench.args.seconds, bench.args.rounds
    bench.print_conditions(workers=3, rounds=rounds, cut_off=f"{seconds:g} s")
    wrong: list[str] = []
    lines = []
    with delayed(bench.endpoint(), 0.0) as proxy, bench.swarm(2):
        lonely = bench.add(None, options={"endpoint": proxy.endpoint})
        for turn in range(1, rounds + 1):
            number = KILLED_QUERIES[turn % len(KILLED_QUERIES)]
            expected = table(bench.ask(bench.tpch(number), "never"))
            usual = usual_seconds(bench, number)
            with noting(wrong, f"round {turn}: Q{number}"):
                question = bench.start(bench.tpch(number), "always")
                time.sleep(usual / 2)
                running = question.runs()
                with proxy.stopped(seconds):
                    answer = question.answer(bench.args.limit)
                compare(expected, table(answer), bench.tpch(number))
                begin = time.monotonic()
                until(lambda: lonely in bench.living(), 120, lambda: f"{lonely} did not come back")
                back = time.monotonic() - begin
                lines.append([f"Q{number}", str(running), f"{usual:.2f}", f"{answer.seconds:.2f}", f"{back:.1f}"])
        bench.check_left(wrong, "after all rounds")
    print_table(["query", "ran when cut off", "undisturbed s", "cut off s", "back after s"], lines)
    return wrong


def clocks(bench: Bench) -> list[str]:
    """Nodes whose wall clocks are two hours slow, two hours fast and a year fast."""
    library = next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)
    if not library:
        sys.exit("libfaketime is missing: install it (Debian: apt install faketime)")
    offsets = ("-2h", "+2h", "+1y")
    bench.print_conditions(clocks=", ".join(offsets))
    wrong: list[str] = []
    shared = 0
    with bench.swarm(0):
        # Monotonic clocks are right on such machines too.
        fake = ["env", f"LD_PRELOAD={library}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        names = [bench.add(None, before=[*fake, f"FAKETIME={offset}"]) for offset in offsets]
        for number in QUERIES:
            with noting(wrong, f"Q{number}"):
                sql = bench.tpch(number)
                compare(table(bench.ask(sql, "never")), table(bench.ask(sql, "always")), sql)
                shared += bench.facts(sql, "always").nodes == len(names) + 1
        with noting(wrong, "a killed node"):
            bench.kill(names[0])
            begin = time.monotonic()
            until(lambda: names[0] not in bench.living(), 120, lambda: f"{names[0]} is still taken for alive")
            noticed = time.monotonic() - begin
        bench.check_left(wrong, "after all queries")
    print_table(
        ["clocks", "queries", "on all nodes", "wrong", "a kill is noticed after s"],
        [[", ".join(offsets), str(len(QUERIES)), str(shared), str(len(wrong)), f"{noticed:.1f}"]],
    )
    return wrong


def unlike(bench: Bench) -> list[str]:
    """A node with 256 MB and one with 2 GB share a join; the small one stays within its memory."""
    rounds = bench.args.rounds
    bench.print_conditions(nodes="256 MB, 2 GB", rounds=rounds)
    wrong: list[str] = []
    sql = WIDE_JOIN.format(bench.box)
    expected = table(bench.ask(sql, "never"))
    taken, facts = [], None
    with bench.swarm(0):
        small, large = bench.add(None, memory="256MB"), bench.add(None, memory="2GB")
        for turn in range(1, rounds + 1):
            with noting(wrong, f"round {turn}"):
                answer = bench.ask(sql, "always")
                compare(expected, table(answer), sql)
                taken.append(answer.seconds)
        with noting(wrong, "EXPLAIN ANALYZE"):
            facts = bench.facts(sql, "always")
        peaks = {name: bench.peak_rss(name) for name in (small, large)}
        bench.check_left(wrong, "after all rounds")
    row = [spread(taken), *(f"{peaks[name] >> 20}" for name in (small, large))]
    tail = [f"{facts.exchanged >> 20}", str(facts.retries)] if facts else ["–", "–"]
    print_table(["wall s", "256 MB node: peak RSS MB", "2 GB node", "exchanged MB", "more attempts"], [[*row, *tail]])
    return wrong


def cache(bench: Bench) -> list[str]:
    """The second scan of a bucket far away, on one node and on three."""
    rounds, latency = bench.args.rounds, bench.args.latency
    bench.print_conditions(latency=f"{latency * 1000:g} ms", rounds=rounds)
    wrong: list[str] = []
    lines = []
    with delayed(bench.endpoint(), latency / 2) as proxy:
        far = {"endpoint": proxy.endpoint}
        for number in (1, 6, 3):
            sql = bench.tpch(number)
            for nodes in (1, 3):
                with bench.swarm(0), noting(wrong, f"Q{number} on {nodes}"):
                    for _ in range(nodes - 1):
                        name = bench.next_name()
                        bench.add(None, options=far, extra=["--cache", str(bench.scratch / f"cells-{name}")], name=name)
                    own = ["--cache", str(bench.scratch / f"cells-asks-{number}-{nodes}")]
                    how = "always" if nodes > 1 else "never"
                    first = bench.facts(sql, how, options=far, extra=own)
                    later = [bench.facts(sql, how, options=far, extra=own) for _ in range(rounds)]
                    if nodes > 1 and later[-1].nodes != nodes:
                        raise Wrong(f"{later[-1].nodes} nodes took part")
                    times = [facts.seconds for facts in later]
                    kept = 1 - statistics.median(f.bytes_read for f in later) / first.bytes_read
                    ratio = f"{first.seconds / statistics.median(times):.1f}×"
                    cells = [f"{first.bytes_read >> 20}", f"{first.seconds:.2f}", spread(times), ratio, f"{kept:.1%}"]
                    lines.append([f"Q{number}", str(nodes), *cells])
    print_table(["query", "nodes", "MB", "first s", "later s", "faster", "bytes from caches"], lines)
    return wrong


# --- Answers ---


def table(answer: Answer) -> Table:
    header, *rows = csv.reader(io.StringIO(answer.text))
    return Table(header, rows)


def compare(expected: Table, found: Table, sql: str) -> None:
    """The same rows, and in the same order as far as ORDER BY says: rows that tie may swap places."""
    if expected.names != found.names:
        raise Wrong(f"columns {found.names} instead of {expected.names}")
    if len(expected.rows) != len(found.rows):
        raise Wrong(f"{len(found.rows)} rows instead of {len(expected.rows)}")
    for theirs, ours in zip(sorted(expected.rows, key=exact_first), sorted(found.rows, key=exact_first)):
        if not all(map(same, theirs, ours)):
            raise Wrong(f"row {ours} instead of {theirs}")
    columns = order_by(sql, expected.names)
    for theirs, ours in zip(expected.rows, found.rows):
        if not all(same(theirs[column], ours[column]) for column in columns):
            raise Wrong(f"row {ours} at the place of {theirs}")


def exact_first(row: Sequence[str]) -> tuple[list[str], list[float]]:
    fractions = [is_fraction(cell) for cell in row]
    exact = [cell for cell, fraction in zip(row, fractions) if not fraction]
    return exact, [float(cell) for cell, fraction in zip(row, fractions) if fraction]


def is_fraction(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) is not None and not cell.lstrip("-").isdigit()


def same(one: str, other: str) -> bool:
    """Equal; fractions to 1e-9."""
    both = is_fraction(one) and is_fraction(other)
    return one == other or (both and math.isclose(float(one), float(other), rel_tol=1e-9))


def order_by(sql: str, names: list[str]) -> list[int]:
    """Positions of the columns in the query's last ORDER BY."""
    plain = re.sub(r"--.*", "", sql)
    found = re.findall(r"(?is)order\s+by\s+([^()]*?)(?:limit\s+\d+\s*)?;?\s*$", plain)
    columns = [column.split()[0].lower() for column in re.split(r"\s*,\s*", found[-1].strip())] if found else []
    return [int(column) - 1 if column.isdigit() else names.index(column) for column in columns]


@contextlib.contextmanager
def noting(wrong: list[str], what: str) -> Iterator[None]:
    """Goes on after something wrong, and keeps it for the end."""
    try:
        yield
    except Wrong as error:
        wrong.append(f"{what}: {error}")
        print(f"{what}: {error}", file=sys.stderr, flush=True)


def until(done: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Wrong(f"after {seconds:g} s {otherwise()}")
        time.sleep(0.1)


def some(values: Sequence[object]) -> str:
    """The first few, and how many there are."""
    return f"{len(values)}, like {', '.join(map(str, values[:3]))}" if values else "nothing any more"


# --- Processes ---


class Interrupts:
    """Ctrl-C and SIGTERM end this script and with it all processes: never between the start of one and its note."""

    def __init__(self) -> None:
        self._held, self._pending = False, 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted)

    def _interrupted(self, number: int, _: object) -> None:
        if self._held:
            self._pending = number
            return
        # Clearing up is bounded, and is not interrupted again.
        self._held = True
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._held = True
                raise SystemExit(128 + self._pending)


INTERRUPTS = Interrupts()


class Question:
    """One statement that a process of its own asks."""

    def __init__(self, command: list[str], sql: str) -> None:
        self._begin = time.perf_counter()
        self._end = math.inf
        self._found = ("", "")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        # A wait with a time limit looks only every 50 ms: this one knows the end. An interrupted join would take the
        # thread for ended (CPython 3.11), so it tells by an event.
        self._ended = threading.Event()
        threading.Thread(target=self._read, args=(sql,), daemon=True).start()

    def _read(self, sql: str) -> None:
        try:
            self._found = self.process.communicate(sql)
        finally:
            self._end = time.perf_counter()
            self._ended.set()

    def runs(self) -> bool:
        return not self._ended.is_set()

    def kill(self) -> None:
        """Ends it at once, and waits for that."""
        self.process.kill()
        self._ended.wait(10)

    def answer(self, limit: float) -> Answer:
        """What it printed; it has ended in any case."""
        self._ended.wait(limit)
        if self.runs():
            self.kill()
            raise Wrong(f"no answer after {limit:g} s")
        output, errors = self._found
        if self.process.returncode != 0:
            raise Wrong(f"exit code {self.process.returncode}: {errors.strip()[:500]}")
        return Answer(self._end - self._begin, output)


class Bench:
    """A meadow with TPC-H data, the nodes that run on it now, and how to ask them."""

    def __init__(
        self, args: argparse.Namespace, scratch: Path, place: Path | None, options: dict[str, str], cpu: Cpu
    ) -> None:
        self.args, self.cpu, self.box = args, cpu, box(args.scale)
        self.scratch, self._place, self._options = scratch, place, options
        self._storage = str(place) if place else "s3://bench/meadow"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._shares: dict[str, float | None] = {}
        self._questions: list[Question] = []
        self.found: list[str] = []
        self._numbers = itertools.count(1)

    def print_conditions(self, **facts: object) -> None:
        place = "S3 (ministack)" if self.args.s3 else "folder"
        node = subprocess.run([node_binary(), "--version"], capture_output=True, text=True, check=True, timeout=60)
        print_conditions(
            on=node.stdout.strip(), storage=place, scale=f"{self.args.scale:g}", memory=self.args.memory, **facts
        )

    def make_data(self) -> None:
        """The eight frames; those that are there are left."""
        settings = self._settings()
        run_node(*settings, "generate", "tpch", "--scale", f"{self.args.scale:g}", "--into", self.box)

    def endpoint(self) -> str:
        """Address of the S3 server."""
        if self._place:
            sys.exit(f"{self.args.command} is about a bucket: add --s3")
        return self._options["endpoint"]

    def _settings(self, options: dict[str, str] | None = None) -> list[str]:
        pairs = [f"--storage-option={key}={value}" for key, value in {**self._options, **(options or {})}.items()]
        return ["--storage", self._storage, *pairs]

    def _command(
        self,
        *command: str,
        options: dict[str, str] | None = None,
        memory: str | None = None,
        extra: Sequence[str] = (),
    ) -> list[str]:
        memory = memory or self.args.memory
        return [str(node_binary()), *self._settings(options), "--bees", "1", "--memory", memory, *extra, *command]

    # Nodes

    @contextlib.contextmanager
    def swarm(self, nodes: int, share: float | None = None) -> Iterator[None]:
        """That many nodes, which have met each other."""
        try:
            names = [self._start_node(share) for _ in range(nodes)]
            self._wait_for(names)
            self._wait_for_the_dead()
            yield
        finally:
            self.stop_all()

    def _wait_for_the_dead(self) -> None:
        """Until nobody takes a node that was killed before for a living one: it would be given tasks."""
        end = time.monotonic() + (300 if self.args.s3 else 12)
        while self._nodes:
            strangers = [n["node"] for n in self.seen() if n["state"] != "dead" and n["name"] not in self._nodes]
            if not strangers:
                return
            if time.monotonic() > end:
                self.found.append(f"nodes that ended before are still taken for living ones: {some(strangers)}")
                return
            time.sleep(0.5)

    def add(self, share: float | None, **how: Any) -> str:
        """One more node; see :meth:`_start_node`."""
        name = self._start_node(share, **how)
        self._wait_for([name])
        return name

    def next_name(self) -> str:
        return f"n{next(self._numbers)}"

    def peak_rss(self, name: str) -> int:
        """Bytes."""
        status = Path(f"/proc/{self._nodes[name].pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]

    def living(self) -> set[str]:
        """Names of the nodes that the meadow shows alive."""
        return {node["name"] for node in self.seen() if node["state"] == "alive"}

    def replace(self, name: str) -> None:
        """A new node for one that was killed."""
        self.add(self._shares[name])

    def alive(self) -> list[str]:
        return list(self._nodes)

    def kill(self, name: str) -> None:
        """Without a chance to say anything."""
        process = self._nodes.pop(name)
        process.kill()
        process.wait()

    def _start_node(
        self, share: float | None, *, name: str | None = None, before: Sequence[str] = (), **settings: Any
    ) -> str:
        name = name or self.next_name()
        command = [*self.cpu.held_to(name, share), *before, *self._command("run", "--name", name, **settings)]
        with (self.scratch / f"{name}.log").open("wb") as log:
            environment = {"APIARY_LOG": NODE_LOG, "NO_COLOR": "1", **os.environ}
            with INTERRUPTS.held_back():
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                self._nodes[name], self._shares[name] = process, share
        return name

    def _wait_for(self, names: list[str]) -> None:
        """Until the meadow shows these nodes."""
        end = time.monotonic() + STARTS_WITHIN
        while not set(names) <= self.living():
            ended = [name for name in names if self._nodes[name].poll() is not None]
            if ended or time.monotonic() > end:
                log = (self.scratch / f"{(ended or names)[0]}.log").read_text(errors="replace")
                raise SystemExit(f"nodes did not start: {', '.join(ended or names)}\n{log[-2000:]}")
            time.sleep(0.2)

    def stop_all(self) -> None:
        """Ends every process that runs, by its own handle."""
        for question in self._questions:
            if question.runs():
                question.kill()
        self._questions.clear()
        for process in self._nodes.values():
            process.terminate()
        while self._nodes:
            name, process = self._nodes.popitem()
            # Asked once: a node that is asked again leaves without clearing up.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.returncode != 0:
                self.found.append(f"{name} was asked to end and did so with exit code {process.returncode}")
            self._complaints(name)

    def _complaints(self, name: str) -> None:
        """What a node warned of, and what it took for dead though no leader was killed."""
        log = (self.scratch / f"{name}.log").read_text(errors="replace")
        pattern = r"WARN|ERROR|panic" + ("" if self.args.command == "leader" else "|cleared away")
        for line in [line for line in log.splitlines() if re.search(pattern, line)][:5]:
            print(f"{name}: {line}", file=sys.stderr, flush=True)

    def processor_seconds(self) -> float:
        """Of the nodes that run, and of all processes that have ended."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = ended.ru_utime + ended.ru_stime
        for process in self._nodes.values():
            with contextlib.suppress(OSError):
                after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
        return total

    # Questions

    def start(
        self, sql: str, distribute: str, share: float | None = None, form: str = "csv", **settings: Any
    ) -> Question:
        """Asks, and does not wait."""
        held = self.cpu.held_to("asks", share)
        command = [*held, *self._command("sql", "--distribute", distribute, "--format", form, "-", **settings)]
        return self._begin(command, sql)

    def _begin(self, command: list[str], text: str) -> Question:
        """A process of which :meth:`stop_all` knows before an interrupt can come."""
        running = [question for question in self._questions if question.runs()]
        with INTERRUPTS.held_back():
            question = Question(command, text)
            self._questions = [*running, question]
        return question

    def ask(self, sql: str, distribute: str, share: float | None = None, form: str = "csv", **settings: Any) -> Answer:
        return self.start(sql, distribute, share, form, **settings).answer(self.args.limit)

    def tpch(self, number: int) -> str:
        """Text of a TPC-H query with the tables' three names; the fraction of query 11 depends on the scale."""
        command = [node_binary(), "tpch-query", str(number)]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        bare = re.sub(r"--.*", "", text)
        named = re.sub(rf"(?i)(\bfrom\s+|\bjoin\s+|,\s*)({'|'.join(TABLES)})\b(?!\.)", rf"\1{self.box}.\2", bare)
        return re.sub(r"\* 0\.0001\b", f"* {0.0001 / self.args.scale:.10f}", named) if number == 11 else named

    def _explain(
        self, sql: str, distribute: str, share: float | None = None, **settings: Any
    ) -> tuple[float, dict[str, str]]:
        """The rows of an EXPLAIN."""
        answer = self.ask(sql, distribute, share, "json", **settings)
        rows = map(json.loads, answer.text.splitlines())
        return answer.seconds, {row["plan_type"]: row["plan"] for row in rows}

    def tasks(self, sql: str) -> int:
        """Tasks that the swarm is to do for a query; 1 when it is not split."""
        _, rows = self._explain(f"EXPLAIN {sql}", "always")
        found = re.search(r"(\d+) tasks on the swarm", rows["bees"])
        return int(found[1]) if found else 1

    def facts(self, sql: str, distribute: str, share: float | None = None, **settings: Any) -> Facts:
        """What a run cost, by EXPLAIN ANALYZE."""
        seconds, rows = self._explain(f"EXPLAIN ANALYZE {sql}", distribute, share, **settings)
        nodes, exchanged, *attempts = numbers_in(rows["swarm"])
        requests, read = numbers_in(rows["storage"])
        return Facts(seconds, numbers_in(rows["bees"])[1], nodes, exchanged, sum(attempts), requests, read)

    def seen(self) -> list[dict[str, Any]]:
        """The nodes that the meadow shows."""
        listed = self._begin(self._command("swarm", "--format", "json"), "").answer(60)
        return [node for node in map(json.loads, listed.text.splitlines()) if node]

    def tasks_now(self) -> list[list[str]]:
        """What living nodes work on."""
        return table(self.ask("SELECT query, stage, task, node FROM system.tasks", "never")).rows

    # What queries leave

    def left(self) -> list[str]:
        """Everything below ``_queries/``, uploads that were never finished among it."""
        if self._place:
            place = self._place / "_queries"
            # What goes away meanwhile is not there.
            entries = [Path(folder, name) for folder, *names in os.walk(place) for name in sum(names, [])]
            return sorted(str(path.relative_to(place)) for path in entries)
        keys = [key.removeprefix("meadow/_queries/") for key in self._bucket("list-type=2&prefix=meadow/_queries/")]
        return keys + [f"{key} (upload)" for key in self._bucket("uploads") if key.startswith("meadow/_queries/")]

    def beats(self) -> set[str]:
        """The beats that are there: those of living nodes, and what others left."""
        if self._place:
            return {path.name for path in (self._place / "_heartbeats").glob("*.json")}
        return {key for key in self._bucket("list-type=2&prefix=meadow/_heartbeats/") if key.endswith(".json")}

    def _bucket(self, query: str) -> list[str]:
        """The keys in a listing of the bucket."""
        with urllib.request.urlopen(f"{self._options['endpoint']}/bench?{query}", timeout=30) as answer:
            return [element.text or "" for element in ElementTree.parse(answer).iter() if element.tag.endswith("}Key")]

    def check_left(self, wrong: list[str], what: str) -> None:
        """Queries that have ended leave nothing, give or take what a late worker wrote."""
        with noting(wrong, what):
            until(lambda: not self.left(), 30, lambda: f"there is left: {some(self.left())}")


def numbers_in(text: str) -> list[int]:
    """The whole numbers in a sentence, in order."""
    return [int(number) for number in re.findall(r"\b\d+\b(?!\.)", text)]


class Cpu:
    """Shares of a core, by groups of the cgroup v1 controller ``cpu``; without it, processes are pinned to cores."""

    PERIOD_US = 20_000

    def __init__(self) -> None:
        self._root = Path(f"/sys/fs/cgroup/cpu/apiary-bench-{os.getpid()}")
        self._groups: dict[str, Path] = {}
        self._cores = itertools.cycle(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0])
        try:
            self._root.mkdir()
            (self._root / "cpu.cfs_quota_us").write_text("-1")
            self.works = True
        except OSError:
            self.works = False

    def facts(self, share: float) -> str:
        return f"{share:g} of each node (cgroup)" if self.works else "only pinned: no writable cgroup v1 cpu controller"

    def held_to(self, name: str, share: float | None) -> list[str]:
        """What goes before a command that is to have no more than this share of a core."""
        if share is None:
            return []
        if not self.works:
            return ["taskset", "-c", str(next(self._cores))]
        group = self._groups.setdefault(name, self._root / name)
        group.mkdir(exist_ok=True)
        (group / "cpu.cfs_period_us").write_text(str(self.PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(share * self.PERIOD_US)))
        # The shell becomes the command, so that the process we started is the node.
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]

    def close(self) -> None:
        """Removes the groups; their processes have ended."""
        for group in [*self._groups.values(), *([self._root] if self.works else [])]:
            for _ in range(20):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other run of this script uses the folder meanwhile."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another run uses {folder}: choose another --data")
        yield


@contextlib.contextmanager
def opened(args: argparse.Namespace, scratch: Path) -> Iterator[Bench]:
    """A meadow with the data, in a folder or on an S3 server of our own."""
    data = args.data or Path(tempfile.gettempdir()) / "apiary-swarm"
    cpu = Cpu()
    try:
        with contextlib.ExitStack() as stack:
            place = None if args.s3 else (data / f"sf{args.scale:g}" / "meadow").resolve()
            options: dict[str, str] = {}
            if args.s3:
                server = scratch / "s3"
                server.mkdir()
                options = stack.enter_context(s3_server(server))
            else:
                assert place is not None
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(alone_in(place.parent))
                # Only what an earlier run left: it would be found again, or taken for a living node.
                for leftover in ("_heartbeats", "_queries"):
                    shutil.rmtree(place / leftover, ignore_errors=True)
            bench = Bench(args, scratch, place, options, cpu)
            # Whatever was asked outside of a swarm ends here, too.
            stack.callback(bench.stop_all)
            bench.make_data()
            yield bench
    finally:
        cpu.close()


if __name__ == "__main__":
    main()
