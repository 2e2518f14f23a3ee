"""Options as tables: what wins over what, and one helpful line for every mistake in a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.chat.modelfile import ParameterDict
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options import config_file, generation_options
from kuwa_min.options.generation_options import Option
from tests.support.saved_as import SAVED_AS

TABLE = (
    Option("delay", float, 0.02, "seconds to wait", least=0),
    Option("max_tokens", int, None, "longest answer", least=1),
    Option("seed", int, None, "seed of the dice"),
    Option("model", str, "small", "name of the model"),
    Option("do_sample", bool, False, "whether to throw dice"),
)
DEFAULTS = {
    "delay": 0.02,
    "max_tokens": None,
    "seed": None,
    "model": "small",
    "do_sample": False,
}
HAS_TOML = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


def settings(*argv: object) -> dict[str, Any]:
    """Return what the table's options are with this command line."""
    parser = argparse.ArgumentParser()
    generation_options.add_arguments(parser, TABLE)
    return generation_options.settings(TABLE, parser.parse_args([str(word) for word in argv]))


def write(path: Path, content: str | dict[str, Any]) -> Path:
    """Write text, or options as JSON, and return the path."""
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path) -> str:
    """Return the one line that reading this -c file ends in."""
    with pytest.raises(UsageError) as refused:
        settings("-c", path)
    sentence = str(refused.value)
    assert sentence.splitlines() == [sentence], "one line"
    assert str(path) in sentence, "it names the file"
    return sentence


