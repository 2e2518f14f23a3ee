"""The llamacpp backend with the real library and a tiny GGUF made on the spot."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from backends._local.engine import Closed
from backends._local.machine import free_memory
from backends.llamacpp import LlamacppExecutor
from kuwa_min.errors import AnswerError, KuwaError, StartError, UsageError
from kuwa_min.options import generation_options
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.models.tiny_ggufs import Library
from tests.support.programs import TIMEOUT, Program, chat_through, fetch, said, until

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp import scheduler_factory  # noqa: E402 - needs the library
from backends.llamacpp.batching.context import Aborted  # noqa: E402 - needs the library
from backends.llamacpp.loading import gguf_model  # noqa: E402 - needs the library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
TASKS = Path("/proc/self/task")
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1)
GREEDY = (*EXACT, "--temperature", 0)
FEW = (*GREEDY, "--max_tokens", 24)
LONG = "<|im_end|>" * 40_000
FULL = (
    "<<<WARNING>>>The answer was cut off: the model's context of 512 tokens is full.<<</WARNING>>>"
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    return tiny_models.write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def library(gguf: Path) -> Any:
    """Return what the library itself answers to messages: a function."""
    alone = Library(gguf)

    def answer(*messages: str, count: int = 24, **options: Any) -> str:
        return alone.answer(*messages, max_tokens=count, **options)

    return answer


# -- answers


def test_a_greedy_answer_is_the_librarys_own(load: Any, gguf: Path, library: Any) -> None:
    """With as many tokens as were asked for, through a stream and without one."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    text, request = local_chats.ask(talker.executor, "Hello 世界")
    assert text == library("Hello 世界")
    assert request.completion_tokens == 24
    pieces = list(talker.pieces("Hello 世界"))
    assert "".join(pieces) == text
    assert "" not in pieces  # each is a line of Kuwa 0.4's, also an empty one


