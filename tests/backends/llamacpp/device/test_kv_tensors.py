"""The check that each device takes the tensors of the KV cache."""

from __future__ import annotations

import pytest

from backends.llamacpp.device import kv_tensors
from kuwa_min.errors import StartError

LIMIT = 2**27  # bytes of one tensor, as Mesa's software device has it
# SmolLM2-135M: 192 numbers of 2 bytes in a layer's keys, as many in its values.
SMALL = (
    "llama_kv_cache:        CPU KV buffer size =     1.88 MiB",
    "llama_kv_cache:    Vulkan0 KV buffer size =     2.81 MiB",
    "llama_kv_cache: size =    5.62 MiB (   256 cells,  30 layers,  1/1 seqs), "
    "K (f16):    2.81 MiB, V (f16):    2.81 MiB",
)
# Gemma 3: a second cache, for the layers with a sliding window.
SLIDING = (
    "llama_kv_cache:      CUDA0 KV buffer size =     1.50 MiB",
    "llama_kv_cache: size =    1.50 MiB (   256 cells,   3 layers,  1/1 seqs), "
    "K (f16):    0.50 MiB, V (f16):    1.00 MiB",
)
OTHER = (
    "llama_kv_cache: layer   0: dev = Vulkan0",
    "llama_memory_recurrent:    Vulkan0 RS buffer size =     0.06 MiB",
    "llama_memory_recurrent: size =    8.00 MiB (     1 cells,  64 layers,  1 seqs  0 rs_seq), "
    "R (f32):    1.00 MiB, S (f32):    7.00 MiB, P (f32):    0.00 MiB",
)


def takes(device: str, size: int) -> bool:
    """Take what Vulkan0 has room for; the others take all."""
    return device != "Vulkan0" or size <= LIMIT


@pytest.mark.parametrize(
    ("log", "slots", "length"),
    [
        (SMALL, 16, 16_384),
        (SMALL[2:], 10**6, 10**6),
        (SMALL[:1] + SMALL[2:], 10**6, 10**6),
        (SLIDING, 10**6, 10**6),
        (OTHER, 10**6, 10**6),
        ((), 10**6, 10**6),
    ],
)
def test_what_the_devices_take_passes(log: tuple[str, ...], slots: int, length: int) -> None:
    """So does what llama.cpp says nothing about."""
    kv_tensors.check(log, takes, slots=slots, length=length)


@pytest.mark.parametrize(
    ("log", "slots", "length", "size", "fits"),
    [
        (SMALL, 16, 32_768, "202", "16,384"),
        (SMALL, 100, 8192, "315", "2,048"),
        ([*SMALL, *SLIDING], 16, 16_384, "360", "4,096"),
    ],
)
def test_what_a_device_does_not_take_is_one_line(
    log: list[str], slots: int, length: int, size: str, fits: str
) -> None:
    """With what it can hold, by the largest tensor of all layers."""
    with pytest.raises(StartError) as refused:
        kv_tensors.check(log, takes, slots=slots, length=length)
    assert str(refused.value) == (
        f"{length:,} tokens for each of {slots} chats take {size} MB in a layer, more than Vulkan0 "
        f"can hold as one tensor; lower --context_window (it can hold {fits}) or "
        "--concurrent_req_limit, or choose a smaller --cache_type"
    )
    kv_tensors.check(log, takes, slots=slots, length=int(fits.replace(",", "")))
