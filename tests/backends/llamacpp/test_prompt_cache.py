"""The prompt cache of the llamacpp backend: parked chats go on as if they had never been parked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends._local.prefix_match import MIN_PREFIX
from backends._local.prompt_cache.cache import SEAM
from backends.llamacpp import LlamacppExecutor, scheduler
from tests.support.batched_chats import Answer, Chats
from tests.support.models import real_models, tiny_ggufs
from tests.support.models.tiny_ggufs import ARCHITECTURES, STATEFUL, Library

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("free_copies"),
    pytest.mark.filterwarnings("default"),  # the library's own
]
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)
PEOPLE = ("Ada " * 20, "Bo " * 25, "Cleo " * 15)
UNCUTTABLE = (*STATEFUL, "gemma2")
LENGTH, CUT = 100, 70  # tokens


@pytest.fixture
def chats(load: Any) -> Callable[..., Chats]:
    """Give what loads a file into an executor."""

    def make(path: Path, *options: object, slots: int = 1) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", slots, *EXACT, *options)
        return Chats(load(LlamacppExecutor, *given).executor)

    return make


def take_turns(talk: Chats, turns: int = 3) -> Iterator[tuple[list[str], Any]]:
    """Let three people talk to it in turn; yield what was said, and the request."""
    said: list[list[str]] = [[] for _ in PEOPLE]
    for turn in range(turns):
        for person, name in enumerate(PEOPLE):
            said[person].append(f"{name}{turn}")
            answer = talk.ask(*said[person], max_tokens=20)
            said[person].append(answer.whole())
            yield said[person], answer.request


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_people_take_turns_at_one_slot(name: str, chats: Any, tmp_path: Path) -> None:
    """Each answer is the library's own, and each turn reads only what is new, as if alone.

    With a sliding window it reads the last answer, too, of which a restored state has too little.
    """
    is_window = name in UNCUTTABLE and name not in STATEFUL
    path = tiny_ggufs.write_gguf(tmp_path / "model.gguf", name)
    talk, alone = chats(path), Library(path)
    known = [0] * len(PEOPLE)  # tokens of each one's last turn
    for number, (said, request) in enumerate(take_turns(talk)):
        assert said[-1] == alone.answer(*said[:-1], max_tokens=20)
        person = number % len(PEOPLE)
        assert request.cached_tokens >= known[person]
        known[person] = len(request.prompt_ids) + (-SEAM if is_window else 19)
    facts = talk.executor.cache_settings.cache.facts()  # type: ignore[attr-defined]
    assert facts["hits"] == 6
    assert facts["restored_tokens"] >= 6 * 100


@pytest.mark.parametrize("options", [("--prompt_cache", 0), ("--reproducible",)])
def test_without_it_each_turn_reads_all(options: Any, chats: Any, tmp_path: Path) -> None:
    """With --reproducible it would be another way to the same state."""
    talk = chats(tiny_ggufs.write_gguf(tmp_path / "model.gguf", "llama"), *options)
    assert all(request.cached_tokens < MIN_PREFIX for _, request in take_turns(talk, 2))


def test_chats_are_kept_for_the_next_start(chats: Any, tmp_path: Path) -> None:
    """All three, also the one that has the slot; not for another context, whose they replace."""
    path = tiny_ggufs.write_gguf(tmp_path / "model.gguf", "llama")
    folder = ("--prompt_cache_dir", tmp_path / "chats")

    def cached(said: list[list[str]], *options: object) -> list[bool]:
        talk = chats(path, *folder, *options)
        cache = talk.executor.cache_settings.cache
        assert cache._files.was_read.wait(60)
        requests = [talk.ask(*one, "?", max_tokens=5) for one in said]
        found = [one.request.cached_tokens > 50 for one in requests if one.whole()]
        talk.executor.engine.close()
        return found

    talk = chats(path, *folder)
    said = [said for said, _ in take_turns(talk, 1)]
    talk.executor.engine.close()
    assert cached(said) == [True] * 3
    assert cached(said, "--context_window", 512) == [False] * 3
    assert cached(said[:1]) == [False]


def test_others_wait_for_parked_chats_no_longer_than_begin_seconds(
    chats: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they are over, one request begins a step, while others are being answered."""
    monkeypatch.setattr(scheduler, "BEGIN_SECONDS", 0.0)
    talk = chats(tiny_ggufs.write_gguf(tmp_path / "model.gguf", "llama"), slots=4)
    context, done = talk.executor.engine._scheduler._context, []
    with talk.held():
        known = [talk.ask(name, max_tokens=20) for name in (*PEOPLE, "Dee " * 20)]
    for answer in known:
        answer.whole()
    late = [talk.create(letter * 70, max_tokens=5) for letter in "xyz"]
    save, decode = context.save, context.decode

    def decode_and_let_others_come(chunks: Any) -> Any:
        done.append("decode")
        if len(done) == 3:
            for request in late:
                talk.submit(request)
        return decode(chunks)

    monkeypatch.setattr(context, "save", lambda *of: (done.append("save"), save(*of))[1])
    monkeypatch.setattr(context, "decode", decode_and_let_others_come)
    first = talk.ask(f"{PEOPLE[0]}?", max_tokens=100)
    for request in late:
        Answer(request).whole()
    first.cancel()
    assert done.count("save") == 3
    assert "save save" not in " ".join(done)


