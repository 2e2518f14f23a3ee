"""Choose what a step computes: whose tokens, and how many of each prompt."""

# Adapters (LoRA) belong to a context, not to a sequence, so that a step computes sequences with the
# same ones only, and llama.cpp builds its graphs anew where the next step has others: on a
# processor that takes about half the time of a small model's token. So the groups of sequences with
# the same adapters take turns of TURN_STEPS steps, and all get as many tokens. Where steps are slow
# a turn is a single one, so that no chat waits long.

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from backends._local.prefill_budget import PrefillBudget, split_budget
from backends._local.sequence import Sequence
from backends.llamacpp.sampler import Sampler
from backends.llamacpp.vision.steps import next_chunk

LlamaSequence = Sequence[Sampler]
Plan = list[tuple[LlamaSequence, list[int]]]  # the tokens to compute of each sequence

TURN_STEPS, TURN_SECONDS = 4, 0.05  # a turn ends after either, if others wait for theirs


class AdapterTurns:
    """Chooses with which adapters the next step computes."""

    def __init__(self) -> None:
        self._current, self._steps, self._began = "", 0, 0.0
        self._turns: dict[str, int] = {}  # running choice -> number of its last turn
        self._count = 0

    def choose(self, running: Collection[str]) -> str:
        """Return the choice of the next step; running: those of all sequences, at least one."""
        if len(running) > 1 or self._current not in running:
            self._take_turns(running)
        self._steps += 1
        return self._current

    def _take_turns(self, running: Collection[str]) -> None:
        """Go on to the choice whose last turn is longest ago, unless this one goes on."""
        is_over = self._steps >= TURN_STEPS or time.monotonic() - self._began > TURN_SECONDS
        if self._current in running and not is_over:
            return
        self._turns = {one: self._turns.get(one, 0) for one in running}
        self._current = min(running, key=self._turns.__getitem__)
        self._count += 1
        self._turns[self._current] = self._count
        self._steps, self._began = 0, time.monotonic()


class StepPlanner:
    """Plans steps of llama_decode() within a budget; slots: all that a step may decode."""

    def __init__(self, budget: PrefillBudget, *, batch_tokens: int, slots: int) -> None:
        self._budget, self._turns = budget, AdapterTurns()
        self._most = batch_tokens - slots  # every slot's decode step has room beside the chunks

    def plan(
        self, decoding: Iterable[LlamaSequence], prefilling: Iterable[LlamaSequence], waiting: int
    ) -> Plan:
        """Return the tokens to compute, in ascending order of slots.

        waiting: the number of requests that have no slot yet.
        """
        decoding, prefilling = list(decoding), list(prefilling)
        waiting += len(prefilling)
        budget = self._budget.tokens(waiting=waiting, decoding=len(decoding))
        choice = self._turns.choose(dict.fromkeys(one.adapters for one in (*decoding, *prefilling)))
        prefilling = [one for one in prefilling if one.adapters == choice]
        plan = [(one, [one.next_token]) for one in decoding if one.adapters == choice]
        sizes = split_budget(max(1, min(budget, self._most)), [one.remaining for one in prefilling])
        plan += [
            (one, next_chunk(one, size))
            for one, size in zip(prefilling, sizes, strict=True)
            if size
        ]
        return sorted(plan, key=lambda entry: entry[0].slot)
