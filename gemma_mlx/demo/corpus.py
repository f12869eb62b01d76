"""The text the model in the box learns from: endless short dialogues, the same ones for the same seed.

    python -m gemma_mlx.demo.corpus --count 5        # five dialogues as JSON lines

Questions come from families.py with wordings.py, sums.py, facts.txt, program.txt, smalltalk.txt and unknowns.txt; memory.py adds
what only a dialogue has: names, "What did I ask?", system prompts. What a user types is roughened (small letters, no
question mark, a greeting in front, a typing error); what the model says never is. Questions of heldout.txt are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gemma_mlx.demo import memory, sums, unknown
from gemma_mlx.demo.families import Family
from gemma_mlx.demo.phrasing import rephrase
from gemma_mlx.demo.sums import Exchange
from gemma_mlx.demo.wordings import FAMILIES

FOLDER = Path(__file__).parent
LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 14)
LENGTH_WEIGHTS = (45, 24, 12, 7, 4, 3, 2.5, 1.5, 1)
KINDS = ("family", "facts", "program", "smalltalk", "sum", "unknown", "memory")
KIND_WEIGHTS = (35, 13, 14, 5, 13, 13, 7)
BEFORE = ("Please, ", "Hi! ", "Hello, ", "Hey, ", "Tell me: ", "Question: ", "OK, ", "So, ", "Now, ", "Next question: ", "Quick question: ",
          "Can you tell me: ", "I have a question: ", "One more: ", "Excuse me, ", "Sorry, ", "Well, ", "Just curious: ", "Hi there, ", "And ",
          "Dear model, ", "Listen: ", "Good morning! ", "I wonder: ", "Please tell me: ")  # fmt: skip
AFTER = (
    " Please.",
    " Thanks.",
    " Do you know?",
    " Tell me.",
    " Please tell me.",
    " Thank you!",
    " I forgot.",
    " Any idea?",
)


@dataclass(frozen=True)
class Block:
    """One answer and the questions it answers."""

    answer: str
    short: str
    ask: tuple[str, ...]


@dataclass
class Dialogue:
    """Turns, and the system prompt before them or None."""

    system: str | None
    turns: list[tuple[str, str]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """The dialogue as chat messages."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for user, model in self.turns:
            said += [{"role": "user", "content": user}, {"role": "assistant", "content": model}]
        return said


def normalise(text: str) -> str:
    """Letters and digits only, in small letters: what makes two questions the same."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_blocks(path: Path) -> tuple[Block, ...]:
    """Reads blocks of "= answer | short" followed by one question per line."""
    found = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        head, *ask = block.splitlines()
        answer, _, short = head.removeprefix("=").partition(" | ")
        found.append(Block(answer.strip(), short.strip(), tuple(ask)))
    return tuple(found)


def held_out(path: Path = FOLDER / "heldout.txt") -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields (kind, question, accepted keywords) for each held-out question."""
    kind = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            kind = line[1:].split(":")[0].strip()
        elif line.strip():
            question, _, keys = line.partition(" => ")
            yield kind, question.strip(), tuple(key.strip() for key in keys.split(" / "))


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def from_family(family: Family, row: tuple[str, ...], wording: str) -> Exchange:
    """One question of a family with its answer."""
    return Exchange(
        capital(wording.format(*row)),
        capital(family.answer.format(*row)),
        capital(family.short.format(*row)),
        family.name,
    )


