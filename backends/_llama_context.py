"""Compute with llama.cpp: tokens of several rows in, logits out.

llama.cpp answers mistakes by ending the process, so every number is looked at before it is given
to it. What else must be known of it:
- Each row is a sequence with memory of its own (kv_unified off): attention reads that row alone.
  In one memory for all, every token reads what all rows hold.
- Rows are computed in one pass if their numbers follow one another; after a gap a pass of its own
  begins, which reads all weights again. A token that nobody wants can bridge a gap.
- A row is copied as a whole, to a whole row; a part of one would end the process.
- After a failure some rows may hold a part of their new tokens; here all are taken out again.
- The models whose memory is a state (Mamba and other recurrent ones) cannot forget the last tokens
  alone: such a row is emptied.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import llama_cpp
import numpy

from kuwa_min.errors import StartError

from ._llama_library import CHATTER, cores, quick

MOST_TOKENS = 2048  # computed at once
PASS_TOKENS = 512  # of them in one pass
PADDING = 256  # llama.cpp makes a row's length a multiple of it
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
DONE, NO_ROOM, ABORTED, NO_MEMORY = 0, 1, 2, -2  # what llama_decode() returns
FILLER = 0  # a token; which one does not matter

get_logits = quick(llama_cpp.llama_get_logits)
forget_tokens = quick(llama_cpp.llama_memory_seq_rm)
last_place = quick(llama_cpp.llama_memory_seq_pos_max)


class Stopped(Exception):
    """Report that a computation was interrupted; no row has changed."""


class Part(NamedTuple):
    """The next tokens of a row, and whether the logits that follow the last one are wanted."""

    row: int
    tokens: list[int]
    is_wanted: bool


class Outcome(NamedTuple):
    """What was computed, a row for each part that wanted it, in the order of the parts.

    logits: [wanted, vocabulary], valid until the next computation; places: of the tokens that they
    follow, as llama.cpp's samplers count them.
    """

    logits: Any
    places: list[int]


class LlamaContext:
    """The memory of a model for a number of chats, a row for each; for one thread only.

    model: llama.cpp's own pointer; length: tokens that a row can hold, at least; vocabulary: how
    many tokens there are. Raises StartError if there is not enough memory.
    """

    def __init__(
        self, model: Any, args: argparse.Namespace, *, rows: int, length: int, vocabulary: int
    ) -> None:
        self._vocabulary = vocabulary
        self._flag = ctypes.create_string_buffer(2)
        CHATTER.complaint = ""
        self._context = llama_cpp.llama_init_from_model(model, self._params(args, rows, length))
        if not self._context:
            raise StartError(_no_context(rows, length))
        weakref.finalize(self, llama_cpp.llama_free, self._context).atexit = False
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.length = int(llama_cpp.llama_n_ctx_seq(self._context))
        self.most = int(llama_cpp.llama_n_batch(self._context))
        self.ends = [0] * rows  # tokens that each row holds
        self.bridge = 0  # rows that nobody wants computed, if that joins those on both sides
        self.copying: float | None = None  # seconds that copying a row takes; None: it cannot be
        self._make_batch()

    def _params(self, args: argparse.Namespace, rows: int, length: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = rows * (-(-length // PADDING) * PADDING)
        params.n_batch, params.n_ubatch = MOST_TOKENS, PASS_TOKENS
        params.n_seq_max, params.kv_unified = rows, False
        params.n_threads = params.n_threads_batch = args.threads or cores()
        params.flash_attn_type = FLASH_ATTENTION[args.flash_attn]
        params.type_k = params.type_v = getattr(llama_cpp, f"GGML_TYPE_{args.cache_type.upper()}")
        params.no_perf = True
        # asked between the operations of a pass: strlen needs no lock of Python's to say whether
        # the flag is set
        strlen = ctypes.CDLL(None).strlen
        params.abort_callback = ctypes.cast(strlen, llama_cpp.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._flag, ctypes.c_void_p)
        return params

    def _make_batch(self) -> None:
        """Make the arrays that a computation is described by; llama.cpp only reads them."""
        self._tokens, self._places, self._rows, ones = (
            numpy.zeros(self.most, numpy.int32) for _ in range(4)
        )
        ones[:] = 1
        self._wanted = numpy.zeros(self.most, numpy.int8)
        pointers = self._rows.ctypes.data + numpy.arange(self.most, dtype=numpy.uintp) * 4
        self._kept = (ones, pointers)
        batch = llama_cpp.llama_batch()
        for name, array in (
            *(("token", self._tokens), ("pos", self._places), ("logits", self._wanted)),
            *(("n_seq_id", ones), ("seq_id", pointers)),
        ):
            kind = dict(llama_cpp.llama_batch._fields_)[name]
            setattr(batch, name, ctypes.cast(array.ctypes.data, kind))
        self._batch = batch

    # -- computing

    def compute(self, parts: Sequence[Part]) -> Outcome:
        """Compute the next tokens of rows, which are in ascending order.

        Raises ValueError for what would end the process, Stopped after an interrupt, MemoryError,
        or RuntimeError with what llama.cpp returned. Rows hold then what they did before; `ends`
        tells of those that had to be emptied.
        """
        fillers = self._fillers(parts)
        if fillers:
            extra = [Part(row, [FILLER], False) for row in fillers]
            parts = sorted([*parts, *extra], key=lambda part: part.row)
        self._check(parts)
        places = self._describe(parts)
        CHATTER.complaint = ""
        result = llama_cpp.llama_decode(self._context, self._batch)
        if result != DONE:
            for part in parts:
                self.forget(part.row, self.ends[part.row])
            raise _failure(result)
        llama_cpp.llama_synchronize(
            self._context
        )  # gives Python's lock away; what follows does not
        for part in parts:
            self.ends[part.row] += len(part.tokens)
        for row in fillers:
            self.forget(row, self.ends[row] - 1)
        return Outcome(self._logits(len(places)), places)

    def _check(self, parts: Sequence[Part]) -> None:
        """Raise ValueError for what llama.cpp would end the process for."""
        rows = [-1, *(part.row for part in parts), len(self.ends)]
        if not all(one < other for one, other in itertools.pairwise(rows)):
            raise ValueError(f"rows {rows[1:-1]} of {len(self.ends)}")
        if not 0 < sum(len(part.tokens) for part in parts) <= self.most:
            raise ValueError(f"more than {self.most} tokens at once, or none")
        for part in parts:
            if self.ends[part.row] + len(part.tokens) > self.length:
                raise ValueError(f"row {part.row} holds {self.length} tokens and no more")
            if not (part.tokens and 0 <= min(part.tokens) <= max(part.tokens) < self._vocabulary):
                raise ValueError(f"row {part.row} was given something that is no token")

    def _describe(self, parts: Sequence[Part]) -> list[int]:
        """Write the parts into the batch; return the places of the tokens that are wanted."""
        tokens: list[int] = []
        places: list[int] = []
        rows: list[int] = []
        wanted: list[int] = []
        for row, given, is_wanted in parts:
            start, count = self.ends[row], len(given)
            tokens += given
            places += range(start, start + count)
            rows += [row] * count
            if is_wanted:
                wanted.append(len(tokens) - 1)
        count = len(tokens)
        self._tokens[:count], self._places[:count], self._rows[:count] = tokens, places, rows
        self._wanted[:count] = 0
        self._wanted[wanted] = 1
        self._batch.n_tokens = count
        return wanted

    def _logits(self, count: int) -> Any:
        if not count:
            return numpy.empty((0, self._vocabulary), numpy.float32)
        found = get_logits(self._context)
        return numpy.ctypeslib.as_array(found, shape=(count, self._vocabulary))

    def _fillers(self, parts: Sequence[Part]) -> list[int]:
        """Return the rows to compute for nobody, where that is cheaper than another pass."""
        found: list[int] = []
        if self.bridge:
            for one, other in itertools.pairwise(parts):
                gap = range(one.row + 1, other.row)
                if len(gap) <= self.bridge and all(self.ends[row] < self.length for row in gap):
                    found += gap
        return found

    # -- what rows hold

    def forget(self, row: int, kept: int) -> int:
        """Forget what a row holds behind its first tokens; return how many it holds then."""
        if not forget_tokens(self._memory, row, kept, -1) or self._is_odd(row, kept):
            forget_tokens(self._memory, row, -1, -1)
            kept = 0
        self.ends[row] = kept
        return kept

    def _is_odd(self, row: int, length: int) -> bool:
        """Tell whether a row does not end where it should."""
        return bool(last_place(self._memory, row) != length - 1)

    def copy(self, source: int, target: int, length: int) -> int:
        """Copy the first tokens of a row to another one; return how many that holds then."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.forget(target, length)

    def clear(self) -> None:
        """Forget what all rows hold, also where it is only marked as free."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self.ends = [0] * len(self.ends)

    def scrub(self, rows: Sequence[int]) -> None:
        """Empty rows in which there are numbers that are none, which spoil whoever comes next.

        They do so even where memory is marked as free. Where rows cannot be copied, all are
        emptied.
        """
        good = [row for row in range(len(self.ends)) if row not in rows]
        if self.copying is None or not good:
            return self.clear()
        for row in rows:
            self.copy(good[0], row, 0)
        return None

    # -- interrupting, from any thread

    def interrupt(self) -> None:
        """End the computation that is under way, and those that follow, with Stopped."""
        self._flag[0] = b"!"

    def go_on(self) -> None:
        """Let computations go on again."""
        self._flag[0] = b"\0"

    def draw(self, sampler: Any, place: int) -> int:
        """Let a sampler of llama.cpp choose the token that follows a place of the last outcome."""
        token: int = llama_cpp.llama_sampler_sample(sampler, self._context, place)
        return token


def _failure(result: int) -> Exception:
    if result == ABORTED:
        return Stopped()
    if result in (NO_ROOM, NO_MEMORY):
        return MemoryError(f"llama_decode() returned {result}")
    return RuntimeError(f"llama_decode() returned {result}: {CHATTER.complaint}")


def _no_context(rows: int, length: int) -> str:
    chats = "one chat" if rows == 1 else f"each of {rows} chats"
    return (
        f"llama.cpp cannot hold {length:,} tokens of {chats}: "
        f"{CHATTER.complaint[:200] or 'not enough memory'}; lower --context_window or "
        "--concurrent_req_limit, or choose another --cache_type"
    )
