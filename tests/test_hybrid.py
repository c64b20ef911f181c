"""The hybrid: silence, floors, candidates, weights by length of history."""

import numpy as np
import pytest
from scorer_contract import N_ITEMS, four_parts, made_up_shop

from recsys.data.interactions import History, Query
from recsys.errors import SettingsError
from recsys.scorers.base import Scorer
from recsys.scorers.hybrid import HybridScorer, read_weights


@pytest.fixture(scope="module")
def shop():
    return made_up_shop()


@pytest.fixture(scope="module")
def parts(shop):
    return four_parts(shop)


@pytest.mark.parametrize("bad", ["", "als", "als:x", "als:-1", "magic:1", "als:0", "als:nan", "als:inf"])
def test_bad_weights_are_refused(bad):
    with pytest.raises(SettingsError, match="weights should be written"):
        read_weights(bad)


def test_a_silent_scorer_gives_its_weight_to_the_rest(shop, parts):
    stranger = shop.resolve([Query("shop", user_id=4242)])
    blend = HybridScorer(parts, "als:.9,popularity:.1").fit(shop).score(stranger)
    alone = HybridScorer(parts, "popularity:1").fit(shop).score(stranger)
    np.testing.assert_allclose(blend, alone, rtol=1e-6)


class Everything(Scorer):
    "Likes every item the same bit more, also those nobody bought."

    name = "content"

    def columns(self, queries, nums):
        return np.tile(nums.astype(np.float32), (len(queries), 1))


def test_a_scorer_silent_on_an_item_gives_its_floor_not_its_weight(shop, parts):
    scorers = parts | {"content": Everything().fit(shop)}
    asked = shop.queries([0, 1])
    top = HybridScorer(scorers, "als:.8,content:.2").fit(shop).top_k(asked, 5)
    assert (top.nums < 40).all()  # 40 to 44 were never sold: content alone speaks about them, and loudest
    assert np.isfinite(HybridScorer(scorers, "als:.8,content:.2").fit(shop).score(asked)[:, 40:]).all()


def test_the_score_does_not_know_what_is_allowed_or_how_many_are_wanted(shop, parts):
    hybrid, asked = HybridScorer(parts, "als:.5,item_knn:.3,popularity:.2").fit(shop), shop.queries([0, 1, 2])
    few = np.arange(N_ITEMS) < 7
    for top in (hybrid.top_k(asked, 3), hybrid.top_k(asked, 20), hybrid.top_k(asked, 3, few)):
        rows, places = np.nonzero(top.nums >= 0)
        np.testing.assert_allclose(top.scores[rows, places], hybrid.score(asked)[rows, top.nums[rows, places]], rtol=1e-5)


class Liking(Scorer):
    "Likes some items, best first, and the rest not at all."

    def __init__(self, name, *liked):
        self.name, self.liked = name, liked

    def columns(self, queries, nums):
        worth = np.zeros(N_ITEMS, dtype=np.float32)
        worth[list(self.liked)] = np.arange(len(self.liked), 0, -1)
        return np.tile(worth[nums], (len(queries), 1))


def test_what_no_part_likes_best_can_be_best_for_both(shop):
    scorers = {"als": Liking("als", 3, 8, 5).fit(shop), "content": Liking("content", 6, 8, 4).fit(shop)}
    hybrid = HybridScorer(scorers, "als:.5,content:.5").fit(shop)
    assert hybrid.top_k(shop.queries([0]), 1).nums.tolist() == [[8]]


def test_the_sample_is_drawn_by_seed(shop, parts):
    one, same, other = (HybridScorer(parts, "als:1", seed=seed).fit(shop).sample for seed in (1, 1, 2))
    assert np.array_equal(one, same) and len(one) == len(other)


def test_weights_of_their_own(shop, parts):
    banded = HybridScorer(parts, "popularity:1", by_band={"6+": {"item_knn": 1.0}}).fit(shop)
    asked = shop.resolve([Query("shop", user_id=0), Query("shop", history=History([101, 103])), Query("shop", user_id=987654)])
    assert (shop.queries([0]).past.lengths >= 6).all()
    for row, weights in enumerate(("item_knn:1", "popularity:1", "popularity:1")):
        np.testing.assert_allclose(banded.score(asked)[row], HybridScorer(parts, weights).fit(shop).score(asked)[row], rtol=1e-5)
    assert set(banded.scorers) == {"item_knn", "popularity"}