def test_the_second_turn_reuses_the_first(load: Any, gguf: Path, library: Any) -> None:
    """And computes only what is new of it, however long the first one was."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--system_prompt", "Be kind.")
    question = "one " * 150
    first = "".join(talker.pieces(question))
    second, request = local_chats.ask(talker.executor, question, first, "two")
    assert second == library(question, first, "two", system="Be kind.")
    assert len(request.prompt_ids) - request.cached_tokens < 100


def test_options_reach_the_library(load: Any, gguf: Path, library: Any) -> None:
    """From the command line and from a Modelfile, which wins."""
    talker = load(
        LlamacppExecutor,
        "--model_path",
        gguf,
        *EXACT,
        "--max_tokens",
        24,
        "--seed",
        7,
        "--temperature",
        1.5,
        "--top_k",
        20,
        "--repeat_penalty",
        1.5,
    )
    options = {"seed": 7, "temperature": 1.5, "top_k": 20, "repeat_penalty": 1.5}
    assert "".join(talker.pieces("x")) == library("x", **options)
    asked = {"parameter": "llm_max_tokens 5"}
    assert "".join(talker.pieces("x", **asked)) == library("x", **options, count=5)


@pytest.mark.parametrize(
    "asked",
    [
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.3},
        {"typical_p": 0.4},
        {"repeat_penalty": 1.8},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 1.5},
        {"mirostat_mode": 2},
        {"seed": 8},
        {"temperature": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["llm_", ""])
def test_a_bot_may_ask_for_each_option(
    load: Any, gguf: Path, library: Any, asked: dict[str, float], prefix: str
) -> None:
    """And it counts for its request alone."""
    base = {"seed": 7, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    line = [word for name in base for word in (f"--{name}", base[name])]
    talker = load(LlamacppExecutor, "--model_path", gguf, *EXACT, "--max_tokens", 24, *line)
    ((name, value),) = asked.items()
    right, other = library("x", **{**base, **asked}), library("x", **base)
    found = "".join(talker.pieces("x", parameter=f"{prefix}{name} {value}"))
    usual = "".join(talker.pieces("x"))
    answers = [text.rstrip("\ufffd") for text in (found, right, usual, other)]  # of half a letter
    assert answers[0] == answers[1] != answers[2] == answers[3]


def test_a_stop_word_ends_the_answer(load: Any, gguf: Path, library: Any) -> None:
    """Nothing of it is shown, though it comes token by token."""
    whole = library("Hello")
    word = whole[10:14]
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--stop", "never", word)
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(word)]


def test_what_the_library_takes_beyond_our_options_is_passed_or_named(
    load: Any, gguf: Path, library: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Biases of tokens work, stop words add up, and what makes no text is in the log once."""
    path, whole = tmp_path / "c.yaml", library("Hello")
    path.write_text(f"stop: [never, {json.dumps(whole[20:23])}]\nsuffix: end\n", encoding="utf-8")
    idle = ("--tfs_z", 0.9, "--logprobs", 1)
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "-c", path, *idle)
    assert "create_completion without effect here: suffix" in caplog.text
    assert "the command line: parameters of llama_cpp.Llama.create_completion" in caplog.text
    assert "without effect here: logprobs, tfs_z" in caplog.text
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(whole[20:23])]
    for name in ("llm_stop", "stop"):
        asked = {"parameter": f"{name} {whole[4:7]}", "kuwaparam": f"{name} {whole[2:4]}"}
        assert "".join(talker.pieces("Hello", **asked)) == whole[: whole.index(whole[2:4])]
    (letter,) = talker.executor.model.tokenizer.tokenize("a")
    for bias in ("", " 0.8"):  # greedy, and drawn
        more = {"kuwaparam": f"llm_temperature{bias}"} if bias else {}
        asked = f'llm_logit_bias {{"{letter}": 1000, "99999999": 5}}'
        assert "".join(talker.pieces("Hello", parameter=asked, **more)) == "a" * 24
    assert "".join(talker.pieces("x", parameter="llm_max_tokens 1")) == library("x", count=1)
    talker.pieces("x", parameter="llm_tfs_z 1")
    assert "llm_tfs_z of a Modelfile has no effect" in caplog.text


