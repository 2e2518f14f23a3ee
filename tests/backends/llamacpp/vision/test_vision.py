"""GGUF models that see, with the real library and tiny models: answers equal its own handler's."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from tests.support.local_chats import ask
from tests.support.models import tiny_mmproj
from tests.support.models.tiny_mmproj import KINDS

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
pillow = pytest.importorskip("PIL.Image", reason="decoding pictures needs pillow")
numpy = pytest.importorskip("numpy", reason="and numpy")
try:
    pass
except (OSError, RuntimeError, FileNotFoundError):
    pytest.skip("this llama-cpp-python was built without libmtmd", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)
TOKENS = 24  # of an answer
Load = Callable[..., Any]


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> str:
    """Return a data: URL of a picture of a few random colours."""
    colours = numpy.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=numpy.uint8)
    data = io.BytesIO()
    pillow.fromarray(colours).resize(size).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


class Handler:
    """llama-cpp-python's own handler of pictures."""

    def __init__(self, model: Path, mmproj: Path) -> None:
        from llama_cpp.llama_chat_format import MTMDChatHandler

        from backends.llamacpp import bindings

        bindings.prepare()
        self._handler = MTMDChatHandler(str(mmproj), verbose=False, use_gpu=False)
        self._llama = llama_cpp.Llama(
            str(model),
            n_ctx=2048,
            n_threads=1,
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def answer(self, *said: str) -> str:
        """Return the greedy answer to what user and assistant said in turn."""
        roles = ("user", "assistant")
        messages = [
            {"role": roles[n % 2], "content": list(self._parts(text))}
            for n, text in enumerate(said)
        ]
        found = self._handler(
            llama=self._llama,
            messages=messages,
            temperature=0,
            max_tokens=TOKENS,
            repeat_penalty=1.0,
        )
        return str(found["choices"][0]["message"]["content"])

    @staticmethod
    def _parts(text: str) -> Iterator[dict[str, Any]]:
        for line in text.split("\n"):
            if line.startswith("data:"):
                yield {"type": "image_url", "image_url": {"url": line}}
            else:
                yield {"type": "text", "text": line}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Give the model and the mmproj file of each kind, each pair in a folder."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = (
            tiny_mmproj.write_model(folder / "model.gguf", kind),
            tiny_mmproj.write_mmproj(folder / "mmproj-model.gguf", kind),
        )
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_those_of_the_library(kind: str, files: Any, load: Load) -> None:
    """One picture, two, and one of an earlier turn beside a chat without any."""
    model, mmproj = files[kind]
    handler = Handler(model, mmproj)
    options = (*EXACT, "--max_tokens", TOKENS, "--concurrent_req_limit", 2)
    executor = load(LlamacppExecutor, "--model_path", model, *options).executor
    first, second = f"{picture(1)}\nWhat is it?", f"{picture(2)}\n{picture(3)}\nAnd these?"
    answer, request = ask(executor, first)
    assert (answer, request.cached_tokens) == (handler.answer(first), 0)
    said = (first, answer, second)
    answer, request = ask(executor, *said)
    assert answer == handler.answer(*said)
    assert request.cached_tokens > 0
