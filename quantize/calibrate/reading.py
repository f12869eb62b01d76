"""The text that a model is calibrated with, as it reads it: windows of equal length, each begun as a text begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gemma_mlx.errors import InputError
from gemma_mlx.processor import Processor
from gemma_mlx.quantize.texts import Passage, passages, read_passages
from gemma_mlx.quantize.texts import windows as read

LENGTH: Final = 512  # tokens of a window
MOST: Final = 128  # windows
# Without so many there is nothing that a matrix of products could be made of.
LEAST_TOKENS: Final = 64


def windows(folder: Path, text: Path | None = None, *, length: int = LENGTH, most: int = MOST) -> list[tuple[int, ...]]:
    """What a checkpoint's tokenizer makes of a text.

    Args:
        folder: of the checkpoint.
        text: a user's own file, as `read_passages` takes it; None for the set that the project wrote for calibration.
        length: of a window; a text that is shorter is one window.
        most: windows; of a longer text, so many are taken that lie evenly in it.

    Raises:
        InputError: the file cannot be read, or holds too little.
        TokenizerError: the checkpoint has no tokenizer that can be read.
    """
    chosen: Iterable[Passage] = passages("calibrate") if text is None else read_passages(text)
    found = [window.tokens for window in read(chosen, Processor(folder), length)]
    begin, tokens = found[0][0], [token for window in found for token in window[1:]]
    if len(tokens) < LEAST_TOKENS:
        raise InputError(
            f"{text} holds {len(tokens)} tokens, and calibration needs {LEAST_TOKENS} at least.",
            "Some thousands are good, of what the model is used for. Without --text the project's own are read.",
        )
    room = min(length - 1, len(tokens))
    whole = [(begin, *tokens[first : first + room]) for first in range(0, len(tokens) - room + 1, room)]
    count = min(most, len(whole))
    return [whole[index * len(whole) // count] for index in range(count)]
