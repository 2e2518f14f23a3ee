"""The public interface: what custom executors rely on, pinned."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kuwa_min
from kuwa_min import LLMExecutor, Modelfile, errors
from kuwa_min.kuwa_attributes import KuwaAttributes

FRONT_DOOR = Path(kuwa_min.__file__)
SIGNATURES = {
    "__init__": "(self) -> 'None'",
    "extend_arguments": "(self, parser: 'argparse.ArgumentParser') -> 'None'",
    "check_arguments": "(self, carried: 'Collection[str] | None') -> 'Iterable[str]'",
    "setup": "(self) -> 'None'",
    "llm_compute": (
        "(self, history: 'list[dict[str, str]]', modelfile: 'Any') -> 'AsyncGenerator[Piece, None]'"
    ),
    "serve": (
        "(self, header: 'Mapping[str, str]', content: 'Mapping[str, str]')"
        " -> 'AsyncGenerator[Piece, None]'"
    ),
    "api_features": "(self) -> 'Collection[str]'",
    "abort": "(self) -> 'Any'",
    "pause": "(self, seconds: 'float') -> 'Awaitable[None]'",
    "on_stop": "(self, call: 'Callable[[], None]') -> 'None'",
    "progress": "(self, what: 'str') -> 'Progress'",
    "describe": "(self, **facts: 'Any') -> 'None'",
    "measure": "(self, name: 'str', text: 'str', function: 'Callable[[], float]') -> 'None'",
    "count_tokens": ("(self, *, read: 'int' = 0, written: 'int' = 0, cached: 'int' = 0) -> 'None'"),
    "end_answer": "(self, reason: 'str') -> 'None'",
    "keep_secret": "(self, secret: 'str') -> 'None'",
    "run": (
        "(self, argv: 'Sequence[str] | None' = None, *, program: 'str | None' = None) -> 'None'"
    ),
}
PROPERTIES = {"LLM_name", "args"}
REPLACEABLE = {
    "access_codes",
    "app",
    "concurrent_req_limit",
    "executor_iface_version",
    "executor_path",
    "get_reg_endpoint",
    "host",
    "https",
    "ignore_kernel",
    "in_debug",
    "kernel_url",
    "log_level",
    "metrics",
    "parse_modelfile",
    "port",
}
ATTRIBUTES = {"access_code": "", "uses_asyncio": True}


def test_the_package_offers_three_names() -> None:
    """LLMExecutor, Modelfile and the version."""
    assert sorted(kuwa_min.__all__) == ["LLMExecutor", "Modelfile", "__version__"]
    assert all(hasattr(kuwa_min, name) for name in kuwa_min.__all__)


def test_the_version_has_three_numbers() -> None:
    """As packaging tools and the manifest expect it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", kuwa_min.__version__)


def test_the_front_door_is_short() -> None:
    """A docstring, the version, the names, and the one function that imports them late."""
    lines = FRONT_DOOR.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 20
    assert [line for line in lines if re.match(r"(def|class|for|try|with)\b", line)] == [
        "def __getattr__(name: str) -> object:"
    ]


def test_the_front_door_opens_late() -> None:
    """A launcher that refuses a machine has imported nothing else of the program."""
    ours = "[name for name in sys.modules if name[:4] in ('kuwa', 'back')]"
    program = f"import sys, kuwa_min; print({ours})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode() == "['kuwa_min']\n"


def test_an_executor_has_these_methods() -> None:
    """A public method that is added or lost fails here."""
    public = {name for name in vars(LLMExecutor) if not name.startswith("_")}
    assert public == set(SIGNATURES) - {"__init__"} | PROPERTIES | set(ATTRIBUTES) | {"parser"}
    assert {name for name in vars(KuwaAttributes) if not name.startswith("_")} == REPLACEABLE
    assert all(isinstance(vars(LLMExecutor)[name], property) for name in PROPERTIES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_keeps_its_signature(name: str) -> None:
    """Subclasses override it and call it this way."""
    assert str(inspect.signature(getattr(LLMExecutor, name))) == SIGNATURES[name]


def test_a_class_says_what_is_special_about_it() -> None:
    """Without a word of the subclass, the name comes from the class and asyncio is there."""
    assert {name: getattr(LLMExecutor, name) for name in ATTRIBUTES} == ATTRIBUTES


def test_abort_is_awaited() -> None:
    """A subclass writes `async def abort(self)`."""
    assert inspect.iscoroutinefunction(LLMExecutor.abort)


@pytest.mark.parametrize("name", sorted({*SIGNATURES, *PROPERTIES, *REPLACEABLE, "parser"}))
def test_every_public_method_says_what_it_is_for(name: str) -> None:
    """Docstrings are the reference for authors of custom executors."""
    if name != "__init__":
        assert inspect.getdoc({**vars(KuwaAttributes), **vars(LLMExecutor)}[name])


def test_a_modelfile_has_these_fields() -> None:
    """The names are Kuwa's."""
    assert list(inspect.signature(Modelfile).parameters) == [
        "override_system_prompt",
        "messages",
        "template",
        "before_prompt",
        "after_prompt",
        "parameters",
        # of 0.4, for its agent
        "process_bot",
        "input_bot",
        "output_bot",
        "input_prefix",
        "input_suffix",
        "output_prefix",
        "output_suffix",
        "script",
    ]


def test_an_answer_error_is_an_error_of_ours() -> None:
    """The one error that custom executors raise: its message is for the user."""
    assert issubclass(errors.AnswerError, errors.KuwaError)
    assert issubclass(errors.KuwaError, Exception)
    assert str(errors.AnswerError("[No input message entered]")) == "[No input message entered]"


def test_an_executor_without_llm_compute_says_so() -> None:
    """The sentence names the class."""

    class Forgetful(LLMExecutor):
        """A first try."""

    with pytest.raises(NotImplementedError, match="Forgetful lacks llm_compute"):
        Forgetful().llm_compute([], Modelfile())
