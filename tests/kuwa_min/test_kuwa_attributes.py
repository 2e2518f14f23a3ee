"""The attributes of Kuwa's executor classes: what they show; nothing of ours needs them."""

from __future__ import annotations

import argparse
import sys

import pytest

from kuwa_min import LLMExecutor, registry
from kuwa_min.kuwa_attributes import Headers

OPTIONS = "--host 10.0.0.1 --port 8001 --executor_path /x --access_code a b --log debug --https"
SHOWN = {
    "host": "10.0.0.1",
    "port": 8001,
    "executor_path": "/x",
    "access_codes": ["a", "b"],
    "log_level": "DEBUG",
    "https": True,
    "ignore_kernel": False,
    "executor_iface_version": "v1.0",
    "kernel_url": "http://127.0.0.1:9000/",
    "concurrent_req_limit": 1,
}


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the process with these options."""
    monkeypatch.setattr(sys, "argv", ["my.py", *OPTIONS.split()])


@pytest.mark.parametrize("name", SHOWN)
def test_an_option_has_kuwas_name(name: str) -> None:
    """Its value is shown as soon as the options can be read."""
    assert getattr(LLMExecutor(), name) == SHOWN[name]


def test_the_registered_address_is_the_first_slots() -> None:
    """With the scheme that a proxy in front speaks."""
    assert LLMExecutor().get_reg_endpoint() == "https://10.0.0.1:8001/x"


@pytest.mark.parametrize("name", [*SHOWN, "parser", "app", "metrics"])
def test_a_subclass_may_use_these_names_for_something_else(name: str) -> None:
    """Its value stays, and the options are untouched."""

    class Own(LLMExecutor):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, "mine")

    own = Own()
    assert getattr(own, name) == "mine"
    assert (own.args.host, own.args.port, own.args.log) == ("10.0.0.1", 8001, "DEBUG")


@pytest.mark.parametrize(("name", "word"), [("app", "FastAPI"), ("metrics", "count_tokens")])
def test_what_is_not_provided_says_so(name: str, word: str) -> None:
    """In one sentence, and hasattr tells that it is not there."""
    assert not hasattr(LLMExecutor(), name)
    with pytest.raises(AttributeError, match=word):
        getattr(LLMExecutor(), name)


def test_the_parser_is_there_after_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of extend_arguments; what is added later is parsed as well."""
    monkeypatch.setattr(sys, "argv", ["my.py", "--early", "1", "--late", "2"])

    class Own(LLMExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.seen = self.early
            self.parser.add_argument("--late", type=int)

        def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--early", type=int)
            self.early = "set by extend_arguments"

    own = Own()
    assert own.seen == "set by extend_arguments"
    assert (own.args.early, own.args.late) == (1, 2)


def test_a_file_may_parse_the_options_itself() -> None:
    """It sees what it parsed; ours stay as they are."""

    class Own(LLMExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.args = argparse.Namespace(mine=1)

    own = Own()
    assert own.args == argparse.Namespace(mine=1)
    assert own.LLM_name == ["a", "b"]


def test_a_classs_attributes_are_defaults_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins."""

    class Own(LLMExecutor):
        kernel_url = "http://kernel:9000/"
        executor_path = "/own"
        log_level = "warning"
        LLM_name = "own"

    monkeypatch.setattr(sys, "argv", ["my.py", "--executor_path", "/given"])
    args = Own().args
    assert (args.kernel_url, args.executor_path) == ("http://kernel:9000/", "/given")
    assert (args.log, args.access_code) == ("WARNING", ["own"])


def test_a_file_may_have_an_option_that_only_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own counts where it looks, and ours is as if it was not given."""

    class Own(LLMExecutor):
        def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
            group = parser.add_argument_group("mine")
            group.add_argument("--bind", type=int, default=3)

    monkeypatch.setattr(sys, "argv", ["my.py", "--bind", "7", "--port", "1"])
    own = Own()
    assert (own.args.bind, own.args.port) == (7, 1)
    assert own._LLMExecutor__options().bind is None  # type: ignore[attr-defined]
    assert own.parser.format_help().count("--bind") == 2  # usage and list


def test_an_option_of_kuwas_is_not_taken_over() -> None:
    """Kuwa's own parser refuses it as well."""

    class Own(LLMExecutor):
        def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--port")

    with pytest.raises(argparse.ArgumentError, match="conflicting option string: --port"):
        Own()


def test_no_backend_of_ours_takes_an_option_over() -> None:
    """A mistake there would go unnoticed otherwise."""
    for name in registry.names():
        assert registry.load(name)()._LLMExecutor__replaced == {}  # type: ignore[attr-defined]


def test_the_first_modelfile_parser_is_there() -> None:
    """Messages are in the form of the history that such files parse themselves."""
    parsed = LLMExecutor().parse_modelfile(
        '[{"name": "system", "args": "Be kind."}, {"name": "message", "args": "user Hi"},'
        ' {"name": "message", "args": "assistant Hello"}, {"name": "template", "args": "{x}"}]'
    )
    assert parsed.override_system_prompt == "Be kind."
    assert parsed.messages == [{"msg": "Hi", "isbot": False}, {"msg": "Hello", "isbot": True}]
    assert (parsed.template, parsed.before_prompt, parsed.after_prompt) == ("{x}", "", "")
    assert LLMExecutor().parse_modelfile("null").messages == []


def test_a_header_field_is_found_in_any_case() -> None:
    """Several of one name are joined; what is not there is None."""
    headers = Headers({"accept-language": ["zh_tw"], "x-a": ["1", "2"]})
    assert headers.get("Accept-Language") == headers["accept-LANGUAGE"] == "zh_tw"
    assert headers["X-A"] == "1, 2"
    assert headers.get("X-B") is None
    assert "X-A" in headers
    assert dict(headers) == {"accept-language": "zh_tw", "x-a": "1, 2"}
