"""From the names in a file to the names of our parameters, as data.

A checkpoint's tensor names stay the modules' names; where dialects differ, a table says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gemma_mlx.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class Names:
    """How one architecture's checkpoints name their tensors.

    Attributes:
        rename: (pattern, replacement) in order; the first pattern that matches from the start applies.
        unread: pattern -> why tensors it matches are left on the disk.
        publish: (pattern, replacement), from our name to the one that published checkpoints have.
    """

    rename: tuple[tuple[str, str], ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    publish: tuple[tuple[str, str], ...] = ()

    def parameter(self, name: str) -> str:
        """The parameter, or the module path, that the file calls `name`."""
        return _renamed(self.rename, name)

    def published(self, parameter: str) -> str:
        """What published checkpoints call `parameter`: the inverse of `parameter`, for writing."""
        return _renamed(self.publish, parameter)

    def why_unread(self, name: str) -> str | None:
        """Why the file's tensor `name` is not read; None where it is."""
        return next((why for pattern, why in self.unread.items() if re.match(pattern, name)), None)

    def translate(self, names: Iterable[str]) -> dict[str, str]:
        """File name -> parameter, without the unread ones.

        Raises:
            WeightsError: two tensors claim one parameter.
        """
        found: dict[str, str] = {}
        for name in names:
            if self.why_unread(name) is None:
                parameter = self.parameter(name)
                if parameter in found:
                    raise WeightsError(
                        f"The tensors {found[parameter]!r} and {name!r} both claim to be {parameter!r}.",
                        "Two checkpoints may be mixed in one folder; fetch it again into an empty one.",
                    )
                found[parameter] = name
        return {name: parameter for parameter, name in found.items()}


def _renamed(table: tuple[tuple[str, str], ...], name: str) -> str:
    for pattern, replacement in table:
        renamed, count = re.subn(r"\A" + pattern, replacement, name, count=1)
        if count:
            return renamed
    return name


_BUFFERS: Final = {r".*\.rotary_emb\.inv_freq\Z": "computed from the config"}

TEXT: Final = Names(unread=_BUFFERS)

# "language_model.model." in published files, "model.language_model." in files saved by transformers 5.
GEMMA3: Final = Names(
    rename=(
        (r"language_model\.model\.", "model."),
        (r"language_model\.lm_head\.", "lm_head."),
        (r"model\.language_model\.", "model."),
    ),
    publish=((r"model\.", "language_model.model."), (r"lm_head\.", "language_model.lm_head.")),
    unread=_BUFFERS
    | dict.fromkeys(
        (r"(model\.)?vision_tower\.", r"(model\.)?multi_modal_projector\."), "pictures are not read by this version"
    ),
)