def test_a_bot_for_pictures_is_answered_and_the_log_says_once_that_they_are_not_seen(
    load: Any, gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kuwa's multimodal bots may be put on any model; a switch is a switch here as well."""
    generation_options.warn_once.cache_clear()
    executor = load(LlamacppExecutor, "--model_path", gguf, *FEW).executor
    for value in ("true", "true", "false"):
        assert local_chats.create(
            executor, "hi", parameter=f"llm_enable_multimodal {value}"
        ).prompt_ids
    assert caplog.text.count("this model reads text only") == 1
    with pytest.raises(AnswerError, match="llm_enable_multimodal must be true or false"):
        local_chats.create(executor, "hi", parameter="llm_enable_multimodal maybe")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beams: 3", "unknown option 'beams'"),
        ("logit_bias: 3", "logit_bias must map tokens' numbers to numbers"),
        ("logit_bias: {a: 3}", "logit_bias must map tokens' numbers to numbers"),
        ("logit_bias: {1: 3000}", "logit_bias must be from -1000 to 1000 for each token"),
        ("logit_bias: {1: .nan}", "logit_bias must be from -1000 to 1000 for each token"),
    ],
)
def test_options_that_cannot_be_meant_end_the_start(
    load: Any, gguf: Path, tmp_path: Path, text: str, words: str
) -> None:
    """In one line, before the model is loaded."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        load(LlamacppExecutor, "--model_path", gguf, "-c", path)


@pytest.mark.parametrize("most", [0, -1])
def test_no_longest_answer_means_the_context(load: Any, gguf: Path, most: int) -> None:
    """As llama-cpp-python has it; a seed of -1 is another one each time."""
    options = ("--context_window", 256, "--max_tokens", most, "--seed", -1, "--top_k", -1)
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY, *options)  # never a drawn end
    _, request = local_chats.ask(talker.executor, "Hello")
    assert request.completion_tokens > 24


def test_a_template_that_refuses_a_system_prompt_gets_it_folded(
    load: Any, tmp_path: Path, library: Any
) -> None:
    """Into the first message of the user; --no_system_prompt leaves it out."""
    gguf = tiny_models.write_gguf(tmp_path / "m.gguf", template=tiny_models.REFUSING_TEMPLATE)
    options = ("--model_path", gguf, *FEW, "--system_prompt", "S")
    assert "".join(load(LlamacppExecutor, *options).pieces("x")) == library("S\n\nx")
    without = load(LlamacppExecutor, *options, "--no_system_prompt")
    assert "".join(without.pieces("x")) == library("x")


def test_a_model_without_a_template_gets_a_plain_one(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; an own one can be given."""
    gguf = tiny_models.write_gguf(tmp_path / "m.gguf", template=None)
    plain = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    assert "has no chat template" in caplog.text
    assert local_chats.ask(plain.executor, "x")[1].completion_tokens == 24
    assert local_chats.tokens(plain.executor, "x") == [3 + byte for byte in b"user: x\nassistant:"]
    own = load(
        LlamacppExecutor,
        "--model_path",
        gguf,
        "--override_chat_template",
        "{{ messages[-1].content }}",
    )
    assert local_chats.tokens(own.executor, "a") == [3 + ord("a")]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_cannot_run_code(load: Any, tmp_path: Path, template: str) -> None:
    """It is an untrusted program, in a sandbox."""
    gguf = tiny_models.write_gguf(tmp_path / "m.gguf", template=template)
    with pytest.raises(StartError, match="the chat template accepts no chat at all"):
        load(LlamacppExecutor, "--model_path", gguf)


# -- limits


def test_the_oldest_exchanges_are_left_out(load: Any, gguf: Path, library: Any) -> None:
    """Until the prompt fits --limit; a question that does not fit alone is one sentence."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--limit", 120)
    long = ("a" * 40, "b" * 40, "c", "d", "e")
    assert "".join(talker.pieces(*long)) == library("c", "d", "e")
    with pytest.raises(AnswerError, match="too long"):
        talker.pieces("a" * 120)


def test_an_answer_ends_where_the_context_ends(load: Any, gguf: Path) -> None:
    """With a side note, and after as many tokens as there is room for."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY, "--context_window", 512)
    text, request = local_chats.ask(talker.executor, "a" * 300)
    assert text.endswith(FULL)
    assert request.completion_tokens == 512 - len(local_chats.tokens(talker.executor, "a" * 300))
    assert "".join(talker.pieces("a" * 300)) == text


def test_the_models_own_context_can_be_asked_for(load: Any, gguf: Path) -> None:
    """By --context_window 0."""
    talker = load(LlamacppExecutor, "--model_path", gguf, "--context_window", 0)
    assert talker.executor.model.context_length == tiny_models.CONTEXT


@pytest.mark.parametrize(
    ("said", "commands"),
    [
        ([LONG], {}),
        (["one", LONG, "two"], {}),
        (["hi"], {"system": LONG}),
        (["hi"], {"before-prompt": LONG}),
        (["hi"], {"message": f"assistant {LONG}"}),
    ],
)
def test_what_fits_into_no_prompt_is_not_rendered(
    load: Any,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
    commands: dict[str, str],
) -> None:
    """Wherever it stands: neither rendering nor looking for control tokens can be stopped."""
    executor = load(LlamacppExecutor, "--model_path", gguf, *FEW).executor
    template = executor.model.chat_template
    lengths = []

    def render(chat: list[dict[str, str]], **more: Any) -> str:
        lengths.append(sum(len(one["content"]) for one in chat))
        return type(template).render(template, chat, **more)

    monkeypatch.setattr(template, "render", render)
    with contextlib.suppress(AnswerError):
        local_chats.create(executor, *said, **commands)
    assert max(lengths, default=0) < 100


