"""Count what a training step must do, and measure what the machine can do.

The floor of a step adds two times: its matrix products at the measured peak, and the traffic of parameters
and optimizer at the measured bandwidth. If both overlap wholly, the longer one remains. Activations are left
out: they may stay in a core's cache, and a floor must not be too high.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bench.engine.images import untrained
from bench.parts.vae import parameter_count
from bench.spec.experiment import Run

# Per parameter and step, 4 bytes each: Adam reads p, g, m, v and writes p, m, v; the two passes read the
# weights twice and write g once
BYTES_PER_PARAMETER = 40
STATE_PER_PARAMETER = 16  # bytes of p, g, m, v
SHAPE = (28, 28)  # of MNIST's images, and its like
ORDER = 1024  # of the square matrices that are multiplied for the peak: 4 MB each


@dataclass(frozen=True)
class Work:
    """Hold what one image, and one step, of an architecture asks for."""

    macs: int  # multiply-adds of a forward pass of one image
    first_macs: int  # those of the first layer, whose input needs no gradient
    parameters: int
    batch_size: int

    @property
    def flops(self) -> int:
        """Count floating-point operations of a step: forward, and two products as large for gradients."""
        return 2 * (3 * self.macs - self.first_macs) * self.batch_size

    @property
    def traffic(self) -> int:
        """Count the bytes of parameters, gradients and Adam's moments that a step moves."""
        return BYTES_PER_PARAMETER * self.parameters

    @property
    def state(self) -> int:
        """Count the bytes that this traffic goes through."""
        return STATE_PER_PARAMETER * self.parameters

    def floor(self, flops: ArrayLike, bandwidth: ArrayLike) -> tuple[Any, Any]:
        """Return the seconds of a step at these peaks (FLOP/s, bytes/s): without overlap, and overlapping."""
        compute, traffic = np.divide(self.flops, flops), np.divide(self.traffic, bandwidth)
        return compute + traffic, np.maximum(compute, traffic)


def work_of(run: Run) -> Work:
    """Count a run's work by one pass of one image through its model."""
    model = untrained(run, SHAPE).eval()
    macs: list[int] = []

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Each weight is used once for each position of what it slides over
        slid = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        positions = 1 if isinstance(module, nn.Linear) else slid.shape[2:].numel()
        macs.append(module.weight.numel() * positions)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, math.prod(SHAPE)), torch.zeros(1, 1, model.latent))
    return Work(sum(macs), macs[0], parameter_count(model), run.batch_size)


def gemm_flops(seconds: float) -> float:
    """Measure FLOP/s of this process's threads in a large fp32 product of matrices."""
    a, b, out = (torch.ones(ORDER, ORDER) for _ in range(3))
    return 2 * ORDER**3 / _fastest(lambda: torch.mm(a, b, out=out), seconds)


def stream_bandwidth(size: int, seconds: float) -> float:
    """Measure bytes/s, read and written, of this process's threads in a pass over `size` bytes."""
    count = max(1, size // 8)
    x, y = torch.ones(count), torch.ones(count)
    return 8 * count / _fastest(lambda: torch.add(x, 1, out=y), seconds)


def gemm_gain() -> float:
    """Measure how much faster all threads multiply matrices than one does; infinite for a single thread.

    Near 1 the threads share a core, or something else is at work on the others.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return float("inf")
    together = gemm_flops(0.05)
    torch.set_num_threads(1)
    alone = gemm_flops(0.05)
    torch.set_num_threads(threads)
    return together / alone


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Time the shortest of the calls that fit into so many seconds, three at least."""
    times: list[float] = []
    call()
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
