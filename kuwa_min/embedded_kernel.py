"""A Kernel to try things with and to test against, with a chat page. Not a production Kernel.

It speaks what protocol.py says of the Kernel, 0.4's routes for admin pages included, keeps its
records in memory only, and differs where the Kernel is fragile: a reservation that is not used
expires, a reader who leaves frees the executor at once, and an executor can be shut down while it
is reserved. Answers pass through on both wires: this module knows neither.
"""

from __future__ import annotations

import json
import logging
import pkgutil
from collections.abc import Collection
from typing import Any

from . import address, protocol
from .exchange import JSON, TEXT, Reply, Request, Routes, Streaming, message
from .httpd import Server
from .records import Records, origin
from .relay import Relay, abort, shut_down

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
            f"{worker}/read": {"GET": self._read},
            f"{worker}/shutdown": {"POST": self._shutdown},
            f"{worker}/update": {"POST": self._update},
            f"{chat}/completions": {"POST": self._completions},
            f"{chat}/abort": {"POST": self._abort},
        }

    def _page(self, _: Request) -> Reply:
        page = pkgutil.get_data(__package__, "chat.html") or b""
        page = page.replace(b'data-version="v1.0"', f'data-version="{self._version}"'.encode())
        return Reply(200, page, HTML, (("Content-Security-Policy", PAGE_POLICY),))

    def _register(self, request: Request) -> Reply:
        name, endpoint = _fields(request, "name", "endpoint")
        known = self.records.knows(name, endpoint)
        done = bool(name and origin(endpoint)) and self.records.add(name, endpoint)
        if done and not known:  # an executor has an endpoint for each slot
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
        return _json(200, self.records.names())

    def _read(self, _: Request) -> Reply:
        return _json(200, self.records.table())

    def _debug(self, request: Request) -> Reply:
        table, accept = self.records.table(), request.field("accept") or ""
        if JSON not in accept or "text/html" in accept:
            return Reply(200, protocol.show_table(table), HTML)
        return _json(200, {name: list(map(_shown, rows)) for name, rows in table.items()})

    def _shutdown(self, request: Request) -> Reply:
        """Ask one executor to end; it unregisters itself. State and ids need not be up to date."""
        name, endpoint = _values(request, "access_code", "endpoint")
        executor = self.records.find(name, endpoint)
        if executor is None:
            return _outcome(404, "No such executor is registered.")
        status = shut_down(executor)
        logger.info("asked the executor %s at %s to shut down: %s", name, endpoint, status)
        if status is None:
            return _outcome(500, "The executor did not answer.")
        if status != 200:
            return _outcome(500, f"The executor refused: status {status}.")
        return _outcome(200, "Shutdown triggered successfully")

    def _update(self, request: Request) -> Reply:
        """Move a free record to another name or endpoint."""
        old_name, old = _values(request, "original_access_code", "original_endpoint")
        name, endpoint = _values(request, "access_code", "endpoint")
        if not name or not origin(endpoint):
            return _outcome(400, "access_code and endpoint must be given.")
        if not self.records.move(old_name, old, name, endpoint):
            return _outcome(404, "No such executor is registered and free.")
        return _outcome(200, "Record updated successfully")

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


def _values(request: Request, *names: str) -> list[str]:
    try:
        sent = json.loads(request.body)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        sent = {}
    return [str(sent.get(name, "")) for name in names]


def _shown(record: protocol.Record) -> dict[str, Any]:
    keys = ("endpoint", "status", "job_history_id", "job_user_id")
    return dict(zip(keys, record, strict=True))


def _json(status: int, value: Any) -> Reply:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return Reply(status, text.encode("utf-8", "replace"), JSON)


def _outcome(status: int, text: str) -> Reply:
    return _json(status, {"message": text, "status": "success" if status == 200 else "error"})


def _word(text: str) -> Reply:
    return Reply(200, text.encode(), TEXT)
