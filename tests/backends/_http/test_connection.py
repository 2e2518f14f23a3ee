"""Connections through proxies; those without are tested by the pool and the backends."""

from __future__ import annotations

import socket
import ssl
import threading
from functools import partial
from pathlib import Path

import pytest

from backends._http.origin import Origin
from backends._http.transport_errors import ConnectionFailed
from tests.support.certificates import make_certificate

from .asking import answer_once, ask


def test_a_proxy_is_asked_for_the_whole_address(listener: socket.socket) -> None:
    """Of plain HTTP, with the name and password that the proxy's URL holds."""
    came = answer_once(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    proxy = f"http://me:s%40fe@127.0.0.1:{listener.getsockname()[1]}"
    assert ask(Origin("http", "one.test", 80, proxy)) == b"ok"
    assert came[0].startswith(b"GET http://one.test/v1/models HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c0BmZQ==\r\n" in came[0]


def test_a_proxy_makes_a_tunnel(listener: socket.socket) -> None:
    """Of TLS, with the name and password that its address holds; one that refuses is an error."""
    came = answer_once(listener, b"HTTP/1.1 407 No\r\n\r\n")
    proxy = f"http://me:s%40fe@127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ConnectionFailed, match="the proxy refuses to connect us: 407"):
        ask(Origin("https", "one.test", 443, proxy))
    assert came[0].startswith(b"CONNECT one.test:443 HTTP/1.1\r\nHost: one.test:443\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c0BmZQ==\r\n" in came[0]


def test_what_is_said_in_a_tunnel_is_encrypted(listener: socket.socket, tmp_path: Path) -> None:
    """With the service itself, whose certificate is looked at; the proxy only carries it."""
    certificate, key = make_certificate(tmp_path, "one.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    asked: list[bytes] = []

    def serve() -> None:
        sock, _ = listener.accept()
        asked.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(sock, server_side=True) as service:
            asked.append(service.recv(65536))
            service.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    threading.Thread(target=serve, daemon=True).start()
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    trusting = partial(ssl.create_default_context, cafile=str(certificate))
    assert ask(Origin("https", "one.test", 443, proxy), trusting) == b"secret"
    assert asked[0].startswith(b"CONNECT one.test:443 ")
    assert asked[1].startswith(b"GET /v1/models HTTP/1.1\r\n")
