"""Which folders are adapters that can be merged by addition, and what is said of all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends._local.model_files import resolve
from kuwa_min.errors import UsageError

CONFIG = {  # as peft 0.21 saves it
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "owner/base",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj"],
    "bias": "none",
    "init_lora_weights": True,
    "inference_mode": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "use_dora": False,
    "loftq_config": {},
    "rank_pattern": {},
    "peft_version": "0.21.2",
    "modules_to_save": None,
}
WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "is an adapter of the kind IA3, no LoRA; merge it with"),
    "DoRA": ({"use_dora": True}, "uses use_dora, which is not merged here; merge it with the peft"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "uses modules_to_save, which is not merg"),
    "biases": ({"bias": "all"}, "uses bias all, which is not merged here"),
    "changed base": ({"init_lora_weights": "pissa"}, "uses init_lora_weights pissa, which is not"),
    "something new": ({"use_xora": 1, "a\nb": 1}, "uses 'a\\nb', use_xora, which is not merged"),
    "no alpha": ({"lora_alpha": "16"}, "lora_alpha of adapter_config.json is no number"),
    "no patterns": ({"alpha_pattern": ["q"]}, "alpha_pattern of adapter_config.json is no JSON ob"),
}


def write(folder: Path, weights: str | None = "adapter_model.safetensors", **changes: Any) -> str:
    """Write an adapter; return its path."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    if weights:
        (folder / weights).write_bytes(WEIGHTS)
    return str(folder)


def wrong(path: str) -> str:
    """Return what is said of a folder."""
    with pytest.raises(UsageError) as caught:
        resolve.peft_adapter(path, 1.0)
    assert str(caught.value).startswith(f"--lora {path} ")
    return str(caught.value).removeprefix(f"--lora {path} ")


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True, "init_lora_weights": "gaussian"}])
def test_a_plain_adapter_is_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    """With its configuration."""
    found = resolve.peft_adapter(write(tmp_path / "poet", **changes), 0.5)
    assert (found.scale, found.config["base_model_name_or_path"]) == (0.5, "owner/base")


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_more_than_a_sum_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """It would be merged wrongly without a word."""
    assert words in wrong(write(tmp_path / "poet", **changes))


def test_a_folder_that_is_not_whole_says_what_it_lacks(tmp_path: Path) -> None:
    """Or what it is."""
    (tmp_path / "empty").mkdir()
    assert wrong(str(tmp_path / "empty")).startswith("has no adapter_config.json: it is no adapter")
    assert wrong(write(tmp_path / "1", None)).startswith("cannot be loaded: adapter_model.safetens")
    pickled = wrong(write(tmp_path / "2", "adapter_model.bin"))
    assert pickled.startswith("has its weights in adapter_model.bin, which is not read; merge it")
    assert wrong(str(tmp_path / "poem")).startswith("does not exist")
    (tmp_path / "poet.gguf").write_bytes(b"GGUF")
    assert wrong(str(tmp_path / "poet.gguf")) == "is a file; a folder is needed"
    (Path(write(tmp_path / "3")) / "adapter_config.json").write_text("{", encoding="utf-8")
    assert "adapter_config.json is no JSON object" in wrong(str(tmp_path / "3"))
