"""The options of the prompt cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from backends._local.prompt_cache import settings as module
from backends._local.prompt_cache.settings import CacheSettings, key
from kuwa_min.errors import StartError, UsageError

GIB = 2**30


def given(*words: str, reproducible: bool = False) -> CacheSettings:
    """Return what these options say."""
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    args = parser.parse_args(words)
    args.reproducible = reproducible
    return CacheSettings(args)


@pytest.mark.parametrize(
    ("free", "mapped", "budget"), [(8, 0, 2), (8, 4, 1), (1, 2, 0), (99, 0, 8), (None, 0, 8)]
)
def test_the_default_is_a_quarter_of_the_free_memory(
    free: int | None, mapped: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the file of the model, which is read as memory; 8 GiB at most."""
    monkeypatch.setattr(module, "free_bytes", lambda: free and free * GIB)
    cache = given().create(files=[], taken=mapped * GIB)
    assert cache.facts()["max_bytes"] == budget * GIB


@pytest.mark.parametrize(
    ("words", "reproducible", "budget"),
    [("--prompt_cache 5MB", False, 5_000_000), ("--prompt_cache 0", False, 0), ("", True, 0)],
)
def test_what_is_told_counts(words: str, reproducible: bool, budget: int) -> None:
    """--reproducible reuses nothing."""
    cache = given(*words.split(), reproducible=reproducible).create(files=[])
    assert cache.facts()["max_bytes"] == budget


def test_more_than_is_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a chat is answered."""
    monkeypatch.setattr(module, "free_bytes", lambda: GIB)
    with pytest.raises(StartError, match=r"2\.1GB is more than the 1\.1 GB that are free"):
        given("--prompt_cache", "2GiB").create(files=[])


def test_a_folder_for_nothing_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With --reproducible the log says that it has no effect."""
    folder = ("--prompt_cache_dir", str(tmp_path / "chats"))
    with pytest.raises(UsageError, match="--prompt_cache 0 forgets"):
        given(*folder, "--prompt_cache", "0")
    with pytest.raises(UsageError, match="is empty"):
        given("--prompt_cache_dir", "")
    given(*folder, reproducible=True)
    assert "no effect with --reproducible" in caplog.text
    assert not (tmp_path / "chats").exists()


def test_the_key_stands_for_all_that_a_state_depends_on(tmp_path: Path) -> None:
    """Each file's name, size, time and beginning, and each fact; not the folder's path."""
    one, two = tmp_path / "a.gguf", tmp_path / "b.gguf"
    for path in (one, two):
        path.write_bytes(b"GGUF weights")
        os.utime(path, (5, 5))
    facts: dict[str, Any] = {"library": "1.0", "context": [4096, "f16"]}
    keys = [key([one], **facts), key([two], **facts), key([one, two], **facts)]
    keys += [key([one], **facts | {"library": "1.1"}), key([one], **facts | {"context": [8192]})]
    assert key([one], **facts) == keys[0]
    assert key([two, one], **facts) == keys[2]
    one.write_bytes(b"GGUF weightz")
    os.utime(one, (5, 5))
    keys.append(key([one], **facts))
    os.utime(one, (6, 6))
    keys.append(key([one], **facts))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_weights_of_equal_size_and_time_differ(tmp_path: Path, place: float) -> None:
    """Files in images of containers often have one time, and retrained weights one size."""
    one, size = tmp_path / "a.gguf", 3 * 2**20
    weights = bytearray(size)
    keys = []
    for value in (1, 2):
        weights[int(place * (size - 1))] = value
        one.write_bytes(weights)
        os.utime(one, (1, 1))
        keys.append(key([one]))
    assert keys[0] != keys[1]
