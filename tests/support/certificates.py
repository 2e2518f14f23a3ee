"""Self-signed certificates, made by the openssl command."""

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
