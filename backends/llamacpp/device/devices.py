"""The devices that llama.cpp finds; and the reason why one that is asked for cannot be used."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from backends._local.machine import visible_gpus
from backends.llamacpp.bindings import LOG_CAPTURE
from kuwa_min.errors import StartError

from . import cuda_cards

logger = logging.getLogger(__name__)

CPU, GPU, INTEGRATED_GPU = 0, 1, 2  # ggml_backend_dev_type
OTHERS = ("base", "cpu", "blas", "rpc", "zendnn")  # libggml-cpu-haswell.so...: for no card
CUDA_LIBRARY = "libggml-cuda.so"
ABSENT = {  # a library that is not here -> what is to be done
    "libcuda.so.1": "no NVIDIA driver is here",
    "libvulkan.so.1": "no Vulkan loader is here, which the package libvulkan1 or vulkan-loader has",
    "libamdhip64.so": "no ROCm is here",
    "libze_loader.so": "no driver of Intel's graphics cards is here",
}


class Device(NamedTuple):
    """A device as ggml names it."""

    name: str  # "CUDA0"
    description: str  # "NVIDIA H100 80GB HBM3"
    backend: str  # "CUDA"
    kind: int  # CPU, GPU...

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


def find() -> list[Device]:
    """Return all devices of the backends that are loaded."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_describe(get(number)) for number in range(count())]


def used(layers: int) -> list[Device]:
    """Return the devices that llama.cpp computes on; layers: on graphics cards, 0 for none."""
    found = find()
    return [one for one in found if one.kind == CPU] + (_cards_used(found) if layers else [])


def _cards_used(devices: Sequence[Device]) -> list[Device]:
    """Return the graphics cards that llama.cpp uses: integrated ones if there are no others."""
    cards = [one for one in devices if one.kind in (GPU, INTEGRATED_GPU)]
    return [one for one in cards if one.kind == GPU] or cards