def test_memory_that_runs_out_forgets_parked_chats_first(
    chats: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat that is computed goes on, and its answer is as without it."""
    path = tiny_ggufs.write_gguf(tmp_path / "model.gguf", "llama")
    expected = Library(path).answer("Hello", max_tokens=20)
    talk, decode, failures = chats(path), llama_cpp.llama_decode, [-2]
    cache = talk.executor.cache_settings.cache
    for name in PEOPLE:
        assert talk.ask(name, max_tokens=5).whole()
    assert cache.facts()["entries"] == 2
    monkeypatch.setattr(
        llama_cpp, "llama_decode", lambda *given: failures.pop() if failures else decode(*given)
    )
    assert talk.ask("Hello", max_tokens=20).whole() == expected
    assert cache.facts()["entries"] == 0


@pytest.mark.parametrize("model", [real_models.SMOLLM2, real_models.GEMMA3])
def test_a_restored_state_has_the_same_logits(model: Any) -> None:
    """To the last bit; a part of one too, where it can be cut, else nothing of it is left.

    gemma's layers with windows have lost what a part would need.
    """
    context, ids = _context(real_models.gguf_file(model)), list(range(1000, 1000 + LENGTH))
    rest = ids[CUT:]
    expected = _logits(context, 0, ids[:CUT], rest), _logits(context, 1, ids, [7, 8])
    context.truncate(1, LENGTH)
    state = context.save(1, LENGTH)
    assert context.state_bytes(1) == state.nbytes
    _logits(context, 1, ids[::-1], [9])
    assert context.restore(1, state, ids, LENGTH) == LENGTH
    assert (_decode(context, 1, [7, 8]) == expected[1]).all()
    is_whole = model is real_models.SMOLLM2
    assert context.can_cut == is_whole
    assert context.kept(1, CUT) == (CUT if is_whole else 0)
    assert context.truncate(1, CUT) == (CUT if is_whole else 0)
    assert context.restore(0, state, ids, CUT) == (CUT if is_whole else 0)
    held = context.sequence_lengths[0]
    assert (_decode(context, 0, ids[held:CUT], rest) == expected[0]).all()


@pytest.mark.parametrize("model", [real_models.SMOLLM2, real_models.GEMMA3])
def test_the_beginning_of_a_row_can_be_saved(model: Any) -> None:
    """Also of layers with windows, which lose nothing before that."""
    context, ids = _context(real_models.gguf_file(model)), list(range(1000, 1000 + LENGTH))
    expected = _logits(context, 0, ids[:CUT], ids[CUT:])
    state = context.save(0, context.kept(0, CUT))
    assert context.restore(1, state, ids[:CUT], CUT) == CUT
    assert (_decode(context, 1, ids[CUT:]) == expected).all()


def test_a_chat_whose_last_answer_reads_otherwise_goes_on_from_its_prompt(chats: Any) -> None:
    """As without the thoughts, which the next turn does not repeat."""
    talk = chats(real_models.gguf_file(real_models.GEMMA3), "--context_window", 1024)
    said = ["Tell me a story of " + "rivers and lamps, " * 20]
    first = talk.ask(*said, max_tokens=20)
    first.whole()
    talk.ask("Another chat " * 20, max_tokens=5).whole()
    later = talk.ask(*said, "Something else.", "Go on.", max_tokens=5)
    later.whole()
    assert later.request.cached_tokens == len(first.request.prompt_ids) - SEAM


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_no_state_leaves_the_slot_empty(name: str, tmp_path: Path) -> None:
    """Shorter, of other numbers, of another length; the slot can be used again."""
    context = _context(tiny_ggufs.write_gguf(tmp_path / "model.gguf", name))
    ids = [5 + at % 200 for at in range(64)]
    expected = _logits(context, 0, ids, [7])
    context.truncate(0, 64)
    assert context.can_cut == (name not in UNCUTTABLE)
    state = context.save(0, 64)
    for wrong, tokens in ((state[:-9], 64), (b"\xff" * 500, 64), (state, 63)):
        assert context.restore(1, wrong, ids[:tokens], tokens) == 0
        assert context.sequence_lengths[1] == 0
    assert (_logits(context, 1, ids, [7]) == expected).all()


def _context(path: Path) -> Any:
    from backends.llamacpp.batching.context_params import ContextOptions
    from backends.llamacpp.model import LlamaModel

    model = LlamaModel(
        path,
        lambda done, total: None,
        gpu_layers=0,
        visible_gpu=None,
        tensor_split=[],
        context_length=1024,
        context_options=ContextOptions(1, flash_attn="off", cache_type="f32"),
    )
    context: Any = model.create_context(2)
    context.model = model  # which must live as long
    return context


def _logits(context: Any, slot: int, *parts: list[int]) -> Any:
    """Return those after these tokens, computed in these parts from an empty slot."""
    context.truncate(slot, 0)
    return _decode(context, slot, *parts)


def _decode(context: Any, slot: int, *parts: list[int]) -> Any:
    from backends.llamacpp.batching.token_batch import SequenceChunk

    for part in filter(None, parts):
        found = context.decode([SequenceChunk(slot, part, True)])
    return found.logits.copy()
