"""Small sums and comparisons: questions made by rule instead of from a table."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from gemma_mlx.demo.families import SIZES
from gemma_mlx.demo.wordings import article

NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty""".split()
THINGS = (
    "apples",
    "books",
    "coins",
    "eggs",
    "pens",
    "cards",
    "cakes",
    "balls",
    "euros",
    "dollars",
    "sweets",
    "oranges",
)


class Exchange(NamedTuple):
    """A question, its answer, the answer in one word ("" where there is none), and what a follow-up needs."""

    user: str
    model: str
    short: str = ""
    topic: str = ""


def draw(random: Random) -> Exchange:
    """One small sum or comparison."""
    return random.choices((_sum, _word_sum, _order, _bigger, _parity, _half, _animal), (10, 1, 2, 1.5, 1, 1, 1))[0](
        random
    )


def terms(random: Random) -> tuple[int, str, int, int]:
    """(a, sign, b, result), nothing above 20 but products and their quotients, which reach 100."""
    sign = random.choice("+++--xx/")
    if sign == "+":
        a, b = random.randint(0, 20), random.randint(0, 20)
        return a, sign, b, a + b
    if sign == "-":
        a = random.randint(0, 20)
        b = random.randint(0, a)
        return a, sign, b, a - b
    a, b = random.randint(1, 10), random.randint(1, 10)
    return (a, sign, b, a * b) if sign == "x" else (a * b, sign, b, a)


def spoken(number: int, random: Random) -> str:
    """A number in digits, or sometimes in words."""
    return NUMBERS[number] if number <= 20 and random.random() < 0.15 else str(number)


def _sum(random: Random) -> Exchange:
    a, sign, b, result = terms(random)
    x, y = spoken(a, random), spoken(b, random)
    word = {"+": "plus", "-": "minus", "x": "times", "/": "divided by"}[sign]
    symbol = random.choice("x*") if sign == "x" else sign
    forms = [
        f"What is {x} {word} {y}?", f"How much is {x} {word} {y}?", f"{x} {word} {y}", f"What's {x} {word} {y}?", f"{x} {word} {y}?",
        f"What is {a} {symbol} {b}?", f"What is {a}{symbol}{b}?", f"{a} {symbol} {b}", f"{a}{symbol}{b}", f"{a}{symbol}{b}=", f"{a} {symbol} {b} = ?",
        f"Calculate {a} {symbol} {b}.", f"How much is {a} {symbol} {b}?", f"Tell me what {x} {word} {y} is.", f"{a}{symbol}{b}?", f"{x} {word} {y} equals what?",
        f"What does {x} {word} {y} equal?", f"Please calculate {x} {word} {y}.", f"What do I get from {a} {symbol} {b}?", f"{x} {word} {y} is how much?",
        f"Can you tell me how much {x} {word} {y} is?", f"Do you know what {a} {symbol} {b} is?", f"Compute {a}{symbol}{b}.",
    ]  # fmt: skip
    forms += {
        "+": [
            f"What is the sum of {x} and {y}?",
            f"Add {x} and {y}.",
            f"What do you get if you add {x} and {y}?",
            f"{x} and {y} make how much?",
        ],
        "-": [f"Subtract {y} from {x}.", f"Take {y} away from {x}.", f"What is the difference between {x} and {y}?"],
        "x": [f"Multiply {x} by {y}.", f"What is the product of {x} and {y}?", f"What is {x} multiplied by {y}?"],
        "/": [f"Divide {a} by {b}.", f"What is {a} over {b}?", f"How often does {b} go into {a}?"],
    }[sign]
    return Exchange(random.choice(forms), f"{a} {sign} {b} = {result}.", str(result), "sum")


def follow(random: Random) -> Exchange:
    """A second sum, put shortly."""
    a, sign, b, result = terms(random)
    word = {"+": "plus", "-": "minus", "x": "times", "/": "divided by"}[sign]
    user = random.choice(
        (f"And {a} {sign} {b}?", f"And {a} {word} {b}?", f"What about {a} {word} {b}?", f"And {a}{sign}{b}?")
    )
    return Exchange(user, f"{a} {sign} {b} = {result}.", str(result), "sum")


