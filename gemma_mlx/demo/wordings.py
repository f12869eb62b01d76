"""How the rows of families.py are asked for and answered. The questions stand in wordings.txt, under their family's name."""

from __future__ import annotations

from pathlib import Path

from gemma_mlx.demo import families as table
from gemma_mlx.demo.families import Family


def read_wordings(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads "# name", then one wording per line; in them {0}, {1}, ... are a row's fields."""
    sections = path.read_text(encoding="utf-8").strip().split("\n\n")
    return {
        head.removeprefix("# "): tuple(wordings) for head, *wordings in (section.splitlines() for section in sections)
    }


ASK = read_wordings(Path(__file__).parent / "wordings.txt")
AND = ("And {0}?", "And what about {0}?", "What about {0}?", "How about {0}?")
OF = (*AND, "And of {0}?", "And for {0}?")


def article(noun: str) -> str:
    """Puts "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def with_article(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """Adds to each row its first field with an article."""
    return tuple((*pair, article(pair[0])) for pair in pairs)


def neighbours(names: tuple[str, ...], *, ring: bool) -> tuple[tuple[str, ...], ...]:
    """(name, its successor) for each name that has one."""
    return tuple(
        (name, names[(index + 1) % len(names)]) for index, name in enumerate(names) if ring or index + 1 < len(names)
    )


def swapped(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """The same rows with their two fields exchanged."""
    return tuple((second, first) for first, second in pairs)


def first_of_each(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """One row for each maker, whom facts.txt does not introduce already."""
    makers = {pair[1]: pair for pair in reversed(pairs) if pair[1] not in {"William Shakespeare", "Leonardo da Vinci"}}
    return tuple(makers.values())


FAMILIES: tuple[Family, ...] = (
    Family(
        name="capital",
        rows=table.CAPITALS,
        answer="The capital of {0} is {1}.",
        short="{1}",
        follow=OF,
        weight=1.6,
        ask=ASK["capital"],
    ),
    Family(
        name="city",
        rows=table.CITIES,
        answer="{0} is in {1}.",
        short="{1}",
        follow=(*AND, "And where is {0}?"),
        ask=ASK["city"],
    ),
    Family(
        name="capital of which",
        rows=tuple(row for row in table.CAPITALS if row[0] not in {"England", "the USA"}),
        answer="{1} is the capital of {0}.",
        short="{0}",
        ask=ASK["capital of which"],
    ),
    Family(
        name="continent",
        rows=table.CONTINENTS,
        answer="{0} is in {1}.",
        short="{1}",
        follow=AND,
        ask=ASK["continent"],
    ),
    Family(
        name="country",
        rows=tuple(
            (*row, capital) for row in table.CONTINENTS for country, capital in table.CAPITALS if country == row[0]
        ),
        answer="{0} is a country in {1}. Its capital is {2}.",
        follow=AND,
        ask=ASK["country"],
    ),
    Family(
        name="language",
        rows=table.LANGUAGES,
        answer="People in {0} speak {1}.",
        short="{1}",
        follow=(*AND, "And in {0}?"),
        ask=ASK["language"],
    ),
    Family(
        name="money",
        rows=table.MONEY,
        answer="The money of {0} is the {1}.",
        short="{1}",
        follow=(*AND, "And in {0}?"),
        ask=ASK["money"],
    ),
    Family(
        name="opposite",
        rows=table.OPPOSITES,
        answer='The opposite of "{0}" is "{1}".',
        short="{1}",
        follow=OF,
        ask=ASK["opposite"],
    ),
    Family(
        name="sound",
        rows=table.SOUNDS,
        answer="{0} {1}.",
        short="{1}",
        follow=(*AND, "And what does {0} do?"),
        ask=ASK["sound"],
    ),
    Family(
        name="young",
        rows=with_article(table.BABIES),
        answer="A young {0} is called a {1}.",
        short="{1}",
        follow=("And {2}?", "And a young {0}?", "What about {2}?", "And the young of {2}?"),
        ask=ASK["young"],
    ),
    Family(
        name="kind",
        rows=with_article(
            tuple((row[0], row[1], article(row[1]) if row[1] != "fish" else "a fish") for row in table.KINDS)
        ),
        answer="{3} is {2}.",
        short="{1}",
        follow=("And {3}?", "What about {3}?", "How about {3}?"),
        ask=ASK["kind"],
    ),
    Family(
        name="legs",
        rows=with_article(table.LEGS),
        answer="{2} has {1} legs.",
        short="{1}",
        follow=("And {2}?", "What about {2}?", "How about {2}?"),
        ask=ASK["legs"],
    ),
    Family(
        name="diet",
        rows=table.FOOD,
        answer="{0} eat {1}.",
        follow=AND,
        ask=ASK["diet"],
    ),
    Family(
        name="colour",
        rows=table.COLOURS,
        answer="{0} is {1}.",
        short="{1}",
        follow=AND,
        weight=1.3,
        ask=ASK["colour"],
    ),
    Family(
        name="mix",
        rows=table.MIXES,
        answer="{0} and {1} make {2}.",
        short="{2}",
        follow=("And {0} and {1}?", "And {0} with {1}?"),
        weight=2,
        ask=ASK["mix"],
    ),
    Family(
        name="planet place",
        rows=table.PLANETS,
        answer="{0} is the {1} planet from the Sun.",
        short="{0}",
        weight=3,
        ask=ASK["planet place"],
    ),
    Family(
        name="planet",
        rows=table.PLANETS,
        answer="Yes, {0} is a planet.",
        short="Yes",
        weight=1,
        ask=ASK["planet"],
    ),
    Family(
        name="day after",
        rows=neighbours(table.DAYS, ring=True),
        answer="{1} comes after {0}.",
        short="{1}",
        weight=2,
        follow=("And after {0}?", "And which comes after {0}?"),
        ask=ASK["day after"],
    ),
    Family(
        name="day before",
        rows=neighbours(table.DAYS, ring=True),
        answer="{0} comes before {1}.",
        short="{0}",
        weight=2,
        follow=("And before {1}?", "And which comes before {1}?"),
        ask=ASK["day before"],
    ),
    Family(
        name="month after",
        rows=neighbours(table.MONTHS, ring=True),
        answer="{1} comes after {0}.",
        short="{1}",
        weight=1.5,
        follow=("And after {0}?", "And which comes after {0}?"),
        ask=ASK["month after"],
    ),
    Family(
        name="month before",
        rows=neighbours(table.MONTHS, ring=True),
        answer="{0} comes before {1}.",
        short="{0}",
        weight=1.5,
        follow=("And before {1}?", "And which comes before {1}?"),
        ask=ASK["month before"],
    ),
    Family(
        name="month days",
        rows=tuple(zip(table.MONTHS, table.MONTH_DAYS, strict=True)),
        answer="{0} has {1} days.",
        short="{1}",
        follow=AND,
        weight=1.5,
        ask=ASK["month days"],
    ),
    Family(
        name="month place",
        rows=tuple(zip(table.MONTHS, table.ORDER, strict=True)),
        answer="{0} is the {1} month of the year.",
        short="{0}",
        weight=1.5,
        ask=ASK["month place"],
    ),
    Family(
        name="letter after",
        rows=neighbours(tuple(table.LETTERS), ring=False),
        answer="{1} comes after {0}.",
        short="{1}",
        follow=("And after {0}?", "And what comes after {0}?"),
        ask=ASK["letter after"],
    ),
    Family(
        name="letter before",
        rows=neighbours(tuple(table.LETTERS), ring=False),
        answer="{0} comes before {1}.",
        short="{0}",
        follow=("And before {1}?", "And what comes before {1}?"),
        ask=ASK["letter before"],
    ),
    Family(
        name="how many",
        rows=table.UNITS,
        answer="There are {2} {0} in {1}.",
        short="{2}",
        follow=("And how many {0} in {1}?", "And {0} in {1}?"),
        weight=1.5,
        ask=ASK["how many"],
    ),
    Family(
        name="sides",
        rows=with_article(table.SHAPES),
        answer="{2} has {1} sides.",
        short="{1}",
        follow=("And {2}?", "What about {2}?"),
        weight=1.5,
        ask=ASK["sides"],
    ),
    Family(
        name="symbol",
        rows=table.SYMBOLS,
        answer="The chemical symbol of {0} is {1}.",
        short="{1}",
        follow=OF,
        ask=ASK["symbol"],
    ),
    Family(
        name="plural",
        rows=table.PLURALS,
        answer='The plural of "{0}" is "{1}".',
        short="{1}",
        follow=OF,
        ask=ASK["plural"],
    ),
    Family(
        name="past",
        rows=table.PASTS,
        answer='The past tense of "{0}" is "{1}".',
        short="{1}",
        follow=OF,
        ask=ASK["past"],
    ),
    Family(
        name="hello",
        rows=table.HELLOS,
        answer='"Hello" in {0} is "{1}".',
        short="{1}",
        follow=("And in {0}?", "And {0}?", "What about {0}?"),
        ask=ASK["hello"],
    ),
    Family(
        name="thank you",
        rows=table.THANKS,
        answer='"Thank you" in {0} is "{1}".',
        short="{1}",
        follow=("And in {0}?", "And {0}?", "What about {0}?"),
        ask=ASK["thank you"],
    ),
    Family(
        name="writer",
        rows=table.WRITERS,
        answer="{1} wrote {0}.",
        short="{1}",
        follow=(*AND, "And who wrote {0}?"),
        ask=ASK["writer"],
    ),
    Family(
        name="painter",
        rows=table.PAINTERS,
        answer="{1} painted {0}.",
        short="{1}",
        follow=(*AND, "And who painted {0}?"),
        ask=ASK["painter"],
    ),
    Family(
        name="inventor",
        rows=table.INVENTORS,
        answer="{1} is known for inventing {0}.",
        short="{1}",
        follow=(*AND, "And who invented {0}?"),
        ask=ASK["inventor"],
    ),
    Family(
        name="author",
        rows=swapped(first_of_each(table.WRITERS)),
        answer="{0} wrote {1}.",
        follow=("And {0}?", "And who was {0}?"),
        ask=ASK["author"],
    ),
    Family(
        name="artist",
        rows=swapped(first_of_each(table.PAINTERS)),
        answer="{0} painted {1}.",
        follow=("And {0}?", "And who was {0}?"),
        ask=ASK["artist"],
    ),
    Family(
        name="invention",
        rows=swapped(first_of_each(table.INVENTORS)),
        answer="{0} is known for inventing {1}.",
        follow=("And {0}?", "And who was {0}?"),
        ask=ASK["invention"],
    ),
    Family(
        name="job",
        rows=with_article(table.JOBS),
        answer="{2} {1}.",
        follow=("And {2}?", "What about {2}?", "And what does {2} do?"),
        ask=ASK["job"],
    ),
    Family(
        name="synonym",
        rows=table.SYNONYMS,
        answer='Another word for "{0}" is "{1}".',
        short="{1}",
        follow=OF,
        ask=ASK["synonym"],
    ),
    Family(
        name="definition",
        rows=table.DEFINITIONS,
        answer="{0} is {1}.",
        follow=(*AND, "And what is {0}?"),
        weight=1.2,
        ask=ASK["definition"],
    ),
)
