"""A larger tiny model for the tests of quantizing: the model in the box, grown and trained on. README.md says how."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PATH: Final = Path(__file__).parent  # load(PATH), or gemma show tests/larger
