"""Be the process that renders one stranger's template: take limits, then answer line by line.

A line is an object in JSON. The first order is {"source", "names"}, the others are {"chat",
"more"}; each is answered by {"text"}, {"refused": why} or {"memory": true}. This source and the
two it imports are all that is known here of us, and jinja2 is the only library.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from typing import Any

from ._chat_template import ChatTemplate, RefusedTemplate

MEMORY = 256 * 2**20  # bytes beyond what the process takes before it reads the template
CHARACTERS = 2_000_000  # of a text
TOO_LONG = f"it wrote more than {CHARACTERS:,} characters"
UNKNOWN_SIZE = 2**30  # of a process, where the system does not say it
STREAMS = 3  # open files: standard input, output and error
# Uses all that jinja2 imports late, its way to report errors last: no file can be opened then.
REHEARSAL = "{{ lipsum(1) | pprint | wordwrap }}{{ strftime_now('%c') }}{{ raise_exception('') }}"


def serve(seconds: float) -> None:
    """Answer orders until there are no more; each may take so many seconds of computing."""
    with contextlib.suppress(RefusedTemplate):
        ChatTemplate(REHEARSAL).render([])
    _limit_memory_and_files()
    _say({"text": ""})
    template: ChatTemplate | None = None
    for line in sys.stdin.buffer:
        _limit_time(seconds)
        try:
            order = json.loads(line)
            if template is None:
                template, text = ChatTemplate(order["source"], **order["names"]), ""
            else:
                text = template.render(order["chat"], **order["more"])
            _say({"text": text} if len(text) <= CHARACTERS else {"refused": TOO_LONG})
        except RefusedTemplate as error:
            _say({"refused": str(error)})
        except MemoryError:
            _say({"memory": True})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit_memory_and_files() -> None:
    """Give up what a template needs none of; the parent's limits must do on Windows."""
    with contextlib.suppress(ImportError):
        _limit(RLIMIT_FSIZE=0, RLIMIT_CORE=0, RLIMIT_NPROC=0)
        _limit(RLIMIT_NOFILE=STREAMS, RLIMIT_AS=_size() + MEMORY)


def _limit(**most: int) -> None:
    import resource

    for name, value in most.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it is lower, or not here
            resource.setrlimit(getattr(resource, name), (value, value))


def _limit_time(seconds: float) -> None:
    """Let the system end this process if nobody else does: the parent may be gone."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = math.ceil(time.process_time() + seconds) + 1  # of all that it ever computed
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def _size() -> int:
    """Return the bytes of this process's address space."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib takes long to load
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return UNKNOWN_SIZE
