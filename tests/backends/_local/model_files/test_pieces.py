"""Pieces of a file that was split by its size: whatever they are called, how to join them."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from backends._local.model_files import gguf
from backends._local.model_files.folder_contents import instead_of_gguf
from backends._local.model_files.sniff import InvalidModelFile

from .test_gguf import WHOLE

WAYS = {  # how people split: the names of three pieces -> that of the whole
    ("model.gguf.aa", "model.gguf.ab", "model.gguf.ac"): "model.gguf",
    ("xaa", "xab", "xac"): "model.gguf",
    ("model.gguf.part-aa", "model.gguf.part-ab", "model.gguf.part-ac"): "model.gguf",
    ("m.gguf-split-a", "m.gguf-split-b", "m.gguf-split-c"): "m.gguf",
    ("m.gguf.part1of3", "m.gguf.part2of3", "m.gguf.part3of3"): "m.gguf",
    ("m.gguf.001", "m.gguf.002", "m.gguf.003"): "m.gguf",
    ("m.part00", "m.part01", "m.part02"): "m.gguf",
    ("m.gguf.9", "m.gguf.10", "m.gguf.11"): "m.gguf",
    ("m-part1.gguf", "m-part2.gguf", "m-part3.gguf"): "m.gguf",
    ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"): "m.gguf",
    ("my model.part1.gguf", "my model.part2.gguf", "my model.part3.gguf"): "my model.gguf",
}


def wrong(path: Path) -> str:
    """Return the one line that says what is wrong with this file."""
    with pytest.raises(InvalidModelFile) as refused:
        gguf.check(path)
    assert str(refused.value).isprintable()
    return str(refused.value)


def pieces(folder: Path, names: tuple[str, ...], cut: int = 60) -> list[Path]:
    """Write a file in pieces of these names; cut: where the first one ends."""
    ends = [0, cut, len(WHOLE) - 20, len(WHOLE)]
    for name, (start, end) in zip(names, pairwise(ends), strict=True):
        (folder / name).write_bytes(WHOLE[start:end])
    return [folder / name for name in names]


@pytest.mark.parametrize("cut", [30, len(WHOLE) - 60])
@pytest.mark.parametrize("names", WAYS)
def test_the_first_piece_says_how_to_join_them(
    tmp_path: Path, names: tuple[str, ...], cut: int
) -> None:
    """The command works as it is written, whether or not the head is in the first piece."""
    (tmp_path / "README.md").write_text("# Model")
    (tmp_path / "a.gguf").write_bytes(WHOLE)
    found = wrong(pieces(tmp_path, names, cut)[0])
    assert "is one of 3 pieces of a file that was split by its size; join them in " in found
    command = found.split("`")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / WAYS[names]).read_bytes() == WHOLE
    assert found.endswith(("gguf", "gguf'"))


@pytest.mark.parametrize("names", [names for names in WAYS if "-of-" not in names[0]])
def test_a_later_piece_says_the_same(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Though it begins with anything."""
    first, second, third = pieces(tmp_path, names)
    assert wrong(second) == wrong(third) == wrong(first)


@pytest.mark.parametrize("names", WAYS)
def test_a_missing_piece_is_said(tmp_path: Path, names: tuple[str, ...]) -> None:
    """As far as the head tells how much is needed."""
    first, second, _ = pieces(tmp_path, names, len(WHOLE) - 60)
    if "-of-" not in names[0]:  # else it is a part that is missing
        second.unlink()
        assert "and a piece is missing or cut off: " in wrong(first)


def test_a_folder_of_pieces_is_known(tmp_path: Path) -> None:
    """Though none of them has the ending of a GGUF file."""
    names = ("m.gguf.part-aa", "m.gguf.part-ab", "m.gguf.part-ac")
    first, *_ = pieces(tmp_path, names)
    assert instead_of_gguf(tmp_path, names) == f"{names[0]} {wrong(first)}"
    assert instead_of_gguf(tmp_path, names[1:]) == "it holds none"


def test_a_later_piece_alone_is_told_by_its_name(tmp_path: Path) -> None:
    """The others were left behind."""
    path = tmp_path / "m.gguf.part2of3"
    path.write_bytes(WHOLE[60:])
    assert wrong(path).startswith("is, by its name, a later piece of a file that was split")


def test_many_pieces_are_not_all_named(tmp_path: Path) -> None:
    """A line has its length."""
    for number in range(30):
        (tmp_path / f"m.gguf.{number:03}").write_bytes(WHOLE[number * 20 : (number + 1) * 20])
    found = wrong(tmp_path / "m.gguf.000")
    assert "is one of 30 pieces" in found
    assert "`cat m.gguf.000 m.gguf.001 ... m.gguf.029 > m.gguf`" in found


def test_other_files_are_no_pieces(tmp_path: Path) -> None:
    """Of two models the one that is cut off is that, and no piece of the other."""
    for name in ("model-v1.gguf", "model-v3.gguf"):
        (tmp_path / name).write_bytes(WHOLE)
    (tmp_path / "model-v2.gguf").write_bytes(WHOLE[:-1])
    assert wrong(tmp_path / "model-v2.gguf").startswith("is truncated: ")


def test_what_split_makes_is_recognised(tmp_path: Path) -> None:
    """The program itself."""
    if not shutil.which("split"):
        pytest.skip("needs the split command")
    (tmp_path / "whole").write_bytes(WHOLE)
    subprocess.run(["split", "-b", "100", "whole"], check=True, cwd=tmp_path)
    assert "is one of 5 pieces" in wrong(tmp_path / "xab")
