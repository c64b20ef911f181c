"""Evaluation of nine strategies against their bare searches, and our metrics against those of other libraries on the same lists.

python benchmarks/evaluation.py [--users N --shop-users N --items N --events N] [--no-libraries] [--record]   (defaults: full-size H&M)
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from record import CACHE, apart, environment, record
from topk import units

DAYS, NOW_DAY, K = 730, 730, 100
DIMS = {"als": 64, "content": 512, "two_tower": 64, "als_tower": 64}
NEIGHBOURS = 200
LIBRARIES = {"recommenders": "recommenders", "RecTools": "rectools", "ranx": "ranx"}  # as we call them: what pip calls them


def draw_shop(n_users: int, n_items: int, n_events: int, seed: int = 7):  # -> Interactions
    "Purchases of two years: long tails of users and items."
    from recsys.data.ids import IdMap
    from recsys.data.interactions import Histories, Interactions
    from recsys.data.schema import DAY_MS

    rng = np.random.default_rng(seed)
    loved = rng.permutation((np.arange(n_items) + 30.0) ** -0.9)
    lengths = rng.multinomial(n_events, (busy := rng.lognormal(0, 1.2, n_users)) / busy.sum())
    items = np.minimum(np.searchsorted(np.cumsum(loved) / loved.sum(), rng.random(n_events)), n_items - 1)
    keys = np.sort((np.repeat(np.arange(n_users), lengths) * DAYS + rng.integers(DAYS, size=n_events)) * n_items + items)
    ones, days = np.ones(n_events, np.float32), keys // n_items % DAYS
    past = Histories(np.r_[0, np.cumsum(lengths)], (keys % n_items).astype(np.int32), days * DAY_MS, np.full(n_events, 2, np.int8), ones)
    users, items = IdMap(np.arange(n_users), "user"), IdMap(np.arange(n_items))
    return Interactions("shop", users, items, past, ones.astype(np.int32), ones, NOW_DAY * DAY_MS, {"purchase": 1.0})


def make_scorers(shop, seed: int = 7) -> dict:
    "The nine strategies, with drawn vectors and neighbours instead of learned ones."
    from scipy.sparse import csr_array

    from recsys.scorers.content import ContentScorer
    from recsys.scorers.hybrid import PRESETS, make_hybrid
    from recsys.scorers.item_knn import ItemKnnScorer
    from recsys.scorers.popularity import PopularityScorer
    from recsys.scorers.repurchase import RepurchaseScorer
    from recsys.vectors.table import VectorTable

    rng, n = np.random.default_rng(seed), min(NEIGHBOURS, shop.n_items)
    nearest = np.sort(shop.past.item_nums[rng.integers(shop.n_events, size=(shop.n_items, n))], axis=1)  # what sells is often near
    knn = ItemKnnScorer()
    knn.interactions = shop
    knn.table = csr_array((rng.random(nearest.size, np.float32), nearest.ravel(), np.arange(0, nearest.size + 1, n)), shape=(shop.n_items,) * 2)
    knn.table.sum_duplicates()
    scorers = {"popularity": PopularityScorer().fit(shop), "repurchase": RepurchaseScorer().fit(shop), "item_knn": knn}
    for name, dims in DIMS.items():
        scorers[name] = ContentScorer.of(VectorTable(shop.items.ids, units(rng, shop.n_items, dims), name), shop)
        scorers[name].name = name
    return scorers | {name: make_hybrid(scorers, shop, preset, name) for name, preset in sorted(PRESETS.items(), reverse=True)}


def draw_truth(shop, n_users: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    "(T,) user ids and (T,) item nums of the week after: some of what the users had, some of what sells."
    rng = np.random.default_rng(seed)
    users = np.sort(rng.permutation(np.flatnonzero(shop.past.lengths > 0))[:n_users])
    rows = np.repeat(users, 1 + rng.poisson(2, len(users)))
    own = shop.past.item_nums[shop.past.indptr[rows] + (rng.random(len(rows)) * shop.past.lengths[rows]).astype(np.int64)]
    return shop.users.ids[rows], np.where(rng.random(len(rows)) < 0.3, own, shop.past.item_nums[rng.integers(shop.n_events, size=len(rows))])


def bare_searches(shop, scorers: dict, asked, allowed: np.ndarray) -> dict[str, float]:
    "Seconds of each strategy's search alone, user vectors and weights given; a hybrid has its parts' and costs nothing more."
    import faiss

    from recsys.scorers.repurchase import faded

    taken = {}
    for name in DIMS:
        users = scorers[name].user_vectors(asked)
        index = faiss.IndexFlatIP(DIMS[name])
        index.add(scorers[name].item_vectors[allowed])
        started = time.perf_counter()
        index.search(users, K)
        taken[name] = time.perf_counter() - started
    weights = [faded(asked[start : start + 4096], shop.n_items, 60.0, 0.8) for start in range(0, len(asked), 4096)]
    started = time.perf_counter()
    for block in weights:
        block @ scorers["item_knn"].table
    taken["item_knn"] = time.perf_counter() - started
    started = time.perf_counter()
    np.argsort(-scorers["popularity"].values)[:K]
    return taken | {"popularity": time.perf_counter() - started}


def evaluated(n_users: int, shop_users: int, n_items: int, n_events: int, lists: str) -> dict:
    "Both, in this process: seconds of all parts; the lists of one strategy for the other libraries."
    import faiss  # noqa: F401 - loaded before anything is timed
    from record import peak_memory

    from recsys.evaluation.metrics import conventions, hits, per_user
    from recsys.evaluation.protocol import judge, lists_table, make_protocol, users_table
    from recsys.recommend import allowed_items

    shop = draw_shop(shop_users, n_items, n_events)
    scorers, truth, allowed = make_scorers(shop), draw_truth(shop, n_users), allowed_items(shop)
    before, started = peak_memory(), time.perf_counter()
    protocol = make_protocol(shop, *truth, allowed, vectors=scorers["content"].item_vectors)
    judgement = judge(protocol, scorers)
    lists_table(judgement, shop.items.ids), users_table(judgement)
    ours = time.perf_counter() - started
    peak = peak_memory()
    bare = bare_searches(shop, scorers, protocol.queries, allowed)
    shown, targets = judgement.lists["item_knn"].nums, protocol.targets
    started = time.perf_counter()
    per_user(hits(shown, targets), (12,))
    metrics = time.perf_counter() - started
    np.savez(lists, nums=shown[:, :K], rows=np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr)), items=targets.indices)
    return {"ours": ours, "bare": bare, "before": before, "peak": peak, "metrics": metrics, "numbers": len(judgement.rows),
            "conventions": conventions(shown, targets), "users": len(protocol.queries), "allowed": int(allowed.sum())}  # fmt: skip


ASKED = {  # what a library's own environment runs: nums (Q, K), rows and items are there; it fills `said`
    "recommenders": """
