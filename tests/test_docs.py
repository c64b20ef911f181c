"""The docs site: every notebook has a page, links lead somewhere, nothing is fetched from elsewhere; the tutorials do what they say."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT, chromium

needs_mkdocs = pytest.mark.skipif(not find_spec("material"), reason="NO DOCS SITE: mkdocs-material is not installed (pip install 'recsys-workbench[docs]')")
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src", "object": "data"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", config, "--site-dir", site]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Seen(HTMLParser):
    "What a page links to, what it fetches, and which places it has."

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.fetched, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        self.places |= {has[name] for name in ("id", "name") if has.get(name)}
        if tag == "a" and has.get("href"):
            self.links.append(has["href"])
        if tag == "link" and has.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(has.get("href"))
        if has.get(FETCHED.get(tag, "")):
            self.fetched.append(has[FETCHED[tag]])
        self.fetched += re.findall(r"url\(['\"]?([^'\")]+)", has.get("style") or "")


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Seen]:
    return {path: Seen(path) for path in site.rglob("*.html") if path.name != "404.html"}


@needs_mkdocs
def test_every_notebook_and_every_page_of_prose_is_there(site):
    wanted = [path for path in (ROOT / "nbs").rglob("*") if path.suffix in (".ipynb", ".md") and ".ipynb_checkpoints" not in path.parts]
    uri = lambda path: {"nbs/docs/README.md": "index", "nbs/index.ipynb": "readme"}.get(path.relative_to(ROOT).as_posix())
    missing = [path.name for path in wanted if not (site / f"{uri(path) or path.relative_to(ROOT / 'nbs').with_suffix('')}.html").is_file()]
    assert not missing and len(wanted) > 90
    assert all((site / name).is_file() for name in ("architecture.html", "changelog.html", "benchmarks/index.html"))


@needs_mkdocs
def test_every_page_is_reached_from_the_first_one(site, pages):
    "The navigation has them all, under titles people can read."
    shown = (site / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]+)" class="md-nav__link[^"]*">(.*?)</a>', shown, re.S)
    nav = {unquote(href): " ".join(re.sub("<[^>]+>", " ", text).split()) for href, text in links}
    unreached = [path.name for path in pages if path.relative_to(site).as_posix() not in nav and path.name != "index.html"]
    unreadable = [title for title in nav.values() if not title or re.match(r"\d|\W", title) or re.fullmatch(r"\w+[._]\w+", title)]
    assert not unreached and not unreadable


@needs_mkdocs
def test_links_lead_somewhere(pages):
    broken = []
    for path, seen in pages.items():
        for link in (*seen.links, *seen.fetched):
            if (parts := urlsplit(link)).scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places | {"__top"}):
                broken.append((path.name, link))
    assert not broken, broken[:10]


@needs_mkdocs
def test_nothing_is_fetched_from_elsewhere(site, pages):
    outside = [(path.name, link[:80]) for path, seen in pages.items() for link in seen.fetched if link and re.match(r"(https?:)?//", link)]
    styles = [path.name for path in site.rglob("*.css") if re.search(r"(@import|url\()\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8"))]
    assert not outside and not styles


@needs_mkdocs
def test_a_notebook_is_shown_with_its_outputs_and_without_what_only_nbdev_wants(site):
    shown = (site / "80_evaluation.metrics.html").read_text(encoding="utf-8")
    assert 'class="output"' in shown and "recsys.evaluation.metrics" in shown and "data-packed" not in shown
    assert "default_exp" not in shown and "#| export" not in shown


@needs_mkdocs
def test_saved_pictures_are_shown(site):
    drawn = [path for path in (ROOT / "nbs").rglob("*.ipynb") if '"image/png": "' in path.read_text(encoding="utf-8")]
    pages = [site / path.relative_to(ROOT / "nbs").with_suffix(".html") for path in drawn]
    assert len(pages) > 5
    assert not [page.name for page in pages if "data:image/png;base64," not in page.read_text(encoding="utf-8")]


@needs_mkdocs
def test_search_knows_the_words(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in index["docs"] if "fold" in entry["text"]}
    assert "64_scorers.als.html" in places and len(index["docs"]) > 100
    assert not [entry["location"] for entry in index["docs"] if re.search("[A-Za-z0-9+/]{200}", entry["text"])]


@needs_mkdocs
def test_links_of_the_repository_become_links_of_the_site():
    from mkdocs.exceptions import PluginError

    hooks = module_from_spec(spec := spec_from_file_location("site_hooks", ROOT / "nbs" / "docs" / "_site.py"))
    spec.loader.exec_module(hooks)
    linked = functools.partial(hooks.linked, origin="nbs/docs/coming_from_the_runbook.md", uri="docs/coming_from_the_runbook.md")
    assert linked("[m](metrics.ipynb#map)") == "[m](metrics.md#map)"
    assert linked("[a](../../ARCHITECTURE.md) and `nbs/00_words.ipynb`") == "[a](../architecture.md) and [`nbs/00_words.ipynb`](../00_words.md)"
    assert linked("[![Badge](https://elsewhere.org/badge.svg)](https://elsewhere.org)") == "[Badge](https://elsewhere.org)"
    with pytest.raises(PluginError, match="gone.md"):
        linked("[gone](gone.md)")


@needs_mkdocs
def test_in_a_browser_it_searches_and_asks_nobody_else(site):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *words: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, asked = f"http://127.0.0.1:{server.server_port}/", []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "docs/your_own_shop.html", "pipeline/14_evaluate.html", "72_reasons.html"):
            page.goto(home + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, f"{name} is wider than a phone"
        page.set_viewport_size({"width": 1280, "height": 800})
        page.get_by_placeholder("Search").fill("leave one out")
        page.locator(".md-search-result__item a").first.wait_for(timeout=20_000)
    server.shutdown()
    assert not [url for url in asked if not url.startswith((home, "data:", "blob:"))]


# the tutorials


def execute(name: str, folder: Path, **parameters: str) -> dict:
    "Run a tutorial as a reader would, in a kernel of its own; the notebook with its outputs."
    import papermill

    made = folder / f"{name}.ipynb"
    papermill.execute_notebook(ROOT / "nbs" / "docs" / f"{name}.ipynb", made, parameters, kernel_name="python3", cwd=ROOT, progress_bar=False)
    return json.loads(made.read_text(encoding="utf-8"))


def said(notebook: dict) -> str:
    "All that its cells printed or showed as text."
    outputs = [one for cell in notebook["cells"] if cell["cell_type"] == "code" for one in cell["outputs"]]
    return "\n".join("".join(one.get("text", one.get("data", {}).get("text/plain", ""))) for one in outputs)


@pytest.fixture
def commands_on_path(monkeypatch):
    "A tutorial calls `recsys` as a person does, and what it sets is its own."
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    for name in ("RECSYS_BUNDLE", "RECSYS_SCORERS", "RECSYS_RULES"):
        monkeypatch.delenv(name, raising=False)


def of_tiny(tiny) -> dict[str, str]:
    return {"profile": "tiny", "runs_dir": str(tiny.folder.parent.parent)}


@pytest.mark.slow
def test_your_own_shop(tmp_path, commands_on_path):
    text = said(execute("your_own_shop", tmp_path))
    assert "The data can be used" in text and "published" in text
    assert "needs the column user_id, got visitor" in text and "user_id should not be empty" in text and "event should be one of" in text


@pytest.mark.slow
def test_als_on_colab(tmp_path, tiny, commands_on_path):
    text = said(execute("als_on_colab", tmp_path, **of_tiny(tiny)))
    assert "interactions_hm.csv" in text and re.search(r"run: .*tiny", text)
    for refusal in ("belong to interactions of hash", "found none; it says what they were trained on", "should hold numbers", "it was altered"):
        assert refusal in text, refusal


@pytest.mark.slow
def test_a_scorer_of_your_own(tmp_path, tiny, commands_on_path):
    text = said(execute("a_scorer_of_your_own", tmp_path, **of_tiny(tiny)))
    assert re.search(r"favourite_category +0\.\d+", text), "no row in the metrics"
    assert "set RECSYS_SCORERS=FILE" in text and "because you" in text


@pytest.mark.slow
def test_going_to_production(tmp_path, tiny, commands_on_path):
    text = said(execute("going_to_production", tmp_path, **of_tiny(tiny)))
    for word in ("without the token: 401", "with it: swapped", "rollback: swapped | serving True", "one bit is wrong: 409 refused", "still ready"):
        assert word in text, word