@pytest.fixture(params=["with PyYAML", "without PyYAML"])
def yaml(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: YAML is read in every file, whether the library is in it or not."""
    if request.param == "with PyYAML":
        pytest.importorskip("yaml")
    else:
        monkeypatch.setitem(sys.modules, "yaml", None)
    return str(request.param)


# -- precedence


def test_the_order_is_default_file_command_line_modelfile(tmp_path: Path) -> None:
    """Each level wins over the ones before it, option by option."""
    path = write(tmp_path / "c.json", {"delay": 1, "max_tokens": 10, "seed": 5})
    assert settings() == DEFAULTS
    assert settings("-c", path) == {**DEFAULTS, "delay": 1, "max_tokens": 10, "seed": 5}
    base = settings("-c", path, "--delay", 2, "--seed", 6)
    assert base == {**DEFAULTS, "delay": 2, "max_tokens": 10, "seed": 6}
    chosen = generation_options.for_request(TABLE, base, {"delay": 3, "model": "large"})
    assert chosen == {**base, "delay": 3, "model": "large"}
    assert base["delay"] == 2, "a request changes nothing for the next one"


def test_the_place_of_the_file_on_the_command_line_does_not_matter(tmp_path: Path) -> None:
    """An option wins over the file, whichever comes first; both spellings of -c are one."""
    path = write(tmp_path / "c.json", {"delay": 1})
    assert settings("--delay", 2, "-c", path)["delay"] == 2
    assert settings(f"--generation_config={path}")["delay"] == 1


@pytest.mark.parametrize("argv", [["--delay", "0.9"], ["--delay=0.9"]])
def test_both_spellings_of_an_option_count(argv: list[str], tmp_path: Path) -> None:
    """--delay=0.9 is --delay 0.9: over the default and over the file."""
    path = write(tmp_path / "c.json", {"delay": 1})
    assert settings(*argv)["delay"] == 0.9
    assert settings("-c", path, *argv)["delay"] == 0.9


def test_an_option_given_its_default_value_still_wins_over_the_file(tmp_path: Path) -> None:
    """What counts is that it was given."""
    path = write(tmp_path / "c.json", {"delay": 1, "do_sample": True})
    chosen = settings("-c", path, "--delay", 0.02, "--do_sample", "false")
    assert chosen == DEFAULTS


def test_none_never_overrides(tmp_path: Path) -> None:
    """A null in a file or a none in a Modelfile leaves what was there."""
    path = write(tmp_path / "c.json", {"delay": None, "model": None})
    assert settings("-c", path) == DEFAULTS
    assert generation_options.for_request(TABLE, DEFAULTS, {"delay": None}) == DEFAULTS
    assert generation_options.merge_config({"a": 1, "b": 2}, {"a": None, "b": 3}) == {
        "a": 1,
        "b": 3,
    }


def test_zero_false_and_empty_text_override(tmp_path: Path) -> None:
    """They are values, unlike None."""
    path = write(tmp_path / "c.json", {"delay": 0, "model": "", "do_sample": False})
    assert settings("-c", path) == {**DEFAULTS, "delay": 0, "model": "", "do_sample": False}


def test_merging_leaves_its_arguments_alone() -> None:
    """The result is a dictionary of its own."""
    base, top = {"a": 1}, {"b": 2}
    assert generation_options.merge_config(base, top) == {"a": 1, "b": 2}
    assert (base, top) == ({"a": 1}, {"b": 2})


def test_options_of_others_on_the_command_line_are_not_generation_options() -> None:
    """Only the table's names are settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port")
    generation_options.add_arguments(parser, TABLE)
    assert generation_options.settings(TABLE, parser.parse_args(["--port", "1"])) == DEFAULTS


def test_the_help_shows_type_and_default_of_every_option() -> None:
    """What an option takes and what holds without it."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    generation_options.add_arguments(parser, TABLE)
    words = " ".join(parser.format_help().split())
    for option in TABLE:
        assert f"--{option.name} {option.kind.__name__.upper()}" in words
        assert words.count(f"{option.help} (default: {option.default})") == 1
    assert "-c" in words


# -- values


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("delay", 1, 1.0),
        ("delay", "0.5", 0.5),
        ("delay", "1e-3", 0.001),
        ("delay", 0, 0.0),
        ("max_tokens", 3, 3),
        ("max_tokens", 3.0, 3),
        ("max_tokens", "3", 3),
        ("seed", -1, -1),
        ("seed", "-1", -1),
        ("seed", 2**53 + 1, 2**53 + 1),
        ("seed", str(2**63 - 1), 2**63 - 1),
        ("model", "large", "large"),
        ("model", 7, "7"),
        ("model", 4.5, "4.5"),
        ("do_sample", True, True),
        ("do_sample", "false", False),
        ("do_sample", "TRUE", True),
        ("do_sample", 1, True),
        ("do_sample", "no", False),
        ("max_tokens", "3.0", 3),
    ],
)
def test_a_value_is_taken_in_its_options_type(name: str, value: Any, converted: Any) -> None:
    """From argv, from a file or from a Modelfile, exactly."""
    option = next(option for option in TABLE if option.name == name)
    result = option.convert(value)
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("delay", "soon", "delay must be a number"),
        ("delay", "", "delay must be a number"),
        ("delay", True, "delay must be a number"),
        ("delay", [1], "delay must be a number"),
        ("delay", {}, "delay must be a number"),
        ("delay", -0.1, "delay must be at least 0"),
        ("delay", "nan", "delay must be a finite number"),
        ("delay", float("inf"), "delay must be a finite number"),
        ("delay", 10**400, "delay must be a number"),
        ("max_tokens", 0, "max_tokens must be at least 1"),
        ("max_tokens", 1.5, "max_tokens must be a whole number"),
        ("max_tokens", "1.5", "max_tokens must be a whole number"),
        ("max_tokens", True, "max_tokens must be a whole number"),
        ("max_tokens", "many", "max_tokens must be a whole number"),
        ("max_tokens", float("nan"), "max_tokens must be a whole number"),
        ("max_tokens", float("inf"), "max_tokens must be a whole number"),
        ("max_tokens", [], "max_tokens must be a whole number"),
        ("model", True, "model must be text"),
        ("model", ["a", "b"], "model must be text"),
        ("model", {"a": 1}, "model must be text"),
        ("do_sample", 2, "do_sample must be true or false"),
        ("do_sample", "maybe", "do_sample must be true or false"),
        ("do_sample", [], "do_sample must be true or false"),
    ],
)
def test_an_impossible_value_says_what_is_wanted(name: str, value: Any, reason: str) -> None:
    """The option's name and what it takes, in every place where a value can come from."""
    option = next(option for option in TABLE if option.name == name)
    with pytest.raises(ValueError) as refused:
        option.convert(value)
    assert str(refused.value) == reason
    with pytest.raises(AnswerError) as answer:
        generation_options.for_request(TABLE, DEFAULTS, {name: value})
    assert str(answer.value) == f"[The option llm_{reason}.]"


@pytest.mark.parametrize("argv", [["--delay", "soon"], ["--delay=-1"], ["--max_tokens", "1.5"]])
def test_an_impossible_value_on_the_command_line_ends_with_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Argparse says which option, what is wanted and what was found."""
    with pytest.raises(SystemExit) as ended:
        settings(*argv)
    assert ended.value.code == 2
    name, _, value = argv[0].partition("=")
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {name}: {name[2:]} must be " in last
    assert repr(value or argv[1]) in last


def test_unknown_options_of_a_modelfile_are_left_alone() -> None:
    """A bot may be written for another backend."""
    asked = {"delay": 1, "retriever": "x", "mirostat": [1]}
    assert generation_options.for_request(TABLE, DEFAULTS, asked) == {**DEFAULTS, "delay": 1}


# -- files


@pytest.mark.parametrize(
    "name",
    ["c.json", "c.JSON", pytest.param("c.toml", marks=HAS_TOML), "c.yaml", "c.yml"],
)
def test_every_kind_of_file_is_read(name: str, tmp_path: Path, yaml: str) -> None:
    """The ending of the name says what it is; text is UTF-8."""
    options = {"delay": 1.5, "max_tokens": 3, "model": "模型", "do_sample": True}
    toml = 'delay = 1.5\nmax_tokens = 3\nmodel = "模型"\ndo_sample = true\n'
    path = write(tmp_path / name, toml if name.endswith("toml") else options)
    assert config_file.read_config(str(path)) == options
    assert settings("-c", path) == {**DEFAULTS, **options}


@pytest.mark.parametrize("name", [pytest.param("c.toml", marks=HAS_TOML), "c.yaml", "c.yml"])
def test_an_empty_file_asks_for_nothing(name: str, tmp_path: Path, yaml: str) -> None:
    """In TOML and YAML, emptiness is well formed."""
    assert settings("-c", write(tmp_path / name, "")) == DEFAULTS


@pytest.mark.parametrize("content", ["{}", "null", " {\n} "])
def test_an_empty_json_object_asks_for_nothing(content: str, tmp_path: Path) -> None:
    """And so does null."""
    assert settings("-c", write(tmp_path / "c.json", content)) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", ""),
        ("c.json", '{"delay": 1'),
        ("c.json", "delay: 1"),
        ("c.json", "{'delay': 1}"),
        pytest.param("c.json", '{"delay":' * 100_000, id="deep.json"),
        pytest.param("c.toml", "delay 1", marks=HAS_TOML),
        pytest.param("c.toml", "delay = 1\ndelay = 2", marks=HAS_TOML),
        ("c.yaml", "a: b: c"),
        ("c.yml", "["),
    ],
)
def test_a_malformed_file_is_one_line(name: str, content: str, tmp_path: Path, yaml: str) -> None:
    """It names the file and what the reader tripped over."""
    assert "is malformed" in complaint(write(tmp_path / name, content))


@pytest.mark.parametrize(
    "name", ["c.json", pytest.param("c.toml", marks=HAS_TOML), "c.yaml", "c.yml"]
)
def test_a_file_saved_on_windows_is_read(name: str, tmp_path: Path, yaml: str) -> None:
    """Whatever its encoding and the ends of its lines."""
    path = tmp_path / name
    text = {
        ".json": '{\n"model": "模型",\n"delay": 1.5\n}\n',
        ".toml": 'model = "模型"\ndelay = 1.5\n',
    }
    assert SAVED_AS
    for saved_as, save in SAVED_AS.items():
        path.write_bytes(save(text.get(path.suffix, "model: 模型\ndelay: 1.5\n")))
        assert config_file.read_config(str(path)) == {"model": "模型", "delay": 1.5}, saved_as


def test_a_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    """Its encoding is named, not guessed."""
    path = tmp_path / "c.yaml"
    path.write_bytes("model: 模型\n".encode("cp950"))
    assert ": is not UTF-8 text: line 1 seems to be in Big5" in complaint(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.json", "No such file or directory"), ("folder.json", "Is a directory")],
)
def test_an_unreadable_file_is_one_line(name: str, reason: str, tmp_path: Path) -> None:
    """It says why."""
    (tmp_path / "folder.json").mkdir()
    assert complaint(tmp_path / name).endswith(f"cannot be read: {reason}")


@pytest.mark.parametrize("name", ["c.txt", "c", "c.json.bak", "json"])
def test_an_unknown_kind_of_file_is_one_line(name: str, tmp_path: Path) -> None:
    """It lists the endings that work, whether or not the file is there."""
    assert complaint(tmp_path / name).endswith("the name must end in .json, .yaml, .yml, .toml")


@pytest.mark.parametrize(
    ("content", "kind"), [("[]", "list"), ("7", "int"), ('"delay"', "str"), ("true", "bool")]
)
def test_a_file_of_something_else_than_options_is_one_line(
    content: str, kind: str, tmp_path: Path
) -> None:
    """It says what was found instead of names and values."""
    found = complaint(write(tmp_path / "c.json", content))
    assert found.endswith(f"must hold names and values, not {kind}")


@pytest.mark.parametrize("name", ["temprature", "Delay", "", "--delay", "llm_delay", "a\nb"])
def test_an_unknown_key_is_one_line(name: str, tmp_path: Path) -> None:
    """It names the key and the ones there are."""
    found = complaint(write(tmp_path / "c.json", {"delay": 1, name: 1}))
    assert repr(name) in found
    assert found.endswith("known are delay, max_tokens, seed, model, do_sample")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": "soon"}, "delay must be a number, not 'soon'"),
        ({"delay": [1, 2]}, "delay must be a number, not [1, 2]"),
        ({"delay": -1}, "delay must be at least 0, not -1"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number, not 1.5"),
        ({"model": {"name": "x"}}, "model must be text, not {'name': 'x'}"),
        ({"do_sample": "yes\nno"}, r"do_sample must be true or false, not 'yes\nno'"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """It names the file, the key, what is wanted and what was found."""
    assert complaint(write(tmp_path / "c.json", options)).endswith(f": {words}")


def test_yaml_that_is_not_simple_needs_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the place, the library and the way out."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    found = complaint(write(tmp_path / "c.yaml", "delay: 1\nseed: &five 5\n"))
    assert "line 2" in found
    assert "PyYAML" in found
    assert ".json" in found


def test_on_python_310_a_toml_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which Python reads TOML, and the way out."""
    monkeypatch.setitem(sys.modules, "tomllib", None)
    found = complaint(write(tmp_path / "c.toml", "delay = 1"))
    assert "Python 3.11" in found
    assert ".json" in found


# -- the switch of Kuwa's multimodal bots


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(True, True), ("true", True), ("False", False), (1, True), ("no", False), (None, None)],
)
def test_a_bot_may_say_whether_it_is_about_pictures(value: object, wanted: bool | None) -> None:
    """As Modelfiles write it; nothing is nothing."""
    assert generation_options.wants_multimodal({"enable_multimodal": value}) is wanted
    assert generation_options.wants_multimodal({}) is None