import pandas as pd
from recommenders.evaluation.python_evaluation import map_at_k, ndcg_at_k, precision_at_k
users, places = np.nonzero(nums >= 0)
shown = pd.DataFrame({"userID": users, "itemID": nums[users, places], "prediction": -places.astype(float)})
truth = pd.DataFrame({"userID": rows, "itemID": items, "rating": 1.0})
for name, metric in {"map": map_at_k, "ndcg": ndcg_at_k, "precision": precision_at_k}.items():
    timed(name, lambda: metric(truth, shown, col_prediction="prediction", k=12))
""",
    "RecTools": """
import pandas as pd
from rectools.metrics import MAP, NDCG, Precision, calc_metrics
users, places = np.nonzero(nums >= 0)
shown = pd.DataFrame({"user_id": users, "item_id": nums[users, places], "rank": places + 1})
truth = pd.DataFrame({"user_id": rows, "item_id": items})
for name, metric in {"map": MAP(k=12), "ndcg": NDCG(k=12), "precision": Precision(k=12)}.items():
    timed(name, lambda: calc_metrics({name: metric}, reco=shown, interactions=truth)[name])
""",
    "ranx": """
from ranx import Qrels, Run, evaluate
truth, shown = {}, {}
for row, item in zip(rows.tolist(), items.tolist()):
    truth.setdefault(str(row), {})[str(item)] = 1
for row, line in enumerate(nums.tolist()):
    shown[str(row)] = {str(item): float(1000 - place) for place, item in enumerate(line) if item >= 0}
truth, shown = Qrels(truth), Run(shown)
for _ in range(2):  # the first time it compiles
    for name, metric in {"map": "map@12", "ndcg": "ndcg@12", "precision": "precision@12"}.items():
        timed(name, lambda: evaluate(truth, shown, metric, make_comparable=True))
