"""Baselines against closed forms: the same numbers by another road."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from bench.data.dataset import Dataset
from bench.evaluation.baselines import baselines, pca_mse, pixel_mean, ppca_bits

N, M, D = 211, 97, 11  # training images, test images, pixels: distinct, so that no transposed axis passes


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Grey images of correlated pixels, in whole grey levels."""
    rng = np.random.default_rng(0)
    mixed = 0.5 + 0.12 * rng.normal(size=(N + M, D)) @ rng.normal(size=(D, D)) / 2
    grey = np.round(mixed.clip(0, 1) * 255) / 255
    return grey[:N], grey[N:]


@pytest.fixture(scope="module")
def pca(images: tuple[np.ndarray, np.ndarray]) -> PCA:
    return PCA(svd_solver="covariance_eigh").fit(images[0])


def bits(log_density: float, pixels: int = D) -> float:
    """Bits per dimension of a log-density of D pixels in [0, 1]."""
    return -log_density / (pixels * math.log(2)) + math.log2(255)


@pytest.mark.parametrize("q", [0, 1, 4, 10])
def test_probabilistic_pca_is_tipping_and_bishops(
    q: int, images: tuple[np.ndarray, np.ndarray], pca: PCA
) -> None:
    """C = W Wᵀ + σ²I with W = U_q (Λ_q − σ²I)^½, σ² the mean of the discarded eigenvalues (eqs. 3, 7, 8)."""
    train, test = images
    cell = np.eye(D) / (12 * 255**2)
    values, vectors = np.linalg.eigh(np.cov(train.T) + cell)
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[q:].mean()
    weights = vectors[:, :q] * np.sqrt(values[:q] - noise)
    model = multivariate_normal(train.mean(0), weights @ weights.T + noise * np.eye(D))
    expected = model.logpdf(test).mean() - 0.5 * np.trace(np.linalg.inv(model.cov) @ cell)
    assert ppca_bits(pca, test, q) == pytest.approx(bits(expected), rel=1e-9)


def test_more_components_never_fit_the_training_images_worse(
    images: tuple[np.ndarray, np.ndarray], pca: PCA
) -> None:
    errors = [pca_mse(pca, images[0], q) for q in range(D + 1)]
    codes = [ppca_bits(pca, images[0], q) for q in range(D)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(0, abs=1e-20)
    assert codes == sorted(codes, reverse=True)


def test_the_error_of_pca_is_that_of_its_clamped_reconstruction(
    images: tuple[np.ndarray, np.ndarray], pca: PCA
) -> None:
    train, test = images
    model = PCA(3).fit(train)
    expected = (test - model.inverse_transform(model.transform(test)).clip(0, 1)) ** 2
    assert pca_mse(pca, test, 3) == pytest.approx(expected.mean(), rel=1e-9)


def test_the_pixel_mean_is_the_expectation_over_binarisations_and_dequantisations(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    train, test = images
    found = pixel_mean(train, test)
    rng = np.random.default_rng(2)
    draws = np.tile(test, (2000, 1))
    binary = rng.random(draws.shape) < draws
    epsilon, mean = 1 / (N + 2), train.mean(0)
    on = epsilon + (1 - 2 * epsilon) * mean
    nats = np.where(binary, np.log(on), np.log(1 - on)).sum(1).mean()
    assert found["elbo_bernoulli"] == pytest.approx(nats, rel=1e-3)
    cells = draws + rng.uniform(-1, 1, draws.shape) / 510
    variance = train.var(0).mean() + 1 / (12 * 255**2)
    density = multivariate_normal(mean, variance * np.eye(D)).logpdf(cells).mean()
    assert found["gaussian_bits_per_dim"] == pytest.approx(bits(density), abs=1e-3)
    assert found["mse"] == pytest.approx(((test - mean) ** 2).mean())


def test_a_test_pixel_that_is_black_in_training_costs_finitely_many_nats() -> None:
    black = np.zeros((N, D))
    found = pixel_mean(black, np.ones((M, D)))
    assert found["elbo_bernoulli"] == pytest.approx(D * math.log(1 / (N + 2)))
    assert math.isfinite(found["gaussian_bits_per_dim"])


def test_every_latent_size_has_its_rows_and_impossible_ones_a_reason() -> None:
    def noise(count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(count)
        return torch.randint(0, 256, (count, 3, 5), generator=generator, dtype=torch.uint8)

    nothing = torch.zeros(0)
    data = Dataset("noise", noise(101), nothing, noise(57), nothing, "digest", "here")
    found = baselines(data, [4, 2, 15, 2])
    names = [f"{name}, {latent} latents" for latent in (2, 4) for name in ("PCA", "probabilistic PCA")]
    assert [row["name"] for row in found["rows"]] == [*names, "pixel mean"]
    assert found["skipped"] == [{"latent": 15, "reason": "the training set supports fewer than 15 latents"}]
    mean = found["rows"][-1]
    assert mean["elbo_bernoulli"] < 15 * math.log(0.6)  # a bound on ln p of noise: near 15·ln ½, never above
    assert 8 < mean["gaussian_bits_per_dim"] < 9  # a uniform pixel has 8 bits, and a Gaussian wastes some
    assert all(math.isfinite(v) for row in found["rows"] for v in row.values() if not isinstance(v, str))
