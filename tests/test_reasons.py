"""A reason is a term of the sum that made the score: wrong reasons are bugs."""

from types import SimpleNamespace

import numpy as np
import pytest
import serving_shop as made
from scorer_contract import made_up_shop
from test_ranker import catalog_of, lesson_of, sources_of

from recsys.data.interactions import History, Query, load_interactions
from recsys.data.schema import EVENT_KINDS
from recsys.pipeline.bundle import bundle
from recsys.reasons import Teller
from recsys.scorers.als import AlsScorer
from recsys.scorers.base import Scorer
from recsys.scorers.because import FACTS, because, opinions, without_each
from recsys.scorers.ranker import RankerScorer, teach
from recsys.scorers.towers import TowerScorer, als_start
from recsys.search import WordIndex
from recsys.serving.bundle import load_bundle
from recsys.serving.engine import Engine, says, top_among, wanted
from recsys.towers.model import TowerConfig
from recsys.towers.pairs import TowerShop, make_pairs
from recsys.towers.train import TowerModel, TrainDials, train_towers

PARTS = ("popularity", "segment_popularity", "trending", "repurchase", "same_product", "item_knn", "transitions", "ease", "als", "content")
USERS = [made.customer_id(num) for num in range(20)]
ABOUT_HISTORY = ("because_you", "similar_to", "often_bought_with", "bought_before", "other_colour")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    inputs = made.make_artifacts(tmp_path_factory.mktemp("artifacts"))
    inputs["als_import"] = tmp_path_factory.mktemp("als")
    AlsScorer(embedding_size=8, epochs=20).fit(load_interactions(inputs["interactions"] / "histories_wear.safetensors")).save(inputs["als_import"])
    (inputs["hybrid"] / "weights.json").write_text('{"wear": {"hybrid": {"weights": {"content": 0.3, "als": 0.3, "item_knn": 0.2, "popularity": 0.2}}}}')
    bundle(inputs, folder := tmp_path_factory.mktemp("bundle"))
    return Engine(load_bundle(folder))


@pytest.fixture(scope="module")
def shop(engine):
    return engine.shop("wear")


def asked(shop, user):
    return shop.interactions.queries([user])


@pytest.mark.parametrize("name", PARTS)
def test_terms_add_up_to_the_score(shop, name):
    scorer, everything = shop.scorers[name], np.arange(shop.interactions.n_items)
    assert isinstance(scorer, Scorer)
    for user in USERS:
        query = asked(shop, user)
        terms, said = because(scorer, query, everything), scorer.score(query)[0]
        heard = np.isfinite(said)
        assert terms.events.shape == (len(everything), len(query.history(0))) and (np.isnan(terms.rest) == ~heard).all()
        np.testing.assert_allclose((terms.events.sum(axis=1) + terms.rest)[heard], said[heard], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["repurchase", "item_knn", "transitions", "ease", "same_product"])
def test_a_term_is_what_the_score_loses_without_the_event(shop, name):
    scorer, lost = shop.scorers[name], 0
    for user in USERS:
        query = asked(shop, user)
        nums = scorer.top_k(query, 5).nums[0]
        nums, places = nums[nums >= 0], np.arange(len(query.history(0)))
        terms = because(scorer, query, nums)
        with_all = scorer.score(query, nums).astype(float)
        without = np.nan_to_num(scorer.score(without_each(query, places), nums).astype(float))
        keep = (without > 0) & (terms.events.T > 0) if name == "ease" else np.ones(without.shape, bool)  # ease: below zero is not said
        np.testing.assert_allclose((with_all - without)[keep], terms.events.T[keep], rtol=1e-3, atol=1e-5)
        lost += keep.sum()
    assert lost > 100


def test_als_owes_nearly_nothing_to_anything_but_the_events(shop):
    scorer = shop.scorers["als"]
    for user in USERS:
        query = asked(shop, user)
        nums = scorer.top_k(query, 10).nums[0]
        terms = because(scorer, query, nums)
        assert (np.abs(terms.rest) < 0.1 * np.abs(terms.events.sum(axis=1))).all()


