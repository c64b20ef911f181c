"""Planted leaks are caught and named, clean data passes, and shuffled answers give chance."""

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp, mannwhitneyu

from recsys.data.interactions import from_events
from recsys.data.schema import DAY_MS, EVENTS
from recsys.data.sentinel import (
    HIGHEST_AUC,
    LEAST_ROWS,
    check_features,
    check_importance,
    check_negatives,
    check_pairs,
    check_times,
    distance,
    shares,
    single_auc,
)
from recsys.errors import LeakError, SchemaError


def shop(users, items, days, n_items=None):
    n = len(users)
    ts = pa.array(np.asarray(days) * DAY_MS, pa.int64()).cast(EVENTS.field("ts").type)
    table = pa.table([["shop"] * n, users, items, ["view"] * n, ts, [1] * n, [1.0] * n], schema=EVENTS)
    return from_events(table, "shop", {"view": 1.0}, at=100 * DAY_MS, item_ids=None if n_items is None else np.arange(n_items))


class TestTimes:
    def test_before_passes_and_at_the_cutoff_is_named(self):
        check_times({"histories": 99, "prices": -1}, 100)
        with pytest.raises(LeakError, match=r"100.*prices \(newest 100\), als \(newest 170\)"):
            check_times({"histories": 99, "prices": 100, "als": 170}, 100)


class TestPairs:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40),
           st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4), st.integers(0, 3)), max_size=12))  # fmt: skip
    def test_exactly_what_both_have_is_found(self, learnt, judged):
        users, items, days = zip(*learnt, strict=True)
        past = shop(users, items, days, n_items=5)
        asked = [np.array(column, dtype=np.int64) for column in (zip(*judged, strict=True) if judged else ([], [], []))]
        both = set(learnt) & set(judged)
        if not both:
            check_pairs(past, asked[0], asked[1], asked[2] * DAY_MS)
            return
        with pytest.raises(LeakError, match=rf"but {len(both)} of {len(judged)} are, e.g. user {min(both)[0]}, item {min(both)[1]}"):
            check_pairs(past, asked[0], asked[1], asked[2] * DAY_MS)

    def test_users_without_events_there_cost_nothing(self):
        rng = np.random.default_rng(0)
        past = shop(rng.integers(0, 40_000, 400_000), rng.integers(0, 500, 400_000), rng.integers(0, 90, 400_000))
        few, all_users = np.arange(50), np.arange(40_000)
        spent = []
        for users in (few, all_users):
            start = time.perf_counter()
            check_pairs(past, users, np.zeros(len(users), int), np.full(len(users), 95 * DAY_MS))
            spent.append(time.perf_counter() - start)
        assert spent[0] < spent[1]


class TestFeatures:
    @settings(max_examples=150, deadline=None)
    @given(hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-3, 3).map(float)), st.data())
    def test_auc_is_that_of_mann_and_whitney(self, values, data):
        labels = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
        if labels.all() or not labels.any():
            assert np.isnan(single_auc(values, labels))
            return
        expected = mannwhitneyu(values[labels], values[~labels]).statistic / (labels.sum() * (~labels).sum())
        assert single_auc(values, labels) == pytest.approx(expected, abs=1e-12)

    @settings(max_examples=100, deadline=None)
    @given(hnp.arrays(np.float64, 24, elements=st.integers(-2, 2).map(float)), hnp.arrays(np.bool_, 24), hnp.arrays(np.int64, 24, elements=st.integers(0, 4)))
    def test_within_groups_only_pairs_of_a_group_count(self, values, labels, groups):
        won = [(a > b) + 0.5 * (a == b) for g in range(5) for a in values[(groups == g) & labels] for b in values[(groups == g) & ~labels]]
        found = single_auc(values, labels, groups)
        assert np.isnan(found) if not won else found == pytest.approx(np.mean(won), abs=1e-12)

    def test_the_answer_is_named_either_way_round_and_missing_values_tell_too(self):
        rng = np.random.default_rng(1)
        labels = rng.random(2_000) < 0.1
        clean = rng.random((2_000, 2)) + 0.5 * labels[:, None]
        aucs = check_features(clean, labels, ["a", "b"])
        assert 0.5 < aucs["a"] < HIGHEST_AUC
        for leak in (labels * 1.0, labels * -1.0, np.where(labels, 1.0, np.nan), np.where(labels, np.nan, 1.0)):
            with pytest.raises(LeakError, match="these do: date "):
                check_features(np.c_[clean, leak], labels, ["a", "b", "date"])

    def test_a_leak_within_groups_is_found_where_groups_differ(self):
        rng = np.random.default_rng(2)
        groups = np.repeat(np.arange(200), 10)
        labels = np.arange(2_000) % 10 == 0
        hidden = 1_000.0 * rng.random(200)[groups] + labels
        check_features(hidden[:, None], labels, ["x"])
        with pytest.raises(LeakError, match="x"):
            check_features(hidden[:, None], labels, ["x"], groups)

    def test_shapes_are_checked(self):
        with pytest.raises(SchemaError, match=r"\(3, 2\)"):
            check_features(np.zeros((3, 1)), np.zeros(3, bool), ["a", "b"])


