"""`python -m gemma_mlx` is `gemma`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the program. A Ctrl-C while it is still being imported ends it as quietly as a later one."""
    try:
        from gemma_mlx.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
