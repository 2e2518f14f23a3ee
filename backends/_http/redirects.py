"""Say where a response redirects to, without what may be secret in it. No I/O."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from kuwa_min.options.proxies import PORTS

STATUSES = (301, 302, 303, 307, 308)
BECOMES_GET = (301, 302, 303)  # a POST that follows these loses its body
LONGEST = 200  # characters of a place that are told


def leaves_origin(url: str, found: str) -> bool:
    """Tell whether a place, as place() returns it, has another scheme, host or port than a URL."""
    parts, origin = urlsplit(found), urlsplit(url)
    return not found or _origin(parts) != _origin(origin)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def place(url: str, location: str) -> str:
    """Return the URL that a Location leads to from `url`, without user, query and fragment.

    Empty for one that cannot be read.
    """
    try:
        parts = urlsplit(urljoin(url, location))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host:
        return ""
    authority = f"[{host}]" if ":" in host else host
    authority += f":{port}" if port else ""
    found = f"{parts.scheme}://{authority}{parts.path}"
    return found[:LONGEST] if found.isascii() and found.isprintable() else ""
