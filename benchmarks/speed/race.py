"""One lap: a contestant's processes start afresh, warm up, wait for each other, and train for so many steps.

On a CPU bench trains as `bench run` does, one single-threaded process to a core; on an accelerator, stacked
replicas in one process. The usual loop has every core in one process, as it comes.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from bench.engine.device import available_cores, deterministic, one_thread, peak_memory_mb, pin, synchronise
from bench.engine.images import untrained
from bench.engine.replicas import Loop
from bench.engine.stacked import StackedStep, stack
from bench.engine.train import make_step, objective_of, one_epoch
from bench.errors import BenchError
from bench.parts.optimizers import OPTIMIZERS
from bench.spec.experiment import Run
from benchmarks.speed.limits import Peaks, gemm_gain, measure_peaks, work_of

Train = Callable[[int], int]  # train for about so many steps; how many it were

UNHEALTHY = 1.1  # all threads must multiply matrices this much faster than one
WARM_UP = 5  # steps, before those that the pace is taken from
PACED = 20


@dataclass(frozen=True)
class Pace:
    """How long a lap is: so many steps, or about so many seconds."""

    seconds: float = 3.0
    steps: int | None = None


@dataclass(frozen=True)
class Contestant:
    """Who trains: a process of `usual` or `bench` has one replica, one of `stacked` several in one model."""

    name: str
    loop: str  # usual, bench or stacked
    processes: int = 1
    replicas: int = 1  # of each process
    precision: str = "fp32"


@dataclass(frozen=True)
class Task:
    """What a contestant trains on: a run, uint8 images [N, 28, 28], labels [N], and the usual loop's file."""

    run: Run
    images: Tensor
    labels: Tensor
    device: torch.device
    usual: Path | None = None

    @property
    def per_epoch(self) -> int:
        """Whole batches of an epoch."""
        return len(self.images) // self.run.batch_size


@dataclass(frozen=True)
class Lap:
    """One contestant's measurement; `images` counts those of all replicas."""

    images: int
    seconds: float  # from the first process's start to the last one's end
    steps: int  # of each replica
    threads: int  # of each process
    peak_mb: float  # the largest process's peak resident set, or the accelerator's
    healthy: bool  # all threads together were faster than one, before and after
    peaks: Peaks | None = (
        None  # in fp32, of the same processes right after, all at once; None on accelerators
    )

    @property
    def rate(self) -> float:
        """Images a second, over all replicas."""
        return self.images / self.seconds


def lap(contestant: Contestant, task: Task, pace: Pace) -> Lap:
    """Fresh processes, one lap. Raises BenchError where one of them dies."""
    context = mp.get_context("spawn")
    cores = available_cores()
    pinned = contestant.loop == "bench" and contestant.processes == len(cores)  # as `bench run` does
    lines: list[Connection] = []
    processes: list[Any] = []
    try:
        for i in range(contestant.processes):
            here, there = context.Pipe()
            core = cores[i] if pinned else None
            process = context.Process(target=_work, args=(there, contestant, task, pace, core), daemon=True)
            process.start()
            there.close()
            lines.append(here)
            processes.append(process)
        steps = min(_heard(line, contestant) for line in lines)  # what the slowest has time for
        for line in lines:
            line.send(steps)
        told = [_heard(line, contestant) for line in lines]
        for line in lines:
            line.send(None)  # all have ended: now for the peaks
        peaks = [_heard(line, contestant) for line in lines]
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process, line in zip(processes, lines, strict=True):
            process.join(timeout=10)
            line.close()
    starts, ends, taken, threads, memory, gains = zip(*told, strict=True)
    return Lap(
        images=sum(taken) * task.run.batch_size * contestant.replicas,
        seconds=max(ends) - min(starts),
        steps=taken[0],
        threads=threads[0],
        peak_mb=max(memory),
        healthy=min(gains) > UNHEALTHY,
        peaks=None if None in peaks else Peaks.together(peaks),
    )


def _heard(line: Connection, contestant: Contestant) -> Any:
    try:
        return line.recv()
    except (EOFError, ConnectionResetError):
        raise BenchError(
            f"a process of {contestant.name!r} died while it trained; its message is above"
        ) from None


