"""Estimated against measured peak memory on this back end, for random models of 20 to 700 MB.

python tests/benchmarks/peaks.py [--quick] [KIND ...]

Most of the bytes of these models lie in their embedding tables, which cost no time: what is compared is memory.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from gemma_mlx import device, registry
from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.cache.source import SourceCache
from gemma_mlx.generate.denoising import Denoising
from gemma_mlx.generate.diffusion import denoise
from gemma_mlx.generate.encode import generate_from_source
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.drafter import Drafter
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.quantize.memory import Draft, Kernels, Memory, Use, estimate
from tests.tiny import tiny_config

SHAPE: Final[dict[str, Any]] = {
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
}
KINDS: Final = ("gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "recurrent_gemma", "vaultgemma")
# An encoder in front, canvases, vectors of texts, a drafter beside its target.
OTHERS: Final = ("t5gemma", "t5gemma2", "diffusion_gemma", "embedder", "drafter")
WINDOWS: Final = dict.fromkeys(
    ("gemma2", "gemma3_text", "gemma4_text", "vaultgemma", "gemma3n_text", "t5gemma", "t5gemma2", "diffusion_gemma"),
    256,
)
MORE: Final[dict[str, dict[str, Any]]] = {
    "gemma3n_text": {"activation_sparsity_pattern": None, "intermediate_size": 1024, "num_kv_shared_layers": 0},
    "gemma4_text": {"global_head_dim": 128, "moe_intermediate_size": 256, "num_experts": 8},
    "diffusion_gemma": {"global_head_dim": 128, "moe_intermediate_size": 256, "num_experts": 8},
    "recurrent_gemma": {"attention_window_size": 256, "lru_width": 256, "intermediate_size": 2048},
}
PROMPTS: Final = ((100, 512), (512, 512), (1100, 512), (1100, 128), (1100, 2048))
QUICK: Final = ((100, 512), (600, 256))
WIDE: Final[dict[str, Any]] = {"num_key_value_heads": 8}  # as many heads for keys and values as for queries
VOCABULARIES: Final = (20_000, 120_000, 600_000)
ANSWER: Final = 4
CANVAS: Final = 256


class Case(NamedTuple):
    """One measurement."""

    name: str
    measured: int
    estimated: Memory

    @property
    def error(self) -> float:
        """How far the estimate lies above what was measured, of that."""
        return self.estimated.peak / self.measured - 1


def cases(
    kinds: tuple[str, ...], vocabularies: tuple[int, ...], prompts: tuple[tuple[int, int], ...]
) -> Iterator[Case]:
    """Measures every combination, with and without quantization."""
    for kind in kinds:
        for index, vocab in enumerate(vocabularies):
            for packed in (False, True):
                model, weights = random_model(config_of(kind, index, vocab), packed=packed)
                drafter, more = random_model(drafter_config(vocab), packed=packed) if kind == "drafter" else (None, 0)
                for prompt, chunk in prompts[index % 2 :: 1 + packed]:
                    size = f"{(weights + more) / 1e6:.0f} MB{' packed' if packed else ''}"
                    name = f"{kind} {size}, {prompt} in chunks of {chunk}"
                    yield measure(name, model, weights, prompt, chunk, drafter, more)


def config_of(kind: str, index: int, vocab: int) -> dict[str, Any]:
    """The config.json of a model of this kind with so many tokens; that of a target for a drafter."""
    text = {"drafter": "gemma4_text", "embedder": "gemma3_text"}.get(kind, kind)
    window = {"sliding_window": WINDOWS[text]} if text in WINDOWS else {}
    more = {"vocab_size_per_layer_input": vocab} if text == "gemma3n_text" else {}
    more |= {"use_bidirectional_attention": True} if kind == "embedder" else {}
    more |= {"enable_moe_block": False, "attention_k_eq_v": False} if kind == "drafter" else {}
    wide = WIDE if kind in ("gemma", "gemma3_text") and index == 1 else {}
    config = tiny_config(text, **SHAPE | {"vocab_size": vocab} | window | MORE.get(text, {}) | more | wide)
    return config | ({"canvas_length": CANVAS} if kind == "diffusion_gemma" else {})


def drafter_config(vocab: int) -> dict[str, Any]:
    """The config.json of a drafter for the target of `config_of`."""
    text = tiny_config("gemma4_text", **SHAPE | {"vocab_size": vocab, "sliding_window": 256, "num_hidden_layers": 4})
    text |= {
        "attention_k_eq_v": False, "enable_moe_block": False, "final_logit_softcapping": None, "global_head_dim": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 4,
    }  # fmt: skip
    return {
        "model_type": "gemma4_assistant", "backbone_hidden_size": SHAPE["hidden_size"], "text_config": text,
        "num_centroids": 2000, "centroid_intermediate_top_k": 32, "use_ordered_embeddings": True,
        "tie_word_embeddings": True,
    }  # fmt: skip


def random_model(config: dict[str, Any], *, packed: bool) -> tuple[Any, int]:
    """A model in memory, and its bytes."""
    match = registry.match(config)
    model = match.architecture.build(match.spec)
    if packed:
        nn.quantize(model, 32, 4, class_predicate=_fits)
    model.eval()
    mx.eval(model.parameters())
    return model, sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def _fits(_: str, module: Any) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def measure(
    name: str, model: Any, weights: int, prompt: int, chunk: int, drafter: Drafter | None = None, more: int = 0
) -> Case:
    """Answers a prompt of so many tokens, and compares."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    use = Use(prompt=prompt, answer=ANSWER, chunk=chunk, marks=1, cut=False)
    tokens = [2 + index % 50 for index in range(prompt)]
    measured = answered(model, tokens, chunk, drafter)
    kernels = Kernels(backend=device.backend(), itemsize=4)
    draft = None if drafter is None else Draft(spec=drafter.spec, weights=more)
    return Case(name, measured, estimate(model.spec, weights, use, kernels, draft=draft))


