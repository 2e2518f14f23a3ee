"""Adapters (LoRA) of the llamacpp backend: each chat is answered as if its own were the only one.

The judge is llama-cpp-python's own generate() with the same adapter, one chat after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from kuwa_min.errors import AnswerError, StartError, UsageError
from tests.support.batched_chats import Chats
from tests.support.models import real_models, tiny_ggufs, tiny_models
from tests.support.models.lora_files import EVERY, lora_fields, write_lora_gguf
from tests.support.models.tiny_ggufs import STATEFUL, Library

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("free_copies"),
    pytest.mark.filterwarnings("default"),  # the library's own
]
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)
LONG = "Tell me a story about a lighthouse, please. " * 3
MODULES = {
    "experts": (*EVERY[:4], "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
    "mamba": ("ssm_in", "ssm_out"),
    "lfm2": (*EVERY, "shortconv.in_proj", "shortconv.out_proj"),
}
WISHES: tuple[str | None, ...] = (None, "none", "rude", "poet=0.5", "none", "rude=2", None, "poet")

Start = Callable[..., Chats]


@pytest.fixture
def start(load: Any) -> Start:
    """Give what loads a model with adapters into an executor."""

    def make(path: Path, *options: object, slots: int = 4, lora: Any = ()) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", slots, *EXACT, *options)
        return Chats(load(LlamacppExecutor, *given, *(("--lora", *lora) if lora else ())).executor)

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Make a model."""
    return tiny_ggufs.write_gguf(tmp_path / "model.gguf", "llama")


@pytest.fixture
def loras(model: Path) -> tuple[Path, Path]:
    """Make two adapters for it."""
    names = ("poet", "rude")
    paths = [write_lora_gguf(model.with_name(f"{n}.gguf"), model, seed=len(n)) for n in names]
    return paths[0], paths[1]


def wish(lora: str | None) -> dict[str, str]:
    """Return what a bot asks for."""
    return {} if lora is None else {"lora": lora}


@pytest.mark.parametrize("name", ["llama", "gemma2", "experts", *STATEFUL])
def test_chats_with_other_adapters_share_slots_but_no_numbers(
    name: str, start: Start, tmp_path: Path
) -> None:
    """The same question to all at once, and their next turns: in every kind of memory."""
    path = tiny_ggufs.write_gguf(tmp_path / "model.gguf", name)
    modules = MODULES.get(name, EVERY)
    poet = write_lora_gguf(tmp_path / "poet.gguf", path, seed=5, modules=modules)
    rude = write_lora_gguf(tmp_path / "rude.gguf", path, seed=6, modules=modules)
    judges = {
        wanted: Library(path, lora=lora, scale=scale)
        for wanted, lora, scale in (
            (None, poet, 0.75),
            ("none", None, 1.0),
            ("rude", rude, 1.0),
            ("poet=0.5", poet, 0.5),
            ("rude=2", rude, 2.0),
            ("poet", poet, 0.75),
        )
    }
    talk = start(path, lora=(f"{poet}=0.75", f"{rude}=0"))
    with talk.held():
        answers = [talk.ask(LONG, **wish(one), max_tokens=24) for one in WISHES]
    first = [one.whole() for one in answers]
    assert first == [judges[one].answer(LONG, max_tokens=24) for one in WISHES]
    assert len(set(first)) >= 3, "adapters say something else"
    with talk.held():
        again = [
            talk.ask(LONG, said, "And then?", **wish(one), max_tokens=24)
            for one, said in zip(WISHES, first, strict=True)
        ]
    assert [one.whole() for one in again] == [
        judges[one].answer(LONG, said, "And then?", max_tokens=24)
        for one, said in zip(WISHES, first, strict=True)
    ]
    assert any(one.request.cached_tokens > len(LONG) for one in again), "what was theirs was reused"


def test_several_adapters_count_together(start: Start, model: Path, loras: Any) -> None:
    """As the library applies both, in whatever order a bot names them."""
    poet, rude = loras
    talk = start(model, lora=(poet, f"{rude}=0.5"))
    alone = Library(model, lora=poet)
    inner = alone._llama
    adapter = llama_cpp.llama_adapter_lora_init(inner._model.model, str(rude).encode())
    both = (llama_cpp.llama_adapter_lora_p_ctypes * 2)(inner._lora_adapter, adapter)
    llama_cpp.llama_set_adapters_lora(
        inner._ctx.ctx, both, 2, (llama_cpp.ctypes.c_float * 2)(1, 0.5)
    )
    right = alone.answer("Hello", max_tokens=24)
    wanted = (None, "rude=0.5, poet=1")
    with talk.held():
        asked = [talk.ask("Hello", **wish(one), max_tokens=24) for one in wanted]
    assert [one.whole() for one in asked] == [right] * 2
    assert asked[1].request.adapters == asked[0].request.adapters


@pytest.mark.parametrize("options", [(), ("--reproducible",)])
def test_parked_chats_are_restored_for_the_same_adapters_only(
    options: tuple[str, ...], start: Start, model: Path, loras: Any
) -> None:
    """Four chats with one question take turns at one slot."""
    poet, rude = loras
    judges = {
        "none": Library(model),
        "poet": Library(model, lora=poet),
        "rude": Library(model, lora=rude),
    }
    talk = start(model, *options, slots=1, lora=loras)
    said = {one: [LONG] for one in judges}
    for turn in range(3):
        for one, history in said.items():
            answer = talk.ask(*history, **wish(one), max_tokens=20)
            assert answer.whole() == judges[one].answer(*history, max_tokens=20)
            known = answer.request.cached_tokens
            assert bool(known) == bool(turn and not options), (one, turn)
            history += [answer.text, f"{turn}?"]