class Corpus:
    """Draws dialogues."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.blocks = {name: read_blocks(FOLDER / f"{name}.txt") for name in ("facts", "program", "smalltalk")}
        self.unknowns = unknown.read(FOLDER / "unknowns.txt")
        self.families = {family.name: family for family in FAMILIES}
        self.family_weights = [family.weight * len(family.rows) ** 0.75 for family in FAMILIES]
        self.excluded = {normalise(question) for _, question, _ in held_out()}
        self.known = {normalise(exchange.user) for exchange in self.all_questions()}

    def all_questions(self) -> Iterator[Exchange]:
        """Every question of the tables, each wording with each row."""
        for family in FAMILIES:
            for row in family.rows:
                for wording in family.ask:
                    yield from_family(family, row, wording)
        for blocks in self.blocks.values():
            for block in blocks:
                for question in block.ask:
                    yield Exchange(question, block.answer, block.short)

    def dialogue(self) -> Dialogue:
        """The next dialogue."""
        random = self.random
        state = memory.State(random)
        dialogue = Dialogue(state.system)
        for _ in range(random.choices(LENGTHS, LENGTH_WEIGHTS)[0]):
            while True:
                exchange = self.next_exchange(state)
                user = rephrase(exchange.user, random) if random.random() < 0.45 else exchange.user
                user = self.roughen(user)
                if normalise(user) not in self.excluded:
                    break
            model = exchange.short + "." if state.one_word and exchange.short else exchange.model
            model = model.replace("..", ".")
            dialogue.turns.append((user, model))
            state.heard(user, model, exchange.topic)
        return dialogue

    def next_exchange(self, state: memory.State) -> Exchange:
        """What is said next, given what was said."""
        random = self.random
        if state.turns and random.random() < 0.3:
            if state.topic == "sum":
                return sums.follow(random)
            family = self.families.get(state.topic)
            if family is not None and family.follow:
                return self.follow(family)
        if state.turns and random.random() < 0.06:
            return random.choice(
                (
                    Exchange(random.choice(("Thanks!", "Thank you!", "Thanks", "thank you")), "You are welcome!"),
                    self.question("smalltalk"),
                )
            )
        kind = random.choices(KINDS, KIND_WEIGHTS)[0]
        if kind == "memory":
            return state.exchange()
        return self.question(kind)

    def question(self, kind: str) -> Exchange:
        """A question that needs no context."""
        random = self.random
        if kind == "family":
            family = random.choices(FAMILIES, self.family_weights)[0]
            return from_family(family, random.choice(family.rows), random.choice(family.ask))
        if kind == "sum":
            return sums.draw(random)
        if kind == "unknown":
            return self.unknown()
        block = random.choice(self.blocks[kind])
        return Exchange(random.choice(block.ask), block.answer, block.short)

    def unknown(self) -> Exchange:
        """A question the model cannot answer, and that it says so."""
        random = self.random
        kind = random.choices(tuple(unknown.WEIGHTS), tuple(unknown.WEIGHTS.values()))[0]
        while True:
            user = unknown.big_sum(random) if kind == "sum" else unknown.ask(random.choice(self.unknowns[kind]), random)
            if normalise(user) not in self.known:
                return Exchange(capital(user), unknown.ANSWERS[kind])

    def follow(self, family: Family) -> Exchange:
        """The same question about something else, put shortly; sometimes about something unknown."""
        random = self.random
        wording = random.choice(family.follow)
        if family.name in {"capital", "continent", "language", "money"} and random.random() < 0.15:
            place = unknown.fill("place", random)
            if place not in unknown.KNOWN_PLACES:
                return Exchange(wording.format(place), unknown.ANSWERS["fact"], "", family.name)
        return from_family(family, random.choice(family.rows), wording)

    def roughen(self, user: str) -> str:
        """A question as people type it."""
        random = self.random
        if random.random() < 0.4:
            return user
        if user.endswith("?") and random.random() < 0.15:
            start = random.choice(BEFORE)
            user = start + (user if random.random() < 0.5 else user[0].lower() + user[1:])
        if user.endswith("?") and random.random() < 0.06:
            user += random.choice(AFTER)
        if random.random() < 0.25:
            user = user.lower()
        if random.random() < 0.3:
            user = user.rstrip("?.!") or user
        if random.random() < 0.1:
            user = user.replace("'", "")
        if random.random() < 0.04:
            user = user.replace("?", random.choice(("??", " ?", "?!", "!", ".")))
        if random.random() < 0.05:
            user = misspell(user, random)
        return user.upper() if random.random() < 0.01 else user


def misspell(text: str, random: Random) -> str:
    """One letter of a longer word dropped, doubled or exchanged with its neighbour."""
    places = [match.start() for match in re.finditer(r"(?<=[a-z]{2})[a-z](?=[a-z])", text)]
    if not places:
        return text
    at = random.choice(places)
    return random.choice(
        (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
        )
    )


def main() -> None:
    """Prints dialogues."""
    parser = argparse.ArgumentParser(
        description="Print training dialogues of the model in the box, one JSON object a line."
    )
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    corpus = Corpus(arguments.seed)
    for _ in range(arguments.count):
        print(json.dumps({"messages": corpus.dialogue().messages()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
