"A finished run of the tiny profile that nobody disturbed, and what its files hash to."

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from recsys.runs import Run, open_run
from recsys.store import verify

ROOT = Path(__file__).resolve().parents[1]
RECSYS = [sys.executable, "-c", "from recsys.cli import main; main()"]


def run_tiny(runs_dir: Path, *words: str, **environment: str) -> subprocess.Popen:
    "Start `recsys run tiny` in a process group of its own."
    command = [*RECSYS, "run", "tiny", "--set", f"runs_dir={runs_dir}", *words]
    return subprocess.Popen(command, start_new_session=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})  # fmt: skip


def finish_tiny(runs_dir: Path, *words: str, **environment: str) -> Run:
    "Run it to the end."
    process = run_tiny(runs_dir, *words, **environment)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{said}")
    return open_run("tiny", runs_dir=runs_dir)


def hashes(run: Run) -> dict[str, dict[str, str]]:
    "step -> file -> sha256, every artifact verified."
    return {name: {file: about["sha256"] for file, about in verify(folder)["files"].items()} for name, folder in run.artifacts().items()}


def different(ours: Mapping[str, Mapping[str, str]], theirs: Mapping[str, Mapping[str, str]]) -> list[str]:
    "step/file of every file that is not the same in both."
    names = {(step, file) for one in (ours, theirs) for step, files in one.items() for file in files}
    return sorted(f"{step}/{file}" for step, file in names if ours.get(step, {}).get(file) != theirs.get(step, {}).get(file))


def scratch() -> Path:
    "A folder for the runs of a measurement, removed by whoever asked for it."
    return Path(tempfile.mkdtemp(prefix="recsys-bench-"))
