"""What `gemma fit` found, as text: tables, and the memory of one model as a bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gemma_mlx.cli.render.tables import pairs, size, table

# Part of the memory -> its letter in the bar, and what it is.
PARTS: Final = {
    "weights": ("W", "weights"),
    "towers": ("T", "towers for pictures and sound"),
    "drafter": ("D", "drafter"),
    "kv_full": ("F", "keys and values, full layers"),
    "kv_sliding": ("S", "keys and values, sliding layers"),
    "source": ("E", "keys and values of what the encoder read"),
    "states": ("R", "recurrent states"),
    "marks": ("M", "marks to return to"),
    "scores": ("P", "attention scores of the prompt"),
    "working": ("X", "working space"),
}
_FREE: Final = "."
_LONGEST_BAR: Final = 72
_SHORT: Final = {"comfortable": "fits", "needs sysctl": "sysctl"}
_MOST_NAMES: Final = 4


def drawn_survey(facts: dict[str, Any], fit: int | None) -> str:
    """A machine and every Gemma that fits it."""
    answers = facts["models"]
    blocks = [_machine(facts["machine"], fit, _judged(facts["asked"]))]
    blocks += [_models(answers, fit), _told(_SURVEY_NOTES, fit)] if answers else ["No Gemma fits."]
    others = [(answer["model"], ", ".join(answer["also"])) for answer in answers if answer["also"]]
    if others:
        blocks.append("the same sizes:\n" + pairs([(f"  {name}", also) for name, also in others], fit))
    left = [(f"  {why}", _families(names)) for why, names in facts["left_out"].items()]
    if left:
        blocks.append("left out:\n" + _hanging(left, fit))
    commands = [(answer["model"], answer["command"]) for answer in answers if answer["command"]]
    return "\n\n".join([*blocks, *_commands(commands, fit)])


def _models(answers: list[dict[str, Any]], fit: int | None) -> str:
    """A row for each model; where that is too wide, two lines."""
    rows = [
        (
            answer["model"],
            answer["format"],
            _gigabytes(answer["peak_bytes"]),
            answer["verdict"],
            _tokens(answer["largest_context"]),
            _rate(answer["decode"], short=True),
            _rate(answer["prefill"], short=True),
        )
        for answer in answers
    ]
    drawn = table(("model", "format", "memory", "verdict", "context", "writing", "reading"), rows)
    if fit is None or _wide(drawn) <= fit:
        return drawn
    lines = []
    for name, form, memory, verdict, context, writing, reading in rows:
        speed = f", writes {writing}/s" if writing else f", reads {reading}/s" if reading else ""
        told = f"{memory}, {verdict}, context {context}{speed}"
        lines += [f"{name}, {form}", *(f"  {line}" for line in _told(told, fit - 2).splitlines())]
    return "\n".join(lines)


_SURVEY_NOTES: Final = (
    "Best first: comfortable, 10 tokens/s or more, newest, largest. The format is the best that is as easy and as "
    "quick: gemma chat MODEL fetches it. Context is the longest with this verdict; writing and reading are in tokens "
    "per second. gemma fit MODEL says more."
)


def drawn_model(facts: dict[str, Any], fit: int | None) -> str:
    """One model: every size of memory, and one machine if there is one."""
    blocks = [_head(facts, fit)]
    if facts["matrix"]:
        blocks += _matrix(facts["matrix"], fit)
    if facts["machine"] is None:
        blocks.append(_told("Speeds, and the memory part by part: name a Mac, --mac 'MacBook Air M4 16'.", fit))
        return "\n\n".join(blocks)
    blocks.append(_machine(facts["machine"], fit))
    blocks.append(_formats(facts["formats"], fit))
    best = next(answer for answer in facts["formats"] if answer["format"] == facts["best"])
    blocks.append(bar(best, fit))
    blocks.append(pairs(list(_reasons(best)), fit))
    lines = [(answer["format"], answer["command"]) for answer in facts["formats"] if answer["command"]]
    return "\n\n".join([*blocks, *_commands(lines, fit)])


def _formats(answers: list[dict[str, Any]], fit: int | None) -> str:
    """A row for each format, with intervals where there is room."""
    headers = ("format", "bits", "memory", "verdict", "context", "writing", "reading", "first token")
    drawn = ""
    for short in (False, True):
        rows = [
            (
                answer["format"],
                f"{answer['bits_per_weight']:.2f}",
                _gigabytes(answer["peak_bytes"]),
                answer["verdict"],
                _tokens(answer["largest_context"]),
                _rate(answer["decode"], short=short),
                _rate(answer["prefill"], short=short),
                _seconds(answer["first_token"], short=short),
            )
            for answer in answers
        ]
        drawn = table(headers, rows, fit if short else None)
        if fit is None or _wide(drawn) <= fit:
            break
    return drawn


def _reasons(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Why the verdict and the speeds are what they are."""
    yield answer["verdict"], answer["reason"]
    for name, key in (("writing", "decode"), ("reading", "prefill")):
        if answer[key]:
            yield name, f"{_rate(answer[key])} tokens per second. {answer[key]['reason']}"
    if answer["first_token"]:
        yield "first token", f"after {_seconds(answer['first_token'])}."
    if answer["drafting"]:
        yield "drafting", answer["drafting"]["reason"]
    if answer["repository"]:
        yield "fetch", answer["fetch"] if answer["ready"] else f"{answer['fetch']}, packed here"