def _word_sum(random: Random) -> Exchange:
    a, b = random.randint(1, 12), random.randint(1, 12)
    things = random.choice(THINGS)
    if random.random() < 0.5:
        user = random.choice((
            f"I have {a} {things} and get {b} more. How many do I have?",
            f"If I have {a} {things} and buy {b} more, how many are there?",
            f"There are {a} {things}, and {b} are added. How many are there now?",
        ))  # fmt: skip
        return Exchange(user, f"{a} + {b} = {a + b}.", str(a + b))
    a, b = max(a, b), min(a, b)
    user = random.choice((
        f"I have {a} {things} and give away {b}. How many are left?",
        f"There are {a} {things}, and I take {b}. How many remain?",
        f"If I lose {b} of my {a} {things}, how many do I have?",
    ))  # fmt: skip
    return Exchange(user, f"{a} - {b} = {a - b}.", str(a - b))


def _order(random: Random) -> Exchange:
    number = random.randint(0, 30)
    if random.random() < 0.5:
        user = random.choice((
            f"What number comes after {number}?", f"Which number comes after {number}?", f"What comes after {number}?",
            f"What is the next number after {number}?",
        ))  # fmt: skip
        return Exchange(user, f"{number + 1} comes after {number}.", str(number + 1))
    user = random.choice((
        f"What number comes before {number + 1}?", f"Which number comes before {number + 1}?", f"What comes before {number + 1}?",
    ))  # fmt: skip
    return Exchange(user, f"{number} comes before {number + 1}.", str(number))


def _bigger(random: Random) -> Exchange:
    a, b = random.sample(range(31), 2)
    large, small = max(a, b), min(a, b)
    if random.random() < 0.65:
        user = random.choice((
            f"Which is bigger, {a} or {b}?", f"What is more, {a} or {b}?", f"Which number is larger, {a} or {b}?", f"Is {a} bigger than {b}?",
            f"Which is greater, {a} or {b}?", f"What is larger: {a} or {b}?",
        ))  # fmt: skip
        if user.startswith("Is"):
            return Exchange(
                user,
                f"Yes, {a} is bigger than {b}." if a > b else f"No, {a} is smaller than {b}.",
                "Yes" if a > b else "No",
            )
        return Exchange(user, f"{large} is bigger than {small}.", str(large))
    user = random.choice(
        (f"Which is smaller, {a} or {b}?", f"What is less, {a} or {b}?", f"Which number is smaller, {a} or {b}?")
    )
    return Exchange(user, f"{small} is smaller than {large}.", str(small))


def _parity(random: Random) -> Exchange:
    number = random.randint(0, 30)
    kind = "odd" if number % 2 else "even"
    user = random.choice((
        f"Is {number} even or odd?", f"Is {number} an even number?", f"Is {number} odd?", f"Is {number} an odd number?", f"Is {number} even?",
    ))  # fmt: skip
    return Exchange(user, f"{number} is {kind}.", kind)


def _half(random: Random) -> Exchange:
    number = random.randint(1, 20)
    if random.random() < 0.5:
        user = random.choice(
            (
                f"What is half of {2 * number}?",
                f"How much is half of {2 * number}?",
                f"What is the half of {2 * number}?",
            )
        )
        return Exchange(user, f"Half of {2 * number} is {number}.", str(number))
    user = random.choice(
        (f"What is double {number}?", f"What is twice {number}?", f"How much is twice {number}?", f"Double {number}.")
    )
    return Exchange(user, f"Twice {number} is {2 * number}.", str(2 * number))


def _animal(random: Random) -> Exchange:
    first, second = random.sample(range(len(SIZES)), 2)
    a, b = article(SIZES[first]), article(SIZES[second])
    large, small = (a, b) if first > second else (b, a)
    form = random.randrange(5)
    if form < 3:
        user = (
            f"Which is bigger, {a} or {b}?",
            f"What is larger, {a} or {b}?",
            f"Which animal is bigger, {a} or {b}?",
        )[form]
        return Exchange(user, f"{large.capitalize()} is bigger than {small}.", large.split()[1])
    if form == 3:
        return Exchange(
            f"Which is smaller, {a} or {b}?", f"{small.capitalize()} is smaller than {large}.", small.split()[1]
        )
    reply = f"Yes, {a} is bigger than {b}." if first > second else f"No, {a} is smaller than {b}."
    return Exchange(f"Is {a} bigger than {b}?", reply, reply.partition(",")[0])
