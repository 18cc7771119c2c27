"""Epochs of one step over images on the device: order, batches, noise; captured and replayed on CUDA.

Each replica keeps the streams that it would have alone: data order and noise are drawn from its own seed,
batch by batch. So a replica is the same in any company, up to the rounding of sums that the device adds up in
another order.

Shapes: R replicas (no such axis for a step of one model), K samples of z an image, N images, B images a
batch, D pixels, Z latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine.device import drawing, stream, wide
from bench.engine.drawn import Draws
from bench.engine.fast import FastStep
from bench.engine.own import samples_of
from bench.engine.stacked import StackedVAE
from bench.engine.step import ReferenceStep
from bench.parts.lookup import objective_of
from bench.parts.protocols import TwoTermObjective
from bench.spec.experiment import Run

Step = ReferenceStep | FastStep

WARM_UP = 3  # steps of a batch size before its capture: libraries choose kernels and allocate in them


def order(run: Run, count: int, epoch: int) -> Tensor:
    """Give the order of an epoch's images as indices [N], fewer where the last batch is dropped.

    Each (seed, epoch) has its own permutation, the same in every variant. Without shuffling the order is the
    data set's.
    """
    randoms = stream(run.seed, "order", epoch)
    whole = torch.randperm(count, generator=randoms) if run.shuffle else torch.arange(count)
    return whole[: images_per_epoch(run, count)]


def images_per_epoch(run: Run, count: int) -> int:
    """Give how many of a training set's images an epoch shows."""
    return count - count % run.batch_size if run.drop_last else count


@dataclass
class _Batch:
    """The buffers of one batch size. A captured step reads where it always did; fresh pages cost time."""

    index: Tensor  # [R·B], rows of the pool of images
    rows: Tensor  # uint8 [R·B, D]
    grey: Tensor  # [R, B, D]
    noise: Tensor  # [K, R, B, Z]
    steps: int = 0
    replay: Callable[[], None] | None = None


class Epochs:
    """Epochs of a step; `engine` and `note` say how the steps were taken.

    `train` holds each replica's uint8 images [N, D]; runs differ in their seed only.
    """

    def __init__(self, runs: Sequence[Run], train: Sequence[Tensor], step: Step) -> None:
        self.runs = runs
        self.step = step
        self.count = len(train[0])
        self.device = train[0].device
        # One pool [P, D]: images that are the same for all are there once; each replica has its own otherwise
        shared = all(images is train[0] for images in train)
        self.pool = train[0] if shared else torch.cat([*train])
        begins = torch.arange(len(train), device=self.device) * (0 if shared else self.count)
        self.offsets = begins.unsqueeze(1)  # [R, 1], the row at which each replica's begin
        objective = objective_of(runs[0])
        self.samples = samples_of(objective)
        terms = 2 if isinstance(objective, TwoTermObjective) else 3
        self.sums = torch.zeros(len(runs), terms, dtype=wide(self.device), device=self.device)
        self.engine, self.note = step.engine, step.note
        self.stacked = isinstance(step.model, StackedVAE)
        # Capture needs a stream of its own, and the warm-up on it too: one for every step there is
        cuda = self.stacked and self.device.type == "cuda"
        self.side = torch.cuda.Stream(self.device) if cuda else None
        self.capture = capture if cuda else None
        if self.stacked:
            few = f"no batch size had more than {WARM_UP} steps to capture after"
            self.note = few if cuda else f"no CUDA graph on {self.device.type}"
        resample = getattr(step.model.target, "resample", None)  # of what has no stacked form
        self.draws = Draws(resample, runs[0].seed, self.pool) if resample else None
        self._batches: dict[int, _Batch] = {}
        self._rates: list[float] = []

    def epoch(self, epoch: int) -> tuple[Tensor, int]:
        """Pass over the images once: sums of the loss terms [R, 2] or [R, 3], and a replica's images."""
        rates = [float(group["lr"]) for group in self.step.optimizer.param_groups]
        if rates != self._rates:  # a captured step has its learning rate for a constant
            self._rates = rates
            for batch in self._batches.values():
                batch.replay = None
        # What has a stacked form draws nothing
        layers = nullcontext() if self.stacked else drawing(self.runs[0].seed, epoch, self.device)
        with _on(self.side), layers:
            orders = torch.stack([order(run, self.count, epoch) for run in self.runs])
            orders = orders.to(self.device) + self.offsets
            generators = [stream(run.seed, "noise", epoch, self.device) for run in self.runs]
            if self.draws:
                self.draws.begin(epoch)
            self.sums.zero_()
            images = orders.shape[1]
            seen = (epoch - 1) * images
            for index in orders.split(self.runs[0].batch_size, 1):
                self._take(index, generators, seen)
                seen += index.shape[1]
        return self.sums, images

    def _take(self, index: Tensor, generators: list[torch.Generator], seen: int) -> None:
        """Take one step on images index [R, B]: ordinary, captured, or replayed."""
        size = index.shape[1]
        if size not in self._batches:
            lead = tuple(index.shape) if self.stacked else (size,)
            rows = self.pool.new_empty(index.numel(), self.pool.shape[1])
            grey = torch.empty(*lead, rows.shape[1], device=self.device)
            noise = torch.empty(self.samples, *lead, self.runs[0].latent, device=self.device)
            self._batches[size] = _Batch(torch.empty_like(index.flatten()), rows, grey, noise)
        batch = self._batches[size]
        # Fill its buffers
        batch.index.copy_(index.flatten())
        for r, generator in enumerate(generators):
            noise = batch.noise[:, r] if self.stacked else batch.noise
            noise.normal_(generator=generator)
        # Take it
        if batch.replay is None and batch.steps >= WARM_UP:
            batch.replay = self._captured(batch)
        batch.steps += 1
        if batch.replay:
            batch.replay()
        else:
            self._body(batch, seen)

    def _body(self, batch: _Batch, seen: int = 0) -> None:
        torch.index_select(self.pool, 0, batch.index, out=batch.rows)
        batch.grey.copy_(batch.rows.view_as(batch.grey)).div_(255)
        drawn = self.draws.of(batch.index) if self.draws else None
        self.sums.add_(self.step(batch.grey, batch.noise, seen, drawn))

    def _captured(self, batch: _Batch) -> Callable[[], None] | None:
        """Capture the step of a batch size as one launch; None, and a note why, where that fails."""
        if self.capture is None:
            return None
        try:
            replay = self.capture(lambda: self._body(batch), self.step.optimizer)
        except Exception as error:  # whatever a driver or library says: ordinary steps give the same numbers
            first_line = str(error).partition("\n")[0]
            self.capture, self.note = None, f"no CUDA graph: {type(error).__name__}: {first_line}"
            return None
        self.engine, self.note = f"{self.step.engine}+graph", None
        return replay


def capture(body: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Record what `body` launches on the current CUDA stream, without doing it; return what does it.

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
