"""Render templates that came with a request in processes of their own, with limits.

Such a template is a stranger's program, and jinja2's sandbox bounds neither its time nor its
memory nor what it writes. A process starts in 0.07 s (0.16 s on a busy machine), takes 21 MB, and
serves one template only; it is kept for the next chat, which then takes 0.4 ms more than here.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from kuwa_min import sentences
from kuwa_min.modelfile import Message

from ._chat_template import RefusedTemplate
from ._template_process import TemplateProcess, json_line

SECONDS = 2.0  # for reading a template, and for each chat
WAIT_SECONDS = 10.0  # for other templates to end
MOST = 4  # processes at once
LENGTH = 64 * 2**10  # characters of a template


class BoundedTemplate:
    """A stranger's template, to be used as a ChatTemplate."""

    def __init__(self, processes: TemplateProcesses, opening: dict[str, Any]) -> None:
        self._processes, self._opening = processes, opening

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises RefusedTemplate if it is refused or beyond a limit."""
        return self._processes.ask(self._opening, {"chat": chat, "more": more})


class TemplateProcesses:
    """The processes that render strangers' templates; any thread may use them."""

    def __init__(self, *, seconds: float = SECONDS, most: int = MOST) -> None:
        self._seconds, self._most = seconds, most
        self._idle: list[TemplateProcess] = []  # the one that was used last stands last
        self._busy: set[TemplateProcess] = set()
        self._change = threading.Condition()
        self._closed = False
        atexit.register(self.close)

    def open(self, source: str, /, **names: Any) -> BoundedTemplate:
        """Return a template to render; raises RefusedTemplate if it is too long.

        names: as ChatTemplate's, but nothing that JSON cannot carry.
        """
        if len(source) > LENGTH:
            raise RefusedTemplate(sentences.TEMPLATE_TOO_LONG.format(f"{LENGTH:,}"))
        return BoundedTemplate(self, {"source": source, "names": names})

    def ask(self, opening: dict[str, Any], order: dict[str, Any]) -> str:
        """Return the answer of a template's process to an order; raises RefusedTemplate."""
        with self._borrowed(json_line(opening)) as process:
            if not process.lives:
                process.start(self._seconds)
            if self._closed:  # before it was started, so that nobody ended it
                raise RefusedTemplate(sentences.PROGRAM_ENDING)
            return process.ask(json_line(order), self._seconds)

    @contextlib.contextmanager
    def _borrowed(self, opening: bytes) -> Iterator[TemplateProcess]:
        process, surplus = self._take(opening)
        try:
            for one in surplus:
                one.end()
            yield process
        finally:
            self._give_back(process)

    def _take(self, opening: bytes) -> tuple[TemplateProcess, list[TemplateProcess]]:
        """Return the template's process or a new one, and those that must end to make room."""
        with self._change:
            if not self._change.wait_for(lambda: len(self._busy) < self._most, WAIT_SECONDS):
                raise RefusedTemplate(sentences.TEMPLATES_TOO_MANY)
            if self._closed:
                raise RefusedTemplate(sentences.PROGRAM_ENDING)
            own = [one for one in self._idle if one.opening == opening]
            process = own[-1] if own else TemplateProcess(opening)
            others = [one for one in self._idle if one is not process]
            self._busy.add(process)
            surplus = max(0, len(self._busy) + len(others) - self._most)
            self._idle = others[surplus:]
            return process, others[:surplus]

    def _give_back(self, process: TemplateProcess) -> None:
        with self._change:
            self._busy.remove(process)
            keep = process.lives and not self._closed
            if keep:
                self._idle.append(process)
            self._change.notify()
        if not keep:
            process.end()

    def close(self) -> None:
        """End the processes, whatever they do."""
        with self._change:
            self._closed = True
            processes = [*self._idle, *self._busy]
            self._idle = []
        for process in processes:
            process.end()
        atexit.unregister(self.close)

    def __enter__(self) -> TemplateProcesses:
        """Return the processes, which end with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self.close()
