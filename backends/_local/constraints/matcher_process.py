"""The process that computes masks with llguidance: start it, and open a matcher for each answer.

llguidance holds Python's lock for seconds while it reads a large vocabulary, and bounds neither
the time nor the memory that a schema takes to compile, which bots write. So it runs in a process of
its own, which forks one for each answer: a schema that takes too long ends that answer only.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from kuwa_min.chat.sentence import Sentence
from kuwa_min.errors import describe
from kuwa_min.options.constraint import Constraint

from . import child
from .matcher import Matcher
from .sentences import (
    CANNOT_BE_USED,
    NO_MATCHER,
    NO_TOKEN_TEXTS,
    TOO_LONG_TO_COMPILE,
)

logger = logging.getLogger(__name__)

START_SECONDS = 120.0  # to read a vocabulary, on a busy machine
SLACK_SECONDS = 10.0  # for the end of a process that computed too long
LONGEST_REASON = 300  # characters
QUOTED = re.compile(r"\n +\d+ \| .*|<non-verbose/>", re.DOTALL)  # lines of the grammar, numbered
# A place in the grammar that the child writes around a schema or an expression.
PREFIX = re.compile(r"\Aat \d+\(\d+\): (?=failed to compile JSON|invalid regex)")
NO_MATCH = "NoExtension"  # begins llguidance's message about what no text matches
SOURCE = str(child.__spec__.loader.get_source(child.__name__))  # type: ignore[union-attr]
PYTHON_OPTIONS = ("-I", "-S", "-B", "-c")  # as the sandbox of templates has them
KEPT_VARIABLES = ("LD_LIBRARY_PATH",)


class ConstraintError(Exception):
    """Report that a constraint cannot be used; holds a Sentence for the gap of OPTION_REASON."""

    def __init__(self, sentence: Sentence) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Vocabulary(NamedTuple):
    """The tokens of a model.

    tokens: the bytes of their texts, by their ids; special: the ids of those that are no text.
    """

    tokens: list[bytes]
    special: Collection[int]


class MatcherProcess:
    """Opens matchers for answers; any thread. The process starts with the first one.

    read: returns the model's vocabulary, None if its texts are not known; called at each start of
    the process: the first, and one after it was killed.
    """

    def __init__(self, read: Callable[[], Vocabulary | None]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._size = 0  # of the vocabulary, in tokens

    def open(self, constraint: Constraint) -> Matcher:
        """Return the matcher of a constraint; raises ConstraintError if it cannot be used."""
        if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
            raise ConstraintError(NO_MATCHER.format("os.fork"))
        ours = self._connect()
        try:
            ours.settimeout(child.COMPILE_SECONDS + SLACK_SECONDS)
            child.write_message(ours, json.dumps(constraint._asdict()).encode())
            reason = child.read_message(ours).decode("utf-8", "replace")
        except (EOFError, OSError):
            ours.close()
            limits = child.COMPILE_SECONDS, child.MEMORY >> 20
            raise ConstraintError(TOO_LONG_TO_COMPILE.format(*limits)) from None
        if reason:
            ours.close()
            raise ConstraintError(CANNOT_BE_USED.format(_one_line(reason)))
        return Matcher(ours, self._size)

    def _connect(self) -> socket.socket:
        """Return a socket to a new process for one answer; start the first process if need be."""
        with self._lock:
            for _ in range(2):
                control = self._control or self._start()
                ours, theirs = socket.socketpair()
                try:
                    with theirs:
                        socket.send_fds(control, [b"\0"], [theirs.fileno()])
                    return ours
                except OSError:  # it was killed
                    ours.close()
                    self._stop()
        raise ConstraintError(NO_MATCHER.format("fork"))

    def _start(self) -> socket.socket:
        """Start the process and send it the vocabulary; raises ConstraintError."""
        folder = _library_folder()
        vocabulary = self._read()
        if vocabulary is None:
            raise ConstraintError(NO_TOKEN_TEXTS)
        control, theirs = socket.socketpair()
        self._control = control
        try:
            with theirs:
                self._process = process = _run(theirs)
            atexit.register(self.close)
            control.settimeout(START_SECONDS)
            reason = _send(control, vocabulary, folder)
        except (EOFError, OSError) as error:
            reason = describe(error)
        if reason:
            self._stop()
            raise ConstraintError(NO_MATCHER.format(_one_line(reason)))
        self._size = len(vocabulary.tokens)
        logger.info("answers can be constrained, by process %d", process.pid)
        return control

    def _stop(self) -> None:
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()
            atexit.unregister(self.close)

    def close(self) -> None:
        """End the process; those of answers end with their matchers."""
        with self._lock:
            self._stop()


def _run(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process, with a socket as its standard input."""
    return subprocess.Popen(
        [sys.executable, *PYTHON_OPTIONS, SOURCE],
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        start_new_session=True,  # Ctrl+C must not reach it: it ends with us
    )


def _send(control: socket.socket, vocabulary: Vocabulary, folder: str) -> str:
    """Send the vocabulary; return what is wrong, "" if nothing is."""
    setup = {"path": [folder], "special": sorted(vocabulary.special)}
    for data in (
        json.dumps(setup).encode(),
        array("I", map(len, vocabulary.tokens)).tobytes(),
        b"".join(vocabulary.tokens),
    ):
        child.write_message(control, data)
    return child.read_message(control).decode("utf-8", "replace")


def _library_folder() -> str:
    """Return the folder that llguidance is imported from; raises ConstraintError."""
    found = importlib.util.find_spec("llguidance")
    if found is None or found.origin is None:
        raise ConstraintError(NO_MATCHER.format("llguidance"))
    return str(Path(found.origin).parents[1])


def _one_line(reason: str) -> str:
    """Return what llguidance says, without the grammar that it quotes."""
    if reason.startswith(NO_MATCH):
        return "nothing matches it"
    line = " ".join(PREFIX.sub("", QUOTED.sub("", reason)).split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."
