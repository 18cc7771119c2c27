"""What the evaluation of a run should take: small shares of it are timed, and multiplied by known counts.

A trained model may take longer than the untrained one that is timed here: its posteriors are refitted in more
rounds, or a grid over two latents is refined. The counts are those of most models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench.data.dataset import Dataset
from bench.engine.device import stream, synchronise
from bench.evaluation import bound, latent, measure, samples
from bench.evaluation.annealing import CHAINS, LEAPFROGS, annealed
from bench.evaluation.footing import ROWS, BinaryPixels, bernoulli_score
from bench.evaluation.quadrature import MOST_LATENTS, SIDES, grid_sums
from bench.evaluation.refit import PAIRS, STEPS
from bench.evaluation.refit import ROWS as REFITTED_ROWS
from bench.parts.posteriors import gaussian
from bench.parts.vae import VAE

PASSES = 90  # over the decoder means of training images, to fit two temperatures and biases
ROUNDS = 2.5  # of refitting, on average
REFINED = 1.5  # times the points of the coarsest grid
FEW, MANY = 10, 100  # images whose chains are moved, to tell what a call costs from what an image does
LATENTS = 10  # that the data's latents are timed with: they make little difference
SOME = 500  # images, or points of a grid, at a time


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Time a call after one that warms up: by the processor's clock on a CPU, whatever else is at work."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    call()
    synchronise(device)
    started = clock()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (clock() - started) / repeats


@dataclass(frozen=True)
class Common:
    """What is the same for every model, seconds: it depends on the data."""

    scored: float  # an image's pixels, scored once under an observation model
    latents: float  # mutual information, and the distance between q(z) and p(z)
    samples: float = 0.0  # the sample metrics
    classifiers: float = 0.0  # training the networks behind them, where they are not kept from before

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> Common:
        """Time shares of them for a data set."""
        test = len(data.test_images)
        images = data.test_images[:ROWS].flatten(1).to(device).float() / 255
        logits = images.expand(1, -1, -1) - 0.5
        scored = seconds_of(lambda: bernoulli_score(logits, images), device, 3) / len(images)
        z = torch.randn(test, LATENTS, device=device)
        q, some = gaussian(z, torch.zeros_like(z)), z[: latent.ROWS]
        latents = seconds_of(lambda: latent.mutual_information(q, some), device) * test / len(some)
        pairs = seconds_of(lambda: latent.mmd(some, some + 1), device) / len(some) ** 2
        latents += pairs * min(test, measure.DRIFT_SAMPLES) ** 2
        if data.train_labels is None:
            return cls(scored, latents)
        cpu, net = torch.device("cpu"), samples.FeatureNet(data.shape, data.classes)
        grey = data.train_images[: samples.ROWS].flatten(1).float() / 255
        features = seconds_of(lambda: net.features(grey), cpu) / len(grey)
        batch = grey[: samples.BATCH]
        count = max(measure.PRIOR_SAMPLES, test)
        near = min(count, samples.NEIGHBOURHOOD)
        points = torch.randn(near, samples.FEATURES, dtype=torch.float64)
        rows = points[:1000]  # too many for the processor's cache, as all of them are

        def search() -> None:
            torch.cdist(rows, points).topk(samples.NEIGHBOURS, largest=False)

        searched = 2 * seconds_of(search, cpu) * near / len(rows)
        step = seconds_of(lambda: net(batch).sum().backward(), cpu)
        training = step * samples.untrained_steps(data)
        return cls(scored, latents, samples.NETWORKS * (count * features + searched), training)


@dataclass(frozen=True)
class Cost:
    """What the evaluation of one model is made of, seconds."""

    decoded: float  # an image decoded and scored
    call: float  # chains moved once: what does not grow with the images
    moved: float  # and what an image adds
    point: float  # of a grid over the latents

    @classmethod
    @torch.no_grad()
    def of(cls, model: VAE, data: Dataset, device: torch.device) -> Cost:
        """Time shares of the evaluation of a model on its device."""
        model.eval()
        pixels = BinaryPixels(model, 1.0, 0.0)
        images = data.test_images[:SOME].flatten(1).to(device)
        binary = (images > 127).float()
        z = torch.randn(SOME, model.latent, device=device)
        decoded = seconds_of(lambda: pixels(z[None, : len(binary)], binary), device) / len(binary)
        point = 0.0
        moves = [cls._move(pixels, binary[:count], device) for count in (FEW, MANY)]
        moved = max(0.0, moves[1] - moves[0]) / ((MANY - FEW) * CHAINS)
        if model.latent <= MOST_LATENTS:
            count = bound.share(len(data.test_images), bound.INTEGRATED)
            some = binary.repeat(math.ceil(count / len(binary)), 1)[:count]
            side = math.ceil(SOME ** (1 / model.latent))
            axes = [torch.linspace(-3, 3, side, dtype=torch.float64)] * model.latent
            point = seconds_of(lambda: grid_sums(pixels, some, axes), device) / side**model.latent
        return cls(decoded, max(0.0, moves[0] - FEW * CHAINS * moved), moved, point)

    def times(self, factor: float) -> Cost:
        """Give the cost of a model that takes so many times as long for an image or a point."""
        grown = {name: factor * getattr(self, name) for name in ("decoded", "moved", "point")}
        return replace(self, **grown)

    @staticmethod
    def _move(pixels: BinaryPixels, images: Tensor, device: torch.device) -> float:
        """Time one gradient, with what moves the chains of each image."""
        zero = torch.zeros(len(images), pixels.model.latent, device=device)
        anneal = partial(annealed, pixels, pixels.model.prior, gaussian(zero, zero - 2), images)
        return seconds_of(lambda: anneal(stream(0, "cost", device=device), 1), device) / (LEAPFROGS + 1)

    def seconds(self, data: Dataset, latents: int, k: int, common: Common) -> float:
        """Add up the evaluation of one run, less pictures; the encoder's bound takes K samples."""
        test, train = len(data.test_images), len(data.train_images)
        calibrated, probed = (min(train, n) for n in (measure.CALIBRATION_IMAGES, measure.PROBE_IMAGES))
        decoded = test * (measure.EXPECTATION_SAMPLES + 3) + 2 * calibrated + probed
        decoded += bound.share(test, bound.ENCODED) * k
        scored = 2 * test * measure.EXPECTATION_SAMPLES + PASSES * calibrated
        calls, moved, points = gradients(test, latents)
        found = decoded * self.decoded + scored * common.scored + calls * self.call + moved * self.moved
        return found + points * self.point + common.latents + common.samples


def gradients(count: int, latents: int) -> tuple[float, float, float]:
    """Count the gradients that bounds of ln p(b) take for `count` test images: calls, images, points."""
    refitted = bound.share(count, bound.REFITTED)
    calls = 2 * ROUNDS * STEPS * math.ceil(2 * PAIRS * refitted / REFITTED_ROWS)
    images = 2 * ROUNDS * STEPS * 2 * PAIRS * refitted
    if latents <= MOST_LATENTS:
        return calls, images, 2 * REFINED * SIDES[latents][0] ** latents
    annealed_images, simulated = bound.share(count, bound.ANNEALED), bound.share(count, bound.SIMULATED)
    least, most = bound.TEMPERATURES
    # Few images are annealed by fewer temperatures, and mostly twice
    temperatures, last = (least, least) if count >= bound.SMALL else ((least + most) // 4, most // 4)
    calls += 2 * LEAPFROGS * (temperatures + last) + ROUNDS * STEPS
    images += 2 * LEAPFROGS * CHAINS * (temperatures * annealed_images + last * simulated)
    return calls, images + 2 * ROUNDS * STEPS * PAIRS * simulated, 0
