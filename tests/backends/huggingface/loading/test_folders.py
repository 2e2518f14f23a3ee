"""What --check says of a model's folder: what a start would refuse, before anything is unpacked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.huggingface import HuggingfaceExecutor
from kuwa_min import cli
from kuwa_min.bundle import commands
from kuwa_min.errors import StartError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a model's folder that states a quantisation; its one tensor has no numbers."""
    settings = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    header = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    weights = len(header).to_bytes(8, "little") + header
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(weights)
    return tmp_path


def check(
    monkeypatch: pytest.MonkeyPatch,
    carried: list[str] | None,
    *options: object,
    has_model: bool = False,
) -> None:
    """Run --check as a built file that carries these packages does."""
    monkeypatch.setattr(commands, "carries_model", lambda: has_model)
    monkeypatch.setattr(commands, "check", lambda: iter(["good: this machine"]))
    monkeypatch.setattr(commands, "carried_packages", lambda: carried)
    cli.run_backend("huggingface", "kuwa.pyz huggingface", [*map(str, options), "--check"])


def test_a_folder_is_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that this file can load is a line; without options the file alone is checked."""
    check(monkeypatch, ["optimum", "gptqmodel", "bitsandbytes"], "--model_path", folder)
    good = f"good: model {folder}: its files, and the packages that they need, are here\n"
    assert capsys.readouterr().out == f"good: this machine\n{good}"
    check(monkeypatch, [])
    check(monkeypatch, [], "--port", 0, has_model=True)
    assert capsys.readouterr().out == 2 * "good: this machine\n"


@pytest.mark.parametrize(
    ("carried", "more", "reason"),
    [
        (["optimum"], (), "needs gptqmodel, not installed here: build the file by `python build."),
        (None, (), "gptqmodel, not installed"),
        (["optimum", "gptqmodel"], ("--load_8bits",), "--load_8bits needs bitsandbytes, not"),
    ],
)
def test_what_is_missing_is_said(
    carried: list[str] | None,
    more: tuple[str, ...],
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None: the packages of this Python count, as with --thin."""
    with pytest.raises(StartError, match=reason):
        check(monkeypatch, carried, "--model_path", folder, *more)


def test_other_faults_of_a_folder_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a start would; what --online may fetch is not there to be looked at."""
    with pytest.raises(UsageError, match="--tokenizer"):
        check(monkeypatch, ["optimum", "gptqmodel"], "--model_path", folder, "--tokenizer", "no/t")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no weights beside its config\.json"):
        check(monkeypatch, [], "--model_path", folder)
    executor = HuggingfaceExecutor()
    executor.args = executor.parser.parse_args(["--model_path", "owner/name", "--online"])
    assert list(executor.check_arguments([])) == []
