"""Thoughts of services: in a field of their own, or in the text by whatever markup."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.chat.thinking import signs
from kuwa_min.options import generation_options
from tests.fakes.openai.server import Handler, piece
from tests.kuwa_min.chat.thinking.samples import ANSWER, SAMPLES
from tests.support.cloud_chats import ask, pieces

from .asking import Serve, connect

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

Talk = Callable[[Handler], None]
HEADLESS = "Let me see.\n</think>\n\n42"


def saying(*texts: str, finish: str = "stop", **more: Any) -> Talk:
    """Return what answers with these pieces."""

    def talk(one: Handler) -> None:
        one.begin()
        for text in texts:
            one.event(piece(text, **more))
        one.say(finish=finish)
        one.end()

    return talk


@pytest.mark.parametrize("name", [one for one in SAMPLES if not SAMPLES[one].prompt_end])
def test_thoughts_in_the_text_are_told_apart(serve: Serve, name: str) -> None:
    """Of servers without a parser for their models, wherever their pieces are cut."""
    text = SAMPLES[name].text
    for size in (1, 7):
        cut = [text[at : at + size] for at in range(0, len(text), size)]
        assert ask(connect(serve(saying(*cut))), "hi").strip() == ANSWER


def test_a_bot_chooses_what_is_shown(serve: Serve) -> None:
    """Over the operator's choice; --show_reasoning is the older name of one."""
    service = serve(saying("<think>Hm.</think>42"))
    note = SIDE_NOTE.format("Hm.")
    assert ask(connect(service), "hi") == "42"
    assert ask(connect(service, "--show_reasoning"), "hi") == note + "42"
    assert ask(connect(service, "--thinking", "note"), "hi", llm_thinking="hide") == "42"
    assert ask(connect(service), "hi", llm_thinking="show") == "<think>Hm.</think>\n\n42"
    refused = ask(connect(service), "hi", llm_thinking="loud")
    assert refused == "[The option llm_thinking must be one of hide, note, show.]"
    assert all("thinking" not in chat.body for chat in service.chats)


@pytest.mark.parametrize("headless", [HEADLESS, "analysisHm.assistantfinal42"])
def test_a_thought_that_no_tag_opens_is_known_from_the_next_answer_on(
    headless: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first answer cannot be told from a thought before its end; what has no end is one."""
    caplog.set_level(logging.WARNING)
    texts = [headless, headless, "No thought.", "No thought."]
    talker = connect(serve(lambda one: saying(texts[one.number])(one)))
    answers = [ask(talker, "hi") for _ in texts]
    assert answers == [headless, "42", "No thought.", "No thought."]
    assert caplog.text.count("--reasoning-parser") == 1


def test_bots_that_turn_thinking_off_change_nothing_for_others(serve: Serve) -> None:
    """Whether a thought begins an answer depends on the template's variables."""
    texts = [HEADLESS, "Hi", HEADLESS, "Hi"]
    talker = connect(serve(lambda one: saying(texts[one.number])(one)))
    off = {"llm_template_kwargs": '{"enable_thinking": false}'}
    answers = [ask(talker, "hi", **(off if text == "Hi" else {})) for text in texts]
    assert answers == [HEADLESS, "Hi", "42", "Hi"]


def test_tags_that_the_chat_asks_for_are_a_part_of_the_answer(serve: Serve) -> None:
    """Models put their answers behind a thought into the same ones."""
    talker = connect(serve(saying("<think>Hm.</think>\n<answer>42</answer>")))
    assert ask(talker, "hi") == "42"
    assert ask(talker, "Answer in <answer></answer>.") == "<answer>42</answer>"


def test_an_answer_that_is_only_a_thought(serve: Serve) -> None:
    """A sentence says so, and the side note why it ended."""
    cut = serve(saying("", reasoning_content="Hm.", finish="length"))
    answer = ask(connect(cut), "hi")
    assert answer.startswith(catalog.ONLY_THOUGHT + "<<<WARNING>>>The answer was cut off")


def test_signs_of_life(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is shown."""
    monkeypatch.setattr(signs, "INTERVAL", 0.0)
    talk = saying("", "", reasoning_content="Hm.")
    found: list[Any] = pieces(connect(serve(talk)), "hi")
    assert [one.desc for one in found[:-1]] == [signs.THINKING] * len(found[:-1])
    assert (len(found) > 1, found[-1]) == (True, catalog.ONLY_THOUGHT)


def test_earlier_thoughts_are_not_sent(serve: Serve) -> None:
    """Whoever wrote them."""
    service = serve(saying("42"))
    ask(connect(service), "hi", "<think>Hm.</think>\n\nHello", "and?")
    assert [one["content"] for one in service.chats[0].body["messages"]] == ["hi", "Hello", "and?"]


def test_variables_of_the_template_and_effort_are_sent(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the name that servers have for them; what has none is named once."""
    generation_options.warn_once.cache_clear()
    service = serve(saying("42"))
    options = ("--template_kwargs", '{"enable_thinking": false}', "--thinking_tokens", 5)
    talker = connect(service, *options)
    for _ in range(2):
        ask(talker, "hi", llm_reasoning_effort="low")
    body = service.chats[0].body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["reasoning_effort"] == "low"
    assert not {"template_kwargs", "thinking_tokens"} & body.keys()
    assert caplog.text.count("thinking_tokens has no effect") == 1
