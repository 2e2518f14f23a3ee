"""Know what inference never needs of well-known wheels: what --prune leaves out.

Kept on purpose: torchgen and setuptools (torch imports the one, its compiler the other), RECORD
(transformers reads it), numpy's tests (numpy.testing imports a piece of them), triton's headers and
everything of a package that no line names. What is lost: compiling C++ against torch's headers
(torch.compile for the CPU, extensions built at run time).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .wheels import Content

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


def prune(contents: Iterable[Content]) -> list[Content]:
    """Return the contents that are needed."""
    return [content for content in contents if not NEVER_NEEDED.fullmatch(content.path)]
