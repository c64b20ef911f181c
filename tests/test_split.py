"""Nothing later than a cutoff is seen before it, however the split is made."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.split import Cutoffs, Span, find_cutoffs, held_out, load_window, read_cutoffs
from recsys.errors import SchemaError, SettingsError, StepError
from recsys.pipeline.events import events
from recsys.pipeline.interactions import interactions
from recsys.pipeline.split import split

DAY = 86_400_000
FIRST = 1_600_000_000_000  # ms, not a midnight


def drawn(folder: Path, n_users: int = 30, n_days: int = 20, seed: int = 7) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = n_users * 12
    return pd.DataFrame({"user_id": rng.integers(0, n_users, n), "item_id": rng.integers(0, 15, n),
                         "timestamp": FIRST + rng.integers(0, n_days * DAY, n), "price": rng.integers(1, 9, n)}).drop_duplicates()  # fmt: skip


def river(folder: Path, sources: dict, window: str = "final", name: str = "table", **dials) -> dict[str, Path]:
    inputs = {}
    for step, call in (("events", lambda out: events({}, out, datasets=[name], sources=sources)), ("split", lambda out: split(inputs, out, **dials)),
                       ("interactions", lambda out: interactions(inputs, out, window=window))):  # fmt: skip
        out = folder / step
        out.mkdir(parents=True)
        call(out)
        inputs[step] = out
    return inputs


@pytest.fixture
def table(tmp_path):
    frame = drawn(tmp_path)
    frame.to_csv(tmp_path / "e.csv", index=False)
    return frame, {"events": tmp_path / "e.csv"}


def ts_of(inputs, part):
    return pd.read_parquet(inputs["split"] / f"{part}_table.parquet")["ts"].astype("int64").to_numpy()


class TestTime:
    def test_parts_are_half_open_and_lose_nothing(self, tmp_path, table):
        frame, sources = table
        inputs = river(tmp_path, sources, test_days=3, valid_days=2)
        cut = read_cutoffs(inputs)["table"]
        assert cut.end_at == frame["timestamp"].max() + 1
        assert (cut.test_at, cut.valid_at) == (cut.end_at - 3 * DAY, cut.end_at - 5 * DAY)
        train, valid, test = (ts_of(inputs, part) for part in ("train", "valid", "test"))
        assert len(train) + len(valid) + len(test) == len(frame)
        assert train.max() < cut.valid_at <= valid.min() and valid.max() < cut.test_at <= test.min()

    def test_an_event_at_the_cutoff_is_behind_it(self, tmp_path):
        rows = [(1, 1, FIRST), (1, 2, FIRST + DAY), (2, 1, FIRST + 2 * DAY), (1, 2, FIRST + 3 * DAY - 1)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
        inputs = river(tmp_path, {"events": tmp_path / "e.csv"}, test_days=1, valid_days=1)
        assert [len(ts_of(inputs, part)) for part in ("train", "valid", "test")] == [1, 1, 2]

    def test_windows_learn_before_their_cutoff(self, tmp_path, table):
        _, sources = table
        inputs = river(tmp_path, sources, test_days=3, valid_days=2)
        (tmp_path / "select").mkdir()
        interactions(inputs, tmp_path / "select", window="select")
        inputs["interactions.select"] = tmp_path / "select"
        cut = read_cutoffs(inputs)["table"]
        for window, at in (("select", cut.valid_at), ("final", cut.test_at)):
            learnt, _, truth = load_window(inputs, "table", window)
            assert learnt.at == at and learnt.past.ts.max() < at
            assert len(truth.user_ids) and truth.indptr[-1] == len(truth.item_nums)

    def test_truth_is_what_was_bought_in_the_window(self, tmp_path, table):
        frame, sources = table
        inputs = river(tmp_path, sources, test_days=3, valid_days=2)
        learnt, _, truth = load_window(inputs, "table")
        late = frame[frame["timestamp"] >= learnt.at]
        expected = {user: set(rows) for user, rows in late.groupby("user_id")["item_id"]}
        found = {int(user): set(learnt.items.ids[truth.item_nums[a:b]].tolist())
                 for user, a, b in zip(truth.user_ids, truth.indptr, truth.indptr[1:], strict=False)}  # fmt: skip
        assert found == expected

    def test_prices_are_those_paid_before_the_cutoff(self, tmp_path, table):
        frame, sources = table
        inputs = river(tmp_path, sources, test_days=3, valid_days=2)
        learnt, catalog, _ = load_window(inputs, "table")
        early = frame[frame["timestamp"] < learnt.at].sort_values("timestamp").groupby("item_id")["price"].last()
        assert {int(i): p for i, p in zip(catalog.items.ids, catalog.prices, strict=True)} == early.astype(float).to_dict()
        cut = read_cutoffs(inputs)["table"]
        oldest = frame[frame["timestamp"] < cut.valid_at].sort_values("timestamp").groupby("item_id")["price"].last()
        written = pd.read_parquet(inputs["split"] / "items_table.parquet").set_index("item_id")["price"]
        assert written.dropna().astype(float).to_dict() == oldest.astype(float).to_dict()

    def test_dates_are_cut_at_midnight(self):
        assert find_cutoffs(Span(0, 9 * DAY, True), "time", test_days=2, valid_days=3) == Cutoffs("time", 5 * DAY, 8 * DAY, 10 * DAY)

    def test_too_many_days_are_refused(self, tmp_path, table):
        with pytest.raises(SettingsError, match="train would be empty"):
            river(tmp_path, table[1], test_days=30)

    def test_an_empty_window_is_refused(self, tmp_path):
        rows = [(1, 1, FIRST), (1, 2, FIRST + 40 * DAY)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
        with pytest.raises(SchemaError, match="valid should hold"):
            river(tmp_path, {"events": tmp_path / "e.csv"})


def test_properties_later_than_the_cutoff_are_not_known(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [f"{FIRST + day * DAY},{user},view,{user % 3},\n" for day in range(20) for user in range(5)]
    (raw / "events.csv").write_text("timestamp,visitorid,event,itemid,transactionid\n" + "".join(rows))
    facts = [(0, "n1.000 77", "790"), (14, "n2.000", "790"), (19, "n3.000", "790"), (0, "3", "categoryid"), (0, "1", "available"), (17, "0", "available")]
    text = "".join(f"{FIRST + day * DAY + 5},1,{name},{value}\n" for day, value, name in facts)
    (raw / "item_properties_part1.csv").write_text("timestamp,itemid,property,value\n" + text)
    (raw / "category_tree.csv").write_text("categoryid,parentid\n3,1\n1,\n")
    inputs = river(tmp_path, {"rr_raw": raw}, name="rr", test_days=3, valid_days=3)
    known = {stem: pd.read_parquet(inputs["split"] / f"{stem}.parquet").set_index("item_id").loc[1] for stem in ("items_rr", "items_rr_select")}
    assert (known["items_rr_select"]["text"], known["items_rr"]["text"]) == ("790_n1 790_77", "790_n2")
    assert known["items_rr"]["category"] == "1 > 3"
    assert json.loads(known["items_rr"]["attributes"]) == {"available": "1"}


class TestLeaveOneOut:
    def test_the_last_event_is_test_and_the_one_before_valid(self, tmp_path, table):
        frame, sources = table
        inputs = river(tmp_path, sources, split="leave_one_out")
        ordered = frame.sort_values(["timestamp", "item_id"])
        for part, place in (("test", -1), ("valid", -2)):
            held = pd.read_parquet(inputs["split"] / f"{part}_table.parquet").set_index("user_id")["item_id"].to_dict()
            assert held == {user: rows.iloc[place] for user, rows in ordered.groupby("user_id")["item_id"] if len(rows) >= 3}

    def test_short_histories_stay_in_train(self, tmp_path):
        rows = [(1, 1, 0), (1, 2, 1), (2, 1, 0), (2, 2, 1), (2, 3, 2)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
        inputs = river(tmp_path, {"events": tmp_path / "e.csv"}, split="leave_one_out")
        assert [len(ts_of(inputs, part)) for part in ("train", "valid", "test")] == [3, 1, 1]
        assert read_cutoffs(inputs)["table"] == Cutoffs("leave_one_out", 3, 3, 3, "order")

    def test_the_last_of_a_tie_is_the_last_of_the_history(self, tmp_path):
        rows = [(1, item, 5) for item in (3, 1, 2, 9)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
        inputs = river(tmp_path, {"events": tmp_path / "e.csv"}, split="leave_one_out")
        learnt, _, truth = load_window(inputs, "table")
        assert learnt.items.ids[truth.item_nums].tolist() == [9]
        assert learnt.items.ids[learnt.past.item_nums].tolist() == [1, 2, 3]

    def test_positions_have_no_days(self, tmp_path):
        pd.DataFrame({"user_id": [1] * 4, "item_id": range(4), "timestamp": range(4)}).to_csv(tmp_path / "e.csv", index=False)
        with pytest.raises(SettingsError, match="leave_one_out"):
            river(tmp_path, {"events": tmp_path / "e.csv"})


class TestFiles:
    def test_test_is_the_given_one_and_valid_a_tenth(self, tmp_path):
        rng = np.random.default_rng(1)
        frame = pd.DataFrame({"user_id": rng.integers(0, 200, 4000), "item_id": rng.integers(0, 100, 4000)}).drop_duplicates()
        frame.iloc[:3000].to_csv(tmp_path / "train.csv", index=False)
        frame.iloc[3000:].to_csv(tmp_path / "test.csv", index=False)
        sources = {part: tmp_path / f"{part}.csv" for part in ("train", "test")}
        inputs = river(tmp_path, sources, split="files")
        sizes = [len(ts_of(inputs, part)) for part in ("train", "valid", "test")]
        assert sizes[0] + sizes[1] == 3000 and sizes[2] == len(frame) - 3000
        assert 0.08 < sizes[1] / 3000 < 0.12
        assert load_window(inputs, "table").interactions.n_events == 3000

    def test_without_files_it_says_what_to_set(self, tmp_path, table):
        with pytest.raises(SettingsError, match="--set train"):
            river(tmp_path, table[1], split="files")

    def test_a_pair_stays_together_and_the_seed_matters(self):
        users, items = np.repeat(np.arange(500), 2), np.repeat(np.arange(500) % 7, 2)
        held = held_out(users, items, 7)
        assert (held[::2] == held[1::2]).all() and (held != held_out(users, items, 8)).any()


def test_the_wrong_window_is_refused(tmp_path, table):
    inputs = river(tmp_path, table[1], window="select", test_days=3, valid_days=2)
    with pytest.raises(StepError, match="select window"):
        load_window(inputs, "table", "final")


def test_the_csv_is_the_folded_matrix(tmp_path, table):
    inputs = river(tmp_path, table[1], test_days=3, valid_days=2)
    learnt = load_window(inputs, "table").interactions
    csv = pd.read_csv(inputs["interactions"] / "interactions_table.csv")
    folded = learnt.matrix().tocoo()
    assert csv["user"].tolist() == folded.coords[0].tolist() and csv["item"].tolist() == folded.coords[1].tolist()
    assert csv["weight"].tolist() == folded.data.tolist()


@pytest.mark.skipif(not os.environ.get("RECSYS_REAL_DATA"), reason="RECSYS_REAL_DATA is not set: no real data to split")
def test_real_hm_test_users(tmp_path):
    inputs = river(tmp_path, {"hm_raw": Path(os.environ["RECSYS_REAL_DATA"]) / "hm_raw"}, name="hm", test_days=2, valid_days=1)
    learnt, _, truth = load_window(inputs, "hm")
    warm = learnt.users.nums(truth.user_ids, missing="negative") >= 0
    assert (len(truth.user_ids), int(warm.sum())) == (20_233, 3_471)
    assert pd.Timestamp(learnt.at, unit="ms") == pd.Timestamp("2020-09-21")
