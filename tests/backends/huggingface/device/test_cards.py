"""The choice of cards and number formats; torch.cuda is replaced, as there is no GPU here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = pytest.mark.slow
GB = 10**9
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64}


def test_one_card_if_the_model_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first that has room; those behind it are not asked, nor those that are too small."""
    from backends.huggingface.device import cards

    asked = []

    def mem_get_info(index: int) -> tuple[int, int]:
        asked.append(index)
        if index == 1:  # no room for a context
            raise RuntimeError("CUDA error: out of memory")
        return index * 10 * GB, 40 * GB

    def properties(index: int) -> SimpleNamespace:
        total = 40 * GB if index else 15 * GB
        return SimpleNamespace(name=f"Card {index}", total_memory=total, major=8, minor=index)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    found = cards.found()
    assert [one.capability for one in found] == [(8, 0), (8, 1), (8, 2), (8, 3)]
    assert asked == []
    assert cards.on_one(found, 20 * GB) == "cuda:2"
    assert asked == [1, 2]
    assert cards.on_one(found, 30 * GB + 1) is None
    assert "it is divided among cuda:0 (Card 0), cuda:1" in caplog.text


def test_what_a_model_needs() -> None:
    """Weights, KV cache, and what CUDA takes itself."""
    from backends.huggingface.device import cards

    config = transformers.LlamaConfig(**SHAPE, num_key_value_heads=2)
    assert cards.kv_bytes(config, 2) == 2 * 2 * 2 * 8 * 2
    assert cards.needed_bytes(GB, config, 1000, 2) == int(1.05 * GB) + GB + 128_000


@pytest.mark.parametrize(
    ("kind", "stored", "capability", "dtype"),
    [
        ("LlamaConfig", "bfloat16", (7, 5), "float16"),
        ("LlamaConfig", "bfloat16", (8, 0), "auto"),
        ("LlamaConfig", "float32", (7, 0), "auto"),
        ("Gemma2Config", "bfloat16", (7, 0), "auto"),
    ],
)
def test_float16_where_bfloat16_is_emulated(
    kind: str, stored: str, capability: tuple[int, int], dtype: str
) -> None:
    """Not for models whose numbers overflow in it."""
    from backends.huggingface.device import cards

    config = getattr(transformers, kind)(**SHAPE, dtype=getattr(torch, stored))
    card = cards.Card(0, "Card", GB, capability)
    assert cards.half_precision(config, [card]) == dtype
