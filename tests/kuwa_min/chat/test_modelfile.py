"""The Modelfile: every command, every kind of value, and nothing that a bot's author can break."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from kuwa_min.chat.modelfile import (
    Modelfile,
    ParameterDict,
    Script,
    ScriptSyntaxError,
    _Builder,
)

EMPTY = {
    "override_system_prompt": "",
    "messages": [],
    "template": "",
    "before_prompt": "",
    "after_prompt": "",
    "process_bot": None,
    "input_bot": None,
    "input_prefix": "",
    "input_suffix": "",
    "output_bot": None,
    "output_prefix": "",
    "output_suffix": "",
    "script": "IPO",
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


def test_a_prefix_is_a_dictionary_of_its_own() -> None:
    """parameters["llm_"] holds what begins with llm_, without it; exact names come first."""
    parameters = ParameterDict({"llm_delay": 1, "llm_model": "m", "_llm_x": 2, "llm": 3})
    assert parameters["llm_"] == {"delay": 1, "model": "m"}
    assert parameters["llm"] == 3
    assert parameters["retriever_"] == {}
    assert "llm_" not in parameters, "looking does not add"


@pytest.mark.parametrize(
    "text", [None, "", " ", "null", "[]", "{}", '""', "false", "0", "[null]", '[{"name": ""}]']
)
def test_no_modelfile_is_an_empty_one(text: str | None) -> None:
    """Absent, empty, null, and all that PHP writes for nothing are the same."""
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


def test_a_byte_order_mark_hides_no_command() -> None:
    """As in a Modelfile that was saved on Windows."""
    assert modelfile_of(("\ufeffSYSTEM", "Be brief.")).override_system_prompt == "Be brief."


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
        ("url http://h/#part", {"url": "http://h/#part"}),
        ("llm_temperature 0.2 # low", {"llm_temperature": 0.2}),
        ("llm_temperature 0.2 #low # very", {"llm_temperature": 0.2}),
        ("llm_top_p\t0.9\t# tabs", {"llm_top_p": 0.9}),
        ("  llm_seed \t 7  \n", {"llm_seed": 7}),
        ("llm_enable_multimodal true # pictures", {"llm_enable_multimodal": True}),
        ("llm_enable_multimodal False", {"llm_enable_multimodal": False}),
        ('llm_stop "# end" # a title', {"llm_stop": "# end"}),
        ("llm_stop '#'", {"llm_stop": "#"}),
        ('language "zh"#or "en"', {"language": "zh"}),
        ('text "say "a # b" now"', {"text": 'say "a # b" now'}),
        ('text ""', {"text": ""}),
        ('text "" # none', {"text": ""}),
        ('text """two\nlines"""', {"text": "two\nlines"}),
        ('json {\n"a": 1\n}', {"json": '{\n"a": 1\n}'}),
        ("'llm_seed' 7", {"llm_seed": 7}),
    ],
)
def test_parameters_get_typed_values(name: str, args: str, parameters: dict[str, Any]) -> None:
    """A parameter is a key, white space and a value, perhaps with a comment behind it."""
    assert modelfile_of((name, args)).parameters == parameters


def test_a_later_parameter_replaces_an_earlier_one() -> None:
    """The last value wins, whatever the command is called."""
    modelfile = modelfile_of(("parameter", "llm_delay 1"), ("kuwaparam", "llm_delay 2"))
    assert modelfile.parameters["llm_"] == {"delay": 2}


@pytest.mark.parametrize("key", ["stop", "llm_stop"])
def test_stop_words_add_up(key: str) -> None:
    """As in Ollama's Modelfiles, which have a line for each; `#` may be a part of one."""
    words = ('"### Human:"', "[INST]", '"</s>" # the end')
    modelfile = modelfile_of(*(("parameter", f"{key} {word}") for word in words))
    assert modelfile.parameters[key] == ["### Human:", "[INST]", "</s>"]
    assert modelfile_of(("parameter", f"{key} ###")).parameters[key] == "###"


@pytest.mark.parametrize(("words", "stop"), [("none a b", ["a", "b"]), ("a b none", None)])
def test_none_takes_back_the_stop_words_before(words: str, stop: list[str] | None) -> None:
    """It is no stop word, and makes none of the others invalid."""
    modelfile = modelfile_of(*(("parameter", f"llm_stop {word}") for word in words.split()))
    assert modelfile.parameters == {"llm_stop": stop}


