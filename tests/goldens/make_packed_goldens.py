"""Makes tests/goldens/gemma4_mobile, _w4a16 and _mobile_ct: packed as Google packs them, with the reference's logits.

python -m tests.goldens.make_packed_goldens        # needs torch, transformers and compressed-tensors
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import transformers
from safetensors.torch import save_file

from tests.goldens import tiny, tiny_packed

PADDING = [3, 0]
GOLDENS = {
    "gemma4_mobile": tiny_packed.write_mobile,
    "gemma4_w4a16": partial(tiny_packed.write_compressed, config=tiny_packed.W4A16),
    "gemma4_mobile_ct": partial(tiny_packed.write_compressed, config=tiny_packed.MOBILE_CT),
}


def main() -> None:
    """Writes the three."""
    for name, write in GOLDENS.items():
        folder = Path(__file__).parent / name
        (folder / "reference").mkdir(parents=True, exist_ok=True)
        model = write(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        text, batch = tiny.tokens(tiny.LENGTH, tiny.VOCAB), tiny.tokens(tiny.LENGTH, tiny.VOCAB, seed=2, rows=2)
        arrays = {
            "tokens": text,
            "logits": tiny.logits(model, text),
            "batch": batch,
            "batch_logits": tiny.logits(model, batch, PADDING),
        }
        save_file(
            arrays,
            folder / "reference" / "logits.safetensors",
            {"transformers": transformers.__version__, "padding": str(PADDING)},
        )
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
