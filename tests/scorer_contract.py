"""What every scorer promises, written once; `test_scorers.py` makes a class of it for each."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.interactions import History, Interactions, Query, from_events
from recsys.data.schema import DAY_MS
from recsys.errors import StrategyError
from recsys.scorers.als import AlsScorer
from recsys.scorers.base import Scorer
from recsys.scorers.item_knn import ItemKnnScorer
from recsys.scorers.popularity import PopularityScorer
from recsys.scorers.repurchase import RepurchaseScorer

N_USERS, N_ITEMS, NOW = 60, 45, 100 * DAY_MS  # items 40 to 44 were never sold


def made_up_shop(time_unit: str = "ms", seed: int = 3) -> Interactions:
    "Two tastes of twenty items each; every user has six or seven of one taste, some twice."
    rng = np.random.default_rng(seed)
    of_user = lambda: zip(rng.integers(20, size=7), np.sort(rng.integers(0, 99, 7)), strict=True)
    rows = [(user, (user % 2) * 20 + item, int(day)) for user in range(N_USERS) for item, day in of_user()]
    columns = list(zip(*rows, strict=True))
    ts = pa.array(np.array(columns[2]) * DAY_MS, pa.timestamp("ms", tz="UTC"))
    events = pa.table({"dataset": ["shop"] * len(rows), "user_id": list(columns[0]), "item_id": [100 + item for item in columns[1]],
                       "event": ["purchase"] * len(rows), "ts": ts, "quantity": [1] * len(rows), "price": [9.0] * len(rows)})  # fmt: skip
    return from_events(events, "shop", {"view": 1.0, "purchase": 1.0}, NOW, item_ids=np.arange(100, 100 + N_ITEMS), time_unit=time_unit)


def four_parts(shop: Interactions) -> dict[str, Scorer]:
    "Scorers of different sorts, to be mixed."
    scorers = (AlsScorer(embedding_size=8, epochs=5), ItemKnnScorer(neighbours=20), RepurchaseScorer(), PopularityScorer())
    return {scorer.name: scorer.fit(shop) for scorer in scorers}


class ScorerContract:
    "Inherit, and say how to make the scorer."

    exact = True  # the same bits whatever the batch; products of vectors may differ in the last one

    def make(self, shop: Interactions) -> Scorer:
        raise NotImplementedError

    def reload(self, scorer: Scorer, shop: Interactions, folder) -> Scorer | None:
        "Saved and loaded, where the scorer can be."
        return None

    @pytest.fixture(scope="class", params=["ms", "order"])
    def shop(self, request):
        return made_up_shop(request.param)

    @pytest.fixture(scope="class")
    def scorer(self, shop):
        return self.make(shop)

    @pytest.fixture(scope="class")
    def asked(self, shop):
        "Known users, a visitor with a history, and a stranger."
        visitor, stranger = Query("shop", history=History([101, 103, 105])), Query("shop", user_id=987654)
        return shop.resolve([*(Query("shop", user_id=user) for user in range(8)), visitor, stranger])

    def same(self, one, other):
        np.testing.assert_allclose(one, other, rtol=0 if self.exact else 1e-4, atol=0 if self.exact else 1e-5)

    def test_scores_are_float32_of_the_asked_shape(self, scorer, asked):
        assert scorer.score(asked).shape == (10, N_ITEMS) and scorer.score(asked).dtype == np.float32
        assert scorer.score(asked, np.array([3, 1])).dtype == np.float32
        assert scorer.score(asked, np.tile([3, 1, 4], (10, 1))).shape == (10, 3)
        assert scorer.score(asked, np.tile([3, 1, 4], (10, 1))).dtype == np.float32

    def test_scores_are_finite_or_nan(self, scorer, asked):
        assert not np.isinf(scorer.score(asked)).any()

    def test_somebody_known_is_told_something(self, scorer, asked):
        assert np.isfinite(scorer.score(asked)[:9]).any(axis=1).all()

    def test_a_stranger_is_nan_not_zero(self, scorer, asked):
        said = np.isfinite(scorer.score(asked[9:]))
        assert said.any() if scorer.answers_strangers else not said.any()

    def test_scores_do_not_depend_on_the_batch(self, scorer, asked):
        whole = scorer.score(asked)
        self.same(np.concatenate([scorer.score(asked[row : row + 1]) for row in range(10)]), whole)
        self.same(scorer.score(asked[np.arange(10)[::-1]])[::-1], whole)

    def test_scores_do_not_depend_on_the_other_items(self, scorer, asked):
        whole = scorer.score(asked)
        self.same(scorer.score(asked, np.array([30, 2, 41])), whole[:, [30, 2, 41]])

    def test_own_items_of_each_row(self, scorer, asked):
        nums = np.random.default_rng(0).integers(-1, N_ITEMS, (10, 6))
        whole = np.where(nums < 0, np.nan, np.take_along_axis(scorer.score(asked), np.maximum(nums, 0), axis=1))
        self.same(scorer.score(asked, nums), whole)

    @pytest.mark.parametrize("k", [1, 7, N_ITEMS, N_ITEMS + 5])
    def test_top_k_is_the_sorted_score(self, scorer, asked, k):
        whole, top = scorer.score(asked), scorer.top_k(asked, k)
        assert top.nums.shape == top.scores.shape == (10, k) and top.scores.dtype == np.float32
        for row in range(10):
            speaks = np.flatnonzero(np.isfinite(whole[row]))
            n = min(k, len(speaks))
            assert (top.nums[row, n:] == -1).all() and np.isnan(top.scores[row, n:]).all()
            assert len(set(top.nums[row, :n])) == n and set(top.nums[row, :n]) <= set(speaks)
            self.same(top.scores[row, :n], np.sort(whole[row, speaks])[::-1][:n])
            self.same(top.scores[row, :n], whole[row, top.nums[row, :n]])

    def test_a_short_list_is_the_beginning_of_a_long_one(self, scorer, asked):
        short, long = scorer.top_k(asked, 4), scorer.top_k(asked, 9)
        np.testing.assert_array_equal(short.nums, long.nums[:, :4])
        self.same(short.scores, long.scores[:, :4])

    def test_never_what_is_excluded_or_not_allowed(self, scorer, shop, asked):
        allowed, exclude = np.arange(N_ITEMS) % 3 != 0, asked.matrix(N_ITEMS)
        top = scorer.top_k(asked, 12, allowed, exclude)
        for row, nums in enumerate(top.nums):
            nums = nums[nums >= 0]
            assert allowed[nums].all() and not set(nums) & set(asked.history(row))
        assert (scorer.top_k(asked, 3, np.zeros(N_ITEMS, bool)).nums == -1).all()

    def test_what_is_excluded_makes_room_for_the_next_best(self, scorer, asked):
        exclude = asked.matrix(N_ITEMS)
        short, full = scorer.top_k(asked, 4, exclude=exclude).nums, scorer.top_k(asked, N_ITEMS).nums
        for row, nums in enumerate(short):
            left = [num for num in full[row] if num >= 0 and num not in asked.history(row)]
            assert [num for num in nums if num >= 0] == left[:4]

    def test_equal_scores_stand_in_the_order_of_the_items(self, scorer, asked):
        top = scorer.top_k(asked, N_ITEMS)
        ties = (top.scores[:, 1:] == top.scores[:, :-1]) & (top.nums[:, 1:] >= 0)
        assert (top.nums[:, 1:] > top.nums[:, :-1])[ties].all()

    def test_no_query_no_answer(self, scorer, shop):
        nobody = shop.queries([])
        assert scorer.score(nobody).shape == (0, N_ITEMS)
        assert scorer.top_k(nobody, 3).nums.shape == (0, 3)

    def test_another_shop_is_refused(self, scorer, asked):
        with pytest.raises(StrategyError, match="ask that shop"):
            scorer.score(replace(asked, dataset="other"))

    def test_the_same_every_time(self, scorer, shop, asked):
        np.testing.assert_array_equal(self.make(shop).score(asked), scorer.score(asked))

    def test_saved_and_loaded(self, scorer, shop, asked, tmp_path):
        again = self.reload(scorer, shop, tmp_path)
        if again is not None:
            np.testing.assert_array_equal(again.score(asked), scorer.score(asked))
