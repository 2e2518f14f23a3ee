"""Cache roots: their order, who else may write there, why one cannot be used."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from kuwa_min.bundle import cache_root, trust


def found(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """Return where the cache of /opt/kuwa.pyz may be with these variables alone."""
    for name in ("KUWA_MIN_ROOT", "KUWA_ROOT", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return cache_root.cache_roots("/opt/kuwa.pyz")


BESIDE = "/opt/.kuwa"
ROOTS = (
    ({"KUWA_MIN_ROOT": "/some/where", "HOME": "/home/me"}, ["/some/where"]),
    ({"KUWA_ROOT": "/kuwas/own", "HOME": "/home/me"}, ["/home/me/.cache/kuwa", BESIDE]),
    ({"XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, ["/x/kuwa", BESIDE]),
    ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, ["/home/me/.cache/kuwa", BESIDE]),
    ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, ["/home/me/.cache/kuwa", BESIDE]),
    ({"HOME": ""}, [BESIDE]),
)


@pytest.mark.parametrize(("variables", "expected"), ROOTS)
def test_roots_are_tried_in_order(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: list[str],
) -> None:
    """The one that the user named alone; else the user's cache, then beside the file."""
    assert found(monkeypatch, **variables) == expected
    assert cache_root.is_explicit() == ("KUWA_MIN_ROOT" in variables)


def test_a_user_without_name_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with a made-up number."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert found(monkeypatch) == [BESIDE]


UNUSABLE = (
    ((10**18, 1), "are needed and .* are free"),
    ((1, 10**15), "inodes are needed"),
)


@pytest.mark.parametrize(("needs", "reason"), UNUSABLE)
def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, needs: tuple[int, int], reason: str
) -> None:
    """With what is needed and what is free."""
    assert re.search(
        reason, cache_root.reason_unusable(str(tmp_path / "a" / "b"), *needs, runs_code=True)
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_a_reason(tmp_path: Path) -> None:
    """Not a traceback of mkdir."""
    (tmp_path / "file").write_text("", encoding="ascii")
    assert cache_root.reason_unusable(str(tmp_path / "file" / "x"), 1, 1, runs_code=True).endswith(
        "is not a folder"
    )


def test_a_good_root_has_no_reason(tmp_path: Path) -> None:
    """And still nothing is written."""
    assert cache_root.reason_unusable(str(tmp_path / "a"), 1, 1, runs_code=True) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_all_missing_folders_are_made_for_us_alone(tmp_path: Path, umask: int) -> None:
    """Also those above the cache, whatever the umask; to make them again does no harm."""
    former = os.umask(umask)
    try:
        for _ in range(2):
            cache_root.create_root(str(tmp_path / "a" / "b"))
    finally:
        os.umask(former)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]
    assert trust.reason_untrusted(str(tmp_path / "a" / "b")) == ""


def test_many_first_starts_make_the_same_folders(tmp_path: Path) -> None:
    """The second one finds them there, and goes on."""
    barrier, failures = threading.Barrier(8), []
    former = os.umask(0o022)

    def make(number: int) -> None:
        barrier.wait()
        try:
            cache_root.create_root(str(tmp_path / "one" / "two"))
        except OSError as error:
            failures.append((number, error))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.umask(former)  # threads share it: the last one may have put back another's
    assert failures == []
