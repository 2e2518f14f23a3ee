"""Ports, hosts, URLs and paths of the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

import pytest

from kuwa_min.options import address


def refusal(read: Callable[[str], Any], text: str) -> str:
    """Return what argparse would show for this text."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    return str(refused.value)


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
    expected = (
        f"a URL such as http://127.0.0.1:9000/, without user, ? and #, is needed, not {text!r}"
    )
    assert refusal(address.web_address, text) == expected


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("*", "*"),
        ("https://Chat.example.org/", "https://chat.example.org"),
        ("https://chat.example.org:443", "https://chat.example.org"),
        ("http://10.0.0.5:80", "http://10.0.0.5"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_an_origin_is_as_browsers_send_it(text: str, origin: str) -> None:
    """Also that of an extension or of a program that shows pages."""
    assert address.web_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["null", "chat.example.org", "https://a.example/x", "file:///", "file://x", "app://", ""],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    """Pages of files are null to browsers, which any page can be."""
    assert "such as http" in refusal(address.web_origin, text)


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
    assert address.join_host_port(host, 80) == joined


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("GPU1.example", "gpu1.example"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("192.168.1.7/24", "192.168.1.0/24"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_a_host_or_a_network_names_executors(text: str, parsed: str) -> None:
    """Names in lower case; a network may be written with an address of it."""
    assert address.host_or_network(text) == parsed
    for wrong in (f"{text}/99", f"http://{text}/"):
        with pytest.raises(argparse.ArgumentTypeError, match="is needed, not"):
            address.host_or_network(wrong)
