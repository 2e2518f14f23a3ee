"""A damaged launcher: one line, whichever bit it is; Python itself is never ended by it."""

from __future__ import annotations

import ast
import random
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from kuwa_min.packing.core_zip import MAIN, zip_of
from kuwa_min.packing.main_text import main_text
from tests.support.programs import ROOT

pytestmark = pytest.mark.slow  # a process for each damage
LAUNCHER = "def main():\n    raise SystemExit(7)\n"
LINE = "is damaged: copy it again, and compare with its .sha256 (sha256sum -c)"
FLIP = """
import runpy, sys, zipimport

path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[0], data, ends = path, open(path, "rb").read(), set()
for place in range(first, last):
    flipped = bytearray(data)
    flipped[place] ^= 1 << place % 8
    with open(path, "wb") as file:
        file.write(flipped)
    sys.modules.pop("kuwa_launch", None)
    sys.path_importer_cache.clear()
    zipimport._zip_directory_cache.clear()
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as error:
        ends.add(str(error.code))
    except BaseException as error:
        ends.add(f"{place}: {error!r}")
print(sorted(ends))
"""


def entries_of(tmp_path: Path) -> dict[str, bytes]:
    """Return the entries of a file: a launcher with bytecode, and a module after it."""
    (tmp_path / "kuwa_launch.py").write_text(LAUNCHER, encoding="ascii")
    code = "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[1] + 'c')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "kuwa_launch.py")], check=True)
    names = ("kuwa_launch.py", "kuwa_launch.pyc")
    entries = {name: (tmp_path / name).read_bytes() for name in names}
    entries |= {"site-packages/last.py": b"LAST = 1\n"}
    return {**entries, MAIN: main_text(entries, [*names, "target"])}


def ends_of(tmp_path: Path, first: int, last: int) -> list[str]:
    """Flip a bit of each byte between two places, in one process; return how the starts ended."""
    command = [sys.executable, "-c", FLIP, str(tmp_path / "file.pyz"), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    ends: list[str] = ast.literal_eval(done.stdout)
    return ends


def test_a_damaged_launcher_is_never_run(tmp_path: Path) -> None:
    """Its source and its bytecode, with their names and sizes in the zip: a bit of every byte."""
    path = tmp_path / "file.pyz"
    path.write_bytes(zip_of(entries_of(tmp_path)))
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("kuwa_launch.py").header_offset
        last = archive.getinfo("site-packages/last.py").header_offset
    assert ends_of(tmp_path, first, last) == [f"{path} {LINE}", "7"]


def test_a_file_cut_out_of_the_directory_is_missed(tmp_path: Path) -> None:
    """Where zipimport meets damage, it takes what it has read of the directory for the whole."""
    path = tmp_path / "file.pyz"
    entries = entries_of(tmp_path)
    path.write_bytes(zip_of(entries))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2")] ^= 1
    path.write_bytes(data)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{path} {LINE}\n")
    path.write_bytes(zip_of(entries))
    assert subprocess.run([sys.executable, path], check=False).returncode == 7


def test_what_is_not_there_is_not_compared() -> None:
    """A file without bytecode or payloads has fewer entries; the last one is always compared."""
    text = main_text({"kuwa_launch.py": b"1", "z": b"2"}, ["kuwa_launch.py", "target"]).decode()
    assert "SUMS = {'kuwa_launch.py': 2212294583, 'z': 450215437}" in text


def test_a_damaged_file_ends_in_one_line(tmp_path: Path) -> None:
    """A built one: its launcher and the directory, bits by chance with a fixed seed."""
    command = [sys.executable, "build.py", "debug", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    path, flipped = tmp_path / "kuwa-debug.pyz", tmp_path / "flipped.pyz"
    data, places = path.read_bytes(), list[int]()
    with zipfile.ZipFile(path) as archive:
        for name in ("kuwa_launch.py", "kuwa_launch.pyc"):
            entry = archive.getinfo(name)
            places += range(entry.header_offset, entry.header_offset + entry.compress_size)
        places += range(archive.start_dir, len(data))
    chance, ends = random.Random(14), Counter[str]()
    for place in chance.sample(places, 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        flipped.write_bytes(damaged)
        done = subprocess.run(
            [sys.executable, "-I", flipped, "--version"], capture_output=True, check=False
        )
        assert done.returncode >= 0, (place, done.returncode)
        ends[
            "line" if LINE.encode() in done.stderr else done.stderr.decode("utf-8", "replace")
        ] += 1
    # Python's own tracebacks, of a __main__.py that it does not find, name no file of ours.
    assert {end for end in ends if '__main__.py", line' in end} == set()
    assert ends["line"] > 10
