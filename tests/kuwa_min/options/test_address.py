"""Addresses: what the command line takes, what the Kernel is told, and where we listen."""

from __future__ import annotations

import argparse
import errno
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from kuwa_min.errors import StartError
from kuwa_min.options import address

HAS_IPV6 = pytest.mark.skipif(
    address.listening("::1") != "::1", reason="this machine has no IPv6 loopback"
)


def refusal(read: Callable[[str], Any], text: str) -> str:
    """Return what argparse would show for this text."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    return str(refused.value)


# -- the command line


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("80", 80), ("65535", 65535), ("080", 80)])
def test_a_port_is_a_number(text: str, port: int) -> None:
    """0 stands for an unused one."""
    assert address.port_number(text) == port


@pytest.mark.parametrize("text", ["65536", "-1", "+1", "x", "", " 80", "8_0", "80.0", "٨٠", "²"])
def test_what_is_no_port_is_refused(text: str) -> None:
    """It says the range and what was found."""
    expected = f"a port is a number from 0 to 65535, not {text!r}"
    assert refusal(address.port_number, text) == expected


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("my-host.example.org", "my-host.example.org"),
        ("under_score", "under_score"),
        ("192.0.2.7", "192.0.2.7"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:DB8::7", "2001:DB8::7"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_host_is_a_name_or_an_address(text: str, host: str) -> None:
    """Brackets of IPv6 are taken off."""
    assert address.host_name(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a/b",
        "http://a",
        "kernel:80",
        "192.0.2.7:80",
        "::1::2",
        "a@b",
        "a\n",
        "名字",
        "[",
        "[]",
        "a?b",
        "x" * 254,
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """It says what is needed and what was found."""
    expected = f"a host name or IP address is needed, not {text!r}"
    assert refusal(address.host_name, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:9000/",
        "http://127.0.0.1:9000",
        "https://kernel.example.org/base/path",
        "http://[::1]:9000/",
        "HTTP://KERNEL/",
    ],
)
def test_a_web_address_stays_as_it_is(text: str) -> None:
    """With or without a slash at the end, with or without a base path."""
    assert address.web_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:9000",
        "localhost",
        "ftp://kernel/",
        "http://",
        "http:///path",
        "http://:9000/",
        "http://kernel:port/",
        "http://kernel:0/",
        "http://kernel:70000/",
        "http://[::1/",
        "http://ker nel/",
        "http://kernel/?a=1",
        "http://kernel/#a",
        "http://kernel/\n",
        "http://名字/",
    ],
)
def test_what_is_no_web_address_is_refused(text: str) -> None:
    """It shows what one looks like."""
    expected = f"a URL such as http://127.0.0.1:9000/ is needed, not {text!r}"
    assert refusal(address.web_address, text) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/chat", "/chat"),
        ("chat", "/chat"),
        ("/chat/", "/chat"),
        ("/a/b-c_d.e~f/1", "/a/b-c_d.e~f/1"),
        ("/%E5%90%8D", "/%E5%90%8D"),
        ("/healthy-food", "/healthy-food"),
        ("/status-report/chat", "/status-report/chat"),
    ],
)
def test_a_chat_path_begins_with_a_slash_and_ends_without(text: str, path: str) -> None:
    """Only a whole reserved path is taken, not every name that begins like one."""
    assert address.chat_path(text) == path


@pytest.mark.parametrize("text", ["", "/", "//", "/a b", "/a//b", "/a?b", "/a#b", "/名字", "/a\n"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """It shows what one looks like."""
    assert refusal(address.chat_path, text) == f"a path such as /chat is needed, not {text!r}"


@pytest.mark.parametrize(
    "text", ["/health", "metrics", "/health/", "/metrics/chat", "/status", "/shutdown"]
)
def test_a_path_of_our_own_is_refused(text: str) -> None:
    """Health and metrics keep their addresses."""
    path = "/" + text.strip("/")
    assert refusal(address.chat_path, text) == f"{path} is taken by the executor itself"


def test_auto_makes_a_path_that_cannot_be_guessed() -> None:
    """128 random bits, other ones each time."""
    one, other = address.chat_path("auto"), address.chat_path("auto")
    assert re.fullmatch(r"/[0-9a-f]{32}/chat", one)
    assert one != other


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9000", ("::1", 9000)),
    ],
)
def test_host_and_port_are_read_together(text: str, pair: tuple[str, int]) -> None:
    """As URLs write them."""
    assert address.host_and_port(text) == pair


@pytest.mark.parametrize("text", ["", "9000", "localhost", ":9000", "localhost:", "localhost:x"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    """Both must be there."""
    assert "needed, not" in refusal(address.host_and_port, text) or "a port is" in refusal(
        address.host_and_port, text
    )


@pytest.mark.parametrize(
    ("host", "joined"),
    [("127.0.0.1", "127.0.0.1:80"), ("kernel", "kernel:80"), ("::1", "[::1]:80")],
)
def test_a_url_has_brackets_around_ipv6(host: str, joined: str) -> None:
    """Other hosts stand as they are."""
    assert address.join(host, 80) == joined


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
    assert address.towards(kernel_url) == local


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
        address.towards("http://kernel.example:9000/")
    sentence = str(failed.value)
    assert "kernel.example" in sentence
    assert reason in sentence
    assert sentence.endswith("give it with --host")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, f"{'y' * 64}.example"])
def test_a_name_that_no_resolver_can_take_is_no_crash(host: str) -> None:
    """Python refuses such names with an error of its own kind; we answer as to an unknown one."""
    with pytest.raises(StartError, match="--host"):
        address.towards(f"http://{host}:9000/")
    assert address.listening(host) == "0.0.0.0"


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
    assert address.listening(host) == bind


def test_a_name_is_listened_on_by_its_address() -> None:
    """Binding does not look names up again."""
    assert address.listening("localhost") in ("127.0.0.1", "::1")


def test_a_name_that_only_the_kernel_knows_is_listened_on_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """We cannot tell whether it is ours."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert address.listening("executor.example") == "0.0.0.0"


