"""Say what went wrong: one root, few leaves; the message is the help."""

BAD_OPTION = "[The option llm_{}.]"
UNEXPECTED = "Error occurred. Please consult support."  # the person reads no more than this


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


def describe(error: BaseException) -> str:
    """Name an exception and its place, without its message, which may quote a person."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        file = code.co_filename.replace("\\", "/").rpartition("/")[2]
        place = f"{file}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
