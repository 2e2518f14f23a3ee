"""A Kernel to try things with and to test against, with a chat page. Not a production Kernel.

It speaks what protocol.py says of the Kernel, keeps its records in memory only, and differs where
the Kernel is fragile: a reservation that is not used expires, and a reader who leaves frees the
executor at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import pkgutil
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from . import protocol
from .delivery import Delivery
from .errors import Gone
from .httpd import JSON, TEXT, Reply, Request, Routes, Server, Streaming, message

logger = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
RESERVATION_SECONDS = 30.0  # a reservation without a chat ends after this
ABORT_SECONDS = 10.0
SILENCE_SECONDS = 300.0  # the longest pause of an executor that is waited for
PIECE = 64 << 10
BUSY, NO_MACHINE = "BUSY", "NOMACHINE"
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass
class Executor:
    """One endpoint under one name, and whom it is reserved for."""

    endpoint: str
    state: str = protocol.READY
    history_id: int | str = protocol.RESERVED_NOBODY
    user_id: int | str = protocol.RESERVED_NOBODY
    reserved_at: float = field(default=0.0, repr=False)

    def reserve(self, history_id: str, user_id: str) -> None:
        """Keep this executor for one chat."""
        self.history_id, self.user_id = history_id, user_id
        self.reserved_at = time.monotonic()

    def release(self) -> None:
        """Make this executor free for anybody."""
        self.state = protocol.READY
        self.history_id = self.user_id = protocol.RESERVED_NOBODY

    @property
    def free(self) -> bool:
        """Tell whether nobody runs or has reserved anything here."""
        if self.state != protocol.READY:
            return False
        expired = time.monotonic() - self.reserved_at > RESERVATION_SECONDS
        return self.history_id == protocol.RESERVED_NOBODY or expired

    def record(self) -> protocol.Record:
        """Return the record as the Kernel shows it."""
        return [self.endpoint, self.state, self.history_id, self.user_id]


class Records:
    """The Kernel's memory: who serves which name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, list[Executor]] = {}

    def add(self, name: str, endpoint: str) -> bool:
        """Add an endpoint; return False if it is there already."""
        with self._lock:
            known = self._names.setdefault(name, [])
            if any(executor.endpoint == endpoint for executor in known):
                return False
            known.append(Executor(endpoint))
            return True

    def remove(self, name: str, endpoint: str) -> bool:
        """Remove every endpoint of that scheme, host and port; return whether there was one."""
        with self._lock:
            known = self._names.get(name, [])
            kept = [one for one in known if _origin(one.endpoint) != _origin(endpoint)]
            return self._keep(name, known, kept)

    def drop(self, name: str, dead: Executor) -> None:
        """Remove one endpoint that does not answer."""
        with self._lock:
            known = self._names.get(name, [])
            self._keep(name, known, [one for one in known if one is not dead])

    def _keep(self, name: str, known: list[Executor], kept: list[Executor]) -> bool:
        if kept:
            self._names[name] = kept
        else:
            self._names.pop(name, None)
        return len(kept) < len(known)

    def schedule(self, name: str, history_id: str, user_id: str) -> str:
        """Reserve an executor for a chat."""
        with self._lock:
            known = self._names.get(name)
            if not known:
                return NO_MACHINE
            for executor in known:
                if executor.free:
                    executor.reserve(history_id, user_id)
                    return protocol.READY
            return BUSY

    def begin(self, name: str, history_id: str, user_id: str) -> Executor | None:
        """Take the executor that was reserved for this chat."""
        with self._lock:
            for executor in self._names.get(name, []):
                mine = (executor.history_id, executor.user_id) == (history_id, user_id)
                if mine and executor.state == protocol.READY:
                    executor.state = BUSY
                    return executor
            return None

    def end(self, executor: Executor) -> None:
        """Give an executor back."""
        with self._lock:
            executor.release()

    def running(self, history_ids: Collection[str], user_id: str) -> list[Executor]:
        """Return the executors that run these chats of this user."""
        with self._lock:
            return [
                executor
                for known in self._names.values()
                for executor in known
                if executor.user_id == user_id and str(executor.history_id) in history_ids
            ]

    def names(self) -> list[str]:
        """Return the names that somebody serves."""
        with self._lock:
            return list(self._names)

    def table(self) -> protocol.Table:
        """Return all records."""
        with self._lock:
            return {name: [one.record() for one in known] for name, known in self._names.items()}


