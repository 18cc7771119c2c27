"""Where a training step's time goes: torch's profiler over one epoch's steps on one core, by kind of work.

    python benchmarks/profile_step.py linear-400-20 mlp-100-100-32

Random images of MNIST's size stand in for MNIST: no kernel here looks at what they show. Kernels' own time
is the profiler's; what it leaves of the time that the same steps take without it is Python and the calls.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.engine.device import available_cores, deterministic, one_thread, pin, stream
from bench.engine.epochs import Epochs
from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.spec.experiment import Run
from bench.spec.resolve import load

STEPS, WARM_UP, ROUNDS = 200, 20, 5
SHAPE = (28, 28)
KINDS = {  # kernel, as the profiler calls it -> what it is for
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"),
    "convolutions": ("convolution", "col2im", "im2col"),
    "BatchNorm": ("batch_norm",),
    "optimizer": ("_fused_adam", "_fused_sgd"),
    "batches": ("aten::index_select", "aten::randn", "aten::normal_"),
}


def kind(kernel: str) -> str:
    """What a kernel is for; whatever has no name above goes over elements one by one."""
    return next((k for k, names in KINDS.items() if any(name in kernel for name in names)), "elementwise")


def profiled(run: Run) -> tuple[float, dict[str, float]]:
    """Milliseconds of a step, the median of some rounds, and of each kind of work in it."""
    step = make_step(run, untrained(run, SHAPE).train())
    generator = stream(0, "profile")
    images = torch.randint(
        0, 256, (run.batch_size * STEPS, math.prod(SHAPE)), dtype=torch.uint8, generator=generator
    )
    Epochs([run], [images[: run.batch_size * WARM_UP]], step).epoch(1)
    epochs = Epochs([run], [images], step)
    rounds = sorted(_seconds(epochs) for _ in range(ROUNDS))
    milliseconds = 1e3 * rounds[ROUNDS // 2] / STEPS
    with profile(activities=[ProfilerActivity.CPU]) as found:
        epochs.epoch(1)
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            spent[kind(event.key)] += event.self_cpu_time_total / 1e3 / STEPS
    spent["Python and calls"] = milliseconds - sum(spent.values())
    return milliseconds, dict(spent)


def _seconds(epochs: Epochs) -> float:
    started = time.perf_counter()
    epochs.epoch(1)
    return time.perf_counter() - started


def main() -> None:
    """Profile architectures of benchmarks/speed.yaml."""
    experiment = load(Path(__file__).parent / "speed.yaml")
    parser = argparse.ArgumentParser(description="Where a training step's time goes.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(experiment.variants))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    if unknown := set(options.names) - experiment.variants.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(experiment.variants)}")
    deterministic()
    one_thread(torch.device("cpu"))
    pin(available_cores()[-1])
    for name in options.names or experiment.variants:
        run = experiment.variants[name].run(0).model_copy(update={"precision": options.precision})
        milliseconds, spent = profiled(run)
        print(f"{name}, {options.precision}: {milliseconds:.2f} ms a step of {run.batch_size} images")
        for what, part in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {part:6.2f} ms  {part / milliseconds:4.0%}  {what}")


if __name__ == "__main__":
    main()
