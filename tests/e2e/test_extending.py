"""The page on extending: its two backends are tested, built, and asked in both languages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, Program, fetch, said
from tests.support.small_files import make_wheel

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SOURCE = re.compile(
    r"`((?:backends|tests)/[\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
BUILDS = [line for line in COMMANDS if " build.py " in line]
STARTS = [line for line in COMMANDS if "--embedded_kernel" in line]
LIBRARY = b"def titleize(text):\n    return text.title()\n"  # in place of the real one
ANSWERS = {
    "parrot": {"en": "HELLO YOU", "zh-TW": "HELLO YOU"},
    "cockatoo": {
        "en": "Hello You\n" * 3 + "\n<<<WARNING>>>It was said 3 times.<<</WARNING>>>",
        "zh-TW": "Hello You\n" * 3 + "\n<<<WARNING>>>說了 3 次。<<</WARNING>>>",
    },
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, add those of the page, and build the files."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("kuwa_min", "backends", "tests", "examples"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    for name, text in SOURCE.findall(PAGE):
        path = tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tree / "tests" / "backends" / "cockatoo" / "__init__.py").write_text('"""The tests."""\n')
    library = tree / "library" / "inflection"
    library.mkdir(parents=True)
    (library / "__init__.py").write_bytes(LIBRARY)
    make_wheel(library.parent, "inflection", {"inflection/__init__.py": LIBRARY})
    for command in BUILDS:
        words = command.removeprefix(".venv/bin/python ").split()
        offline = ("--no_index", "--find_links", "library")
        subprocess.run(
            [sys.executable, *words, *offline], cwd=tree, check=True, capture_output=True
        )
    return tree


def test_the_page_has_two_backends() -> None:
    """A module and a folder, each with a test; nothing here looks at an empty page."""
    paths = [name for name, _ in SOURCE.findall(PAGE)]
    assert {"backends/parrot.py", "backends/cockatoo/__init__.py"} < set(paths)
    assert len(paths) == len(re.findall("```python", PAGE)) == 6
    assert len(BUILDS) == 2
    assert len(STARTS) == 3


def test_the_tree_passes_its_tests_and_ruff(tree: Path) -> None:
    """No list or table elsewhere has to be told of a new backend."""
    rules = ("tests/test_layers.py", "tests/test_tree.py", "tests/kuwa_min/chat/test_catalog.py")
    lists = ("tests/kuwa_min/test_registry.py", "tests/kuwa_min/packing/test_sources.py")
    own = ("tests/backends/test_parrot.py", "tests/backends/cockatoo")
    pytest_options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(tree / "library")
    for words in (
        (*pytest_options, *rules, *lists, *own),
        ("-m", "ruff", "check", "backends", "tests"),
        ("-m", "ruff", "format", "--check", "backends", "tests"),
    ):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("command", STARTS)
def test_a_new_backend_answers_in_both_languages(
    tree: Path, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Started as the page starts it, from the sources and from its file."""
    monkeypatch.chdir(tree)
    words = [*command.split()[1:], "127.0.0.1:0"]
    (name,) = ANSWERS.keys() & set(words)
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    with Program(*words, command=(sys.executable,), **environment) as program:
        for language, answer in ANSWERS[name].items():
            fields = {"Accept-Language": language}
            found = fetch(program.url, said("hello you"), fields=fields)
            assert found == (200, answer)
