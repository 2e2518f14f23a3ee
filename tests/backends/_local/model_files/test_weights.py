"""Weights: what is missing, cut off or something else is found by names, sizes and heads alone."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from backends._local.model_files import weights
from kuwa_min.errors import UsageError
from tests.support.models import tiny_models, weight_files
from tests.support.models.weight_files import DATA, PAGE, POINTER, safetensors, shard_names

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def wrong(folder: Path, *, safetensors_only: bool = False) -> str:
    """Return the one line that says what is wrong with these weights."""
    with pytest.raises(UsageError) as refused:
        weights.find(folder, safetensors_only=safetensors_only)
    sentence = str(refused.value)
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return sentence


def folder_with(place: Path, content: bytes, name: str = SINGLE) -> Path:
    """Make a folder whose weights are these bytes."""
    return weight_files.folder(place / "m", {name: content})


def tensors(*places: object) -> dict[str, object]:
    """Return the header of tensors that lie there."""
    return {f"t{n}": {"data_offsets": place} for n, place in enumerate(places)}


# -- which files


def test_the_files_come_with_their_sizes(tmp_path: Path) -> None:
    """In the order of their names, which is that of loading."""
    folder = weight_files.sharded(tmp_path / "m", 2)
    size = len(safetensors())
    assert weights.find(folder) == [(folder / name, size) for name in shard_names(2)]


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    """Pickles beside them are not looked at."""
    folder = folder_with(tmp_path, safetensors())
    (folder / "pytorch_model.bin").write_bytes(PAGE)
    assert weights.find(folder) == [(folder / SINGLE, len(safetensors()))]


@pytest.mark.parametrize("name", [SINGLE, "pytorch_model.bin"])
def test_one_file_is_preferred_to_several(tmp_path: Path, name: str) -> None:
    """As the library does."""
    folder = folder_with(tmp_path, safetensors() if name == SINGLE else b"\x80\x02", name)
    (folder / f"{name}.index.json").write_bytes(PAGE)
    assert [file.path.name for file in weights.find(folder)] == [name]


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    """The hub's cache consists of them."""
    (tmp_path / "blob").write_bytes(safetensors())
    folder = weight_files.folder(tmp_path / "m", {"README.md": b""})
    (folder / SINGLE).symlink_to("../blob")
    assert weights.find(folder) == [(folder / SINGLE, len(safetensors()))]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "has no weights beside its config.json: model.safetensors, or several files"),
        (["consolidated.00.pth"], "it holds weights as Meta and Mistral lay them out"),
        (["consolidated.safetensors"], "it holds weights as Meta and Mistral lay them out"),
        (["own.pth"], "the library does not read own.pth"),
        (["model.fp16.safetensors"], "the library does not read model.fp16.safetensors"),
        (["a.gguf"], "beside its config.json: it holds GGUF files; use `llamacpp --model_path"),
        (["adapter_config.json", "adapter_model.safetensors"], "it is an adapter (LoRA), not a"),
        (["model.safetensors.crdownload"], "into it have not ended (model.safetensors.crdownload)"),
        (["model.safetensors.aria2", "a.zip"], "have not ended (model.safetensors.aria2); fetch"),
        (["model.onnx"], "it holds an ONNX model, which nothing here runs; take the model as"),
        (["tf_model.h5"], "it holds weights of TensorFlow or Flax; take the model as safetensors"),
        (["weights.00.npz"], "it holds weights for MLX (Apple)"),
        (["model.bin", "vocabulary.json"], "it holds model.bin, for another program"),
        (["all.tar.gz"], "it holds an archive, all.tar.gz; unpack that first"),
        (
            ["model-00001-of-00002.safetensors"],
            "has model-00001-of-00002.safetensors, but no model.safetensors.index.json",
        ),
        (
            ["pytorch_model-00001-of-00002.bin"],
            "has pytorch_model-00001-of-00002.bin, but no pytorch_model.bin.index.json",
        ),
    ],
)
def test_a_folder_without_weights_says_what_it_has(
    tmp_path: Path, names: list[str], words: str
) -> None:
    """Beside its config."""
    folder = weight_files.folder(tmp_path / "m", {"README.md": b"", **dict.fromkeys(names, b"x")})
    assert words in wrong(folder)


def test_pickles_are_refused_if_only_safetensors_are_wanted(tmp_path: Path) -> None:
    """In one file or several; without the option they are fine."""
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        shard = weight_files.index(["pytorch_model-1-of-1.bin"])
        content = shard if name.endswith(".json") else b"\x80\x02"
        folder = folder_with(tmp_path / name, content, name)
        (folder / "pytorch_model-1-of-1.bin").write_bytes(b"\x80\x02")
        assert len(weights.find(folder)) == 1
        assert ".bin" in wrong(folder, safetensors_only=True)


# -- several files


