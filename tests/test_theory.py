"""A linear VAE with one variance is probabilistic PCA: its best ELBO is a log-likelihood in closed form.

Tipping & Bishop 1999 (eqs. 7 and 8 the optimum, eq. 6 the posterior); Lucas et al. 2019 (the ELBO's optimum
is the same). scikit-learn's `PCA.score` is the log-likelihood of images; `ppca_bits` that of images plus
uniform noise over a grey level's cell.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from factory import a_run, a_vae, normal, part, train_one
from sklearn.decomposition import PCA
from torch import Tensor

from bench.engine.images import Images
from bench.engine.own import own_terms
from bench.evaluation.annealing import annealed
from bench.evaluation.baselines import ppca_bits
from bench.evaluation.footing import Elbos, calibrate, elbos, thresholded
from bench.evaluation.posteriors import encode
from bench.evaluation.refit import log_weights, refit
from bench.parts.bounds import importance_weighted_bound
from bench.parts.likelihoods import Gaussian, LearnedGaussian
from bench.parts.objectives import Elbo
from bench.parts.pixels import Normalised
from bench.parts.posteriors import gaussian
from bench.parts.priors import StandardNormal
from bench.parts.protocols import Likelihood
from bench.parts.vae import VAE

COUNT, PIXELS, LATENT, HIDDEN = 701, 13, 3, (11,)

STD = 0.1  # of pixels, near enough: it brings the encoder's input to unit size

# Points z = μ ± √Z·σ·e_i, whose mean is the exact expectation of a polynomial of degree 3 or less
SIGMA_POINTS = torch.cat([torch.eye(LATENT), -torch.eye(LATENT)]).unsqueeze(1) * math.sqrt(LATENT)


def images() -> Tensor:
    """Bytes of linear-Gaussian images, all inside (0, 255)."""
    loading = 0.065 * normal(LATENT, PIXELS, seed=1) * torch.tensor([[1.0], [0.7], [0.5]])
    grey = 0.5 + normal(COUNT, LATENT, seed=2) @ loading + 0.035 * normal(COUNT, PIXELS, seed=3)
    return (grey.clamp(0, 1) * 255).round().to(torch.uint8)


DATA = images()
GREY = DATA.numpy() / 255
PCA_ = PCA(n_components=LATENT).fit(GREY)
FULL = PCA().fit(GREY)
LOG_LIKELIHOOD = float(PCA_.score(GREY))


def linear_vae(likelihood: Likelihood) -> VAE:
    """Without non-linearity anywhere."""
    return a_vae(
        likelihood=likelihood,
        activation="identity",
        pixels=PIXELS,
        latent=LATENT,
        hidden=HIDDEN,
        input_pixels=Normalised(mean=0.5, std=STD),
    )


@torch.no_grad()
def at_the_optimum(likelihood: Likelihood) -> VAE:
    """W = U(Λ − σ²)^½; q(z|x) = N(M⁻¹Wᵀ(x − μ), σ²M⁻¹) with M = WᵀW + σ²I = Λ."""
    model = linear_vae(likelihood)
    for p in (*model.encoder.parameters(), *model.decoder.parameters()):
        p.zero_()
    values, noise = PCA_.explained_variance_, PCA_.noise_variance_
    w = PCA_.components_.T * np.sqrt(values - noise)  # [D, Z]
    inverse = torch.tensor(w.T / values[:, None], dtype=torch.float32)  # [Z, D]
    first = model.encoder.trunk[0]
    first.weight[:LATENT] = STD * inverse
    first.bias[:LATENT] = inverse @ torch.tensor(0.5 - PCA_.mean_, dtype=torch.float32)
    model.encoder.mean.weight[:, :LATENT] = torch.eye(LATENT)
    model.encoder.second.bias.copy_(torch.tensor(np.log(noise / values)))
    model.decoder.trunk[0].weight[:LATENT] = torch.eye(LATENT)
    model.decoder.output.weight[:, :LATENT] = torch.tensor(w, dtype=torch.float32)
    model.decoder.output.bias.copy_(torch.tensor(PCA_.mean_))
    return model


def exact_elbo(model: VAE, objective: Elbo) -> float:
    """The ELBO in own terms without Monte Carlo error: squared error is a quadratic of z."""
    noises = SIGMA_POINTS.expand(-1, COUNT, -1)
    return float(np.mean([own_terms(model, objective, DATA, noise[None], COUNT).elbo for noise in noises]))


def on_the_footing(model: VAE) -> Elbos:
    """The code length, calibrated on the images themselves, as scikit-learn is fitted to them."""
    calibration = calibrate(model, DATA, normal(COUNT, LATENT, seed=4))
    q = encode(model, DATA)
    noise = SIGMA_POINTS.expand(-1, COUNT, -1)
    return elbos(model, q, DATA, thresholded(DATA), noise, calibration)


@pytest.mark.parametrize(
    ("likelihood", "beta"),
    [
        (LearnedGaussian(variance=PCA_.noise_variance_, mean="linear"), 1.0),
        (Gaussian(variance=PCA_.noise_variance_, mean="linear"), 1.0),
        # squared error plus β·KL with β = 2σ² is the same model
        (Gaussian(variance=0.5, mean="linear"), 2 * PCA_.noise_variance_),
    ],
    ids=["learned", "fixed", "squared error"],
)
def test_the_elbo_at_the_optimum_is_the_log_likelihood(likelihood: Likelihood, beta: float) -> None:
    model = at_the_optimum(likelihood)
    assert exact_elbo(model, Elbo(beta=beta)) == pytest.approx(LOG_LIKELIHOOD, rel=1e-4)


def test_the_footing_at_the_optimum_is_probabilistic_pcas_code_length() -> None:
    bits = ppca_bits(FULL, GREY, LATENT)
    bound = on_the_footing(at_the_optimum(Gaussian(variance=0.5, mean="linear")))
    assert bound.gaussian_bits_per_dim == pytest.approx(bits, abs=2e-3)


def score(z: Tensor, images: Tensor) -> Tensor:
    """ln p(x|z) of the optimal linear decoder, in closed form: [K, B]."""
    w = torch.tensor(PCA_.components_.T * np.sqrt(PCA_.explained_variance_ - PCA_.noise_variance_))
    mean = z.double() @ w.T + torch.tensor(PCA_.mean_)
    noise = float(PCA_.noise_variance_)
    return -0.5 * ((images - mean).square().sum(-1) / noise + PIXELS * math.log(2 * math.pi * noise))


def test_annealing_from_a_wrong_posterior_comes_to_the_log_likelihood_from_both_sides() -> None:
    images, prior = torch.tensor(GREY[:60]), StandardNormal()
    wrong = gaussian(torch.zeros(60, LATENT).double(), torch.zeros(60, LATENT).double() - 2)
    exact = float(PCA_.score_samples(GREY[:60]).mean())
    generator = torch.Generator().manual_seed(0)
    fitted = refit(score, prior, wrong, images, generator)
    # The mean-field optimum: the posterior's mean, and the conditional scale of each latent
    m = torch.tensor(PCA_.explained_variance_ / PCA_.noise_variance_)
    w = torch.tensor(PCA_.components_.T * np.sqrt(PCA_.explained_variance_ - PCA_.noise_variance_))
    mean = (images - torch.tensor(PCA_.mean_)) @ w / torch.tensor(PCA_.explained_variance_)
    assert float((fitted.mean - mean).abs().max()) < 0.1
    assert float((fitted.log_scale + 0.5 * torch.log(m)).abs().mean()) < 0.2
    weights = log_weights(score, prior, fitted, images, 50, generator)
    assert float(weights.mean()) == pytest.approx(exact, abs=0.2)
    lower = importance_weighted_bound(annealed(score, prior, wrong, images, generator, 200))
    assert float(lower.mean()) == pytest.approx(exact, abs=0.15)
    z = mean + torch.tensor(PCA_.noise_variance_ / PCA_.explained_variance_).sqrt() * normal(60, LATENT)
    upper = -importance_weighted_bound(-annealed(score, prior, wrong, images, generator, 200, z))
    assert float(upper.mean()) == pytest.approx(exact, abs=0.15)
    assert float((upper - lower).mean()) > -0.1


def test_training_approaches_the_log_likelihood_from_below() -> None:
    run = a_run(
        latent=LATENT,
        likelihood=part("gaussian-learned", mean="linear"),
        optimizer=part("adam", lr=0.01),
        schedule=part("step", every=40, gamma=0.2),
        batch_size=51,
        epochs=80,
    )
    model = linear_vae(LearnedGaussian(variance=0.001, mean="linear"))
    untrained = exact_elbo(model, Elbo())
    train_one(run, model, Images(DATA, DATA[:7]))
    elbo, bits = exact_elbo(model, Elbo()), ppca_bits(FULL, GREY, LATENT)
    assert untrained < 0.5 * LOG_LIKELIHOOD
    assert 0.99 * LOG_LIKELIHOOD < elbo < LOG_LIKELIHOOD + 1e-3
    assert bits - 1e-3 < on_the_footing(model).gaussian_bits_per_dim < 1.01 * bits
