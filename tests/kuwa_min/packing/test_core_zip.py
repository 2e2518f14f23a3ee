"""The core archive: what stands beside the sources, and for which Python."""

from __future__ import annotations

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

from kuwa_min.bundle.manifest import Manifest
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError
from kuwa_min.launch import BYTECODE, EARLY, LATE, bytecode_name
from kuwa_min.packing import core_zip
from kuwa_min.packing.sources import ACTIVATE, sources
from tests.support.manifests import EXAMPLE, HEAVY
from tests.support.programs import ROOT
from tests.support.pythons import python_of

HERE = python_minor()
TARGET = "libraries 0123\npython 3.12\nserves huggingface\n"
TEMPLATES = "backends/_local/templates"  # read as sources


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
    assert core_zip.built_at() == expected


@pytest.mark.parametrize("text", ["now", "", "1.5"])
def test_an_impossible_time_is_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """With what was found."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH is '{text}', not a number of seconds"):
        core_zip.built_at()


# -- the zip


def test_the_zip_is_the_same_whatever_the_order_of_its_entries() -> None:
    """Of one time and mode; compressed; positions count from the prefix's start."""
    entries = {"b": b"2" * 1000, "a": b"1", "folder/": b""}
    made = core_zip.zip_of(entries, b"#!\n")
    assert made == core_zip.zip_of(dict(reversed(entries.items())), b"#!\n")
    assert made.startswith(b"#!\nPK\3\4")
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        found = archive.infolist()
        assert {one.filename: archive.read(one) for one in found} == entries
    assert [one.filename for one in found] == ["a", "b", "folder/"]
    assert {one.date_time for one in found} == {(1980, 1, 1, 0, 0, 0)}
    assert [one.external_attr >> 16 for one in found] == [0o100644, 0o100644, 0o40755]
    assert {one.compress_type for one in found} == {zipfile.ZIP_DEFLATED}


# -- the entries


def made(folder: Path, manifest: Manifest, target_text: str, python: str) -> dict[str, bytes]:
    """Make a core in a folder of its own."""
    folder.mkdir()
    return core_zip.make_core(manifest, target_text, python, folder / "core")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make the core of a light file for this Python, once."""
    return made(tmp_path_factory.mktemp("light") / "1", EXAMPLE, "", sys.executable)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make the core of a heavy file for this Python, once."""
    return made(tmp_path_factory.mktemp("heavy") / "1", HEAVY, TARGET, sys.executable)


def root_of(entries: dict[str, bytes]) -> set[str]:
    """Return the entries that are no sources."""
    return {name for name in entries if not name.startswith("site-packages/")}


@pytest.mark.slow
def test_the_core_has_sources_launcher_facts_and_bytecode(
    light: dict[str, bytes], tmp_path: Path
) -> None:
    """Nothing of shiv's bootstrap, which the launcher replaces."""
    launcher = {"__main__.py", "kuwa_launch.py", "kuwa_launch.pyc"}
    facts = {"environment.json", "manifest.json"}
    assert root_of(light) == {*launcher, *facts, bytecode_name(), bytecode_name(LATE)}
    assert json.loads(light["manifest.json"]) == EXAMPLE
    found = sources("debug", with_payload=False)
    own = {f"site-packages/{path.relative_to(ROOT).as_posix()}" for path in found}
    own -= {"site-packages/kuwa_min/launch.py"}
    inside = set(light) - root_of(light)
    assert {name for name in inside if not name.endswith("/")} == own
    assert light == made(tmp_path / "2", EXAMPLE, "", sys.executable)


@pytest.mark.slow
def test_what_runs_elsewhere_can_be_read_as_source(heavy: dict[str, bytes]) -> None:
    """The process that renders a chat's template is sent it; bytecode would be of no use there."""
    assert_templates(heavy)


def assert_templates(entries: dict[str, bytes]) -> None:
    """Check that these entries are the sources."""
    for name in ("jinja_env", "chat_template", "sandbox_child"):
        source = ROOT / TEMPLATES / f"{name}.py"
        assert entries[f"site-packages/{TEMPLATES}/{name}.py"] == source.read_bytes()


@pytest.mark.slow
def test_without_its_python_a_core_has_no_bytecode(tmp_path: Path) -> None:
    """What the launcher must know is an entry."""
    entries = made(tmp_path / "1", HEAVY, TARGET, "")
    assert_templates(entries)
    facts = {"environment.json", "manifest.json", "target"}
    assert root_of(entries) == {"__main__.py", "kuwa_launch.py", *facts}
    assert entries["target"] == TARGET.encode()
    assert "site-packages/kuwa_min/bundle/provision.py" in entries


