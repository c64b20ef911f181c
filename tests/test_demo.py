"""The demo in a real browser: what a visitor sees, clicks and never sees."""

import json
import re
import shutil
import threading
import time

import httpx
import pytest
import serving_shop as made
import uvicorn

from recsys.api.main import create_app
from recsys.pipeline.bundle import bundle

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SEARCH = "#who input"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 15_000  # ms a click may take on a busy machine before the test gives up


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A server with the demo on the made-up shops."
    bundle(made.make_artifacts(tmp_path_factory.mktemp("artifacts")), folder := tmp_path_factory.mktemp("bundle"))
    server = uvicorn.Server(uvicorn.Config(create_app(bundle=folder, demo="demo.app"), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTS: playwright is not installed (pip install 'recsys-workbench[dev]')")
    if not shutil.which(CHROMIUM):
        pytest.skip("NO BROWSER TESTS: there is no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser):
    with browser.new_context(viewport={"width": 1440, "height": 1000}) as context:  # shared: what a page loads is loaded once; visitors differ all the same
        yield context


@pytest.fixture
def visit(context, address):
    "Opens the demo as a new visitor; at the end nothing may have failed, and nobody else may have been asked."
    pages, elsewhere, broken = [], [], []

    def open_page():
        pages.append(page := context.new_page())
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(f"{address}/demo", timeout=60_000, wait_until="commit")
        page.wait_for_selector("#found .product", timeout=60_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not elsewhere and not broken


def titles(page, where="#found"):
    return page.locator(f"{where} .product h4").all_inner_texts()


def changed(page, before, where="#found"):
    "Wait until the products are others, and return them."
    page.wait_for_function("([where, before]) => JSON.stringify([...document.querySelectorAll(where + ' .product h4')].map(e => e.innerText)) !== before",
                           arg=[where, json.dumps(before, ensure_ascii=False, separators=(",", ":"))])  # fmt: skip
    return titles(page, where)


def test_the_first_sight(visit):
    "People, their past, and recommendations with pictures that are there."
    page = visit()
    assert page.locator("#people .person").count() == 10 and page.locator("#past .small").count() > 5
    assert len(titles(page)) == 15
    page.wait_for_function("[...document.querySelectorAll('#found img')].filter(i => i.complete && i.naturalWidth > 0).length >= 6")
    heights = page.locator("#found .product .shot .pic").evaluate_all("all => [...new Set(all.map(e => Math.round(e.getBoundingClientRect().height)))]")
    assert len(heights) == 1, "all cards have one size"


def test_another_person_another_strategy(visit):
    page = visit()
    first = titles(page)
    page.click("#people .person >> nth=4")
    second = changed(page, first)
    assert page.locator("#people .chosen").count() == 1
    about = page.inner_text("#explain .explain")
    page.click("#strategy label >> text=Bestsellers")
    changed(page, second)
    assert page.inner_text("#explain .explain") != about and "Bestsellers" in page.inner_text("#found h3")


def test_an_item_opens_with_similar_ones(visit):
    page = visit()
    opened = page.inner_text("#found .product h4 >> nth=2")
    page.click("#found .product >> nth=2")
    page.wait_for_selector("#detail .detail")
    assert page.inner_text("#detail h2") == opened and len(titles(page, "#detail")) == 12 and opened not in titles(page, "#detail")
    before = titles(page, "#detail")
    page.click("#detail .product >> nth=0")
    changed(page, before, "#detail")
    page.click("#detail .close")
    page.wait_for_selector("#detail .detail", state="detached")


def test_a_new_visitor_is_learnt_from_the_first_click(visit):
    page = visit()
    page.click("[data-visitor]")
    page.wait_for_selector("#past .empty")
    assert "Bestsellers" in page.inner_text("#found")
    page.click("#strategy label >> text=Looks alike")
    page.wait_for_timeout(300)
    before = titles(page)
    page.click("#found .product >> nth=2")
    page.click("#detail .add")
    page.wait_for_selector("#past .small")
    picked = page.inner_text("#past .small h4")
    after = changed(page, before)
    kind = re.match(r"(\w+) (\w+)", picked).groups()
    assert all(word.lower() in title.lower() for title, word in zip(after[:1], kind[:1], strict=True)) and picked not in after
    page.click("[data-clear]")
    page.wait_for_selector("#past .empty")


def test_two_visitors_never_see_each_other(visit):
    one, two = visit(), visit()
    for page in (one, two):
        page.click("[data-visitor]")
        page.wait_for_selector("#past .empty")
    one.click("#found .product >> nth=1")
    one.click("#detail .add")
    one.wait_for_selector("#past .small")
    two.click("#strategy label >> text=Bestsellers")
    two.click("#people .person >> nth=2")
    two.wait_for_selector("#past .small")
    two.click("[data-visitor]")
    two.wait_for_selector("#past .empty")
    assert one.locator("#past .small").count() == 1


def test_a_shop_without_pictures(visit):
    page = visit()
    before = titles(page)
    page.click("#shop label >> text=parts")
    changed(page, before)
    assert page.locator("#found img").count() == 0 and page.locator("#found .product").count() == 15
    assert "Looks alike" in page.inner_text("#explain .gone")


def test_strangers_of_any_spelling(visit):
    page = visit()
    for text in ("nobody", "../../etc/passwd", "<img src=x onerror=window.hacked=1>", "' OR 1=1 --", "{{7*7}}${window.hacked=1}", "x" * 500):
        page.fill(SEARCH, text)
        page.press(SEARCH, "Enter")
        page.wait_for_function("start => document.querySelector('#found h3').innerText.includes(start)", arg=text[:4])
        assert "Bestsellers" in page.inner_text("#found .note") and page.evaluate("window.hacked") is None
        assert len(titles(page)) == 15


def test_a_customer_by_id(visit):
    page = visit()
    before = titles(page)
    page.fill(SEARCH, made.customer(11))
    page.press(SEARCH, "Enter")
    changed(page, before)
    assert page.locator("#past .small").count() > 5


def test_hostile_titles_are_shown_not_run(visit):
    page = visit()
    page.click("[data-visitor]")
    page.wait_for_selector("#past .empty")
    page.fill(SEARCH, made.customer(3))
    page.press(SEARCH, "Enter")
    page.wait_for_selector("#past .small")
    assert made.HOSTILE.split("{")[0].strip() in page.inner_text("#past") + page.inner_text("#found")
    assert page.evaluate("window.hacked") is None and page.locator("#found script, #past script, #detail script").count() == 0


def test_a_click_that_was_forged(visit):
    "What the browser says was clicked is looked up: an item that is not there is a message, and the page goes on."
    page = visit()
    page.evaluate("document.querySelector('#found .product').dataset.item = '../../etc/passwd'")
    page.click("#found .product >> nth=0")
    page.wait_for_selector("#detail .message >> text=no item")
    page.click("#found .product >> nth=1")
    page.wait_for_selector("#detail .detail")


PATHS = ["/demo/gradio_api/file=/etc/passwd", "/demo/file=/etc/passwd", "/demo/gradio_api/file=../../../../etc/passwd", "/demo/static/../../../../etc/passwd",
         "/demo/gradio_api/file=%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/demo/gradio_api/proxy=http://example.com/x", "/demo/assets/..%2f..%2f..%2fetc%2fpasswd",
         "/images/..%2f..%2fetc%2fpasswd", "/demo/gradio_api/file=http://example.com/x", "/demo/gradio_api/file=demo/app.py"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_file_gets_out(address, path):
    reply = httpx.get(address + path, follow_redirects=False)
    assert reply.status_code in (307, 400, 401, 403, 404, 405, 422) and "root:" not in reply.text and "import" not in reply.text
    assert "example.com" not in reply.headers.get("location", "")


def test_nothing_large_gets_in(address):
    reply = httpx.post(f"{address}/demo/gradio_api/upload", files={"files": ("x.png", b"x" * 600_000)})
    assert reply.status_code == 413
