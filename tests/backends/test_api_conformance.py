"""OpenAI's protocol: a table of checks, run against our executors and other servers.

Each check expects what OpenAI's own service does. DIFFERENCES lists, by server, the checks that it
fails, and why; a listed check that passes is an error, too. For clients see
tests/kuwa_min/serving/test_api_routes.py, with OpenAI's SDK as judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.models.api_servers import DONE, SERVERS, ApiServer, Reply

pytestmark = pytest.mark.slow
CHAT, TEXT, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
QUESTION = [{"role": "user", "content": "Tell me about the sea."}]
GREEDY = {"messages": QUESTION, "max_tokens": 8, "temperature": 0}
PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"enum": [17, 42]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Taipei", "Tainan"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Look up the weather.", "parameters": CITY},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
CALLING: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Taipei?"}],
    "tools": [TOOL],
    "tool_choice": "required",
    "max_tokens": 80,
    "temperature": 0,
}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

Check = Callable[[ApiServer], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Add a check to the table."""
    CHECKS[function.__name__] = function
    return function


# -- what answers look like


@check
def models_are_listed(server: ApiServer) -> None:
    """And the name of a model is that of requests."""
    reply = server.send(MODELS, method="GET")
    assert (reply.status, reply.value["object"]) == (200, "list")
    (model,) = reply.value["data"]
    assert (model["id"], model["object"]) == (server.model, "model")
    assert isinstance(model["created"], int)
    assert isinstance(model["owned_by"], str)


@check
def one_model_is_described(server: ApiServer) -> None:
    """At its own address."""
    reply = server.send(f"{MODELS}/{server.model}", method="GET")
    assert (reply.status, reply.value["id"]) == (200, server.model)


