"""What answers must match reaches each kind of service in its own words, and is never dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.chat import catalog
from kuwa_min.errors import UsageError
from tests.fakes.openai.server import Handler, Service
from tests.support.cloud_chats import ask

from .asking import Serve, connect, fine

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA)
STRUCTURE = ("response_format", "structured_outputs", "guided_regex", "guided_grammar")


def owned(service: Service, owner: str) -> Service:
    """Let a service list models of this owner."""
    service.models = [{"id": "m", "object": "model", "owned_by": owner}]
    return service


def sent(service: Service, number: int = -1) -> dict[str, Any]:
    """Return the fields of a request that say what the answer must match."""
    names = (*STRUCTURE, "grammar", "regex", "json_schema")
    body = service.chats[number].body
    return {name: body[name] for name in names if name in body}


def schema_field(*, strict: bool) -> dict[str, Any]:
    """Return how a schema is sent."""
    wanted = {"name": "answer", "schema": SCHEMA, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


@pytest.mark.parametrize("owner", ["vllm", "llamacpp", "library", ""])
def test_a_schema_is_a_response_format_everywhere(serve: Serve, tmp_path: Path, owner: str) -> None:
    """Of a bot or of the operator; "any object" is what all services take."""
    service = owned(serve(fine), owner)
    (tmp_path / "schema.json").write_text(TEXT, encoding="utf-8")
    executor = connect(service, "--json_schema", tmp_path / "schema.json")
    ask(executor, "hi")
    assert sent(service) == schema_field(strict=True)
    ask(executor, "hi", llm_json_schema='{"type": "object"}')
    assert sent(service) == {"response_format": {"type": "json_object"}}
    ask(connect(service), "hi", llm_json_schema=TEXT)
    assert sent(service) == schema_field(strict=True)
    ask(connect(service), "hi")
    assert sent(service) == {}


@pytest.mark.parametrize(
    ("owner", "kind", "text", "fields"),
    [
        ("vllm", "regex", "a|b", {"structured_outputs": {"regex": "a|b"}, "guided_regex": "a|b"}),
        (
            *("vllm", "grammar", 'start: "a"'),
            {"structured_outputs": {"grammar": 'start: "a"'}, "guided_grammar": 'start: "a"'},
        ),
        ("sglang", "regex", "a|b", {"regex": "a|b"}),
        ("llamacpp", "grammar", 'start: "a"', {"grammar": '%llguidance {}\nstart: "a"'}),
        ("llamacpp", "regex", "a/b", {"grammar": "%llguidance {}\nstart: /a\\/b/\n"}),
    ],
)
def test_other_constraints_are_said_as_the_service_has_them(
    serve: Serve, owner: str, kind: str, text: str, fields: dict[str, Any]
) -> None:
    """What it is, its list of models says."""
    service = owned(serve(fine), owner)
    ask(connect(service), "hi", **{f"llm_{kind}": text})
    assert sent(service) == fields


@pytest.mark.parametrize(
    ("owner", "kind"), [("", "regex"), ("library", "grammar"), ("sglang", "grammar")]
)
def test_what_a_service_has_no_field_for_is_a_sentence(serve: Serve, owner: str, kind: str) -> None:
    """It is not asked: most ignore fields that they do not know."""
    service = owned(serve(fine), owner)
    answer = ask(connect(service), "hi", **{f"llm_{kind}": "a"})
    assert answer == catalog.NOT_AN_OPTION.format(kind)
    assert service.chats == []


def refusing(words: str, refuses: Callable[[dict[str, Any]], bool]) -> Callable[[Handler], None]:
    """Return a service that answers only requests that it does not refuse, with these words."""

    def talk(one: Handler) -> None:
        if refuses(one.asked.body):
            one.answer({"error": {"message": words, "param": None}}, 400)
        else:
            one.tell("fine")

    return talk


def test_a_schema_that_is_not_guaranteed_is_asked_for_once_more(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenAI guarantees only schemas without optional properties: the log says so, once."""
    words = (
        "Invalid schema for response_format 'answer': In context=(), 'additionalProperties' is "
        "required to be supplied and to be false."
    )
    service = serve(refusing(words, lambda body: body["response_format"]["json_schema"]["strict"]))
    executor = connect(service)
    assert [ask(executor, "hi", llm_json_schema=TEXT) for _ in "12"] == ["fine", "fine"]
    assert [sent(service, number) for number in range(3)] == [
        schema_field(strict=strict) for strict in (True, False, False)
    ]
    assert len(service.chats) == 3
    assert caplog.text.count("it is asked without `strict`") == 1


def test_a_vllm_that_takes_one_name_gets_one(serve: Serve) -> None:
    """Of versions that refuse both; the newer name stays."""
    words = "You can only use one kind of guided decoding"
    service = owned(serve(refusing(words, lambda body: "guided_regex" in body)), "vllm")
    executor = connect(service)
    assert [ask(executor, "hi", llm_regex="a") for _ in "12"] == ["fine", "fine"]
    assert [sorted(sent(service, number)) for number in range(3)] == [
        ["guided_regex", "structured_outputs"],
        ["structured_outputs"],
        ["structured_outputs"],
    ]


def test_both_names_stay_where_only_the_value_is_wrong(serve: Serve) -> None:
    """A vLLM before 0.11 would ignore the newer name alone."""
    words = "guided_regex is no regular expression"
    service = owned(serve(refusing(words, lambda body: body["guided_regex"] == "(")), "vllm")
    executor = connect(service)
    assert ask(executor, "hi", llm_regex="(") == catalog.NOT_AN_OPTION.format("regex")
    assert ask(executor, "hi", llm_regex="a") == "fine"
    assert sent(service) == {"structured_outputs": {"regex": "a"}, "guided_regex": "a"}


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("json_schema", TEXT, "response_format is not supported by this model"),
        ("json_schema", TEXT, "Unknown parameter: 'response_format'"),
        ("regex", "(", "failed to parse grammar"),
    ],
)
def test_a_service_that_refuses_it_is_a_sentence(
    serve: Serve, kind: str, text: str, words: str
) -> None:
    """An answer that need not match is no answer to the request."""
    service = owned(serve(refusing(words, lambda _: True)), "llamacpp")
    answer = ask(connect(service), "hi", **{f"llm_{kind}": text})
    assert answer == catalog.NOT_AN_OPTION.format(kind)
    assert all(sent(service, number) for number in range(len(service.chats)))
    assert len(service.chats) < 4


def test_two_constraints_exclude_each_other(serve: Serve, tmp_path: Path) -> None:
    """An operator's at the start."""
    path = tmp_path / "schema.json"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(UsageError, match="must not be given together with"):
        connect(serve(fine), "--regex", "a", "--json_schema", path)
