"""Nothing later than a cutoff is seen before it, however the split is made."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recsys.data.schema import EVENTS
from recsys.data.sessions import AGAIN, OTHER, RARE, SHORT, UNKNOWN, Rules, as_sessions, prefixes
from recsys.data.split import held_out
from recsys.data.windows import Cutoffs, Span, find_cutoffs, load_window, read_cutoffs
from recsys.errors import LeakError, SchemaError, SettingsError, StepError
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

    def test_the_same_bytes_every_time(self, tmp_path):
        frame = drawn(tmp_path, n_users=3000)
        made = []
        for turn, rows in enumerate((frame, frame, frame.sample(frac=1, random_state=3))):
            (folder := tmp_path / str(turn)).mkdir()
            rows.to_csv(folder / "e.csv", index=False)
            inputs = river(folder, {"events": folder / "e.csv"}, split="leave_one_out")
            made.append([(inputs["split"] / f"{part}_table.parquet").read_bytes() for part in ("train", "valid", "test")])
        assert all(one == made[0] for one in made)

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


HOUR = 3_600_000
LOG = [  # visitor, item, event, hours since FIRST: two days of train, then a day of valid, then a day of test
    (1, 10, "view", 0), (1, 10, "view", 0.1), (1, 11, "view", 0.2), (1, 10, "view", 0.3), (1, 12, "purchase", 0.35),  # session 0: 10 11 10
    (1, 11, "view", 1.3), (1, 12, "view", 2.3),  # a pause of exactly an hour does not end it
    (1, 10, "view", 5.0),  # alone
    (2, 12, "view", 3.0), (2, 12, "view", 3.1),  # one after the repeat
    (2, 11, "view", 40.0), (2, 12, "view", 40.5), (2, 99, "view", 41.0),  # 99 is rare
    (3, 99, "view", 42.0), (3, 10, "view", 42.5),  # alone without 99
    (4, 10, "view", 47.9), (4, 12, "view", 48.3), (4, 11, "view", 48.5),  # begins in train, ends in valid
    (5, 11, "view", 60.0), (5, 20, "view", 60.1), (5, 20, "view", 63.0), (5, 10, "view", 63.5),  # 20 is new: it leaves 60.0 alone; 63: alone
    (6, 10, "view", 80.0), (6, 11, "view", 80.1), (6, 10, "view", 80.2),
    (7, 20, "view", 81.0), (7, 21, "view", 81.1), (7, 12, "view", 81.2), (7, 21, "view", 82.0),  # 20 was seen in valid, 21 never
    (8, 10, "view", 95.9), (8, 12, "view", 96.0),
]  # fmt: skip


class TestSessions:
    @pytest.fixture
    def log(self, tmp_path):
        frame = pd.DataFrame(LOG, columns=["user_id", "item_id", "event", "hour"])
        frame["timestamp"] = (FIRST + frame.pop("hour") * HOUR).round().astype("int64")
        frame.sample(frac=1, random_state=3).to_csv(tmp_path / "e.csv", index=False)
        return {"events": tmp_path / "e.csv"}

    def dials(self, **more):
        return {"split": "sessions", "test_days": 1, "valid_days": 1, "min_item_events": 3} | more

    def test_every_number_is_known_by_hand(self, tmp_path, log):
        inputs = river(tmp_path, log, **self.dials(min_item_events=2))
        (tmp_path / "again").mkdir()
        summary = split(inputs, tmp_path / "again", **self.dials(min_item_events=2))["table"]
        cut = read_cutoffs(inputs)["table"]
        assert (cut.kind, cut.test_at - FIRST, cut.valid_at - FIRST) == ("sessions", 72 * HOUR + 1, 48 * HOUR + 1)
        assert summary["dropped"] == {OTHER: 1, AGAIN: 2, SHORT: 2, RARE: 0}
        assert {part: summary[part] for part in ("train", "valid", "test")} == {"train": 10, "valid": 7, "test": 9}
        assert summary["asked"] == {"select": {"questions": 2, UNKNOWN: 2, SHORT: 2}, "final": {"questions": 4, UNKNOWN: 2, SHORT: 0}}
        assert sum(summary["dropped"].values()) + sum(summary[part] for part in ("train", "valid", "test")) == len(LOG)

    def test_rare_items_go_and_what_is_then_alone_goes_too(self, tmp_path, log):
        inputs = river(tmp_path, log, **self.dials())
        summary = split(inputs, tmp_path / "split", **self.dials())["table"]
        assert summary["dropped"] == {OTHER: 1, AGAIN: 2, SHORT: 2 + 1 + 0, RARE: 2 + 2}
        kept = pd.concat([pd.read_parquet(inputs["split"] / f"{part}_table.parquet") for part in ("train", "valid", "test")])
        assert 99 not in set(kept["item_id"]) and kept.groupby("user_id").size().min() >= 2

    def test_a_session_lies_where_it_ends_and_is_nobody(self, tmp_path, log):
        inputs = river(tmp_path, log, **self.dials(min_item_events=2))
        parts = {part: pd.read_parquet(inputs["split"] / f"{part}_table.parquet") for part in ("train", "valid", "test")}
        sessions = {part: set(rows["user_id"]) for part, rows in parts.items()}
        assert not (sessions["train"] & sessions["valid"] or sessions["valid"] & sessions["test"])
        assert min(min(ids) for ids in sessions.values()) > 8  # no session has a visitor's id, and with it his attributes
        crossing = parts["valid"].sort_values("ts").iloc[:3]
        assert crossing["item_id"].tolist() == [10, 12, 11] and crossing["user_id"].nunique() == 1

    def test_every_prefix_asks_for_the_next_item(self, tmp_path, log):
        window = load_window(river(tmp_path, log, **self.dials(min_item_events=2)), "table")
        truth, queries, ids = window.truth, window.queries(), window.interactions.items.ids
        asked = [(ids[queries.history(row)].tolist(), int(ids[truth.item_nums[row]])) for row in range(len(queries))]
        assert asked == [([10], 11), ([10, 11], 10), ([20], 12), ([10], 12)]
        assert truth.rows.tolist() == [0, 1, 2, 3] and queries.user_ids.tolist() == truth.user_ids.tolist()
        assert len(set(truth.user_ids.tolist())) == 3 and (queries.user_nums == -1).all()
        last = queries.past.ts[queries.past.indptr[1:] - 1]
        assert (queries.at == last + 1).all()
        assert queries.ages().min() > 0

    def test_given_kinds_and_positions(self, tmp_path, log):
        with pytest.raises(SettingsError, match="session_events should be some of view, purchase"):
            river(tmp_path / "a", log, **self.dials(session_events=["cart"]))
        rows = pd.DataFrame({"user_id": [1] * 4, "item_id": range(4), "timestamp": range(4)})
        rows.to_csv(tmp_path / "p.csv", index=False)
        with pytest.raises(SettingsError, match="positions"):
            river(tmp_path / "b", {"events": tmp_path / "p.csv"}, **self.dials())

    def test_nothing_to_ask_is_refused(self, tmp_path):
        rows = [(user, item, FIRST + user * 10 * HOUR + item) for user in range(11) for item in (2 * user, 2 * user + 1)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "e.csv", index=False)
        with pytest.raises(SchemaError, match="seen before it"):
            river(tmp_path, {"events": tmp_path / "e.csv"}, **self.dials(min_item_events=1))


def slow_sessions(rows, gap, least):
    "The published steps, event by event."
    found, last = [], {}
    for user, ts, item in sorted(rows):
        if user not in last or ts - last[user] > gap:
            found.append([])
        last[user] = ts
        found[-1].append(item)
    found = [[item for n, item in enumerate(one) if not n or one[n - 1] != item] for one in found]
    found = [one for one in found if len(one) > 1]
    counts = pd.Series([item for one in found for item in one]).value_counts()
    return [kept for one in found if len(kept := [item for item in one if counts[item] >= least]) > 1]


@examples(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=60, unique=True),
       st.integers(1, 6), st.integers(1, 4))  # fmt: skip
def test_sessions_are_those_found_event_by_event(rows, gap_minutes, least):
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    user, minute, item = zip(*shuffled, strict=True)
    n = len(rows)
    events = pa.table([["s"] * n, user, item, ["view"] * n, pa.array([FIRST + m * 60_000 for m in minute]).cast(EVENTS.field("ts").type), [1] * n,
                       [None] * n], schema=EVENTS)  # fmt: skip
    made, dropped = as_sessions(events, Rules(gap_minutes, (), least))
    frame = made.to_pandas()
    assert [group["item_id"].tolist() for _, group in frame.groupby("user_id")] == slow_sessions(rows, gap_minutes, least)
    assert len(made) + sum(dropped.values()) == n


@examples(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 4))
def test_a_prefix_is_what_came_before(lengths, longest):
    from recsys.data.interactions import Histories

    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n = int(indptr[-1])
    asked = prefixes(Histories(indptr, np.arange(n, dtype=np.int32), np.arange(n), np.zeros(n, np.int8), np.ones(n, np.float32)), longest)
    expected = [(session, place, list(range(max(start, place - longest), place))) for session, start in enumerate(indptr[:-1])
                for place in range(start + 1, indptr[session + 1])]  # fmt: skip
    found = [asked.past.item_nums[a:b].tolist() for a, b in zip(asked.past.indptr, asked.past.indptr[1:], strict=False)]
    assert list(zip(asked.rows.tolist(), asked.places.tolist(), found, strict=True)) == expected


class TestWeeksBack:
    def test_the_end_moves_and_what_is_later_is_left_out(self, tmp_path, table):
        frame, sources = table
        inputs = river(tmp_path, sources, test_days=3, valid_days=2, weeks_back=2)
        cut, end = read_cutoffs(inputs)["table"], frame["timestamp"].max() + 1 - 6 * DAY
        assert (cut.end_at, cut.test_at) == (end, end - 3 * DAY)
        (tmp_path / "again").mkdir()
        counts = split(inputs, tmp_path / "again", test_days=3, valid_days=2, weeks_back=2)["table"]
        late = int((frame["timestamp"] >= end).sum())
        assert counts["dropped"] == {"after the end": late} and counts["train"] + counts["valid"] + counts["test"] == len(frame) - late
        assert ts_of(inputs, "test").max() < end

    def test_windows_follow_each_other(self, tmp_path, table):
        cuts = [read_cutoffs(river(tmp_path / str(back), table[1], test_days=3, valid_days=2, weeks_back=back))["table"] for back in (0, 1)]
        assert cuts[1].end_at == cuts[0].test_at

    def test_too_far_back_and_splits_without_time_are_refused(self, tmp_path, table):
        with pytest.raises(SettingsError, match="5 test windows further back"):
            river(tmp_path / "a", table[1], test_days=3, valid_days=2, weeks_back=5)
        with pytest.raises(SettingsError, match="weeks_back"):
            river(tmp_path / "b", table[1], split="leave_one_out", weeks_back=1)


class TestSentinelAtTheDoor:
    def test_a_judged_event_in_train_is_found(self, tmp_path, table):
        inputs = river(tmp_path, table[1], test_days=3, valid_days=2)
        path = inputs["split"] / "test_table.parquet"
        test, train = pd.read_parquet(path), pd.read_parquet(inputs["split"] / "train_table.parquet")
        pq.write_table(pa.Table.from_pandas(pd.concat([test, train.iloc[5:6]]), schema=EVENTS, preserve_index=False), path)
        with pytest.raises(LeakError, match="1 of .* are, e.g. user"):
            load_window(inputs, "table")

    def test_a_part_that_is_not_in_time_is_found(self, tmp_path, table):
        inputs = river(tmp_path, table[1], test_days=3, valid_days=2)
        (inputs["split"] / "valid_table.parquet").write_bytes((inputs["split"] / "test_table.parquet").read_bytes())
        with pytest.raises(LeakError, match="valid"):
            load_window(inputs, "table")


ODD = {
    "few items": [(f"u{user}", f"i{(user + n) % 3}", n // 2) for user in range(8) for n in range(6)],  # ties in time, repeats
    "single events": [(f"visitor {user}", f"art-{user % 7}", user) for user in range(60)] + [("regular", f"art-{n}", n) for n in range(5)],
    "all at once": [(user, item, 5) for user in range(6) for item in range(4)] + [(0, 0, 5)],  # one moment, one row twice
}


class TestOddShops:
    @pytest.mark.parametrize("name", ODD)
    def test_leave_one_out_without_a_special_case(self, tmp_path, name):
        frame = pd.DataFrame(ODD[name], columns=["user_id", "item_id", "timestamp"])
        frame.to_csv(tmp_path / "e.csv", index=False)
        inputs = self.both_windows(tmp_path, {"events": tmp_path / "e.csv"}, split="leave_one_out")
        things = frame.drop_duplicates().groupby("user_id").size()
        truth = load_window(inputs, "table").truth
        assert len(truth.user_ids) == int((things >= 3).sum()) and (np.diff(truth.indptr) == 1).all()
        self.examine(inputs)

    @pytest.mark.parametrize("name", ODD)
    def test_given_files_without_a_special_case(self, tmp_path, name):
        frame = pd.DataFrame(ODD[name], columns=["user_id", "item_id", "timestamp"]).drop_duplicates(["user_id", "item_id"])
        test = frame.groupby("user_id").tail(1).iloc[::2]
        frame.drop(test.index)[["user_id", "item_id"]].to_csv(tmp_path / "train.csv", index=False)
        test[["user_id", "item_id"]].to_csv(tmp_path / "test.csv", index=False)
        inputs = self.both_windows(tmp_path, {part: tmp_path / f"{part}.csv" for part in ("train", "test")}, split="files")
        assert len(load_window(inputs, "table").truth.user_ids) == test["user_id"].nunique()
        self.examine(inputs)

    @pytest.mark.parametrize("name", ODD)
    def test_sessions_without_a_special_case(self, tmp_path, name):
        frame = pd.DataFrame(ODD[name], columns=["user_id", "item_id", "timestamp"])
        again = [frame.assign(timestamp=FIRST + frame["timestamp"] * 60_000 + shift * DAY) for shift in (0, 2, 4)]
        pd.concat(again).to_csv(tmp_path / "e.csv", index=False)
        inputs = self.both_windows(tmp_path, {"events": tmp_path / "e.csv"}, split="sessions", test_days=1, valid_days=2, min_item_events=2)
        assert len(load_window(inputs, "table").queries()) > 0
        self.examine(inputs)

    def both_windows(self, folder, sources, **dials):
        inputs = river(folder, sources, **dials)
        (folder / "select").mkdir()
        interactions(inputs, folder / "select", window="select")
        return inputs | {"interactions.select": folder / "select"}

    def examine(self, inputs):
        from recsys.recommend import select_exam

        exam = select_exam(inputs, "table")
        rows = exam.targets.nonzero()[0]
        assert exam.targets.shape == (len(exam.queries), exam.interactions.n_items) and len(rows)
        assert (np.diff(exam.targets.indptr) > 0).all() and exam.interactions.past.ts.max(initial=-1) < exam.interactions.at


def test_one_item_at_one_moment_is_not_torn_apart(tmp_path):
    rows = [(1, 1, 0, 5.0), (1, 2, 1, 5.0), (1, 3, 2, 5.0), (1, 3, 2, 7.0)]  # the last thing was bought at two prices
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "price"]).to_csv(tmp_path / "e.csv", index=False)
    inputs = river(tmp_path, {"events": tmp_path / "e.csv"}, split="leave_one_out")
    assert [len(ts_of(inputs, part)) for part in ("train", "valid", "test")] == [1, 1, 2]
    assert load_window(inputs, "table").truth.item_nums.tolist() == [2]


@pytest.mark.skipif(not os.environ.get("RECSYS_REAL_DATA"), reason="RECSYS_REAL_DATA is not set: no real data to split")
def test_real_hm_test_users(tmp_path):
    inputs = river(tmp_path, {"hm_raw": Path(os.environ["RECSYS_REAL_DATA"]) / "hm_raw"}, name="hm", test_days=2, valid_days=1)
    learnt, _, truth = load_window(inputs, "hm")
    warm = learnt.users.nums(truth.user_ids, missing="negative") >= 0
    assert (len(truth.user_ids), int(warm.sum())) == (20_233, 3_471)
    assert pd.Timestamp(learnt.at, unit="ms") == pd.Timestamp("2020-09-21")
