"""A scorer of one's own, from a file: it keeps the contract, and is served with the very code it was judged with."""

import json
import re

import nbformat
import pytest
import serving_shop as made
from conftest import ROOT, recsys
from scorer_contract import ScorerContract
from test_scorers import catalog_of

from recsys.errors import ArtifactError, MissingFileError, SettingsError
from recsys.pipeline.bundle import bundle
from recsys.pipeline.hybrid import hybrid
from recsys.runner import SOURCES, tuned_dials
from recsys.serving.bundle import load_bundle
from recsys.serving.engine import Engine
from recsys.settings import make_settings
from recsys.store import bare_hash


def source() -> str:
    "The cell of the tutorial with the scorer."
    cells = nbformat.read(ROOT / "nbs" / "docs" / "a_scorer_of_your_own.ipynb", as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code" and re.search("^class FavouriteCategory", cell.source, re.M))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(source())
    return path


class TestFavouriteCategory(ScorerContract):
    def make(self, shop):
        exec(source(), mine := {})
        return mine["FavouriteCategory"]().fit(shop, catalog_of(shop))


def dials_of(file, *shops: str) -> dict:
    "As the runner writes them."
    return tuned_dials(make_settings({"scorers": file, "datasets": list(shops)}), {})


@pytest.fixture
def served(file, tmp_path, monkeypatch):
    "A bundle whose hybrid leans on the scorer."
    monkeypatch.setenv("RECSYS_SCORERS", str(file))
    inputs, dials = made.make_artifacts(tmp_path / "made"), dials_of(file, "wear", "parts")
    (tmp_path / "hybrid").mkdir(exist_ok=True)
    hybrid(inputs, tmp_path / "hybrid", weights="favourite_category:.7,popularity:.3", dials=dials)
    bundle(inputs | {"hybrid": tmp_path / "hybrid"}, tmp_path / "bundle", dials=dials)
    return tmp_path / "bundle"


def test_it_is_a_strategy_like_any_other(served):
    engine = Engine(load_bundle(served))
    assert "favourite_category" in [one.name for one in engine.strategies("wear") if one.ready]
    for strategy in ("favourite_category", "hybrid"):
        reply = engine.recommend(user=made.customer(1), dataset="wear", strategy=strategy, k=5)
        assert reply.answered_by == strategy and all(item.reason.text for item in reply.items)
    parts = {part.strategy: part.adds for part in engine.explain(made.customer(1), reply.items[0].item_id, dataset="wear", strategy="hybrid").parts}
    assert parts.keys() == {"favourite_category", "popularity"} and sum(parts.values()) == pytest.approx(reply.items[0].score, rel=1e-5)


def test_its_code_does_not_lie_in_the_bundle(served):
    files = [path.name for path in served.rglob("*") if path.is_file()]
    assert "bundle.json" in files and not [name for name in files if name.endswith((".py", ".pkl", ".pyc"))]
    assert json.loads((served / "bundle.json").read_text())["dials"]["wear"]["own"].keys() == {"code"}


def test_without_its_code_or_with_another_the_bundle_is_refused(served, file, tmp_path, monkeypatch):
    other = tmp_path / "other.py"
    other.write_text(file.read_text().replace("14 * DAY_MS", "7 * DAY_MS"))
    monkeypatch.setenv("RECSYS_SCORERS", str(other))
    with pytest.raises(ArtifactError, match="run again with this one"):
        load_bundle(served)
    monkeypatch.delenv("RECSYS_SCORERS")
    with pytest.raises(MissingFileError, match="RECSYS_SCORERS=FILE"):
        load_bundle(served)


def test_the_code_counts_and_where_it_lies_does_not(file, tmp_path):
    moved = tmp_path / "moved.py"
    moved.write_text("# a comment\n" + file.read_text())
    assert dials_of(moved, "wear") == dials_of(file, "wear") and dials_of(file, "wear")["wear"]["own"]["code"] == bare_hash(file.read_text())
    assert "own" not in tuned_dials(make_settings({"datasets": ["wear"]}), {})["wear"] and "scorers" not in SOURCES


def test_a_weight_for_a_scorer_that_is_nowhere_is_refused(tmp_path):
    inputs = made.make_artifacts(tmp_path / "made")
    with pytest.raises(SettingsError, match="names among"):
        hybrid(inputs, tmp_path, weights="favourite_category:1")


@pytest.mark.parametrize(("text", "says"), [(None, "found no file"), ("import nothing_of_the_kind", "mend it"), ("x = 1", "found none")])
def test_what_is_no_scorer_is_refused_before_the_first_step(tmp_path, text, says):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    done = recsys("run", "tiny", "--set", f"runs_dir={tmp_path / 'runs'}", "--set", f"scorers={tmp_path / 'bad.py'}")
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "runs").exists()
