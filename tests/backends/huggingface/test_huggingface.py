"""The huggingface backend with the real library and a tiny model made on the spot."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from backends.huggingface import OPTIONS, HuggingfaceExecutor
from kuwa_min.errors import AnswerError, KuwaError, StartError, UsageError
from kuwa_min.options import constraint, generation_options
from kuwa_min.options.thinking import LOCAL_OPTIONS
from kuwa_min.process import supervision
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.programs import Program, call, chat_through, fetch, said, until

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
FEW = ("--max_new_tokens", 24)
FULL = (
    "<<<WARNING>>>The answer was cut off: the model's context of 2048 tokens is full.<<</WARNING>>>"
)
LATE = "<<<WARNING>>>The answer took longer than 0.05 s and was cut off.<<</WARNING>>>"


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
    """With as many tokens as were asked for, through a stream and without one."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    text, request = local_chats.ask(talker.executor, "Hello 世界")
    assert text == library("Hello 世界")
    assert request.completion_tokens == 24
    assert "".join(talker.pieces("Hello 世界")) == text


def test_the_second_turn_reads_the_first(load: Any, folder: Path, library: Any) -> None:
    """With the operator's system prompt in front."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--system_prompt", "Be kind.")
    first = "".join(talker.pieces("one"))
    second = "".join(talker.pieces("one", first, "two"))
    assert first == library("one", system="Be kind.")
    assert second == library("one", first, "two", system="Be kind.")


def test_options_reach_the_model(load: Any, folder: Path, library: Any) -> None:
    """From the command line and from a Modelfile, which wins."""
    talker = load(
        HuggingfaceExecutor,
        "--model_path",
        folder,
        *FEW,
        "--generation_kwargs",
        "repetition_penalty=1.5",
        "do_sample=true",
        "top_k=1",
        "seed=7",
    )

    def answer(**asked: Any) -> str:
        return "".join(talker.pieces("x", **asked))

    likeliest = library("x", repetition_penalty=1.5)
    assert likeliest != library("x"), "the penalty has an effect"
    assert answer() == likeliest
    assert answer(parameter="llm_max_new_tokens 5") == likeliest[:5]
    drawn = answer(parameter="llm_top_k 20")
    assert drawn == answer(parameter="llm_top_k 20") != likeliest
    assert answer(parameter="llm_repetition_penalty 1.0") == library("x")
    assert answer(parameter="llm_no_such_option 1") == likeliest


def test_a_stop_word_ends_the_answer(load: Any, folder: Path, library: Any) -> None:
    """Nothing of it is shown, though it comes token by token."""
    whole = library("Hello")
    word = whole[10:14]
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--stop", "never", word)
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(word)]


@pytest.mark.parametrize("computing", ["batched", "by generate()"])
@pytest.mark.parametrize("asked", ["llm_min_p 1", "llm_top_k 1", "top_p 0", "llm_temperature 0"])
def test_a_bot_may_leave_the_likeliest_token_only(
    load: Any, folder: Path, library: Any, asked: str, computing: str
) -> None:
    """Of a model that is sampled; each of these options does it, for this request alone."""
    hot = ("--do_sample", "true", "--temperature", 3, "--top_k", -1)
    alone = ("--generation_kwargs", "min_length=1") if computing == "by generate()" else ()
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, *hot, *alone)
    likeliest = library("Hello")
    assert "".join(talker.pieces("Hello", parameter=asked)) == likeliest
    assert "".join(talker.pieces("Hello")) != likeliest, "drawn again"


def test_a_bot_that_says_how_is_sampled(
    load: Any, folder: Path, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Without llm_do_sample, with its seed; what the library lacks is named once."""
    generation_options.warn_once.cache_clear()
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)

    def answer(*, seed: int = 1, **asked: str) -> str:
        return "".join(talker.pieces("x", kuwaparam=f"llm_seed {seed}", **asked))

    drawn = answer(parameter="llm_temperature 1.5")
    assert drawn == answer(parameter="llm_temperature 1.5") != library("x") == answer()
    assert drawn != answer(seed=2, parameter="llm_temperature 1.5")
    for _ in range(2):
        assert answer(parameter="llm_frequency_penalty 1") == library("x")
    assert caplog.text.count("llm_frequency_penalty of a Modelfile has no effect") == 1


