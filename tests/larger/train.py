"""Grows the model in the box and trains it on: 3.6 to 8.7 million parameters in a quarter of an hour on two cores.

    python -m tests.larger.train --out FOLDER

Every part of the box's model is kept and doubled, by which its function is kept too (Net2Net, arXiv 1511.05641): two
heads for each, with half of the output projection apiece; some units of the feed-forward likewise; four layers are
followed by a copy whose norms let through a part only. A little noise sets the copies apart, and training drives them
on from there, on the dialogues that the box's model was trained on and on the texts to calibrate on. The seeds are
fixed, so a run repeats itself up to the rounding of the machine's matrix products.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from gemma_mlx.demo.train import Encoder, Trainee, batches, new_model, new_optimizer  # loads OpenBLAS before MLX

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from gemma_mlx import demo
from gemma_mlx.config import read_config
from gemma_mlx.processor import Processor
from gemma_mlx.quantize.texts import passages, windows
from gemma_mlx.weights.load import load
from gemma_mlx.weights.save import save_checkpoint
from tests.larger import PATH

FROM: Final = (0, 0, 1, 1, 2, 3, 3, 4, 4, 5)  # the layer of the box's model that each layer begins as
COPY_GAIN: Final = 0.3  # of what a copied layer adds to the residual stream, beside the layer it was copied from
TEXTS_EVERY: Final = 3  # steps; the others are dialogues
NOISE: Final = 0.3  # relative, on what reads: queries, keys, values, gates
NORMS: Final = ("post_attention_layernorm", "post_feedforward_layernorm")
HELD_OUT_SEED: Final = 977  # of dialogues that training, at seed + 2, does not draw


def grown(box: dict[str, mx.array], heads: int, hidden: int) -> dict[str, mx.array]:
    """The larger model's parameters, float32, from those of the model in the box."""
    made = {name: weight for name, weight in box.items() if ".layers." not in name}
    for layer, source in enumerate(FROM):
        copied = layer > 0 and FROM[layer - 1] == source
        part = {
            name.removeprefix(f"model.layers.{source}."): weight
            for name, weight in box.items()
            if name.startswith(f"model.layers.{source}.")
        }
        for name in ("q_proj", "k_proj", "v_proj"):
            part[f"self_attn.{name}.weight"] = _doubled(part[f"self_attn.{name}.weight"], None)
        out = part["self_attn.o_proj.weight"]
        part["self_attn.o_proj.weight"] = mx.concatenate([out / 2, out / 2], axis=1)
        more = hidden - part["mlp.gate_proj.weight"].shape[0]
        for name in ("gate_proj", "up_proj"):
            part[f"mlp.{name}.weight"] = _doubled(part[f"mlp.{name}.weight"], more)
        down = part["mlp.down_proj.weight"]
        part["mlp.down_proj.weight"] = mx.concatenate([down[:, :more] / 2, down[:, more:], down[:, :more] / 2], axis=1)
        for norm in NORMS if copied else ():
            part[f"{norm}.weight"] = part[f"{norm}.weight"] * COPY_GAIN
        made |= {f"model.layers.{layer}.{name}": weight for name, weight in part.items()}
    return made


def _doubled(weight: mx.array, rows: int | None) -> mx.array:
    """`weight` [N dim] with its first `rows` once more behind it, and noise on these."""
    again = weight[:rows]
    noise = mx.random.normal(again.shape) * NOISE * mx.sqrt(again.square().mean())
    return mx.concatenate([weight, again + noise])


def text_batches(seed: int, tokens: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields as `batches` does, of the texts to calibrate on, in which every token counts."""
    found = windows(passages("calibrate"), Processor(demo.PATH), length)
    random = Random(seed)
    while True:
        rows = [list(window.tokens) for window in random.sample(found, tokens // length)]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
        said = np.zeros(ids.shape, dtype=bool)
        for row, held in enumerate(rows):
            ids[row, : len(held)], said[row, : len(held)] = held, True
        yield ids, said


def held_out_loss(model: Trainee, encoder: Encoder, count: int = 6) -> float:
    """Mean cross entropy of what the model says in dialogues drawn with another seed."""
    losses = []
    for _, (ids, said) in zip(range(count), batches(encoder, HELD_OUT_SEED, 2048, 512), strict=False):
        losses.append(model.loss(mx.array(ids), mx.array(np.flatnonzero(said[:, 1:]))).item())
    return sum(losses) / count


def main() -> None:
    """Grows, trains and writes the folder."""
    parser = argparse.ArgumentParser(description="Grow the model in the box and train it on.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=2048, help="ids in a batch, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.4, help="times the learning rates of demo/train.py")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"):
        if not (arguments.out / name).exists():
            shutil.copy(PATH / name, arguments.out / name)
    mx.random.seed(arguments.seed)
    config = read_config(arguments.out)
    model = new_model(config)
    box = dict(tree_flatten(load(demo.PATH, dtype=mx.float32).model.parameters(), destination={}))
    model.load_weights(
        list(grown(box, config["num_attention_heads"], config["intermediate_size"]).items()), strict=True
    )
    count = sum(weight.size for weight in dict(tree_flatten(model.parameters(), destination={})).values())
    encoder = Encoder(arguments.out / "tokenizer.model")
    print(f"{count:,} parameters, held-out loss {held_out_loss(model, encoder):.4f}", flush=True)

    optimizer = new_optimizer(arguments.steps, arguments.rate)
    gradients_of = nn.value_and_grad(model, model.loss)
    began = time.perf_counter()
    recent: tuple[list[float], list[float]] = ([], [])  # of dialogues, of texts
    dialogues = batches(encoder, arguments.seed + 2, arguments.tokens, 512)
    texts = text_batches(arguments.seed, arguments.tokens, 256)
    for step in range(1, arguments.steps + 1):
        ids, said = next(dialogues if step % TEXTS_EVERY else texts)
        value, gradients = gradients_of(mx.array(ids), mx.array(np.flatnonzero(said[:, 1:])))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(value, model.parameters(), optimizer.state)
        recent[step % TEXTS_EVERY == 0].append(value.item())
        if step % 10 == 0 or step == arguments.steps:
            losses = "  ".join(f"{sum(some) / max(len(some), 1):.4f}" for some in recent)
            print(f"step {step}  losses {losses}  {time.perf_counter() - began:.0f} s", flush=True)
            recent = ([], [])
        if step % 50 == 0 or step == arguments.steps:
            save_checkpoint(arguments.out, model, config)
    print(f"held-out loss {held_out_loss(model, encoder):.4f}")


if __name__ == "__main__":
    main()
