"""Verdicts, contexts and choices: against sums done by hand, and what may never happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

import gemma_mlx
from gemma_mlx.errors import InputError
from gemma_mlx.macs import GIB, find, macs
from gemma_mlx.quantize import machine
from gemma_mlx.quantize.fit import (
    MARGIN_BYTES,
    VERDICTS,
    Answer,
    Asked,
    Judge,
    best,
    bounds,
    fit,
    judged,
    matrix,
    survey,
    sysctl,
)
from gemma_mlx.quantize.machine import Machine
from gemma_mlx.quantize.subject import of

TEXT = Asked(text_only=True)
CHUNK = 512
WORKING = 0.25e9 + 0.85e9 * 0.5**0.6


def _on(words: str) -> Machine:
    return machine.of(find(words))


def _answer(name: str, form: str, gigabytes: int, asked: Asked = TEXT) -> Answer:
    (answer,) = Judge(of(name), asked, form).answers(machine.sized(gigabytes))
    return answer


# Model, format, parameters of the decoder in 1e9, bits, bytes of full keys and values per token, of sliding ones,
# window, heads and rows of scores over all keys (0 where a kernel fuses them).
BY_HAND: list[tuple[str, str, float, float, int, int, int, int]] = [
    ("gemma4:e2b", "4-bit", 2.280, 4.5, 6_144, 12_288, 512, 8),
    ("gemma4:12b", "4-bit", 11.907, 4.5, 16_384, 327_680, 1024, 16),
    ("gemma4:12b", "QAT", 11.907, 5.0, 16_384, 327_680, 1024, 16),
    ("gemma4:31b", "6-bit", 30.696, 6.5, 81_920, 819_200, 1024, 32),
    ("gemma4:31b", "8-bit", 30.696, 8.5, 81_920, 819_200, 1024, 32),
    ("gemma4:31b", "bf16", 30.696, 16.0, 81_920, 819_200, 1024, 32),
    ("gemma3:27b", "6-bit", 27.008, 6.5, 81_920, 425_984, 1024, 0),
    ("gemma3:27b", "bf16", 27.008, 16.0, 81_920, 425_984, 1024, 0),
]


FULL_LAYERS: Final = {"gemma4:e2b": 3, "gemma4:12b": 8, "gemma4:31b": 10, "gemma3:27b": 10}


@pytest.mark.parametrize(("name", "form", "parameters", "bits", "full", "sliding", "window", "heads"), BY_HAND)
def test_memory_by_hand(
    name: str, form: str, parameters: float, bits: float, full: int, sliding: int, window: int, heads: int
) -> None:
    memory = _answer(name, form, 64).memory
    assert memory.weights / 1e9 == pytest.approx(parameters * bits / 8, rel=0.002)
    assert memory.kv_full == 8192 * full
    assert memory.kv_sliding == (window - 1 + 64 + CHUNK) * sliding
    assert memory.marks == 2 * (window - 1) * sliding
    assert memory.scores == heads * CHUNK * 8192 * 2
    # A full layer's buffer, which is there twice while it is renewed.
    assert memory.working == int(WORKING) + 8192 * full // FULL_LAYERS[name]
    assert memory.towers == 0


@pytest.mark.parametrize(
    ("name", "form", "gigabytes", "verdict"),
    [
        ("gemma4:e2b", "4-bit", 8, "comfortable"),  # 2.2 of 5.7 GB
        ("gemma4:e2b", "8-bit", 8, "comfortable"),  # 3.4: the per-layer table is on the disk
        ("gemma4:12b", "4-bit", 8, "no"),
        ("gemma4:12b", "4-bit", 16, "comfortable"),  # 9.0 of 12.7
        ("gemma4:12b", "8-bit", 16, "no"),  # 14.9
        ("gemma3:27b", "4-bit", 16, "no"),
        ("gemma3:27b", "4-bit", 24, "needs sysctl"),  # 19.1 of 19.1: what is published holds its head twice
        ("gemma3:27b", "QAT", 24, "needs sysctl"),  # 19.9 of 19.1
        ("gemma3:27b", "4-bit", 32, "comfortable"),
        ("gemma3:27b", "8-bit", 32, "no"),  # 31.7 of 26.8, and 30.1 at most
        ("gemma3:27b", "bf16", 64, "needs sysctl"),  # 57.1 of 55.7
        ("gemma4:31b", "4-bit", 24, "needs sysctl"),  # 22.0 of 19.1, and 22.5 at most
        ("gemma4:31b", "4-bit", 32, "comfortable"),  # 22.0 of 26.8
        ("gemma4:31b", "8-bit", 64, "comfortable"),  # 37.4 of 55.7
        ("gemma4:31b", "bf16", 64, "no"),  # 66.1
    ],
)
def test_verdicts_by_hand(name: str, form: str, gigabytes: int, verdict: str) -> None:
    answer = _answer(name, form, gigabytes)
    assert answer.verdict == verdict
    assert (answer.command is not None) == (verdict == "needs sysctl")


def test_a_file_that_calls_itself_4_bit_is_refused() -> None:
    """The 12B of 10.98 GB that ran at 2.7 tokens a second on a MacBook Air with 16 GB."""
    judge = Judge(of("gemma4:12b"), replace(TEXT, context=2048))
    on = _on("MacBook Air M3 16")
    peak = judge.memory(10_987_772_576 - of("gemma4:12b").towers.nbytes, judge.context, on.kernels).peak
    assert judged(peak, on)[0] == "no"
    assert judged(peak, _on("MacBook Air M3 24"))[0] == "comfortable"


def test_boundaries() -> None:
    on = machine.sized(64)
    limit, ceiling = on.limit_bytes, on.ceiling_bytes
    assert ceiling == 56 * GIB
    for peak, verdict in (
        (limit - MARGIN_BYTES, "comfortable"),
        (limit - MARGIN_BYTES + 1, "tight"),
        (limit, "tight"),
        (limit + 1, "needs sysctl"),
        (ceiling, "needs sysctl"),
        (ceiling + 1, "no"),
    ):
        assert judged(peak, on)[0] == verdict
    small = machine.sized(8)  # macOS needs more than Metal leaves it
    assert small.ceiling_bytes < small.limit_bytes
    assert [judged(small.ceiling_bytes + more, small)[0] for more in (-(150 << 20), 1)] == ["comfortable", "no"]


def test_other_machines_have_no_limit_to_raise() -> None:
    on = replace(machine.sized(64), kernels=replace(machine.sized(64).kernels, backend="cpu"))
    assert {judged(peak, on)[0] for peak in range(0, 80 * GIB, GIB)} == {"comfortable", "no"}
    assert judged(on.limit_bytes, on)[0] == "tight"
    assert "Mac" not in judged(80 * GIB, on)[1]


@pytest.mark.parametrize("gigabytes", machine.sizes())
def test_the_line_for_sysctl_is_enough_and_no_more_than_there_is(gigabytes: int) -> None:
    on = machine.sized(gigabytes)
    for peak in range(on.limit_bytes + 1, on.ceiling_bytes, max((on.ceiling_bytes - on.limit_bytes) // 7, 1)):
        line = sysctl(peak, on)
        start, _, number = line.partition("=")
        assert start == "sudo sysctl iogpu.wired_limit_mb"
        raised = replace(on, limit_bytes=int(number) << 20)
        assert raised.limit_bytes <= on.ceiling_bytes
        assert judged(peak, raised)[0] in ("comfortable", "tight")


def test_every_mac_answers() -> None:
    judge = Judge(of("gemma3:4b"), Asked())
    for mac in macs():
        on = machine.of(find(f"{mac.identifier} {mac.chip.name} {mac.memory_gb} GB"))
        answer = best(judge.answers(on))
        assert answer.verdict == "comfortable", mac
        assert answer.decode is not None
        assert answer.decode.low < answer.decode.tokens_per_second < answer.decode.high
        assert answer.first_token is not None
        assert answer.first_token.seconds > 0


@pytest.mark.parametrize("name", ["gemma3:12b", "gemma4:e4b", "gemma4:31b", "gemma2:9b", "recurrentgemma:9b"])
def test_more_memory_never_hurts(name: str) -> None:
    rows = matrix(Judge(of(name), Asked()))
    assert list(rows) == list(machine.sizes())
    for answers in zip(*rows.values(), strict=True):
        ranks = [VERDICTS.index(answer.verdict) for answer in answers]
        assert ranks == sorted(ranks, reverse=True)
        for verdict in VERDICTS:
            contexts = [answer.largest_context or 0 for answer in answers if answer.verdict == verdict]
            assert contexts == sorted(contexts)


@pytest.mark.parametrize(
    "values",
    [
        [{"context": context} for context in (256, 1000, 4096, 8192, 30_000, 131_072)],
        [{"chunk": chunk} for chunk in (64, 256, 512, 1024)],
        [{"batch": batch} for batch in (1, 2, 4)],
        [{"kv_bits": bits} for bits in (4, 8, None)],
        [{"text_only": True}, {}, {"images": 1}, {"images": 20}],
        [{}, {"audio": 1.0}, {"audio": 100.0}],
    ],
)
def test_asking_for_more_takes_more(values: list[dict[str, Any]]) -> None:
    model = of("gemma4:12b")
    peaks = [Judge(model, Asked(**each), "4-bit").answers(machine.sized(64))[0].memory.peak for each in values]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]


@pytest.mark.parametrize(("name", "form"), [("gemma4:12b", "6-bit"), ("gemma3:27b", "4-bit"), ("gemma4:e2b", "mixed")])
def test_the_largest_context_is_the_largest(name: str, form: str) -> None:
    for gigabytes in (8, 16, 24, 32):
        on = machine.sized(gigabytes)
        (answer,) = Judge(of(name), Asked(), form).answers(on)
        if answer.verdict == "no" or answer.largest_context == of(name).spec.context:
            continue
        assert answer.largest_context is not None
        at, behind = (
            Judge(of(name), Asked(context=context), form).answers(on)[0].memory.peak
            for context in (answer.largest_context, answer.largest_context + 1024)
        )
        assert at <= bounds(on)[answer.verdict] < behind


def test_a_context_that_is_too_long() -> None:
    answer = _answer("gemma3:12b", "4-bit", 16, replace(TEXT, context=100_000))
    assert answer.verdict == "no"
    assert answer.largest_context is not None
    assert 8192 < answer.largest_context < 100_000


def test_no_longer_than_it_was_trained_for() -> None:
    answer = _answer("vaultgemma:1b", "4-bit", 16)
    assert (answer.context, answer.largest_context) == (1024, 1024)


def test_towers_and_soft_tokens() -> None:
    plain, seeing = (_answer("gemma3:4b", "8-bit", 32, asked) for asked in (TEXT, Asked(images=2)))
    assert seeing.context == plain.context + 2 * 258
    assert seeing.memory.towers == of("gemma3:4b").towers.nbytes > 0.8e9
    assert seeing.memory.kv_full > plain.memory.kv_full


def test_per_layer_tables() -> None:
    for form, bits in (("bf16", 16.0), ("4-bit", 4.5), ("mixed", 8.5)):
        disk, memory = (_answer("gemma4:e2b", form, 64, replace(TEXT, per_layer=place)) for place in ("disk", "memory"))
        assert memory.memory.weights - disk.memory.weights == pytest.approx(2_348_810_240 * bits / 8)
        assert memory.memory.cache == disk.memory.cache
    assert _answer("gemma4:e2b", "8-bit", 8, replace(TEXT, per_layer="memory")).verdict == "no"  # 5.9 GB


def test_embedders_keep_nothing_and_write_nothing() -> None:
    (answer,) = Judge(of("embeddinggemma:300m"), Asked(), "8-bit").answers(_on("MacBook Air M4 16"))
    assert answer.memory.cache == 0
    assert answer.memory.scores > 0
    assert answer.decode is None
    assert answer.first_token is None
    assert answer.prefill is not None


def test_prompts_that_see_both_ways_are_read_at_once() -> None:
    short, long = (_answer("paligemma:3b-pt-224", "8-bit", 64, replace(TEXT, context=n)) for n in (4096, 8192))
    assert long.memory.scores == 4 * short.memory.scores


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": 0}, {"prompt": 0}, {"chunk": 0}, {"batch": -1}, {"kv_bits": 5}, {"images": -1}, {"audio": -0.1},
        {"audio": float("nan")}, {"audio": float("inf")}, {"text_only": True, "images": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_asked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Asked(**wrong)
    assert caught.value.hint
    if "batch" in wrong:
        assert caught.value.hint == "--batch 1"


@pytest.mark.parametrize(("name", "asked"), [("gemma3:1b", Asked(images=1)), ("gemma3:4b", Asked(audio=1.0))])
def test_what_a_model_does_not_read(name: str, asked: Asked) -> None:
    with pytest.raises(InputError, match="reads no"):
        Judge(of(name), asked)


def test_more_pictures_than_it_has_tokens() -> None:
    with pytest.raises(InputError, match="Pictures and sound are 8,208 tokens, and paligemma:3b-pt-448 has 8,192"):
        Judge(of("paligemma:3b-pt-448"), Asked(images=8))
    found, left_out = survey(machine.sized(64), Asked(images=50))
    assert "gemma3:4b" in {answer.model for answer, _ in found}
    assert any(name.startswith("paligemma:") for name in left_out["too short for the pictures and the sound"])


def test_a_format_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match="gemma2:9b cannot be had in QAT: it was not trained for it"):
        Judge(of("gemma2:9b"), Asked(), "qat")


def test_best_first() -> None:
    on = _on("MacBook Air M4 16")
    found, left_out = survey(on, Asked())
    ranks = [(VERDICTS.index(answer.verdict), not answer.quick) for answer, _ in found]
    assert ranks == sorted(ranks)
    assert found[0][0].model == "gemma4:12b"
    assert [answer.model for answer, _ in found[:3]] == ["gemma4:12b", "gemma4:e4b", "gemma4:e2b"]
    assert "gemma4:31b" in left_out["too large"]
    assert all(answer.verdict != "no" for answer, _ in found)
    seeing = {answer.model for answer, _ in survey(on, Asked(images=1))[0]}
    assert "gemma3:4b" in seeing
    assert "gemma3:1b" not in seeing
    assert {answer.format for answer, _ in survey(on, Asked(), "6bit")[0]} == {"6-bit"}


def test_the_finest_format_that_is_easy_and_quick() -> None:
    judge = Judge(of("gemma4:12b"), Asked())
    assert best(judge.answers(_on("m4 pro 48"))).format == "8-bit"
    assert best(judge.answers(_on("MacBook Air M4 16"))).format == "QAT"  # 6 bits fit, and are slower than 10 tokens/s
    assert best(judge.answers(machine.sized(16))).format == "6-bit"  # where no speed is known
    slow = best(Judge(of("gemma3:27b"), Asked(text_only=True)).answers(_on("MacBook Air M4 32")))
    assert slow.format == "QAT"  # none is quick, and it is hardly slower than the quickest


def test_the_public_function() -> None:
    answers = gemma_mlx.fit("gemma3:4b", mac="MacBook Air M4 16", context=4096)
    assert gemma_mlx.fit is fit
    assert [answer.format for answer in answers] == ["bf16", "8-bit", "6-bit", "4-bit", "mixed", "QAT"]
    assert all(answer.context == 4096 for answer in answers)
    (here, *_) = fit("demo")
    assert here.decode is None or here.decode.tokens_per_second > 0
    assert fit(mac="MacBook Air M4 16")[0].model == "gemma4:12b"
