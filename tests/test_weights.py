"""Choosing weights: the table says what the hybrid does, the search is never worse than a part, and goes on after a kill."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scorer_contract import N_ITEMS, four_parts, made_up_shop

from recsys.data.interactions import History, Query
from recsys.scorers.base import best, contains
from recsys.scorers.exam import Exam
from recsys.scorers.hybrid import KINDS, HybridScorer
from recsys.scorers.weights import AT, Mixture, Table, candidate_table, climb, explore, moves, ternary_map, tune_bands, tune_hybrid


def made_up_table(peaks: dict[str, np.ndarray], hits: np.ndarray, bands=None, n_asked=None, n_targets=None) -> Table:
    rows, columns = hits.shape
    ones = {part: np.ones((rows, 1), np.float32) for part in peaks}
    return Table(peaks, ones, np.tile(np.arange(columns), (rows, 1)), hits, hits.sum(axis=1) if n_targets is None else n_targets,
                 np.full(rows, "6+") if bands is None else bands, rows if n_asked is None else n_asked)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40))
def test_map_is_that_of_the_lists(seed, rows, columns):
    rng = np.random.default_rng(seed)
    scores, hits = rng.integers(0, 5, (rows, columns)).astype(np.float32), rng.random((rows, columns)) < 0.3  # few values: many ties
    hits[np.arange(rows), rng.integers(0, columns, rows)] = True
    n_targets = hits.sum(axis=1) + rng.integers(0, 3, rows)
    table = made_up_table({"als": scores}, hits, n_asked=rows + 2, n_targets=n_targets)
    listed = best(scores, AT).nums
    found = np.take_along_axis(hits, np.maximum(listed, 0), axis=1) & (listed >= 0)
    wanted = (found * np.cumsum(found, axis=1) / np.arange(1, AT + 1)).sum(axis=1) / np.minimum(n_targets, AT)
    assert table.mean_ap({"als": 1.0}, {"als": "peak"}) == pytest.approx(wanted.sum() / (rows + 2), abs=1e-6)


@pytest.fixture(scope="module")
def shop():
    return made_up_shop()


@pytest.fixture(scope="module")
def parts(shop):
    return four_parts(shop)


@pytest.fixture(scope="module")
def exam(shop):
    asked = shop.resolve([Query("shop", history=History([int(shop.items.ids[n]) for n in shop.queries([user]).history(0)[:4]])) for user in range(60)])
    rows = [(user, num) for user in range(60) for num in shop.queries([user]).history(0)[4:]]
    targets = csr_array((np.ones(len(rows)), tuple(np.array(rows).T)), shape=(60, N_ITEMS))
    targets.sum_duplicates()
    return Exam(shop, asked, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_says_what_the_hybrid_does(shop, parts, exam, kind):
    asked, targets = exam.queries, exam.targets
    weights, kinds = {"als": 0.5, "item_knn": 0.3, "popularity": 0.2}, dict.fromkeys(parts, kind)
    table = candidate_table(parts, exam)
    found = contains(targets, HybridScorer(parts, weights, kinds).fit(shop).top_k(asked, AT).nums)
    wanted = (found * np.cumsum(found, axis=1) / np.arange(1, AT + 1)).sum(axis=1) / np.minimum(np.diff(targets.indptr), AT)
    assert table.mean_ap(weights, kinds) == pytest.approx(wanted.mean(), abs=1e-6)
    assert table.n_asked == 60


def test_tuning_is_not_worse_than_the_best_part(parts, exam):
    table = candidate_table(parts, exam)
    alone = [table.mean_ap({part: 1.0}, dict.fromkeys(parts, "peak")) for part in parts]
    found = tune_hybrid(table, trials=30)
    assert max(row["value"] for row in found.trials) >= max(alone) and found.trials[-1]["how"] == "shrunk"
    assert found.value == pytest.approx(table.mean_ap(found.weights, found.kinds), abs=2e-3)
    assert tune_hybrid(table, trials=30).weights == found.weights


def test_a_search_that_was_killed_finds_what_it_would_have_found(parts, exam, tmp_path):
    table = candidate_table(parts, exam)
    starts = [{part: 1.0} for part in parts]
    whole = explore(table, 25, 7, starts)
    explore(table, 3, 7, starts, tmp_path / "trials.db")  # as far as it came
    assert explore(table, 25, 7, starts, tmp_path / "trials.db") == whole


def test_few_users_stay_with_the_best_start(monkeypatch):
    rng, hits, weight = np.random.default_rng(5), np.zeros((40, 20), bool), {}
    peaks = {part: rng.random((40, 20)).astype(np.float32) for part in ("als", "content")}
    hits[np.arange(40), (0.75 * peaks["als"] + 0.25 * peaks["content"]).argmax(axis=1)] = True
    table = made_up_table(peaks, hits)
    for users in (0, 100, 10**9):
        monkeypatch.setattr("recsys.scorers.weights.PRIOR_USERS", users)
        weight[users] = tune_hybrid(table, trials=10).weights.get("als", 0.0)
    starts = ({"als": 1.0}, {"als": 0.0, "content": 1.0}, {"als": 0.5, "content": 0.5})
    start = max(starts, key=lambda each: table.mean_ap(each, {"als": "peak", "content": "peak"}))
    assert weight[10**9] == pytest.approx(start["als"], abs=1e-3) and abs(weight[0] - start["als"]) > 0.01
    assert weight[100] == pytest.approx((40 * weight[0] + 100 * start["als"]) / 140, abs=1e-3)


def two_tastes(rows: int = 300) -> Table:
    "For the first half of the users part als is right, for the others content."
    rng = np.random.default_rng(5)
    peaks = {part: rng.random((rows, 20)).astype(np.float32) for part in ("als", "content")}
    right = np.where(np.arange(rows) < rows // 2, peaks["als"].argmax(axis=1), peaks["content"].argmax(axis=1))
    hits = np.zeros((rows, 20), bool)
    hits[np.arange(rows), right] = True
    return made_up_table(peaks, hits, np.where(np.arange(rows) < rows // 2, "1", "6+"))


def test_each_band_gets_its_own_weights(monkeypatch):
    monkeypatch.setattr("recsys.scorers.weights.LEAST_USERS", 100)
    table = two_tastes()
    tuned = tune_hybrid(table, trials=5)
    own = tune_bands(table, tuned)
    assert own["1"].get("als", 0) > 0.9 and own["6+"].get("content", 0) > 0.9 and "2-5" not in own


def test_climbing_keeps_the_sum_and_only_goes_up():
    rng = np.random.default_rng(5)
    peaks = {part: rng.random((200, 20)).astype(np.float32) for part in ("als", "content", "popularity")}
    hits = np.zeros((200, 20), bool)
    hits[np.arange(200), (peaks["als"] + peaks["content"]).argmax(axis=1)] = True
    mixture, seen = Mixture(made_up_table(peaks, hits), dict.fromkeys(peaks, "peak")), []
    reached = climb(mixture, {"als": 1.0}, lambda value, weights: seen.append((value, sum(weights.values()))))
    assert len(seen) > 2 and [value for value, _ in seen] == sorted(value for value, _ in seen)
    assert all(total == pytest.approx(1) for _, total in seen) and min(reached.values()) >= 0
    assert all(mixture.value({**reached, a: reached[a] - step, b: reached[b] + step}) <= seen[-1][0] for a, b, step in moves(reached, 0.01))


def test_the_corners_of_the_map_are_the_parts():
    rng = np.random.default_rng(5)
    hits = np.eye(12, dtype=bool)
    table = made_up_table({part: rng.random((12, 12)).astype(np.float32) for part in ("content", "als", "als_tower")}, hits)
    points = {point.weights: point.value for point in ternary_map(table, ["content", "als", "als_tower"])}
    assert len(points) == 66 and all(sum(weights) == pytest.approx(1) for weights in points)
    for place, part in enumerate(("content", "als", "als_tower")):
        assert points[tuple(float(place == other) for other in range(3))] == table.mean_ap({part: 1.0}, {part: "peak"})
