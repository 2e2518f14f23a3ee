"""Texts of a model's folder: those that the library cannot read are given to it as UTF-8."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from backends._local.model_files import sniff, text_files
from backends._local.model_files.sniff import InvalidModelFile
from tests.support.models import weight_files
from tests.support.saved_as import SAVED_AS

OTHERS = sorted(SAVED_AS.keys() - {"utf-8"})
SETTINGS = '{\n"eos_token_id": 2,\n"name": "模型"\n}\n'


def complaint(folder: Path) -> str:
    """Return why this folder's texts cannot be read."""
    with pytest.raises(InvalidModelFile) as refused:
        text_files.readable(folder)
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a whole model folder, with files and folders of other kinds."""
    place = weight_files.folder(tmp_path / "my-model")
    (place / "onnx").mkdir()
    (place / "onnx" / "some.json").write_bytes(b"\xff\xfe")  # is not read
    (place / "training_args.bin").write_bytes(b"\x80\x02")
    (place / "generation_config.json").write_text(SETTINGS, encoding="utf-8", newline="\r\n")
    return place


def test_a_folder_of_plain_texts_is_used_as_it_is(folder: Path) -> None:
    """Whatever ends their lines."""
    assert text_files.readable(folder) == folder


@pytest.mark.parametrize("saved_as", OTHERS)
def test_other_texts_are_written_anew(
    folder: Path, saved_as: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder of the same name, which has all other files, and is no part of the model's."""
    before = sorted(folder.rglob("*"))
    (folder / "generation_config.json").write_bytes(SAVED_AS[saved_as](SETTINGS))
    with caplog.at_level(logging.WARNING):
        made = text_files.readable(folder)
    assert (made / "generation_config.json").read_text(encoding="utf-8") == SETTINGS
    assert made != folder
    assert made.name == folder.name
    assert {one.name for one in made.iterdir()} == {one.name for one in folder.iterdir()}
    assert (made / "model.safetensors").read_bytes() == weight_files.safetensors()
    assert (made / "onnx" / "some.json").exists()
    assert sorted(folder.rglob("*")) == before
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: generation_config.json: ")


def test_every_text_that_the_library_reads_is_meant(folder: Path) -> None:
    """Templates beside the others, and code."""
    names = [
        *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
        *("model.safetensors.index.json", "chat_template.jinja", "modeling_own.py", "merges.txt"),
        "additional_chat_templates/rag.jinja",
    ]
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ 1 }}", encoding="utf-8")
    for name in names:
        text = "{}\n" if name.endswith(".json") else "# 模型\n"
        (folder / name).write_bytes(SAVED_AS["utf-8-bom"](text))
    made = text_files.readable(folder)
    assert [name for name in names if (made / name).read_bytes()[:1] not in b"{#"] == []
    assert (made / "additional_chat_templates" / "tool.jinja").read_text() == "{{ 1 }}"


def test_another_tokenizer_makes_this_one_irrelevant(folder: Path) -> None:
    """It may be damaged: perhaps that is why another one is given."""
    (folder / "tokenizer_config.json").write_bytes(b"{")
    assert text_files.readable(folder, needs_tokenizer=False) == folder


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("._tokenizer.json", b"\0\5\x16\7\0\2\0\0Mac OS X"),  # of an archive from a Mac
        ("._modeling_own.py", b"\0\5\x16\7\0\2\0\0Mac OS X"),
        ("demo.py", "# 示範\n".encode("cp950")),
        ("old.jinja", "{# 樣板 #}\n".encode("cp950")),
        ("tokenizer (1).json", b'{"cut'),
        ("token_counts.json", b""),
        ("vocab_notes.txt", b"\xe9t\xe9"),
        ("pytorch_model.bin.index.json", weight_files.PAGE),  # of weights that were not copied
    ],
)
def test_what_the_library_does_not_read_may_be_anything(
    folder: Path, name: str, data: bytes
) -> None:
    """It is left as it is, also where other files are written anew."""
    (folder / name).write_bytes(data)
    assert text_files.readable(folder) == folder
    (folder / "config.json").write_bytes(SAVED_AS["utf-8-bom"]("{}"))
    assert (text_files.readable(folder) / name).read_bytes() == data


def test_a_large_file_of_another_kind_is_not_read_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as tokenized.json, a data set."""
    monkeypatch.setattr(sniff, "MAX_TEXT", 100)
    (folder / "tokenized.json").write_bytes(SAVED_AS["utf-8-bom"](json.dumps(["a"] * 30)))
    assert text_files.readable(folder) == folder
    (folder / "tokenizer.json").write_text(json.dumps(["a"] * 30), encoding="utf-8")
    assert complaint(folder).startswith("cannot be loaded: tokenizer.json is longer than 100 byt")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (
            "tokenizer_config.json",
            '{"名": "一"}'.encode("cp950"),
            "is not UTF-8 text: line 1 seems",
        ),
        ("chat_template.jinja", "# 樣板\n".encode("cp950"), "is not UTF-8 text: line 1 seems"),
        ("generation_config.json", b"", "is no JSON object: Expecting value in line 1"),
        ("generation_config.json", b'{\n"a": 1,\n"b', "is no JSON object: Unterminated string"),
        ("special_tokens_map.json", b'{"a": 1,}\n', "is no JSON object: "),
        ("tokenizer_config.json", weight_files.PAGE, "is a web page"),
    ],
)
def test_what_the_library_would_refuse_or_ignore_is_named(
    folder: Path, name: str, data: bytes, reason: str
) -> None:
    """It says what to do."""
    (folder / name).write_bytes(data)
    said = complaint(folder)
    assert said.startswith(f"cannot be loaded: {name} {reason}")
    assert "again" in said or "save it as UTF-8" in said


def test_a_large_file_that_is_cut_off_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its end alone: to parse it would take long."""
    monkeypatch.setattr(text_files, "LARGEST_PARSED", 10)
    whole = json.dumps({"vocab": ["a"] * 10})
    (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
    assert text_files.readable(folder) == folder
    (folder / "tokenizer.json").write_text(whole[:-3], encoding="utf-8")
    expected = "cannot be loaded: tokenizer.json is no JSON object: it is cut off; copy it again"
    assert complaint(folder) == expected


def test_where_no_links_can_be_made_the_file_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows without the right to make them."""

    def refuse(*_: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (folder / "config.json").write_bytes(SAVED_AS["utf-8-bom"]("{}"))
    said = complaint(folder)
    assert "the library does not read config.json in this encoding" in said
    assert "a required privilege" in said.lower()
    assert said.endswith("; save it as UTF-8 without a byte order mark")