def test_missing_files_are_counted_and_named(tmp_path: Path) -> None:
    """The first few of them; a link that leads nowhere is a missing file."""
    folder = weight_files.sharded(tmp_path / "m", 5)
    names = shard_names(5)
    (folder / names[1]).unlink()
    assert wrong(folder) == f"is incomplete: 1 of 5 weight files is missing: {names[1]}" + (
        "; copy them, too"
    )
    (folder / names[1]).symlink_to("nowhere")
    (folder / names[4]).unlink()
    assert f"2 of 5 weight files are missing: {names[1]}, {names[4]}; copy" in wrong(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    assert f"{names[3]} and 1 more; copy" in wrong(folder)


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    """With the reason of the first one."""
    folder = weight_files.sharded(tmp_path / "m", 3)
    first, _, third = shard_names(3)
    (folder / first).write_bytes(POINTER)
    (folder / third).write_bytes(PAGE)
    found = wrong(folder)
    assert found.startswith(f"cannot be loaded: {first} is a Git-LFS pointer")
    assert found.endswith(f"(damaged, too: {third})")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "is a Git-LFS pointer"),
        (PAGE, "is a web page"),
        (b"", "is empty"),
        (b"{", "is no JSON object"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": {"a": []}}', "has a damaged weight_map"),
        (b'{"weight_map": {"a": 5}}', "names 5, which is no file of this folder"),
        (b'{"weight_map": {"a": ""}}', "names , which is no file of this folder"),
        (b'{"weight_map": {"a": "."}}', "names ., which is no file of this folder"),
    ],
)
def test_a_damaged_index_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    """It decides which files are read."""
    found = wrong(folder_with(tmp_path, content, INDEX))
    assert found.startswith(f"cannot be loaded: {INDEX} {words}")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\0b", "..\\b"])
def test_an_index_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    """Whatever it names."""
    folder = folder_with(tmp_path, weight_files.index([name]), INDEX)
    assert "which is no file of this folder" in wrong(folder)


def test_a_name_of_an_index_is_shown_on_one_line(tmp_path: Path) -> None:
    """And not all of a long one."""
    folder = folder_with(tmp_path, weight_files.index(["x\n" * 50, "y" * 250]), INDEX)
    found = wrong(folder)
    assert "2 of 2 weight files are missing: 'x\\nx" in found
    assert f"{'y' * 100}..." in found


# -- one file


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    """Wherever it was cut."""
    whole = safetensors()
    for size in range(9, len(whole)):
        found = wrong(folder_with(tmp_path / str(size), whole[:size]))
        in_data = size >= len(whole) - len(DATA)
        needed = f"{len(whole)}" if in_data else f"more than {len(whole) - len(DATA)}"
        assert found == (
            f"cannot be loaded: {SINGLE} is truncated: {needed} bytes are needed, {size} are "
            "there; copy it again"
        )


def test_great_numbers_are_readable(tmp_path: Path) -> None:
    """A model of billions of bytes is not needed to say so."""
    folder = folder_with(tmp_path, safetensors(tensors([0, 4_976_698_672]), b""))
    with (folder / SINGLE).open("r+b") as file:
        file.truncate(1_203_240_960)
    size = len(safetensors(tensors([0, 4_976_698_672]), b""))
    assert f"{4_976_698_672 + size:,} bytes are needed, 1,203,240,960 are there" in wrong(folder)


def test_bytes_after_the_last_tensor_are_damage(tmp_path: Path) -> None:
    """The library refuses them, too."""
    found = wrong(folder_with(tmp_path, safetensors() + b"!"))
    size = len(safetensors())
    assert f"is too long: {size} bytes are needed, {size + 1} are there" in found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; copy it again"),
        (POINTER, f"not the file itself: 5,234,234,112 bytes are needed, {len(POINTER)} found"),
        (POINTER[:43], "is a Git-LFS pointer, not the file itself: `git lfs pull`"),
        (PAGE, f"is a web page of {len(PAGE)} bytes"),
        (b"<?xml version='1.0'?><Error>", "is a web page"),
        (b"Entry not found", "is no safetensors file: it begins with b'Entry no'"),
        (b"{}", "is no safetensors file"),
        (b"\0" * 100, "is no safetensors file"),
        (b"PK\x03\x04" + b"\0" * 100, "is no safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "is no safetensors file"),
        (struct.pack("<Q", 100_000_001) + b"{}", "is no safetensors file"),
        (struct.pack("<Q", 99_000_000) + b"{}", "is truncated: more than 99,000,008 bytes"),
    ],
)
def test_what_is_no_safetensors_file_says_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """By its first bytes; no memory is taken because they ask for it."""
    assert words in wrong(folder_with(tmp_path, content))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{" + b" " * 50, "it is no JSON object"),
        (b'{"a":' * 50_000, "it is no JSON object"),
        (b'{"a": "\xff"}', "it is no JSON object"),
        (
            tensors([0, 10], [12, 24]),
            "the tensor t1 begins at byte 12, the one before it ends at 10",
        ),
        (
            tensors([0, 14], [12, 24]),
            "the tensor t1 begins at byte 12, the one before it ends at 14",
        ),
        (tensors([4, 24]), "the tensor t0 begins at byte 4, the one before it ends at 0"),
        (tensors([-4, 24]), "it does not say where the tensor t0 lies"),
        (tensors([24, 0]), "it does not say where the tensor t0 lies"),
        (tensors([0]), "it does not say where the tensor t0 lies"),
        (tensors([0, 1e3]), "it does not say where the tensor t0 lies"),
        (tensors([0, 10**400]), "it does not say where the tensor t0 lies"),
        (tensors("ab"), "it does not say where the tensor t0 lies"),
        ({"t\n0": []}, "it does not say where the tensor 't\\n0' lies"),
    ],
)
def test_a_header_that_cannot_be_true_is_damage(tmp_path: Path, header: object, words: str) -> None:
    """It is not left to the library to find out."""
    found = wrong(folder_with(tmp_path, safetensors(header)))
    assert found.startswith(f"cannot be loaded: {SINGLE} has a damaged header: {words}")


