"""Start the program that this archive holds; build.py puts this file at the root of a .pyz.

It parses on every Python since 2.7: an old one gets a sentence instead of a SyntaxError. It imports
nothing of the rest before it knows that the rest can run here.
"""
# ruff: noqa: PTH100, PTH118, PTH120
# (pathlib would cost milliseconds at every start.)

import sys

NEEDED = (3, 10)
REFUSED = 3


def main():
    # type: () -> None
    """Check this Python, make the archive importable, run the program and end with its code."""
    if sys.version_info < NEEDED:
        sys.stderr.write(refusal() + "\n")
        sys.exit(REFUSED)
    use_bytecode(make_importable())
    import gc

    gc.disable()  # imports make no garbage; looking for it would cost a tenth of the start
    from kuwa_min.cli import main as run

    gc.enable()
    sys.exit(run())


def refusal():
    # type: () -> str
    """Say which Python is needed, which one was found and what to do."""
    program, needed = sys.argv[0], "%d.%d" % NEEDED
    found = "Python %d.%d.%d" % tuple(sys.version_info[:3])
    place = "%s, at %s" % (found, sys.executable or "an unknown place")
    remedy = "start it with a newer one, for example: python%s %s" % (needed, program)
    return "%s needs Python %s or newer; this is %s; %s" % (program, needed, place, remedy)


def make_importable():
    # type: () -> str
    """Put the archive's site-packages on sys.path in place of its root, first; return its path."""
    import os.path  # loaded by Python itself before any archive runs, so it costs nothing

    root = os.path.dirname(__file__)
    # The path may be relative; made absolute, late imports survive a change of directory.
    packages = os.path.join(os.path.abspath(root), "site-packages")
    sys.path[:] = [packages] + [entry for entry in sys.path if entry != root]
    return packages


def bytecode_name():
    # type: () -> str
    """Name the entry of an archive that holds bytecode for the Python that runs this."""
    from importlib.util import MAGIC_NUMBER  # loaded by runpy before any archive runs

    return "bytecode-%d" % int.from_bytes(MAGIC_NUMBER[:2], "little")


def use_bytecode(packages):
    # type: (str) -> None
    """Import what is below this path from the block that build.py made, if it suits this Python.

    The block maps the names of modules to their code. It saves compiling, and zipimport's habit to
    get the code of every module twice: first to learn its file's name, then to run it.
    """
    import marshal
    import os.path
    from zipimport import zipimporter

    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        return  # somebody unpacked the archive
    try:
        codes = marshal.loads(loader.get_data(bytecode_name()))
    except OSError:
        return  # the bytecode is another Python's; this one compiles the sources

    class Importer(zipimporter):
        """Know the modules of the block, and the rest as zipimporter does."""

        def get_code(self, fullname):
            return codes.get(fullname) or zipimporter.get_code(self, fullname)

        def get_filename(self, fullname):
            if fullname in codes:
                return os.path.join(self.archive, codes[fullname].co_filename)
            return zipimporter.get_filename(self, fullname)

    def importer(path):
        # type: (str) -> Importer
        if not path.startswith(packages):
            raise ImportError
        return Importer(path)

    sys.path_hooks.insert(0, importer)
