"""Messages as they are typed: line editing and history on a terminal, plain lines from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gemma_mlx.cli.console import say
from gemma_mlx.cli.slash import COMMANDS
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

QUOTES: Final = '"""'
_LEAVE: Final = "Ctrl-D or /exit leaves."


def is_complete(text: str) -> bool:
    r"""Whether Enter sends `text`: it does not inside \"\"\", nor after a backslash at the end of a line."""
    start = text.lstrip()
    if start.startswith(QUOTES):
        return len(start) >= 2 * len(QUOTES) and start.rstrip().endswith(QUOTES)
    return not text.endswith("\\")


def message(text: str) -> str:
    r"""What was typed, without the \"\"\" around it and the backslashes that continued its lines."""
    start = text.strip()
    if start.startswith(QUOTES) and is_complete(text):
        return start[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text.replace("\\\n", "\n")


def piped_messages() -> Iterator[str]:
    """Yields the messages on stdin, a line each but for those continued by a backslash or in \"\"\".

    Raises:
        InputError: stdin is not UTF-8.
    """
    held = ""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        line = utf8(raw.rstrip(b"\r\n"), f"Line {number} of stdin")
        held = f"{held}\n{line}" if held else line
        if is_complete(held):
            yield message(held)
            held = ""
    if held:
        yield message(held)


def utf8(data: bytes, what: str) -> str:
    """Text from outside.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}.",
            "Convert it first, for example with iconv -f latin1 -t utf-8.",
        ) from error


def typed_messages() -> Iterator[str]:
    """Yields the messages typed at a terminal, until Ctrl-D."""
    session = _editor()
    first = True
    while True:
        try:
            text = session.prompt("> ", placeholder="Say something, or /help" if first else "")
        except KeyboardInterrupt:
            say(_LEAVE, dim=True)
            continue
        except EOFError:
            return
        first = False
        yield message(text)


def _editor() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    class Commands(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            del complete_event
            typed = document.text_before_cursor
            if typed.startswith("/") and not typed.startswith("//"):
                for name, (_, told) in COMMANDS.items():
                    if f"/{name}".startswith(typed):
                        yield Completion(f"/{name}", -len(typed), display_meta=told)

    @Condition
    def commanding() -> bool:
        return get_app().current_buffer.text.startswith("/")

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    output = create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # nothing here needs to know where the cursor is, and some terminals do not answer
    return PromptSession(
        multiline=True,
        prompt_continuation=". ",
        history=_history(),
        completer=Commands(),
        complete_while_typing=commanding,
        key_bindings=keys,
        enable_suspend=True,
        enable_open_in_editor=True,
        reserve_space_for_menu=len(COMMANDS),  # only while a command is typed
        output=output,
    )


def _history() -> History:
    """Earlier messages: on disk for the user alone, or in memory where the disk cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError as error:
        say(f"Messages will not be remembered: {path} cannot be written ({error.strerror}).", dim=True)
        return InMemoryHistory()
    return FileHistory(str(path))


def history_path() -> Path:
    """The file of messages typed in earlier chats."""
    import platformdirs

    return Path(platformdirs.user_state_dir("gemma", appauthor=False)) / "chat-history"
