"""Compute many chats at once with llama.cpp: they join and leave any time.

Each step is one computation: a token for every chat that is being answered, and beside them a part
of the prompts that wait. A row keeps what it holds: the chat's next turn goes on from there.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque

from kuwa_min.errors import AnswerError, describe
from kuwa_min.sentences import OUT_OF_MEMORY

from . import _chat, _rows
from ._llama_context import LlamaContext, Part, Stopped
from ._llama_model import LlamaModel
from ._llama_sampling import Sampler, choose
from ._pace import Pace, shares
from ._request import Request

logger = logging.getLogger(__name__)


class Chat(_chat.Chat):
    """A chat with the number of its row and what chooses its tokens."""

    sampler: Sampler

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row


class LlamaBatch:
    """As many chats as the context has rows."""

    def __init__(self, model: LlamaModel, context: LlamaContext) -> None:
        self._model, self._context = model, context
        self._pace = Pace(context.most)
        self._chats = [Chat(row) for row in range(len(context.ends))]
        self._waiting: deque[Request] = deque()
        self._reading: list[Chat] = []  # whose prompts are being read, in the order they came
        self._answered: list[Chat] = []
        self._computed: tuple[Request, ...] = ()
        several = len(self._chats) > 1
        self.description = f"{len(self._chats)} at once" if several else "one at a time"

    # -- what the engine asks

    def has_room(self) -> bool:
        """Tell whether another request can begin."""
        begun = len(self._answered) + len(self._reading)
        return begun + len(self._waiting) < len(self._chats)

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""
        return bool(self._answered or self._reading or self._waiting)

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""
        request.on_cancel = self._interrupt_if_unwanted
        self._waiting.append(request)

    def drop(self) -> None:
        """Forget everything: the requests were ended."""
        self._waiting.clear()
        self._reading, self._answered = [], []
        self._chats = [Chat(chat.row) for chat in self._chats]
        self._context.clear()

    def step(self) -> None:
        """Read a part of the prompts that wait, and compute a token for every other chat."""
        self._release_the_stopped()
        for _ in range(len(self._waiting)):
            request = self._waiting.popleft()
            if self._is_read_for_another(request):
                self._waiting.append(request)  # at the next step that can be copied
            else:
                self._begin(request)
        if not (self._reading or self._answered):
            return
        try:
            self._compute(self._plan())
        except Stopped:
            return  # nobody wants it: the next step releases them

    def _release_the_stopped(self) -> None:
        for chat in [*self._answered, *self._reading]:
            if chat.request.over:
                self._end(chat)
        stopped = [request for request in self._waiting if request.over]
        for request in stopped:
            self._waiting.remove(request)
            request.finish()

    def _end(self, chat: Chat, error: Exception | None = None) -> None:
        """End a chat; its row is kept for whoever goes on from there."""
        chat.request.finish(error)
        for chats in (self._answered, self._reading):
            if chat in chats:
                chats.remove(chat)
        chat.release()

    # -- beginning

    @property
    def _least(self) -> int:
        """Return how many tokens must agree before copying them is faster than reading them."""
        copying = self._context.copying
        return sys.maxsize if copying is None else self._pace.tokens_in(copying)

    def _is_read_for_another(self, request: Request) -> bool:
        """Tell whether what a prompt begins with is just being read, such as a system prompt."""
        wanted = request.prompt[:-1]
        known = max(_rows.common(chat.tokens, wanted) for chat in self._chats)
        soon = (_rows.common(chat.request.prompt, wanted) for chat in self._reading)
        return max(soon, default=0) >= known + max(self._least, _rows.LEAST)

    def _begin(self, request: Request) -> None:
        """Find a row for a request, with as much of its prompt as any row knows."""
        start = _rows.choose(self._chats, request.prompt, can_grow=False, least=self._least)
        assert start.row is not None  # has_room() said that one is idle
        chat = self._chats[self._chats.index(start.row)]
        chat.sampler = Sampler(request.options, self._model.vocabulary)
        known = self._know(chat, start)
        chat.begin(request, self._model, known=known, wanted=_wanted(request))
        self._reading.append(chat)

    def _know(self, chat: Chat, start: _rows.Start) -> int:
        """Let a row hold the beginning of a prompt and nothing else; return how much that is."""
        if start.source is None:
            return self._context.forget(chat.row, start.known)
        source = self._chats[self._chats.index(start.source)]
        return self._context.copy(source.row, chat.row, start.known)

    # -- computing

    def _plan(self) -> list[tuple[Chat, list[int]]]:
        """Return what to compute of which chat, in the order of their rows."""
        plan = [(chat, [chat.next_token]) for chat in self._answered]
        waiting = len(self._reading) + len(self._waiting)
        left = self._pace.tokens(waiting=waiting, answered=len(self._answered))
        left = max(1, min(left, self._context.most - len(self._chats)))  # the others have room
        parts = shares(left, [chat.unread for chat in self._reading])
        plan += [
            (chat, chat.next_part(most))
            for chat, most in zip(self._reading, parts, strict=True)
            if most
        ]
        return sorted(plan, key=lambda one: one[0].row)

    def _compute(self, plan: list[tuple[Chat, list[int]]]) -> None:
        """Compute the plan, and say what comes of it; what fails is tried chat by chat."""
        try:
            self._compute_together(plan)
        except (MemoryError, RuntimeError) as error:
            logger.debug("computing %d chats failed: %s", len(plan), describe(error))
            self._look_what_is_left()
            if len(plan) == 1:
                no_memory = isinstance(error, MemoryError)
                self._end(plan[0][0], AnswerError(OUT_OF_MEMORY) if no_memory else error)
                return
            for chat, tokens in plan:
                part = chat.next_part(len(tokens)) if chat in self._reading else tokens
                self._compute([(chat, part)])

    def _look_what_is_left(self) -> None:
        """Let chats whose rows were emptied read again what these held."""
        for chat in self._chats:
            left = self._context.ends[chat.row]
            if left == len(chat.tokens):
                continue
            if chat in self._answered:
                chat.read_again(left)
                self._answered.remove(chat)
                self._reading.append(chat)
            else:
                chat.tokens = chat.tokens[:left]

    def _compute_together(self, plan: list[tuple[Chat, list[int]]]) -> None:
        if self._reading:
            for chat in self._answered:
                chat.request.flush()  # this may take long
        parts = [Part(chat.row, tokens, len(tokens) >= chat.unread) for chat, tokens in plan]
        started = time.monotonic()
        self._computed = tuple(chat.request for chat, _ in plan)
        self._context.go_on()
        self._interrupt_if_unwanted()
        try:
            outcome = self._context.compute(parts)
        finally:
            self._computed = ()
        for chat, tokens in plan:
            chat.tokens += tokens
        if self._reading:
            count = sum(len(part.tokens) for part in parts)
            self._pace.learn(count, time.monotonic() - started)
        asked = [chat for (chat, _), part in zip(plan, parts, strict=True) if part.is_wanted]
        self._say_all(asked, choose(self._context, outcome, [chat.sampler for chat in asked]))

    def _interrupt_if_unwanted(self) -> None:
        """Stop what is being computed if nobody waits for it any more; from any thread."""
        computed = self._computed
        if computed and all(request.over for request in computed):
            self._context.interrupt()

    # -- answering

    def _say_all(self, chats: list[Chat], tokens: list[int | AnswerError]) -> None:
        """Add tokens to the chats' answers, which may begin or end with them."""
        spoiled = []
        for chat, token in zip(chats, tokens, strict=True):
            if isinstance(token, AnswerError):
                spoiled.append(chat.row)
                self._end(chat, token)
            else:
                self._say(chat, token)
        if spoiled:
            self._context.scrub(spoiled)
            self._look_what_is_left()

    def _say(self, chat: Chat, token: int) -> None:
        if chat in self._reading:
            self._reading.remove(chat)
            self._answered.append(chat)
        try:
            is_last = chat.say(token)
        except Exception as error:  # noqa: BLE001 - what is said is only this chat's
            self._end(chat, error)
            return
        if is_last:
            self._end(chat)


def _wanted(request: Request) -> int | None:
    """Return how many tokens an answer may have; None: as many as there is room for."""
    most: int | None = request.options["max_tokens"]
    return most if most and most > 0 else None
