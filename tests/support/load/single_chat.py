"""Run one client on a machine without internet: check the file, start it, chat. For test_heavy.py.

Runs in a namespace of its own (machines.py): python single_chat.py FILE BACKEND MODEL [OPTION ...]
"""

from __future__ import annotations

import errno
import fcntl
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.support.programs import START_TIMEOUT, Program, chat_through

SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
NOWHERE = ("192.0.2.1", 80)  # kept for documentation


def main(file: Path, backend: str, model: str, *options: str) -> None:
    """Do all of it and print what was seen as JSON."""
    raise_loopback()
    assert is_offline()
    run("sha256sum", "-c", f"{file.name}.sha256", folder=file.parent)
    said = {
        "check": run(sys.executable, file, "--check", folder=file.parent),
        "verify": run(sys.executable, file, "verify", folder=file.parent),
    }
    words = (backend, "--model_path", model, "--embedded_kernel", "127.0.0.1:0", *options)
    with Program(*words, command=(sys.executable, str(file))) as program:
        program.wait_for(f"registered as {backend}", START_TIMEOUT)
        said["answers"] = [
            chat_through(program.kernel_url, backend, "Hello, who are you?", number)
            for number in (1, 2)
        ]
        program.process.terminate()
        said["code"] = program.end()
        said["log"] = program.log
    said["again"] = run(sys.executable, file, "verify", folder=file.parent)
    said["cache"] = run(sys.executable, file, "cache", folder=file.parent)
    print(json.dumps(said))


def raise_loopback() -> None:
    """Switch on the one interface that a new network namespace has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING)
        fcntl.ioctl(control.fileno(), SIOCSIFFLAGS, request)


def is_offline() -> bool:
    """Tell whether there is no way out."""
    with socket.socket() as probe:
        return probe.connect_ex(NOWHERE) == errno.ENETUNREACH


def run(*command: object, folder: Path) -> str:
    """Run a command that must succeed; return what it prints."""
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
