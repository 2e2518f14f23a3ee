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
    make_importable()
    from kuwa_min.cli import main as run

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
    # type: () -> None
    """Put the archive's site-packages first on sys.path, instead of the archive's root."""
    import os.path  # loaded by Python itself before any archive runs, so it costs nothing

    root = os.path.dirname(__file__)
    # The path may be relative; made absolute, late imports survive a change of directory.
    packages = os.path.join(os.path.abspath(root), "site-packages")
    sys.path[:] = [packages] + [entry for entry in sys.path if entry != root]
