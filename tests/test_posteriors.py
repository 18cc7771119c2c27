"""Posteriors are the distributions that they say, and their KL is the one that Monte Carlo finds."""

from __future__ import annotations

import math

import pytest
import torch
from factory import normal
from torch.distributions import Normal, kl_divergence

from bench.parts.posteriors import POSTERIORS, Q, gaussian, gaussian_raw_sigma
from bench.parts.priors import StandardNormal

PRIOR = StandardNormal()


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def heads(images: int = 5, latent: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """What an encoder might give."""
    return normal(images, latent, seed=1), 0.8 * normal(images, latent, seed=2)


def as_torch(q: Q) -> Normal:
    """The same distribution by torch."""
    return Normal(q.mean, q.scale)


@pytest.mark.parametrize("name", POSTERIORS)
def test_density_kl_and_samples_are_those_of_one_gaussian(name: str) -> None:
    q = POSTERIORS[name](*heads())
    assert q.mean.shape == q.scale.shape == q.kl().shape == q.charged_kl.shape == (5, 3)
    assert (q.scale > 0).all()
    torch.testing.assert_close(q.log_scale, q.scale.log())
    noise = normal(7, 5, 3)
    z = q.sample(noise)
    torch.testing.assert_close(z, q.mean + q.scale * noise)
    torch.testing.assert_close(q.log_prob(z), as_torch(q).log_prob(z).sum(-1))
    torch.testing.assert_close(PRIOR.log_prob(z), Normal(0, 1).log_prob(z).sum(-1))
    prior = Normal(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(q.kl(), kl_divergence(as_torch(q), prior))
    assert (q.kl() >= 0).all()


def test_heads_mean_what_their_names_say() -> None:
    mean, second = heads()
    scales = {
        "gaussian": (second / 2).exp(), "gaussian-log-sigma": second.exp(),
        "gaussian-softplus": (1 + second.exp()).log(), "gaussian-raw-sigma": second**2,
    }  # fmt: skip
    assert scales.keys() == POSTERIORS.keys()
    for name, scale in scales.items():
        q = POSTERIORS[name](mean, second)
        torch.testing.assert_close(q.scale, scale)
        torch.testing.assert_close(q.log_prob_each(normal(5, 3)), as_torch(q).log_prob(normal(5, 3)))
        if name != "gaussian-raw-sigma":  # document 000 charges another's
            torch.testing.assert_close(q.charged_kl, q.kl())


@pytest.mark.parametrize("name", POSTERIORS)
def test_closed_form_kl_is_the_monte_carlo_kl(name: str) -> None:
    q = POSTERIORS[name](*heads())
    z = q.sample(normal(20_000, 5, 3))
    estimates = q.log_prob(z) - PRIOR.log_prob(z)  # [K, B]
    error = estimates.std(0) / math.sqrt(len(z))
    assert ((estimates.mean(0) - q.kl().sum(-1)).abs() < 4 * error).all()


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_of_the_charged_kl(name: str) -> None:
    mean, second = (head.requires_grad_() for head in heads())
    assert torch.autograd.gradcheck(lambda m, s: POSTERIORS[name](m, s).charged_kl, (mean, second))


def test_the_kl_vanishes_at_the_prior_alone() -> None:
    zero = torch.zeros(2, 3)
    at_prior = gaussian(zero, zero)
    assert at_prior.kl().abs().max() == at_prior.charged_kl.abs().max() == 0
    assert gaussian_raw_sigma(zero, zero - 1).charged_kl.abs().max() < 1e-15  # σ = −1 is as good as 1


def test_gaussian_charges_its_own_kl() -> None:
    q = gaussian(*heads())
    torch.testing.assert_close(q.charged_kl, q.kl())


def test_raw_sigma_charges_one_kl_and_owes_another() -> None:
    """Document 000 draws z with scale σ², and charges the KL of scale σ."""
    mu, sigma = heads()
    assert (sigma < 0).any()
    q = gaussian_raw_sigma(mu, sigma)
    torch.testing.assert_close(q.scale, sigma**2)
    eps = 1e-20
    charged = 0.5 * torch.sum(mu.pow(2) + sigma.pow(2) - torch.log(sigma.pow(2) + eps) - 1)
    torch.testing.assert_close(q.charged_kl.sum(), charged)
    honest = 0.5 * torch.sum(mu**2 + sigma**4 - torch.log(sigma**4) - 1)
    torch.testing.assert_close(q.kl().sum(), honest)
    assert (q.charged_kl >= 0).all()
    assert not torch.allclose(q.kl(), q.charged_kl)
