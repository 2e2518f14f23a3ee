"""Chats about pictures with the huggingface backend: from the user's text to the answer."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends._media.links import UNREADABLE
from backends._media.sentences import FILES_TOO_MANY, LINK_PRIVATE
from backends.huggingface import HuggingfaceExecutor
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import AnswerError, StartError
from tests.support import local_chats
from tests.support.models import reference_vision, tiny_vision
from tests.support.programs import until
from tests.support.upload_site import Site

pytest.importorskip("torch", reason="models that see need torch")
pytest.importorskip("transformers", reason="and transformers")
pytest.importorskip("PIL.Image", reason="and pillow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
WRITERS = {"llava": tiny_vision.write_llava, "qwen": tiny_vision.write_qwen}
FEW = ("--max_new_tokens", reference_vision.FEW)
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


def data_url(file: Path) -> str:
    """Return a picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def library(talker: Any, folder: Path) -> reference_vision.Library:
    """Return the library's own recipe, with the processor that is loaded already."""
    return reference_vision.Library(folder, talker.executor.model.processor)


# -- answers


def test_a_chat_about_a_picture_is_answered_as_the_library_does(
    load: Any, folder: Path, pictures: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Each picture with an answer of its own, one chat at a time, and none with a third."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--prompt_cache", "1MB")
    assert "one at a time, by generate(): it sees pictures" in caplog.text
    assert "--prompt_cache has no effect where generate() computes" in caplog.text
    recipe = library(talker, folder)
    expected = [recipe.answer(QUESTION, pictures[color]) for color in COLORS]
    asked = [f"{QUESTION} {data_url(pictures[color])}" for color in COLORS]
    assert ["".join(talker.pieces(text)) for text in asked] == expected
    assert "".join(talker.pieces(QUESTION)) == recipe.answer(QUESTION) not in expected
    assert len(set(expected)) == len(COLORS)


