"""An executor whose answers a soak can foresee: the last message says what to do.

"short 20": so many pieces at once. "long 300": slowly. "silent 2": after so many seconds.
"blocking 2": after tenths of a second that stop the event loop. What follows is ballast.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from kuwa_min import LLMExecutor

PIECE = "字 and letters, "
PAUSE = 0.01  # seconds between two pieces of a long answer


def answer(kind: str, number: int) -> str:
    """Return the whole answer."""
    return PIECE * (number if kind in ("short", "long") else 1)


class ScriptedExecutor(LLMExecutor):
    """Answer as the message says."""

    access_code = "scripted"

    async def llm_compute(self, history: list[dict[str, str]], modelfile: Any) -> Any:
        """Yield the pieces, with their pauses."""
        kind, number, *_ = history[-1]["content"].split(maxsplit=2)
        count = int(number)
        if kind == "silent":
            await asyncio.sleep(count)
        elif kind == "blocking":
            time.sleep(count / 10)
        for _ in range(count if kind in ("short", "long") else 1):
            yield PIECE
            if kind == "long":
                await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    ScriptedExecutor().run()
