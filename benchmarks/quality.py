"""How good the recommendations are, on real data: each part is one run of the river and a table with intervals.

RECSYS_REAL_DATA=FOLDER python benchmarks/quality.py toys|hm|rr|engines   (FOLDER holds toys/, hm_raw/, rr_raw/: see the README)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from clean_run import RECSYS, ROOT
from record import record
from rich.console import Console
from rich.table import Table

from recsys.evaluation.protocol import draw_means, interval
from recsys.runs import Run, open_run

MIXED = ("hybrid", "ranker", "hybrid_default", "hybrid_generalizable")
KEEP = ("runs_dir", "sample_dir")


def river(profile: str, runs_dir: Path, *sets: str) -> tuple[Run, float]:
    "A finished run, and its seconds."
    started = time.monotonic()
    words = [word for pair in (f"runs_dir={runs_dir}", *sets) for word in ("--set", pair)]
    done = subprocess.run([*RECSYS, "run", profile, *words], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"the run failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return open_run(profile, runs_dir=runs_dir), time.monotonic() - started


def rows_of(run: Run, dataset: str) -> list[dict]:
    "Its metrics."
    return [row for row in json.loads((run.folder / "metrics.json").read_text()) if row["dataset"] == dataset]


def show(rows: list[dict], columns: list[tuple[str, int, str]], title: str) -> None:
    "Every strategy's numbers, with intervals where there are some."
    table = Table(title=title, box=None)
    for name in ("strategy", *(f"{metric}@{k} {part}" for metric, k, part in columns)):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    found = {(row["strategy"], row["metric"], row["k"], row["slice"]): row for row in rows}
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        cells = []
        for column in columns:
            row = found.get((strategy, *column))
            ends = f" [{row['lo']:.4f}, {row['hi']:.4f}]" if row and row["lo"] is not None else ""
            cells.append("–" if row is None or row["value"] is None else f"{row['value']:.4f}{ends}")
        table.add_row(strategy, *cells)
    Console(width=160).print(table)


def value(rows: list[dict], strategy: str, metric: str, k: int, part: str) -> float:
    "One number, NaN where there is none."
    found = [row["value"] for row in rows if (row["strategy"], row["metric"], row["k"], row["slice"]) == (strategy, metric, k, part)]
    return found[0] if found and found[0] is not None else float("nan")


def against(run: Run, dataset: str, ours: str, theirs: str, served: bool = False) -> str:
    "The difference of two strategies' MAP@12 with its interval, paired by user: of warm users, or of everybody, served."
    users = pq.read_table(run.artifact("evaluate") / f"users_{dataset}.parquet").to_pandas()
    chosen = users if served else users[users["warm"]]
    pair = np.nan_to_num(chosen[[f"served:{name}" if served else name for name in (ours, theirs)]].to_numpy(np.float64))
    means = draw_means(pair)
    ends, mean = interval(means[:, 0] - means[:, 1]), pair.mean(axis=0)
    who = "all users, served" if served else "warm users"
    return f"{ours} {mean[0]:.4f} against {theirs} {mean[1]:.4f}: {mean[0] - mean[1]:+.4f} [{ends.lo:+.4f}, {ends.hi:+.4f}] MAP@12 of {len(pair):,} {who}"


def best_single(run: Run, dataset: str, rows: list[dict]) -> str:
    "The strategy with the highest MAP@12 on warm users that is no mixture."
    single = {row["strategy"] for row in rows if row["strategy"] not in MIXED and row["strategy"] != "random"}
    return max(single, key=lambda name: np.nan_to_num(value(rows, name, "map", 12, "warm"), nan=-1))


def toys(data: Path, runs_dir: Path) -> str:
    "Leave-one-out as published: all items ranked, the user's own left out."
    shop = data / "toys"
    run, _ = river("table", runs_dir, f"events={shop / 'events.csv'}", f"items={shop / 'items.csv'}", "split=leave_one_out", "tune=als,item_knn,weights")
    rows = rows_of(run, "table")
    show(rows, [("hit_rate", 10, "all"), ("ndcg", 10, "all"), ("map", 12, "all")], "toys, leave_one_out")
    print(against(run, "table", "ranker", best_single(run, "table", rows)), against(run, "table", "hybrid", best_single(run, "table", rows)), sep="\n")
    return "; ".join(f"{name} HR@10 {value(rows, name, 'hit_rate', 10, 'all'):.4f} NDCG@10 {value(rows, name, 'ndcg', 10, 'all'):.4f}"
                     for name in ("hybrid", "ranker", best_single(run, "table", rows)))  # fmt: skip


def hm(data: Path, runs_dir: Path) -> str:
    "Purchases of 2020-09-21 and 22, everything before is known; items that are new; everybody, strangers included."
    run, _ = river("hm", runs_dir, f"hm_raw={data / 'hm_raw'}", "test_days=2", "valid_days=2", "tune=item_knn,weights")
    rows, single = rows_of(run, "hm"), best_single(run, "hm", rows_of(run, "hm"))
    show(rows, [("map", 12, "warm"), ("map", 12, "served"), ("recall", 12, "warm")], "H&M, two days")
    cold = json.loads((run.artifact("evaluate") / "cold_ranking.json").read_text())
    print(json.dumps(cold, indent=1)[:4000])
    said = [against(run, "hm", name, other, served) for name in ("ranker", "hybrid") for other, served in ((single, False), ("repurchase", True))]
    print(*said, sep="\n")
    return "; ".join(said)


def rr(data: Path, runs_dir: Path) -> str:
    "RetailRocket's views as sessions: the next item of each."
    run, _ = river("rr", runs_dir, f"rr_raw={data / 'rr_raw'}", "split=sessions", "test_days=7", "valid_days=7", "tune=item_knn,transitions,weights")
    rows = rows_of(run, "rr")
    show(rows, [("recall", 20, "all"), ("mrr", 20, "all")], "RetailRocket, next item of a session")
    return "; ".join(f"{name} R@20 {value(rows, name, 'recall', 20, 'all'):.4f} MRR@20 {value(rows, name, 'mrr', 20, 'all'):.4f}"
                     for name in ("item_knn", "transitions", "als", "hybrid", "ranker"))  # fmt: skip


PARTS = {"toys": toys, "hm": hm, "rr": rr}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, default=os.environ.get("RECSYS_REAL_DATA"), help="folder of the real data; default: RECSYS_REAL_DATA")
    parser.add_argument("--runs", type=Path, help="folder of the runs, kept; default: a temporary one")
    asked = parser.parse_args()
    if asked.data is None:
        sys.exit("expected --data FOLDER or RECSYS_REAL_DATA, got neither; see benchmarks/README.md for what it holds")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="recsys-quality-") as scratch:
        said = PARTS[asked.part](Path(asked.data).resolve(), (asked.runs or Path(scratch)).resolve())
    record(f"quality, {asked.part}", said, time.monotonic() - started, f"python benchmarks/quality.py {asked.part}")
