"""Judging: 8 bits against 4, every kind of model, a teacher that runs once, and what cannot be compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import gemma_mlx
from gemma_mlx.admission import Subject
from gemma_mlx.errors import InputError, MemoryLimitError
from gemma_mlx.quantize import judge as judging
from gemma_mlx.quantize.admission import Admission, kernels_here
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.judge import ALL, Judgement, Side, Task, judge
from gemma_mlx.quantize.plan import plan
from gemma_mlx.quantize.texts import KINDS, Passage
from gemma_mlx.weights.hub import resolve
from tests.tiny import DECODERS, write_tiny, write_tiny_embedder

QUICK = Task.of(quick=True)
SHORT = Task(
    chosen=(Passage("english", "a", "It was late in the year."), Passage("code", "b", "x = 1 + 2")), name="two"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Side]:
    """The model in the box in so many bits."""
    folder = tmp_path_factory.mktemp("packed")

    def made(bits: int) -> Side:
        target = folder / f"demo-{bits}bit"
        if not target.exists():
            quantize(plan(resolve("demo"), recipe_name="uniform", bits=bits), target)
        return Side(name=str(target), folder=target)

    return made


DEMO = Side(name="demo", folder=resolve("demo"))


def with_tokenizer(folder: Path, kind: str, **changes: Any) -> Side:
    write_tiny(folder, kind, vocab_size=2048, **changes)
    shutil.copyfile(resolve("demo") / "tokenizer.model", folder / "tokenizer.model")
    return Side(name=str(folder), folder=folder)


def _of(judgement: Judgement, name: str) -> float:
    return judgement.kinds[0].values[name]


def test_8_bits_are_at_least_20_times_nearer_than_4(packed: Callable[[int], Side], kept: Path) -> None:
    four, eight = (judge(DEMO, packed(bits), QUICK, kept=kept) for bits in (4, 8))
    assert 20 * _of(eight, "kl_mean") < _of(four, "kl_mean")
    assert 20 * _of(eight, "kl_p999") < _of(four, "kl_p999")
    assert _of(eight, "same_top") > _of(four, "same_top") > 0.5
    assert len(four.layers) == 6
    assert all(5 * fine < coarse for fine, coarse in zip(eight.layers, four.layers, strict=True))
    assert _of(four, "perplexity_teacher") == _of(eight, "perplexity_teacher")
    assert [one.kind for one in four.kinds] == [ALL, *KINDS]
    assert four.kinds[0].count == sum(one.count for one in four.kinds[1:]) > 500
    assert (four.teacher, four.student, four.measure, four.top_k) == ("demo", "demo-4bit", "tokens", 256)


def test_the_figures_are_those_of_the_whole_logits(packed: Callable[[int], Side], kept: Path) -> None:
    found = judge(DEMO, packed(4), SHORT, kept=kept)
    before, after = gemma_mlx.load("demo"), gemma_mlx.load(packed(4).folder)
    divergences, same, surprise = [], [], []
    for passage in SHORT.chosen:
        tokens = before.processor.tokenizer.encode(passage.text, bos=True)
        teacher, student = before.logits(tokens)[0, :-1], after.logits(tokens)[0, :-1]
        divergences += full_divergence(teacher, student).tolist()
        same += (teacher.argmax(axis=-1) == student.argmax(axis=-1)).tolist()
        logs = np.array(student - mx.logsumexp(student, axis=-1, keepdims=True))
        surprise += [-logs[place, token] for place, token in enumerate(tokens[1:])]
    assert found.kinds[0].count == len(divergences)
    assert 0.7 * np.mean(divergences) < _of(found, "kl_mean") <= np.mean(divergences) * (1 + 1e-5)
    assert _of(found, "same_top") == pytest.approx(np.mean(same))
    assert _of(found, "perplexity_student") == pytest.approx(np.exp(np.mean(surprise)), rel=1e-4)


def test_a_model_is_no_way_from_itself(kept: Path) -> None:
    found = judge(DEMO, DEMO, SHORT, kept=kept)
    assert _of(found, "kl_mean") < 1e-9
    assert _of(found, "same_top") == 1
    assert max(found.layers) < 1e-6


def test_the_teacher_runs_once(packed: Callable[[int], Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    load = judging.load
    monkeypatch.setattr(judging, "load", lambda name, **more: (opened.append(name), load(name, **more))[1])
    told: list[tuple[str, int, int]] = []
    first = judge(DEMO, packed(8), SHORT, kept=tmp_path, on_read=lambda *each: told.append(each))
    second = judge(DEMO, packed(8), SHORT, kept=tmp_path)
    assert first == second
    assert opened == ["demo", packed(8).name, packed(8).name]
    assert [who for who, *_ in told] == ["teacher"] * 3 + ["student"] * 3
    assert told[0][1] == 0
    assert told[2][1] == told[2][2] == told[5][1]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", [*DECODERS, "t5gemma", "t5gemma2"])
def test_every_kind_of_decoder(tmp_path: Path, kind: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": [64] * 3 if "3n" in kind else 64}
    before = with_tokenizer(tmp_path / "before", kind, **sizes)
    target = tmp_path / "after"
    quantize(plan(before.folder, recipe_name="uniform", bits=4, group_size=32), target)
    found = judge(before, Side(name=str(target), folder=target), SHORT, kept=tmp_path / "kept")
    assert found.measure == ("canvas" if "diffusion" in kind else "answers" if "t5" in kind else "tokens")
    assert 0 < _of(found, "kl_mean") < _of(found, "kl_p999") < 5
    assert all(0 < error < 1.5 for error in found.layers)
    assert found.layers


def test_an_embedding_model_by_its_vectors(tmp_path: Path, kept: Path) -> None:
    write_tiny_embedder(tmp_path / "before", vocab=2048, context=512)
    shutil.copyfile(resolve("demo") / "tokenizer.model", tmp_path / "before" / "tokenizer.model")
    before = Side(name=str(tmp_path / "before"), folder=tmp_path / "before")
    write_tiny_embedder(tmp_path / "other", vocab=2048, context=512)
    shutil.copyfile(resolve("demo") / "tokenizer.model", tmp_path / "other" / "tokenizer.model")
    same = judge(before, before, QUICK, kept=kept)
    other = judge(before, Side(name=str(tmp_path / "other"), folder=tmp_path / "other"), QUICK, kept=kept)
    assert (same.measure, same.top_k, same.layers) == ("vectors", 0, ())
    assert _of(same, "distance_max") < 1e-5
    assert _of(same, "same_nearest") == 1
    assert _of(other, "distance_mean") > 0.1
    assert [one.kind for one in same.kinds] == [ALL, *KINDS]
    assert same.kinds[0].count == len(QUICK.chosen)


def test_other_models_have_no_errors_of_layers(tmp_path: Path, kept: Path) -> None:
    before = with_tokenizer(tmp_path / "before", "gemma3_text")
    after = with_tokenizer(tmp_path / "after", "gemma3_text", num_hidden_layers=2, layer_types=["full_attention"] * 2)
    assert judge(before, after, SHORT, kept=kept).layers == ()


def test_what_cannot_be_compared(tmp_path: Path, kept: Path) -> None:
    small = with_tokenizer(tmp_path / "gemma", "gemma")
    with pytest.raises(InputError, match="do not do the same"):
        judge(small, with_tokenizer(tmp_path / "t5", "t5gemma"), SHORT, kept=kept)
    write_tiny(tmp_path / "rows", "gemma", vocab_size=2050)
    with pytest.raises(InputError, match="a vocabulary of 2,048 entries and .* one of 2,050"):
        judge(small, Side(name="rows", folder=tmp_path / "rows"), SHORT, kept=kept)
    with pytest.raises(InputError, match="too short to judge by"):
        judge(DEMO, DEMO, Task(chosen=(Passage("x", "x", "a"),), name="x"), kept=kept)


def test_the_teacher_s_tokenizer_serves_for_both(tmp_path: Path, kept: Path) -> None:
    before = with_tokenizer(tmp_path / "before", "gemma")
    shutil.copytree(before.folder, tmp_path / "after", ignore=shutil.ignore_patterns("tokenizer.model"))
    after = Side(name=str(tmp_path / "after"), folder=tmp_path / "after", label="without")
    found = judge(before, after, SHORT, kept=kept)
    assert (found.student, _of(found, "same_top")) == ("without", 1)


def test_memory_is_asked(tmp_path: Path) -> None:
    memory = Admission(1_000_000, kernels_here(), in_use=lambda: 0)
    with pytest.raises(MemoryLimitError, match="demo takes"):
        judge(DEMO, DEMO, SHORT, memory=memory, kept=tmp_path)
    asked: list[object] = []
    held: list[int] = []

    class Asked:
        def load(self, subject: Subject) -> None:
            asked.append(subject.name)
            held.append(mx.get_active_memory())

        def read(self, subject: Subject, reading: Any) -> Any:
            asked.append(reading.tokens)

        def encode(self, subject: Subject, rows: int, tokens: int) -> int:
            raise AssertionError("nothing is encoded")

    judge(DEMO, DEMO, SHORT, memory=Asked(), kept=tmp_path)
    longest = max(len(window.tokens) for window in SHORT.windows(gemma_mlx.load("demo").processor, 4096))
    assert asked == ["demo", longest] * 2
    assert held[1] - held[0] < 7_000_000, "the teacher, which takes 14 MB, is gone when the student comes"


def test_a_quick_task_reads_the_beginnings_of_a_few() -> None:
    processor = gemma_mlx.load("demo").processor
    made = QUICK.windows(processor, 4096)
    assert len(made) == 2 * len(KINDS)
    assert {len(window.tokens) for window in made} == {64}
    assert QUICK.name == "judge, quick"
    assert sum(len(window.tokens) for window in Task.of().windows(processor, 4096)) > 8000
    assert max(len(window.tokens) for window in Task.of().windows(processor, 100)) == 100
