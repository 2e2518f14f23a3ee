"""--model_path: every mistake is one line that says what was found and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends._local.model_files import resolve
from kuwa_min.errors import StartError, UsageError
from tests.support.models import weight_files
from tests.support.models.weight_files import PAGE, POINTER

HEAD = b"GGUF\x03\0\0\0" + bytes(16)  # of a file without tensors and fields
UNPRIVILEGED_UID = 65534


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the hub's cache an empty folder."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    return place


@pytest.fixture
def no_root() -> Iterator[None]:
    """Run as an unprivileged user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(UNPRIVILEGED_UID)
    try:
        yield
    finally:
        os.seteuid(0)


def model(folder: Path, *files: str) -> Path:
    """Make a folder with these files, empty."""
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(HEAD if name.endswith(".gguf") else b"")
    return folder


def complaint(check: object, path: object, **options: object) -> str:
    """Return the one line that this path ends in."""
    assert callable(check)
    with pytest.raises(UsageError) as refused:
        check(str(path), **options)
    sentence = str(refused.value)
    assert sentence.splitlines() == [sentence]
    assert sentence.startswith(f"--model_path {path} ")
    return sentence


def wrong(place: Path, **options: object) -> str:
    """Return what is wrong with this folder, without its name."""
    sentence = complaint(resolve.transformers_folder, place, **options)
    return sentence.removeprefix(f"--model_path {place} ")


BOTH = pytest.mark.parametrize("check", [resolve.transformers_folder, resolve.gguf_file])


# -- paths


def test_a_model_folder_is_fine(tmp_path: Path) -> None:
    """With weights in one file or several, by its whole path or a relative one."""
    one = weight_files.folder(tmp_path / "one")
    many = weight_files.sharded(tmp_path / "many", 3)
    assert resolve.transformers_folder(str(one)) == one
    assert resolve.transformers_folder(f"{many}/") == many


def test_a_path_may_be_relative_or_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell would understand it."""
    place = weight_files.folder(tmp_path / "models" / "one")
    monkeypatch.chdir(tmp_path)
    assert resolve.transformers_folder("models/one") == Path("models/one")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve.transformers_folder("~/models/one") == place
    assert f"{place.parent} has no won; near it: {place}" in complaint(
        resolve.transformers_folder, "~/models/won"
    )


def test_a_gguf_file_is_fine(tmp_path: Path) -> None:
    """By its first bytes, whatever its name."""
    place = tmp_path / "m.bin"
    place.write_bytes(HEAD)
    assert resolve.gguf_file(str(place))[0] == place


@BOTH
def test_a_mistyped_path_names_near_matches(tmp_path: Path, check: object) -> None:
    """And the place from which on nothing was found."""
    near = model(tmp_path / "models" / "llama-3-8b", "config.json")
    mistyped = tmp_path / "models" / "lama-3-8b"
    found = complaint(check, mistyped)
    assert found.endswith(f"{near.parent} has no lama-3-8b; near it: {near}")
    assert complaint(check, tmp_path / "xyz").endswith(f"{tmp_path} has no xyz")


@BOTH
def test_a_mistake_in_the_middle_names_the_whole_path(tmp_path: Path, check: object) -> None:
    """If the rest of it leads somewhere there; else as far as it does."""
    near = model(tmp_path / "models" / "llama", "config.json")
    assert complaint(check, tmp_path / "modles" / "llama").endswith(
        f"{tmp_path} has no modles; near it: {near}"
    )
    assert complaint(check, tmp_path / "modles" / "other").endswith(f"near it: {near.parent}")


@BOTH
def test_case_and_shortened_names_are_recognised(tmp_path: Path, check: object) -> None:
    """Users write LLAMA for Llama-3.1-8B-Instruct."""
    near = model(tmp_path / "Llama-3.1-8B-Instruct")
    for written in ("llama-3.1-8b-instruct", "LLAMA"):
        assert complaint(check, tmp_path / written).endswith(f"near it: {near}")


@BOTH
def test_a_relative_path_names_the_folder_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: object
) -> None:
    """It may not be the one that was thought of."""
    model(tmp_path / "models" / "llama")
    monkeypatch.chdir(tmp_path)
    assert complaint(check, "models/lama").endswith("models has no lama; near it: models/llama")
    assert complaint(check, "modles").endswith(f"{tmp_path} has no modles; near it: models")


@BOTH
def test_links_that_lead_nowhere_are_named(tmp_path: Path, check: object) -> None:
    """With what they lead to; a link to itself is the system's own sentence."""
    (tmp_path / "lost").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    assert complaint(check, tmp_path / "lost").endswith("lost is a link to gone, which does not")
    assert "cannot be read: " in complaint(check, tmp_path / "loop")


