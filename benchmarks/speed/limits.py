"""What training must cost and what the machine can give: FLOPs and bytes counted, peaks measured.

The floor of a step is the time that its matrix products take at the measured peak, and that the traffic of
parameters and optimizer takes at the measured bandwidth: their sum if nothing overlaps, the larger one if
everything does. Activations are left out: they may stay in a core's cache, and a floor must not be too high.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.engine.images import untrained
from bench.parts.vae import PIXEL_COUNT, VAE, parameter_count
from bench.spec.experiment import Run

BYTES_PER_PARAMETER = (
    40  # a step: Adam reads p, g, m, v and writes p, m, v; two reads of weights, one write of g
)
STATE_PER_PARAMETER = 16  # p, g, m, v
ORDER = 1024  # of the square matrices whose product is taken for the peak: 4 MB each


@dataclass(frozen=True)
class Work:
    """What one image, and one step, of an architecture asks for."""

    macs: int  # multiply-adds of a forward pass of one image
    first_macs: int  # those of the first layer, whose input needs no gradient
    parameters: int
    batch_size: int

    @property
    def flops(self) -> int:
        """Floating-point operations of a step: forward, and two products as large for the gradients."""
        return 2 * (3 * self.macs - self.first_macs) * self.batch_size

    @property
    def traffic(self) -> int:
        """Bytes of parameters, gradients and Adam's moments that a step moves."""
        return BYTES_PER_PARAMETER * self.parameters

    @property
    def state(self) -> int:
        """Bytes that this traffic goes through."""
        return STATE_PER_PARAMETER * self.parameters


@dataclass(frozen=True)
class Peaks:
    """What the cores in use give together: FLOP/s of large products, bytes/s of a stream of that state."""

    flops: float
    bandwidth: float

    @classmethod
    def together(cls, parts: Sequence[Peaks]) -> Peaks:
        """The peaks of processes that are at work at once."""
        return cls(sum(p.flops for p in parts), sum(p.bandwidth for p in parts))

    def floor(self, work: Work) -> tuple[float, float]:
        """Seconds of a step, all these cores at it: nothing overlapping, everything overlapping."""
        compute, traffic = work.flops / self.flops, work.traffic / self.bandwidth
        return compute + traffic, max(compute, traffic)


def work_of(run: Run) -> Work:
    """Count a run's work by one pass of one image through its model."""
    model = untrained(run).eval()
    macs: list[int] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        macs.append(_macs(module, inputs[0], output))

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(record)
    _pass(model)
    return Work(sum(macs), macs[0], parameter_count(model), run.batch_size)


@torch.no_grad()
def _pass(model: VAE) -> None:
    model(torch.zeros(1, PIXEL_COUNT), torch.zeros(1, model.latent))


def _macs(module: Any, x: Tensor, output: Tensor) -> int:
    """Multiply-adds of one image: each weight once for each position of what it slides over."""
    positions = 1
    if x.dim() == 4:
        slid = x if isinstance(module, nn.ConvTranspose2d) else output
        positions = slid.shape[2] * slid.shape[3]
    return int(module.weight.numel()) * positions


def measure_peaks(state: int) -> Peaks:
    """What this process's threads give: large products, then a stream over `state` bytes."""
    return Peaks(gemm_flops(0.3), stream_bandwidth(state, 0.3))


def gemm_flops(seconds: float = 0.1) -> float:
    """FLOP/s of this process's threads in a large product of matrices, fp32."""
    a, b, out = (torch.ones(ORDER, ORDER) for _ in range(3))
    return 2 * ORDER**3 / _fastest(lambda: torch.mm(a, b, out=out), seconds)


def stream_bandwidth(size: int, seconds: float = 0.1) -> float:
    """Bytes/s, read and written, of a pass over `size` bytes by this process's threads."""
    count = max(1, size // 8)
    x, y = torch.ones(count), torch.ones(count)
    return 8 * count / _fastest(lambda: torch.add(x, 1, out=y), seconds)


def gemm_gain() -> float:
    """How much faster all of this process's threads multiply matrices than one; infinite for a single one.

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
    """The shortest of the calls that fit into so many seconds, three at least."""
    times: list[float] = []
    call()
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
