"""The Modelfile: every command, every kind of value, and nothing that a bot's author can break."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from kuwa_min.modelfile import (
    Modelfile,
    ParameterDict,
    convert_value,
    extract_text_from_quotes,
)

EMPTY = {
    "override_system_prompt": "",
    "messages": [],
    "template": "",
    "before_prompt": "",
    "after_prompt": "",
    "parameters": {},
}


def content(modelfile: Modelfile) -> dict[str, Any]:
    """Return everything that a Modelfile asks for."""
    return {name: getattr(modelfile, name) for name in EMPTY}


def modelfile_of(*commands: tuple[str, str]) -> Modelfile:
    """Parse these (name, args) commands as the Kernel sends them."""
    return Modelfile.from_json(
        json.dumps([{"name": name, "args": args} for name, args in commands])
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("007", 7),
        ("9007199254740993", 9007199254740993),
        ("1.0", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("yes", "yes"),
        ("null", "null"),
        ("1.2.3", "1.2.3"),
        ("0x10", "0x10"),
        ("C#", "C#"),
        ("", ""),
        ("gpt-4o mini", "gpt-4o mini"),
        (None, None),
    ],
)
def test_a_value_becomes_what_it_looks_like(text: str | None, value: Any) -> None:
    """Int, else float, else true, false or none in any case, else text."""
    converted = convert_value(text)
    assert converted == value
    assert type(converted) is type(value)


def test_a_number_of_any_length_is_converted() -> None:
    """More digits than int() takes are a float, not an error."""
    assert convert_value("9" * 5000) == float("inf")


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        ('"This is a text"', "This is a text"),
        ("'This is a text'", "This is a text"),
        ('"""two\nlines"""', "two\nlines"),
        ('"It\'s fine"', "It's fine"),
        ("'Made with \"love\"'", 'Made with "love"'),
        ('"""He said "hello""""', 'He said "hello"'),
        ('  "spaces around"\n', "spaces around"),
        ('"  spaces inside  "', "  spaces inside  "),
        ("no quotes", "no quotes"),
        ("invalid 'syntax'", "invalid 'syntax'"),
        ("\"opened by one, closed by the other'", "\"opened by one, closed by the other'"),
        ('"never closed', '"never closed'),
        ('never opened"', 'never opened"'),
        ('""', ""),
        ('""""""', ""),
        ('"', '"'),
        ("'", "'"),
        ("", ""),
    ],
)
def test_quotes_go_only_if_the_same_one_opens_and_closes(quoted: str, text: str) -> None:
    """Quotes that are part of the text stay."""
    assert extract_text_from_quotes(quoted) == text


def test_a_prefix_is_a_dictionary_of_its_own() -> None:
    """parameters["llm_"] holds what begins with llm_, without it; exact names come first."""
    parameters = ParameterDict({"llm_delay": 1, "llm_model": "m", "_llm_x": 2, "llm": 3})
    assert parameters["llm_"] == {"delay": 1, "model": "m"}
    assert parameters["llm"] == 3
    assert parameters["retriever_"] == {}
    assert "llm_" not in parameters, "looking does not add"


@pytest.mark.parametrize("text", [None, "", "null", "[]"])
def test_no_modelfile_is_an_empty_one(text: str | None) -> None:
    """Absent, empty, null and an empty list are all the same."""
    assert content(Modelfile.from_json(text)) == EMPTY


def test_an_empty_modelfile_asks_for_nothing() -> None:
    """Every text is empty rather than None, so that it can be put together."""
    assert content(Modelfile()) == EMPTY
    assert isinstance(Modelfile().parameters, ParameterDict)


def test_a_modelfile_can_be_made_by_hand() -> None:
    """Tests of custom executors need one."""
    made = Modelfile(template="{{ x }}", parameters=ParameterDict(llm_delay=1))
    assert content(made) == {**EMPTY, "template": "{{ x }}", "parameters": {"llm_delay": 1}}


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("system", "override_system_prompt"),
        ("before-prompt", "before_prompt"),
        ("after-prompt", "after_prompt"),
    ],
)
def test_texts_append(name: str, attribute: str) -> None:
    """Two commands of one name stand one after the other, without their quotes."""
    modelfile = modelfile_of((name, '"""Be kind. """'), (name, "Be brief."))
    assert getattr(modelfile, attribute) == "Be kind. Be brief."


def test_the_last_template_wins() -> None:
    """A template replaces the one before."""
    modelfile = modelfile_of(("template", "{{ first }}"), ("template", '"{{ second }}"'))
    assert modelfile.template == "{{ second }}"


def test_messages_append_in_order() -> None:
    """The role is the first word; quotes around the text are taken off."""
    modelfile = modelfile_of(
        ("message", "user How are you?"),
        ("message", 'assistant """Fine,\nthanks."""'),
        ("message", "USER 'Good'"),
    )
    assert modelfile.messages == [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine,\nthanks."},
        {"role": "user", "content": "Good"},
    ]


def test_a_system_message_belongs_to_the_system_prompt() -> None:
    """It is appended there, and is no message."""
    modelfile = modelfile_of(("system", "'One. '"), ("message", "system Two."))
    assert modelfile.override_system_prompt == "One. Two."
    assert modelfile.messages == []


@pytest.mark.parametrize("name", ["parameter", "kuwaparam"])
@pytest.mark.parametrize(
    ("args", "parameters"),
    [
        ("llm_temperature 0.5", {"llm_temperature": 0.5}),
        ("llm_seed 42", {"llm_seed": 42}),
        ("llm_stream TRUE", {"llm_stream": True}),
        ("llm_stop none", {"llm_stop": None}),
        ("llm_model  gpt-4o", {"llm_model": "gpt-4o"}),
        ('llm_stop "the end"', {"llm_stop": "the end"}),
        ("prompt use C# here", {"prompt": "use C# here"}),
        ("color #ff0000", {"color": "#ff0000"}),
    ],
)
def test_parameters_get_typed_values(name: str, args: str, parameters: dict[str, Any]) -> None:
    """A parameter is a key, a space and a value; what stands after # belongs to it."""
    assert modelfile_of((name, args)).parameters == parameters


