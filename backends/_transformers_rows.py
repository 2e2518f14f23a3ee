"""Keep the chats that a batch computes in the rows of one cache, and know who lies where.

Chats that are being answered lie first. An idle row is kept for the next turn of its chat, as long
as nobody else needs its place or memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from . import _chat, _rows
from ._request import Request
from ._transformers_cache import RowsCache
from ._transformers_model import TransformersModel
from ._transformers_sampling import Sampler

logger = logging.getLogger(__name__)


class Chat(_chat.Chat):
    """A chat with what chooses its tokens."""

    sampler: Sampler


class ChatRows:
    """The chats of a batch, as many as there are slots."""

    def __init__(self, model: TransformersModel, layers: int, slots: int) -> None:
        self._model, self._slots = model, slots
        self.cache = RowsCache(layers)
        self._chats: list[Chat] = []
        self._answered = 0  # chats at the beginning of the list

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._chats)

    @property
    def answered(self) -> list[Chat]:
        """Return the chats that are being answered; their places are those of their rows."""
        return self._chats[: self._answered]

    def place(self, row: _rows.Row) -> int:
        """Return the number of a row."""
        return next(at for at, chat in enumerate(self._chats) if chat is row)

    def begin(self, request: Request) -> Chat:
        """Find a row for a request, with as much of its prompt as any row knows."""
        can_grow = len(self._chats) < self._slots
        start = _rows.choose(self._chats, request.prompt, can_grow=can_grow)
        if start.row is None:
            chat = Chat()
            self._chats.append(chat)
        else:
            chat = self._chats[self.place(start.row)]
        known = start.known if self._copy(start, chat) else 0
        wanted = request.options["max_new_tokens"]
        chat.begin(request, self._model, known=known, wanted=wanted)
        options = self._model.with_defaults(request.options)
        chat.sampler = Sampler(options, request.prompt, sorted(self._model.ends))
        return chat

    def _copy(self, start: _rows.Start, chat: Chat) -> bool:
        """Copy what a prompt begins with; return whether there was memory for it."""
        if start.source is None:
            return True
        try:
            self.cache.reserve(len(self._chats), start.known)
            self.cache.copy(self.place(start.source), self.place(chat), start.known)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
            return False  # reading all of it makes room first
        return True

    def answer(self, chat: Chat) -> None:
        """Let a chat join those that are being answered."""
        self._swap(self.place(chat), self._answered)
        self._answered += 1

    def end(self, at: int, error: Exception | None = None) -> None:
        """Take a chat out of those that are being answered; its row becomes idle."""
        chat = self._chats[at]
        chat.request.finish(error)
        self._answered -= 1
        self._swap(at, self._answered)
        chat.release()

    def clear(self, chat: Chat) -> None:
        """Forget what a row holds behind its tokens: something that is no number may be there."""
        self.cache.clear(self.place(chat), len(chat.tokens))

    def longest(self) -> int:
        """Return the place of the chat that needs the most memory."""
        return max(range(self._answered), key=lambda at: len(self._chats[at].tokens))

    def give_back(self, reading: Sequence[Chat]) -> None:
        """Give back the memory of idle rows, and of columns that nobody needs.

        reading: the chats that are neither idle nor being answered.
        """
        kept = self._answered
        for chat in reading:
            self._swap(self.place(chat), kept)
            kept += 1
        logger.warning("out of memory: %d idle chats are forgotten", len(self._chats) - kept)
        del self._chats[kept:]
        self.cache.shrink(kept, max((len(chat.tokens) for chat in self._chats), default=1))
        self._model.free_memory()

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            chats = self._chats
            longest = max(len(chats[one].tokens), len(chats[other].tokens))
            self.cache.swap(one, other, longest)
            chats[one], chats[other] = chats[other], chats[one]
