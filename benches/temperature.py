"""Temperature over a ramp of load: does it rise to hot and critical, hold writes back, and fall again without flapping?

Measured: the node's temperature and band ten times a second, while one, then more queries that hold memory run, then
others wait behind them, then all end; and how long a write takes that begins every half second meanwhile.
Peer: none. How to read it: the line must rise through the bands and fall through them; "changes" are those of band, and
more than the bands that it passed on its way up and down would be flapping.

    python benches/temperature.py --plot docs/temperature.png      # the plot needs matplotlib
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from pathlib import Path

import apiary

EDGES = {"ideal": 0.3, "warm": 0.7, "hot": 0.85, "critical": 0.95}
HEAVY = "SELECT sum(length(a.t || b.t)) FROM wide a, wide b"
LONG = "SELECT sum(length(t)) FROM wide"


def main() -> None:
    """Runs the ramp."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, help="where the plot goes, as PNG")
    parser.add_argument("--seconds", type=float, default=10, help="of each step")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, apiary.Apiary("ramp", folder, bees=1, memory="64MB") as ap:
        rows = "SELECT value AS k, repeat(md5(CAST(value AS VARCHAR)), 16) AS t FROM generate_series(1, 75000)"
        ap.sql(f"CREATE FRAME wide AS {rows}")
        ap.sql("CREATE FRAME small (x BIGINT)")
        samples, writes = ramp(ap, args.seconds)
    bands = [band for _, _, band in samples]
    changes = [f"{at:.1f} s {band}" for (at, _, band), before in zip(samples[1:], bands) if band != before]
    print(f"{len(changes)} changes of band: {', '.join(changes)}")
    print(f"highest {max(t for _, t, _ in samples):.2f}, last {samples[-1][1]:.2f}")
    held = [f"{began:.1f} s: {took:.1f} s {outcome}" for began, took, outcome in writes if took > 0.5 or outcome]
    print(f"{len(writes)} writes; held back or refused: {held or 'none'}")
    if args.plot:
        plot(samples, writes, args.plot)


def ramp(ap: apiary.Apiary, seconds: float) -> tuple[list[tuple[float, float, str]], list[tuple[float, float, str]]]:
    """Temperatures and writes over the steps of load."""
    begun, samples, writes = time.monotonic(), [], []
    ended, threads = threading.Event(), []

    def spawn(work, *args) -> None:
        threads.append(threading.Thread(target=work, args=args, daemon=True))
        threads[-1].start()

    def sample() -> None:
        while not ended.wait(0.1):
            status = ap.status()
            samples.append((time.monotonic() - begun, status["temperature"], status["band"]))

    def write() -> None:
        while not ended.wait(0.5):
            began, outcome = time.monotonic(), ""
            try:
                ap.frame("small").write({"x": [1]})
            except apiary.BusyError as error:
                outcome = f"refused ({str(error)[:40]}…)"
            writes.append((began - begun, time.monotonic() - began, outcome))

    def wait_for(sql: str) -> None:
        with contextlib.suppress(apiary.ApiaryError):
            ap.sql(sql).fetchall()

    spawn(sample)
    spawn(write)
    time.sleep(seconds / 2)
    heavy = [ap.sql(HEAVY)]
    time.sleep(seconds)
    # Four queries run at a time on one bee; the others wait.
    heavy += [ap.sql("SELECT count(*) FROM generate_series(1, 100000000000)") for _ in range(3)]
    for waiting in (40, 20):
        for _ in range(waiting):
            spawn(wait_for, LONG)
        time.sleep(seconds)
    for query in heavy:
        query.cancel()
    time.sleep(seconds * 2)
    ended.set()
    for thread in threads:
        thread.join(30)
    return samples, writes


def plot(samples: list[tuple[float, float, str]], writes: list[tuple[float, float, str]], path: Path) -> None:
    """Draws temperature over time, with the bands' edges and the writes that were held back."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4))
    axes.plot([at for at, _, _ in samples], [t for _, t, _ in samples], color="black", label="temperature")
    for name, edge in EDGES.items():
        axes.axhline(edge, linewidth=0.6, color="tab:red" if edge > 0.8 else "tab:gray")
        axes.text(0, edge + 0.01, name, fontsize=8)
    for began, took, outcome in writes:
        color = "tab:red" if outcome else "tab:orange" if took > 0.5 else "tab:green"
        axes.plot([began, began + took], [0.02, 0.02], color=color, linewidth=3, solid_capstyle="butt")
    axes.set(
        xlabel="seconds (below: writes; green went on, orange waited, red refused)",
        ylabel="temperature",
        ylim=(0, 1.02),
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
