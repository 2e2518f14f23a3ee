"""--model_path: every mistake is one line that says what is there and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import _model_path
from kuwa_min.errors import UsageError

HEAD = b"GGUF\x03\0\0\0"


def model(folder: Path, *files: str) -> Path:
    """Make a folder with these files, empty."""
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(HEAD if name.endswith(".gguf") else b"")
    return folder


def complaint(check: object, path: object) -> str:
    """Return the one line that this path ends in."""
    assert callable(check)
    with pytest.raises(UsageError) as refused:
        check(str(path))
    sentence = str(refused.value)
    assert sentence.splitlines() == [sentence]
    assert sentence.startswith(f"--model_path {path} ")
    return sentence


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_folder_is_fine(tmp_path: Path, weights: str) -> None:
    """With either kind of weights."""
    place = model(tmp_path / "m", "config.json", weights)
    assert _model_path.folder(str(place)) == place


def test_a_gguf_file_is_fine(tmp_path: Path) -> None:
    """By its first bytes, whatever its name."""
    place = tmp_path / "m.bin"
    place.write_bytes(HEAD)
    assert _model_path.gguf(str(place)) == place


@pytest.mark.parametrize("check", [_model_path.folder, _model_path.gguf])
def test_a_mistyped_path_names_near_matches(tmp_path: Path, check: object) -> None:
    """And the place from which on nothing was found."""
    near = model(tmp_path / "models" / "llama-3-8b", "config.json")
    mistyped = tmp_path / "models" / "lama-3-8b"
    found = complaint(check, mistyped)
    assert found.endswith(f"{near.parent} has no lama-3-8b; near it: {near}")
    deeper = tmp_path / "modles" / "llama-3-8b"
    assert complaint(check, deeper).endswith(f"has no modles; near it: {tmp_path / 'models'}")
    assert complaint(check, tmp_path / "xyz").endswith(f"{tmp_path} has no xyz")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """And a GGUF has a backend of its own."""
    (tmp_path / "a.gguf").write_bytes(HEAD)
    (tmp_path / "b.txt").write_bytes(b"text")
    assert complaint(_model_path.folder, tmp_path / "a.gguf").endswith("`llamacpp` runs GGUF files")
    assert complaint(_model_path.folder, tmp_path / "b.txt").endswith("folder is needed")


def test_a_folder_without_a_config_says_what_it_holds(tmp_path: Path) -> None:
    """GGUF files, models one level deeper, or nothing of the kind."""
    ggufs = model(tmp_path / "ggufs", "b.gguf", "a.gguf")
    found = complaint(_model_path.folder, ggufs)
    assert found.endswith(f"use `llamacpp --model_path {ggufs / 'a.gguf'}`")
    inner = model(tmp_path / "deep" / "inner", "config.json")
    assert complaint(_model_path.folder, inner.parent).endswith(f"the model may be {inner}")
    empty = model(tmp_path / "empty")
    assert "no config.json: it is no model folder" in complaint(_model_path.folder, empty)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    """Its config alone is not a model."""
    place = model(tmp_path / "m", "config.json", "tokenizer.json")
    assert "has no weights" in complaint(_model_path.folder, place)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a GGUF file: it begins with b''"),
        (b"<!doctype html>", "is not a GGUF file: it begins with b'<!do'"),
        (b"version https://git-lfs", "is not a GGUF file: it begins with b'vers'"),
        (b"GGUF\x01\0\0\0", "is GGUF version 1; 2 and 3 can be read"),
        (b"GGUF", "is GGUF version 0; 2 and 3 can be read"),
    ],
)
def test_a_file_that_is_no_gguf_says_how_it_begins(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Before native code reads it."""
    place = tmp_path / "m.gguf"
    place.write_bytes(content)
    assert complaint(_model_path.gguf, place).endswith(words)


def test_a_folder_is_no_gguf(tmp_path: Path) -> None:
    """It says which files it holds, or which backend it is for."""
    ggufs = model(tmp_path / "ggufs", "a.gguf", "b.gguf")
    found = complaint(_model_path.gguf, ggufs)
    assert found.endswith(f"is needed: {ggufs / 'a.gguf'}, {ggufs / 'b.gguf'}")
    place = model(tmp_path / "hf", "config.json")
    assert f"use `huggingface --model_path {place}`" in complaint(_model_path.gguf, place)
    assert complaint(_model_path.gguf, model(tmp_path / "none")).endswith("it holds none")
