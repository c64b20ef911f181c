"""The notebooks people live in: executed on the tiny shop, shown without a kernel, and moved in JupyterLab."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import cache
from itertools import product

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

EXPLORE = {path.stem: path for path in sorted((ROOT / "nbs" / "explore").glob("*.ipynb"))}
PATIENCE = 90_000  # ms a busy machine may take
WIDGETS = "application/vnd.jupyter.widget-view+json"
PICTURE = re.compile(r'<img [^>]*src="data:image/(?:jpeg|png);base64,')
SMALL = 400_000  # bytes of a notebook with its pictures


def source(cells) -> list[str]:
    return ["".join(cell.source) for cell in cells]


def pictures_of(notebook) -> int:
    "Pictures in the html of all outputs."
    html = [output.data["text/html"] for cell in notebook.cells for output in cell.get("outputs", []) if "text/html" in output.get("data", {})]
    return sum(len(PICTURE.findall(text)) for text in html)


def pointed(notebook, **parameters):
    "The same notebook, its first code cell followed by other values."
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    return notebook


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    "A folder with two runs of the tiny shop; the second one says another setting and has the same artifacts."
    from recsys.runs import open_run

    folder = tmp_path_factory.mktemp("two") / "runs"
    shutil.copytree(tiny.folder.parent.parent, folder, symlinks=True, copy_function=os.link)
    first = open_run("tiny", runs_dir=folder)
    shutil.copytree(first.folder, second := first.folder.with_name("2999-01-01_00-00-00"))
    record = json.loads((second / "run.json").read_text())
    record |= {"number": record["number"] + 1, "settings": record["settings"] | {"als_alpha": 77.0}}
    (second / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def executed(two):
    "Executes a notebook on these runs, once."

    @cache
    def execute(name: str):
        notebook = pointed(nbformat.read(EXPLORE[name], 4), profile="tiny", runs_dir=str(two))
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False, resources={"metadata": {"path": EXPLORE[name].parent}})
        client.execute(env={**os.environ, "RECSYS_STILL": "1"})
        return notebook

    return execute


# --- what is saved


@pytest.mark.parametrize("name", EXPLORE)
def test_without_a_kernel_there_is_a_picture(name):
    "Saved outputs are pictures, small, and nothing that waits for a kernel or asks somebody else."
    notebook = nbformat.read(EXPLORE[name], 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert pictures_of(notebook) >= 2
    assert EXPLORE[name].stat().st_size < SMALL
    assert not any(WIDGETS in output.get("data", {}) for output in outputs) and "widgets" not in notebook.metadata, "execute it with RECSYS_STILL=1"
    assert not any(output.output_type in ("error", "stream") for output in outputs)
    assert not re.search(r'(src|href)="(https?:)?//', "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs))


@pytest.mark.parametrize("name", EXPLORE)
def test_one_cell_says_what_is_looked_at(name):
    "The first code cell holds the parameters and nothing else, and it opens on the sample."
    first = next(cell for cell in nbformat.read(EXPLORE[name], 4).cells if cell.cell_type == "code")
    assert "parameters" in first.metadata.tags and first.source.startswith('profile = "sample"') and 'runs_dir = "runs"' in first.source
    assert all(re.match(r"\w+ = ", line) for line in first.source.splitlines())


def test_the_links_between_them_lead_somewhere():
    for path in EXPLORE.values():
        for link in re.findall(r"\]\(([^)#:]+)\)", "\n".join(source(nbformat.read(path, 4).cells))):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


# --- what happens when they run


@pytest.mark.parametrize("name", EXPLORE)
def test_it_runs_and_becomes_a_page(name, executed):
    notebook = executed(name)
    assert pictures_of(notebook) >= 2
    page, _ = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="", jquery_url="").from_notebook_node(notebook)
    assert len(PICTURE.findall(page)) >= 2 and WIDGETS not in page


def test_without_a_run_it_says_what_to_do(tmp_path):
    "One sentence, no traceback."
    notebook = pointed(nbformat.read(EXPLORE["look_at_a_run"], 4), profile="tiny", runs_dir=str(tmp_path))
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": EXPLORE["look_at_a_run"].parent}}).execute()
    said = next(output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error")
    assert said.traceback == ["This notebook needs a finished run of tiny, found none in " + tmp_path.name + "/. In a terminal: recsys run tiny. "
                              "Then Run All once more."]  # fmt: skip


def test_cut_texts_are_those_the_encoder_cut(tiny):
    "What the health notebook counts is what the step that embedded the texts counted."
    from recsys.content.health import reading
    from recsys.content.texts import split_texts

    about = json.loads((tiny.artifact("text_embeddings") / "encoder.json").read_text())
    items = tiny.table("split/items_hm.parquet")
    found = reading(split_texts(items["title"].tolist(), items["text"].tolist()).parts, about["text"]["space"])
    assert (len(found.counts), int(found.cut.sum())) == (about["shops"]["hm"]["distinct_parts"], about["shops"]["hm"]["truncated_parts"])
    assert found.cut.any() and not found.cut.all()


def test_what_items_have_is_what_the_index_counted(tiny):
    from recsys.content.health import HAVE, what_each_has
    from recsys.vectors.table import VectorTable

    counted = json.loads((tiny.artifact("faiss") / "faiss_items.json").read_text())["hm"]
    image, text = (VectorTable.load(tiny.artifact(f"{role}_embeddings") / f"{role}_embeddings_hm.safetensors") for role in ("image", "text"))
    have = what_each_has(tiny.table("split/items_hm.parquet")["item_id"].to_numpy(), image, text)
    assert [int((have == name).sum()) for name in HAVE] == [counted[name] for name in ("both", "text_only", "image_only", "none")]


def test_hubs_and_twins_are_those_of_a_loop(tiny):
    "Against comparing everything with everything."
    from recsys.content.health import hubs, twins
    from recsys.vectors.table import VectorTable

    table = VectorTable.load(tiny.artifact("faiss") / "item_vectors_hm.safetensors")
    like = table.vectors @ table.vectors.T
    np.fill_diagonal(like, -np.inf)
    counts = np.zeros(len(table), dtype=int)
    for row in like:
        counts[np.argsort(-row, kind="stable")[:10]] += 1
    assert np.abs(hubs(table).counts - counts).sum() <= 0.01 * counts.sum(), "all but ties of the last bit"
    found = twins(table)
    assert np.allclose(np.sort(found.likeness), np.sort(like.max(axis=1)), atol=1e-5)


# --- in JupyterLab


TOKEN = "quick"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(address: str, method: str = "GET") -> bytes:
    "What the server answers."
    with urllib.request.urlopen(urllib.request.Request(address, method=method, headers={"Authorization": f"token {TOKEN}"}), timeout=30) as reply:
        return reply.read()


@pytest.fixture(scope="module")
def lab(two, tmp_path_factory):
    "A JupyterLab on copies of the notebooks that look at the runs of the tiny shop."
    home = tmp_path_factory.mktemp("lab")
    (folder := home / "nbs" / "explore").mkdir(parents=True)
    for name, path in EXPLORE.items():
        nbformat.write(pointed(nbformat.read(path, 4), profile="tiny", runs_dir=str(two)), folder / f"{name}.ipynb")
    for shared in ("settings.ini", "data"):
        (home / shared).symlink_to(ROOT / shared)
    settings = home / "lab" / "settings"
    settings.mkdir(parents=True)
    (settings / "overrides.json").write_text(json.dumps({
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # all outputs are in the page, seen or not
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }))  # fmt: skip
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
               "--allow-root", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               f"--LabApp.app_settings_dir={settings}"]  # fmt: skip
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_RUNTIME_DIR": str(home / "run"), "OMP_NUM_THREADS": "1"}
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE / 1000
        while True:
            assert server.poll() is None and time.monotonic() < until, (home / "lab.log").read_text()[-2000:]
            try:
                ask(f"{address}/api")
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def context(browser):
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:  # shared: JupyterLab is loaded once
        yield context


@pytest.fixture
def run_all(context, lab):
    "Opens a notebook in JupyterLab and runs all of it; at the end nobody else may have been asked, and its kernel is gone."
    pages, elsewhere, broken, ours = [], [], [], (lab, lab.replace("http", "ws"), "data:", "blob:")

    def go(name: str):
        pages.append(page := context.new_page())
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith(ours) else None)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(f"{lab}/doc/tree/{name}.ipynb?token={TOKEN}", timeout=PATIENCE)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector(r"text=/\| Idle/", state="attached")  # before, it would ask which kernel
        page.click(".lm-MenuBar-itemLabel >> text=Run")
        page.click(".lm-Menu-itemLabel >> text='Run All Cells'")
        n = sum(cell.cell_type == "code" for cell in nbformat.read(EXPLORE[name], 4).cells)
        numbers = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText)"
        page.wait_for_function(f"n => document.querySelector('.jp-RenderedText .ansi-red-fg') || {numbers}.some(text => text.includes(`[${{n}}]`))", arg=n)
        assert not page.locator(".jp-RenderedText .ansi-red-fg").count(), page.locator(".jp-RenderedText").first.inner_text()
        return page

    yield go
    for page in pages:
        page.close()
    for session in json.loads(ask(f"{lab}/api/sessions")):
        ask(f"{lab}/api/sessions/{session['id']}", "DELETE")
    assert not elsewhere and not broken


SEEN = "() => [...document.querySelectorAll('.jp-RenderedHTMLCommon')].map(e => e.innerHTML).filter(h => h.includes('<img')).join('')"


def control(page, label: str):
    "The widget with this description; the first one where there are several."
    return page.locator(f".widget-inline-hbox:has(> .widget-label:text-is('{label}'))").first


def choose(label: str, place: int):
    return lambda page: control(page, label).locator("select").select_option(index=place)


def write(label: str, text: str):
    def act(page):
        box = control(page, label).locator("input")
        box.fill(text)
        box.press("Enter")

    return act


def slide(label: str, key: str, times: int = 1):
    def act(page):
        handle = control(page, label).locator(".noUi-handle").first
        for _ in range(times):
            handle.press(key)

    return act


MOVES = {
    "look_at_a_run": [choose("customer", 1), choose("strategy", 0)],
    "catalogue": [write("words", "dress"), choose("category", 1)],
    "customer": [choose("customer", 1), choose("D", 0), slide("place", "ArrowRight")],
    "hybrid_weights": [slide("popularity", "End"), choose("customer", 1)],
    "embedding_health": [slide("neighbours", "End"), choose("vectors", 1)],
    "two_runs": [choose("slice", 0), choose("shop", 1)],
    "embedding_map": [],  # a canvas: below
}


@pytest.mark.parametrize("name", EXPLORE)
def test_in_jupyterlab_a_widget_moves_the_picture(name, run_all):
    "Open, Run All, move: the pictures are others each time, and stay pictures."
    page = run_all(name)
    before = page.evaluate(SEEN)
    assert before.count("<img") >= 2
    for move in MOVES[name]:
        move(page)
        page.wait_for_function(f"before => ({SEEN})() !== before", arg=before)
        before = page.evaluate(SEEN)
        assert before.count("<img") >= 2
    if name == "embedding_map":
        walk(page)


DRAWN = "() => +document.querySelector('.atlas canvas')?.dataset.drawn"


def walk(page) -> None:
    "Thumbnails are on the map, more of them closer by; another model lays it out anew; a click shows what lies around."
    shown = lambda: int(page.locator(".atlas canvas").get_attribute("data-shown"))
    look = lambda: page.evaluate("document.querySelector('.atlas canvas').toDataURL('image/jpeg', 0.5)")
    page.wait_for_function("+document.querySelector('.atlas canvas')?.dataset.shown > 20")
    canvas, whole, first = page.locator(".atlas canvas"), look(), shown()
    canvas.focus()
    canvas.press("+")
    canvas.press("+")
    assert look() != whole and shown() != first
    canvas.press("-")
    canvas.press("-")
    assert shown() == first
    picked = lambda: page.evaluate("document.querySelector('.atlas').dataset.picked")
    nearest, box, before = page.evaluate(SEEN), canvas.bounding_box(), picked()
    for y, x in product(range(1, 5), range(1, 24)):  # on these lines lies another item
        canvas.click(position={"x": box["width"] * x / 24, "y": box["height"] * y / 5})
        if picked() not in (None, "-1", before):
            break
    page.wait_for_function(f"before => ({SEEN})() !== before", arg=nearest)
    drawn, whole = page.evaluate(DRAWN), look()
    choose("vectors", 1)(page)
    page.wait_for_function(f"before => ({DRAWN})() > before + 1", arg=drawn)
    assert look() != whole


def test_every_notebook_has_its_moves():
    assert MOVES.keys() == EXPLORE.keys()
