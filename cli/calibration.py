"""What `gemma quantize --method` reads and takes, for those who write commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gemma_mlx.cli.console import say
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from gemma_mlx.quantize.calibrate.run import Calibration
    from gemma_mlx.quantize.plan import Plan


def calibrating(made: Plan, text: Path | None) -> Calibration | None:
    """The calibration that a plan asks for; None where it asks for none.

    Raises:
        InputError: a text is named that nothing would read, or that cannot be read.
        MemoryLimitError: there is no room for it.
    """
    if made.calibrated is None:
        if text is not None:
            raise InputError(f"{text} would not be read: nothing is calibrated.", "--method gptq, awq or dwq reads it.")
        return None
    from gemma_mlx import device
    from gemma_mlx.quantize.calibrate.memory import check_memory
    from gemma_mlx.quantize.calibrate.reading import windows
    from gemma_mlx.quantize.calibrate.run import Calibration

    calibration = Calibration(made, windows(made.checkpoint.folder, None if text is None else text.expanduser()))
    check_memory(made, calibration.windows, device.device().limit_bytes)
    return calibration


def listen(calibration: Calibration | None, progress: Progress, *, quiet: bool) -> None:
    """Shows how far a calibration has come, and says what it says."""
    if calibration is not None:
        calibration.on_layer = progress.calibrating
        if not quiet:

            def tell(sentence: str) -> None:
                progress.stop()
                say(sentence)
                progress.start()

            calibration.tell = tell
