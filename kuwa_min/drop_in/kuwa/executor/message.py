"""The typed pieces of an answer."""

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
)

__all__ = [
    "AudioURLChunk",
    "BaseChunk",
    "ExitCodeChunk",
    "ImageURLChunk",
    "LogChunk",
    "LogLevel",
    "ProgressChunk",
    "RefusalChunk",
    "TextChunk",
]