@pytest.mark.parametrize("alone", [(), ("--generation_kwargs", "min_length=1")])
def test_no_longest_answer_means_the_context(
    load: Any, tmp_path: Path, alone: tuple[str, ...]
) -> None:
    """As Ollama's bots and llama.cpp have it; a seed of -1 is another one each time."""
    folder = tiny_models.write_folder(tmp_path / "m", context=128)
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, *alone)
    whole, request = local_chats.ask(talker.executor, "Hello", parameter="num_predict -1")
    assert request.completion_tokens == 128 - len(request.prompt_ids)
    assert "context of 128 tokens is full" in whole
    asked = {"parameter": "llm_seed -1", "kuwaparam": "llm_temperature 2"}
    assert talker.pieces("Hello", **asked) != talker.pieces("Hello", **asked)


@pytest.mark.parametrize("name", ["stop", "llm_stop"])
def test_a_bots_stop_words_end_its_answers(
    load: Any, folder: Path, library: Any, name: str
) -> None:
    """One or several, with or without llm_."""
    whole = library("Hello")
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    word, sooner = f'{name} "{whole[5:7]}"', f'{name} "{whole[2:4]}"'
    assert "".join(talker.pieces("Hello", parameter=word)) == whole[:5]
    assert "".join(talker.pieces("Hello", parameter=word, kuwaparam=sooner)) == whole[:2]
    assert "".join(talker.pieces("Hello")) == whole


# -- what the library takes beyond our options


