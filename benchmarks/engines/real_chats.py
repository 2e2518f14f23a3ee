"""Ask a real model over HTTP, where a token is no character: servers count them."""

import random
import re
import urllib.request
from collections.abc import Sequence

from engines.llama_engines import LlamaServer, OursWithLlama
from harness.answer import Answer, EventAnswer, completion_request, form_request
from harness.contestants import slot_path
from harness.process import HOST

WORDS = (
    *("river", "lantern", "copper", "window", "basket", "winter", "engine", "garden", "silver"),
    *("letter", "harbour", "kitchen", "mountain", "ticket", "shadow", "bottle", "orange"),
)

_dice = random.Random(1)


def question(words: int) -> str:
    """Return a new question whose answer is long; a word is a token or two."""
    return f"Tell me a long story about {' '.join(_dice.choices(WORDS, k=words))}."


class Text(Answer):
    """A whole answer of any length."""

    def complete(self) -> bool:
        """Say whether it came to its end, with some text in it."""
        return bool(self.said())


class EventText(EventAnswer):
    """The same in server-sent events."""

    def complete(self) -> bool:
        """Say whether it came to its end, with some text in it."""
        return bool(self.said())


class RealOurs(OursWithLlama):
    """Ours with a real model."""

    counter = "output_tokens_total"  # the end of the metric's name

    def chat(self, slot: int, said: Sequence[str], tokens: int, **options: object) -> Answer:
        """Ask for this many tokens in a slot."""
        wanted = {self.length_option: tokens, **options}
        return Text(self.port, form_request(slot_path(slot), said, **wanted), tokens)


class RealServer(LlamaServer):
    """llama.cpp's own server with a real model."""

    counter = "tokens_predicted_total"

    def chat(self, slot: int, said: Sequence[str], tokens: int) -> EventAnswer:
        """Ask for this many tokens; the server itself chooses the slot."""
        request = completion_request(self.model, said, max_tokens=tokens, temperature=0)
        return EventText(self.port, request, tokens)


Engine = RealOurs | RealServer


def written(engine: Engine) -> int:
    """Return how many tokens a server has written since its start, by its own metrics."""
    with urllib.request.urlopen(f"http://{HOST}:{engine.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if re.match(rf"\w+{engine.counter}\b", line.replace(":", "_"))]
    return int(float(counts[0].rpartition(" ")[2]))
