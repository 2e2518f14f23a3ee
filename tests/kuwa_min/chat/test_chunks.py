"""The typed pieces of an answer: their JSON is what Kuwa 0.4 sends, to the name."""

from __future__ import annotations

import json

import pytest

from kuwa_min.chat.chunks import (
    AudioURLChunk,
    BaseChunk,
    ExitCodeChunk,
    ImageURLChunk,
    LogChunk,
    LogLevel,
    ProgressChunk,
    RefusalChunk,
    TextChunk,
    is_rfc3339,
)

STAMP = "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("chunk", "recorded"),
    [
        (
            TextChunk("text chunk", [{"a": 1}]),
            '{"type": "text", "text": {"value": "text chunk", "annotations": [{"a": 1}]}}',
        ),
        (
            LogChunk("old stamp", timestamp=STAMP),
            f'{{"type": "log", "log": {{"text": "old stamp", "level": "INFO", '
            f'"timestamp": "{STAMP}"}}}}',
        ),
        (
            ProgressChunk(3, 10, "desc", "postfix"),
            '{"type": "progress", "progress": {"position": 3, "total": 10, "desc": "desc", '
            '"postfix": "postfix"}}',
        ),
        (RefusalChunk("I refuse"), '{"type": "refusal", "refusal": {"text": "I refuse"}}'),
        (ImageURLChunk("http://x/y.png"), '{"type": "image_url", "image_url": "http://x/y.png"}'),
        (AudioURLChunk("http://x/y.mp3"), '{"type": "audio_url", "audio_url": "http://x/y.mp3"}'),
        (ExitCodeChunk(1), '{"type": "exit_code", "exit_code": 1}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_chunk_is_written_as_kuwa_writes_it(chunk: BaseChunk, recorded: str) -> None:
    """A chunk's JSON is that of Kuwa 0.4."""
    assert json.dumps(chunk.__jsonencode__()) == recorded


def test_text_costs_its_characters_and_nothing_else_costs_anything() -> None:
    """Only text has a length of its own."""
    assert len(TextChunk("中文")) == 2
    assert len(LogChunk("中文")) == 0
    assert len(TextChunk("中文", cost=7)) == len(ProgressChunk(1, 2, cost=7)) == 7


def test_a_chunk_without_a_cost_is_true() -> None:
    """A falsy chunk would be taken for no chunk at all."""
    assert ExitCodeChunk(0)


@pytest.mark.parametrize("stamp", [None, "yesterday", "2026-01-02"])
def test_a_log_line_without_a_usable_timestamp_gets_the_current_time(stamp: str | None) -> None:
    """What is no timestamp is replaced by now."""
    assert is_rfc3339(LogChunk("text", LogLevel.ERROR, stamp).timestamp)


def test_own_chunks_must_say_how_they_are_written() -> None:
    """A subclass without JSON is named."""
    with pytest.raises(NotImplementedError, match="Own lacks __jsonencode__"):
        type("Own", (BaseChunk,), {})().__jsonencode__()
