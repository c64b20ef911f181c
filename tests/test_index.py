"Guards of the item index: odd sizes, filters, damage."

from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ArtifactError, MissingFileError, SpaceError, VectorsError
from recsys.vectors.index import GRAPH_WIDTHS, ItemGraph, ItemIndex, ShopIndex
from recsys.vectors.table import VectorTable, unit_rows


def table_of(n: int, dims: int, seed: int = 7) -> VectorTable:
    rng = np.random.default_rng(seed)
    return VectorTable.of(rng.choice(10 * n + 10, n, replace=False), unit_rows(rng.normal(size=(n, dims)).astype(np.float32)), f"space{dims}")


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize(("n", "k"), [(1, 5), (7, 7), (40, 12)])
def test_small_tables_give_every_row_once_then_nothing(kind, n, k):
    index = ItemIndex.build(table_of(n, 8), kind)
    found = index.search(table_of(3, 8, seed=1).vectors, k)
    for nums, scores in zip(*found, strict=True):
        kept = nums[nums >= 0]
        assert len(set(kept.tolist())) == len(kept) == min(n, k)
        assert (np.diff(scores[: len(kept)]) <= 0).all()
        assert np.isnan(scores[len(kept) :]).all()


def test_nothing_inside_finds_nothing():
    index = ItemIndex.build(VectorTable(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), "empty"))
    assert (index.search(np.ones((2, 4), np.float32), 3).nums == -1).all()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_filter_gives_exactly_the_best_allowed_rows(kind, share):
    table = table_of(400, 16)
    allowed = np.random.default_rng(3).random(400) < share
    asked = table_of(20, 16, seed=5).vectors
    found = ItemIndex.build(table, kind).search(asked, 6, allowed=allowed)
    scores = np.where(allowed, asked @ table.vectors.T, -np.inf)
    for row in range(20):
        right = np.argsort(-scores[row], kind="stable")[: min(6, allowed.sum())]
        assert found.nums[row][: len(right)].tolist() == right.tolist()
        assert (found.nums[row][len(right) :] == -1).all()


def test_a_query_with_nan_or_inf_finds_nothing_and_its_neighbours_are_untouched():
    table = table_of(100, 8)
    index = ItemIndex.build(table)
    asked = table.vectors[:4].copy()
    asked[1, 3], asked[2, 0] = np.nan, np.inf
    found = index.search(asked, 3)
    assert (found.nums[[1, 2]] == -1).all()
    assert np.isnan(found.scores[[1, 2]]).all()
    assert found.nums[[0, 3], 0].tolist() == [0, 3]


def test_equal_scores_go_to_the_lower_row():
    vectors = np.tile(np.array([[1, 0]], np.float32), (5, 1))
    found = ItemIndex.build(VectorTable(np.arange(5), vectors, "same")).search(vectors[:1], 5)
    assert found.nums[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_same_table_gives_the_same_file(kind, tmp_path):
    for name in "ab":
        ItemIndex.build(table_of(2000, 32), kind).save(tmp_path / f"{name}.index")
    assert (tmp_path / "a.index").read_bytes() == (tmp_path / "b.index").read_bytes()


def test_squared_distance_ranks_the_nearest_first():
    table = table_of(50, 8)
    found = ItemIndex.build(table, metric="l2").search(table.vectors[:5], 2)
    assert found.nums[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.allclose(found.scores[:, 0], 0, atol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_damage_is_refused(kind, tmp_path):
    path = tmp_path / "x.index"
    ItemIndex.build(table_of(300, 16), kind).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    for cut in rng.integers(0, len(whole), 16):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError):
            ItemIndex.load(path)
    for place in rng.integers(0, len(whole), 64):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            ItemIndex.load(path)


def test_an_index_beside_the_note_of_another_is_refused(tmp_path):
    ItemIndex.build(table_of(30, 8)).save(tmp_path / "a.index")
    ItemIndex.build(table_of(30, 8, seed=9)).save(tmp_path / "b.index")
    (tmp_path / "a.index").write_bytes((tmp_path / "b.index").read_bytes())
    with pytest.raises(ArtifactError, match="a.index"):
        ItemIndex.load(tmp_path / "a.index")


def test_refusals_name_what_came():
    index = ItemIndex.build(table_of(30, 8))
    with pytest.raises(SpaceError, match=r"\(8,\)"):
        index.search(np.ones(8, np.float32), 3)
    with pytest.raises(VectorsError, match="30 rows, got 3"):
        index.search(np.ones((1, 8), np.float32), 3, allowed=np.ones(3, bool))
    with pytest.raises(VectorsError, match="'tree'"):
        ItemIndex.build(table_of(30, 8), "tree")


def test_the_router_takes_the_windows_own_index_where_there_is_one(tmp_path):
    final, select = ItemIndex.build(table_of(30, 8)), ItemIndex.build(table_of(20, 8))
    ShopIndex({"shop": select}).save(tmp_path, "_select")
    ShopIndex({"shop": final, "other": final}).save(tmp_path)
    assert len(ShopIndex.load(tmp_path, "select").of("shop")) == 20
    assert len(ShopIndex.load(tmp_path, "final").of("shop")) == 30
    assert len(ShopIndex.load(tmp_path, "select").of("other")) == 30
    with pytest.raises(MissingFileError, match="run the step faiss"):
        ShopIndex.load(tmp_path / "nowhere")


def test_a_graph_looks_at_as_many_as_it_needs_and_is_none_where_that_is_not_enough(monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    vectors, nums = rng.normal(size=(400, 8)).astype(np.float32), np.arange(0, 400, 2)
    found = {150: 0.9, 300: 0.998, 600: 0.9995}
    with monkeypatch.context() as patched:
        patched.setattr(ItemGraph, "recall", lambda self, *_: found.get(self.width, 1.0))
        graph = ItemGraph.build(vectors, nums, vectors[:9])
        graph.save(tmp_path / "graph.index")
        assert graph.width == ItemGraph.load(tmp_path / "graph.index").width == 600
        found |= dict.fromkeys(GRAPH_WIDTHS, 0.998)
        assert ItemGraph.build(vectors, nums, vectors[:9]) is None
    assert ItemGraph.build(vectors, nums, vectors[:9]).width == GRAPH_WIDTHS[0]


def test_of_equals_a_graph_may_find_any():
    vectors = np.repeat(np.random.default_rng(3).normal(size=(50, 8)), 8, axis=0).astype(np.float32)
    graph = ItemGraph.build(vectors, np.arange(400), vectors[::40])
    assert graph.recall(vectors[::40], vectors, 3) == 1.0


def test_a_question_that_found_the_best_there_can_be_looks_no_further(monkeypatch):
    vectors = unit_rows(np.random.default_rng(3).normal(size=(400, 8)).astype(np.float32))
    graph, walked = replace(ItemGraph.build(vectors, np.arange(400), vectors[:9]), width=600), []
    walk = ItemGraph._walk
    monkeypatch.setattr(
        ItemGraph, "_walk", lambda self, queries, asks, width, *more: (walked.append((width, asks.tolist())), walk(self, queries, asks, width, *more))
    )
    graph.nearest(np.stack([vectors[7], vectors[7] + vectors[8]]), 5, vectors)  # an item's own direction, and one between two items
    assert walked == [(150, [0, 1]), (600, [1])]
