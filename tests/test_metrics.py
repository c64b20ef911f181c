"Metrics equal an independent library on random cases, and what a person counts on hand-made ones."

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_shop import Flat, make_shop
from scipy.sparse import csr_array
from scipy.stats import binom

from recsys.errors import SchemaError
from recsys.evaluation.metrics import (
    BEYOND,
    CONVENTIONS,
    DEFINITIONS,
    METRICS,
    beyond,
    conventions,
    gini,
    hits,
    item_coverage,
    item_facts,
    per_user,
    recall,
    targets_of,
    times_shown,
    user_coverage,
)
from recsys.scorers.base import VectorScorer, best, contains
from recsys.scorers.hybrid import HybridScorer
from recsys.scorers.repurchase import SparseScorer, best_stored

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
    theirs_of = {"map": ir.AP, "recall": ir.R, "precision": ir.P, "ndcg": ir.nDCG, "mrr": ir.RR, "hit_rate": ir.Success}
    measures = {(name, k): measure @ k for name, measure in theirs_of.items() for k in KS}
    theirs = {key: np.zeros(len(nums)) for key in measures}
    key_of = {str(measure): key for key, measure in measures.items()}
    for value in ir.iter_calc(list(measures.values()), qrels, run):
        theirs[key_of[str(value.measure)]][int(value.query_id)] = value.value
    ours, n_targets = per_user(hits(nums, targets), KS), np.diff(targets.indptr)
    assert set(theirs_of) == set(METRICS)
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


def test_a_hand_made_case():
    "Targets 3, 7 and 8; the list 5 3 9 8 1: hits at places 2 and 4."
    found = hits(np.array([[5, 3, 9, 8, 1]]), targets_of([0, 0, 0], [3, 7, 8], (1, 10)))
    expected = {"map": (1 / 2 + 2 / 4) / 3, "recall": 2 / 3, "precision": 2 / 5, "mrr": 1 / 2, "hit_rate": 1,
                "ndcg": (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / 2)}  # fmt: skip
    assert {name: metric(found, 5)[0] for name, metric in METRICS.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_recommended_is_zero_not_left_out(name):
    targets = targets_of([0, 1], [3, 3], (2, 9))
    assert METRICS[name](hits(np.array([[3, 1], [-1, -1]]), targets), 2).mean() == (0.25 if name == "precision" else 0.5)


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


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 12), st.sampled_from([1, 20, 50, 4_000_000]))
@settings(max_examples=40, deadline=None)
def test_contains_is_the_same_in_blocks_of_any_size(seed, n, n_items, marked):
    rng = np.random.default_rng(seed)
    table, nums = csr_array(rng.random((n, n_items)) < 0.3), rng.integers(-1, n_items, (n, 7))
    with patch("recsys.scorers.base.MARKED", marked):
        found = contains(table, nums)
    np.testing.assert_array_equal(found, np.where(nums < 0, False, np.take_along_axis(table.toarray(), np.maximum(nums, 0), axis=1)))


@pytest.mark.parametrize("nums", [np.array([[1, 1]]), np.array([[1], [2]])])
def test_repeated_items_and_missing_targets_are_refused(nums):
    with pytest.raises(SchemaError):
        hits(nums, targets_of([0], [1], (len(nums), 9)))


def test_coverage_counts_users_and_items():
    nums = np.array([[0, 1], [1, -1], [-1, -1]])
    assert user_coverage(nums, 1) == 2 / 3 and [item_coverage(each, 5) for each in times_shown(nums[1:], [1, 2], 4)] == [1 / 5, 1 / 5]
    assert user_coverage(np.zeros((0, 3), int), 3) == item_coverage(times_shown(np.zeros((0, 3), int), [3], 4)[0], 4) == 0


def test_every_metric_is_on_the_sheet():
    assert [row.metric for row in DEFINITIONS] == [*METRICS, "user_coverage", "item_coverage", *BEYOND]
    assert all(all(row) for row in DEFINITIONS)


# Plain loops over one user, one place, one pair at a time: the oracle for all metrics.


def slow_metrics(row: list[int], taken: set[int], k: int) -> dict[str, float]:
    shown = [num for num in row[:k] if num >= 0]
    places = [place for place, num in enumerate(shown, 1) if num in taken]
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(taken)) + 1))
    return {"map": apk(taken, shown, k), "recall": len(places) / len(taken), "precision": len(places) / k,
            "ndcg": sum(1 / np.log2(place + 1) for place in places) / ideal,
            "mrr": 1 / places[0] if places else 0.0, "hit_rate": float(bool(places))}  # fmt: skip


