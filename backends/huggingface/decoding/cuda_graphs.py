"""CUDA graphs: the kernels of a computation, recorded once and launched as one."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP_RUNS = 2  # before a recording: libraries allocate workspaces and choose kernels


class CudaGraphs:
    """Records computations on one GPU; all share one memory pool. For the engine's thread alone."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the machine that the GPU copies from and to by itself."""
        return torch.zeros(*shape, dtype=dtype, pin_memory=True)

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Return what launches the kernels of compute() again, on the same memory.

        compute() must not ask the GPU for a value. What it makes stays as long as the result.
        """
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_RUNS):
                    compute()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may ask the driver for free memory meanwhile: /status does.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                compute()
        replay: Callable[[], None] = graph.replay
        return replay

    def synchronize(self) -> None:
        """Wait until the GPU has done all that it was given."""
        torch.cuda.current_stream(self._device).synchronize()
