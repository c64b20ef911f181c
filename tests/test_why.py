"Why a step ran again: every kind of change is named, and followed to its root."

import copy
import json

import pytest
from conftest import recsys
from little_river import go, write_step

from recsys.errors import StepError
from recsys.runs import Run, new_run, open_run
from recsys.store import read_manifest
from recsys.why import changes, roots, why

ORIGIN = {
    "step": "als",
    "code": {"recsys.scorers.als_fit": "aa", "notebook 04_als": "bb"},
    "parameters": {"epochs": 3, "dials": {"shop": {"als": {"alpha": 10.0}}}, "ks": [10, 12]},
    "libraries": {"torch": "2.9.1"},
    "settled": {"encoder": "offline"},
    "inputs": {"interactions": "k1"},
    "raw": {"shop_raw": "cc"},
}
CHANGED = [
    ({"parameters": {"epochs": 4}}, "parameter epochs: 3 -> 4"),
    ({"parameters": {"dials": {"shop": {"als": {"alpha": 5.0}}}}}, "parameter dials.shop.als.alpha: 10.0 -> 5.0"),
    ({"parameters": {"ks": [10]}}, "parameter ks: 10,12 -> 10"),
    ({"parameters": {"fresh": 1}}, "parameter fresh is new: 1"),
    ({"code": {"recsys.scorers.als_fit": "xx"}}, "code of recsys.scorers.als_fit changed"),
    ({"code": {"recsys.other": "xx"}}, "code of recsys.other is new in it"),
    ({"code": {"notebook 04_als": "xx"}}, "notebook 04_als changed"),
    ({"libraries": {"torch": "2.10.0"}}, "library torch 2.9.1 -> 2.10.0"),
    ({"settled": {"encoder": "clip"}}, "what was taken for encoder: offline -> clip"),
    ({"inputs": {"interactions": "k2"}}, "input interactions changed"),
    ({"raw": {"shop_raw": "xx"}}, "raw file shop_raw changed"),
    ({"raw": {"more_raw": "xx"}}, "raw file more_raw is new"),
]


@pytest.mark.parametrize("change, said", CHANGED, ids=[said for _, said in CHANGED])
def test_each_kind_of_change_is_told_and_no_other(change, said):
    after = copy.deepcopy(ORIGIN)
    for group, values in change.items():
        after[group] |= values
    assert changes(ORIGIN, after) == [said]
    assert len(changes(after, ORIGIN)) == 1


def test_nothing_is_told_of_what_an_older_artifact_did_not_record():
    before = {name: value for name, value in ORIGIN.items() if name not in ("libraries", "settled")}
    assert changes(before, ORIGIN) == []


def test_a_river_says_why(river, tmp_path):
    first = go(tmp_path)
    assert [str(why(first, step)) for step in ("one", "three")] == [f"{step} ran for the first time in profile mine" for step in ("one", "three")]
    write_step(river, "01_one", before="sign = 1")  # the notebook's code is another; two and three read what it makes
    second = go(tmp_path)
    assert str(why(second, "one")) == "one ran again because notebook 01_one changed"
    assert str(why(second, "three")) == "three ran again because one changed: notebook 01_one changed"
    assert list(roots(why(second, "three").changes).values()) == [[("one",)]]
    forced = go(tmp_path, from_step="two")
    assert str(why(forced, "one")).startswith(f"one was skipped: everything as in run {second.name}")
    assert "nothing changed since" in str(why(forced, "two"))
    third = go(tmp_path, seed=2)
    assert why(third, "two").short == "parameter seed: 1 -> 2"
    back = go(tmp_path)
    assert why(back, "two").against == f"run {forced.name}"
    with pytest.raises(StepError, match="its steps are one, two, three"):
        why(third, "four")


def test_a_failed_step_says_its_reason(river, tmp_path):
    write_step(river, "02_two", "raise ValueError('seven')")
    with pytest.raises(StepError):
        go(tmp_path)
    assert "seven" in str(why(open_run("mine", runs_dir=tmp_path / "runs"), "two"))


def _artifact(run: Run, name: str, key: str, origin: dict) -> dict:
    step = name.partition(".")[0]
    with run.store.staging(step, key) as staged:
        (staged / "n.txt").write_text(key)
        run.store.commit(staged, step, key, {"name": name, "made_from": origin, "made": f"2026-01-01T00:00:{len(run.store.artifacts()):02d}Z"})
    return {"name": name, "step": step, "key": key, "status": "done", "seconds": 1.0}


def test_what_cannot_be_read_is_passed_over(tmp_path):
    runs = []
    for n in range(4):
        run = new_run(tmp_path, "mine", {})
        run.write(status="finished", steps=[_artifact(run, "als", f"k{n}", {"parameters": {"epochs": n}})])
        runs.append(run)
    assert why(runs[3], "als").against == f"run {runs[2].name}"
    (runs[2].artifacts()["als"] / "manifest.json").write_text("{}")
    (runs[1].folder / "run.json").write_text("{")
    assert why(runs[3], "als").short == "parameter epochs: 0 -> 3"


def test_windows_are_followed_and_removed_artifacts_said(tmp_path):
    runs = []
    for n in (1, 2):
        run = new_run(tmp_path, "mine", {})
        made = [_artifact(run, "interactions.select", f"i{n}", {"parameters": {"window": "select", "days": n}}),
                _artifact(run, "als.select", f"a{n}", {"parameters": {}, "inputs": {"interactions": f"i{n}"}})]  # fmt: skip
        run.write(status="finished", steps=made)
        runs.append(run)
    assert why(runs[1], "als.select").short == "interactions changed: parameter days: 1 -> 2"
    (run.store.path("interactions", "i1") / "manifest.json").unlink()
    assert why(runs[1], "als.select").short == "interactions changed: artifact i1 is no longer in the store"


def test_a_first_time_is_compared_with_another_profile(tmp_path):
    for profile, epochs in (("small", 3), ("large", 4)):
        run = new_run(tmp_path, profile, {})
        run.write(status="finished", steps=[_artifact(run, "als", f"k{epochs}", {"parameters": {"epochs": epochs}})])
    answer = why(run, "als")
    assert (answer.verdict, answer.short, list(roots(answer.changes))) == ("first", "", ["parameter epochs: 3 -> 4"])
    assert "parameter epochs: 3 -&gt; 4" in answer.page().html()


def test_the_real_river_is_explained(tiny):
    assert {why(tiny, step["name"]).verdict for step in tiny.record["steps"]} == {"first"}
    origins = [read_manifest(folder)["made_from"] for folder in tiny.artifacts().values()]
    for origin in origins:
        assert changes(origin, json.loads(json.dumps(origin))) == []


def test_the_command_line_says_why(tiny):
    done = recsys("runs", "why", "two_tower", "--runs-dir", str(tiny.folder.parent.parent))
    assert done.returncode == 0 and "two_tower ran for the first time" in done.stdout
    done = recsys("runs", "why", "nosuch", "--runs-dir", str(tiny.folder.parent.parent))
    assert done.returncode == 1 and "its steps are events" in done.stderr
