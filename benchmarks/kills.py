"Kill -9 at random moments: step functions, and whole runs. Nothing may be torn; each resume has to end in the bytes of the undisturbed run."

import argparse
import importlib
import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clean_run import ROOT, different, finish_tiny, hashes, run_tiny, scratch
from record import record

from recsys.errors import RecsysError
from recsys.runs import Run, list_runs, open_run
from recsys.store import Store, lock, read_manifest, verify


def make(runs_dir: Path, step: str, target: Path) -> None:
    "What a killed child does: make the artifact of a step by its function, in a store of its own, from the clean run's inputs."
    run = open_run("tiny", runs_dir=runs_dir)
    folders, store = run.artifacts(), Store(target)
    manifest = read_manifest(folders[step])
    origin, key = manifest["made_from"], manifest["key"]
    values = dict(origin["parameters"])
    if origin["raw"]:
        values["sources"] = {name: value for name in origin["raw"] if (value := run.record["settings"][name])}
    module = importlib.import_module("recsys.scorers.als_fit" if step == "als" else f"recsys.pipeline.{step}")
    with lock(store.making(step, key), f"process {os.getpid()}"), store.staging(step, key) as out_dir:
        declared = inspect.signature(getattr(module, step)).parameters
        values = {name: value for name, value in (values | {"work_dir": store.work_dir(step, key)}).items() if name in declared}
        summary = getattr(module, step)({name: folders[name] for name in origin["inputs"]}, out_dir, **values)
        store.commit(out_dir, step, key, {"made_from": origin, "summary": json.loads(json.dumps(summary, default=str))})


def child(runs_dir: Path, step: str, target: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, "--make", step, str(runs_dir), str(target)]
    return subprocess.Popen(command, start_new_session=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"})  # fmt: skip


def finish(runs_dir: Path, step: str, target: Path) -> float:
    "Let a child end; its seconds."
    began, process = time.monotonic(), child(runs_dir, step, target)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"step {step} failed:\n{said}")
    return time.monotonic() - began


def kill(process: subprocess.Popen) -> bool:
    "Kill -9 to a process and all it started in its group; whether it was still at work."
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


def torn(store: Store) -> list[str]:
    "Artifacts that do not verify."
    bad = []
    for folder in store.artifacts():
        try:
            verify(folder)
        except RecsysError as problem:
            bad.append(str(problem))
    return bad


def files_of(store: Store, step: str) -> dict[str, str]:
    return {file: about["sha256"] for folder in store.artifacts() for file, about in verify(folder)["files"].items() if folder.parent.name == step}


def kill_steps(run: Run, runs_dir: Path, n: int, seed: int, workers: int) -> dict[str, int]:
    "n kills, the steps in turn, at a random moment of each."
    clean, dice, steps = hashes(run), random.Random(seed), list(run.artifacts())
    base = scratch()
    usual = {step: finish(runs_dir, step, base / f"clean-{step}") for step in steps}
    tasks = [(number, steps[number % len(steps)], dice.random()) for number in range(n)]

    def one(task: tuple[int, str, float]) -> tuple[int, int, int]:
        number, step, moment = task
        target = base / f"{number}"
        process = child(runs_dir, step, target)
        time.sleep(moment * usual[step])
        alive = kill(process)
        bad = torn(Store(target))
        finish(runs_dir, step, target)
        same = files_of(Store(target), step) == clean[step]
        shutil.rmtree(target)
        words = "killed" if alive else "had ended", "TORN" if bad else "whole", "same" if same else "DIFFERENT"
        print(f"{number + 1:4} {step:18} at {moment:4.0%}", *words, flush=True)
        return alive, len(bad), not same

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(one, tasks))
    shutil.rmtree(base)
    return dict(zip(("killed", "torn", "different"), map(sum, zip(*results, strict=True)), strict=True))


def kill_runs(run: Run, seconds: float, n: int, seed: int) -> dict[str, int]:
    "n kills of whole runs, two to a store; then each is resumed to its end."
    clean, dice, n_steps = hashes(run), random.Random(seed), len(run.artifacts())
    counts = {"killed": 0, "torn": 0, "different": 0, "redone": 0}
    for chain in range((n + 1) // 2):
        runs_dir = scratch()
        store = Store(runs_dir / ".store")
        for _ in range(2):
            known, finished = {run.folder for run in list_runs(runs_dir)}, artifacts(store)
            process = run_tiny(runs_dir)
            time.sleep(dice.uniform(2, max(3, 0.9 * seconds * (1 - len(finished) / n_steps))))
            counts["killed"] += kill(process)
            counts["torn"] += len(torn(store))
            counts["redone"] += redone(runs_dir, known, finished)
        known, finished = {run.folder for run in list_runs(runs_dir)}, artifacts(store)
        resumed = finish_tiny(runs_dir)
        counts["redone"] += redone(runs_dir, known, finished)
        counts["different"] += len(different(clean, hashes(resumed)))
        print(f"chain {chain + 1}: {len(finished)} steps were finished when it was killed last; {counts}", flush=True)
        shutil.rmtree(runs_dir)
    return counts


def artifacts(store: Store) -> set[tuple[str, str]]:
    "(step, key) of what is finished."
    return {(folder.parent.name, folder.name) for folder in store.artifacts()}


def redone(runs_dir: Path, known: set[Path], finished: set[tuple[str, str]]) -> int:
    "Steps that the runs made since then made again."
    steps = [step for run in list_runs(runs_dir) if run.folder not in known for step in run.record["steps"]]
    return sum(step["status"] == "done" and (step["step"], step["key"]) in finished for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="kills of step functions")
    parser.add_argument("--runs", type=int, default=20, help="kills of whole runs")
    parser.add_argument("--workers", type=int, default=2, help="step functions at a time")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make(Path(asked.make[1]), asked.make[0], Path(asked.make[2]))
        return
    runs_dir, began = scratch(), time.monotonic()
    run = finish_tiny(runs_dir)
    whole = time.monotonic() - began
    if asked.steps:
        began = time.monotonic()
        found = kill_steps(run, runs_dir, asked.steps, asked.seed, asked.workers)
        text = f"{asked.steps} kills ({found['killed']} before the end): {found['torn']} torn, {found['different']} resumed to other bytes"
        record("kill -9 of step functions", text, time.monotonic() - began, f"python benchmarks/kills.py --steps {asked.steps} --runs 0")
    if asked.runs:
        began = time.monotonic()
        found = kill_runs(run, whole, asked.runs, asked.seed)
        text = f"{found['killed']} kills: {found['torn']} torn, {found['different']} files resumed to other bytes, {found['redone']} finished steps redone"
        record("kill -9 of whole runs", text, time.monotonic() - began, f"python benchmarks/kills.py --steps 0 --runs {asked.runs}")
    shutil.rmtree(runs_dir)


if __name__ == "__main__":
    main()
