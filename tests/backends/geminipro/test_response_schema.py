"""A JSON schema is said in Gemini's words, or refused: what is left out would not be matched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.geminipro import GeminiproExecutor, response_schema
from kuwa_min.chat import catalog
from kuwa_min.errors import UsageError
from kuwa_min.options.constraint import JSON_SCHEMA, Constraint
from tests.fakes.gemini.server import Service, gemini_server
from tests.support.cloud_chats import ask, start

pytest.importorskip("google.generativeai", reason="geminipro needs google-generativeai")

CITY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
STRING, OBJECT = 1, 6  # as the SDK sends Type
JSON = {"responseMimeType": "application/json"}


@pytest.fixture
def service() -> Iterator[Service]:
    """Run a service that answers."""
    with gemini_server(lambda one: one.tell("fine")) as running:
        yield running


@pytest.fixture
def connect(service: Service) -> Iterator[Callable[..., Any]]:
    """Give what returns a backend that asks it; close all connections."""
    begun = []

    def begin(*options: object) -> Any:
        words = ("--api_endpoint", service.url, "--api_key", "AIza-1", *options)
        begun.append(start(GeminiproExecutor, *words))
        return begun[-1]

    yield begin
    for executor in begun:
        executor.client.close()


def translated(schema: object) -> dict[str, Any]:
    """Return a schema in Gemini's words."""
    return response_schema.fields(Constraint(JSON_SCHEMA, json.dumps(schema)))["response_schema"]


def test_a_schema_goes_with_the_request(service: Service, connect: Any) -> None:
    """Through the SDK, as Google's REST interface has it."""
    executor = connect()
    assert ask(executor, "hi", llm_json_schema=json.dumps(CITY)) == "fine"
    assert service.asked[-1].body["generationConfig"] == {
        **JSON,
        "responseSchema": {
            "type": OBJECT,
            "properties": {"name": {"type": STRING}},
            "required": ["name"],
        },
    }
    ask(executor, "hi", llm_json_schema='{"type": "object"}')
    assert service.asked[-1].body["generationConfig"] == JSON
    ask(executor, "hi")
    assert service.asked[-1].body.get("generationConfig", {}) == {}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": ["integer", "null"]}, {"type_": "INTEGER", "nullable": True}),
        ({"enum": ["a", "b"]}, {"type_": "STRING", "format_": "enum", "enum": ["a", "b"]}),
        (
            {"type": "array", "items": {"type": "number"}, "minItems": 2, "title": "t"},
            {"type_": "ARRAY", "items": {"type_": "NUMBER"}, "min_items": 2},
        ),
        (
            {"$ref": "#/$defs/one", "$defs": {"one": {"type": "boolean", "description": "d"}}},
            {"type_": "BOOLEAN", "description": "d"},
        ),
        ({"type": "object", "additionalProperties": False}, {"type_": "OBJECT"}),
    ],
)
def test_keywords_are_translated(schema: object, words: dict[str, Any]) -> None:
    """References are followed; what restricts nothing is left out."""
    assert translated(schema) == words


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "integer", "minimum": 1}, "minimum"),
        ({"anyOf": [CITY, {"type": "string"}]}, "anyOf"),
        ({"type": ["string", "integer"]}, "type"),
        ({"enum": [1, 2]}, "enum of other values than texts"),
        ({"type": "array", "items": True}, "True"),
        ({"$ref": "http://x/y"}, r"\$ref to another place"),
        ({"$ref": "#/$defs/no"}, r"\$ref to another place"),
        ({"$ref": "#"}, "refers to itself"),
        ({"description": "d"}, "without a type"),
    ],
)
def test_what_gemini_has_no_word_for_is_refused(
    schema: object, keyword: str, service: Service, connect: Any, tmp_path: Path
) -> None:
    """With the keyword; an operator's at the start."""
    with pytest.raises(response_schema.Untranslatable, match=keyword):
        translated(schema)
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"--json_schema \(.*{keyword}.*\): the service takes no"):
        connect("--json_schema", tmp_path / "schema.json")
    assert service.asked == []


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("regex", "a+", "regex"),
        ("grammar", 'start: "a"', "grammar"),
        ("json_schema", '{"type": "string", "pattern": "a"}', "json_schema (pattern)"),
    ],
)
def test_a_bot_is_told(kind: str, text: str, name: str, service: Service, connect: Any) -> None:
    """In a sentence, and the service is not asked."""
    assert ask(connect(), "hi", **{f"llm_{kind}": text}) == catalog.NOT_AN_OPTION.format(name)
    assert service.asked == []
