"""Every scorer against the one contract."""

import numpy as np
from scorer_contract import N_ITEMS, ScorerContract, made_up_shop

from recsys.scorers.als import AlsScorer
from recsys.scorers.hybrid import HybridScorer
from recsys.scorers.item_knn import ItemKnnScorer
from recsys.scorers.popularity import PopularityScorer
from recsys.scorers.repurchase import RepurchaseScorer


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
