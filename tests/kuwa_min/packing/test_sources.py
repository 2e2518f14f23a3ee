"""Which sources travel: of kuwa_min, of the backends and of what those share."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.packing import sources
from kuwa_min.packing.sources import (
    FOR_LIBRARIES,
    IN_EVERY_FILE,
    backend_sources,
    imported_at_once,
    sources_sha256,
)
from tests.support.programs import ROOT

LIGHT = {"backends/__init__.py", "backends/debug.py", "backends/dummy.py"}


def carried(backend: str, *, with_payload: bool = False) -> set[str]:
    """Return the paths of what travels, from the project's root."""
    found = sources.sources(backend, with_payload=with_payload)
    assert found == sorted(set(found), key=Path.as_posix)
    return {path.relative_to(ROOT).as_posix() for path in found}


def missing(names: set[str], *, everywhere: bool) -> list[tuple[str, str]]:
    """Return the modules of ours that these sources import and that are not among them."""
    return [
        (name, module)
        for name in sorted(names)
        if name.endswith(".py")
        for tree in [ast.parse((ROOT / name).read_bytes())]
        for module in sources.imported(ROOT / name, ast.walk(tree) if everywhere else tree.body)
        if not set(sources.module_files(module)) <= names
    ]


# -- a small tree


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty project."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "backends").mkdir()
    return tmp_path


def write(tree: Path, texts: dict[str, str]) -> None:
    """Write sources, and an __init__.py into each of their folders."""
    for name, text in texts.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")


def of_backends(tree: Path, *names: str) -> set[str]:
    """Return what these backends carry, as paths below backends/."""
    found = backend_sources(names)
    assert len(found) == len(set(found))
    return {path.relative_to(tree / "backends").as_posix() for path in found}


STATEMENTS = (
    "from . import _shared",
    "from ._shared import thing",
    "from backends import _shared",
    "from backends._shared import thing",
    "import backends._shared",
    "import json, backends._shared as other",
    "def late():\n    from ._shared import thing",
    "class A:\n    def late(self):\n        import backends._shared",
    "if TYPE_CHECKING:\n    from ._shared import thing",
)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_kind_of_import_is_seen(tree: Path, statement: str) -> None:
    """Relative or absolute, at the top or in a function."""
    write(tree, {"backends/mine.py": statement, "backends/_shared.py": "", "backends/_not.py": ""})
    assert of_backends(tree, "mine") == {"mine.py", "_shared.py"}


NESTED = (
    ("mine/one.py", "from .._shared import x"),
    ("mine/sub/one.py", "from ..._shared.pool import x"),
    ("mine/sub/one.py", "from ... import _shared"),
    ("mine/sub/one.py", "import backends._shared.deep.pool"),
)


@pytest.mark.parametrize(("path", "statement"), NESTED)
def test_a_shared_folder_is_carried_whole(tree: Path, path: str, statement: str) -> None:
    """With its own folders; also if a module of a folder in a folder imports it."""
    shared = {"_shared/__init__.py", "_shared/pool.py", "_shared/deep/pool.py"}
    write(tree, {f"backends/{name}": "" for name in sorted(shared)})
    write(tree, {f"backends/{path}": statement})
    found = of_backends(tree, "mine")
    assert {name for name in found if name[0] == "_"} == {*shared, "_shared/deep/__init__.py"}


def test_what_is_shared_brings_what_it_imports(tree: Path) -> None:
    """To closure, in circles, too; a backend that another one imports, too; no other backend."""
    texts = {
        "mine/__init__.py": "from .work import a",
        "mine/work.py": "from backends._one import b",
        "_one/b.py": "def late():\n    from .._two.deep import c",
        "_two/deep.py": "from .. import other\nfrom ..mine import work",
        "other.py": "from kuwa_min import LLMExecutor",
        "unused.py": "import backends.mine",
    }
    for name, text in texts.items():
        write(tree, {f"backends/{name}": text})
    packages = {"_one/__init__.py", "_two/__init__.py"}
    assert of_backends(tree, "mine") == {*texts, *packages} - {"unused.py"}


def test_a_name_of_the_package_itself_brings_nothing(tree: Path) -> None:
    """Nor does a module that is not there."""
    write(tree, {"backends/mine.py": "from . import VERSION\nimport backends\nfrom .gone import x"})
    assert of_backends(tree, "mine") == {"mine.py"}


