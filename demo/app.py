"""The demo: pick somebody, see what they did and what each strategy would show them and why; or be a new visitor and watch it learn.

It knows only the engine. `recsys demo`, or `python demo/app.py`.
"""

import base64
import binascii
import html
import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs, urlencode

import gradio as gr

from recsys.errors import RecsysError
from recsys.reasons import WORDS
from recsys.serving.engine import Card, Engine, Event, Person, Reply

ASSETS = Path(__file__).parent / "assets"
N_ITEMS, N_BESIDE, N_SIMILAR, N_HISTORY, N_PEOPLE, N_FOUND = 15, 12, 12, 24, 6, 12  # beside: of each list, where two stand side by side
LONG_AGO = 1_000  # events: what somebody had before is looked up so far back
N_OFFERED, ENOUGH, MOST_PICKS = 12, 3, 30  # things a new visitor can pick from at first, how many say something, how many are kept
MOST_PHOTO = 200_000  # letters of a picture to search by: the browser sends a small one
MOST_CLICKS = 50  # heard at once; a page that has more to say says the rest after the answer

STRATEGIES = {
    "ranker": ("Ranker", "Candidates of all the others, put in order by a model that learned from past weeks what gets chosen."),
    "hybrid": ("Hybrid", "Blends looks, shared taste and a neural network: each covers what the others cannot see."),
    "hybrid_default": ("Hybrid, untuned", "The same blend with its default weights: .4 content, .4 shared taste, .2 network."),
    "hybrid_generalizable": ("Hybrid for newcomers", "Only from pictures, texts and behaviour: works for people and products nobody has seen before."),
    "content": ("Looks alike", "Pictures and descriptions close to what is in the history."),
    "als": ("Shared taste", "Collaborative filtering (ALS): what people with similar histories chose."),
    "item_knn": ("Chosen together", "What others chose along with the things in the history."),
    "transitions": ("What comes next", "What others chose soon after the last things in the history."),
    "ease": ("Foretold together", "A regression of each product on all others (EASE): what the whole history foretells."),
    "two_tower": ("Network on content", "A two-tower neural network that reads the history's pictures and texts."),
    "als_tower": ("Network on taste", "A two-tower neural network on top of collaborative filtering."),
    "repurchase": ("Buy again", "What this person chose before, the recent and the frequent first."),
    "same_product": ("Other colours", "Other colours and sizes of what is in the history."),
    "segment_popularity": ("Bestsellers for you", "What sold most in the last week to people of the same age and favourite department."),
    "trending": ("On the rise", "What sells much more these days than in the weeks before: the same for everyone."),
    "popularity": ("Bestsellers", "What sold most in the last week: the same for everyone."),
}


PERSONAS = {"heavy": "Heavy shopper", "light": "Light shopper"}
METRICS = {"ndcg": "NDCG", "hit_rate": "Hit rate", "recall": "Recall"}  # shown, the first with its interval drawn
MEANING = ("Hit rate: for how many people at least one of the {k} was right. Recall: how much of what they took was among the {k}. "
           "NDCG: the same, and the first places count more.")  # fmt: skip


@dataclass(frozen=True)
class Visit:
    "What one visitor of this page is looking at; everybody has their own."

    dataset: str
    user: str | None = None  # None = the new visitor
    picks: tuple[int, ...] = ()  # of the new visitor, oldest first
    item: int | None = None  # opened
    strategy: str = "hybrid"
    compare: str | None = None  # the strategy beside it
    diversity: float = 0.0
    fresh: bool = False  # nothing they had before
    weights: Mapping[str, float] = field(default_factory=dict)  # of the hybrid's parts; empty = as they were tuned


class Desk:
    """Where the visit of one open page lies.

    The page numbers its clicks and tells all that were not answered yet, one message at a time; where it has waited too long it tells them
    again. `heard` is the number of the last one that was taken, `told` how many answers went out, `results` what the last search showed.
    """

    def __init__(self, visit: Visit) -> None:
        self.visit, self.heard, self.told, self.results, self.turn = visit, 0, 0, "", Lock()

    def __deepcopy__(self, memo: dict) -> "Desk":
        "Gradio copies the first one for everybody who comes."
        return Desk(self.visit)


# --- pictures and words