def test_the_next_question_is_about_the_same_picture(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """And a new picture stands beside it."""
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    red, navy = (data_url(pictures[color]) for color in COLORS)
    first = local_chats.create(executor, f"{QUESTION} {red}")
    answer = local_chats.ask(executor, f"{QUESTION} {red}")[0]
    second = local_chats.create(executor, f"{QUESTION} {red}", answer, "And its colour?")
    assert second.prompt_ids[: len(first.prompt_ids)] == first.prompt_ids
    assert bool((second.model_inputs["pixel_values"] == first.model_inputs["pixel_values"]).all())
    third = local_chats.create(executor, f"{QUESTION} {red}", answer, f"And this? {navy}")
    both = third.model_inputs["pixel_values"]
    assert len(both) == 2 * len(first.model_inputs["pixel_values"])
    assert bool((both[: len(both) // 2] == first.model_inputs["pixel_values"]).all())


def test_a_system_prompt_is_read(load: Any, folder: Path, pictures: dict[str, Path]) -> None:
    """Beside the picture."""
    text = f"{QUESTION} {data_url(pictures['red'])}"
    plain = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    kind = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--system_prompt", "Be kind.")
    decode = kind.executor.model.processor.tokenizer.decode
    found = decode(local_chats.create(kind.executor, text).prompt_ids)
    assert found.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert found.endswith(decode(local_chats.create(plain, text).prompt_ids))


def test_a_stopped_chat_about_a_picture_ends_within_a_step(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """The model computes no further token to its end, and the next chat is answered."""
    talker = load(HuggingfaceExecutor, "--model_path", folder)
    steps: list[int] = []
    count_step = talker.executor.model.library_model.register_forward_hook
    handle = count_step(lambda *_: steps.append(1))
    text = f"{QUESTION} {data_url(pictures['red'])}"
    request = local_chats.create(talker.executor, text)
    say = request.emit

    def emit_and_cancel(piece: str, *more: object) -> None:
        say(piece, *more)
        if request.completion_tokens == 5:
            request.cancel()

    request.emit = emit_and_cancel
    talker.executor.engine.submit(request)
    until(lambda: request.finished)
    handle.remove()
    assert len(steps) == request.completion_tokens == 5
    expected = library(talker, folder).answer(QUESTION, pictures["red"])
    few = {"parameter": f"llm_max_new_tokens {reference_vision.FEW}"}
    assert local_chats.ask(talker.executor, text, **few)[0] == expected


# -- pictures that cannot be had


def test_an_upload_on_a_private_network_is_a_side_note(
    load: Any, folder: Path, pictures: dict[str, Path], site: Site
) -> None:
    """The model gets the link and answers; where the site's host is named it sees the picture."""
    red = site.write("storage/root/homes/3/red.png", pictures["red"].read_bytes())
    closed = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    text = f"{red}\n{QUESTION}"
    recipe = library(closed, folder)
    taken = closed.pieces(text)
    assert taken[-1] == SIDE_NOTE.format(LINK_PRIVATE.format("red.png"))
    assert "".join(taken[:-1]) == recipe.answer(text)
    assert site.asked == []
    options = ("--model_path", folder, *FEW, "--upload_hosts", f"127.0.0.1:{site.port}")
    opened = load(HuggingfaceExecutor, *options)
    assert "".join(opened.pieces(text)) == recipe.answer(pictures["red"], QUESTION)
    taken = opened.pieces(f"{site.url}/green.png\n{QUESTION}")
    assert "green.png was not read: its server answers 404." in taken[-1]


def test_a_bot_may_switch_pictures_off(
    load: Any, folder: Path, pictures: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """For its chats; they are on by default, and neither value is an unknown option."""
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    text = f"{data_url(pictures['red'])}\n{QUESTION}"
    off, on = (
        local_chats.create(executor, text, parameter=f"llm_enable_multimodal {value}")
        for value in ("false", "true")
    )
    assert "pixel_values" not in off.model_inputs
    assert "pixel_values" in on.model_inputs
    assert "has no effect" not in caplog.text


def test_pictures_share_a_part_of_the_prompt(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """As many as fit with their messages, the newest; all of the last message must."""
    urls = [data_url(pictures[color]) for color in COLORS]
    executor = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    both = local_chats.create(executor, f"{urls[0]}\na", "b", f"{urls[1]}\n{QUESTION}")
    one = local_chats.create(executor, f"{urls[1]}\n{QUESTION}")
    limit = len(both.prompt_ids) - 1
    less = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--limit", limit).executor
    fitted = local_chats.create(less, f"{urls[0]}\na", "b", f"{urls[1]}\n{QUESTION}")
    assert len(fitted.prompt_ids) <= len(one.prompt_ids) < len(both.prompt_ids)


def test_one_picture_is_shown_where_more_are_not_allowed(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """The last one, and it is said."""
    urls = [data_url(pictures[color]) for color in COLORS]
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--max_attachments", 1)
    note = SIDE_NOTE.format(FILES_TOO_MANY.format(1))
    assert talker.pieces(f"{urls[0]}\n{urls[1]}\n{QUESTION}")[-1] == note
    request = local_chats.create(talker.executor, f"{urls[0]}\n{urls[1]}\n{QUESTION}")
    alone = local_chats.create(talker.executor, f"{urls[1]}\n{QUESTION}")
    assert bool((request.model_inputs["pixel_values"] == alone.model_inputs["pixel_values"]).all())


def test_a_damaged_picture_is_a_side_note(load: Any, folder: Path, tmp_path: Path) -> None:
    """Of its own message; it is found out only when its pixels are wanted."""
    talker = load(HuggingfaceExecutor, "--model_path", folder, *FEW)
    file = tmp_path / "half.png"
    file.write_bytes(tiny_vision.png("red", size=(400, 300))[:700])
    text = f"{QUESTION} {data_url(file)}"
    taken = talker.pieces(text)
    assert taken[-1] == SIDE_NOTE.format("data:image/png was not read: it is damaged.")
    assert "".join(taken[:-1]) == library(talker, folder).answer(f"{QUESTION} {UNREADABLE}")
    assert "damaged" not in "".join(talker.pieces(text, "hm", "Why?"))


def test_a_picture_counts_as_part_of_the_prompt(
    load: Any, folder: Path, pictures: dict[str, Path]
) -> None:
    """Older exchanges make room for it; what does not fit alone is one sentence."""
    text = f"{QUESTION} {data_url(pictures['red'])}"
    plain = load(HuggingfaceExecutor, "--model_path", folder, *FEW).executor
    needed = len(local_chats.create(plain, text).prompt_ids)
    said = ("a" * 20, "b" * 20)
    exact = load(HuggingfaceExecutor, "--model_path", folder, *FEW, "--limit", needed).executor
    assert (
        local_chats.create(exact, *said, text).prompt_ids
        == local_chats.create(plain, text).prompt_ids
    )
    assert len(local_chats.create(plain, *said, text).prompt_ids) > needed
    with pytest.raises(AnswerError, match="too long"):
        local_chats.create(exact, f"{'x' * needed} {data_url(pictures['red'])}")


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
    expected = library(talker, folder).answer(QUESTION, pictures["red"])
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
    assert local_chats.ask(executor, "Hello")[0]


def test_a_models_facts_are_known(load: Any, folder: Path) -> None:
    """Of the part that makes text, as far as lengths go."""
    facts = load(HuggingfaceExecutor, "--model_path", folder).executor.model.info()
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


def test_a_model_without_a_template_answers_one_turn(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; the markers of the plain template end an answer."""
    path = tiny_vision.write_llava(tmp_path / "m")
    (path / "chat_template.jinja").unlink()
    executor = load(HuggingfaceExecutor, "--model_path", path).executor
    assert "has no chat template; a plain one is used" in caplog.text
    assert local_chats.stopped(local_chats.create(executor, "x"), "Hi.\nuser: more") == "Hi."
