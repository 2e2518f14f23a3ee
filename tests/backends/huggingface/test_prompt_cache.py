"""The prompt cache of the huggingface backend: parked chats go on as if never parked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends._local.prefix_match import MIN_PREFIX
from tests.support.models.tiny_architectures import BATCHABLE, Library

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "free_copies"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
PEOPLE = ("Ada " * 20, "Bo " * 25, "Cleo " * 15)
TOKENS, CUT = 40, 30

Folder = Callable[..., Path]


def take_turns(talk: Any, turns: int) -> Iterator[tuple[list[str], Any]]:
    """Let three people talk to it in turn; yield what was said, and the request."""
    said: list[list[str]] = [[] for _ in PEOPLE]
    for turn in range(turns):
        for person, name in enumerate(PEOPLE):
            said[person].append(f"{name}{turn}")
            answer = talk.ask(*said[person], max_new_tokens=20)
            said[person].append(answer.whole())
            yield said[person], answer.request


@pytest.mark.parametrize("name", BATCHABLE)
def test_people_take_turns_at_one_slot(name: str, chats: Any, folder: Folder) -> None:
    """Each answer is the library's own, and each turn reads only what is new, as if alone."""
    talk, alone = chats(folder(name), slots=1), Library(folder(name))
    known = [0] * len(PEOPLE)  # tokens of each one's last turn
    for number, (said, request) in enumerate(take_turns(talk, 2)):
        assert said[-1] == alone.answer(*said[:-1], max_new_tokens=20)
        person = number % len(PEOPLE)
        assert request.cached_tokens >= known[person]
        known[person] = len(request.prompt_ids) + 19
    facts = talk.executor.cache_settings.cache.facts()
    assert facts["hits"] == 3
    assert facts["restored_tokens"] >= 3 * 100


@pytest.mark.parametrize("name", ["save", "restore"])
def test_a_copy_that_fails_harms_no_chat(
    name: str, chats: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a card says: the chat is read from its beginning, and a line of the log says why."""
    from backends.huggingface.batching import host_states

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    talk, alone = chats(folder("llama"), slots=1), Library(folder("llama"))
    monkeypatch.setattr(host_states, name, fail)
    for said, request in take_turns(talk, 2):
        assert said[-1] == alone.answer(*said[:-1], max_new_tokens=20)
        assert request.cached_tokens < MIN_PREFIX


@pytest.mark.parametrize("options", [("--prompt_cache", 0), ("--reproducible",)])
def test_without_it_each_turn_reads_all(options: Any, chats: Any, folder: Folder) -> None:
    """With --reproducible it would be another way to the same numbers."""
    talk = chats(folder("llama"), *options, slots=1)
    assert all(request.cached_tokens < MIN_PREFIX for _, request in take_turns(talk, 2))


def test_chats_are_kept_for_the_next_start(chats: Any, folder: Folder, tmp_path: Path) -> None:
    """All three, before anything else was computed; not for another precision."""
    kept = ("--prompt_cache_dir", tmp_path / "chats")

    def cached(said: list[list[str]], *options: object) -> list[bool]:
        talk = chats(folder("llama"), *kept, *options, slots=1)
        assert talk.executor.cache_settings.cache._files.was_read.wait(60)
        answers = [talk.ask(*one, "?", max_new_tokens=5) for one in said]
        found = [one.request.cached_tokens > 50 for one in answers if one.whole()]
        talk.executor.engine.close()
        return found

    talk = chats(folder("llama"), *kept, slots=1)
    said = [said for said, _ in take_turns(talk, 1)]
    talk.executor.engine.close()
    assert cached(said) == [True] * 3
    assert cached(said, "--dtype", "bfloat16") == [False] * 3
    assert cached(said[:1]) == [False]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_state_is_restored_to_the_last_bit(dtype: str) -> None:
    """As a whole or in part, to another slot, and before anything was computed."""
    cache = filled(getattr(torch, dtype))
    state = cache.save(1, TOKENS)
    assert cache.state_bytes(TOKENS) == state.nbytes
    fresh = filled(None)
    for target, kept in ((cache, TOKENS), (cache, CUT), (fresh, CUT)):
        assert target.restore(0, bytearray(state), TOKENS, kept)
        for layer, right in zip(target.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                found, wanted = getattr(layer, name), getattr(right, name)
                assert found.dtype == wanted.dtype
                assert torch.equal(found[0, :, :kept], wanted[1, :, :kept])


def test_what_is_no_state_of_this_model_is_refused() -> None:
    """Of another precision or length, cut off, or something else."""
    cache, other = filled(torch.float32), filled(torch.float64)
    state = cache.save(1, TOKENS)
    before = cache.layers[0].keys.clone()
    for wrong, tokens in (
        (other.save(1, TOKENS), TOKENS),
        (state, TOKENS - 1),
        (state[:-4], TOKENS),
    ):
        assert not cache.restore(0, bytearray(wrong), tokens, CUT)
    for none in (b"", b"{", b"\xff" * 99, b"\x02" + bytes(7) + b"[]" + bytes(99)):
        try:
            assert not cache.restore(0, bytearray(none), TOKENS, CUT)
        except ValueError:
            continue
    assert torch.equal(before, cache.layers[0].keys)


def filled(dtype: Any) -> Any:
    """Return a cache of two layers with random numbers in slot 1; None: an empty one."""
    from backends.huggingface.batching.kv_cache import SlotCache

    cache = SlotCache(2)
    if dtype is None:
        return cache
    cache.reserve(2, [(1, 0, TOKENS)])
    cache.prefill(1, 0)
    for layer, heads in zip(cache.layers, (2, 4), strict=True):
        keys, values = torch.rand(1, heads, TOKENS, 8), torch.rand(1, heads, TOKENS, 16)
        layer.update(keys.to(dtype), values.to(dtype))
    return cache
