"""The sandbox process of one untrusted template: start it, exchange lines with it, kill it.

The process gets our sources over its standard input, so that it works out of an archive, too, and
can import no library but jinja2's two. Its answers are not trusted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from kuwa_min.chat.modelfile import is_unicode
from kuwa_min.chat.sentence import Sentence, sentence_of
from kuwa_min.process.supervision import spawn

from .chat_template import MAX_REASON, TemplateError
from .sandbox_child import MAX_CHARACTERS, MEMORY, TOO_LONG
from .sentences import (
    TEMPLATE_PROCESS_ENDED,
    TEMPLATE_PROCESS_NONSENSE,
    TEMPLATE_PROCESS_NOT_STARTED,
    TEMPLATE_TEXT_BROKEN,
    TEMPLATE_TEXT_TOO_LONG,
    TEMPLATE_TOO_LARGE,
    TEMPLATE_TOO_SLOW,
)

START_TIMEOUT = 20.0  # seconds for the process to start, on a busy machine and a slow disk
MAX_LINE = 12 * MAX_CHARACTERS + 1024  # bytes of an answer: JSON takes up to 12 for a character
# Environment variables that Python needs to start, and the time zone.
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
TEXT_TOO_LONG = TEMPLATE_TEXT_TOO_LONG.format(f"{MAX_CHARACTERS:,}")
LIBRARIES = ("jinja2", "markupsafe")
# Of this package, in the order of their imports; the last one is the program that is run.
MODULES = ("jinja_env", "chat_template", "sandbox_child")
# Isolated, without site-packages, writing no bytecode; neither template nor chat are arguments.
PYTHON_OPTIONS = ("-I", "-S", "-B", "-c")


def _source(name: str) -> tuple[str, str]:
    """Return a module's full name and its source, from the folder or from our archive."""
    spec = importlib.util.find_spec(f"{__package__}.{name}")
    return spec.name, spec.loader.get_source(spec.name)  # type: ignore[union-attr]


# Read at import: the archive may be replaced by a newer one while we run.
SOURCES = tuple(_source(name) for name in MODULES)


class SandboxProcess:
    """The process of one template; one thread at a time calls start() and request(), any close().

    template_line: the line with the template, as encode_line() makes it.
    """

    def __init__(self, template_line: bytes) -> None:
        self.template_line = template_line
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether the process runs, with its template compiled."""
        return self._popen is not None and self._popen.poll() is None

    def start(self, timeout: float) -> None:
        """Start the process and compile the template in it; raises TemplateError.

        timeout: seconds for compiling, and of processor time for each later request.
        """
        self.close()
        *modules, (_, program) = SOURCES
        try:
            self._popen = subprocess.Popen(
                [sys.executable, *PYTHON_OPTIONS, program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
                start_new_session=True,  # Ctrl+C is for us
            )
        except OSError as error:
            raise _not_started(error) from None
        setup = {"path": _library_folders(), "modules": modules, "seconds": timeout}
        try:
            self.request(encode_line(setup), START_TIMEOUT)
        except TemplateError as error:
            raise _not_started(error) from None
        self._compile_template(timeout)

    def _compile_template(self, timeout: float) -> None:
        try:
            self.request(self.template_line, timeout)
        except TemplateError:
            self.close()  # it has no template to render
            raise

    def request(self, line: bytes, timeout: float) -> str:
        """Send an order and return the text of the answer; raises TemplateError.

        Kills the process unless it answered in time and within its memory.
        """
        is_usable = False
        try:
            answer = _decode(self._exchange(line, timeout))
            is_usable = "memory" not in answer
        finally:
            if not is_usable:
                self.close()
        return _text(answer)

    def _exchange(self, line: bytes, timeout: float) -> bytes:
        """Send a line and return the answer's; kill the process after `timeout` seconds."""
        popen, answer = self._popen, b""
        answered, timed_out = threading.Event(), threading.Event()
        assert popen is not None and popen.stdin is not None and popen.stdout is not None

        def kill_in_time() -> None:
            if not answered.wait(timeout):
                timed_out.set()
                popen.kill()

        timer = spawn("sandbox-timer", kill_in_time)
        try:
            popen.stdin.write(line)
            popen.stdin.flush()
            answer = popen.stdout.readline(MAX_LINE)
        except (OSError, ValueError):
            pass  # the process ended, or close() closed the pipes
        finally:
            answered.set()
            timer.join()
        if timed_out.is_set():
            raise TemplateError(TEMPLATE_TOO_SLOW.format(f"{timeout:g}"))
        if not answer.endswith(b"\n"):
            raise TemplateError(TEXT_TOO_LONG if answer else TEMPLATE_PROCESS_ENDED)
        return answer

    def close(self) -> None:
        """Kill the process if it runs, wait for its end and close its pipes."""
        popen = self._popen
        if popen is None:
            return
        popen.kill()
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # buffered data cannot be written any more
                    pipe.close()


def encode_line(order: dict[str, Any]) -> bytes:
    """Return an order as the process reads it."""
    return json.dumps(order).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any]:
    """Parse an answer; raises TemplateError if it is not a JSON object: no template can do that."""
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(line)
        if isinstance(answer, dict):
            return answer
    raise TemplateError(TEMPLATE_PROCESS_NONSENSE)


def _text(answer: dict[str, Any]) -> str:
    """Return the rendered text of an answer; raises TemplateError."""
    if "memory" in answer:
        raise TemplateError(TEMPLATE_TOO_LARGE.format(MEMORY // 2**20))
    text = answer.get("text")
    if not isinstance(text, str):
        raise TemplateError(_reason(answer))
    if len(text) > MAX_CHARACTERS:
        raise TemplateError(TEXT_TOO_LONG)
    if not is_unicode(text):
        raise TemplateError(TEMPLATE_TEXT_BROKEN)
    return text


def _reason(answer: dict[str, Any]) -> str:
    """Return why the process refuses: a limit of ours, or the template's own message."""
    reason = answer.get("refused", TEMPLATE_PROCESS_NONSENSE)
    if reason == TOO_LONG:
        return TEXT_TOO_LONG
    return reason if isinstance(reason, Sentence) else str(reason)[:MAX_REASON]


def _not_started(error: Exception) -> TemplateError:
    return TemplateError(TEMPLATE_PROCESS_NOT_STARTED.format(sentence_of(error)))


def _library_folders() -> list[str]:
    """Return the folders that the process imports jinja2 and markupsafe from."""
    files = [importlib.util.find_spec(name).origin for name in LIBRARIES]  # type: ignore[union-attr]
    return list(dict.fromkeys(str(Path(str(file)).parents[1]) for file in files))
