"""/v1 over real sockets: answers, errors, the queue, who may ask; with OpenAI's SDK as judge."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import threading
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pydantic
import pytest

from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import (
    ExitCodeChunk,
    LogChunk,
    LogLevel,
    LogprobsChunk,
    ProgressChunk,
    RefusalChunk,
    TextChunk,
    ThoughtChunk,
    TokenLogprob,
)
from kuwa_min.chat.sentence import ON_NEW_LINE
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import UNEXPECTED, AnswerError
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.serving import usage
from kuwa_min.serving.openai_api import response
from tests.kuwa_min.serving.api_client import Api, Compute, api, asking, events_of
from tests.support.programs import until

CHAT = "/v1/chat/completions"
LONG = 60.0
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
PAGE = "https://chat.example"
FUNCTION = {"type": "function", "function": {"name": "f"}}


async def echo(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Repeat the last message, a character a piece, and count what a tokenizer might."""
    for character in chat.history[-1]["content"]:
        yield character
    usage.count(5, 2, 3)


async def endless(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Say one word, then wait for a stop."""
    yield "word"
    await asyncio.Event().wait()


def yielding(*pieces: Any, error: Exception | None = None) -> Compute:
    """Return a backend that yields these pieces, then raises this error."""

    async def compute(_: ChatRequest) -> AsyncGenerator[Any, None]:
        for piece in pieces:
            yield piece
        if error is not None:
            raise error

    return compute


def delta(event: dict[str, Any]) -> Any:
    """Return what an event adds."""
    return event["choices"][0]["delta"]


def joined(events: list[Any], field: str = "content") -> str:
    """Return the text of a stream's events."""
    return "".join(delta(one).get(field) or "" for one in events if one["choices"])


# -- answers


def test_a_whole_answer_is_one_object() -> None:
    """With usage, and the reason of its end."""
    with api(echo) as one:
        status, found = one.chat(text="héllo 🙂")
    assert status == 200
    assert found["object"] == "chat.completion"
    assert found["model"] == "m"
    (choice,) = found["choices"]
    message = {"role": "assistant", "content": "héllo 🙂", "refusal": None}
    assert choice["message"] == message
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


@pytest.mark.parametrize("on_loop", [True, False])
def test_a_stream_is_events_that_end_in_done(on_loop: bool) -> None:
    """The role first, text, the reason of the end; the usage only if asked for."""
    with api(echo, on_loop=on_loop) as one:
        events = one.events(text="héllo 🙂")
        last = one.events(stream_options={"include_usage": True})[-1]
    assert delta(events[0]) == {"role": "assistant", "content": ""}
    assert joined(events) == "héllo 🙂"
    assert [event["choices"][0]["finish_reason"] for event in events][-2:] == [None, "stop"]
    assert delta(events[-1]) == {}
    assert len({event["id"] for event in events}) == 1
    assert not any("usage" in event for event in events)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)


PIECES = [
    ThoughtChunk("Let me "),
    ThoughtChunk("see."),
    ProgressChunk(1, 2),
    "An ",
    [TextChunk("answer"), "."],
    SIDE_NOTE.format("beside it"),
    LogChunk("a log", LogLevel.WARNING),
    catalog.ONLY_THOUGHT,
    RefusalChunk("No."),
    ExitCodeChunk(ExitCodeChunk.INCOMPLETE),
]
NOTES = ["beside it", "[WARNING] a log", str(catalog.ONLY_THOUGHT)]


