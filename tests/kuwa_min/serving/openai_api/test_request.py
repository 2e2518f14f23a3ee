"""Requests of /v1: what is understood, and how the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.errors import HTTPError
from kuwa_min.kernel.protocol import parse_chat_request
from kuwa_min.serving.openai_api.errors import ApiError
from kuwa_min.serving.openai_api.request import (
    ApiRequest,
    read_chat,
    read_completion,
    read_object,
)

USER = {"role": "user", "content": "hi"}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def read(*messages: Any, **fields: Any) -> ApiRequest:
    """Read a request, through JSON, as a client sends it."""
    body = {"model": "m", "messages": [*messages] or [USER], **fields}
    return read_chat(read_object(json.dumps(body).encode()), "en", {}, {"tools"})


def history(*messages: Any) -> list[tuple[str, str]]:
    """Return roles and texts of the chat that an executor gets."""
    return [(one["role"], one["content"]) for one in read(*messages).chat.history]


def options(**fields: Any) -> dict[str, Any]:
    """Return the generation options that an executor gets."""
    return dict(read(**fields).chat.modelfile.parameters["llm_"])


def parts(*content: Any, role: str = "user") -> dict[str, Any]:
    """Return a message of content parts."""
    return {"role": role, "content": [*content]}


def text(value: str) -> dict[str, str]:
    """Return a content part of text."""
    return {"type": "text", "text": value}


def function(name: str, **more: Any) -> dict[str, Any]:
    """Return a function that is offered."""
    return {"type": "function", "function": {"name": name, **more}}


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([USER], [("user", "hi")]),
        ([{"role": "user", "content": "hi", "name": "Ann"}], [("user", "hi")]),
        (
            [
                {"role": "system", "content": "a"},
                USER,
                {"role": "developer", "content": [text("b")]},
                {"role": "assistant", "content": None},
                {"role": "system", "content": " "},
            ],
            [("system", "a\n\nb"), ("user", "hi"), ("assistant", "")],
        ),
        ([parts(text("a"), {"type": "input_text", "text": "b"})], [("user", "a\nb")]),
        (
            [USER, parts({"type": "refusal", "refusal": "no"}, role="assistant"), USER],
            [("user", "hi"), ("assistant", "no"), ("user", "hi")],
        ),
        (
            [parts(text("see"), {"type": "image_url", "image_url": {"url": PICTURE}})],
            [("user", f"see\n{PICTURE}")],
        ),
        (
            [parts({"type": "image_url", "image_url": "https://a.example/x_(1)"})],
            [("user", "https://a.example/x_(1%29")],
        ),
        ([{"role": "user", "content": "a\ud800b"}], [("user", "a\ufffdb")]),
    ],
)
def test_messages_become_a_history(messages: list[Any], wanted: list[tuple[str, str]]) -> None:
    """System messages in front, content parts as text, pictures as links."""
    assert history(*messages) == wanted


def test_a_chat_with_a_picture_asks_for_a_model_that_sees() -> None:
    """As a bot with llm_enable_multimodal does."""
    picture = parts({"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}})
    asked = read(USER, picture)
    assert asked.chat.modelfile.parameters["llm_enable_multimodal"] is True
    assert asked.needs == {"images": "messages[1].content[0].image_url"}
    assert "enable_multimodal" not in options()


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1, "é"]}}},
            '{"enum":[1,"\\u00e9"]}',
        ),
    ],
)
def test_a_format_of_the_answer_is_an_option(wanted: Any, schema: str | None) -> None:
    """Which the executor must have."""
    asked = read(response_format=wanted)
    assert asked.chat.modelfile.parameters.get("llm_json_schema") == schema
    assert asked.needs == ({} if schema is None else {"json_schema": "response_format"})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {}),
        ({"temperature": 0, "top_p": 0.5, "min_p": 0.1}, None),
        ({"top_k": 20.0, "seed": -1, "thinking_tokens": 5}, None),
        ({"frequency_penalty": -1, "presence_penalty": 1.5, "repetition_penalty": 1.1}, None),
        ({"max_tokens": 7}, None),
        ({"max_completion_tokens": 8, "max_tokens": 7}, {"max_tokens": 8}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": None, "temperature": None, "seed": None, "max_tokens": None}, {}),
        ({"reasoning_effort": "low"}, None),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"template_kwargs": {"enable_thinking": False}},
        ),
        ({"n": 1, "best_of": 1, "logit_bias": {}, "tools": [], "logprobs": False}, {}),
        ({"tool_choice": "auto"}, {}),
        ({"store": False, "metadata": {"a": 1}, "parallel_tool_calls": True, "nonsense": 1}, {}),
    ],
)
def test_options_have_the_names_of_modelfiles(
    fields: dict[str, Any], wanted: dict[str, Any] | None
) -> None:
    """Null is absent, and what is not known is not refused."""
    assert options(**fields) == (fields if wanted is None else wanted)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, 5]}, "messages[1]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [parts("x")]}, "messages[0].content[0]"),
        ({"messages": [parts({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [parts({"type": "input_audio"})]}, "messages[0].content[0].type"),
        ({"messages": [parts({"type": ["text"]})]}, "messages[0].content[0].type"),
        ({"messages": [parts({"type": "image_url"})]}, "messages[0].content[0].url"),
        (
            {"messages": [parts({"type": "image_url", "image_url": {"url": "file:///etc"}})]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [parts({"type": "image_url", "image_url": {"url": f"{PICTURE} x"}})]},
            "messages[0].content[0].image_url.url",
        ),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**400}, "max_completion_tokens"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": "a" * 1001}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 2}, "n"),
        ({"n": True, "best_of": 2}, "best_of"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"user": 5}, "user"),
        ({"response_format": "json"}, "response_format"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"type": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [function("a b")]}, "tools[0].function.name"),
        ({"tools": [function("f", parameters=5)]}, "tools[0].function.parameters"),
        ({"tools": [function("f")], "tool_choice": "x"}, "tool_choice"),
        (
            {"tools": [function("f")], "tool_choice": function("g")},
            "tool_choice.function.name",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[1].tool_calls[0].function.name",
        ),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    """By its path, with a sentence that says what it must be."""
    with pytest.raises(ApiError) as refused:
        read(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.message.startswith(param)
    assert "{" not in refused.value.message.replace('{"type": "text"', "")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b"{" + b'"a":[],' * 200_000]
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """In bounded time and memory."""
    with pytest.raises(HTTPError) as refused:
        read_object(body)
    assert refused.value.status == 400


def test_surrogates_without_a_partner_are_replaced_everywhere() -> None:
    """Whatever field they are in, so that each executor and service can encode what it gets."""
    lone, emoji = "\ud800", "\U0001f600"
    asked = read(
        {"role": "user", "content": lone + emoji},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": lone}}]},
        {"role": "tool", "content": lone},
        tools=[function("f", description=lone, parameters={"properties": {lone: {"x": lone}}})],
        stop=[lone],
        chat_template_kwargs={lone: [lone]},
    )
    assert asked.chat.history[1]["content"] == "\ufffd" + emoji
    assert asked.chat.modelfile.parameters["llm_stop"] == ["\ufffd"]
    whole = f"{asked.chat.history} {asked.chat.form} {asked.chat.modelfile.parameters}"
    assert "ud800" not in whole
    assert emoji in whole


def test_an_executor_that_reads_forms_reads_the_same_chat() -> None:
    """The form is what Kuwa's own API would send."""
    asked = read(
        {"role": "system", "content": "Be kind."},
        USER,
        temperature=0.5,
        stop=["a", "b"],
        user="ann",
        chat_template_kwargs={"x": 1},
    )
    form = asked.chat.form
    again = parse_chat_request(form, "en")
    assert again.history == asked.chat.history
    assert form["name"] == "m"
    assert form["user_id"] == asked.user == "ann"
    given = again.modelfile.parameters
    assert given["llm_temperature"] == 0.5
    assert json.loads(given["llm_stop"]) == ["a", "b"]
    assert json.loads(given["llm_template_kwargs"]) == {"x": 1}
    names = {"_name", "_user_id", "_history_id", "_lang", "_kuwa_api_base_urls"}
    assert {name for name in asked.chat.modelfile.parameters if name[0] == "_"} == names


