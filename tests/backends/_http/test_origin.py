"""Where requests go, and through which proxy."""

from __future__ import annotations

import pytest

from backends._http.origin import Origin, is_loopback


@pytest.mark.parametrize(
    ("scheme", "host", "proxy"),
    [
        ("http", "one.test", "http://proxy.test:1"),
        ("https", "one.test", "http://proxy.test:2"),
        ("https", "10.0.0.1", "http://proxy.test:2"),
        ("https", "inside.test", ""),
        ("http", "127.0.0.1", ""),
        ("http", "localhost", ""),
        ("http", "::1", ""),
    ],
)
def test_which_proxy_is_used(clean: pytest.MonkeyPatch, scheme: str, host: str, proxy: str) -> None:
    """The environment's for this scheme, with no_proxy's exceptions; none for this machine."""
    clean.setenv("http_proxy", "proxy.test:1")
    clean.setenv("https_proxy", "http://proxy.test:2")
    clean.setenv("no_proxy", "inside.test")
    assert Origin.of(scheme, host, None).proxy == proxy


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("http", "one.test", 80), "one.test"),
        (Origin("http", "one.test", 443), "one.test:443"),
        (Origin("https", "one.test", 443), "one.test"),
        (Origin("https", "::1", 443), "[::1]"),
        (Origin("https", "::1", 8443), "[::1]:8443"),
    ],
)
def test_a_host_header_leaves_the_default_port_out(origin: Origin, authority: str) -> None:
    """As every client does; an IPv6 address has brackets."""
    assert origin.authority == authority


@pytest.mark.parametrize(
    ("host", "found"),
    [("localhost", True), ("127.8.8.8", True), ("::1", True), ("127.example.com", False)],
)
def test_which_hosts_are_this_machine(host: str, found: bool) -> None:
    """Loopback addresses and their name."""
    assert is_loopback(host) is found