def test_pieces_have_their_fields() -> None:
    """Thoughts, refusals and side notes are no text of the answer, whole or streamed."""
    with api(yielding(*PIECES)) as one:
        _, whole = one.chat()
        events = one.events()
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("An answer.", "Let me see.")
    assert (message["refusal"], whole["side_notes"]) == ("No.", NOTES)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert joined(events) == "An answer."
    assert joined(events, "reasoning_content") == "Let me see."
    assert joined(events, "refusal") == "No."
    assert events[-1]["side_notes"] == NOTES
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_a_backend_says_why_its_answer_ends() -> None:
    """As self.end_answer() does."""

    async def cut(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "word"
        usage.end("length")

    with api(cut) as one:
        assert one.chat()[1]["choices"][0]["finish_reason"] == "length"


TOKENS = [
    TokenLogprob(b"Hi ", -0.5, [(b"Hi ", -0.5), (b"Ho", -math.inf)]),
    TokenLogprob(b"\xe4\xb8", -1.0, [(b"\xe4\xb8", -1.0)]),
    TokenLogprob(b"\x96", -0.25, [(b"!", -0.125)]),
]


async def with_logprobs(chat: ChatRequest) -> AsyncGenerator[Any, None]:
    """Say a word and a character of two tokens, if log probabilities are wanted."""
    assert chat.modelfile.extras.logprobs == 2
    yield LogprobsChunk("Hi ", TOKENS[:1])
    yield LogprobsChunk("世", TOKENS[1:])


def test_log_probabilities_come_with_the_text() -> None:
    """Whole, and with each event of a stream."""
    wanted = {"logprobs": True, "top_logprobs": 2}
    with api(with_logprobs, features=("logprobs",)) as one:
        _, whole = one.chat(**wanted)
        events = one.events(**wanted)
    choice = whole["choices"][0]
    first, half, _ = choice["logprobs"]["content"]
    assert first["top_logprobs"] == [
        {"token": "Hi ", "logprob": -0.5, "bytes": [72, 105, 32]},
        {"token": "Ho", "logprob": -9999.0, "bytes": [72, 111]},
    ]
    assert (half["token"], half["bytes"]) == ("bytes:\\xe4\\xb8", [0xE4, 0xB8])
    streamed = [(delta(one).get("content"), one["choices"][0]["logprobs"]) for one in events]
    assert [(text, found["content"]) for text, found in streamed if found] == [
        ("Hi ", [first]),
        ("世", choice["logprobs"]["content"][1:]),
    ]


def test_log_probabilities_of_a_completion_are_lists() -> None:
    """With offsets in characters; a stream goes on counting."""
    asked = {"model": "m", "prompt": "Hello", "logprobs": 2}
    with api(with_logprobs, features=("logprobs", "raw_prompt")) as one:
        _, whole = one.fetch("/v1/completions", asked)
        with one.call("/v1/completions", {**asked, "stream": True}) as response:
            events = events_of(response.read())
    found = whole["choices"][0]["logprobs"]
    assert found == {
        "tokens": ["Hi ", "bytes:\\xe4\\xb8", "bytes:\\x96"],
        "token_logprobs": [-0.5, -1.0, -0.25],
        "top_logprobs": [
            {"Hi ": -0.5, "Ho": -9999.0},
            {"bytes:\\xe4\\xb8": -1.0},
            {"!": -0.125, "bytes:\\x96": -0.25},
        ],
        "text_offset": [0, 3, 3],
    }
    parts = [one["choices"][0]["logprobs"] for one in events if one["choices"][0]["logprobs"]]
    assert {name: [one for part in parts for one in part[name]] for name in found} == found


def test_log_probabilities_beside_a_call() -> None:
    """Come with text; a call has none."""
    tool = {"type": "function", "function": {"name": "look"}}
    wanted = {"logprobs": True, "tools": [tool]}
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    tokens = [TokenLogprob(b"t", -0.5)]
    for text, content in (("So: ", "So: "), ("", None)):
        said = [LogprobsChunk(part, tokens) for part in (text, call) if part]
        with api(yielding(*said), features=("logprobs", "tools")) as one:
            choice = one.chat(**wanted)[1]["choices"][0]
            events = one.events(**wanted)
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "look"
        assert bool(choice["logprobs"]) is bool(content)
        listed = [delta(one) for one in events if one["choices"][0]["logprobs"]]
        assert listed == ([{"content": content}] if content else [])


# -- errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AnswerError(catalog.TOO_LONG), 400, "context_length_exceeded"),
        (AnswerError(catalog.NO_INPUT), 400, None),
        (AnswerError("a custom executor's own"), 400, None),
        (AnswerError(ON_NEW_LINE.format(catalog.BUSY)), 429, None),
        (AnswerError(catalog.OUT_OF_MEMORY), 503, None),
        (AnswerError(catalog.BAD_OPENAI_KEY), 502, None),
        (AnswerError(catalog.SERVICE_FAILED.format(500)), 502, None),
        (ValueError("a secret of the backend"), 500, None),
    ],
)
def test_an_error_before_the_answer_has_its_status(
    error: Exception, status: int, code: str | None
) -> None:
    """In OpenAI's shape and without the brackets of a chat, whether streamed or not."""
    with api(yielding(error=error)) as one:
        for stream in (False, True):
            found, body = one.chat(stream=stream)
            assert found == status
            told = body["error"]
            assert (told["code"], told["param"]) == (code, None)
            sentence = UNEXPECTED if isinstance(error, ValueError) else str(error)
            assert told["message"] == sentence.strip().strip("[]")


