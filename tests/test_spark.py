"""Spark gives what the embedded engines give: the same rows, the same histories, the same vectors, the same lists."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving_shop
from conftest import recsys
from PIL import Image

from recsys.data import spark as room
from recsys.data.interactions import from_events, load_interactions
from recsys.data.schema import DAY_MS, EVENTS, write_table
from recsys.errors import MissingDependencyError

pytestmark = pytest.mark.spark
FAST = "-XX:TieredStopAtLevel=1"  # one that compiles quickly starts in half the time


@pytest.fixture(scope="module")
def session():
    "One Spark for all of this file."
    pytest.importorskip("pyspark")
    before = os.environ.get("JDK_JAVA_OPTIONS")
    os.environ["JDK_JAVA_OPTIONS"] = FAST
    try:
        yield room.spark_session()
    except MissingDependencyError as problem:
        pytest.skip(str(problem))
    finally:
        os.environ.pop("JDK_JAVA_OPTIONS") if before is None else os.environ.update({"JDK_JAVA_OPTIONS": before})


# ---- parts -----------------------------------------------------------------------------------------------------------------------------------


def test_parts_come_back_in_order_and_the_heavy_thing_came_once(session):
    def who(heavy, part):  # in here: what stands in a test's module is not known to other processes
        return pa.table({"n": [part["n"][0].as_py() * int(heavy[0])], "process": [os.getpid()], "place": [id(heavy)]})

    parts = [pa.table({"n": [n]}) for n in range(room.PER_CORE * 2 + 3)]  # more than a wave
    answers = list(room.map_parts(session, parts, who, np.full(1000, 7)))
    assert [answer["n"][0].as_py() for answer in answers] == [7 * n for n in range(len(parts))]
    processes = {answer["process"][0].as_py() for answer in answers}
    assert os.getpid() not in processes
    assert len({(answer["process"][0].as_py(), answer["place"][0].as_py()) for answer in answers}) == len(processes)


def test_what_goes_wrong_in_a_part_is_told(session):
    def fails(heavy, part):
        raise ValueError(f"part {part['n'][0].as_py()} is damaged")

    with pytest.raises(Exception, match="part 3 is damaged"):
        list(room.map_parts(session, [pa.table({"n": [3]})], fails))


# ---- rows and histories ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "step -> folder of a small shop of each kind, split by the embedded engine."
    from recsys.datasets.sample import draw_sample
    from recsys.pipeline.events import events
    from recsys.pipeline.split import split

    raw, folders = tmp_path_factory.mktemp("raw"), {step: tmp_path_factory.mktemp(step) for step in ("events", "split")}
    draw_sample(raw, customers=60, articles=60, images=False, progress=False)
    events({}, folders["events"], datasets=["hm", "rr"], sources={name: str(raw / name) for name in ("hm_raw", "rr_raw")})
    split(folders, folders["split"])
    for path in folders["split"].glob("train_*.parquet"):  # an order that nobody would keep by chance
        table = pq.read_table(path)
        write_table(table.take(np.random.default_rng(7).permutation(table.num_rows)), path, EVENTS)
    return folders


def test_rows_alike_are_one_a_few_at_a_time(session, monkeypatch):
    "Spans of time, and what is merged in each, are those of the embedded engine; a span ends between two moments."
    from recsys.data.engine import open_engine
    from recsys.datasets import base

    rng, n = np.random.default_rng(7), 400
    rows = {"user_id": rng.integers(0, 4, n), "item_id": rng.integers(0, 3, n), "ts": np.sort(rng.integers(0, 60, n) ** 2), "channel": rng.integers(1, 3, n),
            "price": pa.array(rng.choice([1.5, np.nan], n), pa.float32(), from_pandas=True), "quantity": np.ones(n, np.int32)}  # fmt: skip
    merged, spans = {}, []
    monkeypatch.setattr(base, "MERGED_ROWS", 50)
    for name in ("duckdb", "spark"):
        with open_engine(name) as engine:
            staged = engine.frame(pa.table(rows | {"reason": pa.nulls(n, pa.string())}))
            spans.append([engine.arrow(part.count().as_table())[0][0].as_py() for part in base._chunks(engine, staged, 50)])
            merged[name] = pa.concat_tables(base.merge(engine, staged, base.shop("hm"), n)).cast(EVENTS)
    assert spans[0] == spans[1] and sum(spans[0]) == n and len(spans[0]) > 5
    assert merged["duckdb"].equals(merged["spark"]) and len(merged["duckdb"]) < n
    assert merged["duckdb"]["quantity"].to_numpy().sum() == n


def test_histories_are_the_same(session, drawn, tmp_path):
    from recsys.pipeline.interactions import interactions

    told = {}
    for engine in ("duckdb", "spark"):
        (tmp_path / engine).mkdir()
        told[engine] = interactions(drawn, tmp_path / engine, engine=engine)
    assert told["duckdb"] == told["spark"], "the csv that goes to ALS is the same to the byte"
    for dataset in told["spark"]:
        one, two = (load_interactions(tmp_path / engine / f"histories_{dataset}.safetensors") for engine in told)
        assert one.hash == two.hash and one.n_events > 100
        assert (one.past.weights == two.past.weights).all()


# ---- vectors ---------------------------------------------------------------------------------------------------------------------------------


def test_pictures_give_the_same_vectors(session, tmp_path, monkeypatch):
    from recsys.content import images, spread
    from recsys.content.encoders import EfficientNetLite0

    rng, ids = np.random.default_rng(7), np.array([9, 4, 2, 7, 5, 11])
    paths = [tmp_path / f"{item_id}.jpg" for item_id in ids]
    for path in paths[:-2]:
        Image.fromarray(rng.integers(0, 255, (60, 40, 3), dtype=np.uint8)).save(path)
    paths[-2].write_text("no picture")  # and the last one is missing
    monkeypatch.setattr(images, "PART", 2)
    tower = EfficientNetLite0()
    alone = images.embed_images(ids, paths, tower, tmp_path / "alone")
    together = spread.spread_images(session, ids, paths, tower, tmp_path / "together")
    assert together.table.ids.tolist() == alone.table.ids.tolist() == [2, 4, 7, 9]
    np.testing.assert_allclose(together.table.vectors, alone.table.vectors, atol=1e-6)
    assert (together.table.space, together.broken, together.reused) == (alone.table.space, alone.broken, 0)
    assert len(alone.broken) == 2
    assert spread.spread_images(None, ids, paths, tower, tmp_path / "together").reused == 3, "what Spark made is kept"


def test_texts_give_the_same_vectors(session, monkeypatch):
    from recsys.content import spread
    from recsys.content.encoders import MiniLm
    from recsys.content.texts import embed_texts

    monkeypatch.setattr(spread, "TEXTS", 3)
    texts = ["Dress, red\nLong and light.", "Dress, blue", None, "Boots\nWarm lining and a sturdy sole.", "word " * 40 + "."]
    said = np.array([40, 30, 20, 10, 50]), [None] * 5, texts
    tower = MiniLm()
    alone = embed_texts(*said, tower)
    together = embed_texts(*said, spread.SpreadTexts(session, tower))
    assert together.table.ids.tolist() == alone.table.ids.tolist() == [10, 30, 40, 50]
    np.testing.assert_allclose(together.table.vectors, alone.table.vectors, atol=1e-6)
    assert together.about == alone.about and alone.about["truncated_parts"] == 1
    assert together.table.space == alone.table.space


# ---- lists -----------------------------------------------------------------------------------------------------------------------------------


def test_everyones_lists_are_the_same_and_those_of_the_service(session, tmp_path, monkeypatch):
    from recsys.pipeline.bundle import bundle
    from recsys.serving import everyone
    from recsys.serving.bundle import load_bundle
    from recsys.serving.engine import Engine

    inputs = serving_shop.make_artifacts(tmp_path / "artifacts")
    (folder := tmp_path / "bundle").mkdir()
    bundle(inputs, folder)
    monkeypatch.setattr(everyone, "USERS", 16)
    counts = [everyone.recommend_all(folder, tmp_path / engine, k=5, engine=engine) for engine in ("duckdb", "spark")]
    assert counts[0] == counts[1] == {"wear": serving_shop.N_USERS, "parts": serving_shop.N_USERS}
    service = Engine(load_bundle(folder))
    for dataset in counts[0]:
        one, two = (pq.read_table(tmp_path / engine / f"recommendations_{dataset}.parquet").to_pandas() for engine in ("duckdb", "spark"))
        assert one.drop(columns="score").equals(two.drop(columns="score"))
        np.testing.assert_allclose(one["score"], two["score"], atol=1e-5)
        user_id = int(one["user_id"].iloc[-1])
        reply = service.recommend(user_id, dataset=dataset, k=5)
        assert one[one["user_id"] == user_id]["item_id"].tolist() == [card.item_id for card in reply.items]


# ---- towers ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_towers_trained_together_find_what_one_finds(session):
    from recsys.towers.model import TowerConfig
    from recsys.towers.pairs import TowerShop, make_pairs
    from recsys.towers.together import train_together
    from recsys.towers.train import TrainDials, train_towers

    rng, n_users, n_bought = np.random.default_rng(0), 240, 6
    tastes, angles = np.arange(60) % 3, np.arange(60) % 3 * 2 * np.pi / 3
    content = np.c_[np.cos(angles), np.sin(angles), rng.normal(size=(60, 8)) * 0.5].astype(np.float32)
    bought = np.stack([rng.choice(np.flatnonzero(tastes == user % 3), n_bought, replace=False) for user in range(n_users)])
    times = np.sort(rng.integers(0, 40 * DAY_MS, bought.shape), axis=1)
    events = pa.table({"user_id": np.repeat(np.arange(n_users), n_bought), "item_id": bought.ravel(), "event": ["purchase"] * bought.size,
                       "ts": pa.array(times.ravel()).cast(pa.timestamp("ms", "UTC")), "quantity": [1] * bought.size, "price": [1.0] * bought.size})  # fmt: skip
    known = from_events(events, "shop", {"purchase": 1.0}, 40 * DAY_MS, np.arange(60))
    shops = {"shop": (TowerShop.of(known, content, "made up"), make_pairs(known))}
    config, dials = TowerConfig({"shop": 10}, embedding_size=8, hidden=16), TrainDials(epochs=4, learning_rate=0.01, batch_size=64)
    losses = [[row["valid"] for row in train(shops, config, dials).losses] for train in (train_towers, train_together)]
    assert min(losses[0]) < 0.5 * losses[0][0], "nothing was learned, so nothing is compared"
    assert min(losses[1]) == pytest.approx(min(losses[0]), rel=0.05)


# ---- many machines ---------------------------------------------------------------------------------------------------------------------------

ON_A_CLUSTER = """
import json, os, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from recsys.data.spark import is_local, map_parts, shipped, spark_session
from recsys.serving import everyone

