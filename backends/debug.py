"""[Tool] Debugging executor. It will reflect the last input."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator

from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.chat.modelfile import Message
from kuwa_min.options import generation_options
from kuwa_min.options.generation_options import Option

REQUIRES: dict[str, str] = {}
OPTIONS = (Option("delay", float, 0.02, "seconds to wait after each character", least=0),)


class DebugExecutor(LLMExecutor):
    """Send the last message back, one character a piece."""

    uses_asyncio = False

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add --delay."""
        generation_options.add_arguments(parser, OPTIONS)

    def setup(self) -> None:
        """Read the options."""
        self.settings = generation_options.settings(OPTIONS, self.args)

    def reply(self, history: list[Message]) -> str:
        """Return the whole answer."""
        return history[-1]["content"] if history else ""

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield the answer's characters, with a pause after each."""
        options = generation_options.for_request(
            OPTIONS, self.settings, modelfile.parameters["llm_"]
        )
        delay: float = options["delay"]
        for character in self.reply(history):
            yield character
            if delay:
                await self.pause(delay)