def test_an_error_within_a_stream_is_its_last_event() -> None:
    """A whole answer becomes an error."""
    with api(yielding("word", error=AnswerError(catalog.BUSY))) as one:
        *events, last = one.events()
        status, body = one.chat()
    assert joined(events) == "word"
    assert last["error"]["message"] == body["error"]["message"] == catalog.BUSY.strip("[]")
    assert status == 429


def test_errors_of_the_server_have_openais_shape_too() -> None:
    """What no route answers."""
    with api(echo) as one:
        wrong = {"/v1": 404, "/v1/nothing": 404, CHAT: 405, "/v1/models/nothing": 404}
        for path, status in wrong.items():
            found, body = one.fetch(path)
            assert (found, set(body)) == (status, {"error"})
        assert set(one.fetch("/nothing")[1]) == {"msg"}


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({**asking(), "model": "x" * 1_000_000}, 404, "model", "model_not_found"),
        ({**asking(), "messages": []}, 400, "messages", None),
        (b"nonsense", 400, None, None),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    body: Any, status: int, param: str | None, code: str | None
) -> None:
    """And leaves its place to others."""
    with api(echo, places=1) as one:
        found, answer = one.fetch(CHAT, body)
        assert (found, answer["error"]["param"], answer["error"]["code"]) == (status, param, code)
        assert len(answer["error"]["message"]) < 500
        assert one.chat()[0] == 200


@pytest.mark.parametrize(
    ("fields", "feature", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", "response_format"),
        ({"tools": [FUNCTION], "tool_choice": "required"}, "tools", "tools"),
        ({"logprobs": True}, "logprobs", "logprobs"),
        (
            {"messages": [{"role": "user", "content": [PICTURE]}]},
            "images",
            "messages[0].content[0].image_url",
        ),
    ],
)
def test_what_an_executor_cannot_do_is_refused(
    fields: dict[str, Any], feature: str, param: str
) -> None:
    """Instead of being ignored."""
    for features, status in (((), 400), ((feature,), 200)):
        with api(echo, features=features) as one:
            found, body = one.chat(**fields)
        assert found == status
        assert status == 200 or body["error"]["param"] == param