def slow_beyond(rows: list[list[int]], k: int, buyers, n_users: int, vectors, allowed, had: list[set[int]]) -> dict[str, float]:
    shown = [[num for num in row[:k] if num >= 0] for row in rows]
    news = [np.mean([-np.log2(max(buyers[num], 0.5) / n_users) for num in row]) for row in shown if row]
    spread = []
    for row in shown:
        held = [vectors[num] for num in row if np.linalg.norm(vectors[num]) > 0]
        pairs = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(held) for b in held[:i]]
        spread += [np.mean(pairs)] if pairs else []
    counts = np.array([sum(num in row for row in shown) for num in np.flatnonzero(allowed)])
    apart = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean()) if counts.sum() else np.nan
    n_popular = int(np.ceil(0.01 * (buyers > 0).sum()))
    popular = set(sorted(range(len(buyers)), key=lambda num: (-buyers[num], num))[:n_popular])
    places = [(user, num) for user, row in enumerate(shown) for num in row]
    share = lambda right: sum(right) / len(places) if places else np.nan
    return {"user_coverage": np.mean([bool(row) for row in shown]), "item_coverage": len({num for row in shown for num in row}) / allowed.sum(),
            "novelty": np.mean(news) if news else np.nan, "ild": np.mean(spread) if spread else np.nan, "gini": apart,
            "popularity_share": share([num in popular for _, num in places]),
            "repeat_share": share([num in had[user] for user, num in places])}  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 12), st.sampled_from([1, 3, 12]))
@settings(max_examples=60, deadline=None)
def test_all_metrics_equal_plain_loops(seed, n_users, n_items, k):
    rng = np.random.default_rng(seed)
    nums, targets = random_case(rng, n_users, n_items, width=min(6, n_items))
    had = targets_of(rng.integers(0, n_users, 5), rng.integers(0, n_items, 5), (n_users, n_items))
    buyers, allowed = rng.integers(0, 4, n_items), rng.random(n_items) < 0.7
    allowed[0] = True
    nums = np.where(allowed[nums], nums, -1)
    vectors = rng.normal(size=(n_items, 3)).astype(np.float32)
    vectors[rng.random(n_items) < 0.2] = 0
    sets = [set(targets[[user]].indices.tolist()) for user in range(n_users)]
    ours = per_user(hits(nums, targets), [k])
    for user, row in enumerate(nums.tolist()):
        packed = [num for num in row if num >= 0]
        if packed == row[: len(packed)]:  # what a scorer gives: -1 only behind
            assert {name: ours[name, k][user] for name in METRICS} == pytest.approx(slow_metrics(row, sets[user], k), abs=1e-12)
    owned = [set(had[[user]].indices.tolist()) for user in range(n_users)]
    told = beyond(nums, [1, 2, k + 2], item_facts(buyers, n_users, vectors), allowed, contains(had, nums))
    for each in (1, 2, k + 2):
        plain = slow_beyond(nums.tolist(), each, buyers, n_users, vectors, allowed, owned)
        assert {name: told[name, each] for name in plain} == pytest.approx(plain, abs=1e-5, nan_ok=True)


def test_beyond_being_right_by_hand():
    "Four users; item 0 was had by all four, item 1 by one, item 2 by none; items 0 and 1 look the same."
    facts = item_facts(np.array([4, 1, 0]), 4, np.array([[1, 0], [2, 0], [0, 1]], np.float32))
    nums, had = np.array([[0, 1], [0, 2], [0, -1], [-1, -1]]), np.array([[True, False], [False, False], [True, False], [True, True]])
    told = beyond(nums, [2], facts, np.ones(3, dtype=bool), had)
    expected = {"novelty": np.mean([1, 1.5, 0]), "ild": 0.5, "gini": 4 / 15, "popularity_share": 3 / 5, "repeat_share": 2 / 5}
    assert {name: told[name, 2] for name in BEYOND} == pytest.approx(expected, abs=1e-7)
    silent = beyond(np.full((2, 3), -1), [1, 3], facts, np.ones(3, dtype=bool), np.zeros((2, 3), dtype=bool))
    assert all(np.isnan(silent[name, k]) for name in BEYOND for k in (1, 3))


def test_diversity_is_not_asked_where_there_are_no_vectors():
    told = beyond(np.array([[0, 1]]), [2], item_facts(np.array([1, 1]), 1), np.ones(2, dtype=bool), np.zeros((1, 2), dtype=bool))
    assert np.isnan(told["ild", 2]) and told["gini", 2] == 0


def test_gini_knows_its_ends():
    assert gini(np.full(7, 3)) == pytest.approx(0) and gini(np.eye(1, 50, dtype=int)[0]) == pytest.approx(49 / 50)


