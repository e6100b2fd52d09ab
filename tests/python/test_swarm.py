"""Several nodes on one meadow: real processes, on a folder and on an S3 server."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apiary
import pyarrow as pa
import pytest
from apiary import Apiary
from support import node_binary, rows, s3_options, until

WORKERS = ("attic", "cellar")
TOTALS = "SELECT k, count(*) AS n, sum(v) AS s FROM lab.raw.numbers GROUP BY k"
JOINED = (
    "SELECT g.name, count(*) AS n, max(n.v) AS most FROM lab.raw.numbers n JOIN lab.raw.groups g ON n.k = g.k "
    "WHERE n.v % 3 = 1 GROUP BY g.name"
)


class Meadow:
    """A storage, and the processes that work on it."""

    def __init__(self, storage: str, options: dict[str, object], logs: Path) -> None:
        self.storage = storage
        self.options = options
        self.logs = logs
        self.processes: list[subprocess.Popen[bytes]] = []

    def open(self, name: str, **settings: Any) -> Apiary:
        """A node in this process."""
        place = {"storage": self.storage, "storage_options": self.options}
        return Apiary(name, bees=1, memory="256MB", **place, **settings)  # type: ignore[arg-type]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """A node in a process of its own."""
        options = [f"{key}={str(value).lower() if value is True else value}" for key, value in self.options.items()]
        command = [node_binary(), "--storage", self.storage, "--bees", "1", "--memory", "256MB"]
        command += [word for option in options for word in ("--storage-option", option)]
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([*command, "run", "--name", name], stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Ends every process that was started."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def meadow_at(place: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Meadow]:
    if place == "folder":
        meadow = Meadow(str(folder / "meadow"), {}, folder)
    else:
        address = request.getfixturevalue("s3")
        meadow = Meadow(f"s3://bucket/{uuid.uuid4()}", s3_options(address), folder)
    try:
        yield meadow
    finally:
        meadow.stop()


@pytest.fixture(params=["folder", "bucket"])
def meadow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Meadow]:
    """An empty meadow without nodes."""
    with meadow_at(request.param, request, tmp_path) as meadow:
        yield meadow


@pytest.fixture(scope="module", params=["folder", "bucket"])
def company(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Meadow, Apiary]]:
    """A meadow with data, this process's node that leads and works, and two more nodes."""
    with meadow_at(request.param, request, tmp_path_factory.mktemp("swarm")) as meadow:
        # It joins first: a node that is alone in a bucket looks for news once a minute only, one with company often.
        with meadow.open("study", join=True, distribute="always") as ap:
            until(lambda: alive(ap) == {"study"}, "the node of this process joins")
            for name in WORKERS:
                meadow.start(name)
            until(lambda: alive(ap) == {"study", *WORKERS}, "two processes join")
            fill(ap)
            yield meadow, ap


def fill(ap: Apiary) -> None:
    """Numbers that do not compress: enough bytes for several nodes."""
    numbers = [number * 2_654_435_761 % 2**31 for number in range(200_000)]
    keys = [number % 97 for number in numbers]
    table = pa.table({"k": pa.array(keys, pa.int64()), "v": pa.array(numbers, pa.int64())})
    ap.create_frame("lab.raw.numbers", table.schema).write(table)
    groups = pa.table({"k": pa.array(range(97), pa.int64()), "name": [f"group {key % 10}" for key in range(97)]})
    ap.create_frame("lab.raw.groups", groups.schema).write(groups)


def alive(ap: Apiary) -> set[str]:
    return {node.name for node in ap.swarm() if node.state == "alive"}


