"""Activate bundled libraries: find or unpack them, then extend sys.path; before the program runs.

The fast way, on every start: a few calls of stat(). `provision` is imported when that is not
enough.
"""

from __future__ import annotations

import os
import sys
import time

from kuwa_min.errors import KuwaError, StartError
from kuwa_min.progress import step_logger

from .cache import DAY, Entry
from .cache_root import ROOT_VARIABLE, cache_roots, is_explicit
from .versions import python_minor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

# How a start comes to its libraries
#
# 1. A command line that runs no model (--help, --check, a verb) needs none: done.
# 2. If this Python is the one that the file was built for, look in each cache root for an entry of
#    the payload's id that this user may trust, and take its shared lock. The id is a hash of the
#    contents, so an entry that was found needs no comparison with the file.
# 3. Once a day compare the files' sizes, after a crash of the machine their contents, and rewrite
#    what is damaged. Else nothing is read: a missing file shows when it is imported.
# 4. What was not found is unpacked, after all checks of the machine.
#    A custom executor's files are payload like all else; its own source is what is run.
# 5. Libraries go to the front of sys.path, before this Python's own site-packages, which are
#    hidden; a model becomes the option --model_path.
# 6. If the program fails, compare the sizes again; if files were missing, rewrite them and run the
#    same command line again, once.

KINDS = ("libraries", "model", "executor")  # of payloads
NOTHING_RUN = frozenset(("-h", "--help", "--check"))  # options that need nothing unpacked
RESTARTED = "KUWA_RESTARTED"  # a variable: this process is the second attempt
HOST_FOLDERS = ("site-packages", "dist-packages")

TargetEntry = dict[str, list[str]]  # the archive's entry "target": a key -> the words of its line


def activate(archive: str, target: TargetEntry, argv: list[str]) -> UnpackedPayloads | None:
    """Make what the command line needs of this file importable; None if it needs nothing.

    archive: the built file's path. argv: sys.argv, changed in place: --root DIR leaves it, and a
    model becomes an option. Ends the process if it cannot run here, with a line per reason.
    """
    pop_root_option(argv)
    if not needs_payloads(argv, target):
        return None
    log_step = step_logger(os.path.basename(argv[0]))
    payloads = UnpackedPayloads(archive, target, log_step)
    try:
        payloads.open()
    except (KuwaError, OSError) as error:
        for line in str(error).splitlines():
            log_step(f"error: {line}")
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    folders = payloads.folders
    library = folders.get("libraries") or folders.get("executor")
    if library:
        extend_path(library, with_host="host" in target or _is_script(argv[1]))
    if "model" in folders and not _is_script(argv[1]):
        from urllib.parse import unquote  # the program imports it later anyway

        names = map(unquote, target["model"][1:])
        argv[2:2] = ["--model_path", os.path.join(folders["model"], *names)]
    return payloads


def pop_root_option(argv: list[str]) -> None:
    """Move --root DIR from the command line to the variable of the same meaning."""
    for at, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == "--root":
            value = value or "".join(argv[at + 1 : at + 2] if not equals else [])
            if not value:
                step_logger(os.path.basename(argv[0]))("error: --root needs a folder")
                sys.exit(2)
            os.environ[ROOT_VARIABLE] = value
            del argv[at : at + (1 if equals else 2)]
            return


def needs_payloads(argv: list[str], target: TargetEntry) -> bool:
    """Tell whether the command runs the backend of this file, or a .py file, which may use it."""
    words = argv[1:]
    if words and words[0] in _asked_themselves(target):
        return "--check" not in words
    if not words or NOTHING_RUN.intersection(words):
        return False
    return words[0] in target["serves"] or _is_script(words[0])


def _asked_themselves(target: TargetEntry) -> list[str]:
    """Return the executors whose --help is in their own source, which imports libraries."""
    return target.get("executor", [])[1::2] + target.get("plugins", [])


def _is_script(word: str) -> bool:
    return word.endswith(".py")


