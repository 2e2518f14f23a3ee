"""The prefill budget: how many prompt tokens a step computes, by the measured speed."""

# The strategy. A prefill keeps the sequences that are decoding waiting, and a cancel too, so that
# a step prefills as much as takes TARGET_SECONDS: the speed of each prefill sets the next one's
# size. The more requests wait for each one that is decoding, the longer a prefill may take: the
# work is the same whenever it is done, so the decoding ones lose an even flow only, and the waiting
# ones start sooner. While none is decoding, only a request that is yet to come waits, and where a
# prefill can be aborted it may take longer, too: large ones are faster. split_budget() then divides
# the budget among the prompts.

from __future__ import annotations

from collections.abc import Sequence

TARGET_SECONDS = 0.1  # that a prefill should take
MIN_TOKENS = 32  # of a step's prefill; fewer say little about the speed
FIRST_TOKENS = 256  # of the first prefill, before the speed is known
BEGIN_SECONDS = 0.02  # of a step: then no further request begins, as copying states takes a while
MAX_PRESSURE = 8  # times TARGET_SECONDS at most
FIXED_CHUNK = 256  # tokens of a step's prefill where it must not depend on the speed


class PrefillBudget:
    """The number of tokens to prefill in a step; max_tokens: the limit of one computation.

    undisturbed: times TARGET_SECONDS that a prefill may always take while no request is decoding.
    """

    def __init__(self, max_tokens: int, *, undisturbed: int = 1) -> None:
        self._max_tokens, self._undisturbed = max_tokens, undisturbed
        self._tokens = min(FIRST_TOKENS, max_tokens)

    def tokens(self, *, waiting: int, decoding: int) -> int:
        """Return the budget of this step, given the numbers of waiting and decoding requests."""
        pressure = queue_pressure(waiting=waiting, decoding=decoding)
        return self._tokens * (pressure if decoding else max(pressure, self._undisturbed))

    def record(self, tokens: int, seconds: float) -> None:
        """Adapt to the speed of a prefill."""
        if tokens >= MIN_TOKENS:
            target = int(tokens / max(seconds, 1e-6) * TARGET_SECONDS)
            self._tokens = max(MIN_TOKENS, min(self._max_tokens, target, 2 * self._tokens))

    def tokens_in(self, seconds: float) -> int:
        """Return how many tokens are prefilled in this time."""
        return int(self._tokens * seconds / TARGET_SECONDS)


def queue_pressure(*, waiting: int, decoding: int) -> int:
    """Return the factor by which waiting requests raise the budget: 1 to MAX_PRESSURE.

    1 as long as no more wait than are decoding, then about 2 for each that waits beside one that is
    decoding: so eight that come together are prefilled in two steps or three.
    """
    return min(max(1, (2 * waiting - 1) // max(1, decoding)), MAX_PRESSURE)


def split_budget(tokens: int, remaining: Sequence[int]) -> list[int]:
    """Divide a budget among prompts in order of arrival; remaining: tokens left of each.

    The first prompt gets half, so that later ones cannot starve it. The rest goes to the shortest
    ones first, so that a short prompt does not wait for a long one.
    """
    split = [0] * len(remaining)
    shortest_first = sorted(range(len(remaining)), key=remaining.__getitem__)
    for at, most in ((0, -(-tokens // 2)), *((at, tokens) for at in shortest_first)):
        if at < len(remaining):
            split[at] += min(most, remaining[at] - split[at], tokens - sum(split))
    return split
