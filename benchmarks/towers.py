"""Two-towers: pairs a second of our training against a plain PyTorch step and the bare matrix products of the same widths, in the same run.

python benchmarks/towers.py [--users N --items N --events N --dims D] [--recall]   (defaults: a tenth of full-size H&M)
--recall trains twice, on epochs of a draw and on epochs of all pairs, and compares recall@100 of what comes next: half an hour at the defaults
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from record import Timed, apart, record
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from tqdm import tqdm

from recsys.data.interactions import Interactions, from_events
from recsys.data.schema import DAY_MS
from recsys.scorers.towers import TowerScorer
from recsys.towers.model import HISTORY, TREND_SIZE, TowerConfig, Towers, width_of
from recsys.towers.pairs import MAX_PAIRS, TowerShop, make_pairs
from recsys.towers.train import (
    Adam,
    Feed,
    TowerModel,
    TrainDials,
    draw_extra,
    epoch_batches,
    given_of,
    make_batch,
    same_every_time,
    train_epoch,
    train_towers,
)

DAYS, GROUPS, NAME = 730, 400, "shop"  # two years; groups of items that look alike and go together


class Size(NamedTuple):
    "How large the drawn shop is."

    users: int = 130_000
    items: int = 105_542
    events: int = 2_830_000
    dims: int = 512
    batches: int = 40  # measured


def draw_shop(size: Size, last_days: int = 0, seed: int = 7) -> TowerShop:
    "Long tails of users and items, two liked groups for everybody, new items all the time; without the last days."
    rng = np.random.default_rng(seed)
    busy, loved = rng.lognormal(0, 1.2, size.users), (np.arange(size.items) + 30.0) ** -0.9
    users = np.repeat(np.arange(size.users), rng.poisson(busy / busy.sum() * size.events))
    group_of, begins = rng.integers(GROUPS, size=size.items), np.sort(rng.integers(0, DAYS, size.items))[rng.permutation(size.items)]
    order = np.argsort(group_of, kind="stable")
    chance = np.cumsum(loved[order] / np.bincount(group_of, loved)[group_of[order]])  # one a group
    ends = np.searchsorted(group_of[order], np.arange(GROUPS), side="right")
    liked = rng.integers(GROUPS, size=(size.users, 2))[users, rng.integers(2, size=len(users))]
    liked = np.where(rng.random(len(users)) < 0.2, rng.integers(GROUPS, size=len(users)), liked)
    drawn = np.searchsorted(chance, np.r_[0, chance[ends - 1]][liked] + rng.random(len(users)) * (chance[ends - 1] - np.r_[0, chance[ends - 1]][:-1])[liked])
    items = order[np.minimum(drawn, size.items - 1)]
    days = np.maximum((begins[items] + rng.exponential(60, len(users))).astype(np.int64), rng.integers(0, DAYS, len(users)) // 8) % DAYS
    kept = days < DAYS - last_days
    events = pa.table({"user_id": users[kept], "item_id": items[kept], "event": ["purchase"] * int(kept.sum()), "quantity": np.ones(kept.sum(), np.int32),
                       "ts": pa.array(days[kept] * DAY_MS).cast(pa.timestamp("ms", "UTC")), "price": rng.random(len(users))[kept]})  # fmt: skip
    shop = from_events(events, NAME, {"purchase": 1.0}, (DAYS - last_days) * DAY_MS, np.arange(size.items))
    middles = rng.normal(size=(GROUPS, size.dims)).astype(np.float32)
    return TowerShop.of(shop, middles[group_of] + rng.standard_normal((size.items, size.dims), dtype=np.float32), "drawn")


def config_of(shop: TowerShop) -> TowerConfig:
    "The towers as the step makes them."
    return TowerConfig({NAME: shop.vectors.shape[1]}, widths={NAME: width_of(shop.vectors)})


def ours(size: Size) -> dict:
    "So many batches of the step's own loop; pairs, seconds, items of a batch."
    import recsys.towers.train as module

    shop, dials = draw_shop(size), TrainDials()
    feed = Feed(shop, make_pairs(shop.interactions), dials.batch_size, dials.seed)
    with same_every_time(7):
        towers = Towers(config_of(shop))
        towers.items.begin(NAME, shop.vectors)
        feed.given = given_of(towers, shop)
        every = epoch_batches({NAME: feed}, dials, 0)
        some, module.epoch_batches = every[: size.batches], lambda *_: every[: size.batches]
        rng = np.random.default_rng(0)
        made = [make_batch(feed, rows, draw_extra(feed, rows, dials.batch_size // 2, rng), expected)[0] for _, rows, expected in some[:5]]
        started = time.perf_counter()
        train_epoch(towers, {NAME: feed}, Adam(towers, dials.learning_rate), dials, 0)
    pairs = sum(len(rows) for _, rows, _ in some)
    return {"pairs": pairs, "seconds": time.perf_counter() - started, "items": int(np.mean([len(batch.vectors) for batch in made])),
            "candidates": len(made[0].candidates), "batch": pairs // len(some)}  # fmt: skip


def plain(size: Size, batch: int = 1024) -> dict:
    "A usual PyTorch step: one network on items, a user's history pooled by `embedding_bag`, in-batch softmax, torch's Adam."
    torch.set_num_threads(1)
    torch.manual_seed(7)
    vectors = torch.randn(size.items, size.dims)
    net = torch.nn.Sequential(torch.nn.Linear(size.dims, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    user = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    adam = torch.optim.Adam([*net.parameters(), *user.parameters()])
    liked = 1 / (np.arange(size.items) + 30.0) ** 0.9
    drawn = torch.multinomial(torch.from_numpy(liked), batch * (HISTORY + 1) * 4, replacement=True).reshape(-1, batch, HISTORY + 1)

    def step(nums: torch.Tensor) -> None:
        mentioned, places = torch.unique(nums, return_inverse=True)
        made = net(vectors[mentioned])
        users = user(functional.embedding_bag(places[:, 1:].contiguous(), made, mode="mean"))
        loss = functional.cross_entropy(users @ made[places[:, 0]].T, torch.arange(batch))
        adam.zero_grad()
        loss.backward()
        adam.step()

    step(drawn[0])
    started = time.perf_counter()
    for i in tqdm(range(size.batches), leave=False, disable=None):
        step(drawn[i % len(drawn)])
    return {"pairs": size.batches * batch, "seconds": time.perf_counter() - started}


def products(size: Size, items: int, candidates: int, batch: int) -> dict:
    "The matrix products of our step alone, forward and backward, nothing else."
    torch.set_num_threads(1)
    config = TowerConfig({NAME: size.dims})
    wide, learned = config.item_size + TREND_SIZE, config.embedding_size + TREND_SIZE  # what is given of the items gets no gradient
    shapes = [(items, size.dims, 128)] * 2 + [(items, 128, 64)] * 6 + [(items, 128, 128)] * 3 + [(items, 64, 32)] * 3
    shapes += [(batch, wide, candidates), (batch, candidates, wide), (candidates, batch, learned)]
    left = [(torch.ones(n, k), torch.ones(k, m)) for n, k, m in shapes]
    flops = sum(2 * n * k * m for n, k, m in shapes)
    fastest = float("inf")  # a limit: what the machine can, not what it does while others work
    for _ in range(size.batches):
        started = time.perf_counter()
        for a, b in left:
            a @ b
        fastest = min(fastest, time.perf_counter() - started)
    return {"pairs": batch, "seconds": fastest, "gflops": flops / fastest / 1e9}


def recalls(interactions: Interactions, scorer: TowerScorer, asked: np.ndarray, wanted: np.ndarray, k: int = 100) -> np.ndarray:
    "(n,) whether what each user took next is among the k best."
    parts = np.array_split(np.arange(len(asked)), -(-len(asked) // 1000))
    return np.concatenate([(scorer.top_k(interactions.queries(asked[part]), k).nums == wanted[part, None]).any(axis=1) for part in parts]).astype(float)


def drawn_against_all(size: Size, max_pairs: int, epochs: int, all_epochs: int, n_asked: int = 5000) -> dict:
    "Recall@100 of the next week's first purchase, after epochs of a draw and after epochs of all pairs."
    whole, shop = draw_shop(size).interactions, draw_shop(size, last_days=7)
    new = whole.past.ts >= shop.interactions.at
    users, first = np.unique(whole.past.row_of_event[new], return_index=True)
    wanted, known = whole.past.item_nums[new][first], shop.interactions.users.nums(whole.users.ids[users], missing="negative") >= 0
    chosen = np.random.default_rng(7).permutation(np.flatnonzero(known))[:n_asked]
    found = {}
    for name, most, n_epochs in (("draw", max_pairs, epochs), ("all", size.events, all_epochs)):
        trained = train_towers({NAME: (shop, make_pairs(shop.interactions))}, config_of(shop), TrainDials(epochs=n_epochs, max_pairs=most))
        scorer = TowerScorer(TowerModel.of(trained, {NAME: shop})).fit(shop.interactions)
        found[name] = recalls(shop.interactions, scorer, whole.users.ids[users[chosen]], wanted[chosen])
    off = found["draw"] - found["all"]
    return {"draw": found["draw"].mean(), "all": found["all"].mean(), "difference": off.mean(), "margin": 1.96 * off.std() / len(off) ** 0.5}


def rates(size: Size, run: Callable[..., Timed] = apart) -> dict[str, Timed]:
    "Name -> what it cost, each in a process of its own."
    own = run(ours, size)
    bare = run(products, size, own.said["items"], own.said["candidates"], own.said["batch"])
    return {"our training loop": own, "a plain step": run(plain, size), "the matrix products alone": bare}


def main(given: list[str] | None = None) -> dict[str, Timed]:
    "Measure, show, write down."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recall", action="store_true", help="compare recall after draws and after all pairs instead")
    parser.add_argument("--max-pairs", type=int, default=MAX_PAIRS // 10, help="of a drawn epoch, with --recall")
    parser.add_argument("--epochs", type=int, default=10, help="drawn ones, with --recall")
    parser.add_argument("--all-epochs", type=int, default=3, help="of all pairs, with --recall")
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/README.md")
    asked = parser.parse_args(given)
    size, started = Size(**{name: getattr(asked, name) for name in Size._fields}), time.perf_counter()
    if asked.recall:
        found = drawn_against_all(size, asked.max_pairs, asked.epochs, asked.all_epochs)
        said = (f"recall@100 {found['draw']:.4f} after {asked.epochs} epochs of {asked.max_pairs:,} drawn pairs, {found['all']:.4f} after {asked.all_epochs} "
                f"of all {size.events:,}: {found['difference']:+.4f} ± {found['margin']:.4f}, {found['draw'] / max(found['all'], 1e-9) - 1:+.1%}")  # fmt: skip
        print(said)
    else:
        found = rates(size)
        per_second = {name: one.said["pairs"] / one.said["seconds"] for name, one in found.items()}
        table = Table(title=f"two-towers, {size.events:,} pairs, {size.items:,} items of {size.dims} numbers, fp32, one thread", box=None)
        for name in ("", "pairs/s", "x plain", "peak GiB"):
            table.add_column(name, justify="right" if name else "left")
        for name, one in found.items():
            table.add_row(name, f"{per_second[name]:,.0f}", f"{per_second[name] / per_second['a plain step']:.2f}", f"{one.peak / 2**30:.2f}")
        Console(width=140).print(table)
        own, step, bare = per_second.values()
        said = (f"{own / step:.2f}x the pairs/s of a plain step (history of {HISTORY} pooled), {own / bare:.2f}x of what its matrix products allow, "
                f"{own:,.0f} pairs/s, peak {found['our training loop'].peak / 2**30:.1f} GiB at {size.events:,} pairs")  # fmt: skip
    if asked.record:
        record("two-towers, recall" if asked.recall else "two-towers", said, time.perf_counter() - started,
               f"python benchmarks/towers.py{' --recall' if asked.recall else ''} --record")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
