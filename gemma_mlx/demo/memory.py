"""What only a dialogue has: names told and asked for, "What did I ask?", system prompts."""

from __future__ import annotations

from random import Random

from gemma_mlx.demo.sums import Exchange
from gemma_mlx.demo.unknown import FIRST, KNOWN_PLACES, WORDS, invented

ONE_WORD = ("Answer in one word.", "Answer with one word.", "One word answers only.", "Reply in one word.", "Use one word only.",
            "Please answer in one word.", "Answer in a single word.", "Be brief: one word.", "Answer very briefly.", "Only one word, please.",
            "Give one-word answers.", "Answer with a single word.")  # fmt: skip
PLAIN = ("You are a helpful assistant.", "You are a friendly assistant.", "Be polite.", "Answer briefly.", "Answer truthfully.",
         "You are a teacher.", "You are an expert.", "You are a pirate.", "Be helpful.", "Speak like a pirate.", "Be friendly and kind.",
         "You answer questions.", "Always be honest.", "You are Gemma.", "Use simple words.", "Answer in English.", "You are a chat bot.",
         "Help the user.", "Think before you answer.", "Do not make things up.", "You are a {0}.", "You are a {0} who likes {1}s.",
         "Always talk about {0}s.", "The user likes {0}s.", "Act as a {0}.", "Be concise and clear.", "You work at a {0} shop.")  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "pink", "purple", "orange", "brown", "grey")
AGAIN = ("What did I ask?", "What did I just ask?", "What was my question?", "What was my last question?", "What did I ask you?",
         "Repeat my question.", "What have I asked?", "Do you remember my question?")  # fmt: skip
SAID = ("What did you say?", "Can you repeat that?", "Say that again.", "Repeat your answer.", "Once more, please.", "Pardon?",
        "Please repeat that.", "What was your answer?", "Say it again.", "Again, please.")  # fmt: skip


