"""Requests are written as a model takes them, which its refusals tell."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kuwa_min.chat import catalog
from tests.fakes.openai.has_template import (
    Refuse,
    behind_the_head,
    strict,
    with_event,
    with_status,
)
from tests.fakes.openai.server import Handler
from tests.support.cloud_chats import ask
from tests.support.programs import TIMEOUT

from .asking import Serve, connect

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."


def object_of(words: str) -> dict[str, Any]:
    """Return an error as older servers have it."""
    return {"object": "error", "message": words, "type": "BadRequestError", "code": 400}


WORDS = [  # as templates and services have them
    "System role not supported",
    "Only user and assistant roles are supported!",
    "Only user, assistant and tool roles are supported, got system.",
    ALTERNATE,
    f"invalid operation: {ALTERNATE} (in chat_template:1)",
    "Template error: syntax error: System role not supported (in <string>:1)",
    'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter',
    'messages: roles must alternate between "user" and "assistant"',
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    "Developer instruction is not enabled for models/gemma-3-27b-it",
    "Please use a valid role: user, model.",
    "deepseek-reasoner does not support successive user or assistant messages",
    "body.messages.0.role: Input should be 'user' or 'assistant'",
    "Error rendering prompt with jinja template",
    "Unable to generate parser for this template. Automatic parser generation failed:",
]
WAYS = {
    "400": with_status(400),
    "422": with_status(422),
    "500": with_status(500),
    "500, bare": with_status(500, object_of),
    "text": with_status(500, str.encode),
    "list": with_status(400, lambda words: [{"error": {"code": 400, "message": words}}]),
    "event": with_event(lambda words: {"error": {"message": words, "code": 500}}),
    "bare event": with_event(object_of),
    "FastChat": with_event(lambda words: {"text": words, "error_code": 50001}),
    "llama-server": with_event(lambda words: {"code": 500, "message": words}, "error: "),
}


@pytest.mark.parametrize("words", WORDS)
def test_a_refused_system_prompt_is_folded(serve: Serve, words: str) -> None:
    """Into the first message; from then on at once."""
    service = serve(strict(words, with_status(400)))
    executor = connect(service)
    assert [ask(executor, "hi", system="Be kind.") for _ in "12"] == ["fine", "fine"]
    assert [one.said for one in service.chats[1:]] == [["Be kind.\n\nhi"]] * 2


@pytest.mark.parametrize("way", WAYS)
def test_the_refusal_may_come_in_every_way(serve: Serve, way: str) -> None:
    """With a status that would be tried again, or within an answer."""
    service = serve(strict(ALTERNATE, WAYS[way]))
    assert ask(connect(service), "one", "1", "two", system="S") == "fine"
    assert [one.said for one in service.chats[1:]] == [["S\n\none", "1", "two"]]


def test_a_refusal_may_come_without_a_word(serve: Serve) -> None:
    """The chat is asked once more without streaming, which brings the reason."""
    service = serve(strict(ALTERNATE, behind_the_head))
    executor = connect(service)
    assert [ask(executor, "hi", system="S") for _ in "12"] == ["fine", "fine"]
    asked = [(one.body["stream"], "stream_options" in one.body) for one in service.chats]
    assert asked == [(True, True), (False, False), (True, True), (True, True)]
    assert [one.said for one in service.chats[2:]] == [["S\n\nhi"]] * 2


@pytest.mark.parametrize("takes_system", [True, False])
def test_a_chat_that_begins_with_the_assistant_gets_a_user(
    serve: Serve, takes_system: bool
) -> None:
    """With nothing to say; a system prompt stays where the template takes it."""
    service = serve(strict(ALTERNATE, with_status(500), takes_system=takes_system))
    answer = ask(connect(service), "hi", system="S", message='assistant "Welcome."')
    assert answer == "fine"
    said = ["S", ""] if takes_system else ["S"]
    assert service.chats[-1].said == [*said, "Welcome.", "hi"]


@pytest.mark.parametrize("status", [400, 500])
def test_a_template_that_stays_strict_is_a_sentence(serve: Serve, status: int) -> None:
    """There is nothing left to write otherwise; it is not asked for ever."""
    service = serve(lambda talk: with_status(status)(talk, ALTERNATE))
    executor = connect(service)
    assert ask(executor, "hi", system="S") == catalog.NOT_ACCEPTED
    assert ask(executor, "hi") == catalog.NOT_ACCEPTED
    assert len(service.chats) == 3


def test_two_chats_may_learn_at_once(serve: Serve) -> None:
    """The one whose refusal comes second is asked again as well."""
    both = threading.Barrier(2)
    refuse: Refuse = with_status(400)

    def meet(one: Handler, words: str) -> None:
        both.wait(TIMEOUT)
        refuse(one, words)

    executor = connect(serve(strict(ALTERNATE, meet)))
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(lambda text: ask(executor, text, system="S"), "ab")
    assert list(answers) == ["fine", "fine"]


def test_an_option_that_only_looks_like_a_role_is_left_alone(serve: Serve) -> None:
    """A name with "template" in it is no template."""
    words = {"error": {"message": "chat_template_kwargs: Extra inputs are not permitted"}}
    service = serve(lambda talk: talk.answer(words, 400))
    assert ask(connect(service), "hi", system="S") == catalog.SERVICE_REFUSED.format(400)
    assert len(service.chats) == 1
