"""A pool of sandbox processes, which render the chat templates of Modelfiles."""

# The strategy. A Modelfile's template is an untrusted program, and jinja2's sandbox limits neither
# its time nor its memory nor its output. So it is compiled and rendered in a process of its own,
# with limits on all three, that serves this one template only: it can leave nothing to others. A
# process starts in 0.07 s (0.16 s on a busy machine) and takes 21 MB; it is kept for the template's
# next chat, which then takes 0.4 ms more than in our process. At most MAX_PROCESSES exist at once:
# the least recently used idle one is closed for a new template, and while all are busy a request
# waits up to WAIT_TIMEOUT.

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from kuwa_min.chat.modelfile import Message

from .chat_template import TemplateError
from .sandbox import SandboxProcess, encode_line
from .sentences import PROGRAM_ENDING, TEMPLATE_TOO_LONG, TEMPLATES_TOO_MANY

RENDER_TIMEOUT = 2.0  # seconds to compile a template, and to render a chat
WAIT_TIMEOUT = 10.0  # seconds to wait for a process while all are busy
MAX_PROCESSES = 4
MAX_LENGTH = 64 * 2**10  # characters of a template


class SandboxedTemplate:
    """An untrusted chat template; used as a ChatTemplate is."""

    def __init__(self, pool: SandboxPool, template: dict[str, Any]) -> None:
        self._pool, self._template = pool, template

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if it fails or exceeds a limit."""
        return self._pool.request(self._template, {"chat": chat, "more": more})


class SandboxPool:
    """The sandbox processes; all methods may be called from any thread.

    timeout: seconds to compile a template, and to render a chat; max_processes: at once.
    """

    def __init__(
        self, *, timeout: float = RENDER_TIMEOUT, max_processes: int = MAX_PROCESSES
    ) -> None:
        self._timeout, self._max_processes = timeout, max_processes
        self._idle: list[SandboxProcess] = []  # the most recently used one last
        self._busy: set[SandboxProcess] = set()
        self._changed = threading.Condition()
        self._closed = False
        atexit.register(self.close)

    def open(self, source: str, /, **names: Any) -> SandboxedTemplate:
        """Return a template to render; raises TemplateError if it is too long.

        names: as those of ChatTemplate, in types that JSON has.
        """
        if len(source) > MAX_LENGTH:
            raise TemplateError(TEMPLATE_TOO_LONG.format(f"{MAX_LENGTH:,}"))
        return SandboxedTemplate(self, {"source": source, "names": names})

    def request(self, template: dict[str, Any], order: dict[str, Any]) -> str:
        """Return the answer of a template's process to an order; raises TemplateError."""
        with self._borrowed(encode_line(template)) as process:
            if not process.is_alive:
                process.start(self._timeout)
            if self._closed:  # close() came before start(), so that it did not end this process
                raise TemplateError(PROGRAM_ENDING)
            return process.request(encode_line(order), self._timeout)

    @contextlib.contextmanager
    def _borrowed(self, template_line: bytes) -> Iterator[SandboxProcess]:
        process, evicted = self._acquire(template_line)
        try:
            for other in evicted:
                other.close()
            yield process
        finally:
            self._release(process)

    def _acquire(self, template_line: bytes) -> tuple[SandboxProcess, list[SandboxProcess]]:
        """Return the template's process or a new one, and those to close to make room for it."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, WAIT_TIMEOUT):
                raise TemplateError(TEMPLATES_TOO_MANY)
            if self._closed:
                raise TemplateError(PROGRAM_ENDING)
            own = [one for one in self._idle if one.template_line == template_line]
            process = own[-1] if own else SandboxProcess(template_line)
            others = [one for one in self._idle if one is not process]
            self._busy.add(process)
            surplus = max(0, len(self._busy) + len(others) - self._max_processes)
            self._idle = others[surplus:]
            return process, others[:surplus]

    def _has_room(self) -> bool:
        return len(self._busy) < self._max_processes

    def _release(self, process: SandboxProcess) -> None:
        with self._changed:
            self._busy.remove(process)
            is_kept = process.is_alive and not self._closed
            if is_kept:
                self._idle.append(process)
            self._changed.notify()
        if not is_kept:
            process.close()

    def close(self) -> None:
        """Kill all processes, busy ones too."""
        with self._changed:
            self._closed = True
            processes = [*self._idle, *self._busy]
            self._idle = []
        for process in processes:
            process.close()
        atexit.unregister(self.close)

    def __enter__(self) -> SandboxPool:
        """Return the pool, which closes with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()
