"""A whole build: one file, what lies beside it, and what it says of itself."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from kuwa_min import __version__
from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.manifest import Target
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError
from kuwa_min.packing import core_zip
from kuwa_min.packing.assemble import ANYWHERE, NO_LIBRARIES, Libraries, Recipe, build_file
from kuwa_min.packing.sources import sources_sha256
from kuwa_min.packing.wheels.wheel import read_wheel
from kuwa_min.registry import backend_infos
from tests.support.small_files import files_of, make_wheel

pytest.importorskip("shiv", reason="build.py needs shiv: pip install shiv==1.0.8")

HERE = python_minor()
FILES = {"torch/__init__.py": b"A = 1\n", "torch/unused.py": b"B = 2\n"}
DOCUMENTS = ("", ".cdx.json", ".licenses.txt", ".sha256")


def libraries(folder: Path, python: str = HERE, host: tuple[str, ...] = ()) -> Libraries:
    """Return one small library, for this Python or for another."""
    target: Target = {**ANYWHERE, "python": python, "abi": f"cp{python.replace('.', '')}"}
    wheel = make_wheel(folder, "torch", FILES)
    return Libraries(target, [read_wheel(wheel, "a" * 64).package], files_of(wheel), [*host])


def recipe(folder: Path, backend: str = "huggingface", **more: object) -> Recipe:
    """Return how to make a file of one small library."""
    requires = {"torch": "torch"} if backend != "debug" else {}
    info = backend_infos()[backend]._replace(requires=requires)
    made = NO_LIBRARIES if backend == "debug" else libraries(folder)
    return Recipe(info, folder / "dist", made, None, False)._replace(**more)  # type: ignore[arg-type]


def build(made: Recipe) -> tuple[Path, list[str]]:
    """Make it; return the file and what was told."""
    lines: list[str] = []
    return build_file(made, lines.append), lines


def aim_of(path: Path) -> list[str]:
    """Read what the launcher reads."""
    with zipfile.ZipFile(path) as archive:
        return archive.read("target").decode().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["debug", "huggingface"])
def test_a_build_leaves_the_file_and_its_documents(tmp_path: Path, backend: str) -> None:
    """No folder to work in, no .part; what is told goes elsewhere."""
    path, lines = build(recipe(tmp_path, backend))
    name = f"kuwa-{backend}.pyz"
    assert path == tmp_path / "dist" / name
    assert sorted(one.name for one in path.parent.iterdir()) == [name + end for end in DOCUMENTS]
    assert lines == []
    bill = json.loads((path.parent / f"{name}.cdx.json").read_text(encoding="utf-8"))
    purls = [part["purl"] for part in bill["components"]]
    own = f"pkg:pypi/kuwa-min@{__version__}"
    assert purls == [own, *([] if backend == "debug" else ["pkg:pypi/torch@1.0"])]
    report = (path.parent / f"{name}.licenses.txt").read_text(encoding="utf-8")
    assert report.startswith(f"Licences of kuwa-min {__version__}, {backend}\n")


@pytest.mark.slow
def test_a_file_without_libraries_runs_anywhere(tmp_path: Path) -> None:
    """Its bytecode is for this Python, whatever others may start it; nothing is to be unpacked."""
    path, _ = build(recipe(tmp_path, "debug"))
    manifest = Archive(str(path)).manifest
    assert manifest["built_for"] == {**ANYWHERE, "bytecode": HERE}
    assert (manifest["payloads"], manifest["host_packages"]) == ([], [])
    assert [package["name"] for package in manifest["packages"]] == ["kuwa-min"]
    with zipfile.ZipFile(path) as archive:
        assert "target" not in archive.namelist()


@pytest.mark.slow
def test_a_file_with_libraries_says_what_they_are_for(tmp_path: Path) -> None:
    """The launcher reads the entry "target", all others the manifest."""
    path, _ = build(recipe(tmp_path))
    manifest = Archive(str(path)).manifest
    key = manifest["payloads"][0]["id"]
    assert aim_of(path) == [f"libraries {key}", f"python {HERE}", "serves huggingface"]
    assert [package["name"] for package in manifest["packages"]] == ["kuwa-min", "torch"]
    assert manifest["built_for"]["bytecode"] == HERE
    sources = sources_sha256("huggingface", with_payload=True)
    assert manifest["packages"][0]["sha256"] == sources


@pytest.mark.slow
def test_a_file_for_a_python_that_is_not_here_has_no_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles its sources at each start there, and says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path, _ = build(recipe(tmp_path, libraries=libraries(tmp_path, "3.99")))
    assert Archive(str(path)).manifest["built_for"]["bytecode"] == ""
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.startswith("bytecode-")]


@pytest.mark.slow
def test_a_thin_file_says_what_the_host_must_have(tmp_path: Path) -> None:
    """The launcher leaves the host's packages on the path for it."""
    path, _ = build(recipe(tmp_path, libraries=libraries(tmp_path, host=("torch",))))
    assert "host torch" in aim_of(path)
    assert Archive(str(path)).manifest["host_packages"] == ["torch"]


