"""The demo as its visitors meet it: when there is something to see, how long a click takes, and whether visitors ever see each other's things.

python benchmarks/visitors.py [--sessions 20] [--actions 50] [--record]

On the bundle at RECSYS_BUNDLE, else the published one (`recsys run sample --publish`). The first sight and a visitor's clicks are timed in
Chromium, from the click until the page shows the answer; the other visitors speak to the server as the page does. Every answer is
held against what this visitor did, and nobody else: the address, the things picked, the strategy.
"""

import argparse
import asyncio
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from html import unescape
from operator import itemgetter
from threading import Thread
from urllib.parse import parse_qs

import httpx
import numpy as np
from record import record

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PAUSE = (0.5, 2.5)  # seconds between two clicks of a visitor: quicker than people are
PATIENCE = 120_000  # ms until somebody gives up
OPENED = 5  # times the page is opened by somebody who has nothing of it
WORDS = ("red dress", "blue shirt", "striped", "black bag", "warm", "category")


@contextmanager
def serving():
    "The address of a demo that listens; stopped at the end."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", f"from demo.app import main; main(port={port})"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    Thread(target=lambda: [*process.stderr], daemon=True).start()
    try:
        for _ in range(1200):
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit("the demo did not start: is a bundle published? `recsys run sample --publish`")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/demo"
    finally:
        process.terminate()
        process.wait(20)


# ---- the others


class Visitor:
    "Somebody who picks things, as the page would tell the server, and holds every answer against what they did."

    def __init__(self, client: httpx.AsyncClient, config: dict, seed: int) -> None:
        self.client, self.random, self.name = client, random.Random(seed), f"visitor{seed}"
        self.parts = {one["props"].get("elem_id") or one["type"]: one["id"] for one in config["components"]}
        self.calls = {tuple(target): one for one in config["dependencies"] for target in one["targets"]}
        outputs = self.calls[self.parts["heard"], "select"]["outputs"]
        self.place = {part: outputs.index(self.parts[part]) for part in ("link", "past", "found", "results")}
        self.picks: list[str] = []
        self.strategy, self.offered, self.seconds, self.crossed, self.clicks = "", [], [], 0, 0
        self.names = [value for one in config["components"] if one["props"].get("elem_id") == "strategy" for _, value in one["props"]["choices"]]

    async def tell(self, part: str, event: str, data: list, said: dict | None = None) -> list:
        "The answer of the server."
        call = self.calls[self.parts[part] if part else 0, event]
        body = {"data": data, "fn_index": call["id"], "session_hash": self.name, "trigger_id": self.parts.get(part), "event_data": said}
        reply = await self.client.post("/gradio_api/run/predict", json=body)
        reply.raise_for_status()
        return reply.json()["data"]

    async def click(self, said: dict) -> list:
        "Tell of one click."
        self.clicks += 1
        return await self.tell("heard", "select", [None], {"clicks": [{"n": self.clicks, **said}]})

    async def act(self) -> None:
        "One action, timed and checked."
        what = self.random.choice(("pick", "pick", "pick", "undo", "strategy", "open", "vary", "search", "look"))
        began = time.perf_counter()
        if what == "pick" or (what == "undo" and not self.picks):
            item = self.random.choice(self.offered)
            self.picks = [pick for pick in self.picks if pick != item] if item in self.picks else [*self.picks, item][-30:]
            shown = await self.click({"pick": item})
        elif what == "undo":
            self.picks = self.picks[:-1]
            shown = await self.click({"undo": "1"})
        elif what == "strategy":
            self.strategy = self.random.choice(self.names)
            shown = await self.click({"strategy": self.strategy})
        elif what == "open":
            shown = await self.click({"item": self.random.choice(self.offered)})
        elif what == "vary":
            shown = await self.click({"adjust": {"diversity": f"{self.random.random():.2f}", "compare": ""}})
        elif what == "search":
            shown = await self.click({"text": f"{self.random.choice(WORDS)} {self.name}"})
        else:
            shown = await self.click({"close": "1"})
        self.seconds.append(time.perf_counter() - began)
        self.crossed += not self.mine(shown, what == "search")

    def mine(self, shown: list, searched: bool) -> bool:
        "Whether an answer is about this visitor."
        if searched:
            return self.name in shown[self.place["results"]]
        address = parse_qs(unescape(shown[self.place["link"]]).strip("?"), keep_blank_values=True)
        past, found = shown[self.place["past"]], shown[self.place["found"]]
        right = address["picks"] == [",".join(self.picks)] and address["strategy"] == [self.strategy]
        if isinstance(past, str):
            right &= re.findall(r'data-item="(\d+)"', past) == self.picks[::-1]
        if isinstance(found, str):
            right &= not set(re.findall(r'data-item="(\d+)"', found)) & set(self.picks)
        return right

    async def stay(self, actions: int) -> None:
        "Come, do so many things, go."
        await asyncio.sleep(self.random.uniform(*PAUSE))
        shown = await self.tell("", "load", [None, "?picks="])
        self.strategy = parse_qs(unescape(shown[self.place["link"]]).strip("?"))["strategy"][0]
        self.offered = re.findall(r'data-pick="(\d+)"', shown[self.place["found"]])
        for _ in range(actions):
            await asyncio.sleep(self.random.uniform(*PAUSE))
            await self.act()