@check
def a_chat_is_one_object(server: ApiServer) -> None:
    """With all that clients read."""
    value = good(server.post(CHAT, **GREEDY))
    assert value["object"] == "chat.completion"
    assert value["model"] == server.model
    assert isinstance(value["id"], str)
    assert isinstance(value["created"], int)
    (choice,) = value["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)


@check
def usage_is_counted(server: ApiServer) -> None:
    """In tokens."""
    usage = good(server.post(CHAT, **GREEDY))["usage"]
    assert usage["prompt_tokens"] > 5
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@check
def cached_tokens_are_counted(server: ApiServer) -> None:
    """Of a prompt that was read before."""
    server.post(CHAT, **GREEDY)
    usage = good(server.post(CHAT, **GREEDY))["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


@check
def a_stream_is_events(server: ApiServer) -> None:
    """Of the role, the text of a whole answer, the reason of its end, and [DONE]."""
    whole = good(server.post(CHAT, **GREEDY))["choices"][0]
    *events, done = streamed(server.post(CHAT, **GREEDY, stream=True))
    assert done == DONE
    assert {one["object"] for one in events} == {"chat.completion.chunk"}
    assert len({one["id"] for one in events}) == 1
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(events) == whole["message"]["content"]
    assert reasons(events) == [whole["finish_reason"]]


@check
def a_stream_has_no_usage_unless_asked_for(server: ApiServer) -> None:
    """Else it is the event before the last, without choices."""
    *events, _ = streamed(server.post(CHAT, **GREEDY, stream=True))
    assert not any(one.get("usage") for one in events)
    options = {"include_usage": True}
    *_, last, _ = streamed(server.post(CHAT, **GREEDY, stream=True, stream_options=options))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0


@check
def a_prompt_is_completed(server: ApiServer) -> None:
    """Without a template, whole and streamed."""
    asked = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}
    value = good(server.post(TEXT, **asked))
    assert value["object"] == "text_completion"
    *events, done = streamed(server.post(TEXT, **asked, stream=True))
    assert done == DONE
    assert "".join(one["choices"][0]["text"] for one in events) == value["choices"][0]["text"]
    assert value["usage"]["completion_tokens"] == 6


# -- what options do


@check
def an_answer_ends_at_its_limit(server: ApiServer) -> None:
    """Under both names of the limit."""
    for name in ("max_tokens", "max_completion_tokens"):
        value = good(server.post(CHAT, messages=QUESTION, temperature=0, **{name: 3}))
        assert value["choices"][0]["finish_reason"] == "length"
        assert value["usage"]["completion_tokens"] == 3


@check
def an_answer_ends_before_a_stop_word(server: ApiServer) -> None:
    """One word, or a list."""
    text = good(server.post(CHAT, **GREEDY))["choices"][0]["message"]["content"]
    word = text[3:6]
    assert len(word) == 3
    for stop in (word, ["never said", word]):
        choice = good(server.post(CHAT, **GREEDY, stop=stop))["choices"][0]
        assert choice["message"]["content"] == text[: text.index(word)]
        assert choice["finish_reason"] == "stop"


@check
def a_seed_makes_answers_equal(server: ApiServer) -> None:
    """And other seeds make others."""
    asked = {"messages": QUESTION, "max_tokens": 12, "temperature": 1.5}
    texts = [
        good(server.post(CHAT, **asked, seed=seed))["choices"][0]["message"]["content"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@check
def null_is_a_field_that_is_not_given(server: ApiServer) -> None:
    """As SDKs of some languages send it."""
    names = ("stop", "seed", "top_p", "tools", "response_format", "user", "stream_options")
    good(server.post(CHAT, **GREEDY, **dict.fromkeys(names)))


@check
def content_may_be_parts(server: ApiServer) -> None:
    """Of text; the answer is the same."""
    parts = [{"type": "text", "text": QUESTION[0]["content"]}]
    asked = {**GREEDY, "messages": [{"role": "user", "content": parts}]}
    assert text(server.post(CHAT, **asked)) == text(server.post(CHAT, **GREEDY))


@check
def developer_is_system(server: ApiServer) -> None:
    """Its newer name; the answer is the same."""
    replies = [
        server.post(
            CHAT, **{**GREEDY, "messages": [{"role": role, "content": "Rhyme."}, *QUESTION]}
        )
        for role in ("system", "developer")
    ]
    assert text(replies[0]) == text(replies[1])


@check
def a_schema_is_obeyed(server: ApiServer) -> None:
    """Whole and streamed."""
    asked = {"messages": QUESTION, "max_tokens": 80, "temperature": 0, "response_format": FORMAT}
    for found in (
        text(server.post(CHAT, **asked)),
        text_of(streamed(server.post(CHAT, **asked, stream=True))[:-1]),
    ):
        person = json.loads(found)
        assert set(person) == {"name", "age"}
        assert person["age"] in (17, 42)


@check
def a_function_is_called(server: ApiServer) -> None:
    """If it must be."""
    choice = good(server.post(CHAT, **CALLING))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    check_call(choice["message"]["tool_calls"])


@check
def a_call_is_streamed(server: ApiServer) -> None:
    """In parts with its index."""
    *events, done = streamed(server.post(CHAT, **CALLING, stream=True))
    assert done == DONE
    calls: dict[int, dict[str, Any]] = {}
    for part in [one for event in events for one in delta(event).get("tool_calls") or []]:
        known = calls.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})
        known |= {name: part[name] for name in ("id", "type") if part.get(name)}
        for name in ("name", "arguments"):
            known["function"][name] += part["function"].get(name) or ""
    check_call([*calls.values()])
    assert reasons(events) == ["tool_calls"]


@check
def the_result_of_a_call_is_read(server: ApiServer) -> None:
    """And the call that it belongs to, whose content may be null."""
    function = {"name": "weather", "arguments": '{"city": "Taipei"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    messages = [
        *CALLING["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    reply = server.post(CHAT, messages=messages, tools=[TOOL], max_tokens=8, temperature=0)
    assert text(reply)


@check
def tokens_have_log_probabilities(server: ApiServer) -> None:
    """Beside those of the likeliest in their places; whole and streamed."""
    asked = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    choice = good(server.post(CHAT, **asked))["choices"][0]
    *events, _ = streamed(server.post(CHAT, **asked, stream=True))
    choices = [event["choices"][0] for event in events if event["choices"]]
    parts = [one["logprobs"]["content"] for one in choices if one.get("logprobs")]
    for entries in (choice["logprobs"]["content"], [one for part in parts for one in part]):
        said = b"".join(bytes(one["bytes"]) for one in entries)
        assert said.decode() == choice["message"]["content"]
        for one in entries:
            likeliest, other = one["top_logprobs"]
            assert likeliest["token"] == one["token"]
            assert 0 >= one["logprob"] == likeliest["logprob"] >= other["logprob"]
    refused(server.post(CHAT, **GREEDY, top_logprobs=2))


# -- errors


def refused(*replies: Reply, status: int = 400) -> None:
    """Check that errors have this status, and say why."""
    for reply in replies:
        assert reply.status == status
        assert isinstance(reply.value["error"]["message"], str)


@check
def an_unknown_model_is_not_found(server: ApiServer) -> None:
    """By its code, too."""
    reply = server.post(CHAT, **GREEDY, model="unknown")
    refused(reply, status=404)
    assert reply.value["error"]["code"] == "model_not_found"


@check
def errors_have_all_fields(server: ApiServer) -> None:
    """Null, if there is nothing to say."""
    error = server.send(CHAT, b"nonsense").value["error"]
    assert set(error) == {"message", "type", "param", "code"}


@check
def what_is_no_json_is_refused(server: ApiServer) -> None:
    """Also what is no object."""
    refused(*(server.send(CHAT, body) for body in (b"nonsense", b"[]", b'{"model": ')))


@check
def wrong_types_are_refused(server: ApiServer) -> None:
    """Of messages and options."""
    wrong: tuple[dict[str, Any], ...] = (
        {"messages": "hi"},
        {"messages": []},
        {"messages": [{"role": "nobody", "content": "hi"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"temperature": "hot"},
        {"max_tokens": "many"},
        {"max_tokens": -5},
        {"stop": 5},
        {"stream": "yes"},
    )
    refused(*(server.post(CHAT, **{**GREEDY, **one}) for one in wrong))


@check
def messages_are_needed(server: ApiServer) -> None:
    """And named in the error."""
    reply = server.post(CHAT)
    refused(reply)
    assert "messages" in reply.value["error"]["message"]


@check
def what_is_too_long_is_refused(server: ApiServer) -> None:
    """By its code."""
    long = [{"role": "user", "content": "sea " * 2_100}]
    reply = server.post(CHAT, messages=long, max_tokens=1)
    refused(reply)
    assert reply.value["error"]["code"] == "context_length_exceeded"


@check
def a_picture_is_refused_by_what_cannot_see(server: ApiServer) -> None:
    """Instead of being ignored."""
    refused(server.post(CHAT, messages=[{"role": "user", "content": [PICTURE]}], max_tokens=4))


@check
def there_is_nothing_elsewhere(server: ApiServer) -> None:
    """Nor with another method."""
    refused(server.post("/v1/nothing"), status=404)
    refused(server.send(CHAT, method="GET"), status=405)


@check
def two_answers_may_be_asked_for(server: ApiServer) -> None:
    """By n."""
    assert len(good(server.post(CHAT, **GREEDY, n=2))["choices"]) == 2


# -- how replies are read


def good(reply: Reply) -> Any:
    """Return the object of an answer."""
    assert reply.status == 200, reply.value
    return reply.value


def streamed(reply: Reply) -> list[Any]:
    """Return the events of an answer."""
    assert (reply.status, bool(reply.events)) == (200, True), reply.value
    return reply.events


def delta(event: Any) -> Any:
    """Return what an event adds."""
    return event["choices"][0]["delta"] if event["choices"] else {}


def text(reply: Reply) -> str:
    """Return the text of an answer."""
    found: str = good(reply)["choices"][0]["message"]["content"]
    return found


def text_of(events: list[Any]) -> str:
    """Return the text of a stream."""
    return "".join(delta(one).get("content") or "" for one in events)


def reasons(events: list[Any]) -> list[str]:
    """Return why a stream ends; one reason, if it is right."""
    found = [one["choices"][0]["finish_reason"] for one in events if one["choices"]]
    return [one for one in found if one]


def check_call(calls: list[Any]) -> None:
    """Check the one call of the function."""
    (call,) = calls
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}


ONE_ANSWER = "one answer is made for each request; it says so"
NO_MODEL = "it repeats its input: no tokens, no options, no functions; what it lacks is refused"
DIFFERENCES = {
    "debug": {
        "usage_is_counted": "an executor that counts no tokens has the characters of the answer",
        "what_is_too_long_is_refused": "it has no context",
        "a_picture_is_refused_by_what_cannot_see": "it repeats the link",
        "two_answers_may_be_asked_for": ONE_ANSWER,
        **dict.fromkeys(
            (
                "cached_tokens_are_counted",
                "a_prompt_is_completed",
                "an_answer_ends_at_its_limit",
                "an_answer_ends_before_a_stop_word",
                "a_seed_makes_answers_equal",
                "a_schema_is_obeyed",
                "a_function_is_called",
                "a_call_is_streamed",
                "tokens_have_log_probabilities",
            ),
            NO_MODEL,
        ),
    },
    "llamacpp": {"two_answers_may_be_asked_for": ONE_ANSWER},
    "llama.cpp": {
        "one_model_is_described": "there is no such address",
        "a_function_is_called": "this model does not get to the end of its format of a call",
        "a_call_is_streamed": "nor here",
        "an_unknown_model_is_not_found": "its one model answers under every name",
        "errors_have_all_fields": "there is no param, and code repeats the status",
        "wrong_types_are_refused": "some are taken",
        "what_is_too_long_is_refused": "with another code",
        "a_picture_is_refused_by_what_cannot_see": "with the status 500",
        "there_is_nothing_elsewhere": "another method is 404 as well",
        "two_answers_may_be_asked_for": "as many as it has slots, which is one here",
    },
    "transformers": {
        "one_model_is_described": "there is no such address",
        "cached_tokens_are_counted": "nothing is kept between requests",
        "a_stream_is_events": "there is no [DONE]",
        "a_stream_has_no_usage_unless_asked_for": "there is none",
        "a_prompt_is_completed": "there is no [DONE]",
        "an_answer_ends_before_a_stop_word": "it ends behind it",
        "a_seed_makes_answers_equal": "greedy, unless the model's folder says otherwise",
        "developer_is_system": "the template gets the name as it is",
        "a_schema_is_obeyed": "it is ignored",
        "a_function_is_called": "only where it knows the model's format",
        "a_call_is_streamed": "only where it knows the model's format",
        "tokens_have_log_probabilities": "they are ignored",
        "an_unknown_model_is_not_found": "with the status 400",
        "errors_have_all_fields": "they have the shape of FastAPI's",
        "what_is_no_json_is_refused": "with the status 422",
        "wrong_types_are_refused": "some with the status 500",
        "messages_are_needed": "with the status 500",
        "what_is_too_long_is_refused": "it computes beyond the context",
        "a_picture_is_refused_by_what_cannot_see": "it is ignored",
        "there_is_nothing_elsewhere": "with an error of FastAPI's shape",
        "two_answers_may_be_asked_for": "one is made",
    },
}


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """Run each server."""
    with SERVERS[request.param](tmp_path_factory.mktemp("model")) as running:
        yield running


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_the_protocol(server: ApiServer, name: str, request: pytest.FixtureRequest) -> None:
    """Is spoken as the table says."""
    differs = DIFFERENCES.get(request.node.callspec.params["server"], {})
    if name not in differs:
        CHECKS[name](server)
        return
    with pytest.raises((AssertionError, LookupError, TypeError, ValueError)):
        CHECKS[name](server)