def buffer_type(device: Device) -> int:
    """Return ggml's pointer to the buffer type in which a device has tensors."""
    by_name = _function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)
    of = _function("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
    return int(of(by_name(device.name.encode())))


def _describe(device: int) -> Device:
    name, description, registry_name = (
        _function(f"ggml_backend_{word}", ctypes.c_char_p, ctypes.c_void_p)
        for word in ("dev_name", "dev_description", "reg_name")
    )
    registry = _function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    words = (name(device), description(device), registry_name(registry(device)))
    return Device(*(word.decode("utf-8", "replace").strip() for word in words), kind(device))


def free_bytes(name: str) -> int | None:
    """Return the free memory of a device ("CUDA0"); None for one that ggml does not know."""
    device = _function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(name.encode())
    if not device:
        return None
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    ask = _function("ggml_backend_dev_memory", None, ctypes.c_void_p, *[ctypes.c_void_p] * 2)
    ask(device, ctypes.byref(free), ctypes.byref(total))
    return free.value


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml's, through the libggml that libllama uses."""
    function = getattr(ctypes.CDLL(llama_cpp.llama_cpp._lib._name), name)
    function.restype, function.argtypes = result, arguments
    return function


def processor() -> str:
    """Return the processor's name, as "CPU (AMD EPYC 9654)"."""
    return next((str(one) for one in find() if one.kind == CPU), "CPU")


def check(layers: int, visible_gpu: str | None, tensor_split: Sequence[float]) -> None:
    """Check the graphics cards once the backends are loaded: what the options ask of them.

    Raises StartError if layers are to be on a card, and none can be used, or not all that are named
    can. Without layers, logs that cards are idle.
    """
    cards = _cards()
    if not layers:
        if cards:
            names = ", ".join(map(str, cards))
            logger.info("a graphics card is here and not used: %s; --ngl -1 uses it", names)
        elif visible_gpu or tensor_split:
            name = "--visible_gpu" if visible_gpu else "--tensor_split"
            logger.warning("%s has no effect here: the processor computes", name)
        return
    if fault := _fault(cards, visible_gpu, tensor_split):
        raise StartError(_refusal(f"--ngl {layers}", fault))


def can_use_cards(visible_gpu: str | None, tensor_split: Sequence[float]) -> bool:
    """Tell whether a card can be used, for --ngl auto; log why not, in builds for cards.

    Raises StartError if the options name cards, and not all of them can be used.
    """
    if not _libraries() and all(name.lower() in OTHERS for name in _backends()):
        check(0, visible_gpu, tensor_split)
        return False
    fault = _fault(_cards(), visible_gpu, tensor_split)
    if fault and (visible_gpu or tensor_split):
        raise StartError(_refusal("--visible_gpu" if visible_gpu else "--tensor_split", fault))
    if fault:
        logger.warning("the processor computes, in a build for graphics cards: %s", fault)
    return not fault


def _cards() -> list[Device]:
    return [one for one in find() if one.kind in (GPU, INTEGRATED_GPU)]


def _fault(cards: list[Device], visible_gpu: str | None, tensor_split: Sequence[float]) -> str:
    """Return why none of the cards can be used, or ""; log which libraries cannot be loaded.

    Raises StartError if not all can be used that the options name.
    """
    libraries = _libraries()
    failures = [failure for one in libraries if (failure := _load_failure(one))]
    if not cards:
        return "; ".join(failures) or _no_card(libraries, visible_gpu)
    for failure in failures:
        logger.warning("%s", failure)
    backends = [one.backend for one in cards]
    visible_gpus.check(visible_gpu, max(map(backends.count, backends)), ", ".join(map(str, cards)))
    _check_split(tensor_split, cards)
    if "CUDA" not in backends:
        return ""
    architectures = cuda_cards.read_architectures(_folder() / CUDA_LIBRARY)
    return cuda_cards.fault(architectures, cuda_cards.find_cards())


def _check_split(shares: Sequence[float], cards: list[Device]) -> None:
    """Raise StartError if --tensor_split has shares for cards that llama.cpp does not use.

    It would leave them out, and divide by their sum of zero if no others are given.
    """
    used = _cards_used(cards)
    if any(shares[len(used) :]):
        text = ",".join(f"{share:g}" for share in shares)
        raise StartError(
            f"--tensor_split {text} is for {len(shares)} graphics cards; llama.cpp uses "
            f"{len(used)} here: {', '.join(map(str, used))}"
        )


def _refusal(option: str, why: str) -> str:
    return f"{option} asks for a GPU, but {why}; --ngl 0 computes on the processor"


def _no_card(libraries: list[Path], visible_gpu: str | None) -> str:
    """Return why backends that can be loaded have no card."""
    registered = [name for name in _backends() if name != "CPU"]
    if not registered and not libraries:
        return "this build of llama.cpp computes on processors only"
    built_for = ", ".join(registered or [one.stem.removeprefix("libggml-") for one in libraries])
    error = f": {LOG_CAPTURE.first_error}" if LOG_CAPTURE.first_error else ""
    names = [name for name in visible_gpus.VARIABLES if name in os.environ]
    limits = ", ".join(f"{name}={os.environ[name]}" for name in names)
    limit = f"--visible_gpu {visible_gpu}" if visible_gpu else limits
    among = f" ({limit})" if limit else ""
    return f"llama.cpp was built for {built_for} and finds no such device here{among}{error}"


def _backends() -> list[str]:
    """Return the names of the backends that are loaded: "CPU", "CUDA"..."""
    count = _function("ggml_backend_reg_count", ctypes.c_size_t)
    get = _function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return [name(get(number)).decode() for number in range(count())]


def _folder() -> Path:
    return Path(llama_cpp.__file__).parent / "lib"


def _libraries() -> list[Path]:
    """Return the libraries of backends for cards that came with llama.cpp."""
    found = sorted(_folder().glob("libggml-*.so"))
    return [one for one in found if one.stem.split("-")[1] not in OTHERS]


def _load_failure(library: Path) -> str:
    """Return why a library cannot be loaded, which llama.cpp does not say; "" if it can be."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        reason = " ".join(str(error).split())
        hints = [hint for name, hint in ABSENT.items() if reason.startswith(name)]
        hint = f" ({hints[0]})" if hints else ""
        return f"{library.name} cannot be loaded: {reason}{hint}"
    return ""
