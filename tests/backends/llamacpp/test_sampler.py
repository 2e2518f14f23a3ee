"""Tokens of large vocabularies are drawn as llama.cpp's own chain draws them, without its sort."""

from __future__ import annotations

import types
from collections.abc import Collection
from typing import Any, cast

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends._local.constraints.matcher import MaskPendingError  # noqa: E402
from backends.llamacpp import OPTIONS  # noqa: E402 - once the library is there
from backends.llamacpp.batching.context import DecodeResult  # noqa: E402
from backends.llamacpp.candidates import FEW  # noqa: E402
from backends.llamacpp.sampler import (  # noqa: E402
    PENALTY_WINDOW,
    Sampler,
    _sampling,
    draw,
    sample,
)
from kuwa_min.errors import AnswerError  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
VOCABULARY = 6000
DEFAULTS = {option.name: option.default for option in OPTIONS}
STEPS = 150  # more than the penalties look back


class Rows:
    """The logits of several steps, and what of a context a sampler needs; counts whole rows."""

    def __init__(self, spread: float) -> None:
        rng = numpy.random.default_rng(3)
        self.steps = (rng.normal(size=(STEPS, VOCABULARY)) * spread).astype(numpy.float32)
        self.whole = 0
        self._current: Any = None

    def sample(self, chain: Any, position: int) -> int:
        """Draw from the whole row, as LlamaContext does."""
        self.whole += 1
        return draw(chain, self._current[position], numpy.arange(VOCABULARY))

    def tokens(self, **options: Any) -> list[int | AnswerError]:
        """Return what is sampled with these options, step by step."""
        sampler, found = Sampler({**DEFAULTS, **options}, VOCABULARY), []
        for logits in self.steps:
            self._current = logits[None].copy()
            found += sample(cast(Any, self), DecodeResult(self._current, [0]), [sampler])
        return found

    def expected(self, **options: Any) -> list[int]:
        """Return what llama.cpp's samplers make of whole rows."""
        asked = {**DEFAULTS, **options}
        penalties = [asked[f"{name}_penalty"] for name in ("repeat", "frequency", "presence")]
        drawn = _sampling(asked, VOCABULARY) if asked["temperature"] else []
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in (
            llama_cpp.llama_sampler_init_penalties(VOCABULARY, PENALTY_WINDOW, *penalties),
            *(drawn or [llama_cpp.llama_sampler_init_greedy()]),
        ):
            llama_cpp.llama_sampler_chain_add(chain, sampler)
        found = []
        for logits in self.steps:
            found.append(draw(chain, logits, numpy.arange(VOCABULARY)))
            llama_cpp.llama_sampler_accept(chain, found[-1])
        llama_cpp.llama_sampler_free(chain)
        return found


@pytest.mark.parametrize(
    ("options", "is_whole"),
    [
        ({"top_k": 0}, False),
        ({"top_k": VOCABULARY + 1, "top_p": 0.3}, False),
        ({"top_k": 0, "min_p": 0, "top_p": 0.2}, False),
        ({"top_k": 0, "min_p": 0.3, "typical_p": 0.2}, False),
        ({"top_k": -1, "top_p": 1.0}, True),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0}, True),
        ({}, True),
        ({"repeat_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.2}, True),
        ({"top_k": 0, "repeat_penalty": 2.0, "top_p": 0.3}, False),
        ({"mirostat_mode": 2}, True),
    ],
    ids=str,
)
def test_a_seed_draws_what_llama_cpp_draws(options: dict[str, Any], is_whole: bool) -> None:
    """And llama.cpp gets the whole row only where it need not sort it."""
    rows = Rows(spread=3.0)
    found = rows.tokens(seed=11, **options)
    assert found == rows.expected(seed=11, **options)
    assert found == rows.tokens(seed=11, **options)
    assert len(set(found)) > STEPS // 2
    assert bool(rows.whole) == is_whole


