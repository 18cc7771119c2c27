"""How long runs will take here: a few steps of each distinct kind are timed before the matrix starts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable

import torch

from bench.data.dataset import Dataset
from bench.engine.device import one_thread, synchronise
from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.engine.own import samples_of
from bench.evaluation.bound import decodes
from bench.evaluation.measure import EXPECTATION_SAMPLES
from bench.parts.lookup import objective_of
from bench.spec.experiment import PARTS, Run

TIMED = 24  # kinds of runs that are timed: a second or two
ROWS = 1000  # decoded at once when the evaluation's speed is measured
FIXED = 1.0  # seconds a run spends on what does not grow with it: pictures, probes of a small set, files


def forecast(runs: Iterable[Run], data: Dataset, device: torch.device) -> list[float]:
    """Predict the seconds of each run on one worker, from timing its step and its model on this device.

    Training is steps times the time of a step; evaluation is dominated by decoding. Of more than TIMED kinds
    of runs some are timed, as far apart in the matrix as they can be; each stands for those that follow it.
    """
    one_thread(device)  # as the workers do
    runs = list(runs)
    kinds = [_kind(run) for run in runs]
    firsts = dict(zip(reversed(kinds), reversed(runs), strict=True))
    order = list(dict.fromkeys(kinds))
    every = max(1, -(-len(order) // TIMED))
    timed = [_measure(firsts[kind], data.shape, device) for kind in order[::every]]
    known = {kind: timed[i // every] for i, kind in enumerate(order)}
    seconds = []
    for run, kind in zip(runs, kinds, strict=True):
        step, decode = known[kind]
        steps = run.epochs * -(-len(data.train_images) // run.batch_size)
        decoded = len(data.test_images) * (EXPECTATION_SAMPLES + 3 * run.epochs)
        decoded += decodes(len(data.test_images), run.latent, run.importance_samples)
        seconds.append(steps * step + decoded * decode + FIXED)
    return seconds


def _kind(run: Run) -> str:
    """What the time of a step and of decoding depends on."""
    facts = run.model_dump(include={*PARTS, "latent", "batch_size", "precision"})
    for kind in ("likelihood", "objective", "optimizer", "schedule"):  # β and the like change no time
        options = facts[kind]["options"].items()
        facts[kind]["options"] = {key: value for key, value in options if not isinstance(value, float)}
    return json.dumps(facts)


def _measure(run: Run, shape: tuple[int, ...], device: torch.device) -> tuple[float, float]:
    """Seconds of one optimisation step, and of decoding and scoring one image."""
    model = untrained(run, shape).to(device)
    step = make_step(run, model)
    grey = torch.rand(run.batch_size, math.prod(shape), device=device)
    noise = torch.randn(samples_of(objective_of(run)), run.batch_size, run.latent, device=device)
    z = torch.randn(ROWS, run.latent, device=device)
    seconds_step = _time(lambda: step(grey, noise), 6, device)
    with torch.no_grad():
        seconds_decode = _time(lambda: model.grey_mean(model.decode(z)).log().sum(), 2, device) / ROWS
    return seconds_step, seconds_decode


def _time(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    for _ in range(2):  # warm-up: allocation, kernel choice
        call()
    synchronise(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - started) / repeats
