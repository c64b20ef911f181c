"A run in a tracker: what is told does not depend on which, and nothing leaves the machine."

import importlib.util
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from conftest import recsys

from recsys.errors import MissingDependencyError, StepError
from recsys.runs import new_run
from recsys.tracking import TRACKERS, metrics, params, tags, to_mlflow, to_trackio


def test_what_is_told(tiny):
    told = metrics(tiny)
    table = tiny.table("metrics")
    row = table[table.value.notna()].iloc[0]
    assert told[f"{row.dataset}/{row.strategy}/{row.metric}@{row.k}/{row.slice}"] == pytest.approx(row.value, rel=1e-12)
    assert len(told) > 500 and all(isinstance(value, float) for value in told.values())
    assert params(tiny)["tower_epochs"] == "3" and "runs_dir" not in params(tiny)
    assert tags(tiny)["status"] == "finished"


@pytest.fixture
def heard(monkeypatch):
    "Both trackers, listening only."
    told = {}

    @contextmanager
    def start_run(run_name):
        told["name"] = run_name
        yield SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def init(**about):
        told.update(about, environment=dict(os.environ))

    trackio = SimpleNamespace(init=init, log=lambda values: told.update(metrics=values), finish=lambda: told.update(finished=True))
    mlflow = SimpleNamespace(set_tracking_uri=lambda uri: told.update(uri=uri), set_experiment=lambda name: told.update(experiment=name), start_run=start_run,
                             log_params=lambda values: told.update(params=values), log_metrics=lambda values: told.update(metrics=values),
                             set_tags=lambda values: told.update(tags=values))  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return told


def test_trackio_is_told_all_and_nothing_is_sent(tiny, heard, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    assert to_trackio(tiny, project="shops") == tiny.name
    assert (heard["project"], heard["name"], heard["finished"]) == ("shops", tiny.name, True)
    assert heard["metrics"] == metrics(tiny) and params(tiny).items() <= heard["config"].items()
    assert "TRACKIO_SPACE_ID" not in heard["environment"] and os.environ["TRACKIO_SPACE_ID"] == "somebody/space"


def test_mlflow_is_told_all_in_names_it_takes(tiny, heard):
    assert to_mlflow(tiny, uri="sqlite:///x.db", experiment="shops") == "r1"
    assert (heard["uri"], heard["experiment"], heard["name"]) == ("sqlite:///x.db", "shops", tiny.name)
    assert len(heard["metrics"]) == len(metrics(tiny)) and not any("@" in name for name in heard["metrics"])
    assert heard["params"] == params(tiny) and heard["tags"]["file.evaluate"]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_goes_on_is_refused(tmp_path, heard, name):
    with pytest.raises(StepError, match="is killed"):
        TRACKERS[name](new_run(tmp_path, "mine", {}))


@pytest.mark.parametrize("name", TRACKERS)
def test_an_absent_package_says_what_to_install(tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        TRACKERS[name](tiny)


@pytest.mark.skipif(not importlib.util.find_spec("trackio"), reason="trackio is not installed: pip install trackio")
def test_trackio_itself(tiny, tmp_path):
    import sqlite3

    done = recsys("runs", "track", tiny.name, "--to", "trackio", "--runs-dir", str(tiny.folder.parent.parent), TRACKIO_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(next(tmp_path.glob("*.db"))) as base:
        assert base.execute("select count(*) from metrics").fetchone() == (1,)


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="mlflow is not installed: pip install mlflow-skinny")
def test_mlflow_itself(tiny, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = mlflow.tracking.MlflowClient(uri).get_run(to_mlflow(tiny, uri=uri))
    assert len(tracked.data.metrics) == len(metrics(tiny)) and tracked.data.tags["run"] == tiny.name


def test_an_unknown_tracker_is_named(tiny):
    done = recsys("runs", "track", tiny.name, "--to", "paper", "--runs-dir", str(tiny.folder.parent.parent))
    assert done.returncode == 1 and "trackio or mlflow" in done.stderr
