"""The program of the sandbox process: it renders one untrusted template under resource limits.

It is run as `python -I -S -B -c SOURCE`, and reads a line of JSON at a time from standard input:
1. {"path", "modules", "seconds"}: where jinja2 lies, the sources of our modules that it needs, the
   seconds of processor time for each order; answered when the limits are set.
2. {"source", "names"}: the template; answered when it is compiled.
3. {"chat", "more"}, any number of times: a chat to render.
Each is answered by a line: {"text"}, {"refused": why} or {"memory": true}.

Nothing of ours can be imported here. The parent imports this module for its constants.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MEMORY = 256 * 2**20  # bytes of address space beyond what the process has before the template
MAX_CHARACTERS = 2_000_000  # of a rendered chat
TOO_LONG = f"it wrote more than {MAX_CHARACTERS:,} characters"
UNKNOWN_SIZE = 2**30  # bytes of the process, where the system does not say it
STREAMS = 3  # open files: standard input, output and error
# Uses all that jinja2 imports late, its error reporting last: no file can be opened afterwards.
WARM_UP = "{{ lipsum(1) | pprint | wordwrap }}{{ strftime_now('%c') }}{{ raise_exception('') }}"


def main() -> None:
    """Load the modules that the first line carries, then serve the orders that follow."""
    setup = json.loads(sys.stdin.buffer.readline())
    sys.path += setup["path"]
    for name, source in setup["modules"]:
        chat_template = _load(name, source)
    serve(chat_template, setup["seconds"])


def _load(name: str, source: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # which relative imports in it go by
    module.__package__ = module.__spec__.parent
    exec(compile(source, name, "exec"), vars(module))
    return module


def serve(chat_template: ModuleType, seconds: float) -> None:
    """Answer orders up to the end of standard input.

    chat_template: the module that has ChatTemplate and TemplateError; seconds: of processor time
    for each order.
    """
    with contextlib.suppress(chat_template.TemplateError):
        chat_template.ChatTemplate(WARM_UP).render([])
    _limit_memory_and_files()
    _answer({"text": ""})
    template: Any = None
    for line in sys.stdin.buffer:
        _limit_time(seconds)
        try:
            order = json.loads(line)
            if template is None:
                template, text = chat_template.ChatTemplate(order["source"], **order["names"]), ""
            else:
                text = template.render(order["chat"], **order["more"])
            _answer({"text": text} if len(text) <= MAX_CHARACTERS else {"refused": TOO_LONG})
        except chat_template.TemplateError as error:
            _answer({"refused": str(error)})
        except MemoryError:
            _answer({"memory": True})


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _limit_memory_and_files() -> None:
    """Set the limits for good; where there is no `resource` (Windows), the parent's must do."""
    with contextlib.suppress(ImportError):
        _limit(RLIMIT_FSIZE=0, RLIMIT_CORE=0, RLIMIT_NPROC=0)
        _limit(RLIMIT_NOFILE=STREAMS, RLIMIT_AS=_address_space() + MEMORY)


def _limit(**limits: int) -> None:
    import resource

    for name, value in limits.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # lower, or unknown here
            resource.setrlimit(getattr(resource, name), (value, value))


def _limit_time(seconds: float) -> None:
    """Limit the processor time of the next order in seconds: the parent may be gone."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        limit = math.ceil(time.process_time() + seconds) + 1  # counts from the process's start
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _address_space() -> int:
    """Return the size of this process's address space in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib takes long to load
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return UNKNOWN_SIZE


if __name__ == "__main__":
    main()
