"""Every metric of a trained run: computed once, on the device, each with the seconds it took.

Shapes: S samples for expectations, K for the importance-weighted bound, N images, D pixels, Z latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TypeVar

import torch
from torch import Tensor

from bench.engine.device import peak_memory_mb, stream
from bench.engine.images import Images, Labels
from bench.engine.own import OwnTerms, own_terms
from bench.engine.train import Training, evaluation_noise, objective_of
from bench.evaluation.footing import Calibration, Footing, LogPx, calibrate, footing, log_px
from bench.evaluation.latent import (
    active_units,
    kl_per_unit,
    knn_accuracy,
    linear_probe_accuracy,
    mutual_information,
)
from bench.evaluation.metrics import METRICS
from bench.evaluation.samples import FeatureNet, Reference, SampleScores
from bench.parts.posteriors import Q
from bench.parts.vae import VAE, parameter_count
from bench.spec.experiment import Run

T = TypeVar("T")
EXPECTATION_SAMPLES = 8  # z an image where an expectation over q is meant
CALIBRATION_IMAGES = 10_000  # of the training set, its first
PROBE_IMAGES = 20_000  # of the training set, its first
PRIOR_SAMPLES = 1000  # at least; otherwise as many as there are test images


@dataclass(frozen=True)
class Latent:
    """Metrics of the latent space."""

    active_units: int
    aggregate_kl: float
    mutual_information: float
    linear_probe_accuracy: float
    knn_accuracy: float


@dataclass(frozen=True)
class Cost:
    """What the run cost."""

    parameters: int
    train_seconds: float
    images_per_second: float
    peak_memory_mb: float


class Measured:
    """A trained model and its data; each group of metrics is computed when first asked for, and timed."""

    def __init__(
        self,
        run: Run,
        model: VAE,
        training: Training,
        images: Images,
        labels: Labels,
        net: FeatureNet,
        reference: Reference,
    ) -> None:
        self.run = run
        self.model = model.eval()
        self.training = training
        self.images = images
        self.labels = labels
        self.net = net
        self.reference = reference
        self.seconds: dict[str, float] = {}

    def _timed(self, name: str, function: Callable[[], T]) -> T:
        started = time.perf_counter()
        value = function()
        self.seconds[name] = time.perf_counter() - started
        return value

    @cached_property
    def q(self) -> Q:
        """Posteriors of the test images."""
        return encode(self.model, self.images.test)

    @cached_property
    def calibration(self) -> Calibration:
        """ε and σ², from training images."""
        images = self.images.train[:CALIBRATION_IMAGES]
        noise = evaluation_noise(self.run.seed, len(images), self.run.latent, images.device)
        return self._timed("calibration", lambda: calibrate(self.model, images, noise))

    @cached_property
    def own(self) -> OwnTerms:
        """The run in its own terms: the last row of its curves, measured again."""
        test, run = self.images.test, self.run
        noise = evaluation_noise(run.seed, len(test), run.latent, test.device)
        return self._timed(
            "own", lambda: own_terms(self.model, objective_of(run), test, noise, run.batch_size)
        )

    @cached_property
    def footing(self) -> Footing:
        """The two ELBOs and the MSE."""
        calibration, shape = self.calibration, (EXPECTATION_SAMPLES, *self.q.mean.shape)
        noise = torch.randn(shape, generator=stream(self.run.seed, "expectation")).to(self.q.mean.device)
        return self._timed(
            "footing", lambda: footing(self.model, self.q, self.images.test, noise, calibration)
        )

    @cached_property
    def log_px(self) -> LogPx:
        """The two importance-weighted bounds."""
        calibration, test = self.calibration, self.images.test
        uniform = torch.rand(test.shape, generator=stream(0, "binarisation")).to(test.device)
        binary = uniform < test.float() / 255  # the same binarisation in every run, whatever its seed
        generator = stream(self.run.seed, "importance", device=test.device)
        k = self.run.importance_samples
        return self._timed(
            "log_px", lambda: log_px(self.model, self.q, test, k, calibration, generator, binary)
        )

    @cached_property
    def latent(self) -> Latent:
        """Metrics of the latent space."""
        q, test = self.q, self.images.test
        noise = evaluation_noise(self.run.seed, len(test), self.run.latent, test.device)
        information = self._timed("mutual_information", lambda: mutual_information(q, q.sample(noise)))
        train = encode(self.model, self.images.train[:PROBE_IMAGES]).mean
        labelled = (train, self.labels.train[:PROBE_IMAGES], q.mean, self.labels.test)
        return Latent(
            active_units=active_units(q),
            aggregate_kl=float(q.kl().sum(-1).cpu().double().mean()) - information,
            mutual_information=information,
            linear_probe_accuracy=self._timed("linear_probe", lambda: linear_probe_accuracy(*labelled)),
            knn_accuracy=self._timed("knn", lambda: knn_accuracy(*labelled)),
        )

    @cached_property
    def samples(self) -> SampleScores:
        """Scores of the means of draws from the prior, as many as there are test images: 10,000 of MNIST."""
        count = max(PRIOR_SAMPLES, len(self.images.test))
        return self._timed(
            "samples",
            lambda: self.reference.score(self.net.features(prior_means(self.model, self.run.seed, count))),
        )

    @cached_property
    def cost(self) -> Cost:
        """What training cost."""
        curves, seconds = self.training.curves, self.training.seconds
        # Not epochs times images: `drop_last` leaves some out
        images = sum(float(r["images_per_second"] or 0) * float(r["train_seconds"] or 0) for r in curves)
        return Cost(
            parameters=parameter_count(self.model),
            train_seconds=seconds,
            images_per_second=images / seconds,
            peak_memory_mb=peak_memory_mb(self.images.test.device),
        )

    def metrics(self) -> dict[str, float]:
        """Every row of the table, finite values only: a metric that has none is absent, not zero."""
        values = {metric.name: float(attrgetter(metric.value)(self)) for metric in METRICS}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def monte_carlo_error(self) -> dict[str, float]:
        """Standard errors that sampling z leaves in a value of one run, in the metric's unit."""
        errors = {
            "elbo_bernoulli": self.footing.error_bernoulli,
            "elbo_gaussian": self.footing.error_gaussian,
            "log_px_bernoulli": self.log_px.error_bernoulli,
            "log_px_gaussian": self.log_px.error_gaussian,
        }
        return {name: value for name, value in errors.items() if math.isfinite(value)}

    def kl_per_unit(self) -> list[float]:
        """Mean KL of each latent over the test set, [Z]."""
        return kl_per_unit(self.q)


@torch.no_grad()
def encode(model: VAE, images: Tensor, chunk: int = 1000) -> Q:
    """Posteriors of uint8 images [N, D], in chunks."""
    parts = [model.encode(x.float() / 255) for x in images.split(chunk)]
    columns = ([getattr(q, name) for q in parts] for name in ("mean", "scale", "log_scale", "charged_kl"))
    return Q(*(torch.cat(column) for column in columns))


@torch.no_grad()
def prior_means(model: VAE, seed: int, count: int, chunk: int = 1000) -> Tensor:
    """Decoder means [count, D] of draws from the prior: the same z in every variant of a latent size."""
    device = next(model.parameters()).device
    z = torch.randn(count, model.latent, generator=stream(seed, "prior")).to(device)
    return torch.cat([model.grey_mean(model.decode(part)) for part in z.split(chunk)])
