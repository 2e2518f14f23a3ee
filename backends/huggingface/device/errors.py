"""Tell apart what a device's errors mean: memory ran out, or nothing can be computed any more.

After some errors every call of CUDA fails, in all threads, until the process ends: the context is
lost. torch has one class for all of them, so that their texts decide, and then the device itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import torch

from kuwa_min.errors import StartError, message_of

MAX_REASON = 200  # characters of the library's error message
LIBRARIES = ("CUDA", "HIP", "CUBLAS", "HIPBLAS", "CUDNN", "MIOPEN", "NCCL", "Xid")
OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|(CUDA|HIP) error: out of memory|(CUDA|HIP) out of memory"
    r"|(CU|HIP)[A-Z]+_STATUS_ALLOC_FAILED|CUDNN_STATUS_\w*ALLOC\w*_FAILED|miopenStatusAllocFailed"
)
LOST = re.compile(
    r"device-side assert|illegal memory access|unspecified launch failure|misaligned address"
    r"|illegal instruction|invalid program counter|invalid address space|hardware stack error"
    r"|operation not supported on global/shared address space|launch timed out|uncorrectable"
    r"|context is destroyed|driver shutting down|error: unknown error|\bXid\b",
    re.IGNORECASE,
)
TORCH_ERRORS = (RuntimeError, getattr(torch, "AcceleratorError", RuntimeError))


class DeviceLost(StartError):
    """Report that a device computes nothing any more; the message is one line."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, of a GPU or of the machine."""
    if _lost_by(error):
        return False
    return any(
        isinstance(one, (torch.OutOfMemoryError, MemoryError))
        or (isinstance(one, RuntimeError) and OUT_OF_MEMORY.search(message_of(one)))
        for one in _chain(error)
    )


def is_of_device(error: BaseException) -> bool:
    """Tell whether an error is one of a GPU other than a lack of memory."""
    return not is_out_of_memory(error) and any(map(_is_of_device, _chain(error)))


def check(failure: BaseException, devices: Collection[torch.device]) -> None:
    """Raise DeviceLost if a failure says that a GPU is lost, or one of these GPUs is found so.

    devices: those of the model; others are not touched, as that would take memory of them.
    """
    if lost := _lost_by(failure):
        raise DeviceLost(_said(lost))
    try:
        for device in devices:
            torch.cuda.synchronize(device)
    except TORCH_ERRORS as error:
        raise DeviceLost(_said(error)) from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: CUDA's go on with advice for programmers."""
    line = message_of(error).strip().partition("\n")[0]
    return "".join(filter(str.isprintable, line))[:MAX_REASON]


def _said(error: BaseException) -> str:
    return (
        f"the graphics card computes nothing any more for this process ({first_line(error)}); "
        "a new process can use it, which systemd starts where the unit has Restart=on-failure"
    )


def _lost_by(error: BaseException) -> BaseException | None:
    """Return the error of the chain that says that a GPU is lost."""
    return next(
        (one for one in _chain(error) if _is_of_device(one) and LOST.search(message_of(one))), None
    )


def _is_of_device(error: BaseException) -> bool:
    """Tell whether torch raised this about a GPU: other classes may quote what a user wrote."""
    if type(error) not in TORCH_ERRORS:
        return False
    text = message_of(error)
    return type(error) is not RuntimeError or any(name in text for name in LIBRARIES)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised for or after."""
    seen = set[int]()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
