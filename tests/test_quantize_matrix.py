"""Every format of every architecture: the bytes that were planned and predicted, and a model that computes a token.

Decoders, encoders, encoder-decoders and drafters meet every format. A model that stands beside towers is a decoder of
another architecture whose tensors have other names, and a name meets a format in one way only: is it packed, has it
biases. So those meet one format of each mode, and the recipe, whose rules look at names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from gemma_mlx.gemma import Gemma
from gemma_mlx.nn.attention import Lent
from gemma_mlx.nn.drafter import Drafter, Loan
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.quantize.convert import quantize, steps_of
from gemma_mlx.quantize.memory import weight_bytes
from gemma_mlx.quantize.plan import plan
from gemma_mlx.spec import DrafterSpec
from gemma_mlx.weights.load import Loaded, load
from gemma_mlx.weights.quantized import AFFINE_BITS, AFFINE_GROUPS, FIXED
from gemma_mlx.weights.write import layout
from tests.tiny import DRAFTERS, ENCODERS, KINDS, WRAPPED, write_tiny

Asked = dict[str, Any]

AFFINE: Final[list[Asked]] = [
    {"recipe_name": "uniform", "bits": bits, "group_size": group} for bits in AFFINE_BITS for group in AFFINE_GROUPS
]
MODES: Final[list[Asked]] = [{"recipe_name": "uniform", "mode": mode} for mode in FIXED]
FORMATS: Final[list[Asked]] = [{}, {"clip": True}, {"recipe_name": "bf16"}, *AFFINE, *MODES]
FEW: Final[list[Asked]] = [{}, {"recipe_name": "bf16"}, AFFINE[0], *MODES]
CASES: Final = [
    *((kind, asked) for kind in (*KINDS, *ENCODERS, *DRAFTERS) for asked in FORMATS),
    *((kind, asked) for kind in WRAPPED for asked in FEW),
]
TOKENS: Final = [2, 5, 77, 31, 9, 60, 8]
MEMORY: Final = Path("/dev/shm")  # a disk in memory, where Linux has one: 400 times the same few files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One tiny checkpoint of every architecture, in bfloat16; every group divides its rows."""
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    made = Path(tempfile.mkdtemp(dir=MEMORY)) if in_memory else tmp_path_factory.mktemp("matrix")
    for kind in (*KINDS, *ENCODERS, *DRAFTERS, *WRAPPED):
        write_tiny(made / kind, kind, hidden_size=128, intermediate_size=[128] * 3 if "3n" in kind else 128)
    yield made
    shutil.rmtree(made)


def _named(asked: Any) -> str:
    return asked if isinstance(asked, str) else "-".join(map(str, asked.values())) or "gemma"


@pytest.mark.parametrize(("kind", "asked"), CASES, ids=_named)
def test_bytes_are_those_planned_and_it_runs(folder: Path, kind: str, asked: Asked) -> None:
    made = plan(folder / kind, **asked)
    target = folder / f"{kind}-{_named(asked)}"
    written = quantize(made, target)
    files = layout(steps_of(made), packed=asked.get("recipe_name") != "bf16")
    assert {path.name: path.stat().st_size for path in target.glob("*.safetensors")} == files.sizes
    assert written.nbytes == made.nbytes == files.nbytes
    hows = {one.module: one.how for one in made.decisions if one.maps}
    assert dict(written.quantization) == hows
    loaded = load(target)
    held = sum(array.nbytes for _, array in tree_flatten(loaded.model.parameters()))
    plain = written.match.architecture.build(written.match.spec)
    itemsize = loaded.model.parameters()["model"]["norm"]["weight"].itemsize
    assert weight_bytes(plain, lambda path, _: hows.get(path), itemsize) == held
    _run(target, kind, loaded)
    shutil.rmtree(target)


def _run(target: Path, kind: str, loaded: Loaded) -> None:
    """A token, a vector, or a draft; all numbers finite."""
    model = loaded.model
    if isinstance(model, Drafter):
        computed = _drafted(model)
    elif isinstance(model, Encoder) and kind in ENCODERS:
        computed = model(mx.array([TOKENS]))
    else:
        steps = {"steps": 1} if kind == "diffusion_gemma" else {}
        assert len(Gemma(kind, target, loaded).generate(TOKENS, max_tokens=1, **steps)) <= 1
        return
    assert mx.isfinite(computed).all().item()


def _drafted(model: Drafter) -> mx.array:
    """The logits of a draft, over keys and values that no target computed."""
    assert isinstance(model.spec, DrafterSpec)
    lent = tuple(
        (None, Lent(len(TOKENS), *(mx.random.normal((1, one.kv_heads, len(TOKENS), one.head_dim)) for _ in range(2))))
        for one in model.spec.attentions
    )
    x, hidden = (mx.random.normal((1, 1, model.spec.target_dim)) for _ in range(2))
    return model(x, hidden, Loan(lambda ids: ids, lent))[0]
