"""ALS: the steps `als` and `als_import` against bare implicit on the same csv, in the same run.

python benchmarks/als.py [--users N --items N --cells N] [--engine spark]   (defaults: the cells of full-size H&M)
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from record import Timed, apart, record, show_ratios

NAME, SIZE, EPOCHS, ALPHA, PENALTY = "shop", 32, 5, 10.0, 0.1
CG_STEPS = 3  # of implicit's solver, each passes over a row's items once; and once before them


def draw_csv(folder: Path, n_users: int, n_items: int, n_cells: int, seed: int = 7) -> Path:
    "Interactions of as many distinct cells as asked for, at most: long tails of users and items."
    rng = np.random.default_rng(seed)
    busy, loved = rng.lognormal(0, 1.2, n_users), (np.arange(n_items) + 30.0) ** -0.9
    users = np.repeat(np.arange(n_users, dtype=np.int64), rng.poisson(busy / busy.sum() * n_cells))
    items = rng.permutation(n_items)[np.searchsorted(np.cumsum(loved) / loved.sum(), rng.random(len(users)))]
    cells = np.unique(users * n_items + items)
    table = pa.table({"user": cells // n_items, "item": cells % n_items, "weight": rng.poisson(0.2, len(cells)).astype(np.float32) + 1})
    pacsv.write_csv(table, path := folder / f"interactions_{NAME}.csv", pacsv.WriteOptions(quoting_header="none"))
    return path


def bare(path: Path, out: Path) -> dict[str, float]:
    "implicit as its own README shows it: read, fit, save; seconds of the fit alone, and of one random pass over all cells."
    import scipy.sparse as sp
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    table = pacsv.read_csv(path)
    cells = sp.csr_matrix((table["weight"].to_numpy().astype(np.float32), (table["user"].to_numpy(), table["item"].to_numpy())))
    with threadpool_limits(1, "blas"):
        started = time.perf_counter()
        model = AlternatingLeastSquares(factors=SIZE, iterations=EPOCHS, regularization=PENALTY, alpha=ALPHA, random_state=7)
        model.fit(cells, show_progress=False)
        fit = time.perf_counter() - started
    np.save(out / "users.npy", model.user_factors)
    np.save(out / "items.npy", model.item_factors)
    return {"fit": fit, "cells": cells.nnz, "users": cells.shape[0], "items": cells.shape[1]}


def ours(path: Path, out: Path, engine: str = "implicit") -> dict:
    "The step `als`."
    from recsys.scorers.als_fit import als

    return als({"interactions": path.parent}, out, engine=engine, embedding_size=SIZE, epochs=EPOCHS, alpha=ALPHA, regularization=PENALTY)


def brought_home(path: Path, factors: Path, out: Path) -> dict:
    "The step `als_import`."
    from recsys.data.ids import IdMap
    from recsys.pipeline.als_import import als_import

    table = pacsv.read_csv(path)
    for what in ("user", "item"):
        IdMap(np.arange(table[what].to_numpy().max() + 1), what).save(path.parent / f"id_mappings_{NAME}_{what}s.parquet")
    started = time.perf_counter()
    als_import({"interactions": path.parent, "als": factors}, out)
    return {"fit": time.perf_counter() - started}


def folded_in(path: Path, home: Path, n_users: int) -> dict:
    "User vectors of so many histories, solved for fixed item vectors."
    from recsys.data.interactions import Histories, Queries
    from recsys.scorers.als import FoldIn
    from recsys.vectors.table import VectorTable

    items = VectorTable.load(home / f"als_{NAME}_items.safetensors")
    vectors = np.full((int(items.ids.max()) + 1, items.dims), np.nan, dtype=np.float32)
    vectors[items.ids] = items.vectors
    table = pacsv.read_csv(path)
    users = table["user"].to_numpy()
    mine = users < n_users  # nums are in no order of how busy somebody is
    indptr = np.r_[0, np.cumsum(np.bincount(users[mine], minlength=n_users))].astype(np.int64)
    nums, n = table["item"].to_numpy()[mine].astype(np.int32), int(mine.sum())
    past = Histories(indptr, nums, np.zeros(n, np.int64), np.zeros(n, np.int8), table["weight"].to_numpy()[mine].astype(np.float32))
    strangers = np.full(n_users, -1)
    queries = Queries(NAME, strangers.astype(np.int64), strangers.astype(np.int32), np.zeros(n_users, np.int64), past)
    started = time.perf_counter()
    FoldIn(vectors, ALPHA, PENALTY)(queries)
    return {"fit": time.perf_counter() - started}


def gather_limit(n_rows: int, n_cells: int) -> float:
    "Seconds to read the row of every cell from a table of so many rows, each thread its share: what a solver's pass must do at least."
    table, threads = np.ones((n_rows, SIZE), np.float32), os.cpu_count() or 1
    places = np.random.default_rng(7).integers(n_rows, size=(threads, 1_000_000))
    into = np.zeros((threads, places.shape[1], SIZE), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(lambda one: np.take(table, places[one], axis=0, out=into[one], mode="clip"), range(threads)))
        return (time.perf_counter() - started) * n_cells / places.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_362_281)
    parser.add_argument("--items", type=int, default=104_547)
    parser.add_argument("--cells", type=int, default=29_500_000, help="drawn, before doubles are folded")
    parser.add_argument("--fold-in", type=int, default=69_000, help="histories folded in")
    parser.add_argument("--engine", choices=["implicit", "spark"], default="implicit")
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/README.md")
    asked = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="als-") as place:
        folders = [Path(place, name) for name in ("sent", "bare", "ours", "home")]
        for folder in folders:
            folder.mkdir()
        sent, bare_dir, our_dir, home = folders
        csv = draw_csv(sent, asked.users, asked.items, asked.cells)
        peer = apart(bare, csv, bare_dir)
        step = apart(ours, csv, our_dir, asked.engine)
        imported = apart(brought_home, csv, our_dir, home)
        folding = apart(folded_in, csv, home, min(asked.fold_in, asked.users))
        cells = peer.said["cells"]
        passes = EPOCHS * (1 + CG_STEPS) * (gather_limit(peer.said["items"], cells) + gather_limit(peer.said["users"], cells))
    rows = [("bare implicit, fit alone", Timed(peer.said["fit"], peer.peak, {})), ("bare implicit: read, fit, save", peer), (f"step als, {asked.engine}", step)]
    title = f"ALS, {cells:,} cells, {SIZE} numbers, {EPOCHS} sweeps; reading the rows of all passes takes {passes:.1f} s at least"
    show_ratios(title, rows, peer="bare implicit: read, fit, save")
    home_seconds = imported.said["fit"] + folding.said["fit"]
    print(f"als_import {imported.said['fit']:.1f} s, fold-in of {min(asked.fold_in, asked.users):,} histories {folding.said['fit']:.1f} s")
    if asked.record:
        record("ALS" if asked.engine == "implicit" else f"ALS, {asked.engine}",
               f"{cells:,} cells, {SIZE} numbers, {EPOCHS} sweeps: {step.seconds / peer.seconds:.2f}x of bare implicit with reading and writing "
               f"({step.seconds / peer.said['fit']:.2f}x of its fit alone), peak {step.peak / 2**30:.1f} GiB against {peer.peak / 2**30:.1f}; "
               f"import and fold-in of {min(asked.fold_in, asked.users):,} histories {home_seconds:.0f} s",
               time.perf_counter() - started, f"python benchmarks/als.py{'' if asked.engine == 'implicit' else ' --engine spark'} --record")  # fmt: skip


if __name__ == "__main__":
    main()