@pytest.mark.parametrize("value", ["maybe", 2, ""])
def test_a_switch_is_true_or_false(value: object) -> None:
    """Anything else is a sentence."""
    with pytest.raises(AnswerError, match="llm_enable_multimodal must be true or false"):
        generation_options.wants_multimodal({"enable_multimodal": value})


def test_the_switch_is_no_unknown_option(caplog: pytest.LogCaptureFixture) -> None:
    """Of any backend: bots with it are used with text models, too."""
    caplog.set_level("INFO")
    assert generation_options.for_request(TABLE, DEFAULTS, {"enable_multimodal": True}) == DEFAULTS
    assert caplog.text == ""


# -- lists of texts


STOPS = (
    *TABLE,
    Option("stop", list, None, "end before these", aliases=("stop_strings",)),
)


def stops(*argv: object) -> dict[str, Any]:
    """Return the options of the table with stop words."""
    parser = argparse.ArgumentParser()
    generation_options.add_arguments(parser, STOPS)
    return generation_options.settings(STOPS, parser.parse_args([str(word) for word in argv]))


def test_lists_of_texts_add_up(tmp_path: Path) -> None:
    """No stop words are lost: the file's, the command line's, the Modelfile's."""
    path = write(tmp_path / "c.json", {"stop": "a"})
    assert stops()["stop"] is None
    assert stops("--stop")["stop"] == []
    assert stops("-c", path)["stop"] == ["a"]
    base = stops("-c", path, "--stop", "b", "c", "--stop", "d")
    assert base["stop"] == ["a", "b", "c", "d"]
    assert generation_options.for_request(STOPS, base, {"stop": "e"})["stop"] == [*"abcde"]
    assert base["stop"] == [*"abcd"]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a b", ["a b"]),
        (["a", "b"], ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("[INST]", ["[INST]"]),
        ("[1", ["[1"]),
        (7, ["7"]),
        ("", []),
        (["", "a"], ["a"]),
        (["a", '["b", "c"]', "[INST]", "{x}"], ["a", "b", "c", "[INST]", "{x}"]),  # of a Modelfile
    ],
)
def test_a_text_or_a_list_is_a_list(value: Any, texts: list[str]) -> None:
    """As files and Modelfiles write them; empty ones would end every answer at once."""
    assert generation_options.for_request(STOPS, {}, {"stop": value}) == {"stop": texts}
    assert generation_options.for_request(STOPS, {}, {"stop_strings": value}) == {"stop": texts}


