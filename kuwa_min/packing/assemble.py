"""Build the file of one backend: the steps, from libraries to documents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from kuwa_min import __version__
from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.manifest import Manifest, Package, Payload, Target
from kuwa_min.bundle.sbom import bill_of_materials, is_license_file, license_report
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError
from kuwa_min.launch import MIN_PYTHON
from kuwa_min.packing.custom.check_imports import library_imports
from kuwa_min.packing.custom.executor_files import Executor, summary_of
from kuwa_min.packing.custom.plugins import find_plugins
from kuwa_min.packing.libraries.page_libraries import NO_PAGE_LIBRARIES, PageLibraries
from kuwa_min.packing.wheels.wheel import PayloadFile
from kuwa_min.progress import Progress
from kuwa_min.registry import BackendInfo

from . import core_zip
from .model_files import model_files
from .pyz import PayloadSpec, stored_file, write_document, write_file
from .sources import sources_sha256

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

ANYWHERE: Target = {
    "python": ">={}.{}".format(*MIN_PYTHON),
    "implementation": "cpython",
    "abi": "any",
    "bytecode": "",
    "platform": "any",
    "os": "any",
    "machine": "any",
    "glibc": "",
    "libraries": {},
    "cpu": [],
    "cuda": "",
    "driver": "",
    "gpu_libraries": [],
}


class Libraries(NamedTuple):
    """A backend's libraries: what they run on, their packages and their files."""

    target: Target
    packages: list[Package]
    files: list[PayloadFile]
    host_packages: list[str]


NO_LIBRARIES = Libraries(ANYWHERE, [], [], [])


class Recipe(NamedTuple):
    """How to build one file."""

    backend: BackendInfo
    output: Path
    libraries: Libraries
    model: Path | None  # to embed
    with_bytecode: bool
    executor: Executor | None = None  # a custom one, which the backend then describes
    changes_folder: bool = False  # whether it starts in its own folder
    page: PageLibraries = NO_PAGE_LIBRARIES


def build_file(recipe: Recipe, log_step: LogStep) -> Path:
    """Build <output>/kuwa-<backend>.pyz, its hash and documents; return the path of the .pyz."""
    core_zip.shiv_version()
    recipe.output.mkdir(parents=True, exist_ok=True)
    path = recipe.output / f"kuwa-{recipe.backend.name}.pyz"
    with tempfile.TemporaryDirectory(prefix="kuwa-build-", dir=recipe.output) as directory:
        folder = Path(directory)
        files = recipe.libraries.files
        if recipe.with_bytecode and files:
            files = [*files, *_bytecode(recipe, folder, log_step)]
        _write(path, recipe, files, folder / "core")
    _write_documents(path)
    return path


def _write(path: Path, recipe: Recipe, files: list[PayloadFile], staging: Path) -> None:
    specs = []
    if files:
        specs.append(PayloadSpec("libraries", _with_progress("writing the libraries", files)))
    if recipe.model:
        found = model_files(recipe.model)
        weights = [stored_file(one.source, one.path) for one in found]
        specs.append(PayloadSpec("model", _with_progress("writing the model", weights)))
    if recipe.executor:
        specs.append(PayloadSpec("executor", _own_files(recipe.executor)))
    minor = recipe.libraries.target["python"]
    python = core_zip.python_for(minor) if files else core_zip.python_for(python_minor())

    def entries(payloads: list[Payload]) -> dict[str, bytes]:
        manifest = _manifest(recipe, payloads, python)
        core = core_zip.make_core(manifest, _target_entry(recipe, payloads), python, staging)
        return core | recipe.page.entries

    write_file(path, specs, entries)


def _own_files(executor: Executor) -> list[PayloadFile]:
    """Return the files of a custom executor; programs among them stay executable."""
    return [
        stored_file(source, path)._replace(executable=bool(source.stat().st_mode & 0o100))
        for path, source in executor.files.items()
    ]


def _with_progress(title: str, files: list[PayloadFile]) -> Iterator[PayloadFile]:
    """Yield the files, and report how many of their bytes are written."""
    progress, done, total = Progress(title), 0, sum(file.stored for file in files)
    for file in files:
        yield file
        done += file.stored
        progress(done, total)
    progress.end()


