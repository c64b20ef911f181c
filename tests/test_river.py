"The whole river on the tiny shop, and on a small cut of the real data where there is one."

import json
import shutil

import pandas as pd
from conftest import ROOT, recsys

from recsys.runner import plan
from recsys.runs import open_run
from recsys.scorers.base import STRATEGIES
from recsys.store import verify

METRICS = {"map", "recall", "ndcg", "mrr", "hit_rate", "user_coverage", "item_coverage"}


N_STEPS = len(plan())
ALWAYS = set(STRATEGIES) - {"hybrid_default"}  # beside tuned weights only


def test_all_steps_ran(tiny):
    steps = tiny.record["steps"]
    assert [step["status"] for step in steps] == ["done"] * N_STEPS
    assert all(step["seconds"] > 0 and step["peak_mb"] > 0 for step in steps)
    assert len(list(tiny.folder.glob("[0-9]*.ipynb"))) == N_STEPS


def test_every_artifact_is_whole(tiny):
    for folder in tiny.artifacts().values():
        assert verify(folder)["files"]


def test_metrics_have_every_strategy_metric_and_slice(tiny):
    metrics = pd.DataFrame(json.loads((tiny.folder / "metrics.json").read_text()))
    assert set(metrics.columns) >= {"dataset", "strategy", "metric", "k", "slice", "value", "n_users", "reason"}
    assert set(metrics["dataset"]) == {"hm", "rr"}
    for _, shop in metrics.groupby("dataset"):
        assert set(shop["strategy"]) >= ALWAYS
        assert set(shop["metric"]) >= METRICS
        assert set(shop["slice"]) >= {"all", "warm", "cold_users", "cold_items"}
        assert {10, 12, 20, 100} <= set(shop["k"])
    assert (metrics["value"].isna() == metrics["reason"].notna()).all(), "a null has a reason, a number has none"
    most = metrics["metric"].map({"novelty": 64.0, "ild": 2.0}).fillna(1.0)  # bits, a cosine's distance, shares
    assert ((metrics["value"] >= 0) & (metrics["value"] <= most) | metrics["value"].isna()).all()


def test_the_report_works_offline(tiny):
    page = (tiny.folder / "report.html").read_text()
    assert "data:image/" in page
    assert "src=\"http" not in page and "href=\"http" not in page


def test_the_second_run_does_nothing(tiny):
    done = recsys("run", "tiny", "--set", f"runs_dir={tiny.folder.parent.parent}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped") == N_STEPS
    assert open_run("tiny", runs_dir=tiny.folder.parent.parent).folder == tiny.folder


def test_factors_go_out_and_come_back(tiny, tmp_path):
    runs_dir = tiny.folder.parent.parent
    out = tmp_path / "out"
    done = recsys("runs", "export", "interactions", "--to", str(out), "--run", tiny.name, "--runs-dir", str(runs_dir))
    assert done.returncode == 0, done.stderr
    assert (out / "interactions_hm.csv").read_text().startswith("user,item,weight")
    archive = shutil.make_archive(str(tmp_path / "factors"), "zip", tiny.artifacts()["als"])
    done = recsys("run", "tiny", "--set", f"runs_dir={runs_dir}", "--set", f"als_factors={archive}", "--only", "als_import")
    assert done.returncode == 0, done.stdout + done.stderr


def test_factors_of_other_interactions_are_refused(tiny, tmp_path):
    factors = tmp_path / "factors"
    shutil.copytree(tiny.artifacts()["als"], factors)
    about = json.loads((factors / "hm" / "factors.json").read_text())
    (factors / "hm" / "factors.json").write_text(json.dumps(about | {"interactions_hash": "0" * 64}))
    done = recsys("run", "tiny", "--set", f"runs_dir={tiny.folder.parent.parent}", "--set", f"als_factors={factors}", "--only", "als_import")
    assert done.returncode == 1
    assert "hash" in done.stderr and "Traceback" not in done.stderr


def cut(real_data, folder, customers: int = 600):
    "A small cut of the real H&M data: some customers' purchases of the last weeks, and the articles they bought."
    raw = real_data / "hm_raw"
    events = pd.read_csv(raw / "transactions_train.csv", dtype=str)
    recent = events[events["t_dat"] >= "2020-08-15"]
    known = recent.loc[recent["t_dat"] < "2020-09-16", "customer_id"].drop_duplicates().sort_values()
    recent = recent[recent["customer_id"].isin(known.head(customers))]
    folder.mkdir()
    recent.to_csv(folder / "transactions_train.csv", index=False)
    articles = pd.read_csv(raw / "articles.csv", dtype=str)
    articles[articles["article_id"].isin(recent["article_id"])].to_csv(folder / "articles.csv", index=False)
    people = pd.read_csv(raw / "customers.csv", dtype=str)
    people[people["customer_id"].isin(recent["customer_id"])].to_csv(folder / "customers.csv", index=False)
    for article in sorted(set(recent["article_id"]))[:300]:
        picture = raw / "images" / article[:3] / f"{article}.jpg"
        if picture.exists():
            (folder / "images" / article[:3]).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, folder / "images" / article[:3] / picture.name)


def value(run, strategy: str, metric: str = "map", k: int = 12, part: str = "warm") -> float:
    table = run.table("metrics")
    return table.query("strategy == @strategy and metric == @metric and k == @k and slice == @part")["value"].iloc[0]


def test_the_river_runs_on_a_cut_of_the_real_data(real_data, tmp_path):
    cut(real_data, tmp_path / "hm_raw")
    done = recsys("run", "hm", "--set", f"hm_raw={tmp_path / 'hm_raw'}", "--set", f"runs_dir={tmp_path / 'runs'}", "--set", "test_days=2",
                  "--set", "valid_days=1", "--set", "tower_epochs=2", "--set", "als_embedding_size=32")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = open_run("hm", runs_dir=tmp_path / "runs")
    assert set(run.table("metrics")["strategy"]) >= ALWAYS
    assert value(run, "repurchase") > value(run, "popularity")
    assert value(run, "item_knn") > value(run, "popularity")
    new = json.loads((run.artifact("evaluate") / "cold_ranking.json").read_text())["hm"]["rows"]
    assert {"kindred", "content", "two_tower", "random"} <= {row["strategy"] for row in new}
    assert ROOT not in (tmp_path / "runs").parents
