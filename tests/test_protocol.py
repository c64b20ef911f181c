"Every strategy is asked the same, and nothing can make a number better than it is."

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from judged_shop import N_ITEMS, N_NEW, N_USERS, Again, Circle, Contrary, Flat, Popular, Silent, make_catalog, make_shop

from recsys.data.interactions import from_events
from recsys.data.schema import DAY_MS
from recsys.errors import SchemaError, SettingsError, StrategyError
from recsys.evaluation.metrics import METRICS
from recsys.evaluation.protocol import (
    ALL_METRICS,
    BASELINES,
    CHANCE,
    HEADLINE,
    LEAST_KS,
    SLICES,
    Chance,
    answers,
    ask,
    below_baselines,
    below_best_part,
    buyers_of,
    cold_protocol,
    cold_ranking,
    compare,
    compare_all,
    draw_means,
    filled,
    gate,
    interval,
    judge,
    layers_of,
    lists_table,
    make_protocol,
    parts_of,
    refuse,
    stands_in,
    users_table,
    warnings,
)
from recsys.evaluation.slices import by_item_age
from recsys.recommend import exclusion
from recsys.scorers.als import AlsScorer
from recsys.scorers.base import Missing, contains
from recsys.scorers.hybrid import HybridScorer

SHOP, USER_IDS, ITEM_NUMS = make_shop()


@pytest.fixture(scope="module")
def protocol():
    return make_protocol(SHOP, USER_IDS, ITEM_NUMS)


@pytest.fixture(scope="module")
def judgement(protocol):
    scorers = {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP), "two_tower": Contrary().fit(SHOP), "als": Missing("als", "no factors")}
    return judge(protocol, scorers)


def value(judgement, strategy, metric, k, part):
    found = [r["value"] for r in judgement.rows if (r["strategy"], r["metric"], r["k"], r["slice"]) == (strategy, metric, k, part)]
    assert len(found) == 1
    return found[0]


def test_slices(protocol):
    sizes = {part.name: len(part.rows) for part in protocol.slices}
    assert tuple(sizes) == SLICES
    assert sizes["all"] == sizes["warm"] + sizes["cold_users"] == 300
    assert sizes["cold_users"] == 30
    cold = protocol.slices[3]
    assert not protocol.seen[cold.targets.indices].any() and np.all(np.diff(cold.targets.indptr) > 0)


def test_rows_are_complete_and_json(judgement):
    names = {"dataset", "strategy", "metric", "k", "slice", "value", "n_users", "reason"}
    assert all(names <= set(row) for row in judgement.rows)
    assert set(LEAST_KS) <= {row["k"] for row in judgement.rows}
    main = [row for row in judgement.rows if row["slice"] in SLICES]
    assert len(main) == 5 * len(SLICES) * len(ALL_METRICS) * len(LEAST_KS)  # four strategies and chance
    details = [row for row in judgement.rows if row["slice"] not in SLICES]
    assert {row["metric"] for row in details} == {"map", "recall", "hit_rate"} and {row["k"] for row in details} == {12}
    keys = [(row["strategy"], row["metric"], row["k"], row["slice"]) for row in judgement.rows]
    assert len(set(keys)) == len(keys)
    json.dumps(judgement.rows, allow_nan=False)


def test_a_missing_strategy_is_null_with_its_reason_never_zero(judgement):
    rows = [row for row in judgement.rows if row["strategy"] == "als"]
    assert rows and all(row["value"] is None and row["reason"] == "no factors" for row in rows)


def test_strangers_count_zero_for_who_cannot_answer_them(judgement):
    assert value(judgement, "content", "map", 12, "cold_users") == 0
    assert value(judgement, "popularity", "hit_rate", 100, "cold_users") > 0
    everybody, warm = (value(judgement, "content", "recall", 12, part) for part in ("all", "warm"))
    assert everybody == pytest.approx(warm * 270 / 300)
    assert value(judgement, "content", "user_coverage", 12, "all") == pytest.approx(0.9)


