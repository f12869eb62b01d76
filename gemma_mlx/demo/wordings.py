"""The wordings of each family: how the rows of families.py are asked for and answered."""

from __future__ import annotations

from gemma_mlx.demo import families as table
from gemma_mlx.demo.families import Family, lines

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
    return tuple((name, names[(index + 1) % len(names)]) for index, name in enumerate(names) if ring or index + 1 < len(names))


def swapped(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """The same rows with their two fields exchanged."""
    return tuple((second, first) for first, second in pairs)


def first_of_each(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """One row for each maker, whom facts.txt does not introduce already."""
    makers = {pair[1]: pair for pair in reversed(pairs) if pair[1] not in {"William Shakespeare", "Leonardo da Vinci"}}
    return tuple(makers.values())


FAMILIES: tuple[Family, ...] = (
    Family(
        name="capital", rows=table.CAPITALS, answer="The capital of {0} is {1}.", short="{1}", follow=OF, weight=1.6,
        ask=lines("""
            What is the capital of {0}?
            What's the capital of {0}?
            Which city is the capital of {0}?
            Tell me the capital of {0}.
            Can you tell me the capital of {0}?
            Do you know the capital of {0}?
            Name the capital of {0}.
            What is {0}'s capital?
            What is the capital city of {0}?
            {0}: what is the capital?
            Capital of {0}?
            The capital of {0} is what?
            I want to know the capital of {0}.
            Please tell me what the capital of {0} is.
            Do you know what the capital of {0} is?
            What is the name of the capital of {0}?
            I forgot the capital of {0}. What is it?
            What city is the capital of {0}?
        """),
    ),
    Family(
        name="city", rows=table.CITIES, answer="{0} is in {1}.", short="{1}", follow=(*AND, "And where is {0}?"),
        ask=lines("""
            Where is {0}?
            Where's {0}?
            In which country is {0}?
            Which country is {0} in?
            What country is {0} in?
            In what country does {0} lie?
            Tell me where {0} is.
            Do you know where {0} is?
            Can you tell me which country {0} is in?
        """),
    ),
    Family(
        name="capital of which", rows=tuple(row for row in table.CAPITALS if row[0] not in {"England", "the USA"}),
        answer="{1} is the capital of {0}.", short="{0}",
        ask=lines("""
            {1} is the capital of which country?
            Which country has {1} as its capital?
            Of which country is {1} the capital?
            {1} is the capital of what country?
            What country has the capital {1}?
            What is {1}?
            Tell me about {1}.
            What do you know about {1}?
            What country is {1} the capital of?
        """),
    ),
    Family(
        name="continent", rows=table.CONTINENTS, answer="{0} is in {1}.", short="{1}", follow=AND,
        ask=lines("""
            On which continent is {0}?
            Which continent is {0} in?
            What continent is {0} on?
            In which continent is {0}?
            On what continent does {0} lie?
            Tell me the continent of {0}.
            Do you know which continent {0} is on?
            Where is {0}?
            Where's {0}?
            Tell me where {0} is.
            In what part of the world is {0}?
                    """),
    ),
    Family(
        name="country", rows=tuple((*row, capital) for row in table.CONTINENTS for country, capital in table.CAPITALS if country == row[0]),
        answer="{0} is a country in {1}. Its capital is {2}.", follow=AND,
        ask=lines("""
            What is {0}?
            Tell me about {0}.
            What do you know about {0}?
            Describe {0}.
            Tell me something about {0}.
            What kind of country is {0}?
            Do you know {0}?
            What can you tell me about {0}?
        """),
    ),
    Family(
        name="language", rows=table.LANGUAGES, answer="People in {0} speak {1}.", short="{1}", follow=(*AND, "And in {0}?"),
        ask=lines("""
            What language do people speak in {0}?
            Which language is spoken in {0}?
            What language is spoken in {0}?
            What do they speak in {0}?
            What is the language of {0}?
            Which language do they speak in {0}?
            Tell me the language of {0}.
            Do you know what language people speak in {0}?
        """),
    ),
    Family(
        name="money", rows=table.MONEY, answer="The money of {0} is the {1}.", short="{1}", follow=(*AND, "And in {0}?"),
        ask=lines("""
            What is the currency of {0}?
            What money do they use in {0}?
            Which currency does {0} use?
            What currency is used in {0}?
            What do people pay with in {0}?
            Tell me the currency of {0}.
            What is the money of {0} called?
        """),
    ),
    Family(
        name="opposite", rows=table.OPPOSITES, answer='The opposite of "{0}" is "{1}".', short="{1}", follow=OF,
        ask=lines("""
            What is the opposite of {0}?
            What's the opposite of {0}?
            What is the opposite of "{0}"?
            Tell me the opposite of {0}.
            Opposite of {0}?
            Give me the opposite of {0}.
            What word is the opposite of {0}?
            Which word means the opposite of {0}?
            What is the contrary of {0}?
            Do you know the opposite of {0}?
            The opposite of {0} is what?
            Can you give me the opposite of "{0}"?
        """),
    ),
    Family(
        name="sound", rows=table.SOUNDS, answer="{0} {1}.", short="{1}", follow=(*AND, "And what does {0} do?"),
        ask=lines("""
            What sound does {0} make?
            Which sound does {0} make?
            What noise does {0} make?
            What does {0} say?
            How does {0} sound?
            Tell me what sound {0} makes.
            Do you know what noise {0} makes?
        """),
    ),
    Family(
        name="young", rows=with_article(table.BABIES), answer="A young {0} is called a {1}.", short="{1}",
        follow=("And {2}?", "And a young {0}?", "What about {2}?", "And the young of {2}?"),
        ask=lines("""
            What is a baby {0} called?
            What do you call a baby {0}?
            What do you call a young {0}?
            What is a young {0} called?
            What is the young of {2} called?
            What is the name for a baby {0}?
            Tell me what a young {0} is called.
            How is a baby {0} called?
        """),
    ),
    Family(
        name="kind", rows=with_article(tuple((row[0], row[1], article(row[1]) if row[1] != "fish" else "a fish") for row in table.KINDS)),
        answer="{3} is {2}.", short="{1}", follow=("And {3}?", "What about {3}?", "How about {3}?"),
        ask=lines("""
            What kind of animal is {3}?
            What sort of animal is {3}?
            What type of animal is {3}?
            What is {3}?
            Which kind of animal is {3}?
            Is {3} {2}?
            Tell me what kind of animal {3} is.
            Tell me about {3}.
            What do you know about {3}?
            What animal class is {3}?
        """),
    ),
    Family(
        name="legs", rows=with_article(table.LEGS), answer="{2} has {1} legs.", short="{1}", follow=("And {2}?", "What about {2}?", "How about {2}?"),
        ask=lines("""
            How many legs does {2} have?
            How many legs has {2} got?
            How many legs are there on {2}?
            What is the number of legs of {2}?
            Tell me how many legs {2} has.
            Does {2} have legs, and how many?
        """),
    ),
    Family(
        name="diet", rows=table.FOOD, answer="{0} eat {1}.", follow=AND,
        ask=lines("""
            What do {0} eat?
            What do {0} like to eat?
            What is the food of {0}?
            What do {0} feed on?
            Tell me what {0} eat.
            Do you know what {0} eat?
        """),
    ),
    Family(
        name="colour", rows=table.COLOURS, answer="{0} is {1}.", short="{1}", follow=AND, weight=1.3,
        ask=lines("""
            What colour is {0}?
            What color is {0}?
            Which colour is {0}?
            Which color does {0} have?
            What colour does {0} have?
            What is the colour of {0}?
            What is the color of {0}?
            What's the colour of {0}?
            Tell me the colour of {0}.
            Do you know what colour {0} is?
            Can you tell me what color {0} is?
        """),
    ),
    Family(
        name="mix", rows=table.MIXES, answer="{0} and {1} make {2}.", short="{2}", follow=("And {0} and {1}?", "And {0} with {1}?"), weight=2,
        ask=lines("""
            What do you get if you mix {0} and {1}?
            What colour do {0} and {1} make?
            What color do you get from {0} and {1}?
            What does {0} mixed with {1} give?
            Mix {0} and {1}. What do you get?
            Which colour comes from {0} and {1}?
        """),
    ),
    Family(
        name="planet place", rows=table.PLANETS, answer="{0} is the {1} planet from the Sun.", short="{0}", weight=3,
        ask=lines("""
            Which planet is {1} from the Sun?
            What is the {1} planet from the Sun?
            Name the {1} planet from the Sun.
            Which planet is the {1} from the Sun?
            Where is {0} in the solar system?
            Which place from the Sun does {0} have?
            What number from the Sun is {0}?
            Tell me the {1} planet.
            What is the {1} planet?
        """),
    ),
    Family(
        name="planet", rows=table.PLANETS, answer="Yes, {0} is a planet.", short="Yes", weight=1,
        ask=lines("""
            Is {0} a planet?
            Is {0} one of the planets?
            Would you say {0} is a planet?
        """),
    ),
    Family(
        name="day after", rows=neighbours(table.DAYS, ring=True), answer="{1} comes after {0}.", short="{1}", weight=2,
        follow=("And after {0}?", "And which comes after {0}?"),
        ask=lines("""
            What day comes after {0}?
            Which day comes after {0}?
            Which day follows {0}?
            What is the day after {0}?
            Today is {0}. What day is tomorrow?
            If today is {0}, what is tomorrow?
            What comes after {0}?
        """),
    ),
    Family(
        name="day before", rows=neighbours(table.DAYS, ring=True), answer="{0} comes before {1}.", short="{0}", weight=2,
        follow=("And before {1}?", "And which comes before {1}?"),
        ask=lines("""
            What day comes before {1}?
            Which day comes before {1}?
            What is the day before {1}?
            Today is {1}. What day was yesterday?
            If today is {1}, what was yesterday?
            What comes before {1}?
        """),
    ),
    Family(
        name="month after", rows=neighbours(table.MONTHS, ring=True), answer="{1} comes after {0}.", short="{1}", weight=1.5,
        follow=("And after {0}?", "And which comes after {0}?"),
        ask=lines("""
            What month comes after {0}?
            Which month comes after {0}?
            Which month follows {0}?
            What is the month after {0}?
            What comes after {0}?
        """),
    ),
    Family(
        name="month before", rows=neighbours(table.MONTHS, ring=True), answer="{0} comes before {1}.", short="{0}", weight=1.5,
        follow=("And before {1}?", "And which comes before {1}?"),
        ask=lines("""
            What month comes before {1}?
            Which month comes before {1}?
            What is the month before {1}?
            What comes before {1}?
        """),
    ),
    Family(
        name="month days", rows=tuple(zip(table.MONTHS, table.MONTH_DAYS, strict=True)), answer="{0} has {1} days.", short="{1}", follow=AND,
        weight=1.5,
        ask=lines("""
            How many days does {0} have?
            How many days are in {0}?
            How many days are there in {0}?
            How long is {0}?
            What is the number of days in {0}?
        """),
    ),
    Family(
        name="month place", rows=tuple(zip(table.MONTHS, table.ORDER, strict=True)), answer="{0} is the {1} month of the year.", short="{0}",
        weight=1.5,
        ask=lines("""
            What is the {1} month of the year?
            Which month is the {1} of the year?
            Which month is {1}?
            Name the {1} month.
            Which month of the year is {0}?
            What number month is {0}?
        """),
    ),
    Family(
        name="letter after", rows=neighbours(tuple(table.LETTERS), ring=False), answer="{1} comes after {0}.", short="{1}",
        follow=("And after {0}?", "And what comes after {0}?"),
        ask=lines("""
            Which letter comes after {0}?
            What letter comes after {0}?
            What is the letter after {0}?
            Which letter follows {0}?
            What comes after {0} in the alphabet?
            What is the next letter after {0}?
        """),
    ),
    Family(
        name="letter before", rows=neighbours(tuple(table.LETTERS), ring=False), answer="{0} comes before {1}.", short="{0}",
        follow=("And before {1}?", "And what comes before {1}?"),
        ask=lines("""
            Which letter comes before {1}?
            What letter comes before {1}?
            What is the letter before {1}?
            What comes before {1} in the alphabet?
        """),
    ),
    Family(
        name="how many", rows=table.UNITS, answer="There are {2} {0} in {1}.", short="{2}", follow=("And how many {0} in {1}?", "And {0} in {1}?"),
        weight=1.5,
        ask=lines("""
            How many {0} are in {1}?
            How many {0} are there in {1}?
            How many {0} does {1} have?
            How many {0} make {1}?
            How many {0} has {1}?
            What is the number of {0} in {1}?
            Tell me how many {0} are in {1}.
            Do you know how many {0} there are in {1}?
            {1} has how many {0}?
        """),
    ),
    Family(
        name="sides", rows=with_article(table.SHAPES), answer="{2} has {1} sides.", short="{1}", follow=("And {2}?", "What about {2}?"), weight=1.5,
        ask=lines("""
            How many sides does {2} have?
            How many sides has {2} got?
            How many sides are there in {2}?
            How many corners does {2} have?
            What is the number of sides of {2}?
            Tell me how many sides {2} has.
        """),
    ),
    Family(
        name="symbol", rows=table.SYMBOLS, answer="The chemical symbol of {0} is {1}.", short="{1}", follow=OF,
        ask=lines("""
            What is the chemical symbol of {0}?
            What is the chemical symbol for {0}?
            What is the symbol of {0}?
            Which symbol does {0} have?
            What's the symbol for {0}?
            Chemical symbol of {0}?
            Tell me the chemical symbol of {0}.
            Which element is {1}?
            What does the symbol {1} stand for?
        """),
    ),
    Family(
        name="plural", rows=table.PLURALS, answer='The plural of "{0}" is "{1}".', short="{1}", follow=OF,
        ask=lines("""
            What is the plural of {0}?
            What's the plural of {0}?
            What is the plural of "{0}"?
            Tell me the plural of {0}.
            Plural of {0}?
            What is the plural form of {0}?
            Give me the plural of {0}.
            One {0}, two what?
        """),
    ),
    Family(
        name="past", rows=table.PASTS, answer='The past tense of "{0}" is "{1}".', short="{1}", follow=OF,
        ask=lines("""
            What is the past tense of {0}?
            What's the past tense of {0}?
            What is the past tense of "{0}"?
            Tell me the past tense of {0}.
            Past tense of {0}?
            What is the past of {0}?
            Give me the past form of {0}.
            What is {0} in the past tense?
        """),
    ),
    Family(
        name="hello", rows=table.HELLOS, answer='"Hello" in {0} is "{1}".', short="{1}", follow=("And in {0}?", "And {0}?", "What about {0}?"),
        ask=lines("""
            How do you say hello in {0}?
            What is hello in {0}?
            How do I say hello in {0}?
            Say hello in {0}.
            What is the {0} word for hello?
            How do people greet in {0}?
            Translate hello into {0}.
        """),
    ),
    Family(
        name="thank you", rows=table.THANKS, answer='"Thank you" in {0} is "{1}".', short="{1}", follow=("And in {0}?", "And {0}?", "What about {0}?"),
        ask=lines("""
            How do you say thank you in {0}?
            What is thank you in {0}?
            How do I say thank you in {0}?
            Say thank you in {0}.
            What is the {0} word for thank you?
            How do you say thanks in {0}?
            Translate thank you into {0}.
        """),
    ),
    Family(
        name="writer", rows=table.WRITERS, answer="{1} wrote {0}.", short="{1}", follow=(*AND, "And who wrote {0}?"),
        ask=lines("""
            Who wrote {0}?
            Who is the author of {0}?
            Who's the author of {0}?
            By whom is {0}?
            Which writer wrote {0}?
            Tell me who wrote {0}.
            Do you know who wrote {0}?
            Who was the writer of {0}?
            {0} was written by whom?
        """),
    ),
    Family(
        name="painter", rows=table.PAINTERS, answer="{1} painted {0}.", short="{1}", follow=(*AND, "And who painted {0}?"),
        ask=lines("""
            Who painted {0}?
            Which artist painted {0}?
            Who is the painter of {0}?
            {0} was painted by whom?
            Tell me who painted {0}.
            Do you know who painted {0}?
        """),
    ),
    Family(
        name="inventor", rows=table.INVENTORS, answer="{1} is known for inventing {0}.", short="{1}", follow=(*AND, "And who invented {0}?"),
        ask=lines("""
            Who invented {0}?
            Who is the inventor of {0}?
            Who created {0}?
            Who was the inventor of {0}?
            Tell me who invented {0}.
            Do you know who invented {0}?
        """),
    ),
    Family(
        name="author", rows=swapped(first_of_each(table.WRITERS)), answer="{0} wrote {1}.", follow=("And {0}?", "And who was {0}?"),
        ask=lines("""
            Who was {0}?
            Who is {0}?
            Tell me about {0}.
            Do you know who {0} was?
            What is {0} known for?
            What is {0} famous for?
            What did {0} write?
            Which book did {0} write?
        """),
    ),
    Family(
        name="artist", rows=swapped(first_of_each(table.PAINTERS)), answer="{0} painted {1}.", follow=("And {0}?", "And who was {0}?"),
        ask=lines("""
            Who was {0}?
            Who is {0}?
            Tell me about {0}.
            Do you know who {0} was?
            What is {0} known for?
            What is {0} famous for?
            What did {0} paint?
            Which picture did {0} paint?
        """),
    ),
    Family(
        name="invention", rows=swapped(first_of_each(table.INVENTORS)), answer="{0} is known for inventing {1}.", follow=("And {0}?", "And who was {0}?"),
        ask=lines("""
            Who was {0}?
            Who is {0}?
            Tell me about {0}.
            Do you know who {0} was?
            What is {0} known for?
            What is {0} famous for?
            What did {0} invent?
            Which invention did {0} make?
        """),
    ),
    Family(
        name="job", rows=with_article(table.JOBS), answer="{2} {1}.", follow=("And {2}?", "What about {2}?", "And what does {2} do?"),
        ask=lines("""
            What does {2} do?
            What is the job of {2}?
            What is {2}?
            What work does {2} do?
            What's the work of {2}?
            Tell me what {2} does.
            Explain the job of {2}.
        """),
    ),
    Family(
        name="synonym", rows=table.SYNONYMS, answer='Another word for "{0}" is "{1}".', short="{1}", follow=OF,
        ask=lines("""
            What is another word for {0}?
            What's another word for {0}?
            Give me a synonym for {0}.
            What is a synonym of {0}?
            Which word means the same as {0}?
            Tell me another word for {0}.
            Synonym for {0}?
            What is a similar word to {0}?
        """),
    ),
    Family(
        name="definition", rows=table.DEFINITIONS, answer="{0} is {1}.", follow=(*AND, "And what is {0}?"), weight=1.2,
        ask=lines("""
            What is {0}?
            What's {0}?
            What is {0} exactly?
            Explain {0}.
            Define {0}.
            Can you explain what {0} is?
            Tell me what {0} is.
            Tell me about {0}.
            Do you know what {0} is?
            What do you know about {0}?
            I want to know what {0} is.
            Describe {0}.
        """),
    ),
)
