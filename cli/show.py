"""`gemma show`: what a checkpoint is, from its config and headers. No weight is read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gemma_mlx.cli import options as flags
from gemma_mlx.cli import published
from gemma_mlx.cli.opening import chosen, found
from gemma_mlx.cli.render.judgement import told
from gemma_mlx.cli.render.layers import drafts_for, in_front, layers, per_layer_source, vector, ways
from gemma_mlx.cli.render.tables import pairs, size, width
from gemma_mlx.errors import GemmaError, InputError
from gemma_mlx.spec import EncoderDecoderSpec, StackSpec

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.weights.load import Checkpoint


def show(
    model: flags.ModelArgument = None,
    also_model: flags.AlsoModel = None,
    slice: flags.Slice = None,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Show what a model is: its layers, its files, its real bits per weight.

    Reads config.json and the headers of the files, and no weights. With --json one object is printed: model, folder,
    model_type, slice, weights, bytes, bits_per_weight, memory_bytes (of weights), table_bytes (more with --per-layer
    memory), files, spec, runs (of equal layers), encoder_runs (of an encoder in front), stored (how, with bytes and
    modules), packed_from (its format, if another program packed it), grids (maps whose activations are rounded), unread
    (name and reason), text (template, stop_tokens, defaults, or error) and judgement (what `gemma compare` found when
    it was quantized, or null). Of a model that is not on this machine, what the catalogue knows is shown, as `gemma
    models --json` has it.
    """
    from gemma_mlx.weights.load import inspect
    from gemma_mlx.weights.slices import parse

    piece = None if slice is None else parse(slice)
    name = chosen(flags.one_model(model, also_model), quiet=quiet)
    if (row := published.absent(name)) is not None:
        if piece is not None:
            raise InputError(f"{name} is not on this machine, and --slice reads its files.", f"gemma pull {name}")
        print(json.dumps(published.as_object(row, False), indent=2) if as_json else published.drawn(row, width()))
        return
    name, folder = found(name, quiet=quiet)
    facts = describe(name, inspect(folder, piece=piece))
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else drawn(facts, width()))


