"""A custom executor that does what the last message says; run as a program of its own.

The message is JSON: {"name", "pieces", "pause"}; its pieces are text, or lists of a kind and the
arguments of a chunk. ["wait", file] waits until the file exists, ["raise", kind, text] fails. When
it begins and ends, a line goes to the file of --journal: "begin NAME SECONDS". A message that is no
JSON is answered by the roles of the history: "ua" for user and assistant.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kuwa_min import LLMExecutor
from kuwa_min.chat import chunks
from kuwa_min.errors import AnswerError

CHUNKS: dict[str, Any] = {
    "log": lambda text, level: chunks.LogChunk(text, chunks.LogLevel[level]),
    "progress": chunks.ProgressChunk,
    "refusal": chunks.RefusalChunk,
    "exit_code": chunks.ExitCodeChunk,
}


class ScriptedExecutor(LLMExecutor):
    """Yield the pieces of a script."""

    def extend_arguments(self, parser: Any) -> None:
        """Add --journal."""
        parser.add_argument("--journal", type=Path, required=True)

    async def llm_compute(self, history: list[dict[str, str]], modelfile: Any) -> Any:
        """Do what the last message says."""
        last = history[-1]["content"]
        if not last.startswith("{"):
            yield "".join(message["role"][0] for message in history)
            return
        script = json.loads(last)
        name = script.get("name", "-")
        self._note("begin", name)
        try:
            for piece in script["pieces"]:
                if isinstance(piece, str):
                    self._note("piece", name)
                    yield piece
                elif piece[0] == "wait":
                    while not Path(piece[1]).exists():
                        await self.pause(0.005)
                elif piece[0] == "raise":
                    raise (AnswerError if piece[1] == "answer" else RuntimeError)(piece[2])
                else:
                    yield CHUNKS[piece[0]](*piece[1:])
                await self.pause(script.get("pause", 0))
        finally:
            self._note("end", name)

    def _note(self, what: str, name: str) -> None:
        with self.args.journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{what} {name} {time.monotonic():.6f}\n")


if __name__ == "__main__":
    ScriptedExecutor().run()
