"""How fast a model answers on a chip, predicted from what it reads, computes and launches.

A decode step takes the time its bytes take at the bandwidth a chip of this size reaches, and a little for each kernel.
Reading a prompt takes the time its products take at the rate a GPU core of this generation reaches. The coefficients
are in speed.json; tests/benchmarks/fit_speed.py finds them from published measurements. docs/concepts/speed.md has the
errors, and what is not modelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from gemma_mlx.generate.denoising import Denoising
from gemma_mlx.macs import Chip
from gemma_mlx.quantize.costs import Prompt, Step
from gemma_mlx.quantize.traffic import CHUNK, Traffic

Bound = Literal["bandwidth", "launches", "arithmetic"]

# Of a canvas: it must repeat itself once, or as often as asked, before it counts as done; and the most there are.
STEPS: Final = (1 + Denoising.stability_threshold, Denoising.steps)
NEWEST: Final = 5  # the last generation that was measured; later ones are taken to be like it


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What was fitted.

    Attributes:
        efficiency: the share of the stated bandwidth that a decode step reaches, by the chip's tier.
        first_generation: a factor on it for M1 chips.
        launch_seconds: per kernel, by generation.
        kv_cost: bytes of keys and values count so many times: their kernel is less efficient than a matrix's.
        wide_kv_cost: the same, where heads of 512 are not fused.
        expert_cost: the same for the weights of experts, which are gathered.
        tflops_per_core: that a GPU core reaches in prefill, by generation; 5 stands for cores with matrix units.
        start_seconds: before the first product of a prompt.
        matrix_unit_gigabyte_seconds: per gigabyte of weights, before a prompt is read by cores with matrix units. Seen
            in every measurement; nobody says why.
        narrow: the width of a model at which its products run at half the rate.
        sparse: the share of that rate that products with experts reach.
        score_bytes: that move for each score of attention that is not fused.
        measured: chips of which there are points enough, for decode and for prefill.
        spread: kind -> bound -> (low, high), factors on a speed between which nine in ten points lie.
    """

    efficiency: Mapping[str, float]
    first_generation: float
    launch_seconds: Mapping[int, float]
    kv_cost: float
    wide_kv_cost: float
    expert_cost: float
    tflops_per_core: Mapping[int, float]
    start_seconds: float
    matrix_unit_gigabyte_seconds: float
    narrow: float
    sparse: float
    score_bytes: float
    measured: Mapping[str, tuple[str, ...]]
    spread: Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A prediction.

    Attributes:
        tokens_per_second: expected.
        low, high: nine in ten measurements lie between them.
        bound: what takes the largest part of the time.
        reason: that, as a sentence.
    """

    tokens_per_second: float
    low: float
    high: float
    bound: Bound
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Seconds until the first token of an answer is there, as `Speed` has tokens per second."""

    seconds: float
    low: float
    high: float
    bound: Bound
    reason: str


