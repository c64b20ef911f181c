"The benchmark of the towers in its small form: it measures what it says."

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
towers = pytest.importorskip("towers")
SMALL = towers.Size(users=400, items=900, events=4000, dims=32, batches=3)


def test_towers_small(capsys):
    found = towers.main([word for name, value in SMALL._asdict().items() for word in (f"--{name}", str(value))])
    assert list(found) == ["our training loop", "a plain step", "the matrix products alone"]
    assert all(one.said["pairs"] > 0 and one.said["seconds"] > 0 and one.peak > 2**20 for one in found.values())
    own, plain, bare = (one.said["pairs"] / one.said["seconds"] for one in found.values())
    assert bare > own and plain > 0  # nothing is faster than a part of it
    assert "x plain" in capsys.readouterr().out


def test_the_drawn_shop_is_as_large_as_asked_and_has_groups():
    shop = towers.draw_shop(SMALL)
    past = shop.interactions.past
    assert abs(len(past.ts) - SMALL.events) < 0.1 * SMALL.events and shop.vectors.shape == (900, 32)
    assert len(towers.draw_shop(SMALL, last_days=7).interactions.past.ts) < len(past.ts)
    unit = shop.vectors / np.linalg.norm(shop.vectors, axis=1, keepdims=True)
    apart = np.random.default_rng(0).permutation(len(past.ts))
    likeness = lambda order: (unit[past.item_nums[:-1]] * unit[past.item_nums[order][1:]]).sum(axis=1).mean()
    assert likeness(np.arange(len(past.ts))) > 2 * likeness(apart)  # neighbours in a history are alike


def test_recall_small():
    found = towers.drawn_against_all(SMALL, max_pairs=1500, epochs=1, all_epochs=1, n_asked=50)
    assert 0 <= found["all"] <= 1 and found["difference"] == pytest.approx(found["draw"] - found["all"]) and found["margin"] >= 0
