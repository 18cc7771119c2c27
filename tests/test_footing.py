"""The common footing: calibration finds what is known, bounds are bounds, errors are as large as they say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from factory import PIXELS, a_vae, bytes_of, normal, random
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from bench.evaluation.footing import DEQUANTISATION, Calibration, Elbos, bits_per_dim, calibrate, thresholded
from bench.evaluation.footing import elbos as elbos_of
from bench.evaluation.posteriors import encode
from bench.parts.posteriors import Q
from bench.parts.vae import VAE

LATENT = 3
CALIBRATION = Calibration(0.8, -0.3, 1.4, 0.2, variance=0.08)


def elbos(model: VAE, q: Q, images: Tensor, noise: Tensor, calibration: Calibration) -> Elbos:
    """Score images whose binarisation is their thresholded pixels."""
    return elbos_of(model, q, images, thresholded(images), noise, calibration)


def saying(mean: Tensor) -> VAE:
    """A model without information in z (KL 0) whose decoder says `mean` [D] whatever it is given."""
    model = a_vae(pixels=len(mean))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.decoder.output.bias.copy_(torch.logit(mean))
    return model


def test_calibration_finds_what_made_the_images() -> None:
    mean, temperature, bias = torch.linspace(0.02, 0.98, PIXELS), 0.6, -0.4
    images = (random(6000, PIXELS) < torch.sigmoid(temperature * torch.logit(mean) + bias)).byte() * 255
    found = calibrate(saying(mean), images, normal(6000, LATENT))
    assert found.temperature == pytest.approx(temperature, abs=0.03)
    assert found.bias == pytest.approx(bias, abs=0.03)
    assert (found.temperature_threshold, found.bias_threshold) == (found.temperature, found.bias)
    mse = float(((images / 255 - mean) ** 2).mean())
    assert found.variance == pytest.approx(mse + DEQUANTISATION, rel=1e-5)
    mean, sigma = torch.linspace(0.3, 0.7, PIXELS), 0.05
    images = ((mean + sigma * normal(6000, PIXELS)) * 255).round().to(torch.uint8)
    found = calibrate(saying(mean), images, normal(6000, LATENT))
    # Rounded to bytes, before the noise that dequantises: both add the same variance
    assert found.variance == pytest.approx(sigma**2 + 2 * DEQUANTISATION, rel=0.02)


def test_calibration_is_the_best_for_its_noise() -> None:
    model, images, noise = a_vae(), bytes_of(101, PIXELS), normal(101, LATENT)
    best = calibrate(model, images, noise)
    q = encode(model, images)
    at_best = elbos(model, q, images, noise[None], best)
    for name, value in vars(best).items():
        for factor in (0.8, 1.25):
            scored = elbos(model, q, images, noise[None], replace(best, **{name: value * factor}))
            assert scored.elbo_bernoulli <= at_best.elbo_bernoulli + 1e-5
            assert scored.elbo_threshold <= at_best.elbo_threshold + 1e-5
            assert scored.gaussian_bits_per_dim >= at_best.gaussian_bits_per_dim - 1e-7


def test_calibration_stays_finite_for_a_decoder_that_is_right_or_sure_and_wrong() -> None:
    mean = torch.tensor([0.0, 1.0] * 6 + [0.0])
    right = (mean * 255).byte().repeat(37, 1)
    for images, best in ((right, 0.0), (255 - right, -PIXELS * math.log(2))):
        model = saying(mean.clamp(1e-7, 1 - 1e-7))
        found = calibrate(model, images, normal(37, LATENT))
        scored = elbos(model, encode(model, images), images, normal(2, 37, LATENT), found)
        assert best - 1e-3 <= scored.elbo_bernoulli <= best + 0.05
        assert math.isfinite(scored.gaussian_bits_per_dim)


@torch.no_grad()
def test_the_footing_against_torchs_distributions() -> None:
    model, images, noise = a_vae(), bytes_of(41, PIXELS), normal(5, 41, LATENT)
    q, grey, c = encode(model, images), images.double() / 255, CALIBRATION
    mean = model.grey_mean(model.decode(q.sample(noise))).double()  # [5, 41, 13]
    kl = q.kl().sum(-1).double().mean()
    on = TorchBernoulli(logits=c.temperature * torch.logit(mean) + c.bias)
    black_or_white = TorchBernoulli(logits=c.temperature_threshold * torch.logit(mean) + c.bias_threshold)
    threshold = black_or_white.log_prob((grey > 0.5).double())
    bernoulli = grey * on.log_prob(torch.ones(())) + (1 - grey) * on.log_prob(torch.zeros(()))
    gaussian = Normal(mean, math.sqrt(c.variance)).log_prob(grey) - DEQUANTISATION / (2 * c.variance)
    scored = elbos(model, q, images, noise, c)
    assert scored.elbo_bernoulli == pytest.approx(float(bernoulli.sum(-1).mean() - kl), rel=1e-5)
    assert scored.elbo_threshold == pytest.approx(float(threshold.sum(-1).mean() - kl), rel=1e-5)
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
    scored = elbos(
        model, encode(model, images), images, normal(2, 7, LATENT), Calibration(1, 0, 1, 0, variance)
    )
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
    assert scored.errors["gaussian_bits_per_dim"] == pytest.approx(0, abs=1e-6)


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


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, noise = a_vae(), bytes_of(41, PIXELS), normal(5, 41, LATENT)
    results = []
    for rows in (10_000, 256, 33, 1):
        monkeypatch.setattr("bench.evaluation.footing.ROWS", rows)
        q = encode(model, images, chunk=rows)
        found = calibrate(model, images, noise[0])
        scored = elbos(model, q, images, noise, CALIBRATION)
        results.append([*vars(found).values(), scored.elbo_bernoulli, scored.elbo_threshold, scored.mse])
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-3, abs=1e-3)


def test_standard_errors_are_as_large_as_they_say() -> None:
    """The spread over 150 evaluations against the one that each reports, for every estimate."""
    model, images = a_vae(), bytes_of(17, PIXELS)
    q = encode(model, images)
    scores = [elbos(model, q, images, normal(9, 17, LATENT, seed=seed), CALIBRATION) for seed in range(150)]
    for name in scores[0].errors:
        values = torch.tensor([getattr(s, name) for s in scores], dtype=torch.float64)
        told = sum(s.errors[name] for s in scores) / len(scores)
        assert 0.8 < told / float(values.std()) < 1.25
    single = elbos(model, q, images, normal(1, 17, LATENT), CALIBRATION)
    assert all(math.isnan(error) for error in single.errors.values()), "one sample says nothing of its error"