def describe(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """What `--json` prints; the keys are stable."""
    from gemma_mlx.quantize.card import evidence
    from gemma_mlx.weights.load import PER_LAYER

    spec, files = checkpoint.match.spec, Counter[str]()
    for tensor in checkpoint.tensors.values():
        files[tensor.file.name] += tensor.file_bytes
    return {
        "model": name,
        "folder": str(checkpoint.folder),
        "model_type": checkpoint.match.model_type,
        "slice": None if checkpoint.piece is None else str(checkpoint.piece),
        "weights": checkpoint.weights,
        "bytes": checkpoint.nbytes,
        "bits_per_weight": checkpoint.bits_per_weight,
        "memory_bytes": checkpoint.memory_bytes(per_layer=PER_LAYER),
        "table_bytes": checkpoint.table_bytes(),
        "files": [{"name": file, "bytes": nbytes} for file, nbytes in sorted(files.items())],
        "spec": asdict(spec),
        "runs": _runs(spec),
        "encoder_runs": _runs(spec.encoder) if isinstance(spec, EncoderDecoderSpec) else [],
        "stored": stored(checkpoint),
        "packed_from": checkpoint.repacked.method,
        "grids": len(checkpoint.grids),
        "unread": dict(checkpoint.unread),
        "text": text(checkpoint.folder),
        "judgement": evidence(checkpoint.config),
    }


def _runs(stack: StackSpec) -> list[dict[str, Any]]:
    return [{"first": first, "last": last, **asdict(layer)} for first, last, layer in stack.runs()]


def stored(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """How the tensors are stored: for each way, the modules of each kind and their bytes."""
    ways: dict[str, tuple[Counter[str], list[int]]] = {}
    for parameter, tensor in checkpoint.tensors.items():
        path, _, leaf = parameter.rpartition(".")
        how = checkpoint.quantization.get(path)
        kinds, nbytes = ways.setdefault(tensor.dtype if how is None or leaf == "bias" else str(how), (Counter(), []))
        *above, kind = path.split(".")
        kinds[above[-1] if kind.isdigit() else kind] += leaf == "weight"  # the maps of an encoder are dense.0, dense.1
        nbytes.append(tensor.file_bytes)
    return [
        {"how": how, "bytes": sum(nbytes), "modules": sum(kinds.values()), "kinds": dict(kinds)}
        for how, (kinds, nbytes) in ways.items()
    ]


def text(folder: Path) -> dict[str, Any]:
    """Where the chat template comes from and what ends an answer; `error` where the tokenizer is no good."""
    from gemma_mlx.processor import Processor

    try:
        processor = Processor(folder)
    except GemmaError as error:
        return {"error": error.message}
    tokenizer = processor.tokenizer
    return {
        "tokens": tokenizer.vocab_size,
        "template": processor.template.source,
        "stop_tokens": {str(id): tokenizer.decode([id], control=True) for id in sorted(processor.stop_ids)},
        "defaults": processor.defaults,
    }


def drawn(facts: dict[str, Any], fit: int | None) -> str:
    """The facts as text, `fit` columns wide."""
    spec, words = facts["spec"], facts["text"]
    parts = [f"{len(facts['files'])} file{'s' if len(facts['files']) > 1 else ''}", size(facts["bytes"])]
    cap = f"; logits capped at {spec['logit_softcap']:g}" if spec.get("logit_softcap") else ""
    rows = [
        ("model", facts["model"]),
        ("folder", facts["folder"]),
        ("architecture", facts["model_type"]),
        ("weights", f"{facts['weights']:,} in {', '.join(parts)}: {facts['bits_per_weight']:.2f} bits per weight"),
        ("memory", f"{size(facts['memory_bytes'])} for the weights on this machine"),
        ("context", f"{spec['context']:,} tokens"),
        ("vocabulary", f"{spec['vocab']:,} entries{_head(spec)}"),
        (
            "width",
            f"{spec['dim']:,}; embeddings times {spec['embed_scale']:g}; norms with epsilon {spec['norm_eps']:g}{cap}",
        ),
    ]
    if facts["packed_from"] is not None:
        grids = f"; activations on grids of 8 bits in {facts['grids']} linear maps" if facts["grids"] else ""
        rows.append(("packed as", facts["packed_from"] + grids))
    if facts["slice"] is not None:
        rows.insert(2, ("slice", facts["slice"]))
    if facts["judgement"] is not None:
        rows.append(("judged", told(facts["judgement"])))
    if "dense" in spec:
        rows.append(("vector", vector(spec)))
    if spec.get("prompt_both_ways"):
        rows.append(("prompt", "read both ways: its tokens see each other"))
    if per_layer := spec["per_layer"]:
        rows.append(
            ("per layer", f"an embedding {per_layer['dim']:,} wide {per_layer_source(per_layer, facts['table_bytes'])}")
        )
    if encoder := spec.get("encoder"):
        rows.append(("encoder", in_front(encoder, shared=spec["shared_table"])))
    if canvas := spec.get("canvas"):
        rows.append(("canvas", f"{canvas['length']:,} tokens, written together"))
    if altup := spec.get("altup"):
        rows.append(("streams", f"{altup['streams']}, of which each layer computes one and predicts the others"))
    if drafts := "target_dim" in spec:
        rows.append(("drafts for", drafts_for(spec)))
    if drafts and "error" in words:
        rows.append(("tokenizer", "its target's"))
    elif "error" in words:
        rows.append(("tokenizer", f"unusable: {words['error']}"))
    else:
        stops = ", ".join(f"{token or 'unnamed'} ({id})" for id, token in words["stop_tokens"].items())
        defaults = ", ".join(f"{name} {value}" for name, value in words["defaults"].items())
        rows += [
            ("tokenizer", f"{words['tokens']:,} tokens"),
            ("template", "from the checkpoint" if words["template"] == "checkpoint" else "Gemma's own, built in"),
            ("stops at", stops),
            ("defaults", defaults),
        ]
    tables = [layers(facts["runs"], fit)]
    if facts["encoder_runs"]:
        tables = [f"encoder:\n{layers(facts['encoder_runs'], fit)}", f"decoder:\n{tables[0]}"]
    blocks = [pairs(rows, fit), *tables, ways(facts["stored"], fit)]
    if facts["unread"]:
        blocks.append("not read:\n" + pairs(_unread(facts["unread"]), fit))
    return "\n\n".join(blocks)


def _head(spec: dict[str, Any]) -> str:
    if "dense" in spec:  # an encoder
        return ", no head"
    return ", head tied to it" if spec["tied_head"] else ", head of its own"


def _unread(unread: dict[str, str]) -> list[tuple[str, str]]:
    """One row for each reason: the first tensor's name and how many more there are."""
    names: dict[str, list[str]] = {}
    for name, why in unread.items():
        names.setdefault(why, []).append(name)
    return [(f"  {some[0]}" + (f" and {len(some) - 1:,} more" if some[1:] else ""), why) for why, some in names.items()]
