"""Which proxy of the environment is on the way to a host."""

from __future__ import annotations

import pytest

from kuwa_min.options.proxies import is_excluded, is_loopback, proxy_for


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have no proxy in the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("scheme", "host", "proxy"),
    [
        ("http", "one.test", "http://proxy.test:1"),
        ("https", "one.test", "https://user:key@proxy.test:2"),
        ("https", "10.0.0.1", "https://user:key@proxy.test:2"),
        ("https", "inside.test", ""),
        ("https", "a.inside.test", ""),
        ("http", "172.16.5.4", ""),
        ("http", "127.0.0.1", ""),
        ("http", "localhost", ""),
        ("http", "::1", ""),
    ],
)
def test_which_proxy_is_used(
    environment: pytest.MonkeyPatch, scheme: str, host: str, proxy: str
) -> None:
    """That for the scheme, but for the hosts of no_proxy; none for this machine."""
    environment.setenv("http_proxy", "proxy.test:1")
    environment.setenv("HTTPS_PROXY", "https://user:key@proxy.test:2")
    environment.setenv("NO_PROXY", "inside.test, 172.16.0.0/12")
    assert proxy_for(scheme, host, 443) == proxy


def test_one_proxy_may_be_for_all(environment: pytest.MonkeyPatch) -> None:
    """Unless the scheme has its own."""
    assert proxy_for("http", "one.test", 80) == ""
    environment.setenv("all_proxy", "socks5://proxy.test")
    environment.setenv("https_proxy", "http://other.test")
    assert proxy_for("http", "one.test", 80) == "socks5://proxy.test"
    assert proxy_for("https", "one.test", 443) == "http://other.test"


MATCHES = [  # (no_proxy, hosts on port 443 that it names, those that it does not)
    ("*", ["one.test", "10.0.0.1", "fd00::1"], []),
    ("one.test", ["one.test", "ONE.test", "one.test.", "a.b.one.test"], ["xone.test", "test"]),
    (".one.test", ["one.test", "a.one.test"], ["xone.test"]),
    ("*.one.test", ["one.test", "a.one.test"], ["xone.test"]),
    ("One.Test.", ["one.test"], []),
    ("http://one.test/", ["one.test"], []),
    ("web-*", ["web-1"], ["web"]),
    ("10.0.0.0/8", ["10.0.0.1", "10.255.1.2", "::ffff:10.1.2.3"], ["11.0.0.1", "ten.test"]),
    ("10.1.2.3/8", ["10.9.9.9"], []),
    ("10.1.2.3/255.0.0.0", ["10.9.9.9"], []),
    ("10.0.0.1", ["10.0.0.1"], ["10.0.0.10", "110.0.0.1"]),
    ("10.1.*", ["10.1.2.3"], ["10.10.2.3"]),
    ("fd00::/8", ["fd00::1", "[fd12::1]", "fdff::1%eth0"], ["fe80::1", "10.0.0.1"]),
    ("[fd00::]/8", ["fd00::1"], []),
    ("fd00:0:0:0:0:0:0:1", ["fd00::1"], ["fd00::2"]),
    ("[fd00::1]", ["fd00::1"], []),
    ("one.test:443", ["one.test", "a.one.test"], []),
    ("one.test:8443", [], ["one.test"]),
    ("10.0.0.0/8:443", ["10.0.0.1"], []),
    ("10.0.0.0/8:80", [], ["10.0.0.1"]),
    ("[fd00::1]:443", ["fd00::1"], []),
    ("[fd00::1]:80", [], ["fd00::1"]),
    ("*:443", ["one.test"], []),
    ("*:80", [], ["one.test"]),
    ("a.test,b.test c.test,\n, d.test", ["a.test", "b.test", "c.test", "d.test"], ["test"]),
    ("", [], ["one.test", "10.0.0.1", ""]),
    ("10.0.0.0/99, nonsense/8, :, [", [], ["10.0.0.1", "one.test"]),
]


@pytest.mark.parametrize(("no_proxy", "named", "others"), MATCHES)
def test_which_hosts_no_proxy_names(no_proxy: str, named: list[str], others: list[str]) -> None:
    """Names, ranges, patterns and ports, in every spelling that programs know."""
    assert [one for one in [*named, *others] if is_excluded(one, 443, no_proxy)] == named


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("localhost", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("127.example.com", False),
        ("10.0.0.1", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, found: bool) -> None:
    """Loopback addresses and their name."""
    assert is_loopback(host) is found