@pytest.mark.parametrize("strategy", [*PARTS, "hybrid"])
def test_every_item_says_the_part_and_the_event_that_ranked_it(engine, shop, strategy):
    for user in USERS[:8]:
        reply, query = engine.recommend(user, strategy=strategy, k=8), asked(shop, user)
        scorer, history = shop.scorers[reply.answered_by], set(shop.interactions.items.ids[query.history(0)].tolist())
        said = opinions(scorer, query, shop.catalog.items.nums([card.item_id for card in reply.items]))
        for place, card in enumerate(reply.items):
            adds = {part: opinion.adds[place] for part, opinion in said.items()}
            assert card.why == card.reason.text and adds[card.reason.strategy] == max(adds.values())
            assert (card.reason.evidence_item in history) if card.reason.kind in ABOUT_HISTORY else card.reason.evidence_item is None
            if card.reason.evidence_item is not None:
                num = shop.catalog.items.nums([card.item_id])
                terms = because(getattr(scorer, "scorers", {card.reason.strategy: scorer})[card.reason.strategy], query, num).events[0]
                by_item = {int(item): terms[query.history(0) == item].sum() for item in np.unique(query.history(0))}
                strongest = max(by_item.values())
                assert by_item[int(shop.catalog.items.nums([card.reason.evidence_item])[0])] == pytest.approx(strongest)
            assert (card.reason.kind == "bought_before") == (card.reason.evidence_item == card.item_id)


def test_an_explanation_sums_to_the_score_in_the_list(engine):
    for user in USERS:
        for place, card in enumerate(engine.recommend(user, k=5).items, 1):
            why = engine.explain(user, card.item_id)
            assert sum(part.adds for part in why.parts) == pytest.approx(card.score, abs=1e-4) and why.place == place
            assert why.item.reason == card.reason == why.parts[0].reason and sum(part.weight for part in why.parts) == pytest.approx(1)
            assert all(part.evidence == tuple(sorted(part.evidence, key=lambda event: -event.share)) for part in why.parts)


def test_weights_are_those_asked_for(engine, shop):
    alone = engine.recommend(USERS[0], strategy="content", k=10)
    mixed = engine.recommend(USERS[0], strategy="hybrid", weights={"content": 1}, k=10)
    assert [card.item_id for card in mixed.items] == [card.item_id for card in alone.items]
    assert {card.reason.strategy for card in mixed.items} == {"content"}
    assert engine.recommend(USERS[0], k=10).items != mixed.items


@pytest.mark.parametrize("strategy", ["popularity", "item_knn", "als", "content", "hybrid"])
def test_a_filter_is_what_top_k_does_with_fewer_items_allowed(shop, strategy):
    scorer, allowed = shop.scorers[strategy], np.arange(shop.interactions.n_items) % 3 != 0
    for user in USERS:
        query = asked(shop, user)
        right, found = scorer.top_k(query, 12, allowed), top_among(scorer, query, 12, np.flatnonzero(allowed))
        np.testing.assert_array_equal(found.nums, right.nums)
        np.testing.assert_allclose(found.scores, right.scores, rtol=1e-4, atol=1e-5)


def test_wishes_hold(engine, shop):
    for user in USERS[:8]:
        first = engine.recommend(user, k=12)
        gone = [card.item_id for card in first.items[:4]]
        assert not {card.item_id for card in engine.recommend(user, k=12, exclude=gone).items} & set(gone)
        assert {card.category for card in engine.recommend(user, k=12, category="ladies > dress").items} == {"Ladies > Dress"}
        assert (priced := engine.recommend(user, k=12, price=(20, 30)).items) and all(20 <= card.price <= 30 for card in priced)
        assert engine.recommend(user, k=12, diversity=0.0).items == first.items
    looks, alike = shop.scorers["content"].item_vectors, []
    for diversity in (0.0, 0.9):
        nums = shop.catalog.items.nums([card.item_id for card in engine.recommend(USERS[0], k=12, diversity=diversity).items])
        units = np.nan_to_num(looks[nums])
        alike.append(np.mean((units @ units.T)[np.triu_indices(len(nums), 1)]))
    assert alike[1] < alike[0]


def test_personas_are_people(engine, shop):
    heavy, light, cold, drawn = engine.personas("wear", seed=3)
    assert heavy.person.n_events > light.person.n_events and cold.person is None
    assert drawn == engine.personas("wear", seed=3)[3]


