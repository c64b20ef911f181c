"The measurements of the service in their small form: a server of its own, loopback only; nobody looks at the milliseconds."

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import service

SIZE = argparse.Namespace(items=300, dims=16, users=120, requests=0, seconds=0.0, rate=0.0)


def sized(**dials):
    return argparse.Namespace(**vars(SIZE) | dials)


@pytest.fixture(scope="module", autouse=True)
def drawn(tmp_path_factory):
    "A small bundle, where the measurements look for it."
    kept, cores = service.CACHE, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    service.CACHE = tmp_path_factory.mktemp("cache")
    yield service.kept_bundle(SIZE)
    service.CACHE = kept
    if cores:
        os.sched_setaffinity(0, cores)  # the client keeps to one core


@pytest.fixture(scope="module")
def server(drawn):
    with service.serving(drawn) as server:
        yield server


def test_it_warms_up_while_it_answers(server):
    assert b"recsys_warm" in service.health(server.port, "/metrics")
    service.warm(server.port, service.any_user(SIZE), 1)
    assert b"recsys_warm 1" in service.health(server.port, "/metrics")


def test_everybody_is_answered(server):
    tally = service.run(server.port, service.any_user(SIZE), 50, 1)
    assert dict(tally.statuses) == {200: 50} and not tally.odd and len(tally.seconds) == 50
    assert service.recall(server.port, SIZE, n=20, k=10) > 0.99
    assert server.memory() > 50


def test_an_idle_connection_is_opened_again(server):
    async def twice(port):
        link = service.Link(port)
        first = await link.ask(service.get("/health/live"))
        link.reader.feed_eof()  # as if the server had closed it
        second = await link.ask(service.get("/health/live"))
        link.close()
        return first[0], second[0]

    assert service.asyncio.run(twice(server.port)) == (200, 200)


def test_too_much_is_refused_politely(server):
    tally = service.run(server.port, service.any_user(SIZE), 3000, 0.5, links=300)
    assert set(tally.statuses) <= {200, 503} and tally.statuses[200] and not tally.odd
    assert dict(service.run(server.port, service.any_user(SIZE), 20, 0.5).statuses) == {200: 10}


def test_bundles_are_exchanged_under_load_and_a_damaged_one_is_refused():
    said = service.swap(sized(requests=3, rate=20.0))
    assert "'swapped': 2" in said and "'refused': 1" in said and "of 3 at 20" in said
    assert "{200: " in said and "odd" not in said and "versions 2" in said


def test_sigterm_under_load_loses_nothing():
    said = service.sigterm(sized(requests=1, rate=20.0))
    lines = json.loads(said[said.index("{") : said.index("}") + 1].replace("'", '"').replace("200:", '"200":'))
    assert lines.pop("200") > 20 and set(lines) <= {"ConnectionRefusedError"}


def test_sighup_loads_what_is_published_now(drawn, tmp_path):
    other, pointer = tmp_path / "other", tmp_path / "current"
    service.shutil.copytree(drawn, other)
    service.again(other)
    pointer.write_text(str(drawn))
    version = lambda port: json.loads(service.health(port).split(b"\r\n\r\n", 1)[1])["bundle"]
    with service.serving(pointer) as server:
        first = version(server.port)
        pointer.write_text(str(other))
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while version(server.port) == first and time.monotonic() < until:
            time.sleep(0.1)
        assert version(server.port) == json.loads((other / "bundle.json").read_text())["version"] != first
