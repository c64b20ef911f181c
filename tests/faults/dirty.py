"""Raw files made dirty in a known way, and what their accounting must then be.

A `Mutation` spoils lines of a small drawn shop and says of each line it touched whether it is rejected, and why. What is expected is
counted from those lines alone, never by the code under test.
"""

import csv
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from recsys.data.engine import TORN, open_engine
from recsys.data.lines import NOT_UTF8, NUL, OPEN_QUOTE, RETURN
from recsys.datasets.base import ingest_all
from recsys.datasets.hm import AS_TEXT, NOT_A_CUSTOMER
from recsys.datasets.rr import NOT_MS
from recsys.datasets.sample import draw_sample
from recsys.errors import RecsysError

SALES, ARTICLES, CUSTOMERS = "transactions_train.csv", "articles.csv", "customers.csv"
CLICKS, PART1, PART2, TREE = "events.csv", "item_properties_part1.csv", "item_properties_part2.csv", "category_tree.csv"
TABLE, ITEMS = "e.csv", "i.csv"
FILES = {"hm": (SALES, ARTICLES, CUSTOMERS), "rr": (CLICKS, PART1, PART2, TREE), "table": (TABLE, ITEMS)}
EVENTS_OF = {"hm": SALES, "rr": CLICKS, "table": TABLE}
KEYS = {ARTICLES: "article_id", CUSTOMERS: "customer_id", TREE: "categoryid", ITEMS: "item_id"}  # lists: one row for each of these
REPEATED = (PART1, PART2)  # files whose equal rows are all kept
PRICE, DAY, FUTURE = "price should be a number", "t_dat should be a date", "lies in the future"
VISITOR, ITEM, KIND = "visitorid should be a number", "itemid should be a number", "event should be one of"
NUMBER, NOTHING_SEEN, POSSIBLE = "n123.000", "no invisible characters", "timestamp should be a time"


def base_shops(folder: Path) -> Path:
    "Draw the small shops that all mutations start from: hm, rr, and a table made of rr's events."
    draw_sample(folder, customers=60, articles=80, images=True, progress=False)
    clicks = list(csv.DictReader(io.StringIO((folder / "rr_raw" / CLICKS).read_text())))
    (folder / "table_raw").mkdir()
    kinds = {"view": "view", "addtocart": "cart", "transaction": "purchase"}
    rows = [f"v{c['visitorid']},{c['itemid']},{1_600_000_000 + n},{kinds[c['event']]},{n % 9 + 1}.5,{n % 2 + 1}" for n, c in enumerate(clicks[:200])]
    (folder / "table_raw" / TABLE).write_text("\n".join(["user_id,item_id,timestamp,event,price,weight", *rows]) + "\n")
    ids = sorted({c["itemid"] for c in clicks[:200]})
    (folder / "table_raw" / ITEMS).write_text("\n".join(["item_id,title,text", *(f"{item},Mug {item},a blue mug" for item in ids)]) + "\n")
    return folder


@dataclass
class Line:
    "One row of a raw file: its bytes, and why it must be rejected, if it must."

    raw: bytes
    reason: str = ""
    key: object = None  # what makes it the same as another row, where its text does not say