def test_tensors_may_be_empty_and_in_any_order(tmp_path: Path) -> None:
    """Only where they lie counts."""
    header = tensors([20, 24], [0, 20], [20, 20], [24, 24], [0, 0])
    assert len(weights.find(folder_with(tmp_path, safetensors(header)))) == 1


@pytest.mark.parametrize("name", [SINGLE, "pytorch_model.bin"])
def test_a_pipe_or_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    """A pipe is not opened: it would be waited for."""
    folder = weight_files.folder(tmp_path / "m", {"README.md": b""})
    os.mkfifo(folder / name)
    assert wrong(folder) == f"cannot be loaded: {name} is no ordinary file"
    (folder / name).unlink()
    (folder / name).mkdir()
    assert wrong(folder) == f"cannot be loaded: {name} is a folder, not a file"
    (folder / name).rmdir()
    (folder / name).symlink_to(name)
    assert f"1 of 1 weight files is missing: {name}" in wrong(folder)


# -- .bin


def test_both_formats_of_torch_are_fine(tmp_path: Path) -> None:
    """A zip, and the pickle that came before it."""
    new = weight_files.folder(tmp_path / "new", {"README.md": b""})
    weight_files.write_zip(new / "pytorch_model.bin")
    old = folder_with(tmp_path, b"\x80\x02\x8a\n", "pytorch_model.bin")
    assert len(weights.find(new)) == len(weights.find(old)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "is a Git-LFS pointer"),
        (PAGE, "is a web page"),
        (b"", "is empty"),
        (safetensors(), "is no file of torch: it begins with b'"),
    ],
)
def test_what_is_no_file_of_torch_says_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Before torch looks at it."""
    found = wrong(folder_with(tmp_path, content, "pytorch_model.bin"))
    assert found.startswith(f"cannot be loaded: pytorch_model.bin {words}")


def test_a_truncated_zip_is_found(tmp_path: Path) -> None:
    """Its end says what is in it."""
    whole = weight_files.write_zip(tmp_path / "whole").read_bytes()
    folder = folder_with(tmp_path, whole[:-30], "pytorch_model.bin")
    found = f"pytorch_model.bin is truncated: {len(whole) - 30:,} bytes are there, but not the"
    assert found in wrong(folder)


# -- the library's own files


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_librarys_own_files_are_fine(tmp_path: Path) -> None:
    """In one file, in many, and as torch saves them; without one of many, none is loaded."""
    torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
    transformers = pytest.importorskip("transformers", reason="and transformers")
    one = tiny_models.write_folder(tmp_path / "one")
    assert [file.path.name for file in weights.find(one)] == [SINGLE]
    model = transformers.AutoModelForCausalLM.from_pretrained(one)
    many = tmp_path / "many"
    model.save_pretrained(many, max_shard_size="100KB")
    found = weights.find(many)
    assert len(found) > 2
    assert sum(size for _, size in found) > sum(one.nbytes for one in model.state_dict().values())
    found[1].path.unlink()
    assert f"1 of {len(found)} weight files is missing: {found[1].path.name}" in wrong(many)
    for number, legacy in enumerate((False, True)):
        pickles = folder_with(tmp_path / str(number), b"", "pytorch_model.bin")
        file = pickles / "pytorch_model.bin"
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=not legacy)
        assert weights.find(pickles) == [(file, file.stat().st_size)]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [9, 50, -1])
def test_the_library_refuses_what_is_refused_here(tmp_path: Path, cut: int) -> None:
    """Its own reader is the judge of the format."""
    judge = pytest.importorskip("safetensors", reason="the format's own library")
    for place, content in ("cut", safetensors()[:cut]), ("longer", safetensors() + b"!"):
        folder = folder_with(tmp_path / place, content)
        assert wrong(folder)
        with pytest.raises(judge.SafetensorError):
            judge.safe_open(folder / SINGLE, framework="np")
    whole = folder_with(tmp_path, safetensors())
    with judge.safe_open(whole / SINGLE, framework="np") as file:
        assert list(file.keys()) == ["weights"]
    assert json.loads((whole / "config.json").read_text(encoding="utf-8"))
