"""Vectors made elsewhere take the place of an encoder: in the steps, and in the key of what they make."""

import json

import numpy as np
import pyarrow as pa
import pytest

from recsys import runner
from recsys.data.schema import ITEMS, write_table
from recsys.errors import VectorsError
from recsys.pipeline.image_embeddings import image_embeddings
from recsys.pipeline.text_embeddings import text_embeddings
from recsys.settings import make_settings
from recsys.vectors.table import VectorTable


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "events").mkdir()
    ids = np.arange(20, 26)
    texts = {name: pa.nulls(6, pa.string()) for name in ("title", "text", "category", "product_code", "image")}
    columns = {"item_id": ids, "dataset": ["a"] * 4 + ["b"] * 2, "raw_id": [f"00{num}" for num in ids], "price": pa.nulls(6, pa.float32()),
               "attributes": ["{}"] * 6}  # fmt: skip
    write_table(pa.table(columns | texts).select(ITEMS.names), tmp_path / "events" / "items.parquet", ITEMS)
    (tmp_path / "events" / "datasets.json").write_text(json.dumps({"a": {}, "b": {}}))
    return {"events": tmp_path / "events"}


@pytest.fixture
def given(tmp_path):
    np.savez(tmp_path / "made.npz", raw_id=np.array(["0023", "0020"]), vector=np.array([[3.0, 4.0], [0.0, 1.0]]))
    return tmp_path / "made.npz"


@pytest.mark.parametrize(("step", "name"), [(image_embeddings, "image"), (text_embeddings, "text")])
def test_a_step_takes_them_as_they_are(inputs, given, tmp_path, step, name):
    said = step(inputs | {"split": tmp_path}, tmp_path, **{f"{name}_vectors": given})
    table = VectorTable.load(tmp_path / f"{name}_embeddings_a.safetensors")
    assert said["a_with_vector"] == 2 and table.ids.tolist() == [20, 23]
    np.testing.assert_allclose(table.vectors, [[0, 1], [0.6, 0.8]], atol=1e-6)
    assert not (tmp_path / f"{name}_embeddings_b.safetensors").exists()
    assert json.loads((tmp_path / "encoder.json").read_text())["shops"]["a"]["space"] == table.space


def test_shops_it_does_not_know_are_read_as_ever(inputs, given, tmp_path):
    columns = {name: pa.nulls(1, pa.string()) for name in ("category", "product_code", "image")}
    told = {"item_id": [24], "dataset": ["b"], "raw_id": ["0024"], "title": ["a red dress"], "text": ["soft"], "price": pa.nulls(1, pa.float32()),
            "attributes": ["{}"]}  # fmt: skip
    for name in "ab":
        write_table(pa.table(columns | told | {"dataset": [name]}).select(ITEMS.names), tmp_path / f"items_{name}.parquet", ITEMS)
    said = text_embeddings(inputs | {"split": tmp_path}, tmp_path, encoder="tfidf", text_vectors=given)
    assert (said["a_with_vector"], said["b_with_vector"], said["encoder"]) == (2, 1, "tfidf")


def test_a_file_of_nobody_is_refused(inputs, tmp_path):
    np.savez(tmp_path / "other.npz", item_id=np.array([7]), vector=np.ones((1, 2)))
    with pytest.raises(VectorsError, match=r"e.g. item_id 20, got 1 others, e.g. \[7\]"):
        image_embeddings(inputs, tmp_path, image_vectors=tmp_path / "other.npz")


@pytest.mark.parametrize("step", ["image_embeddings", "text_embeddings"])
def test_the_key_knows_their_content_not_their_place(given, tmp_path, step):
    planned, elsewhere = runner.Planned(runner.STEPS[step]), tmp_path / "copy.npz"
    elsewhere.write_bytes(given.read_bytes())
    notebook = runner.notebooks_dir() / f"{planned.step.notebook}.ipynb"
    kind = step.split("_")[0]

    def origin(path):
        values = runner.parameters(planned, make_settings({f"{kind}_vectors": str(path)} if path else {}), notebook, {})
        return runner.made_from(planned, values, {}, tmp_path / "raw_hashes.json")

    assert origin(given) == origin(elsewhere) != origin(None)
    np.savez(elsewhere, raw_id=np.array(["0023"]), vector=np.array([[1.0, 0.0]]))
    assert origin(given) != origin(elsewhere)
