"""Truncate a chat to the prompt limit, in blocks, so that consecutive turns share a prefix."""

# The strategy. Engines and services reuse what they computed for the beginning of a prompt. If a
# chat that has outgrown the limit lost its oldest exchange on each turn, every prompt would begin
# elsewhere and nothing could be reused. So the history is divided into blocks of exchanges, from
# its beginning on, and whole blocks are dropped.
#
# A block ends after an exchange once it has a quarter of the room, that is, of what the limit
# leaves to the history, and four exchanges; or fewer, if another one would exceed half the room. A
# turn whose prompt begins elsewhere than the last one's drops at least one block. So these are at
# most one turn in four, unless exchanges are longer than an eighth of the room.
#
# Where blocks end depends on the history up to there, the system prompt, the examples and the
# limit, and on nothing that is kept from one request to the next. So a restarted executor truncates
# alike, and a chat whose earlier messages were edited is truncated as if it had been so from the
# start. Estimates divide the blocks; whether a prompt fits is counted.

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence

from kuwa_min.errors import AnswerError

from .catalog import TOO_LONG
from .modelfile import Message
from .prompt import Prompt, assemble

MIN_SHARE, MAX_SHARE = 1 / 4, 1 / 2  # of the room, for a block
MIN_EXCHANGES = 4  # of a block


def fit(
    prompt: Prompt,
    *,
    length: Callable[[list[Message]], int],
    estimate: Callable[[Message], int],
    limit: int,
) -> list[Message]:
    """Return as many messages as fit into `limit`; raises AnswerError if the last one does not.

    length: counts a chat, in the unit of limit, and may be slow; estimate: says about how much a
    message adds to that. The oldest blocks of exchanges are dropped first, then the exchanges
    behind the last block, then the Modelfile's examples; the system prompt and the last message are
    kept.
    """
    sizes = [estimate(message) for message in prompt.history]
    fixed = sum(map(estimate, assemble(prompt, prompt.examples, len(prompt.history))))
    starts = _block_starts(prompt.history, sizes, limit - fixed)
    chats = [(prompt.examples, start) for start in starts] + [([], starts[-1])]

    def fits(at: int) -> bool:
        return length(assemble(prompt, *chats[at])) <= limit

    kept = list(itertools.accumulate(reversed(sizes), initial=fixed))[::-1]
    guess = next((at for at, start in enumerate(starts) if kept[start] <= limit), len(starts))
    first = _first(len(chats), fits, guess)
    if first == len(chats):
        raise AnswerError(TOO_LONG)
    return assemble(prompt, *chats[first])


def recent(history: list[Message], *, characters: int, messages: int) -> list[Message]:
    """Leave out the beginning of a history that is so long that not even the rest of it fits.

    characters, messages: so many of either fit into no prompt. A message of more characters is
    left out, and all before it. This divides a history from its beginning on, as fit() does, and
    counts nothing: so a request costs no more than its end does.
    """
    starts, share, longest = [0], 0.0, 0
    for at, message in enumerate(history):
        if share >= 1 and message["role"] == "user" and history[at - 1]["role"] != "user":
            starts = [at] if longest > characters else [*starts, at]
            share, longest = 0.0, 0
        length = len(message["content"].strip())
        share, longest = share + length / characters + 1 / messages, max(longest, length)
    start = starts[-2:][0]
    system = itertools.takewhile(lambda one: one["role"] == "system", history[:start])
    return [*system, *history[start:]]


def _block_starts(history: list[Message], sizes: Sequence[int], room: int) -> list[int]:
    """Return where a truncated history may begin: at each block, or in what follows the last."""
    exchanges = [at for at, message in enumerate(history) if message["role"] == "user"]
    starts, size, count = exchanges[:1], 0, 0
    for start, end in itertools.pairwise(exchanges):
        size, count = size + sum(sizes[start:end]), count + 1
        is_full = count >= MIN_EXCHANGES or size + size / count > MAX_SHARE * room
        if is_full and size >= MIN_SHARE * room:
            starts.append(end)
            size = count = 0
    return [*starts, *(start for start in exchanges if start > starts[-1])]


def _first(count: int, fits: Callable[[int], bool], guess: int) -> int:
    """Return the first of `count` that fits, or count; all behind it do. Asks near a guess first.

    So, a good guess takes two calls.
    """
    low, high = (0, guess) if fits(guess) else (guess + 1, count)
    if low < high:
        near = high - 1 if high == guess else low
        low, high = (low, near) if fits(near) else (near + 1, high)
    return bisect.bisect_left(range(count), True, low, high, key=fits)
