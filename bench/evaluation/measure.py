"""Every metric of a trained run: computed once, on the device, each with the seconds it took.

Shapes: S samples for expectations, K for the importance-weighted bound, N images, D pixels, Z latents.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from bench.engine.device import evaluation_noise, peak_memory_mb, stream
from bench.engine.drawn import as_shown, draw, fixed_draw
from bench.engine.epochs import images_per_epoch
from bench.engine.images import Images, Labels
from bench.engine.loop import Training
from bench.engine.own import OwnTerms, own_noise, own_terms
from bench.evaluation import bound, footing, latent
from bench.evaluation.bound import EncoderBound, LogPx, Mean
from bench.evaluation.footing import Calibration, Elbos
from bench.evaluation.metrics import METRICS, NEED_DENSITY
from bench.evaluation.posteriors import Posteriors, closed_kl, encode, has_density, size_of
from bench.evaluation.samples import NOT_SCORED, Reference, SampleScores
from bench.parts.lookup import called, objective_of
from bench.parts.priors import StandardNormal
from bench.parts.vae import VAE, parameter_count
from bench.spec.experiment import Judged, Run
from bench.store.shapes import LARGEST

EXPECTATION_SAMPLES = 8  # z an image where an expectation over q is meant
CALIBRATION_IMAGES = 10_000  # of the training set, its first
PROBE_IMAGES = 20_000  # of the training set, its first
DRIFT_SAMPLES = 5000  # at most, of q(z) and of p(z)
PRIOR_SAMPLES = 1000  # at least; otherwise as many as there are test images


class Measured:
    """Measure a trained model: each property is computed when first asked for, and what is slow is timed.

    The table of metrics names these properties. What needs `labels`, or a `reference` made with them, is None
    without. `seconds` holds what was timed, by name.
    """

    def __init__(
        self,
        run: Run | Judged,
        model: VAE,
        training: Training | None,  # of a model that was trained elsewhere none
        images: Images,
        labels: Labels | None,
        reference: Reference | None,
    ) -> None:
        self.run = run
        self.model = model.eval()
        self.training = training
        self.images = images
        self.labels = labels
        self.reference = reference
        self.seconds: dict[str, float] = {}

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def _noise(self, images: Tensor) -> Tensor:
        return evaluation_noise(self.run.seed, len(images), self.run.latent, images.device)

    # What several metrics share

    @cached_property
    def q(self) -> Posteriors:
        """Encode the test images."""
        return encode(self.model, as_shown(self.model, self.images.test))

    @cached_property
    @torch.no_grad()
    def _z(self) -> Tensor:
        """Draw one z of each test image."""
        return self.q.sample(self._noise(self.images.test))

    @cached_property
    def _kl(self) -> Tensor | None:
        """KL(q(z|x) ‖ p(z)) of each test image and latent [N, Z], nats; None without a closed form."""
        return closed_kl(self.q, self.model.prior)

    @property
    def _rate(self) -> float:
        """Average KL(q(z|x) ‖ p(z)) over test images, nats."""
        return self.elbos.rate if self._kl is None else float(self._kl.sum(-1).cpu().double().mean())

    @cached_property
    def calibration(self) -> Calibration:
        """Fit the observation models of the common footing to training images."""
        images = self.images.train[:CALIBRATION_IMAGES]
        noise = self._noise(images)
        with self._timed("calibration"):
            return footing.calibrate(self.model, images, noise, as_shown(self.model, images, "training"))

    @cached_property
    def _labelled(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Posterior means and labels of training images, then of test images."""
        if self.labels is None:
            return None
        images = as_shown(self.model, self.images.train[:PROBE_IMAGES], "training")
        train = encode(self.model, images).mean
        return train, self.labels.train[:PROBE_IMAGES], self.q.mean, self.labels.test

    # Likelihoods, in the run's own terms and on the common footing

    @cached_property
    def own(self) -> OwnTerms:
        """Measure the run in its own terms: the row of its curves of the epoch chosen again."""
        run, test = self.run, self.images.test
        if self.training is None or isinstance(run, Judged):  # no objective is known, nor a likelihood
            return OwnTerms(math.nan, None, math.nan, math.nan, self._rate, math.nan, math.nan)
        objective = objective_of(run)
        noise = own_noise(run, objective, len(test), test.device)
        seen = self.training.chosen * images_per_epoch(run, len(self.images.train))
        with self._timed("own"):
            drawn = fixed_draw(self.model, test)
            return own_terms(self.model, objective, test, noise, run.batch_size, seen, drawn)

    @cached_property
    def elbos(self) -> Elbos:
        """Estimate the ELBOs of all observation models, and the MSE."""
        calibration, q = self.calibration, self.q
        shape = (EXPECTATION_SAMPLES, *size_of(q))
        noise = torch.randn(shape, generator=stream(self.run.seed, "expectation"))
        noise = noise.to(self.images.test.device)
        with self._timed("footing"):
            return footing.elbos(self.model, q, self.images.test, self._binary, noise, calibration)

    @cached_property
    def _binary(self) -> Tensor:
        """Draw the binarisation of the test images, the same in every run whatever its seed."""
        return draw(self.images.test, stream(0, "binarisation")).float() / 255

    def _stream(self, purpose: str) -> torch.Generator:
        return stream(self.run.seed, purpose, device=self.images.test.device)

    @cached_property
    def binarised(self) -> LogPx:
        """Estimate ln p(b) of the binarised test images."""
        pixels, elbo = self.calibration.binarised(self.model), self.elbos.binary
        with self._timed("log_px"):
            found = bound.log_px(pixels, self.q, self._binary, elbo, self._stream("log_px"))
        undefined = math.isnan(self.elbos.rate)  # then there is no ELBO to set the refitted one against
        return replace(found, amortisation_gap=Mean(math.nan, math.nan)) if undefined else found

    @cached_property
    def thresholded(self) -> LogPx:
        """Estimate ln p(b) of the thresholded test images."""
        pixels, elbo = self.calibration.thresholded(self.model), self.elbos.threshold
        images = footing.thresholded(self.images.test)
        with self._timed("log_px_threshold"):
            return bound.log_px(pixels, self.q, images, elbo, self._stream("log_px_threshold"))

    @cached_property
    def encoder_bound(self) -> EncoderBound:
        """Estimate the importance-weighted bound with the encoder's q."""
        pixels, elbo, k = (
            self.calibration.binarised(self.model),
            self.elbos.binary,
            self.run.importance_samples,
        )
        if not has_density(self.q):
            return EncoderBound(Mean(math.nan, math.nan), math.nan)
        with self._timed("encoder_bound"):
            return bound.encoder_bound(pixels, self.q, self._binary, elbo, k, self._stream("importance"))

    @cached_property
    def bdmc_gap(self) -> float | None:
        """Bound what annealing may miss of ln p(b)."""
        with self._timed("bdmc"):
            return bound.certificate(
                self.calibration.binarised(self.model),
                len(self.images.test),
                self.binarised.temperatures,
                self._stream("bdmc"),
            )

    # The latent space

    @property
    def active_units(self) -> int:
        """Count the latents that vary over images."""
        return latent.active_units(self.q)

    @property
    def prior_divergence(self) -> float | None:
        """Compute KL(N(mean, covariance of q(z)) ‖ p(z)), nats; None where p(z) is not N(0, I)."""
        if type(self.model.prior) is not StandardNormal:
            return None
        return latent.gaussian_divergence(*latent.aggregate_moments(self.q))

    @cached_property
    def drift(self) -> Mean:
        """Estimate MMD²(q(z), p(z)) from one z of each of some test images, the same ones in every run."""
        z, seed, test = self._z, self.run.seed, self.images.test
        some = torch.randperm(len(test), generator=stream(0, "drift images"))[:DRIFT_SAMPLES].to(test.device)
        noise = torch.randn(len(some), self.run.latent, generator=stream(seed, "drift")).to(test.device)
        with self._timed("drift"):
            with torch.no_grad():
                drawn = self.model.prior.sample(noise)
            return latent.mmd(z[some], drawn)

    @cached_property
    def mutual_information(self) -> float:
        """Estimate I(x; z), nats."""
        q, z = self.q, self._z
        with self._timed("mutual_information"):
            return latent.mutual_information(q, z) if has_density(self.q) else math.nan

    @property
    def aggregate_kl(self) -> float:
        """Estimate KL(q(z) ‖ p(z)), nats."""
        return self._rate - self.mutual_information

    @cached_property
    def linear_probe_accuracy(self) -> float | None:
        """Predict labels from posterior means by logistic regression."""
        if (labelled := self._labelled) is None:
            return None
        with self._timed("linear_probe"):
            return latent.linear_probe_accuracy(*labelled)

    @cached_property
    def knn_accuracy(self) -> float | None:
        """Predict labels from posterior means by five nearest neighbours."""
        if (labelled := self._labelled) is None:
            return None
        with self._timed("knn"):
            return latent.knn_accuracy(*labelled)

    # Samples, and what the run cost

    @cached_property
    def samples(self) -> SampleScores:
        """Score the means of draws from the prior, as many as there are test images: 10,000 of MNIST."""
        if self.reference is None:
            return NOT_SCORED
        count = max(PRIOR_SAMPLES, len(self.images.test))
        with self._timed("samples"):
            return self.reference.score(prior_means(self.model, self.run.seed, count))

    @property
    def parameters(self) -> int:
        """Count the numbers that training adjusts."""
        return parameter_count(self.model)

    @property
    def train_seconds(self) -> float:
        """Add up the seconds inside training epochs."""
        return self.training.seconds if self.training else math.nan

    @property
    def images_per_second(self) -> float:
        """Divide the images that were trained on by those seconds; `drop_last` leaves some images out."""
        rows = self.training.curves if self.training else []
        images = sum(float(r["images_per_second"] or 0) * float(r["train_seconds"] or 0) for r in rows)
        return images / self.train_seconds

    @property
    def peak_memory_mb(self) -> float:
        """Read the peak memory so far."""
        return peak_memory_mb(self.images.test.device)

    # What a record says

    def metrics(self) -> dict[str, float]:
        """Give every row of the table with a value that a record holds: one without is absent, not zero."""
        asked = (m for m in METRICS if self.training or m.footing != "cost" or m.name == "parameters")
        found = {metric.name: attrgetter(metric.value)(self) for metric in asked}
        values = {name: float(value) for name, value in (found | self._own()).items() if value is not None}
        return {name: value for name, value in values.items() if abs(value) <= LARGEST}

    @torch.no_grad()
    def _own(self) -> dict[str, Any]:
        """Ask the metrics of the user's own, each of the model and the test images in grey levels [N, D]."""
        found = {}
        for part in self.run.metrics:
            with self._timed(part.name):
                found[part.name] = called("metric", part)(self.model, self.images.test.float() / 255)
        return found

    def monte_carlo_error(self) -> dict[str, float]:
        """Give the standard errors that sampling z, and images of a subset, leave in one run's values.

        Of samples it is the one that the choice of feature networks leaves, the same for every seed.
        """
        errors = (
            self.elbos.errors
            | self.samples.errors
            | {
                "prior_mmd": self.drift.error,
                "log_px_bernoulli": self.binarised.log_px.error,
                "log_px_threshold": self.thresholded.log_px.error,
                "amortisation_gap": self.binarised.amortisation_gap.error,
                "iwae_bernoulli": self.encoder_bound.bound.error,
            }
        )
        return {name: value for name, value in errors.items() if math.isfinite(value)}

    def undefined(self, found: Collection[str]) -> dict[str, list[str]]:
        """Name, as `undefined`, the metrics not `found` where q(z|x) has no density; {} where it has."""
        return {} if has_density(self.q) else {"undefined": sorted(NEED_DENSITY.difference(found))}

    def kl_per_unit(self) -> list[float] | None:
        """Give the mean KL of each latent over the test set, nats, [Z]; None without a closed form."""
        return None if self._kl is None else self._kl.cpu().double().mean(0).tolist()

    @property
    def finite(self) -> bool:
        """Whether the KL of each latent and the calibration are finite; a diverged model's are not."""
        return all(map(math.isfinite, (*(self.kl_per_unit() or ()), *vars(self.calibration).values())))


@torch.no_grad()
def prior_means(model: VAE, seed: int, count: int, chunk: int = 1000) -> Tensor:
    """Give decoder means [count, D] of draws from the prior: the same z in every variant of a latent size."""
    device = next(model.parameters()).device
    z = model.prior.sample(torch.randn(count, model.latent, generator=stream(seed, "prior")).to(device))
    return torch.cat([model.grey_mean(model.decode(part)) for part in z.split(chunk)])
