"""The launcher of a built file; build.py puts it at the root of the .pyz.

It parses on every Python since 2.7: an old one gets one line instead of a SyntaxError. It imports
nothing of ours before it knows that the rest can run here.
"""

import os.path  # loaded by Python itself before any archive runs, so it costs nothing
import sys

MIN_PYTHON = (3, 10)
WRONG_MACHINE = 3  # the exit code, as of errors.WrongMachine
INTERRUPTED = 130  # the exit code, as of shells
OTHERS_WRITE = 18  # bits of a mode, 022 in octal: what no file of ours has
ARGUMENTS = "kuwa.args"  # beside the file: default arguments, one a line
# The blocks of bytecode, in the order in which a start needs them.
EARLY = "early"  # what activates libraries; only files with libraries have it
BYTECODE = "bytecode"  # the program and the backends
LATE = "late"  # what only some runs import
# What a command line may be alone, in a file that packs an executor, without meaning that one.
DOCUMENTS = ("--list", "--version", "--check", "--info", "--sbom", "--licenses")
TARGET = "target"  # an entry of archives with payloads: what they are for, a key and words a line


def main():
    # type: () -> None
    """Run the file; Ctrl-C before the program handles it ends this without a traceback."""
    try:
        start()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def start():
    # type: () -> None
    """Check this Python, activate what the file carries, run the program, exit with its code."""
    target = read_target()
    if sys.version_info < MIN_PYTHON:
        sys.stderr.write(refusal(target) + "\n")
        sys.exit(WRONG_MACHINE)
    # Else Python makes folders for bytecode that others may write to, under a umask of 0.
    os.umask(os.umask(OTHERS_WRITE) | OTHERS_WRITE)
    packages = use_site_packages()
    use_bytecode(packages)
    name_packed_executor(target)
    add_default_arguments()
    libraries, packed = None, ""
    if target:
        from kuwa_min.bundle.activate import activate

        libraries = activate(os.path.dirname(packages), target, sys.argv)
        if libraries and "executor" in target:
            packed = libraries.executor(sys.argv[1])
    import gc

    gc.disable()  # imports make no garbage; a collection would cost a tenth of the start
    try:
        from kuwa_min.cli import main as run

        gc.enable()
        sys.exit(run(packed=packed) if packed else run())
    except ImportError as error:  # also of what is imported late
        is_ours = str(error.name).partition(".")[0] in ("kuwa_min", "backends")
        raise damaged() if is_ours else error  # noqa: B904 - the line is all that is shown
    except SystemExit as end:
        if end.code and libraries:
            libraries.restart_if_repaired()
        raise


def damaged():
    # type: () -> SystemExit
    """Write what to do about a damaged file; return what ends the process."""
    remedy = "copy it again, and compare with its .sha256 (sha256sum -c)"
    sys.stderr.write("%s is damaged: %s\n" % (sys.argv[0], remedy))
    return SystemExit(1)


def refusal(target):
    # type: (dict[str, list[str]]) -> str
    """Return which Python is needed, which one was found and what to do."""
    exact = [word for word in target.get("python", []) if word[0] != ">"]
    needed = "".join(exact) or "%d.%d or newer" % MIN_PYTHON
    found = "Python %d.%d.%d" % tuple(sys.version_info[:3])
    place = "%s, at %s" % (found, sys.executable or "an unknown place")
    example = "python%s %s" % (needed.split()[0], sys.argv[0])
    remedy = "start it with a newer one, for example: %s" % example
    return "%s needs Python %s; this is %s; %s" % (sys.argv[0], needed, place, remedy)


def read_target():
    # type: () -> dict[str, list[str]]
    """Read the archive's entry "target"; {} if it has no payloads."""
    loader = globals().get("__loader__")
    if type(loader).__name__ != "zipimporter":
        return {}  # an unpacked archive; its loader would look in the current folder
    try:
        text = loader.get_data(TARGET).decode("ascii")  # type: ignore[union-attr]
    except (IOError, OSError):
        return {}
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def name_packed_executor(target):
    # type: (dict[str, list[str]]) -> None
    """Put the executor that this file packs before a command line that names none.

    So the file takes the same words as the executor's source: python my_executor.pyz --port 9001.
    """
    words = sys.argv[1:]
    if words[:1] == ["--root"]:
        words = words[2:]
    elif words and words[0].startswith("--root="):
        words = words[1:]
    named = words and words[0][:1] != "-"
    if "executor" not in target or named or (len(words) == 1 and words[0] in DOCUMENTS):
        return
    sys.argv.insert(len(sys.argv) - len(words), target["serves"][0])


