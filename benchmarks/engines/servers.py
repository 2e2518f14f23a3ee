"""Start what answers with a model: ours, the library's loops, the library's own server.

All in processes of their own with one compute thread each, and all loaded before a clock runs.
Which engines there are, and their options, each backend says for itself.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.answer import Answer, EventAnswer, completion_request, form_request
from harness.contestants import HERE, ROOT, slot_path
from harness.process import HOST, Server, ServerFailedError, free_port

OURS, ALONE = "ours", "the same, one by one"
LOOPS = "the library alone"
SLOTS = 8
LOAD_SECONDS = 300.0
POLL_SECONDS = 0.05
ORDER_SECONDS = 120.0


class ModelServer(Server):
    """A server that takes a while to load; it is ready once it accepts a connection."""

    knock = "/health"

    def wait_healthy(self) -> float:
        """Knock until the model is loaded; return the seconds since the start."""
        while not self._answers():
            late = time.perf_counter() - self.started > LOAD_SECONDS
            if late or self.process.poll() is not None:
                raise ServerFailedError(f"{' '.join(self.command)}\n{self.output()}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    def _answers(self) -> bool:
        try:
            url = f"http://{HOST}:{self.port}{self.knock}"
            with urllib.request.urlopen(url, timeout=5) as health:
                return health.status in (200, 204)
        except OSError:
            return False


class Ours(ModelServer):
    """Our executor without a Kernel: a backend's name and options, or those of a built file."""

    length_option = "max_new_tokens"

    def __init__(self, file: Path | None, *options: str, slots: int) -> None:
        port = free_port()
        start = [str(file)] if file else ["-m", "kuwa_min"]
        common = [
            *("--no_system_prompt", "--ignore_kernel", "--host", HOST, "--port", str(port)),
            *("--concurrent_req_limit", str(slots)),
        ]
        super().__init__([sys.executable, *start, *options, *common], port, cwd=ROOT)

    def chat(self, slot: int, said: Sequence[str], tokens: int, **options: object) -> Answer:
        """Ask for this many tokens in a slot."""
        wanted = {self.length_option: tokens, **options}
        return Answer(self.port, form_request(slot_path(slot), said, **wanted), tokens)

    def description(self) -> str:
        """Return what its /status says of the model, the device included."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/status") as status:
            return f"/status: {json.dumps(json.load(status)['model'])}"

    def abort(self, slot: int) -> None:
        """Stop the answer in a slot, and wait for it."""
        url = f"http://{HOST}:{self.port}{slot_path(slot)}/abort"
        with urllib.request.urlopen(url, timeout=ORDER_SECONDS) as answer:
            if b"Aborted" not in answer.read():
                raise ServerFailedError(f"nothing was to be aborted in slot {slot}")


class OpenAiServer(ModelServer):
    """A server that speaks OpenAI's protocol; its command listens on the port."""

    def __init__(self, command: Sequence[str], port: int, model: Path) -> None:
        super().__init__(command, port)
        self.model = str(model)

    def chat(self, slot: int, said: Sequence[str], tokens: int) -> EventAnswer:
        """Ask for this many tokens; the server has no slots."""
        request = completion_request(self.model, said, max_tokens=tokens, temperature=0)
        return EventAnswer(self.port, request, tokens)


class Library(ModelServer):
    """A process with the library's own loops, whose clock is its own."""

    def __init__(self, module: str, *options: str) -> None:
        port = free_port()
        super().__init__([sys.executable, str(HERE), module, "--port", str(port), *options], port)

    def answer(self, kind: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
        """Return the seconds of the whole and of the decoding, and the texts."""
        order = json.dumps({"kind": kind, "prompts": prompts, "tokens": tokens}).encode()
        url = f"http://{HOST}:{self.port}/"
        try:
            with urllib.request.urlopen(url, order, timeout=ORDER_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.URLError as error:
            raise ServerFailedError(f"{error}\n{self.output()}") from None
        return found


Engines = Mapping[str, Any]
Makers = Mapping[str, Callable[[], ModelServer]]


@contextmanager
def running(makers: Makers, names: Collection[str]) -> Iterator[Engines]:
    """Start the engines of these names at once, and wait until all are loaded."""
    with ExitStack() as stack:
        engines = {name: makers[name]() for name in makers if name in names}
        for engine in engines.values():
            engine.start()
            stack.callback(engine.stop)
        for engine in engines.values():
            engine.wait_healthy()
        yield engines