def test_functions_that_need_not_be_called_may_be_offered_to_every_executor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As Open WebUI does in each chat; the log says once that they have no effect."""
    caplog.set_level("INFO", "kuwa_min.serving.api_routes")
    with api(echo) as one:
        for choice in (None, "auto"):
            answer = one.chat(tools=[FUNCTION], tool_choice=choice)[1]
            assert answer["choices"][0]["message"]["content"] == "hi"
    assert caplog.text.count("tools in a request has no effect") == 1


def test_the_error_of_a_prompt_that_is_too_long_counts_its_functions() -> None:
    """Clients may add dozens that the user does not see."""
    too_long = yielding(error=AnswerError(catalog.TOO_LONG))
    with api(too_long, features=("tools",)) as one:
        plain = one.chat()[1]["error"]
        error = one.chat(tools=[FUNCTION])[1]["error"]
    assert plain["message"] == "Sorry, The input message is too long!"
    assert error["message"].startswith(plain["message"] + " Functions (tools)")
    assert error["code"] == plain["code"] == "context_length_exceeded"


def test_an_address_that_is_not_offered_names_those_that_are() -> None:
    """As /v1/responses, which some SDKs use by default."""
    with api(echo) as one:
        status, body = one.fetch("/v1/responses", {"model": "m", "input": "hi"})
    assert status == 404
    assert "POST /v1/chat/completions" in body["error"]["message"]


def test_a_model_that_loads_is_asked_later() -> None:
    """Clients try again after a 503; the models are listed all the same."""
    with api(echo) as one:
        one.is_ready = False
        with one.call(CHAT, asking()) as response:
            assert (response.status, response.getheader("Retry-After")) == (503, "5")
        assert one.fetch("/v1/models")[0] == 200


# -- slots and queue


def test_chats_wait_in_the_queue_and_those_above_it_are_refused() -> None:
    """One runs, one waits; a client that hangs up lets the next one run at once."""
    with api(endless) as one:
        with one.call(CHAT, asking(stream=True)) as first:
            assert b"role" in first.readline()
            second = threading.Thread(target=one.chat)
            second.start()
            until(lambda: len(one.slots.active()) == 2)
            with one.call(CHAT, asking()) as refused:
                assert (refused.status, refused.getheader("Retry-After")) == (429, "2")
            waiting = one.slots.active()[1]
            assert not waiting.ticket.admitted
        until(lambda: waiting.ticket.admitted)
        one.slots.drain(0)
        second.join()


def test_a_client_that_hangs_up_stops_a_whole_answer() -> None:
    """Also before anything was sent to it."""
    begun, stopped = threading.Event(), threading.Event()

    async def stoppable(_: ChatRequest) -> AsyncGenerator[str, None]:
        try:
            begun.set()
            yield "word"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with api(stoppable) as one:
        client = http.client.HTTPConnection("127.0.0.1", one.server.port)
        with contextlib.closing(client):
            client.request("POST", CHAT, json.dumps(asking()))
            assert begun.wait(LONG)
        assert stopped.wait(LONG)
        until(lambda: not one.slots.active())


def test_a_chat_that_finds_no_slot_in_time_is_told_so() -> None:
    """With a status after which clients try again."""
    with api(endless, waiting_timeout=0) as one, one.call(CHAT, asking(stream=True)) as first:
        assert b"role" in first.readline()
        status, body = one.chat()
        assert (status, body["error"]["message"]) == (503, catalog.NO_SLOT.strip("[]"))


@pytest.mark.parametrize(
    "fields",
    [{}, {"stream": True, "tools": [{"type": "function", "function": {"name": "f"}}]}],
)
def test_an_answer_that_is_kept_has_bounds(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reader slows its backend, which may be a service that never ends; streams have none."""
    monkeypatch.setattr(response, "MOST_KEPT", 1000)

    async def flood(chat: ChatRequest) -> AsyncGenerator[str, None]:
        while True:
            yield "{" * 100

    with api(flood, features=("tools",)) as one:
        with one.call(CHAT, asking(**fields)) as answer:
            assert catalog.NOT_WHOLE.strip("[]") in answer.read().decode()
        with one.call(CHAT, asking(stream=True)) as answer:
            assert len(answer.read(100_000)) == 100_000


def test_the_end_of_the_process_is_an_error() -> None:
    """An answer that is cut is none."""
    with api(endless) as one, one.call(CHAT, asking(stream=True)) as response:
        assert b"role" in response.readline()
        until(lambda: one.metrics.first_piece.lines()[-1].split()[-1] != "0.0")
        one.slots.close()
        status, refused = one.chat()
        assert (status, refused["error"]["message"][:4]) == (503, "This")
        one.slots.drain(0)
        *_, last = events_of(b"data: {}\n" + response.read())
        assert last["error"]["message"] == catalog.CUT_SHORT


# -- who may ask


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": ""}, 403),
        ({"X_Forwarded_For": "10.0.0.1"}, 403),
        ({"X_Forwarded_Proto": "https"}, 403),
        ({"X_Forwarded_Host": "chat.example"}, 403),
        ({"CF_Connecting_IP": "10.0.0.1"}, 403),
        ({"X_Client_IP": "10.0.0.1"}, 403),
        ({"X_Envoy_External_Address": "10.0.0.1"}, 403),
        ({"Origin": PAGE}, 403),
    ],
)
def test_by_default_programs_of_this_machine_may_ask(fields: dict[str, str], status: int) -> None:
    """Under its own name, which no page can arrange, and through no proxy."""
    with api(echo) as one:
        found, body = one.fetch(CHAT, asking(), **fields)
    assert found == status
    assert ("error" in body) == (status != 200)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer first-token", 200),
        ("bearer  second-token ", 200),
        ("Bearer first-token2", 401),
        ("Bearer first-toke", 401),
        ("Bearer ", 401),
        ("Basic first-token", 401),
        ("first-token", 401),
        ("Bearer tök", 401),
        (None, 401),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/m"])
def test_a_token_opens_it_to_other_names(value: str | None, status: int, path: str) -> None:
    """Any one of several; no executor sees it."""
    seen: list[Any] = []

    async def look(chat: ChatRequest) -> AsyncGenerator[str, None]:
        seen.append(chat.headers)
        yield "x"

    fields = {"Host": "executor:9000"} | ({} if value is None else {"Authorization": value})
    with api(look, tokens=["first-token", "second-token"], anywhere=True) as one:
        found, body = one.fetch(path, asking() if path == CHAT else None, **fields)
    assert found == status
    if status != 200:
        assert body["error"]["code"] == "invalid_api_key"
    assert not any("authorization" in headers for headers in seen)