def safe(text: object) -> str:
    "Text from a catalog, harmless in html and in Gradio's own templates."
    return html.escape(str(text)).translate({ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"})


def broken(text: str) -> str:
    "Harmless text that may go on in the next line after a slash."
    return safe(text).replace("/", "/<wbr>")


def label(strategy: str) -> str:
    return STRATEGIES.get(strategy, (strategy.replace("_", " ").capitalize(),))[0]


def leaf(card: Card) -> str:
    last = (card.category or "").split(" > ")[-1]
    return f"category {last}" if last.isdecimal() else last


def named(card: Card) -> str:
    "An item in a few words, for who cannot see it."
    return ", ".join(filter(None, [card.title, card.facets.get("colour", "")]))


def hue(card: Card) -> int:
    "A colour for a category."
    return sum(map(ord, leaf(card))) * 47 % 360


def picture(card: Card, size: int = 480, alt: str = "") -> str:
    "The picture of an item; under it, and where there is none, a quiet tile with its category."
    source = f"../images/{card.item_id}?size={size}&amp;dataset={safe(card.dataset)}"
    image = f'<img loading="lazy" alt="{safe(alt)}" src="{source}">' if card.has_image else ""
    return f'<div class="pic" style="--hue:{hue(card)}"><span>{broken(leaf(card) or card.title)}</span>{image}</div>'


def button(kind: str, data: str, value: object, body: str, **aria: object) -> str:
    "Something to click or to press Enter on."
    said = "".join(f' aria-{name}="{safe(what)}"' for name, what in aria.items() if what is not None)
    return f'<div class="{kind}" data-{data}="{safe(value)}" tabindex="0" role="button"{said}>{body}</div>'


def because(engine: Engine, card: Card) -> str:
    "The reason, and the picture of what it speaks of."
    if not card.why:
        return ""
    item, thumb = card.reason and card.reason.evidence_item, ""
    if item is not None and item != card.item_id and (evidence := engine.item(item, card.dataset)).has_image:
        thumb = f'<i class="evidence">{picture(evidence, 240, named(evidence))}</i>'
    return f'<div class="why">{thumb}<p>{safe(card.why)}</p></div>'


def product(engine: Engine, card: Card, rank: int, bar: float | None = None, mark: str = "", only: bool = False) -> str:
    "An item in a list."
    colour, path = card.facets.get("colour", ""), (card.category or "").replace(" > ", " › ")
    line = f"{colour} · {leaf(card)}" if colour and card.category else colour or (leaf(card) if card.has_image else path)  # a tile says the leaf already
    price = f'<span class="price">{card.price:,.2f}</span>' if card.price is not None and card.price >= 1 else ""
    score = f'<div class="bar" title="score {card.score:.3f}"><i style="width:{bar:.0f}%"></i></div>' if bar is not None else ""
    chips = "".join(f'<span class="chip {safe(name.split()[0])}">{safe(name)}</span>' for name in card.badges)
    marked = f'<p class="mark">{safe(mark)}</p>' if mark else ""
    body = (f'<b class="rank">{rank}</b><div class="shot">{picture(card, alt=named(card))}<div class="chips">{chips}</div></div>{score}'
            f'<h4>{safe(card.title)}</h4><p class="facts">{broken(line)}{price}</p>{because(engine, card)}{marked}')  # fmt: skip
    said = ". ".join(filter(None, [f"{rank}. {named(card)}", card.why, *card.badges, mark]))
    return button(f"product{' only' if only else ''}", "item", card.item_id, body, label=said)


def bars(cards: list[Card]) -> list[float | None]:
    "Width of each score in percent, the best of the list full."
    scores = [card.score for card in cards if card.score is not None]
    low, high = min(scores, default=0), max(scores, default=0)
    return [None if card.score is None else 100.0 if high == low else 12 + 88 * (card.score - low) / (high - low) for card in cards]


def grid(engine: Engine, cards: list[Card], kind: str = "", marks: Mapping[int, str] | None = None, only: Iterable[int] = ()) -> str:
    kind += "" if any(card.has_image for card in cards) else " words"  # a shop without pictures: low cards, more of them in sight
    marks, only = marks or {}, set(only)
    body = "".join(product(engine, card, n, bar, marks.get(card.item_id, ""), card.item_id in only)
                   for n, (card, bar) in enumerate(zip(cards, bars(cards), strict=True), 1))  # fmt: skip
    return f'<div class="grid {kind}">{body}</div>'


def small(card: Card, words: bool = False) -> str:
    "An item in a history; `words`: of a shop without pictures."
    when = datetime.fromtimestamp(card.ts / 1000, UTC).strftime("%-d %b %Y") if card.ts and card.ts > 10**10 else ""
    note = " ".join(filter(None, [card.why, when]))
    shown = f'<i class="dot" style="--hue:{hue(card)}"></i>' if words else picture(card, 240, named(card))
    what = " · ".join(filter(None, [leaf(card) if words else "", note]))
    body = f'{shown}<div><h4>{safe(card.title)}</h4><p class="facts">{safe(what)}</p></div>'
    return button(f"small{' words' if words else ''}", "item", card.item_id, body, label=", ".join(filter(None, [named(card), note])))


def brief(raw_id: str) -> str:
    return f"{raw_id[:8]}…" if len(raw_id) > 12 else raw_id


# --- who is here


_kept: dict[tuple[str, str], tuple] = {}


def kept(engine: Engine, dataset: str, what: str, make: Callable[[], object]) -> object:
    "What is the same for every visitor, until another bundle is served."
    shop = engine.shop(dataset)
    said = _kept.get((dataset, what))
    if said is None or said[0]() is not shop:
        said = _kept[dataset, what] = weakref.ref(shop), make()
    return said[1]


def people(engine: Engine, dataset: str) -> list[tuple[str, Person]]:
    "Examples to look at: what they are called, and who they are."
    personas = [(PERSONAS[one.name], one.person) for one in engine.personas(dataset, 7) if one.name in PERSONAS and one.person]
    taken = {person.raw_id for _, person in personas}
    varied = lambda one: len({leaf(card) for card in one.items}) + len({card.facets.get("colour") for card in one.items})
    others = sorted(engine.users(dataset, N_PEOPLE + 2), key=varied, reverse=True)  # the page opens on the first
    return [*personas, *((brief(one.raw_id), one) for one in others if one.raw_id not in taken)][: N_PEOPLE + 2]


def person(name: str, somebody: Person, chosen: bool) -> str:
    "An example user: four things they chose, in one picture."
    tiles = "".join(picture(card, 240) for card in somebody.items[:4])
    if not any(card.has_image for card in somebody.items):
        tiles = f'<div class="count"><b>{somebody.n_events}</b>events</div>'
    taste = f"categories {somebody.taste}" if somebody.taste.replace(", ", "").isdecimal() else somebody.taste
    facts = f"{somebody.n_events} events" if name in PERSONAS.values() else taste
    body = f'<div class="collage">{tiles}</div><h3>{safe(name)}</h3><p class="facts">{safe(facts)}</p>'
    return button(f"person{' chosen' if chosen else ''}", "user", somebody.raw_id, body, pressed=str(chosen).lower(), label=f"{name}: {somebody.taste}")


def people_html(engine: Engine, visit: Visit) -> str:
    n, examples = len(visit.picks), kept(engine, visit.dataset, "people", lambda: people(engine, visit.dataset))
    new = f'<div class="collage plus">+</div><h3>New visitor</h3><p class="facts">{f"{n} picked" if n else "no history at all"}</p>'
    chance = '<div class="collage plus">?</div><h3>Surprise me</h3><p class="facts">somebody by chance</p>'
    first = button(f"person new{' chosen' if visit.user is None else ''}", "visitor", 1, new, pressed=str(visit.user is None).lower())
    others = "".join(person(name, one, one.raw_id == visit.user) for name, one in examples)
    return f'<div class="people">{first}{button("person", "surprise", 1, chance)}{others}</div>'


TOOLS = '<span class="tools"><button class="quiet" data-undo="1">undo</button><button class="quiet" data-clear="1">start over</button></span>'


def history_html(engine: Engine, visit: Visit) -> str:
    "What they did, the newest first."
    tools = ""
    if visit.user is None:
        cards = [engine.item(item, visit.dataset) for item in reversed(visit.picks)]
        title, empty = "Picked so far", "Nothing yet. Pick what you like: the shop starts to learn at the first click."
        tools = TOOLS if cards else ""
    else:
        cards = engine.history(visit.user, visit.dataset, N_HISTORY)
        title, empty = "What they did", "We have never seen them: a stranger."
    words = not any(card.has_image for card in cards)
    body = "".join(small(card, words) for card in cards) if cards else f'<p class="empty">{empty}</p>'
    return f'<section class="panel"><h3>{title}{tools}</h3><div class="past">{body}</div></section>'


# --- the lists


def ask(engine: Engine, visit: Visit, strategy: str, k: int, tuned: bool = True) -> Reply:
    "What a strategy would show; `tuned`: under the sliders."
    wishes = {"diversity": visit.diversity, "weights": dict(visit.weights) or None} if tuned else {}
    if visit.user is None:  # something new at every click
        reply = engine.recommend(None, [Event(item) for item in visit.picks], strategy, k, visit.dataset, exclude=list(visit.picks), **wishes)
        return replace(reply, items=[replace(card, why=picked(engine, visit, card.why)) for card in reply.items])
    had = [card.item_id for card in engine.history(visit.user, visit.dataset, LONG_AGO)] if visit.fresh else []
    return engine.recommend(visit.user, None, strategy, k, visit.dataset, exclude=list(dict.fromkeys(had)), **wishes)


def picked(engine: Engine, visit: Visit, why: str | None) -> str:
    "A reason in the words of who only picked things: their picks count as what weighs most in the shop, but nothing was bought."
    weights, words = engine.shop(visit.dataset).interactions.event_weights, WORDS | (engine.shop(visit.dataset).about.get("display") or {})
    done = words[max(weights, key=weights.get)]
    return re.sub(rf"^(because you )?{re.escape(done)}\b", lambda said: f"{said[1] or ''}picked", why or "") if visit.user is None else why or ""


def diverse(engine: Engine, dataset: str) -> list[Card]:
    "Popular items of as many kinds as possible, those with a picture first."
    cards = engine.recommend(None, [], "popularity", 100, dataset, explained=False).items
    seen, keys = Counter(), []
    for card in cards:
        keys.append((not card.has_image, seen[card.category]))
        seen[card.category] += 1
    return [card for _, card in sorted(zip(keys, cards, strict=True), key=lambda pair: pair[0])][:N_OFFERED]


def tile(card: Card, chosen: bool) -> str:
    body = f"{picture(card, 240, named(card))}<h4>{safe(card.title)}</h4>"
    return button(f"pick{' chosen' if chosen else ''}", "pick", card.item_id, body, pressed=str(chosen).lower(), label=named(card))


def offer_html(engine: Engine, visit: Visit) -> str:
    "What somebody new can pick from."
    try:
        cards = kept(engine, visit.dataset, "offer", lambda: diverse(engine, visit.dataset))
    except RecsysError:  # a shop that does not know what is popular
        return ""
    n, kind = len(visit.picks), "" if any(card.has_image for card in cards) else " words"
    title = f"Pick three you like <small>{n} of {ENOUGH}</small>" if n < ENOUGH else "Pick more"
    return (f'<details class="offer"{" open" if n < ENOUGH else ""}><summary><h3>{title}</h3></summary>'
            f'<div class="picks{kind}">{"".join(tile(card, card.item_id in visit.picks) for card in cards)}</div></details>')  # fmt: skip


def answered(visit: Visit, reply: Reply) -> str:
    "Who really answered, where it is somebody else."
    other = f"Answered by <b>{safe(label(reply.answered_by))}</b>: " if reply.answered_by != reply.strategy else ""
    return f'<p class="note">{other}{safe(reply.reason)}</p>' if reply.reason else ""


def listed(engine: Engine, visit: Visit, reply: Reply, marks: Mapping[int, str] | None = None, only: Iterable[int] = ()) -> str:
    body = grid(engine, reply.items, marks=marks, only=only) if reply.items else '<p class="empty">This strategy has nothing to recommend here.</p>'
    return answered(visit, reply) + body


def beside(engine: Engine, visit: Visit) -> str:
    "Two lists side by side: what both show, and what only one does."
    one, two = ask(engine, visit, visit.strategy, N_BESIDE), ask(engine, visit, visit.compare, N_BESIDE, tuned=False)
    places = [{card.item_id: n for n, card in enumerate(reply.items, 1)} for reply in (one, two)]
    both, columns = places[0].keys() & places[1].keys(), []
    changed = "with your changes" if visit.diversity or visit.weights else ""  # and no longer what was measured
    for letter, other, reply, there, note in (("A", "B", one, places[1], changed), ("B", "A", two, places[0], "")):
        alone = [card.item_id for card in reply.items if card.item_id not in both] if both else []  # nothing in common: nothing stands out
        marks = {card.item_id: f"also {other}, place {there[card.item_id]}" if card.item_id in both else f"only in {letter}" for card in reply.items}
        hits = "" if note or visit.fresh else f'<p class="facts">{right(engine, visit, reply.strategy)}</p>'
        title = f'<h3><b class="letter">{letter}</b>{safe(label(reply.strategy))} <small>{note}</small></h3>{hits}'
        columns.append(f'<section class="side">{title}{listed(engine, visit, reply, marks if both else {}, alone)}</section>')
    alike = f"<b>{len(both)} of {max(map(len, places))}</b> in both" if both else "<b>Nothing in common</b>: the two show different things"
    return f'<p class="overlap">{alike}</p><div class="beside">{"".join(columns)}</div>'


def right(engine: Engine, visit: Visit, strategy: str) -> str:
    "How often a strategy was right in the test days, in words; nothing where it was not measured."
    rows = engine.shop(visit.dataset).metrics
    hit = next((row for row in rows if (row["strategy"], row["metric"], row["slice"]) == (strategy, "hit_rate", "all") and row["value"] is not None), None)
    return f"In the test days {hit['value']:.0%} of people took one of its {hit['k']}." if hit else ""


def recommended_html(engine: Engine, visit: Visit) -> str:
    "The answer of the strategy, and who really gave it."
    offer, who = offer_html(engine, visit) if visit.user is None else "", ""
    try:
        if visit.compare:
            body = beside(engine, visit)
        else:
            reply = ask(engine, visit, visit.strategy, N_ITEMS)
            who, body = f"<small>{safe(label(reply.answered_by))}</small>", listed(engine, visit, reply)
    except RecsysError as problem:
        body = f'<p class="empty">{safe(problem)}</p>'
    name = "a new visitor" if visit.user is None else f"customer {brief(visit.user)}"
    return f'{offer}<section class="panel"><h3>Recommended for {safe(name)} {who}</h3>{body}</section>'


def parts_html(engine: Engine, visit: Visit) -> str:
    "What each part of the strategy adds to the opened item, and why."
    try:
        history = [Event(item) for item in visit.picks] if visit.user is None else None
        told = engine.explain(visit.user, visit.item, visit.strategy, history, visit.dataset, weights=dict(visit.weights) or None)
    except RecsysError:
        return ""
    most = max((abs(part.adds) for part in told.parts), default=0) or 1
    bar = lambda part: (f'<div class="bar{" minus" if part.adds < 0 else ""}" title="adds {part.adds:.3f}">'
                        f'<i style="width:{100 * abs(part.adds) / most:.0f}%"></i></div>')  # fmt: skip
    rows = "".join(f"<li><b>{safe(label(part.strategy))}</b>{bar(part)}<span>{safe(picked(engine, visit, part.reason.text))}</span></li>"
                   for part in told.parts[:5])  # fmt: skip
    title = f"{label(told.answered_by)}, " + (f"place {told.place}" if told.place else "not among the first hundred")
    head = f"Why {'you' if visit.user is None else 'they'} see this <small>{safe(title)}</small>"
    return f'<div class="parts"><h3>{head}</h3><ul>{rows}</ul></div>' if rows else ""


def message(problem: RecsysError) -> str:
    return f'<p class="note message" role="status">{safe(problem)}</p>'


def detail_html(engine: Engine, visit: Visit) -> str:
    "The opened item, why it is shown, and what is like it."
    if visit.item is None:
        return ""
    try:
        card, like = engine.item(visit.item, visit.dataset), engine.similar(visit.item, N_SIMILAR, visit.dataset)
    except RecsysError as problem:
        return message(problem)
    facets = "".join(f"<li><span>{safe(name.replace('_', ' '))}</span>{safe(value)}</li>" for name, value in list(card.facets.items())[:6])
    opaque = engine.shop(visit.dataset).about.get("text_kind") == "opaque"  # words of nobody's language
    text = "" if opaque else (engine.text(visit.item, visit.dataset) or "").split("\n")[-1][:400]
    path = (card.category or "").replace(" > ", " › ")
    add = "Pick this" if visit.user is None else "Start a new visitor with this"
    return (f'<section class="detail"><button class="close" data-close="1" aria-label="close">×</button>'
            f'<div class="shown">{picture(card, 960, named(card))}</div>'
            f'<div class="about"><p class="facts">{safe(path)}</p><h2>{safe(card.title)}</h2><p class="text">{safe(text)}</p><ul>{facets}</ul>'
            f'<button class="add" data-add="{card.item_id}">{add}</button></div>'
            f'<div class="like">{parts_html(engine, visit)}<h3>Similar items</h3>{grid(engine, like.items, "six")}</div></section>')  # fmt: skip


# --- what can be asked for


def strategy_html(engine: Engine, visit: Visit) -> str:
    "What the chosen strategy does, and which ones this shop cannot have."
    missing = [(label(s.name), s.reason) for s in engine.strategies(visit.dataset) if not s.ready]
    gone = "".join(f'<span title="{safe(reason)}">{safe(name)}</span>' for name, reason in missing)
    about = STRATEGIES.get(visit.strategy, ("", ""))[1]
    numbers = "This shop gives numbers only, no names and no pictures. " if engine.shop(visit.dataset).about.get("text_kind") == "opaque" else ""
    said = f'<p class="explain">{safe(about)} <b>{right(engine, visit, visit.strategy)}</b></p>'
    return said + (f'<p class="gone">{numbers}{f"Not in this shop: {gone}" if gone else ""}</p>' if gone or numbers else "")


def choices(engine: Engine, dataset: str) -> list[tuple[str, str]]:
    ready = [s.name for s in engine.strategies(dataset) if s.ready]
    known = [key for key in STRATEGIES if key in ready]
    return [(label(key), key) for key in (*known, *(key for key in ready if key not in known))]  # a scorer of one's own comes last


def parts_of(engine: Engine, visit: Visit) -> Mapping[str, float]:
    "Part -> weight of a hybrid; nothing for other strategies."
    scorer = engine.shop(visit.dataset).scorers.get(visit.strategy)
    return dict(getattr(scorer, "weights", None) or {})


def slider(name: str, title: str, value: float, usual: float = 0.0) -> str:
    moved = f'<input type="range" name="{safe(name)}" min="0" max="1" step="0.05" value="{value:.2f}" data-usual="{usual:.2f}"><output>{value:.2f}</output>'
    return f'<label class="slider"><span>{safe(title)}</span>{moved}</label>'


def adjust_html(engine: Engine, visit: Visit) -> str:
    "Another strategy beside, only new things, variety, and how much each part of the hybrid says."
    option = lambda name, key: f'<option value="{key}"{" selected" if key == visit.compare else ""}>{safe(name)}</option>'
    options = "".join(option(name, key) for name, key in choices(engine, visit.dataset))
    compare = f'<label class="compare"><span>Compare with</span><select name="compare"><option value="">nothing</option>{options}</select></label>'
    fresh = f'<label class="fresh"><input type="checkbox" name="fresh" value="1"{" checked" if visit.fresh else ""}><span>Only new to them</span></label>'
    mixed = "".join(slider(f"weight:{part}", label(part), visit.weights.get(part, weight), weight) for part, weight in parts_of(engine, visit).items())
    mixed = mixed or '<p class="facts">Weights can be moved where the strategy is a hybrid.</p>'
    opened = " open" if visit.diversity or visit.weights else ""
    sliders = f'<div class="sliders">{slider("diversity", "Variety", visit.diversity)}{mixed}</div>'
    more = f"<details{opened}><summary>Variety and weights</summary>{sliders}</details>"
    changed = " data-changed" if opened or visit.compare or visit.fresh else ""
    reset = '<button class="quiet" type="button" data-reset="1">as it was</button>'
    return f'<form class="adjust" data-form="adjust"{changed}>{compare}{fresh}{reset}{more}</form>'


def adjusted(engine: Engine, visit: Visit, form: Mapping[str, object]) -> Visit:
    "The visit under what the sliders say; whatever is no number of theirs is left out."

    def number(name: str, usual: float) -> float:
        try:
            value = float(str(form.get(name, usual))[:8])
        except ValueError:
            return usual
        return min(max(value, 0.0), 1.0) if value == value else usual

    tuned = parts_of(engine, visit)
    wished = {part: number(f"weight:{part}", weight) for part, weight in tuned.items()}
    same = all(abs(wished[part] - float(f"{weight:.2f}")) < 0.026 for part, weight in tuned.items())  # a slider moves in steps
    compare = form.get("compare")
    ready = {key for _, key in choices(engine, visit.dataset)}
    return replace(visit, compare=compare if compare in ready else None, diversity=number("diversity", 0.0), fresh=form.get("fresh") == "1",
                   weights={} if same else wished)  # fmt: skip


# --- search


def seek_html(engine: Engine, visit: Visit) -> str:
    "Words, and a photograph where the shop can compare one."
    why_not = engine.can_search(visit.dataset)["image"]
    file = '<input type="file" accept="image/*" aria-label="Search by a photo">'
    photo = f'<label class="photo" title="Search by a photo: it is made small in the browser and not kept">{file}Photo</label>'
    if why_not is not None:
        photo = f'<button type="button" class="photo off" data-photo="1" title="{safe(why_not)}">Photo</button>'
    box = '<input type="search" name="text" maxlength="200" placeholder="Search the shop" aria-label="Search the shop">'
    return f'<form role="search" data-form="seek">{box}{photo}</form>'


def unpacked(photo: object) -> bytes:
    "The picture that a browser sent."
    try:
        kind, _, data = str(photo)[: MOST_PHOTO + 1].partition(",")
        if len(str(photo)) > MOST_PHOTO or not kind.startswith("data:image/"):
            raise RecsysError("this is no picture, or too large a one")
        return base64.b64decode(data, validate=True)
    except binascii.Error as problem:
        raise RecsysError("this picture did not arrive whole; try again") from problem


def results_html(engine: Engine, visit: Visit, data: Mapping[str, object]) -> str:
    "What a search found."
    text = str(data.get("text", "")).strip()[:200]
    title = "Like your photo" if "photo" in data else f"Found for “{text}”"
    try:
        if "photo" in data and (why_not := engine.can_search(visit.dataset)["image"]):
            raise RecsysError(f"No search by photo here: {why_not}.")
        found = engine.search(text, unpacked(data["photo"]) if "photo" in data else None, N_FOUND, visit.dataset)
        body = grid(engine, found.items, "six said") if found.items else f'<p class="empty">Nothing found: {safe(found.reason)}.</p>'
    except RecsysError as problem:
        body = f'<p class="empty">{safe(problem)}</p>'
    return f'<section class="panel results"><h2>{safe(title)}<button class="close" data-shut="1" aria-label="close the search">×</button></h2>{body}</section>'


# --- how good is it


def interval(row: Mapping[str, object], most: float) -> str:
    "A figure with its interval, drawn."
    low, high, value = (100 * float(row[name]) / most for name in ("lo", "hi", "value"))
    return f'<div class="interval"><i style="left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%"></i><b style="left:{value:.1f}%"></b></div>'


def measured(shop) -> str:  # recsys.serving.bundle.Shop
    "The figures of every strategy, the best first."
    rows = {(row["strategy"], row["metric"]): row for row in shop.metrics if row["slice"] == "all" and row["value"] is not None and row["lo"] is not None}
    first = next(iter(METRICS))
    ranked = sorted((row for (_, metric), row in rows.items() if metric == first), key=lambda row: -row["value"])
    if not ranked:
        return '<p class="empty">This bundle carries no evaluation: it was made by an older run, or from a run without the step “evaluate”.</p>'
    most, shown = max(row["hi"] for row in ranked) or 1, [metric for metric in METRICS if any(row[1] == metric for row in rows)]
    cell = lambda row: f"<td>{row['value']:.3f} <small>{row['lo']:.3f}–{row['hi']:.3f}</small></td>" if row else "<td>–</td>"
    body = "".join(f'<tr><th scope="row">{safe(label(top["strategy"]))}</th><td class="drawn">{interval(top, most)}</td>'
                   f'{"".join(cell(rows.get((top["strategy"], metric))) for metric in shown)}</tr>' for top in ranked)  # fmt: skip
    heads = "".join(f'<th scope="col">{METRICS[metric]}@{ranked[0]["k"]}</th>' for metric in shown)
    note = f"{ranked[0]['n_users']:,} people of the test days; the line is a 95 % interval: where two overlap, the data do not say which is better."
    meaning = MEANING.format(k=ranked[0]["k"])
    return (f'<p class="facts">{note}</p><p class="facts">{meaning}</p>'
            '<div class="scroll" tabindex="0" role="region" aria-label="Figures of all strategies"><table><thead><tr>'
            f'<th scope="col">Strategy</th><th scope="col">{METRICS[first]}, drawn</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>')  # fmt: skip


def day(ms: object) -> str:
    return datetime.fromtimestamp(int(ms) / 1000, UTC).strftime("%-d %B %Y")


def limits(engine: Engine, dataset: str) -> list[str]:
    "What one should know before believing it."
    shop = engine.shop(dataset)
    cutoff, cards = shop.about.get("cutoff") or {}, shop.shelf
    timed = cutoff.get("test_at") and shop.interactions.time_unit != "order"
    blank = sum(image is None for image in cards["image"])
    tested = f"Tested on what was chosen between {day(cutoff['test_at'])} and {day(cutoff['end_at'])}: the tested models knew nothing later." if timed else ""
    said = [
        tested,
        "A test on the past counts only what was chosen then: something better that nobody was shown counts as wrong.",
        f"{shop.interactions.n_users:,} users, {shop.interactions.n_items:,} items, {shop.interactions.n_events:,} events.",
        f"{blank:,} of {len(cards['image']):,} items have no picture here; they show a tile with their category." if blank else "",
        *(f"{label(one.name)} is missing: {one.reason}." for one in engine.strategies(dataset) if not one.ready),
        "“Hit in test” marks what this person really chose in the test days; no model saw it." if shop.truth is not None else "",
    ]
    return [line for line in said if line]


def coded(text: str) -> str:
    "Commands named in a text, as commands."
    return re.sub("&#96;(.*?)&#96;", r"<code>\1</code>", safe(text))


def quality_html(engine: Engine, visit: Visit) -> str:
    "Figures, limits, and whose data it is."
    shop, title = engine.shop(visit.dataset), str(engine.shop(visit.dataset).about.get("title") or visit.dataset)
    licence = shop.about.get("licence") or "The bundle does not say under which licence its data may be used."
    lines = "".join(f"<li>{safe(line)}</li>" for line in limits(engine, visit.dataset))
    return (f'<details class="quality"><summary>How good is it?</summary>{measured(shop)}<h3>Limits</h3><ul>{lines}</ul>'
            f'<h3>Data</h3><p class="facts">{safe(title)}. {coded(licence)}</p></details>')  # fmt: skip


# --- links


def link_of(engine: Engine, visit: Visit) -> str:
    "The address of what is shown."
    said = {"shop": visit.dataset, "user": visit.user, "picks": ",".join(map(str, visit.picks)) if visit.user is None else None, "strategy": visit.strategy,
            "compare": visit.compare, "diversity": visit.diversity or None, "fresh": 1 if visit.fresh else None,
            "weights": ",".join(f"{part}:{weight:.2f}" for part, weight in visit.weights.items()) or None, "item": visit.item}  # fmt: skip
    return "?" + urlencode({name: value for name, value in said.items() if value is not None})


def linked(engine: Engine, query: str) -> Visit:
    "The visit an address speaks of; what it says of things that are not there is passed over."
    asked = {name: values[-1] for name, values in parse_qs(query[:4000].removeprefix("?"), keep_blank_values=True, max_num_fields=20).items()}
    visit = first_visit(engine, asked["shop"] if asked.get("shop") in engine.datasets else engine.datasets[0])
    ready = {key for _, key in choices(engine, visit.dataset)}
    if asked.get("user"):
        visit = replace(visit, user=asked["user"][:128])
    elif "picks" in asked:
        picks = (known(engine, visit, item) for item in asked["picks"].split(",")[:MOST_PICKS])
        visit = replace(visit, user=None, picks=tuple(dict.fromkeys(filter(None, picks))))
    if asked.get("strategy") in ready:
        visit = replace(visit, strategy=asked["strategy"])
    tuned = {name: asked.get(name) for name in ("compare", "diversity", "fresh")}
    tuned |= {f"weight:{part}": weight for part, _, weight in (one.partition(":") for one in asked.get("weights", "").split(","))}
    return replace(adjusted(engine, visit, tuned), item=known(engine, visit, asked.get("item")))


def known(engine: Engine, visit: Visit, item: str | None) -> int | None:
    try:
        return engine.item(item, visit.dataset).item_id if item else None
    except RecsysError:
        return None


# --- the page


CLICKS = (ASSETS / "demo.js").read_text(encoding="utf-8")
WHO = ('<h2>Who is visiting?</h2><form data-form="find"><input type="search" name="user" maxlength="500" placeholder="Find a customer by id" '
       'aria-label="Find a customer by id"></form>')  # fmt: skip


def page(elem_id: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, js_on_load=CLICKS, apply_default_css=False)


def first_visit(engine: Engine, dataset: str) -> Visit:
    examples, names = kept(engine, dataset, "people", lambda: people(engine, dataset)), [name for _, name in choices(engine, dataset)]
    plain = [one.raw_id for name, one in examples if name not in PERSONAS.values()] or [one.raw_id for _, one in examples]
    return Visit(dataset, plain[0] if plain else None, strategy=names[0] if names else "popularity")


def clicked(engine: Engine, visit: Visit, data: Mapping[str, object]) -> Visit:
    "The visit after a click; what came from the browser is looked up, never trusted."
    if "shop" in data:
        if data["shop"] not in engine.datasets:
            raise RecsysError(f"no shop {str(data['shop'])[:50]!r} here, only {', '.join(engine.datasets)}")
        return first_visit(engine, str(data["shop"]))
    if "strategy" in data:
        if data["strategy"] not in (ready := [name for _, name in choices(engine, visit.dataset)]):
            raise RecsysError(f"no strategy {str(data['strategy'])[:50]!r} in this shop, only {', '.join(ready)}")
        return replace(visit, strategy=str(data["strategy"]), weights={})
    if "item" in data:
        return replace(visit, item=engine.item(str(data["item"]), visit.dataset).item_id)
    if "add" in data or "pick" in data:
        item = engine.item(str(data.get("add", data.get("pick"))), visit.dataset).item_id
        others = tuple(pick for pick in visit.picks if pick != item)
        return replace(visit, user=None, picks=others if "pick" in data and item in visit.picks else (*others, item)[-MOST_PICKS:], item=None)
    if "surprise" in data:
        drawn = next((one.person for one in engine.personas(visit.dataset) if one.name == "surprise"), None)
        return replace(visit, user=drawn.raw_id if drawn else visit.user, item=None)
    if "user" in data:
        return replace(visit, user=str(data["user"]).strip()[:128] or None, item=None)
    if "visitor" in data:
        return replace(visit, user=None, item=None)
    if "adjust" in data:
        return adjusted(engine, visit, data["adjust"] if isinstance(data["adjust"], dict) else {})
    if "reset" in data:
        return replace(visit, compare=None, diversity=0.0, fresh=False, weights={})
    return replace(visit, picks=() if "clear" in data else visit.picks[:-1] if "undo" in data else visit.picks, item=None)


PANELS = {"people": people_html, "explain": strategy_html, "adjust": adjust_html, "detail": detail_html, "past": history_html, "found": recommended_html,
          "seek": seek_html, "quality": quality_html, "link": lambda engine, visit: safe(link_of(engine, visit))}  # fmt: skip


def touched(before: Visit, after: Visit, data: Mapping[str, object]) -> set[str]:
    "The panels that show something else now; the rest stands still."
    if before.dataset != after.dataset:
        return set(PANELS)
    parts = {"link"}
    if before.item != after.item or "close" in data:
        parts |= {"detail"}
    if (before.user, before.picks) != (after.user, after.picks):
        parts |= {"people", "detail", "past", "found"}
    if before.strategy != after.strategy:
        parts |= {"explain", "adjust", "detail", "found"}
    if (before.compare, before.diversity, before.fresh, before.weights) != (after.compare, after.diversity, after.fresh, after.weights):
        parts |= {"found"}
    return parts


def drawn(engine: Engine, visit: Visit, parts: Iterable[str] = PANELS) -> dict[str, str]:
    "Panel -> html."
    return {part: PANELS[part](engine, visit) for part in parts}


def hear(engine: Engine, desk: Desk, clicks: Iterable[object], missed: bool = False) -> dict[str, str]:
    "Panel -> html, of those that show something else after the clicks; of all where the page missed an answer, as one did that says nothing new."
    numbered = [click for click in clicks if isinstance(click, dict) and isinstance(click.get("n"), int)][:MOST_CLICKS]
    new = [click for click in numbered if click["n"] > desk.heard]
    parts, shown = (set(PANELS), {"results": desk.results}) if missed or not new else (set(), {})
    for data in new:
        before, desk.heard = desk.visit, data["n"]
        if "shut" in data or "shop" in data:
            shown["results"] = desk.results = ""
        if "text" in data or "photo" in data:
            shown["results"] = desk.results = results_html(engine, before, data) if "photo" in data or str(data["text"]).strip() else ""
            continue
        try:
            desk.visit = clicked(engine, before, data)
            parts |= touched(before, desk.visit, data)
            shown.pop("detail", None)
        except RecsysError as problem:  # something that is not there: said in words, and all else stands still
            desk.visit, parts = replace(before, item=None), parts | {"detail", "link"}
            shown["detail"] = message(problem)
    return drawn(engine, desk.visit, parts) | shown


def build(engine: Engine) -> gr.Blocks:
    "The page."
    start = first_visit(engine, engine.datasets[0])
    titles = [(str(engine.shop(name).about.get("title") or name), name) for name in engine.datasets]
    pills = {"show_label": False, "container": False, "elem_classes": "pills"}
    with gr.Blocks(title="Recommendations", analytics_enabled=False, fill_width=True) as blocks:
        desk, made = gr.State(Desk(start)), {}
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>Recommendations</h1><p>Pick somebody, choose how to recommend, open anything.</p>", apply_default_css=False, elem_id="brand")
            shop = gr.Radio(titles, value=start.dataset, label="Shop", elem_id="shop", visible=len(titles) > 1, **pills)
            made["seek"] = page("seek")
        made["results"] = page("results")
        page("who", WHO)
        made["people"] = page("people")
        strategy = gr.Radio(choices(engine, start.dataset), value=start.strategy, label="Strategy", elem_id="strategy", **pills)
        with gr.Row(elem_id="how"):
            made["explain"], made["adjust"] = gr.HTML("", elem_id="explain", apply_default_css=False), page("adjust")
        made["detail"] = page("detail")
        with gr.Row(elem_id="both"):
            made["past"], made["found"] = page("past"), page("found")
        made["quality"], made["link"], heard = page("quality"), page("link"), page("heard")
        query = gr.Textbox("", elem_id="query", label="address", container=False)

        def shown(desk: Desk, panels: Mapping[str, str], before: Visit | None = None) -> list:
            now, desk.told = desk.visit, desk.told + 1
            moved = before is None or before.dataset != now.dataset
            radios = [gr.update(value=now.dataset), gr.update(choices=choices(engine, now.dataset), value=now.strategy)] if moved else [gr.skip()] * 2
            return [*(panels.get(name, gr.skip()) for name in made), f"{desk.heard} {desk.told}", *radios]  # no two answers alike: the page has to notice each

        def begin(desk: Desk, address: str) -> list:
            with desk.turn:
                desk.visit = linked(engine, address or "")
                return shown(desk, drawn(engine, desk.visit) | {"results": ""})

        def answer(desk: Desk, event: gr.EventData) -> list:
            said = event._data if isinstance(event._data, dict) else {}
            clicks = said.get("clicks")
            with desk.turn:
                before = desk.visit
                return shown(desk, hear(engine, desk, clicks if isinstance(clicks, list) else [], said.get("missed") is True), before)

        everything = [*made.values(), heard, shop, strategy]
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        blocks.load(begin, [desk, query], everything, js="(desk) => [desk, window.location.search]", **quick)
        heard.select(answer, desk, everything, trigger_mode="multiple", **quick)  # in order: the page waits for an answer before it goes on
        for radio, name in ((shop, "shop"), (strategy, "strategy")):
            radio.input(None, radio, js=f"(chosen) => {{ window.recsysDemo.send({{{name}: chosen}}) }}", **quick)
    return blocks


FONT = gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700))  # Gradio's semi-bold file holds 99 letters only
THEME = gr.themes.Base(font=[FONT, "system-ui", "sans-serif"], primary_hue="stone", neutral_hue="stone", radius_size="lg", text_size="md").set(
    body_background_fill="#faf9f7", body_background_fill_dark="#161513", block_background_fill="transparent", block_border_width="0px"
)


ICON = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='%233d6b52'/></svg>"


def mount(app, engine: Engine, path: str = "/demo") -> None:
    "Put the page into a FastAPI app."
    css = (ASSETS / "demo.css").read_text(encoding="utf-8")
    looks = {"theme": THEME, "css": css, "head": f'<link rel="icon" href="{ICON}">', "footer_links": []}
    gr.mount_gradio_app(app, build(engine), path=path, **looks, ssr_mode=False, show_error=True, max_file_size="1kb")


def main(host: str = "127.0.0.1", port: int = 7860, bundle: str | None = None) -> None:
    "Serve the page until stopped."
    from recsys.api.main import serve

    print(f"the demo opens at http://{host}:{port}/demo")
    serve(host, port, bundle, demo="demo.app")


if __name__ == "__main__":
    main()