class EmbeddedKernel:
    """A `with` block during which a Kernel listens; `url` is its address."""

    def __init__(
        self, host: str, port: int, *, version: str = "v1.0", allowed_hosts: Collection[str] = ()
    ) -> None:
        self._version, self.records = version, Records()
        self._server = Server((host, port), self._routes(), hosts=[host], origins=allowed_hosts)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.port}/"

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
        done = bool(name and _origin(endpoint)) and self.records.add(name, endpoint)
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
            with contextlib.suppress(OSError, http.client.HTTPException):
                _call(executor.endpoint, "GET", "/abort", ABORT_SECONDS).close()
        return _word(protocol.SUCCESS)

    def _completions(self, request: Request) -> Reply | Streaming:
        name, history_id, user_id = _fields(request, "name", "history_id", "user_id")
        executor = self.records.begin(name, history_id, user_id)
        if executor is None:
            return Reply(200, b"", TEXT)
        return Streaming(_Relay(self.records, name, executor, request).produce, TEXT)


class _Relay:
    """Carry one answer from an executor to the Kernel's client."""

    def __init__(self, records: Records, name: str, executor: Executor, request: Request) -> None:
        self._records, self._name, self._executor = records, name, executor
        self._request = request

    def produce(self, delivery: Delivery) -> None:
        """Post the form to the executor and stream what it says, whatever its status is."""
        try:
            self._relay(delivery)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, ConnectionRefusedError):
                self._records.drop(self._name, self._executor)
            logger.warning("%s did not answer: %s", self._executor.endpoint, type(error).__name__)
        finally:
            self._records.end(self._executor)
        delivery.finish()

    def _relay(self, delivery: Delivery) -> None:
        form = protocol.parse_form(self._request.body, self._request.field("content-type") or "")
        language = self._request.field("accept-language")
        answer = _call(
            self._executor.endpoint,
            "POST",
            "",
            SILENCE_SECONDS,
            body=urlencode(form).encode(),
            fields={"Accept-Language": language} if language else {},
        )
        with contextlib.closing(answer):
            delivery.on_gone = answer.hang_up
            if delivery.gone:
                raise Gone
            while piece := answer.read():
                delivery.write(piece)


class _Upstream:
    """An executor's answer being read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        import codecs

        self._connection = connection
        self._socket = connection.sock
        self._answer = connection.getresponse()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def read(self) -> str:
        """Return the next text, empty at the end."""
        while data := self._answer.read1(PIECE):
            if text := self._decode(data):
                return text
        return self._decode(b"", True)

    def hang_up(self) -> None:
        """Leave in the middle of the answer, from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()
        self._connection.close()


def _call(
    endpoint: str,
    method: str,
    suffix: str,
    timeout: float,
    *,
    body: bytes | None = None,
    fields: dict[str, str] | None = None,
) -> _Upstream:
    """Send one request to an executor, never through a proxy."""
    parts = urlsplit(endpoint)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    headers = {"Connection": "close", **(fields or {})}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, parts.path.rstrip("/") + suffix, body, headers)
    return _Upstream(connection)


def _fields(request: Request, *names: str) -> list[str]:
    form = protocol.parse_form(request.body, request.field("content-type") or "")
    return [form.get(name, "") for name in names]


def _origin(endpoint: str) -> tuple[str, str] | None:
    parts = urlsplit(endpoint)
    return (parts.scheme, parts.netloc) if parts.scheme in ("http", "https") else None


def _word(text: str) -> Reply:
    return Reply(200, text.encode(), TEXT)
