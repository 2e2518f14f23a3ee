"""Signing, with the real ssh-keygen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kuwa_min.errors import StartError, UsageError
from kuwa_min.packing.kit.signing import allowed_signers, check_key, sign
from kuwa_min.packing.kit.texts import ADDED
from tests.support.certificates import make_key, without_agent_and_terminal


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_agent_and_terminal(monkeypatch)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Make a key without a passphrase."""
    return make_key(tmp_path / "key")


def test_openssh_verifies_what_was_signed(key: Path, tmp_path: Path) -> None:
    """With the command that the kit's README shows; the namespace must be ours."""
    (tmp_path / "SHA256SUMS").write_text("sums\n", encoding="ascii")
    (tmp_path / "allowed_signers").write_text(allowed_signers(check_key(key)), encoding="ascii")
    sign(tmp_path, key)
    command = "ssh-keygen -Y verify -f allowed_signers -I kuwa-min -n {} -s SHA256SUMS.sig"
    for namespace, code in (("kuwa-min", 0), ("git", 255)):
        words = command.format(namespace).split()
        done = subprocess.run(
            words, cwd=tmp_path, input=b"sums\n", capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr
    public = key.with_suffix(".pub").read_text(encoding="ascii").split()[:2]
    assert check_key(key).split() == public


def test_what_was_added_is_found_by_hand(tmp_path: Path) -> None:
    """And what is missing, or a link in a file's place; names may have spaces or line breaks."""

    def is_content() -> bool:
        return subprocess.run(["sh", "-c", ADDED], cwd=tmp_path, capture_output=True).stdout != b""

    names = ["model/a b", "SHA256SUMS.old", "start.sh"]
    (tmp_path / "model").mkdir()
    (tmp_path / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    for name in (*names, "SHA256SUMS.sig"):
        (tmp_path / name).touch()
    assert is_content()
    for added in (".kuwa", "model/SHA256SUMS.sig", "x\n..start.sh", "start.sh\n"):
        (tmp_path / added).touch()
        assert not is_content(), added
        (tmp_path / added).unlink()
    (tmp_path / "start.sh").rename(tmp_path / "SHA256SUMS.sig")
    assert not is_content()
    (tmp_path / "start.sh").symlink_to("SHA256SUMS.sig")
    assert not is_content()


def test_a_key_that_cannot_sign_is_one_line(key: Path, tmp_path: Path) -> None:
    """Which says what ssh-keygen says, and what to do."""
    locked = make_key(tmp_path / "locked", "secret")
    public = tmp_path / "only.pub"
    public.write_bytes(key.with_suffix(".pub").read_bytes())
    none = tmp_path / "none"
    none.write_text("no key\n", encoding="ascii")
    none.chmod(0o600)
    is_open = tmp_path / "open"
    is_open.write_bytes(key.read_bytes())
    is_open.chmod(0o644)
    for path, words in (
        (locked, f"incorrect passphrase.*; put the key into an agent first: ssh-add {locked}$"),
        (public, "; this is a public key, and no agent has its private part: give the private"),
        (none, f"Couldn't load public key.*: ssh-keygen -y -f {none} > {none}.pub$"),
        (is_open, f"UNPROTECTED PRIVATE KEY FILE.*; chmod 600 {is_open}$"),
        (tmp_path / "absent", "there is no such file; ssh-keygen -t ed25519 makes a key$"),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            check_key(path)
        assert str(refused.value).isprintable()


def test_without_ssh_keygen_the_line_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is built."""
    (tmp_path / "key").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match=r"is not here: install openssh-client \(Debian"):
        check_key(tmp_path / "key")
