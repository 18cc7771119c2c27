"""Baselines without a neural network: PCA, probabilistic PCA and the pixel mean, rows beside the variants.

Shapes: N images, D pixels; x grey in [0, 1]. The units are those of the common footing: nats per image for
the Bernoulli score, bits per dimension of uniformly dequantised 8-bit pixels for the Gaussian one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.decomposition import PCA

from bench.data.dataset import Dataset
from bench.evaluation.footing import DEQUANTISATION, bits_per_dim, gaussian_score

Array = NDArray[np.float64]
MOST_PIXELS = 4096  # of an image, all channels: the time of a PCA grows with the cube


def baselines(dataset: Dataset, latents: Iterable[int]) -> dict[str, Any]:
    """Measure the baselines: {"rows": [{"name", "latent", metric: value, ...}], "skipped": [...]}.

    PCA has `mse`, its reconstructions clamped to [0, 1]; probabilistic PCA has `gaussian_bits_per_dim`, exact
    where a VAE has a bound; the pixel mean, a VAE without latents, has `mse`, `elbo_bernoulli` and
    `gaussian_bits_per_dim`. All are fitted on the training images and measured on the test images. A latent
    size that the training set cannot support (min(N, D) and more) is in `skipped` with the reason, and so are
    all where D is above MOST_PIXELS.
    """
    train, test = (x.cpu().flatten(1).numpy() / 255 for x in (dataset.train_images, dataset.test_images))
    limit, pixels = min(train.shape), train.shape[1]
    rows: list[dict[str, Any]] = []
    skipped = []
    if pixels > MOST_PIXELS:
        skipped = [{"latent": size, "reason": f"PCA of {pixels} values"} for size in sorted(set(latents))]
        latents = ()
    else:  # one fit: a smaller model keeps its first components
        pca = PCA(svd_solver="covariance_eigh" if limit == pixels else "full").fit(train)
    for size in sorted(set(latents)):
        if size >= limit:
            skipped.append(
                {"latent": size, "reason": f"the training set supports fewer than {limit} latents"}
            )
            continue
        bits = ppca_bits(pca, test, size)
        rows += [
            {"name": f"PCA, {size} latents", "latent": size, "mse": pca_mse(pca, test, size)},
            {"name": f"probabilistic PCA, {size} latents", "latent": size, "gaussian_bits_per_dim": bits},
        ]
    rows.append({"name": "pixel mean", "latent": 0, **pixel_mean(train, test)})
    return {"rows": rows, "skipped": skipped}


def pca_mse(pca: PCA, images: Array, components: int) -> float:
    """Give the squared error per pixel of reconstructing images [N, D] from the first components, clamped."""
    basis = pca.components_[:components]
    reconstruction = (images - pca.mean_) @ basis.T @ basis + pca.mean_
    return float(((images - reconstruction.clip(0, 1)) ** 2).mean())


def ppca_bits(pca: PCA, images: Array, components: int) -> float:
    """Give the code length of 8-bit images [N, D] under probabilistic PCA, bits per dimension.

    The model is N(mean, W Wᵀ + σ²I) by maximum likelihood (Tipping & Bishop 1999, eqs. 3, 7 and 8). Its score
    is averaged over x + u, u uniform on a grey level's cell, in closed form: u adds its variance to every
    eigenvalue of the covariance that is fitted, and −½·Var(u)·tr(C⁻¹) to the score of the images.
    """
    model = copy.copy(pca)
    pixels = images.shape[1]
    kept, rest = np.split(pca.explained_variance_, [components])
    model.n_components_, model.components_ = components, pca.components_[:components]
    model.explained_variance_ = kept + DEQUANTISATION
    model.noise_variance_ = rest.sum() / (pixels - components) + DEQUANTISATION
    nats = model.score(images) - 0.5 * DEQUANTISATION * np.trace(model.get_precision())
    return bits_per_dim(-float(nats), pixels)


def pixel_mean(train: Array, test: Array) -> dict[str, float]:
    """Measure the model that answers every image with the mean of the training images [N, D].

    Its ε is 1/(N + 2), Laplace's rule of succession. Fitted on the training images ε would be 0, and a test
    pixel that is black in all of them would cost infinitely many nats.
    """
    count, pixels = train.shape
    mean = train.mean(0)
    on = (count * mean + 1) / (count + 2)  # = ε + (1 − 2ε)·mean
    # E x² − (E x)² by a dot product, because a centred copy of MNIST is 400 MB
    variance = float(np.vdot(train, train) / train.size - np.vdot(mean, mean) / pixels) + DEQUANTISATION
    mse = float(((test - mean) ** 2).mean())
    return {
        "mse": mse,
        "elbo_bernoulli": float((xlogy(test, on) + xlogy(1 - test, 1 - on)).sum(1).mean()),
        "gaussian_bits_per_dim": bits_per_dim(-gaussian_score(mse * pixels, pixels, variance), pixels),
    }
