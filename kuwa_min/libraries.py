"""Have what this file carries on disk, and importable; done before the program is imported.

This is the warm way: a few looks at folders. `unpacking` does what takes longer.
"""

from __future__ import annotations

import os
import sys
import time

from .cache import Entry
from .errors import KuwaError, StartError
from .places import ROOT_VARIABLE, is_asked_for, places
from .progress import tell

DAY = 86400
KINDS = ("libraries", "model")
HELP = frozenset(("-h", "--help", "--check"))  # these need nothing unpacked
RESTARTED = "KUWA_RESTARTED"
HOST_FOLDERS = ("site-packages", "dist-packages")

Aim = dict[str, list[str]]  # the archive's entry "target": one key and its words a line


def open_libraries(archive: str, aim: Aim) -> Libraries | None:
    """Have what the command line needs of this file on disk and importable; None if nothing.

    Ends the process when that cannot be, a line per reason.
    """
    take_root()
    if not wants_libraries(aim):
        return None
    libraries = Libraries(archive, aim)
    try:
        libraries.open()
    except (KuwaError, OSError) as error:
        for line in str(error).splitlines():
            tell(f"error: {line}")
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    folders = libraries.folders
    if "libraries" in folders:
        make_importable(folders["libraries"], with_host="host" in aim or _is_file(sys.argv[1]))
    if "model" in folders and not _is_file(sys.argv[1]):
        from urllib.parse import unquote  # the program needs it later anyway

        names = map(unquote, aim["model"][1:])
        sys.argv[2:2] = ["--model_path", os.path.join(folders["model"], *names)]
    return libraries


def take_root() -> None:
    """Turn --root DIR of the command line into the variable that says the same."""
    for at, word in enumerate(sys.argv):
        name, equals, value = word.partition("=")
        if name == "--root":
            value = value or "".join(sys.argv[at + 1 : at + 2] if not equals else [])
            if not value:
                tell("error: --root needs a folder")
                sys.exit(2)
            os.environ[ROOT_VARIABLE] = value
            del sys.argv[at : at + (1 if equals else 2)]
            return


def wants_libraries(aim: Aim) -> bool:
    """Tell whether what is asked for needs what the file carries; a .py file may."""
    words = sys.argv[1:]
    if not words or HELP.intersection(words):
        return False
    return words[0] in aim["serves"] or _is_file(words[0])


def _is_file(word: str) -> bool:
    return word.endswith(".py")


class Libraries:
    """The payloads of one file, by kind; `folders` says where each lies once it is open."""

    def __init__(self, archive: str, aim: Aim) -> None:
        self.archive, self.aim = archive, aim
        self._entries: dict[str, Entry] = {}

    @property
    def folders(self) -> dict[str, str]:
        """Return where each payload's tree lies."""
        return {kind: entry.tree for kind, entry in self._entries.items()}

    def open(self) -> None:
        """Find or unpack every payload; raises KuwaError with what to do."""
        missing = {kind: self.aim[kind][0] for kind in KINDS if kind in self.aim}
        if self._fits():
            missing = {kind: key for kind, key in missing.items() if not self._find(kind, key)}
        if missing:
            from . import unpacking

            self._entries.update(unpacking.provide(self.archive, missing))

    def _fits(self) -> bool:
        """Tell whether this Python is the one; all else was judged before unpacking."""
        free_threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
        here = f"{sys.version_info[0]}.{sys.version_info[1]}{free_threaded}"
        return self.aim["python"] == [here] and sys.implementation.name == "cpython"

    def _find(self, kind: str, key: str) -> bool:
        for root in places(self.archive):
            entry = Entry(root, key)
            if not (entry.is_complete and _may_be_run(entry)):
                continue
            last_used = entry.last_used
            if entry.hold():
                self._entries[kind] = entry
                self._look_after(kind, entry, last_used)
                return True
        return False

    def _look_after(self, kind: str, entry: Entry, last_used: float) -> None:
        """Look whether all is still there: once a day, and after the machine crashed."""
        if not entry.is_held:
            return  # a read-only disk, from which nobody takes anything away
        if entry.survived_a_crash:
            from . import unpacking

            unpacking.mend_deeply(self.archive, kind, entry)
        elif time.time() - last_used > DAY:
            self._mend(kind, entry)

    def _mend(self, kind: str, entry: Entry) -> int:
        from . import unpacking

        return unpacking.mend(self.archive, kind, entry)

    def start_again_if_mended(self) -> None:
        """Look whether a start failed because files are missing; put them back and start anew."""
        if RESTARTED in os.environ:
            return
        if sum([self._mend(kind, entry) for kind, entry in self._entries.items()]):
            os.environ[RESTARTED] = "1"
            tell("starting again")
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _may_be_run(entry: Entry) -> bool:
    try:
        entry.check()
    except StartError as error:
        if is_asked_for():
            raise
        tell(str(error))
        return False
    return True


def make_importable(folder: str, *, with_host: bool) -> None:
    """Put the libraries before whatever else this Python has; hide its own site-packages.

    Half of the libraries from here and half from there is the error that nobody finds. Children
    get the folder by PYTHONPATH: torch's compiler starts some.
    """
    import site

    before = sys.path[:]
    site.addsitedir(folder)  # it also runs the .pth files, as an installed library expects
    added = [entry for entry in sys.path if entry not in before and entry != folder]
    kept = [entry for entry in before[1:] if with_host or not _is_host(entry)]
    sys.path[:] = [before[0], folder, *added, *kept]
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder + (os.pathsep + others if others else "")


def _is_host(entry: str) -> bool:
    return os.path.basename(entry.rstrip("/\\")) in HOST_FOLDERS
