"""The tokens of a step: one copy from the device, whatever the samplers want; none to it.

There is no GPU here. The device "meta" computes nothing, but refuses what a GPU refuses: tensors of
two devices in one operation. And copies are counted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from backends.huggingface import OPTIONS

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = pytest.mark.slow
VOCABULARY = 5000
PROMPT = [5, 6, 7, 5, 6]
WISHES: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 4},
    {"do_sample": True},
    {"do_sample": True, "top_k": 0, "top_p": 0.05, "temperature": 0.3},
    {"do_sample": True, "top_k": 7, "repetition_penalty": 1.3},
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "typical_p": 0.5},
)


def samplers(device: str = "cpu") -> list[Any]:
    """Return a sampler for each of the wishes, of equal seeds."""
    from backends.huggingface.decoding.sampler import Sampler

    names = dict.fromkeys(option.name for option in OPTIONS)
    return [Sampler({**names, "seed": 1, **wish}, PROMPT, [2], device) for wish in WISHES]


def logits(rows: int) -> Any:
    """Return logits of which a few tokens are far likelier than all others."""
    random = torch.Generator().manual_seed(2)
    return torch.randn(rows, VOCABULARY, generator=random) * 4


def test_all_samplers_of_a_step_share_one_copy() -> None:
    """And each gets the token that it gets alone."""
    from backends.huggingface.decoding.logits import Logits, sample

    copies = []

    def copy(numbers: Any) -> Any:
        copies.append(len(numbers))
        return numbers.clone()

    rows = logits(len(WISHES) + 1)  # the last one is padding
    tokens = sample(Logits(rows, copy=copy), samplers())
    assert len(copies) == 1
    alone = [sample(Logits(rows[at : at + 1]), [one])[0] for at, one in enumerate(samplers())]
    assert tokens == alone
    assert len(set(tokens)) > len(tokens) // 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_overflowed_ends_with_its_error_alone(bad: float) -> None:
    """Whatever its sampler would have made of it."""
    from backends.huggingface.decoding.logits import Logits, sample
    from kuwa_min.errors import AnswerError

    whole = sample(Logits(logits(len(WISHES))), samplers())
    for at in range(len(WISHES)):
        rows = logits(len(WISHES))
        rows[at, 3] = bad
        tokens = sample(Logits(rows), samplers())
        assert isinstance(tokens.pop(at), AnswerError)
        assert tokens == [*whole[:at], *whole[at + 1 :]]


def test_penalties_are_computed_where_the_logits_are() -> None:
    """The history is there, and so are the tokens that end an answer: a GPU refuses others."""
    for sampler in samplers("meta"):
        for token in range(3):
            rows = torch.zeros(1, VOCABULARY, device="meta")
            assert sampler.adjust(rows).device.type == "meta"
            sampler.record(token)
        state = [vars(sampler), *map(vars, sampler._penalties)]
        tensors = [one for part in state for one in part.values() if isinstance(one, torch.Tensor)]
        assert {one.device.type for one in tensors} == {"meta"}


def test_a_history_grows() -> None:
    """Beyond what was allocated for it, also in tokens that a penalty looks at."""
    from backends.huggingface.decoding import sampler as module

    one = samplers()[1]
    for token in range(10, 10 + module.HISTORY_GROWTH + 5):
        one.record(token)
    changed = one.adjust(torch.ones(1, VOCABULARY))[0] != 1
    assert changed.nonzero().flatten().tolist() == sorted({*PROMPT, *range(10, token + 1)})


@pytest.mark.parametrize("allowed", [[3], [3, 9], range(2000)])
def test_only_allowed_tokens_are_chosen(allowed: Collection[int]) -> None:
    """By every sampler, whatever penalties leave of them; a row that fails does so alone."""
    from backends.huggingface.decoding.logits import Logits, sample
    from backends.huggingface.decoding.sampler import Sampler
    from kuwa_min.errors import AnswerError

    def fail(_: float) -> bytearray:
        raise AnswerError("too complex")

    mask = bytearray(VOCABULARY // 8)
    for token in allowed:
        mask[token >> 3] |= 1 << (token & 7)
    names = dict.fromkeys(option.name for option in OPTIONS)
    wishes = [{**names, "seed": 1, **wish} for wish in WISHES]
    held = [Sampler(wish, PROMPT, [3], "cpu", lambda _: mask) for wish in wishes]
    rows = logits(len(held) + 2)
    rows[:, 2500] = 50
    others = [Sampler(wishes[0], PROMPT, [3], "cpu", fail), Sampler(wishes[0], PROMPT, [3])]
    *tokens, failed, free = sample(Logits(rows), [*held, *others])
    assert [token for token in tokens if token not in allowed] == []
    assert isinstance(failed, AnswerError) and str(failed) == "too complex"
    assert free == 2500


@pytest.mark.parametrize("count", [0, 3, VOCABULARY + 1])
def test_log_probabilities_are_those_of_the_model(count: int) -> None:
    """Whatever options make of its logits."""
    from backends.huggingface.decoding.logits import Logits, sample
    from backends.huggingface.decoding.sampler import Sampler

    rows, names = logits(len(WISHES)), dict.fromkeys(option.name for option in OPTIONS)
    kept = [
        Sampler({**names, "seed": 1, **wish}, PROMPT, [3], keeps_logits=True) for wish in WISHES
    ]
    sample(Logits(rows), kept)
    for sampler, row in zip(kept, rows.log_softmax(-1), strict=True):
        found, best = sampler.sampled(5, count), row.sort(descending=True, stable=True)
        assert found.logprob == pytest.approx(float(row[5]), abs=1e-5)
        assert [one for _, one in found.likeliest] == pytest.approx(best.values[:count].tolist())


def test_a_token_whose_mask_is_late_can_be_sampled_later() -> None:
    """From a copy of its logits, which the next step does not overwrite; others do not wait."""
    from backends._local.constraints.matcher import MaskPendingError
    from backends.huggingface.decoding.logits import Logits, sample
    from backends.huggingface.decoding.sampler import Sampler

    masks: list[bytearray] = []

    def allowed(_: float) -> bytearray:
        if not masks:
            raise MaskPendingError
        return masks[0]

    options = {**dict.fromkeys(option.name for option in OPTIONS), "do_sample": False}
    late = Sampler(options, PROMPT, [3], "cpu", allowed)
    rows = logits(2)
    best = [int(row.argmax()) for row in rows]
    pending, token = sample(Logits(rows), [late, Sampler(options, PROMPT, [3])])
    assert isinstance(pending, MaskPendingError) and token == best[1]
    rows.zero_()
    masks.append(bytearray([255] * (VOCABULARY // 8)))
    kept: Any = pending.logits
    assert sample(Logits(kept), [late]) == best[:1]
