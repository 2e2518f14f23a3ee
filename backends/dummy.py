"""[Tool] Dummy executor. It will reply fixed message regardless of the user prompt."""

from __future__ import annotations

from kuwa_min.chat.modelfile import Message

from .debug import DebugExecutor

REQUIRES: dict[str, str] = {}
TEXT = """Hello! I am the dummy executor: whatever you ask, this is what I say.
<<<WARNING>>>This is a side note: text for the person that is not part of the answer.<<</WARNING>>>
您好！無論您問什麼，我都會這樣回答。
<<<WARNING>>>這是另一則附註：它不屬於回答本身。<<</WARNING>>>
If you can read this line, the whole way from the model to your screen works.
"""


class DummyExecutor(DebugExecutor):
    """Send a fixed text with two side notes, one character a piece."""

    def reply(self, history: list[Message]) -> str:
        """Return the fixed text, whatever was said."""
        return TEXT
