"""What a custom executor imports is there, or is said when building."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.check_imports import (
    check_imports,
    check_shadows,
    library_imports,
    provided,
)
from kuwa_min.packing.custom.executor_files import Executor

PATHS = (
    "requests/__init__.py",
    "_ctypes_like.cpython-311-x86_64-linux-gnu.so",
    "six.py",
    "requests-2.0.dist-info/METADATA",
    "distutils-precedence.pth",
)
GOOD = """
from __future__ import annotations
import os, requests, six
import requests.adapters
from kuwa.executor import LLMExecutor, Modelfile, llm_executor
from kuwa.executor.llm_executor import extract_last_url
from kuwa.executor.modelfile import extract_text_from_quotes, ParameterDict, Script
from kuwa.executor.util import *
from kuwa.executor.message import ExitCodeChunk, LogLevel
from kuwa.executor.multi_modality import fetch_image
from kuwa_min import LLMExecutor as Ours
import kuwa.executor.cache
from src.text import cut
try:
    import yaml
except ImportError:
    yaml = None
"""
MISSING = {
    "import yaml": "main.py:1 imports yaml, which no requirement brings",
    "from src.absent import x": "",
    "from kuwa.client import KuwaClient": "kuwa.client, which this file lacks: give Kuwa's folder",
    "import kuwa.rag.crawler": "src/library/rag/src/kuwa by --with_files",
    "from kuwa import client": "kuwa.client, which this file lacks",
    "from kuwa import kernel": "kuwa.executor is all of Kuwa that is here",
    "from kuwa.executor import logger": "logger of kuwa.executor, which kuwa-min lacks",
    "from kuwa.executor.util import magic": "magic of kuwa.executor.util, which kuwa-min lacks",
    "import kuwa.executor.metrics": "kuwa.executor.metrics, which is not in kuwa-min",
    "import src.needy": "src/needy.py:1 imports lxml",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write two modules beside the executor."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "text.py").write_text("def cut(): import late_one\n")
    (tmp_path / "src" / "needy.py").write_text("import lxml\n")
    return tmp_path


def told(folder: Path, text: str) -> list[str]:
    """Check a source; return what was logged."""
    (folder / "main.py").write_text(text)
    paths = sorted(folder.rglob("*.py"))
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    lines: list[str] = []
    executor = Executor("main", "", {"main": "main.py"}, files)
    check_imports(executor, provided(PATHS), lines.append)
    return lines


def test_what_is_there_is_found(tree: Path) -> None:
    """Libraries, files beside it, Kuwa's names; what a part alone needs is a warning."""
    lines = told(tree, GOOD)
    assert [line.partition(", which")[0] for line in lines] == [
        "warning: main.py:15 imports yaml",
        "warning: src/text.py:1 imports late_one",
    ]


def test_what_is_not_there_is_refused_with_what_to_do(tree: Path) -> None:
    """By file and line; all in one line."""
    for source, words in MISSING.items():
        if words:
            with pytest.raises(UsageError) as error:
                told(tree, source)
            assert words in str(error.value), source
    with pytest.raises(UsageError, match=r"main\.py:1 imports lxml.*; main\.py:1 imports yaml"):
        told(tree, "import lxml, yaml, lxml")


def test_libraries_of_kuwa_that_travel_are_found(tree: Path) -> None:
    """As a wheel, or as files beside the executor."""
    (tree / "kuwa" / "client").mkdir(parents=True)
    (tree / "kuwa" / "client" / "base.py").write_text("import six\n")
    assert told(tree, "from kuwa.client.base import KuwaClient\nfrom kuwa import client") == []
    assert "kuwa.rag" in provided(["kuwa/rag/__init__.py"])


def test_names_are_those_to_import() -> None:
    """Of packages, modules and extensions; distributions are none."""
    assert provided(PATHS) >= {"requests", "six", "_ctypes_like"}
    assert not [name for name in provided(PATHS) if "dist" in name]


def test_bytecode_is_made_of_what_a_start_imports(tree: Path) -> None:
    """Not of Python's own modules, ours, those beside it and what a part needs."""
    (tree / "main.py").write_text(GOOD)
    files = {name: tree / name for name in ("main.py", "src/text.py")}
    found = ["import requests", "import requests.adapters", "import six"]
    assert library_imports(Executor("main", "", {"main": "main.py"}, files)) == found


def test_files_that_would_hide_ours_are_refused(tmp_path: Path) -> None:
    """Of the executor or of its libraries; a part of Kuwa beside ours hides nothing."""
    good = ("kuwa/client/__init__.py", "kuwa_client.py", "kuwa.pth")
    for bad in ("kuwa/__init__.py", "kuwa/executor/util.py", "kuwa_min/errors.py"):
        own = Executor("a", "", {"a": "a.py"}, dict.fromkeys(("a.py", *good), tmp_path))
        check_shadows(own, good)
        with pytest.raises(UsageError, match=f"{bad} would hide what kuwa-min has"):
            check_shadows(own, (*good, bad))
        with pytest.raises(UsageError, match="would hide"):
            check_shadows(own._replace(files={**own.files, bad: tmp_path}), ())