def test_beams_are_honoured_one_chat_at_a_time(
    load: Any, folder: Path, library: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As generate() does it; the best beam is known when the answer is whole."""
    path = tmp_path / "c.yaml"
    path.write_text("num_beams: 3\nlength_penalty: 2.0\nuse_cache: true\n", encoding="utf-8")
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "-c", path)
    assert "by generate(): only generate() implements " in caplog.text
    assert "GenerationConfig without effect here: use_cache" in caplog.text
    right = library("Hello", num_beams=3, length_penalty=2.0)
    assert "".join(talker.pieces("Hello")) == right
    text, request = local_chats.ask(talker.executor, "Hello")
    assert (text, request.completion_tokens) == (right, 24)


def test_tokens_may_be_suppressed(load: Any, folder: Path, library: Any) -> None:
    """From --generation_kwargs, as JSON."""
    banned = torch.tensor(range(3, 100)).tolist()
    pair = f"suppress_tokens={json.dumps(banned)}"
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--generation_kwargs", pair)
    right = library("Hello", suppress_tokens=banned)
    assert "".join(talker.pieces("Hello")) == right != library("Hello")


def test_a_models_own_file_of_options_will_do(
    load: Any, folder: Path, library: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Many chats at once, as without it: what is not for us is named."""
    path = tmp_path / "generation_config.json"
    options = {"num_beams": 1, "min_length": 0, "transformers_version": "4.1", "pad_token_id": 0}
    whole = library("Hello")
    more = {"stop_strings": [whole[8:11]], "eos_token_id": [0], "_from_model_config": True}
    path.write_text(json.dumps({**options, **more}), encoding="utf-8")
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "-c", path)
    assert "here: _from_model_config, pad_token_id, transformers_version" in caplog.text
    assert "one at a time" not in caplog.text
    assert 0 in talker.executor.model.eos_token_ids
    assert "".join(talker.pieces("Hello")) == whole[: whole.index(whole[8:11])]
    answer = "".join(talker.pieces("Hello", parameter=f'llm_stop ["x y z", "{whole[4:6]}"]'))
    assert answer == whole[: whole.index(whole[4:6])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beams: 3", "unknown option 'beams'; did you mean num_beams?"),
        ("num_beams: many", "num_beams must be a whole number"),
        ("eos_token_id: end", "eos_token_id must be a token's number"),
        ("bad_words_ids: 7", "transformers cannot generate with bad_words_ids: "),
    ],
)
def test_options_that_cannot_be_meant_end_the_start(
    load: Any, folder: Path, tmp_path: Path, text: str, words: str
) -> None:
    """In one line, before the first chat."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as refused:
        load(HuggingfaceExecutor, "--model_path", folder, "-c", path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--generation_kwargs", "min_length=1")])
def test_a_temperature_of_zero_takes_the_likeliest(
    load: Any, folder: Path, library: Any, more: tuple[str, ...]
) -> None:
    """As bots ask for it that were written for other models; also where generate() computes."""
    options = ("--model_path", folder, *FEW, "--do_sample", "true", *more)
    talker = load(HuggingfaceExecutor, *options)
    assert "".join(talker.pieces("Hello", parameter="llm_temperature 0")) == library("Hello")


@pytest.mark.parametrize(
    "options",
    [("--device_map", "cpu"), ("--device_map", "balanced"), ("--device_map", '{"": "cpu"}')],
)
def test_a_device_map_is_accelerates(
    load: Any, folder: Path, library: Any, options: tuple[str, ...]
) -> None:
    """A name, or which part goes where; without graphics cards, names mean the processor."""
    kind = ("--torch_dtype", "fp32")
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, *options, *kind)
    assert talker.executor.model.info()["dtype"] == "float32"
    assert "".join(talker.pieces("Hello")) == library("Hello")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("--device_map", "somewhere"), UsageError, "somewhere is no device"),
        (("--device_map", '{"": "somewhere"}'), StartError, "cannot be loaded"),
        (("--device_map", "cpu", "--device", "cpu"), UsageError, "exclude each other"),
    ],
)
def test_a_device_map_that_leads_nowhere_ends_the_start(
    load: Any, folder: Path, options: tuple[str, ...], kind: type[KuwaError], words: str
) -> None:
    """In one line."""
    with pytest.raises(kind, match=words):
        load(HuggingfaceExecutor, "--model_path", folder, *options)


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
    assert local_chats.ask(plain.executor, "x")[1].completion_tokens == 24
    assert local_chats.tokens(plain.executor, "x") == [3 + byte for byte in b"user: x\nassistant:"]
    file, bom = tmp_path / "template.jinja", tmp_path / "bom.jinja"
    file.write_text("{{ messages[-1].content }}", encoding="utf-8")
    bom.write_text("{{ messages[-1].content }}\n", encoding="utf-16", newline="\r\n")
    for template in (file, bom, "{{ messages[-1].content }}"):
        own = load(
            HuggingfaceExecutor, "--model_path", folder, *FEW, "--override_chat_template", template
        )
        assert local_chats.tokens(own.executor, "a") == [3 + ord("a")]


def test_the_default_of_several_templates_is_used(load: Any, tmp_path: Path) -> None:
    """A model may have others for tools and documents."""
    folder = tiny_models.write_folder(tmp_path / "m")
    several = {"default": "{{ messages[-1].content }}", "rag": "{{ raise_exception('rag') }}"}
    tiny_models.make_tokenizer(several).save_pretrained(folder)
    executor = load(HuggingfaceExecutor, "--model_path", folder).executor
    assert local_chats.tokens(executor, "a") == [3 + ord("a")]


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
    text, request = local_chats.ask(talker.executor, "a" * 1500)
    assert text.endswith(FULL)
    assert request.completion_tokens == 2048 - len(local_chats.tokens(talker.executor, "a" * 1500))
    assert len(text.removesuffix(FULL)) == request.completion_tokens, "each token is a letter"


def test_an_answer_may_not_take_too_long(load: Any, folder: Path) -> None:
    """The user is told."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, "--timeout", 0.05)
    text, request = local_chats.ask(talker.executor, "x")
    assert text.endswith(LATE)
    assert len(text.removesuffix(LATE)) == request.completion_tokens < 1000