def test_an_answer_may_not_take_too_long(load: Any, gguf: Path) -> None:
    """The user is told."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY, "--timeout", 0.05)
    pieces = talker.pieces("x")
    assert "took longer than 0.05 s" in pieces[-1]


# -- stopping


def test_a_stopped_answer_ends_within_a_step(
    load: Any, gguf: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine computes no further token, and the next chat is answered."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY)
    engine, steps = talker.executor.engine, []
    step = engine._scheduler.step
    monkeypatch.setattr(engine._scheduler, "step", lambda: (steps.append(1), step()))
    request = local_chats.create(talker.executor, "x")
    say, texts = request.emit, []

    def emit_and_cancel(text: str, *more: object) -> None:
        say(text, *more)
        texts.append(text)
        if len(texts) == 5:
            request.cancel()

    request.emit = emit_and_cancel
    engine.submit(request)
    until(lambda: request.finished)
    assert len(texts) == 5
    assert len(steps) <= 6, "the last one computes nothing"
    assert library("x").startswith("".join(texts))
    right, first = library("x"), "".join(talker.first(1, "x"))  # much, if the reader is late
    assert first[: len(right)] == right[: len(first)]
    assert "".join(talker.pieces("x", parameter="llm_max_tokens 24")) == library("x")


# -- mistakes


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("--top_p", "1.5"), UsageError, "top_p must be at most 1"),
        (("--mirostat_mode", "3"), UsageError, "mirostat_mode must be at most 2"),
        (("--seed", str(2**32)), UsageError, "seed must be at most 4294967295"),
        (
            ("--ngl", "-1"),
            StartError,
            "--ngl -1 asks for a GPU, but this build of llama.cpp computes on processors only; "
            "--ngl 0 computes on the processor",
        ),
        (
            ("--cache_type", "q8_0", "--flash_attn", "off"),
            UsageError,
            "--cache_type q8_0 needs --flash_attn on; f16 and f32 do not",
        ),
        (
            ("--override_chat_template", "{% for %}"),
            StartError,
            "the chat template cannot be read: ",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    load: Any, gguf: Path, options: tuple[str, ...], kind: type[KuwaError], words: str
) -> None:
    """Before it reaches native code, which would end the process."""
    with pytest.raises(kind) as refused:
        load(LlamacppExecutor, "--model_path", gguf, *options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_more_shares_than_cards_can_be_are_refused() -> None:
    """Before native code reads them; without cards, --tensor_split is left out with a warning."""
    with pytest.raises(StartError, match="--tensor_split has 100 numbers; "):
        gguf_model._tensor_split([1.0] * 100)


@pytest.mark.parametrize(
    "options",
    [
        ("--ngl", "-2"),
        ("--threads", "0"),
        ("--threads", "513"),
        ("--context_window", str(2**24 + 1)),
        ("--tensor_split", "1,x"),
        ("--tensor_split", "0,0"),
        ("--cache_type", "f64"),
    ],
)
def test_numbers_out_of_range_end_with_code_2(load: Any, gguf: Path, options: Any) -> None:
    """With argparse's message."""
    with pytest.raises(SystemExit) as ended:
        load(LlamacppExecutor, "--model_path", gguf, *options)
    assert ended.value.code == 2


