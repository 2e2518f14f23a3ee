"""Make the carry-in kit: a folder with a built file, its model, start script and README."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.signed_kit import SIGNERS, SUMS
from kuwa_min.errors import UsageError
from kuwa_min.packing.model_files import model_files
from kuwa_min.packing.wheels.wheelhouse import sha256_of
from kuwa_min.progress import Progress

from .signing import allowed_signers, check_key, sign
from .texts import BESIDE, texts


class KitFile(NamedTuple):
    """One file that goes into the kit, and its path there."""

    source: Path
    path: str


def make_kit(
    folder: Path, archive: Path, backend: str, model: Path | None, key: Path | None = None
) -> None:
    """Make the kit in a new or empty folder; raises UsageError or OSError, and then removes it.

    model is a folder or a .gguf file, or None if there is none or the file has it embedded; key is
    the one to sign the kit with. On the same file system, files are hard links to the originals.
    """
    check_is_free(folder)
    program, weights = _program(archive), _model(model)
    arguments = [backend, *_model_arguments(model)]
    size = sum(file.source.stat().st_size for file in weights)
    manifest = Archive(str(archive)).manifest
    signer = check_key(key) if key else ""
    written = texts(manifest, arguments, [file.path for file in program], size, signer)
    if signer:
        written[SIGNERS] = allowed_signers(signer)
    with _removed_on_failure(folder):
        for file in [*program, *weights]:
            _link_or_copy(file, folder)
        for name, text in written.items():
            _write(folder / name, text)
        _make_executable(folder / "start.sh")
        _write(folder / SUMS, _sums(folder))
        if key:
            sign(folder, key)


def check_is_free(folder: Path) -> None:
    """Raise UsageError if a kit cannot be made in this folder."""
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise UsageError(f"{folder} is not empty: name a folder that is empty or not there yet")


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Make the folder; remove it on failure, because a partial kit looks like a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


# -- files that exist


def _program(archive: Path) -> list[KitFile]:
    if not archive.is_file():
        raise UsageError(f"{archive}: there is no such file; build it first")
    companions = (archive.with_name(archive.name + suffix) for suffix in BESIDE)
    return [_kit_file(path, path.name) for path in (archive, *companions) if path.is_file()]


def _model(model: Path | None) -> list[KitFile]:
    return (
        [_kit_file(one.source, f"model/{one.path}") for one in model_files(model)] if model else []
    )


def _kit_file(source: Path, path: str) -> KitFile:
    if re.search(r"[\\\n\r]", path):  # sha256sum escapes such names
        raise UsageError(f"{str(source)!r}: a backslash or a line break cannot be in a kit's names")
    return KitFile(source, path)


def _link_or_copy(file: KitFile, folder: Path) -> None:
    copy = folder / file.path
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        copy.hardlink_to(file.source.resolve())
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file.source, copy)
        if copy.suffix == ".pyz":
            _make_executable(copy)


def _make_executable(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # FAT has no modes
        path.chmod(0o755)


# -- files that are written


def _model_arguments(model: Path | None) -> list[str]:
    if model is None:
        return []
    return ["--model_path", "{here}/model" if model.is_dir() else f"{{here}}/model/{model.name}"]


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names may be any bytes


def _sums(folder: Path) -> str:
    """Return the SHA256SUMS for `sha256sum -c`, sorted as by `LC_ALL=C sort`."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name: path for name, path in sorted(paths.items()) if path.is_file()}
    progress, done = Progress("hashing the kit"), 0
    total = sum(path.stat().st_size for path in files.values())
    lines = []
    for name, path in files.items():
        lines.append(f"{sha256_of(path)}  {name}\n")
        done += path.stat().st_size
        progress(done, total)
    progress.end()
    return "".join(lines)
