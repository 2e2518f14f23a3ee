"""A custom executor to start from: it says your words back in capitals, one after the other.

    kuwa-executor examples/my_executor.py --access_code shout --pause 0.5

Replace the body of `llm_compute` with your model. Everything else (HTTP, the Kernel, stopping, the
log, metrics) is done for you.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import AsyncGenerator

from kuwa_min import LLMExecutor, Modelfile


class MyExecutor(LLMExecutor):
    """Say everything louder."""

    # The name under which the Kernel knows this executor, unless --access_code gives another one.
    access_code = "shout"

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add options of your own; --help shows them beside the general ones."""
        parser.add_argument("--pause", type=float, default=0.1, help="seconds between two words")

    def setup(self) -> None:
        """Load the model here: `self.args` is ready, and chats are refused until this returns."""

    async def llm_compute(
        self, history: list[dict[str, str]], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield the answer's text piece by piece, as soon as you have it.

        history: [{"role": "user" | "assistant", "content": text}], the oldest first.
        modelfile: what the bot's author asked for; `PARAMETER llm_pause 0.5` arrives as the number
        0.5 in modelfile.parameters["llm_"]["pause"], the system prompt as override_system_prompt.
        """
        stopped = threading.Event()
        self.on_stop(stopped.set)  # the user pressed "stop", or closed the page
        pause = modelfile.parameters["llm_"].get("pause", self.args.pause)
        for word in history[-1]["content"].split():
            yield word.upper() + " "
            # This wait stands for a library that computes without ever giving way. A part that can
            # give way (`await asyncio.sleep(pause)`) is stopped for you and needs no on_stop().
            if stopped.wait(pause):
                return


if __name__ == "__main__":
    MyExecutor().run()
