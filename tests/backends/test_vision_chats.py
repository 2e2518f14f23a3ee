"""Chats about pictures with the huggingface backend: from what a person types to the answer."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import direct
import pytest
import seeing
import tiny_vision
from programs import until

from backends.huggingface import HuggingfaceExecutor
from kuwa_min.errors import AnswerError, StartError

pytest.importorskip("torch", reason="models that see need torch")
pytest.importorskip("transformers", reason="and transformers")
pytest.importorskip("PIL.Image", reason="and pillow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
WRITERS = {"llava": tiny_vision.write_llava, "qwen": tiny_vision.write_qwen}
FEW = ("--max_new_tokens", seeing.FEW)
COLORS = ("red", "navy")
QUESTION = "What is it?"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    path = tmp_path_factory.mktemp("seers") / request.param
    return WRITERS[request.param](path)


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """Make a file of each colour."""
    files = {color: tmp_path / f"{color}.png" for color in COLORS}
    for color, file in files.items():
        file.write_bytes(tiny_vision.png(color))
    return files


@pytest.fixture
def site(pictures: dict[str, Path]) -> Iterator[str]:
    """Serve the pictures on this machine; return the address before their names."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    place = pictures["red"].parent
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(place)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def data_url(file: Path) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def library(talker: Any, folder: Path) -> seeing.Library:
    """Return the library's own recipe, with the processor that is loaded already."""
    return seeing.Library(folder, talker.executor.model.processor)


# -- answers


