"""Signed kits and what can be wrong with them, with the real ssh-keygen."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kuwa_min.bundle import commands, signed_kit
from kuwa_min.errors import StartError, UsageError
from kuwa_min.packing.kit.signing import allowed_signers, check_key, sign
from tests.support.certificates import make_key, without_agent_and_terminal

FILES = {"kuwa-dummy.pyz": b"PK", "kuwa.args": b"dummy\n", "model/a b.bin": bytes(5)}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_agent_and_terminal(monkeypatch)


def sums(kit: Path, *names: str) -> None:
    """Write the hashes of these files of a kit."""
    lines = [f"{hashlib.sha256((kit / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (kit / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Make a key."""
    return make_key(tmp_path / "key")


@pytest.fixture
def kit(tmp_path: Path, key: Path) -> Path:
    """Make a small signed kit."""
    folder = tmp_path / "kit"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    signers = allowed_signers(check_key(key))
    (folder / "allowed_signers").write_text(signers, encoding="ascii")
    (tmp_path / "signers").write_text(signers, encoding="ascii")
    sums(folder, *FILES, "allowed_signers")
    sign(folder, key)
    return folder


def verified(kit: Path, signers: Path) -> list[str]:
    """Return what verify says of a kit, its error last."""
    lines = []
    try:
        for line in commands.verify("kuwa", ["--signers", str(signers), str(kit)]):
            lines.append(line)
    except StartError as error:
        lines.append(str(error))
    assert all(map(str.isprintable, lines))
    return lines


def test_a_whole_kit_of_a_known_signer_is_good(kit: Path) -> None:
    """Who signed is said; a file of signers that came with the kit proves little."""
    signers = kit.with_name("signers")
    first, last = verified(kit, signers)
    assert first.startswith("good: signed by kuwa-min with the key SHA256:")
    assert first.endswith(f", as {signers} allows")
    assert last == f"good: every file of {kit} is what was signed, and there is no other"
    warned = verified(kit, kit / "allowed_signers")[1]
    assert warned == "warning: that file came with the kit: ask its maker whether the key is theirs"


def test_any_name_may_stand_before_the_key(kit: Path, key: Path) -> None:
    """In a file that an organisation keeps; options and other keys, too."""
    public = key.with_suffix(".pub").read_text(encoding="ascii")
    other = make_key(kit.with_name("other")).with_suffix(".pub").read_text(encoding="ascii")
    signers = kit.with_name("signers")
    signers.write_text(f"# ours\na@b {other}*@c,d {public}", encoding="ascii")
    assert "signed by *@c with the key" in verified(kit, signers)[0]


def tampered(kit: Path) -> None:
    """Change a byte, of the same length."""
    (kit / "kuwa-dummy.pyz").write_bytes(b"PQ")


def hashed_again(kit: Path) -> None:
    """Change a file, and its hash."""
    tampered(kit)
    sums(kit, *FILES, "allowed_signers")


def signed_again(kit: Path) -> None:
    """Change a file, its hash, the signature and the signer."""
    tampered(kit)
    key = make_key(kit.with_name("enemy"))
    signers = allowed_signers(check_key(key))
    (kit / "allowed_signers").write_text(signers, encoding="ascii")
    sums(kit, *FILES, "allowed_signers")
    sign(kit, key)


def replaced_by_a_pipe(kit: Path) -> None:
    """Put something in a file's place that would never end."""
    (kit / "kuwa-dummy.pyz").unlink()
    os.mkfifo(kit / "kuwa-dummy.pyz")


def replaced_by_a_link(kit: Path) -> None:
    """Lead to the same bytes elsewhere, which can be changed after a look at them."""
    (kit / "kuwa-dummy.pyz").rename(kit.with_name("elsewhere"))
    (kit / "kuwa-dummy.pyz").symlink_to(kit.with_name("elsewhere"))


def endless(kit: Path, name: str) -> None:
    """Put a pipe, which nothing writes to, in the place of what is read first."""
    (kit / name).unlink()
    os.mkfifo(kit / name)


def unpacked(kit: Path) -> None:
    """Plant what a start that unpacks beside the file would run."""
    (kit / ".kuwa" / "key" / "tree").mkdir(parents=True)
    (kit / ".kuwa" / "key" / "tree" / "torch.py").touch()


def outside(kit: Path) -> None:
    """List a file that is not below the kit."""
    (kit / "SHA256SUMS").write_text(f"{'0' * 64}  ../signers\nnothing\n", encoding="ascii")