@pytest.mark.parametrize("word", ["2.", "007", "1_000", "nan", "true", "False"])
def test_a_stop_word_is_text(word: str) -> None:
    """As it was written, whatever number it may look like: "2." ends a list after one entry."""
    assert modelfile_of(("parameter", f'stop "{word}"')).parameters == {"stop": word}
    assert modelfile_of(("parameter", f"llm_stop {word} # x")).parameters == {"llm_stop": word}
    assert modelfile_of(("parameter", f"x {word}")).parameters["x"] != word


def test_stop_tokens_add_up_as_stop_words_do() -> None:
    """A line for each, or a list."""
    modelfile = modelfile_of(
        ("parameter", "llm_stop_token_ids 8"), ("parameter", "llm_stop_token_ids [9, 10]")
    )
    assert modelfile.parameters == {"llm_stop_token_ids": [8, "[9, 10]"]}


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
    """It changes nothing and is not logged."""
    with caplog.at_level(logging.DEBUG):
        assert content(modelfile_of((name, "system Be rude."))) == EMPTY
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["adapter", "license", "next", "systematic", pytest.param("x" * 1000, id="long")]
)
def test_an_unknown_command_is_skipped_and_named_to_who_debugs(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The front end sends many; the log line is short and holds nothing of the text."""
    with caplog.at_level(logging.DEBUG):
        modelfile = modelfile_of(("system", "a"), (name, "private words"), ("system", "b"))
    assert content(modelfile) == {**EMPTY, "override_system_prompt": "ab"}
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
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
        {"name": "parameter", "args": "llm_delay # seconds"},
        {"name": "parameter", "args": "llm_delay #"},
        {"name": "system", "args": {}},
        {"name": "script", "args": "000I["},
        {"name": "script", "args": "IPO"},
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


def test_an_operator_reads_how_many_entries_were_skipped_and_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each reason once, in one line."""
    entries = [
        None,
        "system",
        {"name": "system"},
        {"name": "message", "args": "Xuser hi"},
        {"name": "parameter", "args": "llm_delay"},
        {"name": "script", "args": "000?"},
        *({"name": name, "args": ""} for name in ("adapter", "license", "license", "a" * 41)),
        *({"name": name, "args": ""} for name in ("next", "quantize", "draft")),
    ]
    with caplog.at_level(logging.DEBUG):
        assert content(Modelfile.from_json(json.dumps(entries))) == EMPTY
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        (
            "DEBUG",
            "skipped 7 unknown Modelfile commands: (75 characters)",
        ),
        (
            "INFO",
            "skipped 6 Modelfile entries: not an object, without name or args, message of an "
            "unknown role, parameter without a value, script with a mistake",
        ),
    ]


@pytest.mark.parametrize("word", ["user", '"user"', "'USER'"])
def test_a_role_may_stand_in_quotes(word: str) -> None:
    """And in capitals."""
    modelfile = modelfile_of(("message", f"{word} hi"))
    assert modelfile.messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("quotes", ["''", '""'])
def test_an_empty_value_in_quotes_is_an_empty_text(quotes: str) -> None:
    """A key may stand in quotes, too."""
    modelfile = modelfile_of(("parameter", f'"llm_X" {quotes}'), ("parameter", f"X {quotes}"))
    assert modelfile.parameters == {"llm_X": "", "X": ""}


def test_a_modelfile_can_be_made_of_its_parts() -> None:
    """As executors written for Kuwa do."""
    messages = [{"role": "user", "content": "hi"}]
    parameters = ParameterDict({"llm_delay": 1})
    made = Modelfile("kind", messages, "t", "b", "a", parameters, input_bot="i", script="P")
    assert content(made) == {
        **EMPTY,
        "override_system_prompt": "kind",
        "messages": messages,
        "template": "t",
        "before_prompt": "b",
        "after_prompt": "a",
        "input_bot": "i",
        "script": "P",
        "parameters": {"llm_delay": 1},
    }


@pytest.mark.parametrize("text", ['"system"', "7", "true"])
def test_json_that_is_no_list_is_named(text: str) -> None:
    """In the words of the log."""
    with pytest.raises(ValueError, match=r"^the modelfile is not a JSON list$"):
        Modelfile.from_json(text)


