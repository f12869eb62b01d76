"""Makes tests/goldens/<encoder>/: a tiny checkpoint saved by `transformers`, linear maps by torch, and its vectors.

python -m tests.goldens.make_encoder_goldens        # needs torch and transformers, see `make reference`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.goldens.tiny import ENCODERS, VOCAB, WINDOW, build, tokens

# Below, at and above the radius and the window, and several windows long.
LENGTHS = (1, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 25)
BATCH_LENGTHS = (16, WINDOW - 1, 11)

MODULES = "sentence_transformers.models."
# Behind the 40 numbers of the tiny EmbeddingGemma; other widths than those that follow from its config.
MAPS = ((40, 56), (56, 36))


def maps(name: str, seed: int = 3) -> list[torch.Tensor]:
    """The weights of the linear maps that stand in folders of their own; EmbeddingGemma 2 has none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = MAPS if name == "embeddinggemma" else ()
    return [torch.randn(outputs, inputs, generator=generator) * inputs**-0.5 for inputs, outputs in sizes]


def save(folder: Path, model: Any, dense: list[torch.Tensor]) -> None:
    """Writes the layout of sentence-transformers."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    steps += [(f"{number}_Dense", "Dense") for number in range(2, 2 + len(dense))]
    steps += [(f"{2 + len(dense)}_Normalize", "Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"{MODULES}{kind}"}
        for index, (path, kind) in enumerate(steps)
    ]
    _write(folder / "modules.json", listed)
    pooling = dict.fromkeys(
        ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"), False
    )
    flags = {f"pooling_mode_{mode}": value for mode, value in (pooling | {"mean_tokens": True}).items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 40, **flags, "include_prompt": True})
    for number, weight in enumerate(dense, 2):
        config = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        _write(folder / f"{number}_Dense" / "config.json", config)
        save_file({"linear.weight": weight}, folder / f"{number}_Dense" / "model.safetensors")


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def vectors(model: Any, dense: list[torch.Tensor], ids: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """[B dim], not normalised: the mean over each row's first `lengths` tokens, through the maps."""
    counted = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=counted).last_hidden_state
        x = (hidden * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        for weight in dense:
            x = torch.nn.functional.linear(x, weight)
    return x


def main() -> None:
    """Writes every golden."""
    for name in ENCODERS:
        folder = Path(__file__).parent / name
        model, dense = build(name), maps(name)
        save(folder, model, dense)
        text, batch = tokens(max(LENGTHS), VOCAB), tokens(max(BATCH_LENGTHS), VOCAB, seed=2, rows=len(BATCH_LENGTHS))
        found = [vectors(model, dense, text[:, :length], [length]) for length in LENGTHS]
        whole = torch.cat(found)
        (folder / "reference").mkdir(exist_ok=True)
        save_file(
            {
                "tokens": text,
                "lengths": torch.tensor(LENGTHS),
                "vectors": whole,
                "normalized": torch.nn.functional.normalize(whole, dim=-1),
                "cut": torch.nn.functional.normalize(whole[:, :16], dim=-1),
                "batch": batch,
                "batch_lengths": torch.tensor(BATCH_LENGTHS),
                "batch_vectors": vectors(model, dense, batch, list(BATCH_LENGTHS)),
            },
            folder / "reference" / "vectors.safetensors",
            {"transformers": transformers.__version__},
        )
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{name}: {size / 1000:.0f} kB, {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
