"""Compatibility: a file written for Kuwa's own executor finds every name that it imports."""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Dict, List, Optional, Union  # noqa: UP035 - as Kuwa's users write them

import pytest

import kuwa_min
from kuwa_min import LLMExecutor, Modelfile, compat

NAMES = {
    "kuwa.executor": ["LLMExecutor", "Modelfile"],
    "kuwa.executor.llm_executor": [
        "LLMExecutor",
        "rectify_chat_history",
        "to_openai_chat_format",
        "extract_last_url",
    ],
    "kuwa.executor.util": [
        "expose_function_parameter",
        "read_config",
        "merge_config",
        "DescriptionParser",
    ],
    "kuwa.executor.modelfile": [
        "Modelfile",
        "extract_text_from_quotes",
        "ParameterDict",
        "convert_value",
    ],
}
FILE = '''
import os
import sys
import re
sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import kuwa.executor
from kuwa.executor import LLMExecutor, Modelfile
from kuwa.executor.llm_executor import (
    rectify_chat_history, to_openai_chat_format, extract_last_url,
)
from kuwa.executor.util import (
    expose_function_parameter, read_config, merge_config, DescriptionParser,
)
from kuwa.executor.modelfile import extract_text_from_quotes, ParameterDict, convert_value

def generate(prompt: str, temperature: float = 0.8, top_k: "int | None" = 40):
    """
    Generate text.

    temperature: how daring
    top_k: how many
    """

class DocParser(DescriptionParser):
    def __call__(self, doc: str, name: str) -> str:
        found = re.search(rf"{name}: (.*)", doc)
        return found.group(1) if found else None

class OldExecutor(LLMExecutor):
    generation_config: dict = {"temperature": 0.5}

    def __init__(self):
        super().__init__()

    def extend_arguments(self, parser):
        model_group = parser.add_argument_group("Model Options")
        model_group.add_argument("--limit", type=int, default=3072, help="The limit")
        gen_group = parser.add_argument_group("Generation Options", "More about them.")
        gen_group.add_argument("-c", "--generation_config", default=None, help="A file.")
        self.generation_config = expose_function_parameter(
            function=generate,
            parser=gen_group,
            defaults=self.generation_config,
            desc_parser=DocParser(),
        )

    def setup(self):
        file_gconf = read_config(self.args.generation_config) if self.args.generation_config else {}
        arg_gconf = {
            k: getattr(self.args, k)
            for k, v in self.generation_config.items()
            if f"--{k}" in sys.argv
        }
        self.generation_config = merge_config(base=self.generation_config, top=file_gconf)
        self.generation_config = merge_config(base=self.generation_config, top=arg_gconf)
        self.stop = False

    async def llm_compute(self, history: list[dict], modelfile: Modelfile):
        url, history = extract_last_url(rectify_chat_history(history))
        config = merge_config(self.generation_config, modelfile.parameters["llm_"])
        yield f"{url} {history} {config}"

    async def abort(self):
        self.stop = True
        return "Aborted"
'''


@pytest.fixture(autouse=True)
def kuwa(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the names for one test; whatever was there before comes back."""
    former = {name: sys.modules.pop(name) for name in list(sys.modules) if is_kuwa(name)}
    compat.install()
    yield
    for name in [name for name in sys.modules if is_kuwa(name)]:
        del sys.modules[name]
    sys.modules.update(former)


def is_kuwa(name: str) -> bool:
    """Tell whether a module is Kuwa's."""
    return name == "kuwa" or name.startswith("kuwa.")


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names]
)
def test_a_name_is_where_kuwa_has_it(module: str, name: str) -> None:
    """And it says what it is for."""
    found = getattr(importlib.import_module(module), name)
    assert callable(found)
    assert found.__doc__


def test_the_names_are_ours() -> None:
    """An executor written for Kuwa is one of ours."""
    executor = importlib.import_module("kuwa.executor")
    assert executor.LLMExecutor is LLMExecutor is kuwa_min.LLMExecutor
    assert executor.Modelfile is Modelfile
    assert executor.llm_executor.LLMExecutor is LLMExecutor, "reached by attribute, too"


@pytest.mark.parametrize("module", ["kuwa.client", "kuwa.executor.nothing", "kuwa.rag"])
def test_what_we_do_not_have_is_a_module_not_found(module: str) -> None:
    """The file's author reads the usual words."""
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{module}'"):
        importlib.import_module(module)


