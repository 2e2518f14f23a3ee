"""Find the links of a chat, and put placeholders in the text where their files belong. No I/O.

A placeholder is a number between two U+FFFC, Unicode's character for an object embedded in a text:
it survives trimming and joining of messages, and each backend puts the file of that number in its
place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.sentence import join_sentences
from kuwa_min.chat.side_notes import SIDE_NOTE

from .sentences import LINK_NO_FILE, MORE_LINKS

T = TypeVar("T")

URL = re.compile(r"https?://\S+|data:image/\S+|data:[\w.+-]+/[\w.+-]+;base64,\S+", re.IGNORECASE)
TRAILING = ".,;:!?)]}>'\"*`。，；：！？）」』"  # punctuation that ends a sentence, not a URL
OBJECT_REPLACEMENT = "\ufffc"
PLACEHOLDER = re.compile(rf"{OBJECT_REPLACEMENT}(\d{{1,9}}){OBJECT_REPLACEMENT}")
SPACED_PLACEHOLDER = re.compile(rf"\s*{PLACEHOLDER.pattern}\s*")
DATA = "data:"
LONGEST_DATA = 200  # characters of a data: URL that a model is given as text
UNREADABLE = "[a file that could not be read]"  # in place of a longer one
LONGEST_NAME = 60  # characters of a link in a side note
MAX_SENTENCES = 3  # sentences of a side note


class Link(NamedTuple):
    """A URL in a message."""

    message: int  # its index in the history
    start: int  # of the URL, in the message's content
    url: str

    @property
    def is_data(self) -> bool:
        """Tell whether the URL holds the file itself."""
        return self.url[: len(DATA)].lower() == DATA

    @property
    def text(self) -> str:
        """Return the link as a model reads it that does not get the file."""
        return UNREADABLE if self.is_data and len(self.url) > LONGEST_DATA else self.url

    @property
    def name(self) -> str:
        """Return a short name for a side note: that of the file, else the host."""
        if self.is_data:
            return self.url.partition(";")[0].partition(",")[0][:LONGEST_NAME]
        try:
            file = unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2])
        except ValueError:
            file = ""
        return _printable(file) or self.host

    @property
    def host(self) -> str:
        """Return the host, for the log."""
        try:
            return _printable(urlsplit(self.url).hostname or "a data: URL")
        except ValueError:
            return "a link"


def _printable(name: str) -> str:
    """Return a short name on one line, without the brackets of a side note's marks."""
    name = "".join(one if one.isprintable() and one not in "<>" else "?" for one in name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def find_links(history: list[Message]) -> list[Link]:
    """Return the links of the user's messages, the oldest first."""
    return [
        Link(index, found.start(), found.group().rstrip(TRAILING))
        for index, message in enumerate(history)
        if message["role"] == "user"
        for found in URL.finditer(message["content"])
    ]


def without_data(history: list[Message]) -> tuple[list[Message], tuple[str, ...]]:
    """Return the history without files in data: URLs, and notes on those of the last message."""
    if not any(DATA in one["content"].lower() for one in history):
        return history, ()
    links = [one for one in find_links(history) if one.text == UNREADABLE]
    shown = with_placeholders(history, dict(enumerate(links)), ())
    asked = [one for one in links if one.message == len(history) - 1]
    return shown, tuple(LINK_NO_FILE.format(one.name) for one in asked)


def without_placeholders(history: list[Message]) -> list[Message]:
    """Return a copy of the history without placeholders that a user typed."""
    return [{**one, "content": one["content"].replace(OBJECT_REPLACEMENT, "")} for one in history]


def with_placeholders(
    history: list[Message], links: Mapping[int, Link], files: Collection[int]
) -> list[Message]:
    """Return the history with a placeholder for each link in `files`, else with its text."""
    marked = list(history)
    for number, link in sorted(links.items(), reverse=True):  # backwards: offsets stay right
        content = marked[link.message]["content"]
        before, after = content[: link.start], content[link.start + len(link.url) :]
        text = placeholder(number) if number in files else link.text
        marked[link.message] = {**marked[link.message], "content": before + text + after}
    return marked


def with_texts(messages: list[Message], texts: Mapping[int, str]) -> list[Message]:
    """Return the messages with these texts in place of the placeholders of their numbers."""

    def text(found: re.Match[str]) -> str:
        return texts.get(int(found[1]), found[0])

    return [{**one, "content": PLACEHOLDER.sub(text, one["content"])} for one in messages]


def without_space_around(messages: list[Message]) -> list[Message]:
    """Return the messages without the white space around their placeholders."""
    return [
        {**one, "content": SPACED_PLACEHOLDER.sub(lambda found: found[0].strip(), one["content"])}
        for one in messages
    ]


def placeholder(number: int) -> str:
    """Return the placeholder of the file of this number."""
    return f"{OBJECT_REPLACEMENT}{number}{OBJECT_REPLACEMENT}"


def placeholder_numbers(text: str) -> list[int]:
    """Return the numbers of the placeholders in a text, in order."""
    return [int(found) for found in PLACEHOLDER.findall(text)]


def split(text: str, files: Mapping[int, T]) -> Iterator[str | T]:
    """Yield text and files in order, without the white space around files and without empty text.

    A placeholder whose number is not in `files` is left out.
    """
    before, *rest = SPACED_PLACEHOLDER.split(text)
    if before:
        yield before
    for number, after in zip(rest[::2], rest[1::2], strict=True):
        if int(number) in files:
            yield files[int(number)]
        if after:
            yield after


def side_note(notes: Collection[str]) -> str:
    """Return one side note of several sentences, empty if there are none."""
    distinct = list(dict.fromkeys(notes))
    shown, more = distinct[:MAX_SENTENCES], len(distinct) - MAX_SENTENCES
    if more > 0:
        shown.append(MORE_LINKS.format(more))
    return SIDE_NOTE.format(join_sentences(shown)) if shown else ""
