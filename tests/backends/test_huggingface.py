"""The huggingface backend with the real library and a tiny model made on the spot."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from programs import Program, chat_through, fetch, said, until

from backends.huggingface import HuggingfaceExecutor
from kuwa_min import Modelfile
from kuwa_min.errors import AnswerError, KuwaError, StartError, UsageError

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
FEW = ("--max_new_tokens", 24)
FULL = (
    "\n<<<WARNING>>>The answer was cut off: the model's context of 2048 tokens is full."
    "<<</WARNING>>>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    return tiny_models.write_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    """Return what the library itself answers to tokens: a function."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def answer(*messages: str, **options: Any) -> str:
        roles = ("user", "assistant")
        chat = [{"role": roles[n % 2], "content": text} for n, text in enumerate(messages)]
        system = options.pop("system", "")
        chat = [{"role": "system", "content": system}, *chat] if system else chat
        prompt = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        torch.manual_seed(options.pop("seed", 0))
        done = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), **{"max_new_tokens": 24, **options}
        )
        return str(tokenizer.decode(done[0, prompt.shape[1] :], skip_special_tokens=True))

    return answer


# -- answers


def test_a_greedy_answer_is_the_librarys_own(load: Any, folder: Path, library: Any) -> None:
    """A piece for each token, which join to it."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    pieces = talker.pieces("Hello 世界")
    assert "".join(pieces) == library("Hello 世界")
    assert len(pieces) == 24


def test_the_second_turn_reads_the_first(load: Any, folder: Path, library: Any) -> None:
    """With the operator's system prompt in front."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--system_prompt", "Be kind.")
    first = "".join(talker.pieces("one"))
    second = "".join(talker.pieces("one", first, "two"))
    assert first == library("one", system="Be kind.")
    assert second == library("one", first, "two", system="Be kind.")


def test_options_reach_the_library(load: Any, folder: Path, library: Any) -> None:
    """From the command line and from a Modelfile, which wins."""
    talker = load(
        HuggingfaceExecutor,
        *("--model_path", folder, *FEW),
        *("--generation_kwargs", "repetition_penalty=1.5", "do_sample=true", "top_k=20", "seed=7"),
    )
    options = {"repetition_penalty": 1.5, "do_sample": True, "top_k": 20, "seed": 7}
    assert "".join(talker.pieces("x")) == library("x", **options)
    asked = {"parameter": "llm_max_new_tokens 5"}
    assert "".join(talker.pieces("x", **asked)) == library("x", **options, max_new_tokens=5)


def test_a_stop_word_ends_the_answer(load: Any, folder: Path, library: Any) -> None:
    """Nothing of it is shown, though it comes token by token."""
    whole = library("Hello")
    word = whole[10:14]
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--stop", "never", word)
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(word)]


def test_a_template_that_refuses_a_system_prompt_gets_it_folded(
    load: Any, tmp_path: Path, library: Any
) -> None:
    """Into the first message of the user; --no_system_prompt leaves it out."""
    folder = tiny_models.write_folder(tmp_path / "m", template=tiny_models.REFUSING_TEMPLATE)
    options = ("--model_path", folder, *FEW, "--system_prompt", "S")
    assert "".join(load(HuggingfaceExecutor, *options).pieces("x")) == library("S\n\nx")
    without = load(HuggingfaceExecutor, *options, "--no_system_prompt")
    assert "".join(without.pieces("x")) == library("x")


def test_a_model_without_a_template_gets_a_plain_one(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; an own one can be given, as text or as a file."""
    folder = tiny_models.write_folder(tmp_path / "m", template=None)
    plain = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    assert "has no chat template" in caplog.text
    assert len(plain.pieces("x")) == 24
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[-1].content }}", encoding="utf-8")
    for template in (file, "{{ messages[-1].content }}"):
        own = load(
            HuggingfaceExecutor, "--model_path", folder, *FEW, "--override_chat_template", template
        )
        assert own.executor.model.render([{"role": "user", "content": "a"}]) == [3 + ord("a")]


# -- limits


def test_the_oldest_exchanges_are_left_out(load: Any, folder: Path, library: Any) -> None:
    """Until the prompt fits --limit; a question that does not fit alone is one sentence."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--limit", 120)
    long = ("a" * 40, "b" * 40, "c", "d", "e")
    assert "".join(talker.pieces(*long)) == library("c", "d", "e")
    with pytest.raises(AnswerError, match="too long"):
        talker.pieces("a" * 120)


def test_an_answer_ends_where_the_context_ends(load: Any, folder: Path) -> None:
    """With a side note, and after as many tokens as there is room for."""
    talker = load(HuggingfaceExecutor, "--model_path", folder)
    pieces = talker.pieces("a" * 1500)
    prompt = len(talker.executor.model.render([{"role": "user", "content": "a" * 1500}]))
    assert pieces[-1] == FULL
    assert len(pieces) == 2048 - prompt + 1


