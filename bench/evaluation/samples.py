"""Samples judged in the features of one small classifier, which bench trains once for each data set.

Absolute values depend on that network, so the report shows a floor and a ceiling beside them.
Shapes: N real and M generated images, D pixels, F features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from bench.data.datasets import Dataset, cache_dir
from bench.engine.device import initialised, stream

FEATURES = 64
SMALLEST = 16  # pixels a side that the two convolutions and poolings need
VERSION = 1  # of the classifier's design and training: part of its cache's name
NEIGHBOURHOOD = 5000  # images a side whose neighbours are searched: 25 million distances
Features = NDArray[np.float64]


@dataclass(frozen=True)
class SampleScores:
    """Say how close generated images are to the test images, as METRICS describes it."""

    frechet_distance: float
    precision: float
    recall: float
    coverage: float


class FeatureNet(nn.Module):
    """A convolutional classifier of images [H, W]; its last hidden layer is the feature space.

    Images smaller than SMALLEST pixels a side are padded with black on their right and below.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        height, width = self.sides = [max(side, SMALLEST) for side in shape]
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * _pooled(height) * _pooled(width), FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, grey: Tensor) -> Tensor:
        """Give class logits [N, classes] of grey images [N, D] in [0, 1]."""
        return self.head(self._hidden(grey))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, grey: Tensor) -> Features:
        """Give the features [N, F] of grey images [N, D], in chunks."""
        return torch.cat([self._hidden(x) for x in grey.split(1000)]).cpu().double().numpy()

    def _hidden(self, grey: Tensor) -> Tensor:
        (height, width), (rows, columns) = self.shape, self.sides
        images = pad(grey.view(-1, 1, height, width), (0, columns - width, 0, rows - height))
        return self.body(images)  # type: ignore[no-any-return]

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Give the share of uint8 images [N, D] whose label it names."""
        hits = sum(
            int((self(x.float() / 255).argmax(1) == y).sum().item())
            for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
        return hits / len(images)


def classifier(data: Dataset, cache: Path | None = None) -> tuple[FeatureNet, float, str]:
    """Give the data set's classifier, its test accuracy and the digest of its weights.

    It is trained on the CPU unless it is in the cache.
    """
    path = (cache or cache_dir()) / f"features-{data.digest[:16]}-v{VERSION}.safetensors"
    net = FeatureNet(data.shape, data.classes)
    try:
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):  # absent, cut short, or of another design: train it anew
        net = _train(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file(net.state_dict(), part)
        part.replace(path)
    net.eval()
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in net.state_dict().values())).hexdigest()
    return net, net.accuracy(data.test_images.flatten(1), data.test_labels), digest[:16]


def _pooled(side: int) -> int:
    """Give how many pixels remain of a side after both convolutions and poolings."""
    return ((side - 4) // 2 - 4) // 2


def _train(data: Dataset, batch: int = 128) -> FeatureNet:
    """Train by Adam with the one-cycle schedule (Smith 2018), for at least 400 steps and three epochs."""
    images, labels = data.train_images.flatten(1), data.train_labels
    steps = -(-len(images) // batch)
    epochs = max(3, -(-400 // steps))
    with initialised(0):
        net = FeatureNet(data.shape, data.classes)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=stream(0, "classifier", epoch)).split(batch):
            loss = cross_entropy(net(images[index].float() / 255), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@dataclass(frozen=True)
class Reference:
    """Hold the classifier and what it makes of the test images, which generated images are held against."""

    net: FeatureNet
    features: Features  # [N, F]
    radius_3: NDArray[np.float64]  # [N'], distance to the third neighbour, of the first NEIGHBOURHOOD images
    radius_5: NDArray[np.float64]

    @classmethod
    def of(cls, net: FeatureNet, grey: Tensor) -> Reference:
        """Search the neighbourhoods of grey images [N, D] in the classifier's features."""
        features = net.features(grey)
        distances = np.sort(pairwise_distances(features[:NEIGHBOURHOOD]), axis=1)[:, :6]
        return cls(net, features, distances[:, 3], distances[:, 5])  # column 0 is the image itself

    def score(self, grey: Tensor) -> SampleScores:
        """Score generated grey images [M, D] against these."""
        generated = self.net.features(grey)
        real, fake = self.features[:NEIGHBOURHOOD], generated[:NEIGHBOURHOOD]
        across = pairwise_distances(real, fake)  # [N', M']
        own = np.partition(pairwise_distances(fake), 3, axis=1)[:, 3]
        return SampleScores(
            frechet_distance=frechet_distance(self.features, generated),
            precision=float((across <= self.radius_3[:, None]).any(0).mean()),
            recall=float((across <= own[None, :]).any(1).mean()),
            coverage=float((across.min(1) <= self.radius_5).mean()),
        )


def frechet_distance(a: Features, b: Features) -> float:
    """Give ‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of features [N, F] and [M, F] (Heusel et al. 2017)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (Σ_a Σ_b)^½ is the sum of the roots of the product's eigenvalues: real, not negative
    root = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def yardstick(data: Dataset, reference: Reference) -> dict[str, SampleScores]:
    """Score training images (the floor) and samples of the pixel-mean model (a ceiling)."""
    count = len(data.test_images)
    train = data.train_images.flatten(1).float() / 255
    pick = torch.randperm(len(train), generator=stream(0, "floor"))[:count]
    noise = torch.rand(count, train.shape[1], generator=stream(0, "ceiling"))
    return {
        "floor": reference.score(train[pick]),
        "ceiling": reference.score((noise < train.mean(0)).float()),
    }
