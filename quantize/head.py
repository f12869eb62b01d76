"""The head of a Gemma 3 beside towers, once more: without it mlx-vlm refuses a packed table of embeddings.

The head is the table, and no file needs it twice. But mlx-vlm 0.7 builds a Gemma 3 with a map of its own for the head,
fills it from the table where the file has none, and does not know then that the table is packed. So its bytes are
written under both names. gemma leaves the second on the disk; mlx-lm reads it, too, and holds both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gemma_mlx.errors import InputError
from gemma_mlx.spec import DecoderSpec
from gemma_mlx.weights.load import BORROWED, Checkpoint
from gemma_mlx.weights.names import COMPUTED
from gemma_mlx.weights.write import Output

if TYPE_CHECKING:
    from gemma_mlx.quantize.plan import Decision

TABLE: Final = "model.embed_tokens"
HEAD: Final = "lm_head"


def wants_head(checkpoint: Checkpoint, asked: bool | None) -> bool:
    """Whether the table is written twice: as asked, else where towers make mlx-vlm the program to read it with.

    Raises:
        InputError: it is asked for, and no program wants it.
    """
    names, spec = checkpoint.match.architecture.NAMES, checkpoint.match.spec
    possible = names.second_head and isinstance(spec, DecoderSpec) and spec.tied_head
    if asked and not possible:
        raise InputError(
            f"mlx-vlm wants a second head of a Gemma 3 whose head is its table, and this is a "
            f"{checkpoint.match.model_type}{'' if names.second_head else ', which it reads without one'}.",
            "Leave out --second-head.",
        )
    beside = [name for name, why in checkpoint.unread.items() if why not in (BORROWED, COMPUTED)]
    towers = any(names.why_unread(name) == checkpoint.unread[name] for name in beside)
    return possible and (towers if asked is None else asked)


def with_head(checkpoint: Checkpoint, decisions: Sequence[Decision], asked: bool | None) -> Iterator[Decision]:
    """The decisions; where `wants_head`, a packed table of embeddings is written under the head's name, too."""
    names, wanted = checkpoint.match.architecture.NAMES, wants_head(checkpoint, asked)
    table, head = (names.published(f"{path}.weight").removesuffix("weight") for path in (TABLE, HEAD))
    for decision in decisions:
        if wanted and decision.module == TABLE and decision.how is not None:
            again = [replace(output, name=output.name.replace(table, head)) for output in decision.outputs]
            yield replace(decision, outputs=(*decision.outputs, *again))
        else:
            yield decision


def everywhere(
    portions: Iterator[tuple[int, memoryview]], outputs: Sequence[Output]
) -> Iterator[tuple[int, memoryview]]:
    """What is made of a tensor, for each of the names it is written under.

    Args:
        portions: (which of the outputs of the first name, its next bytes).
        outputs: of all names, those of each side by side.
    """
    each = len({output.name.rpartition(".")[2] for output in outputs})
    for index, portion in portions:
        for place in range(index, len(outputs), each):
            yield place, portion
