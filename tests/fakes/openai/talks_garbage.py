"""A service whose answers are none of OpenAI's kind."""

from __future__ import annotations

from collections.abc import Callable

from .server import Handler


def bytes_for_http(talk: Handler) -> None:
    """Send bytes that are no HTTP."""
    talk.wfile.write(b"\x00\xff\xfe SSH-2.0\r\n\r\n")
    talk.break_off()


def page(talk: Handler) -> None:
    """Send a web page, as a proxy or a wrong address does."""
    talk.answer(b"<html>Welcome</html>", kind="text/html")


def body(
    data: bytes, kind: str = "text/event-stream", *, coding: str = "", size: int = 0
) -> Callable[[Handler], None]:
    """Return what sends these bytes under a label, in chunks of this size; 0: in one."""

    def talk(one: Handler) -> None:
        one.begin(Content_Type=kind, **({"Content_Encoding": coding} if coding else {}))
        step = size or len(data) or 1
        for at in range(0, len(data), step):
            one.raw(data[at : at + step])
        one.wfile.write(b"0\r\n\r\n")

    return talk


def events_of(data: bytes) -> Callable[[Handler], None]:
    """Return what sends these bytes as a stream of events."""
    return body(data)


def compressed(talk: Handler) -> None:
    """Say that the body is compressed, and lie."""
    talk.answer(b"this is plain", kind="text/event-stream", Content_Encoding="gzip")