class UnpackedPayloads:
    """The payloads of one file in the cache, locked against removal while the process lives."""

    def __init__(self, archive: str, target: TargetEntry, log_step: LogStep) -> None:
        self._archive, self._target, self._log_step = archive, target, log_step
        self._folder = os.getcwd() if "chdir" in target else ""  # where a restart begins
        self._entries: dict[str, Entry] = {}

    @property
    def folders(self) -> dict[str, str]:
        """Return the folder of each kind of payload that was found or unpacked."""
        return {kind: entry.tree for kind, entry in self._entries.items()}

    def executor(self, name: str) -> str:
        """Return the path of a packed executor's source, "" if the name is another's.

        Goes to the executor's folder if it was packed to start there.
        """
        words = self._target.get("executor", [])[1:]
        if name not in words[::2]:
            return ""
        from urllib.parse import unquote

        folder = self.folders["executor"]
        if "chdir" in self._target:
            os.chdir(folder)
        return os.path.join(folder, unquote(dict(zip(words[::2], words[1::2], strict=True))[name]))

    def open(self) -> None:
        """Find or unpack every payload; raises KuwaError, whose message says what to do."""
        missing = {kind: self._target[kind][0] for kind in KINDS if kind in self._target}
        if self._is_for_this_python():
            missing = {kind: key for kind, key in missing.items() if not self._find(kind, key)}
        if missing:
            from . import provision

            entries = provision.unpack_missing(self._archive, missing, self._log_step)
            self._entries.update(entries)

    def _is_for_this_python(self) -> bool:
        """Compare the Python alone; the machine was checked before unpacking."""
        wanted = self._target["python"]
        fits = wanted == [python_minor()] or wanted[0].startswith(">=")  # as the launcher saw
        return fits and sys.implementation.name == "cpython"

    def _find(self, kind: str, key: str) -> bool:
        for root in cache_roots(self._archive):
            entry = Entry(root, key)
            if not (entry.is_complete and self._is_trusted(entry)):
                continue
            last_used = entry.last_used
            if entry.lock_shared():
                self._entries[kind] = entry
                self._check_files(kind, entry, last_used)
                return True
        return False

    def _is_trusted(self, entry: Entry) -> bool:
        try:
            entry.ensure_trusted(self._log_step)
        except StartError as error:
            if is_explicit():
                raise
            self._log_step(str(error))
            return False
        return True

    def _check_files(self, kind: str, entry: Entry, last_used: float) -> None:
        """Repair an entry that may be damaged: once a day by sizes, after a crash by contents."""
        if not entry.is_locked:
            return  # a read-only disk, where nothing can be missing or put back
        if entry.may_be_torn:
            from . import provision

            provision.repair_corrupted(self._archive, kind, entry, self._log_step)
        elif time.time() - last_used > DAY:
            self._repair(kind, entry)

    def _repair(self, kind: str, entry: Entry) -> int:
        from . import provision

        return provision.repair(self._archive, kind, entry, self._log_step)

    def restart_if_repaired(self) -> None:
        """Repair the entries; if that was needed, replace this process by the same command line.

        Called after the program failed. Does nothing in a process that is such a replacement.
        """
        if RESTARTED in os.environ:
            return
        if sum([self._repair(kind, entry) for kind, entry in self._entries.items()]):
            os.environ[RESTARTED] = "1"
            self._log_step("starting again")
            if self._folder:
                os.chdir(self._folder)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def extend_path(folder: str, *, with_host: bool) -> None:
    """Put the libraries first on sys.path, after the program; hide this Python's site-packages.

    A mixture of libraries from both fails in ways that are hard to explain. with_host: keep them.
    Child processes get the folder by PYTHONPATH: torch's compiler starts some.
    """
    import site

    before = sys.path[:]
    site.addsitedir(folder)  # it also runs the .pth files, as installed libraries expect
    added = [entry for entry in sys.path if entry not in before and entry != folder]
    kept = [entry for entry in before[1:] if with_host or not _is_site_packages(entry)]
    sys.path[:] = [before[0], folder, *added, *kept]
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder + (os.pathsep + others if others else "")


def _is_site_packages(entry: str) -> bool:
    return os.path.basename(entry.rstrip("/\\")) in HOST_FOLDERS
