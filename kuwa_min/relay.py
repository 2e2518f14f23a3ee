"""Carry a chat from the embedded Kernel to an executor, and its answer back as it comes."""

from __future__ import annotations

import codecs
import contextlib
import http.client
import logging
import socket
from urllib.parse import urlencode, urlsplit

from . import protocol
from .delivery import Delivery
from .errors import Gone
from .exchange import Request
from .records import Executor, Records

logger = logging.getLogger(__name__)

ABORT_SECONDS = SHUTDOWN_SECONDS = 10.0
SILENCE_SECONDS = 300.0  # the longest pause of an executor that is waited for
PIECE = 64 << 10
FORWARDED = ("accept-language", "x-kuwa-")  # the first letters of fields that an executor reads


def abort(executor: Executor) -> None:
    """Ask an executor to stop what it does."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        _call(executor.endpoint, "GET", "/abort", ABORT_SECONDS).close()


def shut_down(executor: Executor) -> int | None:
    """Ask an executor to end; return the status of its answer, None if there was none."""
    parts = urlsplit(executor.endpoint)
    try:
        answer = _call(f"{parts.scheme}://{parts.netloc}", "GET", "/shutdown", SHUTDOWN_SECONDS)
    except (OSError, http.client.HTTPException):
        return None
    with contextlib.closing(answer):
        return answer.status


class Relay:
    """Carry one answer from an executor to the Kernel's client."""

    def __init__(self, records: Records, name: str, executor: Executor, request: Request) -> None:
        self._records, self._name, self._executor = records, name, executor
        self._request, self._begun = request, False

    def produce(self, delivery: Delivery) -> None:
        """Post the form to the executor and stream what it says, whatever its status is."""
        try:
            self._relay(delivery)
        except (OSError, http.client.HTTPException) as error:
            self._fail(delivery, error)
        finally:
            self._records.end(self._executor)
        delivery.finish()

    def _fail(self, delivery: Delivery, error: Exception) -> None:
        """Forget an executor that is not there; show an answer that breaks off as broken off."""
        if delivery.gone:
            return
        logger.warning("%s did not answer: %s", self._executor.endpoint, type(error).__name__)
        if isinstance(error, ConnectionRefusedError):
            self._records.drop(self._name, self._executor)
        elif self._begun:
            delivery.break_off()

    def _relay(self, delivery: Delivery) -> None:
        form = protocol.parse_form(self._request.body, self._request.field("content-type") or "")
        answer = _call(
            self._executor.endpoint,
            "POST",
            "",
            SILENCE_SECONDS,
            body=urlencode(form).encode(),
            fields=self._forwarded(),
        )
        with contextlib.closing(answer):
            self._begun = True
            delivery.on_gone = answer.hang_up
            if delivery.gone:
                raise Gone
            while piece := answer.read():
                delivery.write(piece)

    def _forwarded(self) -> dict[str, str]:
        """Return the client's fields that executors read; an empty one is passed on as well."""
        fields = self._request.head.fields
        return {
            name: ", ".join(values) for name, values in fields.items() if name.startswith(FORWARDED)
        }


class Upstream:
    """An executor's answer being read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
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

    @property
    def status(self) -> int:
        """Return the status of the answer."""
        return self._answer.status

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
) -> Upstream:
    """Send one request to an executor, never through a proxy."""
    parts = urlsplit(endpoint)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    headers = {"Connection": "close", **(fields or {})}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, parts.path.rstrip("/") + suffix, body, headers)
    return Upstream(connection)
