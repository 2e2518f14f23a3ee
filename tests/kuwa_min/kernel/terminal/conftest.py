"""What all tests of the terminal need."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read English sentences, whatever the language of this machine."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
