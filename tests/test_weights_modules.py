"""What stands behind an encoder: read, or refused with a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import ConfigError, GemmaError, UnsupportedModelError, WeightsError
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.spec import DenseSpec, EncoderSpec
from gemma_mlx.weights.load import inspect, load
from gemma_mlx.weights.modules import dense_folders
from tests.tiny import edit_tensors, write_tiny_embedder

GOLDEN = Path(__file__).parent / "goldens" / "embeddinggemma"
MAP = Path("2_Dense") / "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def spec_of(folder: Path) -> EncoderSpec:
    spec = inspect(folder).match.spec
    assert isinstance(spec, EncoderSpec)
    return spec


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(value)), encoding="utf-8")


def test_folders(folder: Path) -> None:
    checkpoint = inspect(folder)
    assert spec_of(folder).dense == (DenseSpec(inputs=40, outputs=56), DenseSpec(inputs=56, outputs=36))
    assert checkpoint.tensors["dense.0.weight"].file == folder / MAP
    assert checkpoint.weights == 37_552 + 40 * 56 + 56 * 36
    assert dense_folders(folder) == [folder / "2_Dense", folder / "3_Dense"]


def test_a_bias(folder: Path) -> None:
    edit(folder / "2_Dense" / "config.json", lambda config: config | {"bias": True})
    edit_tensors(folder, lambda tensors: tensors.update({"linear.bias": mx.ones(56)}), str(MAP))
    assert spec_of(folder).dense[0].bias
    model, without = load(folder).model, load(GOLDEN).model
    assert isinstance(model, Encoder)
    assert isinstance(without, Encoder)
    tokens = mx.array([[5, 6]])
    assert mx.allclose(model(tokens), without(tokens) + without.dense[1].weight.sum(axis=1), atol=1e-4)


def test_newer_spellings(folder: Path) -> None:
    """As sentence-transformers 5 writes them."""
    edit(
        folder / "modules.json",
        lambda steps: [
            step | {"type": f"sentence_transformers.new.home.{step['type'].split('.')[-1]}"} for step in steps
        ],
    )
    edit(folder / "1_Pooling" / "config.json", lambda _: {"embedding_dimension": 40, "pooling_mode": "mean"})
    names = {"module_input_name": "sentence_embedding", "module_output_name": None}
    edit(folder / "2_Dense" / "config.json", lambda config: config | names)
    assert spec_of(folder) == spec_of(GOLDEN)


def test_an_encoder_without_maps(folder: Path) -> None:
    edit(folder / "modules.json", lambda steps: [step for step in steps if "Dense" not in step["type"]])
    assert spec_of(folder).dense == ()
    assert spec_of(folder).embedding_dim == 40


def test_maps_in_the_same_file(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path, vocab=96)
    assert spec_of(tmp_path).dense == (DenseSpec(inputs=64, outputs=256), DenseSpec(inputs=256, outputs=64))
    shutil.copytree(GOLDEN / "1_Pooling", tmp_path / "1_Pooling")
    steps = [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]
    for number, (inputs, outputs) in enumerate(((64, 256), (256, 64)), 2):
        steps.append({"type": "Dense", "path": f"{number}_Dense"})
        (tmp_path / f"{number}_Dense").mkdir()
        config = {"in_features": inputs, "out_features": outputs, "bias": False}
        config |= {"activation_function": "torch.nn.modules.linear.Identity"}
        (tmp_path / f"{number}_Dense" / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").write_text(json.dumps(steps))
    assert inspect(tmp_path).unread == dict.fromkeys(
        ("2_Dense/model.safetensors", "3_Dense/model.safetensors"),
        "the linear maps are beside the other tensors as well",
    )
    edit(tmp_path / "2_Dense" / "config.json", lambda config: config | {"bias": True})
    with pytest.raises(UnsupportedModelError, match="not the same ones"):
        inspect(tmp_path)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def config(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name / "config.json", lambda values: values | changes)


def steps(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "modules.json", change)


def tensors(change: Callable[[dict[str, mx.array]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, change, str(MAP))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove("modules.json"), WeightsError, "without the linear maps behind it, and no modules.json"),
        (remove("2_Dense/model.safetensors"), WeightsError, "names 2_Dense, and .* is not there"),
        (remove("3_Dense/config.json"), ConfigError, "is not there, and modules.json names its folder"),
        (remove("1_Pooling/config.json"), ConfigError, "is not there, and modules.json names its folder"),
        (config("2_Dense", activation_function="torch.nn.Tanh"), ConfigError, "'activation_function' is"),
        (config("2_Dense", bias="yes"), ConfigError, "'bias' is 'yes'"),
        (config("2_Dense", out_features=55), ConfigError, "takes 56 numbers, and the map before it gives 55"),
        (config("3_Dense", out_features=35), WeightsError, r"is \[36, 56\], and config.json beside it says \[35, 56\]"),
        (config("2_Dense", gate="x"), ConfigError, "2_Dense/config.json has a key .* 'gate'"),
        (config("1_Pooling", pooling_mode_cls_token=True), UnsupportedModelError, "pools in another way"),
        (config("1_Pooling", pooling_mode_mean_tokens=False), UnsupportedModelError, "pools in another way"),
        (config("1_Pooling", include_prompt=False), UnsupportedModelError, "pools in another way"),
        (steps(lambda found: [*found, {"type": "LayerNorm", "path": ""}]), UnsupportedModelError, "LayerNorm; gemma"),
        (steps(lambda found: found[:1]), UnsupportedModelError, "lists the steps Transformer; gemma knows"),
        (steps(lambda found: {"steps": found}), ConfigError, "must be a list of steps"),
        (steps(lambda found: [found[0], found[1] | {"path": "../x"}]), ConfigError, "must be a list of steps"),
        (steps(lambda found: [found[0], "Pooling"]), ConfigError, "must be a list of steps"),
        (
            tensors(lambda found: found.update(extra=mx.zeros(2))),
            WeightsError,
            "holds extra, linear.weight, and should",
        ),
        (
            tensors(lambda found: found.update({"linear.bias": mx.zeros(56)})),
            WeightsError,
            "and should hold linear.weig",
        ),
        (
            lambda folder: (folder / MAP).write_bytes(b"version https://git-lfs.github.com/x"),
            WeightsError,
            "LFS pointer",
        ),
        (lambda folder: (folder / "modules.json").write_text("["), ConfigError, "cannot be read as JSON"),
    ],
)
def test_damage(damage: Callable[[Path], None], error: type[GemmaError], message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        inspect(folder)
    assert caught.value.hint
