"""``apiary-node shell``, from a pipe and at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest
from support import node_binary


def piped(storage: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [node_binary(), "--storage", str(storage), "--bees", "1", "--memory", "128MB", "shell", *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_statements_from_a_pipe_run_one_after_the_other(storage: Path) -> None:
    script = """
        CREATE FRAME f (id INT, v TEXT); -- a comment; with a semicolon
        INSERT INTO f VALUES (1, 'a;b'), (2, NULL);
        SELECT * FROM f ORDER BY id;
        SELECT count(*) AS n FROM f
    """
    done = piped(storage, script, "--format", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-5:] == ["id,v", "1,a;b", "2,", "n", "2"]
    done = piped(storage, "SELECT id FROM f ORDER BY 1", "--format", "markdown")
    assert done.stdout == "| id |\n| ---: |\n| 1 |\n| 2 |\n"


def test_the_first_error_ends_a_script_with_its_code(storage: Path) -> None:
    done = piped(storage, "SELECT 1 AS a; SELECT * FROM nowhere; SELECT 2 AS b;", "--format", "csv")
    assert done.returncode == 1
    assert done.stdout == "a\n1\n"
    assert "nowhere" in done.stderr
    assert piped(storage, "").returncode == 0
    assert piped(storage, "-- nothing\n;;").returncode == 0


class Terminal:
    """A shell at a terminal."""

    def __init__(self, storage: Path, home: Path) -> None:
        self.parent, child = pty.openpty()
        env = {**os.environ, "HOME": str(home), "TERM": "xterm"}
        env.pop("XDG_STATE_HOME", None)
        command = [node_binary(), "--storage", str(storage), "--bees", "1", "--memory", "128MB", "shell"]
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=env, start_new_session=True, close_fds=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(child)
        self.text = ""
        self.wait_for("default.default> ")

    def type(self, text: str) -> None:
        os.write(self.parent, text.encode())

    def wait_for(self, text: str, seconds: float = 20) -> str:
        """What came up to and with ``text``."""
        end = time.monotonic() + seconds
        while text not in self.text:
            ready, _, _ = select.select([self.parent], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.text!r}"
            try:
                self.text += os.read(self.parent, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the shell ended: {self.text!r}") from None
        before, _, self.text = self.text.partition(text)
        return before + text

    def leave(self) -> None:
        """Ends the shell from its prompt, by the end of the input."""
        self.wait_for("default.default> ")
        self.type("\x04")
        assert self.close() == 0

    def close(self) -> int:
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            os.close(self.parent)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_lines_go_on_until_the_semicolon_and_are_remembered(storage: Path, home: Path) -> None:
    shell = Terminal(storage, home)
    shell.type("SELECT 40\r")
    shell.type("+ 2 AS answer;\r")
    assert "| 42" in shell.wait_for("row in ").replace("|     42", "| 42")
    shell.type("CREATE HIVE lab; CREATE BOX lab.raw;\r")
    shell.wait_for("row in ")
    shell.wait_for("row in ")
    shell.type("USE BOX lab.raw;\r")
    shell.wait_for("lab.raw> ")
    shell.type("SELECT * FROM nowhere;\r")
    shell.wait_for("not found")
    shell.wait_for("lab.raw> ")
    shell.type(".format markdown\r")
    shell.wait_for("lab.raw> ")
    shell.type("SELECT 1 AS a;\r")
    shell.wait_for("| ---: |")
    shell.type(".nonsense\r")
    shell.wait_for("no command of the shell")
    shell.type("exit\r")
    assert shell.close() == 0
    history = (home / ".local/state/apiary/history").read_text()
    assert "USE BOX lab.raw;" in history
    # The line before is there again.
    shell = Terminal(storage, home)
    shell.type("\x1b[A" * 5)
    shell.wait_for("SELECT * FROM nowhere;")
    shell.type("\x03")
    shell.leave()


def test_names_are_completed(storage: Path, home: Path) -> None:
    assert piped(storage, "CREATE FRAME temperatures (celsius DOUBLE)").returncode == 0
    shell = Terminal(storage, home)
    shell.type("SELECT count(cel\t")
    shell.type("sius) AS n FROM temperat\t;\r")
    shell.wait_for("| n |")
    shell.wait_for("| 0 |")
    shell.leave()


def test_ctrl_c_cancels_the_query_and_not_the_shell(storage: Path, home: Path) -> None:
    big = "CREATE FRAME big AS SELECT * FROM generate_series(1, 1000000) AS t(x)"
    assert piped(storage, big).returncode == 0
    shell = Terminal(storage, home)
    shell.type("SELECT count(*) FROM big AS a, big AS b WHERE a.x + b.x = -1;\r")
    shell.wait_for("working")
    shell.type("\x03")
    shell.wait_for("cancelled")
    shell.wait_for("default.default> ")
    shell.type("SELECT 7 * 6 AS still_here;\r")
    shell.wait_for("42")
    shell.leave()
