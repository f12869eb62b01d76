"""The same question in other words, by rule.

The tables give each question in a few wordings; the rules below turn one wording into another without changing its
answer. They know nothing of the tables, so they are also applied to questions that the model does not know, and how
something is asked tells nothing about whether it is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

NOUN = (
    "Tell me {}.", "Can you tell me {}?", "Could you tell me {}?", "Do you know {}?", "Please tell me {}.", "I would like to know {}.",
    "I want to know {}.", "{}?", "{}, please.", "What was {} again?", "Let me know {}.", "Do you remember {}?", "I am looking for {}.",
    "May I know {}?", "I forgot {}.", "Name {}.", "Please name {}.", "Show me {}.", "What is {}, please?", "I do not know {}.",
    "Do you happen to know {}?", "I am trying to find {}.", "Can you say {}?", "I need to know {}.", "Could you say {}?",
)  # fmt: skip
INDIRECT = (
    "Tell me {}.", "Can you tell me {}?", "Could you tell me {}?", "Do you know {}?", "Please tell me {}.", "I would like to know {}.",
    "I want to know {}.", "Do you happen to know {}?", "Do you remember {}?", "I wonder {}.", "I forgot {}.", "May I ask {}?",
    "Explain to me {}.", "I need to know {}.", "I am not sure {}.", "Will you tell me {}?", "Let me know {}.", "I was asked {}.",
)  # fmt: skip
TO = (
    "How can I {}?", "How do I {}?", "How could I {}?", "How should I {}?", "How does one {}?", "How can one {}?", "How to {}?", "I want to {}.",
    "I would like to {}.", "Tell me how to {}.", "Can you tell me how to {}?", "Show me how to {}.", "What is the way to {}?", "How would I {}?",
    "Is there a way to {}?", "What do I do to {}?", "What must I do to {}?", "Do you know how to {}?", "I need to {}.", "Explain how to {}.",
    "Please tell me how to {}.", "How do you {}?", "What should I type to {}?", "What do I need to {}?", "I do not know how to {}.",
)  # fmt: skip
PURPOSE = (
    "What does {} do?", "What is {} for?", "What is {} good for?", "Tell me what {} does.", "Explain {}.", "Can you explain {}?", "What does {} mean?",
    "What happens with {}?", "Why is there {}?", "When do I use {}?", "Tell me about {}.", "What is the use of {}?", "Describe {}.",
    "Do you know what {} does?",
)  # fmt: skip
SWAPS = (
    ("biggest", "largest"), ("largest", "biggest"), ("begin", "start"), ("start", "begin"), ("quit", "leave"), ("leave", "quit"), ("exit", "leave"),
    ("picture", "image"), ("big", "large"), ("large", "big"), ("computer", "machine"), ("program", "tool"), ("program", "software"),
    ("colour", "color"), ("favourite", "favorite"), ("licence", "license"), ("stop", "end"), ("another", "a different"), ("answer", "reply"),
    ("chat", "conversation"), ("like", "love"), ("made of", "made from"), ("see", "look at"), ("use", "need"),
    ("what's", "what is"), ("I'm", "I am"), ("you are", "you're"), ("do not", "don't"), ("is called", "is named"), ("people", "we"),
    ("in the world", "on Earth"), ("on Earth", "in the world"), ("a person", "a human"), ("should I", "must I"), ("do I", "should I"),
    ("do I", "can I"), ("can I", "may I"), ("the Earth", "Earth"), ("how much is", "what is"), ("what kind of", "what sort of"),
    ("which kind of", "what type of"), ("have", "possess"), ("has", "possesses"), ("there are", "you find"), ("supported", "possible"),
    ("run", "work"), ("made", "built"), ("wrote", "has written"), ("painted", "has painted"), ("invented", "has invented"), ("fast", "quick"),
)  # fmt: skip


def rephrase(question: str, random: Random) -> str:
    """The question in other words, or as it is where no rule applies."""
    rules: tuple[Callable[[str, Random], str | None], ...] = (_indirect, _noun, _to, _purpose, _which, _swap, _subject)
    for rule in random.sample(rules, len(rules)):
        changed = rule(question, random)
        if changed is not None:
            return changed[:1].upper() + changed[1:]
    return question


def _indirect(question: str, random: Random) -> str | None:
    """What is the Sun? -> I wonder what the Sun is."""
    match = re.fullmatch(r"(What|Who|Where|When) (is|are|was|were) (?!it\b|there\b)([^,?]+)\?", question)
    if match is None or re.search(r"\b(like|up|for|called|with|used|spoken|from)$", match[3]):
        return None
    return random.choice(INDIRECT).format(f"{match[1].lower()} {match[3]} {match[2]}")


def _subject(question: str, random: Random) -> str | None:
    """Who wrote Hamlet? -> I would like to know who wrote Hamlet."""
    match = re.fullmatch(
        r"((?:Who|Which \w+|What \w+) (?!is\b|are\b|was\b|do\b|does\b|did\b)\w+(?<!\bdo)(?<!\bdoes)(?<!\bdid) [^?]+)\?",
        question,
    )
    if match is None or re.search(r"\b(do|does|did|is|are|was|can|should)\b", match[1]):
        return None
    return random.choice(INDIRECT).format(match[1][0].lower() + match[1][1:])


def _noun(question: str, random: Random) -> str | None:
    """What is the capital of Italy? -> The capital of Italy, please."""
    match = re.fullmatch(
        r"(?:What is|What's|Tell me|Name|Give me) ((?:the|another word|a synonym) [^,?.]+)[?.]", question
    )
    return None if match is None else random.choice(NOUN).format(match[1])


def _to(question: str, random: Random) -> str | None:
    """How do I leave? -> Is there a way to leave?"""
    match = re.fullmatch(r"How (?:do|can) I ([^?]+)\?", question)
    return None if match is None else random.choice(TO).format(match[1])


def _purpose(question: str, random: Random) -> str | None:
    """What does /regen do? -> What is the /regen command for?"""
    match = re.fullmatch(r"(?:What does|What is|Explain|Tell me about) (/\w+|gemma \w+)(?: do)?[?.]", question)
    if match is None:
        return None
    name = match[1].split()[-1]
    thing = random.choice((match[1], match[1], f"the {name} command", f"the command {match[1]}", name))
    return random.choice(PURPOSE).format(thing)


def _which(question: str, _: Random) -> str | None:
    """Which city is it? -> What city is it?"""
    match = re.match(
        r"(Which|What|In which|In what|On which|On what) (?!is\b|are\b|do\b|does\b|did\b|was\b|can\b|has\b|should\b|of\b)(\w+ )",
        question,
    )
    if match is None:
        return None
    other = match[1].replace("hich", "hat") if "hich" in match[1] else match[1].replace("hat", "hich")
    return other + question[len(match[1]) :]


def _swap(question: str, random: Random) -> str | None:
    """A word for a word of the same meaning."""
    found = [(old, new) for old, new in SWAPS if re.search(rf"\b{old}\b", question) and '"' not in question]
    if not found or re.search(r"opposite|contrary|plural|past|word|synonym|mean", question):
        return None
    old, new = random.choice(found)
    return re.sub(rf"\b{old}\b", new, question, count=1)