def test_values_are_the_mean_over_users(judgement, protocol):
    nums = judgement.lists["content"].nums[:, :12]
    found = [len(set(row.tolist()) & set(protocol.targets[[i]].indices.tolist())) / protocol.targets[[i]].nnz for i, row in enumerate(nums)]
    assert value(judgement, "content", "recall", 12, "all") == pytest.approx(np.mean(found))


def test_what_sells_gets_the_share_of_the_truth_it_names():
    "One list for everybody, one target each: its hit rate is the share of targets on the list, its MRR the mean of 1 / place."
    nums = np.random.default_rng(8).integers(0, N_ITEMS, size=N_USERS)
    told = judge(make_protocol(SHOP, np.arange(1, N_USERS + 1), nums), {"popularity": Popular().fit(SHOP)})
    order = np.lexsort((np.arange(N_ITEMS), -SHOP.popularity()))
    place = np.argsort(order)[nums] + 1
    assert value(told, "popularity", "hit_rate", 20, "all") == pytest.approx((place <= 20).mean(), abs=1e-12)
    assert value(told, "popularity", "mrr", 20, "all") == pytest.approx(np.where(place <= 20, 1 / place, 0).mean(), abs=1e-12)
    assert value(told, "popularity", "map", 20, "all") == value(told, "popularity", "mrr", 20, "all")


def test_order_of_the_truth_does_not_matter(judgement):
    shuffled = np.random.default_rng(3).permutation(len(USER_IDS))
    again = judge(make_protocol(SHOP, USER_IDS[shuffled], ITEM_NUMS[shuffled]), {"content": Circle().fit(SHOP), "popularity": Popular().fit(SHOP)})
    for name in ("content", "popularity", "random"):
        assert [row for row in again.rows if row["strategy"] == name] == [row for row in judgement.rows if row["strategy"] == name]


@pytest.mark.parametrize("seed", range(5))
def test_equal_scores_get_what_chance_gets(seed):
    targets = np.random.default_rng(seed).integers(0, N_ITEMS, size=len(USER_IDS))
    flat = judge(make_protocol(SHOP, USER_IDS, targets), {"flat": Flat().fit(SHOP)})
    assert value(flat, "flat", "recall", 10, "all") == pytest.approx(10 / N_ITEMS, abs=0.035)


def test_forbidden_items_are_refused_by_name(protocol):
    class Cheat(Popular):
        name = "cheat"

        def top_k(self, queries, k, allowed=None, exclude=None):
            return super().top_k(queries, k)

    with pytest.raises(StrategyError, match="cheat"):
        ask(make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat="forbid"), Cheat().fit(SHOP))
    with pytest.raises(StrategyError, match="allowed"):
        ask(replace(protocol, allowed=np.arange(N_ITEMS) > N_ITEMS // 2), Cheat().fit(SHOP))


def test_repeat_policies(protocol):
    lists = {repeat: ask(make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat=repeat), Popular().fit(SHOP)).nums for repeat in ("allow", "forbid", "window(30)")}
    had = exclusion(protocol.queries, N_ITEMS, "forbid")
    assert contains(had, lists["allow"]).any() and not contains(had, lists["forbid"]).any()
    late = exclusion(protocol.queries, N_ITEMS, "window(30)")
    assert not contains(late, lists["window(30)"]).any() and contains(had, lists["window(30)"]).any()
    with pytest.raises(SettingsError):
        make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat="window")


@pytest.mark.parametrize("repeat", ["allow", "forbid"])
def test_a_hybrid_judged_from_its_parts_lists_what_it_lists_when_asked(repeat):
    parts = {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP)}
    hybrid = HybridScorer(parts, "content:.6,popularity:.4").fit(SHOP)
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat=repeat)
    judged, asked = judge(protocol, parts | {"hybrid": hybrid}).lists["hybrid"], ask(protocol, hybrid)
    assert (asked.nums >= 0).any() and asked.nums[:, 0].tolist() != ask(protocol, parts["content"]).nums[:, 0].tolist()
    np.testing.assert_array_equal(judged.nums, asked.nums)
    np.testing.assert_array_equal(judged.scores, asked.scores)


