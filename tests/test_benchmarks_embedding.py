"The benchmark of embeddings in its small form: it compares like with like, and its limits are limits."

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import embedding

TINY = {"embed_dim": 32, "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-bench.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return embedding.main(["clip", "offline"], 3, 40, 1, "tiny-bench")


@pytest.mark.parametrize("what", ["clip pictures", "clip texts", "offline pictures", "offline texts"])
def test_both_ways_make_the_same_vectors(rates, what):
    assert rates[what].alike > 0.99
    assert all(rate > 0 for rate in (rates[what].plain, rates[what].ours, *rates[what].limits.values()))


@pytest.mark.parametrize("what", ["clip pictures", "offline pictures"])
def test_decoding_and_the_model_together_are_slower_than_either(rates, what):
    limits = rates[what].limits
    assert set(limits) == {"decode", "forward", "both", "matmul"}
    assert limits["both"] < min(limits["decode"], limits["forward"])


def test_photos_and_texts_are_of_the_size_they_claim(tmp_path):
    (path,) = embedding.draw_photos(tmp_path, 1)
    assert 80_000 < path.stat().st_size < 400_000
    texts = embedding.draw_texts(500)
    assert len(set(texts)) == 500
    assert 24 < np.mean([len(text.split()) - 2 for text in texts]) < 31
