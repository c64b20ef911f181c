"""The demo: pick somebody, see what they did and what each strategy would show them; or be a new visitor and watch it learn.

It knows only the engine. `recsys demo`, or `python demo/app.py`.
"""

import html
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr

from recsys.errors import RecsysError
from recsys.serving.engine import Card, Engine, Event, Person, Reply

ASSETS = Path(__file__).parent / "assets"
N_ITEMS, N_SIMILAR, N_HISTORY, N_PEOPLE = 15, 12, 24, 9
MOST_PICKS = 30  # things a new visitor can pick

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


@dataclass(frozen=True)
class Visit:
    "What one visitor of this page is looking at; everybody has their own."

    dataset: str
    user: str | None = None  # None = the new visitor
    picks: tuple[int, ...] = ()  # of the new visitor, oldest first
    item: int | None = None  # opened
    strategy: str = "hybrid"
    note: str = field(default="")


def safe(text: object) -> str:
    "Text from a catalog, harmless in html and in Gradio's own templates."
    return html.escape(str(text)).translate({ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"})


def leaf(card: Card) -> str:
    last = (card.category or "").split(" > ")[-1]
    return f"category {last}" if last.isdecimal() else last


def picture(card: Card, size: int = 480) -> str:
    "The picture of an item; under it, and where there is none, a quiet tile with its category."
    hue = sum(map(ord, leaf(card))) * 47 % 360
    image = f'<img loading="lazy" alt="" src="../images/{card.item_id}?size={size}&amp;dataset={safe(card.dataset)}">' if card.has_image else ""
    return f'<div class="pic" style="--hue:{hue}"><span>{safe(leaf(card) or card.title)}</span>{image}</div>'


def product(card: Card, rank: int | None = None) -> str:
    "An item in a grid."
    number = f'<b class="rank">{rank}</b>' if rank else ""
    place = leaf(card) if card.has_image else (card.category or "").replace(" > ", " › ")  # the tile says the leaf already
    line = " · ".join(filter(None, [card.facets.get("colour", ""), place]))
    price = f'<span class="price">{card.price:,.2f}</span>' if card.price is not None and card.price >= 1 else ""
    score = f'<span class="score" title="score of the strategy">{card.score:.2f}</span>' if card.score is not None else ""
    why = f'<p class="why">{safe(card.why)}</p>' if card.why else ""
    return (f'<article class="product" data-item="{card.item_id}" tabindex="0" role="button">{number}{picture(card)}'
            f'<h4>{safe(card.title)}</h4><p class="facts">{safe(line)}{score}</p>{why}{price}</article>')  # fmt: skip


def small(card: Card) -> str:
    "An item in a history."
    when = datetime.fromtimestamp(card.ts / 1000, UTC).strftime("%-d %b %Y") if card.ts and card.ts > 10**10 else ""
    note = " ".join(filter(None, [card.why, when]))
    return (f'<article class="small" data-item="{card.item_id}" tabindex="0" role="button">{picture(card, 240)}'
            f'<div><h4>{safe(card.title)}</h4><p class="facts">{safe(note)}</p></div></article>')  # fmt: skip


def person(somebody: Person, chosen: bool) -> str:
    "An example user: four things they chose, in one picture."
    tiles = "".join(picture(card, 240) for card in somebody.items[:4])
    if not any(card.has_image for card in somebody.items):
        tiles = f'<div class="count"><b>{somebody.n_events}</b>events</div>'
    return (f'<article class="person{" chosen" if chosen else ""}" data-user="{safe(somebody.raw_id)}" tabindex="0" role="button">'
            f'<div class="collage">{tiles}</div><h4>{safe(brief(somebody.raw_id))}</h4><p class="facts">{safe(somebody.taste)}</p></article>')  # fmt: skip


def newcomer(visit: Visit) -> str:
    n = len(visit.picks)
    return (f'<article class="person new{" chosen" if visit.user is None else ""}" data-visitor="1" tabindex="0" role="button">'
            f'<div class="collage plus">+</div><h4>New visitor</h4><p class="facts">{f"{n} picked" if n else "no history at all"}</p></article>')  # fmt: skip


def brief(raw_id: str) -> str:
    return f"{raw_id[:8]}…" if len(raw_id) > 12 else raw_id


def short(raw_id: str) -> str:
    return f"customer {brief(raw_id)}"


def grid(cards: list[Card], kind: str = "") -> str:
    kind += "" if any(card.has_image for card in cards) else " words"  # a shop without pictures: low cards, more of them in sight
    return f'<div class="grid {kind}">{"".join(product(card, n) for n, card in enumerate(cards, 1))}</div>'


def people_html(engine: Engine, visit: Visit) -> str:
    examples = engine.users(visit.dataset, N_PEOPLE)
    return f'<div class="people">{newcomer(visit)}{"".join(person(p, p.raw_id == visit.user) for p in examples)}</div>'


def history_html(engine: Engine, visit: Visit) -> str:
    "What they did, the newest first."
    if visit.user is None:
        cards = [engine.item(item, visit.dataset) for item in reversed(visit.picks)]
        title, empty = "Picked so far", "Nothing yet. Open something you like on the right and add it: the shop starts to learn at the first click."
    else:
        cards = engine.history(visit.user, visit.dataset, N_HISTORY)
        title, empty = "What they did", "We have never seen them: a stranger."
    clear = '<button class="quiet" data-clear="1">start over</button>' if visit.user is None and cards else ""
    body = "".join(map(small, cards)) if cards else f'<p class="empty">{empty}</p>'
    return f'<section class="panel"><h3>{title}{clear}</h3><div class="past">{body}</div></section>'


def ask(engine: Engine, visit: Visit) -> Reply:
    if visit.user is None:
        reply = engine.recommend(None, [Event(item) for item in visit.picks], visit.strategy, N_ITEMS + len(visit.picks), visit.dataset)
        return replace(reply, items=[card for card in reply.items if card.item_id not in visit.picks][:N_ITEMS])  # something new at every click
    return engine.recommend(visit.user, None, visit.strategy, N_ITEMS, visit.dataset)


def recommended_html(engine: Engine, visit: Visit) -> str:
    "The answer of the strategy, and who really gave it."
    try:
        reply = ask(engine, visit)
    except RecsysError as problem:
        return f'<section class="panel"><h3>Recommended</h3><p class="empty">{safe(problem)}</p></section>'
    who = STRATEGIES.get(reply.answered_by, (reply.answered_by,))[0]
    other = reply.answered_by != visit.strategy
    note = f'<p class="note">{f"Answered by <b>{safe(who)}</b>: " if other else ""}{safe(reply.reason)}</p>' if reply.reason else ""
    name = "a new visitor" if visit.user is None else short(visit.user)
    body = grid(reply.items) if reply.items else '<p class="empty">This strategy has nothing to recommend here.</p>'
    return f'<section class="panel"><h3>Recommended for {safe(name)} <small>{safe(who)}</small></h3>{note}{body}</section>'


def detail_html(engine: Engine, visit: Visit) -> str:
    "The opened item, and what is like it."
    if visit.item is None:
        return ""
    card, like = engine.item(visit.item, visit.dataset), engine.similar(visit.item, N_SIMILAR, visit.dataset)
    facets = "".join(f"<li><span>{safe(name.replace('_', ' '))}</span>{safe(value)}</li>" for name, value in list(card.facets.items())[:6])
    text = (engine.text(visit.item, visit.dataset) or "").split("\n")[-1][:400]
    return (f'<section class="detail"><button class="close" data-close="1" aria-label="close">×</button><div class="shown">{picture(card, 960)}</div>'
            f'<div class="about"><p class="facts">{safe(card.category or "")}</p><h2>{safe(card.title)}</h2><p class="text">{safe(text)}</p><ul>{facets}</ul>'
            f'<button class="add" data-add="{card.item_id}">Add to a new visitor’s history</button></div>'
            f'<div class="like"><h3>Similar items</h3>{grid(like.items, "six")}</div></section>')  # fmt: skip


def strategy_html(engine: Engine, visit: Visit) -> str:
    "What the chosen strategy does, and which ones this shop cannot have."
    missing = [(STRATEGIES.get(s.name, (s.name,))[0], s.reason) for s in engine.strategies(visit.dataset) if not s.ready]
    gone = "".join(f'<span title="{safe(reason)}">{safe(name)}</span>' for name, reason in missing)
    about = STRATEGIES.get(visit.strategy, ("", ""))[1]
    return f'<p class="explain">{safe(about)}</p>' + (f'<p class="gone">Not in this shop: {gone}</p>' if gone else "")


def choices(engine: Engine, dataset: str) -> list[tuple[str, str]]:
    ready = {s.name for s in engine.strategies(dataset) if s.ready}
    return [(label, name) for name, (label, _) in STRATEGIES.items() if name in ready]


CLICKS = """
const say = (target) => {
  const at = target.closest('[data-item],[data-user],[data-visitor],[data-add],[data-close],[data-clear]');
  if (at && element.contains(at)) trigger('select', {...at.dataset});
};
element.addEventListener('click', (event) => say(event.target));
element.addEventListener('keydown', (event) => { if (event.key === 'Enter') say(event.target); });
if (element.closest('#detail')) watch('value', () => { if (element.querySelector('.detail')) element.scrollIntoView({block: 'nearest'}); });
element.addEventListener('error', (event) => { if (event.target.tagName === 'IMG') event.target.remove(); }, true);
"""


def page(elem_id: str) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, js_on_load=CLICKS, apply_default_css=False)


def first_visit(engine: Engine, dataset: str) -> Visit:
    people, names = engine.users(dataset, N_PEOPLE), [name for _, name in choices(engine, dataset)]
    return Visit(dataset, people[0].raw_id if people else None, strategy=names[0] if names else "popularity")


def clicked(engine: Engine, visit: Visit, data: dict) -> Visit:
    "The visit after a click; what came from the browser is looked up, never trusted."
    if "item" in data:
        return replace(visit, item=engine.item(str(data["item"]), visit.dataset).item_id)
    if "add" in data:
        item = engine.item(str(data["add"]), visit.dataset).item_id
        return replace(visit, user=None, picks=(*(p for p in visit.picks if p != item), item)[-MOST_PICKS:], item=None)
    if "user" in data:
        return replace(visit, user=str(data["user"])[:128], item=None)
    if "visitor" in data:
        return replace(visit, user=None, item=None)
    return replace(visit, picks=() if "clear" in data else visit.picks, item=None)


def build(engine: Engine) -> gr.Blocks:
    "The page."
    start = first_visit(engine, engine.datasets[0])
    titles = [(str(engine.shop(name).about.get("title") or name), name) for name in engine.datasets]
    with gr.Blocks(title="Recommendations", analytics_enabled=False, fill_width=True) as blocks:
        visit = gr.State(start)
        with gr.Row(elem_id="top"):
            gr.HTML('<h1>Recommendations</h1><p>Pick somebody, choose how to recommend, open anything.</p>', apply_default_css=False, elem_id="brand")
            shop = gr.Radio(titles, value=start.dataset, show_label=False, container=False, elem_id="shop", elem_classes="pills", visible=len(titles) > 1)
            search = gr.Textbox(placeholder="Find a customer by id", show_label=False, container=False, elem_id="search", max_length=128, scale=0)
        people = page("people")
        strategy = gr.Radio(choices(engine, start.dataset), value=start.strategy, show_label=False, container=False, elem_id="strategy", elem_classes="pills")
        explain = gr.HTML("", elem_id="explain", apply_default_css=False)
        detail = page("detail")
        with gr.Row(elem_id="both"):
            past, found = page("past"), page("found")

        def show(now: Visit) -> tuple:
            return now, people_html(engine, now), strategy_html(engine, now), detail_html(engine, now), history_html(engine, now), recommended_html(engine, now)

        def click(now: Visit, event: gr.EventData) -> tuple:
            try:
                after = clicked(engine, now, event._data if isinstance(event._data, dict) else {})
            except RecsysError as problem:  # something that is not there: said in words, and all else stands still
                return replace(now, item=None), gr.skip(), gr.skip(), f'<p class="note message">{safe(problem)}</p>', gr.skip(), gr.skip()
            opened = detail_html(engine, after)
            if (after.user, after.picks) == (now.user, now.picks):  # only something opened or closed: the rest stands still
                return after, gr.skip(), gr.skip(), opened, gr.skip(), gr.skip()
            return show(after)

        def choose_shop(name: str) -> tuple:
            after = first_visit(engine, name)
            return *show(after), gr.update(choices=choices(engine, name), value=after.strategy)

        def choose_strategy(now: Visit, name: str) -> tuple:
            after = replace(now, strategy=name)
            return after, strategy_html(engine, after), recommended_html(engine, after)

        def find(now: Visit, text: str) -> tuple:
            return show(replace(now, user=text.strip()[:128] or None, item=None))

        everything = [visit, people, explain, detail, past, found]
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        blocks.load(show, visit, everything, **quick)
        shop.input(choose_shop, shop, [*everything, strategy], **quick)
        strategy.input(choose_strategy, [visit, strategy], [visit, explain, found], **quick)
        search.submit(find, [visit, search], everything, **quick)
        for part in (people, detail, past, found):
            part.select(click, visit, everything, **quick)
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
