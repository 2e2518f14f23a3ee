"""What an operator reads of an exception: its place, the way to it, and no user's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kuwa_min import errors
from kuwa_min.errors import FRAMES, describe, import_advice, traceback_line


def failure(function: Callable[..., object], *arguments: object) -> Exception:
    """Return what a call raises."""
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


def plain(line: str) -> str:
    """Return a line without the numbers of its lines."""
    return re.sub(r":\d+ in", " in", line)


def inner(text: str) -> int:
    """Fail with a message that quotes."""
    return int(text)


def outer(text: str) -> int:
    """Call the one that fails."""
    return inner(text)


def test_the_innermost_frame_comes_last() -> None:
    """With the message if it may be shown."""
    error = failure(outer, "my secret")
    way = "test_errors.py in failure > test_errors.py in outer > test_errors.py in inner"
    assert plain(traceback_line(error, with_message=False)) == f"{way}: ValueError"
    whole = plain(traceback_line(error, with_message=True))
    assert whole.startswith(f"{way}: ValueError: invalid literal")
    assert "my secret" in whole
    assert plain(describe(error)) == "ValueError at test_errors.py in inner"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("unknown", "NameError: name 'unknown' is not defined"),
        ("__import__('no_such')", "ModuleNotFoundError: No module named 'no_such'"),
    ],
)
def test_a_message_about_code_is_always_shown(code: str, message: str) -> None:
    """It cannot quote a user."""
    line = traceback_line(failure(eval, code), with_message=False)
    assert f"<string>:1 in <module>: {message}" in line


def in_file(path: str) -> Callable[..., object]:
    """Return a function that calls another, from a source of this name."""
    names: dict[str, Callable[..., object]] = {}
    exec(compile("def call(function, *others):\n    return function(*others)", path, "exec"), names)
    return names["call"]


OURS = str(Path(errors.__file__).parent)


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"{OURS}/service.py",
            f"{OURS}/serving/generations/generation.py",
            "/lib/asyncio/tasks.py",
        ),
        *("runpy.py", "/lib/importlib/util.py", "/lib/importlib/metadata/_meta.py"),
    ],
)
def test_our_own_frames_before_a_foreign_one_are_left_out(path: str) -> None:
    """An operator looks for the place in the executor's file."""
    try:
        in_file(path)(in_file("mine.py"), in_file(path), inner, "x")
    except ValueError as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        line = plain(traceback_line(error, with_message=False))
    assert line.startswith(f"mine.py in call > {Path(path).name} in call > test_errors.py in inner")


def test_a_folder_called_as_we_are_is_foreign() -> None:
    """A user's checkout may lie in one."""
    call = in_file("/home/me/kuwa_min/examples/mine.py")
    line = plain(traceback_line(failure(call, inner, "x"), with_message=False))
    assert "mine.py in call" in line


def test_what_caused_it_is_named() -> None:
    """By type and place."""

    def translate() -> None:
        try:
            inner("x")
        except ValueError as error:
            raise KeyError("y") from error

    line = plain(traceback_line(failure(translate), with_message=False))
    assert line.endswith("translate: KeyError (caused by ValueError at test_errors.py in inner)")


def test_a_deep_one_is_shortened_in_its_middle() -> None:
    """Where it came from and where it ended matter."""

    def down(depth: int) -> int:
        return down(depth - 1) if depth else inner("x")

    parts = plain(traceback_line(failure(down, 50), with_message=False)).split(" > ")
    assert len(parts) == FRAMES + 1
    assert (parts[0], parts[2]) == ("test_errors.py in failure", "...")
    assert parts[-1] == "test_errors.py in inner: ValueError"


def test_a_missing_module_is_named_with_what_to_do() -> None:
    """Other errors need no such advice."""
    advice = import_advice(failure(__import__, "no_such.part"))
    assert "pip install --target DIR no_such " in advice
    assert "PYTHONPATH=DIR" in advice
    assert import_advice(ValueError()) == import_advice(ModuleNotFoundError()) == ""


def test_a_library_that_cannot_be_mapped_is_here() -> None:
    """What the dynamic loader says tells nobody why."""
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert "`ulimit -v`" in import_advice(error)
    assert import_advice(ImportError("libc.so.7: cannot open")) == ""


def test_a_library_that_is_here_need_not_be_installed() -> None:
    """It lacks that module: an executor may import one that another version has."""
    assert import_advice(failure(__import__, "kuwa_min.no_such")) == ""
