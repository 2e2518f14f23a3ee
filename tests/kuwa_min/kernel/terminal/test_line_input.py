"""Messages of one line and of several; the file of history."""

from __future__ import annotations

import os
import readline
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.kernel.terminal.line_input import line_editing, read_message


def typed(*lines: str) -> Callable[[str], str]:
    """Return what reads these lines, then the end of the input."""
    left = list(lines)

    def read(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (["pasted\nlines"], "pasted\nlines"),
    ],
)
def test_a_message_may_have_several_lines(lines: list[str], message: str) -> None:
    """By a backslash, by quotes, by pasting."""
    assert read_message(typed(*lines)) == message


@pytest.mark.parametrize("lines", [[], ["one\\"], ['"""', "one"]])
def test_the_end_of_the_input_ends_it(lines: list[str]) -> None:
    """Also within a message."""
    with pytest.raises(EOFError):
        read_message(typed(*lines))


def test_history_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    """A file that others could read is taken from them."""
    path = tmp_path / "history"
    path.write_text("before\n", encoding="utf-8")
    path.chmod(0o644)
    with line_editing(str(path)):
        assert readline.get_history_item(1) == "before"
        readline.add_history("你好")
    assert path.read_text("utf-8") == "before\n你好\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_history_is_private_from_the_start(tmp_path: Path) -> None:
    """Whatever the umask."""
    path = tmp_path / "history"
    former = os.umask(0)
    try:
        with line_editing(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(former)


def test_without_a_file_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with line_editing(None):
        readline.add_history("secret")
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    """A folder, a file that is no text."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    for name in ("", "bytes", "no/where"):
        with pytest.raises(UsageError, match="--history_file"), line_editing(str(tmp_path / name)):
            pass
