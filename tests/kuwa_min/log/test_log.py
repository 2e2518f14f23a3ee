"""The log: one safe line per record, no secrets, and no thread waits for its reader."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kuwa_min import log
from kuwa_min.log import redaction
from tests.support.programs import ROOT, TIMEOUT, until

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) (\S+): (.*)")


class Gate(io.StringIO):
    """A log's reader that reads nothing until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.reached = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        """Wait for the gate, then take the text."""
        self.reached.set()
        assert self.open.wait(TIMEOUT)
        return super().write(text)


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every test without secrets, and keep what it hides from the others."""
    monkeypatch.setattr(redaction, "_secrets", set())


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Return a logger of its own, without handlers; end the ones that it gets."""
    monkeypatch.setattr(log, "CLOSE_TIMEOUT", TIMEOUT)  # their readers do read
    logger = logging.Logger("some.module", logging.DEBUG)
    yield logger
    for handler in logger.handlers:
        handler.close()


def attach(
    logger: logging.Logger, stream: io.TextIOBase, form: str = "%(message)s"
) -> logging.Handler:
    """Let this logger write to a stream as the program does."""
    handler = log.BackgroundHandler(stream)  # type: ignore[arg-type]
    handler.setFormatter(log.SafeFormatter(form))
    logger.addHandler(handler)
    return handler


def line_of(message: str, *args: object, **more: object) -> str:
    """Return the line that a message becomes."""
    record = logging.LogRecord("some.module", logging.INFO, __file__, 1, message, args, None)
    vars(record).update(more)
    return log.SafeFormatter("%(message)s").format(record)


# -- one safe line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("名字 é 🙂 \xa0", "名字 é 🙂 \xa0"),
        ("two\nlines", r"two\nlines"),
        ("two\r\nlines", r"two\r\nlines"),
        ("\x00\x07\x08\t\x0b\x0c", r"\x00\x07\x08\t\x0b\x0c"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x7f", r"\x7f"),
        ("\x80\x85\x9b31m\x9f", r"\x80\x85\x9b31m\x9f"),
    ],
)
def test_whatever_could_forge_a_line_is_escaped(text: str, line: str) -> None:
    """C0, DEL and C1 show their code; everything else that can be read stays."""
    assert log.one_line(text) == line
    assert line_of("%s", text) == line


