"""The training loop of the seeds of a variant together: one step for all, captured once on CUDA and replayed.

Each replica keeps the streams it would have alone: its initialisation, data order, noise and evaluation noise
are drawn from its own seed, batch by batch, so that a replica is the same in any company up to the rounding
of sums that the device adds up in another order. On CUDA the step is captured once for each batch size after
a few ordinary steps, and replayed; the first kernels of a step are R draws of noise and a copy of indices.

Shapes: R replicas, N images, B images a batch, D pixels, Z latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.engine.checkpoint import State, optimizer_tensors, restore_optimizer
from bench.engine.device import stream, synchronise, wide
from bench.engine.images import Images
from bench.engine.own import OwnTerms, in_words, term_means
from bench.engine.stacked import StackedStep, stack, unstack
from bench.engine.train import (
    DivergedError,
    Row,
    Training,
    batches,
    check_finite,
    curve_row,
    evaluation_noise,
    objective_of,
    restore_schedule,
)
from bench.parts.files import part_class
from bench.parts.optimizers import OPTIMIZERS, SCHEDULES
from bench.parts.vae import VAE
from bench.spec.experiment import Run

WARM_UP = (
    3  # ordinary steps of a batch size before its capture: libraries choose kernels and allocate in them
)

OnEpoch = Callable[[int, Row, VAE], Any]  # a replica, its new row of the curves, its model
Keep = Callable[[int, State], Any]  # a replica, and its state after an epoch


def train_stacked(
    runs: Sequence[Run],
    models: Sequence[VAE],
    images: Sequence[Images],
    on_epoch: OnEpoch,
    starts: Sequence[State] = (),
    keep: Keep = lambda replica, state: None,
) -> list[Training | DivergedError]:
    """Train R runs that differ in their seed only as one model: `bench.engine.train.train` for each of them.

    Models are ordinary ones on their images' device, and hold the last finite weights in the end. A replica
    that diverges ends with the error that it would have raised; it goes on unseen in slices of its own, which
    leaves the others what they are. Seconds of a replica are the group's divided by R. `starts`, all of one
    epoch, and `keep` are those of `bench.engine.train.train`.
    """
    group = _Group(runs, models, images, starts)
    for epoch in range((starts[0].epoch if starts else 0) + 1, runs[0].epochs + 1):
        if len(group.diverged) < len(runs):
            group.epoch(epoch, on_epoch, keep)
    for training in group.trainings:
        training.engine, training.note = group.loop.engine, group.loop.note
    return [group.diverged.get(r, training) for r, training in enumerate(group.trainings)]


class _Group:
    """R replicas in training, and what each has come to."""

    def __init__(
        self, runs: Sequence[Run], models: Sequence[VAE], images: Sequence[Images], starts: Sequence[State]
    ) -> None:
        for model, start in zip(models, starts, strict=bool(starts)):
            model.load_state_dict(start.model)
        self.run = runs[0]  # but for the seed, every run's settings
        self.models = models
        self.test = images[0].test
        self.device = self.test.device
        self.objective = objective_of(self.run)
        self.stacked = stack(models)

        def optimizer(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
            return part_class(OPTIMIZERS, self.run.optimizer)(parameters, **self.run.optimizer.options)

        step = StackedStep(self.stacked, self.objective, optimizer, self.run.precision)
        self.schedule = part_class(SCHEDULES, self.run.schedule)(step.optimizer, **self.run.schedule.options)
        if starts:
            restore_optimizer(step.optimizer, [start.optimizer for start in starts], stacked=True)
            restore_schedule(self.schedule, starts[0])
        first_epoch = (starts[0].epoch if starts else 0) + 1
        self.loop = Loop(runs, [i.train for i in images], step, first_epoch)
        self.trainings = [Training(step.engine, replicas=len(runs)) for _ in runs]
        for training, start in zip(self.trainings, starts, strict=bool(starts)):
            training.curves, training.weights = [*start.curves], start.model
        self.diverged: dict[int, DivergedError] = {}
        # What each epoch is judged by: the test set, and each replica's validation set where one is held out
        held_out = [i.validation for i in images if i.validation is not None]
        sets = [self.test, *([torch.stack(held_out)] if held_out else [])]
        self.judges = [(s, _evaluation_noise(runs, s)) for s in sets]

    def epoch(self, epoch: int, on_epoch: OnEpoch, keep: Keep) -> None:
        """One epoch of every replica: train, judge, and tell of those that go on."""
        rate = float(self.schedule.get_last_lr()[0])
        self.stacked.train()
        synchronise(self.device)
        started = time.perf_counter()
        sums, seen = self.loop.epoch(epoch, rate)
        means = (sums / seen).tolist()  # training's one host sync an epoch, for all replicas
        seconds = (time.perf_counter() - started) / len(self.models)
        self.schedule.step()
        cost = {"learning_rate": rate, "train_seconds": seconds, "images_per_second": seen / seconds}
        judged = self._judge()
        for r, training in enumerate(self.trainings):
            if r in self.diverged:
                continue
            test, *held_out = judged[r]
            try:
                check_finite(epoch, "training", means[r][0], means[r][1], training)
                check_finite(epoch, "test", test.loss_reconstruction, test.loss_kl, training)
            except DivergedError as error:
                self.diverged[r] = error
                continue
            validation = held_out[0] if held_out else None
            row = (
                curve_row(self.run, epoch, (means[r][0], means[r][1]), test, validation, self.test.shape[1])
                | cost
            )
            training.curves.append(row)
            training.weights = unstack(self.stacked, r, self.models[r])
            on_epoch(r, row, self.models[r])
            tensors = optimizer_tensors(self.loop.step.optimizer, r)
            keep(r, State(epoch, training.weights, tensors, self.schedule.state_dict(), training.curves))

    def _judge(self) -> list[list[OwnTerms]]:
        """The own terms of each replica on each set: one host sync for all."""
        batch, pixels = self.run.batch_size, self.test.shape[1]
        means = [term_means(self.stacked, self.objective, s, noise, batch) for s, noise in self.judges]
        return [
            [in_words(four, self.stacked, self.objective, pixels, batch) for four in of_sets]
            for of_sets in torch.stack(means, 1).tolist()
        ]


@dataclass
class _Shape:
    """One batch size: the buffers its steps read, for a captured step reads where it always did."""

    index: Tensor  # [R, B], rows of the pool of images
    noise: Tensor  # [R, B, Z]
    steps: int = 0
    replay: Callable[[], None] | None = None


class Loop:
    """Epochs of stacked steps over images on the device; `engine` and `note` say how they were taken."""

    def __init__(
        self, runs: Sequence[Run], train: Sequence[Tensor], step: StackedStep, first_epoch: int = 1
    ) -> None:
        self.runs = runs
        self.step = step
        self.count = len(train[0])
        self.pool, self.offsets = _pool(train)
        self.device = self.pool.device
        self.sums = torch.zeros(len(runs), 2, dtype=wide(self.device), device=self.device)
        self.engine = step.engine
        cuda = self.device.type == "cuda"
        # Capture needs a stream of its own, and the warm-up on it too: one for every step there is
        self.side = torch.cuda.Stream(self.device) if cuda else None
        self.capture = capture if cuda else None
        few = f"no batch size had more than {WARM_UP} steps to capture after"
        self.note: str | None = few if self.capture else f"no CUDA graph on {self.device.type}"
        self._shapes: dict[int, _Shape] = {}
        self._rate = 0.0
        self._orders = self._orders_of(first_epoch)

    def epoch(self, epoch: int, rate: float) -> tuple[Tensor, int]:
        """One pass over the images at a learning rate: sums of the loss terms [R, 2], and a replica's images.

        Epochs come in order, from the loop's first.
        """
        if rate != self._rate:  # a captured step has its learning rate for a constant
            self._rate = rate
            for shape in self._shapes.values():
                shape.replay = None
        with _on(self.side):
            orders = self._orders.to(self.device) + self.offsets
            generators = [stream(run.seed, "noise", epoch, self.device) for run in self.runs]
            self.sums.zero_()
            for index in orders.split(self.runs[0].batch_size, 1):
                self._take(index, generators)
        self._orders = self._orders_of(epoch + 1)  # while the device is still at work
        return self.sums, orders.shape[1]

    def _orders_of(self, epoch: int) -> Tensor:
        """Every replica's own order of its images in an epoch, [R, N] or fewer where the last are dropped."""
        return torch.stack([torch.cat([*batches(run, self.count, epoch)]) for run in self.runs])

    def _take(self, index: Tensor, generators: list[torch.Generator]) -> None:
        """One step, of images index [R, B]: ordinary, captured, or replayed."""
        images = index.shape[1]
        if images not in self._shapes:
            noise = torch.empty(*index.shape, self.step.model.latent, device=self.device)
            self._shapes[images] = _Shape(
                torch.empty_like(index, memory_format=torch.contiguous_format), noise
            )
        shape = self._shapes[images]
        shape.index.copy_(index)
        for row, generator in zip(shape.noise, generators, strict=True):
            row.normal_(generator=generator)  # the numbers of torch.randn, as the replica draws them alone
        if shape.replay is None and shape.steps >= WARM_UP:
            shape.replay = self._captured(shape)
        shape.steps += 1
        if shape.replay:
            shape.replay()
        else:
            self._body(shape)

    def _body(self, shape: _Shape) -> None:
        grey = self.pool[shape.index].float() / 255
        self.sums.add_(self.step(grey, shape.noise))

    def _captured(self, shape: _Shape) -> Callable[[], None] | None:
        """The step of a batch size as one launch; None, and a note why, where it cannot be captured."""
        if self.capture is None:
            return None
        try:
            replay = self.capture(lambda: self._body(shape), self.step.optimizer)
        except Exception as error:  # whatever a driver or library says: ordinary steps give the same numbers
            first_line = str(error).partition("\n")[0]
            self.capture, self.note = None, f"no CUDA graph: {type(error).__name__}: {first_line}"
            return None
        self.engine, self.note = f"{self.step.engine}+graph", None
        return replay