def test_conventions_are_what_the_libraries_compute():
    "Ours and trec_eval's against this house's metrics and ir-measures; every seventh user has no recommendations."
    ir = pytest.importorskip("ir_measures", reason="the independent library of the extra `dev`")
    nums, targets = random_case(np.random.default_rng(4), n_users=60)
    nums[::7] = -1
    told = {row["library"]: row for row in conventions(nums, targets, 10)}
    assert len(told) == len(CONVENTIONS) == 6
    qrels = [ir.Qrel(str(user), str(item), 1) for user, item in zip(*targets.nonzero(), strict=True)]
    run = [ir.ScoredDoc(str(user), str(item), float(-place)) for user, row in enumerate(nums) for place, item in enumerate(row) if item >= 0]
    measures = {"map": ir.AP @ 10, "ndcg": ir.nDCG @ 10, "precision": ir.P @ 10}
    theirs = ir.calc_aggregate(measures.values(), qrels, run)
    here = [told["ir-measures (trec_eval)"][name] for name in measures]
    assert here == pytest.approx([theirs[each] for each in measures.values()], abs=1e-9)
    ours = per_user(hits(nums, targets), [10])
    assert [told["here, Kaggle"][name] for name in ("map", "ndcg", "precision")] == pytest.approx(
        [ours[name, 10].mean() for name in ("map", "ndcg", "precision")], abs=1e-12)  # fmt: skip
    answered = (nums[:, :10] >= 0).any(axis=1)
    assert told["recommenders"]["map"] == pytest.approx(ours["map", 10][answered].mean())
    assert told["implicit"]["precision"] == pytest.approx(hits(nums, targets).marks[:, :10].sum() / np.minimum(10, np.diff(targets.indptr)).sum())


# RecTools' own documented example: MAP(k=3) gives 0, 1, .5556, 1 and NDCG(k=3) gives 0, .46927873, .70391809, 1.


def test_rectools_documented_example():
    nums = np.array([[7, 8, -1, -1], [1, 2, -1, -1], [1, 2, 3, 4], [1, 2, 3, -1]])
    targets = targets_of([0, 0, 1, 2, 2, 2, 3, 3, 3], [1, 2, 1, 1, 3, 4, 1, 2, 3], (4, 9))
    row = next(row for row in conventions(nums, targets, 3) if row["library"] == "RecTools")
    assert row["map"] == pytest.approx(np.mean([0, 1, 5 / 9, 1])) and row["ndcg"] == pytest.approx(np.mean([0, 0.46927873, 0.70391809, 1]), abs=1e-8)


# Knowing nothing must give what chance gives, whichever search makes the list.

SHOP = make_shop()[0]


class Zeros(VectorScorer):
    "Every product is 0."

    name, item_vectors = "content", np.zeros((SHOP.n_items, 4), dtype=np.float32)

    def user_vectors(self, queries):
        return np.zeros((len(queries), 4), dtype=np.float32)


class Nothing(SparseScorer):
    "Stores zeros for what the user had."

    name = "item_knn"

    def stored(self, queries):
        table = queries.matrix(self.interactions.n_items)
        table.data[:] = 0
        return table


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("scorer", [Flat(), Zeros(), HybridScorer({"content": Zeros().fit(SHOP), "als": Flat().fit(SHOP)}, "content:.5,als:.5")],
                         ids=["all equal", "vectors of zeros", "hybrid of both"])  # fmt: skip
def test_knowing_nothing_is_chance(scorer, k):
    "Targets are uniform, so hits are binomial with k / items: the bounds hold but once in a million."
    queries = SHOP.queries(np.tile(SHOP.users.ids[:200], 5))
    targets = np.random.default_rng(k).integers(0, SHOP.n_items, size=len(queries))
    top = scorer.fit(SHOP).top_k(queries, k)
    n_hits = recall(hits(top.nums, targets_of(np.arange(len(queries)), targets, (len(queries), SHOP.n_items))), k).sum()
    low, high = binom.interval(1 - 1e-6, len(queries), k / SHOP.n_items)
    assert (top.nums >= 0).all() and low <= n_hits <= high


def test_a_row_of_zeros_does_not_rank_the_target_first():
    "The target is the last item: a rule of strictly better items would put it first."
    assert 5 not in best(np.zeros((1, 6), np.float32), 5).nums
    queries = SHOP.queries(SHOP.users.ids[:20])
    assert (Nothing().fit(SHOP).top_k(queries, 10).nums == -1).all()  # zeros are not stored opinions
    assert (best_stored(queries.matrix(SHOP.n_items) * 0, 10).nums == -1).all()
    zero = Zeros().fit(SHOP).top_k(queries, 10, allowed=np.arange(SHOP.n_items) >= 50)
    assert (zero.nums == np.arange(50, 60)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_the_best_stored_are_the_best_of_all(seed, n, n_items, k):
    "Few different values, so that the last place is often shared; some items forbidden, some excluded."
    rng = np.random.default_rng(seed)
    said, allowed, out = rng.integers(0, 4, (n, n_items)), rng.random(n_items) < 0.8, rng.random((n, n_items)) < 0.2
    scores, told = csr_array(said.astype(np.float32)), best_stored(csr_array(said.astype(np.float32)), k, allowed, csr_array(out))
    scores.indices, scores.data = scores.indices[::-1].copy(), scores.data[::-1].copy()  # of one row: columns in no order
    wanted = best(np.where((said > 0) & allowed & ~out, said, np.nan).astype(np.float32), k)
    np.testing.assert_array_equal(told.nums, wanted.nums)
    np.testing.assert_array_equal(told.scores, wanted.scores)
    if n == 1:
        np.testing.assert_array_equal(best_stored(scores, k, allowed, csr_array(out)).nums, wanted.nums)
