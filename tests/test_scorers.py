"""Every scorer against the one contract."""

import numpy as np
import pytest
from scorer_contract import N_ITEMS, ScorerContract, made_up_shop

from recsys.scorers.als import AlsScorer
from recsys.scorers.hybrid import HybridScorer
from recsys.scorers.item_knn import ItemKnnScorer
from recsys.scorers.popularity import PopularityScorer
from recsys.scorers.repurchase import RepurchaseScorer
from recsys.scorers.transitions import Steps, TransitionScorer, count_steps


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
    scorer.sold[:] = 1
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
