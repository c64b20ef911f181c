"""Ingest: the step `events` against what people write with pandas and polars, on a drawn H&M of full size.

python benchmarks/ingest.py [FOLDER] [--customers N --articles N --transactions N]   (defaults: the sizes of Kaggle's files)

FOLDER is a drawn sample (`recsys sample FOLDER --no-images ...`); where it holds none, one is drawn there.
Ours reads three files, checks every row, counts it, merges repeats, sorts and hashes; the peers read one file and make the same item ids.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from record import Timed, environment, record, show_ratios

from recsys.runner import Watch

ROOT = Path(__file__).resolve().parents[1]
RECSYS = [sys.executable, "-c", "from recsys.cli import main; main()"]
SOLD = "transactions_train.csv"
STEP = """from pathlib import Path
from recsys.pipeline.events import events
events({{}}, Path({out!r}), datasets=["hm"], sources={{"hm_raw": {raw!r}}})"""
PANDAS = """import pandas as pd
d = pd.read_csv({csv!r}, dtype={{"article_id": str}}, parse_dates=["t_dat"], engine="pyarrow")
d["item_id"] = ("2" + d.article_id).astype("int64")
d.to_parquet({out!r})"""
POLARS = """import polars as pl
d = pl.scan_csv({csv!r}, schema_overrides={{"article_id": pl.String}}, try_parse_dates=True)
d.with_columns(item_id=("2" + pl.col("article_id")).cast(pl.Int64)).sink_parquet({out!r})"""
COUNT = """import duckdb
print(duckdb.sql("select count(*) from read_csv({csv!r}, all_varchar=true)").fetchall())"""
BYTES = """piece = bytearray(1 << 20)
with open({csv!r}, "rb", buffering=0) as file:
    while file.readinto(piece): pass"""


def timed(command: Sequence[str]) -> Timed:
    "Run a command to its end: its seconds, and the most memory that it and all it started held at a time."
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with Watch(child.pid) as watch:  # what the system says when a child has ended counts what its parent held, too
        said, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{said}")
    return Timed(time.perf_counter() - started, round(watch.peak_mb * 2**20), said)


def drawn(folder: Path, customers: int, articles: int, transactions: int) -> Path:
    "The raw files of a drawn shop of this size."
    if not (folder / "hm_raw" / SOLD).exists():
        sizes = {"customers": customers, "articles": articles, "transactions": transactions, "rr-visitors": 20, "rr-events": 200}
        found = timed([*RECSYS, "sample", str(folder), "--no-images", *(f"--{name}={size}" for name, size in sizes.items())])
        print(f"drawn in {found.seconds:.0f} s, {found.peak / 2**30:.2f} GiB")
    return folder / "hm_raw"


def python_with(package: str) -> str | None:
    "A Python that has this package: this one, else one of its own; None where it cannot be had."
    if not subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True).returncode:
        return sys.executable
    if isinstance(found := environment(package), str):
        print(found)
        return None
    return str(found)


def measured(raw: Path, work: Path) -> list[tuple[str, Timed]]:
    "Each way in, one after the other."
    os.makedirs(step := work / "step")
    words = {"csv": str(raw / SOLD), "raw": str(raw), "out": str(step)}
    script = lambda text, python, out="": [python, "-c", text.format(**words | ({"out": str(work / out)} if out else {}))]
    rows = [("the file's bytes, read once", script(BYTES, sys.executable)), ("DuckDB counts its rows", script(COUNT, sys.executable)),
            ("recsys run --only events", [*RECSYS, "run", "hm", f"--set=hm_raw={raw}", f"--set=runs_dir={work / 'runs'}", "--only=events"]),
            ("the step alone", script(STEP, sys.executable)), ("pandas, pyarrow engine", script(PANDAS, sys.executable, "pandas.parquet"))]  # fmt: skip
    if python := python_with("polars"):
        rows.append(("polars, streaming", script(POLARS, python, "polars.parquet")))
    return [(name, timed(command)) for name, command in rows]


def main(argv: Sequence[str] | None = None) -> dict[str, Timed]:
    "Measure, print, and write the row where the size is the full one."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a drawn sample; default: a temporary one")
    sizes = {"customers": 1_371_980, "articles": 105_542, "transactions": 31_788_324}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        raw = drawn(given.folder or Path(folder, "drawn"), given.customers, given.articles, given.transactions)
        found = dict(measured(raw.resolve(), Path(folder)))
        n = pq.read_metadata(Path(folder, "step", "events_hm.parquet")).num_rows
    peer, ours = found["pandas, pyarrow engine"], found["recsys run --only events"]
    show_ratios(f"ingest: {raw / SOLD} to {n:,} events", list(found.items()), "pandas, pyarrow engine")
    if (given.customers, given.articles, given.transactions) == tuple(sizes.values()):
        said = f"{peer.seconds / ours.seconds:.1f} times as fast, 1/{peer.peak / ours.peak:.0f} of the memory, rejects and accounting on"
        record("ingest of full-size H&M against pandas' pyarrow reader", said, ours.seconds, "python benchmarks/ingest.py")
    return found


if __name__ == "__main__":
    main()
