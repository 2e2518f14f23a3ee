"""The core archive: which sources travel, what stands beside them, and for which Python."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import marshal
import os
import sys
import zipfile
import zlib
from pathlib import Path
from types import CodeType

import pytest
from manifests import EXAMPLE, HEAVY
from programs import ROOT
from pythons import python_of

from kuwa_min.errors import UsageError
from kuwa_min.launch import EARLY, bytecode_name
from kuwa_min.manifest import Manifest
from kuwa_min.packing import core

HERE = core.this_minor()
AIM = "libraries 0123\npython 3.12\nserves huggingface\n"
LIGHT = ["__init__", "debug", "dummy"]
SHARED = ["_chat", "_engine", "_model_executor", "_model_path", "_pace", "_reader", "_request"]
TEMPLATES = ["_chat_template", "_template_child", "_template_language"]  # read as sources


def names(backend: str, folder: str, *, with_payload: bool) -> list[str]:
    """Return the modules of one of our folders that travel."""
    found = core.sources(backend, with_payload=with_payload)
    return [path.stem for path in found if path.parent == ROOT / folder]


# -- which sources travel


@pytest.mark.parametrize("backend", ["debug", "dummy"])
def test_a_light_file_has_every_light_backend(backend: str) -> None:
    """They cost nothing, and a file to try things with is always at hand."""
    assert names(backend, "backends", with_payload=False) == LIGHT


HELPERS = (
    ("huggingface", ["_transformers_batch", "_transformers_vision", "_images"], ["_llama_batch"]),
    (
        "llamacpp",
        ["_llama_batch", "_llama_check", "_llama_library"],
        ["_transformers_model", "_images"],
    ),
)


@pytest.mark.parametrize(("backend", "needed", "others"), HELPERS)
def test_a_heavy_file_has_its_backend_and_what_that_imports(
    backend: str, needed: list[str], others: list[str]
) -> None:
    """Also inside functions, and what the helpers import; nothing of another heavy one."""
    found = names(backend, "backends", with_payload=True)
    assert {backend, *LIGHT, *SHARED, *TEMPLATES, *needed} <= set(found)
    assert not set(others) & set(found)
    assert ("huggingface" in found, "llamacpp" in found).count(True) == 1


@pytest.mark.parametrize("backend", ["debug", "huggingface", "llamacpp"])
def test_no_import_of_a_backend_is_left_behind(backend: str) -> None:
    """Every module beside them that one of them names travels with it."""
    found = names(backend, "backends", with_payload=True)
    wanted = set()
    for name in found:
        for node in ast.walk(ast.parse((ROOT / "backends" / f"{name}.py").read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level:
                wanted |= {node.module} if node.module else {one.name for one in node.names}
    assert wanted <= set(found)


def test_a_file_without_libraries_does_without_what_unpacks_them() -> None:
    """It is small, and there is no cache to attack; a heavy one has them all."""
    light, heavy = (set(names("debug", "kuwa_min", with_payload=flag)) for flag in (False, True))
    assert heavy - light == core.UNPACKERS
    assert {path.stem for path in (ROOT / "kuwa_min").glob("*.py")} <= heavy


def test_a_file_without_libraries_has_what_its_modules_import() -> None:
    """At once; what only the verbs of files with libraries import is asked for in functions."""
    paths = core.sources("debug", with_payload=False)
    have = {path.stem for path in paths if path.parent == core.CORE}
    found = [
        (path.name, name)
        for path in paths
        if path.parent == core.CORE and path.suffix == ".py"
        for node in ast.parse(path.read_bytes()).body
        for name in core._neighbours(node)
        if (core.CORE / f"{name}.py").exists() and name not in have
    ]
    assert found == []


@pytest.mark.parametrize("with_payload", [False, True])
def test_every_file_has_what_files_written_for_kuwa_import(with_payload: bool) -> None:
    """A module of the same name as one of ours that is left out is not."""
    found = names("debug", "kuwa_min/drop_in/kuwa/executor", with_payload=with_payload)
    folder = ROOT / "kuwa_min/drop_in/kuwa/executor"
    assert found == sorted(path.stem for path in folder.glob("*.py"))
    assert "cache" in found


def test_nothing_that_makes_files_travels() -> None:
    """Nor what editors leave behind."""
    for path in core.sources("huggingface", with_payload=True):
        assert "packing" not in path.parts
        assert path.suffix in (".py", ".html")


def test_the_sources_hash_is_what_sha256sum_gives() -> None:
    """Of the listing that sha256sum prints for them, sorted by name."""
    listing = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT).as_posix()}\n"
        for path in core.sources("debug", with_payload=False)
    )
    lines = listing.splitlines()
    assert lines == sorted(lines, key=lambda line: line[66:])
    digest = hashlib.sha256(listing.encode()).hexdigest()
    assert core.sources_sha256("debug", with_payload=False) == digest
    assert core.sources_sha256("debug", with_payload=True) != digest


# -- time


TIMES = (
    (None, "1980-01-01 00:00:00"),
    ("0", "1980-01-01 00:00:00"),
    ("1700000000", "2023-11-14 22:13:20"),
    ("99999999999", "2107-12-31 23:59:59"),
)


@pytest.mark.parametrize(("text", "expected"), TIMES)
def test_the_time_is_source_date_epoch_or_none_at_all(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str
) -> None:
    """Within what a zip can say; never the clock."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if text is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert core.built_at() == expected