# -- models


@pytest.mark.slow
def test_a_model_folder_travels_as_a_second_payload(tmp_path: Path) -> None:
    """The libraries' id does not depend on it: another model unpacks nothing else anew."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="ascii")
    plain = Archive(str(build(recipe(tmp_path))[0])).payloads
    path, _ = build(recipe(tmp_path, model=model))
    payloads = Archive(str(path)).payloads
    assert [one["kind"] for one in payloads] == ["libraries", "model"]
    assert payloads[0]["id"] == plain[0]["id"]
    assert f"model {payloads[1]['id']}" in aim_of(path)


NAMES = (("small.gguf", "small.gguf"), ("my 中.gguf", "my%20%E4%B8%AD.gguf"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "word"), NAMES)
def test_a_model_of_one_file_is_named(tmp_path: Path, name: str, word: str) -> None:
    """One word for the launcher, whatever the name is made of."""
    (tmp_path / name).write_bytes(b"GGUF")
    path, _ = build(recipe(tmp_path, model=tmp_path / name))
    assert f"model {Archive(str(path)).payloads[1]['id']} {word}" in aim_of(path)


@pytest.mark.slow
def test_every_part_of_a_model_travels(tmp_path: Path) -> None:
    """llama.cpp is told the first and looks for the others beside it."""
    names = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for name in names:
        (tmp_path / name).write_text(name, encoding="ascii")
    archive = Archive(str(build(recipe(tmp_path, model=tmp_path / names[0]))[0]))
    assert [file.path for file in archive.index(archive.payloads[1]).files] == names
    assert aim_of(Path(archive.path))[1] == f"model {archive.payloads[1]['id']} {names[0]}"


# -- bytecode of the libraries


@pytest.mark.slow
def test_bytecode_of_what_is_imported_can_travel(tmp_path: Path) -> None:
    """Beside the sources, so the first start is no slower than the second."""
    path, lines = build(recipe(tmp_path, with_bytecode=True))
    archive = Archive(str(path))
    paths = {file.path for file in archive.index(archive.payloads[0]).files}
    tag = sys.implementation.cache_tag
    assert f"torch/__pycache__/__init__.{tag}.pyc" in paths
    assert f"torch/__pycache__/unused.{tag}.pyc" not in paths
    assert lines == ["unpacking, to compile what huggingface imports"]
    assert sorted(one.name for one in path.parent.iterdir()) == [
        path.name + end for end in DOCUMENTS
    ]


@pytest.mark.slow
def test_bytecode_can_be_made_where_others_may_write(tmp_path: Path) -> None:
    """Such as a project that a group shares: a build checks no owners, unlike a start."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist").chmod(0o777)
    assert build(recipe(tmp_path, with_bytecode=True))[0].exists()


def test_bytecode_needs_the_python_that_the_file_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says which; nothing is left of the attempt."""
    monkeypatch.setenv("PATH", str(tmp_path))
    other = recipe(tmp_path, libraries=libraries(tmp_path, "3.99"), with_bytecode=True)
    with pytest.raises(UsageError, match=r"--pyc needs python3\.99 on this machine, and there is"):
        build(other)
    assert list((tmp_path / "dist").iterdir()) == []


@pytest.mark.slow
def test_bytecode_of_no_libraries_is_nothing(tmp_path: Path) -> None:
    """The option is for those that have some, when several are built at once."""
    plain = build(recipe(tmp_path, "debug"))[0].read_bytes()
    assert build(recipe(tmp_path, "debug", with_bytecode=True))[0].read_bytes() == plain


# -- the same again


@pytest.mark.slow
def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    """In other folders, under another umask; a second one replaces the first."""
    paths = []
    for number, umask in enumerate((0o022, 0o077)):
        (tmp_path / f"{number}").mkdir()
        former = os.umask(umask)
        try:
            made = recipe(tmp_path / f"{number}", with_bytecode=True)
            paths.append(build(made)[0])
        finally:
            os.umask(former)
    for end in DOCUMENTS:
        one, two = (path.with_name(path.name + end).read_bytes() for path in paths)
        assert one == two
    assert build(made)[0].read_bytes() == paths[0].read_bytes()


def test_shiv_is_looked_for_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolving and copying for minutes would be in vain."""

    def missing() -> str:
        raise UsageError("shiv is missing")

    monkeypatch.setattr(core_zip, "shiv_version", missing)
    with pytest.raises(UsageError, match="shiv is missing"):
        build(recipe(tmp_path))
    assert not (tmp_path / "dist").exists()
