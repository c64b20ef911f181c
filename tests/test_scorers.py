"""Every scorer against the one contract."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.sparse import csr_array
from scorer_contract import N_ITEMS, N_USERS, ScorerContract, four_parts, made_up_shop

from recsys.data.catalog import Catalog
from recsys.errors import ArtifactError, StrategyError
from recsys.scorers.als import AlsScorer
from recsys.scorers.ease import ROWS, EaseScorer, ease_table, inverse_gram
from recsys.scorers.hybrid import HybridScorer
from recsys.scorers.item_knn import ItemKnnScorer
from recsys.scorers.kindred import KindredScorer, baskets, company, kinship
from recsys.scorers.popularity import PopularityScorer
from recsys.scorers.repurchase import RepurchaseScorer
from recsys.scorers.same_product import SIBLINGS, SameProductScorer, same_product
from recsys.scorers.segment_popularity import SegmentPopularityScorer, Segments, departments, favourite, segment_labels
from recsys.scorers.transitions import Steps, TransitionScorer, count_steps
from recsys.scorers.trending import TrendingScorer
from recsys.vectors.table import VectorTable


def catalog_of(shop) -> Catalog:
    "Four colours of each product, five departments, every seventh item in none."
    nums = np.arange(N_ITEMS)
    paths = [None if num % 7 == 0 else f"{num % 5} > {num % 10}" for num in nums]
    products = (nums // 4).astype(str)
    return Catalog(pd.DataFrame({"item_id": shop.items.ids, "product_code": products, "category": paths, "attributes": "{}"}), "shop", shop.items)


AGES = Segments(np.arange(N_USERS), np.arange(N_USERS) % 4 - 1, ("age 20-29", "age 30-39", "age 60-69"))


class TestPopularity(ScorerContract):
    def make(self, shop):
        return PopularityScorer().fit(shop)


class TestRepurchase(ScorerContract):
    def make(self, shop):
        return RepurchaseScorer().fit(shop)


class TestItemKnn(ScorerContract):
    def make(self, shop):
        return ItemKnnScorer(neighbours=10).fit(shop)

    def reload(self, scorer, shop, folder):
        scorer.save(folder)
        return ItemKnnScorer.load(folder, shop)


class TestTransitions(ScorerContract):
    def make(self, shop):
        return TransitionScorer().fit(shop)

    def reload(self, scorer, shop, folder):
        scorer.save(folder)
        return TransitionScorer.load(folder, shop)


class TestEase(ScorerContract):
    def make(self, shop):
        return EaseScorer(regularization=5, neighbours=12).fit(shop)

    def reload(self, scorer, shop, folder):
        scorer.save(folder)
        return EaseScorer.load(folder, shop)


class TestSegmentPopularity(ScorerContract):
    def make(self, shop):
        return SegmentPopularityScorer(AGES).fit(shop, catalog_of(shop))


class TestSegmentPopularityOfNobody(ScorerContract):
    def make(self, shop):
        return SegmentPopularityScorer().fit(shop)


class TestTrending(ScorerContract):
    @pytest.fixture(scope="class")
    def shop(self):
        return made_up_shop("ms")

    def make(self, shop):
        return TrendingScorer().fit(shop)


class TestSameProduct(ScorerContract):
    def make(self, shop):
        return SameProductScorer().fit(shop, catalog_of(shop))


def places_of_things(shop, seed=0) -> VectorTable:
    "Noise, and one number that tells both tastes apart; every ninth item has none."
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, 6)).astype(np.float32)
    vectors[:, 0] = np.where(np.arange(N_ITEMS) // 20 == 1, 1, -1)
    has = np.arange(N_ITEMS) % 9 != 8
    return VectorTable.of(shop.items.ids[has], vectors[has], "shop:made_up")


class TestKindred(ScorerContract):
    exact = False

    def make(self, shop):
        return KindredScorer(places_of_things(shop)).fit(shop, catalog_of(shop))


class TestAls(ScorerContract):
    exact = False

    def make(self, shop):
        return AlsScorer(embedding_size=8, epochs=5).fit(shop)

    def reload(self, scorer, shop, folder):
        scorer.save(folder)
        return AlsScorer.load(folder, shop)


class TestHybrid(ScorerContract):
    exact = False

    def make(self, shop):
        scorers = [AlsScorer(embedding_size=8, epochs=5), ItemKnnScorer(neighbours=10), RepurchaseScorer(), PopularityScorer()]
        return HybridScorer({scorer.name: scorer.fit(shop) for scorer in scorers}, "als:.3,item_knn:.3,repurchase:.2,popularity:.2").fit(shop)


class TestHybridWithoutPopularity(TestHybrid):
    def make(self, shop):
        scorers = {scorer.name: scorer.fit(shop) for scorer in (AlsScorer(embedding_size=8, epochs=5), ItemKnnScorer(neighbours=10))}
        return HybridScorer(scorers, "als:.5,item_knn:.5", kinds={"als": "root"}).fit(shop)


def test_item_knn_finds_what_always_follows():
    shop = made_up_shop()
    top = ItemKnnScorer().fit(shop).top_k(shop.queries([0]), 5, exclude=shop.queries([0]).matrix(N_ITEMS))
    assert (top.nums[top.nums >= 0] < 20).all()


def test_no_item_is_not_the_last_item():
    shop = made_up_shop()
    scorer = PopularityScorer().fit(shop)
    scorer.values[:] = 1
    np.testing.assert_array_equal(scorer.score(shop.queries([0]), np.array([[-1, 0]])), [[np.nan, 1]])


def slow_steps(shop, steps: Steps):
    "Every pair of events of every user, looked at one by one."
    counts, often = np.zeros((N_ITEMS, N_ITEMS)), np.maximum(np.bincount(shop.past.item_nums, minlength=N_ITEMS), 1)
    for user in range(shop.n_users):
        place = slice(shop.past.indptr[user], shop.past.indptr[user + 1])
        events = list(zip(shop.past.item_nums[place], shop.past.ts[place], strict=True))
        for first, (item, when) in enumerate(events):
            for gap, (other, then) in enumerate(events[first + 1 : first + 1 + steps.window]):
                if item != other or when != then:
                    counts[item, other] += steps.fade**gap
                    counts[other, item] += steps.fade**gap * (1 if when == then else steps.backward)
    return counts / often[:, None] ** steps.damp_from / often[None, :] ** steps.damp_to


@pytest.mark.parametrize("at_once", [40_000_000, 500])
def test_steps_are_those_counted_one_by_one(monkeypatch, at_once):
    monkeypatch.setattr("recsys.scorers.transitions.PAIRS_AT_ONCE", at_once)
    shop, steps = made_up_shop(), Steps(window=4, fade=0.7, backward=0.3)
    np.testing.assert_allclose(count_steps(shop.past, N_ITEMS, steps).toarray(), slow_steps(shop, steps), rtol=1e-5, atol=1e-7)


def test_transitions_know_the_direction():
    shop = made_up_shop()
    forward, both = (count_steps(shop.past, N_ITEMS, Steps(backward=backward, damp_from=0, damp_to=0)).toarray() for backward in (0.0, 1.0))
    assert (np.abs(both - both.T) < 1e-5).all() and (np.abs(forward - forward.T) > 0.5).any()


def test_a_user_with_one_event_leads_nowhere():
    shop = made_up_shop()
    lonely = shop.past.take(np.arange(3), last=1)
    assert count_steps(lonely, N_ITEMS, Steps()).nnz == 0


@pytest.mark.parametrize("kind, dials", [(ItemKnnScorer, {"neighbours": 7}), (TransitionScorer, {"window": 3}), (EaseScorer, {"regularization": 9.0})])
def test_a_table_knows_its_dials_and_its_interactions(kind, dials, tmp_path):
    shop = made_up_shop()
    kind(**dials).fit(shop).save(tmp_path)
    again = kind.load(tmp_path, shop, **dials)
    assert dials.items() <= again.dials.items()
    with pytest.raises(ArtifactError, match="not 123"):
        kind.load(tmp_path, shop, **dict.fromkeys(dials, 123))
    with pytest.raises(ArtifactError, match="fit it again"):
        kind.load(tmp_path, replace(shop, event_weights={"purchase": 2.0}))


@pytest.mark.parametrize("rows", [7, ROWS])
@settings(deadline=None)
@given(seed=some.integers(0, 10_000), regularization=some.floats(0.5, 500), n=some.integers(2, 30))
def test_ease_is_the_closed_form(rows, seed, regularization, n):
    matrix = (np.random.default_rng(seed).random((60, n)) < 0.25).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.scorers.ease.ROWS", rows)
        inverse, table = inverse_gram(csr_array(matrix), regularization), ease_table(csr_array(matrix), regularization, n).toarray()
    plain = np.linalg.inv(matrix.T.astype(np.float64) @ matrix + regularization * np.eye(n))
    weights = np.eye(n) - plain / np.diag(plain)
    np.testing.assert_allclose(inverse, plain, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(table, weights, rtol=1e-2, atol=1e-4)


def test_ease_keeps_the_largest_weights_whatever_their_sign():
    matrix = csr_array((np.random.default_rng(1).random((200, 20)) < 0.3).astype(np.float32))
    whole, few = ease_table(matrix, 3, 20).toarray(), ease_table(matrix, 3, 4).toarray()
    for row in range(20):
        kept = np.argsort(-np.abs(whole[row]))[:4]
        assert set(np.flatnonzero(few[row])) == set(kept) and (few[row, kept] == whole[row, kept]).all()
    assert (few < 0).any() and not np.diag(few).any()


def test_ease_takes_the_items_most_users_have():
    shop = made_up_shop()
    users = np.bincount(shop.matrix().indices, minlength=N_ITEMS)
    table = EaseScorer(max_items=10, regularization=1).fit(shop).table
    taken = np.argsort(-users, kind="stable")[:10]
    assert set(table.indices) <= set(taken) and set(np.flatnonzero(np.diff(table.indptr))) <= set(taken)


def test_ease_says_when_the_machine_is_too_small(monkeypatch):
    monkeypatch.setattr("recsys.scorers.ease.machine_memory", lambda: 1000)
    with pytest.raises(StrategyError, match="set ease_items lower"):
        EaseScorer().fit(made_up_shop())


def test_ease_counts_somebody_once():
    shop = made_up_shop()
    heavy = replace(shop, past=replace(shop.past, weights=shop.past.weights * 9))
    np.testing.assert_array_equal(EaseScorer().fit(heavy).table.toarray(), EaseScorer().fit(shop).table.toarray())


def test_a_trend_needs_days():
    with pytest.raises(StrategyError, match="only the order"):
        TrendingScorer().fit(made_up_shop("order"))


def test_an_item_that_begins_to_sell_rises():
    shop = made_up_shop()
    new = shop.past.item_nums == 0
    past = replace(shop.past, weights=np.where(new, 20, shop.past.weights), ts=np.where(new, shop.at - 1, shop.past.ts))
    before, after = (TrendingScorer().fit(one).values for one in (shop, replace(shop, past=past)))
    assert np.nanargmax(before) != 0 and np.nanargmax(after) == 0
    np.testing.assert_array_equal(before[1:], after[1:])


def test_a_trend_is_the_ratio_of_two_clocks():
    shop = made_up_shop()
    for item in range(N_ITEMS - 5):
        ages = (shop.at - shop.past.ts[shop.past.item_nums == item]) / 86_400_000
        fast, slow = sum(0.5 ** (age / 3) for age in ages), sum(0.5 ** (age / 12) / 4 for age in ages)
        assert TrendingScorer().fit(shop).values[item] == pytest.approx((fast + 10) / (slow + 10), rel=1e-5)


def slow_segment_shares(shop, codes, segments, user_ids, row, imagined=200.0):
    "Shares of one known user's segment, event by event."
    ids = shop.users.ids
    favourites = {}
    for user in range(shop.n_users):
        weight = {}
        for place in range(shop.past.indptr[user], shop.past.indptr[user + 1]):
            if (kind := codes[shop.past.item_nums[place]]) >= 0:
                weight[kind] = weight.get(kind, 0) + shop.past.weights[place]
        favourites[user] = min((kind for kind in weight if weight[kind] == max(weight.values())), default=-1)
    ages = dict(zip(segments.user_ids.tolist(), segments.codes.tolist(), strict=True))
    mine = (ages[int(user_ids[row])], favourites[int(np.searchsorted(ids, user_ids[row]))])
    values = PopularityScorer().fit(shop).values.astype(np.float64)
    values = values / np.nansum(values)
    for level in ((True, False), (False, True), (True, True)):
        if any(used and known < 0 for used, known in zip(level, mine, strict=True)):
            continue
        sold = np.zeros(N_ITEMS)
        for user in range(shop.n_users):
            theirs = (ages[int(ids[user])], favourites[user])
            if all(not used or a == b for used, a, b in zip(level, theirs, mine, strict=True)):
                for place in range(shop.past.indptr[user], shop.past.indptr[user + 1]):
                    if shop.past.ts[place] >= shop.at - 7 * 86_400_000:
                        sold[shop.past.item_nums[place]] += shop.past.weights[place]
        values = (sold + imagined * values) / (sold.sum() + imagined)
    return values


@pytest.mark.parametrize("row", range(12))
def test_segment_shares_are_those_counted_one_by_one(row):
    shop = made_up_shop()
    items = catalog_of(shop)
    scorer = SegmentPopularityScorer(AGES).fit(shop, items)
    asked = shop.queries(shop.users.ids[:12])
    slow = slow_segment_shares(shop, departments(items, N_ITEMS), AGES, asked.user_ids, row)
    np.testing.assert_allclose(scorer.score(asked)[row], slow, rtol=1e-5)


def test_a_history_without_departments_has_no_favourite():
    shop = made_up_shop()
    assert (favourite(shop.past, np.full(N_ITEMS, -1)) == -1).all()


def test_strange_ages_are_no_segment():
    assert segment_labels([{"age": None}, {"age": "n/a"}, {"age": 29.5}, {"age": float("nan")}]) == ["", "", "age 20-29", ""]
    assert segment_labels([]) == [] and segment_labels([{}, {}]) == ["", ""]


def test_a_code_that_all_share_is_cut():
    table = same_product(np.zeros(SIBLINGS + 20, int), np.arange(SIBLINGS + 20.0))
    assert np.diff(table.indptr).max() == SIBLINGS and (table.indices >= 20).all()
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)


def test_what_a_user_is_to_a_scorer_is_worked_out_once_for_the_same_queries():
    shop = made_up_shop()
    parts, asked, counts = four_parts(shop), shop.queries(np.arange(8)), Counter()
    for name, way in (("als", "user_vectors"), ("item_knn", "stored"), ("repurchase", "stored")):
        inner = getattr(parts[name], way)
        setattr(parts[name], way, lambda queries, name=name, inner=inner: counts.update([name]) or inner(queries))
    mixed = HybridScorer(parts, "als:.4,item_knn:.3,repurchase:.3").fit(shop)
    first = mixed.top_k(asked, 5)
    assert counts == {"als": 1, "item_knn": 1, "repurchase": 1}
    np.testing.assert_array_equal(mixed.top_k(shop.queries(np.arange(8)), 5).nums, first.nums)
    assert set(counts.values()) == {2}


def test_what_sold_often_says_no_more_of_a_kind_than_what_sold_once():
    shop = made_up_shop()
    vectors, taken = places_of_things(shop).rows(shop.items.ids, missing="nan"), baskets(shop)
    of_both = np.zeros((1, N_ITEMS), np.float32)
    of_both[0, [0, 1, 20, 21]] = 1
    many = csr_array(np.concatenate([taken.toarray(), np.repeat(of_both, 500, axis=0)]))  # bestsellers that everybody takes
    assert kinship(vectors, many).shares[0] > 0.6 * kinship(vectors, taken).shares[0]


def test_company_is_what_others_took_and_an_item_alone_is_itself():
    places = np.array([[0.0], [1.0], [5.0], [np.nan]], dtype=np.float32)
    taken = csr_array(np.array([[1, 1, 0, 1]], dtype=np.float32))
    met = company(places, taken)
    assert np.allclose(met.sums[[0, 1], 0] / met.weights[:2], 0.5)
    assert (met.sums[2, 0], met.weights[2]) == (5, 1)
    assert np.isfinite(met.sums).all() and (met.weights > 0).all()
