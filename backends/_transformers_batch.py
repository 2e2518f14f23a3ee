"""Compute many chats at once over a transformers model's forward(): they join and leave any time.

Each step reads a part of the prompts that wait, then computes one token for every chat that is
being answered. A row's keys and values stay in the cache: the chat's next turn goes on from them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque

import torch

from kuwa_min.errors import AnswerError, describe
from kuwa_min.sentences import OUT_OF_MEMORY

from ._pace import Pace, shares
from ._request import Request
from ._transformers_masks import Layout, Masks
from ._transformers_model import Mask, Stopped, TransformersModel
from ._transformers_rows import Chat, ChatRows
from ._transformers_sampling import NOT_A_NUMBER, choose

logger = logging.getLogger(__name__)

MOST_TOKENS = 4096  # of a prompt that are read at once
PACK_TOKENS = 1024  # of prompts that are read as one: their mask has the square of it


class RowsBatch:
    """As many chats as there are slots, each in its row of one cache."""

    def __init__(self, model: TransformersModel, layout: Layout, slots: int) -> None:
        self._model, self._layout, self._slots = model, layout, slots
        self.description = f"{slots} at once"
        self._masks = Masks(layout)
        self._waiting: deque[Request] = deque()
        self._rows = ChatRows(model, layout.layers, slots)
        self._reading: list[Chat] = []  # whose prompts are read in parts, in the order they came
        self._pace = Pace(MOST_TOKENS)

    # -- what the engine asks

    def has_room(self) -> bool:
        """Tell whether another request can begin."""
        begun = len(self._rows.answered) + len(self._reading)
        return begun + len(self._waiting) < self._slots

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""
        return bool(self._rows.answered or self._waiting or self._reading)

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""
        self._waiting.append(request)

    def drop(self) -> None:
        """Forget everything: the requests were ended."""
        self._waiting.clear()
        self._rows = ChatRows(self._model, self._layout.layers, self._slots)
        self._reading = []
        self._model.free_memory()

    @torch.inference_mode()
    def step(self) -> None:
        """Read a part of the prompts that wait, then compute a token for every other chat."""
        self._release_the_stopped()
        if self._waiting or self._reading:
            for chat in self._rows.answered:
                chat.request.flush()
            self._read()
        if self._rows.answered:
            self._decode()

    def _release_the_stopped(self) -> None:
        for at, chat in reversed(list(enumerate(self._rows.answered))):
            if chat.request.over:
                self._rows.end(at)
        stopped = [request for request in self._waiting if request.over]
        for request in stopped:
            self._waiting.remove(request)
            request.finish()
        for chat in list(self._reading):
            if chat.request.over:
                self._stop_reading(chat, None)

    # -- reading prompts

    def _read(self) -> None:
        """Read for as long as may be; the more wait, compared to the others, the longer."""
        waiting = len(self._waiting) + len(self._reading)
        left = self._pace.tokens(waiting=waiting, answered=len(self._rows.answered))
        left -= self._read_whole(min(left, PACK_TOKENS))
        parts = shares(left, [chat.unread for chat in self._reading])
        for chat, most in zip(list(self._reading), parts, strict=True):
            if most:
                self._read_part(chat, most)

    def _read_whole(self, most: int) -> int:
        """Read prompts that are short and new as one; return the tokens of those that were read.

        The others are begun, and read in parts.
        """
        pack: list[Chat] = []
        left = most
        while self._waiting:
            chat = self._rows.begin(self._waiting.popleft())
            if chat.tokens or chat.unread > left:
                self._reading.append(chat)
            else:
                pack.append(chat)
                left -= chat.unread
        if len(pack) > 1 and self._try_pack(pack):
            return most - left
        self._reading += pack
        return 0

    def _try_pack(self, pack: list[Chat]) -> bool:
        """Read whole prompts as one; return whether that went well: alone, all may go well."""
        started = time.monotonic()
        try:
            tokens = choose(self._compute_pack(pack), [chat.sampler for chat in pack])
        except Exception as error:  # noqa: BLE001 - what it is shows when they are read alone
            logger.debug("reading %d prompts as one failed: %s", len(pack), describe(error))
            tokens = []
        if not all(isinstance(token, int) for token in tokens) or not tokens:
            for chat in pack:
                self._rows.clear(chat)
            return False
        for chat in pack:  # all of them before any row is moved
            chat.tokens = list(chat.request.prompt)
        for chat, token in zip(pack, tokens, strict=True):
            self._answer(chat, token)
        read = sum(len(chat.request.prompt) for chat in pack)
        self._pace.learn(read, time.monotonic() - started)
        return True

    def _compute_pack(self, pack: list[Chat]) -> torch.Tensor:
        device = self._model.device
        prompts = [chat.request.prompt for chat in pack]
        lengths = [len(prompt) for prompt in prompts]
        places = [self._rows.place(chat) for chat in pack]
        cache = self._rows.cache
        cache.reserve(len(self._rows), max(lengths))
        cache.read_packed(list(zip(places, lengths, strict=True)))
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return self._model.forward(
            torch.tensor([[token for prompt in prompts for token in prompt]], device=device),
            positions[None],
            self._masks.packed(lengths, device),
            cache,
            wanted=torch.tensor(lengths, device=device).cumsum(-1) - 1,
        )[0]

    def _read_part(self, chat: Chat, most: int) -> int:
        """Read so many tokens of a prompt; after its last one the answer begins."""
        part = chat.next_part(most)
        started = time.monotonic()
        try:
            token = self._token_after(chat, part)
        except Stopped:
            self._stop_reading(chat, None)
        except Exception as error:  # noqa: BLE001 - only this chat was computed
            self._stop_reading(chat, error)
        else:
            if token is not None:
                self._reading.remove(chat)
                self._answer(chat, token)
        self._pace.learn(len(part), time.monotonic() - started)
        return len(part)

    def _token_after(self, chat: Chat, part: list[int]) -> int | Exception | None:
        """Compute a part of a prompt; return what follows, if it is the last one."""
        logits = self._forward_prompt(chat, part)
        if not math.isfinite(float(logits.max())):
            chat.tokens.clear()
            raise AnswerError(NOT_A_NUMBER)
        chat.tokens += part
        return choose(logits, [chat.sampler])[0] if chat.is_read else None

    def _stop_reading(self, chat: Chat, error: Exception | None) -> None:
        """End a chat whose prompt cannot be read, and forget what was computed in vain."""
        chat.request.finish(error)
        chat.release()
        self._reading.remove(chat)
        self._rows.clear(chat)

    def _forward_prompt(self, chat: Chat, part: list[int]) -> torch.Tensor:
        """Compute a part of a prompt, if need be with the memory of idle rows."""
        try:
            return self._compute_prompt(chat, part)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._rows.give_back(self._reading)
        try:
            return self._compute_prompt(chat, part)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        raise AnswerError(OUT_OF_MEMORY)

    def _compute_prompt(self, chat: Chat, part: list[int]) -> torch.Tensor:
        known, cache = len(chat.tokens), self._rows.cache
        cache.reserve(len(self._rows), known + len(part))
        cache.read(self._rows.place(chat), known)
        positions = torch.arange(known, known + len(part), device=self._model.device)
        with self._model.stopping_with(chat.request):
            return self._forward([part], positions[None], None)

    def _forward(
        self, tokens: list[list[int]], positions: torch.Tensor, mask: Mask
    ) -> torch.Tensor:
        """Return the logits of the token that follows each row: [rows, vocabulary]."""
        inputs = torch.tensor(tokens, device=self._model.device)
        return self._model.forward(inputs, positions, mask, self._rows.cache)[:, -1]

    def _answer(self, chat: Chat, token: int | Exception) -> None:
        """Say the first token of an answer, and let the chat join the others."""
        self._rows.answer(chat)
        if self._say(chat, token):
            self._rows.end(self._rows.place(chat))

    # -- answering

    def _decode(self) -> None:
        """Compute one token for every chat that is being answered."""
        logits = self._forward_answers()
        if logits is None:
            return
        chats = self._rows.answered
        tokens = choose(logits, [chat.sampler for chat in chats])
        ended = []
        for at, (chat, token) in enumerate(zip(chats, tokens, strict=True)):
            chat.tokens.append(chat.next_token)
            if self._say(chat, token):
                ended.append(at)
        for at in reversed(ended):
            self._rows.end(at)

    def _forward_answers(self) -> torch.Tensor | None:
        """Compute the next logits; while memory runs out, end the chat that needs the most."""
        is_first = True
        while self._rows.answered:
            try:
                return self._compute_answers()
            except Stopped:
                for chat in self._rows.answered:
                    self._rows.clear(chat)
                return None  # nobody wants it: the next step releases them
            except Exception as error:
                if not self._model.is_out_of_memory(error):
                    raise
            if not is_first:
                self._rows.end(self._rows.longest(), AnswerError(OUT_OF_MEMORY))
            is_first = False
            self._rows.give_back(self._reading)
        return None

    def _compute_answers(self) -> torch.Tensor:
        chats = self._rows.answered
        lengths = [len(chat.tokens) for chat in chats]
        longest = max(lengths)
        self._rows.cache.reserve(len(self._rows), longest + 1)
        ends = torch.tensor(lengths, device=self._model.device)
        is_even = min(lengths) == longest
        self._rows.cache.extend(ends, past=longest, is_even=is_even)
        mask = None if is_even else self._masks.until(ends, longest)
        with self._model.stopping_with(*(chat.request for chat in chats)):
            return self._forward([[chat.next_token] for chat in chats], ends[:, None], mask)

    def _say(self, chat: Chat, token: int | Exception) -> bool:
        """Add a token to a chat's answer; return whether it is the last one."""
        if isinstance(token, Exception):
            chat.tokens = []
            self._rows.clear(chat)
            chat.request.finish(token)
            return True
        try:
            chat.sampler.note(token)
            return chat.say(token)
        except Exception as error:  # noqa: BLE001 - what is said is only this chat's
            chat.request.finish(error)
            return True
