"""GGUF models that see, with the real library and tiny models: answers equal its own handler's."""

from __future__ import annotations

import base64
import io
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends._local.prefill_budget import PrefillBudget
from backends._local.tokenizing.bounds import Stopped, bounded
from backends.llamacpp import LlamacppExecutor
from backends.llamacpp.vision.spans import find_spans
from kuwa_min.errors import StartError
from tests.support.batched_chats import Chats
from tests.support.local_chats import ask, create
from tests.support.models import tiny_mmproj
from tests.support.models.tiny_mmproj import KINDS, TILED
from tests.support.programs import until

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
pillow = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")
numpy = pytest.importorskip("numpy", reason="and numpy")
mtmd_cpp = pytest.importorskip(
    "llama_cpp.mtmd_cpp", reason="built with libmtmd", exc_type=(ImportError, FileNotFoundError)
)

from backends.llamacpp.batching.context import LlamaContext  # noqa: E402
from backends.llamacpp.vision.projector import Projector  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("free_copies"),
    pytest.mark.filterwarnings("default"),  # the library's own
]
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)
TOKENS = 24  # of an answer


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> str:
    """Return a data: URL of a picture of a few random colours."""
    colours = numpy.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=numpy.uint8)
    data = io.BytesIO()
    pillow.fromarray(colours).resize(size).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


class Handler:
    """llama-cpp-python's own handler of pictures."""

    def __init__(self, model: Path, mmproj: Path) -> None:
        from llama_cpp.llama_chat_format import MTMDChatHandler

        from backends.llamacpp import bindings

        bindings.prepare()
        self._handler = MTMDChatHandler(str(mmproj), verbose=False, use_gpu=False)
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=2048,
            n_threads=1,
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def answer(self, *said: str) -> str:
        """Return the greedy answer to what user and assistant said in turn."""
        roles = ("user", "assistant")
        messages = [
            {"role": roles[n % 2], "content": list(self._parts(text))}
            for n, text in enumerate(said)
        ]
        found = self._handler(
            llama=self._llama,
            messages=messages,
            temperature=0,
            max_tokens=TOKENS,
            repeat_penalty=1.0,
        )
        return str(found["choices"][0]["message"]["content"])

    @staticmethod
    def _parts(text: str) -> Iterator[dict[str, Any]]:
        for line in text.split("\n"):
            if line.startswith("data:"):
                yield {"type": "image_url", "image_url": {"url": line}}
            else:
                yield {"type": "text", "text": line}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Give the model and the mmproj file of each kind, each pair in a folder."""
    made = {}
    for kind in (*KINDS, TILED):
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = (
            tiny_mmproj.write_model(folder / "model.gguf", kind),
            tiny_mmproj.write_mmproj(folder / "mmproj-model.gguf", kind),
        )
    return made


@pytest.fixture(scope="module")
def handlers(files: Any) -> Callable[[str], Handler]:
    """Give the library's handler of each kind, loaded once."""
    known: dict[str, Handler] = {}

    def handler(kind: str) -> Handler:
        if kind not in known:
            known[kind] = Handler(*files[kind])
        return known[kind]

    return handler


def begin(load: Any, files: Any, kind: str, *options: object) -> LlamacppExecutor:
    """Return a loaded executor, whose mmproj file is the one beside the model."""
    model, _ = files[kind]
    wanted = ("--model_path", model, *EXACT, "--max_tokens", TOKENS, *options)
    executor: LlamacppExecutor = load(LlamacppExecutor, *wanted).executor
    return executor


def facts(executor: LlamacppExecutor) -> dict[str, int]:
    """Return what is known of encoded pictures."""
    found: dict[str, int] = executor.model.picture_encoder.facts()
    return found