def test_buyers_are_different_users_however_many_events_are_looked_at_together(monkeypatch):
    expected = np.bincount(SHOP.matrix().indices, minlength=N_ITEMS)
    assert expected.sum() < SHOP.n_events  # somebody bought something twice
    for at_once in (1, 7, 10_000):
        monkeypatch.setattr("recsys.evaluation.protocol.EVENTS_AT_ONCE", at_once)
        np.testing.assert_array_equal(buyers_of(SHOP.past, N_ITEMS), expected)


def test_what_is_asked_is_asked_once_for_all(protocol):
    class Counted(Circle):
        def top_k(self, queries, *rules):
            self.asked = [*getattr(self, "asked", []), *queries.user_ids.tolist()]
            return super().top_k(queries, *rules)

    parts = {"popularity": Popular().fit(SHOP), "content": Counted().fit(SHOP)}
    weights = {"hybrid": "content:.6,popularity:.4", "hybrid_default": "content:1"}
    mixed = {name: HybridScorer(parts, each, name=name).fit(SHOP) for name, each in weights.items()}
    judge(protocol, mixed | parts)
    assert sorted(parts["content"].asked) == protocol.queries.user_ids[protocol.queries.has_history].tolist()


def test_the_size_of_a_block_and_the_number_of_processors_change_nothing(protocol, monkeypatch):
    parts = {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP), "als": AlsScorer(embedding_size=8, epochs=3).fit(SHOP)}
    scorers = parts | {"hybrid": HybridScorer(parts, "content:.6,als:.4").fit(SHOP)}
    rows = judge(protocol, scorers).rows
    monkeypatch.setattr("recsys.recommend.MOST_WORKERS", 1)
    assert judge(protocol, scorers).rows == rows
    monkeypatch.setattr("recsys.recommend.QUERIES_AT_ONCE", 37)
    lists = answers(protocol, scorers)
    for name, top in answers(protocol, {"hybrid": scorers["hybrid"]} | parts).items():
        np.testing.assert_array_equal(top.nums, lists[name].nums)


def test_only_rebuying_where_that_is_forbidden_is_a_reason_not_a_zero():
    again = judge(make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat="forbid"), {"repurchase": Again().fit(SHOP)})
    rows = [row for row in again.rows if row["strategy"] == "repurchase"]
    assert rows and all(row["value"] is None and "already bought" in row["reason"] for row in rows)
    assert gate(again) == []


def test_bad_luck_of_chance_is_no_error(judgement):
    rows = [row | {"value": 0.0} if (row["strategy"], row["slice"]) == (CHANCE, "warm") else row for row in judgement.rows]
    assert gate(replace(judgement, rows=rows)) == []


def test_broken_models_stop_at_the_gate(protocol, judgement):
    assert gate(judgement) == []
    broken = judge(protocol, {"als": Silent().fit(SHOP)})
    assert gate(broken) and all("als" in problem for problem in gate(broken))
    with pytest.raises(StrategyError, match="exactly 0"):
        refuse(gate(broken))
    assert gate(broken, least_users=10_000) == []


def test_a_leak_stops_at_the_gate(protocol):
    class Oracle(Flat):
        name = "oracle"

        def columns(self, queries, nums):
            rows = np.searchsorted(protocol.queries.user_ids, queries.user_ids)
            return protocol.targets[rows].toarray()[:, nums].astype(np.float32)

    with pytest.raises(StrategyError, match="exactly 1"):
        refuse(gate(judge(protocol, {"oracle": Oracle().fit(SHOP)})))


