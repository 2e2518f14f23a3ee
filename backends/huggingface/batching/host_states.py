"""The keys and values of a slot as one buffer in host memory: what the prompt cache parks.

A buffer begins with its layout as JSON, so that one from disk is checked against this model, and
can be restored before the first forward pass has allocated anything.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch

logger = logging.getLogger(__name__)

HEAD = struct.Struct("<Q")  # bytes of the layout
ALIGNMENT = 64  # bytes; of the numbers behind it


class Layer(Protocol):
    """A layer of a KV cache; name: "keys" or "values"; where: a slot, as the cache has it."""

    is_initialized: bool

    def head_shape(self, name: str) -> tuple[int, int]:
        """Return the number of heads, and their size."""

    def read(self, name: str, where: Any, tokens: int) -> torch.Tensor:
        """Return a slot's first tokens: [heads, tokens, head size]."""

    def write(self, name: str, where: Any, numbers: torch.Tensor) -> None:
        """Write a slot's first tokens."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers."""


Layers = Sequence[Layer]


class Part(NamedTuple):
    """The keys or values of one layer."""

    layer: int
    name: str  # "keys" or "values"
    dtype: str  # of torch, without its name
    device: str
    heads: int
    size: int  # of a head

    def count(self, tokens: int) -> int:
        """Return the number of elements for `tokens` tokens."""
        return self.heads * tokens * self.size


def layout(layers: Layers) -> list[Part]:
    """Return the parts of a slot's state, in the order in which they are stored."""
    return [
        Part(at, name, str(dtype).removeprefix("torch."), str(device), *layer.head_shape(name))
        for at, layer in enumerate(layers)
        if layer.is_initialized
        for name in ("keys", "values")
        for dtype, device in [(getattr(layer, name).dtype, getattr(layer, name).device)]
    ]


def state_bytes(layers: Layers, tokens: int) -> int:
    """Return the bytes that torch allocates for a state of `tokens` tokens."""
    parts = layout(layers)
    size = len(_head(parts)) + sum(_nbytes(part, tokens) for part in parts)
    return 1 << (size - 1).bit_length() if _is_pinned(parts) else size  # a power of two


def save(layers: Layers, where: Any, tokens: int) -> Any:
    """Return the first tokens of a slot as a numpy array of bytes; waits for the copies only."""
    parts = layout(layers)
    head = _head(parts)
    size = len(head) + sum(_nbytes(part, tokens) for part in parts)
    state = _empty(size, pinned=_is_pinned(parts))
    state[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    for part, stored in _stored(state, parts, len(head), tokens):
        stored.copy_(layers[part.layer].read(part.name, where, tokens), non_blocking=True)
    for device in {part.device for part in parts}:
        if device.startswith("cuda"):
            torch.cuda.current_stream(device).synchronize()
    return state.numpy()


def read_layout(state: Any) -> list[Part]:
    """Return the layout of a state; raises ValueError if it has none."""
    view = memoryview(state).cast("B")
    try:
        (size,) = HEAD.unpack(view[: HEAD.size])
        return [Part(*one) for one in json.loads(bytes(view[HEAD.size : HEAD.size + size]))]
    except (struct.error, TypeError) as error:
        raise ValueError(str(error)) from None


def restore(layers: Layers, where: Any, state: Any, tokens: int, length: int) -> bool:
    """Write the first `length` of a state's tokens to a slot; return false if it does not fit."""
    parts = read_layout(state)
    head = len(_head(parts))
    whole = torch.frombuffer(state, dtype=torch.uint8)
    if parts != layout(layers) or len(whole) != head + sum(_nbytes(one, tokens) for one in parts):
        return False
    for part, stored in _stored(whole, parts, head, tokens):
        layers[part.layer].write(part.name, where, stored[:, :length])
    return True


def allocate(layers: Layers, parts: Sequence[Part]) -> None:
    """Allocate the buffers of layers that no forward pass has reached, as a state has them."""
    for keys, values in zip(parts[::2], parts[1::2], strict=True):
        if not layers[keys.layer].is_initialized:
            layers[keys.layer].lazy_initialization(_like(keys), _like(values))


def _like(part: Part) -> torch.Tensor:
    dtype, device = getattr(torch, part.dtype), torch.device(part.device)
    return torch.empty(1, part.heads, 0, part.size, dtype=dtype, device=device)


def _head(parts: Sequence[Part]) -> bytes:
    text = json.dumps(parts).encode()
    text += b" " * (-(HEAD.size + len(text)) % ALIGNMENT)
    return HEAD.pack(len(text)) + text


def _nbytes(part: Part, tokens: int) -> int:
    dtype: torch.dtype = getattr(torch, part.dtype)
    return part.count(tokens) * dtype.itemsize


def _stored(
    state: torch.Tensor, parts: Sequence[Part], at: int, tokens: int
) -> Iterator[tuple[Part, torch.Tensor]]:
    """Yield each part of a state as [heads, tokens, head size]."""
    for part in parts:
        end = at + _nbytes(part, tokens)
        numbers = state[at:end].view(getattr(torch, part.dtype))
        yield part, numbers.view(part.heads, tokens, part.size)
        at = end


def _is_pinned(parts: Sequence[Part]) -> bool:
    return any(part.device.startswith("cuda") for part in parts)


def _empty(size: int, *, pinned: bool) -> torch.Tensor:
    """Return host memory; pinned: that a GPU copies to faster, if the system gives such."""
    if pinned:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            logger.debug("no pinned memory for a parked chat: %s", error)
    return torch.empty(size, dtype=torch.uint8)