@pytest.mark.parametrize("text", ["now", "", "1.5"])
def test_an_impossible_time_is_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """With what was found."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH is '{text}', not a number of seconds"):
        core.built_at()


# -- the zip


def test_the_zip_is_the_same_whatever_the_order_of_its_entries() -> None:
    """Of one time and mode; compressed; positions count from the prefix's start."""
    entries = {"b": b"2" * 1000, "a": b"1", "folder/": b""}
    made = core.zip_of(entries, b"#!\n")
    assert made == core.zip_of(dict(reversed(entries.items())), b"#!\n")
    assert made.startswith(b"#!\nPK\3\4")
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        found = archive.infolist()
        assert {one.filename: archive.read(one) for one in found} == entries
    assert [one.filename for one in found] == ["a", "b", "folder/"]
    assert {one.date_time for one in found} == {(1980, 1, 1, 0, 0, 0)}
    assert [one.external_attr >> 16 for one in found] == [0o100644, 0o100644, 0o40755]
    assert {one.compress_type for one in found} == {zipfile.ZIP_DEFLATED}


# -- the entries


def made(folder: Path, manifest: Manifest, aim: str, python: str) -> dict[str, bytes]:
    """Make a core in a folder of its own."""
    folder.mkdir()
    return core.make_core(manifest, aim, python, folder / "core")


def root_of(entries: dict[str, bytes]) -> set[str]:
    """Return the entries that are no sources."""
    return {name for name in entries if not name.startswith("site-packages/")}


def test_the_core_has_sources_launcher_facts_and_bytecode(tmp_path: Path) -> None:
    """Nothing of shiv's bootstrap, which the launcher replaces."""
    entries = made(tmp_path / "1", EXAMPLE, "", sys.executable)
    launcher = {"__main__.py", "kuwa_launch.py", "kuwa_launch.pyc"}
    facts = {"environment.json", "manifest.json"}
    assert root_of(entries) == {*launcher, *facts, bytecode_name()}
    assert json.loads(entries["manifest.json"]) == EXAMPLE
    sources = core.sources("debug", with_payload=False)
    own = {f"site-packages/{path.relative_to(ROOT).as_posix()}" for path in sources}
    own -= {"site-packages/kuwa_min/launch.py"}
    assert set(entries) - root_of(entries) == {*own, core.NAMESPACE}
    assert entries == made(tmp_path / "2", EXAMPLE, "", sys.executable)


