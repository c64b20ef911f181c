"The run card says what happened, and nothing else."

import re

import pytest
from conftest import recsys
from little_river import go, write_step

from recsys.cards import card, limits, write_card
from recsys.errors import StepError
from recsys.page import Cell, Page, Part
from recsys.runs import open_run

PARTS = ("Metrics of hm", "Metrics of rr", "Known limits", "Data", "Rows", "Split", "Encoders", "Models", "Costs")


def test_a_whole_run_has_every_part(tiny):
    page = card(tiny)
    assert tuple(part.heading for part in page.parts[: len(PARTS)]) == PARTS
    parts = {part.heading: part for part in page.parts}
    assert len(parts["Costs"].rows) == len(tiny.record["steps"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d.*", parts["Data"].rows[0][1])
    for row in parts["Rows"].cells:
        rows, kept, merged, rejected = (int(cell.text.replace(",", "")) for cell in row[2:6])
        assert rows == kept + merged + rejected
    assert {row[0] for row in parts["Models"].rows} >= {"als", "two_tower", "als_tower", "item_knn", "hybrid of hm"}
    assert all("Apache-2.0" in row[4] for row in parts["Encoders"].rows)
    assert any("users" in sentence for sentence in limits(tiny)), "a tiny shop is judged on few users"


def test_metrics_on_the_card_are_those_of_the_run(tiny):
    table = tiny.table("metrics")
    row = table[(table.dataset == "hm") & (table.strategy == "als") & (table.metric == "map") & (table.k == 12) & (table.slice == "warm")].iloc[0]
    assert f"{row.value:.4f} [{row.lo:.4f}, {row.hi:.4f}]" in card(tiny).markdown()


def test_a_card_is_written_twice_the_same_and_stands_alone(tiny):
    first = write_card(tiny).read_bytes()
    assert write_card(tiny).read_bytes() == first
    assert not re.search(rb"https?://|<script|<link|src=", first)
    markdown = (tiny.folder / "card.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, "every row of a table has all its cells"


def test_a_failed_run_has_a_card_of_what_is_known(river, tmp_path):
    write_step(river, "02_two", "raise ValueError('seven | eight')")
    with pytest.raises(StepError):
        go(tmp_path, resume="recsys run mine")
    run = open_run("mine", runs_dir=tmp_path / "runs")
    text = write_card(run).with_suffix(".md").read_text()
    assert "Failed at two" in text and r"seven \| eight" in text and "Go on with: recsys run mine" in text
    assert "1 of 3 steps are done (the run is failed)" in text


def test_a_failed_command_leaves_a_card(tmp_path):
    bad = tmp_path / "e.csv"
    bad.write_text("user_id,item,timestamp\n1,2,3\n")
    done = recsys("run", "table", "--set", f"events={bad}", "--set", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Failed at events" in (open_run("table", runs_dir=tmp_path / "runs").folder / "card.md").read_text()


def test_the_command_line_shows_it(tiny):
    done = recsys("runs", "card", tiny.name, "--runs-dir", str(tiny.folder.parent.parent))
    assert done.returncode == 0 and "Known limits" in done.stdout and "card.html" in done.stdout.replace("\n", "")


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "a|b", "[x](javascript:alert(1))", "`x`", "line\nbreak"])
def test_names_from_raw_files_stay_text(text):
    page = Page(text, text, ((text, text),), (Part(text, (text,), (text, "n"), ((text, Cell(text, "best")),)),))
    assert "<img" not in page.html()
    table = [line for line in page.markdown().splitlines() if line.startswith("|")]
    assert len(table) == 3 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
