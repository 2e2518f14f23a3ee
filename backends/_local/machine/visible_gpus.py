"""--visible_gpu: restrict both engines to some GPUs, by the variables of each vendor's runtime."""

from __future__ import annotations

import os

from kuwa_min.errors import StartError

# NVIDIA; AMD, where it comes before CUDA's; Intel; Vulkan in llama.cpp. Not ROCR_VISIBLE_DEVICES:
# it numbers the cards anew, and HIP_VISIBLE_DEVICES would then choose among those.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GGML_VK_VISIBLE_DEVICES",
)


def restrict(numbers: str | None) -> None:
    """Set the variables that libraries read when they look for cards; do nothing without numbers.

    numbers: of --visible_gpu, as 0,1. Call it before the library is imported.
    """
    if numbers:
        os.environ.update(dict.fromkeys(VARIABLES, numbers))


def check(numbers: str | None, found: int, names: str = "") -> None:
    """Raise StartError if --visible_gpu names more cards than the library found.

    Libraries leave out in silence what is not there. names: of those found, for the message.
    """
    asked = len([number for number in (numbers or "").split(",") if number.strip()])
    if asked > found:
        seen = f"{found} of them: {names}" if found and names else f"{found or 'none'} of them"
        raise StartError(f"--visible_gpu {numbers} names {asked} graphics cards; here is {seen}")
