"""[Tool] Fetch a page of your own network and say how it begins."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import requests
from greeting import greet

from kuwa_min import LLMExecutor, Modelfile

WORDS = Path(__file__).with_name("lang") / "en.txt"


class FetchExecutor(LLMExecutor):
    """Say how a page begins; an example with a library, a module and a file of its own.

    docs/custom-executors.md packs it.
    """

    access_code = "fetcher"

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the page."""
        parser.add_argument("--page", default="http://127.0.0.1/", help="the address to fetch")

    async def llm_compute(
        self, history: list[dict[str, str]], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield a greeting and the first characters of the page."""
        yield greet(WORDS.read_text(encoding="utf-8"), history[-1]["content"])
        page = await asyncio.to_thread(requests.get, self.args.page, timeout=10)
        yield page.text[:200]


if __name__ == "__main__":
    FetchExecutor().run()
