"""`python -m gemma_mlx` is `gemma`."""

from __future__ import annotations

from gemma_mlx.cli.app import main

if __name__ == "__main__":
    main()
