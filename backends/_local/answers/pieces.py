"""The pieces of one answer as they are generated: text, thoughts, signs of life, side notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends._local.request import Request
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import LogprobsChunk, Piece, ThoughtChunk
from kuwa_min.chat.thinking.signs import SignsOfLife

from .logprobs import named


def pieces(request: Request, token_bytes: Sequence[bytes] = ()) -> Iterator[Piece]:
    """Yield the pieces of a submitted request; blocks the request's thread until each comes.

    token_bytes: of all tokens, where log probabilities are wanted. Raises the error that ended the
    generation.
    """
    signs = SignsOfLife(request.options["thinking_tokens"])
    while not request.drained:
        text = request.next_text(signs.interval)  # "" at the end
        if thought := request.take_thought():
            yield ThoughtChunk(thought)
        if text:
            yield _with_logprobs(text, request, token_bytes)
        elif request.is_thinking and not (thought or request.drained):
            yield signs.sign(request.completion_tokens)
    if not request.cancelled:
        if request.is_only_thought:
            yield catalog.ONLY_THOUGHT
        yield from filter(None, (*request.side_notes, request.prompt_note))


def _with_logprobs(text: str, request: Request, token_bytes: Sequence[bytes]) -> Piece:
    """Return a text, with the log probabilities of its tokens if they are wanted."""
    tokens = request.logprobs.take() if request.logprobs else []
    return LogprobsChunk(text, named(tokens, token_bytes)) if tokens else text
