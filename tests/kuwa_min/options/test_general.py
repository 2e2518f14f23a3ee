"""The general options: names, defaults and values as Kuwa's users know them."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from kuwa_min.kernel import wire
from kuwa_min.options import general

DEFAULTS = {
    "access_code": None,
    "version": "v1.0",
    "ignore_kernel": False,
    "https": False,
    "host": None,
    "port": None,
    "executor_path": "/chat",
    "kernel_url": "http://127.0.0.1:9000/",
    "log": "INFO",
    "concurrent_req_limit": 1,
}
OURS = {
    "bind": None,
    "embedded_kernel": None,
    "executor_hosts": [],
    "tls_cert": None,
    "tls_key": None,
    "allowed_hosts": [],
    "abort_from": "any",
    "api": "loopback",
    "api_token": [],
    "api_token_file": None,
    "cors_origin": [],
    "drain_timeout": 5.0,
    "waiting": None,  # as many as slots
    "waiting_timeout": 240.0,
    "wire": "auto",
    "log_content": False,
}


def parse(*argv: str) -> argparse.Namespace:
    """Return the options of this command line."""
    return general.create_parser("prog", "What it is.").parse_args(argv)


def test_without_options_everything_has_the_default_that_kuwa_gives_it() -> None:
    """Kuwa's ten options, and ours."""
    assert vars(parse()) == {**DEFAULTS, **OURS}


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--access_code", "a"], "access_code", ["a"]),
        (["--access_code", "a", "b", ".bot/c"], "access_code", ["a", "b", ".bot/c"]),
        (["--access_code=a"], "access_code", ["a"]),
        (["--version", "v2.0-beta_1"], "version", "v2.0-beta_1"),
        (["--ignore_kernel"], "ignore_kernel", True),
        (["--https"], "https", True),
        (["--host", "executor.example"], "host", "executor.example"),
        (["--host", "[::1]"], "host", "::1"),
        (["--bind", "0.0.0.0"], "bind", "0.0.0.0"),
        (["--port", "8080"], "port", 8080),
        (["--port=0"], "port", 0),
        (["--executor_path", "bot/"], "executor_path", "/bot"),
        (["--kernel_url", "http://k:9000"], "kernel_url", "http://k:9000"),
        (["--log", "debug"], "log", "DEBUG"),
        (["--log", "Warning"], "log", "WARNING"),
        (["--log", "NOTSET"], "log", "NOTSET"),
        (["--concurrent_req_limit", "8"], "concurrent_req_limit", 8),
        (["--waiting", "0"], "waiting", 0),
        (["--waiting", "12"], "waiting", 12),
        (["--waiting_timeout", "0.5"], "waiting_timeout", 0.5),
        (["--drain_timeout", "0"], "drain_timeout", 0.0),
        (["--drain_timeout", "2.5"], "drain_timeout", 2.5),
        (["--embedded_kernel"], "embedded_kernel", ("127.0.0.1", 9000)),
        (["--embedded_kernel", "[::1]:0"], "embedded_kernel", ("::1", 0)),
        (["--allowed_hosts", "a", "b"], "allowed_hosts", ["a", "b"]),
        (["--abort_from", "kernel"], "abort_from", "kernel"),
        (["--tls_cert", "c.pem"], "tls_cert", "c.pem"),
        (["--tls_key", "k.pem"], "tls_key", "k.pem"),
        (["--log_content"], "log_content", True),
    ],
)
def test_an_option_takes_its_value(argv: list[str], name: str, value: Any) -> None:
    """And changes nothing else."""
    assert vars(parse(*argv)) == {**DEFAULTS, **OURS, name: value}


@pytest.mark.parametrize("level", ["NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_every_level_works_in_any_case(level: str) -> None:
    """As in Kuwa."""
    assert parse("--log", level.lower()).log == parse("--log", level.title()).log == level


@pytest.mark.parametrize(
    "argv",
    [
        ["--access_code"],
        ["--version", ""],
        ["--version", "v1/0"],
        ["--version", "v1 0"],
        ["--host", "http://a/"],
        ["--port", "http"],
        ["--port", "65536"],
        ["--executor_path", "/health"],
        ["--kernel_url", "127.0.0.1:9000"],
        ["--log", "LOUD"],
        ["--concurrent_req_limit", "0"],
        ["--concurrent_req_limit", "-1"],
        ["--concurrent_req_limit", "1.5"],
        ["--concurrent_req_limit", "many"],
        ["--waiting", "-1"],
        ["--waiting", "1.5"],
        ["--waiting", "many"],
        ["--waiting_timeout", "-1"],
        ["--waiting_timeout", "soon"],
        ["--drain_timeout", "-1"],
        ["--drain_timeout", "nan"],
        ["--drain_timeout", "inf"],
        ["--drain_timeout", "soon"],
        ["--embedded_kernel", "9000"],
        ["--allowed_hosts"],
        ["--abort_from", "nobody"],
        ["--concurrent_req_limi", "2"],
        ["--ignore"],
    ],
)
def test_a_mistake_ends_with_code_2_and_one_line_about_it(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Abbreviations are mistakes, too."""
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prog: error: ")
    assert argv[0] in line


def test_the_wire_formats_are_those_that_the_wire_knows() -> None:
    """Options may not import the wire, so a test compares the two lists."""
    assert general.WIRE_FORMATS == (wire.AUTO, wire.RAW, wire.FRAMED)


def test_the_help_shows_every_option_with_its_default_once() -> None:
    """Operators see what happens without an option."""
    text = general.create_parser("prog", "What it is.").format_help()
    assert "What it is." in text
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", text)]
    shown = {entry.split()[0]: entry for entry in entries}
    for name, default in {**DEFAULTS, **OURS}.items():
        assert shown[f"--{name}"].count("(default: ") == 1, name
        assert f"(default: {default})" in shown[f"--{name}"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--access", "--access_code"),
        ("--kernel=x", "--kernel_url"),
        ("--acces_code", "--access_code"),
        ("--tls", "--tls_cert or --tls_key"),
    ],
)
def test_an_abbreviation_is_refused_with_what_may_be_meant(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kuwa's program takes abbreviations; they would change their meaning with every new option."""
    with pytest.raises(SystemExit) as ended:
        parse(word, "x")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"unrecognized arguments: {word} x (did you mean {hint}?)")


@pytest.mark.parametrize("word", ["x", "--nothing_like_it", "-z"])
def test_what_is_like_no_option_gets_no_hint(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the word itself is named."""
    with pytest.raises(SystemExit):
        parse(word)
    assert capsys.readouterr().err.endswith(f"unrecognized arguments: {word}\n")
