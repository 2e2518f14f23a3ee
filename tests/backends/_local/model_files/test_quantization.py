"""Quantised weights: the library that they need is named before it is missed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from backends._local.model_files import quantization
from kuwa_min.errors import StartError


def config(**settings: object) -> dict[str, Any]:
    """Return the config.json of a model that is quantised so."""
    return {"model_type": "llama", "quantization_config": settings}


@pytest.mark.parametrize(
    ("settings", "libraries"),
    [
        ({"quant_method": "gptq", "bits": 4}, ("optimum", "gptqmodel")),
        ({"quant_method": "awq"}, ("gptqmodel",)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes",)),
        ({"load_in_8bit": True}, ("bitsandbytes",)),
        ({"quant_method": "compressed-tensors"}, ("compressed_tensors",)),
        ({"quant_method": "fp8"}, ()),
        ({"quant_method": "mxfp4"}, ()),
        ({"quant_method": "of tomorrow"}, ()),
        ({"quant_method": ["gptq"]}, ()),
        ({}, ()),
    ],
)
def test_the_config_says_which_libraries_are_needed(
    settings: dict[str, object], libraries: tuple[str, ...]
) -> None:
    """By their import names; unknown methods are left to transformers."""
    assert quantization.needed_libraries(config(**settings)) == libraries


@pytest.mark.parametrize("content", [{}, {"quantization_config": None}, {"quantization_config": 4}])
def test_a_model_that_is_not_quantised_needs_none(content: dict[str, Any]) -> None:
    """Whatever stands there instead."""
    assert quantization.method(content) == ""
    assert quantization.needed_libraries(content) == ()
    quantization.check(content)


@pytest.mark.parametrize(
    ("settings", "program"),
    [
        (config(quant_method="exl2", bits=4.0), "ExLlamaV2"),
        (config(quant_method="exl3"), "ExLlamaV3"),
        (config(group_size=64, bits=4) | {"quantization": {"bits": 4}}, "MLX, for Apple's"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX, for Apple's"),
        (config(quant_method="modelopt", quant_algo="FP8"), "vLLM and TensorRT-LLM"),
        (config(quant_method="gguf"), "llama.cpp; take the same model as GGUF"),
    ],
)
def test_formats_of_other_programs_are_named(settings: dict[str, Any], program: str) -> None:
    """With what to take instead; transformers would read them as something else."""
    with pytest.raises(StartError) as refused:
        quantization.check(settings)
    assert str(refused.value).startswith(f"the model's weights are quantised for {program}")
    assert "take the same model as GGUF for `llamacpp`" in str(refused.value)


def test_a_missing_library_is_named_as_it_is_installed() -> None:
    """With what to do; the part of a package that is not here at all is missing, too."""
    with pytest.raises(StartError) as refused:
        quantization.check(config(quant_method="higgs"))
    sentence = str(refused.value)
    assert sentence.startswith(
        "the model's weights are quantised (higgs), which needs a graphics card and "
        "flute-kernel and fast_hadamard_transform, not installed here: build the file by `python "
        "build.py huggingface --with flute-kernel --with fast_hadamard_transform`; "
    )
    assert "`python -m pip install flute-kernel fast_hadamard_transform`" in sentence
    assert sentence.isprintable()
    with pytest.raises(StartError, match="--own needs optimum-quanto, not installed here"):
        quantization.check_libraries("--own needs", ("optimum.quanto",))


def test_only_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything there, nothing is said; a package need not be imported to be seen."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "spqr_quant.py").write_text("raise ImportError", encoding="utf-8")
    quantization.check(config(quant_method="spqr"))
    (tmp_path / "flute").mkdir()
    (tmp_path / "flute" / "__init__.py").touch()
    with pytest.raises(StartError, match="card and fast_hadamard_transform, not installed"):
        quantization.check(config(quant_method="higgs"))


def test_the_language_model_of_a_multimodal_one_may_be_quantised() -> None:
    """Its text_config states that."""
    nested = {"model_type": "gemma3", "text_config": config(quant_method="spqr")}
    with pytest.raises(
        StartError, match=r"quantised \(spqr\), which needs a graphics card and spqr"
    ):
        quantization.check(nested)


@pytest.mark.parametrize(
    ("carried", "missing"),
    [
        (["GPTQModel", "optimum"], ""),
        (["optimum"], "needs gptqmodel, not installed"),
        ([], "needs optimum and gptqmodel, not installed"),
    ],
)
def test_a_file_that_is_not_unpacked_says_what_it_lacks(carried: list[str], missing: str) -> None:
    """By the packages that are in it, whose names are written in several ways."""
    settings = config(quant_method="gptq", bits=4)
    if not missing:
        quantization.check(settings, carried)
        return
    with pytest.raises(StartError, match=missing):
        quantization.check(settings, carried)
    with pytest.raises(StartError, match="optimum-quanto"):
        quantization.check(config(quant_method="quanto"), ["optimum"])
    quantization.check(config(quant_method="quanto"), ["Optimum_Quanto"])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_method_of_the_library_is_known() -> None:
    """Its table of quantizers, and what each of them looks for."""
    library = pytest.importorskip("transformers", reason="the library that reads such weights")
    table = pytest.importorskip("transformers.quantizers.auto").AUTO_QUANTIZER_MAPPING
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in table}
    alone = {"bitnet", "fp8", "gemma", "gguf", "metal", "mxfp4", "mxfp8", "nvfp4"}
    assert known - alone == set(quantization.LIBRARIES)
    tests = Path(library.__file__).parent / "utils" / "import_utils.py"
    looked_for = set(
        re.findall(r'_is_package_available\("([\w.]+)"', tests.read_text(encoding="utf-8"))
    )
    names = {name for names in quantization.LIBRARIES.values() for name in names}
    assert names <= looked_for
