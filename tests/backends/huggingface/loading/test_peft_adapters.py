"""Adapters of the peft library, merged into the weights: judged by the library's own merge."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from backends._local.model_files import resolve
from kuwa_min.errors import StartError
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.models.lora_files import write_peft_folder
from tests.support.models.tiny_architectures import Library, write_folder

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

from backends.huggingface import HuggingfaceExecutor  # noqa: E402 - needs the libraries
from backends.huggingface.loading.peft_adapters import merge  # noqa: E402 - as above

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen2", {"target_modules": EVERY}),
    "by rank": ("qwen2", {"target_modules": EVERY, "use_rslora": True, "lora_alpha": 3}),
    "patterns": (
        "llama",
        {
            "target_modules": EVERY,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.\w+": 5},
            "alpha_pattern": {"model.layers.0.self_attn.v_proj": 40, "down_proj": 1},
        },
    ),
    "some layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "joined": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a model."""
    return write_folder(tmp_path / "model", "qwen2")


def load_model(folder: Path, dtype: Any = "auto") -> Any:
    """Load it with the library."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_library(kind: str, dtype: str, tmp_path: Path) -> None:
    """To the last bit, in whatever format the model's weights are."""
    peft = pytest.importorskip("peft", reason="which judges")
    name, options = KINDS[kind]
    folder = write_folder(tmp_path / "model", name)
    number = getattr(torch, dtype)
    made = peft.get_peft_model(
        load_model(folder, number), peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options})
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for weight_name, weight in made.named_parameters():
            if "lora_" in weight_name:
                weight.normal_(0, 0.1)
    made.save_pretrained(tmp_path / "adapter")
    mine, before = load_model(folder, number), load_model(folder, number).state_dict()
    merge(mine, [resolve.peft_adapter(str(tmp_path / "adapter"), 1.0)])
    theirs = peft.PeftModel.from_pretrained(load_model(folder, number), tmp_path / "adapter")
    right = theirs.merge_and_unload().state_dict()
    assert mine.state_dict().keys() == right.keys()
    changed = [one for one, weight in right.items() if not torch.equal(weight, before[one])]
    assert changed
    assert [one for one in right if not torch.equal(mine.state_dict()[one], right[one])] == []


def test_chats_are_answered_with_the_merged_weights(
    load: Any, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a folder of the result is; two adapters add up, each with its scale."""
    caplog.set_level(logging.INFO)
    model = load_model(folder)
    one = write_peft_folder(tmp_path / "one", model, strength=0.2, base_model_name_or_path="a/b")
    two = write_peft_folder(tmp_path / "two", model, modules=("up_proj",), strength=0.2)
    merge(model, [resolve.peft_adapter(str(one), 2.0), resolve.peft_adapter(str(two), -0.5)])
    model.save_pretrained(tmp_path / "merged")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "merged")
    given = ("--model_path", folder, "--max_new_tokens", 24, "--lora", f"{one}=2", f"{two}=-0.5")
    executor = load(HuggingfaceExecutor, *given).executor
    answer, _ = local_chats.ask(executor, "Hello", parameter="llm_lora none")
    assert answer == Library(tmp_path / "merged").answer("Hello", max_new_tokens=24)
    assert answer != Library(folder).answer("Hello", max_new_tokens=24)
    assert f"merged {one}, an adapter for a/b, into 4 modules, scale 2" in caplog.text
    assert "llm_lora of a Modelfile has no effect here: --lora merges adapters" in caplog.text


def test_parked_chats_of_other_adapters_and_scales_are_no_ones(
    load: Any, folder: Path, tmp_path: Path
) -> None:
    """What keys and values depend on tells them apart."""
    adapter = write_peft_folder(tmp_path / "one", load_model(folder))
    facts = []
    for given in ((), ("--lora", adapter), ("--lora", f"{adapter}=0.5")):
        model = load(HuggingfaceExecutor, "--model_path", folder, *given).executor.model
        facts.append((sorted(model.files()), model.state_facts()))
    assert facts[0][0] != facts[1][0] == facts[2][0]
    assert facts[1][1] != facts[2][1]


def test_what_does_not_fit_the_model_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    """Before any weight is changed, but for sizes."""
    model = load_model(folder)
    key = "base_model.model.model.layers.{}.lora_{}.weight"

    def pair(name: str, rows: int = 64, columns: int = 64) -> dict[str, Any]:
        return {
            key.format(name, "A"): torch.ones(4, columns),
            key.format(name, "B"): torch.ones(rows, 4),
        }

    lone = {key.format("0.self_attn.q_proj", "A"): torch.ones(4, 64)}
    table = (
        (pair("9.self_attn.q_proj"), "which Qwen2ForCausalLM does not have: it was made for anot"),
        (pair("0.self_attn.q_proj", rows=32), "q_proj has other sizes than this model"),
        (pair("0.self_attn.q_proj", columns=32), "q_proj has other sizes than this model"),
        (pair("0.input_layernorm"), "are quantised or of another kind .Qwen2RMSNorm."),
        (lone, "holds model.layers.0.self_attn.q_proj, which is not merged here"),
        ({"base_model.model.lm_head.weight": torch.ones(4, 4)}, "holds base_model.model.lm_head.w"),
        ({}, "holds no matrices, which is not merged here"),
    )
    for number, (tensors, words) in enumerate(table):
        path = write_peft_folder(tmp_path / str(number), model, modules=(), more=tensors)
        with pytest.raises(StartError, match=words):
            merge(model, [resolve.peft_adapter(str(path), 1.0)])
    tied = load_model(folder)
    tied.lm_head.weight = tied.get_input_embeddings().weight
    path = write_peft_folder(tmp_path / "tied", tied, modules=("lm_head",))
    with pytest.raises(StartError, match="lm_head, whose weights are the embeddings, too"):
        merge(tied, [resolve.peft_adapter(str(path), 1.0)])
    path = write_peft_folder(tmp_path / "huge", model, lora_alpha=1e300)
    with pytest.raises(StartError, match="makes numbers that are too large"):
        merge(model, [resolve.peft_adapter(str(path), 1.0)])
