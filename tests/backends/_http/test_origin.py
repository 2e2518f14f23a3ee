"""Where requests go, and through which proxy."""

from __future__ import annotations

import pytest

from backends._http.origin import Origin


def test_an_origin_has_the_proxy_on_the_way(clean: pytest.MonkeyPatch) -> None:
    """The environment's for its scheme; no_proxy may name it with its port."""
    clean.setenv("https_proxy", "proxy.test:2")
    clean.setenv("no_proxy", "one.test:8443")
    assert Origin.of("https", "one.test", None) == Origin(
        "https", "one.test", 443, "http://proxy.test:2"
    )
    assert Origin.of("https", "one.test", 8443).proxy == ""


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