def capture(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Record what `body` launches on the current CUDA stream, without doing it; returns what does it.

    The stream must not be the default one, and `body` must have been run on it before.
    """
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    graph = torch.cuda.CUDAGraph()
    try:
        for group in groups:  # Adam asks for it, and outside a capture complains of it
            group["capturable"] = True
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            body()
    finally:
        for group in groups:
            group["capturable"] = False
    return graph.replay


@contextmanager
def _on(side: torch.cuda.Stream | None) -> Iterator[None]:
    """Work on a side stream, after what the current one was asked for and before what it is asked next."""
    if side is None:
        yield
        return
    current = torch.cuda.current_stream(side.device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


def _pool(train: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The training images of all replicas [P, D], and the row at which each replica's begin [R, 1].

    Once where they are the same for all; a validation set leaves each seed others.
    """
    device = train[0].device
    if all(images is train[0] for images in train):
        return train[0], torch.zeros(len(train), 1, dtype=torch.long, device=device)
    return torch.cat([*train]), (torch.arange(len(train), device=device) * len(train[0])).unsqueeze(1)


def _evaluation_noise(runs: Sequence[Run], images: Tensor) -> Tensor:
    """Each replica's own noise [R, N, Z] for a set [N, D] or [R, N, D]."""
    count = images.shape[-2]
    return torch.stack([evaluation_noise(run.seed, count, run.latent, images.device) for run in runs])
