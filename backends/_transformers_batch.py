"""Compute many chats at once over a transformers model's forward(): they join and leave any time.

Each step reads a part of the prompts that wait, then computes one token for every chat that is
being answered. A row's keys and values stay in the cache: the chat's next turn goes on from them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import torch

from kuwa_min.errors import AnswerError, describe
from kuwa_min.prompt import OUT_OF_MEMORY

from . import _rows
from ._engine import Request
from ._model_executor import FULL
from ._transformers_cache import RowsCache
from ._transformers_masks import Mask, Masks
from ._transformers_model import Stopped, TransformersModel
from ._transformers_sampling import NOT_A_NUMBER, Sampler, choose

logger = logging.getLogger(__name__)

PART_SECONDS = 0.1  # for which reading a prompt may keep the others waiting, and a stop
PART_TOKENS = (32, 4096)  # the least and the most that are read at once
FIRST_PART = 256  # before the machine's speed is known
PACK_TOKENS = 1024  # of prompts that are read as one: their mask has the square of it
MOST_PRESSURE = 8  # times as long, if that many wait for each one that is answered


class Chat(_rows.Row):
    """A row of the cache with the request that uses it; `tokens` are those that were computed."""

    request: Request
    sampler: Sampler
    decode: Callable[[int], str]
    next_token: int
    most: int  # tokens that the answer may have
    is_cut_by_context: bool


class RowsBatch:
    """As many chats as there are slots, each in its row of one cache.

    Rows lie in this order: chats being answered, the chat whose prompt is being read, idle rows.
    """

    def __init__(self, model: TransformersModel, slots: int) -> None:
        self._model, self._slots = model, slots
        self._waiting: deque[Request] = deque()
        self._part = FIRST_PART
        self._reset()

    def _reset(self) -> None:
        self._cache = RowsCache(self._model.layout.layers)
        self._masks = Masks(self._model.layout)
        self._chats: list[Chat] = []
        self._answering = 0  # chats at the beginning of the list
        self._reading: Chat | None = None

    # -- what the engine asks

    def has_room(self) -> bool:
        """Tell whether another request can begin."""
        return self._answering + len(self._waiting) + bool(self._reading) < self._slots

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""
        return bool(self._answering or self._waiting or self._reading)

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""
        self._waiting.append(request)

    def drop(self) -> None:
        """Forget everything: the requests were ended."""
        self._waiting.clear()
        self._reset()
        self._model.free_memory()

    @torch.inference_mode()
    def step(self) -> None:
        """Read a part of the prompts that wait, then compute a token for every other chat."""
        self._release_the_stopped()
        if self._waiting or self._reading:
            for chat in self._chats[: self._answering]:
                chat.request.flush()
            self._read()
        if self._answering:
            self._decode()

    def _release_the_stopped(self) -> None:
        for at in reversed(range(self._answering)):
            if self._chats[at].request.over:
                self._end(at)
        stopped = [request for request in self._waiting if request.over]
        for request in stopped:
            self._waiting.remove(request)
            request.finish()
        if self._reading and self._reading.request.over:
            self._reading.request.finish()
            self._reading.release()
            self._reading = None

    # -- reading prompts

    def _read(self) -> None:
        """Read for as long as may be; the more wait, compared to the others, the longer."""
        pressure = (len(self._waiting) + bool(self._reading)) // max(1, self._answering)
        left = self._part * min(max(1, pressure), MOST_PRESSURE)
        left -= self._read_whole(min(left, PACK_TOKENS))
        while left > 0 and (self._reading or self._waiting):
            if self._reading is None:
                self._reading = self._begin(self._waiting.popleft())
            left -= self._read_part(self._reading, left)

    def _read_whole(self, most: int) -> int:
        """Read prompts that are short and new as one; return the tokens of those that were read.

        The first one that is neither is begun, and read in parts later.
        """
        pack: list[Chat] = []
        left = most
        while self._reading is None and self._waiting and len(self._waiting) + len(pack) > 1:
            chat = self._begin(self._waiting.popleft())
            length = len(chat.request.prompt)
            if chat.tokens or length > left:
                self._reading = chat
            else:
                pack.append(chat)
                left -= length
        if len(pack) > 1 and self._try_pack(pack):
            return most - left
        for chat in reversed(pack):  # as if they had not been begun
            chat.release()
            self._waiting.appendleft(chat.request)
        return 0

    def _try_pack(self, pack: list[Chat]) -> bool:
        """Read whole prompts as one; return whether that went well: alone, all may go well."""
        started = time.monotonic()
        try:
            logits = self._compute_pack(pack)
            fine = math.isfinite(float(logits.max(-1).values.sum()))
        except Exception as error:  # noqa: BLE001 - what it is shows when they are read alone
            logger.debug("reading %d prompts as one failed: %s", len(pack), describe(error))
            fine = False
        if not fine:
            for chat in pack:
                self._cache.clear(self._place(chat), 0)
            return False
        for chat in pack:  # all of them before any row is moved
            chat.tokens = list(chat.request.prompt)
        for row, chat in enumerate(pack):
            self._answer(chat, logits[row : row + 1])
        self._learn_speed(sum(len(chat.request.prompt) for chat in pack), started)
        return True

    def _compute_pack(self, pack: list[Chat]) -> torch.Tensor:
        device = self._model.device
        prompts = [chat.request.prompt for chat in pack]
        lengths = [len(prompt) for prompt in prompts]
        self._cache.reserve(len(self._chats), max(lengths))
        self._cache.read_packed([(self._place(chat), len(chat.request.prompt)) for chat in pack])
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return self._model.forward(
            torch.tensor([[token for prompt in prompts for token in prompt]], device=device),
            positions[None],
            self._masks.packed(lengths, device),
            self._cache,
            wanted=torch.tensor(lengths, device=device).cumsum(-1) - 1,
        )[0]

    def _begin(self, request: Request) -> Chat:
        """Find a row for a request, with as much of its prompt as any row knows."""
        start = _rows.choose(self._chats, request.prompt, can_grow=len(self._chats) < self._slots)
        source = None if start.source is None else self._place(start.source)
        if start.row is None:
            chat = Chat()
            self._chats.append(chat)
        else:
            chat = self._chats[self._place(start.row)]
        known = start.known
        if source is not None:
            try:
                self._cache.reserve(len(self._chats), known)
                self._cache.copy(source, self._place(chat), known)
            except Exception as error:
                if not self._model.is_out_of_memory(error):
                    raise
                known = 0  # reading it makes room first
        chat.occupy(request.prompt[:known])
        request.reused = known
        chat.request = request
        chat.sampler = self._model.create_sampler(request)
        chat.decode = self._model.create_decoder()
        room = self._model.room(request)
        chat.most = min(request.options["max_new_tokens"], room)
        chat.is_cut_by_context = chat.most < request.options["max_new_tokens"]
        return chat

    def _place(self, row: _rows.Row) -> int:
        return next(at for at, chat in enumerate(self._chats) if chat is row)

    def _read_part(self, chat: Chat, most: int) -> int:
        """Read so many tokens of a prompt; after its last one the answer begins."""
        known = len(chat.tokens)
        part = chat.request.prompt[known : known + most]
        started = time.monotonic()
        try:
            self._compute_part(chat, part)
        except Stopped:
            self._stop_reading(chat, None)
        except Exception as error:  # noqa: BLE001 - only this chat was computed
            self._stop_reading(chat, error)
        self._learn_speed(len(part), started)
        return len(part)

    def _compute_part(self, chat: Chat, part: list[int]) -> None:
        logits = self._forward_prompt(chat, part)
        if not math.isfinite(float(logits.max())):
            chat.tokens.clear()
            raise AnswerError(NOT_A_NUMBER)
        chat.tokens += part
        if len(chat.tokens) == len(chat.request.prompt):
            self._reading = None
            self._answer(chat, logits)

    def _stop_reading(self, chat: Chat, error: Exception | None) -> None:
        """End a chat whose prompt cannot be read, and forget what was computed in vain."""
        chat.request.finish(error)
        chat.release()
        self._reading = None
        self._cache.clear(self._place(chat), len(chat.tokens))

    def _learn_speed(self, tokens: int, started: float) -> None:
        least, most = PART_TOKENS
        if tokens >= least:
            wanted = int(tokens / (time.monotonic() - started) * PART_SECONDS)
            self._part = max(least, min(most, wanted, 2 * self._part))

    def _forward_prompt(self, chat: Chat, part: list[int]) -> torch.Tensor:
        """Compute a part of a prompt, if need be with the memory of idle rows."""
        try:
            return self._compute_prompt(chat, part)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._give_back_memory()
        try:
            return self._compute_prompt(chat, part)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        raise AnswerError(OUT_OF_MEMORY)

    def _compute_prompt(self, chat: Chat, part: list[int]) -> torch.Tensor:
        place, known = self._place(chat), len(chat.tokens)
        self._cache.reserve(len(self._chats), known + len(part))
        self._cache.read(place, known)
        positions = torch.arange(known, known + len(part), device=self._model.device)
        with self._model.stopping_with(chat.request):
            return self._forward([part], positions[None], None)

    def _forward(
        self, tokens: list[list[int]], positions: torch.Tensor, mask: Mask
    ) -> torch.Tensor:
        """Return the logits of the token that follows each row: [rows, vocabulary]."""
        inputs = torch.tensor(tokens, device=self._model.device)
        return self._model.forward(inputs, positions, mask, self._cache)[:, -1]

    def _answer(self, chat: Chat, logits: torch.Tensor) -> None:
        """Say the first token of an answer, and let the chat join the others."""
        self._swap(self._place(chat), self._answering)
        self._answering += 1
        (token,) = choose(logits, [chat.sampler])
        if self._say(chat, token):
            self._end(self._answering - 1)

    # -- answering

    def _decode(self) -> None:
        """Compute one token for every chat that is being answered."""
        logits = self._forward_answers()
        if logits is None:
            return
        chats = self._chats[: self._answering]
        tokens = choose(logits, [chat.sampler for chat in chats])
        ended = []
        for at, (chat, token) in enumerate(zip(chats, tokens, strict=True)):
            chat.tokens.append(chat.next_token)
            if self._say(chat, token):
                ended.append(at)
        for at in reversed(ended):
            self._end(at)

    def _forward_answers(self) -> torch.Tensor | None:
        """Compute the next logits; while memory runs out, end the chat that needs the most."""
        for attempt in range(2 * self._slots):
            try:
                return self._compute_answers()
            except Stopped:
                for place, chat in enumerate(self._chats[: self._answering]):
                    self._cache.clear(place, len(chat.tokens))
                return None  # nobody wants it: the next step releases them
            except Exception as error:
                if not self._model.is_out_of_memory(error):
                    raise
            if attempt:
                self._end_the_longest()
            self._give_back_memory()
            if not self._answering:
                break
        return None

    def _compute_answers(self) -> torch.Tensor:
        chats = self._chats[: self._answering]
        lengths = [len(chat.tokens) for chat in chats]
        self._cache.reserve(len(self._chats), max(lengths) + 1)
        ends = torch.tensor(lengths, device=self._model.device)
        is_even = min(lengths) == max(lengths)
        self._cache.extend(ends, past=max(lengths), is_even=is_even)
        mask = None if is_even else self._masks.until(ends, max(lengths))
        with self._model.stopping_with(*(chat.request for chat in chats)):
            return self._forward([[chat.next_token] for chat in chats], ends[:, None], mask)

    def _say(self, chat: Chat, token: int | Exception) -> bool:
        """Add a token to a chat's answer; return whether it is the last one."""
        if isinstance(token, Exception):
            chat.tokens = []
            self._cache.clear(self._place(chat), 0)
            chat.request.finish(token)
            return True
        try:
            return self._say_token(chat, token)
        except Exception as error:  # noqa: BLE001 - what is said is only this chat's
            chat.request.finish(error)
            return True

    def _say_token(self, chat: Chat, token: int) -> bool:
        request = chat.request
        request.written += 1
        if token in self._model.ends:
            request.finish()
            return True
        chat.next_token = token
        chat.sampler.note(token)
        request.say(chat.decode(token))
        if request.written < chat.most and not request.over:
            return False
        if chat.is_cut_by_context and request.written >= chat.most:
            request.note(FULL.format(self._model.context))
        request.finish()
        return True

    # -- rows and memory

    def _end(self, at: int) -> None:
        """Take a chat out of those that are answered; its row becomes idle."""
        chat = self._chats[at]
        chat.request.finish()
        self._answering -= 1
        self._swap(at, self._answering)
        chat.release()

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            chats = self._chats
            longest = max(len(chats[one].tokens), len(chats[other].tokens))
            self._cache.swap(one, other, longest)
            chats[one], chats[other] = chats[other], chats[one]

    def _end_the_longest(self) -> None:
        at = max(range(self._answering), key=lambda at: len(self._chats[at].tokens))
        self._chats[at].request.finish(AnswerError(OUT_OF_MEMORY))
        self._end(at)

    def _give_back_memory(self) -> None:
        """Forget what idle rows hold."""
        kept = self._answering
        if self._reading:
            self._swap(self._place(self._reading), kept)
            kept += 1
        logger.warning("out of memory: %d idle chats are forgotten", len(self._chats) - kept)
        del self._chats[kept:]
        self._cache.shrink(kept, max((len(chat.tokens) for chat in self._chats), default=1))
        self._model.free_memory()
