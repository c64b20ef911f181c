"The page is one file, deterministic, safe, and says what it must."

import json
import re
from html.parser import HTMLParser

import matplotlib
import nbformat
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, chromium
from judged_shop import Again, Circle, Contrary, Popular, make_catalog, make_shop
from rich.console import Console

from recsys.data.catalog import jpeg_uri
from recsys.evaluation.audit import audit, audit_section
from recsys.evaluation.behaviour import behaviour, behaviour_section
from recsys.evaluation.metrics import DEFINITIONS
from recsys.evaluation.protocol import BASELINES, SLICES, judge, make_protocol
from recsys.evaluation.report import COLOURS, Report, Tiles, choose_users, report_shop, spread, write_report
from recsys.figures import print_metrics
from recsys.scorers.base import STRATEGIES, Missing
from recsys.scorers.hybrid import make_hybrid

SHOP, USER_IDS, ITEM_NUMS = make_shop()
NEWCOMERS = {"kindred": Circle().fit(SHOP)}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}</style>'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The report of the made-up shop, its judgement, and the folder it was written to."
    folder, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("out")
    catalog = make_catalog(SHOP, folder, title=HOSTILE)
    (folder / "3.jpg").write_bytes(b"not a picture")
    scorers = {"popularity": Popular().fit(SHOP), "repurchase": Again().fit(SHOP), "content": Circle().fit(SHOP), "two_tower": Contrary().fit(SHOP),
               "als": Missing("als", "no <factors>")}  # fmt: skip
    scorers["hybrid"] = make_hybrid(scorers, SHOP, {"two_tower": 0.99, "content": 0.01}, "hybrid")  # spoiled by its worse part
    judgement = judge(protocol := make_protocol(SHOP, USER_IDS, ITEM_NUMS, catalog=catalog), scorers)
    more = [audit_section(audit(protocol, scorers)), behaviour_section(behaviour(protocol, scorers, catalog, SHOP))]
    report = Report("Evaluation", [("shops", "1")], [report_shop(judgement, SHOP, catalog, scorers, "allow", SHOP.at + 1, more=more, newcomers=NEWCOMERS)])
    write_report(report, out)
    return report, judgement, out


def test_who_is_asked_about_new_items_alone_stands_only_there(made):
    report, _, out = made
    cold = {row["strategy"] for row in json.loads((out / "cold_ranking.json").read_text())["shop"]["rows"]}
    assert {"kindred", "content", "newest_of_category"} <= cold
    assert "kindred" not in {row["strategy"] for shop in report.shops for row in shop.rows}


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action") and value]
        assert not any(name.startswith("on") for name, _ in attrs)


def test_offline_and_safe(made):
    page = (made[2] / "report.html").read_text()
    seen = Seen()
    seen.feed(page)
    assert not seen.tags & {"script", "iframe", "link", "object", "embed"}
    assert all(link.startswith("#") for link in seen.links)
    assert not re.findall(r"url\((?!data:image/jpeg;base64,)", page) and "@import" not in page
    assert HOSTILE not in page and "{{ 7 * 7 }}" in page and page.count("</style>") == 1


def test_says_what_it_must(made):
    page = (made[2] / "report.html").read_text()
    assert 'class="warning caution">Below a baseline:<ul class="plain"><li>shop, warm: two_tower is below' in page
    assert 'class="warning" role="alert">shop, ' in page and "hybrid is below content by" in page
    assert page.index("hybrid is below content") < page.index("two_tower is below")  # the worst first
    assert "no &lt;factors&gt;" in page
    assert page.count('<article class="person">') == 8
    assert "drawn at random" in page and "a stranger" in page
    assert 'class="tile hit"' in page and "background-image:url(data:image/jpeg" in page and 'class="txt"' in page


def test_same_bytes_again(made):
    assert made[0].html() == (made[2] / "report.html").read_text()


def test_files(made):
    rows = json.loads((made[2] / "metrics.json").read_text())
    assert rows == made[1].rows
    assert pq.read_table(made[2] / "metrics.parquet").to_pylist() == rows
    compared = json.loads((made[2] / "comparisons.json").read_text())
    assert {each["verdict"] for each in compared["comparisons"]} >= {"above", "below"}
    assert compared["warnings"] == made[0].shops[0].warnings and len(compared["warnings"]) >= 2
    assert {row["slice"] for row in json.loads((made[2] / "cold_ranking.json").read_text())["shop"]["rows"]} == {"cold_ranking"}


