"A made-up shop in circles of taste, and small strategies to judge on it."

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from recsys.data.catalog import Catalog
from recsys.data.interactions import Interactions, from_events
from recsys.data.schema import DAY_MS, EVENTS, check_table
from recsys.scorers.base import Scorer

N_USERS, N_ITEMS, N_NEW, CIRCLES = 300, 200, 40, 5


def make_shop(seed: int = 7) -> tuple[Interactions, np.ndarray, np.ndarray]:
    "Interactions before the cutoff, then (user_ids, item_nums) after it; every tenth user is a stranger."
    rng = np.random.default_rng(seed)
    users, tastes, old = np.arange(N_USERS), np.arange(N_ITEMS) % CIRCLES, N_ITEMS - N_NEW
    pick = lambda user, low, high: rng.choice(np.flatnonzero(tastes[low:high] == user % CIRCLES)) + low
    before = np.array([(user, pick(user, 0, old)) for user in users if user % 10 for _ in range(6)])
    after = np.array([(user, pick(user, *((0, old) if rng.random() < 0.7 else (old, N_ITEMS)))) for user in users for _ in range(2)])
    n = len(before)
    ts = pa.array(rng.integers(0, 90 * DAY_MS, size=n), pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
    table = pa.table({"dataset": ["shop"] * n, "user_id": before[:, 0] + 1, "item_id": before[:, 1] + 1, "event": ["purchase"] * n, "ts": ts,
                      "quantity": np.ones(n, np.int32), "price": np.ones(n, np.float32)})  # fmt: skip
    shop = from_events(check_table(table, EVENTS, "events"), "shop", {"purchase": 1.0}, at=90 * DAY_MS, item_ids=np.arange(1, N_ITEMS + 1))
    return shop, after[:, 0] + 1, after[:, 1]


def make_catalog(shop: Interactions, folder: Path, pictures: int = 150, title: str = "Jumper") -> Catalog:
    "Coloured pictures for the first items, only text for the rest."
    images = []
    for num in range(shop.n_items):
        images.append(f"{num}.jpg" if num < pictures else None)
        if num < pictures:
            Image.new("RGB", (160, 240), tuple(np.random.default_rng(num).integers(0, 255, 3).tolist())).save(folder / f"{num}.jpg")
    table = pd.DataFrame({"item_id": shop.items.ids, "dataset": "shop", "raw_id": shop.items.ids.astype(str), "title": title, "text": "text",
                          "category": [f"all > circle {num % CIRCLES}" for num in range(shop.n_items)], "product_code": None, "price": np.float32(1),
                          "image": images, "attributes": '{"colour": "red"}'})  # fmt: skip
    return Catalog(table, "shop", shop.items, folder)


class Popular(Scorer):
    name, answers_strangers = "popularity", True

    def columns(self, queries, nums):
        return np.tile(self.interactions.popularity().astype(np.float32)[nums], (len(queries), 1))


class Circle(Scorer):
    "Likes what is of the user's circle."

    name, sign, luck = "content", 1, 1

    def columns(self, queries, nums):
        kinds = np.eye(CIRCLES)[np.arange(self.interactions.n_items) % CIRCLES]
        liked = queries.matrix(self.interactions.n_items).toarray() @ kinds
        noise = np.random.default_rng(1).random(self.interactions.n_items)
        return np.where(queries.has_history[:, None], self.sign * liked[:, nums % CIRCLES] + self.luck * noise[nums], np.nan).astype(np.float32)


class Contrary(Circle):
    "Likes what is not; lucky at times."

    name, sign, luck = "two_tower", -1, 12


class Again(Scorer):
    name = "repurchase"

    def columns(self, queries, nums):
        owned = queries.matrix(self.interactions.n_items).toarray()[:, nums]
        return np.where(owned > 0, owned, np.nan).astype(np.float32)


class Silent(Scorer):
    "Broken: NaN for everybody."

    name = "als"

    def columns(self, queries, nums):
        return np.full((len(queries), len(nums)), np.nan, dtype=np.float32)


class Flat(Scorer):
    "Knows nothing: everything the same."

    name, answers_strangers = "flat", True

    def columns(self, queries, nums):
        return np.zeros((len(queries), len(nums)), dtype=np.float32)
