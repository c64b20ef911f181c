"Runs side by side and in a list."

import json
import re

import pytest
from conftest import recsys
from little_river import go

from recsys.compare import SAME, diff, find_runs, parse_measure, parse_where
from recsys.errors import SettingsError
from recsys.runs import new_run


def runs_dir(run):
    return run.folder.parent.parent


def test_a_run_is_like_itself(tiny):
    found = diff(tiny, tiny)
    assert (found.settings, found.counts) == ([], [])
    assert {said for _, said in found.steps} == {SAME}
    assert {pair.difference for pair in found.metrics} <= {0.0, None}
    assert any(pair.a for pair in found.metrics) and all(pair.a == pair.b for pair in found.costs)


def test_what_differs_is_told_with_its_difference(river, tmp_path):
    found = diff(go(tmp_path), go(tmp_path, seed=4))
    assert [(pair.name, pair.a, pair.b) for pair in found.settings] == [(("seed",), 1, 4)]
    assert [(pair.name, pair.difference) for pair in found.counts] == [(("one", "n"), 3), (("two", "n"), 6), (("three", "n"), 12)]
    assert dict(found.steps)["three"] == "parameter seed: 1 -> 4; other inputs: one, two"
    assert "Neither run was evaluated" in found.page().html()


def test_metrics_that_are_missing_keep_their_reason_and_better_is_marked(tmp_path):
    runs = []
    for hybrid, content in ((0.1, 0.02), (0.12, None)):
        run = new_run(tmp_path, "mine", {})
        about = {"dataset": "shop", "k": 12, "slice": "warm", "n_users": 9}
        rows = [about | {"strategy": name, "metric": metric, "value": value, "reason": None if value else "no item has a text"}
                for metric in ("map", "recall") for name, value in (("hybrid", hybrid), ("content", content))]  # fmt: skip
        key = f"k{hybrid}"
        with run.store.staging("evaluate", key) as staged:
            (staged / "metrics.json").write_text(json.dumps(rows))
            run.store.commit(staged, "evaluate", key, {"name": "evaluate", "made_from": {}})
        run.write(status="finished", steps=[{"name": "evaluate", "step": "evaluate", "key": key, "status": "done", "seconds": 1.0}])
        runs.append(run)
    found = diff(*runs)
    assert found.reasons == {("b", "shop", "content"): "no item has a text"}
    html = found.page().html()
    assert f"content in {runs[1].name}: no item has a text" in html
    assert re.search(r'class="number above">\+0\.0200<', html) and re.search(r'class="number best">0\.1200<', html)


def test_the_page_stands_alone(tiny):
    html = diff(tiny, tiny).page().html()
    assert not re.search(r"https?://|<script|<link|src=", html)


def test_runs_are_sorted_and_filtered_and_the_damaged_stay_in_the_list(tmp_path):
    for seed in (3, 1, 2):
        run = new_run(tmp_path, "mine", {"seed": seed, "datasets": ["shop"]})
        run.write(status="finished", steps=[{"name": "events", "step": "events", "key": "k", "status": "done", "seconds": 10.0 * seed}])
    killed = new_run(tmp_path, "mine", {"seed": 9, "datasets": ["shop"]})
    (tmp_path / "mine" / "broken").mkdir()
    (tmp_path / "mine" / "broken" / "run.json").write_text("{")
    assert {one.status for one in find_runs(tmp_path)} == {"finished", "killed", "damaged"}
    assert [one.number for one in find_runs(tmp_path, where={"seed": "1"})] == [2]
    assert [one.name for one in find_runs(tmp_path, where={"status": "killed"})] == [killed.name]
    assert [one.number for one in find_runs(tmp_path, where={"datasets": "shop", "status": "finished"}, last=2)] == [2, 3]
    assert [one.seconds for one in find_runs(tmp_path, sort="seconds")] == [30, 20, 10, 0, 0]


@pytest.mark.parametrize("text", ["map", "hybrid", "hybrid:map", "hybrid:map@ten", ":map@12", "a:b@1:c:d", ""])
def test_a_measure_is_written_one_way(text):
    with pytest.raises(SettingsError, match="hybrid:map@12:warm"):
        parse_measure(text)


def test_where_names_what_it_takes():
    assert parse_where(["tower_epochs=3", "weights=content:.4,als=x"]) == {"tower_epochs": "3", "weights": "content:.4,als=x"}
    with pytest.raises(SettingsError, match="tower_epoch=3"):
        parse_where(["tower_epoch=3"])


def test_the_command_line_lists_and_compares(tiny, tmp_path):
    there = ["--runs-dir", str(runs_dir(tiny))]
    listed = recsys("runs", "ls", "--where", "status=finished", "--where", "tower_epochs=3", "--sort", "hybrid:map@12:warm", *there)
    assert listed.returncode == 0 and tiny.name in listed.stdout and re.search(r"\d\.\d{4}", listed.stdout)
    assert tiny.name not in recsys("runs", "ls", "--where", "tower_epochs=4", *there).stdout
    compared = recsys("runs", "diff", "tiny", tiny.name, "--html", str(tmp_path / "diff.html"), *there)
    assert compared.returncode == 0, compared.stderr
    assert "Two runs side by side" in (tmp_path / "diff.html").read_text()
    assert "same artifact" in recsys("runs", "diff", "tiny", "tiny", *there).stdout
    assert "--sort takes" in recsys("runs", "ls", "--sort", "luck", *there).stderr
