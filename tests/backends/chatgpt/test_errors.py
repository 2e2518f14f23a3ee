"""What the user and the operator read of an error, in whatever shape it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.chat import catalog
from tests.fakes.openai import refuses
from tests.fakes.openai.has_template import with_event, with_status
from tests.fakes.openai.server import Handler
from tests.support.cloud_chats import ask

from .asking import Serve, connect

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

LLAMA = {
    "code": 400,
    "message": "the request exceeds the available context size",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 6000,
    "n_ctx": 4000,
}
VLLM = "This model's maximum context length is 4000 tokens. However, you requested 6000 tokens"
WAYS = {  # of a chat that is too long
    "llama-server": with_status(400, lambda _: {"error": LLAMA}),
    "older llama-server": with_event(lambda _: LLAMA, "error: "),
    "vLLM": with_event(lambda _: {"object": "error", "message": VLLM, "code": 400}),
    "FastChat": with_event(lambda _: {"text": VLLM, "error_code": 40303}),
    "Google": with_status(400, lambda _: [{"error": {"code": 400, "message": VLLM}}]),
    "LM Studio": with_event(lambda _: {"error": {"message": "Context size has been exceeded."}}),
    "TGI": with_event(lambda _: {"error": "`inputs` tokens must be <= 4", "error_type": "x"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_that_is_too_long_is_shortened(
    serve: Serve, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However the service says so; the cause is in the log."""

    def talk(one: Handler) -> None:
        one.tell("fine") if len(one.asked.said) < 5 else WAYS[way](one, "")

    service = serve(talk)
    history = ["one " * 9, "1", "two " * 9, "2", "three", "3", "four"]
    assert ask(connect(service), *history, system="S") == "fine"
    assert (service.chats[-1].said[0], service.chats[-1].said[-1]) == ("S", "four")
    assert len(service.chats) <= 3
    assert "the service answers" in caplog.text


def test_an_answer_that_takes_the_whole_window_is_an_option(serve: Serve) -> None:
    """Whatever the chat's length: a shorter one would not fit either."""
    words = (
        "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context "
        "length is 8192 tokens and your request has 123 input tokens (9000 > 8192 - 123)."
    )
    service = serve(refuses.always(400, {"error": {"message": words}}))
    answer = ask(connect(service), "one", "1", "two", llm_max_tokens="9000")
    assert answer == catalog.NOT_AN_OPTION.format("max_tokens")
    assert len(service.chats) == 1


def test_an_option_that_is_too_long_is_no_chat_that_is(serve: Serve) -> None:
    """Nothing of the chat is dropped for it."""
    error = {"message": "Invalid 'stop': array too long.", "param": "stop",
             "code": "array_above_max_length"}  # fmt: skip
    service = serve(refuses.always(400, {"error": error}))
    assert ask(connect(service), "1", "2", "3", llm_stop="x") == catalog.NOT_AN_OPTION.format(
        "stop"
    )
    assert len(service.chats) == 1


@pytest.mark.parametrize("when", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_service_that_is_asked_again_at_once_is_asked_four_times(serve: Serve, when: str) -> None:
    """An attempt counts even if the service asks for no wait before the next."""
    service = serve(lambda one: one.answer({"error": "no"}, 429 if one.number < 9 else 400,
                                           **{"Retry-After": when}))  # fmt: skip
    assert ask(connect(service), "hi") == catalog.BUSY
    assert len(service.chats) == 4


def test_words_of_the_chat_are_no_words_of_the_service(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal that quotes a question on system roles or context windows is about neither."""
    chat = "What does a system role do, and is a context length exceeded by it?"
    service = serve(refuses.always(400, {"error": {"message": f"odd text near '{chat}'"}}))
    executor = connect(service)
    assert ask(executor, chat, system="S") == catalog.SERVICE_REFUSED.format(400)
    assert "the service answers 400: (its words quote the chat)" in caplog.text
    ask(executor, "hi", system="S")
    assert [one.said[0] for one in service.chats] == ["S", "S"]


def test_an_answer_of_another_service_is_garbled(serve: Serve) -> None:
    """Even if it ends with [DONE]: to ask in other words would not help."""
    foreign = b'{"output": {"text": "hi"}}\n\ndata: [DONE]\n\n'
    service = serve(refuses.always(200, foreign))
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert len(service.chats) == 1


SENTENCES = [  # (error within an answer, sentence, requests)
    ({"error": {"message": "no", "code": "invalid_api_key"}}, catalog.BAD_OPENAI_KEY, 1),
    ({"error": {"message": "no", "code": "insufficient_quota"}}, catalog.QUOTA, 1),
    ({"error": {"message": "no", "code": 429}}, catalog.BUSY, 4),
    ({"error": {"message": "no", "type": "overloaded_error"}},
     catalog.SERVICE_FAILED.format(503), 4),
    ({"error": {"message": "no", "code": "busy", "status_code": 503}},
     catalog.SERVICE_FAILED.format(503), 4),
    ({"error": {"message": "no", "code": "model_not_found"}}, catalog.NO_MODEL.format("gpt-4o"), 1),
    ({"text": "no", "error_code": 40301}, catalog.NO_MODEL.format("gpt-4o"), 1),
    ({"text": "no", "error_code": 50002}, catalog.SERVICE_FAILED.format(500), 4),
    ({"object": "error", "message": "no", "code": 400}, catalog.SERVICE_REFUSED.format(400), 1),
]  # fmt: skip


@pytest.mark.parametrize(("error", "sentence", "requests"), SENTENCES)
@pytest.mark.parametrize("kind", ["event", "object"])
def test_an_error_before_the_first_word_has_its_sentence(
    serve: Serve, kind: str, error: Any, sentence: str, requests: int
) -> None:
    """After a status of 200, as an event or as the whole body; what may pass is asked again."""
    ways = {"event": with_event(lambda _: error), "object": with_status(200, lambda _: error)}
    service = serve(lambda talk: ways[kind](talk, ""))
    assert ask(connect(service), "hi") == sentence
    assert len(service.chats) == requests


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                     "status": "INVALID_ARGUMENT"}}], catalog.BAD_OPENAI_KEY),
        ([{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}],
         catalog.SERVICE_REFUSED.format(400)),
        ("Invalid API Key", catalog.BAD_OPENAI_KEY),
    ],
)  # fmt: skip
def test_an_error_response_in_another_shape_has_its_sentence(
    serve: Serve, body: Any, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Google wraps errors in a list, and refuses keys with status 400."""
    data = json.dumps(body).encode() if isinstance(body, list) else body.encode()
    assert ask(connect(serve(refuses.always(400, data))), "hi") == sentence
    assert "the service answers 400" in caplog.text
    assert "without a word" not in caplog.text


def test_an_error_beside_text_shows_both(serve: Serve) -> None:
    """As OpenRouter ends an answer whose provider left."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("so far")
        last = {"delta": {"content": " so good"}, "finish_reason": "error"}
        one.event({"choices": [last], "error": {"code": 502, "message": "gone"}})
        one.end()

    answer = ask(connect(serve(talk)), "hi")
    assert answer == "so far so good\n" + catalog.SERVICE_FAILED.format(502)


def test_a_wait_in_the_words_is_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the head has none."""
    words = {"error": {"message": "Rate limit reached. Please try again in 7s."}}
    executor = connect(serve(refuses.at_first(1, 429, words)))
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(executor, "pause", pause)
    assert ask(executor, "hi") == "at last"
    assert waited == [7]
