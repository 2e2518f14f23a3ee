"""What the tests of batched chats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from tests.support.batched_chats import Chats


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread: more only wait for each other with such small models."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give what makes the folder of an architecture, once."""
    from tests.support.models.tiny_architectures import write_folder

    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("architectures")

    def make(name: str, **changes: Any) -> Path:
        key = json.dumps([name, changes])
        if key not in made:
            made[key] = write_folder(root / str(len(made)), name, **changes)
        return made[key]

    return make


@pytest.fixture
def chats(load: Any) -> Callable[..., Chats]:
    """Give what loads a folder into an executor with slots."""

    def make(path: Path, *options: object, slots: int = 4) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", slots, *options)
        return Chats(load(HuggingfaceExecutor, *given).executor)

    return make
