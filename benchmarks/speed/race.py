"""Run one lap: a contestant's fresh processes warm up, wait for each other, and train for so many steps.

On a CPU bench trains as `bench run` does, one single-threaded process to a core; on an accelerator, stacked
replicas in one process. The other loops have every core in one process, as they come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from bench.engine.device import available_cores, deterministic, one_thread, peak_memory_mb, pin, synchronise
from bench.engine.epochs import Epochs
from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.engine.stacked import stack
from bench.errors import BenchError
from bench.parts.lookup import objective_of
from bench.spec.experiment import Run
from benchmarks import peer_loops, usual_loop
from benchmarks.speed.limits import gemm_flops, gemm_gain, stream_bandwidth, work_of

Train = Callable[[int], int]  # takes about so many steps; returns how many it were

HEALTHY = 1.1  # all threads must multiply matrices this much faster than one
WARM_UP = 5  # steps before those that the pace is taken from
PACED = 20  # steps that the pace is taken from
PEAK_SECONDS = 0.3  # for each of the two peaks


@dataclass(frozen=True)
class Pace:
    """Say how long a lap is: so many steps, or about so many seconds."""

    seconds: float = 3.0
    steps: int | None = None


@dataclass(frozen=True)
class Contestant:
    """Say who trains: a process of `stacked` has several replicas, one of any other loop has one."""

    name: str
    loop: str  # one of LOOPS
    processes: int = 1
    replicas: int = 1  # of each process
    precision: str = "fp32"


@dataclass(frozen=True)
class Task:
    """Say what a contestant trains on: a run, uint8 images [N, 28, 28] and labels [N], and for how long."""

    run: Run
    images: Tensor
    labels: Tensor
    device: torch.device
    pace: Pace

    @property
    def per_epoch(self) -> int:
        """Count the whole batches of an epoch."""
        return len(self.images) // self.run.batch_size


def lap(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Train one lap in fresh processes; returns its row of results.csv.

    Images are those of all replicas; seconds go from the first process's start to the last one's end. Threads
    and steps are those of each process, `peak_mb` is the largest process's. Peaks in fp32 are measured by the
    same processes right after, all at once; NaN on accelerators and in bf16.

    Raises BenchError where one of the processes dies.
    """
    context = mp.get_context("spawn")
    cores = available_cores()
    pinned = contestant.loop == "bench" and contestant.processes == len(cores)  # as `bench run` does
    lines: list[Connection] = []
    processes: list[Any] = []

    def ask(question: object) -> list[Any]:
        """Send all processes a message, and wait for the answers of all."""
        try:
            for line in lines:
                line.send(question)
            return [line.recv() for line in lines]
        except (EOFError, ConnectionError):
            told = f"a process of {contestant.name!r} died while it trained; its message is above"
            raise BenchError(told) from None

    try:
        for i in range(contestant.processes):
            here, there = context.Pipe()
            core = cores[i] if pinned else None
            process = context.Process(target=_work, args=(there, contestant, task, core), daemon=True)
            process.start()
            there.close()
            lines.append(here)
            processes.append(process)
        steps = min(ask("warm up"))  # what the slowest has time for
        starts, ends, taken, threads, memory, gains = zip(*ask(steps), strict=True)
        peaks = zip(*ask("peaks"), strict=True)
    finally:
        for process, line in zip(processes, lines, strict=True):
            process.kill()
            process.join()
            line.close()
    seconds = max(ends) - min(starts)
    flops, bandwidth = map(sum, peaks)
    return {
        "images_per_second": sum(taken) * task.run.batch_size * contestant.replicas / seconds,
        "seconds": seconds,
        "steps": taken[0],
        "processes": contestant.processes,
        "replicas": contestant.replicas,
        "threads": threads[0],
        "peak_mb": max(memory),
        "healthy": min(gains) > HEALTHY,
        "gemm_flops": flops,
        "stream_bytes_per_second": bandwidth,
    }