def shop_with_a_tower(interactions, kind):
    "A trained tower of a shop, as little as is needed to have a taste."
    als = AlsScorer(embedding_size=8, epochs=5).fit(interactions)
    told = TowerShop.of(interactions, als.item_vectors, "als")
    config = TowerConfig({interactions.dataset: 8}, embedding_size=8, hidden=16, kind=kind)
    dials = TrainDials(epochs=2, learning_rate=0.01, batch_size=64)
    start = {interactions.dataset: als_start(als)} if kind == "als" else None
    trained = train_towers({interactions.dataset: (told, make_pairs(interactions))}, config, dials, start=start)
    return TowerScorer(TowerModel.of(trained, {interactions.dataset: told}), als.user_vectors if kind == "als" else None).fit(interactions)


@pytest.mark.parametrize("kind", ["content", "als"])
def test_a_tower_scores_lower_without_the_event_it_gives_as_its_reason(shop, kind):
    tower, teller, interactions, held = shop_with_a_tower(shop.interactions, kind), Teller(shop.catalog), shop.interactions, 0
    for user in USERS[:8]:
        query = asked(shop, user)
        nums = tower.top_k(query, 6).nums[0]
        with_all, terms = tower.score(query, nums)[0], because(tower, query, nums)
        np.testing.assert_allclose(terms.events.sum(axis=1) + terms.rest, with_all, rtol=1e-3, atol=1e-4)
        for place, reason in enumerate(teller.tell(tower, query, nums)):
            if reason.evidence_item is None:
                continue
            num, past = int(shop.catalog.items.nums([reason.evidence_item])[0]), query.past
            events = np.flatnonzero(past.item_nums == num)
            left = [n for n in range(len(past.item_nums)) if n != events[-1]]
            ids, kinds = interactions.items.ids[past.item_nums[left]].tolist(), [EVENT_KINDS[code] for code in past.codes[left]]
            visitor = interactions.resolve([Query(interactions.dataset, user, History(ids, past.ts[left].tolist(), kinds))])
            lost = with_all[place] - tower.score(visitor, nums)[0, place]
            assert lost == pytest.approx(terms.events[place, events[-1]], rel=1e-2, abs=1e-4)
            assert len(events) > 1 or lost > 0
            held += len(events) == 1
    assert held > 10


def test_what_a_ranker_adds_up_is_its_score():
    interactions = made_up_shop()
    parts, catalog = sources_of(interactions), catalog_of(interactions)
    ranker = RankerScorer(parts, teach(lesson_of(interactions), trees=20).model).fit(interactions, catalog)
    for user in range(8):
        query = interactions.queries([user])
        nums = ranker.top_k(query, 10).nums[0]
        said = opinions(ranker, query, nums)
        assert set(said) == {*parts, FACTS} and any(np.ptp(opinion.adds) > 1e-3 for opinion in said.values())
        np.testing.assert_allclose(sum(opinion.adds for opinion in said.values()), ranker.score(query, nums)[0], rtol=1e-4, atol=1e-5)
        for place, reason in enumerate(Teller(catalog).tell(ranker, query, nums)):
            assert said[reason.strategy].adds[place] == max(opinion.adds[place] for opinion in said.values())


def test_a_search_says_each_word_asked_once():
    "An item that says dress and dresses says one of them for dresses."
    words = WordIndex(["Black dress, one of our dresses", "Long dress"])
    hits = words.search("black dresses", 2)
    assert [says(SimpleNamespace(words=words), num, hits) for num in (0, 1)] == ["“black” and “dresses”", "“dress”"]


def test_what_sells_is_found_before_what_does_not_and_what_is_not_offered_never():
    "Three items say the same; the second sells, the third is not on sale."
    words, shop = WordIndex(["Black dress", "Black dress", "Black dress", "Hat"]), SimpleNamespace(
        scorers={"popularity": SimpleNamespace(values=np.array([np.nan, 3.0, 9.0, 1.0], np.float32))}, interactions=SimpleNamespace(n_items=4),
        recommender=SimpleNamespace(allowed=np.array([True, True, False, True])))  # fmt: skip
    assert words.search("dress", 4, wanted(shop)).nums.tolist() == [1, 0]
    shop.scorers = {}
    assert words.search("dress", 4, wanted(shop)).nums.tolist() == [0, 1]
