"""Prompt encoders: with a model's own template, or with a Modelfile's."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backends._local.executor import ModelExecutor
from backends._local.prompts.encoder import (
    SystemFoldingEncoder,
    TextEncoder,
    bos_of,
    supports_system_role,
)
from backends._local.templates.chat_template import ChatTemplate, TemplateError
from backends._local.templates.sandbox_pool import RENDER_TIMEOUT, SandboxPool
from backends._local.tokenizing.prompt_tokenizer import PromptTokenizer
from kuwa_min import Modelfile
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.request_extras import RequestExtras
from kuwa_min.errors import AnswerError
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.models.byte_tokenizer import ByteTokenizer
from tests.support.models.tiny_models import END, REFUSING_TEMPLATE, SPECIAL, TEMPLATE
from tests.support.programs import TIMEOUT

pytest.importorskip("jinja2", reason="chat templates are written in it")

IGNORING_TEMPLATE = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}\n{% endif %}{% endfor %}"
)
BARE_TEMPLATE = "{{ messages[-1].content }}"
ENDLESS_TEMPLATE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
QUOTING_TEMPLATE = (
    "{% set said = messages[-1].content | replace('\n', ' ') %}"
    "{% if 'secret' in said %}{{ raise_exception(said) }}{% endif %}{{ said }}"
)
SYSTEM_CHAT = [{"role": "system", "content": "S"}, *local_chats.chat("x")]
RAW_PROMPT = "<|im_start|>user\nhi <think>"
SLOW = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]


def encoder(template: str) -> TextEncoder:
    """Return an encoder whose tokens are bytes."""
    return TextEncoder(ChatTemplate(template), PromptTokenizer(ByteTokenizer()))


def read(encoder: Any, chat: list[Message]) -> str:
    """Return what a model would read."""
    return bytes(encoder.encode(chat).ids).decode()


# -- encoders


def test_a_chat_is_counted_and_encoded_with_the_template() -> None:
    """With the same length."""
    one = encoder(TEMPLATE)
    assert (
        read(one, local_chats.chat("Hi"))
        == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert one.count_tokens(local_chats.chat("Hi")) == len(read(one, local_chats.chat("Hi")))
    assert one.count_tokens(local_chats.chat("Hi!")) == one.count_tokens(local_chats.chat("Hi")) + 1


def test_a_chat_that_was_counted_is_not_rendered_again() -> None:
    """Rendering may take a process; another chat is rendered of course."""
    rendered = []

    class Counting:
        def render(self, chat: list[Message], /, **_: Any) -> str:
            rendered.append(chat)
            return chat[-1]["content"]

    one = TextEncoder(Counting(), PromptTokenizer(ByteTokenizer()))
    assert one.count_tokens(local_chats.chat("a")) == 1
    assert one.encode(local_chats.chat("a")).ids == [ord("a")]
    assert len(rendered) == 1
    assert one.encode(local_chats.chat("b")).ids == [ord("b")]
    assert len(rendered) == 2


def test_half_characters_of_a_template_are_question_marks() -> None:
    """Tokenizers refuse them."""
    assert read(encoder('{{ "\\ud83d" }}'), local_chats.chat("x")) == "?"


def test_a_system_prompt_can_be_folded() -> None:
    """It comes before the first message of the user."""
    plain, folding = encoder(REFUSING_TEMPLATE), SystemFoldingEncoder(encoder(REFUSING_TEMPLATE))
    with pytest.raises(TemplateError, match="No system role"):
        plain.count_tokens(SYSTEM_CHAT)
    assert read(folding, SYSTEM_CHAT) == read(plain, local_chats.chat("S\n\nx"))
    assert folding.count_tokens(SYSTEM_CHAT) == plain.count_tokens(local_chats.chat("S\n\nx"))


@pytest.mark.parametrize(
    ("template", "takes"),
    [(TEMPLATE, True), (REFUSING_TEMPLATE, False), (IGNORING_TEMPLATE, False)],
)
def test_templates_with_a_system_role_are_known(template: str, takes: bool) -> None:
    """One that refuses it has none, and neither has one that leaves it out."""
    assert supports_system_role(encoder(template)) is takes


def test_a_template_that_refuses_every_chat_is_an_error() -> None:
    """With its own words."""
    with pytest.raises(TemplateError, match="Closed"):
        supports_system_role(encoder("{{ raise_exception('Closed') }}"))


# -- templates that come with a request


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a place for models."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=[pytest.param(name, marks=SLOW) for name in ("huggingface", "llamacpp")])
def executor(request: Any, load: Any, models: Path) -> ModelExecutor:
    """Load a model of each backend; all bytes are tokens."""
    if request.param == "huggingface":
        pytest.importorskip("torch", reason="the huggingface backend needs torch")
        from backends.huggingface import HuggingfaceExecutor as Executor

        path, few = models / "folder", "--max_new_tokens"
        if not path.exists():
            tiny_models.write_folder(path)
    else:
        pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
        from backends.llamacpp import LlamacppExecutor as Executor

        path, few = models / "file.gguf", "--max_tokens"
        if not path.exists():
            tiny_models.write_gguf(path)
    options = (few, 8, "--limit", 100, "--system_prompt", "S")
    made: ModelExecutor = load(Executor, "--model_path", path, *options).executor
    return made


def prompt(executor: ModelExecutor, *said: str, **commands: str) -> str:
    """Return a request's prompt, with its special tokens as text."""
    ids = local_chats.create(executor, *said, **commands).prompt_ids
    names = {number: name.encode() for number, name in enumerate(SPECIAL)}
    return b"".join(names.get(token) or bytes([token - len(SPECIAL)]) for token in ids).decode()