def test_an_answer_may_not_take_too_long(load: Any, folder: Path) -> None:
    """The person is told."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, "--timeout", 0.05)
    pieces = talker.pieces("x")
    assert "took longer than 0.05 s" in pieces[-1]
    assert len(pieces) < 1000


# -- stopping


def test_a_stopped_answer_ends_within_a_step(load: Any, folder: Path, library: Any) -> None:
    """The engine computes no further token, and the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder)
    model = talker.executor.model
    steps: list[int] = []
    model._model.register_forward_pre_hook(lambda *_: steps.append(1))
    request = talker.executor.create_request([{"role": "user", "content": "x"}], Modelfile())
    say, texts = request.say, []

    def say_and_cancel(text: str) -> None:
        say(text)
        texts.append(text)
        if len(texts) == 5:
            request.cancel()

    request.say = say_and_cancel
    model.compute(request)
    assert len(texts) == 5
    assert len(steps) <= 6, "one step may be under way"
    assert talker.first(3, "x") == texts[:3]
    assert "".join(talker.pieces("x", parameter="llm_max_new_tokens 24")) == library("x")


# -- mistakes


def test_a_failing_chat_harms_no_other(
    load: Any, folder: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out is said to the person; the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    model = talker.executor.model

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(model._model, "generate", fail)
        with pytest.raises(AnswerError, match="ran out of memory"):
            talker.pieces("x")
    assert "".join(talker.pieces("x")) == library("x")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("--device", "cuda"), StartError, "--device cuda asks for a GPU"),
        (("--visible_gpu", "0"), StartError, "--visible_gpu asks for a GPU"),
        (("--device", "warp"), UsageError, "--device warp is no device"),
        (("--generation_kwargs", "heat=1"), UsageError, "unknown option 'heat'; known are max_new"),
        (("--generation_kwargs", "top_p=x"), UsageError, "top_p must be a number, not 'x'"),
        (("--top_p", "1.5"), UsageError, "top_p must be at most 1"),
        (("--override_chat_template", "/no/such"), UsageError, "is no template, and no file"),
        (("--override_chat_template", "{% for %}"), StartError, "accepts no chat at all"),
    ],
)
def test_a_wrong_option_is_one_line(
    load: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    kind: type[KuwaError],
    words: str,
) -> None:
    """Before anybody waits for an answer."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(kind) as refused:
        load(HuggingfaceExecutor, "--model_path", folder, *options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_broken_weights_are_one_line(load: Any, folder: Path, tmp_path: Path) -> None:
    """It names the folder and what the library says."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"<!doctype html>")
    with pytest.raises(StartError) as refused:
        load(HuggingfaceExecutor, "--model_path", tmp_path)
    assert str(refused.value).startswith(f"{tmp_path} cannot be loaded: ")
    assert "\n" not in str(refused.value)


def test_an_impossible_request_is_refused_before_the_library(load: Any, folder: Path) -> None:
    """With a sentence for the person."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    with pytest.raises(AnswerError, match="llm_top_k must be at most 2"):
        talker.pieces("x", parameter=f"llm_top_k {2**31}")
    with pytest.raises(AnswerError, match="No input message"):
        talker.pieces("")


def test_options_without_effect_are_named(
    load: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A temperature does nothing without sampling."""
    load(HuggingfaceExecutor, "--model_path", folder, "--temperature", "0.5")
    assert "these do nothing: temperature" in caplog.text


def test_precedence_of_options(load: Any, folder: Path, tmp_path: Path) -> None:
    """Default < -c file < --generation_kwargs < an option of its own."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"top_k": 1, "top_p": 0.1, "min_p": 0.1}), encoding="utf-8")
    executor = load(
        HuggingfaceExecutor,
        *("--model_path", folder, "-c", file, "--generation_kwargs", "top_k=2", "top_p=0.2"),
        *("--top_k", "3"),
    ).executor
    found = [executor.settings[name] for name in ("max_new_tokens", "min_p", "top_p", "top_k")]
    assert found == [4096, 0.1, 0.2, 3]


# -- as a user runs it


def test_it_answers_through_a_kernel(folder: Path, library: Any) -> None:
    """And directly; the end is clean."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "2")
    with Program("huggingface", "--model_path", str(folder), *map(str, FEW), *options) as program:
        program.wait_for("registered as huggingface")
        assert chat_through(program.kernel_url, "huggingface", "Hello") == library("Hello")
        assert fetch(program.url, said("Hi"))[1] == library("Hi")
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log


def test_a_chat_in_line_can_be_stopped(folder: Path) -> None:
    """While another one is computed; both endpoints are free again at once."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "2")
    with Program("huggingface", "--model_path", str(folder), *options) as program:
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