@pytest.mark.parametrize("penalties", [(1.0, 0.0, 0.0), (1.7, 0.0, 0.3), (0.5, 1.0, -1.0)])
def test_the_likeliest_token_is_llama_cpps(penalties: tuple[float, ...]) -> None:
    """Also with penalties, which forget what was said long ago."""
    names = ("repeat_penalty", "frequency_penalty", "presence_penalty")
    options = {"temperature": 0, **dict(zip(names, penalties, strict=True))}
    rows = Rows(spread=1.0)
    rows.steps[:] = rows.steps[0]  # without a penalty, all tokens are one
    rows.steps.sort()  # and the next ones are near
    assert rows.tokens(**options) == rows.expected(**options)
    assert rows.whole == 0


@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_even_rows_are_drawn_evenly(top_p: float) -> None:
    """Candidates that are not sorted have the same chances."""
    rows = Rows(spread=0.01)
    found = rows.tokens(seed=2, top_k=0, top_p=top_p)
    ranks = [(step > step[token]).mean() for step, token in zip(rows.steps, found, strict=True)]
    assert max(ranks) < top_p + 0.01
    assert numpy.mean(ranks) == pytest.approx(top_p / 2, abs=0.1)


def test_what_penalties_make_no_number_is_that_rows_error() -> None:
    """Its neighbours have their tokens."""
    options = {**DEFAULTS, "temperature": 0}
    samplers = [Sampler({**options, "presence_penalty": p}, VOCABULARY) for p in (0, 1)]
    logits = numpy.zeros((2, VOCABULARY), numpy.float32)
    logits[:, 7] = 1
    context = cast(Any, types.SimpleNamespace())
    assert sample(context, DecodeResult(logits.copy(), [0, 1]), samplers) == [7, 7]
    assert sample(context, DecodeResult(logits.copy(), [0, 1]), samplers) == [7, 0]
    logits[1, 9] = numpy.nan
    good, bad = sample(context, DecodeResult(logits, [0, 1]), samplers)
    assert good == 7
    assert isinstance(bad, AnswerError)


