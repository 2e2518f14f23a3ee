"""Tokens of /v1: where they come from, and what the operator is told of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.log import redaction
from kuwa_min.serving.openai_api.access import read_tokens

TOKEN, OTHER = "a-token-of-the-operator", "another-token-of-theirs"


def test_tokens_come_from_options_and_a_file(tmp_path: Path) -> None:
    """One a line, without comments; none of them can stand in the log."""
    file = tmp_path / "tokens"
    file.write_text(f"\ufeff# of the editors\n\n {OTHER} \r\n", encoding="utf-8")
    assert read_tokens([TOKEN], str(file)) == [TOKEN, OTHER]
    assert read_tokens([], None) == []
    assert redaction.clean(f"{TOKEN} {OTHER}") == "*** ***"


@pytest.mark.parametrize("token", ["", "two words", "tök", "x" * 5000])
def test_what_cannot_be_a_token_is_refused(token: str, tmp_path: Path) -> None:
    """Without being shown, whether it is an option or in a file."""
    file = tmp_path / "tokens"
    file.write_text(token, encoding="utf-8")
    for given, path in (([token], None), ([], str(file))):
        with pytest.raises(UsageError) as refused:
            read_tokens(given, path)
        assert "token" in str(refused.value)
        assert not token or token not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(UsageError, match=r"nothing cannot be read: No such file"):
        read_tokens([], str(tmp_path / "nothing"))


def test_a_token_that_may_be_guessed_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It works all the same."""
    with caplog.at_level(logging.WARNING):
        assert read_tokens([TOKEN], None) == [TOKEN]
        assert not caplog.records
        assert read_tokens(["short"], None) == ["short"]
    assert "may be guessed" in caplog.text
