"""Who may stop a chat."""

from __future__ import annotations

import logging

import pytest

from kuwa_min.errors import HTTPError
from kuwa_min.httpd import http1
from kuwa_min.httpd.messages import Request
from kuwa_min.serving.commands import abort_policy
from kuwa_min.serving.commands.abort_policy import AbortPolicy
from kuwa_min.serving.commands.kernel_addresses import KernelAddresses

ACCEPT = "Accept: */*"
AGENT = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
IMAGES = "Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


def request(*fields: str, peer: str = "192.0.2.9", local: str = "192.0.2.5") -> Request:
    """Return a request to stop a chat."""
    lines = ["GET /chat/abort HTTP/1.1", "Host: 192.0.2.5:8080", *fields]
    head = http1.parse_head("\r\n".join(lines).encode())
    return Request("GET", "/chat/abort", head, b"", peer, local)


def allows(policy: AbortPolicy, asked: Request, sender: str | None = None) -> bool:
    """Tell whether a request may stop the chat."""
    try:
        policy.check(asked, sender)
    except HTTPError as refusal:
        assert refusal.status == 403
        return False
    return True


@pytest.mark.parametrize(
    "fields",
    [
        # as recorded from the Kernels of Kuwa 0.3.4 and 0.4
        ("User-Agent: python-requests/2.34.2", "Accept-Encoding: gzip, deflate", ACCEPT),
        ("User-Agent: python-requests/2.32.3", ACCEPT, "Connection: keep-alive"),
        ("Accept-Encoding: identity", "Connection: close"),  # our embedded Kernel
        ("User-Agent: curl/8.5.0", ACCEPT),
        ("User-Agent: Wget/1.21", ACCEPT, "Accept-Encoding: identity"),
        ("User-Agent: GuzzleHttp/7",),
        ("User-Agent: Python-urllib/3.11", "Connection: close"),
        ("User-Agent: Go-http-client/1.1", "X-Forwarded-For: 192.0.2.9", "Via: 1.1 proxy"),
        (),
        # pages that the server has let in
        ("Origin: http://192.0.2.5:8080", AGENT, "Accept-Language: en"),
        ("Origin: http://dashboard.example", AGENT, "Accept-Language: en", ACCEPT),
    ],
)
def test_programs_and_known_pages_may_stop_chats(fields: tuple[str, ...]) -> None:
    """From any address, unless the Kernel's is required."""
    assert allows(AbortPolicy(), request(*fields))


@pytest.mark.parametrize(
    "fields",
    [
        (AGENT, IMAGES, "Accept-Language: en-US,en;q=0.9", "Referer: http://a.example/"),
        (AGENT,),
        ("User-Agent: Opera/9.80 (X11)",),
        ("Accept-Language: zh-TW",),
        ("Accept-Language:",),
        (IMAGES,),
        ("Accept: text/html,application/xhtml+xml,*/*;q=0.8",),
        ("Referer: http://a.example/",),
        ("Upgrade-Insecure-Requests: 1",),
        ("Sec-Fetch-Dest: image",),
        ("Sec-Fetch-Site: none",),
        ("Sec-Purpose: prefetch",),
        ("Sec-GPC: 1",),
        ("User-Agent: stagefright/1.2 (Linux;Android 5.0)", "Range: bytes=0-"),
        ("User-Agent: AppleCoreMedia/1.0.0", "Accept: */*", "X-Playback-Session-Id: 1"),
        ("User-Agent: python-requests/2.34.2", ACCEPT, "Cookie: a=b"),
    ],
)
def test_what_looks_like_a_browser_may_not(
    fields: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Not from this machine either; the log says so once, by the header and what would do."""
    policy = AbortPolicy(KernelAddresses(lambda: "http://192.0.2.9:9000/"))
    for peer in ("192.0.2.9", "127.0.0.1"):
        for _ in range(2):
            assert not allows(policy, request(*fields, peer=peer), sender=peer)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "192.0.2.9" in lines[0]
    assert "looks like a browser's" in lines[0]
    assert "--allowed_hosts" in lines[0]
    assert "example" not in caplog.text


@pytest.mark.parametrize(
    ("peer", "sender", "may"),
    [
        ("192.0.2.7", None, True),
        ("::ffff:192.0.2.7", None, True),
        ("127.0.0.1", None, True),
        ("192.0.2.9", None, False),
        ("192.0.2.9", "192.0.2.8", False),
        ("172.18.0.1", "172.18.0.1", True),  # the Kernel behind Docker's address translation
        ("192.0.2.5", None, False),
    ],
)
def test_the_kernels_address_may_be_required(
    peer: str, sender: str | None, may: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its host, this machine, and what the chat came from."""
    kernel = KernelAddresses(lambda: "http://192.0.2.7:9000/")
    for _ in range(2):
        assert allows(AbortPolicy(kernel), request(peer=peer), sender) is may
    assert allows(AbortPolicy(), request(peer=peer), sender)
    assert all("192.0.2.7" in one.getMessage() for one in caplog.records)
    assert all("--abort_from any" in one.getMessage() for one in caplog.records)
    assert bool(caplog.records) is not may


def test_the_log_explains_a_few_refusals_only(caplog: pytest.LogCaptureFixture) -> None:
    """A page may ask from many machines, again and again."""
    policy = AbortPolicy()
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            assert not allows(policy, request(AGENT, peer=f"192.0.2.{number}"))
    assert len(caplog.records) == abort_policy.LOGGED
