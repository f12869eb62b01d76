"""The model in the box: a very small Gemma 3, trained by this project on text it writes itself.

`PATH` is a checkpoint folder in the Hugging Face layout, like any other. How it was made: train.py. How good it is: score.py.
"""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).parent
