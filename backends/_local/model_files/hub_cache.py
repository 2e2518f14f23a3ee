"""Find a model of the Hugging Face hub in this machine's cache; never uses the network.

The layout of huggingface_hub's cache: models--OWNER--NAME/refs/REVISION holds a
commit, snapshots/COMMIT/ the files, as links into blobs/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

from .close_matches import close_matches
from .sniff import join_names, printable

PREFIX, SEPARATOR, MAIN = "models--", "--", "main"
WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"((?:{WORD}/)?{WORD})(?:@([A-Za-z0-9_][A-Za-z0-9_.\-/]{{0,200}}))?")
MAX_REF = 200  # bytes of a file in refs/
MAX_FILES = 10_000  # of a snapshot; further ones are ignored


class HubName(NamedTuple):
    """A model on the hub: owner/name, or a name without owner as in its early days; a revision."""

    repository: str
    revision: str

    @property
    def folder(self) -> Path:
        """Return its folder in the cache."""
        return cache_folder() / (PREFIX + self.repository.replace("/", SEPARATOR))

    @property
    def is_main(self) -> bool:
        """Tell whether it is the default revision."""
        return self.revision == MAIN


def is_hub_name(text: str) -> bool:
    """Tell whether a text has the form owner/name or owner/name@revision."""
    found = _parse(text)
    return found is not None and "/" in found.repository


def is_cached(text: str) -> bool:
    """Tell whether a text names a model in the cache, with or without an owner."""
    found = _parse(text)
    return found is not None and found.folder.is_dir()


def hub_folder(text: str) -> Path:
    """Return the cached folder of owner/name or owner/name@revision; raises UsageError."""
    name = _name(text)
    snapshot = _snapshot(name)
    if snapshot is None:
        raise UsageError(f"--model_path {text} is {_not_cached(name)}; {_fetch(name)}")
    broken = [one for one in _files(snapshot) if not (snapshot / one).exists()]
    if broken:
        raise UsageError(
            f"--model_path {text} is incomplete in the hub's cache: what {join_names(broken)} in "
            f"{snapshot} {'links' if len(broken) == 1 else 'link'} to is missing; {_fetch(name)}"
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
        hint = join_names([printable(one) for one in close_matches(file, known)])
        others = f"; near it: {hint}" if hint else ""
        raise UsageError(f"{title} is not in {snapshot}{others}; {_fetch(name, file)}")
    if not (snapshot / file).is_file():
        raise UsageError(
            f"{title} is incomplete in the hub's cache: what {snapshot / file} links to is "
            f"missing; {_fetch(name, file)}"
        )
    return snapshot / file


def how_to_fetch(text: str) -> str:
    """Return the advice how to fetch owner/name or owner/name@revision on a connected machine."""
    return _fetch(_name(text))


def cache_folder() -> Path:
    """Return the cache's folder by the same environment variables as huggingface_hub."""
    of = os.environ.get
    home = of("HF_HOME") or f"{of('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    folder = Path(
        os.path.expandvars(of("HF_HUB_CACHE") or of("HUGGINGFACE_HUB_CACHE") or f"{home}/hub")
    )
    try:
        return folder.expanduser()
    except RuntimeError:  # the user has no home folder
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
    """Return a revision's folder, or None; for main without a ref, the only snapshot."""
    snapshots = name.folder / "snapshots"
    commit = _commit(name)
    if commit and (snapshots / commit).is_dir():
        return snapshots / commit
    only = _folders(snapshots)
    return snapshots / only[0] if name.is_main and not commit and len(only) == 1 else None


def _commit(name: HubName) -> str:
    """Return the commit of a revision by its ref, else the revision itself; "" for main."""
    try:
        with (name.folder / "refs" / name.revision).open("rb") as file:
            text = file.read(MAX_REF).decode("ascii").strip()
    except (OSError, ValueError):
        return "" if name.is_main else name.revision
    return text if text.isalnum() else ""


def _not_cached(name: HubName) -> str:
    if name.folder.is_dir():
        what = f"in the hub's cache ({name.folder}), but not as {name.revision}"
        known = [f"{name.repository}@{one}" for one in _folders(name.folder / "snapshots")]
        return f"{what}; there is {join_names(known)}" if known else f"{what}, only begun"
    known = close_matches(name.repository, _cached_names())
    hint = f"; near it: {join_names(known)}" if known else ""
    return f"neither a folder nor in the hub's cache ({cache_folder()}){hint}"


def _cached_names() -> list[str]:
    folders = [one for one in _folders(cache_folder()) if one.startswith(PREFIX)]
    return [one.removeprefix(PREFIX).replace(SEPARATOR, "/") for one in folders]


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    except OSError:
        return []


def _files(snapshot: Path) -> Iterator[str]:
    """Yield the paths of a snapshot's files and links, broken ones too."""
    count = 0
    for folder, _, names in os.walk(snapshot):
        for name in names:
            yield (Path(folder) / name).relative_to(snapshot).as_posix()
            count += 1
            if count == MAX_FILES:
                return


def _fetch(name: HubName, file: str = "") -> str:
    """Return the advice which command fetches a model, or one file of it."""
    target = f"./{name.repository.rpartition('/')[2]}"
    words = ["hf", "download", name.repository, *([file] if file else [])]
    words += [] if name.is_main else ["--revision", name.revision]
    path = f"{target}/{file}" if file else target
    return (
        f"on a connected machine, `{' '.join([*words, '--local-dir', target])}` fetches it: copy "
        f"{target} to this machine and give --model_path {path}"
    )