@dataclass(frozen=True, kw_only=True)
class Drafting:
    """What a drafter costs beside its target.

    Attributes:
        seconds: of one draft.
        of_a_step: the same, as a part of the target's own step.
        reason: what that means, as a sentence or two.
    """

    seconds: float
    of_a_step: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Seconds by what they are spent on; they add up."""

    bandwidth: float
    launches: float
    arithmetic: float = 0.0

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.bandwidth + self.launches + self.arithmetic

    @property
    def bound(self) -> Bound:
        """The largest."""
        parts: dict[Bound, float] = {
            "bandwidth": self.bandwidth, "launches": self.launches, "arithmetic": self.arithmetic
        }  # fmt: skip
        return max(parts, key=lambda name: parts[name])


def decode(traffic: Traffic, chip: Chip, context: int, *, kv_bits: float = 16.0) -> Speed:
    """Tokens per second while an answer is written, one sequence at a time.

    Args:
        traffic: of the model in its format; see `Traffic.at`.
        chip: that runs it.
        context: tokens in the cache.
        kv_bits: of one number of a key or value.
    """
    fitted = coefficients()
    step = traffic.step(context, kv_bits=kv_bits)
    terms = step_terms(step, chip, fitted)
    gigabytes = step.nbytes / 1e9
    if terms.bound == "bandwidth":
        share = 100 * gigabytes / terms.seconds / chip.bandwidth_gbs
        reason = (
            f"Each token reads {gigabytes:.3g} GB: {share:.0f} % of the {chip.bandwidth_gbs:g} GB/s of the {chip.name}."
        )
    else:
        milliseconds = 1e3 * terms.launches
        reason = (
            f"Launching {step.launches:,} kernels takes {milliseconds:.1f} ms, longer than reading {gigabytes:.2g} GB."
        )
    low, high = _spread("decode", chip, terms.bound, fitted)
    rate = 1 / terms.seconds
    return Speed(tokens_per_second=rate, low=rate * low, high=rate * high, bound=terms.bound, reason=reason)


def prefill(traffic: Traffic, chip: Chip, tokens: int, *, chunk: int = CHUNK) -> Speed:
    """Tokens per second while a prompt is read.

    Args:
        traffic: of the model in its format.
        chip: that runs it.
        tokens: of the prompt; at least 1.
        chunk: tokens read at once.
    """
    fitted = coefficients()
    prompt = traffic.prompt(tokens, chunk)
    terms = prompt_terms(prompt, chip, fitted)
    low, high = _spread("prefill", chip, terms.bound, fitted)
    rate = tokens / terms.seconds
    return Speed(
        tokens_per_second=rate,
        low=rate * low,
        high=rate * high,
        bound=terms.bound,
        reason=_why(prompt, terms, chip),
    )


def first_token(traffic: Traffic, chip: Chip, tokens: int, *, chunk: int = CHUNK, kv_bits: float = 16.0) -> Wait:
    """Seconds from a prompt to the first token of its answer: reading it, and one step."""
    reading = prefill(traffic, chip, tokens, chunk=chunk)
    step = decode(traffic, chip, tokens, kv_bits=kv_bits)
    return Wait(
        seconds=tokens / reading.tokens_per_second + 1 / step.tokens_per_second,
        low=tokens / reading.high + 1 / step.high,
        high=tokens / reading.low + 1 / step.low,
        bound=reading.bound,
        reason=reading.reason,
    )


def answering(
    traffic: Traffic, chip: Chip, context: int, tokens: int, *, canvas: int | None, chunk: int, kv_bits: float
) -> tuple[Speed, Wait]:
    """How fast an answer is written behind a context, and how long a prompt waits for it.

    Args:
        traffic: of the model in its format.
        chip: that runs it.
        context: tokens in the cache.
        tokens: of the prompt.
        canvas: positions of a canvas, of a model that fills one after the other.
        chunk: tokens read at once.
        kv_bits: of one number of a key or value.
    """
    if canvas is None:
        wait = first_token(traffic, chip, tokens, chunk=chunk, kv_bits=kv_bits)
        return decode(traffic, chip, context, kv_bits=kv_bits), wait
    return canvases(traffic, chip, context, canvas, STEPS), first_canvas(
        traffic, chip, tokens, canvas, STEPS, chunk=chunk
    )


def canvases(traffic: Traffic, chip: Chip, text: int, length: int, steps: tuple[int, int]) -> Speed:
    """Tokens per second while canvases are filled, each as long as it is, and read before the next.

    How many steps a canvas takes is its text's to say. What is expected is the speed with the most; the fewest are in
    the interval.

    Args:
        traffic: of the model in its format.
        chip: that runs it.
        text: tokens before the canvas.
        length: positions of it.
        steps: the fewest and the most for one canvas.
    """
    fitted = coefficients()
    terms = canvas_terms(traffic.canvas(text, length), traffic.launches, chip, fitted)
    reading = prompt_terms(traffic.prompt(length), chip, fitted).seconds
    low, high = _spread("prefill", chip, terms.bound, fitted)
    least, most = (length / (count * terms.seconds + reading) for count in steps)
    return Speed(
        tokens_per_second=most,
        low=most * low,
        high=least * high,
        bound=terms.bound,
        reason=f"A canvas of {length} takes {steps[0]} to {steps[1]} steps of {1e3 * terms.seconds:.3g} ms, as its "
        f"text needs: with {steps[1]} it is {most:.3g}, with {steps[0]} it is {least:.3g}.",
    )


def first_canvas(
    traffic: Traffic, chip: Chip, tokens: int, length: int, steps: tuple[int, int], *, chunk: int = CHUNK
) -> Wait:
    """Seconds from a prompt to the first canvas, which no token comes before; arguments as `canvases` has them."""
    reading = prefill(traffic, chip, tokens, chunk=chunk)
    terms = canvas_terms(traffic.canvas(tokens, length), traffic.launches, chip, coefficients())
    low, high = _spread("prefill", chip, terms.bound, coefficients())
    return Wait(
        seconds=tokens / reading.tokens_per_second + steps[1] * terms.seconds,
        low=tokens / reading.high + steps[0] * terms.seconds / high,
        high=tokens / reading.low + steps[1] * terms.seconds / low,
        bound=terms.bound,
        reason=reading.reason,
    )


def drafted(target: Traffic, drafter: Traffic, chip: Chip, context: int, *, kv_bits: float = 16.0) -> Drafting:
    """What a draft costs, and how many of four must be right for it to pay.

    How often drafts are right depends on the text and was not published for these drafters, so no gain is predicted.

    Args:
        target: the model that checks drafts.
        drafter: the one that makes them, in its format; it reads keys and values of the target.
        chip: that runs both.
        context: tokens in the cache.
        kv_bits: of one number of a key or value.
    """
    fitted = coefficients()
    draft = step_terms(drafter.step(context, kv_bits=kv_bits), chip, fitted).seconds
    step = step_terms(target.step(context, kv_bits=kv_bits), chip, fitted).seconds
    return Drafting(
        seconds=draft,
        of_a_step=draft / step,
        reason=f"A draft takes {1e3 * draft:.2g} ms, {100 * draft / step:.0f} % of a step of the target. Were checking "
        f"four as quick as one step, they pay where more than {4 * draft / step:.2g} of them are right on average. "
        "How many are is not known, so no gain is predicted.",
    )


def canvas_terms(step: Prompt, launches: int, chip: Chip, fitted: Coefficients) -> Terms:
    """Where the time of a step over a canvas goes; it launches as many kernels as a token does."""
    reading = prompt_terms(step, replace(chip, neural=False), fitted)  # what a prompt waits for, a step does not
    arithmetic = prompt_terms(step, chip, fitted).arithmetic
    return Terms(
        bandwidth=reading.bandwidth,
        launches=launches * _nearest(fitted.launch_seconds, chip.generation),
        arithmetic=arithmetic,
    )


def step_terms(step: Step, chip: Chip, fitted: Coefficients) -> Terms:
    """Where the time of one token of an answer goes."""
    nbytes = (
        step.weight_bytes
        + fitted.expert_cost * step.routed_bytes
        + fitted.kv_cost * step.kv_bytes
        + fitted.wide_kv_cost * step.unfused_kv_bytes
        # where the fused kernel begins, a step does not become quicker than it was before
        + max(fitted.wide_kv_cost * step.late_kv_bytes[0], fitted.kv_cost * step.late_kv_bytes[1])
    )
    return Terms(
        bandwidth=nbytes / 1e9 / reached_gbs(chip, fitted),
        launches=step.launches * _nearest(fitted.launch_seconds, chip.generation),
    )


def prompt_terms(prompt: Prompt, chip: Chip, fitted: Coefficients) -> Terms:
    """Where the time of reading a prompt goes."""
    gigabytes = prompt.resident_bytes / 1e9
    rate = core_tflops(chip, fitted) * chip.gpu_cores * prompt.width / (prompt.width + fitted.narrow)
    if prompt.sparse:
        rate *= fitted.sparse
    moved = (prompt.chunks * prompt.weight_bytes + prompt.once_bytes + fitted.score_bytes * prompt.scores) / 1e9
    bandwidth = moved / reached_gbs(chip, fitted)
    return Terms(
        bandwidth=bandwidth + (fitted.matrix_unit_gigabyte_seconds * gigabytes if chip.neural else 0.0),
        launches=fitted.start_seconds,
        arithmetic=prompt.flops / 1e12 / rate,
    )


def reached_gbs(chip: Chip, fitted: Coefficients) -> float:
    """The bandwidth that a decode step reaches, 1e9 bytes per second."""
    first = fitted.first_generation if chip.generation == 1 else 1.0
    return fitted.efficiency[chip.tier] * first * chip.bandwidth_gbs


def core_tflops(chip: Chip, fitted: Coefficients) -> float:
    """What a GPU core reaches in prefill; a phone's, and what comes after the newest, are like the newest."""
    if chip.neural:
        return fitted.tflops_per_core[NEWEST]
    return _nearest(fitted.tflops_per_core, min(chip.generation or NEWEST, NEWEST - 1))


