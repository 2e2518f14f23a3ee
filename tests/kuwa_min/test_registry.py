"""The registry: backends are described from their source, and imported only to be run."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min import LLMExecutor, registry
from kuwa_min.errors import KuwaError, UsageError
from tests.support.programs import ROOT

LINES = {
    "debug": "[Tool] Debugging executor. It will reflect the last input.",
    "dummy": "[Tool] Dummy executor. It will reply fixed message regardless of the user prompt.",
    "geminipro": "[Cloud model] Google Gemini-Pro. Need API key.",
    "chatgpt": "[Cloud model] OpenAI ChatGPT. Need API key.",
    "huggingface": "[On-premises model] Download and run Huggingface model locally.",
    "llamacpp": "[On-premises model] Run the GGUF model locally.",
}
FILES = {
    "__init__.py": '"""Hold some backends."""\n',
    "plain.py": (
        '"""[Tool] A plain one.\n\nMore about it."""\n'
        "from kuwa_min import LLMExecutor\n"
        "from .second import Second\n"
        "class Step(LLMExecutor): ...\n"
        "class Plain(Second): ...\n"
        "Other = Second\n"
        "REQUIRES = {}\n"
    ),
    "second.py": "from kuwa_min import LLMExecutor\nclass Second(LLMExecutor): ...\n",
    "heavy.py": (
        '"""[Model] A heavy one."""\n'
        "from kuwa_min import LLMExecutor\n"
        'REQUIRES: dict[str, str] = {"json": "json>=99", "no_such_library": "no-such>=1.5",'
        ' "no_such.inner": "no-such", "json.no_such": "json"}\n'
        "class Heavy(LLMExecutor): ...\n"
    ),
    "explosive.py": '"""[Tool] Never import this."""\nraise SystemExit("imported")\n',
    "silent.py": "REQUIRES = {'json': 'json'}\nLIMIT: int\n",
    "old.py": (
        '"""[Tool] One that needs new libraries."""\n'
        'REQUIRES = {"json": "json-library>=2.6", "ast": "ast-library>=1.0"}\n'
    ),
    "without.py": '"""Without an executor."""\nfrom kuwa_min import LLMExecutor\n',
    "_engine.py": "raise SystemExit('imported')\n",
    "notes.txt": "not a module",
}


@pytest.fixture
def backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the package of backends by one of these."""
    folder = tmp_path / "some_backends"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text('"""A package."""\n', encoding="utf-8")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PACKAGE", "some_backends")
    former = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - former:
        if name.startswith("some_backends"):
            del sys.modules[name]


@pytest.mark.usefixtures("backends")
def test_every_module_is_a_backend_unless_its_name_begins_with_an_underscore() -> None:
    """Sorted by name."""
    expected = ["explosive", "heavy", "old", "package", "plain", "second", "silent", "without"]
    assert registry.names() == expected


@pytest.mark.usefixtures("backends")
def test_a_card_is_read_out_of_the_source() -> None:
    """The docstring's first line and REQUIRES, annotated or not; nothing is imported."""
    infos = registry.backend_infos()
    assert infos["plain"] == registry.BackendInfo("plain", "[Tool] A plain one.", {})
    assert infos["heavy"] == registry.BackendInfo(
        "heavy",
        "[Model] A heavy one.",
        {
            "json": "json>=99",
            "no_such_library": "no-such>=1.5",
            "no_such.inner": "no-such",
            "json.no_such": "json",
        },
    )
    assert infos["explosive"].summary == "[Tool] Never import this."
    assert infos["silent"] == registry.BackendInfo("silent", "", {"json": "json"})
    assert infos["package"].summary == "A package."
    assert not [name for name in sys.modules if name.startswith("some_backends.")]


@pytest.mark.usefixtures("backends")
def test_loading_gives_the_last_executor_that_the_module_defines() -> None:
    """Imported classes and aliases do not count."""
    kind = registry.load("plain")
    assert (kind.__name__, kind.__module__) == ("Plain", "some_backends.plain")
    assert issubclass(kind, LLMExecutor)


@pytest.mark.usefixtures("backends")
def test_missing_libraries_are_one_line_that_helps() -> None:
    """All of them, with the file that has them and the command that makes it."""
    with pytest.raises(UsageError) as refused:
        registry.check_libraries("heavy")
    assert str(refused.value) == (
        "heavy needs no_such_library, no_such.inner, json.no_such, which this Python does not "
        "have; use the file kuwa-heavy.pyz, which `python build.py heavy` makes"
    )


@pytest.mark.usefixtures("backends")
def test_loading_does_not_check_the_libraries() -> None:
    """The help of a backend needs none of them."""
    assert registry.load("heavy").__name__ == "Heavy"


