"""Two small made-up shops as artifacts of the river, for the tests of bundle, service and demo.

`wear` has pictures, texts, customer ids of 64 letters and article ids with a leading zero; `parts` has numbers and nothing else.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from recsys.data.interactions import from_events, save_interactions
from recsys.data.schema import DAY_MS, EVENTS, ITEMS, USERS, write_table
from recsys.pipeline.neighbours import neighbours
from recsys.vectors.table import VectorTable

AT = 1_600_646_400_000  # 2020-09-21
KINDS, COLOURS = ("Dress", "Shirt", "Trousers", "Skirt", "Jacket"), ("red", "navy", "olive", "gold", "black", "teal")
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> {{7*7}} ${window.hacked=1} `'
N_ITEMS, N_USERS = 60, 40


def article(num: int) -> str:
    return f"{108775000 + num:010d}"


def customer(num: int) -> str:
    return hashlib.sha256(f"customer {num}".encode()).hexdigest()


def customer_id(num: int) -> int:
    return int(customer(num)[:13], 16)


def item_id(num: int) -> int:
    return int("2" + article(num))


def draw(path: Path, kind: int, colour: str) -> None:
    "A picture of a garment."
    image = Image.new("RGB", (120, 160), "white")
    pen = ImageDraw.Draw(image)
    shapes = ([(45, 20), (75, 20), (95, 140), (25, 140)], [(20, 40), (100, 40), (85, 120), (35, 120)], [(35, 20), (85, 20), (90, 150), (30, 150)],
              [(40, 50), (80, 50), (100, 120), (20, 120)], [(15, 30), (105, 30), (95, 130), (25, 130)])  # fmt: skip
    pen.polygon(shapes[kind], fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def wear_items(images: Path) -> list[dict]:
    "60 items: title, colour and picture agree; some are troublesome."
    rows = []
    for num in range(N_ITEMS):
        kind, colour = num % len(KINDS), COLOURS[num % len(COLOURS)]
        name = f"{num % 7:03d}/{article(num)}.png"
        draw(images / name, kind, colour)
        rows.append({
            "item_id": item_id(num), "dataset": "wear", "raw_id": article(num), "title": f"{colour.title()} {KINDS[kind].lower()} no. {num}",
            "text": f"A {colour} {KINDS[kind].lower()}.\nMade of {colour} cotton.", "category": f"Ladies > {KINDS[kind]}", "product_code": str(num // 2),
            "price": 9.99 + num, "image": name, "attributes": json.dumps({"colour": colour.title(), "pattern": "solid"}),
        })  # fmt: skip
    rows[3]["title"] = HOSTILE
    rows[4]["image"] = None
    (images / str(rows[5]["image"])).write_bytes(b"not a picture")
    (images.parent / "secret.png").write_bytes((images / str(rows[7]["image"])).read_bytes())
    rows[6]["image"] = "../secret.png"
    rows[8]["image"] = "gone/nothing.png"
    return rows


def parts_items() -> list[dict]:
    blank = dict.fromkeys(("title", "text", "product_code", "price", "image"))
    return [blank | {"item_id": 500 + num, "dataset": "parts", "raw_id": str(500 + num), "category": f"{num % 4} > {num % 8}", "attributes": "{}"}
            for num in range(30)]  # fmt: skip


def draw_events(dataset: str, users: list[int], items: list[int], seed: int) -> pa.Table:
    "Each user has a taste: one kind and one colour more than others."
    random, rows = np.random.default_rng(seed), []
    for place, user in enumerate(users):
        liked = [num for num in range(len(items)) if num % 5 == place % 5 or num % 6 == place % 6]
        for n in range(9 + place % 12):
            num = int(random.choice(liked)) if random.random() < 0.85 else int(random.integers(len(items)))
            rows.append((user, items[num], AT - int(random.integers(1, 80)) * DAY_MS - n))
    kinds = ["purchase"] * len(rows) if dataset == "wear" else [("view", "cart", "purchase")[n % 7 % 3] for n in range(len(rows))]
    columns = {"dataset": [dataset] * len(rows), "user_id": [r[0] for r in rows], "item_id": [r[1] for r in rows], "event": kinds,
               "ts": [r[2] for r in rows], "quantity": [1] * len(rows), "price": [None] * len(rows)}  # fmt: skip
    return pa.table({name: pa.array(column, EVENTS.field(name).type) for name, column in columns.items()})


def make_artifacts(folder: Path) -> dict[str, Path]:
    "The artifacts of a run, as far as the bundle needs them."
    inputs = {step: folder / step for step in ("events", "split", "interactions", "neighbours", "faiss", "hybrid")}
    for path in inputs.values():
        path.mkdir(parents=True)
    wear, parts = wear_items(folder / "raw" / "images"), parts_items()
    users = {"wear": [customer_id(num) for num in range(N_USERS)], "parts": list(range(1, N_USERS + 1))}
    weights = {"wear": {"purchase": 1.0}, "parts": {"view": 1.0, "cart": 3.0, "purchase": 5.0}}
    for name, items, seed in (("wear", wear, 1), ("parts", parts, 2)):
        write_table(pa.Table.from_pylist(items, ITEMS), inputs["split"] / f"items_{name}.parquet", ITEMS)
        ids = np.array([row["item_id"] for row in items])
        events = draw_events(name, users[name], ids[:-2].tolist(), seed)  # the last two were never sold
        save_interactions(from_events(events, name, weights[name], AT, ids), inputs["interactions"] / f"histories_{name}.safetensors")
    vectors = np.array([[*(np.arange(5) == num % 5), *(np.arange(6) == num % 6), 0.1 * (num % 3)] for num in range(N_ITEMS)], np.float32)
    vectors += np.random.default_rng(3).normal(0, 0.02, vectors.shape).astype(np.float32)  # no two alike to the last bit: a tie may fall either way
    with_vector = np.arange(N_ITEMS) != 9
    VectorTable.of([item_id(num) for num in range(N_ITEMS) if with_vector[num]], vectors[with_vector], "fused:made-up").save(
        inputs["faiss"] / "item_vectors_wear.safetensors")  # fmt: skip
    raw = [{"user_id": id, "dataset": "wear", "raw_id": customer(num), "attributes": "{}"} for num, id in enumerate(users["wear"])]
    raw += [{"user_id": id, "dataset": "parts", "raw_id": str(id), "attributes": "{}"} for id in users["parts"]]
    write_table(pa.Table.from_pylist(raw, USERS), inputs["events"] / "users.parquet", USERS)
    spec = {"repeat": "allow", "target_events": ["purchase"], "time_unit": "ms", "text_kind": "natural", "display": {}}
    datasets = {"wear": spec | {"event_weights": weights["wear"], "image_root": str(folder / "raw" / "images"), "facets": ["colour", "pattern"]},
                "parts": spec | {"event_weights": weights["parts"], "image_root": None, "facets": []}}  # fmt: skip
    (inputs["events"] / "datasets.json").write_text(json.dumps(datasets))
    cutoff = {"kind": "time", "valid_at": AT - 14 * DAY_MS, "test_at": AT, "end_at": AT + 7 * DAY_MS, "time_unit": "ms"}
    (inputs["split"] / "cutoffs.json").write_text(json.dumps(dict.fromkeys(datasets, cutoff)))
    (inputs["hybrid"] / "weights.json").write_text(json.dumps({
        "wear": {"hybrid": {"weights": {"content": 0.5, "item_knn": 0.3, "popularity": 0.2}}},
        "parts": {"hybrid": {"weights": {"item_knn": 0.8, "popularity": 0.2}}}}))
    neighbours(inputs, inputs["neighbours"])
    return inputs
