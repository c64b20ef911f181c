"""The best items for all test users: a `VectorScorer` against bare FAISS on the same vectors and threads, and what the products alone take.

python benchmarks/topk.py [--users N --items N --k N --dims D ...] [--record]   (defaults: H&M's catalogue, the users of its last week)
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from record import peak_memory, record

AT_ONCE, COLUMNS = 512, 8_192  # a block of the matrix of products


class Found(NamedTuple):
    "Seconds of each way, and how far the lists agree."

    dims: int
    ours: float
    bare: float  # FAISS, asked for all at once
    limit: float  # the products alone
    agree: float  # share of places with the same item as in bare FAISS's lists


def units(rng: np.random.Generator, n: int, dims: int) -> np.ndarray:
    "(n, dims) float32 rows of length 1 around some hundred centres, as embeddings lie."
    centres = rng.standard_normal((300, dims), dtype=np.float32)
    rows = centres[rng.integers(len(centres), size=n)] + rng.standard_normal((n, dims), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def asked_of_us(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    "(Q, k) item nums, as the evaluator asks for them."
    from recsys.data.ids import IdMap
    from recsys.data.interactions import Histories, Interactions
    from recsys.evaluation.metrics import item_facts, targets_of
    from recsys.evaluation.protocol import Protocol, ask
    from recsys.scorers.base import VectorScorer

    class Given(VectorScorer):
        name, answers_strangers, item_vectors = "given", True, items

        def user_vectors(self, queries):
            return users[queries.user_nums]

    nobody, n = np.zeros(0), len(users)
    past = Histories(np.zeros(n + 1, np.int64), *(nobody.astype(kind) for kind in (np.int32, np.int64, np.int8, np.float32)))
    shop = Interactions("shop", IdMap(np.arange(n)), IdMap(np.arange(len(items))), past, nobody, nobody, 1, {"purchase": 1.0})
    every, none = np.ones(len(items), bool), targets_of([], [], (n, len(items)))
    return ask(Protocol(shop.queries(np.arange(n)), none, every, every, item_facts(every.astype(int), n), ks=(k,)), Given().fit(shop)).nums


def products(users: np.ndarray, items: np.ndarray) -> None:
    "Every user times every item, block by block, nothing kept; a thread for each processor."
    from threadpoolctl import threadpool_limits

    def block(start: int) -> None:
        for column in range(0, len(items), COLUMNS):
            users[start : start + AT_ONCE] @ items[column : column + COLUMNS].T

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(block, range(0, len(users), AT_ONCE)))


def compared(n_users: int, n_items: int, dims: int, k: int, seed: int = 7) -> Found:
    "All three, one after the other."
    import faiss

    rng = np.random.default_rng(seed)
    users, items = units(rng, n_users, dims), units(rng, n_items, dims)
    index, taken = faiss.IndexFlatIP(dims), {}
    index.add(items)
    ways = {"ours": lambda: asked_of_us(users, items, k), "bare": lambda: index.search(users, k)[1], "limit": lambda: products(users, items)}
    asked_of_us(users[:1], items, k)  # imports
    for name, work in ways.items():
        started = time.perf_counter()
        taken[name] = work(), time.perf_counter() - started
    agree = float((taken["ours"][0] == taken["bare"][0]).mean())
    return Found(dims, *(taken[name][1] for name in ways), agree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=69_000)
    parser.add_argument("--items", type=int, default=105_542)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/README.md")
    asked = parser.parse_args()
    from rich.console import Console
    from rich.table import Table

    started, said = time.perf_counter(), []
    table = Table(title=f"the best {asked.k} of {asked.items:,} items for {asked.users:,} users, {os.cpu_count()} threads", box=None)
    for name in ("dims", "ours s", "IndexFlatIP s", "ratio", "products alone s", "ratio", "same item at the same place"):
        table.add_column(name, justify="right")
    for dims in asked.dims:
        one = compared(asked.users, asked.items, dims, asked.k)
        numbers = [f"{one.ours:.1f}", f"{one.bare:.1f}", f"{one.ours / one.bare:.2f}", f"{one.limit:.1f}", f"{one.ours / one.limit:.2f}"]
        table.add_row(f"{dims}", *numbers, f"{one.agree:.4%}")
        said.append(f"{dims}-d {one.ours / one.bare:.2f}x of IndexFlatIP, {one.ours / one.limit:.2f}x of the products alone")
    Console(width=140).print(table)
    print(f"peak memory {peak_memory() / 2**30:.1f} GiB")
    if asked.record:
        sizes = f"{asked.users:,} users, {asked.items:,} items, k {asked.k}"
        record("top-k", f"{sizes}: {'; '.join(said)}", time.perf_counter() - started, "python benchmarks/topk.py --record")


if __name__ == "__main__":
    main()