def refused(executor: ModelExecutor, template: str, text: str = "x") -> str:
    """Return the sentence that users of a bot with such a template read."""
    with pytest.raises(AnswerError) as error:
        local_chats.create(executor, text, template=template)
    sentence = str(error.value)
    assert sentence.startswith("[The bot's template cannot be used: ")
    assert sentence.endswith("]")
    return sentence


def test_a_template_is_for_its_request_alone(executor: ModelExecutor) -> None:
    """The next chat is written as the model wants it, with the operator's system prompt."""
    own = prompt(executor, "x")
    assert own.startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nx<|im_end|>\n")
    assert prompt(executor, "x", template="{{ messages[0].content }}!") == "S!"
    assert prompt(executor, "x") == own


def test_a_requests_template_knows_the_models_tokens(executor: ModelExecutor) -> None:
    """By the names that every template uses."""
    found = local_chats.create(executor, "x", template=f"{{{{ eos_token }}}}{BARE_TEMPLATE}")
    assert found.prompt_ids[0] == END


@pytest.mark.parametrize("template", [REFUSING_TEMPLATE, IGNORING_TEMPLATE])
def test_a_requests_template_without_a_system_role_gets_it_folded(
    executor: ModelExecutor, template: str
) -> None:
    """Though the model's own template takes it; the bot's comes before the operator's."""
    expected = ChatTemplate(template)
    assert prompt(executor, "x", template=template) == expected.render(local_chats.chat("S\n\nx"))
    found = prompt(executor, "x", template=template, system="B")
    assert found == expected.render(local_chats.chat("B\n\nx"))


def test_a_requests_template_decides_what_fits(executor: ModelExecutor) -> None:
    """A template that writes little leaves room for more of the chat."""
    said = ("a" * 20, "b" * 20, "c" * 20)
    assert "a" * 20 not in prompt(executor, *said)
    assert "a" * 20 in prompt(executor, *said, template=IGNORING_TEMPLATE)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}", "line 1: "),
        ("{{ raise_exception('Only on Mondays') }}", "Only on Mondays"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
        ("{{ 'x' * 9999999999 }}", "it needed more than "),
        ("x" * 70_000, "it is longer than 65,536 characters"),
    ],
)
def test_what_is_wrong_with_a_requests_template_is_a_sentence(
    executor: ModelExecutor, template: str, words: str
) -> None:
    """For the user; the next chat is answered."""
    found = refused(executor, template)
    assert words in found
    assert found.isprintable()
    assert len(found) < 300
    assert local_chats.ask(executor, "x")[1].completion_tokens == 8


