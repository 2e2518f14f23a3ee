"""Make the real huggingface file, and what it is compared with, from the same wheels.

Knows how to build, how to stop a built file where it would import the program, and how people
package the same wheels otherwise: a folder by pip, a file by shiv.
"""

import io
import marshal
import os
import shutil
import sys
import zipapp
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.child import REPORT, Spent, spend
from harness.contestants import ROOT

sys.path.append(str(ROOT))  # kuwa_min, from the folder

BACKEND = "huggingface"
FILE = f"kuwa-{BACKEND}.pyz"
LAUNCHERS = {"kuwa_launch.py", "kuwa_launch.pyc"}
PROGRAM, OTHER = b"kuwa_min.cli", b"kuwa_min.end"
STUB = "handed_over"  # the module that a stock shiv file starts


@dataclass(frozen=True)
class Supplies:
    """Where wheels and lock lie, and where new files may go; the lock is a copy of our own."""

    place: Path
    wheels: Sequence[Path]
    wheelhouse: Path
    lock: Path
    options: Sequence[str] = ()

    def build(self, output: Path, *options: str) -> Spent:
        """Build the file to a folder; what it needs is local from the second time on."""
        command = [sys.executable, ROOT / "build.py", BACKEND, "--output", output]
        command += [word for folder in self.wheels for word in ("--wheels", folder)]
        command += ["--wheelhouse", self.wheelhouse, "--lock", self.lock]
        return spend([*command, *self.options, *options])

    def wheels_of(self, file: Path) -> list[Path]:
        """Return the wheels that a built file is made of."""
        from kuwa_min.bundle.archive import Archive

        names = {package["wheel"] for package in Archive(str(file)).manifest["packages"]}
        folders = [*self.wheels, self.wheelhouse]
        found = {path.name: path for folder in folders for path in folder.glob("*.whl")}
        return [found[name] for name in sorted(names - {""})]


def handing_over(file: Path, target: Path, program: str = REPORT) -> Path:
    """Copy a built file whose launcher imports another program; all else stays as it is.

    The payload is kept byte for byte, and every entry of the zip but the launcher, in which the
    name of the program's module is changed to one of the same length, and the block of bytecode
    that is read first: the module is in that, so that nothing more is read for it.
    """
    from kuwa_min.launch import EARLY, bytecode_name

    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
        start = min(entry.header_offset for entry in archive.infolist())
    for name in LAUNCHERS & entries.keys():
        entries[name] = entries[name].replace(PROGRAM, OTHER)
    path = f"site-packages/{OTHER.decode().replace('.', '/')}.py"
    entries[path] = program.encode()
    codes = marshal.loads(memoryview(entries[bytecode_name(EARLY)])[4:])
    codes[OTHER.decode()] = compile(program, path, "exec")
    block = marshal.dumps(codes)
    entries[bytecode_name(EARLY)] = zlib.crc32(block).to_bytes(4, "big") + block
    shutil.copyfile(file, target)
    os.truncate(target, start)
    with target.open("ab") as out:
        out.write(_zip(entries))
    return target


def _zip(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(entries):
            archive.writestr(name, entries[name])
    return buffer.getvalue()


def empty_file(target: Path) -> Path:
    """Make a .pyz with nothing but the report: the least that a file can start in."""
    source = target.with_suffix("")
    source.mkdir()
    (source / "__main__.py").write_text(f"{REPORT}\nmain()\n")
    zipapp.create_archive(source, target)
    return target


def folder_by_pip(wheels: Sequence[Path], target: Path) -> Spent:
    """Install the wheels into a folder, bytecode included, without asking any index."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    return spend([*command, "--target", target, *wheels])


def file_by_shiv(folder: Path, target: Path) -> Spent:
    """Make a stock shiv file of a folder that pip made; it starts with the report, too."""
    (folder / f"{STUB}.py").write_text(REPORT)
    command = [sys.executable, "-m", "shiv", "--site-packages", folder, "--output-file", target]
    return spend([*command, "--entry-point", f"{STUB}:main"])


def importing() -> str:
    """Return a program that imports what the backend imports of its libraries, then reports."""
    from kuwa_min.packing.bytecode import import_statements
    from kuwa_min.registry import backend_infos

    statements = import_statements(BACKEND, backend_infos()[BACKEND].requires)
    inside = "".join(f"    {line}\n" for line in statements)
    return REPORT.replace("def main():\n", f"def main():\n{inside}")
