"""The training loop: R runs that differ in their seed only, each epoch trained, judged, told of and kept.

Batches are indices into images that live on the device. The host waits for the device twice an epoch, for all
replicas: for the training loss and the clock, and for the numbers that the epoch is judged by.

Shapes: R replicas, K samples of z an image, N images, D pixels, Z latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from bench.engine.checkpoint import State, optimizer_tensors, restore_optimizer
from bench.engine.device import keep_freed_memory, synchronise
from bench.engine.drawn import fixed_draw
from bench.engine.epochs import Epochs, Step, images_per_epoch
from bench.engine.fast import FastStep, refusal
from bench.engine.images import Images
from bench.engine.own import OwnTerms, in_words, losses, own_noise, term_means
from bench.engine.stacked import StackedVAE, stack, unstack
from bench.engine.step import ReferenceStep
from bench.parts.lookup import find, make, objective_of
from bench.parts.optimizers import ELEMENTWISE
from bench.parts.protocols import Objective
from bench.parts.vae import VAE
from bench.spec.experiment import Run

Row = dict[str, float | int | None]
OnEpoch = Callable[[int, Row, VAE], Any]  # a replica, its new row of the curves, its model
Keep = Callable[[int, State], Any]  # a replica, and its state after an epoch


class Divergence(NamedTuple):
    """Where a run stopped being finite: the epoch, and the term of the loss."""

    epoch: int
    term: str


class Judged(NamedTuple):
    """What epochs are judged on: images [N, D], noise [K, N, Z], and for a drawn target the images drawn."""

    images: Tensor
    noise: Tensor
    drawn: Tensor | None


@dataclass
class Training:
    """What training leaves behind: a row of the curves for each epoch, and the weights to be measured.

    These are of the epoch `chosen`: the last or, with patience, the best on validation images. `replicas`
    runs were trained as one and share its seconds equally. `note` says why the engine is not a faster one.
    A run that `diverged` has the curves and weights of its finite epochs.
    """

    engine: str
    replicas: int = 1
    note: str | None = None
    curves: list[Row] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    chosen: int = 0  # 0 where no epoch was finite
    diverged: Divergence | None = None

    @property
    def seconds(self) -> float:
        """Seconds inside training epochs."""
        return sum(float(row["train_seconds"] or 0) for row in self.curves)

    def take(self, run: Run, row: Row, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take in an epoch; return the weights chosen before, where they are still better than its own."""
        self.curves.append(row)
        self.chosen = chosen_epoch(run.patience, self.curves)
        if self.chosen < len(self.curves):
            return self.weights
        self.weights = weights
        return {}

    def over(self, run: Run) -> bool:
        """Tell whether it ended before the run's last epoch: it diverged, or its patience is exhausted."""
        return self.diverged is not None or 0 < run.patience <= len(self.curves) - self.chosen


def train(
    runs: Sequence[Run],
    models: Sequence[VAE],
    images: Sequence[Images],
    on_epoch: OnEpoch,
    starts: Sequence[State] = (),
    keep: Keep = lambda replica, state: None,
    *,
    stacked: bool = False,
) -> list[Training]:
    """Train runs that differ in their seed only: one run, or any number of them `stacked` as one model.

    Models are on their images' device. `on_epoch` is told each new row of the curves, then `keep` is given
    the state. From such states of one epoch, as `starts`, training goes on to the bits that it would have
    come to. A replica that diverges or runs out of patience is told of no more and changes no other.
    """
    run, objective = runs[0], objective_of(runs[0])
    # Begin, or go on from where each run was
    for model, start in zip(models, starts, strict=bool(starts)):
        model.load_state_dict(start.model)
    whole = stack(models, objective) if stacked else models[0]
    step = make_step(run, whole)
    schedule: LRScheduler = make("schedule", run.schedule, step.optimizer)
    epochs = Epochs(runs, [i.train for i in images], step)
    trainings = [Training(epochs.engine, len(runs), epochs.note) for _ in runs]
    if starts:
        _resume(run, starts, trainings, schedule, stacked=stacked)
    sets = _judged(runs, whole, objective, images, stacked=stacked)
    for epoch in range((starts[0].epoch if starts else 0) + 1, run.epochs + 1):
        if all(training.over(run) for training in trainings):
            break
        means, cost = _train_epoch(epochs, epoch)
        schedule.step()
        judged = _judge(run, whole, objective, sets, epoch * images_per_epoch(run, epochs.count))
        for r, training in enumerate(trainings):
            if training.over(run):
                continue
            training.engine, training.note = epochs.engine, epochs.note
            row = _row(run, objective, epoch, means[r], judged[r], images[r]) | cost
            training.diverged = _divergence(epoch, means[r], row, judged[r][0])
            if training.diverged:
                continue
            # Tell and keep
            weights = _weights(whole, r, models[r])
            best = training.take(run, row, weights)
            on_epoch(r, row, models[r])
            tensors = optimizer_tensors(step.optimizer, r if stacked else None)
            keep(r, State(epoch, weights, tensors, schedule.state_dict(), training.curves, best=best))
    _leave(models, trainings)
    return trainings


def chosen_epoch(patience: int, curves: Sequence[Mapping[str, Any]]) -> int:
    """Choose the epoch to measure: the last or, with patience, the first of the lowest validation loss."""
    held_out = [row["validation_loss"] for row in curves]
    return held_out.index(min(held_out)) + 1 if patience and held_out else len(curves)


