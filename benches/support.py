"""What the benchmark scripts share: the programs they measure, programs of their own, paired ratios, Markdown tables.

Only the standard library is imported here, and lazily what a script asks for: a child process that measures its memory
starts from a small parent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = Path(os.environ.get("APIARY_BENCH", Path.home() / ".cache" / "apiary" / "bench"))


def need(*modules: str, **pinned: str) -> None:
    """Ends the script with what to install where a module is missing; ``pinned`` gives a module's version."""
    wanted = {**dict.fromkeys(modules, ""), **pinned}
    missing = [f"'{module}{version}'" for module, version in wanted.items() if not importlib.util.find_spec(module)]
    if "'apiary'" in missing:
        sys.exit("the package apiary is missing: run `maturin develop --release`, or add src/py to PYTHONPATH")
    if missing:
        sys.exit(f"packages are missing: {sys.executable} -m pip install {' '.join(missing)}")


def node_binary() -> Path:
    """The program ``apiary-node``: that of ``APIARY_NODE``, else the newest release build."""
    if given := os.environ.get("APIARY_NODE"):
        return Path(given)
    targets = [os.environ.get("CARGO_TARGET_DIR"), Path.home() / ".cache" / "apiary" / "target", ROOT / "target"]
    builds = [Path(target) / "release" / "apiary-node" for target in targets if target]
    found = [build for build in builds if build.is_file()]
    if not found:
        sys.exit("apiary-node is not built: run `cargo build --release`, or set APIARY_NODE")
    return max(found, key=lambda build: build.stat().st_mtime)


def run_node(*args: object) -> None:
    """Runs ``apiary-node``; what it says goes to stderr."""
    subprocess.run([node_binary(), *map(str, args)], check=True, stdout=sys.stderr)


def generate_tpch(folder: Path, scale: float) -> None:
    """The generator's own Parquet files, ``<folder>/<table>.parquet``."""
    run_node("generate", "tpch", "--scale", f"{scale:g}", "--parquet", folder)


def tpch_folder(scale: float) -> Path:
    """Where the data of a scale is kept between runs."""
    return SCRATCH / f"tpch-sf{scale:g}"


def start_child(*args: object) -> subprocess.Popen[str]:
    """Starts this script again as a process of its own, as its ``--child``."""
    command = [sys.executable, sys.argv[0], "--child", *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(child: subprocess.Popen[str]) -> Any:
    """What a child measured: the JSON on its last line."""
    output, _ = child.communicate()
    if child.returncode != 0:
        sys.exit(f"a child process failed with exit code {child.returncode}: {child.args!r}")
    return json.loads(output.splitlines()[-1])


def let_go(children: list[subprocess.Popen[str]]) -> float:
    """Waits until all children are ready and lets them go together: when that was, by ``time.perf_counter``."""
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            sys.exit("a child process did not start")
    begin = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return begin


def wait_for_go() -> None:
    """The child's side of :func:`let_go`."""
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        sys.exit("the bench ended before it began")


def pairs(options: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` arguments as a dict."""
    return dict(option.split("=", 1) for option in options)


def milliseconds(work: Any) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratio of each round: what disturbs a round disturbs both."""
    return [our / their for our, their in zip(ours, theirs)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and in parentheses the smallest and the largest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table; all columns but the first are numbers."""
    print("| " + " | ".join(header) + " |")
    print("|---|" + "---:|" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print()


def print_conditions(*packages: str, **facts: object) -> None:
    """One line with what a reader must know to compare a table with another."""
    versions = [f"{package} {version(package)}" for package in packages]
    settings = [f"{name} {value}" for name, value in facts.items()]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print("; ".join([*versions, *settings, load]), end="\n\n", flush=True)


def version(package: str) -> str:
    """Version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of PYTHONPATH"


@contextlib.contextmanager
def s3_server(place: Path) -> Iterator[dict[str, str]]:
    """An S3 server (ministack) of our own on a free loopback port, with the bucket ``bench``: its storage options."""
    program = Path(sys.executable).with_name("ministack")
    if not program.exists():
        sys.exit(f"ministack is missing: {sys.executable} -m pip install ministack==1.5.33")
    port = free_port()
    with (place / "ministack.log").open("wb") as log:
        environment = {**os.environ, **ministack_settings(place, port)}
        server = subprocess.Popen([program], env=environment, stdout=log, stderr=log, cwd=place)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(f"{endpoint}/_ministack/health", server)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bench", method="PUT"), timeout=10).close()
        keys = {"access_key_id": "bench", "secret_access_key": "bench", "region": "us-east-1"}
        yield {"endpoint": endpoint, "allow_http": "true", "path_style": "true", **keys}
    finally:
        stop(server)


class Proxy:
    """A way to a server that can be made slow, and closed for a while."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.endpoint = f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def stopped(self, seconds: float) -> Iterator[None]:
        """Nothing comes through for that long, or until the block ends, whichever is later."""
        end = time.monotonic() + seconds
        self._process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, self._process.send_signal, [signal.SIGCONT])
        timer.start()
        try:
            yield
            time.sleep(max(0.0, end - time.monotonic()))
        finally:
            timer.cancel()
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def delayed(endpoint: str, seconds: float) -> Iterator[Proxy]:
    """A way to ``endpoint`` that takes that much longer in each direction."""
    port, server = free_port(), endpoint.rpartition(":")[2]
    command = [sys.executable, str(Path(__file__).with_name("delay_proxy.py")), str(port), server, str(seconds)]
    process = subprocess.Popen(command)
    try:
        proxy = Proxy(process, port)
        wait_for(f"{proxy.endpoint}/_ministack/health", process)
        yield proxy
    finally:
        process.send_signal(signal.SIGCONT)
        stop(process)


def ministack_settings(place: Path, port: int) -> dict[str, str]:
    """Loopback only, S3 only, objects on disk."""
    folders = {"S3_DATA_DIR": str(place / "data"), "STATE_DIR": str(place / "state")}
    reach = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    return {**reach, **folders, "SERVICES": "s3", "S3_PERSIST": "1", "LOG_LEVEL": "WARNING"}


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Waits until a server that was just started answers."""
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=1).close()
            return
        time.sleep(0.05)
    sys.exit("the S3 server did not start")


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks a process to end, and insists after ten seconds."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
