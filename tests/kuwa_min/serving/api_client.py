"""The routes of /v1 behind a socket, with a backend of a few lines, and what their clients send."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kuwa_min.httpd.server import Server
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.serving.api_routes import ApiRoutes
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.generations.factory import GenerationFactory
from kuwa_min.serving.metrics import Metrics
from kuwa_min.serving.openai_api.access import Access
from kuwa_min.serving.slots import Slots
from tests.support.programs import TIMEOUT

LOOP = EventLoop()  # shared, as by all chats of a process
WAITING_TIMEOUT = 240.0  # seconds
Compute = Callable[[ChatRequest], AsyncGenerator[Any, None]]


class Api:
    """/v1 of one executor."""

    def __init__(
        self,
        compute: Compute,
        access: Access,
        *,
        slots: int = 1,
        places: int = 2,
        on_loop: bool = True,
        features: tuple[str, ...] = ("images",),
        waiting_timeout: float = WAITING_TIMEOUT,
    ) -> None:
        self.metrics = Metrics("m", backend="Test", version="0", slots=slots)
        self.slots = Slots(slots, self.metrics, None, others=places)
        self.is_ready, self.closing = True, contextlib.ExitStack()
        routes = ApiRoutes(
            ["m", "a/b c"],
            access,
            self.slots,
            self.metrics,
            GenerationFactory(
                self.slots,
                self.metrics,
                compute,
                waiting_timeout=waiting_timeout,
                loop=LOOP if on_loop else None,
            ),
            features=lambda: features,
            is_ready=lambda: self.is_ready,
        ).table()
        self.server = Server(
            ("127.0.0.1", 0),
            routes,
            is_shared=access.is_shared,
            needs_token=access.needs_token,
            render_error=access.render_error,
        )

    @property
    def url(self) -> str:
        """Return the base URL as clients are given it."""
        return f"http://127.0.0.1:{self.server.port}/v1"

    @contextmanager
    def call(
        self, path: str, body: Any = None, *, method: str = "", **fields: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the response; fields: of its head, with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method or ("POST" if data else "GET"), path, data, headers)
            with connection.getresponse() as response:
                yield response

    def fetch(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Send a request; return status and JSON."""
        with self.call(path, body, **more) as response:
            data = response.read()
            return response.status, json.loads(data) if data else None

    def chat(self, **more: Any) -> tuple[int, Any]:
        """Ask for a whole answer; return status and JSON."""
        return self.fetch("/v1/chat/completions", asking(**more))

    def events(self, **more: Any) -> list[Any]:
        """Ask for a stream; return its events' JSON, the last of them being [DONE]."""
        with self.call("/v1/chat/completions", asking(stream=True, **more)) as response:
            assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
            return events_of(response.read())


def events_of(body: bytes) -> list[Any]:
    """Return the JSON of each event of a stream, which must end in [DONE]; no comments."""
    blocks = [one for one in body.decode().split("\n\n") if one and not one.startswith(":")]
    assert all(one.startswith("data: ") for one in blocks)
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(one.removeprefix("data: ")) for one in blocks]


def asking(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """Return a request for a chat."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def api(
    compute: Compute,
    *,
    tokens: list[str] | None = None,
    origins: list[str] | None = None,
    anywhere: bool = False,
    **more: Any,
) -> Iterator[Api]:
    """Serve /v1 for the length of a test."""
    one = Api(compute, Access(tokens or [], origins or [], anywhere=anywhere), **more)
    with one.server, one.closing:
        yield one
