"The pages of the docs site: mkdocs calls these hooks. A notebook becomes markdown with its saved outputs; links and names of files become links."

import base64
import html
import json
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from recsys.runner import RIVER

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("The ground", "Data", "Shops", "Vectors", "Content", "Towers", "Scorers", "Recommending", "Evaluation", "Serving")  # by tens
TUTORIALS = ("your_own_shop", "als_on_colab", "a_scorer_of_your_own", "going_to_production")
REFERENCE = ("nbs/docs/metrics.ipynb", "nbs/docs/when_one_machine_is_too_small.md", "nbs/docs/coming_from_the_runbook.md")
HOME, README = "nbs/docs/README.md", "nbs/index.ipynb"  # README.md of the repository is made from the second


class Page(NamedTuple):
    "A page: the file of the repository it is made from, and where it lies in the site."

    origin: str
    uri: str

    @property
    def title(self) -> str:
        "Its first heading, without the number of a step."
        if self.origin == README:
            return "Overview"
        heading = next(line for line in text_of(ROOT / self.origin).splitlines() if line.startswith("# "))
        return re.sub(r"^# (\d+ (· )?)?", "", heading).strip()


def page(origin: str) -> Page:
    "Pages keep their places below nbs/; the home page is the first one, what lies outside gets a name of its own."
    special = {HOME: "index.md", README: "readme.md", "CHANGELOG.md": "changelog.md", "ARCHITECTURE.md": "architecture.md"}
    return Page(origin, special.get(origin) or PurePosixPath(origin.removeprefix("nbs/")).with_suffix(".md").as_posix())


def found(folder: str, pattern: str) -> list[str]:
    "Files of a folder of the repository."
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern) if path.name[0] not in "._")


def contents() -> dict[str, list | dict]:
    "Chapter -> its pages, or its sections with theirs."
    rooms = [page(path) for path in found("nbs", "[0-9]*.ipynb") if page(path).uri[:2] != "00"]
    tutorials = [path for name in TUTORIALS for path in found("nbs/docs", f"{name}.*")]
    return {
        "Start": [page(HOME), page(README)],
        "Tutorials": [page(path) for path in (*tutorials, REFERENCE[-1])],
        "The house": [page("nbs/00_words.ipynb"), page("ARCHITECTURE.md")],
        "The river": [page(f"nbs/pipeline/{step.notebook}.ipynb") for step in RIVER],
        "Rooms": {name: [room for room in rooms if int(room.uri[0]) == ten] for ten, name in enumerate(FLOORS)},
        "Explore": [page(path) for path in found("nbs/explore", "*.ipynb")],
        "Reference": [page(path) for path in (*REFERENCE[:-1], "benchmarks/README.md", *found("benchmarks", "quality_*.md"))],
        "Changelog": [page("CHANGELOG.md")],
    }


def all_pages() -> Iterator[Page]:
    for chapter in contents().values():
        for section in chapter.values() if isinstance(chapter, dict) else [chapter]:
            yield from section


PAGES = {one.origin: one for one in all_pages()}
ORIGINS = {one.uri: one.origin for one in PAGES.values()}


# notebooks
@cache
def text_of(path: Path) -> str:
    "The markdown of a page."
    return path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n\n".join(notebook(path))


DIRECTIVE = re.compile(r"^#\| *(\w+)[^\n]*\n?", re.M)


def notebook(path: Path) -> Iterator[str]:
    "The cells of a notebook as markdown; what nbdev alone has to know is left out."
    module = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        directives = set(DIRECTIVE.findall(source)) if cell["cell_type"] == "code" else set()
        if "default_exp" in directives:
            module = re.search(r"default_exp +(\S+)", source)[1]
            yield f"`recsys.{module}` from `{path.relative_to(ROOT).as_posix()}`\n{{ .module }}"
        elif cell["cell_type"] == "markdown":
            yield source
        elif "hide" not in directives and (code := DIRECTIVE.sub("", source).strip("\n")):
            kind = "parameters" if "parameters" in cell["metadata"].get("tags", ()) else "exported" if "export" in directives else "example"
            yield f"{FENCE}{{ .python .{kind} }}\n{code}\n{FENCE}"
            if shown := "".join(output(one) for one in together(cell["outputs"])):
                yield f'<div class="output" data-packed="{base64.b64encode(shown.encode()).decode()}"></div>'  # opened after markdown and search


FENCE = "`````"
SCRIPT = re.compile(r"<script\b.*?</script>|<link\b[^>]*>", re.S | re.I)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def together(outputs: list[dict]) -> list[dict]:
    "Pieces of one stream as one."
    merged: list[dict] = []
    for one in outputs:
        if merged and one["output_type"] == "stream" == merged[-1]["output_type"] and one["name"] == merged[-1]["name"]:
            merged[-1] = {**one, "text": [*merged[-1]["text"], *one["text"]]}
        else:
            merged.append(one)
    return merged


