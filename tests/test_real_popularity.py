"""The evaluator held against plain loops over the raw csv, on the real H&M days: popularity, whose figure is known, and random."""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.data.interactions import from_events
from recsys.evaluation.protocol import judge, make_protocol
from recsys.scorers.popularity import PopularityScorer

CUT, K = "2020-09-21", 12


@pytest.fixture(scope="module")
def bought(real_data) -> pd.DataFrame:
    table = pd.read_csv(real_data / "hm_raw" / "transactions_train.csv", dtype={"article_id": str, "customer_id": str})
    return table.assign(item=("2" + table["article_id"]).astype(np.int64), user=[int(text[:13], 16) for text in table["customer_id"]])


def in_loops(bought: pd.DataFrame) -> tuple[float, float, int, int]:
    "MAP@12 of the most bought items of the last seven days, for customers known before and for everybody, and how many they are."
    before, after = bought[bought["t_dat"] < CUT], bought[bought["t_dat"] >= CUT]
    week, ever = Counter(before.loc[before["t_dat"] >= "2020-09-14", "item"]), Counter(before["item"])
    listed = sorted(week, key=lambda item: (-week[item], -ever[item], item))[:K]
    taken, known = defaultdict(set), set(before["user"])
    for user, item in zip(after["user"], after["item"], strict=True):
        taken[user].add(item)
    values = {}
    for user, items in taken.items():
        hits, found = 0, 0.0
        for place, item in enumerate(listed, 1):
            if item in items:
                hits += 1
                found += hits / place
        values[user] = found / min(K, len(items))
    warm = [value for user, value in values.items() if user in known]
    return float(np.mean(warm)), float(np.mean(list(values.values()))), len(warm), len(values)


def test_popularity_is_that_of_loops_over_the_csv(bought):
    before, after = bought[bought["t_dat"] < CUT], bought[bought["t_dat"] >= CUT]
    n, ts = len(before), pa.array(pd.to_datetime(before["t_dat"]).to_numpy("datetime64[ms]"), pa.timestamp("ms", tz="UTC"))
    events = pa.table({"dataset": ["shop"] * n, "user_id": before["user"].to_numpy(), "item_id": before["item"].to_numpy(), "event": ["purchase"] * n,
                       "ts": ts, "quantity": np.ones(n, np.int32), "price": before["price"].to_numpy()})  # fmt: skip
    items = np.unique(bought["item"])
    shop = from_events(events, "shop", {"purchase": 1.0}, int(pd.Timestamp(CUT).timestamp() * 1000), item_ids=items)
    protocol = make_protocol(shop, after["user"].to_numpy(), np.searchsorted(items, after["item"]))
    rows = judge(protocol, {"popularity": PopularityScorer().fit(shop)}).rows
    found = {(row["strategy"], row["slice"]): row for row in rows if row["metric"] == "map" and row["k"] == K}
    warm, everybody, n_warm, n_all = in_loops(bought)
    assert (n_warm, n_all) == (3_471, 20_233)
    assert found["popularity", "warm"]["value"] == pytest.approx(warm, abs=1e-9) and found["popularity", "all"]["value"] == pytest.approx(everybody, abs=1e-9)
    assert round(warm, 4) == 0.0086  # known of these days
    assert found["random", "all"]["value"] < 0.1 * everybody
