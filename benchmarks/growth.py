"""Growth: seconds and peak memory of the steps at 1, 10 and 100 % of a full-size H&M, and the exponent fitted through them.

python benchmarks/growth.py [--shares 0.01 0.1 1] [--steps events split interactions ...] [--folder FOLDER]

An exponent of 1 means: twice the input, twice the time. Nothing may grow faster than its input. FOLDER keeps what was drawn.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ingest import RECSYS, ROOT, drawn
from record import record

FULL = {"customers": 1_371_980, "articles": 105_542, "transactions": 31_788_324}
STEPS = ("events", "split", "interactions", "neighbours", "als", "als_import")
MOST = 1.1  # exponent: caches and the logarithm of a sort are allowed their share
FLOOR_SECONDS, FLOOR_MB = 1.0, 50.0  # less is noise, or the same at every size


class Cost(NamedTuple):
    "What a step took at one size."

    events: int
    seconds: float  # of the step's own call
    peak_mb: float  # above what an empty step holds


def costs(runs_dir: Path, raw: Path, step: str) -> tuple[float, float, dict]:
    "Run a step alone: seconds of its own, peak memory, summary; by the run's own record."
    command = [*RECSYS, "run", "hm", f"--set=hm_raw={raw}", f"--set=runs_dir={runs_dir}", f"--only={step}", "--set=encoder=tfidf"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"step {step} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    newest = max((runs_dir / "hm").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    (found,) = (one for one in json.loads(newest.read_text())["steps"] if one["name"] == step)
    return found["seconds"] - found["startup_seconds"], found["peak_mb"], found["summary"]


def measured(folder: Path, share: float, steps: Sequence[str]) -> dict[str, Cost]:
    "What each step takes at a share of the full size."
    raw = drawn(folder / f"drawn-{share:g}", *(max(100, round(size * share)) for size in FULL.values())).resolve()
    found, events = {}, 0
    for step in steps:
        seconds, peak, summary = costs(folder / f"runs-{share:g}", raw, step)
        events = summary["hm"]["events"] if step == "events" else events
        found[step] = Cost(events, seconds, peak)
        print(f"{share:6.0%} {step:14} {seconds:8.1f} s {peak:8.0f} MB", flush=True)
    return found


def exponent(sizes: Sequence[float], values: Sequence[float], floor: float) -> float:
    "The slope of a line through the logarithms; what lies below the floor counts as the floor."
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, floor)), 1)[0])


def fitted(found: Sequence[Mapping[str, Cost]]) -> dict[str, tuple[float, float]]:
    "step -> exponents of seconds and of memory."
    table = {}
    for step in found[0]:
        events, seconds, peaks = zip(*(one[step] for one in found), strict=True)
        table[step] = exponent(events, seconds, FLOOR_SECONDS), exponent(events, peaks, FLOOR_MB)
    return table


def show(found: Sequence[Mapping[str, Cost]], fits: Mapping[str, tuple[float, float]]) -> bool:
    "Print the table; does nothing grow faster than its input?"
    from rich.console import Console
    from rich.table import Table

    table = Table(title="growth: seconds and MB by events", box=None)
    for name in ("step", *(f"{one[next(iter(one))].events:,}" for one in found), "seconds ~ n^", "memory ~ n^"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for step, (slope, memory) in fits.items():
        table.add_row(step, *(f"{one[step].seconds:.1f} s {one[step].peak_mb:,.0f} MB" for one in found), f"{slope:.2f}", f"{memory:.2f}")
    Console(width=140).print(table)
    bad = [step for step, slopes in fits.items() if max(slopes) > MOST]
    print(f"grows faster than its input: {', '.join(bad)}" if bad else f"nothing grows faster than its input (exponent at most {MOST})")
    return not bad


def main(argv: Sequence[str] | None = None) -> bool:
    "Measure, fit, print; write the row where the full size was among them."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), help="in the river's order")
    parser.add_argument("--folder", type=Path, help="kept: what is drawn there already is taken")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        found = [measured(given.folder or Path(folder), share, given.steps) for share in sorted(given.shares)]
    fine = show(found, fits := fitted(found))
    if max(given.shares) == 1:
        seconds = sum(cost.seconds for cost in found[-1].values())
        worst = max(fits, key=lambda step: max(fits[step]))
        said = f"{'nothing' if fine else 'something'} grows faster than its input; the largest exponent is {max(fits[worst]):.2f} ({worst})"
        record("growth of the steps from 1 to 100 % of H&M", said, seconds, "python benchmarks/growth.py")
    return fine


if __name__ == "__main__":
    sys.exit(not main())
