"The benchmarks of searching and judging, in their small form: what they print hangs together; nobody looks at the seconds."

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_our_lists_are_those_of_bare_faiss():
    from topk import compared

    found = compared(300, 2_000, 16, 20)
    assert found.agree > 0.999 and min(found.ours, found.bare, found.limit) > 0


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    from evaluation import evaluated

    return evaluated(150, 600, 500, 6_000, str(tmp_path_factory.mktemp("lists") / "lists.npz"))


def test_all_nine_are_judged_and_every_search_is_timed(evaluated):
    assert set(evaluated["bare"]) == {"als", "content", "two_tower", "als_tower", "item_knn", "popularity"} and evaluated["users"] == 150
    assert all(seconds > 0 for seconds in (*evaluated["bare"].values(), evaluated["ours"], evaluated["metrics"]))
    assert evaluated["numbers"] > 9 * 13 * 5 and evaluated["peak"] >= evaluated["before"] > 0


def test_a_library_is_asked_in_its_own_environment(tmp_path, monkeypatch):
    import evaluation

    np.savez(tmp_path / "lists.npz", nums=np.array([[1, 2], [3, -1]]), rows=np.array([0, 1]), items=np.array([2, 9]))
    monkeypatch.setitem(evaluation.ASKED, "ranx", 'timed("map", lambda: (nums == 2).sum() / 2)')
    monkeypatch.setattr(evaluation, "environment", lambda package, cache: Path(sys.executable))
    said = evaluation.elsewhere("ranx", str(tmp_path / "lists.npz"), tmp_path)
    assert said["map"] == 0.5 and said["seconds"] >= 0 and json.dumps(said)


def test_a_library_that_cannot_be_had_is_skipped_with_a_reason(tmp_path, monkeypatch):
    import evaluation

    monkeypatch.setitem(evaluation.LIBRARIES, "ranx", "no-such-package-here==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = evaluation.elsewhere("ranx", "lists.npz", tmp_path)
    assert isinstance(said, str) and said.startswith("no environment for no-such-package-here")
