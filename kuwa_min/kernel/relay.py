"""Forward a chat from the embedded Kernel to an executor, and stream the answer back."""

from __future__ import annotations

import codecs
import contextlib
import http.client
import logging
import socket
from typing import cast
from urllib.parse import urlsplit

from kuwa_min.errors import ClientDisconnected
from kuwa_min.httpd.body_writer import BodyWriter
from kuwa_min.httpd.http1 import RequestHead
from kuwa_min.process.deadline import Response, open_connection

from .records import ExecutorRecord, RecordTable, loggable

logger = logging.getLogger(__name__)

ABORT_TIMEOUT = SHUTDOWN_TIMEOUT = 10.0  # seconds
STATUS_TIMEOUT = 1.0
READ_TIMEOUT = 300.0  # seconds between two reads of an answer
READ_SIZE = 64 << 10  # bytes asked for at once
MAX_STATUS = 64 << 10  # characters
OK = 200
FORWARDED = ("accept-language", "x-kuwa-")  # prefixes of the headers that executors read


def abort(record: ExecutorRecord) -> None:
    """Ask an executor to stop the answer at an endpoint; its failure is ignored."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        _send_request(record, "GET", "/abort", ABORT_TIMEOUT).close()


def shut_down(record: ExecutorRecord) -> int | None:
    """Ask an executor to stop; return the HTTP status of its response, None without one."""
    try:
        response = _send_request(_root(record), "GET", "/shutdown", SHUTDOWN_TIMEOUT)
    except (OSError, http.client.HTTPException):
        return None
    with contextlib.closing(response):
        return response.status


def read_status(record: ExecutorRecord) -> str | None:
    """Return the text of an executor's /status; None if it has none, or does not answer soon."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        response = _send_request(_root(record), "GET", "/status", STATUS_TIMEOUT)
        with contextlib.closing(response):
            text = ""
            while response.status == OK and (piece := response.read()):
                text += piece
                if len(text) > MAX_STATUS:
                    return None
            return text or None
    return None


def _root(record: ExecutorRecord) -> ExecutorRecord:
    """Return a record of the same executor, with its address without a path."""
    parts = urlsplit(record.endpoint)
    return ExecutorRecord(f"{parts.scheme}://{parts.netloc}", record.address)


class Relay:
    """Stream one answer from an executor to the Kernel's client.

    body: the form to send. head: of the client's request.
    """

    def __init__(
        self,
        table: RecordTable,
        name: str,
        record: ExecutorRecord,
        head: RequestHead,
        body: bytes,
    ) -> None:
        self._table, self._name, self._record = table, name, record
        self._head, self._body, self._has_response = head, body, False

    def produce(self, writer: BodyWriter) -> None:
        """Post the form to the executor and stream its response, with any status."""
        try:
            self._relay(writer)
        except (OSError, http.client.HTTPException) as error:
            self._fail(writer, error)
        finally:
            self._table.end_chat(self._record)
        writer.finish()

    def _fail(self, writer: BodyWriter, error: Exception) -> None:
        """Forget an executor that refuses connections; truncate an answer that was cut off."""
        if writer.disconnected:
            return
        endpoint = loggable(self._record.endpoint)
        logger.warning("%s did not answer: %s", endpoint, type(error).__name__)
        if isinstance(error, ConnectionRefusedError):
            self._table.discard(self._name, self._record)
        elif self._has_response:
            writer.truncate()

    def _relay(self, writer: BodyWriter) -> None:
        body, self._body = self._body, b""  # it may be large, and the answer take long
        response = _send_request(
            self._record,
            "POST",
            "",
            READ_TIMEOUT,
            body=body,
            extra_headers=self._forwarded_headers(),
        )
        with contextlib.closing(response):
            self._has_response = True
            response.lift_deadline(READ_TIMEOUT)
            writer.on_disconnect = response.interrupt
            if writer.disconnected:
                raise ClientDisconnected
            while piece := response.read():
                writer.write(piece)

    def _forwarded_headers(self) -> dict[str, str]:
        """Return the client's headers that executors read, empty ones included."""
        headers = self._head.headers
        return {
            name: ", ".join(values)
            for name, values in headers.items()
            if name.startswith(FORWARDED)
        }


class Upstream:
    """The response of an executor, read on one thread; any thread may interrupt it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._response = cast(Response, connection.getresponse())
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def read(self) -> str:
        """Return the next text, "" at the end; characters are never split."""
        while data := self._response.read1(READ_SIZE):
            if text := self._decode(data):
                return text
        return self._decode(b"", True)

    def lift_deadline(self, seconds: float) -> None:
        """Allow any time for the rest; seconds: between two reads."""
        self._response.lift_deadline(seconds)

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._response.status

    def interrupt(self) -> None:
        """Make a blocked `read` end; for another thread, when the client has left."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()


def _send_request(
    record: ExecutorRecord,
    method: str,
    suffix: str,
    timeout: float,
    *,
    body: bytes | None = None,
    extra_headers: dict[str, str] | None = None,
) -> Upstream:
    """Send one request to an executor, without the proxies of the environment.

    timeout: seconds until its response's head, and its body unless the deadline is lifted.
    """
    parts = urlsplit(record.endpoint)
    connection = open_connection(parts, timeout, record.address)
    headers = {"Connection": "close", **(extra_headers or {})}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, parts.path.rstrip("/") + suffix, body, headers)
    return Upstream(connection)
