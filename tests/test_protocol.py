"Every strategy is asked the same, and nothing can make a number better than it is."

import json
from dataclasses import replace

import numpy as np
import pytest
from judged_shop import N_ITEMS, N_NEW, Again, Circle, Contrary, Flat, Popular, Silent, make_catalog, make_shop

from recsys.errors import SettingsError, StrategyError
from recsys.evaluation.metrics import METRICS
from recsys.evaluation.protocol import (
    HEADLINE,
    LEAST_KS,
    SLICES,
    answers_of_parts,
    ask,
    cold_protocol,
    cold_ranking,
    compare,
    compare_all,
    draw_means,
    gate,
    interval,
    judge,
    lists_table,
    make_protocol,
    refuse,
    warnings,
)
from recsys.recommend import exclusion
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
    assert len(judgement.rows) == 4 * 4 * 7 * len(LEAST_KS)
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


def test_order_of_the_truth_does_not_matter(judgement):
    shuffled = np.random.default_rng(3).permutation(len(USER_IDS))
    again = judge(make_protocol(SHOP, USER_IDS[shuffled], ITEM_NUMS[shuffled]), {"content": Circle().fit(SHOP)})
    assert again.rows == [row for row in judgement.rows if row["strategy"] == "content"]


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
    assert answers_of_parts(protocol, hybrid, dict.fromkeys(parts)) and not answers_of_parts(protocol, hybrid, {"content": asked})
    assert (asked.nums >= 0).any() and asked.nums[:, 0].tolist() != ask(protocol, parts["content"]).nums[:, 0].tolist()
    np.testing.assert_array_equal(judged.nums, asked.nums)
    np.testing.assert_array_equal(judged.scores, asked.scores)


def test_only_rebuying_where_that_is_forbidden_is_a_reason_not_a_zero():
    again = judge(make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat="forbid"), {"repurchase": Again().fit(SHOP)})
    assert all(row["value"] is None and "already bought" in row["reason"] for row in again.rows)
    assert gate(again) == []


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
    assert all(row["lo"] <= row["value"] <= row["hi"] for row in rows)
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
    assert all(each["lo"] > 0 for each in cold.comparisons)


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
