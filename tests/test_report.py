"The page is one file, deterministic, safe, and says what it must."

import json
import re
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from judged_shop import Circle, Contrary, Popular, make_catalog, make_shop
from rich.console import Console

from recsys.data.catalog import jpeg_uri
from recsys.evaluation.protocol import judge, make_protocol
from recsys.evaluation.report import Report, choose_users, print_metrics, report_shop, write_report
from recsys.scorers.base import Missing

SHOP, USER_IDS, ITEM_NUMS = make_shop()
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}</style>'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The report of the made-up shop, its judgement, and the folder it was written to."
    folder, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("out")
    catalog = make_catalog(SHOP, folder, title=HOSTILE)
    (folder / "3.jpg").write_bytes(b"not a picture")
    scorers = {"popularity": Popular().fit(SHOP), "content": Circle().fit(SHOP), "two_tower": Contrary().fit(SHOP), "als": Missing("als", "no <factors>")}
    judgement = judge(make_protocol(SHOP, USER_IDS, ITEM_NUMS), scorers)
    report = Report("Evaluation", [("shops", "1")], [report_shop(judgement, SHOP, catalog, scorers, "allow", SHOP.at + 1)])
    write_report(report, out)
    return report, judgement, out


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
    assert "two_tower is below popularity" in page
    assert "no &lt;factors&gt;" in page
    assert page.count('<article class="person">') == 8
    assert "drawn blindly" in page and "a stranger" in page
    assert 'class="tile hit"' in page and "background-image:url(data:image/jpeg" in page and 'class="txt"' in page


def test_same_bytes_again(made):
    assert made[0].html() == (made[2] / "report.html").read_text()


def test_files(made):
    rows = json.loads((made[2] / "metrics.json").read_text())
    assert rows == made[1].rows
    assert pq.read_table(made[2] / "metrics.parquet").to_pylist() == rows
    compared = json.loads((made[2] / "comparisons.json").read_text())
    assert {each["verdict"] for each in compared["comparisons"]} >= {"above", "below"} and len(compared["warnings"]) == 1
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
