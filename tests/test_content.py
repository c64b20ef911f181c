"Guards of encoders, pictures, texts, fused vectors and the content scorer."

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from recsys.content.encoders import (
    DEFAULT_CLIP,
    EfficientNetLite0,
    Framing,
    MiniLm,
    TfidfSvd,
    clip_name,
    encoder_available,
    equal_lengths,
    load_encoder,
    settled,
)
from recsys.content.fuse import fuse
from recsys.content.images import MAX_PIXELS, embed_images, read_picture
from recsys.content.texts import embed_texts, embed_tokens, split_texts
from recsys.data.interactions import History, Query, from_events
from recsys.data.schema import DAY_MS, EVENTS, ITEMS, write_table
from recsys.errors import MissingDependencyError, SchemaError, SettingsError, SpaceError, VectorsError
from recsys.scorers.content import ContentScorer, history_vectors
from recsys.vectors.index import ShopIndex
from recsys.vectors.table import VectorTable, save_blocks, unit_rows

TINY = {"embed_dim": 32, "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    "A CLIP of three million parameters, its weights made here: (encoder name, model)."
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(7)
    model = open_clip.create_model("tiny-clip").eval()
    torch.save(model.state_dict(), folder / "mine.pt")
    return f"tiny-clip/{folder}/mine.pt", model


@pytest.fixture(scope="module")
def tiny_encoder(tiny_clip):
    "That CLIP as an encoder."
    return load_encoder(tiny_clip[0], "cpu")


# -- CLIP


def test_clip_vectors_equal_open_clips_own(tiny_clip, tiny_encoder, tmp_path):
    import open_clip
    import torch

    model, encoder = tiny_clip[1], tiny_encoder
    rng = np.random.default_rng(7)
    Image.fromarray(rng.integers(0, 255, (90, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    config = open_clip.get_model_preprocess_cfg(model)
    transform = open_clip.image_transform(48, is_train=False, **{name: config[name] for name in ("mean", "std", "interpolation", "resize_mode")})
    with torch.inference_mode():
        image = torch.nn.functional.normalize(model.encode_image(transform(Image.open(tmp_path / "a.png"))[None]), dim=1).numpy()
        text = torch.nn.functional.normalize(model.encode_text(open_clip.get_tokenizer("tiny-clip")(["a red dress"])), dim=1).numpy()
    assert encoder.about["precision"] in ("fp32", "bf16")
    tolerance = 1e-5 if encoder.about["precision"] == "fp32" else 2e-2
    picture = read_picture(tmp_path / "a.png", encoder.image.framing)
    assert np.allclose(encoder.image.encode(picture[None]), image, atol=tolerance)
    assert np.allclose(encoder.text.encode(["a red dress"]), text, atol=tolerance)


def test_clip_has_one_space_and_it_names_weights_not_paths(tiny_clip, tiny_encoder, tmp_path):
    import torch

    model, encoder = tiny_clip[1], tiny_encoder
    assert encoder.one_space
    assert encoder.image.space.startswith("clip:tiny-clip/mine:")
    assert str(tmp_path.parent) not in json.dumps(encoder.about)
    other = {key: value + 0.01 if key == "logit_scale" else value for key, value in model.state_dict().items()}
    torch.save(other, tmp_path / "mine.pt")
    assert load_encoder(f"tiny-clip/{tmp_path}/mine.pt", "cpu").image.space != encoder.image.space


def test_clip_reads_texts_of_every_length_as_open_clip_does(tiny_clip, tiny_encoder):
    import open_clip
    import torch

    texts = ["", "dress", "a red dress", "word " * 74, "word " * 75, "word " * 90] + [f"{'blue ' * (i % 30)} {i}" for i in range(200)]
    with torch.inference_mode():
        theirs = torch.nn.functional.normalize(tiny_clip[1].encode_text(open_clip.get_tokenizer("tiny-clip")(texts)), dim=1).numpy()
    ours = tiny_encoder.text.encode(texts)
    assert tiny_encoder.about["precision"] == "bf16" or np.allclose(ours, theirs, atol=1e-5)
    assert (ours * theirs).sum(axis=1).min() > 0.999
    assert tiny_encoder.text.encode([]).shape == (0, ours.shape[1])


def test_clip_with_another_kind_of_text_tower_reads_the_whole_context(tmp_path):
    import open_clip
    import torch

    from recsys.content.encoders import ClipTexts

    kinds = {"seen-by-all": {"no_causal_mask": True}, "read-at-the-front": {"pool_type": "last"}}
    for name, kind in kinds.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(TINY | {"text_cfg": TINY["text_cfg"] | kind}))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
        with torch.inference_mode():
            theirs = torch.nn.functional.normalize(model.encode_text(tokenizer(["a red dress", "x"])), dim=1).numpy()
        assert np.allclose(ClipTexts(model, tokenizer, "space", 32, "cpu").encode(["a red dress", "x"]), theirs, atol=1e-5), name


def test_clip_counts_texts_that_fill_its_context(tiny_encoder):
    before = tiny_encoder.text.truncated
    tiny_encoder.text.encode(["short", "long " * 200])
    assert tiny_encoder.text.truncated == before + 1


def test_clip_that_cannot_be_had_is_an_error_within_seconds():
    for name in (DEFAULT_CLIP, "hf-hub:somebody/some-clip", "ViT-B-32/nowhere/ckpt.pt"):
        start = time.monotonic()
        assert not encoder_available(name)[0]
        with pytest.raises(MissingDependencyError, match="offline") as problem:
            load_encoder(name)
        assert name.removeprefix("hf-hub:").split("/")[-1] in str(problem.value)
        assert time.monotonic() - start < 15


def test_auto_without_network_takes_the_pair_and_says_why():
    encoder = load_encoder("auto", text=False)
    assert encoder.about["taken"] == "offline"
    assert "HF_HUB_OFFLINE" in encoder.about["why"]


@pytest.mark.parametrize("name", ["clip", "/x", "ViT-B-32/", ""])
def test_a_misspelt_encoder_names_the_forms(name):
    with pytest.raises(SettingsError, match="MODEL/PRETRAINED"):
        clip_name(name)


def test_a_checkpoint_that_is_none_is_refused(tiny_clip, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(MissingDependencyError, match="could not be loaded"):
        load_encoder(f"tiny-clip/{tmp_path}/bad.pt")


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (47, 300), (224, 224), (1, 1)])
def test_framing_equals_torchvisions(size):
    from torchvision import transforms as T

    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    theirs = T.Compose([T.Resize(48, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(48)])(image)
    assert np.array_equal(Framing(48, 48).frame(image), np.asarray(theirs))


# -- the offline pair


def test_minilm_equals_the_librarys(tmp_path):
    import zipfile

    import torch
    from transformers import AutoModel, AutoTokenizer

    from recsys.content.encoders import packaged_file

    with zipfile.ZipFile(packaged_file("minilm")) as package:
        package.extractall(tmp_path)
    texts = ["Jersey top with narrow shoulder straps.", "x", "Trousers, dark blue, denim; five pockets and a button fly. " * 9]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.inference_mode():
        hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        theirs = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    ours = MiniLm(max_tokens=64)
    assert np.allclose(ours.encode(texts), theirs, atol=1e-5)
    assert ours.truncated == 1


def test_folding_batch_norms_leaves_the_numbers_alone():
    import io

    import timm
    import torch

    from recsys.content.encoders import packaged_file

    plain = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(io.BytesIO(packaged_file("efficientnet_lite0").read_bytes()), weights_only=True)
    plain.load_state_dict(dict(zip(plain.state_dict(), weights.values(), strict=True)))
    plain.reset_classifier(0)
    pictures = np.random.default_rng(7).integers(0, 255, (3, 96, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        theirs = unit_rows(plain(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy())
    assert np.allclose(EfficientNetLite0(Framing(96, 64, "squash")).encode(pictures), theirs, atol=1e-4)


def test_auto_settles_on_another_encoder_once_the_weights_are_there(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    before = settled("auto")
    assert time.perf_counter() - start < 0.1 and before == settled("offline") and "minilm:53aa51" in before
    repo = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    assert settled("auto") == before, "a fetch that was broken off is no encoder"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "snapshots" / "abc" / "open_clip_model.safetensors").touch()
    assert settled("auto") == "ViT-B-32/laion2b_s34b_b79k"
    assert encoder_available("auto")[0]


def test_a_checkpoint_settles_on_its_content_not_its_place(tmp_path):
    for name, content in (("a/mine.pt", b"one"), ("b/mine.pt", b"one"), ("c/mine.pt", b"two")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    one, same, other = (settled(f"ViT-B-32/{tmp_path / name}") for name in ("a/mine.pt", "b/mine.pt", "c/mine.pt"))
    assert one == same != other and str(tmp_path) not in one
    (tmp_path / "a/mine.pt").write_bytes(b"three")
    assert settled(f"ViT-B-32/{tmp_path / 'a/mine.pt'}") != one


def test_altered_weights_are_refused(monkeypatch, tmp_path):
    from recsys.content import encoders
    from recsys.errors import ArtifactError

    data = bytearray(encoders.packaged_file("efficientnet_lite0").read_bytes())
    data[-1] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    monkeypatch.setattr(encoders, "packaged_file", lambda name: tmp_path / "x.pth")
    with pytest.raises(ArtifactError, match="efficientnet-lite0"):
        EfficientNetLite0()


def test_importing_the_encoders_and_pictures_loads_no_torch():
    code = "import recsys.content.images, sys; sys.exit(any(name in sys.modules for name in ('torch', 'faiss', 'open_clip', 'timm')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_of_equal_length_hold_every_row_once():
    lengths = np.random.default_rng(7).integers(1, 60, 500)
    batches = equal_lengths(lengths, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(set(lengths[rows])) == 1 and (len(rows) == 1 or len(rows) * lengths[rows[0]] <= 64) for rows in batches)


# -- TF-IDF


def test_tfidf_is_the_same_again_and_from_any_order():
    texts = [f"c{i % 7} n{i % 5}.000 x{i % 3}" for i in range(120)]
    first, again = TfidfSvd(texts, 8), TfidfSvd(texts, 8)
    assert first.space == again.space
    assert np.array_equal(first.encode(texts), again.encode(texts))
    assert TfidfSvd(texts[:60], 8).space != first.space


@pytest.mark.parametrize("texts", [["only"], ["a b", "a b"], [None, "p1 p2"], [None, None], ["", " "]])
def test_tokens_of_odd_shops(texts):
    found = embed_tokens(np.arange(len(texts)), [None] * len(texts), texts)
    assert len(found.table) == sum(bool(text and text.strip()) for text in texts)


def test_texts_of_nobody_are_an_empty_table():
    assert len(embed_texts(np.arange(2), [None, ""], [None, " \n "], MiniLm()).table) == 0
    assert split_texts([], []).parts == []


# -- pictures


def many_kinds(folder) -> dict[str, str]:
    "Pictures of every kind a shop delivers: file name to what should come out."
    red, rng = Image.new("RGB", (60, 90), (200, 30, 30)), np.random.default_rng(7)
    noise = Image.fromarray(rng.integers(0, 255, (90, 60, 3), dtype=np.uint8))
    red.save(folder / "plain.jpg")
    red.convert("CMYK").save(folder / "cmyk.jpg")
    red.convert("L").save(folder / "grey.jpg")
    red.convert("P").save(folder / "palette.gif")
    red.convert("RGBA").save(folder / "alpha.png")
    red.convert("LA").save(folder / "grey_alpha.png")
    red.convert("1").save(folder / "bits.png")
    Image.fromarray(rng.integers(0, 65535, (90, 60), dtype=np.uint16)).save(folder / "sixteen.png")
    red.save(folder / "animated.gif", save_all=True, append_images=[noise.convert("RGB")] * 3)
    red.save(folder / "png_named.jpg", "PNG")
    red.save(folder / "webp.webp")
    Image.new("RGB", (1, 400)).save(folder / "thin.png")
    noise.save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    noise.save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("<html>404</html>")
    side = int(MAX_PIXELS**0.5) + 10
    Image.new("1", (side, side)).save(folder / "bomb.png")
    (folder / "folder.jpg").mkdir()
    bad = {"truncated.jpg": "unreadable", "truncated.png": "unreadable", "zero.jpg": "zero bytes", "text.jpg": "not a picture", "bomb.png": "too large",
           "folder.jpg": "missing", "gone.jpg": "missing"}  # fmt: skip
    return {path.name: bad.get(path.name, "") for path in sorted(folder.iterdir())} | {"gone.jpg": "missing"}


class MeanColour:
    space, dims, framing = "mean_colour", 3, Framing(32, 32)

    def encode(self, pictures):
        return pictures.reshape(len(pictures), -1, 3).mean(axis=1).astype(np.float32)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_kind_of_picture_gives_a_vector_or_a_reason(tmp_path, workers):
    kinds = many_kinds(tmp_path)
    found = embed_images(np.arange(len(kinds)), [tmp_path / name for name in kinds], MeanColour(), tmp_path / "work", 4, workers)
    reasons = {list(kinds)[one.item_id]: one.reason for one in found.broken}
    for name, expected in kinds.items():
        assert reasons.get(name, "").startswith(expected), name
        assert (name in reasons) == bool(expected), name
    colours = dict(zip(found.table.ids.tolist(), found.table.vectors, strict=True))
    for name in ("plain.jpg", "alpha.png", "palette.gif", "png_named.jpg", "webp.webp", "animated.gif"):
        assert np.allclose(colours[list(kinds).index(name)], [200, 30, 30], atol=12), name
    assert not np.isnan(found.table.vectors).any()


KILLED = """
import sys, time
import numpy as np
from pathlib import Path
from recsys.content import images
from recsys.content.encoders import Framing
images.PART = 8
class Slow:
    space, dims, framing = "slow", 3, Framing(16, 16)
    def encode(self, pictures):
        time.sleep(float(sys.argv[2]))
        return pictures.reshape(len(pictures), -1, 3).mean(axis=1).astype(np.float32)
folder = Path(sys.argv[1])
found = images.embed_images(np.arange(48), [folder / f"{i}.png" for i in range(48)], Slow(), folder / "work", 4, workers=0)
found.table.save(folder / f"{sys.argv[3]}.safetensors")
print(found.reused)
"""


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    for i in range(48):
        Image.new("RGB", (20, 20), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    start = lambda pause, name: subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), pause, name], stdout=subprocess.PIPE, text=True)
    killed = start("0.2", "killed")
    until = time.monotonic() + 60
    while len(list((tmp_path / "work").glob("*.part"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    parts = sorted(path for path in (tmp_path / "work").glob("*.part") if not path.name.startswith("."))
    parts[0].write_bytes(parts[0].read_bytes()[:-5])  # and one of its parts is torn
    resumed = start("0", "resumed")
    assert int(resumed.communicate()[0]) == len(parts) - 1
    (tmp_path / "work").rename(tmp_path / "old")
    clean = start("0", "clean")
    assert int(clean.communicate()[0]) == 0
    assert (tmp_path / "resumed.safetensors").read_bytes() == (tmp_path / "clean.safetensors").read_bytes()


def test_any_number_of_threads_gives_the_same_vectors_and_leaves_torch_as_it_was(tmp_path):
    import torch

    rng = np.random.default_rng(7)
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.jpg")
    (tmp_path / "13.jpg").write_bytes(b"torn")
    paths, tower, before = [tmp_path / f"{i}.jpg" for i in range(40)], EfficientNetLite0(Framing(48, 32, "squash")), torch.get_num_threads()
    made = [embed_images(np.arange(40), paths, tower, tmp_path / f"work{threads}", 16, threads) for threads in (0, 1, 2, 3)]
    assert len({one.table.hash for one in made}) == 1
    assert all(one.broken[0].item_id == 13 and len(one.table) == 39 for one in made)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("what", ["the tower", "the disk"])
def test_a_failure_ends_the_work_at_once(tmp_path, monkeypatch, what):
    from recsys.content import images

    asked = []

    class Slow(MeanColour):
        def encode(self, pictures):
            asked.append(len(pictures))
            time.sleep(0.02)
            if what == "the tower":
                raise OSError("failed")
            return super().encode(pictures)

    def full(part, path):
        raise OSError("failed")

    monkeypatch.setattr(images, "PART", 4)
    if what == "the disk":
        monkeypatch.setattr(images, "write_part", full)
    for i in range(64):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    with pytest.raises(OSError, match="failed") as held:  # a traceback keeps its frames alive, as a notebook's last error does
        embed_images(np.arange(64), [tmp_path / f"{i}.png" for i in range(64)], Slow(), tmp_path / "work", 1, 2)
    time.sleep(2)  # all 64 would take one
    assert len(asked) < 20, held


# -- fused vectors


def test_a_fused_table_of_one_block_only_and_of_none():
    text = VectorTable(np.arange(5), unit_rows(np.random.default_rng(7).normal(size=(5, 12)).astype(np.float32)), "text")
    alone = fuse(None, text, 9)
    assert np.allclose(alone.table.dot(alone.table), text.dot(text), atol=1e-5)
    assert alone.counts == {"both": 0, "text_only": 5, "image_only": 0, "none": 4}
    nothing = fuse(None, None, 3)
    assert len(nothing.table) == 0
    assert nothing.counts["none"] == 3


def test_any_number_of_threads_gives_the_same_bits():
    rng = np.random.default_rng(7)
    block = VectorTable(np.arange(3000), rng.normal(size=(3000, 400)).astype(np.float32), "made up")
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 900, 12)) for _ in range(3000)]
    made = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            made.append((fuse(None, block, 3000, text_dims=64).table.hash, embed_tokens(np.arange(3000), [None] * 3000, texts, 64).table.hash))
    assert made[0] == made[1] == made[2]


def test_other_weights_are_another_space():
    rng = np.random.default_rng(7)
    image, text = (VectorTable(np.arange(50), unit_rows(rng.normal(size=(50, 12)).astype(np.float32)), name) for name in ("image:1", "text:1"))
    one, two = fuse(image, text, 50, image_weight=0.3).table, fuse(image, text, 50, image_weight=0.4).table
    assert one.space == fuse(image, text, 50, image_weight=0.3).table.space
    with pytest.raises(SpaceError):
        one.dot(two)


# -- the scorer


def shop_of(n_users: int, n_items: int, seed: int = 7, time_unit: str = "ms"):
    rng = np.random.default_rng(seed)
    n = 6 * n_users
    table = pa.table({"dataset": ["shop"] * n, "user_id": rng.integers(0, n_users, n), "item_id": rng.integers(0, n_items, n),
                      "event": rng.choice(["view", "purchase"], n), "ts": pa.array(rng.integers(1, 90, n) * DAY_MS, pa.timestamp("ms", "UTC")),
                      "quantity": pa.array(rng.integers(1, 3, n), pa.int32()), "price": pa.array(np.ones(n), pa.float32())}).cast(EVENTS)  # fmt: skip
    return from_events(table, "shop", {"view": 1.0, "purchase": 4.0}, 100 * DAY_MS, np.arange(n_items), time_unit)


@pytest.mark.parametrize("time_unit", ["ms", "order"])
def test_user_vectors_equal_the_slow_way(time_unit):
    shop, rng = shop_of(30, 20, time_unit=time_unit), np.random.default_rng(3)
    vectors = unit_rows(rng.normal(size=(20, 5)).astype(np.float32))
    vectors[[2, 11]] = np.nan
    queries = shop.queries(np.arange(-1, 30))
    fast, ages = history_vectors(queries, vectors, 9.0), queries.ages()
    for row in range(len(queries)):
        part = slice(*queries.past.indptr[row : row + 2])
        nums = queries.past.item_nums[part]
        summed = np.nansum(vectors[nums] * (queries.past.weights[part] * 0.5 ** (ages[part] / 9.0))[:, None], axis=0)
        if np.isfinite(vectors[nums, 0]).any():
            assert np.allclose(fast[row], summed / np.linalg.norm(summed), atol=1e-5)
        else:
            assert np.isnan(fast[row]).all()


def test_a_table_written_in_blocks_is_the_same_table(tmp_path):
    rng = np.random.default_rng(7)
    for n, dims in ((0, 3), (1, 1), (41, 7)):
        table = VectorTable(np.arange(n) * 3, rng.normal(size=(n, dims)).astype(np.float32), "a space")
        blocks = [(table.ids[i : i + 5], table.vectors[i : i + 5]) for i in range(0, n, 5)]
        assert save_blocks(tmp_path / "t", iter(blocks), dims, "a space") == n
        read = VectorTable.load(tmp_path / "t")
        assert (read.hash, read.space) == (table.hash, table.space)
    with pytest.raises(SchemaError):
        save_blocks(tmp_path / "u", reversed(blocks), 7, "a space")
    with pytest.raises(VectorsError, match="NaN"):
        save_blocks(tmp_path / "u", [(table.ids, np.full_like(table.vectors, np.nan))], 7, "a space")
    assert not (tmp_path / "u").exists()


def test_a_very_old_history_still_speaks():
    shop = shop_of(5, 10)
    vectors = VectorTable(np.arange(10), unit_rows(np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)), "v")
    content = ContentScorer.of(vectors, shop, half_life_days=1.0)
    late = shop.queries(np.arange(5), at=shop.at + 4000 * DAY_MS)
    now = shop.queries(np.arange(5))
    assert np.allclose(content.user_vectors(late), content.user_vectors(now), atol=1e-4, equal_nan=True)


def test_an_item_without_a_vector_is_nan_and_never_recommended():
    shop = shop_of(20, 12)
    vectors = VectorTable(np.arange(0, 12, 2), unit_rows(np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)), "v")
    content, queries = ContentScorer.of(vectors, shop), shop.queries(np.arange(20))
    assert np.isnan(content.score(queries)[:, 1::2]).all()
    top = content.top_k(queries, 12).nums
    assert (top[top >= 0] % 2 == 0).all()


def test_a_given_history_stands_instead_of_the_known_one():
    shop = shop_of(20, 12)
    vectors = VectorTable(np.arange(12), unit_rows(np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32)), "v")
    content = ContentScorer.of(vectors, shop)
    known, stranger = shop.resolve([Query("shop", user_id=3, history=History([5]))]), shop.resolve([Query("shop", history=History([5]))])
    assert np.array_equal(content.score(known), content.score(stranger))
    assert content.top_k(known, 1).nums[0, 0] == 5


# -- the steps, on a small shop of drawn squares


@pytest.fixture(scope="module")
def river(tmp_path_factory):
    "Folders of the steps before content: a shop of squares in words and colours, and one of dated opaque tokens."
    folder = tmp_path_factory.mktemp("river")
    for name in ("events", "split", "pictures", "interactions"):
        (folder / name).mkdir()
    colours, rows = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}, []
    for i in range(30):
        colour = list(colours)[i % 3]
        Image.new("RGB", (48, 64), tuple(max(0, c - i) for c in colours[colour])).save(folder / "pictures" / f"{i}.jpg")
        rows.append((i, "shop", str(i), f"Square {i // 3}", f"{colour} square\nA square of {colour} paint.", f"{i}.jpg" if i != 29 else "gone.jpg"))
    rows += [(30, "shop", "30", None, None, None), (31, "shop", "31", "Red thing", None, None)]
    rows += [(100 + i, "tokens", str(i), None, f"c{i % 4} n{i % 3}.000", None) for i in range(24)]
    columns = dict(zip(("item_id", "dataset", "raw_id", "title", "text", "image"), zip(*rows, strict=True), strict=True))
    nulls = {name: pa.nulls(len(rows), ITEMS.field(name).type) for name in ("category", "product_code", "price")}
    items = pa.table({name: list(values) for name, values in columns.items()} | nulls | {"attributes": ["{}"] * len(rows)})
    write_table(items, folder / "events" / "items.parquet", ITEMS)
    for name in ("shop", "tokens"):
        write_table(items.filter(pa.compute.equal(items["dataset"], name)), folder / "split" / f"items_{name}.parquet", ITEMS)
    earlier = items.filter(pa.compute.equal(items["dataset"], "tokens")).slice(0, 20)
    write_table(earlier, folder / "split" / "items_tokens_select.parquet", ITEMS)
    spoken = {"shop": {"image_root": str(folder / "pictures"), "text_kind": "natural"}, "tokens": {"image_root": None, "text_kind": "opaque"}}
    (folder / "events" / "datasets.json").write_text(json.dumps(spoken))
    return folder


@pytest.fixture(scope="module", params=["offline", "tfidf", "clip"])
def made(request, river, tiny_clip, tmp_path_factory):
    "The artifacts of 06 to 08 by each family of encoders."
    from recsys.pipeline.faiss import faiss
    from recsys.pipeline.image_embeddings import image_embeddings
    from recsys.pipeline.text_embeddings import text_embeddings

    encoder = tiny_clip[0] if request.param == "clip" else request.param
    inputs = {"events": river / "events", "split": river / "split"}
    for step in ("image_embeddings", "text_embeddings", "faiss"):
        inputs[step] = tmp_path_factory.mktemp(step)
    summaries = [image_embeddings(inputs, inputs["image_embeddings"], work_dir=tmp_path_factory.mktemp("work"), encoder=encoder, device="cpu"),
                 text_embeddings(inputs, inputs["text_embeddings"], encoder=encoder, device="cpu"), faiss(inputs, inputs["faiss"])]  # fmt: skip
    return request.param, inputs, summaries


def test_the_steps_write_what_the_next_ones_read(made):
    kind, inputs, (images, texts, fused) = made
    assert (images["shop_named"], images["shop_with_vector"], images["shop_broken"]) == (30, 29, 1)
    assert (inputs["image_embeddings"] / "broken_images.csv").read_text().splitlines() == ["dataset,item_id,image,reason", "shop,29,gone.jpg,missing"]
    assert (texts["shop_with_vector"], texts["tokens_with_vector"], texts["tokens_select_with_vector"]) == (31, 24, 20)
    assert {key: fused[f"shop_{key}"] for key in ("both", "text_only", "image_only", "none")} == {"both": 29, "text_only": 2, "image_only": 0, "none": 1}
    router = ShopIndex.load(inputs["faiss"])
    assert {name: len(index) for name, index in router.shops.items()} == {"shop": 31, "tokens": 24}
    assert len(ShopIndex.load(inputs["faiss"], "select").of("tokens")) == 20
    assert router.of("shop").space.startswith("fused(")


@pytest.mark.parametrize("made", ["offline", "tfidf"], indirect=True)  # the weights of that CLIP are random
def test_the_nearest_square_has_the_same_colour(made):
    _, inputs, _ = made
    index = ShopIndex.load(inputs["faiss"]).of("shop")
    nearest = index.similar(np.arange(29), 1).nums[:, 0]
    assert (nearest % 3 == np.arange(29) % 3).mean() > 0.8


def test_a_shop_without_pictures_needs_no_encoder(river, tmp_path):
    from recsys.pipeline.image_embeddings import image_embeddings

    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "items.parquet").write_bytes((river / "events" / "items.parquet").read_bytes())
    (tmp_path / "events" / "datasets.json").write_text(json.dumps({"tokens": {"image_root": None, "text_kind": "opaque"}}))
    summary = image_embeddings({"events": tmp_path / "events"}, tmp_path, encoder=DEFAULT_CLIP)
    assert summary == {"encoder": None, "why": "no shop here has pictures", "parts_reused": 0, "parts_thrown_away": 0}
    assert json.loads((tmp_path / "encoder.json").read_text())["licence"].startswith("none needed")
    assert (tmp_path / "broken_images.csv").read_text().splitlines() == ["dataset,item_id,image,reason"]
