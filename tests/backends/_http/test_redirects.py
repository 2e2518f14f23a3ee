"""Where a redirect leads to, as the log may tell it."""

from __future__ import annotations

import pytest

from backends._http.redirects import place

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
