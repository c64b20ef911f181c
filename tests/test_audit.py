"Candidates are counted right: against sets and loops, on lists anybody can check by hand."

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_shop import Again, Circle, Contrary, Popular, Silent, make_shop

from recsys.evaluation.audit import Audit, audit, audit_part, audit_record, audit_section, drawn, overlap, places, unique_recall, worth_taking
from recsys.evaluation.metrics import targets_of
from recsys.evaluation.protocol import ask, make_protocol
from recsys.scorers.base import Missing, Scorer, contains
from recsys.scorers.hybrid import make_hybrid

SHOP, USER_IDS, ITEM_NUMS = make_shop()
N = 60


@pytest.fixture(scope="module")
def judged():
    "The questions, the sources, and the audit of them."
    protocol = make_protocol(SHOP, USER_IDS, ITEM_NUMS)
    scorers = {each.name: each().fit(SHOP) for each in (Popular, Again, Circle, Contrary)} | {"als": Missing("als", "no factors")}
    return protocol, scorers, audit(protocol, scorers, n=N)


def found_by(protocol, scorer, n) -> list[tuple[int, int]]:
    "(row, item) of every target among the first n, the slow way."
    targets = protocol.targets
    lists = scorer.top_k(protocol.queries, n, protocol.allowed, protocol.exclude).nums
    return [(row, int(num)) for row in range(len(lists)) for num in lists[row] if num in targets.indices[targets.indptr[row] : targets.indptr[row + 1]]]


def test_equal_to_sets(judged):
    protocol, scorers, made = judged
    sets = {name: set(found_by(protocol, scorer, N)) for name, scorer in scorers.items() if isinstance(scorer, Scorer)}
    total = protocol.targets.nnz
    names = list(made.found)
    assert names == list(sets) and made.missing == {"als": "no factors"}
    for name, mine in sets.items():
        others = set().union(*(found for other, found in sets.items() if other != name))
        assert made.curves[name][12] == len(set(found_by(protocol, scorers[name], 12))) / total
        assert made.curves[name][N] == len(mine) / total
        assert unique_recall(made)[name] == pytest.approx(len(mine - others) / total, abs=1e-12)
        for column, other in enumerate(names):
            assert overlap(made)[names.index(name), column] == pytest.approx(len(mine & sets[other]) / len(mine) if mine else np.nan, abs=1e-12, nan_ok=True)
    assert made.together == pytest.approx(len(set().union(*sets.values())) / total, abs=1e-12)
    assert any(unique_recall(made).values()) and 0 < overlap(made)[0, 2] < 1  # the case is not empty


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_places_are_those_of_a_loop(n_users, n_items, width, seed):
    rng = np.random.default_rng(seed)
    nums = np.stack([rng.permutation(np.concatenate([np.arange(n_items), np.full(width, -1)]))[:width] for _ in range(n_users)])
    pairs = np.stack([np.arange(n_users).repeat(2), rng.integers(0, n_items, 2 * n_users)])
    targets = targets_of(*pairs, (n_users, n_items))
    slow = [nums[row].tolist().index(item) + 1 if item in nums[row] else 0 for row, item in zip(*targets.nonzero(), strict=True)]
    assert places(nums, targets).tolist() == slow


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=60, max_size=200))
def test_worth_taking_is_the_first_that_suffices(gains):
    curve = np.cumsum([0, *gains]) / max(1, sum(gains))
    n = worth_taking(curve)
    poor = lambda m: m + 25 < len(curve) and (curve[m + 25] - curve[m] < 0.02 * curve[-1] or curve[-1] == 0)
    assert poor(n) or n == len(curve) - 1
    assert not any(poor(m) for m in range(n))


def test_mixtures_are_no_source(judged):
    protocol, scorers, made = judged
    mixed = scorers | {"hybrid": make_hybrid(scorers, SHOP, {"content": 0.5, "two_tower": 0.5}, "hybrid")}
    assert list(audit(protocol, mixed, n=N).found) == list(made.found)


def test_rules_hold_and_a_silent_source_says_why(judged):
    _, scorers, _ = judged
    forbidding = make_protocol(SHOP, USER_IDS, ITEM_NUMS, repeat="forbid")
    made = audit(forbidding, scorers | {"als": Silent().fit(SHOP)}, n=N)
    assert "already bought" in made.missing["repurchase"] and made.missing["als"] == "offers nothing"
    bought = contains(forbidding.exclude, ask(forbidding, scorers["content"]).nums)
    assert not bought.any()


def test_many_users_are_drawn_once(judged):
    protocol, scorers, _ = judged
    some = drawn(protocol, 50, seed=7)
    assert len(some.queries) == some.targets.shape[0] == 50
    rows = np.searchsorted(protocol.queries.user_ids, some.queries.user_ids)
    assert (some.targets != protocol.targets[rows]).nnz == 0
    assert audit(protocol, scorers, n=N, n_users=50).n_users == 50


def test_the_same_again_without_a_clock(judged):
    protocol, scorers, made = judged
    again = audit(protocol, scorers, n=N)
    written = [json.dumps(audit_record(each), allow_nan=False) for each in (made, again)]
    assert written[0] == written[1] and "seconds" not in written[0]
    assert audit_section(made) == audit_section(again) and "1,000 users, this machine" not in audit_section(made).body
    assert len(audit_part(made).columns) == len(audit_part(made, with_seconds=False).columns) + 1
    assert all(seconds > 0 for seconds in made.seconds.values()) and set(made.seconds) == set(made.found)


def test_a_shop_without_any_source_has_an_empty_audit(judged):
    empty = audit(judged[0], {"als": Missing("als", "no factors")}, n=N)
    assert empty == Audit("shop", N, 300, {}, {}, {"als": "no factors"})
    assert empty.together == 0 and audit_record(empty)["n_targets"] == 0 and "no factors" in audit_section(empty).body