def test_a_later_parameter_replaces_an_earlier_one() -> None:
    """The last value wins, whatever the command is called."""
    modelfile = modelfile_of(("parameter", "llm_delay 1"), ("kuwaparam", "llm_delay 2"))
    assert modelfile.parameters["llm_"] == {"delay": 2}


def test_a_number_sign_inside_a_text_is_text() -> None:
    """Nothing after # is cut from any command."""
    text = "use C# here # and there"
    modelfile = modelfile_of(
        ("system", text), ("message", f"user {text}"), ("before-prompt", text), ("template", text)
    )
    assert modelfile.override_system_prompt == modelfile.before_prompt == text
    assert modelfile.template == modelfile.messages[0]["content"] == text


@pytest.mark.parametrize("name", ["#", "# system", "#system"])
def test_an_entry_whose_name_begins_with_a_number_sign_is_a_comment(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It changes nothing, and nobody is told."""
    with caplog.at_level(logging.DEBUG):
        assert content(modelfile_of((name, "system Be rude."))) == EMPTY
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["from", "adapter", "license", "", pytest.param("x" * 1000, id="long")]
)
def test_an_unknown_command_is_logged_and_skipped(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands around it counts; the log line is short and holds nothing of the text."""
    with caplog.at_level(logging.DEBUG):
        modelfile = modelfile_of(("system", "a"), (name, "private words"), ("system", "b"))
    assert content(modelfile) == {**EMPTY, "override_system_prompt": "ab"}
    assert len(caplog.messages) == 1
    assert "skipped" in caplog.messages[0]
    assert "private" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 100


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "system",
        7,
        [],
        {},
        {"name": "system"},
        {"args": "text"},
        {"name": "system", "args": None},
        {"name": "system", "args": ["text"]},
        {"name": 7, "args": "text"},
        {"name": "parameter", "args": "llm_delay"},
        {"name": "parameter", "args": ""},
        {"name": "parameter", "args": "llm_delay   "},
        {"name": "message", "args": "narrator Once upon a time"},
        {"name": "message", "args": ""},
    ],
)
def test_a_malformed_entry_is_logged_and_skipped(
    entry: object, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad entry does not cost the others."""
    good = {"name": "system", "args": "kept"}
    with caplog.at_level(logging.DEBUG):
        modelfile = Modelfile.from_json(json.dumps([entry, good]))
    assert content(modelfile) == {**EMPTY, "override_system_prompt": "kept"}
    assert ["skipped" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    "text", ["{}", '"system"', "7", "true", "not JSON", "[", pytest.param("[" * 100_000, id="deep")]
)
def test_what_is_not_a_json_list_is_refused(text: str) -> None:
    """The caller hears of it with ValueError or RecursionError, and nothing else."""
    with pytest.raises((ValueError, RecursionError)):
        Modelfile.from_json(text)


def test_two_modelfiles_share_nothing() -> None:
    """What one chat adds is not there in the next one."""
    Modelfile.from_json(None).parameters["llm_delay"] = 1
    Modelfile.from_json(None).messages.append({"role": "user", "content": "x"})
    assert content(Modelfile.from_json(None)) == EMPTY
