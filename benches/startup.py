"""Start: what a person waits for and pays before anything useful happens.

Measured: wall time of ``apiary-node sql 'SELECT 1'`` on a meadow that exists (process start to exit); what ``import
apiary`` takes; resident memory of an idle ``apiary-node run`` after three seconds; size of the stripped binary.
Peers: ``apiary-node --version`` is what the process alone takes; ``import pyarrow`` and an empty Python program are
what other imports take, run in turns with ours.
How to read it: medians with the smallest and the largest, in milliseconds and in MB of 1,000,000 bytes. The last row of
the imports is the median of the paired differences.

    python benches/startup.py
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from support import milliseconds, need, node_binary, print_conditions, print_table, spread, stop

IMPORTS = ("import apiary", "import pyarrow", "pass")


def main() -> None:
    args = arguments()
    need("apiary", "pyarrow")
    print_conditions("apiary", "pyarrow")
    with tempfile.TemporaryDirectory(prefix="apiary-startup-") as name:
        place = Path(name)
        node = stripped(node_binary(), place / "apiary-node")
        print_table(["program", "wall ms"], program_rows(node, place / "meadow", args.runs))
        print_table(["python -c", "wall ms"], import_rows(args.imports))
        print_table(["apiary-node", "MB"], size_rows(node, place / "meadow"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of apiary-node (default 20)")
    parser.add_argument("--imports", type=int, default=15, help="runs of each import (default 15)")
    return parser.parse_args()


def stripped(binary: Path, copy: Path) -> Path:
    """A copy of the binary as it would be shipped; the build may go on beside it."""
    shutil.copy2(binary, copy)
    if strip := shutil.which("strip"):
        subprocess.run([strip, copy], check=True)
    else:
        print("no program `strip`: the binary is measured as it was built", file=sys.stderr)
    return copy


def program_rows(node: Path, meadow: Path, runs: int) -> Iterable[tuple[str, str]]:
    """Wall times of the program, once the meadow is there."""
    sql: list[object] = [node, "--storage", meadow, "sql", "SELECT 1"]
    version: list[object] = [node, "--version"]
    run(sql)
    times = in_turns([sql, version], runs)
    yield "apiary-node sql 'SELECT 1'", spread(times[0], 0)
    yield "apiary-node --version", spread(times[1], 0)


def import_rows(runs: int) -> Iterable[tuple[str, str]]:
    """Wall times of programs that only import."""
    programs: list[list[object]] = [[sys.executable, "-c", code] for code in IMPORTS]
    for program in programs:
        run(program)
    times = in_turns(programs, runs)
    for code, taken in zip(IMPORTS, times):
        yield code, spread(taken, 0)
    yield "import apiary less import pyarrow", spread([ours - theirs for ours, theirs in zip(times[0], times[1])], 0)


def in_turns(programs: list[list[object]], runs: int) -> list[list[float]]:
    """Milliseconds of each program, run one after the other."""
    times: list[list[float]] = [[] for _ in programs]
    for _ in range(runs):
        for program, taken in zip(programs, times):
            taken.append(milliseconds(lambda program=program: run(program)))
    return times


def run(program: list[object]) -> None:
    subprocess.run([str(word) for word in program], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def size_rows(node: Path, meadow: Path) -> Iterable[tuple[str, str]]:
    """Memory of an idle node, and the size of the program."""
    idle, peak = idle_memory(node, meadow)
    yield "idle `run` after 3 s: resident", f"{idle:.1f}"
    yield "idle `run` after 3 s: peak resident", f"{peak:.1f}"
    yield "binary, stripped", f"{node.stat().st_size / 1e6:.1f}"


def idle_memory(node: Path, meadow: Path) -> tuple[float, float]:
    """Resident memory of a node that has nothing to do, now and at most."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen([node, "--storage", meadow, "run"], stdout=silent, stderr=silent)
    try:
        time.sleep(3)
        status = Path(f"/proc/{process.pid}/status").read_text()
    finally:
        stop(process)
    facts = dict(line.split(":", 1) for line in status.splitlines())
    return memory(facts["VmRSS"]), memory(facts["VmHWM"])


def memory(field: str) -> float:
    """MB of a line like ``53720 kB``."""
    return int(field.split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
