"""See that forked processes end and are waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def forked_children_end() -> Iterator[list[int]]:
    """Give the ids of the processes forked meanwhile; none may be left afterwards.

    Other children of this process, such as a server that several tests share, do not count.
    """
    children: list[int] = []
    fork = os.fork

    def noted() -> int:
        children.append(fork())
        return children[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", noted)
        yield children
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
