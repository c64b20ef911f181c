"The sample shop: raw layouts to the letter, and the structure that was planted is really there."
import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from recsys.datasets.sample import SNAPSHOTS_MS, draw_sample
from recsys.datasets.wardrobe import GARMENTS, SILHOUETTES, Look, picture
from recsys.errors import SettingsError

SIZES = {"customers": 1000, "articles": 600, "rr_visitors": 1000, "rr_events": 10_000}
HEADERS = {
    "hm_raw/articles.csv": "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
                           "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,perceived_colour_value_name,"
                           "perceived_colour_master_id,perceived_colour_master_name,department_no,department_name,index_code,index_name,index_group_no,"
                           "index_group_name,section_no,section_name,garment_group_no,garment_group_name,detail_desc",
    "hm_raw/customers.csv": "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code",
    "hm_raw/transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id",
    "rr_raw/events.csv": "timestamp,visitorid,event,itemid,transactionid",
    "rr_raw/item_properties_part1.csv": "timestamp,itemid,property,value",
    "rr_raw/item_properties_part2.csv": "timestamp,itemid,property,value",
    "rr_raw/category_tree.csv": "categoryid,parentid",
}


def fingerprints(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


class Shop:
    "The drawn files, read back as text."

    def __init__(self, folder: Path, counts: dict[str, int]) -> None:
        self.folder, self.counts = folder, counts
        self.truth = json.loads((folder / "truth.json").read_text())
        self.articles = pd.read_csv(folder / "hm_raw/articles.csv", dtype=str, keep_default_na=False)
        self.customers = pd.read_csv(folder / "hm_raw/customers.csv", dtype=str, keep_default_na=False)
        self.sales = pd.read_csv(folder / "hm_raw/transactions_train.csv", dtype=str, keep_default_na=False)
        self.sales["day"] = (pd.to_datetime(self.sales.t_dat) - pd.Timestamp("2018-09-20")).dt.days
        self.clicks = pd.read_csv(folder / "rr_raw/events.csv", dtype={"transactionid": str})
        self.properties = [pd.read_csv(folder / f"rr_raw/item_properties_part{i}.csv", dtype=str, keep_default_na=False) for i in (1, 2)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    folder = tmp_path_factory.mktemp("sample")
    return Shop(folder, draw_sample(folder, **SIZES, progress=False))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Shop:
    folder = tmp_path_factory.mktemp("tiny")
    return Shop(folder, draw_sample(folder, customers=300, articles=300, images=False, progress=False))


# ---- layout

@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_kaggles_to_the_letter(shop, name):
    data = (shop.folder / name).read_bytes()
    assert data.split(b"\n", 1)[0].decode() == HEADERS[name]
    assert data.endswith(b"\n") and b"\r" not in data


def test_only_the_raw_files_and_the_truth_are_left(shop):
    assert sorted(p.name for p in shop.folder.iterdir()) == ["hm_raw", "rr_raw", "truth.json"]
    assert sorted(p.name for p in (shop.folder / "hm_raw").iterdir()) == ["articles.csv", "customers.csv", "images", "transactions_train.csv"]


def test_counts_are_the_files(shop):
    images = len(list((shop.folder / "hm_raw/images").rglob("*.jpg")))
    found = {"customers": len(shop.customers), "articles": len(shop.articles), "transactions": len(shop.sales), "images": images,
             "rr_events": len(shop.clicks), "rr_properties": sum(map(len, shop.properties))}
    assert found == {k: shop.counts[k] for k in found}
    assert shop.counts["transactions"] == 25_000 and shop.counts["rr_events"] == 10_000


def test_article_ids_are_ten_digits_of_a_product_and_a_colour(shop):
    ids = shop.articles.article_id
    assert ids.str.fullmatch(r"0\d{9}").all() and ids.is_unique and ids.is_monotonic_increasing
    assert (ids.str[1:7] == shop.articles.product_code).all()
    per_product = shop.articles.groupby("product_code")
    assert 1.8 < per_product.size().mean() < 2.6
    assert (per_product.colour_group_name.nunique() == per_product.size()).all()  # several colours of one product
    assert (per_product.product_type_name.nunique() == 1).all()


def test_every_code_has_one_name(shop):
    for code, name in [("product_type_no", "product_type_name"), ("graphical_appearance_no", "graphical_appearance_name"),
                       ("colour_group_code", "colour_group_name"), ("section_no", "section_name"), ("index_code", "index_name")]:
        assert (shop.articles.groupby(code)[name].nunique() == 1).all(), code


def test_customer_ids_are_64_hex_digits(shop):
    ids = shop.customers.customer_id
    assert ids.str.fullmatch("[0-9a-f]{64}").all() and ids.str[:13].is_unique and ids.is_monotonic_increasing
    assert set(shop.customers.FN) == set(shop.customers.Active) == {"", "1.0"}
    assert 0 < (shop.customers.age == "").mean() < .03
    assert set(shop.customers.fashion_news_frequency) <= {"NONE", "Regularly", "Monthly", ""}


def test_transactions_are_sorted_and_known(shop):
    assert shop.sales.t_dat.is_monotonic_increasing
    assert shop.sales.t_dat.iloc[0] == "2018-09-20" and shop.sales.t_dat.iloc[-1] == "2020-09-22"
    assert shop.sales.customer_id.isin(shop.customers.customer_id).all() and shop.sales.article_id.isin(shop.articles.article_id).all()
    price = shop.sales.price.astype(float)
    assert price.between(.002, .6).all() and .01 < price.median() < .06
    assert set(shop.sales.sales_channel_id) == {"1", "2"}


def test_descriptions_are_english_sentences_and_a_few_are_missing(tmp_path):
    draw_sample(tmp_path, customers=100, articles=3000, images=False, progress=False)
    with (tmp_path / "hm_raw/articles.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["detail_desc"] for row in csv.DictReader(file)]
    assert .001 < np.mean([t == "" for t in texts]) < .009
    assert all(t[0].isalnum() and t.endswith(".") and len(t.split()) > 7 for t in texts if t)


def test_a_few_pictures_are_missing_and_the_others_open(shop):
    folder = shop.folder / "hm_raw/images"
    paths = [folder / i[:3] / f"{i}.jpg" for i in shop.articles.article_id]
    there = [p for p in paths if p.exists()]
    assert len(paths) - len(there) == round(.004 * len(paths))
    for path in there[::50]:
        with Image.open(path) as image:
            assert image.size == (160, 240) and image.mode == "RGB" and image.format == "JPEG"
            assert np.asarray(image)[:3, :3].min() > 215  # a light studio


def test_one_look_tells_garments_colours_and_patterns_apart():
    assert set(GARMENTS) == set(SILHOUETTES)
    looks = [Look(g, "Blue", "White", "solid") for g in GARMENTS] + [Look("Dress", c, "White", "solid") for c in ("Red", "Black", "Yellow")]
    looks += [Look("Dress", "Blue", "White", p) for p in ("stripe", "dot", "check", "floral", "sequin")]
    pixels = np.stack([np.asarray(picture(look, (80, 120)), np.float32).ravel() for look in looks])
    apart = np.abs(pixels[:, None] - pixels[None]).mean(2)
    np.fill_diagonal(apart, 99)
    assert apart.min() > 3, [looks[i] for i in np.unravel_index(apart.argmin(), apart.shape)]


def test_no_images_means_none(tiny):
    assert tiny.counts["images"] == 0 and not (tiny.folder / "hm_raw/images").exists()


# ---- determinism, sizes, refusals

def test_same_seed_same_bytes_and_another_seed_another_shop(tmp_path):
    sizes = {"customers": 120, "articles": 80, "rr_visitors": 60, "rr_events": 600, "progress": False}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        draw_sample(tmp_path / name, **sizes, seed=seed)
    a, b, c = (fingerprints(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[f] != c[f] for f in HEADERS)


def test_a_drawn_shop_is_replaced_whole(tmp_path):
    sizes = {"customers": 120, "articles": 80, "rr_visitors": 60, "rr_events": 600, "progress": False}
    draw_sample(tmp_path, **sizes, seed=1)
    draw_sample(tmp_path, **sizes, seed=2, images=False)
    assert not (tmp_path / "hm_raw/images").exists() and not (tmp_path / ".drawing").exists()


def test_real_files_are_never_replaced(tmp_path):
    (tmp_path / "hm_raw").mkdir()
    (tmp_path / "hm_raw/articles.csv").write_text("mine")
    with pytest.raises(SettingsError, match="was not drawn"):
        draw_sample(tmp_path, customers=100, progress=False)
    assert (tmp_path / "hm_raw/articles.csv").read_text() == "mine"


@pytest.mark.parametrize("sizes", [{"customers": 0}, {"articles": -5}, {"transactions": 3}, {"customers": 100, "rr_visitors": 900, "rr_events": 300}])
def test_impossible_sizes_are_refused(tmp_path, sizes):
    with pytest.raises(SettingsError, match="expected"):
        draw_sample(tmp_path, **sizes, progress=False)
    assert not any(tmp_path.iterdir())


STREAM = """
import re, sys, time
from pathlib import Path
from recsys.datasets.sample import draw_sample
start = time.process_time()
counts = draw_sample(Path(sys.argv[1]), customers=20_000, articles=5_000, rr_visitors=20_000, rr_events=60_000, images=False, progress=False)
print(counts["transactions"], time.process_time() - start,
      int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)  # ru_maxrss counts the parent's memory too
"""


def test_larger_sizes_stream(tmp_path):
    out = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True).stdout.split()
    rows, seconds, mib = int(out[0]), float(out[1]), float(out[2])
    assert rows == 500_000 and seconds < 30 and mib < 600


# ---- what was planted is there

@pytest.mark.parametrize("which", ["shop", "tiny"])
def test_who_buys_the_first_of_a_pair_buys_the_second_within_days(which, request):
    shop = request.getfixturevalue(which)
    sales, days = shop.sales, shop.truth["hm"]["pair_days"]
    assert len(shop.truth["hm"]["pairs"]) >= 4
    for first, second in shop.truth["hm"]["pairs"]:
        early = sales[(sales.article_id == first) & (sales.day < 734 - days)][["customer_id", "day"]].drop_duplicates()
        late = sales[sales.article_id == second][["customer_id", "day"]]
        both = early.merge(late, on="customer_id", suffixes=("", "_later"))
        after = both[(both.day_later - both.day).between(1, days)]
        assert len(early) >= 10 and len(after[["customer_id", "day"]].drop_duplicates()) == len(early), (first, second)
        buyers = set(early.customer_id)
        others = 1 - len(buyers) / sales.customer_id.nunique()
        share_of_others = len(set(late.customer_id) - buyers) / (others * sales.customer_id.nunique())
        assert share_of_others < .3, (first, second)  # so the pair has lift


def test_customers_buy_their_taste(shop):
    mine = shop.sales.customer_id.map(shop.truth["hm"]["customer_taste"])
    its = shop.sales.article_id.map(shop.truth["hm"]["article_taste"])
    assert mine.notna().all() and its.notna().all()
    chance = (mine.value_counts(normalize=True) * its.value_counts(normalize=True)).sum()
    assert (mine == its).mean() > .5 > 4 * chance


def test_a_taste_shows_in_colour_pattern_and_words(shop):
    taste = shop.articles.article_id.map(shop.truth["hm"]["article_taste"])
    for column in ("colour_group_name", "graphical_appearance_name", "product_type_name", "section_name"):
        table = pd.crosstab(taste, shop.articles[column], normalize="index")
        assert (table.max() > 2 * table.mean()).mean() > .5, column
    romantic = shop.articles.detail_desc[taste == "romantic"].str.contains("omantic|eminine|oftly draped")
    assert romantic.mean() > .95 and shop.articles.detail_desc[taste == "street"].str.contains("omantic|eminine").mean() == 0


def test_new_articles_follow_the_tastes_of_their_buyers(shop):
    last = shop.sales[shop.sales.day >= 727]
    new = last[last.article_id.isin(shop.truth["hm"]["new_articles"])]
    assert not shop.sales[shop.sales.day < 727].article_id.isin(shop.truth["hm"]["new_articles"]).any()
    assert len(new) > 20 and .03 < len(new) / len(last) < .3
    assert (new.customer_id.map(shop.truth["hm"]["customer_taste"]) == new.article_id.map(shop.truth["hm"]["article_taste"])).mean() > .4


def test_new_customers_come_in_the_last_week_only(shop):
    new = set(shop.truth["hm"]["new_customers"])
    assert 20 <= len(new) <= 40
    assert shop.sales[shop.sales.customer_id.isin(new)].day.min() >= 727
    assert len(new & set(shop.sales.customer_id)) > .9 * len(new)


def test_the_last_two_weeks_are_busy_and_mostly_warm(shop):
    for start, end in ((727, 734), (720, 727)):
        users = set(shop.sales[shop.sales.day.between(start, end - 1)].customer_id)
        warm = users & set(shop.sales[shop.sales.day < start].customer_id)
        assert len(users) > 150 and len(warm) > .6 * len(users)


def test_purchases_repeat(shop):
    "Some rows are identical (quantity), and a customer's latest articles come back far more often than the ones long before."
    lines = shop.sales.drop_duplicates(["customer_id", "article_id", "day"])
    assert .05 < 1 - len(lines) / len(shop.sales) < .2
    lines = lines.sort_values(["customer_id", "day"], kind="stable")

    def comes_back(lag: int) -> float:
        before = lines.shift(lag)
        same = (before.customer_id == lines.customer_id) & (before.day < lines.day)
        return (before.article_id == lines.article_id)[same].mean()
    lately, long_ago = np.mean([comes_back(k) for k in (1, 2, 3, 4)]), np.mean([comes_back(k) for k in (13, 14, 15, 16)])
    assert lately > 1.45 * long_ago, (lately, long_ago)


def test_popularity_is_skewed_and_some_articles_and_customers_never_sell(shop):
    sold = shop.sales.article_id.value_counts()
    assert .35 < sold.iloc[:len(shop.articles) // 10].sum() / len(shop.sales) < .8
    assert 0 < 1 - len(sold) / len(shop.articles) < .15
    per_customer = shop.sales.customer_id.value_counts()
    assert per_customer.quantile(.99) > 5 * per_customer.median()
    assert 0 < len(shop.customers) - len(per_customer) < .02 * len(shop.customers)


def test_saturday_is_busier_than_sunday_and_summer_things_sell_in_summer(shop):
    date = pd.to_datetime(shop.sales.t_dat)
    by_day = date.dt.dayofweek.value_counts()
    assert by_day[5] > 1.2 * by_day[6]
    kind, month = shop.sales.article_id.map(shop.articles.set_index("article_id").product_type_name), date.dt.month
    summer, winter = month.isin((6, 7, 8)), month.isin((11, 12, 1))
    warm, cold = kind.isin(("Shorts", "Sandals", "Skirt", "Dress")), kind.isin(("Coat", "Boots", "Hat/beanie", "Scarf", "Sweater"))
    assert warm[summer].mean() > 1.5 * warm[winter].mean() and cold[winter].mean() > 1.5 * cold[summer].mean()


def test_articles_are_born_and_die(shop):
    days = shop.sales.groupby("article_id").day.agg(["min", "max"])
    assert (days["min"] > 100).mean() > .4 and (days["max"] < 600).mean() > .3


# ---- the web shop

def test_clicks_have_kaggles_values(shop):
    clicks = shop.clicks
    assert clicks.timestamp.is_monotonic_increasing and clicks.timestamp.between(1_430_600_000_000, 1_442_700_000_000).all()
    assert set(clicks.event) == {"view", "addtocart", "transaction"} and clicks.itemid.max() < 3_000_000
    assert (clicks.transactionid.notna() == (clicks.event == "transaction")).all()
    shares = clicks.event.value_counts(normalize=True)
    assert shares["view"] > .85 and shares["addtocart"] > shares["transaction"] > .005


def test_sessions_are_about_one_category(shop):
    people = shop.clicks[~shop.clicks.visitorid.isin(shop.truth["rr"]["bots"])]
    views = people[people.event == "view"].sort_values(["visitorid", "timestamp"], kind="stable")
    close = (views.visitorid.diff() == 0) & (views.timestamp.diff() < 600_000)
    category = views.itemid.astype(str).map(shop.truth["rr"]["item_category"])
    assert close.mean() > .3 and (category == category.shift())[close].mean() > .8


def test_a_planted_view_follows_in_the_session(shop):
    views = shop.clicks[shop.clicks.event == "view"]
    people = views[~views.visitorid.isin(shop.truth["rr"]["bots"])]
    for first, second in shop.truth["rr"]["pairs"]:
        seen = people[people.itemid == first].merge(people[people.itemid == second], on="visitorid")
        follows = seen[(seen.timestamp_y - seen.timestamp_x).between(1, 40_000)]
        assert len(follows.drop_duplicates(["visitorid", "timestamp_x"])) == (people.itemid == first).sum() >= 3


def test_there_are_a_few_bots_who_look_at_everything(shop):
    bots = shop.clicks[shop.clicks.visitorid.isin(shop.truth["rr"]["bots"])]
    assert 2 <= bots.visitorid.nunique() < 10 and bots.groupby("visitorid").size().min() > 50
    assert set(bots.event) == {"view"} and bots.groupby("visitorid").timestamp.apply(lambda t: t.diff().dropna().nunique()).max() == 1


def test_properties_are_dated_opaque_and_absent_for_a_tenth(shop):
    both = pd.concat(shop.properties)
    assert set(both.timestamp.astype(int)) == set(SNAPSHOTS_MS.tolist())
    assert all(set(p.timestamp.astype(int)) == set(SNAPSHOTS_MS.tolist()) for p in shop.properties)  # either part alone covers all weeks
    assert not both.duplicated().any() and len(shop.properties[0]) > len(shop.properties[1]) > 0
    assert set(both.value[both.property == "available"]) == {"0", "1"}
    assert both.value[~both.property.isin(("available", "categoryid"))].str.fullmatch(r"(n\d+\.000|\d+)( (n\d+\.000|\d+))*").all()
    assert abs((~shop.clicks.itemid.astype(str).isin(both.itemid)).mean() - .10) < .02


def test_every_known_item_has_its_category_and_tokens_tell_it(shop):
    both = pd.concat(shop.properties)
    category = both[both.property == "categoryid"].set_index("itemid").value
    assert set(category.index) == set(both.itemid) and category.index.is_unique
    assert {k: int(v) for k, v in category.items()} == {k: shop.truth["rr"]["item_category"][k] for k in category.index}
    token = both[both.property == "159"].set_index("itemid").value
    purity = pd.crosstab(token, category[token.index].to_numpy()).max(axis=1).sum() / len(token)
    assert purity > .95


def test_the_tree_holds_together(shop):
    tree = pd.read_csv(shop.folder / "rr_raw/category_tree.csv", dtype=str, keep_default_na=False)
    assert tree.categoryid.is_unique and (tree.parentid == "").sum() >= 2
    assert set(tree.parentid) - {""} <= set(tree.categoryid)
    assert set(map(str, shop.truth["rr"]["item_category"].values())) <= set(tree.categoryid)


# ---- a recommender can find it

def test_neighbours_find_the_pairs_and_tastes_beat_popularity(shop):
    "Co-occurrence ranks a pair's second article near the top; the most popular of one's taste beat the most popular of all."
    past, last = shop.sales[shop.sales.day < 727], shop.sales[shop.sales.day >= 727]
    user, item = past.customer_id.astype("category").cat, past.article_id.astype("category").cat
    matrix = np.zeros((len(user.categories), len(item.categories)), np.float32)
    matrix[user.codes, item.codes] = 1
    matrix /= np.sqrt(np.maximum(1, matrix.sum(0)))  # cosine
    ranks = []
    for first, second in shop.truth["hm"]["pairs"]:
        near = matrix.T @ matrix[:, item.categories.get_loc(first)]
        near[item.categories.get_loc(first)] = 0
        ranks.append(int((near > near[item.categories.get_loc(second)]).sum()))
    assert max(ranks) < 3
    recent = past[past.day >= 713]
    popular = recent.article_id.value_counts().index[:12]
    tastes = recent.groupby(recent.article_id.map(shop.truth["hm"]["article_taste"])).article_id
    own = {t: set(v.value_counts().index[:12]) for t, v in tastes}
    hits_own = np.mean([a in own[shop.truth["hm"]["customer_taste"][c]] for c, a in zip(last.customer_id, last.article_id, strict=True)])
    assert hits_own > 2 * last.article_id.isin(popular).mean()
