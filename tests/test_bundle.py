"""The bundle: what is in it answers like the models themselves; what is damaged is refused by name."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import serving_shop as made

from recsys.data.interactions import load_interactions
from recsys.errors import ArtifactError, MissingFileError, RecsysError, StrategyError, UnknownIdError
from recsys.pipeline.bundle import bundle
from recsys.recommend import NEIGHBOURS
from recsys.rules import Rules
from recsys.scorers.base import Missing
from recsys.search import words_of
from recsys.serving.bundle import LISTED, find_bundle, load_bundle
from recsys.serving.engine import Engine, Event, open_engine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return made.make_artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def folder(inputs, tmp_path_factory):
    bundle(inputs, path := tmp_path_factory.mktemp("bundle"))
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return Engine(load_bundle(folder))


def test_it_stands_alone(inputs, folder, tmp_path):
    "A copy elsewhere answers alike, and no file of it is a link out of it."
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    one, two = Engine(load_bundle(folder)), Engine(load_bundle(copy))
    assert one.recommend(made.customer(1)).items == two.recommend(made.customer(1)).items
    assert one.bundle.version == two.bundle.version


def test_it_says_what_is_inside(folder):
    about = json.loads((folder / "bundle.json").read_text())
    assert about["format"] == 2 and set(about["datasets"]) == {"wear", "parts"} and about["versions"]["numpy"]
    assert about["datasets"]["parts"]["strategies"]["content"], "a strategy without its inputs has a reason"
    assert about["datasets"]["wear"]["n_users"] == made.N_USERS and about["datasets"]["wear"]["cutoff"]["test_at"] == made.AT


def test_same_inputs_same_version(inputs, folder, tmp_path):
    assert bundle(inputs, tmp_path)["version"] == json.loads((folder / "bundle.json").read_text())["version"]


NEW = ["segment_popularity", "trending", "same_product", "transitions", "ease"]


@pytest.mark.parametrize("strategy", ["popularity", "repurchase", "item_knn", *NEW, "content", "hybrid"])
def test_the_engine_gives_the_lists_of_the_evaluation(engine, strategy):
    "Asked one by one, each user gets what the strategy gives when it is asked for all at once."
    shop = engine.shop("wear")
    if isinstance(shop.scorers[strategy], Missing):
        pytest.skip(shop.scorers[strategy].reason)
    users = shop.interactions.users.ids
    top = shop.scorers[strategy].top_k(shop.interactions.queries(users), 10, shop.recommender.allowed)
    for user, nums in zip(users.tolist(), top.nums, strict=True):
        reply = engine.recommend(user, strategy=strategy, k=10, dataset="wear")
        expected = shop.catalog.items.ids[nums[nums >= 0]].tolist()
        assert [card.item_id for card in reply.items][: len(expected)] == expected


def test_what_was_fitted_once_is_never_fitted_again(folder, monkeypatch):
    for kind in NEIGHBOURS.values():
        monkeypatch.setattr(kind, "make_table", lambda *of: pytest.fail("fitted again"))
    shops = load_bundle(folder).shops
    assert all(isinstance(shops["wear"].scorers[name], kind) for name, kind in NEIGHBOURS.items())
    assert shops["parts"].scorers["same_product"] == Missing("same_product", "no two items of parts have the same product_code")


def test_a_bundle_without_the_step_says_so(inputs, tmp_path):
    bundle({step: path for step, path in inputs.items() if step != "neighbours"}, tmp_path)
    scorers = load_bundle(tmp_path).shops["wear"].scorers
    assert {scorers[name].reason for name in NEIGHBOURS} == {"the step neighbours was not run"}


def test_a_bit_of_a_table_is_enough_to_be_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((path := copy / "neighbours" / "ease_wear.safetensors").read_bytes())
    content[-9] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="neighbours/ease_wear.safetensors was altered"):
        load_bundle(copy)


def test_more_items_do_not_change_the_first(engine):
    few, many = (engine.recommend(made.customer(2), k=k).items for k in (5, 20))
    assert [(c.item_id, c.score) for c in few] == [(c.item_id, c.score) for c in many[:5]]


def test_ids_as_the_world_writes_them(engine):
    by_name, by_number = engine.recommend(made.customer(4)), engine.recommend(made.customer_id(4))
    assert by_name.known and by_name.items == by_number.items and by_name.user_id == made.customer_id(4)
    assert engine.item(made.article(2)) == engine.item(made.item_id(2)) == engine.item(str(made.item_id(2)))
    assert engine.recommend(7).dataset == "parts" and engine.item(501).dataset == "parts"
    with pytest.raises(UnknownIdError, match="no item '108775002'"):
        engine.item("108775002")  # its zero was lost


def test_a_stranger_gets_what_the_strategy_says_to_everybody_else_what_is_popular_and_hears_it(engine):
    for strategy, answers in (("hybrid", "hybrid"), ("content", "popularity")):
        reply = engine.recommend("nobody", strategy=strategy, k=5)
        assert not reply.known and reply.answered_by == answers and "nothing is known" in reply.reason and len(reply.items) == 5


def test_a_visitor_is_what_they_did(engine):
    reply = engine.recommend(history=[made.article(1)], strategy="content", k=5)
    assert reply.answered_by == "content" and all("navy" in c.title.lower() or "shirt" in c.title.lower() for c in reply.items[:3])
    today = engine.recommend(history=[Event(made.article(1), "purchase", made.AT + 10**11)], strategy="content", k=5)
    assert [c.item_id for c in today.items] == [c.item_id for c in reply.items], "years after the cutoff a click is still a click"
    odd = engine.recommend(history=["nothing", made.article(1)], k=3)
    assert "1 of 2 items" in odd.reason


def test_similar_items(engine):
    reply = engine.similar(made.article(10), 4)
    assert reply.answered_by == "content" and made.item_id(10) not in [c.item_id for c in reply.items]
    assert reply.items[0].item_id == made.item_id(40)  # same kind, same colour
    assert len(engine.similar(made.article(10), 500).items) < 500 and engine.similar(made.article(10), 500).reason


def test_no_reply_holds_padding(engine):
    for k in (1, 59, 60, 61, 1000):
        for strategy in ("hybrid", "repurchase", "popularity", "content"):
            reply = engine.recommend(made.customer(1), strategy=strategy, k=k)
            ids, scores = [c.item_id for c in reply.items], [c.score for c in reply.items]
            assert len(set(ids)) == len(ids) <= k and all(np.isfinite(scores)) and (len(ids) == k or reply.reason)


def test_unknown_names_are_refused(engine):
    with pytest.raises(StrategyError, match="wear, parts"):
        engine.recommend(1, dataset="nowhere")
    with pytest.raises(StrategyError, match="popularity"):
        engine.recommend(1, strategy="magic")


def test_examples_are_the_same_every_time(engine):
    first, again = engine.users("wear", 6), engine.users("wear", 6)
    assert first == again and len({p.user_id for p in first}) == 6 and all(p.taste for p in first)
    assert engine.history(first[0].raw_id)[0].ts >= engine.history(first[0].raw_id)[-1].ts


def test_found_by_folder_link_or_text(folder, tmp_path):
    (link := tmp_path / "current").symlink_to(folder)
    (text := tmp_path / "current.txt").write_text(f"{folder}\n")
    assert find_bundle(folder) == find_bundle(link) == find_bundle(text)
    with pytest.raises(MissingFileError, match="RECSYS_BUNDLE"):
        open_engine(tmp_path / "nothing")


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.unlink()  # it may be linked to another
    path.write_bytes(raw)


def _cut(path):
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[: len(raw) // 2])


@pytest.mark.parametrize("damage", [_flip, _cut, lambda path: path.unlink()], ids=["flip", "cut", "remove"])
@pytest.mark.parametrize("name", ["interactions/histories_wear.safetensors", "split/items_wear.parquet", "faiss/item_vectors_wear.safetensors",
                                  "events/users.parquet", "hybrid/weights.json"])  # fmt: skip
def test_damage_is_refused_by_name(folder, tmp_path, damage, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / name)
    with pytest.raises(ArtifactError, match=name):
        load_bundle(copy)


EMPTY = '{"format": 1, "datasets": {}, "files": {}}'


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 99}', EMPTY, EMPTY.replace('s": {}', 's": []')])
def test_a_broken_record_is_refused(tmp_path, text):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(RecsysError):
        load_bundle(tmp_path)


@pytest.fixture(scope="module")
def large(inputs, tmp_path_factory):
    "The same shops, served as large ones are: with graphs, with lists made ahead, with towers that rest."
    from test_reasons import shop_with_a_tower

    interactions = load_interactions(inputs["interactions"] / "histories_wear.safetensors")
    more = {"two_tower": tmp_path_factory.mktemp("two_tower"), "hybrid": tmp_path_factory.mktemp("hybrid")}
    shop_with_a_tower(interactions, "content").save(more["two_tower"])
    (more["hybrid"] / "weights.json").write_text('{"wear": {"hybrid": {"weights": {"content": 0.4, "two_tower": 0.4, "popularity": 0.2}}}}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.serving.bundle.GRAPH_FROM", 1)
        bundle(inputs | more, path := tmp_path_factory.mktemp("large"))
    return path


def answers(engine, **asked):
    return [(reply.strategy, reply.answered_by, reply.reason, [(card.item_id, card.why, card.badges) for card in reply.items])
            for num in range(made.N_USERS) for reply in [engine.recommend(made.customer(num), **asked)]]  # fmt: skip


def test_a_list_made_ahead_is_the_list_with_its_reasons(large, monkeypatch):
    ahead, live = open_engine(large), open_engine(large)
    live.shops["wear"] = replace(live.shops["wear"], lists=None)
    assert set(ahead.shop("wear").lists.users.tolist()) == set(range(made.N_USERS)) and ahead.shop("parts").lists is None
    for k in (1, 12, LISTED, LISTED + 1):
        assert answers(ahead, k=k) == answers(live, k=k)
    monkeypatch.setattr(ahead.shop("wear").scorers["hybrid"], "top_k", lambda *of, **more: pytest.fail("was made ahead"))
    answers(ahead, k=12)


WISHES = [{"exclude": [made.article(num) for num in range(20)]}, {"price": (10, 40)}, {"diversity": 0.5}, {"weights": {"content": 1}}, {"strategy": "content"},
          {"history": [made.article(3)]}]  # fmt: skip


@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: next(iter(wish)))
def test_a_list_made_ahead_is_not_given_to_who_wishes_another(large, wish):
    ahead, live = open_engine(large), open_engine(large)
    live.shops["wear"] = replace(live.shops["wear"], lists=None)
    assert answers(ahead, k=8, **wish) == answers(live, k=8, **wish) != answers(ahead, k=8)


def test_rules_stand_above_a_list_made_ahead(large):
    ruled = Engine(load_bundle(large), {"": Rules.of({"at_most": {"category": 1}})})
    items = ruled.recommend(made.customer(1), k=5).items
    assert len({card.category for card in items}) == len(items) > 1


def test_a_tower_rests_until_a_history_comes(large):
    "Who is known is answered without torch; a visitor wakes the network, and gets what it would have said."
    code = f"""
import sys
from recsys.api.main import _open
engine, user = _open({str(large)!r}), {made.customer(1)!r}
print([card.item_id for card in engine.recommend(user, strategy="two_tower", k=5, explained=False).items], "torch" in sys.modules)
engine.warm_up()
shop, query = engine.shop("wear"), engine.shop("wear").interactions.queries(engine.shop("wear").interactions.users.ids)
awake = shop.scorers["two_tower"].awake
print(engine.warm, "torch" in sys.modules, bool(abs(awake.user_vectors(query) - shop.ready["two_tower"]).max() < 1e-5))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [card.item_id for card in open_engine(large).recommend(made.customer(1), strategy="two_tower", k=5).items]
    assert said == [f"{expected} False", "True True True"]


def test_words_are_read_not_made_again(large, monkeypatch):
    found = [card.item_id for card in open_engine(large).search("navy shrit", dataset="wear").items]
    monkeypatch.setattr("recsys.search.words_of", lambda texts: pytest.fail("made again") if len(texts) > 1 else words_of(texts))
    assert [card.item_id for card in open_engine(large).search("navy shrit", dataset="wear").items] == found != []