def test_what_editors_leave_behind_stays(tree: Path) -> None:
    """Hidden files and folders, bytecode and copies; data that is shipped travels."""
    write(tree, {"backends/mine/__init__.py": "", "backends/mine/page.html": "<p>"})
    for name in (".hidden.py", ".git/a.py", "#a.py#", "a.py.orig", "__pycache__/a.pyc"):
        path = tree / "backends/mine" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert of_backends(tree, "mine") == {"mine/__init__.py", "mine/page.html"}


def test_what_is_imported_at_once_is_what_stands_at_the_top(tree: Path) -> None:
    """To closure, with the packages on the way; nothing that is imported in a function."""
    texts = {
        "core/start.py": "from .deep.a import x\nimport json\ndef f():\n    from . import late",
        "core/deep/a.py": "from .. import b\nif TYPE_CHECKING:\n    from ..late import y",
        "core/b.py": "",
        "core/late.py": "",
    }
    write(tree, texts)
    expected = {*texts, "core/__init__.py", "core/deep/__init__.py"} - {"core/late.py"}
    assert imported_at_once("core/start.py") == expected


# -- the real one


@pytest.mark.parametrize("backend", ["debug", "dummy"])
def test_a_light_file_has_every_light_backend(backend: str) -> None:
    """They cost nothing, and a file to try things with is always at hand."""
    assert {name for name in carried(backend) if name.startswith("backends/")} >= LIGHT
    assert carried(backend) == carried("debug")


HEAVY = ("chatgpt", "geminipro", "huggingface", "llamacpp")


def slow(name: str) -> Any:
    """Return a row whose sources take long to read."""
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("backend", ["debug", *map(slow, HEAVY)])
def test_nothing_that_is_imported_is_left_behind(backend: str) -> None:
    """Of kuwa_min and backends, inside functions, too."""
    assert missing(carried(backend, with_payload=True), everywhere=True) == []


@pytest.mark.parametrize("backend", [HEAVY[0], *map(slow, HEAVY[1:])])
def test_a_heavy_file_has_its_backend_and_no_other_heavy_one(backend: str) -> None:
    """The light ones travel with it."""
    found = carried(backend, with_payload=True)
    assert found >= LIGHT
    homes = {name: {f"backends/{name}.py", f"backends/{name}/__init__.py"} for name in HEAVY}
    assert [name for name, paths in homes.items() if paths & found] == [backend]


def test_a_file_without_libraries_does_without_what_unpacks_them() -> None:
    """There is no cache to attack; a heavy one has all of kuwa_min."""
    light, heavy = (carried("debug", with_payload=flag) for flag in (False, True))
    left_out = heavy - light
    assert left_out
    assert all(name.startswith(FOR_LIBRARIES) for name in left_out)
    assert {name for name in light if name.startswith(FOR_LIBRARIES)} <= {*IN_EVERY_FILE}
    package = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("kuwa_min/**/*.py")}
    assert {name for name in package if not name.startswith(sources.PACKING)} <= heavy


def test_the_places_that_the_builder_names_exist() -> None:
    """A move of modules moves them."""
    for name in (*FOR_LIBRARIES, *IN_EVERY_FILE, sources.ACTIVATE, sources.PROGRAM):
        assert (ROOT / name).exists(), name
    assert set(IN_EVERY_FILE) <= carried("debug")


def test_a_file_without_libraries_has_what_its_modules_import() -> None:
    """At once; what only the verbs of files with libraries import is asked for in functions."""
    assert missing(carried("debug"), everywhere=False) == []


@pytest.mark.parametrize("with_payload", [False, True])
def test_every_file_has_what_files_written_for_kuwa_import(with_payload: bool) -> None:
    """A module of the same name as one of ours that is left out is not."""
    folder = ROOT / "kuwa_min/drop_in/kuwa/executor"
    expected = {path.relative_to(ROOT).as_posix() for path in folder.glob("*.py")}
    assert f"{folder.relative_to(ROOT).as_posix()}/cache.py" in expected
    assert expected <= carried("debug", with_payload=with_payload)


def test_nothing_that_makes_files_travels() -> None:
    """Nor anything but sources and the chat page."""
    for name in carried("huggingface", with_payload=True):
        assert "packing" not in name.split("/")
        assert name.endswith(".py") or name.startswith("kuwa_min/kernel/page/")


def test_the_sources_hash_is_what_sha256sum_gives() -> None:
    """Of the listing that sha256sum prints for them, sorted by name."""
    listing = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT).as_posix()}\n"
        for path in sources.sources("debug", with_payload=False)
    )
    lines = listing.splitlines()
    assert lines == sorted(lines, key=lambda line: line[66:])
    digest = hashlib.sha256(listing.encode()).hexdigest()
    assert sources_sha256("debug", with_payload=False) == digest
    assert sources_sha256("debug", with_payload=True) != digest