class State:
    """What has been said so far in one dialogue.

    Attributes:
        system: the system prompt, or None.
        one_word: whether it asks for one-word answers.
        turns: exchanges so far.
        topic: what the last one was about, for follow-up questions.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.system: str | None = None
        self.one_word = False
        self.turns = 0
        self.topic = ""
        self.user = self.model = ""
        self.told: dict[str, str] = {}
        self.own_name = ""
        chance = random.random()
        if chance < 0.04:
            self.system, self.one_word = random.choice(ONE_WORD), True
        elif chance < 0.09:
            self.system = random.choice(PLAIN).format(random.choice(WORDS), random.choice(WORDS))
        elif chance < 0.11:
            self.told["name"] = self.name()
            self.system = random.choice(
                ("The user's name is {}.", "The user is called {}.", "You are talking to {}.")
            ).format(self.told["name"])
        elif chance < 0.13:
            self.own_name = self.name()
            self.system = random.choice(("Your name is {}.", "You are called {}.", "You are {}.")).format(self.own_name)

    def heard(self, user: str, model: str, topic: str) -> None:
        """Notes an exchange."""
        self.user, self.model, self.topic = user, model, topic
        self.turns += 1

    def name(self) -> str:
        """A first name, real or invented."""
        return self.random.choice(FIRST) if self.random.random() < 0.6 else invented(self.random).capitalize()

    def exchange(self) -> Exchange:
        """An exchange that needs the dialogue before it, or gives it something to remember."""
        random = self.random
        kinds = [self.introduction, self.echo]
        weights = [3.0, 1.2]
        if self.turns:
            kinds += [self.asked, self.said]
            weights += [3.5, 1.5]
        if self.told:
            kinds.append(self.recall)
            weights.append(9.0)
        else:
            kinds.append(self.unknown)
            weights.append(1.0)
        if self.own_name:
            kinds.append(self.named)
            weights.append(8.0)
        return random.choices(kinds, weights)[0]()

    def introduction(self) -> Exchange:
        """The user says something about themselves."""
        random = self.random
        kind = random.choices(("name", "place", "age", "colour", "pet"), (6, 1.5, 1, 1.5, 1))[0]
        if kind == "name":
            value = self.name()
            user = random.choice((
                "My name is {}.", "I am {}.", "I'm {}.", "Call me {}.", "Hello, my name is {}.", "Hi, I am {}.", "Hi, I'm {}!", "You can call me {}.",
                "My name's {}.", "Hello! I am {}.", "People call me {}.", "Hi! My name is {}.",
            )).format(value)  # fmt: skip
            model = f"Nice to meet you, {value}!"
        elif kind == "place":
            value = random.choice(KNOWN_PLACES) if random.random() < 0.6 else invented(random).capitalize()
            user = random.choice(
                ("I live in {}.", "I am from {}.", "I come from {}.", "My home is in {}.", "I'm from {}.")
            ).format(value)
            model = f"{value[:1].upper() + value[1:]}! I will remember that in this chat."
        elif kind == "age":
            value = str(random.randint(5, 99))
            user = random.choice(("I am {} years old.", "I'm {} years old.", "I am {}.", "My age is {}.")).format(value)
            model = f"{value} years! I will remember that in this chat."
        elif kind == "colour":
            value = random.choice(COLOURS)
            user = random.choice(
                (
                    "My favourite colour is {}.",
                    "My favorite color is {}.",
                    "I like {} best.",
                    "The colour I like most is {}.",
                )
            ).format(value)
            model = f"{value.capitalize()} is a fine colour."
        else:
            value = self.name()
            user = random.choice(
                ("My dog is called {}.", "I have a cat called {}.", "My cat's name is {}.", "My pet is called {}.")
            ).format(value)
            model = f"{value} is a good name."
        self.told[kind] = value
        return Exchange(user, model)

    def recall(self) -> Exchange:
        """The user asks for something they said."""
        random = self.random
        kind = random.choice(tuple(self.told))
        value = self.told[kind]
        asked, answer = {
            "name": (("What is my name?", "What's my name?", "Do you know my name?", "Who am I?", "Do you remember my name?", "Tell me my name.",
                      "What am I called?", "How am I called?"), f"Your name is {value}."),
            "place": (("Where do I live?", "Where am I from?", "Do you know where I live?", "Where do I come from?"), f"You said {value}."),
            "age": (("How old am I?", "What is my age?", "Do you know how old I am?"), f"You are {value} years old."),
            "colour": (("What is my favourite colour?", "Which colour do I like?", "What's my favorite color?"), f"Your favourite colour is {value}."),
            "pet": (("What is my pet called?", "What is the name of my pet?", "Do you know the name of my pet?"), f"Your pet is called {value}."),
        }[kind]  # fmt: skip
        return Exchange(random.choice(asked), answer, value)

    def unknown(self) -> Exchange:
        """The user asks for something they never said."""
        random = self.random
        asked, answer = random.choice((
            (("What is my name?", "What's my name?", "Do you know my name?", "Who am I?", "What am I called?"), "You have not told me your name."),
            (("Where do I live?", "How old am I?", "What is my favourite colour?", "What is my pet called?"), "You have not told me that."),
        ))  # fmt: skip
        return Exchange(random.choice(asked), answer)

    def asked(self) -> Exchange:
        """The user asks what they said last."""
        return Exchange(self.random.choice(AGAIN), f'You asked: "{self.user}"')

    def said(self) -> Exchange:
        """The user asks for the last answer again."""
        return Exchange(self.random.choice(SAID), self.model)

    def echo(self) -> Exchange:
        """The user has the model say something."""
        random = self.random
        words = " ".join(
            random.choice(WORDS) if random.random() < 0.6 else invented(random)
            for _ in range(random.choice((1, 1, 2, 3)))
        )
        user = random.choice(
            (
                "Say {}.",
                "Say {}!",
                "Repeat after me: {}.",
                "Please say {}.",
                "Repeat: {}.",
                'Say "{}".',
                "Can you say {}?",
            )
        ).format(words)
        return Exchange(user, words[:1].upper() + words[1:] + ".")

    def named(self) -> Exchange:
        """The user asks the model for the name its system prompt gave it."""
        asked = (
            "What is your name?",
            "Who are you?",
            "What's your name?",
            "Do you have a name?",
            "How should I call you?",
        )
        return Exchange(
            self.random.choice(asked), f"My name is {self.own_name}. I am a very small model.", self.own_name
        )
