"""Text files that people write: every encoding that an editor of Windows saves, or one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.options import text_file
from kuwa_min.options.text_file import InvalidTextFile, decode, encoding_of, read_text
from tests.support.saved_as import SAVED_AS

TEXT = "system: 你好，一個世界 😀\nuser: naïve\n"  # 一 is U+4E00: a NUL where ASCII has none


def complaint(data: bytes) -> str:
    """Return why these bytes are no text."""
    with pytest.raises(InvalidTextFile) as refused:
        decode(data)
    return str(refused.value)


@pytest.mark.parametrize("name", SAVED_AS)
def test_every_encoding_that_is_known_from_the_file_is_read(name: str) -> None:
    """With and without a byte order mark, and whatever ends its lines."""
    assert decode(SAVED_AS[name](TEXT)) == TEXT


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_ends_of_lines_become_one(end: str) -> None:
    """A blank line stays one."""
    assert decode(f"a{end}{end}b{end}".encode()) == "a\n\nb\n"


def test_an_empty_file_is_an_empty_text() -> None:
    """With a byte order mark, too."""
    assert decode(b"") == decode(b"\xef\xbb\xbf") == decode(b"\xff\xfe") == ""


def test_only_the_first_mark_is_one() -> None:
    """Within a text it is a character as any other."""
    assert decode("\ufeffa\ufeffb".encode()) == "a\ufeffb"


@pytest.mark.parametrize("text", ["溫度：0.5\n", "# 模型的設定\ntemperature: 0.5\n"])
def test_big5_is_named(text: str) -> None:
    """As Windows in Taiwan saves it: it says so, where, and what to do."""
    said = complaint(f"a: 1\n{text}".encode("cp950"))
    assert said.startswith("is not UTF-8 text: line 2 seems to be in Big5 (code page 950); save it")
    assert said.endswith("as UTF-8 (Notepad: Save as, Encoding: UTF-8)")


def test_a_western_code_page_is_not_called_big5() -> None:
    """Though its bytes could be."""
    data = "\n# température élevée\n".encode("cp1252")
    data.decode("cp950")
    assert "line 2 seems to be in another encoding" in complaint(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (TEXT.encode()[:16], "is cut off: it ends within a character; copy it again"),
        (b"key: 1\0", "is not a text file: it holds NUL bytes"),
        (b"GGUF\3\0\0\0\1\0\0\0", "is not a text file: it holds NUL bytes"),
        (b"\x7fELF\xff\0\0\0\xfe", "is not UTF-8 text: line 1 seems"),
        (b"\xff\xfea\0b", "is damaged: it begins as UTF-16-LE text, but is none; save it as"),
        (b"\xfe\xff\xd8\0\0a", "is damaged: it begins as UTF-16-BE text"),
        (b"a\0\0\xd8b\0c\0d\0", "is damaged: it begins as UTF-16-LE text"),
    ],
)
def test_what_is_no_text_is_one_line(data: bytes, reason: str) -> None:
    """It is never read as something else."""
    assert complaint(data).startswith(reason)


def test_a_few_nuls_make_no_utf_16() -> None:
    """Decoding such bytes would give Chinese characters without a complaint."""
    assert encoding_of(b"temperature: 1\0\n") == ("utf-8", 0)


def test_the_file_is_read(tmp_path: Path) -> None:
    """By its path."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n")
    assert read_text(str(path)) == "a\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such", "cannot be read: No such file or directory"),
        ("/", "cannot be read: Is a directory"),
        ("a\0b", "cannot be read: its name is no path"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(path: str, reason: str) -> None:
    """It says why."""
    with pytest.raises(InvalidTextFile) as refused:
        read_text(path)
    assert str(refused.value) == reason


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device, or a model given for a text: memory does not fill with it."""
    monkeypatch.setattr(text_file, "MAX_BYTES", 10)
    path = tmp_path / "some.txt"
    path.write_bytes(b"0123456789")
    assert read_text(str(path)) == "0123456789"
    path.write_bytes(b"0123456789a")
    with pytest.raises(InvalidTextFile, match="is longer than 10 bytes: it is not the file that"):
        read_text(str(path))
