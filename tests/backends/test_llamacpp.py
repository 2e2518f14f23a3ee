"""The llamacpp backend with the real library and a tiny GGUF made on the spot."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import direct
import pytest
import tiny_models
from programs import Program, chat_through, fetch, said, until

from backends.llamacpp import LlamacppExecutor
from kuwa_min.errors import AnswerError, KuwaError, StartError, UsageError

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
GREEDY = ("--temperature", 0, "--threads", 1)
FEW = (*GREEDY, "--max_tokens", 24)
FULL = (
    "\n<<<WARNING>>>The answer was cut off: the model's context of 512 tokens is full."
    "<<</WARNING>>>"
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    return tiny_models.write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def library(gguf: Path) -> Any:
    """Return what the library itself answers to messages: a function."""
    from backends import _llama_engine, _llama_library

    assert _llama_engine.llama_cpp is llama_cpp
    _llama_library.load_processors(Path(llama_cpp.__file__).parent)
    llama = llama_cpp.Llama(str(gguf), n_ctx=4096, n_threads=1, n_threads_batch=1, verbose=False)

    def answer(*messages: str, system: str = "", count: int = 24, **options: Any) -> str:
        turns = [("system", system)] if system else []
        turns += [(("user", "assistant")[n % 2], text) for n, text in enumerate(messages)]
        chat = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
        prompt = f"{chat}<|im_start|>assistant\n".encode()
        llama.reset()
        llama.set_seed(options.pop("seed", 0))
        made = llama.generate(
            llama.tokenize(prompt, add_bos=False, special=True), **{"temp": 0.0, **options}
        )
        return b"".join(llama.detokenize([next(made)]) for _ in range(count)).decode()

    return answer


# -- answers


def test_a_greedy_answer_is_the_librarys_own(load: Any, gguf: Path, library: Any) -> None:
    """With as many tokens as were asked for, through a stream and without one."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    text, request = direct.ask(talker.executor, "Hello 世界")
    assert text == library("Hello 世界")
    assert request.written == 24
    assert "".join(talker.pieces("Hello 世界")) == text


def test_the_second_turn_reads_the_first(load: Any, gguf: Path, library: Any) -> None:
    """And computes only what is new of it, however long the first one was."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--system_prompt", "Be kind.")
    question = "one " * 150
    first = "".join(talker.pieces(question))
    llama = talker.executor.model._llama
    computed: list[int] = []
    evaluate = llama.eval
    llama.eval = lambda tokens: (computed.append(len(tokens)), evaluate(tokens))
    second = "".join(talker.pieces(question, first, "two"))
    assert second == library(question, first, "two", system="Be kind.")
    assert computed[0] < 100
    assert sum(computed[1:]) <= 24


def test_options_reach_the_library(load: Any, gguf: Path, library: Any) -> None:
    """From the command line and from a Modelfile, which wins."""
    talker = load(
        LlamacppExecutor,
        *("--model_path", gguf, "--threads", 1, "--max_tokens", 24, "--seed", 7),
        *("--temperature", 1.5, "--top_k", 20, "--repeat_penalty", 1.5),
    )
    options = {"seed": 7, "temp": 1.5, "top_k": 20, "repeat_penalty": 1.5}
    assert "".join(talker.pieces("x")) == library("x", **options)
    asked = {"parameter": "llm_max_tokens 5"}
    assert "".join(talker.pieces("x", **asked)) == library("x", **options, count=5)


def test_a_stop_word_ends_the_answer(load: Any, gguf: Path, library: Any) -> None:
    """Nothing of it is shown, though it comes token by token."""
    whole = library("Hello")
    word = whole[10:14]
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW, "--stop", "never", word)
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(word)]


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
    assert direct.ask(plain.executor, "x")[1].written == 24
    assert direct.tokens(plain.executor, "x") == [3 + byte for byte in b"user: x\nassistant:"]
    own = load(
        LlamacppExecutor,
        *("--model_path", gguf, "--override_chat_template", "{{ messages[-1].content }}"),
    )
    assert direct.tokens(own.executor, "a") == [3 + ord("a")]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_cannot_run_code(load: Any, tmp_path: Path, template: str) -> None:
    """It is a stranger's program, in a sandbox."""
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
    text, request = direct.ask(talker.executor, "a" * 300)
    assert text.endswith(FULL)
    assert request.written == 512 - len(direct.tokens(talker.executor, "a" * 300))
    assert "".join(talker.pieces("a" * 300)) == text


def test_the_models_own_context_can_be_asked_for(load: Any, gguf: Path) -> None:
    """By --context_window 0."""
    talker = load(LlamacppExecutor, "--model_path", gguf, "--context_window", 0)
    assert talker.executor.model.context == tiny_models.CONTEXT


