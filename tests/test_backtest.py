"""Weeks put together: what is common cancels, what differs by week is not believed for many users alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import StrategyError
from recsys.evaluation.backtest import SLICES, Week, as_json, backtest, backtest_page, draw_weeks, weeks_of, write_backtest


def week(end: str, warm, **values) -> Week:
    "A table as step 14 writes it; `served:` is what is given and 1 for strangers."
    warm = np.asarray(warm)
    served = {f"served:{name}": np.where(warm, each, 1.0) for name, each in values.items()}
    return Week(end, pa.table({"user_id": np.arange(len(warm)), "warm": warm} | {name: np.asarray(each, float) for name, each in values.items()} | served))


def gains(gain_of_week, n=500, noise=0.3, seed=0):
    "Weeks in which `b` is `a` and a gain, users differing by far more than that."
    rng = np.random.default_rng(seed)
    users = [rng.random(n) * noise for _ in gain_of_week]
    return [week(f"2026-01-{7 * n + 7:02}", np.ones(len(a), bool), a=a, b=a + gain) for n, (a, gain) in enumerate(zip(users, gain_of_week, strict=True))]


def test_means_are_those_of_the_slice():
    weeks = [week("2026-01-07", [True, True, False], a=[0.2, 0.4, 0.0]), week("2026-01-14", [True, False, False], a=[0.9, 0.0, 0.0])]
    warm, served = (backtest("shop", weeks, part) for part in SLICES)
    assert warm.means.ravel().tolist() == pytest.approx([0.3, 0.9]) and warm.n_users == (2, 1)
    assert served.means.ravel().tolist() == pytest.approx([1.6 / 3, 2.9 / 3]) and served.n_users == (3, 3)
    assert as_json(warm)["strategies"]["a"]["value"] == pytest.approx(0.6)  # weeks count alike, however many users they have


def test_what_is_common_to_both_cancels():
    found = backtest("shop", gains([0.01, 0.01, 0.01])).compare("b", "a")
    assert (found.difference, found.lo, found.hi) == pytest.approx((0.01, 0.01, 0.01), abs=1e-12)
    assert found.verdict == "above"


def test_weeks_that_disagree_are_not_outvoted_by_users():
    found = backtest("shop", gains([0.05, -0.04], n=20_000)).compare("b", "a")
    assert (found.lo, found.hi) == pytest.approx((-0.04, 0.05), abs=1e-12) and found.verdict == "too close to call"


def test_the_draw_is_that_of_weeks_and_then_users():
    "Its spread is what theory says: the variance between weeks and that within, both over the number of weeks."
    rng = np.random.default_rng(1)
    weeks = [rng.normal(centre, 0.5, size=(200, 1)) for centre in (0.1, 0.15, 0.2, 0.12)]
    means = np.array([each.mean() for each in weeks])
    within = np.mean([each.var() / len(each) for each in weeks])
    drawn = draw_weeks(weeks, [np.arange(200)] * 4, n_draws=20_000)
    assert drawn.mean() == pytest.approx(means.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(np.sqrt((means.var() + within) / 4), rel=0.03)
    assert drawn.std() > 1.05 * np.sqrt(means.var() / 4)


def test_rows_of_one_user_are_drawn_together():
    "Sessions ask several questions: ten copies of a row are not ten users."
    values = np.random.default_rng(2).random((50, 1))
    alone = draw_weeks([values, values], [np.arange(50)] * 2)
    copies = draw_weeks([np.repeat(values, 10, axis=0)] * 2, [np.repeat(np.arange(50), 10)] * 2)
    assert copies.std() == pytest.approx(alone.std(), rel=1e-9)


def test_the_seed_decides():
    weeks = gains([0.01, 0.0, 0.02])
    one, again, other = (backtest("shop", weeks, seed=seed).draws for seed in (7, 7, 8))
    assert (one == again).all() and (one != other).any()


def test_what_is_not_in_every_week_is_left_out_and_named():
    weeks = [week("2026-01-07", [True] * 3, a=[1, 0, 0], b=[0, 0, 1]), week("2026-01-14", [True] * 3, a=[1, 0, 0])]
    found = backtest("shop", weeks)
    assert (found.strategies, found.partial) == (("a",), ("b",))
    assert "b has no value in some weeks" in backtest_page([found]).markdown()


def test_a_week_of_strangers_is_passed_over_and_none_is_refused():
    weeks = [week("2026-01-07", [False] * 3, a=[0, 0, 0]), week("2026-01-14", [True] * 3, a=[1, 0, 0])]
    assert backtest("shop", weeks).ends == ("2026-01-14",)
    with pytest.raises(StrategyError, match="got none in 1; take longer test windows"):
        backtest("shop", weeks[:1])


def test_the_page_says_draws_and_escapes():
    found = backtest("<shop>", gains([0.01, 0.02, 0.0, 0.01]))
    html = backtest_page([found]).html()
    assert html.count("<polyline") == 2 and html.count("<circle") == 8
    assert "<shop>" not in html and "over 4 weeks" in html and "b is above a by" in html


class FakeRun:
    "The artifacts of a run, as far as a backtest reads them."

    def __init__(self, folder, end_at, table):
        self.folder = folder
        (folder / "evaluate").mkdir(parents=True)
        (folder / "split").mkdir()
        (folder / "split" / "cutoffs.json").write_text(json.dumps({"shop": {"end_at": end_at}}))
        pq.write_table(table, folder / "evaluate" / "users_shop.parquet")

    def artifact(self, name):
        return self.folder / name


def test_runs_become_weeks_named_by_their_last_day(tmp_path):
    day = 86_400_000
    runs = [FakeRun(tmp_path / str(n), (20_000 + 7 * n) * day, one.table) for n, one in enumerate(gains([0.01, 0.02]))]
    assert [one.end for one in weeks_of(runs)["shop"]] == ["2024-10-03", "2024-10-10"]
    write_backtest(runs, tmp_path)
    found = json.loads((tmp_path / "backtest.json").read_text())
    assert [(one["slice"], one["comparisons"][0]["strategy"]) for one in found] == [("warm", "b"), ("served", "b")]
    assert "2024-10-10" in (tmp_path / "backtest.html").read_text()


@pytest.mark.slow
def test_two_weeks_of_the_tiny_shop(tmp_path):
    from conftest import recsys

    from recsys.runs import list_runs

    done = recsys("backtest", "tiny", "--weeks", "2", "--set", f"runs_dir={tmp_path}", "--set", "test_days=5", "--set", "datasets=hm")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = list_runs(tmp_path, "tiny")
    assert [run.record["settings"]["weeks_back"] for run in runs] == [1, 0]
    warm = json.loads((runs[-1].folder / "backtest.json").read_text())[0]
    ends = [np.datetime64(one["end"]) for one in warm["weeks"]]
    assert ends[1] - ends[0] == np.timedelta64(5, "D")
    assert {"popularity", "item_knn", "hybrid"} <= set(warm["strategies"])
