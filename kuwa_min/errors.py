"""Say what went wrong: one root, few leaves; the message is the help."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, TracebackType

BAD_OPTION = "[The option llm_{}.]"
UNEXPECTED = "Error occurred. Please consult support."  # the person reads no more than this

FRAMES = 10  # of a traceback that is shown in one line
RUNNERS = ("<frozen runpy>", "runpy.py")


class KuwaError(Exception):
    """Stand for everything that this program explains; the message says what to do."""

    exit_code = 1


class UsageError(KuwaError):
    """Report a wrong option, file or name; the process ends with code 2."""

    exit_code = 2


class StartError(KuwaError):
    """Report that the process cannot start or go on; it ends with code 1."""


class WrongMachine(KuwaError):
    """Report that this file cannot run here, a line per reason; the process ends with code 3."""

    exit_code = 3


class AnswerError(KuwaError):
    """End an answer with this message, which the person in the chat reads."""


class Refused(KuwaError):
    """Answer a request with an HTTP status and a short friendly message."""

    def __init__(self, status: int, message: str = "", **fields: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}


class Gone(KuwaError):
    """Say that the other side of a connection left or stopped reading."""


class PieceError(TypeError):
    """Report what is no piece of an answer; the message names types alone."""


PROGRAMMING_ERRORS = (ImportError, NameError, PieceError)  # their messages quote code alone


def describe(error: BaseException) -> str:
    """Name an exception and its place, without its message, which may quote a person."""
    frames = _frames(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1] if frames else '?'}"


def message_of(error: BaseException) -> str:
    """Return an exception's message; none for one of a custom executor whose __str__ fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the executor's own code
        return ""


def traceback_line(error: BaseException, *, with_message: bool) -> str:
    """Return a traceback as one line: "a.py:3 in f > b.py:7 in g: ValueError: message".

    The innermost frame comes last; the frames that lead to the first foreign one are left out.
    with_message: False leaves out messages that may quote a user.
    """
    if isinstance(error, PieceError):
        return f"PieceError: {error}"  # every frame of it is ours
    frames = _frames(error.__traceback__)
    if len(frames) > FRAMES:
        frames = [*frames[:2], "...", *frames[2 - FRAMES :]]
    shown = with_message or isinstance(error, PROGRAMMING_ERRORS)
    message = message_of(error) if shown else ""
    line = f"{' > '.join(frames)}: {type(error).__name__}{message and ': '}{message}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{line} (caused by {describe(cause)})" if cause is not None else line


def missing_module(error: BaseException) -> str:
    """Return what to do about a module that this Python lacks; nothing for other errors."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.partition(".")[0]
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
    foreign = [at for at, (code, _) in enumerate(codes) if not _leads(code.co_filename)]
    kept = codes[foreign[0] if foreign else 0 :]
    return [f"{_source(code.co_filename)}:{line} in {code.co_name}" for code, line in kept]


def _source(path: str) -> str:
    """Return a source's name, with its folder where that alone tells what it is."""
    parts = _parts(path)
    return "/".join(parts[-2:] if parts[-1] == "__init__.py" else parts[-1:])


def _leads(path: str) -> bool:
    """Tell whether a source is of those that call custom executors: ours, asyncio, runpy."""
    *folders, name = _parts(path)
    return name in RUNNERS or folders[-1:] in (["kuwa_min"], ["asyncio"])


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")
