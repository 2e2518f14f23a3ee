"""What errors of a GPU mean, by the texts that torch raises them with: there is no GPU here."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")

pytestmark = pytest.mark.slow

KERNEL = "\nCUDA kernel errors might be asynchronously reported at some other API call"
ACCELERATOR = getattr(torch, "AcceleratorError", RuntimeError)
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ACCELERATOR("CUDA error: out of memory" + KERNEL),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ACCELERATOR("HIP error: out of memory"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
LOST = [
    ACCELERATOR("CUDA error: device-side assert triggered" + KERNEL),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ACCELERATOR("CUDA error: unspecified launch failure"),
    ACCELERATOR("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("NCCL Error: GPU 0 has fallen off the bus (Xid 79)"),
    ACCELERATOR("HIP error: unspecified launch failure"),
]
NEITHER = [
    RuntimeError("a bug"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("CUDA error: device-side assert triggered"),  # as a chat may write it
    ValueError("CUDA out of memory"),
]
OTHER = [
    ACCELERATOR("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"),
    ACCELERATOR("CUDA error: operation not permitted when stream is capturing"),
]


def raised_from(error: Exception) -> Exception:
    """Return an error of a library that another one caused."""
    try:
        raise RuntimeError("the layer failed") from error
    except RuntimeError as found:
        return found


def lost(error: Exception) -> str:
    """Return why the GPU is lost after an error, "" if it is not."""
    from backends.huggingface.device import errors

    try:
        errors.check(error, ())
    except errors.DeviceLost as found:
        return str(found)
    return ""


@pytest.mark.parametrize("is_caused", [False, True])
@pytest.mark.parametrize("error", FULL + LOST + NEITHER + OTHER, ids=lambda one: str(one)[:60])
def test_an_error_is_told_by_its_text(error: Exception, is_caused: bool) -> None:
    """A lack of memory is no end; a lost GPU is one, also behind an error of a library."""
    from backends.huggingface.device import errors

    found = raised_from(error) if is_caused else error
    assert errors.is_out_of_memory(found) == (error in FULL)
    assert errors.is_of_device(found) == (error in LOST + OTHER)
    said = lost(found)
    if error in LOST:
        assert str(error).partition("\n")[0] in said
        assert "Restart=on-failure" in said
        assert "\n" not in said
    else:
        assert not said


def test_a_gpu_that_is_lost_is_lost_whatever_ran_out() -> None:
    """A lack of memory that follows is no reason to go on."""
    from backends.huggingface.device import errors

    try:
        raise torch.OutOfMemoryError("CUDA out of memory") from LOST[0]
    except torch.OutOfMemoryError as error:
        assert not errors.is_out_of_memory(error)


@pytest.mark.parametrize("bad", [None, "cuda:1"])
def test_an_unclear_failure_asks_the_models_gpus(
    bad: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.cuda is replaced here: each GPU of the model is asked, and no other one."""
    from backends.huggingface.device import errors

    asked = list[str]()

    def synchronize(device: object) -> None:
        asked.append(str(device))
        if str(device) == bad:
            raise LOST[0]

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    devices = [torch.device("cuda:0"), torch.device("cuda:1")]
    if bad:
        with pytest.raises(errors.DeviceLost, match="device-side assert"):
            errors.check(OTHER[1], devices)
    else:
        errors.check(OTHER[1], devices)
    assert asked == ["cuda:0", "cuda:1"]