@pytest.mark.parametrize(
    "text", ['"system"', "7", "true", "not JSON", "[", pytest.param("[" * 100_000, id="deep")]
)
def test_what_is_not_a_json_list_is_refused(text: str) -> None:
    """The caller hears of it with ValueError or RecursionError, and nothing else."""
    with pytest.raises((ValueError, RecursionError)):
        Modelfile.from_json(text)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ('{"name": "system", "args": "Be kind."}', "Be kind."),
        ('{"0": {"name": "system", "args": "a"}, "2": {"name": "system", "args": "b"}}', "ab"),
        ('[{"name": "system", "args": 5}, {"name": "system", "args": true}]', "5true"),
        ('[{"name": " SYSTEM ", "args": "Be kind.", "id": 7}]', "Be kind."),
        (r'[{"name": "system", "args": "a\ud800b \ud83d\ude00"}]', "a\ufffdb \U0001f600"),
    ],
)
def test_what_can_be_understood_is_taken(text: str, prompt: str) -> None:
    """A single command, a list that PHP wrote as an object, numbers, lone surrogates."""
    assert content(Modelfile.from_json(text)) == {**EMPTY, "override_system_prompt": prompt}


@pytest.mark.parametrize(
    ("commands", "asked"),
    [
        ([("from", " .bot/My Bot\n")], {"process_bot": ".bot/My Bot"}),
        ([("from", "a"), ("process-bot", "'b'")], {"process_bot": "b"}),
        ([("input-bot", "a"), ("output-bot", '"b"')], {"input_bot": "a", "output_bot": "b"}),
        ([("input-prefix", " a "), ("input-prefix", "b")], {"input_prefix": " a b"}),
        (
            [("input-suffix", "a"), ("output-suffix", "# b")],
            {"input_suffix": "a", "output_suffix": "# b"},
        ),
        ([("output-prefix", '" a "')], {"output_prefix": " a "}),
        ([("script", '"000I[PO];"')], {"script": "I[PO];"}),
        ([("script", "000")], {"script": ""}),
        ([("script", "000I"), ("script", "001P")], {"script": "IPO"}),
    ],
)
def test_an_agents_commands_are_kept(
    commands: list[tuple[str, str]], asked: dict[str, str]
) -> None:
    """Bots and scripts are replaced, prefixes and suffixes append."""
    assert content(modelfile_of(*commands)) == {**EMPTY, **asked}


@pytest.mark.parametrize(
    ("script", "symbols"),
    [
        ("000IPO", "IPO"),
        (" 000 ", ""),
        ("000;;;", ";;;"),
        ("000I[PO]", "I[PO]"),
        ("000]I[", "]I["),
        ("000IX", None),
        ("000[I", None),
        ("123IPO", None),
        ("IPO", None),
        ("", None),
    ],
)
def test_a_script_is_a_version_and_symbols(script: str, symbols: str | None) -> None:
    """Only as many [ as ] are asked for, in any order."""
    assert Script.get_content(script) == symbols
    assert Script.validate_syntax(script) is (symbols is not None)


def test_the_names_of_a_script_are_kuwas() -> None:
    """Agents build their own reader on them."""
    assert {
        Script.INPUT_BOT_SYMBOL,
        Script.PROCESS_BOT_SYMBOL,
        Script.OUTPUT_BOT_SYMBOL,
        Script.IDENTITY_BOT_SYMBOL,
        Script.CONDITIONAL_FORWARD_JUMP_SYMBOL,
        Script.CONDITIONAL_BACKWARD_JUMP_SYMBOL,
    } == Script.VALID_SYMBOLS
    assert Script.DEFAULT == "000IPO"
    assert ScriptSyntaxError("why").message == str(ScriptSyntaxError("why")) == "why"
    assert not issubclass(ScriptSyntaxError, Exception)


def test_a_long_modelfile_is_read_in_linear_time() -> None:
    """Texts are joined once: of 1 MB in small pieces, copying all at each takes 5 GB."""
    modelfile = modelfile_of(*[("system", "x" * 100)] * 10_000)
    assert len(modelfile.override_system_prompt) == 1_000_000


def test_a_repeated_stop_word_is_added_to_one_list() -> None:
    """Not to a copy each time, which takes quadratic time."""
    builder = _Builder(Modelfile())
    for word in "ab":
        builder.apply({"name": "parameter", "args": f"stop {word}"})
    words = builder.finish().parameters["stop"]
    builder.apply({"name": "parameter", "args": "stop c"})
    assert builder.finish().parameters["stop"] is words
    assert words == ["a", "b", "c"]


def test_two_modelfiles_share_nothing() -> None:
    """What one chat adds is not there in the next one."""
    Modelfile.from_json(None).parameters["llm_delay"] = 1
    Modelfile.from_json(None).messages.append({"role": "user", "content": "x"})
    assert content(Modelfile.from_json(None)) == EMPTY