@pytest.mark.parametrize("value", [True, {"a": 1}, [["a"]], ["a"] * 65, "a" * 1001])
def test_a_list_that_is_none_says_what_is_wanted(value: Any) -> None:
    """Too many and too long ones would be looked for in every piece."""
    with pytest.raises(AnswerError, match="llm_stop must be a text or a list of texts, 64 at most"):
        generation_options.for_request(STOPS, {}, {"stop": value})


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({"stop": "a", "hue": 1, "_lang": "en"}, {"stop": "a"}),
        ({"stop": "a", "llm_stop": "b"}, {"stop": "b"}),
        ({"stop_strings": "a", "llm_other": 1}, {"stop_strings": "a", "other": 1}),
        ({}, {}),
    ],
)
def test_ollamas_names_count_where_the_table_has_them(
    parameters: dict[str, Any], asked: dict[str, Any]
) -> None:
    """Behind those with llm_; other parameters are other programs'."""
    assert generation_options.asked_by(ParameterDict(parameters), STOPS) == asked


def test_what_the_table_lacks_of_ollamas_names_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A Modelfile from there says num_ctx; without a line in the log it would seem to count."""
    generation_options.warn_once.cache_clear()
    asked = ParameterDict({"num_ctx": 5, "llm_seed": 1, "stop": "a", "hue": 1})
    for _ in range(2):
        assert generation_options.asked_by(asked, STOPS) == {"stop": "a", "seed": 1}
    assert caplog.messages == ["num_ctx of a Modelfile has no effect in this backend"]


# -- lists of numbers

IDS = (*TABLE, Option("ids", list[int], None, "end at these", least=0))


@pytest.mark.parametrize(
    ("value", "numbers"),
    [(7, [7]), ("7", [7]), ("[7, 8]", [7, 8]), ([7, "8", 9.0], [7, 8, 9]), (["7", "[8]"], [7, 8])],
)
def test_a_number_or_a_list_is_a_list(value: Any, numbers: list[int]) -> None:
    """As files and Modelfiles write them; they add up as texts do."""
    assert generation_options.for_request(IDS, {"ids": [1]}, {"ids": value}) == {
        "ids": [1, *numbers]
    }


def test_numbers_come_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As many as one likes."""
    parser = argparse.ArgumentParser()
    generation_options.add_arguments(parser, IDS)
    given = parser.parse_args(["--ids", "1", "2", "--ids", "3"])
    assert generation_options.settings(IDS, given)["ids"] == [1, 2, 3]
    with pytest.raises(UsageError, match="the command line: ids must be a whole number or a list"):
        generation_options.settings(IDS, parser.parse_args(["--ids", "1", "x"]))
    parser.print_help()
    assert "--ids [INT ...]" in capsys.readouterr().out


