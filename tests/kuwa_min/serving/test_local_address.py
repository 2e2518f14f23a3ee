"""The address that is registered, and the one to listen on."""

from __future__ import annotations

import errno
import logging
import socket

import pytest

from kuwa_min.errors import StartError
from kuwa_min.serving import local_address

HAS_IPV6 = pytest.mark.skipif(
    local_address.bind_address("::1") != ("::1", True), reason="this machine has no IPv6 loopback"
)


# -- what the Kernel is told


@pytest.mark.parametrize(
    ("kernel_url", "local"),
    [
        ("http://127.0.0.1:9000/", "127.0.0.1"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("https://127.0.0.1/base/", "127.0.0.1"),
        ("http://127.1.2.3:9000/", "127.0.0.1"),
        pytest.param("http://[::1]:9000/", "::1", marks=HAS_IPV6),
    ],
)
def test_a_kernel_on_loopback_is_told_loopback(kernel_url: str, local: str) -> None:
    """Nothing is sent, so no Kernel needs to be there."""
    assert local_address.source_address(kernel_url) == local


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
        (OSError("odd"), "odd"),
    ],
)
def test_without_a_way_to_the_kernel_the_message_asks_for_host(
    error: OSError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the Kernel's name, the reason and the remedy."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(StartError) as failed:
        local_address.source_address("http://kernel.example:9000/")
    sentence = str(failed.value)
    assert "kernel.example" in sentence
    assert reason in sentence
    assert sentence.endswith("give it with --host")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, f"{'y' * 64}.example"])
def test_a_name_that_no_resolver_can_take_is_no_crash(host: str) -> None:
    """Python refuses such names with an error of its own kind; we answer as to an unknown one."""
    with pytest.raises(StartError, match="--host"):
        local_address.source_address(f"http://{host}:9000/")
    with pytest.raises(StartError, match="--bind"):
        local_address.bind_address(host)


# -- where we listen


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1.2.3", "127.1.2.3"),
        pytest.param("::1", "::1", marks=HAS_IPV6),
        ("192.0.2.7", "0.0.0.0"),
        pytest.param("2001:db8::7", "::", marks=HAS_IPV6),
    ],
)
def test_we_listen_there_if_it_is_ours_and_everywhere_if_not(host: str, bind: str) -> None:
    """An address of a proxy or a port forwarding is not ours; the family stays."""
    assert local_address.bind_address(host) == (bind, bind == host)


def test_a_name_is_listened_on_by_its_address() -> None:
    """Binding does not look names up again."""
    assert local_address.bind_address("localhost") in (("127.0.0.1", True), ("::1", True))


def test_a_name_that_does_not_resolve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened to all networks because of a typing error; the remedy is named."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(StartError) as failed:
        local_address.bind_address("executor.example")
    sentence = str(failed.value)
    assert "executor.example does not resolve on this machine (Name or service not" in sentence
    assert "--bind 0.0.0.0" in sentence


@pytest.mark.parametrize(
    ("host", "bind", "address", "said"),
    [
        ("127.0.0.1", None, "127.0.0.1", ""),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", ""),
        (None, "127.0.0.1", "127.0.0.1", ""),
        ("executor.invalid", "127.0.0.1", "127.0.0.1", "told executor.invalid; listening on 127"),
        ("192.0.2.7", "127.0.0.1", "127.0.0.1", "told 192.0.2.7; listening on 127.0.0.1"),
        ("192.0.2.7", None, "0.0.0.0", "192.0.2.7 is no address of this machine, so"),
        (None, None, local_address.wildcard(), "name does not resolve yet: listening on all"),
    ],
)
def test_an_operator_reads_where_we_listen_unless_it_is_what_the_kernel_is_told(
    host: str | None, bind: str | None, address: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never everywhere without a word."""
    caplog.set_level(logging.INFO)
    assert local_address.listening_address(host, bind) == address
    assert said in caplog.text
    assert len(caplog.records) == bool(said)


def test_everywhere_is_both_families_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of IPv6 that takes connections of IPv4, too."""
    for able, expected in ((True, "::"), (False, "0.0.0.0")):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda able=able: able)
        assert local_address.wildcard() == expected
