"""Models to be judged: from the catalogue, from checkpoints, and the tokens of pictures and sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx import catalog
from gemma_mlx.errors import InputError, ModelNotFoundError, UnsupportedModelError
from gemma_mlx.quantize.formats import FORMATS
from gemma_mlx.quantize.subject import Towers, all_of_catalogue, of, of_checkpoint, of_row, towers
from gemma_mlx.weights.load import inspect
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    "name", ["gemma3:270m", "gemma3:12b", "gemma4:e2b", "gemma4:26b-a4b", "gemma3n:e4b", "paligemma:3b-pt-896"]
)
def test_parameters_of_the_catalogue(name: str) -> None:
    model = of(name)
    assert model.row is not None
    assert model.row.network is not None
    parameters = model.row.network.parameters
    assert abs(model.parameters - parameters.language) <= parameters.buffers
    assert model.towers.nbytes == 2 * (parameters.vision + parameters.audio + parameters.projector)


@pytest.mark.parametrize(
    ("name", "pictures", "second", "minute"),
    [
        ("gemma3:4b", 258, 0, 0),
        ("gemma4:12b", 282, 27, 1504),
        ("gemma4:e2b", 282, 27, 1504),
        ("gemma3n:e2b", 258, 190, 380),
        ("paligemma:3b-pt-224", 258, 0, 0),
        ("paligemma:3b-pt-448", 1026, 0, 0),
        ("paligemma2:3b-pt-896", 4098, 0, 0),
    ],
)
def test_soft_tokens(name: str, pictures: int, second: int, minute: int) -> None:
    tower = of(name).towers
    assert tower.tokens(1, 0) == pictures
    assert tower.tokens(3, 0) == 3 * pictures
    if second:
        assert (tower.tokens(0, 1), tower.tokens(0, 60)) == (second, minute)
        assert tower.tokens(1, 1) == pictures + second


def test_models_without_towers() -> None:
    assert of("gemma3:1b").towers == Towers()
    assert of("medgemma:27b-text").towers == Towers()
    assert towers({"vision_config": {}}, 0, 0) == Towers()


def test_formats() -> None:
    plain, trained, old = of("gemma3:12b"), of("gemma3:12b-qat"), of("gemma2:9b")
    assert list(plain.formats) == list(trained.formats) == list(FORMATS)
    assert list(old.formats) == [name for name in FORMATS if name != "QAT"]
    fetched = plain.trained_for(FORMATS["QAT"])
    assert isinstance(fetched, catalog.Row)
    assert fetched.short == "gemma3:12b-qat"
    assert "QAT" not in of("gemma3:12b-qat-int4").formats


def test_every_model_of_the_catalogue_once() -> None:
    judged, left_out = all_of_catalogue()
    assert len({model.spec for model, _ in judged}) == len(judged)
    names = [model.name for model, _ in judged]
    kin = [name for _, others in judged for name in others]
    assert {"gemma3:4b", "gemma4:31b", "gemma3n:e2b", "recurrentgemma:9b", "embeddinggemma:300m"} <= set(names)
    assert {"medgemma:4b", "shieldgemma2:4b", "codegemma:7b", "functiongemma:270m"} <= set(kin)
    left = {name for some in left_out.values() for name in some}
    assert not left & {*names, *kin}
    assert {"diffusiongemma:26b-a4b", "t5gemma2:1b-1b", "t5gemma:9b-2b-ul2"} <= set(names)
    assert left == {f"gemma4:{size}-assistant" for size in ("e2b", "e4b", "12b", "26b-a4b", "31b")}
    for row in catalog.rows():
        if row.short and row.format == "safetensors" and row.network is not None and row.label not in left:
            assert of_row(row).spec in {model.spec for model, _ in judged}


def test_models_without_an_estimate() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        of("gemma3:4b-qat-gguf")
    assert caught.value.hint


@pytest.mark.parametrize("size", ["e2b", "e4b", "12b", "26b-a4b", "31b"])
def test_a_drafter_is_its_target_with_it(size: str) -> None:
    model = of(f"gemma4:{size}-assistant")
    assert model.name == f"gemma4:{size}"
    assert model.drafter is not None
    assert model.drafter.name == f"gemma4:{size}-assistant"
    (note,) = model.notes
    assert note.startswith(f"gemma4:{size}-assistant is a drafter for gemma4:{size}: it has no keys and values of its")
    assert note.endswith("judged with it, in the same format.")
    assert of(f"gemma4:{size}", f"gemma4:{size}-assistant") == model


def test_drafters_for_others_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="made for another model"):
        of("gemma4:12b", "gemma4:e2b-assistant")
    with pytest.raises(UnsupportedModelError, match="drafts for a Gemma 4"):
        of("t5gemma2:1b-1b", "gemma4:e2b-assistant")
    with pytest.raises(InputError, match="gemma4:e2b is no drafter"):
        of("gemma4:12b", "gemma4:e2b")
    with pytest.raises(InputError, match="is a drafter itself"):
        of("gemma4:e2b-assistant", "gemma4:e2b-assistant")


def test_a_drafter_in_a_folder_that_nothing_was_made_for() -> None:
    with pytest.raises(UnsupportedModelError, match="no model that it was made for"):
        of(str(Path(__file__).parent / "goldens" / "gemma4_assistant"))


def test_what_is_said_of_other_kinds() -> None:
    assert "context each" in of("t5gemma2:1b-1b").notes[0]
    assert "canvases of 256 tokens" in of("diffusiongemma:26b-a4b").notes[0]
    assert of("t5gemma2:1b-1b").towers.picture_tokens == 256


def test_dimensions_that_are_not_known() -> None:
    unknown = next(row for row in catalog.rows() if row.network is None)
    with pytest.raises(UnsupportedModelError, match="are not known"):
        of_row(unknown)


def test_a_typo() -> None:
    with pytest.raises(ModelNotFoundError, match="is no published Gemma") as caught:
        of("gema3:4b")
    assert "gemma3:4b" in (caught.value.hint or "")


@pytest.mark.parametrize("quantize", [None, {"bits": 4, "group_size": 64}, {"bits": 8, "group_size": 32}])
@pytest.mark.parametrize(
    "kind",
    ["gemma2", "gemma3", "gemma3n_text", "gemma4_text", "recurrent_gemma", "t5gemma", "t5gemma2", "diffusion_gemma"],
)
def test_checkpoints_to_the_byte(tmp_path: Path, kind: str, quantize: dict[str, Any] | None) -> None:
    write_tiny(tmp_path, kind, quantize=quantize and _fitting(quantize))
    checkpoint = inspect(tmp_path)
    model = of(str(tmp_path))
    stored = model.traffic.stored(model.how or FORMATS["bf16"])
    assert stored.weight_bytes == checkpoint.memory_bytes(mx.bfloat16)
    assert model.parameters == checkpoint.weights
    assert model.bits(stored) == pytest.approx(checkpoint.bits_per_weight)
    assert len(model.formats) == (5 if quantize is None else 1)


def _fitting(quantize: dict[str, Any]) -> Any:
    return lambda _path, module: quantize if module.weight.shape[-1] % quantize["group_size"] == 0 else False


def test_a_name_that_belies_its_bits(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-it-4bit"
    write_tiny(folder, quantize={"bits": 8, "group_size": 64})
    model = of(str(folder))
    assert model.notes == ("Its name says 4 bits; its files hold 8.55 bits per weight.",)
    assert list(model.formats) == ["8.5-bit file"]
    honest = tmp_path / "tiny-it-8bit"
    folder.rename(honest)
    assert of(str(honest)).notes == ()


def test_a_row_packed_for_phones() -> None:
    """2.25 bits for the table and the head, 4.25 for the per-layer table, mostly 2.25 and 4.25 for the rest."""
    model = of("gemma4:e2b-qat-mobile")
    assert model.row is not None
    assert model.row.network is not None
    assert model.how is not None
    numbers = model.row.network.parameters
    assert model.parameters == pytest.approx(numbers.language + numbers.embedding, rel=1e-5), "a head of its own"
    stored = 8 * model.traffic.stored(model.how).weight_bytes
    rest = stored - 2 * 2.25 * numbers.embedding - 4.25 * numbers.per_layer
    assert 2.25 < rest / numbers.text < 4.25
    assert list(model.formats) == ["3.5-bit file"]


@pytest.mark.parametrize("name", ["gemma4:e2b-qat-w4a16", "gemma4:e4b-qat-w4a16"])
def test_a_row_packed_in_groups_of_32(name: str) -> None:
    model = of(name)
    assert model.row is not None
    assert model.row.network is not None
    assert model.how is not None
    numbers = model.row.network.parameters
    by_hand = 16 * (numbers.embedding + numbers.per_layer) + 5 * numbers.text
    assert 8 * model.traffic.stored(model.how).weight_bytes == pytest.approx(by_hand, rel=0.001)


def test_packed_rows_of_which_only_the_files_say_how() -> None:
    for name in ("gemma4:e4b-qat-mobile", "gemma4:e2b-qat-mobile-ct"):
        with pytest.raises(UnsupportedModelError, match="not known before its files are seen") as caught:
            of_row(catalog.find(name))
        assert caught.value.hint == f"gemma fit {catalog.find(name).repository}"


def test_a_packed_checkpoint() -> None:
    """Its real bits per weight, scales for MLX's groups included, and its towers."""
    folder = Path(__file__).parent / "goldens" / "gemma4_mobile"
    model = of_checkpoint(str(folder), inspect(folder))
    assert model.how is not None
    in_memory = inspect(folder).memory_bytes(mx.bfloat16)
    assert model.traffic.stored(model.how).weight_bytes == pytest.approx(in_memory, rel=0.01)
