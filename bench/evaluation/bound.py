"""ln p(b) of black or white test images to a few tenths of a nat, and what the encoder's bound misses of it.

A cheap bound is known for all images: the ELBO. Dearer ones on a fixed subset correct it. Where there are one
or two latents, that is the integral itself. Else it is the importance-weighted bound of a posterior refitted
to each image, and on fewer images annealed importance sampling.

Shapes: N images, n of a subset, K samples, D pixels, Z latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.engine.device import stream, wide
from bench.evaluation.annealing import annealed
from bench.evaluation.footing import BinaryPixels
from bench.evaluation.posteriors import Posteriors, encode, part_of
from bench.evaluation.quadrature import MOST_LATENTS, quadrature
from bench.evaluation.refit import log_weights, refit
from bench.parts.bounds import importance_weighted_bound

# How many images: (least, one of so many, most)
REFITTED = (30, 6, 1500)  # whose posterior is refitted
ANNEALED = (10, 60, 120)  # of these, by annealing
SIMULATED = (5, 200, 50)  # drawn from the model, for the certificate
INTEGRATED = (300, 1, 2500)  # whose ln p(b) is integrated
ENCODED = (100, 1, 500)  # for the encoder's own bound
SAMPLES = 20  # of a refitted posterior
TEMPERATURES = (80, 240)  # of annealing: the first that is enough
SMALL = 1000  # test images below which a quarter of them is: so few images leave a larger error
ENOUGH = 0.05  # nats of bias that few chains leave, half the variance of their log-mean-exp

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Mean:
    """An estimate and its standard error: of bounds nats, averaged over the test set."""

    value: float
    error: float


@dataclass(frozen=True)
class LogPx:
    """Hold ln p(b) and what lies between it and the ELBO, averages over test images."""

    log_px: Mean
    ess: float | None  # effective chains of annealing; none where it is integrated
    temperatures: int  # of annealing
    amortisation_gap: Mean  # ELBO of the refitted posterior less that of the encoder's


@dataclass(frozen=True)
class EncoderBound:
    """Hold the encoder's own importance-weighted bound and its effective samples, averages over images."""

    bound: Mean
    ess: float


