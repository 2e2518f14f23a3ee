"""The files of a chat: which links are read, what is said of the others, and what is kept."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from backends._http.cancellation import CancelScope
from backends._media import attachments
from backends._media.attachments import Attachment, AttachmentReader, ResolvedChat, upload_host
from backends._media.fetch_policy import LinkError, policy
from backends._media.file_types import ALL_TYPES, IMAGE_TYPES
from backends._media.links import UNREADABLE, placeholder
from backends._media.sentences import LINK_DAMAGED
from tests.backends._media.test_images import data_url, gif, png
from tests.support.upload_site import Site

PDF = b"%PDF-1.7\n..."


def reader(types: frozenset[str] = IMAGE_TYPES, most: int = 8, **given: Any) -> AttachmentReader:
    """Return a reader that may fetch from loopback."""
    usual = {"kernel_url": "http://k/", "ignore_kernel": True, "upload_hosts": []}
    args = argparse.Namespace(**{**usual, "allow_private_urls": True, **given})
    return AttachmentReader(policy(args), types, most)


def talk(*said: str) -> list[dict[str, str]]:
    """Return what user and assistant said in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]


def texts(chat: ResolvedChat) -> list[str]:
    """Return what the messages hold."""
    return [one["content"] for one in chat.history]


def data(chat: ResolvedChat) -> list[bytes]:
    """Return the files in the order of their signs."""
    return [chat.files[number].data for number in sorted(chat.files)]


def test_all_pictures_of_a_chat_are_read(site: Site) -> None:
    """Of every message of the user, in their order and where they stood."""
    one, two, three = (site.write(f"{n}.png", png(n)) for n in (1, 2, 3))
    chat = reader().read(talk(f"{one}\n{two}\nwhich is larger?", "b", f"and {three}?"))
    assert texts(chat) == [
        f"{placeholder(0)}\n{placeholder(1)}\nwhich is larger?",
        "b",
        f"and {placeholder(2)}?",
    ]
    assert data(chat) == [png(1), png(2), png(3)]
    assert chat.files[0] == Attachment(png(1), "image/png", one, "1.png")
    assert chat.notes == ()


def test_a_link_that_gives_nothing_stays_and_a_sentence_says_why(site: Site) -> None:
    """It names the file, not where it lies; the other pictures are read."""
    page, gone = site.write("a page.html", b"<html>"), f"{site.url}/none.png"
    pdf, good = site.write("a.pdf", PDF), site.write("a.png", png())
    page = page.replace(" ", "%20")
    text = f"{page}\n{gone}\n{pdf}\n{good}\nhm?"
    chat = reader().read(talk(text))
    assert texts(chat) == [text.replace(good, placeholder(3))]
    assert chat.notes == (
        "a page.html was not read: it is no file of a kind that this model takes.",
        "none.png was not read: its server answers 404.",
        "a.pdf was not read: it is no file of a kind that this model takes.",
    )


