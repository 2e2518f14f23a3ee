"""Models to take along: a folder with all that its links lead to, or a GGUF with its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.model_files import model_files


def paths(model: Path) -> list[str]:
    """Return the paths of a model's files."""
    return [one.path for one in model_files(model)]


def test_a_folder_is_all_of_its_files_in_order(tmp_path: Path) -> None:
    """Also behind links, to files and to folders: the caches of model hubs are made of them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1234").write_bytes(b"weights")
    model = tmp_path / "model"
    (model / "b").mkdir(parents=True)
    (model / "b" / "config.json").write_text("{}", encoding="ascii")
    (model / "weights.bin").symlink_to(tmp_path / "blobs" / "1234")
    (model / "a é.txt").touch()
    (model / "more").symlink_to(tmp_path / "blobs")
    found = {one.path: one.source.read_bytes() for one in model_files(model)}
    assert list(found) == ["a é.txt", "b/config.json", "more/1234", "weights.bin"]
    assert found["more/1234"] == found["weights.bin"] == b"weights"


def test_what_downloads_leave_behind_stays(tmp_path: Path) -> None:
    """A clone holds its weights a second time, a fetched folder its locks."""
    for name in ("config.json", ".git/lfs/objects/12/34", ".cache/huggingface/x.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(tmp_path) == ["config.json"]


def test_a_gguf_is_itself(tmp_path: Path) -> None:
    """Under its own name, whatever lies beside it."""
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert paths(tmp_path / "small.gguf") == ["small.gguf"]


def test_the_part_that_sees_goes_with_its_model(tmp_path: Path) -> None:
    """If there is only one: of two, --mmproj would have to choose."""
    for name in ("small.gguf", "MMProj-F16.gguf", "mmproj.txt"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert paths(tmp_path / "small.gguf") == ["small.gguf", "MMProj-F16.gguf"]
    (tmp_path / "small.mmproj.gguf").write_bytes(b"GGUF")
    assert paths(tmp_path / "small.gguf") == ["small.gguf"]


def test_a_gguf_in_parts_is_all_of_them(tmp_path: Path) -> None:
    """The library finds the others beside the one that it is given."""
    names = [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        (tmp_path / name).touch()
    assert paths(tmp_path / names[0]) == names
    (tmp_path / names[1]).unlink()
    with pytest.raises(UsageError, match=rf"is one of 3 files; {names[1]} is missing"):
        model_files(tmp_path / names[0])


REFUSED = (
    ("nowhere", "nowhere is neither a folder with a model nor a .gguf file"),
    ("nowhere.gguf", "nowhere.gguf is neither"),
    ("model.bin", "model.bin is neither"),
    ("empty", "empty is empty: a folder with a model is needed"),
    ("hollow", "hollow is empty"),
    ("round", "leads back to itself"),
    ("broken", "leads nowhere, or is neither a file nor a folder"),
)


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_what_is_no_model_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    """Before anything is built or copied."""
    (tmp_path / "model.bin").touch()
    for folder in ("empty", "hollow/inside", "round", "broken"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "round" / "again").symlink_to(tmp_path / "round")
    (tmp_path / "broken" / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError) as caught:
        model_files(tmp_path / name)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["a\\b", "c:d"])
def test_a_name_that_would_lead_elsewhere_on_some_systems_is_refused(
    tmp_path: Path, name: str
) -> None:
    """The program would refuse to unpack it; so it is refused before it travels."""
    (tmp_path / name).write_text("x", encoding="ascii")
    with pytest.raises(UsageError, match="cannot be in its name"):
        model_files(tmp_path)