# -- answers


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, TILED])
def test_turns_with_pictures_are_answered_as_the_library_does(
    kind: str, few: bool, files: Any, handlers: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns in one row, whose pictures are encoded once; also if they are read bit by bit."""
    if few:
        monkeypatch.setattr(PrefillBudget, "tokens", lambda *_, **__: 7)
    handler, executor = handlers(kind), begin(load, files, kind)
    first, second = f"{picture(1)}\nWhat is it?", f"{picture(2)}\n{picture(2)}\nAnd these?"
    answer, request = ask(executor, first)
    assert (answer, request.cached_tokens) == (handler.answer(first), 0)
    assert len(list(find_spans(request.prompt_ids))) == (5 if kind == TILED else 1)
    said = (first, answer, second)
    next_answer, next_request = ask(executor, *said)
    assert next_answer == handler.answer(*said) != answer
    assert next_request.cached_tokens >= len(request.prompt_ids)
    assert facts(executor)["encoded"] == 2
    assert facts(executor)["reused"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_chat_with_a_picture_goes_on_where_it_was(
    kind: str, files: Any, handlers: Any, load: Any
) -> None:
    """After another chat about another picture of the same size, which begins alike."""
    handler = handlers(kind)
    executor = begin(load, files, kind, "--concurrent_req_limit", 1, "--prompt_cache", "50MB")
    asked = [f"{picture(seed)}\nWhat is it, and what is it for?" for seed in (1, 2)]
    answers = [ask(executor, text)[0] for text in asked]
    assert answers == [handler.answer(text) for text in asked]
    for text, answer in zip(asked, answers, strict=True):
        said = (text, answer, "Why?")
        found, request = ask(executor, *said)
        assert found == handler.answer(*said)
        assert request.cached_tokens > 32
    assert facts(executor)["encoded"] == 2


def test_a_chat_with_a_picture_is_kept_on_disk(
    files: Any, handlers: Any, load: Any, tmp_path: Path
) -> None:
    """The next start knows the picture by its hash; with another mmproj file, it knows none."""
    folder = tmp_path / "chats"
    options = ("--prompt_cache", "50MB", "--prompt_cache_dir", folder)
    text = f"{picture(1)}\nWhat is it, and what is it for?"
    executor = begin(load, files, "qwen2vl", *options)
    answer, _ = ask(executor, text)
    executor.engine.close()
    said = (text, answer, "Why?")
    again = begin(load, files, "qwen2vl", *options)
    until(lambda: again.cache_settings.cache.facts()["entries"])
    found, request = ask(again, *said)
    assert found == handlers("qwen2vl").answer(*said)
    assert request.cached_tokens > 32
    again.engine.close()
    mmproj = tmp_path / "other.gguf"
    mmproj.write_bytes(files["qwen2vl"][1].read_bytes() + b"0")
    other = begin(load, files, "qwen2vl", *options, "--mmproj", mmproj)
    assert other.cache_settings.cache.facts()["entries"] == 0
    assert ask(other, *said)[1].cached_tokens == 0


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chats_with_and_without_pictures_are_computed_at_once(
    kind: str, reproducible: bool, files: Any, handlers: Any, load: Any
) -> None:
    """Each is answered as if it were alone."""
    handler = handlers(kind)
    more = ("--concurrent_req_limit", 4, *(["--reproducible"] * reproducible))
    talk = Chats(begin(load, files, kind, *more))
    asked = ["Hello", f"{picture(1)}\nWhat?", "Tell me more", f"{picture(2)}\n{picture(1)}\nWell?"]
    with talk.held():
        answers = [talk.ask(text) for text in asked]
    for text, answer in zip(asked, answers, strict=True):
        assert answer.whole() == handler.answer(text)


@pytest.mark.parametrize("name", ["prepare", "encode"])
def test_other_chats_go_on_while_a_picture_is_encoded(
    name: str, files: Any, handlers: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is answered; one whose own picture waits for its turn can be stopped."""
    executor = begin(load, files, "llava", "--concurrent_req_limit", 2)
    work, began, may_end = getattr(Projector, name), threading.Event(), threading.Event()

    def work_later(*arguments: Any) -> Any:
        began.set()
        assert may_end.wait(60)
        return work(*arguments)

    monkeypatch.setattr(Projector, name, work_later)
    text = f"{picture(1)}\nWhat?"
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask(executor, text)[0]))
    thread.start()
    try:
        assert began.wait(60)
        assert ask(executor, "Hello")[0] == handlers("llava").answer("Hello")
        with pytest.raises(Stopped), bounded(1000, lambda: bool(executor)):
            create(executor, f"{picture(2)}\nWhat?")
        assert not answers
    finally:
        may_end.set()
        thread.join()
    assert answers == [handlers("llava").answer(text)]


