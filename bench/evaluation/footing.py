"""The common footing: every decoder's mean m(z) scored under the same two observation models.

The best decoder output is the conditional mean E[x|z], under cross-entropy and under squared error. So m(z)
of any variant can be scored under both. One scalar for each model and run is fitted on training images.

Shapes: K samples, N images, D pixels, Z latents; x grey in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bench.engine.device import wide
from bench.parts.bounds import importance_weighted_bound
from bench.parts.posteriors import Q
from bench.parts.vae import VAE

Number = TypeVar("Number", Tensor, float)
ROWS = 256  # decoded images at a time: 0.8 MB of floats stay in a core's cache, whatever K and N are
CELL = 1 / 255  # the width of a grey level
DEQUANTISATION = CELL**2 / 12  # variance of a uniform distribution over a grey level's cell


@dataclass(frozen=True)
class Calibration:
    """One scalar for each observation model, fitted on training images: m' = ε + (1 − 2ε)·m, and σ²."""

    epsilon: float
    variance: float


@dataclass(frozen=True)
class Elbos:
    """Hold the two ELBOs and the MSE, averaged over test images, and the standard errors of sampling z."""

    elbo_bernoulli: float  # nats/image
    gaussian_bits_per_dim: float  # bits/dim
    mse: float  # per pixel
    error_bernoulli: float
    error_gaussian: float


@dataclass(frozen=True)
class LogPx:
    """Hold the two importance-weighted bounds, and the standard errors of sampling z."""

    bernoulli: float  # nats/image
    gaussian: float  # bits/dim
    error_bernoulli: float
    error_gaussian: float


def bits_per_dim(code_length: float, pixels: int) -> float:
    """Convert −ln p of pixels in [0, 1], nats per image, to bits per dimension of the 8-bit image."""
    return code_length / (pixels * math.log(2)) + math.log2(1 / CELL)


def gaussian_score(sse: Number, pixels: int, variance: float) -> Number:
    """Give E ln N(x + u; m, σ²I), nats, over u uniform on a grey level's cell, of squared errors ‖x − m‖²."""
    spread = (sse + pixels * DEQUANTISATION) / (2 * variance)
    return -spread - 0.5 * pixels * math.log(2 * math.pi * variance)


@torch.no_grad()
def calibrate(model: VAE, images: Tensor, noise: Tensor) -> Calibration:
    """Fit ε and σ² to uint8 training images [N, D] with one z an image, made of noise [N, Z].

    σ² = E‖x − m‖²/D + 1/(12·255²) maximises the Gaussian likelihood of uniformly dequantised pixels.
    ε maximises Σ x ln m' + (1 − x) ln(1 − m'), by one bounded minimisation in ln ε.
    """
    grey = images.float() / 255
    mean = torch.cat(
        [
            model.grey_mean(model.decode(model.encode(x).sample(n)))
            for x, n in zip(grey.split(ROWS), noise.split(ROWS), strict=True)
        ]
    )
    variance = float(((grey - mean) ** 2).mean()) + DEQUANTISATION

    def cross_entropy(log_epsilon: float) -> float:
        on, off = _bernoulli_logs(mean, math.exp(log_epsilon))
        return -float((off + grey * (on - off)).mean())

    bounds = (math.log(1e-5), math.log(0.5 - 1e-6))  # below 1e-5 single precision loses 1 − m'
    fit = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-2})
    return Calibration(math.exp(float(fit.x)), variance)


@torch.no_grad()
def elbos(model: VAE, q: Q, images: Tensor, noise: Tensor, calibration: Calibration) -> Elbos:
    """Estimate both ELBOs and the MSE of uint8 images [N, D] whose posteriors are q, with noise [K, N, Z].

    The Bernoulli score is linear in b: the cross-entropy of grey levels is its expectation over binarisations
    b ~ Bernoulli(x). The Gaussian score is of x plus uniform noise over a grey level's cell, in closed form.
    """
    samples, count, _ = noise.shape
    pixels = images.shape[1]
    kl = q.kl().sum(-1).to(wide(images.device))
    bernoulli = torch.empty(samples, count, dtype=wide(images.device), device=images.device)
    sse = torch.empty_like(bernoulli)
    for part in _chunks(count, samples):
        grey = images[part].float() / 255
        mean = model.grey_mean(model.decode(_part(q, part).sample(noise[:, part])))
        on, off = _bernoulli_logs(mean, calibration.epsilon)
        bernoulli[:, part] = off.sum(-1) + torch.einsum("kbd,bd->kb", on.sub_(off), grey)
        sse[:, part] = _squared_error(mean, grey)
    nats = -gaussian_score(sse, pixels, calibration.variance)  # [K, N]
    return Elbos(
        elbo_bernoulli=float((bernoulli.mean(0) - kl).mean()),
        gaussian_bits_per_dim=bits_per_dim(float((nats.mean(0) + kl).mean()), pixels),
        mse=float(sse.mean()) / pixels,
        error_bernoulli=_error(bernoulli),
        error_gaussian=_error(nats) / (pixels * math.log(2)),
    )