@pytest.mark.parametrize("metric", METRICS)
def test_nan_stops_at_the_gate(judgement, metric):
    rows = [row | {"value": float("nan")} if (row["metric"], row["slice"]) == (metric, "warm") and row["strategy"] == "content" else row
            for row in judgement.rows]  # fmt: skip
    assert len(gate(replace(judgement, rows=rows))) == len(LEAST_KS)


def test_intervals_hold_the_value_and_agree_between_runs(judgement, protocol):
    rows = [row for row in judgement.rows if row["k"] == HEADLINE[1] and row["metric"] in METRICS and row["value"] is not None]
    assert rows and all(row["lo"] <= row["value"] <= row["hi"] for row in rows)
    again = judge(protocol, {"content": Circle().fit(SHOP), "popularity": Popular().fit(SHOP)})
    assert [r for r in again.rows if r["strategy"] == "content"] == [r for r in judgement.rows if r["strategy"] == "content"]


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.exponential(1.0, size=(200, 100))
    ends = [interval(draw_means(sample[:, None], n_draws=400)[:, 0]) for sample in samples]
    covered = np.mean([end.lo <= 1.0 <= end.hi for end in ends])
    assert 0.88 <= covered <= 0.98


def test_pairing_makes_the_interval_of_a_difference_narrow(judgement):
    itself = compare(judgement, "content", "content")
    assert itself.lo == itself.hi == itself.difference == 0 and itself.verdict == "too close to call"
    assert compare(judgement, "content", "popularity").verdict == "above"
    assert {(each.slice, each.strategy) for each in compare_all(judgement)} == {(p, s) for p in ("all", "warm") for s in ("content", "two_tower")}


def test_below_popularity_is_said_in_words(judgement):
    said = warnings(judgement, {"two_tower": ["content", "als"]})
    assert len(said) == 2 and all("two_tower is below" in sentence for sentence in said)


def test_new_items_only(protocol):
    cold = cold_ranking(protocol, {"content": Circle().fit(SHOP), "als": Silent().fit(SHOP), "x": Missing("x", "none")}, None, SHOP)
    assert cold.protocol.allowed.sum() <= N_NEW and not (cold.protocol.allowed & cold.protocol.seen).any()
    assert cold.protocol.queries.has_history.all()
    recall = {row["strategy"]: row["value"] for row in cold.rows if (row["metric"], row["k"]) == ("recall", 12)}
    assert set(recall) == {"random", "newest_of_category", "content"}
    assert recall["random"] == pytest.approx(12 / cold.protocol.allowed.sum(), abs=0.03)
    assert cold.comparisons and all(each["lo"] > 0 for each in cold.comparisons)


def test_newest_of_category_knows_categories(protocol, tmp_path):
    catalog = make_catalog(SHOP, tmp_path, pictures=0)
    cold = cold_ranking(protocol, {}, catalog, SHOP)
    recall = {row["strategy"]: row["value"] for row in cold.rows if (row["metric"], row["k"]) == ("recall", 12)}
    assert recall["newest_of_category"] > 0.9 > recall["random"]


def test_a_split_without_new_items_has_no_such_ranking():
    old = ITEM_NUMS < N_ITEMS - N_NEW
    protocol = make_protocol(SHOP, USER_IDS[old], ITEM_NUMS[old])
    assert not len(cold_protocol(protocol).queries)
    assert cold_ranking(protocol, {"content": Circle().fit(SHOP)}, None, SHOP).rows == []
    rows = [row for row in judge(protocol, {"content": Circle().fit(SHOP)}).rows if row["slice"] == "cold_items"]
    assert rows and all(row["value"] is None and row["n_users"] == 0 for row in rows)


def test_lists_are_kept(judgement):
    table = lists_table(judgement, SHOP.items.ids).to_pandas()
    assert set(table["strategy"]) == {"popularity", "content", "two_tower"}
    first = table[(table["strategy"] == "content") & (table["user_id"] == 2)].sort_values("rank")
    assert (SHOP.items.nums(first["item_id"]) == judgement.lists["content"].nums[1, :12]).all()
    assert lists_table(judgement, SHOP.items.ids, n_users=5).to_pandas()["user_id"].nunique() == 5


