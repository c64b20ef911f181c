"What a run will cost, from what finished steps cost."

import math

import numpy as np
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from recsys import cli, forecast, store
from recsys.cards import forecast_part
from recsys.errors import StepError
from recsys.forecast import DRIVERS, Cost, Sizes, fit_line, fit_power, fits, forecast_for, forecast_step, full_sizes, shop_sizes
from recsys.runner import RIVER
from recsys.runs import new_run
from recsys.settings import Settings, load_settings
from recsys.store import write_json

SETTINGS = Settings(datasets=["shop"]).model_dump(mode="json")


def test_every_step_has_a_driver_with_a_reason():
    assert set(DRIVERS) == {step.name for step in RIVER}
    for driver in DRIVERS.values():
        assert driver.size in Sizes.__dataclass_fields__ and driver.why
        assert set(driver.times) | set(driver.alike) <= set(SETTINGS)


@pytest.mark.parametrize("seed", range(20))
def test_a_line_is_found_in_noise_and_never_negative(seed):
    rng = np.random.default_rng(seed)
    sizes = np.array([1e3, 5e3, 2e4, 1e5])
    costs = (3 + 2e-3 * sizes) * rng.uniform(0.9, 1.1, 4)
    costs[rng.integers(3)] *= 4  # a busy machine
    line = fit_line(list(zip(sizes, costs, strict=True)))
    assert min(line.base, line.slope) >= 0
    assert line.at(1e6) == pytest.approx(2003, rel=0.25)


@pytest.mark.parametrize("power", [0.0, 0.2, 0.7, 1.0])
def test_a_power_is_found(power):
    found = fit_power([(size, 100 * size**power) for size in (10, 1000, 50_000)])
    assert (found.slope, found.power) == (pytest.approx(100), pytest.approx(power))


@pytest.mark.parametrize("points", [[(0, 5.0)], [(0, 5.0), (0, 7.0)], [(0, 5.0), (10, 6.0)], [(10, 0.0)], [(10, 8.0), (20, 1.0)]])
def test_odd_measurements_give_a_finite_curve(points):
    for curve in (fit_line(points), fit_power([(size, 1 + cost) for size, cost in points])):  # no process needs no memory
        assert all(math.isfinite(curve.at(size)) and curve.at(size) >= 0 for size in (1, 10, 1e6))


def test_more_epochs_take_longer_but_no_more_memory():
    cost = Cost("two_tower", Sizes(events=1e4), SETTINGS | {"tower_epochs": 3}, 63.0, 3.0, 800, 1000)
    three, six = (forecast_step("two_tower", [cost], Sizes(events=1e4), SETTINGS | {"tower_epochs": n}) for n in (3, 6))
    assert (three.seconds, six.seconds) == (63, 123)
    assert three.peak_mb == six.peak_mb == 800


def test_a_step_is_measured_with_the_same_kind_of_work():
    slow = Cost("als", Sizes(events=1e4), SETTINGS | {"als_engine": "spark"}, 100.0, 0.0, 900, 0)
    quick = Cost("als", Sizes(events=1e4), SETTINGS, 10.0, 0.0, 200, 0)
    assert forecast_step("als", [slow, quick], Sizes(events=1e4), SETTINGS).seconds == 10
    assert forecast_step("als", [slow], Sizes(events=1e4), SETTINGS).seconds == 100  # better than nothing
    assert forecast_step("als", [], Sizes(events=1e4), SETTINGS) is None


def test_a_shop_without_pictures_tells_nothing_of_one_with_some():
    costs = [Cost("image_embeddings", Sizes(images=n), SETTINGS, seconds, 1.0, 100, 0) for n, seconds in ((0, 1.0), (100, 11.0))]
    assert forecast_step("image_embeddings", costs, Sizes(images=1000), SETTINGS).seconds == pytest.approx(101)
    assert forecast_step("image_embeddings", costs, Sizes(), SETTINGS).seconds == pytest.approx(1)


def test_a_finished_run_forecasts_itself(tiny):
    settings = load_settings("tiny", {"runs_dir": str(tiny.folder.parent.parent)}, ROOT / "settings.ini")
    expected, record = forecast_for(settings), tiny.record
    assert expected.seconds == pytest.approx(sum(step["seconds"] for step in record["steps"]), rel=0.1)
    assert expected.heaviest.peak_mb == pytest.approx(max(step["peak_mb"] for step in record["steps"]), rel=0.05)
    assert "1 size: rough" in str(expected) and not expected.unknown
    sizes = shop_sizes(tiny)
    assert [sizes[shop].events > 0 and sizes[shop].judged > 0 for shop in settings.datasets] == [True, True]


def test_the_whole_data_set_is_forecast_where_the_shop_says_its_size(tmp_path):
    full = {"events": 4000, "items": 50, "users": 700, "images": 40}
    runs = []
    for about in ({"text_kind": "natural", "full_size": full}, {"text_kind": "natural"}):
        run = new_run(tmp_path, "mine", SETTINGS)
        account = {"files": {"sales.csv": {"rows": 110, "kept": 100}}, "events": 100, "items": 5, "users": 9, "items_with_image": 4}
        key = f"k{len(runs)}"
        with run.store.staging("events", key) as staged:
            write_json({"shop": account}, staged / "accounting.json")
            write_json({"shop": about | {"title": "A shop"}}, staged / "datasets.json")
            run.store.commit(staged, "events", key, {"name": "events", "made_from": {"parameters": {}}})
        run.write(status="finished", steps=[{"name": "events", "step": "events", "key": key, "status": "done", "seconds": 11.0, "startup_seconds": 1.0,
                                             "peak_mb": 200}])  # fmt: skip
        runs.append(run)
    assert full_sizes(runs[0]) == Sizes(rows=4400, events=4000, items=50, users=700, images=40, texts=50, judged=0)
    assert full_sizes(runs[1]) is None
    expected = forecast.forecast(runs, full_sizes(runs[0]), SETTINGS)
    assert expected.steps[0].seconds == pytest.approx(401) and "never measured: split" in str(expected)
    assert forecast_part(runs[0]).sentences[0].startswith("The whole of A shop on this machine: about 7 min")
    assert not forecast_part(runs[1]).sentences


def test_nothing_measured_is_no_forecast(tmp_path):
    assert forecast_for(load_settings("tiny", {"runs_dir": str(tmp_path)}, ROOT / "settings.ini")) is None


def test_what_cannot_fit_is_refused_before_it_starts(tiny, monkeypatch):
    monkeypatch.setattr(forecast, "machine_memory", lambda: 100 * 2**20)
    monkeypatch.setattr("recsys.runner.run_river", lambda *words: 1 / 0)  # it started
    words = ["run", "tiny", "--set", f"runs_dir={tiny.folder.parent.parent}", "--settings", str(ROOT / "settings.ini")]
    refused = CliRunner().invoke(cli.app, words).exception
    assert isinstance(refused, StepError) and "this machine has 100 MB" in str(refused) and "--anyway" in str(refused)
    started = CliRunner().invoke(cli.app, [*words, "--anyway"])
    assert isinstance(started.exception, ZeroDivisionError)


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1048576\n")
    monkeypatch.setattr(store, "LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    assert store.machine_memory() == 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert store.machine_memory() > 2**20
    fits(forecast.Forecast((forecast.StepForecast("als", 1, 0.5, 0, 1, 1),)), memory=2**20)
