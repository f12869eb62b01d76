"""Text and conversations -> token ids, exactly as the model was trained to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from gemma_mlx.text.chat import Message
from gemma_mlx.text.infill import infill
from gemma_mlx.text.stop import generation_defaults, states_turns, stop_ids
from gemma_mlx.text.template import load_template
from gemma_mlx.text.tokenizer import Segment, load_tokenizer
from gemma_mlx.text.tools import Tool


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model reads.

    Attributes:
        tokens: ids; one `<bos>`, at the front.
        boundaries: positions before which another conversation may well agree with this one: where the text of the
            last message begins. A cache marks them.
    """

    tokens: tuple[int, ...]
    boundaries: tuple[int, ...] = ()


class Processor:
    """The tokenizer, chat template and stop tokens of one checkpoint.

    Attributes:
        chats: whether it was made to: it brings a chat template, or its answers end with a turn.

    Args:
        folder: a checkpoint in the Hugging Face layout.

    Raises:
        TokenizerError: there is no tokenizer, or it is damaged.
        TemplateError: the chat template cannot be parsed.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.template = load_template(folder, self.tokenizer)
        self.stop_ids = stop_ids(folder, self.tokenizer)
        self.chats = self.template.source == "checkpoint" or states_turns(folder, self.tokenizer)
        self.defaults: dict[str, Any] = generation_defaults(folder)

    def __call__(
        self,
        prompt: str | Sequence[Message],
        replies: Mapping[int, Sequence[int]] | None = None,
        *,
        tools: Sequence[Tool] = (),
        think: bool | None = None,
    ) -> Inputs:
        """Encodes a text as it stands, or a conversation through the template with a turn for the model opened.

        Args:
            prompt: bare text for a pretrained model, or the whole history.
            replies: index of an assistant's message -> the ids it was sampled as. They stand for its text, so that a
                cache which read them finds them again: encoding the text anew need not give the same ids.
            tools: what the model may call.
            think: whether it thinks before it answers; None is as the template has it.

        Raises:
            TemplateError: the template refuses the conversation, or takes no tools, languages or thoughts.
            InputError: the text cannot be encoded.
        """
        if isinstance(prompt, str):
            return Inputs(tokens=tuple(self.tokenizer.encode(prompt, bos=True)))
        segments = self.template.render(prompt, tools=tools, think=think)
        tokens: list[int] = []
        run: list[Segment] = []
        for message, stretch in groupby(segments, key=lambda segment: segment.message):
            ids = None if message is None else (replies or {}).get(message)
            if ids is None:
                run += stretch
            else:
                tokens += [*self.tokenizer.encode(run, bos=not tokens), *ids]
                run = []
        before = len(tokens)
        tokens += self.tokenizer.encode(run, bos=not tokens)
        last = next((i for i in range(len(run) - 1, -1, -1) if run[i].message == len(prompt) - 1), None)
        if last is None:
            return Inputs(tokens=tuple(tokens))
        # Encoded alone, the text before the message may end differently; what agrees is safe to share.
        ahead = self.tokenizer.encode(run[:last], bos=not before)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ahead, tokens[before:], strict=False)))
        return Inputs(tokens=tuple(tokens), boundaries=(before + common,))

    def fill(self, prefix: str, suffix: str) -> Inputs:
        """Encodes the code around a gap, for a model that was trained to fill it.

        Args:
            prefix: what stands before the gap, to the last space.
            suffix: what stands behind it.

        Raises:
            InputError: the model was not trained to, or the text cannot be encoded.
        """
        return Inputs(tokens=tuple(self.tokenizer.encode(infill(self.tokenizer, prefix, suffix), bos=True)))