# What a visitor would see: the same filling for every strategy.


@pytest.mark.parametrize("repeat", ["allow", "forbid"])
def test_served_lists_are_full_obey_the_rules_and_name_nothing_twice(repeat):
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS, allowed=np.arange(N_ITEMS) % 3 > 0, repeat=repeat)
    sells = ask(protocol, Popular().fit(SHOP)).nums
    own = ask(protocol, Circle().fit(SHOP)).nums
    own[::3, 5:] = -1  # some have little to say
    served = filled(own, sells)
    for mine, others, full in zip(own.tolist(), sells.tolist(), served.tolist(), strict=True):
        start = [num for num in mine if num >= 0]
        expected = (start + [num for num in others if num >= 0 and num not in start])[: len(mine)]
        assert [num for num in full if num >= 0] == expected and full[: len(expected)] == expected
    assert protocol.allowed[served[served >= 0]].all()
    assert protocol.exclude is None or not contains(protocol.exclude, served).any()


def test_served_fills_strangers_with_what_sells(judgement):
    strangers = ~judgement.protocol.queries.has_history
    mine, sells = (judgement.headline["served"][name] for name in ("content", "popularity"))
    assert np.array_equal(mine[strangers], sells[strangers]) and np.array_equal(mine[~strangers], judgement.headline["all"]["content"][~strangers])
    assert value(judgement, "content", "user_coverage", 12, "served") == 1
    assert [row["value"] for row in judgement.rows if (row["strategy"], row["metric"]) == ("popularity", "map") and row["slice"] == "served"] == [
        row["value"] for row in judgement.rows if (row["strategy"], row["metric"]) == ("popularity", "map") and row["slice"] == "all"]  # fmt: skip


def test_without_what_sells_nothing_is_served(protocol):
    rows = [row for row in judge(protocol, {"content": Circle().fit(SHOP)}).rows if row["slice"] == "served"]
    assert rows and all(row["value"] is None and "popularity" in row["reason"] for row in rows)


# Details: the same lists, counted apart.


def test_details_part_the_users_and_the_targets(judgement, protocol):
    sizes = {part.name: len(part.rows) for part in protocol.details}
    assert sizes["history:0"] == 30 and sizes["history:0"] + sizes["history:6+"] == 300
    assert sum(part.targets.nnz for part in protocol.details if part.name.startswith("item_age:")) == protocol.targets.nnz
    for metric in ("map", "recall", "hit_rate"):
        apart, whole = (value(judgement, "content", metric, 12, part) for part in ("item_age:0", "cold_items"))
        assert apart == pytest.approx(whole)
        assert value(judgement, "content", metric, 12, "history:6+") == pytest.approx(value(judgement, "content", metric, 12, "warm"))


def test_details_by_category_count_like_sets(tmp_path):
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS, catalog=make_catalog(SHOP, tmp_path, pictures=0))
    assert not any(part.name.startswith(("category:", "price:")) for part in protocol.details)  # one top, one price: parts nothing
    catalog = make_catalog(SHOP, tmp_path, pictures=0)
    catalog.table["category"] = [f"circle {num % 5} > all" for num in range(N_ITEMS)]
    catalog.table["price"] = np.arange(N_ITEMS, dtype=np.float32)
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS, catalog=catalog)
    judgement = judge(protocol, {"content": Circle().fit(SHOP)})
    lists = judgement.lists["content"].nums[:, :12]
    for name, chosen in (("category:circle 3", np.arange(N_ITEMS) % 5 == 3), ("price:low", np.arange(N_ITEMS) < N_ITEMS / 3)):
        taken = [{num for num in protocol.targets[[row]].indices.tolist() if chosen[num]} for row in range(len(lists))]
        found = [len(set(row.tolist()) & right) / len(right) for row, right in zip(lists, taken, strict=True) if right]
        assert value(judgement, "content", "recall", 12, name) == pytest.approx(np.mean(found))