def bar(answer: dict[str, Any], fit: int | None) -> str:
    """The memory of one answer, a letter for each part, and what they mean."""
    cells = min(fit or _LONGEST_BAR, _LONGEST_BAR)
    memory, limit, peak = answer["memory"], answer["limit_bytes"], answer["peak_bytes"]
    whole = max(limit, peak)
    drawn, end = "", 0
    for part, (letter, _) in PARTS.items():
        end += memory[part]
        drawn += letter * (round(end / whole * cells) - len(drawn))
    drawn += _FREE * (cells - len(drawn))
    margin = (_FREE, "margin", limit - peak) if peak <= limit else ("!", "over the limit", peak - limit)
    legend = [(letter, told, memory[part]) for part, (letter, told) in PARTS.items()] + [margin]
    title = f"{answer['model']} in {answer['format']}: {_gigabytes(peak)} of {_gigabytes(limit)}"
    rows = [(f"  {letter} {size(nbytes)}", told) for letter, told, nbytes in legend if nbytes]
    return "\n".join([_told(title, fit), drawn, pairs(rows, fit)])


def _head(facts: dict[str, Any], fit: int | None) -> str:
    rows = [("model", facts["model"]), ("trained for", f"{facts['context']:,} tokens")]
    asked = facts["asked"] | {"context": min(facts["asked"]["context"], facts["context"])}
    return pairs([*rows, ("judged", _judged(asked)), *(("note", note) for note in facts["notes"])], fit)


def _machine(machine: dict[str, Any], fit: int | None, judged: str = "") -> str:
    chip = machine["chip"]
    wired = machine["wired_limit_mb"]
    source = "" if not machine["live"] else ", as this machine says"
    if wired:
        source += f"; iogpu.wired_limit_mb is {wired}"
    size_gb = f"{machine['memory_bytes'] / (1 << 30):.4g} GB"
    takes = f"{size_gb}, of which models may take {_gigabytes(machine['limit_bytes'])}{source}"
    rows = [("machine", machine["name"]), ("memory", takes)]
    if chip is not None:
        rows.append(("chip", f"{chip['name']}: {chip['cpu_cores']} CPU cores, {chip['gpu_cores']} GPU cores"))
        rows.append(("bandwidth", f"{chip['bandwidth_gbs']:g} GB/s"))
    rows += [("power", machine["power"] or ""), ("judged", judged)]
    return pairs([*rows, *(("note", note) for note in machine["notes"])], fit)


def _judged(asked: dict[str, Any]) -> str:
    parts = [
        f"with a context of {asked['context']:,} tokens, read {asked['chunk']:,} at once",
        f"first token after {asked['prompt']:,}",
    ]
    if asked["batch"] > 1:
        parts.append(f"{asked['batch']} sequences")
    if asked["kv_bits"]:
        parts.append(f"keys and values of full layers in {asked['kv_bits']} bits")
    if asked["images"]:
        parts.append(f"{asked['images']} picture{'s' if asked['images'] > 1 else ''}")
    if asked["audio"]:
        parts.append(f"{asked['audio']:g} s of sound")
    return "; ".join([*parts, *(["text only"] if asked["text_only"] else [])])


