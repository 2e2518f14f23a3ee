"""The attention function that transformers calls: what it cannot compute it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]


@pytest.mark.parametrize(
    ("layer", "given", "reason"),
    [
        (0, {}, None),
        (1, {"sliding_window": 8}, None),
        (0, {"dropout": 0.0, "position_ids": 1, "softcap": None}, None),
        (0, {"sliding_window": 8}, "windows are not those"),
        (1, {}, "windows are not those"),
        (1, {"sliding_window": 9}, "windows are not those"),
        (0, {"softcap": 30.0}, "has softcap"),
        (0, {"s_aux": 1}, "has s_aux"),
        (0, {"attention_mask": 1}, "has attention_mask"),
        (0, {"is_causal": False}, "attend to later ones"),
        (0, {"value": torch.zeros(2, 256, 1, 4)}, "different sizes"),
    ],
)
def test_what_the_kernel_does_not_compute_is_refused(
    layer: int, given: dict[str, Any], reason: str | None
) -> None:
    """By the arguments of each layer, so the self-test fails and the library's own stays."""
    from backends.huggingface.paged.attention import Pass, attend, current
    from backends.huggingface.paged.kernels import reference

    numbers = {"dtype": torch.int32}
    current.value = Pass(
        reference,
        (0, 8),
        starts=torch.tensor([0, 2], **numbers),
        lengths=torch.tensor([5], **numbers),
        tables=torch.tensor([[1]], **numbers),
        max_tokens=2,
        max_length=5,
    )
    pages = torch.zeros(2, 256, 1, 8)
    options: dict[str, Any] = {"key": pages, "value": pages, "attention_mask": None, **given}
    module: Any = SimpleNamespace(layer_idx=layer)
    if reason is None:
        found, _ = attend(module, torch.zeros(1, 2, 2, 8), **options)
        assert found.shape == (1, 2, 2, 8)
        return
    with pytest.raises(ValueError, match=reason):
        attend(module, torch.zeros(1, 2, 2, 8), **options)