def test_details_carry_an_interval_and_can_be_compared(judgement):
    rows = [row for row in judgement.rows if row["slice"] == "history:6+" and row["value"] is not None]
    assert rows and all(row["lo"] <= row["value"] <= row["hi"] for row in rows)
    assert compare(judgement, "content", "popularity", "history:6+").verdict == "above"
    with pytest.raises(StrategyError, match="slice nonsense"):
        compare(judgement, "content", "popularity", "nonsense")


@pytest.mark.parametrize(("days", "label"), [(6.9, "<7"), (7, "<28"), (27.9, "<28"), (28, "28+")])
def test_an_item_ages_at_the_full_day(days, label):
    events = pa.table({"user_id": [1], "item_id": [5], "event": ["purchase"], "quantity": [1], "price": [1.0],
                       "ts": pa.array([int((40 - days) * DAY_MS)], pa.int64()).cast(pa.timestamp("ms", "UTC"))})  # fmt: skip
    aged = by_item_age(from_events(events, "shop", {"purchase": 1.0}, at=40 * DAY_MS, item_ids=np.array([5, 6])))
    assert [aged.labels[code] for code in aged.codes] == [label, "0"]


# Chance.


@pytest.mark.parametrize("repeat", ["allow", "forbid"])
def test_chance_lists_what_its_scores_say(repeat):
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS, allowed=np.arange(N_ITEMS) % 4 > 0, repeat=repeat)
    chance, exclude = Chance(3).fit(SHOP), protocol.exclude
    slow = super(Chance, chance).top_k(protocol.queries, 20, protocol.allowed, exclude)
    fast = chance.top_k(protocol.queries, 20, protocol.allowed, exclude)
    np.testing.assert_array_equal(fast.nums, slow.nums)
    np.testing.assert_array_equal(fast.scores, slow.scores)


def test_chance_shows_every_item_alike():
    queries = SHOP.queries(np.arange(20_000))
    times = np.bincount(Chance().fit(SHOP).top_k(queries, 10).nums.ravel(), minlength=N_ITEMS)
    assert times.min() > 800 and times.max() < 1200  # 1000 expected, standard deviation 31


def test_chance_stands_beside_the_models_but_is_not_served(judgement):
    assert value(judgement, CHANCE, "recall", 100, "all") == pytest.approx(100 / N_ITEMS, abs=0.08)
    assert CHANCE not in judgement.lists and CHANCE in judgement.headline["warm"] and CHANCE not in {each["strategy"] for each in judgement.layers}


def test_shuffled_truth_is_chance():
    "Whoever knows the users' taste finds nothing when the truth is shuffled over items."
    nums = np.random.default_rng(1).permutation(N_ITEMS)[ITEM_NUMS]
    judgement = judge(make_protocol(SHOP, USER_IDS, np.random.default_rng(2).permutation(nums)), {"content": Circle().fit(SHOP)})
    assert compare(judgement, "content", CHANCE).verdict == "too close to call"


# Baselines, mixed strategies and layers.


class Against(Circle):
    "Never right: avoids everything that is taken later."

    name = "als"

    def columns(self, queries, nums):
        return np.where(np.isin(nums, ITEM_NUMS), -1, 0) + super().columns(queries, nums) * 1e-6


def test_a_model_below_any_baseline_is_named_with_all_of_them(protocol):
    class Knn(Circle):
        name = "item_knn"

    scorers = {"popularity": Popular().fit(SHOP), "item_knn": Knn().fit(SHOP), "als": Against().fit(SHOP)}
    (said,) = below_baselines(judge(protocol, scorers))
    assert "als is below item_knn by 0." in said and "also below" in said and "random" in said and "popularity" in said
    assert set(BASELINES) == {"random", "popularity", "segment_popularity", "repurchase", "item_knn"}