def _matrix(sizes: list[dict[str, Any]], fit: int | None) -> list[str]:
    """A row for each size of memory; where that is too wide, a line for each format."""
    names = [cell["format"] for cell in sizes[0]["formats"]]
    headers = ("memory", *names)
    needs = ("needs", *(f"{cell['peak_bytes'] / 1e9:.1f} GB" for cell in sizes[0]["formats"]))

    def rows(short: bool) -> list[tuple[str, ...]]:
        words = _SHORT if short else {}
        cells = [
            (f"{row['memory_gb']} GB", *(words.get(cell["verdict"], cell["verdict"]) for cell in row["formats"]))
            for row in sizes
        ]
        return [needs, *cells]

    drawn = table(headers, rows(short=False))
    if fit is not None and _wide(drawn) > fit:
        drawn = table(headers, rows(short=True)) + "\n\nfits: comfortable. sysctl: with the limit raised."
    if fit is not None and _wide(drawn) > fit:
        drawn = pairs([(name, _spans(sizes, index)) for index, name in enumerate(names)], fit)
    lines = [
        (f"{row['memory_gb']} GB, {cell['format']}", cell["command"])
        for row in sizes
        for cell in row["formats"]
        if cell["command"]
    ]
    return [drawn, *_commands(lines, fit)]


def _spans(sizes: list[dict[str, Any]], index: int) -> str:
    """`9.1 GB: no on 8 GB, comfortable from 16 GB`."""
    found: dict[str, list[int]] = {}
    for row in sizes:
        found.setdefault(row["formats"][index]["verdict"], []).append(row["memory_gb"])
    last = sizes[-1]["memory_gb"]
    spans = [
        f"{verdict} from {where[0]} GB" if where[-1] == last and len(where) > 1 else
        f"{verdict} on {where[0]}" + (f" to {where[-1]}" if len(where) > 1 else "") + " GB"
        for verdict, where in found.items()
    ]  # fmt: skip
    return f"{sizes[0]['formats'][index]['peak_bytes'] / 1e9:.1f} GB: {', '.join(spans)}"


def _commands(lines: list[tuple[str, str]], fit: int | None) -> list[str]:
    if not lines:
        return []
    rows = _hanging([(f"  {what}", command) for what, command in lines], fit, whole=True)
    return [_told("To raise the limit, until the Mac is started again:", fit) + "\n" + rows]


def _hanging(rows: list[tuple[str, str]], fit: int | None, *, whole: bool = False) -> str:
    """Pairs, or where they would be squeezed, the value below its name, or `whole` and unbroken."""
    left = max(len(name) for name, _ in rows)
    wide = max(len(value) for _, value in rows)
    if fit is None or (left + 2 + wide <= fit if whole else left <= fit // 2):
        return pairs(rows, fit)
    return "\n".join(
        line for name, value in rows for line in (_told(name, fit), value if whole else pairs([("   ", value)], fit))
    )


def _told(text: str, fit: int | None) -> str:
    """A sentence, broken at spaces."""
    indent = " " * (len(text) - len(text.lstrip()))
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else indent + word
        if fit is not None and lines[-1] and len(longer) > fit:
            lines.append(indent + word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _wide(text: str) -> int:
    return max(len(line) for line in text.splitlines())


def _families(names: list[str]) -> str:
    """`t5gemma (32), gemma4:31b`: what stands before the colon, where there are several."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(":")[0], []).append(name)
    return ", ".join(
        ", ".join(some) if len(some) <= _MOST_NAMES else f"{family} ({len(some)})" for family, some in found.items()
    )


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"


def _tokens(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _rate(speed: dict[str, Any] | None, *, short: bool = False) -> str:
    """`10.8`, or `10.8 (9.1-12.4)`."""
    if speed is None:
        return ""
    rates = [_figure(speed[key]) for key in ("tokens_per_second", "low", "high")]
    return rates[0] if short else f"{rates[0]} ({rates[1]}-{rates[2]})"


def _seconds(wait: dict[str, Any] | None, *, short: bool = False) -> str:
    if wait is None:
        return ""
    times = [_figure(wait[key]) for key in ("seconds", "low", "high")]
    return f"{times[0]} s" if short else f"{times[0]} s ({times[1]}-{times[2]})"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"
