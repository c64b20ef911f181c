"""The service: whatever is asked, the answer is typed; a mistake of the caller is a 4xx, a missing bundle a 503, and nothing is a 500."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import serving_shop as made
from fastapi.testclient import TestClient

from recsys.api import main
from recsys.api.main import MAX_PICTURE, Answer, Busy, Desk, ItemDetail, Model, Problem, Ready, Standing, Swap, Why, create_app
from recsys.pipeline.bundle import bundle
from recsys.scorers.base import Scorer, TopK
from recsys.serving.bundle import read_about, version_of
from recsys.serving.engine import open_engine
from recsys.store import sealed, write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from service import adversarial

USER, ITEM = made.customer(1), made.article(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    bundle(made.make_artifacts(tmp_path_factory.mktemp("artifacts")), path := tmp_path_factory.mktemp("bundle"))
    return path


@pytest.fixture(scope="module")
def client(folder):
    with TestClient(create_app(bundle=folder), raise_server_exceptions=False) as client:
        yield client


def refused(reply, *statuses):
    assert reply.status_code in (statuses or (404, 422)), (reply.status_code, reply.text[:300])
    return Problem.model_validate_json(reply.content)


def answered(reply):
    assert reply.status_code == 200, reply.text[:300]
    answer = Answer.model_validate_json(reply.content)
    assert len({item.item_id for item in answer.items}) == len(answer.items)
    return answer


def test_it_is_live_and_ready(client):
    assert client.get("/health/live").json() == {"status": "live"}
    ready = Ready.model_validate_json(client.get("/health/ready").content)
    assert ready.datasets["wear"]["popularity"] is None and ready.datasets["parts"]["content"]


def test_the_runbook_s_questions(client):
    for strategy in ("content", "collab", "hybrid", "popularity", "item_knn", "repurchase", "two_tower", "als_tower", "hybrid_generalizable"):
        reply = client.get(f"/recommend/user/{USER}?top_k=7&strategy={strategy}")
        if reply.status_code == 404:
            assert "cannot answer" in refused(reply, 404).message and strategy in ("collab", "two_tower", "als_tower", "hybrid_generalizable")
            continue
        answer = answered(reply)
        assert len(answer.items) == 7 or answer.reason
        assert answer.answered_by == answer.strategy or answer.reason
    assert "als cannot answer" in refused(client.get(f"/recommend/user/{USER}?strategy=collab"), 404).message


def test_whose_id(client):
    assert answered(client.get(f"/recommend/user/{made.customer_id(1)}")).items == answered(client.get(f"/recommend/user/{USER}")).items
    assert answered(client.get("/recommend/user/7")).dataset == "parts"
    assert answered(client.get("/recommend/user/7?dataset=wear")).known is False
    refused(client.get("/recommend/user/7?dataset=nowhere"), 404)


def test_a_stranger(client):
    answer = answered(client.get("/recommend/user/nobody?strategy=content"))
    assert (answer.known, answer.answered_by, len(answer.items)) == (False, "popularity", 10) and answer.reason


def test_a_history(client):
    events = [{"item_id": ITEM, "event": "purchase", "ts": made.AT - 1}, {"item_id": made.item_id(2)}, made.item_id(3)]
    ask = {"history": events, "top_k": 5, "strategy": "content"}
    assert answered(client.post("/recommend", json=ask)).answered_by == "content"
    nobody = answered(client.post("/recommend", json={"history": []}))
    assert nobody.answered_by == "hybrid" and "nothing is known" in nobody.reason  # one of its parts says something to everybody
    assert answered(client.post("/recommend", json={"history": [], "strategy": "content"})).answered_by == "popularity"
    assert "unknown here" in answered(client.post("/recommend", json={"history": ["no such thing", ITEM]})).reason


def test_items_pictures_and_what_is_alike(client):
    item = ItemDetail.model_validate_json(client.get(f"/items/{ITEM}").content)
    assert item.raw_id == ITEM and item.image and item.text
    picture = client.get(item.image + "?size=240")
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    assert len(answered(client.get(f"/similar/{ITEM}?top_k=3")).items) == 3


@pytest.mark.parametrize("num", [4, 5, 6, 8], ids=["none", "broken", "outside the folder", "gone"])
def test_a_picture_that_cannot_be_shown(client, num):
    assert refused(client.get(f"/images/{made.article(num)}"), 404).error == "no_image"


ODD = ["", " ", "\x00", "a\x00b", "x" * 10_000, "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "' OR 1=1 --", "\ud800", "\u202e", "😀" * 50,
       "-1", "0", "1e9", "1.5", "NaN", "Infinity", "true", "null", "9" * 30, str(2**63),
       "<script>alert(1)</script>", "%00", "%", "%zz", "\r\nX: y"]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_ids(client, odd):
    for path in ("/recommend/user/{}", "/similar/{}", "/items/{}", "/images/{}"):
        reply = client.get(path.format(quote(odd, safe="", errors="surrogatepass")))
        assert reply.status_code in (200, 404, 422), reply.text[:200]
        answered(reply) if reply.status_code == 200 else refused(reply)
    for ask in ({"history": [odd]}, {"history": [], "user_id": odd}, {"history": [], "dataset": odd}, {"history": [], "strategy": odd}):
        reply = client.post("/recommend", content=json.dumps(ask), headers={"content-type": "application/json"})
        answered(reply) if reply.status_code == 200 else refused(reply)


@pytest.mark.parametrize("k", ["0", "-1", "1000000000", "1.5", "ten", "true", "", "1e1", "NaN", "9" * 5000])
def test_odd_k(client, k):
    for path in (f"/recommend/user/{USER}", f"/similar/{ITEM}"):
        refused(client.get(path, params={"top_k": k}), 422)


@pytest.mark.parametrize("query", ["topk=3", "strategy=magic", "strategy=", "top_k=3&extra=1"])
def test_odd_queries(client, query):
    refused(client.get(f"/recommend/user/{USER}?{query}"), 422)


BODIES = [b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b'{"history": {}}', b'{"history": [true]}', b'{"history": [1.5]}', b'{"history": [NaN]}',
          b'{"history": [1e999]}', b'{"history": [-5]}', b'{"history": [{"item_id": 1, "event": "stolen"}]}', b'{"history": [{"item_id": 1, "ts": -1}]}',
          b'{"history": [{"item_id": 1, "ts": 99999999999999999}]}', b'{"history": [], "top_k": true}', b'{"history": [], "top_k": "7"}',
          b'{"history": [], "top_k": 0}', b'{"history": [], "top_k": NaN}', b'{"history": [], "more": 1}', b'{"history": ["\\ud800"]}',
          b"[" * 100_000, b'{"a":' * 20_000, b'{"history": [' + b"1," * 600 + b"1]}", b'{"history": [9223372036854775808]}']  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_odd_bodies(client, body):
    refused(client.post("/recommend", content=body, headers={"content-type": "application/json"}), 422)


def test_duplicate_keys_wrong_types_and_sizes(client):
    assert answered(client.post("/recommend", content=b'{"top_k": 3, "top_k": 4, "history": []}', headers={"content-type": "application/json"}))
    refused(client.post("/recommend", content=b"history=1", headers={"content-type": "application/x-www-form-urlencoded"}), 415, 422)
    big = b'{"history": ["' + b"x" * 400_000 + b'"]}'
    refused(client.post("/recommend", content=big, headers={"content-type": "application/json"}), 413)
    refused(client.post("/recommend", content=(big[i : i + 1000] for i in range(0, len(big), 1000)), headers={"content-type": "application/json"}), 413)


def test_other_doors(client):
    refused(client.get("/nothing"), 404)
    refused(client.get("/images/../../etc/passwd"), 404)
    refused(client.get("/images/%2e%2e/%2e%2e/etc/passwd"), 404)
    refused(client.delete("/recommend"), 405)
    assert client.get("/").status_code == 200 and "/recommend/user/{id}" in client.get("/docs").text
    assert "http" not in client.get("/docs").text.replace("over HTTP", ""), "the page asks nobody else"


def test_hostile_titles_are_data(client):
    answer = answered(client.get(f"/recommend/user/{USER}?top_k=60&strategy=popularity"))
    assert made.HOSTILE in [item.title for item in answer.items]


def test_a_nan_score_never_leaves(folder):
    engine = open_engine(folder)
    asked = engine.shop("wear").scorers["popularity"]
    honest = asked.top_k
    asked.top_k = lambda *words: TopK((top := honest(*words)).nums, top.scores * float("nan"))
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        assert answered(client.get("/recommend/user/nobody?strategy=popularity")).items == []


@pytest.mark.parametrize("how", ["missing", "empty", "corrupt"])
def test_no_bundle(tmp_path, folder, how):
    if how != "missing":
        (tmp_path / "bundle.json").write_text("{" if how == "corrupt" else '{"format": 1, "datasets": {}, "files": {}}')
    with TestClient(create_app(bundle=tmp_path), raise_server_exceptions=False) as client:
        assert client.get("/health/live").status_code == 200
        assert "bundle" in refused(client.get("/health/ready"), 503).message
        for path in (f"/recommend/user/{USER}", f"/items/{ITEM}", f"/similar/{ITEM}", f"/images/{ITEM}"):
            assert "retry-after" in client.get(path).headers
            refused(client.get(path), 503)


def test_a_demo_without_a_bundle_says_why(tmp_path, folder):
    with TestClient(create_app(bundle=tmp_path, demo="demo.app")) as client:
        for path in ("/", "/demo", "/demo/", "/demo/?user=1"):
            assert (page := client.get(path)).status_code == 503 and "text/html" in page.headers["content-type"]
            assert "nothing to show" in page.text and "bundle" in page.text and "retry-after" in page.headers
        client.app.state.standing.bundle = folder
        assert client.app.state.standing.swap()["status"] == "swapped"
        assert "start the service again" in client.get("/demo").text


def test_too_many_at_once_hear_so(client):
    desk = Desk()
    desk.most = 0  # full
    reply = TestClient(create_app(client.app.state.standing.engine, desk=desk)).get(f"/recommend/user/{USER}")
    assert refused(reply, 503).error == "busy" and reply.headers["retry-after"]


def test_a_place_is_taken_until_its_question_is_done():
    async def asking():
        desk, held, begun = Desk(workers=1, waiting=1, patience=0.05), threading.Event(), []
        for question in (held.wait, lambda: begun.append("beside the first")):
            with pytest.raises(Busy):
                await desk.ask(question)
        assert desk.inside == 1
        held.set()
        while desk.inside:
            await asyncio.sleep(0.01)
        assert await desk.ask(lambda: 7) == 7 and not begun

    asyncio.run(asking())


def test_importing_the_service_is_light():
    heavy = ("torch", "faiss", "pyspark", "open_clip", "gradio")
    check = f"import sys, recsys.api.main; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_why(client):
    shown = answered(client.get(f"/recommend/user/{USER}?top_k=3&strategy=hybrid")).items[0]
    why = Why.model_validate_json(client.get(f"/explain/{USER}/{shown.item_id}?strategy=hybrid").content)
    assert sum(part.adds for part in why.parts) == pytest.approx(shown.score, abs=1e-4) and why.item.reason == shown.reason and why.place == 1
    refused(client.get(f"/explain/{USER}/nothing"), 404)
    assert Why.model_validate_json(client.get(f"/explain/nobody/{ITEM}?strategy=content").content).answered_by == "popularity"
    assert Why.model_validate_json(client.get(f"/explain/nobody/{ITEM}").content).answered_by == "hybrid"


def test_wishes(client):
    ask = lambda **wishes: client.post("/recommend", json={"user_id": USER, "top_k": 10, **wishes})
    usual = answered(ask())
    assert not {item.item_id for item in answered(ask(exclude=[usual.items[0].item_id, "no such thing"])).items} & {usual.items[0].item_id}
    assert {item.category for item in answered(ask(category="Ladies > Dress")).items} == {"Ladies > Dress"}
    assert (priced := answered(ask(price=[20, 30])).items) and all(20 <= item.price <= 30 for item in priced)
    assert answered(ask(diversity=0.7)).items != usual.items and answered(ask(weights={"content": 1, "popularity": 0.5})).items != usual.items
    nothing = answered(ask(price=[1e6, None]))
    assert nothing.items == [] and "within what was asked for" in nothing.reason
    for wrong in ({"price": [30, 20]}, {"price": [1]}, {"price": [1, 2, 3]}, {"price": ["1", 2]}, {"diversity": 1.1}, {"diversity": True}, {"weights": {}},
                  {"weights": {"content": -1}}, {"weights": {"content": 0}}, {"weights": {"hybrid": 1}}, {"weights": {"magic": 1}}, {"category": ""},
                  {"exclude": [1.5]}, {"exclude": [1] * 501}, {"strategy": "popularity", "weights": {"content": 1}}):  # fmt: skip
        refused(ask(**wrong), 422)
    refused(ask(weights={"two_tower": 1}), 404)


def test_search(client):
    found = answered(client.post("/search", json={"text": "navy shirts", "top_k": 5}))
    assert found.items and all(item.reason.kind == "found" for item in found.items) and "navy" in found.items[0].title.lower()
    assert found.items[0].why == "says “navy” and “shirt”"  # of the words a word may mean, the one the item says
    assert answered(client.post("/search", json={"text": "%%% ''"})).items == []
    for wrong in ({}, {"text": ""}, {"text": "x" * 301}, {"text": 7}, {"text": "a", "more": 1}, {"text": "a", "top_k": 0}):
        refused(client.post("/search", json=wrong), 422)
    assert "cannot search" in refused(client.post("/search/image", content=b"GIF89a", headers={"content-type": "image/gif"}), 404).message
    refused(client.post("/search/image", content=b"x" * (MAX_PICTURE + 1)), 413)


def test_what_is_served(client):
    model = Model.model_validate_json(client.get("/model").content)
    assert model.bundle == client.get("/health/ready").json()["bundle"] and all(len(sha) == 64 for sha in model.files.values())
    assert model.datasets["wear"]["data"]["until"] == made.AT and model.datasets["wear"]["rules"]["at_most"] == {}
    client.get("/no/such%22page%0A")
    lines = client.get("/metrics").text.splitlines()
    assert all(re.fullmatch(r'# TYPE \w+ \w+|\w+(\{\w+="[^"\n]*"(,\w+="[^"\n]*")*\})? [-+.\deinfa]+', line) for line in lines), lines
    assert any(line.startswith('recsys_requests_total{page="/model",status="200"}') for line in lines)


def copied(folder, to, note=""):
    shutil.copytree(folder, to)
    if note:
        about = {name: value for name, value in read_about(to).items() if name != "seal"} | {"note": note}
        about["version"] = version_of(about)
        write_text(sealed(about), to / "bundle.json")
    return to


def test_a_swap_is_whole_or_nothing(folder, tmp_path, monkeypatch):
    one, two, torn = copied(folder, tmp_path / "one"), copied(folder, tmp_path / "two", "another"), copied(folder, tmp_path / "torn")
    path = torn / "faiss" / "item_vectors_wear.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (current := tmp_path / "current").write_text(str(one))
    monkeypatch.setenv("RECSYS_ADMIN_TOKEN", "a secret")
    with TestClient(create_app(bundle=current), raise_server_exceptions=False) as client:
        reload = lambda token="a secret", **said: client.post("/admin/reload", json=said, headers={"authorization": f"Bearer {token}"})
        served = lambda: client.get(f"/recommend/user/{USER}?top_k=1").json()["bundle"]
        first = served()
        assert refused(reload("a secre"), 401).error == "unauthorized" and refused(client.post("/admin/reload", json={}), 401)
        refused(client.post("/admin/reload", json={"path": "/etc"}, headers={"authorization": "Bearer a secret"}), 422)
        assert reload().json()["status"] == "same" and reload(rollback=True).status_code == 409
        current.write_text(str(two))
        told = Swap.model_validate_json(reload().content)
        assert (told.status, served()) == ("swapped", told.bundle) and told.bundle != first
        current.write_text(str(torn))
        refusal = reload()
        assert refusal.status_code == 409 and "was altered" in refusal.json()["message"] and served() == told.bundle
        assert reload(rollback=True).json()["status"] == "swapped" and served() == first
        shutil.rmtree(two)
        assert reload(rollback=True).status_code == 409 and served() == first
        assert 'recsys_swaps_total{status="swapped"} 3' in client.get("/metrics").text


@pytest.mark.skipif(sys.platform != "linux", reason="only there have threads a priority of their own")
def test_a_bundle_is_opened_behind_the_backs_of_those_that_answer(folder, tmp_path, monkeypatch):
    priority = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    opened, usual = [], priority()
    monkeypatch.setattr(main, "_open", lambda bundle, _open=main._open: opened.append(priority()) or _open(bundle))
    standing = Standing(bundle=folder)
    assert standing.swap()["status"] == "swapped" and standing.swap()["status"] == "same"
    assert opened == [usual, main.LAST] and priority() == usual  # the first one nobody is kept waiting by
    standing.rest()


def test_without_a_token_there_is_no_door(client, monkeypatch):
    monkeypatch.delenv("RECSYS_ADMIN_TOKEN", raising=False)
    refused(client.post("/admin/reload", json={}, headers={"authorization": "Bearer "}), 404)


def test_rules_of_the_house(folder, tmp_path, monkeypatch):
    (rules := tmp_path / "rules.yaml").write_text("shops: {wear: {at_most: {category: 1}}}")
    monkeypatch.setenv("RECSYS_RULES", str(rules))
    with TestClient(create_app(bundle=folder), raise_server_exceptions=False) as client:
        items = answered(client.get(f"/recommend/user/{USER}?top_k=12")).items
        assert len({item.category for item in items}) == len(items) > 3
    rules.write_text("shops: {wear: {at_mots: {category: 1}}}")
    with TestClient(create_app(bundle=folder), raise_server_exceptions=False) as client:
        assert "'at_mots' is no rule" in refused(client.get("/health/ready"), 503).message


def test_nothing_that_comes_in_is_a_500(client):
    for request in adversarial(400, seed=7, ids=[USER, ITEM, "7", str(made.item_id(1))]):
        reply = client.request(request.method, request.path, content=request.body, headers=request.headers)
        assert reply.status_code < 500, (request, reply.text[:300])
        if reply.content and reply.headers["content-type"] == "application/json" and reply.status_code >= 400:
            assert Problem.model_validate_json(reply.content)


@pytest.mark.slow
def test_the_api_gives_the_lists_of_step_14(tiny):
    with TestClient(create_app(bundle=tiny.artifact("bundle"))) as client:
        for dataset, shop in client.app.state.standing.engine.shops.items():
            lists = pq.read_table(tiny.artifact("evaluate") / f"recommendations_{dataset}.parquet").to_pandas()
            for strategy, of_one in lists.groupby("strategy"):
                if isinstance(shop.scorers.get(strategy), Scorer):
                    compare(client, dataset, strategy, of_one)


def compare(client, dataset, strategy, lists, n=200, k=12):
    n_known = 0
    for user, wanted in list(lists[lists["rank"] <= k].sort_values("rank").groupby("user_id"))[:n]:
        reply = answered(client.get(f"/recommend/user/{user}?top_k={k}&strategy={strategy}&dataset={dataset}"))
        assert [item.item_id for item in reply.items[: len(wanted)]] == wanted["item_id"].tolist(), (dataset, strategy, user)
        n_known += reply.known
    assert n_known, (dataset, strategy)
