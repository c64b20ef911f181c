"Each check tells a strategy that behaves from one that does not, and says why where a shop has nothing to check."

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_shop import make_catalog, make_shop

from recsys.data.catalog import Catalog
from recsys.data.interactions import from_events
from recsys.data.schema import DAY_MS, EVENTS, check_table
from recsys.evaluation.behaviour import (
    CHECKS,
    Behaviour,
    behaviour,
    behaviour_record,
    behaviour_section,
    colours,
    for_children,
    in_season,
    latest,
    measured,
    most_of_one,
    nameless,
    product_codes,
    share_of,
    shared,
    twins,
    with_last,
    without_last_basket,
)
from recsys.evaluation.protocol import make_protocol
from recsys.scorers.base import Missing, Scorer

N_USERS, N_PRODUCTS, COLOURS, BASKETS, BASKET = 120, 40, 3, 5, 3
AT = int(pd.Timestamp("2020-07-01").value // 1_000_000)
COLOUR, CHILDREN, SEASON, CROWDED = "another colour", "children and adults", "season", "one product, many colours"


def make(pictures=None):
    "Items in three colours; even products are for children and even users buy them; products from 20 on sell from October to March."
    rng, n = np.random.default_rng(7), N_USERS * BASKETS * BASKET
    users, days = np.repeat(np.arange(N_USERS), BASKETS * BASKET), np.repeat(rng.integers(1, 800, size=N_USERS * BASKETS), BASKET)
    summer = np.isin(pd.to_datetime(AT - days * DAY_MS, unit="ms").month, [4, 5, 6, 7, 8, 9])
    product = 2 * rng.integers(0, N_PRODUCTS // 4, size=n) + users % 2 + np.where(summer, 0, N_PRODUCTS // 2)
    table = {"dataset": ["shop"] * n, "user_id": users + 1, "item_id": COLOURS * product + rng.integers(0, COLOURS, size=n) + 1, "event": ["purchase"] * n,
             "ts": pa.array(AT - days * DAY_MS).cast(pa.timestamp("ms", tz="UTC")), "quantity": np.ones(n, np.int32),
             "price": np.ones(n, np.float32)}  # fmt: skip
    item_ids = np.arange(1, COLOURS * N_PRODUCTS + 1)
    shop, codes = from_events(check_table(pa.table(table), EVENTS, "events"), "shop", {"purchase": 1.0}, AT, item_ids), (item_ids - 1) // COLOURS
    rows = pd.DataFrame({"item_id": item_ids, "dataset": "shop", "raw_id": item_ids.astype(str), "title": "Jumper <b>", "text": None,
                         "category": [f"{('Baby/Children', 'Ladies')[code % 2]} > {('Shorts', 'Coats')[code // 20]}" for code in codes],
                         "product_code": codes.astype(str), "price": np.float32(1), "image": None,
                         "attributes": [f'{{"colour": "{("red", "green", "blue")[num % 3]}"}}' for num in range(len(item_ids))]})  # fmt: skip
    return shop, Catalog(rows, "shop", shop.items, pictures), make_protocol(shop, np.arange(N_USERS) + 1, rng.integers(0, len(item_ids), N_USERS))


SHOP, CATALOG, PROTOCOL = make()
N_ITEMS = SHOP.n_items
PRODUCT = np.arange(N_ITEMS) // COLOURS


class Sensible(Scorer):
    "One item of each product, of the kind that was bought, in season."

    name = "sensible"

    def columns(self, queries, nums):
        owned = queries.matrix(N_ITEMS).toarray().reshape(len(queries), -1, COLOURS).sum(axis=2)
        groups = np.stack([owned[:, 0::2].sum(axis=1), owned[:, 1::2].sum(axis=1)], axis=1)
        scores = groups[:, PRODUCT % 2] * 10 + owned[:, PRODUCT] * 0.1 + (PRODUCT < 20) * 100 - (np.arange(N_ITEMS) % COLOURS) * 1000
        return scores[:, nums].astype(np.float32)


class Confused(Scorer):
    "Any change of the history changes everything; contrary in all else."

    name = "confused"

    def columns(self, queries, nums):
        owned = queries.matrix(N_ITEMS).toarray()
        groups = np.stack([owned[:, half == PRODUCT % 2].sum(axis=1) for half in (0, 1)], axis=1)
        last = queries.past.item_nums[queries.past.indptr[1:] - 1]
        same_last = (last[:, None] % N_ITEMS * 7919 + PRODUCT[nums] * 104729) % 997 / 997  # follows the very item, not its product
        exact = last[:, None] % COLOURS * 400 * (PRODUCT[nums] % COLOURS == last[:, None] % COLOURS)
        return (-groups[:, PRODUCT[nums] % 2] * 10 + same_last + exact + (PRODUCT[nums] >= 20) * 2000).astype(np.float32)


@pytest.fixture(scope="module")
def made() -> Behaviour:
    scorers = {each.name: each().fit(SHOP) for each in (Sensible, Confused)} | {"als": Missing("als", "no factors")}
    return behaviour(PROTOCOL, scorers, CATALOG, SHOP)


def verdict(made: Behaviour, check: str, strategy: str) -> str:
    return next(result.verdict for each in made.checks if each.name == check for result in each.results if result.strategy == strategy)


@pytest.mark.parametrize("check", [COLOUR, "one basket less", CHILDREN, SEASON, CROWDED])
def test_the_sensible_one_passes(made, check):
    assert verdict(made, check, "sensible") == "as expected"


@pytest.mark.parametrize("check", [COLOUR, CHILDREN, SEASON, CROWDED])
def test_the_confused_one_fails(made, check):
    assert verdict(made, check, "confused") == "not as expected"


def test_a_missing_strategy_is_left_out(made):
    assert {result.strategy for check in made.checks for result in check.results} == {"sensible", "confused"}


def test_numbers_are_those_of_a_loop(made):
    "The children's check, recounted for the first strategy from what it lists."
    result = next(check for check in made.checks if check.name == CHILDREN).results[0]
    scorer, queries = Sensible().fit(SHOP), PROTOCOL.queries
    shares = []
    for row in range(len(queries)):
        nums = scorer.top_k(nameless(queries[row : row + 1]), 12, PROTOCOL.allowed).nums[0]
        shares.append(np.mean([PRODUCT[num] % 2 == row % 2 for num in nums]))
    assert result.n_users == N_USERS and result.value == pytest.approx(np.mean(shares), abs=1e-12)


def test_a_shop_without_the_columns_says_why(tmp_path):
    shop, user_ids, item_nums = make_shop()
    found = behaviour(make_protocol(shop, user_ids, item_nums), {"sensible": Twelve().fit(shop)}, make_catalog(shop, tmp_path, pictures=3), shop)
    reasons = {check.name: check.reason for check in found.checks}
    assert "product_code" in reasons[COLOUR] and "product_code" in reasons[CROWDED]
    assert "age group" in reasons[CHILDREN] and "90 days" in reasons[SEASON] and reasons["one basket less"] is None
    assert all(check.results or check.reason for check in found.checks)


class Twelve(Scorer):
    name = "sensible"

    def columns(self, queries, nums):
        return np.tile(-nums.astype(np.float32), (len(queries), 1))


def test_a_shop_of_strangers_says_why():
    nobody = make_protocol(SHOP, np.arange(900, 930), np.arange(30))
    found = behaviour(nobody, {"sensible": Sensible().fit(SHOP)}, CATALOG, SHOP)
    assert len(found.checks) == len(CHECKS) and all(check.reason and not check.results for check in found.checks)
    assert json.dumps(behaviour_record(found), allow_nan=False) and "Not done here" in behaviour_section(found).body


def test_a_silent_strategy_has_no_result_rather_than_a_zero():
    class Silent(Scorer):
        name = "silent"

        def columns(self, queries, nums):
            return np.full((len(queries), len(nums)), np.nan, dtype=np.float32)

    found = behaviour(PROTOCOL, {"silent": Silent().fit(SHOP), "sensible": Sensible().fit(SHOP)}, CATALOG, SHOP)
    assert {result.strategy for check in found.checks for result in check.results} == {"sensible"}


def test_the_same_again_and_safe(made):
    scorers = {each.name: each().fit(SHOP) for each in (Sensible, Confused)}
    again = behaviour(PROTOCOL, scorers, CATALOG, SHOP)
    assert behaviour_record(again) == behaviour_record(made) and behaviour_section(again) == behaviour_section(made)
    assert "Jumper &lt;b&gt;" in behaviour_section(made).body and "Jumper <b>" not in behaviour_section(made).body


def test_all_ask_without_a_name():
    class Known(Sensible):
        def columns(self, queries, nums):
            assert (queries.user_ids == -1).all() and (queries.user_nums == -1).all()
            return super().columns(queries, nums)

    behaviour(PROTOCOL, {"sensible": Known().fit(SHOP)}, CATALOG, SHOP)


def test_another_colour_is_of_the_same_product():
    other, codes, colour = twins(CATALOG), product_codes(CATALOG), colours(CATALOG).to_numpy()
    assert (other >= 0).all() and (codes[other] == codes).all() and (colour[other] != colour).all()
    one = CATALOG.table.copy()
    one["attributes"] = '{"colour": "red"}'  # the same product three times in one colour: in no other
    assert (twins(Catalog(one, "shop", CATALOG.items)) == -1).all()
    one["product_code"] = None
    assert (twins(Catalog(one, "shop", CATALOG.items)) == -1).all()


def test_the_last_basket_is_the_last_moment():
    queries = PROTOCOL.queries[np.arange(20)]
    shorter, swapped = without_last_basket(queries), with_last(queries, np.arange(20))
    for row in range(20):
        times, history = queries.past.ts[queries.past.indptr[row] : queries.past.indptr[row + 1]], queries.history(row)
        assert shorter.history(row).tolist() == history[times < times.max()].tolist()
        assert swapped.history(row).tolist() == [*history[:-1].tolist(), row]
        assert latest(queries)[row].tolist()[: len(set(history))] == list(dict.fromkeys(history[::-1].tolist()))[:12]
    assert queries.past.item_nums is not swapped.past.item_nums and (queries.past.item_nums == PROTOCOL.queries[np.arange(20)].past.item_nums).all()


def test_children_and_season_are_read_from_the_shop():
    assert np.array_equal(for_children(CATALOG), PRODUCT % 2 == 0)
    assert np.array_equal(in_season(SHOP, CATALOG), PRODUCT < 20)
    asked_in = lambda day: in_season(replace(SHOP, at=int(pd.Timestamp(day).value // 1_000_000)), CATALOG)
    assert np.array_equal(asked_in("2020-09-15"), PRODUCT < 20) and np.array_equal(asked_in("2020-11-15"), PRODUCT >= 20)  # August to October; to December


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_lists_are_compared_as_sets_are(n, k, seed):
    rng = np.random.default_rng(seed)
    draw = lambda: np.stack([np.where(np.arange(k) < rng.integers(0, k + 1), rng.permutation(12)[:k], -1) for _ in range(n)])
    a, b, kind, codes = draw(), draw(), rng.random(12) < 0.5, rng.integers(-1, 4, size=12)
    for row in range(n):
        mine, others = [num for num in a[row] if num >= 0], {num for num in b[row] if num >= 0}
        expected = [np.nan] * 3
        if mine:
            held = Counter(codes[num] if codes[num] >= 0 else f"alone {num}" for num in mine)
            expected = [len(set(mine) & others) / len(mine), np.mean([kind[num] for num in mine]), max(held.values())]
        got = [shared(a, b)[row], share_of(a, kind)[row], most_of_one(a, codes)[row]]
        assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_the_verdict_follows_the_interval():
    rng = np.random.default_rng(3)
    control = rng.random(200)
    told = lambda shift, better: measured("als", control + shift + rng.normal(0, 0.1, 200), control, better, seed=7).verdict
    assert [told(0.1, 1), told(-0.1, 1), told(0.1, -1), told(-0.1, -1)] == ["as expected", "not as expected", "not as expected", "as expected"]
    assert measured("als", control + rng.normal(0, 0.1, 200), control, 1, seed=7).verdict == "too close to call"
    assert measured("als", np.full(3, np.nan), np.ones(3), 1, seed=7) is None
