"""The service under load: an open-loop client on its own core asks a server on another one, over loopback only.

python benchmarks/service.py rate|similar|overload|soak|start|swap|sigterm|fuzz [--seconds S] [--rate N] [--requests N]
        [--items 105000] [--dims 512] [--users 200000] [--record]

Open loop: requests leave when their time has come, whether or not earlier ones are answered, and a request's time counts from that
moment: a server that stalls is not spared the requests that would have come meanwhile. The bundle is drawn here and kept for the next one.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import psutil
import pyarrow as pa
from record import CACHE, environment, record

NAME, AT, DAY = "shop", 1_600_000_000_000, 86_400_000
ALS_SIZE, TOKEN = 64, "only for this measurement"


# ---- the bundle


def drawn(rng: np.random.Generator, n: int, dims: int, kinds: np.ndarray, spread: float = 0.7) -> np.ndarray:
    "(n, dims) unit vectors in clusters, as a shop's are: (n,) kinds says which."
    centres = rng.normal(size=(kinds.max() + 1, dims)).astype(np.float32)
    vectors = centres[kinds] + spread * rng.normal(size=(n, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw_events(rng: np.random.Generator, n_items: int, n_users: int, kinds: np.ndarray) -> pa.Table:
    "Ten purchases a user, most of them of a few kinds; items sell as unevenly as everywhere."
    per_user = 1 + rng.poisson(9 * rng.lognormal(-0.5, 1, n_users))
    users = np.repeat(np.arange(n_users), np.minimum(per_user, 300))
    order, starts = np.argsort(kinds, kind="stable"), np.searchsorted(np.sort(kinds), np.arange(kinds.max() + 2))
    kind = rng.integers(kinds.max() + 1, size=(n_users, 4))[users, rng.integers(4, size=len(users))]
    place = starts[kind] + (rng.random(len(users)) ** 3 * (starts[kind + 1] - starts[kind])).astype(int)
    loved = (rng.random(len(users)) ** 4 * n_items).astype(int)
    items = np.where(rng.random(len(users)) < 0.7, order[np.minimum(place, n_items - 1)], loved)
    ts = AT - 1 - (rng.random(len(users)) * 365).astype(np.int64) * DAY
    return pa.table({"user_id": users + 1, "item_id": items + 1, "event": pa.array(["purchase"]).take(pa.array(np.zeros(len(users), int))),
                     "ts": pa.array(ts).cast(pa.timestamp("ms", "UTC")), "quantity": pa.array(np.ones(len(users), np.int32)),
                     "price": pa.array(np.full(len(users), 9.0))})  # fmt: skip


def draw_bundle(folder: Path, n_items: int, dims: int, n_users: int, seed: int = 7) -> Path:
    "A bundle of this size with the hybrid's three parts and popularity, written by the project's own writers."
    from recsys.data.interactions import from_events, save_interactions
    from recsys.data.schema import ITEMS, USERS, write_table
    from recsys.pipeline.bundle import bundle
    from recsys.scorers.als import AlsScorer, als_space
    from recsys.store import write_json
    from recsys.vectors.table import VectorTable

    names = ("events", "split", "interactions", "als_import", "als_tower", "faiss", "hybrid")
    rng, steps = np.random.default_rng(seed), {name: folder / "steps" / name for name in names}
    for path in steps.values():
        path.mkdir(parents=True)
    kinds = rng.integers(max(8, n_items // 250), size=n_items)
    ids, users = np.arange(n_items) + 1, np.arange(n_users) + 1
    table = pa.table({"item_id": ids, "dataset": [NAME] * n_items, "raw_id": ids.astype(str),
                      "title": [f"Item {n} of kind {kind}" for n, kind in enumerate(kinds)],
                      "text": [f"What there is to say of item {n}, which is of kind {kind}." for n, kind in enumerate(kinds)],
                      "category": [f"Department {kind % 10} > Kind {kind}" for kind in kinds], "product_code": (ids // 3).astype(str),
                      "price": pa.array(rng.lognormal(3, 0.6, n_items)), "image": pa.nulls(n_items, pa.string()),
                      "attributes": [json.dumps({"colour": f"colour {n % 13}"}) for n in range(n_items)]})  # fmt: skip
    write_table(table, steps["split"] / f"items_{NAME}.parquet", ITEMS)
    people = pa.table({"user_id": users, "dataset": [NAME] * n_users, "raw_id": users.astype(str), "attributes": ["{}"] * n_users})
    write_table(people, steps["events"] / "users.parquet", USERS)
    shop = from_events(draw_events(rng, n_items, n_users, kinds), NAME, {"purchase": 1.0}, AT, ids)
    save_interactions(shop, steps["interactions"] / f"histories_{NAME}.safetensors")
    looks = VectorTable(ids, drawn(rng, n_items, dims, kinds), "drawn:looks")
    looks.save(steps["faiss"] / f"item_vectors_{NAME}.safetensors")
    taken = drawn(rng, n_items, ALS_SIZE, kinds)
    mean = shop.matrix() @ taken
    tastes = (mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    als, space = AlsScorer(ALS_SIZE), als_space("drawn", tastes, taken)
    als._take(shop, VectorTable(shop.users.ids, tastes, space), VectorTable(ids, taken, space)).save(steps["als_import"])
    draw_tower(shop, als, steps["als_tower"])
    spec = {"event_weights": {"purchase": 1.0}, "repeat": "allow", "target_events": ["purchase"], "time_unit": "ms", "image_root": None, "facets": ["colour"],
            "text_kind": "natural", "display": {}}  # fmt: skip
    write_json({NAME: spec}, steps["events"] / "datasets.json")
    cutoff = {"kind": "leave_one_out", "valid_at": AT, "test_at": AT, "end_at": AT, "time_unit": "ms"}  # everything is on sale: the widest search
    write_json({NAME: cutoff}, steps["split"] / "cutoffs.json")
    write_json({NAME: {"hybrid": {"weights": {"content": 0.4, "als": 0.4, "als_tower": 0.2}}}}, steps["hybrid"] / "weights.json")
    (folder / "bundle").mkdir()
    print("drawn:", bundle(steps, folder / "bundle", repeat="allow"))
    shutil.rmtree(folder / "steps")
    return folder / "bundle"


def draw_tower(shop, als, folder: Path) -> None:  # shop: Interactions, als: AlsScorer
    "An ALS tower as it is before the first epoch: what it says costs the same."
    from recsys.scorers.towers import TowerScorer, als_start
    from recsys.towers.model import TowerConfig
    from recsys.towers.pairs import TowerShop, make_pairs
    from recsys.towers.train import TowerModel, TrainDials, train_towers

    told = TowerShop.of(shop, als.item_vectors, als.items.space)
    config = TowerConfig({NAME: als.embedding_size}, kind="als", embedding_size=als.embedding_size, spaces={NAME: als.items.space})
    trained = train_towers({NAME: (told, make_pairs(shop))}, config, TrainDials(epochs=0), start={NAME: als_start(als)})
    TowerScorer(TowerModel.of(trained, {NAME: told}), als.user_vectors).fit(shop).save(folder)


def kept_bundle(size: argparse.Namespace) -> Path:
    "The bundle of this size, drawn once."
    cache = CACHE / f"service-{size.items}x{size.dims}-{size.users}"
    if not cache.exists():
        shutil.rmtree(ahead := cache.with_suffix(".part"), ignore_errors=True)
        ahead.mkdir(parents=True)
        draw_bundle(ahead, size.items, size.dims, size.users)
        ahead.rename(cache)
    return cache / "bundle"


# ---- the server


def on_core(core: int) -> list[str]:
    "A prefix that keeps a process on one core, where there is such a thing and more than one core."
    return ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


@dataclass
class Server:
    "A running service."

    process: subprocess.Popen
    port: int
    seconds: float  # until it was ready

    def memory(self) -> float:
        "MiB of its own."
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextmanager
def serving(bundle: Path, log: Path | None = None):
    "The service on a bundle, on core 0; stopped at the end."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"RECSYS_BUNDLE": str(bundle), "RECSYS_ADMIN_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RECSYS_DEMO": ""}
    command = [*on_core(0), sys.executable, "-c", f"from recsys.api.main import serve; serve(port={port}, log_level='warning')"]
    started = time.perf_counter()
    with (log or Path(os.devnull)).open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        while not (said := health(port)).startswith(b"HTTP/1.1 200"):
            if process.poll() is not None or b"not_ready" in said or time.perf_counter() - started > 300:
                raise SystemExit(f"the service did not start: {said[-500:].decode()}")
            time.sleep(0.02)
        yield Server(process, port, time.perf_counter() - started)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def health(port: int, page: str = "/health/ready") -> bytes:
    "What `/health/ready` or another page says; nothing where nobody listens yet."
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            link.sendall(f"GET {page} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: link.recv(1 << 16), b""))
    except OSError:
        return b""


# ---- the client


@dataclass
class Tally:
    "What came back."

    seconds: list[float] = field(default_factory=list)  # of those answered 200, from when they were due
    statuses: Counter = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)  # what should not have come
    versions: Counter = field(default_factory=Counter)

    def quantiles(self) -> dict[str, float]:
        "Milliseconds."
        quantiles = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        return {name: float(np.quantile(self.seconds, q)) * 1000 if self.seconds else float("nan") for name, q in quantiles.items()}

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.quantiles().items())
        return f"{sum(self.statuses.values()):,} requests, {dict(self.statuses)}, {times}" + (f"; odd: {self.odd[:3]}" if self.odd else "")


class Link:
    "One connection that is kept open."

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, request: bytes, no_body: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        "Status, headers and body of the answer."
        if self.writer is not None and self.reader.at_eof():  # the server has closed it while it was idle
            self.close()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            self.writer.write(request)
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.split(b"\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            body = b"" if no_body else await self.reader.readexactly(int(headers.get(b"content-length", 0)))
        except BaseException:
            self.close()
            raise
        if headers.get(b"connection") == b"close":
            self.close()
        return int(first.split()[1]), headers, body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def load(
    port: int,
    requests: Callable[[int], bytes],  # number -> what to ask
    rate: float,  # a second
    n: int,
    links: int = 256,  # connections at most; a request that finds none waits, and its time runs
    stop: asyncio.Event | None = None,
    seen: Callable[[int, bytes], str | None] | None = None,  # status, body -> what is odd of it
) -> Tally:
    "Ask at this rate, whatever comes back."
    tally, free, waiting = Tally(), asyncio.LifoQueue(), set()
    for _ in range(links):
        free.put_nowait(Link(port))
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.05

    async def one(number: int, due: float) -> None:
        link = await free.get()
        try:
            status, headers, body = await asyncio.wait_for(link.ask(requests(number)), 60)
            if status == 200:
                tally.seconds.append(loop.time() - due)
            if status == 503 and b"retry-after" not in headers:
                tally.odd.append("503 without Retry-After")
            if seen is not None and (odd := seen(status, body)):
                tally.odd.append(odd)
            tally.statuses[status] += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as problem:
            tally.statuses[type(problem).__name__] += 1
        finally:
            free.put_nowait(link)

    for number in range(n):
        due = began + number / rate
        if (pause := due - loop.time()) > 0.0005:
            await asyncio.sleep(pause)
        if stop is not None and stop.is_set():
            break
        task = asyncio.create_task(one(number, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting)
    while not free.empty():
        free.get_nowait().close()
    return tally


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode()


def post(path: str, body: object, *headers: str) -> bytes:
    said = json.dumps(body).encode()
    lines = "\r\n".join([f"POST {path} HTTP/1.1", "host: here", "content-type: application/json", f"content-length: {len(said)}", *headers, "", ""])
    return lines.encode() + said


def any_user(size: argparse.Namespace, k: int = 12) -> Callable[[int], bytes]:
    "Recommendations of the hybrid for users by chance, all alike: no cache of the usual ones helps."
    random_users = np.random.default_rng(11).integers(1, size.users + 1, 1 << 16)
    return lambda number: get(f"/recommend/user/{random_users[number % len(random_users)]}?top_k={k}&strategy=hybrid")


def any_item(size: argparse.Namespace, k: int = 50) -> Callable[[int], bytes]:
    random_items = np.random.default_rng(12).integers(1, size.items + 1, 1 << 16)
    return lambda number: get(f"/similar/{random_items[number % len(random_items)]}?top_k={k}")


def run(port: int, requests: Callable[[int], bytes], rate: float, seconds: float, **more) -> Tally:
    "Load from core 1."
    if on_core(1):
        os.sched_setaffinity(0, {1})
    return asyncio.run(load(port, requests, rate, int(rate * seconds), **more))


def warm(port: int, requests: Callable[[int], bytes], n: int = 300) -> None:
    "Wait until all is loaded that is loaded after the start, then ask a little."
    until = time.perf_counter() + 120
    while b"recsys_warm 1" not in health(port, "/metrics") and time.perf_counter() < until:
        time.sleep(0.1)
    run(port, requests, 100, n / 100)


# ---- what is measured


def rate(size: argparse.Namespace) -> str:
    "The hybrid, k = 12, at 300 a second: p50 <= 10 ms, p99 <= 50 ms, no error."
    with serving(kept_bundle(size)) as server:
        warm(server.port, any_user(size))
        tally = run(server.port, any_user(size), size.rate or 300, size.seconds or 60)
        return f"hybrid k=12 at {size.rate or 300}/s for {size.seconds or 60} s: {tally}; {server.memory():,.0f} MiB"


def similar(size: argparse.Namespace) -> str:
    "Similar items: p99 <= 10 ms at recall@50 >= .99 of exact."
    with serving(kept_bundle(size)) as server:
        warm(server.port, any_item(size))
        tally = run(server.port, any_item(size), size.rate or 100, size.seconds or 30)
        return f"similar k=50 at {size.rate or 100}/s: {tally}; recall@50 {recall(server.port, size):.4f}"


def recall(port: int, size: argparse.Namespace, n: int = 200, k: int = 50) -> float:
    "Share of the exactly nearest items that the service gives."
    from recsys.vectors.table import VectorTable

    vectors = VectorTable.load(kept_bundle(size) / "faiss" / f"item_vectors_{NAME}.safetensors").vectors
    items, shares = np.random.default_rng(13).integers(size.items, size=n), []

    async def ask() -> list[list[int]]:
        link = Link(port)
        replies = [await link.ask(get(f"/similar/{item + 1}?top_k={k}")) for item in items]
        link.close()
        return [[card["item_id"] - 1 for card in json.loads(body)["items"]] for _, _, body in replies]

    for item, found in zip(items.tolist(), asyncio.run(ask()), strict=True):
        scores = vectors @ vectors[item]
        scores[item] = -np.inf
        shares.append(len(set(found) & set(np.argpartition(-scores, k)[:k].tolist())) / k)
    return float(np.mean(shares))


def overload(size: argparse.Namespace) -> str:
    "Five times the rate for 30 s: only 200, or 503 with Retry-After; memory +50 MB at most; back to normal within 5 s."
    usual = size.rate or 300
    with serving(kept_bundle(size)) as server:
        warm(server.port, any_user(size))
        run(server.port, any_user(size), usual / 2, 5)
        before = server.memory()
        tally = run(server.port, any_user(size), 5 * usual, size.seconds or 30, links=512)
        after, grown = time.perf_counter(), server.memory() - before
        while (probe := run(server.port, any_user(size), usual / 2, 0.5)).quantiles()["p99"] > 50 or set(probe.statuses) != {200}:
            if time.perf_counter() - after > 60:
                break
        return f"overload {5 * usual}/s: {tally}; {tally.statuses[200] / (size.seconds or 30):,.0f} answered a second; memory {grown:+,.0f} MiB; " \
               f"back in {time.perf_counter() - after - 0.5:.1f} s"  # fmt: skip


def soak(size: argparse.Namespace) -> str:
    "10^6 requests of all kinds: memory grows 3 % at most, descriptors stay."
    n, parts = size.requests or 1_000_000, 20
    users, items, chance = any_user(size), any_item(size, 12), random.Random(7)
    odd = [get("/items/none"), get("/recommend/user/nobody?top_k=3"), get("/nothing"), get("/health/ready"), post("/recommend", {"history": [1, 2, 3]}),
           post("/recommend", {"history": "no"}), post("/search", {"text": "item of kind 7"}), get("/metrics")]  # fmt: skip
    ask = lambda number: odd[number % len(odd)] if chance.random() < 0.1 else (users if number % 3 else items)(number)
    with serving(kept_bundle(size)) as server:
        warm(server.port, ask, 2000)
        points, statuses, process = [], Counter(), psutil.Process(server.process.pid)
        for _ in range(parts):
            tally = run(server.port, ask, size.rate or 250, n / parts / (size.rate or 250))
            statuses += tally.statuses
            points.append((server.memory(), process.num_fds()))
        memory = np.array([point[0] for point in points])
        slope = np.polyfit(np.linspace(0, 1, len(memory)), memory, 1)[0] / memory[0]
        return f"soak {n:,}: {dict(statuses)}; memory {memory[0]:,.0f} to {memory[-1]:,.0f} MiB, slope {slope:+.1%}; " \
               f"descriptors {points[0][1]} to {points[-1][1]}"  # fmt: skip


def start(size: argparse.Namespace) -> str:
    "Ready in 5 s, 1.5 GiB."
    seconds, ready, warmed = [], [], []
    for _ in range(3):
        with serving(kept_bundle(size)) as server:
            seconds.append(server.seconds)
            ready.append(server.memory())
            warm(server.port, any_user(size), 1)
            warmed.append(server.memory())
    return f"start: ready in {', '.join(f'{s:.1f}' for s in seconds)} s; {max(ready):,.0f} MiB, {max(warmed):,.0f} MiB when all is loaded"


def swap(size: argparse.Namespace) -> str:
    "20 exchanges at 200 a second: none failed, one version a reply; a corrupt bundle is refused."
    bundle, n, per_second = kept_bundle(size), size.requests or 20, size.rate or 200
    with tempfile.TemporaryDirectory() as folder:
        other, torn, pointer = Path(folder, "other"), Path(folder, "torn"), Path(folder, "current")
        for copy in (other, torn):
            shutil.copytree(bundle, copy, copy_function=os.link if os.stat(folder).st_dev == bundle.stat().st_dev else shutil.copy2)
        again(other)
        spoil(torn / "als_import" / f"als_{NAME}_items.safetensors")
        pointer.write_text(str(bundle))
        versions = {json.loads((path / "bundle.json").read_text())["version"] for path in (bundle, other)}
        with serving(pointer) as server:
            warm(server.port, any_user(size))
            told, tally = asyncio.run(swapping(server.port, any_user(size), per_second, n, pointer, [other, torn, bundle], versions))
            return f"swap: {dict(told)} of {n} at {per_second}/s; {tally}; versions {len(tally.versions)}; {server.memory():,.0f} MiB"


def again(bundle: Path) -> None:
    "Make another version of a bundle: the same files, another word in its bundle.json."
    from recsys.serving.bundle import read_about, version_of
    from recsys.store import sealed, write_text

    about = {name: value for name, value in read_about(bundle).items() if name != "seal"} | {"note": "the same again"}
    about["version"] = version_of(about)
    (bundle / "bundle.json").unlink()  # it may be a link to the first one's
    write_text(sealed(about), bundle / "bundle.json")


def spoil(path: Path) -> None:
    "Flip one bit of a copy."
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


async def swapping(port: int, requests: Callable[[int], bytes], rate: float, n: int, pointer: Path, bundles: Sequence[Path], versions: set[str]):
    "Load, and exchanges one after the other meanwhile; every third one is damaged."
    stop, told, versions_seen = asyncio.Event(), Counter(), Counter()

    def seen(status: int, body: bytes) -> str | None:
        if status != 200:
            return None
        version = json.loads(body)["bundle"]
        versions_seen[version] += 1
        return None if version in versions else f"a reply of version {version}"

    loading = asyncio.create_task(load(port, requests, rate, 10**9, stop=stop, seen=seen))
    link = Link(port)
    for number in range(n):
        ahead = pointer.with_suffix(".new")
        ahead.write_text(str(bundles[number % len(bundles)]))
        os.replace(ahead, pointer)
        status, _, body = await asyncio.wait_for(link.ask(post("/admin/reload", {}, f"authorization: Bearer {TOKEN}")), 300)
        told[json.loads(body).get("status", status)] += 1
        await asyncio.sleep(0.3)
    stop.set()
    tally = await loading
    tally.versions = versions_seen
    link.close()
    return told, tally


def sigterm(size: argparse.Namespace) -> str:
    "SIGTERM under load: no accepted request lost, gone within 10 s."
    lines, times = Counter(), []
    for _ in range(size.requests or 3):
        with serving(kept_bundle(size)) as server:
            warm(server.port, any_user(size), 100)
            tally, seconds = asyncio.run(stopped(server, any_user(size), size.rate or 200))
            lines.update(tally.statuses)
            times.append(seconds)
    return f"SIGTERM at {size.rate or 200}/s: {dict(lines)} (ConnectionRefusedError: not accepted any more); gone in {max(times):.1f} s at most"


async def stopped(server: Server, requests: Callable[[int], bytes], rate: float) -> tuple[Tally, float]:
    "Load, a SIGTERM after two seconds; what was sent before it must be answered."
    stop = asyncio.Event()
    loading = asyncio.create_task(load(server.port, requests, rate, 10**9, stop=stop))
    await asyncio.sleep(2)
    server.process.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    await asyncio.sleep(0.0)
    stop.set()
    tally = await loading
    await asyncio.to_thread(server.process.wait, 30)
    return tally, time.perf_counter() - began


# ---- what nobody should ask


@dataclass(frozen=True)
class Request:
    "Something to ask."

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


ODD_TEXTS = ("", " ", "\x00", "a\x00b", "x" * 3000, "../../etc/passwd", "..\\..\\x", "' OR 1=1 --", "\u202e", "😀" * 50, "-1", "0", "1e9", "1.5", "NaN",
             "Infinity", "true", "null", "9" * 30, str(2**63), "<script>alert(1)</script>", "%00", "%2e%2e", "\r\nX: y", "{{7*7}}",
             "${jndi:ldap://x}", "\ud800")  # fmt: skip
ODD_VALUES = (None, True, -1, 0, 1.5, 1e308, 10**30, [], {}, [[]], "", "x" * 3000, "\ud800", float("nan"), float("-inf"), {"item_id": None}, ["a"] * 1000)


def adversarial(n: int, seed: int, ids: Sequence[str]) -> list[Request]:
    "Requests that are wrong somewhere, or right but for one thing; the same ones for a seed."
    rng = random.Random(seed)
    word = lambda: quote(rng.choice([*ids, *ODD_TEXTS]), safe="", errors="surrogatepass")
    fields = {"/recommend": {"history": [ids[0], {"item_id": ids[-1], "event": "view"}], "user_id": ids[0], "top_k": 5, "strategy": "hybrid", "dataset": "shop",
                             "exclude": [ids[-1]], "category": "Ladies", "price": [1, 20], "diversity": 0.3, "weights": {"content": 1.0, "popularity": 1.0}},
              "/search": {"text": "red dress", "top_k": 3}, "/admin/reload": {"rollback": False}}  # fmt: skip
    gets = ("/recommend/user/{}", "/similar/{}", "/items/{}", "/images/{}", "/explain/{}/{}", "/{}", "/demo/{}", "/model", "/metrics", "/openapi.json", "/docs")
    options = ("top_k={}", "strategy={}", "dataset={}", "size={}", "{}=1", "top_k=3&top_k={}")
    found = []
    for _ in range(n):
        if rng.random() < 0.5:
            path = re.sub(r"\{\}", lambda _: word(), rng.choice(gets))
            query = "&".join(option.format(word()) for option in rng.sample(options, rng.randint(0, 2)))
            found.append(Request(rng.choice(("GET", "GET", "GET", "HEAD", "DELETE", "PUT")), path + (f"?{query}" if query else "")))
            continue
        path, said = rng.choice([*fields.items()])
        said = {name: value for name, value in said.items() if rng.random() < 0.6}
        for name in rng.sample([*fields[path], "more"], rng.randint(0, 2)):
            said[name] = rng.choice([*ODD_VALUES, *ODD_TEXTS])
        body = json.dumps(said).encode()
        if rng.random() < 0.15:
            body = rng.choice((body[:-1], b"[" * 5000, b"", b"\xff\xfe" + body, body * 2, b"\x00" * 100, rng.randbytes(200)))
        kind = rng.choice(("application/json",) * 6 + ("text/plain", "image/jpeg", "multipart/form-data", ""))
        found.append(Request("POST", "/search/image" if rng.random() < 0.05 else path, body, {"content-type": kind}))
    return found


def fuzz(size: argparse.Namespace) -> str:
    "10,000 calls of schemathesis and 5,000 of our own: no 5xx, and replies are what the schema says."
    n = size.requests or 10_000
    with serving(kept_bundle(size)) as server:
        statuses = asyncio.run(ours(server.port, adversarial(n // 2, 7, ["1", "17", "no such thing"])))
        failed = {status: k for status, k in statuses.items() if isinstance(status, str) or status >= 500}
        return f"fuzz: ours {n // 2:,}: {dict(sorted(statuses.items(), key=str))}, bad {failed or 'none'}; schemathesis {schemathesis(server.port, n)}"


async def ours(port: int, requests: Sequence[Request]) -> Counter:
    "What came back of each."
    link, statuses = Link(port), Counter()
    for request in requests:
        head = "\r\n".join([f"{request.method} {request.path} HTTP/1.1", "host: here", *(f"{name}: {value}" for name, value in request.headers.items()),
                            f"content-length: {len(request.body or b'')}", "", ""]).encode("latin-1", "replace")  # fmt: skip
        try:
            status, _, _ = await asyncio.wait_for(link.ask(head + (request.body or b""), no_body=request.method == "HEAD"), 30)
        except (OSError, asyncio.IncompleteReadError) as problem:
            status = type(problem).__name__
        statuses[status] += 1
    link.close()
    return statuses


def schemathesis(port: int, n: int) -> str:
    "What schemathesis finds, from an environment of its own."
    python = environment("schemathesis>=4")
    if isinstance(python, str):
        return f"not run: {python}"
    tool, home = python.with_name("schemathesis"), python.parents[1]
    operations = 8  # of those in the schema, whose questions have something to vary
    said = subprocess.run([tool, "run", f"http://127.0.0.1:{port}/openapi.json", "--max-examples", str(max(1, n // operations)), "--seed", "7",
                           "--no-color", "--checks", "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance",
                           "--phases", "fuzzing", "--continue-on-failure"], capture_output=True, text=True, check=False)  # fmt: skip
    (home / "last.txt").write_text(said.stdout + said.stderr)
    return " ".join(said.stdout.split("SUMMARY")[-1].replace("=", " ").split())[:600]


FIGURES = {"fuzz": fuzz, "rate": rate, "similar": similar, "overload": overload, "soak": soak, "start": start, "swap": swap, "sigterm": sigterm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figure", choices=[*FIGURES])
    for name, usual in (("items", 105_000), ("dims", 512), ("users", 200_000), ("requests", 0), ("seconds", 0.0), ("rate", 0.0)):
        parser.add_argument(f"--{name}", type=type(usual), default=usual)
    parser.add_argument("--record", action="store_true", help="write the row of benchmarks/README.md")
    size = parser.parse_args()
    if size.figure == "fuzz":  # about what is asked, not about how much there is
        size.items, size.dims, size.users = min(size.items, 2000), min(size.dims, 32), min(size.users, 1000)
    kept_bundle(size)
    began = time.perf_counter()
    measured = FIGURES[size.figure](size)
    if size.record:
        record(f"service, {size.figure}", measured, time.perf_counter() - began, f"python benchmarks/service.py {size.figure}")
    else:
        print(measured)


if __name__ == "__main__":
    main()