NODE = {"Sec_Fetch_Mode": "cors", "Accept_Language": "*", "User_Agent": "node"}  # its fetch()


@pytest.mark.parametrize("more", [NODE, {"User_Agent": "Mozilla/5.0"}])
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nothing"])
def test_programs_that_look_like_browsers_need_no_known_host_with_a_token(
    more: dict[str, str], path: str
) -> None:
    """No page under a name of its own has a token. Without tokens, and elsewhere, names count."""
    body, fields = asking() if path == CHAT else None, {"Host": "executor:9000", **more}
    with api(echo, tokens=["first-token"], anywhere=True) as one:
        right = one.fetch(path, body, Authorization="Bearer first-token", **fields)[0]
        assert right == (421 if path == "/nothing" else 200)
        assert one.fetch(path, body, **fields)[0] == (421 if path == "/nothing" else 401)
        page = {**fields, "Origin": "http://evil.example", "Authorization": "Bearer first-token"}
        assert one.fetch(path, body, **page)[0] in (403, 421)
    with api(echo) as one:
        assert one.fetch(path, body, **fields)[0] == 421


def test_pages_of_named_sites_may_ask_and_read() -> None:
    """The browser asks first; errors can be read as well. Others are refused."""
    with api(echo, origins=[PAGE]) as one:
        asked = {"Access_Control_Request_Headers": "authorization,x-stainless-os"}
        with one.call(CHAT, method="OPTIONS", Origin=PAGE, **asked) as response:
            assert response.status == 204
            assert response.getheader("Access-Control-Allow-Origin") == PAGE
            assert response.getheader("Access-Control-Allow-Headers") == asked.popitem()[1]
        for body in (asking(), asking(stream=True), {**asking(), "model": "x"}, b"nonsense"):
            with one.call(CHAT, body, Origin=PAGE) as response:
                assert response.getheader("Access-Control-Allow-Origin") == PAGE
                assert response.getheader("Vary") == "Origin"
        for method in ("OPTIONS", "POST"):
            with one.call(CHAT, asking(), method=method, Origin="https://evil.example") as response:
                assert response.status == 403
                assert response.getheader("Access-Control-Allow-Origin") is None


# -- Open WebUI, as its source (0.12.4) makes requests

