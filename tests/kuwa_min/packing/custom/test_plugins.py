"""Backends that wheels bring by an entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.plugins import find_plugins
from tests.support.small_files import files_of, make_wheel

POINTS = "[console_scripts]\nparrot = x:y\n[kuwa_min.backends]\n{} = parrot_pack:Parrot\n"


def wheel(folder: Path, name: str, points: str) -> Path:
    """Make a wheel with these entry points."""
    return make_wheel(folder, name, {f"{name}-1.0.dist-info/entry_points.txt": points.encode()})


def test_they_are_found_in_the_wheels(tmp_path: Path) -> None:
    """Among all other entry points, and beside files that are none."""
    made = [wheel(tmp_path, "pack", POINTS.format("Parrot-2")), wheel(tmp_path, "bad", "nonsense")]
    assert find_plugins(files_of(*made)) == {"Parrot-2": "pack-1.0"}


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    """Also one that is called as a backend of ours, or as a verb of files."""
    for name in ("debug", "verify"):
        with pytest.raises(UsageError, match=f"its backend {name} has the name of another"):
            find_plugins(files_of(wheel(tmp_path, "pack", POINTS.format(name))))
    made = [wheel(tmp_path, name, POINTS.format("parrot")) for name in ("one", "two")]
    with pytest.raises(UsageError, match=r"two-1\.0: its backend parrot"):
        find_plugins(files_of(*made))
