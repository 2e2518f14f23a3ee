"""What --prune leaves out: files of well-known wheels that inference never needs.

Kept on purpose: torchgen (torch imports it), setuptools (its compiler does), RECORD (transformers
reads it), numpy's tests (numpy.testing imports some), triton's headers, and every package that no
pattern matches. The price: nothing can be compiled against torch's C++ headers (torch.compile on
the CPU, extensions built at run time).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .wheel import PayloadFile

NEVER_NEEDED = re.compile(
    "|".join(
        (
            r"torch/(test|include|share)/.*",
            r"torch/bin/(?!torch_shm_manager$).*",
            r"torch/lib/.*\.a",
            r"(accelerate|mpmath|networkx|sympy)/(.*/)?tests?/.*",
            r"functorch/.*",
            r"nvidia/.*/include/.*",
            r"nvidia/.*\.a",
            r"googleapiclient/discovery_cache/documents/.*",
            r"(lib|include)/.*",  # llama-cpp-python's second copy; no module lives there
            r"llama_cpp/lib/(cmake|pkgconfig)/.*",
            r"llama_cpp/lib/libllama-common\.so.*",  # of its command-line tools
            r".*\.pyi",
            r".*\.pxd",
        )
    )
)


def prune(files: Iterable[PayloadFile]) -> list[PayloadFile]:
    """Return the files that inference may need."""
    return [file for file in files if not NEVER_NEEDED.fullmatch(file.path)]
