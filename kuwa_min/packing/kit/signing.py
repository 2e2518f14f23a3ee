"""Sign a kit: its SHA256SUMS, by OpenSSH's ssh-keygen, with a key that people have for SSH."""

from __future__ import annotations

from pathlib import Path

from kuwa_min.bundle.signed_kit import (
    NAMESPACE,
    SIGNATURE,
    SUMS,
    explanation,
    public_key,
    ssh_keygen,
)
from kuwa_min.errors import UsageError

IDENTITY = NAMESPACE  # of the signer, in our allowed_signers: its maker's name would be a claim
ADVICE = {  # a part of what ssh-keygen says -> what to do
    "passphrase": "put the key into an agent first: ssh-add {}",
    "No private key found for public key": "this is a public key, and no agent has its private "
    "part: give the private key, or ssh-add it",
    "UNPROTECTED": "chmod 600 {}",
    "Couldn't load public key": "if it is a private key that came without its public part: "
    "ssh-keygen -y -f {0} > {0}.pub",
}


def check_key(key: Path) -> str:
    """Return the public key of a key that can sign; raises UsageError for any other.

    It signs nothing for a trial, so a key that asks for its passphrase, or a touch, asks twice.
    """
    return public_key(_signed(key, b""))[0]


def allowed_signers(public: str) -> str:
    """Return the text of the file that a kit's signature is compared with."""
    return f'{IDENTITY} namespaces="{NAMESPACE}" {public}\n'


def sign(folder: Path, key: Path) -> None:
    """Write the signature of a kit's SHA256SUMS beside it; raises UsageError."""
    folder.joinpath(SIGNATURE).write_bytes(_signed(key, folder.joinpath(SUMS).read_bytes()))


def _signed(key: Path, content: bytes) -> bytes:
    if not key.is_file():
        raise UsageError(f"--sign {key}: there is no such file; ssh-keygen -t ed25519 makes a key")
    done = ssh_keygen("-Y", "sign", "-f", str(key), "-n", NAMESPACE, text=content)
    if done.returncode:
        said = explanation(done)
        advice = "".join(f"; {do}".format(key) for part, do in ADVICE.items() if part in said)
        raise UsageError(f"{key} cannot sign: {said}{advice}")
    return done.stdout
