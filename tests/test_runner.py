"The runner believes nobody: what is torn, killed or altered is not used."

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT, recsys
from little_river import ADD, KEEP, PARAMETERS, go, notebook, statuses

from recsys import runner
from recsys.errors import ArtifactError, RecsysError, SettingsError, StepError
from recsys.runner import Planned, declared, notebooks_dir, parameters, plan
from recsys.settings import Settings, load_settings, read_profiles
from recsys.store import Store, verify


def test_the_second_run_is_the_first(ready, tmp_path):
    [first] = ready(tmp_path)
    assert statuses(first) == ["done"] * 3
    assert first.record["steps"][2]["summary"] == {"n": 4}
    assert go(tmp_path).folder == first.folder
    assert len(list((tmp_path / "runs" / "mine").iterdir())) == 1


def test_a_changed_parameter_runs_again_and_the_old_stays(ready, tmp_path):
    [first], second = ready(tmp_path), go(tmp_path, seed=2)
    assert statuses(second) == ["done"] * 3
    assert first.artifacts()["three"] != second.artifacts()["three"]
    verify(first.artifact("three"))


def test_from_and_only_and_force(ready, tmp_path):
    ready(tmp_path)
    assert statuses(go(tmp_path, from_step="two")) == ["skipped", "done", "done"]
    assert statuses(go(tmp_path, only="two")) == ["skipped", "done"]
    assert statuses(go(tmp_path, force=True)) == ["done"] * 3
    with pytest.raises(SettingsError, match="one, two, three"):
        go(tmp_path, from_step="four")


def test_the_first_kernel_starts_while_raw_files_are_read(river, tmp_path, monkeypatch):
    (raw := tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n")
    told = nbformat.read(river / "01_one.ipynb", 4)
    told.cells[0].source += "\nsources = {}"
    nbformat.write(told, river / "01_one.ipynb")
    begun, start = [], runner.Kernels.start
    monkeypatch.setattr(runner.Kernels, "start", lambda kernels, planned: begun.append(planned.name) or start(kernels, planned))
    settings = Settings(datasets=["shop"], runs_dir=tmp_path / "runs", events=raw)
    runner.run_river("mine", settings, only="one")
    assert begun == ["one"]
    runner.run_river("mine", settings, only="one", force=True)  # the hash is remembered
    assert begun == ["one"]


def test_papermill_comes_without_a_grammar():
    "It took .7 s of every run, and whoever wants it can have it afterwards."
    code = ("import sys; from recsys.runner import _import_papermill as load; load(); assert 'papermill' in sys.modules; "
            "assert not [name for name in sys.modules if name.startswith(('rfc3987_syntax', 'lark'))]; load(); import jsonschema")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_says_what_it_lacks(river, tmp_path):
    with pytest.raises(StepError, match="needs the artifact of one"):
        go(tmp_path, only="two")


BAD = {
    "raises": "raise ValueError('seven')",
    "leaves": "import sys; sys.exit(0)",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("how", BAD)
def test_a_step_that_fails_is_failed_and_the_next_run_goes_on(river, tmp_path, how):
    nbformat.write(notebook(PARAMETERS, ADD, KEEP, BAD[how]), river / "02_two.ipynb")
    with pytest.raises(RecsysError, match="step two"):
        go(tmp_path)
    runs = sorted((tmp_path / "runs" / "mine").iterdir())
    record = json.loads((runs[-1] / "run.json").read_text())
    assert (record["status"], record["failed"]) == ("failed", "two")
    store = Store(tmp_path / "runs" / ".store")
    assert [folder.parent.name for folder in store.artifacts()] == ["one"]
    assert not list((store.root / ".staging").iterdir())
    nbformat.write(notebook(PARAMETERS, ADD, KEEP), river / "02_two.ipynb")
    assert statuses(go(tmp_path)) == ["skipped", "done", "done"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_an_altered_input_is_refused_by_name(ready, tmp_path, damage):
    made = ready(tmp_path)[0].artifacts()["one"] / "n.txt"
    content = made.read_bytes()
    made.unlink() if damage == "gone" else made.write_bytes(bytes([content[0] ^ 1]) if damage == "flip" else b"")
    with pytest.raises(ArtifactError, match=r"n\.txt.*--from one"):
        go(tmp_path, from_step="two")


def test_an_unfinished_folder_is_made_anew(ready, tmp_path):
    artifact = ready(tmp_path)[0].artifacts()["two"]
    (artifact / "manifest.json").unlink()
    assert statuses(go(tmp_path)) == ["skipped", "done", "skipped"]


def test_every_notebook_of_the_river_declares_only_what_the_runner_gives():
    settings = Settings(datasets=["shop"])
    for planned in plan(["als", "item_knn", "weights"]):
        path = notebooks_dir() / f"{planned.step.notebook}.ipynb"
        names = set(declared(path))
        assert {"inputs", "out_dir"} <= names, path.name
        values = parameters(planned, settings, path, {})
        assert json.dumps(values), "parameters travel as json"


def test_dials_reach_the_step_that_fits_the_model_and_no_other(tmp_path):
    (tmp_path / "dials.json").write_text(json.dumps({"shop": {"als": {"epochs": 3}, "ease": {"regularization": 9.0}}}))
    settings = Settings(datasets=["shop"], ease_items=500, tune=["als", "ease"])
    dials = runner.tuned_dials(settings, {"tune": tmp_path})
    given = {step.name: runner._of_interest(step, dials)["shop"] for step in map(runner.STEPS.get, ("als", "neighbours", "evaluate"))}
    assert {step: set(models) for step, models in given.items()} == {
        "als": {"als"}, "neighbours": {"item_knn", "transitions", "ease"}, "evaluate": {"content"}}  # fmt: skip
    assert given["neighbours"]["ease"] == {"regularization": 9.0, "neighbours": 300, "max_items": 500}, "what tune found stands over the settings"


def test_profiles_are_valid():
    profiles = read_profiles(ROOT / "settings.ini")
    assert {"tiny", "sample", "hm", "rr", "both", "table"} <= set(profiles)
    for profile in profiles:
        assert load_settings(profile, path=ROOT / "settings.ini").datasets


def test_pipeline_notebooks_are_the_river():
    names = {step.notebook for step in runner.RIVER}
    assert names == {path.stem for path in notebooks_dir().glob("*.ipynb")}
    assert Planned(runner.STEPS["als"], "select").name == "als.select"


@pytest.mark.parametrize(
    "words, says",
    [
        (["run", "nosuch"], "settings.ini has tiny"),
        (["run", "tiny", "--set", "embeding_size=8"], "did you mean"),
        (["run", "tiny", "--set", "tower_epochs=many"], "tower_epochs"),
        (["run", "tiny", "--set", "als_engine=nosuch"], "nosuch"),
        (["run", "tiny", "--set", "test_days"], "key=value"),
        (["runs", "show", "nosuch"], "nosuch"),
        (["run", "table"], "events"),
    ],
)
def test_wrong_use_is_one_sentence(words, says, tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    done = recsys(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