def test_an_impossible_request_is_refused_before_native_code(load: Any, gguf: Path) -> None:
    """With a sentence for the user."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    with pytest.raises(AnswerError, match="llm_seed must be at least -1"):
        talker.pieces("x", parameter="llm_seed -5")
    with pytest.raises(AnswerError, match="llm_top_k must be at most 2"):
        talker.pieces("x", parameter=f"llm_top_k {2**31}")


@pytest.mark.parametrize("size", [100, 5_000, 200_000])
def test_a_truncated_file_is_one_line(load: Any, gguf: Path, tmp_path: Path, size: int) -> None:
    """It says how much is missing, before llama.cpp looks at it."""
    cut, whole = tmp_path / "cut.gguf", gguf.stat().st_size
    cut.write_bytes(gguf.read_bytes()[:size])
    with pytest.raises(UsageError) as refused:
        load(LlamacppExecutor, "--model_path", cut)
    found = re.fullmatch(
        rf"--model_path {cut} is truncated(?: or damaged: more than|:) ([\d,]+) bytes are needed, "
        rf"{size:,} are there; copy it again",
        str(refused.value),
    )
    assert found
    assert size < int(found[1].replace(",", "")) <= whole


def test_what_llama_cpp_refuses_is_one_line(load: Any, gguf: Path, tmp_path: Path) -> None:
    """With its own reason: a file can be whole and be of no use."""
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(gguf.read_bytes().replace(b"llama.context_length", b"llama.context_lenght"))
    with pytest.raises(StartError) as refused:
        load(LlamacppExecutor, "--model_path", odd)
    assert str(refused.value).startswith(f"{odd} cannot be loaded: ")
    assert "context_length" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_architecture_of_tomorrow_asks_for_a_newer_file(
    load: Any, gguf: Path, tmp_path: Path
) -> None:
    """The library's words name the architecture, and no remedy."""
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(gguf.read_bytes().replace(b"llama", b"lemma"))
    with pytest.raises(
        StartError, match=r"architecture lemma, which llama-cpp-python .* newer one"
    ):
        load(LlamacppExecutor, "--model_path", odd)


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        ("has_encoder", True, "it has an encoder"),
        ("has_decoder", False, "it has an encoder"),
        ("is_diffusion", True, "writes by diffusion"),
    ],
)
def test_other_kinds_of_models_are_refused(
    load: Any,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    answer: bool,
    words: str,
) -> None:
    """They would be computed, and answer nonsense."""
    name = f"llama_model_{question}"
    function = getattr(llama_cpp, name)

    def answer_instead(model: Any) -> bool:
        assert function(model) is not answer
        return answer

    answer_instead.argtypes = function.argtypes
    monkeypatch.setattr(llama_cpp, name, answer_instead)
    with pytest.raises(StartError, match=words):
        load(LlamacppExecutor, "--model_path", gguf)


