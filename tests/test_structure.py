"""The shape of the repository: who imports whom, what is packaged, and the names and lengths of files."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import gemma_mlx

ROOT: Final = Path(__file__).resolve().parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Importable prefix -> folder. gemma_mlx/cli and gemma_mlx/quantize are symlinks to the last two.
FOLDERS: Final = {"gemma_mlx": "gemma_mlx", "gemma_mlx.cli": "cli", "gemma_mlx.quantize": "quantize"}

# Who may import whom, inside gemma_mlx. A part is a module or a package; the longest name that matches a module is its
# part. Each part may import itself and what is listed; nobody lists `cli`, and only `cli` lists `quantize`,
# beside the table of public names.
_DATA = ("errors", "spec")
_MODEL = (*_DATA, "config", "weights.names", "cache", "nn", "towers", "models", "registry")
_WEIGHTS = (*_MODEL, "gguf", "catalog", "device", "weights")
_TEXT = (*_DATA, "config", "gguf", "text")
_INPUTS = (*_TEXT, "sequences", "media", "processor")
_GENERATE = (*_DATA, "cache", "text", "generate")
_SESSION = ("admission", *_WEIGHTS, *_INPUTS, *_GENERATE, "classifier", "embedder", "gemma", "session")
_LIBRARY = (*_SESSION, "macos", "macs", "system", "selftest", "diagnosis", "")
MAY_IMPORT: Final[Mapping[str, tuple[str, ...]]] = {
    "errors": (),
    "spec": ("errors",),
    "gguf": ("errors",),
    "config": (*_DATA, "gguf"),
    "weights.names": ("errors",),
    "sequences": (),
    "cache": (*_DATA, "sequences"),
    "nn": (*_DATA, "cache"),
    "towers": (*_DATA, "cache", "nn"),
    "models": (*_DATA, "config", "weights.names", "cache", "nn", "towers"),
    "registry": _MODEL,
    "admission": (*_DATA, "cache", "generate"),
    "catalog": _DATA,
    "device": _DATA,
    "macos": ("errors", "macs"),
    "macs": ("errors",),
    "system": ("macos",),
    "selftest": (*_WEIGHTS, "generate", "selftest"),
    "diagnosis": (*_DATA, "macos", "macs", "system", "device", "weights", ""),
    "weights": _WEIGHTS,
    "text": _TEXT,
    "media": _DATA,
    "processor": _INPUTS,
    "generate": _GENERATE,
    "demo": _LIBRARY,  # training the model in the box uses the library as anyone would
    "classifier": (*_DATA, "cache", "text", "processor", "generate"),
    "embedder": (*_DATA, "nn", "text"),
    "gemma": _SESSION,  # a model opens sessions, and a session can open a model
    "session": _SESSION,
    "": (*_SESSION, "quantize"),  # gemma_mlx/__init__.py: the public names, by their modules' names, on first use
    "__main__": ("cli",),  # python -m gemma_mlx: the one step up
    "quantize": _LIBRARY,
    "cli": (*_LIBRARY, "quantize"),
}

# Outside package -> the parts that may import it; None is anywhere.
OUTSIDE: Final[Mapping[str, tuple[str, ...] | None]] = {
    "mlx": None,
    "numpy": None,
    "jaxtyping": None,
    "huggingface_hub": (
        "weights.cached",
        "weights.hub_facts",
        "weights.made",
        "weights.pull",
        "weights.remote",
        "weights.transfer",
    ),
    "tokenizers": ("text", "demo"),
    "sentencepiece": ("text", "demo"),
    "jinja2": ("text",),
    "platformdirs": ("cli", "weights", "device", "cache", "quantize"),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("cli",),
    "prompt_toolkit": ("cli",),
    "mlx_lm": ("cli.peer",),
}
# Too heavy for the top of a file in cli/: `gemma --help` must answer in 0.3 s.
HEAVY: Final = frozenset(
    ("huggingface_hub", "jinja2", "mlx", "mlx_lm", "numpy", "prompt_toolkit", "rich", "sentencepiece", "tokenizers")
)
LIGHT_PARTS: Final = {"", "errors", "spec", "cli"}
LIGHT_MODULES: Final = {"gemma_mlx.generate.events", "gemma_mlx.text.tools"}

# Source files without a test file of their own: a module or package -> where its tests are.
TESTED_IN: Final[Mapping[str, str]] = {
    "cache.none": "test_cache_decoder.py",
    "demo": "test_demo.py",  # the corpus and its training are judged by what comes out
    "models": "parity/test_goldens.py",  # an architecture is right when its numbers are
    "weights.agreement": "test_weights_load.py",  # its checks are what loading refuses
    "quantize.calibrate": "test_quantize_calibrate.py",  # parts of one computation, held against the whole
    "selftest": "test_selftest.py",  # one table of checks, in files by subject
    "nn.layer": "test_nn_layers.py",  # small modules, each against its formula
    "nn.mlp": "test_nn_layers.py",
    "nn.norm": "test_nn_layers.py",
    "nn.softcap": "test_nn_layers.py",
}

FORBIDDEN_NAMES: Final = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
MOST_LINES: Final = 450
MOST_LINES_OF_A_COMMAND: Final = 200


class Source(NamedTuple):
    """One Python file of the library: its importable name without the leading `gemma_mlx.`, and where it lies."""

    module: str
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


class Import(NamedTuple):
    """One imported module, as written in full; `top` where it runs when the file is imported."""

    name: str
    line: int
    top: bool


def _sources() -> list[Source]:
    found = []
    for prefix, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):  # rglob does not follow the symlinks
            parts = [*prefix.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            found.append(Source(".".join(part for part in parts[1:] if part != "__init__"), path))
    return found


SOURCES: Final = _sources()
TESTS: Final = [Source(f"tests.{path.stem}", path) for path in sorted((ROOT / "tests").rglob("*.py"))]


def _imports(source: Source) -> Iterator[Import]:
    tree = ast.parse(source.path.read_text(encoding="utf-8"), str(source.path))

    def walk(node: ast.AST, top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{source}:{child.lineno}: a relative import"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(full if _is_module(full) else str(child.module), child.lineno, top)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, top and not inside and not typing_only)

    yield from walk(tree, True)


MODULES: Final = {f"gemma_mlx.{source.module}".rstrip(".") for source in SOURCES}


def _is_module(name: str) -> bool:
    return name in MODULES


def _part(module: str) -> str:
    """`nn.attention` -> `nn`; a module the table does not know is its own first name."""
    pieces = module.split(".")
    for length in range(len(pieces), 0, -1):
        if (candidate := ".".join(pieces[:length])) in MAY_IMPORT:
            return candidate
    return pieces[0]


def _within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_inside_the_library(source: Source) -> None:
    part = _part(source.module)
    assert part in MAY_IMPORT, f"{source} belongs to no part: add gemma_mlx.{part} to MAY_IMPORT"
    for name, line, _ in _imports(source):
        if name.split(".")[0] == "gemma_mlx":
            other = _part(name.removeprefix("gemma_mlx").removeprefix("."))
            assert other in (part, *MAY_IMPORT[part]), f"{source}:{line}: {part or 'gemma_mlx'} may not import {other}"


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_from_outside(source: Source) -> None:
    for name, line, _ in _imports(source):
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package == "gemma_mlx":
            continue
        assert package in OUTSIDE, f"{source}:{line}: {package} is imported, and is not in OUTSIDE"
        parts = OUTSIDE[package]
        assert parts is None or _within(source.module, parts), f"{source}:{line}: only {parts} may import {package}"


@pytest.mark.parametrize("source", [*SOURCES, *TESTS], ids=str)
def test_one_importable_name(source: Source) -> None:
    for name, line, _ in _imports(source):
        assert name.split(".")[0] not in ("cli", "quantize"), f"{source}:{line}: write gemma_mlx.{name}"


@pytest.mark.parametrize("source", [source for source in SOURCES if _part(source.module) == "cli"], ids=str)
def test_nothing_heavy_at_the_top_of_the_cli(source: Source) -> None:
    for name, line, top in _imports(source):
        package = name.split(".")[0]
        if top and package == "gemma_mlx":
            part = _part(name.removeprefix("gemma_mlx").removeprefix("."))
            light = part in LIGHT_PARTS or name in LIGHT_MODULES
            assert light, f"{source}:{line}: import {name} inside the function that needs it"
        elif top:
            assert package not in HEAVY, f"{source}:{line}: import {name} inside the function that needs it"


@pytest.mark.parametrize("module", ["gemma_mlx", "gemma_mlx.cli", "gemma_mlx.cli.app"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) & (HEAVY | {"transformers", "torch"}) == set()


def test_only_dependencies_that_something_imports() -> None:
    imported = {name.split(".")[0].lower() for source in SOURCES for name, _, _ in _imports(source)}
    declared = {re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    declared = {name.lower().replace("-", "_") for name in declared}
    assert declared - imported == set(), "declared in pyproject.toml, and imported nowhere"
    assert imported - declared - set(sys.stdlib_module_names) - {"gemma_mlx"} == set(), "imported, and not declared"


def test_packages_are_the_tree() -> None:
    found = set()
    for source in SOURCES:
        package = source.module if source.path.stem == "__init__" else source.module.rpartition(".")[0]
        found.add(f"gemma_mlx.{package}".rstrip("."))
    assert sorted(found) == sorted(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("package", PROJECT["tool"]["setuptools"]["packages"])
def test_packages_import(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None, f"{package} has no __init__.py"
    assert module.__doc__, f"{package} does not say what it is"


@pytest.mark.parametrize("name", ["cli", "quantize"])
def test_symlinks(name: str) -> None:
    link = ROOT / "gemma_mlx" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"gemma_mlx.{name}"] == name


@pytest.mark.parametrize("source", [*SOURCES, *TESTS], ids=str)
def test_names_and_lengths(source: Source) -> None:
    assert source.path.stem not in FORBIDDEN_NAMES, f"{source}: a name that says nothing about what it holds"
    lines = len(source.path.read_text(encoding="utf-8").splitlines())
    most = MOST_LINES_OF_A_COMMAND if source.path.parent == ROOT / "cli" else MOST_LINES
    assert lines <= most, f"{source} has {lines} lines, at most {most}: give a part of it a file and a name"


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_one_test_file_per_source_file(source: Source) -> None:
    if source.path.stem in ("__init__", "__main__"):
        return
    own = f"test_{source.module.replace('.', '_')}.py"
    elsewhere = [test for module, test in TESTED_IN.items() if _within(source.module, (module,))]
    assert len(elsewhere) <= 1
    assert (ROOT / "tests" / (elsewhere or [own])[0]).exists(), f"{source} has no tests/{own}"
    assert not (elsewhere and (ROOT / "tests" / own).exists()), (
        f"{source} has a test file of its own: TESTED_IN is out of date"
    )


def _files() -> Iterator[Path]:
    made = {".git", ".venv", ".venv-reference", ".venv-peers", "build", "dist", "__pycache__"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in made and not name.endswith((".egg-info", "_cache")) and not Path(folder, name).is_symlink()
        ]
        yield from (Path(folder, name) for name in names)


def test_no_machine_path() -> None:
    """Nothing in the repository may point at a folder of the machine it was written on."""
    machine = re.compile(r"(?<![\w.~$}<>\"'/-])/(?:home|root|work|Users|opt|mnt|private|tmp|scratch)/\w[^\s`'\")]*")
    quoted = re.compile(r"[\"'](/(?:home|root|work|Users|opt|mnt|private|tmp|scratch)/\w[^\s\"']*)")
    found = []
    for path in _files():
        data = path.read_bytes()
        if b"\0" in data[:4096] or path == Path(__file__):
            continue
        text = data.decode("utf-8")
        matches = [*machine.findall(text), *quoted.findall(text)]
        found += [f"{path.relative_to(ROOT)}: {match}" for match in matches]
    assert found == []


def test_public_surface_is_what_imports() -> None:
    for name in gemma_mlx.__all__:
        assert getattr(gemma_mlx, name) is not None
    assert sorted(gemma_mlx.__all__) == dir(gemma_mlx)
    assert {name for name in gemma_mlx.__all__ if name != "__version__"} == set(gemma_mlx._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gemma_mlx.nonsense  # noqa: B018


def test_one_version() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", gemma_mlx.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {gemma_mlx.__version__}" in changes, "the CHANGELOG has no entry for this version"


def test_public_names_are_visible_to_type_checkers() -> None:
    tree = ast.parse((ROOT / "gemma_mlx" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {(alias.name, node.module) for node in imports for alias in node.names}
    assert seen == set(gemma_mlx._HOME.items())
