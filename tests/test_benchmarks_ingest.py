"The benchmarks of ingest and growth in their small form: they measure what they say, and their verdict can fail."

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
growth, ingest = pytest.importorskip("growth"), pytest.importorskip("ingest")


def test_ingest_small(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ingest, "python_with", lambda package: None)  # no network in tests
    found = ingest.main([str(tmp_path / "drawn"), "--customers", "300", "--articles", "120", "--transactions", "6000"])
    assert set(found) == {"the file's bytes, read once", "DuckDB counts its rows", "recsys run --only events", "the step alone", "pandas, pyarrow engine"}
    assert all(one.seconds > 0 for one in found.values()) and found["recsys run --only events"].peak > 2**25  # the shortest end before they are looked at
    assert found["the file's bytes, read once"].seconds < found["recsys run --only events"].seconds
    assert "6000" in found["DuckDB counts its rows"].said
    assert "x peer" in capsys.readouterr().out


def test_a_command_that_fails_says_so():
    with pytest.raises(SystemExit, match="oh no"):
        ingest.timed([sys.executable, "-c", "raise SystemExit('oh no')"])


def test_peak_memory_is_the_childs():
    large = ingest.timed([sys.executable, "-c", "import time; x = b'1' * (600 << 20); time.sleep(1)"])
    assert 600 << 20 < large.peak < 660 << 20


def test_growth_small(tmp_path, capsys):
    growth.main(["--shares", "0.0003", "0.0006", "--steps", "events", "split", "--folder", str(tmp_path)])  # too small for its verdict to mean anything
    said = capsys.readouterr().out
    assert "events" in said and "split" in said and "faster" in said


def cost(power: float) -> list[dict[str, growth.Cost]]:
    return [{"step": growth.Cost(n, 2 * (n / 1000) ** power, 100.0)} for n in (1_000, 10_000, 100_000)]


@pytest.mark.parametrize(("power", "fine"), [(0.5, True), (1.0, True), (1.3, False), (2.0, False)])
def test_the_verdict(power, fine):
    fits = growth.fitted(cost(power))
    assert fits["step"] == (pytest.approx(power), pytest.approx(0, abs=1e-9))
    assert growth.show(cost(power), fits) is fine
