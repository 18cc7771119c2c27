"""Where a training step's time goes: torch's profiler over one epoch's steps on one core, by kind of work.

    python -m benchmarks.profile_step linear-400-20 mlp-100-100-32

Random images of MNIST's size stand in for MNIST: no kernel looks at what they show. A step's time is what
the processor spent on it, and a kernel's the median over the steps, so that a busy machine disturbs both
little. What kernels leave of the step is Python and the calls.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from bench.engine.device import available_cores, deterministic, one_thread, pin, stream
from bench.engine.epochs import Epochs
from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.spec.experiment import Run
from bench.spec.resolve import load
from benchmarks.speed.limits import ORDER, Work, work_of

STEPS, WARM_UP, ROUNDS, PASSES = 50, 20, 9, 5
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


def profiled(run: Run) -> tuple[float, float, dict[str, float]]:
    """Milliseconds of a step, a median; the share that the floor is of it; the part of each kind of work."""
    step = make_step(run, untrained(run, SHAPE).train())
    generator = stream(0, "profile")
    images = torch.randint(
        0, 256, (run.batch_size * STEPS, math.prod(SHAPE)), dtype=torch.uint8, generator=generator
    )
    Epochs([run], [images[: run.batch_size * WARM_UP]], step).epoch(1)
    epochs = Epochs([run], [images], step)
    rounds = [(_floor(work_of(run)), _seconds(lambda: epochs.epoch(1)) / STEPS) for _ in range(ROUNDS)]
    milliseconds = 1e3 * median(step for _, step in rounds)
    share = median(floor / step for floor, step in rounds)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        epochs.epoch(1)
    spent: Counter[str] = Counter()
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for event in sorted(found.events(), key=lambda event: event.time_range.start):
        if event.name.startswith("aten::"):
            taken[event.name].append(event.self_cpu_time_total / 1e3)
    for name, times in taken.items():
        calls = round(len(times) / STEPS)  # a step; those that are made once an epoch are left out
        spent[kind(name)] += sum(median(times[call::calls]) for call in range(calls))
    spent["Python and calls"] = milliseconds - sum(spent.values())
    return milliseconds, share, dict(spent)


def _floor(work: Work) -> float:
    """Measure the seconds that the machine's peaks leave a step, as `make speed` does, in processor time."""
    a, x = torch.ones(ORDER, ORDER), torch.ones(work.state // 8)
    b, y = torch.empty_like(a), torch.empty_like(x)
    product = median(_seconds(lambda: torch.mm(a, a, out=b)) for _ in range(PASSES))
    stream = median(_seconds(lambda: torch.add(x, 1, out=y)) for _ in range(PASSES))
    return float(work.floor(2 * ORDER**3 / product, 8 * len(x) / stream)[0])


def _seconds(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


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
        milliseconds, share, spent = profiled(run)
        print(f"{name}, {options.precision}: {milliseconds:.2f} ms a step of {run.batch_size} images", end="")
        print(f", the floor is {share:.0%} of it")
        for what, part in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {part:6.2f} ms  {part / milliseconds:4.0%}  {what}")


if __name__ == "__main__":
    main()