async def crowd(address: str, sessions: int, actions: int) -> list[Visitor]:
    "So many visitors at once."
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=sessions)) as client:
        config = (await client.get("/config")).json()
        visitors = [Visitor(client, config, seed) for seed in range(sessions)]
        await asyncio.gather(*(visitor.stay(actions) for visitor in visitors))
    return visitors


# ---- in the browser


def first_sight(browser, address: str) -> tuple[float, float]:
    "Seconds until the first paint, and until the recommendations are there, for somebody who has nothing of the page."
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page, began = context.new_page(), time.perf_counter()
        page.goto(f"{address}/", wait_until="commit", timeout=PATIENCE)
        page.wait_for_selector("#found .product", timeout=PATIENCE)
        there = time.perf_counter() - began
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    return paint, there


def clicks(page) -> list[tuple[str, Callable[[], None]]]:
    "What a visitor does, round after round."

    def words() -> None:
        page.fill("#seek input[type=search]", "red dress")
        page.press("#seek input[type=search]", "Enter")

    return [("a person", lambda: page.click("#people .person >> nth=6")), ("compare", lambda: page.select_option("#adjust select", "popularity")),
            ("open", lambda: page.click("#found .product >> nth=1")), ("close", lambda: page.press("#detail .close", "Escape")),
            ("as it was", lambda: page.click("[data-reset]")), ("only new", lambda: page.check("#adjust [name=fresh]")),
            ("a strategy", lambda: page.click("#strategy label >> nth=2")), ("back", lambda: page.click("#strategy label >> nth=0")),
            ("search", words), ("shut", lambda: page.click("#results .close")), ("a new visitor", lambda: page.click("[data-visitor]")),
            ("pick", lambda: page.click("#found .pick >> nth=0")), ("pick again", lambda: page.click("#found .pick >> nth=3")),
            ("undo", lambda: page.click("[data-undo]")), ("start over", lambda: page.click("[data-clear]")),
            ("the first again", lambda: page.click("#people .person >> nth=4"))]  # fmt: skip


SHOWN = "['people', 'detail', 'past', 'found', 'results'].map(id => document.getElementById(id)?.innerText).join()"


def settled(page) -> None:
    "Wait until the whole answer is there: what comes late would be taken for the answer to the next click."
    before = ""
    while (now := page.evaluate(SHOWN)) != before:
        before = now
        time.sleep(0.5)


def timed_clicks(browser, address: str, until: Callable[[], bool]) -> list[tuple[str, float]]:
    "What was done, and seconds from doing it until the page shows something else; rounds until nobody waits."
    found = []
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/")
        page.wait_for_selector("#found .product")
        settled(page)
        while not found or not until():
            for name, act in clicks(page):
                before, began = page.evaluate(SHOWN), time.perf_counter()
                act()
                page.wait_for_function(f"before => {SHOWN} !== before", arg=before)
                found.append((name, time.perf_counter() - began))
                settled(page)
    return found


def measure(sessions: int, actions: int) -> str:
    "The figures, in words."
    from playwright.sync_api import sync_playwright

    if (path := shutil.which("chromium")) is None:
        raise SystemExit("there is no chromium (apt-get install chromium)")
    with serving() as address, sync_playwright() as driver, driver.chromium.launch(executable_path=path, args=FLAGS) as browser:
        paints, sights = zip(*(first_sight(browser, address) for _ in range(OPENED)), strict=True)
        print("first paint", *(f"{one:.2f}" for one in paints), "recommendations", *(f"{one:.2f}" for one in sights))
        alone = timed_clicks(browser, address, lambda: True)
        visitors: list[Visitor] = []
        others = Thread(target=lambda: visitors.extend(asyncio.run(crowd(address, sessions, actions))))
        others.start()
        beside = timed_clicks(browser, address, lambda: not others.is_alive())
        others.join()
    if len(visitors) != sessions:
        raise SystemExit("some visitors were turned away, see above")
    told, crossed = [one for visitor in visitors for one in visitor.seconds], sum(visitor.crossed for visitor in visitors)
    slowest = max(alone, key=itemgetter(1))
    p95 = lambda seconds: f"p95 {np.quantile(list(seconds), 0.95):.2f} s"
    return (f"first paint {max(paints):.2f} s, recommendations there after {np.median(sights):.2f} s ({sights[0]:.2f} s the first time); a click in Chromium "
            f"{p95(one for _, one in alone)} alone (slowest: {slowest[0]} {slowest[1]:.2f} s), {p95(one for _, one in beside)} of {len(beside)} beside "
            f"{sessions} sessions x {actions} actions; theirs {p95(told)}, {crossed} of {len(told):,} answers about somebody else")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--actions", type=int, default=50)
    parser.add_argument("--record", action="store_true", help="write the row of benchmarks/README.md")
    asked = parser.parse_args()
    began = time.perf_counter()
    measured = measure(asked.sessions, asked.actions)
    if asked.record:
        record("demo", measured, time.perf_counter() - began, "python benchmarks/visitors.py --record")
    else:
        print(measured)


if __name__ == "__main__":
    main()