@pytest.mark.usefixtures("backends")
@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"json-library": "2.5.9", "ast-library": "1.0"}, "json-library>=2.6;json-library 2.5.9"),
        ({"json-library": "2.6", "ast-library": "0.9"}, "ast-library>=1.0;ast-library 0.9"),
        ({"json-library": "2.1.0+cpu"}, "json-library>=2.6;json-library 2.1.0+cpu"),
        ({"json-library": "2.6.0", "ast-library": "1"}, None),
        ({"json-library": "2.6.0+cpu", "ast-library": "1.0.0.dev3"}, None),
        ({"json-library": "2.10rc1", "ast-library": "10"}, None),
        ({"ast-library": "1.1"}, None),
        ({}, None),
    ],
)
def test_a_library_below_its_floor_is_one_line(
    versions: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needed and found; a library without a version is accepted."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    if found is None:
        registry.check_libraries("old")
        return
    needed, here = found.split(";")
    with pytest.raises(UsageError) as refused:
        registry.check_libraries("old")
    assert str(refused.value) == (
        f"old needs {needed}; this Python has {here}; "
        "use the file kuwa-old.pyz, which `python build.py old` makes"
    )


@pytest.mark.usefixtures("backends")
def test_a_module_without_an_executor_is_one_line() -> None:
    """The imported LLMExecutor itself does not count."""
    with pytest.raises(UsageError, match=r"some_backends\.without defines no subclass"):
        registry.load("without")


def test_the_backends_are_listed_as_kuwa_lists_them() -> None:
    """Tools, then services, then models of this machine."""
    assert [name for name in registry.backend_infos() if name in LINES] == list(LINES)


@pytest.mark.usefixtures("backends")
def test_backends_of_one_kind_are_listed_by_their_summaries() -> None:
    """Those of no kind are the last."""
    infos = list(registry.backend_infos().values())
    assert [info.name for info in infos[:3]] == ["plain", "explosive", "old"]
    others = [info.summary for info in infos[3:]]
    assert others == ["", "", "A package.", "Without an executor.", "[Model] A heavy one."]


def test_the_real_backends_are_described_in_kuwas_words() -> None:
    """Every name that Kuwa has keeps its line."""
    infos = registry.backend_infos()
    assert {name: infos[name].summary for name in LINES} == LINES


def source_of(name: str) -> Path:
    """Return the file with a backend's class: of a module, or of a folder."""
    folder = ROOT / "backends" / name
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def test_every_module_and_folder_is_listed() -> None:
    """The registry finds what is in the folder of backends."""
    paths = [path for path in (ROOT / "backends").glob("[!_]*") if path.name != "__pycache__"]
    assert set(registry.names()) == {path.stem for path in paths}


@pytest.mark.parametrize("name", registry.names())
def test_a_backend_says_what_it_requires(name: str) -> None:
    """REQUIRES is a literal at the top, which a reader of text can take."""
    tree = ast.parse(source_of(name).read_text(encoding="utf-8"))
    targets = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert "REQUIRES" in targets


@pytest.mark.parametrize("name", registry.names())
def test_every_requirement_has_a_floor_that_is_understood(name: str) -> None:
    """A name to import, and a distribution with the least version."""
    for module, requirement in registry.backend_infos()[name].requires.items():
        assert all(part.isidentifier() for part in module.split("."))
        assert re.fullmatch(r"[a-z0-9-]+>=\d+(\.\d+)+", requirement)


def test_the_floors_are_above_known_holes() -> None:
    """Versions before these run code of a model's author."""
    needed = {
        requirement.partition(">=")[0]: requirement.partition(">=")[2]
        for info in registry.backend_infos().values()
        for requirement in info.requires.values()
    }
    assert needed["torch"] == "2.6"
    assert needed["transformers"] == "5.5.0"
    assert needed["jinja2"] == "3.1.6"
    assert needed["llama-cpp-python"] == "0.3.36"  # whose interface we use


PLUGINS = {
    "macaw_pack.py": "from kuwa_min import LLMExecutor\nclass Macaw(LLMExecutor): ...\n",
    "bad_pack.py": "import no_such_library\n",
    "open_pack.py": "x = (\n",
    "some-1.0.dist-info/METADATA": "Name: some\nVersion: 1.0\nSummary: [Tool] Macaws.\n",
    "some-1.0.dist-info/entry_points.txt": (
        "[kuwa_min.backends]\nmacaw = macaw_pack:Macaw\nwhole = macaw_pack\n"
        "bad = bad_pack\nopen = open_pack\nabsent = macaw_pack:Absent\nnone = json:dumps\n"
        "debug = macaw_pack\ntwice = macaw_pack\n"
    ),
    "more-2.0.dist-info/METADATA": "Name: more\nVersion: 2.0\n",
    "more-2.0.dist-info/entry_points.txt": "[kuwa_min.backends]\ntwice = macaw_pack\n",
}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install two packages that bring backends."""
    for name, text in PLUGINS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("plugins")
def test_packages_bring_backends() -> None:
    """A class, or a module with one; described by their packages, and not imported for that."""
    assert registry.plugin_infos()["macaw"].summary == "[Tool] Macaws."
    assert not {"macaw_pack", "bad_pack"} & sys.modules.keys()
    for name in ("macaw", "whole"):
        plugin = registry.find_plugin(name)
        assert plugin
        assert registry.load_plugin(plugin).__name__ == "Macaw"
    assert registry.find_plugin("unknown") is None
    sys.modules.pop("macaw_pack")


@pytest.mark.usefixtures("plugins")
def test_a_backend_of_a_package_that_is_broken_is_one_line() -> None:
    """With name, package and reason; a name of ours stays ours, which --list says."""
    for name, words in {
        "bad": "cannot be loaded: bad_pack.py:1 in <module>: ModuleNotFoundError",
        "open": "open_pack.py: line 1: '(' was never closed",
        "absent": "has no attribute 'Absent'",
        "none": "none of some 1.0 (json:dumps) defines no subclass of LLMExecutor",
    }.items():
        plugin = registry.find_plugin(name)
        assert plugin
        with pytest.raises(KuwaError) as error:
            registry.load_plugin(plugin)
        assert words in str(error.value)
        assert str(error.value).startswith(f"{name} of some 1.0 (")
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"several .* twice: more 2\.0, some 1\.0; remove one"):
        registry.find_plugin("twice")
    assert "debug" not in registry.plugin_infos()
    (line,) = registry.hidden_plugins()
    assert line.startswith("debug of some 1.0 has no effect")
    sys.modules.pop("macaw_pack", None)
