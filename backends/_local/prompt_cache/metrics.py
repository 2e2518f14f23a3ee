"""Report the prompt cache to /status and /metrics."""

from __future__ import annotations

from functools import partial

from kuwa_min import LLMExecutor

from .cache import PromptCache

METRICS = {
    "entries": "Parked chats in memory.",
    "bytes": "Bytes of parked chats.",
    "hits_total": "Chats that began from a parked one.",
    "restored_tokens_total": "Prompt tokens that were restored instead of being read.",
}


def report(executor: LLMExecutor, cache: PromptCache) -> None:
    """Let an executor's /status and /metrics say what the prompt cache holds and saves."""
    executor.describe(prompt_cache=cache.facts)
    for name, text in METRICS.items():
        fact = name.removesuffix("_total")
        executor.measure(f"prompt_cache_{name}", text, partial(cache.fact, fact))