def test_too_large_a_context_is_one_line(
    load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says what to lower."""
    init = llama_cpp.llama_init_from_model

    def create(model: Any, params: Any) -> Any:
        return None if params.n_ctx == 3 * 4096 else init(model, params)

    create.argtypes = init.argtypes
    monkeypatch.setattr(llama_cpp, "llama_init_from_model", create)
    with pytest.raises(StartError) as refused:
        load(LlamacppExecutor, "--model_path", gguf, "--concurrent_req_limit", 3)
    assert str(refused.value) == (
        "llama.cpp cannot hold 4,096 tokens of each of 3 chats: not enough memory; lower "
        "--context_window or --concurrent_req_limit, or choose another --cache_type"
    )


def test_more_memory_than_there_is_is_one_line(
    load: Any, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what llama.cpp really says about this model: 512 bytes a token."""
    (tmp_path / "meminfo").write_text("MemAvailable: 24576 kB\n", encoding="ascii")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    few = ("--model_path", gguf, "--context_window", 32_768, "--cache_type", "f32")
    load(LlamacppExecutor, *few)
    words = "32,768 tokens for each of 2 chats take 0.0 GB, and 0.0 GB are free; "
    with pytest.raises(StartError, match=words):
        load(LlamacppExecutor, *few, "--concurrent_req_limit", 2)


def test_another_interface_of_the_library_is_one_line(
    load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is seen before anything is called that would end the process."""
    monkeypatch.delattr(llama_cpp, "llama_memory_seq_cp")
    monkeypatch.setattr(llama_cpp.llama_decode, "argtypes", [llama_cpp.llama_context_p_ctypes])
    with pytest.raises(StartError) as refused:
        load(LlamacppExecutor, "--model_path", gguf)
    assert (
        "is not the one that this program was written for: llama_decode, llama_memory_seq_cp "
        in (str(refused.value))
    )


# -- where models come from, and how they are loaded


def test_a_model_in_several_files_is_loaded_by_its_first(
    load: Any, gguf: Path, tmp_path: Path, library: Any
) -> None:
    """The others are found by their names; one that is missing is named."""
    first, second = tiny_models.split_gguf(gguf, tmp_path)
    talker = load(LlamacppExecutor, "--model_path", first, *FEW)
    assert "".join(talker.pieces("x")) == library("x")
    second.unlink()
    with pytest.raises(UsageError, match=f"of which 1 is missing: {second.name}"):
        load(LlamacppExecutor, "--model_path", first)


def test_a_file_in_the_hubs_cache_is_loaded(
    load: Any, gguf: Path, tmp_path: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hf://owner/name?file; what is not there is said, with the command that fetches it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tiny.gguf").symlink_to(gguf)
    talker = load(LlamacppExecutor, "--model_path", "hf://owner/name?tiny.gguf", *FEW)
    assert "".join(talker.pieces("x")) == library("x")
    for address, words in (
        ("hf://owner/name?tiny.guff", r"near it: tiny\.gguf; .*`hf download owner/name tiny\.guff"),
        ("hf://owner/other?tiny.gguf", "is neither a folder nor in the hub's cache"),
        ("hf://owner/name", r"is incomplete: hf://owner/name\?file is needed"),
    ):
        with pytest.raises(UsageError, match=words):
            load(LlamacppExecutor, "--model_path", address)


def test_the_longest_context_that_fits(
    load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the model was trained where there is room, else less, and said so."""
    options = ("--model_path", gguf, "--context_window", "auto", "--concurrent_req_limit", 2)
    caplog.set_level(logging.INFO)
    talker = load(LlamacppExecutor, *options)
    assert talker.executor.model.context_length == tiny_models.CONTEXT
    assert "".join(talker.pieces("x"))
    free = 2_000_000
    monkeypatch.setattr(scheduler_factory, "free_bytes", lambda: free)
    smaller = load(LlamacppExecutor, *options).executor.model.context_length
    assert 256 <= smaller < tiny_models.CONTEXT
    lines = [one for one in caplog.messages if one.startswith("--context_window auto: ")]
    assert f" {smaller:,} tokens for each of 2 chats" in lines[1]


@pytest.mark.parametrize("cache", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("attention", ["auto", "on"])
def test_the_kv_cache_can_be_quantized(
    load: Any, gguf: Path, tmp_path: Path, cache: str, attention: str
) -> None:
    """Each kind answers, though not to the letter as with 32 bits."""
    options = ("--cache_type", cache, "--flash_attn", attention, "--concurrent_req_limit", 2)
    wide = tmp_path / "wide.gguf"
    wide.write_bytes(with_wider_heads(gguf.read_bytes()))
    talker = load(LlamacppExecutor, "--model_path", wide, "--temperature", 0, *options)
    assert talker.executor.engine.description == "2 at once"
    texts = [
        local_chats.ask(talker.executor, "x", parameter="llm_max_tokens 9")[0] for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 9


def with_wider_heads(data: bytes) -> bytes:
    """Make half as many heads of a model's attention: small formats need 32 numbers in one."""
    for name in ("head_count", "head_count_kv"):
        key = f"llama.attention.{name}".encode()
        before, found, after = data.partition(key + struct.pack("<I", tiny_models.U32))
        count = int.from_bytes(after[:4], "little") // 2
        data = before + found + struct.pack("<I", count) + after[4:]
    return data


def test_a_format_that_does_not_suit_is_one_line(load: Any, gguf: Path) -> None:
    """With llama.cpp's own reason."""
    with pytest.raises(StartError, match=r"chat: .*block size 32 does not divide .*; lower "):
        load(
            LlamacppExecutor,
            "--model_path",
            gguf,
            "--cache_type",
            "q8_0",
            "--concurrent_req_limit",
            2,
        )


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_spin_less(
    load: Any,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    spins: str | None,
) -> None:
    """Unless the environment says how they wait."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    load(LlamacppExecutor, "--model_path", gguf)
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_one_thread_computes_with_one_team(
    load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first token of the check to the last of an answer; its team are its helpers."""
    computing: list[int] = []
    decode = llama_cpp.llama_decode

    def recorded(*given: Any) -> int:
        computing.append(threading.get_native_id())
        return int(decode(*given))

    recorded.argtypes = decode.argtypes  # type: ignore[attr-defined]
    monkeypatch.setattr(llama_cpp, "llama_decode", recorded)
    before = set(TASKS.iterdir())
    options = ("--max_tokens", 24, "--threads", 3, "--concurrent_req_limit", 2)
    talker = load(LlamacppExecutor, "--model_path", gguf, *options)
    checked = len(computing)
    assert checked
    talker.pieces("Hello")
    assert len(computing) > checked
    (engine,) = set(computing)
    # threads that were joined may still end; a second team would be two more, and stay
    until(lambda: len(set(TASKS.iterdir()) - before) <= 3)
    more = set(TASKS.iterdir()) - before
    assert TASKS / str(engine) in more
    assert len(more) == 3


def test_the_end_of_the_process_ends_loading(load: Any, gguf: Path) -> None:
    """While the file is read as well as while the model is checked."""
    executor = load(LlamacppExecutor, "--model_path", gguf, *GREEDY).executor
    read = executor.loader()
    executor.engine.close()
    with pytest.raises(Closed):
        read()
    executor.interrupt_loading()
    with pytest.raises(Aborted):
        executor.create_scheduler(2)


# -- tokens and text


def test_long_texts_and_tokens_are_whole(load: Any, tmp_path: Path) -> None:
    """A token may be longer than any buffer, and a text have more tokens than letters."""
    long = "-" * 1000
    gguf = tiny_models.write_gguf(tmp_path / "m.gguf", more=[long])
    model = load(LlamacppExecutor, "--model_path", gguf, "--threads", 1).executor.model
    token = model.vocabulary_size - 1
    decode = model.create_detokenizer()
    assert [decode(token), decode(3 + ord("a")), decode(token)] == [long, "a", long]
    text = "世界 and <|im_end|> " * 50
    tokens = model.tokenizer.tokenize(text)
    assert tokens.count(2) == 50
    decode = model.create_detokenizer()
    assert "".join(map(decode, tokens)) == text.replace("<|im_end|>", "")


@pytest.mark.parametrize("pre", ["gpt-4o", "deepseek-llm", "tekken", "superbpe"])
def test_a_long_word_does_not_end_the_process(load: Any, tmp_path: Path, pre: str) -> None:
    """llama.cpp's expressions overflow the stack in one of 30,000 letters, spaces or line ends."""
    gguf = tiny_models.write_gguf(tmp_path / "m.gguf", pre=pre)
    tokenizer = load(LlamacppExecutor, "--model_path", gguf, "--threads", 1).executor.tokenizer
    for word in "a \n漢":
        count = len(word.encode()) * 100_000
        assert len(tokenizer.tokenize(word * 100_000)) == count


def test_a_stop_ends_tokenizing(load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the piece under way: the slot is free, and nothing was computed."""
    options = ("--context_window", 2**15, "--limit", 2**14, "--threads", 1)
    talker = load(LlamacppExecutor, "--model_path", gguf, *options)
    tokenizer, calls, runner = talker.executor.model.tokenizer, [], GeneratorRunner()
    native = tokenizer.tokenize

    def tokenize(text: str) -> list[int]:
        calls.append(text)
        runner.cancel()
        return list(native(text))

    monkeypatch.setattr(tokenizer, "tokenize", tokenize)
    pieces: list[str] = []
    talker.run(runner, pieces.append, "some words, " * 1000)
    assert (pieces, len(calls), runner.ended.is_set()) == ([], 1, True)


@pytest.mark.parametrize("text", ["a b\n1 ", "<|im_end|>", "a", "漢"])
def test_what_cannot_fit_is_refused_before_it_is_tokenized(
    load: Any, gguf: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """By its length; a chat of very many messages loses all but its end, too."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--limit", 100)
    tokenizer, calls = talker.executor.model.tokenizer, []
    native = tokenizer.tokenize

    def tokenize(text: str) -> list[int]:
        calls.append(text)
        return list(native(text))

    monkeypatch.setattr(tokenizer, "tokenize", tokenize)
    with pytest.raises(AnswerError, match="too long"):
        talker.pieces(text * 20_000)
    assert calls == []
    many = [f"{number}" for number in range(10_001)]
    assert local_chats.create(talker.executor, *many).prompt_ids
    assert len(calls) < 1000


def test_bytes_that_are_no_characters_are_replaced(load: Any, gguf: Path) -> None:
    """And the rest of the answer is there; a character that is cut off at its end is not shown."""
    model = load(LlamacppExecutor, "--model_path", gguf, "--threads", 1).executor.model
    chance = random.Random(0)
    for _ in range(2000):
        parts = ("世".encode(), "👋".encode(), b"a", chance.randbytes(1))
        data = b"".join(chance.choice(parts) for _ in range(chance.randrange(20))) + b"\xe4\xb8"
        text = "".join(map(model.create_detokenizer(), (3 + byte for byte in data)))
        assert text == data[:-2].decode(errors="replace")


# -- as a user runs it


def test_it_answers_through_a_kernel(gguf: Path, library: Any) -> None:
    """Eight at once; the end is clean."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "8")
    with Program("llamacpp", "--model_path", str(gguf), *map(str, FEW), *options) as program:
        program.wait_for("registered as llamacpp")
        kernel, answers = program.kernel_url, {}

        def ask(number: int) -> None:
            answers[number] = chat_through(kernel, "llamacpp", f"Hi {number}", number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert answers == {number: library(f"Hi {number}") for number in range(8)}
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log
    assert "llama.cpp:" not in program.log, "its chatter is for DEBUG"


def test_sentences_are_in_the_users_language(gguf: Path) -> None:
    """English, unless the browser asks for Chinese."""
    few = ("--limit", "20", "--ignore_kernel")
    with Program("llamacpp", "--model_path", str(gguf), *map(str, FEW), *few) as program:
        for language, sentence in (
            ("en", "[Sorry, The input message is too long!]"),
            ("zh-TW,zh;q=0.9,en;q=0.5", "[抱歉，輸入的訊息太長了！]"),
        ):
            fields = {"Accept-Language": language}
            assert fetch(program.url, said("x" * 50), fields=fields)[1] == sentence


def test_chats_can_be_stopped(gguf: Path) -> None:
    """One after the other; both endpoints are free again at once."""
    endless = ("--context_window", "65536", "--concurrent_req_limit", "2", "--ignore_kernel")
    with Program("llamacpp", "--model_path", str(gguf), *map(str, GREEDY), *endless) as program:
        url = program.url
        busy = [
            threading.Thread(target=fetch, args=(place, said("x"))) for place in (url, f"{url}/1")
        ]
        for thread in busy:
            thread.start()
        until(lambda: "Aborted" in fetch(f"{url}/1/abort")[1])
        until(lambda: "Aborted" in fetch(f"{url}/abort")[1])
        for thread in busy:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert fetch(f"{url}/abort")[1] == '{"msg":"No process to abort"}'