WEBUI = {  # without a key; users are named if it is told to
    "Content_Type": "application/json",
    "X_OpenWebUI_User_Id": "7c9e",
    "X_OpenWebUI_User_Name": "Ann",
    "X_OpenWebUI_Chat_Id": "51d0",
    "User_Agent": "Python/3.11 aiohttp/3.14.5",
    "Accept_Encoding": "gzip, deflate, br",
}
WEBUI_CHAT = {
    "stream": True,
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "stream_options": {"include_usage": True},
    "temperature": 0.8,
}
WEBUI_TITLE = {
    "model": "m",
    "messages": [{"role": "user", "content": "### Task: Generate a title"}],
    "stream": False,
    "max_tokens": 1000,
}
WEBUI_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_time", "arguments": "{}"},
}
WEBUI_TOOL_RESULT = {
    **WEBUI_CHAT,
    "messages": [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [WEBUI_CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ],
    "tools": [{"type": "function", "function": {"name": "get_time", "parameters": {}}}],
}


def test_open_webui_chats() -> None:
    """It lists the models, streams chats, asks for titles, and tells what a function returned."""
    with api(echo, features=("tools",)) as one:
        status, models = one.fetch("/v1/models", **WEBUI)
        assert (status, models["data"][0]["id"]) == (200, "m")
        with one.call(CHAT, WEBUI_CHAT, **WEBUI) as response:
            events = events_of(response.read())
        assert joined(events) == "hi"
        assert events[-1]["usage"]["total_tokens"] == 7
        title = one.fetch(CHAT, WEBUI_TITLE, **WEBUI)[1]
        assert title["choices"][0]["message"]["content"] == "### Task: Generate a title"
        with one.call(CHAT, WEBUI_TOOL_RESULT, **WEBUI) as response:
            assert "noon" in joined(events_of(response.read()))


# -- OpenAI's SDK


def client_of(one: Api) -> openai.OpenAI:
    """Return the SDK's client."""
    return one.closing.enter_context(
        openai.OpenAI(base_url=one.url, api_key="right", max_retries=0)
    )


def test_the_sdk_lists_models() -> None:
    """And gets one, also of a name with a slash."""
    with api(echo) as one:
        client = client_of(one)
        assert [model.id for model in client.models.list()] == ["m", "a/b c"]
        assert client.models.retrieve("a/b c").id == "a/b c"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("x")


def test_the_sdk_reads_answers() -> None:
    """Whole, as a stream, with the raw response, and with asyncio."""
    with api(echo) as one:
        create = client_of(one).chat.completions.create
        whole = create(**asking())
        assert whole.choices[0].message.content == "hi"
        assert whole.usage and whole.usage.prompt_tokens_details
        assert whole.usage.prompt_tokens_details.cached_tokens == 3
        chunks = [*create(**asking(), stream=True, stream_options={"include_usage": True})]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert (text, chunks[-1].usage and chunks[-1].usage.total_tokens) == ("hi", 7)
        raw = client_of(one).chat.completions.with_raw_response.create(**asking())
        assert raw.parse().choices[0].message.content == "hi"
        assert asyncio.run(stream_with_asyncio(one)) == "hi"


async def stream_with_asyncio(one: Api) -> str:
    """Return the text of a stream that the SDK's other client reads."""
    async with openai.AsyncOpenAI(base_url=one.url, api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(**asking(), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


class Colour(pydantic.BaseModel):
    """What a client wants as JSON."""

    name: str


def test_the_sdk_parses_structured_answers() -> None:
    """The schema that it makes of a class reaches the executor."""

    async def obey(chat: ChatRequest) -> AsyncGenerator[str, None]:
        schema = json.loads(chat.modelfile.parameters["llm_json_schema"])
        yield json.dumps(dict.fromkeys(schema["required"], "red"))

    with api(obey, features=("json_schema",)) as one:
        answer = client_of(one).chat.completions.parse(**asking(), response_format=Colour)
    assert answer.choices[0].message.parsed == Colour(name="red")


TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_the_sdk_calls_functions() -> None:
    """Whole and streamed, with text before the call; then it tells what one returned."""

    async def call(chat: ChatRequest) -> AsyncGenerator[str, None]:
        if "<tool_response>" in chat.history[-1]["content"]:
            yield "It is 42."
            return
        for character in 'Let me. <tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>':
            yield character

    with api(call, features=("tools",)) as one:
        create = client_of(one).chat.completions.create
        whole = create(**asking(), tools=[TOOL]).choices[0]
        assert (whole.finish_reason, whole.message.content) == ("tool_calls", "Let me.")
        (called,) = whole.message.tool_calls or []
        assert called.type == "function"
        assert (called.function.name, called.function.arguments) == ("look", '{"a": 1}')
        with client_of(one).chat.completions.stream(**asking(), tools=[TOOL]) as stream:
            last = stream.get_final_completion().choices[0]
        assert (last.finish_reason, last.message.content) == ("tool_calls", "Let me. ")
        assert (last.message.tool_calls or [])[0].function.arguments == '{"a": 1}'
        result = {"role": "tool", "tool_call_id": called.id, "content": "42"}
        messages: Any = [*asking()["messages"], whole.message.model_dump(), result]
        then = create(model="m", messages=messages, tools=[TOOL]).choices[0]
        assert (then.finish_reason, then.message.content) == ("stop", "It is 42.")


def test_the_sdk_completes_prompts() -> None:
    """Whole and as a stream; an executor that cannot is not asked."""
    with api(echo, features=("raw_prompt",)) as one:
        create = client_of(one).completions.create
        whole = create(model="m", prompt="Once upon")
        assert (whole.object, whole.choices[0].text) == ("text_completion", "Once upon")
        assert whole.usage and whole.usage.total_tokens == 7
        chunks = [*create(model="m", prompt="Once upon", stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Once upon"
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    with api(echo) as one, pytest.raises(openai.BadRequestError, match="prompt"):
        client_of(one).completions.create(model="m", prompt="Once upon")


def test_the_sdk_knows_the_errors() -> None:
    """By status, code and parameter; also those that end a stream."""
    with api(yielding("word", error=AnswerError(catalog.BUSY)), tokens=["right"]) as one:
        client = client_of(one)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").chat.completions.create(**asking())
        create = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as refused:
            create(**asking(temperature=-1))
        assert refused.value.param == "temperature"
        with pytest.raises(openai.APIError, match="busy"):
            [*create(**asking(), stream=True)]
