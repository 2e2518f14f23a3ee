"""Log probabilities of tokens, in both engines: the libraries' own, read by OpenAI's SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import openai
import pytest

from kuwa_min.kernel.protocol import ChatRequest
from tests.conftest import MakeOnce
from tests.kuwa_min.serving.api_client import api
from tests.support.models import tiny_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
MESSAGES: Any = [{"role": "user", "content": "Tell me about the sea."}]
COUNT, TOP = 12, 3  # tokens of an answer, alternatives of each
FIRST_BYTE = len(tiny_models.SPECIAL)  # the token of the byte 0
SLOTS = ("--concurrent_req_limit", 2)
WORDS = {"enum": ["Taipei", "Tainan", "Taichung"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": WORDS}}
Compute = Callable[[list[int]], Any]


class Engine(NamedTuple):
    """A loaded engine, and what computes the logits after each of some tokens."""

    executor: Any
    logits: Compute

    @contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        """Serve it, and give OpenAI's client."""

        async def compute(chat: ChatRequest) -> AsyncGenerator[Any, None]:
            async for piece in self.executor.llm_compute(chat.history, chat.modelfile):
                yield piece

        features = tuple(self.executor.api_features())
        with (
            api(compute, features=features, on_loop=False, slots=2, places=4) as one,
            openai.OpenAI(base_url=one.url, api_key="x", max_retries=0) as client,
        ):
            yield client

    def expected(self, prompt: list[int], answer: bytes) -> Any:
        """Return the log probabilities [tokens, vocabulary] that the library has for an answer."""
        tokens = [*prompt, *tokens_of(answer)]
        logits = numpy.asarray(self.logits(tokens[:-1]), numpy.float64)[len(prompt) - 1 :]
        return logits - numpy.logaddexp.reduce(logits, -1, keepdims=True)

    def check(self, prompt: list[int], entries: list[Any]) -> None:
        """Check the entries of a chat's answer."""
        answer = b"".join(bytes(one.bytes) for one in entries)
        for entry, token, row in zip(
            entries, tokens_of(answer), self.expected(prompt, answer), strict=True
        ):
            assert entry.logprob == pytest.approx(row[token], abs=1e-3)
            best = numpy.sort(row)[::-1][:TOP]
            assert [one.logprob for one in entry.top_logprobs] == pytest.approx(best, abs=1e-3)
            likeliest = entry.top_logprobs[0]
            assert tokens_of(bytes(likeliest.bytes)) == [row.argmax()]


def tokens_of(data: bytes) -> list[int]:
    """Return the tokens of a text, which are its bytes."""
    return [byte + FIRST_BYTE for byte in data]


def text_of(entries: list[Any]) -> str:
    """Return the text of a chat's entries."""
    return b"".join(bytes(one.bytes) for one in entries).decode(errors="replace")


def _write_gguf(folder: Path) -> None:
    tiny_models.write_gguf(folder / "tiny.gguf")


def _write_folder(folder: Path) -> None:
    tiny_models.write_folder(folder)


@pytest.fixture(params=["huggingface", "llamacpp"])
def engine(request: Any, load: Any, make_once: MakeOnce) -> Engine:
    """Load a tiny model into each engine."""
    if request.param == "llamacpp":
        pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
        from backends.llamacpp import LlamacppExecutor
        from tests.support.models.real_libraries import LlamaLibrary

        path = make_once("tiny-gguf", _write_gguf) / "tiny.gguf"
        options = ("--model_path", path, *SLOTS, *LlamaLibrary.EXACT)
        return Engine(load(LlamacppExecutor, *options).executor, LlamaLibrary(path).logits)
    pytest.importorskip("torch", reason="the huggingface backend needs torch")
    pytest.importorskip("transformers", reason="and transformers")
    from backends.huggingface import HuggingfaceExecutor
    from tests.support.models.real_libraries import TransformersLibrary

    path = make_once("tiny-folder", _write_folder)
    options = ("--model_path", path, *SLOTS, *TransformersLibrary.EXACT)
    return Engine(load(HuggingfaceExecutor, *options).executor, TransformersLibrary(path).logits)