@pytest.mark.parametrize("value", [True, "x", [[1]], [1.5], [0] * 257, {"a": 1}])
def test_a_list_of_numbers_that_is_none_says_what_is_wanted(value: Any) -> None:
    """In one sentence."""
    with pytest.raises(AnswerError, match="llm_ids must be a whole number or a list of them, 256"):
        generation_options.for_request(IDS, {}, {"ids": value})
    with pytest.raises(AnswerError, match="llm_ids must be at least 0"):
        generation_options.for_request(IDS, {}, {"ids": [3, -1]})


# -- what the library knows


def library() -> generation_options.Library:
    """Return a library that knows more than the table, and passes some of that on."""

    def convert(name: str, value: Any) -> Any:
        if value == "bad":
            raise ValueError(f"{name} must be good")
        return value

    known = {"user", "bias", "beams"}
    return generation_options.Library("lib.create", known, {"user", "bias"}, {"bias"}, convert)


def with_library(path: Path) -> dict[str, Any]:
    """Return the options of a -c file with that library."""
    parser = argparse.ArgumentParser()
    generation_options.add_arguments(parser, TABLE)
    return generation_options.settings(TABLE, parser.parse_args(["-c", str(path)]), library)


def test_an_operators_option_of_the_library_is_passed_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning says which ones do nothing."""
    options = {"user": "me", "bias": None, "beams": 4, "seed": 1}
    path = write(tmp_path / "c.json", options)
    assert with_library(path) == {**DEFAULTS, "seed": 1, "user": "me"}
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: parameters of lib.create without effect here: beams"


def test_what_the_library_does_not_know_either_ends_the_start(tmp_path: Path) -> None:
    """The line says what may be meant."""
    with pytest.raises(UsageError) as refused:
        with_library(write(tmp_path / "c.json", {"beam": 4}))
    found = str(refused.value)
    assert "unknown option 'beam'; did you mean beams?" in found
    assert "did you mean delay?" in complaint(write(tmp_path / "d.json", {"d": 1}))
    assert found.endswith("do_sample, and the parameters of lib.create")
    with pytest.raises(UsageError, match="user must be good, not 'bad'"):
        with_library(write(tmp_path / "c.json", {"user": "bad"}))


def test_a_bots_option_of_the_library_is_passed_or_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A text may write down a list or an object; each name is in the log once, not per chat."""
    generation_options.warn_once.cache_clear()
    asked = {"bias": '{"5": 1}', "user": "me", "colour": "red", "num_ctx": "1"}
    for _ in range(2):
        chosen = generation_options.for_request(TABLE, DEFAULTS, asked, library)
        assert chosen == {**DEFAULTS, "bias": {"5": 1}}
    assert [record.getMessage() for record in caplog.records] == [
        "llm_user of a Modelfile has no effect in this backend",
        "llm_* (6 characters) of a Modelfile has no effect in this backend",
        "llm_num_ctx of a Modelfile has no effect in this backend",
    ]
    with pytest.raises(AnswerError, match="llm_bias must be good"):
        generation_options.for_request(TABLE, DEFAULTS, {"bias": "bad"}, library)


def test_the_library_is_asked_only_if_there_is_need(tmp_path: Path) -> None:
    """Importing it takes seconds."""

    def never() -> generation_options.Library:
        raise AssertionError

    assert generation_options.for_request(TABLE, DEFAULTS, {"seed": 1}, never)["seed"] == 1