@dataclass
class Dirty:
    "A copy of one small shop that may be spoilt; `write` puts it on disk."

    name: str
    folder: Path
    rng: random.Random
    files: dict[str, list[Line]] = field(default_factory=dict)  # first is the header
    ends: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # texts that must be said
    refused: str = ""  # text of the refusal, where the shop must be refused
    account: dict[str, object] = field(default_factory=dict)  # further entries of the accounting
    look: Callable[[Path], None] | None = None  # a further look at what was written

    def load(self) -> "Dirty":
        for file in FILES[self.name]:
            self.files[file] = [Line(raw) for raw in (self.folder / file).read_bytes().splitlines()]
        return self

    def pick(self, file: str, n: int = 3) -> list[int]:
        "Places of rows that occur once."
        rows = self.files[file]
        counts = Counter(line.raw for line in rows)
        return sorted(self.rng.sample([place for place in range(1, len(rows)) if counts[rows[place].raw] == 1 and not rows[place].reason], n))

    def columns(self, file: str) -> list[str]:
        return self.files[file][0].raw.decode().split(",")

    def fields(self, file: str, place: int) -> dict[str, str]:
        return dict(zip(self.columns(file), next(csv.reader([self.files[file][place].raw.decode()])), strict=True))

    def spoil(self, file: str, column: str, value: str | Callable[[str], str], reason: str = "", n: int = 3) -> list[int]:
        "Put a value into a column of some rows."
        places = self.pick(file, n)
        for place in places:
            row = self.fields(file, place)
            row[column] = value(row[column]) if callable(value) else value
            self.files[file][place] = Line(joined(list(row.values())), reason)
        return places

    def alter(self, file: str, change: Callable[[bytes], bytes], reason: str = "", n: int = 3) -> None:
        "Change the bytes of some rows."
        for place in self.pick(file, n):
            self.files[file][place] = Line(change(self.files[file][place].raw), reason)

    def write(self) -> None:
        for file, lines in self.files.items():
            end = self.ends.get(file, b"\n")
            (self.folder / file).write_bytes(b"".join(line.raw + (b"" if line.raw.endswith(NO_END) else end) for line in lines).replace(NO_END, b""))

    def sources(self) -> dict[str, Path]:
        if self.name == "table":
            return {"events": self.folder / TABLE, "items": self.folder / ITEMS}
        return {f"{self.name}_raw": self.folder}


NO_END = b"<no line end>"