def test_a_chat_about_a_picture_is_answered_as_the_library_does(
    load: Any, folder: Path, pictures: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Each picture with an answer of its own, one chat at a time, and none with a third."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    assert "one at a time, by generate(): it sees pictures" in caplog.text
    recipe = library(talker, folder)
    expected = [recipe.answer(pictures[color], QUESTION) for color in COLORS]
    asked = [f"{QUESTION} {data_url(pictures[color])}" for color in COLORS]
    assert ["".join(talker.pieces(text)) for text in asked] == expected
    assert "".join(talker.pieces(QUESTION)) == recipe.answer(QUESTION) not in expected
    assert len(set(expected)) == len(COLORS)


def test_the_next_question_is_about_the_same_picture(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """And a new picture takes its place."""
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    red, navy = (data_url(pictures[color]) for color in COLORS)
    first = direct.create(executor, f"{QUESTION} {red}")
    answer = direct.ask(executor, f"{QUESTION} {red}")[0]
    second = direct.create(executor, f"{QUESTION} {red}", answer, "And its colour?")
    assert second.prompt[: len(first.prompt)] == first.prompt
    assert bool((second.extra["pixel_values"] == first.extra["pixel_values"]).all())
    third = direct.create(executor, f"{QUESTION} {red}", answer, f"And this? {navy}")
    assert not (third.extra["pixel_values"] == first.extra["pixel_values"]).all()
    assert third.extra["pixel_values"].shape == first.extra["pixel_values"].shape, "one picture"


def test_a_system_prompt_is_read(load: Any, folder: Path, pictures: dict[str, Path]) -> None:
    """Beside the picture."""
    text = f"{QUESTION} {data_url(pictures['red'])}"
    plain = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    kind = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--system_prompt", "Be kind.")
    decode = kind.executor.model.processor.tokenizer.decode
    found = decode(direct.create(kind.executor, text).prompt)
    assert found.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert found.endswith(decode(direct.create(plain, text).prompt))


def test_a_stopped_chat_about_a_picture_ends_within_a_step(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """The model computes no further token to its end, and the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder)
    steps: list[int] = []
    count_step = talker.executor.model.library_model.register_forward_hook
    handle = count_step(lambda *_: steps.append(1))
    text = f"{QUESTION} {data_url(pictures['red'])}"
    request = direct.create(talker.executor, text)
    say = request.say

    def say_and_cancel(piece: str) -> None:
        say(piece)
        if request.written == 5:
            request.cancel()

    request.say = say_and_cancel
    talker.executor.engine.submit(request)
    until(lambda: request.finished)
    handle.remove()
    assert len(steps) == request.written == 5
    expected = library(talker, folder).answer(pictures["red"], QUESTION)
    few = {"parameter": f"llm_max_new_tokens {seeing.FEW}"}
    assert direct.ask(talker.executor, text, **few)[0] == expected


# -- pictures that cannot be had


def test_a_picture_of_this_network_needs_permission(
    load: Any, folder: Path, pictures: dict[str, Path], site: str
) -> None:
    """Without it a person reads why; with it the picture is seen."""
    closed = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    text = f"{QUESTION} {site}/red.png"
    with pytest.raises(AnswerError, match=r"cannot be fetched: .* is on a private network"):
        closed.pieces(text)
    recipe = library(closed, folder)
    assert "".join(closed.pieces(QUESTION)) == recipe.answer(QUESTION)
    options = ("--model_path", folder, *FEW, "--allow_private_urls")
    opened = load(HuggingfaceExecutor, *options)
    assert "".join(opened.pieces(text)) == recipe.answer(pictures["red"], QUESTION)
    with pytest.raises(AnswerError, match="cannot be fetched: "):
        opened.pieces(f"{QUESTION} {site}/green.png")


def test_a_damaged_picture_is_a_sentence(load: Any, folder: Path, tmp_path: Path) -> None:
    """Of its own message; an earlier one is left out of the chat that goes on."""
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    file = tmp_path / "half.png"
    file.write_bytes(tiny_vision.png("red", size=(400, 300))[:700])
    text = f"{QUESTION} {data_url(file)}"
    with pytest.raises(AnswerError, match=r"\[The image cannot be read: it is damaged"):
        direct.create(executor, text)
    assert direct.ask(executor, text, "[The image cannot be read: it is damaged.]", "Why?")[0]


def test_a_picture_counts_as_part_of_the_prompt(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """Older exchanges make room for it; what does not fit alone is one sentence."""
    text = f"{QUESTION} {data_url(pictures['red'])}"
    plain = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    needed = len(direct.create(plain, text).prompt)
    said = ("a" * 20, "b" * 20)
    exact = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--limit", needed).executor
    assert direct.create(exact, *said, text).prompt == direct.create(plain, text).prompt
    assert len(direct.create(plain, *said, text).prompt) > needed
    with pytest.raises(AnswerError, match="too long"):
        direct.create(exact, f"{'x' * needed} {data_url(pictures['red'])}")


# -- loading


def test_the_processor_may_lie_elsewhere(
    load: Any, folder: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    """A folder without one says so and names the option."""
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(*PROCESSOR_FILES))
    with pytest.raises(StartError) as refused:
        load(HuggingfaceExecutor, "--model_path", bare)
    assert "--processor" in str(refused.value)
    assert str(refused.value).isprintable()
    talker = load(HuggingfaceExecutor, "--model_path", bare, "--processor", folder, *FEW)
    expected = library(talker, folder).answer(pictures["red"], QUESTION)
    assert "".join(talker.pieces(f"{QUESTION} {data_url(pictures['red'])}")) == expected


def test_without_what_its_processor_wants_a_model_answers_text(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixtral's insists on torchvision, whose wheel must be of the very variant of torch."""
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is here")
    folder = tiny_vision.write_llava(tmp_path / "pixtral")
    for name in PROCESSOR_FILES:
        (folder / name).unlink(missing_ok=True)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "PixtralImageProcessor"}), encoding="utf-8"
    )
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "PixtralProcessor"}), encoding="utf-8"
    )
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    assert "sees no pictures, and answers text: " in caplog.text
    assert direct.ask(executor, "Hello")[0]


def test_a_models_facts_are_known(load: Any, folder: Path) -> None:
    """Of the part that makes text, as far as lengths go."""
    facts = load(HuggingfaceExecutor, "--model_path", folder).executor.model.facts()
    assert {"dtype": "float32", "device": "cpu", "context": 2048}.items() <= facts.items()
    assert facts["model"].endswith("ForConditionalGeneration")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}", "the chat template cannot be read: line 1: "),
        ("{{ raise_exception('Closed') }}", "the chat template accepts no chat at all: Closed"),
    ],
)
def test_a_template_that_cannot_be_used_ends_the_start(
    load: Any, folder: Path, template: str, words: str
) -> None:
    """In one line that names the option which gives another one."""
    options = ("--model_path", folder, "--override_chat_template", template)
    with pytest.raises(StartError) as refused:
        load(HuggingfaceExecutor, *options)
    assert str(refused.value).startswith(words)
    assert str(refused.value).endswith("; --override_chat_template gives another one")
