"""Manifests to test with: of a file that carries nothing, and of one that carries everything."""

from __future__ import annotations

from kuwa_min.bundle.manifest import Manifest, Package, Target
from kuwa_min.packing import assemble

ANYWHERE: Target = {**assemble.ANYWHERE, "bytecode": "3.11"}
OWN: Package = {
    "name": "kuwa-min",
    "version": "0.1.0",
    "wheel": "",
    "sha256": "a" * 64,
    "license": "MIT",
    "spdx": True,
}
EXAMPLE: Manifest = {
    "name": "kuwa-min",
    "version": "0.1.0",
    "backend": "debug",
    "executors": {},
    "built_for": ANYWHERE,
    "packages": [OWN],
    "payloads": [],
    "host_packages": [],
    "shiv_version": "1.0.8",
    "built_at": "1980-01-01 00:00:00",
}
HEAVY: Manifest = {
    **EXAMPLE,
    "backend": "huggingface",
    "built_for": {
        "python": "3.12",
        "implementation": "cpython",
        "abi": "cp312",
        "bytecode": "3.12",
        "platform": "manylinux_2_28_x86_64",
        "os": "linux",
        "machine": "x86_64",
        "glibc": "2.28",
        "libraries": {
            "libstdc++.so.6": ["GLIBCXX_3.4.9", "GLIBCXX_3.4.29", "CXXABI_1.3"],
            "libgomp.so.1": [],
        },
        "cpu": ["avx2", "fma"],
        "cuda": "13.0",
        "driver": "580.65",
        "gpu_libraries": ["libvulkan.so.1"],
    },
    "packages": [
        OWN,
        {
            "name": "nvidia-cublas",
            "version": "13.1",
            "wheel": "nvidia_cublas-13.1-py3-none-manylinux_2_27_x86_64.whl",
            "sha256": "b" * 64,
            "license": "",
            "spdx": False,
        },
        {
            "name": "torch",
            "version": "2.13.0",
            "wheel": "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "sha256": "c" * 64,
            "license": "BSD-3-Clause",
            "spdx": True,
        },
    ],
    "payloads": [
        {
            "kind": "libraries",
            "id": "0123456789abcdef0123",
            "position": 1,
            "index_position": 1,
            "index_size": 1,
            "files": 21169,
            "folders": 2100,
            "bytes": 4_700_000_000,
            "sha256": "d" * 64,
        },
        {
            "kind": "model",
            "id": "3210fedcba9876543210",
            "position": 1,
            "index_position": 1,
            "index_size": 1,
            "files": 1,
            "folders": 0,
            "bytes": 448_000,
            "sha256": "e" * 64,
        },
    ],
    "host_packages": ["numpy>=2"],
}
