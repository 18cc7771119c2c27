"""The training loop: batches are indices into images that live on the device; one host sync an epoch.

Shapes: N images, B images a batch, D pixels, Z latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from bench.engine.checkpoint import State, optimizer_tensors, restore_optimizer
from bench.engine.device import keep_freed_memory, stream, synchronise, wide
from bench.engine.fast import FastStep, accepts
from bench.engine.images import Images
from bench.engine.own import OwnTerms, own_terms
from bench.engine.step import ReferenceStep, Step
from bench.parts.files import part_class
from bench.parts.objectives import OBJECTIVES, Elbo
from bench.parts.optimizers import OPTIMIZERS, SCHEDULES
from bench.parts.vae import VAE
from bench.spec.experiment import Run

Row = dict[str, float | int | None]


@dataclass
class Training:
    """What training leaves behind.

    One row of the curves an epoch, the engine, and the last finite weights. `replicas` runs were trained as
    one and share its seconds equally; `note` says why the engine is not a faster one.
    """

    engine: str
    replicas: int = 1
    note: str | None = None
    curves: list[Row] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds inside training epochs."""
        return sum(float(row["train_seconds"] or 0) for row in self.curves)


class DivergedError(Exception):
    """A loss term stopped being finite. `training` holds the curves and weights of the last finite epoch."""

    def __init__(self, epoch: int, term: str, training: Training) -> None:
        super().__init__(f"{term} became non-finite in epoch {epoch}")
        self.epoch = epoch
        self.term = term
        self.training = training


def objective_of(run: Run) -> Elbo:
    """The run's objective."""
    options: dict[str, Any] = run.objective.options
    return part_class(OBJECTIVES, run.objective)(**options)


def train(
    run: Run,
    model: VAE,
    images: Images,
    on_epoch: Callable[[Row, VAE], Any],
    start: State | None = None,
    keep: Callable[[State], Any] = lambda state: None,
) -> Training:
    """Train a model that is on the images' device; call `on_epoch` with each new row of the curves.

    After that `keep` is given the state; from such a state, as `start`, training goes on to the bits that it
    would have come to. Raises DivergedError at the end of the epoch in which a term of the loss stopped being
    finite.
    """
    device = images.train.device
    objective = objective_of(run)
    step = make_step(run, model)
    schedule = part_class(SCHEDULES, run.schedule)(step.optimizer, **run.schedule.options)
    training = Training(step.engine)
    if start:
        model.load_state_dict(start.model)
        restore_optimizer(step.optimizer, [start.optimizer], stacked=False)
        restore_schedule(schedule, start)
        training.curves, training.weights = [*start.curves], start.model
    test_noise = evaluation_noise(run.seed, len(images.test), run.latent, device)
    for epoch in range(len(training.curves) + 1, run.epochs + 1):
        learning_rate = float(schedule.get_last_lr()[0])
        model.train()
        synchronise(device)
        started = time.perf_counter()
        sums, seen = one_epoch(run, step, images.train, epoch)
        reconstruction, kl = (sums / seen).tolist()  # the epoch's one host sync
        seconds = time.perf_counter() - started
        schedule.step()
        check_finite(epoch, "training", reconstruction, kl, training)
        # Judge the epoch: test set with the same noise every epoch, validation set where one is held out
        test = own_terms(model, objective, images.test, test_noise, run.batch_size)
        check_finite(epoch, "test", test.loss_reconstruction, test.loss_kl, training)
        held_out = None
        if images.validation is not None:
            noise = evaluation_noise(run.seed, len(images.validation), run.latent, device)
            held_out = own_terms(model, objective, images.validation, noise, run.batch_size)
        cost = {"learning_rate": learning_rate, "train_seconds": seconds, "images_per_second": seen / seconds}
        row = curve_row(run, epoch, (reconstruction, kl), test, held_out, images.train.shape[1]) | cost
        training.curves.append(row)
        training.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        on_epoch(row, model)
        tensors = optimizer_tensors(step.optimizer)
        keep(State(epoch, training.weights, tensors, schedule.state_dict(), training.curves))
    return training