def test_installing_twice_is_installing_once() -> None:
    """What was imported from the first one is what the second one has."""
    before = importlib.import_module("kuwa.executor").LLMExecutor
    compat.install()
    assert importlib.import_module("kuwa.executor").LLMExecutor is before


@pytest.fixture
def old(tmp_path: Path) -> Any:
    """Return the executor of a file as people wrote it for Kuwa."""
    path = tmp_path / "old_executor.py"
    path.write_text(FILE, encoding="utf-8")
    return runpy.run_path(str(path), run_name="old_executor")["OldExecutor"]


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        ([], {"temperature": 0.5, "top_k": 40}),
        (["--temperature", "0.9"], {"temperature": 0.9, "top_k": 40}),
        (["-c", "{file}"], {"temperature": 0.1, "top_k": 40}),
        (["-c", "{file}", "--top_k", "3"], {"temperature": 0.1, "top_k": 3}),
    ],
)
def test_an_old_files_options_work_as_they_did(
    argv: list[str], config: dict[str, Any], old: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Exposed parameters, the -c file and the search in sys.argv; file and all."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"temperature": 0.1, "top_k": None}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["old.py", *(word.format(file=path) for word in argv)])
    executor = old()
    assert executor.args.limit == 3072
    executor.setup()
    assert executor.generation_config == config


def test_an_old_file_shows_its_options_in_the_help(
    old: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the descriptions that its parser found in the docstring."""
    with pytest.raises(SystemExit) as ended:
        old().run(["--help"])
    assert ended.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "--temperature TEMPERATURE how daring (default: 0.5)" in words
    assert "--top_k TOP_K how many (default: 40)" in words
    assert "--limit LIMIT The limit (default: 3072)" in words


# -- expose_function_parameter


def many(
    count: int,
    rate: float = 0.5,
    *,
    optional: Optional[int] = None,  # noqa: UP045
    either: float | None = 1.5,
    union: Union[str, float] = 2.5,  # noqa: UP007
    name: str = "x",
    flag: bool = True,
    numbers: list[int] = [],  # noqa: B006
    weights: Dict[str, float] = {},  # noqa: B006, UP006
    bias: Optional[List[int]] = None,  # noqa: UP006, UP045
    function: Optional[Callable[[int], float]] = None,  # noqa: UP045
    bare=3,
) -> int:
    """Have parameters of every kind."""
    return count


def test_numbers_are_exposed_and_nothing_else() -> None:
    """Optional ones and unions with a number count; containers of numbers do not."""
    assert compat.expose_function_parameter(many) == {
        "count": None,
        "rate": 0.5,
        "optional": None,
        "either": 1.5,
        "union": 2.5,
    }


def test_exposed_parameters_are_options_of_their_type() -> None:
    """A whole number stays one; what has no description shows a dash."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    compat.expose_function_parameter(many, parser=parser)
    args = parser.parse_args(["--count", "3", "--either", "2"])
    assert vars(args) == {"count": 3, "rate": 0.5, "optional": None, "either": 2.0, "union": 2.5}
    assert (type(args.count), type(args.either)) == (int, float)
    assert "--rate RATE - (default: 0.5)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit):
        parser.parse_args(["--count", "3.5"])


def test_given_defaults_win_and_stay_as_they_are() -> None:
    """Defaults of parameters that the function lacks are kept; the argument is not changed."""
    defaults = {"rate": 0.1, "further": 7}
    found = compat.expose_function_parameter(many, defaults=defaults)
    assert (found["rate"], found["further"]) == (0.1, 7)
    assert defaults == {"rate": 0.1, "further": 7}


def test_other_types_can_be_accepted() -> None:
    """The tuple says which."""
    assert compat.expose_function_parameter(many, accepted_types=(str,)) == {
        "union": 2.5,
        "name": "x",
    }


def test_a_description_parser_that_finds_nothing_leaves_a_dash() -> None:
    """None means that there is no description."""
    parser = argparse.ArgumentParser()
    compat.expose_function_parameter(many, parser=parser, desc_parser=lambda doc, name: None)
    assert "--count COUNT -" in " ".join(parser.format_help().split())


def test_a_description_parser_must_say_how() -> None:
    """The base class names the class that forgot it."""

    class Forgetful(compat.DescriptionParser):
        """Somebody's first try."""

    with pytest.raises(NotImplementedError, match="Forgetful lacks __call__"):
        Forgetful()("doc", "name")
