"""Start the program that this archive holds; build.py puts this file at the root of a .pyz.

It parses on every Python since 2.7: an old one gets a sentence instead of a SyntaxError. It imports
nothing of the rest before it knows that the rest can run here.
"""

import os.path  # loaded by Python itself before any archive runs, so it costs nothing
import sys

NEEDED = (3, 10)
REFUSED = 3
ARGUMENTS = "kuwa.args"  # beside the file: an argument a line, for who starts it without any
# The blocks of bytecode, in the order in which a start needs them.
EARLY = "early"  # what finds the libraries; only files with libraries have it
BYTECODE = "bytecode"  # the program and the backends
LATE = "late"  # what only some runs import
AIM = "target"  # an entry of archives with payloads: what those are for; a key and its words a line


def main():
    # type: () -> None
    """Check this Python, have what the file carries on disk, run the program, end with its code."""
    aim = read_aim()
    if sys.version_info < NEEDED:
        sys.stderr.write(refusal(aim) + "\n")
        sys.exit(REFUSED)
    add_arguments()
    packages = make_importable()
    use_bytecode(packages)
    libraries = None
    if aim:
        from kuwa_min.libraries import activate

        libraries = activate(os.path.dirname(packages), aim, sys.argv)
    import gc

    gc.disable()  # imports make no garbage; looking for it would cost a tenth of the start
    from kuwa_min.cli import main as run

    gc.enable()
    try:
        sys.exit(run())
    except SystemExit as end:
        if end.code and libraries:
            libraries.restart_if_repaired()
        raise


def refusal(aim):
    # type: (dict[str, list[str]]) -> str
    """Say which Python is needed, which one was found and what to do."""
    needed = "".join(aim.get("python", [])) or "%d.%d or newer" % NEEDED
    found = "Python %d.%d.%d" % tuple(sys.version_info[:3])
    place = "%s, at %s" % (found, sys.executable or "an unknown place")
    example = "python%s %s" % (needed.split()[0], sys.argv[0])
    remedy = "start it with a newer one, for example: %s" % example
    return "%s needs Python %s; this is %s; %s" % (sys.argv[0], needed, place, remedy)


def read_aim():
    # type: () -> dict[str, list[str]]
    """Read what the archive's libraries are for; nothing when it carries none."""
    loader = globals().get("__loader__")
    if type(loader).__name__ != "zipimporter":
        return {}  # somebody unpacked the archive; another loader would look where he stands
    try:
        text = loader.get_data(AIM).decode("ascii")  # type: ignore[union-attr]
    except (IOError, OSError):
        return {}
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def add_arguments():
    # type: () -> None
    """Put the arguments of kuwa.args before those of the command line, which win.

    They are for one executor, the first of them, and apply when that or nothing is asked for.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        with open(os.path.join(here, ARGUMENTS), "rb") as file:
            lines = [line.strip() for line in file.read().decode("utf-8-sig").splitlines()]
    except OSError:
        return
    except ValueError:
        sys.stderr.write("%s is not UTF-8 text: it was not read\n" % ARGUMENTS)
        return
    given = [line.replace("{here}", here) for line in lines if line and line[0] != "#"]
    if sys.argv[1:2] in ([], given[:1]):
        sys.argv[1:2] = given


def make_importable():
    # type: () -> str
    """Put the archive's site-packages on sys.path in place of its root, first; return its path."""
    root = os.path.dirname(__file__)
    # The path may be relative; made absolute, late imports survive a change of directory.
    packages = os.path.join(os.path.abspath(root), "site-packages")
    sys.path[:] = [packages] + [entry for entry in sys.path if entry != root]
    return packages


def bytecode_name(block=BYTECODE):
    # type: (str) -> str
    """Name the entry of an archive that holds bytecode for the Python that runs this."""
    from importlib.util import MAGIC_NUMBER  # loaded by runpy before any archive runs

    return "%s-%d" % (block, int.from_bytes(MAGIC_NUMBER[:2], "little"))


def use_bytecode(packages):
    # type: (str) -> None
    """Import what is below this path from the blocks that build.py made, if they suit this Python.

    A block is four bytes of CRC and a map from the names of modules to their code. It saves
    compiling, and zipimport's habit to get the code of every module twice: first to learn its
    file's name, then to run it. A block is read when a module is in none of those before it.
    """
    from zipimport import zipimporter

    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        return  # somebody unpacked the archive
    waiting, codes = [bytecode_name(block) for block in (EARLY, BYTECODE, LATE)], {}

    def code_of(fullname):
        while fullname not in codes and waiting:
            codes.update(read_block(loader, waiting.pop(0)))
        return codes.get(fullname)

    class Importer(zipimporter):
        """Know the modules of the blocks, and the rest as zipimporter does."""

        def get_code(self, fullname):
            return code_of(fullname) or zipimporter.get_code(self, fullname)

        def get_filename(self, fullname):
            code = code_of(fullname)
            if code:
                return os.path.join(self.archive, code.co_filename)
            return zipimporter.get_filename(self, fullname)

    def importer(path):
        # type: (str) -> Importer
        if not path.startswith(packages):
            raise ImportError
        return Importer(path)

    sys.path_hooks.insert(0, importer)


def read_block(loader, name):
    # type: (object, str) -> dict[str, object]
    """Read one block; ends the process if it is not what was built: to run it could do anything."""
    import marshal
    import zlib  # zipimport has loaded it

    try:
        block = loader.get_data(name)  # type: ignore[attr-defined]
    except OSError:
        return {}  # the bytecode is another Python's; this one compiles the sources
    except Exception:  # noqa: BLE001 - whatever zipimport meets in a damaged file
        block = b""
    code = memoryview(block)[4:]
    if block and zlib.crc32(code) == int.from_bytes(block[:4], "big"):
        return marshal.loads(code)  # type: ignore[no-any-return]
    remedy = "copy it again, and compare with its .sha256 (sha256sum -c)"
    sys.stderr.write("%s is damaged: %s\n" % (sys.argv[0], remedy))
    sys.exit(1)