def test_users_are_drawn_as_said(made):
    drawn = choose_users(made[1])
    assert len({row for row, _ in drawn}) == len(drawn) == 8
    lengths = made[1].protocol.queries.past.lengths
    assert all((lengths[row] == 0) == how.startswith("a stranger") for row, how in drawn)
    assert drawn == choose_users(made[1]) != choose_users(made[1], seed=8)


def test_a_picture_that_is_none_is_a_card(made, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert jpeg_uri(tmp_path / "bad.jpg", 99) is None and jpeg_uri(tmp_path / "none.jpg", 99) is None and jpeg_uri(None, 99) is None


def test_terminal_table_fits_80_characters(made):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - lives as long as the console
    print_metrics(made[1].rows, console)
    text = console.export_text()
    assert "…" not in text and "no <factors>" in text and "popularity" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_every_question_has_its_place(made):
    page = (made[2] / "report.html").read_text()
    for part in SLICES:
        assert f'id="shop-{part}"' in page
    for heading in ("Who filled the lists", "For whom, and for what", "by events before the cutoff", "by days since the item&#39;s first sale",
                    "What the lists are like", "Where candidates come from", "Do they behave sensibly?", "New items only", "Definitions"):  # fmt: skip
        assert heading in page, heading
    assert "filled with popularity" in page and "had before" in page


def test_baselines_are_marked_and_only_they(made):
    table = re.search(r"<table>.*?</table>", made[0].shops[0].section(), re.S)[0]
    marked = set(re.findall(r'</span>\s*(\w+)\s*<span class="tag">baseline', table))
    assert marked == {"popularity", "repurchase", "random"} <= set(BASELINES)


def test_layers_add_up(made):
    shares = made[1].layers
    for name in {row["strategy"] for row in shares}:
        of = {row["layer"]: row["share"] for row in shares if row["strategy"] == name}
        assert of["itself"] + of["popularity"] == pytest.approx(1)
    widths = [float(width) for width in re.findall(r'<rect x="[\d.]+" width="([\d.]+)" height="12"', made[0].shops[0].section())]
    assert sum(widths) == pytest.approx(220 * len({row["strategy"] for row in shares}), abs=1)


def test_details_show_the_rows(made):
    page = made[0].shops[0].section()
    row = next(row for row in made[1].rows if (row["slice"], row["strategy"], row["metric"]) == ("history:6+", "content", "map"))
    assert f"{row['value']:.4f}" in page and f"[{row['lo']:.4f}, {row['hi']:.4f}]" in page and f"{row['n_users']:,} users" in page


def test_every_strategy_has_its_colour():
    assert set(STRATEGIES) | set(BASELINES) <= set(COLOURS)
    assert len({COLOURS[name] for name in STRATEGIES}) == len(STRATEGIES)


def test_a_picture_is_stored_once(made, tmp_path):
    tiles = Tiles(make_catalog(SHOP, tmp_path, pictures=3))
    first, again = tiles.of([0, 1, -1, 199]), tiles.of([1], targets={1})
    assert [bool(tile.picture) for tile in first] == [True, True, False] and len(tiles.pictures) == 2
    assert again[0] == first[1]._replace(hit=True)
    page = (made[2] / "report.html").read_text()
    rules = re.findall(r"\.(p[0-9a-f]{16})\{background-image", page)
    assert len(rules) == len(set(rules)) > 3


def test_names_at_the_end_of_curves_do_not_meet():
    moved = spread([100.0] * 12 + [20.0], gap=13, lowest=294)
    apart = sorted(moved)
    assert min(b - a for a, b in zip(apart, apart[1:], strict=False)) >= 13 and max(moved) <= 294


def test_the_sheet_in_the_docs_holds():
    "Its cells hold, and the table of conventions that stands there is the one that comes out."
    matplotlib.use("Agg")
    cells = [cell for cell in nbformat.read(ROOT / "nbs" / "docs" / "metrics.ipynb", as_version=4).cells if cell.cell_type == "code"]
    space = {}
    for cell in cells:
        exec(compile(cell.source, "docs/metrics", "exec"), space)
    written = "".join(output["data"].get("text/markdown", "") for cell in cells for output in cell.outputs if "data" in output)
    assert all(f"| {' | '.join(row)} |" in written for row in [*space["shown"], *DEFINITIONS])
    assert len({row["map"] for row in space["told"]}) == 3  # the conventions do differ


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_fits_a_phone_and_a_desk(made, width):
    "Wide tables scroll in their own box; nothing is asked of anybody."
    with chromium() as browser:
        page, asked = browser.new_page(viewport={"width": width, "height": 900}), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((made[2] / "report.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for label in page.locator(".bar label").all():
            label.click()
            assert page.locator(".pane:visible").count() == 1
        assert not [url for url in asked if not url.startswith(("file:", "data:"))]