def _work(line: Connection, contestant: Contestant, task: Task, pace: Pace, core: int | None) -> None:
    """A process's life: warm up, say how many steps it has time for, train the steps it is told."""
    if contestant.loop != "usual":
        deterministic()
        one_thread(task.device)
    if core is not None:
        pin(core)
    side = torch.cuda.stream(torch.cuda.Stream(task.device)) if task.device.type == "cuda" else nullcontext()
    with side:  # CUDA's default stream can't be captured
        train = LOOPS[contestant.loop](contestant, task)
        train(min(WARM_UP, pace.steps or WARM_UP))
        line.send(pace.steps or _steps_in(pace.seconds, train, task.device))
        steps = line.recv()
        gain = gemm_gain() if task.device.type == "cpu" else math.inf
        started = time.monotonic()  # one clock for all processes
        steps = train(steps)
        synchronise(task.device)
        ended = time.monotonic()
        peak = peak_memory_mb(task.device)
        gain = min(gain, gemm_gain()) if task.device.type == "cpu" else gain
    line.send((started, ended, steps, torch.get_num_threads(), peak, gain))
    line.recv()
    fp32_on_cpu = task.device.type == "cpu" and contestant.precision == "fp32"
    line.send(measure_peaks(work_of(task.run).state) if fp32_on_cpu else None)


def _steps_in(seconds: float, train: Train, device: torch.device) -> int:
    synchronise(device)
    started = time.monotonic()
    steps = train(PACED)
    synchronise(device)
    return max(1, int(seconds / (time.monotonic() - started) * steps))


def _usual(contestant: Contestant, task: Task) -> Train:
    """The usual loop, from its file: it is no part of the package."""
    assert task.usual is not None
    spec = importlib.util.spec_from_file_location("usual_loop", task.usual)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name, batch = task.run.variant, task.run.batch_size
    whole = task.per_epoch * batch
    images = module.Images(task.images[:whole], task.labels[:whole], module.transform(name))
    loop = module.UsualLoop(name, images, batch, str(task.device))

    def train(steps: int) -> int:
        loop.train(steps)
        return steps

    return train


def _bench(contestant: Contestant, task: Task) -> Train:
    """One replica, as `bench.engine.train.train` steps it, less the evaluation between epochs."""
    run = task.run.model_copy(update={"precision": contestant.precision})
    model = untrained(run).to(task.device).train()
    step = make_step(run, model)
    images = task.images.flatten(1).to(task.device)

    def train(steps: int) -> int:
        for epoch, start in enumerate(range(0, steps, task.per_epoch), 1):
            now = min(task.per_epoch, steps - start)
            sums, _ = one_epoch(run, step, images[: now * run.batch_size], epoch)
            sums.tolist()  # an epoch's one host sync
        return steps

    return train


def _stacked(contestant: Contestant, task: Task) -> Train:
    """Several replicas as one model, as `bench.engine.replicas.train_stacked` steps them, in whole epochs."""
    runs = [
        task.run.model_copy(update={"seed": seed, "precision": contestant.precision})
        for seed in range(contestant.replicas)
    ]
    run, images = runs[0], task.images.flatten(1)[: task.per_epoch * task.run.batch_size].to(task.device)
    stacked = stack([untrained(r).to(task.device) for r in runs]).train()
    step = StackedStep(
        stacked,
        objective_of(run),
        lambda parameters: OPTIMIZERS[run.optimizer.name](parameters, **run.optimizer.options),
        run.precision,
    )
    loop, epochs, rate = (
        Loop(runs, [images] * len(runs), step),
        count(1),
        step.optimizer.param_groups[0]["lr"],
    )

    def train(steps: int) -> int:
        whole = max(1, round(steps / task.per_epoch))
        for epoch in islice(epochs, whole):
            loop.epoch(epoch, rate)[0].tolist()
        return whole * task.per_epoch

    return train


LOOPS = {"usual": _usual, "bench": _bench, "stacked": _stacked}
