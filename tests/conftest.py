"What the tests share: where things are, and one run of the whole river on the tiny shop."

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing download costs 49 s


def recsys(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    "Call the command line as a person would."
    command = [sys.executable, "-c", "from recsys.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=900, check=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    "A finished run of the tiny profile in a folder of its own."
    from recsys.runs import open_run

    runs_dir = tmp_path_factory.mktemp("runs")
    done = recsys("run", "tiny", "--set", f"runs_dir={runs_dir}")
    assert done.returncode == 0, done.stdout + done.stderr
    return open_run("tiny", runs_dir=runs_dir)


@pytest.fixture
def river(tmp_path, monkeypatch):
    "A river of three steps that add up; the folder of its notebooks."
    import little_river

    from recsys import runner

    for name in ("notebooks_dir", "RIVER", "STEPS"):
        monkeypatch.setattr(runner, name, getattr(runner, name))  # as they were, afterwards
    little_river.lay(tmp_path / "nbs")
    return tmp_path / "nbs"


@pytest.fixture
def small_disk(tmp_path):
    "A folder on a disk of one megabyte; `mount -o remount,ro` makes it read-only."
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real data, where there is one."
    folder = os.environ.get("RECSYS_REAL_DATA")
    if not folder or not Path(folder).exists():
        pytest.skip("RECSYS_REAL_DATA names no folder: the real data is not tested")
    return Path(folder)