@pytest.mark.parametrize("python", [sys.executable, ""])
def test_what_runs_elsewhere_can_be_read_as_source(tmp_path: Path, python: str) -> None:
    """The process that renders a chat's template is sent it; bytecode would be of no use there."""
    entries = made(tmp_path / "1", HEAVY, AIM, python)
    for name in TEMPLATES:
        source = ROOT / "backends" / f"{name}.py"
        assert entries[f"site-packages/backends/{name}.py"] == source.read_bytes()


def test_without_its_python_a_core_has_no_bytecode(tmp_path: Path) -> None:
    """What the launcher must know is an entry."""
    entries = made(tmp_path / "1", HEAVY, AIM, "")
    facts = {"environment.json", "manifest.json", "target"}
    assert root_of(entries) == {"__main__.py", "kuwa_launch.py", *facts}
    assert entries["target"] == AIM.encode()
    assert "site-packages/kuwa_min/unpacking.py" in entries


def block_of(data: bytes) -> dict[str, CodeType]:
    """Read a block of bytecode."""
    assert zlib.crc32(data[4:]) == int.from_bytes(data[:4], "big")
    codes: dict[str, CodeType] = marshal.loads(data[4:])
    return codes


def test_the_bytecode_is_of_what_is_imported_in_a_hurry(tmp_path: Path) -> None:
    """With the names that tracebacks show, and without docstrings but those that --help shows."""
    entries = made(tmp_path / "1", HEAVY, AIM, sys.executable)
    early, codes = (block_of(entries[name]) for name in (bytecode_name(EARLY), bytecode_name()))
    assert set(early) == set(core.EARLY.split())
    assert not set(early) & set(codes)
    assert {"kuwa_min.cli", "kuwa_min.unpacking", "backends.huggingface"} <= set(codes)
    assert not {f"kuwa_min.{name}" for name in core.UNHURRIED} & set(codes)
    for name, code in {**early, **codes}.items():
        assert f"site-packages/{name.replace('.', '/')}" in code.co_filename
        assert code.co_filename in entries


def test_bytecode_can_be_for_another_python(tmp_path: Path) -> None:
    """Made by that Python itself."""
    python = python_of("3.12" if HERE != "3.12" else "3.13")
    entries = made(tmp_path / "1", EXAMPLE, "", python)
    (name,) = [name for name in entries if name.startswith("bytecode-")]
    assert name != bytecode_name()


# -- Pythons


def test_this_python_is_this_executable() -> None:
    """By the name that the manifest gives its minor."""
    assert core.python_for(HERE) == sys.executable
    assert HERE.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


def fake_python(folder: Path, name: str, script: str) -> Path:
    """Write a program of this name, alone on the path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)
    return path


OTHERS = (
    ("printf 3.99", True),
    ("printf 3.98", False),
    ("echo 'version 3.99 is not installed' >&2; exit 127", False),
    ("exit 0", False),
)


@pytest.mark.parametrize(("script", "is_found"), OTHERS)
def test_another_python_must_be_what_its_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, is_found: bool
) -> None:
    """Version managers leave names behind that start nothing."""
    path = fake_python(tmp_path, "python3.99", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    assert core.python_for("3.99") == (str(path) if is_found else "")


def test_a_python_that_is_not_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file does without bytecode."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert core.python_for("3.99") == ""


def test_pythons_that_compile_know_no_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither its variables nor its site: the bytes would depend on them."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    ask = "import os, sys; print(sorted(n for n in os.environ if n[:6] == 'PYTHON'), sys.flags)"
    told = core.run_python(sys.executable, ["-c", ask], tmp_path).decode()
    assert told.startswith("['PYTHONHASHSEED'] ")
    for flag in ("no_site=1", "optimize=0", "hash_randomization=0"):
        assert flag in told
    assert "/nowhere" not in told


def test_shiv_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""

    def missing(name: str) -> str:
        raise core.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(core.importlib.metadata, "version", missing)
    with pytest.raises(UsageError, match=r"shiv is missing: pip install shiv==1\.0\.8"):
        core.shiv_version()