def test_small_vocabularies_are_llama_cpps() -> None:
    """Which sorts them at once."""
    options = {**DEFAULTS, "top_k": 0, "seed": 1}
    called = []
    context = types.SimpleNamespace(sample=lambda chain, position: called.append(position) or 5)
    result = DecodeResult(numpy.zeros((1, FEW), numpy.float32), [4])
    assert sample(cast(Any, context), result, [Sampler(options, FEW)]) == [5]
    assert called == [4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mirostat_mode", [0, 1, 2])
@pytest.mark.parametrize("allowed", [[3], [3, 9], range(2000)])
def test_only_allowed_tokens_are_chosen(
    temperature: float, mirostat_mode: int, allowed: Collection[int]
) -> None:
    """Few or many, with every kind of draw, and whatever penalties leave of them."""
    mask = bytearray(VOCABULARY // 8)
    for token in allowed:
        mask[token >> 3] |= 1 << (token & 7)
    options = {
        **DEFAULTS,
        "temperature": temperature,
        "mirostat_mode": mirostat_mode,
        "typical_p": 0.9,
        "seed": 1,
        "logit_bias": {3: float("-inf")},
    }
    logits = numpy.random.default_rng(1).standard_normal((1, VOCABULARY)).astype(numpy.float32)
    logits[0, 2500] = 50
    every = numpy.arange(VOCABULARY)
    context = types.SimpleNamespace(sample=lambda chain, _: draw(chain, logits[0], every))
    sampler = Sampler(options, VOCABULARY, lambda _: mask)
    (token,) = sample(cast(Any, context), DecodeResult(logits, [0]), [sampler])
    assert token in allowed


@pytest.mark.parametrize("count", [0, 3, VOCABULARY + 1])
def test_log_probabilities_are_those_of_the_model(count: int) -> None:
    """Whatever options and a mask make of its logits."""
    options = {**DEFAULTS, "temperature": 2.0, "logit_bias": {5: -9.0}}
    logits = numpy.random.default_rng(2).standard_normal((1, VOCABULARY)).astype(numpy.float32)
    expected = logits[0] - numpy.logaddexp.reduce(logits[0].astype(numpy.float64))
    mask = bytearray(b"\x20") + bytearray(VOCABULARY // 8)  # the token 5
    sampler = Sampler(options, VOCABULARY, lambda _: mask, keeps_logits=True)
    (token,) = sample(cast(Any, None), DecodeResult(logits, [0]), [sampler])
    assert token == 5
    found = sampler.sampled(5, count)
    assert (found.token, found.logprob) == (5, pytest.approx(expected[5], abs=1e-5))
    best = numpy.argsort(-expected)[:count]
    assert [one for one, _ in found.likeliest] == best.tolist()
    assert [one for _, one in found.likeliest] == pytest.approx(expected[best], abs=1e-5)


def test_an_answer_whose_mask_fails_ends_alone() -> None:
    """Its neighbour in the batch gets its token."""

    def fail(_: float) -> bytearray:
        raise AnswerError("too complex")

    options = {**DEFAULTS, "temperature": 0.0}
    logits = numpy.zeros((2, VOCABULARY), numpy.float32)
    logits[:, 5] = 1
    samplers = [Sampler(options, VOCABULARY, fail), Sampler(options, VOCABULARY)]
    failed, token = sample(cast(Any, None), DecodeResult(logits, [0, 1]), samplers)
    assert isinstance(failed, AnswerError) and str(failed) == "too complex"
    assert token == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_overflowed_are_an_error_of_a_constrained_answer_too(
    temperature: float,
) -> None:
    """Nothing is drawn from them."""
    options = {**DEFAULTS, "temperature": temperature}
    logits = numpy.full((1, VOCABULARY), numpy.nan, numpy.float32)
    sampler = Sampler(options, VOCABULARY, lambda _: bytearray(b"\x0f"))
    (failed,) = sample(cast(Any, None), DecodeResult(logits, [0]), [sampler])
    assert isinstance(failed, AnswerError) and "overflowed" in str(failed)


def test_a_draw_whose_mask_is_late_is_as_if_it_had_not_been() -> None:
    """The seed draws the same tokens, and penalties look back on the same ones."""
    options = {**DEFAULTS, "temperature": 1.0, "seed": 7, "repeat_penalty": 1.5, "top_k": 0}
    rows = numpy.random.default_rng(1).standard_normal((9, 1, VOCABULARY)).astype(numpy.float32)

    def drawn(late: set[int]) -> list[object]:
        asked = iter(range(100))

        def allowed(_: float) -> bytearray:
            if next(asked) in late:
                raise MaskPendingError
            return bytearray(b"\xff" * 9)

        sampler, found = Sampler(options, VOCABULARY, allowed), []
        for row in rows:
            (token,) = sample(cast(Any, None), DecodeResult(row.copy(), [0]), [sampler])
            while isinstance(token, MaskPendingError):
                kept: Any = token.logits
                (token,) = sample(cast(Any, None), DecodeResult(kept[None], [None]), [sampler])
            found.append(token)
        return found

    assert drawn({1, 2, 5}) == drawn(set())


@pytest.mark.parametrize("wish", [{"temperature": 0.0}, {}, {"top_p": 1, "min_p": 0, "top_k": 0}])
def test_a_token_whose_mask_is_late_is_the_same(wish: dict[str, Any]) -> None:
    """It is sampled from a copy of its logits, whichever were computed since."""
    every, masks = bytearray([255] * (VOCABULARY // 8)), list[bytearray]()

    def allowed(_: float) -> bytearray:
        if not masks:
            raise MaskPendingError
        return masks[0]

    options = {**DEFAULTS, "seed": 1, **wish}
    rows = numpy.random.default_rng(1).standard_normal((1, VOCABULARY)).astype(numpy.float32)
    now = rows.copy()
    whole = numpy.arange(VOCABULARY)
    context = cast(Any, types.SimpleNamespace(sample=lambda chain, _: draw(chain, now[0], whole)))
    expected = sample(context, DecodeResult(now, [0]), [Sampler(options, VOCABULARY)])
    late = Sampler(options, VOCABULARY, allowed)
    (pending,) = sample(context, DecodeResult(rows, [0]), [late])
    assert isinstance(pending, MaskPendingError)
    rows[:] = 0
    masks.append(every)
    kept: Any = pending.logits
    assert sample(cast(Any, None), DecodeResult(kept[None], [None]), [late]) == expected