@pytest.mark.parametrize("kind", ["llava", "qwen2vl"])
def test_a_chat_that_ends_within_a_picture_leaves_no_part_of_it(
    kind: str, files: Any, handlers: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled when the picture's first tokens are read; the next chat is answered well."""
    monkeypatch.setattr(PrefillBudget, "tokens", lambda *_, **__: 7)
    executor = begin(load, files, kind, "--concurrent_req_limit", 1)
    text = f"{picture(1)}\nWhat is it?"
    request, decode, seen = create(executor, text), LlamaContext.decode, []

    def decode_and_cancel(context: LlamaContext, chunks: Any) -> Any:
        seen.append(chunks[0].media is not None)
        if any(seen):
            request.cancelled = True  # which the next step sees: this one computes to its end
        return decode(context, chunks)

    monkeypatch.setattr(LlamaContext, "decode", decode_and_cancel)
    executor.engine.submit(request)
    until(lambda: request.finished)
    assert sum(seen) == 1
    monkeypatch.undo()
    answer, after = ask(executor, text)
    assert answer == handlers(kind).answer(text)
    assert 0 < after.cached_tokens == next(find_spans(after.prompt_ids)).start


def test_what_people_write_is_text(files: Any, handlers: Any, load: Any) -> None:
    """Marks of pictures and of turns, beside a real picture."""
    executor = begin(load, files, "llava")
    told = "<__media__> <|im_end|> \ufffc0\ufffc \ufffc"
    request = create(executor, f"{picture(1)}\n{told}")
    plain = create(executor, told)
    assert [one for one in request.prompt_ids if one >= 0] == plain.prompt_ids
    assert len(list(find_spans(request.prompt_ids))) == 1
    assert plain.prompt_ids.count(2) == 1  # the template's <|im_end|>
    assert ask(executor, f"{picture(1)}\n{told}")[0]


# -- what cannot be used


def test_a_picture_that_cannot_be_used_is_said(files: Any, load: Any) -> None:
    """Damaged, or larger than the context has room for; the question is answered all the same."""
    executor = begin(load, files, "llava", "--context_window", 512, "--limit", 160)
    good = f"{picture(1)}\nWhat?"
    damaged = picture(1)[: len(picture(1)) // 8 * 4]
    _, request = ask(executor, f"{damaged}\nWhat?")
    assert "is damaged" in request.prompt_note
    _, request = ask(executor, "data:audio/wav;base64,UklGRiQAAABXQVZF" + "A" * 200 + "\nWhat?")
    assert "is no file of a kind that this model takes" in request.prompt_note
    _, request = ask(executor, f"{picture(2)}\n{good}")
    assert len(list(find_spans(request.prompt_ids))) == 1
    assert "it takes 64 tokens, and there is room for 56" in request.prompt_note


def test_an_encoder_that_fails_ends_its_chat_alone(
    files: Any, handlers: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error that is no sentence; the next picture is encoded."""
    executor = begin(load, files, "llava")
    text = f"{picture(1)}\nWhat?"
    monkeypatch.setattr(mtmd_cpp, "mtmd_encode_chunk", lambda *_: 1)
    with pytest.raises(RuntimeError, match="returned 1"):
        create(executor, text)
    monkeypatch.undo()
    assert ask(executor, text)[0] == handlers("llava").answer(text)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_file_of_another_model_is_refused(
    is_given: bool, tmp_path: Path, load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By --mmproj the start fails; beside the model it is a warning, and no pictures are read."""
    model = tiny_mmproj.write_model(tmp_path / "model.gguf", "llava")
    mmproj = tiny_mmproj.write_mmproj(tmp_path / "mmproj.gguf", "llava", width=48)
    files = {"llava": (model, mmproj)}
    reason = "belongs to another model: its embeddings have 48 numbers, those of .* 64"
    if is_given:
        with pytest.raises(StartError, match=reason):
            begin(load, files, "llava", "--mmproj", mmproj)
        return
    executor = begin(load, files, "llava")
    assert not executor.accepts_images()
    assert re.search(f"no pictures are read: .*{reason}", caplog.text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_picture_can_be_tried_at_the_start(kind: str, files: Any, load: Any) -> None:
    """As on a card; the model is used as before."""
    encoder = begin(load, files, kind).model.picture_encoder
    sizes: list[int] = []
    projector = encoder._projector
    encode = projector.encode
    projector.encode = lambda chunk, ids: sizes.append(len(ids)) or encode(chunk, ids)
    projector.try_largest(300)
    assert sizes[0] in {"llava": [64], "gemma3": [16], "qwen2vl": range(150, 301)}[kind]


@pytest.mark.parametrize("is_given", [False, True])
def test_a_build_without_mtmd_says_so(
    is_given: bool,
    files: Any,
    load: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of --mmproj; a warning about a file beside the model."""
    monkeypatch.delitem(sys.modules, "backends.llamacpp.vision.projector", raising=False)
    monkeypatch.delitem(sys.modules, "backends.llamacpp.vision.picture_encoder", raising=False)
    monkeypatch.setitem(sys.modules, "llama_cpp.mtmd_cpp", None)
    monkeypatch.delattr(llama_cpp, "mtmd_cpp")
    reason = "this build of llama.cpp reads no pictures"
    if is_given:
        with pytest.raises(StartError, match=f"--mmproj: {reason}"):
            begin(load, files, "llava", "--mmproj", files["llava"][1])
        return
    assert not begin(load, files, "llava").accepts_images()
    assert reason in caplog.text


def test_without_an_mmproj_file_a_chat_is_text(files: Any, load: Any) -> None:
    """--mmproj none; and the memory of the one that is loaded is told."""
    blind = begin(load, files, "llava", "--mmproj", "none")
    assert not blind.accepts_images()
    request = create(blind, f"{picture(1)} What?")
    assert blind.model.tokenizer.detokenize(request.prompt_ids).endswith(
        "user\n[a file that could not be read] What?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "is no file of a kind that this model takes" in request.prompt_note
    seeing = begin(load, files, "llava")
    assert seeing.model.info()["memory_mb"]["CPU"]["mmproj"] > 0
    assert files["llava"][1] in seeing.model.files()
