"""The Kernel of 0.3.4: passes form and headers on as they are, and the answer chunk by chunk.

Facts: ids are -1 when an endpoint is free and text when it is reserved; the executor's status and
headers are lost; a body that is not chunked is held back to its end; one without a charset is taken
for Latin-1 if its type is text; a refused connection removes the record.
"""

from __future__ import annotations

import codecs
import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Form = dict[str, str]
Routes = dict[str, Callable[[], None]]
ABORT_TIMEOUT, CHAT_TIMEOUT = 10.0, 5000.0


class Kernel(ThreadingHTTPServer):
    """The records, and the server that the routes run in."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, routes: type[Routes03], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), routes)
        self.lock = threading.Lock()
        self.records: dict[str, list[list[Any]]] = {}
        self.forwarded: list[Message] = []  # the headers of the chats it passed on

    @property
    def url(self) -> str:
        """Return the address, without a final slash."""
        return f"http://127.0.0.1:{self.server_port}"


class Routes03(BaseHTTPRequestHandler):
    """One request to the Kernel."""

    protocol_version = "HTTP/1.1"
    server: Kernel

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Answer what takes no form."""
        self._route(self.gets())

    def do_POST(self) -> None:
        """Answer what takes a body."""
        self._route(self.posts())

    def gets(self) -> Routes:
        """Return what answers GET, by path."""
        return {"/v1.0/worker/list": self._list, "/v1.0/worker/debug": self._debug}

    def posts(self) -> Routes:
        """Return what answers POST, by path."""
        return {
            "/v1.0/worker/register": self._register,
            "/v1.0/worker/unregister": self._unregister,
            "/v1.0/worker/schedule": self._schedule,
            "/v1.0/chat/completions": self._completions,
            "/v1.0/chat/abort": self._abort,
        }

    def _route(self, routes: Routes) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with contextlib.suppress(ConnectionError):
            routes.get(self.path, lambda: self.reply("Not found", status=404))()

    def reply(self, body: str, kind: str = "text/html; charset=utf-8", status: int = 200) -> None:
        """Send a whole answer."""
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def reply_json(self, value: Any, status: int = 200, *, sort: bool = False) -> None:
        """Send JSON as Flask does."""
        text = json.dumps(value, separators=(",", ":"), sort_keys=sort) + "\n"
        self.reply(text, "application/json", status)

    @property
    def form(self) -> Form:
        """Return the fields of the form."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    def _list(self) -> None:
        self.reply_json(list(self.server.records))

    def _debug(self) -> None:
        table = json.dumps(self.server.records, indent=2)
        self.reply(f'\n<form method="POST">\n    <textarea name="data">{table}</textarea>\n</form>')

    def _register(self) -> None:
        name, endpoint = self.form.get("name"), self.form.get("endpoint")
        with self.server.lock:
            rows = self.server.records.get(name or "", [])
            if (
                name is None
                or endpoint is None
                or endpoint.removesuffix("/") in (row[0] for row in rows)
            ):
                self.reply("Failed")
                return
            rows = self.server.records.setdefault(name, [])
            rows.append([endpoint.removesuffix("/"), "READY", -1, -1])
        self.reply("Success")

    def _unregister(self) -> None:
        name, origin = self.form.get("name", ""), _origin(self.form.get("endpoint", ""))
        with self.server.lock:
            rows = self.server.records.get(name, [])
            kept = [row for row in rows if _origin(row[0]) != origin]
            self._keep(name, kept)
        self.reply("Success" if len(kept) < len(rows) else "Failed")

    def _keep(self, name: str, rows: list[list[Any]]) -> None:
        if rows:
            self.server.records[name] = rows
        else:
            self.server.records.pop(name, None)

    def _schedule(self) -> None:
        form = self.form
        with self.server.lock:
            rows = self.server.records.get(form.get("name", ""))
            free = [row for row in rows or [] if row[1:] == ["READY", -1, -1]]
            if free:
                free[0][2:] = [form.get("history_id"), form.get("user_id")]
        self.reply("READY" if free else "BUSY" if rows else "NOMACHINE")

    def _abort(self) -> None:
        ids, user = json.loads(self.form["history_id"]), self.form["user_id"]
        rows = [row for rows in self.server.records.values() for row in rows]
        for row in rows:
            if int(row[2]) in ids and row[3] == user:
                get(f"{row[0]}/abort", ABORT_TIMEOUT)
        self.reply("Success")

    def _completions(self) -> None:
        form = self.form
        ids = [form.get("history_id"), form.get("user_id")]
        rows = self.server.records.get(form.get("name", ""), [])
        mine = [row for row in rows if row[1:] == ["READY", *ids]]
        if not mine:
            self.reply("")
            return
        try:
            connection = self._forward(mine[0][0], form)
        except ConnectionError:
            with self.server.lock:
                self._keep(form["name"], [row for row in rows if row is not mine[0]])
            self.reply("")
            return
        mine[0][1] = "BUSY"
        try:
            with contextlib.closing(connection), connection.getresponse() as response:
                self._stream(response)
        finally:
            mine[0][1:] = ["READY", -1, -1]
        self.wfile.write(b"0\r\n\r\n")

    def _forward(self, endpoint: str, form: Form) -> http.client.HTTPConnection:
        """Post the form to the executor with the client's headers, its Host included."""
        parts, body = urlsplit(endpoint), urlencode(form).encode()
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=CHAT_TIMEOUT
        )
        connection.putrequest("POST", parts.path, skip_host=True, skip_accept_encoding=True)
        if "Accept-Encoding" not in self.headers:
            connection.putheader("Accept-Encoding", "identity")
        for name, value in self.headers.items():
            length = name.lower() == "content-length"
            connection.putheader(name, str(len(body)) if length else value)
        self.server.forwarded.append(self.headers)
        connection.endheaders(body)
        return connection

    def _stream(self, response: http.client.HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        decode = codecs.getincrementaldecoder(_charset(response))("replace").decode
        for chunk in chunks(response):
            self._write(decode(chunk))
        self._write(decode(b"", True))

    def _write(self, text: str) -> None:
        if data := text.encode():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Give each HTTP chunk by itself; a body that is cut off ends as if it were whole."""
    if not response.chunked:
        with contextlib.suppress(http.client.HTTPException, OSError):
            yield response.read()
        return
    stream = response.fp
    while size := int(stream.readline().split(b";")[0].strip() or b"0", 16):
        data = stream.read(size)
        if len(data) < size:
            return
        yield data
        stream.readline()


def get(url: str, timeout: float) -> int:
    """Send a GET to an executor; return the status."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    connection.request("GET", parts.path, headers={"Accept": "*/*"})
    with contextlib.closing(connection), connection.getresponse() as response:
        response.read()
        return response.status


def _charset(response: http.client.HTTPResponse) -> str:
    text = response.headers.get_content_maintype() == "text"
    return response.headers.get_content_charset() or ("latin-1" if text else "utf-8")


def _origin(endpoint: str) -> tuple[str, str]:
    parts = urlsplit(endpoint)
    return parts.scheme, parts.netloc


@contextmanager
def kernel_03(routes: type[Routes03] = Routes03) -> Iterator[Kernel]:
    """Run the Kernel for the length of a test."""
    with Kernel(routes) as kernel:
        thread = threading.Thread(target=kernel.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield kernel
        finally:
            kernel.shutdown()
            thread.join()
