"""Read the images and files that a chat links to, under limits.

Kuwa's front end puts the URL of an upload on a line before the text of its message; a client of the
API may send a data: URL. Every turn brings the whole history, and its links with it.

Strategy: the newest links are read first, up to a number and a total size. A link that cannot be
read stays in the text, so that the model answers all the same; if it came with the last message,
a side note says why. Files of earlier messages are taken from a cache. Those of the last message
are always fetched: the link may work now, or lead to another upload of the same name.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import logging
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from backends._http.cancellation import current_scope
from kuwa_min.chat.modelfile import Message
from kuwa_min.log.redaction import content
from kuwa_min.options import address
from kuwa_min.options.types import whole
from kuwa_min.process.deadline import Deadline

from . import fetch, file_types, images
from .fetch_cache import FetchCache
from .fetch_policy import FetchPolicy, LinkError
from .links import (
    UNREADABLE,
    Link,
    find_links,
    placeholder_numbers,
    with_placeholders,
    with_texts,
    without_placeholders,
)
from .sentences import (
    FILES_TOO_LARGE,
    FILES_TOO_MANY,
    LINK_BAD_ADDRESS,
    LINK_DAMAGED,
    LINK_NO_FILE,
    LINK_PRIVATE,
    LINK_SLOW,
    LINK_TOO_LARGE,
)

logger = logging.getLogger(__name__)

LARGEST_IMAGE, LARGEST_FILE = 10 * 2**20, 20 * 2**20  # bytes; Kuwa's uploads have 20 MiB at most
# Bytes of all files of a chat, 45 MB in base64: OpenAI takes requests of 50 MB, Google of 100 MB.
LARGEST_TOTAL = 32 * 2**20
TOTAL_TIMEOUT = 20.0  # seconds for all links of a chat
MAX_FILES = 8
MAX_LINKS = 40  # of a chat that are tried
HINT = (
    " If it is the host of the site that people upload to, name it in --upload_hosts; with "
    "--log_content the log has its name."
)
HOST_PORT = re.compile(r"(\[.*\]|[^:\[]*):([^:\]]*)")
DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,", re.IGNORECASE)


class Attachment(NamedTuple):
    """A file of a chat."""

    data: bytes
    media_type: str  # MIME
    text: str = UNREADABLE  # its link, as a model that does not get the file reads it
    name: str = "a file"  # for side notes


class ResolvedChat(NamedTuple):
    """A history whose links were read."""

    history: list[Message]  # a placeholder stands for each file
    files: dict[int, Attachment]  # by the number of their placeholder
    notes: tuple[str, ...] = ()  # sentences on the links of the last message that were not read

    def without(self, number: int, error: LinkError) -> ResolvedChat:
        """Return the chat without a file that the model cannot use: its link is text again."""
        lost = self.files[number]
        files = {other: file for other, file in self.files.items() if other != number}
        history = with_texts(self.history, {number: lost.text})
        is_new = number in placeholder_numbers(self.history[-1]["content"])
        notes = (*self.notes, error.about(lost.name)) if is_new else self.notes
        return ResolvedChat(history, files, notes)


def add_arguments(add: Callable[..., object]) -> None:
    """Add the options on how many files of a chat are read, and from where."""
    add(
        "--max_attachments",
        type=whole(1),
        default=MAX_FILES,
        metavar="N",
        help="most pictures and files of a chat that are read, the newest",
    )
    add(
        "--upload_hosts",
        type=upload_host,
        nargs="+",
        default=[],
        metavar="NAME[:PORT]",
        help="hosts of the site that people upload to, whose links are fetched even from a private "
        "network: from ports 80 and 443, or from PORT; uploads on the Kernel's host are anyway",
    )
    add(
        "--allow_private_urls",
        action="store_true",
        help="fetch links to every address of this machine and its network, but for the metadata "
        "services of clouds",
    )


def upload_host(text: str) -> tuple[str, int | None]:
    """Read NAME[:PORT] from the command line; an IPv6 address with a port needs brackets."""
    found = HOST_PORT.fullmatch(text)
    if not found or not found[2].isdecimal():
        return address.host_name(text), None
    port = address.port_number(found[2])
    if not port:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return address.host_name(found[1]), port


class AttachmentReader:
    """Read the files of chats; one for each executor, safe for threads.

    policy: which links may be fetched; types: the MIME types that the model takes; max_files: of
    a chat, the newest.
    """

    def __init__(self, policy: FetchPolicy, types: Collection[str], max_files: int) -> None:
        self._policy, self._types, self._max_files = policy, frozenset(types), max_files
        self._cache: FetchCache[Attachment | LinkError] = FetchCache()

    def read(self, history: list[Message]) -> ResolvedChat:
        """Return the chat with its files; blocks while they are fetched.

        Cancelling the thread's cancel scope ends it early, with the files that were read.
        """
        plain = without_placeholders(history)
        links = dict(enumerate(find_links(plain)))
        last = len(plain) - 1
        files, notes = self._fetch_all(links, last)
        asked_now = any(link.message == last for link in links.values())
        marked = with_placeholders(plain, links, files)
        return ResolvedChat(marked, files, notes if asked_now else ())

    def _fetch_all(
        self, links: dict[int, Link], last: int
    ) -> tuple[dict[int, Attachment], tuple[str, ...]]:
        """Read the newest links first, until a limit is reached; return files and notes."""
        files: dict[int, Attachment] = {}
        notes: list[str] = []
        deadline, remaining = Deadline(TOTAL_TIMEOUT), LARGEST_TOTAL
        for number, link in sorted(links.items(), reverse=True)[:MAX_LINKS]:
            if current_scope().is_cancelled:
                break
            file = self._read(link, deadline, is_new=link.message == last)
            if isinstance(file, LinkError):
                if link.message == last:
                    notes.insert(0, file.about(link.name))
                continue
            if len(files) == self._max_files:
                notes.append(FILES_TOO_MANY.format(self._max_files))
                break
            remaining -= len(file.data)
            if remaining < 0:
                notes.append(FILES_TOO_LARGE.format(LARGEST_TOTAL >> 20))
                break
            files[number] = file
        return files, tuple(notes)

    def _read(self, link: Link, deadline: Deadline, *, is_new: bool) -> Attachment | LinkError:
        """Return the file of a link, or why there is none; from the cache unless the link is new.

        Both are cached.
        """
        cached = None if is_new or link.is_data else self._cache.get(link.url)
        if cached is not None:
            return cached
        try:
            timeout = min(fetch.TIMEOUT, deadline.left() or fetch.TIMEOUT)
        except TimeoutError:
            return LinkError(LINK_SLOW)
        try:
            found: Attachment | LinkError = self._fetch(link, timeout)
        except LinkError as error:
            hint = HINT if error.sentence == LINK_PRIVATE else ""
            logger.info(
                "a chat's link is left as text: %s%s", error.about(content(link.host)), hint
            )
            found = error
        if not link.is_data:
            size = len(found.data) if isinstance(found, Attachment) else 0
            self._cache.put(link.url, found, size)
        return found

    def _fetch(self, link: Link, timeout: float) -> Attachment:
        """Return the file of a link; raises LinkError."""
        if link.is_data:
            data = _decode(link.url)
            if len(data) > (most := self._most_bytes(data)):
                raise LinkError(LINK_TOO_LARGE, most >> 20)
        else:
            data = fetch.fetch(link.url, self._policy, limit=self._most_bytes, timeout=timeout)
        media_type = file_types.media_type(data)
        if media_type in file_types.IMAGE_TYPES:
            images.check(data, media_type)
        return Attachment(data, media_type, link.text, link.name)

    def _most_bytes(self, start: bytes) -> int:
        """Return the largest size in bytes of a file with this beginning.

        Raises LinkError for types that the model does not take.
        """
        media_type = file_types.media_type(start)
        if media_type not in self._types:
            raise LinkError(LINK_NO_FILE)
        return LARGEST_IMAGE if media_type in file_types.IMAGE_TYPES else LARGEST_FILE


def _decode(url: str) -> bytes:
    """Return the bytes of a data: URL; raises LinkError."""
    head = DATA.match(url)
    if not head:
        raise LinkError(LINK_BAD_ADDRESS)
    text = url[head.end() :]
    if len(text) > LARGEST_FILE * 4 // 3 + 4:
        raise LinkError(LINK_TOO_LARGE, LARGEST_FILE >> 20)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise LinkError(LINK_DAMAGED) from None
