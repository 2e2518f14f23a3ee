"""Send the SDK's requests through connections that the line of a chat holds, so that it can be cut.

Knows nothing of Gemini: what the SDK sends through requests is looked at here, and what comes back.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from . import _line

CONNECT, SILENCE = 10.0, 300.0  # seconds; models that think say nothing for minutes
READ = 2**16  # bytes at a time, at most
LONGEST_REFUSAL = 2**16  # bytes

_here = threading.local()  # .call: what this thread sends


class Refused(Exception):
    """Hold what a service answers instead of an answer; its fields have names in lower case."""

    def __init__(self, status: int, fields: dict[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.fields, self.body = status, fields, body


class Broken(Exception):
    """Say that a connection did not come about or broke off; the cause of this is the reason."""


class Call:
    """One request, whose connection the line of its thread's chat holds until the block ends.

    It holds a second descriptor of the socket: TLS takes the first one away while it still waits
    for the other side's greeting, and an answer that ends with its connection keeps it to itself.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __enter__(self) -> Call:
        """Become what the session sends on this thread."""
        _here.call = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the connection."""
        del _here.call
        self._let_go()

    def hold(self, plug: socket.socket) -> None:
        """Hold this socket instead of the last one; raises Cut if the line was cut."""
        self._let_go()
        self._socket = socket.socket(fileno=os.dup(plug.fileno()))
        _line.current().hold(self._socket)

    def _let_go(self) -> None:
        _line.current().release()
        if self._socket is not None:
            self._socket.close()


def equip(session: Session, connections: int) -> None:
    """Let a session send the requests of chats; it keeps so many connections, and no cookies."""
    adapter = _Adapter(pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))


def read(response: Response) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come; raises Broken if it breaks off."""
    try:
        while data := response.raw.read1(READ, decode_content=True):
            yield data
    except (HTTPError, OSError) as error:
        raise Broken from error


class _Adapter(HTTPAdapter):
    """Send a request, and raise Refused or Broken for whatever is no answer."""

    def init_poolmanager(self, *words: Any, **options: Any) -> None:
        super().init_poolmanager(*words, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: PreparedRequest, *words: Any, **options: Any) -> Response:
        """Send it once; a redirection is refused, too: it would take the key elsewhere."""
        options["timeout"] = (CONNECT, SILENCE)
        try:
            response = super().send(request, *words, **options)
            if response.status_code == 200:
                return response
            with response:
                body = response.raw.read(LONGEST_REFUSAL, decode_content=True)
        except (RequestException, HTTPError, OSError) as error:
            raise Broken from error
        fields = {name.lower(): value for name, value in response.headers.items()}
        raise Refused(response.status_code, fields, body)


class _Watched:
    """A connection that tells the call of its thread which socket it has."""

    sock: socket.socket | None

    def _new_conn(self) -> socket.socket:
        plug: socket.socket = super()._new_conn()  # type: ignore[misc]
        _here.call.hold(plug)
        return plug

    def request(self, *words: Any, **options: Any) -> None:
        if self.sock is not None:  # it comes from the pool, or has begun with TLS
            _here.call.hold(self.sock)
        super().request(*words, **options)  # type: ignore[misc]


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _Lent:
    """A pool: what lies in it is held by nobody's line."""

    def _put_conn(self, connection: Any) -> None:
        _line.current().release()
        super()._put_conn(connection)  # type: ignore[misc]


class _PlainPool(_Lent, HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(_Lent, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _PlainPool, "https": _TlsPool}
