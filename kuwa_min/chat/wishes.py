"""What a client may ask for that Kuwa's forms and Modelfiles have no words for. No I/O."""

from __future__ import annotations

from typing import NamedTuple


class Wishes(NamedTuple):
    """What a client of OpenAI's protocol asks of an executor; a chat of a Kernel has none.

    thoughts_apart: thoughts are yielded as ThoughtChunk, whatever --thinking says. raw_prompt: the
    only message is the prompt itself, which no template renders.
    """

    thoughts_apart: bool = False
    raw_prompt: bool = False


NO_WISHES = Wishes()
