"Metrics equal an independent library on random cases, and what a person counts on hand-made ones."

import numpy as np
import pytest

from recsys.errors import SchemaError
from recsys.evaluation.metrics import DEFINITIONS, METRICS, coverage, hits, per_user, targets_of
from recsys.scorers.base import contains

KS = (1, 5, 10, 12, 20, 100)


def random_case(rng: np.random.Generator, n_users: int = 50, n_items: int = 150, width: int = 100):
    "Lists of every length up to width (some empty), and 1 to 30 targets each."
    nums = np.argsort(rng.random((n_users, n_items)), axis=1)[:, :width]
    lengths = rng.integers(0, width + 1, size=n_users)
    nums[np.arange(width) >= lengths[:, None]] = -1
    n_targets = rng.integers(1, 31, size=n_users)
    rows = np.repeat(np.arange(n_users), n_targets)
    return nums, targets_of(rows, rng.integers(0, n_items, size=len(rows)), (n_users, n_items))


@pytest.mark.parametrize("seed", range(20))  # 20 x 50 users = 1,000 random cases
def test_equal_to_ir_measures(seed):
    ir = pytest.importorskip("ir_measures", reason="the independent library of the extra `dev`")
    nums, targets = random_case(np.random.default_rng(seed))
    qrels = [ir.Qrel(str(user), str(item), 1) for user, item in zip(*targets.nonzero(), strict=True)]
    run = [ir.ScoredDoc(str(user), str(item), float(-place)) for user, row in enumerate(nums) for place, item in enumerate(row) if item >= 0]
    theirs_of = {"map": ir.AP, "recall": ir.R, "ndcg": ir.nDCG, "mrr": ir.RR, "hit_rate": ir.Success}
    measures = {(name, k): measure @ k for name, measure in theirs_of.items() for k in KS}
    theirs = {key: np.zeros(len(nums)) for key in measures}
    key_of = {str(measure): key for key, measure in measures.items()}
    for value in ir.iter_calc(list(measures.values()), qrels, run):
        theirs[key_of[str(value.measure)]][int(value.query_id)] = value.value
    ours, n_targets = per_user(hits(nums, targets), KS), np.diff(targets.indptr)
    for (name, k), values in ours.items():
        scale = n_targets / np.minimum(k, n_targets) if name == "map" else 1.0  # trec_eval divides by all targets, Kaggle by min(k, targets)
        np.testing.assert_allclose(values, theirs[name, k] * scale, rtol=0, atol=1e-9, err_msg=f"{name}@{k}")


def apk(actual: set[int], predicted: list[int], k: int) -> float:
    "Average precision as Kaggle's own evaluation script counts it, item by item."
    score, n_hits = 0.0, 0
    for place, item in enumerate(predicted[:k]):
        if item in actual:
            n_hits += 1
            score += n_hits / (place + 1)
    return score / min(len(actual), k)


def test_map_is_kaggles():
    nums, targets = random_case(np.random.default_rng(99), n_users=200)
    values = METRICS["map"](hits(nums, targets), 12)
    expected = [apk(set(targets[[user]].indices.tolist()), [n for n in nums[user].tolist() if n >= 0], 12) for user in range(len(nums))]
    np.testing.assert_allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_list_is_one_even_with_more_targets_than_places(name):
    targets = targets_of([0] * 5, range(5), (1, 9))
    value = METRICS[name](hits(np.arange(5)[None, :], targets), 3)[0]
    assert value == (3 / 5 if name == "recall" else 1.0)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_recommended_is_zero_not_left_out(name):
    targets = targets_of([0, 1], [3, 3], (2, 9))
    assert METRICS[name](hits(np.array([[3, 1], [-1, -1]]), targets), 2).mean() == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_k_beyond_the_list_is_the_list(name):
    nums, targets = random_case(np.random.default_rng(5), width=20)
    found = hits(nums, targets)
    longer = hits(np.concatenate([nums, np.full((len(nums), 80), -1)], axis=1), targets)
    np.testing.assert_array_equal(METRICS[name](found, 100), METRICS[name](longer, 100))


def test_metrics_never_fall_when_a_hit_moves_up():
    targets = targets_of([0] * 20, [0] * 20, (1, 30))
    targets = targets_of(np.arange(20), np.zeros(20, int), (20, 30))
    nums = np.array([[0 if place == at else place + 1 for place in range(20)] for at in range(20)])
    for name, metric in METRICS.items():
        values = metric(hits(nums, targets), 20)
        assert np.all(np.diff(values) <= 0), name
        assert np.all((values >= 0) & (values <= 1)), name


def test_contains_knows_row_from_row():
    table = targets_of([0, 1], [8, 0], (2, 9))
    assert contains(table, np.array([[8, 0, -1], [8, 0, -1]])).tolist() == [[True, False, False], [False, True, False]]
    assert not contains(targets_of([], [], (2, 9)), np.array([[1], [2]])).any()


@pytest.mark.parametrize("nums", [np.array([[1, 1]]), np.array([[1], [2]])])
def test_repeated_items_and_missing_targets_are_refused(nums):
    with pytest.raises(SchemaError):
        hits(nums, targets_of([0], [1], (len(nums), 9)))


def test_coverage_counts_users_and_items():
    assert coverage(np.array([[0, 1], [1, -1], [-1, -1]]), 1, 4) == (2 / 3, 2 / 4)
    assert coverage(np.zeros((0, 3), int), 3, 4) == (0.0, 0.0)


def test_every_metric_is_on_the_sheet():
    assert [row.metric for row in DEFINITIONS] == [*METRICS, "user_coverage", "item_coverage"]