@torch.no_grad()
def log_px(
    model: VAE,
    q: Q,
    images: Tensor,
    k: int,
    calibration: Calibration,
    generator: torch.Generator,
    binary: Tensor,
) -> LogPx:
    """Estimate both importance-weighted bounds of uint8 images [N, D] whose posteriors are q.

    K = `k` samples come from `generator`; the Bernoulli bound scores `binary` [N, D], a fixed binarisation.
    The Gaussian bound averages ln p over a grey level's cell before the sum over k: as log-sum-exp is convex,
    this only lowers it.
    """
    count, pixels = images.shape
    bounds = torch.empty(4, count, dtype=wide(images.device), device=images.device)
    for part in _chunks(count, k):
        grey, here = images[part].float() / 255, _part(q, part)
        shape = (k, *here.mean.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(images.device)
        z = here.sample(noise)
        ratio = (model.prior.log_prob(z) - here.log_prob(z)).to(bounds.dtype)
        mean = model.grey_mean(model.decode(z))
        sse = _squared_error(mean, grey).to(bounds.dtype)
        bernoulli = _binary_score(mean, binary[part], calibration.epsilon).to(bounds.dtype)
        bounds[:2, part] = _importance(ratio + bernoulli)
        bounds[2:, part] = _importance(ratio + gaussian_score(sse, pixels, calibration.variance))
    bernoulli, e_bernoulli, gaussian, e_gaussian = bounds
    return LogPx(
        float(bernoulli.mean()),
        bits_per_dim(-float(gaussian.mean()), pixels),
        math.sqrt(float(e_bernoulli.sum())) / count,
        math.sqrt(float(e_gaussian.sum())) / (count * pixels * math.log(2)),
    )


def _bernoulli_logs(mean: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Give ln m' and ln(1 − m') of m' = ε + (1 − 2ε)·m."""
    on = mean * (1 - 2 * epsilon) + epsilon
    return on.log(), (1 - on).log_()


def _binary_score(mean: Tensor, binary: Tensor, epsilon: float) -> Tensor:
    """Give Σ ln(b m' + (1 − b)(1 − m')), [K, B], of binary images [B, D] and means [K, B, D].

    The probability of what was seen is |1 − b − m'|: one logarithm a pixel, not two.
    """
    off = 1 - epsilon - binary.to(mean.dtype)
    return torch.sub(off, mean, alpha=1 - 2 * epsilon).abs_().log_().sum(-1)


def _squared_error(mean: Tensor, grey: Tensor) -> Tensor:
    """Give ‖x − m‖², [K, B], of means [K, B, D] and grey images [B, D]."""
    return (mean - grey).square_().sum(-1)


def _importance(log_weights: Tensor) -> Tensor:
    """Give each image's bound and its variance by the delta method, [2, B], of log-weights [K, B]."""
    k, bound = len(log_weights), importance_weighted_bound(log_weights)
    variance = (log_weights - bound).exp().var(0) / k if k > 1 else torch.full_like(bound, math.nan)
    return torch.stack([bound, variance])


def _error(values: Tensor) -> float:
    """Give the standard error that K samples an image leave in the mean over images, of values [K, N]."""
    samples, count = values.shape
    return math.sqrt(float(values.var(0).sum()) / samples) / count if samples > 1 else float("nan")


def _part(q: Q, part: slice) -> Q:
    return Q(*(getattr(q, field.name)[part] for field in fields(Q)))


def _chunks(count: int, samples: int) -> Iterator[slice]:
    """Slice the images such that samples times images stays near ROWS."""
    width = max(1, ROWS // samples)
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
