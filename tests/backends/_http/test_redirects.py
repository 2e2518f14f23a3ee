"""Where a redirect leads to, as the log may tell it."""

from __future__ import annotations

import pytest

from backends._http.redirects import leaves_origin, place

URL = "http://one.test:8000/v1/chat/completions"


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("https://one.test/v1/chat/completions", "https://one.test/v1/chat/completions"),
        ("/v1/chat/completions/", "http://one.test:8000/v1/chat/completions/"),
        ("//two.test/a", "http://two.test/a"),
        ("https://me:key@one.test/a?token=key#key", "https://one.test/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("https://one.test", "https://one.test"),
        ("", URL),
        ("ftp://one.test/a", ""),
        ("https://one.test:port/", ""),
        ("https://[", ""),
        ("https://one.test/\x1b[2J", ""),
        ("https://one.test/" + "a" * 999, "https://one.test/" + "a" * 183),
    ],
)
def test_a_place_holds_no_secrets(location: str, found: str) -> None:
    """No user, query or fragment; nothing that could forge a line of the log."""
    assert place(URL, location) == found


@pytest.mark.parametrize(
    ("url", "location", "leaves"),
    [
        (URL, "/v2/chat", False),
        (URL, "http://ONE.test:8000/a", False),
        ("https://one.test/a", "https://one.test:443/b", False),
        ("http://one.test/a", "https://one.test/a", True),
        (URL, "http://one.test/v1", True),
        (URL, "http://two.test:8000/v1", True),
        (URL, "//two.test:8000/v1", True),
        (URL, "http://one.test:8000@two.test/", True),
        (URL, "ftp://one.test/", True),
        (URL, "https://[", True),
    ],
)
def test_another_origin_is_another_scheme_host_or_port(
    url: str, location: str, leaves: bool
) -> None:
    """What cannot be read is no place of ours."""
    assert leaves_origin(url, place(url, location)) == leaves
