"""What llama.cpp's log says of devices and their memory."""

from __future__ import annotations

from backends.llamacpp.device.device_memory import placement

LOADING = [
    "llama_prepare_model_devices: using device CUDA0 (NVIDIA H100 (SXM)) (0000:01:00.0) - "
    "80000 MiB free",
    "llama_prepare_model_devices: using device CUDA1 (NVIDIA L4) (unknown id) - 20000 MiB free",
    "load_tensors: offloading 30 repeating layers to GPU",
    "load_tensors: offloaded 31/33 layers to GPU",
    "load_tensors:   CPU_Mapped model buffer size =   100.00 MiB",
    "load_tensors:   CPU_Mapped model buffer size =    50.00 MiB",
    "load_tensors:        CUDA0 model buffer size =  2000.00 MiB",
]
CONTEXT = [
    "llama_context:  CUDA_Host  output buffer size =     1.00 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =   100.00 MiB",
    "llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB",
    "sched_reserve:      CUDA0 compute buffer size =   300.00 MiB",
    "sched_reserve:      CUDA0 compute buffer size =   200.00 MiB",
    "llama_kv_cache: size =   32.00 MiB (   256 cells,  32 layers,  1/1 seqs), K (f16): 16.00 MiB",
]


def test_what_computes_is_said() -> None:
    """Parts of the same kind add up; the buffer to compute in is the one that was made last."""
    found = placement([*LOADING, *CONTEXT], processor="CPU (Z80)", uses_gpu=True)
    assert found.facts() == {
        "device": "CUDA0 (NVIDIA H100 (SXM)), CUDA1 (NVIDIA L4)",
        "gpu_layers": "31/33",
        "memory_mb": {
            "CPU_Mapped": {"model": 157.3},
            "CUDA0": {"model": 2097.2, "kv": 115.3, "compute": 209.7},
            "CUDA_Host": {"output": 1.0},
        },
    }
    assert str(found) == (
        "computes on CUDA0 (NVIDIA H100 (SXM)), CUDA1 (NVIDIA L4), 31 of 33 layers; "
        "memory: CPU_Mapped model 157 MB; CUDA0 model 2,097 MB, KV 115 MB, compute 210 MB; "
        "CUDA_Host output 1 MB"
    )


def test_a_processor_has_no_layers_of_a_card() -> None:
    """Though llama.cpp logs 0 of them where a card is."""
    log = [LOADING[3].replace("31", "0"), LOADING[4]]
    found = placement(log, processor="CPU (Z80)", uses_gpu=False)
    assert found.facts() == {"device": "CPU (Z80)", "memory_mb": {"CPU_Mapped": {"model": 104.9}}}
    assert str(found) == "computes on CPU (Z80); memory: CPU_Mapped model 105 MB"
    assert str(placement([], processor="CPU", uses_gpu=True)) == "computes on CPU; memory: unknown"
