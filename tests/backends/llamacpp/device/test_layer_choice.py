"""How many layers go on graphics cards, by figures of cards that are not here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp.batching.context_params import ContextOptions
from backends.llamacpp.device import devices, layer_choice
from backends.llamacpp.device.layer_choice import (
    ALL,
    Cards,
    Sizes,
    explain,
    fitting_layers,
    read_cards,
    read_sizes,
)
from kuwa_min.errors import StartError
from tests.support.models import tiny_ggufs

MIB = 2**20
LOG = """\
llama_prepare_model_devices: using device CUDA0 (NVIDIA A10) (0000:01:00.0) - 22000 MiB free
llama_prepare_model_devices: using device CUDA1 (NVIDIA A10) (0000:02:00.0) - 8000 MiB free
load_tensors:        CUDA0 model buffer size =     0.00 MiB
llama_kv_cache_iswa: creating non-SWA KV cache, size = 4096 cells
llama_kv_cache: size =  360.00 MiB (  4096 cells,  30 layers,  4/4 seqs), K (f16):  180.00 MiB, ...
llama_memory_recurrent: size =   40.00 MiB (     4 cells,  30 layers,  4 seqs), R (f32): ...
sched_reserve:      CUDA0 compute buffer size =    31.79 MiB
sched_reserve:  CUDA_Host compute buffer size =    21.68 MiB
""".splitlines()
SIZES = Sizes([100 * MIB] * 10, 200 * MIB)


def cards(*free: float, compute: float = 0, kv_cache: float = 100) -> Cards:
    """Return cards; memory in MiB."""
    names = [f"CUDA{number}" for number in range(len(free))]
    return Cards(
        {name: memory * MIB for name, memory in zip(names, free, strict=True)},
        dict.fromkeys(names, compute * MIB),
        kv_cache * MIB,
    )


def test_the_log_says_what_cards_have_and_buffers_take() -> None:
    """Of all caches; a card without a line about its buffer has none."""
    found = read_cards(LOG)
    assert found.free == {"CUDA0": 22000 * MIB, "CUDA1": 8000 * MIB}
    assert found.compute == {"CUDA0": pytest.approx(31.79 * MIB), "CUDA1": 0}
    assert found.kv_cache == pytest.approx(400 * MIB)
    assert read_cards([]) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("free", "more", "shares", "layers"),
    [
        ((16000,), {}, (), ALL),
        ((1600,), {}, (), ALL),  # an eighth is kept: 1400 are left for 200 + 10 * 110
        ((1400,), {}, (), 10),  # 1225: 200 + 9 * 110 and no more
        ((1600,), {"compute": 300}, (), 9),
        ((1600,), {"kv_cache": 1500}, (), 5),
        ((240,), {}, (), 1),  # the output layer
        ((200,), {}, (), 0),
        ((0,), {}, (), 0),
        ((), {}, (), 0),
        ((800, 800), {}, (), 10),  # of each, one layer less than 700
        ((1000, 1000), {}, (), ALL),
        ((1000, 1000), {}, (3.0, 1.0), 8),  # three quarters must fit on the first: 775 / 0.75
        ((1600, 10), {}, (1.0,), ALL),  # nothing goes on the second
        ((1600, 10), {}, (1.0, 0.0, 0.0), ALL),
    ],
)
def test_as_many_as_fit(
    free: Sequence[float], more: dict[str, float], shares: Sequence[float], layers: int
) -> None:
    """Beside compute buffers, their part of the KV cache, and a reserve."""
    assert fitting_layers(SIZES, cards(*free, **more), shares) == layers


def test_what_is_loaded_beside_it_has_room() -> None:
    """Such as the mmproj file."""
    assert fitting_layers(SIZES, cards(1600), taken=400 * MIB) == 8


def test_a_large_card_keeps_a_bounded_reserve() -> None:
    """One GiB of eighty."""
    sizes = Sizes([4000 * MIB] * 19, 2000 * MIB)
    assert fitting_layers(sizes, cards(79500, kv_cache=0)) == ALL


def test_the_choice_is_said_with_figures() -> None:
    """Of weights, chats and cards."""
    assert explain(10, SIZES, cards(1400, 100)) == (
        "--ngl auto puts 10 of 11 layers on graphics cards: weights take 1.3 GB, what is "
        "remembered of chats 0.1 GB, and free are CUDA0 1.5 GB, CUDA1 0.1 GB"
    )
    assert explain(ALL, SIZES, cards(1400)).startswith("--ngl auto puts 11 of 11 layers on")


def test_sizes_are_those_of_the_tensors(tmp_path: Path) -> None:
    """All of them, in the file; the embeddings serve as an output layer where there is none."""
    path = tiny_ggufs.write_gguf(tmp_path / "tiny.gguf", "llama")
    sizes = read_sizes(path)
    assert len(set(sizes.blocks)) == 1
    assert sizes.output > 0
    rest = path.stat().st_size - sum(sizes.blocks) - sizes.output
    assert 0 < rest < path.stat().st_size / 2


def choose(path: Path, length: int = 256) -> int:
    """Return the choice for one slot."""
    options = ContextOptions(1, flash_attn="auto", cache_type="f16")
    return layer_choice.choose(
        path, options, visible_gpu=None, tensor_split=(), slots=1, length=length
    )


def test_without_cards_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even the file is opened."""
    monkeypatch.setattr(devices, "can_use_cards", lambda *_: False)
    assert choose(tmp_path / "none.gguf") == 0


def test_what_a_card_refuses_is_left_to_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason, in one line."""

    def refuse(*_: Any, **__: Any) -> list[str]:
        raise StartError("no card holds it")

    monkeypatch.setattr(devices, "can_use_cards", lambda *_: True)
    monkeypatch.setattr(layer_choice, "_log_without_weights", refuse)
    assert choose(tmp_path / "none.gguf") == 0
    assert caplog.messages == ["--ngl auto leaves all to the processor: no card holds it"]


@pytest.mark.slow
@pytest.mark.parametrize(("free", "layers"), [(22000, ALL), (0, 0)])
def test_a_model_is_looked_at_without_its_weights(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    free: int,
    layers: int,
) -> None:
    """By llama.cpp itself, which is told here what card there is."""
    from backends.llamacpp import bindings

    bindings.prepare()
    caplog.set_level(logging.INFO)
    real = layer_choice._log_without_weights

    def with_card(*arguments: Any, **more: Any) -> list[str]:
        return [LOG[0].replace("22000", str(free)), *real(*arguments, **more)]

    monkeypatch.setattr(devices, "can_use_cards", lambda *_: True)
    monkeypatch.setattr(layer_choice, "_log_without_weights", with_card)
    assert choose(tiny_ggufs.write_gguf(tmp_path / "tiny.gguf", "llama"), 0) == layers
    assert "layers on graphics cards: weights take 0.0 GB" in caplog.messages[0]
    assert (caplog.records[0].levelname == "INFO") is bool(layers)