def add_default_arguments():
    # type: () -> None
    """Put the arguments of kuwa.args before those of the command line, which override them.

    Their first word is an executor. They apply if the command line names the same one or none.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(here, ARGUMENTS)
    if not os.path.lexists(path):
        return
    from kuwa_min.bundle.trust import reason_untrusted
    from kuwa_min.options.text_file import InvalidTextFile, read_text

    owner = os.stat(os.path.dirname(__file__)).st_uid  # decides what runs here anyway
    untrusted = reason_untrusted(path, owners=(owner,))
    if untrusted:
        remedy = "give it and its folder to yourself, and take the right to write from others"
        sys.stderr.write("%s has no effect: %s; %s\n" % (path, untrusted, remedy))
        return
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except InvalidTextFile as error:
        sys.stderr.write("%s has no effect: it %s\n" % (path, error))
        return
    given = [line.replace("{here}", here) for line in lines if line and line[0] != "#"]
    if sys.argv[1:2] in ([], given[:1]):
        sys.argv[1:2] = given


def use_site_packages():
    # type: () -> str
    """Put the archive's site-packages first on sys.path, in place of its root; return its path."""
    root = os.path.dirname(__file__)
    # An absolute path, so that late imports survive a change of directory.
    packages = os.path.join(os.path.abspath(root), "site-packages")
    sys.path[:] = [packages] + [entry for entry in sys.path if entry != root]
    return packages


def bytecode_name(block=BYTECODE):
    # type: (str) -> str
    """Return the name of the archive's entry that holds bytecode for this Python."""
    from importlib.util import MAGIC_NUMBER  # loaded by runpy before any archive runs

    return "%s-%d" % (block, int.from_bytes(MAGIC_NUMBER[:2], "little"))


def use_bytecode(packages):
    # type: (str) -> None
    """Import modules below this path from blocks of bytecode, if there are some for this Python.

    A block is four bytes of CRC and a marshalled map: module's name -> code. It saves compiling,
    and decompressing every module twice: zipimport does so to learn the file's name and to run it.
    A block is read when a module is in none of those before it.
    """
    from zipimport import zipimporter

    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        return  # an unpacked archive
    waiting, codes = [bytecode_name(block) for block in (EARLY, BYTECODE, LATE)], {}

    def code_of(fullname):
        while fullname not in codes and waiting:
            codes.update(read_block(loader, waiting.pop(0)))
        return codes.get(fullname)

    class Importer(zipimporter):
        """Import the modules of the blocks; the others as zipimporter does."""

        def get_code(self, fullname):
            return code_of(fullname) or of_source(zipimporter.get_code, self, fullname)

        def get_filename(self, fullname):
            code = code_of(fullname)
            if code:
                return os.path.join(self.archive, code.co_filename)
            return of_source(zipimporter.get_filename, self, fullname)

    def importer(path):
        # type: (str) -> Importer
        if not path.startswith(packages):
            raise ImportError
        return Importer(path)

    sys.path_hooks.insert(0, importer)


def of_source(method, loader, fullname):
    # type: (object, object, str) -> object
    """Call a method that compiles a source; ends the process if the source is damaged."""
    try:
        return method(loader, fullname)  # type: ignore[operator]
    except ImportError:
        raise  # there is no such module
    except Exception:  # noqa: BLE001 - zlib.error, SyntaxError and others
        raise damaged()  # noqa: B904 - the line is all that is shown


def read_block(loader, name):
    # type: (object, str) -> dict[str, object]
    """Read one block; ends the process if it is damaged, as its code could then do anything."""
    import marshal
    import zlib  # zipimport has loaded it

    try:
        block = loader.get_data(name)  # type: ignore[attr-defined]
    except OSError:
        return {}  # built for another Python: this one compiles the sources
    except Exception:  # noqa: BLE001 - zipimport raises any in a damaged file
        block = b""
    code = memoryview(block)[4:]
    if block and zlib.crc32(code) == int.from_bytes(block[:4], "big"):
        return marshal.loads(code)  # type: ignore[no-any-return]
    raise damaged()
