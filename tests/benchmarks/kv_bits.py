"""What packed keys and values cost and save: bytes, operations and time of a decode step, and how far logits move.

python tests/benchmarks/kv_bits.py
"""

from __future__ import annotations

import statistics
import time
from typing import Final

import mlx.core as mx

import gemma_mlx
from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.generate.measure import count_operations
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.quantize.divergence import full_divergence
from tests.tiny import tiny_config, tiny_model

BITS: Final = (None, 8, 4)
CONTEXTS: Final = (1024,)
STEPS: Final = 20
TEXT: Final = (
    "A window is how far back a layer looks. Ask me what a door is, how many layers I have, or 12 plus 30. " * 6
)


def read(model: Decoder, tokens: list[int], cache: DecoderCache) -> mx.array:
    """Logits of all tokens but the first chunk's."""
    out = []
    for start in range(0, len(tokens), 256):
        logits = model(model.embed(mx.array([tokens[start : start + 256]])), cache)
        mx.eval(logits, cache.arrays())
        out.append(logits[0])
    return mx.concatenate(out[1:] or out)


def step(model: Decoder, cache: DecoderCache) -> tuple[int, float]:
    """Operations of a decode step, and its median time in milliseconds."""
    seconds, operations = [], 0
    for _ in range(STEPS):
        began = time.perf_counter()
        logits = model(model.embed(mx.array([[5]])), cache, last=1)
        operations = operations or count_operations([logits, *cache.arrays()])
        mx.eval(logits, cache.arrays())
        seconds.append(time.perf_counter() - began)
    return operations, 1000 * statistics.median(seconds[2:])


def main() -> None:
    """Prints a line for each number of bits."""
    config = tiny_config(
        "gemma", head_dim=256, hidden_size=512, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=6,
        max_position_embeddings=8192, intermediate_size=1024, vocab_size=2000,
    )  # fmt: skip
    model = tiny_model(config)
    assert isinstance(model, Decoder)
    for context in CONTEXTS:
        for bits in BITS:
            cache = model.make_cache(kv_bits=bits)
            for start in range(0, context, 256):
                tokens = mx.array([[2 + (start + index) % 90 for index in range(256)]])
                mx.eval(model(model.embed(tokens), cache, last=1), cache.arrays())
            held = cache.nbytes
            operations, milliseconds = step(model, cache)
            print(f"{context:5} tokens, {bits or 32:2} bits: {held / 1e6:6.1f} MB, {operations} operations, "
                  f"{milliseconds:.2f} ms", flush=True)  # fmt: skip
    demo = gemma_mlx.load("demo")
    ids = demo.processor(TEXT).tokens
    plain = read(demo.decoder, list(ids), demo.decoder.make_cache())
    for bits in BITS[1:]:
        packed = read(demo.decoder, list(ids), demo.decoder.make_cache(kv_bits=bits))
        divergence = full_divergence(plain, packed)
        error = mx.sqrt(mx.mean((packed - plain) ** 2)).item()
        print(f"demo, {bits} bits, {len(plain)} tokens: logits move by {error:.4f} (root mean square), mean KL "
              f"{mx.mean(divergence).item():.1e}, largest {mx.max(divergence).item():.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
