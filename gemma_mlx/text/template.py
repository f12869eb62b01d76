"""Messages to the text a model was trained on, with every character known to be the template's or somebody's.

A checkpoint brings its own template, a jinja2 program; Gemma's turn format stands in where there is none. Whoever wrote
a message must not be able to end a turn by typing "<end_of_turn>", so the text comes back in segments: the template's
own, in which control tokens are parsed, and the messages', in which they are not.

A program does not say where its output came from. It is run twice: on the messages, and on a unique mark in place of
each message's text. What stands between the marks is the template's; the rest of the first rendering must be the
messages, as they are or trimmed, in the places of the marks. If it is not (the template cuts, changes or inspects the
texts), the program is run on texts in which the first character of whatever could become a control token is replaced by
a private one. Those characters come back as plain text, so that no part of a message is a control token, cut or changed
in case though it be. A template that looks for control tokens in a message does not see them there; this is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gemma_mlx.errors import TemplateError
from gemma_mlx.text.calls import call_form
from gemma_mlx.text.chat import ChatTemplate, Languages, Message
from gemma_mlx.text.files import exists, read_json_object, read_text
from gemma_mlx.text.parts import Guards, Shape, as_dicts, attribute, guard, guard_message, strings, texts_of
from gemma_mlx.text.sandbox import Program
from gemma_mlx.text.special import read_special_tokens
from gemma_mlx.text.tokenizer import Segment, Tokenizer
from gemma_mlx.text.tools import Tool, ToolCall, ToolResult
from gemma_mlx.text.turns import NO_LANGUAGES, NO_THINKING, NO_TOOLS, BuiltInTemplate, check_any, merge

_LIMIT_BYTES = 64 << 20  # tokenizer_config.json carries the vocabulary's added tokens too
GUIDELINE = "guideline"  # the variable of ShieldGemma's template that holds a policy
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))


def load_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of a checkpoint: chat_template.jinja, else `chat_template` in tokenizer_config.json, else in
    chat_template.json; where there is none, Gemma's own turn format.

    Raises:
        TemplateError: the checkpoint's template is unreadable or has a syntax error.
    """
    found = _read_template(folder)
    if found is None:
        return BuiltInTemplate(tokenizer)
    name, source = found
    named = dict(read_special_tokens(folder).named)
    named.setdefault("bos_token", tokenizer.decode([tokenizer.bos_id], control=True))
    named.setdefault("eos_token", tokenizer.decode([tokenizer.eos_id], control=True))
    return CheckpointTemplate(Program(source, name), named, tokenizer)


def _read_template(folder: Path) -> tuple[str, str] | None:
    """Where the template is, in words, and its source."""
    if exists(path := folder / "chat_template.jinja"):
        return f"The chat template {path}", read_text(path, _LIMIT_BYTES, TemplateError)
    for path in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        if not exists(path):
            continue
        value = read_json_object(path, _LIMIT_BYTES, TemplateError).get("chat_template")
        if value is not None:
            return f"The chat template in {path}", _choose(value, path)
    return None


def _choose(value: Any, path: Path) -> str:
    """The template itself, or of several named ones the one called "default"."""
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if isinstance(value, dict) and value:
        if "default" not in value and len(value) > 1:
            names = ", ".join(sorted(map(str, value)))
            raise TemplateError(f'{path} has the chat templates {names}, and none is called "default".')
        value = value.get("default", next(iter(value.values())))
    if not isinstance(value, str):
        raise TemplateError(f"{path}: chat_template is {str(value)[:80]!r}, and a template was expected.")
    return value


