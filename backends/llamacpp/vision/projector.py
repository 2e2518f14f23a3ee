"""llama.cpp's mtmd: an mmproj file, loaded beside its language model, turns pictures into tokens.

Any thread may prepare pictures; one at a time may encode.
"""

# Facts about mtmd. It logs to stderr unless told. Tokenizing divides a picture into chunks: text
# that the model expects around pictures (tokens of its vocabulary), and what is encoded at once.
# The pixels are resized then; a bitmap without pixels serves to count tokens. The first dimension
# of M-RoPE's positions counts from the picture's, the last one does not.

from __future__ import annotations

import ctypes
import hashlib
import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy
from llama_cpp import mtmd_cpp

from backends.llamacpp.batching.context_params import FLASH_ATTENTION, UBATCH_TOKENS
from backends.llamacpp.bindings import LOG_CAPTURE
from kuwa_min.errors import StartError

from .media import SECTIONS, Encoded
from .spans import span_ids

API = {  # the functions that we call and their numbers of arguments
    "mtmd_bitmap_free": 1,
    "mtmd_bitmap_init": 3,
    "mtmd_context_params_default": 0,
    "mtmd_decode_use_mrope": 1,
    "mtmd_decode_use_non_causal": 2,
    "mtmd_default_marker": 0,
    "mtmd_encode_chunk": 2,
    "mtmd_free": 1,
    "mtmd_get_output_embd": 1,
    "mtmd_helper_log_set": 2,
    "mtmd_image_tokens_get_decoder_pos": 3,
    "mtmd_init_from_file": 3,
    "mtmd_input_chunk_get_n_pos": 1,
    "mtmd_input_chunk_get_n_tokens": 1,
    "mtmd_input_chunk_get_tokens_image": 1,
    "mtmd_input_chunk_get_tokens_text": 2,
    "mtmd_input_chunk_get_type": 1,
    "mtmd_input_chunks_free": 1,
    "mtmd_input_chunks_get": 2,
    "mtmd_input_chunks_init": 0,
    "mtmd_input_chunks_size": 1,
    "mtmd_support_vision": 1,
    "mtmd_tokenize": 5,
}
TEXT, IMAGE = mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT, mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE
DEVICE = re.compile(r"CLIP using (\S+) backend")
SIZES = re.compile(r"(?:model size: +|compute buffer size = +)([\d.]+) MiB")
MISMATCH = re.compile(r"text model \(n_embd = (\d+)\) and mmproj \(n_embd = (\d+)\)")
MIB = 2**20
MAX_SIDE, LEAST_SIDE = 4096, 64  # of a picture in pixels
MAX_REASON = 300  # characters of llama.cpp's error message


class Unusable(Exception):
    """Report, in words that follow a picture's name, why it cannot be turned into tokens."""


class Prepared(NamedTuple):
    """A picture as tokens that are not encoded yet.

    ids: of all of it, those of text around its spans included; spans: mtmd's chunk of each span,
    and the span's ids; owner: what keeps the chunks alive.
    """

    ids: list[int]
    spans: list[tuple[Any, list[int]]]
    owner: Any


