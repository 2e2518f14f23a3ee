"""Loading the file of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.models import tiny_models

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]


def test_loading_shows_how_far_it_is(tmp_path: Path) -> None:
    """In steps, to the end; and what it raises there ends the loading."""
    from backends.llamacpp import bindings
    from backends.llamacpp.loading.gguf_model import load

    class Signalled(BaseException):
        """Stands for a signal that comes while a model is loaded."""

    bindings.prepare()
    gguf = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    cpu: dict[str, Any] = {"gpu_layers": 0, "tensor_split": []}
    steps: list[tuple[int, int]] = []
    llama_cpp.llama_model_free(load(gguf, lambda *step: steps.append(step), **cpu))
    assert steps[-1] == (1000, 1000)
    assert steps == sorted(steps)

    def end(*_: int) -> None:
        raise Signalled

    with pytest.raises(Signalled):
        load(gguf, end, **cpu)
