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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from clean_run import RECSYS, ROOT
from record import record
from rich.console import Console
from rich.table import Table

from recsys.data.windows import datasets as about_shops
from recsys.data.windows import load_window, read_cutoffs
from recsys.datasets.sample import draw_sample
from recsys.evaluation.metrics import hits, recall
from recsys.evaluation.protocol import ask, draw_means, interval
from recsys.evaluation.report import find_row, strategies_in
from recsys.pipeline.evaluate import questions
from recsys.pipeline.events import events
from recsys.pipeline.interactions import interactions
from recsys.pipeline.split import split
from recsys.recommend import select_exam
from recsys.runs import Run, open_run
from recsys.scorers.als import AlsScorer
from recsys.scorers.exam import Exam
from recsys.scorers.search import search_als
from recsys.settings import load_settings

MIXED = ("hybrid", "ranker", "hybrid_default", "hybrid_generalizable")


def river(profile: str, runs_dir: Path, *sets: str) -> Run:
    "A finished run."
    words = [word for pair in (f"runs_dir={runs_dir}", *sets) for word in ("--set", pair)]
    done = subprocess.run([*RECSYS, "run", profile, *words], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"the run failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return open_run(profile, runs_dir=runs_dir)


def rows_of(run: Run, dataset: str) -> list[dict]:
    "Its metrics."
    return [row for row in json.loads((run.folder / "metrics.json").read_text()) if row["dataset"] == dataset]


def show(rows: list[dict], columns: list[tuple[str, int, str]], title: str, part: str) -> None:
    "Every strategy's numbers, with intervals where there are some: on the terminal, and in `quality_<part>.md`."
    table = Table(title=title, box=None)
    for name in ("strategy", *(f"{metric}@{k} {slice_}" for metric, k, slice_ in columns)):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    lines = [f"# {title}", "", f"| strategy | {' | '.join(f'{metric}@{k}, {slice_}' for metric, k, slice_ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for strategy in strategies_in(rows):
        cells = []
        for column in columns:
            row = find_row(rows, strategy, *column)
            ends = f" [{row['lo']:.4f}, {row['hi']:.4f}]" if row and row["lo"] is not None else ""
            cells.append("–" if row is None or row["value"] is None else f"{row['value']:.4f}{ends}")
        table.add_row(strategy, *cells)
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    Console(width=160).print(table)
    Path(__file__).with_name(f"quality_{part}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def value(rows: list[dict], strategy: str, metric: str, k: int, part: str) -> float:
    "One number, NaN where there is none."
    found = find_row(rows, strategy, metric, k, part)
    return float("nan") if found is None or found["value"] is None else found["value"]


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
    run = river("table", runs_dir, f"events={shop / 'events.csv'}", f"items={shop / 'items.csv'}", "split=leave_one_out", "tune=als,item_knn,weights")
    rows = rows_of(run, "table")
    show(rows, [("hit_rate", 10, "all"), ("ndcg", 10, "all"), ("map", 12, "all")], "toys, leave_one_out", "toys")
    print(against(run, "table", "ranker", best_single(run, "table", rows)), against(run, "table", "hybrid", best_single(run, "table", rows)), sep="\n")
    return "; ".join(f"{name} HR@10 {value(rows, name, 'hit_rate', 10, 'all'):.4f} NDCG@10 {value(rows, name, 'ndcg', 10, 'all'):.4f}"
                     for name in ("hybrid", "ranker", best_single(run, "table", rows)))  # fmt: skip


def hm(data: Path, runs_dir: Path) -> str:
    "Purchases of 2020-09-21 and 22, everything before is known; items that are new; everybody, strangers included."
    run = river("hm", runs_dir, f"hm_raw={data / 'hm_raw'}", "test_days=2", "valid_days=2", "tune=item_knn,weights")
    single = best_single(run, "hm", rows := rows_of(run, "hm"))
    show(rows, [("map", 12, "warm"), ("map", 12, "served"), ("recall", 12, "warm")], "H&M, two days", "hm")
    cold = json.loads((run.artifact("evaluate") / "cold_ranking.json").read_text())
    show(cold["hm"]["rows"], [("recall", 12, "cold_ranking"), ("map", 12, "cold_ranking")], "H&M, new items ranked among themselves", "hm_cold")
    said = [against(run, "hm", name, other, served) for name in ("ranker", "hybrid") for other, served in ((single, False), ("repurchase", True))]
    print(*said, sep="\n")
    return "; ".join(said)


def rr(data: Path, runs_dir: Path) -> str:
    "RetailRocket's views as sessions: the next item of each. Published are items with five events or more; of a small cut none would be left."
    whole = (data / "rr_raw" / "events.csv").stat().st_size > 50 * 2**20  # Kaggle's has 94 MB
    least = [] if whole else ["min_item_events=1"]
    run = river("rr", runs_dir, f"rr_raw={data / 'rr_raw'}", "split=sessions", "tune=item_knn,transitions,weights", *least)
    rows = rows_of(run, "rr")
    show(rows, [("recall", 20, "all"), ("mrr", 20, "all")], "RetailRocket, next item of a session", "rr")
    return "; ".join(f"{name} R@20 {value(rows, name, 'recall', 20, 'all'):.4f} MRR@20 {value(rows, name, 'mrr', 20, 'all'):.4f}"
                     for name in ("item_knn", "transitions", "als", "hybrid", "ranker"))  # fmt: skip


ENGINES, ENGINE_SIZES, ENGINE_TRIALS = ("implicit", "spark"), (32, 64), 6  # the same sizes and trials for both: Spark's 256 takes too long


def prepared(out_dir: Path, datasets: list[str], sources: dict[str, Path], **cut: object) -> dict[str, Path]:
    "The first three steps of the river, without the models: step -> folder."
    inputs: dict[str, Path] = {}
    given = {"datasets": datasets, "sources": {name: str(path) for name, path in sources.items()}}
    windows = {"interactions.select": {"window": "select"}, "interactions": {"window": "final"}}
    for step, dials in {"events": given, "split": cut, **windows}.items():
        function = {"events": events, "split": split}.get(step, interactions)
        (out_dir / step).mkdir(parents=True)
        function(inputs, out_dir / step, **dials)
        inputs[step] = out_dir / step
    return inputs


def engine_shops(data: Path | None, runs_dir: Path) -> Iterator[tuple[str, str, dict[str, Path]]]:
    "What is shown, dataset and inputs of each shop: the sample shop as its profile draws it, and of the real data what is there."
    drawn = load_settings("sample", path=ROOT / "settings.ini")
    draw_sample(runs_dir / "drawn", customers=drawn.sample_customers, articles=drawn.sample_articles, seed=drawn.seed, images=False, progress=False)
    sample = prepared(runs_dir / "sample", ["hm", "rr"], {name: runs_dir / "drawn" / name for name in ("hm_raw", "rr_raw")})
    yield from ((f"sample {name}", name, sample) for name in ("hm", "rr"))
    if data and (data / "toys").exists():
        given = {"events": data / "toys" / "events.csv", "items": data / "toys" / "items.csv"}
        yield "toys", "table", prepared(runs_dir / "toys", ["table"], given, split="leave_one_out")
    if data and (data / "hm_raw").exists():
        yield "H&M", "hm", prepared(runs_dir / "hm", ["hm"], {"hm_raw": data / "hm_raw"}, test_days=2, valid_days=2)


def recalls_of(inputs: dict[str, Path], dataset: str, engine: str, dials: dict) -> tuple[np.ndarray, np.ndarray]:
    "(S,) recall@12 on test of each warm user, and what is drawn together; fitted on train and valid."
    window = load_window(inputs, dataset, "final")
    policy = read_cutoffs(inputs)[dataset].policy(about_shops(inputs)[dataset]["repeat"])
    protocol = questions(inputs, window, policy, ())
    found = hits(ask(protocol, AlsScorer(**dials, engine=engine).fit(window.interactions)).nums, protocol.targets)
    warm = protocol.queries.has_history
    return recall(found, 12)[warm], protocol.groups[warm]


def compare_engines(inputs: dict[str, Path], dataset: str) -> dict[str, object]:
    "Both engines, each tuned on valid, on the same users of test: cells of a row."
    exam, cells, values = select_exam(inputs, dataset), {}, []
    for engine in ENGINES:
        found = search_als(exam, ENGINE_TRIALS, sizes=ENGINE_SIZES, engine=engine, value=Exam.recall)
        dials = ", ".join(f"{value:g}" for value in found.dials.values())
        recalls, groups = recalls_of(inputs, dataset, engine, found.dials)
        cells |= {engine: f"{recalls.mean():.4f}", f"{engine}: {', '.join(found.dials)}": dials}
        values.append(recalls)
    pair = np.stack(values, axis=1)
    means = draw_means(pair, groups=groups)
    ends, off = interval(means[:, 1] - means[:, 0]), interval(means[:, 1] / means[:, 0])
    implicit, spark = pair.mean(axis=0)
    return {"users": f"{len(pair):,}"} | cells | {"spark - implicit": f"{spark - implicit:+.4f} [{ends.lo:+.4f}, {ends.hi:+.4f}]",
                                                   "ratio": f"{spark / implicit:.3f} [{off.lo:.3f}, {off.hi:.3f}]"}  # fmt: skip


def engines(data: Path | None, runs_dir: Path) -> str:
    "implicit and Spark ALS, each at its own best on valid."
    table, said = Table(title="recall@12 on test of warm users, both engines tuned on valid, by recall@12", box=None), []
    for shown, dataset, inputs in engine_shops(data, runs_dir):
        row = {"shop": shown} | compare_engines(inputs, dataset)
        if not table.columns:
            for name in row:
                table.add_column(name)
        table.add_row(*map(str, row.values()))
        said.append(f"{shown} {row['implicit']} and {row['spark']}, ratio {row['ratio']}")
        print(said[-1], flush=True)
    Console(width=240).print(table)
    return "; ".join(said)


PARTS = {"engines": engines, "toys": toys, "hm": hm, "rr": rr}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, default=os.environ.get("RECSYS_REAL_DATA"), help="folder of the real data; default: RECSYS_REAL_DATA")
    parser.add_argument("--runs", type=Path, help="folder of the runs, kept; default: a temporary one")
    asked = parser.parse_args()
    if asked.data is None and asked.part != "engines":  # which has the sample shop
        sys.exit("expected --data FOLDER or RECSYS_REAL_DATA, got neither; see benchmarks/README.md for what it holds")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="recsys-quality-") as scratch:
        said = PARTS[asked.part](asked.data and Path(asked.data).resolve(), (asked.runs or Path(scratch)).resolve())
    record(f"quality, {asked.part}", said, time.monotonic() - started, f"python benchmarks/quality.py {asked.part}")
