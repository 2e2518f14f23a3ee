"""Serve the chat page: the files of the folder page/, from a folder or from inside a zip.

`/` is index.html, `/page/NAME` every other file. The page requests only these and the Kernel's API,
and its Content-Security-Policy allows nothing else: no inline script or style, no other host.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kuwa_min.httpd.messages import Response, Route

if TYPE_CHECKING:
    from importlib.abc import Traversable

FOLDER, INDEX = "page", "index.html"
LIBRARY = re.compile(r"/page/libraries/(\w+)\.js")  # in a file that was built with them
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),  # another build may serve another version at this address
)


def routes(version: str) -> dict[str, dict[str, Route]]:
    """Return a route for each file; version: of the Kernel's API, passed to the page."""
    folder = importlib.resources.files(__package__) / FOLDER
    return {path: {"GET": _route(one)} for path, one in responses(folder, version).items()}


def responses(folder: Traversable, version: str) -> dict[str, Response]:
    """Return a response for each file of the page's folder, by its path."""
    found = dict(_files(folder, f"/{FOLDER}"))
    page = found.pop(f"/{FOLDER}/{INDEX}").decode()
    page = page.replace('data-version="v1.0"', f'data-version="{version}"')
    names = [match[1] for path in found if (match := LIBRARY.fullmatch(path))]
    page = page.replace('data-libraries=""', f'data-libraries="{" ".join(sorted(names))}"')
    found["/"] = page.encode()
    return {
        path: Response(200, body, CONTENT_TYPES[_suffix(path) or ".html"], HEADERS)
        for path, body in found.items()
    }


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file below a folder."""
    for entry in folder.iterdir():
        place = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry, place)
        elif _suffix(place) in CONTENT_TYPES:
            yield place, entry.read_bytes()


def _route(response: Response) -> Route:
    return lambda _: response


def _suffix(path: str) -> str:
    return path[path.rfind(".") :] if "." in path else ""
