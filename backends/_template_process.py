"""Start, ask and end the process that renders one stranger's template.

It knows nothing of us but three sources, which the first line sends: so it works out of an
archive, too, and of libraries it can import jinja2's two only. What it answers is not trusted.
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

from kuwa_min import sentences
from kuwa_min.modelfile import is_unicode
from kuwa_min.sentences import Sentence, sentence_of

from ._chat_template import REASON, RefusedTemplate
from ._template_child import CHARACTERS, MEMORY, TOO_LONG

START_SECONDS = 20.0  # for a process to start, on a busy machine and a slow disk
LINE = 12 * CHARACTERS + 1024  # bytes of an answer: JSON takes up to 12 for a character
# Without what Python's start needs, or another clock than ours.
KEPT = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
TEXT_TOO_LONG = sentences.TEMPLATE_TEXT_TOO_LONG.format(f"{CHARACTERS:,}")
LIBRARIES = ("jinja2", "markupsafe")
MODULES = ("_template_language", "_chat_template", "_template_child")  # as they need each other
# Isolated, without site-packages, writing no bytecode; neither template nor chat are arguments.
COMMAND = ("-I", "-S", "-B", "-c")
PROGRAM = """
import json, sys, types
opening = json.loads(sys.stdin.buffer.readline())
sys.path += opening["path"]
for name, source in opening["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    exec(compile(source, name, "exec"), vars(module))
module.serve(opening["seconds"])
"""


def _source(name: str) -> tuple[str, str]:
    """Return a module's full name and source, out of a folder or out of our file."""
    spec = importlib.util.find_spec(f"{__package__}.{name}")
    return spec.name, spec.loader.get_source(spec.name)  # type: ignore[union-attr]


SOURCES = tuple(map(_source, MODULES))  # now: a newer file may take ours' place while we run


class TemplateProcess:
    """One template's process; one thread at a time starts it and asks, any may end it."""

    def __init__(self, opening: bytes) -> None:
        self.opening = opening
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def lives(self) -> bool:
        """Tell whether it can be asked."""
        return self._popen is not None and self._popen.poll() is None

    def start(self, seconds: float) -> None:
        """Start it and let it read the template; raises RefusedTemplate."""
        self.end()
        try:
            self._popen = subprocess.Popen(
                [sys.executable, *COMMAND, PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in KEPT if name in os.environ},
                start_new_session=True,  # Ctrl+C is for us
            )
        except OSError as error:
            raise _not_started(error) from None
        program = {"path": _library_folders(), "modules": SOURCES, "seconds": seconds}
        try:
            self.ask(json_line(program), START_SECONDS)
        except RefusedTemplate as error:
            raise _not_started(error) from None
        self._read_template(seconds)

    def _read_template(self, seconds: float) -> None:
        try:
            self.ask(self.opening, seconds)
        except RefusedTemplate:
            self.end()  # it has no template to go on with
            raise

    def ask(self, order: bytes, seconds: float) -> str:
        """Return the text it answers; raises RefusedTemplate, and ends what cannot go on."""
        goes_on = False
        try:
            answer = _object(self._exchange(order, seconds))
            goes_on = "memory" not in answer
        finally:
            if not goes_on:
                self.end()
        return _text(answer)

    def _exchange(self, order: bytes, seconds: float) -> bytes:
        """Send a line and return the answer's; raises RefusedTemplate if there is none in time."""
        popen, late, answer = self._popen, threading.Event(), b""
        assert popen is not None and popen.stdin is not None and popen.stdout is not None

        def stop() -> None:
            late.set()
            popen.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            popen.stdin.write(order)
            popen.stdin.flush()
            answer = popen.stdout.readline(LINE)
        except (OSError, ValueError):
            pass  # it ended, or was ended with its pipes closed: there is no answer
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise RefusedTemplate(sentences.TEMPLATE_TOO_SLOW.format(f"{seconds:g}"))
        if not answer.endswith(b"\n"):
            raise RefusedTemplate(TEXT_TOO_LONG if answer else sentences.TEMPLATE_PROCESS_ENDED)
        return answer

    def end(self) -> None:
        """Kill it if it lives, and leave nothing of it."""
        popen = self._popen
        if popen is None:
            return
        popen.kill()
        popen.wait()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent
                    pipe.close()


def json_line(order: dict[str, Any]) -> bytes:
    """Return an order as the process reads it."""
    return json.dumps(order).encode() + b"\n"


def _object(answer: bytes) -> dict[str, Any]:
    """Read an answer; raises RefusedTemplate if it is no object, as templates cannot cause."""
    with contextlib.suppress(ValueError, RecursionError):
        answered = json.loads(answer)
        if isinstance(answered, dict):
            return answered
    raise RefusedTemplate(sentences.TEMPLATE_PROCESS_NONSENSE)


def _text(answer: dict[str, Any]) -> str:
    if "memory" in answer:
        raise RefusedTemplate(sentences.TEMPLATE_TOO_LARGE.format(MEMORY // 2**20))
    text = answer.get("text")
    if not isinstance(text, str):
        raise RefusedTemplate(_reason(answer))
    if len(text) > CHARACTERS:
        raise RefusedTemplate(TEXT_TOO_LONG)
    if not is_unicode(text):
        raise RefusedTemplate(sentences.TEMPLATE_TEXT_BROKEN)
    return text


def _reason(answer: dict[str, Any]) -> str:
    """Return why the process refuses: a limit of ours, or the template's own words."""
    reason = answer.get("refused", sentences.TEMPLATE_PROCESS_NONSENSE)
    if reason == TOO_LONG:
        return TEXT_TOO_LONG
    return reason if isinstance(reason, Sentence) else str(reason)[:REASON]


def _not_started(error: Exception) -> RefusedTemplate:
    return RefusedTemplate(sentences.TEMPLATE_PROCESS_NOT_STARTED.format(sentence_of(error)))


def _library_folders() -> list[str]:
    """Return where the libraries lie that templates need."""
    files = [importlib.util.find_spec(name).origin for name in LIBRARIES]  # type: ignore[union-attr]
    return list(dict.fromkeys(str(Path(str(file)).parents[1]) for file in files))