def test_a_mixed_strategy_below_its_best_part_is_said(protocol):
    parts = {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP), "als": Against().fit(SHOP)}
    good, bad = HybridScorer(parts, "content:1"), HybridScorer(parts, "content:.02,als:.98", name="hybrid_default")
    scorers = parts | {"hybrid": good.fit(SHOP), "hybrid_default": bad.fit(SHOP)}
    assert parts_of(scorers) == {"hybrid": ["content"], "hybrid_default": ["content", "als"]}
    (said,) = below_best_part(judge(protocol, scorers), parts_of(scorers))
    assert "hybrid_default is below content" in said


def test_layers_say_who_filled_the_lists(judgement, protocol):
    shares = {(each["strategy"], each["layer"]): each["share"] for each in judgement.layers}
    assert shares["popularity", "itself"] == 1 and shares["content", "itself"] == pytest.approx(0.9) and shares["content", "popularity"] == pytest.approx(0.1)
    parts = {"content": Circle().fit(SHOP), "popularity": Popular().fit(SHOP)}
    mixed = judge(protocol, parts | {"hybrid": HybridScorer(parts, "content:.6,popularity:.4").fit(SHOP)}).layers
    shares = {each["layer"]: each["share"] for each in mixed if each["strategy"] == "hybrid"}
    assert set(shares) == {"itself", "popularity", "part:content", "part:popularity"}
    assert shares["part:content"] + shares["part:popularity"] == pytest.approx(shares["itself"]) and min(shares["part:content"], shares["part:popularity"]) > 0


def test_layers_of_random_lists_count_like_sets():
    rng = np.random.default_rng(5)
    nums, one, two = (np.argsort(rng.random((40, 30)), axis=1)[:, :15] for _ in range(3))
    nums[rng.random(40) < 0.3] = -1
    marks = stands_in(nums, one)
    assert all(marks[row, place] == (num >= 0 and num in one[row]) for row in range(40) for place, num in enumerate(nums[row].tolist()))
    told = layers_of(nums, filled(nums, two), {"a": one, "b": two})
    credit = {"a": 0.0, "b": 0.0}
    for row in range(40):
        for num in nums[row, :12].tolist():
            by = [name for name, lists in (("a", one), ("b", two)) if num >= 0 and num in lists[row]]
            for name in by:
                credit[name] += 1 / len(by) / (40 * 12)
    assert told["part:a"] == pytest.approx(credit["a"]) and told["part:b"] == pytest.approx(credit["b"])


# By user, and by session.


def test_users_table_has_a_row_for_each_query(judgement, protocol):
    table = users_table(judgement)
    assert table.num_rows == 300 and table["user_id"].to_pylist() == protocol.queries.user_ids.tolist()
    assert sum(table["warm"].to_pylist()) == 270
    for name in ("popularity", "content", "two_tower", "random"):
        assert np.mean(table[name]) == pytest.approx(value(judgement, name, "map", 12, "all"))
        assert np.mean(table[f"served:{name}"]) == pytest.approx(value(judgement, name, "map", 12, "served"))
    assert "als" not in table.column_names


def sessions(n_sessions: int = 60, n_questions: int = 5):
    "Each session asks some times in a row, with one more event known each time."
    row_of = np.repeat(np.arange(1, n_sessions + 1), n_questions)
    queries = SHOP.queries(SHOP.users.ids[row_of])
    return replace(queries, user_ids=row_of, user_nums=np.full(len(row_of), -1, np.int32))


def test_questions_of_sessions_are_judged_one_by_one_and_drawn_together():
    queries = sessions()
    nums = np.array([queries.history(row)[row % 6] for row in range(len(queries))])
    protocol = make_protocol(SHOP, np.arange(len(queries)), nums, queries=queries)
    assert len(protocol.queries) == 300 and len(np.unique(protocol.groups)) == 60 and 20 in protocol.ks
    top = ask(protocol, Circle().fit(SHOP)).nums
    judgement = judge(protocol, {"content": Circle().fit(SHOP)})
    assert value(judgement, "content", "recall", 20, "all") == pytest.approx(np.mean([num in row[:20] for num, row in zip(nums, top, strict=True)]))
    assert users_table(judgement).num_rows == 300
    few = make_protocol(SHOP, np.array([3, 3, 7]), np.array([1, 2, 3]), queries=queries)
    with pytest.raises(SchemaError, match="not user ids"):
        make_protocol(SHOP, np.array([3, 300]), np.array([1, 2]), queries=queries)
    assert len(few.queries) == 2 and few.queries.past.lengths.tolist() == [queries.past.lengths[3], queries.past.lengths[7]]


