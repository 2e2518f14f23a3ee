"""What answers must match: read from every place, one at a time, in a size that can be used."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from kuwa_min import Modelfile
from kuwa_min.chat.sentence import CHINESE, sentence_of
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options import constraint, generation_options
from kuwa_min.options.constraint import Constraint
from kuwa_min.options.types import MAX_PATTERN_LENGTH

SCHEMA = {"type": "object", "properties": {"é #1": {"type": "integer"}}}
TEXT = '{"type":"object","properties":{"é #1":{"type":"integer"}}}'
TABLE = constraint.OPTIONS


def settings(*argv: object) -> dict[str, Any]:
    """Return what an operator's command line gives."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    generation_options.add_arguments(parser, TABLE)
    return generation_options.settings(TABLE, parser.parse_args([str(word) for word in argv]))


def asked(*parameters: str, base: dict[str, Any] | None = None) -> Constraint | None:
    """Return the constraint of a chat whose Modelfile has these parameters."""
    commands = [{"name": "parameter", "args": one} for one in parameters]
    modelfile = Modelfile.from_json(json.dumps(commands))
    given = generation_options.asked_by(modelfile.parameters, TABLE)
    options = generation_options.for_request(TABLE, base or settings(), given)
    found = constraint.take_constraint(options, given)
    assert not set(constraint.KINDS) & set(options), "no sampler and no service gets them"
    return found


@pytest.mark.parametrize(
    ("parameter", "kind", "text"),
    [
        (f"llm_json_schema {json.dumps(SCHEMA)}", "json_schema", TEXT),
        (f"json_schema {json.dumps(SCHEMA, indent=2)}", "json_schema", TEXT),
        (f'llm_json_schema """{TEXT}"""  # as quoted text', "json_schema", TEXT),
        ("llm_json_schema {}", "json_schema", "{}"),
        ("llm_regex [0-9]{3}", "regex", "[0-9]{3}"),
        ("llm_regex 1e5", "regex", "1e5"),
        ("llm_regex true", "regex", "true"),
        ('llm_regex "a #b"', "regex", "a #b"),
        ('llm_grammar """start: a\na: "x" # "y" """', "grammar", 'start: a\na: "x" # "y" '),
    ],
)
def test_a_bot_states_it(parameter: str, kind: constraint.Kind, text: str) -> None:
    """As JSON, in quotes, in several lines; nothing becomes a number or loses a part."""
    assert asked(parameter) == Constraint(kind, text)


def test_without_one_answers_are_free() -> None:
    """None is not an empty one."""
    assert asked("llm_temperature 0") is None


def test_an_operator_names_a_file(tmp_path: Path) -> None:
    """Of a schema or a grammar; a -c file holds a schema as it is."""
    schema, grammar, config = (tmp_path / name for name in ("s.json", "g.lark", "c.json"))
    schema.write_text(json.dumps(SCHEMA, indent=2), encoding="utf-16")
    grammar.write_text('start: "a"')
    config.write_text(json.dumps({"json_schema": SCHEMA}))
    assert settings("--json_schema", schema)["json_schema"] == TEXT
    assert settings("-c", config)["json_schema"] == TEXT
    assert settings("--grammar", grammar)["grammar"] == 'start: "a"'
    assert settings("--regex", "a+")["regex"] == "a+"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": NaN}', "1"])
def test_a_file_that_holds_none_is_named(tmp_path: Path, content: str) -> None:
    """With what is needed."""
    path = tmp_path / "schema.json"
    path.write_text(content)
    with pytest.raises(argparse.ArgumentError) as refused:
        settings("--json_schema", path)
    assert f"{path}: json_schema must be a JSON schema" in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    """As the system says it."""
    with pytest.raises(argparse.ArgumentError, match=r"nowhere\.json cannot be read: No such file"):
        settings("--json_schema", "nowhere.json")


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (("llm_json_schema yes",), "json_schema must be a JSON schema: a JSON object of"),
        (("llm_json_schema [1]",), "json_schema must be a JSON schema: a JSON object of"),
        (("llm_json_schema " + "[" * 9999,), "json_schema must be a JSON schema: a JSON object of"),
        ((f'llm_json_schema {{"a": "{"x" * MAX_PATTERN_LENGTH}"}}',), "of 65536 characters"),
        (("llm_regex " + "x" * (MAX_PATTERN_LENGTH + 1),), "regex must be a text of 1 to 65536"),
        (('llm_regex ""',), "regex must be a text of 1 to"),
        (("llm_regex a", "llm_json_schema {}"), "regex must not be given together with json_sch"),
    ],
)
def test_a_bot_that_states_it_wrong_is_told_so(parameters: tuple[str, ...], reason: str) -> None:
    """In one sentence of both languages."""
    with pytest.raises(AnswerError) as refused:
        asked(*parameters)
    sentence = sentence_of(refused.value)
    assert reason in sentence and len(sentence) < 200
    assert sentence.render(CHINESE).startswith("[無法使用選項 llm_")


def test_what_a_bot_states_replaces_what_the_operator_did() -> None:
    """Also of another kind."""
    base = settings("--regex", "a+")
    assert asked(base=base) == Constraint("regex", "a+")
    assert asked("llm_json_schema {}", base=base) == Constraint("json_schema", "{}")


def test_an_operator_states_one_kind(tmp_path: Path) -> None:
    """Two end the start."""
    path = tmp_path / "schema.json"
    path.write_text("{}")
    both = settings("--regex", "a", "--json_schema", path)
    with pytest.raises(UsageError, match=r"^regex must not be given together with json_schema$"):
        constraint.check_settings(both)
    constraint.check_settings(settings("--regex", "a"))
