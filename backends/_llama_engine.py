"""Load a GGUF with llama-cpp-python and compute one answer at a time by its generate()."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

from kuwa_min.errors import StartError
from kuwa_min.text import Utf8Decoder

from ._chat_template import PLAIN, ChatTemplate
from ._engine import Batch, OneByOne, Request
from ._llama_library import CHATTER, cores, load_processors
from ._model_executor import FULL, chat_template

logger = logging.getLogger(__name__)

BATCH = 512  # tokens that llama.cpp takes at once
CHUNK = 256  # prompt tokens between two looks whether the request is over
PIECE_BYTES = 256  # of nearly every token; a longer one says how much it needs
LIMITS = ("max_tokens", "seed")  # ours, not generate()'s
NAMES = {"temperature": "temp"}  # what generate() calls an option
LOADING = (ValueError, RuntimeError, MemoryError, OSError)  # how it fails


class LlamaModel:
    """A GGUF in memory; llama.cpp ends the process if two threads compute with it at once."""

    def __init__(self, path: Path, args: argparse.Namespace) -> None:
        load_processors(Path(llama_cpp.__file__).parent)
        if args.ngl and not llama_cpp.llama_supports_gpu_offload():
            raise StartError(
                f"--ngl {args.ngl} asks for a GPU, and llama.cpp has or finds none here; "
                "--ngl 0 computes on the processor"
            )
        self._llama = self._load(path, args)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._llama.model)
        self._buffer = ctypes.create_string_buffer(PIECE_BYTES)
        self.template = self._choose_template(path, args.override_chat_template)
        self._name = path.name
        wanted = args.context_window or self._llama.n_ctx()
        self.context = min(wanted, self._llama.n_ctx())
        logger.info("loaded %s: context of %d tokens", path.name, self.context)
        trained = llama_cpp.llama_model_n_ctx_train(self._llama.model)
        if self.context > trained:
            logger.warning("the model was trained on %d tokens; longer chats may derail", trained)

    def _load(self, path: Path, args: argparse.Namespace) -> Any:
        threads = args.threads or cores()
        said = io.StringIO()
        CHATTER.complaint = ""
        try:
            # verbose, because otherwise it takes the whole process's standard error away meanwhile
            with contextlib.redirect_stderr(said):
                llama = llama_cpp.Llama(
                    str(path),
                    n_gpu_layers=args.ngl,
                    n_ctx=args.context_window,
                    n_batch=BATCH,
                    n_threads=threads,
                    n_threads_batch=threads,
                    verbose=True,
                )
        except LOADING as error:
            reason = CHATTER.complaint or " ".join(str(error).split())
            raise StartError(f"{path} cannot be loaded: {reason[:300]}") from None
        finally:
            logger.debug("llama-cpp-python: %s", said.getvalue())
        llama.verbose = False
        return llama

    def _choose_template(self, path: Path, override: str | None) -> ChatTemplate:
        template = chat_template(override) or self._llama.metadata.get("tokenizer.chat_template")
        begin, end = self._special(self._llama.token_bos()), self._special(self._llama.token_eos())
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

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a chat that a template has written down."""
        # the template writes the first token itself
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=True)
        return tokens

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of it, for /status."""
        return {"model": self._name, "context": self.context, "engine": "one at a time"}

    def create_batch(self, slots: int) -> Batch:
        """Return what computes one chat at a time, however many slots there are."""
        return OneByOne(self._compute)

    def _compute(self, request: Request) -> None:
        try:
            self._generate(request)
        except BaseException:
            self._llama.reset()  # what it remembers of the prompt may not be true
            raise

    def _generate(self, request: Request) -> None:
        options = {NAMES.get(name, name): value for name, value in request.options.items()}
        seed = options["seed"]
        self._llama.set_seed(llama_cpp.LLAMA_DEFAULT_SEED if seed is None else seed)
        room = self.context - len(request.prompt)
        most = min(options["max_tokens"] or room, room)
        sampling = {name: value for name, value in options.items() if name not in LIMITS}
        decoder, count = Utf8Decoder(), 0
        self._read(request, sampling)
        if request.over:
            return
        for token in self._tokens(request.prompt, sampling):
            if request.over or llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                return
            request.say(decoder.feed(self._piece(token)))
            request.written = count = count + 1
            if request.over or count == most:
                break
        if count == room < (options["max_tokens"] or room + 1):
            request.note(FULL.format(self.context))

    def _read(self, request: Request, sampling: dict[str, Any]) -> None:
        """Compute a long prompt in parts, so that a stop need not wait for all of it."""
        former = self._llama.input_ids[: self._llama.n_tokens]
        known = self._llama.longest_token_prefix(former, request.prompt)
        for end in range(known + CHUNK, len(request.prompt), CHUNK):
            if request.over:
                return
            next(self._tokens(request.prompt[:end], sampling))

    def _tokens(self, prompt: list[int], sampling: dict[str, Any]) -> Iterator[int]:
        tokens: Iterator[int] = self._llama.generate(prompt, **sampling)
        return tokens

    def _piece(self, token: int) -> bytes:
        size = self._write_piece(token)
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            size = self._write_piece(token)
        return self._buffer.raw[:size]

    def _write_piece(self, token: int) -> int:
        """Write a token's bytes into the buffer; return how many, or minus how many it needs."""
        size: int = llama_cpp.llama_token_to_piece(
            self._vocabulary, token, self._buffer, len(self._buffer), 0, False
        )
        return size
