"""Choose how many layers go on graphics cards: as many as fit beside what chats need.

llama.cpp loads a model without its weights, creates the context, and logs how much memory cards
have and buffers take; how large layers are is in the file's header.
"""

# The arithmetic. Of N layers on cards, the first is the output layer, then come the last blocks. A
# card also holds its blocks' part of the KV cache, and a compute buffer. llama.cpp divides layers
# among cards by their free memory, or as --tensor_split says; so their memory counts as one, less a
# reserve on each: CUDA's pools and workspaces come later, and other programs may want some.

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import llama_cpp

from backends._local.model_files import gguf
from backends.llamacpp import bindings
from backends.llamacpp.batching import context_params
from backends.llamacpp.batching.context_params import PADDING, ContextOptions
from backends.llamacpp.bindings import LOG_CAPTURE
from backends.llamacpp.loading.gguf_model import load
from backends.llamacpp.loading.tensor_overrides import TensorOverride, off_cards
from kuwa_min.errors import StartError

from . import devices, kv_tensors
from .device_memory import LATEST, by_device

logger = logging.getLogger(__name__)

ALL = -1
BLOCK = re.compile(r"blk\.(\d+)\.")  # begins the name of a block's tensor
OUTPUT, EMBEDDINGS = "output.weight", "token_embd.weight"  # the latter serves as the former, too
# llama_prepare_model_devices: using device CUDA0 (NVIDIA H100) (0000:01:00.0) - 80000 MiB free
FREE = re.compile(r"using device (\S+) .* - (\d+) MiB free")
KV_CACHE = re.compile(r"_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB")
MIB, GB = 2**20, 1e9
RESERVE_SHARE, MAX_RESERVE = 8, 2**30  # 1/8 of a card's free memory; bytes at most


class Sizes(NamedTuple):
    """The bytes of a model's weights."""

    blocks: list[int]  # in their order
    output: int  # of the output layer


class Cards(NamedTuple):
    """What a context without memory says of the cards, in bytes."""

    free: Mapping[str, float]  # device -> before anything is loaded
    compute: Mapping[str, float]  # device -> compute buffer
    kv_cache: float  # of all layers and slots, wherever they are


def choose(
    path: Path,
    options: ContextOptions,
    *,
    visible_gpu: str | None,
    tensor_split: Sequence[float],
    overrides: Sequence[TensorOverride] = (),
    slots: int,
    length: int,
    beside: Sequence[Path] = (),
) -> int:
    """Return how many layers to put on cards, and log it; 0 without cards that can be used.

    length: of each slot in tokens; beside: files of what is loaded to a card, too. Raises
    StartError if not all cards that the options name can be used.
    """
    if not devices.can_use_cards(visible_gpu, tensor_split):
        return 0
    try:
        log = _log_without_weights(path, options, tensor_split, slots=slots, length=length)
    except StartError as error:
        logger.warning("--ngl auto leaves all to the processor: %s", error)
        return 0
    sizes, cards = read_sizes(path, overrides), read_cards(log)
    taken = sum(file.stat().st_size for file in beside)
    layers = fitting_layers(sizes, cards, tensor_split, taken=taken)
    logger.log(logging.INFO if layers else logging.WARNING, "%s", explain(layers, sizes, cards))
    return layers


def _log_without_weights(
    path: Path, options: ContextOptions, tensor_split: Sequence[float], *, slots: int, length: int
) -> list[str]:
    """Return what llama.cpp logs about a model on cards and a context, neither of which has memory.

    Raises StartError, also if a card cannot hold the KV cache.
    """

    def create(slots: int, length: int) -> None:
        flag = ctypes.create_string_buffer(2)
        context = context_params.create(model, options, slots=slots, length=length, abort_flag=flag)
        llama_cpp.llama_free(context)

    with LOG_CAPTURE.capturing() as log:
        model = load(
            path,
            lambda done, total: None,
            gpu_layers=ALL,
            tensor_split=tensor_split,
            without_weights=True,
        )
        try:
            length = length or int(llama_cpp.llama_model_n_ctx_train(model))
            create(1, PADDING)
            kv_tensors.check(log, bindings.device_takes, slots=slots, length=length)
            about_model = [line for line in log if FREE.search(line)]
            log.clear()
            create(slots, length)
        finally:
            llama_cpp.llama_model_free(model)
    return about_model + log


def read_sizes(path: Path, overrides: Sequence[TensorOverride] = ()) -> Sizes:
    """Return the sizes of a model's layers, from the headers of its files.

    overrides: what they put on the processor does not count.
    """
    tensors: dict[str, int] = {}
    for part in gguf.parts(path):
        tensors |= gguf.check_file(part).sizes
    blocks: dict[int, int] = {}
    elsewhere = off_cards(tensors, overrides)
    for name, size in tensors.items():
        if found := BLOCK.match(name):
            number = int(found[1])
            blocks[number] = blocks.get(number, 0) + (0 if name in elsewhere else size)
    output = tensors.get(OUTPUT, tensors.get(EMBEDDINGS, 0))
    return Sizes([blocks[number] for number in sorted(blocks)], output)


def read_cards(log: Iterable[str]) -> Cards:
    """Return what llama.cpp logged about cards."""
    lines = list(log)
    free = {found[1]: int(found[2]) * MIB for found in map(FREE.search, lines) if found}
    buffers = by_device(lines)
    compute = {name: buffers.get(name, {}).get(LATEST, 0.0) for name in free}
    sizes = [float(found[1]) * MIB for found in map(KV_CACHE.search, lines) if found]
    return Cards(free, compute, sum(sizes))


def fitting_layers(
    sizes: Sizes, cards: Cards, shares: Sequence[float] = (), *, taken: float = 0
) -> int:
    """Return how many layers fit on the cards: ALL, or as --ngl counts them.

    shares: of --tensor_split; taken: bytes that something else needs.
    """
    room = _room(cards, shares, largest=max(sizes.blocks, default=0))
    kv_cache = cards.kv_cache / max(1, len(sizes.blocks))
    room -= sizes.output + taken
    if room < 0:
        return 0
    count = 1
    for block in reversed(sizes.blocks):
        room -= block + kv_cache
        if room < 0:
            return count
        count += 1
    return ALL


def _room(cards: Cards, shares: Sequence[float], *, largest: float) -> float:
    """Return the bytes that all cards together have for layers, whose largest one is given."""
    free = list(cards.free.values())
    left = [
        max(0.0, memory - cards.compute[name] - min(memory / RESERVE_SHARE, MAX_RESERVE))
        for name, memory in cards.free.items()
    ]
    if len(left) > 1:  # a card gets whole layers, so up to one more than its share
        left = [max(0.0, memory - largest) for memory in left]
    parts = [*shares, *[0.0] * len(free)][: len(free)] if shares else free
    used = [(memory, part) for memory, part in zip(left, parts, strict=True) if part]
    return min((memory * sum(parts) / part for memory, part in used), default=0.0)


def explain(layers: int, sizes: Sizes, cards: Cards) -> str:
    """Return the line of the log about a choice, with figures."""
    total = len(sizes.blocks) + 1
    weights = (sum(sizes.blocks) + sizes.output) / GB
    free = ", ".join(f"{name} {memory / GB:.1f} GB" for name, memory in cards.free.items())
    count = total if layers == ALL else layers
    return (
        f"--ngl auto puts {count} of {total} layers on graphics cards: weights take {weights:.1f} "
        f"GB, what is remembered of chats {cards.kv_cache / GB:.1f} GB, and free are {free}"
    )
