"""The common footing: every decoder's mean m(z) scored under the same observation models.

The best decoder output is the conditional mean E[x|z], under cross-entropy and under squared error. So m(z)
of any variant can be scored under all of them. Each is calibrated on training images.

Shapes: K samples, N images, D pixels, Z latents; x grey in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from bench.engine.device import wide
from bench.evaluation.posteriors import Posteriors, chunks, closed_kl, has_density, part_of
from bench.parts.vae import VAE

Number = TypeVar("Number", Tensor, float)
ROWS = 256  # decoded images at a time: 0.8 MB of floats stay in a core's cache, whatever K and N are
CELL = 1 / 255  # the width of a grey level
DEQUANTISATION = CELL**2 / 12  # variance of a uniform distribution over a grey level's cell
MARGIN = 1e-5  # a mean is kept this far from 0 and 1: beyond, single precision loses 1 − m


@dataclass(frozen=True)
class Calibration:
    """What is fitted to training images: temperature and bias on the logits of m for binarised pixels and for
    thresholded ones, and the variance σ² of grey ones.
    """

    temperature: float
    bias: float
    temperature_threshold: float
    bias_threshold: float
    variance: float

    def binarised(self, model: VAE) -> BinaryPixels:
        """Give the observation model of binarised pixels, with a decoder."""
        return BinaryPixels(model, self.temperature, self.bias)

    def thresholded(self, model: VAE) -> BinaryPixels:
        """Give the observation model of thresholded pixels, with a decoder."""
        return BinaryPixels(model, self.temperature_threshold, self.bias_threshold)


@dataclass(frozen=True)
class BinaryPixels:
    """p(b|z) of black or white pixels: independent, with logits temperature·logit m(z) + bias."""

    model: VAE
    temperature: float
    bias: float

    def logits(self, z: Tensor) -> Tensor:
        """Compute the logits [..., D] of latents z [..., Z]."""
        return self.calibrated(self.model.grey_mean(self.model.decode(z)))

    def calibrated(self, mean: Tensor) -> Tensor:
        """Compute the logits of decoder means in [0, 1], any shape."""
        return torch.logit(mean, eps=MARGIN) * self.temperature + self.bias

    def __call__(self, z: Tensor, images: Tensor) -> Tensor:
        """Compute ln p(b|z) of z [K, B, Z] and black or white images [B, D]: [K, B], nats."""
        return bernoulli_score(self.logits(z), images)


@dataclass(frozen=True)
class Elbos:
    """Hold each test image's ELBOs, [N], nats, and their averages over z; the MSE; errors of sampling z.

    Of a q(z|x) without a density there is no rate and no ELBO, NaN; an image's numbers lack the rate then.
    """

    grey: Tensor  # of binarised pixels, in expectation over binarisations
    binary: Tensor  # of one binarisation
    threshold: Tensor  # of thresholded pixels
    gaussian_bits_per_dim: float
    mse: float  # per pixel
    rate: float  # KL(q(z|x) ‖ p(z)), nats
    errors: dict[str, float]  # standard errors of the means over images, by metric

    @property
    def elbo_bernoulli(self) -> float:
        """Average over images, nats."""
        return math.nan if math.isnan(self.rate) else float(self.grey.mean())

    @property
    def elbo_threshold(self) -> float:
        """Average over images, nats."""
        return math.nan if math.isnan(self.rate) else float(self.threshold.mean())


def bits_per_dim(code_length: float, pixels: int) -> float:
    """Convert −ln p of pixels in [0, 1], nats per image, to bits per dimension of the 8-bit image."""
    return code_length / (pixels * math.log(2)) + math.log2(1 / CELL)


def gaussian_score(sse: Number, pixels: int, variance: float) -> Number:
    """Give E ln N(x + u; m, σ²I), nats, over u uniform on a grey level's cell, of squared errors ‖x − m‖²."""
    spread = (sse + pixels * DEQUANTISATION) / (2 * variance)
    return -spread - 0.5 * pixels * math.log(2 * math.pi * variance)


def bernoulli_score(logits: Tensor, images: Tensor) -> Tensor:
    """Compute Σ b·o − softplus(o) of logits o [K, B, D] and images [B, D]: [K, B], nats.

    It is linear in b: of grey images, the expectation over binarisations b ~ Bernoulli(x).
    """
    return torch.einsum("kbd,bd->kb", logits, images) - softplus(logits).sum(-1)


def thresholded(images: Tensor) -> Tensor:
    """Give black or white images of uint8 ones, any shape: white where x > 1/2."""
    return (images > 127).float()