class Chunks:
    """A list of mtmd's chunks, freed with this object."""

    def __init__(self) -> None:
        self.pointer = mtmd_cpp.mtmd_input_chunks_init()
        weakref.finalize(self, mtmd_cpp.mtmd_input_chunks_free, self.pointer).atexit = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the chunks."""
        for number in range(mtmd_cpp.mtmd_input_chunks_size(self.pointer)):
            yield mtmd_cpp.mtmd_input_chunks_get(self.pointer, number)


class Projector:
    """A loaded mmproj file.

    model: llama.cpp's pointer to the language model; threads: how many encode; flash_attn: a key of
    FLASH_ATTENTION; check_open: called while it is loaded, ends that with what it raises. Raises
    StartError.
    """

    def __init__(
        self,
        path: Path,
        model: Any,
        *,
        use_gpu: bool,
        threads: int,
        flash_attn: str,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        _check_api()
        mtmd_cpp.mtmd_helper_log_set(LOG_CAPTURE.callback, None)
        self.path = path
        self.width = int(llama_cpp.llama_model_n_embd_inp(model))  # numbers of an embedding
        failure: list[BaseException] = []
        params = _params(use_gpu=use_gpu, threads=threads, flash_attn=flash_attn)
        progress = mtmd_cpp.mtmd_progress_callback(_reporting(check_open, failure))
        params.progress_callback = progress
        LOG_CAPTURE.first_error = ""
        with LOG_CAPTURE.capturing() as self._log:
            self._context = mtmd_cpp.mtmd_init_from_file(str(path).encode(), model, params)
        if failure:
            raise failure[0]
        if not self._context:
            raise StartError(_no_context(path))
        weakref.finalize(self, mtmd_cpp.mtmd_free, self._context).atexit = False
        if not mtmd_cpp.mtmd_support_vision(self._context):
            raise StartError(f"{path} is for sounds, not for pictures, which this program reads")
        self._sees_all = bool(mtmd_cpp.mtmd_decode_use_non_causal(self._context, None))
        self._uses_mrope = bool(mtmd_cpp.mtmd_decode_use_mrope(self._context))

    def memory(self) -> tuple[str, float]:
        """Return the device that encodes pictures, and the bytes that this takes, by the log."""
        devices = [found[1] for found in map(DEVICE.search, self._log) if found]
        sizes = [float(found[1]) for found in map(SIZES.search, self._log) if found]
        return devices[-1] if devices else "CPU", sum(sizes) * MIB

    # -- any thread

    def count_tokens(self, width: int, height: int) -> int:
        """Return how many tokens a picture of this size in pixels has; raises Unusable."""
        chunks = self._tokenize(width, height, None)
        return sum(mtmd_cpp.mtmd_input_chunk_get_n_tokens(one) for one in chunks)

    def prepare(self, width: int, height: int, pixels: bytes) -> Prepared:
        """Return a picture's tokens; pixels: RGB, uint8 [height, width, 3]. Raises Unusable."""
        chunks = self._tokenize(width, height, pixels)
        content = hashlib.sha256(b"%d %d " % (width, height) + pixels).digest()
        prepared = Prepared([], [], chunks)
        for number, chunk in enumerate(chunks):
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == TEXT:
                prepared.ids.extend(_text_tokens(chunk))
                continue
            ids = self._span_ids(chunk, content + b"%d" % number)
            prepared.ids.extend(ids)
            prepared.spans.append((chunk, ids))
        return prepared

    def _tokenize(self, width: int, height: int, pixels: bytes | None) -> Chunks:
        chunks = Chunks()
        marker = mtmd_cpp.mtmd_default_marker()
        text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
        data = None if pixels is None else (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data)
        LOG_CAPTURE.first_error = ""
        try:
            bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
            result = mtmd_cpp.mtmd_tokenize(
                self._context, chunks.pointer, ctypes.byref(text), bitmaps, 1
            )
        finally:
            mtmd_cpp.mtmd_bitmap_free(bitmap)
        if result:
            raise Unusable(LOG_CAPTURE.first_error[:MAX_REASON] or f"mtmd_tokenize: {result}")
        return chunks

    def _span_ids(self, chunk: Any, content: bytes) -> list[int]:
        tokens = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))
        positions = int(mtmd_cpp.mtmd_input_chunk_get_n_pos(chunk))
        if self._sees_all and tokens > UBATCH_TOKENS:
            raise Unusable(f"{tokens} tokens that see each other")
        try:
            return span_ids(content, tokens, positions)
        except ValueError as error:
            raise Unusable(str(error)) from None

    # -- one thread at a time

    def try_largest(self, most: int) -> None:
        """Encode the largest blank picture of at most `most` tokens.

        It allocates a card's memory at the start: llama.cpp ends the process where there is none.
        """
        side = MAX_SIDE
        while side > LEAST_SIDE and self.count_tokens(side, side) > most:
            side = side * 4 // 5
        prepared = self.prepare(side, side, bytes(3 * side * side))
        for chunk, ids in prepared.spans[:1]:
            self.encode(chunk, ids)

    def encode(self, chunk: Any, ids: list[int]) -> Encoded:
        """Return a span's embeddings; may take seconds. Raises RuntimeError."""
        LOG_CAPTURE.first_error = ""
        result = mtmd_cpp.mtmd_encode_chunk(self._context, chunk)
        if result:
            raise RuntimeError(f"mtmd_encode_chunk() returned {result}: {LOG_CAPTURE.first_error}")
        shape = (len(ids), self.width)
        output = mtmd_cpp.mtmd_get_output_embd(self._context)
        embeddings = numpy.ctypeslib.as_array(output, shape=shape).copy()
        offsets = _offsets(chunk, len(ids)) if self._uses_mrope else None
        return Encoded(ids, embeddings, offsets, self._sees_all)


def _check_api() -> None:
    """Raise StartError if the library is not the one that this program was written for."""
    changed = [
        name
        for name, count in API.items()
        if len(getattr(getattr(mtmd_cpp, name, None), "argtypes", None) or ()) != count
    ]
    if changed:
        raise StartError(
            f"llama-cpp-python {llama_cpp.__version__} is not the one that this program was "
            f"written for: {', '.join(changed[:3])} changed; without --mmproj it reads text"
        )


def _params(*, use_gpu: bool, threads: int, flash_attn: str) -> Any:
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.print_timings = use_gpu, threads, False
    params.flash_attn_type = FLASH_ATTENTION[flash_attn]
    return params


def _reporting(
    check_open: Callable[[], None], failure: list[BaseException]
) -> Callable[[float, Any], bool]:
    """Return a progress callback that ends loading with what check_open() raises."""

    def report(share: float, _: Any) -> bool:
        try:
            check_open()
        except BaseException as error:  # noqa: BLE001 - C code passes no exception on
            failure.append(error)
        return not failure

    return report


def _no_context(path: Path) -> str:
    reason = " ".join(LOG_CAPTURE.first_error.split()) or "llama.cpp does not say why"
    if widths := MISMATCH.search(reason):
        return (
            f"{path} belongs to another model: its embeddings have {widths[2]} numbers, those of "
            f"the language model {widths[1]}"
        )
    return f"{path} cannot be loaded: {reason[:MAX_REASON]}"


def _text_tokens(chunk: Any) -> list[int]:
    count = ctypes.c_size_t()
    tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    found = list(tokens[: count.value])
    if min(found) < 0:
        raise Unusable("the language model lacks a token that belongs around pictures")
    return found


def _offsets(chunk: Any, count: int) -> Any:
    """Return M-RoPE's positions of a span's tokens, relative to it: int32 [SECTIONS, tokens]."""
    tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk)
    offsets = numpy.empty((SECTIONS, count), numpy.int32)
    for number in range(count):
        at = mtmd_cpp.mtmd_image_tokens_get_decoder_pos(tokens, 0, number)
        offsets[:, number] = at.t, at.y, at.x, at.z
    return offsets
