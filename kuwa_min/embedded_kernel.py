"""A Kernel to try things with and to test against, with a chat page. Not a production Kernel.

It speaks what protocol.py says of the Kernel, keeps its records in memory only, and differs where
the Kernel is fragile: a reservation that is not used expires, and a reader who leaves frees the
executor at once.
"""

from __future__ import annotations

import json
import logging
import pkgutil
from collections.abc import Collection

from . import address, protocol
from .exchange import JSON, TEXT, Reply, Request, Routes, Streaming, message
from .httpd import Server
from .records import Records, origin
from .relay import Relay, abort

logger = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
TABLES = ("list", "debug", "read")  # which front ends and executors read under any name
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class EmbeddedKernel:
    """A `with` block during which a Kernel listens; `url` is its address."""

    def __init__(
        self, host: str, port: int, *, version: str = "v1.0", allowed_hosts: Collection[str] = ()
    ) -> None:
        self._version, self.records = version, Records()
        self._server = Server(
            (host, port),
            self._routes(),
            hosts=[host],
            origins=allowed_hosts,
            any_host=[f"/{version}/worker/{table}" for table in TABLES] + ["/health"],
        )
        self.url = f"http://{address.join(host, self._server.port)}/"

    def __enter__(self) -> EmbeddedKernel:
        """Listen from now on."""
        self._server.__enter__()
        logger.info("embedded Kernel (for trying things): the chat page is at %s", self.url)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._server.__exit__()

    def _routes(self) -> Routes:
        worker, chat = f"/{self._version}/worker", f"/{self._version}/chat"
        return {
            "/": {"GET": self._page},
            "/health": {"GET": lambda _: Reply(204)},
            f"{worker}/register": {"POST": self._register},
            f"{worker}/unregister": {"POST": self._unregister},
            f"{worker}/schedule": {"POST": self._schedule},
            f"{worker}/list": {"GET": self._list},
            f"{worker}/debug": {"GET": self._debug},
            f"{chat}/completions": {"POST": self._completions},
            f"{chat}/abort": {"POST": self._abort},
        }

    def _page(self, _: Request) -> Reply:
        page = pkgutil.get_data(__package__, "chat.html") or b""
        page = page.replace(b'data-version="v1.0"', f'data-version="{self._version}"'.encode())
        return Reply(200, page, HTML, (("Content-Security-Policy", PAGE_POLICY),))

    def _register(self, request: Request) -> Reply:
        name, endpoint = _fields(request, "name", "endpoint")
        done = bool(name and origin(endpoint)) and self.records.add(name, endpoint)
        if done:
            logger.info("an executor joined: %s at %s", name, endpoint)
        return _word(protocol.SUCCESS if done else protocol.FAILED)

    def _unregister(self, request: Request) -> Reply:
        name, endpoint = _fields(request, "name", "endpoint")
        done = self.records.remove(name, endpoint)
        if done:
            logger.info("an executor left: %s at %s", name, endpoint)
        return _word(protocol.SUCCESS if done else protocol.FAILED)

    def _schedule(self, request: Request) -> Reply:
        name, history_id, user_id = _fields(request, "name", "history_id", "user_id")
        return _word(self.records.schedule(name, history_id, user_id))

    def _list(self, _: Request) -> Reply:
        return Reply(200, json.dumps(self.records.names(), ensure_ascii=False).encode(), JSON)

    def _debug(self, _: Request) -> Reply:
        return Reply(200, protocol.show_table(self.records.table()), HTML)

    def _abort(self, request: Request) -> Reply:
        history_ids, user_id = _fields(request, "history_id", "user_id")
        try:
            ids = {str(one) for one in json.loads(history_ids)}
        except (ValueError, TypeError, RecursionError):
            return message(400, "history_id must be a JSON list of numbers.")
        for executor in self.records.running(ids, user_id):
            abort(executor)
        return _word(protocol.SUCCESS)

    def _completions(self, request: Request) -> Reply | Streaming:
        name, history_id, user_id = _fields(request, "name", "history_id", "user_id")
        executor = self.records.begin(name, history_id, user_id)
        if executor is None:
            return Reply(200, b"", TEXT)
        return Streaming(Relay(self.records, name, executor, request).produce, TEXT)


def _fields(request: Request, *names: str) -> list[str]:
    form = protocol.parse_form(request.body, request.field("content-type") or "")
    return [form.get(name, "") for name in names]


def _word(text: str) -> Reply:
    return Reply(200, text.encode(), TEXT)
