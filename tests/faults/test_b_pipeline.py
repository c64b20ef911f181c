"Part B of what can go wrong: the pipeline and its artifacts. Old output stays intact, the run is marked failed, the way on is said."

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import ROOT, recsys
from damaging import KINDS, copy_of, flips, truncations
from little_river import ADD, KEEP, go, notebook, statuses, write_step

from recsys import runs, store
from recsys.errors import ArtifactError, MissingFileError, RecsysError, SettingsError, StepError
from recsys.runs import Run, clear_garbage, list_runs, open_run
from recsys.settings import load_settings
from recsys.store import MANIFEST, Store, atomic_path, lock, sealed, verify, write_json


def start(command: list[str], **options) -> subprocess.Popen:
    "A process in a group of its own, so that all of it can be killed."
    return subprocess.Popen(command, start_new_session=True, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def hashes(run: Run) -> dict[str, dict[str, str]]:
    "The hash of every file of every artifact."
    return {name: {file: about["sha256"] for file, about in verify(folder)["files"].items()} for name, folder in run.artifacts().items()}


def newest(tmp_path: Path) -> Run:
    return list_runs(tmp_path / "runs")[-1]


def whole(tmp_path: Path) -> int:
    "How many artifacts there are; all of them are whole."
    return len([verify(folder) for folder in Store(tmp_path / "runs" / ".store").artifacts()])


LITTLE = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import little_river
little_river.lay(Path({nbs!r})); little_river.go(Path({folder!r}))
"""


def test_fault_21_killed_at_any_moment(river, ready, tmp_path):
    [clean] = ready(tmp_path / "clean")
    code = LITTLE.format(tests=str(ROOT / "tests"), nbs=str(river), folder=str(tmp_path))
    dice, done = random.Random(21), 0
    for _ in range(4):
        process = start([sys.executable, "-c", code])
        time.sleep(dice.uniform(1.0, 7.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert whole(tmp_path) >= done, "what was finished stays"
        done = whole(tmp_path)
        assert {run.status for run in list_runs(tmp_path / "runs")} <= {"killed", "finished"}
    resumed = go(tmp_path)
    assert resumed.status == "finished"
    assert hashes(resumed) == hashes(clean)
    clear_garbage(tmp_path / "runs", everything=True, dry_run=False)
    assert not list((tmp_path / "runs" / ".store" / ".staging").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fault_22_interrupted(tmp_path, number):
    process = start([sys.executable, "-c", "from recsys.cli import main; main()", "run", "tiny", "--set", f"runs_dir={tmp_path / 'runs'}"])
    executed, began = tmp_path / "runs" / "tiny", []
    for _ in range(300):
        if list(executed.glob("*/*.running.ipynb")) and (began := psutil.Process(process.pid).children(recursive=True)):
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "resume with: recsys run tiny" in said and "Traceback" not in said
    assert began and not [one for one in began if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    run = list_runs(tmp_path / "runs")[-1]
    assert (run.status, run.record["reason"]) == ("failed", "interrupted")
    [told] = run.folder.glob(f"*_{run.record['failed']}.ipynb")  # whichever step it was: a quick machine may be past the first
    assert "This step failed" in told.read_text()
    assert not list(run.store.root.glob(".staging/*"))


OUT_OF_MEMORY = {
    "Python says so": ("import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); [0] * 2**30", "MemoryError"),
    "the kernel of the machine kills it": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
}


@pytest.mark.parametrize("how", OUT_OF_MEMORY)
def test_fault_23_out_of_memory(river, tmp_path, how):
    cell, says = OUT_OF_MEMORY[how]
    write_step(river, "02_two", cell)
    with pytest.raises(StepError, match=says):
        go(tmp_path)
    assert (newest(tmp_path).status, newest(tmp_path).record["failed"], whole(tmp_path)) == ("failed", "two", 1)
    assert "This step failed" in (newest(tmp_path).folder / "02_two.ipynb").read_text(), "whatever the cells of the notebook say"


def test_fault_24_too_slow(river, tmp_path):
    write_step(river, "02_two", before="import time; time.sleep(120)")
    go(tmp_path, only="one")
    before = time.monotonic()
    with pytest.raises(StepError, match="longer than 0.05 minutes.*step_timeout_minutes") as problem:
        go(tmp_path, timeout=0.05)
    assert time.monotonic() - before < 60
    assert problem.value.__notes__ == ["resume with: recsys run mine"]
    assert (newest(tmp_path).record["failed"], whole(tmp_path)) == ("two", 1)


@pytest.mark.parametrize("cell", ["import sys; sys.exit(0)", "import os; os._exit(0)", "import sys; sys.exit()"])
def test_fault_25_leaves_with_success(river, tmp_path, cell):
    write_step(river, "02_two", before=cell)
    with pytest.raises(StepError):
        go(tmp_path)
    assert (newest(tmp_path).status, whole(tmp_path)) == ("failed", 1)


@pytest.mark.parametrize("key, value", [("tower_epoch", "3"), ("tower_epochs", "three"), ("tower_epochs", "0"), ("als_alpha", "-1"), ("tune", "everything"),
                                        ("step_timeout_minutes", "soon")])  # fmt: skip
def test_fault_26_wrong_parameters(key, value):
    with pytest.raises(SettingsError, match=key):
        load_settings("tiny", {key: value}, ROOT / "settings.ini")


def test_fault_26_a_notebook_is_given_only_what_it_declares(river, tmp_path):
    nbformat.write(notebook('inputs = {}\nout_dir = ""', "seed = 5", ADD, KEEP), river / "01_one.ipynb")
    assert go(tmp_path, seed=3).record["steps"][0]["summary"] == {"n": 5}, "papermill would have passed the seed, and warned"


def test_fault_27_disk_full(river, ready, small_disk):
    ready(small_disk)
    write_step(river, "02_two", "pathlib.Path(out_dir, 'large').write_bytes(b'0' * 2**20)")
    with pytest.raises(ArtifactError, match=f"cannot write {small_disk}.*the disk is full.*runs_dir"):
        go(small_disk, seed=2)
    assert (newest(small_disk).status, newest(small_disk).record["failed"]) == ("failed", "two")
    assert whole(small_disk) == 4, "the first run's three, and the step before the full disk"
    write_step(river, "02_two")
    assert statuses(go(small_disk, seed=2)) == ["skipped", "done", "done"]


def test_fault_27_disk_full_for_the_record(ready, small_disk):
    [run] = ready(small_disk)
    record, free = run.record, shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"0" * (free - 512))
    with pytest.raises(ArtifactError, match="run.json: the disk is full"):
        run.write(settings={"words": "long " * 2000})
    assert run.record == record and not list(run.folder.glob(f"{store.UNFINISHED}*"))
    with pytest.raises(ArtifactError, match="cannot write.*the disk is full"):
        go(small_disk, seed=2)
    assert whole(small_disk) == 3


def test_fault_27_read_only(ready, small_disk):
    [run] = ready(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        with pytest.raises(ArtifactError, match=f"cannot write {small_disk}.*read-only disk.*runs_dir"):
            go(small_disk, seed=2)
        with pytest.raises(ArtifactError, match="read-only"), atomic_path(small_disk / "a.txt"):
            pass
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert hashes(run) and whole(small_disk) == 3


def test_fault_28_two_runs_at_once(river, tmp_path):
    write_step(river, "01_one", before="import time; time.sleep(4)")
    process = start([sys.executable, "-c", LITTLE.format(tests=str(ROOT / "tests"), nbs=str(river), folder=str(tmp_path))])
    for _ in range(200):
        if list((tmp_path / "runs").glob("mine/*/01_one.running.ipynb")):
            break
        time.sleep(0.05)
    first = list_runs(tmp_path / "runs")[-1]
    assert first.status == "running"
    with pytest.raises(ArtifactError, match=f"step one is held by run {first.name}, process {process.pid}"):
        go(tmp_path)
    with pytest.raises(ArtifactError, match="the store is held by run"):
        clear_garbage(tmp_path / "runs")
    assert process.wait(timeout=60) == 0
    assert first.status == "finished"
    assert statuses(first) == ["done"] * 3 and statuses(go(tmp_path)) == ["skipped"] * 3


def test_fault_29_stale_lock(ready, tmp_path):
    [run] = ready(tmp_path)
    for path in (run.lock, *run.store.root.glob(".locks/*")):
        path.write_text("run mine/long ago, process 999999")
    assert statuses(go(tmp_path, force=True)) == ["done"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_fault_30_artifact_damaged(tiny, tmp_path, kind):
    "Each kind of file, torn 64 times and with 100 flipped bits: refused before use, by name and with the remedy."
    copy, name = copy_of(tiny, tmp_path, kind)
    for what, damage in [*truncations(copy / name, 64), *flips(copy / name, 100)]:
        with damage, pytest.raises(ArtifactError, match=f"{name}.*--from {copy.parent.name}") as problem:
            verify(copy)
        assert "sha256" in str(problem.value) or name == MANIFEST, what
    verify(copy)


def test_fault_30_swapped_with_another_runs(ready, tmp_path):
    first, second = ready(tmp_path, 2)
    ours, theirs = first.artifacts()["one"], second.artifacts()["one"]
    kept = (ours / "n.txt").read_text()
    shutil.copy(theirs / "n.txt", ours / "n.txt")
    with pytest.raises(ArtifactError, match=r"n\.txt was altered: expected sha256 .*--from one"):
        go(tmp_path, only="two")
    (ours / "n.txt").write_text(kept)
    shutil.copy(theirs / MANIFEST, ours / MANIFEST)
    with pytest.raises(ArtifactError, match=f"manifest.json should be.*got that of {theirs.name}.*--from one"):
        go(tmp_path, from_step="two")
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    with pytest.raises(ArtifactError, match=f"manifest.json should be.*got that of {theirs.name}.*--from one"):
        go(tmp_path, from_step="two")


@pytest.mark.parametrize("number", [1, 3])
def test_fault_30_another_format(ready, tmp_path, number):
    folder = ready(tmp_path)[0].artifacts()["one"]
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("seal")
    (folder / MANIFEST).write_text(sealed(manifest | {"format": number}))
    with pytest.raises(ArtifactError, match=f"is of format {number}, this workbench reads format {store.FORMAT}.*--from one"):
        go(tmp_path, from_step="two")


def test_fault_30_a_skipped_step_looks_at_sizes(ready, tmp_path):
    (ready(tmp_path)[0].artifacts()["three"] / "n.txt").write_text("")
    with pytest.raises(ArtifactError, match="n.txt was altered: expected 1 bytes.*--from three"):
        go(tmp_path)


def test_fault_30_the_command_says_which(ready, tmp_path):
    [run] = ready(tmp_path)
    assert recsys("store", "verify", "--runs-dir", str(tmp_path / "runs")).returncode == 0
    (run.artifacts()["two"] / "n.txt").write_text("7")
    done = recsys("store", "verify", "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 1 and "n.txt was altered" in done.stderr and "2 of 3 artifacts are whole" in done.stdout
    for empty in ("nosuch", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert recsys("store", "verify", "--runs-dir", str(tmp_path / empty)).returncode == 0


def test_fault_30_a_run_nobody_can_read(ready, tmp_path):
    [run] = ready(tmp_path)
    (run.folder / "run.json").write_text('{"steps": [')
    assert open_run("mine", runs_dir=tmp_path / "runs").status == "damaged"
    with pytest.raises(ArtifactError, match="run.json should be the record of a run"):
        _ = run.record
    with pytest.raises(ArtifactError, match="nothing can be deleted safely"):
        clear_garbage(tmp_path / "runs")
    assert statuses(go(tmp_path)) == ["skipped"] * 3


def test_fault_32_changed_parameter_code_or_library(river, ready, tmp_path, monkeypatch):
    first, _ = ready(tmp_path, 2)
    assert statuses(go(tmp_path, seed=3)) == ["done"] * 3
    write_step(river, "02_two", before="# a comment is no change")
    assert statuses(go(tmp_path)) == ["skipped"] * 3
    write_step(river, "02_two", before="extra = 0")
    assert statuses(go(tmp_path)) == ["skipped", "done", "done"], "the notebook's own code counts"
    write_step(river, "02_two", "from matplotlib import pyplot")
    assert statuses(go(tmp_path)) == ["skipped", "skipped", "skipped"], "what comes after the step does not"
    monkeypatch.setattr(store.platform, "python_version", lambda: "4.0.0")
    assert statuses(go(tmp_path)) == ["done"] * 3
    before, after = (verify(run.artifacts()["one"])["made_from"]["libraries"] for run in (first, newest(tmp_path)))
    assert after == before | {"python": "4.0.0"}


def test_fault_33_clock_jumps_back(ready, tmp_path, monkeypatch):
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=tz)

    [first] = ready(tmp_path)
    monkeypatch.setattr(runs, "datetime", Yesterday)
    second = go(tmp_path, seed=2)
    assert second.folder.name < first.folder.name
    assert open_run("mine", runs_dir=tmp_path / "runs").folder == second.folder
    assert [run.number for run in list_runs(tmp_path / "runs")] == [1, 2]
    assert go(tmp_path, seed=2).folder == second.folder, "nothing is made twice"
    assert min(step["seconds"] for step in second.record["steps"]) > 0


@pytest.mark.slow
def test_fault_37_a_killed_run_goes_on_to_the_same_bytes(tiny, tmp_path):
    "The whole river on the tiny shop, killed three times: every file of every artifact as in the run that nobody disturbed."
    command = [sys.executable, "-c", "from recsys.cli import main; main()", "run", "tiny", "--set", f"runs_dir={tmp_path / 'runs'}"]
    dice, done = random.Random(37), 0
    for _ in range(3):
        process = start(command)
        time.sleep(dice.uniform(5, 40))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert whole(tmp_path) >= done
        done = whole(tmp_path)
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("skipped") == done
    assert hashes(open_run("tiny", runs_dir=tmp_path / "runs")) == hashes(tiny)


def test_gc_never_deletes_what_a_kept_run_refers_to(ready, tmp_path):
    kept = ready(tmp_path, 3)
    before = {run.name: hashes(run) for run in kept}
    assert not clear_garbage(tmp_path / "runs", everything=True, dry_run=False).paths
    gone = clear_garbage(tmp_path / "runs", keep=2, everything=True)
    assert len(gone.paths) == 4 and gone.bytes > 0 and kept[0].folder.exists(), "a dry run deletes nothing"
    clear_garbage(tmp_path / "runs", keep=2, everything=True, dry_run=False)
    assert not kept[0].folder.exists()
    assert {run.name: hashes(run) for run in kept[1:]} == {name: before[name] for name in before if name != kept[0].name}
    assert whole(tmp_path) == 6


def test_gc_keeps_the_published_run_wherever_it_is_called_from(ready, tmp_path, monkeypatch):
    oldest = ready(tmp_path, 3)[0]
    (tmp_path / "runs" / "current").symlink_to(Path(".store", "three", oldest.artifacts()["three"].name))
    monkeypatch.chdir(tmp_path)
    clear_garbage("runs", keep=1, everything=True, dry_run=False)
    assert oldest.folder.exists() and hashes(oldest) and len(list_runs("runs")) == 2


def test_whether_a_run_goes_on_is_seen_on_a_read_only_disk(ready, small_disk):
    [run] = ready(small_disk)
    run.write(status="running")
    said = run.lock.read_text()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run.status == "killed" and run.lock.read_text() == said


def test_every_record_is_read_back_as_it_was_sealed(tmp_path):
    record = {"format": store.FORMAT, "step": "a", "words": 'quote " back \\ line \n é 👕', "number": 0.1 + 0.2, "none": None, "deep": [{"x": [1, 2.5e-9]}]}
    (tmp_path / "r.json").write_text(sealed(record), encoding="utf-8")
    assert {k: v for k, v in store.unsealed(tmp_path / "r.json", store.FORMAT, "").items() if k != "seal"} == record
    write_json(record, tmp_path / "r.json")
    with pytest.raises(ArtifactError, match="altered"):
        store.unsealed(tmp_path / "r.json", store.FORMAT, "make it again")


def test_what_is_not_ours_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "runs" / "tiny" / "x").mkdir(parents=True)
    assert list_runs(tmp_path / "runs") == []
    with pytest.raises(MissingFileError, match="none yet"):
        open_run("tiny", runs_dir=tmp_path / "runs")
    with lock(tmp_path / "a.lock", "me"), pytest.raises(RecsysError, match="a is held by me"), lock(tmp_path / "a.lock", "you"):
        pass
