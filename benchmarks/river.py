"""From raw files to the report: seconds and memory of every step of one run, and what it costs to find that nothing has changed.

python benchmarks/river.py sample                 the drawn sample shop, as `make run` draws it
python benchmarks/river.py full --folder DIR      both shops at full size, drawn into DIR where they are absent, embeddings given
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from clean_run import RECSYS, ROOT
from record import record
from rich.console import Console
from rich.table import Table

from recsys.datasets.hm import item_id
from recsys.runs import Run, open_run

FULL = {"customers": 1_371_980, "articles": 105_542, "transactions": 31_788_324, "rr-visitors": 1_407_580, "rr-events": 2_756_101}
DIMS, GROUPS = 512, 400  # of the given vectors: as many numbers as CLIP's, and about as many kinds of things as H&M sells


def seconds_of(*words: str) -> float:
    "How long a command of ours takes; one that fails ends this."
    started = time.perf_counter()
    done = subprocess.run([*RECSYS, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"recsys {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return time.perf_counter() - started


def drawn(folder: Path) -> Path:
    "Both shops at full size, without pictures."
    if not (folder / "rr_raw" / "events.csv").exists():
        seconds_of("sample", str(folder), *(word for name, n in FULL.items() for word in (f"--{name}", str(n))), "--no-images")
    return folder


def given_vectors(folder: Path, seed: int = 7) -> Path:
    "Vectors of every H&M article, alike within a kind: what an encoder would have made elsewhere."
    if (path := folder / "vectors.npz").exists():
        return path
    with open(folder / "hm_raw" / "articles.csv", encoding="utf-8", newline="") as file:
        rows = [(item_id(row["article_id"]), row["product_type_name"], row["colour_group_name"]) for row in csv.DictReader(file)]
    rng, kinds = np.random.default_rng(seed), np.unique([kind for _, *kind in rows], axis=0, return_inverse=True)[1].reshape(-1) % GROUPS
    centres = rng.standard_normal((GROUPS, DIMS)).astype(np.float32)
    vectors = centres[kinds] + rng.standard_normal((len(rows), DIMS)).astype(np.float32)
    np.savez(path, item_id=np.array([id for id, *_ in rows]), vector=vectors)
    return path


def show_steps(run: Run) -> list[dict]:
    "Every step's seconds, how many of them were start and pictures, and its peak."
    table, steps = Table(title=f"{run.record['profile']}: from raw files to the report", box=None), run.record["steps"]
    for name in ("step", "seconds", "share", "of them start, pictures", "peak MB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    total = sum(step["seconds"] for step in steps)
    for step in steps:
        table.add_row(step["name"], f"{step['seconds']:.1f}", f"{step['seconds'] / total:.0%}", f"{step['startup_seconds']:.1f}", f"{step['peak_mb']:,}")
    table.add_row("all", f"{total:.1f}", "", f"{sum(step['startup_seconds'] for step in steps):.1f}", f"{max(step['peak_mb'] for step in steps):,}")
    Console(width=120).print(table)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["sample", "tiny", "full"])
    parser.add_argument("--folder", type=Path, help="where the full size is drawn, and its run is kept")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for the run")
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/README.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="river-") as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        sets, profile = [f"runs_dir={folder / 'runs'}", *asked.set], asked.size
        if asked.size == "full":
            drawn(folder)
            profile, vectors = "both", given_vectors(folder)
            sets += [f"hm_raw={folder / 'hm_raw'}", f"rr_raw={folder / 'rr_raw'}", f"text_vectors={vectors}"]
        words = ("run", profile, *(word for one in sets for word in ("--set", one)))
        whole, again = seconds_of(*words), seconds_of(*words)
        steps = show_steps(open_run(profile, runs_dir=folder / "runs"))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import recsys"], check=True)
        imported, helped = time.perf_counter() - started, seconds_of("--help")
    slowest = ", ".join(f"{step['name']} {step['seconds']:.0f} s" for step in sorted(steps, key=lambda step: -step["seconds"])[:5])
    said = (f"{whole:.0f} s, peak of a step {max(step['peak_mb'] for step in steps) / 1024:.1f} GiB; slowest: {slowest}; "
            f"again, nothing changed: {again:.1f} s; import recsys {imported:.2f} s, recsys --help {helped:.2f} s")  # fmt: skip
    print(json.dumps({"run_seconds": whole, "again_seconds": again, "import_seconds": imported, "help_seconds": helped}, indent=1))
    print(said)
    if asked.record:
        record(f"river, {asked.size}", said, whole, f"python benchmarks/river.py {asked.size}{' --folder DIR' if asked.folder else ''} --record")


if __name__ == "__main__":
    main()