@BOTH
@pytest.mark.parametrize("path", ["", "\0", "~nobody-of-this-name/x", "x" * 5000])
def test_what_is_no_path_is_one_line(check: object, path: str) -> None:
    """Whatever the system says to it."""
    assert callable(check)
    with pytest.raises(UsageError) as refused:
        check(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """And a GGUF has a backend of its own."""
    (tmp_path / "a.gguf").write_bytes(HEAD)
    (tmp_path / "b.txt").write_bytes(b"text")
    os.mkfifo(tmp_path / "pipe")  # opening it would block
    assert complaint(resolve.transformers_folder, tmp_path / "a.gguf").endswith(
        "`llamacpp` runs GGUF files"
    )
    assert complaint(resolve.transformers_folder, tmp_path / "b.txt").endswith("folder is needed")
    assert complaint(resolve.transformers_folder, tmp_path / "pipe").endswith("no ordinary file")


def test_what_may_not_be_read_says_so(tmp_path: Path, no_root: None) -> None:
    """The folders of tests are private: no other user may read them."""
    if os.access(tmp_path, os.R_OK, effective_ids=True):
        tmp_path.chmod(0)
    found = complaint(resolve.transformers_folder, tmp_path / "model")
    assert found.endswith("cannot be read: Permission denied")


# -- folders that are no models


def test_a_folder_without_a_config_says_what_it_holds(tmp_path: Path) -> None:
    """GGUF files, an adapter, weights alone, or nothing of the kind."""
    ggufs = model(tmp_path / "ggufs", "b.gguf", "a.gguf")
    assert wrong(ggufs).endswith(f"use `llamacpp --model_path {ggufs / 'a.gguf'}`")
    adapter = model(tmp_path / "lora", "adapter_config.json", "adapter_model.safetensors")
    assert "it is an adapter (LoRA), not a whole model" in wrong(adapter)
    base = '{"base_model_name_or_path": "owner/base-7b"}'
    (adapter / "adapter_config.json").write_text(base, encoding="utf-16")
    assert "it is an adapter (LoRA) for owner/base-7b, not a whole model: give" in wrong(adapter)
    weights = model(tmp_path / "weights", "model.safetensors")
    assert wrong(weights).endswith("it holds weights; copy the model's other files, too")
    assert "no config.json: it is no model folder" in wrong(model(tmp_path / "empty"))


def test_a_model_in_a_folder_below_is_named(tmp_path: Path) -> None:
    """One level deeper, or as deep as a hub's cache keeps it; if there are several, some."""
    inner = weight_files.folder(tmp_path / "deep" / "inner")
    assert wrong(inner.parent).endswith(f"has no config.json: the model's folder is {inner}")
    snapshot = weight_files.folder(tmp_path / "models--a--b" / "snapshots" / "1234")
    weight_files.folder(snapshot / "onnx")
    assert wrong(snapshot.parents[1]).endswith(f"the model's folder is {snapshot}")
    second = weight_files.folder(snapshot.parent / "5678")
    assert wrong(snapshot.parents[1]).endswith(f"the model may be {snapshot}, {second}")


def test_the_newest_checkpoint_of_a_training_is_named(tmp_path: Path) -> None:
    """By its step, not by its text; of an adapter, with what to do."""
    for step in (500, 1000):
        weight_files.folder(tmp_path / "out" / f"checkpoint-{step}")
    newest = tmp_path / "out" / "checkpoint-1000"
    assert wrong(tmp_path / "out").endswith(f"checkpoints of a training; the newest is {newest}")
    lora = model(tmp_path / "lora" / "checkpoint-20", "adapter_config.json")
    assert f"the newest, {lora}, is an adapter (LoRA), not a whole" in wrong(tmp_path / "lora")


def test_a_checkpoint_without_a_tokenizer_names_the_folder_above(tmp_path: Path) -> None:
    """Where trainers leave it."""
    (place := weight_files.folder(tmp_path / "out" / "checkpoint-5")).joinpath(
        "tokenizer.json"
    ).rename(tmp_path / "out" / "tokenizer.json")
    assert wrong(place).endswith(f"or give --tokenizer {tmp_path / 'out'}")


def test_an_adapter_beside_a_whole_model_is_not_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so."""
    place = weight_files.folder(tmp_path / "m")
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    assert resolve.transformers_folder(str(place)) == place
    (line,) = caplog.messages
    assert "the adapter in it is not applied: it is an adapter (LoRA) for a/b" in line


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model_index.json"], "it holds a pipeline of diffusers, which makes pictures"),
        (["consolidated.00.pth", "params.json", "tokenizer.model"], "as Meta and Mistral lay"),
        (["model.onnx"], "it holds an ONNX model"),
        (["model.zip"], "it holds an archive, model.zip; unpack that first"),
        (["a.gguf.part"], "downloads into it have not ended (a.gguf.part)"),
        (["mmproj-a.gguf", "b.gguf"], "b.gguf`"),
        (["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"], "b-00001-of-00002.gguf`"),
    ],
)
def test_relatives_of_a_model_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    """By the names of their files."""
    found = wrong(model(tmp_path / "m", *names))
    assert found.startswith("has no config.json: ")
    assert words in found


def test_a_download_of_the_hub_that_has_not_ended_is_named(tmp_path: Path) -> None:
    """It keeps what it has in a folder of its own."""
    place = model(tmp_path / "m" / ".cache" / "huggingface" / "download", "abc.incomplete")
    found = wrong(place.parents[2])
    assert "downloads into it have not ended (abc.incomplete); fetch the model again" in found


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.zip", b"PK\3\4", "is an archive; unpack it, and give the model that is in it"),
        ("m.tar", bytes(257) + b"ustar", "is an archive; unpack it"),
        ("m.tgz", b"\x1f\x8b", "is an archive; unpack it"),
        ("m.gguf", b"GGUF", "is a file; the model's folder is needed; `llamacpp` runs"),
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is a file; the model's folder is needed"),
        ("m.bin", POINTER, "is a Git-LFS pointer"),
    ],
)
def test_a_file_says_what_it_is(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Where a folder is needed."""
    (tmp_path / name).write_bytes(content)
    assert wrong(tmp_path / name).startswith(words)
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert wrong(tmp_path / "w.safetensors").endswith(f"which may be {tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.bin", b"PK\3\4", "holds weights of torch; `huggingface --model_path FOLDER` runs"),
        ("m.safetensors", b"\x02\0\0\0\0\0\0\0{}", "is a safetensors file; `huggingface --mod"),
        ("m.onnx", b"\x08\7", "is an ONNX model"),
        ("m.bin", b"lmgg\1", "is in the GGML format"),
        ("m.bin", b"tjgg\1", "is in a format that llama.cpp gave up in 2023 (GGML); take the"),
        ("m.imatrix", b"\1\0\0\0", "may be an importance matrix (imatrix)"),
        ("m.7z", b"7z\xbc\xaf\x27\x1c", "is an archive"),
    ],
)
def test_a_file_that_is_no_gguf_says_what_it_is(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """By its beginning, or by its name."""
    (tmp_path / name).write_bytes(content)
    found = complaint(resolve.gguf_file, tmp_path / name)
    assert found.startswith(f"--model_path {tmp_path / name} {words}")


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    """Nor does the search for models go on for ever."""
    (tmp_path / "loop").symlink_to(tmp_path)
    assert "it is no model folder" in wrong(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "config.json is empty; copy it again"),
        (POINTER, "config.json is a Git-LFS pointer, not the file itself: 5,234,234,112 bytes"),
        (PAGE, f"config.json is a web page of {len(PAGE)} bytes"),
        (b'{"a":\n1,}', "config.json is no JSON object: "),
        (b"[]", "config.json is no JSON object: it is no {...}"),
        (b"\xff\xfe", "config.json is no JSON object"),
        (b'{"a":' * 100_000, "config.json is no JSON object"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "config.json is no JSON object"),
    ],
)
def test_a_config_that_is_none_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    """In one line, before any library is asked."""
    place = weight_files.folder(tmp_path / "m", {"config.json": content})
    assert wrong(place).startswith(f"cannot be loaded: {words}")