@torch.no_grad()
def calibrate(model: VAE, images: Tensor, noise: Tensor, shown: Tensor | None = None) -> Calibration:
    """Fit the observation models to uint8 training images [N, D] with one z an image, of noise [N, Z].

    The encoder is `shown` others where it has a draw of them.

    σ² = E‖x − m‖²/D + 1/(12·255²) maximises the Gaussian likelihood of uniformly dequantised pixels.
    Temperature and bias maximise the Bernoulli likelihood (Platt 1999).
    """
    grey, shown = images.float() / 255, images if shown is None else shown
    mean = torch.cat(
        [
            model.grey_mean(model.decode(model.encode(x.float() / 255).sample(n)))
            for x, n in zip(shown.split(ROWS), noise.split(ROWS), strict=True)
        ]
    )
    variance = float(((grey - mean) ** 2).mean()) + DEQUANTISATION
    logits = torch.logit(mean, eps=MARGIN)
    return Calibration(*platt(logits, grey), *platt(logits, thresholded(images)), variance)


def platt(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Fit temperature a ≥ 0 and bias c: the maximum of Σ x (a·o + c) − softplus(a·o + c), a concave function.

    Logits o and targets x in [0, 1] are [N, D].
    """
    from scipy.optimize import minimize

    def loss(place: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, torch.zeros(2, dtype=torch.float64)
        for o, x in zip(logits.split(ROWS), target.split(ROWS), strict=True):
            calibrated = o * place[0] + place[1]
            rest = torch.sigmoid(calibrated) - x
            total += float((softplus(calibrated) - x * calibrated).sum())
            slope += torch.stack([(rest * o).sum(), rest.sum()]).cpu()
        return total / logits.numel(), slope.numpy() / logits.numel()

    # Finite bounds, for a decoder that is never wrong
    fit = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=[(0, 100), (-50, 50)], tol=1e-9)
    return float(fit.x[0]), float(fit.x[1])


@torch.no_grad()
def elbos(
    model: VAE, q: Posteriors, images: Tensor, binary: Tensor, noise: Tensor, calibration: Calibration
) -> Elbos:
    """Estimate all ELBOs and the MSE of uint8 images [N, D] whose posteriors are q, with noise [K, N, Z].

    `binary` [N, D] is one binarisation. The Gaussian score is of x plus uniform noise over a grey level's
    cell, in closed form. The KL is so, too, or is sampled with the same noise.
    """
    samples, count, _ = noise.shape
    pixels, place = images.shape[1], images.device
    binarised, threshold = calibration.binarised(model), calibration.thresholded(model)
    closed = closed_kl(q, model.prior)
    defined = closed is not None or has_density(q)
    scores = torch.empty(3, samples, count, dtype=wide(place), device=place)
    sse, sampled = torch.empty_like(scores[0]), torch.zeros_like(scores[0])
    for part in chunks(count, samples, ROWS):
        grey = images[part].float() / 255
        here = part_of(q, part)
        z = here.sample(noise[:, part])
        if closed is None and defined:
            sampled[:, part] = (here.log_prob(z) - model.prior.log_prob(z)).to(sampled.dtype)
        mean = model.grey_mean(model.decode(z))
        sse[:, part] = (mean - grey).square().sum(-1)
        logits = binarised.calibrated(mean)
        scores[0, :, part] = bernoulli_score(logits, grey)
        scores[1, :, part] = bernoulli_score(logits, binary[part])
        scores[2, :, part] = bernoulli_score(threshold.calibrated(mean), thresholded(images[part]))
    nats = -gaussian_score(sse, pixels, calibration.variance)  # [K, N]
    kl = sampled.mean(0) if closed is None else closed.sum(-1).to(sampled.dtype)
    of_grey, of_binary, of_threshold = scores.mean(1) - kl
    length = bits_per_dim(float((nats.mean(0) + kl).mean()), pixels)
    errors = {
        "elbo_bernoulli": _error(scores[0] - sampled),
        "elbo_threshold": _error(scores[2] - sampled),
        "gaussian_bits_per_dim": _error(nats + sampled) / (pixels * math.log(2)),
    }
    return Elbos(
        of_grey,
        of_binary,
        of_threshold,
        gaussian_bits_per_dim=length if defined else math.nan,
        mse=float(sse.mean()) / pixels,
        rate=float(kl.mean()) if defined else math.nan,
        errors=errors if defined else {},
    )


def _error(values: Tensor) -> float:
    """Give the standard error that K samples an image leave in the mean over images, of values [K, N]."""
    samples, count = values.shape
    return math.sqrt(float(values.var(0).sum()) / samples) / count if samples > 1 else math.nan
