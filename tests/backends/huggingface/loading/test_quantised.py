"""How the library computes quantised weights is found out before they are read."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from kuwa_min.errors import StartError, UsageError
from tests.support.models.tiny_architectures import Library

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

from backends.huggingface.loading import quantised  # noqa: E402 - imports torch
from backends.huggingface.loading.load_options import LoadOptions  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
Folder = Callable[..., Path]


@pytest.fixture
def options(tmp_path: Path) -> LoadOptions:
    """Return the options of a start without any."""
    return LoadOptions(
        path=str(tmp_path),
        model_path="./model",
        tokenizer=None,
        processor=None,
        device="auto",
        device_map=None,
        visible_gpu=None,
        dtype="auto",
        load_8bits=False,
        safetensors_only=False,
        trust_remote_code=False,
        special_ids={},
        tokens=1,
    )


def config(**settings: Any) -> Any:
    """Return the library's configuration of a model that is quantised so."""
    return transformers.Qwen2Config(quantization_config=settings)


@pytest.mark.parametrize("method", ["fp8", "mxfp8", "mxfp4", "metal"])
def test_without_a_card_some_are_dequantised(method: str, options: LoadOptions) -> None:
    """The library would not say so."""
    form = quantised.find_form(config(quant_method=method), None, options)
    assert form.dequantised
    assert form.arguments["quantization_config"].dequantize is True


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"quant_method": "of_tomorrow"},
            r"\(of_tomorrow\), which transformers [\d.]+ does not kn",
        ),
        ({"bits": 4}, r"\(no method is stated\), which transformers"),
        ({"quant_method": "spqr"}, "RuntimeError: GPU is required.*; take the model as GGUF"),
        ({"quant_method": "nvfp4"}, "NVFP4 checkpoints is not supported yet"),
        ({"quant_method": "hqq", "quant_config": 4}, r"\(hqq\), which is not computed here"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "newer packages may: `python build.py huggingface --with bitsandbytes --newest`",
        ),
    ],
)
def test_what_is_not_computed_here_is_refused(
    settings: dict[str, Any], reason: str, options: LoadOptions
) -> None:
    """In one line, with the library's own reason; what it would ignore included."""
    with pytest.raises(StartError, match=rf"^\./model is quantised .*{reason}") as refused:
        quantised.find_form(config(**settings), None, options)
    assert str(refused.value).isprintable()


def test_only_quantised_weights_are_looked_at(options: LoadOptions) -> None:
    """Those of the part that writes, too; they are not quantised twice."""
    from dataclasses import replace

    assert quantised.find_form(transformers.Qwen2Config(), None, options) == ({}, "")
    nested = transformers.Gemma3Config(text_config={"quantization_config": {"quant_method": "fp8"}})
    assert quantised.find_form(nested, None, options).dequantised
    eight = replace(options, load_8bits=True)
    bits = quantised.find_form(transformers.Qwen2Config(), None, eight).arguments
    assert bits["quantization_config"].load_in_8bit
    with pytest.raises(
        UsageError, match=r"--load_8bits: the weights of \./model are quantised alre"
    ):
        quantised.find_form(nested, None, eight)


@pytest.mark.parametrize(
    ("method", "kernels", "reason"),
    [
        ("mxfp4", False, "--with 'kernels>="),
        ("fp8", False, "--with 'kernels>="),
        ("mxfp4", True, "not in the hub's cache"),
        ("fp8", True, "not in the hub's cache"),
    ],
)
def test_a_card_without_its_kernels_is_no_help(
    method: str, kernels: bool, reason: str, options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would miss them at the first token (fp8), or end the start (mxfp4).

    torch.cuda is replaced: there is no card here, and kernels are not in the cache.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(quantised.import_utils, "is_kernels_available", lambda: kernels)
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_mxfp4.is_triton_available", lambda _: True
    )
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_mxfp4.is_kernels_available", lambda: kernels
    )
    form = quantised.find_form(config(quant_method=method), "cuda:0", options)
    assert reason in form.dequantised
    assert form.arguments["quantization_config"].dequantize is True
    on_processor = quantised.find_form(config(quant_method=method), None, options)
    assert "only graphics cards" in on_processor.dequantised


def write_mxfp4(plain: Path, place: Path) -> Path:
    """Write a gpt-oss folder with experts in mxfp4: random bytes, and scales of 1/64."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(plain, place)
    weights = load_file(place / "model.safetensors")
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = weights.pop(name).shape
        blocks = (experts, outer, inner // 32)
        weights[f"{name}_blocks"] = torch.randint(0, 256, (*blocks, 16), dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.full(blocks, 121, dtype=torch.uint8)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
    settings["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return place


def test_gpt_oss_is_dequantised_where_it_fits(
    folder: Folder,
    load: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its answer is the library's, the log says so once; where it does not fit, it is refused."""
    place = write_mxfp4(folder("gpt_oss", intermediate_size=64), tmp_path / "model")
    caplog.set_level(logging.WARNING)
    talker = load(HuggingfaceExecutor, "--model_path", place, "--max_new_tokens", 16)
    assert "".join(talker.pieces("Hello")) == Library(place).answer("Hello", max_new_tokens=16)
    said = [one.getMessage() for one in caplog.records if "dequantised" in one.getMessage()]
    assert len(said) == 1
    assert "GB: only graphics cards compute them otherwise" in said[0]
    monkeypatch.setattr(quantised, "free_bytes", lambda: 10_000)
    with pytest.raises(StartError) as refused:
        load(HuggingfaceExecutor, "--model_path", place)
    assert "would be dequantised here" in str(refused.value)
    assert str(refused.value).endswith("take the model as GGUF, for `llamacpp`")
