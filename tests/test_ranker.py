"""The ranker: the contract, what it learns from, what the sentinel refuses, what a file must say."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scorer_contract import N_ITEMS, N_USERS, ScorerContract, made_up_shop

from recsys.data.catalog import Catalog
from recsys.errors import LeakError, MissingFileError, StrategyError
from recsys.scorers.base import Missing, Scorer, contains, places_in
from recsys.scorers.exam import Exam
from recsys.scorers.item_knn import ItemKnnScorer
from recsys.scorers.popularity import PopularityScorer
from recsys.scorers.ranker import Facts, RankerScorer, drawn, feature_names, features, lessons, teach
from recsys.scorers.repurchase import RepurchaseScorer


def catalog_of(shop) -> Catalog:
    n = shop.n_items
    blank = {name: [None] * n for name in ("title", "text", "product_code", "image")}
    prices, paths = np.where(np.arange(n) % 5, 1.0 + np.arange(n), np.nan), ["a > b" if num < 20 else "c" for num in range(n - 1)] + [None]
    about = {"item_id": shop.items.ids, "raw_id": shop.items.ids.astype(str), "category": paths, "price": prices, "attributes": "{}", **blank}
    return Catalog(pd.DataFrame(about), shop.dataset, shop.items)


def sources_of(shop):
    return {scorer.name: scorer.fit(shop) for scorer in (PopularityScorer(), RepurchaseScorer(), ItemKnnScorer(neighbours=20))}


def lesson_of(shop, seed=7, allowed=None, exclude=None):
    rng = np.random.default_rng(seed)
    after = np.array([[user % 2 * 20 + item for item in rng.integers(20, size=3)] for user in range(N_USERS)])
    rows = np.repeat(np.arange(N_USERS), 3)
    targets = csr_array((np.ones(len(rows), np.float32), (rows, after.ravel())), shape=(N_USERS, N_ITEMS))
    targets.sum_duplicates()
    asked = shop.queries(np.arange(N_USERS))
    exam = Exam(shop, asked, targets, allowed, None if exclude is None else asked.matrix(N_ITEMS))
    return lessons(sources_of(shop), exam, Facts.of(shop, catalog_of(shop)), seed)


@pytest.fixture(scope="module")
def models():
    return {unit: teach(lesson_of(made_up_shop(unit)), trees=20).model for unit in ("ms", "order")}


class TestRanker(ScorerContract):
    @pytest.fixture(scope="class", autouse=True)
    def taught(self, models):
        type(self).models = models

    def make(self, shop):
        return RankerScorer(sources_of(shop), self.models[shop.time_unit]).fit(shop, catalog_of(shop))

    def reload(self, scorer, shop, folder):
        scorer.save(folder, {"reason": None})
        return RankerScorer.load(folder, shop, catalog_of(shop), sources_of(shop))


def test_features_are_those_that_are_named():
    shop = made_up_shop()
    sources, nums = sources_of(shop), np.array([[3, 44, -1], [0, 1, 2]])
    made, names = features(sources, shop.queries([0, 987654]), nums, Facts.of(shop, catalog_of(shop)), np.arange(40)), feature_names(list(sources))
    assert made.shape == (5, len(names)) and made.dtype == np.float32
    of = lambda name: made[:, names.index(name)]
    np.testing.assert_allclose(of("popularity"), sources["popularity"].score(shop.queries([0, 987654]), nums)[nums >= 0])
    assert np.isnan(of("repurchase")[2:]).all() and of("events")[2] == 0  # a stranger
    assert of("never_sold").tolist() == [0, 1, 0, 0, 0]  # item 44
    np.testing.assert_allclose(of("price"), np.log1p(np.where(nums[nums >= 0] % 5, 1.0 + nums[nums >= 0], np.nan)), rtol=1e-6)
    assert of("place_in_catalogue")[1] == np.float32(44 / N_ITEMS)
    history = shop.queries([0]).history(0)
    np.testing.assert_allclose(of("share_of_category")[0], (history < 20).mean())
    assert np.isnan(of("share_of_category")[1])  # item 44 has no category


def test_facts_are_those_of_the_cutoff():
    shop = made_up_shop()
    facts, past = Facts.of(shop, catalog_of(shop)).items, shop.past
    for place, days in enumerate((1, 7, 28)):
        sold = np.bincount(past.item_nums[past.ts >= shop.at - days * 86_400_000], minlength=N_ITEMS)
        np.testing.assert_allclose(facts[:, place], np.log1p(sold), rtol=1e-6)
    np.testing.assert_allclose(facts[:40, 6], np.log1p((shop.at - shop.last_sold[:40]) / 86_400_000), rtol=1e-6)


def test_new_items_have_a_lesson_of_their_own():
    shop = made_up_shop()
    asked, targets = shop.queries(np.arange(N_USERS)), np.zeros((N_USERS, N_ITEMS), np.float32)
    targets[:, 3], targets[:30, 42], targets[30:, 43] = 1, 1, 1  # 40 to 44 were never sold
    lesson = lessons(sources_of(shop) | {"content": Everything().fit(shop)}, Exam(shop, asked, csr_array(targets)), Facts.of(shop, catalog_of(shop)))
    fresh = lesson.groups >= N_USERS
    assert fresh.sum() == 2 * N_USERS and lesson.labels[fresh].sum() == N_USERS  # 42 and 43 alone: nobody took the other three
    never = lesson.features[:, lesson.names.index("never_sold")]
    assert (never[fresh] == 1).all() and np.bincount(lesson.groups[fresh] - N_USERS).tolist() == [2] * N_USERS


class Everything(Scorer):
    "Speaks about every item."

    name = "content"

    def columns(self, queries, nums):
        return np.tile(nums.astype(np.float32), (len(queries), 1))


def test_places():
    rng = np.random.default_rng(5)
    listed = np.stack([rng.permutation(30)[:8] for _ in range(20)])
    listed[:, 6:] = -1
    nums = rng.integers(-1, 30, (20, 12))
    wanted = [[next((place for place, other in enumerate(row, 1) if other == num and num >= 0), np.nan) for num in asked]
              for row, asked in zip(listed, nums, strict=True)]  # fmt: skip
    np.testing.assert_array_equal(places_in(listed, nums), np.array(wanted, np.float32))
    assert np.isnan(places_in(np.full((2, 3), -1), np.array([[0], [1]]))).all()


def test_every_right_candidate_is_kept_and_the_rate_of_the_others_is_true(monkeypatch):
    monkeypatch.setattr("recsys.scorers.ranker.N_NEGATIVES", 10)
    candidates, right = np.tile(np.arange(40), (30, 1)), np.zeros((30, 40), bool)
    right[:, [3, 7]] = True
    taken = drawn(candidates, right, np.random.default_rng(1))
    assert ((taken == 3).any(axis=1) & (taken == 7).any(axis=1)).all() and ((taken >= 0).sum(axis=1) == 12).all()
    lesson = lesson_of(made_up_shop())
    wrong = np.bincount(lesson.groups[~lesson.labels])
    assert 0.2 < lesson.negatives_rate < 0.6 and wrong.max() == 10


def test_rules_hold_in_lessons():
    shop = made_up_shop()
    lesson = lesson_of(shop, allowed=np.arange(N_ITEMS) < 20, exclude=True)
    assert np.isnan(lesson.features[:, lesson.names.index("repurchase")]).all()  # nobody is offered what they had
    assert lesson.features[:, lesson.names.index("never_sold")].max() == 0
    assert lesson.negatives_rate == 1  # fewer than are kept; questions without anything right among their candidates do not count


def test_a_leak_is_refused():
    lesson = lesson_of(made_up_shop())
    told = lesson.features.copy()
    told[:, 4] = lesson.labels * 0.9 + np.random.default_rng(1).random(len(lesson.labels)) * 0.1
    with pytest.raises(LeakError, match=lesson.names[4]):
        teach(lesson._replace(features=told))


def test_a_fact_that_carries_the_model_is_refused_a_source_is_said():
    lesson, rng = lesson_of(made_up_shop()), np.random.default_rng(1)
    blank = np.zeros_like(lesson.features)
    hint = np.where(rng.random(len(lesson.labels)) < 0.8, lesson.labels, ~lesson.labels) + rng.random(len(lesson.labels))  # right four times of five
    with pytest.raises(LeakError, match="demand_of_its_kind .100%.* does"):
        told = blank.copy()
        told[:, lesson.names.index("demand_of_its_kind")] = hint
        teach(lesson._replace(features=told), trees=5)
    blank[:, lesson.names.index("item_knn_level")] = hint
    assert teach(lesson._replace(features=blank), trees=5).caution == "item_knn_level carries 100% of the ranker"


def test_negatives_of_other_people_are_refused():
    lesson = lesson_of(made_up_shop())
    told, place = np.repeat(lesson.features, 3, axis=0), lesson.names.index("days_since_last_event")
    labels, groups = lesson.labels.repeat(3), lesson.groups.repeat(3)
    told[:, place] = np.where(labels, 1.0, 1.4) + np.random.default_rng(1).random(len(labels))  # overlapping: alone it tells little
    with pytest.raises(LeakError, match="same context.*days_since_last_event"):
        teach(lesson._replace(features=told, labels=labels, groups=groups))


def test_shuffled_labels_give_chance():
    lesson = lesson_of(made_up_shop())
    rng = np.random.default_rng(3)
    luck = teach(lesson._replace(labels=lesson.labels[np.lexsort((rng.random(len(lesson.labels)), lesson.groups))]), trees=20).model
    shop = made_up_shop()
    asked = shop.queries(np.arange(N_USERS))
    rows = np.repeat(np.arange(N_USERS), 5)
    targets = csr_array((np.ones(len(rows)), (rows, rng.integers(0, 40, len(rows)))), shape=(N_USERS, N_ITEMS))
    targets.sum_duplicates()
    found = contains(targets, RankerScorer(sources_of(shop), luck).fit(shop, catalog_of(shop)).top_k(asked, 10).nums).mean()
    assert abs(found - 5 / 40) < 0.05


def test_a_model_over_other_sources_is_refused(models):
    shop = made_up_shop()
    with pytest.raises(StrategyError, match="train it again"):
        RankerScorer({"popularity": PopularityScorer().fit(shop)}, models["ms"])


def test_loading_says_why_not(models, tmp_path):
    shop = made_up_shop()
    load = lambda sources: RankerScorer.load(tmp_path, shop, catalog_of(shop), sources)
    with pytest.raises(MissingFileError, match="run the step"):
        load(sources_of(shop))
    (tmp_path / "ranker_shop.json").write_text(json.dumps({"parts": [], "reason": "too few queries"}))
    with pytest.raises(StrategyError, match="too few queries"):
        load(sources_of(shop))
    RankerScorer(sources_of(shop), models["ms"]).fit(shop, catalog_of(shop)).save(tmp_path, {"reason": None})
    with pytest.raises(StrategyError, match="asks item_knn"):
        load(sources_of(shop) | {"item_knn": Missing("item_knn", "not made")})


def test_the_same_model_every_time(models):
    assert teach(lesson_of(made_up_shop()), trees=20).model == models["ms"]
