"""The mmproj file is the one that is named, or the only one beside the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp.vision.mmproj_file import find
from kuwa_min.errors import UsageError
from tests.support.models.tiny_models import BOOL, STRING, field, pack_gguf

pytest.importorskip("numpy", reason="files are written with numpy")


def write(path: Path, architecture: str = "clip", **fields: Any) -> Path:
    """Write a file without weights; fields: of its head, without the clip before their names."""
    head = [field("general.architecture", STRING, architecture)]
    for name, value in fields.items():
        kind = STRING if isinstance(value, str) else BOOL
        head.append(field(f"clip.{name}", kind, value))
    return pack_gguf(path, head, {})


def test_the_only_file_beside_the_model_is_taken_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the letters' case; with two of them, one must be chosen, and none is none."""
    caplog.set_level(logging.INFO)
    model = tmp_path / "mmproj-model.gguf"  # the model itself is none
    model.touch()
    assert find(model, None) is None
    assert not caplog.messages
    beside = write(tmp_path / "a.MMProj-F16.gguf")
    assert find(model, None) == (beside, False)
    assert find(model, "none") is None
    assert find(model, str(beside)) == (beside, True)
    write(tmp_path / "mmproj-2.gguf")
    assert find(model, None) is None
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "a.MMProj-F16.gguf is beside the model",
        "no pictures are read",
    ]


@pytest.mark.parametrize(
    ("architecture", "fields", "reason"),
    [
        ("llama", {}, "holds a llama model; the part that sees"),
        ("clip", {"has_audio_encoder": True}, "is for sounds"),
        ("clip", {"has_vision_encoder": False}, "is for sounds"),
        ("clip", {"projector_type": "hunyuanvl"}, "is of the kind hunyuanvl"),
    ],
)
def test_what_cannot_see_is_refused(
    architecture: str,
    fields: Any,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of --mmproj; beside the model, a line of the log."""
    path = write(tmp_path / "mmproj.gguf", architecture, **fields)
    with pytest.raises(UsageError, match=f"^--mmproj .*{reason}"):
        find(tmp_path / "model.gguf", str(path))
    assert find(tmp_path / "model.gguf", None) is None
    assert reason in caplog.messages[-1]


def test_a_file_that_is_not_there_is_an_error_of_its_option(tmp_path: Path) -> None:
    """Not of --model_path."""
    with pytest.raises(UsageError, match=r"^--mmproj"):
        find(tmp_path / "model.gguf", str(tmp_path / "nowhere.gguf"))
