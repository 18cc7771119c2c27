"""ln p(b): integrals agree, annealing comes near them, each bound lies below the next, errors are honest."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from factory import PIXELS, a_vae, normal, random
from scipy.integrate import quad
from torch import Tensor

from bench.evaluation import bound
from bench.evaluation.annealing import annealed
from bench.evaluation.bound import Mean, corrected, encoder_bound, log_px
from bench.evaluation.footing import BinaryPixels
from bench.evaluation.posteriors import part_of
from bench.evaluation.quadrature import quadrature
from bench.evaluation.refit import log_weights, refit
from bench.parts.bounds import importance_weighted_bound
from bench.parts.posteriors import Q
from bench.parts.priors import Mixture

COUNT = 37


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sharp(latent: int) -> BinaryPixels:
    """A decoder whose posterior is no Gaussian, and an encoder that knows nothing of it."""
    model = a_vae(latent=latent).eval()
    with torch.no_grad():
        model.decoder.output.weight *= 12
        model.encoder.second.bias -= 1.0
    return BinaryPixels(model, 0.9, 0.1)


def images(pixels: BinaryPixels) -> Tensor:
    """Black or white images that the decoder may have drawn, [COUNT, D]."""
    white = torch.sigmoid(pixels.logits(normal(COUNT, pixels.model.latent, seed=7)))
    return (random(COUNT, PIXELS, seed=8) < white).float().detach()


def encoded(pixels: BinaryPixels, b: Tensor) -> tuple[Q, Tensor]:
    """The encoder's posteriors, and the ELBOs that they give."""
    with torch.no_grad():
        start = cast(Q, pixels.model.encode(b))
    return start, log_weights(pixels, pixels.model.prior, start, b, 200, generator(3)).double().mean(0)


def test_quadrature_agrees_with_scipys() -> None:
    pixels = sharp(1)
    b = images(pixels)
    found, error = quadrature(pixels, b, torch.tensor([-6.0]), torch.tensor([6.0]))

    def joint(z: float, image: Tensor) -> float:
        at = torch.tensor([[[z]]])
        return math.exp(float(pixels(at, image[None]) + pixels.model.prior.log_prob(at)))

    with torch.no_grad():
        due = [math.log(quad(joint, -6, 6, args=(image,), epsabs=0, epsrel=1e-5)[0]) for image in b[:4]]
    assert found[:4].tolist() == pytest.approx(due, abs=1e-3)
    assert error < 0.01


def test_each_bound_is_nearer_to_the_integral() -> None:
    """ELBO ≤ importance-weighted bound ≤ annealed bound ≤ ln p ≤ annealed back from exact samples."""
    pixels = sharp(2)
    prior, b = pixels.model.prior, images(pixels)
    low, high = torch.full((2,), -7.0), torch.full((2,), 7.0)
    exact = quadrature(pixels, b, low, high)[0]
    start, elbo = encoded(pixels, b)
    weights = log_weights(pixels, prior, start, b, 50, generator(1)).double()
    weighted = importance_weighted_bound(weights)
    q = refit(pixels, prior, start, b, generator())
    refitted = log_weights(pixels, prior, q, b, 50, generator(2)).double().mean(0)
    below = importance_weighted_bound(annealed(pixels, prior, q, b, generator(4), 100)).double()
    ladder = [float(x.mean()) for x in (elbo, weighted, below, exact)]
    assert ladder == sorted(ladder)
    assert float(elbo.mean()) + 0.3 < float(refitted.mean()) < float(exact.mean())
    assert float((exact - below).mean()) < 0.1
    gap = bound.certificate(pixels, COUNT, 100, generator(5))
    assert gap is None, "integrated: nothing to certify"
    # Rejection sampling gives exact samples: the prior, kept with probability p(b|z) / max p(b|z)
    draws = normal(200_000, 2, seed=9)
    image = b[:1]
    with torch.no_grad():
        likelihood = pixels(draws[:, None], image)[:, 0]
    kept = draws[random(200_000, seed=10).log() < likelihood - likelihood.max()][:40]
    assert len(kept) == 40
    many = part_of(q, torch.zeros(40, dtype=torch.int64))
    back = annealed(pixels, prior, many, image.expand(40, -1), generator(6), 100, kept).double()
    above = -importance_weighted_bound(-back.flatten())
    assert float(above) == pytest.approx(float(exact[0]), abs=0.15)


@pytest.mark.parametrize(("latent", "learned"), [(1, False), (2, True), (3, False), (3, True)])
def test_the_estimate_of_ln_p_is_within_its_error_of_an_exhaustive_one(
    latent: int, learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REFITTED", "ANNEALED", "SIMULATED"):
        monkeypatch.setattr(bound, name, (30, 1, 1000))
    pixels = sharp(latent)
    if learned:
        prior = pixels.model.prior = Mixture(latent, components=3)
        with torch.no_grad():
            prior.means.copy_(1.5 * normal(3, latent, seed=12))
            prior.log_scales.copy_(0.4 * normal(3, latent, seed=13))
    b = images(pixels)
    start, elbo = encoded(pixels, b)
    found = log_px(pixels, start, b, elbo, generator())
    with torch.no_grad():
        draws = pixels.model.prior.sample(normal(100_000, latent, seed=11))
        exact = torch.stack(
            [importance_weighted_bound(pixels(draws[:, None], image[None]).double())[0] for image in b]
        )
    assert abs(found.log_px.value - float(exact.mean())) < 4 * found.log_px.error + 0.02
    assert found.log_px.error < 0.1
    assert found.amortisation_gap.value > 0
    weighted = encoder_bound(pixels, start, b, elbo, 50, generator(1))
    assert float(elbo.mean()) < weighted.bound.value < found.log_px.value + 4 * found.log_px.error
    assert 1 <= weighted.ess <= 50
    gap = bound.certificate(pixels, COUNT, 50, generator(2))
    assert gap is None if latent < 3 else -0.05 < gap < (0.3 if learned else 0.1), gap  # modes apart


def test_a_cheap_bound_of_all_images_corrects_the_mean_of_a_subset() -> None:
    """Over 400 draws of a subset the estimate has no bias, and an error that is as large as it says."""
    count, n = 500, 40
    cheap = 30 * normal(count).double()
    dear = 0.9 * cheap + 5 + normal(count, seed=1).double()
    whole = Mean(float(cheap.mean()), 0.0)
    found = []
    for seed in range(400):
        index = torch.randperm(count, generator=generator(seed))[:n]
        found.append(corrected(whole, cheap[index], dear[index], torch.zeros(n), count))
    values = torch.tensor([f.value for f in found])
    told = sum(f.error for f in found) / len(found)
    assert abs(float(values.mean()) - float(dear.mean())) < 4 * float(values.std()) / 20
    assert 0.85 < told / float(values.std()) < 1.15
    linear = corrected(whole, cheap[:n], 2 * cheap[:n] + 1, torch.zeros(n), count)
    assert linear.value == pytest.approx(2 * whole.value + 1)
    assert linear.error == pytest.approx(0, abs=1e-6)
