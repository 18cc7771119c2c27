"""The common footing: calibration finds what is known, bounds are bounds, errors are as large as they say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from factory import PIXELS, a_vae, bytes_of, normal, random
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from bench.evaluation.footing import (
    DEQUANTISATION,
    Calibration,
    Elbos,
    LogPx,
    bits_per_dim,
    calibrate,
    elbos,
    log_px,
)
from bench.evaluation.measure import encode
from bench.parts.posteriors import Q
from bench.parts.priors import StandardNormal
from bench.parts.vae import VAE

LATENT = 3
CALIBRATION = Calibration(epsilon=0.03, variance=0.08)


def saying(mean: Tensor) -> VAE:
    """A model without information in z (KL 0) whose decoder says `mean` [D] whatever it is given."""
    model = a_vae(pixels=len(mean))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.decoder.output.bias.copy_(torch.logit(mean))
    return model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_calibration_finds_the_scalar_that_made_the_images() -> None:
    mean, epsilon = torch.linspace(0.02, 0.98, PIXELS), 0.07
    images = (random(6000, PIXELS) < epsilon + (1 - 2 * epsilon) * mean).byte() * 255
    found = calibrate(saying(mean), images, normal(6000, LATENT))
    assert found.epsilon == pytest.approx(epsilon, abs=0.006)
    mse = float(((images / 255 - mean) ** 2).mean())
    assert found.variance == pytest.approx(mse + DEQUANTISATION, rel=1e-5)
    mean, sigma = torch.linspace(0.3, 0.7, PIXELS), 0.05
    images = ((mean + sigma * normal(6000, PIXELS)) * 255).round().to(torch.uint8)
    found = calibrate(saying(mean), images, normal(6000, LATENT))
    # Rounded to bytes, before the noise that dequantises: both add the same variance
    assert found.variance == pytest.approx(sigma**2 + 2 * DEQUANTISATION, rel=0.02)


def test_calibration_is_the_best_scalar_for_its_noise() -> None:
    model, images, noise = a_vae(), bytes_of(101, PIXELS), normal(101, LATENT)
    best = calibrate(model, images, noise)
    q = encode(model, images)

    def scores(epsilon: float, variance: float) -> Elbos:
        return elbos(model, q, images, noise[None], Calibration(epsilon, variance))

    at_best = scores(best.epsilon, best.variance)
    for factor in (0.8, 0.97, 1.03, 1.25):
        other = scores(min(best.epsilon * factor, 0.49), best.variance * factor)
        assert other.gaussian_bits_per_dim > at_best.gaussian_bits_per_dim
        assert other.elbo_bernoulli <= at_best.elbo_bernoulli + 1e-5


def test_calibration_stays_finite_for_a_decoder_that_is_right_or_sure_and_wrong() -> None:
    mean = torch.tensor([0.0, 1.0] * 6 + [0.0])
    right = (mean * 255).byte().repeat(37, 1)
    for images, low, high in ((right, 1e-5, 2e-5), (255 - right, 0.49, 0.5)):
        model = saying(mean.clamp(1e-7, 1 - 1e-7))
        found = calibrate(model, images, normal(37, LATENT))
        assert low * 0.99 <= found.epsilon <= high
        score = elbos(model, encode(model, images), images, normal(2, 37, LATENT), found)
        assert math.isfinite(score.elbo_bernoulli)
        assert math.isfinite(score.gaussian_bits_per_dim)


@torch.no_grad()
def test_the_footing_against_torchs_distributions() -> None:
    model, images, noise = a_vae(), bytes_of(41, PIXELS), normal(5, 41, LATENT)
    q, grey, c = encode(model, images), images.double() / 255, CALIBRATION
    mean = model.grey_mean(model.decode(q.sample(noise))).double()  # [5, 41, 13]
    kl = q.kl().sum(-1).double().mean()
    on = TorchBernoulli(c.epsilon + (1 - 2 * c.epsilon) * mean)
    bernoulli = grey * on.log_prob(torch.ones(())) + (1 - grey) * on.log_prob(torch.zeros(()))
    gaussian = Normal(mean, math.sqrt(c.variance)).log_prob(grey) - DEQUANTISATION / (2 * c.variance)
    scored = elbos(model, q, images, noise, c)
    assert scored.elbo_bernoulli == pytest.approx(float(bernoulli.sum(-1).mean() - kl), rel=1e-5)
    nats = float(gaussian.sum(-1).mean() - kl)
    assert scored.gaussian_bits_per_dim == pytest.approx(
        -nats / (PIXELS * math.log(2)) + math.log2(255), rel=1e-5
    )
    assert scored.mse == pytest.approx(float(((grey - mean) ** 2).mean()), rel=1e-5)


def test_dequantisation_in_closed_form_is_the_mean_over_the_cell() -> None:
    """Images plus uniform noise over a grey level's cell, scored by a density, on average."""
    mean = torch.linspace(0.3, 0.7, PIXELS, dtype=torch.float64)
    images, variance = bytes_of(7, PIXELS), 0.002
    cell = ((torch.arange(400) + 0.5) / 400 - 0.5).double() / 255
    x = images.double().unsqueeze(-1) / 255 + cell
    density = Normal(mean.unsqueeze(-1), math.sqrt(variance)).log_prob(x).mean(-1).sum(-1)
    model = saying(mean.float())
    scored = elbos(model, encode(model, images), images, normal(2, 7, LATENT), Calibration(0.1, variance))
    assert scored.gaussian_bits_per_dim == pytest.approx(
        bits_per_dim(-float(density.mean()), PIXELS), rel=1e-5
    )


