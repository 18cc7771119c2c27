"""How long runs will take here: a few steps of each kind, and shares of its evaluation, are timed."""

from __future__ import annotations

import json
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from bench.data.dataset import Dataset, held_out
from bench.engine.epochs import Epochs, Step, images_per_epoch
from bench.engine.fast import FastStep
from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.engine.own import CHUNK, own_noise, term_means
from bench.evaluation.cost import Common, Cost, seconds_of
from bench.evaluation.quadrature import MOST_LATENTS
from bench.parts.lookup import objective_of
from bench.pictures.shown import POINTS, epochs_shown
from bench.spec.experiment import PARTS, Run

TIMED = 24  # kinds of runs that are timed at most, some seconds in all
PATIENCE = 6.0  # processor seconds after the first kind, after which no further one is timed
BF16_PATIENCE = 2.0  # the same of bf16 beside fp32, which only a hint is for
STEPS = 4  # of training that are timed
PICTURE = 0.1  # seconds that the pictures of an epoch take
LAST_PICTURES = 0.5  # seconds that those at the end take
TSNE = 0.0045  # seconds a point of t-SNE takes
FIXED = 0.3  # seconds a run spends on what does not grow with it: its model, its files


Found = TypeVar("Found")
Kind = tuple[str, ...]  # the facts that a time depends on, always the same ones


@dataclass(frozen=True)
class Pace:
    """What every kind of run is timed for, seconds: a step, and judging an image after an epoch."""

    step: float
    judged: float