def test_a_restart_with_a_changed_adapter_reuses_nothing_of_it(
    start: Start, model: Path, loras: Any, tmp_path: Path
) -> None:
    """What was computed without it is still there."""
    folder = ("--prompt_cache_dir", tmp_path / "chats")
    cached: list[list[bool]] = []
    for seed in (None, None, 9):
        if seed:
            write_lora_gguf(loras[0], model, seed=seed)
        talk = start(model, *folder, slots=1, lora=loras)
        cache = talk.executor.cache_settings.cache
        assert cache is not None
        assert cache._files is not None
        cache._files.was_read.wait(60)
        asked = [talk.ask(LONG, **wish(one), max_tokens=4) for one in ("poet", "none")]
        assert all(one.whole() for one in asked)
        cached.append([one.request.cached_tokens > 0 for one in asked])
        talk.executor.engine.close()
    assert cached == [[False, False], [True, True], [False, True]]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("nobody", "must be none or some of poet, rude, with commas between them"),
        ("poet=loud", "must be none or some of poet, rude"),
        ("poet=nan", "must be none or some of poet, rude"),
        ("poet=1000", "must be none or some of poet, rude"),
        ("poet,", "must be none or some of poet, rude"),
    ],
)
def test_a_wrong_choice_is_refused_in_a_sentence(
    wanted: str, reason: str, start: Start, model: Path, loras: Any
) -> None:
    """With the names that are right."""
    talk = start(model, lora=loras)
    with pytest.raises(AnswerError, match=reason):
        talk.create("Hello", lora=wanted)


def test_without_adapters_a_bot_may_ask_for_none(start: Start, model: Path) -> None:
    """And for no other."""
    talk = start(model)
    assert talk.create("Hello", lora="none").adapters == ""
    with pytest.raises(AnswerError, match="must be none: no adapter was loaded"):
        talk.create("Hello", lora="poet")


def test_an_adapter_of_another_model_is_refused(start: Start, model: Path, tmp_path: Path) -> None:
    """One of the same architecture by its shapes, or by a tensor that the model lacks."""
    numpy = pytest.importorskip("numpy")
    wide = {
        f"blk.0.attn_q.weight.lora_{ab}": numpy.ones(size)
        for ab, size in (("a", (4, 128)), ("b", (128, 4)))
    }
    more = {f"blk.9.attn_q.weight.lora_{ab}": numpy.ones((4, 4)) for ab in "ab"}
    for number, (tensors, words) in enumerate(
        ((wide, "has incorrect shape"), (more, "does not exist in base model"))
    ):
        path = tiny_models.pack_gguf(tmp_path / f"{number}.gguf", lora_fields("llama"), tensors)
        with pytest.raises(
            StartError, match=f"cannot apply --lora {path} to this model: .*{words}"
        ):
            start(model, lora=(path,))


def test_what_cannot_be_applied_is_said_before_anything_is_loaded(
    start: Start, model: Path, loras: Any, tmp_path: Path
) -> None:
    """Each in a sentence."""
    twin = tmp_path / "other" / "poet.gguf"
    twin.parent.mkdir()
    twin.write_bytes(loras[0].read_bytes())
    comma = loras[0].with_name("a,b.gguf")
    comma.write_bytes(loras[0].read_bytes())
    for given, words in (
        ((tmp_path / "poem.gguf",), "--lora .*poem.gguf does not exist: .* has no poem.gguf"),
        ((tmp_path,), "--lora .* is a folder; a GGUF file is needed"),
        ((model,), "is no adapter .LoRA.; a whole model is given as --model_path"),
        ((loras[0], twin), "have the same name, by which bots choose them; rename one"),
        ((comma,), "has a name that bots cannot choose"),
    ):
        with pytest.raises(UsageError, match=words):
            start(model, lora=given)


def test_norms_in_an_adapter_are_left_out_with_a_warning(
    start: Start, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As llama.cpp does, which says nothing."""
    numpy = pytest.importorskip("numpy")
    norm = {"blk.0.attn_norm.weight": numpy.ones(64)}
    path = write_lora_gguf(tmp_path / "poet.gguf", model, more=norm)
    talk = start(model, lora=(path,))
    assert "llama.cpp applies none of its 1 norms" in caplog.text
    assert talk.executor.model.info()["adapters"] == {"poet": 1.0}


def test_a_real_model_with_adapters_answers_as_the_library_does(
    start: Start, tmp_path: Path
) -> None:
    """SmolLM2, whose weights are quantised; chats with and without them at once."""
    path = real_models.gguf_file(real_models.SMOLLM2)
    poet = write_lora_gguf(tmp_path / "poet.gguf", path, strength=0.3, modules=("attn_q", "attn_v"))
    talk = start(path, "--context_window", 1024, lora=(poet,))
    with talk.held():
        asked = [
            talk.ask("Why is the sky blue?", **wish(one), max_tokens=12) for one in (None, "none")
        ]
    said = [one.whole() for one in asked]
    right = []
    for lora in (poet, None):
        inner = Library(path, lora=lora, context=1024)
        prompt = inner._llama.detokenize(asked[0].request.prompt_ids, special=True).decode()
        right.append(inner.go_on(prompt, max_tokens=12))
    assert said == right
    assert said[0] != said[1]