# -- stopping


def test_a_stopped_answer_ends_within_a_step(load: Any, folder: Path, library: Any) -> None:
    """The engine computes no further token, and the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder)
    steps: list[int] = []
    count_step = talker.executor.model.library_model.register_forward_pre_hook
    handle = count_step(lambda *_: steps.append(1))
    request = local_chats.create(talker.executor, "x")
    say, texts = request.emit, []

    def emit_and_cancel(text: str, *more: object) -> None:
        say(text, *more)
        texts.append(text)
        if len(texts) == 5:
            request.cancel()

    request.emit = emit_and_cancel
    talker.executor.engine.submit(request)
    until(lambda: request.finished)
    handle.remove()
    assert len(texts) == len(steps) == request.completion_tokens == 5
    assert library("x").startswith("".join(texts))
    assert "".join(talker.pieces("x", parameter="llm_max_new_tokens 24")) == library("x")


def test_any_token_that_a_model_names_as_its_end_ends_an_answer(
    load: Any, tmp_path: Path, library: Any
) -> None:
    """Its three files do not always agree; which of two is first decides."""
    whole = [library(question) for question in ("Hello", "one", "two", "three")]
    ends = [whole[0][7], whole[1][9], whole[2][11], whole[3][13]]
    folder = tiny_models.write_folder(tmp_path / "m")
    tokens = [3 + ord(letter) for letter in ends]
    change(folder / "generation_config.json", eos_token_id=tokens[:2])
    change(folder / "config.json", eos_token_id=tokens[2])
    change(folder / "tokenizer_config.json", eos_token=ends[3])
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    for question, text in zip(("Hello", "one", "two", "three"), whole, strict=True):
        shown = text[: min(text.index(letter) for letter in ends if letter in text)]
        answer, request = local_chats.ask(talker.executor, question)
        assert answer == shown
        assert request.completion_tokens == len(shown) + 1, "the end itself was computed"


def change(file: Path, **values: Any) -> None:
    """Put other values into a file of a model."""
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}), encoding="utf-8")


# -- mistakes


SERIAL = ("--generation_kwargs", "guidance_scale=1.5")  # computed by generate()
LIBRARY_FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize("options", [(), SERIAL], ids=["batched", "serial"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), LIBRARY_FULL],
    ids=["torch", "cuBLAS"],
)
def test_a_failing_chat_harms_no_other(
    error: Any, options: Any, load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is told that memory ran out; the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, *options)
    expected = talker.pieces("x")
    model = talker.executor.model.library_model
    monkeypatch.setattr(supervision, "_end_process", pytest.fail)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(error) if isinstance(error, str) else error

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", fail)
        with pytest.raises(AnswerError, match="ran out of memory"):
            talker.pieces("x")
    assert "".join(talker.pieces("x")) == "".join(expected)


@pytest.mark.parametrize("options", [(), SERIAL], ids=["batched", "serial"])
def test_a_lost_gpu_ends_the_process(
    options: Any, load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every forward pass fails from then on as torch says it: one line, once."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, *options)
    reasons, ended = list[str](), threading.Event()

    def end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with ...")

    monkeypatch.setattr(supervision, "_end_process", end)
    monkeypatch.setattr(talker.executor.model.library_model, "forward", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="device-side assert"):
            talker.pieces("x")
        assert ended.wait(60)
    assert len(reasons) == 1
    assert "(CUDA error: device-side assert triggered); a new process can use it" in reasons[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CUDA error: device-side assert triggered", "computes nothing any more"),
        ("CUDA error: no kernel image is available", "cannot be computed: CUDA error: no kernel"),
        (LIBRARY_FULL, "no memory is left to compute with"),
    ],
)
@pytest.mark.parametrize("options", [(), SERIAL], ids=["batched", "serial"])
def test_a_gpu_that_fails_at_the_start_ends_it(
    options: Any, text: str, said: str, load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason to compute chats one at a time; one line says what failed."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(torch.nn.Embedding, "forward", fail)
    with pytest.raises(StartError, match=said):
        load(HuggingfaceExecutor, "--model_path", folder, *FEW, *options)


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
        (
            ("--override_chat_template", "{% for %}"),
            StartError,
            "the chat template cannot be read: ",
        ),
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
    """Before the first request."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(kind) as refused:
        load(HuggingfaceExecutor, "--model_path", folder, *options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_graphics_card_that_is_not_here_is_refused(
    load: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch would leave it out in silence; on the processor it does not matter."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(StartError, match="--visible_gpu 0,7 names 2 graphics cards; here is 1 of"):
        load(HuggingfaceExecutor, "--model_path", folder, "--visible_gpu", "0,7")
    load(HuggingfaceExecutor, "--model_path", folder, "--visible_gpu", "0,7", "--device", "cpu")


def test_an_impossible_request_is_refused_before_the_library(load: Any, folder: Path) -> None:
    """With a sentence for the user."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    with pytest.raises(AnswerError, match="llm_top_k must be at most 2"):
        talker.pieces("x", parameter=f"llm_top_k {2**31}")
    with pytest.raises(AnswerError, match=r"\[The option llm_temperature must be a number\.\]"):
        talker.pieces("x", parameter="llm_temperature hot")
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
        "--model_path",
        folder,
        "-c",
        file,
        "--generation_kwargs",
        "top_k=2",
        "top_p=0.2",
        "--top_k",
        "3",
    ).executor
    found = [executor.settings[name] for name in ("max_new_tokens", "min_p", "top_p", "top_k")]
    assert found == [4096, 0.1, 0.2, 3]


# -- as a user runs it


def test_every_option_is_one_of_the_librarys() -> None:
    """But for the seed, which is the whole process's, what ends a text, thoughts, constraints."""
    known = vars(transformers.GenerationConfig())
    ours = {one.name for one in (*LOCAL_OPTIONS, *constraint.OPTIONS)}
    others = {"seed", "stop", "stop_token_ids", *ours}
    assert {option.name for option in OPTIONS} - known.keys() == others
    theirs = [option for option in OPTIONS if option.name not in {"seed", *ours}]
    defaults = {option.name: option.default for option in theirs}
    transformers.GenerationConfig(**defaults).validate(strict=True)


def test_it_answers_through_a_kernel(folder: Path, library: Any) -> None:
    """And directly; tokens are counted, and the end is clean."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "2")
    with Program("huggingface", "--model_path", str(folder), *map(str, FEW), *options) as program:
        program.wait_for("registered as huggingface")
        assert chat_through(program.kernel_url, "huggingface", "Hello") == library("Hello")
        assert fetch(program.url, said("Hi"))[1] == library("Hi")
        counted = fetch(urljoin(program.url, "/metrics"))[1]
        assert 'output_tokens_total{executor_name="huggingface"} 48.0' in counted
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log


def test_chats_can_be_stopped(tmp_path: Path) -> None:
    """By a button and by hanging up; both endpoints are free again at once."""
    folder = tiny_models.write_folder(tmp_path / "m", context=2**16)
    endless = ("--max_new_tokens", "60000", "--concurrent_req_limit", "2", "--ignore_kernel")
    with Program("huggingface", "--model_path", str(folder), *endless) as program:
        url, other = program.url, f"{program.url}/1"

        def busy() -> int:
            return int(json.loads(fetch(urljoin(url, "/status"))[1])["busy_slots"])

        with call(other, said("y")) as staying:
            assert staying.read(10)
            with call(url, said("x")) as leaving:
                assert leaving.read(10)
                assert busy() == 2
            until(lambda: busy() == 1)
            assert "Aborted" in fetch(f"{other}/abort")[1]
            assert staying.read()
        until(lambda: busy() == 0)
        for place in (url, other):
            assert fetch(f"{place}/abort")[1] == '{"msg":"No process to abort"}'
