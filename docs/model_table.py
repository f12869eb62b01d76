"""The page of models: every architecture with its checkpoints, what runs of it, and the test that proves it."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from gemma_mlx import catalog, registry

ROOT = Path(__file__).resolve().parent.parent

_GOLDEN = "tests/parity/test_goldens.py::test_whole_pass[{}-16]"
_WRAPPED = "tests/parity/test_wrapped.py::test_a_decoder_beside_towers[{}-{}]"
_PAIR = "tests/parity/test_encoder_decoders.py::test_whole_pass[{}-19]"
_DRAFTER = "tests/parity/test_drafters.py::test_drafts[{}-16-16]"
_ENCODER = "tests/parity/test_encoders.py::test_every_length[{}]"
# The file of an architecture -> the test that holds it against transformers. The tests beside it, of chunks, batches,
# padding and caches, take the same parameters.
PROOFS = {
    "diffusion_gemma": [
        "tests/parity/test_diffusion.py::test_steps_behind_prompts_of_any_length[1-16]",
        "tests/parity/test_diffusion.py::test_answers_under_the_same_noise[512-full]",
    ],
    "embedding_gemma2": [_ENCODER.format("embedding_gemma2")],
    "embeddinggemma": [_ENCODER.format("embeddinggemma")],
    "gemma": [_GOLDEN.format("gemma")],
    "gemma2": [_GOLDEN.format("gemma2")],
    "gemma3": [_WRAPPED.format("gemma3", "language_model.model.")],
    "gemma3_text": [_GOLDEN.format("gemma3_text")],
    "gemma3n": [_WRAPPED.format("gemma3n", "model.language_model.")],
    "gemma3n_text": [_GOLDEN.format("gemma3n_text")],
    "gemma4": [_WRAPPED.format("gemma4", "model.language_model.")],
    "gemma4_assistant": [_DRAFTER.format("gemma4_assistant")],
    "gemma4_text": [_GOLDEN.format(name) for name in ("gemma4_e", "gemma4_dense", "gemma4_moe", "gemma4_ties")],
    "paligemma": [
        _GOLDEN.format("paligemma"),
        "tests/parity/test_goldens.py::test_a_prompt_that_sees_both_ways[paligemma]",
    ],
    "paligemma2": [
        _GOLDEN.format("paligemma2"),
        "tests/parity/test_goldens.py::test_a_prompt_that_sees_both_ways[paligemma2]",
    ],
    "recurrent_gemma": [_GOLDEN.format("recurrent_gemma")],
    "shieldgemma2": [_WRAPPED.format("shieldgemma2", "language_model.model.")],
    "t5gemma": [_PAIR.format("t5gemma")],
    "t5gemma2": [_PAIR.format("t5gemma2")],
    "vaultgemma": [_GOLDEN.format("vaultgemma")],
}
# Where one file runs two model types that are published apart.
PROOFS_OF_TYPE = {
    "gemma4_unified": [_WRAPPED.format("gemma4_unified", "model.language_model.")],
    "gemma4_unified_assistant": [_DRAFTER.format("gemma4_unified_assistant")],
    "gemma4_unified_text": ["tests/parity/test_wrapped.py::test_a_decoder_of_gemma_4_unified_alone"],
}

_HEAD = (
    "The `model_type` of a checkpoint's config.json decides which file runs it. Each equals `transformers` on tiny "
    "random checkpoints, to 1e-4 of the range of the logits; and the language side of each published model, built from "
    "its dimensions, has exactly the published number of parameters (`tests/test_registry.py`)."
)
_SUFFIXES = (
    "`:8bit`, `:6bit`, `:qat`, `:mixed`, `:4bit` or `:bf16` behind a name is a [variant](../guides/models.md#variants) "
    "of it. Models with `-qat` were trained to be quantized; those with `-gguf` are [GGUF files](../guides/gguf.md), "
    "those with `-ct`, `-w4a16` or `-mobile` are [packed in other layouts](../guides/packed.md). Active are the "
    "parameters that take part in one token: no tables of per-layer embeddings, no towers, and of the experts those "
    "that are asked."
)
_MEDIA = {"image": "pictures", "audio": "sound", "video": "video"}
_SIZE = re.compile(r"(?:(?:rag|rig)-)?((?:e?\d+[mb]|a\d+b|s|b|l|ml|xl)(?:-(?:e?\d+[mb]|a\d+b|s|b|l|ml|xl))*)\b")


def page() -> list[str]:
    """Its paragraphs and tables."""
    check_proofs()
    return [
        "# Models",
        _HEAD,
        _architectures(),
        "Every Gemma of the catalogue is here; other families are refused in a sentence.",
        "## Names",
        inspect.cleandoc(catalog.find.__doc__ or "").split("\n\n")[1].replace("\n", " "),
        _SUFFIXES,
        _names(),
    ]


def check_proofs() -> None:
    """Raises ValueError where an architecture has no proof, or one that is no test."""
    modules = {path.rpartition(".")[2] for path in _modules().values()}
    if missing := sorted(modules - PROOFS.keys()):
        raise ValueError(f"docs/model_table.py: PROOFS names no parity test for {', '.join(missing)}")
    named = {test for tests in [*PROOFS.values(), *PROOFS_OF_TYPE.values()] for test in tests}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if unknown := sorted(named - set(done.stdout.splitlines())):
        raise ValueError(f"docs/model_table.py names tests that do not exist: {', '.join(unknown)}\n{done.stderr}")


def _modules() -> dict[str, str]:
    """What config.json says, in words -> the module that runs it."""
    encoders = {f"`{name}` with `use_bidirectional_attention`": path for name, path in registry.BOTH_WAYS.items()}
    over_gemma2 = {f"`{name}` over `gemma2`": path for name, path in registry.OVER_GEMMA2.items()}
    return {f"`{name}`": path for name, path in registry.MODULES.items()} | encoders | over_gemma2


def _architectures() -> str:
    lines = ["| `model_type` | what it is | published as | runs | not yet | proved by |", "|---|---|---|---|---|---|"]
    groups = _rows_by_module()
    for words, path in sorted(_modules().items(), key=lambda item: item[0].replace("`", "")):
        name, kind = path.rpartition(".")[2], words.split("`")[1]
        rows = [row for row in groups.get(path, []) if row.model_type == kind]
        media = [word for medium, word in _MEDIA.items() if any(medium in row.modalities for row in rows)]
        tests = PROOFS_OF_TYPE.get(kind, PROOFS[name])
        file = path.replace(".", "/") + ".py"
        what = _summary(importlib.import_module(path))
        writes = "text to vectors" if rows and all(row.variant == "embedding" for row in rows) else "text"
        writes = "tokens for its target to check" if kind in registry.DRAFTERS else writes
        cells = (
            words,
            f"{what} [{file.rpartition('/')[2]}](../../{file})",
            _checkpoints(rows) or "in others' `text_config`",
            writes,
            ", ".join(media),
            "<br>".join(f"`{test}`" for test in tests),
        )
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def _rows_by_module() -> dict[str, list[catalog.Row]]:
    """The rows that a module runs; those of other programs' architectures and of unknown dimensions are in none."""
    found: dict[str, list[catalog.Row]] = {}
    for row in catalog.rows():
        if row.network is not None and row.network.config["model_type"] == row.model_type in registry.MODULES:
            found.setdefault(registry.module(row.network.config), []).append(row)
    return found