def test_many_questions_of_one_session_do_not_make_an_interval_narrow():
    "Each session asks the same question ten times: only as sure as asking once."
    rows = np.repeat(np.arange(0, 300, 5), 10)
    once, often = (replace(sessions()[chosen], user_ids=names) for chosen, names in ((np.arange(0, 300, 5), np.arange(60)), (rows, rows)))
    nums = np.array([once.history(row)[row % 6] for row in range(60)])
    widths = []
    for queries, taken in ((once, nums), (often, nums.repeat(10))):
        judgement = judge(make_protocol(SHOP, np.arange(len(queries)), taken, queries=queries), {"content": Circle().fit(SHOP)})
        widths += [row["hi"] - row["lo"] for row in judgement.rows if (row["strategy"], row["metric"], row["slice"], row["k"]) == ("content", "map", "all", 12)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-9) and widths[0] > 0


def test_nameless_questions_are_drawn_one_by_one():
    queries = replace(sessions(), user_ids=np.full(300, -1))
    protocol = make_protocol(SHOP, np.arange(300), np.zeros(300, int), queries=queries)
    assert len(np.unique(protocol.groups)) == 300


def test_drawing_groups_is_drawing_their_sums():
    "Five equal answers of each group are one answer: the interval must not shrink."
    values = np.random.default_rng(0).random((80, 2))
    alone, together = draw_means(values, n_draws=200), draw_means(values.repeat(5, axis=0), n_draws=200, groups=np.arange(80).repeat(5))
    np.testing.assert_allclose(together, alone, atol=1e-12)
    uneven = draw_means(np.array([[1.0], [1.0], [0.0]]), n_draws=50, groups=np.array([4, 4, 9]))
    assert set(np.round(uneven[:, 0], 6)) <= {0.0, round(2 / 3, 6), 1.0}  # sums over sizes


def test_drawing_takes_little_memory_however_many_users():
    values = np.zeros((300_000, 4))
    tracemalloc.start()
    draw_means(values, n_draws=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000  # all 50 draws at once would take 360 MB


def test_drawing_is_the_same_in_any_number_of_steps(monkeypatch):
    import recsys.evaluation.protocol as room

    values = np.random.default_rng(0).random((50, 3))
    whole = draw_means(values, n_draws=20)
    monkeypatch.setattr(room, "DRAWN_AT_ONCE", 100)
    np.testing.assert_allclose(draw_means(values, n_draws=20), whole, atol=1e-12)


def test_diversity_and_novelty_stand_in_the_rows(judgement):
    vectors = np.eye(5, dtype=np.float32)[np.arange(N_ITEMS) % 5]
    told = judge(make_protocol(SHOP, USER_IDS, ITEM_NUMS, vectors=vectors), {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP)})
    assert value(told, "content", "ild", 10, "warm") < value(told, "popularity", "ild", 10, "warm")
    assert value(told, "content", "novelty", 10, "warm") > value(told, "popularity", "novelty", 10, "warm")
    assert value(told, "popularity", "gini", 10, "all") == pytest.approx(1 - 10 / N_ITEMS)
    assert value(told, "popularity", "popularity_share", 10, "all") == pytest.approx(2 / 10)  # 1 % of 160 sold items: two
    silent = next(r for r in judgement.rows if (r["strategy"], r["metric"], r["slice"]) == ("content", "ild", "all"))
    assert silent["value"] is None and "vector" in silent["reason"]