def test_a_private_link_is_not_fetched(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Unless its host is named; whether it exists here is not told."""
    caplog.set_level("INFO")
    url = site.write("a.png", png())
    chat = reader(allow_private_urls=False).read(talk(f"{url}\nhm?"))
    assert texts(chat) == [f"{url}\nhm?"]
    assert chat.notes == (
        "a.png was not read: its server is unknown here or on a private network.",
    )
    assert site.asked == []
    assert "name it in --upload_hosts" in caplog.text
    assert "a.png" not in caplog.text, "the log tells no more than the host"
    named = reader(allow_private_urls=False, upload_hosts=[("127.0.0.1", site.port)])
    assert data(named.read(talk(f"{url}\nhm?"))) == [png()]


def test_the_first_bytes_decide_what_a_file_is(site: Site) -> None:
    """Not its name, by which the server calls it a text."""
    assert data(reader().read(talk(site.write("a.txt", png())))) == [png()]
    chat = reader().read(talk(site.write("b.png", b"just text")))
    assert "no file of a kind" in chat.notes[0]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png,hello", "its address cannot be used"),
        ("data:image/png;base64,AA=", "it is damaged"),
        ("data:image/png;base64,AA%3D%3D", "it is damaged"),
        ("data:image/png;base64,é", "it is damaged"),
        ("data:image/png;base64," + "A" * 400, "no file of a kind"),
        ("data:image/png;base64," + "A" * (28 * 2**20), "larger than 20 MiB"),
        (data_url(png().ljust(10 * 2**20 + 1)), "larger than 10 MiB"),
        (data_url(png(60_000, 60_000)), "60000 x 60000 pixels"),
        (data_url(gif(0, 5)), "it is damaged"),
    ],
)
def test_a_damaged_data_url_is_no_text_for_the_model(url: str, reason: str) -> None:
    """A short mark takes its place, unless it is short itself; nothing is guessed."""
    chat = reader().read(talk(f"look {url} please", "yes", f"and {url}"))
    kept = url if len(url) <= 200 else UNREADABLE
    assert texts(chat) == [f"look {kept} please", "yes", f"and {kept}"]
    assert chat.files == {}
    assert len(chat.notes) == 1
    assert reason in chat.notes[0]


def test_only_what_the_last_message_brings_is_spoken_of() -> None:
    """What was said once is not said again with every turn."""
    broken = "data:image/png;base64,AA="
    assert len(reader().read(talk(broken)).notes) == 1
    assert reader().read(talk(broken, "hm", "why?")).notes == ()


def test_the_newest_files_are_read(site: Site) -> None:
    """As many as are allowed; the others stay links, and it is said once."""
    urls = [site.write(f"{n}.png", png(n)) for n in (1, 2, 3)]
    chat = reader(most=2).read(talk(urls[0], "a", f"{urls[1]} {urls[2]}"))
    assert texts(chat) == [urls[0], "a", f"{placeholder(1)} {placeholder(2)}"]
    assert chat.notes == ("Only the newest pictures and files of this chat were read, 2 at most.",)
    assert reader(most=2).read(talk(*urls[:1], "a", " ".join(urls[1:]), "b", "so?")).notes == ()
    links = reader(most=2).read(talk(f"{site.url}/none", "a", f"{urls[1]} {urls[2]}"))
    assert links.notes == (), "a link that is no file is not left out"


def test_all_files_together_have_a_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest fit."""
    monkeypatch.setattr(attachments, "LARGEST_TOTAL", 2 * 2**20)
    urls = [site.write(f"{n}.png", png(n).ljust(2**20, b"\0")) for n in (1, 2, 3)]
    chat = reader().read(talk(" ".join(urls)))
    assert sorted(chat.files) == [1, 2]
    assert chat.notes == (
        "Older pictures and files were left out: together they are larger than 2 MiB.",
    )


def test_ten_turns_fetch_a_picture_once(site: Site) -> None:
    """Whether it is there or not; a link that is said again is fetched again."""
    url, gone = site.write("a.png", png()), f"{site.url}/none.png"
    own = reader()
    said = [f"{url} {gone}"]
    for turn in range(10):
        assert data(own.read(talk(*said))) == [png()], turn
        said += ["yes", "and?"]
    assert sorted(site.asked) == ["a.png", "none.png"]
    site.write("a.png", png(9))
    site.write("none.png", png(8))
    assert data(own.read(talk(*said, "yes", f"{url} {gone}"))) == 2 * [png(9), png(8)]


def test_all_links_together_have_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest have it; what was not tried for want of time is tried in the next turn."""
    url = site.write("a.png", png())
    own = reader()
    monkeypatch.setattr(attachments, "TOTAL_TIMEOUT", 0.0)
    chat = own.read(talk(url))
    assert chat.notes == ("a.png was not read: it took too long.",)
    monkeypatch.undo()
    assert data(own.read(talk(url, "hm", "and now?"))) == [png()]


def test_a_stopped_chat_reads_no_more(site: Site) -> None:
    """Its scope is cancelled."""
    scope = CancelScope()
    scope.cancel()
    with scope:
        chat = reader().read(talk(f"{site.write('a.png', png())}\nhm?"))
    assert (chat.files, site.asked) == ({}, [])


def test_documents_and_sounds_are_read_for_models_that_take_them(site: Site) -> None:
    """Up to a size of their own; web pages are none."""
    pdf, text = site.write("a.pdf", PDF), site.write("a.md", b"# Title")
    page = site.write("a.html", b"<!doctype html>")
    large = site.write("b.pdf", PDF.ljust(20 * 2**20 + 1))
    chat = reader(ALL_TYPES).read(talk(f"{pdf} {text} {page} {large}"))
    assert [file.media_type for _, file in sorted(chat.files.items())] == [
        "application/pdf",
        "text/plain",
    ]
    assert [note.partition(":")[2] for note in chat.notes] == [
        " it is no file of a kind that this model takes.",
        " it is larger than 20 MiB.",
    ]


def test_a_file_that_turns_out_to_be_of_no_use_becomes_a_link_again(site: Site) -> None:
    """Spoken of only if the last message brings it."""
    one, two = (site.write(f"{n}.png", png(n)) for n in (1, 2))
    said = talk(one, "a", two)
    chat = reader().read(said)
    for number in (0, 1):
        chat = chat.without(number, LinkError(LINK_DAMAGED))
    assert chat == ResolvedChat(said, {}, ("2.png was not read: it is damaged.",))


def test_no_link_tries_nothing(site: Site) -> None:
    """The history comes back as it was, but for signs that were typed."""
    assert reader().read(talk("a", "b", f"c{placeholder(1)}")) == ResolvedChat(
        talk("a", "b", "c1"), {}
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web", ("web", None)),
        ("web:8080", ("web", 8080)),
        ("10.0.0.1", ("10.0.0.1", None)),
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_upload_hosts_are_names_with_or_without_a_port(
    text: str, found: tuple[str, int | None]
) -> None:
    """As they stand in URLs."""
    assert upload_host(text) == found


@pytest.mark.parametrize("text", ["", "web:", "web:0", "web:x", "http://web/", ":80", "a b"])
def test_other_upload_hosts_are_refused(text: str) -> None:
    """When the program starts, with the whole of what was given."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        upload_host(text)
    assert str(refused.value).endswith(f", not {text!r}") or text == ":80"