def block_of(data: bytes) -> dict[str, CodeType]:
    """Read a block of bytecode."""
    assert zlib.crc32(data[4:]) == int.from_bytes(data[:4], "big")
    codes: dict[str, CodeType] = marshal.loads(data[4:])
    return codes


@pytest.mark.slow
def test_each_module_has_bytecode_in_the_block_of_its_time(heavy: dict[str, bytes]) -> None:
    """What finds the libraries, then the program and the backends, then all else."""
    blocks = {title: block_of(heavy[bytecode_name(title)]) for title in (EARLY, BYTECODE, LATE)}
    early = {"kuwa_min", "kuwa_min.errors", module_of(ACTIVATE)}
    assert early <= set(blocks[EARLY])
    assert {"kuwa_min.cli", "kuwa_min.executor", "backends.huggingface"} <= set(blocks[BYTECODE])
    assert {"kuwa_min.compat", "kuwa_min.registry"} & set(blocks[LATE]) == {"kuwa_min.compat"}
    codes = [(name, code) for block in blocks.values() for name, code in block.items()]
    sources = {name.removeprefix("site-packages/") for name in heavy if name.endswith(".py")}
    modules = {module_of(name) for name in sources if not name.startswith(core_zip.DROP_IN)}
    assert sorted(name for name, _ in codes) == sorted(modules - {"__main__", "kuwa_launch"})
    for name, code in codes:
        assert module_of(code.co_filename.removeprefix("site-packages/")) == name
        assert code.co_filename in heavy


def module_of(path: str) -> str:
    """Return the name of the module at a path below site-packages."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.slow
def test_a_light_file_has_no_early_block(light: dict[str, bytes]) -> None:
    """Its launcher imports the program at once."""
    assert bytecode_name(EARLY) not in light
    assert {"kuwa_min", "kuwa_min.errors"} <= set(block_of(light[bytecode_name()]))


@pytest.mark.slow
def test_what_a_file_carries_are_the_bytes_of_the_tree(light: dict[str, bytes]) -> None:
    """So that the hash in the manifest is that of what is inside."""
    for path in sources("debug", with_payload=False):
        name = path.relative_to(ROOT).as_posix()
        inside = "kuwa_launch.py" if name == core_zip.LAUNCH else f"site-packages/{name}"
        assert light[inside] == path.read_bytes()


@pytest.mark.slow
def test_a_folder_without_init_has_an_entry(tmp_path: Path) -> None:
    """Before Python 3.13 zipimport finds it by nothing else."""
    entries = made(tmp_path / "1", EXAMPLE, "", "")
    folders = {name for name in entries if name.endswith("/")}
    drop_in = "site-packages/kuwa_min/drop_in/"
    assert folders == {drop_in, f"{drop_in}kuwa/"}


@pytest.mark.slow
def test_bytecode_can_be_for_another_python(tmp_path: Path) -> None:
    """Made by that Python itself."""
    python = python_of("3.12" if HERE != "3.12" else "3.13")
    entries = made(tmp_path / "1", EXAMPLE, "", python)
    (name,) = [name for name in entries if name.startswith("bytecode-")]
    assert name != bytecode_name()


# -- Pythons


def test_this_python_is_this_executable() -> None:
    """By the name that the manifest gives its minor."""
    assert core_zip.python_for(HERE) == sys.executable
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
    assert core_zip.python_for("3.99") == (str(path) if is_found else "")


def test_a_python_that_is_not_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file does without bytecode."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert core_zip.python_for("3.99") == ""


def test_pythons_that_compile_know_no_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither its variables nor its site: the bytes would depend on them."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    ask = "import os, sys; print(sorted(n for n in os.environ if n[:6] == 'PYTHON'), sys.flags)"
    told = core_zip.run_python(sys.executable, ["-c", ask], tmp_path).decode()
    assert told.startswith("['PYTHONHASHSEED'] ")
    for flag in ("no_site=1", "optimize=0", "hash_randomization=0"):
        assert flag in told
    assert "/nowhere" not in told


def test_shiv_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""

    def missing(name: str) -> str:
        raise core_zip.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(core_zip.importlib.metadata, "version", missing)
    with pytest.raises(UsageError, match=r"shiv is missing: pip install shiv==1\.0\.8"):
        core_zip.shiv_version()
