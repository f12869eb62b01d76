"""The table of a model's layers, as `gemma show` draws it, and words on what they are given and stored as."""

from __future__ import annotations

from typing import Any

from gemma_mlx.cli.render.tables import pairs, size, table


def layers(runs: list[dict[str, Any]], fit: int | None) -> str:
    """A table with a row for each run of equal layers."""
    rows = [
        (
            str(run["first"]) if run["first"] == run["last"] else f"{run['first']}-{run['last']}",
            *(_recurrent(run["recurrence"]) if "recurrence" in run else _attending(run)),
            f"{run['mlp_dim']:,}" + (f", {run['sparsity']:.0%} cut" if run.get("sparsity") else ""),
            _experts(run.get("experts")),
            _cross(run.get("cross")),
        )
        for run in runs
    ]
    headers = (
        "layers", "attention", "state", "taps", "queries", "keys", "scale", "rope", "cap", "qk norm", "bias", "mlp",
        "experts", "cross",
    )  # fmt: skip
    return table(headers, rows, fit)


def vector(spec: dict[str, Any]) -> str:
    """How an encoder makes one vector of a text."""
    widths = [spec["dense"][0]["inputs"], *(dense["outputs"] for dense in spec["dense"])] if spec["dense"] else []
    maps = f", mapped {' -> '.join(f'{width:,}' for width in widths)}" if widths else f", {spec['dim']:,} wide"
    return f"the mean over the tokens{maps}"


def in_front(encoder: dict[str, Any], *, shared: bool) -> str:
    """What stands in front of the decoder, which the other rows are about."""
    table = "the same vocabulary" if shared else f"a vocabulary of {encoder['vocab']:,} of its own"
    return (
        f"{len(encoder['layers'])} layers, {encoder['dim']:,} wide; a context of {encoder['context']:,} tokens, "
        f"{table}; norms with epsilon {encoder['norm_eps']:g}"
    )


def drafts_for(spec: dict[str, Any]) -> str:
    """What a drafter proposes tokens to."""
    ordered = spec["ordered"]
    part = "" if ordered is None else f"; looks into {ordered['top_k']:,} of {ordered['centroids']:,} groups of words"
    return f"a Gemma 4 that is {spec['target_dim']:,} wide, whose keys and values it reads{part}"


def per_layer_source(per_layer: dict[str, Any], nbytes: int) -> str:
    """Where the small embeddings come from, and what becomes of their table."""
    if not per_layer["vocab"]:
        return "projected from the token's own"
    kept = (
        f"; its table stays on the disk, and would take {size(nbytes)} of memory (--per-layer memory)" if nbytes else ""
    )
    return f"of {per_layer['vocab']:,} tokens{kept}"


def _recurrent(recurrence: dict[str, Any]) -> tuple[str, ...]:
    """What stands between "layers" and "mlp" for layers that keep a state."""
    return (
        "recurrent",
        f"{recurrence['heads']} x {recurrence['width'] // recurrence['heads']}",
        str(recurrence["taps"]),
        *[""] * 7,
    )


def _attending(run: dict[str, Any]) -> tuple[str, ...]:
    """The same for layers that attend."""
    attention, rope = run["attention"], run["attention"]["rope"]
    return (
        _reach(attention),
        "",
        "",
        f"{attention['heads']} x {attention['head_dim']}",
        _keys(run),
        f"{attention['scale']:.4g}",
        f"{rope['theta']:,.0f}"
        + ("" if rope["scale"] == 1 else f" / {1 / rope['scale']:g}")
        + ("" if rope["turning"] == 1 else f", {rope['turning']:.0%}")
        + ("" if rope["span"] == 1 else f", {rope['span']:.0%} of a head"),
        "" if attention["softcap"] is None else f"{attention['softcap']:g}",
        "yes" if attention["qk_norm"] else "",
        _bias(attention["bias"], attention["out_bias"]),
    )


def _reach(attention: dict[str, Any]) -> str:
    """How many positions a query sees, its own included, where they are not all before it, and whose they are."""
    window, ahead = attention["window"], attention["ahead"]
    both_ways = "" if ahead == 0 else ", both ways"
    merged = ", and the encoder's" if attention["merged"] else ""
    return (f"sliding {window + (ahead or 0):,}" if window else "full") + both_ways + merged


def _cross(cross: dict[str, Any] | None) -> str:
    """Keys of what a layer looks at of an encoder's reading, and how wide that is."""
    return "" if cross is None else f"{cross['kv_heads']} x {cross['head_dim']} of {cross['source_dim']:,}"


def _bias(inner: bool, output: bool | None) -> str:
    """Which of the four projections have a bias; `output` is None where it is as the others."""
    if output is None or output == inner:
        return "yes" if inner else ""
    return "output" if output else "not output"


def _experts(experts: dict[str, Any] | None) -> str:
    return "" if experts is None else f"{experts['top_k']} of {experts['count']} x {experts['mlp_dim']:,}"


def _keys(run: dict[str, Any]) -> str:
    """Heads and width of the keys, and whose they are where they are not the layer's own."""
    if run["borrows_from"] == "target":
        return "of its target"
    if run["borrows_from"] is not None:
        return f"of layer {run['borrows_from']}"
    attention = run["attention"]
    return f"{attention['kv_heads']} x {attention['head_dim']}" + (
        ", values too" if attention["keys_as_values"] else ""
    )


def ways(stored: list[dict[str, Any]], fit: int | None) -> str:
    """How tensors are stored, a line for each way."""
    rows = [
        (
            way["how"],
            f"{size(way['bytes'])} in {way['modules']:,} module{'s' if way['modules'] > 1 else ''}: "
            f"{', '.join(_kinds(way['kinds']))}"
            if way["modules"]
            else f"{size(way['bytes'])} in {', '.join(way['kinds'])}",
        )
        for way in stored
    ]
    return pairs(rows, fit)


def _kinds(kinds: dict[str, int]) -> list[str]:
    return [kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items() if count]