def test_a_config_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """It would be waited for."""
    place = weight_files.folder(tmp_path / "m")
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")
    assert wrong(place) == "cannot be loaded: config.json is no ordinary file"


# -- files beside the weights


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", PAGE, "is a web page"),
        ("vocab.json", b"\xef\xbb\xbf <HTML>", "is a web page"),
        ("generation_config.json", POINTER, "is a Git-LFS pointer"),
    ],
)
def test_a_tokenizer_that_is_none_says_why(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """It is small, but kept like the weights by Git, and fetched like them."""
    place = weight_files.folder(tmp_path / "m")
    (place / name).write_bytes(content)
    assert wrong(place).startswith(f"cannot be loaded: {name} {words}")


def test_a_vocabulary_that_is_none_matters_where_no_other_is(tmp_path: Path) -> None:
    """Who fetches the weights alone of a Git repository has a placeholder for tokenizer.model."""
    place = weight_files.folder(tmp_path / "m")
    (place / "tokenizer.model").write_bytes(POINTER)
    assert resolve.transformers_folder(str(place)) == place
    (place / "tokenizer.json").unlink()
    assert wrong(place).startswith("cannot be loaded: tokenizer.model is a Git-LFS pointer")


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    """Nothing can be answered without one."""
    place = weight_files.folder(tmp_path / "m")
    (place / "tokenizer.json").rename(place / "merges.txt")
    assert resolve.transformers_folder(str(place)) == place
    (place / "merges.txt").unlink()
    assert wrong(place).startswith("has no tokenizer beside its config.json")


def test_a_library_for_quantised_weights_is_asked_for(tmp_path: Path) -> None:
    """By the name under which it is installed."""
    settings = {"quantization_config": {"quant_method": "spqr"}}
    place = weight_files.folder(tmp_path / "m")
    (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(
        StartError, match=r"quantised \(spqr\), which needs a graphics card and spqr_quant, not"
    ):
        resolve.transformers_folder(str(place))


def test_weights_may_have_the_name_that_the_config_gives(tmp_path: Path) -> None:
    """If it is a name in the folder."""
    place = weight_files.folder(tmp_path / "m", {"own.safetensors": weight_files.safetensors()})
    config = place / "config.json"
    config.write_text('{"transformers_weights": "own.safetensors"}', encoding="utf-8")
    assert resolve.transformers_folder(str(place)) == place
    config.write_text('{"transformers_weights": "../own.safetensors"}', encoding="utf-8")
    assert "../own.safetensors, which is no file of it" in wrong(place)


def test_an_embedding_model_is_named(tmp_path: Path) -> None:
    """Some are made of a language model, and would be loaded."""
    place = weight_files.folder(tmp_path / "m")
    (place / "1_Pooling").mkdir()
    assert wrong(place).startswith("is an embedding model (sentence-transformers), which turns")


def test_pickles_can_be_refused(tmp_path: Path) -> None:
    """The option is named, and what reads them without it."""
    place = weight_files.folder(tmp_path / "m", {})
    (place / "model.safetensors").unlink(missing_ok=True)
    weight_files.write_zip(place / "pytorch_model.bin")
    assert resolve.transformers_folder(str(place)) == place
    assert "which --safetensors_only refuses" in wrong(place, safetensors_only=True)


# -- names of the hub


def test_a_cached_name_of_the_hub_is_its_folder(cache: Path) -> None:
    """Owner/name, or a name alone."""
    for kept in ("models--owner--name", "models--gpt2"):
        snapshot = weight_files.folder(cache / kept / "snapshots" / "1234")
        name = kept.removeprefix("models--").replace("--", "/")
        assert resolve.transformers_folder(name) == snapshot
        (snapshot / "model.safetensors").write_bytes(b"")
        found = complaint(resolve.transformers_folder, name)
        assert "cannot be loaded: model.safetensors is empty; copy it again; on a con" in found
        assert f"`hf download {name} --local-dir " in found


def test_a_folder_of_that_name_comes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one sees is what is meant."""
    weight_files.folder(cache / "models--owner--name" / "snapshots" / "1234")
    weight_files.folder(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve.transformers_folder("owner/name") == Path("owner/name")


def test_a_name_that_is_not_cached_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it looks like a folder of this machine."""
    monkeypatch.chdir(tmp_path)
    found = complaint(resolve.transformers_folder, "owner/name")
    assert "`hf download owner/name --local-dir ./name`" in found
    model(tmp_path / "owners" / "name")
    assert complaint(resolve.transformers_folder, "owner/name").endswith("near it: owners/name")


# -- GGUF


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; copy it again"),
        (
            PAGE,
            f"is a web page of {len(PAGE)} bytes, not the file itself: perhaps a login was needed",
        ),
        (
            POINTER,
            f"is a Git-LFS pointer, not the file itself: 5,234,234,112 bytes are needed, "
            f"{len(POINTER)} found; `git lfs pull` on a connected machine fetches it",
        ),
        (b"PK\x03\x04....", "is an archive; unpack it, and give the model that is in it"),
        (b"abcdefgh", "is not a GGUF file: it begins with b'abcd'"),
        (b"GGUF\x01\0\0\0", "is GGUF version 1; 2 and 3 can be read"),
        (b"GGUF\0\0\0\x03", "is a GGUF file for big-endian machines"),
        (b"GGUF", "is truncated or damaged: more than 24 bytes are needed, 4 are there"),
    ],
)
def test_a_file_that_is_no_gguf_says_how_it_begins(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """Before native code reads it."""
    place = tmp_path / "m.gguf"
    place.write_bytes(content)
    assert complaint(resolve.gguf_file, place).startswith(f"--model_path {place} {words}")


def test_a_pipe_is_no_gguf(tmp_path: Path) -> None:
    """It is not opened."""
    os.mkfifo(tmp_path / "m.gguf")
    assert complaint(resolve.gguf_file, tmp_path / "m.gguf").endswith("is no ordinary file")


def test_a_folder_is_no_gguf(tmp_path: Path) -> None:
    """It says which files it holds, or which backend it is for."""
    ggufs = model(tmp_path / "ggufs", "a.gguf", "b.gguf", "._a.gguf")  # the last: of a Mac
    found = complaint(resolve.gguf_file, ggufs)
    assert found.endswith(f"is needed: {ggufs / 'a.gguf'}, {ggufs / 'b.gguf'}")
    place = model(tmp_path / "hf", "config.json")
    assert f"use `huggingface --model_path {place}`" in complaint(resolve.gguf_file, place)
    assert complaint(resolve.gguf_file, model(tmp_path / "none")).endswith("it holds none")
