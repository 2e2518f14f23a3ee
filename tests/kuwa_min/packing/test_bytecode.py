"""Bytecode of what is really imported: which statements, which modules, and that it is used."""

from __future__ import annotations

import importlib.util
import marshal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing import sources
from kuwa_min.packing.bytecode import OPTIONAL, compile_imported, import_statements
from kuwa_min.packing.wheels.wheel import PayloadFile

BACKEND = """
import some_lib
import some_lib.deep as deep, json
from some_lib.other import thing
from other_lib import x
from . import _helper
from kuwa_min.errors import UsageError

def late():
    import some_lib.late
    from unnamed import y
    try:
        from some_lib import newer
    except ImportError:
        pass
"""
HELPER = "from some_lib import helped\n"
OTHER = "import some_lib.never\n"
TREE = {
    "some_lib/__init__.py": "from . import used\n",
    "some_lib/used.py": "A = {'b', 'a', 'c'}\n",
    "some_lib/unused.py": "A = 1\n",
    "some_lib/broken.py": "this is no Python\n",
    "single.py": "import json\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that these are the backends."""
    (tmp_path / "backends").mkdir()
    for name, text in {"mine": BACKEND, "_helper": HELPER, "other": OTHER}.items():
        (tmp_path / "backends" / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Lay out an unpacked tree."""
    for name, text in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "tree"


def test_the_statements_are_those_of_the_backend_and_its_helpers(project: Path) -> None:
    """At the top and inside functions; of the libraries it requires, and of no other backend."""
    assert import_statements("mine", {"some_lib": "some-lib>=1"}) == [
        "from some_lib import helped",
        "from some_lib.other import thing",
        "import some_lib",
        "import some_lib.deep as deep, json",
        "import some_lib.late",
        "try: from some_lib import newer\nexcept ImportError: pass",
    ]


def test_what_an_older_library_lacks_is_left_out(tree: Path) -> None:
    """Where the backend goes on without it; other statements have to succeed."""
    newer = "from some_lib import newer"
    with pytest.raises(UsageError, match="--pyc imports what none imports"):
        compile_imported("none", [newer], tree, sys.executable)
    assert len(compile_imported("none", [OPTIONAL.format(newer)], tree, sys.executable)) == 2


def test_what_is_required_is_imported_even_if_no_statement_says_so(project: Path) -> None:
    """Transformers imports accelerate by itself."""
    assert "import accelerate" in import_statements("mine", {"accelerate": "accelerate>=1"})


@pytest.mark.slow
def test_the_statements_of_the_real_backends_name_their_libraries() -> None:
    """All of them can be read."""
    from kuwa_min.registry import backend_infos

    for name, backend in backend_infos().items():
        found = import_statements(name, backend.requires)
        assert {f"import {one}" for one in backend.requires} <= set(found)


def made(tree: Path, requires: tuple[str, ...] = ("some_lib", "single")) -> list[PayloadFile]:
    """Compile what these libraries import."""
    statements = import_statements("none", dict.fromkeys(requires, ""))
    return compile_imported("none", statements, tree, sys.executable)


def inflated(member: PayloadFile) -> bytes:
    """Return the bytecode."""
    return zlib.decompress(member.source.read_bytes(), -zlib.MAX_WBITS)


def test_only_what_is_imported_is_compiled(tree: Path) -> None:
    """Into the place where this Python looks for it; the rest need not even be Python."""
    tag = sys.implementation.cache_tag
    assert [member.path for member in made(tree)] == [
        f"__pycache__/single.{tag}.pyc",
        f"some_lib/__pycache__/__init__.{tag}.pyc",
        f"some_lib/__pycache__/used.{tag}.pyc",
    ]
    assert not list(tree.rglob("__pycache__"))


def test_it_is_never_compared_with_its_source(tree: Path) -> None:
    """Whatever the times of the files are (PEP 552); tracebacks show relative paths."""
    for member in made(tree):
        data = inflated(member)
        assert data[:4] == importlib.util.MAGIC_NUMBER
        assert data[4:8] == b"\1\0\0\0"  # hash-based, unchecked
        code = marshal.loads(data[16:])
        assert (tree / code.co_filename).is_file()


def test_the_contents_say_what_they_are(tree: Path) -> None:
    """Sizes and sum, as for a member of a wheel."""
    for member in made(tree):
        data = inflated(member)
        assert (member.size, member.crc, member.method) == (len(data), zlib.crc32(data), 8)
        assert (member.stored, member.offset) == (member.source.stat().st_size, 0)
        assert (member.executable, member.sha256) == (False, "")


def test_python_starts_from_it(tree: Path) -> None:
    """Also where the source says something else, and nothing is written."""
    for member in made(tree):
        path = tree / member.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(inflated(member))
    (tree / "some_lib" / "used.py").write_text("A = 'the source'\n", encoding="ascii")
    words = [sys.executable, "-B", "-c", "import some_lib; print(sorted(some_lib.used.A))"]
    done = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=True)
    assert done.stdout == "['a', 'b', 'c']\n"


def test_it_is_the_same_bytes_in_another_place(tree: Path, tmp_path: Path) -> None:
    """And with another hash seed, though a set is in it."""
    first = {member.path: inflated(member) for member in made(tree)}
    tree.with_name("tree-bytecode").rename(tmp_path / "first")
    moved = tree.rename(tmp_path / "elsewhere")
    assert first == {member.path: inflated(member) for member in made(moved)}


def test_what_libraries_print_does_not_matter(tree: Path) -> None:
    """Some greet."""
    (tree / "single.py").write_text("print('Welcome')\nprint('[]', end='')\n", encoding="ascii")
    assert len(made(tree)) == 3


def test_libraries_that_cannot_be_imported_here_are_one_line(
    tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Behind the traceback of the import itself, which says why."""
    with pytest.raises(UsageError, match="--pyc imports what none imports, and that failed here"):
        made(tree, ("no_such_library",))
    assert "No module named 'no_such_library'" in capfd.readouterr().err
