"""The latent space's metrics on mixtures whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from factory import normal
from scipy.integrate import quad
from scipy.special import gamma, hyp1f1
from scipy.stats import norm
from torch import Tensor

from bench.evaluation.latent import (
    active_units,
    aggregate_moments,
    gaussian_divergence,
    knn_accuracy,
    linear_probe_accuracy,
    mmd,
    mutual_information,
)
from bench.parts.posteriors import Q, gaussian
from bench.parts.priors import StandardNormal


def posteriors(mean: Tensor, scale: Tensor | float) -> Q:
    """N(mean, scale²)."""
    return gaussian(mean, 2 * torch.as_tensor(scale).log().expand_as(mean))


def information(q: Q, seed: int = 0) -> float:
    """With one sample of each posterior."""
    return mutual_information(q, q.sample(normal(*q.mean.shape, seed=seed)))


def test_posteriors_that_never_overlap_tell_the_image() -> None:
    q = posteriors(torch.arange(37.0).unsqueeze(1).repeat(1, 3) * 10, 0.01)
    assert information(q) == pytest.approx(math.log(37), abs=1e-9)


def test_equal_posteriors_tell_nothing() -> None:
    q = posteriors(torch.tensor([[0.3, -0.7, 2.0]]).repeat(37, 1), 0.4)
    assert information(q) == pytest.approx(0, abs=1e-9)
    assert active_units(q) == 0


def test_two_overlapping_components_by_quadrature() -> None:
    """Half of the posteriors are N(a, s²), half N(b, s²): which half is all there is to tell."""
    a, b, s, count = -0.4, 0.9, 0.5, 6000
    mean = torch.tensor([a, b]).repeat(count // 2).unsqueeze(1)
    q = posteriors(mean, s)

    def mixture(z: float) -> float:
        return float(0.5 * norm.pdf(z, a, s) + 0.5 * norm.pdf(z, b, s))

    entropy = quad(lambda z: -mixture(z) * math.log(mixture(z)), -6, 6)[0]
    exact = entropy - 0.5 * math.log(2 * math.pi * math.e * s**2)
    found = information(q)
    assert found == pytest.approx(exact, abs=0.02)
    drift = quad(lambda z: mixture(z) * (math.log(mixture(z)) - norm.logpdf(z)), -6, 6)[0]
    assert float(q.kl().mean()) - found == pytest.approx(drift, abs=0.02)


def test_information_is_kl_less_aggregate_kl_sampled_apart() -> None:
    q = gaussian(normal(1201, 3, seed=1), normal(1201, 3, seed=2) - 1)
    z = q.sample(normal(1201, 3, seed=3)).double()
    table = torch.distributions.Normal(q.mean.double(), q.scale.double()).log_prob(z.unsqueeze(1)).sum(-1)
    aggregate = (torch.logsumexp(table, 1) - math.log(1201) - StandardNormal().log_prob(z)).mean()
    found = float(q.kl().sum(1).mean()) - information(q, seed=3)
    assert found == pytest.approx(float(aggregate), abs=0.15)  # two estimators, one of them noisier
    exact = (table.diagonal() - torch.logsumexp(table, 1)).mean() + math.log(1201)
    assert information(q, seed=3) == pytest.approx(float(exact), abs=1e-9)


def test_blocks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q = gaussian(normal(37, 3, seed=1), normal(37, 3, seed=2))
    whole = information(q)
    for rows in (36, 7, 1):
        monkeypatch.setattr("bench.evaluation.latent.ROWS", rows)
        assert information(q) == pytest.approx(whole, abs=1e-12)


def test_information_holds_for_narrow_posteriors_far_from_the_origin() -> None:
    """Squares of thousands cancel here: single precision would lose every digit."""
    q = posteriors(1000 + torch.arange(37.0).unsqueeze(1) * 0.001, 1e-3)
    near = posteriors(torch.arange(37.0).unsqueeze(1), 1.0)
    assert information(q) == pytest.approx(information(near), abs=0.1)


def test_active_units_are_those_whose_mean_varies() -> None:
    spread = torch.tensor([0.0, 0.05, 0.2, 2.0])  # standard deviations of the means: two above √0.01
    q = posteriors(normal(501, 4) * spread, torch.tensor([1.0, 0.9, 0.5, 0.1]))
    assert active_units(q) == 2
    assert active_units(posteriors(normal(1, 4), 1.0)) == 0  # one image has no variance


# Drift from the prior


def test_moments_of_the_mixture_are_those_of_its_samples() -> None:
    q = posteriors(normal(4001, 3, seed=1) * torch.tensor([0.1, 1.0, 3.0]) + 2, torch.tensor([0.9, 0.5, 0.1]))
    z = torch.cat([q.sample(normal(4001, 3, seed=s)) for s in range(2, 22)]).double()
    mean, covariance = aggregate_moments(q)
    assert mean.tolist() == pytest.approx(z.mean(0).tolist(), abs=0.03)
    assert covariance.flatten().tolist() == pytest.approx(z.T.cov().flatten().tolist(), abs=0.03)


def test_divergence_of_a_gaussian_is_that_of_torch_and_a_lower_bound_on_the_drift() -> None:
    mixing = normal(3, 3, seed=1).double()
    mean, covariance = normal(3, seed=2).double(), mixing @ mixing.T + 0.1 * torch.eye(3)
    own = torch.distributions.MultivariateNormal(mean, covariance)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    exact = torch.distributions.kl_divergence(own, prior)
    assert gaussian_divergence(mean, covariance) == pytest.approx(float(exact))
    assert gaussian_divergence(torch.zeros(3), torch.eye(3)) == 0
    # Two far components have the moments of one wide Gaussian, and are further from the prior than it is
    q = posteriors(torch.tensor([-3.0, 3.0]).repeat(1000).unsqueeze(1), 0.1)
    bound = gaussian_divergence(*aggregate_moments(q))
    assert 0 < bound < float(q.kl().mean()) - information(q) <= float(q.kl().mean())


def mean_distance(shift: float, variance: float, latents: int) -> float:
    """E‖N(m, variance·I)‖ with ‖m‖ = shift, the mean of a scaled noncentral χ with Z degrees of freedom."""
    half = latents / 2
    factor = math.sqrt(2 * variance) * gamma(half + 0.5) / gamma(half)
    return float(factor * hyp1f1(-0.5, half, -(shift**2) / (2 * variance)))


@pytest.mark.parametrize(("latents", "shift"), [(1, 0.0), (2, 0.7), (20, 0.0), (20, 3.0), (40, 100.0)])
def test_mmd_of_shifted_gaussians_in_closed_form(latents: int, shift: float) -> None:
    """Without bias: 0 for equal distributions; and without an upper limit."""
    exact = 2 * (mean_distance(shift, 2, latents) - mean_distance(0, 2, latents)) / math.sqrt(latents)
    pairs = [(normal(300, latents, seed=s), normal(300, latents, seed=s + 50)) for s in range(40)]
    for a, _ in pairs:
        a[:, 0] += shift
    found = [mmd(a, b) for a, b in pairs]
    values = np.array([drift.value for drift in found])
    assert abs(values.mean() - exact) < 3 * values.std(ddof=1) / math.sqrt(len(values))
    if shift:
        assert np.mean([drift.error for drift in found]) == pytest.approx(values.std(ddof=1), rel=0.4)


def test_probes_read_what_is_there_and_nothing_else() -> None:
    labels = torch.arange(300) % 3
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    clear = centres[labels] + normal(300, 2)
    rng = np.random.default_rng(0)
    shuffled = torch.from_numpy(rng.permutation(labels.numpy()))
    for probe in (linear_probe_accuracy, knn_accuracy):
        assert probe(clear[:200], labels[:200], clear[200:], labels[200:]) == 1
        assert probe(clear[:200], shuffled[:200], clear[200:], shuffled[200:]) < 0.6
    # Two rings: neighbours see them, a line does not
    angle, ring = torch.linspace(0, 300, 300), torch.arange(300) % 2
    rings = (1.0 + ring).unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
    assert knn_accuracy(rings[:200], ring[:200], rings[200:], ring[200:]) > 0.95
    assert linear_probe_accuracy(rings[:200], ring[:200], rings[200:], ring[200:]) < 0.75
