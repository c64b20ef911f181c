"Part A of what can go wrong: the raw files. Rows in = kept + rejected, by reason, + merged; never a traceback at the user."

import json
import random
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import recsys
from dirty import CLICKS, CUSTOMERS, EVENTS_OF, FILES, MUTATIONS, PART1, SALES, Dirty, Line, Mutation, base_shops, differences, joined, try_out
from PIL import Image
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.engine import open_engine
from recsys.data.lines import MOST_LINES
from recsys.datasets.base import ingest_all
from recsys.datasets.check import EXTENSION, MISSING, NO_PICTURE, OUTSIDE, TOO_LARGE, TRUNCATED, ZERO, check_data, check_pictures
from recsys.datasets.hm import AGES
from recsys.errors import FactorsError
from recsys.pipeline.events import events
from recsys.pipeline.split import split
from recsys.scorers.als import unpack_factors

TABLES = ("events", "items", "users", "item_properties", "rejects")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return base_shops(tmp_path_factory.mktemp("base"))


@pytest.fixture
def dirty(base, tmp_path):
    "A copy of a shop to spoil, by name."

    def copy(name: str, images: bool = False) -> Dirty:
        shutil.copytree(base / f"{name}_raw", tmp_path / name, ignore=None if images else shutil.ignore_patterns("images"))
        return Dirty(name, tmp_path / name, random.Random(7)).load()

    return copy


def take(shop: Dirty, out) -> dict:
    "Take a shop in; its accounting."
    out.mkdir()
    with open_engine("duckdb", out) as engine:
        return ingest_all([shop.name], shop.sources(), out, engine)[0][shop.name]


def content(out) -> dict[str, int]:
    "A hash of the rows of each table that does not depend on their order."
    return {stem: sum(hash(str(row)) for row in pq.read_table(out / f"{stem}.parquet").to_pylist()) for stem in TABLES}


def of_fault(number: int):
    "A test for each mutation of a fault; the others of a kind run in the long version."
    found = [pytest.param(m, id=m.title[3:].replace(" ", "_"), marks=() if m.quick else pytest.mark.slow) for m in MUTATIONS if m.fault == number]
    return pytest.mark.parametrize("mutation", found)


def must_be_exact(mutation: Mutation, base, folder) -> None:
    outcome = try_out(mutation, base, folder)
    assert not outcome.traceback and not outcome.wrong, "\n".join(outcome.wrong)


def test_there_are_enough_mutations_on_both_shops():
    assert len(MUTATIONS) >= 120 and sum(m.quick for m in MUTATIONS) >= 60
    assert len({m.title for m in MUTATIONS}) == len(MUTATIONS)
    assert all(sum(m.shop == shop for m in MUTATIONS) >= 30 for shop in FILES)


def test_the_comparison_finds_a_single_row_that_is_missing(dirty, tmp_path):
    shop = dirty("rr")
    account = take(shop, tmp_path / "out")
    assert not list(differences(shop, account, tmp_path / "out"))
    account["files"][CLICKS]["kept"] -= 1
    account["files"][CLICKS]["merged"] += 1
    assert list(differences(shop, account, tmp_path / "out"))
    shop.files[CLICKS][7].reason = "something"
    assert any("rejected" in text for text in differences(shop, account, tmp_path / "out"))