def make_step(run: Run, model: VAE) -> Step:
    """Make the step of a run: stacked of a stacked model, fast where that covers its parts, else reference.

    Raises TypeError where a stacked model's optimizer has no stacked form.
    """
    keep_freed_memory()  # a step's activations come and go, always the same
    objective, optimizer = objective_of(run), partial(make, "optimizer", run.optimizer)
    mixing = None if find("optimizer", run.optimizer) in ELEMENTWISE else f"optimizer {run.optimizer.name}"
    mixing = "clip_norm" if run.clip_norm else mixing
    stacked = isinstance(model, StackedVAE)
    if stacked and mixing:
        raise TypeError(f"{mixing} has no stacked form")
    why = f"{mixing} may need the parameters apart" if mixing else refusal(model, objective, run.precision)
    if not stacked and why is None:
        return FastStep(model, objective, optimizer, run.precision)
    step = ReferenceStep(model, objective, optimizer, run.precision, run.clip_norm)
    step.engine, step.note = ("stacked", None) if stacked else ("reference", f"reference: {why}")
    return step


def _resume(
    run: Run, starts: Sequence[State], trainings: Sequence[Training], schedule: LRScheduler, *, stacked: bool
) -> None:
    """Bring curves, weights, schedule and its optimizer to where they were."""
    for training, start in zip(trainings, starts, strict=True):
        training.curves, training.weights = [*start.curves], start.best or start.model
        training.chosen = chosen_epoch(run.patience, training.curves)
    restore_optimizer(schedule.optimizer, [start.optimizer for start in starts], stacked=stacked)
    made = schedule.state_dict()
    # JSON has made text of the keys of a mapping, such as torch's milestones: the options say it again
    same = {key for key, value in made.items() if isinstance(value, dict)}
    schedule.load_state_dict({key: v for key, v in starts[0].schedule.items() if key not in same})
    for group, rate in zip(schedule.optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def _weights(whole: VAE, replica: int, model: VAE) -> dict[str, Tensor]:
    """Copy the weights of a replica, and bring them to its own model."""
    if isinstance(whole, StackedVAE):
        unstack(whole, replica, model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _leave(models: Sequence[VAE], trainings: Sequence[Training]) -> None:
    """Leave each model with its training's weights, if it has some."""
    for model, training in zip(models, trainings, strict=True):
        if training.weights:
            model.load_state_dict(training.weights)


def _train_epoch(epochs: Epochs, epoch: int) -> tuple[list[list[float]], Row]:
    """Train an epoch: averages of the loss's terms for each replica, and what the epoch cost each."""
    rate = float(epochs.step.optimizer.param_groups[0]["lr"])
    epochs.step.model.train()
    synchronise(epochs.device)
    started = time.perf_counter()
    sums, seen = epochs.epoch(epoch)
    means = (sums / seen).tolist()  # training's one host sync an epoch
    seconds = (time.perf_counter() - started) / len(epochs.runs)
    return means, {"learning_rate": rate, "train_seconds": seconds, "images_per_second": seen / seconds}


def _judged(
    runs: Sequence[Run], model: VAE, objective: Objective, images: Sequence[Images], *, stacked: bool
) -> list[Judged]:
    """Give what each epoch is judged by: the test set, and validation sets held out."""
    sets = [images[0].test]
    held_out = [i.validation for i in images if i.validation is not None]
    if held_out:
        sets.append(torch.stack(held_out) if stacked else held_out[0])
    noise = [[own_noise(run, objective, s.shape[-2], s.device) for run in runs] for s in sets]
    return [
        Judged(s, torch.stack(n, 1) if stacked else n[0], fixed_draw(model, s))
        for s, n in zip(sets, noise, strict=True)
    ]


def _judge(
    run: Run, model: VAE, objective: Objective, sets: Sequence[Judged], seen: int
) -> list[list[OwnTerms]]:
    """Judge each replica on each set, after so many training images: one host sync for all."""
    means = [term_means(model, objective, s, noise, run.batch_size, seen, drawn) for s, noise, drawn in sets]
    pixels = sets[0].images.shape[-1]
    table = torch.stack([m.view(-1, m.shape[-1]) for m in means], 1).tolist()
    return [[in_words(m, model, objective, pixels, run.batch_size) for m in of_sets] for of_sets in table]


def _row(
    run: Run, objective: Objective, epoch: int, means: list[float], judged: list[OwnTerms], images: Images
) -> Row:
    """Make a row of the curves, less what the epoch cost; `means` are the training loss's terms."""
    loss, nats = losses(objective, means, run.batch_size, images.train.shape[1], run.latent)
    test, held_out = judged[0], judged[1] if len(judged) > 1 else None
    return {
        "epoch": epoch,
        "train_loss": loss,
        "train_loss_nats": nats,
        "test_loss": test.test_loss,
        "test_loss_nats": test.test_loss_nats,
        "validation_loss": held_out.test_loss if held_out else None,
        "validation_loss_nats": held_out.test_loss_nats if held_out else None,
        "elbo": None if math.isnan(test.elbo) else test.elbo,
        "reconstruction": test.reconstruction,
        "kl": None if math.isnan(test.kl) else test.kl,
    }


def _divergence(epoch: int, means: list[float], row: Row, test: OwnTerms) -> Divergence | None:
    """Name the first term of the loss that is not finite, if there is one."""
    terms = {
        "training reconstruction": means[0],
        "training kl": means[1],
        "training loss": row["train_loss"],
        "test reconstruction": test.loss_reconstruction,
        "test kl": test.loss_kl,
        "test loss": test.test_loss,
        "validation loss": row["validation_loss"],
    }
    found = (term for term, value in terms.items() if not math.isfinite(value or 0))
    return next((Divergence(epoch, term) for term in found), None)