def _work(line: Connection, contestant: Contestant, task: Task, core: int | None) -> None:
    """Run in each process: warm up, say how many steps there is time for, train as many as are asked for."""
    device, on_cpu = task.device, task.device.type == "cpu"
    if contestant.loop in ("bench", "stacked"):
        deterministic()
        one_thread(device)
    if core is not None:
        pin(core)
    side = torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()
    with side:  # CUDA's default stream can't be captured
        train = LOOPS[contestant.loop](contestant, task)
        line.recv()
        train(min(WARM_UP, task.pace.steps or WARM_UP))
        line.send(task.pace.steps or _steps_in(task.pace.seconds, train, device))
        steps = line.recv()
        gain = gemm_gain() if on_cpu else math.inf
        started = time.monotonic()  # one clock for all processes
        steps = train(steps)
        synchronise(device)
        ended = time.monotonic()
        peak = peak_memory_mb(device)
        gain = min(gain, gemm_gain()) if on_cpu else gain
    line.send((started, ended, steps, torch.get_num_threads(), peak, gain))
    line.recv()
    if on_cpu and contestant.precision == "fp32":
        state = work_of(task.run).state
        line.send((gemm_flops(PEAK_SECONDS), stream_bandwidth(state, PEAK_SECONDS)))
    else:
        line.send((math.nan, math.nan))


def _steps_in(seconds: float, train: Train, device: torch.device) -> int:
    synchronise(device)
    started = time.monotonic()
    steps = train(PACED)
    synchronise(device)
    return max(1, int(seconds / (time.monotonic() - started) * steps))


def _usual(contestant: Contestant, task: Task) -> Train:
    """Train with the usual loop."""
    name, batch = task.run.variant, task.run.batch_size
    whole = task.per_epoch * batch
    images = usual_loop.Images(task.images[:whole], task.labels[:whole], usual_loop.transform(name))
    loop = usual_loop.UsualLoop(name, images, batch, str(task.device))

    def train(steps: int) -> int:
        loop.train(steps)
        return steps

    return train


def _peer(contestant: Contestant, task: Task) -> Train:
    """Train with one of the other loops, on the whole batches of the images."""
    make = {"trainer": peer_loops.TrainerLoop, "pythae": peer_loops.PythaeLoop}[contestant.loop]
    run, whole = task.run, task.per_epoch * task.run.batch_size
    loop = make(run.variant, task.images[:whole], task.labels[:whole], run.batch_size, str(task.device))

    def train(steps: int) -> int:
        loop.train(steps)
        return steps

    return train


def _bench(contestant: Contestant, task: Task) -> Train:
    """Train one replica as `bench.engine.loop.train` does, less the evaluation between epochs."""
    run = task.run.model_copy(update={"precision": contestant.precision})
    images = task.images.flatten(1).to(task.device)
    step = make_step(run, untrained(run, task.images.shape[1:]).to(task.device).train())

    @cache
    def epochs_of(steps: int) -> Epochs:
        return Epochs([run], [images[: steps * run.batch_size]], step)

    def train(steps: int) -> int:
        for epoch, start in enumerate(range(0, steps, task.per_epoch), 1):
            sums, _ = epochs_of(min(task.per_epoch, steps - start)).epoch(epoch)
            sums.tolist()  # an epoch's one host sync
        return steps

    return train


def _stacked(contestant: Contestant, task: Task) -> Train:
    """Train several replicas as one model, as `bench.engine.loop.train` does, in whole epochs."""
    changes = {"precision": contestant.precision}
    runs = [task.run.model_copy(update=changes | {"seed": seed}) for seed in range(contestant.replicas)]
    images = task.images.flatten(1)[: task.per_epoch * task.run.batch_size].to(task.device)
    models = [untrained(run, task.images.shape[1:]).to(task.device) for run in runs]
    step = make_step(runs[0], stack(models, objective_of(runs[0])).train())
    epochs, numbers = Epochs(runs, [images] * len(runs), step), count(1)

    def train(steps: int) -> int:
        whole = max(1, round(steps / task.per_epoch))
        for epoch in islice(numbers, whole):
            epochs.epoch(epoch)[0].tolist()
        return whole * task.per_epoch

    return train


LOOPS = {"usual": _usual, "trainer": _peer, "pythae": _peer, "bench": _bench, "stacked": _stacked}