def output(one: dict) -> str:
    "A saved output as html: the richest form that needs no script."
    if one["output_type"] == "error":
        return f'<pre class="error">{html.escape(COLOUR.sub("", one["ename"] + ": " + one["evalue"]))}</pre>'
    if one["output_type"] == "stream":
        return "" if one["name"] == "stderr" else f"<pre>{html.escape(COLOUR.sub('', ''.join(one['text'])))}</pre>"
    data = {kind: "".join(value) for kind, value in one["data"].items() if isinstance(value, (str, list))}
    scripted = SCRIPT.search(data.get("text/html", ""))
    if "text/html" in data and not (scripted and data.keys() & {"image/png", "image/svg+xml"}):
        return f'<div class="rich">{SCRIPT.sub("", data["text/html"])}</div>'
    if "image/png" in data:
        picture = data["image/png"].replace("\n", "")
        return f'<img alt="{html.escape(data.get("text/plain", "picture"), quote=True)}" src="data:image/png;base64,{picture}">'
    return data.get("image/svg+xml") or (f"<pre>{html.escape(data['text/plain'])}</pre>" if "text/plain" in data else "")


# hooks
def on_config(config):
    entry = lambda one: {one.title: one.uri}
    nest = lambda chapter: [{name: nest(pages)} for name, pages in chapter.items()] if isinstance(chapter, dict) else [entry(one) for one in chapter]
    config.nav = [{name: nest(chapter)} for name, chapter in contents().items()]
    return config


def on_files(files: Files, config) -> Files:
    "What lies in nbs/ as the pages of the site."
    kept = [file for file in files if PurePosixPath(file.src_uri).suffix not in (".ipynb", ".md")]
    return Files([*kept, *(File.generated(config, one.uri, content=text_of(ROOT / one.origin)) for one in PAGES.values())])


LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s]+)(\))")
BADGE = re.compile(r"\[!\[([^\]]*)\]\(https?:[^)]*\)\]\(([^)]*)\)")
NAMED = re.compile(r"(?<![\[`])`([\w./-]+\.(?:ipynb|md))`(?![`\]])")


def on_page_markdown(markdown: str, page, config, files) -> str:
    "Links lead to pages; a file of the repository that is named and has a page becomes a link."
    origin = ORIGINS[page.file.src_uri]
    if not re.search("^## ", markdown, re.M):
        page.meta["hide"] = ["toc"]  # its room is for the code
    parts = re.split(r"(^(?:`{3,}|~{3,}).*?^(?:`{3,}|~{3,})[ \t]*$)", markdown, flags=re.S | re.M)  # fences stay as they are
    return "".join(part if number % 2 else linked(part, origin, page.file.src_uri) for number, part in enumerate(parts))


def linked(text: str, origin: str, uri: str) -> str:
    text = BADGE.sub(r"[\1](\2)", text)  # a picture from elsewhere would be fetched
    text = LINK.sub(lambda link: f"{link[1]}{target(link[2], origin, uri)}{link[3]}", text)
    return NAMED.sub(lambda name: f"[{name[0]}]({to(PAGES[where], uri)})" if (where := named(name[1], origin)) else name[0], text)


def named(name: str, origin: str) -> str | None:
    "The other page that a file name in the prose means, from the root or from where it is said."
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name))
    where = next((path for path in (name, beside) if path in PAGES), None)
    if where is None and name.startswith("nbs/") and "NN_" not in name:
        raise PluginError(f"{origin} names {name}, which is not there")
    return where if where != origin else None


def to(page: Page, uri: str) -> str:
    return posixpath.relpath(page.uri, posixpath.dirname(uri) or ".")


def target(link: str, origin: str, uri: str) -> str:
    "Where a link of a page leads in the site."
    path, hash_, anchor = link.partition("#")
    if not path or re.match(r"\w+:", path):
        return link
    where = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if where in PAGES:
        return to(PAGES[where], uri) + hash_ + anchor
    if where.startswith("nbs/") and (ROOT / where).is_file():
        return posixpath.relpath(where.removeprefix("nbs/"), posixpath.dirname(uri) or ".")
    raise PluginError(f"{origin}: the link {link} leads to no page; give {where} one in nbs/docs/_site.py, or name it in `backticks`")


PACKED = re.compile(r'(<div class="output") data-packed="([\w+/=]+)">')


def on_post_page(output: str, page, config) -> str:
    "Saved outputs as they were."
    return PACKED.sub(lambda found: f"{found[1]}>{base64.b64decode(found[2]).decode()}", output)
