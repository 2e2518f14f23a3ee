"""What a client may ask for that Kuwa's forms and Modelfiles have no words for. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class RequestExtras(NamedTuple):
    """What a client of OpenAI's protocol, or our chat page, asks; other chats have NO_EXTRAS.

    separate_thoughts: yield thoughts as ThoughtChunk, whatever --thinking says. raw_prompt: the
    only message is the prompt itself, which no template renders. tools: functions that the chat
    template is to tell the model, as a request has them. logprobs: yield text as LogprobsChunk,
    with this many alternatives to each of its tokens; None: yield plain text.
    """

    separate_thoughts: bool = False
    raw_prompt: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    logprobs: int | None = None


NO_EXTRAS = RequestExtras()
