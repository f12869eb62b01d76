"""Every Gemma model on a Mac, in Python on MLX.

    import gemma_mlx

    for event in gemma_mlx.Session.open("path/or/name").send("Hello"):
        ...

The names below are the public surface. They load on first use, so `import gemma_mlx` costs nothing and imports no MLX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemma_mlx.errors import GemmaError as GemmaError

__version__ = "0.1.0"

# Public name -> the module that defines it.
_HOME = {
    "GemmaError": "gemma_mlx.errors",
}

__all__ = ["__version__", "GemmaError"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'gemma_mlx' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