def where(everywhere, part):
    path = everywhere.path().resolve()
    return pa.table({"seen": [json.dumps({"path": str(path), "files": sorted(file.name for file in path.iterdir()), "cwd": os.getcwd()})]})

session = spark_session(master="local-cluster[2,1,1024]")
bundle, out = map(Path, sys.argv[1:])
with shipped(session, bundle) as everywhere:
    seen = [json.loads(part["seen"][0].as_py()) for part in map_parts(session, [pa.table({"n": [n]}) for n in range(4)], where, everywhere)]
everyone.USERS = 16
done = everyone.recommend_all(bundle, out, "wear", k=5, engine="spark")
print(json.dumps({"local": is_local(session), "seen": seen, "done": done}))
session.stop()
"""


@pytest.mark.slow
def test_on_a_cluster_nothing_is_read_from_the_drivers_disk(session, tmp_path):
    from recsys.pipeline.bundle import bundle
    from recsys.serving import everyone

    inputs = serving_shop.make_artifacts(tmp_path / "artifacts")
    (folder := tmp_path / "bundle").mkdir()
    bundle(inputs, folder)
    ran = subprocess.run([sys.executable, "-c", ON_A_CLUSTER, str(folder), str(tmp_path / "far")], capture_output=True, text=True, cwd=tmp_path, timeout=600,
                         check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads([line for line in ran.stdout.splitlines() if line.startswith("{")][-1])
    assert told["local"] is False and len({one["cwd"] for one in told["seen"]}) == 2, "two machines took part"
    for one in told["seen"]:
        assert "bundle.json" in one["files"] and one["path"].startswith(one["cwd"]) and not one["path"].startswith(str(tmp_path))
    everyone.recommend_all(folder, tmp_path / "near", "wear", k=5)
    near, far = (pq.read_table(tmp_path / place / "recommendations_wear.parquet").drop(["score"]) for place in ("near", "far"))
    assert near.equals(far)


# ---- raw to report ----------------------------------------------------------------------------------------------------------------------------


def same_rows(one: Path, two: Path) -> bool:
    "Whether two tables hold the same rows, in whatever order."
    tables = [pq.read_table(path) for path in (one, two)]
    ordered = [table.sort_by([(name, "ascending") for name in table.column_names]) for table in tables]
    return tables[0].num_rows > 0 and ordered[0].equals(ordered[1])


@pytest.fixture(scope="module")
def two_runs(session, tiny, tmp_path_factory):
    "The tiny profile by the embedded engines, and by Spark."
    from recsys.runs import open_run

    runs_dir = tmp_path_factory.mktemp("spark_runs")
    done = recsys("run", "tiny", "--set", "engine=spark", "--set", "als_engine=spark", "--set", f"runs_dir={runs_dir}")
    assert done.returncode == 0, done.stdout + done.stderr
    return tiny, open_run("tiny", runs_dir=runs_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["events/events_hm", "events/events_rr", "events/items", "events/users", "events/item_properties",
                                  "split/train_hm", "split/valid_hm", "split/test_hm", "split/train_rr", "split/items_hm", "split/items_rr"])  # fmt: skip
def test_rows_are_the_same(two_runs, name):
    step, _, stem = name.partition("/")
    assert same_rows(*(run.artifact(step) / f"{stem}.parquet" for run in two_runs))


@pytest.mark.slow
def test_both_runs_report_alike(two_runs):
    judged = [{(row["dataset"], row["strategy"], row["metric"], row["k"], row["slice"]) for row in json.loads((run.folder / "metrics.json").read_text())}
              for run in two_runs]  # fmt: skip
    assert judged[0] == judged[1] and len(judged[0]) > 100
    assert all((run.folder / "report.html").exists() for run in two_runs)