""",
}
AROUND = """
import json, sys, time
import numpy as np
file = np.load(sys.argv[1])
nums, rows, items, said = file["nums"], file["rows"], file["items"], {"seconds": 0.0}
taken = {}
def timed(name, work):
    started = time.perf_counter()
    said[name] = float(work())
    taken[name] = time.perf_counter() - started
%s
said["seconds"] = sum(taken.values())
print(json.dumps(said))
"""


def elsewhere(library: str, lists: str, cache: Path) -> dict | str:
    "Values and seconds of a library on the same lists, or why there are none."
    python = environment(LIBRARIES[library], cache)
    if isinstance(python, str):
        return python
    tried = subprocess.run([str(python), "-c", AROUND % ASKED[library], lists], capture_output=True, text=True)
    return json.loads(tried.stdout.splitlines()[-1]) if not tried.returncode else f"{library} failed: {tried.stderr.strip().splitlines()[-1][:120]}"


def show_searches(found: dict) -> None:
    "Each search, their sum, and the evaluation."
    from rich.console import Console
    from rich.table import Table

    total = sum(found["bare"].values())
    table = Table(title=f"{found['users']:,} users, {found['allowed']:,} items allowed, {found['numbers']:,} numbers, {os.cpu_count()} threads", box=None)
    for name in ("", "seconds", "x bare searches"):
        table.add_column(name, justify="right" if name else "left")
    for name, seconds in found["bare"].items():
        table.add_row(f"bare search of {name}", f"{seconds:.2f}", f"{seconds / total:.2f}")
    table.add_row("bare searches", f"{total:.2f}", "1.00")
    table.add_row("evaluation of nine strategies: lists, metrics, slices, intervals", f"{found['ours']:.2f}", f"{found['ours'] / total:.2f}")
    Console(width=140).print(table)
    print(f"peak memory {found['peak'] / 2**30:.2f} GiB, of it {found['before'] / 2**30:.2f} to draw the shop")


def show_libraries(found: dict, theirs: dict[str, dict | str]) -> None:
    "Values at 12 and seconds, ours by the convention of each library."
    from rich.console import Console
    from rich.table import Table

    table, ours = Table(title="the same lists at k = 12; ours by each library's convention", box=None), {row["library"]: row for row in found["conventions"]}
    for name in ("", "seconds", "x ours", *(f"{metric}{whose}" for metric in ("map", "ndcg", "precision") for whose in ("", ", ours"))):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("here, six metrics", f"{found['metrics']:.3f}", "1")
    for library, said in theirs.items():
        if isinstance(said, str):
            print(said)
            continue
        pairs = [f"{row[metric]:.6f}" for metric in ("map", "ndcg", "precision") for row in (said, ours[library])]
        table.add_row(f"{library}, three", f"{said['seconds']:.3f}", f"{said['seconds'] / found['metrics']:.0f}", *pairs)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=69_000, help="of the test week")
    parser.add_argument("--shop-users", type=int, default=1_362_281)
    parser.add_argument("--items", type=int, default=105_542)
    parser.add_argument("--events", type=int, default=31_788_324)
    parser.add_argument("--no-libraries", action="store_true", help="only our own and the searches")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where environments of the libraries stay")
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/README.md")
    asked = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="evaluation-") as place:
        lists = str(Path(place, "lists.npz"))
        found = apart(evaluated, asked.users, asked.shop_users, asked.items, asked.events, lists).said
        show_searches(found)
        if not asked.no_libraries:
            theirs = {library: elsewhere(library, lists, asked.cache) for library in LIBRARIES}
            show_libraries(found, theirs)
    if asked.record:
        total = sum(found["bare"].values())
        other = "" if asked.no_libraries else "".join(f"; {name} {said['seconds'] / found['metrics']:.0f}x our seconds for its metrics"
                                                     for name, said in theirs.items() if isinstance(said, dict))  # fmt: skip
        record("evaluation", f"{found['users']:,} users, {asked.items:,} items, nine strategies: {found['ours'] / total:.2f}x of their bare searches, "
               f"peak {found['peak'] / 2**30:.1f} GiB{other}", time.perf_counter() - started, "python benchmarks/evaluation.py --record")  # fmt: skip


if __name__ == "__main__":
    main()