@of_fault(1)
def test_fault_01_lost_zeros(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(2)
def test_fault_02_truncated_last_line(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(3)
def test_fault_03_open_quote(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


def test_fault_03_an_open_quote_costs_one_line_of_a_long_file(dirty, tmp_path):
    shop = dirty("rr")
    shop.files[CLICKS] += [Line(f"{1_434_000_000_000 + n},5,view,{n % 50},".encode()) for n in range(60_000)]  # more than DuckDB reads as one line
    shop.files[CLICKS][3] = Line(b'"' + shop.files[CLICKS][3].raw, "opens a quote")
    shop.write()
    account = take(shop, tmp_path / "out")
    assert not list(differences(shop, account, tmp_path / "out"))


def test_fault_03_a_text_of_too_many_lines_is_an_open_quote(dirty, tmp_path):
    shop = dirty("table")
    shop.files["i.csv"] += [Line(f"{900_000 + n},Cup,a cup".encode()) for n in range(300)]
    most = b"\n".join([b'"1","Mug","a', *[b"long"] * (MOST_LINES - 2), b'text"'])
    shop.files["i.csv"].insert(2, Line(most))
    shop.write()
    assert take(shop, tmp_path / "out")["files"]["i.csv"]["rejected"] == {}
    shop.files["i.csv"][2].raw = most.replace(b"long", b"long\nlong", 1)
    shop.write()
    rejected = take(shop, tmp_path / "again")["files"]["i.csv"]["rejected"]
    assert sum(rejected.values()) == MOST_LINES + 1  # each of its lines, none of the lines around it


@of_fault(4)
def test_fault_04_too_few_or_many_fields(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(5)
def test_fault_05_prices(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(6)
def test_fault_06_dates(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(7)
def test_fault_07_bytes_that_are_no_text(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(8)
def test_fault_08_missing_files_and_columns(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


def test_fault_08_a_folder_or_a_broken_parquet_for_a_file(dirty, tmp_path):
    shop = dirty("table")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no parquet")
    for path in (tmp_path / "folder.csv", tmp_path / "broken.parquet", tmp_path / "table"):
        report = check_data(["table"], shop.sources() | {"events": path})
        assert not report.usable and path.name in report.refused


@of_fault(9)
def test_fault_09_property_files(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(10)
def test_fault_10_duplicated_rows(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(11)
def test_fault_11_dangling_keys(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(12)
def test_fault_12_unknown_event_type(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(13)
def test_fault_13_malformed_number(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(14)
def test_fault_14_category_tree(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


def test_fault_15_property_later_than_the_cutoff(dirty, tmp_path):
    """What is written on the last day of the data is known to neither window; what was written on the first day to both."""
    shop = dirty("rr")
    times = sorted(int(shop.fields(CLICKS, n)["timestamp"]) for n in range(1, len(shop.files[CLICKS])))
    item = shop.fields(CLICKS, 1)["itemid"]
    shop.files[PART1] += [Line(f"{times[0]},{item},4711,known".encode()), Line(f"{times[-1]},{item},4711,late".encode())]
    shop.write()
    out, parts = tmp_path / "events", tmp_path / "split"
    out.mkdir(), parts.mkdir()
    events({}, out, datasets=["rr"], sources=shop.sources())
    assert "late" in pq.read_table(out / "item_properties.parquet")["value"].to_pylist()
    split({"events": out}, parts)
    windows = sorted(parts.glob("items_rr*.parquet"))
    assert len(windows) == 2
    for path in windows:
        said = next(str(row) for row in pq.read_table(path).to_pylist() if row["raw_id"] == item)
        assert "known" in said and "late" not in said


@of_fault(16)
def test_fault_16_bots(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@of_fault(17)
def test_fault_17_ages_and_none(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


def test_fault_17_an_impossible_age_is_unknown(dirty, tmp_path):
    shop = dirty("hm")
    cases = {"0": None, "150": None, "old": None, "nan": None, "": None, str(AGES[0]): AGES[0], "34.0": 34}
    ids = {}
    for place, text in enumerate(cases, start=1):
        row = shop.fields(CUSTOMERS, place) | {"age": text, "fashion_news_frequency": "NONE" if place % 2 else "None"}
        ids[row["customer_id"]] = cases[text]
        shop.files[CUSTOMERS][place] = Line(joined(list(row.values())))
    shop.write()
    take(shop, tmp_path / "out")
    users = {row["raw_id"]: json.loads(row["attributes"]) for row in pq.read_table(tmp_path / "out" / "users.parquet").to_pylist()}
    assert {raw_id: users[raw_id].get("age") for raw_id in ids} == ids
    assert not any("news" in users[raw_id] for raw_id in ids)


def test_fault_18_pictures_of_all_kinds(tmp_path):
    """What can be read is no fault, however odd; what cannot is listed with its reason."""
    rng = np.random.default_rng(7)
    noise = Image.fromarray(rng.integers(0, 256, (240, 160, 3), dtype=np.uint8))
    noise.save(tmp_path / "plain.jpg")
    whole = (tmp_path / "plain.jpg").read_bytes()
    noise.convert("CMYK").save(tmp_path / "cmyk.jpg")
    noise.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(rng.integers(0, 65_536, (40, 40), dtype=np.uint16)).save(tmp_path / "deep.png")
    noise.save(tmp_path / "animated.gif", save_all=True, append_images=[noise.rotate(90)])
    exif = noise.getexif()
    exif[0x0112] = 6
    noise.save(tmp_path / "turned.jpg", exif=exif)
    noise.save(tmp_path / "png.jpg", format="PNG")
    (tmp_path / "behind.jpg").write_bytes(whole + b"\0" * 40)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "cut.jpg").write_bytes(whole[:-3000])
    (tmp_path / "head.jpg").write_bytes(whole[:100])
    Image.new("1", (9_000, 8_000)).save(tmp_path / "bomb.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    found = check_pictures(tmp_path, [*names, "gone.jpg", "../../etc/passwd", "/etc/passwd", None])
    listed = {name: fault for fault, shown in found.examples.items() for name in shown}
    assert listed == {"png.jpg": EXTENSION, "empty.jpg": ZERO, "text.jpg": NO_PICTURE, "cut.jpg": TRUNCATED, "head.jpg": TRUNCATED, "bomb.png": TOO_LARGE,
                      "gone.jpg": MISSING, "../../etc/passwd": OUTSIDE, "/etc/passwd": OUTSIDE}  # fmt: skip
    assert (found.n_named, sum(found.faults.values())) == (len(names) + 3, 9)


def test_fault_18_the_report_lists_them(dirty):
    shop = dirty("hm", images=True)
    pictures = sorted((shop.folder / "images").rglob("*.jpg"))
    pictures[0].write_bytes(b"")
    pictures[1].unlink()
    seen = check_data(["hm"], shop.sources()).shops[0].pictures
    assert seen.faults == {ZERO: 1} and seen.examples[ZERO] == [str(pictures[0].relative_to(shop.folder))]
    assert seen.n_named == len(pictures) - 1


@pytest.mark.parametrize("name", ["../evil.csv", "/tmp/evil.csv", "shop/../../evil.csv", "..\\evil.csv", "link.csv"])
def test_fault_19_archives_that_point_outside(name, tmp_path):
    """Factors are the only archive that is taken."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr("user_factors.csv", "num,f0\n")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (0o120777 if name == "link.csv" else 0o100644) << 16
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(FactorsError, match="outside"):
        unpack_factors(tmp_path / "bad.zip", tmp_path / "home" / "deep")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.csv", "link.csv") or path.is_symlink()]


@of_fault(20)
def test_fault_20_extreme_shops(mutation, base, tmp_path):
    must_be_exact(mutation, base, tmp_path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_order_of_lines_does_not_matter_even_where_they_are_dirty(dirty, tmp_path, name):
    shop = dirty(name)
    file = EVENTS_OF[name]
    shop.alter(file, lambda raw: b'"' + raw, "open")
    shop.alter(file, lambda raw: raw.replace(b",", b"\0,", 1), "nul")
    shop.alter(file, lambda raw: raw.rsplit(b",", 2)[0], "few")
    shop.write()
    take(shop, tmp_path / "a")
    for written, (head, *rest) in shop.files.items():
        shop.files[written] = [head, *shop.rng.sample(rest, len(rest))]
    shop.write()
    take(shop, tmp_path / "b")
    ours, theirs = content(tmp_path / "a"), content(tmp_path / "b")
    assert {**ours, "rejects": 0} == {**theirs, "rejects": 0}
    same = [sorted((row["raw"], row["reason"]) for row in pq.read_table(tmp_path / side / "rejects.parquet").to_pylist()) for side in "ab"]
    assert same[0] == same[1] and len(same[0]) == 9


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_report_has_the_accounting_of_the_step(dirty, tmp_path, name):
    shop = dirty(name)
    shop.alter(EVENTS_OF[name], lambda raw: raw + b",1,2", "many")
    shop.write()
    (out := tmp_path / "out").mkdir()
    events({}, out, datasets=[name], sources=shop.sources())
    report = check_data([name], shop.sources())
    written = json.loads((out / "accounting.json").read_text())[name]
    assert {key: report.shops[0].account[key] for key in written} == written
    assert report.usable and len(report.shops[0].rejected) == 3 == sum(written["files"][EVENTS_OF[name]]["rejected"].values())
    assert json.loads(json.dumps(report.to_dict(), default=str))["usable"]


def test_the_command_says_what_is_wrong_and_fails_only_where_no_run_can_use_it(dirty, tmp_path):
    shop = dirty("hm")
    shop.spoil(SALES, "price", "<b>cheap</b>", "price")
    shop.write()
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "check", "hm", "--set", f"hm_raw={shop.folder}", "--html", str(tmp_path / "report.html")])
    assert done.exit_code == 0 and "rejected, with examples" in done.output
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;cheap" in page and "<b>cheap" not in page
    (shop.folder / SALES).unlink()
    done = recsys("data", "check", "hm", "--set", f"hm_raw={shop.folder}")
    assert done.returncode == 1 and SALES in done.stderr and "Traceback" not in done.stdout + done.stderr