def restore_schedule(schedule: LRScheduler, start: State) -> None:
    """Bring a schedule, and the learning rate that it gave its optimizer, to where they were."""
    schedule.load_state_dict(start.schedule)
    for group, rate in zip(schedule.optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def curve_row(
    run: Run,
    epoch: int,
    means: tuple[float, float],
    test: OwnTerms,
    held_out: OwnTerms | None,
    pixels: int,
) -> Row:
    """One row of the curves, less what the epoch cost.

    Of the training loss's two terms averaged over images, and the own terms of test and validation set.
    """
    objective = objective_of(run)
    return {
        "epoch": epoch,
        "train_loss": objective.as_written(*means, run.batch_size, pixels, run.latent),
        "train_loss_nats": means[0] + objective.beta_eff(run.batch_size, pixels, run.latent) * means[1],
        "test_loss": test.test_loss,
        "test_loss_nats": test.test_loss_nats,
        "validation_loss": held_out.test_loss if held_out else None,
        "validation_loss_nats": held_out.test_loss_nats if held_out else None,
        "elbo": test.elbo,
        "reconstruction": test.reconstruction,
        "kl": test.kl,
    }


def check_finite(epoch: int, where: str, reconstruction: float, kl: float, training: Training) -> None:
    """Raise DivergedError for a term that is not finite."""
    for term, value in (("reconstruction", reconstruction), ("kl", kl)):
        if not math.isfinite(value):
            raise DivergedError(epoch, f"{where} {term}", training)


def make_step(run: Run, model: VAE) -> Step:
    """The fast step where it covers the run's parts, else the reference step."""

    def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return part_class(OPTIMIZERS, run.optimizer)(parameters, **run.optimizer.options)

    keep_freed_memory()  # a step's activations come and go, always the same
    if accepts(model, run.precision):
        return FastStep(model, objective_of(run), optimizer, run.precision)
    return ReferenceStep(model, objective_of(run), optimizer, run.precision)


def evaluation_noise(seed: int, count: int, latent: int, device: torch.device) -> Tensor:
    """Standard normal noise [N, Z] that a set is judged with: the same each epoch and in every variant."""
    return torch.randn(count, latent, generator=stream(seed, "evaluation")).to(device)


def batches(run: Run, count: int, epoch: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The epoch's batches, as indices [B], of a permutation that is the same in every variant.

    Each (seed, epoch) has its own; without shuffling the order is the data set's.
    """
    if run.shuffle:
        order = torch.randperm(count, generator=stream(run.seed, "order", epoch))
    else:
        order = torch.arange(count)
    order = order.to(device)
    stop = count - count % run.batch_size if run.drop_last else count
    for start in range(0, stop, run.batch_size):
        yield order[start : min(start + run.batch_size, stop)]


def one_epoch(run: Run, step: Step, images: Tensor, epoch: int) -> tuple[Tensor, int]:
    """One pass over uint8 images [N, D]: sums of the loss terms [2], on the device, and the image count."""
    device = images.device
    noise_stream = stream(run.seed, "noise", epoch, device)
    sums = torch.zeros(2, dtype=wide(device), device=device)
    # Every batch lies in the same memory: fresh pages cost more than gathering into them
    rows = images.new_empty(run.batch_size, images.shape[1])
    grey = torch.empty(rows.shape, device=device)
    seen = 0
    for index in batches(run, len(images), epoch, device):
        count = len(index)
        torch.index_select(images, 0, index, out=rows[:count])
        grey[:count].copy_(rows[:count]).div_(255)
        noise = torch.randn(count, run.latent, generator=noise_stream, device=device)
        sums += step(grey[:count], noise)
        seen += count
    return sums, seen