def test_bits_per_dimension_by_hand() -> None:
    """A uniform density on [0, 1] costs log₂ 255 bits; each nat a pixel costs 1/ln 2 more."""
    assert bits_per_dim(0.0, 784) == pytest.approx(7.994353436858858)
    assert bits_per_dim(784.0, 784) == pytest.approx(7.994353436858858 + 1.4426950408889634)
    mean = torch.full((PIXELS,), 0.4)  # 102/255
    images = torch.full((5, PIXELS), 102, dtype=torch.uint8)
    scored = elbos(saying(mean), encode(saying(mean), images), images, normal(2, 5, LATENT), CALIBRATION)
    nats = 0.5 * math.log(2 * math.pi * 0.08) + 1 / (12 * 255**2) / (2 * 0.08)
    assert scored.gaussian_bits_per_dim == pytest.approx(nats / math.log(2) + math.log2(255), rel=1e-6)
    assert scored.mse == pytest.approx(0, abs=1e-12)
    assert scored.error_gaussian == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_the_grey_score_is_the_mean_over_binarisations() -> None:
    pixels = 5
    model, image, noise = a_vae(pixels=pixels), bytes_of(1, pixels), normal(3, 1, LATENT)
    q, x = encode(model, image), image.double()[0] / 255
    total = 0.0
    for b in itertools.product([0.0, 1.0], repeat=pixels):
        binary = torch.tensor([b], dtype=torch.float64)
        weight = float((binary * x + (1 - binary) * (1 - x)).prod())
        total += weight * elbos(model, q, (binary * 255).byte(), noise, CALIBRATION).elbo_bernoulli
    assert elbos(model, q, image, noise, CALIBRATION).elbo_bernoulli == pytest.approx(total, rel=1e-5)


def test_a_silent_decoder_costs_ln_2_a_pixel() -> None:
    model, images = saying(torch.full((784,), 0.5)), bytes_of(5)
    q = encode(model, images)
    scored = elbos(model, q, images, normal(2, 5, LATENT), CALIBRATION)
    assert scored.elbo_bernoulli == pytest.approx(-784 * math.log(2), rel=1e-6)
    binary = (images > 99).float()
    weighted = log_px(model, q, images, 7, CALIBRATION, generator(0), binary)
    assert weighted.bernoulli == pytest.approx(-784 * math.log(2), rel=1e-6)
    assert weighted.gaussian == pytest.approx(
        scored.gaussian_bits_per_dim, rel=1e-6
    )  # the posterior is the prior


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, noise = a_vae(), bytes_of(41, PIXELS), normal(5, 41, LATENT)
    results = []
    for rows in (10_000, 256, 33, 1):
        monkeypatch.setattr("bench.evaluation.footing.ROWS", rows)
        q = encode(model, images, chunk=rows)
        found = calibrate(model, images, noise[0])
        results.append(vars(found) | vars(elbos(model, q, images, noise, CALIBRATION)))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-4)


