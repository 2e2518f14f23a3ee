"""Load a GGUF with llama.cpp; answer what its executor and its batch ask of it."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp

from kuwa_min.errors import StartError
from kuwa_min.text import Utf8Decoder

from . import _llama_library
from ._chat_template import PLAIN, ChatTemplate
from ._llama_context import PADDING, LlamaContext
from ._llama_library import CHATTER, quick
from ._request import Request

logger = logging.getLogger(__name__)

PIECE_BYTES = 256  # of nearly every token; a longer one says how much it needs
DESCRIPTION_BYTES = 256
STEPS = 1000  # that loading has on its bar

write_piece = quick(llama_cpp.llama_token_to_piece)
is_end = quick(llama_cpp.llama_vocab_is_eog)


class LlamaModel:
    """A GGUF in memory.

    steps: called with (done, total) while it is loaded; template: instead of its own.
    Raises StartError if it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        args: argparse.Namespace,
        steps: Callable[[int, int], None],
        *,
        template: str | None = None,
    ) -> None:
        _llama_library.prepare()
        _llama_library.check_gpu(args.ngl)
        self._args, self.name = args, path.name
        self._model = _load(path, args, steps)
        weakref.finalize(self, llama_cpp.llama_model_free, self._model).atexit = False
        self._check_kind(path)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self.ends = frozenset(
            token for token in range(self.vocabulary) if is_end(self._vocabulary, token)
        )
        self._pieces: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(PIECE_BYTES)
        self.template = self._choose_template(path, template)
        self.trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.context = args.context_window or self.trained
        if self.context > self.trained:
            logger.warning(
                "the model was trained on %d tokens; longer chats may derail", self.trained
            )

    def _check_kind(self, path: Path) -> None:
        """Raise StartError for a model that does not write one token after the other."""
        model = self._model
        if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
            raise StartError(
                f"{path} is no model that answers chats: it has an encoder; `huggingface` runs "
                "models with encoder and decoder from their folders"
            )
        if llama_cpp.llama_model_is_diffusion(model):
            raise StartError(f"{path} writes by diffusion, which this program does not do")

    def _choose_template(self, path: Path, override: str | None) -> ChatTemplate:
        own = llama_cpp.llama_model_chat_template(self._model, None)
        template = override or (own or b"").decode("utf-8", "replace")
        begin = self._special(llama_cpp.llama_vocab_bos(self._vocabulary))
        end = self._special(llama_cpp.llama_vocab_eos(self._vocabulary))
        self.names = {"bos_token": begin, "eos_token": end}
        if template:
            return ChatTemplate(template, **self.names)
        logger.warning("%s has no chat template; a plain one is used", path.name)
        if not llama_cpp.llama_vocab_get_add_bos(self._vocabulary):
            begin = ""
        return ChatTemplate(PLAIN, bos_token=begin)

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        text = llama_cpp.llama_vocab_get_text(self._vocabulary, token)
        return (text or b"").decode("utf-8", "replace")

    # -- what a chat needs

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a chat that a template has written down."""
        data = text.encode()
        size = len(data) + 1  # a token has at least a byte; some vocabularies begin with a space
        for _ in range(2):
            tokens = (llama_cpp.llama_token * size)()
            # not add_special: the template writes the first token itself
            count = llama_cpp.llama_tokenize(
                self._vocabulary, data, len(data), tokens, size, False, True
            )
            if count >= 0:
                return tokens[:count]
            size = -count
        raise RuntimeError("llama_tokenize() does not say how much room it needs")

    def room(self, request: Request) -> int:
        """Return how many tokens an answer can have before the context is full."""
        return self.context - len(request.prompt)

    def create_decoder(self) -> Callable[[int], str]:
        """Return what gives the text that each token of an answer completes."""
        decoder, pieces, piece = Utf8Decoder(), self._pieces, self._piece

        def decode(token: int) -> str:
            return decoder.feed(pieces[token] if token in pieces else piece(token))

        return decode

    def _piece(self, token: int) -> bytes:
        size = self._write_piece(token)
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            size = self._write_piece(token)
        self._pieces[token] = self._buffer.raw[:size]
        return self._pieces[token]

    def _write_piece(self, token: int) -> int:
        """Write a token's bytes into the buffer; return how many, or minus how many it needs."""
        return int(write_piece(self._vocabulary, token, self._buffer, len(self._buffer), 0, False))

    # -- what the executor asks

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of it, for /status."""
        buffer = ctypes.create_string_buffer(DESCRIPTION_BYTES)
        llama_cpp.llama_model_desc(self._model, buffer, DESCRIPTION_BYTES)
        return {
            "model": self.name,
            "description": buffer.value.decode("utf-8", "replace"),
            "context": self.context,
        }

    # -- what the engine's builder asks

    @property
    def most_rows(self) -> int:
        """Return how many sequences llama.cpp can compute in one context."""
        return int(llama_cpp.llama_max_parallel_sequences())

    @property
    def uses_gpu(self) -> bool:
        """Tell whether layers of it are on a graphics card."""
        return bool(self._args.ngl)

    @property
    def is_stateful(self) -> bool:
        """Tell whether its memory is a state, as a whole or in some layers."""
        model = self._model
        return bool(
            llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)
        )

    def create_context(self, rows: int) -> LlamaContext:
        """Create the memory of so many chats, each as long as the model's context."""
        context = self._new_context(rows, self.context)
        self.context = min(self.context, context.length)
        return context

    def probe_memory(self) -> list[str]:
        """Return what llama.cpp says when it makes the smallest context."""
        with CHATTER.listening() as said:
            self._new_context(1, PADDING)
        return said

    def _new_context(self, rows: int, length: int) -> LlamaContext:
        return LlamaContext(
            self._model, self._args, rows=rows, length=length, vocabulary=self.vocabulary
        )


def _load(path: Path, args: argparse.Namespace, steps: Callable[[int, int], None]) -> Any:
    """Return llama.cpp's pointer to the model that it loads; raises StartError."""
    failure: list[BaseException] = []

    def proceed(share: float, _: Any) -> bool:
        try:
            steps(int(STEPS * share), STEPS)
        except BaseException as error:  # noqa: BLE001 - a signal may say that the process is to end
            failure.append(error)
        return not failure

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = args.ngl
    params.tensor_split = _shares(args.tensor_split)
    params.progress_callback = llama_cpp.llama_progress_callback(proceed)
    CHATTER.complaint = ""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if failure:
        raise failure[0]
    if not model:
        reason = CHATTER.complaint or "llama.cpp does not say why"
        raise StartError(f"{path} cannot be loaded: {reason[:300]}")
    return model


def _shares(given: list[float]) -> Any:
    """Return how much of the model each graphics card gets, as llama.cpp reads it."""
    most = int(llama_cpp.llama_max_devices())
    if len(given) > most:
        raise StartError(f"--tensor_split has {len(given)} numbers; llama.cpp takes {most}")
    return (ctypes.c_float * most)(*given) if given else None
