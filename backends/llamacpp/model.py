"""A loaded GGUF: vocabulary, detokenizer, chat template, contexts."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from backends._local.model_files import template_files
from backends._local.request import Request
from backends._local.templates.chat_template import PLAIN, PLAIN_TURNS, ChatTemplate
from backends._local.templates.tool_format import offers_functions
from kuwa_min.chat.text import Utf8Decoder
from kuwa_min.chat.thinking.formats import Wrappers
from kuwa_min.chat.thinking.splitter import PROMPT_END, ThoughtSplitter
from kuwa_min.errors import StartError

from . import bindings
from .batching.context import ABORT, LlamaContext
from .batching.context_params import PADDING, ContextOptions, threads
from .bindings import LOG_CAPTURE, holding_gil
from .device import device_memory, devices
from .loading.adapter_files import AdapterFile
from .loading.adapters import load as load_adapters
from .loading.gguf_model import Progress
from .loading.placed_model import load_placed
from .loading.tensor_overrides import TensorOverride
from .tokenizer import LlamaTokenizer
from .vision.loading import load as load_projector
from .vision.mmproj_file import MmprojFile
from .vision.spans import PICTURE_SHARE

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT = 4096  # tokens of a slot
PIECE_BYTES = 256  # of a token's text; the few longer tokens state their size
DESCRIPTION_BYTES = 256
SPLIT_PART = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$")
MAPPED = "CPU_Mapped"  # llama.cpp's name for the file, read as memory

token_to_piece = holding_gil(llama_cpp.llama_token_to_piece)


class LlamaModel:
    """A loaded GGUF. tokenizer is for any thread, all else for the engine's."""

    def __init__(
        self,
        path: Path,
        progress: Progress,
        *,
        gpu_layers: int | None,
        visible_gpu: str | None,
        tensor_split: Sequence[float],
        overrides: Sequence[TensorOverride] = (),
        context_length: int | None,
        context_options: ContextOptions,
        slots: int = 1,
        chat_template: str | None = None,
        adapter_files: Sequence[AdapterFile] = (),
        mmproj: MmprojFile | None = None,
    ) -> None:
        """Load it; raises StartError or TemplateError.

        progress: called with (done, total); gpu_layers: -1 for all, None for as many as fit;
        visible_gpu: the GPUs that the environment was restricted to; tensor_split: the share of
        each GPU; overrides: tensors that lie elsewhere; context_length: tokens of prompt and
        completion, 0 for as many as the model was trained with, None for as many of these as will
        fit; slots: that will be wanted, for what fits; chat_template: instead of its own;
        adapter_files: those of --lora; mmproj: the part that sees pictures.
        """
        bindings.prepare()
        self._path, self.name = path, path.name
        self._abort_flag = ctypes.create_string_buffer(2)  # of all contexts; see LlamaContext
        with LOG_CAPTURE.capturing() as self._load_log:
            self._model, layers = load_placed(
                path,
                progress,
                context_options,
                gpu_layers=gpu_layers,
                visible_gpu=visible_gpu,
                tensor_split=tensor_split,
                overrides=overrides,
                slots=slots,
                length=DEFAULT_CONTEXT if context_length is None else context_length,
                beside=[file.path for file in (*adapter_files, *([mmproj] if mmproj else []))],
            )
            weakref.finalize(self, llama_cpp.llama_model_free, self._model).atexit = False
            self.adapters = load_adapters(self._model, adapter_files, self._load_log)
        self.uses_gpu = bool(layers)
        self._context_options = context_options
        self._context_log: list[str] = []
        self._check_kind(path)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self.tokenizer = LlamaTokenizer(self._vocabulary)
        self.eos_token_ids = self.tokenizer.eos_token_ids()
        self.markup = self.tokenizer.markup
        self.turn_markers: tuple[str, ...] = ()
        self._pieces: dict[int, bytes] = {}  # of tokens that were detokenized before
        self._buffer = ctypes.create_string_buffer(PIECE_BYTES)
        self.chat_template = self._choose_template(path, chat_template)
        self.template_variables = self.chat_template.variables
        self.offers_functions = offers_functions(self.chat_template)
        self.tokenizer.use_template(self.chat_template)
        self.trained_length = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.wants_longest = context_length is None  # that fits: scheduler_factory measures it
        self.context_length = context_length or self.trained_length
        if self.context_length > self.trained_length:
            logger.warning(
                "the model was trained on %d tokens; longer chats may derail", self.trained_length
            )
        self.picture_encoder = mmproj and load_projector(
            mmproj,
            self._model,
            use_gpu=self.uses_gpu,
            threads=threads(context_options).decode,
            flash_attn=context_options.flash_attn,
            most_tokens=int(self.context_length * PICTURE_SHARE),
            check_open=lambda: progress(1, 1),
        )

    def _check_kind(self, path: Path) -> None:
        """Raise StartError for a model that does not generate one token after the other."""
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
        bos = self.tokenizer.text(llama_cpp.llama_vocab_bos(self._vocabulary))
        eos = self.tokenizer.text(llama_cpp.llama_vocab_eos(self._vocabulary))
        self.special_tokens = {"bos_token": bos, "eos_token": eos}
        if template:
            return ChatTemplate(template, **self.special_tokens)
        hint = template_files.hint(path.parent)
        logger.warning("%s has no chat template%s; a plain one is used", path.name, hint)
        self.turn_markers = PLAIN_TURNS
        if not llama_cpp.llama_vocab_get_add_bos(self._vocabulary):
            bos = ""
        return ChatTemplate(PLAIN, bos_token=bos)

    def check_device(self, failure: BaseException) -> None:
        """Raise nothing: llama.cpp ends the process itself if a device fails."""

    def info(self) -> dict[str, Any]:
        """Return facts about the model for /status."""
        buffer = ctypes.create_string_buffer(DESCRIPTION_BYTES)
        llama_cpp.llama_model_desc(self._model, buffer, DESCRIPTION_BYTES)
        return {
            "model": self.name,
            "description": buffer.value.decode("utf-8", "replace"),
            "context": self.context_length,
            **self.placement().facts(),
            **self.adapters.facts(),
        }

    def placement(self) -> device_memory.Placement:
        """Return where the model and the context that was created last are computed."""
        log = [*self._load_log, *self._context_log]
        processor = devices.processor()
        placed = device_memory.placement(log, processor=processor, uses_gpu=self.uses_gpu)
        if self.picture_encoder:
            device, size = self.picture_encoder.memory()
            placed.memory.setdefault(device, {})["mmproj"] = size
        return placed

    # -- what a sequence needs

    def max_completion_tokens(self, request: Request) -> int:
        """Return how many tokens of a completion the context has room for."""
        return self.context_length - len(request.prompt_ids)

    def create_splitter(self, prompt_ids: Sequence[int], wrappers: Wrappers) -> ThoughtSplitter:
        """Return what tells thoughts from the answer to a prompt, which may end within one.

        wrappers: tags around the answer that are markup.
        """
        text_ids = [token for token in prompt_ids[-PROMPT_END:] if token >= 0]  # no pictures
        prompt_end = self.tokenizer.detokenize(text_ids)
        return ThoughtSplitter(prompt_end, wrappers=wrappers)

    def create_detokenizer(self) -> Callable[[int], str]:
        """Return a streaming detokenizer: token id in, the text that it completes out."""
        decoder, pieces, piece = Utf8Decoder(), self._pieces, self._piece

        def detokenize(token: int) -> str:
            return decoder.feed(pieces[token] if token in pieces else piece(token))

        return detokenize

    def _piece(self, token: int) -> bytes:
        """Return the bytes of a token's text, and keep them."""
        size = self._write_piece(token)
        if size < 0:
            self._buffer = ctypes.create_string_buffer(-size)
            size = self._write_piece(token)
        self._pieces[token] = self._buffer.raw[:size]
        return self._pieces[token]

    def _write_piece(self, token: int) -> int:
        """Write a token's bytes to the buffer; return their number, negative if it is too small."""
        if token in self.markup:
            return 0
        buffer = self._buffer
        return int(token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False))

    # -- contexts

    @property
    def max_slots(self) -> int:
        """Return how many sequences llama.cpp can compute in one context."""
        return int(llama_cpp.llama_max_parallel_sequences())

    @property
    def can_choose_threads(self) -> bool:
        """Tell whether no option states the number of threads, and not all layers are on cards."""
        on_cards, _, layers = self.placement().layers.partition("/")
        return self._context_options.threads is None and (not layers or on_cards != layers)

    @property
    def is_recurrent(self) -> bool:
        """Tell whether all layers or some keep a state instead of keys and values."""
        model = self._model
        return bool(
            llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)
        )

    def create_context(self, slots: int) -> LlamaContext:
        """Return a context with slots of context_length tokens; raises StartError."""
        with LOG_CAPTURE.capturing() as self._context_log:
            context = self._create_context(slots, self.context_length)
        self.context_length = min(self.context_length, context.capacity)
        return context

    @property
    def mapped_bytes(self) -> float:
        """Return the size of the weights that processors read from the file itself."""
        return device_memory.by_device(self._load_log).get(MAPPED, {}).get("model", 0)

    def files(self) -> list[Path]:
        """Return the files of the model: one, or the parts of a split one."""
        part = SPLIT_PART.search(self.name)
        pattern = f"{self.name[: part.start()]}-*{part[1]}" if part else ""
        files = list(self._path.parent.glob(pattern)) if part else [self._path]
        return [*files, self.picture_encoder.path] if self.picture_encoder else files

    def state_facts(self) -> dict[str, Any]:
        """Return what the state of a slot depends on beside the model."""
        return {
            "library": f"llama-cpp-python {llama_cpp.__version__}",
            "context": [self.context_length, *dataclasses.astuple(self._context_options)[1:]],
        }

    def log_of_context(self, length: int = PADDING) -> list[str]:
        """Return what llama.cpp logs when it creates a context of one slot; raises StartError."""
        with LOG_CAPTURE.capturing() as lines:
            self._create_context(1, length)
        return lines

    def _create_context(self, slots: int, length: int) -> LlamaContext:
        return LlamaContext(
            self._model,
            self._context_options,
            slots=slots,
            length=length,
            vocabulary=self.vocabulary_size,
            abort_flag=self._abort_flag,
            adapters=self.adapters,
            is_recurrent=self.is_recurrent,
            has_window=bool(llama_cpp.llama_model_n_swa(self._model)),
        )

    def abort(self) -> None:
        """Abort what a context computes, now and later; from any thread."""
        self._abort_flag[0] = ABORT