@torch.no_grad()
def test_the_importance_weighted_bound_against_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one chunk the generator's noise is [K, N, Z], so the bound can be written out."""
    monkeypatch.setattr("bench.evaluation.footing.ROWS", 10_000)
    model, images, k, c = a_vae(), bytes_of(11, PIXELS), 17, CALIBRATION
    q = encode(model, images)
    binary = random(11, PIXELS) < images / 255
    made = log_px(model, q, images, k, c, generator(5), binary)
    z = q.sample(torch.randn(k, 11, LATENT, generator=generator(5))).double()
    mean = model.grey_mean(model.decode(z.float())).double()
    double = Q(*(v.double() for v in (q.mean, q.scale, q.log_scale, q.charged_kl)))
    ratio = StandardNormal().log_prob(z) - double.log_prob(z)
    on = TorchBernoulli(c.epsilon + (1 - 2 * c.epsilon) * mean).log_prob(binary.double()).sum(-1)
    gaussian = Normal(mean, math.sqrt(c.variance)).log_prob(images.double() / 255)
    gaussian = (gaussian - DEQUANTISATION / (2 * c.variance)).sum(-1)
    bounds = [float((ratio + score).exp().mean(0).log().mean()) for score in (on, gaussian)]
    assert made.bernoulli == pytest.approx(bounds[0], rel=1e-5)
    assert made.gaussian == pytest.approx(bits_per_dim(-bounds[1], PIXELS), rel=1e-5)


def test_bounds_grow_from_the_elbo_with_k() -> None:
    """In expectation: each step up may fall short by no more than four of its standard errors."""
    model, images = a_vae(), bytes_of(53, PIXELS)
    with torch.no_grad():
        model.encoder.second.bias -= 3.0  # far from the true posterior, so that there is something to gain
        model.decoder.output.weight *= 9
    q = encode(model, images)
    binary = random(53, PIXELS) < images / 255
    as_bytes = binary.byte() * 255
    elbo = elbos(model, q, as_bytes, normal(400, 53, LATENT), CALIBRATION)
    grey = elbos(model, q, images, normal(400, 53, LATENT), CALIBRATION)

    def bounds(k: int, seed: int = 0) -> LogPx:
        return log_px(model, q, images, k, CALIBRATION, generator(seed), binary.float())

    single = [bounds(1, seed) for seed in range(100)]  # K = 1 is the ELBO
    for name, target, error in (
        ("bernoulli", elbo.elbo_bernoulli, elbo.error_bernoulli),
        ("gaussian", grey.gaussian_bits_per_dim, grey.error_gaussian),
    ):
        values = torch.tensor([getattr(s, name) for s in single])
        assert abs(float(values.mean()) - target) < 4 * math.hypot(float(values.std()) / 10, error)
    last = (elbo.elbo_bernoulli, -grey.gaussian_bits_per_dim, elbo.error_bernoulli, grey.error_gaussian)
    for k in (5, 50, 500):
        found = bounds(k)
        assert found.bernoulli > last[0] - 4 * math.hypot(found.error_bernoulli, last[2])
        assert -found.gaussian > last[1] - 4 * math.hypot(found.error_gaussian, last[3])
        last = (found.bernoulli, -found.gaussian, found.error_bernoulli, found.error_gaussian)
    assert last[0] > elbo.elbo_bernoulli + 0.1
    assert -last[1] < grey.gaussian_bits_per_dim - 0.01


def test_standard_errors_are_as_large_as_they_say() -> None:
    """The spread over 150 evaluations against the one that each reports, for every estimate."""
    model, images = a_vae(), bytes_of(17, PIXELS)
    q, binary = encode(model, images), (bytes_of(17, PIXELS, seed=3) > 127).float()
    rows = []
    for seed in range(150):
        elbo = elbos(model, q, images, normal(9, 17, LATENT, seed=seed), CALIBRATION)
        weighted = log_px(model, q, images, 30, CALIBRATION, generator(seed), binary)
        scores = (elbo.elbo_bernoulli, elbo.gaussian_bits_per_dim, weighted.bernoulli, weighted.gaussian)
        errors = [e for each in (elbo, weighted) for e in (each.error_bernoulli, each.error_gaussian)]
        rows.append([*zip(scores, errors, strict=True)])
    values, told = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    ratio = told.mean(0) / values.std(0)
    assert ((ratio > 0.8) & (ratio < 1.25)).all(), ratio


def test_one_sample_says_nothing_of_its_error() -> None:
    model, images = a_vae(), bytes_of(5, PIXELS)
    q = encode(model, images)
    single = elbos(model, q, images, normal(1, 5, LATENT), CALIBRATION)
    weighted = log_px(model, q, images, 1, CALIBRATION, generator(0), images > 99)
    for score in (single, weighted):
        assert math.isnan(score.error_bernoulli)
        assert math.isnan(score.error_gaussian)
