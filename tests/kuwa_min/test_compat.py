"""Compatibility: a file written for Kuwa's own executor finds every name that it imports."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import kuwa_min
from kuwa_min import LLMExecutor, Modelfile, compat

NAMES = {
    "kuwa.executor": "LLMExecutor Modelfile",
    "kuwa.executor.base_executor": "BaseExecutor AdvancedJSONEncoder find_free_port",
    "kuwa.executor.cache": "lru_cache_with_ttl",
    "kuwa.executor.llm_executor": "LLMExecutor rectify_chat_history to_openai_chat_format "
    "extract_last_url extract_user_attachment get_mime_type",
    "kuwa.executor.message": "AudioURLChunk BaseChunk ExitCodeChunk ImageURLChunk LogChunk "
    "LogLevel ProgressChunk RefusalChunk TextChunk",
    "kuwa.executor.modelfile": "Modelfile extract_text_from_quotes ParameterDict convert_value "
    "Script ScriptSyntaxError",
    "kuwa.executor.multi_modality": "ext2mime get_supported_image_mime convert_image fetch_image "
    "image_to_data_url fetch_image_as_data_url",
    "kuwa.executor.util": "expose_function_parameter read_config merge_config DescriptionParser "
    "is_rfc3339",
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
    """Install the names for one test; what was there before comes back."""
    former = {name: sys.modules.pop(name) for name in list(sys.modules) if is_kuwa(name)}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    compat.install()
    yield
    for name in [name for name in sys.modules if is_kuwa(name)]:
        del sys.modules[name]
    sys.modules.update(former)


def is_kuwa(name: str) -> bool:
    """Tell whether a module is Kuwa's."""
    return name == "kuwa" or name.startswith("kuwa.")


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module, names in NAMES.items() for name in names.split()],
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


def test_kuwa_is_a_namespace_package(tmp_path: Path) -> None:
    """An installed kuwa.client stands beside our kuwa.executor, also one that is added late."""
    assert not getattr(importlib.import_module("kuwa"), "__file__", None)
    (tmp_path / "kuwa" / "client").mkdir(parents=True)
    (tmp_path / "kuwa" / "client" / "__init__.py").write_text("WHO = 'client'\n", encoding="utf-8")
    sys.path.append(str(tmp_path))
    assert importlib.import_module("kuwa.client").WHO == "client"
    assert importlib.import_module("kuwa.executor").LLMExecutor is LLMExecutor


def test_ours_comes_before_an_installed_kuwa_executor(tmp_path: Path) -> None:
    """In a run of our own command line."""
    (tmp_path / "kuwa" / "executor").mkdir(parents=True)
    (tmp_path / "kuwa" / "executor" / "__init__.py").write_text("", encoding="utf-8")
    sys.path.insert(1, str(tmp_path))
    assert importlib.import_module("kuwa.executor").LLMExecutor is LLMExecutor


def test_the_version_of_kuwas_distribution_is_known() -> None:
    """Files ask for it; no list of what is installed shows it."""
    importlib.import_module("kuwa.executor")
    assert metadata.version("kuwa-executor") == metadata.version("Kuwa_Executor") == "0.4.0"
    assert metadata.metadata("kuwa-executor")["Name"] == "kuwa-executor"
    assert not metadata.distribution("kuwa-executor").files
    assert "kuwa-executor" not in [one.metadata["Name"] for one in metadata.distributions()]
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("kuwa-nothing")


def test_an_installed_distribution_keeps_its_own_version(tmp_path: Path) -> None:
    """Ours is the last that is asked."""
    importlib.import_module("kuwa.executor")
    folder = tmp_path / "kuwa_executor-0.3.4.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: kuwa-executor\nVersion: 0.3.4\n", encoding="utf-8")
    sys.path.append(str(tmp_path))
    assert metadata.version("kuwa-executor") == "0.3.4"


@pytest.fixture
def old(tmp_path: Path) -> Any:
    """Return the executor of a file as users wrote it for Kuwa."""
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
