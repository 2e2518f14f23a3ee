"""A Kernel for trials and tests, with a chat page. Not a production Kernel.

It implements the protocol that protocol.py describes, 0.4's routes for admin pages included, and
keeps its records in memory only. It differs where the Kernel is fragile: an unused reservation
expires, a client that leaves frees the executor at once, and an executor can be shut down while it
is reserved. Answers of both wire formats pass through; this module knows neither.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlencode

from kuwa_min.chat import bounded_json
from kuwa_min.errors import HTTPError
from kuwa_min.httpd.limits import Limits
from kuwa_min.httpd.messages import (
    JSON,
    TEXT,
    Request,
    Response,
    Routes,
    StreamingResponse,
    json_message,
)
from kuwa_min.httpd.server import Server
from kuwa_min.options import address

from . import forms, page_files, protocol
from .executor_hosts import ExecutorHosts
from .executor_status import StatusReader
from .records import ExecutorRecord, RecordTable, loggable, origin
from .relay import Relay, abort, shut_down

logger = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
MAX_LENGTH = 1000  # characters of a name, an endpoint, an id
MAX_REFUSED = 100  # refused executors that are logged
CHAT_IDS = ("history_id", "user_id")
TABLES = ("list", "debug", "read")  # which front ends and executors read under any Host


class EmbeddedKernel:
    """A `with` block during which a Kernel listens.

    executor_hosts: see executor_hosts. own_status: renders the status of the executor in this
    process, if there is one. address_options: see Server. url: its address, with the final slash.
    records: its table, for tests.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        version: str = "v1.0",
        allowed_hosts: Collection[str] = (),
        executor_hosts: Collection[str] = (),
        limits: Limits | None = None,
        own_status: Callable[[], bytes] | None = None,
        address_options: str = "--port or --host",
    ) -> None:
        self._version, self.records = version, RecordTable()
        self._statuses = StatusReader(self.records, own_status)
        self._hosts, self._refused = ExecutorHosts(executor_hosts), set[str]()
        self._server = Server(
            (host, port),
            self._routes(),
            hosts=[host],
            origins=allowed_hosts,
            any_host_paths=[f"/{version}/worker/{table}" for table in TABLES] + ["/health"],
            limits=limits,
            address_options=address_options,
        )
        self.url = f"http://{address.join_host_port(host, self._server.port)}/"

    def __enter__(self) -> EmbeddedKernel:
        """Start to listen."""
        self._server.__enter__()
        logger.info("embedded Kernel (for trying things): the chat page is at %s", self.url)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._server.__exit__()

    def _routes(self) -> Routes:
        worker, chat = f"/{self._version}/worker", f"/{self._version}/chat"
        return {
            **page_files.routes(self._version),
            "/page/status": {"GET": lambda _: _json_response(200, self._statuses.read())},
            "/health": {"GET": lambda _: Response(204)},
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

    def _register(self, request: Request) -> Response:
        name, endpoint = _form_values(request, "name", "endpoint")
        known = self.records.has_origin(name, endpoint)
        record = self._record(name, endpoint, request.peer)
        done = record is not None and self.records.add(name, record)
        if done and not known:  # not for each endpoint of an executor
            logger.info("an executor joined: %s at %s", name, loggable(endpoint))
        return _text_response(protocol.SUCCESS if done else protocol.FAILED)

    def _record(self, name: str, endpoint: str, peer: str) -> ExecutorRecord | None:
        """Return a new record; None, said once in the log, for one that cannot be or may not."""
        if not name or max(len(name), len(endpoint)) > MAX_LENGTH or not origin(endpoint):
            return None
        address = self._hosts.address_of(endpoint, peer)
        if address is not None:
            return ExecutorRecord(endpoint, address)
        if (place := loggable(endpoint)) not in self._refused and len(self._refused) < MAX_REFUSED:
            self._refused.add(place)
            logger.warning(
                "refused an executor at %s, registered from %s: --executor_hosts names those that "
                "may join from other machines",
                place,
                peer,
            )
        return None

    def _unregister(self, request: Request) -> Response:
        name, endpoint = _form_values(request, "name", "endpoint")
        done = self.records.remove(name, endpoint)
        if done:
            logger.info("an executor left: %s at %s", name, loggable(endpoint))
        return _text_response(protocol.SUCCESS if done else protocol.FAILED)

    def _schedule(self, request: Request) -> Response:
        name, history_id, user_id = _form_values(request, "name", *CHAT_IDS)
        return _text_response(self.records.schedule(name, history_id, user_id))

    def _list(self, _: Request) -> Response:
        return _json_response(200, self.records.names())

    def _read(self, _: Request) -> Response:
        return _json_response(200, self.records.table())

    def _debug(self, request: Request) -> Response:
        table, accept = self.records.table(), request.header("accept") or ""
        if JSON not in accept or "text/html" in accept:
            return Response(200, protocol.render_table(table), HTML)
        return _json_response(
            200, {name: list(map(_as_object, rows)) for name, rows in table.items()}
        )

    def _shutdown(self, request: Request) -> Response:
        """Ask one executor to stop; it unregisters itself. The state and ids sent are ignored."""
        name, endpoint = _json_values(request, "access_code", "endpoint")
        record = self.records.find(name, endpoint)
        if record is None:
            return _admin_response(404, "No such executor is registered.")
        status = shut_down(record)
        place = loggable(endpoint)
        logger.info("asked the executor %s at %s to shut down: %s", name, place, status)
        if status is None:
            return _admin_response(500, "The executor did not answer.")
        if status != 200:
            return _admin_response(500, f"The executor refused: status {status}.")
        return _admin_response(200, "Shutdown triggered successfully")

    def _update(self, request: Request) -> Response:
        """Move a free record to another name or endpoint."""
        old_name, old = _json_values(request, "original_access_code", "original_endpoint")
        name, endpoint = _json_values(request, "access_code", "endpoint")
        record = self._record(name, endpoint, request.peer)
        if record is None:
            return _admin_response(400, "access_code and an allowed endpoint must be given.")
        if not self.records.move(old_name, old, name, record):
            return _admin_response(404, "No such executor is registered and free.")
        return _admin_response(200, "Record updated successfully")

    def _abort(self, request: Request) -> Response:
        """Stop the chats of a user, each by its own ids."""
        form = _form(request)
        try:
            ids = bounded_json.loads(form.get("history_id", ""))
        except (ValueError, RecursionError):
            ids = None
        if not isinstance(ids, list):
            return json_message(400, "history_id must be a JSON list of numbers.")
        for record in self.records.of_chats({str(one) for one in ids}, form.get("user_id", "")):
            abort(record)
        return _text_response(protocol.SUCCESS)

    def _completions(self, request: Request) -> Response | StreamingResponse:
        form = _form(request)
        name, history_id, user_id = (form.get(key, "") for key in ("name", *CHAT_IDS))
        record = self.records.start_chat(name, history_id, user_id)
        if record is None:
            return Response(200, b"", TEXT)
        relay = Relay(self.records, name, record, request.head, urlencode(form).encode())
        return StreamingResponse(relay.produce, TEXT)


def _form(request: Request) -> dict[str, str]:
    return forms.parse_form(request.body, request.header("content-type") or "")


def _form_values(request: Request, *names: str) -> list[str]:
    """Return fields of a form; raises HTTPError for one above MAX_LENGTH."""
    form = _form(request)
    values = [form.get(name, "") for name in names]
    if max(map(len, values)) > MAX_LENGTH:
        raise HTTPError(400, f"A field is longer than {MAX_LENGTH} characters.")
    return values


def _json_values(request: Request, *names: str) -> list[str]:
    try:
        sent = bounded_json.loads(request.body.decode())
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        sent = {}
    return [str(sent.get(name, "")) for name in names]


def _as_object(record: protocol.Record) -> dict[str, Any]:
    return dict(zip(protocol.RECORD_KEYS, record, strict=True))


def _json_response(status: int, value: Any) -> Response:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return Response(status, text.encode("utf-8", "replace"), JSON)


def _admin_response(status: int, text: str) -> Response:
    return _json_response(
        status, {"message": text, "status": "success" if status == 200 else "error"}
    )


def _text_response(text: str) -> Response:
    return Response(200, text.encode(), TEXT)