def test_only_a_client_of_v1_has_wishes() -> None:
    """A Kernel's chat shows thoughts as --thinking says."""
    assert read().chat.modelfile.extras.separate_thoughts
    assert not parse_chat_request({"input": "[]"}, None).modelfile.extras.separate_thoughts


def complete(**fields: Any) -> ApiRequest:
    """Read a request of completions."""
    body = {"model": "m", "prompt": "Once", **fields}
    return read_completion(read_object(json.dumps(body).encode()), None, {})


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_prompt_is_the_only_message(prompt: Any) -> None:
    """Of an executor that can read one without a template; a short answer by default."""
    asked = complete(prompt=prompt, temperature=0)
    assert asked.chat.history == [{"role": "user", "content": "Once"}]
    assert asked.needs == {"raw_prompt": "prompt"}
    assert (asked.chat.modelfile.extras.raw_prompt, asked.stream) == (True, False)
    given = asked.chat.modelfile.parameters["llm_"]
    assert given == {"max_tokens": 16, "temperature": 0, "enable_multimodal": False}
    assert complete(max_tokens=5).chat.modelfile.parameters["llm_max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 2}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": "x"}, "max_tokens"),
    ],
)
def test_a_completion_that_is_not_offered_is_refused(fields: dict[str, Any], param: str) -> None:
    """By the name of the field."""
    with pytest.raises(ApiError) as refused:
        complete(**fields)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_log_probabilities_are_a_number_of_alternatives(
    fields: dict[str, Any], wanted: int | None
) -> None:
    """Of an executor that has them."""
    asked = read(**fields)
    assert asked.chat.modelfile.extras.logprobs == wanted
    assert ("logprobs" in asked.needs) is (wanted is not None)