Damage = Callable[[Path], object]
UNSIGNED = "SHA256SUMS is not what kuwa-min signed with the key SHA256:"
FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "tampered": (tampered, ["kuwa-dummy.pyz is not what was signed"]),
    "hashed again": (hashed_again, [UNSIGNED]),
    "signed again": (signed_again, ["the signer is unknown: "]),
    "edited": (
        lambda kit: (kit / "kuwa.args").write_text("debug\n", encoding="ascii"),
        ["kuwa.args is not what was signed; if you wrote into it, that is why"],
    ),
    "missing file": (lambda kit: (kit / "model/a b.bin").unlink(), ["model/a b.bin is missing"]),
    "extra files": (
        lambda kit: [(kit / name).touch() for name in ("usercustomize.py", "model/new\n")],
        ["'model/new\\n' is too many", "usercustomize.py is too many: it was not signed"],
    ),
    "link to a folder": (
        lambda kit: (kit / "more").symlink_to("/", target_is_directory=True),
        ["more is too many"],
    ),
    "pipe": (replaced_by_a_pipe, ["kuwa-dummy.pyz is not what was signed"]),
    "link to a file": (replaced_by_a_link, ["kuwa-dummy.pyz is a link: put the file"]),
    "unpacked": (unpacked, [".kuwa was not signed, and what lies there would be run: remove it"]),
    "link to unpacked": (
        lambda kit: (kit / ".kuwa").symlink_to("/"),
        [".kuwa was not signed, and what lies there would be run: remove it"],
    ),
    "endless sums": (
        lambda kit: endless(kit, "SHA256SUMS"),
        ["SHA256SUMS is a link, no file or too large: what was signed is not here"],
    ),
    "endless signature": (
        lambda kit: endless(kit, "SHA256SUMS.sig"),
        ["SHA256SUMS.sig is a link, no file or too large: the kit is not signed, or lost"],
    ),
    "no signature": (
        lambda kit: (kit / "SHA256SUMS.sig").unlink(),
        ["SHA256SUMS.sig is missing: the kit is not signed, or lost its signature"],
    ),
    "no sums": (
        lambda kit: (kit / "SHA256SUMS").unlink(),
        ["SHA256SUMS is missing: what was signed is not here"],
    ),
    "no kit": (shutil.rmtree, ["SHA256SUMS.sig is missing"]),
    "damaged signature": (
        lambda kit: (kit / "SHA256SUMS.sig").write_text("-----BEGIN", encoding="ascii"),
        ["SHA256SUMS.sig is no signature of ssh-keygen: copy the kit again"],
    ),
    "not below": (
        outside,
        [UNSIGNED, "SHA256SUMS has lines that are none", *["" for _ in (*FILES, "signers")]],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_a_line(kit: Path, name: str) -> None:
    """And the end is an error, whatever else is good."""
    damage, expected = FAULTS[name]
    damage(kit)
    lines = verified(kit, kit.with_name("signers"))
    faults = [line.removeprefix("fault: ") for line in lines if line.startswith("fault: ")]
    assert len(faults) == len(expected)
    assert all(map(str.startswith, faults, expected)), faults
    many = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    end = f"do not use the kit {kit} ({many}, named above): have it copied or made again"
    assert lines[-1] == end


def test_a_signature_needs_a_file_of_signers_and_ssh_keygen(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without either the line says what to do."""
    with pytest.raises(UsageError, match=r"there is no file .*/absent, to know the signers by"):
        verified(kit, kit.with_name("absent"))
    with pytest.raises(SystemExit):
        list(commands.verify("kuwa", [str(kit)]))
    assert "a folder is checked with --signers FILE" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(kit))
    (fault, _) = verified(kit, kit.with_name("signers"))
    assert fault.startswith("fault: ssh-keygen, which makes and compares signatures, is not here: ")
    assert "openssh (Red Hat, Fedora), or do this on a machine that has it" in fault
    old = kit / "ssh-keygen"
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n", encoding="ascii")
    old.chmod(0o755)
    fault = verified(kit, kit.with_name("signers"))[0]
    assert fault.endswith("says: this one is older than OpenSSH 8.2 and knows no signatures)")


def test_an_expired_key_is_named(kit: Path, key: Path) -> None:
    """With what ssh-keygen says."""
    public = key.with_suffix(".pub").read_text(encoding="ascii")
    signers = kit.with_name("signers")
    signers.write_text(f'a valid-before="20200101" {public}', encoding="ascii")
    fault = verified(kit, signers)[0]
    assert "the signer is unknown: " in fault and "key has expired" in fault


def test_the_fingerprint_is_that_of_ssh_keygen(key: Path) -> None:
    """So that people can compare the two."""
    done = signed_kit.ssh_keygen("-l", "-f", str(key), text=b"")
    sent = signed_kit.ssh_keygen("-Y", "sign", "-f", str(key), "-n", "x", text=b"")
    assert signed_kit.public_key(sent.stdout)[1] in done.stdout.decode()
