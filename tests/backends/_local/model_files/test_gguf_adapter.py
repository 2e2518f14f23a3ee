"""Which files are adapters for a model, and what is said of all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends._local.model_files import gguf_adapter
from backends._local.model_files.gguf_header import Header
from backends._local.model_files.sniff import InvalidModelFile
from tests.support.models.lora_files import lora_fields
from tests.support.models.tiny_models import STRING, U32, array, field, pack_gguf

pytest.importorskip("numpy", reason="which writes the files")

MODEL = Header({"general.architecture": "llama"}, 1, 0)
GOOD = lora_fields("llama")
REFUSED = {
    "no adapter": ([GOOD[1], *GOOD[2:]], "is no adapter (LoRA); a whole model is given as --mod"),
    "of another type": (lora_fields("llama", "ia3"), "is an adapter of the type ia3; llama.cpp"),
    "of no type": ([*GOOD[:2], GOOD[3]], "is an adapter of the type unknown; llama.cpp applies"),
    "for other models": (
        lora_fields("qwen2"),
        "for models of the architecture qwen2, and --model_path is one of llama",
    ),
    "for numbers": (
        [GOOD[0], field("general.architecture", U32, 7), *GOOD[2:]],
        "for models of the architecture unknown, and",
    ),
    "activated": (
        [*GOOD, array("adapter.alora.invocation_tokens", U32, [1, 2])],
        "is an activated adapter (aLoRA)",
    ),
    "with a text for its alpha": (
        [*GOOD[:3], field("adapter.lora.alpha", STRING, "16")],
        "is damaged: its adapter.lora.alpha is no number",
    ),
}


@pytest.mark.parametrize("fields", [GOOD, GOOD[:3]])
def test_an_adapter_for_the_model_is_accepted(fields: list[bytes], tmp_path: Path) -> None:
    """With its alpha, or without one."""
    path = pack_gguf(tmp_path / "poet.gguf", fields, {})
    assert gguf_adapter.check(path, MODEL).text("adapter.type") == "lora"


@pytest.mark.parametrize(("fields", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_adapter_for_the_model_says_what_it_is(
    fields: list[bytes], words: str, tmp_path: Path
) -> None:
    """Over a field of another type, llama.cpp would end the process."""
    path = pack_gguf(tmp_path / "poet.gguf", fields, {})
    with pytest.raises(InvalidModelFile) as caught:
        gguf_adapter.check(path, MODEL)
    assert words in str(caught.value)


def test_another_file_says_what_it_is(tmp_path: Path) -> None:
    """As where a model is wanted."""
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{}              ")
    with pytest.raises(InvalidModelFile, match="safetensors"):
        gguf_adapter.check(path, MODEL)