class TestImportance:
    def test_more_than_its_share_is_named(self):
        check_importance({"a": 6.0, "b": 4.0})
        check_importance({})
        check_importance({"a": 0.0, "b": 0.0})
        with pytest.raises(LeakError, match=r"a \(61%\)"):
            check_importance({"a": 6.1, "b": 3.9})


class TestNegatives:
    def drawn(self, seed=3, n=400):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(2, 30, n)
        groups = np.repeat(np.arange(n), sizes)
        labels = np.concatenate([[True, *(rng.random(size - 2) < 0.3), False] for size in sizes])
        date, user = rng.integers(0, 90, n)[groups], rng.integers(0, 5_000, n)[groups]
        return groups, labels, {"date": date, "user": user}

    def test_the_same_questions_pass_however_many_negatives_they_have(self):
        groups, labels, context = self.drawn()
        assert max(check_negatives(context, labels, groups).values()) == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("column", ["date", "user"])
    def test_negatives_of_elsewhere_are_named(self, column):
        groups, labels, context = self.drawn()
        rng = np.random.default_rng(4)
        moved = np.where(labels, context[column], rng.permutation(context[column]) + (30 if column == "date" else 2_000))
        with pytest.raises(LeakError, match=rf"differ: {column} \(0"):
            check_negatives(context | {column: moved}, labels, groups)

    def test_few_rows_say_nothing(self):
        labels = np.arange(2 * LEAST_ROWS - 2) % 2 == 0
        assert check_negatives({"date": labels * 1}, labels) == {}
        labels = np.arange(2 * LEAST_ROWS) % 2 == 0
        with pytest.raises(LeakError, match="date"):
            check_negatives({"date": labels * 1}, labels)

    @settings(max_examples=100, deadline=None)
    @given(hnp.arrays(np.float64, 30, elements=st.integers(0, 5).map(float)), hnp.arrays(np.bool_, 30))
    def test_the_distance_is_that_of_kolmogorov_and_smirnov(self, values, labels):
        if labels.all() or not labels.any():
            return
        assert distance(values, labels, shares(labels)) == pytest.approx(ks_2samp(values[labels], values[~labels]).statistic, abs=1e-12)


def test_shuffled_answers_give_chance():
    "A scorer that has learnt well finds no more than random where the answers are somebody else's."
    from recsys.evaluation.protocol import Chance, compare, judge, make_protocol
    from recsys.scorers.item_knn import ItemKnnScorer

    rng = np.random.default_rng(5)
    n_users, n_items, circles = 600, 120, 6
    users = np.repeat(np.arange(n_users), 8)
    pick = lambda user: rng.integers(0, n_items // circles, len(user)) * circles + user % circles
    past = shop(users, pick(users), rng.integers(0, 90, len(users)), n_items=n_items)
    asked, taken = np.arange(n_users), pick(np.arange(n_users))
    scorers = {"item_knn": ItemKnnScorer().fit(past), "random": Chance().fit(past)}
    learnt = compare(judge(make_protocol(past, asked, taken), dict(scorers)), "item_knn", "random")
    assert learnt.verdict == "above"
    chance = compare(judge(make_protocol(past, asked, rng.permutation(taken)), dict(scorers)), "item_knn", "random")
    assert chance.lo <= 0 <= chance.hi, chance