@pytest.mark.parametrize("code", [0x2028, 0x2029, 0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_line_separators_and_surrogates_are_escaped(code: int) -> None:
    """The line is one by any count, and can be written as UTF-8."""
    line = line_of("%s", f"a{chr(code)}b")
    assert line.splitlines() == [line]
    assert chr(code) not in line
    assert f"{code:x}" in line
    assert line.encode()


def test_every_character_that_splits_lines_is_escaped() -> None:
    """No character of the first plane makes two lines of one."""
    text = log.one_line("".join(map(chr, range(0x10000))))
    assert text.splitlines() == [text]


def test_a_traceback_is_one_line() -> None:
    """It is shown if it was asked for, but forges nothing."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert line.splitlines() == [line]
    assert re.fullmatch(
        r"failed \| test_log\.py:\d+ in test_a_traceback_is_one_line: ValueError: first\\nsecond",
        line,
    )


# -- secrets


def test_a_hidden_text_never_appears() -> None:
    """Not in a message, not in its arguments, not in a traceback."""
    redaction.hide("sk-secret")
    assert line_of("key sk-secret!") == "key ***!"
    assert line_of("%s %r", "sk-secret", {"key": "sk-secret"}) == "*** {'key': '***'}"
    try:
        raise ValueError("sk-secret")
    except ValueError:
        assert "sk-secret" not in line_of("failed", exc_info=sys.exc_info())


def test_a_secret_may_hold_what_is_escaped() -> None:
    """It is hidden before the line is made safe."""
    redaction.hide("se\x1bcret\n")
    assert line_of("a se\x1bcret\n b") == "a *** b"


def test_a_secret_inside_a_secret_leaves_nothing_of_the_longer_one() -> None:
    """The order in which they were hidden does not matter."""
    long = "sk-0123456789abcdefghijklmnopqrstuvwxyz"
    for length in range(redaction.SHORTEST, len(long) + 1):
        redaction.hide(long[:length])
    assert line_of(f"key {long}.") == "key ***."


@pytest.mark.parametrize("text", [None, "", "abc", "12345"])
def test_a_short_text_is_not_hidden(text: str | None) -> None:
    """It would blacken ordinary words."""
    redaction.hide(text)
    assert line_of(f"a {text} 12345 abc") == f"a {text} 12345 abc"


# -- no thread waits


def test_a_line_has_a_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a secret at the cut, and the line says how much is missing."""
    monkeypatch.setattr(log, "LONGEST_LINE", 100)
    monkeypatch.setattr(log, "LONGEST_SECRET", 20)
    log.redaction.hide("s3cret-w0rd")
    assert line_of("x" * 100) == "x" * 100
    for before in range(60, 101):
        line = line_of("x" * before + "s3cret-w0rd" + "y" * 100)
        assert line.startswith("x" * min(before, 72))
        assert line.endswith(f" ... ({before + 11 + 100 - 80} more characters)")
        assert "s3c" not in line
    assert len(line_of("\n" * 9000)) < 2 * 100 + 50


def test_lines_arrive_in_order(logger: logging.Logger) -> None:
    """Closing writes what is queued."""
    stream = io.StringIO()
    handler = attach(logger, stream)
    for n in range(500):
        logger.info("line %d", n)
    handler.close()
    assert stream.getvalue() == "".join(f"line {n}\n" for n in range(500))


def test_a_pipe_without_a_reader_blocks_no_thread(logger: logging.Logger) -> None:
    """More is logged than a pipe and the queue can hold; every call returns."""
    reading, writing = os.pipe()
    stream = io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True)
    handler = attach(logger, stream)
    for _ in range(log.CAPACITY + 100):
        logger.info("x" * 1000)
    os.close(reading)
    handler.close()
    with contextlib.suppress(OSError):
        stream.close()


def test_lost_lines_are_counted_where_they_are_missing(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line after the gap says how many are missing before it, and no other line."""
    monkeypatch.setattr(log, "CAPACITY", 3)
    stream = Gate()
    handler = attach(logger, stream)
    logger.info("a")
    assert stream.reached.wait(TIMEOUT), "a is being written, so the queue is empty"
    for word in ("b", "c", "d", "lost", "lost"):
        logger.info(word)
    stream.open.set()
    until(lambda: stream.getvalue().count("\n") == 4)
    logger.info("e")
    logger.info("f")
    handler.close()
    *kept, marked, last = stream.getvalue().splitlines()
    assert kept == ["a", "b", "c", "d"]
    assert marked == "e (2 lines before it were lost: nobody read the log)"
    assert last == "f"


def test_lines_lost_at_the_end_are_counted_too(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing follows the gap, the log still says that there is one."""
    monkeypatch.setattr(log, "CAPACITY", 3)
    stream = Gate()
    handler = attach(logger, stream)
    logger.info("a")
    assert stream.reached.wait(TIMEOUT)
    for word in ("b", "c", "d", "lost", "lost"):
        logger.info(word)
    opener = threading.Timer(0.05, stream.open.set)
    opener.start()
    handler.close()
    text = stream.getvalue()
    opener.join()
    assert "2 lines" in text
    assert text.index("d\n") < text.index("2 lines")


def test_closing_waits_for_a_slow_reader_also_with_a_full_queue(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued is written if the reader comes back within a second."""
    monkeypatch.setattr(log, "CAPACITY", 3)
    stream = Gate()
    handler = attach(logger, stream)
    logger.info("a")
    assert stream.reached.wait(TIMEOUT)
    for word in ("b", "c", "d"):
        logger.info(word)
    opener = threading.Timer(0.05, stream.open.set)
    opener.start()
    handler.close()
    written = stream.getvalue()
    opener.join()
    assert written.splitlines() == ["a", "b", "c", "d"]


def test_closing_twice_is_closing_once(logger: logging.Logger) -> None:
    """Python closes handlers again at the end of the process."""
    stream = io.StringIO()
    handler = attach(logger, stream)
    logger.info("a")
    handler.close()
    handler.close()
    assert stream.getvalue() == "a\n"


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_a_reader_that_fails_does_not_end_the_log(
    logger: logging.Logger, error: type[Exception]
) -> None:
    """A broken pipe, a full disk, a closed file: the next line is tried again."""

    class Failing(io.StringIO):
        failed = False

        def write(self, text: str) -> int:
            if not self.failed:
                self.failed = True
                raise error
            return super().write(text)

    stream = Failing()
    handler = attach(logger, stream)
    logger.info("lost")
    logger.info("kept")
    handler.close()
    assert stream.getvalue() == "kept\n"


class Unprintable:
    """A value that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("message", "args"),
    [("%d", ("x",)), ("%s %s", ("x",)), ("no place", (1,)), ("%s", (Unprintable(),))],
)
def test_a_record_that_cannot_be_formatted_harms_no_caller(
    message: str, args: tuple[object, ...], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library's bad log call raises nothing in the library, and the log goes on."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.StringIO()
    handler = attach(logger, stream)
    logger.info(message, *args)
    logger.info("next")
    handler.close()
    assert stream.getvalue().splitlines()[-1] == "next"


# -- the whole process


def run(body: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a small program that logs as ours does."""
    program = f"import logging\nfrom kuwa_min import log\n{body}"
    command = [sys.executable, "-Werror", "-c", program]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, cwd=ROOT, check=False, text=True, encoding="utf-8", timeout=TIMEOUT, **options
    )


def test_the_log_goes_to_standard_error_in_one_format() -> None:
    """Time, level, module and message; levels below the chosen one are left out."""
    done = run(
        "log.configure('INFO')\n"
        "logging.getLogger('a.b').info('first\\nsecond')\n"
        "logging.getLogger('a.b').debug('no')\n"
        "logging.getLogger('asyncio').info('no')\n"
        "logging.getLogger('asyncio').warning('yes')\n",
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    found = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert [match and match.groups() for match in found] == [
        ("INFO", "a.b", r"first\nsecond"),
        ("WARNING", "asyncio", "yes"),
    ]


def test_configuring_again_replaces_the_handler() -> None:
    """No line is written twice."""
    done = run(
        "log.configure('INFO')\nlogging.info('a')\nlog.configure('DEBUG')\nlogging.debug('b')\n",
        capture_output=True,
    )
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["a", "b"]


def test_a_terminal_that_knows_only_ascii_gets_escapes() -> None:
    """No line is lost for its characters."""
    done = run(
        "log.configure('INFO')\nlogging.info('\\u540d')\n",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert done.stderr.endswith(" root: \\u540d\n")


@pytest.mark.parametrize("lines", [10, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", ["sleeps", "left"])
def test_the_process_ends_whatever_the_reader_of_its_log_does(lines: int, reader: str) -> None:
    """A pipe that is full, or broken, changes neither the end nor the exit code."""
    reading, writing = os.pipe()
    if reader == "left":
        os.close(reading)
    body = f"log.configure('INFO')\nfor n in range({lines}): logging.info('x' * 200)\nexit(7)"
    try:
        assert run(body, stderr=writing).returncode == 7
    finally:
        os.close(writing)
        if reader == "sleeps":
            os.close(reading)