def forecast(
    runs: Sequence[Run],
    data: Dataset,
    device: torch.device,
    common: Common,
    known: Mapping[str, float] | None = None,
    full: int = 0,
) -> list[float]:
    """Predict the seconds of each run on one worker, from timing its step and shares of its evaluation here.

    `known` holds the seconds of runs done before, by `setting`: those are taken as they are. Of many kinds
    some are timed, as far apart among their likes as they can be; each stands for its neighbours, and in the
    evaluation by how much slower these judge an image. Runs of the seed `full` draw t-SNE too.
    """
    known = known or {}
    names = [setting(run) for run in runs]
    kinds = {name: _kind(run) for name, run in zip(names, runs, strict=True) if name not in known}
    firsts = {kinds[name]: run for name, run in zip(names, runs, strict=True) if name in kinds}
    paces = {
        kind: pace for kind, (_, pace) in _standing(firsts, partial(_pace, data=data, device=device)).items()
    }
    costs = _costs(firsts, paces, data, device)

    def seconds(name: str, run: Run) -> float:
        if name in known:
            return known[name]
        pace, images, aside = paces[kinds[name]], len(data.train_images), held_out(data, run.validation)
        trained = -(-images_per_epoch(run, images - aside) // run.batch_size) * pace.step
        judged = (len(data.test_images) + aside) * pace.judged
        evaluation = costs[kinds[name]].seconds(data, run.latent, run.importance_samples, common)
        pictures = PICTURE * len(epochs_shown(run.epochs)) + LAST_PICTURES
        return run.epochs * (trained + judged) + evaluation + pictures + FIXED

    pairs = zip(names, runs, strict=True)
    return [seconds(name, run) + tsne_seconds(run, data, full) for name, run in pairs]


def tsne_seconds(run: Run, data: Dataset, full: int) -> float:
    """Say how long t-SNE takes of runs of the seed `full`, and of no others."""
    return TSNE * min(POINTS, len(data.test_images)) if run.seed == full and run.latent > 2 else 0.0


def setting(run: Run) -> str:
    """Name all that the time of a run depends on: everything but its seed."""
    return run.model_dump_json(exclude={"seed", "variant"})


def _kind(run: Run) -> Kind:
    """What the time of a step and of the evaluation depends on; what is alike begins alike."""
    facts = run.model_dump(include={*PARTS, "latent", "batch_size", "precision", "importance_samples"})
    for kind in ("likelihood", "objective", "optimizer", "schedule"):  # β and the like change no time
        options = facts[kind]["options"].items()
        facts[kind]["options"] = {key: value for key, value in options if not isinstance(value, float)}
    first = ("encoder", "decoder", "model", "latent")
    ordered = {key: facts.get(key) for key in first} | facts
    return tuple(json.dumps(fact) for fact in ordered.values())


def _costs(
    firsts: Mapping[Kind, Run], paces: Mapping[Kind, Pace], data: Dataset, device: torch.device
) -> dict[Kind, Cost]:
    """Time shares of the evaluation: apart for few latents, whose ln p(b) is integrated, and for many."""
    costs = {}
    for few in (True, False):
        group = {kind: run for kind, run in firsts.items() if (run.latent <= MOST_LATENTS) == few}
        for kind, (timed, cost) in _standing(group, partial(_cost, data=data, device=device)).items():
            of_timed = paces[timed].judged  # nothing, to a coarse clock
            costs[kind] = cost.times(paces[kind].judged / of_timed) if of_timed else cost
    return costs


def _standing(kinds: Mapping[Kind, Run], measure: Callable[[Run], Found]) -> dict[Kind, tuple[Kind, Found]]:
    """Measure a run of each kind until enough is known or the time for it is spent.

    Gives for each kind the one that stands for it, itself where it was measured, and what that gave: of those
    with the most facts in common the nearest in order.
    """
    order = sorted(kinds)
    started = math.inf
    timed: dict[int, Found] = {}
    for place in _apart(len(order)):
        if len(timed) == TIMED or time.process_time() - started > PATIENCE:
            break
        timed[place] = measure(kinds[order[place]])
        started = min(started, time.process_time())  # from here on: the first one imports what all share

    def unlike(place: int, other: int) -> tuple[int, int]:
        differences = sum(map(operator.ne, order[place], order[other]))
        return differences, abs(place - other)

    near = [min(timed, key=partial(unlike, other=i)) for i in range(len(order))]
    return {kind: (order[place], timed[place]) for kind, place in zip(order, near, strict=True)}


def _apart(count: int) -> list[int]:
    """Order the places 0 to count − 1 such that the first of them, however many, lie far apart."""
    size = 1 << max(count - 1, 0).bit_length()
    reversed_bits = (int(f"{i:0{size.bit_length() - 1}b}"[::-1], 2) if size > 1 else 0 for i in range(size))
    return [place for place in reversed_bits if place < count]


def _pace(run: Run, data: Dataset, device: torch.device) -> Pace:
    """Time a step and an image judged of one kind of run."""
    model = untrained(run, data.shape).to(device)
    objective = objective_of(run)
    step = _step_seconds(run, make_step(run, model), data, device)
    test = data.test_images[: CHUNK // 2].flatten(1).to(device)
    noise = own_noise(run, objective, len(test), device)
    judged = seconds_of(lambda: term_means(model, objective, test, noise, run.batch_size), device)
    return Pace(step, judged / len(test))


def _cost(run: Run, data: Dataset, device: torch.device) -> Cost:
    """Time the shares of the evaluation of one kind of run."""
    return Cost.of(untrained(run, data.shape).to(device), data, device)


def _step_seconds(run: Run, step: Step, data: Dataset, device: torch.device) -> float:
    """Time a step of training."""
    train = data.train_images[: STEPS * run.batch_size].flatten(1).to(device)
    epochs = Epochs([run], [train], step)
    steps = max(1, images_per_epoch(run, len(train)) // run.batch_size)
    step.model.train()
    return seconds_of(lambda: epochs.epoch(1), device) / steps


def bf16_shares(runs: Sequence[Run], data: Dataset, device: torch.device) -> dict[str, float]:
    """Time a step in bf16 over the same in fp32, by variant, whatever precision the run has.

    Said of the variants whose step rounds large layers, on a CPU: for no others is bf16 both faster and shown
    to be as good. On a processor without instructions for it, the share is 10 and more.
    """
    found: dict[str, float] = {}
    shares: dict[Kind, float | None] = {}
    started = time.process_time()
    variants = {run.variant: run for run in runs}.values()
    for run in variants if device.type == "cpu" else ():
        kind = _kind(run.model_copy(update={"precision": "bf16"}))
        if kind not in shares and len(shares) < TIMED and time.process_time() - started < BF16_PATIENCE:
            shares[kind] = _bf16_share(run, data, device)
        if share := shares.get(kind):
            found[run.variant] = share
    return found


def _bf16_share(run: Run, data: Dataset, device: torch.device) -> float | None:
    """Time both precisions of one run; None where bf16 would round nothing, or not in the fast step."""
    bf16, fp32 = (run.model_copy(update={"precision": precision}) for precision in ("bf16", "fp32"))
    step = make_step(bf16, untrained(bf16, data.shape))
    if not isinstance(step, FastStep) or not step.rounded:
        return None
    other = make_step(fp32, untrained(fp32, data.shape))
    return _step_seconds(bf16, step, data, device) / _step_seconds(fp32, other, data, device)