PENALTY = {"repetition_penalty": 1.5}
SAMPLED = {"temperature": 1.3, "seed": 7, "top_p": 0.9, "extra_body": PENALTY}


def test_what_computes_whole_answers_does_not_offer_them(load: Any, make_once: MakeOnce) -> None:
    """The library's generate() does not show its logits."""
    pytest.importorskip("torch", reason="the huggingface backend needs torch")
    from backends.huggingface import HuggingfaceExecutor

    path = make_once("tiny-folder", _write_folder)
    options = ("--model_path", path, "--generation_kwargs", "min_length=1")
    assert "logprobs" not in load(HuggingfaceExecutor, *options).executor.api_features()


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, SAMPLED, {"temperature": 0, "response_format": FORMAT}],
    ids=["greedy", "sampled", "constrained"],
)
def test_they_are_the_librarys_own(engine: Engine, options: dict[str, Any]) -> None:
    """Before what options make of them; whole and streamed."""
    prompt = engine.executor.default_encoder().encode(MESSAGES).ids
    asked: Any = {"model": "m", "messages": MESSAGES, "max_tokens": COUNT, **options}
    asked |= {"logprobs": True, "top_logprobs": TOP}
    with engine.client() as client:
        whole = client.chat.completions.create(**asked).choices[0]
        events = client.chat.completions.create(**asked, stream=True)
        chunks = [one.choices[0] for one in events]
    entries = whole.logprobs.content
    assert text_of(entries) == whole.message.content
    engine.check(prompt, entries)
    streamed = [(one.delta.content, one.logprobs.content) for one in chunks if one.logprobs]
    assert all(content == text_of(part) for content, part in streamed)
    assert "".join(content for content, _ in streamed) == whole.message.content
    engine.check(prompt, [one for _, part in streamed for one in part])


def test_a_chat_without_them_is_as_before(engine: Engine) -> None:
    """Also beside one that has them."""
    asked: Any = {"model": "m", "messages": MESSAGES, "max_tokens": COUNT, "temperature": 0}
    with engine.client() as client, ThreadPoolExecutor() as threads:
        create = partial(client.chat.completions.create, **asked)
        alone = create().choices[0]
        beside = [threads.submit(create), threads.submit(create, logprobs=True)]
        plain, with_them = (one.result().choices[0] for one in beside)
    assert plain == alone
    assert (plain.logprobs, plain.message) == (None, with_them.message)
    assert [one.top_logprobs for one in with_them.logprobs.content] == [[]] * COUNT


def test_completions_have_them_as_lists(engine: Engine) -> None:
    """With the sampled token among the likeliest; at the end of a stop word, there are no more."""
    prompt = "Once upon a time"
    ids = engine.executor.tokenizer.tokenize(prompt)
    with engine.client() as client:
        create = client.completions.create
        asked: Any = {"model": "m", "prompt": prompt, "max_tokens": COUNT, "temperature": 0}
        choice = create(**asked, logprobs=2).choices[0]
        found = choice.logprobs
        assert "".join(found.tokens) == choice.text
        assert found.text_offset == [*range(COUNT)]
        rows = engine.expected(ids, choice.text.encode())
        for token, value, likeliest, row in zip(
            found.tokens, found.token_logprobs, found.top_logprobs, rows, strict=True
        ):
            assert value == likeliest[token] == pytest.approx(row.max(), abs=1e-3)
            assert [*likeliest.values()] == pytest.approx(numpy.sort(row)[::-1][:2], abs=1e-3)
        stop = choice.text[5:8]
        cut = create(**asked, logprobs=0, stop=stop).choices[0]
        assert cut.text == choice.text[: choice.text.index(stop)]
        assert ("".join(cut.logprobs.tokens), cut.logprobs.top_logprobs) == (cut.text, None)
        assert create(**asked).choices[0].logprobs is None
