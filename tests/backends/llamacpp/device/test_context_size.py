"""The longest slots that fit, by logs and memory that are made up."""

from __future__ import annotations

import logging
import math

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp.device import context_size
from backends.llamacpp.device.context_size import Demand, choose, demands, room_of

MIB = 2**20
LENGTHS = (256, 4096)


def log(here: float, card: float, compute: float) -> list[str]:
    """Return the log lines about a context; sizes in MiB."""
    return [
        f"llama_kv_cache:        CPU KV buffer size =  {here:.2f} MiB",
        f"llama_kv_cache:  CUDA_Host KV buffer size =  {here:.2f} MiB",
        f"llama_kv_cache:      CUDA0 KV buffer size =  {card:.2f} MiB",
        "llama_memory_recurrent:      CUDA0 RS buffer size =  16.00 MiB",
        "load_tensors:      CUDA0 model buffer size =  900.00 MiB",
        f"sched_reserve:      CUDA0 compute buffer size =  {compute:.2f} MiB",
    ]


def test_two_contexts_say_what_any_other_takes() -> None:
    """Of each device; weights are no part of it, and all of the machine's memory is one device."""
    found = demands(log(1, 2, 40), log(16, 32, 70), LENGTHS)
    assert set(found) == {"CPU", "CUDA0"}
    card = found["CUDA0"]
    assert card.total(1, 4096) == pytest.approx((32 + 16 + 70) * MIB)
    assert card.total(3, 256) == pytest.approx((3 * 18 + 40) * MIB)
    assert found["CPU"].total(2, 8192) == pytest.approx(2 * 64 * MIB)
    assert card.longest(2, card.total(2, 10_000)) == pytest.approx(10_000)
    assert card.longest(2, 0) == 0


@pytest.mark.parametrize(
    ("room", "slots", "trained", "length"),
    [
        (100e9, 1, 8192, 8192),  # as the model was trained
        (1e9, 1, 100_000, 9984),  # 10,000, less the compute buffer, in steps of 256
        (1e9, 4, 100_000, 2304),
        (1e6, 4, 100_000, 256),  # the check of memory then says what is missing
        (math.inf, 4, 1000, 1000),
    ],
)
def test_the_longest_that_fits(
    room: float,
    slots: int,
    trained: int,
    length: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of all slots on all devices, in one line with figures."""
    caplog.set_level(logging.INFO)
    needed = {"CPU": Demand(0, 1e5, 1e6, 0), "CUDA0": Demand(0, 1, 0, 0)}
    found = choose(needed, lambda _: room, lambda _: True, slots=slots, trained=trained)
    assert found == length
    begin = f"--context_window auto: {length:,} tokens for each of {slots} chats, of {trained:,} "
    assert [line.startswith(begin) for line in caplog.messages] == [True]
    assert " GB on CPU, 0.0 of " in caplog.messages[0]


def test_the_tightest_device_decides() -> None:
    """A card, here."""
    needed = {"CPU": Demand(0, 1e5, 0, 0), "CUDA0": Demand(0, 1e5, 0, 0)}
    rooms = {"CPU": 10e9, "CUDA0": 1e8}
    assert choose(needed, rooms.__getitem__, lambda _: True, slots=1, trained=50_000) == 768


def test_what_a_card_cannot_address_is_halved() -> None:
    """Down to the least."""
    needed = {"CUDA0": Demand(0, 1, 0, 0)}
    for most, length in ((20_000, 16384), (100, 256)):
        found = choose(
            needed, lambda _: 1e12, lambda one, most=most: one <= most, slots=1, trained=32768
        )
        assert found == length


def test_weights_in_the_file_are_not_free() -> None:
    """Nor all of what is; unknown memory is no limit."""
    assert room_of("CPU", free=9e9, mapped=1e9) == 6e9
    assert room_of("CPU", free=1e9, mapped=2e9) == 0
    assert room_of("CUDA0", free=8e9, mapped=1e9) == 7e9
    assert room_of("CUDA0", free=None, mapped=0) == math.inf
    assert context_size.LENGTHS == LENGTHS