def test_an_answer_may_not_take_too_long(load: Any, gguf: Path) -> None:
    """The person is told."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY, "--timeout", 0.05)
    pieces = talker.pieces("x")
    assert "took longer than 0.05 s" in pieces[-1]


# -- stopping


def test_a_stopped_answer_ends_within_a_step(load: Any, gguf: Path, library: Any) -> None:
    """The engine computes no further token, and the next chat is answered."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *GREEDY)
    model = talker.executor.model
    steps: list[int] = []
    evaluate = model._llama.eval
    model._llama.eval = lambda tokens: (steps.append(1), evaluate(tokens))
    request = direct.create(talker.executor, "x")
    say, texts = request.say, []

    def say_and_cancel(text: str) -> None:
        say(text)
        texts.append(text)
        if len(texts) == 5:
            request.cancel()

    request.say = say_and_cancel
    model._compute(request)
    assert len(texts) == len(steps) == 5
    assert library("x").startswith("".join(texts))
    assert library("x").startswith("".join(talker.first(1, "x")))
    assert "".join(talker.pieces("x", parameter="llm_max_tokens 24")) == library("x")


def test_a_long_prompt_can_be_stopped_in_the_middle(load: Any, gguf: Path, library: Any) -> None:
    """It is read in parts; what was read of it does not spoil the next answer."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    model = talker.executor.model
    steps: list[int] = []
    evaluate = model._llama.eval
    request = direct.create(talker.executor, "a" * 2000)

    def evaluate_and_cancel(tokens: list[int]) -> None:
        steps.append(len(tokens))
        evaluate(tokens)
        if len(steps) == 2:
            request.cancel()

    model._llama.eval = evaluate_and_cancel
    model._compute(request)
    assert steps == [256, 256]
    model._llama.eval = evaluate
    assert "".join(talker.pieces("a" * 2000)) == library("a" * 2000)


# -- mistakes


def test_a_failing_chat_harms_no_other(load: Any, gguf: Path, library: Any) -> None:
    """The error belongs to its chat; the next one is answered."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    llama = talker.executor.model._llama
    evaluate, failing = llama.eval, [True]

    def fail_once(tokens: list[int]) -> None:
        evaluate(tokens)
        if failing and len(tokens) == 1:
            failing.clear()
            raise RuntimeError("llama_decode returned -3")

    llama.eval = fail_once
    with pytest.raises(RuntimeError):
        talker.pieces("x")
    assert "".join(talker.pieces("x")) == library("x")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("--top_p", "1.5"), UsageError, "top_p must be at most 1"),
        (("--mirostat_mode", "3"), UsageError, "mirostat_mode must be at most 2"),
        (("--seed", str(2**32)), UsageError, "seed must be at most 4294967295"),
        (("--ngl", "-1"), StartError, "--ngl -1 asks for a GPU"),
        (
            ("--override_chat_template", "{% for %}"),
            StartError,
            "the chat template cannot be read: ",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    load: Any,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    kind: type[KuwaError],
    words: str,
) -> None:
    """Before it reaches native code, which would end the process."""
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    with pytest.raises(kind) as refused:
        load(LlamacppExecutor, "--model_path", gguf, *options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        ("--ngl", "-2"),
        ("--threads", "0"),
        ("--threads", "513"),
        ("--context_window", str(2**24 + 1)),
    ],
)
def test_numbers_out_of_range_end_with_code_2(load: Any, gguf: Path, options: Any) -> None:
    """As argparse says it."""
    with pytest.raises(SystemExit) as ended:
        load(LlamacppExecutor, "--model_path", gguf, *options)
    assert ended.value.code == 2


def test_an_impossible_request_is_refused_before_native_code(load: Any, gguf: Path) -> None:
    """With a sentence for the person."""
    talker = load(LlamacppExecutor, "--model_path", gguf, *FEW)
    with pytest.raises(AnswerError, match="llm_seed must be at least 0"):
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
    odd.write_bytes(gguf.read_bytes().replace(b"llama", b"lemma"))
    with pytest.raises(StartError) as refused:
        load(LlamacppExecutor, "--model_path", odd)
    assert str(refused.value).startswith(f"{odd} cannot be loaded: ")
    assert "lemma" in str(refused.value)
    assert "\n" not in str(refused.value)


# -- as a user runs it


def test_it_answers_through_a_kernel(gguf: Path, library: Any) -> None:
    """Eight at once, who wait for one another; the end is clean."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "8")
    with Program("llamacpp", "--model_path", str(gguf), *map(str, FEW), *options) as program:
        program.wait_for("registered as llamacpp")
        kernel, answers = program.kernel_url, {}

        def ask(number: int) -> None:
            answers[number] = chat_through(kernel, "llamacpp", f"Hi {number}", number)

        people = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for person in people:
            person.start()
        for person in people:
            person.join(20)
        assert answers == {number: library(f"Hi {number}") for number in range(8)}
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log
    assert "llama.cpp:" not in program.log, "its chatter is for DEBUG"


def test_chats_can_be_stopped(gguf: Path) -> None:
    """The one that is computed and the one in line; both endpoints are free again at once."""
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
            thread.join(20)
            assert not thread.is_alive()
        assert fetch(f"{url}/abort")[1] == '{"msg": "No process to abort"}'