@cache
def coefficients() -> Coefficients:
    """What tests/benchmarks/fit_speed.py wrote."""
    return parsed(json.loads(Path(__file__).with_name("speed.json").read_text(encoding="utf-8")))


def parsed(values: dict[str, Any]) -> Coefficients:
    """JSON's keys are text, and its tuples lists."""
    return Coefficients(
        **values
        | {
            key: {int(name): number for name, number in values[key].items()}
            for key in ("launch_seconds", "tflops_per_core")
        }
        | {"measured": {kind: tuple(chips) for kind, chips in values["measured"].items()}}
        | {
            "spread": {
                kind: {bound: (low, high) for bound, (low, high) in bounds.items()}
                for kind, bounds in values["spread"].items()
            }
        }
    )


def _nearest(table: Mapping[int, float], generation: int) -> float:
    """The entry of a generation; of the last one where it is later, or is none."""
    return table[generation] if generation in table else table[max(table)]


def _spread(kind: Literal["decode", "prefill"], chip: Chip, bound: Bound, fitted: Coefficients) -> tuple[float, float]:
    """Factors on a speed; wider for a chip of which few measurements or none are known."""
    known = chip.name in fitted.measured[kind]
    return fitted.spread[kind if known else f"{kind}, unknown chip"][bound]


def _why(prompt: Prompt, terms: Terms, chip: Chip) -> str:
    seconds = f"{100 * getattr(terms, terms.bound) / terms.seconds:.0f} % of the time"
    if terms.bound == "arithmetic":
        rate = prompt.flops / 1e12 / terms.arithmetic
        return f"{prompt.flops / 1e12:.3g} TFLOP at {rate:.3g} TFLOP/s on {chip.gpu_cores} GPU cores take {seconds}."
    if terms.bound == "bandwidth":
        gigabytes = (prompt.chunks * prompt.weight_bytes + prompt.once_bytes) / 1e9
        often = "" if prompt.chunks == 1 else f" in {prompt.chunks} chunks"
        return f"Reading {gigabytes:.3g} GB of weights{often}, and scores, takes {seconds}."
    return f"The prompt is short: starting takes {seconds}."
