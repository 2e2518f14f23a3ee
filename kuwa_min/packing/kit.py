"""The carry-in kit: a folder with a built file, its model, and what starts them elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kuwa_min.archive import Archive
from kuwa_min.errors import UsageError

from .kit_texts import BESIDE, SUMS, texts

SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})\.gguf")
PIECE = 1 << 20  # bytes


class Entry(NamedTuple):
    """One file that the kit takes over: where it lies and its path in the kit."""

    source: Path
    path: str


def make_kit(
    folder: Path,
    archive: Path,
    backend: str,
    model: Path | None,
    extra_arguments: Sequence[str] = (),
) -> None:
    """Make the kit in a new or empty folder, or raise UsageError or OSError and leave none.

    model is a folder or a .gguf file; None when the file needs none or carries it inside. Files on
    the same disk are linked and not copied: they share their contents with the originals.
    """
    _check_is_free(folder)
    program, weights = _program(archive), _model(model)
    arguments = [backend, *_model_arguments(model), *extra_arguments]
    size = sum(entry.source.stat().st_size for entry in weights)
    manifest = Archive(str(archive)).manifest
    written = texts(manifest, arguments, [entry.path for entry in program], size)
    with _whole_or_gone(folder):
        for entry in [*program, *weights]:
            _place(entry, folder)
        for name, text in written.items():
            _write(folder / name, text)
        _make_executable(folder / "start.sh")
        _write(folder / SUMS, _sums(folder))


def _check_is_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise UsageError(f"{folder} is not empty: name a folder that is empty or not there yet")


@contextlib.contextmanager
def _whole_or_gone(folder: Path) -> Iterator[None]:
    """Remove the folder when making it fails: half a kit looks like a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


# -- what the kit takes over


def _program(archive: Path) -> list[Entry]:
    if not archive.is_file():
        raise UsageError(f"{archive}: there is no such file; build it first")
    companions = (archive.with_name(archive.name + suffix) for suffix in BESIDE)
    return [_entry(path, path.name) for path in (archive, *companions) if path.is_file()]


def _model(model: Path | None) -> list[Entry]:
    if model is None:
        return []
    if model.is_dir():
        found = [(path, path.relative_to(model).as_posix()) for path in _walk(model, ())]
    elif model.is_file() and model.suffix == ".gguf":
        found = [(path, path.name) for path in _shards(model)]
    else:
        raise UsageError(f"{model} is neither a folder with a model nor a .gguf file")
    if not found:
        raise UsageError(f"{model} is empty: a folder with a model is needed")
    return [_entry(path, f"model/{name}") for path, name in found]


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files below a folder, also behind links: the caches of model hubs are made so."""
    real = folder.resolve()
    if real in above:
        raise UsageError(f"{folder} leads back to itself: it cannot be copied")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _walk(path, (*above, real))
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"{path} leads nowhere, or is neither a file nor a folder")


def _shards(model: Path) -> list[Path]:
    """Return the file, or all files of the set that it is one of: name-00001-of-00003.gguf."""
    shard = SHARD.fullmatch(model.name)
    if shard is None:
        return [model]
    start, count = shard[1], shard[2]
    found = [
        model.with_name(f"{start}{number:05}-of-{count}.gguf")
        for number in range(1, int(count) + 1)
    ]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise UsageError(f"{model} is one of {int(count)} files; {missing[0]} is missing")
    return found


def _entry(source: Path, path: str) -> Entry:
    if re.search(r"[\\\n\r]", path):  # sha256sum writes such names in a way of its own
        raise UsageError(f"{str(source)!r}: a backslash or a line break cannot be in a kit's names")
    return Entry(source, path)


def _place(entry: Entry, folder: Path) -> None:
    target = folder / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(entry.source.resolve())
    except OSError:  # another disk, or one without links
        shutil.copyfile(entry.source, target)
        if target.suffix == ".pyz":
            _make_executable(target)


def _make_executable(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # FAT knows no modes
        path.chmod(0o755)


# -- what the kit adds


def _model_arguments(model: Path | None) -> list[str]:
    if model is None:
        return []
    return ["--model_path", "{here}/model" if model.is_dir() else f"{{here}}/model/{model.name}"]


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))  # names may be any bytes


def _sums(folder: Path) -> str:
    """Return what `sha256sum -c` checks, sorted as `LC_ALL=C sort` does."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in names)


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
    return total.hexdigest()