def answered(model: Any, tokens: list[int], chunk: int, drafter: Drafter | None) -> int:
    """The peak while a prompt is answered, as a model of this kind answers."""
    options = Options(max_tokens=ANSWER, temperature=0.0, chunk=chunk)
    if isinstance(model, Encoder):
        mx.eval(model(mx.array([tokens])))
        return mx.get_peak_memory()
    cache = PromptCache(model.make_cache())
    events: Any
    if isinstance(model, EncoderDecoder):
        events = list(generate_from_source(model, SourceCache(model.make_cache()), tokens, options, start=2))
        return int(events[-1].stats.peak_memory_bytes)
    if model.spec.canvas is not None:
        events = denoise(model, cache, tokens, Denoising(max_tokens=ANSWER, chunk=chunk, steps=2, seed=1))
    else:
        events = generate(model, cache, tokens, options)
    for _ in events:
        pass
    measured = mx.get_peak_memory()
    if drafter is None:
        return measured
    loan = drafter.borrow(model, cache.cache)
    mx.eval(drafter.propose(mx.zeros((1, 1, model.spec.dim)), mx.array([3]), loan, ANSWER))
    return max(measured, mx.get_peak_memory())


def main() -> None:
    """Prints every case, then the median, the worst and the best."""
    quick = "--quick" in sys.argv
    names = [name for name in sys.argv[1:] if not name.startswith("--")]
    kinds = tuple(kind for kind in (*KINDS, *OTHERS) if not names or kind in names)
    found = []
    prompts = QUICK if quick else PROMPTS
    known = cases(tuple(kind for kind in kinds if kind in KINDS), VOCABULARIES[: 1 if quick else 3], prompts)
    others = cases(tuple(kind for kind in kinds if kind in OTHERS), VOCABULARIES[: 1 if quick else 2], prompts)
    for case in chain(known, others):
        found.append(case)
        memory = f"{case.measured / 1e6:7.1f} MB, estimated {case.estimated.peak / 1e6:7.1f}"
        print(f"{case.name:60} {memory}  {case.error:+.1%}", flush=True)
    for what, chosen in (
        ("all", found),
        ("20 MB and more", [each for each in found if each.estimated.weights + each.estimated.drafter >= 2e7]),
    ):
        errors = [each.error for each in chosen]
        if errors:
            span = f"from {min(errors):+.1%} to {max(errors):+.1%}"
            print(f"{what}: {len(errors)} cases, median {statistics.median(errors):+.1%}, {span}")


if __name__ == "__main__":
    main()
