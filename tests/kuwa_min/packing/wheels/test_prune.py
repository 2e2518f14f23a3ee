"""Pruning: what inference never needs goes, what looks like it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.packing.wheels.prune import NEVER_NEEDED, prune
from tests.support.small_files import files_of, make_wheel

GONE = (
    "torch/test/test_all.py",
    "torch/include/ATen/ATen.h",
    "torch/share/cmake/Torch/TorchConfig.cmake",
    "torch/bin/protoc",
    "torch/bin/test_api",
    "torch/lib/libprotobuf.a",
    "accelerate/tests/test_big_modeling.py",
    "sympy/core/tests/test_basic.py",
    "networkx/algorithms/tests/test_cuts.py",
    "mpmath/tests/test_basic_ops.py",
    "sympy/test/x.py",
    "functorch/dim/__init__.py",
    "nvidia/cublas/include/cublas.h",
    "nvidia/cu13/lib/libcudart_static.a",
    "googleapiclient/discovery_cache/documents/abusiveexperiencereport.v1.json",
    "lib/libllama.so",
    "include/llama.h",
    "llama_cpp/lib/cmake/llama/llama-config.cmake",
    "llama_cpp/lib/pkgconfig/llama.pc",
    "llama_cpp/lib/libllama-common.so.0",
    "numpy/__init__.pyi",
    "numpy/random/c_distributions.pxd",
)
KEPT = (
    "torch/__init__.py",
    "torch/bin/torch_shm_manager",
    "torch/lib/libtorch_cpu.so",
    "torch/testing/__init__.py",
    "torch/_inductor/test_operators.py",
    "torchgen/model.py",
    "torch-2.13.0.dist-info/RECORD",
    "torch-2.13.0.dist-info/licenses/LICENSE",
    "setuptools/__init__.py",
    "numpy/tests/test_lists.py",
    "numpy/testing/tests/test_utils.py",
    "triton/backends/nvidia/include/cuda.h",
    "nvidia/cublas/lib/libcublas.so.13",
    "googleapiclient/discovery_cache/__init__.py",
    "llama_cpp/lib/libllama.so",
    "llama_cpp/lib/libggml-cpu-haswell.so",
    "some/lib/x.py",
    "some/include/x.h",
    "sympy/testing/runtests.py",
    "transformers/py.typed",
    "accelerate/test_utils/scripts/test_script.py",
)


@pytest.mark.parametrize("path", GONE)
def test_it_goes(path: str) -> None:
    """Inference does not need it."""
    assert NEVER_NEEDED.fullmatch(path)


@pytest.mark.parametrize("path", KEPT)
def test_it_stays(path: str) -> None:
    """Something imports it, or the license requires it."""
    assert not NEVER_NEEDED.fullmatch(path)


def test_what_is_kept_is_untouched_and_in_order(tmp_path: Path) -> None:
    """All other files of a wheel."""
    wheel = make_wheel(tmp_path, "pack", {"pack/a.py": b"1", "pack/a.pyi": b"2", "pack/b.py": b"3"})
    members = files_of(wheel)
    assert prune(members) == [one for one in members if one.path != "pack/a.pyi"]