def _manifest(recipe: Recipe, payloads: list[Payload], python: str) -> Manifest:
    """Return the manifest, whose types and reader are in kuwa_min.bundle.manifest."""
    libraries, name = recipe.libraries, recipe.backend.name
    own = sources_sha256(name, with_payload=bool(payloads))
    minor = libraries.target["python"].removeprefix(">=") if libraries.files else ""
    bytecode = (minor or python_minor()) if python else ""
    package: Package = {
        "name": "kuwa-min",
        "version": __version__,
        "wheel": "",
        "sha256": own,
        "license": "MIT",
        "spdx": True,
    }
    return {
        "name": "kuwa-min",
        "version": __version__,
        "backend": name,
        "executors": _executors(recipe),
        "built_for": {**libraries.target, "bytecode": bytecode},
        "packages": [package, *libraries.packages, *recipe.page.packages],
        "payloads": payloads,
        "host_packages": libraries.host_packages,
        "shiv_version": core_zip.shiv_version(),
        "built_at": core_zip.built_at(),
    }


def _executors(recipe: Recipe) -> dict[str, str]:
    """Return what the file has besides built-in backends: its own executors, and plugins."""
    found = find_plugins(recipe.libraries.files)
    if recipe.executor:
        files = recipe.executor.files
        found |= {name: summary_of(files[path]) for name, path in recipe.executor.mains.items()}
    return found


def _target_entry(recipe: Recipe, payloads: Iterable[Payload]) -> str:
    """Return the text of the entry "target", which the launcher reads: a key and words a line."""
    lines = {payload["kind"]: [payload["id"]] for payload in payloads}
    if not lines:
        return ""
    if recipe.model and recipe.model.is_file():
        lines["model"].append(quote(recipe.model.name))  # as one ASCII word
    lines |= {"python": [recipe.libraries.target["python"]], "serves": [recipe.backend.name]}
    if recipe.executor:
        mains = recipe.executor.mains.items()
        lines["executor"] += [quote(word) for pair in mains for word in pair]
        lines |= {"chdir": []} if recipe.changes_folder else {}
    plugins = find_plugins(recipe.libraries.files)
    lines |= {"plugins": sorted(plugins)} if plugins else {}
    if recipe.libraries.host_packages:
        lines["host"] = recipe.libraries.host_packages
    return "".join(f"{key} {' '.join(words)}\n" for key, words in sorted(lines.items()))


def _bytecode(recipe: Recipe, folder: Path, log_step: LogStep) -> list[PayloadFile]:
    """Build the file without bytecode, unpack it, and compile what is imported from there."""
    from kuwa_min.bundle.extract import extract_payload

    from .bytecode import compile_imported, import_statements

    name, minor = recipe.backend.name, recipe.libraries.target["python"]
    python = core_zip.python_for(minor)
    if not python:
        raise UsageError(f"--pyc needs python{minor} on this machine, and there is none")
    log_step(f"unpacking, to compile what {name} imports")
    draft = folder / f"{name}.pyz"
    _write(
        draft, recipe._replace(model=None, executor=None), recipe.libraries.files, folder / "draft"
    )
    archive, tree = Archive(str(draft)), (folder / "tree").absolute()
    tree.mkdir()
    progress = Progress("unpacking")
    extract_payload(archive, archive.payloads[0], str(tree), progress)
    progress.end()
    own = recipe.executor
    statements = library_imports(own) if own else import_statements(name, recipe.backend.requires)
    return compile_imported(name, statements, tree, python)


def _write_documents(path: Path) -> None:
    """Write the bill of materials and the license report beside the file."""
    archive = Archive(str(path))
    bill = path.with_name(f"{path.name}.cdx.json")
    write_document(bill, bill_of_materials(archive.manifest))
    report = license_report(archive.manifest, archive.texts(is_license_file))
    texts = path.with_name(f"{path.name}.licenses.txt")
    write_document(texts, report)