class CheckpointTemplate(ChatTemplate):
    """A checkpoint's own template.

    Args:
        program: the compiled template.
        named: "bos_token" -> "<bos>" and the like, which the template may read.
        tokenizer: whose control tokens no message may write.
    """

    source = "checkpoint"

    def __init__(self, program: Program, named: Mapping[str, str], tokenizer: Tokenizer) -> None:
        self._program = program
        self._named = named
        self._beginnings = _beginnings(tokenizer.control_tokens)
        self._form = call_form(tokenizer)
        # What the template takes is tried once. Some read only lists of parts; Gemma 1's and 2's refuse a system
        # message, and others leave it out.
        turns = [Message("user"), Message("assistant"), Message("user")]
        self._shape = Shape()
        self._chats = self._writes_all(turns)
        if not self._chats:
            self._shape = Shape(as_parts=True)
            self._chats = self._writes_all(turns)
        if not self._chats:
            self._shape = Shape()
        self._takes_system = self._writes_all([Message("system"), Message("user")])

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
        think: bool | None = None,
    ) -> list[Segment]:
        """The conversation as the checkpoint's template writes it; see `ChatTemplate.render`."""
        check_any(messages)
        if self.reads(GUIDELINE):
            raise TemplateError("This model judges texts by a policy, and does not chat.", "gemma classify TEXT")
        given = len(messages)
        messages = self._prepared(messages, tools, think)
        shift = given - len(messages)
        contents = [message.content for message in messages]
        guards = self._guards(messages, tools)
        guarded = [guard_message(message, guards) for message in messages]
        variables: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "tools": [guard(tool.to_json(), guards) for tool in tools] or None,
        } | ({} if think is None else {"enable_thinking": think})
        shape = self._shape_of_results if any(message.tool_results for message in messages) else self._shape
        now = datetime.now()  # one time for all renderings of this call

        def write(texts: Sequence[str]) -> str:
            return self._write(variables | {"messages": as_dicts(guarded, texts, shape)}, now)

        try:
            segments = self._align(write(contents), contents, guards, write)
        except TemplateError as error:
            raise self._refusal(error, messages) from error
        if segments is None:
            segments = [Segment(write([guards.sub(content) for content in contents]), control=True)]
        segments = merge(part for segment in segments for part in guards.split(segment))
        if self._form is not None:
            segments = merge(attribute(segments, messages, self._form))
        return [_shifted(segment, shift) for segment in segments]

    def reads(self, variable: str) -> bool:
        """Whether the template reads a variable of this name."""
        return variable in self._program.variables

    def fill(self, messages: Sequence[Message], variables: Mapping[str, str]) -> list[Segment]:
        """What a template writes that reads more texts than the messages', with no turn opened for the model.

        Args:
            messages: oldest first.
            variables: further texts by name; they become plain text as the messages' do.

        Raises:
            TemplateError: the template refuses them.
        """
        now = datetime.now()
        texts = [*(message.content for message in messages), *variables.values()]
        guards = self._guards([Message("user", text) for text in texts], ())

        def write(texts: Sequence[str]) -> str:
            named = dict(zip(variables, texts[len(messages) :], strict=True))
            return self._write({"messages": as_dicts(messages, texts[: len(messages)], self._shape), **named}, now)

        segments = self._align(write(texts), texts, guards, write)
        if segments is None:
            segments = [Segment(write([guards.sub(text) for text in texts]), control=True)]
        return merge(part for segment in segments for part in guards.split(segment))

    def _prepared(self, messages: Sequence[Message], tools: Sequence[Tool], think: bool | None) -> Sequence[Message]:
        """The messages in the form the template takes them; raises where it cannot take what they ask for."""
        if think and not self.thinks:
            raise TemplateError(*NO_THINKING)
        if tools and not self._takes_tools:
            raise TemplateError(*NO_TOOLS)
        if self._translates:
            if not self._chats and any(message.role == "user" and not message.languages for message in messages):
                raise TemplateError(
                    "This model translates, and was not told from which language to which.", "--from en --to de"
                )
            if not self._chats and messages[0].role == "system":
                raise TemplateError("This model translates, and takes no instructions.", "Leave --system out.")
        elif any(message.languages for message in messages):
            raise TemplateError(*NO_LANGUAGES)
        if tools and self._form is not None and self._form.instruction:
            messages = _with_instruction(messages, self._form.instruction)
        return messages if self._takes_system else _fold_system(messages)

    def _refusal(self, error: TemplateError, messages: Sequence[Message]) -> TemplateError:
        """Why a conversation was refused: a language the template does not know, or what it says itself."""
        codes = [code for message in messages for code in message.languages or ()]
        for code in dict.fromkeys(codes):
            other = "en" if code != "en" else "de"
            if self._attempt({"messages": [_translation(code, other)], "add_generation_prompt": True}) is None:
                return TemplateError(
                    f"The chat template of this model knows no language {code!r}.",
                    "Codes are like en, de, pt-BR, zh-Hans.",
                )
        return error

    @cached_property
    def _translates(self) -> bool:
        """Whether the languages of a message make a difference; a template that shows the whole list reads none."""
        shown = [self._attempt({"messages": [_translation("en", code)]}) for code in ("de", "fr")]
        return None not in shown and shown[0] != shown[1] and not any("_lang_code" in str(text) for text in shown)

    @cached_property
    def _takes_tools(self) -> bool:
        """Whether the template declares a tool at all."""
        (mark,) = self._unused(1, "")
        declared = {"name": mark, "description": "d", "parameters": {"type": "object", "properties": {}}}
        messages = as_dicts([Message("user", "x")], ["x"], self._shape)
        text = self._attempt({"messages": messages, "tools": [{"type": "function", "function": declared}]})
        return text is not None and mark in text

    @cached_property
    def thinks(self) -> bool:
        """Whether it has a switch: whether `enable_thinking` makes a difference."""
        messages = as_dicts([Message("user", "x")], ["x"], self._shape)
        common = {"messages": messages, "add_generation_prompt": True}
        shown = [self._attempt(common | {"enable_thinking": think}) for think in (True, False)]
        return None not in shown and shown[0] != shown[1]

    @cached_property
    def _shape_of_results(self) -> Shape:
        """How the template takes what a tool answered: the first way in which it writes it, as an answer.

        Gemma 4's of April 2026 reads results beside the calls, its later ones in messages of their own.
        """
        (mark,) = self._unused(1, "")
        messages = [
            Message("user", "x"),
            Message("assistant", tool_calls=(ToolCall("f", {}),)),
            Message("tool", tool_results=(ToolResult("f", {"k": mark}),)),
        ]
        written: list[Shape] = []
        for results in ("objects", "beside the calls", "texts"):
            shape = replace(self._shape, results=results)
            text = self._attempt({"messages": as_dicts(messages, ["x", "", ""], shape), "add_generation_prompt": True})
            if text is not None and mark in text:
                if self._form is None or self._form.response[0] in text:
                    return shape
                written.append(shape)
        if not written:
            raise TemplateError("This model's chat template takes no results of tools.", NO_TOOLS[1])
        return written[0]

    def _write(self, variables: Mapping[str, Any], now: datetime) -> str:
        """Runs the template."""
        return self._program.render({**self._named, "tools": None, "documents": None, **variables}, now)

    def _attempt(self, variables: Mapping[str, Any]) -> str | None:
        """What the template makes of this; None where it refuses."""
        try:
            return self._write(variables, datetime.now())
        except TemplateError:  # the answer is no; what is wrong will be said when a real conversation is written
            return None

    def _writes_all(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes the texts of such messages at all."""
        opening, closing = self._unused(2, "")
        marks = [f"{opening}{index}{closing}" for index in range(len(messages))]
        dicts = as_dicts(messages, marks, self._shape)
        text = self._attempt({"messages": dicts, "add_generation_prompt": True})
        return text is not None and all(mark in text for mark in marks)

    def _align(
        self, true: str, contents: Sequence[str], guards: Guards, write: Callable[[Sequence[str]], str]
    ) -> list[Segment] | None:
        """The rendering `true` in segments, or None where a message's text was not written as it is or trimmed."""
        opening, closing = self._unused(2, "".join((*contents, *guards.firsts)))
        # A blank text is harmless and stays: templates ask whether there is any.
        marks = [f"{opening}{index}{closing}" if text.strip() else text for index, text in enumerate(contents)]
        numbers = {mark: index for index, mark in enumerate(marks) if mark.startswith(opening)}
        try:
            first, *rest = re.split(f"({opening}[0-9]+{closing})", write(marks))
        except TemplateError:  # it reads the texts, and the mark is none it knows
            return None
        if not true.startswith(first):
            return None
        at = len(first)
        segments = [Segment(first, control=True)]
        for mark, own in zip(rest[::2], rest[1::2], strict=True):
            index = numbers.get(mark)  # None where the template wrote a number into the mark
            forms = () if index is None else _trimmed(contents[index])
            text = next((text for text in forms if true.startswith(text + own, at)), None)
            if text is None:
                return None
            at += len(text) + len(own)
            segments += (Segment(text, control=False, message=index), Segment(own, control=True))
        return segments if at == len(true) else None

    def _guards(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Guards:
        """Characters to stand for whatever in the messages and tools could begin a control token."""
        texts = [text for message in messages for text in texts_of(message)]
        texts += [text for tool in tools for text in strings(tool.to_json())]
        found = sorted({first[0] for text in texts for first in self._beginnings.finditer(text)})
        return Guards(self._beginnings, dict(zip(found, self._unused(len(found), "".join(texts)), strict=True)))

    def _unused(self, count: int, texts: str) -> list[str]:
        """Characters of no meaning that neither the messages nor the template contain."""
        used = set().union(self._program.source, *self._named.values(), texts)
        found = list(islice((char for char in map(chr, chain(*_PRIVATE)) if char not in used), count))
        if len(found) < count:
            raise TemplateError("The messages use every private character of Unicode: none is left to mark them with.")
        return found


def _with_instruction(messages: Sequence[Message], instruction: str) -> Sequence[Message]:
    """The sentence that makes the model call tools, at the end of the system text, which it may be alone."""
    if messages[0].role != "system":
        return [Message("system", instruction), *messages]
    if instruction in messages[0].content:
        return messages
    return [replace(messages[0], content=f"{messages[0].content}\n{instruction}"), *messages[1:]]


def _fold_system(messages: Sequence[Message]) -> Sequence[Message]:
    """The system text before the first user's, as Gemma 3's template writes it; other conversations as they are."""
    if [message.role for message in messages[:2]] != ["system", "user"]:
        return messages
    system, user, *rest = messages
    return [replace(user, content=f"{system.content}\n\n{user.content.strip()}"), *rest]


def _translation(source: str, target: str) -> dict[str, Any]:
    """A message to be translated, to try a template on."""
    return as_dicts([Message("user", "x", languages=Languages(source, target))], ["x"], Shape())[0]


def _shifted(segment: Segment, shift: int) -> Segment:
    """With the number its message was given under; a message that was added here has none."""
    if segment.message is None:
        return segment
    number = segment.message + shift
    return segment._replace(message=number if number >= 0 else None)


def _trimmed(text: str) -> tuple[str, ...]:
    """The ways templates write a text, longest first."""
    return text, text.rstrip(), text.lstrip(), text.strip()


def _beginnings(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the first character of whatever could become one of `texts`: two characters tell, or one at the end.

    Capitals count as well: a template may write a text in lower case.
    """
    pairs = sorted({text[:2] for text in texts})
    begin = "|".join(rf"{re.escape(pair[:1])}(?={re.escape(pair[1:])}|\s*\Z)" for pair in pairs)
    return re.compile(begin or "(?!)", re.IGNORECASE)
