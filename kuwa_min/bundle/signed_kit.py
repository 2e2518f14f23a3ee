"""Compare a kit with its SHA256SUMS, and those with their signature, by OpenSSH's ssh-keygen.

What is signed is SHA256SUMS alone, which has the hash of every file of the kit. ssh-keygen -Y
(OpenSSH 8.2 or newer) works offline; its formats are in PROTOCOL.sshsig and ssh-keygen(1).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import StartError, UsageError

if TYPE_CHECKING:
    from kuwa_min.progress import Progress

NAMESPACE = "kuwa-min"  # of the signature: one that was made for something else is refused
SUMS, SIGNATURE, SIGNERS = "SHA256SUMS", "SHA256SUMS.sig", "allowed_signers"
EDITED = ("kuwa.args", "kuwa.service")  # by those who use the kit
UNSIGNED = (SUMS, SIGNATURE)
UNPACKED = ".kuwa"  # where a file unpacks to beside itself, and runs what lies there
MAX_SIGNATURE, MAX_SUMS = 64 << 10, 256 << 20  # bytes; the sums of a kit of two million files
SUM = re.compile(r"([0-9a-f]{64})  (.+)")
CHUNK = 1 << 20  # bytes
INSTALL = (
    "install openssh-client (Debian, Ubuntu) or openssh (Red Hat, Fedora), or do this on a machine "
    "that has it"
)
ARMOR = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----(.*?)-----END SSH SIGNATURE-----\s*", re.DOTALL
)
MAGIC = b"SSHSIG"
LONGEST = 200  # characters of what ssh-keygen says


def ssh_keygen(*options: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen with this text on its standard input; raises StartError without it."""
    program = shutil.which("ssh-keygen")
    if not program:
        raise StartError(f"ssh-keygen, which makes and compares signatures, is not here: {INSTALL}")
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run([program, *options], input=text, capture_output=True, env=environment)


def explanation(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return what ssh-keygen says went wrong, in one line."""
    said = [line.strip(" @") for line in done.stderr.decode("utf-8", "replace").splitlines()]
    if any("unknown option -- Y" in line for line in said):
        return "this one is older than OpenSSH 8.2 and knows no signatures"
    kept = [line for line in said if line and not line.startswith(("Signing ", "No principal"))]
    return "".join(filter(str.isprintable, "; ".join(kept)))[:LONGEST] or "nothing"


def public_key(signature: bytes) -> tuple[str, str]:
    """Return the public key that made a signature, as one line, and its fingerprint.

    Raises StartError for what is no signature.
    """
    try:
        armor = ARMOR.fullmatch(signature)
        blob = base64.b64decode(armor[1] if armor else b"")
        if not blob.startswith(MAGIC):
            raise ValueError
        key = _string(blob, len(MAGIC) + 4)
        kind = _string(key, 0).decode("ascii")
    except (binascii.Error, ValueError):
        raise StartError(f"{SIGNATURE} is no signature of ssh-keygen: copy the kit again") from None
    return f"{kind} {base64.b64encode(key).decode()}", fingerprint(key)


def _string(blob: bytes, start: int) -> bytes:
    size = int.from_bytes(blob[start : start + 4], "big")
    found = blob[start + 4 : start + 4 + size]
    if not size or len(found) != size:
        raise ValueError
    return found


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as ssh-keygen -l prints it."""
    import hashlib

    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def check_signature(folder: Path, signers: Path) -> str:
    """Return who signed a kit; raises StartError unless it is one of these signers.

    signers: a file of allowed signers as of ssh-keygen(1).
    """
    if not signers.is_file():
        raise UsageError(f"there is no file {signers}, to know the signers by")
    lost = "the kit is not signed, or lost its signature"
    signature = _content(folder / SIGNATURE, MAX_SIGNATURE, lost)
    sums = _content(folder / SUMS, MAX_SUMS, "what was signed is not here")
    _, print_ = public_key(signature)
    files = ("-f", str(signers), "-s", str(folder / SIGNATURE))
    found = ssh_keygen("-Y", "find-principals", *files, text=b"")
    if found.returncode:
        raise StartError(
            f"the signer is unknown: {signers} does not allow the key {print_} (ssh-keygen says: "
            f"{explanation(found)})"
        )
    name = found.stdout.decode("utf-8", "replace").splitlines()[0]
    done = ssh_keygen("-Y", "verify", *files, "-I", name, "-n", NAMESPACE, text=sums)
    if done.returncode:
        raise StartError(
            f"{SUMS} is not what {name} signed with the key {print_} (ssh-keygen says: "
            f"{explanation(done)})"
        )
    return f"signed by {name} with the key {print_}, as {signers} allows"


def _content(path: Path, most: int, otherwise: str) -> bytes:
    """Read a file of at most `most` bytes; pipes, which may never end, and links are none."""
    if not os.path.lexists(path):
        raise StartError(f"{path.name} is missing: {otherwise}")
    if not _is_plain(path) or path.stat().st_size > most:
        raise StartError(f"{path.name} is a link, no file or too large: {otherwise}")
    return path.read_bytes()


def _is_plain(path: Path) -> bool:
    """Tell whether a path is a file itself: what a link leads to may change after a look at it."""
    return path.is_file() and not path.is_symlink()


def differences(folder: Path, progress: Progress) -> Iterator[str]:
    """Yield a line for each file that is not as SHA256SUMS says, is missing, or is too many."""
    if not _is_plain(folder / SUMS):
        return
    lines = os.fsdecode((folder / SUMS).read_bytes()).removesuffix("\n").split("\n")
    listed = {name: digest for digest, name in map(_sum, lines) if name}
    if len(listed) != len(lines):
        yield f"{SUMS} has lines that are none of one file's hash and name"
    here = set(_files(folder))
    total, done = sum(map(_size, (folder / name for name in listed))), 0
    for name, digest in listed.items():
        path = folder / name
        if name not in here:
            yield f"{printable(name)} is missing"
        elif path.is_symlink():
            yield f"{printable(name)} is a link: put the file that it leads to in its place"
        elif not path.is_file() or _sha256(path) != digest:
            why = "; if you wrote into it, that is why" if name in EDITED else ""
            yield f"{printable(name)} is not what was signed{why}"
        done += _size(path)
        progress(done, total)
    progress.end()
    for name in sorted(here - listed.keys() - {*UNSIGNED}):
        yield f"{printable(name)} is too many: it was not signed"
    if os.path.lexists(folder / UNPACKED):
        yield (
            f"{UNPACKED} was not signed, and what lies there would be run: remove it; if a start "
            "made it here, the next one unpacks again"
        )


def _sum(line: str) -> tuple[str, str]:
    """Split a line of SHA256SUMS; "" for one that names no file below the kit."""
    found = SUM.fullmatch(line)
    is_below = found and not {"", ".", ".."} & {*found[2].split("/")}
    return (found[1], found[2]) if found and is_below else ("", "")


def _files(folder: Path) -> Iterator[str]:
    """Yield the paths of all but folders, links to folders included."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        here = Path(place)
        if here == folder:  # it is one line, however many files are in it
            folders[:] = [name for name in folders if name != UNPACKED]
            files = [name for name in files if name != UNPACKED]
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*files, *links):
            yield (here / name).relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    """Leave no folder out in silence that cannot be read."""
    raise error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def printable(name: str) -> str:
    """Return a file's name for a line of text, whatever bytes are in it."""
    return name if name.isprintable() else ascii(name)