def test_what_a_requests_template_says_is_not_logged(
    executor: ModelExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It may quote the chat."""
    with caplog.at_level("DEBUG"):
        found = refused(executor, QUOTING_TEMPLATE, "my secret")
    assert "my secret" in found
    assert "the template of a Modelfile refused a chat" in caplog.text
    assert "my secret" not in caplog.text


def test_a_template_without_end_is_ended(executor: ModelExecutor) -> None:
    """After a short while, and then the same chat without it is answered."""
    started = time.monotonic()
    assert f"longer than {RENDER_TIMEOUT:g} s" in refused(executor, ENDLESS_TEMPLATE)
    assert time.monotonic() - started >= RENDER_TIMEOUT
    assert local_chats.ask(executor, "x")[1].completion_tokens == 8


def test_others_are_answered_while_a_template_is_rendered(executor: ModelExecutor) -> None:
    """However long that takes."""
    executor.sandbox_pool.close()
    executor.sandbox_pool = SandboxPool(timeout=60)
    sentences: list[str] = []
    waiting = threading.Thread(target=lambda: sentences.append(refused(executor, ENDLESS_TEMPLATE)))
    waiting.start()
    assert local_chats.ask(executor, "x")[1].completion_tokens == 8
    assert local_chats.ask(executor, "x", template=BARE_TEMPLATE)[1].completion_tokens == 8
    assert not sentences
    executor.sandbox_pool.close()
    waiting.join(TIMEOUT)
    assert len(sentences) == 1


# -- prompts without a template


@pytest.mark.parametrize(
    ("template", "tokens", "bos"),
    [
        ("<s>" + BARE_TEMPLATE, {"bos_token": "<s>"}, "<s>"),
        (BARE_TEMPLATE, {"bos_token": "<s>"}, ""),
        ("<s>" + BARE_TEMPLATE, {"bos_token": None}, ""),
        ("<s>" + BARE_TEMPLATE, {}, ""),
    ],
)
def test_a_raw_prompt_begins_as_those_of_the_template(
    template: str, tokens: dict[str, Any], bos: str
) -> None:
    """With the token that the model saw in front of all text, or without one."""
    assert bos_of(encoder(template), ByteTokenizer(), tokens) == bos


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_a_raw_prompt_is_read_as_it_is(load: Any, tmp_path: Path) -> None:
    """As the client wrote it; a thought that it opened is text."""
    pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
    from backends.llamacpp import LlamacppExecutor

    path = tmp_path / "tiny.gguf"
    tiny_models.write_gguf(path)
    talker = load(LlamacppExecutor, "--model_path", path, "--threads", 1, "--max_tokens", 4)
    modelfile = Modelfile()
    modelfile.extras = RequestExtras(raw_prompt=True)
    request = talker.executor.create_request(local_chats.chat(RAW_PROMPT), modelfile)
    assert request.prompt_ids == talker.executor.model.tokenizer.tokenize(RAW_PROMPT)
    assert local_chats.stopped(request, "Hm</think>Hi") == "Hm</think>Hi"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_a_model_that_sees_reads_a_raw_prompt_as_it_is(load: Any, tmp_path: Path) -> None:
    """Without its template, as there are no pictures."""
    pytest.importorskip("transformers", reason="the huggingface backend needs it")
    from backends.huggingface import HuggingfaceExecutor
    from tests.support.models import tiny_vision

    folder = tiny_vision.write_llava(tmp_path / "seer")
    talker = load(HuggingfaceExecutor, "--model_path", folder, "--threads", 1)
    modelfile = Modelfile()
    modelfile.extras = RequestExtras(raw_prompt=True)
    modelfile.parameters["llm_enable_multimodal"] = False
    request = talker.executor.create_request(local_chats.chat("Once upon"), modelfile)
    tokenizer = talker.executor.model.tokenizer
    assert talker.executor.accepts_images()
    assert request.prompt_ids[-2:] == tokenizer.tokenize("Once upon")[-2:]
    assert len(request.prompt_ids) <= len(tokenizer.tokenize("Once upon")) + 1
