"""Self-signed certificates and keys for signatures, made by openssl and ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for a name and its key; skips where the openssl command is missing."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    files = folder / "cert.pem", folder / "key.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]  # RSA takes long
    options += ["-nodes", "-days", "2", "-subj", f"/CN={name}"]
    options += ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    options += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True)
    return files


def make_key(path: Path, passphrase: str = "") -> Path:
    """Make a key for Ed25519; its public part lies beside it, with .pub at its end."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not here: apt-get install openssh-client")
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


def without_agent_and_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ssh-keygen ask nobody for a passphrase."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("SSH_ASKPASS", shutil.which("false") or "false")