def _checkpoints(rows: Iterable[catalog.Row]) -> str:
    """Generations with their sizes, smallest first; others' models last, by name."""
    sizes: dict[str, dict[str, int]] = {}
    others = []
    for row in rows:
        if row.generation == "Derivative" and row.variant != "embedding":
            others.append(row.name)
        elif row.generation != "Derivative" and row.network is not None:
            found = _SIZE.match((row.short or "").partition(":")[2])
            size = found[1].upper() if found else ""
            sizes.setdefault(row.generation, {}).setdefault(size, row.network.parameters.total)
    told = [
        " ".join(filter(None, [generation, ", ".join(sorted(found, key=lambda size: found[size]))]))
        for generation, found in sorted(sizes.items())
    ]
    return "; ".join(told) + (f"; by others: {', '.join(others)}" if others else "")


def _names() -> str:
    """A line for each network of each generation: its names, and what they have in common."""
    groups: dict[tuple[str, str], list[catalog.Row]] = {}
    for row in catalog.rows():
        if row.network is not None and row.short:
            groups.setdefault((row.generation, row.network.name), []).append(row)
    lines = ["| names | parameters | context | reads | license |", "|---|---|---|---|---|"]
    networks = {row.network.name: row.network for row in catalog.rows() if row.network is not None}
    for (_, name), rows in sorted(groups.items(), key=lambda item: (item[0][0], networks[item[0][1]].parameters.total)):
        names = sorted((row.label for row in rows), key=lambda name: (len(name), name))
        network = networks[name]
        active = f", {network.active / 1e9:.1f} B active" if network.active else ""
        cells = (
            ", ".join(f"`{name}`" for name in names),
            f"{_billions(network.parameters.total)}{active}",
            f"{rows[0].context:,}",
            ", ".join(["text", *(_MEDIA[kind] for kind in rows[0].modalities if kind in _MEDIA)]),
            rows[0].license or "see its page",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 999.5e6 else f"{count / 1e6:.0f} M"


def _summary(module: object) -> str:
    return " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
