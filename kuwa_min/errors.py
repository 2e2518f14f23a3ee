"""The exceptions that this program explains, and one-line descriptions of any exception.

Their messages say what was found and what to do.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, TracebackType

UNEXPECTED = "Error occurred. Please consult support."  # all that a user is told

FRAMES = 10  # of a traceback in one line
FROZEN = "<frozen importlib"  # frames of import statements
NOT_MAPPED = "failed to map segment"  # of the dynamic loader
RUNNERS = ("<frozen runpy>", "runpy.py")


class KuwaError(Exception):
    """The base of all our exceptions; exit_code is for a process that it ends."""

    exit_code = 1


class UsageError(KuwaError):
    """A wrong option, file or name: exit code 2."""

    exit_code = 2


class StartError(KuwaError):
    """The process cannot start or continue: exit code 1."""


class WrongMachine(KuwaError):
    """The built file cannot run on this machine: exit code 3. The message has a line per reason."""

    exit_code = 3


class AnswerError(KuwaError):
    """An answer ends with this message, which the user in the chat reads."""


class HTTPError(KuwaError):
    """A request is answered with this HTTP status and a short message for its sender.

    headers: of the response, with _ for -: Retry_After="5".
    """

    def __init__(self, status: int, message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class ClientDisconnected(KuwaError):
    """The peer closed the connection or stopped reading."""


class PieceError(TypeError):
    """A backend yielded what is no piece of an answer; the message names types alone."""


PROGRAMMING_ERRORS = (ImportError, NameError, PieceError)  # their messages quote only code


def describe(error: BaseException) -> str:
    """Return an exception's type and place, without its message, which may quote a user."""
    frames = _frames(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1] if frames else '?'}"


def message_of(error: BaseException) -> str:
    """Return an exception's message; "" if its __str__ raises, as a custom executor's may."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a custom executor's code
        return ""


def traceback_line(error: BaseException, *, with_message: bool) -> str:
    """Return a traceback as one line: "a.py:3 in f > b.py:7 in g: ValueError: message".

    The innermost frame comes last; our own frames before the first foreign one are left out.
    with_message: False leaves out messages that may quote a user.
    """
    if isinstance(error, PieceError):
        return f"PieceError: {error}"  # all its frames are ours
    frames = _frames(error.__traceback__)
    if len(frames) > FRAMES:
        frames = [*frames[:2], "...", *frames[2 - FRAMES :]]
    shown = with_message or isinstance(error, PROGRAMMING_ERRORS)
    message = message_of(error) if shown else ""
    line = f"{' > '.join(frames)}: {type(error).__name__}{message and ': '}{message}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{line} (caused by {describe(cause)})" if cause is not None else line


def import_advice(error: BaseException) -> str:
    """Return what to do if a library is missing or cannot be mapped; "" for other errors.

    A library that is imported already is no missing one: it lacks the module only.
    """
    if isinstance(error, ImportError) and NOT_MAPPED in str(error):
        return (
            "; either this process may use too little address space (see `ulimit -v`), or the "
            "library is on a file system that is mounted noexec"
        )
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.partition(".")[0]
    if name in sys.modules:
        return ""
    return (
        f"; install the library that provides it, for example: pip install {name}, "
        f"or pip install --target DIR {name} and start with PYTHONPATH=DIR"
    )


def _frames(trace: TracebackType | None) -> list[str]:
    """Return "file:line in function" of each frame, the innermost last."""
    codes: list[tuple[CodeType, int]] = []
    while trace is not None:
        codes.append((trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    codes = [one for one in codes if not one[0].co_filename.startswith(FROZEN)] or codes
    foreign = [at for at, (code, _) in enumerate(codes) if not _is_caller(code.co_filename)]
    kept = codes[foreign[0] if foreign else 0 :]
    return [f"{_source(code.co_filename)}:{line} in {code.co_name}" for code, line in kept]


def _source(path: str) -> str:
    """Return a source's name, with its folder if the name alone is __init__.py."""
    parts = _parts(path)
    return "/".join(parts[-2:] if parts[-1] == "__init__.py" else parts[-1:])


def _is_caller(path: str) -> bool:
    """Tell whether a source calls custom executors: ours, asyncio's, importlib's or runpy."""
    *folders, name = _parts(path)
    if name in RUNNERS or folders[-1:] == ["asyncio"] or "importlib" in folders[-2:]:
        return True
    return path.startswith((FROZEN, *_our_folders()))


def _our_folders() -> tuple[str, str]:
    """Return this package's folder, as sources name it and as a built file's bytecode does."""
    compiled = _our_folders.__code__.co_filename
    return __file__.removesuffix("errors.py"), compiled.removesuffix("errors.py")


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")
