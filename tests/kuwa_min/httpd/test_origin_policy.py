"""What made a client send a request; hosts and origins are tested in test_server, over sockets."""

from __future__ import annotations

import pytest

from kuwa_min.httpd import http1
from kuwa_min.httpd.origin_policy import Initiator, initiator, is_from_browser


@pytest.mark.parametrize(
    ("method", "field", "browser"),
    [
        (b"POST", b"Origin: null", True),
        (b"POST", b"Origin:", True),
        (b"GET", b"ORIGIN: http://a", True),
        (b"POST", b"Sec-Fetch-Site: none", True),
        (b"GET", b"Sec-Fetch-Mode: navigate", True),
        (b"POST", b"User-Agent: Mozilla/5.0 (X11) Gecko/20100101 Firefox/60.0", True),
        (b"GET", b"Accept-Language: en", True),
        (b"HEAD", b"Accept-Language:", True),
        (b"POST", b"Accept-Language: zh_tw", False),
        (b"POST", b"User-Agent: GuzzleHttp/7", False),
        (b"GET", b"User-Agent: Prometheus/2.53.0", False),
        (b"GET", b"User-Agent: kube-probe/1.30", False),
        (b"GET", b"Accept: */*", False),
    ],
)
def test_a_browser_is_known_by_what_no_page_can_take_away(
    method: bytes, field: bytes, browser: bool
) -> None:
    """Accept-Language is a browser's, but in a POST: there the Kernel forwards its client's."""
    head = http1.parse_head(method + b" / HTTP/1.1\r\nHost: localhost\r\n" + field)
    assert is_from_browser(head) is browser


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), Initiator.PROGRAM),
        (("User-Agent: python-requests/2.32.3",), Initiator.PROGRAM),
        (("Origin: http://own:80", "User-Agent: Mozilla/5.0"), Initiator.SAME_ORIGIN),
        (("Origin: HTTP://OWN:80", "Sec-Fetch-Site: cross-site"), Initiator.SAME_ORIGIN),
        (("Sec-Fetch-Site: same-origin",), Initiator.SAME_ORIGIN),
        (("Origin: http://own",), Initiator.OTHER_ORIGIN),
        (("Origin: null",), Initiator.OTHER_ORIGIN),
        (("Origin:",), Initiator.OTHER_ORIGIN),
        (("Sec-Fetch-Site: cross-site",), Initiator.OTHER_ORIGIN),
        (("Sec-Fetch-Site: same-site",), Initiator.OTHER_ORIGIN),
        (("Sec-Fetch-Site: none",), Initiator.BROWSER),
        (("User-Agent: Mozilla/5.0",), Initiator.BROWSER),
        (("Accept-Language: en",), Initiator.BROWSER),
    ],
)
def test_the_header_tells_what_made_a_client_send_a_request(
    headers: tuple[str, ...], expected: Initiator
) -> None:
    """Origin decides before Sec-Fetch-Site; both before what every browser sends."""
    lines = ["GET / HTTP/1.1", "Host: own:80", *headers]
    assert initiator(http1.parse_head("\r\n".join(lines).encode())) is expected