def test_a_node_joins_by_pointing_and_leaves_at_sigterm(meadow: Meadow) -> None:
    with meadow.open("study") as ap:
        assert ap.swarm() == [], "a node that takes no tasks and leads nothing is not in the swarm"
        process = meadow.start("attic")
        until(lambda: alive(ap) == {"attic"}, "a process joins")
        (node,) = ap.swarm()
        assert (node.name, node.bees, node.bee_memory, node.here) == ("attic", 1, 256 << 20, False)
        assert (node.tasks, node.leading, node.version) == (0, 0, apiary.__version__)
        assert 0 <= node.temperature <= 1 and node.requests >= 0 and node.cached >= 0 and node.silent_ms >= 0
        assert repr(node).startswith(f"Node('attic', id={node.id!r}, state='alive', here=False, bees=1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        until(lambda: ap.swarm() == [], "a process leaves")


def test_an_apiary_joins_and_leaves_when_it_is_closed(meadow: Meadow) -> None:
    with meadow.open("study") as ap:
        with meadow.open("porch", join=True) as porch:
            until(lambda: alive(ap) == {"porch"}, "an Apiary joins")
            assert [(node.name, node.here) for node in porch.swarm()] == [("porch", True)]
            assert [(node.name, node.here) for node in ap.swarm()] == [("porch", False)]
        assert ap.swarm() == []


@pytest.mark.parametrize("query", [TOTALS, JOINED], ids=["totals", "join"])
def test_a_query_gives_the_same_rows_on_three_nodes_and_on_one(company: tuple[Meadow, Apiary], query: str) -> None:
    meadow, ap = company
    everywhere = ap.sql(query, time_limit=60)
    found = rows(everywhere.to_arrow())
    stats = everywhere.stats
    assert (stats["rows"], stats["nodes"]) == (len(found), 3)
    assert stats["exchanged"] > 0 and stats["retries"] >= 0
    with meadow.open("hermit", distribute="never") as hermit:
        here = hermit.sql(query)
        assert rows(here.to_arrow()) == found
        assert (here.stats["nodes"], here.stats["exchanged"], here.stats["retries"]) == (1, 0, 0)


def test_set_distribute_holds_for_its_session(company: tuple[Meadow, Apiary]) -> None:
    meadow, _ = company

    def nodes(ap: Apiary) -> int:
        result = ap.sql(TOTALS, time_limit=60)
        assert result.to_arrow().num_rows == 97
        count: int = result.stats["nodes"]
        return count

    with meadow.open("guest", distribute="never") as guest, meadow.open("hermit", distribute="never") as hermit:
        assert nodes(guest) == 1
        guest.sql("SET distribute = 'always'")
        assert nodes(guest) > 1
        assert nodes(hermit) == 1
        guest.sql("SET distribute = 'never'")
        assert nodes(guest) == 1


def test_a_frame_is_made_by_all_nodes(company: tuple[Meadow, Apiary]) -> None:
    _, ap = company
    ap.sql(f"CREATE FRAME lab.raw.totals AS {TOTALS}", time_limit=60)
    assert rows(ap.frame("lab.raw.totals").read()) == rows(ap.sql(TOTALS, time_limit=60))
    ap.drop_frame("lab.raw.totals")


def test_the_nodes_are_a_table(company: tuple[Meadow, Apiary]) -> None:
    _, ap = company
    listed = ap.sql("SELECT name, state FROM system.nodes WHERE bees > 0 ORDER BY name").fetchall()
    assert listed == [(name, "alive") for name in sorted(["study", *WORKERS])]
    assert ap.sql("SELECT name FROM system.nodes WHERE here").fetchall() == [("study",)]
    until(lambda: ap.sql("SELECT count(*) FROM system.tasks").fetchone() == (0,), "the last query's tasks are done")
    assert ap.sql("SELECT count(*) > 0 FROM system.queries").fetchone() == (True,)


def test_a_system_table_that_is_not_there(ap: Apiary) -> None:
    with pytest.raises(
        apiary.NotFoundError, match=r"system\.wasps .*bees, cells, history, nodes, queries, settings, tasks"
    ):
        ap.sql("SELECT * FROM system.wasps")


def test_a_value_of_distribute_that_is_not_there(ap: Apiary, storage: Path) -> None:
    with pytest.raises(apiary.InvalidInputError, match="sometimes.*auto, always or never"):
        Apiary("test", storage=storage, bees=1, memory="256MB", distribute="sometimes")  # type: ignore[arg-type]
    with pytest.raises(apiary.InvalidInputError, match="sometimes.*auto, always or never"):
        ap.sql("SET distribute = 'sometimes'")


def test_always_without_company_is_this_node_alone(ap: Apiary) -> None:
    ap.sql("SET distribute = 'ALWAYS'")
    result = ap.sql("SELECT sum(x) AS s FROM (VALUES (1), (2)) AS t(x)")
    assert result.fetchall() == [(3,)]
    assert result.stats["nodes"] == 1