@pytest.mark.parametrize(("field", "wanted"), [(None, None), (False, None), (0, 0), (5, 5)])
def test_a_completion_says_them_in_one_field(field: Any, wanted: int | None) -> None:
    """None of them are the likeliest alone."""
    asked = complete(prompt="Once", logprobs=field)
    assert asked.chat.modelfile.extras.logprobs == wanted
    assert ("logprobs" in asked.needs) is (wanted is not None)


# -- functions

CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}


def test_functions_are_told_in_the_system_prompt() -> None:
    """Behind that of the client; their calls and results are messages."""
    asked = read(
        {"role": "system", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        tools=[function("look", description="Look.", parameters={"type": "object"})],
    )
    system, user, assistant, result = (one["content"] for one in asked.chat.history)
    assert system.startswith("Be kind.\n\n# Tools")
    assert '"name": "look", "description": "Look.", "parameters": {"type": "object"}' in system
    assert "now" not in system
    assert user == "hi"
    assert assistant == '<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>'
    assert result == "<tool_response>\n42\n</tool_response>"
    assert [one["role"] for one in asked.chat.history] == ["system", "user", "assistant", "user"]
    assert (asked.functions, asked.needs) == ({"look"}, {"tools": "tools"})


def test_functions_are_told_by_templates_that_can() -> None:
    """Then the system prompt says only what a template does not."""
    body = {"model": "m", "messages": [USER], "tools": [function("look")]}
    features = {"tools", "tool_template"}
    for more, system in (
        ({}, None),
        ({"parallel_tool_calls": False}, "Call one function at most."),
    ):
        asked = read_chat(read_object(json.dumps({**body, **more}).encode()), None, {}, features)
        assert asked.chat.modelfile.extras.tools == body["tools"]
        first = asked.chat.history[0]
        assert (first["content"] if first["role"] == "system" else None) == system
        assert asked.functions == {"look"}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("required", "Call a function now"),
        (function("look"), "Call the function look now"),
    ],
)
def test_a_call_may_be_required(choice: Any, told: str) -> None:
    """Of one function, or of any; one only."""
    both = [function("look"), function("add")]
    asked = read(tools=both, tool_choice=choice, parallel_tool_calls=False)
    system = asked.chat.history[0]["content"]
    assert told in system
    assert "one function at most" in system
    assert "llm_json_schema" not in asked.chat.modelfile.parameters
    none = read(tools=both, tool_choice="none")
    assert (none.functions, none.needs, len(none.chat.history)) == (frozenset(), {}, 1)


@pytest.mark.parametrize(
    ("choice", "parameters", "names"),
    [
        ("required", {"type": "object"}, ["look", "add"]),
        (function("add"), {"type": "object"}, ["add"]),
        ("auto", {"type": "object"}, None),
    ],
)
def test_a_required_call_is_kept_to_by_executors_that_can(
    choice: Any, parameters: Any, names: list[str] | None
) -> None:
    """By a schema, whatever the format."""
    both = [function("look", parameters=parameters), function("add")]
    body = {"model": "m", "messages": [USER], "tools": both, "tool_choice": choice}
    if names:
        body["response_format"] = {"type": "json_object"}
    asked = read_chat(read_object(json.dumps(body).encode()), None, {}, {"tools", "json_schema"})
    text = asked.chat.modelfile.parameters.get("llm_json_schema")
    found = json.loads(text or "{}")
    calls = found.get("anyOf", [found] if text else None)
    allowed = calls and [call["properties"]["name"]["const"] for call in calls]
    assert allowed == names
    assert asked.needs == {"tools": "tools"}


def test_references_of_a_required_call_count_from_the_parameters() -> None:
    """As pydantic writes nested models, and so instructor and pydantic-ai their functions."""
    text = 'a text: {"$ref": "#/$defs/Place"}'
    nested = {
        "properties": {"at": {"$ref": "#/$defs/Place"}, "next": {"$ref": "#"}},
        "$defs": {"Place": {"description": text}},
    }
    both = [function("look", parameters={"type": "object"}), function("add", parameters=nested)]
    for choice, root in (("required", "#/anyOf/1"), (function("add"), "#")):
        body = {"model": "m", "messages": [USER], "tools": both, "tool_choice": choice}
        features = {"tools", "json_schema"}
        asked = read_chat(read_object(json.dumps(body).encode()), None, {}, features)
        schema = json.loads(asked.chat.modelfile.parameters["llm_json_schema"])
        call = schema.get("anyOf", [None, schema])[1]
        assert call["properties"]["arguments"] == {
            "properties": {
                "at": {"$ref": f"{root}/properties/arguments/$defs/Place"},
                "next": {"$ref": f"{root}/properties/arguments"},
            },
            "$defs": {"Place": {"description": text}},
        }
