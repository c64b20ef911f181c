"What the tests share: where things are, and one run of the whole river on the tiny shop."

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing download costs 49 s


def recsys(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    "Call the command line as a person would."
    command = [sys.executable, "-c", "from recsys.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=900, check=False)


FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextmanager
def chromium() -> Iterator:
    "A browser that asks nobody by itself; where there is none the test is skipped, and says so."
    playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTS: playwright is not installed (pip install 'recsys-workbench[dev]')")
    if not (path := shutil.which("chromium")):
        pytest.skip("NO BROWSER TESTS: there is no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=FLAGS) as browser:
        yield browser


@pytest.fixture(scope="module")
def browser():
    "One browser for all tests of a file: as long as it is there, nothing else may run an event loop."
    with chromium() as found:
        yield found


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


@pytest.fixture(scope="session")
def finished_rivers(tmp_path_factory):
    "Folders in which the little river was run with seed 1; with 1 and 2; with 1, 2 and 3. To be copied, not used."
    import little_river

    from recsys import runner

    base, before = tmp_path_factory.mktemp("rivers"), {name: getattr(runner, name) for name in ("notebooks_dir", "RIVER", "STEPS")}
    little_river.lay(base / "nbs")
    for n in (1, 2, 3):
        if n > 1:
            shutil.copytree(base / f"{n - 1}", base / f"{n}")
        little_river.go(base / f"{n}", seed=n)
    for name, value in before.items():
        setattr(runner, name, value)
    return base


@pytest.fixture
def ready(river, finished_rivers):
    "Puts the runs of seeds 1 to n into a folder, and returns them."
    from recsys.runs import list_runs

    def put(folder, n: int = 1):
        shutil.copytree(finished_rivers / f"{n}" / "runs", folder / "runs")
        return list_runs(folder / "runs")

    return put


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
