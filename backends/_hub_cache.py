"""Find a model of the hub in this machine's cache, without network.

The cache as the huggingface_hub library lays it out: models--OWNER--NAME/refs/REVISION holds a
commit, snapshots/COMMIT/ the files, as links into blobs/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

from ._file_start import listed, shown
from ._near import near

PREFIX, SEPARATOR, MAIN = "models--", "--", "main"
WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"((?:{WORD}/)?{WORD})(?:@([A-Za-z0-9_][A-Za-z0-9_.\-/]{{0,200}}))?")
LONGEST_REFERENCE = 200  # bytes of a file that holds a commit
MOST_FILES = 10_000  # of a snapshot; more are not looked at


class HubName(NamedTuple):
    """A model on the hub: owner/name, or a name alone as in its early days; and a revision."""

    repository: str
    revision: str

    @property
    def folder(self) -> Path:
        """Return where the cache keeps it."""
        return cache() / (PREFIX + self.repository.replace("/", SEPARATOR))

    @property
    def is_main(self) -> bool:
        """Tell whether no other revision was asked for."""
        return self.revision == MAIN


def is_hub_name(text: str) -> bool:
    """Tell whether this could be owner/name or owner/name@revision."""
    found = _parse(text)
    return found is not None and "/" in found.repository


def is_cached(text: str) -> bool:
    """Tell whether this names a model, be it owner/name or a name alone, that the cache knows."""
    found = _parse(text)
    return found is not None and found.folder.is_dir()


def hub_folder(text: str) -> Path:
    """Return the cached folder of owner/name or owner/name@revision; raises UsageError."""
    name = _name(text)
    snapshot = _snapshot(name)
    if snapshot is None:
        raise UsageError(f"--model_path {text} is {_not_cached(name)}; {_fetch(name)}")
    lost = [one for one in _files(snapshot) if not (snapshot / one).exists()]
    if lost:
        raise UsageError(
            f"--model_path {text} is incomplete in the hub's cache: what {listed(lost)} in "
            f"{snapshot} {'links' if len(lost) == 1 else 'link'} to is missing; {_fetch(name)}"
        )
    return snapshot


def hub_file(repository: str, file: str) -> Path:
    """Return one cached file of owner/name or owner/name@revision; raises UsageError."""
    name = _name(repository)
    snapshot = _snapshot(name)
    title = f"--model_path hf://{repository}?{file}"
    if snapshot is None:
        raise UsageError(f"{title} is {_not_cached(name)}; {_fetch(name, file)}")
    known = sorted(_files(snapshot))
    if file not in known:
        hint = listed([shown(one) for one in near(file, known)])
        others = f"; near it: {hint}" if hint else ""
        raise UsageError(f"{title} is not in {snapshot}{others}; {_fetch(name, file)}")
    if not (snapshot / file).is_file():
        raise UsageError(
            f"{title} is incomplete in the hub's cache: what {snapshot / file} links to is "
            f"missing; {_fetch(name, file)}"
        )
    return snapshot / file


def how_to_fetch(text: str) -> str:
    """Say which command fetches owner/name or owner/name@revision on a connected machine."""
    return _fetch(_name(text))


def cache() -> Path:
    """Return the folder of the cache, as the huggingface_hub library finds it."""
    of = os.environ.get
    home = of("HF_HOME") or f"{of('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    folder = Path(
        os.path.expandvars(of("HF_HUB_CACHE") or of("HUGGINGFACE_HUB_CACHE") or f"{home}/hub")
    )
    try:
        return folder.expanduser()
    except RuntimeError:  # this user has no home
        return folder


def _parse(text: str) -> HubName | None:
    found = NAME.fullmatch(text)
    if found is None:
        return None
    name = HubName(found[1], found[2] or MAIN)
    forbidden = SEPARATOR in name.repository or ".." in text or text.endswith("/")
    return None if forbidden else name


def _name(text: str) -> HubName:
    name = _parse(text)
    if name is None:
        raise UsageError(f"--model_path {text} is no name on the hub: owner/name is needed")
    return name


def _snapshot(name: HubName) -> Path | None:
    """Return the folder of a revision, or None; without a reference, the only one there is."""
    snapshots = name.folder / "snapshots"
    commit = _commit(name)
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    only = _folders(snapshots)
    return snapshots / only[0] if name.is_main and not commit and len(only) == 1 else None


def _commit(name: HubName) -> str:
    """Return the commit that a revision stands for: itself unless there is a reference."""
    try:
        with (name.folder / "refs" / name.revision).open("rb") as file:
            text = file.read(LONGEST_REFERENCE).decode("ascii").strip()
    except (OSError, ValueError):
        return "" if name.is_main else name.revision
    return text if text.isalnum() else ""


def _not_cached(name: HubName) -> str:
    if name.folder.is_dir():
        what = f"in the hub's cache ({name.folder}), but not as {name.revision}"
        known = [f"{name.repository}@{one}" for one in _folders(name.folder / "snapshots")]
        return f"{what}; there is {listed(known)}" if known else f"{what}, only begun"
    known = near(name.repository, _cached_names())
    hint = f"; near it: {listed(known)}" if known else ""
    return f"neither a folder nor in the hub's cache ({cache()}){hint}"


def _cached_names() -> list[str]:
    folders = [one for one in _folders(cache()) if one.startswith(PREFIX)]
    return [one.removeprefix(PREFIX).replace(SEPARATOR, "/") for one in folders]


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    except OSError:
        return []


def _files(snapshot: Path) -> Iterator[str]:
    """Yield the paths of a snapshot's files and links, also of those that lead nowhere."""
    count = 0
    for folder, _, names in os.walk(snapshot):
        for name in names:
            yield (Path(folder) / name).relative_to(snapshot).as_posix()
            count += 1
            if count == MOST_FILES:
                return


def _fetch(name: HubName, file: str = "") -> str:
    """Say which command fetches it, and what to do then."""
    target = f"./{name.repository.rpartition('/')[2]}"
    words = ["hf", "download", name.repository, *([file] if file else [])]
    words += [] if name.is_main else ["--revision", name.revision]
    path = f"{target}/{file}" if file else target
    return (
        f"on a connected machine, `{' '.join([*words, '--local-dir', target])}` fetches it: copy "
        f"{target} to this machine and give --model_path {path}"
    )
