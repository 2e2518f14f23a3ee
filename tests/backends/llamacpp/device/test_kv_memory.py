"""The check that the KV cache fits into memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends._local.machine import free_memory
from backends.llamacpp.device import kv_memory
from kuwa_min.errors import StartError

ATTENTION = (
    "llama_kv_cache: size =   32.00 MiB (   256 cells,  32 layers,  1/1 seqs), "
    "K (f16):   16.00 MiB, V (f16):   16.00 MiB"
)
STATE = (
    "llama_memory_recurrent: size =    8.00 MiB (     1 cells,  64 layers,  1 seqs  0 rs_seq), "
    "R (f32):    1.00 MiB, S (f32):    7.00 MiB, P (f32):    0.00 MiB"
)
# Some of the layers on a graphics card: half of what is remembered of chats lies here.
PARTIAL = (
    "llama_kv_cache:        CPU KV buffer size =    10.00 MiB",
    "llama_kv_cache:  CUDA_Host KV buffer size =     6.00 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =    16.00 MiB",
    ATTENTION,
)
WHOLE = ("llama_kv_cache:      CUDA0 KV buffer size =    32.00 MiB", ATTENTION)
STATES = (
    "llama_memory_recurrent:    Vulkan0 RS buffer size =     6.00 MiB",
    "llama_memory_recurrent:        CPU RS buffer size =     2.00 MiB",
    STATE,
)
OTHER = (
    "load_tensors:   CPU_Mapped model buffer size =   999.00 MiB",
    "creating, size = 256 cells",
)


@pytest.fixture(autouse=True)
def sixteen_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a machine with 12 GiB of free memory and 4 GiB of free swap space."""
    meminfo = tmp_path / "meminfo"
    lines = ("MemTotal: 99999999 kB", "MemAvailable: 12582912 kB", "SwapFree:  4194304 kB")
    meminfo.write_text("\n".join([*lines, "HugePages_Total:       0", ""]), encoding="ascii")
    monkeypatch.setattr(free_memory, "MEMINFO", meminfo)


@pytest.mark.parametrize(
    ("said", "rows", "length"),
    [
        ([*OTHER, ATTENTION], 8, 4096 * 4),
        ([ATTENTION, ATTENTION], 8, 4096 * 2),
        ([STATE], 2048, 10**9),
        ([*OTHER], 10**6, 10**6),
        ([], 1, 10**9),
    ],
)
def test_what_fits_passes(said: list[str], rows: int, length: int) -> None:
    """To the last byte; so does what llama.cpp logs nothing about."""
    kv_memory.check(said, slots=rows, length=length)


@pytest.mark.parametrize(
    ("said", "rows", "length"),
    [([ATTENTION], 8, 4096 * 4 + 1), ([ATTENTION, STATE], 8, 4096 * 4), ([STATE], 2049, 1)],
)
def test_what_does_not_fit_is_one_line(said: list[str], rows: int, length: int) -> None:
    """With both amounts and what to lower."""
    with pytest.raises(StartError) as refused:
        kv_memory.check(said, slots=rows, length=length)
    assert str(refused.value) == (
        f"{length:,} tokens for each of {rows} chats take 17.2 GB, and 17.2 GB are free; lower "
        "--context_window or --concurrent_req_limit, or choose a smaller --cache_type"
    )


def test_a_system_that_does_not_say_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then llama.cpp finds out."""
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "none")
    kv_memory.check([ATTENTION], slots=10**6, length=10**6)


@pytest.mark.parametrize(
    ("said", "slots", "length", "fits"),
    [
        (PARTIAL, 8, 4096 * 8, True),
        (PARTIAL, 8, 4096 * 8 + 1, False),
        ([*PARTIAL, *WHOLE], 8, 4096 * 8, True),
        ([*WHOLE, *PARTIAL], 8, 4096 * 8 + 1, False),
        (WHOLE, 10**6, 10**6, True),
        (STATES, 8192, 10**9, True),
        (STATES, 8193, 1, False),
    ],
)
def test_layers_on_a_graphics_card_take_nothing_of_this_memory(
    said: tuple[str, ...], slots: int, length: int, fits: bool
) -> None:
    """Each cache by its own parts; the line names --ngl, too."""
    if fits:
        return kv_memory.check(said, slots=slots, length=length, uses_gpu=True)
    with pytest.raises(StartError, match=r"take 17.2 GB, and 17.2 GB are .*raise --ngl$"):
        kv_memory.check(said, slots=slots, length=length, uses_gpu=True)
    return None


@pytest.mark.parametrize(("mapped", "warned"), [(2**33, False), (2**33 + 1, True)])
def test_weights_that_do_not_fit_beside_are_said(
    caplog: pytest.LogCaptureFixture, mapped: int, warned: bool
) -> None:
    """Once, and nothing is refused: the system reads the file again."""
    kv_memory.check(PARTIAL, slots=8, length=4096 * 4, uses_gpu=True, mapped=mapped)
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == warned
    assert all("8.6 GB of weights and 8.6 GB for chats, and 17.2 GB are" in one for one in said)