def joined(values: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue().encode()


class Mutation(NamedTuple):
    "One way in which raw files are dirty."

    fault: int
    shop: str
    name: str
    spoil: Callable[[Dirty], None]
    quick: bool = True  # one of a kind: run by every test run, the others by the long one

    @property
    def title(self) -> str:
        return f"{self.fault:02d} {self.shop}: {self.name.replace('_', ' ')}"


MUTATIONS: list[Mutation] = []


def mutation(fault: int, *shops: str):
    "Register a function as a mutation of these shops."

    def register(spoil: Callable[[Dirty], None]):
        MUTATIONS.extend(Mutation(fault, shop, spoil.__name__, spoil, nth < 2) for nth, shop in enumerate(shops))
        return spoil

    return register


def values(fault: int, shop: str, file: str, column: str, cases: dict[str, tuple[object, str]]) -> None:
    "Register a mutation for each value put into a column: name -> (value, reason)."
    for nth, (name, (value, reason)) in enumerate(cases.items()):
        MUTATIONS.append(Mutation(fault, shop, f"{column}_{name}", lambda d, v=value, r=reason: d.spoil(file, column, v, r), nth < 1))


# What must come out


class Outcome(NamedTuple):
    "What became of a mutated shop."

    mutation: Mutation
    wrong: list[str]  # how it differs from what must be; empty = exact
    refused: bool
    traceback: bool  # something else than our own errors was raised


def expected_files(dirty: Dirty) -> Iterator[tuple[str, dict[str, int], list[tuple[int, str]]]]:
    "(file, rows kept merged, rejected lines with their reason) of each file, by counting its lines."
    for file, lines in dirty.files.items():
        number, bad, good = 1 + lines[0].raw.count(b"\n"), [], []
        n_columns = len(next(csv.reader([lines[0].raw.decode("utf-8-sig")])))
        for line in lines[1:]:
            number += 1
            if line.reason:
                bad.append((number, line.reason))
            elif line.raw.strip():
                row = next(csv.reader(io.StringIO(line.raw.decode().rstrip("\r"))))[:n_columns]
                header = next(csv.reader([lines[0].raw.decode("utf-8-sig").rstrip("\r")]))
                good.append(line.key or (row[header.index(KEYS[file])] if file in KEYS else tuple(row)))
            number += line.raw.count(b"\n")
        kept = len(good) if file in REPEATED else len(set(good))
        yield file, {"rows": len(good) + len(bad), "kept": kept, "merged": len(good) - kept}, bad


def try_out(mutation: Mutation, base: Path, folder: Path, seed: int = 7) -> Outcome:
    "Spoil a copy of the shop, take it in, and compare the accounting with what must be."
    shutil.copytree(base / f"{mutation.shop}_raw", folder / "raw", ignore=None if mutation.fault == 18 else shutil.ignore_patterns("images"))
    dirty = Dirty(mutation.shop, folder / "raw", random.Random(f"{seed} {mutation.title}")).load()
    mutation.spoil(dirty)
    dirty.write()
    (out := folder / "out").mkdir()
    try:
        with open_engine("duckdb", out) as engine:
            accounting, _ = ingest_all([mutation.shop], dirty.sources(), out, engine)
    except RecsysError as problem:
        wrong = [] if dirty.refused and dirty.refused in str(problem) else [f"refused: {problem}"]
        return Outcome(mutation, wrong, True, False)
    except Exception as problem:  # what a user must never see: that is what is tested here
        return Outcome(mutation, [f"{type(problem).__name__}: {problem}"], False, True)
    if dirty.refused:
        return Outcome(mutation, [f"was accepted, but should be refused: {dirty.refused}"], False, False)
    return Outcome(mutation, list(differences(dirty, accounting[mutation.shop], out)), False, False)


def differences(dirty: Dirty, account: dict, out: Path) -> Iterator[str]:
    "How the accounting and the rejects differ from what must be."
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    for file, counts, bad in expected_files(dirty):
        if file not in account["files"]:
            if (dirty.folder / file).exists():
                yield f"{file} is not accounted for"
            continue
        got = account["files"][file]
        if (have := {key: got[key] for key in counts}) != counts:
            yield f"{file}: {have} should be {counts}"
        if got["rows"] != got["kept"] + got["merged"] + sum(got["rejected"].values()):
            yield f"{file}: {got} does not add up"
        listed = sorted((row["line"] or 0, row["reason"]) for row in rejects if row["file"] == file)
        if [line for line, _ in listed] != [line for line, _ in bad] or any(mine not in theirs for (_, mine), (_, theirs) in zip(bad, listed, strict=False)):
            yield f"{file}: rejected {listed[:4]} should be {bad[:4]}"
        if Counter(row["reason"] for row in rejects if row["file"] == file) != Counter(got["rejected"]):
            yield f"{file}: the rejects table and the counts differ"
    if not all(row["raw"] for row in rejects):
        yield "a reject without its text"
    yield from (f"not said: {text}; but {account['notes']}" for text in dirty.notes if not any(text in note for note in account["notes"]))
    yield from (f"{key}: {account[key]} should be {value}" for key, value in dirty.account.items() if account[key] != value)
    if pq.read_metadata(out / f"events_{dirty.name}.parquet").num_rows != account["files"][EVENTS_OF[dirty.name]]["kept"]:
        yield "events.parquet has other rows than were kept"
    if dirty.look:
        dirty.look(out)


# The mutations

ZERO_LOST = lambda text: text.lstrip("0") if text.startswith("0") else text[1:]
values(1, "hm", SALES, "article_id", {"lost_zeros": (ZERO_LOST, AS_TEXT), "as_float": (lambda text: f"{int(text)}.0", AS_TEXT)})
values(1, "hm", ARTICLES, "article_id", {"lost_zeros_in_the_catalogue": (ZERO_LOST, AS_TEXT)})
values(1, "hm", SALES, "customer_id", {"as_float": ("1.2345E+76", NOT_A_CUSTOMER), "cut": (lambda text: text[:40], NOT_A_CUSTOMER)})
values(1, "rr", CLICKS, "itemid", {"as_float": (lambda text: text + ".0", ITEM), "too_large": ("3000000", ITEM), "with_zeros": (lambda t: "0" + t, ITEM)})
values(1, "rr", CLICKS, "visitorid", {"as_text": ("abc", VISITOR), "exponent": ("1.3E+06", VISITOR), "negative": ("-4", VISITOR), "empty": ("", VISITOR)})


@mutation(1, "hm")
def every_zero_lost(d: Dirty) -> None:
    d.refused = "article_id should be ten digits"
    for line in d.files[SALES][1:]:
        line.raw = line.raw.replace(b",0", b",", 1)


@mutation(1, "table")
def every_item_id_as_float(d: Dirty) -> None:
    for place in range(1, len(d.files[TABLE])):
        row = d.fields(TABLE, place)
        d.files[TABLE][place] = Line(joined([row["user_id"], row["item_id"] + ".0", *list(row.values())[2:]]))
    d.account = {"items": len(d.files[ITEMS]) - 1, "items_unlisted": {"ids": 0, "events": 0}}


def _cut(file: str) -> Callable[[Dirty], None]:
    def last_line_cut(d: Dirty) -> None:
        last = d.files[file][-1].raw
        d.files[file][-1] = Line(b",".join(last.split(b",")[:1]) + NO_END, TORN)

    return last_line_cut


def each_file(fault: int, name: str, make: Callable[[str], Callable[[Dirty], None]]) -> None:
    "Register a mutation for each file of each shop; those of the two shops' events are quick."
    MUTATIONS.extend(Mutation(fault, shop, f"{name}_{file[:-4]}", make(file), file in (SALES, CLICKS)) for shop, files in FILES.items() for file in files)


each_file(2, "last_line_cut_of", _cut)


@mutation(2, "rr")
def last_line_without_its_end_is_whole(d: Dirty) -> None:
    d.files[CLICKS][-1].raw += NO_END


def _open(file: str) -> Callable[[Dirty], None]:
    return lambda d: d.alter(file, lambda raw: b'"' + raw, OPEN_QUOTE, n=1)


each_file(3, "open_quote_in", _open)


@mutation(3, "hm", "rr", "table")
def many_open_quotes(d: Dirty) -> None:
    d.alter(EVENTS_OF[d.name], lambda raw: b'"' + raw, OPEN_QUOTE, n=7)


@mutation(3, "rr")
def open_quotes_in_neighbours(d: Dirty) -> None:
    for place in (50, 51, 53):
        d.files[PART1][place] = Line(d.files[PART1][place].raw.replace(b",", b',"', 1), OPEN_QUOTE)


@mutation(3, "table")
def a_text_of_two_lines_is_one_row(d: Dirty) -> None:
    d.files[ITEMS][3] = Line(b'"' + d.fields(ITEMS, 3)["item_id"].encode() + b'",Mug,"a mug\nof two lines, and ""quotes"""')
    d.files[ITEMS][5].raw += b',"'  # a quote that opens behind it
    d.files[ITEMS][5].reason = OPEN_QUOTE


@mutation(4, "hm", "rr", "table")
def too_few_fields(d: Dirty) -> None:
    d.alter(EVENTS_OF[d.name], lambda raw: raw.rsplit(b",", 2)[0], TORN)


@mutation(4, "hm", "rr", "table")
def too_many_fields(d: Dirty) -> None:
    d.alter(EVENTS_OF[d.name], lambda raw: raw + b",1,2", TORN)


@mutation(4, "hm", "rr")
def empty_fields_behind_the_last_do_no_harm(d: Dirty) -> None:
    d.alter(EVENTS_OF[d.name], lambda raw: raw + b",,")


@mutation(4, "rr")
def too_few_and_too_many_in_properties_and_tree(d: Dirty) -> None:
    d.alter(PART2, lambda raw: raw.rsplit(b",", 1)[0], TORN)
    d.alter(TREE, lambda raw: raw + b",9", TORN, n=1)


values(5, "hm", SALES, "price", {"empty": ("", ""), "text": ("cheap", PRICE), "negative": ("-0.5", PRICE), "nan": ("NaN", PRICE), "inf": ("inf", PRICE),
                                 "comma": ("0,5", PRICE), "huge": ("1e999", PRICE), "exponent": ("2e-2", "")})  # fmt: skip
values(5, "table", TABLE, "price", {"negative": ("-3", PRICE), "text": ("free", PRICE), "nan": ("nan", PRICE), "comma": ("1,5", PRICE)})


@mutation(5, "hm")
def price_with_a_comma_unquoted(d: Dirty) -> None:
    d.alter(SALES, lambda raw: raw.replace(b",0.", b",0,", 1), TORN)


NO_DAYS = {"day_first": "22/09/2020", "one_digit": "2020-9-1", "no_dashes": "20200922", "february_30": "2020-02-30", "year_one": "0001-01-01",
           "empty": "", "infinity": "infinity", "time_too": "2020-09-22 10:00"}  # fmt: skip
values(6, "hm", SALES, "t_dat", {name: (text, DAY) for name, text in NO_DAYS.items()})
values(6, "hm", SALES, "t_dat", {"in_the_future": ("2099-01-01", FUTURE)})
values(6, "rr", CLICKS, "timestamp", {"seconds": (lambda text: text[:-3], NOT_MS), "microseconds": (lambda text: text + "000", NOT_MS),
                                      "iso": ("2015-05-03T03:07:00Z", NOT_MS), "empty": ("", NOT_MS), "future": ("4070908800000", FUTURE)})  # fmt: skip
values(6, "rr", PART1, "timestamp", {"of_properties_in_seconds": (lambda text: text[:-3], NOT_MS), "of_properties_in_the_future": ("4070908800000", FUTURE)})
values(6, "table", TABLE, "timestamp", {"ms_for_s": (lambda text: text + "000", POSSIBLE), "word": ("soon", POSSIBLE), "infinite": ("1e400", POSSIBLE),
                                        "nan": ("nan", POSSIBLE), "future": ("4070908800", FUTURE)})  # fmt: skip


@mutation(6, "rr")
def every_time_in_seconds(d: Dirty) -> None:
    d.refused = "milliseconds"
    for line in d.files[CLICKS][1:]:
        line.raw = line.raw[:10] + line.raw[13:]


@mutation(6, "table")
def clocks_set_back_in_autumn(d: Dirty) -> None:
    """02:30 comes twice on that night: with their offsets, the two are an hour apart, and a moment written in two ways is one."""
    texts = ["2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00", "2020-10-25T00:30:00Z"]
    moments = [0, 1, 0]
    d.files[TABLE][1:] = [Line(f"v1,7,{text},view,1.5,1".encode(), key=moment + 1) for text, moment in zip(texts, moments, strict=True)]


def _bytes_into(where: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw.replace(b",", where + b",", 1)


each_file(7, "nul_in", lambda file: lambda d: d.alter(file, _bytes_into(b"\0"), NUL, n=2))
each_file(7, "latin_1_in", lambda file: lambda d: d.alter(file, _bytes_into(b"caf\xe9"), NOT_UTF8, n=2))
MUTATIONS += [Mutation(7, shop, "carriage_return_inside", lambda d: d.alter(EVENTS_OF[d.name], _bytes_into(b"\r"), RETURN)) for shop in FILES]
MUTATIONS += [
    Mutation(7, "hm", "zero_width_in_article_id", lambda d: d.spoil(SALES, "article_id", lambda text: text + "\u200b", AS_TEXT)),
    Mutation(7, "hm", "zero_width_in_customer_id", lambda d: d.spoil(SALES, "customer_id", lambda text: text + "\u200b", NOT_A_CUSTOMER)),
    Mutation(7, "rr", "zero_width_in_visitorid", lambda d: d.spoil(CLICKS, "visitorid", lambda text: "\ufeff" + text, VISITOR)),
    Mutation(7, "table", "zero_width_in_user_id", lambda d: d.spoil(TABLE, "user_id", lambda text: text + "\u200b", NOTHING_SEEN)),
    Mutation(7, "table", "zero_width_in_item_id", lambda d: d.spoil(TABLE, "item_id", lambda text: text + "\u2060", NOTHING_SEEN)),
]


@mutation(7, "hm", "rr", "table")
def byte_order_mark(d: Dirty) -> None:
    for file, lines in d.files.items():
        lines[0].raw = b"\xef\xbb\xbf" + lines[0].raw
        d.notes.append(f"{file} begins with a byte order mark")


@mutation(7, "hm", "rr", "table")
def crlf_everywhere(d: Dirty) -> None:
    d.ends = dict.fromkeys(d.files, b"\r\n")
    d.notes = [f"{file} lines end in CRLF" for file in d.files]


@mutation(7, "hm", "rr", "table")
def crlf_in_some_lines(d: Dirty) -> None:
    for file in d.files:
        d.alter(file, lambda raw: raw + b"\r", n=5)
        d.notes.append(f"{file} holds carriage returns and line feeds, mixed")


@mutation(7, "hm", "rr", "table")
def utf_16(d: Dirty) -> None:
    d.refused = "UTF-16"
    file = EVENTS_OF[d.name]
    d.files[file] = [Line(b"\n".join(line.raw for line in d.files[file]).decode().encode("utf-16"))]


@mutation(7, "rr")
def nul_in_the_header(d: Dirty) -> None:
    d.refused = "events.csv should be a csv in UTF-8"
    d.files[CLICKS][0].raw = d.files[CLICKS][0].raw.replace(b"event", b"ev\0nt")


def _missing(file: str) -> Callable[[Dirty], None]:
    def spoil(d: Dirty) -> None:
        d.refused = file
        (d.folder / file).unlink()
        del d.files[file]

    return spoil


MUTATIONS += [Mutation(8, shop, f"{file[:-4]}_missing", _missing(file)) for shop, file in (("hm", SALES), ("hm", ARTICLES), ("hm", CUSTOMERS), ("rr", CLICKS))]
MUTATIONS += [Mutation(8, "table", "items_missing", _missing(ITEMS))]


def _lines(file: str, change: Callable[[list[Line]], list[Line]], refused: str) -> Callable[[Dirty], None]:
    def spoil(d: Dirty) -> None:
        d.refused = refused
        d.files[file] = change(d.files[file])

    return spoil


each_file(8, "emptied", lambda file: _lines(file, lambda lines: [], file))
each_file(8, "header_only", lambda file: _lines(file, lambda lines: lines[:1], file))


@mutation(8, "hm", "rr", "table")
def another_file_in_its_place(d: Dirty) -> None:
    first, second = FILES[d.name][:2]
    d.refused = f"{first} needs the column"
    d.files[first] = d.files[second]


@mutation(8, "hm", "rr", "table")
def a_column_renamed(d: Dirty) -> None:
    file = EVENTS_OF[d.name]
    column = d.columns(file)[1]
    d.refused = column
    d.files[file][0].raw = d.files[file][0].raw.replace(column.encode(), b"other")


@mutation(8, "hm", "rr", "table")
def a_column_twice(d: Dirty) -> None:
    file = EVENTS_OF[d.name]
    first, second = d.columns(file)[:2]
    d.refused = "name each column once"
    d.files[file][0].raw = d.files[file][0].raw.replace(second.encode(), first.encode())


@mutation(8, "hm", "rr", "table")
def columns_in_another_order(d: Dirty) -> None:
    for file in d.files:
        d.files[file] = [Line(joined(next(csv.reader([line.raw.decode()]))[::-1])) for line in d.files[file]]


@mutation(8, "hm", "rr", "table")
def empty_lines_are_no_rows(d: Dirty) -> None:
    for file in d.files:
        for place in d.pick(file):
            d.files[file].insert(place, Line(b""))
        d.spoil(file, d.columns(file)[0], "?", {"hm": "should be", "rr": "should be", "table": ""}[d.name], n=1)


@mutation(9, "rr")
def one_property_file_missing(d: Dirty) -> None:
    d.notes = [f"only {PART1} is there"]
    (d.folder / PART2).unlink()
    del d.files[PART2]


@mutation(9, "rr")
def the_same_property_file_twice(d: Dirty) -> None:
    d.refused = "the same file twice"
    d.files[PART2] = d.files[PART1]


@mutation(9, "rr")
def the_same_property_file_twice_shuffled(d: Dirty) -> None:
    d.refused = "the same file twice"
    head, *rest = d.files[PART1]
    d.files[PART2] = [head, *d.rng.sample(rest, len(rest))]


@mutation(9, "rr")
def no_properties_and_no_tree(d: Dirty) -> None:
    d.notes = ["no item_properties_part1.csv"]
    for file in (PART1, PART2, TREE):
        (d.folder / file).unlink()
        del d.files[file]


@mutation(10, "hm", "rr", "table")
def repeated_events(d: Dirty) -> None:
    file = EVENTS_OF[d.name]
    again = [Line(d.files[file][place].raw) for place in d.pick(file, 9)]
    d.files[file] += again + again
    counted = d.name != "rr"  # there a row logged twice is one event
    weight = lambda place: int(d.fields(file, place).get("weight", 1))
    total = sum(weight(place) for place in range(1, len(d.files[file]))) if counted else len({line.raw for line in d.files[file][1:]})

    def look(out: Path) -> None:
        assert sum(pq.read_table(out / "events.parquet")["quantity"].to_pylist()) == total

    d.look = look


@mutation(10, "hm")
def repeated_articles_and_customers(d: Dirty) -> None:
    for file in (ARTICLES, CUSTOMERS):
        d.files[file] += [Line(d.files[file][place].raw) for place in d.pick(file, 4)]


def _drop(d: Dirty, file: str, column: str, wanted: set[str]) -> None:
    d.files[file] = [d.files[file][0], *(line for n, line in enumerate(d.files[file][1:], 1) if d.fields(file, n)[column] not in wanted)]


def _unlisted(d: Dirty, column: str, listed: set[str]) -> dict[str, int]:
    "Ids of events that are in no list, and how many different events they have."
    file = EVENTS_OF[d.name]
    rows = [d.fields(file, place) for place in range(1, len(d.files[file]))]
    strangers = [tuple(row.values()) for row in rows if row[column] not in listed]
    place = d.columns(file).index(column)
    return {"ids": len({row[place] for row in strangers}), "events": len(set(strangers))}


@mutation(11, "hm")
def events_of_unlisted_articles(d: Dirty) -> None:
    _drop(d, ARTICLES, "article_id", {d.fields(SALES, place)["article_id"] for place in d.pick(SALES, 3)})
    d.account["items_unlisted"] = _unlisted(d, "article_id", {d.fields(ARTICLES, n)["article_id"] for n in range(1, len(d.files[ARTICLES]))})
    assert d.account["items_unlisted"]["ids"]


@mutation(11, "hm")
def events_of_unlisted_customers(d: Dirty) -> None:
    _drop(d, CUSTOMERS, "customer_id", {d.fields(SALES, place)["customer_id"] for place in d.pick(SALES, 3)})
    d.account["users_unlisted"] = _unlisted(d, "customer_id", {d.fields(CUSTOMERS, n)["customer_id"] for n in range(1, len(d.files[CUSTOMERS]))})
    assert d.account["users_unlisted"]["ids"]


@mutation(11, "rr")
def events_of_items_without_properties(d: Dirty) -> None:
    gone = {d.fields(CLICKS, place)["itemid"] for place in d.pick(CLICKS, 3)}
    for file in (PART1, PART2):
        _drop(d, file, "itemid", gone)
    listed = {d.fields(file, n)["itemid"] for file in (PART1, PART2) for n in range(1, len(d.files[file]))}
    d.account["items_unlisted"] = _unlisted(d, "itemid", listed)
    assert d.account["items_unlisted"]["ids"] >= len(gone)


@mutation(11, "table")
def events_of_items_that_are_not_listed(d: Dirty) -> None:
    _drop(d, ITEMS, "item_id", {d.fields(TABLE, place)["item_id"] for place in d.pick(TABLE, 3)})
    d.account["items_unlisted"] = _unlisted(d, "item_id", {d.fields(ITEMS, n)["item_id"] for n in range(1, len(d.files[ITEMS]))})


values(5, "table", TABLE, "weight", {"huge": ("1e30", "weight should be"), "zero": ("0", "weight should be"), "empty": ("", "")})
values(12, "rr", CLICKS, "event", {"unknown": ("wish", KIND), "empty": ("", KIND), "upper_case": ("VIEW", KIND)})
values(12, "table", TABLE, "event", {"unknown": ("wish", KIND), "upper_case": ("VIEW", "")})
values(13, "rr", PART1, "value", {"letter_in_a_number": ("n1x2", NUMBER), "two_points": ("55 n1.2.3", NUMBER), "no_digits": ("n.", NUMBER),
                                  "two_good_ones": ("n-1.500 n2", ""), "words": ("nine n3.000 55", "")})  # fmt: skip
values(13, "rr", PART2, "value", {"empty": ("", "property and value should not be empty")})


def _grow(name: str, rows: list[str], note: str) -> None:
    def spoil(d: Dirty) -> None:
        d.files[TREE] += [Line(row.encode()) for row in rows]
        d.notes = [note]

    MUTATIONS.append(Mutation(14, "rr", name, spoil))


_grow("cycle", ["900001,900002", "900002,900003", "900003,900001"], "3 categories lie on a cycle")
_grow("self_parent", ["900001,900001"], "1 categories lie on a cycle")
_grow("orphan", ["900001,999999"], "1 parents are not listed")
values(14, "rr", TREE, "categoryid", {"not_a_number": ("shoes", "categoryid should be a number")})


@mutation(16, "rr")
def a_visitor_that_is_a_program(d: Dirty) -> None:
    d.files[CLICKS] += [Line(f"{1_434_000_000_000 + n},999999,view,{100 + n % 7},".encode()) for n in range(300)]
    a_day = Counter((row["visitorid"], int(row["timestamp"]) // 86_400_000) for row in (d.fields(CLICKS, n) for n in range(1, len(d.files[CLICKS]))))
    d.account["bots"] = len({who for (who, _), n in a_day.items() if n > 200})


values(17, "hm", CUSTOMERS, "age", {name: (text, "") for name, text in
                                    {"zero": "0", "150": "150", "empty": "", "text": "old", "nan": "nan", "huge": "1e30", "minus": "-5"}.items()})  # fmt: skip
values(17, "hm", CUSTOMERS, "fashion_news_frequency", {"NONE": ("NONE", ""), "None": ("None", "")})
values(17, "hm", CUSTOMERS, "club_member_status", {"empty": ("", "")})


def keep_first(d: Dirty, column: str) -> None:
    "Only the events of whom, or what, the first one is about."
    file = EVENTS_OF[d.name]
    only = d.fields(file, 1)[column]
    d.files[file] = [d.files[file][0], *(line for n, line in enumerate(d.files[file][1:], 1) if d.fields(file, n)[column] == only)]


@mutation(20, "rr", "table", "hm")
def one_user(d: Dirty) -> None:
    keep_first(d, {"rr": "visitorid", "hm": "customer_id", "table": "user_id"}[d.name])


@mutation(20, "rr", "table", "hm")
def one_item(d: Dirty) -> None:
    keep_first(d, {"rr": "itemid", "hm": "article_id", "table": "item_id"}[d.name])


@mutation(20, "rr", "table", "hm")
def all_rows_alike(d: Dirty) -> None:
    file = EVENTS_OF[d.name]
    d.files[file] = [d.files[file][0], *(Line(d.files[file][1].raw) for _ in range(50))]


@mutation(20, "rr")
def a_user_of_ten_thousand_items(d: Dirty) -> None:
    d.files[CLICKS] += [Line(f"{1_434_000_000_000 + n * 60_000},888888,view,{n},".encode()) for n in range(10_000)]


@mutation(20, "hm", "rr", "table")
def shuffled_lines(d: Dirty) -> None:
    for file, (head, *rest) in d.files.items():
        d.files[file] = [head, *d.rng.sample(rest, len(rest))]
