"""Errors of a command line: one line, and no key of it."""

from __future__ import annotations

import sys

import pytest

from kuwa_min import cli

KEY = "sk-operator-0123456789"
LINES = (
    ("debug", "--apikey", KEY),
    ("debug", f"--api-key={KEY}"),
    ("debug", "--api_key=short-one"),
    ("debug", KEY),
    ("debug", "--port", KEY),
    ("debug", "--wire", KEY),
    ("debug", "--kernel_url", f"http://me:{KEY}@one.test/"),
    ("kernel", "--api_key", "short-one"),
    ("verify", "--api_key", "short-one"),
    ("cache", "--token=short-one"),
    ("--api_key", "short-one", "debug"),
    (KEY,),
    ("--api_key=short-one\nforged",),
)


@pytest.mark.parametrize("words", LINES)
def test_no_error_repeats_a_key(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with the line, and whichever parser finds it."""
    monkeypatch.setattr(sys, "argv", ["kuwa.pyz", *words])
    try:
        code = cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    error = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "error: " in error[-1]
    assert not [line for line in error if KEY in line or "short-one" in line or "forged" in line]
