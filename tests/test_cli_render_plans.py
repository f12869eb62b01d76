"""Plans of `gemma quantize`: what is drawn of them."""

from __future__ import annotations

from gemma_mlx.cli.render.plans import _fits, _layers, drawn, facts, fitting
from gemma_mlx.quantize.plan import plan
from gemma_mlx.quantize.target import Aim, plan_for
from gemma_mlx.weights.hub import resolve


def test_layers_are_written_short() -> None:
    assert _layers((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert _layers(()) == ""
    assert _layers((3,)) == "3"


def test_macs_are_named_by_their_memory() -> None:
    told = {"context": 8192, "comfortable_gb": 16, "tight_gb": 16}
    assert _fits(told) == "a Mac with 16 GB, with 8,192 tokens"
    assert _fits(told | {"comfortable_gb": 18}) == "a Mac with 18 GB, with 16 GB just so, with 8,192 tokens"
    assert _fits(told | {"comfortable_gb": None}) == "a Mac with 16 GB just so, with 8,192 tokens"
    assert _fits(told | {"comfortable_gb": None, "tight_gb": None}) == "no Mac with 8,192 tokens"


def test_a_plan_as_data() -> None:
    made = plan(resolve("demo"))
    told = facts("demo", made, None, None)
    assert (told["recipe"], told["folder"], told["aim"], told["bytes"]) == ("gemma", None, None, made.nbytes)
    assert fitting(made, 2048) == {"context": 2048, "comfortable_gb": 8, "tight_gb": 8}


def test_a_target_is_no_recipe() -> None:
    aimed = plan_for(resolve("demo"), Aim(bits=4.6, measured=False))
    shown = drawn(facts("demo", aimed.plan, None, aimed), aimed.plan, None, plan=True)
    assert "recipe   gemma, with the bits that lose least in the size aimed at" in shown
