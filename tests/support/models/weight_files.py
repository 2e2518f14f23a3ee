"""Make the smallest model folders and files that are whole, byte by byte, for tests to damage."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5234234112\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Log in</title></head></html>\n"
DATA = bytes(range(24))


def safetensors(header: object = None, data: bytes = DATA) -> bytes:
    """Return a safetensors file with this header, or with one that fits the data."""
    if header is None:
        whole = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
        header = {"__metadata__": {"format": "pt"}, "weights": whole}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def index(shards: Sequence[str]) -> bytes:
    """Return the index of weights in these files."""
    named = {f"tensor {number}": name for number, name in enumerate(shards)}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": named}).encode()


def shard_names(count: int) -> list[str]:
    """Return the names that the library gives to this many files."""
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def write_zip(path: Path) -> Path:
    """Write a file as torch.save does: a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", DATA * 100)
    return path


def folder(path: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Make a whole model folder; these files come instead of its weights."""
    path.mkdir(parents=True)
    settings = {"config.json": b'{"model_type": "qwen2"}', "tokenizer.json": b"{}"}
    for name, content in (settings | dict(files or {"model.safetensors": safetensors()})).items():
        (path / name).write_bytes(content)
    return path


def sharded(path: Path, count: int) -> Path:
    """Make a whole model folder with its weights in this many files."""
    names = shard_names(count)
    files = dict.fromkeys(names, safetensors())
    return folder(path, files | {"model.safetensors.index.json": index(names)})