def test_everywhere_is_both_families_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of IPv6 that takes connections of IPv4, too."""
    for able, expected in ((True, "::"), (False, "0.0.0.0")):
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda able=able: able)
        assert address.everywhere() == expected


# -- who may command


@pytest.mark.parametrize(
    ("peer", "kernel_url", "may"),
    [
        ("127.0.0.1", "http://192.0.2.7:9000/", True),
        ("127.8.8.8", "http://192.0.2.7:9000/", True),
        ("::1", "http://192.0.2.7:9000/", True),
        ("::ffff:127.0.0.1", "http://192.0.2.7:9000/", True),
        ("192.0.2.7", "http://192.0.2.7:9000/", True),
        ("::ffff:192.0.2.7", "http://192.0.2.7:9000/", True),
        ("2001:db8::7", "http://[2001:db8::7]:9000/", True),
        ("2001:db8:0::7%eth0", "http://[2001:db8::7]:9000/", True),
        ("192.0.2.8", "http://192.0.2.7:9000/", False),
        ("::ffff:192.0.2.8", "http://192.0.2.7:9000/", False),
        ("192.0.2.8", "http://kernel.invalid:9000/", False),
        ("", "http://192.0.2.7:9000/", False),
        ("nonsense", "http://192.0.2.7:9000/", False),
    ],
)
def test_this_machine_and_the_kernels_host_may_command(
    peer: str, kernel_url: str, may: bool
) -> None:
    """No other client, however its address is written."""
    assert address.may_command(peer, kernel_url) is may


@pytest.mark.parametrize(
    ("peer", "own", "kernel_url", "may"),
    [
        ("192.0.2.5", "192.0.2.5", "http://127.0.0.1:9000/", True),
        ("192.0.2.5", "::ffff:192.0.2.5", "http://127.0.0.1:9000/", True),
        ("192.0.2.6", "192.0.2.5", "http://127.0.0.1:9000/", False),
        ("192.0.2.5", "192.0.2.5", "http://192.0.2.7:9000/", False),
        ("192.0.2.6", "", "http://127.0.0.1:9000/", False),
    ],
)
def test_a_kernel_on_this_machine_may_command_by_our_address(
    peer: str, own: str, kernel_url: str, may: bool
) -> None:
    """It connects to what it was told; a Kernel elsewhere has no reason to."""
    assert address.may_command(peer, kernel_url, own) is may


def test_every_address_of_the_kernels_name_may_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up at each request."""
    targets = [("192.0.2.7", 0), ("2001:db8::7", 0, 0, 0)]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", target) for target in targets]
    )
    assert address.may_command("192.0.2.7", "http://kernel:9000/")
    assert address.may_command("2001:db8::7", "http://kernel:9000/")
    assert not address.may_command("192.0.2.9", "http://kernel:9000/")
