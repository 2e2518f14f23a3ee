"""Read messages from the keyboard: editing and history by readline, and several lines."""

from __future__ import annotations

import contextlib
import locale
import os
from collections.abc import Callable, Iterator

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import InvalidTextFile, read_text

PROMPT, MORE = "> ", "... "
QUOTES = '"""'  # around several lines
KEPT = 1000  # lines of history


def read_message(read: Callable[[str], str]) -> str:
    r"""Return the next message; lines that end in \ go on, and so does what \"\"\" begins.

    read: prompts for a line, as `input`. Raises EOFError and KeyboardInterrupt.
    """
    line = read(PROMPT)
    if line.lstrip().startswith(QUOTES):
        return _read_block(line.lstrip().removeprefix(QUOTES), read)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read(MORE))
    return "\n".join(lines)


def _read_block(line: str, read: Callable[[str], str]) -> str:
    lines = [line]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(read(MORE))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


@contextlib.contextmanager
def line_editing(path: str | None) -> Iterator[None]:
    """Edit lines within the block; path: of the file in which their history is kept, if any.

    Without the module readline, which some Pythons lack, lines are read as the terminal gives them.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    _use_utf8()
    readline.clear_history()
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # several lines are one message
    for line in _read_history(path) if path else []:
        readline.add_history(line)
    try:
        yield
    finally:
        if path:
            count = readline.get_current_history_length()
            lines = [readline.get_history_item(at + 1) for at in range(count)]
            _write_history(path, [line for line in lines if line])


def _use_utf8() -> None:
    """Let readline know letters beyond ASCII where the environment's locale is not installed."""
    if locale.setlocale(locale.LC_CTYPE) == "C":
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _read_history(path: str) -> list[str]:
    """Return the lines of a file of history; makes it, so that it can be written at the end."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return read_text(path).splitlines()[-KEPT:]
    except OSError as error:
        raise UsageError(f"--history_file {path} cannot be kept: {error.strerror}") from None
    except (InvalidTextFile, ValueError) as error:
        raise UsageError(f"--history_file {path} {error}") from None


def _write_history(path: str, lines: list[str]) -> None:
    """Write the last lines for the owner alone; one that cannot be written is lost."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
            os.fchmod(number, 0o600)
            file.writelines(f"{line}\n" for entry in lines[-KEPT:] for line in entry.splitlines())
