"""The select window from end to end, as plain calls: dials, weights, ranker, evaluation and bundle of a shop nobody tuned for."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.pipeline.als_import import als_import
from recsys.pipeline.bundle import bundle
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.events import events
from recsys.pipeline.hybrid import hybrid
from recsys.pipeline.interactions import interactions
from recsys.pipeline.neighbours import neighbours
from recsys.pipeline.ranker import ranker
from recsys.pipeline.split import split
from recsys.pipeline.tune import tune
from recsys.scorers.als_fit import als
from recsys.scorers.base import Scorer
from recsys.serving.bundle import load_bundle

N_USERS, N_ITEMS = 400, 50


def made_up_events(path) -> None:
    "Most go on to a certain next item, some come from a favourite half of the shop."
    rng, rows = np.random.default_rng(11), []
    for user in range(N_USERS):
        item = int(rng.integers(N_ITEMS))
        for position in range(int(rng.integers(5, 12))):
            rows.append((f"u{user}", f"i{item}", position))
            item = (item * 3 + 7) % N_ITEMS if rng.random() < 0.6 else int(rng.integers(N_ITEMS // 2)) * 2 + user % 2
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(path, index=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "step -> folder, of both windows."
    root = tmp_path_factory.mktemp("tuned")
    made_up_events(root / "events.csv")
    inputs = {}

    def go(name, step, reads, **dials):
        (root / name).mkdir()
        own = {read: inputs.get(f"{read}.select", inputs.get(read)) if name.endswith(".select") else inputs.get(read) for read in reads}
        step({read: folder for read, folder in own.items() if folder}, root / name, **dials)
        inputs[name] = root / name

    everything = lambda *names: [*names, *(f"{name}.select" for name in names)]
    data = ("events", "split", "interactions")
    go("events", events, (), datasets=["table"], sources={"events": str(root / "events.csv")}, timestamp_unit="order")
    go("split", split, ("events",), split="leave_one_out")
    for window in ("select", "final"):
        suffix = "" if window == "final" else ".select"
        go(f"interactions{suffix}", interactions, data, window=window)
        go(f"neighbours{suffix}", neighbours, ("interactions",))
        go(f"als{suffix}", als, ("interactions",), embedding_size=8, epochs=3)
        go(f"als_import{suffix}", als_import, ("interactions", "als"), window=window)
    models = ("interactions", "neighbours", "als", "als_import")
    go("tune", tune, ("events", "split", *everything("interactions")), dials=["item_knn", "transitions", "ease"], trials=3)
    (root / "work").mkdir()
    go("hybrid", hybrid, ("events", "split", *everything(*models)), work_dir=root / "work", tune=True, trials=3, weights_by="history")
    go("ranker", ranker, ("events", "split", *everything(*models), "hybrid"), trees=40)
    go("evaluate", evaluate, ("events", "split", *models, "hybrid", "ranker"))
    go("bundle", bundle, ("events", "split", *models, "hybrid", "ranker"))
    return inputs


@pytest.fixture(scope="module")
def values(made):
    rows = json.loads((made["evaluate"] / "metrics.json").read_text())
    return {row["strategy"]: row["value"] for row in rows if (row["metric"], row["k"], row["slice"]) == ("map", 12, "warm")}


def test_everybody_who_can_answers(values):
    assert {name for name, value in values.items() if value is not None} == {
        "random", "popularity", "segment_popularity", "item_knn", "transitions", "ease", "als", "hybrid", "hybrid_default", "ranker"}  # fmt: skip


def test_what_was_searched_is_better_than_what_was_not(values):
    assert values["transitions"] > values["popularity"] > 0
    assert min(values["hybrid"], values["ranker"]) > max(values["hybrid_default"], values["popularity"])


def test_search_and_ranker_say_what_they_saw(made):
    told = json.loads((made["hybrid"] / "weights.json").read_text())["table"]
    about = json.loads((made["ranker"] / "ranker_table.json").read_text())
    trials = pq.read_table(made["hybrid"] / "trials.parquet").to_pandas()
    assert told["tuned"] and set(told["hybrid"]["by_band"]) <= {"1", "2-5", "6+"} and sum(told["hybrid"]["weights"].values()) == pytest.approx(1, abs=1e-2)
    assert set(trials["how"]) == {"optuna", "simplex", "shrunk"} and (made["hybrid"].parent / "work" / "trials_table.db").exists()
    assert 0 < about["negatives_rate"] <= 1 and about["n_queries"] > 100 and sum(about["importance"].values()) == pytest.approx(1, abs=1e-2)
    assert set(about["select_map"]) == {"ranker", "hybrid"}
    assert set(json.loads((made["tune"] / "dials.json").read_text())["table"]) == {"item_knn", "transitions", "ease"}


@pytest.mark.parametrize("strategy", ["hybrid", "ranker"])
def test_the_service_shows_what_was_evaluated(made, strategy):
    shop = load_bundle(made["bundle"]).shops["table"]
    assert isinstance(shop.scorers[strategy], Scorer)
    lists = pq.read_table(made["evaluate"] / "recommendations_table.parquet").to_pandas().query("strategy == @strategy")
    asked = lists["user_id"].unique()[:60]
    top = shop.recommender.top_k(shop.interactions.queries(asked), strategy, 12)
    for row, user in enumerate(asked):
        wanted = lists[lists["user_id"] == user].sort_values("rank")
        assert shop.interactions.items.ids[top.nums[row]].tolist() == wanted["item_id"].tolist()
        np.testing.assert_allclose(top.scores[row], wanted["score"], rtol=1e-4, atol=1e-5)


def test_a_model_the_sentinel_refuses_is_not_kept(made, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.data.sentinel.HIGHEST_AUC", 0.5)
    reads = {name: folder for name, folder in made.items() if name not in ("evaluate", "bundle", "ranker", "tune")}
    said = ranker(reads, tmp_path, trees=5)
    assert "no feature should tell right from wrong alone" in said["table"]["reason"]
    assert not (tmp_path / "ranker_table.txt").exists() and json.loads((tmp_path / "ranker_table.json").read_text())["reason"] == said["table"]["reason"]
