"""Attention over pages: torch's signature, and a reference that is right."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
LENGTHS, NEW = (3, 300, 513), (3, 1, 260)  # tokens of each sequence, and those that are new
TABLES = ([2, 0, 0], [5, 1, 0], [1, 4, 3])  # pages of each; a shared one, and what is not read
HEADS, KV_HEADS, SIZE = 4, 2, 8


def arguments(**changes: Any) -> dict[str, Any]:
    """Return what the attention of three sequences is computed from."""
    made = torch.Generator().manual_seed(3)
    key, value = (
        torch.randn(6, 256, KV_HEADS, SIZE, generator=made, dtype=torch.double) for _ in range(2)
    )
    key[0] = value[0] = float("nan")  # a page that no sequence has
    value[3, 1:] = float("nan")  # behind the end of the last one
    ends = torch.tensor(LENGTHS, dtype=torch.int32)
    return {
        "query": torch.randn(sum(NEW), HEADS, SIZE, generator=made, dtype=torch.double),
        "key": key,
        "value": value,
        "cu_seq_q": torch.tensor([0, 3, 4, 264], dtype=torch.int32),
        "cu_seq_k": torch.tensor([0, 3, 303, 816], dtype=torch.int32),
        "max_q": max(NEW),
        "max_k": max(LENGTHS),
        "scale": 0.3,
        "enable_gqa": True,
        "seqused_k": ends,
        "block_table": torch.tensor(TABLES, dtype=torch.int32),
        **changes,
    }


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (31, 0), (299, 0)])
def test_the_reference_is_attention_of_each_token_by_itself(window: tuple[int, int]) -> None:
    """Causal to the sequence's end, windows included, as torch's documentation has them."""
    from backends.huggingface.paged.kernels import reference

    given = arguments(window_size=window)
    found, at = reference(**given), 0
    for length, new, table in zip(LENGTHS, NEW, TABLES, strict=True):
        key, value = (given[name][table].flatten(0, 1)[:length] for name in ("key", "value"))
        for own in range(length - new, length):
            first = max(0, own - window[0]) if window[0] >= 0 else 0
            end = own + 1 if window[1] == 0 else length
            for head in range(HEADS):
                kv = head // (HEADS // KV_HEADS)
                weights = (key[first:end, kv] @ given["query"][at, head] * 0.3).softmax(0)
                right = weights @ value[first:end, kv]
                assert torch.allclose(found[at, head], right, atol=1e-12)
            at += 1
    assert at == len(found)


def test_torch_has_the_signature() -> None:
    """Every argument of the reference by its name, kind and default; what is new may be left out.

    A version of torch that changes it fails here; at the start, the model keeps sdpa.
    """
    from torch.nn.attention.varlen import varlen_attn

    from backends.huggingface.paged.kernels import ARGUMENTS, reference

    ours, theirs = (dict(inspect.signature(one).parameters) for one in (reference, varlen_attn))
    assert tuple(ours) == ARGUMENTS
    assert [name for name in theirs if name in ours] == list(ours)
    required = ("seqused_k", "block_table")  # of ours alone
    for name, parameter in ours.items():
        assert parameter.kind == theirs[name].kind, name
        if name not in required:
            assert parameter.default == theirs[name].default, name
    rest = [one for name, one in theirs.items() if name not in ours]
    assert all(one.default is not one.empty for one in rest)


def test_torch_takes_the_arguments() -> None:
    """Its operator accepts their types, as far as it can be asked without a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.nn.attention.varlen import varlen_attn

    with FakeTensorMode() as fake:
        given = {
            name: fake.from_tensor(one) if isinstance(one, torch.Tensor) else one
            for name, one in arguments(window_size=(31, 0)).items()
        }
        found = varlen_attn(**given)
    assert found.shape == (sum(NEW), HEADS, SIZE)


def test_a_kernel_that_fails_is_replaced_for_good(caplog: pytest.LogCaptureFixture) -> None:
    """Torch's own has no code for processors: one line, and the right result."""
    from torch.nn.attention.varlen import varlen_attn

    from backends.huggingface.paged.kernels import Fallback, reference

    attention, given = Fallback(varlen_attn), arguments()
    with caplog.at_level(logging.WARNING):
        found = [attention(**given) for _ in range(2)]
    assert all(torch.equal(one, reference(**given)) for one in found)
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith("attention over pages is slower from now on: ")


def test_a_kernel_that_finds_no_memory_is_kept() -> None:
    """The scheduler frees memory and asks again."""
    from backends.huggingface.paged.kernels import Fallback

    errors = [torch.OutOfMemoryError("CUDA out of memory")]

    def attention(**_: Any) -> Any:
        if errors:
            raise errors.pop()
        return "computed"

    fallback = Fallback(attention)
    with pytest.raises(torch.OutOfMemoryError):
        fallback()
    assert fallback() == "computed"


@pytest.mark.parametrize(
    ("dtype", "capability", "reason"),
    [
        (torch.float32, (9, 0), "its kernel computes no float32"),
        (torch.float16, (7, 5), "its kernel needs a newer graphics card"),
        (torch.bfloat16, (8, 0), ""),
    ],
)
def test_what_the_kernel_needs(
    dtype: Any, capability: tuple[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number format, a card, and a function of torch."""
    from types import SimpleNamespace

    from torch.nn.attention.varlen import varlen_attn

    from backends.huggingface.paged.kernels import kernel

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    library = SimpleNamespace(dtype=dtype)
    model: Any = SimpleNamespace(is_on_one_gpu=True, library_model=library, device="cuda:0")
    assert kernel(model) == (reason or varlen_attn)
    model.is_on_one_gpu = False
    assert kernel(model) is None