def log_px(
    pixels: BinaryPixels, start: Posteriors, images: Tensor, elbo: Tensor, generator: torch.Generator
) -> LogPx:
    """Estimate ln p(b) of black or white images [N, D], whose posteriors and ELBOs [N] the encoder gave."""
    prior, everything = pixels.model.prior, Mean(float(elbo.mean()), 0.0)
    index = subset(images, REFITTED)
    cheap, chosen, encoded = elbo[index], images[index], part_of(start, index)
    q = refit(pixels, prior, encoded, chosen, generator)
    weights = log_weights(pixels, prior, q, chosen, SAMPLES, generator).to(elbo.dtype)
    gap = _mean(weights.mean(0) - cheap)
    if pixels.model.latent <= MOST_LATENTS:
        index = subset(images, INTEGRATED)
        exact, error = quadrature(pixels, images[index], *_corners(pixels, start, q))
        noise = torch.full_like(exact, error**2)
        return LogPx(
            corrected(everything, elbo[index], exact.to(elbo.dtype), noise, len(images)), None, 0, gap
        )
    refitted = importance_weighted_bound(weights)
    whole = corrected(everything, cheap, refitted, _spread(weights), len(images))
    few = slice(0, share(len(images), ANNEALED))
    for temperatures in TEMPERATURES if len(images) >= SMALL else (t // 4 for t in TEMPERATURES):
        chains = annealed(pixels, prior, part_of(q, few), chosen[few], generator, temperatures).to(elbo.dtype)
        if float(_spread(chains).mean()) / 2 < ENOUGH:
            break
    exact = importance_weighted_bound(chains)
    value = corrected(whole, refitted[few], exact, _spread(chains), len(index))
    return LogPx(value, _effective(chains), temperatures, gap)


def encoder_bound(
    pixels: BinaryPixels, start: Posteriors, images: Tensor, elbo: Tensor, k: int, generator: torch.Generator
) -> EncoderBound:
    """Estimate the importance-weighted bound with K samples of the encoder's q (Burda et al. 2016, eq. 8)."""
    index = subset(images, ENCODED)
    weights = log_weights(pixels, pixels.model.prior, part_of(start, index), images[index], k, generator)
    weights = weights.to(elbo.dtype)
    bound = importance_weighted_bound(weights)
    mean = corrected(Mean(float(elbo.mean()), 0.0), elbo[index], bound, _spread(weights), len(images))
    return EncoderBound(mean, _effective(weights))


def certificate(
    pixels: BinaryPixels, count: int, temperatures: int, generator: torch.Generator
) -> float | None:
    """Bound what annealing of `count` test images may miss: the gap of bidirectional Monte Carlo, nats.

    An image that the model itself drew comes with an exact sample of its posterior. Annealing from there back
    bounds ln p(b) from above, annealing forwards from below (Grosse et al. 2015). None where ln p(b) is
    integrated.
    """
    model = pixels.model
    if model.latent <= MOST_LATENTS:
        return None
    device = generator.device
    noise = torch.randn(share(count, SIMULATED), model.latent, generator=generator, device=device)
    with torch.no_grad():
        z = model.prior.sample(noise)
        white = torch.sigmoid(pixels.logits(z))
        images = (torch.rand(white.shape, generator=generator, device=device) < white).float()
        start = encode(model, images)
    q = refit(pixels, model.prior, start, images, generator)
    below, above = (
        annealed(pixels, model.prior, q, images, generator, temperatures, exact).to(wide(device))
        for exact in (None, z)
    )
    return float((-importance_weighted_bound(-above) - importance_weighted_bound(below)).mean())


def subset(images: Tensor, size: Size) -> Tensor:
    """Choose test images, the same in every run, and the first of them for a smaller subset: indices [n]."""
    order = torch.randperm(len(images), generator=stream(0, "subset"))
    return order[: share(len(images), size)].to(images.device)


def share(count: int, size: Size) -> int:
    """Say how many of `count` images are taken."""
    least, one_of, most = size
    return min(count, most, max(least, count // one_of))


def corrected(whole: Mean, cheap: Tensor, dear: Tensor, noise: Tensor, count: int) -> Mean:
    """Average a dear quantity over N = `count` images of which only n have it, by a cheap one that all have.

    The regression estimator of survey sampling (Cochran 1977, section 7.3): `whole` is the average of the
    cheap quantity over all N; `cheap`, `dear` and the variance that sampling left in the dear one are of the
    n images, [n].
    """
    n = len(dear)
    moments = torch.stack([cheap, dear]).cov() if n > 2 else torch.ones(2, 2)
    slope = float(moments[0, 1] / moments[0, 0]) if moments[0, 0] > 0 else 1.0
    rest = dear - slope * cheap
    sampled = float(rest.var()) / n * (1 - n / count) if n > 1 else math.nan
    error = math.sqrt(sampled + float(noise.mean()) / n + (slope * whole.error) ** 2)
    return Mean(float(rest.mean()) + slope * whole.value, error)


def _mean(values: Tensor) -> Mean:
    """Average the values of all images that count; the error is that of a sample of images."""
    return Mean(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def _spread(weights: Tensor) -> Tensor:
    """Give the variance of each image's log-mean-exp of log-weights [K, N], by the delta method: [N]."""
    share = (weights - importance_weighted_bound(weights)).exp()
    return share.var(0) / len(weights) if len(weights) > 1 else torch.full_like(share[0], math.nan)


def _effective(weights: Tensor) -> float:
    """Average the effective sample size of log-weights [K, N] over images (Kong 1992)."""
    return float((1 / torch.softmax(weights, 0).square().sum(0)).mean())


@torch.no_grad()
def _corners(pixels: BinaryPixels, *posteriors: Posteriors) -> tuple[Tensor, Tensor]:
    """Give a box [Z], [Z] that holds the prior and every posterior, to six standard deviations."""
    noise = torch.randn(10_000, pixels.model.latent, generator=stream(0, "prior"))
    ends = [pixels.model.prior.sample(noise.to(posteriors[0].mean.device))]
    ends += [q.mean + side * q.scale for q in posteriors for side in (-6, 6)]
    return torch.cat(ends).amin(0), torch.cat(ends).amax(0)
