"""Choose graphics cards and a number format for a model; say what the cards are.

A model that fits on one card is faster there: divided, only one card computes at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)

GB = 10**9
SHARE, BASE = 1.05, 10**9  # of the weights, and bytes: CUDA's context, workspaces, one step
BFLOAT16_SINCE = (8, 0)  # compute capability; older cards emulate it
# Model types whose activations exceed float16's range, or that are known to be unstable in it.
OVERFLOWING = ("gemma", "t5", "mt5", "umt5", "longt5", "glm4", "plamo2")


class Card(NamedTuple):
    """A graphics card that torch can use."""

    index: int
    name: str
    total: int  # bytes of its memory
    capability: tuple[int, int]  # NVIDIA's compute capability

    def __str__(self) -> str:
        """Name it as the log does: cuda:0 (NVIDIA L4)."""
        return f"cuda:{self.index} ({self.name})"

    def free(self) -> int:
        """Return the bytes that are free, 0 where another program fills it.

        That begins CUDA's context there, which takes some 0.4 GB as long as the process lives.
        """
        try:
            return int(torch.cuda.mem_get_info(self.index)[0])
        except RuntimeError as error:  # not even its context finds room
            logger.debug("cuda:%d does not tell its memory: %s", self.index, error)
            return 0


def found() -> list[Card]:
    """Return all cards."""
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        Card(index, one.name, one.total_memory, (one.major, one.minor))
        for index, one in enumerate(properties)
    ]


def needed_bytes(weights: int, config: Any, tokens: int, itemsize: int) -> int:
    """Estimate the bytes of a model that computes; weights: their bytes.

    tokens: of all chats together; itemsize: bytes of a number in the KV cache.
    """
    return int(weights * SHARE) + BASE + kv_bytes(config, itemsize) * tokens


def kv_bytes(config: Any, itemsize: int) -> int:
    """Return the bytes that a token takes in the KV cache; 0 if the configuration is unusual."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None) or 0
    size = getattr(text, "head_dim", None)
    if not size and heads:
        size = (getattr(text, "hidden_size", None) or 0) // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    layers = getattr(text, "num_hidden_layers", None) or 0
    return 2 * int(layers) * int(kv_heads) * int(size or 0) * itemsize


def half_precision(config: Any, cards: Iterable[Card]) -> str:
    """Return "float16" for a bfloat16 model on a card that only emulates that, else "auto".

    Models that overflow in float16 keep their format: slow and right is better than NaN.
    """
    text = config.get_text_config(decoder=True)
    stored = getattr(config, "dtype", None) or getattr(text, "dtype", None)
    old = [card for card in cards if card.capability < BFLOAT16_SINCE]
    is_quantised = getattr(config, "quantization_config", None) is not None
    if not old or stored != torch.bfloat16 or is_quantised or torch.version.hip:
        return "auto"
    if str(config.model_type).startswith(OVERFLOWING):
        logger.warning(
            "%s emulates bfloat16, which is slow; %s keeps it, as its numbers overflow in float16",
            *(old[0].name, config.model_type),
        )
        return "auto"
    logger.info("float16 in place of bfloat16, which %s only emulates", old[0].name)
    return "float16"


def free_bytes(device: torch.device) -> float:
    """Return the memory of a GPU that torch has free or can take; no bound for a processor."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + unused)


def memory(devices: Iterable[torch.device]) -> list[dict[str, Any]]:
    """Return what these GPUs are, and their memory in bytes, for /status; reads no tensor."""
    return [
        {
            "device": str(device),
            "name": torch.cuda.get_device_name(device),
            "allocated": int(torch.cuda.memory_allocated(device)),
            **dict(zip(("free", "total"), map(int, torch.cuda.mem_get_info(device)), strict=True)),
        }
        for device in devices
    ]


def on_one(cards: Sequence[Card], needed: int) -> str | None:
    """Return the device of the first card with room for a model, None if it must be divided.

    Those behind it are not asked, which would take memory of them. Logs why.
    """
    need = f"about {needed / GB:.1f} GB with its chats"
    for card in cards:
        free = card.free() if needed <= card.total else 0
        if needed <= free:
            logger.info(
                "%s has room for the model, %s; --device_map balanced divides it", card, need
            )
            return f"cuda:{card.index}"
    logger.warning(
        "the model needs %s, more than one card has free: it is divided among %s, which compute "
        "in turn",
        *(need, ", ".join(map(str, cards))),
    )
    return None
